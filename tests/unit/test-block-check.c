/* The checker of `upstairs-io check`: it must accept what a correct volume can give and find what it cannot, also over
 * the death of the process that wrote. */
#include <stdio.h>
#include <string.h>

#include "../tools/block-check.h"
#include "scratch.h"
#include "unit.h"

enum { BLOCK = 512, BLOCKS = 8 };
static struct block_check *check;
static struct block_check_read seen;
static char path[512];
static uint8_t versions[4][BLOCKS * BLOCK]; /* what was written, the oldest first; [0]: zeros */

static int setup(void **state)
{
	if (scratch_setup(state) < 0)
		return -1;
	snprintf(path, sizeof path, "%s", in_scratch("blocks"));
	check = block_check_open(path, BLOCK, BLOCKS);
	memset(versions, 0, sizeof versions);
	return check ? 0 : -1;
}

static int teardown(void **state)
{
	block_check_close(check);
	return scratch_teardown(state);
}

/* kill -9 and a new process. */
static void restart(void)
{
	block_check_close(check);
	check = block_check_open(path, BLOCK, BLOCKS);
	assert_non_null(check);
}

static void begin_write(unsigned version)
{
	assert_true(block_check_write(check, 0, BLOCKS, versions[version]));
}

static void write_all(unsigned version)
{
	begin_write(version);
	block_check_written(check, 0, BLOCKS);
}

static void begin_read(void)
{
	block_check_begin_read(check, 0, BLOCKS, &seen);
}

static unsigned wrong_if(unsigned version)
{
	return block_check_end_read(check, 0, BLOCKS, versions[version], &seen);
}

static void expect_read(unsigned version)
{
	begin_read();
	assert_int_equal(wrong_if(version), 0);
}

static void expect_wrong(unsigned version)
{
	begin_read();
	assert_int_equal(wrong_if(version), BLOCKS);
}

static void what_was_acknowledged_is_there(void **state)
{
	(void)state;
	expect_read(0);
	write_all(1);
	expect_read(1);
	expect_wrong(0);
	write_all(2);
	expect_wrong(1);
	restart();
	expect_wrong(1);
	expect_read(2);
}

static void read_during_a_write_gives_either_and_never_goes_back(void **state)
{
	(void)state;
	write_all(1);
	begin_write(2);
	expect_read(1);
	expect_read(2);
	expect_wrong(1);
	block_check_written(check, 0, BLOCKS);
	expect_read(2);
}

static void read_that_began_before_the_write_may_give_the_old(void **state)
{
	(void)state;
	write_all(1);
	begin_read();
	write_all(2);
	assert_int_equal(wrong_if(1), 0);
	expect_read(2);
}

static void read_that_began_during_the_write_may_give_the_old_after_its_end(void **state)
{
	(void)state;
	write_all(1);
	begin_write(2);
	begin_read();
	block_check_written(check, 0, BLOCKS);
	assert_int_equal(wrong_if(1), 0);
	expect_read(2);
	expect_wrong(1);
}

static void write_of_a_killed_process_has_happened_or_not(void **state)
{
	(void)state;
	write_all(1);
	begin_write(2);
	restart();
	expect_read(2);
	expect_wrong(1);
}

static void what_the_first_read_did_not_give_never_appears(void **state)
{
	(void)state;
	write_all(1);
	begin_write(2);
	restart();
	expect_read(1);
	expect_wrong(2);
	restart();
	expect_wrong(2);
}

static void writes_of_several_killed_processes(void **state)
{
	(void)state;
	write_all(1);
	begin_write(2);
	restart();
	begin_write(3);
	restart();
	expect_read(2);
	expect_wrong(3);
	expect_wrong(1);
}

static void block_of_another_place_or_torn_is_found(void **state)
{
	(void)state;
	write_all(1);
	write_all(2);
	begin_read();
	memcpy(versions[2], versions[2] + BLOCK, BLOCK);
	memcpy(versions[2] + 3 * BLOCK + 100, versions[1] + 3 * BLOCK + 100, 100);
	assert_int_equal(wrong_if(2), 2);
}

static void block_has_one_write_at_a_time(void **state)
{
	(void)state;
	begin_write(1);
	assert_false(block_check_write(check, 3, 1, versions[2]));
	block_check_written(check, 0, BLOCKS);
	assert_true(block_check_write(check, 3, 1, versions[2]));
}

static void file_of_another_volume_is_refused(void **state)
{
	(void)state;
	assert_null(block_check_open(path, BLOCK, BLOCKS + 1));
	assert_null(block_check_open(path, 2 * BLOCK, BLOCKS));
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(what_was_acknowledged_is_there),
		test(read_during_a_write_gives_either_and_never_goes_back),
		test(read_that_began_before_the_write_may_give_the_old),
		test(read_that_began_during_the_write_may_give_the_old_after_its_end),
		test(write_of_a_killed_process_has_happened_or_not),
		test(what_the_first_read_did_not_give_never_appears),
		test(writes_of_several_killed_processes),
		test(block_of_another_place_or_torn_is_found),
		test(block_has_one_write_at_a_time),
		test(file_of_another_volume_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
