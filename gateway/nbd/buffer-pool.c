#include "nbd/buffer-pool.h"

#include <sys/mman.h>

enum { SMALLEST_SHIFT = 12, KEPT_MAX = 64 << 20 };

static unsigned class_of(size_t size)
{
	unsigned class = 0;
	while (size > (size_t)1 << (SMALLEST_SHIFT + class))
		class++;
	return class;
}

static size_t class_size(unsigned class)
{
	return (size_t)1 << (SMALLEST_SHIFT + class);
}

size_t buffer_real_size(size_t size)
{
	return class_size(class_of(size));
}

static void drop(struct buffer_pool *pool, unsigned class)
{
	struct buffer_class *free_ones = &pool->classes[class];
	void *buffer = free_ones->first;
	free_ones->first = *(void **)buffer;
	free_ones->count--;
	pool->kept -= class_size(class);
	munmap(buffer, class_size(class));
}

/* Free buffers of other sizes give way to a new one, the largest first. */
static void make_room(struct buffer_pool *pool, size_t size)
{
	for (unsigned class = BUFFER_CLASSES; class-- > 0;) {
		while (pool->limit && pool->in_use + pool->kept + size > pool->limit &&
			pool->classes[class].first)
			drop(pool, class);
	}
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
		pool->in_use += class_size(class);
		return buffer;
	}
	make_room(pool, class_size(class));
	void *buffer = mmap(NULL, class_size(class), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		return NULL;
	pool->in_use += class_size(class);
	return buffer;
}

void buffer_give(struct buffer_pool *pool, void *buffer, size_t size)
{
	unsigned class = class_of(size);
	pool->in_use -= class_size(class);
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
	for (unsigned class = 0; class < BUFFER_CLASSES; class++) {
		while (pool->classes[class].first)
			drop(pool, class);
	}
}
