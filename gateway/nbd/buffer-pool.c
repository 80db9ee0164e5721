#include "nbd/buffer-pool.h"

#include <sys/mman.h>

enum { SMALLEST_SHIFT = 12, KEPT_MAX = 64 << 20 };

static unsigned class_of(size_t size)
{
	unsigned class = 0;
	while (size > (size_t)1 << (SMALLEST_SHIFT + 2 * class))
		class ++;
	return class;
}

static size_t class_size(unsigned class)
{
	return (size_t)1 << (SMALLEST_SHIFT + 2 * class);
}

size_t buffer_real_size(size_t size)
{
	return class_size(class_of(size));
}

void *buffer_take(struct buffer_pool *pool, size_t size)
{
	unsigned class = class_of(size);
	if (class >= BUFFER_CLASSES)
		return NULL;
	struct buffer_class *free_ones = &pool->classes[class];
	if (free_ones->first) {
		void *buffer = free_ones->first;
		free_ones->first = *(void **)buffer;
		free_ones->count--;
		pool->kept -= class_size(class);
		return buffer;
	}
	void *buffer = mmap(NULL, class_size(class), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return buffer == MAP_FAILED ? NULL : buffer;
}

void buffer_give(struct buffer_pool *pool, void *buffer, size_t size)
{
	unsigned class = class_of(size);
	if (pool->kept + class_size(class) > KEPT_MAX) {
		munmap(buffer, class_size(class));
		return;
	}
	struct buffer_class *free_ones = &pool->classes[class];
	*(void **)buffer = free_ones->first;
	free_ones->first = buffer;
	free_ones->count++;
	pool->kept += class_size(class);
}

void buffer_pool_trim(struct buffer_pool *pool)
{
	for (unsigned class = 0; class < BUFFER_CLASSES; class ++) {
		struct buffer_class *free_ones = &pool->classes[class];
		while (free_ones->first) {
			void *buffer = free_ones->first;
			free_ones->first = *(void **)buffer;
			munmap(buffer, class_size(class));
		}
		free_ones->count = 0;
	}
	pool->kept = 0;
}
