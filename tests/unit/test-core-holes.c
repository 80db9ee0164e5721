/* test-core-holes.c: what the core knows of blocks that were never written (design 6.10, issue: never by reading). */
#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 4, BLOCKS = EXTENT * EXTENTS };
static struct core_rig rig;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void expect_holes(uint64_t start, uint64_t count, bool is_hole)
{
	uint64_t alike;
	for (uint64_t block = start; block < start + count; block++)
		assert_int_equal(core_rig_is_hole(&rig, block), is_hole);
	assert_int_equal(upstairs_is_hole(rig.core, start, count, &alike), is_hole);
	assert_int_equal(alike, count);
}

static void a_fresh_volume_is_known_to_be_empty_without_a_read(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), 1); /* of the fence */
	expect_holes(0, 1, false);                                      /* which is written */
	expect_holes(1, BLOCKS - 1, true);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_READ_REQUEST), 1);
}

static void what_is_written_is_no_hole_from_the_submission_on(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	core_rig_submit(&rig, UPSTAIRS_WRITE, 20, 3, 9);
	expect_holes(20, 3, false);
	core_rig_run(&rig);
	expect_holes(1, 19, true);
	expect_holes(20, 3, false);
	expect_holes(23, BLOCKS - 23, true);
	core_rig_expect(&rig, 19, 1, 0);
	core_rig_expect(&rig, 20, 3, 9);
}

static void a_later_start_knows_whole_extents_and_learns_the_rest_by_reads(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	core_rig_write(&rig, 20, 3, 9); /* extent 1 */
	core_rig_release(&rig);
	core_rig_serve(&rig);
	expect_holes(0, 2 * EXTENT, false);
	expect_holes(2 * EXTENT, 2 * EXTENT, true);
	core_rig_expect(&rig, 23, 5, 0);
	expect_holes(23, 5, true);
	expect_holes(28, 4, false);
	core_rig_submit(&rig, UPSTAIRS_READ, 0, 2 * EXTENT, 0);
	core_rig_run(&rig);
	expect_holes(1, 19, true);
	expect_holes(20, 3, false);
	expect_holes(23, BLOCKS - 23, true);
}

static void a_start_after_a_kill_does_not_forget_what_the_history_has(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	core_rig_write(&rig, 2 * EXTENT, 2, 9);
	core_rig_write(&rig, 3 * EXTENT + 3, 1, 8);
	core_rig_kill_core(&rig);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		core_rig_stop_sled(&rig, i);
		core_rig_start_sled(&rig, i);
	}
	core_rig_serve(&rig);
	expect_holes(2 * EXTENT, 2 * EXTENT, false); /* dirty: nothing is known of them */
	expect_holes(EXTENT, EXTENT, true);
	core_rig_expect(&rig, 2 * EXTENT, 2, 9);
	core_rig_expect(&rig, 3 * EXTENT + 3, 1, 8);
	core_rig_expect(&rig, 3 * EXTENT, 3, 0);
	expect_holes(3 * EXTENT, 3, true);
}

static void a_read_with_a_write_behind_it_shows_nothing(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	core_rig_write(&rig, EXTENT, 1, 9);
	core_rig_release(&rig);
	core_rig_serve(&rig);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, EXTENT + 4, 4, 1);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, EXTENT + 5, 1, 7);
	core_rig_run(&rig);
	assert_true(read->is_done && write->is_done);
	assert_false(core_rig_is_hole(&rig, EXTENT + 5));
	core_rig_expect(&rig, EXTENT + 5, 1, 7);
}

static void an_extent_that_one_slot_has_touched_is_not_known(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	rig.sleds[1].holds_up = rig.sleds[2].holds_up = true;
	core_rig_submit(&rig, UPSTAIRS_WRITE, 2 * EXTENT, 1, 9);
	core_rig_run(&rig);
	core_rig_lose_host(&rig); /* a mend, without history */
	rig.sleds[1].holds_up = rig.sleds[2].holds_up = false;
	core_rig_serve(&rig);
	expect_holes(2 * EXTENT, EXTENT, false);
	expect_holes(3 * EXTENT, EXTENT, true);
	assert_true(core_rig_are_equal(&rig, 2 * EXTENT));
}

int main(void)
{
	static uint8_t key[INTEGRITY_KEY_SIZE] = { 1, 2, 3 };
#define plain_and_encrypted(test) \
	{ #test, test, setup, teardown, NULL }, { #test "_encrypted", test, setup, teardown, key }
	const struct CMUnitTest tests[] = {
		plain_and_encrypted(a_fresh_volume_is_known_to_be_empty_without_a_read),
		plain_and_encrypted(what_is_written_is_no_hole_from_the_submission_on),
		plain_and_encrypted(a_later_start_knows_whole_extents_and_learns_the_rest_by_reads),
		plain_and_encrypted(a_start_after_a_kill_does_not_forget_what_the_history_has),
		plain_and_encrypted(a_read_with_a_write_behind_it_shows_nothing),
		plain_and_encrypted(an_extent_that_one_slot_has_touched_is_not_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
