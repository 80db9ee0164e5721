/* traces.c: the traces of design section 6 as scripts. Each sets up what lost or reverted data under upstream's rules,
 * and ends with reads that the checker judges. */
#include <stdio.h>
#include <string.h>

#include "world.h"

/* Steps */

static struct gateway *start(struct world *world, unsigned host)
{
	host_claim(&world->hosts[host], world);
	schedule_pass(world, 20000);
	return &world->gateways[host];
}

static void must(struct world *world, bool holds, const char *what)
{
	if (!holds)
		violation(world, "the trace's precondition is not met: %s", what);
}

static bool serves(const struct gateway *gateway)
{
	return gateway->upstairs && upstairs_state(gateway->upstairs) == UPSTAIRS_SERVING;
}

static void submit(struct gateway *gateway, enum upstairs_operation operation, uint64_t block)
{
	gateway->world->event++;
	gateway_submit(gateway, operation, block, 1);
}

static void write_done(struct gateway *gateway, uint64_t block)
{
	submit(gateway, UPSTAIRS_WRITE, block);
	schedule_pass(gateway->world, 0);
	must(gateway->world, gateway->request_count == 0, "a write is acknowledged");
}

static void flush_done(struct gateway *gateway)
{
	submit(gateway, UPSTAIRS_FLUSH, 0);
	schedule_pass(gateway->world, 0);
	must(gateway->world, gateway->request_count == 0, "a flush is acknowledged");
}

/* What is queued for the downstairs of a slot is executed. */
static void execute(struct gateway *gateway, unsigned slot)
{
	while (gateway->connections[slot] && network_has_up(gateway->connections[slot])) {
		gateway->world->event++;
		network_deliver_up(gateway->connections[slot]);
	}
}

static void cut(struct world *world, unsigned host, unsigned slot, bool is_cut)
{
	world->is_cut[host][slot] = is_cut;
}

/* The link drops with all answers on it, and stays down. */
static void lose_link(struct gateway *gateway, unsigned slot)
{
	network_drop_at(gateway->connections[slot], 0, 0);
	schedule_pass(gateway->world, 0);
	cut(gateway->world, gateway->host->index, slot, true);
}

/* Until the slot is in that phase. */
static void until_phase(struct gateway *gateway, unsigned slot, enum slot_phase phase)
{
	struct world *world = gateway->world;
	for (unsigned i = 0; i < 2000 && gateway->upstairs->slots[slot].phase != phase; i++) {
		if (!schedule_step(world)) {
			world->now += 10;
			gateway_tick(gateway);
		}
	}
	must(world, gateway->upstairs->slots[slot].phase == phase, "a slot gets to a phase");
}

/* All blocks are read, and the named copies are equal in the end. */
static void read_back(struct world *world, struct gateway *gateway)
{
	schedule_pass(world, 30000);
	must(world, serves(gateway), "the last gateway serves");
	if (world->violation[0])
		return;
	for (uint64_t block = 0; block < world->blocks; block++)
		submit(gateway, UPSTAIRS_READ, block);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	schedule_pass(world, 10000);
	must(world, gateway->request_count == 0, "the last reads are answered");
	schedule_compare(world);
}

static struct gateway *take_over(struct world *world, struct gateway *old)
{
	unsigned host = old->host->index;
	host_lose(old->host, world);
	return start(world, 1 - host);
}

/* The traces */

static void trace_a(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	flush_done(gateway);
	write_done(gateway, 0);
	write_done(gateway, 0);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	for (unsigned i = 0; i < SLEDS; i++)
		execute(gateway, i);
	network_drop_at(gateway->connections[0], 0, 0);
	until_phase(gateway, 0, SLOT_REPLAY);
	must(world, gateway->connections[0]->up.count > 0, "a write is replayed");
	network_deliver_up(gateway->connections[0]);
	read_back(world, take_over(world, gateway));
}

static void trace_b(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 0);
	flush_done(gateway);
	lose_link(gateway, 0);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[0], "slot 0 has left");
	write_done(gateway, 0);
	write_done(gateway, 0);
	cut(world, 0, 0, false);
	until_phase(gateway, 0, SLOT_REPLAY);
	network_deliver_up(gateway->connections[0]);
	read_back(world, take_over(world, gateway));
}

/* X reaches slot 0 only, then the host is lost. Returns the gateway that starts without slot 0. */
static struct gateway *lone_write(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	submit(gateway, UPSTAIRS_WRITE, 2);
	execute(gateway, 0);
	for (unsigned i = 1; i < SLEDS; i++)
		network_drop_at(gateway->connections[i], 0, 0);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	sled_kill(&world->sleds[0]);
	gateway = start(world, 1);
	must(world, serves(gateway), "two slots are enough");
	return gateway;
}

static void trace_c(struct world *world)
{
	struct gateway *gateway = lone_write(world);
	write_done(gateway, 2);
	host_lose(gateway->host, world);
	sled_start(&world->sleds[0]);
	read_back(world, start(world, 0));
}

static void trace_d(struct world *world)
{
	struct gateway *gateway = lone_write(world);
	submit(gateway, UPSTAIRS_READ, 2);
	schedule_pass(world, 0);
	must(world, gateway->request_count == 0, "a read is answered");
	host_lose(gateway->host, world);
	sled_start(&world->sleds[0]);
	read_back(world, start(world, 0));
}

static void trace_e(struct world *world)
{
	struct gateway *old = start(world, 0);
	write_done(old, 2);
	submit(old, UPSTAIRS_WRITE, 2); /* to be replayed over Y's data */
	for (unsigned i = 0; i < SLEDS; i++) {
		network_drop_at(old->connections[i], 0, 0);
		cut(world, 0, i, true);
	}
	schedule_pass(world, 0);
	struct gateway *gateway = start(world, 1);
	must(world, serves(gateway), "Y serves");
	write_done(gateway, 2);
	flush_done(gateway);
	for (unsigned i = 0; i < SLEDS; i++) {
		sled_lose_power(&world->sleds[i]);
		sled_start(&world->sleds[i]);
		cut(world, 1, i, true);
		cut(world, 0, i, false);
	}
	schedule_pass(world, 10000); /* X has them for itself */
	for (unsigned i = 0; i < SLEDS; i++)
		cut(world, 1, i, false);
	read_back(world, gateway);
}

static void trace_f(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	host_lose(gateway->host, world);
	for (unsigned i = 0; i < 2; i++) {
		sled_wipe(&world->sleds[i], false);
		sled_start(&world->sleds[i]);
	}
	gateway = start(world, 1);
	schedule_pass(world, 10000);
	if (serves(gateway))
		violation(world, "serves with two empty copies");
	if (sled_block(&world->sleds[2], 2) != 1)
		violation(world, "the last copy is overwritten");
}

static void trace_g(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	write_done(gateway, 2);
	sled_kill(&world->sleds[1]);
	submit(gateway, UPSTAIRS_WRITE, 2);
	schedule_pass(world, 5000);
	if (gateway->request_count == 0)
		violation(world, "a write is acknowledged with one copy");
	sled_kill(&world->sleds[0]);
	sled_start(&world->sleds[1]);
	cut(world, 0, 2, false);
	schedule_pass(world, 10000);
	gateway = take_over(world, gateway);
	sled_start(&world->sleds[0]);
	read_back(world, gateway);
}

static void trace_j(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	submit(gateway, UPSTAIRS_WRITE, 2);
	submit(gateway, UPSTAIRS_READ, 2);
	for (unsigned i = 0; i < SLEDS; i++) {
		struct connection *connection = gateway->connections[i];
		unsigned has_read = connection->up.count > 1;
		if (has_read) {
			execute(gateway, i);
			while (network_has_down(connection))
				network_deliver_down(connection);
		} else {
			network_drop_at(connection, 0, 0);
		}
	}
	must(world, gateway->request_count > 0, "the write is not acknowledged");
	unsigned only = 0;
	while (only < SLEDS - 1 && sled_block(&world->sleds[only], 2) != 2)
		only++;
	must(world, sled_block(&world->sleds[only], 2) == 2, "one copy has it");
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	sled_kill(&world->sleds[only]);
	gateway = start(world, 1);
	read_back(world, gateway);
	host_lose(gateway->host, world);
	sled_start(&world->sleds[only]);
	read_back(world, start(world, 0));
}

static void trace_k(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	for (unsigned i = 0; i < SLEDS; i++)
		execute(gateway, i);
	network_drop_at(gateway->connections[2], 0, 0);
	schedule_pass(world, 1000);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	write_done(gateway, 2);
	read_back(world, take_over(world, gateway));
}

static void trace_l(struct world *world)
{
	struct gateway *old = start(world, 0);
	write_done(old, 2);
	old->is_stopped = true;
	host_claim(&world->hosts[1], world);
	struct gateway *gateway = &world->gateways[1];
	until_phase(gateway, 0, SLOT_MENDING);
	for (unsigned i = 0; i < SLEDS; i++) {
		sled_kill(&world->sleds[i]);
		sled_start(&world->sleds[i]);
		cut(world, 1, i, true);
	}
	/* the old owner has not been told: its links are gone like all others */
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &world->connections[i];
		if (connection->is_used && connection->host == 0 && connection->is_open && connection->gateway)
			network_drop_at(connection, 0, 0);
	}
	old->is_stopped = false;
	submit(old, UPSTAIRS_WRITE, 2);
	schedule_pass(world, 10000);
	must(world, old->request_count == 0, "the old owner acknowledges a write");
	for (unsigned i = 0; i < SLEDS; i++)
		cut(world, 1, i, false);
	read_back(world, gateway);
}

int traces_run(const char *name, bool is_verbose)
{
	static struct world world;
	static void (*const traces[26])(struct world *world) = {
		trace_a, trace_b, trace_c, trace_d, trace_e, trace_f, trace_g, NULL, NULL, trace_j, trace_k, trace_l,
	};
	unsigned number = (unsigned)name[0] - 'a';
	if (number > 'l' - 'a' || name[1])
		return 64;
	if (!traces[number]) {
		printf("trace %s needs what the core does not do yet\n", name);
		return 77;
	}
	for (uint64_t seed = 1; seed <= 200; seed++) {
		world_open(&world, seed, is_verbose && seed == 1);
		traces[number](&world);
		if (world.violation[0])
			printf("trace %s, order %llu: %s\n", name, (unsigned long long)seed, world.violation);
		bool is_good = !world.violation[0];
		world_close(&world);
		if (!is_good)
			return 1;
	}
	return 0;
}
