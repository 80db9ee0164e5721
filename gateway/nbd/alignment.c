#include "nbd/alignment.h"

#include <errno.h>
#include <string.h>

#include "checked.h"
#include "nbd/server-internal.h"

/* A WRITE or ZERO is done in at most three pieces, one after the other. The whole blocks come first,
 * so that a FAST_ZERO that is refused has changed nothing. */
enum piece { PIECE_MIDDLE, PIECE_HEAD, PIECE_TAIL, PIECE_NONE };

static uint32_t block_of(const struct export_request *request)
{
	return request->export->geometry.block_min;
}

static uint64_t end_of(const struct export_request *request)
{
	return request->io.offset + request->io.length;
}

bool alignment_find_blocks(struct export_request *request, uint32_t block_min)
{
	request->first = align_down(request->io.offset, block_min);
	request->end = align_up(end_of(request), block_min);
	return request->first == request->io.offset && request->end == end_of(request);
}

static void finish(struct export_request *request, int error)
{
	if (request->bounce)
		buffer_give(&request->export->server->pool, request->bounce, request->bounce_size);
	request->bounce = NULL;
	export_request_done(request, error);
}

static void submit_part(struct export_request *request, enum backend_operation operation,
	uint64_t offset, uint64_t length, void (*done)(struct backend_request *, int))
{
	struct backend *backend = request->export->backend;
	if (request->export->state != EXPORT_SERVING) { /* fenced since the piece before */
		finish(request, -EIO);
		return;
	}
	request->part.operation = operation;
	request->part.flags = request->io.flags & (BACKEND_NO_HOLE | BACKEND_FAST_ZERO);
	request->part.offset = offset;
	request->part.length = length;
	request->part.buffer = request->bounce;
	request->part.extents_max = 0;
	request->part.done = done;
	backend->operations->submit(backend, &request->part);
}

/* READ */

static void on_bounce_read(struct backend_request *part, int error)
{
	struct export_request *request = container_of(part, struct export_request, part);
	if (error == 0)
		memcpy(request->io.buffer, request->bounce + (request->io.offset - request->first),
			request->io.length);
	finish(request, error);
}

/* WRITE and ZERO */

static void start_piece(struct export_request *request, enum piece piece);

static void on_piece_written(struct backend_request *part, int error)
{
	struct export_request *request = container_of(part, struct export_request, part);
	if (error)
		finish(request, error);
	else
		start_piece(request, request->piece + 1);
}

/* Puts the client's bytes for the range into the bounce buffer, which stands for `from` onward. */
static void put_bytes_in(struct export_request *request, uint64_t from, uint64_t begin, uint64_t end)
{
	uint8_t *to = request->bounce + (begin - from);
	if (request->io.operation == BACKEND_ZERO)
		memset(to, 0, end - begin);
	else
		memcpy(to, (const uint8_t *)request->io.buffer + (begin - request->io.offset), end - begin);
}

static void on_block_read(struct backend_request *part, int error)
{
	struct export_request *request = container_of(part, struct export_request, part);
	if (error) {
		finish(request, error);
		return;
	}
	uint64_t from = part->offset, end = from + part->length;
	put_bytes_in(request, from, request->io.offset > from ? request->io.offset : from,
		end_of(request) < end ? end_of(request) : end);
	submit_part(request, BACKEND_WRITE, from, part->length, on_piece_written);
}

static void start_whole_blocks(struct export_request *request, uint64_t begin, uint64_t end)
{
	if (request->io.operation == BACKEND_WRITE)
		put_bytes_in(request, begin, begin, end);
	submit_part(request, request->io.operation, begin, end - begin, on_piece_written);
}

/* Starts this piece, or the next one that there is. */
static void start_piece(struct export_request *request, enum piece piece)
{
	uint64_t block = block_of(request);
	uint64_t begin = align_up(request->io.offset, block);
	uint64_t end = align_down(end_of(request), block);
	bool one_block = request->end - request->first == block;
	request->piece = piece;
	if (piece == PIECE_MIDDLE && begin < end)
		start_whole_blocks(request, begin, end);
	else if (piece <= PIECE_HEAD && request->first < request->io.offset) {
		request->piece = PIECE_HEAD;
		submit_part(request, BACKEND_READ, request->first, block, on_block_read);
	} else if (piece <= PIECE_TAIL && end_of(request) < request->end &&
		!(one_block && request->first < request->io.offset)) {
		request->piece = PIECE_TAIL;
		submit_part(request, BACKEND_READ, request->end - block, block, on_block_read);
	} else {
		finish(request, 0);
	}
}

static uint64_t bounce_needed(const struct export_request *request)
{
	switch (request->io.operation) {
	case BACKEND_READ:
	case BACKEND_WRITE:
		return request->end - request->first;
	case BACKEND_ZERO:
		return block_of(request);
	default:
		return 0;
	}
}

/* TRIM, CACHE, STATUS */

static void on_part_done(struct backend_request *part, int error)
{
	finish(container_of(part, struct export_request, part), error);
}

static void start_trim(struct export_request *request)
{
	uint64_t begin = align_up(request->io.offset, block_of(request));
	uint64_t end = align_down(end_of(request), block_of(request));
	if (begin < end)
		submit_part(request, BACKEND_TRIM, begin, end - begin, on_part_done);
	else
		finish(request, 0);
}

static void on_status(struct backend_request *part, int error)
{
	struct export_request *request = container_of(part, struct export_request, part);
	request->io.extents_count = part->extents_count;
	if (error == 0) /* the extents begin with the first block; the client asked from later on */
		request->io.extents[0].length -= request->io.offset - request->first;
	finish(request, error);
}

static void start_status(struct export_request *request)
{
	request->part.extents = request->io.extents;
	struct backend *backend = request->export->backend;
	request->part.operation = BACKEND_STATUS;
	request->part.flags = 0;
	request->part.offset = request->first;
	request->part.length = request->end - request->first;
	request->part.extents_max = request->io.extents_max;
	request->part.done = on_status;
	backend->operations->submit(backend, &request->part);
}

void alignment_start(struct export_request *request)
{
	uint64_t needed = bounce_needed(request);
	request->bounce_size = needed;
	request->bounce = needed ? buffer_take(&request->export->server->pool, needed) : NULL;
	if (needed && !request->bounce) {
		finish(request, -ENOMEM);
		return;
	}
	switch (request->io.operation) {
	case BACKEND_READ:
		request->io.extents_count = 0;
		submit_part(request, BACKEND_READ, request->first, needed, on_bounce_read);
		break;
	case BACKEND_WRITE:
	case BACKEND_ZERO:
		start_piece(request, PIECE_MIDDLE);
		break;
	case BACKEND_TRIM:
		start_trim(request);
		break;
	case BACKEND_CACHE:
		submit_part(request, BACKEND_CACHE, request->first, request->end - request->first,
			on_part_done);
		break;
	case BACKEND_STATUS:
		start_status(request);
		break;
	case BACKEND_FLUSH: /* has no range and never comes here */
		finish(request, 0);
		break;
	}
}
