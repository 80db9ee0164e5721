/* core.c: life, state and record of an upstairs, and what it does next whenever something has changed. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/core-internal.h"

void *core_allocate(struct upstairs *upstairs, size_t size)
{
	return upstairs->environment.allocate(upstairs->environment.context, size);
}

void core_release(struct upstairs *upstairs, void *memory)
{
	if (memory)
		upstairs->environment.release(upstairs->environment.context, memory);
}

void core_report(struct upstairs *upstairs, unsigned slot, const char *format, ...)
{
	char text[256];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	upstairs->environment.report(upstairs->environment.context, slot, text);
}

void core_set_state(struct upstairs *upstairs, enum upstairs_state state)
{
	if (upstairs->state == state)
		return;
	upstairs->state = state;
	upstairs->environment.changed(upstairs->environment.context);
}

uint64_t core_next_flush_number(struct upstairs *upstairs)
{
	uint64_t kept = history_flush_number(&upstairs->history);
	if (upstairs->flush_number < kept)
		upstairs->flush_number = kept;
	history_set_flush_number(&upstairs->history, ++upstairs->flush_number);
	upstairs->has_stamped = true;
	return upstairs->flush_number;
}

struct crucible_job core_job(const struct upstairs *upstairs, unsigned slot, uint64_t id)
{
	return (struct crucible_job){
		.upstairs_id = upstairs->slots[slot].upstairs_id,
		.session_id = upstairs->options.session_id,
		.job_id = id,
	};
}

uint64_t core_clock(const struct upstairs *upstairs)
{
	return upstairs->clock ? upstairs->clock : upstairs->now * 1000;
}

unsigned core_counted(const struct upstairs *upstairs)
{
	unsigned count = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		count += upstairs->slots[i].phase == SLOT_COUNTED;
	return count;
}

bool core_counts_enough(const struct upstairs *upstairs)
{
	return core_counted(upstairs) >= upstairs->options.min_copies;
}

static bool is_over(const struct upstairs *upstairs)
{
	return upstairs->state == UPSTAIRS_IDLE || upstairs->state >= UPSTAIRS_RELEASED;
}

/* Ends */

static void disconnect_all(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		upstairs->in_activation[i] = false;
		if (slot->phase >= SLOT_CONNECTING && slot->phase != SLOT_FAILED)
			slot_drop(upstairs, i, NULL);
	}
}

static void stop(struct upstairs *upstairs, enum upstairs_state state)
{
	mend_end(upstairs);
	repair_forget(upstairs);
	core_set_state(upstairs, state);
	jobs_fail_all(upstairs, -EIO); /* before a lost connection sends a read elsewhere */
	heal_end(upstairs);
	scrub_end(upstairs);
	disconnect_all(upstairs);
	core_report(upstairs, UPSTAIRS_SLOTS, "%s", upstairs->reason);
}

void core_fence(struct upstairs *upstairs, const char *format, ...)
{
	va_list args;
	if (is_over(upstairs))
		return;
	va_start(args, format);
	vsnprintf(upstairs->reason, sizeof upstairs->reason, format, args);
	va_end(args);
	stop(upstairs, UPSTAIRS_FENCED);
}

void core_refuse(struct upstairs *upstairs, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(upstairs->reason, sizeof upstairs->reason, format, args);
	va_end(args);
	stop(upstairs, UPSTAIRS_REFUSED);
}

void upstairs_fence(struct upstairs *upstairs, const char *why)
{
	core_fence(upstairs, "%s", why);
}

/* The record */

void core_store(struct upstairs *upstairs, const struct upstairs_record *record)
{
	upstairs->storing = *record;
	upstairs->storing.exists = true;
	upstairs->is_storing = true;
	upstairs->storing_since = upstairs->now;
	upstairs->store_again_at = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		if (record->in_sync[i])
			slot->is_named = true; /* invariant 3 */
		/* not before it has been looked at as a whole: replace_refuses() */
		if (slot->has_region && slot->phase >= SLOT_PRESENT && slot->phase != SLOT_FAILED)
			upstairs->storing.regions[i] = slot->region;
	}
	upstairs->environment.store_record(upstairs->environment.context, &upstairs->storing);
}

/* Does the record not say yet what the slot is? */
static bool is_news(const struct upstairs *upstairs, unsigned index)
{
	return !upstairs->slots[index].is_named || upstairs->record.full_copy[index];
}

void upstairs_record_stored(struct upstairs *upstairs, enum upstairs_stored outcome)
{
	if (!upstairs->is_storing || is_over(upstairs))
		return;
	if (outcome == UPSTAIRS_SUPERSEDED) {
		core_fence(upstairs, "the claim record is no longer ours");
		return;
	}
	if (outcome == UPSTAIRS_UNKNOWN) {
		upstairs->store_again_at = upstairs->now + RECORD_RETRY_MS;
		return;
	}
	upstairs->is_storing = false;
	upstairs->record = upstairs->storing;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		slot->is_named = upstairs->record.in_sync[i];
		if (!is_news(upstairs, i) && slot->phase == SLOT_JOINING && upstairs->state != UPSTAIRS_ACTIVATING)
			slot->phase = SLOT_COUNTED;
	}
	replace_stored(upstairs);
	core_advance(upstairs);
	if (!is_over(upstairs)) {
		jobs_try_answers(upstairs);
		jobs_trim(upstairs); /* who is named has a say in it */
	}
	zeroes_go_on(upstairs);
	slot_drop_doomed(upstairs);
}

/* While it serves */

/* A named slot whose connection is gone, or that has to be copied, leaves, as long as enough counted ones remain. */
static bool wants_to_leave(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	return slot->is_named && slot->phase != SLOT_COUNTED && slot->phase != SLOT_REPLAY &&
		slot->phase != SLOT_JOINING && core_counts_enough(upstairs);
}

/* It has executed everything that was sent, and nothing is acknowledged meanwhile. */
static bool wants_to_join(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	return slot->phase == SLOT_JOINING && is_news(upstairs, index) && !slot->doomed && slot->outstanding_count == 0;
}

static bool note_lies(const struct upstairs *upstairs, struct upstairs_record *record)
{
	bool changes = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->slots[i].lies && !record->full_copy[i])
			record->full_copy[i] = changes = true;
	}
	return changes;
}

bool core_store_lies(struct upstairs *upstairs)
{
	struct upstairs_record record = upstairs->record;
	record.released = false;
	if (!record.exists || !note_lies(upstairs, &record))
		return false; /* there is no record before one names the copies */
	core_store(upstairs, &record);
	return true;
}

static void change_record(struct upstairs *upstairs)
{
	struct upstairs_record record = upstairs->record;
	if (upstairs->is_storing)
		return;
	bool changes = note_lies(upstairs, &record);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (wants_to_leave(upstairs, i)) {
			record.in_sync[i] = false;
			changes = true;
		}
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		changes = replace_changes(upstairs, i, &record) || changes;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && !changes; i++) {
		if (wants_to_join(upstairs, i)) {
			record.in_sync[i] = true;
			record.full_copy[i] = false;
			changes = true;
		}
	}
	record.released = false;
	if (changes)
		core_store(upstairs, &record);
}

static void bring_back(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase == SLOT_JOINING && !is_news(upstairs, index) && !upstairs->is_storing)
		slot->phase = SLOT_COUNTED;
	if (slot->phase != SLOT_PRESENT || !replay_is_possible(upstairs, index))
		return;
	if (!replay_begin(upstairs, index))
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
}

static void serve(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && !is_over(upstairs); i++)
		bring_back(upstairs, i);
	change_record(upstairs);
	repair_advance(upstairs);
	repair_begin_if_wanted(upstairs);
	if (upstairs->state != UPSTAIRS_DEACTIVATING)
		core_set_state(upstairs, core_counts_enough(upstairs) ? UPSTAIRS_SERVING : UPSTAIRS_PAUSED);
	reads_retry(upstairs);
	heal_advance(upstairs);
	scrub_advance(upstairs);
	jobs_go_on(upstairs);
}

/* Everything is answered: flush, record, disconnect. */
static void deactivate(struct upstairs *upstairs)
{
	if (!jobs_idle(upstairs) || upstairs->is_storing)
		return;
	if (upstairs->record.released) {
		snprintf(upstairs->reason, sizeof upstairs->reason, "released");
		stop(upstairs, UPSTAIRS_RELEASED);
		return;
	}
	uint64_t end = history_end(&upstairs->history);
	struct upstairs_record record = upstairs->record;
	record.released = true;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!upstairs->slots[i].is_named)
			continue;
		if (upstairs->slots[i].phase != SLOT_COUNTED)
			return;
		if (history_slot(&upstairs->history, i)->place < end) {
			jobs_flush_unasked(upstairs);
			return;
		}
	}
	core_store(upstairs, &record);
}

void core_advance(struct upstairs *upstairs)
{
	/* What is done here may call for it again: once more from the beginning, not from within. */
	if (upstairs->is_advancing) {
		upstairs->advance_again = true;
		return;
	}
	upstairs->is_advancing = true;
	do {
		upstairs->advance_again = false;
		if (upstairs->state == UPSTAIRS_ACTIVATING)
			activate_advance(upstairs);
		if (upstairs->state != UPSTAIRS_ACTIVATING && !is_over(upstairs))
			serve(upstairs);
		if (upstairs->state == UPSTAIRS_DEACTIVATING)
			deactivate(upstairs);
	} while (upstairs->advance_again);
	upstairs->is_advancing = false;
}

/* The interface */

struct upstairs *upstairs_open(const struct upstairs_options *options,
	const struct upstairs_environment *environment, struct history *history, bool history_is_kept)
{
	struct upstairs *upstairs = environment->allocate(environment->context, sizeof *upstairs);
	if (!upstairs)
		return NULL;
	*upstairs = (struct upstairs){
		.options = *options,
		.environment = *environment,
		.history = *history,
		.resumes = history_is_kept,
		.state = UPSTAIRS_IDLE,
		.region.block_size = options->block_size,
		.region.extent_size = options->extent_size,
		.region.extent_count = options->extent_count,
	};
	if (upstairs->options.min_copies != 1)
		upstairs->options.min_copies = 2;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		slot_init(&upstairs->slots[i]);
		upstairs->slots[i].upstairs_id = options->upstairs_id;
	}
	jobs_init(upstairs);
	return upstairs;
}

void upstairs_close(struct upstairs *upstairs)
{
	if (!upstairs)
		return;
	struct job *job, *following;
	repair_forget(upstairs);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		if (slot->phase >= SLOT_CONNECTING && slot->phase != SLOT_FAILED)
			upstairs->environment.disconnect(upstairs->environment.context, i);
		core_release(upstairs, slot->versions);
	}
	LIST_FOR_EACH_SAFE(job, following, &upstairs->jobs, all_link)
		job_free(upstairs, job);
	mend_end(upstairs);
	heal_end(upstairs);
	scrub_end(upstairs);
	holes_end(upstairs);
	core_release(upstairs, upstairs->dependencies);
	core_release(upstairs, upstairs->spare_entry);
	core_release(upstairs, upstairs->zero_contexts);
	core_release(upstairs, upstairs->dirty);
	core_release(upstairs, upstairs);
}

void upstairs_activate(struct upstairs *upstairs, uint64_t generation, const struct upstairs_record *record,
	uint64_t now)
{
	upstairs->generation = generation;
	upstairs->record = *record;
	upstairs->now = upstairs->activation_began = now;
	upstairs->scrub_at = now + SCRUB_FIRST_MS;
	upstairs->flushed_to = history_begin(&upstairs->history);
	unsigned places = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct history_slot *kept = history_slot(&upstairs->history, i);
		upstairs->slots[i].is_named = record->in_sync[i];
		if (record->full_copy[i] || kept->lies)
			slot_lies(upstairs, i);
		places += record->in_sync[i] && kept->place > 0;
	}
	/* One without a place needs a repair. Its numbers, and a mend by them, would prove nothing. */
	upstairs->resumes = upstairs->resumes && record->exists && places > 0;
	core_set_state(upstairs, UPSTAIRS_ACTIVATING);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		slot_connect(upstairs, i);
}

void upstairs_deactivate(struct upstairs *upstairs)
{
	if (upstairs->state != UPSTAIRS_SERVING && upstairs->state != UPSTAIRS_PAUSED)
		return;
	core_set_state(upstairs, UPSTAIRS_DEACTIVATING);
	core_advance(upstairs);
	slot_drop_doomed(upstairs);
}

void upstairs_submit(struct upstairs *upstairs, struct upstairs_request *requests)
{
	jobs_submit(upstairs, requests);
	if (upstairs->state >= UPSTAIRS_RELEASED)
		jobs_fail_all(upstairs, -EIO);
	slot_drop_doomed(upstairs);
}

void upstairs_clock(struct upstairs *upstairs, uint64_t microseconds)
{
	upstairs->clock = microseconds;
}

void upstairs_tick(struct upstairs *upstairs, uint64_t now)
{
	upstairs->now = now;
	if (is_over(upstairs))
		return;
	if (upstairs->is_storing && upstairs->store_again_at && now >= upstairs->store_again_at) {
		upstairs->store_again_at = 0;
		upstairs->environment.store_record(upstairs->environment.context, &upstairs->storing);
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && !is_over(upstairs); i++)
		slot_tick(upstairs, i);
	if (!is_over(upstairs) && upstairs->region.block_size)
		jobs_tick(upstairs);
	if (!is_over(upstairs)) {
		repair_tick(upstairs);
		reads_tick(upstairs);
	}
	core_advance(upstairs);
	slot_drop_doomed(upstairs);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t upstairs_deadline(const struct upstairs *upstairs)
{
	uint64_t deadline = UINT64_MAX;
	if (is_over(upstairs))
		return deadline;
	if (upstairs->is_storing && upstairs->store_again_at)
		deadline = upstairs->store_again_at;
	uint64_t waits_until = upstairs->activation_began + upstairs->options.wait_for_named;
	if (upstairs->state == UPSTAIRS_ACTIVATING && upstairs->now < waits_until)
		deadline = earlier(deadline, waits_until);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		if (slot->phase == SLOT_ABSENT)
			deadline = earlier(deadline, slot->retry_at);
		else if (slot->phase == SLOT_CONNECTING)
			deadline = earlier(deadline, slot->last_heard + SILENCE_MS);
		else if (slot->phase != SLOT_FAILED)
			deadline = earlier(deadline, earlier(slot->last_heard + SILENCE_MS, slot->last_ping + PING_MS));
		bool is_watched = slot->phase == SLOT_COUNTED || slot->phase == SLOT_JOINING || slot->phase == SLOT_REPAIR ||
			jobs_wait(upstairs);
		if (is_watched && !list_empty(&slot->outstanding))
			deadline = earlier(deadline, upstairs->now + upstairs->options.leave_after / 4 + 1);
	}
	deadline = earlier(deadline, earlier(reads_deadline(upstairs), scrub_deadline(upstairs)));
	if (upstairs->state == UPSTAIRS_SERVING && upstairs->flushed_to < history_end(&upstairs->history))
		deadline = earlier(deadline, upstairs->last_flush_at + upstairs->options.flush_interval);
	return deadline > upstairs->now ? deadline : upstairs->now + 1;
}

enum upstairs_state upstairs_state(const struct upstairs *upstairs)
{
	return upstairs->state;
}

enum upstairs_slot_state upstairs_slot_state(const struct upstairs *upstairs, unsigned slot)
{
	switch (upstairs->slots[slot].phase) {
	case SLOT_ABSENT:
		return UPSTAIRS_SLOT_ABSENT;
	case SLOT_CONNECTING:
	case SLOT_HELLO:
	case SLOT_PROMOTE:
	case SLOT_REGION:
	case SLOT_VERSIONS:
		return UPSTAIRS_SLOT_CONNECTING;
	case SLOT_PRESENT:
		return UPSTAIRS_SLOT_WAITING;
	case SLOT_MENDING:
		return UPSTAIRS_SLOT_MENDING;
	case SLOT_REPAIR:
		return UPSTAIRS_SLOT_REPAIR;
	case SLOT_REPLAY:
	case SLOT_JOINING:
		return UPSTAIRS_SLOT_REPLAY;
	case SLOT_COUNTED:
		return UPSTAIRS_SLOT_ACTIVE;
	case SLOT_FAILED:
		break;
	}
	return UPSTAIRS_SLOT_FAILED;
}

const char *upstairs_reason(const struct upstairs *upstairs)
{
	return upstairs->reason;
}

struct history *upstairs_history(struct upstairs *upstairs)
{
	return &upstairs->history;
}

void upstairs_geometry(const struct upstairs *upstairs, uint64_t *block_size, uint64_t *block_count)
{
	*block_size = upstairs->region.block_size;
	*block_count = upstairs->region.extent_size * upstairs->region.extent_count;
}
