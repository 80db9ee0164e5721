/* heal.c: a block that one copy has damaged and others have not is written again (design 6.11).
 *
 *  1. The block's range is taken first: guest writes to it wait (heal_holds()). So what is read then is the newest
 *     there is, and nothing newer can be overwritten by it.
 *  2. It is read from every counted slot behind all that was sent before. If the good copies agree, one of them is
 *     written as any write is, to all slots, in the history, and in the dependency map: the range is free again as soon
 *     as that is sent.
 *  3. Good copies that differ, other than in how they say zeros, are reported and left alone: nobody knows which one is
 *     right. So are blocks of which a good copy says that they were never written, unless the damaged ones say so too:
 *     no hash protects that.
 */
#include <stdio.h>
#include <string.h>

#include "core/core-internal.h"

enum { QUEUE_MAX = 64, TRIES_MAX = 3 };

enum copy_state { COPY_NONE, COPY_AWAITED, COPY_GOOD, COPY_BAD, COPY_LOST };

struct copy {
	enum copy_state state;
	bool has_context;
	struct crucible_read_context context;
	uint8_t *data;
};

struct heal {
	uint64_t queue[QUEUE_MAX]; /* blocks to look at; more are found again when they are read again */
	unsigned queued;
	uint64_t job_id; /* of the reads under way; 0: none */
	uint64_t block;
	unsigned tries;
	struct copy copies[UPSTAIRS_SLOTS];
	uint8_t data[];
};

static bool prepare(struct upstairs *upstairs)
{
	uint64_t size = upstairs->region.block_size;
	if (upstairs->heal)
		return true;
	struct heal *heal = core_allocate(upstairs, sizeof *heal + UPSTAIRS_SLOTS * size);
	if (!heal)
		return false;
	*heal = (struct heal){ .queued = 0 };
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		heal->copies[i].data = heal->data + i * size;
	upstairs->heal = heal;
	return true;
}

bool heal_queue(struct upstairs *upstairs, uint64_t block)
{
	if (!prepare(upstairs))
		return false;
	struct heal *heal = upstairs->heal;
	for (unsigned i = 0; i < heal->queued; i++) {
		if (heal->queue[i] == block)
			return true;
	}
	if (heal_holds(upstairs, block, 1))
		return true;
	if (heal->queued == QUEUE_MAX)
		return false;
	heal->queue[heal->queued++] = block;
	return true;
}

bool heal_is_idle(const struct upstairs *upstairs)
{
	return !upstairs->heal || (upstairs->heal->queued == 0 && !upstairs->heal->job_id);
}

void heal_note(struct upstairs *upstairs, unsigned index, const struct job *job, const struct crucible_message *message)
{
	struct read_blocks blocks = blocks_of(message);
	struct read_block block;
	uint64_t first = 0, found = 0;
	for (uint64_t number = job->start; block_next(upstairs, &blocks, &block); number++) {
		if (block_is_good(upstairs, &block))
			continue;
		if (found++ == 0)
			first = number;
		heal_queue(upstairs, number);
	}
	upstairs->slots[index].damaged += found;
	core_report(upstairs, index, "block %llu and %llu of those behind it are damaged: another copy is read",
		(unsigned long long)first, (unsigned long long)found - 1);
}

bool heal_may_ask(const struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		if (slot->doomed || (slot->is_named && slot->phase != SLOT_COUNTED))
			return false;
	}
	return jobs_are_answered(upstairs) && !upstairs->is_storing;
}

void heal_advance(struct upstairs *upstairs)
{
	struct heal *heal = upstairs->heal;
	if (!heal || heal->job_id || heal->queued == 0 || !heal_may_ask(upstairs))
		return;
	struct job *job = job_new(upstairs, JOB_READ, heal->queue[0], 1);
	if (!job)
		return; /* another time */
	if (heal->block != heal->queue[0])
		heal->tries = 0;
	heal->block = heal->queue[0];
	memmove(heal->queue, heal->queue + 1, --heal->queued * sizeof heal->queue[0]);
	heal->job_id = job->id;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		heal->copies[i].state = COPY_NONE;
		if (upstairs->slots[i].phase != SLOT_COUNTED)
			continue;
		job_send(upstairs, job, i);
		heal->copies[i].state = job->states[i] == JOB_SENT ? COPY_AWAITED : COPY_LOST;
	}
}

bool heal_holds(const struct upstairs *upstairs, uint64_t start, uint64_t count)
{
	const struct heal *heal = upstairs->heal;
	return heal && heal->job_id && heal->block >= start && heal->block - start < count;
}

/* What the copies say */

static unsigned number_of(const struct heal *heal, enum copy_state state)
{
	unsigned count = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		count += heal->copies[i].state == state;
	return count;
}

static bool all_good_ones_agree(const struct upstairs *upstairs, unsigned with)
{
	const struct heal *heal = upstairs->heal;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (heal->copies[i].state == COPY_GOOD &&
			(!block_same_context(&heal->copies[i].context, &heal->copies[with].context) ||
				memcmp(heal->copies[i].data, heal->copies[with].data, upstairs->region.block_size) != 0))
			return false;
	}
	return true;
}

/* A block that was never written, and one of zeros, are the same to the guest. A mend may leave such copies. */
static bool all_good_ones_are_zeros(const struct upstairs *upstairs)
{
	const struct heal *heal = upstairs->heal;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (heal->copies[i].state == COPY_GOOD &&
			!upstairs->environment.is_zeros(upstairs->environment.context, &heal->copies[i].context, heal->copies[i].data))
			return false;
	}
	return true;
}

static bool all_bad_ones_are_empty(const struct heal *heal)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct copy *copy = &heal->copies[i];
		if (copy->state == COPY_BAD && (!copy->has_context || copy->context.kind != CRUCIBLE_BLOCK_EMPTY))
			return false;
	}
	return true;
}

static void leave_alone(struct upstairs *upstairs, const char *why)
{
	upstairs->unhealed++;
	core_report(upstairs, UPSTAIRS_SLOTS, "block %llu is not healed: %s",
		(unsigned long long)upstairs->heal->block, why);
}

static bool is_one_empty(const struct heal *heal)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (heal->copies[i].state == COPY_GOOD && heal->copies[i].context.kind == CRUCIBLE_BLOCK_EMPTY)
			return true;
	}
	return false;
}

/* The copy of this slot is written to all. False if there is no room. */
static bool rewrite(struct upstairs *upstairs, unsigned good)
{
	struct heal *heal = upstairs->heal;
	const struct read_block block = { .context = heal->copies[good].context, .data = heal->copies[good].data };
	struct history_entry *entry = history_reserve(&upstairs->history, heal->block, 1);
	if (!entry && jobs_make_room(upstairs))
		entry = history_reserve(&upstairs->history, heal->block, 1);
	if (!entry)
		return false;
	block_fill(upstairs, entry, &block);
	if (!jobs_write(upstairs, entry, NULL))
		return false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (heal->copies[i].state != COPY_BAD)
			continue;
		upstairs->slots[i].healed++;
		core_report(upstairs, i, "block %llu is healed by the copy of slot %u", (unsigned long long)heal->block, good);
	}
	return true;
}

/* False: to be tried again. */
static bool conclude(struct upstairs *upstairs)
{
	const struct heal *heal = upstairs->heal;
	unsigned good = 0;
	if (number_of(heal, COPY_LOST) > 0)
		return false;
	while (good < UPSTAIRS_SLOTS && heal->copies[good].state != COPY_GOOD)
		good++;
	bool agree = good < UPSTAIRS_SLOTS && all_good_ones_agree(upstairs, good);
	if (good == UPSTAIRS_SLOTS)
		leave_alone(upstairs, "every copy of it is damaged");
	else if (!agree && !all_good_ones_are_zeros(upstairs))
		leave_alone(upstairs, "its good copies differ");
	else if (agree && number_of(heal, COPY_BAD) == 0)
		return true; /* the guest has written it meanwhile */
	else if (is_one_empty(heal) && !all_bad_ones_are_empty(heal))
		leave_alone(upstairs, "one copy was written, and others say that it never was");
	else
		return rewrite(upstairs, good);
	return true;
}

/* Every copy has been read, or cannot be. */
static void end_block(struct upstairs *upstairs, struct job *job)
{
	struct heal *heal = upstairs->heal;
	if (number_of(heal, COPY_AWAITED) > 0)
		return;
	bool is_over = conclude(upstairs);
	job->is_answered = true;
	heal->job_id = 0; /* from here on guests may write to it, behind what was just sent */
	if (!is_over && ++heal->tries < TRIES_MAX)
		heal_queue(upstairs, heal->block);
}

bool heal_expects(const struct upstairs *upstairs, const struct job *job)
{
	return upstairs->heal && upstairs->heal->job_id == job->id;
}

void heal_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	struct copy *copy = &upstairs->heal->copies[index];
	struct read_blocks blocks = blocks_of(message);
	struct read_block block;
	copy->state = COPY_BAD;
	copy->has_context = block_next(upstairs, &blocks, &block);
	if (copy->has_context) {
		copy->state = block_is_good(upstairs, &block) ? COPY_GOOD : COPY_BAD;
		copy->context = block.context;
		memcpy(copy->data, block.data, upstairs->region.block_size);
	}
	job_unsent(upstairs, job, index, JOB_DONE);
	end_block(upstairs, job);
	job_free_if_over(upstairs, job);
	jobs_go_on(upstairs);
	heal_advance(upstairs);
	scrub_advance(upstairs);
}

void heal_lost(struct upstairs *upstairs, struct job *job, unsigned index)
{
	upstairs->heal->copies[index].state = COPY_LOST;
	end_block(upstairs, job);
}

void heal_end(struct upstairs *upstairs)
{
	core_release(upstairs, upstairs->heal);
	upstairs->heal = NULL;
}
