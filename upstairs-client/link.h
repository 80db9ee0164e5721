/* link.h: one connection to a downstairs, TCP or TLS: frames out in batches, frames in.
 *
 * Frames are kept until link_flush() and leave together in one call; the data of a write is sent from where it lies. One
 * link's full socket never holds up another: what cannot be sent waits in its own queue, which is as long as what the
 * core has in flight, and bounded. Nothing is called back from within link_send(), link_flush() or link_close().
 *
 * The loop's thread only. Errors are negative errno.
 */
#ifndef UPSTAIRS_LINK_H
#define UPSTAIRS_LINK_H

#include <sys/socket.h>
#include <uv.h>

#include "codec.h"
#include "tls.h"

struct link;

struct link_user {
	void *context;
	unsigned slot;
	/* A write that nobody waits for may wait for others, 1 ms at most, so that several leave together. What is no write
	 * takes them all along. */
	bool gathers_writes;
	void (*connected)(void *context, unsigned slot, const struct crucible_address *peer);
	/* The frame is valid during the call only. */
	void (*received)(void *context, unsigned slot, const struct crucible_message *message);
	/* The last call. `why` is one sentence, valid during the call. */
	void (*closed)(void *context, unsigned slot, const char *why);
};

/* Begins to connect; by TLS unless `identity` is NULL, and then only to a downstairs with a certificate for the slot
 * ("downstairs0"). The handshake counts as part of the connect, which takes 10 s at most. NULL without memory or
 * descriptors; then closed() is not called. */
struct link *link_open(uv_loop_t *loop, const struct sockaddr *address, const struct tls_identity *identity,
	const struct link_user *user);
/* Data of a write must stay until it has been answered, or link_close(). False: out of memory, or the queue is too
 * long; the link is of no use any more. */
bool link_send(struct link *link, const struct crucible_message *message);
/* Sends what was queued since the last time. An error is not told here: what the downstairs said before it comes first.
 */
void link_flush(struct link *link);
/* Nothing has been sent or asked for a while: gives back memory that is not in use. */
void link_rest(struct link *link);
/* No call comes any more; what is queued is not sent. Frees itself later. */
void link_close(struct link *link);

#endif
