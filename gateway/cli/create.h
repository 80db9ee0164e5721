/* create.h: making a volume, for `volume create` and `volume import`. */
#ifndef TB4_CREATE_H
#define TB4_CREATE_H

#include "cli/cli.h"

/* Makes the volume: ports, bytes, volume file; takes everything back if one of them fails. With
 * dry_run only finds out what it would be. Free *volume in any case. */
int create_volume(const struct cli *cli, const char *name, uint64_t size, bool dry_run,
	struct volume *volume, struct reason *reason);
/* The opposite, without a claim: bytes, volume file. The caller holds the VM's lock. */
int destroy_volume(const struct cli *cli, const struct volume *volume, struct reason *reason);

#endif
