/* engine.c: the engine's inputs; see engine.h. */
#include "engine.h"

#include <assert.h>

#include "engine-internal.h"
#include "memory.h"

/* What came while something else was being done. */
struct input {
	struct list link;
	struct downstairs_connection *connection;
	bool is_end;
	size_t size;
	uint8_t frame[];
};

struct downstairs *downstairs_start(
	struct disk *disk, const struct downstairs_options *options, struct crucible_error *error)
{
	struct downstairs *downstairs = zeroed(1, sizeof *downstairs);
	downstairs->disk = disk;
	downstairs->options = *options;
	list_init(&downstairs->connections);
	list_init(&downstairs->gone);
	list_init(&downstairs->inbox);
	if (region_open(&downstairs->region, disk, options->read_only) == OUTCOME_DONE)
		return downstairs;
	*error = downstairs->region.error;
	downstairs_kill(downstairs);
	return NULL;
}

static void free_connections(struct list *list)
{
	struct downstairs_connection *connection, *following;
	LIST_FOR_EACH_SAFE (connection, following, list, link) {
		jobs_discard(connection);
		id_set_free(&connection->completed);
		list_remove(&connection->link);
		free(connection);
	}
}

void downstairs_kill(struct downstairs *downstairs)
{
	struct input *input, *following;
	assert(!downstairs->is_busy);
	LIST_FOR_EACH_SAFE (input, following, &downstairs->inbox, link)
		free(input);
	free_connections(&downstairs->connections);
	free_connections(&downstairs->gone);
	region_close(&downstairs->region);
	free(downstairs->current);
	free(downstairs->head);
	free(downstairs->read_contexts);
	free(downstairs->read_data);
	free(downstairs);
}

enum downstairs_state downstairs_state(const struct downstairs *downstairs)
{
	return downstairs->state;
}

void downstairs_die(struct downstairs *downstairs, const char *reason)
{
	downstairs->state = DOWNSTAIRS_DIED;
	downstairs->options.callbacks->died(downstairs->options.context, reason);
}

struct downstairs_connection *downstairs_connected(struct downstairs *downstairs, void *peer)
{
	struct downstairs_connection *connection = zeroed(1, sizeof *connection);
	connection->downstairs = downstairs;
	connection->peer = peer;
	list_init(&connection->pending);
	list_init(&connection->unchecked);
	list_append(&downstairs->connections, &connection->link);
	return connection;
}

void connection_drop(struct downstairs_connection *connection)
{
	struct downstairs *downstairs = connection->downstairs;
	struct input *input, *following;
	if (connection->is_gone)
		return;
	connection->is_gone = true;
	list_remove(&connection->link);
	list_append(&downstairs->gone, &connection->link);
	LIST_FOR_EACH_SAFE (input, following, &downstairs->inbox, link) {
		if (input->connection == connection) {
			list_remove(&input->link);
			free(input);
		}
	}
	negotiation_closed(connection);
	if (!connection->peer_is_gone) {
		connection->peer_is_gone = true;
		downstairs->options.callbacks->close(downstairs->options.context, connection->peer);
	}
}

/* One message */

static bool is_from_upstairs(enum crucible_message_type type)
{
	switch ((int)type) {
	case CRUCIBLE_HERE_I_AM:
	case CRUCIBLE_PROMOTE_TO_ACTIVE:
	case CRUCIBLE_RUOK:
	case CRUCIBLE_REGION_INFO_PLEASE:
	case CRUCIBLE_EXTENT_VERSIONS_PLEASE:
	case CRUCIBLE_LAST_FLUSH:
	case CRUCIBLE_WRITE:
	case CRUCIBLE_FLUSH:
	case CRUCIBLE_BARRIER:
	case CRUCIBLE_READ_REQUEST:
	case CRUCIBLE_WRITE_UNWRITTEN:
		return true;
	default:
		return (type >= CRUCIBLE_EXTENT_CLOSE && type <= CRUCIBLE_EXTENT_REPAIR) ||
			   (type >= CRUCIBLE_EXTENT_LIVE_CLOSE && type <= CRUCIBLE_EXTENT_LIVE_NO_OP);
	}
}

static void handle_message(const struct work *work)
{
	struct downstairs_connection *connection = work->connection;
	enum crucible_message_type type = work->message.type;
	int phase = negotiation_phase(type);
	if (phase >= 0 && phase != (int)connection->phase) {
		connection_drop(connection);
	} else if (phase >= 0) {
		negotiate(connection, &work->message);
	} else if (type == CRUCIBLE_RUOK) {
		reply(connection, &(struct crucible_message){ .type = CRUCIBLE_IMOK });
		jobs_walk(connection);
	} else if (connection->phase == PHASE_RUNNING) {
		if (is_from_upstairs(type))
			jobs_received(work);
		else
			connection_drop(connection);
	} /* else it is ignored */
}

static void handle_frame(
	struct downstairs_connection *connection, const uint8_t *frame, size_t size)
{
	struct work work = { .connection = connection };
	uint8_t *patched;
	switch (upstream_decode(frame, size, &work.message, &patched)) {
	case DECODED:
		work.frame = patched ? patched : frame;
		work.size = get_le32(work.frame);
		handle_message(&work);
		break;
	case DECODING_CLOSES:
		connection_drop(connection);
		break;
	case DECODING_ABORTS:
		downstairs_die(connection->downstairs, "frame that upstream's decoder does not survive");
		break;
	}
	free(patched);
}

/* Inputs in their order */

static void leave(struct downstairs *downstairs)
{
	while (downstairs->state == DOWNSTAIRS_RUNNING && !list_empty(&downstairs->inbox)) {
		struct input *input = LIST_FIRST(&downstairs->inbox, struct input, link);
		list_remove(&input->link);
		if (input->is_end)
			connection_drop(input->connection);
		else
			handle_frame(input->connection, input->frame, input->size);
		free(input);
	}
	downstairs->is_busy = false;
	free_connections(&downstairs->gone);
}

/* False if the input has to wait, and is in the inbox now. */
static bool enter(
	struct downstairs_connection *connection, bool is_end, const void *frame, size_t size)
{
	struct downstairs *downstairs = connection->downstairs;
	if (!downstairs->is_busy && downstairs->state == DOWNSTAIRS_RUNNING) {
		downstairs->is_busy = true;
		return true;
	}
	struct input *input = zeroed(1, sizeof *input + size);
	input->connection = connection;
	input->is_end = is_end;
	input->size = size;
	if (size > 0)
		memcpy(input->frame, frame, size);
	list_append(&downstairs->inbox, &input->link);
	return false;
}

void downstairs_received(struct downstairs_connection *connection, const void *frame, size_t size)
{
	struct downstairs *downstairs = connection->downstairs;
	if (!enter(connection, false, frame, size))
		return;
	handle_frame(connection, frame, size);
	leave(downstairs);
}

void downstairs_closed(struct downstairs_connection *connection)
{
	struct downstairs *downstairs = connection->downstairs;
	connection->peer_is_gone = true;
	if (!enter(connection, true, NULL, 0))
		return;
	connection_drop(connection);
	leave(downstairs);
}

void downstairs_fetched(
	struct downstairs *downstairs, const void *image, size_t size, const char *error)
{
	assert(downstairs->state == DOWNSTAIRS_FETCHING && !downstairs->is_busy);
	downstairs->is_busy = true;
	jobs_fetched(downstairs, image, size, error);
	leave(downstairs);
}

void downstairs_retry(struct downstairs *downstairs)
{
	if (downstairs->state != DOWNSTAIRS_WEDGED || downstairs->is_busy)
		return;
	downstairs->is_busy = true;
	jobs_retry(downstairs);
	leave(downstairs);
}

/* As the source of a repair */

bool downstairs_copy_extent(struct downstairs *downstairs, uint32_t extent_id, uint8_t *image)
{
	if (extent_id >= disk_region(downstairs->disk)->extent_count)
		return false;
	disk_copy_image(downstairs->disk, extent_id, image);
	return true;
}

bool downstairs_repair_ready(struct downstairs *downstairs, uint32_t extent_id)
{
	bool is_ready;
	if (region_repair_ready(&downstairs->region, extent_id, &is_ready) == OUTCOME_PANIC)
		downstairs_die(downstairs, downstairs->region.panic);
	return is_ready;
}

size_t downstairs_pending(const struct downstairs *downstairs)
{
	size_t count = 0;
	struct downstairs_connection *connection;
	const struct job *job;
	LIST_FOR_EACH (connection, &downstairs->connections, link) {
		LIST_FOR_EACH (job, &connection->pending, link)
			count++;
		LIST_FOR_EACH (job, &connection->unchecked, link)
			count++;
	}
	return count;
}

bool downstairs_block_is_good(const struct downstairs *downstairs, uint64_t block)
{
	struct stored_context stored;
	uint64_t block_size = disk_region(downstairs->disk)->block_size;
	const uint8_t *data = region_peek(&downstairs->region, block, &stored);
	if (!data)
		return true;
	if (stored.is_set)
		return stored.data_hash == image_data_hash(data, block_size);
	return data[0] == 0 && memcmp(data, data + 1, block_size - 1) == 0;
}
