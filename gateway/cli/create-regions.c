#include "cli/create-regions.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/sleds.h"
#include "durable-file.h"
#include "integrity.h"
#include "log.h"
#include "volume/ports.h"
#include "volume/record.h"

/* The file of a key that tb4 made itself. */
static char *own_key_path(const struct cli *cli, const struct volume *volume)
{
	char *path;
	return asprintf(&path, "%s/%s.key", cli->config.claim_dir, volume->name) < 0 ? NULL : path;
}

/* Options */

static int take_key(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason)
{
	const char *key_file = cli->values[OPTION_KEY_FILE];
	creation->makes_key = has_option(cli, OPTION_ENCRYPT);
	if (!key_file && !creation->makes_key)
		return 0;
	if (key_file && creation->makes_key)
		return reason_set(reason, -EINVAL, "--encrypt makes a key, --key-file has one: they exclude each other");
	if (key_file && key_file[0] != '/')
		return reason_set(reason, -EINVAL, "--key-file %s: not an absolute path", key_file);
	if (creation->makes_key && !creation->on_sleds)
		return reason_set(reason, -EINVAL, "--encrypt is for regions that are made: --key-file names the key of those there are");
	volume->key_file = key_file ? strdup(key_file) : own_key_path(cli, volume);
	return volume->key_file ? 0 : reason_set(reason, -ENOMEM, "out of memory");
}

static int take_targets(const struct cli *cli, struct volume *volume, struct reason *reason)
{
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		char host[TARGET_HOST_MAX];
		uint16_t port;
		if (target_parse(cli->targets[i], host, &port) < 0)
			return reason_set(reason, -EINVAL, "--target %s: not HOST:PORT", cli->targets[i]);
		for (unsigned k = 0; k < i; k++) {
			if (strcmp(cli->targets[i], cli->targets[k]) == 0)
				return reason_set(reason, -EINVAL, "--target %s: given twice", cli->targets[i]);
		}
		volume->targets[i] = strdup(cli->targets[i]);
		if (!volume->targets[i])
			return reason_set(reason, -ENOMEM, "out of memory");
	}
	return 0;
}

int creation_describe(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason)
{
	*creation = (struct creation){ .on_sleds = cli->target_count == 0 };
	if (!creation->on_sleds && cli->target_count != VOLUME_TARGETS)
		return reason_set(reason, -EINVAL, "--backend crucible: needs --target HOST:PORT %d times or not at all, has it %d times",
			VOLUME_TARGETS, cli->target_count);
	if (creation->on_sleds && cli->config.sled_count == 0)
		return reason_set(reason, -EINVAL, "--backend crucible: needs [sled NAME] sections in tb4.conf, or --target %d times",
			VOLUME_TARGETS);
	if (creation->on_sleds && has_option(cli, OPTION_FORCE))
		return reason_set(reason, -EINVAL, "--force is for regions that exist already: --target");
	int status = take_key(cli, volume, creation, reason);
	return status < 0 || creation->on_sleds ? status : take_targets(cli, volume, reason);
}

/* Regions that exist */

/* -EBUSY if a client is connected to the downstairs, as far as its sled can tell. */
static int refuse_clients(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	struct region_place places[VOLUME_TARGETS];
	struct sled_task tasks[VOLUME_TARGETS] = { 0 };
	size_t count = 0;
	bool described = true;
	regions_of(&cli->config, volume, places);
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (!places[i].sled)
			continue;
		tasks[count].sled = places[i].sled;
		described = described && sled_variable(&tasks[count++].variables, "PORT", "%u", places[i].port);
	}
	if (count < VOLUME_TARGETS)
		log_warning("%s: whether other clients are connected can be seen only on hosts that are a [sled] of tb4.conf",
			volume->name);
	int status = described ? sled_tasks_run(tasks, count, "CLIENTS", "asking sleds", SLED_SURVEY_SECONDS, false) : -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (status < 0 && tasks[i].error == status)
			*reason = tasks[i].reason;
		if (status == 0 && tasks[i].output[0])
			status = reason_set(reason, -EBUSY, "%s: a client is connected to its port on sled %s: %.*s: stop it, or use --force",
				volume->name, tasks[i].sled->name, (int)strcspn(tasks[i].output, "\n"), tasks[i].output);
	}
	sled_tasks_free(tasks, count);
	return described ? status : reason_set(reason, status, "out of memory");
}

/* Are these copies of one volume? */
static int compare_regions(const struct region_info *infos, size_t count, const struct volume *volume,
	struct reason *reason)
{
	for (size_t i = 0; i < count; i++) {
		const struct region_info *one = &infos[i], *first = &infos[0];
		for (size_t k = 0; k < i; k++) {
			if (strcmp(one->uuid, infos[k].uuid) == 0)
				return reason_set(reason, -EINVAL, "%s and %s are both region %s: each copy needs one of its own",
					infos[k].target, one->target, one->uuid);
		}
		if (one->block_size != first->block_size || one->extent_blocks != first->extent_blocks ||
			one->extents != first->extents)
			return reason_set(reason, -EINVAL, "%s and %s have regions of different shape", first->target, one->target);
		if (one->read_only)
			return reason_set(reason, -EINVAL, "%s: serves its region read-only", one->target);
		if (one->encrypted && !volume->key_file)
			return reason_set(reason, -EINVAL, "%s: its region is for encrypted blocks: needs --key-file", one->target);
		if (!one->encrypted && volume->key_file)
			return reason_set(reason, -EINVAL, "%s: its region is not for encrypted blocks", one->target);
	}
	return 0;
}

/* Asks the volume's targets. All must answer; with --force none, or one to learn the size. *count are those that did, at
 * the front. */
static int ask_regions(const struct cli *cli, const struct volume *volume, struct region_info infos[VOLUME_TARGETS],
	size_t *count, struct reason *reason)
{
	for (unsigned i = 0; i < VOLUME_TARGETS; i++)
		infos[i] = (struct region_info){ .target = volume->targets[i] };
	region_infos_get(infos, VOLUME_TARGETS);
	*count = 0;
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (infos[i].error == 0)
			infos[(*count)++] = infos[i];
		else if (!has_option(cli, OPTION_FORCE) || (i == VOLUME_TARGETS - 1 && *count == 0 && volume->size == 0))
			return reason_set(reason, infos[i].error, "%s", infos[i].reason.text);
		else
			log_warning("%s", infos[i].reason.text);
	}
	return 0;
}

static int look_at_regions(const struct cli *cli, struct volume *volume, struct reason *reason)
{
	struct region_info infos[VOLUME_TARGETS];
	size_t count;
	int status = ask_regions(cli, volume, infos, &count, reason);
	if (status == 0)
		status = compare_regions(infos, count, volume, reason);
	if (status < 0 || count == 0)
		return status;
	volume->block_size = infos[0].block_size;
	if (volume->size == 0)
		volume->size = infos[0].size;
	if (volume->size > infos[0].size)
		return reason_set(reason, -ENOSPC, "%s: its regions hold %llu bytes, not %llu", volume->name,
			(unsigned long long)infos[0].size, (unsigned long long)volume->size);
	return has_option(cli, OPTION_FORCE) ? 0 : refuse_clients(cli, volume, reason);
}

static int refuse_used_targets(const struct volumes *all, const struct volume *volume, struct reason *reason)
{
	for (size_t i = 0; i < all->count; i++) {
		for (unsigned k = 0; k < VOLUME_TARGETS * VOLUME_TARGETS; k++) {
			const char *theirs = all->items[i].targets[k / VOLUME_TARGETS], *ours = volume->targets[k % VOLUME_TARGETS];
			if (theirs && ours && strcmp(theirs, ours) == 0)
				return reason_set(reason, -EEXIST, "%s: %s is a region of %s", volume->name, ours, all->items[i].name);
		}
	}
	return 0;
}

/* New regions */

/* Regions that sleds have for a volume of this name: those of a creation that was cut short are taken away before it is
 * repeated; any other may be all there is of a volume whose file was lost. */
static int find_leftovers(const struct cli *cli, const struct volume *volume, const struct survey *surveys, size_t count,
	struct creation *creation, struct reason *reason)
{
	struct record record;
	bool was_claimed = record_load(&cli->config, volume->name, &record, NULL) != -ENOENT; /* and so served */
	for (size_t i = 0; i < count; i++) {
		for (size_t k = 0; k < surveys[i].region_count; k++) {
			const struct survey_region *region = &surveys[i].regions[k];
			if (strcmp(region->volume, volume->name) != 0)
				continue;
			if (was_claimed || strcmp(region->state, "creating") != 0 ||
				strcmp(region->node, cli->config.node_name) != 0)
				return reason_set(reason, -EEXIST,
					"%s: sled %s has region %u of it already, made by %s: take it with tb4 volume adopt, or remove it there",
					volume->name, surveys[i].sled->name, region->port, region->node);
			struct region_place *grown =
				realloc(creation->leftovers, (creation->leftover_count + 1) * sizeof *grown);
			if (!grown)
				return reason_set(reason, -ENOMEM, "out of memory");
			creation->leftovers = grown;
			grown[creation->leftover_count] = (struct region_place){ 0 };
			snprintf(grown[creation->leftover_count].uuid, sizeof grown->uuid, "%s", region->uuid);
			region_place_at(&grown[creation->leftover_count++], surveys[i].sled, region->port);
		}
	}
	return 0;
}

static int place(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason)
{
	const bool may_share = has_option(cli, OPTION_ALLOW_SINGLE_SLED);
	struct survey *surveys;
	struct reason why;
	size_t count;
	int status = survey_sleds(cli, NULL, &surveys, &count, reason);
	if (status < 0)
		return status;
	creation->shape = region_shape_for(volume->size, volume->key_file);
	int found = find_leftovers(cli, volume, surveys, count, creation, reason);
	status = regions_place(surveys, count, &creation->shape, NULL, 0, may_share, volume_downstairs_port(volume),
		creation->places, VOLUME_TARGETS, &why);
	surveys_free(surveys, count);
	if (found < 0)
		return found;
	if (status < 0)
		return reason_set(reason, status, "%s: %.*s%s", volume->name, 400, why.text,
			may_share || count >= VOLUME_TARGETS ? "" : ": see --allow-single-sled");
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		volume->targets[i] = strdup(creation->places[i].target);
		if (!volume->targets[i])
			return reason_set(reason, -ENOMEM, "out of memory");
	}
	return 0;
}

/* A sled that has two of the three copies takes the volume with it. */
static void warn_of_shared(const struct volume *volume, const struct creation *creation)
{
	for (unsigned i = 1; i < VOLUME_TARGETS; i++) {
		for (unsigned k = 0; k < i; k++) {
			if (creation->places[i].sled != creation->places[k].sled)
				continue;
			log_warning("%s: sled %s has more than one of its copies: a single point of failure", volume->name,
				creation->places[i].sled->name);
			return;
		}
	}
}

int creation_plan(const struct cli *cli, const struct volumes *all, struct volume *volume, struct creation *creation,
	struct reason *reason)
{
	if (!creation->on_sleds) {
		int status = refuse_used_targets(all, volume, reason);
		return status < 0 ? status : look_at_regions(cli, volume, reason);
	}
	volume->block_size = REGION_BLOCK_SIZE;
	if (creation->makes_key && access(volume->key_file, F_OK) == 0)
		creation->makes_key = false; /* of a create that was cut short, or of an older volume: never overwritten */
	if (volume->size % REGION_BLOCK_SIZE != 0)
		return reason_set(reason, -EINVAL, "%s: the size must be a multiple of %d bytes", volume->name, REGION_BLOCK_SIZE);
	int status = place(cli, volume, creation, reason);
	if (status == 0)
		status = refuse_used_targets(all, volume, reason);
	if (status == 0)
		warn_of_shared(volume, creation);
	return status;
}

static int make_key(const struct volume *volume, const struct config *config, struct reason *reason)
{
	char key[INTEGRITY_KEY_SIZE];
	int status = make_directory(config->claim_dir, reason);
	if (status < 0)
		return status;
	if (getrandom(key, sizeof key, 0) != sizeof key)
		return reason_set(reason, -EIO, "%s: no random bytes: %m", volume->key_file);
	status = durable_file_write(volume->key_file, key, sizeof key, reason);
	explicit_bzero(key, sizeof key);
	return status;
}

int creation_make(const struct cli *cli, const struct volume *volume, struct creation *creation,
	struct reason *reason)
{
	int status = creation->makes_key ? make_key(volume, &cli->config, reason) : 0;
	if (status < 0 || !creation->on_sleds)
		return status;
	regions_undo(&cli->config, volume->name, creation->leftovers, creation->leftover_count);
	status = regions_create(&cli->config, volume->name, &creation->shape, creation->places, VOLUME_TARGETS, reason);
	if (status < 0 && creation->makes_key)
		durable_file_remove(volume->key_file, NULL);
	return status;
}

void creation_free(struct creation *creation)
{
	free(creation->leftovers);
}

void creation_undo(const struct cli *cli, const struct volume *volume, const struct creation *creation)
{
	if (creation->on_sleds)
		regions_undo(&cli->config, volume->name, creation->places, VOLUME_TARGETS);
	if (creation->makes_key)
		durable_file_remove(volume->key_file, NULL);
}

void creation_keep(const struct cli *cli, const struct volume *volume, const struct creation *creation)
{
	struct reason reason;
	if (creation->on_sleds &&
		regions_keep(&cli->config, volume->name, creation->places, VOLUME_TARGETS, &reason) < 0)
		log_warning("%s: made, but %s", volume->name, reason.text);
}

/* Removing */

/* Leaves the places of regions that were made for this volume. */
static int choose_removable(const struct cli *cli, const struct volume *volume,
	struct region_place places[VOLUME_TARGETS], bool *leaves_some, struct reason *reason)
{
	const struct sled *sleds[VOLUME_TARGETS];
	struct survey *surveys;
	size_t count = 0;
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (places[i].sled)
			sleds[count++] = places[i].sled;
	}
	int status = sleds_survey(sleds, count, &surveys, reason);
	if (status < 0)
		return status;
	for (unsigned i = 0, at = 0; status == 0 && i < VOLUME_TARGETS; i++) {
		const struct survey *survey = places[i].sled ? &surveys[at++] : NULL;
		if (survey && survey->error < 0 && !has_option(cli, OPTION_FORCE)) {
			status = reason_set(reason, survey->error, "%s: %.*s: nothing is deleted: use --force to leave its region there",
				volume->name, 380, survey->reason.text);
			break;
		}
		const struct survey_region *region = survey ? survey_region(survey, places[i].port) : NULL;
		if (region && strcmp(region->volume, volume->name) == 0)
			continue;
		if (region || !survey || survey->error < 0) {
			log_warning("%s: its region at %s is left where it is", volume->name, places[i].target);
			*leaves_some = true;
		}
		places[i].sled = NULL;
	}
	surveys_free(surveys, count);
	return status;
}

int remove_regions(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	struct region_place places[VOLUME_TARGETS];
	if (volume->backend != VOLUME_BACKEND_CRUCIBLE)
		return 0;
	bool leaves_some = false;
	regions_of(&cli->config, volume, places);
	int status = choose_removable(cli, volume, places, &leaves_some, reason);
	if (status == 0)
		status = regions_remove(&cli->config, volume->name, places, VOLUME_TARGETS, reason);
	CLEANUP_FREE char *key = own_key_path(cli, volume);
	if (status < 0 || !volume->key_file || !key || strcmp(volume->key_file, key) != 0)
		return status;
	if (leaves_some) {
		log_warning("%s: its key stays, too: %s", volume->name, key);
		return 0;
	}
	return durable_file_remove(key, reason);
}
