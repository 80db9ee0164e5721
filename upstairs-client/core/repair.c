/* repair.c: live repair: a slot that the history does not reach is copied, extent by extent, while guests go on
 * (design 6.6, crucible-protocol.md section 7).
 *
 * Per extent four jobs, whose ids are reserved together: close, copy, no-op, reopen. The reopen is sent first and
 * waits in the downstairs for the no-op, so that requests for the extent can be sent behind it at once; each other
 * step is sent when all have done the one before. The no-op is there so that nobody reopens before the copy has
 * ended everywhere.
 *
 *  1. The target gets the blocks of a write that lie in extents up to the one under repair, and nothing of the
 *     rest, which will be copied later. So no request ever has to wait for an extent that is not reached.
 *  2. A flush to the target is limited to these extents: the others would look healthy otherwise (trap T3).
 *  3. Whoever was sent the reopen, and is still connected, is sent the other three, as no-ops if the target or the
 *     source is gone: others depend on the reopen (trap T16). Nobody else is: its jobs would wait for ever.
 *  4. A flush between close and reopen would kill a downstairs that wrote the extent since the last one: flushes run
 *     after the reopen, as everything does that comes behind it.
 *  5. The extent is closed for everybody until the target has opened it again. So a target that all others wait for is
 *     given up: soon, but for a copy, for which it has as long as a downstairs itself gives a download, and some more.
 *  6. After the last extent a flush without limit; the target joins when it has acknowledged it.
 */
#include "core/core-internal.h"

enum { COPY_MAX_MS = 20000 };
enum repair_step { REPAIR_CLOSE, REPAIR_COPY, REPAIR_NO_OP, REPAIR_REOPEN, REPAIR_STEPS };

struct repair {
	unsigned target, source;
	uint32_t extent;
	enum repair_step step;
	struct job *jobs[REPAIR_STEPS];
	struct version closed[UPSTAIRS_SLOTS]; /* what the close has shown */
	struct version highest;                /* stamp of the target before the repair */
	bool is_aborted;
	bool copies;       /* the extent, as against only comparing it */
	uint64_t asked_at; /* by core_clock(): for the copy */
	uint64_t began_at; /* ms */
	uint64_t step_at;  /* ms: the present step was sent */
};

/* Was it sent the reopen, on the connection that it has now? */
static bool takes_part(const struct repair *repair, unsigned index)
{
	enum job_state state = repair->jobs[REPAIR_REOPEN]->states[index];
	return state == JOB_SENT || state == JOB_DONE;
}

static bool is_still_there(const struct upstairs *upstairs, unsigned index, enum slot_phase phase)
{
	return upstairs->slots[index].phase == phase && takes_part(upstairs->repair, index);
}

/* The counted slots close the extent too, so that their numbers stay the same. One that replays does not, or it would
 * never have done everything that it was sent. */
static bool shall_take_part(const struct upstairs *upstairs, unsigned index)
{
	enum slot_phase phase = upstairs->slots[index].phase;
	return phase == SLOT_COUNTED || (phase == SLOT_REPAIR && index == upstairs->repair->target);
}

static struct crucible_message message_of(const struct upstairs *upstairs, const struct repair *repair,
	enum repair_step step, unsigned index, uint64_t flush_number)
{
	struct crucible_message message = {
		.type = CRUCIBLE_EXTENT_LIVE_NO_OP,
		.job = core_job(upstairs, index, repair->jobs[step]->id),
	};
	switch (step) {
	case REPAIR_CLOSE:
		if (index == repair->target) {
			message.type = CRUCIBLE_EXTENT_LIVE_CLOSE;
			message.live_extent.extent_id = repair->extent;
		} else {
			message.type = CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE;
			message.live_flush_close.extent_id = repair->extent;
			message.live_flush_close.flush_number = flush_number;
			message.live_flush_close.generation = upstairs->generation;
		}
		break;
	case REPAIR_REOPEN:
		message.type = CRUCIBLE_EXTENT_LIVE_REOPEN;
		message.live_extent.extent_id = repair->extent;
		break;
	case REPAIR_COPY:
	case REPAIR_NO_OP:
	case REPAIR_STEPS:
		break;
	}
	return message;
}

/* Numbers alone do not show what a power loss inside the target's last flush has torn. */
static bool needs_copy(const struct upstairs *upstairs, const struct repair *repair)
{
	const struct version *target = &repair->closed[repair->target], *source = &repair->closed[repair->source];
	return upstairs->slots[repair->target].lies || target->dirty || target->generation != source->generation ||
		target->flush_number != source->flush_number ||
		(target->generation == repair->highest.generation &&
			target->flush_number == repair->highest.flush_number);
}

/* Sends a step. The order of sending differs from that of the ids only for the reopen. */
static void send_step(struct upstairs *upstairs, enum repair_step step)
{
	struct repair *repair = upstairs->repair;
	uint64_t before = step > REPAIR_CLOSE ? repair->jobs[step - 1]->id : 0;
	uint64_t flush_number = step == REPAIR_CLOSE ? core_next_flush_number(upstairs) : 0;
	repair->step_at = upstairs->now;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && upstairs->repair == repair; i++) {
		if (step == REPAIR_REOPEN ? !shall_take_part(upstairs, i) : !takes_part(repair, i))
			continue;
		struct crucible_message message = message_of(upstairs, repair, step, i, flush_number);
		if (step == REPAIR_COPY && i == repair->target && !repair->is_aborted && needs_copy(upstairs, repair)) {
			repair->copies = true;
			repair->asked_at = core_clock(upstairs);
			message.type = CRUCIBLE_EXTENT_LIVE_REPAIR;
			message.live_repair.extent_id = repair->extent;
			message.live_repair.source_slot = (uint8_t)repair->source;
			message.live_repair.source_address = upstairs->slots[repair->source].repair_address;
		}
		if (before)
			message.dependencies = (struct crucible_u64s){ &before, 1 };
		job_send_repair(upstairs, repair->jobs[step], i, &message, step == REPAIR_CLOSE);
	}
}

static void end_jobs(struct upstairs *upstairs)
{
	struct repair *repair = upstairs->repair;
	for (unsigned i = 0; i < REPAIR_STEPS; i++) {
		if (repair->jobs[i])
			job_free(upstairs, repair->jobs[i]);
		repair->jobs[i] = NULL;
	}
}

static void end(struct upstairs *upstairs)
{
	end_jobs(upstairs);
	core_release(upstairs, upstairs->repair);
	upstairs->repair = NULL;
}

static void give_up(struct upstairs *upstairs, const char *why)
{
	unsigned target = upstairs->repair->target;
	upstairs->repair->is_aborted = true;
	if (upstairs->slots[target].phase == SLOT_REPAIR)
		slot_drop_for(upstairs, target, UPSTAIRS_TROUBLE_LOST, why);
}

static bool is_waited_for(const struct repair *repair)
{
	const struct job *job = repair->jobs[repair->step];
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (i != repair->target && job->states[i] == JOB_SENT)
			return false;
	}
	return job->states[repair->target] == JOB_SENT;
}

void repair_tick(struct upstairs *upstairs)
{
	struct repair *repair = upstairs->repair;
	if (!repair || repair->is_aborted || !is_waited_for(repair))
		return;
	bool copies = repair->step == REPAIR_COPY && repair->copies;
	if (upstairs->now - repair->step_at >= (copies ? COPY_MAX_MS : upstairs->options.leave_after)) {
		repair->is_aborted = true;
		slot_drop_for(upstairs, repair->target, UPSTAIRS_TROUBLE_SLOW, "does not answer in a repair, and others have");
	}
}

static bool begin_extent(struct upstairs *upstairs)
{
	struct repair *repair = upstairs->repair;
	uint64_t size = upstairs->region.extent_size;
	for (unsigned i = 0; i < REPAIR_STEPS; i++) {
		repair->jobs[i] = job_new(upstairs, JOB_REPAIR, repair->extent * size, size);
		if (!repair->jobs[i])
			return false;
	}
	repair->step = REPAIR_CLOSE;
	upstairs->slots[repair->target].repaired_to = (repair->extent + 1) * size;
	send_step(upstairs, REPAIR_REOPEN);
	if (upstairs->repair == repair)
		send_step(upstairs, REPAIR_CLOSE);
	return true;
}

/* Everything is copied: a flush without limit. */
static void finish(struct upstairs *upstairs)
{
	unsigned target = upstairs->repair->target;
	end(upstairs);
	upstairs->slots[target].repaired_to = UINT64_MAX;
	if (!replay_flush(upstairs, target))
		slot_drop_for(upstairs, target, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
}

/* Nobody has the step still to do. */
static bool is_step_over(const struct job *job)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (job->states[i] == JOB_SENT)
			return false;
	}
	return true;
}

/* Without source or target there is nothing to wait for: a target may try to reach a dead source for 15 s, and the extent
 * is closed everywhere meanwhile. */
static void look_at_ends(struct upstairs *upstairs)
{
	struct repair *repair = upstairs->repair;
	if (!repair->is_aborted && !is_still_there(upstairs, repair->source, SLOT_COUNTED))
		give_up(upstairs, "the slot that it is copied from is gone");
	if (!repair->is_aborted && !is_still_there(upstairs, repair->target, SLOT_REPAIR))
		repair->is_aborted = true;
}

void repair_advance(struct upstairs *upstairs)
{
	struct repair *repair = upstairs->repair;
	if (repair)
		look_at_ends(upstairs);
	while (repair && upstairs->repair == repair && is_step_over(repair->jobs[repair->step])) {
		look_at_ends(upstairs);
		if (repair->step == REPAIR_COPY && repair->copies && !repair->is_aborted)
			recovery_copied(upstairs, repair->asked_at);
		repair->copies = false;
		if (repair->step < REPAIR_REOPEN) {
			/* the reopen is under way since the beginning */
			if (++repair->step < REPAIR_REOPEN)
				send_step(upstairs, repair->step);
			continue;
		}
		end_jobs(upstairs);
		if (!repair->is_aborted && upstairs->slots[repair->target].shown < repair->closed[repair->source].generation)
			upstairs->slots[repair->target].shown = repair->closed[repair->source].generation;
		if (repair->is_aborted) {
			end(upstairs);
		} else if (++repair->extent == upstairs->region.extent_count) {
			finish(upstairs);
		} else if (!begin_extent(upstairs)) {
			give_up(upstairs, "out of memory");
			end(upstairs);
		}
	}
}

static struct version highest_of(const struct upstairs *upstairs, const struct slot *slot)
{
	struct version highest = { 0 };
	for (uint32_t i = 0; i < upstairs->region.extent_count; i++) {
		const struct version *version = &slot->versions[i];
		if (version->generation > highest.generation ||
			(version->generation == highest.generation && version->flush_number > highest.flush_number))
			highest = *version;
	}
	return highest;
}

void repair_begin_if_wanted(struct upstairs *upstairs)
{
	unsigned target = UPSTAIRS_SLOTS, source = UPSTAIRS_SLOTS;
	if (upstairs->repair || upstairs->is_storing)
		return;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		/* one that is named has lied, or it could replay; it must not count again before the record says so */
		bool may = !slot->is_named || upstairs->record.full_copy[i];
		if (slot->phase == SLOT_PRESENT && may && !replay_is_possible(upstairs, i))
			target = i;
		else if (slot->phase == SLOT_COUNTED)
			source = i;
		else if (slot->phase == SLOT_REPLAY || slot->phase == SLOT_JOINING)
			return; /* one at a time */
	}
	if (target == UPSTAIRS_SLOTS || source == UPSTAIRS_SLOTS)
		return;
	struct repair *repair = core_allocate(upstairs, sizeof *repair);
	if (!repair)
		return;
	*repair = (struct repair){
		.target = target,
		.source = source,
		.began_at = upstairs->now,
		.highest = highest_of(upstairs, &upstairs->slots[target]),
	};
	upstairs->repair = repair;
	/* no flush that it acknowledges meanwhile gives it a place: these are limited */
	struct history_slot kept = *history_slot(&upstairs->history, target);
	kept.place = kept.must_show = 0;
	history_set_slot(&upstairs->history, target, &kept);
	upstairs->slots[target].shown = 0; /* what the copies show */
	upstairs->slots[target].phase = SLOT_REPAIR;
	core_report(upstairs, target, "is copied from slot %u", source);
	if (!begin_extent(upstairs)) {
		give_up(upstairs, "out of memory");
		end(upstairs);
	}
}

void repair_answer(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message)
{
	struct repair *repair = upstairs->repair;
	bool failed = message->type == CRUCIBLE_EXTENT_LIVE_CLOSE_ACK ? message->live_close_ack.result.failed
																  : message->ack.failed;
	if (failed) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_ERRORS, "a step of the repair failed");
		return;
	}
	if (message->type == CRUCIBLE_EXTENT_LIVE_CLOSE_ACK)
		repair->closed[index] = (struct version){
			.generation = message->live_close_ack.generation,
			.flush_number = message->live_close_ack.flush_number,
			.dirty = message->live_close_ack.dirty,
		};
	job_unsent(upstairs, job, index, JOB_DONE);
	core_advance(upstairs);
}

bool repair_expects(const struct upstairs *upstairs, const struct job *job, enum crucible_message_type type)
{
	const struct repair *repair = upstairs->repair;
	if (job == repair->jobs[REPAIR_CLOSE])
		return type == CRUCIBLE_EXTENT_LIVE_CLOSE_ACK;
	if (job == repair->jobs[REPAIR_COPY])
		return type == CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID || type == CRUCIBLE_EXTENT_LIVE_ACK_ID;
	return type == CRUCIBLE_EXTENT_LIVE_ACK_ID;
}

struct job *repair_reopen(const struct upstairs *upstairs)
{
	return upstairs->repair ? upstairs->repair->jobs[REPAIR_REOPEN] : NULL;
}

bool repair_flushes(const struct upstairs *upstairs, const struct job *job)
{
	return upstairs->repair && job == upstairs->repair->jobs[REPAIR_CLOSE];
}

void repair_describe(const struct upstairs *upstairs, unsigned index, struct upstairs_slot_status *status)
{
	const struct repair *repair = upstairs->repair;
	if (!repair || repair->target != index || upstairs->slots[index].phase != SLOT_REPAIR)
		return;
	uint64_t elapsed = upstairs->now - repair->began_at;
	status->repaired = repair->extent;
	status->to_repair = upstairs->region.extent_count;
	if (repair->extent == 0)
		return;
	uint64_t each = elapsed / repair->extent + 1; /* ms */
	status->repair_rate = upstairs->region.extent_size * upstairs->region.block_size / each * 1000;
	status->repair_left = (status->to_repair - status->repaired) * each / 1000 + 1;
}

void repair_forget(struct upstairs *upstairs)
{
	if (upstairs->repair)
		end(upstairs);
}
