/* extent-image.c: see extent-image.h. */
#include "extent-image.h"

#define XXH_STATIC_LINKING_ONLY /* for a state on the stack */
#include <xxhash.h>

/* In a slot: a flag, the hash, a flag, nonce and tag if that is set, the hash of the data. */
enum { SLOT_HASH = 1, SLOT_HAS_ENCRYPTION = 9, SLOT_REST = 10 };

/* At the end of the image. */
enum { META_DIRTY = 0, META_GENERATION = 1, META_FLUSH_NUMBER = 9, META_VERSION = 17 };

struct image_layout image_layout(uint64_t block_size, uint64_t blocks)
{
	struct image_layout layout = { .block_size = block_size, .blocks = blocks };
	layout.slots = block_size * blocks;
	layout.bitmap = layout.slots + IMAGE_SLOTS * IMAGE_SLOT_SIZE * blocks;
	layout.meta = layout.bitmap + (blocks + 7) / 8;
	layout.size = layout.meta + IMAGE_META_SIZE;
	return layout;
}

void image_get_slot(const uint8_t *at, struct stored_context *stored)
{
	*stored = (struct stored_context){ .is_set = at[0] };
	if (!stored->is_set)
		return;
	const uint8_t *rest = at + SLOT_REST;
	stored->context.hash = get_le64(at + SLOT_HASH);
	stored->context.is_encrypted = at[SLOT_HAS_ENCRYPTION];
	if (stored->context.is_encrypted) {
		memcpy(&stored->context.encryption, rest, sizeof stored->context.encryption);
		rest += sizeof stored->context.encryption;
	}
	stored->data_hash = get_le64(rest);
}

void image_put_slot(uint8_t *at, const struct stored_context *stored)
{
	memset(at, 0, IMAGE_SLOT_SIZE);
	if (!stored->is_set)
		return;
	uint8_t *rest = at + SLOT_REST;
	at[0] = 1;
	put_le64(at + SLOT_HASH, stored->context.hash);
	at[SLOT_HAS_ENCRYPTION] = stored->context.is_encrypted;
	if (stored->context.is_encrypted) {
		memcpy(rest, &stored->context.encryption, sizeof stored->context.encryption);
		rest += sizeof stored->context.encryption;
	}
	put_le64(rest, stored->data_hash);
}

void image_get_versions(const uint8_t *at, struct versions *versions)
{
	*versions = (struct versions){
		.generation = get_le64(at + META_GENERATION),
		.flush_number = get_le64(at + META_FLUSH_NUMBER),
		.dirty = at[META_DIRTY],
	};
}

void image_put_versions(uint8_t *at, const struct versions *versions)
{
	memset(at, 0, IMAGE_META_SIZE);
	at[META_DIRTY] = versions->dirty;
	put_le64(at + META_GENERATION, versions->generation);
	put_le64(at + META_FLUSH_NUMBER, versions->flush_number);
	put_le32(at + META_VERSION, IMAGE_VERSION);
}

uint32_t image_version(const uint8_t *at)
{
	return get_le32(at + META_VERSION);
}

uint64_t image_block_hash(
	const struct crucible_block_context *context, const void *data, size_t size)
{
	if (!context->is_encrypted)
		return XXH64(data, size, 0);
	XXH64_state_t state;
	XXH64_reset(&state, 0);
	XXH64_update(&state, context->encryption.nonce, sizeof context->encryption.nonce);
	XXH64_update(&state, context->encryption.tag, sizeof context->encryption.tag);
	XXH64_update(&state, data, size);
	return XXH64_digest(&state);
}

uint64_t image_data_hash(const void *data, size_t size)
{
	return XXH64(data, size, 0);
}
