#include "cli/attach-arguments.h"

#include <errno.h>
#include <stdlib.h>

int attach_arguments(const struct cli *cli, struct volumes *volumes)
{
	uint64_t vmid;
	struct reason reason;
	if (vmid_parse(cli->arguments[0], &vmid) == 0 && !has_option(cli, OPTION_DISK)) {
		int status = load_volumes(cli, vmid, volumes);
		if (volumes->count > 0)
			return 0; /* damaged ones have been reported */
		return status < 0 ? exit_status_for(status)
						  : fail_text(EXIT_NO_INPUT, "VM %s has no volumes", cli->arguments[0]);
	}
	volumes->items = calloc(1, sizeof *volumes->items);
	if (!volumes->items)
		return fail_text(EXIT_INTERNAL, "out of memory");
	volumes->count = 1;
	int status = find_volume(cli, cli->arguments[0], &volumes->items[0], &reason);
	return status < 0 ? fail(status, &reason) : 0;
}
