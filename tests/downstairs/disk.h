/* disk.h: the disk below one region: what every process sees in the extents' files, and what of
 * that would survive a loss of power.
 *
 * 1. What is written is seen at once, and outlives the process that wrote it (page cache).
 * 2. It is durable after disk_sync() of its extent. Until then disk_power_loss() may take back each
 *    piece on its own: the versions, the bitmap, and of each block the data and the contexts.
 * 3. A sync that fails does what Linux does: what it should have saved counts as saved from then
 *    on, and is not. Later syncs leave it out, until it is written again (trap T2).
 * 4. An extent that was never written has no image and costs nothing in a disk in memory.
 * 5. Before each change the hook is asked, which may let it fail or end the process there.
 *
 * Pages of a disk are in memory or mapped from files (store.h). Only a disk in memory keeps track
 * of what is durable. Allocation failure aborts. Single-threaded.
 */
#ifndef DOWNSTAIRS_DISK_H
#define DOWNSTAIRS_DISK_H

#include "extent-image.h"
#include "store.h"

struct disk;

enum disk_step {
	DISK_PUT_VERSIONS, /* generation, flush number, dirty flag; or the bitmap, just before */
	DISK_PUT_CONTEXT,  /* of one block */
	DISK_PUT_DATA,     /* of one block */
	DISK_SYNC,         /* of one extent */
	DISK_REPLACE,      /* of one extent by a repair */
	DISK_STEPS,
};

/* Returns 0 to go on; -ECANCELED if the process is killed before this step, after which it does
 * nothing any more; another errno, -EIO or -ENOSPC, with which the step is to fail. */
typedef int disk_hook(void *context, enum disk_step step, uint32_t extent_id);

/* A disk in memory with a fresh region. The definition makes sense: block_size a power of two from
 * 512 on, extent_size and extent_count at least 1, the whole below 2^60 bytes. */
struct disk *disk_new(const struct crucible_region *definition);
/* A disk over a store that has been opened, and is closed with it. */
struct disk *disk_open(const struct crucible_region *definition, struct store *store);
void disk_free(struct disk *disk);

void disk_set_hook(struct disk *disk, disk_hook *hook, void *context);
const struct crucible_region *disk_region(const struct disk *disk);
const struct image_layout *disk_layout(const struct disk *disk);

/* Reading. The image is NULL if the extent was never written. */
const uint8_t *disk_image(const struct disk *disk, uint32_t extent_id);
struct versions disk_versions(const struct disk *disk, uint32_t extent_id);
/* The whole image, also of an extent that was never written, for a repair; `image` has room for
 * layout->size bytes. */
void disk_copy_image(const struct disk *disk, uint32_t extent_id, uint8_t *image);

/* Changes. Each returns 0 or what the hook said. */
int disk_put_versions(struct disk *disk, uint32_t extent_id, const struct versions *versions);
/* Which slot of each block is in force. */
int disk_put_bitmap(struct disk *disk, uint32_t extent_id, const uint8_t *bitmap);
int disk_put_slot(struct disk *disk, uint32_t extent_id, uint64_t block, unsigned slot,
	const struct stored_context *stored);
int disk_put_data(struct disk *disk, uint32_t extent_id, uint64_t block, const void *data);
int disk_sync(struct disk *disk, uint32_t extent_id);
/* All of an extent, which is durable then: upstream copies, syncs and renames. */
int disk_replace(struct disk *disk, uint32_t extent_id, const uint8_t *image);

/* The directory that a failed repair leaves behind (trap T21a). */
bool disk_has_copy(const struct disk *disk, uint32_t extent_id);
void disk_set_copy(struct disk *disk, uint32_t extent_id, bool has_copy);

/* Loss of power: no process has the disk open. For each piece that is not durable the callback
 * says whether its newest state survives; else its last durable one is there again. `block` is
 * within the extent, and 0 for the versions and the bitmap. In memory only. */
enum disk_piece { PIECE_VERSIONS, PIECE_BITMAP, PIECE_CONTEXTS, PIECE_DATA };
typedef bool disk_survives(
	void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece);
void disk_power_loss(struct disk *disk, disk_survives *survives, void *context);
/* Flips a bit of a block's data, or of the hashes and tags in its contexts, behind everybody's
 * back. The block is one of the whole region. */
void disk_damage(struct disk *disk, uint64_t block, enum disk_piece piece);
/* How many pieces could be lost now. */
size_t disk_unsynced(const struct disk *disk, uint32_t extent_id);
/* Is there one that no sync saves any more, because one that failed should have? Or was there, when power was lost? */
bool disk_is_hollow(const struct disk *disk, uint32_t extent_id);

#endif
