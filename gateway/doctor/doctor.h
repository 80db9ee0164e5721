/* doctor.h: the preflight of a node, `tb4 doctor`: everything that keeps gateways from working, or will, found without
 * starting or changing anything.
 *
 * checks[] in doctor.c lists every check. A check reads facts and adds findings; it never prints, never stops the others,
 * and what it cannot look at is a finding too. Blocking, tb4 only; sleds are asked all at once and have a deadline.
 */
#ifndef TB4_DOCTOR_H
#define TB4_DOCTOR_H

#include "doctor/host.h"
#include "doctor/report.h"
#include "settings.h"
#include "sled/survey.h"
#include "volume/volume.h"

struct doctor {
	/* set by the caller */
	struct host host;
	const char *config_path; /* NULL: the default */
	uint64_t vmid; /* what this VM needs; 0: what all need */
	/* what the checks look at; doctor.c's */
	struct config config;
	struct faults faults; /* of configuration, volume files and records */
	struct volumes volumes; /* of all VMs */
	struct survey *surveys; /* of the sleds that matter */
	size_t survey_count;
};

/* Is the volume one of those that are looked at? */
static inline bool doctor_wants(const struct doctor *doctor, const struct volume *volume)
{
	return doctor->vmid == 0 || volume->parsed.vmid == doctor->vmid;
}

static inline bool doctor_has_volumes(const struct doctor *doctor)
{
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		if (doctor_wants(doctor, &doctor->volumes.items[i]))
			return true;
	}
	return false;
}

/* Runs every check. Returns how many, or a negative errno: -ENOMEM, -EINTR. Free doctor and report in any case. */
int doctor_run(struct doctor *doctor, struct report *report, struct reason *reason);
void doctor_free(struct doctor *doctor);

/* The checks. */
void check_configuration(const struct doctor *doctor, struct report *report);
void check_records(const struct doctor *doctor, struct report *report);
void check_permissions(const struct doctor *doctor, struct report *report);
void check_space(const struct doctor *doctor, struct report *report);
void check_clock(const struct doctor *doctor, struct report *report);
void check_modules(const struct doctor *doctor, struct report *report);
void check_sysctl(const struct doctor *doctor, struct report *report);
void check_units(const struct doctor *doctor, struct report *report);
void check_gateways(const struct doctor *doctor, struct report *report);
void check_ports(const struct doctor *doctor, struct report *report);
void check_certificates(const struct doctor *doctor, struct report *report);
void check_network(const struct doctor *doctor, struct report *report);
void check_sleds(const struct doctor *doctor, struct report *report);

#endif
