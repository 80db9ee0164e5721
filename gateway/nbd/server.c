/* server.c: listeners, the set of clients, memory shared by them, and the orderly stop.
 *
 * Every client is in one of three lists: handshakes (oldest first, so that one timer is enough for
 * all their deadlines), connections, closing. When too many are in the handshake the oldest goes:
 * an honest client needs milliseconds, and newcomers must not be locked out by silent ones.
 */
#include "nbd/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "nbd/server-internal.h"

enum {
	ACCEPTS_PER_TURN = 16,
	SEND_BUFFER = 1 << 20,
	STALL_CHECK_MS = 1000,
	IDLE_MS = 2000,
	ANSWER_TIMES = 4, /* a backend over the network takes longer than a client between two requests */
};

struct listener {
	struct nbd_server *server;
	struct list link;
	uv_poll_t poll;
	int fd;
	bool is_unix;
};

struct drain {
	uv_timer_t timer;
	void (*done)(void *context, int error);
	void *context;
	int error;
	unsigned flushing;
	bool is_late; /* the clients have been dropped */
	enum { DRAIN_REQUESTS, DRAIN_FLUSHES, DRAIN_ENDED } stage;
};

/* Waking */

static void on_turn(uv_check_t *check);
static void on_busy(uv_idle_t *idle)
{
	(void)idle; /* its being active is what keeps the loop from waiting */
	sched_yield(); /* the client may be what waits for this processor */
}

void server_wake(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	if (!list_empty(&connection->wake_link) || connection->phase == PHASE_CLOSED)
		return;
	if (list_empty(&server->awake))
		uv_idle_start(&server->busy, on_busy);
	list_append(&server->awake, &connection->wake_link);
}

/* Is there one that goes on? Each has to hear of the time, or it never ends. */
static bool looks(struct nbd_server *server)
{
	struct busy_poll *polls[] = { &server->request_poll, &server->answer_poll, &server->answers_poll };
	uint64_t now = 0;
	bool goes_on = false;
	for (unsigned i = 0; i < sizeof polls / sizeof *polls; i++) {
		if (!polls[i]->since)
			continue;
		now = now ? now : uv_hrtime();
		goes_on |= busy_poll_goes_on(polls[i], now);
	}
	return goes_on;
}

static void end_look(struct busy_poll *poll)
{
	if (poll->since)
		busy_poll_end(poll, uv_hrtime());
}

static void on_turn(uv_check_t *check)
{
	struct nbd_server *server = check->data;
	server->events_are_old = false; /* those to come will be of the next look */
	if (uv_is_active((uv_handle_t *)&server->busy) && !looks(server))
		uv_idle_stop(&server->busy); /* also when those that were awake have been closed */
	struct list now;
	list_init(&now);
	list_splice(&now, &server->awake);
	while (!list_empty(&now)) {
		struct nbd_connection *connection = LIST_FIRST(&now, struct nbd_connection, wake_link);
		list_remove(&connection->wake_link);
		connection_resume(connection);
	}
}

void server_wake_export(struct nbd_export *export)
{
	struct nbd_connection *connection;
	LIST_FOR_EACH(connection, &export->connections, export_link)
		server_wake(connection);
}

void server_wake_handshakes(struct nbd_server *server)
{
	struct nbd_connection *connection;
	LIST_FOR_EACH(connection, &server->handshakes, link)
		server_wake(connection);
}

void server_wake_for_memory(struct nbd_server *server)
{
	struct share *share;
	while ((share = budget_next_ready(&server->budget)))
		server_wake(container_of(share, struct nbd_connection, share));
}

/* Time */

static void on_handshake_timer(uv_timer_t *timer);
static void on_idle_timer(uv_timer_t *timer);

static void start_handshake_timer(struct nbd_server *server)
{
	if (list_empty(&server->handshakes)) {
		uv_timer_stop(&server->handshake_timer);
		return;
	}
	const struct nbd_connection *oldest =
		LIST_FIRST(&server->handshakes, struct nbd_connection, link);
	uint64_t now = uv_now(server->loop);
	uv_timer_start(&server->handshake_timer, on_handshake_timer,
		oldest->deadline > now ? oldest->deadline - now : 0, 0);
}

/* A client that waits for an export that is still starting is not to blame. */
static bool waits_for_export(const struct nbd_connection *connection)
{
	return connection->phase == PHASE_OPTIONS && !connection->wants_more &&
		!connection->waits_for_output;
}

static void on_handshake_timer(uv_timer_t *timer)
{
	struct nbd_server *server = timer->data;
	uint64_t now = uv_now(server->loop);
	while (!list_empty(&server->handshakes)) {
		struct nbd_connection *oldest =
			LIST_FIRST(&server->handshakes, struct nbd_connection, link);
		if (oldest->deadline > now)
			break;
		if (waits_for_export(oldest)) {
			oldest->deadline = now + server->limits.handshake_timeout;
			list_remove(&oldest->link);
			list_append(&server->handshakes, &oldest->link);
		} else {
			connection_close(oldest, "no export chosen within %llu s",
				(unsigned long long)server->limits.handshake_timeout / 1000);
		}
	}
	start_handshake_timer(server);
}

static void on_stall_timer(uv_timer_t *timer)
{
	struct nbd_server *server = timer->data;
	uint64_t now = uv_now(server->loop);
	if (list_empty(&server->budget.queue)) {
		uv_timer_stop(timer);
		return;
	}
	struct nbd_connection *connection, *following;
	uint64_t limit = server->limits.stall_timeout;
	LIST_FOR_EACH_SAFE(connection, following, &server->connections, link)
	{
		if (connection->output_blocked && now - connection->sent_at > limit)
			connection_close(connection, "takes no replies for %llu s while memory is short",
				(unsigned long long)limit / 1000);
		else if (connection->payload.request && now - connection->received_at > limit)
			connection_close(connection, "sends no payload for %llu s while memory is short",
				(unsigned long long)limit / 1000);
	}
}

void server_memory_short(struct nbd_server *server)
{
	if (!uv_is_active((uv_handle_t *)&server->stall_timer))
		uv_timer_start(&server->stall_timer, on_stall_timer, STALL_CHECK_MS, STALL_CHECK_MS);
}

static void give_spare_memory(struct nbd_server *server)
{
	buffer_pool_trim(&server->pool);
	while (!list_empty(&server->free_requests)) {
		struct request *request = LIST_FIRST(&server->free_requests, struct request, link);
		list_remove(&request->link);
		free(request);
	}
	server->free_request_count = 0;
}

static void on_idle_timer(uv_timer_t *timer)
{
	struct nbd_server *server = timer->data;
	if (server->was_active) {
		server->was_active = false;
		uv_timer_start(timer, on_idle_timer, IDLE_MS, 0);
		return;
	}
	struct nbd_connection *connection;
	LIST_FOR_EACH(connection, &server->connections, link)
		connection_rest(connection);
	give_spare_memory(server);
}

void server_active(struct nbd_server *server)
{
	server->was_active = true;
	end_look(&server->request_poll);
	if (!uv_is_active((uv_handle_t *)&server->idle_timer))
		uv_timer_start(&server->idle_timer, on_idle_timer, IDLE_MS, 0);
}

static void look_for(struct nbd_server *server, struct busy_poll *poll, uint64_t now)
{
	busy_poll_begin(poll, now);
	if (poll->is_worthwhile)
		uv_idle_start(&server->busy, on_busy);
}

void server_expect_request(struct nbd_server *server)
{
	uint64_t now = uv_hrtime();
	if (server->answer_poll.since)
		busy_poll_end(&server->answer_poll, now);
	look_for(server, &server->request_poll, now);
}

void server_expect_answer(struct nbd_server *server)
{
	if (!server->answer_poll.since)
		look_for(server, &server->answer_poll, uv_hrtime());
}

void server_expect_answers(struct nbd_server *server)
{
	uint64_t now = uv_hrtime();
	if (server->answers_poll.since)
		busy_poll_end(&server->answers_poll, now);
	look_for(server, &server->answers_poll, now);
}

/* The set of clients */

static void check_drain(struct nbd_server *server);
static void maybe_closed(struct nbd_server *server);

void server_connection_moved(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	bool was_handshake = connection->counted_as == COUNTED_HANDSHAKE;
	if (was_handshake)
		server->handshake_count--;
	if (connection->counted_as == COUNTED_CONNECTION) {
		server->connection_count--;
		connection->export->connection_count--;
	}
	list_remove(&connection->link);
	list_remove(&connection->export_link);
	switch (connection->phase) {
	case PHASE_GREETING:
	case PHASE_OPTIONS:
	case PHASE_STARTTLS:
		connection->counted_as = COUNTED_HANDSHAKE;
		connection->deadline = uv_now(server->loop) + server->limits.handshake_timeout;
		list_append(&server->handshakes, &connection->link);
		server->handshake_count++;
		break;
	case PHASE_TRANSMISSION:
		connection->counted_as = COUNTED_CONNECTION;
		list_append(&server->connections, &connection->link);
		list_append(&connection->export->connections, &connection->export_link);
		server->connection_count++;
		connection->export->connection_count++;
		break;
	case PHASE_LAST_REPLIES:
	case PHASE_CLOSED:
		connection->counted_as = COUNTED_NOT;
		list_append(&server->closing, &connection->link);
		break;
	}
	if (was_handshake || connection->counted_as == COUNTED_HANDSHAKE)
		start_handshake_timer(server);
}

void server_connection_gone(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	list_remove(&connection->link);
	if (connection->ended)
		connection->ended(connection->ended_context);
	check_drain(server);
	maybe_closed(server);
}

bool server_is_full(const struct nbd_server *server)
{
	return server->connection_count >= server->limits.max_connections;
}

bool server_shows_export(const struct nbd_connection *connection, const struct nbd_export *export)
{
	return !connection->tls || !export->tls_names || nbd_tls_peer_is(connection->tls, export->tls_names);
}

struct nbd_export *server_find_export(const struct nbd_connection *connection, const char *name)
{
	bool has_default = !connection->tls; /* over the network a volume is named */
	struct nbd_export *export;
	LIST_FOR_EACH(export, &connection->server->exports, link)
	{
		bool is_it = strcmp(export->name, name) == 0 || (name[0] == '\0' && export->is_default && has_default);
		if (is_it && export->state != EXPORT_LEAVING)
			return server_shows_export(connection, export) ? export : NULL;
	}
	return NULL;
}

/* Accepting */

static bool user_is_allowed(const struct nbd_server *server, uid_t user)
{
	if (user == 0 || user == geteuid())
		return true;
	for (size_t i = 0; i < server->limits.allowed_user_count; i++) {
		if (server->limits.allowed_users[i] == user)
			return true;
	}
	return false;
}

/* Who the peer is, for logs. False if it may not connect. */
static bool identify(const struct listener *listener, int fd, char *peer, size_t size)
{
	if (listener->is_unix) {
		struct ucred peer_process;
		socklen_t length = sizeof peer_process;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer_process, &length) < 0)
			return false;
		snprintf(peer, size, "pid %d uid %u", peer_process.pid, peer_process.uid);
		return user_is_allowed(listener->server, peer_process.uid);
	}
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof address;
	char text[INET6_ADDRSTRLEN] = "?";
	if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
		return false;
	if (address.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
		inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
		snprintf(peer, size, "%s:%u", text, ntohs(in->sin_port));
	} else {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
		snprintf(peer, size, "[%s]:%u", text, ntohs(in6->sin6_port));
	}
	return true;
}

static void tune(const struct listener *listener, int fd)
{
	int on = 1, size = SEND_BUFFER;
	if (listener->is_unix) {
		/* the usual 208 KiB hold a fifth of a 1 MiB read */
		if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
			setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	} else {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	}
}

static void admit(const struct listener *listener, int fd)
{
	struct nbd_server *server = listener->server;
	char peer[64] = "?";
	struct nbd_connection *connection;
	if (!identify(listener, fd, peer, sizeof peer)) {
		server->refused++;
		log_peer("client %s: not allowed to connect: refused", peer);
		close(fd);
		return;
	}
	if (server->handshake_count >= server->limits.max_handshakes) {
		server->refused++;
		connection_close(LIST_FIRST(&server->handshakes, struct nbd_connection, link),
			"the oldest of %u in the handshake", server->handshake_count);
	}
	tune(listener, fd);
	server->accepted++;
	server_active(server);
	bool needs_tls = server->credentials && !listener->is_unix;
	int status = connection_open(server, fd, fd, peer, needs_tls, &connection);
	if (status < 0) {
		log_peer("client %s: %s: refused", peer, strerror(-status));
		close(fd);
	}
}

/* There are no descriptors: whoever waits takes the place of the oldest in the handshake, who has
 * shown least, or is refused. Without that the loop would spin on the listening socket. */
static bool accept_without_descriptors(const struct listener *listener)
{
	struct nbd_server *server = listener->server;
	close(server->spare_fd);
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0 && !list_empty(&server->handshakes)) {
		connection_close(LIST_FIRST(&server->handshakes, struct nbd_connection, link),
			"no descriptors are left");
		server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		admit(listener, fd);
		return true;
	}
	if (fd >= 0) {
		log_peer("a client is refused: no descriptors are left");
		server->refused++;
		close(fd);
	}
	server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return fd >= 0;
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	struct listener *listener = poll->data;
	for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(listener, fd);
		else if ((errno != EMFILE && errno != ENFILE) || !accept_without_descriptors(listener))
			return;
	}
}

void nbd_server_secure(struct nbd_server *server, struct nbd_credentials *credentials)
{
	nbd_credentials_drop(server->credentials);
	server->credentials = credentials;
}

int nbd_server_listen(struct nbd_server *server, int fd, struct reason *reason)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof address;
	int listens = 0, type = 0;
	socklen_t int_length = sizeof(int);
	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_length) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &int_length) < 0 || !listens ||
		type != SOCK_STREAM || (address.ss_family != AF_UNIX && address.ss_family != AF_INET &&
			address.ss_family != AF_INET6))
		return reason_set(reason, -EINVAL, "descriptor %d is no listening stream socket", fd);
	struct listener *listener = calloc(1, sizeof *listener);
	if (!listener)
		return reason_set(reason, -ENOMEM, "out of memory");
	listener->server = server;
	listener->fd = fd;
	listener->is_unix = address.ss_family == AF_UNIX;
	listener->poll.data = listener;
	int status = uv_poll_init(server->loop, &listener->poll, fd);
	if (status < 0) {
		free(listener);
		return reason_set(reason, status, "descriptor %d: %s", fd, uv_strerror(status));
	}
	server->open_handles++;
	list_append(&server->listeners, &listener->link);
	uv_poll_start(&listener->poll, UV_READABLE, on_acceptable);
	return 0;
}

int nbd_server_serve(struct nbd_server *server, int in_fd, int out_fd, void (*ended)(void *context),
	void *context, struct reason *reason)
{
	struct nbd_connection *connection;
	server->accepted++;
	server_active(server);
	int status = connection_open(server, in_fd, out_fd, "on standard input", false, &connection);
	if (status == -EPERM) /* of epoll */
		return reason_set(reason, -EINVAL, "standard input and output must be sockets or pipes");
	if (status < 0)
		return reason_set(reason, status, "standard input: %s", uv_strerror(status));
	connection->ended = ended;
	connection->ended_context = context;
	return 0;
}

/* Ending */

static void maybe_closed(struct nbd_server *server)
{
	if (!server->is_closing || server->open_handles > 0 || !list_empty(&server->closing))
		return;
	give_spare_memory(server);
	trace_free(&server->trace);
	void (*closed)(void *) = server->closed;
	void *context = server->closed_context;
	free((void *)server->limits.allowed_users);
	nbd_credentials_drop(server->credentials);
	free(server->drain);
	if (server->spare_fd >= 0)
		close(server->spare_fd);
	free(server);
	closed(context);
}

static void on_server_handle_closed(uv_handle_t *handle)
{
	struct nbd_server *server = handle->data;
	server->open_handles--;
	maybe_closed(server);
}

static void on_listener_closed(uv_handle_t *handle)
{
	struct listener *listener = handle->data;
	struct nbd_server *server = listener->server;
	free(listener);
	server->open_handles--;
	maybe_closed(server);
}

static void stop_listening(struct nbd_server *server)
{
	while (!list_empty(&server->listeners)) {
		struct listener *listener = LIST_FIRST(&server->listeners, struct listener, link);
		list_remove(&listener->link);
		uv_poll_stop(&listener->poll);
		close(listener->fd);
		uv_close((uv_handle_t *)&listener->poll, on_listener_closed);
	}
}

static void close_all(struct list *connections)
{
	while (!list_empty(connections))
		connection_close(LIST_FIRST(connections, struct nbd_connection, link), NULL);
}

static void end_drain(struct nbd_server *server, int error)
{
	struct drain *drain = server->drain;
	drain->stage = DRAIN_ENDED;
	uv_timer_stop(&drain->timer);
	close_all(&server->connections);
	drain->done(drain->context, error);
}

static void on_drain_flushed(struct export_request *flush, int error)
{
	struct nbd_server *server = flush->export->server;
	struct drain *drain = server->drain;
	free(flush);
	if (error)
		drain->error = error;
	if (--drain->flushing == 0 && drain->stage == DRAIN_FLUSHES)
		end_drain(server, drain->error);
}

static void flush_export(struct nbd_server *server, struct nbd_export *export)
{
	struct export_request *flush = calloc(1, sizeof *flush);
	if (!flush) {
		server->drain->error = -ENOMEM;
		return;
	}
	flush->io.operation = BACKEND_FLUSH;
	flush->finished = on_drain_flushed;
	server->drain->flushing++;
	export_submit(export, flush);
}

static bool all_answered(const struct list *connections)
{
	const struct nbd_connection *connection;
	LIST_FOR_EACH(connection, connections, link)
	{
		if (connection->request_count > 0)
			return false;
	}
	return true;
}

static void check_drain(struct nbd_server *server)
{
	struct drain *drain = server->drain;
	if (!drain || drain->stage != DRAIN_REQUESTS || !all_answered(&server->connections) ||
		!all_answered(&server->closing))
		return;
	drain->stage = DRAIN_FLUSHES;
	drain->flushing = 1; /* so that flushes that end at once do not end it too early */
	struct nbd_export *export;
	LIST_FOR_EACH(export, &server->exports, link)
	{
		if (export->state == EXPORT_SERVING)
			flush_export(server, export);
	}
	if (--drain->flushing == 0)
		end_drain(server, drain->error);
}

bool server_keeps(struct nbd_connection *connection)
{
	struct nbd_server *server = connection->server;
	if (!server->drain || server->drain->stage == DRAIN_ENDED)
		return false;
	check_drain(server);
	return true; /* check_drain() may have closed it, or will */
}

static void on_drain_timeout(uv_timer_t *timer)
{
	struct nbd_server *server = timer->data;
	struct drain *drain = server->drain;
	if (drain->stage == DRAIN_REQUESTS && !drain->is_late) {
		/* What waits only for its client to take the reply is done: the volumes can be left in order. */
		drain->is_late = true;
		close_all(&server->connections);
		check_drain(server);
		if (drain->stage != DRAIN_REQUESTS)
			return;
	}
	log_error("requests are still in flight after %llu s: their clients are dropped unanswered",
		(unsigned long long)uv_timer_get_repeat(timer) / 1000);
	end_drain(server, -ETIMEDOUT);
}

void nbd_server_drain(struct nbd_server *server, uint64_t timeout,
	void (*done)(void *context, int error), void *context)
{
	stop_listening(server);
	struct drain *drain = calloc(1, sizeof *drain);
	if (!drain) {
		done(context, -ENOMEM);
		return;
	}
	server->drain = drain;
	drain->done = done;
	drain->context = context;
	drain->timer.data = server;
	uv_timer_init(server->loop, &drain->timer);
	server->open_handles++;
	uv_timer_start(&drain->timer, on_drain_timeout, timeout, timeout);
	close_all(&server->handshakes);
	struct nbd_connection *connection;
	LIST_FOR_EACH(connection, &server->connections, link)
		connection_finish(connection);
	check_drain(server);
}

/* Life */

int nbd_server_open(
	uv_loop_t *loop, const struct nbd_limits *limits, struct nbd_server **out, struct reason *reason)
{
	struct nbd_server *server = calloc(1, sizeof *server);
	uid_t *users = calloc(limits->allowed_user_count + 1, sizeof *users);
	if (!server || !users) {
		free(server);
		free(users);
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	server->loop = loop;
	server->limits = *limits;
	for (size_t i = 0; i < limits->allowed_user_count; i++)
		users[i] = limits->allowed_users[i];
	server->limits.allowed_users = users;
	server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	list_init(&server->exports);
	list_init(&server->listeners);
	list_init(&server->handshakes);
	list_init(&server->connections);
	list_init(&server->closing);
	list_init(&server->free_requests);
	list_init(&server->awake);
	list_init(&server->limited);
	budget_init(&server->budget, limits->memory, limits->connection_memory);
	server->pool.limit = limits->memory;
	server->request_poll.limit = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? limits->busy_poll : 0;
	server->answer_poll.limit = ANSWER_TIMES * server->request_poll.limit;
	server->answers_poll.limit = server->request_poll.limit;
	budget_reserve(&server->budget, limits->max_connections);
	uv_check_init(loop, &server->turn);
	uv_idle_init(loop, &server->busy);
	uv_timer_init(loop, &server->handshake_timer);
	uv_timer_init(loop, &server->stall_timer);
	uv_timer_init(loop, &server->idle_timer);
	uv_timer_init(loop, &server->limit_timer);
	server->turn.data = server->busy.data = server;
	server->handshake_timer.data = server->stall_timer.data = server;
	server->idle_timer.data = server->limit_timer.data = server;
	server->open_handles = 6;
	uv_check_start(&server->turn, on_turn);
	*out = server;
	return 0;
}

void nbd_server_close(struct nbd_server *server, void (*closed)(void *context), void *context)
{
	server->is_closing = true;
	server->closed = closed;
	server->closed_context = context;
	stop_listening(server);
	close_all(&server->handshakes);
	close_all(&server->connections);
	uv_close((uv_handle_t *)&server->turn, on_server_handle_closed);
	uv_close((uv_handle_t *)&server->busy, on_server_handle_closed);
	uv_close((uv_handle_t *)&server->handshake_timer, on_server_handle_closed);
	uv_close((uv_handle_t *)&server->stall_timer, on_server_handle_closed);
	uv_close((uv_handle_t *)&server->idle_timer, on_server_handle_closed);
	uv_close((uv_handle_t *)&server->limit_timer, on_server_handle_closed);
	if (server->drain)
		uv_close((uv_handle_t *)&server->drain->timer, on_server_handle_closed);
}

const struct trace *nbd_server_trace(const struct nbd_server *server)
{
	return &server->trace;
}

void nbd_server_status(const struct nbd_server *server, struct nbd_server_status *status)
{
	*status = (struct nbd_server_status){
		.handshakes = server->handshake_count,
		.connections = server->connection_count,
		.accepted = server->accepted,
		.refused = server->refused,
		.memory_used = server->budget.used,
		.memory = server->budget.total,
	};
}

void nbd_server_each_client(const struct nbd_server *server,
	void (*see)(void *context, const struct nbd_client_status *client), void *context)
{
	const struct nbd_connection *connection;
	LIST_FOR_EACH(connection, &server->connections, link)
	{
		const struct nbd_client_status client = {
			.peer = connection->peer,
			.export = connection->export,
			.tls = connection->tls,
		};
		see(context, &client);
	}
}
