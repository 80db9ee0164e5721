/* test-core-reads.c: which slot a read goes to, and when its answer counts (design 6.10). */
#include <errno.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 4 };
static struct core_rig rig;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	rig.has_clock = true;
	core_rig_serve(&rig);
	core_rig_write(&rig, 1, 8, 5);
	core_rig_flush(&rig);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.core->slots[i].read_cost = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static uint64_t reads_of(unsigned index)
{
	return rig.sleds[index].sent[CRUCIBLE_READ_REQUEST];
}

/* A read that takes so many ms, on the slot that the core chooses. Returns that. */
static unsigned read_taking(uint64_t ms)
{
	uint64_t before[UPSTAIRS_SLOTS];
	unsigned chosen = UPSTAIRS_SLOTS;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		before[i] = reads_of(i);
	core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (reads_of(i) > before[i])
			chosen = i;
	}
	assert_true(chosen < UPSTAIRS_SLOTS);
	rig.now += ms;
	upstairs_clock(rig.core, rig.now * 1000);
	core_rig_run(&rig);
	return chosen;
}

static void prefer(unsigned index)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.core->slots[i].read_cost = i == index ? 1 : 100000;
}

static void the_slot_that_answers_soonest_gets_the_reads(void **state)
{
	(void)state;
	static const uint64_t takes[] = { 8, 2, 6 };
	for (unsigned i = 0; i < 3; i++) /* each is tried */
		rig.core->slots[read_taking(0)].read_cost = 0;
	bool was_tried[UPSTAIRS_SLOTS] = { false };
	for (unsigned i = 0; i < 3; i++) {
		unsigned next = 0;
		while (was_tried[next])
			next++;
		unsigned chosen = read_taking(takes[next]);
		assert_int_equal(chosen, next);
		was_tried[chosen] = true;
	}
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(read_taking(takes[1]), 1);
	/* it becomes slow: another one is better before long */
	unsigned slow_ones = 0;
	while (read_taking(19) == 1)
		slow_ones++;
	assert_in_range(slow_ones, 1, 10);
}

static void a_slot_with_much_to_do_is_spared(void **state)
{
	(void)state;
	uint64_t before[UPSTAIRS_SLOTS];
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		rig.core->slots[i].read_cost = 1000;
		before[i] = reads_of(i);
	}
	for (unsigned i = 0; i < 30; i++)
		core_rig_submit(&rig, UPSTAIRS_READ, 1 + i % 8, 1, 0);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		assert_int_equal(reads_of(i) - before[i], 10);
	core_rig_run(&rig);
}

static void a_slot_that_was_slow_is_tried_again_in_the_end(void **state)
{
	(void)state;
	rig.core->options.hedge_after = 0;
	rig.core->slots[0].read_cost = rig.core->slots[1].read_cost = 16 * 1000;
	rig.core->slots[2].read_cost = 16 * 4000;
	unsigned reads = 0;
	while (reads < 10000 && read_taking(1) != 2)
		reads++;
	assert_in_range(reads, 500, 5000);
}

static void a_late_answer_makes_another_slot_be_asked(void **state)
{
	(void)state;
	prefer(1);
	rig.sleds[1].holds_down = true;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 8, 0);
	core_rig_pass(&rig, 19);
	assert_false(read->is_done);
	core_rig_pass(&rig, 2);
	assert_true(read->is_done);
	assert_int_equal(read->error, 0);
	assert_int_equal(read->data[8 * CORE_BLOCK - 1], 5);
	assert_int_equal(rig.core->hedged_reads, 1);
	read->data[0] = 77;
	rig.sleds[1].holds_down = false;
	core_rig_run(&rig);
	assert_int_equal(read->data[0], 77); /* the late one is thrown away */
	assert_true(rig.core->slots[1].read_cost > 100000 / 8);
	core_rig_flush(&rig); /* and holds up nobody */
	core_rig_write(&rig, 1, 8, 6);
	core_rig_expect(&rig, 1, 8, 6);
}

static void when_all_are_late_few_are_sent_twice(void **state)
{
	(void)state;
	struct rig_request *reads[400];
	core_rig_pass(&rig, 1000);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.sleds[i].holds_down = true;
	for (unsigned i = 0; i < 400; i++)
		reads[i] = core_rig_submit(&rig, UPSTAIRS_READ, 1 + i % 8, 1, 0);
	core_rig_pass(&rig, 25);
	assert_in_range(rig.core->hedged_reads, 32, 36); /* at once */
	core_rig_pass(&rig, 500);
	assert_in_range(rig.core->hedged_reads, 75, 90); /* and 100 a second */
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		rig.sleds[i].holds_down = false;
	core_rig_run(&rig);
	for (unsigned i = 0; i < 400; i++)
		assert_true(reads[i]->is_done && reads[i]->error == 0 && reads[i]->data[0] == 5);
}

static void what_is_slow_as_ever_is_not_late(void **state)
{
	(void)state;
	prefer(1);
	rig.core->slots[1].read_cost = 16 * 30000; /* 30 ms; the others are slower still */
	rig.core->slots[0].read_cost = rig.core->slots[2].read_cost = 16 * 90000;
	rig.sleds[1].holds_down = true;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	core_rig_pass(&rig, 119);
	assert_false(read->is_done);
	assert_int_equal(rig.core->hedged_reads, 0);
	core_rig_pass(&rig, 2);
	assert_int_equal(rig.core->hedged_reads, 1);
	assert_true(read->is_done);
}

static void without_hedging_nobody_else_is_asked(void **state)
{
	(void)state;
	rig.core->options.hedge_after = 0;
	prefer(1);
	rig.sleds[1].holds_down = true;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	core_rig_pass(&rig, 2000);
	assert_false(read->is_done);
	rig.sleds[1].holds_down = false;
	core_rig_run(&rig);
	assert_true(read->is_done);
}

static void both_answers_may_come_in_any_order_and_a_write_between_them_waits_on_each(void **state)
{
	(void)state;
	prefer(1);
	rig.sleds[1].holds_up = true;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9);
	core_rig_pass(&rig, 25); /* a second one, behind the write */
	assert_int_equal(rig.core->hedged_reads, 1);
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = false;
	core_rig_run(&rig);
	assert_false(read->is_done); /* it has the write's value, which is on two slots of three */
	assert_false(write->is_done);
	rig.sleds[1].holds_up = false;
	core_rig_run(&rig);
	assert_true(write->is_done && read->is_done);
	assert_int_equal(read->error, 0);
	assert_int_equal(read->data[0], 9);
	core_rig_expect(&rig, 3, 1, 9);
}

static void the_first_answer_needs_only_the_writes_before_its_own_job(void **state)
{
	(void)state;
	prefer(1);
	rig.sleds[1].holds_down = true;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 3, 1, 0);
	core_rig_run(&rig);
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9);
	core_rig_pass(&rig, 25);
	rig.sleds[1].holds_down = false; /* the answer from before the write, which is not acknowledged */
	core_rig_run(&rig);
	assert_true(read->is_done);
	assert_int_equal(read->data[0], 5);
	assert_false(write->is_done);
	rig.sleds[0].holds_up = rig.sleds[2].holds_up = false;
	core_rig_run(&rig);
	assert_true(write->is_done);
}

static void a_value_that_may_vanish_is_not_seen(void **state)
{
	(void)state;
	prefer(0);
	rig.sleds[2].holds_up = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 3, 1, 9);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 2, 3, 0);
	struct rig_request *beside = core_rig_submit(&rig, UPSTAIRS_READ, 5, 1, 0);
	core_rig_run(&rig);
	assert_false(write->is_done || read->is_done);
	assert_true(beside->is_done);
	rig.sleds[2].holds_up = false;
	core_rig_run(&rig);
	assert_true(write->is_done && read->is_done);
	assert_int_equal(read->data[CORE_BLOCK], 9);
}

static void a_slot_that_dies_has_its_reads_done_by_others(void **state)
{
	(void)state;
	struct rig_request *reads[8];
	prefer(1);
	rig.core->options.hedge_after = 0;
	rig.sleds[1].holds_down = true;
	for (unsigned i = 0; i < 8; i++)
		reads[i] = core_rig_submit(&rig, UPSTAIRS_READ, 1 + i, 1, 0);
	core_rig_run(&rig);
	core_rig_stop_sled(&rig, 1);
	rig.sleds[1].holds_down = false;
	core_rig_run(&rig);
	for (unsigned i = 0; i < 8; i++)
		assert_true(reads[i]->is_done && reads[i]->error == 0 && reads[i]->data[0] == 5);
}

static void with_no_slot_left_they_wait(void **state)
{
	(void)state;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		core_rig_stop_sled(&rig, i);
	core_rig_pass(&rig, 20000);
	assert_false(read->is_done);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		core_rig_start_sled(&rig, i);
	core_rig_pass(&rig, 20000);
	assert_true(read->is_done);
	assert_int_equal(read->error, 0);
	assert_int_equal(read->data[0], 5);
}

static void a_read_that_is_parked_ends_with_the_core(void **state)
{
	(void)state;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		core_rig_stop_sled(&rig, i);
	core_rig_pass(&rig, 200);
	upstairs_fence(rig.core, "test");
	assert_true(read->is_done);
	assert_int_equal(read->error, -EIO);
}

static void without_memory_they_wait(void **state)
{
	(void)state;
	rig.allocations_until_failure = 1;
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 1, 0);
	core_rig_run(&rig);
	assert_false(read->is_done);
	core_rig_pass(&rig, 6000);
	assert_true(read->is_done);
	assert_int_equal(read->error, 0);
}

static void an_answer_of_another_length_costs_the_connection(void **state)
{
	(void)state;
	prefer(1);
	struct rig_request *read = core_rig_submit(&rig, UPSTAIRS_READ, 1, 2, 0);
	const struct job *job = slot_oldest(rig.core, 1);
	struct crucible_read_context context = { .kind = CRUCIBLE_BLOCK_EMPTY };
	static uint8_t zeros[CORE_BLOCK];
	struct crucible_message message = { .type = CRUCIBLE_READ_RESPONSE, .job = core_job(rig.core, 1, job->id) };
	message.read_response.contexts = (struct crucible_read_contexts){ .items = &context, .count = 1 };
	message.read_response.data = (struct crucible_data){ .bytes = zeros, .length = sizeof zeros };
	upstairs_received(rig.core, 1, &message);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_ABSENT);
	core_rig_pass(&rig, 1000);
	assert_true(read->is_done && read->error == 0 && read->data[0] == 5);
}

int main(void)
{
#define plain(test) { #test, test, setup, teardown, NULL }
	const struct CMUnitTest tests[] = {
		plain(the_slot_that_answers_soonest_gets_the_reads),
		plain(a_slot_with_much_to_do_is_spared),
		plain(a_slot_that_was_slow_is_tried_again_in_the_end),
		plain(a_late_answer_makes_another_slot_be_asked),
		plain(when_all_are_late_few_are_sent_twice),
		plain(what_is_slow_as_ever_is_not_late),
		plain(without_hedging_nobody_else_is_asked),
		plain(both_answers_may_come_in_any_order_and_a_write_between_them_waits_on_each),
		plain(the_first_answer_needs_only_the_writes_before_its_own_job),
		plain(a_value_that_may_vanish_is_not_seen),
		plain(a_slot_that_dies_has_its_reads_done_by_others),
		plain(with_no_slot_left_they_wait),
		plain(a_read_that_is_parked_ends_with_the_core),
		plain(without_memory_they_wait),
		plain(an_answer_of_another_length_costs_the_connection),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
