/* status.c: what an operator should know of a volume and its slots: what is wrong, and what to do about it. */
#include <stdio.h>
#include <string.h>

#include "core/core-internal.h"

enum { SLOW_MS = 1000, MUTE_MS = 5000 };

static const struct {
	const char *name, *advice;
} troubles[] = {
	[UPSTAIRS_TROUBLE_NONE] = { "none", "" },
	[UPSTAIRS_TROUBLE_UNREACHABLE] = { "unreachable",
		"start the downstairs, or look at the network between; it is copied or replayed by itself when it is back" },
	[UPSTAIRS_TROUBLE_LOST] = { "lost",
		"the downstairs was stopped or restarted, or the network fails; if this comes again look at its log" },
	[UPSTAIRS_TROUBLE_MUTE] = { "mute",
		"it accepts connections and does not answer: most likely it tries an operation again and again that fails, "
		"as on a full or failing disk; look at its log and disk, then kill it with SIGKILL and start it again" },
	[UPSTAIRS_TROUBLE_SLOW] = { "slow",
		"it answers much later than the others: look at the load and the disk of its sled" },
	[UPSTAIRS_TROUBLE_SILENT] = { "silent",
		"nothing came from it for 45 s: it is stopped, its host is gone, or the network is" },
	[UPSTAIRS_TROUBLE_ERRORS] = { "errors",
		"its disk fails: look at its log and disk; if the disk is broken replace the slot" },
	[UPSTAIRS_TROUBLE_FULL] = { "full",
		"the file system of its region is full: make room, then kill it with SIGKILL and start it again" },
	[UPSTAIRS_TROUBLE_WIPED] = { "wiped",
		"its region is empty and was not: it is copied as a whole; find out who made it anew" },
	[UPSTAIRS_TROUBLE_ROLLED_BACK] = { "rolled back",
		"its region is older than it was: it is copied as a whole; find out who restored it" },
	[UPSTAIRS_TROUBLE_WRONG_REGION] = { "wrong region",
		"start the downstairs of the right region at this address and retry the slot, or replace the slot if a new region "
		"shall be the copy" },
	[UPSTAIRS_TROUBLE_NOT_EMPTY] = { "not empty",
		"a slot is replaced by a new region only, so that no other volume's data is overwritten: make one and retry" },
	[UPSTAIRS_TROUBLE_MISFIT] = { "misfit",
		"start the downstairs with the region, the version and the mode that the volume has, and retry the slot" },
	[UPSTAIRS_TROUBLE_DISPLACED] = { "displaced",
		"another client is active on it: stop that one, or claim the volume again" },
	[UPSTAIRS_TROUBLE_ANSWERS] = { "wrong answers",
		"it does not keep to the protocol: look at its version and log" },
	[UPSTAIRS_TROUBLE_DAMAGED] = { "damaged",
		"blocks of it were damaged on disk and could not all be healed: look at the disk of its sled" },
	[UPSTAIRS_TROUBLE_MEMORY] = { "out of memory", "the gateway needs more memory" },
};

const char *upstairs_trouble_name(enum upstairs_trouble trouble)
{
	return troubles[trouble].name;
}

const char *upstairs_advice(enum upstairs_trouble trouble)
{
	return troubles[trouble].advice;
}

/* ms since the oldest request that it has not answered was sent. */
static uint64_t behind_for(const struct upstairs *upstairs, unsigned index)
{
	const struct job *oldest = slot_oldest(upstairs, index);
	return oldest ? upstairs->now - oldest->since : 0;
}

static enum upstairs_trouble trouble_of(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	if (slot->phase == SLOT_HELLO && upstairs->now - slot->connected_at >= MUTE_MS)
		return UPSTAIRS_TROUBLE_MUTE;
	if (slot->phase != SLOT_COUNTED)
		return slot->trouble;
	if (behind_for(upstairs, index) >= SLOW_MS)
		return UPSTAIRS_TROUBLE_SLOW;
	return slot->damaged > slot->healed ? UPSTAIRS_TROUBLE_DAMAGED : UPSTAIRS_TROUBLE_NONE;
}

static void describe_slot(const struct upstairs *upstairs, unsigned index, struct upstairs_slot_status *status)
{
	const struct slot *slot = &upstairs->slots[index];
	*status = (struct upstairs_slot_status){
		.state = upstairs_slot_state(upstairs, index),
		.is_in_sync = upstairs->record.in_sync[index],
		.generation = slot->shown,
		.behind = slot->outstanding_count,
		.behind_for = behind_for(upstairs, index),
		.read_cost = slot->read_cost / 16,
		.damaged = slot->damaged,
		.healed = slot->healed,
		.left = slot->left,
		.trouble = trouble_of(upstairs, index),
	};
	snprintf(status->error, sizeof status->error, "%s", slot->error);
	repair_describe(upstairs, index, status);
}

void upstairs_status(const struct upstairs *upstairs, struct upstairs_status *status)
{
	*status = (struct upstairs_status){
		.state = upstairs->state,
		.generation = upstairs->generation,
		.outrun_by = upstairs->outrun_by,
		.counted = core_counted(upstairs),
		.storing_for = upstairs->is_storing ? upstairs->now - upstairs->storing_since : 0,
		.unhealed = upstairs->unhealed,
		.hedged_reads = upstairs->hedged_reads,
		.dirty_extents = upstairs->dirty_count,
		.recovery_time = upstairs->region.block_size ? recovery_time(upstairs) : 0,
		.copy_rate = recovery_rate(upstairs) * 1000,
		.empty_memory = empty_memory(upstairs->empty),
	};
	scrub_status(upstairs, &status->scrub);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		describe_slot(upstairs, i, &status->slots[i]);
}
