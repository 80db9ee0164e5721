#include "doctor/judge-sleds.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "sled/regions.h"
#include "volume/ports.h"
#include "volume/record.h"

enum { MESSAGE_VERSION = 13, CLOCK_TOLERANCE = 5, SCARCE_PERCENT = 10 };

static const struct volume *find(const struct volumes *volumes, const char *name)
{
	for (size_t i = 0; i < volumes->count; i++) {
		if (strcmp(volumes->items[i].name, name) == 0)
			return &volumes->items[i];
	}
	return NULL;
}

static bool is_target_of(const struct sled_case *subject, const struct volume *volume, const struct sled *sled,
	uint16_t port)
{
	struct region_place places[VOLUME_TARGETS];
	regions_of(subject->config, volume, places);
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		if (places[i].sled && strcmp(places[i].sled->address, sled->address) == 0 && places[i].port == port)
			return true;
	}
	return false;
}

/* A region that nothing needs, or that nobody serves. */
static void judge_region(const struct sled_case *subject, const char *name, const struct survey *survey,
	const struct survey_region *region, struct report *report)
{
	if (!region->listens) {
		FOUND_ERROR(report, name, "region %u (%s): no downstairs serves it", region->port,
			region->volume[0] ? region->volume : "of no volume");
		report_next(report, "there: systemctl status crucible-downstairs@%u", region->port);
	}
	if (region->volume[0] == '\0' || strcmp(region->node, subject->config->node_name) != 0)
		return; /* not ours to judge: volume files may lie on another node */
	const struct volume *volume = find(subject->volumes, region->volume);
	bool is_being_made = strcmp(region->state, "creating") == 0;
	if (!volume && is_being_made) {
		FOUND_ERROR(report, name, "region %u: of %s, whose creation was cut short: repeat it, or remove it by hand",
			region->port, region->volume);
		report_next(report, "the tb4 volume create of %s again", region->volume);
	} else if (!volume) {
		FOUND_ERROR(report, name, "region %u: of %s, which does not exist any more", region->port, region->volume);
		report_next(report, "there: systemctl disable --now crucible-downstairs@%u, then rm -r %s/%u*", region->port,
			survey->sled->directory, region->port);
	} else if (!is_target_of(subject, volume, survey->sled, region->port)) {
		FOUND_ERROR(report, name, "region %u: of %s, which has another one in its place", region->port, region->volume);
		report_next(report, "there: systemctl disable --now crucible-downstairs@%u, then rm -r %s/%u*", region->port,
			survey->sled->directory, region->port);
	} else if (is_being_made) {
		FOUND_WARNING(report, name, "region %u: of %s, still marked as being made: write state=ready into %s/%u.volume",
			region->port, region->volume, survey->sled->directory, region->port);
		report_next(report, "there: sed -i s/=creating/=ready/ %s/%u.volume", survey->sled->directory, region->port);
	}
}

static bool is_of_vm(const struct survey_region *region, uint64_t vmid)
{
	struct volume_name parsed;
	return vmid == 0 || (volume_name_parse(region->volume, &parsed) == 0 && parsed.vmid == vmid);
}

static void judge_sled(const struct sled_case *subject, const struct survey *survey, struct report *report)
{
	char room[SIZE_TEXT_MAX], name[SETTING_GROUP_NAME_MAX + 8];
	snprintf(name, sizeof name, "sled %s", survey->sled->name);
	if (survey->error < 0) {
		FOUND_ERROR(report, name, "%s", survey->reason.text);
		if (survey->sled->command)
			report_next(report, "%s hostname", survey->sled->command);
		else
			report_next(report, "ssh root@%s hostname", survey->sled->address);
		return;
	}
	if (survey->messages && survey->messages != MESSAGE_VERSION) {
		FOUND_ERROR(report, name, "its %s speaks version %llu of the protocol, not %d", survey->sled->program,
			(unsigned long long)survey->messages, MESSAGE_VERSION);
		report_next(report, "install one that speaks version %d", MESSAGE_VERSION);
	}
	if (survey->clock_ahead > CLOCK_TOLERANCE || survey->clock_ahead < -CLOCK_TOLERANCE) {
		FOUND_ERROR(report, name, "its clock is %lld s %s ours", (long long)llabs(survey->clock_ahead),
			survey->clock_ahead > 0 ? "ahead of" : "behind");
		report_next(report, "there and here: chronyc tracking, or timedatectl timesync-status");
	}
	if (strcmp(survey->systemd, "without-unit") == 0) {
		FOUND_ERROR(report, name, "crucible-downstairs@.service is not installed");
		report_next(report, "there: apt install tb4-gateway, or copy that unit into /etc/systemd/system");
	}
	if (survey->total / 100 * SCARCE_PERCENT > survey->free) {
		FOUND_ERROR(report, name, "%s is nearly full: %s free", survey->sled->directory,
			size_for_people(survey->free, room));
		report_next(report, "tb4 sled drain %s, or delete volumes", survey->sled->name);
	} else if (survey_room(survey) == 0) {
		FOUND_WARNING(report, name, "no room for further regions");
		report_next(report, "tb4 sled list");
	}
	if (strcmp(survey->systemd, "no") == 0) {
		FOUND_WARNING(report, name, "no systemd runs: nobody starts its downstairs after a reboot");
		report_next(report, "have it start them: crucible-downstairs run, as tb4 sled list shows them");
	}
	if (strcmp(survey->filesystem, "zfs") != 0) {
		FOUND_WARNING(report, name, "%s is on %s: after a loss of power only ZFS keeps what a downstairs writes in order",
			survey->sled->directory, survey->filesystem);
		report_next(report, "zfs create a dataset for it, name that as directory of another [sled], and tb4 sled drain %s",
			survey->sled->name);
	}
	for (size_t i = 0; i < survey->region_count; i++) {
		if (is_of_vm(&survey->regions[i], subject->vmid))
			judge_region(subject, name, survey, &survey->regions[i], report);
	}
}

/* Who has the port on the sled, if it is not a region there. */
static const char *stranger_at(const struct sled_case *subject, const char *target)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	if (target_parse(target, host, &port) < 0)
		return NULL;
	for (size_t i = 0; i < subject->count; i++) {
		const struct survey *survey = &subject->surveys[i];
		if (survey->error == 0 && strcmp(survey->sled->address, host) == 0 && !survey_region(survey, port))
			return survey_holder(survey, port);
	}
	return NULL;
}

/* Does a slot of a volume answer from here, with the region that the claim knows? */
static void judge_slot(const struct sled_case *subject, const struct volume *volume, unsigned slot, const char *region,
	const struct region_info *info, struct report *report)
{
	const char *stranger = info->error < 0 ? stranger_at(subject, info->target) : NULL;
	const char *port = strrchr(info->target, ':');
	if (stranger) {
		FOUND_ERROR(report, volume->name, "slot %u: %s: its port is taken by %s, and the region is not there", slot,
			info->target, stranger);
		report_next(report, "end that program on the sled, then tb4 volume retry %s %u", volume->name, slot);
	} else if (info->error < 0) {
		FOUND_ERROR(report, volume->name, "slot %u: %s", slot, info->reason.text);
		report_next(report, "on that sled: systemctl status crucible-downstairs@%s", port ? port + 1 : "PORT");
	} else if (region[0] && strcmp(region, info->uuid) != 0) {
		FOUND_ERROR(report, volume->name, "slot %u: %s serves region %s, not %s: see tb4 volume replace", slot, info->target,
			info->uuid, region);
		report_next(report, "tb4 volume replace %s %u", volume->name, slot);
	}
}

static bool is_looked_at(const struct sled_case *subject, const struct volume *volume, unsigned slot)
{
	return volume->backend == VOLUME_BACKEND_CRUCIBLE && (!subject->only || slot_is_on(volume, slot, subject->only)) &&
		(subject->vmid == 0 || subject->vmid == volume->parsed.vmid);
}

static void judge_slots(const struct sled_case *subject, struct report *report)
{
	const size_t most = subject->volumes->count * VOLUME_TARGETS;
	struct region_info *infos = calloc(most + 1, sizeof *infos);
	size_t count = 0, next = 0;
	report->is_incomplete |= !infos;
	for (size_t i = 0; infos && i < most; i++) {
		const struct volume *volume = &subject->volumes->items[i / VOLUME_TARGETS];
		if (is_looked_at(subject, volume, (unsigned)(i % VOLUME_TARGETS)))
			infos[count++].target = volume->targets[i % VOLUME_TARGETS];
	}
	if (count > 0)
		region_infos_get(infos, count);
	for (size_t i = 0; infos && i < most; i++) {
		const struct volume *volume = &subject->volumes->items[i / VOLUME_TARGETS];
		unsigned slot = (unsigned)(i % VOLUME_TARGETS);
		struct record record;
		if (!is_looked_at(subject, volume, slot))
			continue;
		bool has_record = record_load(subject->config, volume->name, &record, NULL) == 0 && record.copies.exists;
		judge_slot(subject, volume, slot, has_record ? record.copies.slots[slot].region : "", &infos[next++], report);
	}
	free(infos);
}

void judge_sleds(const struct sled_case *subject, struct report *report)
{
	for (size_t i = 0; i < subject->count; i++)
		judge_sled(subject, &subject->surveys[i], report);
	judge_slots(subject, report);
	if (!subject->config->tls_authority) {
		FOUND_WARNING(report, "tb4.conf", "[crucible] has no certificates: what goes to the sleds is not encrypted on the way, "
										  "and anybody on that network can take a region over");
		report_next(report, "give downstairs and nodes certificates: tb4.conf(5), [crucible]");
	}
}
