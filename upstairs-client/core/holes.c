/* holes.c: what is known of blocks that were never written, and from where.
 *
 *  1. A start knows that an extent is empty if every slot of the activation shows that it was never flushed and is
 *     not dirty: a downstairs sets the dirty mark before it writes, and a flush stamps what it cleans. What the
 *     history has written since then is taken off.
 *  2. A read shows what is empty, unless a write has been sent behind it.
 *  3. What is written is not empty any more from the moment on that the write becomes a job. No block becomes empty
 *     again.
 */
#include "core/core-internal.h"

/* Was never written, on any slot of the activation? */
static bool is_untouched(const struct upstairs *upstairs, uint32_t extent)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct version *version = &upstairs->slots[i].versions[extent];
		if (upstairs->in_activation[i] && (version->dirty || version->generation || version->flush_number))
			return false;
	}
	return true;
}

void holes_begin(struct upstairs *upstairs)
{
	const struct crucible_region *region = &upstairs->region;
	holes_end(upstairs);
	upstairs->empty = empty_open(&upstairs->environment, region->extent_size * region->extent_count);
	for (uint32_t extent = 0; extent < region->extent_count; extent++) {
		if (is_untouched(upstairs, extent))
			empty_add(upstairs->empty, extent * region->extent_size, region->extent_size);
	}
	const struct history_entry *entry = history_newest(&upstairs->history);
	for (; entry; entry = history_before(&upstairs->history, entry))
		holes_written(upstairs, entry->start, entry->count);
}

void holes_end(struct upstairs *upstairs)
{
	empty_close(upstairs->empty);
	upstairs->empty = NULL;
}

void holes_written(struct upstairs *upstairs, uint64_t start, uint64_t count)
{
	empty_remove(upstairs->empty, start, count);
}

static bool is_no_later_write(void *context, struct job *other)
{
	const struct job *read = context;
	return other->kind != JOB_WRITE || other->id < read->id;
}

void holes_read(struct upstairs *upstairs, struct job *job, const struct crucible_message *message)
{
	struct crucible_read_contexts rest = message->read_response.contexts;
	struct crucible_read_context context;
	uint64_t from = job->start; /* of the empty blocks before `block` */
	bool is_current = true, was_checked = false;
	for (uint64_t block = job->start; is_current; block++) {
		bool is_end = !crucible_next_read_context(&rest, &context);
		if (!is_end && context.kind == CRUCIBLE_BLOCK_EMPTY)
			continue;
		if (block > from && !was_checked) {
			was_checked = true;
			is_current = jobs_visit_overlapping(upstairs, job, is_no_later_write, job);
		}
		if (block > from && is_current)
			empty_add(upstairs->empty, from, block - from);
		if (is_end)
			return;
		from = block + 1;
	}
}

bool upstairs_is_hole(const struct upstairs *upstairs, uint64_t start, uint64_t count, uint64_t *alike)
{
	bool is_empty;
	*alike = empty_run(upstairs->empty, start, count, &is_empty);
	return is_empty;
}
