/* core-internal.h: what the files of the core share.
 *
 *   core.c      life, state, the record, time
 *   slot.c      one connection: negotiation, pings, what a frame means
 *   jobs.c      requests as jobs: dependencies, sending, acknowledging, the end of a job
 *   replay.c    a slot comes back by the history
 *   activate.c  which slots a start trusts, and the fence
 *   block.c     one block as it was read, to be written again
 *   mend.c      extents made equal before the first request
 *   repair.c    a slot is copied while requests go on
 *
 * Words (design section 6): a slot is *named* if the record, as it is or may be stored, says that it is in
 * sync; it is *counted* if it is named, connected under our generation and has executed all there is.
 *
 * Invariants
 *  1. Every named slot holds everything that was acknowledged.
 *  2. A write or flush is acknowledged when every named slot is counted and has done it, and these are at
 *     least two (jobs.c: job_try_answer()).
 *  3. A slot is named before the store of the record that names it begins, and until the store of the one
 *     that does not has succeeded (core.c).
 *  4. No flush number is sent twice under a generation; each is kept in the history before it is sent.
 */
#ifndef UPSTAIRS_CORE_INTERNAL_H
#define UPSTAIRS_CORE_INTERNAL_H

#include "core/core.h"
#include "list.h"

enum {
	JOB_BUCKETS = 1024,
	PING_MS = 5000,
	SILENCE_MS = 45000,
	RETRY_MIN_MS = 100,
	RETRY_MAX_MS = 5000,
	SILENT_CLOSES_TOLD = 12, /* in each so many of them; about once a minute */
	RECORD_RETRY_MS = 1000,
	ERROR_REPORTS_MAX = 8, /* of one job; then the slot is given up */
};

enum slot_phase {
	SLOT_ABSENT,
	SLOT_CONNECTING,
	SLOT_HELLO,    /* HereIAm is sent, and so on */
	SLOT_PROMOTE,
	SLOT_REGION,
	SLOT_VERSIONS,
	SLOT_PRESENT,  /* negotiated; nothing else has been decided */
	SLOT_MENDING,
	SLOT_REPAIR,   /* new jobs go to it as far as it is copied */
	SLOT_REPLAY,   /* the replay and its flush are sent; new jobs go behind them */
	SLOT_JOINING,  /* has replayed; acknowledgements stop until the record names it */
	SLOT_COUNTED,
	SLOT_FAILED,
};

struct version {
	uint64_t generation, flush_number;
	bool dirty;
};

struct slot {
	enum slot_phase phase;
	bool is_named;
	bool lies; /* reported an error in a flush: its numbers prove nothing (trap T2) */
	struct crucible_address peer, repair_address;
	struct crucible_uuid region;
	bool has_region;
	struct version *versions; /* by extent */
	uint64_t shown;           /* the highest generation among them */
	struct list outstanding;  /* struct job.slot_links: sent, not answered, in the order of sending */
	size_t outstanding_count;
	uint64_t base;    /* id of the last flush sent on this connection; 0: none */
	uint64_t last_heard, last_ping; /* ms */
	uint64_t retry_at, retry_delay, attempts;
	uint64_t present_since; /* ms: negotiated; 0: it is not */
	uint64_t replay_flush; /* job id */
	uint64_t repaired_to;  /* REPAIR: blocks below this are there, or will be when the extent reopens */
	struct crucible_uuid upstairs_id; /* ours, as this slot is told */
	unsigned silent_closes; /* in a row, right after PromoteToActive */
	const char *doomed;     /* why it is dropped when the present input has been dealt with; NULL: it is not */
};

enum job_state {
	JOB_NOT_SENT,
	JOB_SENT,
	JOB_COVERED, /* by the replay that is under way; done with its flush */
	JOB_DONE,
};

enum job_kind { JOB_READ, JOB_WRITE, JOB_FLUSH, JOB_REPLAY, JOB_REPAIR };

/* A job in one stretch of the range table. */
struct range_link {
	struct list link;
	struct job *job;
};

struct job {
	struct list id_link, slot_links[UPSTAIRS_SLOTS];
	struct range_link range_links[2];
	struct list all_link;  /* upstairs.jobs, by rising id */
	struct list held_link; /* upstairs.held_reads */
	uint64_t id;
	enum job_kind kind;
	uint64_t start, count;
	const struct history_entry *entry; /* WRITE, REPLAY */
	uint64_t data_from;    /* REPLAY: block of the entry's data that `start` is */
	uint64_t flush_number; /* FLUSH */
	uint64_t covers;       /* FLUSH: entries below this number are durable where it is done */
	struct upstairs_request *request; /* of a WRITE a list; NULL: our own */
	bool is_answered, has_data;
	enum job_state states[UPSTAIRS_SLOTS];
	bool asked[UPSTAIRS_SLOTS]; /* READ */
	uint64_t since;             /* ms */
	unsigned error_reports;
};

enum fence_step { FENCE_NONE, FENCE_READ, FENCE_WRITE, FENCE_RECORD };

struct mend;
struct repair;

struct upstairs {
	struct upstairs_options options;
	struct upstairs_environment environment;
	struct history history;
	bool resumes; /* the history is that of an earlier process under this record */
	uint64_t generation, now;
	enum upstairs_state state;
	char reason[200];
	struct crucible_region region; /* of the first slot that said it; block_size 0: not known */
	struct slot slots[UPSTAIRS_SLOTS];

	struct upstairs_record record; /* as last stored */
	struct upstairs_record storing;
	bool is_storing;
	uint64_t store_again_at; /* the outcome of the last store is not known; 0: it is */

	struct list jobs, by_id[JOB_BUCKETS], by_range[JOB_BUCKETS];
	struct list held_reads; /* have their data, and wait for writes to be acknowledged */
	uint64_t next_id, flush_number;
	uint64_t flushed_to; /* history number that the last flush sent covers */
	uint64_t last_flush_at;
	struct upstairs_request *waiting, **waiting_end; /* not yet jobs */
	uint64_t *dependencies; /* room for those of one job */
	size_t dependencies_room;

	/* activation */
	uint64_t activation_began;
	bool in_activation[UPSTAIRS_SLOTS];
	struct mend *mend;
	struct repair *repair;
	enum fence_step fence;
	uint64_t fence_job, fence_covers, fence_block;
	bool fence_asked[UPSTAIRS_SLOTS]; /* for the block */
	struct history_entry *spare_entry; /* of one block, beside the history: what rewrites what is there already */
	bool is_advancing, advance_again;
};

/* core.c */
void *core_allocate(struct upstairs *upstairs, size_t size);
void core_release(struct upstairs *upstairs, void *memory);
void core_report(struct upstairs *upstairs, unsigned slot, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void core_set_state(struct upstairs *upstairs, enum upstairs_state state);
/* Stops everything for good. */
void core_fence(struct upstairs *upstairs, const char *format, ...) __attribute__((format(printf, 2, 3)));
void core_refuse(struct upstairs *upstairs, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Something that decides about slots, record or state has changed: goes on wherever that is possible. */
void core_advance(struct upstairs *upstairs);
unsigned core_counted(const struct upstairs *upstairs);
/* Sends the record; its slots count as named from now on. */
void core_store(struct upstairs *upstairs, const struct upstairs_record *record);
/* Sends one that says of every slot that lies that it does, if the record does not yet. */
bool core_store_lies(struct upstairs *upstairs);
uint64_t core_next_flush_number(struct upstairs *upstairs);
struct crucible_job core_job(const struct upstairs *upstairs, unsigned slot, uint64_t id);

/* slot.c */
void slot_init(struct slot *slot);
void slot_connect(struct upstairs *upstairs, unsigned index);
void slot_received(struct upstairs *upstairs, unsigned index, const struct crucible_message *message);
/* The connection is gone, or is closed here; what was sent on it is open again. */
void slot_lost(struct upstairs *upstairs, unsigned index);
void slot_drop(struct upstairs *upstairs, unsigned index, const char *why);
/* Drops it at the end of the present input, as what calls this may hold jobs that a drop frees. Until then nothing
 * more is sent to it. */
void slot_doom(struct upstairs *upstairs, unsigned index, const char *why);
void slot_drop_doomed(struct upstairs *upstairs);
/* As slot_drop(), and it is not tried again. */
void slot_fail(struct upstairs *upstairs, unsigned index, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void slot_tick(struct upstairs *upstairs, unsigned index);
/* Its numbers prove nothing from now on: only a full copy brings it back. */
void slot_lies(struct upstairs *upstairs, unsigned index);
/* Do new jobs go to it? */
bool slot_receives(const struct slot *slot);

/* jobs.c */
void jobs_init(struct upstairs *upstairs);
struct job *job_new(struct upstairs *upstairs, enum job_kind kind, uint64_t start, uint64_t count);
struct job *job_by_id(const struct upstairs *upstairs, uint64_t id);
void job_send(struct upstairs *upstairs, struct job *job, unsigned index);
/* One of a repair: as `message` says; with `gathers` it runs after all that it overlaps, and after flushes. */
void job_send_repair(struct upstairs *upstairs, struct job *job, unsigned index, struct crucible_message *message,
	bool gathers);
/* It is no longer on its way to the slot. */
void job_unsent(struct upstairs *upstairs, struct job *job, unsigned index, enum job_state state);
void job_done(struct upstairs *upstairs, struct job *job, unsigned index);
void jobs_submit(struct upstairs *upstairs, struct upstairs_request *requests);
/* Reads that no slot could take are sent. */
void jobs_retry_reads(struct upstairs *upstairs);
/* Requests that waited may become jobs now. */
void jobs_go_on(struct upstairs *upstairs);
/* Who may be answered has changed. */
void jobs_try_answers(struct upstairs *upstairs);
struct job *jobs_write(struct upstairs *upstairs, struct history_entry *entry, struct upstairs_request *request);
struct job *jobs_flush(struct upstairs *upstairs, struct upstairs_request *request);
/* One that nobody waits for. */
void jobs_flush_unasked(struct upstairs *upstairs);
void jobs_answer_to(struct upstairs *upstairs, unsigned index, const struct crucible_message *message);
/* What was sent on a connection that is lost is open again. */
void jobs_lost(struct upstairs *upstairs, unsigned index);
/* Drops history that no slot needs. */
void jobs_trim(struct upstairs *upstairs);
void jobs_fail_all(struct upstairs *upstairs, int error);
void jobs_tick(struct upstairs *upstairs);
bool jobs_idle(const struct upstairs *upstairs);
void job_free(struct upstairs *upstairs, struct job *job);

/* replay.c */
/* Does the history reach from the slot's place to now? */
bool replay_is_possible(struct upstairs *upstairs, unsigned index);
/* Sends it, and a flush behind it. False without memory. */
bool replay_begin(struct upstairs *upstairs, unsigned index);
/* The flush was acknowledged. */
void replay_flushed(struct upstairs *upstairs, struct job *flush, unsigned index);

/* A flush without limit, behind everything that the slot was sent; replay_flushed() follows. False without
 * memory. */
bool replay_flush(struct upstairs *upstairs, unsigned index);

/* activate.c */
void activate_advance(struct upstairs *upstairs);
/* A connection of the activation is lost: all begins again. */
void activate_again(struct upstairs *upstairs);
void activate_fence_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message);

/* block.c */
/* Memory for a write of one block, beside the history. NULL without memory. */
struct history_entry *block_entry(struct upstairs *upstairs, uint64_t block);
/* A block of an answer to a read; the data is the frame's. */
struct read_block {
	struct crucible_read_context context;
	const uint8_t *data;
};
struct read_blocks {
	struct crucible_read_contexts contexts;
	const uint8_t *data;
};
struct read_blocks blocks_of(const struct crucible_message *message);
/* Takes the first one off. False if there is none. */
bool block_next(const struct upstairs *upstairs, struct read_blocks *blocks, struct read_block *block);
bool block_is_good(const struct upstairs *upstairs, const struct read_block *block);
/* The entry becomes the block, which is good. */
void block_fill(struct upstairs *upstairs, struct history_entry *entry, const struct read_block *block);
void block_fill_zeros(struct upstairs *upstairs, struct history_entry *entry);

/* mend.c */
/* Plans. Returns 0, 1 if there is nothing to do, or -ENOMEM. */
int mend_begin(struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS]);
void mend_received(struct upstairs *upstairs, unsigned index, const struct crucible_message *message);
/* Its own read was answered (NULL: not well), and the job is done; a write was. */
void mend_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message);
void mend_written(struct upstairs *upstairs, uint64_t job_id);
/* Everything is copied from one slot. */
bool mend_has_one_source(const struct upstairs *upstairs);
void mend_end(struct upstairs *upstairs);

/* repair.c */
/* Begins to copy a slot that is there and cannot come back otherwise. */
void repair_begin_if_wanted(struct upstairs *upstairs);
/* A step may be over. For core_advance(), which does not nest. */
void repair_advance(struct upstairs *upstairs);
void repair_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message);
bool repair_expects(const struct upstairs *upstairs, const struct job *job, enum crucible_message_type type);
/* Is the job a step that flushes? */
bool repair_flushes(const struct upstairs *upstairs, const struct job *job);
/* The job that requests for the extent under repair must run after; NULL: there is none. */
struct job *repair_reopen(const struct upstairs *upstairs);
void repair_forget(struct upstairs *upstairs);

#endif
