/* engine.h: a downstairs as a pure engine: no sockets, no clock, no threads, no chance.
 *
 * It behaves as upstream's downstairs does with message version 13 (crucible-protocol.md 3, 4, 6.4,
 * 7.2, 9), its weaknesses included. Frames go in, frames come out; its disk is a struct disk, which
 * stays when the engine is killed. Used by the simulator with disks in memory, and by
 * tb4-test-downstairs with sockets and files.
 *
 * 1. Same inputs in the same order, same outputs. Work is done within the call that gives the
 *    input, in the order in which inputs came, but see 2.
 * 2. While an extent is being fetched, or an error repeats for ever (wedged), nothing is done
 *    and nobody is answered. Inputs are kept, and handled in order when that is over.
 * 3. A request that aborts upstream's process ends in died(). A process that the disk's hook ended
 *    is KILLED, without a call. In both cases the engine does nothing any more: kill it.
 * 4. A connection's peer is used in callbacks until close() was called for it, or
 *    downstairs_closed() was; after either the connection must not be used any more.
 * 5. Callbacks may give inputs, but downstairs_fetched(); these are handled after the present one.
 * 6. A dependency is met only by a job of this connection that is in its completed set.
 * 7. At most one connection of a read-write downstairs is registered, at most one per upstairs id
 *    of a read-only one. Others, displaced in silence by flaw W1, go on being served.
 *
 * Deviations: a read whose answer would be above the protocol's limit closes the connection, which
 * is what a peer would do when it sees the frame. Jobs that wait under one id are all kept, while
 * upstream mixes them up. How many extents a flush has stamped when it meets a closed one is a race
 * in upstream, and fixed here.
 */
#ifndef DOWNSTAIRS_ENGINE_H
#define DOWNSTAIRS_ENGINE_H

#include "disk.h"

struct downstairs;
struct downstairs_connection;

struct downstairs_callbacks {
	/* A frame, whose end may lie elsewhere; both parts are valid during the call. */
	void (*send)(void *context, void *peer, const void *head, size_t head_size, const void *data,
		size_t data_size);
	/* The downstairs closes a connection, after what it has sent. */
	void (*close)(void *context, void *peer);
	/* Get an extent from another downstairs; downstairs_fetched() is to follow at some time. */
	void (*fetch)(void *context, const struct crucible_address *source, uint32_t extent_id);
	void (*died)(void *context, const char *reason);
	/* NULL, or whether this try of a job is to fail with "test error". */
	bool (*test_error)(void *context, const struct crucible_message *job);
};

struct downstairs_options {
	bool read_only;
	struct crucible_address repair_address; /* as told in YesItsMe */
	unsigned wedge_reports;                 /* ErrorReports sent before going silent */
	const struct downstairs_callbacks *callbacks;
	void *context;
};

enum downstairs_state {
	DOWNSTAIRS_RUNNING,
	DOWNSTAIRS_FETCHING,
	DOWNSTAIRS_WEDGED,
	DOWNSTAIRS_DIED,
	DOWNSTAIRS_KILLED,
};

/* Starts a process; the disk is the caller's. NULL if it refuses to start, and why in *error,
 * whose texts are gone then. */
struct downstairs *downstairs_start(
	struct disk *disk, const struct downstairs_options *options, struct crucible_error *error);
/* kill -9: page cache stays; connections, queues and the registration are gone without a call. */
void downstairs_kill(struct downstairs *downstairs);
enum downstairs_state downstairs_state(const struct downstairs *downstairs);

struct downstairs_connection *downstairs_connected(struct downstairs *downstairs, void *peer);
/* One frame as it came; of less than 4 bytes if that is the length it states. Copied if needed
 * later. */
void downstairs_received(struct downstairs_connection *connection, const void *frame, size_t size);
/* The peer has closed it, or no frame came for 45 s. */
void downstairs_closed(struct downstairs_connection *connection);

/* The answer to fetch(): the image; or, with NULL, why there is none. */
void downstairs_fetched(
	struct downstairs *downstairs, const void *image, size_t size, const char *error);
/* As source of a repair: what the HTTP port tells (while it is running or fetching). The image has
 * disk_layout()->size bytes. repair_ready() may end in died(). */
bool downstairs_copy_extent(struct downstairs *downstairs, uint32_t extent_id, uint8_t *image);
bool downstairs_repair_ready(struct downstairs *downstairs, uint32_t extent_id);
/* The cause of the wedge may have gone away: tries again. */
void downstairs_retry(struct downstairs *downstairs);

/* Whether it has a job id and dependencies. */
bool downstairs_is_job(enum crucible_message_type type);
/* For tests: jobs that wait for dependencies, on all connections. */
size_t downstairs_pending(const struct downstairs *downstairs);
/* For checkers: does the block's data fit its context? Never written: is it zeros? */
bool downstairs_block_is_good(const struct downstairs *downstairs, uint64_t block);

#endif
