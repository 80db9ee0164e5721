/* slot.c: one slot's connection: negotiation (crucible-protocol.md section 3), pings, and what a frame means.
 *
 * Negotiation always asks for the versions, never by LastFlush (design 6.5): a region shows by them whether it
 * is the copy that it should be.
 */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/core-internal.h"

void slot_init(struct slot *slot)
{
	*slot = (struct slot){ .phase = SLOT_ABSENT, .retry_delay = RETRY_MIN_MS };
	list_init(&slot->outstanding);
}

bool slot_receives(const struct slot *slot)
{
	return slot->phase == SLOT_REPAIR || slot->phase == SLOT_REPLAY || slot->phase == SLOT_JOINING ||
		slot->phase == SLOT_COUNTED;
}

void slot_lies(struct upstairs *upstairs, unsigned index)
{
	struct history_slot kept = *history_slot(&upstairs->history, index);
	kept.place = 0;
	kept.lies = 1;
	upstairs->slots[index].lies = true;
	history_set_slot(&upstairs->history, index, &kept);
}

static void send(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	upstairs->environment.send(upstairs->environment.context, index, message);
}

static struct crucible_session own_session(const struct upstairs *upstairs, unsigned index)
{
	return (struct crucible_session){
		.upstairs_id = upstairs->slots[index].upstairs_id,
		.session_id = upstairs->options.session_id,
		.generation = upstairs->generation,
	};
}

/* Another one. */
static void change_id(struct crucible_uuid *id)
{
	for (size_t i = sizeof id->bytes; i-- > 0 && ++id->bytes[i] == 0;) {
	}
}

/* Each connection has an id of its own. When a downstairs sees the end of one that has said HereIAm it forgets whoever
 * is registered under the same id, and goes on serving that (weakness W1): what is still on its way on an earlier
 * connection of ours would be executed at any time, whoever owns the volume then. The price is that a downstairs which
 * has not seen the end of the earlier one refuses us until then. */
void slot_connect(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	change_id(&slot->upstairs_id);
	slot->phase = SLOT_CONNECTING;
	slot->last_heard = upstairs->now;
	upstairs->environment.connect(upstairs->environment.context, index);
}

void upstairs_connected(struct upstairs *upstairs, unsigned index, const struct crucible_address *peer)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase != SLOT_CONNECTING)
		return;
	slot->phase = SLOT_HELLO;
	slot->peer = *peer;
	slot->base = 0;
	slot->shows.block_size = 0;
	slot->last_heard = slot->last_ping = slot->connected_at = upstairs->now;
	struct crucible_message hello = { .type = CRUCIBLE_HERE_I_AM };
	hello.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
	hello.here_i_am.session = own_session(upstairs, index);
	hello.here_i_am.encrypted = upstairs->options.encrypted;
	send(upstairs, index, &hello);
}

/* The end of a connection */

/* Between three and five quarters of the delay, another part each time, so that many volumes do not come back in step.
 * What is random is the session's id. */
static uint64_t with_jitter(const struct upstairs *upstairs, struct slot *slot)
{
	uint64_t mixed = get_le64(upstairs->options.session_id.bytes) + ++slot->attempts * UINT64_C(0x9e3779b97f4a7c15);
	mixed = (mixed ^ mixed >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return slot->retry_delay * 3 / 4 + (mixed >> 40) % (slot->retry_delay / 2);
}

/* Soon after a session that was good for a while, and later each time after one that was not. */
static void try_later(struct upstairs *upstairs, struct slot *slot)
{
	if (slot->present_since && upstairs->now - slot->present_since >= RETRY_MAX_MS)
		slot->retry_delay = RETRY_MIN_MS;
	slot->present_since = 0;
	slot->retry_at = upstairs->now + with_jitter(upstairs, slot);
	slot->retry_delay = slot->retry_delay * 2 < RETRY_MAX_MS ? slot->retry_delay * 2 : RETRY_MAX_MS;
}

/* What is wrong with it from now on. */
static void blame(struct slot *slot, enum upstairs_trouble trouble, const char *why)
{
	slot->trouble = trouble;
	snprintf(slot->error, sizeof slot->error, "%s", why);
}

void slot_lost(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	bool was_in_activation = upstairs->in_activation[index];
	slot->doomed = NULL;
	if (slot->phase == SLOT_ABSENT || slot->phase == SLOT_FAILED)
		return;
	if (slot->phase == SLOT_PROMOTE && ++slot->silent_closes >= 2) {
		blame(slot, UPSTAIRS_TROUBLE_DISPLACED,
			"closes right after our promotion: it has not seen the end of our last connection yet, or another client "
			"with an equal or higher generation is active on it");
		if (slot->silent_closes % SILENT_CLOSES_TOLD == 2)
			core_report(upstairs, index, "%s", slot->error);
	}
	if (slot->phase == SLOT_COUNTED)
		slot->left++;
	slot->phase = SLOT_ABSENT;
	try_later(upstairs, slot);
	jobs_lost(upstairs, index);
	if (was_in_activation)
		activate_again(upstairs);
	core_advance(upstairs);
}

void upstairs_disconnected(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase == SLOT_CONNECTING)
		blame(slot, UPSTAIRS_TROUBLE_UNREACHABLE, "no connection");
	else if (slot->phase > SLOT_PROMOTE && slot->phase != SLOT_FAILED)
		blame(slot, UPSTAIRS_TROUBLE_LOST, "the connection was lost");
	slot_lost(upstairs, index);
	slot_drop_doomed(upstairs);
}

void slot_drop(struct upstairs *upstairs, unsigned index, const char *why)
{
	slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_ANSWERS, why);
}

void slot_drop_for(struct upstairs *upstairs, unsigned index, enum upstairs_trouble trouble, const char *why)
{
	if (why)
		blame(&upstairs->slots[index], trouble, why);
	if (why)
		core_report(upstairs, index, "%s: connection dropped", why);
	else
		upstairs->slots[index].retry_delay = RETRY_MIN_MS; /* it is not to blame */
	upstairs->environment.disconnect(upstairs->environment.context, index);
	slot_lost(upstairs, index);
}

void slot_doom(struct upstairs *upstairs, unsigned index, const char *why)
{
	upstairs->slots[index].doomed = why;
}

void slot_drop_doomed(struct upstairs *upstairs)
{
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (upstairs->slots[i].doomed) {
			slot_drop_for(upstairs, i, UPSTAIRS_TROUBLE_MEMORY, upstairs->slots[i].doomed);
			i = UINT_MAX; /* that may have doomed another one: from the beginning */
		}
	}
}

void slot_fail(struct upstairs *upstairs, unsigned index, enum upstairs_trouble trouble, const char *format, ...)
{
	char text[160];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	slot_drop_for(upstairs, index, trouble, text);
	upstairs->slots[index].phase = SLOT_FAILED;
	core_advance(upstairs);
}

/* Negotiation */

static bool is_unspecified(const struct crucible_address *address)
{
	static const uint8_t zeros[16];
	return memcmp(address->octets, zeros, address->is_ipv6 ? 16 : 4) == 0;
}

static void take_hello(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct slot *slot = &upstairs->slots[index];
	if (message->yes_its_me.version != CRUCIBLE_PROTOCOL_VERSION) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "speaks message version %u, not %d",
			message->yes_its_me.version, CRUCIBLE_PROTOCOL_VERSION);
		return;
	}
	slot->repair_address = message->yes_its_me.repair_address;
	if (is_unspecified(&slot->repair_address)) { /* trap T27: another host cannot use that */
		uint16_t port = slot->repair_address.port;
		slot->repair_address = slot->peer;
		slot->repair_address.port = port;
	}
	slot->phase = SLOT_PROMOTE;
	struct crucible_message promote = {
		.type = CRUCIBLE_PROMOTE_TO_ACTIVE,
		.session = own_session(upstairs, index),
	};
	send(upstairs, index, &promote);
}

static void take_promotion(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct crucible_session own = own_session(upstairs, index);
	if (memcmp(&own.upstairs_id, &message->session.upstairs_id, sizeof own.upstairs_id) != 0 ||
		memcmp(&own.session_id, &message->session.session_id, sizeof own.session_id) != 0 ||
		own.generation != message->session.generation) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_DISPLACED, "says that somebody else is active now");
		return;
	}
	upstairs->slots[index].silent_closes = 0;
	upstairs->slots[index].phase = SLOT_REGION;
	send(upstairs, index, &(struct crucible_message){ .type = CRUCIBLE_REGION_INFO_PLEASE });
}

/* What no region may be; NULL if it is possible. */
static const char *region_fault(const struct crucible_region *region)
{
	uint64_t blocks, bytes;
	if (region->block_size < 512 || region->block_size > 32768 || region->block_shift > 15 ||
		region->block_size != UINT64_C(1) << region->block_shift)
		return "its block size is impossible";
	if (region->extent_size == 0 || region->extent_count == 0 ||
		__builtin_mul_overflow(region->extent_size, region->extent_count, &blocks) ||
		__builtin_mul_overflow(blocks, region->block_size, &bytes) || bytes > INT64_MAX)
		return "its size is impossible";
	if (region->database_read_version != 1 || region->database_write_version != 1)
		return "its database version is unknown";
	return NULL;
}

/* What is expected may be known in part only: 0 is anything. */
static bool fits(const struct crucible_region *region, const struct crucible_region *expected)
{
	return (!expected->block_size || region->block_size == expected->block_size) &&
		(!expected->extent_size || region->extent_size == expected->extent_size) &&
		(!expected->extent_count || region->extent_count == expected->extent_count);
}

static bool is_zero_uuid(const struct crucible_uuid *uuid)
{
	static const struct crucible_uuid zero;
	return memcmp(uuid, &zero, sizeof zero) == 0;
}

static bool is_another(const struct crucible_uuid *expected, const struct crucible_region *region)
{
	return !is_zero_uuid(expected) && memcmp(expected, &region->uuid, sizeof *expected) != 0;
}

/* Has it answered, and waits for another one to say the same? */
static bool has_shown(const struct slot *slot)
{
	return slot->phase == SLOT_REGION && slot->shows.block_size != 0;
}

/* What is known of it; NULL: nothing. */
static const struct crucible_uuid *region_of(const struct slot *slot)
{
	if (has_shown(slot))
		return &slot->shows.uuid;
	return slot->has_region ? &slot->region : NULL;
}

/* Is it the region that belongs here? */
static const char *wrong_region(const struct upstairs *upstairs, unsigned index,
	const struct crucible_region *region)
{
	/* also while it is not known whether the record that says so is stored */
	if (is_another(&upstairs->record.regions[index], region) ||
		(upstairs->is_storing && is_another(&upstairs->storing.regions[index], region)))
		return "another region than the one that belongs to this slot";
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct crucible_uuid *its = region_of(&upstairs->slots[i]);
		if (i != index && its && memcmp(its, &region->uuid, sizeof *its) == 0)
			return "the same region as another slot";
	}
	return NULL;
}

/* Where one copy is enough, that of a slot in sync is believed: the region is the one that the record knows, and that had the
 * geometry of the others. */
static bool is_believed_alone(const struct upstairs *upstairs, unsigned index)
{
	return upstairs->options.min_copies == 1 && upstairs->record.in_sync[index] &&
		!is_zero_uuid(&upstairs->record.regions[index]);
}

/* Until two slots show the same geometry none is believed: a slot that is wrong may be the first that answers. */
static void settle_geometry(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	unsigned others = 0;
	if (is_believed_alone(upstairs, index)) {
		upstairs->region = slot->shows;
		upstairs->has_geometry = true;
		return;
	}
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct slot *other = &upstairs->slots[i];
		if (i == index || !has_shown(other))
			continue;
		if (fits(&slot->shows, &other->shows)) {
			upstairs->region = slot->shows;
			upstairs->has_geometry = true;
			return;
		}
		others++;
	}
	if (others == 1) {
		blame(slot, UPSTAIRS_TROUBLE_MISFIT, "its geometry is not that of another slot: the third one decides");
		core_report(upstairs, index, "%s", slot->error);
	} else if (others == 2) {
		core_refuse(upstairs, "the slots show three different geometries");
	}
}

static void ask_versions(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (!has_shown(slot))
		return;
	if (!fits(&slot->shows, &upstairs->region)) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "its geometry is not that of the volume");
		return;
	}
	slot->region = slot->shows.uuid;
	slot->has_region = true;
	slot->phase = SLOT_VERSIONS;
	send(upstairs, index, &(struct crucible_message){ .type = CRUCIBLE_EXTENT_VERSIONS_PLEASE });
}

static void take_region(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct slot *slot = &upstairs->slots[index];
	const struct crucible_region *region = &message->region_info;
	const char *wrong = region_fault(region);
	if (!wrong && region->encrypted != upstairs->options.encrypted)
		wrong = region->encrypted ? "the region is encrypted" : "the region is not encrypted";
	if (!wrong && !fits(region, &upstairs->region))
		wrong = "its geometry is not that of the volume";
	if (!wrong && upstairs->history.reach > region->extent_size * region->extent_count)
		wrong = "it is shorter than the history says"; /* its replay would kill the downstairs (trap T21) */
	if (wrong) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "%s", wrong);
		return;
	}
	wrong = wrong_region(upstairs, index, region);
	if (wrong) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_WRONG_REGION, "%s", wrong);
		return;
	}
	slot->shows = *region;
	if (!upstairs->has_geometry)
		settle_geometry(upstairs, index);
	for (unsigned i = 0; upstairs->has_geometry && i < UPSTAIRS_SLOTS; i++)
		ask_versions(upstairs, i);
}

static void take_versions(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct slot *slot = &upstairs->slots[index];
	size_t count = upstairs->region.extent_count;
	if (message->extent_versions.generations.count != count ||
		message->extent_versions.flush_numbers.count != count ||
		message->extent_versions.dirty.count != count) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "its versions are not one for each extent");
		return;
	}
	if (!slot->versions)
		slot->versions = core_allocate(upstairs, count * sizeof *slot->versions);
	if (!slot->versions) {
		slot_drop_for(upstairs, index, UPSTAIRS_TROUBLE_MEMORY, "out of memory");
		return;
	}
	slot->shown = 0;
	for (size_t i = 0; i < count; i++) {
		struct version *version = &slot->versions[i];
		version->generation = crucible_u64_at(message->extent_versions.generations, i);
		version->flush_number = crucible_u64_at(message->extent_versions.flush_numbers, i);
		version->dirty = crucible_bool_at(message->extent_versions.dirty, i);
		if (version->generation > slot->shown)
			slot->shown = version->generation;
		if (version->flush_number > upstairs->flush_number)
			upstairs->flush_number = version->flush_number;
	}
	if (replace_refuses(upstairs, index)) {
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_NOT_EMPTY, "the region that is to take this place is not empty");
		return;
	}
	if (slot->shown > upstairs->generation) {
		upstairs->outrun_by = slot->shown;
		core_fence(upstairs, "slot %u shows generation %llu, ours is %llu", index,
			(unsigned long long)slot->shown, (unsigned long long)upstairs->generation);
		return;
	}
	if (slot->shown == upstairs->generation && !upstairs->has_stamped) { /* trap T5 */
		upstairs->outrun_by = slot->shown;
		core_fence(upstairs, "slot %u shows our generation %llu before we have flushed: it was used before", index,
			(unsigned long long)slot->shown);
		return;
	}
	if (slot->shown < history_slot(&upstairs->history, index)->must_show) {
		blame(slot, slot->shown == 0 ? UPSTAIRS_TROUBLE_WIPED : UPSTAIRS_TROUBLE_ROLLED_BACK,
			"is older than it was when we left it: it is no copy any more");
		core_report(upstairs, index, "%s", slot->error);
		slot_lies(upstairs, index); /* rolled back or wiped: whatever its numbers say, all of it is copied */
	}
	if (upstairs->record.in_sync[index] && slot->shown < upstairs->record.stamped && !slot->lies)
		blame(slot, slot->shown == 0 ? UPSTAIRS_TROUBLE_WIPED : UPSTAIRS_TROUBLE_ROLLED_BACK,
			"is older than the record says that it is");
	slot->phase = SLOT_PRESENT;
	slot->present_since = upstairs->now;
	core_advance(upstairs);
}

static void take_mismatch(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	switch (message->type) {
	case CRUCIBLE_VERSION_MISMATCH:
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "speaks message version %u, not %d",
			message->version_mismatch.version, CRUCIBLE_PROTOCOL_VERSION);
		break;
	case CRUCIBLE_READ_ONLY_MISMATCH:
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "runs read-only");
		break;
	default:
		slot_fail(upstairs, index, UPSTAIRS_TROUBLE_MISFIT, "the region is %s",
			message->mode_mismatch.expected ? "encrypted" : "not encrypted");
		break;
	}
}

/* Everything */

void slot_received(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase < SLOT_HELLO || slot->phase == SLOT_FAILED)
		return;
	slot->last_heard = upstairs->now;
	switch (message->type) {
	case CRUCIBLE_IMOK:
		return;
	case CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE:
		upstairs->outrun_by = message->session.generation;
		core_fence(upstairs, "superseded by generation %llu on slot %u",
			(unsigned long long)message->session.generation, index);
		return;
	case CRUCIBLE_VERSION_MISMATCH:
	case CRUCIBLE_READ_ONLY_MISMATCH:
	case CRUCIBLE_ENCRYPTED_MISMATCH:
		take_mismatch(upstairs, index, message);
		return;
	case CRUCIBLE_YES_ITS_ME:
		if (slot->phase == SLOT_HELLO) {
			take_hello(upstairs, index, message);
			return;
		}
		break;
	case CRUCIBLE_YOU_ARE_NOW_ACTIVE:
		if (slot->phase == SLOT_PROMOTE) {
			take_promotion(upstairs, index, message);
			return;
		}
		break;
	case CRUCIBLE_REGION_INFO:
		if (slot->phase == SLOT_REGION) {
			take_region(upstairs, index, message);
			return;
		}
		break;
	case CRUCIBLE_EXTENT_VERSIONS:
		if (slot->phase == SLOT_VERSIONS) {
			take_versions(upstairs, index, message);
			return;
		}
		break;
	case CRUCIBLE_REPAIR_ACK_ID:
	case CRUCIBLE_EXTENT_ERROR:
		if (slot->phase == SLOT_MENDING) {
			mend_received(upstairs, index, message);
			return;
		}
		break;
	case CRUCIBLE_WRITE_ACK:
	case CRUCIBLE_FLUSH_ACK:
	case CRUCIBLE_READ_RESPONSE:
	case CRUCIBLE_ERROR_REPORT:
	case CRUCIBLE_EXTENT_LIVE_CLOSE_ACK:
	case CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID:
	case CRUCIBLE_EXTENT_LIVE_ACK_ID:
		if (slot->phase > SLOT_VERSIONS) {
			jobs_answer_to(upstairs, index, message);
			return;
		}
		break;
	default:
		break;
	}
	slot_drop(upstairs, index, "sent a message that does not belong here");
}

void upstairs_received(struct upstairs *upstairs, unsigned index, const struct crucible_message *message)
{
	slot_received(upstairs, index, message);
	zeroes_go_on(upstairs);
	slot_drop_doomed(upstairs);
}

const struct job *slot_oldest(const struct upstairs *upstairs, unsigned index)
{
	const struct slot *slot = &upstairs->slots[index];
	return list_empty(&slot->outstanding)
		? NULL
		: (const struct job *)((const char *)slot->outstanding.next - offsetof(struct job, slot_links) -
			  index * sizeof(struct list));
}

int upstairs_retry(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase != SLOT_FAILED)
		return -EBUSY;
	slot->phase = SLOT_ABSENT;
	slot->retry_at = upstairs->now;
	return 0;
}

void slot_tick(struct upstairs *upstairs, unsigned index)
{
	struct slot *slot = &upstairs->slots[index];
	if (slot->phase == SLOT_ABSENT && upstairs->now >= slot->retry_at) {
		slot_connect(upstairs, index);
		return;
	}
	if (slot->phase < SLOT_CONNECTING || slot->phase == SLOT_FAILED)
		return;
	if (upstairs->now - slot->last_heard >= SILENCE_MS) {
		slot_drop_for(upstairs, index,
			slot->phase == SLOT_HELLO ? UPSTAIRS_TROUBLE_MUTE : UPSTAIRS_TROUBLE_SILENT, "silent for 45 s");
		return;
	}
	if (slot->phase >= SLOT_HELLO && upstairs->now - slot->last_ping >= PING_MS) {
		slot->last_ping = upstairs->now;
		send(upstairs, index, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
	}
}
