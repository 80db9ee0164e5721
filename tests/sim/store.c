/* store.c: the claim's record. Design section 5: changed only by compare-and-swap on (claim id, seq). */
#include <string.h>

#include "world.h"

void store_begin(struct gateway *gateway, const struct upstairs_record *record)
{
	struct world *world = gateway->world;
	for (unsigned i = 0; i < OPERATIONS; i++) {
		struct operation *operation = &world->operations[i];
		if (operation->is_used)
			continue;
		*operation = (struct operation){
			.is_used = true,
			.gateway = gateway,
			.claim = gateway->claim,
			.seq = gateway->seq,
			.record = *record,
		};
		trace(world, "host %u: stores in sync %d%d%d full copy %d%d%d stamped %llu%s", gateway->host->index,
			record->in_sync[0], record->in_sync[1], record->in_sync[2], record->full_copy[0], record->full_copy[1],
			record->full_copy[2], (unsigned long long)record->stamped,
			record->released ? " released" : "");
		return;
	}
	violation(world, "too many stores at once");
}

static bool same_record(const struct upstairs_record *a, const struct upstairs_record *b)
{
	return a->exists == b->exists && a->released == b->released && a->stamped == b->stamped &&
		memcmp(a->in_sync, b->in_sync, sizeof a->in_sync) == 0 &&
		memcmp(a->full_copy, b->full_copy, sizeof a->full_copy) == 0 &&
		memcmp(a->regions, b->regions, sizeof a->regions) == 0;
}

static void count_change(const struct upstairs_record *before, const struct upstairs_record *after)
{
	int difference = 0;
	for (unsigned i = 0; i < SLEDS; i++)
		difference += after->in_sync[i] - before->in_sync[i];
	if (before->exists && before->stamped == after->stamped && difference != 0)
		cover(difference > 0 ? COVER_JOINS : COVER_LEAVES);
	for (unsigned i = 0; i < SLEDS; i++) {
		if (after->full_copy[i] && !before->full_copy[i])
			cover(COVER_LIES_STORED);
	}
}

void store_apply(struct operation *operation)
{
	struct world *world = operation->gateway ? operation->gateway->world : NULL;
	struct stored_record *stored = &world->stored;
	operation->is_applied = true;
	if (stored->claim != operation->claim) {
		operation->outcome = UPSTAIRS_SUPERSEDED;
	} else if (stored->seq == operation->seq) {
		count_change(&stored->record, &operation->record);
		stored->record = operation->record;
		stored->seq++;
		operation->outcome = UPSTAIRS_STORED;
		trace(world, "the record is in sync %d%d%d stamped %llu", stored->record.in_sync[0],
			stored->record.in_sync[1], stored->record.in_sync[2], (unsigned long long)stored->record.stamped);
	} else if (same_record(&stored->record, &operation->record)) {
		operation->outcome = UPSTAIRS_STORED; /* by an earlier try */
	} else {
		/* an earlier try of a store that has been followed by others: nobody waits for this one any more */
		operation->outcome = UPSTAIRS_UNKNOWN;
		if (!operation->is_answered)
			violation(world, "a record is refused for its seq alone");
	}
	if (operation->is_answered)
		operation->is_used = false;
}

void store_answer(struct operation *operation, bool is_lost)
{
	struct gateway *gateway = operation->gateway;
	gateway_tick(gateway);
	if (operation->gateway != gateway || !operation->is_used)
		return;
	enum upstairs_stored outcome = is_lost ? UPSTAIRS_UNKNOWN : operation->outcome;
	operation->is_answered = true;
	if (operation->is_applied)
		operation->is_used = false;
	if (is_lost)
		cover(operation->is_applied ? COVER_UNKNOWN_APPLIED : COVER_UNKNOWN_LATE);
	else if (outcome == UPSTAIRS_SUPERSEDED)
		cover(COVER_RECORD_REFUSED);
	else if (outcome == UPSTAIRS_STORED)
		gateway->seq = operation->seq + 1;
	trace(gateway->world, "host %u: the store %s", gateway->host->index,
		outcome == UPSTAIRS_STORED ? "succeeded" : outcome == UPSTAIRS_UNKNOWN ? "has an unknown outcome" : "is refused");
	upstairs_record_stored(gateway->upstairs, outcome);
	gateway_check(gateway);
}

void store_gateway_died(struct gateway *gateway)
{
	struct world *world = gateway->world;
	for (unsigned i = 0; i < OPERATIONS; i++) {
		struct operation *operation = &world->operations[i];
		if (!operation->is_used || operation->gateway != gateway)
			continue;
		operation->is_answered = true;
		if (!operation->is_applied && chance(world, 50))
			store_apply(operation);
		operation->is_used = false;
		operation->gateway = NULL;
	}
}
