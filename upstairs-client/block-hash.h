/* block-hash.h: the hash that a downstairs checks a block by (crucible-protocol.md 1.6).
 *
 * Any thread. `size` is that of the block, in bytes.
 */
#ifndef UPSTAIRS_BLOCK_HASH_H
#define UPSTAIRS_BLOCK_HASH_H

#include "codec.h"

/* XXH64 of the block; of nonce, tag and block if `encryption` is not NULL. */
uint64_t block_hash(const struct crucible_encryption *encryption, const void *block, size_t size);

#endif
