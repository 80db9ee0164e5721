/* check-records.c: claim records that say that something is wrong. Those that cannot be read, or make no sense, are
 * check_configuration()'s. */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "doctor/doctor.h"
#include "durable-file.h"
#include "volume/record.h"

static const struct volume *find(const struct doctor *doctor, const char *name)
{
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		if (strcmp(doctor->volumes.items[i].name, name) == 0)
			return &doctor->volumes.items[i];
	}
	return NULL;
}

static void judge_copies(const struct volume *volume, const struct record *record, struct report *report)
{
	unsigned in_sync = 0;
	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		in_sync += record->copies.slots[i].in_sync;
	if (!record->copies.exists || in_sync == RECORD_SLOTS)
		return;
	FOUND_WARNING(report, volume->name, "only %u of its %d copies %s in sync when the record was written", in_sync,
		RECORD_SLOTS, in_sync == 1 ? "was" : "were");
	report_next(report, "tb4 status %llu", (unsigned long long)volume->parsed.vmid);
}

static void judge(const struct doctor *doctor, const struct volume *volume, const struct record *record,
	struct report *report)
{
	if (!record->released && strcmp(record->node, doctor->config.node_name) != 0 &&
		strcmp(volume->host, doctor->config.node_name) == 0) {
		FOUND_ERROR(report, volume->name, "belongs to this node, and %s has claimed it", record->node);
		report_next(report, "stop its gateway on %s, or tb4 claim force %s", record->node, volume->name);
	}
	judge_copies(volume, record, report);
}

/* A record without a volume: its volume file was lost, or moved. */
static void find_orphans(const struct doctor *doctor, struct report *report)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(doctor->config.claim_dir);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		struct volume_name parsed;
		CLEANUP_FREE char *name = strdup(entry->d_name);
		CLEANUP_FREE char *path = path_join(doctor->config.claim_dir, entry->d_name);
		char *suffix = name ? strrchr(name, '.') : NULL;
		if (!path || !suffix || strcmp(suffix, ".json") != 0)
			continue;
		*suffix = '\0';
		if (volume_name_parse(name, &parsed) < 0 || (doctor->vmid && parsed.vmid != doctor->vmid))
			continue;
		CLEANUP_FREE char *file = NULL;
		if (find(doctor, name) || asprintf(&file, "%s/%s.conf", doctor->config.volume_dir, name) < 0 ||
			access(file, F_OK) == 0)
			continue;
		FOUND_WARNING(report, path, "there is no volume file for it");
		report_next(report, "bring %s back, or, if the volume is gone for good, rm %s", file, path);
	}
}

/* Locks must exclude everybody who can reach it. */
static void judge_store(const char *directory, const char *instead, struct report *report)
{
	CLEANUP_FREE char *there = directory ? host_nearest(directory) : NULL;
	struct reason reason;
	if (!there || require_local(there, &reason) != -EOPNOTSUPP)
		return;
	FOUND_ERROR(report, directory, "%s", reason.text);
	report_next(report, "%s below [paths] in tb4.conf", instead);
}

void check_records(const struct doctor *doctor, struct report *report)
{
	judge_store(doctor->config.claim_dir, "claim_dir = /var/lib/tb4/claims", report);
	judge_store(doctor->config.volume_dir, "volume_dir = /etc/tb4/volumes", report);
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		const struct volume *volume = &doctor->volumes.items[i];
		struct record record;
		if (doctor_wants(doctor, volume) && record_load(&doctor->config, volume->name, &record, NULL) == 0)
			judge(doctor, volume, &record, report);
	}
	if (doctor->config.claim_dir)
		find_orphans(doctor, report);
}
