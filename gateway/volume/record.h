/* record.h: who may write a volume (design section 5, "The record"), and where that is kept.
 *
 * There is at most one record per volume. It is changed only by compare-and-swap on (claim id,
 * seq) in a store; a swap that returns 0 has been read back. A record that cannot be read, or
 * whose checksum does not fit, is never overwritten: -EBADMSG with a reason that names the file.
 *
 * The store here is the local one: CLAIM_DIR/VOLUME.json, changed under flock of CLAIM_DIR/.lock.
 * Volumes kept with it belong to one host. Blocking calls; processes may race.
 */
#ifndef TB4_RECORD_H
#define TB4_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"

enum { RECORD_ID_SIZE = 37, RECORD_NODE_SIZE = 256, RECORD_SLOTS = 3 };

/* Crucible: which of the three copies of a volume count (design section 6). Kept from claim to claim. */
struct record_copies {
	bool exists; /* false: never activated, or another backend */
	bool clean;  /* the last owner flushed everything before it released them */
	uint64_t stamped; /* the generation that those in sync show at least */
	struct record_copy {
		bool in_sync;
		bool needs_full_copy; /* what it shows of itself proves nothing */
		char region[RECORD_ID_SIZE]; /* its UUID; "": not known yet */
	} slots[RECORD_SLOTS];
};

struct record {
	char claim_id[RECORD_ID_SIZE]; /* random UUID, new with each claim */
	uint64_t seq;                  /* raised by each swap */
	char node[RECORD_NODE_SIZE];
	char boot_id[RECORD_ID_SIZE];
	uint64_t generation_first, generation_last;
	bool released;
	struct record_copies copies;
};

/* Returns 0, -ENOENT if the volume has none, -EBADMSG if it is damaged, or another errno. */
int record_load(const struct config *config, const char *volume, struct record *record,
	struct reason *reason);

/* Stores *fresh if the present record is *expected (NULL: if there is none). Sets fresh->seq.
 * Returns 0, -ESTALE if the record is another one (nothing was changed), or another errno, after
 * which the outcome is unknown: read again. */
int record_swap(const struct config *config, const char *volume, const struct record *expected,
	struct record *fresh, struct reason *reason);

/* Removes the record if it is *expected. Returns 0, -ESTALE if it is not, or another errno. */
int record_remove(const struct config *config, const char *volume, const struct record *expected,
	struct reason *reason);

/* malloc'ed path of a volume's record, for messages and for watching. */
char *record_path(const struct config *config, const char *volume);

/* The text form: one line of JSON and one with its checksum. Exposed for tests and fuzzing.
 * encode returns malloc'ed text or NULL; decode returns 0 or -EBADMSG with what is wrong. */
char *record_encode(const struct record *record);
int record_decode(const char *text, size_t length, struct record *record, const char **wrong);

#endif
