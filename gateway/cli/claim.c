#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/offline.h"

/* show */

static struct json_object *to_json(const char *volume, const struct record *record)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "volume", volume);
	json_add_text(object, "claim_id", record->claim_id);
	json_add_number(object, "seq", record->seq);
	json_add_text(object, "node", record->node);
	json_add_text(object, "boot_id", record->boot_id);
	json_add_number(object, "generation_first", record->generation_first);
	json_add_number(object, "generation_last", record->generation_last);
	json_add_switch(object, "released", record->released);
	return object;
}

/* Shows one record; a volume that was never claimed has none. */
static int show(const struct cli *cli, const char *volume, struct json_object *list)
{
	struct record record;
	struct reason reason;
	int status = record_load(&cli->config, volume, &record, &reason);
	if (status == -ENOENT) {
		if (!list)
			printf("%-24s %-12s never claimed\n", volume, "-");
		return 0;
	}
	if (status < 0)
		return fail(status, &reason);
	if (list)
		json_append(list, to_json(volume, &record));
	else
		printf("%-24s %-12s %s, generations %llu-%llu, seq %llu, claim %s\n", volume, record.node,
			record.released ? "released" : "owned", (unsigned long long)record.generation_first,
			(unsigned long long)record.generation_last, (unsigned long long)record.seq,
			record.claim_id);
	return 0;
}

static int show_all(const struct cli *cli, struct json_object *list)
{
	struct volumes volumes;
	int status = exit_status_for(load_volumes(cli, 0, &volumes));
	for (size_t i = 0; i < volumes.count; i++) {
		int shown = show(cli, volumes.items[i].name, list);
		status = status ? status : shown;
	}
	volumes_free(&volumes);
	return status;
}

int command_claim_show(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	bool json = has_option(cli, OPTION_JSON);
	int status = cli->argument_count ? find_volume(cli, cli->arguments[0], &volume, &reason) : 0;
	if (status < 0)
		return fail(status, &reason);
	struct json_object *list = json ? json_object_new_array() : NULL;
	if (json && !list)
		return fail_text(EXIT_INTERNAL, "out of memory");
	if (!json)
		printf("%-24s %-12s %s\n", "VOLUME", "NODE", "CLAIM");
	status = cli->argument_count ? show(cli, volume.name, list) : show_all(cli, list);
	if (json) {
		struct json_object *object = json_object_new_object();
		json_add(object, "claims", list);
		int printed = print_json(object);
		status = status ? status : printed;
	}
	return status;
}

/* release and force */

static int report(const struct cli *cli, const char *did, const char *would, const struct volume *volume)
{
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s %s\n", dry_run ? would : did, volume->name);
	return 0;
}

/* Nobody of this node runs the VM (we have its lock), so a claim of this node is a dead one's. */
static int release(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	struct ownership *ownership = NULL;
	struct record record;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = dry_run ? refuse_if_running(cli, volume->parsed.vmid, reason)
						 : ownership_open(&cli->config, volume->parsed.vmid, &ownership, reason);
	if (status < 0)
		return status;
	status = record_load(&cli->config, volume->name, &record, reason);
	bool has_record = status == 0;
	if (has_record && !record.released && strcmp(record.node, cli->config.node_name) != 0)
		status = reason_set(reason, -EBUSY,
			"%s: claimed by node %s: release it there, or take it with tb4 claim force %s", volume->name,
			record.node, volume->name);
	if (status == -ENOENT)
		status = 0; /* a role file may still name the volume */
	if (status == 0 && !dry_run && has_record)
		status = claim_release(&cli->config, volume->name, record.claim_id, reason);
	if (status == 0 && !dry_run)
		status = ownership_release(ownership, volume->name, reason);
	ownership_close(ownership);
	return status;
}

int command_claim_release(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0)
		status = release(cli, &volume, &reason);
	return status < 0 ? fail(status, &reason) : report(cli, "released", "would release", &volume);
}

/* A claim of our own in place of whatever there is, given up at once: the present owner is fenced, the
 * next start claims as usual. The volume file is changed first, so that a failure in between leaves
 * the owner as it is. */
static int force(const struct cli *cli, struct volume *volume, struct reason *reason)
{
	struct record claim;
	int readable = record_load(&cli->config, volume->name, &claim, reason);
	if (readable < 0 && readable != -ENOENT)
		return readable;
	if (strcmp(volume->host, cli->config.node_name) != 0) {
		CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
		if (lock < 0)
			return lock;
		CLEANUP(volume_free) struct volume read_before = *volume;
		/* again: it may have grown since */
		int status = find_volume(cli, read_before.name, volume, reason);
		if (status < 0)
			return status;
		char *host = strdup(cli->config.node_name);
		if (!host)
			return reason_set(reason, -ENOMEM, "out of memory");
		free(volume->host);
		volume->host = host;
		status = volume_write(&cli->config, volume, reason);
		if (status < 0)
			return status;
	}
	int status = claim_take(&cli->config, volume, (uint64_t)time(NULL), true, &claim, reason);
	if (status == 0)
		status = claim_release(&cli->config, volume->name, claim.claim_id, reason);
	/* A role that a dead gateway of this node left would fence the next start. */
	struct ownership *ownership = NULL;
	if (status == 0 && ownership_open(&cli->config, volume->parsed.vmid, &ownership, NULL) == 0)
		status = ownership_release(ownership, volume->name, reason);
	ownership_close(ownership);
	return status;
}

static bool confirm(const struct volume *volume)
{
	char answer[8];
	fprintf(stderr,
		"Whoever runs VM %llu now loses %s at once and gets I/O errors. Go on? [y/N] ",
		(unsigned long long)volume->parsed.vmid, volume->name);
	return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int command_claim_force(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status < 0)
		return fail(status, &reason);
	if (!has_option(cli, OPTION_DRY_RUN)) {
		if (!has_option(cli, OPTION_YES) && (!isatty(STDIN_FILENO) || !confirm(&volume)))
			return fail_text(EXIT_BAD_USAGE, "%s: not taken: use --yes", volume.name);
		status = force(cli, &volume, &reason);
	}
	return status < 0 ? fail(status, &reason) : report(cli, "took", "would take", &volume);
}
