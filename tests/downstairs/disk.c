/* disk.c: see disk.h. */
#include "disk.h"

#include <assert.h>
#include <errno.h>

#include "memory.h"

/* The durable state of a block that was changed since. */
struct shadow {
	struct shadow *next;
	uint64_t block;
	bool has_slots, has_data;
	bool is_stuck; /* a sync that should have saved it failed */
	uint8_t slots[IMAGE_SLOTS][IMAGE_SLOT_SIZE];
	uint8_t data[]; /* block_size */
};

/* The same of the end of an image. */
struct tail_shadow {
	bool is_there, is_stuck;
	uint8_t *bytes; /* as many as the piece has */
};

struct disk_extent {
	bool has_copy;
	bool has_lost; /* what a sync that failed should have saved */
	struct shadow *shadows;
	struct tail_shadow versions, bitmap;
};

struct disk {
	struct crucible_region region;
	struct image_layout layout;
	struct store *store;
	bool keeps_track; /* of what is durable */
	disk_hook *hook;
	void *hook_context;
	struct disk_extent *extents;
};

struct disk *disk_open(const struct crucible_region *definition, struct store *store)
{
	struct disk *disk = zeroed(1, sizeof *disk);
	disk->region = *definition;
	disk->layout = image_layout(definition->block_size, definition->extent_size);
	disk->store = store;
	disk->extents = zeroed(definition->extent_count, sizeof *disk->extents);
	return disk;
}

struct disk *disk_new(const struct crucible_region *definition)
{
	struct disk *disk = disk_open(definition, store_in_memory(definition));
	disk->keeps_track = true;
	return disk;
}

void disk_set_hook(struct disk *disk, disk_hook *hook, void *context)
{
	disk->hook = hook;
	disk->hook_context = context;
}

const struct crucible_region *disk_region(const struct disk *disk)
{
	return &disk->region;
}

const struct image_layout *disk_layout(const struct disk *disk)
{
	return &disk->layout;
}

static int ask_hook(struct disk *disk, enum disk_step step, uint32_t extent_id)
{
	return disk->hook ? disk->hook(disk->hook_context, step, extent_id) : 0;
}

/* Reading */

const uint8_t *disk_image(const struct disk *disk, uint32_t extent_id)
{
	return disk->store->image(disk->store, extent_id, false);
}

struct versions disk_versions(const struct disk *disk, uint32_t extent_id)
{
	struct versions versions = { 0 };
	const uint8_t *image = disk_image(disk, extent_id);
	if (image)
		image_get_versions(image + disk->layout.meta, &versions);
	return versions;
}

void disk_copy_image(const struct disk *disk, uint32_t extent_id, uint8_t *image)
{
	const uint8_t *from = disk_image(disk, extent_id);
	if (from) {
		memcpy(image, from, disk->layout.size);
		return;
	}
	memset(image, 0, disk->layout.size);
	image_put_versions(image + disk->layout.meta, &(struct versions){ 0 });
}

bool disk_has_copy(const struct disk *disk, uint32_t extent_id)
{
	return disk->extents[extent_id].has_copy;
}

void disk_set_copy(struct disk *disk, uint32_t extent_id, bool has_copy)
{
	disk->extents[extent_id].has_copy = has_copy;
}

/* Remembering what is durable */

static struct shadow *shadow_of(struct disk_extent *extent, uint64_t block)
{
	struct shadow *shadow = extent->shadows;
	while (shadow && shadow->block != block)
		shadow = shadow->next;
	return shadow;
}

static struct shadow *need_shadow(struct disk *disk, uint32_t extent_id, uint64_t block)
{
	struct disk_extent *extent = &disk->extents[extent_id];
	struct shadow *shadow = shadow_of(extent, block);
	if (!shadow) {
		shadow = zeroed(1, sizeof *shadow + disk->layout.block_size);
		shadow->block = block;
		shadow->next = extent->shadows;
		extent->shadows = shadow;
	}
	shadow->is_stuck = false;
	return shadow;
}

static void remember_tail(
	struct disk *disk, struct tail_shadow *tail, const uint8_t *from, uint64_t size)
{
	if (!disk->keeps_track)
		return;
	tail->is_stuck = false;
	if (tail->is_there)
		return;
	if (!tail->bytes)
		tail->bytes = zeroed(size, 1);
	memcpy(tail->bytes, from, size);
	tail->is_there = true;
}

static void remember_slots(struct disk *disk, uint32_t extent_id, uint64_t block)
{
	if (!disk->keeps_track)
		return;
	struct shadow *shadow = need_shadow(disk, extent_id, block);
	if (shadow->has_slots)
		return;
	shadow->has_slots = true;
	for (unsigned slot = 0; slot < IMAGE_SLOTS; slot++)
		memcpy(shadow->slots[slot],
			disk_image(disk, extent_id) + image_slot_at(&disk->layout, block, slot),
			IMAGE_SLOT_SIZE);
}

static void remember_data(struct disk *disk, uint32_t extent_id, uint64_t block)
{
	if (!disk->keeps_track)
		return;
	struct shadow *shadow = need_shadow(disk, extent_id, block);
	if (shadow->has_data)
		return;
	shadow->has_data = true;
	memcpy(shadow->data, disk_image(disk, extent_id) + image_data_at(&disk->layout, block),
		disk->layout.block_size);
}

static void forget_shadows(struct disk_extent *extent, bool with_stuck_ones)
{
	struct shadow **at = &extent->shadows;
	while (*at) {
		struct shadow *shadow = *at;
		if (shadow->is_stuck && !with_stuck_ones) {
			at = &shadow->next;
			continue;
		}
		*at = shadow->next;
		free(shadow);
	}
	struct tail_shadow *tails[] = { &extent->versions, &extent->bitmap };
	for (unsigned i = 0; i < 2; i++) {
		if (with_stuck_ones || !tails[i]->is_stuck)
			*tails[i] = (struct tail_shadow){ .bytes = tails[i]->bytes };
	}
}

static void make_shadows_stuck(struct disk_extent *extent)
{
	for (struct shadow *shadow = extent->shadows; shadow; shadow = shadow->next)
		shadow->is_stuck = true;
	extent->versions.is_stuck = true;
	extent->bitmap.is_stuck = true;
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	for (uint32_t i = 0; i < disk->region.extent_count; i++) {
		forget_shadows(&disk->extents[i], true);
		free(disk->extents[i].versions.bytes);
		free(disk->extents[i].bitmap.bytes);
	}
	free(disk->extents);
	disk->store->close(disk->store);
	free(disk);
}

/* Changes */

static uint8_t *need_image(struct disk *disk, uint32_t extent_id)
{
	uint8_t *image = disk->store->image(disk->store, extent_id, false);
	if (image)
		return image;
	image = disk->store->image(disk->store, extent_id, true);
	image_put_versions(image + disk->layout.meta, &(struct versions){ 0 });
	return image;
}

static void put(struct disk *disk, uint32_t extent_id, uint64_t at, const void *bytes, uint64_t size)
{
	disk->store->put(disk->store, extent_id, at, bytes, size);
}

int disk_put_versions(struct disk *disk, uint32_t extent_id, const struct versions *versions)
{
	int status = ask_hook(disk, DISK_PUT_VERSIONS, extent_id);
	if (status < 0)
		return status;
	uint8_t bytes[IMAGE_META_SIZE], *at = need_image(disk, extent_id) + disk->layout.meta;
	remember_tail(disk, &disk->extents[extent_id].versions, at, IMAGE_META_SIZE);
	image_put_versions(bytes, versions);
	put(disk, extent_id, disk->layout.meta, bytes, sizeof bytes);
	return 0;
}

int disk_put_bitmap(struct disk *disk, uint32_t extent_id, const uint8_t *bitmap)
{
	int status = ask_hook(disk, DISK_PUT_VERSIONS, extent_id);
	if (status < 0)
		return status;
	uint8_t *at = need_image(disk, extent_id) + disk->layout.bitmap;
	uint64_t size = disk->layout.meta - disk->layout.bitmap;
	remember_tail(disk, &disk->extents[extent_id].bitmap, at, size);
	put(disk, extent_id, disk->layout.bitmap, bitmap, size);
	return 0;
}

int disk_put_slot(struct disk *disk, uint32_t extent_id, uint64_t block, unsigned slot,
	const struct stored_context *stored)
{
	int status = ask_hook(disk, DISK_PUT_CONTEXT, extent_id);
	if (status < 0)
		return status;
	uint8_t bytes[IMAGE_SLOT_SIZE];
	need_image(disk, extent_id);
	remember_slots(disk, extent_id, block);
	image_put_slot(bytes, stored);
	put(disk, extent_id, image_slot_at(&disk->layout, block, slot), bytes, sizeof bytes);
	return 0;
}

int disk_put_data(struct disk *disk, uint32_t extent_id, uint64_t block, const void *data)
{
	int status = ask_hook(disk, DISK_PUT_DATA, extent_id);
	if (status < 0)
		return status;
	need_image(disk, extent_id);
	remember_data(disk, extent_id, block);
	put(disk, extent_id, image_data_at(&disk->layout, block), data, disk->layout.block_size);
	return 0;
}

int disk_sync(struct disk *disk, uint32_t extent_id)
{
	int status = ask_hook(disk, DISK_SYNC, extent_id);
	if (status == -ECANCELED)
		return status;
	if (status == 0)
		status = disk->store->sync(disk->store, extent_id);
	if (status < 0)
		make_shadows_stuck(&disk->extents[extent_id]);
	else
		forget_shadows(&disk->extents[extent_id], false);
	return status;
}

int disk_replace(struct disk *disk, uint32_t extent_id, const uint8_t *image)
{
	int status = ask_hook(disk, DISK_REPLACE, extent_id);
	if (status < 0)
		return status;
	memcpy(need_image(disk, extent_id), image, disk->layout.size);
	disk->extents[extent_id].has_lost = false;
	forget_shadows(&disk->extents[extent_id], true);
	return disk->store->sync(disk->store, extent_id);
}

/* Loss of power */

static void lose_tail(struct tail_shadow *tail, uint8_t *at, uint64_t size, bool survives)
{
	if (tail->is_there && !survives)
		memcpy(at, tail->bytes, size);
}

void disk_power_loss(struct disk *disk, disk_survives *survives, void *context)
{
	assert(disk->keeps_track);
	for (uint32_t id = 0; id < disk->region.extent_count; id++) {
		struct disk_extent *extent = &disk->extents[id];
		uint8_t *image = disk->store->image(disk->store, id, false);
		extent->has_lost = disk_is_hollow(disk, id);
		for (struct shadow *shadow = extent->shadows; shadow; shadow = shadow->next) {
			if (shadow->has_slots && !survives(context, id, shadow->block, PIECE_CONTEXTS)) {
				for (unsigned slot = 0; slot < IMAGE_SLOTS; slot++)
					memcpy(image + image_slot_at(&disk->layout, shadow->block, slot),
						shadow->slots[slot], IMAGE_SLOT_SIZE);
			}
			if (shadow->has_data && !survives(context, id, shadow->block, PIECE_DATA))
				memcpy(image + image_data_at(&disk->layout, shadow->block), shadow->data,
					disk->layout.block_size);
		}
		if (extent->versions.is_there)
			lose_tail(&extent->versions, image + disk->layout.meta, IMAGE_META_SIZE,
				survives(context, id, 0, PIECE_VERSIONS));
		if (extent->bitmap.is_there)
			lose_tail(&extent->bitmap, image + disk->layout.bitmap,
				disk->layout.meta - disk->layout.bitmap, survives(context, id, 0, PIECE_BITMAP));
		forget_shadows(extent, true);
	}
}

void disk_damage(struct disk *disk, uint64_t block, enum disk_piece piece)
{
	uint8_t *image = need_image(disk, (uint32_t)(block / disk->layout.blocks));
	block %= disk->layout.blocks;
	if (piece == PIECE_DATA) {
		image[image_data_at(&disk->layout, block) + 7] ^= 1; /* the highest byte of a number: it never makes zeros of it */
		return;
	}
	for (unsigned slot = 0; slot < IMAGE_SLOTS; slot++) {
		uint8_t *at = image + image_slot_at(&disk->layout, block, slot);
		struct stored_context stored;
		image_get_slot(at, &stored);
		stored.context.hash ^= 1;
		stored.context.encryption.tag[0] ^= 1;
		image_put_slot(at, &stored);
	}
}

size_t disk_unsynced(const struct disk *disk, uint32_t extent_id)
{
	const struct disk_extent *extent = &disk->extents[extent_id];
	size_t count = (size_t)extent->versions.is_there + (size_t)extent->bitmap.is_there;
	for (const struct shadow *shadow = extent->shadows; shadow; shadow = shadow->next)
		count += (size_t)shadow->has_slots + (size_t)shadow->has_data;
	return count;
}

bool disk_is_hollow(const struct disk *disk, uint32_t extent_id)
{
	const struct disk_extent *extent = &disk->extents[extent_id];
	for (const struct shadow *shadow = extent->shadows; shadow; shadow = shadow->next) {
		if (shadow->is_stuck)
			return true;
	}
	return extent->has_lost || (extent->versions.is_there && extent->versions.is_stuck) ||
		   (extent->bitmap.is_there && extent->bitmap.is_stuck);
}
