/* sealer.h: hashes and encrypts the data of writes (integrity.h): at once, or, where that takes long, on threads of
 * libuv's pool, so that the loop goes on meanwhile. It is cut into pieces then, which several threads do at a time.
 *
 * All calls on the loop's thread, and so is done(). Errors are negative errno.
 */
#ifndef UPSTAIRS_SEALER_H
#define UPSTAIRS_SEALER_H

#include <uv.h>

#include "codec.h"

struct sealer;

/* The caller's again in done(), or when sealer_seal() has returned true. */
struct sealing {
	const void *data;
	uint64_t count; /* blocks */
	void *sealed;   /* may be `data` */
	struct crucible_block_context *contexts;
	int status; /* the result */
	/* the sealer's */
	uint64_t begun; /* blocks that a thread has or had */
	unsigned pieces; /* that threads have */
	struct sealing *next;
};

/* `key` as in integrity_open(). NULL without memory. */
struct sealer *sealer_open(uv_loop_t *loop, const void *key, size_t block_size,
	void (*done)(void *context, struct sealing *sealing), void *context);
/* True: it is done already, and done() is not called. */
bool sealer_seal(struct sealer *sealer, struct sealing *sealing);
/* What the threads have not begun is forgotten. Calls closed() when they have ended, which may be at once. */
void sealer_close(struct sealer *sealer, void (*closed)(void *context));

#endif
