#include <errno.h>

#include "settings.h"
#include "unit.h"

static void sizes_are_parsed_exactly(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "4097", 4097 },
		{ "1K", 1024 },
		{ "512M", 512ull << 20 },
		{ "50G", 50ull << 30 },
		{ "50g", 50ull << 30 },
		{ "50GiB", 50ull << 30 },
		{ "1T", 1ull << 40 },
		{ "9223372036854775807", INT64_MAX },
	};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		uint64_t bytes = 1;
		assert_int_equal(size_parse(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void what_is_no_size_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "G", "-1", "+1", " 1", "1 ", "1.5G", "50GB", "50Gx", "0x10",
		"1KK", "ten", "\xff" };
	uint64_t bytes;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(size_parse(bad[i], &bytes), -EINVAL);
}

static void sizes_beyond_63_bits_are_out_of_range(void **state)
{
	(void)state;
	static const char *const large[] = { "9223372036854775808", "18446744073709551616", "8E", "16E",
		"8388608T", "99999999999999999999" };
	uint64_t bytes;
	for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
		assert_int_equal(size_parse(large[i], &bytes), -ERANGE);
}

static void a_formatted_size_is_parsed_to_the_same(void **state)
{
	(void)state;
	static const uint64_t sizes[] = { 0, 1, 512, 1024, 1536, 528ull << 10, 50ull << 30, (1ull << 40) + 1,
		INT64_MAX };
	char text[SIZE_TEXT_MAX];
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		uint64_t bytes;
		assert_int_equal(size_parse(size_format(sizes[i], text), &bytes), 0);
		assert_int_equal(bytes, sizes[i]);
	}
	assert_string_equal(size_format(50ull << 30, text), "50G");
	assert_string_equal(size_format(528ull << 10, text), "528K");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_parsed_exactly),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(sizes_beyond_63_bits_are_out_of_range),
		cmocka_unit_test(a_formatted_size_is_parsed_to_the_same),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
