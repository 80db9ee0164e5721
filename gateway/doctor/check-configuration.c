/* check-configuration.c: the faults of tb4.conf and volume files that doctor_run() collected. */
#include <string.h>

#include "cleanup.h"
#include "doctor/doctor.h"

/* Is it about a volume file of another VM? */
static bool is_of_another(const struct doctor *doctor, const struct fault *fault)
{
	const char *base = strrchr(fault->path, '/');
	size_t length = strlen(doctor->config.volume_dir);
	struct volume_name parsed;
	if (!doctor->vmid || !base || strncmp(fault->path, doctor->config.volume_dir, length) != 0)
		return false;
	CLEANUP_FREE char *name = strdup(base + 1);
	char *suffix = name ? strrchr(name, '.') : NULL;
	if (!suffix)
		return false;
	*suffix = '\0';
	return volume_name_parse(name, &parsed) == 0 && parsed.vmid != doctor->vmid;
}

void check_configuration(const struct doctor *doctor, struct report *report)
{
	size_t before = report->count;
	for (size_t i = 0; i < doctor->faults.count; i++) {
		const struct fault *fault = &doctor->faults.items[i];
		if (doctor->config.volume_dir && is_of_another(doctor, fault))
			continue;
		FOUND_ERROR(report, fault->path, "%s", fault->text);
		if (fault->line)
			report_next(report, "editor +%u %s, then tb4 check", fault->line, fault->path);
		else
			report_next(report, "put it right, then tb4 check");
	}
	if (doctor->vmid && report->count == before && !doctor_has_volumes(doctor)) {
		char subject[40];
		snprintf(subject, sizeof subject, "VM %llu", (unsigned long long)doctor->vmid);
		FOUND_WARNING(report, subject, "has no volumes in %s", doctor->config.volume_dir);
		report_next(report, "tb4 volume create %llu SIZE", (unsigned long long)doctor->vmid);
	}
}
