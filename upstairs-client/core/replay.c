/* replay.c: a slot comes back by the history (design 6.6).
 *
 * Sent is, per block, only the last write behind the slot's place, so that the writes do not overlap and need no
 * order; then a flush behind all of them. Every job that was under way is in the history, so that the slot's
 * answer to the flush means that it has done these too. Jobs that come meanwhile are sent behind the flush.
 */
#include <string.h>

#include "core/core-internal.h"

/* The blocks that are done: newer entries come first, so a block is taken the first time it is met. */
struct block_set {
	uint64_t *blocks; /* number + 1; 0: free */
	uint64_t mask;
};

static bool add_block(struct block_set *set, uint64_t block)
{
	uint64_t at = block * UINT64_C(0x9e3779b97f4a7c15) >> 20;
	for (at &= set->mask; set->blocks[at]; at = (at + 1) & set->mask) {
		if (set->blocks[at] == block + 1)
			return false;
	}
	set->blocks[at] = block + 1;
	return true;
}

bool replay_is_possible(struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	const struct history_slot *kept = history_slot(&upstairs->history, index);
	if (slot->lies || kept->place == 0 || kept->place < history_begin(&upstairs->history) ||
		slot->shown < kept->must_show)
		return false;
	/* what the record names shows what it says, and a replay of nothing would not change what this slot shows */
	return slot->is_named || slot->shown >= upstairs->record.stamped || kept->place < history_end(&upstairs->history);
}

static bool send_run(struct upstairs *upstairs, unsigned index, const struct history_entry *entry, uint64_t start,
	uint64_t count)
{
	struct job *job = job_new(upstairs, JOB_REPLAY, start, count);
	if (!job)
		return false;
	job->entry = entry;
	job->is_answered = true; /* nobody waits for it */
	job_send(upstairs, job, index);
	if (job->states[index] == JOB_SENT)
		return true;
	job_free(upstairs, job);
	return false;
}

/* The stretches of the entry that no newer entry has written. */
static bool send_entry(struct upstairs *upstairs, unsigned index, const struct history_entry *entry,
	struct block_set *done)
{
	uint64_t from = 0;
	for (uint64_t i = 0; i <= entry->count; i++) {
		if (i < entry->count && add_block(done, entry->start + i))
			continue;
		if (i > from && !send_run(upstairs, index, entry, entry->start + from, i - from))
			return false;
		from = i + 1;
	}
	return true;
}

static bool make_set(struct upstairs *upstairs, uint64_t place, struct block_set *set)
{
	uint64_t blocks = 0, room = 64;
	const struct history_entry *entry = history_newest(&upstairs->history);
	for (; entry && entry->number >= place; entry = history_before(&upstairs->history, entry))
		blocks += entry->count;
	while (room < 2 * blocks)
		room *= 2;
	set->mask = room - 1;
	set->blocks = core_allocate(upstairs, room * sizeof *set->blocks);
	if (set->blocks)
		memset(set->blocks, 0, room * sizeof *set->blocks);
	return set->blocks;
}

/* Is the job, where it was not sent, as good as done with a replay or a copy and the flush behind it? */
static bool is_covered(const struct job *job)
{
	return job->kind == JOB_WRITE || job->kind == JOB_FLUSH || job->kind == JOB_NO_OP;
}

/* What is under way elsewhere is part of what is replayed. */
static void cover_jobs(struct upstairs *upstairs, unsigned index)
{
	struct job *job;
	LIST_FOR_EACH(job, &upstairs->jobs, all_link)
	{
		if (is_covered(job) && job->states[index] == JOB_NOT_SENT)
			job->states[index] = JOB_COVERED;
	}
}

bool replay_begin(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	uint64_t place = history_slot(&upstairs->history, index)->place;
	struct block_set done;
	if (!make_set(upstairs, place, &done))
		return false;
	slot->phase = SLOT_REPLAY;
	cover_jobs(upstairs, index);
	bool sent = true;
	const struct history_entry *entry = history_newest(&upstairs->history);
	for (; sent && entry && entry->number >= place;
		 entry = history_before(&upstairs->history, entry))
		sent = send_entry(upstairs, index, entry, &done);
	core_release(upstairs, done.blocks);
	return sent && (slot->phase != SLOT_REPLAY || replay_flush(upstairs, index));
}

bool replay_flush(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	struct job *flush = job_new(upstairs, JOB_FLUSH, 0, 0);
	if (!flush)
		return false;
	flush->flush_number = core_next_flush_number(upstairs);
	flush->covers = history_end(&upstairs->history);
	flush->is_answered = true;
	slot->replay_flush = flush->id;
	job_send(upstairs, flush, index);
	if (flush->states[index] == JOB_SENT)
		return true;
	job_free(upstairs, flush);
	return false;
}

void replay_flushed(struct upstairs *upstairs, struct job *flush, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	struct history_slot kept = *history_slot(&upstairs->history, index);
	kept.place = flush->covers;
	kept.lies = 0;
	if (kept.must_show < slot->shown)
		kept.must_show = slot->shown;
	history_set_slot(&upstairs->history, index, &kept);
	slot->replay_flush = 0;
	struct job *job;
	LIST_FOR_EACH(job, &upstairs->jobs, all_link)
	{
		/* in a repair: what was not sent to it has been copied with its extent */
		bool is_before = is_covered(job) && job->id < flush->id;
		if (job->states[index] == JOB_COVERED || (is_before && job->states[index] == JOB_NOT_SENT))
			job->states[index] = JOB_DONE;
	}
	slot->lies = false; /* if it did, it has been copied as a whole */
	slot->phase = SLOT_JOINING;
	core_advance(upstairs);
	jobs_try_answers(upstairs);
}
