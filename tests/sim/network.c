/* network.c: connections between gateways and downstairs. Frames stay in order per connection and direction; what was
 * in flight when a connection ended is delivered up to some point, also to a downstairs (crucible-protocol.md 3.1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

void queue_init(struct queue *queue)
{
	*queue = (struct queue){ .end = &queue->first };
}

static void push(struct queue *queue, struct frame *frame)
{
	frame->next = NULL;
	*queue->end = frame;
	queue->end = &frame->next;
	queue->count++;
}

static struct frame *pop(struct queue *queue)
{
	struct frame *frame = queue->first;
	queue->first = frame->next;
	if (!queue->first)
		queue->end = &queue->first;
	queue->count--;
	return frame;
}

static enum crucible_message_type type_of(const struct frame *frame)
{
	return (enum crucible_message_type)get_le32(frame->bytes + 4);
}

/* Keeps the first `kept` frames. */
static void cut(struct connection *connection, struct queue *queue, unsigned kept)
{
	struct queue old = *queue;
	if (!old.first)
		return;
	queue_init(queue);
	while (old.count > 0) {
		struct frame *frame = old.first;
		old.first = frame->next;
		old.count--;
		if (queue->count < kept) {
			push(queue, frame);
			continue;
		}
		if (type_of(frame) == CRUCIBLE_FLUSH_ACK)
			connection->world->sleds[connection->sled].flush_ack_lost = true;
		if (type_of(frame) == CRUCIBLE_FLUSH_ACK || type_of(frame) == CRUCIBLE_WRITE_ACK)
			cover(COVER_ACKS_LOST);
		free(frame);
	}
}

static void cut_somewhere(struct connection *connection, struct queue *queue)
{
	cut(connection, queue, (unsigned)random_below(connection->world, queue->count + 1));
}

void network_free(struct connection *connection)
{
	cut(connection, &connection->up, 0);
	cut(connection, &connection->down, 0);
	connection->is_used = false;
	struct world *world = connection->world;
	while (world->connections_end > 0 && !world->connections[world->connections_end - 1].is_used)
		world->connections_end--;
}

static void free_if_over(struct connection *connection)
{
	if (!connection->gateway && !connection->server)
		network_free(connection);
}

struct connection *network_connect(struct gateway *gateway, unsigned slot)
{
	struct world *world = gateway->world;
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &world->connections[i];
		if (connection->is_used)
			continue;
		*connection = (struct connection){
			.is_used = true, .world = world, .gateway = gateway, .host = gateway->host->index, .sled = slot
		};
		if (i >= world->connections_end)
			world->connections_end = i + 1;
		queue_init(&connection->up);
		queue_init(&connection->down);
		return connection;
	}
	abort();
}

static void trace_frame(struct connection *connection, const char *verb, const struct frame *frame)
{
	struct crucible_message message;
	const char *wrong;
	char text[160] = "";
	if (!connection->world->is_verbose)
		return;
	if (crucible_decode(frame->bytes, frame->size, &message, &wrong) < 0)
		snprintf(text, sizeof text, "undecodable: %s", wrong);
	else if (message.type == CRUCIBLE_WRITE)
		snprintf(text, sizeof text, "job %llu start %llu count %zu id %llu, %zu dependencies",
			(unsigned long long)message.job.job_id, (unsigned long long)message.write.start,
			message.write.contexts.count, (unsigned long long)get_le64(message.write.data.bytes),
			message.dependencies.count);
	else if (message.type == CRUCIBLE_FLUSH)
		snprintf(text, sizeof text, "job %llu flush %llu generation %llu, %zu dependencies",
			(unsigned long long)message.job.job_id, (unsigned long long)message.flush.flush_number,
			(unsigned long long)message.flush.generation, message.dependencies.count);
	else if (message.type == CRUCIBLE_READ_REQUEST)
		snprintf(text, sizeof text, "job %llu start %llu count %llu", (unsigned long long)message.job.job_id,
			(unsigned long long)message.read_request.start, (unsigned long long)message.read_request.count);
	else if (message.type >= CRUCIBLE_WRITE)
		snprintf(text, sizeof text, "job %llu", (unsigned long long)message.job.job_id);
	else if (message.type == CRUCIBLE_PROMOTE_TO_ACTIVE || message.type == CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE)
		snprintf(text, sizeof text, "generation %llu", (unsigned long long)message.session.generation);
	else if (message.type >= CRUCIBLE_EXTENT_CLOSE && message.type <= CRUCIBLE_EXTENT_REPAIR)
		snprintf(text, sizeof text, "repair %llu extent %u", (unsigned long long)message.extent.repair_id,
			(unsigned)message.extent.extent_id);
	else if (message.type == CRUCIBLE_EXTENT_VERSIONS) {
		size_t used = 0;
		for (size_t i = 0; i < message.extent_versions.dirty.count; i++)
			used += (size_t)snprintf(text + used, sizeof text - used, "(%llu,%llu%s)",
				(unsigned long long)crucible_u64_at(message.extent_versions.generations, i),
				(unsigned long long)crucible_u64_at(message.extent_versions.flush_numbers, i),
				crucible_bool_at(message.extent_versions.dirty, i) ? ",dirty" : "");
	}
	trace(connection->world, "connection %d host %d sled %u %s %s %s",
		(int)(connection - connection->world->connections),
		connection->gateway ? (int)connection->gateway->host->index : -1, connection->sled, verb,
		crucible_message_name(type_of(frame)), text);
}

/* The core's side */

void network_send(struct connection *connection, const struct crucible_message *message)
{
	size_t head, size;
	if (!connection || !connection->is_open) {
		violation(connection ? connection->world : NULL, "the core sends without a connection");
		return;
	}
	if (crucible_measure(message, &head, &size) < 0) {
		violation(connection->world, "the core sends what cannot be encoded");
		return;
	}
	if (connection->gateway_ends)
		return; /* the link has dropped, and nobody knows yet */
	if (message->type == CRUCIBLE_FLUSH && message->flush.has_extent_limit)
		cover(COVER_TRACE_H);
	struct frame *frame = malloc(sizeof *frame + size);
	frame->size = size;
	frame->data = NULL;
	frame->data_length = 0;
	if (message->type == CRUCIBLE_WRITE) {
		frame->data = message->write.data.bytes;
		frame->data_length = message->write.data.length;
	}
	if (crucible_encode(message, frame->bytes, size) < 0)
		abort();
	push(&connection->up, frame);
}

void network_disconnect(struct connection *connection)
{
	connection->gateway->connections[connection->sled] = NULL;
	connection->gateway = NULL;
	cut(connection, &connection->down, 0);
	cut_somewhere(connection, &connection->up);
	for (struct frame *frame = connection->up.first; frame; frame = frame->next)
		frame->data = NULL;
	connection->gateway_ends = true;
	free_if_over(connection);
}

/* The downstairs' side */

static void server_sends(void *context, void *peer, const void *head, size_t head_size, const void *data,
	size_t data_size)
{
	struct connection *connection = peer;
	(void)context;
	if (!connection->gateway || connection->server_ends)
		return; /* nobody gets it any more */
	struct frame *frame = malloc(sizeof *frame + head_size + data_size);
	frame->size = head_size + data_size;
	frame->data = NULL;
	frame->data_length = 0;
	memcpy(frame->bytes, head, head_size);
	if (data_size)
		memcpy(frame->bytes + head_size, data, data_size);
	push(&connection->down, frame);
}

static void server_closes(void *context, void *peer)
{
	struct connection *connection = peer;
	(void)context;
	connection->server = NULL;
	connection->server_ends = true;
	cut(connection, &connection->up, 0);
}

static void server_fetches(void *context, const struct crucible_address *source, uint32_t extent_id)
{
	struct sled *sled = context;
	sled->is_fetching = true;
	sled->source = source->octets[3] - 1u;
	sled->extent = extent_id;
	if (sled->source >= SLEDS || sled->source == sled->index) {
		violation(sled->world, "sled %u is told to fetch from an address that is none", sled->index);
		sled->source = (sled->index + 1) % SLEDS;
	}
}

static void server_died(void *context, const char *reason)
{
	struct sled *sled = context;
	violation(sled->world, "sled %u: a request kills the downstairs: %s", sled->index, reason);
}

const struct downstairs_callbacks network_callbacks = {
	.send = server_sends,
	.close = server_closes,
	.fetch = server_fetches,
	.died = server_died,
};

void network_server_died(struct sled *sled, bool silently)
{
	struct world *world = sled->world;
	for (unsigned i = 0; i < world->connections_end; i++) {
		struct connection *connection = &world->connections[i];
		if (!connection->is_used || connection->sled != sled->index || !connection->is_open || !connection->server)
			continue;
		connection->server = NULL;
		cut(connection, &connection->up, 0);
		cut_somewhere(connection, &connection->down);
		connection->server_ends = true;
		connection->is_stalled = connection->is_stalled || silently;
		free_if_over(connection);
	}
}

/* What the scheduler does */

void network_answer_connect(struct connection *connection, bool accept)
{
	struct gateway *gateway = connection->gateway;
	struct sled *sled = &connection->world->sleds[connection->sled];
	gateway_tick(gateway);
	if (gateway->connections[sled->index] != connection)
		return; /* given up, and perhaps used for another one already */
	if (!accept || !sled->downstairs) {
		cover(COVER_CONNECT_REFUSED);
		gateway->connections[connection->sled] = NULL;
		connection->gateway = NULL;
		network_free(connection);
		trace(connection->world, "host %u sled %u: connect refused", gateway->host->index, sled->index);
		upstairs_disconnected(gateway->upstairs, sled->index);
	} else {
		struct crucible_address peer = { .octets = { 10, 0, 0, (uint8_t)(sled->index + 1) }, .port = 3810 };
		connection->is_open = true;
		connection->server = downstairs_connected(sled->downstairs, connection);
		trace(connection->world, "connection %d host %u sled %u: connected",
			(int)(connection - connection->world->connections), gateway->host->index, sled->index);
		upstairs_connected(gateway->upstairs, sled->index, &peer);
	}
	gateway_check(gateway);
}

bool network_is_cut(const struct connection *connection)
{
	return connection->is_stalled || connection->world->is_cut[connection->host][connection->sled];
}

bool network_has_up(const struct connection *connection)
{
	return connection->is_used && connection->is_open && connection->server && !network_is_cut(connection) &&
		(connection->up.count > 0 || connection->gateway_ends);
}

bool network_has_down(const struct connection *connection)
{
	return connection->is_used && connection->is_open && connection->gateway && !network_is_cut(connection) &&
		gateway_runs(connection->gateway) && (connection->down.count > 0 || connection->server_ends);
}

static void look_at_promotion(struct connection *connection, const struct frame *frame)
{
	struct crucible_message message;
	const char *wrong;
	struct world *world = connection->world;
	if (type_of(frame) != CRUCIBLE_YOU_ARE_NOW_ACTIVE ||
		crucible_decode(frame->bytes, frame->size, &message, &wrong) < 0)
		return;
	for (unsigned i = 0; i < HOSTS; i++) {
		const struct gateway *gateway = &world->gateways[i];
		if (gateway->upstairs && gateway->generation > message.session.generation &&
			upstairs_state(gateway->upstairs) == UPSTAIRS_ACTIVATING &&
			gateway->phases[connection->sled] >= SLOT_PRESENT && gateway->phases[connection->sled] != SLOT_FAILED)
			cover(COVER_TRACE_L);
	}
	if (message.session.generation >= world->served_generation)
		return;
	cover(COVER_STALE_PROMOTIONS);
	cover(COVER_TRACE_E);
}

void network_deliver_up(struct connection *connection)
{
	struct sled *sled = &connection->world->sleds[connection->sled];
	if (connection->up.count == 0) {
		trace(connection->world, "connection %d sled %u: closed, sees the downstairs",
			(int)(connection - connection->world->connections), connection->sled);
		struct downstairs_connection *server = connection->server;
		connection->server = NULL;
		downstairs_closed(server);
		free_if_over(connection);
	} else {
		struct frame *frame = pop(&connection->up);
		trace_frame(connection, "<-", frame);
		if (frame->data && connection->gateway &&
			memcmp(frame->data, frame->bytes + frame->size - frame->data_length, frame->data_length) != 0)
			violation(connection->world, "data of a write was changed before it was sent");
		unsigned before = connection->down.count;
		downstairs_received(connection->server, frame->bytes, frame->size);
		if (connection->is_used && connection->down.count > before && type_of(frame) == CRUCIBLE_PROMOTE_TO_ACTIVE) {
			struct frame *answer = connection->down.first;
			while (answer->next)
				answer = answer->next;
			look_at_promotion(connection, answer);
		}
		free(frame);
		free_if_over(connection);
	}
	sled_check(sled);
}

void network_deliver_down(struct connection *connection)
{
	struct gateway *gateway = connection->gateway;
	unsigned slot = connection->sled;
	gateway_tick(gateway);
	if (connection->gateway != gateway || gateway->connections[slot] != connection)
		return;
	if (connection->down.count == 0) {
		trace(connection->world, "connection %d host %u sled %u: closed, sees the gateway",
			(int)(connection - connection->world->connections), gateway->host->index, slot);
		gateway->connections[slot] = NULL;
		connection->gateway = NULL;
		connection->gateway_ends = true;
		free_if_over(connection);
		upstairs_disconnected(gateway->upstairs, slot);
	} else {
		struct crucible_message message;
		const char *wrong;
		struct frame *frame = pop(&connection->down);
		trace_frame(connection, "->", frame);
		if (crucible_decode(frame->bytes, frame->size, &message, &wrong) < 0)
			abort();
		upstairs_received(gateway->upstairs, slot, &message);
		free(frame);
	}
	gateway_check(gateway);
}

void network_drop(struct connection *connection)
{
	network_drop_at(connection, (unsigned)random_below(connection->world, connection->up.count + 1),
		(unsigned)random_below(connection->world, connection->down.count + 1));
}

void network_drop_at(struct connection *connection, unsigned up_kept, unsigned down_kept)
{
	trace(connection->world, "connection %d sled %u: link drops",
		(int)(connection - connection->world->connections), connection->sled);
	cover(COVER_LINK_DROPS);
	cut(connection, &connection->up, up_kept);
	cut(connection, &connection->down, down_kept);
	connection->gateway_ends = connection->server_ends = true;
}
