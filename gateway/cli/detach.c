#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "kernel/attach.h"

/* What to detach. The volume files are not asked: they may be gone. */
struct wanted {
	uint64_t vmid; /* all of a VM, unless 0 */
	char name[VOLUME_NAME_MAX];
};

static bool is_wanted(const struct wanted *wanted, const struct kernel_device *device)
{
	struct volume_name parsed;
	const char *volume = device_volume(device);
	if (wanted->vmid == 0)
		return device_is_of(device, wanted->name);
	return volume && volume_name_parse(volume, &parsed) == 0 && parsed.vmid == wanted->vmid;
}

static int detach_one(const struct cli *cli, const struct kernel_device *device, struct json_object *list)
{
	char path[DEVICE_PATH_MAX];
	struct reason reason;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = dry_run ? 0 : attach_end(&cli->config, device, has_option(cli, OPTION_FORCE), &reason);
	if (status < 0)
		return fail(status, &reason);
	if (list) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", device_volume(device));
		json_add_text(object, "device", device_path(device->number, path));
		json_append(list, object);
	} else {
		printf("%s %s from /dev/nbd%u\n", dry_run ? "would detach" : "detached", device_volume(device), device->number);
	}
	return 0;
}

int command_detach(struct cli *cli)
{
	struct wanted wanted = { .vmid = 0 };
	struct kernel_device device;
	struct reason reason;
	bool json = has_option(cli, OPTION_JSON), any = false;
	int first = 0;
	if (has_option(cli, OPTION_DISK) || vmid_parse(cli->arguments[0], &wanted.vmid) < 0) {
		int status = name_volume(cli, cli->arguments[0], wanted.name, &reason);
		if (status < 0)
			return fail(status, &reason);
	}
	struct json_object *list = json ? json_object_new_array() : NULL;
	CLEANUP_CLOSEDIR DIR *dir = opendir(DEVICE_SYSFS);
	while (dir && device_next(dir, DEVICE_SYSFS, &device)) {
		if (!is_wanted(&wanted, &device))
			continue;
		int status = detach_one(cli, &device, list);
		first = first ? first : status;
		any = true;
	}
	if (!json && !any)
		printf(wanted.vmid ? "nothing of VM %s is attached\n" : "%s is not attached\n", wanted.vmid ? cli->arguments[0] : wanted.name);
	if (!json)
		return first;
	struct json_object *object = json_object_new_object();
	json_add(object, "devices", list);
	json_add_switch(object, "dry_run", has_option(cli, OPTION_DRY_RUN));
	int printed = print_json(object);
	return first ? first : printed;
}
