/* hosts.c: gateways with the core under test, what a host keeps for them, and the guests, who are checked. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integrity.h"
#include "world.h"

static void fail_request(struct gateway *gateway, struct guest_request *request)
{
	struct guest_request **at = &gateway->requests;
	while (*at != request)
		at = &(*at)->next;
	*at = request->next;
	gateway->request_count--;
	free(request);
}

static void set_oldest(struct world *world)
{
	uint64_t oldest = world->event;
	for (unsigned i = 0; i < HOSTS; i++) {
		for (struct guest_request *request = world->gateways[i].requests; request; request = request->next) {
			if (request->begin < oldest)
				oldest = request->begin;
		}
	}
	checker_set_oldest(world->checker, oldest);
}

/* kill -9 within a call: what the core does from then on is not seen by anybody, and the history stays as it was. */
bool gateway_lives(struct gateway *gateway)
{
	if (gateway->is_dead || gateway->kill_in == 0)
		return !gateway->is_dead;
	if (--gateway->kill_in > 0)
		return true;
	struct world *world = gateway->world;
	gateway->is_dead = true;
	gateway->area_then = malloc(world->area_size);
	memcpy(gateway->area_then, gateway->host->area, world->area_size);
	trace(world, "host %u: the gateway is killed within a call", gateway->host->index);
	cover(COVER_GATEWAY_KILLS_WITHIN);
	return false;
}

/* What the core wants */

static void *allocate(void *context, size_t size)
{
	struct gateway *gateway = context;
	struct world *world = gateway->world;
	if (world->allocations_until_failure > 0 && --world->allocations_until_failure == 0) {
		cover(COVER_OUT_OF_MEMORY);
		trace(world, "host %u: no memory", gateway->host->index);
		return NULL;
	}
	return malloc(size);
}

static void release(void *context, void *memory)
{
	(void)context;
	free(memory);
}

static void start_connect(void *context, unsigned slot)
{
	struct gateway *gateway = context;
	if (!gateway_lives(gateway))
		return;
	if (gateway->connections[slot])
		violation(gateway->world, "the core connects slot %u twice", slot);
	else
		gateway->connections[slot] = network_connect(gateway, slot);
}

static void disconnect(void *context, unsigned slot)
{
	struct gateway *gateway = context;
	if (!gateway->connections[slot])
		return; /* its end is what the core is just told */
	trace(gateway->world, "host %u: disconnects slot %u", gateway->host->index, slot);
	network_disconnect(gateway->connections[slot]);
}

static void send_message(void *context, unsigned slot, const struct crucible_message *message)
{
	struct gateway *gateway = context;
	if (!gateway_lives(gateway))
		return;
	if (!gateway->connections[slot])
		violation(gateway->world, "the core sends %s to slot %u, which has no connection",
			crucible_message_name(message->type), slot);
	else
		network_send(gateway->connections[slot], message);
}

static void store_record(void *context, const struct upstairs_record *record)
{
	if (gateway_lives(context))
		store_begin(context, record);
}

/* Of plain blocks; one for all worlds. */
static struct integrity *hashes(void)
{
	static struct integrity *integrity;
	if (!integrity)
		integrity = integrity_open(NULL, BLOCK);
	return integrity;
}

static int take_data(void *context, struct upstairs_request *core, uint64_t first,
	const struct crucible_message *response)
{
	struct guest_request *request = core->user;
	(void)context;
	int status = integrity_take(hashes(), response, request->data + first * BLOCK);
	for (uint64_t i = first; status == 0 && i < first + response->read_response.contexts.count; i++)
		request->ids[i] = get_le64(request->data + i * BLOCK);
	return status;
}

static int check_block(void *context, const struct crucible_read_context *block_context, const void *data)
{
	(void)context;
	return integrity_check(hashes(), block_context, data);
}

static bool is_zeros(void *context, const struct crucible_read_context *block_context, const void *data)
{
	(void)context;
	return integrity_is_zeros(hashes(), block_context, data);
}

static void seal_zeros(void *context, void *data, struct crucible_block_context *block_context)
{
	(void)context;
	integrity_seal(hashes(), data, 1, data, block_context);
}

/* At least two disks have the value, or one written over it later. */
static void check_copies(struct world *world, const struct guest_request *request)
{
	if (world->damaged_at > request->begin)
		return;
	for (uint64_t i = 0; i < request->core.count; i++) {
		unsigned copies = 0;
		for (unsigned k = 0; k < SLEDS; k++)
			copies += sled_block(&world->sleds[k], request->core.start + i) >= request->ids[i];
		if (copies == 1)
			cover(COVER_LONE_COPIES);
		if (copies < world->min_copies)
			violation(world, "write %llu of block %llu is acknowledged with %u copies",
				(unsigned long long)request->ids[i], (unsigned long long)(request->core.start + i), copies);
	}
}

static void check_answer(struct gateway *gateway, struct guest_request *request)
{
	struct world *world = gateway->world;
	const struct upstairs_request *core = &request->core;
	bool is_superseded = gateway->generation < world->served_generation;
	const char *wrong = NULL;
	if (core->operation == UPSTAIRS_FLUSH) {
		cover(COVER_FLUSHES);
		checker_flushed(world->checker, request->begin);
		return;
	}
	if (core->operation == UPSTAIRS_READ && is_superseded) {
		cover(COVER_STALE_READS);
		return;
	}
	cover(core->operation == UPSTAIRS_READ ? COVER_READS : core->operation == UPSTAIRS_WRITE ? COVER_WRITES : COVER_ZEROES);
	if (world->acks_on_submit && core->operation == UPSTAIRS_WRITE && !request->is_open) {
		cover(COVER_VAIN_ANSWERS);
		return; /* it cannot know; and nothing of it must be seen, which reads tell */
	}
	if (core->operation != UPSTAIRS_READ && !request->is_open) {
		violation(world, "a gateway that is superseded acknowledges write %llu", (unsigned long long)request->ids[0]);
		return;
	}
	for (uint64_t i = 0; i < core->count && !wrong; i++) {
		struct lone_write *lone = &world->lone[core->start + i];
		*(core->operation == UPSTAIRS_WRITE ? &lone->was_written : &lone->was_read) = true;
		/* zeroes change nothing here, see gateway_submit(): but zeros must have been there meanwhile */
		wrong = core->operation != UPSTAIRS_WRITE
			? checker_read(world->checker, core->start + i, request->ids[i], request->begin, world->event)
			: checker_written(world->checker, core->start + i, request->ids[i], world->event);
	}
	if (wrong)
		violation(world, "%s", wrong);
	if (core->operation == UPSTAIRS_WRITE && !world->acks_on_submit)
		check_copies(world, request);
}

/* Is it what the gateway is writing just now? */
static bool is_under_way(const struct gateway *gateway, uint64_t id)
{
	for (const struct guest_request *request = gateway->requests; request; request = request->next) {
		if (request->core.operation == UPSTAIRS_WRITE && id >= request->ids[0] &&
			id < request->ids[0] + request->core.count)
			return true;
	}
	return false;
}

/* Is there a block among those that were read which no copy in sync has, or not before a write that goes on? */
static bool is_torn_everywhere(const struct gateway *gateway, const struct upstairs_request *core)
{
	const struct world *world = gateway->world;
	for (uint64_t i = 0; i < core->count; i++) {
		unsigned good = 0;
		for (unsigned k = 0; k < SLEDS; k++) {
			const struct sled *sled = &world->sleds[k];
			good += world->stored.record.in_sync[k] && sled->downstairs && sled_block_is_good(sled, core->start + i) &&
				!is_under_way(gateway, sled_block(sled, core->start + i));
		}
		if (good == 0)
			return true;
	}
	return false;
}

static void complete(void *context, struct upstairs_request *core, int error)
{
	struct gateway *gateway = context;
	struct world *world = gateway->world;
	struct guest_request *request = core->user;
	static const char *const names[] = { "read", "write", "flush", "zeroes" };
	if (!gateway_lives(gateway)) {
		fail_request(gateway, request);
		return;
	}
	trace(world, "host %u: %s of block %llu count %llu id %llu: %s", gateway->host->index, names[core->operation],
		(unsigned long long)core->start, (unsigned long long)core->count,
		(unsigned long long)(core->operation == UPSTAIRS_FLUSH ? 0 : request->ids[0]), error ? "fails" : "done");
	if (error == 0)
		check_answer(gateway, request);
	else if (upstairs_state(gateway->upstairs) >= UPSTAIRS_REFUSED)
		cover(COVER_FAILED_REQUESTS);
	else if (error == -EOPNOTSUPP && core->operation == UPSTAIRS_WRITE_ZEROES)
		cover(COVER_ZEROES_REFUSED);
	else if (error == -EIO && core->operation == UPSTAIRS_READ && world->was_torn && is_torn_everywhere(gateway, core))
		cover(COVER_TORN);
	else if (error != -ENOMEM)
		violation(world, "a request fails with %d", error);
	fail_request(gateway, request);
	set_oldest(world);
}

static void report(void *context, unsigned slot, const char *text)
{
	struct gateway *gateway = context;
	trace(gateway->world, "host %u: slot %u: %s", gateway->host->index, slot, text);
	if (strstr(text, "its good copies differ") && !gateway->world->was_torn)
		violation(gateway->world, "valid copies differ: %s", text);
}

static bool is_counted(const struct gateway *gateway, unsigned slot)
{
	return gateway->upstairs->slots[slot].phase == SLOT_COUNTED;
}

/* What no start can know from the versions that it reads (design 6.13): a flush that failed on a sled, whose report
 * was lost with the host that it was sent to; and blocks that losses of power have torn on every source, or behind
 * the back of the versions (the process was killed between setting the dirty flag and its sync). */
static void look_at_copies(struct gateway *gateway)
{
	struct world *world = gateway->world;
	bool are_all_torn = true;
	for (unsigned i = 0; i < SLEDS; i++) {
		struct sled *sled = &world->sleds[i];
		if (!is_counted(gateway, i) || !sled->downstairs)
			continue;
		if (sled_is_hollow(sled)) {
			cover(COVER_HOLLOW_TRUSTED);
			world->is_void = true;
		}
		for (uint64_t block = 0; block < world->blocks; block++) {
			uint32_t extent = (uint32_t)(block / world->region.extent_size);
			if (!sled_block_is_good(sled, block) && disk_versions(sled->disk, extent).generation < gateway->generation) {
				cover(COVER_TORN_COPIES);
				world->was_torn = true;
			}
		}
		are_all_torn = are_all_torn && sled->is_torn;
		sled->is_torn = false;
	}
	world->was_torn = world->was_torn || are_all_torn;
}

/* From its only source a mend copies what is torn, whether it ever serves or not. */
static void look_at_lone_source(const struct gateway *gateway)
{
	for (unsigned i = 0; i < SLEDS; i++)
		gateway->world->was_torn = gateway->world->was_torn ||
			(gateway->upstairs->in_activation[i] && gateway->world->sleds[i].is_torn);
}

/* Traces c and d: a write that one disk has alone, a start without that, and then one with it. */
static void look_at_lone_writes(struct gateway *gateway)
{
	struct world *world = gateway->world;
	for (uint64_t block = 0; block < world->blocks; block++) {
		struct lone_write *lone = &world->lone[block];
		uint64_t newest = 0;
		unsigned holders = 0;
		if (lone->is_there && is_counted(gateway, lone->sled)) {
			if (lone->was_written)
				cover(COVER_TRACE_C);
			if (lone->was_read)
				cover(COVER_TRACE_D);
			lone->is_there = false;
		}
		for (unsigned i = 0; i < SLEDS && !lone->is_there; i++) {
			uint64_t value = sled_block(&world->sleds[i], block);
			if (value > newest) {
				newest = value;
				holders = 0;
				*lone = (struct lone_write){ .sled = i };
			}
			holders += value == newest;
		}
		lone->is_there = lone->is_there || (holders == 1 && newest > 0 && !is_counted(gateway, lone->sled));
	}
}

static void first_service(struct gateway *gateway)
{
	struct world *world = gateway->world;
	struct host *host = gateway->host;
	bool may_lose = !(gateway->resumed && host->has_served);
	if (gateway->generation < world->served_generation) {
		violation(world, "generation %llu serves after generation %llu", (unsigned long long)gateway->generation,
			(unsigned long long)world->served_generation);
		return;
	}
	gateway->has_served = host->has_served = true;
	gateway->reads_left = world->blocks;
	world->served_generation = gateway->generation;
	if (may_lose)
		cover(COVER_POWER_LOSSES_EXCUSED);
	if (may_lose)
		look_at_copies(gateway);
	look_at_lone_writes(gateway);
	checker_takeover(world->checker, gateway->process, may_lose, world->event);
	cover(gateway->resumed ? COVER_RESUMPTIONS : COVER_ACTIVATIONS);
	if (core_counted(gateway->upstairs) == 2)
		cover(COVER_SERVED_BY_TWO);
}

static void changed(void *context)
{
	struct gateway *gateway = context;
	enum upstairs_state state = upstairs_state(gateway->upstairs);
	if (!gateway_lives(gateway))
		return;
	static const char *const names[] = { "idle", "activating", "serving", "paused", "deactivating", "released",
		"refused", "fenced" };
	cover(COVER_STATE_IDLE + (enum coverage)state);
	trace(gateway->world, "host %u: is %s", gateway->host->index, names[state]);
	if (state == UPSTAIRS_SERVING && !gateway->has_served)
		first_service(gateway);
	if (state == UPSTAIRS_RELEASED)
		checker_flushed(gateway->world->checker, gateway->world->event);
	if (state >= UPSTAIRS_RELEASED)
		gateway->wants_end = true;
	if (state == UPSTAIRS_FENCED)
		cover(COVER_FENCES_SUPERSEDED);
}

/* Starting and ending */

bool gateway_runs(const struct gateway *gateway)
{
	return gateway->upstairs && !gateway->is_stopped;
}

struct gateway *gateway_of(struct world *world, const struct host *host)
{
	return &world->gateways[host->index];
}

static void random_id(struct world *world, struct crucible_uuid *id)
{
	for (unsigned i = 0; i < sizeof id->bytes; i += 8)
		put_le64(id->bytes + i, random_below(world, UINT64_MAX));
}

static struct crucible_uuid key_of(uint64_t claim)
{
	struct crucible_uuid key = { 0 };
	put_le64(key.bytes, claim);
	return key;
}

/* Memory comes in small steps. */
static size_t grow(void *context, size_t size)
{
	struct host *host = context;
	if (size > host->area_size)
		host->area_size = size + 100 < host->area_size_max ? size + 100 : host->area_size_max;
	return host->area_size;
}

static struct history_memory history_memory(struct host *host)
{
	return (struct history_memory){
		.address = host->area,
		.size = host->area_size,
		.size_max = host->area_size_max,
		.grow = grow,
		.context = host,
	};
}

static void start(struct host *host, struct world *world, bool resumes)
{
	struct gateway *gateway = gateway_of(world, host);
	struct upstairs_environment environment = {
		.context = gateway,
		.allocate = allocate,
		.release = release,
		.connect = start_connect,
		.disconnect = disconnect,
		.send = send_message,
		.store_record = store_record,
		.take_data = take_data,
		.check_block = check_block,
		.is_zeros = is_zeros,
		.seal_zeros = seal_zeros,
		.complete = complete,
		.report = report,
		.changed = changed,
	};
	struct upstairs_options options = {
		.block_size = BLOCK,
		.leave_after = 3000,
		.wait_for_named = 3000,
		.flush_interval = 2000,
		.hedge_after = 20,
		.recovery_budget = world->seed % 4 == 0, /* or none */
		.ack_on_submit = world->acks_on_submit,
		.min_copies = world->min_copies,
	};
	struct crucible_uuid key = key_of(host->claim);
	const char *wrong = "";
	*gateway = (struct gateway){ .world = world, .host = host };
	for (unsigned i = 0; i < SLEDS; i++) {
		if (world->stored.record.full_copy[i])
			cover(COVER_LIES_AT_START);
	}
	struct history_memory memory = history_memory(host);
	int status = resumes ? history_open(&gateway->history, &memory, &key, &wrong) : -ENOENT;
	if (status == -EBADMSG)
		violation(world, "host %u: the history is damaged: %s", host->index, wrong);
	gateway->resumed = status == 0;
	if (status < 0 && history_create(&gateway->history, &memory, BLOCK, &key) < 0)
		abort();
	random_id(world, &options.upstairs_id);
	random_id(world, &options.session_id);
	gateway->process = ++world->processes;
	gateway->generation = host->generation++;
	gateway->claim = host->claim;
	gateway->seq = world->stored.seq;
	int kept = world->allocations_until_failure;
	world->allocations_until_failure = -1;
	gateway->upstairs = upstairs_open(&options, &environment, &gateway->history, gateway->resumed);
	world->allocations_until_failure = kept;
	trace(world, "host %u: a gateway starts, claim %llu generation %llu, record in sync %d%d%d stamped %llu%s%s", host->index,
		(unsigned long long)host->claim, (unsigned long long)gateway->generation, world->stored.record.in_sync[0],
		world->stored.record.in_sync[1], world->stored.record.in_sync[2],
		(unsigned long long)world->stored.record.stamped, world->stored.record.released ? " released" : "",
		gateway->resumed ? ", with a history" : "");
	upstairs_activate(gateway->upstairs, gateway->generation, &world->stored.record, world->now);
	gateway_check(gateway);
}

void host_open(struct world *world, unsigned index)
{
	world->hosts[index] = (struct host){
		.index = index, .area = calloc(1, world->area_size), .area_size = 3000, .area_size_max = world->area_size
	};
	world->gateways[index] = (struct gateway){ .world = world, .host = &world->hosts[index] };
}

void host_close(struct world *world, unsigned index)
{
	gateway_kill(&world->gateways[index]);
	free(world->hosts[index].area);
}

void host_claim(struct host *host, struct world *world)
{
	gateway_kill(gateway_of(world, host));
	world->stored.claim++;
	world->stored.seq++;
	host->has_role = true;
	host->has_served = false;
	host->claim = world->stored.claim;
	host->first_generation = host->generation = world->stored.last_generation + 1;
	world->stored.last_generation += 1000;
	cover(COVER_CLAIMS);
	trace(world, "host %u: claims", host->index);
	start(host, world, false);
}

bool host_resume(struct host *host, struct world *world)
{
	if (!host->has_role || host->claim != world->stored.claim) {
		cover(COVER_ROLE_LOST);
		return false;
	}
	gateway_kill(gateway_of(world, host));
	start(host, world, true);
	return true;
}

void host_lose(struct host *host, struct world *world)
{
	trace(world, "host %u: is lost", host->index);
	cover(COVER_HOST_LOSSES);
	gateway_kill(gateway_of(world, host));
	host->has_role = host->has_served = false;
	memset(host->area, 0, host->area_size_max);
	host->area_size = 3000;
}

void gateway_kill(struct gateway *gateway)
{
	struct upstairs *upstairs = gateway->upstairs;
	if (!upstairs)
		return;
	enum upstairs_state state = upstairs_state(upstairs);
	if (state < UPSTAIRS_RELEASED) {
		trace(gateway->world, "host %u: the gateway is killed", gateway->host->index);
		cover(COVER_GATEWAY_KILLS);
		if (state == UPSTAIRS_ACTIVATING)
			cover(COVER_GATEWAY_KILLS_ACTIVATING);
		for (unsigned i = 0; i < SLEDS; i++) {
			if (upstairs->slots[i].phase == SLOT_REPLAY)
				cover(COVER_TRACE_B);
		}
		if (upstairs->repair)
			cover(COVER_GATEWAY_KILLS_REPAIRING);
		if (!list_empty(&upstairs->held_reads))
			cover(COVER_TRACE_J);
	}
	covered[COVER_HEDGED] += upstairs->hedged_reads;
	store_gateway_died(gateway);
	gateway->kill_in = 0;
	upstairs_close(upstairs);
	if (gateway->area_then)
		memcpy(gateway->host->area, gateway->area_then, gateway->world->area_size);
	free(gateway->area_then);
	gateway->area_then = NULL;
	for (unsigned i = 0; i < SLEDS; i++) {
		if (gateway->connections[i]) {
			violation(gateway->world, "the core keeps the connection of slot %u at its end", i);
			network_disconnect(gateway->connections[i]);
		}
	}
	while (gateway->requests)
		fail_request(gateway, gateway->requests);
	set_oldest(gateway->world);
	gateway->upstairs = NULL;
}

void gateway_tick(struct gateway *gateway)
{
	if (!gateway->upstairs || gateway->upstairs->now == gateway->world->now)
		return;
	upstairs_clock(gateway->upstairs, gateway->world->now * 1000);
	upstairs_tick(gateway->upstairs, gateway->world->now);
}

void gateway_deactivate(struct gateway *gateway)
{
	trace(gateway->world, "host %u: is to release", gateway->host->index);
	cover(COVER_DEACTIVATIONS);
	gateway_tick(gateway);
	gateway->ends_requested = true;
	upstairs_deactivate(gateway->upstairs);
	gateway_check(gateway);
}

static struct upstairs_request *make_request(struct gateway *gateway, enum upstairs_operation operation, uint64_t start,
	uint64_t count)
{
	struct world *world = gateway->world;
	struct guest_request *request = calloc(1, sizeof *request);
	request->gateway = gateway;
	request->begin = world->event;
	request->core = (struct upstairs_request){
		.operation = operation, .start = start, .count = operation == UPSTAIRS_FLUSH ? 0 : count,
		.data = request->data, .contexts = request->contexts, .user = request
	};
	/* Two writes of zeros could not be told apart, so only what is not to change anything is asked for. */
	request->core.flags = operation == UPSTAIRS_WRITE_ZEROES ? UPSTAIRS_FAST_ZERO : 0;
	request->is_open = gateway->generation >= world->served_generation;
	request->next = gateway->requests;
	gateway->requests = request;
	gateway->request_count++;
	for (uint64_t i = 0; operation == UPSTAIRS_WRITE && i < count; i++) {
		request->ids[i] = ++world->last_id;
		put_le64(request->data + i * BLOCK, request->ids[i]);
		if (request->is_open)
			checker_write(world->checker, start + i, request->ids[i], gateway->process, world->event);
	}
	if (operation == UPSTAIRS_WRITE && heal_holds(gateway->upstairs, start, count))
		cover(COVER_TRACE_I);
	if (operation == UPSTAIRS_WRITE)
		integrity_seal(hashes(), request->data, count, request->data, request->contexts);
	static const char *const names[] = { "reads", "writes", "flushes", "zeroes" };
	trace(world, "host %u: guest %s block %llu count %llu id %llu", gateway->host->index, names[operation],
		(unsigned long long)start, (unsigned long long)count, (unsigned long long)request->ids[0]);
	return &request->core;
}

void gateway_submit(struct gateway *gateway, enum upstairs_operation operation, uint64_t start, uint64_t count)
{
	gateway_tick(gateway);
	uint64_t each = operation == UPSTAIRS_WRITE && (start + count) % 2 ? 1 : count;
	struct upstairs_request *requests = make_request(gateway, operation, start, each);
	struct upstairs_request **end = &requests->next;
	/* some longer writes as neighbouring requests, which the core makes one */
	for (uint64_t i = each; i < count; i++) {
		*end = make_request(gateway, operation, start + i, 1);
		end = &(*end)->next;
		cover(COVER_MERGED);
	}
	upstairs_submit(gateway->upstairs, requests);
	gateway_check(gateway);
}

/* What is said to be a hole is zeros now. */
void gateway_look_at_hole(struct gateway *gateway, uint64_t block)
{
	struct world *world = gateway->world;
	uint64_t alike;
	bool is_superseded = gateway->generation < world->served_generation;
	if (!gateway->has_served || is_superseded || !upstairs_is_hole(gateway->upstairs, block, 1, &alike))
		return;
	cover(COVER_HOLES);
	const char *wrong = checker_read(world->checker, block, 0, world->event, world->event);
	if (wrong)
		violation(world, "said to be a hole: %s", wrong);
}

void gateway_scrub(struct gateway *gateway, uint64_t rate)
{
	gateway_tick(gateway);
	upstairs_scrub(gateway->upstairs, rate);
	gateway_check(gateway);
}

struct gateway *world_owner(struct world *world)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		struct gateway *gateway = &world->gateways[i];
		if (gateway->upstairs && gateway->claim == world->stored.claim)
			return gateway;
	}
	return NULL;
}

/* Coverage */

static void look_at_slots(struct gateway *gateway)
{
	struct upstairs *upstairs = gateway->upstairs;
	for (unsigned i = 0; i < SLEDS; i++) {
		enum slot_phase phase = upstairs->slots[i].phase;
		if (phase == gateway->phases[i])
			continue;
		cover(COVER_SLOT_PHASE_ABSENT + (enum coverage)phase);
		if (phase == SLOT_REPLAY && upstairs->state != UPSTAIRS_ACTIVATING)
			cover(COVER_REPLAYS);
		if (phase == SLOT_REPAIR && upstairs->slots[i].is_named)
			cover(COVER_REPAIRS_OF_NAMED);
		if (phase == SLOT_JOINING && gateway->phases[i] == SLOT_REPAIR)
			cover(COVER_REPAIRS_DONE);
		struct sled *sled = &gateway->world->sleds[i];
		if (phase == SLOT_REPLAY && sled->flush_ack_lost) {
			cover(COVER_TRACE_A);
			sled->flush_ack_lost = false;
			sled->replayed_after_loss = true;
		}
		if (phase == SLOT_ABSENT && gateway->phases[i] == SLOT_COUNTED) {
			if (sled->replayed_after_loss)
				cover(COVER_TRACE_K);
			sled->replayed_after_loss = false;
			if (upstairs->state == UPSTAIRS_PAUSED && gateway->requests)
				cover(COVER_TRACE_G);
		}
		gateway->phases[i] = phase;
	}
	bool mends = upstairs->mend, repairs = upstairs->repair;
	if (mends && !gateway->was_mending) {
		cover(COVER_MENDS);
		if (mend_has_one_source(upstairs)) {
			cover(upstairs->resumes ? COVER_RESUMED_FROM_ONE : COVER_MENDS_FROM_ONE);
			look_at_lone_source(gateway);
		}
	}
	gateway->was_mending = mends;
	if (repairs && !gateway->was_repairing)
		cover(COVER_REPAIRS);
	gateway->was_repairing = repairs;
	struct upstairs_status status;
	upstairs_status(upstairs, &status);
	if (status.scrub.passes > gateway->scrubs) {
		cover(COVER_SCRUBS);
		if (status.scrub.differing > gateway->scrub_found)
			cover(COVER_SCRUB_FOUND);
		gateway->scrubs = status.scrub.passes;
		gateway->scrub_found = status.scrub.differing;
	}
	if (heal_holds(upstairs, 0, gateway->world->blocks))
		cover(COVER_HEALS);
}

void gateway_check(struct gateway *gateway)
{
	if (gateway->upstairs && gateway->is_dead)
		gateway_kill(gateway);
	if (gateway->upstairs)
		look_at_slots(gateway);
}
