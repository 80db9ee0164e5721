/* fuzz-codec: any frame of the Crucible protocol. The first byte says whether its length is put
 * right, the second in what pieces it comes. What is accepted must be encoded to the same bytes,
 * and be the same whether it is decoded as a whole or as it comes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"

static void check(bool holds)
{
	if (!holds)
		abort();
}

static struct crucible_data *data_of(struct crucible_message *message)
{
	switch (message->type) {
	case CRUCIBLE_WRITE:
	case CRUCIBLE_WRITE_UNWRITTEN:
		return &message->write.data;
	case CRUCIBLE_READ_RESPONSE:
		return &message->read_response.data;
	default:
		return NULL;
	}
}

static void expect_encoded(
	const struct crucible_message *message, const uint8_t *frame, size_t size)
{
	size_t head, whole;
	check(crucible_measure(message, &head, &whole) == 0 && whole == size);
	uint8_t *again = malloc(size);
	check(crucible_encode(message, again, size) == (ssize_t)size);
	check(memcmp(again, frame, size) == 0);
	check(crucible_encode_head(message, again, head) == (ssize_t)head);
	check(memcmp(again, frame, head) == 0);
	check(crucible_encode(message, again, size - 1) == -EMSGSIZE);
	free(again);
}

/* The contexts as structs must be encoded to the same as in the frame. */
static void expect_same_contexts(struct crucible_message message, const uint8_t *frame, size_t size)
{
	if (message.type == CRUCIBLE_READ_RESPONSE && !message.read_response.result.failed) {
		struct crucible_read_contexts *contexts = &message.read_response.contexts, rest = *contexts;
		struct crucible_read_context *items = calloc(contexts->count + 1, sizeof *items);
		for (size_t i = 0; i < contexts->count; i++)
			check(crucible_next_read_context(&rest, &items[i]));
		check(!crucible_next_read_context(&rest, items) && rest.packed_size == 0);
		contexts->items = items;
		expect_encoded(&message, frame, size);
		free(items);
	} else if (message.type == CRUCIBLE_WRITE || message.type == CRUCIBLE_WRITE_UNWRITTEN) {
		struct crucible_block_contexts *contexts = &message.write.contexts, rest = *contexts;
		struct crucible_block_context *items = calloc(contexts->count + 1, sizeof *items);
		for (size_t i = 0; i < contexts->count; i++)
			check(crucible_next_block_context(&rest, &items[i]));
		check(!crucible_next_block_context(&rest, items) && rest.packed_size == 0);
		contexts->items = items;
		expect_encoded(&message, frame, size);
		free(items);
	}
}

static void expect_error_text(const struct crucible_error *error, size_t size)
{
	char *text = malloc(size + 1);
	crucible_error_text(error, text, size + 1);
	for (const char *at = text; at < text + strlen(text); at++)
		check(*at >= ' ' && *at <= '~');
	free(text);
}

/* Receives the frame in pieces until its head is decoded or it is refused. Returns what that
 * returned; the message if that was 0. */
static int receive(
	const uint8_t *frame, size_t size, size_t step, struct crucible_message *message, size_t *head)
{
	const char *wrong;
	size_t needed = 0;
	for (size_t received = 0;; received += step) {
		if (received > size)
			received = size;
		uint8_t *part = malloc(received ? received : 1);
		memcpy(part, frame, received);
		int status = crucible_decode_head(part, received, message, head, &wrong);
		free(part);
		check(status == 0 || status == -EAGAIN || status == -EBADMSG);
		check(status != 0 || (*head >= needed && *head <= received));
		if (status == 0) /* what it points at is to stay */
			return crucible_decode_head(frame, received, message, head, &wrong);
		if (status == -EBADMSG || received == size)
			return status;
		check(*head > received && *head >= needed);
		needed = *head;
	}
}

static void fuzz(const uint8_t *frame, size_t size, size_t step)
{
	struct crucible_message message, in_parts;
	const char *wrong = NULL;
	size_t head;
	int in_parts_status = receive(frame, size, step, &in_parts, &head);
	int status = crucible_decode(frame, size, &message, &wrong);
	check(status == 0 || (status == -EBADMSG && wrong));
	if (status < 0)
		return;
	check(in_parts_status == 0);
	if (data_of(&in_parts))
		data_of(&in_parts)->bytes = frame + head;
	expect_encoded(&message, frame, size);
	expect_encoded(&in_parts, frame, size);
	expect_same_contexts(message, frame, size);
	if (message.type == CRUCIBLE_ERROR_REPORT)
		expect_error_text(&message.error_report.error, step);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	uint8_t *frame = malloc(size - 2 ? size - 2 : 1); /* of exactly its size */
	memcpy(frame, data + 2, size - 2);
	if (data[0] % 4 != 0 && size - 2 >= 4)
		put_le32(frame, (uint32_t)(size - 2));
	fuzz(frame, size - 2, 1 + data[1]);
	free(frame);
	return 0;
}
