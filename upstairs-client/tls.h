/* tls.h: TLS on a connection to a downstairs, both sides with a certificate (crucible-protocol.md 3.7).
 *
 * Socket and bytes are those of the caller, link.c: nothing here waits. There is no way back to plain bytes.
 * The loop's thread only. Errors are negative errno; -EAGAIN: when the socket is readable, or, if tls_wants_to_send(),
 * writable. Any other ends the connection, and tls_fault() says why.
 */
#ifndef UPSTAIRS_TLS_H
#define UPSTAIRS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/* What we are and whom we trust; for any number of connections. */
struct tls_identity;
struct tls;

/* From PEM files: of the authority that signs the downstairs' certificates, and our own certificate and its key. NULL with
 * a sentence in `why`. */
struct tls_identity *tls_identity_open(const char *authority, const char *certificate, const char *key, char *why,
	size_t why_size);
void tls_identity_close(struct tls_identity *identity); /* after its last connection */

/* Of a connected socket that does not block. The peer must have a certificate for `name`, which is copied. NULL without
 * memory. */
struct tls *tls_open(const struct tls_identity *identity, int fd, const char *name);
void tls_close(struct tls *tls);
/* Returns 0 when the peer is known to be the right one. */
int tls_handshake(struct tls *tls);
/* Returns how many bytes were taken, which may have to wait here: see tls_has_to_send(). */
ssize_t tls_send(struct tls *tls, const struct iovec *parts, unsigned count);
bool tls_has_to_send(const struct tls *tls);
bool tls_wants_to_send(const struct tls *tls);
/* Returns how many bytes were received; 0: the end. */
ssize_t tls_receive(struct tls *tls, void *buffer, size_t size);
/* Are there bytes that the socket does not tell of? */
bool tls_has_received(const struct tls *tls);
/* One sentence. Valid until tls_close(). */
const char *tls_fault(const struct tls *tls);

#endif
