/* integrity.h: hashes of blocks (crucible-protocol.md 1.6).
 *
 * Pure; any thread. Sizes in bytes, counts in blocks.
 */
#ifndef UPSTAIRS_INTEGRITY_H
#define UPSTAIRS_INTEGRITY_H

#include "codec.h"

/* The contexts of `count` plain blocks at `data`. */
void integrity_seal(const void *data, size_t block_size, size_t count, struct crucible_block_context *contexts);

/* Checks the answer to a read of plain blocks and copies its data to `buffer`. Blocks that were never written are
 * zeros. Returns 0, or -EBADMSG if a block is not what its context says. */
int integrity_take(const struct crucible_message *response, size_t block_size, void *buffer);

#endif
