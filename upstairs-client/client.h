/* client.h: a volume on three downstairs, for programs with a libuv loop: core/core.h with connections, time and
 * hashing around it. What the gateway's backend and tests/tools/upstairs-io use.
 *
 * All calls on the loop's thread; callbacks come from the loop, never from within a call. Offsets and lengths are
 * bytes and multiples of the block size, once that is known. Errors are negative errno.
 */
#ifndef UPSTAIRS_CLIENT_H
#define UPSTAIRS_CLIENT_H

#include <sys/socket.h>
#include <uv.h>

#include "core/core.h"

struct client_options {
	struct sockaddr_storage targets[UPSTAIRS_SLOTS];
	uint64_t block_size; /* of the regions */
	const void *key;     /* INTEGRITY_KEY_SIZE bytes, copied; NULL: the regions are not encrypted */
	uint64_t leave_after, wait_for_named, flush_interval; /* ms, see core.h */
	/* Where the history lies, aligned to 8; the caller's, until closed() has been called. */
	void *history;
	size_t history_size;
	/* Changes with every change of the claim: a history under another key is not taken over. */
	struct crucible_uuid history_key;
};

struct client_user {
	void *context;
	/* The record is to be stored, then client_record_stored() called, from the loop. */
	void (*store_record)(void *context, const struct upstairs_record *record);
	void (*report)(void *context, unsigned slot, const char *text);
	void (*changed)(void *context);
	void (*closed)(void *context);
};

/* A request of up to UPSTAIRS_REQUEST_MAX bytes. The caller's again in done(). */
struct client_request {
	enum upstairs_operation operation;
	uint64_t offset, length;
	void *buffer; /* of a write: must stay as it is until done() */
	void (*done)(struct client_request *request, int error);
	/* the client's */
	struct upstairs_request core;
	struct crucible_block_context *contexts; /* of a write; the sealed bytes lie behind them */
	int error;
	struct client_request *next;
};

struct client;

/* NULL without memory. */
struct client *client_open(uv_loop_t *loop, const struct client_options *options, const struct client_user *user);
void client_activate(struct client *client, uint64_t generation, const struct upstairs_record *record);
void client_submit(struct client *client, struct client_request *request);
void client_record_stored(struct client *client, enum upstairs_stored outcome);
void client_deactivate(struct client *client);
/* Drops everything and frees itself, then calls closed(). Requests in flight are forgotten. */
void client_close(struct client *client);
const struct upstairs *client_core(const struct client *client);

#endif
