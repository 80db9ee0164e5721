/* server.h: tb4-test-downstairs as a running process: the engine behind sockets.
 *
 * 1. One thread, one libuv loop. A frame is given to the engine as soon as it is complete, so
 *    what the engine sends is there when the call returns; it is written at the end of each batch
 *    of frames that came together.
 * 2. Replies that a peer does not read pile up, as with upstream.
 * 3. While the engine is wedged no upstairs is answered, but the control socket is.
 * 4. A client is freed when its handles are closed. The engine forgets it before that.
 */
#ifndef DOWNSTAIRS_SERVER_H
#define DOWNSTAIRS_SERVER_H

#include <uv.h>

#include "engine.h"
#include "faults.h"
#include "tls-server.h"

struct server {
	uv_loop_t loop;
	struct disk *disk;
	struct downstairs *downstairs;
	struct crucible_region region;
	struct faults faults;
	bool read_only;
	struct tls_server_identity *identity; /* NULL: no TLS */
	uint64_t silence_limit; /* ms without a frame after which a client is dropped */
	struct list clients, http_clients;
	uv_tcp_t listener, http_listener;
	uv_pipe_t control_listener;
	uv_timer_t silence_timer;
};

/* client.c: upstairs. */
void clients_listen(struct server *server);
/* The engine's callbacks; peers are clients. */
void client_send(void *context, void *peer, const void *head, size_t head_size, const void *data,
	size_t data_size);
void client_close(void *context, void *peer);
/* The engine has gone on after a fetch or a wedge: writes what it has sent. */
void clients_wake(struct server *server);
void clients_drop_silent(struct server *server);

/* http.c: the repair port. */
void http_listen(struct server *server);
/* As clients_wake(), or a fault is over. */
void http_wake(struct server *server);

/* fetch.c: an extent from the repair port of another downstairs; the engine's callback. Ends in
 * downstairs_fetched(). */
void fetch_extent(void *context, const struct crucible_address *source, uint32_t extent_id);

/* control.c: the socket for faults. */
void control_listen(struct server *server, const char *path);

#endif
