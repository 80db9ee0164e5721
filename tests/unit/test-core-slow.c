/* test-core-slow.c: one slot that is slow, or does not answer at all, holds up nobody for longer than `leave_after`. */
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 512, EXTENTS = 4, LONG = 256 };
static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, EXTENT, EXTENTS, NULL);
	core_rig_serve(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

/* More than the history holds. */
static void expect_writes_to_go_on(void)
{
	struct rig_request *requests[64];
	unsigned held = 0;
	for (unsigned i = 0; i < 64; i++) {
		requests[i] = core_rig_submit(&rig, UPSTAIRS_WRITE, i * 7 % (EXTENT * EXTENTS - LONG), LONG, (uint8_t)i);
		core_rig_run(&rig);
		held += !requests[i]->is_done;
	}
	assert_true(held > 0);
	core_rig_pass(&rig, rig.options.leave_after + 1000);
	for (unsigned i = 0; i < 64; i++)
		assert_true(requests[i]->is_done && requests[i]->error == 0);
}

static void counted_slot_that_is_silent_leaves(void **state)
{
	(void)state;
	rig.sleds[1].holds_down = true;
	expect_writes_to_go_on();
	assert_non_null(strstr(rig.reports[1], "does not answer"));
	assert_false(rig.record.in_sync[1]);
}

/* It was away for a moment, and hangs as soon as it is written again. */
static void returning_slot_that_hangs_is_given_up(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 10);
	core_rig_write(&rig, 3, 4, 9);
	rig.sleds[2].hangs_at_write = true;
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 300);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_REPLAY);
	expect_writes_to_go_on();
	assert_non_null(strstr(rig.reports[2], "too slow to come back"));
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(counted_slot_that_is_silent_leaves),
		test(returning_slot_that_hangs_is_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
