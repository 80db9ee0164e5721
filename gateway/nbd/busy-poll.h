/* busy-poll.h: whether to look for the next request for a moment instead of sleeping.
 *
 * A client that sends one request at a time and gets its answer in microseconds sends the next one
 * sooner than a sleeping process can be woken. So after such a request the server looks for the next
 * one for up to `limit`, as long as that succeeds: one failure ends it until a gap was short again.
 * At most `limit` of CPU time is so spent in vain after each run of such requests. The same goes for the answer of
 * the backend to such a request, and for whatever comes next while several are with the backend.
 *
 * Pure bookkeeping, no clock: times are nanoseconds of any monotonic clock.
 */
#ifndef TB4_BUSY_POLL_H
#define TB4_BUSY_POLL_H

#include <stdbool.h>
#include <stdint.h>

struct busy_poll {
	uint64_t limit;     /* 0: never */
	uint64_t since;     /* the last lone request was answered, or given to the backend; 0: no gap is measured */
	bool is_worthwhile; /* the last gap was short */
};

/* A lone request has been answered, or given to the backend. */
static inline void busy_poll_begin(struct busy_poll *poll, uint64_t now)
{
	poll->since = poll->limit ? now : 0;
}

/* Is it time to look again rather than to sleep? */
static inline bool busy_poll_goes_on(struct busy_poll *poll, uint64_t now)
{
	if (poll->is_worthwhile && poll->since && now - poll->since > poll->limit)
		poll->is_worthwhile = false;
	return poll->is_worthwhile && poll->since;
}

/* A client has sent something, or the backend answered. */
static inline void busy_poll_end(struct busy_poll *poll, uint64_t now)
{
	if (poll->since)
		poll->is_worthwhile = now - poll->since <= poll->limit;
	poll->since = 0;
}

#endif
