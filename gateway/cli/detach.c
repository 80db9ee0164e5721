#include <errno.h>

#include "cleanup.h"
#include "cli/attach-arguments.h"
#include "kernel/attach.h"

static int detach_one(const struct cli *cli, const struct volume *volume, struct json_object *list)
{
	struct kernel_device device;
	struct reason reason;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	bool was_attached = device_find(DEVICE_SYSFS, volume->name, &device);
	int status = was_attached && !dry_run ? attach_end(&cli->config, &device, has_option(cli, OPTION_FORCE), &reason) : 0;
	if (status < 0)
		return fail(status, &reason);
	if (list) {
		char path[DEVICE_PATH_MAX];
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		if (was_attached)
			json_add_text(object, "device", device_path(device.number, path));
		json_add_switch(object, "was_attached", was_attached);
		json_append(list, object);
	} else if (was_attached) {
		printf("%s %s from /dev/nbd%u\n", dry_run ? "would detach" : "detached", volume->name, device.number);
	} else {
		printf("%s is not attached\n", volume->name);
	}
	return 0;
}

int command_detach(struct cli *cli)
{
	CLEANUP(volumes_free) struct volumes volumes = { 0 };
	int first = attach_arguments(cli, &volumes);
	if (first)
		return first;
	struct json_object *list = has_option(cli, OPTION_JSON) ? json_object_new_array() : NULL;
	for (size_t i = 0; i < volumes.count; i++) {
		int status = detach_one(cli, &volumes.items[i], list);
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
