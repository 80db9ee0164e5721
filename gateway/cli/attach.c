
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "kernel/attach.h"
#include "kernel/keeper.h"
#include "log.h"
#include "volume/ports.h"

static void print_device(const struct attach *attach, const struct kernel_device *device, bool was_attached, bool dry_run)
{
	printf("%s is %s/dev/nbd%u%s\n", attach->volume->name, dry_run && !device->is_connected ? "to be " : "", device->number,
		was_attached ? ", and was already" : "");
}

static struct json_object *device_json(const struct attach *attach, const struct kernel_device *device, bool was_attached)
{
	char path[DEVICE_PATH_MAX];
	struct json_object *object = json_object_new_object();
	json_add_text(object, "name", attach->volume->name);
	json_add_text(object, "device", device_path(device->number, path));
	json_add_number(object, "size", device->is_connected ? device->size : attach->volume->size);
	json_add_switch(object, "was_attached", was_attached);
	return object;
}

/* Attaches one and says so. */
static int attach_one(const struct cli *cli, const struct attach *attach, struct json_object *list)
{
	struct kernel_device device;
	bool was_attached = false, dry_run = has_option(cli, OPTION_DRY_RUN);
	struct reason reason;
	int status = dry_run
		? device_choose(DEVICE_SYSFS, attach->volume->name, attach->number, attach->exactly, &device, &reason)
		: attach_volume(attach, &device, &was_attached, &reason);
	if (status < 0)
		return fail(status, &reason);
	if (dry_run)
		was_attached = device.is_connected;
	if (list)
		json_append(list, device_json(attach, &device, was_attached));
	else
		print_device(attach, &device, was_attached, dry_run);
	return 0;
}

static int attach_all(const struct cli *cli, const struct attach *attaches, size_t count)
{
	int first = 0;
	struct json_object *list = has_option(cli, OPTION_JSON) ? json_object_new_array() : NULL;
	for (size_t i = 0; i < count; i++) {
		int status = attach_one(cli, &attaches[i], list);
		first = first ? first : status;
	}
	if (!has_option(cli, OPTION_JSON))
		return first;
	struct json_object *object = json_object_new_object();
	json_add(object, "devices", list);
	json_add_switch(object, "dry_run", has_option(cli, OPTION_DRY_RUN));
	int printed = print_json(object);
	return first ? first : printed;
}

/* The volume that the argument names, or all of a VM where it is a VMID without --disk. Returns an exit status. */
static int find_volumes(const struct cli *cli, struct volumes *volumes)
{
	uint64_t vmid;
	struct reason reason;
	if (vmid_parse(cli->arguments[0], &vmid) == 0 && !has_option(cli, OPTION_DISK)) {
		int status = load_volumes(cli, vmid, volumes);
		if (volumes->count > 0)
			return 0; /* damaged ones have been reported */
		return status < 0 ? exit_status_for(status)
						  : fail_text(EXIT_NO_INPUT, "VM %s has no volumes", cli->arguments[0]);
	}
	volumes->items = calloc(1, sizeof *volumes->items);
	if (!volumes->items)
		return fail_text(EXIT_INTERNAL, "out of memory");
	volumes->count = 1;
	int status = find_volume(cli, cli->arguments[0], &volumes->items[0], &reason);
	return status < 0 ? fail(status, &reason) : 0;
}

int command_attach(struct cli *cli)
{
	CLEANUP(volumes_free) struct volumes volumes = { 0 };
	uint64_t connections = attach_connections(&cli->config), device = 0;
	struct reason reason;
	bool exactly = has_option(cli, OPTION_DEVICE);
	int status = number_option(cli, OPTION_CONNECTIONS, 1, ATTACH_CONNECTIONS_MAX, &connections, &reason);
	if (status == 0)
		status = number_option(cli, OPTION_DEVICE, 0, DEVICE_MAX, &device, &reason);
	status = status < 0 ? fail(status, &reason) : find_volumes(cli, &volumes);
	if (status == 0 && exactly && volumes.count > 1)
		status = fail_text(EXIT_BAD_USAGE, "--device goes with one volume; VM %s has %zu: see --disk", cli->arguments[0], volumes.count);
	if (status == 0 && has_option(cli, OPTION_KEEP) && (has_option(cli, OPTION_DRY_RUN) || has_option(cli, OPTION_JSON)))
		status = fail_text(EXIT_BAD_USAGE, "--keep does not go with --dry-run or --json");
	if (status)
		return status;
	CLEANUP_FREE struct attach *attaches = calloc(volumes.count, sizeof *attaches);
	if (!attaches)
		return fail_text(EXIT_INTERNAL, "out of memory");
	for (size_t i = 0; i < volumes.count; i++) {
		attaches[i] = (struct attach){
			.config = &cli->config,
			.volume = &volumes.items[i],
			.number = (unsigned)device,
			.exactly = exactly,
			.connections = (unsigned)connections,
			.wake = -1,
		};
		if (!exactly && !volume_device(&volumes.items[i], &attaches[i].number))
			return fail_text(EXIT_BAD_CONFIG, "%s: has no number of a device: set device below [ports] in %s",
				volumes.items[i].name, volumes.items[i].path);
	}
	if (!has_option(cli, OPTION_KEEP))
		return attach_all(cli, attaches, volumes.count);
	log_set_level(config_log_level(&cli->config));
	return keeper_run(attaches, volumes.count);
}
