/* client.c: the connections of upstairs; see server.h. */
#include <stdio.h>
#include <unistd.h>

#include "memory.h"
#include "server.h"

enum { READ_SIZE = 256 << 10, BACKLOG = 128 };

static uint8_t sealed[READ_SIZE]; /* what one read of TLS has given */

struct client {
	struct server *server;
	struct list link;
	uv_tcp_t tcp;
	uv_timer_t timer; /* until the first delayed output is due */
	unsigned open_handles;
	struct downstairs_connection *connection; /* NULL: the engine has done with it */
	bool is_ending;                           /* nothing is read any more */
	bool has_ended;                           /* the peer; the engine is to be told */
	uint64_t heard_at;
	struct tls_server *tls; /* NULL: none */

	uint8_t *in;
	size_t in_size, in_used;

	/* what is to be sent, and what is to happen then */
	uint8_t *out;
	size_t out_size, out_used;
	enum fault_action after;
	struct list delayed; /* struct output */
	unsigned writing;
};

struct output {
	struct list link;
	struct client *client;
	uv_write_t request;
	uint64_t due;
	enum fault_action after;
	size_t size;
	uint8_t bytes[];
};

/* The end */

static void on_handle_closed(uv_handle_t *handle)
{
	struct client *client = handle->data;
	if (--client->open_handles > 0)
		return;
	while (!list_empty(&client->delayed)) {
		struct output *output = LIST_FIRST(&client->delayed, struct output, link);
		list_remove(&output->link);
		free(output);
	}
	list_remove(&client->link);
	tls_server_free(client->tls);
	free(client->in);
	free(client->out);
	free(client);
}

static void close_handles(struct client *client)
{
	if (uv_is_closing((uv_handle_t *)&client->tcp))
		return;
	uv_close((uv_handle_t *)&client->tcp, on_handle_closed);
	uv_close((uv_handle_t *)&client->timer, on_handle_closed);
}

/* The engine is told, unless it has closed the connection itself. */
static void disconnect(struct client *client)
{
	struct downstairs_connection *connection = client->connection;
	client->connection = NULL;
	if (connection)
		downstairs_closed(connection);
}

/* Without sending what there is. */
static void drop(struct client *client)
{
	client->is_ending = true;
	disconnect(client);
	close_handles(client);
}

/* Sending */

static void sent(struct client *client, enum fault_action after)
{
	if (after == ACTION_EXIT)
		kill(getpid(), SIGKILL);
	if (after == ACTION_CLOSE)
		drop(client);
}

static void on_written(uv_write_t *request, int status)
{
	struct output *output = request->data;
	struct client *client = output->client;
	enum fault_action after = output->after;
	free(output);
	if (status < 0)
		drop(client);
	else
		sent(client, after);
}

static void write_output(struct output *output)
{
	uv_buf_t buffer = uv_buf_init((char *)output->bytes, (unsigned)output->size);
	output->request.data = output;
	if (uv_write(&output->request, (uv_stream_t *)&output->client->tcp, &buffer, 1, on_written) < 0)
		abort();
}

static struct output *take_output(struct client *client, size_t from)
{
	struct output *output = zeroed(1, sizeof *output + client->out_used - from);
	list_init(&output->link);
	output->client = client;
	output->after = client->after;
	output->size = client->out_used - from;
	memcpy(output->bytes, client->out + from, output->size);
	return output;
}

static void on_due(uv_timer_t *timer)
{
	struct client *client = timer->data;
	uint64_t now = uv_now(timer->loop);
	while (!list_empty(&client->delayed)) {
		struct output *output = LIST_FIRST(&client->delayed, struct output, link);
		if (output->due > now) {
			uv_timer_start(timer, on_due, output->due - now, 0);
			return;
		}
		list_remove(&output->link);
		write_output(output);
	}
}

static void delay_output(struct client *client)
{
	struct output *output = take_output(client, 0);
	output->due = uv_now(&client->server->loop) + client->server->faults.delay;
	list_append(&client->delayed, &output->link);
	if (!uv_is_active((uv_handle_t *)&client->timer))
		uv_timer_start(&client->timer, on_due, client->server->faults.delay, 0);
}

static void append(struct client *client, const void *bytes, size_t size)
{
	client->out = grown(client->out, &client->out_size, client->out_used + size, 1);
	if (size > 0)
		memcpy(client->out + client->out_used, bytes, size);
	client->out_used += size;
}

/* Of what is to be sent, and of what TLS has to say for itself. */
static void seal(struct client *client)
{
	size_t size;
	tls_server_seal(client->tls, client->out, client->out_used);
	const uint8_t *bytes = tls_server_output(client->tls, &size);
	client->out_used = 0;
	append(client, bytes, size);
}

static void flush(struct client *client)
{
	if (client->tls && !uv_is_closing((uv_handle_t *)&client->tcp))
		seal(client);
	if (uv_is_closing((uv_handle_t *)&client->tcp) ||
		(client->out_used == 0 && client->after == ACTION_NONE))
		return;
	if (client->server->faults.delay > 0 || !list_empty(&client->delayed)) {
		delay_output(client);
	} else {
		uv_buf_t buffer = uv_buf_init((char *)client->out, (unsigned)client->out_used);
		int done = uv_try_write((uv_stream_t *)&client->tcp, &buffer, 1);
		if (done == (int)client->out_used) {
			client->out_used = 0;
			sent(client, client->after);
			return;
		}
		write_output(take_output(client, done > 0 ? (size_t)done : 0));
	}
	client->out_used = 0;
	client->after = ACTION_NONE;
}

void client_send(void *context, void *peer, const void *head, size_t head_size, const void *data,
	size_t data_size)
{
	struct client *client = peer;
	struct faults *faults = &((struct server *)context)->faults;
	uint32_t type = get_le32((const uint8_t *)head + 4);
	enum fault_action action = faults_at(faults, POINT_ANSWER, type);
	if (action == ACTION_DROP || faults->is_silent)
		return;
	size_t before = client->out_used;
	if (action != ACTION_CLOSE) {
		append(client, head, head_size);
		append(client, data, data_size);
	}
	if (action == ACTION_TORN)
		client->out_used = before + (head_size + data_size) / 2;
	if (action == ACTION_NONE)
		action = faults_at(faults, POINT_SENT, type);
	if (action == ACTION_NONE)
		return;
	client->after = action == ACTION_EXIT ? ACTION_EXIT : ACTION_CLOSE;
	client->is_ending = true;
	disconnect(client);
	flush(client);
}

void client_close(void *context, void *peer)
{
	struct client *client = peer;
	(void)context;
	client->connection = NULL;
	client->is_ending = true;
	client->after = ACTION_CLOSE;
	flush(client);
}

/* Receiving. Frames are at client->in + offsets[i]. */

struct batch {
	size_t *offsets, count, capacity;
};

static bool depends_on(const struct crucible_message *message, uint64_t job_id)
{
	for (size_t i = 0; i < message->dependencies.count; i++) {
		if (crucible_u64_at(message->dependencies, i) == job_id)
			return true;
	}
	return false;
}

static bool decode_job(const uint8_t *frame, struct crucible_message *message)
{
	const char *wrong;
	return crucible_decode(frame, get_le32(frame), message, &wrong) == 0 &&
		   downstairs_is_job(message->type);
}

/* Whether the second of two frames may be handled before the first. */
static bool may_overtake(const uint8_t *first, const uint8_t *second)
{
	struct crucible_message a, b;
	return decode_job(first, &a) && decode_job(second, &b) && !depends_on(&b, a.job.job_id);
}

/* Frame by frame, each to a place that it can get to by overtaking its neighbours. */
static void reorder(struct client *client, struct batch *batch)
{
	struct faults *faults = &client->server->faults;
	for (size_t i = 1; i < batch->count; i++) {
		size_t at = i, least = faults_random(faults) % (i + 1);
		while (at > least &&
			   may_overtake(client->in + batch->offsets[at - 1], client->in + batch->offsets[at])) {
			size_t offset = batch->offsets[at];
			batch->offsets[at] = batch->offsets[at - 1];
			batch->offsets[--at] = offset;
		}
	}
}

static void handle_frame(struct client *client, const uint8_t *frame, size_t size)
{
	uint32_t type = size >= CRUCIBLE_FRAME_MIN ? get_le32(frame + 4) : CRUCIBLE_MESSAGE_TYPES;
	switch (faults_at(&client->server->faults, POINT_RECEIVED, type)) {
	case ACTION_CLOSE:
		drop(client);
		break;
	case ACTION_DROP:
		break;
	default:
		downstairs_received(client->connection, frame, size);
	}
}

/* How long the frame at `bytes` is; 0 if that is not known yet. Lengths that no frame has are given
 * to the engine as they are. */
static size_t frame_size(const uint8_t *bytes, size_t received)
{
	if (received < sizeof(uint32_t))
		return 0;
	uint32_t length = get_le32(bytes);
	return length < sizeof length ? sizeof length : length;
}

static void handle_frames(struct client *client)
{
	struct batch batch = { 0 };
	size_t at = 0;
	for (;;) {
		size_t size = frame_size(client->in + at, client->in_used - at);
		if (size > CRUCIBLE_FRAME_MAX) {
			drop(client);
			break;
		}
		if (size == 0 || size > client->in_used - at)
			break;
		batch.offsets = grown(
			batch.offsets, &batch.capacity, batch.count + 1, sizeof *batch.offsets);
		batch.offsets[batch.count++] = at;
		at += size;
	}
	if (batch.count > 0)
		client->heard_at = uv_now(&client->server->loop);
	if (client->server->faults.reorders)
		reorder(client, &batch);
	for (size_t i = 0; i < batch.count && client->connection; i++) {
		const uint8_t *frame = client->in + batch.offsets[i];
		handle_frame(client, frame, frame_size(frame, sizeof(uint32_t)));
	}
	free(batch.offsets);
	if (at > 0) {
		memmove(client->in, client->in + at, client->in_used - at);
		client->in_used -= at;
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct client *client = handle->data;
	(void)suggested;
	if (client->tls) {
		*buffer = uv_buf_init((char *)sealed, sizeof sealed);
		return;
	}
	size_t wanted = frame_size(client->in, client->in_used);
	if (wanted < client->in_used + READ_SIZE || wanted > CRUCIBLE_FRAME_MAX)
		wanted = client->in_used + READ_SIZE;
	client->in = grown(client->in, &client->in_size, wanted, 1);
	*buffer = uv_buf_init(
		(char *)client->in + client->in_used, (unsigned)(client->in_size - client->in_used));
}

/* The peer sends no more, but may still read. Not while the engine is busy: it would forget the
 * answers of what came before. */
static void end_input(struct client *client)
{
	client->has_ended = true;
	if (downstairs_state(client->server->downstairs) != DOWNSTAIRS_RUNNING)
		return;
	disconnect(client);
	client->is_ending = true;
	client->after = ACTION_CLOSE;
	flush(client);
}

/* False: the peer is not who it should be, or not heard any more. */
static bool unseal(struct client *client, size_t count)
{
	ssize_t taken;
	tls_server_feed(client->tls, sealed, count);
	do {
		client->in = grown(client->in, &client->in_size, client->in_used + READ_SIZE, 1);
		taken = tls_server_take(client->tls, client->in + client->in_used, READ_SIZE);
		if (taken > 0)
			client->in_used += (size_t)taken;
	} while (taken > 0);
	if (taken == 0)
		return true;
	client->is_ending = true;
	client->after = ACTION_CLOSE;
	disconnect(client);
	flush(client); /* with the alert */
	return false;
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	struct client *client = stream->data;
	struct server *server = client->server;
	(void)buffer;
	if (count == 0)
		return;
	if (count == UV_EOF || client->is_ending) {
		uv_read_stop(stream);
		if (!client->is_ending)
			end_input(client);
		return;
	}
	if (count < 0) {
		drop(client);
		return;
	}
	if (!client->tls)
		client->in_used += (size_t)count;
	else if (!unseal(client, (size_t)count))
		return;
	handle_frames(client);
	clients_wake(server); /* others may have been displaced */
}

void clients_wake(struct server *server)
{
	struct client *client, *following;
	LIST_FOR_EACH_SAFE (client, following, &server->clients, link) {
		flush(client);
		if (client->has_ended && client->connection)
			end_input(client);
	}
}

void clients_drop_silent(struct server *server)
{
	struct client *client, *following;
	uint64_t now = uv_now(&server->loop);
	LIST_FOR_EACH_SAFE (client, following, &server->clients, link) {
		if (now - client->heard_at > server->silence_limit)
			drop(client);
	}
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct server *server = listener->data;
	if (status < 0)
		return;
	struct client *client = zeroed(1, sizeof *client);
	client->server = server;
	list_init(&client->delayed);
	list_append(&server->clients, &client->link);
	uv_tcp_init(&server->loop, &client->tcp);
	uv_timer_init(&server->loop, &client->timer);
	client->tcp.data = client->timer.data = client;
	client->open_handles = 2;
	client->heard_at = uv_now(&server->loop);
	client->tls = server->identity ? tls_server_new(server->identity) : NULL;
	if (uv_accept(listener, (uv_stream_t *)&client->tcp) < 0) {
		close_handles(client);
		return;
	}
	uv_tcp_nodelay(&client->tcp, 1);
	client->connection = downstairs_connected(server->downstairs, client);
	uv_read_start((uv_stream_t *)&client->tcp, on_alloc, on_read);
}

void clients_listen(struct server *server)
{
	server->listener.data = server;
	int status = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
	if (status < 0) {
		fprintf(stderr, "cannot listen: %s\n", uv_strerror(status));
		exit(1);
	}
}
