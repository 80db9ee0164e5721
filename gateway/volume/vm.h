/* vm.h: what is set for a VM as a whole, and the file that says so: VOLUME_DIR/vm-VMID.conf, described in tb4.conf(5). Most
 * VMs have none.
 *
 * Blocking calls; any thread, one at a time per structure.
 */
#ifndef TB4_VM_H
#define TB4_VM_H

#include "config.h"
#include "volume/volume.h"

struct vm {
	uint64_t vmid;
	char *path;           /* of its file, whether there is one or not */
	struct limits limits; /* of all its volumes together */
};

extern const struct setting vm_table[];
extern const size_t vm_table_size;

/* Reads it; what no file says has its default. Returns 0, or an errno with faults. Free in any case. */
int vm_read(const struct config *config, uint64_t vmid, struct vm *vm, struct faults *faults);
/* The same with one reason. */
int vm_load(const struct config *config, uint64_t vmid, struct vm *vm, struct reason *reason);
/* Writes it, or removes the file where all is as by default. The caller holds volumes_lock(). */
int vm_write(const struct vm *vm, struct reason *reason);
void vm_free(struct vm *vm);
/* Is this the name of such a file, without its directory? */
bool vm_parse_file_name(const char *name, uint64_t *vmid);

#endif
