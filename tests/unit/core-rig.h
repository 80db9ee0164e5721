/* core-rig.h: the core of libupstairs on three engines, with a guest and a clock that a test moves by hand.
 *
 * Nothing happens by itself: core_rig_run() delivers what is under way, in a fixed order, until nothing is left that is
 * not held; core_rig_pass() lets time go by. What must not fail in a test is asserted here.
 */
#ifndef CORE_RIG_H
#define CORE_RIG_H

#include "core/core-internal.h"
#include "engine.h"
#include "integrity.h"

enum { CORE_BLOCK = 512, CORE_REQUEST_MAX = UPSTAIRS_REQUEST_MAX };

struct core_rig;
struct rig_frame;

struct rig_queue {
	struct rig_frame *first, **end;
};

struct rig_sled {
	struct core_rig *rig;
	unsigned index;
	struct crucible_region region;
	struct disk *disk;
	struct downstairs *downstairs; /* NULL: killed */
	bool is_read_only;
	/* What is sent to it, or what it sends, stays under way. */
	bool holds_up, holds_down;
	bool hangs_at_write; /* holds what is sent to it from the next write on */
	/* the connection */
	bool is_connecting, is_open;
	struct downstairs_connection *server;
	struct rig_queue up, down;
	uint64_t sent[CRUCIBLE_MESSAGE_TYPES]; /* to it, by type */
	uint64_t connects;                     /* attempts */
	char intruder; /* a peer: whoever else is connected */
	bool is_fetching;
	unsigned source;
	uint32_t extent;
	/* the hook: so many steps of this kind fail */
	enum disk_step fail_step;
	unsigned fail_count;
	int fail_with;
};

struct rig_request {
	struct upstairs_request core; /* first */
	struct rig_request *next;
	bool is_done;
	int error;
	uint8_t *data;
	struct crucible_block_context *contexts;
};

struct core_rig {
	struct upstairs_options options;
	struct rig_sled sleds[UPSTAIRS_SLOTS];
	struct upstairs *core; /* NULL: not running */
	struct integrity *integrity;
	struct history history;
	void *area;
	struct upstairs_record record, storing;
	bool is_storing, holds_record;
	uint64_t now, generation;
	bool has_clock;
	struct rig_request *requests;
	char reports[UPSTAIRS_SLOTS + 1][256]; /* the last one of each slot, and of the volume */
	unsigned allocations, allocations_until_failure; /* 0: none fails */
};

/* Three fresh regions, running, and no core. */
void core_rig_open(struct core_rig *rig, uint64_t extent_size, uint32_t extent_count, const void *key);
void core_rig_close(struct core_rig *rig);
/* Starts the core under the next generation; core_rig_serve() also waits until it serves. */
void core_rig_start(struct core_rig *rig);
void core_rig_serve(struct core_rig *rig);
/* kill -9 of the core's process, if there is one; the history stays. With the host it is lost. */
void core_rig_kill_core(struct core_rig *rig);
void core_rig_lose_host(struct core_rig *rig);
/* Everything released in good order. */
void core_rig_release(struct core_rig *rig);

void core_rig_run(struct core_rig *rig);
void core_rig_pass(struct core_rig *rig, uint64_t ms);
/* One event of each slot and of the record; false if there is none. And time without events. */
bool core_rig_step(struct core_rig *rig);
void core_rig_tick(struct core_rig *rig, uint64_t ms);

/* Sleds. A stop loses what is under way; the disk stays. */
void core_rig_stop_sled(struct core_rig *rig, unsigned index);
void core_rig_start_sled(struct core_rig *rig, unsigned index);
/* A fresh region, with the same UUID or another one; the downstairs is stopped first, and started again. */
void core_rig_renew_sled(struct core_rig *rig, unsigned index, bool same_uuid);

/* Another client is active on the sled from now on. */
void core_rig_intrude(struct core_rig *rig, unsigned index, uint64_t generation);

/* Requests. Data of a write: every block full of `fill`. What is returned lives until core_rig_close(). */
struct rig_request *core_rig_submit(struct core_rig *rig, enum upstairs_operation operation, uint64_t start,
	uint64_t count, uint8_t fill);
struct rig_request *core_rig_zero(struct core_rig *rig, uint64_t start, uint64_t count, unsigned flags);
void core_rig_write(struct core_rig *rig, uint64_t start, uint64_t count, uint8_t fill);
void core_rig_flush(struct core_rig *rig);
/* Every byte is `fill`. */
void core_rig_expect(struct core_rig *rig, uint64_t start, uint64_t count, uint8_t fill);

enum slot_phase core_rig_phase(const struct core_rig *rig, unsigned index);
/* Of all sleds together. */
uint64_t core_rig_sent(const struct core_rig *rig, enum crucible_message_type type);
/* Does the disk of the sled have a context for the block? */
bool core_rig_is_written(const struct core_rig *rig, unsigned index, uint64_t block);
/* Are the block's bytes and contexts the same on all three? */
bool core_rig_are_equal(const struct core_rig *rig, uint64_t block);
/* A block of extent 0 becomes one of other bytes with a context that fits, behind everybody's back. */
void core_rig_replace_block(struct core_rig *rig, unsigned index, uint64_t block, uint8_t fill);
bool core_rig_is_hole(const struct core_rig *rig, uint64_t block);

#endif
