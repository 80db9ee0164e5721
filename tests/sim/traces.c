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

/* What was answered to the slot's downstairs gets to the gateway. */
static void hear(struct gateway *gateway, unsigned slot)
{
	while (gateway->connections[slot] && network_has_down(gateway->connections[slot])) {
		gateway->world->event++;
		network_deliver_down(gateway->connections[slot]);
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

/* One event, or time if there is none. */
static void step(struct gateway *gateway)
{
	if (!schedule_step(gateway->world)) {
		gateway->world->now += 10;
		gateway_tick(gateway);
	}
}

/* Until the slot is in that phase. */
static void until_phase(struct gateway *gateway, unsigned slot, enum slot_phase phase)
{
	struct world *world = gateway->world;
	for (unsigned i = 0; i < 2000 && gateway->upstairs->slots[slot].phase != phase; i++)
		step(gateway);
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

/* What a loss of power takes. */

static bool loses_block(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	(void)context, (void)extent_id, (void)block;
	return piece == PIECE_VERSIONS;
}

static bool loses_data(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	(void)context, (void)extent_id, (void)block;
	return piece != PIECE_DATA;
}

static bool loses_contexts(void *context, uint32_t extent_id, uint64_t block, enum disk_piece piece)
{
	(void)context, (void)extent_id, (void)block;
	return piece != PIECE_CONTEXTS;
}

/* All stores that are under way take effect. */
static void store_all(struct world *world)
{
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (world->operations[i].is_used && !world->operations[i].is_applied)
			store_apply(&world->operations[i]);
	}
}

/* The outcome of the store that is under way is unknown. */
static void forget_store(struct world *world)
{
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (world->operations[i].is_used && !world->operations[i].is_answered)
			store_answer(&world->operations[i], true);
	}
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
	world->holds_records = true; /* it stays named */
	network_drop_at(gateway->connections[0], 0, 0);
	until_phase(gateway, 0, SLOT_REPLAY);
	must(world, gateway->connections[0]->up.count > 0, "a write is replayed");
	network_deliver_up(gateway->connections[0]);
	host_lose(gateway->host, world);
	world->holds_records = false;
	read_back(world, start(world, 1));
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
	write_done(gateway, 1);
	cut(world, 0, 0, false);
	until_phase(gateway, 0, SLOT_REPLAY);
	network_deliver_up(gateway->connections[0]);
	store_all(world);
	read_back(world, take_over(world, gateway));
}

/* X reaches slot 0 only, then the host is lost. Returns the gateway that starts without slot 0. The extent is not the one
 * that was flushed last, and so is not mended. */
static struct gateway *lone_write(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	uint64_t last = world->blocks - 1;
	write_done(gateway, last);
	flush_done(gateway);
	write_done(gateway, 0);
	flush_done(gateway);
	submit(gateway, UPSTAIRS_WRITE, last);
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
	write_done(gateway, world->blocks - 1);
	host_lose(gateway->host, world);
	sled_start(&world->sleds[0]);
	read_back(world, start(world, 0));
}

static void trace_d(struct world *world)
{
	struct gateway *gateway = lone_write(world);
	submit(gateway, UPSTAIRS_READ, world->blocks - 1);
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
	for (unsigned i = 0; i < SLEDS; i++)
		network_drop_at(old->connections[i], 0, 0);
	schedule_pass(world, 0);
	for (unsigned i = 0; i < SLEDS; i++)
		cut(world, 0, i, true);
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

/* A block is damaged on slot 0, and is being healed when the guest writes it. */
static void trace_i(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	uint64_t last = world->blocks - 1;
	write_done(gateway, last);
	flush_done(gateway);
	disk_damage(world->sleds[0].disk, last, PIECE_DATA);
	for (unsigned i = 0; i < 2000 && !heal_holds(gateway->upstairs, last, 1); i++) {
		if (gateway->request_count < 3)
			submit(gateway, UPSTAIRS_READ, last);
		schedule_step(world);
	}
	must(world, heal_holds(gateway->upstairs, last, 1), "the block is being healed");
	submit(gateway, UPSTAIRS_WRITE, last);
	schedule_pass(world, 1000);
	must(world, gateway->request_count == 0, "the write is acknowledged");
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

/* Slot 2 has the highest number of the extent, and goes. Returns the gateway with the store under way that drops it. */
static struct gateway *highest_leaves(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	for (unsigned i = 0; i < SLEDS; i++)
		execute(gateway, i);
	network_drop_at(gateway->connections[2], 0, 0);
	schedule_pass(world, 1000);
	flush_done(gateway);
	world->holds_records = true;
	lose_link(gateway, 2);
	return gateway;
}

static void trace_k(struct world *world)
{
	struct gateway *gateway = highest_leaves(world);
	world->holds_records = false;
	schedule_pass(world, 5000);
	write_done(gateway, 2);
	read_back(world, take_over(world, gateway));
}

/* The same, and the host is lost before the record without slot 2 is stored: no write is acknowledged till then. */
static void trace_leaving(struct world *world)
{
	struct gateway *gateway = highest_leaves(world);
	submit(gateway, UPSTAIRS_WRITE, 2);
	schedule_pass(world, 500);
	host_lose(gateway->host, world);
	world->holds_records = false;
	read_back(world, start(world, 1));
}

static void trace_leaving_unknown(struct world *world)
{
	struct gateway *gateway = highest_leaves(world);
	forget_store(world);
	submit(gateway, UPSTAIRS_WRITE, 2);
	schedule_pass(world, 500);
	host_lose(gateway->host, world);
	world->holds_records = false;
	read_back(world, start(world, 1));
}

/* The same, and the record that drops it is refused, as another host has claimed the volume. */
static void trace_leaving_superseded(struct world *world)
{
	struct gateway *old = highest_leaves(world);
	for (unsigned i = 0; i < SLEDS; i++)
		cut(world, 1, i, true);
	host_claim(&world->hosts[1], world);
	store_all(world);
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (world->operations[i].is_used && world->operations[i].gateway == old)
			store_answer(&world->operations[i], false);
	}
	submit(old, UPSTAIRS_WRITE, 2);
	schedule_pass(world, 500);
	world->holds_records = false;
	for (unsigned i = 0; i < SLEDS; i++)
		cut(world, 1, i, false);
	read_back(world, &world->gateways[1]);
}

/* A write is on its way to slot 0 on a connection that stalls. The next one ends while it negotiates, and then another
 * owner comes: what was on its way must not be executed any more (W1). */
static void trace_zombie(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	struct connection *stalled = gateway->connections[0];
	submit(gateway, UPSTAIRS_WRITE, 2);
	stalled->is_stalled = true;
	for (unsigned i = 0; i < 2000 && gateway->connections[0] == stalled; i++)
		step(gateway);
	for (unsigned i = 0; i < 2000 && !gateway->connections[0]; i++) {
		world->now += 10;
		gateway_tick(gateway);
	}
	must(world, gateway->connections[0] != NULL, "slot 0 is tried again");
	if (world->violation[0])
		return;
	network_answer_connect(gateway->connections[0], true);
	struct connection *next = gateway->connections[0];
	network_deliver_up(next);
	network_drop_at(next, 0, 0);
	network_deliver_up(next);
	cut(world, 0, 0, true);
	gateway = take_over(world, gateway);
	schedule_pass(world, 20000);
	write_done(gateway, 2);
	flush_done(gateway);
	stalled->is_stalled = false;
	cut(world, 0, 0, false);
	read_back(world, gateway);
}

/* The record names two slots. On one of them, which is the only one then, a block that was flushed is written again, and
 * a loss of power takes the new context: what is there is not zeros, though the downstairs says that it was never written. */
static void trace_overwritten(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	write_done(gateway, 2);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	sled_kill(&world->sleds[0]);
	sled_kill(&world->sleds[1]);
	disk_power_loss(world->sleds[1].disk, loses_contexts, NULL);
	checker_power_lost(world->checker, world->event);
	sled_start(&world->sleds[1]);
	world->was_torn = true; /* an error is right */
	read_back(world, start(world, 1));
}

/* Slot 2 has replayed, and the record that names it is being stored: the others have a lower number. A write that it has
 * not got is not acknowledged until it is known not to be named. */
static void join(struct world *world, bool is_unknown)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	write_done(gateway, 2);
	world->holds_records = true;
	cut(world, 0, 2, false);
	until_phase(gateway, 2, SLOT_JOINING);
	store_all(world);
	submit(gateway, UPSTAIRS_WRITE, 2);
	for (unsigned i = 0; i < 2; i++) {
		execute(gateway, i);
		hear(gateway, i);
	}
	network_drop_at(gateway->connections[2], 0, 0);
	cut(world, 0, 2, true);
	schedule_pass(world, 0);
	if (is_unknown)
		forget_store(world);
	host_lose(gateway->host, world);
	must(world, world->stored.record.in_sync[2], "the record names slot 2");
	world->holds_records = false;
	read_back(world, start(world, 1));
}

static void trace_joining(struct world *world)
{
	join(world, false);
}

static void trace_joining_unknown(struct world *world)
{
	join(world, true);
}

/* The record names two slots. A flush is not done on one of them, which loses power; then it is the only one. */
static void trace_flush_on_one(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	write_done(gateway, 2);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	execute(gateway, 0);
	hear(gateway, 0);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	sled_kill(&world->sleds[0]);
	sled_kill(&world->sleds[1]);
	disk_power_loss(world->sleds[1].disk, loses_block, NULL);
	checker_power_lost(world->checker, world->event);
	sled_start(&world->sleds[1]);
	read_back(world, start(world, 1));
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

/* Slot 2 is away for so long that the history does not reach back, with the last extent dirty. */
static struct gateway *start_repair(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	uint64_t last = world->blocks - 1;
	write_done(gateway, last);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	for (unsigned i = 0; i < 150; i++) {
		write_done(gateway, 0);
		if (i % 3 == 0)
			flush_done(gateway);
	}
	write_done(gateway, last);
	cut(world, 0, 2, false);
	until_phase(gateway, 2, SLOT_REPAIR);
	return gateway;
}

/* A flush without a limit would stamp the last extent like the source's before it is copied. */
static void trace_h(struct world *world)
{
	struct gateway *gateway = start_repair(world);
	flush_done(gateway);
	schedule_pass(world, 20000);
	must(world, world->stored.record.in_sync[2], "slot 2 is copied");
	read_back(world, gateway);
}

/* Writes to the extent that is being copied, and to one that is. */
static void trace_written_in_repair(struct world *world)
{
	struct gateway *gateway = start_repair(world);
	submit(gateway, UPSTAIRS_WRITE, 0);
	while (gateway->upstairs->repair && gateway->upstairs->slots[2].repaired_to <= world->region.extent_size)
		schedule_step(world);
	submit(gateway, UPSTAIRS_WRITE, 0);
	for (unsigned i = 0; i < 2000 && !world->stored.record.in_sync[2]; i++)
		schedule_step(world);
	must(world, world->stored.record.in_sync[2], "slot 2 is copied");
	sled_kill(&world->sleds[2]);
	disk_power_loss(world->sleds[2].disk, loses_block, NULL);
	sled_start(&world->sleds[2]);
	read_back(world, gateway);
}

/* The flushes that a slot acknowledges while it is copied say nothing of what is not copied yet. */
static void trace_repair_cut_short(struct world *world)
{
	struct gateway *gateway = start_repair(world);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	while (gateway->request_count > 0 && gateway->upstairs->repair)
		schedule_step(world);
	for (unsigned i = 0; i < 20 && gateway->upstairs->repair &&
		 gateway->upstairs->slots[2].repaired_to < world->blocks; i++)
		schedule_step(world);
	if (gateway->upstairs->slots[2].phase == SLOT_REPAIR) {
		lose_link(gateway, 2);
		write_done(gateway, 0);
		cut(world, 0, 2, false);
	}
	read_back(world, gateway);
}

/* Slot 2 loses power inside its last flush, and is away for so long that only a repair brings it back: its numbers are
 * those of the others. */
static void trace_torn_and_repaired(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	uint64_t last = world->blocks - 1;
	write_done(gateway, last);
	flush_done(gateway);
	write_done(gateway, last);
	world->sleds[2].kill_in = 2; /* bitmap and versions */
	submit(gateway, UPSTAIRS_FLUSH, 0);
	schedule_pass(world, 5000);
	must(world, !world->sleds[2].downstairs, "the downstairs is killed in the flush");
	disk_power_loss(world->sleds[2].disk, loses_block, NULL);
	for (unsigned i = 0; i < 150; i++) {
		write_done(gateway, 0);
		if (i % 3 == 0)
			flush_done(gateway);
	}
	sled_start(&world->sleds[2]);
	schedule_pass(world, 20000);
	must(world, world->stored.record.in_sync[2], "slot 2 is copied");
	read_back(world, gateway);
}

/* The sync of the last extent fails on slot 2, and a flush behind it, of another extent, does not: the number of what is
 * not saved is not the highest. */
static struct gateway *lie(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	struct sled *sled = &world->sleds[2];
	sled->fails_any_sync = false;
	write_done(gateway, world->blocks - 1);
	sled->sync_fails = true;
	submit(gateway, UPSTAIRS_FLUSH, 0);
	submit(gateway, UPSTAIRS_WRITE, 0);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	execute(gateway, 2);
	must(world, !sled->sync_fails, "a sync has failed");
	return gateway;
}

static void must_be_whole(struct world *world)
{
	for (unsigned i = 0; i < SLEDS; i++) {
		if (world->stored.record.in_sync[i] && sled_is_hollow(&world->sleds[i]))
			violation(world, "slot %u counts with what a sync has not saved", i);
	}
}

/* The host is lost, and with it the history: the record alone says what the numbers do not. */
static void trace_lied(struct world *world)
{
	struct gateway *gateway = lie(world);
	hear(gateway, 2);
	cut(world, 0, 2, true);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	read_back(world, take_over(world, gateway));
	must_be_whole(world);
}

/* The process is killed before the record says it: the history does. */
static void trace_lied_and_killed(struct world *world)
{
	struct gateway *gateway = lie(world);
	world->holds_records = true;
	for (unsigned i = 0; i < SLEDS; i++) {
		execute(gateway, i);
		hear(gateway, i);
	}
	gateway_kill(gateway);
	for (unsigned i = 0; i < OPERATIONS; i++)
		must(world, !world->operations[i].is_used, "no store is left");
	world->holds_records = false;
	if (world->stored.record.full_copy[2])
		return; /* it got through */
	host_resume(&world->hosts[0], world);
	read_back(world, gateway);
	must_be_whole(world);
}

/* Beside a slot that has lied, one that loses power needs what only the history has. */
static void trace_lied_beside_power_loss(struct world *world)
{
	struct gateway *gateway = lie(world);
	world->holds_records = true;
	hear(gateway, 2);
	gateway_kill(gateway);
	sled_kill(&world->sleds[0]);
	sled_lose_power(&world->sleds[0]);
	sled_start(&world->sleds[0]);
	world->holds_records = false;
	host_resume(&world->hosts[0], world);
	read_back(world, gateway);
	must_be_whole(world);
}

/* The flush of an extent that is mended fails on its source. */
static void trace_lied_in_a_mend(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, world->blocks - 1);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	world->sleds[0].fails_any_sync = false;
	world->sleds[0].sync_fails = true;
	gateway = start(world, 1);
	must(world, !world->sleds[0].sync_fails, "a sync has failed");
	read_back(world, gateway);
	must_be_whole(world);
}

/* A sync fails in a write that rewrites a block: what was written before to the same extent is not saved by it, nor by
 * the flush that follows. */
static void trace_lied_in_a_write(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	struct sled *sled = &world->sleds[2];
	uint64_t last = world->blocks - 1;
	sled->fails_any_sync = true;
	write_done(gateway, last - 1);
	write_done(gateway, last);
	sled->sync_fails = true;
	write_done(gateway, last);
	must(world, !sled->sync_fails, "a sync has failed");
	schedule_pass(world, 20000);
	flush_done(gateway);
	must(world, world->stored.record.in_sync[2], "slot 2 is in sync");
	if (sled_is_hollow(sled))
		violation(world, "slot 2 counts with what a sync has not saved");
	sled_kill(sled);
	sled_lose_power(sled);
	sled_start(sled);
	read_back(world, gateway);
}

/* A flush of a block's extent is not synced on slot 0: its downstairs is killed between stamp and sync. */
static struct gateway *killed_in_flush_of(struct world *world, uint64_t block)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, block);
	flush_done(gateway);
	write_done(gateway, block);
	world->sleds[0].kill_in = 2; /* bitmap and versions */
	world->holds_records = true;
	submit(gateway, UPSTAIRS_FLUSH, 0);
	execute(gateway, 0);
	must(world, !world->sleds[0].downstairs, "the downstairs is killed in the flush");
	return gateway;
}

static struct gateway *killed_in_flush(struct world *world)
{
	return killed_in_flush_of(world, world->blocks - 1);
}

static struct gateway *start_elsewhere(struct world *world, struct gateway *gateway)
{
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	world->holds_records = false;
	sled_start(&world->sleds[0]);
	gateway = start(world, 1);
	must(world, serves(gateway), "the other host serves");
	return gateway;
}

/* Power is lost there, and the data of a block: its numbers are the highest. */
static void trace_torn(struct world *world)
{
	struct gateway *gateway = killed_in_flush(world);
	disk_power_loss(world->sleds[0].disk, loses_data, NULL);
	read_back(world, start_elsewhere(world, gateway));
}

/* All of the block is as it was before, and nothing shows it: all have the same numbers. */
static void trace_torn_unseen(struct world *world)
{
	struct gateway *gateway = killed_in_flush(world);
	execute(gateway, 1);
	execute(gateway, 2);
	disk_power_loss(world->sleds[0].disk, loses_block, NULL);
	checker_power_lost(world->checker, world->event);
	read_back(world, start_elsewhere(world, gateway));
}

/* The same, and the other slots have higher numbers elsewhere. */
static void trace_torn_behind(struct world *world)
{
	struct gateway *gateway = killed_in_flush(world);
	submit(gateway, UPSTAIRS_WRITE, 0);
	submit(gateway, UPSTAIRS_FLUSH, 0);
	execute(gateway, 1);
	execute(gateway, 2);
	disk_power_loss(world->sleds[0].disk, loses_block, NULL);
	checker_power_lost(world->checker, world->event);
	read_back(world, start_elsewhere(world, gateway));
}

/* The start that mends it is killed when it has mended another extent, which has the higher numbers from then on. */
static void tear_behind_a_mend(struct world *world, bool (*loses)(void *, uint32_t, uint64_t, enum disk_piece))
{
	struct gateway *gateway = killed_in_flush_of(world, 1); /* block 0 is the fence's */
	uint32_t last = (uint32_t)((world->blocks - 1) / world->region.extent_size);
	submit(gateway, UPSTAIRS_WRITE, world->blocks - 1);
	execute(gateway, 1);
	execute(gateway, 2);
	disk_power_loss(world->sleds[0].disk, loses, NULL);
	checker_power_lost(world->checker, world->event);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	world->holds_records = false;
	sled_start(&world->sleds[0]);
	host_claim(&world->hosts[1], world);
	gateway = &world->gateways[1];
	const struct disk *copy = world->sleds[0].disk;
	for (unsigned i = 0; i < 2000 && disk_versions(copy, last).generation < gateway->generation; i++)
		step(gateway);
	must(world, disk_versions(copy, last).generation == gateway->generation, "the last extent is mended");
	must(world, !serves(gateway), "it does not serve yet");
	read_back(world, take_over(world, gateway));
}

static void trace_torn_behind_a_mend(struct world *world)
{
	tear_behind_a_mend(world, loses_data);
}

/* And what it has lost leaves an older block, which looks good. */
static void trace_torn_unseen_behind_a_mend(struct world *world)
{
	tear_behind_a_mend(world, loses_block);
	for (unsigned i = 1; i < SLEDS; i++) {
		if (sled_block(&world->sleds[i], 1) != sled_block(&world->sleds[0], 1))
			violation(world, "block 1 is another one on sleds 0 and %u", i);
	}
}

/* Each copy has lost another one of the blocks that are read. */
static void trace_rotten_in_three_places(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	for (unsigned i = 0; i < SLEDS; i++)
		write_done(gateway, i);
	flush_done(gateway);
	for (unsigned i = 0; i < SLEDS; i++) {
		sled_rot(&world->sleds[i], i);
		must(world, !sled_block_is_good(&world->sleds[i], i), "a block has rotted");
	}
	world->event++;
	gateway_submit(gateway, UPSTAIRS_READ, 0, SLEDS);
	schedule_pass(world, 10000);
	must(world, gateway->request_count == 0, "the read is answered");
	read_back(world, gateway);
}

/* Nobody reads the blocks that rot, one on each copy: the scrub finds and heals them. */
static void trace_scrub(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	for (uint64_t block = 0; block < world->blocks; block++)
		write_done(gateway, block);
	flush_done(gateway);
	for (unsigned i = 0; i < SLEDS; i++)
		sled_rot(&world->sleds[i], world->blocks - 1 - i);
	must(world, !sled_block_is_good(&world->sleds[0], world->blocks - 1), "a block has rotted");
	gateway_scrub(gateway, 0);
	struct upstairs_status status;
	for (unsigned i = 0; i < 20000; i++) {
		upstairs_status(gateway->upstairs, &status);
		if (!status.scrub.is_running)
			break;
		if (gateway->request_count < 2)
			submit(gateway, UPSTAIRS_WRITE, i % world->blocks);
		schedule_step(world);
	}
	must(world, !status.scrub.is_running && status.scrub.passes == 1, "the scrub has come to its end");
	flush_done(gateway);
	for (uint64_t block = 0; block < world->blocks; block++) {
		for (unsigned i = 0; i < SLEDS; i++) {
			if (!sled_block_is_good(&world->sleds[i], block))
				violation(world, "sled %u: block %llu has rotted, and a scrub has left it so", i, (unsigned long long)block);
		}
	}
	read_back(world, gateway);
}

/* No power is lost until the new owner's flush says that all is safe. */
static void trace_unsynced(struct world *world)
{
	struct gateway *gateway = start_elsewhere(world, killed_in_flush(world));
	flush_done(gateway);
	sled_kill(&world->sleds[0]);
	disk_power_loss(world->sleds[0].disk, loses_block, NULL);
	sled_start(&world->sleds[0]);
	read_back(world, gateway);
}

/* Slot 0 loses the context of a block's first write, and not its data. */
static void trace_unwritten(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, world->blocks - 1);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	sled_kill(&world->sleds[0]);
	disk_power_loss(world->sleds[0].disk, loses_contexts, NULL);
	sled_start(&world->sleds[0]);
	must(world, !sled_block_is_good(&world->sleds[0], world->blocks - 1), "slot 0 has data without a context");
	read_back(world, start(world, 1));
}

/* The record names two slots, and the process dies; the disk of one of the two is another one when it comes back. */
static void trace_one_left(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, 2);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	write_done(gateway, 2);
	submit(gateway, UPSTAIRS_WRITE, 2);
	execute(gateway, 0);
	gateway_kill(gateway);
	sled_wipe(&world->sleds[1], true);
	sled_start(&world->sleds[1]);
	cut(world, 0, 2, false);
	host_resume(&world->hosts[0], world);
	read_back(world, gateway);
}

/* A slot is wiped, copied, and wiped again. */
static void trace_wiped_again(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	for (unsigned i = 0; i < 2; i++) {
		write_done(gateway, 2);
		flush_done(gateway);
		sled_wipe(&world->sleds[2], false);
		schedule_pass(world, 5000);
		write_done(gateway, world->blocks - 1); /* the history reaches back to here */
		sled_start(&world->sleds[2]);
		schedule_pass(world, 20000);
		must(world, world->stored.record.in_sync[2], "slot 2 is copied");
	}
	read_back(world, gateway);
}

/* The record names two slots, of which one is wiped. What is mended onto it makes it show what it must before it is a
 * copy; then it is the only one. */
static void trace_wiped_and_mended(struct world *world)
{
	struct gateway *gateway = start(world, 0);
	write_done(gateway, world->blocks - 1);
	flush_done(gateway);
	lose_link(gateway, 2);
	schedule_pass(world, 5000);
	must(world, !world->stored.record.in_sync[2], "slot 2 has left");
	for (uint64_t block = 0; block < world->blocks; block++)
		write_done(gateway, block);
	flush_done(gateway);
	host_lose(gateway->host, world);
	sled_wipe(&world->sleds[1], false);
	sled_start(&world->sleds[1]);
	cut(world, 1, 2, true);
	world->holds_records = chance(world, 50);
	host_claim(&world->hosts[1], world);
	gateway = &world->gateways[1];
	uint64_t fetched = covered[COVER_EXTENT_REPAIRS];
	for (unsigned i = 0; i < 2000 && covered[COVER_EXTENT_REPAIRS] == fetched; i++)
		step(gateway);
	host_lose(gateway->host, world);
	schedule_pass(world, 0);
	world->holds_records = false;
	sled_kill(&world->sleds[0]);
	cut(world, 0, 2, false);
	gateway = start(world, 0);
	schedule_pass(world, 20000);
	if (serves(gateway))
		violation(world, "serves without a copy");
}

/* The first record is stored, and its outcome is not known yet; then slot 0 becomes the region of another volume. */
static void trace_replaced_in_start(struct world *world)
{
	struct gateway *gateway = &world->gateways[0];
	world->holds_records = true;
	host_claim(&world->hosts[0], world);
	schedule_pass(world, 5000);
	store_all(world);
	must(world, world->stored.record.exists, "the record is stored");
	sled_wipe(&world->sleds[0], true);
	if (sled_block(&world->sleds[0], 0) == 0)
		return; /* an empty one */
	sled_start(&world->sleds[0]);
	schedule_pass(world, 0);
	forget_store(world);
	schedule_pass(world, 500);
	world->holds_records = false;
	read_back(world, gateway);
}

static const struct {
	const char *name;
	void (*run)(struct world *world);
} traces[] = {
	{ "a", trace_a },
	{ "b", trace_b },
	{ "c", trace_c },
	{ "d", trace_d },
	{ "e", trace_e },
	{ "f", trace_f },
	{ "g", trace_g },
	{ "h", trace_h },
	{ "i", trace_i },
	{ "j", trace_j },
	{ "k", trace_k },
	{ "l", trace_l },
	{ "leaving", trace_leaving },
	{ "leaving-unknown", trace_leaving_unknown },
	{ "leaving-superseded", trace_leaving_superseded },
	{ "zombie", trace_zombie },
	{ "overwritten", trace_overwritten },
	{ "written-in-repair", trace_written_in_repair },
	{ "repair-cut-short", trace_repair_cut_short },
	{ "torn-and-repaired", trace_torn_and_repaired },
	{ "joining", trace_joining },
	{ "joining-unknown", trace_joining_unknown },
	{ "flush-on-one", trace_flush_on_one },
	{ "lied", trace_lied },
	{ "lied-and-killed", trace_lied_and_killed },
	{ "lied-beside-power-loss", trace_lied_beside_power_loss },
	{ "lied-in-a-mend", trace_lied_in_a_mend },
	{ "lied-in-a-write", trace_lied_in_a_write },
	{ "torn", trace_torn },
	{ "torn-unseen", trace_torn_unseen },
	{ "torn-behind", trace_torn_behind },
	{ "torn-behind-a-mend", trace_torn_behind_a_mend },
	{ "torn-unseen-behind-a-mend", trace_torn_unseen_behind_a_mend },
	{ "rotten-in-three-places", trace_rotten_in_three_places },
	{ "scrub", trace_scrub },
	{ "unsynced", trace_unsynced },
	{ "wiped-again", trace_wiped_again },
	{ "wiped-and-mended", trace_wiped_and_mended },
	{ "unwritten", trace_unwritten },
	{ "one-left", trace_one_left },
	{ "replaced-in-start", trace_replaced_in_start },
};

void traces_list(void)
{
	for (size_t i = 0; i < sizeof traces / sizeof traces[0]; i++)
		puts(traces[i].name);
}

int traces_run(const char *name, bool is_verbose)
{
	static struct world world;
	void (*run)(struct world *world) = NULL;
	for (size_t i = 0; i < sizeof traces / sizeof traces[0]; i++) {
		if (strcmp(traces[i].name, name) == 0)
			run = traces[i].run;
	}
	if (!run)
		return 64;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		world_open(&world, seed, is_verbose && seed == 1);
		run(&world);
		if (world.violation[0])
			printf("trace %s, order %llu: %s\n", name, (unsigned long long)seed, world.violation);
		bool is_good = !world.violation[0];
		world_close(&world);
		if (!is_good)
			return 1;
	}
	return 0;
}
