/* sleds.c: three downstairs and their disks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { REPAIR_PORT = 7810, FOREIGN = 1000000000 };

static int disk_step(void *context, enum disk_step step, uint32_t extent_id)
{
	struct sled *sled = context;
	(void)extent_id;
	if (sled->kill_in == 0)
		return -ECANCELED;
	if (sled->kill_in > 0)
		sled->kill_in--;
	if (step == DISK_SYNC && sled->sync_fails && sled_may_be_damaged(sled) &&
		(sled->fails_any_sync || !disk_versions(sled->disk, extent_id).dirty)) {
		sled->sync_fails = false;
		cover(COVER_SYNC_ERRORS);
		trace(sled->world, "sled %u: a sync of extent %u fails", sled->index, (unsigned)extent_id);
		return -EIO;
	}
	return 0;
}

static void new_disk(struct sled *sled)
{
	struct crucible_region region = sled->world->region;
	region.uuid = sled->uuid;
	disk_free(sled->disk);
	sled->disk = disk_new(&region);
	disk_set_hook(sled->disk, disk_step, sled);
}

static void new_uuid(struct sled *sled)
{
	for (unsigned i = 0; i < sizeof sled->uuid.bytes; i++)
		sled->uuid.bytes[i] = (uint8_t)random_below(sled->world, 256);
}

void sled_open(struct world *world, unsigned index)
{
	struct sled *sled = &world->sleds[index];
	sled->world = world;
	sled->index = index;
	sled->kill_in = -1;
	new_uuid(sled);
	new_disk(sled);
	sled_start(sled);
}

static void stop_fetching(struct sled *sled)
{
	sled->is_fetching = false;
	free(sled->image);
	sled->image = NULL;
}

void sled_close(struct sled *sled)
{
	stop_fetching(sled);
	if (sled->downstairs)
		downstairs_kill(sled->downstairs);
	disk_free(sled->disk);
}

void sled_start(struct sled *sled)
{
	struct crucible_error error;
	struct downstairs_options options = {
		.repair_address = { .octets = { 10, 0, 0, (uint8_t)(sled->index + 1) },
			.port = (uint16_t)(REPAIR_PORT + sled->index) },
		.wedge_reports = 1,
		.callbacks = &network_callbacks,
		.context = sled,
	};
	if (sled->downstairs)
		return;
	sled->kill_in = -1;
	sled->downstairs = downstairs_start(sled->disk, &options, &error);
	if (sled->downstairs) {
		cover(COVER_DOWNSTAIRS_STARTS);
		trace(sled->world, "sled %u: downstairs starts", sled->index);
		return;
	}
	trace(sled->world, "sled %u: downstairs refuses to start", sled->index);
	cover(COVER_DOWNSTAIRS_REFUSALS);
	sled_wipe(sled, true);
	sled->downstairs = downstairs_start(sled->disk, &options, &error);
}

static void end_process(struct sled *sled, bool silently)
{
	if (!sled->downstairs)
		return;
	network_server_died(sled, silently);
	stop_fetching(sled);
	downstairs_kill(sled->downstairs);
	sled->downstairs = NULL;
	sled->kill_in = -1;
}

void sled_kill(struct sled *sled)
{
	trace(sled->world, "sled %u: downstairs is killed", sled->index);
	cover(COVER_DOWNSTAIRS_KILLS);
	end_process(sled, false);
}

struct losing {
	struct world *world;
	unsigned percent;
	bool lost_contexts[BLOCKS_MAX];
	bool lost;
};

static bool survives(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	struct losing *losing = context;
	uint64_t number = extent_id * losing->world->region.extent_size + block;
	bool survives = chance(losing->world, losing->percent);
	if (piece == PIECE_CONTEXTS)
		losing->lost_contexts[number] = !survives;
	/* data without its context makes the downstairs refuse to start, or is no block; mostly they go together */
	if (piece == PIECE_DATA && losing->lost_contexts[number] && !chance(losing->world, 5))
		survives = false;
	losing->lost = losing->lost || !survives;
	return survives;
}

void sled_lose_power(struct sled *sled)
{
	struct world *world = sled->world;
	struct losing losing = { .world = world, .percent = (unsigned)random_below(world, 5) * 25 };
	end_process(sled, chance(world, 50));
	bool is_hollow = sled_is_hollow(sled);
	for (uint32_t i = 0; i < world->region.extent_count; i++)
		sled->is_torn = sled->is_torn || disk_unsynced(sled->disk, i) > 0;
	disk_power_loss(sled->disk, survives, &losing);
	cover(COVER_POWER_LOSSES);
	if (losing.lost) {
		cover(COVER_POWER_LOSSES_LOST);
		checker_power_lost(world->checker, world->event);
		/* torn behind numbers that say that all of it was flushed: if nobody was told, others may copy it */
		world->was_torn = world->was_torn || is_hollow;
	}
	world->damaged_at = world->event;
	trace(world, "sled %u: loses power%s", sled->index, losing.lost ? " and data" : "");
}

/* The region of another volume, in good order, whose numbers are as high as ours. */
static void fill_with_foreign(struct sled *sled)
{
	const struct world *world = sled->world;
	uint8_t data[BLOCK] = { 0 };
	struct stored_context stored = { .is_set = true };
	put_le64(data, FOREIGN);
	stored.data_hash = stored.context.hash = image_data_hash(data, BLOCK);
	disk_set_hook(sled->disk, NULL, NULL);
	for (uint32_t extent = 0; extent < world->region.extent_count; extent++) {
		for (uint64_t block = 0; block < world->region.extent_size; block++) {
			disk_put_slot(sled->disk, extent, block, 0, &stored);
			disk_put_data(sled->disk, extent, block, data);
		}
		struct versions versions = { .generation = world->stored.record.stamped, .flush_number = 1000000 };
		disk_put_versions(sled->disk, extent, &versions);
		disk_sync(sled->disk, extent);
	}
	disk_set_hook(sled->disk, disk_step, sled);
}

void sled_wipe(struct sled *sled, bool fresh_uuid)
{
	struct world *world = sled->world;
	end_process(sled, false);
	if (fresh_uuid)
		new_uuid(sled);
	new_disk(sled);
	if (fresh_uuid && chance(world, 50))
		fill_with_foreign(sled);
	cover(fresh_uuid ? COVER_WIPES_FRESH : COVER_WIPES_SAME);
	world->damaged_at = world->event;
	sled->is_torn = false;
	trace(world, "sled %u: region wiped, %s UUID", sled->index, fresh_uuid ? "fresh" : "same");
}

void sled_fetch(struct sled *sled, bool fails)
{
	struct world *world = sled->world;
	struct sled *source = &world->sleds[sled->source];
	bool is_up = source->downstairs && (downstairs_state(source->downstairs) == DOWNSTAIRS_RUNNING ||
		downstairs_state(source->downstairs) == DOWNSTAIRS_FETCHING);
	size_t size = disk_layout(sled->disk)->size;
	if (!fails && is_up && !sled->image) {
		sled->image = malloc(size);
		downstairs_copy_extent(source->downstairs, sled->extent, sled->image);
		return;
	}
	if (!fails && is_up && downstairs_repair_ready(source->downstairs, sled->extent)) {
		uint8_t *image = sled->image;
		sled->image = NULL;
		sled->is_fetching = false;
		cover(COVER_EXTENT_REPAIRS);
		trace(world, "sled %u: has fetched extent %u from sled %u", sled->index, (unsigned)sled->extent, sled->source);
		downstairs_fetched(sled->downstairs, image, size, NULL);
		free(image);
	} else {
		stop_fetching(sled);
		cover(COVER_FAILED_FETCHES);
		trace(world, "sled %u: cannot fetch extent %u from sled %u", sled->index, (unsigned)sled->extent, sled->source);
		downstairs_fetched(sled->downstairs, NULL, 0, "no answer");
	}
	sled_check(sled);
}

void sled_check(struct sled *sled)
{
	if (!sled->downstairs)
		return;
	switch (downstairs_state(sled->downstairs)) {
	case DOWNSTAIRS_KILLED:
		cover(COVER_DOWNSTAIRS_KILLS_AT_STEP);
		trace(sled->world, "sled %u: downstairs is killed at a step of the disk", sled->index);
		end_process(sled, false);
		break;
	case DOWNSTAIRS_WEDGED:
		violation(sled->world, "sled %u: the downstairs is wedged", sled->index);
		break;
	default:
		break;
	}
}

uint64_t sled_block(const struct sled *sled, uint64_t block)
{
	const struct image_layout *layout = disk_layout(sled->disk);
	const uint8_t *image = disk_image(sled->disk, (uint32_t)(block / layout->blocks));
	return image ? get_le64(image + image_data_at(layout, block % layout->blocks)) : 0;
}

bool sled_block_is_good(const struct sled *sled, uint64_t block)
{
	return downstairs_block_is_good(sled->downstairs, block);
}

void sled_rot(struct sled *sled, uint64_t block)
{
	struct world *world = sled->world;
	struct versions versions = disk_versions(sled->disk, (uint32_t)(block / world->region.extent_size));
	unsigned good = 0;
	for (unsigned i = 0; i < SLEDS; i++) {
		const struct sled *other = &world->sleds[i];
		good += other != sled && world->stored.record.in_sync[i] && other->downstairs && sled_block_is_good(other, block);
	}
	/* A downstairs would not start again with such a block in a dirty extent; and between the look at a source and the
	 * copies that are made of it nobody can see it. */
	if (good < 2 || versions.dirty || versions.generation == 0 ||
		(sled->downstairs && downstairs_repair_ready(sled->downstairs, (uint32_t)(block / world->region.extent_size))))
		return;
	disk_damage(sled->disk, block, PIECE_DATA);
	world->was_torn = true;
	world->damaged_at = world->event;
	cover(COVER_ROT);
	trace(world, "sled %u: block %llu rots", sled->index, (unsigned long long)block);
}

bool sled_is_hollow(const struct sled *sled)
{
	for (uint32_t extent = 0; extent < sled->world->region.extent_count; extent++) {
		if (disk_is_hollow(sled->disk, extent))
			return true;
	}
	return false;
}

bool sled_is_damaged(const struct sled *sled)
{
	static const struct crucible_uuid none;
	const struct upstairs_record *record = &sled->world->stored.record;
	const struct crucible_uuid *known = &record->regions[sled->index];
	uint64_t shown = 0;
	for (uint32_t extent = 0; extent < sled->world->region.extent_count; extent++) {
		uint64_t generation = disk_versions(sled->disk, extent).generation;
		if (generation > shown)
			shown = generation;
	}
	bool is_known = memcmp(known, &none, sizeof none) != 0;
	return (is_known && memcmp(known, &sled->uuid, sizeof none) != 0) ||
		(!is_known && record->exists && shown > 0) || /* in place of another one, and not empty */
		(record->in_sync[sled->index] && shown < record->stamped) || record->full_copy[sled->index] ||
		sled_is_hollow(sled);
}

/* May a gateway go on with this copy alone, or be about to? */
static bool may_be_alone(const struct sled *sled)
{
	const struct world *world = sled->world;
	for (unsigned i = 0; i < HOSTS && world->min_copies == 1; i++) {
		const struct upstairs *upstairs = world->gateways[i].upstairs;
		if (upstairs && (upstairs_state(upstairs) != UPSTAIRS_SERVING || core_counted(upstairs) < SLEDS))
			return true;
	}
	return false;
}

bool sled_may_be_damaged(const struct sled *sled)
{
	const struct world *world = sled->world;
	if (may_be_alone(sled))
		return false;
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (world->operations[i].is_used)
			return false; /* who is in sync may be changing */
	}
	for (unsigned i = 0; i < SLEDS; i++) {
		const struct sled *other = &world->sleds[i];
		if (other != sled && (!world->stored.record.in_sync[i] || sled_is_damaged(other)))
			return false;
	}
	return true;
}
