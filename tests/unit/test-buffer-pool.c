#include <string.h>
#include <unistd.h>

#include "nbd/buffer-pool.h"
#include "scratch.h"
#include "unit.h"

enum { K = 1024, M = 1024 * 1024, LARGEST = 64 * M };

static struct buffer_pool pool;

static int setup(void **state)
{
	(void)state;
	pool = (struct buffer_pool){ 0 };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	buffer_pool_trim(&pool);
	return 0;
}

static size_t free_buffers(void)
{
	size_t count = 0;
	for (size_t i = 0; i < BUFFER_CLASSES; i++)
		count += pool.classes[i].count;
	return count;
}

static bool is_mapped(void *page)
{
	/* a system call that looks at the page says EFAULT instead of killing us */
	int fds[2];
	if (pipe(fds) < 0)
		fail();
	bool mapped = write(fds[1], page, 1) == 1;
	close(fds[0]);
	close(fds[1]);
	return mapped;
}

static void sizes_are_rounded_up_to_powers_of_two(void **state)
{
	(void)state;
	size_t below = 1;
	for (size_t size = 4 * K; size <= LARGEST; size *= 2) {
		assert_int_equal(buffer_real_size(below), size);
		assert_int_equal(buffer_real_size(size - 1), size);
		assert_int_equal(buffer_real_size(size), size);
		below = size + 1;
	}
}

static void buffers_begin_on_a_page_and_are_writable_to_their_end(void **state)
{
	(void)state;
	static const size_t sizes[] = { 1, 512, 4 * K - 1, 4 * K, 4 * K + 1, 16 * K, 16 * K + 1,
		256 * K, M + 1, 4 * M, 32 * M };
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		uint8_t *buffer = buffer_take(&pool, sizes[i]);
		assert_non_null(buffer);
		assert_int_equal((uintptr_t)buffer % 4096, 0);
		buffer[0] = 1;
		buffer[sizes[i] - 1] = 2;
		buffer_give(&pool, buffer, sizes[i]);
	}
}

static void a_buffer_of_64_mib_is_given_and_a_larger_one_is_not(void **state)
{
	(void)state;
	void *buffer = buffer_take(&pool, LARGEST);
	assert_non_null(buffer);
	buffer_give(&pool, buffer, LARGEST);
	assert_null(buffer_take(&pool, LARGEST + 1));
	assert_null(buffer_take(&pool, (size_t)1 << 40));
}

static void the_last_buffer_given_is_the_next_one_taken(void **state)
{
	(void)state;
	void *first = buffer_take(&pool, 4 * K), *second = buffer_take(&pool, 4 * K);
	assert_ptr_not_equal(first, second);
	buffer_give(&pool, first, 4 * K);
	buffer_give(&pool, second, 4 * K);
	assert_ptr_equal(buffer_take(&pool, 4 * K), second);
	assert_ptr_equal(buffer_take(&pool, 4 * K), first);
	buffer_give(&pool, first, 4 * K);
	buffer_give(&pool, second, 4 * K);
}

static void a_buffer_serves_every_size_of_its_class(void **state)
{
	(void)state;
	void *buffer = buffer_take(&pool, 5 * K);
	buffer_give(&pool, buffer, 5 * K);
	void *again = buffer_take(&pool, 8 * K);
	assert_ptr_equal(again, buffer);
	memset(again, 1, 8 * K);
	buffer_give(&pool, again, 8 * K);
}

static void a_buffer_serves_no_other_class(void **state)
{
	(void)state;
	void *buffer = buffer_take(&pool, 4 * K);
	buffer_give(&pool, buffer, 4 * K);
	void *larger = buffer_take(&pool, 4 * K + 1);
	assert_ptr_not_equal(larger, buffer);
	buffer_give(&pool, larger, 4 * K + 1);
}

static void kept_counts_the_bytes_of_free_buffers(void **state)
{
	(void)state;
	void *small = buffer_take(&pool, 100), *large = buffer_take(&pool, M);
	assert_int_equal(pool.kept, 0);
	buffer_give(&pool, small, 100);
	assert_int_equal(pool.kept, 4 * K);
	buffer_give(&pool, large, M);
	assert_int_equal(pool.kept, M + 4 * K);
	small = buffer_take(&pool, 1);
	assert_int_equal(pool.kept, M);
	buffer_give(&pool, small, 1);
}

static void trimming_gives_all_free_pages_back(void **state)
{
	(void)state;
	void *buffers[3];
	for (size_t i = 0; i < 3; i++) {
		buffers[i] = buffer_take(&pool, 256 * K);
		memset(buffers[i], 1, 256 * K);
	}
	for (size_t i = 0; i < 3; i++)
		buffer_give(&pool, buffers[i], 256 * K);
	assert_true(is_mapped(buffers[0]));
	buffer_pool_trim(&pool);
	for (size_t i = 0; i < 3; i++)
		assert_false(is_mapped(buffers[i]));
	assert_int_equal(pool.kept, 0);
	assert_int_equal(free_buffers(), 0);
}

static void trimming_leaves_buffers_in_use_alone(void **state)
{
	(void)state;
	uint8_t *used = buffer_take(&pool, 4 * K), *given = buffer_take(&pool, 4 * K);
	used[0] = 7;
	buffer_give(&pool, given, 4 * K);
	buffer_pool_trim(&pool);
	assert_int_equal(used[0], 7);
	buffer_give(&pool, used, 4 * K);
	assert_int_equal(free_buffers(), 1);
}

static void no_more_than_64_mib_are_kept(void **state)
{
	(void)state;
	void *buffers[9];
	for (size_t i = 0; i < 9; i++)
		buffers[i] = buffer_take(&pool, 16 * M);
	for (size_t i = 0; i < 9; i++) {
		buffer_give(&pool, buffers[i], 16 * M);
		assert_true(pool.kept <= LARGEST);
	}
	assert_int_equal(free_buffers(), 4);
}

static void free_buffers_give_way_to_new_ones_at_the_limit(void **state)
{
	(void)state;
	pool.limit = 2 * M;
	void *small = buffer_take(&pool, 4 * K), *large = buffer_take(&pool, M);
	buffer_give(&pool, small, 4 * K);
	buffer_give(&pool, large, M);
	void *other = buffer_take(&pool, 512 * K);
	assert_int_equal(pool.kept, M + 4 * K);
	void *last = buffer_take(&pool, 512 * K); /* 4 KiB too much: the largest free one goes */
	assert_int_equal(pool.kept, 4 * K);
	assert_int_equal(pool.in_use, M);
	buffer_give(&pool, other, 512 * K);
	buffer_give(&pool, last, 512 * K);
	assert_int_equal(pool.in_use, 0);
}

static void buffers_in_use_never_overlap(void **state)
{
	(void)state;
	enum { SLOTS = 48 };
	struct {
		uint8_t *bytes;
		size_t size;
		uint8_t mark;
	} slots[SLOTS] = { 0 };
	struct random random = { 8 };
	for (unsigned step = 0; step < 20000; step++) {
		size_t i = random_below(&random, SLOTS);
		if (slots[i].bytes) {
			assert_int_equal(slots[i].bytes[0], slots[i].mark);
			assert_int_equal(slots[i].bytes[slots[i].size - 1], slots[i].mark);
			buffer_give(&pool, slots[i].bytes, slots[i].size);
			slots[i].bytes = NULL;
		} else {
			slots[i].size = 1 + random_below(&random, (size_t)1 << random_below(&random, 19));
			slots[i].mark = (uint8_t)step;
			slots[i].bytes = buffer_take(&pool, slots[i].size);
			slots[i].bytes[0] = slots[i].bytes[slots[i].size - 1] = slots[i].mark;
		}
		if (step % 1000 == 0)
			buffer_pool_trim(&pool);
	}
	for (size_t i = 0; i < SLOTS; i++) {
		if (slots[i].bytes)
			buffer_give(&pool, slots[i].bytes, slots[i].size);
	}
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(sizes_are_rounded_up_to_powers_of_two),
		test(buffers_begin_on_a_page_and_are_writable_to_their_end),
		test(a_buffer_of_64_mib_is_given_and_a_larger_one_is_not),
		test(the_last_buffer_given_is_the_next_one_taken),
		test(a_buffer_serves_every_size_of_its_class),
		test(a_buffer_serves_no_other_class),
		test(kept_counts_the_bytes_of_free_buffers),
		test(trimming_gives_all_free_pages_back),
		test(trimming_leaves_buffers_in_use_alone),
		test(no_more_than_64_mib_are_kept),
		test(free_buffers_give_way_to_new_ones_at_the_limit),
		test(buffers_in_use_never_overlap),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
