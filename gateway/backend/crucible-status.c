#include "backend/crucible-status.h"

#include "core/core.h"
#include "json-fields.h"
#include "volume/volume.h"

static const char *const state_names[] = {
	[UPSTAIRS_IDLE] = "idle",
	[UPSTAIRS_ACTIVATING] = "activating",
	[UPSTAIRS_SERVING] = "serving",
	[UPSTAIRS_PAUSED] = "paused",
	[UPSTAIRS_DEACTIVATING] = "releasing",
	[UPSTAIRS_RELEASED] = "released",
	[UPSTAIRS_REFUSED] = "refused",
	[UPSTAIRS_FENCED] = "fenced",
};

static const char *const slot_state_names[] = {
	[UPSTAIRS_SLOT_ABSENT] = "absent",
	[UPSTAIRS_SLOT_CONNECTING] = "connecting",
	[UPSTAIRS_SLOT_WAITING] = "connecting",
	[UPSTAIRS_SLOT_MENDING] = "repair",
	[UPSTAIRS_SLOT_REPLAY] = "replay",
	[UPSTAIRS_SLOT_REPAIR] = "repair",
	[UPSTAIRS_SLOT_ACTIVE] = "active",
	[UPSTAIRS_SLOT_FAILED] = "failed",
};

static void add_slot(struct json_object *slots, const char *target, const struct upstairs_slot_status *slot)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "target", target);
	json_add_text(object, "state", slot_state_names[slot->state]);
	json_add_switch(object, "in_sync", slot->is_in_sync);
	json_add_number(object, "generation", slot->generation);
	json_add_number(object, "behind", slot->behind);
	json_add_number(object, "behind_ms", slot->behind_for);
	json_add_number(object, "read_us", slot->read_cost);
	json_add_number(object, "damaged_blocks", slot->damaged);
	json_add_number(object, "healed_blocks", slot->healed);
	if (slot->state == UPSTAIRS_SLOT_REPAIR) {
		json_add_number(object, "repaired_extents", slot->repaired);
		json_add_number(object, "extents_to_repair", slot->to_repair);
		json_add_number(object, "repair_bytes_per_second", slot->repair_rate);
		json_add_number(object, "repair_seconds_left", slot->repair_left);
	}
	json_add_text(object, "trouble", upstairs_trouble_name(slot->trouble));
	json_add_text(object, "advice", upstairs_advice(slot->trouble));
	json_add_text(object, "last_error", slot->error);
	json_append(slots, object);
}

static void add_scrub(struct json_object *object, const struct upstairs_scrub_status *scrub)
{
	struct json_object *item = json_object_new_object();
	json_add_switch(item, "running", scrub->is_running);
	json_add_number(item, "done_blocks", scrub->done);
	json_add_number(item, "all_blocks", scrub->all);
	json_add_number(item, "passes", scrub->passes);
	json_add_number(item, "differing_blocks", scrub->differing);
	json_add(object, "scrub", item);
}

void crucible_status_add(const struct upstairs_status *status, const struct volume *volume, struct json_object *object)
{
	json_add_text(object, "copies", state_names[status->state]);
	json_add_switch(object, "paused", status->state == UPSTAIRS_PAUSED);
	json_add_number(object, "counted", status->counted);
	json_add_text(object, "write_ack", volume_write_acks[volume->write_ack]);
	json_add_number(object, "min_copies", volume->min_copies);
	json_add_number(object, "record_waits_ms", status->storing_for);
	json_add_number(object, "block_size", volume->block_size);
	json_add_number(object, "unhealed_blocks", status->unhealed);
	json_add_number(object, "hedged_reads", status->hedged_reads);
	json_add_number(object, "dirty_extents", status->dirty_extents);
	json_add_number(object, "recovery_ms", status->recovery_time);
	add_scrub(object, &status->scrub);
	struct json_object *slots = json_object_new_array();
	for (unsigned i = 0; slots && i < UPSTAIRS_SLOTS; i++)
		add_slot(slots, volume->targets[i], &status->slots[i]);
	json_add(object, "slots", slots);
}
