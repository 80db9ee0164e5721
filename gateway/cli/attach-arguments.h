/* attach-arguments.h: what attach and detach are given. */
#ifndef TB4_ATTACH_ARGUMENTS_H
#define TB4_ATTACH_ARGUMENTS_H

#include "cli/cli.h"

/* The volume that the argument names, or all of a VM where it is a VMID without --disk. Returns an exit status; free the volumes in any
 * case. */
int attach_arguments(const struct cli *cli, struct volumes *volumes);

#endif
