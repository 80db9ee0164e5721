/* negotiate.c: from a new connection to a running one (crucible-protocol.md 3.1 to 3.3), and who is
 * registered as the one that may write. */
#include "engine-internal.h"
#include "memory.h"

static bool same_id(const struct crucible_uuid *a, const struct crucible_uuid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* HereIAm */

static bool speaks_our_version(const struct crucible_message *message)
{
	struct crucible_u32s others = message->here_i_am.alternate_versions;
	if (message->here_i_am.version == CRUCIBLE_PROTOCOL_VERSION)
		return true;
	for (size_t i = 0; i < others.count; i++) {
		if (crucible_u32_at(others, i) == CRUCIBLE_PROTOCOL_VERSION)
			return true;
	}
	return false;
}

static void here_i_am(
	struct downstairs_connection *connection, const struct crucible_message *message)
{
	struct downstairs *downstairs = connection->downstairs;
	bool read_only = downstairs->options.read_only;
	bool encrypted = disk_region(downstairs->disk)->encrypted;
	struct crucible_message answer = { .type = CRUCIBLE_YES_ITS_ME };
	if (!speaks_our_version(message)) {
		answer.type = CRUCIBLE_VERSION_MISMATCH;
		answer.version_mismatch.version = CRUCIBLE_PROTOCOL_VERSION;
	} else if (message->here_i_am.read_only != read_only) {
		answer.type = CRUCIBLE_READ_ONLY_MISMATCH;
		answer.mode_mismatch.expected = read_only;
	} else if (message->here_i_am.encrypted != encrypted) {
		answer.type = CRUCIBLE_ENCRYPTED_MISMATCH;
		answer.mode_mismatch.expected = encrypted;
	} else {
		answer.yes_its_me.version = CRUCIBLE_PROTOCOL_VERSION;
		answer.yes_its_me.repair_address = downstairs->options.repair_address;
		connection->session = message->here_i_am.session;
		connection->phase = PHASE_CONNECTED;
	}
	reply(connection, &answer);
	if (answer.type != CRUCIBLE_YES_ITS_ME)
		connection_drop(connection);
}

/* PromoteToActive */

/* The registered connection that the newcomer would replace. */
static struct downstairs_connection *registered_for(const struct downstairs_connection *newcomer)
{
	struct downstairs *downstairs = newcomer->downstairs;
	struct downstairs_connection *other;
	LIST_FOR_EACH (other, &downstairs->connections, link) {
		if (other->is_registered &&
			(!downstairs->options.read_only ||
				same_id(&other->session.upstairs_id, &newcomer->session.upstairs_id)))
			return other;
	}
	return NULL;
}

static bool may_replace(
	const struct downstairs_connection *newcomer, const struct downstairs_connection *active)
{
	const struct crucible_session *new = &newcomer->session, *old = &active->session;
	if (newcomer->downstairs->options.read_only || new->generation > old->generation)
		return true;
	return new->generation == old->generation &&same_id(&new->upstairs_id, &old->upstairs_id) &&
		   same_id(&new->session_id, &old->session_id);
}

/* It loses its registration first: what is closed by a replacement does not unregister. */
static void displace(
	struct downstairs_connection *active, const struct downstairs_connection *newcomer)
{
	struct crucible_message message = {
		.type = CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE,
		.session = newcomer->session,
	};
	active->is_registered = false;
	reply(active, &message);
	connection_drop(active);
}

static void promote(
	struct downstairs_connection *connection, const struct crucible_message *message)
{
	struct downstairs *downstairs = connection->downstairs;
	const struct crucible_session *asked = &message->session;
	if (!same_id(&asked->upstairs_id, &connection->session.upstairs_id) ||
		!same_id(&asked->session_id, &connection->session.session_id)) {
		struct crucible_message answer = { .type = CRUCIBLE_UUID_MISMATCH };
		answer.uuid_mismatch.expected_id = connection->session.upstairs_id;
		reply(connection, &answer);
		connection_drop(connection);
		return;
	}
	connection->session.generation = asked->generation;
	struct downstairs_connection *active = registered_for(connection);
	if (active && !may_replace(connection, active)) {
		connection_drop(connection);
		return;
	}
	if (active)
		displace(active, connection);
	if (!downstairs->options.read_only) {
		switch (region_reopen_all(&downstairs->region)) {
		case OUTCOME_DONE:
			break;
		case OUTCOME_KILLED:
			downstairs->state = DOWNSTAIRS_KILLED;
			return;
		case OUTCOME_FAILED:
		case OUTCOME_PANIC:
			connection_drop(connection);
			return;
		}
	}
	connection->is_registered = true;
	connection->phase = PHASE_PROMOTED;
	reply(connection, &(struct crucible_message){
						  .type = CRUCIBLE_YOU_ARE_NOW_ACTIVE, .session = connection->session });
}

void negotiation_closed(struct downstairs_connection *connection)
{
	struct downstairs_connection *other;
	if (connection->phase == PHASE_OPEN)
		return;
	LIST_FOR_EACH (other, &connection->downstairs->connections, link) {
		if (same_id(&other->session.upstairs_id, &connection->session.upstairs_id))
			other->is_registered = false;
	}
}

/* The rest */

static void region_info(struct downstairs_connection *connection)
{
	struct crucible_message answer = { .type = CRUCIBLE_REGION_INFO };
	answer.region_info = *disk_region(connection->downstairs->disk);
	connection->phase = PHASE_REGION_INFO_SENT;
	reply(connection, &answer);
}

static void last_flush(
	struct downstairs_connection *connection, const struct crucible_message *message)
{
	if (message->last_flush.has_job_id)
		id_set_add(&connection->completed, message->last_flush.job_id);
	connection->phase = PHASE_RUNNING;
}

static void extent_versions(struct downstairs_connection *connection)
{
	struct downstairs *downstairs = connection->downstairs;
	uint32_t count = disk_region(downstairs->disk)->extent_count;
	uint64_t *numbers = zeroed(count, 2 * sizeof *numbers);
	bool *dirty = zeroed(count, sizeof *dirty);
	enum outcome outcome = OUTCOME_DONE;
	for (uint32_t i = 0; i < count && outcome == OUTCOME_DONE; i++) {
		struct versions versions;
		outcome = region_versions(&downstairs->region, i, &versions);
		numbers[i] = versions.generation;
		numbers[count + i] = versions.flush_number;
		dirty[i] = versions.dirty;
	}
	if (outcome == OUTCOME_PANIC) {
		downstairs_die(downstairs, downstairs->region.panic);
	} else {
		struct crucible_message answer = { .type = CRUCIBLE_EXTENT_VERSIONS };
		answer.extent_versions.generations = (struct crucible_u64s){ numbers, count };
		answer.extent_versions.flush_numbers = (struct crucible_u64s){ numbers + count, count };
		answer.extent_versions.dirty = (struct crucible_bools){ dirty, count };
		connection->phase = PHASE_RUNNING;
		reply(connection, &answer);
	}
	free(numbers);
	free(dirty);
}

int negotiation_phase(enum crucible_message_type type)
{
	switch ((int)type) {
	case CRUCIBLE_HERE_I_AM:
		return PHASE_OPEN;
	case CRUCIBLE_PROMOTE_TO_ACTIVE:
		return PHASE_CONNECTED;
	case CRUCIBLE_REGION_INFO_PLEASE:
		return PHASE_PROMOTED;
	case CRUCIBLE_EXTENT_VERSIONS_PLEASE:
	case CRUCIBLE_LAST_FLUSH:
		return PHASE_REGION_INFO_SENT;
	default:
		return -1;
	}
}

void negotiate(struct downstairs_connection *connection, const struct crucible_message *message)
{
	switch (connection->phase) {
	case PHASE_OPEN:
		here_i_am(connection, message);
		break;
	case PHASE_CONNECTED:
		promote(connection, message);
		break;
	case PHASE_PROMOTED:
		region_info(connection);
		break;
	case PHASE_REGION_INFO_SENT:
		if (message->type == CRUCIBLE_LAST_FLUSH)
			last_flush(connection, message);
		else
			extent_versions(connection);
		break;
	case PHASE_RUNNING:
		break;
	}
}
