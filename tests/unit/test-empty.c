/* test-empty.c: the map of blocks that are known to be empty, against an array of bools. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/empty.h"
#include "unit.h"

enum { CHUNK = 32768, BLOCKS = 3 * CHUNK + 1000 };

static unsigned allocations, until_failure; /* 0: none fails */

static void *allocate(void *context, size_t size)
{
	(void)context;
	if (until_failure > 0 && --until_failure == 0)
		return NULL;
	allocations++;
	return malloc(size);
}

static void release(void *context, void *memory)
{
	(void)context;
	allocations--;
	free(memory);
}

static const struct upstairs_environment environment = { .allocate = allocate, .release = release };
static bool model[BLOCKS];

static uint64_t random_number(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

static void expect_model(const struct empty_map *map)
{
	for (uint64_t at = 0, run; at < BLOCKS; at += run) {
		bool is_empty;
		run = empty_run(map, at, BLOCKS - at, &is_empty);
		assert_in_range(run, 1, BLOCKS - at);
		for (uint64_t i = at; i < at + run; i++)
			assert_int_equal(model[i], is_empty);
		assert_true(at + run == BLOCKS || model[at + run] != is_empty);
	}
}

static void any_changes_leave_what_they_say(void **state)
{
	(void)state;
	uint64_t random = 5;
	struct empty_map *map = empty_open(&environment, BLOCKS);
	memset(model, 0, sizeof model);
	expect_model(map);
	for (unsigned i = 0; i < 600; i++) {
		uint64_t start = random_number(&random) % BLOCKS, count = 1 + random_number(&random) % 200;
		bool adds = random_number(&random) % 2;
		if (i % 7 == 0)
			count = 1 + random_number(&random) % BLOCKS;
		if (count > BLOCKS - start)
			count = BLOCKS - start;
		if (adds)
			empty_add(map, start, count);
		else
			empty_remove(map, start, count);
		memset(model + start, adds, count);
		if (i % 20 == 0 || i > 580)
			expect_model(map);
	}
	empty_close(map);
	assert_int_equal(allocations, 0);
}

static void uniform_chunks_take_no_memory(void **state)
{
	(void)state;
	uint64_t blocks = UINT64_C(1) << 28; /* 1 TiB of 4 KiB */
	struct empty_map *map = empty_open(&environment, blocks);
	size_t least = empty_memory(map);
	assert_in_range(least, 1, (64 << 10) + 64);
	empty_add(map, 0, blocks);
	assert_int_equal(empty_memory(map), least);
	for (uint64_t block = 7; block < blocks; block += CHUNK)
		empty_remove(map, block, 1);
	assert_in_range(empty_memory(map), 32 << 20, 33 << 20);
	empty_remove(map, 0, blocks);
	assert_int_equal(empty_memory(map), least);
	empty_close(map);
}

static void a_chunk_that_fills_up_gives_its_memory_back(void **state)
{
	(void)state;
	struct empty_map *map = empty_open(&environment, BLOCKS);
	size_t least = empty_memory(map);
	empty_add(map, 0, CHUNK - 1);
	assert_true(empty_memory(map) > least);
	empty_add(map, CHUNK - 1, 1);
	assert_int_equal(empty_memory(map), least);
	/* and so does the last one, which is shorter */
	for (uint64_t block = 3 * CHUNK; block < BLOCKS; block++)
		empty_add(map, block, 1);
	assert_int_equal(empty_memory(map), least);
	bool is_empty;
	assert_int_equal(empty_run(map, 3 * CHUNK, 1000, &is_empty), 1000);
	assert_true(is_empty);
	empty_close(map);
}

static void what_there_is_no_memory_for_is_forgotten(void **state)
{
	(void)state;
	bool is_empty;
	struct empty_map *map = empty_open(&environment, BLOCKS);
	until_failure = 1;
	empty_add(map, 5, 1);
	assert_int_equal(empty_run(map, 0, BLOCKS, &is_empty), BLOCKS);
	assert_false(is_empty);
	empty_add(map, 0, BLOCKS);
	until_failure = 1;
	empty_remove(map, 5, 1); /* its chunk is lost with it */
	assert_int_equal(empty_run(map, 0, BLOCKS, &is_empty), CHUNK);
	assert_false(is_empty);
	assert_int_equal(empty_run(map, CHUNK, BLOCKS - CHUNK, &is_empty), BLOCKS - CHUNK);
	assert_true(is_empty);
	empty_close(map);
	until_failure = 1;
	assert_null(empty_open(&environment, BLOCKS));
	until_failure = 0;
}

static void without_a_map_nothing_is_known(void **state)
{
	(void)state;
	bool is_empty = true;
	empty_add(NULL, 0, 1);
	empty_remove(NULL, 0, 1);
	assert_int_equal(empty_run(NULL, 3, 9, &is_empty), 9);
	assert_false(is_empty);
	assert_int_equal(empty_memory(NULL), 0);
	empty_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_changes_leave_what_they_say),
		cmocka_unit_test(uniform_chunks_take_no_memory),
		cmocka_unit_test(a_chunk_that_fills_up_gives_its_memory_back),
		cmocka_unit_test(what_there_is_no_memory_for_is_forgotten),
		cmocka_unit_test(without_a_map_nothing_is_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
