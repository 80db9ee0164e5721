#include "kernel/device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "volume/ports.h"

static const char prefix[] = "tb4/";
enum { SYSFS_SECTOR = 512 };

const char *device_path(unsigned number, char path[DEVICE_PATH_MAX])
{
	snprintf(path, DEVICE_PATH_MAX, "/dev/nbd%u", number);
	return path;
}

const char *device_identifier(const char *volume, char identifier[DEVICE_IDENTIFIER_MAX])
{
	snprintf(identifier, DEVICE_IDENTIFIER_MAX, "%s%s", prefix, volume);
	return identifier;
}

/* The line of an attribute; false if it is not there, or longer. */
static bool read_attribute(const char *sysfs, unsigned number, const char *name, char *text, int size)
{
	char path[512];
	text[0] = '\0';
	snprintf(path, sizeof path, "%s/nbd%u/%s", sysfs, number, name);
	CLEANUP_FCLOSE FILE *file = fopen(path, "re");
	if (!file || !fgets(text, size, file))
		return false;
	char *end = strchr(text, '\n');
	if (end)
		*end = '\0';
	else
		text[0] = '\0';
	return end;
}

unsigned device_queues(const char *sysfs, unsigned number)
{
	char path[512];
	unsigned count = 0;
	snprintf(path, sizeof path, "%s/nbd%u/mq", sysfs, number);
	CLEANUP_CLOSEDIR DIR *dir = opendir(path);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	return count;
}

void device_read(const char *sysfs, unsigned number, struct kernel_device *device)
{
	char pid[24], sectors[24];
	*device = (struct kernel_device){ .number = number };
	device->is_connected = read_attribute(sysfs, number, "pid", pid, sizeof pid);
	if (!device->is_connected)
		return;
	device->pid = atoi(pid);
	if (read_attribute(sysfs, number, "size", sectors, sizeof sectors))
		device->size = strtoull(sectors, NULL, 10) * SYSFS_SECTOR;
	read_attribute(sysfs, number, "backend", device->identifier, sizeof device->identifier);
}

bool device_is_of(const struct kernel_device *device, const char *volume)
{
	char identifier[DEVICE_IDENTIFIER_MAX];
	return device->is_connected && strcmp(device->identifier, device_identifier(volume, identifier)) == 0;
}

const char *device_volume(const struct kernel_device *device)
{
	return strncmp(device->identifier, prefix, sizeof prefix - 1) == 0 ? device->identifier + sizeof prefix - 1 : NULL;
}

bool device_next(DIR *dir, const char *sysfs, struct kernel_device *device)
{
	const struct dirent *entry;
	while ((entry = readdir(dir))) {
		unsigned number;
		int used = 0;
		if (sscanf(entry->d_name, "nbd%u%n", &number, &used) != 1 || entry->d_name[used] || number > DEVICE_MAX)
			continue;
		device_read(sysfs, number, device);
		if (device->is_connected)
			return true;
	}
	return false;
}

bool device_find(const char *sysfs, const char *volume, struct kernel_device *device)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(sysfs);
	while (dir && device_next(dir, sysfs, device)) {
		if (device_is_of(device, volume))
			return true;
	}
	return false;
}

/* Whose it is, for people. */
static int refuse_taken(const struct kernel_device *device, const char *volume, struct reason *reason)
{
	if (device_volume(device))
		return reason_set(reason, -EBUSY, "%s: /dev/nbd%u is attached to volume %s: see --device in tb4(1)", volume,
			device->number, device_volume(device));
	return reason_set(reason, -EBUSY, "%s: /dev/nbd%u is connected to something else%s%s, by pid %d: it is left alone", volume,
		device->number, device->identifier[0] ? ", " : "", device->identifier, device->pid);
}

int device_choose(const char *sysfs, const char *volume, unsigned number, bool exactly, struct kernel_device *device,
	struct reason *reason)
{
	if (device_find(sysfs, volume, device))
		return exactly && device->number != number
			? reason_set(reason, -EBUSY, "%s: is attached already, as /dev/nbd%u", volume, device->number)
			: 0;
	device_read(sysfs, number, device);
	return device->is_connected ? refuse_taken(device, volume, reason) : 0;
}
