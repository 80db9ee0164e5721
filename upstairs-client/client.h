/* client.h: a volume on three downstairs, for programs with a libuv loop: core/core.h with connections, time and
 * hashing around it. What the gateway's backend and tests/tools/upstairs-io use.
 *
 * All calls on the loop's thread; callbacks come from the loop, never from within a call. Offsets and lengths are
 * bytes and multiples of the block size, once that is known. Errors are negative errno.
 *
 * Requests that are in flight at the same time have no order: one that shall come behind another is submitted after
 * its done(). Those of one turn of the loop go out together, neighbouring writes as one.
 */
#ifndef UPSTAIRS_CLIENT_H
#define UPSTAIRS_CLIENT_H

#include <sys/socket.h>
#include <uv.h>

#include "core/core.h"
#include "history-file.h"
#include "list.h"
#include "sealer.h"
#include "tls.h"

struct client_options {
	struct sockaddr_storage targets[UPSTAIRS_SLOTS];
	const struct tls_identity *identity; /* the caller's, until closed(); NULL: no TLS */
	uint64_t block_size;                 /* of the regions */
	const void *key;     /* INTEGRITY_KEY_SIZE bytes, copied; NULL: the regions are not encrypted */
	/* ms, see core.h */
	uint64_t leave_after, wait_for_named, flush_interval, hedge_after, recovery_budget, scrub_interval;
	uint64_t scrub_rate; /* bytes a second, see core.h */
	bool ack_on_submit;  /* see core.h */
	unsigned min_copies; /* see core.h */
	/* The caller's, until closed() has been called. What an earlier process left in it under the same key is taken
	 * over; what is not that is reported and given up. */
	struct history_file *history;
	struct crucible_uuid history_key; /* changes with every change of the claim */
};

struct client_user {
	void *context;
	/* The record is to be stored, then client_record_stored() called, from the loop. */
	void (*store_record)(void *context, const struct upstairs_record *record);
	void (*report)(void *context, unsigned slot, const char *text);
	void (*changed)(void *context);
	void (*slots_changed)(void *context); /* the state of one or more, which may have had others in between; may be NULL */
	void (*closed)(void *context);
};

/* A request of up to UPSTAIRS_REQUEST_MAX bytes, or more if it is WRITE_ZEROES. The caller's again in done(). */
struct client_request {
	enum upstairs_operation operation;
	unsigned flags; /* enum upstairs_flag, of WRITE_ZEROES */
	uint64_t offset, length;
	void *buffer; /* of a write: must stay as it is until done(); of READ: filled */
	void (*done)(struct client_request *request, int error);
	/* the client's */
	struct upstairs_request core;
	struct crucible_block_context *contexts; /* of a write; the sealed bytes lie behind them */
	struct sealing sealing;
	struct list link;
	int error;
	struct client_request *next;
};

struct client;

/* NULL without memory. */
struct client *client_open(uv_loop_t *loop, const struct client_options *options, const struct client_user *user);
void client_activate(struct client *client, uint64_t generation, const struct upstairs_record *record);
void client_submit(struct client *client, struct client_request *request);
/* Does [offset, offset + length) begin with blocks that were never written, as far as that is known without reading?
 * *alike is how many bytes from `offset` on are so, or are not known to be. In done() of a read it tells where its
 * holes are: what is a hole then was read as zeros. */
bool client_is_hole(const struct client *client, uint64_t offset, uint64_t length, uint64_t *alike);
/* The slot gets a new, empty region at this address; see upstairs_replace(). */
int client_replace(struct client *client, unsigned slot, const struct sockaddr_storage *target);
int client_retry(struct client *client, unsigned slot); /* see upstairs_retry() */
int client_scrub(struct client *client, uint64_t rate); /* see upstairs_scrub() */
void client_scrub_stop(struct client *client);
void client_record_stored(struct client *client, enum upstairs_stored outcome);
void client_deactivate(struct client *client);
/* Drops everything and frees itself, then calls closed(). Requests in flight are forgotten; they are the caller's again
 * in closed(). */
void client_close(struct client *client);
/* Is the history that of an earlier process, from which it goes on? */
bool client_has_taken_over(const struct client *client);
const struct upstairs *client_core(const struct client *client);

#endif
