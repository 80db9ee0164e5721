/* What closes the connection, and what aborts the process (specification 1.1, 4.3, T21, T25). */
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* Aborts. Each is given a running peer of a region whose extent 1 is closed and dirty. */

static void read_beyond_the_end(struct peer *peer)
{
	send_read(peer, 1, 11, 2, NULL);
}

static void read_far_beyond_the_end(struct peer *peer)
{
	send_read(peer, 1, UINT64_MAX, 1, NULL);
}

static void read_of_more_than_there_is(struct peer *peer)
{
	send_read(peer, 1, 0, 100000, NULL);
}

static void write_beyond_the_end(struct peer *peer)
{
	send_write(peer, 1, 12, 1, 0, NULL);
}

static void write_unwritten_beyond_the_end(struct peer *peer)
{
	send_write_unwritten(peer, 1, 11, 2, 0, NULL);
}

static void write_of_no_blocks_beyond_the_end(struct peer *peer)
{
	send_write(peer, 1, 12, 0, 0, NULL);
}

static void write_of_no_blocks_to_a_closed_extent(struct peer *peer)
{
	send_write_unwritten(peer, 1, 4, 0, 0, NULL);
}

static void read_of_a_closed_extent(struct peer *peer)
{
	send_read(peer, 1, 3, 2, NULL);
}

static void write_to_a_closed_extent(struct peer *peer)
{
	send_write(peer, 1, 4, 1, 0, NULL);
}

static void flush_of_a_closed_dirty_extent(struct peer *peer)
{
	send_flush(peer, 1, 1, NULL);
}

/* Flushed alone, and so clean, but the next flush of the region would look at it. */
static void flush_of_an_extent_that_was_flushed_and_closed(struct peer *peer)
{
	send_write(peer, 2000, 8, 1, 1, NULL);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 2000);
	send_limited_flush(peer, 2001, 1, 0);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 2001);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REOPEN, 2002, 1, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2002);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 2003, 2, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 2003);
	send_flush(peer, 2004, 2, NULL);
}

static void close_of_a_closed_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, 1, 1, NULL);
}

static void flush_close_of_a_closed_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 1, 1, NULL);
}

static void reopen_of_an_open_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REOPEN, 1, 0, NULL);
}

static void repair_of_an_open_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REPAIR, 1, 0, NULL);
}

static void mend_flush_of_a_closed_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 0, 1);
}

static void mend_close_of_a_closed_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_CLOSE, 0, 1);
}

static void mend_reopen_of_an_open_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_REOPEN, 0, 0);
}

static void mend_repair_of_an_open_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_REPAIR, 0, 0);
}

static void the_last_job_id(struct peer *peer)
{
	send_job(peer, CRUCIBLE_BARRIER, UINT64_MAX, NULL);
}

static void live_close_of_no_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, 1, RIG_EXTENTS, NULL);
}

static void live_flush_close_of_no_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 1, RIG_EXTENTS, NULL);
}

static void live_repair_of_no_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REPAIR, 1, RIG_EXTENTS, NULL);
}

static void live_reopen_of_no_extent(struct peer *peer)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REOPEN, 1, UINT32_MAX, NULL);
}

static void mend_flush_of_no_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 0, RIG_EXTENTS);
}

static void mend_close_of_no_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_CLOSE, 0, RIG_EXTENTS);
}

static void mend_repair_of_no_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_REPAIR, 0, RIG_EXTENTS);
}

static void mend_reopen_of_no_extent(struct peer *peer)
{
	send_mend(peer, CRUCIBLE_EXTENT_REOPEN, 0, RIG_EXTENTS);
}

static void frame_of_length_0(struct peer *peer)
{
	peer_send_bytes(peer, "\0\0\0\0", 4);
}

static void frame_of_length_3(struct peer *peer)
{
	peer_send_bytes(peer, "\3\0\0\0", 4);
}

/* A write whose data say that they are longer than the frame, but for the first `missing` bytes. */
static void send_long_data(struct peer *peer, size_t missing)
{
	static const uint8_t data[RIG_BLOCK_SIZE];
	struct crucible_message message = job(peer, CRUCIBLE_WRITE, 1, NULL);
	static const struct crucible_block_context context = { .hash = 1 };
	message.write.contexts.items = &context;
	message.write.contexts.count = 1;
	message.write.data = (struct crucible_data){ data, sizeof data };
	uint8_t frame[1024];
	size_t size = (size_t)crucible_encode(&message, frame, sizeof frame);
	put_le64(frame + size - sizeof data - 8, size - missing);
	peer_send_bytes(peer, frame, size);
}

static void data_longer_than_the_frame(struct peer *peer)
{
	send_long_data(peer, 3);
}

static void (*const aborts[])(struct peer *) = {
	read_beyond_the_end,
	read_far_beyond_the_end,
	read_of_more_than_there_is,
	write_beyond_the_end,
	write_unwritten_beyond_the_end,
	write_of_no_blocks_beyond_the_end,
	write_of_no_blocks_to_a_closed_extent,
	read_of_a_closed_extent,
	write_to_a_closed_extent,
	flush_of_a_closed_dirty_extent,
	flush_of_an_extent_that_was_flushed_and_closed,
	close_of_a_closed_extent,
	flush_close_of_a_closed_extent,
	reopen_of_an_open_extent,
	repair_of_an_open_extent,
	mend_flush_of_a_closed_extent,
	mend_close_of_a_closed_extent,
	mend_reopen_of_an_open_extent,
	mend_repair_of_an_open_extent,
	the_last_job_id,
	live_close_of_no_extent,
	live_flush_close_of_no_extent,
	live_repair_of_no_extent,
	live_reopen_of_no_extent,
	mend_flush_of_no_extent,
	mend_close_of_no_extent,
	mend_repair_of_no_extent,
	mend_reopen_of_no_extent,
	frame_of_length_0,
	frame_of_length_3,
	data_longer_than_the_frame,
};

static void what_upstream_does_not_survive_ends_the_process(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(aborts); i++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = rig_running(&rig);
		write_blocks(peer, 1000, 4, 1, 1);
		send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, 1001, 1, NULL);
		expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 1001);
		aborts[i](peer);
		if (!rig.died)
			fail_msg("the one with index %zu", i);
		assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_DIED);
		expect_nothing(peer);
		peer_send(peer, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
		expect_nothing(peer);
		rig_close(&rig);
	}
}

static void four_zero_bytes_kill_without_any_negotiation(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	frame_of_length_0(rig_connect(&rig, 1, 1, 1));
	assert_non_null(rig.died);
	rig_close(&rig);
}

/* What is harmless */

static void a_flush_passes_a_closed_clean_extent(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 4, 1, 1);
	flush(peer, 1001, 5);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 1002, 1, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 1002);
	write_blocks(peer, 1003, 0, 1, 1);
	flush(peer, 1004, 2000);
	expect_versions(&rig, 0, 1, 2000, false);
	expect_versions(&rig, 1, 1, 5, false);
	rig_close(&rig);
}

static void contexts_of_the_other_kind_are_taken(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	static const uint8_t data[RIG_BLOCK_SIZE];
	struct crucible_block_context context = { .is_encrypted = true };
	context.hash = image_block_hash(&context, data, sizeof data);
	struct crucible_message message = job(peer, CRUCIBLE_WRITE, 1000, NULL);
	message.write.contexts.items = &context;
	message.write.contexts.count = 1;
	message.write.data = (struct crucible_data){ data, sizeof data };
	peer_send(peer, &message);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	rig_close(&rig);
}

/* Closing */

static void closes(const void *frame, size_t size)
{
	for (unsigned phase = 0; phase < 2; phase++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = phase == 0 ? rig_connect(&rig, 1, 1, 1) : rig_running(&rig);
		peer_send_bytes(peer, frame, size);
		expect_closed(peer);
		assert_null(rig.died);
		rig_close(&rig);
	}
}

static void what_cannot_be_decoded_closes(void **state)
{
	(void)state;
	closes("\4\0\0\0", 4);
	closes("\7\0\0\0\11\0\0", 7);
	closes("\10\0\0\0\51\0\0\0", 8); /* type 41 */
	closes("\10\0\0\0\377\0\0\0", 8);
	closes("\10\0\0\0\13\0\0\0", 8);   /* too short */
	closes("\11\0\0\0\35\0\0\0\2", 9); /* an option that is neither 0 nor 1 */
}

static void data_that_overlap_with_the_head_close(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_long_data(peer, 4);
	expect_closed(peer);
	assert_null(rig.died);
	rig_close(&rig);
}

static void writes_of_the_wrong_form_close(void **state)
{
	(void)state;
	static const struct {
		size_t contexts, length;
	} forms[] = { { 1, 0 }, { 0, RIG_BLOCK_SIZE }, { 1, 511 }, { 2, RIG_BLOCK_SIZE }, { 0, 1 } };
	for (size_t i = 0; i < COUNT_OF(forms); i++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = rig_running(&rig);
		static const uint8_t data[RIG_BLOCK_SIZE];
		static const struct crucible_block_context contexts[2];
		struct crucible_message message = job(peer, CRUCIBLE_WRITE, 1000, NULL);
		message.write.contexts.items = contexts;
		message.write.contexts.count = forms[i].contexts;
		message.write.data = (struct crucible_data){ data, forms[i].length };
		peer_send(peer, &message);
		expect_closed(peer);
		rig_close(&rig);
	}
}

static void bytes_behind_a_message_are_ignored(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	peer_send_bytes(peer, "\14\0\0\0\11\0\0\0abcd", 12);
	expect(peer, CRUCIBLE_IMOK);
	/* with bytes between head and data of a write, the data are the end of the frame */
	uint8_t frame[1024], *data = frame + 200;
	struct crucible_block_context context = { 0 };
	memset(data, 5, RIG_BLOCK_SIZE);
	context.hash = image_data_hash(data, RIG_BLOCK_SIZE);
	struct crucible_message message = job(peer, CRUCIBLE_WRITE, 1000, NULL);
	message.write.contexts.items = &context;
	message.write.contexts.count = 1;
	message.write.data.length = RIG_BLOCK_SIZE;
	assert_in_range(crucible_encode_head(&message, frame, 200), 1, 190);
	put_le32(frame, 200 + RIG_BLOCK_SIZE);
	peer_send_bytes(peer, frame, 200 + RIG_BLOCK_SIZE);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	assert_int_equal(fill_of(peer, 0), 5);
	rig_close(&rig);
}

static void an_answer_that_is_too_long_closes(void **state)
{
	(void)state;
	struct crucible_region region = {
		.block_size = 32768, .block_shift = 15, .extent_size = 4096, .extent_count = 1
	};
	struct rig rig;
	rig_open(&rig, NULL);
	rig_kill(&rig);
	disk_free(rig.disk);
	rig.disk = disk_new(&region);
	rig_start(&rig);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1000, 0, 3201, NULL);
	expect_closed(peer);
	rig_close(&rig);
}

static void a_read_only_region_refuses_to_be_changed(void **state)
{
	(void)state;
	static const enum crucible_message_type refused[] = {
		CRUCIBLE_WRITE,
		CRUCIBLE_WRITE_UNWRITTEN,
		CRUCIBLE_EXTENT_CLOSE,
		CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE,
		CRUCIBLE_EXTENT_LIVE_REPAIR,
		CRUCIBLE_EXTENT_LIVE_REOPEN,
		CRUCIBLE_EXTENT_LIVE_NO_OP,
	};
	for (size_t i = 0; i < COUNT_OF(refused); i++) {
		struct rig rig;
		rig_open(&rig, &(struct downstairs_options){ .read_only = true });
		struct peer *peer = rig_running(&rig);
		send_job(peer, CRUCIBLE_BARRIER, 1000, NULL);
		expect_answer(peer, CRUCIBLE_BARRIER_ACK, 1000);
		send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 0, 0);
		expect(peer, CRUCIBLE_REPAIR_ACK_ID);
		send_job(peer, refused[i], 1001, NULL);
		expect_closed(peer);
		rig_close(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_upstream_does_not_survive_ends_the_process),
		cmocka_unit_test(four_zero_bytes_kill_without_any_negotiation),
		cmocka_unit_test(a_flush_passes_a_closed_clean_extent),
		cmocka_unit_test(contexts_of_the_other_kind_are_taken),
		cmocka_unit_test(what_cannot_be_decoded_closes),
		cmocka_unit_test(data_that_overlap_with_the_head_close),
		cmocka_unit_test(writes_of_the_wrong_form_close),
		cmocka_unit_test(bytes_behind_a_message_are_ignored),
		cmocka_unit_test(an_answer_that_is_too_long_closes),
		cmocka_unit_test(a_read_only_region_refuses_to_be_changed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
