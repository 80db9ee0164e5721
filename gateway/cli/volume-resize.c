#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "cli/offline.h"

/* The gateway grows the backend, the volume file and the export. */
static int resize_live(const struct cli *cli, const struct volume *volume, uint64_t size,
	int *exit_status, struct reason *reason)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct json_object *request = new_request("resize");
	if (!json_add_text(request, "volume", volume->name) || !json_add_number(request, "size", size)) {
		json_object_put(request);
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	return change_by_gateway(cli, volume->parsed.vmid, request, exit_status, &answer, reason);
}

static int check_size(const struct volume *volume, uint64_t size, struct reason *reason)
{
	char now[SIZE_TEXT_MAX];
	if (size % VOLUME_SECTOR != 0)
		return reason_set(reason, -EINVAL, "the size must be a multiple of %d bytes", VOLUME_SECTOR);
	if (size < volume->size)
		return reason_set(reason, -EINVAL, "%s: has %s already, and volumes do not shrink",
			volume->name, size_format(volume->size, now));
	return 0;
}

/* Nobody else changes the size while we own the volume; but somebody may have done so before. */
static int store_size(const struct cli *cli, const char *name, uint64_t size, struct reason *reason)
{
	CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
	CLEANUP(volume_free) struct volume present = { 0 };
	int status = lock < 0 ? lock : find_volume(cli, name, &present, reason);
	if (status == 0)
		status = check_size(&present, size, reason);
	if (status < 0)
		return status;
	present.size = size;
	return volume_write(&cli->config, &present, reason);
}

static int resize_offline(const struct cli *cli, const struct volume *volume, uint64_t size,
	struct reason *reason)
{
	struct offline offline;
	struct reason later;
	int status = offline_open(cli, volume, NULL, &offline, reason);
	if (status < 0)
		return status;
	status = offline_resize(&offline, size, reason);
	if (status == 0)
		status = store_size(cli, volume->name, size, reason);
	int closed = offline_close(&offline, &later);
	if (status == 0 && closed < 0)
		*reason = later;
	return status < 0 ? status : closed;
}

int command_volume_resize(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	uint64_t size;
	int refused = 0;
	char text[SIZE_TEXT_MAX];
	struct reason reason;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	if (size_parse(cli->arguments[1], &size) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not a size such as 50G, 512M or 4096",
			cli->arguments[1]);
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0)
		status = check_size(&volume, size, &reason);
	if (status == 0 && volume.read_only)
		status = reason_set(&reason, -EPERM, "%s: is read-only: see read_only in %s", volume.name, volume.path);
	bool grows = status == 0 && size > volume.size;
	if (grows && dry_run && refuse_if_running(cli, volume.parsed.vmid, &reason) == 0)
		status = offline_check(cli, &volume, &reason); /* else the gateway does it */
	if (grows && !dry_run) {
		status = resize_live(cli, &volume, size, &refused, &reason);
		if (status == -ECONNREFUSED)
			status = resize_offline(cli, &volume, size, &reason);
	}
	if (status < 0)
		return fail_change(refused, status, &reason);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "size", size);
		json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s %s to %s\n", dry_run ? "would resize" : "resized", volume.name, size_format(size, text));
	return 0;
}
