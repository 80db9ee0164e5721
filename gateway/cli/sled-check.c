/* sled-check.c: `tb4 sled check`: everything on sleds that is wrong, or that could be better, without touching a region:
 * by their command and by HTTP. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli/sleds.h"
#include "sled/regions.h"
#include "volume/record.h"

enum { MESSAGE_VERSION = 13, CLOCK_TOLERANCE = 5, SCARCE_PERCENT = 10 };

struct findings {
	const struct cli *cli;
	struct faults faults, advice;
	struct volumes volumes;
};

#define FAULT(findings, name, ...) faults_add(&(findings)->faults, name, 0, __VA_ARGS__)
#define ADVICE(findings, name, ...) faults_add(&(findings)->advice, name, 0, __VA_ARGS__)

static const struct volume *find(const struct volumes *volumes, const char *name)
{
	for (size_t i = 0; i < volumes->count; i++) {
		if (strcmp(volumes->items[i].name, name) == 0)
			return &volumes->items[i];
	}
	return NULL;
}

static bool is_target_of(const struct findings *findings, const struct volume *volume, const struct sled *sled,
	uint16_t port)
{
	struct region_place places[VOLUME_TARGETS];
	regions_of(&findings->cli->config, volume, places);
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (places[i].sled && strcmp(places[i].sled->address, sled->address) == 0 && places[i].port == port)
			return true;
	}
	return false;
}

/* A region that nothing needs, or that nobody serves. */
static void check_region(struct findings *findings, const char *name, const struct survey *survey,
	const struct survey_region *region)
{
	if (!region->listens)
		FAULT(findings, name, "region %u (%s): no downstairs serves it", region->port,
			region->volume[0] ? region->volume : "of no volume");
	if (region->volume[0] == '\0' || strcmp(region->node, findings->cli->config.node_name) != 0)
		return; /* not ours to judge: volume files may lie on another node */
	const struct volume *volume = find(&findings->volumes, region->volume);
	if (!volume && strcmp(region->state, "creating") == 0)
		FAULT(findings, name, "region %u: of %s, whose creation was cut short: repeat it, or remove it by hand", region->port,
			region->volume);
	else if (!volume)
		FAULT(findings, name, "region %u: of %s, which does not exist any more", region->port, region->volume);
	else if (strcmp(region->state, "creating") == 0 && is_target_of(findings, volume, survey->sled, region->port))
		ADVICE(findings, name, "region %u: of %s, still marked as being made: write state=ready into %s/%u.volume",
			region->port, region->volume, survey->sled->directory, region->port);
	else if (!is_target_of(findings, volume, survey->sled, region->port))
		FAULT(findings, name, "region %u: of %s, which has another one in its place", region->port, region->volume);
}

static void check_sled(struct findings *findings, const char *name, const struct survey *survey)
{
	char room[SIZE_TEXT_MAX];
	if (survey->error < 0) {
		FAULT(findings, name, "%s", survey->reason.text);
		return;
	}
	if (survey->messages && survey->messages != MESSAGE_VERSION)
		FAULT(findings, name, "its %s speaks version %llu of the protocol, not %d", survey->sled->program,
			(unsigned long long)survey->messages, MESSAGE_VERSION);
	if (survey->clock_ahead > CLOCK_TOLERANCE || survey->clock_ahead < -CLOCK_TOLERANCE)
		FAULT(findings, name, "its clock is %lld s %s ours", (long long)llabs(survey->clock_ahead),
			survey->clock_ahead > 0 ? "ahead of" : "behind");
	if (strcmp(survey->systemd, "without-unit") == 0)
		FAULT(findings, name, "crucible-downstairs@.service is not installed");
	if (survey->total / 100 * SCARCE_PERCENT > survey->free)
		FAULT(findings, name, "%s is nearly full: %s free", survey->sled->directory, size_for_people(survey->free, room));
	else if (survey_room(survey) == 0)
		ADVICE(findings, name, "no room for further regions");
	if (strcmp(survey->systemd, "no") == 0)
		ADVICE(findings, name, "no systemd runs: nobody starts its downstairs after a reboot");
	if (strcmp(survey->filesystem, "zfs") != 0)
		ADVICE(findings, name, "%s is on %s: after a loss of power only ZFS keeps what a downstairs writes in order",
			survey->sled->directory, survey->filesystem);
	for (size_t i = 0; i < survey->region_count; i++)
		check_region(findings, name, survey, &survey->regions[i]);
}

/* Does each slot of the volume answer from here, with the region that the claim knows? */
static void check_volume(struct findings *findings, const struct volume *volume, const struct sled *only)
{
	struct region_info infos[VOLUME_TARGETS] = { 0 };
	unsigned slots[VOLUME_TARGETS], count = 0;
	struct record record;
	bool has_record = record_load(&findings->cli->config, volume->name, &record, NULL) == 0 && record.copies.exists;
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (only && !slot_is_on(volume, i, only))
			continue;
		slots[count] = i;
		infos[count++].target = volume->targets[i];
	}
	region_infos_get(infos, count);
	for (unsigned i = 0; i < count; i++) {
		const char *region = has_record ? record.copies.slots[slots[i]].region : "";
		if (infos[i].error < 0)
			FAULT(findings, volume->name, "slot %u: %s", slots[i], infos[i].reason.text);
		else if (region[0] && strcmp(region, infos[i].uuid) != 0)
			FAULT(findings, volume->name, "slot %u: %s serves region %s, not %s: see tb4 volume replace", slots[i],
				infos[i].target, infos[i].uuid, region);
	}
}

static void check_all(struct findings *findings, const struct survey *surveys, size_t count, const struct sled *only)
{
	const struct config *config = &findings->cli->config;
	for (size_t i = 0; i < count; i++) {
		char name[SETTING_GROUP_NAME_MAX + 8];
		snprintf(name, sizeof name, "sled %s", surveys[i].sled->name);
		check_sled(findings, name, &surveys[i]);
	}
	for (size_t i = 0; i < findings->volumes.count; i++) {
		if (findings->volumes.items[i].backend == VOLUME_BACKEND_CRUCIBLE)
			check_volume(findings, &findings->volumes.items[i], only);
	}
	if (!config->tls_authority)
		ADVICE(findings, "tb4.conf", "[crucible] has no certificates: what goes to the sleds is not encrypted on the way, and "
									 "anybody on that network can take a region over");
}

static void append(struct json_object *list, const struct faults *faults, const char *severity)
{
	for (size_t i = 0; i < faults->count; i++) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "about", faults->items[i].path);
		json_add_text(object, "severity", severity);
		json_add_text(object, "text", faults->items[i].text);
		json_append(list, object);
	}
}

static int print(const struct findings *findings, size_t count)
{
	char text[512];
	if (has_option(findings->cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object(), *list = json_object_new_array();
		append(list, &findings->faults, "fault");
		append(list, &findings->advice, "advice");
		json_add_number(object, "sleds", count);
		json_add(object, "findings", list);
		return print_json(object);
	}
	for (size_t i = 0; i < findings->faults.count; i++)
		puts(fault_text(&findings->faults.items[i], text, sizeof text));
	for (size_t i = 0; i < findings->advice.count; i++)
		printf("advice: %s\n", fault_text(&findings->advice.items[i], text, sizeof text));
	if (findings->faults.count == 0)
		printf("no faults: %zu sled%s\n", count, count == 1 ? "" : "s");
	return 0;
}

int command_sled_check(struct cli *cli)
{
	struct survey *surveys;
	struct findings findings = { .cli = cli };
	struct reason reason;
	size_t count;
	const char *name = cli->argument_count > 0 ? cli->arguments[0] : NULL;
	int status = survey_sleds(cli, name, &surveys, &count, &reason);
	if (status < 0)
		return fail(status, &reason);
	load_volumes(cli, 0, &findings.volumes); /* damaged ones are said there */
	check_all(&findings, surveys, count, name ? config_sled(&cli->config, name) : NULL);
	surveys_free(surveys, count);
	status = print(&findings, count);
	bool has_faults = findings.faults.count > 0;
	volumes_free(&findings.volumes);
	faults_free(&findings.faults);
	faults_free(&findings.advice);
	return status ? status : has_faults ? EXIT_DEGRADED : 0;
}
