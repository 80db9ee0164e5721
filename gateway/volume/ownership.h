/* ownership.h: which volumes of one VM this node may write, across restarts (design section 5).
 *
 * RUN_DIR/VMID/lock is held by the one process that may own volumes of the VM on this node: its
 * gateway, or a command of tb4 while no gateway runs. RUN_DIR/VMID/role remembers under which
 * claims it runs and the last generation it used of each; RUN_DIR is gone after a reboot.
 *
 * Invariants
 *  1. A volume that the role file names is never claimed anew by a start: if its record is
 *     unchanged the start resumes under it, else the VM is fenced.
 *  2. A generation is written to the role file as used before anybody may use it.
 *  3. An orderly stop releases the records first and deletes the role file last; a fence and a
 *     crash leave it.
 *  4. A damaged role file is an error that names it; it is never overwritten.
 *
 * Blocking; used before the event loop serves and while it stops, and by tb4.
 */
#ifndef TB4_OWNERSHIP_H
#define TB4_OWNERSHIP_H

#include "volume/claim.h"

struct ownership;

/* Makes RUN_DIR/VMID, takes its lock and reads the role file. -EBUSY names the process that has it. */
int ownership_open(const struct config *config, uint64_t vmid, struct ownership **ownership,
	struct reason *reason);
/* Gives the lock back, and removes RUN_DIR/VMID if nothing is left in it. NULL is allowed. */
void ownership_close(struct ownership *ownership);

enum hold_kind {
	HOLD_FRESH,   /* claimed just now */
	HOLD_RESUMED, /* the claim of the process before us, under its next generation */
};

/* The right to write one volume, as ownership_hold() got it. */
struct hold {
	enum hold_kind kind;
	struct record claim;
	uint64_t generation; /* ours, above every one used before */
	unsigned raises;     /* by ownership_raise() */
};

/* Claims the volume or resumes its claim. Returns 0; -EOWNERDEAD if the record is no longer ours, so
 * that the whole VM is fenced; or an error of claim_take(). */
int ownership_hold(struct ownership *ownership, const struct volume *volume, uint64_t now,
	struct hold *hold, struct reason *reason);

/* A generation not below ours was found where the volume lies: takes one above it, under the same claim. Only for a
 * claim that is fresh, and at most OWNERSHIP_RAISES times: a start that resumes has been overtaken. Returns 0;
 * -EOWNERDEAD, and *reason is left alone, if it may not; or another errno. */
enum { OWNERSHIP_RAISES = 3 };
int ownership_raise(struct ownership *ownership, const char *volume, uint64_t outrun_by, struct hold *hold,
	struct reason *reason);

/* Is the record still ours? 0, -EOWNERDEAD if not, another errno if it cannot be read. */
int ownership_check(const struct ownership *ownership, const char *volume, const struct hold *hold,
	struct reason *reason);

/* Releases one volume: record, then its entry in the role file. Idempotent. */
int ownership_release(struct ownership *ownership, const char *volume, struct reason *reason);

/* The volume is gone: removes its record, which must be ours, and its entry. */
int ownership_drop(struct ownership *ownership, const char *volume, struct reason *reason);

/* Forgets all entries without touching records: the orderly end of a fenced gateway. */
int ownership_forget(struct ownership *ownership, struct reason *reason);

/* RUN_DIR/VMID; belongs to `ownership`. */
const char *ownership_directory(const struct ownership *ownership);

#endif
