/* node-gateways.h: what runs on this node and what could: the VMs that have volumes or a control socket, with the
 * answer of each gateway. For status and metrics. */
#ifndef TB4_NODE_GATEWAYS_H
#define TB4_NODE_GATEWAYS_H

#include "cli/cli.h"

/* Asks `command` ("status" or "metrics") of the gateway of each VM (of one, if vmid is not 0), of all at once.
 * Returns an array of their answers by VMID; a VM whose gateway does not run is in it with the state
 * "stopped", one that does not answer with "silent" and the reason. NULL without memory.
 * *damaged is set if a volume file could not be read. */
struct json_object *ask_gateways(
	const struct cli *cli, const char *command, uint64_t vmid, bool *damaged);

#endif
