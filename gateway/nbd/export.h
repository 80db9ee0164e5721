/* export.h: a volume as NBD clients see it, between the connections and the backend.
 *
 * Invariants
 *  1. A request given to export_submit() is finished exactly once, perhaps before that returns.
 *  2. Awaited are write-class requests in flight whose connection is gone, and those that ran when
 *     a new client came. While there are any, nobody's requests are submitted on this export
 *     (export_is_open() is false): a client that reconnects repeats what it had no answer to, and
 *     the late original must not land on top of what it writes next.
 *  3. A FLUSH is answered only by a backend flush that was submitted after the FLUSH arrived.
 *     Those that arrive while one runs share the next.
 *  4. A request that is not made of whole blocks is done by read-modify-write (alignment.h), and no
 *     other write to these blocks runs meanwhile: it is atomic per block.
 *  5. A fenced export answers -EIO to everything and sends nothing more to its backend.
 *  6. After a failed flush, `flush_failed` stays set until one succeeds; meanwhile a FUA write is
 *     answered by a flush, whatever the backend can do.
 *
 * Loop thread only.
 */
#ifndef TB4_EXPORT_H
#define TB4_EXPORT_H

#include "backend/backend.h"
#include "nbd/rate-limit.h"
#include "nbd/stats.h"

struct nbd_server;

enum export_state {
	EXPORT_STARTING, /* clients wait */
	EXPORT_SERVING,
	EXPORT_FAILED, /* could not be opened or claimed: clients are refused with the reason */
	EXPORT_FENCED,
	EXPORT_LEAVING, /* unknown to new clients; those that are here go when they have been answered */
};
extern const char *const export_state_names[];

struct nbd_export {
	struct nbd_server *server;
	struct list link; /* the server's exports */
	char name[64];
	char *description; /* may be NULL */
	char *tls_names;   /* who may see it by TLS, as nbd_tls_peer_is() takes them; NULL: every client */
	bool is_default;   /* also served under the empty name */
	bool read_only;
	enum export_state state;
	struct reason reason;    /* FAILED, FENCED: why */
	struct backend *backend; /* while SERVING */
	/* What clients are told. Stays when the backend goes: a live export never shrinks. */
	struct backend_geometry geometry;

	struct list connections; /* in transmission, by nbd_connection.export_link */
	unsigned connection_count;

	/* FENCED: called each time when the last request in flight has ended. */
	void (*drained)(void *context);
	void *drained_context;

	struct list in_flight; /* by export_request.link */
	unsigned in_flight_count, awaited;

	/* invariant 3 */
	struct list flushing, flush_next; /* by export_request.queue_link */
	struct backend_request flush;
	bool flush_running, flush_failed;

	/* invariant 4 */
	struct list held_back; /* by export_request.queue_link, in order of arrival */
	unsigned modifying;    /* read-modify-writes in flight */

	struct export_stats stats;
	struct rate_limit limit;
};

/* One client request on its way through an export; the connection embeds it in its own. */
struct export_request {
	/* Filled by the caller: io's operation, flags, range, buffer and extents; fua; finished(). io's
	 * lengths follow the contract of backend.h, its range may have any alignment. */
	struct backend_request io;
	bool fua; /* must be durable when finished */
	void (*finished)(struct export_request *request, int error);

	/* export.c's and alignment.c's */
	struct nbd_export *export;
	struct list link, queue_link;
	uint64_t held_until; /* ns: when it was given to the backend, if it had to wait behind others; 0: at once */
	uint64_t first, end; /* of the whole blocks touched */
	bool is_write;       /* WRITE, TRIM or ZERO */
	bool is_awaited, is_held, modifies;
	struct backend_request part;
	unsigned piece; /* enum piece */
	uint8_t *bounce;
	uint64_t bounce_size;
};

/* Makes an export in state STARTING, of `size` bytes. NULL without memory. `description` may be
 * NULL. */
struct nbd_export *nbd_export_add(struct nbd_server *server, const char *name,
	const char *description, bool is_default, bool read_only, uint64_t size);
/* Clients that come by TLS see the export only if they have one of these names, separated by commas or blanks; NULL: all of
 * them. The text is copied. False without memory: then it stays. */
bool nbd_export_restrict(struct nbd_export *export, const char *tls_names);
/* Each of these wakes the clients that wait for the export. */
void nbd_export_serve(struct nbd_export *export, struct backend *backend);
void nbd_export_fail(struct nbd_export *export, const struct reason *reason);
/* Requests in flight end as the backend ends them; it is not used for anything else. */
void nbd_export_fence(struct nbd_export *export, const struct reason *reason);
/* What new clients are told; copied. False without memory: then it stays. */
bool nbd_export_describe(struct nbd_export *export, const char *description);
/* Of all its clients together, from now on; its clocks begin anew. */
void nbd_export_limit(struct nbd_export *export, const struct rate_limit *limit);
/* The backend has grown. */
void nbd_export_resized(struct nbd_export *export);
/* SERVING or FAILED -> LEAVING. */
void nbd_export_leave(struct nbd_export *export);
/* LEAVING: is nothing in flight and nobody there any more? */
bool nbd_export_has_left(const struct nbd_export *export);
/* Drops its clients now; what they have sent is still done. */
void nbd_export_drop_clients(struct nbd_export *export);
/* No request in flight, no connection. */
void nbd_export_remove(struct nbd_export *export);

/* May requests be submitted now? If not, the server wakes the export's connections when it changes. */
bool export_is_open(const struct nbd_export *export);
void export_submit(struct nbd_export *export, struct export_request *request);
/* The request's connection is gone; finished() is still called, perhaps at once. */
void export_abandon(struct export_request *request);
/* A new client has come: all writes in flight are awaited. */
void export_await_writes(struct nbd_export *export);
/* Memory, beyond its own buffer, that a request of this range takes if it is not whole blocks. */
uint64_t export_bounce_size(const struct nbd_export *export, uint64_t offset, uint64_t length);

/* For alignment.c: the request, except for its FUA, has been done. */
void export_request_done(struct export_request *request, int error);

#endif
