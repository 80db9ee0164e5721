/* control-client.h: one question to the control socket of a gateway (control-server.h). Blocking. */
#ifndef TB4_CONTROL_CLIENT_H
#define TB4_CONTROL_CLIENT_H

#include "json-fields.h"
#include "reason.h"

/* Sends `request`, to which the version is added, and waits for the answer, which the caller frees.
 * Returns 0; -ECONNREFUSED if nobody listens at `path`; -ETIMEDOUT; -EBADMSG if the answer makes no
 * sense; -EPROTO with the gateway's own sentence if it refused, *answer then holds its exit_status. */
int control_call(const char *path, struct json_object *request, struct json_object **answer,
	struct reason *reason);

#endif
