#include "core/empty.h"

#include <string.h>

#include "core/core.h"

enum { CHUNK_BLOCKS = 32768, WORD_BITS = 64 };

struct chunk {
	uint64_t bits[CHUNK_BLOCKS / WORD_BITS]; /* set: known to be empty */
	uint32_t count;                          /* of set ones; neither none nor all */
};

struct empty_map {
	const struct upstairs_environment *environment;
	uint64_t block_count, chunk_count;
	size_t memory;
	struct chunk *chunks[]; /* NULL: nothing is known; &all: all of it is empty */
};

static struct chunk all;

/* The part of a range that lies in one chunk. */
struct part {
	uint64_t chunk;
	uint32_t from, to;
};

static uint32_t chunk_size(const struct empty_map *map, uint64_t chunk)
{
	uint64_t rest = map->block_count - chunk * CHUNK_BLOCKS;
	return rest < CHUNK_BLOCKS ? (uint32_t)rest : CHUNK_BLOCKS;
}

/* The first part of [*start, *start + *count), which is taken off it. False if there is none. */
static bool next_part(const struct empty_map *map, uint64_t *start, uint64_t *count, struct part *part)
{
	if (!map || *count == 0 || *start >= map->block_count)
		return false;
	part->chunk = *start / CHUNK_BLOCKS;
	part->from = (uint32_t)(*start % CHUNK_BLOCKS);
	uint32_t room = chunk_size(map, part->chunk) - part->from;
	uint32_t taken = *count < room ? (uint32_t)*count : room;
	part->to = part->from + taken;
	*start += taken;
	*count -= taken;
	return true;
}

static bool is_whole(const struct empty_map *map, const struct part *part)
{
	return part->from == 0 && part->to == chunk_size(map, part->chunk);
}

static void set_chunk(struct empty_map *map, uint64_t number, struct chunk *chunk)
{
	struct chunk *old = map->chunks[number];
	if (old && old != &all) {
		map->environment->release(map->environment->context, old);
		map->memory -= sizeof *old;
	}
	map->chunks[number] = chunk;
}

static struct chunk *new_chunk(struct empty_map *map)
{
	struct chunk *chunk = map->environment->allocate(map->environment->context, sizeof *chunk);
	if (chunk)
		map->memory += sizeof *chunk;
	return chunk;
}

/* Bits [from, to) of a word. */
static uint64_t mask(uint32_t from, uint32_t to)
{
	uint64_t below_to = to == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << to) - 1;
	return below_to & ~((UINT64_C(1) << from) - 1);
}

static void change_bits(struct chunk *chunk, uint32_t from, uint32_t to, bool set)
{
	for (uint32_t word = from / WORD_BITS; word * WORD_BITS < to; word++) {
		uint32_t first = word * WORD_BITS;
		uint64_t touched = mask(from > first ? from - first : 0, to - first < WORD_BITS ? to - first : WORD_BITS);
		uint64_t before = chunk->bits[word];
		chunk->bits[word] = set ? before | touched : before & ~touched;
		chunk->count -= (uint32_t)__builtin_popcountll(before);
		chunk->count += (uint32_t)__builtin_popcountll(chunk->bits[word]);
	}
}

struct empty_map *empty_open(const struct upstairs_environment *environment, uint64_t block_count)
{
	uint64_t chunks = block_count / CHUNK_BLOCKS + (block_count % CHUNK_BLOCKS != 0);
	size_t size = sizeof(struct empty_map) + chunks * sizeof(struct chunk *);
	struct empty_map *map = environment->allocate(environment->context, size);
	if (!map)
		return NULL;
	*map = (struct empty_map){
		.environment = environment, .block_count = block_count, .chunk_count = chunks, .memory = size
	};
	memset(map->chunks, 0, chunks * sizeof map->chunks[0]);
	return map;
}

void empty_close(struct empty_map *map)
{
	if (!map)
		return;
	for (uint64_t i = 0; i < map->chunk_count; i++)
		set_chunk(map, i, NULL);
	map->environment->release(map->environment->context, map);
}

void empty_add(struct empty_map *map, uint64_t start, uint64_t count)
{
	struct part part;
	while (next_part(map, &start, &count, &part)) {
		struct chunk *chunk = map->chunks[part.chunk];
		if (chunk == &all)
			continue;
		if (is_whole(map, &part)) {
			set_chunk(map, part.chunk, &all);
			continue;
		}
		if (!chunk) {
			chunk = new_chunk(map);
			if (!chunk)
				continue;
			memset(chunk, 0, sizeof *chunk);
			map->chunks[part.chunk] = chunk;
		}
		change_bits(chunk, part.from, part.to, true);
		if (chunk->count == chunk_size(map, part.chunk))
			set_chunk(map, part.chunk, &all);
	}
}

void empty_remove(struct empty_map *map, uint64_t start, uint64_t count)
{
	struct part part;
	while (next_part(map, &start, &count, &part)) {
		struct chunk *chunk = map->chunks[part.chunk];
		if (!chunk)
			continue;
		if (chunk == &all) {
			chunk = is_whole(map, &part) ? NULL : new_chunk(map);
			map->chunks[part.chunk] = chunk; /* without memory all of it is forgotten */
			if (!chunk)
				continue;
			memset(chunk, 0, sizeof *chunk);
			change_bits(chunk, 0, chunk_size(map, part.chunk), true);
		}
		change_bits(chunk, part.from, part.to, false);
		if (chunk->count == 0)
			set_chunk(map, part.chunk, NULL);
	}
}

/* Blocks of the part that are, from its beginning on, empty or not, as `is_empty` says. */
static uint32_t run_of_part(const struct empty_map *map, const struct part *part, bool is_empty)
{
	const struct chunk *chunk = map->chunks[part->chunk];
	if (!chunk || chunk == &all)
		return is_empty == (chunk == &all) ? part->to - part->from : 0;
	uint32_t at = part->from;
	while (at < part->to) {
		uint64_t word = chunk->bits[at / WORD_BITS];
		uint64_t others = (is_empty ? ~word : word) & mask(at % WORD_BITS, WORD_BITS);
		if (others) {
			uint32_t other = at / WORD_BITS * WORD_BITS + (uint32_t)__builtin_ctzll(others);
			return (other < part->to ? other : part->to) - part->from;
		}
		at = (at / WORD_BITS + 1) * WORD_BITS;
	}
	return part->to - part->from;
}

static bool is_empty_block(const struct empty_map *map, uint64_t block)
{
	uint64_t count = 1;
	struct part part;
	return next_part(map, &block, &count, &part) && run_of_part(map, &part, true) > 0;
}

uint64_t empty_run(const struct empty_map *map, uint64_t start, uint64_t count, bool *is_empty)
{
	uint64_t run = 0, rest = count;
	struct part part;
	*is_empty = is_empty_block(map, start);
	while (next_part(map, &start, &rest, &part)) {
		uint32_t found = run_of_part(map, &part, *is_empty);
		run += found;
		if (found < part.to - part.from)
			return run;
	}
	return count; /* beyond the map nothing is known */
}

size_t empty_memory(const struct empty_map *map)
{
	return map ? map->memory : 0;
}
