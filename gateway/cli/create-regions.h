/* create-regions.h: what a new Crucible volume lies in: regions made on sleds, or regions that exist already. */
#ifndef TB4_CREATE_REGIONS_H
#define TB4_CREATE_REGIONS_H

#include "cli/cli.h"
#include "sled/regions.h"

struct creation {
	bool on_sleds;  /* regions are made; otherwise the volume's targets are taken */
	bool makes_key; /* volume->key_file is written */
	struct region_shape shape;
	struct region_place places[VOLUME_TARGETS];
	struct region_place *leftovers; /* of a creation that was cut short */
	size_t leftover_count;
};

/* Fills in the volume's targets and key as the options say; asks no sled yet. */
int creation_describe(const struct cli *cli, struct volume *volume, struct creation *creation, struct reason *reason);
/* Finds places for the regions, which become the volume's targets, or looks at those that are there. Changes nothing. The
 * volume has its ports. A size of 0 becomes that of the regions. */
int creation_plan(const struct cli *cli, const struct volumes *all, struct volume *volume, struct creation *creation,
	struct reason *reason);
/* Makes key and regions, or nothing of them. */
int creation_make(const struct cli *cli, const struct volume *volume, struct creation *creation,
	struct reason *reason);
void creation_free(struct creation *creation);
void creation_undo(const struct cli *cli, const struct volume *volume, const struct creation *creation);
/* The volume file is written. What fails is only said. */
void creation_keep(const struct cli *cli, const struct volume *volume, const struct creation *creation);

/* Removes the regions that were made for the volume, and its key if it was. Those at hosts that are no sleds, and those
 * that were taken, are left, and that is said. With --force also those on sleds that do not answer. */
int remove_regions(const struct cli *cli, const struct volume *volume, struct reason *reason);

#endif
