/* jobs.c: requests as jobs.
 *
 * A job is sent to every slot that receives (a read to one). It carries per slot the ids of the jobs that it
 * must run after: those sent on that connection, not answered yet, that touch the same blocks, or a flush.
 * Jobs before the last flush of the connection are left out and that flush stands for them, since a
 * downstairs forgets older ids when it completes a flush (crucible-protocol.md 4.2, trap T14). What a slot has
 * answered it has executed, and so need not be named.
 *
 * Writes that wait together and touch each other end to end become one job: a downstairs takes hardly longer for it
 * than for one of them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/core-internal.h"

void jobs_init(struct upstairs *upstairs)
{
	list_init(&upstairs->jobs);
	list_init(&upstairs->held_reads);
	list_init(&upstairs->parked_reads);
	list_init(&upstairs->late_reads);
	list_init(&upstairs->zeroing);
	for (unsigned i = 0; i < JOB_BUCKETS; i++) {
		list_init(&upstairs->by_id[i]);
		list_init(&upstairs->by_range[i]);
	}
	upstairs->next_id = 1;
	upstairs->waiting_end = &upstairs->waiting;
}

/* The range table: jobs that others may depend on, by the stretches of the volume that they touch. No job is
 * longer than a stretch, so it touches two at most. */

static uint64_t stretch_of(const struct upstairs *upstairs, uint64_t block)
{
	return block / (UPSTAIRS_REQUEST_MAX / upstairs->region.block_size);
}

static void enter_range(struct upstairs *upstairs, struct job *job)
{
	uint64_t first = stretch_of(upstairs, job->start), last = stretch_of(upstairs, job->start + job->count - 1);
	list_append(&upstairs->by_range[first % JOB_BUCKETS], &job->range_links[0].link);
	if (last != first)
		list_append(&upstairs->by_range[last % JOB_BUCKETS], &job->range_links[1].link);
}

static bool overlap(const struct job *a, const struct job *b)
{
	return a->start < b->start + b->count && b->start < a->start + a->count;
}

bool jobs_visit_overlapping(struct upstairs *upstairs, const struct job *job, job_visitor visit, void *context)
{
	uint64_t first = stretch_of(upstairs, job->start), last = stretch_of(upstairs, job->start + job->count - 1);
	for (uint64_t stretch = first; stretch <= last; stretch++) {
		struct range_link *link;
		LIST_FOR_EACH(link, &upstairs->by_range[stretch % JOB_BUCKETS], link)
		{
			struct job *other = link->job;
			bool was_visited = stretch != first && stretch_of(upstairs, other->start) <= first;
			if (other != job && !was_visited && overlap(job, other) && !visit(context, other))
				return false;
		}
	}
	struct job *reopen = repair_reopen(upstairs);
	return !reopen || reopen == job || !overlap(job, reopen) || visit(context, reopen);
}

/* Life of a job */

struct job *job_new(struct upstairs *upstairs, enum job_kind kind, uint64_t start, uint64_t count)
{
	struct job *job = core_allocate(upstairs, sizeof *job);
	if (!job)
		return NULL;
	*job = (struct job){
		.id = upstairs->next_id++,
		.kind = kind,
		.start = start,
		.count = count,
		.since = upstairs->now,
	};
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		list_init(&job->slot_links[i]);
	for (unsigned i = 0; i < 2; i++) {
		list_init(&job->range_links[i].link);
		job->range_links[i].job = job;
	}
	list_init(&job->all_link);
	list_init(&job->held_link);
	list_init(&job->late_link);
	list_init(&job->id_link);
	list_append(&upstairs->jobs, &job->all_link);
	list_append(&upstairs->by_id[job->id % JOB_BUCKETS], &job->id_link);
	if (kind == JOB_READ || kind == JOB_WRITE)
		enter_range(upstairs, job);
	return job;
}

void job_free(struct upstairs *upstairs, struct job *job)
{
	list_remove(&job->all_link);
	list_remove(&job->held_link);
	list_remove(&job->late_link);
	list_remove(&job->id_link);
	list_remove(&job->range_links[0].link);
	list_remove(&job->range_links[1].link);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (job->states[i] == JOB_SENT)
			upstairs->slots[i].outstanding_count--;
		list_remove(&job->slot_links[i]);
	}
	core_release(upstairs, job);
}

struct job *job_by_id(const struct upstairs *upstairs, uint64_t id)
{
	struct job *job;
	LIST_FOR_EACH(job, &upstairs->by_id[id % JOB_BUCKETS], id_link)
	{
		if (job->id == id)
			return job;
	}
	return NULL;
}

void job_free_if_over(struct upstairs *upstairs, struct job *job)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (job->states[i] == JOB_SENT || job->states[i] == JOB_COVERED)
			return;
	}
	if (job->is_answered)
		job_free(upstairs, job);
}

/* Sending */

struct gathering {
	struct upstairs *upstairs;
	const struct job *job;
	unsigned index;
	size_t count;
	bool failed;
};

static bool gather(void *context, struct job *other)
{
	struct gathering *gathering = context;
	struct upstairs *upstairs = gathering->upstairs;
	bool matters = other->states[gathering->index] == JOB_SENT && other->id < gathering->job->id &&
		other->id > upstairs->slots[gathering->index].base &&
		(gathering->job->kind != JOB_READ || other->kind != JOB_READ);
	if (!matters)
		return true;
	if (gathering->count == upstairs->dependencies_room) {
		size_t room = upstairs->dependencies_room ? upstairs->dependencies_room * 2 : 256;
		uint64_t *larger = core_allocate(upstairs, room * sizeof *larger);
		if (!larger) {
			gathering->failed = true;
			return false;
		}
		if (gathering->count > 0)
			memcpy(larger, upstairs->dependencies, gathering->count * sizeof *larger);
		core_release(upstairs, upstairs->dependencies);
		upstairs->dependencies = larger;
		upstairs->dependencies_room = room;
	}
	upstairs->dependencies[gathering->count++] = other->id;
	return true;
}

/* What the job must run after on this connection. False without memory. */
static bool gather_dependencies(struct upstairs *upstairs, struct job *job, unsigned index,
	struct crucible_u64s *dependencies)
{
	struct slot *slot = &upstairs->slots[index];
	struct gathering gathering = { .upstairs = upstairs, .job = job, .index = index };
	if (job->kind == JOB_FLUSH) {
		struct list *link;
		for (link = slot->outstanding.next; link != &slot->outstanding && !gathering.failed; link = link->next)
			gather(&gathering, (struct job *)((char *)link - offsetof(struct job, slot_links) -
								   index * sizeof(struct list)));
	} else if (job->kind != JOB_REPLAY && job->kind != JOB_NO_OP) {
		jobs_visit_overlapping(upstairs, job, gather, &gathering);
	}
	struct job *base = slot->base ? job_by_id(upstairs, slot->base) : NULL;
	if (base && base->states[index] == JOB_SENT && job->kind != JOB_REPLAY &&
		job->kind != JOB_NO_OP) {
		/* gather() leaves it out, as it takes what is above the base only */
		uint64_t kept = slot->base;
		slot->base = 0;
		gather(&gathering, base);
		slot->base = kept;
	}
	*dependencies = (struct crucible_u64s){ upstairs->dependencies, gathering.count };
	return !gathering.failed;
}

static void send(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	struct slot *slot = &upstairs->slots[index];
	job->states[index] = JOB_SENT;
	list_append(&slot->outstanding, &job->slot_links[index]);
	slot->outstanding_count++;
	upstairs->environment.send(upstairs->environment.context, index, message);
}

/* How many of the job's blocks go to the slot: in repair only those that are copied. */
static uint64_t blocks_for(const struct job *job, const struct slot *slot)
{
	if (slot->phase != SLOT_REPAIR || job->start + job->count <= slot->repaired_to)
		return job->count;
	return job->start < slot->repaired_to ? slot->repaired_to - job->start : 0;
}

static void describe_write(const struct upstairs *upstairs, const struct job *job, uint64_t count,
	struct crucible_message *message)
{
	message->type = CRUCIBLE_WRITE;
	message->write.start = job->start;
	if (history_is_zeros(job->entry)) {
		zeroes_describe(upstairs, count, message);
		return;
	}
	const struct crucible_block_context *contexts = history_contexts(job->entry);
	uint64_t skipped = job->start - job->entry->start;
	message->write.contexts.items = contexts + skipped;
	message->write.contexts.count = count;
	message->write.data.bytes =
		(const uint8_t *)history_data(job->entry) + skipped * upstairs->region.block_size;
	message->write.data.length = count * upstairs->region.block_size;
}

void job_send(struct upstairs *upstairs, struct job *job, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	struct crucible_message message = { .job = core_job(upstairs, index, job->id) };
	if (slot->doomed || (job->kind == JOB_WRITE && blocks_for(job, slot) == 0))
		return;
	if (!gather_dependencies(upstairs, job, index, &message.dependencies) ||
		(job->entry && history_is_zeros(job->entry) && !zeroes_prepare(upstairs))) {
		slot_doom(upstairs, index, "out of memory");
		return;
	}
	switch (job->kind) {
	case JOB_READ:
		message.type = CRUCIBLE_READ_REQUEST;
		message.read_request.start = job->start;
		message.read_request.count = job->count;
		break;
	case JOB_WRITE:
	case JOB_REPLAY:
		describe_write(upstairs, job, blocks_for(job, slot), &message);
		break;
	case JOB_FLUSH:
		message.type = CRUCIBLE_FLUSH;
		message.flush.flush_number = job->flush_number;
		message.flush.generation = upstairs->generation;
		/* what is not copied yet must not be stamped (trap T3) */
		message.flush.has_extent_limit = slot->phase == SLOT_REPAIR && slot->repaired_to != UINT64_MAX;
		if (message.flush.has_extent_limit)
			message.flush.extent_limit = (uint32_t)(slot->repaired_to / upstairs->region.extent_size - 1);
		slot->base = job->id;
		break;
	case JOB_NO_OP:
		message.type = CRUCIBLE_EXTENT_LIVE_NO_OP;
		break;
	case JOB_REPAIR:
		return; /* goes by job_send_repair() */
	}
	send(upstairs, job, index, &message);
}

void job_send_repair(struct upstairs *upstairs, struct job *job, unsigned index, struct crucible_message *message,
	bool gathers)
{
	if (gathers && !gather_dependencies(upstairs, job, index, &message->dependencies))
		slot_doom(upstairs, index, "out of memory");
	else if (!upstairs->slots[index].doomed)
		send(upstairs, job, index, message);
}

void job_unsent(struct upstairs *upstairs, struct job *job, unsigned index, enum job_state state)
{
	if (job->states[index] == JOB_SENT) {
		list_remove(&job->slot_links[index]);
		upstairs->slots[index].outstanding_count--;
	}
	job->states[index] = state;
	if (state == JOB_DONE)
		job->answered_by = index + 1;
}

static void send_to_receivers(struct upstairs *upstairs, struct job *job)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (slot_receives(&upstairs->slots[i]))
			job_send(upstairs, job, i);
	}
}

/* Answers */

/* All of them. */
static void complete(struct upstairs *upstairs, struct upstairs_request *requests, int error)
{
	for (struct upstairs_request *next; requests; requests = next) {
		next = requests->next;
		upstairs->environment.complete(upstairs->environment.context, requests, error);
	}
}

void job_answer(struct upstairs *upstairs, struct job *job, int error)
{
	struct upstairs_request *requests = job->request;
	job->is_answered = true;
	job->request = NULL;
	for (struct upstairs_request *request = requests; request; request = request->next)
		request->answered_by = job->answered_by;
	if (requests && job->kind == JOB_READ)
		reads_answered(upstairs, requests, error);
	else if (requests && requests->operation == UPSTAIRS_WRITE_ZEROES)
		zeroes_answered(requests, error);
	else
		complete(upstairs, requests, error);
}

/* Invariant 2. */
static bool all_named_have_done(const struct upstairs *upstairs, const struct job *job)
{
	unsigned copies = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		if (slot->phase == SLOT_JOINING)
			return false; /* it shall hold everything that is acknowledged: nothing is meanwhile */
		if (!slot->is_named)
			continue;
		if (slot->phase != SLOT_COUNTED || job->states[i] != JOB_DONE)
			return false;
		copies++;
	}
	return copies >= upstairs->options.min_copies;
}

bool jobs_are_answered(const struct upstairs *upstairs)
{
	return upstairs->fence == FENCE_NONE &&
		(upstairs->state == UPSTAIRS_SERVING || upstairs->state == UPSTAIRS_DEACTIVATING);
}

/* Answers if that is right, and frees the job, but no other one, if that was all. */
static bool try_one(struct upstairs *upstairs, struct job *job)
{
	if (job->kind == JOB_REPAIR)
		return false; /* it lives as long as its step */
	bool may = jobs_are_answered(upstairs) && !job->is_answered &&
		(job->kind == JOB_READ ? reads_may_answer(upstairs, job) : all_named_have_done(upstairs, job));
	if (may) {
		list_remove(&job->held_link);
		job_answer(upstairs, job, 0);
	}
	job_free_if_over(upstairs, job);
	return may;
}

/* The same, and then the reads that waited for it. */
void job_try_answer(struct upstairs *upstairs, struct job *job)
{
	bool is_write = job->kind == JOB_WRITE;
	if (!try_one(upstairs, job) || !is_write)
		return;
	struct job *read, *following;
	LIST_FOR_EACH_SAFE(read, following, &upstairs->held_reads, held_link)
		try_one(upstairs, read);
}

void jobs_try_answers(struct upstairs *upstairs)
{
	/* reads are behind the writes that they wait for */
	struct job *job, *following;
	LIST_FOR_EACH_SAFE(job, following, &upstairs->jobs, all_link)
		try_one(upstairs, job);
}

void job_done(struct upstairs *upstairs, struct job *job, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	uint64_t id = job->id;
	job_unsent(upstairs, job, index, JOB_DONE);
	if (job->kind == JOB_FLUSH && slot->replay_flush != job->id) {
		struct history_slot kept = *history_slot(&upstairs->history, index);
		if (kept.place > 0 && job->covers > kept.place) {
			kept.place = job->covers;
			history_set_slot(&upstairs->history, index, &kept);
		}
		jobs_trim(upstairs);
	}
	if (job->kind == JOB_FLUSH && slot->replay_flush == job->id)
		replay_flushed(upstairs, job, index); /* looks at every job, also at this one */
	else
		job_try_answer(upstairs, job);
	mend_written(upstairs, id);
	if (slot->phase == SLOT_JOINING || upstairs->state == UPSTAIRS_DEACTIVATING ||
		upstairs->fence != FENCE_NONE)
		core_advance(upstairs);
}

static void take_error_report(struct upstairs *upstairs, struct job *job, unsigned index,
	const struct crucible_message *message)
{
	char text[120], why[160];
	crucible_error_text(&message->error_report.error, text, sizeof text);
	bool is_write = job->kind == JOB_WRITE || job->kind == JOB_REPLAY;
	bool is_sync = job->kind == JOB_FLUSH || repair_flushes(upstairs, job) ||
		(is_write && message->error_report.error.kind == CRUCIBLE_ERROR_IO);
	if (is_sync) {
		/* What the sync should have saved counts as saved from now on, and is not: the flush that it acknowledges
		 * next is hollow (trap T2). A write syncs, too. Only a full copy makes it good. */
		slot_lies(upstairs, index);
	} else if (job->kind != JOB_REPAIR && ++job->error_reports < ERROR_REPORTS_MAX) {
		return; /* it tries again by itself */
	}
	snprintf(why, sizeof why, "reports an error: %s", text);
	bool is_full = strstr(text, "o space left") || strstr(text, "os error 28");
	slot_drop_for(upstairs, index, is_full ? UPSTAIRS_TROUBLE_FULL : UPSTAIRS_TROUBLE_ERRORS, why);
}

void jobs_answer_to(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	static const enum crucible_message_type expected[] = {
		[JOB_READ] = CRUCIBLE_READ_RESPONSE,
		[JOB_WRITE] = CRUCIBLE_WRITE_ACK,
		[JOB_FLUSH] = CRUCIBLE_FLUSH_ACK,
		[JOB_REPLAY] = CRUCIBLE_WRITE_ACK,
		[JOB_NO_OP] = CRUCIBLE_EXTENT_LIVE_ACK_ID,
	};
	struct job *job = job_by_id(upstairs, message->job.job_id);
	struct crucible_job own = core_job(upstairs, index, message->job.job_id);
	if (memcmp(&own, &message->job, sizeof own) != 0) {
		slot_drop(upstairs, index, "answers a job of somebody else");
		return;
	}
	if (!job || job->states[index] != JOB_SENT) {
		slot_drop(upstairs, index, "answers a job that it was not sent");
		return;
	}
	bool is_expected = job->kind == JOB_REPAIR
		? repair_expects(upstairs, job, message->type)
		: message->type == expected[job->kind];
	if (message->type == CRUCIBLE_ERROR_REPORT) {
		take_error_report(upstairs, job, index, message);
	} else if (!is_expected) {
		slot_drop(upstairs, index, "answers a job as if it were another one");
	} else if (job->kind == JOB_REPAIR) {
		repair_answer(upstairs, job, index, message);
	} else if (job->kind == JOB_READ) {
		reads_answer(upstairs, job, index, message);
	} else if (message->ack.failed) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_ERRORS, "a write or flush failed");
	} else {
		job_done(upstairs, job, index);
	}
}

void jobs_lost(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	struct job *job, *following;
	slot->replay_flush = 0;
	slot->base = 0;
	LIST_FOR_EACH_SAFE(job, following, &upstairs->jobs, all_link)
	{
		if (job->states[index] != JOB_SENT && job->states[index] != JOB_COVERED)
			continue;
		list_remove(&job->slot_links[index]);
		job->states[index] = JOB_NOT_SENT;
		if (job->kind == JOB_READ && job->request)
			reads_lost(upstairs, job, index);
		else if (heal_expects(upstairs, job))
			heal_lost(upstairs, job, index);
		else if (scrub_expects(upstairs, job))
			scrub_lost(upstairs, job, index);
		job_free_if_over(upstairs, job);
	}
	slot->outstanding_count = 0;
}

/* New jobs */

struct job *jobs_write(struct upstairs *upstairs, struct history_entry *entry, struct upstairs_request *request)
{
	struct job *job = job_new(upstairs, JOB_WRITE, entry->start, entry->count);
	if (!job)
		return NULL;
	if (entry != upstairs->spare_entry)
		history_publish(&upstairs->history, entry);
	holes_written(upstairs, entry->start, entry->count);
	recovery_written(upstairs, entry->start, entry->count);
	job->entry = entry;
	job->request = request;
	send_to_receivers(upstairs, job);
	if (recovery_wants_flush(upstairs) && jobs_are_answered(upstairs))
		jobs_flush_unasked(upstairs);
	return job;
}

struct job *jobs_flush(struct upstairs *upstairs, struct upstairs_request *request)
{
	struct job *job = job_new(upstairs, JOB_FLUSH, 0, 0);
	if (!job)
		return NULL;
	job->flush_number = core_next_flush_number(upstairs);
	job->covers = history_end(&upstairs->history);
	job->request = request;
	job->is_answered = !request;
	upstairs->flushed_to = job->covers;
	upstairs->last_flush_at = upstairs->now;
	recovery_flushed(upstairs);
	send_to_receivers(upstairs, job);
	return job;
}

void jobs_flush_unasked(struct upstairs *upstairs)
{
	struct job *job = jobs_flush(upstairs, NULL);
	if (job)
		job_free_if_over(upstairs, job);
}

struct job *jobs_no_op(struct upstairs *upstairs, struct upstairs_request *request)
{
	struct job *job = job_new(upstairs, JOB_NO_OP, 0, 0);
	if (!job)
		return NULL;
	job->request = request;
	send_to_receivers(upstairs, job);
	return job;
}

bool jobs_may_write(const struct upstairs *upstairs, uint64_t start, uint64_t count)
{
	return !heal_holds(upstairs, start, count);
}

static uint64_t request_max(const struct upstairs *upstairs)
{
	return UPSTAIRS_REQUEST_MAX / upstairs->region.block_size;
}

static bool is_possible(const struct upstairs *upstairs, const struct upstairs_request *request)
{
	uint64_t blocks = upstairs->region.extent_size * upstairs->region.extent_count;
	uint64_t most = request->operation == UPSTAIRS_WRITE_ZEROES ? blocks : request_max(upstairs);
	return request->operation == UPSTAIRS_FLUSH ||
		(request->count > 0 && request->count <= most && request->start <= blocks &&
			request->count <= blocks - request->start);
}

/* The last of the writes that one job can do: each begins where the one before it ends. A job costs every downstairs
 * much the same, however long it is. */
static struct upstairs_request *last_neighbour(const struct upstairs *upstairs, struct upstairs_request *first,
	uint64_t *count)
{
	struct upstairs_request *last = first;
	*count = first->count;
	for (struct upstairs_request *next = first->next; next; last = next, next = next->next) {
		if (next->operation != UPSTAIRS_WRITE || next->start != first->start + *count ||
			!is_possible(upstairs, next) || *count + next->count > request_max(upstairs))
			break;
		*count += next->count;
	}
	return last;
}

static void fill(const struct upstairs *upstairs, struct history_entry *entry, const struct upstairs_request *request)
{
	for (uint64_t at = 0; at < entry->count; at += request->count, request = request->next) {
		memcpy(history_contexts(entry) + at, request->contexts, request->count * sizeof *request->contexts);
		memcpy((uint8_t *)history_data(entry) + at * upstairs->region.block_size, request->data,
			request->count * upstairs->region.block_size);
	}
}

/* A write, and the ones behind it that fit. */
static int start_write(struct upstairs *upstairs, struct upstairs_request *request, struct upstairs_request **last,
	struct job **job)
{
	uint64_t count;
	*last = last_neighbour(upstairs, request, &count);
	if (!jobs_may_write(upstairs, request->start, count))
		return -EAGAIN;
	struct history_entry *entry = history_reserve(&upstairs->history, request->start, count);
	if (!entry && *last != request) {
		*last = request;
		entry = history_reserve(&upstairs->history, request->start, request->count);
	}
	if (!entry && jobs_make_room(upstairs))
		entry = history_reserve(&upstairs->history, request->start, request->count);
	if (!entry)
		return -EAGAIN;
	fill(upstairs, entry, request);
	*job = jobs_write(upstairs, entry, request);
	return *job ? 0 : -ENOMEM;
}

/* Makes a job of the request, and of those behind it up to *last. -EAGAIN: not now. *job is that of a write. */
static int start(struct upstairs *upstairs, struct upstairs_request *request, struct upstairs_request **last,
	struct job **job)
{
	*last = request;
	if (!is_possible(upstairs, request))
		return -EINVAL;
	switch (request->operation) {
	case UPSTAIRS_READ:
		return reads_start(upstairs, request);
	case UPSTAIRS_WRITE:
		return start_write(upstairs, request, last, job);
	case UPSTAIRS_FLUSH:
		return jobs_flush(upstairs, request) ? 0 : -ENOMEM;
	case UPSTAIRS_WRITE_ZEROES:
		return zeroes_start(upstairs, request);
	}
	return -EINVAL;
}

/* Every copy that is to have it has been sent it, and none is on its way out or in. */
static bool may_answer_at_once(const struct upstairs *upstairs)
{
	if (!upstairs->options.ack_on_submit || upstairs->is_storing)
		return false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		if (slot->doomed || slot->phase == SLOT_JOINING || (slot->is_named && slot->phase != SLOT_COUNTED))
			return false;
	}
	return core_counts_enough(upstairs);
}

void jobs_submit(struct upstairs *upstairs, struct upstairs_request *requests)
{
	*upstairs->waiting_end = requests;
	while (*upstairs->waiting_end)
		upstairs->waiting_end = &(*upstairs->waiting_end)->next;
	jobs_go_on(upstairs);
}

void jobs_go_on(struct upstairs *upstairs)
{
	zeroes_go_on(upstairs);
	/* what is possible is not known before it serves */
	while (upstairs->waiting && jobs_are_answered(upstairs)) {
		struct upstairs_request *request = upstairs->waiting, *last;
		struct job *job = NULL;
		int status = start(upstairs, request, &last, &job);
		if (status == -EAGAIN)
			return;
		upstairs->waiting = last->next;
		last->next = NULL;
		if (!upstairs->waiting)
			upstairs->waiting_end = &upstairs->waiting;
		if (status < 0)
			complete(upstairs, request, status);
		else if (job && may_answer_at_once(upstairs))
			job_answer(upstairs, job, 0);
	}
}

void jobs_fail_all(struct upstairs *upstairs, int error)
{
	struct job *job, *following;
	LIST_FOR_EACH_SAFE(job, following, &upstairs->jobs, all_link)
	{
		if (!job->is_answered)
			job_answer(upstairs, job, error);
		job_free(upstairs, job);
	}
	reads_fail_all(upstairs, error);
	zeroes_fail_all(upstairs, error);
	struct upstairs_request *waiting = upstairs->waiting;
	upstairs->waiting = NULL;
	upstairs->waiting_end = &upstairs->waiting;
	complete(upstairs, waiting, error);
}

bool jobs_wait(const struct upstairs *upstairs)
{
	return upstairs->waiting || !list_empty(&upstairs->zeroing);
}

bool jobs_idle(const struct upstairs *upstairs)
{
	return list_empty(&upstairs->jobs) && list_empty(&upstairs->parked_reads) && list_empty(&upstairs->zeroing) &&
		!upstairs->waiting;
}

/* Keeping the history short */

/* The first entry that a named slot, or a job, cannot do without. A slot that has lied is copied as a whole. */
static uint64_t needed_from(const struct upstairs *upstairs)
{
	uint64_t needed = history_end(&upstairs->history);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		uint64_t place = history_slot(&upstairs->history, i)->place;
		if (slot->is_named && !slot->lies && place < needed)
			needed = place;
	}
	/* entries that are still on their way are needed, whoever has them */
	const struct job *job;
	LIST_FOR_EACH(job, &upstairs->jobs, all_link)
	{
		if (job->entry && job->entry->number < needed)
			needed = job->entry->number;
	}
	return needed;
}

static void trim(struct upstairs *upstairs)
{
	uint64_t needed = needed_from(upstairs), wished = needed;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		uint64_t place = history_slot(&upstairs->history, i)->place;
		if (place > 0 && place < wished)
			wished = place;
	}
	/* for slots that are away as much as half the memory holds */
	history_trim(&upstairs->history, wished);
	while (history_is_half_full(&upstairs->history) &&
		history_begin(&upstairs->history) < needed)
		history_trim(&upstairs->history, history_begin(&upstairs->history) + 1);
}

void jobs_trim(struct upstairs *upstairs)
{
	trim(upstairs);
	if (jobs_wait(upstairs))
		jobs_go_on(upstairs);
}

bool jobs_make_room(struct upstairs *upstairs)
{
	uint64_t begin = history_begin(&upstairs->history);
	history_trim(&upstairs->history, needed_from(upstairs)); /* slots that are away may go without */
	if (upstairs->flushed_to < history_end(&upstairs->history))
		jobs_flush_unasked(upstairs);
	return history_begin(&upstairs->history) > begin;
}

/* The oldest job of a slot that others were sent, too. A read is sent to one, and late ones elsewhere: what a slot makes of
 * it says nothing about the others, and must not hide that it owes them a write. */
static const struct job *oldest_shared(const struct upstairs *upstairs, unsigned index)
{
	const struct list *outstanding = &upstairs->slots[index].outstanding;
	for (const struct list *link = outstanding->next; link != outstanding; link = link->next) {
		const struct job *job = (const struct job *)((const char *)link - offsetof(struct job, slot_links) -
			index * sizeof(struct list));
		if (job->kind != JOB_READ)
			return job;
	}
	return NULL;
}

/* The oldest job of a slot is late, and enough counted others have done it (design 6.2). */
static bool is_late(const struct upstairs *upstairs, unsigned index)
{
	const struct job *job = oldest_shared(upstairs, index);
	if (!job)
		return false;
	unsigned others = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		others += i != index && upstairs->slots[i].phase == SLOT_COUNTED && job->states[i] == JOB_DONE;
	return others >= upstairs->options.min_copies && upstairs->now - job->since >= upstairs->options.leave_after;
}

/* One that comes back may take its time, until it keeps the history so full that requests wait for it. An extent that is
 * copied holds up what is sent behind it; a downstairs gives that up by itself. */
static bool holds_up_requests(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	const struct job *job = slot_oldest(upstairs, index);
	return slot_receives(slot) && slot->phase != SLOT_COUNTED && jobs_are_answered(upstairs) && jobs_wait(upstairs) &&
		core_counts_enough(upstairs) && job && job->kind != JOB_REPAIR &&
		upstairs->now - job->since >= upstairs->options.leave_after;
}

/* Nothing is acknowledged before it has done it. */
static bool holds_up(const struct slot *slot)
{
	return slot->phase == SLOT_COUNTED || slot->phase == SLOT_JOINING;
}

void jobs_tick(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (holds_up(&upstairs->slots[i]) && is_late(upstairs, i))
			slot_drop_for(upstairs, i, UPSTAIRS_TROUBLE_SLOW, "does not answer, and the others have");
		else if (holds_up_requests(upstairs, i))
			slot_drop_for(upstairs, i, UPSTAIRS_TROUBLE_SLOW,
				"is too slow to come back while there is so much to write");
	}
	bool is_due = upstairs->now - upstairs->last_flush_at >= upstairs->options.flush_interval ||
		history_is_half_full(&upstairs->history);
	if (jobs_are_answered(upstairs) && is_due && upstairs->flushed_to < history_end(&upstairs->history))
		jobs_flush_unasked(upstairs);
}
