/* server.h: the NBD server of one process: listeners, clients, exports.
 *
 * Implements the NBD protocol (doc/proto.md of the NBD project): fixed newstyle negotiation,
 * simple, structured and extended replies. One thread, one libuv loop; every function here is
 * called on it. The server knows volumes only as exports (export.h) and backends only through
 * backend.h.
 */
#ifndef TB4_NBD_SERVER_H
#define TB4_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "nbd/export.h"
#include "nbd/tls.h"
#include "nbd/trace.h"

struct nbd_limits {
	uint64_t memory, connection_memory; /* bytes of requests in flight */
	unsigned max_handshakes, max_connections;
	uint64_t handshake_timeout, stall_timeout; /* milliseconds */
	uint64_t busy_poll; /* nanoseconds, see busy-poll.h */
	uint64_t slow_request; /* nanoseconds: longer ones are traced; 0: none */
	bool list_exports;
	/* Users, beside root and our own, that may connect to a unix socket. Copied. */
	const uid_t *allowed_users;
	size_t allowed_user_count;
};

int nbd_server_open(
	uv_loop_t *loop, const struct nbd_limits *limits, struct nbd_server **server, struct reason *reason);

/* Clients that come by TCP from now on have to use TLS with these credentials before they may do anything else; those
 * that are there keep theirs. The server owns the reference. There is no way back to clear text. */
void nbd_server_secure(struct nbd_server *server, struct nbd_credentials *credentials);

/* Accepts clients on a listening stream socket, unix or TCP. The server owns `fd` from now on. */
int nbd_server_listen(struct nbd_server *server, int fd, struct reason *reason);

/* Serves one client on a pair of descriptors, which may be the same and are owned from now on.
 * `ended` is called when that client is gone. */
int nbd_server_serve(struct nbd_server *server, int in_fd, int out_fd, void (*ended)(void *context),
	void *context, struct reason *reason);

/* Of all exports together, beside that of each: nbd_export_limit(). */
void nbd_server_limit(struct nbd_server *server, const struct rate_limit *limit);

/* The requests that took longer than limits.slow_request. */
const struct trace *nbd_server_trace(const struct nbd_server *server);

/* Orderly stop: no new clients and requests, the requests in flight are answered, every export is
 * flushed, then the connections are dropped; never ESHUTDOWN, which clients take for an error.
 * After `timeout` ms what is left is dropped unanswered. done() gets the worst flush error, or
 * -ETIMEDOUT. */
void nbd_server_drain(struct nbd_server *server, uint64_t timeout,
	void (*done)(void *context, int error), void *context);

/* No client, no export, or after nbd_server_drain(). `closed` is called when all is freed. */
void nbd_server_close(struct nbd_server *server, void (*closed)(void *context), void *context);

struct nbd_server_status {
	unsigned handshakes, connections;
	uint64_t accepted, refused;
	uint64_t memory_used, memory;
};
void nbd_server_status(const struct nbd_server *server, struct nbd_server_status *status);

/* Calls see() for each client in transmission. What it is given is valid during the call. */
struct nbd_client_status {
	const char *peer; /* address, or process, with a name behind TLS */
	const struct nbd_export *export;
	const struct nbd_tls *tls; /* NULL: clear text */
};
void nbd_server_each_client(const struct nbd_server *server,
	void (*see)(void *context, const struct nbd_client_status *client), void *context);

#endif
