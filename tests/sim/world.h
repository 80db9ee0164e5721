/* world.h: everything around the core under test, in one process and without chance of its own.
 *
 *   world.c     life, violations, the trace
 *   sleds.c     three downstairs: kills, loss of power, fetches
 *   network.c   connections: what is in flight, and how it is delivered or lost
 *   store.c     the record, changed by compare-and-swap on (claim, seq)
 *   hosts.c     two hosts with a gateway each, and their guests
 *   schedule.c  what happens next, by a seed
 *
 * Everything happens by a call; nothing by itself. A seed is one order of calls.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "checker.h"
#include "core/core-internal.h"
#include "coverage.h"
#include "engine.h"

enum { SLEDS = UPSTAIRS_SLOTS, HOSTS = 2, BLOCK = 512, REQUEST_BLOCKS = 4, BLOCKS_MAX = 64, CONNECTIONS = 64, OPERATIONS = 16 };

struct frame {
	struct frame *next;
	const void *data; /* of a write: where the sender keeps it */
	size_t data_length;
	size_t size;
	uint8_t bytes[];
};

struct queue {
	struct frame *first, **end;
	unsigned count;
};

struct world;
struct gateway;

struct connection {
	bool is_used, is_open;
	struct world *world;
	struct gateway *gateway; /* NULL: closed by it */
	unsigned host;
	unsigned sled;
	struct downstairs_connection *server; /* NULL: closed by it */
	bool gateway_ends, server_ends;       /* behind what is queued */
	bool is_stalled;                      /* nothing gets through, and nobody is told */
	struct queue up, down;
};

struct sled {
	struct world *world;
	unsigned index;
	struct disk *disk;
	struct downstairs *downstairs; /* NULL: not running */
	struct crucible_uuid uuid;
	int kill_in; /* steps of the disk; negative: no */
	bool sync_fails;
	bool fails_any_sync;
	uint64_t down_until; /* event: it is not started before */
	bool is_torn; /* power was lost while something was written */
	/* a fetch that its downstairs waits for */
	bool is_fetching;
	unsigned source;
	uint32_t extent;
	uint8_t *image; /* NULL: not copied yet */
	/* for coverage */
	bool flush_ack_lost, replayed_after_loss;
};

/* The claim's record. */
struct stored_record {
	uint64_t claim, seq, last_generation;
	struct upstairs_record record;
};

struct operation {
	bool is_used, is_applied, is_answered;
	struct gateway *gateway; /* NULL: dead */
	uint64_t claim, seq;     /* expected */
	struct upstairs_record record;
	enum upstairs_stored outcome; /* once applied */
};

struct guest_request {
	struct guest_request *next;
	struct upstairs_request core;
	struct gateway *gateway;
	uint64_t begin, id;
	bool is_open; /* a write that the checker knows */
	struct crucible_block_context contexts[REQUEST_BLOCKS];
	uint64_t ids[REQUEST_BLOCKS];
	uint8_t data[REQUEST_BLOCKS * BLOCK];
};

struct host {
	unsigned index;
	/* role file and history: gone with the host */
	bool has_role;
	uint64_t claim, generation, first_generation;
	void *area;
	size_t area_size, area_size_max;
	bool has_served; /* under this claim */
};

struct gateway {
	struct world *world;
	struct host *host;
	struct upstairs *upstairs; /* NULL: not running */
	struct history history;
	bool is_stopped; /* SIGSTOP */
	/* kill -9 within a call into the core: before its n-th step that others see; 0: no */
	unsigned kill_in;
	bool is_dead;
	void *area_then; /* the history as it was */
	bool resumed, has_served, wants_end;
	uint64_t generation, process;
	uint64_t claim, seq;
	struct connection *connections[SLEDS];
	struct guest_request *requests;
	unsigned request_count;
	bool ends_requested; /* deactivate */
	uint64_t reads_left; /* blocks from the end on that a new owner's guest has not read yet */
	/* for coverage */
	enum slot_phase phases[SLEDS];
	bool was_mending, was_repairing;
	uint64_t scrubs, scrub_found; /* seen so far */
};

/* The newest write of a block is on one disk only, and a gateway serves without that (traces c and d). */
struct lone_write {
	bool is_there, was_written, was_read;
	unsigned sled;
};

struct world {
	uint64_t seed, random;
	bool is_verbose;
	uint64_t now;   /* ms */
	uint64_t event; /* counter */
	struct crucible_region region;
	uint64_t blocks;
	size_t area_size;
	struct sled sleds[SLEDS];
	struct connection connections[CONNECTIONS];
	unsigned connections_end; /* none behind this is used */
	struct stored_record stored;
	struct operation operations[OPERATIONS];
	bool holds_records; /* no store goes on by itself */
	struct host hosts[HOSTS];
	struct gateway gateways[HOSTS];
	struct checker *checker;
	uint64_t last_id, processes;
	uint64_t served_generation; /* the highest that served */
	uint64_t damaged_at;        /* event of the last loss of power or wipe */
	bool acks_on_submit; /* see upstairs_options */
	unsigned min_copies; /* the same */
	bool was_torn; /* a start had no source that no loss of power had torn, or a block has rotten: there may be blocks
					* that no copy has */
	bool is_void;               /* a start trusted a copy whose flush was hollow, and that nobody was told of */
	bool is_cut[HOSTS][SLEDS];  /* no link between these */
	int allocations_until_failure; /* negative: none fails */
	char violation[400];
	struct lone_write lone[BLOCKS_MAX]; /* for coverage */
};

/* world.c */
void world_open(struct world *world, uint64_t seed, bool is_verbose);
void world_close(struct world *world);
uint64_t random_below(struct world *world, uint64_t limit);
bool chance(struct world *world, unsigned percent);
void violation(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
void trace(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* sleds.c */
void sled_open(struct world *world, unsigned index);
void sled_close(struct sled *sled);
void sled_start(struct sled *sled);
/* kill -9: the page cache stays. */
void sled_kill(struct sled *sled);
void sled_lose_power(struct sled *sled);
void sled_wipe(struct sled *sled, bool fresh_uuid);
/* A bit of a block that was flushed is another one, if the others in sync have the block. */
void sled_rot(struct sled *sled, uint64_t block);
/* A step of the fetch: copy; then check and hand over. */
void sled_fetch(struct sled *sled, bool fails);
/* After each call into a downstairs. */
void sled_check(struct sled *sled);
uint64_t sled_block(const struct sled *sled, uint64_t block);
/* Does its data fit its context? Of a downstairs that runs. */
bool sled_block_is_good(const struct sled *sled, uint64_t block);
/* Is there something on its disk that a sync did not save, and none will? */
bool sled_is_hollow(const struct sled *sled);
/* Is it no copy, though the record says so: another region, or wiped, or hollow, or one that needs a full copy? */
bool sled_is_damaged(const struct sled *sled);
/* May its copy be damaged? At most one copy is at a time, and the others must be in sync: the simulator breaks no
 * promise of its own. */
bool sled_may_be_damaged(const struct sled *sled);

/* network.c */
void queue_init(struct queue *queue);
struct connection *network_connect(struct gateway *gateway, unsigned slot);
void network_send(struct connection *connection, const struct crucible_message *message);
/* The gateway closes it, or has died. */
void network_disconnect(struct connection *connection);
void network_answer_connect(struct connection *connection, bool accept);
void network_deliver_up(struct connection *connection);
void network_deliver_down(struct connection *connection);
void network_drop(struct connection *connection);
void network_drop_at(struct connection *connection, unsigned up_kept, unsigned down_kept);
/* All of a downstairs that has died. */
void network_server_died(struct sled *sled, bool silently);
/* Is the network between its ends down? */
bool network_is_cut(const struct connection *connection);
bool network_has_up(const struct connection *connection);
bool network_has_down(const struct connection *connection);
void network_free(struct connection *connection);
extern const struct downstairs_callbacks network_callbacks;

/* store.c */
void store_begin(struct gateway *gateway, const struct upstairs_record *record);
void store_apply(struct operation *operation);
void store_answer(struct operation *operation, bool is_lost);
void store_gateway_died(struct gateway *gateway);

/* hosts.c */
void host_open(struct world *world, unsigned index);
void host_close(struct world *world, unsigned index);
/* A fresh claim, and a process under it. */
void host_claim(struct host *host, struct world *world);
/* A process under the claim that the host has. False if it is no longer its. */
bool host_resume(struct host *host, struct world *world);
void host_lose(struct host *host, struct world *world);
struct gateway *gateway_of(struct world *world, const struct host *host);
void gateway_kill(struct gateway *gateway);
void gateway_tick(struct gateway *gateway);
/* The core has done something that others see. False if the gateway was killed before. */
bool gateway_lives(struct gateway *gateway);
void gateway_deactivate(struct gateway *gateway);
void gateway_submit(struct gateway *gateway, enum upstairs_operation operation, uint64_t start, uint64_t count);
void gateway_scrub(struct gateway *gateway, uint64_t rate);
void gateway_look_at_hole(struct gateway *gateway, uint64_t block);
/* After each call into the core. */
void gateway_check(struct gateway *gateway);
bool gateway_runs(const struct gateway *gateway); /* and has not been stopped */
struct gateway *world_owner(struct world *world); /* the one that the record names, or NULL */

/* schedule.c */
void schedule_run(struct world *world);
/* Lets everything happen that needs no fault, until `done` or the time is over. False: the latter. */
bool schedule_settle(struct world *world, bool (*done)(struct world *world), uint64_t ms);

/* Without anything coming up again: all that can be delivered is; with time, up to so much of it. */
void schedule_pass(struct world *world, uint64_t ms);
void schedule_compare(struct world *world);
/* One event. */
bool schedule_step(struct world *world);

/* traces.c: the traces of design section 6, by letter, and others by name. Returns 0, 1 after a violation, 64 if there is
 * no such trace. */
int traces_run(const char *name, bool is_verbose);
/* Prints the names. */
void traces_list(void);

#endif
