#include "cli/cli.h"

static struct json_object *to_json(const struct volumes *volumes)
{
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; i < volumes->count; i++) {
		const struct volume *volume = &volumes->items[i];
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		json_add_number(object, "vmid", volume->parsed.vmid);
		json_add_number(object, "size", volume->size);
		json_add_text(object, "backend", volume_backends[volume->backend]);
		json_add_text(object, "host", volume->host);
		json_append(list, object);
	}
	struct json_object *object = json_object_new_object();
	json_add(object, "volumes", list);
	return object;
}

int command_volume_list(struct cli *cli)
{
	uint64_t vmid = 0;
	struct volumes volumes;
	if (cli->argument_count > 0 && vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM", cli->arguments[0]);
	int status = load_volumes(cli, vmid, &volumes);
	int printed = 0;
	if (has_option(cli, OPTION_JSON)) {
		printed = print_json(to_json(&volumes));
	} else {
		printf("%-24s %8s  %-8s %s\n", "VOLUME", "SIZE", "BACKEND", "HOST");
		for (size_t i = 0; i < volumes.count; i++) {
			const struct volume *volume = &volumes.items[i];
			char size[SIZE_TEXT_MAX];
			printf("%-24s %8s  %-8s %s\n", volume->name, size_format(volume->size, size),
				volume_backends[volume->backend], volume->host);
		}
	}
	volumes_free(&volumes);
	return status < 0 ? exit_status_for(status) : printed;
}
