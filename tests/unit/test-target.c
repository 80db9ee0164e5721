/* test-target.c: addresses of downstairs as people write them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "unit.h"
#include "volume/target.h"

static void a_target_is_taken_apart(void **state)
{
	(void)state;
	static const struct {
		const char *text, *host;
		uint16_t port;
	} cases[] = {
		{ "10.0.0.1:3900", "10.0.0.1", 3900 },
		{ "sled-1.example:1", "sled-1.example", 1 },
		{ "a:65535", "a", 65535 },
		{ "[::1]:3900", "::1", 3900 },
		{ "[fe80::1%en05]:3900", "fe80::1%en05", 3900 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char host[TARGET_HOST_MAX];
		uint16_t port;
		assert_int_equal(target_parse(cases[i].text, host, &port), 0);
		assert_string_equal(host, cases[i].host);
		assert_int_equal(port, cases[i].port);
	}
}

static void what_is_none_is_refused(void **state)
{
	(void)state;
	static const char *const texts[] = { "", ":", "a", "a:", ":1", "a:0", "a:01", "a:65536", "a:99999999999999999999",
		"a:-1", "a:1x", "a b:1", "a/b:1", "::1:5", "[]:1", "[::1:1", "::1]:1", "a:1:2", "\xc3\xa4:1" };
	char host[TARGET_HOST_MAX], longest[TARGET_HOST_MAX + 3];
	uint16_t port;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		if (target_parse(texts[i], host, &port) != -EINVAL)
			fail_msg("%s", texts[i]);
	}
	memset(longest, 'a', TARGET_HOST_MAX);
	strcpy(longest + TARGET_HOST_MAX, ":1");
	assert_int_equal(target_parse(longest, host, &port), -EINVAL);
	assert_int_equal(target_parse(longest + 1, host, &port), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_target_is_taken_apart),
		cmocka_unit_test(what_is_none_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
