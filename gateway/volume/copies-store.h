/* copies-store.h: storing which copies of a volume count, off the loop's thread: what a backend asks for by
 * backend_events.store_copies. One at a time for each volume; the loop's thread only. */
#ifndef TB4_COPIES_STORE_H
#define TB4_COPIES_STORE_H

#include <uv.h>

#include "volume/claim.h"

struct copies_store {
	/* set once by the owner */
	const struct config *config;
	const char *volume, *claim_id;
	/* From the loop: 0, -EOWNERDEAD if the claim is no longer ours, else the outcome is unknown. */
	void (*done)(struct copies_store *store, int error, const struct reason *reason);
	/* its own */
	uv_work_t work;
	struct record_copies copies;
	int error;
	struct reason reason;
	bool is_busy;
};

void copies_store_begin(uv_loop_t *loop, struct copies_store *store, const struct record_copies *copies);

#endif
