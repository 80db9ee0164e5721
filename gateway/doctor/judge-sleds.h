/* judge-sleds.h: what is wrong with sleds and the regions on them, for `tb4 doctor` and `tb4 sled check`. Blocking: asks the
 * downstairs by HTTP, all of them at once. */
#ifndef TB4_JUDGE_SLEDS_H
#define TB4_JUDGE_SLEDS_H

#include "doctor/report.h"
#include "sled/survey.h"

struct sled_case {
	const struct config *config;
	const struct volumes *volumes; /* of all VMs: regions of volumes that are not in it count as orphans */
	const struct survey *surveys;
	size_t count;
	const struct sled *only; /* slots on this one only; NULL: on all */
	uint64_t vmid; /* only what this VM has; 0: everything */
};

void judge_sleds(const struct sled_case *subject, struct report *report);

#endif
