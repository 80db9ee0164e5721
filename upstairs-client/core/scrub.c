/* scrub.c: a pass over all blocks that reads every copy of each and compares them, so that what has rotted is found
 * while good copies of it are left.
 *
 *  1. A stretch of blocks is one job, sent to every counted slot: all read it at the same place in the order of writes,
 *     so copies that are right are equal whatever the guest does meanwhile.
 *  2. Nothing is decided here: blocks that are damaged or differ are given to heal.c, which reads them again while it
 *     keeps the guest's writes away. The pass goes on when it has dealt with them.
 *  3. A stretch that could not be read from every slot is read again. Without all named slots nothing is read.
 *  4. One stretch, inside an extent, at a time, and no more bytes a second than was asked for.
 */
#include <errno.h>

#include "core/core-internal.h"

enum {
	STRETCH_BYTES = 512 << 10,
	FLUSH_EVERY = 1024, /* stretches: a downstairs keeps the numbers of what it has done until the next flush */
};

enum copy_state { COPY_NONE, COPY_AWAITED, COPY_READ, COPY_LOST };

struct verdict {
	struct crucible_read_context context;
	bool is_good;
};

struct scrub {
	uint64_t rate; /* bytes a second; 0: no limit */
	uint64_t next, end; /* blocks; the same: no pass */
	uint64_t due; /* ms: not before */
	uint64_t began; /* ms */
	uint64_t job_id; /* 0: none */
	uint64_t start, count;
	uint64_t stretches;
	enum copy_state states[UPSTAIRS_SLOTS];
	uint64_t passes, differing;
	struct verdict verdicts[]; /* by slot, then block */
};

static uint64_t stretch_max(const struct upstairs *upstairs)
{
	return STRETCH_BYTES / upstairs->region.block_size;
}

static struct verdict *verdict_of(const struct upstairs *upstairs, unsigned index, uint64_t block)
{
	return &upstairs->scrub->verdicts[index * stretch_max(upstairs) + block];
}

/* A pass, unless one runs. False without memory. */
static bool begin(struct upstairs *upstairs, uint64_t rate)
{
	struct scrub *scrub = upstairs->scrub;
	if (!scrub) {
		size_t size = sizeof *scrub + UPSTAIRS_SLOTS * stretch_max(upstairs) * sizeof(struct verdict);
		scrub = core_allocate(upstairs, size);
		if (!scrub)
			return false;
		*scrub = (struct scrub){ .next = 0 };
		upstairs->scrub = scrub;
	}
	scrub->rate = rate;
	scrub->due = upstairs->now;
	if (scrub->next != scrub->end)
		return true;
	scrub->next = 0;
	scrub->end = upstairs->region.extent_count * upstairs->region.extent_size;
	scrub->began = upstairs->now;
	return true;
}

int upstairs_scrub(struct upstairs *upstairs, uint64_t rate)
{
	if (upstairs->state != UPSTAIRS_SERVING && upstairs->state != UPSTAIRS_PAUSED)
		return -EBUSY;
	if (!begin(upstairs, rate))
		return -ENOMEM;
	core_advance(upstairs);
	slot_drop_doomed(upstairs);
	return 0;
}

void upstairs_scrub_stop(struct upstairs *upstairs)
{
	if (upstairs->scrub)
		upstairs->scrub->next = upstairs->scrub->end = 0;
}

void scrub_status(const struct upstairs *upstairs, struct upstairs_scrub_status *status)
{
	const struct scrub *scrub = upstairs->scrub;
	*status = (struct upstairs_scrub_status){ 0 };
	if (!scrub)
		return;
	status->is_running = scrub->next != scrub->end || scrub->job_id;
	status->done = scrub->next;
	status->all = scrub->end;
	status->passes = scrub->passes;
	status->differing = scrub->differing;
	status->running_for = status->is_running ? upstairs->now - scrub->began : 0;
}

/* Reading */

static bool is_wanted(const struct upstairs *upstairs)
{
	return upstairs->options.scrub_rate && upstairs->state == UPSTAIRS_SERVING;
}

void scrub_advance(struct upstairs *upstairs)
{
	if (is_wanted(upstairs) && upstairs->now >= upstairs->scrub_at) {
		bool is_begun = (upstairs->scrub && upstairs->scrub->next != upstairs->scrub->end) ||
			begin(upstairs, upstairs->options.scrub_rate);
		upstairs->scrub_at = upstairs->now + (is_begun ? upstairs->options.scrub_interval : SCRUB_FIRST_MS);
	}
	struct scrub *scrub = upstairs->scrub;
	if (!scrub || scrub->job_id || scrub->next == scrub->end || upstairs->now < scrub->due ||
		upstairs->state != UPSTAIRS_SERVING || !heal_is_idle(upstairs) || !heal_may_ask(upstairs))
		return;
	uint64_t left = upstairs->region.extent_size - scrub->next % upstairs->region.extent_size;
	uint64_t most = stretch_max(upstairs);
	struct job *job = job_new(upstairs, JOB_READ, scrub->next, left < most ? left : most);
	if (!job)
		return; /* another time */
	scrub->job_id = job->id;
	scrub->start = job->start;
	scrub->count = job->count;
	if (scrub->rate)
		scrub->due = upstairs->now + job->count * upstairs->region.block_size * 1000 / scrub->rate + 1;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		scrub->states[i] = COPY_NONE;
		if (upstairs->slots[i].phase != SLOT_COUNTED)
			continue;
		job_send(upstairs, job, i);
		scrub->states[i] = job->states[i] == JOB_SENT ? COPY_AWAITED : COPY_LOST;
	}
}

uint64_t scrub_deadline(const struct upstairs *upstairs)
{
	const struct scrub *scrub = upstairs->scrub;
	uint64_t begins = is_wanted(upstairs) ? upstairs->scrub_at : UINT64_MAX;
	bool waits = scrub && scrub->next != scrub->end && !scrub->job_id && upstairs->state == UPSTAIRS_SERVING &&
		scrub->due > upstairs->now;
	return waits && scrub->due < begins ? scrub->due : begins;
}

bool scrub_expects(const struct upstairs *upstairs, const struct job *job)
{
	return upstairs->scrub && upstairs->scrub->job_id == job->id;
}

/* Comparing */

static bool has_state(const struct scrub *scrub, enum copy_state state)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (scrub->states[i] == state)
			return true;
	}
	return false;
}

static bool copies_agree(const struct upstairs *upstairs, uint64_t block)
{
	const struct verdict *first = NULL;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct verdict *verdict = verdict_of(upstairs, i, block);
		if (upstairs->scrub->states[i] != COPY_READ)
			continue;
		if (!verdict->is_good || (first && !block_same_context(&first->context, &verdict->context)))
			return false;
		first = first ? first : verdict;
	}
	return true;
}

/* Gives what is not right to heal.c. The pass goes on behind it, or at the first block that there was no room for. */
static void conclude(struct upstairs *upstairs)
{
	struct scrub *scrub = upstairs->scrub;
	uint64_t block = 0;
	for (; block < scrub->count; block++) {
		if (copies_agree(upstairs, block))
			continue;
		if (!heal_queue(upstairs, scrub->start + block))
			break;
		scrub->differing++;
	}
	scrub->next = scrub->start + block;
	if (scrub->next < scrub->end)
		return;
	scrub->passes++;
	scrub->next = scrub->end = 0;
	core_report(upstairs, UPSTAIRS_SLOTS, "scrub: all copies have been read and compared in %llu s",
		(unsigned long long)(upstairs->now - scrub->began) / 1000);
}

static void end_stretch(struct upstairs *upstairs, struct job *job)
{
	struct scrub *scrub = upstairs->scrub;
	if (has_state(scrub, COPY_AWAITED))
		return;
	job->is_answered = true;
	scrub->job_id = 0;
	if (has_state(scrub, COPY_LOST) || scrub->next != scrub->start || scrub->next == scrub->end)
		return; /* again; or the pass was stopped */
	conclude(upstairs);
	if (++scrub->stretches % FLUSH_EVERY == 0)
		jobs_flush_unasked(upstairs);
}

void scrub_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	struct read_blocks blocks = blocks_of(message);
	struct read_block block;
	uint64_t number = 0, bad = 0;
	for (; number < job->count && block_next(upstairs, &blocks, &block); number++) {
		struct verdict *verdict = verdict_of(upstairs, index, number);
		verdict->is_good = block_is_good(upstairs, &block);
		verdict->context = block.context;
		bad += !verdict->is_good;
	}
	if (bad > 0) {
		upstairs->slots[index].damaged += bad;
		core_report(upstairs, index, "scrub: %llu damaged blocks from block %llu on", (unsigned long long)bad,
			(unsigned long long)job->start);
	}
	upstairs->scrub->states[index] = COPY_READ;
	job_unsent(upstairs, job, index, JOB_DONE);
	end_stretch(upstairs, job);
	job_free_if_over(upstairs, job);
	jobs_go_on(upstairs);
	heal_advance(upstairs);
	scrub_advance(upstairs);
}

void scrub_lost(struct upstairs *upstairs, struct job *job, unsigned index)
{
	upstairs->scrub->states[index] = COPY_LOST;
	end_stretch(upstairs, job);
}

void scrub_end(struct upstairs *upstairs)
{
	core_release(upstairs, upstairs->scrub);
	upstairs->scrub = NULL;
}
