/* memory.h: memory, or the end of the test program. */
#ifndef DOWNSTAIRS_MEMORY_H
#define DOWNSTAIRS_MEMORY_H

#include <stdlib.h>
#include <string.h>

static inline void *zeroed(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size);
	if (!memory)
		abort();
	return memory;
}

/* As realloc(), at least doubling, so that growing step by step is cheap. */
static inline void *grown(void *memory, size_t *capacity, size_t needed, size_t size)
{
	if (needed <= *capacity)
		return memory;
	size_t count = needed > 2 * *capacity ? needed : 2 * *capacity;
	memory = reallocarray(memory, count, size);
	if (!memory)
		abort();
	*capacity = count;
	return memory;
}

#endif
