#include "cli/slot-move.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/progress.h"
#include "cli/slots.h"
#include "log.h"
#include "volume/ports.h"

enum { LOOK_MS = 200, PATIENCE_S = 60 };

int ask_about_slot(const struct cli *cli, const char *command, const struct volume *volume, unsigned slot,
	const char *target, struct json_object **answer, int *exit_status, struct reason *reason)
{
	struct json_object *request = new_request(command);
	if (!request || !json_add_text(request, "volume", volume->name) || !json_add_number(request, "slot", slot) ||
		(target && !json_add_text(request, "target", target))) {
		json_object_put(request);
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	return change_while_served(cli, volume, request, exit_status, answer, reason);
}

int slot_shape(const struct volume *volume, unsigned slot, struct region_shape *shape, struct reason *reason)
{
	struct region_info infos[VOLUME_TARGETS - 1] = { 0 };
	unsigned count = 0;
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (i != slot)
			infos[count++].target = volume->targets[i];
	}
	region_infos_get(infos, count);
	for (unsigned i = 0; i < count; i++) {
		if (infos[i].error < 0)
			continue;
		*shape = (struct region_shape){
			.block_size = infos[i].block_size,
			.extent_blocks = infos[i].extent_blocks,
			.extents = infos[i].extents,
			.encrypted = infos[i].encrypted,
		};
		return 0;
	}
	return reason_set(reason, infos[0].error, "%s: none of its other regions can be asked for its shape: %.*s",
		volume->name, 380, infos[0].reason.text);
}

/* Waiting */

/* -EAGAIN while it is being copied. */
static int judge(struct json_object *state, const char *target, struct progress *progress, uint64_t extent,
	struct reason *reason)
{
	uint64_t done = 0;
	bool in_sync = false;
	const char *name = json_text_or(state, "state", "");
	if (strcmp(json_text_or(state, "target", ""), target) != 0)
		return reason_set(reason, -ESTALE, "another region has been put in its place: see tb4 status");
	json_switch(state, "in_sync", &in_sync);
	if (strcmp(name, "active") == 0 && in_sync)
		return 0;
	if (strcmp(name, "failed") == 0)
		return reason_set(reason, -EIO, "its slot has failed: %s: %s", json_text_or(state, "last_error", ""),
			json_text_or(state, "advice", ""));
	json_number(state, "repaired_extents", &done);
	progress_show(progress, done * extent);
	return -EAGAIN;
}

static int wait_until_copied(const struct cli *cli, const struct volume *volume, unsigned slot, const char *target,
	const struct region_shape *shape, struct reason *reason)
{
	struct progress progress;
	const uint64_t extent = shape->block_size * shape->extent_blocks;
	struct reason why;
	int status = -EAGAIN;
	catch_interrupts();
	progress_start(&progress, volume->name, region_shape_size(shape));
	time_t alive = time(NULL);
	while (status == -EAGAIN && !was_interrupted()) {
		CLEANUP_JSON struct json_object *answer = NULL;
		struct json_object *crucible = look_at_crucible(cli, volume, &answer);
		struct json_object *state = crucible ? json_item_or_null(crucible, "slots", slot) : NULL;
		status = state ? judge(state, target, &progress, extent, &why)
					   : reason_set(&why, -ECONNREFUSED, "its gateway does not answer any more: the copying goes on when it runs again");
		if (state && strcmp(json_text_or(state, "state", ""), "repair") == 0)
			alive = time(NULL);
		if (status == -EAGAIN && time(NULL) - alive > PATIENCE_S)
			status = reason_set(&why, -EHOSTUNREACH, "it is not being copied: %s: that begins when it can: see tb4 status",
				json_text_or(state, "last_error", "its downstairs does not answer"));
		if (status == -EAGAIN)
			usleep(LOOK_MS * 1000);
	}
	progress_end(&progress);
	if (status == -EAGAIN)
		return reason_set(reason, -EINTR, "%s: slot %u is still being copied, and that goes on: see tb4 status %llu",
			volume->name, slot, (unsigned long long)volume->parsed.vmid);
	return status < 0 ? reason_set(reason, status, "%s: slot %u: %.*s", volume->name, slot, 400, why.text) : 0;
}

/* Moving */

/* The region that the slot had; what cannot be removed is said. */
static void remove_old(const struct cli *cli, const struct volume *volume, const struct region_place *old)
{
	struct reason reason;
	struct survey *survey;
	if (!old->sled || sleds_survey(&old->sled, 1, &survey, &reason) < 0) {
		log_warning("%s: its old region at %s is left where it is", volume->name, old->target);
		return;
	}
	const struct survey_region *region = survey_region(survey, old->port);
	bool is_ours = region && strcmp(region->volume, volume->name) == 0;
	if (survey->error < 0)
		log_warning("%s: its old region at %s is left where it is: %s", volume->name, old->target, survey->reason.text);
	else if (region && !is_ours)
		log_warning("%s: its old region at %s is left where it is: tb4 did not make it", volume->name, old->target);
	else if (is_ours && regions_remove(&cli->config, volume->name, old, 1, &reason) < 0)
		log_warning("%s: its old region at %s is left where it is: %s", volume->name, old->target, reason.text);
	surveys_free(survey, 1);
}

/* The gateway has not done it: no gateway was there, or it refused and the volume file does not name the region. */
static bool is_unused(const struct cli *cli, const struct volume *volume, unsigned slot, const char *target, int error)
{
	CLEANUP(volume_free) struct volume present = { 0 };
	struct reason ignored;
	if (error == -ECONNREFUSED)
		return true;
	CLEANUP_CLOSE int lock = error == -EPROTO ? volumes_lock(&cli->config, &ignored) : -1;
	return lock >= 0 && volume_load(&cli->config, volume->name, &present, &ignored) == 0 && present.targets[slot] &&
		strcmp(present.targets[slot], target) != 0;
}

int slot_move(const struct cli *cli, struct volume *volume, unsigned slot, const struct region_shape *shape,
	const struct survey *survey, const struct volumes *all, int *exit_status, struct reason *reason)
{
	struct region_place places[VOLUME_TARGETS], fresh = { 0 };
	CLEANUP_JSON struct json_object *answer = NULL;
	uint16_t first = volume_downstairs_port(volume);
	regions_of(&cli->config, volume, places);
	region_place_at(&fresh, survey->sled, region_port_on(survey, all, first ? (uint16_t)(first + slot) : 0));
	if (fresh.port == 0)
		return reason_set(reason, -EADDRINUSE, "%s: no free port on sled %s", volume->name, survey->sled->name);
	int status = regions_create(&cli->config, volume->name, shape, &fresh, 1, reason);
	if (status < 0)
		return status;
	status = ask_about_slot(cli, "replace", volume, slot, fresh.target, &answer, exit_status, reason);
	if (status < 0) {
		if (is_unused(cli, volume, slot, fresh.target, status))
			regions_undo(&cli->config, volume->name, &fresh, 1);
		else
			log_warning("%s: its new region at %s is left: it may be in use: see tb4 status", volume->name, fresh.target);
		return status;
	}
	struct reason why;
	if (regions_keep(&cli->config, volume->name, &fresh, 1, &why) < 0)
		log_warning("%s: %s", volume->name, why.text);
	status = wait_until_copied(cli, volume, slot, fresh.target, shape, reason);
	if (status < 0)
		return status;
	remove_old(cli, volume, &places[slot]);
	free(volume->targets[slot]);
	volume->targets[slot] = strdup(fresh.target);
	return volume->targets[slot] ? 0 : reason_set(reason, -ENOMEM, "out of memory");
}
