/* block-check.h: what each block of a volume may hold, kept in a file that outlives kill -9 of whoever writes.
 *
 * Every write gives each of its blocks a version that no other write has had, and bytes made from block and version.
 * A block has at most one write under way, so its versions have an order, and "linearizable" is a range: a read must
 * give a version from the newest that was acknowledged or seen before the read began, to the newest that was
 * submitted before it ended. Reads may overlap with writes and with each other.
 *
 * A write that was under way when its process ended has happened or not. The first read of a later process settles
 * which, and what it did not give must never appear after that.
 *
 * Version 0 is a block that was never written: zeros. One thread, one process at a time.
 */
#ifndef BLOCK_CHECK_H
#define BLOCK_CHECK_H

#include <stdbool.h>
#include <stdint.h>

enum { BLOCK_CHECK_MAX = 256 }; /* blocks of a request */

struct block_check;

/* What is known of the blocks of a read at its begin. */
struct block_check_read {
	uint64_t oldest[BLOCK_CHECK_MAX];
	uint32_t writes[BLOCK_CHECK_MAX];
	bool is_quiet[BLOCK_CHECK_MAX]; /* no write was under way */
};

/* Makes the file, for a volume that was never written, unless it is there. NULL if that fails. */
struct block_check *block_check_open(const char *path, uint64_t block_size, uint64_t block_count);
void block_check_close(struct block_check *check);

/* False if one of the blocks has a write under way. Else the buffer gets what is to be written; block_check_written()
 * follows when the write has succeeded, and nothing when it has failed. */
bool block_check_write(struct block_check *check, uint64_t start, uint64_t count, void *buffer);
void block_check_written(struct block_check *check, uint64_t start, uint64_t count);

void block_check_begin_read(
	const struct block_check *check, uint64_t start, uint64_t count, struct block_check_read *read);
/* How many blocks hold what they must not; each is told on standard error. */
unsigned block_check_end_read(struct block_check *check, uint64_t start, uint64_t count, const void *buffer,
	const struct block_check_read *read);

#endif
