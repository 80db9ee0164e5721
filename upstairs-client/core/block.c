/* block.c: one block as it was read, to be written again: by the fence, and by a mend.
 *
 * A write with a wrong hash would wedge the downstairs for good (trap T1), and a block that a loss of power has
 * torn must not be spread: only what fits its context is written.
 */
#include <string.h>

#include "block-hash.h"
#include "core/core-internal.h"

struct history_entry *block_entry(struct upstairs *upstairs, uint64_t block)
{
	struct history_entry *entry = upstairs->spare_entry;
	size_t size = sizeof *entry + sizeof(struct crucible_block_context) + upstairs->region.block_size;
	if (!entry)
		upstairs->spare_entry = entry = core_allocate(upstairs, size);
	if (entry)
		*entry = (struct history_entry){
			.number = history_end(&upstairs->history), .size = size, .start = block, .count = 1
		};
	return entry;
}

struct read_blocks blocks_of(const struct crucible_message *message)
{
	return (struct read_blocks){
		.contexts = message->read_response.contexts,
		.data = message->read_response.data.bytes,
	};
}

bool block_next(const struct upstairs *upstairs, struct read_blocks *blocks, struct read_block *block)
{
	if (!crucible_next_read_context(&blocks->contexts, &block->context))
		return false;
	block->data = blocks->data;
	blocks->data += upstairs->region.block_size;
	return true;
}

bool block_is_good(const struct upstairs *upstairs, const struct read_block *block)
{
	return upstairs->environment.check_block(upstairs->environment.context, &block->context, block->data) == 0;
}

bool block_same_context(const struct crucible_read_context *a, const struct crucible_read_context *b)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case CRUCIBLE_BLOCK_EMPTY:
		return true;
	case CRUCIBLE_BLOCK_UNENCRYPTED:
		return a->hash == b->hash;
	case CRUCIBLE_BLOCK_ENCRYPTED:
		return memcmp(&a->encryption, &b->encryption, sizeof a->encryption) == 0;
	}
	return false;
}

static struct crucible_block_context context_of(const struct read_block *block, size_t size)
{
	struct crucible_block_context context = {
		.hash = block->context.hash,
		.is_encrypted = block->context.kind == CRUCIBLE_BLOCK_ENCRYPTED,
		.encryption = block->context.encryption,
	};
	if (context.is_encrypted)
		context.hash = block_hash(&context.encryption, block->data, size);
	return context;
}

void block_fill_zeros(struct upstairs *upstairs, struct history_entry *entry)
{
	memset(history_data(entry), 0, upstairs->region.block_size);
	upstairs->environment.seal_zeros(
		upstairs->environment.context, history_data(entry), history_contexts(entry));
}

void block_fill(struct upstairs *upstairs, struct history_entry *entry, const struct read_block *block)
{
	size_t size = upstairs->region.block_size;
	if (block->context.kind == CRUCIBLE_BLOCK_EMPTY) {
		block_fill_zeros(upstairs, entry);
		return;
	}
	memcpy(history_data(entry), block->data, size);
	*history_contexts(entry) = context_of(block, size);
}
