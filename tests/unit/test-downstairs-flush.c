/* What a flush stamps, what is synced when, and what a loss of power leaves (4.4, 4.6, T2). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

/* Stamps */

static void a_flush_stamps_dirty_extents_only(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running_as(&rig, 1, 1, 7);
	write_blocks(peer, 1000, 0, 5, 1);
	expect_versions(&rig, 0, 0, 0, true);
	flush(peer, 1001, 3);
	expect_versions(&rig, 0, 7, 3, false);
	expect_versions(&rig, 1, 7, 3, false);
	expect_versions(&rig, 2, 0, 0, false);
	write_blocks(peer, 1002, 4, 1, 9);
	expect_versions(&rig, 1, 7, 3, true);
	flush(peer, 1003, 4);
	expect_versions(&rig, 0, 7, 3, false);
	expect_versions(&rig, 1, 7, 4, false);
	rig_close(&rig);
}

static void numbers_are_stamped_downwards_too(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running_as(&rig, 1, 1, 7);
	write_blocks(peer, 1000, 0, 1, 1);
	flush(peer, 1001, 30);
	write_blocks(peer, 1002, 0, 1, 1);
	flush(peer, 1003, 2);
	expect_versions(&rig, 0, 7, 2, false);
	rig_close(&rig);
}

static void the_limit_is_inclusive(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 12, 1);
	send_limited_flush(peer, 1001, 1, 1);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 1001);
	expect_versions(&rig, 0, 1, 1, false);
	expect_versions(&rig, 1, 1, 1, false);
	expect_versions(&rig, 2, 0, 0, true);
	send_limited_flush(peer, 1002, 2, RIG_EXTENTS); /* one too large, but taken */
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 1002);
	expect_versions(&rig, 1, 1, 1, false);
	expect_versions(&rig, 2, 1, 2, false);
	rig_close(&rig);
}

static void a_limit_too_large_wedges(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &(struct downstairs_options){ .wedge_reports = 1 });
	struct peer *peer = rig_running(&rig);
	send_limited_flush(peer, 1001, 1, RIG_EXTENTS + 1);
	expect_report(peer, 1001, CRUCIBLE_ERROR_INVALID_EXTENT);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	rig_close(&rig);
}

static void a_snapshot_is_acknowledged_without_being_taken(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	struct crucible_message message = job(peer, CRUCIBLE_FLUSH, 1000, NULL);
	message.flush.has_snapshot = true;
	message.flush.snapshot_name = (struct crucible_text){ "ab", 2 };
	peer_send(peer, &message);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 1000);
	rig_close(&rig);
}

static void a_read_only_region_takes_a_flush_if_it_is_clean(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	rig.options.read_only = true;
	rig_restart(&rig);
	peer = rig_running(&rig);
	flush(peer, 1000, 1);
	rig.options.read_only = false;
	rig_restart(&rig);
	peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 1);
	rig.options.read_only = true;
	rig_restart(&rig);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), 1);
	send_flush(peer, 1000, 1, NULL);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	expect_versions(&rig, 0, 0, 0, true);
	rig_close(&rig);
}

/* Syncs */

static void syncs_come_where_upstream_has_them(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 2, 1); /* the extent becomes dirty */
	assert_int_equal(rig.steps[DISK_SYNC], 1);
	write_blocks(peer, 1001, 2, 2, 1); /* it is */
	assert_int_equal(rig.steps[DISK_SYNC], 1);
	write_blocks(peer, 1002, 0, 2, 2); /* once for both blocks written again */
	assert_int_equal(rig.steps[DISK_SYNC], 2);
	write_blocks(peer, 1003, 4, 8, 1); /* two more become dirty */
	assert_int_equal(rig.steps[DISK_SYNC], 4);
	flush(peer, 1004, 1);
	assert_int_equal(rig.steps[DISK_SYNC], 7);
	flush(peer, 1005, 2); /* nothing is dirty */
	assert_int_equal(rig.steps[DISK_SYNC], 7);
	rig_close(&rig);
}

static void a_sync_that_fails_makes_a_flush_hollow(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running_as(&rig, 1, 1, 5);
	write_blocks(peer, 1000, 0, 12, 1);
	rig.fail_step = DISK_SYNC;
	rig.fail_at = 1;
	rig.fail_count = 10000;
	rig.fail_with = -EIO;
	send_flush(peer, 1001, 9, NULL);
	const struct crucible_message *message = expect(peer, CRUCIBLE_ERROR_REPORT);
	assert_int_equal(message->error_report.error.kind, CRUCIBLE_ERROR_GENERIC);
	assert_memory_equal(message->error_report.error.text.bytes, "IO Error: extent 1: ", 20);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 1001);
	for (unsigned i = 0; i < RIG_EXTENTS; i++)
		expect_versions(&rig, i, 5, 9, false);
	/* the first extent is safe, the others only say so */
	assert_int_equal(disk_unsynced(rig.disk, 0), 0);
	assert_int_not_equal(disk_unsynced(rig.disk, 1), 0);
	assert_int_not_equal(disk_unsynced(rig.disk, 2), 0);
	rig_close(&rig);
}

static void a_write_whose_sync_fails_is_tried_until_it_works(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	rig.fail_step = DISK_SYNC;
	rig.fail_count = 3;
	rig.fail_with = -EIO;
	send_write(peer, 1000, 0, 1, 1, NULL);
	for (unsigned i = 0; i < 3; i++)
		expect_report(peer, 1000, CRUCIBLE_ERROR_IO);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	assert_int_equal(rig.steps[DISK_SYNC], 4);
	rig.fail_count = 10000;
	send_write(peer, 1001, 0, 1, 2, NULL);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	rig_kill(&rig);
	rig_close(&rig);
}

/* Loss of power */

static bool nothing(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	(void)context;
	(void)extent_id;
	(void)block;
	(void)piece;
	return false;
}

static bool all_but(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	(void)extent_id;
	(void)block;
	return piece != *(enum disk_piece *)context;
}

static void kill_keeps_everything(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 2, 1);
	write_blocks(peer, 1001, 0, 1, 8);
	rig_restart(&rig);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), 8);
	assert_int_equal(fill_of(peer, 1), 2);
	expect_versions(&rig, 0, 0, 0, true);
	flush(peer, 1000, 4); /* what was dirty at the start is flushed too */
	expect_versions(&rig, 0, 1, 4, false);
	rig_close(&rig);
}

static void power_loss_keeps_what_was_flushed(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 6, 1);
	flush(peer, 1001, 1);
	write_blocks(peer, 1002, 0, 1, 50);
	write_blocks(peer, 1003, 8, 1, 60);
	rig_kill(&rig);
	disk_power_loss(rig.disk, nothing, NULL);
	rig_start(&rig);
	peer = rig_running(&rig);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(fill_of(peer, i), 1 + (int)i);
	assert_int_equal(fill_of(peer, 8), -1);
	/* becoming dirty was synced */
	expect_versions(&rig, 0, 1, 1, true);
	expect_versions(&rig, 1, 1, 1, false);
	expect_versions(&rig, 2, 0, 0, true);
	rig_close(&rig);
}

static void power_loss_decides_for_each_block(void **state)
{
	(void)state;
	/* contexts alone are no harm: the old one is in the other slot; data without its context is */
	for (enum disk_piece lost = PIECE_CONTEXTS; lost <= PIECE_DATA; lost++) {
		struct rig rig;
		struct crucible_error error;
		rig_open(&rig, NULL);
		struct peer *peer = rig_running(&rig);
		write_blocks(peer, 1000, 0, 2, 1);
		flush(peer, 1001, 1);
		write_blocks(peer, 1002, 0, 1, 50); /* its other slot is taken */
		flush(peer, 1003, 2);
		write_blocks(peer, 1004, 0, 1, 60);
		rig_kill(&rig);
		disk_power_loss(rig.disk, all_but, &lost);
		bool starts = rig_try_start(&rig, &error);
		assert_int_equal(starts, lost == PIECE_DATA);
		if (starts) {
			peer = rig_running(&rig);
			assert_int_equal(fill_of(peer, 0), 50);
			assert_int_equal(fill_of(peer, 1), 2);
		} else {
			assert_int_equal(error.kind, CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT);
			assert_int_equal(error.slot.block, 0);
			assert_int_equal(error.slot.extent_id, 0);
		}
		rig_close(&rig);
	}
}

static void a_hollow_flush_loses_data_under_good_numbers(void **state)
{
	(void)state;
	struct rig rig;
	enum disk_piece data = PIECE_DATA;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 1);
	flush(peer, 1001, 1);
	write_blocks(peer, 1002, 0, 1, 2);
	rig.fail_step = DISK_SYNC;
	rig.fail_count = 1;
	rig.fail_with = -EIO;
	send_flush(peer, 1003, 2, NULL);
	expect_report(peer, 1003, CRUCIBLE_ERROR_GENERIC);
	expect_answer(peer, CRUCIBLE_FLUSH_ACK, 1003);
	/* a later sync, by another block, does not save it */
	write_blocks(peer, 1004, 1, 1, 7);
	flush(peer, 1005, 3);
	rig_kill(&rig);
	disk_power_loss(rig.disk, all_but, &data);
	rig_start(&rig);
	expect_versions(&rig, 0, 1, 3, false);
	peer = rig_running(&rig);
	send_read(peer, 1000, 0, 2, NULL);
	const struct crucible_message *message = expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	const uint8_t *bytes = message->read_response.data.bytes;
	assert_int_equal(bytes[0], 1); /* with the context of 2: the upstairs finds it */
	assert_int_equal(bytes[RIG_BLOCK_SIZE], 7);
	struct crucible_read_contexts contexts = message->read_response.contexts;
	struct crucible_read_context context;
	assert_true(crucible_next_read_context(&contexts, &context));
	assert_int_not_equal(context.hash, image_data_hash(bytes, RIG_BLOCK_SIZE));
	rig_close(&rig);
}

static void every_state_between_steps_survives_power_loss(void **state)
{
	(void)state;
	/* killed before any step, and nothing or everything that was not synced lost */
	for (unsigned step = DISK_PUT_VERSIONS; step <= DISK_SYNC; step++) {
		for (unsigned at = 0; at < 16; at++) {
			struct rig rig;
			rig_open(&rig, NULL);
			struct peer *peer = rig_running(&rig);
			write_blocks(peer, 1000, 0, 8, 1);
			flush(peer, 1001, 1);
			rig.fail_step = step;
			rig.fail_at = at;
			rig.fail_count = 1;
			rig.fail_with = -ECANCELED;
			send_write(peer, 1002, 2, 4, 101, NULL);
			send_write(peer, 1003, 2, 1, 201, NULL);
			send_flush(peer, 1004, 2, NULL);
			bool is_done = downstairs_state(rig.downstairs) == DOWNSTAIRS_RUNNING;
			rig_kill(&rig);
			disk_power_loss(rig.disk, nothing, NULL);
			rig_start(&rig);
			peer = rig_running(&rig);
			for (unsigned block = 0; block < 8; block++) {
				int fill = fill_of(peer, block), old = 1 + (int)block, new = 99 + (int)block;
				bool is_new = block >= 2 && block < 6 &&
							  (fill == new || (block == 2 && fill == 201));
				assert_true(is_new || (fill == old && !(is_done && block >= 2 && block < 6)));
			}
			rig_close(&rig);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flush_stamps_dirty_extents_only),
		cmocka_unit_test(numbers_are_stamped_downwards_too),
		cmocka_unit_test(the_limit_is_inclusive),
		cmocka_unit_test(a_limit_too_large_wedges),
		cmocka_unit_test(a_snapshot_is_acknowledged_without_being_taken),
		cmocka_unit_test(a_read_only_region_takes_a_flush_if_it_is_clean),
		cmocka_unit_test(syncs_come_where_upstream_has_them),
		cmocka_unit_test(a_sync_that_fails_makes_a_flush_hollow),
		cmocka_unit_test(a_write_whose_sync_fails_is_tried_until_it_works),
		cmocka_unit_test(kill_keeps_everything),
		cmocka_unit_test(power_loss_keeps_what_was_flushed),
		cmocka_unit_test(power_loss_decides_for_each_block),
		cmocka_unit_test(a_hollow_flush_loses_data_under_good_numbers),
		cmocka_unit_test(every_state_between_steps_survives_power_loss),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
