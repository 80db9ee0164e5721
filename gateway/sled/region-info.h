/* region-info.h: what downstairs say of their regions over HTTP, on the repair port: the only way to look at one without
 * taking it over (crucible-protocol 8.4). By libcurl. Blocking; tb4 only, never a gateway.
 */
#ifndef TB4_REGION_INFO_H
#define TB4_REGION_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reason.h"

enum { REGION_INFO_SECONDS = 3 };

struct region_info {
	const char *target; /* HOST:PORT of the downstairs; the caller's */
	/* afterwards */
	int error; /* 0, or a negative errno and its reason, which begins with the target */
	struct reason reason;
	char uuid[37];
	uint64_t block_size, extent_blocks, extents;
	uint64_t size; /* bytes, at least 1 */
	bool encrypted, read_only;
};

/* Asks all of them, at the same time. Returns the first error. */
int region_infos_get(struct region_info *infos, size_t count);
/* The same until all have answered, for downstairs that have been started just now. */
int region_infos_wait(struct region_info *infos, size_t count, unsigned seconds);

#endif
