/* negotiate.h: the NBD handshake as a client, up to where the kernel can take the socket over.
 *
 * Fixed newstyle, simple replies, no TLS. Block sizes are not asked for: the server then takes requests of any sector, and so the
 * device has sectors of 512 bytes, as the disk has in its VM; a partition table fits both.
 *
 * Blocking, bounded in time and memory whatever the server sends; any thread.
 */
#ifndef TB4_NEGOTIATE_H
#define TB4_NEGOTIATE_H

#include <stdint.h>

#include "reason.h"

struct negotiated {
	int fd; /* the caller's; -1 if it failed */
	uint64_t size;  /* bytes */
	uint16_t flags; /* transmission flags */
};

/* Connects to the unix socket `path` and chooses `export`. `wake`, if not negative, ends it with -EINTR when it becomes readable.
 * Returns 0; -ECONNREFUSED if nobody listens, or with the server's sentence if it refuses; -ETIMEDOUT after `limit_ms`;
 * -EBADMSG if the server talks nonsense. */
int negotiate(const char *path, const char *export, int wake, unsigned limit_ms, struct negotiated *result,
	struct reason *reason);

#endif
