/* offline.h: a volume in the hands of one command of tb4 while no gateway serves it.
 *
 * offline_open() takes the VM's lock, opens the backend (which locks the bytes), claims the volume
 * and activates; offline_close() deactivates and releases. Between them backend requests may be
 * submitted on the loop. Everything blocks until it is done.
 */
#ifndef TB4_OFFLINE_H
#define TB4_OFFLINE_H

#include "backend/backend.h"
#include "cli/cli.h"
#include "volume/copies-store.h"
#include "volume/ownership.h"

struct offline {
	const struct cli *cli;
	const struct volume *volume;
	uv_loop_t loop;
	struct ownership *ownership;
	bool owns_ownership; /* taken here, not lent by the caller */
	struct backend *backend;
	struct hold hold;
	struct copies_store copies; /* of a backend that has some */
	bool is_held, is_active, is_closing;
	/* the step waited for */
	bool step_is_done;
	int step_error;
	struct reason step_reason;
};

/* `ownership` is the VM's and stays the caller's; NULL: it is taken here, and given back at the end, with
 * -EBUSY and a reason if the VM's gateway runs. On failure nothing is left to close. */
int offline_open(const struct cli *cli, const struct volume *volume, struct ownership *ownership,
	struct offline *offline, struct reason *reason);
/* Grows the backend. */
int offline_resize(struct offline *offline, uint64_t size, struct reason *reason);
/* Returns the first error of deactivating and releasing. */
int offline_close(struct offline *offline, struct reason *reason);

/* For --dry-run: would offline_open() be refused for who has the volume? Takes nothing. */
int offline_check(const struct cli *cli, const struct volume *volume, struct reason *reason);
/* Refuses with -EBUSY if the VM's gateway runs on this node, without taking anything. */
int refuse_if_running(const struct cli *cli, uint64_t vmid, struct reason *reason);

/* Refuses with -EBUSY if the record says that a node owns the volume now, or one of this node that
 * died did. No gateway of this node runs if the caller holds `ownership`. */
int refuse_if_owned(const struct cli *cli, const char *volume, struct reason *reason);

#endif
