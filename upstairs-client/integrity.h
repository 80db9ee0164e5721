/* integrity.h: what makes sure that a block read is the block written: hashes and, with a key, authenticated
 * encryption (crucible-protocol.md 1.6 and 1.7).
 *
 * Without a key a block's context is the XXH64 of its bytes. With one, each block is encrypted by AES-256-GCM-SIV
 * under a fresh random nonce, and the context carries nonce, tag and the XXH64 of both and the ciphertext. A block
 * is sealed once: the same bytes go to every slot and are replayed (trap T9).
 *
 * One struct integrity is used by one thread at a time. Sizes in bytes, counts in blocks. Errors are negative errno.
 */
#ifndef UPSTAIRS_INTEGRITY_H
#define UPSTAIRS_INTEGRITY_H

#include "codec.h"

enum { INTEGRITY_KEY_SIZE = 32 };

struct integrity;

/* `key`: INTEGRITY_KEY_SIZE bytes, or NULL for plain regions. NULL without memory or without the cipher. Tests the
 * hash and the cipher against known answers first: a wrong hash would wedge a downstairs for good (trap T1). */
struct integrity *integrity_open(const void *key, size_t block_size);
void integrity_close(struct integrity *integrity);
bool integrity_encrypts(const struct integrity *integrity);

/* Makes what is sent of `count` blocks at `data`: `sealed`, which may be `data`, and the contexts. */
int integrity_seal(struct integrity *integrity, const void *data, size_t count, void *sealed,
	struct crucible_block_context *contexts);

/* Is one block what its context says? 0 or -EBADMSG. */
int integrity_check(struct integrity *integrity, const struct crucible_read_context *context, const void *block);
/* Is it, and are its plain bytes zeros? */
bool integrity_is_zeros(struct integrity *integrity, const struct crucible_read_context *context, const void *block);
/* Checks the answer to a read and copies its plain bytes to `buffer`. Blocks that were never written are zeros.
 * -EBADMSG if a block is not what its context says, or its context is of the wrong kind. */
int integrity_take(struct integrity *integrity, const struct crucible_message *response, void *buffer);

#endif
