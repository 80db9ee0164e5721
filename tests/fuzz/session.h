/* session.h: one client of a server in this process, whose bytes the fuzzer chooses. */
#ifndef SESSION_H
#define SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct nbd_server;

/* The server with one export, vm-200-disk-0, made at the first call. */
struct nbd_server *session_server(void);
uv_loop_t *session_loop(void);

/* Sends the pieces to a new client's connection, each when the one before has been taken in, and
 * throws the answers away. Returns when the connection is gone. With `needs_tls` the server demands TLS of it, and it is a
 * finding if it is served. */
struct session_piece {
	const uint8_t *bytes;
	size_t length;
};
void session_run(const struct session_piece *pieces, size_t count, bool needs_tls);

#endif
