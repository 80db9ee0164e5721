/* tls.h: TLS 1.3 between the server and a client, by GnuTLS: what STARTTLS puts under the NBD protocol.
 *
 * Credentials say who we are and whom we let in; they are read once and never change. Whoever replaces them opens new
 * ones: each connection keeps those that it began with (a count of references). A connection's TLS works on its
 * socket, which does not block and stays the connection's. It knows nothing of NBD.
 *
 * A client shows a certificate that the authority has signed, for clients and valid now, or proves that it has a key of
 * the PSK file; there is no other way in. Which exports it may see is asked by name: nbd_tls_peer_is().
 *
 * The loop's thread only, but for nbd_credentials_open(). Lengths in bytes. Errors are negative errno: -EAGAIN, wait for the
 * socket; -ECONNRESET, the peer is gone; -EPROTO, nbd_tls_fault() says why in words. After any but -EAGAIN nothing is left
 * but nbd_tls_close().
 */
#ifndef TB4_NBD_TLS_H
#define TB4_NBD_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "reason.h"

/* PEM files. The first three together, the PSK file, or all; `revoked`, a list of revoked certificates, may be NULL.
 * Nobody else may be able to read the key and the PSK file. */
struct nbd_credential_files {
	char *authority, *certificate, *key;
	char *revoked;
	char *psk_file; /* lines of NAME:HEXKEY */
};
struct nbd_credentials;

/* Reads the files, which blocks; any thread. The caller has the first reference. */
int nbd_credentials_open(
	const struct nbd_credential_files *files, struct nbd_credentials **credentials, struct reason *reason);
struct nbd_credentials *nbd_credentials_keep(struct nbd_credentials *credentials);
void nbd_credentials_drop(struct nbd_credentials *credentials); /* may be NULL */
/* When our certificate ceases to be valid; -1 if there is none. */
time_t nbd_credentials_end(const struct nbd_credentials *credentials);

struct nbd_tls;

/* The server's side of TLS on a connected socket. Its handshake goes on within nbd_tls_receive(). NULL without memory. */
struct nbd_tls *nbd_tls_open(struct nbd_credentials *credentials, int fd);
/* Says goodbye if the socket takes it at once. */
void nbd_tls_close(struct nbd_tls *tls); /* may be NULL */

/* As readv(): fills the places in order with what is there. Fewer bytes than there is room for: there was no more. 0: the
 * end, in order or not. */
ssize_t nbd_tls_receive(struct nbd_tls *tls, const struct iovec *places, unsigned count);
/* As writev(): how many bytes have left for the socket. Those that have not must come first at the next call. */
ssize_t nbd_tls_send(struct nbd_tls *tls, const struct iovec *parts, unsigned count);
/* Is there something for nbd_tls_receive() that the socket does not tell of? */
bool nbd_tls_has_received(const struct nbd_tls *tls);
/* The handshake is not finished. */
bool nbd_tls_is_beginning(const struct nbd_tls *tls);
/* It goes on when the socket is writable. */
bool nbd_tls_wants_to_send(const struct nbd_tls *tls);
/* One sentence. Valid until nbd_tls_close(). */
const char *nbd_tls_fault(const struct nbd_tls *tls);

/* Behind the handshake: */

/* A name of the client, for people: of its certificate, or of its key in the PSK file. Valid until nbd_tls_close(). */
const char *nbd_tls_peer(const struct nbd_tls *tls);
/* Is one of `names`, separated by commas or blanks, a name of the client: common name or DNS name of its certificate,
 * or name of its key? */
bool nbd_tls_peer_is(const struct nbd_tls *tls, const char *names);
const char *nbd_tls_version(const struct nbd_tls *tls);
const char *nbd_tls_cipher(const struct nbd_tls *tls);
/* Does the kernel encrypt what is sent, and decrypt what is received (kTLS)? */
bool nbd_tls_in_kernel(const struct nbd_tls *tls);

#endif
