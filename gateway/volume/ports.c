#include "volume/ports.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "cleanup.h"
#include "processes.h"

enum { SCHEME_FIRST_VMID = 200, SCHEME_LAST_VMID = 299, SCHEME_DISKS = 3 };
enum { SCHEME_DOWNSTAIRS_BASE = 3900, SCHEME_PORTS_PER_VM = 10, SCHEME_NBD_BASE = 10809 };

/* Ports inside the scheme's ranges that other software of a Proxmox node has as its own. */
static const struct {
	uint16_t port;
	const char *holder;
} well_known[] = {
	{ 4420, "nvmet (NVMe over TCP)" },
	{ 8006, "pveproxy" },
	{ 8007, "proxmox-backup-proxy" },
	{ 8443, "the Ceph dashboard" },
};

static bool in_scheme(uint64_t vmid)
{
	return vmid >= SCHEME_FIRST_VMID && vmid <= SCHEME_LAST_VMID;
}

bool scheme_nbd_port(uint64_t vmid, uint16_t *port)
{
	if (!in_scheme(vmid))
		return false;
	*port = (uint16_t)(SCHEME_NBD_BASE + (vmid - SCHEME_FIRST_VMID));
	return true;
}

bool scheme_downstairs_port(const struct volume_name *name, uint16_t *first)
{
	if (!in_scheme(name->vmid) || !name->is_disk || name->disk >= SCHEME_DISKS)
		return false;
	*first = (uint16_t)(SCHEME_DOWNSTAIRS_BASE +
		(name->vmid - SCHEME_FIRST_VMID) * SCHEME_PORTS_PER_VM + name->disk * PORT_SLOTS);
	return true;
}

bool scheme_device(const struct volume_name *name, unsigned *device)
{
	if (!in_scheme(name->vmid) || !name->is_disk || name->disk != 0)
		return false;
	*device = (unsigned)(name->vmid - SCHEME_FIRST_VMID);
	return true;
}

uint16_t volume_nbd_port(const struct volume *volume)
{
	uint16_t port = (uint16_t)volume->nbd_port;
	if (port == 0)
		scheme_nbd_port(volume->parsed.vmid, &port);
	return port;
}

uint16_t volume_downstairs_port(const struct volume *volume)
{
	uint16_t port = (uint16_t)volume->downstairs_port;
	if (port == 0)
		scheme_downstairs_port(&volume->parsed, &port);
	return port;
}

bool volume_device(const struct volume *volume, unsigned *device)
{
	if (volume->device > 0) {
		*device = (unsigned)volume->device;
		return true;
	}
	return scheme_device(&volume->parsed, device);
}

/* Is `port` one of the ports, for data or repair, of the run that begins at `first`? */
static bool run_has(unsigned first, unsigned port)
{
	/* below `first` the differences are huge */
	return first != 0 && (port - first < PORT_SLOTS || port - first - PORT_REPAIR_OFFSET < PORT_SLOTS);
}

/* Who has the port: other software by name, or a volume. NULL if nobody. NBD ports are looked at on
 * behalf of a VM, whose own volumes may share its one. */
static const char *port_owner(const struct volumes *all, unsigned port, uint64_t nbd_vmid)
{
	for (size_t i = 0; i < sizeof well_known / sizeof well_known[0]; i++) {
		if (well_known[i].port == port)
			return well_known[i].holder;
	}
	for (size_t i = 0; i < all->count; i++) {
		const struct volume *volume = &all->items[i];
		if ((volume->parsed.vmid != nbd_vmid && volume_nbd_port(volume) == port) ||
			run_has(volume_downstairs_port(volume), port))
			return volume->name;
	}
	return NULL;
}

/* Who has one of the ports that a run of downstairs needs; `port` gets which. */
static const char *run_owner(const struct volumes *all, unsigned first, unsigned *port)
{
	for (unsigned slot = 0; slot < PORT_SLOTS; slot++) {
		for (unsigned repair = 0; repair < 2; repair++) {
			*port = first + slot + repair * PORT_REPAIR_OFFSET;
			const char *owner = port_owner(all, *port, 0);
			if (owner)
				return owner;
		}
	}
	return NULL;
}

static int assign_downstairs(const struct volumes *all, struct volume *fresh, struct reason *note,
	struct reason *reason)
{
	unsigned port;
	uint16_t scheme;
	reason_set(note, 0, "%s", "");
	if (scheme_downstairs_port(&fresh->parsed, &scheme)) {
		const char *owner = run_owner(all, scheme, &port);
		if (!owner)
			return 0;
		reason_set(note, 0, "port %u of the scheme belongs to %s", port, owner);
	}
	for (unsigned run = PORT_POOL_MIDDLE; run + PORT_SLOTS - 1 <= PORT_POOL_LAST; run += PORT_SLOTS) {
		if (!run_owner(all, run, &port)) {
			fresh->downstairs_port = run;
			return 0;
		}
	}
	if (fresh->backend == VOLUME_BACKEND_FILE)
		return 0; /* it has no use for them */
	return reason_set(reason, -EADDRINUSE, "%s: no free ports for downstairs in %d-%d", fresh->name,
		PORT_POOL_MIDDLE, PORT_POOL_LAST);
}

static int assign_nbd_port(const struct volumes *all, struct volume *fresh, struct reason *reason)
{
	uint64_t vmid = fresh->parsed.vmid;
	for (size_t i = 0; i < all->count; i++) {
		if (all->items[i].parsed.vmid == vmid && volume_nbd_port(&all->items[i]) != 0) {
			fresh->nbd_port = all->items[i].nbd_port; /* one per VM */
			return 0;
		}
	}
	uint16_t scheme;
	if (scheme_nbd_port(vmid, &scheme) && !port_owner(all, scheme, vmid))
		return 0;
	for (unsigned port = PORT_POOL_FIRST; port < PORT_POOL_MIDDLE; port++) {
		if (!port_owner(all, port, vmid)) {
			fresh->nbd_port = port;
			return 0;
		}
	}
	return reason_set(reason, -EADDRINUSE, "%s: no free NBD port in %d-%d", fresh->name,
		PORT_POOL_FIRST, PORT_POOL_MIDDLE - 1);
}

static bool device_is_taken(const struct volumes *all, unsigned device)
{
	unsigned other;
	for (size_t i = 0; i < all->count; i++) {
		if (volume_device(&all->items[i], &other) && other == device)
			return true;
	}
	return false;
}

static int assign_device(const struct volumes *all, struct volume *fresh, struct reason *reason)
{
	unsigned scheme;
	if (scheme_device(&fresh->parsed, &scheme) && !device_is_taken(all, scheme))
		return 0;
	for (unsigned device = DEVICE_POOL_FIRST; device <= DEVICE_MAX; device++) {
		if (!device_is_taken(all, device)) {
			fresh->device = device;
			return 0;
		}
	}
	return reason_set(reason, -EADDRINUSE, "%s: no free kernel device", fresh->name);
}

int ports_assign(const struct volumes *all, struct volume *fresh, struct reason *note,
	struct reason *reason)
{
	int status = assign_nbd_port(all, fresh, reason);
	if (status == 0)
		status = assign_device(all, fresh, reason);
	return status < 0 ? status : assign_downstairs(all, fresh, note, reason);
}

/* who listens on this host */

/* An address as /proc/net/tcp and tcp6 write it: 32-bit words as they lie in memory, in hex. */
static void format_words(const void *address, size_t size, char text[33])
{
	uint32_t words[4];
	memcpy(words, address, size);
	for (size_t i = 0; i < size / sizeof words[0]; i++)
		snprintf(text + 8 * i, 9, "%08X", words[i]);
}

/* The inode of the socket that listens on `port` of that address or of all; 0 if there is none. */
static unsigned long listening_inode(const char *table, const char *address, uint16_t port)
{
	CLEANUP_FCLOSE FILE *file = fopen(table, "re");
	char line[256], local[33];
	while (file && fgets(line, sizeof line, file)) {
		unsigned local_port, state;
		unsigned long inode;
		if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %lu", local,
				&local_port, &state, &inode) != 4 ||
			state != 0x0a /* TCP_LISTEN */ || local_port != port)
			continue;
		if (strspn(local, "0") == strlen(local) || strcmp(local, address) == 0)
			return inode;
	}
	return 0;
}

static unsigned long find_listener(const struct sockaddr *address)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
	char text[33];
	unsigned long inode = 0;
	if (address->sa_family == AF_INET) {
		format_words(&in->sin_addr, sizeof in->sin_addr, text);
		inode = listening_inode("/proc/net/tcp", text, ntohs(in->sin_port));
		return inode ? inode : listening_inode("/proc/net/tcp6", "", ntohs(in->sin_port));
	}
	format_words(&in6->sin6_addr, sizeof in6->sin6_addr, text);
	return listening_inode("/proc/net/tcp6", text, ntohs(in6->sin6_port));
}

bool port_listener(const struct sockaddr *address, char *text, size_t size)
{
	char target[64];
	unsigned long inode = find_listener(address);
	if (inode == 0)
		return false;
	snprintf(target, sizeof target, "socket:[%lu]", inode);
	if (!process_with(target, text, size))
		snprintf(text, size, "a process that cannot be seen from here");
	return true;
}
