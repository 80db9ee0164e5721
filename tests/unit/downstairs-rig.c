/* downstairs-rig.c: see downstairs-rig.h. */
#include "downstairs-rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

struct received {
	struct received *next;
	size_t size;
	uint8_t frame[];
};

/* What the engine calls */

static void on_send(void *context, void *peer_pointer, const void *head, size_t head_size,
	const void *data, size_t data_size)
{
	struct peer *peer = peer_pointer;
	(void)context;
	assert_non_null(peer->connection);
	struct received *received = calloc(1, sizeof *received + head_size + data_size);
	received->size = head_size + data_size;
	memcpy(received->frame, head, head_size);
	if (data_size > 0)
		memcpy(received->frame + head_size, data, data_size);
	if (peer->last)
		peer->last->next = received;
	else
		peer->first = received;
	peer->last = received;
}

static void on_close(void *context, void *peer)
{
	(void)context;
	((struct peer *)peer)->connection = NULL;
}

static void on_fetch(void *context, const struct crucible_address *source, uint32_t extent_id)
{
	struct rig *rig = context;
	rig->fetch_asked = true;
	rig->fetch_source = *source;
	rig->fetch_extent = extent_id;
}

static void on_died(void *context, const char *reason)
{
	((struct rig *)context)->died = reason;
}

static bool on_job(void *context, const struct crucible_message *message)
{
	struct rig *rig = context;
	(void)message;
	if (rig->test_errors == 0)
		return false;
	rig->test_errors--;
	return true;
}

static const struct downstairs_callbacks callbacks = {
	.send = on_send, .close = on_close, .fetch = on_fetch, .died = on_died, .test_error = on_job
};

static int on_step(void *context, enum disk_step step, uint32_t extent_id)
{
	struct rig *rig = context;
	(void)extent_id;
	rig->steps[step]++;
	if (rig->fail_with == 0 || step != rig->fail_step || rig->fail_count == 0)
		return 0;
	if (rig->fail_at > 0) {
		rig->fail_at--;
		return 0;
	}
	rig->fail_count--;
	return rig->fail_with;
}

/* The process */

static void open_region(struct rig *rig, const struct downstairs_options *options, bool encrypted)
{
	struct crucible_region region = {
		.block_size = RIG_BLOCK_SIZE,
		.block_shift = 9,
		.extent_size = RIG_EXTENT_SIZE,
		.extent_count = RIG_EXTENTS,
		.uuid = { { 7, 7, 7 } },
		.encrypted = encrypted,
		.database_read_version = 1,
		.database_write_version = 1,
	};
	*rig = (struct rig){ .disk = disk_new(&region) };
	if (options)
		rig->options = *options;
	rig->options.callbacks = &callbacks;
	rig->options.context = rig;
	disk_set_hook(rig->disk, on_step, rig);
	rig_start(rig);
}

void rig_open(struct rig *rig, const struct downstairs_options *options)
{
	open_region(rig, options, false);
}

void rig_open_encrypted(struct rig *rig)
{
	open_region(rig, NULL, true);
}

bool rig_try_start(struct rig *rig, struct crucible_error *error)
{
	rig->died = NULL;
	rig->downstairs = downstairs_start(rig->disk, &rig->options, error);
	return rig->downstairs;
}

void rig_start(struct rig *rig)
{
	struct crucible_error error;
	assert_true(rig_try_start(rig, &error));
}

static void free_peers(struct rig *rig, bool must_be_empty)
{
	while (rig->peers) {
		struct peer *peer = rig->peers;
		rig->peers = peer->next;
		if (must_be_empty)
			expect_nothing(peer);
		while (peer->first) {
			struct received *received = peer->first;
			peer->first = received->next;
			free(received);
		}
		free(peer);
	}
}

void rig_kill(struct rig *rig)
{
	downstairs_kill(rig->downstairs);
	rig->downstairs = NULL;
	free_peers(rig, false);
}

void rig_restart(struct rig *rig)
{
	rig_kill(rig);
	rig_start(rig);
}

void rig_close(struct rig *rig)
{
	free_peers(rig, true);
	if (rig->downstairs)
		downstairs_kill(rig->downstairs);
	disk_free(rig->disk);
}

/* Peers. A frame that was taken stays first, marked by size 0, until the next call. */

struct peer *rig_connect(struct rig *rig, uint8_t upstairs, uint8_t session, uint64_t generation)
{
	struct peer *peer = calloc(1, sizeof *peer);
	peer->rig = rig;
	peer->next = rig->peers;
	rig->peers = peer;
	peer->session = (struct crucible_session){
		.upstairs_id = { { upstairs } }, .session_id = { { session } }, .generation = generation
	};
	peer->connection = downstairs_connected(rig->downstairs, peer);
	return peer;
}

void peer_close(struct peer *peer)
{
	struct downstairs_connection *connection = peer->connection;
	peer->connection = NULL;
	downstairs_closed(connection);
}

void peer_send_bytes(struct peer *peer, const void *frame, size_t size)
{
	assert_non_null(peer->connection);
	/* of its exact size, so that reading beyond it shows */
	void *copy = malloc(size);
	memcpy(copy, frame, size);
	downstairs_received(peer->connection, copy, size);
	free(copy);
}

void peer_send(struct peer *peer, const struct crucible_message *message)
{
	size_t head, size;
	assert_int_equal(crucible_measure(message, &head, &size), 0);
	uint8_t *frame = malloc(size);
	assert_int_equal(crucible_encode(message, frame, size), size);
	peer_send_bytes(peer, frame, size);
	free(frame);
}

static void drop_taken(struct peer *peer)
{
	struct received *received = peer->first;
	if (!received || received->size > 0)
		return;
	peer->first = received->next;
	if (!peer->first)
		peer->last = NULL;
	free(received);
}

const struct crucible_message *expect(struct peer *peer, enum crucible_message_type type)
{
	static struct crucible_message message;
	const char *wrong;
	drop_taken(peer);
	if (!peer->first)
		fail_msg("no %s", crucible_message_name(type));
	assert_int_equal(crucible_decode(peer->first->frame, peer->first->size, &message, &wrong), 0);
	assert_string_equal(crucible_message_name(message.type), crucible_message_name(type));
	peer->first->size = 0;
	return &message;
}

const struct crucible_message *expect_answer(
	struct peer *peer, enum crucible_message_type type, uint64_t job_id)
{
	const struct crucible_message *message = expect(peer, type);
	assert_int_equal(message->job.job_id, job_id);
	assert_memory_equal(&message->job.upstairs_id, &peer->session.upstairs_id, 16);
	assert_memory_equal(&message->job.session_id, &peer->session.session_id, 16);
	assert_false(type == CRUCIBLE_READ_RESPONSE ? message->read_response.result.failed
												: message->ack.failed);
	return message;
}

void expect_report(struct peer *peer, uint64_t job_id, enum crucible_error_kind kind)
{
	const struct crucible_message *message = expect(peer, CRUCIBLE_ERROR_REPORT);
	assert_int_equal(message->job.job_id, job_id);
	assert_int_equal(message->error_report.error.kind, kind);
}

void expect_nothing(struct peer *peer)
{
	struct crucible_message message;
	const char *wrong;
	drop_taken(peer);
	if (peer->first &&
		crucible_decode(peer->first->frame, peer->first->size, &message, &wrong) == 0)
		fail_msg("unexpected %s", crucible_message_name(message.type));
	assert_null(peer->first);
}

void expect_closed(struct peer *peer)
{
	expect_nothing(peer);
	assert_null(peer->connection);
}

/* Negotiation */

void here_i_am(struct peer *peer)
{
	struct crucible_message message = { .type = CRUCIBLE_HERE_I_AM };
	message.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
	message.here_i_am.session = peer->session;
	message.here_i_am.read_only = peer->rig->options.read_only;
	message.here_i_am.encrypted = disk_region(peer->rig->disk)->encrypted;
	peer_send(peer, &message);
}

void promote(struct peer *peer)
{
	peer_send(peer,
		&(struct crucible_message){ .type = CRUCIBLE_PROMOTE_TO_ACTIVE, .session = peer->session });
}

bool is_promoted(struct peer *peer)
{
	here_i_am(peer);
	assert_int_equal(expect(peer, CRUCIBLE_YES_ITS_ME)->yes_its_me.version, 13);
	promote(peer);
	if (!peer->connection) {
		expect_nothing(peer);
		return false;
	}
	const struct crucible_message *message = expect(peer, CRUCIBLE_YOU_ARE_NOW_ACTIVE);
	assert_memory_equal(&message->session.upstairs_id, &peer->session.upstairs_id, 16);
	assert_memory_equal(&message->session.session_id, &peer->session.session_id, 16);
	assert_int_equal(message->session.generation, peer->session.generation);
	return true;
}

static void send_type(struct peer *peer, enum crucible_message_type type)
{
	peer_send(peer, &(struct crucible_message){ .type = type });
}

void ask_region(struct peer *peer)
{
	send_type(peer, CRUCIBLE_REGION_INFO_PLEASE);
}

void ask_versions(struct peer *peer)
{
	send_type(peer, CRUCIBLE_EXTENT_VERSIONS_PLEASE);
}

void last_flush(struct peer *peer, uint64_t job_id)
{
	struct crucible_message message = { .type = CRUCIBLE_LAST_FLUSH };
	message.last_flush.has_job_id = job_id;
	message.last_flush.job_id = job_id;
	peer_send(peer, &message);
}

struct peer *rig_running_as(struct rig *rig, uint8_t upstairs, uint8_t session, uint64_t generation)
{
	struct peer *peer = rig_connect(rig, upstairs, session, generation);
	assert_true(is_promoted(peer));
	ask_region(peer);
	expect(peer, CRUCIBLE_REGION_INFO);
	last_flush(peer, 0);
	return peer;
}

struct peer *rig_running(struct rig *rig)
{
	return rig_running_as(rig, 1, 1, 1);
}

/* Jobs */

struct crucible_message job(
	struct peer *peer, enum crucible_message_type type, uint64_t id, const uint64_t *after)
{
	struct crucible_message message = {
		.type = type,
		.job = { peer->session.upstairs_id, peer->session.session_id, id },
		.dependencies.items = after,
	};
	while (after && after[message.dependencies.count] != 0)
		message.dependencies.count++;
	return message;
}

void send_job(
	struct peer *peer, enum crucible_message_type type, uint64_t id, const uint64_t *after)
{
	struct crucible_message message = job(peer, type, id, after);
	peer_send(peer, &message);
}

static void send_blocks(struct peer *peer, enum crucible_message_type type, uint64_t id,
	uint64_t start, unsigned count, uint8_t fill, const uint64_t *after)
{
	enum { BLOCKS_MAX = 16 };
	static uint8_t data[BLOCKS_MAX * RIG_BLOCK_SIZE];
	struct crucible_block_context contexts[BLOCKS_MAX];
	assert_in_range(count, 0, BLOCKS_MAX);
	for (unsigned i = 0; i < count; i++) {
		uint8_t *block = data + (size_t)i * RIG_BLOCK_SIZE;
		memset(block, fill + (int)i, RIG_BLOCK_SIZE);
		contexts[i] = (struct crucible_block_context){
			.is_encrypted = disk_region(peer->rig->disk)->encrypted,
			.encryption = { { fill }, { 0xaa } },
		};
		contexts[i].hash = image_block_hash(&contexts[i], block, RIG_BLOCK_SIZE);
	}
	struct crucible_message message = job(peer, type, id, after);
	message.write.start = start;
	message.write.contexts.items = contexts;
	message.write.contexts.count = count;
	message.write.data = (struct crucible_data){ data, (size_t)count * RIG_BLOCK_SIZE };
	peer_send(peer, &message);
}

void send_write(struct peer *peer, uint64_t id, uint64_t start, unsigned count, uint8_t fill,
	const uint64_t *after)
{
	send_blocks(peer, CRUCIBLE_WRITE, id, start, count, fill, after);
}

void send_write_unwritten(struct peer *peer, uint64_t id, uint64_t start, unsigned count,
	uint8_t fill, const uint64_t *after)
{
	send_blocks(peer, CRUCIBLE_WRITE_UNWRITTEN, id, start, count, fill, after);
}

void send_read(
	struct peer *peer, uint64_t id, uint64_t start, uint64_t count, const uint64_t *after)
{
	struct crucible_message message = job(peer, CRUCIBLE_READ_REQUEST, id, after);
	message.read_request.start = start;
	message.read_request.count = count;
	peer_send(peer, &message);
}

static struct crucible_message flush_message(
	struct peer *peer, uint64_t id, uint64_t flush_number, const uint64_t *after)
{
	struct crucible_message message = job(peer, CRUCIBLE_FLUSH, id, after);
	message.flush.generation = peer->session.generation;
	message.flush.flush_number = flush_number;
	return message;
}

void send_flush(struct peer *peer, uint64_t id, uint64_t flush_number, const uint64_t *after)
{
	struct crucible_message message = flush_message(peer, id, flush_number, after);
	peer_send(peer, &message);
}

void send_limited_flush(struct peer *peer, uint64_t id, uint64_t flush_number, uint32_t limit)
{
	struct crucible_message message = flush_message(peer, id, flush_number, NULL);
	message.flush.has_extent_limit = true;
	message.flush.extent_limit = limit;
	peer_send(peer, &message);
}

void send_ruok(struct peer *peer)
{
	send_type(peer, CRUCIBLE_RUOK);
	expect(peer, CRUCIBLE_IMOK);
}

void send_live(struct peer *peer, enum crucible_message_type type, uint64_t id, uint32_t extent_id,
	const uint64_t *after)
{
	struct crucible_message message = job(peer, type, id, after);
	if (type == CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE) {
		message.live_flush_close.extent_id = extent_id;
		message.live_flush_close.flush_number = id;
		message.live_flush_close.generation = peer->session.generation;
	} else if (type == CRUCIBLE_EXTENT_LIVE_REPAIR) {
		message.live_repair.extent_id = extent_id;
		message.live_repair.source_address.port = 7810;
	} else {
		message.live_extent.extent_id = extent_id;
	}
	peer_send(peer, &message);
}

void send_mend(
	struct peer *peer, enum crucible_message_type type, uint64_t repair_id, uint32_t extent_id)
{
	struct crucible_message message = { .type = type };
	message.extent.repair_id = repair_id;
	message.extent.extent_id = extent_id;
	if (type == CRUCIBLE_EXTENT_FLUSH) {
		message.extent_flush.flush_number = 50;
		message.extent_flush.generation = 60;
	}
	if (type == CRUCIBLE_EXTENT_REPAIR)
		message.extent_repair.source_address.port = 7811;
	peer_send(peer, &message);
}

void write_blocks(struct peer *peer, uint64_t id, uint64_t start, unsigned count, uint8_t fill)
{
	send_write(peer, id, start, count, fill, NULL);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, id);
}

void flush(struct peer *peer, uint64_t id, uint64_t flush_number)
{
	send_flush(peer, id, flush_number, NULL);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, id);
}

int fill_of(struct peer *peer, uint64_t block)
{
	struct crucible_read_context context;
	send_read(peer, 999999, block, 1, NULL);
	const struct crucible_message *message = expect_answer(peer, CRUCIBLE_READ_RESPONSE, 999999);
	struct crucible_read_contexts contexts = message->read_response.contexts;
	const uint8_t *data = message->read_response.data.bytes;
	assert_int_equal(contexts.count, 1);
	assert_int_equal(message->read_response.data.length, RIG_BLOCK_SIZE);
	assert_true(crucible_next_read_context(&contexts, &context));
	for (unsigned i = 1; i < RIG_BLOCK_SIZE; i++)
		assert_int_equal(data[i], data[0]);
	if (context.kind == CRUCIBLE_BLOCK_EMPTY) {
		assert_int_equal(data[0], 0);
		return -1;
	}
	if (context.kind == CRUCIBLE_BLOCK_UNENCRYPTED)
		assert_int_equal(context.hash, image_data_hash(data, RIG_BLOCK_SIZE));
	return data[0];
}

void expect_versions(
	struct rig *rig, uint32_t extent_id, uint64_t generation, uint64_t flush_number, bool dirty)
{
	struct versions versions = disk_versions(rig->disk, extent_id);
	assert_int_equal(versions.generation, generation);
	assert_int_equal(versions.flush_number, flush_number);
	assert_int_equal(versions.dirty, dirty);
}
