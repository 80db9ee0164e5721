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
#include "list.h"

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

enum upstairs_operation { UPSTAIRS_READ, UPSTAIRS_WRITE, UPSTAIRS_FLUSH, UPSTAIRS_WRITE_ZEROES };

/* Of WRITE_ZEROES, which may be as long as the volume. There is no trim: a block that was written stays so. */
enum upstairs_flag {
	UPSTAIRS_NO_HOLE = 1 << 0,   /* zeros are written also where nothing ever was */
	UPSTAIRS_FAST_ZERO = 1 << 1, /* fails with -EOPNOTSUPP, and changes nothing, if anything has to be written */
};

/* A request of the guest. The caller's until upstairs_submit(), and again from complete() on. */
struct upstairs_request {
	enum upstairs_operation operation;
	unsigned flags; /* enum upstairs_flag */
	uint64_t start, count;
	/* WRITE: copied before upstairs_submit() returns. Hashed, and encrypted if the region is. */
	const void *data;
	const struct crucible_block_context *contexts;
	void *user;
	unsigned answered_by; /* when it is complete: 1 + the slot whose answer ended it, or 0 */
	struct upstairs_request *next; /* to submit several; NULL behind the last */
	/* the core's */
	struct list link;
	struct job *jobs[UPSTAIRS_SLOTS]; /* READ: on their way, by slot */
	bool asked[UPSTAIRS_SLOTS];       /* READ: and has answered badly, if it has no job */
	bool is_single;                   /* READ: no copy has all of it, so block by block */
	uint64_t at;                      /* WRITE_ZEROES: the first block of no part yet; READ: the single one, or 0 */
	unsigned parts;                   /* WRITE_ZEROES: under way */
	int error;
};

struct upstairs_options {
	struct crucible_uuid upstairs_id, session_id; /* random, new with each process */
	uint64_t block_size, extent_size; /* 0: whatever the regions have; all three must agree */
	uint32_t extent_count;
	bool encrypted;
	uint64_t leave_after;   /* ms that a slot's oldest job may be late: 3000 */
	uint64_t wait_for_named; /* ms that an activation waits for a slot in sync: 3000 */
	uint64_t flush_interval; /* ms between automatic flushes while there are writes: 2000 */
	/* ms that a mend after the loss of this host may take: 30000. Flushes as soon as more is dirty than can be copied
	 * in that time, at the rate at which extents were copied last. 0: no limit. */
	uint64_t recovery_budget;
	/* Every so many ms a pass as by upstairs_scrub() begins, the first a minute after the start. 0 bytes a second: none. */
	uint64_t scrub_interval, scrub_rate;
	/* Writes are answered when they are in the history and sent to every named slot, before one has done them. A flush is as
	 * always. So the loss of this host loses what was not flushed, and a gateway that was superseded may answer writes that
	 * nobody has. */
	bool ack_on_submit;
	/* Counted slots that it takes to answer anything: 2, also if it is not set, or 1 to go on, and to start, with a single
	 * copy. It holds all that was acknowledged; but if it is lost or torn then, so are writes that no other slot has. */
	unsigned min_copies;
	uint64_t hedge_after; /* ms after which a read is sent to another slot too, or later if the slot is slow: 20 */
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
	/* Checks the answer to a read of `request` and takes its data, which are those from block `first` of the request
	 * on. Returns 0, or -EBADMSG if hash, tag or kind of a block is not as it must be; another slot is asked then. */
	int (*take_data)(void *context, struct upstairs_request *request, uint64_t first,
		const struct crucible_message *response);
	/* Is the block what its context says? 0 or -EBADMSG. */
	int (*check_block)(void *context, const struct crucible_read_context *block_context, const void *data);
	/* Is it, and are its plain bytes zeros? A block that was never written is. */
	bool (*is_zeros)(void *context, const struct crucible_read_context *block_context, const void *data);
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
	UPSTAIRS_SERVING,      /* min_copies slots or more are counted */
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

/* What is wrong with a slot. */
enum upstairs_trouble {
	UPSTAIRS_TROUBLE_NONE,
	UPSTAIRS_TROUBLE_UNREACHABLE, /* nobody accepts a connection */
	UPSTAIRS_TROUBLE_LOST,        /* the connection ended: restarted, or the network */
	UPSTAIRS_TROUBLE_MUTE,        /* accepts connections, and does not answer: it spins on an error */
	UPSTAIRS_TROUBLE_SLOW,        /* answers much later than others */
	UPSTAIRS_TROUBLE_SILENT,      /* nothing came for 45 s */
	UPSTAIRS_TROUBLE_ERRORS,      /* reports errors of its disk */
	UPSTAIRS_TROUBLE_FULL,        /* reports that its disk is full */
	UPSTAIRS_TROUBLE_WIPED,       /* empty, and was not */
	UPSTAIRS_TROUBLE_ROLLED_BACK, /* older than it was */
	UPSTAIRS_TROUBLE_WRONG_REGION,
	UPSTAIRS_TROUBLE_NOT_EMPTY,   /* a new region for the slot that is not new */
	UPSTAIRS_TROUBLE_MISFIT,      /* geometry, encryption, version or mode */
	UPSTAIRS_TROUBLE_DISPLACED,   /* another client is active on it */
	UPSTAIRS_TROUBLE_ANSWERS,     /* what it answers makes no sense */
	UPSTAIRS_TROUBLE_DAMAGED,     /* blocks that are not healed */
	UPSTAIRS_TROUBLE_MEMORY,      /* ours */
};

struct upstairs_slot_status {
	enum upstairs_slot_state state;
	bool is_in_sync;            /* by the record */
	uint64_t generation;        /* the highest that it showed when it connected */
	uint64_t behind, behind_for; /* requests that it has not answered, and ms since the oldest was sent */
	uint64_t read_cost;         /* us that a read of up to 32 KiB took of late; 0: not known */
	uint64_t left;              /* how often it was counted, and then was not any more */
	uint64_t damaged, healed;   /* blocks that were not what their contexts say; of these, written again */
	/* REPAIR: extents; bytes a second, s that are left; 0 if not known yet. Not in repair: all 0. */
	uint64_t repaired, to_repair, repair_rate, repair_left;
	enum upstairs_trouble trouble;
	char error[160]; /* the last one, "": none; stays when the trouble is over */
};

/* Of the pass that runs, or 0; the counts are of all passes. */
struct upstairs_scrub_status {
	bool is_running;
	uint64_t done, all;   /* blocks */
	uint64_t running_for; /* ms */
	uint64_t passes;      /* that have come to their end */
	uint64_t differing;   /* blocks that were not right on all copies: healed, or in upstairs_status.unhealed */
};

struct upstairs_status {
	enum upstairs_state state;
	uint64_t generation;
	uint64_t outrun_by; /* the generation, not below ours, that has fenced us; 0 if it was something else */
	unsigned counted;
	uint64_t storing_for;   /* ms since a change of the record was sent that is not known to be stored; 0: none */
	uint64_t unhealed;      /* damaged blocks whose copies left no safe choice */
	uint64_t hedged_reads;  /* sent to a second slot as the first was late */
	uint64_t dirty_extents; /* written since the last flush was sent */
	uint64_t recovery_time; /* ms that mending these would take */
	uint64_t copy_rate;     /* bytes a second, measured or assumed */
	size_t empty_memory;    /* bytes that it takes to know what is empty */
	struct upstairs_scrub_status scrub;
	struct upstairs_slot_status slots[UPSTAIRS_SLOTS];
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
/* The next connect() of this slot leads to a new, empty region, onto which everything is copied. -EBUSY unless it
 * serves and both other slots are counted. How far it is, or what is wrong with it, is in upstairs_status(). */
bool upstairs_may_replace(const struct upstairs *upstairs, unsigned slot);
int upstairs_replace(struct upstairs *upstairs, unsigned slot);
/* A slot that has failed is left alone, since to connect to a region of somebody else takes it from him. This tries it
 * again, when what was wrong is put right. -EBUSY if it has not failed. */
int upstairs_retry(struct upstairs *upstairs, unsigned slot);
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
/* A finer clock, of any origin, by which reads go to the slots that answer soonest. To be told before
 * upstairs_submit() and upstairs_received(); without one they go to the slot that has the least to do. */
void upstairs_clock(struct upstairs *upstairs, uint64_t microseconds);

enum upstairs_state upstairs_state(const struct upstairs *upstairs);
enum upstairs_slot_state upstairs_slot_state(const struct upstairs *upstairs, unsigned slot);
/* Why it is refused or fenced. */
const char *upstairs_reason(const struct upstairs *upstairs);
/* The one in use. The caller may take away memory that it does not need. */
struct history *upstairs_history(struct upstairs *upstairs);
/* Begins a pass that reads and compares all copies of all blocks while requests go on, and heals what is damaged; `rate`
 * in bytes a second, 0: as fast as the slots answer. One that runs goes on with the new rate. 0, -EBUSY if the volume does
 * not serve, or -ENOMEM. */
int upstairs_scrub(struct upstairs *upstairs, uint64_t rate);
void upstairs_scrub_stop(struct upstairs *upstairs);

void upstairs_status(const struct upstairs *upstairs, struct upstairs_status *status);
/* A word, and a sentence on what to do about it ("" if nothing); constant texts. */
const char *upstairs_trouble_name(enum upstairs_trouble trouble);
const char *upstairs_advice(enum upstairs_trouble trouble);
/* Is block `start` known to have never been written? *alike is how many blocks from it on are like it, at most `count`,
 * which is not 0. Blocks that are not known to be empty may be so; a read of them tells. */
bool upstairs_is_hole(const struct upstairs *upstairs, uint64_t start, uint64_t count, uint64_t *alike);
/* Of the region, once that is known; zeros before. */
void upstairs_geometry(const struct upstairs *upstairs, uint64_t *block_size, uint64_t *block_count);

#endif
