#include "doctor/configuration.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cleanup.h"
#include "durable-file.h"
#include "listen.h"
#include "users.h"
#include "volume/ports.h"
#include "volume/record.h"
#include "volume/vm.h"
#include "volume/volume.h"

/* The files of VMs; and what looks like a volume file and will never be read. */
static void check_other_files(const struct config *config, struct faults *faults)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(config->volume_dir);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		struct volume_name parsed;
		uint64_t vmid;
		CLEANUP_FREE char *name = strdup(entry->d_name);
		CLEANUP_FREE char *path = path_join(config->volume_dir, entry->d_name);
		char *suffix = name ? strrchr(name, '.') : NULL;
		if (!path || !suffix || strcmp(suffix, ".conf") != 0)
			continue;
		if (vm_parse_file_name(entry->d_name, &vmid)) {
			CLEANUP(vm_free) struct vm vm = { 0 };
			vm_read(config, vmid, &vm, faults);
			continue;
		}
		*suffix = '\0';
		if (volume_name_parse(name, &parsed) < 0)
			faults_add(faults, path, 0, "%s is not the name of a volume: the file is not read", name);
	}
}

static void check_config(const char *path, const struct config *config, struct faults *faults)
{
	struct reason reason;
	CLEANUP_FREE uid_t *users = NULL;
	size_t count;
	if (config->listen && listen_check_address(config->listen, config_has_tls(config), &reason) < 0)
		faults_add(faults, path, settings_line_of(path, "[nbd] listen"), "%s", reason.text);
	/* a default, which is not there where memory was short */
	if (config->exporter_listen && listen_check_http(config->exporter_listen, &reason) < 0)
		faults_add(faults, path, settings_line_of(path, "[exporter] listen"), "%s", reason.text);
	struct nbd_credentials *credentials = NULL;
	if (config_has_tls(config) && nbd_credentials_open(&config->tls, &credentials, &reason) < 0)
		faults_add(faults, path, 0, "%s", reason.text);
	else if (credentials && nbd_credentials_end(credentials) != -1 && nbd_credentials_end(credentials) < time(NULL))
		faults_add(faults, path, settings_line_of(path, "certificate"), "certificate = %s: has expired",
			config->tls.certificate);
	nbd_credentials_drop(credentials);
	if (users_parse(config->allow_users, &users, &count, &reason) < 0)
		faults_add(faults, path, settings_line_of(path, "allow_users"), "%s", reason.text);
	/* "RUN_DIR/999999999/control.sock" must fit into a socket's address */
	if (strlen(config->run_dir) + strlen("/999999999/control.sock") > 107)
		faults_add(faults, path, settings_line_of(path, "run_dir"),
			"run_dir = %s: too long for the sockets in it", config->run_dir);
}

static void check_image(const struct volume *volume, struct faults *faults)
{
	struct stat st;
	unsigned line = settings_line_of(volume->path, "image"); /* 0 for the default */
	if (stat(volume->image, &st) < 0)
		faults_add(faults, volume->path, line, "image %s: %m", volume->image);
	else if (!S_ISREG(st.st_mode))
		faults_add(faults, volume->path, line, "image %s: not a regular file", volume->image);
	else if ((uint64_t)st.st_size < volume->size)
		faults_add(faults, volume->path, settings_line_of(volume->path, "size"),
			"image %s: has %lld bytes, fewer than size says", volume->image, (long long)st.st_size);
}

static void check_volume(
	const struct config *config, const struct volume *volume, struct faults *faults)
{
	struct record record;
	struct reason reason;
	if (volume->backend == VOLUME_BACKEND_FILE && strcmp(volume->host, config->node_name) == 0)
		check_image(volume, faults);
	int status = record_load(config, volume->name, &record, &reason);
	if (status < 0 && status != -ENOENT)
		faults_add(faults, volume->path, 0, "%s", reason.text);
}

/* Two volumes that say that they have the same thing. */
static void check_pair(const struct volume *a, const struct volume *b, struct faults *faults)
{
	unsigned device_a, device_b;
	for (unsigned i = 0; i < VOLUME_TARGETS * VOLUME_TARGETS; i++) {
		const char *target = b->targets[i / VOLUME_TARGETS], *other = a->targets[i % VOLUME_TARGETS];
		if (target && other && strcmp(target, other) == 0)
			faults_add(faults, b->path, settings_line_of(b->path, volume_target_names[i / VOLUME_TARGETS]),
				"downstairs %s is also one of %s", target, a->name);
	}
	if (a->image && b->image && strcmp(a->image, b->image) == 0 && strcmp(a->host, b->host) == 0)
		faults_add(faults, b->path, settings_line_of(b->path, "image"), "image %s is also that of %s",
			b->image, a->name);
	if (a->parsed.vmid != b->parsed.vmid && volume_nbd_port(a) != 0 &&
		volume_nbd_port(a) == volume_nbd_port(b))
		faults_add(faults, b->path, settings_line_of(b->path, "nbd"), "NBD port %u is also that of %s",
			volume_nbd_port(b), a->name);
	if (volume_device(a, &device_a) && volume_device(b, &device_b) && device_a == device_b)
		faults_add(faults, b->path, settings_line_of(b->path, "device"), "/dev/nbd%u is also that of %s",
			device_b, a->name);
}

static int check_volumes(const struct config *config, struct faults *faults, struct volumes *volumes)
{
	int status = volumes_read(config, 0, volumes, faults);
	check_other_files(config, faults);
	for (size_t i = 0; i < volumes->count; i++) {
		check_volume(config, &volumes->items[i], faults);
		for (size_t k = 0; k < i; k++)
			check_pair(&volumes->items[k], &volumes->items[i], faults);
	}
	return status == -ENOMEM ? status : 0;
}

int configuration_check(const char *path, struct config *config, struct faults *faults, struct volumes *volumes)
{
	*volumes = (struct volumes){ 0 };
	int status = config_read(path, config, faults);
	if (config->run_dir && config->data_dir && config->volume_dir) {
		check_config(path ? path : CONFIG_DEFAULT_PATH, config, faults);
		status = check_volumes(config, faults, volumes);
	}
	return status == -ENOMEM ? status : 0;
}
