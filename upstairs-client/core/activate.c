/* activate.c: which slots a start trusts (design 6.7 and 6.8), and the fence (6.9).
 *
 * With an intact history under an unchanged record the named slots come back by replay. Otherwise the versions
 * decide: the sources are the slots in sync that show what the record says they must, and what differs is mended
 * from them. In both cases one block is then rewritten on every slot of the activation and flushed, so that our
 * generation is on their disks, and the record is stored. Only then is anything answered.
 */
#include <string.h>
#include <xxhash.h>

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

static struct crucible_block_context context_of(const struct crucible_read_context *read, const void *data,
	size_t size)
{
	struct crucible_block_context context = {
		.hash = read->hash,
		.is_encrypted = read->kind == CRUCIBLE_BLOCK_ENCRYPTED,
		.encryption = read->encryption,
	};
	if (context.is_encrypted) {
		XXH64_state_t *state = XXH64_createState();
		XXH64_reset(state, 0);
		XXH64_update(state, &read->encryption, sizeof read->encryption);
		XXH64_update(state, data, size);
		context.hash = XXH64_digest(state);
		XXH64_freeState(state);
	}
	return context;
}

static void fence_read(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i])
			upstairs->slots[i].phase = SLOT_JOINING;
	}
	struct job *job = job_new(upstairs, JOB_READ, 0, 1);
	if (!job)
		return; /* the next tick tries again */
	upstairs->fence = FENCE_READ;
	upstairs->fence_job = job->id;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i]) {
			job_send(upstairs, job, i);
			return;
		}
	}
}

bool activate_fill(struct upstairs *upstairs, struct history_entry *entry, const struct crucible_message *message)
{
	struct crucible_read_contexts rest = message->read_response.contexts;
	struct crucible_read_context read;
	size_t size = upstairs->region.block_size;
	if (!crucible_next_read_context(&rest, &read))
		return false;
	if (read.kind == CRUCIBLE_BLOCK_EMPTY) {
		memset(history_data(entry), 0, size);
		upstairs->environment.seal_zeros(
			upstairs->environment.context, history_data(entry), history_contexts(entry));
		return true;
	}
	memcpy(history_data(entry), message->read_response.data.bytes, size);
	*history_contexts(entry) = context_of(&read, history_data(entry), size);
	/* a write with a wrong hash would wedge the downstairs for good (trap T1) */
	return (read.kind == CRUCIBLE_BLOCK_ENCRYPTED) == upstairs->options.encrypted &&
		(upstairs->options.encrypted || read.hash == XXH64(history_data(entry), size, 0));
}

struct history_entry *activate_spare_entry(struct upstairs *upstairs, uint64_t block)
{
	struct history_entry *entry = upstairs->spare_entry;
	size_t size = sizeof *entry + sizeof(struct crucible_block_context) + upstairs->region.block_size;
	if (!entry)
		upstairs->spare_entry = entry = core_allocate(upstairs, size);
	if (entry)
		*entry = (struct history_entry){
			.number = history_end(&upstairs->history), .size = size, .start = block, .count = 1
		};
	return entry;
}

/* Room for the fence: in the history or, as its slots may be the very ones that keep that full, beside it. The fence
 * changes nothing, so a slot that comes back later need not get it. */
static struct history_entry *fence_entry(struct upstairs *upstairs)
{
	jobs_trim(upstairs);
	struct history_entry *entry = history_reserve(&upstairs->history, 0, 1);
	return entry ? entry : activate_spare_entry(upstairs, 0);
}

void activate_fence_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message)
{
	struct history_entry *entry = fence_entry(upstairs);
	if (!entry) {
		slot_drop(upstairs, index, "out of memory");
		return;
	}
	if (!message || !activate_fill(upstairs, entry, message)) {
		slot_fail(upstairs, index, "the first block cannot be read");
		return;
	}
	job_free(upstairs, job);
	upstairs->fence = FENCE_WRITE;
	struct job *write = jobs_write(upstairs, entry, NULL);
	struct job *flush = write ? jobs_flush(upstairs, NULL) : NULL;
	if (!flush) {
		slot_drop(upstairs, index, "out of memory");
		return;
	}
	flush->is_answered = false; /* it stays until the fence is done */
	upstairs->fence_job = flush->id;
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
	}
	upstairs->fence_covers = flush->covers;
	record.stamped = upstairs->generation;
	record.released = false;
	upstairs->fence = FENCE_RECORD;
	core_store(upstairs, &record);
}

/* The record is stored. From here on, and not before, the history has places: it is what a start under this claim
 * goes by. */
static void serve(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct history_slot *kept = history_slot(&upstairs->history, i);
		if (upstairs->in_activation[i]) {
			upstairs->slots[i].phase = SLOT_COUNTED;
			kept->must_show = upstairs->generation;
			kept->place = upstairs->fence_covers;
		} else if (!upstairs->resumes) {
			kept->place = 0; /* it comes back later, and not by what was before this start */
		}
		upstairs->in_activation[i] = false;
	}
	upstairs->fence = FENCE_NONE;
	upstairs->resumes = false;
	core_set_state(upstairs, UPSTAIRS_SERVING);
	jobs_try_answers(upstairs);
}

/* With a history */

static void resume(struct upstairs *upstairs)
{
	unsigned ready = 0, named = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		named += slot->is_named;
		if (slot->phase == SLOT_PRESENT && slot->is_named && replay_is_possible(upstairs, i) &&
			!replay_begin(upstairs, i))
			slot_drop(upstairs, i, "out of memory");
		ready += slot->phase == SLOT_JOINING;
	}
	bool waited = upstairs->now - upstairs->activation_began >= upstairs->options.wait_for_named;
	if (ready < 2 || (ready < named && !waited))
		return;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		upstairs->in_activation[i] = upstairs->slots[i].phase == SLOT_JOINING;
	fence_read(upstairs);
}

/* Without one */

static unsigned count(const bool which[UPSTAIRS_SLOTS])
{
	return (unsigned)which[0] + which[1] + which[2];
}

/* The sources, and whether they and the present slots are enough (design 6.8). */
static bool choose(struct upstairs *upstairs, bool is_source[UPSTAIRS_SLOTS])
{
	const struct upstairs_record *record = &upstairs->record;
	bool present[UPSTAIRS_SLOTS], old[UPSTAIRS_SLOTS], missing = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		present[i] = upstairs->slots[i].phase == SLOT_PRESENT && !upstairs->slots[i].lies;
		is_source[i] = present[i] && (!record->exists ||
			(record->in_sync[i] && upstairs->slots[i].shown >= record->stamped));
		old[i] = present[i] && record->exists && record->in_sync[i] && !is_source[i];
		missing = missing || (!present[i] && (record->in_sync[i] || !record->exists));
	}
	if (!record->exists)
		return count(present) == UPSTAIRS_SLOTS;
	bool waited = upstairs->now - upstairs->activation_began >= upstairs->options.wait_for_named;
	if (missing && !waited)
		return false;
	if (count(is_source) == 0 && count(old) > 0 && !missing) {
		core_refuse(upstairs, "the regions are older than the claim: restored from a backup, or wiped?");
		return false;
	}
	return count(is_source) >= (count(record->in_sync) == UPSTAIRS_SLOTS ? 2 : 1) && count(present) >= 2;
}

/* Sources only; beside a single one another slot, onto which everything is mended. */
static void form(struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS])
{
	unsigned members = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		upstairs->in_activation[i] = is_source[i];
		members += is_source[i];
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && members < 2; i++) {
		if (!is_source[i] && upstairs->slots[i].phase == SLOT_PRESENT && !upstairs->slots[i].lies) {
			upstairs->in_activation[i] = true;
			members++;
		}
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->in_activation[i])
			upstairs->slots[i].phase = SLOT_MENDING;
	}
}

static void begin(struct upstairs *upstairs)
{
	bool is_source[UPSTAIRS_SLOTS];
	if (!choose(upstairs, is_source))
		return;
	form(upstairs, is_source);
	int status = mend_begin(upstairs, is_source);
	if (status < 0)
		activate_again(upstairs);
	else if (status == 1)
		fence_read(upstairs);
}

static bool has_begun(const struct upstairs *upstairs)
{
	return count(upstairs->in_activation) > 0;
}

void activate_advance(struct upstairs *upstairs)
{
	if (upstairs->is_storing)
		return;
	if (upstairs->fence == FENCE_RECORD)
		serve(upstairs);
	else if (upstairs->fence != FENCE_NONE)
		fence_advance(upstairs);
	else if (upstairs->mend)
		return;
	else if (has_begun(upstairs))
		fence_read(upstairs);
	else if (upstairs->resumes)
		resume(upstairs);
	else
		begin(upstairs);
}
