/* codec-decode.c: from frames to messages; see codec.h. */
#include <errno.h>

#include "codec-layout.h"
#include "codec.h"

/* A place in a frame of which the beginning has been received.
 * at <= received <= size; what lies behind `received` may come, what lies behind `size` cannot. */
struct reader {
	const uint8_t *bytes;
	size_t at, received, size;
	size_t needed;              /* not 0: what was read is not there before so much is received */
	const char *wrong;          /* not NULL: the frame is bad */
	struct crucible_data *data; /* not NULL: the message ends with data */
};

static bool fail(struct reader *reader, const char *wrong)
{
	reader->wrong = wrong;
	return false;
}

/* Whether the next `length` bytes are there. At least `following` more are known to come behind
 * them: if not all have room in the frame it is bad, and there is no use in less being received. */
static bool has(struct reader *reader, size_t length, size_t following)
{
	if (length <= reader->received - reader->at)
		return true;
	if (length + following > reader->size - reader->at)
		return fail(reader, "field is longer than the rest of the frame");
	reader->needed = reader->at + length + following;
	return false;
}

/* The next `length` bytes, or NULL. */
static const uint8_t *take(struct reader *reader, size_t length)
{
	if (!has(reader, length, 0))
		return NULL;
	const uint8_t *bytes = reader->bytes + reader->at;
	reader->at += length;
	return bytes;
}

static bool take_bytes(struct reader *reader, void *to, size_t length)
{
	const uint8_t *bytes = take(reader, length);
	if (bytes)
		memcpy(to, bytes, length);
	return bytes;
}

static bool take_u32(struct reader *reader, uint32_t *value)
{
	return take_bytes(reader, value, sizeof *value);
}

static bool take_u64(struct reader *reader, uint64_t *value)
{
	return take_bytes(reader, value, sizeof *value);
}

static bool take_flag(struct reader *reader, bool *flag, const char *wrong)
{
	const uint8_t *byte = take(reader, 1);
	if (!byte)
		return false;
	if (*byte > 1)
		return fail(reader, wrong);
	*flag = *byte;
	return true;
}

static bool take_uuid(struct reader *reader, struct crucible_uuid *uuid)
{
	const uint8_t *bytes = take(reader, WIRE_UUID);
	if (!bytes)
		return false;
	if (get_le64(bytes) != sizeof uuid->bytes)
		return fail(reader, "UUID is not of 16 bytes");
	memcpy(uuid->bytes, bytes + 8, sizeof uuid->bytes);
	return true;
}

static bool take_address(struct reader *reader, struct crucible_address *address)
{
	uint32_t family;
	if (!take_u32(reader, &family))
		return false;
	if (family > 1)
		return fail(reader, "address is neither IPv4 nor IPv6");
	address->is_ipv6 = family;
	return take_bytes(reader, address->octets, family ? 16 : 4) &&
		   take_bytes(reader, &address->port, sizeof address->port);
}

/* A count of elements that take at least `element` bytes each. */
static bool take_count(struct reader *reader, size_t element, size_t *count)
{
	uint64_t value;
	if (!take_u64(reader, &value))
		return false;
	if (value > (reader->size - reader->at) / element)
		return fail(reader, "count or length is larger than the rest of the frame");
	*count = value;
	return true;
}

/* A count and so many elements of `element` bytes; returns where they are, or NULL. */
static const void *take_list(struct reader *reader, size_t element, size_t *count)
{
	return take_count(reader, element, count) ? take(reader, *count * element) : NULL;
}

static bool take_bools(struct reader *reader, struct crucible_bools *list)
{
	const uint8_t *bytes = take_list(reader, 1, &list->count);
	if (!bytes)
		return false;
	for (size_t i = 0; i < list->count; i++)
		if (bytes[i] > 1)
			return fail(reader, "bool is neither 0 nor 1");
	list->items = bytes;
	return true;
}

/* The size of a packed context, whose first WIRE_*_CONTEXT_MIN bytes are at `at`; 0 if it is none.
 */
static size_t block_context_size(const uint8_t *at)
{
	static const uint8_t sizes[] = { WIRE_BLOCK_CONTEXT_MIN,
		WIRE_BLOCK_CONTEXT_MIN + WIRE_ENCRYPTION };
	return at[8] < sizeof sizes ? sizes[at[8]] : 0;
}

static size_t read_context_size(const uint8_t *at)
{
	static const uint8_t sizes[] = {
		[CRUCIBLE_BLOCK_EMPTY] = WIRE_READ_CONTEXT_MIN,
		[CRUCIBLE_BLOCK_ENCRYPTED] = WIRE_READ_CONTEXT_MIN + WIRE_ENCRYPTION,
		[CRUCIBLE_BLOCK_UNENCRYPTED] = WIRE_READ_CONTEXT_MIN + 8,
	};
	uint32_t kind = get_le32(at);
	return kind < sizeof sizes ? sizes[kind] : 0;
}

/* A count and so many packed contexts, of at least `least` bytes each; returns where they are, or
 * NULL. */
static const uint8_t *take_contexts(struct reader *reader, size_t least,
	size_t (*size_of)(const uint8_t *at), size_t *count, size_t *packed_size)
{
	if (!take_count(reader, least, count))
		return NULL;
	size_t start = reader->at;
	for (size_t left = *count; left > 0; left--) {
		size_t following = (left - 1) * least;
		if (!has(reader, least, following))
			return NULL;
		size_t size = size_of(reader->bytes + reader->at);
		if (size == 0)
			fail(reader, "context of a block is of no known kind");
		if (size == 0 || !has(reader, size, following))
			return NULL;
		reader->at += size;
	}
	*packed_size = reader->at - start;
	return reader->bytes + start;
}

static bool take_block_contexts(struct reader *reader, struct crucible_block_contexts *contexts)
{
	contexts->packed = take_contexts(reader, WIRE_BLOCK_CONTEXT_MIN, block_context_size,
		&contexts->count, &contexts->packed_size);
	return contexts->packed;
}

static bool take_read_contexts(struct reader *reader, struct crucible_read_contexts *contexts)
{
	contexts->packed = take_contexts(
		reader, WIRE_READ_CONTEXT_MIN, read_context_size, &contexts->count, &contexts->packed_size);
	return contexts->packed;
}

/* The end of the message; the bytes themselves need not be there. */
static bool take_data(struct reader *reader, struct crucible_data *data)
{
	uint64_t length;
	if (!take_u64(reader, &length))
		return false;
	if (length != reader->size - reader->at)
		return fail(reader, "data length is not the rest of the frame");
	data->length = length;
	reader->data = data;
	return true;
}

static bool take_fields(struct reader *reader, const struct layout *layout, void *base);

static bool take_error(struct reader *reader, struct crucible_error *error)
{
	uint32_t kind;
	if (!take_u32(reader, &kind))
		return false;
	const struct layout *layout = crucible_error_layout(kind);
	if (!layout)
		return fail(reader, "error is of no known kind");
	error->kind = (enum crucible_error_kind)kind;
	return take_fields(reader, layout, error);
}

static bool take_negotiation_error(struct reader *reader, struct crucible_negotiation_error *error)
{
	uint32_t kind;
	if (!take_u32(reader, &kind))
		return false;
	const struct layout *layout = crucible_negotiation_error_layout(kind);
	if (!layout)
		return fail(reader, "negotiation error is of no known kind");
	error->kind = (enum crucible_negotiation_error_kind)kind;
	return take_fields(reader, layout, error);
}

static bool take_result(struct reader *reader, struct crucible_result *result)
{
	uint32_t variant;
	if (!take_u32(reader, &variant))
		return false;
	if (variant > 1)
		return fail(reader, "result is neither success nor error");
	result->failed = variant;
	return variant == 0 || take_error(reader, &result->error);
}

static bool take_field(struct reader *reader, enum field_kind kind, void *to)
{
	switch (kind) {
	case FIELD_END:
		break;
	case FIELD_U8:
		return take_bytes(reader, to, 1);
	case FIELD_U32:
		return take_u32(reader, to);
	case FIELD_U64:
		return take_u64(reader, to);
	case FIELD_BOOL:
		return take_flag(reader, to, "bool is neither 0 nor 1");
	case FIELD_UUID:
		return take_uuid(reader, to);
	case FIELD_ADDRESS:
		return take_address(reader, to);
	case FIELD_TEXT: {
		struct crucible_text *text = to;
		return (text->bytes = take_list(reader, 1, &text->length));
	}
	case FIELD_U8S: {
		struct crucible_u8s *list = to;
		return (list->items = take_list(reader, 1, &list->count));
	}
	case FIELD_U32S: {
		struct crucible_u32s *list = to;
		return (list->items = take_list(reader, 4, &list->count));
	}
	case FIELD_U64S: {
		struct crucible_u64s *list = to;
		return (list->items = take_list(reader, 8, &list->count));
	}
	case FIELD_BOOLS:
		return take_bools(reader, to);
	case FIELD_BLOCK_CONTEXTS:
		return take_block_contexts(reader, to);
	case FIELD_READ_CONTEXTS:
		return take_read_contexts(reader, to);
	case FIELD_ERROR:
		return take_error(reader, to);
	case FIELD_NEGOTIATION_ERROR:
		return take_negotiation_error(reader, to);
	case FIELD_DATA:
		return take_data(reader, to);
	case FIELD_OPTION:
		return take_flag(reader, to, "option is neither 0 nor 1");
	case FIELD_RESULT:
		return take_result(reader, to);
	}
	return true;
}

static bool take_fields(struct reader *reader, const struct layout *layout, void *base)
{
	const struct field *field = layout->fields;
	while (field->kind != FIELD_END) {
		void *to = (char *)base + field->offset;
		if (!take_field(reader, field->kind, to))
			return false;
		field = field_next(field, to);
	}
	return true;
}

static bool take_message(struct reader *reader, struct crucible_message *message)
{
	uint32_t type;
	if (!take(reader, sizeof(uint32_t)) || !take_u32(reader, &type))
		return false;
	const struct layout *layout = crucible_message_layout(type);
	if (!layout)
		return fail(reader, "message is of no known type");
	*message = (struct crucible_message){ .type = (enum crucible_message_type)type };
	if (!take_fields(reader, layout, message))
		return false;
	if (!reader->data && reader->at < reader->size)
		return fail(reader, "frame is longer than its message");
	return true;
}

int crucible_frame_length(const void *bytes, size_t received, size_t *length, const char **wrong)
{
	if (received < sizeof(uint32_t)) {
		*length = sizeof(uint32_t);
		return -EAGAIN;
	}
	*length = get_le32(bytes);
	if (*length >= CRUCIBLE_FRAME_MIN && *length <= CRUCIBLE_FRAME_MAX)
		return 0;
	*wrong = *length < CRUCIBLE_FRAME_MIN ? "frame is shorter than any message"
										  : "frame is longer than 100 MiB";
	return -EBADMSG;
}

static int read_head(struct reader *reader, const void *bytes, size_t received,
	struct crucible_message *message, const char **wrong)
{
	*reader = (struct reader){ .bytes = bytes };
	int status = crucible_frame_length(bytes, received, &reader->size, wrong);
	if (status == -EAGAIN)
		reader->needed = reader->size;
	if (status < 0)
		return status;
	reader->received = received < reader->size ? received : reader->size;
	if (take_message(reader, message))
		return 0;
	if (!reader->wrong)
		return -EAGAIN;
	*wrong = reader->wrong;
	return -EBADMSG;
}

int crucible_decode_head(const void *bytes, size_t received, struct crucible_message *message,
	size_t *head, const char **wrong)
{
	struct reader reader;
	int status = read_head(&reader, bytes, received, message, wrong);
	*head = status == 0 ? reader.at : reader.needed;
	return status;
}

int crucible_decode(
	const void *frame, size_t size, struct crucible_message *message, const char **wrong)
{
	struct reader reader;
	int status = read_head(&reader, frame, size, message, wrong);
	if (status == -EAGAIN || (status == 0 && reader.size != size)) {
		*wrong = "frame is not as long as it says";
		status = -EBADMSG;
	}
	if (status < 0)
		return status;
	if (reader.data)
		reader.data->bytes = reader.bytes + reader.at;
	return 0;
}

/* reading packed contexts; they have been checked */

bool crucible_next_block_context(
	struct crucible_block_contexts *contexts, struct crucible_block_context *context)
{
	if (contexts->count == 0)
		return false;
	contexts->count--;
	if (contexts->items) {
		*context = *contexts->items++;
		return true;
	}
	size_t size = block_context_size(contexts->packed);
	*context = (struct crucible_block_context){ .hash = get_le64(contexts->packed) };
	if (size > WIRE_BLOCK_CONTEXT_MIN) {
		context->is_encrypted = true;
		memcpy(&context->encryption, contexts->packed + WIRE_BLOCK_CONTEXT_MIN, WIRE_ENCRYPTION);
	}
	contexts->packed += size;
	contexts->packed_size -= size;
	return true;
}

bool crucible_next_read_context(
	struct crucible_read_contexts *contexts, struct crucible_read_context *context)
{
	if (contexts->count == 0)
		return false;
	contexts->count--;
	if (contexts->items) {
		*context = *contexts->items++;
		return true;
	}
	const uint8_t *payload = contexts->packed + WIRE_READ_CONTEXT_MIN;
	size_t size = read_context_size(contexts->packed);
	*context = (struct crucible_read_context){
		.kind = (enum crucible_read_context_kind)get_le32(contexts->packed),
	};
	if (context->kind == CRUCIBLE_BLOCK_ENCRYPTED)
		memcpy(&context->encryption, payload, WIRE_ENCRYPTION);
	else if (context->kind == CRUCIBLE_BLOCK_UNENCRYPTED)
		context->hash = get_le64(payload);
	contexts->packed += size;
	contexts->packed_size -= size;
	return true;
}
