/* test-core-scrub.c: a pass that reads and compares all copies of all blocks (scrub.c). */
#include <errno.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 4, BLOCKS = EXTENT * EXTENTS };
static struct core_rig rig;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	core_rig_serve(&rig);
	core_rig_write(&rig, 0, BLOCKS / 2, 5);
	core_rig_flush(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static struct upstairs_status status(void)
{
	struct upstairs_status now;
	upstairs_status(rig.core, &now);
	return now;
}

static void rot(unsigned index, uint64_t block)
{
	disk_damage(rig.sleds[index].disk, block, PIECE_DATA);
}

static void scrub_all(void)
{
	uint64_t passes = status().scrub.passes;
	assert_int_equal(upstairs_scrub(rig.core, 0), 0);
	core_rig_run(&rig);
	assert_int_equal(status().scrub.passes, passes + 1);
	assert_false(status().scrub.is_running);
}

static void every_copy_is_read_and_nothing_written(void **state)
{
	(void)state;
	uint64_t reads = core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), writes = core_rig_sent(&rig, CRUCIBLE_WRITE);
	scrub_all();
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), reads + EXTENTS * UPSTAIRS_SLOTS);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_WRITE), writes);
	assert_int_equal(status().scrub.differing, 0);
	scrub_all();
}

static void what_has_rotted_on_each_copy_is_healed(void **state)
{
	(void)state;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		rot(i, i);
		rot(i, EXTENT + 3 * i);
	}
	scrub_all();
	assert_int_equal(status().scrub.differing, 2 * UPSTAIRS_SLOTS);
	assert_int_equal(status().unhealed, 0);
	for (uint64_t block = 0; block < BLOCKS; block++)
		assert_true(core_rig_are_equal(&rig, block));
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		assert_int_equal(status().slots[i].damaged, 2);
		assert_int_equal(status().slots[i].healed, 2);
	}
	scrub_all();
	assert_int_equal(status().scrub.differing, 2 * UPSTAIRS_SLOTS);
}

/* More than heal.c takes at once. */
static void more_damage_than_can_be_queued_is_healed_too(void **state)
{
	(void)state;
	core_rig_close(&rig);
	core_rig_open(&rig, 256, 1, *state);
	core_rig_serve(&rig);
	core_rig_write(&rig, 0, 256, 5);
	core_rig_flush(&rig);
	for (uint64_t block = 0; block < 256; block += 2)
		rot(1, block);
	scrub_all();
	assert_int_equal(status().scrub.differing, 128);
	assert_int_equal(status().slots[1].healed, 128);
	for (uint64_t block = 0; block < 256; block++)
		assert_true(core_rig_are_equal(&rig, block));
}

/* Slot 2 has missed a write, and nothing shows it. */
static void valid_copies_that_differ_are_reported_and_left_alone(void **state)
{
	(void)state;
	core_rig_replace_block(&rig, 2, 3, 66);
	scrub_all();
	assert_int_equal(status().scrub.differing, 1);
	assert_int_equal(status().unhealed, 1);
	assert_non_null(strstr(rig.reports[UPSTAIRS_SLOTS], "scrub: all copies have been read"));
	assert_false(core_rig_are_equal(&rig, 3));
}

static void the_rate_is_kept(void **state)
{
	(void)state;
	assert_int_equal(upstairs_scrub(rig.core, EXTENT * CORE_BLOCK), 0); /* an extent a second */
	core_rig_run(&rig);
	assert_int_equal(status().scrub.done, EXTENT);
	core_rig_pass(&rig, 900);
	assert_int_equal(status().scrub.done, EXTENT);
	core_rig_pass(&rig, 200);
	assert_int_equal(status().scrub.done, 2 * EXTENT);
	assert_true(status().scrub.is_running);
	assert_int_equal(upstairs_scrub(rig.core, 0), 0); /* faster from here on, not from the beginning */
	core_rig_run(&rig);
	assert_int_equal(status().scrub.passes, 1);
}

static void passes_begin_by_themselves_if_there_is_a_rate_for_them(void **state)
{
	core_rig_close(&rig);
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	rig.options.scrub_rate = BLOCKS * CORE_BLOCK * 10;
	rig.options.scrub_interval = 300000;
	core_rig_serve(&rig);
	core_rig_pass(&rig, SCRUB_FIRST_MS - 10000);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), 1); /* the fence's */
	core_rig_pass(&rig, 10000);
	assert_int_equal(status().scrub.passes, 1);
	core_rig_pass(&rig, 280000);
	assert_int_equal(status().scrub.passes, 1);
	core_rig_pass(&rig, 20000);
	assert_int_equal(status().scrub.passes, 2);
}

static void it_waits_while_a_copy_is_away(void **state)
{
	(void)state;
	assert_int_equal(upstairs_scrub(rig.core, EXTENT * CORE_BLOCK), 0);
	core_rig_run(&rig);
	core_rig_stop_sled(&rig, 1);
	core_rig_run(&rig);
	uint64_t done = status().scrub.done;
	assert_true(done < BLOCKS);
	core_rig_start_sled(&rig, 1);
	core_rig_pass(&rig, 20000);
	assert_int_equal(status().scrub.passes, 1);
}

static void a_slot_that_is_lost_meanwhile_is_read_again(void **state)
{
	(void)state;
	rig.sleds[1].holds_down = true;
	assert_int_equal(upstairs_scrub(rig.core, 0), 0);
	core_rig_run(&rig);
	core_rig_stop_sled(&rig, 1);
	rig.sleds[1].holds_down = false;
	core_rig_start_sled(&rig, 1);
	core_rig_pass(&rig, 20000);
	assert_int_equal(status().scrub.passes, 1);
	assert_int_equal(status().scrub.differing, 0);
	rot(1, BLOCKS / 2 - 1);
	scrub_all();
	assert_int_equal(status().slots[1].healed, 1);
	assert_true(core_rig_are_equal(&rig, BLOCKS / 2 - 1));
}

/* Slot 2 has it from its next start on. */
static void put_block(uint64_t block, uint8_t fill)
{
	core_rig_stop_sled(&rig, 2);
	core_rig_replace_block(&rig, 2, block, fill);
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
}

/* Zeros were written on one copy, and the others say that they never were: the same, and made so. */
static void zeros_and_what_was_never_written_are_the_same(void **state)
{
	(void)state;
	core_rig_close(&rig);
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	core_rig_serve(&rig);
	put_block(3, 0);
	scrub_all();
	assert_int_equal(status().unhealed, 0);
	assert_true(core_rig_are_equal(&rig, 3));
	scrub_all();
	assert_int_equal(status().scrub.differing, 1);
	put_block(5, 9);
	scrub_all();
	assert_int_equal(status().unhealed, 1);
	assert_false(core_rig_are_equal(&rig, 5));
}

static void it_can_be_stopped(void **state)
{
	(void)state;
	rig.sleds[0].holds_down = true;
	assert_int_equal(upstairs_scrub(rig.core, 0), 0);
	core_rig_run(&rig);
	assert_true(status().scrub.is_running);
	upstairs_scrub_stop(rig.core);
	rig.sleds[0].holds_down = false;
	core_rig_run(&rig);
	assert_false(status().scrub.is_running);
	assert_int_equal(status().scrub.passes, 0);
	core_rig_release(&rig);
}

static void a_release_ends_it(void **state)
{
	(void)state;
	assert_int_equal(upstairs_scrub(rig.core, EXTENT * CORE_BLOCK), 0);
	core_rig_run(&rig);
	core_rig_release(&rig);
}

static void a_volume_that_does_not_serve_is_not_scrubbed(void **state)
{
	(void)state;
	core_rig_intrude(&rig, 0, UINT64_C(1) << 40);
	core_rig_pass(&rig, 1000);
	assert_int_equal(upstairs_scrub(rig.core, 0), -EBUSY);
}

/* The guest writes what is being read. */
static void requests_go_on(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(upstairs_scrub(rig.core, 0), 0);
		core_rig_submit(&rig, UPSTAIRS_WRITE, i % BLOCKS, 1, (uint8_t)i);
		core_rig_step(&rig);
		core_rig_submit(&rig, UPSTAIRS_WRITE, (i * 7) % BLOCKS, 1, (uint8_t)i);
		core_rig_step(&rig);
	}
	core_rig_run(&rig);
	assert_true(status().scrub.passes > 0);
	assert_int_equal(status().scrub.differing, 0);
}

static uint8_t key[INTEGRITY_KEY_SIZE] = { 7 };

int main(void)
{
#define test(function) \
	{ #function, function, setup, teardown, NULL }, { #function "_encrypted", function, setup, teardown, key }
	const struct CMUnitTest tests[] = {
		test(every_copy_is_read_and_nothing_written),
		test(what_has_rotted_on_each_copy_is_healed),
		test(more_damage_than_can_be_queued_is_healed_too),
		test(valid_copies_that_differ_are_reported_and_left_alone),
		test(the_rate_is_kept),
		test(it_waits_while_a_copy_is_away),
		test(a_slot_that_is_lost_meanwhile_is_read_again),
		test(zeros_and_what_was_never_written_are_the_same),
		test(passes_begin_by_themselves_if_there_is_a_rate_for_them),
		test(it_can_be_stopped),
		test(a_release_ends_it),
		test(a_volume_that_does_not_serve_is_not_scrubbed),
		test(requests_go_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
