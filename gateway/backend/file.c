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
 *     is opened again, and nothing but note_sync() may learn of it: there is no FUA of its own.
 *  3. The file is never shorter than geometry.size.
 *  4. Not direct: what is read is never half of a write. The page cache copies without regard for
 *     readers, so a request waits (`held`) for those on another thread (`running`) that touch the same
 *     bytes, if one of them changes them. Requests that are done at once cannot meet each other.
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
#include "backend/file-io.h"
#include "checked.h"
#include "cleanup.h"
#include "durable-file.h"
#include "json-fields.h"
#include "log.h"
#include "volume/volume.h"

enum mode { MODE_MEMORY, MODE_DIRECT, MODE_BUFFERED };
static const char *const mode_names[] = { "memory", "direct", "buffered" };

enum {
	INLINE_MAX = 1 << 20,       /* buffered: from here on a request would hold up the loop */
	APART_MIN = 256 << 10,      /* memory: while a thread copies, the loop has the next request */
	HOLE_SEARCH_MIN = 64 << 10, /* shorter reads are not worth a look for holes */
	ZERO_CHUNK = 1 << 20,       /* written at once where zeros have to be written */
	CALL_STATUS_EXTENTS = 1024,
	LOCK_TRIES = 50,
	LOCK_PAUSE_MS = 100,
};

struct file_backend {
	struct backend base;
	uv_loop_t *loop;
	struct file_io *engine;
	const char *volume;
	char *path;
	int fd;
	enum mode mode;
	bool read_only;
	bool may_have_holes;
	bool cannot_punch, cannot_zero_range;
	bool flush_lost; /* invariant 2 */
	uint64_t growing_to;
	struct list running, held; /* struct work.link; invariant 4 */
	struct file_operation resize;
	uv_timer_t lock_timer;
	unsigned lock_tries;
};

/* The backend's part of a request, in its scratch. */
struct work {
	struct file_operation operation;
	struct file_backend *file;
	uint64_t written; /* ZERO by writing: bytes done */
	struct list link; /* file_backend.running or .held */
	void *copy;       /* held: of what the caller lends only until submit() returns */
	bool is_running;
};
_Static_assert(sizeof(struct work) <= sizeof((struct backend_request *)0)->scratch, "scratch");

static struct file_backend *file_of(struct backend *backend)
{
	return container_of(backend, struct file_backend, base);
}

static struct work *work_of(struct backend_request *request)
{
	return (struct work *)request->scratch;
}

static struct backend_request *request_of(struct file_operation *operation)
{
	struct work *work = container_of(operation, struct work, operation);
	return container_of((uint64_t(*)[20])work, struct backend_request, scratch);
}

/* Never written to; not const so that it costs no room in the program file. */
static uint8_t zeros[ZERO_CHUNK] __attribute__((aligned(BACKEND_BUFFER_ALIGNMENT)));

/* Requests */

static void start(struct file_backend *file, struct backend_request *request,
	enum file_operation_kind kind, void (*done)(struct file_operation *, int64_t))
{
	struct work *work = work_of(request);
	work->file = file;
	work->written = 0;
	work->operation = (struct file_operation){
		.kind = kind,
		.fd = file->fd,
		.offset = request->offset,
		.length = request->length,
		.buffer = request->buffer,
		.done = done,
	};
}

static bool moves_bytes(const struct backend_request *request)
{
	return request->operation == BACKEND_READ || request->operation == BACKEND_WRITE ||
		request->operation == BACKEND_ZERO || request->operation == BACKEND_TRIM;
}

static void submit(struct backend_request *request)
{
	struct work *work = work_of(request);
	struct file_backend *file = work->file;
	if (file->mode != MODE_DIRECT && !work->is_running && moves_bytes(request)) {
		work->is_running = true;
		list_append(&file->running, &work->link);
	}
	file_io_submit(file->engine, &work->operation);
}

static bool collide(struct backend_request *a, struct backend_request *b)
{
	return a->offset < b->offset + b->length && b->offset < a->offset + a->length &&
		(a->operation != BACKEND_READ || b->operation != BACKEND_READ);
}

/* With one that runs, or one that was held before it: nobody is overtaken for ever. */
static bool must_wait(struct file_backend *file, struct backend_request *request)
{
	struct work *other;
	if (list_empty(&file->running) || !moves_bytes(request))
		return false;
	LIST_FOR_EACH(other, &file->running, link)
	{
		if (collide(request, request_of(&other->operation)))
			return true;
	}
	LIST_FOR_EACH(other, &file->held, link)
	{
		if (other == work_of(request))
			break;
		if (collide(request, request_of(&other->operation)))
			return true;
	}
	return false;
}

static void dispatch(struct file_backend *file, struct backend_request *request);

/* Each that is let go may end at once and change the lists, so it begins anew behind it. */
static void let_held_go(struct file_backend *file)
{
	struct work *work;
	bool went = true;
	while (went) {
		went = false;
		LIST_FOR_EACH(work, &file->held, link)
		{
			struct backend_request *request = request_of(&work->operation);
			if (must_wait(file, request))
				continue;
			void *copy = work->copy; /* what was lent is short, and so done at once */
			list_remove(&work->link);
			dispatch(file, request);
			free(copy);
			went = true;
			break;
		}
	}
}

/* The end of a request that went through the engine. */
static void finish(struct backend_request *request, int error)
{
	struct work *work = work_of(request);
	struct file_backend *file = work->file;
	bool was_running = work->is_running;
	if (was_running)
		list_remove(&work->link);
	bool others_wait = was_running && !list_empty(&file->held);
	request->done(request, error);
	if (others_wait) /* so the backend cannot have been closed */
		let_held_go(file);
}

/* A file that is shorter than it was when opened has been damaged by somebody else. */
static int64_t shrunk(struct file_backend *file)
{
	log_error("%s: %s: the file has become shorter: requests behind its end fail", file->volume,
		file->path);
	return -EIO;
}

static void on_transferred(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	if (result >= 0 && (uint64_t)result < request->length)
		result = shrunk(work_of(request)->file);
	finish(request, result < 0 ? (int)result : 0);
}

static void on_done(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	finish(request, result < 0 ? (int)result : 0);
}

/* Adds an extent, joined with the one before if it is of the same kind. False if there is no room. */
static bool add_extent(struct backend_request *request, uint64_t length, bool hole)
{
	struct backend_extent *last = request->extents + request->extents_count - 1;
	if (request->extents_count > 0 && last->hole == hole) {
		last->length += length;
		return true;
	}
	if (request->extents_count == request->extents_max)
		return false;
	request->extents[request->extents_count++] =
		(struct backend_extent){ .length = length, .hole = hole, .zero = hole };
	return true;
}

/* Splits the request's range into data and holes, whole blocks each. Returns how far it came. */
static int64_t find_extents(struct file_backend *file, struct backend_request *request)
{
	uint64_t block = file->base.geometry.block_min;
	uint64_t at = request->offset, end = request->offset + request->length;
	request->extents_count = 0;
	while (at < end) {
		off_t data = lseek(file->fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO) /* ENXIO: a hole up to the end */
			return -errno;
		uint64_t data_begins = data < 0 ? end : align_down((uint64_t)data, block);
		if (data_begins > end)
			data_begins = end;
		if (data_begins > at) {
			if (!add_extent(request, data_begins - at, true))
				break;
			at = data_begins;
			continue;
		}
		off_t hole = lseek(file->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		uint64_t data_ends = align_up((uint64_t)hole, block);
		if (data_ends > end || data_ends <= at)
			data_ends = end;
		if (!add_extent(request, data_ends - at, false))
			break;
		at = data_ends;
	}
	return (int64_t)(at - request->offset);
}

static int64_t call_status(struct file_operation *operation)
{
	return find_extents(work_of(request_of(operation))->file, request_of(operation));
}

/* Reads a part of the request's range that holds data. */
static int64_t read_part(struct backend_request *request, uint64_t from, uint64_t length)
{
	struct file_backend *file = work_of(request)->file;
	uint64_t done = 0;
	while (done < length) {
		ssize_t n = pread(file->fd, (char *)request->buffer + from + done, length - done,
			(off_t)(request->offset + from + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

/* READ that leaves out a hole at its beginning, which is what a long read of an empty region is.
 * Only SEEK_DATA is used: looking for the end of data costs time in proportion to the data. */
static int64_t read_behind_hole(struct backend_request *request)
{
	struct file_backend *file = work_of(request)->file;
	uint64_t end = request->offset + request->length;
	off_t data = lseek(file->fd, (off_t)request->offset, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return -errno;
	uint64_t begin = data < 0 || (uint64_t)data > end
		? end
		: align_down((uint64_t)data, file->base.geometry.block_min);
	uint64_t hole = begin > request->offset ? begin - request->offset : 0;
	int64_t status = hole < request->length ? read_part(request, hole, request->length - hole) : 0;
	if (status < 0)
		return status;
	if (hole > 0)
		add_extent(request, hole, true);
	if (hole > 0 && hole < request->length)
		add_extent(request, request->length - hole, false);
	return (int64_t)request->length;
}

static int64_t call_read_behind_hole(struct file_operation *operation)
{
	return read_behind_hole(request_of(operation));
}

/* Is the request short enough for the loop's own thread, where nothing has to be waited for? */
static bool is_done_at_once(const struct file_backend *file, const struct backend_request *request)
{
	return request->length < (file->mode == MODE_MEMORY ? APART_MIN : INLINE_MAX);
}

static void submit_read(struct file_backend *file, struct backend_request *request)
{
	request->extents_count = 0;
	bool may_begin_with_hole = file->may_have_holes && (request->flags & BACKEND_HOLES_WELCOME) &&
		request->length >= HOLE_SEARCH_MIN;
	if (may_begin_with_hole) {
		start(file, request, FILE_CALL, on_transferred);
		work_of(request)->operation.call = call_read_behind_hole;
		if (file->mode == MODE_MEMORY && is_done_at_once(file, request))
			on_transferred(&work_of(request)->operation, read_behind_hole(request));
		else
			submit(request);
		return;
	}
	if (is_done_at_once(file, request) && file->mode != MODE_DIRECT) {
		struct iovec part = { .iov_base = request->buffer, .iov_len = request->length };
		ssize_t n = file->mode == MODE_BUFFERED
			? preadv2(file->fd, &part, 1, (off_t)request->offset, RWF_NOWAIT)
			: pread(file->fd, request->buffer, request->length, (off_t)request->offset);
		if (n == (ssize_t)request->length) {
			request->done(request, 0);
			return;
		}
	}
	start(file, request, FILE_READ, on_transferred);
	work_of(request)->operation.apart = file->mode == MODE_MEMORY;
	submit(request);
}

static void submit_write(struct file_backend *file, struct backend_request *request)
{
	if (is_done_at_once(file, request) && file->mode == MODE_MEMORY) {
		uint64_t done = 0;
		ssize_t n = 0;
		while (done < request->length) {
			n = pwrite(file->fd, (char *)request->buffer + done, request->length - done,
				(off_t)(request->offset + done));
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				break;
			done += (uint64_t)n;
		}
		request->done(request, done == request->length ? 0 : n < 0 ? -errno : -EIO);
		return;
	}
	start(file, request, FILE_WRITE, on_transferred);
	if (request->flags & BACKEND_FUA)
		work_of(request)->operation.flags = RWF_DSYNC;
	work_of(request)->operation.apart = file->mode == MODE_MEMORY;
	submit(request);
}

/* The file has been synced, or that has failed: invariant 2. */
static void note_sync(struct file_backend *file, int64_t result)
{
	if (result == 0 || file->mode != MODE_BUFFERED || file->flush_lost)
		return;
	file->flush_lost = true;
	log_error("%s: %s: flush failed: %s: writes since the last flush may be lost; flushes fail "
			  "until the gateway is restarted",
		file->volume, file->path, strerror((int)-result));
}

static void on_flushed(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	note_sync(work_of(request)->file, result);
	request->done(request, (int)result);
}

static void submit_flush(struct file_backend *file, struct backend_request *request)
{
	if (file->mode == MODE_MEMORY || file->flush_lost) {
		request->done(request, file->flush_lost ? -EIO : 0);
		return;
	}
	start(file, request, FILE_SYNC, on_flushed);
	submit(request);
}

static void on_trimmed(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	if (result == -EOPNOTSUPP) /* allowed to do nothing */
		result = 0;
	finish(request, (int)result);
}

static void submit_trim(struct file_backend *file, struct backend_request *request)
{
	start(file, request, FILE_ALLOCATE, on_trimmed);
	work_of(request)->operation.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	file->may_have_holes = true;
	submit(request);
}

/* ZERO by writing zeros, a chunk after the other. */
static void write_zeros(struct backend_request *request)
{
	struct work *work = work_of(request);
	uint64_t left = request->length - work->written;
	work->operation.offset = request->offset + work->written;
	work->operation.length = left < ZERO_CHUNK ? left : ZERO_CHUNK;
	submit(request);
}

static void on_zeros_written(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	struct work *work = work_of(request);
	if (result > 0)
		work->written += (uint64_t)result;
	if (result > 0 && work->written < request->length)
		write_zeros(request);
	else
		finish(request, result < 0 ? (int)result : 0);
}

static void zero_slowly(struct file_backend *file, struct backend_request *request)
{
	if (request->flags & BACKEND_FAST_ZERO) {
		finish(request, -EOPNOTSUPP);
		return;
	}
	start(file, request, FILE_WRITE, on_zeros_written);
	work_of(request)->operation.buffer = zeros;
	write_zeros(request);
}

static void on_zeroed(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	struct file_backend *file = work_of(request)->file;
	if (result != -EOPNOTSUPP) {
		finish(request, (int)result);
		return;
	}
	if (request->flags & BACKEND_NO_HOLE)
		file->cannot_zero_range = true;
	else
		file->cannot_punch = true;
	zero_slowly(file, request);
}

static void submit_zero(struct file_backend *file, struct backend_request *request)
{
	bool keep = request->flags & BACKEND_NO_HOLE;
	if (keep ? file->cannot_zero_range : file->cannot_punch) {
		zero_slowly(file, request);
		return;
	}
	start(file, request, FILE_ALLOCATE, on_zeroed);
	work_of(request)->operation.flags =
		FALLOC_FL_KEEP_SIZE | (keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
	if (!keep)
		file->may_have_holes = true;
	submit(request);
}

static int64_t call_cache(struct file_operation *operation)
{
	return -posix_fadvise(operation->fd, (off_t)operation->offset, (off_t)operation->length,
		POSIX_FADV_WILLNEED);
}

static void submit_cache(struct file_backend *file, struct backend_request *request)
{
	if (file->mode != MODE_BUFFERED) { /* nothing to read ahead into */
		request->done(request, 0);
		return;
	}
	start(file, request, FILE_CALL, on_done);
	work_of(request)->operation.call = call_cache;
	submit(request);
}

static void submit_status(struct file_backend *file, struct backend_request *request)
{
	if (request->extents_max > CALL_STATUS_EXTENTS)
		request->extents_max = CALL_STATUS_EXTENTS;
	start(file, request, FILE_CALL, on_done);
	work_of(request)->operation.call = call_status;
	submit(request);
}

static void dispatch(struct file_backend *file, struct backend_request *request)
{
	switch (request->operation) {
	case BACKEND_READ:
		submit_read(file, request);
		break;
	case BACKEND_WRITE:
		submit_write(file, request);
		break;
	case BACKEND_FLUSH:
		submit_flush(file, request);
		break;
	case BACKEND_TRIM:
		submit_trim(file, request);
		break;
	case BACKEND_ZERO:
		submit_zero(file, request);
		break;
	case BACKEND_CACHE:
		submit_cache(file, request);
		break;
	case BACKEND_STATUS:
		submit_status(file, request);
		break;
	}
}

static void hold(struct file_backend *file, struct backend_request *request)
{
	struct work *work = work_of(request);
	work->copy = NULL;
	if (request->flags & BACKEND_BORROWED) {
		work->copy = malloc(request->length);
		if (!work->copy) {
			request->done(request, -ENOMEM);
			return;
		}
		memcpy(work->copy, request->buffer, request->length);
		request->buffer = work->copy;
	}
	list_append(&file->held, &work->link);
}

static void file_submit(struct backend *backend, struct backend_request *request)
{
	struct file_backend *file = file_of(backend);
	struct work *work = work_of(request);
	work->file = file;
	work->is_running = false;
	if (must_wait(file, request))
		hold(file, request);
	else
		dispatch(file, request);
}

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
static enum mode choose_mode(const struct config *config, int fd, uint64_t size, uint32_t *block_min)
{
	/* O_NONBLOCK was for opening only: io_uring would give up instead of waiting for the device. */
	int flags = fcntl(fd, F_GETFL) & ~O_NONBLOCK;
	fcntl(fd, F_SETFL, flags);
	*block_min = 1;
	if (is_memory_file(fd))
		return MODE_MEMORY;
	uint32_t alignment = direct_alignment(fd);
	if (config->direct == CONFIG_DIRECT_OFF || alignment == 0 || size % alignment != 0 ||
		alignment > BACKEND_BUFFER_ALIGNMENT || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
		return MODE_BUFFERED;
	*block_min = alignment;
	return MODE_DIRECT;
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
		.fua = file->mode != MODE_BUFFERED,
		.holes = true,
		.borrow_max = file->mode == MODE_MEMORY ? APART_MIN - 1 : 0, /* see is_done_at_once() */
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
static void file_activate(struct backend *backend, uint64_t generation)
{
	(void)generation;
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
	note_sync(file, result);
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
	uint64_t unit = file->mode == MODE_DIRECT ? file->base.geometry.block_min : 1;
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
