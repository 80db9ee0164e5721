/* reads.c: which slot a read goes to, and what becomes of its answer (design 6.10).
 *
 *  1. A read goes to the counted slot that is likely to answer first: by what its last reads have cost, and by how
 *     much it has to do. If the answer is late, another slot is asked too, and the first good answer counts. When all
 *     answers are late, as on a machine that has too much to do, this would make it worse: of each 20 reads one may be
 *     sent twice, and 100 a second, but 32 at once, so that one slot that stops holds up nobody.
 *  2. Each of these sendings is a job of its own, so that ids stay the order of sending on every connection, and
 *     writes that come later wait, on each slot, for what was sent there.
 *  3. A block that is not what its context says is never given to the guest: the next slot is asked. Copies may be
 *     damaged in different places: what no slot has as a whole is read block by block. The read fails only when every
 *     named slot has answered, and badly, for the same block.
 *  4. A good answer is held until every overlapping write that was submitted before its job is acknowledged: a value
 *     that may yet vanish must not be seen. What was submitted later it cannot contain, as that waits for it.
 */
#include <errno.h>
#include <string.h>

#include "core/core-internal.h"

enum {
	COST_UNIT = 16,             /* of struct slot.read_cost, per us */
	COST_WEIGHT = 8,            /* the newest cost counts for so much less than all before */
	COST_FORGETS = 1024,        /* a slot that is not asked is thought faster by this part each time */
	COST_BYTES = 32 << 10,      /* costs as much as a request by itself */
	LATE_TIMES = 4,             /* what is expected, and the read is late */
	HEDGE_PRICE = 20,           /* of a read that is sent twice; each read brings 1 */
	HEDGE_PER_MS = 2,           /* and each ms so much */
	HEDGE_SAVED = 32 * HEDGE_PRICE,
};

/* Choosing */

static uint64_t weight_of(const struct upstairs *upstairs, const struct job *job)
{
	return 1 + job->count * upstairs->region.block_size / COST_BYTES;
}

static bool may_ask(const struct upstairs *upstairs, const struct upstairs_request *request, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	return slot->phase == SLOT_COUNTED && !slot->doomed && !request->asked[index];
}

/* Costs that differ less than the chances of the day are the same: 4 to a power. Among equal slots the reads then go to
 * the one that has the least to do, and the first of these, since a downstairs that is busy does more with less. */
static uint64_t rounded(uint64_t cost)
{
	return UINT64_C(1) << (63 - __builtin_clzll(cost + 1)) / 2 * 2;
}

/* The slot that is likely to answer first; UPSTAIRS_SLOTS if there is none that was not asked. */
static unsigned choose(struct upstairs *upstairs, const struct upstairs_request *request)
{
	unsigned best = UPSTAIRS_SLOTS;
	uint64_t least = UINT64_MAX;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		uint64_t expected = rounded(slot->read_cost) * (slot->outstanding_count + 1);
		if (may_ask(upstairs, request, i) && expected < least) {
			least = expected;
			best = i;
		}
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		if (i != best && slot->read_cost > COST_UNIT)
			slot->read_cost -= slot->read_cost / COST_FORGETS + 1; /* it is tried again in the end */
	}
	return best;
}

/* What the read has cost until now, which may be less than it will. */
static void learn_cost(struct upstairs *upstairs, const struct job *job, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (upstairs->clock <= job->sent_at)
		return;
	uint64_t cost = (upstairs->clock - job->sent_at) * COST_UNIT / weight_of(upstairs, job);
	slot->read_cost = slot->read_cost ? slot->read_cost - slot->read_cost / COST_WEIGHT + cost / COST_WEIGHT : cost;
}

/* When it is worth while to ask another slot: not before it has taken much longer than this slot does usually. */
static uint64_t late_at(const struct upstairs *upstairs, const struct job *job, unsigned index)
{
	uint64_t expected = upstairs->slots[index].read_cost * weight_of(upstairs, job);
	uint64_t patience = LATE_TIMES * expected / COST_UNIT / 1000;
	return upstairs->now + (patience > upstairs->options.hedge_after ? patience : upstairs->options.hedge_after);
}

static void watch(struct upstairs *upstairs, struct job *job)
{
	struct list *behind = &upstairs->late_reads;
	while (behind->prev != &upstairs->late_reads &&
		container_of(behind->prev, struct job, late_link)->late_at > job->late_at)
		behind = behind->prev;
	list_append(behind, &job->late_link); /* before it, that is */
}

static void save(struct upstairs *upstairs, uint64_t amount)
{
	uint64_t room = HEDGE_SAVED - upstairs->hedges_saved;
	upstairs->hedges_saved += amount < room ? amount : room;
}

static bool pay(struct upstairs *upstairs)
{
	save(upstairs, (upstairs->now - upstairs->hedges_saved_at) * HEDGE_PER_MS);
	upstairs->hedges_saved_at = upstairs->now;
	if (upstairs->hedges_saved < HEDGE_PRICE)
		return false;
	upstairs->hedges_saved -= HEDGE_PRICE;
	return true;
}

/* Sending */

/* False if it could not be sent. */
static bool ask(struct upstairs *upstairs, struct upstairs_request *request, unsigned index)
{
	struct job *job =
		job_new(upstairs, JOB_READ, request->start + request->at, request->is_single ? 1 : request->count);
	if (!job)
		return false;
	job->sent_at = upstairs->clock;
	job_send(upstairs, job, index);
	if (job->states[index] != JOB_SENT) {
		job_free(upstairs, job);
		return false;
	}
	job->request = request;
	request->jobs[index] = job;
	request->asked[index] = true;
	if (upstairs->options.hedge_after) {
		job->late_at = late_at(upstairs, job, index);
		watch(upstairs, job);
	}
	return true;
}

static bool is_under_way(const struct upstairs_request *request)
{
	return request->jobs[0] || request->jobs[1] || request->jobs[2];
}

/* No slot has it to answer: asks the next one. -EIO if all have been asked. */
static int try_another(struct upstairs *upstairs, struct upstairs_request *request)
{
	unsigned index = choose(upstairs, request);
	if (index < UPSTAIRS_SLOTS && ask(upstairs, request, index))
		return 0;
	bool may_succeed = index < UPSTAIRS_SLOTS;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *slot = &upstairs->slots[i];
		may_succeed = may_succeed || (slot->is_named && (slot->phase != SLOT_COUNTED || !request->asked[i]));
	}
	if (!may_succeed)
		return -EIO;
	list_append(&upstairs->parked_reads, &request->link); /* until a slot is back: reads_retry() */
	return 0;
}

static void ask_another(struct upstairs *upstairs, struct upstairs_request *request)
{
	int status = try_another(upstairs, request);
	if (status < 0 && !request->is_single && request->count > 1) {
		request->is_single = true;
		memset(request->asked, 0, sizeof request->asked);
		status = try_another(upstairs, request);
	}
	if (status < 0)
		upstairs->environment.complete(upstairs->environment.context, request, status);
}

int reads_start(struct upstairs *upstairs, struct upstairs_request *request)
{
	save(upstairs, 1);
	list_init(&request->link);
	memset(request->jobs, 0, sizeof request->jobs);
	memset(request->asked, 0, sizeof request->asked);
	request->is_single = false;
	request->at = 0;
	return try_another(upstairs, request);
}

void reads_retry(struct upstairs *upstairs)
{
	struct list parked;
	list_init(&parked);
	list_splice(&parked, &upstairs->parked_reads);
	while (!list_empty(&parked)) {
		struct upstairs_request *request = LIST_FIRST(&parked, struct upstairs_request, link);
		list_remove(&request->link);
		ask_another(upstairs, request);
	}
}

static void hedge(struct upstairs *upstairs, struct job *job)
{
	struct upstairs_request *request = job->request;
	unsigned index = 0;
	while (request->jobs[index] != job)
		index++;
	learn_cost(upstairs, job, index);
	unsigned other = choose(upstairs, request);
	if (other == UPSTAIRS_SLOTS)
		return; /* nobody else has it */
	if (pay(upstairs) && ask(upstairs, request, other)) {
		upstairs->hedged_reads++;
		return;
	}
	job->late_at = upstairs->now + upstairs->options.hedge_after;
	watch(upstairs, job);
}

void reads_tick(struct upstairs *upstairs)
{
	while (reads_deadline(upstairs) <= upstairs->now) {
		struct job *job = LIST_FIRST(&upstairs->late_reads, struct job, late_link);
		list_remove(&job->late_link);
		hedge(upstairs, job);
	}
}

uint64_t reads_deadline(const struct upstairs *upstairs)
{
	return list_empty(&upstairs->late_reads)
		? UINT64_MAX
		: LIST_FIRST(&upstairs->late_reads, const struct job, late_link)->late_at;
}

/* Answers */

/* The job goes on, as later ones may have to wait for it, but nobody waits for its answer. */
static void let_go(struct upstairs_request *request, unsigned index)
{
	struct job *job = request->jobs[index];
	if (!job)
		return;
	request->jobs[index] = NULL;
	job->request = NULL;
	job->is_answered = true;
	list_remove(&job->late_link);
}

void reads_answered(struct upstairs *upstairs, struct upstairs_request *request, int error)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		let_go(request, i);
	if (error < 0 || !request->is_single || ++request->at == request->count) {
		upstairs->environment.complete(upstairs->environment.context, request, error);
		return;
	}
	memset(request->asked, 0, sizeof request->asked);
	ask_another(upstairs, request);
}

void reads_lost(struct upstairs *upstairs, struct job *job, unsigned index)
{
	struct upstairs_request *request = job->request;
	let_go(request, index);
	request->asked[index] = false;
	if (!is_under_way(request))
		ask_another(upstairs, request);
}

static bool is_no_open_write(void *context, struct job *other)
{
	const struct job *read = context;
	return other->kind != JOB_WRITE || other->is_answered || other->id > read->id;
}

bool reads_may_answer(struct upstairs *upstairs, struct job *job)
{
	if (!job->has_data)
		return false;
	if (jobs_visit_overlapping(upstairs, job, is_no_open_write, job))
		return true;
	if (list_empty(&job->held_link))
		list_append(&upstairs->held_reads, &job->held_link);
	return false;
}

static void take(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	struct upstairs_request *request = job->request;
	learn_cost(upstairs, job, index);
	job_unsent(upstairs, job, index, JOB_DONE);
	if (!request) {
		job_free_if_over(upstairs, job);
		return;
	}
	if (upstairs->environment.take_data(upstairs->environment.context, request, request->at, message) == 0) {
		for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
			if (i != index)
				let_go(request, i);
		}
		list_remove(&job->late_link);
		job->has_data = true;
		holes_read(upstairs, job, message);
		job_try_answer(upstairs, job);
		return;
	}
	heal_note(upstairs, index, job, message);
	let_go(request, index);
	job_free_if_over(upstairs, job);
	if (!is_under_way(request))
		ask_another(upstairs, request);
	heal_advance(upstairs);
}

void reads_answer(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	bool fits = !message->read_response.result.failed &&
		message->read_response.contexts.count == job->count &&
		message->read_response.data.length == job->count * upstairs->region.block_size;
	if (upstairs->fence == FENCE_READ && job->id == upstairs->fence_job)
		activate_fence_answer(upstairs, job, index, fits ? message : NULL);
	else if (upstairs->mend)
		mend_read(upstairs, job, index, fits ? message : NULL);
	else if (!fits)
		slot_drop(upstairs, index, "answers a read with something else than was asked for");
	else if (heal_expects(upstairs, job))
		heal_read(upstairs, job, index, message);
	else if (scrub_expects(upstairs, job))
		scrub_read(upstairs, job, index, message);
	else
		take(upstairs, job, index, message);
}

/* The end */

void reads_fail_all(struct upstairs *upstairs, int error)
{
	while (!list_empty(&upstairs->parked_reads)) {
		struct upstairs_request *request = LIST_FIRST(&upstairs->parked_reads, struct upstairs_request, link);
		list_remove(&request->link);
		upstairs->environment.complete(upstairs->environment.context, request, error);
	}
}
