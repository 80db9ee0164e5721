/* volume-snapshot.c: says why there is none.
 *
 * A flush of the Crucible protocol can carry the name of a snapshot. Only a downstairs that was built for it then takes one,
 * of its own ZFS dataset, which nothing but upstream's agent serves or removes; any other one acknowledges the flush
 * and has taken none (crucible-protocol.md 4.7). A snapshot that may not be there is none.
 */
#include <errno.h>

#include "cleanup.h"
#include "cli/cli.h"

static const char *const reasons[] = {
	[VOLUME_BACKEND_FILE] = "the file backend has no snapshots",
	[VOLUME_BACKEND_CRUCIBLE] =
		"a downstairs acknowledges a snapshot also where it takes none, so there is no telling whether one is there",
};

int command_volume_snapshot(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0)
		status = reason_set(&reason, -EOPNOTSUPP, "%s: %s; use a backup of the VM, or tb4 volume export while it is stopped",
			volume.name, reasons[volume.backend]);
	return fail(status, &reason);
}
