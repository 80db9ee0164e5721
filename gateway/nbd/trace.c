#include "nbd/trace.h"

#include <stdlib.h>

struct trace_entry *trace_next(struct trace *trace)
{
	if (!trace->ring)
		trace->ring = calloc(TRACE_ENTRIES, sizeof *trace->ring);
	if (!trace->ring)
		return NULL;
	struct trace_entry *entry = &trace->ring[trace->count++ % TRACE_ENTRIES];
	*entry = (struct trace_entry){ .number = trace->count };
	return entry;
}

const struct trace_entry *trace_from(const struct trace *trace, uint64_t number)
{
	uint64_t oldest = trace->count > TRACE_ENTRIES ? trace->count - TRACE_ENTRIES + 1 : 1;
	if (number < oldest)
		number = oldest;
	return number <= trace->count ? &trace->ring[(number - 1) % TRACE_ENTRIES] : NULL;
}

void trace_free(struct trace *trace)
{
	free(trace->ring);
	*trace = (struct trace){ 0 };
}
