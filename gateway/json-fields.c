#include "json-fields.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistr.h>

#include "cleanup.h"

enum {
	DEPTH_OF_INPUT = 8,
	DEPTH_OF_OUTPUT = 32,
	ESCAPED_MAX = 3, /* bytes per byte: two become six, four become twelve */
};

bool json_is_utf8(const char *text, size_t length)
{
	return !u8_check((const uint8_t *)text, length);
}

/* The same text, with all but ASCII escaped: the strict mode of json-c 0.18 takes bytes beyond that for control
 * characters. NULL if it is not UTF-8, or without memory, then with errno ENOMEM. */
static char *escape(const char *text, size_t length, size_t *escaped_length)
{
	CLEANUP_FREE char *escaped = malloc(length * ESCAPED_MAX + 1);
	if (!escaped) {
		errno = ENOMEM;
		return NULL;
	}
	char *end = escaped;
	for (size_t at = 0; at < length;) {
		ucs4_t character;
		int size = u8_mbtoucr(&character, (const uint8_t *)text + at, length - at);
		if (size < 0)
			return NULL;
		at += (size_t)size;
		if (character < 0x80)
			*end++ = (char)character;
		else if (character < 0x10000)
			end += sprintf(end, "\\u%04x", (unsigned)character);
		else
			end += sprintf(end, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (character >> 10)),
				(unsigned)(0xdc00 + (character & 0x3ff)));
	}
	*escaped_length = (size_t)(end - escaped);
	return take_pointer(&escaped);
}

static struct json_object *parse(const char *utf8, size_t utf8_length, int depth)
{
	size_t length;
	CLEANUP_FREE char *text = utf8_length > INT_MAX / ESCAPED_MAX ? NULL : escape(utf8, utf8_length, &length);
	if (!text)
		return NULL;
	struct json_tokener *tokener = json_tokener_new_ex(depth);
	if (!tokener) {
		errno = ENOMEM;
		return NULL;
	}
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	struct json_object *object = json_tokener_parse_ex(tokener, text, (int)length);
	bool whole = json_tokener_get_error(tokener) == json_tokener_success &&
		json_tokener_get_parse_end(tokener) == length;
	json_tokener_free(tokener);
	if (whole && json_object_is_type(object, json_type_object))
		return object;
	json_object_put(object);
	return NULL;
}

struct json_object *json_parse_object(const char *text, size_t length)
{
	return parse(text, length, DEPTH_OF_INPUT);
}

const char *json_text_of(struct json_object *object, int flags)
{
	const char *text = object ? json_object_to_json_string_ext(object, flags) : NULL;
	struct json_object *again = text ? parse(text, strlen(text), DEPTH_OF_OUTPUT) : NULL;
	bool is_whole = again && json_object_equal(object, again);
	json_object_put(again);
	return is_whole ? text : NULL;
}

const char *json_text_or_null(struct json_object *object, const char *name)
{
	struct json_object *field;
	if (!json_object_object_get_ex(object, name, &field) ||
		!json_object_is_type(field, json_type_string))
		return NULL;
	const char *text = json_object_get_string(field);
	return strlen(text) == (size_t)json_object_get_string_len(field) ? text : NULL;
}

const char *json_text_or(struct json_object *object, const char *name, const char *otherwise)
{
	const char *text = json_text_or_null(object, name);
	return text ? text : otherwise;
}

struct json_object *json_item_or_null(struct json_object *object, const char *name, size_t index)
{
	struct json_object *array;
	if (!json_object_object_get_ex(object, name, &array) || !json_object_is_type(array, json_type_array) ||
		index >= json_object_array_length(array))
		return NULL;
	return json_object_array_get_idx(array, index);
}

bool json_text(struct json_object *object, const char *name, char *text, size_t size)
{
	const char *value = json_text_or_null(object, name);
	if (!value || strlen(value) >= size)
		return false;
	strcpy(text, value);
	return true;
}

bool json_number(struct json_object *object, const char *name, uint64_t *number)
{
	struct json_object *field;
	if (!json_object_object_get_ex(object, name, &field) ||
		!json_object_is_type(field, json_type_int) || json_object_get_int64(field) < 0 ||
		json_object_get_uint64(field) > INT64_MAX) /* get_int64() would clamp it */
		return false;
	*number = (uint64_t)json_object_get_int64(field);
	return true;
}

uint64_t json_number_or_zero(struct json_object *object, const char *name)
{
	uint64_t number;
	return json_number(object, name, &number) ? number : 0;
}

bool json_switch(struct json_object *object, const char *name, bool *value)
{
	struct json_object *field;
	if (!json_object_object_get_ex(object, name, &field) ||
		!json_object_is_type(field, json_type_boolean))
		return false;
	*value = json_object_get_boolean(field);
	return true;
}

static bool incomplete;

bool json_was_incomplete(void)
{
	return incomplete;
}

bool json_add(struct json_object *object, const char *name, struct json_object *value)
{
	if (object && value && json_object_object_add(object, name, value) == 0)
		return true;
	json_object_put(value);
	incomplete = true;
	return false;
}

bool json_add_text(struct json_object *object, const char *name, const char *text)
{
	return json_add(object, name, json_object_new_string(text));
}

bool json_add_number(struct json_object *object, const char *name, uint64_t number)
{
	/* JSON readers are safe up to 2^53 only; json-c is up to 2^63, and we never reach that. */
	return json_add(object, name, json_object_new_int64((int64_t)number));
}

bool json_add_switch(struct json_object *object, const char *name, bool value)
{
	return json_add(object, name, json_object_new_boolean(value));
}

bool json_append(struct json_object *array, struct json_object *value)
{
	if (array && value && json_object_array_add(array, value) == 0)
		return true;
	json_object_put(value);
	incomplete = true;
	return false;
}

bool json_append_text(struct json_object *array, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	return json_append(array, json_object_new_string(text));
}
