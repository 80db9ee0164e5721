/* test-history.c: what a later process finds of the writes of an earlier one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block-hash.h"
#include "core/history.h"
#include "scratch.h"
#include "unit.h"

enum { BLOCK = 512, AREA = 64 << 10 };
static const struct crucible_uuid key = { { 1 } };
static _Alignas(8) uint8_t area[AREA];
static const struct history_memory memory = { .address = area, .size = sizeof area, .size_max = sizeof area };
static struct history history;

static int setup(void **state)
{
	(void)state;
	memset(area, 0xa5, sizeof area);
	return history_create(&history, &memory, BLOCK, &key);
}

static struct history_entry *add(uint64_t start, uint64_t count, uint8_t byte)
{
	struct history_entry *entry = history_reserve(&history, start, count);
	if (!entry)
		return NULL;
	memset(history_data(entry), byte, count * BLOCK);
	for (uint64_t i = 0; i < count; i++)
		history_contexts(entry)[i] = (struct crucible_block_context){ .hash = block_hash(NULL, history_data(entry), BLOCK) };
	history_publish(&history, entry);
	return entry;
}

static void entries_are_found_newest_first(void **state)
{
	(void)state;
	for (uint8_t i = 1; i <= 5; i++)
		assert_int_equal(add(i, 1, i)->number, i);
	const struct history_entry *entry = history_newest(&history);
	for (uint8_t i = 5; i >= 1; i--, entry = history_before(&history, entry)) {
		assert_int_equal(entry->start, i);
		assert_int_equal(((uint8_t *)history_data(entry))[BLOCK - 1], i);
	}
	assert_null(entry);
}

static void a_later_process_finds_the_same(void **state)
{
	(void)state;
	const char *wrong;
	struct history later;
	for (uint8_t i = 1; i <= 9; i++)
		add(i, 2, i);
	history_trim(&history, 4);
	history_set_slot(&history, 1, &(struct history_slot){ .place = 5, .must_show = 3, .lies = 1 });
	history_set_flush_number(&history, 77);
	assert_int_equal(history_open(&later, &memory, &key, &wrong), 0);
	assert_int_equal(history_begin(&later), 4);
	assert_int_equal(history_end(&later), 10);
	assert_int_equal(history_slot(&later, 1)->place, 5);
	assert_int_equal(history_slot(&later, 1)->must_show, 3);
	assert_int_equal(history_slot(&later, 1)->lies, 1);
	assert_int_equal(history_flush_number(&later), 77);
	assert_int_equal(history_newest(&later)->start, 9);
}

static void another_key_finds_nothing(void **state)
{
	(void)state;
	const char *wrong;
	const struct crucible_uuid other = { { 2 } };
	struct history later;
	assert_int_equal(history_open(&later, &memory, &other, &wrong), -EBADMSG);
	memset(area, 0, sizeof area);
	assert_int_equal(history_open(&later, &memory, &key, &wrong), -ENOENT);
}

static void an_entry_that_was_not_published_does_not_count(void **state)
{
	(void)state;
	const char *wrong;
	struct history later;
	add(1, 1, 1);
	memset(history_data(history_reserve(&history, 2, 3)), 9, BLOCK);
	assert_int_equal(history_open(&later, &memory, &key, &wrong), 0);
	assert_int_equal(history_end(&later), 2);
}

static void every_changed_byte_of_an_entry_is_noticed(void **state)
{
	(void)state;
	const char *wrong;
	struct history later;
	add(1, 1, 1);
	const struct history_entry *entry = add(2, 1, 2);
	uint8_t *bytes = (uint8_t *)(uintptr_t)entry;
	for (size_t i = 0; i < entry->size - sizeof(uint64_t); i++) {
		bytes[i] ^= 0x10;
		assert_int_equal(history_open(&later, &memory, &key, &wrong), -EBADMSG);
		bytes[i] ^= 0x10;
	}
	assert_int_equal(history_open(&later, &memory, &key, &wrong), 0);
}

static void no_header_makes_it_read_beyond_the_area(void **state)
{
	(void)state;
	const char *wrong;
	struct history later;
	static _Alignas(8) uint8_t damaged[AREA];
	const struct history_memory there = { .address = damaged, .size = sizeof damaged, .size_max = sizeof damaged };
	struct random random = { 5 };
	for (uint8_t i = 1; i <= 5; i++)
		add(i, 1, i);
	for (unsigned round = 0; round < 20000; round++) {
		memcpy(damaged, area, sizeof damaged);
		for (unsigned i = 0; i <= random_below(&random, 3); i++)
			damaged[random_below(&random, 256)] ^= (uint8_t)(1 + random_below(&random, 255));
		int status = history_open(&later, &there, &key, &wrong);
		assert_true(status == 0 || status == -EBADMSG || status == -ENOENT);
	}
}

/* The ring against a plain list, through many turns of it. */
static void the_ring_holds_what_was_put_in(void **state)
{
	(void)state;
	struct random random = { 3 };
	uint64_t begin = 1, end = 1, full = 0;
	const char *wrong;
	for (unsigned step = 0; step < 20000; step++) {
		if (random_below(&random, 3)) {
			struct history_entry *entry = add(end, 1 + random_below(&random, 12), (uint8_t)end);
			full += !entry;
			end += entry ? 1 : 0;
		} else {
			begin += random_below(&random, end - begin + 1);
			history_trim(&history, begin);
		}
		assert_int_equal(history_end(&history), end);
		assert_int_equal(history_begin(&history), begin);
		assert_true(history_used(&history) <= history_capacity(&history));
		uint64_t number = end;
		for (const struct history_entry *entry = history_newest(&history); entry;
			 entry = history_before(&history, entry)) {
			assert_int_equal(entry->number, --number);
			assert_int_equal(entry->start, number);
			assert_int_equal(*(uint8_t *)history_data(entry), (uint8_t)number);
		}
		assert_int_equal(number, begin);
		struct history later;
		if (step % 100 == 0)
			assert_int_equal(history_open(&later, &memory, &key, &wrong), 0);
	}
	assert_true(full > 10);
}

#define test(function) cmocka_unit_test_setup(function, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(entries_are_found_newest_first),
		test(a_later_process_finds_the_same),
		test(another_key_finds_nothing),
		test(an_entry_that_was_not_published_does_not_count),
		test(every_changed_byte_of_an_entry_is_noticed),
		test(no_header_makes_it_read_beyond_the_area),
		test(the_ring_holds_what_was_put_in),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
