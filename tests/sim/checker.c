#include "checker.h"

#include <stdio.h>
#include <stdlib.h>

#define NEVER UINT64_MAX

struct cluster {
	uint64_t id, owner;
	uint64_t begin; /* of the write */
	uint64_t f, s;
	uint64_t lost_at; /* happened before, or never; NEVER: the write's gateway still is the owner */
	bool is_durable, was_excused;
};

struct block {
	struct cluster *clusters;
	size_t count, room;
};

struct checker {
	struct block *blocks;
	size_t count;
	uint64_t oldest, power_lost_at;
	bool loses_unflushed;
	char text[300];
};

static struct cluster *add(struct block *block)
{
	if (block->count == block->room) {
		block->room = block->room ? block->room * 2 : 8;
		block->clusters = realloc(block->clusters, block->room * sizeof *block->clusters);
		if (!block->clusters)
			abort();
	}
	return &block->clusters[block->count++];
}

struct checker *checker_new(size_t blocks)
{
	struct checker *checker = calloc(1, sizeof *checker);
	checker->blocks = calloc(blocks, sizeof *checker->blocks);
	checker->count = blocks;
	for (size_t i = 0; i < blocks; i++)
		*add(&checker->blocks[i]) = (struct cluster){ .lost_at = NEVER, .is_durable = true };
	return checker;
}

void checker_free(struct checker *checker)
{
	for (size_t i = 0; i < checker->count; i++)
		free(checker->blocks[i].clusters);
	free(checker->blocks);
	free(checker);
}

void checker_set_oldest(struct checker *checker, uint64_t begin)
{
	checker->oldest = begin;
}

/* Overwritten for good before all that still runs began? */
static bool is_dead(const struct checker *checker, const struct block *block, const struct cluster *cluster)
{
	uint64_t end = cluster->f < cluster->lost_at ? cluster->f : cluster->lost_at;
	for (size_t i = 0; i < block->count; i++) {
		const struct cluster *later = &block->clusters[i];
		if (later != cluster && later->is_durable && end < later->s && later->f < checker->oldest)
			return true;
	}
	return false;
}

static void prune(const struct checker *checker, struct block *block)
{
	size_t kept = 0;
	bool dead[256];
	if (block->count > 256)
		return;
	for (size_t i = 0; i < block->count; i++)
		dead[i] = is_dead(checker, block, &block->clusters[i]);
	for (size_t i = 0; i < block->count; i++) {
		if (!dead[i])
			block->clusters[kept++] = block->clusters[i];
	}
	block->count = kept;
}

static struct cluster *find(struct block *block, uint64_t id)
{
	for (size_t i = 0; i < block->count; i++) {
		if (block->clusters[i].id == id)
			return &block->clusters[i];
	}
	return NULL;
}

static const char *conflict(struct checker *checker, size_t number, const struct cluster *a)
{
	const struct block *block = &checker->blocks[number];
	for (size_t i = 0; i < block->count; i++) {
		const struct cluster *b = &block->clusters[i];
		if (a == b || a->f >= b->s || b->f >= a->s)
			continue;
		snprintf(checker->text, sizeof checker->text,
			"block %zu: values %llu (there at %llu and at %llu) and %llu (there at %llu and at %llu) cannot both be right",
			number, (unsigned long long)a->id, (unsigned long long)a->f, (unsigned long long)a->s,
			(unsigned long long)b->id, (unsigned long long)b->f, (unsigned long long)b->s);
		return checker->text;
	}
	return NULL;
}

void checker_write(struct checker *checker, size_t number, uint64_t id, uint64_t owner, uint64_t now)
{
	struct block *block = &checker->blocks[number];
	if (block->count > 8)
		prune(checker, block);
	*add(block) =
		(struct cluster){ .id = id, .owner = owner, .begin = now, .f = NEVER, .s = now, .lost_at = NEVER };
}

static void see(struct cluster *cluster, uint64_t begin, uint64_t end)
{
	uint64_t seen = end < cluster->lost_at ? end : cluster->lost_at;
	if (seen < cluster->f)
		cluster->f = seen;
	if (begin > cluster->s)
		cluster->s = begin;
}

const char *checker_written(struct checker *checker, size_t number, uint64_t id, uint64_t now)
{
	struct cluster *cluster = find(&checker->blocks[number], id);
	if (!cluster || cluster->was_excused)
		return NULL;
	see(cluster, cluster->begin, now);
	return conflict(checker, number, cluster);
}

const char *checker_read(struct checker *checker, size_t number, uint64_t id, uint64_t begin, uint64_t end)
{
	struct cluster *cluster = find(&checker->blocks[number], id);
	if (!cluster || end < cluster->begin) {
		snprintf(checker->text, sizeof checker->text,
			"block %zu: a read from %llu to %llu returned %llu, which was never written, or was overwritten and flushed",
			number, (unsigned long long)begin, (unsigned long long)end, (unsigned long long)id);
		return checker->text;
	}
	see(cluster, begin, end);
	return conflict(checker, number, cluster);
}

void checker_flushed(struct checker *checker, uint64_t begin)
{
	for (size_t i = 0; i < checker->count; i++) {
		struct block *block = &checker->blocks[i];
		for (size_t k = 0; k < block->count; k++) {
			if (block->clusters[k].f < begin)
				block->clusters[k].is_durable = true;
		}
	}
}

void checker_power_lost(struct checker *checker, uint64_t now)
{
	checker->power_lost_at = now;
}

void checker_allow_loss(struct checker *checker)
{
	checker->loses_unflushed = true;
}

void checker_takeover(struct checker *checker, uint64_t owner, bool may_lose, uint64_t now)
{
	for (size_t i = 0; i < checker->count; i++) {
		struct block *block = &checker->blocks[i];
		for (size_t k = 0; k < block->count; k++) {
			struct cluster *cluster = &block->clusters[k];
			if (may_lose && !cluster->is_durable &&
				((checker->loses_unflushed && cluster->owner != owner) || cluster->begin < checker->power_lost_at)) {
				cluster->f = NEVER;
				cluster->s = cluster->begin;
				cluster->lost_at = now;
				cluster->was_excused = true;
			} else if (cluster->owner != owner && cluster->f == NEVER && now < cluster->lost_at) {
				cluster->lost_at = now;
			}
		}
	}
	if (may_lose)
		checker->power_lost_at = 0; /* what is there now is there on all copies */
}
