/* holders.h: who uses a kernel device, so that it is not taken away from under them. */
#ifndef TB4_HOLDERS_H
#define TB4_HOLDERS_H

#include <stdbool.h>

#include "reason.h"

/* Takes a device for this process alone, so that nobody can mount it meanwhile. Returns a descriptor, or -EBUSY with who has it
 * ("mounted at /srv", "in use by dm-3", "open in pid 812 (qemu)"), or another errno. */
int device_hold(unsigned number, struct reason *reason);

#endif
