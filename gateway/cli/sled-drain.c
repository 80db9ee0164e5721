/* sled-drain.c: `tb4 sled drain`: every region of a sled gets a place on another one, one after the other. A slot is
 * replaced only while both others are active (gateway-slots.c), so no volume is ever below two counted ones. */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "cli/sleds.h"
#include "cli/slot-move.h"
#include "log.h"

struct drain {
	const struct cli *cli;
	const struct sled *sled;
	struct volumes all;
	struct json_object *moved, *failed;
	int first; /* exit status of the first failure */
	size_t moved_count, failed_count;
	bool is_over;
};

static void note(struct json_object *list, const struct volume *volume, unsigned slot, const char *name, const char *text)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "name", volume->name);
	json_add_number(object, "slot", slot);
	json_add_text(object, name, text);
	json_append(list, object);
}

/* Where the slot's new region fits: the sled with most room that has none of the volume's. */
static int find_sled(const struct volume *volume, const struct region_shape *shape,
	const struct survey *surveys, size_t count, const struct survey **found, struct reason *reason)
{
	struct region_place place;
	struct reason why;
	int status = regions_place(surveys, count, shape, (const char *const *)volume->targets, VOLUME_TARGETS, false, 1, &place,
		1, &why);
	if (status < 0)
		return reason_set(reason, status, "%s: %.*s", volume->name, 400, why.text);
	for (size_t i = 0; i < count; i++) {
		if (surveys[i].sled == place.sled)
			*found = &surveys[i];
	}
	return 0;
}

static int move_slot(struct drain *drain, struct volume *volume, unsigned slot, int *exit_status, struct reason *reason)
{
	struct region_shape shape;
	struct survey *surveys;
	const struct survey *found = NULL;
	size_t count;
	int status = slot_shape(volume, slot, &shape, reason);
	if (status < 0)
		return status;
	status = survey_sleds(drain->cli, NULL, &surveys, &count, reason); /* anew, as each move changes what they have */
	if (status == 0)
		status = find_sled(volume, &shape, surveys, count, &found, reason);
	if (status == 0 && !has_option(drain->cli, OPTION_DRY_RUN))
		status = slot_move(drain->cli, volume, slot, &shape, found, &drain->all, exit_status, reason);
	if (status == 0)
		note(drain->moved, volume, slot, "sled", found->sled->name);
	if (status == 0 && !has_option(drain->cli, OPTION_JSON)) {
		printf("%s: slot %u %s sled %s\n", volume->name, slot,
			has_option(drain->cli, OPTION_DRY_RUN) ? "would go to" : "is now on", found->sled->name);
		fflush(stdout);
	}
	surveys_free(surveys, count);
	return status;
}

static void drain_slot(struct drain *drain, struct volume *volume, unsigned slot)
{
	struct reason reason;
	int exit_status = 0;
	int status = move_slot(drain, volume, slot, &exit_status, &reason);
	if (status == 0) {
		drain->moved_count++;
		return;
	}
	int failed = fail_change(exit_status, status, &reason);
	note(drain->failed, volume, slot, "reason", reason.text);
	drain->failed_count++;
	if (drain->first == 0)
		drain->first = failed;
	drain->is_over = status == -EINTR;
}

int command_sled_drain(struct cli *cli)
{
	struct drain drain = { .cli = cli, .sled = config_sled(&cli->config, cli->arguments[0]) };
	if (!drain.sled)
		return fail_text(EXIT_NO_INPUT, "%s: no such sled in tb4.conf: see tb4 sled list", cli->arguments[0]);
	drain.moved = json_object_new_array();
	drain.failed = json_object_new_array();
	load_volumes(cli, 0, &drain.all); /* damaged ones are said */
	for (size_t i = 0; i < drain.all.count && !drain.is_over; i++) {
		struct volume *volume = &drain.all.items[i];
		for (unsigned slot = 0; slot < VOLUME_TARGETS && !drain.is_over; slot++) {
			if (volume->backend == VOLUME_BACKEND_CRUCIBLE && slot_is_on(volume, slot, drain.sled))
				drain_slot(&drain, volume, slot);
		}
	}
	volumes_free(&drain.all);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "sled", drain.sled->name);
		json_add(object, "moved", drain.moved);
		json_add(object, "failed", drain.failed);
		json_add_switch(object, "dry_run", has_option(cli, OPTION_DRY_RUN));
		int status = print_json(object);
		return drain.first ? drain.first : status;
	}
	json_object_put(drain.moved);
	json_object_put(drain.failed);
	if (drain.moved_count + drain.failed_count == 0)
		printf("sled %s: no volume has a region there\n", drain.sled->name);
	return drain.first;
}
