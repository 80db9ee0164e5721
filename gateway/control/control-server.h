/* control-server.h: the socket by which tb4, hooks and monitors talk to one gateway.
 *
 * Protocol: one JSON object per line, in UTF-8, each way, at most CONTROL_LINE_MAX bytes. A request
 * is {"version": 1, "command": "status", ...}; the answer {"version": 1, "ok": true, ...} or
 * {"version": 1, "ok": false, "error": "one sentence", "exit_status": 75}. Several requests may
 * follow each other on one connection; each is answered before the next is read.
 *
 * Only root and the gateway's own user may connect (mode 0600 and SO_PEERCRED). A client that sends
 * nothing useful costs its own connection: bad lines get one answer and the end, silent clients go
 * after CONTROL_TIMEOUT_MS, the oldest that is not waiting for us goes when there are more than
 * CONTROL_CLIENTS_MAX.
 *
 * Loop thread only.
 */
#ifndef TB4_CONTROL_SERVER_H
#define TB4_CONTROL_SERVER_H

#include <uv.h>

#include "json-fields.h"
#include "reason.h"

enum {
	CONTROL_VERSION = 1,
	CONTROL_LINE_MAX = 1 << 20,
	CONTROL_REQUEST_MAX = 64 << 10,
	CONTROL_CLIENTS_MAX = 16,
	CONTROL_TIMEOUT_MS = 10000,
};

struct control_server;
struct control_client;

/* Handles one request, which is valid during the call. Calls one of the two functions below for
 * `client`, once, now or later. */
typedef void (*control_handler)(
	void *context, struct control_client *client, const char *command, struct json_object *request);

/* Listens on `path`, replacing what is there. */
int control_server_open(uv_loop_t *loop, const char *path, control_handler handler, void *context,
	struct control_server **server, struct reason *reason);
/* Drops all clients, removes the socket; calls closed() when all is freed. */
void control_server_close(struct control_server *server, void (*closed)(void *context), void *context);

/* Answers with `answer`, to which version and ok are added; owns it from now on. NULL stands for one
 * that could not be made. */
void control_answer(struct control_client *client, struct json_object *answer);
void control_refuse(struct control_client *client, int error, const struct reason *reason);

#endif
