#include "volume/volume.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "checked.h"
#include "cleanup.h"
#include "durable-file.h"
#include "volume/target.h"

const char *const volume_backends[] = { "file", "crucible", NULL };
const char *const volume_write_acks[] = { "copies", "submit", NULL };
const char *const volume_target_names[VOLUME_TARGETS] = { "target_0", "target_1", "target_2" };

#define AT(member) offsetof(struct volume, member)
#define VOLUME_SUFFIX ".conf"

/* clang-format off */
const struct setting volume_table[] = {
	{ "volume", "backend", SETTING_CHOICE, AT(backend), NULL, 0, 0, volume_backends, true,
		"what holds the bytes" },
	{ "volume", "size", SETTING_SECTORS, AT(size), NULL, VOLUME_SECTOR, INT64_MAX, NULL, true,
		"exact size that the export shows, a multiple of 512" },
	{ "volume", "host", SETTING_TEXT, AT(host), NULL, 0, 0, NULL, true,
		"the node that the volume belongs to" },
	{ "volume", "description", SETTING_TEXT, AT(description), NULL, 0, 0, NULL, false,
		"shown to NBD clients" },
	{ "volume", "read_only", SETTING_SWITCH, AT(read_only), "no", 0, 0, NULL, false,
		"refuse every write" },
	{ "volume", "tls_names", SETTING_TEXT, AT(tls_names), NULL, 0, 0, NULL, false,
		"names of the clients that may use it over TLS" },
	{ "ports", "nbd", SETTING_NUMBER, AT(nbd_port), "0", 0, 65535, NULL, false,
		"NBD port of the VM where the scheme gives none" },
	{ "ports", "device", SETTING_NUMBER, AT(device), "0", 0, 1048575, NULL, false,
		"number of the kernel device where the scheme gives none" },
	{ "ports", "downstairs", SETTING_NUMBER, AT(downstairs_port), "0", 0, 65535, NULL, false,
		"first of the three ports of downstairs where the scheme gives none" },
	LIMITS_SETTINGS(struct volume, "the volume"),
	{ "file", "image", SETTING_PATH, AT(image), NULL, 0, 0, NULL, false,
		"the raw file; default DATA_DIR/NAME.raw" },
	{ "crucible", "target_0", SETTING_TEXT, AT(targets[0]), NULL, 0, 0, NULL, false,
		"HOST:PORT of the first downstairs" },
	{ "crucible", "target_1", SETTING_TEXT, AT(targets[1]), NULL, 0, 0, NULL, false,
		"HOST:PORT of the second downstairs" },
	{ "crucible", "target_2", SETTING_TEXT, AT(targets[2]), NULL, 0, 0, NULL, false,
		"HOST:PORT of the third downstairs" },
	{ "crucible", "block_size", SETTING_SIZE, AT(block_size), "4K", 512, 32768, NULL, false,
		"size of the regions' blocks, a power of two" },
	{ "crucible", "key_file", SETTING_PATH, AT(key_file), NULL, 0, 0, NULL, false,
		"the 32 bytes that encrypt the blocks; default: they are not encrypted" },
	{ "crucible", "write_ack", SETTING_CHOICE, AT(write_ack), "copies", 0, 0, volume_write_acks, false,
		"when a write is answered: when all copies have it, or as soon as it is sent" },
	{ "crucible", "min_copies", SETTING_NUMBER, AT(min_copies), "2", 1, 2, NULL, false,
		"how many copies it takes to serve; with 1, losing a sled then loses what no other sled has" },
};
/* clang-format on */
const size_t volume_table_size = sizeof volume_table / sizeof volume_table[0];

/* names */

/* Takes decimal digits without a leading zero. Returns what follows, or NULL. */
static const char *take_number(const char *text, uint64_t maximum, uint64_t *number)
{
	if (!isdigit((unsigned char)text[0]) || (text[0] == '0' && isdigit((unsigned char)text[1])))
		return NULL;
	uint64_t value = 0;
	for (; isdigit((unsigned char)*text); text++) {
		value = value * 10 + (uint64_t)(*text - '0');
		if (value > maximum)
			return NULL;
	}
	*number = value;
	return text;
}

int vmid_parse(const char *text, uint64_t *vmid)
{
	const char *end = take_number(text, VMID_MAX, vmid);
	return end && *end == '\0' && *vmid >= VMID_MIN ? 0 : -EINVAL;
}

static const char *skip_prefix(const char *text, const char *prefix)
{
	size_t length = strlen(prefix);
	return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

/* What may follow "vm-N-state-": a snapshot's name as Proxmox allows it. */
static bool is_snapshot_name(const char *text)
{
	if (!isalpha((unsigned char)text[0]))
		return false;
	for (; *text; text++) {
		if (!isalnum((unsigned char)*text) && *text != '_' && *text != '-')
			return false;
	}
	return true;
}

int volume_name_parse(const char *name, struct volume_name *parsed)
{
	*parsed = (struct volume_name){ 0 };
	if (strlen(name) >= VOLUME_NAME_MAX)
		return -EINVAL;
	const char *rest = skip_prefix(name, "vm-");
	if (!rest) {
		rest = skip_prefix(name, "base-");
		parsed->is_base = true;
	}
	rest = rest ? take_number(rest, VMID_MAX, &parsed->vmid) : NULL;
	if (!rest || parsed->vmid < VMID_MIN || *rest++ != '-')
		return -EINVAL;
	const char *number = skip_prefix(rest, "disk-");
	parsed->is_disk = number;
	if (!number && !parsed->is_base)
		number = skip_prefix(rest, "fleece-");
	if (number) {
		uint64_t disk;
		number = take_number(number, 9999, &disk);
		parsed->disk = number && parsed->is_disk ? (unsigned)disk : 0;
		return number && *number == '\0' ? 0 : -EINVAL;
	}
	if (parsed->is_base)
		return -EINVAL;
	const char *snapshot = skip_prefix(rest, "state-");
	return strcmp(rest, "cloudinit") == 0 || (snapshot && is_snapshot_name(snapshot)) ? 0 : -EINVAL;
}

void volume_name_of_disk(uint64_t vmid, unsigned disk, char name[VOLUME_NAME_MAX])
{
	snprintf(name, VOLUME_NAME_MAX, "vm-%llu-disk-%u", (unsigned long long)vmid, disk);
}

/* one volume */

static char *volume_path(const struct config *config, const char *name)
{
	char *path;
	return asprintf(&path, "%s/%s" VOLUME_SUFFIX, config->volume_dir, name) < 0 ? NULL : path;
}

static int check_crucible(const struct volume *volume, struct faults *faults)
{
	int status = 0;
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		const char *name = volume_target_names[i];
		char host[TARGET_HOST_MAX];
		uint16_t port;
		if (!volume->targets[i])
			status = faults_add(faults, volume->path, 0, "[crucible] has no %s", name);
		else if (target_parse(volume->targets[i], host, &port) < 0)
			status = faults_add(faults, volume->path, settings_line_of(volume->path, name),
				"%s = %s: not HOST:PORT", name, volume->targets[i]);
	}
	if ((volume->block_size & (volume->block_size - 1)) != 0)
		status = faults_add(faults, volume->path, settings_line_of(volume->path, "block_size"),
			"block_size: not a power of two");
	else if (!is_aligned(volume->size, volume->block_size))
		status = faults_add(faults, volume->path, settings_line_of(volume->path, "size"),
			"size: not a multiple of the block size, %llu", (unsigned long long)volume->block_size);
	return status;
}

static int fill_defaults(const struct config *config, struct volume *volume)
{
	if (volume->image || volume->backend != VOLUME_BACKEND_FILE)
		return 0;
	if (asprintf(&volume->image, "%s/%s.raw", config->data_dir, volume->name) < 0) {
		volume->image = NULL;
		return -ENOMEM;
	}
	return 0;
}

int volume_read(const struct config *config, const char *name, struct volume *volume,
	struct faults *faults)
{
	*volume = (struct volume){ 0 };
	if (volume_name_parse(name, &volume->parsed) < 0)
		return faults_add(faults, config->volume_dir, 0, "%s is not the name of a volume", name);
	snprintf(volume->name, sizeof volume->name, "%s", name);
	volume->path = volume_path(config, name);
	if (!volume->path)
		return -ENOMEM;
	int status = settings_read(volume_table, volume_table_size, volume->path, volume, faults);
	if (status == -ENOENT)
		return status;
	if (status < 0 && status != -EBADMSG)
		return faults_add(faults, volume->path, 0, "%s", strerror(-status));
	if (status == 0 && volume->backend == VOLUME_BACKEND_CRUCIBLE)
		status = check_crucible(volume, faults);
	if (status == 0)
		status = fill_defaults(config, volume);
	return status;
}

int volume_load(const struct config *config, const char *name, struct volume *volume,
	struct reason *reason)
{
	struct faults faults = { 0 };
	int status = volume_read(config, name, volume, &faults);
	if (status == -ENOENT)
		reason_set(reason, status, "%s: no such volume in %s: see tb4 volume list", name,
			config->volume_dir);
	else if (status < 0)
		faults_reason(&faults, reason);
	faults_free(&faults);
	return status;
}

int volume_write(const struct config *config, struct volume *volume, struct reason *reason)
{
	if (!volume->path)
		volume->path = volume_path(config, volume->name);
	CLEANUP_FREE char *text = NULL;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);
	if (!volume->path || !memory || fill_defaults(config, volume) < 0) {
		cleanup_fclose(&memory);
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	}
	fprintf(memory, "# %s: see tb4.conf(5)\n", volume->name);
	int status = settings_write(volume_table, volume_table_size, volume, memory);
	if ((fclose(memory) != 0 || !text || length == 0) && status == 0)
		status = -ENOMEM;
	if (status < 0)
		return reason_set(reason, status, "%s: a value cannot be written to %s: %s", volume->name,
			volume->path, strerror(-status));
	return durable_file_write(volume->path, text, length, reason);
}

int volume_forget(const struct volume *volume, struct reason *reason)
{
	return durable_file_remove(volume->path, reason);
}

void volume_free(struct volume *volume)
{
	settings_free(volume_table, volume_table_size, volume);
	cleanup_free(&volume->path);
	*volume = (struct volume){ 0 };
}

/* all volumes */

static int by_vmid_and_name(const void *left, const void *right)
{
	const struct volume *a = left, *b = right;
	if (a->parsed.vmid != b->parsed.vmid)
		return a->parsed.vmid < b->parsed.vmid ? -1 : 1;
	return strverscmp(a->name, b->name);
}

/* True if the directory entry NAME.conf is a volume file of this VM; `name` gets NAME. */
static bool is_volume_file(const char *entry, uint64_t vmid, char name[VOLUME_NAME_MAX])
{
	size_t length = strlen(entry), suffix = strlen(VOLUME_SUFFIX);
	if (length <= suffix || length - suffix >= VOLUME_NAME_MAX ||
		strcmp(entry + length - suffix, VOLUME_SUFFIX) != 0)
		return false;
	memcpy(name, entry, length - suffix);
	name[length - suffix] = '\0';
	struct volume_name parsed;
	return volume_name_parse(name, &parsed) == 0 && (vmid == 0 || parsed.vmid == vmid);
}

static int add_volume(struct volumes *volumes, struct volume *volume)
{
	struct volume *items = realloc(volumes->items, (volumes->count + 1) * sizeof *items);
	if (!items)
		return -ENOMEM;
	volumes->items = items;
	items[volumes->count++] = *volume;
	*volume = (struct volume){ 0 };
	return 0;
}

int volumes_read(const struct config *config, uint64_t vmid, struct volumes *volumes,
	struct faults *faults)
{
	*volumes = (struct volumes){ 0 };
	CLEANUP_CLOSEDIR DIR *dir = opendir(config->volume_dir);
	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return faults_add(faults, config->volume_dir, 0, "%m");
	int status = 0;
	for (;;) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry) {
			if (errno)
				status = faults_add(faults, config->volume_dir, 0, "%m");
			break;
		}
		char name[VOLUME_NAME_MAX];
		if (!is_volume_file(entry->d_name, vmid, name))
			continue;
		struct volume volume;
		int read = volume_read(config, name, &volume, faults);
		if (read == 0)
			read = add_volume(volumes, &volume);
		volume_free(&volume);
		if (read == -ENOMEM)
			return read;
		if (read < 0 && read != -ENOENT) /* -ENOENT: deleted meanwhile */
			status = read;
	}
	if (volumes->count > 1)
		qsort(volumes->items, volumes->count, sizeof *volumes->items, by_vmid_and_name);
	return status;
}

void volumes_free(struct volumes *volumes)
{
	for (size_t i = 0; i < volumes->count; i++)
		volume_free(&volumes->items[i]);
	free(volumes->items);
	*volumes = (struct volumes){ 0 };
}

int volumes_lock(const struct config *config, struct reason *reason)
{
	int status = make_directory(config->volume_dir, reason);
	if (status < 0)
		return status;
	status = require_local(config->volume_dir, reason);
	CLEANUP_FREE char *path = path_join(config->volume_dir, ".lock");
	if (status < 0 || !path)
		return status < 0 ? status : reason_set(reason, -ENOMEM, "out of memory");
	return lock_file_wait(path, reason);
}
