/* region.c: see region.h. */
#include "region.h"

#include <errno.h>
#include <stdio.h>

#include "memory.h"

/* What the process knows of each block. */
enum {
	BLOCK_SLOT = 1,     /* the slot in force */
	BLOCK_WRITTEN = 2,  /* it holds a context */
	BLOCK_UNSYNCED = 4, /* written since the last sync */
};

struct region_extent {
	bool is_closed;
	bool is_dirty;   /* the flag is set and synced */
	bool is_listed;  /* was written since the last flush of the region */
	uint8_t *blocks; /* NULL: none was ever written */
};

static enum outcome panic(struct region *region, const char *reason)
{
	region->panic = reason;
	return OUTCOME_PANIC;
}

static enum outcome fail(struct region *region, enum crucible_error_kind kind, bool is_hopeless)
{
	region->error = (struct crucible_error){
		.kind = kind,
		.text = { region->text, strlen(region->text) },
	};
	region->is_hopeless = is_hopeless;
	return OUTCOME_FAILED;
}

/* Of a step on the disk. */
static enum outcome outcome_of(struct region *region, uint32_t extent_id, int status)
{
	if (status == 0)
		return OUTCOME_DONE;
	if (status == -ECANCELED)
		return OUTCOME_KILLED;
	snprintf(
		region->text, sizeof region->text, "extent %u: %s", (unsigned)extent_id, strerror(-status));
	return fail(region, CRUCIBLE_ERROR_IO, false);
}

static enum outcome check_extent(struct region *region, uint32_t extent_id, bool must_be_closed)
{
	if (extent_id >= disk_region(region->disk)->extent_count)
		return panic(region, "no such extent");
	bool is_closed = region->extents[extent_id].is_closed;
	if (is_closed && !must_be_closed)
		return panic(region, "the extent is closed");
	if (!is_closed && must_be_closed)
		return panic(region, "the extent is open");
	return OUTCOME_DONE;
}

/* The part of a range that lies in one extent. */
struct part {
	uint32_t extent_id;
	uint64_t block, count; /* the first in the extent */
};

/* Takes the first part off the range; that of a range without blocks has none either. As upstream
 * has it, an extent's number is cut to 32 bits, so that a block far beyond the end may be one of
 * the region again. */
static void take_part(struct region *region, uint64_t *start, uint64_t *count, struct part *part)
{
	uint64_t extent_size = disk_region(region->disk)->extent_size;
	part->extent_id = (uint32_t)(*start / extent_size);
	part->block = *start % extent_size;
	part->count = extent_size - part->block;
	if (part->count > *count)
		part->count = *count;
	*start += part->count;
	*count -= part->count;
}

/* Opening an extent */

/* The slot whose hash fits the data. An empty slot is in force if no other fits: the block was
 * first written when the process or the host died. */
static enum outcome choose_slot(
	struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t block)
{
	const struct image_layout *layout = disk_layout(region->disk);
	struct stored_context slots[IMAGE_SLOTS];
	for (unsigned i = 0; i < IMAGE_SLOTS; i++)
		image_get_slot(image + image_slot_at(layout, block, i), &slots[i]);
	if (!slots[0].is_set && !slots[1].is_set)
		return OUTCOME_DONE;
	uint8_t *flags = &region->extents[extent_id].blocks[block];
	uint64_t hash = image_data_hash(image + image_data_at(layout, block), layout->block_size);
	for (unsigned i = 0; i < IMAGE_SLOTS; i++) {
		if (slots[i].is_set && slots[i].data_hash == hash) {
			*flags = (uint8_t)(i | BLOCK_WRITTEN);
			return OUTCOME_DONE;
		}
	}
	for (unsigned i = 0; i < IMAGE_SLOTS; i++) {
		if (!slots[i].is_set) {
			*flags = (uint8_t)i;
			return OUTCOME_DONE;
		}
	}
	fail(region, CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT, true);
	region->error.slot.block = block;
	region->error.slot.extent_id = extent_id;
	return OUTCOME_FAILED;
}

static void recall_slot(
	struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t block)
{
	const struct image_layout *layout = disk_layout(region->disk);
	unsigned slot = (unsigned)image[layout->bitmap + block / 8] >> block % 8 & 1;
	struct stored_context stored;
	image_get_slot(image + image_slot_at(layout, block, slot), &stored);
	region->extents[extent_id].blocks[block] =
		(uint8_t)(slot | (stored.is_set ? BLOCK_WRITTEN : 0));
}

static enum outcome open_extent(struct region *region, uint32_t extent_id)
{
	struct region_extent *extent = &region->extents[extent_id];
	const uint8_t *image = disk_image(region->disk, extent_id);
	if (!region->read_only)
		disk_set_copy(region->disk, extent_id, false);
	if (image) {
		uint64_t blocks = disk_layout(region->disk)->blocks;
		extent->is_dirty = disk_versions(region->disk, extent_id).dirty;
		free(extent->blocks);
		extent->blocks = zeroed(blocks, 1);
		for (uint64_t block = 0; block < blocks; block++) {
			enum outcome outcome = OUTCOME_DONE;
			if (extent->is_dirty)
				outcome = choose_slot(region, extent_id, image, block);
			else
				recall_slot(region, extent_id, image, block);
			if (outcome != OUTCOME_DONE)
				return outcome;
		}
		extent->is_listed = extent->is_listed || extent->is_dirty;
	}
	extent->is_closed = false;
	return OUTCOME_DONE;
}

enum outcome region_open(struct region *region, struct disk *disk, bool read_only)
{
	const struct crucible_region *definition = disk_region(disk);
	*region = (struct region){
		.disk = disk,
		.read_only = read_only,
		.block_count = definition->extent_size * definition->extent_count,
		.extents = zeroed(definition->extent_count, sizeof *region->extents),
	};
	for (uint32_t i = 0; i < definition->extent_count; i++) {
		enum outcome outcome = open_extent(region, i);
		if (outcome != OUTCOME_DONE)
			return outcome;
	}
	return OUTCOME_DONE;
}

void region_close(struct region *region)
{
	for (uint32_t i = 0; i < disk_region(region->disk)->extent_count; i++)
		free(region->extents[i].blocks);
	free(region->extents);
	free(region->contexts);
	free(region->chosen);
}

/* Reading */

/* The context in force. */
static struct stored_context context_of(
	const struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t block)
{
	struct stored_context stored = { 0 };
	const uint8_t *blocks = region->extents[extent_id].blocks;
	if (blocks && (blocks[block] & BLOCK_WRITTEN))
		image_get_slot(
			image + image_slot_at(disk_layout(region->disk), block, blocks[block] & BLOCK_SLOT),
			&stored);
	return stored;
}

const uint8_t *region_peek(
	const struct region *region, uint64_t block, struct stored_context *stored)
{
	const struct image_layout *layout = disk_layout(region->disk);
	uint32_t extent_id = (uint32_t)(block / layout->blocks);
	const uint8_t *image = disk_image(region->disk, extent_id);
	*stored = context_of(region, extent_id, image, block % layout->blocks);
	return image ? image + image_data_at(layout, block % layout->blocks) : NULL;
}

static struct crucible_read_context read_context(
	struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t block)
{
	struct stored_context stored = context_of(region, extent_id, image, block);
	if (!stored.is_set)
		return (struct crucible_read_context){ .kind = CRUCIBLE_BLOCK_EMPTY };
	if (stored.context.is_encrypted)
		return (struct crucible_read_context){ .kind = CRUCIBLE_BLOCK_ENCRYPTED,
			.encryption = stored.context.encryption };
	return (struct crucible_read_context){ .kind = CRUCIBLE_BLOCK_UNENCRYPTED,
		.hash = stored.context.hash };
}

enum outcome region_check_read(struct region *region, uint64_t start, uint64_t count)
{
	struct part part;
	enum outcome outcome = OUTCOME_DONE;
	while (outcome == OUTCOME_DONE && count > 0) {
		take_part(region, &start, &count, &part);
		outcome = check_extent(region, part.extent_id, false);
	}
	return outcome;
}

void region_read(struct region *region, uint64_t start, uint64_t count,
	struct crucible_read_context *contexts, uint8_t *data)
{
	const struct image_layout *layout = disk_layout(region->disk);
	struct part part;
	while (count > 0) {
		take_part(region, &start, &count, &part);
		const uint8_t *image = disk_image(region->disk, part.extent_id);
		uint64_t size = part.count * layout->block_size;
		for (uint64_t i = 0; i < part.count; i++)
			*contexts++ = read_context(region, part.extent_id, image, part.block + i);
		if (image)
			memcpy(data, image + image_data_at(layout, part.block), size);
		else
			memset(data, 0, size);
		data += size;
	}
}

/* Writing */

static void all_synced(struct region *region, uint32_t extent_id)
{
	uint8_t *blocks = region->extents[extent_id].blocks;
	for (uint64_t i = 0; blocks && i < disk_layout(region->disk)->blocks; i++)
		blocks[i] &= (uint8_t)~BLOCK_UNSYNCED;
}

static enum outcome sync_extent(struct region *region, uint32_t extent_id)
{
	enum outcome outcome = outcome_of(region, extent_id, disk_sync(region->disk, extent_id));
	if (outcome == OUTCOME_DONE)
		all_synced(region, extent_id);
	return outcome;
}

static enum outcome make_dirty(struct region *region, uint32_t extent_id)
{
	struct versions versions = disk_versions(region->disk, extent_id);
	versions.dirty = true;
	enum outcome outcome = outcome_of(
		region, extent_id, disk_put_versions(region->disk, extent_id, &versions));
	if (outcome == OUTCOME_DONE)
		outcome = sync_extent(region, extent_id);
	if (outcome == OUTCOME_DONE)
		region->extents[extent_id].is_dirty = region->extents[extent_id].is_listed = true;
	return outcome;
}

/* Which blocks of the part to write: region->chosen, counted from the part's first. */
static size_t choose_blocks(struct region *region, const struct part *part, bool only_unwritten)
{
	const uint8_t *blocks = region->extents[part->extent_id].blocks;
	size_t chosen = 0;
	region->chosen = grown(
		region->chosen, &region->chosen_size, part->count, sizeof *region->chosen);
	for (uint64_t i = 0; i < part->count; i++) {
		if (!only_unwritten || !blocks || !(blocks[part->block + i] & BLOCK_WRITTEN))
			region->chosen[chosen++] = i;
	}
	return chosen;
}

static enum outcome prepare_extent(struct region *region, const struct part *part, size_t chosen)
{
	struct region_extent *extent = &region->extents[part->extent_id];
	if (!extent->is_dirty) {
		enum outcome outcome = make_dirty(region, part->extent_id);
		if (outcome != OUTCOME_DONE)
			return outcome;
	}
	if (!extent->blocks)
		extent->blocks = zeroed(disk_layout(region->disk)->blocks, 1);
	for (size_t i = 0; i < chosen; i++) {
		if (extent->blocks[part->block + region->chosen[i]] & BLOCK_UNSYNCED)
			return sync_extent(region, part->extent_id);
	}
	return OUTCOME_DONE;
}

static unsigned other_slot(uint8_t flags)
{
	return !(flags & BLOCK_SLOT);
}

/* `contexts` and `data` begin with the part's first block. */
static enum outcome write_part(struct region *region, const struct part *part,
	const struct stored_context *contexts, const uint8_t *data, bool only_unwritten)
{
	size_t chosen = choose_blocks(region, part, only_unwritten);
	if (chosen == 0 && only_unwritten)
		return OUTCOME_DONE; /* but a write of no blocks makes the extent dirty */
	enum outcome outcome = prepare_extent(region, part, chosen);
	if (outcome != OUTCOME_DONE)
		return outcome;
	uint64_t block_size = disk_layout(region->disk)->block_size;
	uint8_t *blocks = region->extents[part->extent_id].blocks + part->block;
	for (size_t i = 0; i < chosen && outcome == OUTCOME_DONE; i++) {
		uint64_t at = region->chosen[i];
		blocks[at] |= BLOCK_UNSYNCED;
		outcome = outcome_of(region, part->extent_id,
			disk_put_slot(region->disk, part->extent_id, part->block + at, other_slot(blocks[at]),
				&contexts[at]));
	}
	for (size_t i = 0; i < chosen && outcome == OUTCOME_DONE; i++) {
		uint64_t at = region->chosen[i];
		outcome = outcome_of(region, part->extent_id,
			disk_put_data(region->disk, part->extent_id, part->block + at, data + at * block_size));
		/* Not before the data is there: else a second try would take the slot that fits the old. */
		if (outcome == OUTCOME_DONE)
			blocks[at] = (uint8_t)(other_slot(blocks[at]) | BLOCK_WRITTEN | BLOCK_UNSYNCED);
	}
	return outcome;
}

static enum outcome check_hashes(
	struct region *region, struct crucible_block_contexts contexts, const uint8_t *data)
{
	uint64_t block_size = disk_layout(region->disk)->block_size;
	region->contexts = grown(
		region->contexts, &region->contexts_size, contexts.count + 1, sizeof *region->contexts);
	struct stored_context *stored = region->contexts;
	while (crucible_next_block_context(&contexts, &stored->context)) {
		stored->is_set = true;
		uint64_t hash = image_block_hash(&stored->context, data, block_size);
		if (hash != stored->context.hash)
			return fail(region, CRUCIBLE_ERROR_HASH_MISMATCH, true);
		stored->data_hash = stored->context.is_encrypted ? image_data_hash(data, block_size) : hash;
		data += block_size;
		stored++;
	}
	return OUTCOME_DONE;
}

enum outcome region_write(struct region *region, uint64_t start,
	struct crucible_block_contexts contexts, const uint8_t *data, bool only_unwritten)
{
	uint64_t count = contexts.count, done = 0;
	uint64_t block_size = disk_layout(region->disk)->block_size;
	enum outcome outcome = check_hashes(region, contexts, data);
	if (outcome != OUTCOME_DONE)
		return outcome;
	do {
		struct part part;
		take_part(region, &start, &count, &part);
		outcome = check_extent(region, part.extent_id, false);
		if (outcome == OUTCOME_DONE)
			outcome = write_part(
				region, &part, region->contexts + done, data + done * block_size, only_unwritten);
		done += part.count;
	} while (outcome == OUTCOME_DONE && count > 0);
	return outcome;
}

/* Flushing */

static enum outcome put_bitmap(struct region *region, uint32_t extent_id)
{
	const struct image_layout *layout = disk_layout(region->disk);
	const uint8_t *blocks = region->extents[extent_id].blocks;
	uint8_t *bitmap = zeroed(layout->meta - layout->bitmap, 1);
	for (uint64_t i = 0; blocks && i < layout->blocks; i++)
		bitmap[i / 8] |= (uint8_t)((blocks[i] & BLOCK_SLOT) << i % 8);
	enum outcome outcome = outcome_of(
		region, extent_id, disk_put_bitmap(region->disk, extent_id, bitmap));
	free(bitmap);
	return outcome;
}

static enum outcome stamp(
	struct region *region, uint32_t extent_id, uint64_t generation, uint64_t flush_number)
{
	if (!region->extents[extent_id].is_dirty)
		return OUTCOME_DONE;
	if (region->read_only)
		return fail(region, CRUCIBLE_ERROR_MODIFYING_READ_ONLY_REGION, true);
	struct versions versions = { .generation = generation, .flush_number = flush_number };
	enum outcome outcome = put_bitmap(region, extent_id);
	if (outcome == OUTCOME_DONE)
		outcome = outcome_of(
			region, extent_id, disk_put_versions(region->disk, extent_id, &versions));
	if (outcome != OUTCOME_DONE)
		return outcome;
	region->extents[extent_id].is_dirty = false;
	return sync_extent(region, extent_id);
}

enum outcome region_flush_extent(
	struct region *region, uint32_t extent_id, uint64_t generation, uint64_t flush_number)
{
	enum outcome outcome = check_extent(region, extent_id, false);
	return outcome == OUTCOME_DONE ? stamp(region, extent_id, generation, flush_number) : outcome;
}

enum outcome region_flush(
	struct region *region, uint64_t generation, uint64_t flush_number, const uint32_t *limit)
{
	char text[sizeof region->text] = "";
	uint32_t end = disk_region(region->disk)->extent_count;
	if (limit && *limit > end)
		return fail(region, CRUCIBLE_ERROR_INVALID_EXTENT, true);
	if (limit && *limit < end)
		end = *limit + 1;
	for (uint32_t i = 0; i < end; i++) {
		if (!region->extents[i].is_listed)
			continue;
		enum outcome outcome = check_extent(region, i, false);
		if (outcome == OUTCOME_DONE)
			outcome = stamp(region, i, generation, flush_number);
		if (outcome != OUTCOME_DONE && (outcome != OUTCOME_FAILED || region->is_hopeless))
			return outcome;
		if (outcome == OUTCOME_DONE)
			region->extents[i].is_listed = false;
		else if (!*text) /* the others are flushed all the same */
			snprintf(text, sizeof text, "IO Error: %.*s", (int)sizeof text - 16, region->text);
	}
	if (!*text)
		return OUTCOME_DONE;
	memcpy(region->text, text, sizeof text);
	return fail(region, CRUCIBLE_ERROR_GENERIC, false);
}

/* Closing and repairing */

enum outcome region_close_extent(struct region *region, uint32_t extent_id)
{
	enum outcome outcome = check_extent(region, extent_id, false);
	if (outcome == OUTCOME_DONE)
		region->extents[extent_id].is_closed = true;
	return outcome;
}

enum outcome region_reopen_extent(struct region *region, uint32_t extent_id)
{
	enum outcome outcome = check_extent(region, extent_id, true);
	if (outcome == OUTCOME_DONE)
		outcome = open_extent(region, extent_id);
	return outcome;
}

enum outcome region_reopen_all(struct region *region)
{
	enum outcome outcome = OUTCOME_DONE;
	uint32_t count = disk_region(region->disk)->extent_count;
	for (uint32_t i = 0; i < count && outcome == OUTCOME_DONE; i++) {
		if (region->extents[i].is_closed)
			outcome = open_extent(region, i);
	}
	return outcome;
}

enum outcome region_versions(struct region *region, uint32_t extent_id, struct versions *versions)
{
	enum outcome outcome = check_extent(region, extent_id, false);
	*versions = (struct versions){ 0 };
	if (outcome == OUTCOME_DONE)
		*versions = disk_versions(region->disk, extent_id);
	return outcome;
}

enum outcome region_begin_repair(struct region *region, uint32_t extent_id)
{
	enum outcome outcome = check_extent(region, extent_id, true);
	if (outcome != OUTCOME_DONE)
		return outcome;
	if (disk_has_copy(region->disk, extent_id)) {
		snprintf(region->text, sizeof region->text, "Copy directory of extent %u already exists",
			(unsigned)extent_id);
		return fail(region, CRUCIBLE_ERROR_IO, true);
	}
	disk_set_copy(region->disk, extent_id, true);
	return OUTCOME_DONE;
}

enum outcome region_finish_repair(
	struct region *region, uint32_t extent_id, const uint8_t *image, uint64_t size)
{
	if (size != disk_layout(region->disk)->size) {
		snprintf(region->text, sizeof region->text, "extent %u: the copy has %llu bytes",
			(unsigned)extent_id, (unsigned long long)size);
		return fail(region, CRUCIBLE_ERROR_REPAIR_FILES_INVALID, true);
	}
	enum outcome outcome = outcome_of(
		region, extent_id, disk_replace(region->disk, extent_id, image));
	if (outcome == OUTCOME_DONE)
		disk_set_copy(region->disk, extent_id, false);
	return outcome;
}

enum outcome region_repair_ready(struct region *region, uint32_t extent_id, bool *is_ready)
{
	*is_ready = region->read_only;
	if (region->read_only)
		return OUTCOME_DONE;
	if (extent_id >= disk_region(region->disk)->extent_count)
		return panic(region, "no such extent");
	*is_ready = region->extents[extent_id].is_closed;
	return OUTCOME_DONE;
}
