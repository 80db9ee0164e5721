/* recovery.c: how long the mend after the loss of the host would take, and the flushes that keep it short (design
 * 6.12).
 *
 * A mend copies whole extents, one after the other: those that are dirty anywhere, and those that carry the highest
 * stamp of a source, which is what the last flush has stamped. Writes behind a flush are executed only when that is
 * done, so that there are two sets of extents at the most, and each may have half of the budget.
 */
#include <string.h>

#include "core/core-internal.h"

enum {
	RATE_ASSUMED = (100 << 20) / 1000, /* bytes a ms, as long as nothing was copied */
	RATE_WEIGHT = 4,                   /* the newest rate counts for so much less than all before */
};

static uint64_t extent_bytes(const struct upstairs *upstairs)
{
	return upstairs->region.extent_size * upstairs->region.block_size;
}

static size_t words(const struct upstairs *upstairs)
{
	return upstairs->region.extent_count / 64 + 1;
}

uint64_t recovery_rate(const struct upstairs *upstairs)
{
	return upstairs->copy_rate ? upstairs->copy_rate : RATE_ASSUMED;
}

void recovery_begin(struct upstairs *upstairs)
{
	if (!upstairs->dirty)
		upstairs->dirty = core_allocate(upstairs, words(upstairs) * sizeof *upstairs->dirty);
	recovery_flushed(upstairs);
}

void recovery_flushed(struct upstairs *upstairs)
{
	upstairs->dirty_count = 0;
	if (upstairs->dirty)
		memset(upstairs->dirty, 0, words(upstairs) * sizeof *upstairs->dirty);
}

void recovery_written(struct upstairs *upstairs, uint64_t start, uint64_t count)
{
	uint64_t first = start / upstairs->region.extent_size, last = (start + count - 1) / upstairs->region.extent_size;
	for (uint64_t extent = first; upstairs->dirty && extent <= last; extent++) {
		uint64_t *word = &upstairs->dirty[extent / 64], bit = UINT64_C(1) << extent % 64;
		upstairs->dirty_count += !(*word & bit);
		*word |= bit;
	}
}

/* How many extents may be dirty. */
static uint64_t dirty_max(const struct upstairs *upstairs)
{
	uint64_t milliseconds = extent_bytes(upstairs) / recovery_rate(upstairs) + 1; /* of one extent */
	uint64_t affordable = upstairs->options.recovery_budget / milliseconds / 2;
	return affordable ? affordable : 1;
}

bool recovery_wants_flush(const struct upstairs *upstairs)
{
	return upstairs->options.recovery_budget && upstairs->dirty_count > dirty_max(upstairs);
}

uint64_t recovery_time(const struct upstairs *upstairs)
{
	return upstairs->dirty_count * (extent_bytes(upstairs) / recovery_rate(upstairs) + 1);
}

void recovery_copied(struct upstairs *upstairs, uint64_t since)
{
	uint64_t milliseconds = (core_clock(upstairs) - since) / 1000 + 1;
	uint64_t rate = extent_bytes(upstairs) / milliseconds;
	uint64_t kept = upstairs->copy_rate;
	upstairs->copy_rate = (kept ? kept - kept / RATE_WEIGHT + rate / RATE_WEIGHT : rate) + 1; /* never 0 */
}
