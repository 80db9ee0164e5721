/* store.h: where the pages of a disk are. */
#ifndef DOWNSTAIRS_STORE_H
#define DOWNSTAIRS_STORE_H

#include <stdbool.h>
#include <stdint.h>

struct store {
	/* The memory of an extent's image. NULL if there is none, unless `create`. The same address
	 * for the same extent as long as the store is open. */
	uint8_t *(*image)(struct store *store, uint32_t extent_id, bool create);
	/* Changes part of an image that is there. kill -9 comes before or behind it, as far as the kernel sees to that: not
	 * in the middle of a page. */
	void (*put)(struct store *store, uint32_t extent_id, uint64_t at, const void *bytes, uint64_t size);
	/* Writes it to the medium. Returns 0 or a negative errno. */
	int (*sync)(struct store *store, uint32_t extent_id);
	void (*close)(struct store *store);
};

struct crucible_region;
struct store *store_in_memory(const struct crucible_region *definition);

#endif
