/* mend.c: extents made equal before the first request (design 6.8, crucible-protocol.md section 6).
 *
 * One extent at a time, four steps each: the source flushes it under our generation and a fresh flush number
 * (trap T4), all close it, the others fetch it from the source, all open it again. Each step waits for every
 * answer to the one before. Any error or lost connection ends it; the activation begins again.
 *
 * Before these, the source's copy is looked at, if power may have been lost while it was written: it is dirty, or
 * was flushed since the activation that the record speaks of, and the record was not released. (Not only the highest
 * stamp of its slot: a mend that was cut short has put higher ones on other extents.)
 *
 *  1. Every block must fit its context. One that does not is written there as another source has it. If none has it,
 *     it stays as it is, and is an error to whoever reads it; but data without a context in an extent that was never
 *     flushed becomes the zeros that it was before. (In one that was, such data may have replaced what was flushed: its
 *     context was to go where there was none, and was lost.)
 *  2. Of an extent that shows as flushed a block is rewritten with its own bytes: the process may have been killed
 *     between the stamp and the sync of that flush, and nothing but another write makes it sync the extent again.
 */
#include <errno.h>
#include <string.h>

#include "core/core-internal.h"

enum mend_step { MEND_CHECK, MEND_ASK, MEND_REWRITE, MEND_FLUSH, MEND_CLOSE, MEND_REPAIR, MEND_REOPEN };

struct planned {
	uint32_t extent;
	uint8_t source;
	bool is_suspect; /* power may have been lost while it was written */
	bool goes_to[UPSTAIRS_SLOTS];
};

struct mend {
	size_t count, at;
	enum mend_step step;
	uint64_t repair_id;
	uint64_t asked_at; /* by core_clock(): for the copy */
	bool waits_for[UPSTAIRS_SLOTS];
	/* CHECK, ASK and REWRITE */
	bool is_source[UPSTAIRS_SLOTS], was_asked[UPSTAIRS_SLOTS];
	uint64_t job_id, block; /* the first that is not checked yet */
	bool is_unwritten;      /* and was never flushed on the source */
	bool has_rewritten;
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

/* The newest stamp that the slot got while the volume was served: what a power loss inside that flush may have torn. Newer
 * ones are of activations that came to no end; they must not hide it. */
static struct version highest_stamp(const struct upstairs *upstairs, unsigned index)
{
	struct version highest = { 0 };
	for (uint32_t extent = 0; extent < upstairs->region.extent_count; extent++) {
		struct version version = upstairs->slots[index].versions[extent];
		version.dirty = false;
		if (version.generation <= upstairs->record.stamped && is_newer(&version, &highest))
			highest = version;
	}
	return highest;
}

/* Does the extent have to be mended, and from where to where? */
static bool plan_extent(const struct upstairs *upstairs, const bool is_source[UPSTAIRS_SLOTS], uint32_t extent,
	const struct version highest[UPSTAIRS_SLOTS], struct planned *planned)
{
	const struct version *best = NULL;
	bool was_flushed = false, is_clean = upstairs->record.released || !upstairs->record.exists;
	*planned = (struct planned){ .extent = extent };
	for (uint8_t i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!is_source[i])
			continue;
		const struct version *version = &upstairs->slots[i].versions[extent];
		was_flushed = was_flushed || version->generation > upstairs->record.stamped ||
			(version->generation > 0 && same_stamp(version, &highest[i]));
		if (!best || is_newer(version, best)) {
			best = version;
			planned->source = i;
		}
	}
	bool needed = best->dirty || (was_flushed && !is_clean);
	planned->is_suspect = best->dirty ||
		(best->generation > 0 && !is_clean && best->generation >= upstairs->record.stamped);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (!upstairs->in_activation[i] || i == planned->source)
			continue;
		const struct version *version = &upstairs->slots[i].versions[extent];
		planned->goes_to[i] = true;
		needed = needed || version->dirty || !same_stamp(version, best) || !is_source[i];
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
	memcpy(mend->is_source, is_source, sizeof mend->is_source);
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
	case MEND_CHECK:
	case MEND_ASK:
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
	mend->asked_at = core_clock(upstairs);
	if (mend->step == MEND_REPAIR)
		message.extent_repair.destination_slots = (struct crucible_u8s){ destinations, count };
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (mend->waits_for[i])
			upstairs->environment.send(upstairs->environment.context, i, &message);
	}
}

/* The source's copy */

static const struct planned *current(const struct upstairs *upstairs)
{
	return &upstairs->mend->plan[upstairs->mend->at];
}

/* A job of one slot alone. */
static void send_job(struct upstairs *upstairs, enum mend_step step, unsigned index, uint64_t start, uint64_t count)
{
	struct mend *mend = upstairs->mend;
	struct job *job = job_new(upstairs, step == MEND_REWRITE ? JOB_WRITE : JOB_READ, start, count);
	if (!job) {
		slot_doom(upstairs, index, "out of memory");
		return;
	}
	job->entry = step == MEND_REWRITE ? upstairs->spare_entry : NULL;
	job->is_answered = step == MEND_REWRITE; /* nobody waits for it */
	mend->step = step;
	mend->job_id = job->id;
	job_send(upstairs, job, index);
}

static void flush_extent(struct upstairs *upstairs)
{
	upstairs->mend->step = MEND_FLUSH;
	send_step(upstairs);
}

static void check_blocks(struct upstairs *upstairs)
{
	const struct planned *planned = current(upstairs);
	uint64_t size = upstairs->region.extent_size, most = UPSTAIRS_REQUEST_MAX / upstairs->region.block_size;
	uint64_t start = upstairs->mend->block, left = (planned->extent + 1) * size - start;
	if (left == 0)
		flush_extent(upstairs);
	else
		send_job(upstairs, MEND_CHECK, planned->source, start, left < most ? left : most);
}

/* NULL: zeros. */
static void rewrite(struct upstairs *upstairs, uint64_t number, const struct read_block *block)
{
	const struct planned *planned = current(upstairs);
	struct history_entry *entry = block_entry(upstairs, number);
	if (!entry) {
		slot_doom(upstairs, planned->source, "out of memory");
		return;
	}
	if (block)
		block_fill(upstairs, entry, block);
	else
		block_fill_zeros(upstairs, entry);
	send_job(upstairs, MEND_REWRITE, planned->source, number, 1);
}

/* Another source may have the block that is damaged. */
static void ask_another(struct upstairs *upstairs)
{
	struct mend *mend = upstairs->mend;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (mend->is_source[i] && upstairs->in_activation[i] && !mend->was_asked[i]) {
			mend->was_asked[i] = true;
			send_job(upstairs, MEND_ASK, i, mend->block, 1);
			return;
		}
	}
	uint64_t number = mend->block++;
	if (mend->is_unwritten) {
		rewrite(upstairs, number, NULL);
	} else {
		core_report(upstairs, UPSTAIRS_SLOTS, "block %llu is damaged on every copy", (unsigned long long)number);
		check_blocks(upstairs); /* it stays as it is; whoever reads it is told */
	}
}

static void take_answer(struct upstairs *upstairs, const struct crucible_message *message)
{
	struct read_blocks blocks = blocks_of(message);
	struct read_block block = { .data = NULL };
	block_next(upstairs, &blocks, &block);
	if (block_is_good(upstairs, &block))
		rewrite(upstairs, upstairs->mend->block++, &block);
	else
		ask_another(upstairs);
}

static void take_check(struct upstairs *upstairs, const struct crucible_message *message)
{
	struct mend *mend = upstairs->mend;
	const struct planned *planned = current(upstairs);
	struct read_blocks blocks = blocks_of(message);
	struct read_block first = { .data = NULL }, block;
	for (uint64_t start = mend->block; block_next(upstairs, &blocks, &block); mend->block++) {
		if (!block_is_good(upstairs, &block)) {
			core_report(upstairs, planned->source, "block %llu is damaged: the other copies are asked",
				(unsigned long long)mend->block);
			mend->is_unwritten = block.context.kind == CRUCIBLE_BLOCK_EMPTY &&
				upstairs->slots[planned->source].versions[planned->extent].generation == 0;
			memset(mend->was_asked, 0, sizeof mend->was_asked);
			mend->was_asked[planned->source] = true;
			ask_another(upstairs);
			return;
		}
		if (mend->block == start)
			first = block;
	}
	bool is_end = mend->block == (planned->extent + 1) * upstairs->region.extent_size;
	bool is_dirty = upstairs->slots[planned->source].versions[planned->extent].dirty;
	if (is_end && !is_dirty && !mend->has_rewritten)
		rewrite(upstairs, mend->block - message->read_response.contexts.count, &first);
	else
		check_blocks(upstairs);
}

void mend_read(struct upstairs *upstairs, struct job *job, unsigned index, const struct crucible_message *message)
{
	enum mend_step step = upstairs->mend->step;
	job_free(upstairs, job);
	if (!message)
		slot_doom(upstairs, index, "answers a read as if it were another one");
	else if (step == MEND_ASK)
		take_answer(upstairs, message);
	else
		take_check(upstairs, message);
}

void mend_written(struct upstairs *upstairs, uint64_t job_id)
{
	struct mend *mend = upstairs->mend;
	if (!mend || mend->step != MEND_REWRITE || mend->job_id != job_id)
		return;
	mend->has_rewritten = true;
	check_blocks(upstairs);
}

static void begin_extent(struct upstairs *upstairs)
{
	struct mend *mend = upstairs->mend;
	const struct planned *planned = current(upstairs);
	memset(mend->waits_for, 0, sizeof mend->waits_for);
	mend->has_rewritten = false;
	mend->block = planned->extent * upstairs->region.extent_size;
	if (planned->is_suspect)
		check_blocks(upstairs);
	else
		flush_extent(upstairs);
}

bool mend_has_one_source(const struct upstairs *upstairs)
{
	const struct mend *mend = upstairs->mend;
	return mend && (unsigned)mend->is_source[0] + mend->is_source[1] + mend->is_source[2] == 1;
}

static bool goes_anywhere(const struct planned *planned)
{
	return planned->goes_to[0] || planned->goes_to[1] || planned->goes_to[2];
}

/* The step is over: the next one of this extent. False if that was all. */
static bool next_step(struct mend *mend)
{
	mend->repair_id++;
	if (mend->step != MEND_REOPEN && goes_anywhere(&mend->plan[mend->at])) {
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
		slot_drop_for(upstairs, index,
			message->type == CRUCIBLE_EXTENT_ERROR ? UPSTAIRS_TROUBLE_ERRORS : UPSTAIRS_TROUBLE_ANSWERS, text);
		return;
	}
	mend->waits_for[index] = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (mend->waits_for[i])
			return;
	}
	if (mend->step == MEND_REPAIR)
		recovery_copied(upstairs, mend->asked_at);
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
