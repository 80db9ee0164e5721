/* coverage.h: how often each rare thing happened, over all seeds of a run. */
#ifndef SIM_COVERAGE_H
#define SIM_COVERAGE_H

#include <stdint.h>

#define COVERAGE(X) \
	X(SEEDS, "seeds") \
	X(EVENTS, "events") \
	X(STATE_IDLE, "core: idle") \
	X(STATE_ACTIVATING, "core: activating") \
	X(STATE_SERVING, "core: serving") \
	X(STATE_PAUSED, "core: paused") \
	X(STATE_DEACTIVATING, "core: deactivating") \
	X(STATE_RELEASED, "core: released") \
	X(STATE_REFUSED, "core: refused") \
	X(STATE_FENCED, "core: fenced") \
	X(SLOT_PHASE_ABSENT, "slot: absent") \
	X(SLOT_PHASE_CONNECTING, "slot: connecting") \
	X(SLOT_PHASE_HELLO, "slot: hello") \
	X(SLOT_PHASE_PROMOTE, "slot: promote") \
	X(SLOT_PHASE_REGION, "slot: region") \
	X(SLOT_PHASE_VERSIONS, "slot: versions") \
	X(SLOT_PHASE_PRESENT, "slot: present") \
	X(SLOT_PHASE_MENDING, "slot: mending") \
	X(SLOT_PHASE_REPAIR, "slot: repair") \
	X(SLOT_PHASE_REPLAY, "slot: replay") \
	X(SLOT_PHASE_JOINING, "slot: joining") \
	X(SLOT_PHASE_COUNTED, "slot: counted") \
	X(SLOT_PHASE_FAILED, "slot: failed") \
	X(READS, "reads answered") \
	X(WRITES, "writes acknowledged") \
	X(MERGED, "writes submitted behind a neighbour") \
	X(LONE_COPIES, "writes acknowledged with one copy") \
	X(FLUSHES, "flushes acknowledged") \
	X(ZEROES, "zeroes of what is empty acknowledged") \
	X(ZEROES_REFUSED, "zeroes refused as not fast") \
	X(HOLES, "blocks said to be holes") \
	X(HEDGED, "reads sent to a second slot") \
	X(REPLACED, "slots replaced") \
	X(FAILED_REQUESTS, "requests failed by a gateway that is fenced") \
	X(STALE_READS, "reads answered by a superseded gateway") \
	X(ACTIVATIONS, "activations that served") \
	X(RESUMPTIONS, "resumptions by history that served") \
	X(SERVED_BY_TWO, "starts that served with two slots") \
	X(REPLAYS, "replays begun while serving") \
	X(MENDS, "mends begun") \
	X(MENDS_FROM_ONE, "mends of everything from one source") \
	X(RESUMED_FROM_ONE, "resumptions that copy their one slot onto another") \
	X(REPAIRS, "live repairs begun") \
	X(REPAIRS_OF_NAMED, "live repairs of a slot that the record names") \
	X(REPAIRS_DONE, "live repairs finished") \
	X(LIES_STORED, "records that say that a slot needs a full copy") \
	X(LIES_AT_START, "starts that know of it from the record alone") \
	X(EXTENT_REPAIRS, "extents fetched") \
	X(FAILED_FETCHES, "fetches that failed") \
	X(JOINS, "records stored with a slot more") \
	X(LEAVES, "records stored with a slot less") \
	X(UNKNOWN_APPLIED, "records: answer lost, was stored") \
	X(UNKNOWN_LATE, "records: answer lost, stored later or not") \
	X(RECORD_REFUSED, "records refused, superseded") \
	X(LINK_DROPS, "links dropped") \
	X(LINK_STALLS, "links stalled") \
	X(ACKS_LOST, "acknowledgements lost with a link") \
	X(CONNECT_REFUSED, "connects refused") \
	X(CONNECT_HUNG, "connects that hung") \
	X(DOWNSTAIRS_KILLS, "downstairs killed") \
	X(DOWNSTAIRS_KILLS_AT_STEP, "downstairs killed at a step of the disk") \
	X(DOWNSTAIRS_STARTS, "downstairs restarted") \
	X(DOWNSTAIRS_REFUSALS, "downstairs that refused to start: disk replaced") \
	X(POWER_LOSSES, "sleds that lost power") \
	X(POWER_LOSSES_LOST, "sleds that lost power and data") \
	X(POWER_LOSSES_EXCUSED, "takeovers that may lose unflushed writes") \
	X(WIPES_SAME, "regions wiped, same UUID") \
	X(WIPES_FRESH, "regions wiped, fresh UUID") \
	X(SYNC_ERRORS, "syncs that failed once") \
	X(GATEWAY_KILLS, "gateways killed") \
	X(GATEWAY_KILLS_WITHIN, "gateways killed within a call into the core") \
	X(GATEWAY_KILLS_REPAIRING, "gateways killed during a live repair") \
	X(GATEWAY_KILLS_ACTIVATING, "gateways killed while activating") \
	X(GATEWAY_PAUSES, "gateways stopped") \
	X(GATEWAY_WAKES, "gateways woken") \
	X(HOST_LOSSES, "hosts lost") \
	X(CLAIMS, "claims") \
	X(CLAIMS_UNKNOWN, "claims that the old owner does not know of") \
	X(CLAIMS_KNOWN, "claims that the old owner is told of") \
	X(ROLE_LOST, "starts that found another owner") \
	X(DEACTIVATIONS, "orderly releases") \
	X(FENCES_SUPERSEDED, "gateways fenced by a downstairs or a version") \
	X(STALE_PROMOTIONS, "promotions of a superseded generation") \
	X(OUT_OF_MEMORY, "allocations refused") \
	X(TORN, "reads that failed, torn on every copy by losses of power") \
	X(TORN_COPIES, "blocks torn on one copy that nothing showed") \
	X(ROT, "blocks that rotted on one copy") \
	X(HEALS, "blocks being healed when a gateway was looked at") \
	X(VAIN_ANSWERS, "writes answered by a superseded gateway that answers at once") \
	X(SCRUBS, "scrubs that came to their end") \
	X(SCRUB_FOUND, "of these, such that have found something") \
	X(CUTS, "networks cut between a host and a sled") \
	X(HOLLOW_TRUSTED, "starts that trusted a hollow flush that nobody was told of") \
	X(VOID, "violations void: such a start") \
	X(UNSERVED, "seeds that ended with two copies lost or damaged, or without the first extent") \
	X(TRACE_A, "trace a: flush's ack lost, replay over overlapping writes") \
	X(TRACE_B, "trace b: gateway killed during a replay") \
	X(TRACE_C, "trace c: a write on one slot only, start without it, start with it") \
	X(TRACE_D, "trace d: the same, and read in between") \
	X(TRACE_E, "trace e: old owner in first after a restart of the sleds") \
	X(TRACE_F, "trace f: start with two slots wiped") \
	X(TRACE_G, "trace g: one slot away, a second dies with writes open") \
	X(TRACE_H, "trace h: limited flush to a slot in repair") \
	X(TRACE_I, "trace i: write to a block that is being healed") \
	X(TRACE_J, "trace j: killed with a read waiting for a write") \
	X(TRACE_K, "trace k: flush's ack lost, replay, then leaves, then a write") \
	X(TRACE_L, "trace l: restart between versions and fence, old owner in")

#define COVERAGE_ID(id, text) COVER_##id,
enum coverage { COVERAGE(COVERAGE_ID) COVERAGE_COUNT };

extern uint64_t covered[COVERAGE_COUNT];

static inline void cover(enum coverage what)
{
	covered[what]++;
}

void coverage_print(void);

#endif
