#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "durable-file.h"
#include "scratch.h"
#include "unit.h"

static void expect_contents(const char *path, const char *wanted)
{
	char *text = get_bytes_of(path, NULL);
	assert_non_null(text);
	assert_string_equal(text, wanted);
	free(text);
}

static int write_text(const char *path, const char *text)
{
	struct reason reason;
	return durable_file_write(path, text, strlen(text), &reason);
}

/* writing and reading */

static void what_is_written_is_read(void **state)
{
	(void)state;
	static const char bytes[] = "a\0b\n\xff";
	const char *path = in_scratch("file");
	struct reason reason;
	char *text;
	size_t length;
	assert_int_equal(durable_file_write(path, bytes, sizeof bytes, &reason), 0);
	assert_int_equal(durable_file_read(path, &text, &length, &reason), 0);
	assert_int_equal(length, sizeof bytes);
	assert_memory_equal(text, bytes, sizeof bytes);
	assert_int_equal(text[length], '\0');
	free(text);
}

static void an_empty_file_is_one(void **state)
{
	(void)state;
	struct reason reason;
	char *text;
	size_t length = 1;
	assert_int_equal(write_text(in_scratch("file"), ""), 0);
	assert_int_equal(durable_file_read(in_scratch("file"), &text, &length, &reason), 0);
	assert_int_equal(length, 0);
	assert_string_equal(text, "");
	free(text);
}

static void writing_replaces_the_whole_file(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	assert_int_equal(write_text(path, "a long text that was there"), 0);
	assert_int_equal(write_text(path, "short"), 0);
	expect_contents(path, "short");
	assert_false(exists(in_scratch("file.new")));
}

static void a_reader_that_has_the_old_file_open_keeps_it(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	char text[4] = "";
	assert_int_equal(write_text(path, "old"), 0);
	int fd = open(path, O_RDONLY);
	assert_int_equal(write_text(path, "new"), 0);
	assert_int_equal(read(fd, text, 3), 3);
	close(fd);
	assert_string_equal(text, "old");
}

static mode_t mode_of(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void a_written_file_is_for_its_owner_only(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	put_text_in(path, "old");
	assert_int_equal(chmod(path, 0666), 0);
	mode_t mask = umask(0);
	int status = write_text(path, "new");
	umask(mask);
	assert_int_equal(status, 0);
	assert_int_equal(mode_of(path), 0600);
}

/* What a crash left may have been made by hand, or be longer than the new text. */
static void a_leftover_of_a_crash_is_overwritten(void **state)
{
	(void)state;
	const char *path = in_scratch("file"), *leftover = in_scratch("file.new");
	put_text_in(path, "old");
	put_text_in(leftover, "half of something that is longer");
	assert_int_equal(write_text(path, "new"), 0);
	expect_contents(path, "new");
	assert_false(exists(leftover));
}

static void the_mode_of_a_leftover_does_not_survive(void **state)
{
	(void)state;
	const char *path = in_scratch("file"), *leftover = in_scratch("file.new");
	put_text_in(leftover, "x");
	assert_int_equal(chmod(leftover, 0644), 0);
	assert_int_equal(write_text(path, "new"), 0);
	assert_int_equal(mode_of(path), 0600);
}

static void a_symlink_in_the_place_of_the_new_file_is_not_followed(void **state)
{
	(void)state;
	const char *path = in_scratch("file"), *victim = in_scratch("victim");
	put_text_in(path, "old");
	put_text_in(victim, "victim");
	assert_int_equal(symlink(victim, in_scratch("file.new")), 0);
	assert_int_equal(write_text(path, "new"), -ELOOP);
	expect_contents(path, "old");
	expect_contents(victim, "victim");
}

static void a_directory_in_the_place_of_the_file_is_left_alone(void **state)
{
	(void)state;
	const char *path = in_scratch("directory");
	struct reason reason;
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(durable_file_write(path, "new", 3, &reason), -EISDIR);
	assert_non_null(strstr(reason.text, path));
	assert_true(exists(path));
	assert_false(exists(in_scratch("directory.new")));
}

static void writing_into_a_missing_directory_says_where(void **state)
{
	(void)state;
	const char *path = in_scratch("none/file");
	struct reason reason;
	assert_int_equal(durable_file_write(path, "new", 3, &reason), -ENOENT);
	assert_non_null(strstr(reason.text, path));
}

static void the_largest_file_is_read_and_a_larger_one_refused(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	char *bytes = calloc(1, DURABLE_FILE_MAX + 1), *text;
	size_t length;
	struct reason reason;
	assert_int_equal(durable_file_write(path, bytes, DURABLE_FILE_MAX, &reason), 0);
	assert_int_equal(durable_file_read(path, &text, &length, &reason), 0);
	assert_int_equal(length, DURABLE_FILE_MAX);
	free(text);
	put_bytes_in(path, bytes, DURABLE_FILE_MAX + 1);
	free(bytes);
	assert_int_equal(durable_file_read(path, &text, &length, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, path));
}

static void what_could_not_be_read_again_is_not_written(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	char *bytes = calloc(1, DURABLE_FILE_MAX + 1);
	struct reason reason;
	put_text_in(path, "old");
	int status = durable_file_write(path, bytes, DURABLE_FILE_MAX + 1, &reason);
	free(bytes);
	assert_true(status < 0);
	expect_contents(path, "old");
}

static void a_missing_file_is_enoent_without_a_reason(void **state)
{
	(void)state;
	struct reason reason = { "untouched" };
	char *text;
	size_t length;
	assert_int_equal(durable_file_read(in_scratch("none"), &text, &length, &reason), -ENOENT);
	assert_string_equal(reason.text, "untouched");
}

static void what_is_no_regular_file_is_refused_at_once(void **state)
{
	(void)state;
	struct reason reason;
	char *text;
	size_t length;
	const char *fifo = in_scratch("fifo");
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(durable_file_read(in_scratch(""), &text, &length, &reason), -EBADMSG);
	assert_int_equal(durable_file_read(fifo, &text, &length, &reason), -EBADMSG);
	assert_int_equal(durable_file_read("/dev/zero", &text, &length, &reason), -EBADMSG);
}

/* no room */

/* Reading must find either the old or the new text after each attempt. */
static int write_until_full(void *context)
{
	const char *path = context;
	static char large[DURABLE_FILE_MAX];
	struct reason reason;
	memset(large, 'x', sizeof large);
	if (write_text(path, "old") < 0)
		return 1;
	if (durable_file_write(path, large, sizeof large, &reason) != -ENOSPC)
		return 2;
	if (!strstr(reason.text, path) || !strstr(reason.text, strerror(ENOSPC)))
		return 3;
	char *text = get_bytes_of(path, NULL);
	bool is_old = text && strcmp(text, "old") == 0;
	free(text);
	return is_old ? 0 : 4;
}

static int write_to_a_small_disk(void *context)
{
	const char *directory = context;
	char path[300], fresh[304];
	if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return 100;
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (mount("tmpfs", directory, "tmpfs", 0, "size=16k") < 0)
		return 100;
	snprintf(path, sizeof path, "%s/file", directory);
	snprintf(fresh, sizeof fresh, "%s.new", path);
	int status = write_until_full(path);
	if (status == 0 && exists(fresh))
		status = 5;
	if (status == 0 && write_text(path, "newer") < 0) /* the room has been given back */
		status = 6;
	umount(directory);
	return status;
}

static void a_full_disk_leaves_the_old_file(void **state)
{
	(void)state;
	const char *directory = in_scratch("mount");
	assert_int_equal(mkdir(directory, 0700), 0);
	int status = in_child(write_to_a_small_disk, (void *)directory, 60);
	if (status == 100)
		skip();
	assert_int_equal(status, 0);
}

static int write_beyond_a_limit(void *context)
{
	const char *path = context;
	const struct rlimit limit = { 1000, 1000 };
	static char large[2000];
	struct reason reason;
	signal(SIGXFSZ, SIG_IGN);
	if (write_text(path, "old") < 0 || setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 1;
	return durable_file_write(path, large, sizeof large, &reason) == -EFBIG ? 0 : 2;
}

static void a_write_that_fails_half_way_leaves_the_old_file(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	assert_int_equal(in_child(write_beyond_a_limit, (void *)path, 60), 0);
	expect_contents(path, "old");
	assert_false(exists(in_scratch("file.new")));
}

static int write_without_end(void *context)
{
	static char texts[2][40000];
	struct reason reason;
	memset(texts[0], 'a', sizeof texts[0]);
	memset(texts[1], 'b', sizeof texts[1]);
	for (size_t i = 0;; i++)
		durable_file_write(context, texts[i % 2], sizeof texts[0] - i % 2, &reason);
	return 0;
}

static void a_reader_never_sees_half_a_file(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	put_text_in(path, "a");
	pid_t child = start_child(write_without_end, (void *)path);
	unsigned seen[2] = { 0, 0 };
	while (seen[0] < 200 || seen[1] < 200) {
		struct reason reason;
		char *text;
		size_t length;
		assert_int_equal(durable_file_read(path, &text, &length, &reason), 0);
		bool is_b = text[0] == 'b';
		bool is_whole = length == (is_b ? 39999 : 40000) || length == 1;
		is_whole = is_whole && strspn(text, is_b ? "b" : "a") == length;
		free(text);
		if (!is_whole) {
			kill(child, SIGKILL);
			fail_msg("half a file of %zu bytes", length);
		}
		seen[is_b]++;
	}
	kill(child, SIGKILL);
	await_child(child, 60);
}

static void a_writer_that_is_killed_leaves_the_old_or_the_new_file(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	struct random random = { 3 };
	put_text_in(path, "a");
	for (unsigned round = 0; round < 50; round++) {
		pid_t child = start_child(write_without_end, (void *)path);
		usleep((useconds_t)random_below(&random, 3000));
		kill(child, SIGKILL);
		await_child(child, 60);
		size_t length;
		char *text = get_bytes_of(path, &length);
		bool is_whole = strspn(text, text[0] == 'b' ? "b" : "a") == length &&
						(length == 1 || length == (text[0] == 'b' ? 39999 : 40000));
		free(text);
		assert_true(is_whole);
	}
}

/* removing, directories, paths */

static void a_removed_file_is_gone_and_removing_again_is_no_error(void **state)
{
	(void)state;
	const char *path = in_scratch("file");
	struct reason reason;
	put_text_in(path, "x");
	assert_int_equal(durable_file_remove(path, &reason), 0);
	assert_false(exists(path));
	assert_int_equal(durable_file_remove(path, &reason), 0);
}

static void a_directory_is_not_removed_as_a_file(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(mkdir(in_scratch("directory"), 0700), 0);
	assert_true(durable_file_remove(in_scratch("directory"), &reason) < 0);
	assert_non_null(strstr(reason.text, "directory"));
}

static void a_directory_is_made_with_its_parents(void **state)
{
	(void)state;
	struct reason reason;
	struct stat st;
	assert_int_equal(make_directory(in_scratch("a/b/c"), &reason), 0);
	assert_int_equal(stat(in_scratch("a/b/c"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(make_directory(in_scratch("a/b/c"), &reason), 0);
	assert_int_equal(make_directory(in_scratch("a/d/"), &reason), 0);
}

static void a_file_in_the_way_of_a_directory_is_named(void **state)
{
	(void)state;
	struct reason reason;
	const char *file = in_scratch("file");
	put_text_in(file, "x");
	assert_int_equal(make_directory(file, &reason), -ENOTDIR);
	assert_non_null(strstr(reason.text, file));
	assert_int_equal(make_directory(in_scratch("file/below"), &reason), -ENOTDIR);
	assert_non_null(strstr(reason.text, file));
}

static void a_link_to_nowhere_is_no_directory(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(symlink(in_scratch("nowhere"), in_scratch("link")), 0);
	assert_true(make_directory(in_scratch("link"), &reason) < 0);
	assert_non_null(strstr(reason.text, "link"));
}

static void a_path_is_joined_with_one_slash(void **state)
{
	(void)state;
	char *path = path_join("/a/b", "c");
	assert_string_equal(path, "/a/b/c");
	free(path);
}

/* locks */

static int try_lock(void *path)
{
	struct reason reason;
	int fd = lock_file_now(path, &reason);
	return fd == -EBUSY ? 1 : fd >= 0 ? 0 : 2;
}

static void a_lock_keeps_other_processes_and_descriptors_out(void **state)
{
	(void)state;
	char *path = (char *)in_scratch("lock");
	struct reason reason = { "untouched" };
	int fd = lock_file_now(path, &reason);
	assert_true(fd >= 0);
	assert_int_equal(lock_file_now(path, &reason), -EBUSY);
	assert_string_equal(reason.text, "untouched");
	assert_int_equal(in_child(try_lock, path, 60), 1);
	close(fd);
	assert_int_equal(in_child(try_lock, path, 60), 0);
}

static int lock_and_die(void *path)
{
	struct reason reason;
	if (lock_file_wait(path, &reason) >= 0)
		kill(getpid(), SIGKILL);
	return 0;
}

static void a_lock_ends_with_its_process(void **state)
{
	(void)state;
	char *path = (char *)in_scratch("lock");
	assert_int_equal(in_child(lock_and_die, path, 60), ENDED_BADLY);
	assert_int_equal(in_child(try_lock, path, 60), 0);
}

static void a_lock_file_is_no_symlink(void **state)
{
	(void)state;
	struct reason reason;
	const char *path = in_scratch("lock");
	put_text_in(in_scratch("target"), "x");
	assert_int_equal(symlink(in_scratch("target"), path), 0);
	assert_int_equal(lock_file_now(path, &reason), -ELOOP);
	assert_non_null(strstr(reason.text, path));
	assert_int_equal(unlink(in_scratch("target")), 0);
	assert_int_equal(lock_file_now(path, &reason), -ELOOP);
	assert_false(exists(in_scratch("target")));
}

static void a_lock_in_a_missing_directory_is_enoent(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(lock_file_wait(in_scratch("none/lock"), &reason), -ENOENT);
}

struct turns {
	char path[300];
	int inside;
	unsigned done, overlaps;
};

/* Takes the lock, unlinks it as its holder may, and gives it back, again and again. */
static int take_turns(void *context)
{
	struct turns *turns = context;
	struct reason reason;
	for (unsigned i = 0; i < 500; i++) {
		int fd = lock_file_wait(turns->path, &reason);
		if (fd < 0)
			return 1;
		if (__atomic_add_fetch(&turns->inside, 1, __ATOMIC_SEQ_CST) != 1)
			__atomic_add_fetch(&turns->overlaps, 1, __ATOMIC_SEQ_CST);
		turns->done++; /* not atomic: the lock is */
		__atomic_sub_fetch(&turns->inside, 1, __ATOMIC_SEQ_CST);
		if (i % 3 == 0) /* lets the next one in, as closing does */
			unlink(turns->path);
		close(fd);
	}
	return 0;
}

static void of_many_waiters_one_at_a_time_has_the_lock(void **state)
{
	(void)state;
	struct turns *turns = shared_memory(sizeof *turns);
	snprintf(turns->path, sizeof turns->path, "%s", in_scratch("lock"));
	pid_t children[4];
	for (size_t i = 0; i < 4; i++)
		children[i] = start_child(take_turns, turns);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(await_child(children[i], 120), 0);
	assert_int_equal(turns->overlaps, 0);
	assert_int_equal(turns->done, 4 * 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(what_is_written_is_read),
		scratch_test(an_empty_file_is_one),
		scratch_test(writing_replaces_the_whole_file),
		scratch_test(a_reader_that_has_the_old_file_open_keeps_it),
		scratch_test(a_written_file_is_for_its_owner_only),
		scratch_test(a_leftover_of_a_crash_is_overwritten),
		scratch_test(the_mode_of_a_leftover_does_not_survive),
		scratch_test(a_symlink_in_the_place_of_the_new_file_is_not_followed),
		scratch_test(a_directory_in_the_place_of_the_file_is_left_alone),
		scratch_test(writing_into_a_missing_directory_says_where),
		scratch_test(the_largest_file_is_read_and_a_larger_one_refused),
		scratch_test(what_could_not_be_read_again_is_not_written),
		scratch_test(a_missing_file_is_enoent_without_a_reason),
		scratch_test(what_is_no_regular_file_is_refused_at_once),
		/* the name is all that a skipped test can say */
		{ "a_full_disk_leaves_the_old_file (needs mount namespaces)",
			a_full_disk_leaves_the_old_file, scratch_setup, scratch_teardown, NULL },
		scratch_test(a_write_that_fails_half_way_leaves_the_old_file),
		scratch_test(a_reader_never_sees_half_a_file),
		scratch_test(a_writer_that_is_killed_leaves_the_old_or_the_new_file),
		scratch_test(a_removed_file_is_gone_and_removing_again_is_no_error),
		scratch_test(a_directory_is_not_removed_as_a_file),
		scratch_test(a_directory_is_made_with_its_parents),
		scratch_test(a_file_in_the_way_of_a_directory_is_named),
		scratch_test(a_link_to_nowhere_is_no_directory),
		scratch_test(a_path_is_joined_with_one_slash),
		scratch_test(a_lock_keeps_other_processes_and_descriptors_out),
		scratch_test(a_lock_ends_with_its_process),
		scratch_test(a_lock_file_is_no_symlink),
		scratch_test(a_lock_in_a_missing_directory_is_enoent),
		scratch_test(of_many_waiters_one_at_a_time_has_the_lock),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
