/* transmission.c: requests and replies ("Transmission phase" in the protocol description).
 *
 * A request passes validate() once; what comes behind it may trust its range, flags and length.
 * Before it is taken from the receive buffer it has got its share of the memory budget; if there
 * is none, the connection reads nothing until there is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "checked.h"
#include "log.h"
#include "nbd/server-internal.h"
#include "nbd/wire.h"

enum {
	BYTES_PER_TURN = 4 << 20,
	BULK_PAYLOAD = 64 << 10,
	SKIP_MAX = 64 << 20, /* a refused payload that is larger ends the connection */
	BASE_ALLOCATION_ID = 1,
	FILTER_MAX = 4 << 10, /* payload of a BLOCK_STATUS */
	STATUS_COST = 32 << 10,
	NS_PER_MS = 1000000,
};

/* A request as it stands on the wire. */
struct wire_request {
	uint16_t flags, type;
	uint64_t cookie, offset, length;
	size_t header_size;
	uint64_t payload; /* bytes that follow the header */
};

uint16_t transmission_flags(
	const struct nbd_connection *connection, const struct nbd_export *export, const char *name)
{
	const struct session *session = &connection->session;
	const struct backend_geometry *can = &export->geometry;
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN;
	if (can->cache)
		flags |= NBD_FLAG_SEND_CACHE;
	if (can->rotational)
		flags |= NBD_FLAG_ROTATIONAL;
	if (connection->session.structured)
		flags |= NBD_FLAG_SEND_DF;
	if (session->extended && session->wants_allocation && strcmp(session->meta_name, name) == 0)
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	/* FLUSH is offered read-only too: it is harmless and some clients send it regardless */
	flags |= NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA;
	if (export->read_only)
		return flags | NBD_FLAG_READ_ONLY;
	if (can->trim)
		flags |= NBD_FLAG_SEND_TRIM;
	if (can->zero)
		flags |= NBD_FLAG_SEND_WRITE_ZEROES;
	if (can->fast_zero)
		flags |= NBD_FLAG_SEND_FAST_ZERO;
	return flags;
}

/* Replies */

static uint32_t wire_error(int error)
{
	switch (-error) {
	case 0:
		return NBD_SUCCESS;
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	default: /* ESHUTDOWN too: QEMU hands it to the guest instead of reconnecting */
		return NBD_EIO;
	}
}

static void add_part(struct request *request, void *bytes, size_t length)
{
	request->parts[request->part_count++] =
		(struct iovec){ .iov_base = bytes, .iov_len = length };
}

/* Writes the header of a structured or extended chunk. Returns the place behind it. */
static uint8_t *put_chunk(
	const struct request *request, uint8_t *at, bool is_last, uint16_t type, uint64_t length)
{
	bool extended = request->connection->session.extended;
	at = put_u32(at, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
	at = put_u16(at, is_last ? NBD_REPLY_FLAG_DONE : 0);
	at = put_u16(at, type);
	at = put_u64(at, request->cookie);
	if (!extended)
		return put_u32(at, (uint32_t)length);
	return put_u64(put_u64(at, request->offset), length);
}

static void reply_simple(struct request *request, uint32_t error)
{
	uint8_t *at = put_u32(request->header, NBD_SIMPLE_REPLY_MAGIC);
	put_u64(put_u32(at, error), request->cookie);
	add_part(request, request->header, NBD_SIMPLE_REPLY_SIZE);
}

/* An error, with a sentence for a person where the protocol has room for one. */
static void reply_error(struct request *request, int error, const char *text)
{
	uint32_t code = wire_error(error);
	if (!request->connection->session.structured) {
		reply_simple(request, code);
		return;
	}
	request->text = strdup(text);
	size_t length = request->text ? strlen(text) : 0;
	uint8_t *at =
		put_chunk(request, request->header, true, NBD_REPLY_TYPE_ERROR, 4 + 2 + length);
	at = put_u16(put_u32(at, code), (uint16_t)length);
	add_part(request, request->header, (size_t)(at - request->header));
	if (length > 0)
		add_part(request, request->text, length);
}

static void reply_done(struct request *request)
{
	if (!request->connection->session.extended) {
		reply_simple(request, NBD_SUCCESS); /* allowed and shorter, where no payload follows */
		return;
	}
	uint8_t *at = put_chunk(request, request->header, true, NBD_REPLY_TYPE_NONE, 0);
	add_part(request, request->header, (size_t)(at - request->header));
}

static void reply_data(struct request *request)
{
	if (!request->connection->session.structured) {
		reply_simple(request, NBD_SUCCESS);
	} else {
		uint8_t *at = put_chunk(request, request->header, true, NBD_REPLY_TYPE_OFFSET_DATA,
			sizeof(uint64_t) + request->length);
		at = put_u64(at, request->offset);
		add_part(request, request->header, (size_t)(at - request->header));
	}
	add_part(request, request->buffer, request->length);
}

/* READ with holes: a chunk for each extent. Headers and parts lie in `extras`. */
static void reply_extents(struct request *request)
{
	const struct backend_request *io = &request->work.io;
	enum { PARTS_SIZE = 2 * BACKEND_READ_EXTENTS * sizeof(struct iovec) };
	request->parts = request->extras;
	uint8_t *header = (uint8_t *)request->extras + PARTS_SIZE;
	uint64_t at = 0;
	for (size_t i = 0; i < io->extents_count; i++) {
		const struct backend_extent *extent = &io->extents[i];
		bool is_last = i + 1 == io->extents_count;
		uint8_t *end;
		if (extent->zero) {
			end = put_chunk(request, header, is_last, NBD_REPLY_TYPE_OFFSET_HOLE, 8 + 4);
			end = put_u32(put_u64(end, request->offset + at), (uint32_t)extent->length);
			add_part(request, header, (size_t)(end - header));
		} else {
			end = put_chunk(
				request, header, is_last, NBD_REPLY_TYPE_OFFSET_DATA, 8 + extent->length);
			end = put_u64(end, request->offset + at);
			add_part(request, header, (size_t)(end - header));
			add_part(request, (uint8_t *)request->buffer + at, extent->length);
		}
		header = end;
		at += extent->length;
	}
}

/* BLOCK_STATUS. Nothing is said about what lies behind the request's end. */
static void reply_status(struct request *request)
{
	const struct backend_request *io = &request->work.io;
	bool extended = request->connection->session.extended;
	uint8_t *payload = request->extras, *end = put_u32(payload, BASE_ALLOCATION_ID);
	if (extended)
		end = put_u32(end, (uint32_t)io->extents_count);
	uint64_t left = request->length;
	for (size_t i = 0; i < io->extents_count && left > 0; i++) {
		const struct backend_extent *extent = &io->extents[i];
		uint64_t length = extent->length < left ? extent->length : left;
		uint32_t state =
			(extent->hole ? NBD_STATE_HOLE : 0) | (extent->zero ? NBD_STATE_ZERO : 0);
		if (extended)
			end = put_u64(put_u64(end, length), state);
		else
			end = put_u32(put_u32(end, (uint32_t)length), state);
		left -= length;
	}
	size_t length = (size_t)(end - payload);
	uint16_t type = extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS;
	uint8_t *at = put_chunk(request, request->header, true, type, length);
	add_part(request, request->header, (size_t)(at - request->header));
	add_part(request, payload, length);
}

static void refuse(struct request *request, int error, const char *text)
{
	request->error = error;
	reply_error(request, error, text);
	connection_reply(request);
}

static void reply_failure(struct request *request, int error)
{
	const struct nbd_export *export = request->connection->export;
	char text[sizeof export->reason.text];
	if (export->state == EXPORT_FENCED)
		snprintf(text, sizeof text, "%s", export->reason.text);
	else
		snprintf(text, sizeof text, "%s: %s: %s", export->name,
			export->backend->operations->name, strerror(-error));
	reply_error(request, error, text);
}

static void on_finished(struct export_request *work, int error)
{
	struct request *request = container_of(work, struct request, work);
	struct nbd_connection *connection = request->connection;
	request->error = error;
	list_remove(&request->link);
	if (connection->phase == PHASE_CLOSED) {
		connection_release_request(request);
		return;
	}
	if (error)
		reply_failure(request, error);
	else if (request->type == NBD_CMD_BLOCK_STATUS)
		reply_status(request);
	else if (request->type != NBD_CMD_READ)
		reply_done(request);
	else if (work->io.extents_count > 0)
		reply_extents(request);
	else
		reply_data(request);
	connection_reply(request);
}

/* Notes a request that took long. What the backend has done is answered in the same turn of the loop. */
static void trace(const struct request *request, uint64_t now)
{
	const struct export_request *work = &request->work;
	struct trace_entry *entry = trace_next(&request->connection->server->trace);
	if (!entry)
		return;
	struct timespec wall;
	clock_gettime(CLOCK_REALTIME, &wall);
	entry->at = (uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / NS_PER_MS;
	snprintf(entry->volume, sizeof entry->volume, "%s", request->connection->export->name);
	entry->type = request->type;
	entry->offset = request->offset;
	entry->length = request->length;
	entry->error = request->error;
	entry->total = (now - request->started) / 1000;
	uint64_t given = work->held_until ? work->held_until : request->received;
	entry->limited = (uint32_t)(request->limited / NS_PER_MS);
	entry->received = (uint32_t)((request->received - request->started) / NS_PER_MS);
	entry->held = (uint32_t)((given - request->received) / NS_PER_MS);
	entry->backend = (uint32_t)((now - given) / NS_PER_MS);
	entry->answered_by = work->io.answered_by;
}

void transmission_count_answers(struct nbd_connection *connection)
{
	uint64_t now = 0;
	for (struct list *link = connection->replies.prev; link != &connection->replies; link = link->prev) {
		struct request *request = container_of(link, struct request, link);
		if (request->is_counted)
			break;
		request->is_counted = true;
		now = now ? now : uv_hrtime();
		if (request->type < STATS_COMMANDS)
			stats_count(&connection->export->stats.commands[request->type], request->length,
				request->error, now - request->started);
		uint64_t slow = connection->server->limits.slow_request;
		if (slow && now - request->started + request->limited >= slow)
			trace(request, now);
	}
}

/* Requests */

/* What is wrong with the request, as a negative errno and a text; 0 if nothing is. */
static int validate(
	const struct nbd_connection *connection, const struct wire_request *wire, const char **text)
{
	const struct nbd_export *export = connection->export;
	const struct backend_geometry *can = &export->geometry;
	uint16_t allowed = NBD_CMD_FLAG_FUA;
	bool writes = false, is_payload = false;
	switch (wire->type) {
	case NBD_CMD_READ:
		allowed |= connection->session.structured ? NBD_CMD_FLAG_DF : 0;
		is_payload = true;
		break;
	case NBD_CMD_WRITE:
		allowed |= connection->session.extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
		writes = is_payload = true;
		break;
	case NBD_CMD_WRITE_ZEROES:
		allowed |= NBD_CMD_FLAG_NO_HOLE | (can->fast_zero ? NBD_CMD_FLAG_FAST_ZERO : 0);
		writes = true;
		break;
	case NBD_CMD_TRIM:
		writes = true;
		break;
	case NBD_CMD_BLOCK_STATUS:
		allowed |= NBD_CMD_FLAG_REQ_ONE;
		allowed |= connection->session.extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
		break;
	case NBD_CMD_FLUSH:
	case NBD_CMD_CACHE:
		break;
	default:
		*text = "unknown command";
		return -EINVAL;
	}
	*text = "a flag that this command or this session does not have";
	if (wire->flags & ~allowed)
		return -EINVAL;
	if (wire->type == NBD_CMD_FLUSH) {
		*text = "a flush has neither offset nor length";
		return wire->offset || wire->length ? -EINVAL : 0;
	}
	*text = "the export is read-only";
	if (writes && export->read_only)
		return -EPERM;
	*text = "not available on this export";
	if ((wire->type == NBD_CMD_TRIM && !can->trim) ||
		(wire->type == NBD_CMD_WRITE_ZEROES && !can->zero) ||
		(wire->type == NBD_CMD_CACHE && !can->cache) ||
		(wire->type == NBD_CMD_BLOCK_STATUS && !connection->session.wants_allocation))
		return -EINVAL;
	*text = "the length is zero";
	if (wire->length == 0)
		return -EINVAL;
	*text = "beyond the end of the export";
	if (!range_inside(wire->offset, wire->length, can->size))
		return writes && wire->type != NBD_CMD_TRIM ? -ENOSPC : -EINVAL;
	*text = "longer than 32 MiB";
	if (is_payload && wire->length > PAYLOAD_MAX)
		return -EINVAL;
	*text = "not a multiple of the block size that was agreed on";
	if (connection->session.knows_block_sizes && wire->type != NBD_CMD_BLOCK_STATUS &&
		!(is_aligned(wire->offset, can->block_min) && is_aligned(wire->length, can->block_min)))
		return -EINVAL;
	return 0;
}

/* Bytes of memory that the request counts for until it is answered. */
static size_t cost_of(const struct nbd_connection *connection, const struct wire_request *wire)
{
	if (wire->type == NBD_CMD_BLOCK_STATUS)
		return STATUS_COST;
	if (wire->type != NBD_CMD_READ && wire->type != NBD_CMD_WRITE)
		return REQUEST_COST;
	size_t cost = REQUEST_COST + buffer_real_size(wire->length);
	uint64_t bounce = export_bounce_size(connection->export, wire->offset, wire->length);
	if (bounce > 0)
		cost += buffer_real_size(bounce);
	if (wire->type == NBD_CMD_READ && connection->session.structured && wire->length >= HOLES_MIN)
		cost += STATUS_COST;
	/* never more than every connection may have: it would wait for ever */
	return cost < PAYLOAD_MAX ? cost : PAYLOAD_MAX;
}

static bool take_extras(struct request *request)
{
	if (!request->extras)
		request->extras = buffer_take(&request->connection->server->pool, REPLY_EXTRAS_SIZE);
	return request->extras;
}

static bool take_extents(struct request *request)
{
	size_t size = EXTENTS_MAX * sizeof *request->extents;
	request->extents = buffer_take(&request->connection->server->pool, size);
	return request->extents;
}

static bool take_buffer(struct request *request)
{
	request->buffer_size = request->length;
	request->buffer = buffer_take(&request->connection->server->pool, request->length);
	return request->buffer;
}

static void submit(struct request *request, enum backend_operation operation, void *buffer)
{
	struct nbd_connection *connection = request->connection;
	struct export_request *work = &request->work;
	work->io.operation = operation;
	work->io.offset = request->offset;
	work->io.length = request->length;
	work->io.buffer = buffer;
	work->fua = (request->flags & NBD_CMD_FLAG_FUA) &&
		(operation == BACKEND_WRITE || operation == BACKEND_TRIM || operation == BACKEND_ZERO);
	work->finished = on_finished;
	list_append(&connection->requests, &request->link);
	export_submit(connection->export, work);
}

static void submit_read(struct request *request)
{
	struct backend_request *io = &request->work.io;
	io->flags = 0;
	io->extents_count = 0;
	bool may_have_holes = request->connection->session.structured &&
		!(request->flags & NBD_CMD_FLAG_DF) && request->length >= HOLES_MIN &&
		request->connection->export->geometry.holes;
	if (!take_buffer(request) || (may_have_holes && (!take_extras(request) || !take_extents(request)))) {
		refuse(request, -ENOMEM, "out of memory");
		return;
	}
	if (may_have_holes) {
		io->flags = BACKEND_HOLES_WELCOME;
		io->extents = request->extents;
		io->extents_max = BACKEND_READ_EXTENTS;
	}
	submit(request, BACKEND_READ, request->buffer);
}

static void submit_status(struct request *request)
{
	struct backend_request *io = &request->work.io;
	if (!take_extras(request) || !take_extents(request)) {
		refuse(request, -ENOMEM, "out of memory");
		return;
	}
	io->flags = 0;
	io->extents = request->extents;
	io->extents_max = request->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX;
	submit(request, BACKEND_STATUS, NULL);
}

static void submit_zero(struct request *request)
{
	request->work.io.flags = (request->flags & NBD_CMD_FLAG_NO_HOLE ? BACKEND_NO_HOLE : 0) |
		(request->flags & NBD_CMD_FLAG_FAST_ZERO ? BACKEND_FAST_ZERO : 0);
	submit(request, BACKEND_ZERO, NULL);
}

/* Any request but WRITE and DISC. */
static void submit_other(struct request *request)
{
	request->work.io.flags = 0;
	switch (request->type) {
	case NBD_CMD_READ:
		submit_read(request);
		break;
	case NBD_CMD_FLUSH:
		submit(request, BACKEND_FLUSH, NULL);
		break;
	case NBD_CMD_TRIM:
		submit(request, BACKEND_TRIM, NULL);
		break;
	case NBD_CMD_CACHE:
		submit(request, BACKEND_CACHE, NULL);
		break;
	case NBD_CMD_WRITE_ZEROES:
		submit_zero(request);
		break;
	case NBD_CMD_BLOCK_STATUS:
		submit_status(request);
		break;
	}
}

static size_t received(const struct nbd_connection *connection)
{
	return connection->receive_end - connection->receive_at;
}

/* Takes a WRITE whose header has been consumed. Its payload may still be on its way. */
static void take_write(struct nbd_connection *connection, struct request *request)
{
	size_t here = received(connection);
	const struct backend_geometry *geometry = &connection->export->geometry;
	uint8_t *payload = connection->receive + connection->receive_at;
	request->work.io.flags = 0;
	connection->bulk = request->length >= BULK_PAYLOAD;
	if (here >= request->length && request->length <= geometry->borrow_max) {
		connection->receive_at += request->length;
		request->work.io.flags = BACKEND_BORROWED;
		submit(request, BACKEND_WRITE, payload);
		return;
	}
	size_t n = here < request->length ? here : request->length;
	if (!take_buffer(request)) {
		connection->receive_at += n;
		connection->payload.skip = request->length - n;
		refuse(request, -ENOMEM, "out of memory");
		return;
	}
	memcpy(request->buffer, payload, n);
	connection->receive_at += n;
	connection->payload.request = request;
	connection->payload.received = n;
	connection->received_at = uv_now(connection->server->loop);
	if (n == request->length)
		transmission_payload_received(connection);
}

void transmission_payload_received(struct nbd_connection *connection)
{
	struct request *request = connection->payload.request;
	connection->payload.request = NULL;
	request->received = uv_hrtime();
	submit(request, BACKEND_WRITE, request->buffer);
}

/* A BLOCK_STATUS with a payload names the contexts it wants: ours, or none that we know. Its
 * `length` is that of the payload; the length to describe stands inside. */
static bool read_status_filter(const uint8_t *payload, struct wire_request *wire)
{
	if (wire->payload != 8 + 4) /* there is one context, and none may be named twice */
		return false;
	wire->length = get_u64(payload);
	return get_u32(payload + 8) == BASE_ALLOCATION_ID;
}

/* Reads the header of the next request. False: not complete yet, or the connection is closed. */
static bool read_header(struct nbd_connection *connection, struct wire_request *wire)
{
	const uint8_t *at = connection->receive + connection->receive_at;
	bool extended = connection->session.extended;
	wire->header_size = extended ? NBD_EXTENDED_REQUEST_SIZE : NBD_REQUEST_SIZE;
	if (received(connection) < wire->header_size) {
		connection->wants_more = true;
		return false;
	}
	if (get_u32(at) != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC)) {
		connection_close(connection, "a request without its magic number");
		return false;
	}
	wire->flags = get_u16(at + 4);
	wire->type = get_u16(at + 6);
	wire->cookie = get_u64(at + 8);
	wire->offset = get_u64(at + 16);
	wire->length = extended ? get_u64(at + 24) : get_u32(at + 24);
	bool has_payload = wire->type == NBD_CMD_WRITE ||
		(extended && (wire->flags & NBD_CMD_FLAG_PAYLOAD_LEN));
	wire->payload = has_payload ? wire->length : 0;
	if (wire->payload > SKIP_MAX) {
		connection_close(connection, "a request with %llu bytes of payload",
			(unsigned long long)wire->payload);
		return false;
	}
	return true;
}

/* Throws away the payload of a request that will not be done. */
static void skip_payload(struct nbd_connection *connection, uint64_t length)
{
	size_t here = received(connection);
	size_t n = here < length ? here : (size_t)length;
	connection->receive_at += n;
	connection->payload.skip = length - n;
}

/* Takes one request. False: no more for now. */
static bool take_request(struct nbd_connection *connection, uint64_t *bytes)
{
	struct nbd_server *server = connection->server;
	struct wire_request wire;
	if (!read_header(connection, &wire))
		return false;
	if (wire.type == NBD_CMD_DISC) {
		connection->receive_at = connection->receive_end;
		connection_finish(connection);
		return false;
	}
	/* A short payload is waited for here: reading it on its own would split the next batch. */
	if (wire.payload < BULK_PAYLOAD && received(connection) < wire.header_size + wire.payload) {
		connection->wants_more = true;
		connection->bulk = false; /* all of it goes to the receive buffer: at once */
		return false;
	}
	const char *text = "the list of contexts is malformed";
	int error = 0;
	if (wire.type == NBD_CMD_BLOCK_STATUS && wire.payload > 0) {
		const uint8_t *payload = connection->receive + connection->receive_at + wire.header_size;
		if (wire.payload > FILTER_MAX || !read_status_filter(payload, &wire))
			error = -EINVAL;
	}
	if (error == 0)
		error = validate(connection, &wire, &text);
	bool is_limited = server->has_limits && !error && wire.type != NBD_CMD_FLUSH;
	uint64_t now = is_limited ? uv_hrtime() : 0;
	if (is_limited && (!list_empty(&connection->limit_link) || !server_limit_allows(connection, now)))
		return false;
	size_t cost = error ? REQUEST_COST : cost_of(connection, &wire);
	if (!budget_take(&server->budget, &connection->share, cost)) {
		server_memory_short(server);
		return false;
	}
	if (is_limited)
		server_limit_take(connection, now, wire.type == NBD_CMD_READ || wire.type == NBD_CMD_WRITE ? wire.length : 0);
	connection->lone_requests = connection->request_count == 0 ? connection->lone_requests + 1 : 0;
	connection->turn_requests++;
	if (connection->round_requests++ == 0)
		connection->round_time = uv_hrtime(); /* for all of them: reading the clock costs, too */
	struct request *request = connection_new_request(connection);
	if (!request) {
		budget_give(&server->budget, &connection->share, cost);
		connection_close(connection, "out of memory");
		return false;
	}
	request->cost = cost;
	request->cookie = wire.cookie;
	request->offset = wire.offset;
	request->length = wire.length;
	request->type = wire.type;
	request->flags = wire.flags;
	request->started = connection->round_time;
	request->received = connection->round_time;
	request->limited = 0;
	if (connection->limited_since) {
		request->limited = connection->round_time - connection->limited_since;
		connection->limited_since = 0;
	}
	*bytes += cost;
	connection->receive_at += wire.header_size;
	if (error || wire.type != NBD_CMD_WRITE)
		skip_payload(connection, wire.payload);
	if (error)
		refuse(request, error, text);
	else if (wire.type == NBD_CMD_WRITE)
		take_write(connection, request);
	else
		submit_other(request);
	return true;
}

void transmission_continue(struct nbd_connection *connection)
{
	uint64_t bytes = 0;
	for (unsigned count = 0; connection->phase == PHASE_TRANSMISSION; count++) {
		if (connection->payload.request || connection->payload.skip > 0) {
			connection->wants_more = true;
			return;
		}
		if (!export_is_open(connection->export))
			return; /* server_wake_export() brings us back */
		if (count >= REQUESTS_PER_TURN || bytes >= BYTES_PER_TURN) {
			server_wake(connection); /* others first */
			return;
		}
		if (!take_request(connection, &bytes))
			return;
	}
}
