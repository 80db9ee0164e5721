/* volume.h: what a volume is, and the file that says so.
 *
 * A volume is one virtual disk, named as Proxmox names it. VOLUME_DIR/NAME.conf, described in
 * tb4.conf(5), defines it; VOLUME_DIR/.lock is held while the set of volumes changes, so that two
 * programs do not give one name, port or device away twice.
 *
 * Blocking calls; any thread, one at a time per structure.
 */
#ifndef TB4_VOLUME_H
#define TB4_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"

enum {
	VMID_MIN = 100,
	VMID_MAX = 999999999,
	VOLUME_NAME_MAX = 64,
	VOLUME_SECTOR = 512, /* a volume's size is a multiple of this */
	VOLUME_TARGETS = 3,
};

/* A name taken apart: vm-200-disk-0, base-200-disk-0, vm-200-cloudinit, vm-200-state-SNAP,
 * vm-200-fleece-0. */
struct volume_name {
	uint64_t vmid;
	bool is_disk; /* ...-disk-N */
	bool is_base; /* base-... */
	unsigned disk;
};

/* Returns 0 or -EINVAL. */
int volume_name_parse(const char *name, struct volume_name *parsed);
/* "vm-VMID-disk-DISK" */
void volume_name_of_disk(uint64_t vmid, unsigned disk, char name[VOLUME_NAME_MAX]);
/* A VMID as Proxmox allows it. Returns 0 or -EINVAL. */
int vmid_parse(const char *text, uint64_t *vmid);

enum volume_write_ack { VOLUME_WRITE_ACK_COPIES, VOLUME_WRITE_ACK_SUBMIT };
extern const char *const volume_write_acks[];
enum volume_backend { VOLUME_BACKEND_FILE, VOLUME_BACKEND_CRUCIBLE };
extern const char *const volume_backends[];
extern const char *const volume_target_names[VOLUME_TARGETS]; /* of the settings in [crucible] */

/* Rates that clients may not exceed for long. 0: no limit. */
struct limits {
	uint64_t iops, bytes_per_second;
	uint64_t burst; /* seconds' worth that may be used at once */
};
enum { LIMITS_IOPS_MAX = 1000000000, LIMITS_BURST_MAX = 3600 };
#define LIMITS_SETTINGS(structure, whose) \
	{ "limits", "iops", SETTING_NUMBER, offsetof(structure, limits.iops), "0", 0, LIMITS_IOPS_MAX, NULL, false, \
		"requests a second of " whose "; 0: no limit" }, \
	{ "limits", "bytes_per_second", SETTING_SIZE, offsetof(structure, limits.bytes_per_second), "0", 0, INT64_MAX, NULL, \
		false, "bytes a second that are read and written of " whose "; 0: no limit" }, \
	{ "limits", "burst", SETTING_NUMBER, offsetof(structure, limits.burst), "1", 1, LIMITS_BURST_MAX, NULL, false, \
		"seconds' worth of that which may be used at once" }

struct volume {
	char name[VOLUME_NAME_MAX];
	struct volume_name parsed;
	char *path; /* of the volume file */
	/* [volume] */
	unsigned backend; /* enum volume_backend */
	uint64_t size;    /* bytes, exact */
	char *host;       /* the node that the volume belongs to */
	char *description;
	bool read_only;
	char *tls_names; /* of clients that may see it by TLS; NULL: all */
	/* [ports]: 0 where the scheme of ports.h gives them */
	uint64_t nbd_port, device, downstairs_port;
	struct limits limits;
	/* [file] */
	char *image;
	/* [crucible] */
	char *targets[VOLUME_TARGETS]; /* as target_parse() takes them */
	uint64_t block_size;
	char *key_file; /* NULL: not encrypted */
	unsigned write_ack; /* enum volume_write_ack */
	uint64_t min_copies;
};

extern const struct setting volume_table[];
extern const size_t volume_table_size;

/* Reads one volume. Returns 0, -ENOENT, or an errno with faults. Free in any case. */
int volume_read(const struct config *config, const char *name, struct volume *volume,
	struct faults *faults);
/* The same with one reason, also for -ENOENT. */
int volume_load(const struct config *config, const char *name, struct volume *volume,
	struct reason *reason);
/* Writes volume->path, which is set here if NULL. The caller holds volumes_lock(). */
int volume_write(const struct config *config, struct volume *volume, struct reason *reason);
/* Removes the volume file. The caller holds volumes_lock(). */
int volume_forget(const struct volume *volume, struct reason *reason);
void volume_free(struct volume *volume);

struct volumes {
	struct volume *items; /* by VMID, then name */
	size_t count;
};

/* All readable volumes of a VM (of all VMs if vmid is 0). A volume that is damaged adds faults and
 * is left out. Returns 0, -EBADMSG if there are faults, or another errno with a fault. */
int volumes_read(const struct config *config, uint64_t vmid, struct volumes *volumes,
	struct faults *faults);
void volumes_free(struct volumes *volumes);

/* Waits for the lock on the set of volumes; making volume_dir if need be. Returns a descriptor. */
int volumes_lock(const struct config *config, struct reason *reason);

#endif
