#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "cleanup.h"
#include "cli/create-regions.h"
#include "cli/create.h"
#include "cli/offline.h"
#include "kernel/device.h"

/* What holds the bytes. */
static int destroy_bytes(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	int status = remove_regions(cli, volume, reason);
	return status < 0 ? status : backend_for(volume)->destroy(&cli->config, volume, reason);
}

int destroy_volume(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	int status = destroy_bytes(cli, volume, reason);
	if (status < 0)
		return status;
	CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
	return lock < 0 ? lock : volume_forget(volume, reason);
}

/* Asks for the volume's name on the terminal. */
static bool confirm(const struct volume *volume)
{
	char line[VOLUME_NAME_MAX + 2], size[SIZE_TEXT_MAX];
	fprintf(stderr, "This deletes %s (%s) and all that is on it. Type its name to go on: ",
		volume->name, size_format(volume->size, size));
	if (!fgets(line, sizeof line, stdin))
		return false;
	line[strcspn(line, "\n")] = '\0';
	return strcmp(line, volume->name) == 0;
}

/* Deletes under the claim, so that no gateway can begin meanwhile, here or elsewhere. */
static int delete_claimed(const struct cli *cli, struct ownership *ownership,
	const struct volume *volume, struct reason *reason)
{
	struct hold hold;
	int status = refuse_if_owned(cli, volume->name, reason);
	if (status < 0)
		return status;
	status = ownership_hold(ownership, volume, (uint64_t)time(NULL), &hold, reason);
	if (status == 0)
		status = destroy_bytes(cli, volume, reason);
	if (status == 0) /* the volume file goes last: as long as it is there delete can be repeated */
		status = ownership_drop(ownership, volume->name, reason);
	if (status < 0) {
		struct reason ignored;
		ownership_release(ownership, volume->name, &ignored);
		return status;
	}
	CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
	return lock < 0 ? lock : volume_forget(volume, reason);
}

int command_volume_delete(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct ownership *ownership = NULL;
	struct reason reason;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status < 0)
		return fail(status, &reason);
	struct kernel_device device;
	if (device_find(DEVICE_SYSFS, volume.name, &device))
		return fail_text(EXIT_TRY_LATER, "%s: is attached, as /dev/nbd%u: tb4 detach it first", volume.name, device.number);
	if (!dry_run && !has_option(cli, OPTION_YES)) {
		if (!isatty(STDIN_FILENO))
			return fail_text(EXIT_BAD_USAGE, "%s: not deleted: there is no terminal to ask on: use --yes",
				volume.name);
		if (!confirm(&volume))
			return fail_text(EXIT_BAD_USAGE, "%s: not deleted", volume.name);
	}
	if (dry_run)
		status = offline_check(cli, &volume, &reason);
	else
		status = ownership_open(&cli->config, volume.parsed.vmid, &ownership, &reason);
	if (status == 0 && !dry_run)
		status = delete_claimed(cli, ownership, &volume, &reason);
	ownership_close(ownership);
	if (status < 0)
		return fail(status, &reason);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s %s\n", dry_run ? "would delete" : "deleted", volume.name);
	return 0;
}
