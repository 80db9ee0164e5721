/* extent-image.h: how one extent lies in its file, byte for byte as with upstream's downstairs
 * (crucible-protocol.md 6.4): n blocks of data; two arrays of n context slots; a bitmap that says
 * which slot of each block is in force; generation, flush number and the dirty flag.
 *
 * 1. A block's new context goes to the slot that is not in force, so that the old context is still
 *    there if only one of new context and new data gets onto the disk.
 * 2. The bitmap is brought up to date by a flush. While the extent is dirty the slot in force is
 * the one whose hash fits the data.
 * 3. An image of zeros (but for the version) is an extent that was never written.
 *
 * Pure: only arithmetic on the caller's memory.
 */
#ifndef DOWNSTAIRS_EXTENT_IMAGE_H
#define DOWNSTAIRS_EXTENT_IMAGE_H

#include "codec.h"

enum { IMAGE_SLOTS = 2, IMAGE_SLOT_SIZE = 48, IMAGE_META_SIZE = 32, IMAGE_VERSION = 2 };

struct image_layout {
	uint64_t block_size, blocks;
	uint64_t slots, bitmap, meta, size; /* where these begin; the whole */
};

/* What a slot holds. */
struct stored_context {
	bool is_set;
	struct crucible_block_context context;
	uint64_t data_hash; /* of the data alone; context.hash covers nonce and tag as well */
};

struct versions {
	uint64_t generation, flush_number;
	bool dirty;
};

/* The caller has checked that the sizes do not overflow. */
struct image_layout image_layout(uint64_t block_size, uint64_t blocks);

static inline uint64_t image_data_at(const struct image_layout *layout, uint64_t block)
{
	return block * layout->block_size;
}

static inline uint64_t image_slot_at(
	const struct image_layout *layout, uint64_t block, unsigned slot)
{
	return layout->slots + (slot * layout->blocks + block) * IMAGE_SLOT_SIZE;
}

/* `at` points at IMAGE_SLOT_SIZE bytes. */
void image_get_slot(const uint8_t *at, struct stored_context *stored);
void image_put_slot(uint8_t *at, const struct stored_context *stored);

/* `at` points at IMAGE_META_SIZE bytes. */
void image_get_versions(const uint8_t *at, struct versions *versions);
void image_put_versions(uint8_t *at, const struct versions *versions);
uint32_t image_version(const uint8_t *at);

/* The hash that a block's context must carry. */
uint64_t image_block_hash(
	const struct crucible_block_context *context, const void *data, size_t size);
uint64_t image_data_hash(const void *data, size_t size);

#endif
