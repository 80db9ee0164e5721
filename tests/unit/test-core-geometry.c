/* test-core-geometry.c: which geometry a volume has, when its slots do not agree. */
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 4, EXTENTS = 3 };
static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, EXTENT, EXTENTS, NULL);
	core_rig_serve(&rig); /* the record knows the regions from now on */
	core_rig_release(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

/* The region with the same UUID, and another number of extents. */
static void make_extents(unsigned index, uint32_t count)
{
	core_rig_stop_sled(&rig, index);
	disk_free(rig.sleds[index].disk);
	rig.sleds[index].disk = NULL;
	rig.sleds[index].region.extent_count = count;
	core_rig_start_sled(&rig, index);
}

static void expect_failed(unsigned index, enum upstairs_trouble trouble)
{
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	assert_int_equal(status.slots[index].state, UPSTAIRS_SLOT_FAILED);
	assert_int_equal(status.slots[index].trouble, trouble);
}

static void expect_service_without(unsigned wrong)
{
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (i != wrong)
			assert_int_equal(core_rig_phase(&rig, i), SLOT_COUNTED);
	}
	uint64_t block_size, blocks;
	upstairs_geometry(rig.core, &block_size, &blocks);
	assert_int_equal(blocks, EXTENT * EXTENTS);
	core_rig_write(&rig, 0, EXTENT * EXTENTS, 7);
	core_rig_expect(&rig, 0, EXTENT * EXTENTS, 7);
}

static void a_wrong_one_is_outvoted_whenever_it_comes(void **state)
{
	for (unsigned wrong = 0; wrong < UPSTAIRS_SLOTS; wrong++) {
		make_extents(wrong, EXTENTS - 1);
		core_rig_serve(&rig);
		expect_failed(wrong, UPSTAIRS_TROUBLE_MISFIT);
		expect_service_without(wrong);
		teardown(state);
		setup(state);
	}
}

static void two_that_differ_wait_for_the_third(void **state)
{
	(void)state;
	make_extents(0, EXTENTS + 1);
	core_rig_stop_sled(&rig, 2);
	core_rig_start(&rig);
	core_rig_pass(&rig, 100000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_ACTIVATING);
	assert_int_equal(core_rig_sent(&rig, CRUCIBLE_EXTENT_VERSIONS_PLEASE), 3); /* of setup() */
	assert_non_null(strstr(rig.reports[1], "the third one decides"));
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 10000);
	expect_failed(0, UPSTAIRS_TROUBLE_MISFIT);
	expect_service_without(0);
}

static void three_that_differ_are_refused(void **state)
{
	(void)state;
	make_extents(0, EXTENTS + 1);
	make_extents(1, EXTENTS + 2);
	core_rig_start(&rig);
	core_rig_pass(&rig, 1000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_REFUSED);
	assert_string_equal(upstairs_reason(rig.core), "the slots show three different geometries");
}

static void one_region_does_not_vote_twice(void **state)
{
	teardown(state);
	core_rig_open(&rig, EXTENT, EXTENTS, NULL); /* no record knows the regions */
	make_extents(0, EXTENTS + 1);
	make_extents(1, EXTENTS + 1);
	rig.sleds[1].region.uuid = rig.sleds[0].region.uuid;
	make_extents(1, EXTENTS + 1);
	core_rig_start(&rig);
	core_rig_pass(&rig, 1000);
	expect_failed(1, UPSTAIRS_TROUBLE_WRONG_REGION);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_ACTIVATING);
}

static void what_was_settled_stays_settled(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	make_extents(1, EXTENTS + 1);
	core_rig_pass(&rig, 1000);
	expect_failed(1, UPSTAIRS_TROUBLE_MISFIT);
	expect_service_without(1);
}

int main(void)
{
#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(a_wrong_one_is_outvoted_whenever_it_comes),
		test(two_that_differ_wait_for_the_third),
		test(three_that_differ_are_refused),
		test(one_region_does_not_vote_twice),
		test(what_was_settled_stays_settled),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
