/* rate-limit.h: how many requests and bytes a second an export, or a VM as a whole, may use.
 *
 * Each rate is a clock that runs ahead: a request is taken while the clock is at most `burst` ahead of the time, and moves
 * it on by what the request costs at that rate. So whoever was idle may take `burst` worth of requests at once, and over
 * any longer time nobody gets more than the rate. A request larger than the burst is taken whole, and paid for afterwards.
 *
 * Pure bookkeeping, no clock of its own: times are nanoseconds of any monotonic clock.
 */
#ifndef TB4_RATE_LIMIT_H
#define TB4_RATE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct rate_limit {
	uint64_t requests, bytes; /* a second; 0: no limit */
	uint64_t burst;           /* ns */
	uint64_t requests_at, bytes_at; /* the two clocks */
};

enum { RATE_SECOND = 1000000000 };

static inline bool rate_limit_is_set(const struct rate_limit *limit)
{
	return limit->requests || limit->bytes;
}

static inline uint64_t rate_limit_ahead(uint64_t clock, uint64_t limit, uint64_t now, uint64_t burst)
{
	return limit && clock > now && clock - now > burst ? clock - now - burst : 0;
}

/* How long the next request has to wait; 0: not at all. */
static inline uint64_t rate_limit_wait(const struct rate_limit *limit, uint64_t now)
{
	uint64_t requests = rate_limit_ahead(limit->requests_at, limit->requests, now, limit->burst);
	uint64_t bytes = rate_limit_ahead(limit->bytes_at, limit->bytes, now, limit->burst);
	return requests > bytes ? requests : bytes;
}

static inline void rate_limit_move(uint64_t *clock, uint64_t limit, uint64_t now, uint64_t amount)
{
	if (!limit)
		return;
	/* a request has 32 MiB at the most: no overflow */
	*clock = (*clock > now ? *clock : now) + amount * RATE_SECOND / limit;
}

/* A request has been taken. */
static inline void rate_limit_take(struct rate_limit *limit, uint64_t now, uint64_t bytes)
{
	rate_limit_move(&limit->requests_at, limit->requests, now, 1);
	rate_limit_move(&limit->bytes_at, limit->bytes, now, bytes);
}

#endif
