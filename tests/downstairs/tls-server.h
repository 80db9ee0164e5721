/* tls-server.h: TLS of tb4-test-downstairs: asks every client for a certificate of the same authority, as upstream's does
 * (crucible-protocol.md 3.7). Bytes go in and come out; the socket is client.c's.
 *
 * Ends the process without memory. Any other fault is of the peer: the connection is to be dropped, when what there is
 * to be sent, which may be an alert, has been.
 */
#ifndef DOWNSTAIRS_TLS_SERVER_H
#define DOWNSTAIRS_TLS_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tls_server_identity;
struct tls_server;

/* From PEM files; ends the process with a message if they are of no use. */
struct tls_server_identity *tls_server_identity_open(const char *authority, const char *certificate, const char *key);

struct tls_server *tls_server_new(const struct tls_server_identity *identity);
void tls_server_free(struct tls_server *tls);
/* Bytes from the socket. */
void tls_server_feed(struct tls_server *tls, const void *bytes, size_t size);
/* What they mean: how many bytes have come to `buffer`, 0 if more are needed for that, or -1. */
ssize_t tls_server_take(struct tls_server *tls, void *buffer, size_t size);
/* Seals what is to be sent. */
void tls_server_seal(struct tls_server *tls, const void *bytes, size_t size);
/* What is to go to the socket. Valid until the next call; it counts as taken. */
const uint8_t *tls_server_output(struct tls_server *tls, size_t *size);

#endif
