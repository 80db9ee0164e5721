#include "kernel/holders.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "cleanup.h"
#include "kernel/device.h"
#include "processes.h"

enum { HOLDER_MAX = 300 };

static bool find_mount(dev_t device, char holder[HOLDER_MAX])
{
	CLEANUP_FCLOSE FILE *mounts = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;
	char point[200];
	while (mounts && getline(&line, &size, mounts) > 0) {
		unsigned major, minor;
		if (sscanf(line, "%*u %*u %u:%u %*s %199s", &major, &minor, point) == 3 && makedev(major, minor) == device) {
			snprintf(holder, HOLDER_MAX, "mounted at %s", point);
			return true;
		}
	}
	return false;
}

static bool find_swap(const char *path, char holder[HOLDER_MAX])
{
	CLEANUP_FCLOSE FILE *swaps = fopen("/proc/swaps", "re");
	char line[300];
	size_t length = strlen(path);
	while (swaps && fgets(line, sizeof line, swaps)) {
		if (strncmp(line, path, length) == 0 && line[length] == ' ') {
			snprintf(holder, HOLDER_MAX, "used as swap");
			return true;
		}
	}
	return false;
}

/* Device mapper, software RAID and the like. */
static bool find_stacked(unsigned number, char holder[HOLDER_MAX])
{
	char path[64];
	snprintf(path, sizeof path, DEVICE_SYSFS "/nbd%u/holders", number);
	CLEANUP_CLOSEDIR DIR *dir = opendir(path);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(holder, HOLDER_MAX, "in use by %s", entry->d_name);
		return true;
	}
	return false;
}

int device_hold(unsigned number, struct reason *reason)
{
	char path[DEVICE_PATH_MAX], holder[HOLDER_MAX], process[100];
	struct stat info;
	if (process_with(device_path(number, path), process, sizeof process))
		return reason_set(reason, -EBUSY, "%s: open in %s", path, process);
	int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	if (errno != EBUSY || stat(path, &info) < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	if (!find_mount(info.st_rdev, holder) && !find_swap(path, holder) && !find_stacked(number, holder))
		snprintf(holder, sizeof holder, "held by somebody who cannot be seen from here");
	return reason_set(reason, -EBUSY, "%s: %s", path, holder);
}
