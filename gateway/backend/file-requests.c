/* file-requests.c: the requests of the file backend, while it is open.
 *
 * Invariants
 *  1. Not direct: what is read is never half of a write. The page cache copies without regard for
 *     readers, so a request waits (`held`) for those on another thread (`running`) that touch the same
 *     bytes, if one of them changes them. Requests that are done at once cannot meet each other.
 *  2. A request is in at most one of `running` and `held`, and in neither when its done() is called.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/file-internal.h"
#include "checked.h"
#include "log.h"

enum {
	INLINE_MAX = 1 << 20,       /* buffered: from here on a request would hold up the loop */
	HOLE_SEARCH_MIN = 64 << 10, /* shorter reads are not worth a look for holes */
	ZERO_CHUNK = 1 << 20,       /* written at once where zeros have to be written */
	CALL_STATUS_EXTENTS = 1024,
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
	if (file->mode != FILE_MODE_DIRECT && !work->is_running && moves_bytes(request)) {
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
	return request->length < (file->mode == FILE_MODE_MEMORY ? FILE_APART_MIN : INLINE_MAX);
}

static void submit_read(struct file_backend *file, struct backend_request *request)
{
	request->extents_count = 0;
	bool may_begin_with_hole = file->may_have_holes && (request->flags & BACKEND_HOLES_WELCOME) &&
		request->length >= HOLE_SEARCH_MIN;
	if (may_begin_with_hole) {
		start(file, request, FILE_CALL, on_transferred);
		work_of(request)->operation.call = call_read_behind_hole;
		if (file->mode == FILE_MODE_MEMORY && is_done_at_once(file, request))
			on_transferred(&work_of(request)->operation, read_behind_hole(request));
		else
			submit(request);
		return;
	}
	if (is_done_at_once(file, request) && file->mode != FILE_MODE_DIRECT) {
		struct iovec part = { .iov_base = request->buffer, .iov_len = request->length };
		ssize_t n = file->mode == FILE_MODE_BUFFERED
			? preadv2(file->fd, &part, 1, (off_t)request->offset, RWF_NOWAIT)
			: pread(file->fd, request->buffer, request->length, (off_t)request->offset);
		if (n == (ssize_t)request->length) {
			request->done(request, 0);
			return;
		}
	}
	start(file, request, FILE_READ, on_transferred);
	work_of(request)->operation.apart = file->mode == FILE_MODE_MEMORY;
	submit(request);
}

static void submit_write(struct file_backend *file, struct backend_request *request)
{
	if (is_done_at_once(file, request) && file->mode == FILE_MODE_MEMORY) {
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
	work_of(request)->operation.apart = file->mode == FILE_MODE_MEMORY;
	submit(request);
}

void file_note_sync(struct file_backend *file, int64_t result)
{
	if (result == 0 || file->mode != FILE_MODE_BUFFERED || file->flush_lost)
		return;
	file->flush_lost = true;
	log_error("%s: %s: flush failed: %s: writes since the last flush may be lost; flushes fail "
			  "until the gateway is restarted",
		file->volume, file->path, strerror((int)-result));
}

static void on_flushed(struct file_operation *operation, int64_t result)
{
	struct backend_request *request = request_of(operation);
	file_note_sync(work_of(request)->file, result);
	request->done(request, (int)result);
}

static void submit_flush(struct file_backend *file, struct backend_request *request)
{
	if (file->mode == FILE_MODE_MEMORY || file->flush_lost) {
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
	if (file->mode != FILE_MODE_BUFFERED) { /* nothing to read ahead into */
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

void file_submit(struct backend *backend, struct backend_request *request)
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
