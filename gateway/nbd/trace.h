/* trace.h: the last requests that took long, and where their time went. One ring for a process, made with the first of them.
 *
 * Fast requests cost next to nothing: their beginning and end are known anyway, and the clock is read again only where one had to
 * wait.
 *
 * Loop thread only. Times in milliseconds unless said.
 */
#ifndef TB4_TRACE_H
#define TB4_TRACE_H

#include <stdint.h>

enum { TRACE_ENTRIES = 1024 };

/* One request. */
struct trace_entry {
	uint64_t number; /* from 1, without gaps */
	uint64_t at;     /* when it was answered: ms since 1970 */
	char volume[64];
	uint16_t type; /* NBD_CMD_* */
	uint64_t offset, length;
	int error;      /* 0 or a negative errno */
	uint64_t total; /* us from its arrival, behind `limited`, to its answer */
	/* what of that was spent where; the rest is our own */
	uint32_t limited;  /* before it was taken: a rate limit */
	uint32_t received; /* until all of its payload was there */
	uint32_t held;     /* behind other writes to the same blocks */
	uint32_t backend;
	unsigned answered_by; /* 1 + the slot of the backend that answered last; 0: it has none */
};

struct trace {
	struct trace_entry *ring; /* NULL: none yet */
	uint64_t count;           /* ever: the newest is ring[(count - 1) % TRACE_ENTRIES] */
};

/* Room for the next entry, with its number; NULL without memory. */
struct trace_entry *trace_next(struct trace *trace);
/* The entry of that number, or the oldest that is left behind it; NULL if there is none. */
const struct trace_entry *trace_from(const struct trace *trace, uint64_t number);
void trace_free(struct trace *trace);

#endif
