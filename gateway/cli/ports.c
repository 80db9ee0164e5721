#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "volume/ports.h"

enum { DISKS_SHOWN = 3 };

/* What one disk has, or would get if it were made now, behind those shown before it. */
struct plan {
	char name[VOLUME_NAME_MAX];
	bool exists;
	uint16_t nbd, downstairs;
	struct reason note; /* whose the scheme's ports of downstairs are */
	unsigned device;
};

static const struct volume *find(const struct volumes *all, const char *name)
{
	for (size_t i = 0; i < all->count; i++) {
		if (strcmp(all->items[i].name, name) == 0)
			return &all->items[i];
	}
	return NULL;
}

/* A volume that is only planned takes its ports from those that are planned after it. */
static int remember(struct volumes *all, const struct volume *planned, struct reason *reason)
{
	struct volume *items = realloc(all->items, (all->count + 1) * sizeof *items);
	if (!items)
		return reason_set(reason, -ENOMEM, "out of memory");
	all->items = items;
	items[all->count++] = *planned;
	return 0;
}

static int make_plan(struct volumes *all, const char *name, struct plan *plan, struct reason *reason)
{
	struct volume fresh = { 0 };
	const struct volume *volume = find(all, name);
	snprintf(plan->name, sizeof plan->name, "%s", name);
	plan->exists = volume;
	if (!volume) {
		snprintf(fresh.name, sizeof fresh.name, "%s", name);
		volume_name_parse(name, &fresh.parsed);
		int status = ports_assign(all, &fresh, &plan->note, reason);
		if (status == 0)
			status = remember(all, &fresh, reason);
		if (status < 0)
			return status;
		volume = &fresh;
	}
	plan->nbd = volume_nbd_port(volume);
	plan->downstairs = volume_downstairs_port(volume);
	volume_device(volume, &plan->device);
	return 0;
}

static struct json_object *to_json(const struct plan *plan)
{
	struct json_object *object = json_object_new_object();
	struct json_object *downstairs = json_object_new_array(), *repair = json_object_new_array();
	for (unsigned slot = 0; slot < PORT_SLOTS; slot++) {
		json_append(downstairs, json_object_new_int(plan->downstairs + (int)slot));
		json_append(repair, json_object_new_int(plan->downstairs + (int)slot + PORT_REPAIR_OFFSET));
	}
	json_add_text(object, "name", plan->name);
	json_add_switch(object, "exists", plan->exists);
	json_add_number(object, "nbd", plan->nbd);
	json_add_number(object, "device", plan->device);
	json_add(object, "downstairs", downstairs);
	json_add(object, "repair", repair);
	if (plan->note.text[0])
		json_add_text(object, "note", plan->note.text);
	return object;
}

static void print_plan(const struct plan *plan)
{
	char device[24];
	snprintf(device, sizeof device, "/dev/nbd%u", plan->device);
	printf("%-20s %6u  %u-%u  %u-%u  %-12s %s%s%s\n", plan->name, plan->nbd, plan->downstairs,
		plan->downstairs + PORT_SLOTS - 1, plan->downstairs + PORT_REPAIR_OFFSET,
		plan->downstairs + PORT_SLOTS - 1 + PORT_REPAIR_OFFSET, device,
		plan->exists ? "" : "not made yet", plan->note.text[0] ? ": " : "", plan->note.text);
}

static int show_one(struct volumes *all, const char *name, struct json_object *list)
{
	struct plan plan = { 0 };
	struct reason reason;
	int status = make_plan(all, name, &plan, &reason);
	if (status < 0)
		return fail(status, &reason);
	if (list)
		json_append(list, to_json(&plan));
	else
		print_plan(&plan);
	return 0;
}

/* The first disks, made or not, then the VM's other volumes. */
static int show(struct volumes *all, uint64_t vmid, struct json_object *list)
{
	char name[VOLUME_NAME_MAX];
	int status = 0;
	for (unsigned disk = 0; disk < DISKS_SHOWN && status == 0; disk++) {
		volume_name_of_disk(vmid, disk, name);
		status = show_one(all, name, list);
	}
	for (size_t i = 0; i < all->count && status == 0; i++) {
		const struct volume_name *parsed = &all->items[i].parsed;
		bool was_shown = parsed->is_disk && !parsed->is_base && parsed->disk < DISKS_SHOWN;
		if (parsed->vmid == vmid && !was_shown)
			status = show_one(all, all->items[i].name, list);
	}
	return status;
}

int command_ports(struct cli *cli)
{
	uint64_t vmid;
	struct volumes all;
	bool json = has_option(cli, OPTION_JSON);
	if (vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM (%d to %d)", cli->arguments[0],
			VMID_MIN, VMID_MAX);
	int damaged = load_volumes(cli, 0, &all);
	struct json_object *list = json ? json_object_new_array() : NULL;
	if (json && !list) {
		volumes_free(&all);
		return fail_text(EXIT_INTERNAL, "out of memory");
	}
	if (!json)
		printf("%-20s %6s  %-9s  %-9s  %s\n", "VOLUME", "NBD", "REPLICAS", "REPAIR", "DEVICE");
	int status = show(&all, vmid, list);
	volumes_free(&all);
	if (json) {
		struct json_object *object = json_object_new_object();
		json_add_number(object, "vmid", vmid);
		json_add(object, "volumes", list);
		int printed = print_json(object);
		status = status ? status : printed;
	}
	return status ? status : exit_status_for(damaged == -ENOENT ? 0 : damaged);
}
