/* core.h: the upstairs as a state machine (design section 6, crucible-protocol.md sections 3 to 7).
 *
 * One `struct upstairs` is one volume with its three slots. It knows neither sockets nor clocks nor random
 * numbers nor where the record is kept: what happens outside comes in through the functions below, what it
 * wants done goes out through `struct upstairs_environment`. So a simulator can drive it through any
 * schedule, and the same calls in the same order always have the same outcome.
 *
 * What the caller must keep:
 *  1. One thread. An environment function must not call back into the core before it has returned.
 *  2. Connections: per slot at most one. connect() is answered by upstairs_connected() or
 *     upstairs_disconnected(), any time later. After disconnect() nothing of that connection may be delivered
 *     and nothing sent of what is still queued.
 *  3. Frames of a slot are sent in the order of send(), and delivered in the order of arrival.
 *  4. Times are milliseconds of a monotonic clock; they never go back.
 *  5. The record is stored by one store_record() at a time; each is answered by upstairs_record_stored().
 *
 * Numbers of blocks are in blocks of the region. Errors are negative errno.
 */
#ifndef UPSTAIRS_CORE_H
#define UPSTAIRS_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec.h"
#include "core/history.h"

/* A read is longer than an answer may be, and a write holds up others, beyond this. */
enum { UPSTAIRS_REQUEST_MAX = 1 << 20 };

/* What the record says of a volume's slots. The claim around it is the caller's. */
struct upstairs_record {
	bool exists;   /* false: a volume that was never activated */
	bool released; /* in good order: everything was flushed */
	bool in_sync[UPSTAIRS_SLOTS];
	/* Its numbers prove nothing (trap T2): until all of it has been copied it is no source, in sync or not. */
	bool full_copy[UPSTAIRS_SLOTS];
	uint64_t stamped; /* generation that the regions in sync show at least */
	struct crucible_uuid regions[UPSTAIRS_SLOTS]; /* all zero: not known yet */
};

enum upstairs_operation { UPSTAIRS_READ, UPSTAIRS_WRITE, UPSTAIRS_FLUSH };

/* A request of the guest. The caller's until upstairs_submit(), and again from complete() on. */
struct upstairs_request {
	enum upstairs_operation operation;
	uint64_t start, count;
	/* WRITE: copied before upstairs_submit() returns. Hashed, and encrypted if the region is. */
	const void *data;
	const struct crucible_block_context *contexts;
	void *user;
	struct upstairs_request *next; /* to submit several; NULL behind the last */
};

struct upstairs_options {
	struct crucible_uuid upstairs_id, session_id; /* random, new with each process */
	uint64_t block_size, extent_size; /* 0: whatever the regions have; all three must agree */
	uint32_t extent_count;
	bool encrypted;
	uint64_t leave_after;   /* ms that a slot's oldest job may be late: 3000 */
	uint64_t wait_for_named; /* ms that an activation waits for a slot in sync: 3000 */
	uint64_t flush_interval; /* ms between automatic flushes while there are writes: 2000 */
};

enum upstairs_stored { UPSTAIRS_STORED, UPSTAIRS_SUPERSEDED, UPSTAIRS_UNKNOWN };

struct upstairs_environment {
	void *context;
	/* NULL without memory, which costs a request or a connection. */
	void *(*allocate)(void *context, size_t size);
	void (*release)(void *context, void *memory);
	void (*connect)(void *context, unsigned slot);
	void (*disconnect)(void *context, unsigned slot);
	/* Data of a write stays where it is until the slot has answered or disconnect() is called. */
	void (*send)(void *context, unsigned slot, const struct crucible_message *message);
	void (*store_record)(void *context, const struct upstairs_record *record);
	/* Checks the answer to a read of `request` and takes its data. Returns 0, or -EBADMSG if hash, tag or
	 * kind of a block is not as it must be; another slot is asked then. */
	int (*take_data)(void *context, struct upstairs_request *request, const struct crucible_message *response);
	/* Is the block what its context says? 0 or -EBADMSG. */
	int (*check_block)(void *context, const struct crucible_read_context *block_context, const void *data);
	/* The context of a block of zeros: `data` are block_size zeros, to be encrypted in place if the region is.
	 */
	void (*seal_zeros)(void *context, void *data, struct crucible_block_context *block_context);
	void (*complete)(void *context, struct upstairs_request *request, int error);
	/* One line for the log about a slot, or about the volume if slot is UPSTAIRS_SLOTS. */
	void (*report)(void *context, unsigned slot, const char *text);
	/* The state has changed: see upstairs_state(). */
	void (*changed)(void *context);
};

enum upstairs_state {
	UPSTAIRS_IDLE,
	UPSTAIRS_ACTIVATING,
	UPSTAIRS_SERVING,      /* two slots or more are counted */
	UPSTAIRS_PAUSED,       /* nothing is acknowledged and nothing fails */
	UPSTAIRS_DEACTIVATING,
	UPSTAIRS_RELEASED,     /* everything is flushed, the connections are closed */
	UPSTAIRS_REFUSED,      /* the activation cannot go on: see upstairs_reason() */
	UPSTAIRS_FENCED,       /* superseded: every request fails with -EIO, for good */
};

enum upstairs_slot_state {
	UPSTAIRS_SLOT_ABSENT,
	UPSTAIRS_SLOT_CONNECTING,
	UPSTAIRS_SLOT_WAITING,  /* connected, its turn to return comes later */
	UPSTAIRS_SLOT_MENDING,
	UPSTAIRS_SLOT_REPLAY,
	UPSTAIRS_SLOT_REPAIR,
	UPSTAIRS_SLOT_ACTIVE,   /* counted */
	UPSTAIRS_SLOT_FAILED,   /* not a copy of this volume, or it cannot be used */
};

struct upstairs;

/* Both structs are copied. `history` has been created or opened by the caller; with `history_is_kept` it is that
 * of an earlier process under the same record. NULL without memory. */
struct upstairs *upstairs_open(const struct upstairs_options *options,
	const struct upstairs_environment *environment, struct history *history, bool history_is_kept);
/* Disconnects and frees; requests that are in flight are forgotten, not completed. */
void upstairs_close(struct upstairs *upstairs);

/* Starts, under a generation that no other start has had. Once. */
void upstairs_activate(struct upstairs *upstairs, uint64_t generation, const struct upstairs_record *record,
	uint64_t now);
/* Flushes, stores the record as released, disconnects. No requests after this. */
void upstairs_deactivate(struct upstairs *upstairs);
/* Another owner is known: stops everything at once. */
void upstairs_fence(struct upstairs *upstairs, const char *why);

/* One request or a list of them, by `next`, in the order of submission. Neighbouring writes of a list are done, and
 * complete, as one. */
void upstairs_submit(struct upstairs *upstairs, struct upstairs_request *requests);

void upstairs_connected(struct upstairs *upstairs, unsigned slot, const struct crucible_address *peer);
void upstairs_disconnected(struct upstairs *upstairs, unsigned slot);
void upstairs_received(struct upstairs *upstairs, unsigned slot, const struct crucible_message *message);
void upstairs_record_stored(struct upstairs *upstairs, enum upstairs_stored outcome);
/* Time has come this far. To be called at upstairs_deadline() at the latest, and before other inputs. */
void upstairs_tick(struct upstairs *upstairs, uint64_t now);
uint64_t upstairs_deadline(const struct upstairs *upstairs); /* UINT64_MAX: none */

enum upstairs_state upstairs_state(const struct upstairs *upstairs);
enum upstairs_slot_state upstairs_slot_state(const struct upstairs *upstairs, unsigned slot);
/* Why it is refused or fenced. */
const char *upstairs_reason(const struct upstairs *upstairs);
/* The one in use. The caller may take away memory that it does not need. */
struct history *upstairs_history(struct upstairs *upstairs);
/* Of the region, once that is known; zeros before. */
void upstairs_geometry(const struct upstairs *upstairs, uint64_t *block_size, uint64_t *block_count);

#endif
