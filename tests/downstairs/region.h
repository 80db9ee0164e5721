/* region.h: a region as one downstairs process has it open: what a read, a write, a flush, closing
 * and repairing an extent do to its disk (crucible-protocol.md 4.4 to 4.6 and 6.4).
 *
 * 1. An extent is dirty from before its first write until a flush. Becoming dirty is synced before
 *    the write; so is the extent before a block that was written since the last sync is
 *    written again, since only two of its contexts can be kept.
 * 2. A flush stamps the dirty extents it covers, as told, also downwards; clean ones keep their
 *    numbers. The flag is cleared before the sync: if that fails, the next try finds nothing to do
 *    (trap T2).
 *    It looks at all extents that were written since the last flush of the region that covered
 *    them, and none of these must be closed, even if it was flushed alone before. In which order
 *    upstream's threads stamp is open; here it is ascending.
 * 3. What upstream asserts is OUTCOME_PANIC here, with `panic` saying why; the process is to end.
 * 4. What the disk's hook ends is OUTCOME_KILLED; the process is to end without a word.
 * 5. Everything else that fails is OUTCOME_FAILED, with `error` as the peer will see it. It may be
 *    tried again; is_hopeless says that this can never help.
 */
#ifndef DOWNSTAIRS_REGION_H
#define DOWNSTAIRS_REGION_H

#include "disk.h"

enum outcome { OUTCOME_DONE, OUTCOME_FAILED, OUTCOME_PANIC, OUTCOME_KILLED };

struct region {
	struct disk *disk;
	bool read_only;
	uint64_t block_count;
	struct region_extent *extents;

	/* of the last call that was not done */
	const char *panic;
	struct crucible_error error;
	bool is_hopeless;
	char text[160]; /* of the error */

	/* for one request */
	struct stored_context *contexts;
	uint64_t *chosen;
	size_t contexts_size, chosen_size;
};

/* A process starts. Fails if a dirty extent has a block whose data fits none of its contexts, as
 * upstream refuses to start then. The region is to be closed in any case. */
enum outcome region_open(struct region *region, struct disk *disk, bool read_only);
/* The process ends, in whatever way. The disk stays. */
void region_close(struct region *region);

/* Whether all extents of a range are there and open, which is to be asked before reading it. */
enum outcome region_check_read(struct region *region, uint64_t start, uint64_t count);
/* `contexts` has room for `count`, `data` for that many blocks. */
void region_read(struct region *region, uint64_t start, uint64_t count,
	struct crucible_read_context *contexts, uint8_t *data);
/* For checkers, also of a closed extent: the context in force, which is not set if the block was
 * never written, and the data, NULL if the extent never was. */
const uint8_t *region_peek(
	const struct region *region, uint64_t block, struct stored_context *stored);
/* There are as many contexts as blocks of data. `only_unwritten` skips blocks that have one. */
enum outcome region_write(struct region *region, uint64_t start,
	struct crucible_block_contexts contexts, const uint8_t *data, bool only_unwritten);
/* `limit` is the last extent to flush, NULL for all. */
enum outcome region_flush(
	struct region *region, uint64_t generation, uint64_t flush_number, const uint32_t *limit);

enum outcome region_flush_extent(
	struct region *region, uint32_t extent_id, uint64_t generation, uint64_t flush_number);
enum outcome region_close_extent(struct region *region, uint32_t extent_id);
enum outcome region_reopen_extent(struct region *region, uint32_t extent_id);
enum outcome region_reopen_all(struct region *region);
enum outcome region_versions(struct region *region, uint32_t extent_id, struct versions *versions);

/* Before and after the download of an extent, which must be closed. */
enum outcome region_begin_repair(struct region *region, uint32_t extent_id);
enum outcome region_finish_repair(
	struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t size);
/* Whether a copy of the extent that was made before is known to be stable. */
enum outcome region_repair_ready(struct region *region, uint32_t extent_id, bool *is_ready);

#endif
