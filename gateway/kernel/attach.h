/* attach.h: a volume as a kernel device: connecting it, giving it fresh connections, growing it, taking it away.
 *
 * Invariants
 *  1. The device of one volume is never touched on behalf of another (device.h), nor one that tb4 has not connected.
 *  2. A message with sockets never carries a size: setting the size freezes the queue, which would wait for the very requests that
 *     the sockets are to bring on their way. The size is set by a message of its own, once the gateway answers, and only upwards.
 *  3. At most one program of this host chooses and connects devices at a time (RUN_DIR/attach.lock).
 *
 * Blocking; any thread, one at a time per volume.
 */
#ifndef TB4_ATTACH_H
#define TB4_ATTACH_H

#include "config.h"
#include "kernel/device.h"

enum { ATTACH_CONNECTIONS_MAX = 16 };

struct attach {
	const struct config *config;
	const struct volume *volume;
	unsigned number; /* that it gets */
	bool exactly; /* it was asked for, and so another one that the volume has already will not do */
	unsigned connections;
	int wake; /* when readable, waiting ends with -EINTR; negative: none */
};

/* As many connections as are of use: a device uses one for each processor at most. */
unsigned attach_connections(const struct config *config);

/* Connects the volume to its device and fills *device. If it is attached already, gives it fresh connections for dead ones and
 * sets *was_attached. Returns 0 or an errno. */
int attach_volume(const struct attach *attach, struct kernel_device *device, bool *was_attached, struct reason *reason);

/* Gives an attached device fresh connections in place of those that are dead, and the size of the export if that is larger. */
int attach_refresh(const struct attach *attach, const struct kernel_device *device, struct reason *reason);

/* Takes an attached device away. Without `force`, -EBUSY if it is mounted or open. */
int attach_end(const struct config *config, const struct kernel_device *device, bool force, struct reason *reason);

#endif
