/* buffer-pool.h: page-aligned buffers, kept for reuse while there is work.
 *
 * Sizes are rounded up to powers of two from 4 KiB. buffer_give() keeps the pages, last in first
 * out, so that a busy server works in memory that is still in the processor's cache;
 * buffer_pool_trim() gives all that are not in use back to the system.
 */
#ifndef TB4_BUFFER_POOL_H
#define TB4_BUFFER_POOL_H

#include <stddef.h>

enum { BUFFER_CLASSES = 15 }; /* 4 KiB ... 64 MiB */

struct buffer_pool {
	struct buffer_class {
		void *first; /* a free buffer begins with the pointer to the next one */
		size_t count;
	} classes[BUFFER_CLASSES];
	size_t kept, in_use; /* bytes in free buffers, and in others */
	size_t limit;        /* of both together; free ones go when new ones come. 0: none */
};

/* Zero-initialised. Takes 1 byte to 64 MiB; NULL without memory. Contents are undefined. */
void *buffer_take(struct buffer_pool *pool, size_t size);
/* `size` as it was taken. */
void buffer_give(struct buffer_pool *pool, void *buffer, size_t size);
void buffer_pool_trim(struct buffer_pool *pool);
/* What buffer_take() really takes for `size`. */
size_t buffer_real_size(size_t size);

#endif
