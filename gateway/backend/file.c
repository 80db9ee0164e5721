/* file.c: the embedded backend: a raw file on a local file system.
 *
 * How bytes move, decided when the file is opened ("mode" in tb4 status):
 *   memory    tmpfs or ramfs: nothing ever waits for a device, so short requests are done at once
 *             by pread and pwrite, which costs less than any hand-over; long ones are copied by the
 *             kernel's threads meanwhile.
 *   direct    O_DIRECT through the engine of file-io.h. No page cache, so no loss of dirty pages
 *             after a failed flush and no reclaim that waits for us.
 *   buffered  where the file system or the file's size does not allow O_DIRECT: reads that the page
 *             cache can answer are done at once (RWF_NOWAIT), all else goes through the engine.
 *
 * Invariants
 *  1. The file is locked (an open file description lock) from open to close. The kernel drops the
 *     lock only when the last reference to the open file is gone, that is after the last operation
 *     in flight, also after kill -9: no write of a dead gateway can land under its successor.
 *  2. Buffered: after a failed fdatasync the kernel may have dropped what it could not write and
 *     will say so only once, to whoever syncs first. So every later flush fails too, until the file
 *     is opened again, and nothing but file_note_sync() may learn of it: there is no FUA of its own.
 *  3. The file is never shorter than geometry.size.
 *
 * Here: opening, growing, closing, making and removing. file-requests.c has the requests, file-io.h the engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/backend-list.h"
#include "backend/file-internal.h"
#include "checked.h"
#include "cleanup.h"
#include "durable-file.h"
#include "json-fields.h"
#include "log.h"
#include "volume/volume.h"

static const char *const mode_names[] = { "memory", "direct", "buffered" }; /* enum file_mode */

enum { LOCK_TRIES = 50, LOCK_PAUSE_MS = 100 };

/* Opening */

/* Offsets, lengths and addresses of O_DIRECT are multiples of this; 0 if the file has no O_DIRECT. */
static uint32_t direct_alignment(int fd)
{
	struct statx st;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 && (st.stx_mask & STATX_DIOALIGN)) {
		if (st.stx_dio_mem_align > BACKEND_BUFFER_ALIGNMENT)
			return 0;
		return st.stx_dio_offset_align;
	}
	return 4096; /* a kernel before 6.1 does not tell; no usual device needs more */
}

static bool is_memory_file(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* Chooses the mode, switching O_DIRECT on if that is it, and the smallest request. */
static enum file_mode choose_mode(const struct config *config, int fd, uint64_t size, uint32_t *block_min)
{
	/* O_NONBLOCK was for opening only: io_uring would give up instead of waiting for the device. */
	int flags = fcntl(fd, F_GETFL) & ~O_NONBLOCK;
	fcntl(fd, F_SETFL, flags);
	*block_min = 1;
	if (is_memory_file(fd))
		return FILE_MODE_MEMORY;
	uint32_t alignment = direct_alignment(fd);
	if (config->direct == CONFIG_DIRECT_OFF || alignment == 0 || size % alignment != 0 ||
		alignment > BACKEND_BUFFER_ALIGNMENT || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
		return FILE_MODE_BUFFERED;
	*block_min = alignment;
	return FILE_MODE_DIRECT;
}

/* Punching behind the end of the file changes nothing but tells whether the file system can. */
static bool can_punch(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 &&
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (st.st_size + 4095) & ~4095L,
			4096) == 0;
}

static void fill_geometry(struct file_backend *file, const struct volume *volume, uint32_t block_min)
{
	bool punch = !file->read_only && can_punch(file->fd);
	file->base.geometry = (struct backend_geometry){
		.size = volume->size,
		.block_min = block_min,
		.block_preferred = 64 << 10,
		.trim = punch,
		.zero = true,
		.fast_zero = punch,
		.cache = true,
		.status = true,
		.fua = file->mode != FILE_MODE_BUFFERED,
		.holes = true,
		.borrow_max = file->mode == FILE_MODE_MEMORY ? FILE_APART_MIN - 1 : 0, /* see is_done_at_once() */
	};
	if (file->base.geometry.block_preferred < block_min)
		file->base.geometry.block_preferred = block_min;
}

static void finish_open(struct file_backend *file, int error, const struct reason *reason)
{
	file->base.events.step(file->base.events.context, BACKEND_OPENED, error, reason);
}

static int try_lock(struct file_backend *file)
{
	struct flock lock = { .l_type = file->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	return fcntl(file->fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* A predecessor that was killed holds the lock until its last request has ended. */
static void on_lock_timer(uv_timer_t *timer)
{
	struct file_backend *file = timer->data;
	int status = try_lock(file);
	if ((status == -EAGAIN || status == -EACCES) && ++file->lock_tries < LOCK_TRIES) {
		uv_timer_start(timer, on_lock_timer, LOCK_PAUSE_MS, 0);
		return;
	}
	struct reason reason = { 0 };
	if (status == -EAGAIN || status == -EACCES)
		status = reason_set(&reason, -EBUSY,
			"%s: another program has %s locked: see who with: lslocks, fuser -v %s", file->volume,
			file->path, file->path);
	else if (status < 0)
		reason_set(&reason, status, "%s: cannot lock %s: %s", file->volume, file->path,
			strerror(-status));
	finish_open(file, status, &reason);
}

static int open_image(struct file_backend *file, const struct config *config,
	const struct volume *volume, struct reason *reason)
{
	file->path = strdup(volume->image);
	if (!file->path)
		return reason_set(reason, -ENOMEM, "out of memory");
	file->fd = open(file->path, (volume->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	if (file->fd < 0 || fstat(file->fd, &st) < 0)
		return reason_set(reason, -errno, "%s: %s: %m", volume->name, file->path);
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: %s: not a regular file", volume->name, file->path);
	if ((uint64_t)st.st_size < volume->size)
		return reason_set(reason, -EBADMSG,
			"%s: %s has %lld bytes, fewer than the %llu of the volume: restore it, or correct size in %s",
			volume->name, file->path, (long long)st.st_size, (unsigned long long)volume->size,
			volume->path);
	uint32_t block_min;
	file->mode = choose_mode(config, file->fd, volume->size, &block_min);
	file->may_have_holes = (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size;
	fill_geometry(file, volume, block_min);
	return 0;
}

static void free_file(struct file_backend *file)
{
	cleanup_close(&file->fd);
	free(file->path);
	free(file);
}

static int file_open(uv_loop_t *loop, const struct config *config, const struct volume *volume,
	const struct backend_events *events, struct backend **out, struct reason *reason)
{
	struct file_backend *file = calloc(1, sizeof *file);
	if (!file)
		return reason_set(reason, -ENOMEM, "out of memory");
	file->base.operations = &file_backend_operations;
	file->base.events = *events;
	file->loop = loop;
	file->volume = volume->name;
	file->read_only = volume->read_only;
	file->fd = -1;
	list_init(&file->running);
	list_init(&file->held);
	int status = open_image(file, config, volume, reason);
	if (status == 0)
		status = file_io_open(loop, &file->engine, reason);
	if (status < 0) {
		free_file(file);
		return status;
	}
	uv_timer_init(loop, &file->lock_timer);
	file->lock_timer.data = file;
	*out = &file->base;
	on_lock_timer(&file->lock_timer);
	return 0;
}

/* There is nobody to tell the generation to: the lock is what keeps others out. */
static void file_activate(struct backend *backend, const struct backend_activation *activation)
{
	(void)activation;
	backend->events.step(backend->events.context, BACKEND_ACTIVATED, 0, NULL);
}

static int64_t call_sync(struct file_operation *operation)
{
	return fsync(operation->fd) < 0 ? -errno : 0;
}

/* The image may be larger than the volume: it is never cut. */
static int64_t call_grow(struct file_operation *operation)
{
	struct stat st;
	if (fstat(operation->fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < operation->length &&
			ftruncate(operation->fd, (off_t)operation->length) < 0
		? -errno
		: 0;
}

static void end_resize(struct file_backend *file, int64_t result)
{
	struct reason reason = { 0 };
	if (result < 0)
		reason_set(&reason, (int)result, "%s: cannot grow %s: %s", file->volume, file->path,
			strerror((int)-result));
	else
		file->base.geometry.size = file->growing_to;
	file->may_have_holes = true;
	file->base.events.step(file->base.events.context, BACKEND_RESIZED, (int)result, &reason);
}

static void on_resize_synced(struct file_operation *operation, int64_t result)
{
	struct file_backend *file = container_of(operation, struct file_backend, resize);
	file_note_sync(file, result);
	end_resize(file, result);
}

static void on_grown(struct file_operation *operation, int64_t result)
{
	struct file_backend *file = container_of(operation, struct file_backend, resize);
	if (result < 0) {
		end_resize(file, result);
		return;
	}
	file->resize.call = call_sync;
	file->resize.done = on_resize_synced;
	file_io_submit(file->engine, &file->resize);
}

static void file_resize(struct backend *backend, uint64_t size)
{
	struct file_backend *file = file_of(backend);
	struct reason reason;
	uint64_t unit = file->mode == FILE_MODE_DIRECT ? file->base.geometry.block_min : 1;
	if (size < backend->geometry.size || !is_aligned(size, unit)) {
		int status = reason_set(&reason, -EINVAL, "%s: the new size must be larger and a multiple of %llu",
			file->volume, (unsigned long long)unit);
		backend->events.step(backend->events.context, BACKEND_RESIZED, status, &reason);
		return;
	}
	file->growing_to = size;
	file->resize = (struct file_operation){
		.kind = FILE_CALL,
		.fd = file->fd,
		.length = size,
		.call = call_grow,
		.done = on_grown,
	};
	file_io_submit(file->engine, &file->resize);
}

static void on_deactivated(struct file_operation *operation, int64_t result)
{
	struct file_backend *file = container_of(operation, struct file_backend, resize);
	struct reason reason = { 0 };
	if (result == 0 && file->flush_lost)
		result = -EIO;
	if (result < 0)
		reason_set(&reason, (int)result, "%s: %s: the last flush failed: %s", file->volume,
			file->path, strerror((int)-result));
	file->base.events.step(file->base.events.context, BACKEND_DEACTIVATED, (int)result, &reason);
}

static void file_deactivate(struct backend *backend)
{
	struct file_backend *file = file_of(backend);
	file->resize = (struct file_operation){
		.kind = FILE_CALL,
		.fd = file->fd,
		.call = call_sync,
		.done = on_deactivated,
	};
	file_io_submit(file->engine, &file->resize);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct file_backend *file = handle->data;
	struct backend_events events = file->base.events;
	file_io_close(file->engine);
	free_file(file);
	events.step(events.context, BACKEND_CLOSED, 0, NULL);
}

static void file_close(struct backend *backend)
{
	uv_close((uv_handle_t *)&file_of(backend)->lock_timer, on_timer_closed);
}

static void file_status(struct backend *backend, struct json_object *object)
{
	struct file_backend *file = file_of(backend);
	json_add_text(object, "image", file->path);
	json_add_text(object, "mode", mode_names[file->mode]);
	json_add_text(object, "engine", file_io_kind(file->engine));
	json_add_switch(object, "flush_lost", file->flush_lost);
}

/* Making and removing images */

static int fill_image(int fd, const struct volume *volume, struct reason *reason)
{
	struct statfs fs;
	char size[SIZE_TEXT_MAX];
	if (ftruncate(fd, (off_t)volume->size) < 0 || fsync(fd) < 0)
		return reason_set(reason, -errno, "%s: cannot make %s %s large: %m", volume->name,
			volume->image, size_format(volume->size, size));
	if (fstatfs(fd, &fs) == 0 && (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < volume->size)
		log_warning("%s: %s is thin: its file system has less room left than %s", volume->name,
			volume->image, size_format(volume->size, size));
	return 0;
}

/* Is this what a create that was killed may have left? Then there is nothing to lose in it. */
static bool is_blank_image(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_blocks == 0 &&
		lseek(fd, 0, SEEK_DATA) < 0 && errno == ENXIO;
}

static int file_create(const struct config *config, const struct volume *volume, struct reason *reason)
{
	int status = strncmp(volume->image, config->data_dir, strlen(config->data_dir)) == 0
		? make_directory(config->data_dir, reason)
		: 0;
	if (status < 0)
		return status;
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
	CLEANUP_CLOSE int fd = open(volume->image, flags | O_CREAT | O_EXCL, 0600);
	if (fd < 0 && errno == EEXIST) {
		fd = open(volume->image, flags | O_NONBLOCK);
		if (fd >= 0 && !is_blank_image(fd))
			return reason_set(reason, -EEXIST, "%s: %s: exists already, and no volume file names it",
				volume->name, volume->image);
	}
	if (fd < 0)
		return reason_set(reason, -errno, "%s: %s: %m", volume->name, volume->image);
	status = fill_image(fd, volume, reason);
	if (status < 0)
		unlink(volume->image);
	return status;
}

static int file_destroy(const struct config *config, const struct volume *volume, struct reason *reason)
{
	struct stat st;
	(void)config;
	if (lstat(volume->image, &st) == 0 && !S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: %s: not a regular file, and so not deleted", volume->name,
			volume->image);
	return durable_file_remove(volume->image, reason);
}

const struct backend_operations file_backend_operations = {
	.name = "file",
	.open = file_open,
	.activate = file_activate,
	.submit = file_submit,
	.resize = file_resize,
	.deactivate = file_deactivate,
	.close = file_close,
	.status = file_status,
	.create = file_create,
	.destroy = file_destroy,
};
