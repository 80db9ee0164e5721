/* test-history-file.c: a history in a file: across processes, in its growth, and files that are none. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block-hash.h"
#include "history-file.h"
#include "scratch.h"
#include "unit.h"

enum { BLOCK = 4096, HISTORY_MAX = 32 << 20 };
static const struct crucible_uuid key = { { 1 } };
static const char *path;

static int setup(void **state)
{
	int status = scratch_setup(state);
	path = status == 0 ? in_scratch("history") : NULL;
	return status;
}

static off_t length_of_file(void)
{
	struct stat status;
	return stat(path, &status) == 0 ? status.st_size : -1;
}

static bool add(struct history *history, uint64_t start, uint64_t count)
{
	struct history_entry *entry = history_reserve(history, start, count);
	if (!entry)
		return false;
	memset(history_data(entry), (int)start, count * BLOCK);
	for (uint64_t i = 0; i < count; i++)
		history_contexts(entry)[i] = (struct crucible_block_context){ .hash = block_hash(NULL, history_data(entry), BLOCK) };
	history_publish(history, entry);
	return true;
}

static struct history_file *open_file(void)
{
	struct history_file *file = NULL;
	assert_int_equal(history_file_open(path, HISTORY_MAX, &file), 0);
	return file;
}

/* A process writes and is killed; `count` entries of 1 MiB. */
static void write_and_be_killed(uint64_t count)
{
	pid_t child = fork();
	if (child == 0) {
		struct history history;
		struct history_file *file;
		if (history_file_open(path, HISTORY_MAX, &file) < 0 ||
			history_create(&history, history_file_memory(file), BLOCK, &key) < 0)
			_exit(1);
		for (uint64_t i = 0; i < count; i++) {
			if (!add(&history, i, 256))
				_exit(2);
		}
		raise(SIGKILL);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static int open_history(struct history *history, struct history_file *file, const char **wrong)
{
	*wrong = "";
	return history_open(history, history_file_memory(file), &key, wrong);
}

static void what_a_killed_process_published_is_there(void **state)
{
	(void)state;
	struct history history;
	const char *wrong;
	write_and_be_killed(9);
	struct history_file *file = open_file();
	assert_int_equal(open_history(&history, file, &wrong), 0);
	assert_int_equal(history_end(&history), 10);
	assert_int_equal(history.reach, 8 + 256);
	history_file_close(file);
}

static void nobody_else_opens_it(void **state)
{
	(void)state;
	struct history_file *file = open_file(), *other = NULL;
	assert_int_equal(history_file_open(path, HISTORY_MAX, &other), -EBUSY);
	history_file_close(file);
	history_file_close(open_file());
}

static void it_is_as_long_as_needed(void **state)
{
	(void)state;
	struct history history;
	struct history_file *file = open_file();
	off_t least = length_of_file();
	assert_true(least < 1400 << 10);
	assert_int_equal(history_create(&history, history_file_memory(file), BLOCK, &key), 0);
	for (uint64_t i = 0; i < 12; i++)
		assert_true(add(&history, i, 256));
	assert_in_range(length_of_file(), 12 << 20, 14 << 20);
	history_file_shrink(file, &history);
	assert_in_range(length_of_file(), 12 << 20, 14 << 20);
	history_trim(&history, 13);
	history_file_shrink(file, &history);
	assert_int_equal(length_of_file(), least);
	for (uint64_t i = 0; i < 1000; i++) {
		assert_true(add(&history, i, 256));
		history_trim(&history, history_end(&history) - 2); /* two at a time */
	}
	assert_in_range(length_of_file(), 3 << 20, 5 << 20);
	history_file_close(file);
}

/* As if the file system were full: entries fail, and come when there is room again. */
static void full_file_system_kills_nobody(void **state)
{
	(void)state;
	struct history history;
	struct history_file *file = open_file();
	struct rlimit limit = { 4 << 20, RLIM_INFINITY };
	assert_int_equal(history_create(&history, history_file_memory(file), BLOCK, &key), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	uint64_t count = 0;
	while (add(&history, count, 256))
		count++;
	assert_in_range(count, 1, 4);
	assert_true(length_of_file() <= 4 << 20);
	history_trim(&history, history_end(&history));
	assert_true(add(&history, 1, 256));
	limit.rlim_cur = RLIM_INFINITY;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (uint64_t i = 0; i < 8; i++)
		assert_true(add(&history, i, 256));
	history_file_close(file);
}

static void what_is_no_file_of_ours_is_refused(void **state)
{
	(void)state;
	struct history_file *file;
	assert_int_equal(history_file_open("/dev/zero", HISTORY_MAX, &file), -EINVAL);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(history_file_open(path, HISTORY_MAX, &file), -EISDIR);
	rmdir(path);
	assert_int_equal(symlink("elsewhere", path), 0);
	assert_int_equal(history_file_open(path, HISTORY_MAX, &file), -ELOOP);
	unlink(path);
	assert_int_equal(history_file_open(path, 4096, &file), -EINVAL);
}

static void write_bytes(off_t at, const void *bytes, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(pwrite(fd, bytes, length, at), length);
	close(fd);
}

/* Of any length and content: an error, or what was written, but no crash. */
static void any_file_can_be_opened(void **state)
{
	(void)state;
	struct random random = { 11 };
	struct history history;
	const char *wrong;
	unsigned good = 0, bad = 0;
	for (unsigned round = 0; round < 200; round++) {
		uint8_t noise[64];
		unlink(path);
		write_and_be_killed(1 + random_below(&random, 3));
		for (unsigned i = 0; i < sizeof noise; i++)
			noise[i] = (uint8_t)random_below(&random, 256);
		switch (random_below(&random, 4)) {
		case 0:
			assert_int_equal(truncate(path, (off_t)random_below(&random, (uint64_t)length_of_file())), 0);
			break;
		case 1:
			write_bytes((off_t)random_below(&random, 400), noise, 1 + random_below(&random, sizeof noise));
			break;
		case 2:
			write_bytes((off_t)random_below(&random, (uint64_t)length_of_file()), noise, 1);
			break;
		case 3: /* longer than it may be */
			write_bytes(HISTORY_MAX + 10, noise, 1);
			break;
		}
		struct history_file *file = open_file();
		int status = open_history(&history, file, &wrong);
		assert_true(status == 0 || status == -ENOENT || (status == -EBADMSG && wrong[0]));
		good += status == 0;
		bad += status == -EBADMSG;
		history_file_close(file);
	}
	assert_true(good > 20 && bad > 20);
}

static void older_version_is_told_apart(void **state)
{
	(void)state;
	struct history history;
	const char *wrong;
	write_and_be_killed(1);
	write_bytes(0, "history1", 8);
	struct history_file *file = open_file();
	assert_int_equal(open_history(&history, file, &wrong), -EBADMSG);
	assert_string_equal(wrong, "it is none of this version");
	history_file_close(file);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(what_a_killed_process_published_is_there),
		test(nobody_else_opens_it),
		test(it_is_as_long_as_needed),
		test(full_file_system_kills_nobody),
		test(what_is_no_file_of_ours_is_refused),
		test(any_file_can_be_opened),
		test(older_version_is_told_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
