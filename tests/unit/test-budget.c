#include <stdlib.h>

#include "nbd/budget.h"
#include "scratch.h"
#include "unit.h"

enum { SHARES_MAX = 40 };

static struct budget budget;
static struct share shares[SHARES_MAX];

static void begin(size_t total, size_t limit)
{
	budget_init(&budget, total, limit);
	for (size_t i = 0; i < SHARES_MAX; i++)
		share_init(&shares[i]);
}

/* All of the first `count` take one byte after the other until nobody gets any more. */
static void be_greedy(size_t count)
{
	bool any = true;
	while (any) {
		any = false;
		for (size_t i = 0; i < count; i++)
			any = budget_take(&budget, &shares[i], 1) || any;
	}
}

static void what_is_taken_is_counted(void **state)
{
	(void)state;
	begin(1000, 600);
	assert_true(budget_take(&budget, &shares[0], 100));
	assert_true(budget_take(&budget, &shares[1], 50));
	assert_true(budget_take(&budget, &shares[0], 30));
	assert_int_equal(budget.used, 180);
	assert_int_equal(shares[0].used, 130);
	budget_give(&budget, &shares[0], 100);
	assert_int_equal(budget.used, 80);
	assert_int_equal(shares[0].used, 30);
}

static void one_greedy_share_leaves_half(void **state)
{
	(void)state;
	begin(1000, 1000);
	be_greedy(1);
	assert_int_equal(shares[0].used, 500);
}

static void k_greedy_shares_leave_one_part_in_k_and_1(void **state)
{
	(void)state;
	for (size_t k = 1; k <= SHARES_MAX; k++) {
		begin(1000 * (k + 1), SIZE_MAX / 2);
		be_greedy(k);
		for (size_t i = 0; i < k; i++)
			assert_int_equal(shares[i].used, 1000);
		assert_int_equal(budget.total - budget.used, 1000);
	}
}

static void a_newcomer_beside_greedy_shares_gets_something(void **state)
{
	(void)state;
	begin(1000, 1000);
	be_greedy(4);
	assert_true(budget_take(&budget, &shares[4], 100));
}

/* The first may take half; those that come later share what is left of it. */
static void shares_that_come_one_after_another_all_get_something(void **state)
{
	(void)state;
	begin(1 << 20, 1 << 20);
	for (size_t i = 0; i < 16; i++) {
		bool any = true;
		while (any)
			any = budget_take(&budget, &shares[i], 1);
		assert_true(shares[i].used > 0);
		assert_int_equal(shares[i].used, (size_t)(1 << 20) >> (i + 1));
	}
}

static void no_share_goes_beyond_its_limit(void **state)
{
	(void)state;
	begin(1000, 100);
	be_greedy(3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(shares[i].used, 100);
	assert_false(budget_take(&budget, &shares[3], 101));
	assert_true(budget_take(&budget, &shares[3], 100));
}

/* Or a client whose request is as large as it may be would wait for ever. */
static void a_request_as_large_as_the_limit_fits_into_an_idle_budget(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[0], 1000));
	assert_int_equal(budget.used, 1000);
	assert_false(budget_take(&budget, &shares[1], 1));
}

static void nothing_is_ready_while_nobody_waits(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_null(budget_next_ready(&budget));
	assert_true(budget_take(&budget, &shares[0], 10));
	assert_null(budget_next_ready(&budget));
}

static void refused_shares_are_tried_in_their_order(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[9], 1000));
	static const size_t order[] = { 3, 1, 2, 0 };
	for (size_t i = 0; i < 4; i++)
		assert_false(budget_take(&budget, &shares[order[i]], 10));
	assert_null(budget_next_ready(&budget));
	budget_give(&budget, &shares[9], 1000);
	for (size_t i = 0; i < 4; i++) {
		assert_ptr_equal(budget_next_ready(&budget), &shares[order[i]]);
		assert_true(budget_take(&budget, &shares[order[i]], 10));
	}
	assert_null(budget_next_ready(&budget));
}

static void a_share_that_does_not_fit_lets_the_next_one_go(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[9], 1000));
	assert_false(budget_take(&budget, &shares[0], 900));
	assert_false(budget_take(&budget, &shares[1], 50));
	budget_give(&budget, &shares[9], 200);
	assert_ptr_equal(budget_next_ready(&budget), &shares[1]);
	assert_true(budget_take(&budget, &shares[1], 50));
	assert_null(budget_next_ready(&budget));
	budget_give(&budget, &shares[9], 800);
	budget_give(&budget, &shares[1], 50);
	assert_ptr_equal(budget_next_ready(&budget), &shares[0]);
}

static void being_refused_again_keeps_the_place_in_the_queue(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[9], 1000));
	assert_false(budget_take(&budget, &shares[0], 10));
	assert_false(budget_take(&budget, &shares[1], 10));
	assert_false(budget_take(&budget, &shares[0], 20));
	budget_give(&budget, &shares[9], 1000);
	assert_ptr_equal(budget_next_ready(&budget), &shares[0]);
	assert_true(budget_take(&budget, &shares[0], 20));
	assert_ptr_equal(budget_next_ready(&budget), &shares[1]);
}

static void a_share_that_succeeds_leaves_the_queue(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[9], 1000));
	assert_false(budget_take(&budget, &shares[0], 10));
	budget_give(&budget, &shares[9], 1000);
	assert_true(budget_take(&budget, &shares[0], 10));
	assert_null(budget_next_ready(&budget));
}

static void a_share_that_stops_waiting_is_not_tried(void **state)
{
	(void)state;
	begin(1000, 1000);
	assert_true(budget_take(&budget, &shares[9], 1000));
	assert_false(budget_take(&budget, &shares[0], 10));
	assert_false(budget_take(&budget, &shares[1], 10));
	budget_stop_waiting(&shares[0]);
	budget_stop_waiting(&shares[0]);
	budget_stop_waiting(&shares[5]);
	budget_give(&budget, &shares[9], 1000);
	assert_ptr_equal(budget_next_ready(&budget), &shares[1]);
	assert_null(budget_next_ready(&budget));
}

static void check_sums(void)
{
	size_t sum = 0;
	for (size_t i = 0; i < SHARES_MAX; i++) {
		assert_true(shares[i].used <= budget.share_limit);
		sum += shares[i].used;
	}
	assert_int_equal(sum, budget.used);
	assert_true(budget.used <= budget.total);
}

static void every_share_has_its_floor_whatever_the_others_hold(void **state)
{
	(void)state;
	begin(8 << 20, 4 << 20);
	budget_reserve(&budget, SHARES_MAX);
	assert_int_equal(budget.floor, (1 << 20) / SHARES_MAX);
	while (budget_take(&budget, &shares[0], 1 << 16))
		;
	while (budget_take(&budget, &shares[1], 1 << 16))
		;
	while (budget_take(&budget, &shares[2], 1))
		;
	for (size_t i = 3; i < SHARES_MAX; i++)
		assert_true(budget_take(&budget, &shares[i], budget.floor));
	assert_true(budget.used <= budget.total);
}

/* Random takes and gives; in the end everybody who waited gets what it asked for. */
static void the_total_is_never_exceeded_and_nobody_waits_for_ever(void **state)
{
	(void)state;
	struct random random = { 7 };
	size_t wanted[SHARES_MAX] = { 0 };
	begin(1 << 20, 1 << 18);
	for (unsigned step = 0; step < 200000; step++) {
		struct share *share = &shares[random_below(&random, SHARES_MAX)];
		size_t i = (size_t)(share - shares);
		if (random_below(&random, 2) && wanted[i] == 0) {
			size_t size = 1 + random_below(&random, budget.share_limit);
			if (!budget_take(&budget, share, size))
				wanted[i] = size;
		} else if (share->used > 0) {
			budget_give(&budget, share, 1 + random_below(&random, share->used));
		}
		while ((share = budget_next_ready(&budget))) {
			i = (size_t)(share - shares);
			assert_true(wanted[i] > 0);
			assert_true(budget_take(&budget, share, wanted[i]));
			wanted[i] = 0;
		}
		check_sums();
	}
	for (size_t i = 0; i < SHARES_MAX; i++)
		budget_give(&budget, &shares[i], shares[i].used);
	for (struct share *share; (share = budget_next_ready(&budget));) {
		assert_true(budget_take(&budget, share, wanted[share - shares]));
		wanted[share - shares] = 0;
		budget_give(&budget, share, share->used);
	}
	for (size_t i = 0; i < SHARES_MAX; i++)
		assert_int_equal(wanted[i], 0);
	assert_int_equal(budget.used, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_taken_is_counted),
		cmocka_unit_test(one_greedy_share_leaves_half),
		cmocka_unit_test(k_greedy_shares_leave_one_part_in_k_and_1),
		cmocka_unit_test(a_newcomer_beside_greedy_shares_gets_something),
		cmocka_unit_test(shares_that_come_one_after_another_all_get_something),
		cmocka_unit_test(no_share_goes_beyond_its_limit),
		cmocka_unit_test(a_request_as_large_as_the_limit_fits_into_an_idle_budget),
		cmocka_unit_test(nothing_is_ready_while_nobody_waits),
		cmocka_unit_test(refused_shares_are_tried_in_their_order),
		cmocka_unit_test(a_share_that_does_not_fit_lets_the_next_one_go),
		cmocka_unit_test(being_refused_again_keeps_the_place_in_the_queue),
		cmocka_unit_test(a_share_that_succeeds_leaves_the_queue),
		cmocka_unit_test(a_share_that_stops_waiting_is_not_tried),
		cmocka_unit_test(every_share_has_its_floor_whatever_the_others_hold),
		cmocka_unit_test(the_total_is_never_exceeded_and_nobody_waits_for_ever),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
