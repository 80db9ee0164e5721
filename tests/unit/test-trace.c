/* test-trace.c: the ring keeps the newest requests, and says which they are. */
#include "unit.h"

#include "nbd/trace.h"

static void an_empty_ring_has_nothing(void **state)
{
	(void)state;
	struct trace trace = { 0 };
	assert_null(trace_from(&trace, 1));
	assert_null(trace_from(&trace, 0));
	trace_free(&trace);
}

static void each_is_found_by_its_number_as_long_as_it_is_there(void **state)
{
	(void)state;
	struct trace trace = { 0 };
	for (uint64_t i = 1; i <= 3 * TRACE_ENTRIES + 7; i++) {
		struct trace_entry *entry = trace_next(&trace);
		assert_int_equal(entry->number, i);
		assert_int_equal(entry->offset, 0); /* nothing of the one that it replaces */
		entry->offset = 10 * i;
		uint64_t oldest = i > TRACE_ENTRIES ? i - TRACE_ENTRIES + 1 : 1;
		assert_int_equal(trace_from(&trace, 0)->number, oldest);
		assert_int_equal(trace_from(&trace, oldest)->offset, 10 * oldest);
		assert_int_equal(trace_from(&trace, i)->offset, 10 * i);
		assert_null(trace_from(&trace, i + 1));
		assert_null(trace_from(&trace, UINT64_MAX));
	}
	trace_free(&trace);
	assert_null(trace_from(&trace, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_ring_has_nothing),
		cmocka_unit_test(each_is_found_by_its_number_as_long_as_it_is_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
