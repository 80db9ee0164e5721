/* stats.h: what an export counts. Written on the loop's thread without locks, read there too. */
#ifndef TB4_STATS_H
#define TB4_STATS_H

#include <stdint.h>

enum { STATS_COMMANDS = 8 }; /* indexed by NBD_CMD_* */

/* Bucket i counts requests that took less than stats_bucket_limit(i) nanoseconds; the last one all
 * that took longer. */
enum { LATENCY_BUCKETS = 24, LATENCY_FIRST_SHIFT = 13 };

struct command_stats {
	uint64_t operations, bytes, errors, nanoseconds;
	uint64_t latency[LATENCY_BUCKETS];
};

struct export_stats {
	struct command_stats commands[STATS_COMMANDS];
	uint64_t limited; /* times that a client had to wait for a rate limit */
};

/* 8.192 us, doubling: the last limit is 34 s. */
static inline uint64_t stats_bucket_limit(unsigned bucket)
{
	return UINT64_C(1) << (LATENCY_FIRST_SHIFT + bucket);
}

static inline unsigned stats_bucket(uint64_t nanoseconds)
{
	uint64_t units = nanoseconds >> LATENCY_FIRST_SHIFT;
	unsigned bucket = units ? 64 - (unsigned)__builtin_clzll(units) : 0;
	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static inline void stats_count(
	struct command_stats *stats, uint64_t bytes, int error, uint64_t nanoseconds)
{
	stats->operations++;
	stats->nanoseconds += nanoseconds;
	stats->latency[stats_bucket(nanoseconds)]++;
	if (error)
		stats->errors++;
	else
		stats->bytes += bytes;
}

#endif
