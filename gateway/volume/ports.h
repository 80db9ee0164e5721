/* ports.h: which TCP ports and kernel devices belong to a volume (design section 4).
 *
 * VMID 200-299, disk 0-2, has fixed ones, "the scheme"; all others, and those whose scheme ports
 * are taken, get theirs from the pool when the volume is created, and the volume file keeps them.
 * Ports of downstairs are on the sleds, the NBD port is one per VM on the node that runs it.
 */
#ifndef TB4_PORTS_H
#define TB4_PORTS_H

#include "volume/volume.h"

enum {
	PORT_SLOTS = 3, /* downstairs of a volume */
	PORT_POOL_FIRST = 20000, /* NBD ports of VMs */
	PORT_POOL_MIDDLE = 22000, /* ports of downstairs */
	PORT_POOL_LAST = 23999,
	PORT_REPAIR_OFFSET = 4000, /* repair port - port of a downstairs */
	DEVICE_POOL_FIRST = 100,
	DEVICE_MAX = 1048575,
};

/* The scheme. False where it has none. */
bool scheme_nbd_port(uint64_t vmid, uint16_t *port);
bool scheme_downstairs_port(const struct volume_name *name, uint16_t *first);
bool scheme_device(const struct volume_name *name, unsigned *device);

/* What the volume has: recorded, else by the scheme. 0 or false if neither. */
uint16_t volume_nbd_port(const struct volume *volume);
uint16_t volume_downstairs_port(const struct volume *volume);
bool volume_device(const struct volume *volume, unsigned *device);

/* Fills in what a new volume needs recorded: its ports and its device, where the scheme gives none or
 * what it gives belongs to another volume or to other software. `all` are the volumes there are; the
 * caller holds volumes_lock(). `note`, if not NULL, says whose the scheme's ports of downstairs are,
 * or is empty. Returns 0, or -EADDRINUSE if the pool is used up. */
int ports_assign(const struct volumes *all, struct volume *fresh, struct reason *note,
	struct reason *reason);

struct sockaddr;
/* Who listens on this TCP address and port of this host, or on all of its addresses: "pid 812 (nginx)".
 * False if nobody does. */
bool port_listener(const struct sockaddr *address, char *text, size_t size);

#endif
