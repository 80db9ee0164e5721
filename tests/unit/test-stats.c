#include "nbd/stats.h"
#include "scratch.h"
#include "unit.h"

static void each_bucket_ends_below_its_limit(void **state)
{
	(void)state;
	for (unsigned bucket = 0; bucket < LATENCY_BUCKETS - 1; bucket++) {
		assert_int_equal(stats_bucket(stats_bucket_limit(bucket) - 1), bucket);
		assert_int_equal(stats_bucket(stats_bucket_limit(bucket)), bucket + 1);
	}
}

static void limits_double_from_8_us_to_34_s(void **state)
{
	(void)state;
	assert_int_equal(stats_bucket_limit(0), 8192);
	for (unsigned bucket = 1; bucket < LATENCY_BUCKETS; bucket++)
		assert_int_equal(stats_bucket_limit(bucket), 2 * stats_bucket_limit(bucket - 1));
	assert_in_range(stats_bucket_limit(LATENCY_BUCKETS - 2), 34000000000u, 35000000000u);
}

static void no_time_falls_out_of_the_buckets(void **state)
{
	(void)state;
	assert_int_equal(stats_bucket(0), 0);
	assert_int_equal(stats_bucket(UINT64_MAX), LATENCY_BUCKETS - 1);
	struct random random = { 10 };
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t time = random_next(&random) >> random_below(&random, 64);
		unsigned bucket = stats_bucket(time);
		assert_true(bucket < LATENCY_BUCKETS);
		assert_true(bucket == LATENCY_BUCKETS - 1 || time < stats_bucket_limit(bucket));
		assert_true(bucket == 0 || time >= stats_bucket_limit(bucket - 1));
	}
}

static void a_request_is_counted_once_in_each_figure(void **state)
{
	(void)state;
	struct command_stats stats = { 0 };
	stats_count(&stats, 4096, 0, 10000);
	stats_count(&stats, 512, 0, 100);
	assert_int_equal(stats.operations, 2);
	assert_int_equal(stats.bytes, 4608);
	assert_int_equal(stats.errors, 0);
	assert_int_equal(stats.nanoseconds, 10100);
	assert_int_equal(stats.latency[0], 1);
	assert_int_equal(stats.latency[1], 1);
}

static void a_failed_request_moved_no_bytes(void **state)
{
	(void)state;
	struct command_stats stats = { 0 };
	stats_count(&stats, 4096, -5, 100);
	assert_int_equal(stats.operations, 1);
	assert_int_equal(stats.errors, 1);
	assert_int_equal(stats.bytes, 0);
	assert_int_equal(stats.latency[0], 1);
}

static void the_buckets_add_up_to_the_operations(void **state)
{
	(void)state;
	struct command_stats stats = { 0 };
	struct random random = { 11 };
	uint64_t sum = 0;
	for (unsigned i = 0; i < 1000; i++)
		stats_count(&stats, 1, random_below(&random, 4) ? 0 : -5,
			random_next(&random) >> (20 + random_below(&random, 40)));
	for (unsigned bucket = 0; bucket < LATENCY_BUCKETS; bucket++)
		sum += stats.latency[bucket];
	assert_int_equal(sum, 1000);
	assert_int_equal(stats.operations, 1000);
	assert_int_equal(stats.bytes + stats.errors, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_bucket_ends_below_its_limit),
		cmocka_unit_test(limits_double_from_8_us_to_34_s),
		cmocka_unit_test(no_time_falls_out_of_the_buckets),
		cmocka_unit_test(a_request_is_counted_once_in_each_figure),
		cmocka_unit_test(a_failed_request_moved_no_bytes),
		cmocka_unit_test(the_buckets_add_up_to_the_operations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
