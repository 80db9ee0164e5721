#include "cli/copy.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "cleanup.h"
#include "cli/progress.h"

/* Invariant: a slot is idle, or its request is with the backend. The loop is run only to wait. */
enum { SLOTS = 8, SLOT_SIZE = 1 << 20, PIECE = 64 << 10, STATUS_EXTENTS = 512, ZERO_STEP = 1 << 30 };

struct slot {
	struct backend_request request;
	struct copy *copy;
	uint8_t *buffer;
	bool is_busy;
};

struct copy {
	struct copy_job *job;
	struct slot slots[SLOTS];
	uint8_t *buffers;
	int error; /* the first of a request */
	bool is_undo; /* goes on after a signal */
	struct progress progress;
};

/* What requests are multiples of, and what an image's end is filled up to. */
static uint64_t unit_of(const struct copy *copy)
{
	uint32_t block = copy->job->offline->backend->geometry.block_min;
	return block < VOLUME_SECTOR ? VOLUME_SECTOR : block;
}

static int copy_start(struct copy *copy, struct copy_job *job, const char *what)
{
	*copy = (struct copy){ .job = job };
	copy->buffers = mmap(NULL, (size_t)SLOTS * SLOT_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (copy->buffers == MAP_FAILED)
		return -ENOMEM;
	for (unsigned i = 0; i < SLOTS; i++) {
		copy->slots[i].copy = copy;
		copy->slots[i].buffer = copy->buffers + (size_t)i * SLOT_SIZE;
	}
	progress_start(&copy->progress, what, job->source_size);
	return 0;
}

static void copy_end(struct copy *copy)
{
	progress_end(&copy->progress);
	munmap(copy->buffers, (size_t)SLOTS * SLOT_SIZE);
}

static void on_done(struct backend_request *request, int error)
{
	struct slot *slot = container_of(request, struct slot, request);
	slot->is_busy = false;
	if (error && slot->copy->error == 0)
		slot->copy->error = error;
}

/* `from`: where in the slot's buffer the bytes begin. */
static void submit(struct slot *slot, enum backend_operation operation, uint64_t offset, uint64_t length,
	size_t from)
{
	struct backend *backend = slot->copy->job->offline->backend;
	slot->is_busy = true;
	slot->request.operation = operation;
	slot->request.flags = 0;
	slot->request.offset = offset;
	slot->request.length = length;
	slot->request.buffer = slot->buffer + from;
	slot->request.extents_max = 0;
	slot->request.done = on_done;
	backend->operations->submit(backend, &slot->request);
}

static void wait_for(struct slot *slot)
{
	while (slot->is_busy && uv_run(&slot->copy->job->offline->loop, UV_RUN_ONCE))
		;
}

/* Waits for all requests. Returns the first error. */
static int wait_for_all(struct copy *copy)
{
	for (unsigned i = 0; i < SLOTS; i++)
		wait_for(&copy->slots[i]);
	return copy->error;
}

/* One request, behind all others, waited for. */
static int do_one(struct copy *copy, enum backend_operation operation, uint64_t offset, uint64_t length)
{
	int status = wait_for_all(copy);
	if (status < 0)
		return status;
	submit(&copy->slots[0], operation, offset, length, 0);
	return wait_for_all(copy);
}

static int io_error(const struct copy *copy, int error, struct reason *reason)
{
	if (error == -EINTR)
		return reason_set(reason, error, "interrupted");
	return reason_set(reason, error, "%s: %s", copy->job->offline->volume->name, strerror(-error));
}

static int file_error(const struct copy *copy, int error, struct reason *reason)
{
	if (error == -EINTR)
		return reason_set(reason, error, "interrupted");
	return reason_set(reason, error, "%s: %s", copy->job->path, strerror(-error));
}

/* Import */

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

/* Zeros for [from, to): nothing to do on a blank volume. */
static int put_zeros(struct copy *copy, uint64_t from, uint64_t to)
{
	int status = copy->error;
	for (; status == 0 && !copy->job->is_blank && from < to; from += ZERO_STEP) {
		if (was_interrupted() && !copy->is_undo)
			return -EINTR;
		status = do_one(copy, BACKEND_ZERO, from, to - from < ZERO_STEP ? to - from : ZERO_STEP);
	}
	return status;
}

/* Narrows [*begin, *end) by the pieces of zeros at both sides. */
static void trim_zeros(const uint8_t *bytes, size_t *begin, size_t *end)
{
	while (*begin < *end) {
		size_t piece = *end - *begin < PIECE ? *end - *begin : PIECE;
		if (!is_zero(bytes + *begin, piece))
			break;
		*begin += piece;
	}
	while (*begin < *end) {
		size_t piece_at = align_down(*end - 1, PIECE);
		if (!is_zero(bytes + piece_at, *end - piece_at))
			break;
		*end = piece_at;
	}
}

/* Takes the block at `at`, of which `length` bytes were read into the slot, to the volume. */
static int put_block(struct copy *copy, struct slot *slot, uint64_t at, size_t length)
{
	size_t padded = align_up(length, unit_of(copy));
	if (padded > copy->job->size - at)
		return -EFBIG;
	memset(slot->buffer + length, 0, padded - length);
	size_t begin = 0, end = padded;
	trim_zeros(slot->buffer, &begin, &end);
	int status = put_zeros(copy, at, at + begin);
	if (status == 0)
		status = put_zeros(copy, at + end, at + padded);
	if (status < 0 || begin == end)
		return status;
	submit(slot, BACKEND_WRITE, at + begin, end - begin, begin);
	return copy->error;
}

static int copy_in_blocks(struct copy *copy, uint64_t *end, struct reason *reason)
{
	struct copy_job *job = copy->job;
	uint64_t at = 0;
	for (unsigned turn = 0;; turn++) {
		struct slot *slot = &copy->slots[turn % SLOTS];
		uint64_t next = image_source_skip(job->source, SLOT_SIZE);
		if (next > job->size)
			return reason_set(reason, -EFBIG, "%s: larger than the volume", job->path);
		int status = put_zeros(copy, at, next);
		at = next;
		wait_for(slot);
		ssize_t n = status < 0 ? 0 : image_source_read(job->source, slot->buffer, SLOT_SIZE);
		if (n < 0)
			return file_error(copy, (int)n, reason);
		if (status == 0 && n > 0 && at == job->size)
			status = -EFBIG;
		if (status == 0 && n > 0)
			status = put_block(copy, slot, at, (size_t)n);
		if (status == -EFBIG)
			return reason_set(reason, status, "%s: larger than the volume", job->path);
		if (status < 0)
			return io_error(copy, status, reason);
		at += (uint64_t)n;
		progress_show(&copy->progress, at);
		if (n < SLOT_SIZE)
			break;
	}
	*end = align_up(at, unit_of(copy));
	return 0;
}

int copy_in(struct copy_job *job, struct reason *reason)
{
	struct copy copy;
	uint64_t end = 0;
	int status = copy_start(&copy, job, "import");
	if (status < 0)
		return reason_set(reason, status, "out of memory");
	status = copy_in_blocks(&copy, &end, reason);
	if (status == 0) {
		status = put_zeros(&copy, end, job->size);
		if (status == 0)
			status = do_one(&copy, BACKEND_FLUSH, 0, 0);
		if (status < 0)
			io_error(&copy, status, reason);
	}
	wait_for_all(&copy);
	copy_end(&copy);
	return status;
}

/* Export */

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = was_interrupted() ? -1 : write(fd, bytes, length);
		if (n < 0 && (was_interrupted() || errno != EINTR))
			return was_interrupted() ? -EINTR : -errno;
		if (n > 0) {
			bytes += n;
			length -= (size_t)n;
		}
	}
	return 0;
}

/* Writes one slot's bytes; pieces of zeros become holes in a fresh file. */
static int write_slot(int fd, bool is_fresh, const uint8_t *bytes, size_t length)
{
	if (!is_fresh)
		return write_all(fd, bytes, length);
	int status = was_interrupted() ? -EINTR : 0;
	for (size_t at = 0, piece; status == 0 && at < length; at += piece) {
		piece = length - at < PIECE ? length - at : PIECE;
		if (!is_zero(bytes + at, piece))
			status = write_all(fd, bytes + at, piece);
		else if (lseek(fd, (off_t)piece, SEEK_CUR) < 0)
			status = -errno;
	}
	return status;
}

static void read_ahead(struct copy *copy, uint64_t index)
{
	uint64_t at = index * SLOT_SIZE;
	if (at >= copy->job->size)
		return;
	uint64_t left = copy->job->size - at;
	submit(&copy->slots[index % SLOTS], BACKEND_READ, at, left < SLOT_SIZE ? left : SLOT_SIZE,
		0);
}

static int copy_out_blocks(struct copy *copy, struct reason *reason)
{
	struct copy_job *job = copy->job;
	for (uint64_t i = 0; i < SLOTS; i++)
		read_ahead(copy, i);
	for (uint64_t i = 0; i * SLOT_SIZE < job->size; i++) {
		struct slot *slot = &copy->slots[i % SLOTS];
		wait_for(slot);
		if (copy->error)
			return io_error(copy, copy->error, reason);
		int status = write_slot(job->fd, job->is_fresh, slot->buffer, slot->request.length);
		if (status < 0)
			return file_error(copy, status, reason);
		progress_show(&copy->progress, i * SLOT_SIZE + slot->request.length);
		read_ahead(copy, i + SLOTS);
	}
	return 0;
}

int copy_out(struct copy_job *job, struct reason *reason)
{
	struct copy copy;
	struct stat st;
	int status = copy_start(&copy, job, "export");
	if (status < 0)
		return reason_set(reason, status, "out of memory");
	bool is_regular = fstat(job->fd, &st) == 0 && S_ISREG(st.st_mode);
	status = copy_out_blocks(&copy, reason);
	wait_for_all(&copy);
	if (status == 0 && is_regular &&
		((job->is_fresh && ftruncate(job->fd, (off_t)job->size) < 0) || fsync(job->fd) < 0))
		status = file_error(&copy, -errno, reason);
	copy_end(&copy);
	return status;
}

/* Blankness */

/* Reads a range that may hold data. 1: it is zeros, 0: it is not, or an errno. */
static int range_is_zero(struct copy *copy, uint64_t from, uint64_t to)
{
	uint64_t count = (to - from + SLOT_SIZE - 1) / SLOT_SIZE;
	int zero = 1;
	for (uint64_t i = 0; i < count + SLOTS && zero == 1; i++) {
		struct slot *slot = &copy->slots[i % SLOTS];
		uint64_t at = from + i * SLOT_SIZE;
		wait_for(slot);
		if (was_interrupted() || copy->error)
			zero = was_interrupted() ? -EINTR : copy->error;
		else if (i >= SLOTS && i - SLOTS < count && !is_zero(slot->buffer, slot->request.length))
			zero = 0;
		else if (i < count)
			submit(slot, BACKEND_READ, at, to - at < SLOT_SIZE ? to - at : SLOT_SIZE, 0);
		if (zero == 1 && i >= SLOTS)
			progress_show(&copy->progress, at - (uint64_t)SLOTS * SLOT_SIZE);
	}
	int status = wait_for_all(copy);
	return zero == 1 && status < 0 ? status : zero;
}

int copy_is_blank(struct offline *offline, struct reason *reason)
{
	struct backend *backend = offline->backend;
	uint64_t size = backend->geometry.size;
	struct copy_job job = { .offline = offline, .source_size = size };
	struct copy copy;
	CLEANUP_FREE struct backend_extent *extents = calloc(STATUS_EXTENTS, sizeof *extents);
	if (!backend->geometry.status)
		return 0;
	if (!extents || copy_start(&copy, &job, "check") < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	struct backend_request *request = &copy.slots[0].request;
	int blank = 1;
	for (uint64_t at = 0; at < size && blank == 1;) {
		copy.slots[0].is_busy = true;
		*request = (struct backend_request){
			.operation = BACKEND_STATUS,
			.offset = at,
			.length = size - at,
			.extents = extents,
			.extents_max = STATUS_EXTENTS,
			.done = on_done,
		};
		backend->operations->submit(backend, request);
		blank = wait_for_all(&copy);
		blank = blank == 0 ? 1 : blank;
		size_t extents_count = request->extents_count;
		for (size_t i = 0; blank == 1 && i < extents_count; i++) {
			if (!extents[i].zero) /* data, or not known */
				blank = range_is_zero(&copy, at, at + extents[i].length);
			at += extents[i].length;
		}
	}
	if (blank < 0)
		io_error(&copy, blank, reason);
	copy_end(&copy);
	return blank;
}

int copy_blank(struct offline *offline, struct reason *reason)
{
	struct copy_job job = { .offline = offline };
	struct copy copy;
	if (copy_start(&copy, &job, "") < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	copy.is_undo = true;
	int status = put_zeros(&copy, 0, offline->backend->geometry.size);
	if (status == 0)
		status = do_one(&copy, BACKEND_FLUSH, 0, 0);
	if (status < 0)
		io_error(&copy, status, reason);
	copy_end(&copy);
	return status;
}
