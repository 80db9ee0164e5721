/* device.h: which of the kernel's NBD devices is whose, as sysfs shows it.
 *
 * A volume's device has the identifier "tb4/VOLUME", which the kernel keeps since its version 5.14 and udev makes its name
 * of. Nothing is done to a device that is connected under another one or under none, and the kernel itself refuses a change
 * under the wrong one: what is read here may have changed a moment later, and is then caught there.
 *
 * `sysfs` is /sys/block, or what tests put in its place.
 */
#ifndef TB4_DEVICE_H
#define TB4_DEVICE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

#include "reason.h"
#include "volume/volume.h"

#define DEVICE_SYSFS "/sys/block"
enum { DEVICE_PATH_MAX = 24, DEVICE_IDENTIFIER_MAX = VOLUME_NAME_MAX + 8 };

struct kernel_device {
	unsigned number;
	bool is_connected;
	int pid; /* of the process that connected it, which may be gone */
	uint64_t size; /* bytes */
	char identifier[DEVICE_IDENTIFIER_MAX]; /* empty: none, or one that is too long for ours */
};

/* "/dev/nbdN" */
const char *device_path(unsigned number, char path[DEVICE_PATH_MAX]);
/* "tb4/VOLUME" */
const char *device_identifier(const char *volume, char identifier[DEVICE_IDENTIFIER_MAX]);

/* A device that does not exist is one that is not connected: the kernel makes it. */
void device_read(const char *sysfs, unsigned number, struct kernel_device *device);
/* How many connections a connected device uses. */
unsigned device_queues(const char *sysfs, unsigned number);
bool device_is_of(const struct kernel_device *device, const char *volume);

/* The volume that it is attached to; NULL if tb4 has not connected it. The text is the device's. */
const char *device_volume(const struct kernel_device *device);

/* The next connected device of an opened `sysfs`, in no order. False behind the last. */
bool device_next(DIR *dir, const char *sysfs, struct kernel_device *device);
/* Finds the device that a volume is attached as. False if there is none. */
bool device_find(const char *sysfs, const char *volume, struct kernel_device *device);

/* The device that `volume` has or may get: the one that it is attached as, else `number`, if nothing else is connected there.
 * With `exactly`, an attached volume must have that number. Returns 0; -EBUSY with whose the device is. */
int device_choose(const char *sysfs, const char *volume, unsigned number, bool exactly, struct kernel_device *device,
	struct reason *reason);

#endif
