/* regions.h: the regions of a volume on sleds: where they fit, making them, removing them. Blocking; tb4 only.
 *
 * Invariants
 *  1. A region is removed only where its mark (sled.sh) names the volume.
 *  2. regions_create() makes all of them or leaves none behind; what could not be removed again is said.
 *  3. A mark is "creating" until regions_keep(); only such a one of this node, by its UUID, is ever taken back.
 */
#ifndef TB4_REGIONS_H
#define TB4_REGIONS_H

#include "sled/region-info.h"
#include "sled/survey.h"
#include "volume/target.h"

enum {
	REGION_BLOCK_SIZE = 4096,
	REGION_EXTENT_BLOCKS = (64 << 20) / REGION_BLOCK_SIZE,
	REGION_TARGET_MAX = TARGET_HOST_MAX + 10,
};

struct region_shape {
	uint64_t block_size, extent_blocks, extents;
	bool encrypted;
};

struct region_place {
	const struct sled *sled; /* NULL: at a host that tb4.conf does not know */
	uint16_t port;
	char target[REGION_TARGET_MAX];
	char uuid[37]; /* of a region that is being made: regions_create() chooses it */
};

/* As many extents of the usual size as `size` bytes need. */
struct region_shape region_shape_for(uint64_t size, bool encrypted);
uint64_t region_shape_size(const struct region_shape *shape);

/* Chooses a sled for each of `count` places, the one with most room first and each another one; with `may_share` several
 * may be on one where there are too few. Places are slots in order; ports go up from `first_port`. `avoid` are
 * targets on sleds that are not taken, or NULLs. Returns 0, or -ENOSPC with what each sled said. */
int regions_place(const struct survey *surveys, size_t survey_count, const struct region_shape *shape,
	const char *const *avoid, size_t avoid_count, bool may_share, uint16_t first_port, struct region_place *places,
	size_t count, struct reason *reason);

/* A port for a region there: `preferred` (0: none) if it is free, else one of the pool. 0 if all are taken. */
uint16_t region_port_on(const struct survey *survey, const struct volumes *all, uint16_t preferred);
void region_place_at(struct region_place *place, const struct sled *sled, uint16_t port);

int regions_create(const struct config *config, const char *volume, const struct region_shape *shape,
	struct region_place *places, size_t count, struct reason *reason);
/* Takes back what regions_create() made with these UUIDs, before regions_keep(). Says itself what it could not. */
void regions_undo(const struct config *config, const char *volume, const struct region_place *places, size_t count);
/* The volume file names them now. */
int regions_keep(const struct config *config, const char *volume, const struct region_place *places, size_t count,
	struct reason *reason);
/* Ends their downstairs and removes them; 0 also where there is none. Goes on after a failure. */
int regions_remove(const struct config *config, const char *volume, const struct region_place *places, size_t count,
	struct reason *reason);

/* Where the volume's regions are. */
void regions_of(const struct config *config, const struct volume *volume, struct region_place places[VOLUME_TARGETS]);
/* The sled with this address, or NULL. */
const struct sled *sled_at(const struct config *config, const char *host);
/* Is the slot's region at the sled's address? */
bool slot_is_on(const struct volume *volume, unsigned slot, const struct sled *sled);

#endif
