#include "cli/slots.h"

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { RECORD_WAITS_MS = 1000 };

static struct json_object *slot_at(struct json_object *volume, size_t index)
{
	struct json_object *crucible;
	return json_object_object_get_ex(volume, "crucible", &crucible) ? json_item_or_null(crucible, "slots", index) : NULL;
}

static bool is_well(struct json_object *slot)
{
	bool in_sync = false;
	json_switch(slot, "in_sync", &in_sync);
	return in_sync && strcmp(json_text_or(slot, "state", ""), "active") == 0 &&
		strcmp(json_text_or(slot, "trouble", ""), "none") == 0;
}

static void print_repair(struct json_object *slot)
{
	uint64_t done = 0, all = 0, rate = 0, left = 0;
	char speed[SIZE_TEXT_MAX];
	if (!json_number(slot, "repaired_extents", &done) || !json_number(slot, "extents_to_repair", &all) || all == 0)
		return;
	printf(", %llu of %llu extents", (unsigned long long)done, (unsigned long long)all);
	if (json_number(slot, "repair_bytes_per_second", &rate) && rate > 0 &&
		json_number(slot, "repair_seconds_left", &left))
		printf(", %s/s, %llu s left", size_for_people(rate, speed), (unsigned long long)left);
}

static void print_slot(struct json_object *slot, size_t index)
{
	bool in_sync = false;
	const char *error = json_text_or(slot, "last_error", ""), *advice = json_text_or(slot, "advice", "");
	bool has_trouble = strcmp(json_text_or(slot, "trouble", ""), "none") != 0;
	json_switch(slot, "in_sync", &in_sync);
	printf("       slot %zu, %s: %s%s", index, json_text_or(slot, "target", ""), json_text_or(slot, "state", ""),
		in_sync ? "" : ", not in sync");
	print_repair(slot);
	if (has_trouble && error[0])
		printf(": %s", error);
	if (has_trouble && advice[0])
		printf(": %s", advice);
	putchar('\n');
}

/* Nothing is acknowledged before a change of the claim record is stored. */
static bool waits_for_record(struct json_object *volume)
{
	struct json_object *crucible;
	uint64_t since = 0;
	return json_object_object_get_ex(volume, "crucible", &crucible) &&
		json_number(crucible, "record_waits_ms", &since) && since >= RECORD_WAITS_MS;
}

static void print_scrub(struct json_object *volume)
{
	struct json_object *crucible, *scrub;
	bool is_running = false;
	uint64_t done = 0, all = 0;
	if (!json_object_object_get_ex(volume, "crucible", &crucible) ||
		!json_object_object_get_ex(crucible, "scrub", &scrub) || !json_switch(scrub, "running", &is_running) ||
		!is_running || !json_number(scrub, "done_blocks", &done) || !json_number(scrub, "all_blocks", &all) || all == 0)
		return;
	printf("       scrub: %u %% of the blocks compared\n", (unsigned)(100 * (double)done / (double)all));
}

void slots_print(struct json_object *volume)
{
	struct json_object *slot;
	if (waits_for_record(volume))
		puts("       requests wait: its claim record cannot be written: the gateway's log says why");
	print_scrub(volume);
	for (size_t i = 0; (slot = slot_at(volume, i)); i++) {
		if (!is_well(slot))
			print_slot(slot, i);
	}
}

void slots_add_degraded(struct json_object *volume, struct json_object *degraded)
{
	const char *name = json_text_or(volume, "name", "?");
	struct json_object *crucible, *slot;
	const char *copies = json_object_object_get_ex(volume, "crucible", &crucible) ? json_text_or(crucible, "copies", "?")
																				  : "serving";
	if (strcmp(copies, "serving") != 0)
		json_append_text(degraded, "%s: its copies are %s", name, copies);
	if (waits_for_record(volume))
		json_append_text(degraded, "%s: its claim record cannot be written", name);
	for (size_t i = 0; (slot = slot_at(volume, i)); i++) {
		const char *trouble = json_text_or(slot, "trouble", "none");
		bool in_sync = false, has_trouble = strcmp(trouble, "none") != 0;
		json_switch(slot, "in_sync", &in_sync);
		if (!is_well(slot))
			json_append_text(degraded, "%s: slot %zu: %s%s%s%s", name, i, json_text_or(slot, "state", "?"),
				in_sync ? "" : ", not in sync", has_trouble ? ", " : "", has_trouble ? trouble : "");
	}
}

struct json_object *look_at_crucible(const struct cli *cli, const struct volume *volume, struct json_object **answer)
{
	struct reason ignored;
	struct json_object *one, *crucible;
	if (ask_gateway(cli, volume->parsed.vmid, new_request("status"), answer, &ignored) < 0)
		return NULL;
	one = volume_in_status(*answer, volume->name);
	return one && json_object_object_get_ex(one, "crucible", &crucible) ? crucible : NULL;
}
