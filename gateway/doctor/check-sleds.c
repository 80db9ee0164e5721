/* check-sleds.c: the sleds that the VM, or all VMs, need. */
#include "doctor/doctor.h"
#include "doctor/judge-sleds.h"

static bool has_crucible(const struct doctor *doctor)
{
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		if (doctor_wants(doctor, &doctor->volumes.items[i]) && doctor->volumes.items[i].backend == VOLUME_BACKEND_CRUCIBLE)
			return true;
	}
	return false;
}

void check_sleds(const struct doctor *doctor, struct report *report)
{
	const struct sled_case subject = {
		.config = &doctor->config,
		.volumes = &doctor->volumes,
		.surveys = doctor->surveys,
		.count = doctor->survey_count,
		.vmid = doctor->vmid,
	};
	if (doctor->survey_count > 0 || has_crucible(doctor))
		judge_sleds(&subject, report);
}
