/* activate.c: which slots a start trusts (design 6.7 and 6.8), and the fence (6.9).
 *
 * With an intact history under an unchanged record the named slots come back by replay. Otherwise the versions
 * decide: the sources are the slots in sync that show what the record says they must, and what differs is mended
 * from them. In both cases one block is then rewritten on every slot of the activation and flushed, so that our
 * generation is on their disks, and the record is stored. Only then is anything answered.
 */
#include <string.h>

#include "core/core-internal.h"

void activate_again(struct upstairs *upstairs)
{
	if (upstairs->state != UPSTAIRS_ACTIVATING)
		return;
	memset(upstairs->in_activation, 0, sizeof upstairs->in_activation);
	upstairs->fence = FENCE_NONE;
	upstairs->activation_began = upstairs->now;
	mend_end(upstairs);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->slots[i].phase > SLOT_CONNECTING && upstairs->slots[i].phase != SLOT_FAILED)
			slot_drop(upstairs, i, NULL);
	}
	struct job *job, *following;
	LIST_FOR_EACH_SAFE(job, following, &upstairs->jobs, all_link)
		job_free(upstairs, job); /* there are none of the guest yet */
}

/* The fence */

/* Reads the block from the next slot of the activation that was not asked for it. False if there is none. */
static bool fence_ask(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!upstairs->in_activation[i] || upstairs->fence_asked[i])
			continue;
		struct job *job = job_new(upstairs, JOB_READ, upstairs->fence_block, 1);
		if (!job) {
			slot_doom(upstairs, i, "out of memory");
			return true;
		}
		upstairs->fence_asked[i] = true;
		upstairs->fence_job = job->id;
		job_send(upstairs, job, i);
		return true;
	}
	return false;
}

static void fence_begin(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i])
			upstairs->slots[i].phase = SLOT_JOINING;
		upstairs->fence_asked[i] = false;
	}
	holes_begin(upstairs);
	recovery_begin(upstairs);
	upstairs->fence = FENCE_READ;
	upstairs->fence_block = 0;
	upstairs->fence_is_unwritten = false;
	fence_ask(upstairs);
}

/* The block is damaged on every slot: another one of the extent may be good. */
static void fence_next_block(struct upstairs *upstairs)
{
	memset(upstairs->fence_asked, 0, sizeof upstairs->fence_asked);
	if (++upstairs->fence_block == upstairs->region.extent_size)
		core_refuse(upstairs, "no block of the first extent can be read: all are damaged, or the key is another one");
	else
		fence_ask(upstairs);
}

/* Room for the fence: in the history or, as its slots may be the very ones that keep that full, beside it. The fence
 * changes nothing, so a slot that comes back later need not get it. */
static struct history_entry *fence_entry(struct upstairs *upstairs)
{
	jobs_trim(upstairs);
	struct history_entry *entry = history_reserve(&upstairs->history, upstairs->fence_block, 1);
	return entry ? entry : block_entry(upstairs, upstairs->fence_block);
}

/* NULL: zeros. */
static void fence_write(struct upstairs *upstairs, unsigned index, const struct read_block *block)
{
	struct history_entry *entry = fence_entry(upstairs);
	if (!entry) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
		return;
	}
	if (block)
		block_fill(upstairs, entry, block);
	else
		block_fill_zeros(upstairs, entry);
	upstairs->fence = FENCE_WRITE;
	struct job *write = jobs_write(upstairs, entry, NULL);
	struct job *flush = write ? jobs_flush(upstairs, NULL) : NULL;
	if (!flush) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
		return;
	}
	flush->is_answered = false; /* it stays until the fence is done */
	upstairs->fence_job = flush->id;
}

void activate_fence_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message)
{
	struct read_blocks blocks;
	struct read_block block = { .data = NULL };
	job_free(upstairs, job);
	if (message)
		blocks = blocks_of(message);
	if (!message || !block_next(upstairs, &blocks, &block)) {
		slot_drop(upstairs, index, "answers a read as if it were another one");
		return;
	}
	if (block_is_good(upstairs, &block)) {
		fence_write(upstairs, index, &block);
		return;
	}
	if (upstairs->fence_block == 0)
		core_report(upstairs, index, "block 0 is damaged");
	upstairs->fence_is_unwritten = upstairs->fence_is_unwritten ||
		(block.context.kind == CRUCIBLE_BLOCK_EMPTY && upstairs->slots[index].versions[0].generation == 0);
	if (fence_ask(upstairs))
		return;
	if (upstairs->fence_is_unwritten)
		fence_write(upstairs, index, NULL);
	else
		fence_next_block(upstairs);
}

static void fence_advance(struct upstairs *upstairs)
{
	struct job *flush = upstairs->fence == FENCE_WRITE ? job_by_id(upstairs, upstairs->fence_job) : NULL;
	if (!flush)
		return;
	struct upstairs_record record = upstairs->record;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i] && flush->states[i] != JOB_DONE)
			return;
		record.in_sync[i] = upstairs->in_activation[i];
		record.full_copy[i] = !upstairs->in_activation[i] && upstairs->slots[i].lies;
	}
	upstairs->fence_covers = flush->covers;
	record.stamped = upstairs->generation;
	record.released = false;
	upstairs->fence = FENCE_RECORD;
	core_store(upstairs, &record);
}

/* The record is stored. From here on, and not before, the history has places, all of them at once: they are what a
 * start under this claim goes by. */
static void serve(struct upstairs *upstairs)
{
	struct history_slot kept[UPSTAIRS_SLOTS];
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		kept[i] = *history_slot(&upstairs->history, i);
		if (upstairs->in_activation[i]) {
			kept[i] = (struct history_slot){ .place = upstairs->fence_covers, .must_show = upstairs->generation };
			upstairs->slots[i].phase = SLOT_COUNTED;
			upstairs->slots[i].lies = false; /* if it did, it has been copied as a whole */
		} else if (!upstairs->resumes) {
			kept[i].place = 0; /* it comes back later, and not by what was before this start */
		}
		upstairs->in_activation[i] = false;
	}
	history_set_slots(&upstairs->history, kept);
	upstairs->fence = FENCE_NONE;
	upstairs->resumes = false;
	core_set_state(upstairs, UPSTAIRS_SERVING);
	jobs_try_answers(upstairs);
}

/* Who takes part */

static unsigned count(const bool which[UPSTAIRS_SLOTS])
{
	return (unsigned)which[0] + which[1] + which[2];
}

/* Named, and nothing says that its numbers prove nothing. */
static bool is_trusted(const struct upstairs *upstairs, unsigned index)
{
	return upstairs->record.in_sync[index] && !upstairs->slots[index].lies;
}

/* How many sources a start needs (design 6.8); each of them holds all that was acknowledged. */
static unsigned needed(const struct upstairs *upstairs)
{
	unsigned trusted = 0; /* none without a record: all three are there then */
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		trusted += is_trusted(upstairs, i);
	return trusted == UPSTAIRS_SLOTS ? upstairs->options.min_copies : 1;
}

static bool has_waited(const struct upstairs *upstairs)
{
	return upstairs->now - upstairs->activation_began >= upstairs->options.wait_for_named;
}

/* A slot that is there but no source, rather one that has not lied: everything is mended onto it. UPSTAIRS_SLOTS if
 * there is none. */
static unsigned partner(const struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS])
{
	unsigned found = UPSTAIRS_SLOTS;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		if (!is_source[i] && slot->phase == SLOT_PRESENT && (found == UPSTAIRS_SLOTS || !slot->lies))
			found = i;
	}
	return found;
}

/* Sources only; beside a single one another slot, unless one copy is enough. */
static void form(struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS])
{
	memcpy(upstairs->in_activation, is_source, sizeof upstairs->in_activation);
	if (count(is_source) < upstairs->options.min_copies)
		upstairs->in_activation[partner(upstairs, is_source)] = true;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i])
			upstairs->slots[i].phase = SLOT_MENDING;
	}
	int status = mend_begin(upstairs, is_source);
	if (status < 0)
		activate_again(upstairs);
	else if (status == 1)
		fence_begin(upstairs);
}

/* With a history */

/* The named slots replay what they lack, and need no mend. If there is but one that can, because the others are gone
 * or have lied, it is the source for another slot: it holds everything that was acknowledged. */
static void resume(struct upstairs *upstairs)
{
	bool is_ready[UPSTAIRS_SLOTS];
	unsigned trusted = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		trusted += is_trusted(upstairs, i);
		if (slot->phase == SLOT_PRESENT && slot->is_named && replay_is_possible(upstairs, i) &&
			!replay_begin(upstairs, i))
			slot_drop_for(upstairs, i, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
		is_ready[i] = slot->phase == SLOT_JOINING;
	}
	unsigned ready = count(is_ready);
	if (ready < needed(upstairs) || (ready < trusted && !has_waited(upstairs)))
		return;
	if (ready >= upstairs->options.min_copies) {
		memcpy(upstairs->in_activation, is_ready, sizeof is_ready);
		fence_begin(upstairs);
	} else if (partner(upstairs, is_ready) != UPSTAIRS_SLOTS) {
		form(upstairs, is_ready);
	}
}

/* Without one */

/* The sources, and whether they and the present slots are enough (design 6.8). */
static bool choose(struct upstairs *upstairs, bool is_source[UPSTAIRS_SLOTS])
{
	const struct upstairs_record *record = &upstairs->record;
	bool is_old[UPSTAIRS_SLOTS], is_missing = false, names_one = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		bool is_present = slot->phase == SLOT_PRESENT, may = record->exists ? is_trusted(upstairs, i) : !slot->lies;
		is_source[i] = is_present && may && slot->shown >= record->stamped;
		is_old[i] = is_present && may && !is_source[i];
		is_missing = is_missing || (!is_present && (may || !record->exists));
		names_one = names_one || may;
	}
	if (!names_one) {
		core_refuse(upstairs, "no copy is known to be whole: flushes have failed on every one that was in sync");
		return false;
	}
	if (!record->exists && is_missing)
		return false; /* nothing says which of them hold something: all three have to be there */
	if (is_missing && !has_waited(upstairs))
		return false;
	if (count(is_source) == 0 && count(is_old) > 0 && !is_missing) {
		core_refuse(upstairs, "the regions are older than the claim: restored from a backup, or wiped?");
		return false;
	}
	if (count(is_source) < needed(upstairs) ||
		(count(is_source) < upstairs->options.min_copies && partner(upstairs, is_source) == UPSTAIRS_SLOTS))
		return false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (is_old[i])
			slot_lies(upstairs, i); /* rolled back or wiped: it is no copy, whatever its numbers say */
	}
	/* the record first: what is mended onto such a slot would make it look like one before all of it is there */
	return !core_store_lies(upstairs);
}

static void begin(struct upstairs *upstairs)
{
	bool is_source[UPSTAIRS_SLOTS];
	if (choose(upstairs, is_source))
		form(upstairs, is_source);
}

static bool has_begun(const struct upstairs *upstairs)
{
	return count(upstairs->in_activation) > 0;
}

/* A single source is copied as a whole, which takes long; meanwhile a slot that need not be copied has come. */
static bool is_needless(const struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && mend_has_one_source(upstairs); i++) {
		if (!upstairs->in_activation[i] && upstairs->slots[i].phase == SLOT_PRESENT && is_trusted(upstairs, i) &&
			upstairs->slots[i].shown >= upstairs->record.stamped)
			return true;
	}
	return false;
}

void activate_advance(struct upstairs *upstairs)
{
	if (upstairs->is_storing)
		return;
	if (upstairs->fence == FENCE_RECORD)
		serve(upstairs);
	else if (upstairs->fence == FENCE_NONE && core_store_lies(upstairs))
		return;
	else if (upstairs->fence != FENCE_NONE)
		fence_advance(upstairs);
	else if (upstairs->mend && is_needless(upstairs))
		activate_again(upstairs);
	else if (upstairs->mend)
		return;
	else if (has_begun(upstairs))
		fence_begin(upstairs);
	else if (upstairs->resumes)
		resume(upstairs);
	else
		begin(upstairs);
}
