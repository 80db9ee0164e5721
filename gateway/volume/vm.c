#include "volume/vm.h"

#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "durable-file.h"

/* clang-format off */
const struct setting vm_table[] = {
	LIMITS_SETTINGS(struct vm, "all volumes of the VM together"),
};
/* clang-format on */
const size_t vm_table_size = sizeof vm_table / sizeof vm_table[0];

int vm_read(const struct config *config, uint64_t vmid, struct vm *vm, struct faults *faults)
{
	*vm = (struct vm){ .vmid = vmid };
	if (asprintf(&vm->path, "%s/vm-%llu.conf", config->volume_dir, (unsigned long long)vmid) < 0) {
		vm->path = NULL;
		return -ENOMEM;
	}
	int status = settings_read(vm_table, vm_table_size, vm->path, vm, faults);
	if (status == -ENOENT)
		return settings_default(vm_table, vm_table_size, vm);
	if (status < 0 && status != -EBADMSG)
		return faults_add(faults, vm->path, 0, "%s", strerror(-status));
	return status;
}

int vm_load(const struct config *config, uint64_t vmid, struct vm *vm, struct reason *reason)
{
	struct faults faults = { 0 };
	int status = vm_read(config, vmid, vm, &faults);
	if (status < 0)
		faults_reason(&faults, reason);
	faults_free(&faults);
	return status;
}

int vm_write(const struct vm *vm, struct reason *reason)
{
	struct vm plain = { 0 };
	int status = settings_default(vm_table, vm_table_size, &plain);
	if (status < 0)
		return reason_set(reason, status, "VM %llu: %s", (unsigned long long)vm->vmid, strerror(-status));
	if (memcmp(&plain.limits, &vm->limits, sizeof plain.limits) == 0)
		return durable_file_remove(vm->path, reason);
	CLEANUP_FREE char *text = NULL;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);
	if (!memory)
		return reason_set(reason, -ENOMEM, "VM %llu: out of memory", (unsigned long long)vm->vmid);
	fprintf(memory, "# VM %llu as a whole: see tb4.conf(5)\n", (unsigned long long)vm->vmid);
	status = settings_write(vm_table, vm_table_size, vm, memory);
	if ((fclose(memory) != 0 || !text || length == 0) && status == 0)
		status = -ENOMEM;
	return status < 0 ? reason_set(reason, status, "%s: cannot be written: %s", vm->path, strerror(-status))
					  : durable_file_write(vm->path, text, length, reason);
}

void vm_free(struct vm *vm)
{
	settings_free(vm_table, vm_table_size, vm);
	cleanup_free(&vm->path);
	*vm = (struct vm){ 0 };
}

bool vm_parse_file_name(const char *name, uint64_t *vmid)
{
	char text[16];
	int end = 0;
	return sscanf(name, "vm-%15[0-9].conf%n", text, &end) == 1 && end > 0 && name[end] == '\0' &&
		vmid_parse(text, vmid) == 0;
}
