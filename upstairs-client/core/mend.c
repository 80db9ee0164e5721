/* mend.c: extents made equal before the first request (design 6.8, crucible-protocol.md section 6).
 *
 * One extent at a time, four steps each: the source flushes it under our generation and a fresh flush number
 * (trap T4), all close it, the others fetch it from the source, all open it again. Before these, a block of an
 * extent that the source shows as flushed is rewritten there with its own bytes: its process may have been killed
 * between the stamp and the sync of that flush, and nothing but another write makes it sync the extent again. Each step waits for every
 * answer to the one before. Any error or lost connection ends it; the activation begins again.
 */
#include <errno.h>
#include <string.h>

#include "core/core-internal.h"

enum mend_step { MEND_READ, MEND_REWRITE, MEND_FLUSH, MEND_CLOSE, MEND_REPAIR, MEND_REOPEN };

struct planned {
	uint32_t extent;
	uint8_t source;
	bool goes_to[UPSTAIRS_SLOTS];
};

struct mend {
	size_t count, at;
	enum mend_step step;
	uint64_t repair_id, job_id; /* job: of MEND_REWRITE */
	bool waits_for[UPSTAIRS_SLOTS];
	struct planned plan[];
};

static bool is_newer(const struct version *a, const struct version *b)
{
	if (a->generation != b->generation)
		return a->generation > b->generation;
	if (a->flush_number != b->flush_number)
		return a->flush_number > b->flush_number;
	return a->dirty && !b->dirty;
}

static bool same_stamp(const struct version *a, const struct version *b)
{
	return a->generation == b->generation && a->flush_number == b->flush_number;
}

/* The newest stamp that the slot shows: what a power loss inside that flush may have torn. */
static struct version highest_stamp(const struct upstairs *upstairs, unsigned index)
{
	struct version highest = { 0 };
	for (uint32_t extent = 0; extent < upstairs->region.extent_count; extent++) {
		struct version version = upstairs->slots[index].versions[extent];
		version.dirty = false;
		if (is_newer(&version, &highest))
			highest = version;
	}
	return highest;
}

/* Does the extent have to be mended, and from where to where? */
static bool plan_extent(const struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS], uint32_t extent,
	const struct version highest[UPSTAIRS_SLOTS], struct planned *planned)
{
	const struct version *best = NULL;
	bool was_flushed = false;
	*planned = (struct planned){ .extent = extent };
	for (uint8_t i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!is_source[i])
			continue;
		const struct version *version = &upstairs->slots[i].versions[extent];
		was_flushed = was_flushed || (version->generation > 0 && same_stamp(version, &highest[i]));
		if (!best || is_newer(version, best)) {
			best = version;
			planned->source = i;
		}
	}
	bool needed = was_flushed && !upstairs->record.released && upstairs->record.exists;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!upstairs->in_activation[i] || i == planned->source)
			continue;
		const struct version *version = &upstairs->slots[i].versions[extent];
		planned->goes_to[i] = true;
		needed = needed || version->dirty || best->dirty || !same_stamp(version, best) || !is_source[i];
	}
	return needed;
}

static void begin_extent(struct upstairs *upstairs);

int mend_begin(struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS])
{
	uint32_t extents = upstairs->region.extent_count;
	struct version highest[UPSTAIRS_SLOTS] = { 0 };
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (is_source[i])
			highest[i] = highest_stamp(upstairs, i);
	}
	struct mend *mend = core_allocate(upstairs, sizeof *mend + extents * sizeof mend->plan[0]);
	if (!mend)
		return -ENOMEM;
	*mend = (struct mend){ .count = 0 };
	/* extent 0 last: what it carries says that the slot is a copy */
	for (uint32_t i = 1; i <= extents; i++) {
		if (plan_extent(upstairs, is_source, i % extents, highest, &mend->plan[mend->count]))
			mend->count++;
	}
	upstairs->mend = mend;
	if (mend->count == 0) {
		mend_end(upstairs);
		return 1;
	}
	core_report(upstairs, UPSTAIRS_SLOTS, "%zu of %u extents are made equal first", mend->count, extents);
	begin_extent(upstairs);
	return 0;
}

static struct crucible_message message_of(struct upstairs *upstairs, uint64_t flush_number)
{
	const struct mend *mend = upstairs->mend;
	const struct planned *planned = &mend->plan[mend->at];
	struct crucible_message message = { .type = CRUCIBLE_EXTENT_CLOSE };
	switch (mend->step) {
	case MEND_FLUSH:
		message.type = CRUCIBLE_EXTENT_FLUSH;
		message.extent_flush.repair_id = mend->repair_id;
		message.extent_flush.extent_id = planned->extent;
		message.extent_flush.slot = planned->source;
		message.extent_flush.flush_number = flush_number;
		message.extent_flush.generation = upstairs->generation;
		break;
	case MEND_REOPEN:
		message.type = CRUCIBLE_EXTENT_REOPEN;
		/* fall through */
	case MEND_CLOSE:
		message.extent.repair_id = mend->repair_id;
		message.extent.extent_id = planned->extent;
		break;
	case MEND_READ:
	case MEND_REWRITE:
		break;
	case MEND_REPAIR:
		message.type = CRUCIBLE_EXTENT_REPAIR;
		message.extent_repair.repair_id = mend->repair_id;
		message.extent_repair.extent_id = planned->extent;
		message.extent_repair.source_slot = planned->source;
		message.extent_repair.source_address = upstairs->slots[planned->source].repair_address;
		break;
	}
	return message;
}

static void send_step(struct upstairs *upstairs)
{
	struct mend *mend = upstairs->mend;
	const struct planned *planned = &mend->plan[mend->at];
	uint8_t destinations[UPSTAIRS_SLOTS];
	size_t count = 0;
	struct crucible_message message =
		message_of(upstairs, mend->step == MEND_FLUSH ? core_next_flush_number(upstairs) : 0);
	for (uint8_t i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (planned->goes_to[i])
			destinations[count++] = i;
		mend->waits_for[i] = mend->step == MEND_FLUSH ? i == planned->source
			: mend->step == MEND_REPAIR               ? planned->goes_to[i]
													  : upstairs->in_activation[i];
	}
	if (mend->step == MEND_REPAIR)
		message.extent_repair.destination_slots = (struct crucible_u8s){ destinations, count };
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (mend->waits_for[i])
			upstairs->environment.send(upstairs->environment.context, i, &message);
	}
}

/* A job of the source's alone. */
static void send_job(struct upstairs *upstairs, enum job_kind kind)
{
	struct mend *mend = upstairs->mend;
	const struct planned *planned = &mend->plan[mend->at];
	struct job *job = job_new(upstairs, kind, planned->extent * upstairs->region.extent_size, 1);
	if (!job) {
		slot_doom(upstairs, planned->source, "out of memory");
		return;
	}
	job->entry = kind == JOB_WRITE ? upstairs->spare_entry : NULL;
	job->is_answered = kind == JOB_WRITE; /* nobody waits for it */
	mend->job_id = job->id;
	job_send(upstairs, job, planned->source);
}

static void begin_extent(struct upstairs *upstairs)
{
	struct mend *mend = upstairs->mend;
	const struct planned *planned = &mend->plan[mend->at];
	const struct version *version = &upstairs->slots[planned->source].versions[planned->extent];
	memset(mend->waits_for, 0, sizeof mend->waits_for);
	mend->step = version->dirty || version->generation == 0 ? MEND_FLUSH : MEND_READ;
	if (mend->step == MEND_READ)
		send_job(upstairs, JOB_READ);
	else
		send_step(upstairs);
}

void mend_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	struct history_entry *entry = activate_spare_entry(upstairs, job->start);
	job_free(upstairs, job);
	if (!entry) {
		slot_doom(upstairs, index, "out of memory");
	} else if (!message || !activate_fill(upstairs, entry, message)) {
		upstairs->mend->step = MEND_FLUSH; /* as it is; whoever reads the block is told */
		send_step(upstairs);
	} else {
		upstairs->mend->step = MEND_REWRITE;
		send_job(upstairs, JOB_WRITE);
	}
}

void mend_written(struct upstairs *upstairs, uint64_t job_id)
{
	struct mend *mend = upstairs->mend;
	if (!mend || mend->step != MEND_REWRITE || mend->job_id != job_id)
		return;
	mend->step = MEND_FLUSH;
	send_step(upstairs);
}

/* The step is over: the next one of this extent. False if that was all. */
static bool next_step(struct mend *mend)
{
	mend->repair_id++;
	if (mend->step != MEND_REOPEN) {
		mend->step++;
		return true;
	}
	return false;
}

void mend_received(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct mend *mend = upstairs->mend;
	if (!mend || message->type != CRUCIBLE_REPAIR_ACK_ID || message->repair_ack.repair_id != mend->repair_id ||
		!mend->waits_for[index]) {
		char text[120] = "answers what it was not asked";
		if (message->type == CRUCIBLE_EXTENT_ERROR) {
			crucible_error_text(&message->extent_error.error, text, sizeof text);
			/* its next flush would be hollow (trap T2), so it is no copy any more */
			if (mend && mend->step == MEND_FLUSH)
				slot_lies(upstairs, index);
		}
		slot_drop(upstairs, index, text);
		return;
	}
	mend->waits_for[index] = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (mend->waits_for[i])
			return;
	}
	if (next_step(mend)) {
		send_step(upstairs);
		return;
	}
	if (++mend->at < mend->count) {
		begin_extent(upstairs);
		return;
	}
	mend_end(upstairs);
	core_advance(upstairs);
}

void mend_end(struct upstairs *upstairs)
{
	core_release(upstairs, upstairs->mend);
	upstairs->mend = NULL;
}
