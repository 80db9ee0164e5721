/* volume-slots.c: `tb4 volume replace` and `tb4 volume retry`. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "cli/sleds.h"
#include "cli/slot-move.h"

/* The volume and the slot that the arguments name. */
static int find_slot(const struct cli *cli, struct volume *volume, unsigned *slot, struct reason *reason)
{
	const char *text = cli->arguments[1];
	*slot = (unsigned)(text[0] - '0');
	if (!isdigit((unsigned char)text[0]) || text[1] != '\0' || *slot >= VOLUME_TARGETS)
		return reason_set(reason, -EINVAL, "%s: not a slot: they are 0 to %d, as tb4 status shows them", text,
			VOLUME_TARGETS - 1);
	return find_crucible_volume(cli, cli->arguments[0], "slots", volume, reason);
}

static int print_slot(const struct cli *cli, const struct volume *volume, unsigned slot, const char *target,
	const char *done)
{
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		json_add_number(object, "slot", slot);
		json_add_text(object, "target", target);
		return print_json(object);
	}
	printf("%s: slot %u, %s, %s: see tb4 status %llu\n", volume->name, slot, target, done,
		(unsigned long long)volume->parsed.vmid);
	return 0;
}

/* Asks the gateway to do it; prints the result, or why not. Returns an exit status. */
static int change_slot(const struct cli *cli, const char *command, const char *target, const char *done)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	CLEANUP_JSON struct json_object *answer = NULL;
	struct reason reason;
	unsigned slot;
	int exit_status = 0;
	int status = find_slot(cli, &volume, &slot, &reason);
	if (status == 0)
		status = ask_about_slot(cli, command, &volume, slot, target, &answer, &exit_status, &reason);
	if (status < 0)
		return fail_change(exit_status, status, &reason);
	return print_slot(cli, &volume, slot, json_text_or(answer, "target", "?"), done);
}

/* The sled must be another one than those of the other slots. */
static int refuse_shared(const struct cli *cli, const struct volume *volume, unsigned slot, const struct sled *sled,
	struct reason *reason)
{
	struct region_place places[VOLUME_TARGETS];
	regions_of(&cli->config, volume, places);
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (i != slot && places[i].sled == sled && !has_option(cli, OPTION_ALLOW_SINGLE_SLED))
			return reason_set(reason, -EINVAL, "%s: sled %s has slot %u already: see --allow-single-sled", volume->name,
				sled->name, i);
	}
	return 0;
}

static int move_to_sled(const struct cli *cli, struct volume *volume, unsigned slot, int *exit_status,
	struct reason *reason)
{
	struct survey *survey;
	struct region_shape shape;
	char refusal[400];
	size_t count;
	int status = survey_sleds(cli, cli->values[OPTION_SLED], &survey, &count, reason);
	if (status < 0)
		return status;
	status = refuse_shared(cli, volume, slot, survey->sled, reason);
	if (status == 0)
		status = slot_shape(volume, slot, &shape, reason);
	if (status == 0 && survey_refuses(survey, region_shape_size(&shape), shape.extents, refusal, sizeof refusal))
		status = reason_set(reason, survey->error < 0 ? survey->error : -ENOSPC, "%s: %s", volume->name, refusal);
	if (status == 0) {
		struct volumes all;
		load_volumes(cli, 0, &all); /* damaged ones are said, and their ports are seen on the sled */
		status = slot_move(cli, volume, slot, &shape, survey, &all, exit_status, reason);
		volumes_free(&all);
	}
	surveys_free(survey, count);
	return status;
}

static int replace_by_sled(const struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	unsigned slot;
	int exit_status = 0;
	int status = find_slot(cli, &volume, &slot, &reason);
	if (status == 0)
		status = move_to_sled(cli, &volume, slot, &exit_status, &reason);
	if (status < 0)
		return fail_change(exit_status, status, &reason);
	return print_slot(cli, &volume, slot, volume.targets[slot], "is new and in sync");
}

int command_volume_replace(struct cli *cli)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	const char *target = cli->values[OPTION_TARGET];
	if (cli->target_count + has_option(cli, OPTION_SLED) != 1)
		return fail_text(EXIT_BAD_USAGE, "volume replace needs one --sled NAME or one --target HOST:PORT");
	if (!target)
		return replace_by_sled(cli);
	if (target_parse(target, host, &port) < 0)
		return fail_text(EXIT_BAD_USAGE, "--target %s: not HOST:PORT", target);
	return change_slot(cli, "replace", target, "is new and is being copied");
}

int command_volume_retry(struct cli *cli)
{
	return change_slot(cli, "retry", NULL, "is tried again");
}
