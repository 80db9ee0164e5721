#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "cleanup.h"
#include "cli/cli.h"
#include "cli/create-regions.h"
#include "cli/create.h"
#include "cli/place.h"
#include "volume/ports.h"

static int describe_file(const struct cli *cli, struct volume *volume, struct reason *reason)
{
	static const enum option_id others[] = { OPTION_TARGET, OPTION_KEY_FILE, OPTION_ENCRYPT, OPTION_ALLOW_SINGLE_SLED,
		OPTION_FORCE };
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		if (has_option(cli, others[i]))
			return reason_set(reason, -EINVAL, "%s is for --backend crucible", option_infos[others[i]].name);
	}
	if (asprintf(&volume->image, "%s/%s.raw", cli->config.data_dir, volume->name) < 0) {
		volume->image = NULL;
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	return 0;
}

/* The volume as it will be, except for its ports. */
static int describe(const struct cli *cli, const char *name, uint64_t size, struct volume *volume,
	struct creation *creation, struct reason *reason)
{
	*volume = (struct volume){ 0 };
	if (settings_default(volume_table, volume_table_size, volume) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	volume->size = size;
	snprintf(volume->name, sizeof volume->name, "%s", name);
	if (volume_name_parse(name, &volume->parsed) < 0)
		return reason_set(reason, -EINVAL, "%s: not a name for a volume, such as vm-200-disk-0", name);
	bool is_adopted = cli->command->run == command_volume_adopt; /* its size is that of the regions */
	if ((size == 0 && !is_adopted) || size % VOLUME_SECTOR != 0)
		return reason_set(reason, -EINVAL, "%s: the size must be a multiple of %d bytes and not 0",
			name, VOLUME_SECTOR);
	const char *backend = cli->values[OPTION_BACKEND];
	while (backend && volume_backends[volume->backend] &&
		strcmp(volume_backends[volume->backend], backend) != 0)
		volume->backend++;
	if (!volume_backends[volume->backend])
		return reason_set(reason, -EINVAL, "--backend %s: this version has: file, crucible", backend);
	const char *description = cli->values[OPTION_DESCRIPTION];
	if (description && !json_is_utf8(description, strlen(description)))
		return reason_set(reason, -EINVAL, "--description: not valid UTF-8");
	volume->host = strdup(cli->config.node_name);
	volume->description = description ? strdup(description) : NULL;
	if (!volume->host || (description && !volume->description))
		return reason_set(reason, -ENOMEM, "out of memory");
	return volume->backend == VOLUME_BACKEND_CRUCIBLE ? creation_describe(cli, volume, creation, reason)
													   : describe_file(cli, volume, reason);
}

static int refuse_existing(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	CLEANUP_FREE char *path = NULL;
	if (asprintf(&path, "%s/%s.conf", cli->config.volume_dir, volume->name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (access(path, F_OK) == 0)
		return reason_set(reason, -EEXIST, "%s: exists already: see tb4 volume info %s",
			volume->name, volume->name);
	return 0;
}

/* Ports, and for Crucible places of regions. Changes nothing. */
static int plan(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason)
{
	struct volumes all;
	int damaged = load_volumes(cli, 0, &all); /* reported; stops us only if we need the pool */
	int status = ports_assign(&all, volume, NULL, reason);
	if (status == 0 && damaged < 0 && (volume->nbd_port || volume->device || volume->downstairs_port))
		status = reason_set(reason, -EBADMSG,
			"%s: its port or device may be that of a damaged volume: mend that first, see tb4 check",
			volume->name);
	if (status == 0 && volume->backend == VOLUME_BACKEND_CRUCIBLE)
		status = creation_plan(cli, &all, volume, creation, reason);
	volumes_free(&all);
	return status;
}

static int make(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason)
{
	const struct backend_operations *backend = backend_for(volume);
	int status = creation_make(cli, volume, creation, reason);
	if (status < 0)
		return status;
	status = backend->create(&cli->config, volume, reason);
	if (status < 0) {
		creation_undo(cli, volume, creation);
		return status;
	}
	status = volume_write(&cli->config, volume, reason);
	if (status < 0) {
		volume_forget(volume, NULL); /* it may be there, only not durable */
		backend->destroy(&cli->config, volume, NULL);
		creation_undo(cli, volume, creation);
		return status;
	}
	creation_keep(cli, volume, creation);
	return 0;
}

int create_volume(const struct cli *cli, const char *name, uint64_t size, bool dry_run,
	struct volume *volume, struct reason *reason)
{
	CLEANUP(creation_free) struct creation creation = { 0 };
	int status = describe(cli, name, size, volume, &creation, reason);
	if (status < 0)
		return status;
	CLEANUP_CLOSE int lock = dry_run ? -1 : volumes_lock(&cli->config, reason);
	if (lock < 0 && !dry_run)
		return lock;
	status = refuse_existing(cli, volume, reason);
	if (status == 0)
		status = plan(cli, volume, &creation, reason);
	return status < 0 || dry_run ? status : make(cli, volume, &creation, reason);
}

/* --name, or the VMID's disk, which the name must not contradict. */
static int choose_name(const struct cli *cli, char name[VOLUME_NAME_MAX], struct reason *reason)
{
	uint64_t vmid;
	struct volume_name parsed;
	const char *full = cli->values[OPTION_NAME];
	if (vmid_parse(cli->arguments[0], &vmid) < 0)
		return reason_set(reason, -EINVAL, "%s: not the number of a VM (%d to %d)", cli->arguments[0],
			VMID_MIN, VMID_MAX);
	if (!full)
		return name_volume(cli, cli->arguments[0], name, reason);
	if (has_option(cli, OPTION_DISK))
		return reason_set(reason, -EINVAL, "--name and --disk exclude each other");
	if (volume_name_parse(full, &parsed) < 0 || parsed.vmid != vmid)
		return reason_set(reason, -EINVAL, "--name %s: not a name for a volume of VM %llu", full,
			(unsigned long long)vmid);
	snprintf(name, VOLUME_NAME_MAX, "%s", full);
	return 0;
}

/* "created vm-200-disk-0: 50G, ..." or the same as JSON. */
static int print_created(const struct cli *cli, const struct volume *volume, const char *done)
{
	char size_text[SIZE_TEXT_MAX], place[PLACE_TEXT_MAX];
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		json_add_number(object, "size", volume->size);
		json_add_text(object, "backend", volume_backends[volume->backend]);
		place_add(object, volume);
		json_add_switch(object, "dry_run", has_option(cli, OPTION_DRY_RUN));
		return print_json(object);
	}
	printf("%s %s: %s, %s backend, %s\n", done, volume->name,
		size_format(volume->size, size_text), volume_backends[volume->backend], place_text(volume, place));
	return 0;
}

/* A Crucible volume that is there just as it is asked for: whoever repeats a create, as a playbook does, has it. */
static bool is_there(const struct cli *cli, const char *name, uint64_t size, struct volume *volume)
{
	struct reason ignored;
	const char *backend = cli->values[OPTION_BACKEND], *key_file = cli->values[OPTION_KEY_FILE];
	if (!backend || strcmp(backend, volume_backends[VOLUME_BACKEND_CRUCIBLE]) != 0 || cli->target_count > 0)
		return false;
	bool is_same = volume_load(&cli->config, name, volume, &ignored) == 0 && volume->backend == VOLUME_BACKEND_CRUCIBLE &&
		volume->size == size && !volume->key_file == !(key_file || has_option(cli, OPTION_ENCRYPT)) &&
		(!key_file || strcmp(key_file, volume->key_file) == 0);
	if (!is_same)
		volume_free(volume);
	return is_same;
}

static int create(const struct cli *cli, uint64_t size, const char *done, const char *would)
{
	char name[VOLUME_NAME_MAX];
	struct reason reason;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = choose_name(cli, name, &reason);
	if (status < 0)
		return fail(status, &reason);
	CLEANUP(volume_free) struct volume volume = { 0 };
	if (is_there(cli, name, size, &volume))
		return print_created(cli, &volume, "is there already:");
	status = create_volume(cli, name, size, dry_run, &volume, &reason);
	return status < 0 ? fail(status, &reason) : print_created(cli, &volume, dry_run ? would : done);
}

int command_volume_create(struct cli *cli)
{
	uint64_t size;
	if (size_parse(cli->arguments[1], &size) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not a size such as 50G, 512M or 4096",
			cli->arguments[1]);
	return create(cli, size, "created", "would create");
}

int command_volume_adopt(struct cli *cli)
{
	cli->values[OPTION_BACKEND] = volume_backends[VOLUME_BACKEND_CRUCIBLE];
	if (cli->target_count != VOLUME_TARGETS)
		return fail_text(EXIT_BAD_USAGE, "volume adopt needs --target HOST:PORT %d times, has it %d times", VOLUME_TARGETS,
			cli->target_count);
	return create(cli, 0, "adopted", "would adopt");
}
