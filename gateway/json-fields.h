/* json-fields.h: strict reading and careful building of JSON objects, on top of json-c.
 *
 * Reading: each function returns false if the field is absent, of another type or out of range, so
 * a decoder is one chain of &&. Building: each takes what json-c gave, which may be NULL without
 * memory, so an encoder is one chain of && too.
 */
#ifndef TB4_JSON_FIELDS_H
#define TB4_JSON_FIELDS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The text of an object, which belongs to it. NULL without memory: json-c itself would leave pieces out. */
const char *json_text_of(struct json_object *object, int flags);

/* NBD clients and JSON readers take text for UTF-8. */
bool json_is_utf8(const char *text, size_t length);

/* Parses a text that must be exactly one object, at most 8 levels deep. NULL if it is not,
 * or without memory, then with errno ENOMEM, which it leaves alone otherwise.
 * The caller owns one reference: json_object_put(). */
struct json_object *json_parse_object(const char *text, size_t length);

/* Copies a string of at most size - 1 bytes and without zero bytes. */
bool json_text(struct json_object *object, const char *name, char *text, size_t size);
/* As json_text(), NULL if absent or of another type; the string belongs to `object`. */
const char *json_text_or_null(struct json_object *object, const char *name);
/* As json_text_or_null(), with something else instead of NULL. */
const char *json_text_or(struct json_object *object, const char *name, const char *otherwise);
/* An item of a field that is an array; NULL behind its end, or if the field is absent or no array. */
struct json_object *json_item_or_null(struct json_object *object, const char *name, size_t index);
/* 0 if it is absent, or no number. */
uint64_t json_number_or_zero(struct json_object *object, const char *name);
bool json_number(struct json_object *object, const char *name, uint64_t *number);
bool json_switch(struct json_object *object, const char *name, bool *value);

/* Adds `value` to the object (or array) and owns it from then on, also when it fails. */
bool json_add(struct json_object *object, const char *name, struct json_object *value);
bool json_add_text(struct json_object *object, const char *name, const char *text);
bool json_add_number(struct json_object *object, const char *name, uint64_t number);
bool json_add_switch(struct json_object *object, const char *name, bool value);
bool json_append(struct json_object *array, struct json_object *value);
bool json_append_text(struct json_object *array, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Has one of these failed? For programs that build without looking at each. */
bool json_was_incomplete(void);

static inline void cleanup_json(struct json_object **object)
{
	json_object_put(*object);
}
#define CLEANUP_JSON __attribute__((cleanup(cleanup_json)))

#endif
