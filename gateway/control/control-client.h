/* control-client.h: questions to the control sockets of gateways (control-server.h). Blocking.
 *
 * Each gateway that is asked has its own connection, and all are asked at once: one that hangs costs the time limit once
 * and holds up none of the others.
 */
#ifndef TB4_CONTROL_CLIENT_H
#define TB4_CONTROL_CLIENT_H

#include "json-fields.h"
#include "reason.h"

enum { CONTROL_ANSWER_TIMEOUT_MS = 30000 };

/* One gateway that is asked. */
struct control_question {
	const char *path; /* of its socket; the caller's */
	/* 0; -ECONNREFUSED if nobody listens at `path`; -ETIMEDOUT; -EBADMSG if the answer makes no sense; -EPROTO with the
	 * gateway's own sentence if it refused, `answer` then holds its exit_status. */
	int status;
	struct reason reason;       /* unless status is 0 */
	struct json_object *answer; /* to be freed by the caller; NULL if there is none */
};

/* Sends `request`, to which the version is added, to each of them, and waits for the answers until all are there or
 * `timeout_ms` have passed. Returns 0, or -ENOMEM if none was asked. */
int control_ask_all(struct control_question *questions, size_t count, struct json_object *request, int timeout_ms);

/* The same for one, within CONTROL_ANSWER_TIMEOUT_MS. Returns what would be its status. */
int control_call(const char *path, struct json_object *request, struct json_object **answer,
	struct reason *reason);

#endif
