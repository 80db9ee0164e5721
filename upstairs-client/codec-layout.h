/* codec-layout.h: of what fields a message is made, as tables that encoder and decoder both follow.
 *
 * 1. The order of the fields in a table is the order on the wire.
 * 2. A field's offset is that of a member of the type that its kind demands; codec-layout.c does
 *    not compile otherwise.
 * 3. FIELD_DATA is the last field of its message.
 */
#ifndef UPSTAIRS_CODEC_LAYOUT_H
#define UPSTAIRS_CODEC_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "codec.h"

enum field_kind {
	FIELD_END = 0,
	FIELD_U8,
	FIELD_U32,
	FIELD_U64,
	FIELD_BOOL,
	FIELD_UUID,
	FIELD_ADDRESS,
	FIELD_TEXT,
	FIELD_U8S,
	FIELD_U32S,
	FIELD_U64S,
	FIELD_BOOLS,
	FIELD_BLOCK_CONTEXTS,
	FIELD_READ_CONTEXTS,
	FIELD_ERROR,
	FIELD_NEGOTIATION_ERROR,
	FIELD_DATA,
	FIELD_OPTION, /* a bool; the next `count` fields are there only if it is true */
	FIELD_RESULT, /* success or an error; the next `count` fields are there only after success */
};

struct field {
	uint8_t kind; /* enum field_kind */
	uint8_t count;
	uint16_t offset; /* in the struct that the table is for */
};

struct layout {
	const char *name;        /* in the protocol, or for people */
	struct field fields[12]; /* the last is FIELD_END */
};

/* The field behind this one whose value, or what says whether it has one, is at `value`. */
static inline const struct field *field_next(const struct field *field, const void *value)
{
	bool skips = (field->kind == FIELD_OPTION && !*(const bool *)value) ||
				 (field->kind == FIELD_RESULT && ((const struct crucible_result *)value)->failed);
	return field + 1 + (skips ? field->count : 0);
}

/* The sizes on the wire of what is more than one number. */
enum {
	WIRE_UUID = 24,
	WIRE_ENCRYPTION = 28,
	WIRE_BLOCK_CONTEXT_MIN = 9, /* hash and option */
	WIRE_READ_CONTEXT_MIN = 4,  /* kind */
};

/* Each returns NULL if the protocol has no such thing. Offsets are in struct crucible_message,
 * struct crucible_error and struct crucible_negotiation_error. */
const struct layout *crucible_message_layout(uint32_t type);
const struct layout *crucible_error_layout(uint32_t kind);
const struct layout *crucible_negotiation_error_layout(uint32_t kind);

#endif
