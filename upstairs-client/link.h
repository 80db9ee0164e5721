/* link.h: one TCP connection to a downstairs: frames out in batches, frames in.
 *
 * Frames that are handed over during a turn of the loop leave together at its end, by writev; the data of a write is
 * sent from where it lies. One link's full socket never holds up another: what cannot be sent waits in its own queue,
 * which is as long as what the core has in flight. Nothing is called back from within link_send() or link_close().
 *
 * The loop's thread only. Errors are negative errno.
 */
#ifndef UPSTAIRS_LINK_H
#define UPSTAIRS_LINK_H

#include <sys/socket.h>
#include <uv.h>

#include "codec.h"

struct link;

struct link_user {
	void *context;
	unsigned slot;
	void (*connected)(void *context, unsigned slot, const struct crucible_address *peer);
	/* The frame is valid during the call only. */
	void (*received)(void *context, unsigned slot, const struct crucible_message *message);
	/* The last call. `why` is one sentence. */
	void (*closed)(void *context, unsigned slot, const char *why);
};

/* Begins to connect. NULL without memory or descriptors; then closed() is not called. */
struct link *link_open(uv_loop_t *loop, const struct sockaddr *address, const struct link_user *user);
/* Data of a write must stay until it has been answered, or link_close(). False: out of memory. */
bool link_send(struct link *link, const struct crucible_message *message);
/* No call comes any more; what is queued is not sent. Frees itself later. */
void link_close(struct link *link);

#endif
