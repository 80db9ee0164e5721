#include "backend/file-io.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"

/* Invariants
 *  1. Every operation is in exactly one place: in the ring, in `waiting`, or on a worker thread.
 *  2. `waiting` is not empty only while the ring is full; completions refill the ring.
 *  3. Between two waits of the loop all prepared entries have been submitted (on_prepare), or `retry`
 *     runs.
 */
enum { RING_ENTRIES = 256, OPERATION_CHUNK = 1 << 30, RETRY_MS = 10 };

struct file_io {
	uv_loop_t *loop;
	struct io_uring ring;
	bool has_ring;
	unsigned unsubmitted, in_ring;
	struct list waiting;
	uv_poll_t poll;
	uv_prepare_t prepare;
	uv_timer_t retry;
	unsigned open_handles;
};

const char *file_io_kind(const struct file_io *engine)
{
	return engine->has_ring ? "io_uring" : "threads";
}

/* Worker threads: for CALL always, for the rest where there is no ring. */

struct work {
	uv_work_t request;
	struct file_operation *operation;
};

static int64_t transfer(struct file_operation *operation)
{
	bool reading = operation->kind == FILE_READ;
	while (operation->finished < operation->length) {
		struct iovec part = {
			.iov_base = (char *)operation->buffer + operation->finished,
			.iov_len = operation->length - operation->finished,
		};
		off_t at = (off_t)(operation->offset + operation->finished);
		ssize_t n = reading ? preadv2(operation->fd, &part, 1, at, 0)
							: pwritev2(operation->fd, &part, 1, at, operation->flags);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return reading ? (int64_t)operation->finished : -EIO;
		operation->finished += (uint64_t)n;
	}
	return (int64_t)operation->finished;
}

static int64_t run_blocking(struct file_operation *operation)
{
	switch (operation->kind) {
	case FILE_READ:
	case FILE_WRITE:
		return transfer(operation);
	case FILE_SYNC:
		return fdatasync(operation->fd) < 0 ? -errno : 0;
	case FILE_ALLOCATE:
		return fallocate(operation->fd, operation->flags, (off_t)operation->offset,
				   (off_t)operation->length) < 0
			? -errno
			: 0;
	case FILE_CALL:
		return operation->call(operation);
	}
	return -EINVAL;
}

static void on_work(uv_work_t *request)
{
	struct file_operation *operation = container_of(request, struct work, request)->operation;
	operation->result = run_blocking(operation);
}

static void on_work_done(uv_work_t *request, int status)
{
	struct work *work = container_of(request, struct work, request);
	struct file_operation *operation = work->operation;
	free(work);
	operation->done(operation, status < 0 ? status : operation->result);
}

static void submit_to_thread(struct file_io *engine, struct file_operation *operation)
{
	struct work *work = malloc(sizeof *work);
	if (!work) {
		operation->done(operation, -ENOMEM);
		return;
	}
	work->operation = operation;
	int status = uv_queue_work(engine->loop, &work->request, on_work, on_work_done);
	if (status < 0) {
		free(work);
		operation->done(operation, status);
	}
}

/* The ring */

static void prepare_entry(struct io_uring_sqe *entry, struct file_operation *operation)
{
	uint64_t left = operation->length - operation->finished;
	unsigned chunk = left > OPERATION_CHUNK ? OPERATION_CHUNK : (unsigned)left;
	void *buffer = (char *)operation->buffer + operation->finished;
	uint64_t at = operation->offset + operation->finished;
	switch (operation->kind) {
	case FILE_READ:
		io_uring_prep_read(entry, operation->fd, buffer, chunk, at);
		break;
	case FILE_WRITE:
		io_uring_prep_write(entry, operation->fd, buffer, chunk, at);
		entry->rw_flags = operation->flags;
		break;
	case FILE_SYNC:
		io_uring_prep_fsync(entry, operation->fd, IORING_FSYNC_DATASYNC);
		break;
	case FILE_ALLOCATE:
		/* not by io_uring_prep_fallocate(): before liburing 2.4 its length was an off_t cut to int */
		io_uring_prep_rw(IORING_OP_FALLOCATE, entry, operation->fd,
			(const void *)(uintptr_t)operation->length, (unsigned)operation->flags,
			operation->offset);
		break;
	case FILE_CALL:
		io_uring_prep_nop(entry);
		break;
	}
	if (operation->apart)
		io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
	io_uring_sqe_set_data(entry, operation);
}

static void submit_to_ring(struct file_io *engine, struct file_operation *operation)
{
	struct io_uring_sqe *entry =
		engine->in_ring < RING_ENTRIES ? io_uring_get_sqe(&engine->ring) : NULL;
	if (!entry) {
		list_append(&engine->waiting, &operation->link);
		return;
	}
	prepare_entry(entry, operation);
	if (engine->in_ring++ == 0)
		uv_ref((uv_handle_t *)&engine->poll); /* work in flight keeps the loop alive */
	engine->unsubmitted++;
}

static void on_retry(uv_timer_t *timer)
{
	(void)timer; /* on_prepare() follows */
}

/* Before the loop waits. An error leaves the entries where they are; the next turn tries again, and
 * with EAGAIN or EBUSY the kernel has said that it lacks memory or that completions must be taken
 * first. There may be none to come, so a timer sees to it that there is a next turn. */
static void on_prepare(uv_prepare_t *prepare)
{
	struct file_io *engine = prepare->data;
	if (engine->unsubmitted == 0)
		return;
	int n = io_uring_submit(&engine->ring);
	if (n >= 0)
		engine->unsubmitted -= (unsigned)n < engine->unsubmitted ? (unsigned)n : engine->unsubmitted;
	else if (n != -EAGAIN && n != -EBUSY && n != -EINTR)
		log_error("io_uring: cannot submit: %s", uv_strerror(n));
	if (engine->unsubmitted > 0)
		uv_timer_start(&engine->retry, on_retry, RETRY_MS, 0);
}

/* Goes on with a transfer that was cut short. False if the operation is finished. */
static bool resume(struct file_io *engine, struct file_operation *operation, int result)
{
	if (operation->kind != FILE_READ && operation->kind != FILE_WRITE)
		return false;
	if (result == -EINTR || result == -EAGAIN) {
		submit_to_ring(engine, operation);
		return true;
	}
	if (result <= 0)
		return false;
	operation->finished += (unsigned)result;
	if (operation->finished >= operation->length)
		return false;
	submit_to_ring(engine, operation);
	return true;
}

static void finish(struct file_operation *operation, int result)
{
	bool transfers = operation->kind == FILE_READ || operation->kind == FILE_WRITE;
	int64_t outcome = result;
	if (transfers && result >= 0) {
		outcome = (int64_t)operation->finished;
		if (operation->kind == FILE_WRITE && operation->finished < operation->length)
			outcome = -EIO; /* a write of 0 bytes: no file system should do this */
	}
	operation->done(operation, outcome);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	struct file_io *engine = poll->data;
	struct io_uring_cqe *completion;
	while (io_uring_peek_cqe(&engine->ring, &completion) == 0) {
		struct file_operation *operation = io_uring_cqe_get_data(completion);
		int result = completion->res;
		io_uring_cqe_seen(&engine->ring, completion);
		if (--engine->in_ring == 0)
			uv_unref((uv_handle_t *)&engine->poll);
		if (!resume(engine, operation, result))
			finish(operation, result);
	}
	while (!list_empty(&engine->waiting) && engine->in_ring < RING_ENTRIES &&
		io_uring_sq_space_left(&engine->ring) > 0) {
		struct file_operation *operation =
			LIST_FIRST(&engine->waiting, struct file_operation, link);
		list_remove(&operation->link);
		submit_to_ring(engine, operation);
	}
}

void file_io_submit(struct file_io *engine, struct file_operation *operation)
{
	operation->engine = engine;
	operation->finished = 0;
	list_init(&operation->link);
	if (engine->has_ring && operation->kind != FILE_CALL)
		submit_to_ring(engine, operation);
	else
		submit_to_thread(engine, operation);
}

/* Life */

static int open_ring(struct file_io *engine)
{
	struct io_uring_params params = { 0 };
	int status = io_uring_queue_init_params(RING_ENTRIES, &engine->ring, &params);
	if (status < 0)
		return status;
	/* 5.11 lets buffers be anywhere, 5.5 never drops completions */
	const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
	status = (params.features & needed) == needed
		? uv_poll_init(engine->loop, &engine->poll, engine->ring.ring_fd)
		: -ENOSYS;
	if (status < 0) {
		io_uring_queue_exit(&engine->ring);
		return status;
	}
	fcntl(engine->ring.ring_fd, F_SETFD, FD_CLOEXEC);
	uv_prepare_init(engine->loop, &engine->prepare);
	uv_timer_init(engine->loop, &engine->retry);
	engine->poll.data = engine->prepare.data = engine->retry.data = engine;
	engine->open_handles = 3;
	uv_poll_start(&engine->poll, UV_READABLE, on_poll);
	uv_prepare_start(&engine->prepare, on_prepare);
	/* the engine alone keeps no loop alive */
	uv_unref((uv_handle_t *)&engine->poll);
	uv_unref((uv_handle_t *)&engine->prepare);
	return 0;
}

int file_io_open(uv_loop_t *loop, struct file_io **out, struct reason *reason)
{
	struct file_io *engine = calloc(1, sizeof *engine);
	if (!engine)
		return reason_set(reason, -ENOMEM, "out of memory");
	engine->loop = loop;
	list_init(&engine->waiting);
	engine->has_ring = open_ring(engine) == 0;
	*out = engine;
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	struct file_io *engine = handle->data;
	if (--engine->open_handles > 0)
		return;
	io_uring_queue_exit(&engine->ring);
	free(engine);
}

void file_io_close(struct file_io *engine)
{
	if (!engine->has_ring) {
		free(engine);
		return;
	}
	uv_close((uv_handle_t *)&engine->poll, on_closed);
	uv_close((uv_handle_t *)&engine->prepare, on_closed);
	uv_close((uv_handle_t *)&engine->retry, on_closed);
}
