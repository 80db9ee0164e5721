/* codec-encode.c: from messages to frames; see codec.h. Measuring is encoding without a buffer, so
 * both find the same size. */
#include <errno.h>

#include "codec-layout.h"

/* A frame as far as it is written. Once status is not 0 the rest is of no use. */
struct writer {
	uint8_t *frame; /* NULL if it is only measured */
	size_t used, limit;
	struct crucible_data data; /* what follows the head */
	int status;
};

static void fail(struct writer *writer, int status)
{
	if (writer->status == 0)
		writer->status = status;
}

/* Room for `length` bytes; NULL if nothing is to be written there. */
static uint8_t *claim(struct writer *writer, size_t length)
{
	if (length > writer->limit - writer->used) {
		fail(writer, -EMSGSIZE);
		return NULL;
	}
	uint8_t *at = writer->frame ? writer->frame + writer->used : NULL;
	writer->used += length;
	return at;
}

static void put_bytes(struct writer *writer, const void *bytes, size_t length)
{
	uint8_t *at = claim(writer, length);
	if (at && length > 0) /* an empty list need not have an address */
		memcpy(at, bytes, length);
}

static void put_u32(struct writer *writer, uint32_t value)
{
	put_bytes(writer, &value, sizeof value);
}

static void put_u64(struct writer *writer, uint64_t value)
{
	put_bytes(writer, &value, sizeof value);
}

static void put_uuid(struct writer *writer, const struct crucible_uuid *uuid)
{
	uint8_t *at = claim(writer, WIRE_UUID);
	if (at) {
		put_le64(at, sizeof uuid->bytes);
		memcpy(at + 8, uuid->bytes, sizeof uuid->bytes);
	}
}

static void put_address(struct writer *writer, const struct crucible_address *address)
{
	put_u32(writer, address->is_ipv6);
	put_bytes(writer, address->octets, address->is_ipv6 ? 16 : 4);
	put_bytes(writer, &address->port, sizeof address->port);
}

static void put_list(struct writer *writer, const void *items, size_t count, size_t element)
{
	size_t length;
	put_u64(writer, count);
	if (__builtin_mul_overflow(count, element, &length))
		fail(writer, -EMSGSIZE);
	else
		put_bytes(writer, items, length);
}

static void put_block_contexts(
	struct writer *writer, const struct crucible_block_contexts *contexts)
{
	put_u64(writer, contexts->count);
	if (!contexts->items) {
		put_bytes(writer, contexts->packed, contexts->packed_size);
		return;
	}
	for (size_t i = 0; i < contexts->count; i++) {
		const struct crucible_block_context *context = &contexts->items[i];
		uint8_t *at = claim(
			writer, WIRE_BLOCK_CONTEXT_MIN + (context->is_encrypted ? WIRE_ENCRYPTION : 0));
		if (!at)
			continue;
		put_le64(at, context->hash);
		at[8] = context->is_encrypted;
		if (context->is_encrypted)
			memcpy(at + WIRE_BLOCK_CONTEXT_MIN, &context->encryption, WIRE_ENCRYPTION);
	}
}

static void put_read_context(struct writer *writer, const struct crucible_read_context *context)
{
	put_u32(writer, context->kind);
	switch (context->kind) {
	case CRUCIBLE_BLOCK_EMPTY:
		return;
	case CRUCIBLE_BLOCK_ENCRYPTED:
		put_bytes(writer, &context->encryption, WIRE_ENCRYPTION);
		return;
	case CRUCIBLE_BLOCK_UNENCRYPTED:
		put_u64(writer, context->hash);
		return;
	}
	fail(writer, -EINVAL);
}

static void put_read_contexts(struct writer *writer, const struct crucible_read_contexts *contexts)
{
	put_u64(writer, contexts->count);
	if (!contexts->items)
		put_bytes(writer, contexts->packed, contexts->packed_size);
	else
		for (size_t i = 0; i < contexts->count; i++)
			put_read_context(writer, &contexts->items[i]);
}

static void put_fields(struct writer *writer, const struct layout *layout, const void *base);

/* What is one of several kinds: a message, an error. */
static void put_variant(
	struct writer *writer, uint32_t kind, const struct layout *layout, const void *base)
{
	put_u32(writer, kind);
	if (layout)
		put_fields(writer, layout, base);
	else
		fail(writer, -EINVAL);
}

static void put_error(struct writer *writer, const struct crucible_error *error)
{
	put_variant(writer, error->kind, crucible_error_layout(error->kind), error);
}

static void put_negotiation_error(
	struct writer *writer, const struct crucible_negotiation_error *error)
{
	put_variant(writer, error->kind, crucible_negotiation_error_layout(error->kind), error);
}

static void put_result(struct writer *writer, const struct crucible_result *result)
{
	put_u32(writer, result->failed);
	if (result->failed)
		put_error(writer, &result->error);
}

static void put_field(struct writer *writer, enum field_kind kind, const void *from)
{
	switch (kind) {
	case FIELD_END:
		break;
	case FIELD_U8:
	case FIELD_BOOL:
	case FIELD_OPTION:
		put_bytes(writer, from, 1);
		break;
	case FIELD_U32:
		put_bytes(writer, from, 4);
		break;
	case FIELD_U64:
		put_bytes(writer, from, 8);
		break;
	case FIELD_UUID:
		put_uuid(writer, from);
		break;
	case FIELD_ADDRESS:
		put_address(writer, from);
		break;
	case FIELD_TEXT: {
		const struct crucible_text *text = from;
		put_list(writer, text->bytes, text->length, 1);
		break;
	}
	case FIELD_U8S: {
		const struct crucible_u8s *list = from;
		put_list(writer, list->items, list->count, 1);
		break;
	}
	case FIELD_U32S: {
		const struct crucible_u32s *list = from;
		put_list(writer, list->items, list->count, 4);
		break;
	}
	case FIELD_U64S: {
		const struct crucible_u64s *list = from;
		put_list(writer, list->items, list->count, 8);
		break;
	}
	case FIELD_BOOLS: {
		const struct crucible_bools *list = from;
		put_list(writer, list->items, list->count, 1);
		break;
	}
	case FIELD_BLOCK_CONTEXTS:
		put_block_contexts(writer, from);
		break;
	case FIELD_READ_CONTEXTS:
		put_read_contexts(writer, from);
		break;
	case FIELD_ERROR:
		put_error(writer, from);
		break;
	case FIELD_NEGOTIATION_ERROR:
		put_negotiation_error(writer, from);
		break;
	case FIELD_DATA:
		writer->data = *(const struct crucible_data *)from;
		put_u64(writer, writer->data.length);
		break;
	case FIELD_RESULT:
		put_result(writer, from);
		break;
	}
}

static void put_fields(struct writer *writer, const struct layout *layout, const void *base)
{
	const struct field *field = layout->fields;
	while (field->kind != FIELD_END) {
		const void *from = (const char *)base + field->offset;
		put_field(writer, field->kind, from);
		field = field_next(field, from);
	}
}

/* Everything but the data. `size` is that of the buffer. */
static void put_head(
	struct writer *writer, const struct crucible_message *message, void *buffer, size_t size)
{
	*writer = (struct writer){
		.frame = buffer,
		.limit = size < CRUCIBLE_FRAME_MAX ? size : CRUCIBLE_FRAME_MAX,
	};
	put_u32(writer, 0); /* the length, which is known below */
	put_variant(writer, message->type, crucible_message_layout(message->type), message);
	if (writer->data.length > CRUCIBLE_FRAME_MAX - writer->used)
		fail(writer, -EMSGSIZE);
	if (writer->status == 0 && buffer)
		put_le32(buffer, (uint32_t)(writer->used + writer->data.length));
}

int crucible_measure(const struct crucible_message *message, size_t *head, size_t *frame)
{
	struct writer writer;
	put_head(&writer, message, NULL, CRUCIBLE_FRAME_MAX);
	*head = writer.used;
	*frame = writer.used + writer.data.length;
	return writer.status;
}

ssize_t crucible_encode_head(const struct crucible_message *message, void *buffer, size_t size)
{
	struct writer writer;
	put_head(&writer, message, buffer, size);
	return writer.status < 0 ? writer.status : (ssize_t)writer.used;
}

ssize_t crucible_encode(const struct crucible_message *message, void *buffer, size_t size)
{
	struct writer writer;
	put_head(&writer, message, buffer, size);
	put_bytes(&writer, writer.data.bytes, writer.data.length);
	return writer.status < 0 ? writer.status : (ssize_t)writer.used;
}
