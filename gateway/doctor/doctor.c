#include "doctor/doctor.h"

#include <errno.h>
#include <stdlib.h>

#include "cleanup.h"
#include "doctor/configuration.h"
#include "sled/regions.h"

static const struct {
	const char *id;
	const char *looks_at;
	void (*run)(const struct doctor *doctor, struct report *report);
} checks[] = {
	{ "configuration", "tb4.conf, volume files and claim records can be read", check_configuration },
	{ "records", "claims are ours, and copies in sync", check_records },
	{ "permissions", "nobody else can read keys or change what decides", check_permissions },
	{ "space", "there is room for records, images and state", check_space },
	{ "clock", "the clock is right and kept so", check_clock },
	{ "modules", "the kernel's NBD client, where it is loaded", check_modules },
	{ "sysctl", "settings of the kernel that cost speed or service", check_sysctl },
	{ "units", "systemd has the units", check_units },
	{ "gateways", "gateways answer, and dead ones have left nothing behind", check_gateways },
	{ "ports", "ports of NBD are free or ours", check_ports },
	{ "certificates", "certificates are readable and not about to expire", check_certificates },
	{ "network", "full-size packets reach the sleds", check_network },
	{ "sleds", "sleds and the downstairs on them answer", check_sleds },
};

enum { CHECKS = sizeof checks / sizeof checks[0] };

static bool has_slot_on(const struct doctor *doctor, const struct sled *sled)
{
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		const struct volume *volume = &doctor->volumes.items[i];
		for (unsigned slot = 0; volume->backend == VOLUME_BACKEND_CRUCIBLE && slot < VOLUME_TARGETS; slot++) {
			if (doctor_wants(doctor, volume) && slot_is_on(volume, slot, sled))
				return true;
		}
	}
	return false;
}

/* Those that the VM's volumes are on; all for a VM without volumes, whose first one may come to any. */
static int ask_sleds(struct doctor *doctor, struct reason *reason)
{
	const struct config *config = &doctor->config;
	CLEANUP_FREE const struct sled **sleds = calloc(config->sled_count + 1, sizeof *sleds);
	bool all = doctor->vmid == 0 || !doctor_has_volumes(doctor);
	size_t count = 0;
	if (!sleds)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < config->sled_count; i++) {
		if (all || has_slot_on(doctor, &config->sleds[i]))
			sleds[count++] = &config->sleds[i];
	}
	doctor->survey_count = count;
	return count ? sleds_survey(sleds, count, &doctor->surveys, reason) : 0;
}

int doctor_run(struct doctor *doctor, struct report *report, struct reason *reason)
{
	int status = configuration_check(doctor->config_path, &doctor->config, &doctor->faults, &doctor->volumes);
	if (status == -ENOMEM)
		return reason_set(reason, status, "out of memory");
	status = ask_sleds(doctor, reason);
	if (status < 0)
		return status;
	for (size_t i = 0; i < CHECKS; i++) {
		size_t before = report->count;
		report->check = checks[i].id;
		checks[i].run(doctor, report);
		if (report->count == before)
			report_add(report, SEVERITY_OK, checks[i].looks_at, "nothing found");
	}
	return report_is_complete(report) ? CHECKS : reason_set(reason, -ENOMEM, "out of memory");
}

void doctor_free(struct doctor *doctor)
{
	surveys_free(doctor->surveys, doctor->survey_count);
	volumes_free(&doctor->volumes);
	faults_free(&doctor->faults);
	config_free(&doctor->config);
}
