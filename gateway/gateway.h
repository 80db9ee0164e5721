/* gateway.h: the process that serves one VM's volumes.
 *
 *                 +------------ gateway.c: life, roles -------------+
 *                 |                                                 |
 *   NBD clients --+-> nbd/server --> nbd/export --> backend/...   |
 *                 |                                                 |
 *   tb4 ----------+-> control/control-server --> gateway-control.c  |
 *                 |                                                 |
 *   claim_dir ----+-> volume/ownership                              |
 *                 +-------------------------------------------------+
 *
 * States: absent -> claiming -> owner -> draining -> absent; any of them -> fenced.
 *
 * Invariants
 *  1. A volume is served only while its claim is held (ownership.h) and its backend is active.
 *  2. Volumes start and fail independently; a fence is for all of them.
 *  3. A fenced gateway answers everything with EIO and stays until it is told to stop, so that no
 *     supervisor restarts it into a fight.
 *  4. Claims are released after the backend has been deactivated without an error, never before.
 *
 * Loop thread only.
 */
#ifndef TB4_GATEWAY_H
#define TB4_GATEWAY_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"

struct gateway_options {
	const struct config *config;
	uint64_t vmid;
	bool stdio; /* serve one client on standard input and output, then stop */
};

/* Runs until told to stop by a signal. Returns the exit status of the process. */
int gateway_run(const struct gateway_options *options);

#endif
