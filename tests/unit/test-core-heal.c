/* test-core-heal.c: a block that one copy has damaged and others have not (design 6.11). */
#include <errno.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 4 };
static struct core_rig rig;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	core_rig_serve(&rig);
	core_rig_write(&rig, 1, 8, 5);
	core_rig_flush(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void prefer(unsigned index)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.core->slots[i].read_cost = i == index ? 1 : 100000;
}

/* A bit of the block's data is another one on this slot. */
static void rot(unsigned index, uint64_t block)
{
	disk_damage(rig.sleds[index].disk, block, PIECE_DATA);
}

static void expect_counts(unsigned index, uint64_t damaged, uint64_t healed)
{
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	assert_int_equal(status.slots[index].damaged, damaged);
	assert_int_equal(status.slots[index].healed, healed);
}

static void the_guest_gets_a_good_copy_and_the_damaged_one_is_written_again(void **state)
{
	(void)state;
	rot(1, 3);
	prefer(1);
	core_rig_expect(&rig, 1, 8, 5);
	core_rig_run(&rig);
	for (uint64_t block = 1; block < 9; block++)
		assert_true(core_rig_are_equal(&rig, block));
	expect_counts(1, 1, 1);
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	prefer(1);
	core_rig_expect(&rig, 1, 8, 5); /* from that slot, which is good now */
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	expect_counts(1, 1, 1);
}

static void a_damaged_context_is_written_again_too(void **state)
{
	(void)state;
	disk_damage(rig.sleds[2].disk, 4, PIECE_CONTEXTS);
	core_rig_release(&rig); /* its downstairs has it in memory, perhaps */
	core_rig_stop_sled(&rig, 2);
	core_rig_start_sled(&rig, 2);
	core_rig_serve(&rig);
	prefer(2);
	core_rig_expect(&rig, 1, 8, 5);
	core_rig_run(&rig);
	expect_counts(2, 1, 1);
	prefer(2);
	core_rig_expect(&rig, 1, 8, 5);
	expect_counts(2, 1, 1);
}

static void many_blocks_of_one_read_are_healed_and_no_others_written(void **state)
{
	(void)state;
	for (uint64_t block = 2; block < 8; block += 2)
		rot(0, block);
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	prefer(0);
	core_rig_expect(&rig, 1, 8, 5);
	core_rig_run(&rig);
	expect_counts(0, 3, 3);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes + 3 * 3);
}

/* Trace (i): what was read of the good copy is older than what a guest writes meanwhile. */
static void a_guest_write_to_the_block_waits_and_wins(void **state)
{
	(void)state;
	rot(1, 3);
	prefer(1);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	rig.sleds[0].holds_down = true;
	core_rig_run(&rig); /* from here on the heal waits for slot 0 */
	assert_true(heal_holds(rig.core, 3, 1));
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 2, 3, 9);
	struct rig_request *zero = core_rig_zero(&rig, 3, 1, 0);
	core_rig_run(&rig);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	assert_false(write->is_done || zero->is_done);
	rig.sleds[0].holds_down = false;
	core_rig_run(&rig);
	assert_true(read->is_done && write->is_done && zero->is_done);
	assert_int_equal(read->data[0], 5);
	core_rig_expect(&rig, 2, 1, 9);
	core_rig_expect(&rig, 3, 1, 0);
	core_rig_expect(&rig, 4, 1, 9);
	assert_true(core_rig_are_equal(&rig, 3));
	expect_counts(1, 1, 1);
}

static void a_write_under_way_is_what_is_read(void **state)
{
	(void)state;
	rot(1, 3);
	prefer(1);
	rig.sleds[0].holds_up = true;
	core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9); /* behind the read, before the heal */
	core_rig_run(&rig);
	assert_false(write->is_done);
	rig.sleds[0].holds_up = false;
	core_rig_run(&rig);
	assert_true(write->is_done);
	core_rig_expect(&rig, 3, 1, 9);
	assert_true(core_rig_are_equal(&rig, 3));
	expect_counts(1, 1, 0); /* the guest has overwritten what was damaged */
}

static void good_copies_that_differ_are_reported_and_left_alone(void **state)
{
	(void)state;
	rot(1, 3);
	core_rig_replace_block(&rig, 2, 3, 66);
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	prefer(1);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	core_rig_run(&rig);
	assert_true(read->is_done);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	assert_string_equal(rig.reports[UPSTAIRS_SLOTS], "block 3 is not healed: its good copies differ");
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	assert_int_equal(status.unhealed, 1);
	assert_int_equal(status.slots[1].trouble, UPSTAIRS_TROUBLE_DAMAGED);
}

static void damaged_everywhere_fails_the_read_and_nothing_else(void **state)
{
	(void)state;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rot(i, 3);
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	core_rig_run(&rig);
	assert_true(read->is_done);
	assert_int_equal(read->error, -EIO);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	core_rig_expect(&rig, 4, 1, 5);
	core_rig_write(&rig, 3, 1, 8); /* the guest can always write it */
	core_rig_expect(&rig, 3, 1, 8);
}

static void damaged_in_different_places_is_read_block_by_block(void **state)
{
	(void)state;
	rot(0, 2);
	rot(1, 3);
	rot(2, 5);
	rot(1, 5);
	core_rig_expect(&rig, 1, 8, 5);
	core_rig_run(&rig);
	for (uint64_t block = 1; block < 9; block++)
		assert_true(core_rig_are_equal(&rig, block));
	core_rig_expect(&rig, 1, 8, 5);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rot(i, 6);
	rot(0, 2);
	rot(1, 3);
	rot(2, 4);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 8, 0);
	core_rig_run(&rig);
	assert_true(read->is_done);
	assert_int_equal(read->error, -EIO);
	core_rig_expect(&rig, 1, 5, 5);
	core_rig_expect(&rig, 7, 2, 5);
}

/* The third slot comes and goes meanwhile, and what is read is written. */
static void reading_block_by_block_bears_losses_and_writes(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 40; at++) {
		rot(0, 2);
		rot(1, 3);
		struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 8, 0);
		for (unsigned i = 0; i < at; i++)
			core_rig_step(&rig);
		core_rig_stop_sled(&rig, 2);
		struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 4, 4, 5);
		for (unsigned i = 0; i < 3; i++)
			core_rig_step(&rig);
		core_rig_start_sled(&rig, 2);
		core_rig_pass(&rig, 20000);
		assert_true(read->is_done && write->is_done);
		assert_int_equal(write->error, 0);
		assert_int_equal(read->error, 0);
		for (size_t i = 0; i < 8 * CORE_BLOCK; i++)
			assert_int_equal(read->data[i], 5);
		core_rig_expect(&rig, 1, 8, 5);
		core_rig_flush(&rig);
		core_rig_run(&rig);
	}
}

static void two_of_three_damaged_are_healed_by_the_third(void **state)
{
	(void)state;
	rot(0, 3);
	rot(2, 3);
	prefer(0);
	core_rig_expect(&rig, 3, 1, 5);
	core_rig_run(&rig);
	assert_true(core_rig_are_equal(&rig, 3));
	expect_counts(0, 1, 1);
}

static void bytes_where_nothing_was_ever_written_are_wiped(void **state)
{
	(void)state;
	rot(1, 12);
	prefer(1);
	core_rig_expect(&rig, 11, 3, 0);
	core_rig_run(&rig);
	assert_true(core_rig_are_equal(&rig, 12));
	prefer(1);
	core_rig_expect(&rig, 11, 3, 0);
	expect_counts(1, 1, 1);
}

static void never_written_against_written_is_nobody_s_guess(void **state)
{
	(void)state;
	core_rig_replace_block(&rig, 1, 12, 66);
	core_rig_release(&rig);
	core_rig_stop_sled(&rig, 1);
	core_rig_start_sled(&rig, 1);
	core_rig_serve(&rig);
	rot(1, 12);
	uint64_t writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	prefer(1);
	core_rig_expect(&rig, 12, 1, 0);
	core_rig_run(&rig);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	assert_string_equal(rig.reports[UPSTAIRS_SLOTS],
		"block 12 is not healed: one copy was written, and others say that it never was");
}

static void a_slot_lost_in_the_middle_makes_it_begin_again(void **state)
{
	(void)state;
	rot(1, 3);
	prefer(1);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	rig.sleds[1].holds_down = rig.sleds[2].holds_down = false;
	while (!heal_holds(rig.core, 3, 1)) {
		rig.sleds[2].holds_up = true; /* its part of the heal stays under way */
		core_rig_run(&rig);
	}
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9);
	core_rig_stop_sled(&rig, 2);
	rig.sleds[2].holds_up = false;
	core_rig_run(&rig);
	assert_true(read->is_done);
	core_rig_pass(&rig, 5000);
	assert_true(write->is_done); /* it has not waited for the slot */
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
	core_rig_expect(&rig, 3, 1, 9);
	assert_true(core_rig_are_equal(&rig, 3));
}

static void more_than_can_be_remembered_is_found_again(void **state)
{
	(void)state;
	core_rig_write(&rig, 0, EXTENT * EXTENTS, 7);
	core_rig_write(&rig, 0, EXTENT * EXTENTS, 7);
	for (uint64_t block = 0; block < EXTENT * EXTENTS; block++)
		rot(1, block);
	for (unsigned i = 0; i < 2; i++) {
		prefer(1);
		core_rig_expect(&rig, 0, EXTENT * EXTENTS, 7);
		core_rig_run(&rig);
	}
	expect_counts(1, EXTENT * EXTENTS, EXTENT * EXTENTS);
}

static void the_core_may_end_in_the_middle(void **state)
{
	(void)state;
	rot(1, 3);
	prefer(1);
	core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	rig.sleds[0].holds_down = true;
	core_rig_run(&rig);
	assert_true(heal_holds(rig.core, 3, 1));
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9);
	upstairs_fence(rig.core, "test");
	assert_int_equal(write->error, -EIO);
}

int main(void)
{
	static uint8_t key[INTEGRITY_KEY_SIZE] = { 1, 2, 3 };
#define plain(test) { #test, test, setup, teardown, NULL }
#define plain_and_encrypted(test) plain(test), { #test "_encrypted", test, setup, teardown, key }
	const struct CMUnitTest tests[] = {
		plain_and_encrypted(the_guest_gets_a_good_copy_and_the_damaged_one_is_written_again),
		plain_and_encrypted(a_damaged_context_is_written_again_too),
		plain_and_encrypted(many_blocks_of_one_read_are_healed_and_no_others_written),
		plain_and_encrypted(a_guest_write_to_the_block_waits_and_wins),
		plain_and_encrypted(a_write_under_way_is_what_is_read),
		plain_and_encrypted(good_copies_that_differ_are_reported_and_left_alone),
		plain_and_encrypted(damaged_everywhere_fails_the_read_and_nothing_else),
		plain_and_encrypted(damaged_in_different_places_is_read_block_by_block),
		plain_and_encrypted(reading_block_by_block_bears_losses_and_writes),
		plain_and_encrypted(two_of_three_damaged_are_healed_by_the_third),
		plain(bytes_where_nothing_was_ever_written_are_wiped),
		plain(never_written_against_written_is_nobody_s_guess),
		plain(a_slot_lost_in_the_middle_makes_it_begin_again),
		plain(more_than_can_be_remembered_is_found_again),
		plain(the_core_may_end_in_the_middle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
