#include "kernel/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "durable-file.h"
#include "kernel/holders.h"
#include "kernel/nbd-netlink.h"
#include "kernel/negotiate.h"
#include "log.h"
#include "monotonic.h"
#include "nbd/nbd-protocol.h"

enum {
	ANSWER_LIMIT_MS = 60000, /* for a gateway that starts */
	BUSY_LIMIT_MS = 3000, /* for somebody who opens the device for a moment, as udev does */
	BUSY_PAUSE_MS = 50,
	SECTOR = 512,
};

/* Connections after their handshake. */
struct connections {
	int sockets[ATTACH_CONNECTIONS_MAX];
	unsigned count;
	uint64_t size;
	uint16_t flags;
};

static void cleanup_connections(struct connections *connections)
{
	for (unsigned i = 0; i < connections->count; i++)
		close(connections->sockets[i]);
}

unsigned attach_connections(const struct config *config)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned most = processors < 1 ? 1 : (unsigned)processors;
	return config->kernel_connections < most ? (unsigned)config->kernel_connections : most;
}

/* `count` connections, or one if the server does not take several for one client. */
static int connect_all(const struct attach *attach, unsigned count, struct connections *connections, struct reason *reason)
{
	CLEANUP_FREE char *path = NULL;
	if (asprintf(&path, "%s/%llu/nbd.sock", attach->config->run_dir, (unsigned long long)attach->volume->parsed.vmid) < 0) {
		path = NULL;
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	while (connections->count < count) {
		struct negotiated one;
		int status = negotiate(path, attach->volume->name, attach->wake, ANSWER_LIMIT_MS, &one, reason);
		if (status < 0)
			return status;
		connections->sockets[connections->count++] = one.fd;
		if (connections->count > 1 && (one.size != connections->size || one.flags != connections->flags))
			return reason_set(reason, -EAGAIN, "%s: changed while it was being connected", attach->volume->name);
		connections->size = one.size;
		connections->flags = one.flags;
		if (!(one.flags & NBD_FLAG_CAN_MULTI_CONN))
			break;
	}
	return 0;
}

static void pause_ms(long ms)
{
	const struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
	nanosleep(&pause, NULL);
}

/* The kernel tells udev about the device before its identifier can be read, and of a device that is open only at its last close. */
static void tell_udev(unsigned number)
{
	char path[64];
	snprintf(path, sizeof path, DEVICE_SYSFS "/nbd%u/uevent", number);
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "change", 6) < 0)
		log_warning("%s: %m: there may be no name for it in /dev/tb4", path);
}

/* The setting of the package counts only if nobody had loaded the module before. */
static void warn_of_partitions(const char *name)
{
	CLEANUP_FCLOSE FILE *file = fopen("/sys/module/nbd/parameters/max_part", "re");
	int most;
	if (file && fscanf(file, "%d", &most) == 1 && most > 0)
		log_warning("%s: the kernel looks for partitions on it: the module nbd was loaded with max_part=%d, and not with 0", name,
			most);
}

/* Connects a device that nobody has connected. */
static int connect_device(const struct attach *attach, const struct connections *connections, unsigned number,
	struct reason *reason)
{
	char identifier[DEVICE_IDENTIFIER_MAX];
	const char *name = attach->volume->name;
	const struct nbd_setup setup = {
		.number = number,
		.identifier = device_identifier(name, identifier),
		.size = connections->size,
		.block_size = SECTOR,
		.server_flags = connections->flags,
		.request_timeout = attach->config->kernel_request_timeout,
		.dead_timeout = attach->config->kernel_dead_timeout,
		.sockets = connections->sockets,
		.socket_count = connections->count,
	};
	CLEANUP(cleanup_nbd_link) struct nbd_link *link = NULL;
	struct kernel_device device;
	int64_t limit = now_ms() + BUSY_LIMIT_MS;
	int status = nbd_link_open(&link, reason);
	while (status == 0 && (status = nbd_link_send(link, NBD_CMD_CONNECT, &setup, reason)) == -EBUSY && now_ms() < limit) {
		pause_ms(BUSY_PAUSE_MS);
		status = device_choose(DEVICE_SYSFS, name, number, true, &device, reason);
	}
	if (status < 0)
		return status;
	device_read(DEVICE_SYSFS, number, &device);
	if (device_is_of(&device, name)) {
		warn_of_partitions(name);
		return 0;
	}
	const struct nbd_setup undo = { .number = number };
	nbd_link_send(link, NBD_CMD_DISCONNECT, &undo, NULL);
	return reason_set(reason, -EOPNOTSUPP, "%s: /dev/nbd%u does not keep whose it is: needs Linux 5.14", name, number);
}

/* Only dead connections are replaced; what is left over is closed by the caller. */
static int replace_connections(const struct attach *attach, const struct connections *connections,
	const struct kernel_device *device, struct reason *reason)
{
	char identifier[DEVICE_IDENTIFIER_MAX], ours[SIZE_TEXT_MAX], theirs[SIZE_TEXT_MAX];
	struct nbd_setup setup = {
		.number = device->number,
		.identifier = device_identifier(attach->volume->name, identifier),
		.sockets = connections->sockets,
		.socket_count = connections->count,
	};
	CLEANUP(cleanup_nbd_link) struct nbd_link *link = NULL;
	if (connections->size < device->size)
		return reason_set(reason, -EBADMSG, "%s: has %s, and /dev/nbd%u has %s: it is not connected again",
			attach->volume->name, size_format(connections->size, theirs), device->number, size_format(device->size, ours));
	int status = nbd_link_open(&link, reason);
	if (status == 0)
		status = nbd_link_send(link, NBD_CMD_RECONFIGURE, &setup, reason);
	if (status < 0 || connections->size == device->size)
		return status;
	setup.sockets = NULL;
	setup.socket_count = 0;
	setup.size = connections->size;
	status = nbd_link_send(link, NBD_CMD_RECONFIGURE, &setup, reason);
	if (status == 0)
		log_info("%s: /dev/nbd%u has %s now", attach->volume->name, device->number, size_format(connections->size, theirs));
	return status;
}

int attach_refresh(const struct attach *attach, const struct kernel_device *device, struct reason *reason)
{
	CLEANUP(cleanup_connections) struct connections connections = { .count = 0 };
	unsigned used = device_queues(DEVICE_SYSFS, device->number);
	unsigned count = used > attach->connections ? used : attach->connections;
	int status = connect_all(attach, count < ATTACH_CONNECTIONS_MAX ? count : ATTACH_CONNECTIONS_MAX, &connections, reason);
	return status < 0 ? status : replace_connections(attach, &connections, device, reason);
}

static int lock_devices(const struct config *config, struct reason *reason)
{
	CLEANUP_FREE char *path = path_join(config->run_dir, "attach.lock");
	return path ? lock_file_wait(path, reason) : reason_set(reason, -ENOMEM, "out of memory");
}

int attach_volume(const struct attach *attach, struct kernel_device *device, bool *was_attached, struct reason *reason)
{
	CLEANUP(cleanup_connections) struct connections connections = { .count = 0 };
	const char *name = attach->volume->name;
	/* before anybody waits for a gateway in vain */
	int status = device_choose(DEVICE_SYSFS, name, attach->number, attach->exactly, device, reason);
	if (status == 0)
		status = connect_all(attach, attach->connections, &connections, reason);
	CLEANUP_CLOSE int lock = status < 0 ? -1 : lock_devices(attach->config, reason);
	if (status == 0 && lock < 0)
		status = lock;
	if (status == 0)
		status = device_choose(DEVICE_SYSFS, name, attach->number, attach->exactly, device, reason);
	if (status < 0)
		return status;
	*was_attached = device->is_connected;
	status = device->is_connected ? replace_connections(attach, &connections, device, reason)
								  : connect_device(attach, &connections, device->number, reason);
	if (status < 0)
		return status;
	device_read(DEVICE_SYSFS, device->number, device);
	tell_udev(device->number);
	return 0;
}

/* Somebody may look at the device for a moment, as udev does. */
static int hold_patiently(unsigned number, struct reason *reason)
{
	int64_t limit = now_ms() + BUSY_LIMIT_MS;
	int fd;
	while ((fd = device_hold(number, reason)) == -EBUSY && now_ms() < limit)
		pause_ms(BUSY_PAUSE_MS);
	return fd;
}

int attach_end(const struct config *config, const struct kernel_device *device, bool force, struct reason *reason)
{
	const struct nbd_setup setup = { .number = device->number };
	struct kernel_device now;
	CLEANUP(cleanup_nbd_link) struct nbd_link *link = NULL;
	CLEANUP_CLOSE int lock = lock_devices(config, reason);
	CLEANUP_CLOSE int holder = lock < 0 || force ? -1 : hold_patiently(device->number, reason);
	if (lock < 0 || (holder < 0 && !force))
		return lock < 0 ? lock : holder;
	device_read(DEVICE_SYSFS, device->number, &now);
	if (!now.is_connected || strcmp(now.identifier, device->identifier) != 0)
		return 0; /* somebody else was faster */
	if (holder >= 0 && fsync(holder) < 0)
		return reason_set(reason, -errno, "/dev/nbd%u: what is written to it cannot be stored: %m", device->number);
	int status = nbd_link_open(&link, reason);
	if (status == 0)
		status = nbd_link_send(link, NBD_CMD_DISCONNECT, &setup, reason);
	cleanup_close(&holder); /* the last one; the device becomes empty */
	holder = -1;
	if (status == 0)
		tell_udev(device->number);
	return status;
}
