/* keeper.h: keeps volumes attached: `tb4 attach --keep`, the service tb4-vm-connect@.
 *
 * Each volume has a thread, since one may wait for its gateway, or in the kernel, while others go on. A keeper that dies leaves the
 * devices as they are; the next one takes them over. One that is told to stop does the same: `tb4 detach` takes devices away, and
 * then their keeper ends by itself.
 */
#ifndef TB4_KEEPER_H
#define TB4_KEEPER_H

#include "kernel/attach.h"

/* Attaches the volumes, and keeps them attached until SIGTERM or SIGINT, or until none of them is attached any more. `attaches` are
 * filled but for `wake`. Returns an exit status; what went wrong is logged. */
int keeper_run(struct attach *attaches, size_t count);

#endif
