#include <errno.h>
#include <string.h>

#include "reason.h"
#include "scratch.h"
#include "unit.h"

static void a_reason_is_formatted_and_the_error_given_back(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(reason_set(&reason, -EIO, "%s: line %d", "file", 7), -EIO);
	assert_string_equal(reason.text, "file: line 7");
}

static void nobody_needs_to_take_the_reason(void **state)
{
	(void)state;
	assert_int_equal(reason_set(NULL, -EIO, "%s", "x"), -EIO);
}

static void errno_may_be_part_of_the_text(void **state)
{
	(void)state;
	struct reason reason;
	errno = ENOSPC;
	assert_int_equal(reason_set(&reason, -errno, "file: %m"), -ENOSPC);
	assert_string_equal(reason.text, "file: No space left on device");
}

static void a_long_reason_is_cut_and_ended(void **state)
{
	(void)state;
	char text[2000];
	struct {
		struct reason reason;
		char behind[16];
	} guarded;
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	memset(&guarded, 0x55, sizeof guarded);
	reason_set(&guarded.reason, 0, "%s", text);
	assert_int_equal(strlen(guarded.reason.text), sizeof guarded.reason.text - 1);
	for (size_t i = 0; i < sizeof guarded.behind; i++)
		assert_int_equal(guarded.behind[i], 0x55);
}

/* exit statuses */

static void errors_have_the_exit_statuses_of_the_manual(void **state)
{
	(void)state;
	static const struct {
		int error, status;
	} wanted[] = {
		{ 0, 0 },
		{ EINVAL, 64 },
		{ EBADMSG, 65 },
		{ ENOENT, 66 },
		{ ENODEV, 66 },
		{ ECONNREFUSED, 69 },
		{ ETIMEDOUT, 69 },
		{ EOPNOTSUPP, 69 },
		{ ENOMEM, 70 },
		{ EEXIST, 73 },
		{ ENOSPC, 73 },
		{ EDQUOT, 73 },
		{ EROFS, 73 },
		{ EADDRINUSE, 73 },
		{ EIO, 74 },
		{ EPIPE, 74 },
		{ EBUSY, 75 },
		{ EAGAIN, 75 },
		{ ESTALE, 75 },
		{ EACCES, 77 },
		{ EPERM, 77 },
		{ ENOTUNIQ, 78 },
		{ EOWNERDEAD, 90 },
		{ EINTR, 130 },
	};
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
		if (exit_status_for(-wanted[i].error) != wanted[i].status)
			fail_msg("%s: %d", strerror(wanted[i].error), exit_status_for(-wanted[i].error));
	}
}

static void every_error_has_a_status_that_is_in_the_list(void **state)
{
	(void)state;
	static const int known[] = { EXIT_BAD_USAGE, EXIT_BAD_DATA, EXIT_NO_INPUT, EXIT_UNAVAILABLE,
		EXIT_INTERNAL, EXIT_CANT_CREATE, EXIT_IO, EXIT_TRY_LATER, EXIT_NO_PERMISSION,
		EXIT_BAD_CONFIG, EXIT_FENCED, EXIT_INTERRUPTED };
	for (int error = 1; error < 200; error++) {
		int status = exit_status_for(-error);
		bool is_known = false;
		for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
			is_known = is_known || known[i] == status;
		assert_true(is_known);
	}
}

/* 90 is in RestartPreventExitStatus: nothing else may end with it. */
static void only_a_fence_ends_with_90(void **state)
{
	(void)state;
	for (int error = 1; error < 200; error++)
		assert_int_equal(exit_status_for(-error) == EXIT_FENCED, error == EOWNERDEAD);
}

/* A path of the configuration that cannot be used is no fault of the program. */
static void a_bad_path_is_no_internal_error(void **state)
{
	(void)state;
	static const int errors[] = { ENOTDIR, ENAMETOOLONG, ELOOP };
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		if (exit_status_for(-errors[i]) == EXIT_INTERNAL)
			fail_msg("%s is called an internal error", strerror(errors[i]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reason_is_formatted_and_the_error_given_back),
		cmocka_unit_test(nobody_needs_to_take_the_reason),
		cmocka_unit_test(errno_may_be_part_of_the_text),
		cmocka_unit_test(a_long_reason_is_cut_and_ended),
		cmocka_unit_test(errors_have_the_exit_statuses_of_the_manual),
		cmocka_unit_test(every_error_has_a_status_that_is_in_the_list),
		cmocka_unit_test(only_a_fence_ends_with_90),
		cmocka_unit_test(a_bad_path_is_no_internal_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
