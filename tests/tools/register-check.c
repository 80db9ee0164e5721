#include "register-check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

struct cluster {
	uint64_t id;
	uint64_t write_begin;
	uint64_t f, s;
	uint64_t lost_at; /* NEVER unless the write was lost */
	bool is_dead;     /* prune()'s */
};

struct sector {
	struct cluster *clusters; /* in order of their writes' begin */
	uint32_t count, size;
};

struct register_check {
	struct sector *sectors;
	size_t count;
	uint64_t oldest;
	char text[300];
};

struct register_check *check_new(size_t sectors)
{
	struct register_check *check = calloc(1, sizeof *check);
	check->sectors = calloc(sectors, sizeof *check->sectors);
	check->count = sectors;
	for (size_t i = 0; i < sectors; i++)
		check_zeroed(check, i, false, 0, 0);
	return check;
}

void check_free(struct register_check *check)
{
	for (size_t i = 0; i < check->count; i++)
		free(check->sectors[i].clusters);
	free(check->sectors);
	free(check);
}

void check_set_oldest(struct register_check *check, uint64_t begin)
{
	check->oldest = begin;
}

static struct cluster *find(struct sector *sector, uint64_t id)
{
	for (uint32_t i = 0; i < sector->count; i++) {
		if (sector->clusters[i].id == id)
			return &sector->clusters[i];
	}
	return NULL;
}

static struct cluster *add(struct sector *sector, struct cluster cluster)
{
	if (sector->count == sector->size) {
		sector->size = sector->size ? sector->size * 2 : 4;
		sector->clusters = realloc(sector->clusters, sector->size * sizeof *sector->clusters);
	}
	sector->clusters[sector->count] = cluster;
	return &sector->clusters[sector->count++];
}

/* f as it will be if the cluster is ever seen (again). */
static uint64_t earliest_end(const struct cluster *cluster)
{
	return cluster->f < cluster->lost_at ? cluster->f : cluster->lost_at;
}

/* Was the cluster overwritten before all that still runs began? */
static bool is_dead(const struct register_check *check, const struct sector *sector, uint32_t i)
{
	const struct cluster *cluster = &sector->clusters[i];
	for (uint32_t k = 0; k < sector->count; k++) {
		const struct cluster *later = &sector->clusters[k];
		if (k != i && earliest_end(cluster) < later->s && later->f < check->oldest)
			return true;
	}
	return false;
}

static void prune(const struct register_check *check, struct sector *sector)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < sector->count; i++)
		sector->clusters[i].is_dead = is_dead(check, sector, i);
	for (uint32_t i = 0; i < sector->count; i++) {
		if (!sector->clusters[i].is_dead)
			sector->clusters[kept++] = sector->clusters[i];
	}
	sector->count = kept;
}

/* A cluster that cannot be right together with this one; NULL if there is none. */
static const struct cluster *find_conflict(const struct sector *sector, const struct cluster *a)
{
	for (uint32_t i = 0; i < sector->count; i++) {
		const struct cluster *b = &sector->clusters[i];
		if (a != b && a->f < b->s && b->f < a->s)
			return b;
	}
	return NULL;
}

static const char *conflict(struct register_check *check, size_t number, const struct cluster *a)
{
	const struct cluster *b = find_conflict(&check->sectors[number], a);
	if (!b)
		return NULL;
	snprintf(check->text, sizeof check->text,
		"sector %zu: ids %llu (seen until %llu, from %llu) and %llu (seen until %llu, from %llu) "
		"cannot both be right",
		number, (unsigned long long)a->id, (unsigned long long)a->s, (unsigned long long)a->f,
		(unsigned long long)b->id, (unsigned long long)b->s, (unsigned long long)b->f);
	return check->text;
}

const char *check_write_begin(struct register_check *check, size_t number, uint64_t id, uint64_t now)
{
	struct sector *sector = &check->sectors[number];
	if (sector->count > 3)
		prune(check, sector);
	add(sector,
		(struct cluster){ .id = id, .write_begin = now, .f = NEVER, .s = now, .lost_at = NEVER });
	return NULL;
}

const char *check_write_end(struct register_check *check, size_t number, uint64_t id, uint64_t now)
{
	struct cluster *cluster = find(&check->sectors[number], id);
	if (!cluster) /* seen, and seen to be overwritten by a write that began later */
		return NULL;
	if (now < cluster->f)
		cluster->f = now;
	return conflict(check, number, cluster);
}

const char *check_write_lost(struct register_check *check, size_t number, uint64_t id, uint64_t now)
{
	struct cluster *cluster = find(&check->sectors[number], id);
	if (cluster)
		cluster->lost_at = now;
	return NULL;
}

static void see(struct cluster *cluster, uint64_t begin, uint64_t end)
{
	uint64_t seen = end < cluster->lost_at ? end : cluster->lost_at;
	if (seen < cluster->f)
		cluster->f = seen;
	if (begin > cluster->s)
		cluster->s = begin;
}

/* Zeros are the one value that may have been written more than once: the latest that fits it is. */
static struct cluster *find_zeros(struct sector *sector, uint64_t begin, uint64_t end)
{
	for (uint32_t i = sector->count; i > 0; i--) {
		struct cluster *cluster = &sector->clusters[i - 1], before = *cluster;
		if (cluster->id != 0 || end < cluster->write_begin)
			continue;
		see(cluster, begin, end);
		bool fits = !find_conflict(sector, cluster);
		*cluster = before;
		if (fits)
			return cluster;
	}
	return find(sector, 0);
}

const char *check_read(
	struct register_check *check, size_t number, uint64_t id, uint64_t begin, uint64_t end)
{
	struct sector *sector = &check->sectors[number];
	struct cluster *cluster = id ? find(sector, id) : find_zeros(sector, begin, end);
	if (!cluster || end < cluster->write_begin) {
		snprintf(check->text, sizeof check->text,
			"sector %zu: a read from %llu to %llu returned id %llu, which is %s", number,
			(unsigned long long)begin, (unsigned long long)end, (unsigned long long)id,
			cluster ? "written only later" : "unknown or was overwritten before");
		return check->text;
	}
	see(cluster, begin, end);
	const char *wrong = conflict(check, number, cluster);
	if (!wrong && sector->count > 8)
		prune(check, sector);
	return wrong;
}

void check_zeroed(struct register_check *check, size_t number, bool lost, uint64_t begin, uint64_t end)
{
	struct sector *sector = &check->sectors[number];
	if (!lost)
		sector->count = 0;
	add(sector, (struct cluster){
					.id = 0,
					.write_begin = begin,
					.f = lost ? NEVER : end,
					.s = begin,
					.lost_at = lost ? end : NEVER,
				});
}
