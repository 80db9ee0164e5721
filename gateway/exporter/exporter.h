/* exporter.h: the figures of all gateways of this node over HTTP, for Prometheus.
 *
 * A process of its own, so that whoever reaches it reaches nothing that holds data: it knows gateways only by their
 * control sockets, as tb4 does, and keeps nothing between two scrapes.
 *
 * Invariants
 *  1. A scrape asks all gateways at once and waits EXPORTER_TIMEOUT_MS for them: one that hangs is told as down and holds
 *     up no other.
 *  2. One thread of libmicrohttpd serves all clients; scrapes follow each other. A client costs one of
 *     EXPORTER_CONNECTIONS, and no longer than EXPORTER_IDLE_SECONDS without a word.
 *  3. GET and HEAD only; no byte of a request is kept or used but method and path.
 */
#ifndef TB4_EXPORTER_H
#define TB4_EXPORTER_H

#include "reason.h"

enum { EXPORTER_TIMEOUT_MS = 1000, EXPORTER_CONNECTIONS = 32, EXPORTER_IDLE_SECONDS = 10 };

struct exporter;

/* Serves on the listening socket `fd`, which it owns from now on, also when it fails. `run_dir` is the caller's, until it
 * is closed. 0 or a negative errno. */
int exporter_open(const char *run_dir, int fd, struct exporter **exporter, struct reason *reason);
/* Drops all clients; a scrape that is under way ends first. */
void exporter_close(struct exporter *exporter);

#endif
