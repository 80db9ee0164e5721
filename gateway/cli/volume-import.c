#include <errno.h>
#include <string.h>

#include "checked.h"
#include "cleanup.h"
#include "cli/copy.h"
#include "cli/create.h"
#include "log.h"
#include "sled/regions.h"

static int choose_size(const struct cli *cli, const struct image_source *source, uint64_t *size,
	struct reason *reason)
{
	const char *text = cli->values[OPTION_SIZE];
	if (text)
		return size_parse(text, size) < 0
			? reason_set(reason, -EINVAL, "--size %s: not a size such as 50G", text)
			: 0;
	if (source->size == 0)
		return reason_set(reason, -EINVAL,
			"the size of %s is not known beforehand: give it with --size", source->path);
	const char *backend = cli->values[OPTION_BACKEND];
	bool is_crucible = backend && strcmp(backend, volume_backends[VOLUME_BACKEND_CRUCIBLE]) == 0;
	*size = align_up(source->size, is_crucible ? REGION_BLOCK_SIZE : VOLUME_SECTOR);
	return 0;
}

static int refuse_options_of_new(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	static const enum option_id options[] = { OPTION_SIZE, OPTION_BACKEND, OPTION_ENCRYPT, OPTION_KEY_FILE,
		OPTION_ALLOW_SINGLE_SLED };
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		if (has_option(cli, options[i]))
			return reason_set(reason, -EEXIST, "%s: exists already; %s is for new ones", volume->name,
				option_infos[options[i]].name);
	}
	return 0;
}

/* Finds the volume, or makes it; *is_new says which. A new one is made under the VM's lock, which *ownership
 * then holds: until it is filled, or gone again, no gateway may begin to serve it. */
static int find_or_create(const struct cli *cli, const struct image_source *source, struct volume *volume,
	bool *is_new, struct ownership **ownership, struct reason *reason)
{
	uint64_t size;
	char name[VOLUME_NAME_MAX];
	struct volume_name parsed;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = find_volume(cli, cli->arguments[0], volume, reason);
	*is_new = status == -ENOENT;
	if (!*is_new)
		return status == 0 ? refuse_options_of_new(cli, volume, reason) : status;
	volume_free(volume);
	status = choose_size(cli, source, &size, reason);
	if (status == 0)
		status = name_volume(cli, cli->arguments[0], name, reason);
	if (status == 0 && !dry_run && volume_name_parse(name, &parsed) == 0)
		status = ownership_open(&cli->config, parsed.vmid, ownership, reason);
	return status < 0 ? status : create_volume(cli, name, size, dry_run, volume, reason);
}

/* Copies into the open volume. A volume that was blank before is blank again after a failure. */
static int fill(const struct cli *cli, struct image_source *source, struct offline *offline, bool is_new,
	struct reason *reason)
{
	const struct volume *volume = offline->volume;
	struct reason ignored;
	int blank = is_new ? 1 : copy_is_blank(offline, reason);
	if (blank < 0)
		return blank;
	if (!blank && !has_option(cli, OPTION_OVERWRITE))
		return reason_set(reason, -EEXIST,
			"%s: holds data: --overwrite replaces them, which cannot be undone", volume->name);
	struct copy_job job = {
		.offline = offline,
		.source = source,
		.path = source->path,
		.source_size = source->size,
		.size = volume->size,
		.is_blank = blank,
	};
	int status = copy_in(&job, reason);
	if (status < 0 && blank && !is_new)
		copy_blank(offline, &ignored);
	return status;
}

static int open_and_fill(const struct cli *cli, struct image_source *source, struct volume *volume,
	bool is_new, struct ownership *ownership, struct reason *reason)
{
	struct offline offline;
	struct reason later;
	int status = 0;
	if (source->size > volume->size)
		status = reason_set(reason, -EFBIG, "%s: larger than %s", source->path, volume->name);
	if (status == 0 && volume->read_only)
		status = reason_set(reason, -EPERM, "%s: is read-only: see read_only in %s", volume->name, volume->path);
	if (status == 0 && has_option(cli, OPTION_DRY_RUN))
		return offline_check(cli, volume, reason);
	if (status == 0)
		status = offline_open(cli, volume, ownership, &offline, reason);
	if (status < 0)
		return status;
	status = fill(cli, source, &offline, is_new, reason);
	int closed = offline_close(&offline, &later);
	if (status == 0 && closed < 0)
		*reason = later;
	return status < 0 ? status : closed;
}

static void undo_create(const struct cli *cli, const struct volume *volume)
{
	struct record record;
	struct reason reason;
	int status = destroy_volume(cli, volume, &reason);
	/* last: while the volume is there, so is what says of its copies which count */
	if (status == 0 && record_load(&cli->config, volume->name, &record, &reason) == 0 && record.released)
		status = record_remove(&cli->config, volume->name, &record, &reason);
	if (status < 0)
		log_warning("%s: could not be taken back: %s", volume->name, reason.text);
}

static int import(const struct cli *cli, struct image_source *source, struct volume *volume,
	struct reason *reason)
{
	bool is_new;
	struct ownership *ownership = NULL;
	int status = find_or_create(cli, source, volume, &is_new, &ownership, reason);
	if (status == 0) {
		status = open_and_fill(cli, source, volume, is_new, ownership, reason);
		if (status < 0 && is_new && !has_option(cli, OPTION_DRY_RUN))
			undo_create(cli, volume);
	}
	ownership_close(ownership);
	return status;
}

int command_volume_import(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct image_source source;
	struct reason reason;
	char size[SIZE_TEXT_MAX];
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	catch_interrupts();
	int status = image_source_open(cli->arguments[1], &source, &reason);
	if (status == 0)
		status = import(cli, &source, &volume, &reason);
	image_source_close(&source);
	if (status < 0)
		return fail(status, &reason);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "size", volume.size);
		json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s %s (%s) from %s\n", dry_run ? "would fill" : "filled", volume.name,
		size_format(volume.size, size), source.path);
	return 0;
}
