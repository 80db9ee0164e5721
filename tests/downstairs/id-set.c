/* id-set.c: see id-set.h. */
#include "id-set.h"

#include "memory.h"

/* The first range that ends at `id` or later. */
static size_t find(const struct id_set *set, uint64_t id)
{
	size_t low = 0, high = set->count;
	if (high > 0 && set->ranges[high - 1].last < id)
		return high; /* the usual case */
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (set->ranges[middle].last < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool id_set_has(const struct id_set *set, uint64_t id)
{
	size_t at = find(set, id);
	return at < set->count && set->ranges[at].first <= id;
}

static void move_ranges(struct id_set *set, size_t to, size_t from)
{
	memmove(&set->ranges[to], &set->ranges[from], (set->count - from) * sizeof *set->ranges);
	set->count = set->count - from + to;
}

void id_set_add(struct id_set *set, uint64_t id)
{
	size_t at = find(set, id);
	if (at < set->count && set->ranges[at].first <= id)
		return;
	bool touches_left = at > 0 && set->ranges[at - 1].last + 1 == id;
	bool touches_right = at < set->count && set->ranges[at].first - 1 == id;
	if (touches_left && touches_right) {
		set->ranges[at - 1].last = set->ranges[at].last;
		move_ranges(set, at, at + 1);
	} else if (touches_left) {
		set->ranges[at - 1].last = id;
	} else if (touches_right) {
		set->ranges[at].first = id;
	} else {
		set->ranges = grown(set->ranges, &set->capacity, set->count + 1, sizeof *set->ranges);
		move_ranges(set, at + 1, at);
		set->ranges[at] = (struct id_range){ id, id };
	}
}

void id_set_clear(struct id_set *set)
{
	set->count = 0;
}

void id_set_free(struct id_set *set)
{
	free(set->ranges);
	*set = (struct id_set){ 0 };
}
