/* core-internal.h: what the files of the core share.
 *
 *   core.c      life, state, the record, time
 *   slot.c      one connection: negotiation, pings, what a frame means
 *   jobs.c      requests as jobs: dependencies, sending, acknowledging, the end of a job
 *   reads.c     which slot a read goes to, and what becomes of its answer
 *   holes.c     which blocks were never written
 *   zeroes.c    WRITE_ZEROES
 *   heal.c      a damaged block is written again
 *   scrub.c     all copies of all blocks are compared
 *   replace.c   another region takes a slot's place
 *   status.c    what an operator should know
 *   recovery.c  how long a mend would take, and flushes that keep it short
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
 *     least min_copies (jobs.c: job_try_answer()).
 *  3. A slot is named before the store of the record that names it begins, and until the store of the one
 *     that does not has succeeded (core.c).
 *  4. No flush number is sent twice under a generation; each is kept in the history before it is sent.
 */
#ifndef UPSTAIRS_CORE_INTERNAL_H
#define UPSTAIRS_CORE_INTERNAL_H

#include "core/core.h"
#include "core/empty.h"
#include "list.h"

enum {
	JOB_BUCKETS = 1024,
	PING_MS = 5000,
	SILENCE_MS = 45000,
	RETRY_MIN_MS = 100,
	RETRY_MAX_MS = 5000,
	SILENT_CLOSES_TOLD = 12, /* in each so many of them; about once a minute */
	RECORD_RETRY_MS = 1000,
	SCRUB_FIRST_MS = 60000,
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
	struct crucible_region shows; /* REGION: what it has answered; block size 0: it has not */
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
	bool is_replaced; /* its region is to be forgotten: no connection before the record has done so */
	uint64_t connected_at;    /* ms */
	enum upstairs_trouble trouble; /* when it was last no copy; not looked at while it is counted */
	char error[160];
	uint64_t left;            /* how often it was counted, and then was not any more */
	uint64_t damaged, healed; /* blocks, so far */
	uint64_t read_cost; /* time of the last reads, in 1/16 us, of one of up to 32 KiB; 0: not known */
	const char *doomed;     /* why it is dropped when the present input has been dealt with; NULL: it is not */
};

enum job_state {
	JOB_NOT_SENT,
	JOB_SENT,
	JOB_COVERED, /* by the replay that is under way; done with its flush */
	JOB_DONE,
};

enum job_kind {
	JOB_READ,
	JOB_WRITE,
	JOB_FLUSH,
	JOB_REPLAY,
	JOB_REPAIR,
	JOB_NO_OP, /* shows that the slot still takes our jobs */
};

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
	struct list late_link; /* upstairs.late_reads */
	uint64_t id;
	enum job_kind kind;
	uint64_t start, count;
	const struct history_entry *entry; /* WRITE, REPLAY */
	uint64_t flush_number; /* FLUSH */
	uint64_t covers;       /* FLUSH: entries below this number are durable where it is done */
	struct upstairs_request *request; /* of a WRITE a list; NULL: our own */
	bool is_answered, has_data;
	enum job_state states[UPSTAIRS_SLOTS];
	uint64_t since; /* ms */
	uint64_t late_at, sent_at; /* READ: ms; us */
	unsigned error_reports;
	unsigned answered_by; /* 1 + the slot that has answered last */
};

enum fence_step { FENCE_NONE, FENCE_READ, FENCE_WRITE, FENCE_RECORD };

struct mend;
struct repair;
struct heal;
struct scrub;

struct upstairs {
	struct upstairs_options options;
	struct upstairs_environment environment;
	struct history history;
	bool resumes; /* the history is that of an earlier process under this record */
	uint64_t generation, now;
	enum upstairs_state state;
	char reason[200];
	uint64_t outrun_by; /* see upstairs_status */
	struct crucible_region region; /* what of it is expected, 0: anything; with has_geometry what two slots show */
	bool has_geometry;
	struct slot slots[UPSTAIRS_SLOTS];

	struct upstairs_record record; /* as last stored */
	struct upstairs_record storing;
	bool is_storing;
	uint64_t storing_since; /* ms */
	uint64_t store_again_at; /* the outcome of the last store is not known; 0: it is */

	struct list jobs, by_id[JOB_BUCKETS], by_range[JOB_BUCKETS];
	struct list held_reads;   /* jobs: have their data, and wait for writes to be acknowledged */
	struct list parked_reads; /* requests: no slot can take them now */
	struct list late_reads;   /* jobs on their way, by the time at which another slot is asked too */
	struct list zeroing;      /* requests: of zeroes, under way */
	struct empty_map *empty;  /* NULL: not known */
	struct crucible_block_context *zero_contexts; /* of as many blocks as a part of zeroes has; NULL: not made */
	uint64_t clock;           /* us, see upstairs_clock(); 0: there is none */
	uint64_t hedged_reads;    /* so far */
	uint64_t hedges_saved, hedges_saved_at; /* see reads.c; ms */
	uint64_t next_id, flush_number;
	bool has_stamped; /* a flush number was taken, so that our generation may be on a disk */
	uint64_t flushed_to; /* history number that the last flush sent covers */
	uint64_t last_flush_at;
	struct upstairs_request *waiting, **waiting_end; /* not yet jobs */
	uint64_t *dependencies; /* room for those of one job */
	size_t dependencies_room;

	uint64_t *dirty; /* a bit for each extent, written since the last flush was sent; NULL: not known */
	uint64_t dirty_count;
	uint64_t copy_rate; /* bytes a ms, as measured; 0: not yet */

	/* activation */
	uint64_t activation_began;
	bool in_activation[UPSTAIRS_SLOTS];
	struct mend *mend;
	struct repair *repair;
	struct heal *heal;  /* NULL: nothing was ever damaged */
	struct scrub *scrub; /* NULL: none was ever asked for */
	uint64_t scrub_at;   /* ms: the next one by itself */
	uint64_t unhealed; /* blocks whose copies left no safe choice, so far */
	enum fence_step fence;
	uint64_t fence_job, fence_covers, fence_block;
	bool fence_asked[UPSTAIRS_SLOTS]; /* for the block */
	bool fence_is_unwritten;          /* and one of these never flushed it */
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
bool core_counts_enough(const struct upstairs *upstairs);
/* us: as fine as there is. */
uint64_t core_clock(const struct upstairs *upstairs);
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
/* The same, if it is not for what it has answered. */
void slot_drop_for(struct upstairs *upstairs, unsigned index, enum upstairs_trouble trouble, const char *why);
/* The oldest job that it has not answered; NULL: none. */
const struct job *slot_oldest(const struct upstairs *upstairs, unsigned index);
/* Drops it at the end of the present input, as what calls this may hold jobs that a drop frees. Until then nothing
 * more is sent to it. */
void slot_doom(struct upstairs *upstairs, unsigned index, const char *why);
void slot_drop_doomed(struct upstairs *upstairs);
/* As slot_drop(), and it is not tried again. */
void slot_fail(struct upstairs *upstairs, unsigned index, enum upstairs_trouble trouble, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
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
/* Requests that waited may become jobs now. */
void jobs_go_on(struct upstairs *upstairs);
/* Who may be answered has changed. */
void jobs_try_answers(struct upstairs *upstairs);
struct job *jobs_write(struct upstairs *upstairs, struct history_entry *entry, struct upstairs_request *request);
struct job *jobs_flush(struct upstairs *upstairs, struct upstairs_request *request);
struct job *jobs_no_op(struct upstairs *upstairs, struct upstairs_request *request);
/* The history is full. What no slot needs any more is dropped: true if that was anything. Flushes, so that more can
 * be. */
bool jobs_make_room(struct upstairs *upstairs);
/* May a write of the guest to these blocks become a job now? */
bool jobs_may_write(const struct upstairs *upstairs, uint64_t start, uint64_t count);
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
/* Are there requests that are not jobs, or not as a whole? */
bool jobs_wait(const struct upstairs *upstairs);
void job_free(struct upstairs *upstairs, struct job *job);
/* If it is answered, and no slot has it still to do. */
void job_free_if_over(struct upstairs *upstairs, struct job *job);
/* Completes its request, if it has one. */
void job_answer(struct upstairs *upstairs, struct job *job, int error);
/* Answers if that is right, then the reads that waited for it, and frees what is over. */
void job_try_answer(struct upstairs *upstairs, struct job *job);
/* Is it a time at which requests become jobs, and are answered? */
bool jobs_are_answered(const struct upstairs *upstairs);
typedef bool (*job_visitor)(void *context, struct job *other);
/* Visits each other job that touches blocks of this one, until a visit returns false. */
bool jobs_visit_overlapping(struct upstairs *upstairs, const struct job *job, job_visitor visit, void *context);

/* reads.c */
int reads_start(struct upstairs *upstairs, struct upstairs_request *request);
void reads_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message);
bool reads_may_answer(struct upstairs *upstairs, struct job *job);
/* The connection that the job was sent on is gone. The job is free to go. */
void reads_lost(struct upstairs *upstairs, struct job *job, unsigned index);
/* One of the request's jobs has an answer: the others do not know it any more. It is complete then, or its next block is
 * asked for. */
void reads_answered(struct upstairs *upstairs, struct upstairs_request *request, int error);
/* Reads that no slot could take are sent. */
void reads_retry(struct upstairs *upstairs);
void reads_fail_all(struct upstairs *upstairs, int error);
void reads_tick(struct upstairs *upstairs);
/* When the first read is late; UINT64_MAX: none is on its way. */
uint64_t reads_deadline(const struct upstairs *upstairs);

/* zeroes.c */
int zeroes_start(struct upstairs *upstairs, struct upstairs_request *request);
/* Sends what parts may be sent, and completes requests of which all are done. */
void zeroes_go_on(struct upstairs *upstairs);
/* A part is done. zeroes_go_on() is to follow. */
void zeroes_answered(struct upstairs_request *request, int error);
/* Their jobs are gone already. */
void zeroes_fail_all(struct upstairs *upstairs, int error);
/* Before the first zeroes_describe(). False without memory. */
bool zeroes_prepare(struct upstairs *upstairs);
/* The data and contexts of a write of zeros. */
void zeroes_describe(const struct upstairs *upstairs, uint64_t count, struct crucible_message *message);

/* heal.c */
/* The slot has answered a read with at least one block that is damaged. */
void heal_note(struct upstairs *upstairs, unsigned index, const struct job *job,
	const struct crucible_message *message);
/* The block is to be looked at. False if there is no room for it now. */
bool heal_queue(struct upstairs *upstairs, uint64_t block);
bool heal_is_idle(const struct upstairs *upstairs);
/* Can every copy that is to be good be asked? */
bool heal_may_ask(const struct upstairs *upstairs);
/* Begins with the next block, if it is a time for it. */
void heal_advance(struct upstairs *upstairs);
/* Is one of these blocks being healed? */
bool heal_holds(const struct upstairs *upstairs, uint64_t start, uint64_t count);
/* Its own reads. After heal_lost() the job is free to go. */
bool heal_expects(const struct upstairs *upstairs, const struct job *job);
void heal_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message);
void heal_lost(struct upstairs *upstairs, struct job *job, unsigned index);
void heal_end(struct upstairs *upstairs);

/* scrub.c */
/* Reads the next stretch, if it is a time for it. */
void scrub_advance(struct upstairs *upstairs);
/* ms; UINT64_MAX: it waits for nothing but answers. */
uint64_t scrub_deadline(const struct upstairs *upstairs);
void scrub_status(const struct upstairs *upstairs, struct upstairs_scrub_status *status);
/* Its own reads, as those of heal.c. */
bool scrub_expects(const struct upstairs *upstairs, const struct job *job);
void scrub_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message);
void scrub_lost(struct upstairs *upstairs, struct job *job, unsigned index);
void scrub_end(struct upstairs *upstairs);

/* replace.c */
/* Has the record to say something else about the slot's region? Changes it so. */
bool replace_changes(const struct upstairs *upstairs, unsigned index, struct upstairs_record *record);
void replace_stored(struct upstairs *upstairs);
/* Is its region one that the record does not know, and is not empty? */
bool replace_refuses(const struct upstairs *upstairs, unsigned index);

/* recovery.c */
/* At each start, before anything is written. */
void recovery_begin(struct upstairs *upstairs);
void recovery_written(struct upstairs *upstairs, uint64_t start, uint64_t count);
/* A flush is sent behind all that is written. */
void recovery_flushed(struct upstairs *upstairs);
bool recovery_wants_flush(const struct upstairs *upstairs);
/* An extent has been copied that was asked for at `since`, by core_clock(). */
void recovery_copied(struct upstairs *upstairs, uint64_t since);
/* Bytes a ms, measured or assumed; and ms that a mend of what is dirty now would take. */
uint64_t recovery_rate(const struct upstairs *upstairs);
uint64_t recovery_time(const struct upstairs *upstairs);

/* holes.c */
/* The slots of the activation are equal, and nothing has been written under it yet. */
void holes_begin(struct upstairs *upstairs);
void holes_end(struct upstairs *upstairs);
/* These blocks are part of a write now. */
void holes_written(struct upstairs *upstairs, uint64_t start, uint64_t count);
/* A read was answered well. */
void holes_read(struct upstairs *upstairs, struct job *job, const struct crucible_message *message);

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
bool block_same_context(const struct crucible_read_context *a, const struct crucible_read_context *b);
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
void repair_tick(struct upstairs *upstairs);
void repair_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message);
bool repair_expects(const struct upstairs *upstairs, const struct job *job, enum crucible_message_type type);
/* Is the job a step that flushes? */
bool repair_flushes(const struct upstairs *upstairs, const struct job *job);
/* The job that requests for the extent under repair must run after; NULL: there is none. */
struct job *repair_reopen(const struct upstairs *upstairs);
void repair_forget(struct upstairs *upstairs);
/* How far it is. */
void repair_describe(const struct upstairs *upstairs, unsigned index, struct upstairs_slot_status *status);

#endif
