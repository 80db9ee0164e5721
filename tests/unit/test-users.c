#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scratch.h"
#include "unit.h"
#include "users.h"

static uid_t *users;
static size_t count;
static struct reason reason;

static int teardown(void **state)
{
	(void)state;
	free(users);
	users = NULL;
	return 0;
}

static void names_and_numbers_are_taken(void **state)
{
	(void)state;
	assert_int_equal(users_parse("root, 1000,daemon 7\t8", &users, &count, &reason), 0);
	assert_int_equal(count, 5);
	assert_int_equal(users[0], 0);
	assert_int_equal(users[1], 1000);
	assert_int_equal(users[2], 1); /* daemon's on every Debian */
	assert_int_equal(users[3], 7);
	assert_int_equal(users[4], 8);
}

static void an_empty_list_has_no_users(void **state)
{
	(void)state;
	static const char *const empty[] = { NULL, "", ",", " , ,\t" };
	for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
		count = 7;
		assert_int_equal(users_parse(empty[i], &users, &count, &reason), 0);
		assert_int_equal(count, 0);
		free(users);
		users = NULL;
	}
}

static void the_largest_user_is_one_below_the_one_that_means_nobody(void **state)
{
	(void)state;
	assert_int_equal(users_parse("4294967294", &users, &count, &reason), 0);
	assert_int_equal(users[0], 4294967294u);
}

static void what_is_no_user_is_named(void **state)
{
	(void)state;
	static const char *const bad[] = { "no-such-user-here", "-1", "+1", "0x1", "1.5", "1000x",
		"4294967295", "4294967296", "18446744073709551616", "99999999999999999999", "root:x",
		"\xff" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (users_parse(bad[i], &users, &count, &reason) != -ENOTUNIQ)
			fail_msg("%s is taken for a user", bad[i]);
		assert_non_null(strstr(reason.text, bad[i]));
	}
}

static void a_list_with_one_wrong_name_gives_nobody(void **state)
{
	(void)state;
	assert_int_equal(users_parse("root, 7, no-such-user-here", &users, &count, &reason), -ENOTUNIQ);
	assert_null(users);
	assert_int_equal(count, 0);
}

static void a_list_of_single_digits_fits_its_array(void **state)
{
	(void)state;
	char text[2000] = "";
	for (unsigned i = 0; i < 500; i++)
		strcat(text, i ? ",1" : "1");
	assert_int_equal(users_parse(text, &users, &count, &reason), 0);
	assert_int_equal(count, 500);
}

#define test(function) cmocka_unit_test_teardown(function, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(names_and_numbers_are_taken),
		test(an_empty_list_has_no_users),
		test(the_largest_user_is_one_below_the_one_that_means_nobody),
		test(what_is_no_user_is_named),
		test(a_list_with_one_wrong_name_gives_nobody),
		test(a_list_of_single_digits_fits_its_array),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
