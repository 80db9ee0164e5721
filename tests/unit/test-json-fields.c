#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json-fields.h"
#include "scratch.h"
#include "unit.h"

static struct json_object *parse(const char *text)
{
	return json_parse_object(text, strlen(text));
}

static struct json_object *parsed(const char *text)
{
	struct json_object *object = parse(text);
	if (!object)
		fail_msg("not taken: %s", text);
	return object;
}

/* parsing */

static void one_object_is_taken(void **state)
{
	(void)state;
	static const char *const good[] = { "{}", " { } ", "{\"a\":1}",
		"{\"a\":{\"b\":[1,2,{}]},\"c\":null}", "{\"a\":\"\xc3\xa4\"}", "{\"a\":\"\\u00e4\\n\"}" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		json_object_put(parsed(good[i]));
}

static void text_of_any_script_is_kept(void **state)
{
	(void)state;
	static const char text[] = "a\xc3\xa4\xe2\x98\x83\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf";
	char line[100], back[sizeof text];
	snprintf(line, sizeof line, "{\"%s\":\"%s\"}", text, text);
	struct json_object *object = parsed(line);
	assert_true(json_text(object, text, back, sizeof back));
	assert_string_equal(back, text);
	json_object_put(object);
	static const char *const bad[] = { "\xc3", "\xc3(", "\xc0\x80", "\xe2\x98", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\x80" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		snprintf(line, sizeof line, "{\"a\":\"%s\"}", bad[i]);
		assert_null(parse(line));
		snprintf(line, sizeof line, "{\"a\":1}%s", bad[i]);
		assert_null(parse(line));
	}
	assert_null(parse("{\"a\":\xc3\xa4}"));
	assert_null(parse("{\xc3\xa4\"a\":1}"));
}

static void what_is_not_exactly_one_object_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "", " ", "null", "true", "1", "\"a\"", "[]", "[{}]", "{",
		"}", "{}}", "{}{}", "{} {}", "{},", "{}x", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}",
		"{a:1}", "{\"a\":'x'}", "{\"a\":1 \"b\":2}", "{\"a\":\"b}", "{\"a\":01}", "{\"a\":+1}",
		"{\"a\":0x1}", "{\"a\":1e}", "{\"a\":.1}", "{\"a\":-}", "{\"a\":[1,]}", "{\"a\":tru}",
		"{\"a\":True}", "/* */{}", "{/* */}", "// x\n{}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
		"{\"a\":\"\xff\"}", "{\"a\":\"\xc3\"}", "{\"\xff\":1}", "\xef\xbb\xbf{}" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct json_object *object = parse(bad[i]);
		if (object)
			fail_msg("taken: %s", bad[i]);
	}
}

static void a_zero_byte_is_no_end(void **state)
{
	(void)state;
	static const char after[] = "{}\0", inside[] = "{\"a\":\"\0\"}", before[] = "\0{}",
					  more[] = "{}\0{\"a\":1}";
	assert_null(json_parse_object(after, sizeof after - 1));
	assert_null(json_parse_object(inside, sizeof inside - 1));
	assert_null(json_parse_object(before, sizeof before - 1));
	assert_null(json_parse_object(more, sizeof more - 1));
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	static const char text[] = "{\"a\":[1,-2.5,\"x\\u00e4\",true,null],\"b\":{\"c\":12}}";
	json_object_put(parsed(text));
	for (size_t length = 0; length < strlen(text); length++) {
		char *part = malloc(length ? length : 1); /* a sanitizer sees a read beyond it */
		memcpy(part, text, length);
		struct json_object *object = json_parse_object(part, length);
		free(part);
		assert_null(object);
	}
}

/* {"a":{"a":...{}...}} with so many objects in each other */
static bool takes_depth(unsigned depth)
{
	char text[2000] = "";
	for (unsigned i = 1; i < depth; i++)
		strcat(text, "{\"a\":");
	strcat(text, "{}");
	for (unsigned i = 1; i < depth; i++)
		strcat(text, "}");
	struct json_object *object = parse(text);
	json_object_put(object);
	return object;
}

static void at_most_8_levels_are_taken(void **state)
{
	(void)state;
	assert_true(takes_depth(1));
	assert_true(takes_depth(8));
	assert_false(takes_depth(9));
	assert_false(takes_depth(100));
}

static void random_bytes_are_taken_or_refused_but_never_overrun(void **state)
{
	(void)state;
	static const char letters[] = "{}[]:,\"\\ua1e.-+tfn\xc3\xa4\n\0 ";
	struct random random = { 9 };
	for (unsigned round = 0; round < 50000; round++) {
		size_t length = random_below(&random, 24);
		char *text = malloc(length + 1);
		for (size_t i = 0; i < length; i++)
			text[i] = letters[random_below(&random, sizeof letters)];
		if (length > 0)
			text[0] = '{';
		struct json_object *object = json_parse_object(text, length);
		assert_true(!object || json_object_is_type(object, json_type_object));
		json_object_put(object);
		free(text);
	}
}

/* reading */

static void a_string_is_copied_if_it_fits(void **state)
{
	(void)state;
	CLEANUP_JSON struct json_object *object = parsed("{\"a\":\"1234\",\"b\":\"\"}");
	char text[5] = "....";
	assert_true(json_text(object, "a", text, sizeof text));
	assert_string_equal(text, "1234");
	assert_true(json_text(object, "b", text, sizeof text));
	assert_string_equal(text, "");
	assert_false(json_text(object, "a", text, 4));
	assert_false(json_text(object, "b", text, 0));
}

static void a_string_with_a_zero_byte_is_refused(void **state)
{
	(void)state;
	CLEANUP_JSON struct json_object *object = parsed("{\"a\":\"x\\u0000y\",\"b\":\"\\u0000\"}");
	char text[20];
	assert_false(json_text(object, "a", text, sizeof text));
	assert_false(json_text(object, "b", text, sizeof text));
	assert_null(json_text_or_null(object, "a"));
}

static void what_is_no_string_is_refused(void **state)
{
	(void)state;
	static const char *const fields[] = { "a", "b", "c", "d", "e", "f", "absent", "" };
	CLEANUP_JSON struct json_object *object = parsed(
		"{\"a\":1,\"b\":true,\"c\":null,\"d\":[\"x\"],\"e\":{\"x\":\"x\"},\"f\":1.5}");
	char text[20];
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		assert_false(json_text(object, fields[i], text, sizeof text));
		assert_null(json_text_or_null(object, fields[i]));
	}
}

static void numbers_up_to_2_to_the_63_are_read(void **state)
{
	(void)state;
	CLEANUP_JSON struct json_object *object = parsed(
		"{\"a\":0,\"b\":1,\"c\":4294967296,\"d\":9223372036854775807,\"e\":-0}");
	uint64_t number = 7;
	assert_true(json_number(object, "a", &number));
	assert_int_equal(number, 0);
	assert_true(json_number(object, "b", &number));
	assert_int_equal(number, 1);
	assert_true(json_number(object, "c", &number));
	assert_int_equal(number, UINT64_C(1) << 32);
	assert_true(json_number(object, "d", &number));
	assert_int_equal(number, INT64_MAX);
}

static void what_is_no_number_is_refused(void **state)
{
	(void)state;
	static const char *const values[] = { "-1", "-9223372036854775808", "1.0", "1.5", "1e3",
		"\"1\"", "true", "null", "[1]", "{}" };
	uint64_t number;
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		char text[60];
		snprintf(text, sizeof text, "{\"a\":%s}", values[i]);
		CLEANUP_JSON struct json_object *object = parsed(text);
		if (json_number(object, "a", &number))
			fail_msg("%s is taken for a number", values[i]);
		assert_false(json_number(object, "b", &number));
	}
}

/* json-c itself gives 2^63-1 for these. */
static void a_number_that_is_too_large_is_refused_and_not_clamped(void **state)
{
	(void)state;
	static const char *const values[] = { "9223372036854775808", "18446744073709551615",
		"99999999999999999999" };
	uint64_t number;
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		char text[60];
		snprintf(text, sizeof text, "{\"a\":%s}", values[i]);
		CLEANUP_JSON struct json_object *object = parse(text);
		if (object && json_number(object, "a", &number))
			fail_msg("%s is read as %" PRIu64, values[i], number);
	}
}

static void only_true_and_false_are_switches(void **state)
{
	(void)state;
	CLEANUP_JSON struct json_object *object = parsed(
		"{\"a\":true,\"b\":false,\"c\":1,\"d\":\"true\",\"e\":null,\"f\":[]}");
	bool value = false;
	assert_true(json_switch(object, "a", &value));
	assert_true(value);
	assert_true(json_switch(object, "b", &value));
	assert_false(value);
	static const char *const others[] = { "c", "d", "e", "f", "absent" };
	for (size_t i = 0; i < 5; i++)
		assert_false(json_switch(object, others[i], &value));
}

static void fields_of_what_is_no_object_are_absent(void **state)
{
	(void)state;
	struct json_object *array = json_object_new_array(), *others[] = { NULL, array };
	char text[20];
	uint64_t number;
	bool value;
	for (size_t i = 0; i < 2; i++) {
		assert_false(json_text(others[i], "a", text, sizeof text));
		assert_false(json_number(others[i], "a", &number));
		assert_false(json_switch(others[i], "a", &value));
	}
	json_object_put(array);
}

/* building */

static void what_is_built_is_read_back(void **state)
{
	(void)state;
	CLEANUP_JSON struct json_object *object = json_object_new_object();
	struct json_object *array = json_object_new_array();
	assert_true(json_add_text(object, "text", "a \"b\" \\ \n\x01 \xc3\xa4"));
	assert_true(json_add_number(object, "number", INT64_MAX));
	assert_true(json_add_switch(object, "switch", true));
	assert_true(json_append(array, json_object_new_string("x")));
	assert_true(json_add(object, "array", array));
	const char *json = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN);
	assert_null(strchr(json, '\n'));
	CLEANUP_JSON struct json_object *back = parsed(json);
	char text[40];
	uint64_t number;
	bool value;
	assert_true(json_text(back, "text", text, sizeof text));
	assert_string_equal(text, "a \"b\" \\ \n\x01 \xc3\xa4");
	assert_true(json_number(back, "number", &number));
	assert_int_equal(number, INT64_MAX);
	assert_true(json_switch(back, "switch", &value));
	assert_true(value);
	assert_int_equal(json_object_array_length(json_object_object_get(back, "array")), 1);
}

/* A leak here would be reported by LeakSanitizer. */
static void a_value_is_owned_even_if_it_cannot_be_added(void **state)
{
	(void)state;
	struct json_object *object = json_object_new_object(), *array = json_object_new_array();
	assert_false(json_add(NULL, "a", json_object_new_string("x")));
	assert_false(json_add(object, "a", NULL));
	assert_false(json_add_text(NULL, "a", "x"));
	assert_false(json_add_number(NULL, "a", 1));
	assert_false(json_add_switch(NULL, "a", true));
	assert_false(json_append(NULL, json_object_new_string("x")));
	assert_false(json_append(array, NULL));
	assert_int_equal(json_object_object_length(object), 0);
	assert_int_equal(json_object_array_length(array), 0);
	json_object_put(object);
	json_object_put(array);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_object_is_taken),
		cmocka_unit_test(text_of_any_script_is_kept),
		cmocka_unit_test(what_is_not_exactly_one_object_is_refused),
		cmocka_unit_test(a_zero_byte_is_no_end),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(at_most_8_levels_are_taken),
		cmocka_unit_test(random_bytes_are_taken_or_refused_but_never_overrun),
		cmocka_unit_test(a_string_is_copied_if_it_fits),
		cmocka_unit_test(a_string_with_a_zero_byte_is_refused),
		cmocka_unit_test(what_is_no_string_is_refused),
		cmocka_unit_test(numbers_up_to_2_to_the_63_are_read),
		cmocka_unit_test(what_is_no_number_is_refused),
		cmocka_unit_test(a_number_that_is_too_large_is_refused_and_not_clamped),
		cmocka_unit_test(only_true_and_false_are_switches),
		cmocka_unit_test(fields_of_what_is_no_object_are_absent),
		cmocka_unit_test(what_is_built_is_read_back),
		cmocka_unit_test(a_value_is_owned_even_if_it_cannot_be_added),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
