/* claim.h: taking, keeping and giving up the right to write one volume (design section 5).
 *
 * Invariants
 *  1. A claim counts only once the record with its id has been stored and read back.
 *  2. Generations only rise: a new claim starts above every generation granted before, whatever
 *     the clock says.
 *  3. A volume of the local store is claimed only on the host that its volume file names.
 *  4. Release and claim are idempotent, keyed by the claim id.
 *  5. What the record says of copies passes from claim to claim; only claim_store_copies() changes it.
 *
 * Blocking; processes may race. ownership.h puts claims and the role file of a VM together.
 */
#ifndef TB4_CLAIM_H
#define TB4_CLAIM_H

#include "volume/record.h"
#include "volume/volume.h"

enum { CLAIM_GENERATIONS = 1000 }; /* granted by one claim */

/* May this node claim the volume? 0, or -EACCES with the reason. *present is its record, NULL if none. */
int claim_may_take(const struct config *config, const struct volume *volume,
	const struct record *present, struct reason *reason);

/* Claims the volume for this node: a new id and CLAIM_GENERATIONS new generations, from `now`
 * (seconds since 1970) or above what was granted before. With `force`, whoever owns it, wherever it
 * belongs. *claim is the record as stored. Returns 0, -EACCES, -ESTALE if another one was quicker,
 * -EBADMSG if the record is damaged, or another errno. */
int claim_take(const struct config *config, const struct volume *volume, uint64_t now, bool force,
	struct record *claim, struct reason *reason);

/* More generations under the same claim, when all are used; *claim must still be the present record
 * and is updated. Returns as claim_take(). */
int claim_extend(const struct config *config, const char *volume, uint64_t now,
	struct record *claim, struct reason *reason);

/* New generations above `floor` under the same claim, whose record may have changed otherwise; *claim is updated. Returns
 * 0, -EOWNERDEAD if the record no longer carries the id, -ERANGE if none are left above, or another errno. */
int claim_raise(const struct config *config, const char *volume, uint64_t floor, struct record *claim,
	struct reason *reason);

/* Marks the claim as released if the record still carries its id. 0 also if it no longer does. */
int claim_release(const struct config *config, const char *volume, const char *claim_id,
	struct reason *reason);

/* Loads the record, which must carry this claim's id. Returns 0, -EOWNERDEAD if it does not or is gone, or another
 * errno. */
int claim_load(const struct config *config, const char *volume, const char *claim_id, struct record *record,
	struct reason *reason);

/* Stores which copies count in the record of a claim that is ours. Idempotent, so it may be repeated when its
 * outcome is unknown. Returns 0, -EOWNERDEAD if the record no longer carries the id, or another errno. */
int claim_store_copies(const struct config *config, const char *volume, const char *claim_id,
	const struct record_copies *copies, struct reason *reason);

/* The id of this boot of this host. Returns 0 or an errno. */
int claim_boot_id(char boot_id[RECORD_ID_SIZE]);

#endif
