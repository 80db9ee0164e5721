/* schedule.c: what happens next, drawn from the seed. Each seed leaves out some kinds of fault, and weighs the others
 * in its own way, so that some runs go far into one corner. */
#include "world.h"

enum fault {
	FAULT_LINK_DROP,
	FAULT_LINK_STALL,
	FAULT_CUT, /* between a host and a sled, until it is healed */
	FAULT_SLED_KILL,
	FAULT_SLED_KILL_AT_STEP,
	FAULT_POWER_LOSS,
	FAULT_GATEWAY_KILL,
	FAULT_GATEWAY_KILL_WITHIN,
	FAULT_GATEWAY_STOP,
	FAULT_RIVAL,
	FAULT_HOST_LOSS,
	FAULT_RELEASE,
	FAULT_BLACKOUT, /* all sleds lose power, perhaps the host too */
	FAULT_RECORD,
	FAULT_CONNECT,
	FAULT_FETCH,
	FAULT_SYNC,
	FAULT_WIPE,
	FAULT_ROT, /* of a block on one disk */
	FAULT_MEMORY,
	FAULTS,
};

/* How often a seed has it, in percent, and how often it strikes there. The three of weight 0 go with other events. */
static const struct {
	unsigned percent, weight;
} faults[FAULTS] = {
	[FAULT_LINK_DROP] = { 70, 12 },
	[FAULT_LINK_STALL] = { 40, 5 },
	[FAULT_CUT] = { 40, 5 },
	[FAULT_SLED_KILL] = { 60, 8 },
	[FAULT_SLED_KILL_AT_STEP] = { 40, 6 },
	[FAULT_POWER_LOSS] = { 60, 8 },
	[FAULT_GATEWAY_KILL] = { 60, 7 },
	[FAULT_GATEWAY_KILL_WITHIN] = { 50, 6 },
	[FAULT_GATEWAY_STOP] = { 40, 4 },
	[FAULT_RIVAL] = { 40, 3 },
	[FAULT_HOST_LOSS] = { 50, 3 },
	[FAULT_RELEASE] = { 30, 1 },
	[FAULT_BLACKOUT] = { 25, 2 },
	[FAULT_RECORD] = { 50, 0 },
	[FAULT_CONNECT] = { 50, 0 },
	[FAULT_FETCH] = { 50, 0 },
	[FAULT_SYNC] = { 20, 6 },
	[FAULT_WIPE] = { 20, 4 },
	[FAULT_ROT] = { 15, 10 },
	[FAULT_MEMORY] = { 8, 8 },
};

struct schedule {
	bool may[FAULTS];
	unsigned fault_permille, guest_weight, write_percent, flush_percent, restart_percent, time_weight, record_weight;
	unsigned look_percent; /* of the requests to a new owner read all blocks, one after another */
	unsigned parts;
	unsigned delicate_factor; /* so many more faults while who is in sync is changing */
	unsigned sled_speed[SLEDS];
	unsigned hot_blocks; /* most requests go to the first ones */
};

/* What can happen */

static struct connection *pick_connection(struct world *world, bool (*fits)(const struct connection *connection))
{
	struct connection *found[CONNECTIONS];
	unsigned count = 0;
	for (unsigned i = 0; i < world->connections_end; i++) {
		if (fits(&world->connections[i]))
			found[count++] = &world->connections[i];
	}
	return count ? found[random_below(world, count)] : NULL;
}

static bool is_deliverable(const struct connection *connection)
{
	return network_has_up(connection) || network_has_down(connection);
}

static bool is_connecting(const struct connection *connection)
{
	return connection->is_used && !connection->is_open && !network_is_cut(connection) &&
		gateway_runs(connection->gateway);
}

static bool is_open(const struct connection *connection)
{
	return connection->is_used && connection->is_open && connection->gateway && connection->server &&
		!connection->gateway_ends;
}

static bool is_stalled(const struct connection *connection)
{
	return connection->is_used && connection->is_stalled;
}

static void deliver(struct connection *connection)
{
	bool up = network_has_up(connection), down = network_has_down(connection);
	if (up && (!down || chance(connection->world, 50)))
		network_deliver_up(connection);
	else
		network_deliver_down(connection);
}

static void answer_connect(struct world *world, struct connection *connection, bool with_trouble)
{
	if (with_trouble && chance(world, 3)) {
		connection->is_stalled = true;
		cover(COVER_CONNECT_HUNG);
		return;
	}
	network_answer_connect(connection, !(with_trouble && chance(world, 10)));
}

static struct operation *pick_operation(struct world *world)
{
	for (unsigned i = 0; i < OPERATIONS && !world->holds_records; i++) {
		struct operation *operation = &world->operations[(i + world->event) % OPERATIONS];
		if (operation->is_used && (!operation->is_applied || gateway_runs(operation->gateway)))
			return operation;
	}
	return NULL;
}

static void step_operation(struct world *world, struct operation *operation, bool with_trouble)
{
	if (!operation->is_applied) {
		if (with_trouble && !operation->is_answered && gateway_runs(operation->gateway) && chance(world, 20))
			store_answer(operation, true);
		else
			store_apply(operation);
	} else {
		store_answer(operation, with_trouble && chance(world, 20));
	}
}

static struct sled *pick_fetch(struct world *world)
{
	for (unsigned i = 0; i < SLEDS; i++) {
		struct sled *sled = &world->sleds[(i + world->event) % SLEDS];
		if (sled->is_fetching && sled->downstairs)
			return sled;
	}
	return NULL;
}

static uint64_t next_deadline(struct world *world)
{
	uint64_t deadline = UINT64_MAX;
	for (unsigned i = 0; i < HOSTS; i++) {
		const struct gateway *gateway = &world->gateways[i];
		if (gateway_runs(gateway) && upstairs_deadline(gateway->upstairs) < deadline)
			deadline = upstairs_deadline(gateway->upstairs);
	}
	return deadline;
}

static void advance_to(struct world *world, uint64_t time)
{
	world->now = time;
	for (unsigned i = 0; i < HOSTS; i++) {
		struct gateway *gateway = &world->gateways[i];
		if (!gateway_runs(gateway) || upstairs_deadline(gateway->upstairs) > time)
			continue;
		gateway_tick(gateway);
		gateway_check(gateway);
	}
}

/* To the next deadline; false if there is none, or not before `limit`. */
static bool advance(struct world *world, uint64_t limit)
{
	uint64_t deadline = next_deadline(world);
	if (deadline == UINT64_MAX || deadline > limit)
		return false;
	advance_to(world, deadline > world->now ? deadline : world->now);
	return true;
}

static void pass_time(struct world *world)
{
	uint64_t until;
	switch (random_below(world, 8)) {
	case 0:
		until = world->now + random_below(world, 6000);
		break;
	case 1:
	case 2:
		until = next_deadline(world);
		if (until == UINT64_MAX)
			until = world->now + 1000;
		break;
	default:
		until = world->now + random_below(world, 60);
		break;
	}
	for (unsigned i = 0; i < 50 && advance(world, until); i++) {
	}
	if (world->now < until)
		advance_to(world, until);
}

/* Faults */

static struct host *other_host(struct world *world, struct host *host)
{
	return &world->hosts[(host->index + 1) % HOSTS];
}

static struct gateway *pick_gateway(struct world *world)
{
	struct gateway *owner = world_owner(world);
	struct gateway *any = &world->gateways[random_below(world, HOSTS)];
	return owner && chance(world, 70) ? owner : any->upstairs ? any : owner;
}

/* A claim by a host that is not the owner's, or by it again. */
static void take_over(struct world *world)
{
	struct gateway *owner = world_owner(world);
	struct host *host = owner ? other_host(world, owner->host) : &world->hosts[random_below(world, HOSTS)];
	if (owner && chance(world, 30)) {
		cover(COVER_CLAIMS_KNOWN);
		trace(world, "host %u: is told of another owner", owner->host->index);
		gateway_tick(owner);
		upstairs_fence(owner->upstairs, "another host has claimed the volume");
		gateway_check(owner);
	} else if (owner) {
		cover(COVER_CLAIMS_UNKNOWN);
	}
	host_claim(host, world);
}

static void start_somewhere(struct world *world)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		struct host *host = &world->hosts[i];
		if (host->has_role && host->claim == world->stored.claim) {
			host_resume(host, world);
			return;
		}
	}
	host_claim(&world->hosts[random_below(world, HOSTS)], world);
}

static void gateway_fault(struct world *world, enum fault fault)
{
	struct gateway *gateway = pick_gateway(world);
	if (!gateway || !gateway->upstairs)
		return;
	switch ((int)fault) {
	case FAULT_GATEWAY_KILL:
		gateway_kill(gateway);
		break;
	case FAULT_GATEWAY_KILL_WITHIN:
		gateway->kill_in = 1 + (unsigned)random_below(world, 40);
		break;
	case FAULT_GATEWAY_STOP:
		if (!gateway->is_stopped) {
			cover(COVER_GATEWAY_PAUSES);
			trace(world, "host %u: the gateway is stopped", gateway->host->index);
			gateway->is_stopped = true;
			if (gateway == world_owner(world) && chance(world, 30))
				take_over(world);
		}
		break;
	case FAULT_HOST_LOSS:
		host_lose(gateway->host, world);
		break;
	case FAULT_RELEASE:
		if (gateway_runs(gateway))
			gateway_deactivate(gateway);
		break;
	}
}

static void blackout(struct world *world)
{
	struct gateway *owner = world_owner(world);
	if (owner && chance(world, 60))
		host_lose(owner->host, world);
	for (unsigned i = 0; i < SLEDS; i++) {
		if (chance(world, 80))
			sled_lose_power(&world->sleds[i]);
	}
}

static void cut_network(struct world *world, unsigned host, unsigned sled)
{
	if (world->is_cut[host][sled])
		return;
	cover(COVER_CUTS);
	trace(world, "host %u sled %u: the network between them is down", host, sled);
	world->is_cut[host][sled] = true;
}

static void strike(struct world *world, enum fault fault)
{
	struct sled *sled = &world->sleds[random_below(world, SLEDS)];
	struct connection *connection;
	switch (fault) {
	case FAULT_LINK_DROP:
		connection = pick_connection(world, is_open);
		if (connection)
			network_drop(connection);
		break;
	case FAULT_LINK_STALL:
		connection = pick_connection(world, is_open);
		if (connection) {
			cover(COVER_LINK_STALLS);
			trace(world, "sled %u: a link stalls", connection->sled);
			connection->is_stalled = true;
		}
		break;
	case FAULT_CUT:
		cut_network(world, (unsigned)random_below(world, HOSTS), sled->index);
		break;
	case FAULT_SLED_KILL:
		if (sled->downstairs)
			sled_kill(sled);
		break;
	case FAULT_SLED_KILL_AT_STEP:
		if (sled->downstairs)
			sled->kill_in = (int)random_below(world, 12);
		break;
	case FAULT_POWER_LOSS:
		sled_lose_power(sled);
		break;
	case FAULT_RIVAL:
		take_over(world);
		break;
	case FAULT_BLACKOUT:
		blackout(world);
		break;
	case FAULT_SYNC:
		sled->sync_fails = true;
		break;
	case FAULT_WIPE:
		if (sled_may_be_damaged(sled))
			sled_wipe(sled, chance(world, 10));
		break;
	case FAULT_ROT:
		sled_rot(sled, random_below(world, chance(world, 60) ? 3 : world->blocks));
		if (chance(world, 30)) /* no copy has all of what is read */
			sled_rot(&world->sleds[(sled->index + 1) % SLEDS], random_below(world, 3));
		break;
	case FAULT_MEMORY:
		world->allocations_until_failure = 1 + (int)random_below(world, 30);
		break;
	case FAULT_GATEWAY_KILL:
	case FAULT_GATEWAY_KILL_WITHIN:
	case FAULT_GATEWAY_STOP:
	case FAULT_HOST_LOSS:
	case FAULT_RELEASE:
		gateway_fault(world, fault);
		break;
	case FAULT_RECORD:
	case FAULT_CONNECT:
	case FAULT_FETCH:
	case FAULTS:
		break;
	}
}

/* A region that was made anew takes the place of the one that was there. */
static void replace_slots(struct world *world)
{
	struct gateway *owner = world_owner(world);
	for (unsigned i = 0; i < SLEDS && owner && gateway_runs(owner); i++) {
		if (owner->upstairs->slots[i].phase != SLOT_FAILED || !chance(world, 20))
			continue;
		gateway_tick(owner);
		if (upstairs_replace(owner->upstairs, i) == 0) {
			cover(COVER_REPLACED);
			trace(world, "host %u: slot %u is replaced", owner->host->index, i);
		}
		gateway_check(owner);
	}
}

/* What is down comes up again, what is over ends. */
static void repair_world(struct world *world, unsigned percent)
{
	for (unsigned i = 0; i < SLEDS; i++) {
		if (!world->sleds[i].downstairs && world->sleds[i].down_until <= world->event && chance(world, percent))
			sled_start(&world->sleds[i]);
	}
	for (unsigned i = 0; i < HOSTS; i++) {
		struct gateway *gateway = &world->gateways[i];
		if (gateway->upstairs && gateway->is_stopped && chance(world, percent)) {
			cover(COVER_GATEWAY_WAKES);
			trace(world, "host %u: the gateway is woken", i);
			gateway->is_stopped = false;
		}
		if (gateway->upstairs && gateway->wants_end && upstairs_state(gateway->upstairs) != UPSTAIRS_REFUSED &&
			chance(world, percent)) {
			bool was_released = upstairs_state(gateway->upstairs) == UPSTAIRS_RELEASED;
			gateway_kill(gateway);
			if (was_released)
				gateway->host->has_role = gateway->host->has_served = false;
		}
	}
	struct connection *connection = chance(world, percent) ? pick_connection(world, is_stalled) : NULL;
	if (connection) {
		connection->is_stalled = false;
		if (connection->is_open && chance(world, 50))
			network_drop(connection);
	}
	for (unsigned i = 0; i < HOSTS * SLEDS; i++) {
		bool *is_cut = &world->is_cut[i / SLEDS][i % SLEDS];
		if (*is_cut && chance(world, (percent + 1) / 2)) {
			trace(world, "host %u sled %u: the network between them is up", i / SLEDS, i % SLEDS);
			*is_cut = false;
		}
	}
	if (!world_owner(world) && chance(world, percent))
		start_somewhere(world);
	replace_slots(world);
}

static void guest(struct world *world, const struct schedule *schedule)
{
	struct gateway *gateway = &world->gateways[random_below(world, HOSTS)];
	struct gateway *owner = world_owner(world);
	if (owner && chance(world, 80))
		gateway = owner;
	if (!gateway_runs(gateway) || gateway->request_count >= 6 || gateway->ends_requested ||
		upstairs_state(gateway->upstairs) >= UPSTAIRS_DEACTIVATING)
		return;
	if (random_below(world, 40) == 0) {
		gateway_scrub(gateway, chance(world, 70) ? 0 : 1 + random_below(world, 100 * BLOCK));
		return;
	}
	if (gateway->reads_left > 0 && chance(world, schedule->look_percent)) {
		gateway_submit(gateway, UPSTAIRS_READ, world->blocks - gateway->reads_left--, 1);
		return;
	}
	for (uint64_t block = 0; block < world->blocks; block++) {
		if (heal_holds(gateway->upstairs, block, 1) && chance(world, 50)) {
			gateway_submit(gateway, UPSTAIRS_WRITE, block, 1);
			return;
		}
	}
	enum upstairs_operation operation = chance(world, schedule->flush_percent) ? UPSTAIRS_FLUSH
		: chance(world, schedule->write_percent)                             ? UPSTAIRS_WRITE
																			   : UPSTAIRS_READ;
	if (operation == UPSTAIRS_WRITE && chance(world, 10))
		operation = UPSTAIRS_WRITE_ZEROES;
	gateway_look_at_hole(gateway, random_below(world, world->blocks));
	uint64_t range = chance(world, operation == UPSTAIRS_WRITE_ZEROES ? 10 : 60) ? schedule->hot_blocks : world->blocks;
	uint64_t start = random_below(world, range);
	uint64_t count = 1 + random_below(world, 3) * random_below(world, 2);
	if (count > world->blocks - start)
		count = world->blocks - start;
	gateway_submit(gateway, operation, start, count);
}

/* One event that is no fault. False if there is none but time. */
static bool go_on(struct world *world, const struct schedule *schedule)
{
	struct connection *connection = pick_connection(world, is_deliverable);
	for (unsigned i = 0; schedule && connection && i < 4 &&
		 random_below(world, 8) >= schedule->sled_speed[connection->sled]; i++)
		connection = pick_connection(world, is_deliverable);
	struct connection *connecting = pick_connection(world, is_connecting);
	struct operation *operation = pick_operation(world);
	struct sled *fetching = pick_fetch(world);
	unsigned record_weight = schedule ? schedule->record_weight : 16;
	unsigned weights[] = { connection ? 120 : 0, connecting ? 40 : 0, operation ? record_weight : 0, fetching ? 24 : 0 };
	unsigned sum = weights[0] + weights[1] + weights[2] + weights[3];
	if (sum == 0)
		return false;
	uint64_t at = random_below(world, sum);
	if (at < weights[0])
		deliver(connection);
	else if (at < weights[0] + weights[1])
		answer_connect(world, connecting, schedule && schedule->may[FAULT_CONNECT]);
	else if (at < weights[0] + weights[1] + weights[2])
		step_operation(world, operation, schedule && schedule->may[FAULT_RECORD]);
	else
		sled_fetch(fetching, schedule && schedule->may[FAULT_FETCH] && chance(world, 5));
	return true;
}

static void draw(struct world *world, struct schedule *schedule)
{
	for (unsigned i = 0; i < FAULTS; i++)
		schedule->may[i] = chance(world, faults[i].percent);
	static const unsigned rates[] = { 3, 6, 9, 12, 20, 40 };
	schedule->fault_permille = rates[random_below(world, 6)];
	schedule->guest_weight = 8 + (unsigned)random_below(world, 35);
	schedule->write_percent = 30 + (unsigned)random_below(world, 60);
	schedule->flush_percent = (unsigned)random_below(world, 15);
	schedule->restart_percent = 2 + (unsigned)random_below(world, 10);
	schedule->time_weight = 1 + (unsigned)random_below(world, 12);
	static const unsigned record_weights[] = { 2, 8, 16, 40 }, factors[] = { 1, 1, 3, 8 };
	schedule->record_weight = record_weights[random_below(world, 4)];
	schedule->look_percent = chance(world, 60) ? 70 : 0;
	schedule->parts = 4 + (unsigned)random_below(world, 6);
	schedule->delicate_factor = factors[random_below(world, 4)];
	schedule->hot_blocks = 1 + (unsigned)random_below(world, 3);
	for (unsigned i = 0; i < SLEDS; i++)
		schedule->sled_speed[i] = chance(world, 60) ? 8 : 1 + (unsigned)random_below(world, 8);
}

/* A slot is coming back, or a record is being stored. */
static bool is_delicate(const struct world *world)
{
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (world->operations[i].is_used)
			return true;
	}
	for (unsigned i = 0; i < HOSTS * SLEDS; i++) {
		const struct gateway *gateway = &world->gateways[i / SLEDS];
		enum slot_phase phase = gateway->phases[i % SLEDS];
		if (gateway->upstairs && (phase == SLOT_REPAIR || phase == SLOT_REPLAY || phase == SLOT_JOINING))
			return true;
	}
	return false;
}

static void act(struct world *world, const struct schedule *schedule)
{
	world->event++;
	cover(COVER_EVENTS);
	repair_world(world, schedule->restart_percent);
	unsigned permille = schedule->fault_permille;
	if (schedule->delicate_factor > 1 && is_delicate(world))
		permille *= schedule->delicate_factor;
	if (random_below(world, 1000) < permille) {
		unsigned sum = 0, kind = 0;
		for (unsigned i = 0; i < FAULTS; i++)
			sum += schedule->may[i] ? faults[i].weight : 0;
		uint64_t at = sum ? random_below(world, sum) : 0;
		while (sum && (!schedule->may[kind] || at >= faults[kind].weight)) {
			at -= schedule->may[kind] ? faults[kind].weight : 0;
			kind++;
		}
		if (sum)
			strike(world, (enum fault)kind);
		return;
	}
	uint64_t at = random_below(world, 100);
	if (at < schedule->guest_weight)
		guest(world, schedule);
	else if (at < schedule->guest_weight + schedule->time_weight || !go_on(world, schedule))
		pass_time(world);
}

/* The quiet end */

bool schedule_settle(struct world *world, bool (*done)(struct world *world), uint64_t ms)
{
	uint64_t until = world->now + ms;
	for (unsigned events = 0; events < 100000 && !world->violation[0]; events++) {
		world->event++;
		cover(COVER_EVENTS);
		repair_world(world, 100);
		if (done(world))
			return true;
		if (!go_on(world, NULL) && !advance(world, until))
			return false;
	}
	return false;
}

bool schedule_step(struct world *world)
{
	world->event++;
	return go_on(world, NULL);
}

void schedule_pass(struct world *world, uint64_t ms)
{
	uint64_t until = world->now + ms;
	while (schedule_step(world) || (ms > 0 && advance(world, until))) {
	}
}

static bool serves(struct world *world)
{
	struct gateway *owner = world_owner(world);
	return owner && upstairs_state(owner->upstairs) == UPSTAIRS_SERVING && !owner->requests;
}

static bool has_released(struct world *world)
{
	return world->stored.record.released;
}

static bool all_named(struct world *world)
{
	return serves(world) && core_counted(world_owner(world)->upstairs) == SLEDS;
}

static void read_all(struct world *world)
{
	for (uint64_t start = 0; start < world->blocks; start++)
		gateway_submit(world_owner(world), UPSTAIRS_READ, start, 1);
}

void schedule_compare(struct world *world)
{
	const bool *in_sync = world->stored.record.in_sync;
	for (uint64_t block = 0; block < world->blocks && !world->violation[0]; block++) {
		const struct sled *first = NULL;
		for (unsigned i = 0; i < SLEDS; i++) {
			const struct sled *sled = &world->sleds[i];
			if (!in_sync[i])
				continue;
			if (!first)
				first = sled;
			else if (world->was_torn && (!sled_block_is_good(first, block) || !sled_block_is_good(sled, block)))
				continue;
			else if (sled_block(first, block) != sled_block(sled, block))
				violation(world, "block %llu is %llu on sled %u and %llu on sled %u", (unsigned long long)block,
					(unsigned long long)sled_block(first, block), first->index,
					(unsigned long long)sled_block(sled, block), sled->index);
		}
	}
}

static unsigned damaged_copies(const struct world *world)
{
	unsigned count = 0;
	for (unsigned i = 0; i < SLEDS; i++)
		count += sled_is_damaged(&world->sleds[i]);
	return count;
}

/* Is there a copy in sync of whose first extent losses of power have left no block? These are small here. */
static bool is_first_extent_torn(const struct world *world)
{
	for (unsigned i = 0; i < SLEDS; i++) {
		unsigned good = 0;
		for (uint64_t block = 0; block < world->region.extent_size; block++)
			good += world->sleds[i].downstairs && sled_block_is_good(&world->sleds[i], block);
		if (world->stored.record.in_sync[i] && good == 0)
			return true;
	}
	return false;
}

/* False: it cannot serve, and that is all right, or is a violation now. */
static bool must_serve(struct world *world, const char *when)
{
	if (schedule_settle(world, serves, 300000))
		return true;
	if (world->violation[0])
		return false;
	struct gateway *owner = world_owner(world);
	if (damaged_copies(world) >= world->min_copies || is_first_extent_torn(world))
		cover(COVER_UNSERVED);
	else
		violation(world, "no progress %s: state %d, slots %d %d %d, reason %s", when,
			owner ? (int)upstairs_state(owner->upstairs) : -1, owner ? (int)owner->upstairs->slots[0].phase : -1,
			owner ? (int)owner->upstairs->slots[1].phase : -1, owner ? (int)owner->upstairs->slots[2].phase : -1,
			owner ? upstairs_reason(owner->upstairs) : "");
	return false;
}

/* Trace f: two sleds are new ones that have the old names. Nothing may be done to the third; with min_copies = 1 it is
 * served. */
static void wipe_two(struct world *world)
{
	if (!world->stored.record.in_sync[0] || !world->stored.record.in_sync[1] || !world->stored.record.in_sync[2])
		return;
	const struct sled *kept = &world->sleds[random_below(world, SLEDS)];
	uint64_t blocks[BLOCKS_MAX];
	for (uint64_t block = 0; block < world->blocks; block++)
		blocks[block] = sled_block(kept, block);
	for (unsigned i = 0; i < SLEDS; i++) {
		if (i != kept->index)
			sled_wipe(&world->sleds[i], false);
	}
	cover(COVER_TRACE_F);
	host_claim(&world->hosts[random_below(world, HOSTS)], world);
	if (schedule_settle(world, serves, 20000) && world->min_copies > 1)
		violation(world, "serves though two of three copies are empty");
	for (uint64_t block = 0; block < world->blocks; block++) {
		if (sled_block(kept, block) != blocks[block])
			violation(world, "block %llu of the last copy is overwritten", (unsigned long long)block);
	}
}

static void end(struct world *world)
{
	world->allocations_until_failure = -1;
	for (unsigned i = 0; i < SLEDS; i++) {
		world->sleds[i].kill_in = -1;
		world->sleds[i].sync_fails = false;
		world->sleds[i].down_until = 0;
	}
	for (unsigned i = 0; i < HOSTS; i++)
		world->gateways[i].kill_in = 0;
	struct gateway *owner = world_owner(world);
	if (owner && owner->ends_requested && !schedule_settle(world, has_released, 300000) && damaged_copies(world) >= world->min_copies)
		return;
	if (!must_serve(world, "in a quiet world"))
		return;
	schedule_settle(world, all_named, 20000); /* if it can */
	if (world->violation[0])
		return;
	read_all(world);
	gateway_submit(world_owner(world), UPSTAIRS_FLUSH, 0, 0);
	if (!must_serve(world, "reading"))
		return;
	gateway_deactivate(world_owner(world));
	if (!schedule_settle(world, has_released, 300000)) {
		violation(world, "no release in a quiet world");
		return;
	}
	schedule_compare(world);
	for (unsigned i = 0; i < SLEDS && chance(world, 50); i++)
		sled_lose_power(&world->sleds[i]);
	struct gateway *gateway = world_owner(world);
	host_claim(gateway ? other_host(world, gateway->host) : &world->hosts[0], world);
	if (!must_serve(world, "after a release"))
		return;
	read_all(world);
	if (!must_serve(world, "reading after a release"))
		return;
	schedule_compare(world);
	if (!world->violation[0] && chance(world, 3))
		wipe_two(world);
}

/* At least three activations in a seed, mostly with another slot away each time. */
static void start_again(struct world *world, const struct schedule *schedule, unsigned *absent)
{
	*absent = (*absent + 1 + (unsigned)random_below(world, 2)) % SLEDS;
	struct sled *sled = &world->sleds[*absent];
	if (chance(world, 70)) {
		sled->down_until = world->event + 20 + random_below(world, 150);
		if (chance(world, 40))
			sled_lose_power(sled);
		else
			sled_kill(sled);
	}
	for (unsigned i = 0; i < SLEDS; i++) {
		if (schedule->may[FAULT_BLACKOUT] && chance(world, 25))
			sled_lose_power(&world->sleds[i]);
	}
	if (schedule->may[FAULT_HOST_LOSS] && chance(world, 50) && world_owner(world))
		host_lose(world_owner(world)->host, world);
	else if (chance(world, 30))
		take_over(world);
	else if (world_owner(world))
		gateway_kill(world_owner(world));
}

void schedule_run(struct world *world)
{
	struct schedule schedule;
	unsigned absent = (unsigned)random_below(world, SLEDS);
	cover(COVER_SEEDS);
	draw(world, &schedule);
	world->acks_on_submit = world->seed % 16 == 7;
	if (world->seed % 16 == 11)
		world->min_copies = 1;
	if (world->acks_on_submit)
		checker_allow_loss(world->checker);
	for (unsigned i = 0; i < SLEDS; i++)
		world->sleds[i].fails_any_sync = chance(world, 50);
	uint64_t length = 300 + random_below(world, 900), part = length / schedule.parts;
	host_claim(&world->hosts[random_below(world, HOSTS)], world);
	for (uint64_t i = 0; i < length && !world->violation[0]; i++) {
		act(world, &schedule);
		if (i % part == part - 1)
			start_again(world, &schedule, &absent);
	}
	if (!world->violation[0])
		end(world);
	if (world->is_void && world->violation[0]) {
		cover(COVER_VOID);
		world->violation[0] = '\0';
	}
}
