/* slot-move.h: giving a slot of a volume that is served a new region on a sled, for `volume replace` and `sled drain`. */
#ifndef TB4_SLOT_MOVE_H
#define TB4_SLOT_MOVE_H

#include "cli/cli.h"
#include "sled/regions.h"

/* Asks the VM's gateway for something about a slot. `target` may be NULL. *answer is to be freed. */
int ask_about_slot(const struct cli *cli, const char *command, const struct volume *volume, unsigned slot,
	const char *target, struct json_object **answer, int *exit_status, struct reason *reason);

/* The shape of the volume's regions, as those of the other slots say. */
int slot_shape(const struct volume *volume, unsigned slot, struct region_shape *shape, struct reason *reason);

/* Makes a region on the sled that `survey` is of, gives it to the slot, waits until it is in sync, with progress, and
 * removes the old one where tb4 made it and its sled answers. Taken back if the gateway refuses. On SIGINT the copying
 * goes on and -EINTR is returned. *exit_status as change_by_gateway(). */
int slot_move(const struct cli *cli, struct volume *volume, unsigned slot, const struct region_shape *shape,
	const struct survey *survey, const struct volumes *all, int *exit_status, struct reason *reason);

#endif
