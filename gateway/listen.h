/* listen.h: the sockets that gateways and the exporter listen on. Each function returns a descriptor or an errno. */
#ifndef TB4_LISTEN_H
#define TB4_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "reason.h"

/* Replaces what is at `path`: the caller knows that nobody listens there. */
int listen_unix(const char *path, mode_t mode, struct reason *reason);
/* `address` is numeric. A taken port is reported with the process that has it. */
int listen_tcp(const char *address, uint16_t port, bool has_tls, struct reason *reason);
/* `text` is ADDRESS:PORT, numeric, an IPv6 address in brackets: of HTTP, which may be anywhere. */
int listen_http(const char *text, struct reason *reason);
/* Is it that? 0 or -ENOTUNIQ. */
int listen_check_http(const char *text, struct reason *reason);
/* May NBD be offered on this address? Without TLS on loopback only. 0 or -ENOTUNIQ. */
int listen_check_address(const char *address, bool has_tls, struct reason *reason);
/* The same question about a socket that is bound already. */
int listen_check_socket(int fd, bool has_tls, struct reason *reason);
/* Is it one of TCP? */
bool listens_by_tcp(int fd);
/* Who listens there now: as port_listener() of volume/ports.h says it. False if nobody does. */
bool listen_holder(const char *address, uint16_t port, char *holder, size_t size);
/* Is the socket bound to this path? */
bool listens_at(int fd, const char *path);

#endif
