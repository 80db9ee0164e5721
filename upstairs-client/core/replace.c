/* replace.c: another region takes a slot's place.
 *
 *  1. Only while enough other slots are counted, both of them if this one is: the slot leaves as one whose connection
 *     is gone does.
 *  2. The record forgets its region together with that, and nothing is connected before this is stored: so a region
 *     takes the place only once, and a start in between finds no copy there.
 *  3. What then comes must be empty, or what a mistyped address leads to would be overwritten. It is recorded at once,
 *     so that the same region may come again while it is being copied.
 *  4. From there on it is a slot without a place: live repair, and it counts when it is named (design 6.6).
 */
#include <errno.h>
#include <string.h>

#include "core/core-internal.h"

static bool is_known(const struct crucible_uuid *region)
{
	static const struct crucible_uuid unknown;
	return memcmp(region, &unknown, sizeof unknown) != 0;
}

bool upstairs_may_replace(const struct upstairs *upstairs, unsigned index)
{
	bool is_counted = upstairs->slots[index].phase == SLOT_COUNTED;
	return upstairs->state == UPSTAIRS_SERVING && (!is_counted || core_counted(upstairs) == UPSTAIRS_SLOTS);
}

int upstairs_replace(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (!upstairs_may_replace(upstairs, index))
		return -EBUSY;
	slot->is_replaced = true;
	slot->has_region = slot->lies = false;
	if (slot->phase >= SLOT_CONNECTING && slot->phase != SLOT_FAILED)
		slot_drop(upstairs, index, NULL);
	slot->phase = SLOT_ABSENT;
	slot->retry_at = UINT64_MAX; /* until the record has forgotten the old one */
	slot->trouble = UPSTAIRS_TROUBLE_NONE;
	core_report(upstairs, index, "is replaced: the new region is copied from the others");
	core_advance(upstairs);
	slot_drop_doomed(upstairs);
	return 0;
}

bool replace_changes(const struct upstairs *upstairs, unsigned index, struct upstairs_record *record)
{
	const struct slot *slot = &upstairs->slots[index];
	if (!upstairs->record.exists)
		return false;
	if (slot->is_replaced && !record->in_sync[index] && is_known(&record->regions[index])) {
		record->regions[index] = (struct crucible_uuid){ { 0 } };
		record->full_copy[index] = false; /* it was the old one that lied */
		return true;
	}
	return slot->phase == SLOT_PRESENT && !is_known(&record->regions[index]); /* core_store() puts it in */
}

void replace_stored(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct slot *slot = &upstairs->slots[i];
		if (!slot->is_replaced || slot->is_named || is_known(&upstairs->record.regions[i]))
			continue;
		slot->is_replaced = false;
		slot->retry_at = upstairs->now;
		slot->retry_delay = RETRY_MIN_MS;
		history_set_slot(&upstairs->history, i, &(struct history_slot){ .place = 0 });
	}
}

bool replace_refuses(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	if (!upstairs->record.exists || is_known(&upstairs->record.regions[index]))
		return false;
	for (uint32_t i = 0; i < upstairs->region.extent_count; i++) {
		const struct version *version = &slot->versions[i];
		if (version->generation || version->flush_number || version->dirty)
			return true;
	}
	return false;
}
