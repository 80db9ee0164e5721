/* server-internal.h: what the files of gateway/nbd share: server.c, connection.c, handshake.c,
 * transmission.c, export.c, alignment.c; tls.c they only use.
 *
 * Layers: server.c accepts; connection.c moves bytes, through tls.c if the client has asked for that, and owns a
 * client's life; handshake.c and transmission.c give the bytes meaning; export.c does the requests.
 *
 * A connection is freed in one place, connection.c's release(), when its handles are closed and none
 * of its requests is in flight. Code that runs within a connection's turn defers sending to the
 * end of the turn; everything else marks the connection with server_wake().
 */
#ifndef TB4_NBD_SERVER_INTERNAL_H
#define TB4_NBD_SERVER_INTERNAL_H

#include <stddef.h>
#include <sys/uio.h>
#include <uv.h>

#include "nbd/budget.h"
#include "nbd/buffer-pool.h"
#include "nbd/busy-poll.h"
#include "nbd/export.h"
#include "nbd/nbd-protocol.h"
#include "nbd/server.h"
#include "nbd/tls.h"

enum {
	REQUESTS_PER_TURN = 64, /* of one client, then it is the turn of others */
	RECEIVE_SIZE = 256 << 10,       /* in transmission */
	HANDSHAKE_OPTION_MAX = 64 << 10, /* data of one option */
	PAYLOAD_MAX = BACKEND_BLOCK_MAX,
	REQUEST_COST = 2048, /* least that a request counts for in the budget */
	EXTENTS_MAX = 512,     /* of one BLOCK_STATUS reply */
	HOLES_MIN = 64 << 10,  /* shorter READs are answered with data only */
	/* headers and parts of a READ with holes, or the payload of a BLOCK_STATUS reply */
	REPLY_EXTRAS_SIZE = 16 << 10,
};

struct nbd_server {
	uv_loop_t *loop;
	struct nbd_limits limits;
	struct list exports;     /* nbd_export.link */
	struct list listeners;   /* struct listener, server.c */
	struct list handshakes;  /* nbd_connection.link, oldest first */
	struct list connections; /* nbd_connection.link, in transmission */
	struct list closing;     /* nbd_connection.link */
	struct nbd_credentials *credentials; /* NULL: no TLS here */
	unsigned handshake_count, connection_count;
	uint64_t accepted, refused, next_id;

	struct budget budget;
	struct buffer_pool pool;
	struct list free_requests; /* struct request.link */
	unsigned free_request_count;

	/* Connections to go on with in this turn of the loop: nbd_connection.wake_link. While there are
	 * any, `busy` keeps the loop from waiting. */
	struct list awake;
	uv_check_t turn;
	uv_idle_t busy;
	/* A client has had its turn since the loop looked at its descriptors. Meanwhile another one may have
	 * hung up and repeated over that client's connection what it had not been answered. */
	bool events_are_old;
	uv_timer_t handshake_timer; /* of the oldest handshake */
	uv_timer_t stall_timer;     /* runs while somebody waits for memory */
	uv_timer_t idle_timer;      /* one shot after the last activity: gives memory back */
	bool was_active;

	struct trace trace;
	struct rate_limit limit; /* of all exports together */
	bool has_limits;         /* there is one at all, here or at an export */
	struct list limited;     /* clients that wait for a rate limit: nbd_connection.limit_link, longest first */
	uint64_t limited_until;  /* loop time in ms that limit_timer is set for */
	uv_timer_t limit_timer;

	struct busy_poll request_poll, answer_poll; /* of a client that sends one at a time, and of its backend */
	struct busy_poll answers_poll;              /* while several requests are with the backend */

	struct drain *drain; /* server.c; set from the beginning of an orderly stop */
	unsigned open_handles;
	int spare_fd; /* given up for a moment to accept a client when there are no descriptors */
	void (*closed)(void *context);
	void *closed_context;
	bool is_closing;
};

enum connection_phase {
	PHASE_GREETING, /* waits for the client's flags */
	PHASE_OPTIONS,
	PHASE_STARTTLS, /* TLS begins when the acknowledgement has left in clear text; then back to options */
	PHASE_TRANSMISSION,
	PHASE_LAST_REPLIES, /* takes no more requests; closes when all are answered */
	PHASE_CLOSED,
};

/* What the client has negotiated. */
struct session {
	bool no_zeroes, structured, extended, knows_block_sizes;
	/* SET_META_CONTEXT: chosen for this name */
	bool wants_allocation;
	char meta_name[NBD_MAX_STRING + 1];
};

/* A WRITE whose payload does not lie in the receive buffer as a whole: the rest goes where it
 * belongs directly. */
struct payload {
	struct request *request; /* NULL: none */
	size_t received;
	uint64_t skip; /* bytes to throw away, of a request that was refused */
};

struct nbd_connection {
	struct nbd_server *server;
	struct nbd_export *export; /* in transmission */
	struct list link, export_link, wake_link, limit_link;
	uint64_t id;
	char peer[160]; /* for logs: "pid 812 uid 0" or an address, and behind TLS a name */
	bool needs_tls;  /* has to begin it before it may do anything else */
	bool was_warned; /* that it does not: logged once */
	struct nbd_tls *tls; /* NULL: clear text */
	bool is_named; /* `peer` has the name that TLS has found out */
	enum connection_phase phase;
	uint64_t deadline; /* of the handshake, loop time in ms */
	struct session session;

	int in_fd, out_fd;
	uv_poll_t in, out; /* `out` only if the descriptors differ */
	bool has_out;
	int watched; /* events that `in` is started for */
	bool out_watched;
	unsigned open_handles;
	bool in_turn; /* replies are sent at the end of the turn */
	bool end_of_input;
	enum { COUNTED_NOT, COUNTED_HANDSHAKE, COUNTED_CONNECTION } counted_as; /* server.c */

	/* received and not yet understood: receive[receive_at, receive_end) */
	uint8_t *receive;
	size_t receive_size, receive_at, receive_end;
	bool wants_more;       /* what is there is no whole option or request */
	bool waits_for_output; /* too many handshake replies are unsent */
	unsigned turn_requests, round_requests; /* taken in this turn, and in this round of it */
	uint64_t round_time; /* ns, when the first of the round was */
	uint64_t limited_since; /* ns: since when a rate limit keeps the next one waiting; 0: it does not */
	unsigned eagerness;     /* how well looking for more in the same turn has paid lately */
	unsigned lone_requests; /* how many in a row were the only one in flight */
	bool bulk;            /* the last request had a large payload */
	struct payload payload;

	/* handshake replies: out_bytes[out_at, out_end) */
	uint8_t *out_bytes;
	size_t out_size, out_at, out_end;

	struct list requests; /* submitted: struct request.link */
	struct list replies;  /* to be sent: struct request.link */
	unsigned request_count; /* both */
	uint64_t sent_at;     /* loop time in ms of the last progress in sending */
	uint64_t received_at; /* likewise of a payload */
	bool output_blocked;
	struct share share;

	void (*ended)(void *context);
	void *ended_context;
};

enum { REPLY_PARTS = 4, REPLY_HEADER_SIZE = 64 };

/* One request of a client and its reply. */
struct request {
	struct export_request work;
	struct nbd_connection *connection;
	struct list link;
	uint64_t cookie, offset, length;
	uint16_t type, flags;
	uint64_t started; /* ns */
	uint64_t received; /* ns: when its payload was complete, if that came in parts; else as started */
	uint64_t limited;  /* ns that a rate limit held it back before it was taken */
	int error;        /* of its answer */
	bool is_counted;  /* in the statistics */
	size_t cost;      /* taken from the budget */
	void *buffer;     /* from the pool, buffer_size as taken; NULL: none */
	size_t buffer_size;
	struct backend_extent *extents; /* from the pool: EXTENTS_SIZE; NULL: none */
	/* The reply: parts[part_at, part_count), of which the first may have been sent in part. They
	 * point into header, buffer and extras. */
	uint8_t header[REPLY_HEADER_SIZE];
	void *extras; /* from the pool: EXTRAS_SIZE; a reply of many parts */
	char *text;   /* of an error, from malloc() */
	struct iovec *parts;
	struct iovec own_parts[REPLY_PARTS];
	unsigned part_at, part_count;
};

/* server.c */

/* The connection gets a turn in this turn of the loop. */
void server_wake(struct nbd_connection *connection);
/* The export's state or export_is_open() has changed: wakes its clients. */
void server_wake_export(struct nbd_export *export);
/* An export's state has changed: wakes clients that may wait to choose it. */
void server_wake_handshakes(struct nbd_server *server);
/* Memory has been given back. */
void server_wake_for_memory(struct nbd_server *server);
/* A connection waits for memory: looks for clients that take no replies. */
void server_memory_short(struct nbd_server *server);
/* The connection's phase has changed. */
void server_connection_moved(struct nbd_connection *connection);
void server_connection_gone(struct nbd_connection *connection);
/* NULL if there is no such export for this client. */
struct nbd_export *server_find_export(const struct nbd_connection *connection, const char *name);
/* May the client know that there is this export? */
bool server_shows_export(const struct nbd_connection *connection, const struct nbd_export *export);
bool server_is_full(const struct nbd_server *server);
/* A client has sent something: keeps the idle timer going. */
void server_active(struct nbd_server *server);
/* A lone request has been answered: the next one may be here sooner than we could be woken. */
void server_expect_request(struct nbd_server *server);
/* A lone request is with the backend: the same for its answer. Ended by server_expect_request(). */
void server_expect_answer(struct nbd_server *server);
/* Several are, and one of them may be answered, or another one come. The gap is that to the next such call. */
void server_expect_answers(struct nbd_server *server);
/* The connection takes no more requests and all have been answered. True if it shall stay open
 * until the orderly stop has flushed the exports. */
bool server_keeps(struct nbd_connection *connection);

/* rate-limit.c */

/* has_limits is found anew; whoever waits looks again. */
void server_limits_changed(struct nbd_server *server);
/* May the connection's next request be taken at `now` (ns)? If not, the connection is woken when it may. */
bool server_limit_allows(struct nbd_connection *connection, uint64_t now);
/* It has been, with so many bytes of payload either way. */
void server_limit_take(struct nbd_connection *connection, uint64_t now, uint64_t bytes);

/* connection.c */

/* Owns the descriptors if it returns 0. */
int connection_open(struct nbd_server *server, int in_fd, int out_fd, const char *peer, bool needs_tls,
	struct nbd_connection **connection);
/* Goes on with what has been received, and sends what can be sent. */
void connection_turn(struct nbd_connection *connection);
/* The same when no event of its socket is the cause: looks whether the client is still there. */
void connection_resume(struct nbd_connection *connection);
/* Drops the client now and abandons its requests. `why` is logged unless NULL. */
void connection_close(struct nbd_connection *connection, const char *why, ...)
	__attribute__((format(printf, 2, 3)));
/* No more requests: closes when those there are have been answered. */
void connection_finish(struct nbd_connection *connection);
/* Gives memory back that an idle client does not need. */
void connection_rest(struct nbd_connection *connection);
/* Bytes of the handshake to send. False without memory. */
bool connection_send(struct nbd_connection *connection, const void *bytes, size_t length);
/* Hands over a finished request: its parts are sent in order, then it is released. */
void connection_reply(struct request *request);
struct request *connection_new_request(struct nbd_connection *connection);
void connection_release_request(struct request *request);
void connection_enter_transmission(struct nbd_connection *connection);
/* From here on bytes go through TLS. The acknowledgement of STARTTLS has been sent. */
void connection_start_tls(struct nbd_connection *connection);

/* handshake.c */

void handshake_begin(struct nbd_connection *connection);
/* Understands what has been received. Sets wants_more if that needs more. */
void handshake_continue(struct nbd_connection *connection);

/* transmission.c */

/* As handshake_continue(). */
void transmission_continue(struct nbd_connection *connection);
/* Counts the replies that have been added since the last call: once for all, as reading the clock
 * for each would be a good part of what a request costs. */
void transmission_count_answers(struct nbd_connection *connection);
/* The payload of connection->payload.request is complete. */
void transmission_payload_received(struct nbd_connection *connection);
/* What the client may do with the export, as the handshake tells it. */
uint16_t transmission_flags(
	const struct nbd_connection *connection, const struct nbd_export *export, const char *name);

#endif
