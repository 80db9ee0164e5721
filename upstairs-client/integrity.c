#include "integrity.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

void integrity_seal(const void *data, size_t block_size, size_t count, struct crucible_block_context *contexts)
{
	const uint8_t *block = data;
	for (size_t i = 0; i < count; i++, block += block_size)
		contexts[i] = (struct crucible_block_context){ .hash = XXH64(block, block_size, 0) };
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

int integrity_take(const struct crucible_message *response, size_t block_size, void *buffer)
{
	struct crucible_read_contexts rest = response->read_response.contexts;
	struct crucible_read_context context;
	const uint8_t *block = response->read_response.data.bytes;
	for (; crucible_next_read_context(&rest, &context); block += block_size) {
		bool is_good = context.kind == CRUCIBLE_BLOCK_UNENCRYPTED
			? context.hash == XXH64(block, block_size, 0)
			: context.kind == CRUCIBLE_BLOCK_EMPTY && is_zero(block, block_size);
		if (!is_good)
			return -EBADMSG;
	}
	memcpy(buffer, response->read_response.data.bytes, response->read_response.data.length);
	return 0;
}
