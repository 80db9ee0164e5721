/* Whatever bytes come in, the engine answers, closes, or dies as upstream would; it never does
 * anything that a sanitizer objects to, nor talks to a connection that is closed. */
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

enum { ROUNDS = 20000, FRAME_MAX = 2048 };

static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* A frame that means something. */
static size_t make_frame(struct peer *peer, uint8_t *frame)
{
	static const uint8_t data[2 * RIG_BLOCK_SIZE];
	enum crucible_message_type type = random_next() % CRUCIBLE_MESSAGE_TYPES;
	uint64_t dependency = random_next() % 16;
	struct crucible_message message = job(peer, type, random_next() % 16, NULL);
	struct crucible_block_context contexts[2] = { { 0 } };
	contexts[0].hash = contexts[1].hash = image_data_hash(data, RIG_BLOCK_SIZE);
	message.dependencies = (struct crucible_u64s){ &dependency, random_next() % 8 == 0 };
	if (type == CRUCIBLE_HERE_I_AM) {
		message.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
		message.here_i_am.session = peer->session;
	} else if (type == CRUCIBLE_PROMOTE_TO_ACTIVE) {
		message.session = peer->session;
	} else if (type == CRUCIBLE_WRITE || type == CRUCIBLE_WRITE_UNWRITTEN) {
		message.write.start = random_next() % (RIG_EXTENTS * RIG_EXTENT_SIZE);
		message.write.contexts.items = contexts;
		message.write.contexts.count = random_next() % 3;
		message.write.data.bytes = data;
		message.write.data.length = message.write.contexts.count * RIG_BLOCK_SIZE;
	} else if (type == CRUCIBLE_READ_REQUEST) {
		message.read_request.start = random_next() % (RIG_EXTENTS * RIG_EXTENT_SIZE);
		message.read_request.count = random_next() % 3;
	} else if (type == CRUCIBLE_FLUSH) {
		message.flush.flush_number = random_next() % 100;
	} else if (type >= CRUCIBLE_EXTENT_LIVE_CLOSE && type <= CRUCIBLE_EXTENT_LIVE_REOPEN) {
		message.live_extent.extent_id = random_next() % RIG_EXTENTS;
	} else if (type >= CRUCIBLE_EXTENT_CLOSE && type <= CRUCIBLE_EXTENT_REPAIR) {
		message.extent.extent_id = random_next() % RIG_EXTENTS;
	} else if (type == CRUCIBLE_YES_ITS_ME || type > CRUCIBLE_WRITE_UNWRITTEN ||
			   type == CRUCIBLE_READ_RESPONSE) {
		message.type = CRUCIBLE_RUOK;
	}
	return (size_t)crucible_encode(&message, frame, FRAME_MAX);
}

static size_t spoil(uint8_t *frame, size_t size)
{
	static const uint8_t values[] = { 0, 1, 2, 3, 8, 16, 127, 128, 255 };
	unsigned changes = random_next() % 3 == 0 ? 1 + random_next() % 3 : 0;
	for (unsigned i = 0; i < changes; i++)
		frame[4 + random_next() % (size - 4)] = values[random_next() % sizeof values];
	if (random_next() % 32 == 0)
		size = 4 + random_next() % (size - 3);
	if (random_next() % 32 == 0)
		size += random_next() % 8;
	put_le32(frame, (uint32_t)size);
	return size;
}

static void any_bytes_are_survived(void **state)
{
	(void)state;
	static uint8_t frame[FRAME_MAX + 8];
	struct rig rig;
	unsigned deaths = 0, closed = 0, fetched = 0;
	random_state = 12345;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	for (unsigned round = 0; round < ROUNDS; round++) {
		peer_send_bytes(peer, frame, spoil(frame, make_frame(peer, frame)));
		if (downstairs_state(rig.downstairs) == DOWNSTAIRS_FETCHING) {
			fetched++;
			downstairs_fetched(rig.downstairs, NULL, 0, "no");
		}
		bool is_dead = downstairs_state(rig.downstairs) != DOWNSTAIRS_RUNNING;
		deaths += is_dead;
		closed += !peer->connection;
		if (is_dead || round % 100 == 99) {
			rig_restart(&rig);
			peer = rig_running(&rig);
		} else if (!peer->connection) {
			peer = random_next() % 4 == 0 ? rig_connect(&rig, 1, 1, 1) : rig_running(&rig);
		}
	}
	assert_in_range(deaths, ROUNDS / 100, ROUNDS / 2);
	assert_in_range(closed, ROUNDS / 100, ROUNDS / 2);
	assert_in_range(fetched, 1, ROUNDS / 2);
	rig_kill(&rig);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_bytes_are_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
