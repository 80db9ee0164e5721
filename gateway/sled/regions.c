#include "sled/regions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

#include "cleanup.h"
#include "log.h"
#include "volume/ports.h"

enum { START_SECONDS = 20 };

struct region_shape region_shape_for(uint64_t size, bool encrypted)
{
	const uint64_t extent = (uint64_t)REGION_EXTENT_BLOCKS * REGION_BLOCK_SIZE;
	return (struct region_shape){
		.block_size = REGION_BLOCK_SIZE,
		.extent_blocks = REGION_EXTENT_BLOCKS,
		.extents = size / extent + (size % extent != 0),
		.encrypted = encrypted,
	};
}

uint64_t region_shape_size(const struct region_shape *shape)
{
	return shape->block_size * shape->extent_blocks * shape->extents;
}

/* Where things are */

void region_place_at(struct region_place *place, const struct sled *sled, uint16_t port)
{
	bool is_v6 = strchr(sled->address, ':');
	place->sled = sled;
	place->port = port;
	snprintf(place->target, sizeof place->target, "%s%s%s:%u", is_v6 ? "[" : "", sled->address, is_v6 ? "]" : "", port);
}

const struct sled *sled_at(const struct config *config, const char *host)
{
	for (size_t i = 0; i < config->sled_count; i++) {
		if (strcmp(config->sleds[i].address, host) == 0)
			return &config->sleds[i];
	}
	return NULL;
}

void regions_of(const struct config *config, const struct volume *volume, struct region_place places[VOLUME_TARGETS])
{
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		char host[TARGET_HOST_MAX];
		places[i] = (struct region_place){ 0 };
		if (!volume->targets[i] || target_parse(volume->targets[i], host, &places[i].port) < 0)
			continue;
		places[i].sled = sled_at(config, host);
		snprintf(places[i].target, sizeof places[i].target, "%s", volume->targets[i]);
	}
}

static bool is_at(const char *target, const struct sled *sled)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	return target && target_parse(target, host, &port) == 0 && strcmp(host, sled->address) == 0;
}

bool slot_is_on(const struct volume *volume, unsigned slot, const struct sled *sled)
{
	return is_at(volume->targets[slot], sled);
}

/* Placement */

static bool is_avoided(const struct sled *sled, const char *const *avoid, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (is_at(avoid[i], sled))
			return true;
	}
	return false;
}

/* What became of each sled while places were looked for. */
struct candidate {
	const struct survey *survey;
	uint64_t room;
	unsigned used; /* places on it */
	bool refuses;
};

static struct candidate *find_emptiest(struct candidate *candidates, size_t count, uint64_t size, unsigned used)
{
	struct candidate *best = NULL;
	for (size_t i = 0; i < count; i++) {
		struct candidate *one = &candidates[i];
		if (!one->refuses && one->used == used && one->room >= size && (!best || one->room > best->room))
			best = one;
	}
	return best;
}

static int refuse_placement(const struct candidate *candidates, size_t count, const struct region_shape *shape,
	size_t wanted, struct reason *reason)
{
	char why[400] = "";
	size_t usable = 0, used = 0;
	for (size_t i = 0; i < count; i++) {
		char text[300];
		const char *refusal = survey_refuses(candidates[i].survey, region_shape_size(shape), shape->extents, text, sizeof text);
		usable += !refusal && !candidates[i].refuses;
		if (refusal && used < sizeof why)
			used += (size_t)snprintf(why + used, sizeof why - used, "; %s", refusal);
	}
	return reason_set(reason, -ENOSPC, "needs %zu sled%s, has %zu with room%s", wanted, wanted == 1 ? "" : "s", usable, why);
}

int regions_place(const struct survey *surveys, size_t survey_count, const struct region_shape *shape,
	const char *const *avoid, size_t avoid_count, bool may_share, uint16_t first_port, struct region_place *places,
	size_t count, struct reason *reason)
{
	const uint64_t size = region_shape_size(shape);
	char text[400];
	CLEANUP_FREE struct candidate *candidates = calloc(survey_count + 1, sizeof *candidates);
	if (!candidates)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < survey_count; i++) {
		candidates[i].survey = &surveys[i];
		candidates[i].room = surveys[i].error < 0 ? 0 : survey_room(&surveys[i]);
		candidates[i].refuses = is_avoided(surveys[i].sled, avoid, avoid_count) ||
			survey_refuses(&surveys[i], size, shape->extents, text, sizeof text);
	}
	for (size_t i = 0; i < count; i++) {
		struct candidate *best = NULL;
		for (unsigned used = 0; !best && used <= (may_share ? i : 0); used++)
			best = find_emptiest(candidates, survey_count, size, used);
		if (!best)
			return refuse_placement(candidates, survey_count, shape, count, reason);
		best->used++;
		best->room -= size;
		region_place_at(&places[i], best->survey->sled, (uint16_t)(first_port + i));
	}
	return 0;
}

static bool port_is_free(const struct survey *survey, const struct volumes *all, uint16_t port)
{
	struct region_place place;
	region_place_at(&place, survey->sled, port);
	for (size_t i = 0; i < all->count; i++) {
		for (unsigned k = 0; k < VOLUME_TARGETS; k++) {
			const char *target = all->items[i].targets[k];
			if (target && strcmp(target, place.target) == 0)
				return false;
		}
	}
	return !survey_listens(survey, port) && !survey_listens(survey, (uint16_t)(port + PORT_REPAIR_OFFSET)) &&
		!survey_region(survey, port);
}

uint16_t region_port_on(const struct survey *survey, const struct volumes *all, uint16_t preferred)
{
	if (preferred && port_is_free(survey, all, preferred))
		return preferred;
	for (uint16_t port = PORT_POOL_MIDDLE; port <= PORT_POOL_LAST; port++) {
		if (port_is_free(survey, all, port))
			return port;
	}
	return 0;
}

/* Making and removing */

static bool describe(char **text, const struct config *config, const char *volume, const struct region_place *place)
{
	return sled_variable(text, "PORT", "%u", place->port) && sled_variable(text, "VOLUME", "%s", volume) &&
		sled_variable(text, "NODE", "%s", config->node_name) && sled_variable(text, "UUID", "%s", place->uuid);
}

static bool describe_shape(char **text, const struct region_shape *shape)
{
	return sled_variable(text, "BLOCK_SIZE", "%llu", (unsigned long long)shape->block_size) &&
		sled_variable(text, "EXTENT_BLOCKS", "%llu", (unsigned long long)shape->extent_blocks) &&
		sled_variable(text, "EXTENTS", "%llu", (unsigned long long)shape->extents) &&
		sled_variable(text, "SEALED", "%s", shape->encrypted ? "yes" : "no");
}

/* Runs a function of sled.sh for each place that has a sled. `shape` may be NULL. */
static int run_for(const struct config *config, const char *volume, const struct region_place *places, size_t count,
	const struct region_shape *shape, const char *function, const char *what, bool ignore_interrupts, struct reason *reason)
{
	CLEANUP_FREE struct sled_task *tasks = calloc(count + 1, sizeof *tasks);
	size_t used = 0;
	bool described = tasks;
	for (size_t i = 0; described && i < count; i++) {
		if (!places[i].sled)
			continue;
		struct sled_task *task = &tasks[used++];
		task->sled = places[i].sled;
		described = describe(&task->variables, config, volume, &places[i]) &&
			(!shape || describe_shape(&task->variables, shape));
	}
	int status = described
		? sled_tasks_run(tasks, used, function, what, SLED_CHANGE_SECONDS, ignore_interrupts)
		: reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; described && status < 0 && i < used; i++) {
		if (tasks[i].error == status) {
			*reason = tasks[i].reason;
			break;
		}
	}
	if (tasks)
		sled_tasks_free(tasks, used);
	return status;
}

/* Each downstairs must answer at its target, with the UUID that its region was made with. */
static int wait_until_reachable(const struct region_place *places, size_t count, struct reason *reason)
{
	CLEANUP_FREE struct region_info *infos = calloc(count + 1, sizeof *infos);
	if (!infos)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++)
		infos[i].target = places[i].target;
	int status = region_infos_wait(infos, count, START_SECONDS);
	if (status == -EINTR)
		return reason_set(reason, status, "interrupted");
	for (size_t i = 0; i < count; i++) {
		if (infos[i].error < 0)
			return reason_set(reason, infos[i].error, "%s (sled %s)", infos[i].reason.text, places[i].sled->name);
		if (strcmp(infos[i].uuid, places[i].uuid) != 0)
			return reason_set(reason, -EADDRINUSE, "%s: another downstairs answers there, of region %s", places[i].target,
				infos[i].uuid);
	}
	return 0;
}

int regions_create(const struct config *config, const char *volume, const struct region_shape *shape,
	struct region_place *places, size_t count, struct reason *reason)
{
	for (size_t i = 0; i < count; i++) {
		uuid_t uuid;
		uuid_generate_random(uuid);
		uuid_unparse_lower(uuid, places[i].uuid);
	}
	int status = run_for(config, volume, places, count, shape, "CREATE", "making regions", false, reason);
	if (status == 0)
		status = wait_until_reachable(places, count, reason);
	if (status < 0)
		regions_undo(config, volume, places, count);
	return status;
}

void regions_undo(const struct config *config, const char *volume, const struct region_place *places, size_t count)
{
	struct reason reason;
	if (run_for(config, volume, places, count, NULL, "UNDO", "taking regions back", true, &reason) < 0)
		log_warning("%s: not everything could be taken back: %s: see tb4 sled check", volume, reason.text);
}

int regions_keep(const struct config *config, const char *volume, const struct region_place *places, size_t count,
	struct reason *reason)
{
	return run_for(config, volume, places, count, NULL, "READY", "marking regions", true, reason);
}

int regions_remove(const struct config *config, const char *volume, const struct region_place *places, size_t count,
	struct reason *reason)
{
	return run_for(config, volume, places, count, NULL, "REMOVE", "removing regions", true, reason);
}
