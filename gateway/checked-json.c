#include "checked-json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define CHECKSUM_FORMAT "xxh64 %016" PRIx64 "\n"
enum { CHECKSUM_LENGTH = 6 + 16 + 1 };

char *checked_json_encode(struct json_object *object)
{
	const char *json = json_text_of(object, JSON_C_TO_STRING_PLAIN);
	char *text;
	if (!json || asprintf(&text, "%s\n" CHECKSUM_FORMAT, json, XXH64(json, strlen(json), 0)) < 0)
		return NULL;
	return text;
}

struct json_object *checked_json_decode(const char *text, size_t length)
{
	char checksum[CHECKSUM_LENGTH + 1];
	const char *end = memchr(text, '\n', length);
	if (!end || (size_t)(text + length - end - 1) != CHECKSUM_LENGTH)
		return NULL;
	snprintf(checksum, sizeof checksum, CHECKSUM_FORMAT, XXH64(text, (size_t)(end - text), 0));
	if (memcmp(checksum, end + 1, CHECKSUM_LENGTH) != 0)
		return NULL;
	return json_parse_object(text, (size_t)(end - text));
}
