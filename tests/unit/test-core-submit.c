/* test-core-submit.c: writes that are answered as soon as they are sent (write_ack = submit). */
#include "core-rig.h"
#include "unit.h"

static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, 16, 4, NULL);
	rig.options.ack_on_submit = true;
	core_rig_serve(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void hold(bool is_held)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.sleds[i].holds_up = is_held;
}

static void a_write_is_answered_before_a_copy_has_it(void **state)
{
	(void)state;
	hold(true);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 2, 7);
	assert_true(write->is_done);
	assert_int_equal(write->error, 0);
	assert_false(core_rig_is_written(&rig, 0, 3));
	hold(false);
	core_rig_run(&rig);
	core_rig_expect(&rig, 3, 2, 7);
	assert_true(core_rig_are_equal(&rig, 3));
}

static void a_flush_waits_for_all_copies(void **state)
{
	(void)state;
	rig.sleds[2].holds_up = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 2, 7);
	struct rig_request *flush = core_rig_submit(&rig, UPSTAIRS_FLUSH, 0, 0, 0);
	core_rig_run(&rig);
	assert_true(write->is_done);
	assert_false(flush->is_done);
	rig.sleds[2].holds_up = false;
	core_rig_run(&rig);
	assert_true(flush->is_done);
}

static void a_read_sees_what_was_answered(void **state)
{
	(void)state;
	hold(true);
	core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 7);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	hold(false);
	core_rig_run(&rig);
	assert_true(read->is_done);
	assert_int_equal(read->data[0], 7);
}

static void what_was_answered_outlives_the_process(void **state)
{
	(void)state;
	hold(true);
	core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 7);
	core_rig_kill_core(&rig);
	hold(false);
	core_rig_serve(&rig);
	core_rig_expect(&rig, 3, 1, 7);
}

static void nothing_is_answered_at_once_while_a_copy_leaves_or_is_away(void **state)
{
	(void)state;
	rig.holds_record = true;
	core_rig_stop_sled(&rig, 1);
	core_rig_run(&rig);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 7);
	core_rig_run(&rig);
	assert_false(write->is_done);
	rig.holds_record = false;
	core_rig_pass(&rig, 3000);
	assert_true(write->is_done);
	core_rig_stop_sled(&rig, 0);
	core_rig_run(&rig);
	write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 8);
	core_rig_pass(&rig, 5000);
	assert_false(write->is_done);
	core_rig_start_sled(&rig, 0);
	core_rig_pass(&rig, 20000);
	assert_true(write->is_done);
	core_rig_expect(&rig, 3, 1, 8);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_write_is_answered_before_a_copy_has_it),
		test(a_flush_waits_for_all_copies),
		test(a_read_sees_what_was_answered),
		test(what_was_answered_outlives_the_process),
		test(nothing_is_answered_at_once_while_a_copy_leaves_or_is_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
