/* test-core-one-copy.c: volumes that go on with a single copy (min_copies = 1). */
#include "core-rig.h"
#include "unit.h"

static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, 16, 4, NULL);
	rig.options.min_copies = 1;
	core_rig_serve(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void stop_but(unsigned kept)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (i != kept)
			core_rig_stop_sled(&rig, i);
	}
	core_rig_pass(&rig, 1000);
}

static void expect_record(bool first, bool second, bool third)
{
	assert_int_equal(rig.record.in_sync[0], first);
	assert_int_equal(rig.record.in_sync[1], second);
	assert_int_equal(rig.record.in_sync[2], third);
}

static void start_others(unsigned kept)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (i != kept)
			core_rig_start_sled(&rig, i);
	}
	core_rig_pass(&rig, 60000);
	expect_record(true, true, true);
}

static void the_last_copy_goes_on_once_the_record_names_no_other(void **state)
{
	(void)state;
	rig.holds_record = true;
	stop_but(1);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 2, 7);
	core_rig_pass(&rig, 1000);
	assert_false(write->is_done);
	rig.holds_record = false;
	core_rig_pass(&rig, 1000);
	assert_true(write->is_done);
	expect_record(false, true, false);
	core_rig_expect(&rig, 3, 2, 7);
	start_others(1);
	assert_true(core_rig_are_equal(&rig, 3));
}

static void without_any_copy_all_waits_until_one_has_what_the_history_has(void **state)
{
	(void)state;
	stop_but(1);
	core_rig_write(&rig, 3, 1, 7);
	core_rig_stop_sled(&rig, 1);
	core_rig_pass(&rig, 1000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_PAUSED);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	core_rig_pass(&rig, 1000);
	assert_false(read->is_done);
	core_rig_start_sled(&rig, 0); /* it has missed the write */
	core_rig_pass(&rig, 20000);
	expect_record(true, false, false);
	assert_true(read->is_done);
	assert_int_equal(read->data[0], 7);
}

static void silent_ones_are_left_to_the_last(void **state)
{
	(void)state;
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 7);
	core_rig_pass(&rig, 1000);
	assert_false(write->is_done);
	core_rig_pass(&rig, 4000);
	assert_true(write->is_done);
	expect_record(false, true, false);
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = false;
	core_rig_pass(&rig, 60000);
	expect_record(true, true, true);
	assert_true(core_rig_are_equal(&rig, 3));
}

/* After the loss of the host, with what was not flushed. */
static void one_that_holds_all_is_enough_to_start(void **state)
{
	(void)state;
	core_rig_write(&rig, 3, 1, 7);
	core_rig_lose_host(&rig);
	core_rig_stop_sled(&rig, 0);
	core_rig_stop_sled(&rig, 1);
	core_rig_start(&rig);
	core_rig_pass(&rig, 5000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	expect_record(false, false, true);
	core_rig_expect(&rig, 3, 1, 7);
	core_rig_write(&rig, 3, 1, 8);
	start_others(2);
	assert_true(core_rig_are_equal(&rig, 3));
	core_rig_expect(&rig, 3, 1, 8);
}

static void one_that_missed_something_is_not(void **state)
{
	(void)state;
	stop_but(1);
	core_rig_write(&rig, 3, 1, 7);
	core_rig_lose_host(&rig);
	core_rig_stop_sled(&rig, 1);
	core_rig_start_sled(&rig, 0);
	core_rig_start_sled(&rig, 2);
	core_rig_start(&rig);
	core_rig_pass(&rig, 60000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_ACTIVATING);
	core_rig_start_sled(&rig, 1);
	core_rig_pass(&rig, 60000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	core_rig_expect(&rig, 3, 1, 7);
}

static void a_first_start_needs_all_three(void **state)
{
	(void)state;
	core_rig_close(&rig);
	core_rig_open(&rig, 16, 4, NULL);
	rig.options.min_copies = 1;
	core_rig_stop_sled(&rig, 2);
	core_rig_start(&rig);
	core_rig_pass(&rig, 60000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_ACTIVATING);
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 60000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
}

static void a_slot_may_be_replaced_beside_a_single_copy_but_not_that_itself(void **state)
{
	(void)state;
	assert_true(upstairs_may_replace(rig.core, 0));
	core_rig_stop_sled(&rig, 0);
	core_rig_pass(&rig, 1000);
	assert_true(upstairs_may_replace(rig.core, 0));
	assert_false(upstairs_may_replace(rig.core, 1)); /* never from two to one by order */
	core_rig_stop_sled(&rig, 1);
	core_rig_pass(&rig, 1000);
	assert_true(upstairs_may_replace(rig.core, 0));
	assert_false(upstairs_may_replace(rig.core, 2));
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(the_last_copy_goes_on_once_the_record_names_no_other),
		test(without_any_copy_all_waits_until_one_has_what_the_history_has),
		test(silent_ones_are_left_to_the_last),
		test(one_that_holds_all_is_enough_to_start),
		test(one_that_missed_something_is_not),
		test(a_first_start_needs_all_three),
		test(a_slot_may_be_replaced_beside_a_single_copy_but_not_that_itself),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
