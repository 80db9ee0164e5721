#define XXH_STATIC_LINKING_ONLY /* a state on the stack */

#include "block-hash.h"

#include <xxhash.h>

uint64_t block_hash(const struct crucible_encryption *encryption, const void *block, size_t size)
{
	XXH64_state_t state;
	if (!encryption)
		return XXH64(block, size, 0);
	XXH64_reset(&state, 0);
	XXH64_update(&state, encryption->nonce, sizeof encryption->nonce);
	XXH64_update(&state, encryption->tag, sizeof encryption->tag);
	XXH64_update(&state, block, size);
	return XXH64_digest(&state);
}
