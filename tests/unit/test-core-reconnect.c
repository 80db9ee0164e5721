/* test-core-reconnect.c: how often a slot that is away is tried, and what is said when another client holds it. */
#include <stdio.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, 4, 2, NULL);
	core_rig_serve(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

/* Attempts to reach slot 2 within that time. */
static uint64_t attempts_in(uint64_t ms)
{
	uint64_t before = rig.sleds[2].connects;
	core_rig_pass(&rig, ms);
	return rig.sleds[2].connects - before;
}

static void slot_that_is_away_is_tried_soon_and_then_seldom(void **state)
{
	(void)state;
	core_rig_pass(&rig, 10000); /* a session that was good */
	core_rig_stop_sled(&rig, 2);
	assert_int_equal(attempts_in(130), 1);
	assert_in_range(attempts_in(10000), 4, 9);
	for (unsigned minute = 0; minute < 10; minute++)
		assert_in_range(attempts_in(60000), 9, 17); /* every 3.75 to 6.25 s */
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 6300);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
}

static void good_session_starts_over(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 100000);
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 20000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
	core_rig_stop_sled(&rig, 2);
	core_rig_start_sled(&rig, 2);
	core_rig_pass(&rig, 130);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
}

/* It negotiates and goes away again, over and over. */
static void slot_that_comes_and_goes_is_tried_less_and_less(void **state)
{
	(void)state;
	uint64_t before = rig.sleds[2].connects;
	for (unsigned second = 0; second < 300; second++) {
		core_rig_stop_sled(&rig, 2);
		core_rig_start_sled(&rig, 2);
		core_rig_pass(&rig, 1000);
	}
	assert_in_range(rig.sleds[2].connects - before, 45, 110);
}

/* Nobody's volumes come back in step. */
static void delays_differ(void **state)
{
	(void)state;
	uint64_t last = rig.now, delays[8];
	bool differ = false;
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 60000);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t before = rig.sleds[2].connects;
		last = rig.now;
		while (rig.sleds[2].connects == before)
			core_rig_pass(&rig, 1);
		delays[i] = rig.now - last;
		differ = differ || (i > 1 && delays[i] != delays[1]);
	}
	assert_true(differ);
}

/* Another client with our generation is active on slot 2, as if a start had been given the same one twice. */
static void hold_slot(struct rig_sled *sled, uint64_t generation)
{
	uint8_t frame[200];
	struct crucible_message hello = { .type = CRUCIBLE_HERE_I_AM };
	hello.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
	hello.here_i_am.session = (struct crucible_session){ .upstairs_id = { { 99 } }, .session_id = { { 98 } },
		.generation = generation };
	struct crucible_message promote = { .type = CRUCIBLE_PROMOTE_TO_ACTIVE, .session = hello.here_i_am.session };
	struct downstairs_connection *other = downstairs_connected(sled->downstairs, NULL);
	ssize_t length = crucible_encode(&hello, frame, sizeof frame);
	downstairs_received(other, frame, (size_t)length);
	length = crucible_encode(&promote, frame, sizeof frame);
	downstairs_received(other, frame, (size_t)length);
}

static void equal_generation_is_told_and_does_not_loop(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 50);
	core_rig_start_sled(&rig, 2);
	hold_slot(&rig.sleds[2], rig.generation);
	core_rig_pass(&rig, 2000);
	assert_non_null(strstr(rig.reports[2], "another client with an equal or higher generation is active"));
	/* and again, but not at each attempt */
	unsigned told = 0;
	for (unsigned minute = 0; minute < 10; minute++) {
		rig.reports[2][0] = '\0';
		assert_in_range(attempts_in(60000), 9, 17);
		told += rig.reports[2][0] != '\0';
	}
	assert_in_range(told, 5, 10);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	core_rig_write(&rig, 1, 1, 7);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(slot_that_is_away_is_tried_soon_and_then_seldom),
		test(good_session_starts_over),
		test(slot_that_comes_and_goes_is_tried_less_and_less),
		test(delays_differ),
		test(equal_generation_is_told_and_does_not_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
