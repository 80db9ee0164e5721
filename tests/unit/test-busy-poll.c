/* test-busy-poll.c: when the server looks again, and when it sleeps. */
#include "unit.h"

#include "nbd/busy-poll.h"

enum { LIMIT = 50000 };

static void the_first_gap_is_slept_through(void **state)
{
	(void)state;
	struct busy_poll poll = { .limit = LIMIT };
	busy_poll_begin(&poll, 1000);
	assert_false(busy_poll_goes_on(&poll, 1001));
}

static void a_short_gap_makes_the_next_one_worth_looking(void **state)
{
	(void)state;
	struct busy_poll poll = { .limit = LIMIT };
	busy_poll_begin(&poll, 1000);
	busy_poll_end(&poll, 1000 + LIMIT);
	assert_false(busy_poll_goes_on(&poll, 1000 + LIMIT)); /* nothing was answered since */
	busy_poll_begin(&poll, 200000);
	assert_true(busy_poll_goes_on(&poll, 200000));
	assert_true(busy_poll_goes_on(&poll, 200000 + LIMIT));
}

static void a_long_gap_ends_it_until_one_was_short_again(void **state)
{
	(void)state;
	struct busy_poll poll = { .limit = LIMIT, .is_worthwhile = true };
	busy_poll_begin(&poll, 1000);
	assert_false(busy_poll_goes_on(&poll, 1001 + LIMIT));
	busy_poll_end(&poll, 1000 + 2 * LIMIT);
	busy_poll_begin(&poll, 500000);
	assert_false(busy_poll_goes_on(&poll, 500001));
	busy_poll_end(&poll, 500002);
	busy_poll_begin(&poll, 600000);
	assert_true(busy_poll_goes_on(&poll, 600001));
}

static void without_a_limit_nothing_is_looked_for(void **state)
{
	(void)state;
	struct busy_poll poll = { .limit = 0 };
	for (uint64_t now = 1; now < 10; now += 2) {
		busy_poll_begin(&poll, now);
		assert_false(busy_poll_goes_on(&poll, now));
		busy_poll_end(&poll, now + 1);
	}
	assert_false(poll.is_worthwhile);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_gap_is_slept_through),
		cmocka_unit_test(a_short_gap_makes_the_next_one_worth_looking),
		cmocka_unit_test(a_long_gap_ends_it_until_one_was_short_again),
		cmocka_unit_test(without_a_limit_nothing_is_looked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
