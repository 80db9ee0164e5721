/* test-rate-limit.c: what a rate limit lets through, and when. */
#include "unit.h"

#include "nbd/rate-limit.h"

/* How many requests of `bytes` are taken within `duration` by somebody who never stops asking. */
static uint64_t taken_within(struct rate_limit *limit, uint64_t from, uint64_t duration, uint64_t bytes)
{
	uint64_t count = 0, now = from;
	while (now < from + duration) {
		uint64_t wait = rate_limit_wait(limit, now);
		if (wait) {
			now += wait;
			continue;
		}
		rate_limit_take(limit, now, bytes);
		count++;
	}
	return count;
}

static void without_a_rate_nothing_waits(void **state)
{
	(void)state;
	struct rate_limit limit = { .burst = RATE_SECOND };
	assert_false(rate_limit_is_set(&limit));
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(rate_limit_wait(&limit, 1), 0);
		rate_limit_take(&limit, 1, 32 << 20);
	}
}

static void the_rate_holds_behind_the_burst(void **state)
{
	(void)state;
	struct rate_limit limit = { .requests = 100, .burst = RATE_SECOND };
	uint64_t start = UINT64_C(1) << 40;
	/* the burst's hundred at once, and one that begins within it */
	assert_int_equal(taken_within(&limit, start, 1, 4096), 101);
	assert_in_range(taken_within(&limit, start + 1, 10 * UINT64_C(1000000000), 4096), 999, 1001);
}

static void bytes_count_whatever_the_requests_are(void **state)
{
	(void)state;
	struct rate_limit small = { .bytes = 1 << 20, .burst = RATE_SECOND }, large = small;
	uint64_t ten = 10 * UINT64_C(1000000000);
	assert_in_range(taken_within(&small, 1, ten, 4096), 11 * 256 - 2, 11 * 256 + 2);
	/* one of 32 MiB is taken whole, and paid for with half a minute */
	assert_int_equal(taken_within(&large, 1, ten, 32 << 20), 1);
	assert_in_range(rate_limit_wait(&large, ten), 20 * UINT64_C(1000000000), 22 * UINT64_C(1000000000));
}

static void the_stricter_of_two_rates_holds(void **state)
{
	(void)state;
	struct rate_limit limit = { .requests = 10, .bytes = 1 << 20, .burst = RATE_SECOND };
	assert_int_equal(taken_within(&limit, 1, 1, 4096), 11);
	assert_int_equal(rate_limit_wait(&limit, 1), RATE_SECOND / 10);
}

static void idle_time_is_worth_one_burst_and_no_more(void **state)
{
	(void)state;
	struct rate_limit limit = { .requests = 10, .burst = 2 * UINT64_C(1000000000) };
	assert_int_equal(taken_within(&limit, 1, 1, 0), 21);
	assert_int_equal(taken_within(&limit, UINT64_C(1) << 50, 1, 0), 21);
}

/* The smallest rate and the largest request: the arithmetic holds. */
static void a_byte_a_second_does_not_overflow(void **state)
{
	(void)state;
	struct rate_limit limit = { .bytes = 1, .burst = 3600 * UINT64_C(1000000000) };
	uint64_t now = UINT64_C(1) << 60;
	rate_limit_take(&limit, now, 32 << 20);
	assert_int_equal(rate_limit_wait(&limit, now), (UINT64_C(32) << 20) * 1000000000 - limit.burst);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_rate_nothing_waits),
		cmocka_unit_test(the_rate_holds_behind_the_burst),
		cmocka_unit_test(bytes_count_whatever_the_requests_are),
		cmocka_unit_test(the_stricter_of_two_rates_holds),
		cmocka_unit_test(idle_time_is_worth_one_burst_and_no_more),
		cmocka_unit_test(a_byte_a_second_does_not_overflow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
