/* checked-json.h: the text form of records and role files: one line of JSON and one with its checksum,
 * so that a file that was cut short or changed by accident is never taken for a valid one. */
#ifndef TB4_CHECKED_JSON_H
#define TB4_CHECKED_JSON_H

#include "json-fields.h"

/* malloc'ed text, NULL without memory. */
char *checked_json_encode(struct json_object *object);
/* The object, which the caller frees, or NULL if the text is damaged. */
struct json_object *checked_json_decode(const char *text, size_t length);

#endif
