/* test-core-zeroes.c: WRITE_ZEROES: what goes over the network for it, and what is there afterwards. */
#include <errno.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

/* Longer than a part. */
enum { EXTENT = 1024, EXTENTS = 8, BLOCKS = EXTENT * EXTENTS, PART = CORE_REQUEST_MAX / CORE_BLOCK };
static struct core_rig rig;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	core_rig_serve(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void expect_done(const struct rig_request *request)
{
	core_rig_run(&rig);
	assert_true(request->is_done);
	assert_int_equal(request->error, 0);
}

/* Write messages that this takes, of all slots. */
static uint64_t writes_of(uint64_t start, uint64_t count, unsigned flags)
{
	uint64_t before = core_rig_sent(&rig, CRUCIBLE_WRITE), reads = core_rig_sent(&rig, CRUCIBLE_READ_REQUEST);
	expect_done(core_rig_zero(&rig, start, count, flags));
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), reads);
	return core_rig_sent(&rig, CRUCIBLE_WRITE) - before;
}

static void what_is_empty_stays_empty_and_every_slot_is_asked_whether_we_still_own_it(void **state)
{
	(void)state;
	assert_int_equal(writes_of(1, BLOCKS - 1, 0), 0);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_EXTENT_LIVE_NO_OP), 3);
	assert_true(core_rig_is_hole(&rig, 1) && core_rig_is_hole(&rig, BLOCKS - 1));
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		assert_false(core_rig_is_written(&rig, i, 5));
}

static void no_hole_writes_everything(void **state)
{
	(void)state;
	assert_int_equal(writes_of(10, 4, UPSTAIRS_NO_HOLE), 3);
	for (uint64_t block = 10; block < 14; block++) {
		assert_false(core_rig_is_hole(&rig, block));
		assert_true(core_rig_is_written(&rig, 2, block));
		assert_true(core_rig_are_equal(&rig, block));
	}
	assert_true(core_rig_is_hole(&rig, 14));
	core_rig_expect(&rig, 10, 4, 0);
}

static void only_what_may_be_something_else_is_written(void **state)
{
	(void)state;
	core_rig_write(&rig, 100, 3, 5);
	core_rig_write(&rig, 200, 2, 6);
	assert_int_equal(writes_of(50, 200, 0), 6);
	core_rig_expect(&rig, 50, 200, 0);
	assert_true(core_rig_is_hole(&rig, 99) && core_rig_is_hole(&rig, 103) && core_rig_is_hole(&rig, 202));
	assert_false(core_rig_is_hole(&rig, 100));
	assert_true(core_rig_are_equal(&rig, 101));
}

static void fast_zero_is_done_only_where_nothing_is_to_be_written(void **state)
{
	(void)state;
	core_rig_write(&rig, 100, 1, 5);
	uint64_t before = core_rig_sent(&rig, CRUCIBLE_WRITE);
	const struct rig_request *partly = core_rig_zero(&rig, 90, 20, UPSTAIRS_FAST_ZERO);
	const struct rig_request *kept = core_rig_zero(&rig, 90, 5, UPSTAIRS_FAST_ZERO | UPSTAIRS_NO_HOLE);
	const struct rig_request *empty = core_rig_zero(&rig, 90, 5, UPSTAIRS_FAST_ZERO);
	core_rig_run(&rig);
	assert_true(partly->is_done && kept->is_done && empty->is_done);
	assert_int_equal(partly->error, -EOPNOTSUPP);
	assert_int_equal(kept->error, -EOPNOTSUPP);
	assert_int_equal(empty->error, 0);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), before);
	core_rig_expect(&rig, 100, 1, 5);
}

static void a_request_of_any_length_becomes_parts(void **state)
{
	(void)state;
	core_rig_write(&rig, 5, PART, 1);
	core_rig_write(&rig, 5 + PART, PART, 2);
	core_rig_write(&rig, 5 + 2 * PART, 7, 3);
	assert_int_equal(writes_of(0, BLOCKS, 0), (1 + 3) * 3); /* block 0 was written by the fence */
	for (uint64_t start = 0; start + PART < BLOCKS; start += PART)
		core_rig_expect(&rig, start, PART, 0);
	const struct rig_request *beyond = core_rig_zero(&rig, BLOCKS - 1, 2, 0);
	core_rig_run(&rig);
	assert_int_equal(beyond->error, -EINVAL);
}

static void it_is_answered_when_every_named_slot_has_done_it(void **state)
{
	(void)state;
	core_rig_write(&rig, 100, 1, 5);
	rig.sleds[1].holds_down = true;
	const struct rig_request *written = core_rig_zero(&rig, 100, 1, 0);
	const struct rig_request *empty = core_rig_zero(&rig, 300, 1, 0);
	core_rig_run(&rig);
	assert_false(written->is_done || empty->is_done);
	rig.sleds[1].holds_down = false;
	expect_done(written);
	expect_done(empty);
}

static void one_that_is_superseded_acknowledges_nothing(void **state)
{
	(void)state;
	struct crucible_message message = {
		.type = CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE,
		.session = { .generation = 100 },
	};
	const struct rig_request *empty = core_rig_zero(&rig, 300, 1, 0);
	upstairs_received(rig.core, 1, &message);
	assert_true(empty->is_done);
	assert_int_equal(empty->error, -EIO);
}

static void zeros_are_replayed_to_a_slot_that_was_away_and_by_the_next_process(void **state)
{
	(void)state;
	core_rig_write(&rig, 0, 1500, 5);
	core_rig_write(&rig, 1500, 1500, 5);
	core_rig_flush(&rig);
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 100);
	expect_done(core_rig_zero(&rig, 10, PART + 20, 0));
	core_rig_write(&rig, 20, 1, 7); /* over it */
	core_rig_kill_core(&rig);
	for (unsigned i = 0; i < 2; i++) {
		core_rig_stop_sled(&rig, i);
		core_rig_start_sled(&rig, i);
	}
	core_rig_start_sled(&rig, 2);
	core_rig_serve(&rig);
	core_rig_pass(&rig, 3000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
	for (uint64_t block = 0; block < 3000; block++)
		assert_true(core_rig_are_equal(&rig, block));
	core_rig_expect(&rig, 5, 5, 5);
	core_rig_expect(&rig, 10, 10, 0);
	core_rig_expect(&rig, 20, 1, 7);
	core_rig_expect(&rig, 21, PART, 0);
	core_rig_expect(&rig, 21 + PART, 9, 0);
	core_rig_expect(&rig, 10 + PART + 20, 5, 5);
}

static void a_slot_that_dies_in_the_middle_holds_up_nobody(void **state)
{
	(void)state;
	core_rig_write(&rig, 1, PART, 5);
	core_rig_write(&rig, 1 + PART, PART, 5);
	rig.sleds[0].holds_up = true;
	const struct rig_request *zero = core_rig_zero(&rig, 1, 3 * PART, 0);
	core_rig_run(&rig);
	assert_false(zero->is_done);
	core_rig_stop_sled(&rig, 0);
	rig.sleds[0].holds_up = false;
	core_rig_pass(&rig, 1000);
	assert_true(zero->is_done);
	assert_int_equal(zero->error, 0);
	core_rig_start_sled(&rig, 0);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 0), SLOT_COUNTED);
	for (uint64_t block = 0; block < BLOCKS; block += 97)
		assert_true(core_rig_are_equal(&rig, block));
}

static void a_long_one_does_not_fill_the_history(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 20; i++) /* ten times what the history has room for, were it kept as bytes */
		expect_done(core_rig_zero(&rig, 0, BLOCKS, UPSTAIRS_NO_HOLE));
	core_rig_expect(&rig, 4000, 10, 0);
}

static void without_memory_the_request_fails_and_later_ones_do_not(void **state)
{
	(void)state;
	for (unsigned i = 1; i < 8; i++) {
		rig.allocations_until_failure = i;
		const struct rig_request *zero = core_rig_zero(&rig, 0, BLOCKS, i % 2 ? UPSTAIRS_NO_HOLE : 0);
		core_rig_pass(&rig, 20000);
		rig.allocations_until_failure = 0;
		assert_true(zero->is_done);
		assert_true(zero->error == 0 || zero->error == -ENOMEM);
		core_rig_pass(&rig, 20000);
		expect_done(core_rig_zero(&rig, 0, 10, UPSTAIRS_NO_HOLE));
	}
}

static void two_blocks_of_zeros_do_not_look_alike_when_encrypted(void **state)
{
	(void)state;
	expect_done(core_rig_zero(&rig, 10, 2, UPSTAIRS_NO_HOLE));
	const struct image_layout *layout = disk_layout(rig.sleds[0].disk);
	const uint8_t *image = disk_image(rig.sleds[0].disk, 0);
	assert_memory_not_equal(
		image + image_data_at(layout, 10), image + image_data_at(layout, 11), CORE_BLOCK);
	core_rig_expect(&rig, 10, 2, 0);
}

int main(void)
{
	static uint8_t key[INTEGRITY_KEY_SIZE] = { 1, 2, 3 };
#define plain(test) { #test, test, setup, teardown, NULL }
#define encrypted(test) { #test "_encrypted", test, setup, teardown, key }
	const struct CMUnitTest tests[] = {
		plain(what_is_empty_stays_empty_and_every_slot_is_asked_whether_we_still_own_it),
		plain(no_hole_writes_everything),
		encrypted(no_hole_writes_everything),
		plain(only_what_may_be_something_else_is_written),
		encrypted(only_what_may_be_something_else_is_written),
		plain(fast_zero_is_done_only_where_nothing_is_to_be_written),
		plain(a_request_of_any_length_becomes_parts),
		encrypted(a_request_of_any_length_becomes_parts),
		plain(it_is_answered_when_every_named_slot_has_done_it),
		plain(one_that_is_superseded_acknowledges_nothing),
		plain(zeros_are_replayed_to_a_slot_that_was_away_and_by_the_next_process),
		encrypted(zeros_are_replayed_to_a_slot_that_was_away_and_by_the_next_process),
		plain(a_slot_that_dies_in_the_middle_holds_up_nobody),
		plain(a_long_one_does_not_fill_the_history),
		encrypted(a_long_one_does_not_fill_the_history),
		plain(without_memory_the_request_fails_and_later_ones_do_not),
		encrypted(two_blocks_of_zeros_do_not_look_alike_when_encrypted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
