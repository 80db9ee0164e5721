/* store-memory.c: images in memory of the process, allocated when first written. */
#include <stdlib.h>

#include "extent-image.h"
#include "memory.h"
#include "store.h"

struct memory_store {
	struct store store;
	uint32_t extent_count;
	uint64_t image_size;
	uint8_t **images;
};

static uint8_t *memory_image(struct store *store, uint32_t extent_id, bool create)
{
	struct memory_store *memory = (struct memory_store *)store;
	if (!memory->images[extent_id] && create)
		memory->images[extent_id] = zeroed(memory->image_size, 1);
	return memory->images[extent_id];
}

static void memory_put(struct store *store, uint32_t extent_id, uint64_t at, const void *bytes, uint64_t size)
{
	memcpy(((struct memory_store *)store)->images[extent_id] + at, bytes, size);
}

static int memory_sync(struct store *store, uint32_t extent_id)
{
	(void)store;
	(void)extent_id;
	return 0;
}

static void memory_close(struct store *store)
{
	struct memory_store *memory = (struct memory_store *)store;
	for (uint32_t i = 0; i < memory->extent_count; i++)
		free(memory->images[i]);
	free(memory->images);
	free(memory);
}

struct store *store_in_memory(const struct crucible_region *definition)
{
	struct memory_store *memory = zeroed(1, sizeof *memory);
	memory->store = (struct store){
		.image = memory_image, .put = memory_put, .sync = memory_sync, .close = memory_close
	};
	memory->extent_count = definition->extent_count;
	memory->image_size = image_layout(definition->block_size, definition->extent_size).size;
	memory->images = zeroed(definition->extent_count, sizeof *memory->images);
	return &memory->store;
}
