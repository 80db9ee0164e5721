/* backend.h: what holds the bytes of a volume, seen from the NBD server and from tb4.
 *
 * A backend is asynchronous and single-threaded from its caller's view: every function is called
 * on the loop's thread and every callback comes on it. No backend calls another.
 *
 * Life:  open -> (opened) -> activate -> (activated) -> submit ... -> deactivate -> (deactivated)
 *        -> close -> (closed).   close is allowed at any time when no request is in flight.
 *
 * Contract
 *  1. Each submitted request is completed exactly once, perhaps before submit() returns.
 *  2. The caller owns the request and its buffer and leaves them alone until then. Requests lie
 *     inside the geometry and are multiples of block_min; lengths are at most block_max, except
 *     those of TRIM, ZERO, CACHE and STATUS.
 *  3. Requests in flight at the same time may be done in any order.
 *  4. A FLUSH that succeeds makes durable every write, trim and zero that was completed before the
 *     flush was submitted, whoever submitted it. After a failure, a later success means the same.
 *  5. A stalled backend stalls its requests; an error is what the guest shall see (design 7.1).
 *  6. After fenced(), every request is completed with -EIO and nothing is written any more.
 */
#ifndef TB4_BACKEND_H
#define TB4_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "config.h"
#include "list.h"
#include "reason.h"

struct json_object;
struct record_copies;
struct sockaddr_storage;
struct volume;

enum {
	BACKEND_BUFFER_ALIGNMENT = 4096,
	BACKEND_BLOCK_MAX = 32 << 20,
	BACKEND_READ_EXTENTS = 32, /* room that a READ with BACKEND_HOLES_WELCOME offers */
};

enum backend_operation {
	BACKEND_READ,
	BACKEND_WRITE,
	BACKEND_FLUSH,
	BACKEND_TRIM,  /* may forget the bytes */
	BACKEND_ZERO,  /* reads as zeros afterwards */
	BACKEND_CACHE, /* will be read soon */
	BACKEND_STATUS, /* describe extents: at least one, beginning at offset */
};

enum backend_flag {
	BACKEND_FUA = 1 << 0,           /* WRITE: durable when completed; only with can.fua */
	BACKEND_NO_HOLE = 1 << 1,       /* ZERO: keep the space allocated */
	BACKEND_FAST_ZERO = 1 << 2,     /* ZERO: -EOPNOTSUPP unless much faster than writing zeros */
	BACKEND_HOLES_WELCOME = 1 << 3, /* READ: may report extents that are zero instead of filling them */
	BACKEND_BORROWED = 1 << 4,      /* WRITE: see borrow_max */
};

/* Extents follow each other from the request's offset. Those of a READ cover it all. */
struct backend_extent {
	uint64_t length;
	bool hole, zero; /* not allocated; reads as zeros */
};

struct backend_request {
	enum backend_operation operation;
	unsigned flags; /* enum backend_flag */
	uint64_t offset, length;
	void *buffer; /* READ, WRITE: aligned to BACKEND_BUFFER_ALIGNMENT unless BORROWED */
	struct backend_extent *extents; /* STATUS, READ with HOLES_WELCOME: filled by the backend */
	size_t extents_max, extents_count; /* a READ with no hole leaves extents_count 0 */
	/* `error` is 0 or a negative errno. */
	void (*done)(struct backend_request *request, int error);
	unsigned answered_by; /* set before done() by a backend with slots: 1 + the one that answered last; else 0 */
	struct list link;     /* the backend's until completion */
	uint64_t scratch[20]; /* likewise */
};

struct backend_geometry {
	uint64_t size;       /* bytes that requests may touch */
	uint32_t block_min;  /* power of two; offsets and lengths are multiples of it */
	uint32_t block_preferred;
	bool trim, zero, fast_zero, cache, status, fua, holes;
	bool rotational;
	/* A WRITE of at most so many bytes is completed before submit() returns and takes a buffer of
	 * any alignment. It is then marked BACKEND_BORROWED. 0: never. */
	uint32_t borrow_max;
};

enum backend_step { BACKEND_OPENED, BACKEND_ACTIVATED, BACKEND_RESIZED, BACKEND_DEACTIVATED, BACKEND_CLOSED };

/* What the backend tells whoever opened it. The reason is valid during the call. */
struct backend_events {
	void *context;
	/* A step that was asked for has ended, with 0 or a negative errno. After BACKEND_CLOSED the
	 * backend is gone. */
	void (*step)(void *context, enum backend_step step, int error, const struct reason *reason);
	/* Somebody else owns the volume now. */
	void (*fenced)(void *context, const struct reason *reason);
	/* Which copies count has changed and is to be stored in the claim's record; copies_stored() answers, later. The
	 * copies are valid during the call. One at a time. */
	void (*store_copies)(void *context, const struct record_copies *copies);
	/* Requests wait, for too few copies are there; or they do not any more. */
	void (*stalled)(void *context, bool is_stalled);
};

/* Under what a backend begins to serve. Valid during the call. */
struct backend_activation {
	uint64_t generation; /* higher than every one before */
	const char *claim_id;
	const struct record_copies *copies; /* as stored last */
};

struct backend {
	const struct backend_operations *operations;
	struct backend_events events;
	struct backend_geometry geometry; /* valid from BACKEND_OPENED on; grows only by resize */
	/* With BACKEND_ACTIVATED and -ESTALE: the generation that was in the way. activate() may be called again, under one
	 * above it. */
	uint64_t outrun_by;
};

struct backend_operations {
	const char *name; /* as in volume files */
	/* Finds and locks what holds the bytes. Returns 0 and *backend, with BACKEND_OPENED to follow
	 * (perhaps before it returns), or a negative errno. `volume` and `config` must stay valid. */
	int (*open)(uv_loop_t *loop, const struct config *config, const struct volume *volume,
		const struct backend_events *events, struct backend **backend, struct reason *reason);
	void (*activate)(struct backend *backend, const struct backend_activation *activation);
	void (*submit)(struct backend *backend, struct backend_request *request);
	/* Grows to `size` bytes; -EINVAL if it is smaller. */
	void (*resize)(struct backend *backend, uint64_t size);
	/* Of a backend with slots; NULL in others. The region at `address`, which is empty, takes the place of the slot's, as
	 * soon as the record has forgotten that; with NULL it only says whether that could begin now. */
	int (*replace)(struct backend *backend, unsigned slot, const struct sockaddr_storage *address,
		struct reason *reason);
	/* A slot that has failed is tried again. */
	int (*retry)(struct backend *backend, unsigned slot, struct reason *reason);
	/* Reads and compares all copies of all blocks while it serves, `rate` bytes a second at most (0: no limit); or ends
	 * that. status() tells how far it is. */
	int (*scrub)(struct backend *backend, bool stop, uint64_t rate, struct reason *reason);
	/* The answer to store_copies: 0, -EOWNERDEAD if the claim is no longer ours, or another errno: the outcome is
	 * unknown. NULL in a backend that never asks. */
	void (*copies_stored)(struct backend *backend, int error);
	/* Flushes and stops serving; no request is in flight. */
	void (*deactivate)(struct backend *backend);
	void (*close)(struct backend *backend);
	/* Adds what an operator should know to an object. */
	void (*status)(struct backend *backend, struct json_object *object);
	/* Makes and removes what holds the bytes of a new volume. Blocking; no backend is open. */
	int (*create)(const struct config *config, const struct volume *volume, struct reason *reason);
	int (*destroy)(const struct config *config, const struct volume *volume, struct reason *reason);
};

/* The backend of a volume. */
const struct backend_operations *backend_for(const struct volume *volume);

#endif
