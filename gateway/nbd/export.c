#include "nbd/export.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "log.h"
#include "nbd/alignment.h"
#include "nbd/server-internal.h"

const char *const export_state_names[] = {
	[EXPORT_STARTING] = "starting",
	[EXPORT_SERVING] = "serving",
	[EXPORT_FAILED] = "failed",
	[EXPORT_FENCED] = "fenced",
	[EXPORT_LEAVING] = "leaving",
};

/* Flushing: invariants 3 and 6 */

static void finish(struct export_request *request, int error);

static void finish_all(struct list *requests, int error)
{
	struct list ended;
	list_init(&ended);
	list_splice(&ended, requests);
	while (!list_empty(&ended))
		finish(LIST_FIRST(&ended, struct export_request, queue_link), error);
}

static void on_flushed(struct backend_request *flush, int error);

/* Begins the next round unless one runs. */
static void start_flush(struct nbd_export *export)
{
	if (export->flush_running || list_empty(&export->flush_next))
		return;
	if (export->state != EXPORT_SERVING && export->state != EXPORT_LEAVING) {
		finish_all(&export->flush_next, -EIO);
		return;
	}
	export->flush_running = true;
	list_splice(&export->flushing, &export->flush_next);
	export->flush.operation = BACKEND_FLUSH;
	export->flush.done = on_flushed;
	export->backend->operations->submit(export->backend, &export->flush);
}

static void on_flushed(struct backend_request *flush, int error)
{
	struct nbd_export *export = container_of(flush, struct nbd_export, flush);
	if (error && !export->flush_failed)
		log_error("%s: flush failed: %s: reported to clients until one succeeds", export->name,
			strerror(-error));
	export->flush_failed = error;
	export->flush_running = false;
	finish_all(&export->flushing, error);
	start_flush(export);
}

static void flush_for(struct export_request *request)
{
	struct nbd_export *export = request->export;
	list_append(&export->flush_next, &request->queue_link);
	start_flush(export);
}

/* Blocks that are being modified: invariant 4 */

static bool overlap(const struct export_request *a, const struct export_request *b)
{
	return a->first < b->end && b->first < a->end;
}

/* Must the write wait for one that runs, or for one that waits before it? */
static bool is_in_the_way(const struct nbd_export *export, const struct export_request *request)
{
	const struct export_request *other;
	LIST_FOR_EACH(other, &export->in_flight, link)
	{
		if (other != request && other->is_write && !other->is_held &&
			(other->modifies || request->modifies) && overlap(other, request))
			return true;
	}
	LIST_FOR_EACH(other, &export->held_back, queue_link)
	{
		if (other == request)
			break;
		if (overlap(other, request))
			return true;
	}
	return false;
}

static void start(struct export_request *request)
{
	struct nbd_export *export = request->export;
	if (request->modifies) {
		export->modifying += request->is_write;
		alignment_start(request);
	} else {
		export->backend->operations->submit(export->backend, &request->io);
	}
}

/* A write has ended: starts those that waited for it. */
static void release_held(struct nbd_export *export)
{
	struct export_request *request, *following;
	LIST_FOR_EACH_SAFE(request, following, &export->held_back, queue_link)
	{
		if (is_in_the_way(export, request))
			continue;
		request->is_held = false;
		request->held_until = uv_hrtime();
		list_remove(&request->queue_link);
		start(request);
		/* start() may have ended other writes and released from this list */
		following = LIST_FIRST(&export->held_back, struct export_request, queue_link);
	}
}

/* The way of a request */

static void finish(struct export_request *request, int error)
{
	struct nbd_export *export = request->export;
	list_remove(&request->queue_link);
	list_remove(&request->link);
	export->in_flight_count--;
	bool was_awaited = request->is_awaited;
	request->finished(request, error);
	if (was_awaited && --export->awaited == 0)
		server_wake_export(export);
	if (export->state == EXPORT_FENCED && export->in_flight_count == 0 && export->drained)
		export->drained(export->drained_context);
}

void export_request_done(struct export_request *request, int error)
{
	struct nbd_export *export = request->export;
	if (request->modifies && request->is_write)
		export->modifying--;
	request->modifies = false;
	request->first = request->end = 0; /* no longer in anybody's way */
	bool others_wait = request->is_write && !list_empty(&export->held_back);
	if (error == 0 && request->fua)
		flush_for(request);
	else
		finish(request, error);
	if (others_wait)
		release_held(export);
}

static void on_backend_done(struct backend_request *io, int error)
{
	export_request_done(container_of(io, struct export_request, io), error);
}

/* Can the backend itself make this request durable? Not while the export owes a flush. */
static bool has_own_fua(const struct nbd_export *export, const struct export_request *request)
{
	return request->io.operation == BACKEND_WRITE && export->geometry.fua &&
		!export->flush_failed && !request->modifies;
}

void export_submit(struct nbd_export *export, struct export_request *request)
{
	request->export = export;
	request->is_awaited = request->is_held = request->modifies = false;
	request->is_write = request->io.operation == BACKEND_WRITE ||
		request->io.operation == BACKEND_TRIM || request->io.operation == BACKEND_ZERO;
	request->io.done = on_backend_done;
	request->io.answered_by = 0;
	request->held_until = 0;
	request->bounce = NULL;
	list_init(&request->queue_link);
	list_append(&export->in_flight, &request->link);
	export->in_flight_count++;
	if (export->state != EXPORT_SERVING) {
		finish(request, -EIO);
		return;
	}
	if (request->io.operation == BACKEND_FLUSH) {
		flush_for(request);
		return;
	}
	request->modifies = !alignment_find_blocks(request, export->geometry.block_min);
	if (request->fua && has_own_fua(export, request)) {
		request->io.flags |= BACKEND_FUA;
		request->fua = false;
	}
	bool can_collide = request->modifies || export->modifying || !list_empty(&export->held_back);
	if (request->is_write && can_collide && is_in_the_way(export, request)) {
		request->is_held = true;
		list_append(&export->held_back, &request->queue_link);
		return;
	}
	start(request);
}

static void await(struct export_request *request)
{
	if (!request->is_write || request->is_awaited)
		return;
	request->is_awaited = true;
	request->export->awaited++;
}

void export_abandon(struct export_request *request)
{
	if (request->is_held) /* the backend never saw it */
		finish(request, -ECANCELED);
	else
		await(request);
}

void export_await_writes(struct nbd_export *export)
{
	struct export_request *request;
	LIST_FOR_EACH(request, &export->in_flight, link)
		await(request);
}

bool export_is_open(const struct nbd_export *export)
{
	return export->state != EXPORT_STARTING && export->awaited == 0;
}

uint64_t export_bounce_size(const struct nbd_export *export, uint64_t offset, uint64_t length)
{
	uint64_t block = export->backend ? export->geometry.block_min : 1;
	if (is_aligned(offset, block) && is_aligned(length, block))
		return 0;
	return length + 2 * block;
}

/* Life */

struct nbd_export *nbd_export_add(struct nbd_server *server, const char *name,
	const char *description, bool is_default, bool read_only, uint64_t size)
{
	struct nbd_export *export = calloc(1, sizeof *export);
	if (!export)
		return NULL;
	snprintf(export->name, sizeof export->name, "%s", name);
	if (!nbd_export_describe(export, description)) {
		free(export);
		return NULL;
	}
	export->server = server;
	export->is_default = is_default;
	export->read_only = read_only;
	/* Shown only if the export is fenced before it served: whoever reconnects must find what it had. */
	export->geometry = (struct backend_geometry){
		.size = size,
		.block_min = 1,
		.block_preferred = 4096,
		.trim = true,
		.zero = true,
		.fast_zero = true,
		.cache = true,
		.status = true,
		.fua = true,
	};
	list_init(&export->connections);
	list_init(&export->in_flight);
	list_init(&export->flushing);
	list_init(&export->flush_next);
	list_init(&export->held_back);
	list_append(&server->exports, &export->link);
	return export;
}

bool nbd_export_restrict(struct nbd_export *export, const char *tls_names)
{
	char *names = tls_names ? strdup(tls_names) : NULL;
	if (tls_names && !names)
		return false;
	free(export->tls_names);
	export->tls_names = names;
	return true;
}

void nbd_export_serve(struct nbd_export *export, struct backend *backend)
{
	export->backend = backend;
	export->geometry = backend->geometry;
	export->state = EXPORT_SERVING;
	server_wake_export(export);
	server_wake_handshakes(export->server);
}

void nbd_export_fail(struct nbd_export *export, const struct reason *reason)
{
	export->state = EXPORT_FAILED;
	export->reason = *reason;
	server_wake_handshakes(export->server);
}

void nbd_export_fence(struct nbd_export *export, const struct reason *reason)
{
	if (export->state == EXPORT_FENCED)
		return;
	export->state = EXPORT_FENCED;
	export->reason = *reason;
	finish_all(&export->held_back, -EIO);
	server_wake_export(export);
	server_wake_handshakes(export->server);
}

void nbd_export_leave(struct nbd_export *export)
{
	struct nbd_connection *connection, *following;
	export->state = EXPORT_LEAVING;
	LIST_FOR_EACH_SAFE(connection, following, &export->connections, export_link)
		connection_finish(connection);
	server_wake_handshakes(export->server);
}

bool nbd_export_has_left(const struct nbd_export *export)
{
	return export->connection_count == 0 && export->in_flight_count == 0;
}

void nbd_export_drop_clients(struct nbd_export *export)
{
	struct nbd_connection *connection, *following;
	LIST_FOR_EACH_SAFE(connection, following, &export->connections, export_link)
		connection_close(connection, "the volume is no longer served");
}

bool nbd_export_describe(struct nbd_export *export, const char *description)
{
	char *copy = description ? strdup(description) : NULL;
	if (description && !copy)
		return false;
	free(export->description);
	export->description = copy;
	return true;
}

void nbd_export_limit(struct nbd_export *export, const struct rate_limit *limit)
{
	export->limit = *limit;
	server_limits_changed(export->server);
}

void nbd_export_resized(struct nbd_export *export)
{
	export->geometry.size = export->backend->geometry.size;
}

void nbd_export_remove(struct nbd_export *export)
{
	list_remove(&export->link);
	free(export->description);
	free(export->tls_names);
	free(export);
}
