/* connection.c: one client's descriptors, bytes in and out, and its end.
 *
 * Invariants
 *  1. A turn on a socket begins with the knowledge whether the peer has hung up. If it has, nothing
 *     more of what it sent is executed: what it left unread may have been repeated by its successor
 *     on another connection (export.h, invariant 2), and unanswered requests may be lost.
 *  2. Input is read only when what is there has been understood (wants_more), so that memory and
 *     fairness limits reach the client as back-pressure.
 *  3. The connection is freed in release(), when it is closed, its handles are, and it has no
 *     request left.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "nbd/server-internal.h"

enum {
	READS_PER_TURN = 4,
	EAGERNESS_MAX = 8,
	LONE_MIN = 64, /* so many in a row come from a client that waits for each reply */
	HANDSHAKE_RECEIVE_SIZE = 4 << 10,
	BULK_WINDOW = 4 << 10, /* read behind a large payload: what is more would have to be copied */
	SEND_PARTS = 256,
	FREE_REQUESTS_MAX = 1024,
	HANG_UP_READS = 256,
};

static void release(struct nbd_connection *connection);

/* Requests */

struct request *connection_new_request(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	struct request *request;
	if (list_empty(&server->free_requests)) {
		request = malloc(sizeof *request);
		if (!request)
			return NULL;
	} else {
		/* last in, first out: the warmest one */
		request = container_of(server->free_requests.prev, struct request, link);
		list_remove(&request->link);
		server->free_request_count--;
	}
	list_init(&request->link);
	request->connection = connection;
	request->buffer = NULL;
	request->extents = NULL;
	request->extras = NULL;
	request->text = NULL;
	request->error = 0;
	request->is_counted = false;
	request->cost = 0;
	request->part_at = request->part_count = 0;
	request->parts = request->own_parts;
	connection->request_count++;
	return request;
}

void connection_release_request(struct request *request)
{
	struct nbd_connection *connection = request->connection;
	struct nbd_server *server = connection->server;
	list_remove(&request->link);
	if (request->buffer)
		buffer_give(&server->pool, request->buffer, request->buffer_size);
	if (request->extents)
		buffer_give(&server->pool, request->extents, EXTENTS_MAX * sizeof *request->extents);
	if (request->extras)
		buffer_give(&server->pool, request->extras, REPLY_EXTRAS_SIZE);
	free(request->text);
	if (request->cost) {
		budget_give(&server->budget, &connection->share, request->cost);
		server_wake_for_memory(server);
	}
	if (server->free_request_count < FREE_REQUESTS_MAX) {
		list_append(&server->free_requests, &request->link);
		server->free_request_count++;
	} else {
		free(request);
	}
	connection->request_count--;
	if (connection->phase == PHASE_CLOSED)
		release(connection);
}

/* Sending */

bool connection_send(struct nbd_connection *connection, const void *bytes, size_t length)
{
	if (connection->out_size - connection->out_end < length) {
		size_t size = connection->out_end + length + 1024;
		uint8_t *larger = realloc(connection->out_bytes, size);
		if (!larger)
			return false;
		connection->out_bytes = larger;
		connection->out_size = size;
	}
	memcpy(connection->out_bytes + connection->out_end, bytes, length);
	connection->out_end += length;
	return true;
}

void connection_reply(struct request *request)
{
	struct nbd_connection *connection = request->connection;
	list_append(&connection->replies, &request->link);
	if (!connection->in_turn)
		server_wake(connection);
}

static unsigned collect_parts(const struct nbd_connection *connection, struct iovec *parts)
{
	unsigned count = 0;
	if (connection->out_end > connection->out_at)
		parts[count++] = (struct iovec){
			.iov_base = connection->out_bytes + connection->out_at,
			.iov_len = connection->out_end - connection->out_at,
		};
	const struct request *request;
	LIST_FOR_EACH(request, &connection->replies, link)
	{
		for (unsigned i = request->part_at; i < request->part_count; i++) {
			if (count == SEND_PARTS)
				return count;
			parts[count++] = request->parts[i];
		}
	}
	return count;
}

/* `sent` bytes have left: forgets them and the replies that are complete. */
static void drop_sent(struct nbd_connection *connection, size_t sent)
{
	size_t waiting = connection->out_end - connection->out_at;
	if (waiting > 0) {
		size_t n = sent < waiting ? sent : waiting;
		connection->out_at += n;
		sent -= n;
		if (connection->out_at == connection->out_end)
			connection->out_at = connection->out_end = 0;
	}
	while (sent > 0) {
		struct request *request = LIST_FIRST(&connection->replies, struct request, link);
		struct iovec *part = &request->parts[request->part_at];
		if (sent < part->iov_len) {
			part->iov_base = (char *)part->iov_base + sent;
			part->iov_len -= sent;
			return;
		}
		sent -= part->iov_len;
		if (++request->part_at == request->part_count)
			connection_release_request(request);
	}
}

/* Bytes in and out: the one place that knows whether there is TLS between us and the socket. Both return what a system
 * call would, but a negative errno. */

static inline ssize_t take_bytes(struct nbd_connection *connection, const struct iovec *places, unsigned count)
{
	if (__builtin_expect(connection->tls != NULL, 0))
		return nbd_tls_receive(connection->tls, places, count);
	ssize_t n = readv(connection->in_fd, places, (int)count);
	return n < 0 ? -errno : n;
}

static inline ssize_t give_bytes(struct nbd_connection *connection, const struct iovec *parts, unsigned count)
{
	if (__builtin_expect(connection->tls != NULL, 0))
		return nbd_tls_send(connection->tls, parts, count);
	ssize_t n = writev(connection->out_fd, parts, (int)count);
	return n < 0 ? -errno : n;
}

/* The connection is broken. That its peer is gone (0, too) is no news. */
static void close_broken(struct nbd_connection *connection, int error)
{
	bool is_gone = error == -EPIPE || error == -ECONNRESET || error == 0;
	const char *why = error == -EPROTO && connection->tls ? nbd_tls_fault(connection->tls) : strerror(-error);
	connection_close(connection, is_gone ? NULL : "%s", why);
}

/* Sends what can be sent. May close the connection. */
static void send_replies(struct nbd_connection *connection)
{
	struct iovec parts[SEND_PARTS];
	unsigned count;
	while ((count = collect_parts(connection, parts)) > 0) {
		ssize_t n = give_bytes(connection, parts, count);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			connection->output_blocked = true;
			return;
		}
		if (n < 0) {
			close_broken(connection, (int)n);
			return;
		}
		connection->output_blocked = false;
		connection->sent_at = uv_now(connection->server->loop);
		drop_sent(connection, (size_t)n);
	}
	connection->output_blocked = false;
}

/* Receiving */

static bool make_room(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	size_t held = connection->receive_end - connection->receive_at;
	if (!connection->receive) {
		connection->receive = buffer_take(&server->pool, connection->receive_size);
		connection->receive_at = connection->receive_end = 0;
		return connection->receive;
	}
	if (connection->receive_at > 0) {
		memmove(connection->receive, connection->receive + connection->receive_at, held);
		connection->receive_at = 0;
		connection->receive_end = held;
	}
	if (held < connection->receive_size)
		return true;
	/* only an option can be larger than the buffer; handshake.c has limited its size */
	size_t larger = connection->receive_size * 4;
	uint8_t *receive = buffer_take(&server->pool, larger);
	if (!receive)
		return false;
	memcpy(receive, connection->receive, held);
	buffer_give(&server->pool, connection->receive, connection->receive_size);
	connection->receive = receive;
	connection->receive_size = larger;
	return true;
}

static void give_receive_buffer(struct nbd_connection *connection)
{
	if (connection->receive)
		buffer_give(&connection->server->pool, connection->receive, connection->receive_size);
	connection->receive = NULL;
	connection->receive_at = connection->receive_end = 0;
}

/* Where the next bytes go: the rest of a payload first, then the receive buffer. */
static unsigned receive_places(struct nbd_connection *connection, struct iovec places[2])
{
	unsigned count = 0;
	size_t window = connection->receive_size - connection->receive_end;
	struct request *request = connection->payload.request;
	if (request)
		places[count++] = (struct iovec){
			.iov_base = (char *)request->buffer + connection->payload.received,
			.iov_len = request->length - connection->payload.received,
		};
	if ((request || connection->bulk) && window > BULK_WINDOW)
		window = BULK_WINDOW;
	places[count++] = (struct iovec){
		.iov_base = connection->receive + connection->receive_end,
		.iov_len = window,
	};
	return count;
}

static void take_received(struct nbd_connection *connection, size_t length)
{
	struct payload *payload = &connection->payload;
	if (payload->request) {
		size_t missing = payload->request->length - payload->received;
		size_t n = length < missing ? length : missing;
		payload->received += n;
		length -= n;
		connection->received_at = uv_now(connection->server->loop);
	}
	connection->receive_end += length;
	if (payload->skip > 0) {
		size_t n = length < payload->skip ? length : payload->skip;
		payload->skip -= n;
		connection->receive_at += n;
	}
}

enum received { RECEIVED_ALL, RECEIVED_MORE, RECEIVED_NOTHING };

/* Reads once. RECEIVED_ALL: there was no more at that time. May close the connection. */
static enum received receive(struct nbd_connection *connection)
{
	if (!make_room(connection)) {
		connection_close(connection, "out of memory");
		return RECEIVED_NOTHING;
	}
	struct iovec places[2];
	unsigned count = receive_places(connection, places);
	size_t room = 0;
	for (unsigned i = 0; i < count; i++)
		room += places[i].iov_len;
	ssize_t n = take_bytes(connection, places, count);
	if (n > 0) {
		take_received(connection, (size_t)n);
		return (size_t)n < room ? RECEIVED_ALL : RECEIVED_MORE;
	}
	if (n == 0)
		connection->end_of_input = true;
	else if (n != -EAGAIN && n != -EINTR)
		close_broken(connection, (int)n);
	return RECEIVED_NOTHING;
}

/* Turns */

static void understand(struct nbd_connection *connection)
{
	connection->wants_more = connection->waits_for_output = false;
	if (connection->payload.request) {
		if (connection->payload.received < connection->payload.request->length) {
			connection->wants_more = true;
			return;
		}
		transmission_payload_received(connection);
	}
	if (connection->payload.skip > 0) {
		connection->wants_more = true;
		return;
	}
	switch (connection->phase) {
	case PHASE_GREETING:
	case PHASE_OPTIONS:
	case PHASE_STARTTLS:
		handshake_continue(connection);
		break;
	case PHASE_TRANSMISSION:
		transmission_continue(connection);
		break;
	case PHASE_LAST_REPLIES:
	case PHASE_CLOSED:
		break;
	}
}

static bool takes_input(const struct nbd_connection *connection)
{
	return connection->phase < PHASE_LAST_REPLIES && connection->wants_more &&
		!connection->end_of_input;
}

static void on_in(uv_poll_t *handle, int status, int events);
static void on_out(uv_poll_t *handle, int status, int events);

/* What the socket does not tell of. True if the next turn comes without an event of the socket. */
static bool watch_tls(struct nbd_connection *connection)
{
	if (nbd_tls_wants_to_send(connection->tls))
		connection->output_blocked = true;
	if (!takes_input(connection) || !nbd_tls_has_received(connection->tls))
		return false;
	server_wake(connection);
	return true;
}

/* Tells libuv what to wait for; only changes cost a system call. */
static void watch(struct nbd_connection *connection)
{
	if (!list_empty(&connection->wake_link))
		return; /* the next turn comes anyway */
	if (__builtin_expect(connection->tls != NULL, 0) && watch_tls(connection))
		return;
	int events = UV_DISCONNECT;
	if (takes_input(connection))
		events |= UV_READABLE;
	if (connection->output_blocked && !connection->has_out)
		events |= UV_WRITABLE;
	if (connection->has_out && events == UV_DISCONNECT)
		events = 0; /* a pipe reports the end of its writer while there is still input */
	if (events != connection->watched) {
		connection->watched = events;
		if (events)
			uv_poll_start(&connection->in, events, on_in);
		else
			uv_poll_stop(&connection->in);
	}
	if (connection->has_out && connection->out_watched != connection->output_blocked) {
		connection->out_watched = connection->output_blocked;
		if (connection->out_watched)
			uv_poll_start(&connection->out, UV_WRITABLE, on_out);
		else
			uv_poll_stop(&connection->out);
	}
}

/* The end of a turn: is this the end of the connection, or is there more to do at once? */
static void close_if_finished(struct nbd_connection *connection)
{
	if (connection->end_of_input && connection->phase != PHASE_LAST_REPLIES)
		connection_finish(connection);
	bool all_answered = connection->request_count == 0 && connection->out_end == 0;
	bool nobody_listens = connection->end_of_input && !connection->has_out;
	if (connection->phase == PHASE_LAST_REPLIES &&
		(nobody_listens || (all_answered && !server_keeps(connection))))
		connection_close(connection, NULL);
	else if (connection->waits_for_output && connection->out_end == 0)
		server_wake(connection);
}

/* Understands what there is, and reads while there is more. */
static void take_input(struct nbd_connection *connection)
{
	enum received received = RECEIVED_MORE;
	for (unsigned reads = 0;; reads++) {
		understand(connection);
		if (!takes_input(connection) || received != RECEIVED_MORE || reads == READS_PER_TURN)
			return;
		received = receive(connection);
		if (received == RECEIVED_NOTHING)
			return;
	}
}

/* Has more come while the replies were made? Reading it now costs less than another turn of the loop, looking
 * for it in vain more than nothing. So the past decides: each round that found something raises the eagerness, each
 * that did not lowers it, and several requests in the first round of a turn, which is what a deep queue looks like,
 * give it a new chance. A client that waits for each reply is never looked for here. */
static void learn_from_round(struct nbd_connection *connection, bool is_first)
{
	if (is_first && connection->round_requests > 1 && connection->eagerness == 0)
		connection->eagerness = 1;
	else if (!is_first && connection->round_requests > 0 && connection->eagerness < EAGERNESS_MAX)
		connection->eagerness++;
	else if (!is_first && connection->round_requests == 0)
		connection->eagerness--;
}

static bool goes_on(struct nbd_connection *connection)
{
	return connection->phase == PHASE_TRANSMISSION && connection->request_count == 0 &&
		connection->round_requests > 0 && connection->eagerness > 0 &&
		connection->turn_requests < REQUESTS_PER_TURN && takes_input(connection);
}

void connection_turn(struct nbd_connection *connection)
{
	connection->in_turn = true;
	bool had_requests = connection->request_count > 0;
	connection->turn_requests = 0;
	if (!list_empty(&connection->replies) && !connection->output_blocked) {
		/* what the client waits for leaves first */
		transmission_count_answers(connection);
		send_replies(connection);
	}
	for (bool is_first = true; is_first || goes_on(connection); is_first = false) {
		connection->round_requests = 0;
		take_input(connection);
		had_requests = had_requests || connection->request_count > 0;
		transmission_count_answers(connection);
		if (connection->phase != PHASE_CLOSED)
			send_replies(connection);
		learn_from_round(connection, is_first);
	}
	if (connection->phase != PHASE_CLOSED)
		close_if_finished(connection);
	bool is_lone = connection->lone_requests >= LONE_MIN;
	if (is_lone && had_requests && connection->request_count == 0)
		server_expect_request(connection->server);
	else if (is_lone && connection->request_count == 1)
		server_expect_answer(connection->server);
	else if (connection->request_count > 0)
		server_expect_answers(connection->server);
	connection->in_turn = false;
	if (connection->phase == PHASE_CLOSED)
		release(connection);
	else
		watch(connection);
}

/* The peer has hung up, or closed its sending side as libnbd does behind DISC. Nothing that is still
 * unread will be executed, but closing a socket with unread input would look like an error to it. */
static void hang_up(struct nbd_connection *connection)
{
	char unread[4096];
	if (connection->tls && nbd_tls_is_beginning(connection->tls)) { /* its last word says what it does not like */
		ssize_t status = nbd_tls_receive(connection->tls, NULL, 0);
		close_broken(connection, status == -EAGAIN ? 0 : (int)status);
		return;
	}
	for (unsigned i = 0; i < HANG_UP_READS; i++) {
		if (read(connection->in_fd, unread, sizeof unread) <= 0)
			break;
	}
	connection_close(connection, NULL);
}

/* For turns that no event of the socket began, or one from before the turn of somebody else. */
static bool peer_has_hung_up(const struct nbd_connection *connection)
{
	struct pollfd fd = { .fd = connection->in_fd, .events = POLLRDHUP };
	return poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void connection_resume(struct nbd_connection *connection)
{
	if (!connection->has_out && peer_has_hung_up(connection))
		hang_up(connection);
	else
		connection_turn(connection);
}

static void on_in(uv_poll_t *handle, int status, int events)
{
	struct nbd_connection *connection = handle->data;
	struct nbd_server *server = connection->server;
	server_active(server);
	bool has_hung_up = status < 0 || (events & UV_DISCONNECT) ||
		(server->events_are_old && peer_has_hung_up(connection));
	server->events_are_old = true;
	if (!connection->has_out && has_hung_up)
		hang_up(connection);
	else
		connection_turn(connection);
}

static void on_out(uv_poll_t *handle, int status, int events)
{
	(void)status;
	(void)events;
	connection_turn(handle->data);
}

/* Life */

static void on_handle_closed(uv_handle_t *handle)
{
	struct nbd_connection *connection = handle->data;
	connection->open_handles--;
	release(connection);
}

static void close_handle(uv_poll_t *handle)
{
	uv_poll_stop(handle);
	uv_close((uv_handle_t *)handle, on_handle_closed);
}

/* Frees what is closed once nothing needs it any more. */
static void release(struct nbd_connection *connection)
{
	if (connection->open_handles > 0 || connection->request_count > 0 || connection->in_turn)
		return;
	free(connection->out_bytes);
	server_connection_gone(connection);
	free(connection);
}

void connection_close(struct nbd_connection *connection, const char *why, ...)
{
	if (connection->phase == PHASE_CLOSED)
		return;
	if (why) {
		char text[300];
		va_list args;
		va_start(args, why);
		vsnprintf(text, sizeof text, why, args);
		va_end(args);
		log_peer("%s%sclient %s: %s: dropped", connection->export ? connection->export->name : "",
			connection->export ? ": " : "", connection->peer, text);
	}
	connection->phase = PHASE_CLOSED;
	server_connection_moved(connection);
	budget_stop_waiting(&connection->share);
	list_remove(&connection->wake_link);
	list_remove(&connection->limit_link);
	nbd_tls_close(connection->tls);
	connection->tls = NULL;
	close_handle(&connection->in);
	if (connection->has_out) {
		close_handle(&connection->out);
		close(connection->out_fd);
	}
	close(connection->in_fd);

	/* Each release may be the last one; the count keeps the connection until the end of this. */
	connection->request_count++;
	transmission_count_answers(connection);
	give_receive_buffer(connection);
	if (connection->payload.request)
		connection_release_request(take_pointer(&connection->payload.request));
	while (!list_empty(&connection->replies))
		connection_release_request(LIST_FIRST(&connection->replies, struct request, link));
	struct request *request, *following;
	LIST_FOR_EACH_SAFE(request, following, &connection->requests, link)
		export_abandon(&request->work);
	connection->request_count--;
	release(connection);
}

void connection_finish(struct nbd_connection *connection)
{
	connection->phase = PHASE_LAST_REPLIES;
	budget_stop_waiting(&connection->share);
	if (connection->payload.request) /* its rest will not be received */
		connection_release_request(take_pointer(&connection->payload.request));
	if (!connection->in_turn)
		server_wake(connection);
}

void connection_rest(struct nbd_connection *connection)
{
	bool is_busy = connection->receive_end > connection->receive_at || connection->in_turn;
	if (!is_busy)
		give_receive_buffer(connection);
}

void connection_enter_transmission(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	connection->phase = PHASE_TRANSMISSION;
	server_connection_moved(connection);
	size_t held = connection->receive_end - connection->receive_at;
	uint8_t *receive = buffer_take(&server->pool, RECEIVE_SIZE);
	if (!receive) {
		connection_close(connection, "out of memory");
		return;
	}
	memcpy(receive, connection->receive + connection->receive_at, held);
	give_receive_buffer(connection);
	connection->receive = receive;
	connection->receive_size = RECEIVE_SIZE;
	connection->receive_end = held;
}

void connection_start_tls(struct nbd_connection *connection)
{
	connection->tls = nbd_tls_open(connection->server->credentials, connection->in_fd);
	if (!connection->tls)
		connection_close(connection, "out of memory");
}

static int open_handles(struct nbd_connection *connection)
{
	uv_loop_t *loop = connection->server->loop;
	connection->in.data = connection->out.data = connection;
	int status = uv_poll_init(loop, &connection->in, connection->in_fd);
	if (status < 0)
		return status;
	connection->open_handles++;
	if (connection->in_fd == connection->out_fd)
		return 0;
	connection->has_out = true;
	status = uv_poll_init(loop, &connection->out, connection->out_fd);
	if (status == 0)
		connection->open_handles++;
	return status;
}

int connection_open(struct nbd_server *server, int in_fd, int out_fd, const char *peer, bool needs_tls,
	struct nbd_connection **out)
{
	struct nbd_connection *connection = calloc(1, sizeof *connection);
	if (!connection)
		return -ENOMEM;
	connection->server = server;
	connection->in_fd = in_fd;
	connection->out_fd = out_fd;
	connection->needs_tls = needs_tls;
	connection->receive_size = HANDSHAKE_RECEIVE_SIZE;
	connection->id = ++server->next_id;
	snprintf(connection->peer, sizeof connection->peer, "%s", peer);
	list_init(&connection->link);
	list_init(&connection->export_link);
	list_init(&connection->wake_link);
	list_init(&connection->limit_link);
	list_init(&connection->requests);
	list_init(&connection->replies);
	share_init(&connection->share);
	int status = open_handles(connection);
	if (status < 0) {
		if (connection->open_handles == 0) {
			free(connection);
			return status;
		}
		/* the first handle is open; closing it frees the connection, for which the server waits */
		connection->phase = PHASE_CLOSED;
		server_connection_moved(connection);
		close_handle(&connection->in);
		return status;
	}
	*out = connection;
	handshake_begin(connection);
	server_connection_moved(connection);
	connection_turn(connection);
	return 0;
}
