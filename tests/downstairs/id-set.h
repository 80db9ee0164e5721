/* id-set.h: a set of job ids, as ranges, since ids are mostly given one after another. */
#ifndef DOWNSTAIRS_ID_SET_H
#define DOWNSTAIRS_ID_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_range {
	uint64_t first, last;
};

struct id_set {
	struct id_range *ranges; /* ascending, with a gap between any two */
	size_t count, capacity;
};

/* Zero-initialised. */
void id_set_add(struct id_set *set, uint64_t id);
bool id_set_has(const struct id_set *set, uint64_t id);
void id_set_clear(struct id_set *set);
void id_set_free(struct id_set *set);

#endif
