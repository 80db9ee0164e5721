#include "cli/image-source.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "cleanup.h"
#include "cli/cli.h"

enum { HEADER_SIZE = 104, HOLE_LOOK = 1 << 30, SHARED_FD = 64 };

/* qcow2, docs/interop/qcow2.txt of QEMU; numbers are big-endian. */
static const uint8_t qcow2_magic[] = { 'Q', 'F', 'I', 0xfb };
enum { QCOW2_VERSION = 4, QCOW2_BACKING = 8, QCOW2_INCOMPATIBLE = 72, QCOW2_EXTERNAL_DATA = 1 << 2 };

static uint64_t get_big(const uint8_t *bytes, size_t size)
{
	uint64_t value = 0;
	for (size_t i = 0; i < size; i++)
		value = value << 8 | bytes[i];
	return value;
}

static int check_qcow2(const struct image_source *source, const uint8_t *header, ssize_t length, struct reason *reason)
{
	if (length < HEADER_SIZE)
		return reason_set(reason, -EBADMSG, "%s: cut short in its qcow2 header", source->path);
	uint64_t version = get_big(header + QCOW2_VERSION, 4);
	if (get_big(header + QCOW2_BACKING, 8) != 0)
		return reason_set(reason, -EINVAL, "%s: has a backing file: make it whole with qemu-img convert first",
			source->path);
	if (version >= 3 && (get_big(header + QCOW2_INCOMPATIBLE, 8) & QCOW2_EXTERNAL_DATA))
		return reason_set(reason, -EINVAL, "%s: has its data in another file: make it whole with qemu-img convert first",
			source->path);
	return 0;
}

static int open_qcow2(struct image_source *source, struct reason *reason)
{
	char name[64];
	/* by descriptor, so that it is the file that was looked at; one that the child has, and above those for its socket */
	CLEANUP_CLOSE int shared = fcntl(source->fd, F_DUPFD, SHARED_FD);
	if (shared < 0)
		return reason_set(reason, -errno, "%s: %m", source->path);
	snprintf(name, sizeof name, "/dev/fd/%d", shared);
	char *command[] = { "qemu-nbd", "--read-only", "--format=qcow2", name, NULL };
	source->nbd = nbd_create();
	if (!source->nbd)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (nbd_add_meta_context(source->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
		nbd_connect_systemd_socket_activation(source->nbd, command) < 0)
		return reason_set(reason, -EBADMSG, "%s: a qcow2 image that qemu-nbd does not open: %s", source->path,
			nbd_get_error());
	int64_t size = nbd_get_size(source->nbd);
	if (size <= 0)
		return reason_set(reason, -EINVAL, "%s: empty", source->path);
	source->size = (uint64_t)size;
	cleanup_close(&source->fd);
	source->fd = -1;
	return 0;
}

static int open_file(struct image_source *source, const struct stat *st, struct reason *reason)
{
	uint8_t header[HEADER_SIZE];
	ssize_t length = pread(source->fd, header, sizeof header, 0);
	if (S_ISREG(st->st_mode))
		source->size = (uint64_t)st->st_size;
	if (S_ISBLK(st->st_mode) && ioctl(source->fd, BLKGETSIZE64, &source->size) < 0)
		return reason_set(reason, -errno, "%s: %m", source->path);
	if ((S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) && source->size == 0)
		return reason_set(reason, -EINVAL, "%s: empty", source->path);
	if (S_ISREG(st->st_mode) && length >= (ssize_t)sizeof qcow2_magic &&
		memcmp(header, qcow2_magic, sizeof qcow2_magic) == 0) {
		int status = check_qcow2(source, header, length, reason);
		return status < 0 ? status : open_qcow2(source, reason);
	}
	posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	return 0;
}

int image_source_open(const char *path, struct image_source *source, struct reason *reason)
{
	struct stat st;
	bool is_stdin = strcmp(path, "-") == 0;
	*source = (struct image_source){ .path = is_stdin ? "standard input" : path };
	source->fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
	if (source->fd < 0 || fstat(source->fd, &st) < 0)
		return reason_set(reason, -errno, "%s: %m", source->path);
	if (S_ISDIR(st.st_mode))
		return reason_set(reason, -EISDIR, "%s: a directory", source->path);
	/* a file that somebody has read from before is taken for a pipe: it goes on from there */
	bool has_begun = is_stdin && lseek(source->fd, 0, SEEK_CUR) > 0;
	return has_begun ? 0 : open_file(source, &st, reason);
}

void image_source_close(struct image_source *source)
{
	if (source->nbd)
		nbd_close(source->nbd); /* and qemu-nbd with it */
	cleanup_close(&source->fd);
}

/* Reading */

static ssize_t read_fd(struct image_source *source, uint8_t *buffer, size_t size)
{
	size_t used = 0;
	while (used < size) {
		ssize_t n = was_interrupted() ? -1 : read(source->fd, buffer + used, size - used);
		if (n < 0 && (was_interrupted() || errno != EINTR))
			return was_interrupted() ? -EINTR : -errno;
		if (n == 0)
			break;
		used += n > 0 ? (size_t)n : 0;
	}
	/* who interrupts a pipe may close it, too: its end is not the end of the data then */
	return was_interrupted() ? -EINTR : (ssize_t)used;
}

static ssize_t read_nbd(struct image_source *source, uint8_t *buffer, size_t size)
{
	uint64_t left = source->size - source->at;
	size_t length = left < size ? (size_t)left : size;
	if (was_interrupted())
		return -EINTR;
	if (length > 0 && nbd_pread(source->nbd, buffer, length, source->at, 0) < 0)
		return was_interrupted() ? -EINTR : nbd_get_errno() ? -nbd_get_errno() : -EIO;
	return (ssize_t)length;
}

ssize_t image_source_read(struct image_source *source, uint8_t *buffer, size_t size)
{
	ssize_t n = source->nbd ? read_nbd(source, buffer, size) : read_fd(source, buffer, size);
	source->at += n > 0 ? (uint64_t)n : 0;
	return n;
}

/* Holes */

struct hole {
	uint64_t length;
	bool ended;
};

static int on_extents(void *context, const char *name, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
	struct hole *hole = context;
	(void)name;
	(void)offset;
	(void)error;
	for (size_t i = 0; i + 1 < count && !hole->ended; i += 2) {
		hole->ended = !(entries[i + 1] & LIBNBD_STATE_ZERO);
		hole->length += hole->ended ? 0 : entries[i];
	}
	return 0;
}

/* Where zeros that begin at source->at end. */
static uint64_t end_of_zeros(struct image_source *source)
{
	struct hole hole = { 0 };
	while (!hole.ended && source->at + hole.length < source->size) {
		uint64_t at = source->at + hole.length, left = source->size - at, before = hole.length;
		nbd_extent_callback callback = { .callback = on_extents, .user_data = &hole };
		if (nbd_block_status(source->nbd, left < HOLE_LOOK ? left : HOLE_LOOK, at, callback, 0) < 0 ||
			hole.length == before)
			break; /* not known: read as data */
	}
	return source->at + hole.length;
}

uint64_t image_source_skip(struct image_source *source, uint64_t unit)
{
	if (source->size == 0)
		return source->at;
	uint64_t data = source->at;
	if (source->nbd) {
		data = end_of_zeros(source);
	} else {
		off_t found = lseek(source->fd, (off_t)source->at, SEEK_DATA);
		if (found < 0 && errno == ENXIO)
			found = lseek(source->fd, 0, SEEK_END);
		data = found < 0 ? source->at : (uint64_t)found;
	}
	if (align_down(data, unit) > source->at)
		source->at = align_down(data, unit);
	if (!source->nbd)
		lseek(source->fd, (off_t)source->at, SEEK_SET);
	return source->at;
}
