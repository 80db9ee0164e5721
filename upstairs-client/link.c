#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	RECEIVE_MIN = 256 << 10,
	FRAME_LIMIT = 32 << 20, /* of an answer; the longest honest one is the versions of many extents */
	SEND_PARTS = 256,
	HEADS_MAX = 64 << 20, /* queued; data lies in the history, which is bounded, too */
	CONNECT_TIMEOUT_MS = 10000,
	/* of writes that may wait for others: at most so long, so many, so much */
	GATHER_MS = 1,
	GATHER_COUNT = 8,
	GATHER_BYTES = 256 << 10,
	RECEIVE_PER_TURN = 2 << 20,
};

/* A frame that waits to be sent: head bytes in `heads`, data elsewhere. */
struct outgoing {
	size_t head_at, head_length;
	const uint8_t *data;
	size_t data_length;
};

struct link {
	struct link_user user;
	uv_poll_t poll;
	uv_timer_t timer;     /* of the connect, then of what may wait for others */
	unsigned open_handles;
	int fd, events, connect_error;
	const struct tls_identity *identity; /* NULL: no TLS */
	struct tls *tls;                     /* once TCP is connected */
	bool is_connected, is_closed;
	bool is_blocked, is_broken; /* for sending */

	uint8_t *heads;
	size_t heads_used, heads_room;
	struct outgoing *queue;
	size_t queue_at, queue_end, queue_room;
	size_t sent_of_first; /* bytes of queue[queue_at] */
	bool is_urgent;       /* not all that is queued may wait */
	size_t gathered;      /* bytes of that */

	uint8_t *received;
	size_t received_at, received_end, received_room;
};

static void fail(struct link *link, const char *why)
{
	struct link_user user = link->user;
	if (link->is_closed)
		return;
	link_close(link);
	user.closed(user.context, user.slot, why);
}

static void on_event(uv_poll_t *poll, int status, int events);

static void watch(struct link *link)
{
	bool wants_to_send = link->is_blocked;
	if (!link->is_connected)
		wants_to_send = !link->tls || tls_wants_to_send(link->tls);
	int events = wants_to_send ? UV_READABLE | UV_WRITABLE : UV_READABLE;
	if (link->is_closed || events == link->events)
		return;
	link->events = events;
	uv_poll_start(&link->poll, events, on_event);
}

/* Sending */

static bool grow(void **memory, size_t *room, size_t needed, size_t each)
{
	if (needed <= *room)
		return true;
	size_t larger = *room ? *room * 2 : 64;
	while (larger < needed)
		larger *= 2;
	void *moved = realloc(*memory, larger * each);
	if (!moved)
		return false;
	*memory = moved;
	*room = larger;
	return true;
}

/* What is sent already makes room for what comes, at the latest when it is half of all. */
static void forget_sent(struct link *link)
{
	size_t count = link->queue_end - link->queue_at;
	size_t heads_at = count ? link->queue[link->queue_at].head_at : link->heads_used;
	if (link->queue_at < count || heads_at < link->heads_used - heads_at || link->queue_at == 0)
		return;
	memmove(link->queue, link->queue + link->queue_at, count * sizeof *link->queue);
	memmove(link->heads, link->heads + heads_at, link->heads_used - heads_at);
	for (size_t i = 0; i < count; i++)
		link->queue[i].head_at -= heads_at;
	link->heads_used -= heads_at;
	link->queue_end = count;
	link->queue_at = 0;
}

/* Most heads are shorter than the room that those before have left. */
static ssize_t append_head(struct link *link, const struct crucible_message *message)
{
	size_t head, frame;
	ssize_t length = -EMSGSIZE;
	if (link->heads)
		length = crucible_encode_head(message, link->heads + link->heads_used, link->heads_room - link->heads_used);
	if (length != -EMSGSIZE)
		return length;
	if (crucible_measure(message, &head, &frame) < 0 || link->heads_used + head > HEADS_MAX ||
		!grow((void **)&link->heads, &link->heads_room, link->heads_used + head, 1))
		return -ENOMEM;
	return crucible_encode_head(message, link->heads + link->heads_used, head);
}

bool link_send(struct link *link, const struct crucible_message *message)
{
	forget_sent(link);
	if (link->is_closed || !grow((void **)&link->queue, &link->queue_room, link->queue_end + 1, sizeof *link->queue))
		return false;
	ssize_t head = append_head(link, message);
	if (head < 0)
		return false;
	bool has_data = message->type == CRUCIBLE_WRITE;
	link->is_urgent = link->is_urgent || !has_data || !link->user.gathers_writes;
	link->gathered += has_data ? message->write.data.length : 0;
	link->queue[link->queue_end++] = (struct outgoing){
		.head_at = link->heads_used,
		.head_length = (size_t)head,
		.data = has_data ? message->write.data.bytes : NULL,
		.data_length = has_data ? message->write.data.length : 0,
	};
	link->heads_used += (size_t)head;
	return true;
}

static unsigned collect(const struct link *link, struct iovec *parts)
{
	unsigned count = 0;
	size_t skip = link->sent_of_first;
	for (size_t i = link->queue_at; i < link->queue_end && count + 2 <= SEND_PARTS; i++) {
		const struct outgoing *frame = &link->queue[i];
		if (skip < frame->head_length)
			parts[count++] = (struct iovec){ link->heads + frame->head_at + skip, frame->head_length - skip };
		skip = skip > frame->head_length ? skip - frame->head_length : 0;
		if (frame->data_length > skip)
			parts[count++] = (struct iovec){ (void *)(uintptr_t)(frame->data + skip), frame->data_length - skip };
		skip = 0;
	}
	return count;
}

static void drop_sent(struct link *link, size_t sent)
{
	link->sent_of_first += sent;
	while (link->queue_at < link->queue_end) {
		const struct outgoing *frame = &link->queue[link->queue_at];
		size_t length = frame->head_length + frame->data_length;
		if (link->sent_of_first < length)
			return;
		link->sent_of_first -= length;
		link->queue_at++;
	}
	link->queue_at = link->queue_end = link->heads_used = 0;
}

/* Returns how many bytes were taken, or a negative errno. */
static ssize_t send_parts(struct link *link, struct iovec *parts, unsigned count)
{
	if (link->tls)
		return tls_send(link->tls, parts, count);
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
	ssize_t n = sendmsg(link->fd, &message, MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

static bool has_to_send(const struct link *link)
{
	return link->queue_at < link->queue_end || (link->tls && tls_has_to_send(link->tls));
}

static void send_queue(struct link *link)
{
	struct iovec parts[SEND_PARTS];
	link->is_urgent = false;
	link->gathered = 0;
	while (has_to_send(link) && !link->is_blocked && !link->is_broken) {
		ssize_t n = send_parts(link, parts, collect(link, parts));
		if (n >= 0)
			drop_sent(link, (size_t)n);
		else if (n == -EAGAIN)
			link->is_blocked = true;
		else if (n != -EINTR)
			link->is_broken = true; /* what can still be read is read, and ends with the error */
	}
	watch(link);
}

static void on_gathered(uv_timer_t *timer)
{
	send_queue(timer->data);
}

static bool may_wait(const struct link *link)
{
	return !link->is_urgent && !link->is_blocked && link->queue_end - link->queue_at < GATHER_COUNT &&
		link->gathered < GATHER_BYTES;
}

void link_flush(struct link *link)
{
	bool is_waiting = uv_is_active((uv_handle_t *)&link->timer);
	if (!link->is_connected || !has_to_send(link))
		return;
	if (!may_wait(link)) {
		uv_timer_stop(&link->timer);
		send_queue(link);
	} else if (!is_waiting) {
		uv_timer_start(&link->timer, on_gathered, GATHER_MS, 0);
	}
}

/* Receiving */

/* Room for the frame that has begun, or for the next bytes. */
static bool make_room(struct link *link, size_t frame)
{
	size_t held = link->received_end - link->received_at;
	if (link->received_at > 0) {
		memmove(link->received, link->received + link->received_at, held);
		link->received_at = 0;
		link->received_end = held;
	}
	if (frame < RECEIVE_MIN)
		frame = RECEIVE_MIN;
	return grow((void **)&link->received, &link->received_room, frame, 1);
}

/* Hands over the frames that are complete. Returns the length of the one that is not, or 0. */
static size_t take_frames(struct link *link)
{
	while (!link->is_closed) {
		struct crucible_message message;
		const uint8_t *bytes = link->received + link->received_at;
		size_t there = link->received_end - link->received_at, length;
		const char *wrong = "sends a frame of an impossible length";
		int status = crucible_frame_length(bytes, there, &length, &wrong);
		if (status == -EAGAIN)
			return 0;
		if (status < 0 || length > FRAME_LIMIT) {
			fail(link, wrong);
			return 0;
		}
		if (there < length)
			return length;
		if (crucible_decode(bytes, length, &message, &wrong) < 0) {
			fail(link, wrong);
			return 0;
		}
		link->received_at += length;
		link->user.received(link->user.context, link->user.slot, &message);
	}
	return 0;
}

/* Returns how many bytes were received, 0 at the end, or a negative errno. */
static ssize_t receive_some(struct link *link, void *buffer, size_t room)
{
	if (link->tls)
		return tls_receive(link->tls, buffer, room);
	ssize_t n = recv(link->fd, buffer, room, 0);
	return n < 0 ? -errno : n;
}

/* The end of the connection. */
static void end(struct link *link, ssize_t error)
{
	if (error == 0)
		fail(link, "closed by the downstairs");
	else
		fail(link, link->tls ? tls_fault(link->tls) : strerror((int)-error));
}

static void receive(struct link *link)
{
	size_t frame = 0, received = 0;
	/* others have their turn, too; but of what TLS has in its hands the socket does not tell again */
	while (!link->is_closed && (received < RECEIVE_PER_TURN || (link->tls && tls_has_received(link->tls)))) {
		if (!make_room(link, frame)) {
			fail(link, "out of memory");
			return;
		}
		size_t room = link->received_room - link->received_end;
		ssize_t n = receive_some(link, link->received + link->received_end, room);
		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0) {
			end(link, n);
			return;
		}
		link->received_end += (size_t)n;
		received += (size_t)n;
		frame = take_frames(link);
		if (!link->tls && (size_t)n < room)
			return;
	}
}

void link_rest(struct link *link)
{
	if (link->received_at == link->received_end) {
		free(link->received);
		link->received = NULL;
		link->received_at = link->received_end = link->received_room = 0;
	}
	if (link->queue_at == link->queue_end) {
		free(link->heads);
		free(link->queue);
		link->heads = NULL;
		link->queue = NULL;
		link->heads_used = link->heads_room = 0;
		link->queue_at = link->queue_end = link->queue_room = 0;
	}
}

/* Connecting */

static struct crucible_address to_address(const struct sockaddr *from)
{
	struct crucible_address address = { .is_ipv6 = from->sa_family == AF_INET6 };
	if (address.is_ipv6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
		memcpy(address.octets, &in6->sin6_addr, 16);
		address.port = ntohs(in6->sin6_port);
	} else {
		const struct sockaddr_in *in = (const struct sockaddr_in *)from;
		memcpy(address.octets, &in->sin_addr, 4);
		address.port = ntohs(in->sin_port);
	}
	return address;
}

static void finish_connect(struct link *link)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t length = sizeof peer;
	if (getpeername(link->fd, (struct sockaddr *)&peer, &length) < 0) {
		fail(link, strerror(errno));
		return;
	}
	uv_timer_stop(&link->timer);
	link->is_connected = true;
	struct crucible_address address = to_address((struct sockaddr *)&peer);
	link->user.connected(link->user.context, link->user.slot, &address);
}

/* TCP is there. The handshake begins at once: a downstairs serves nobody else until it has ended. */
static void begin_tls(struct link *link)
{
	char name[20];
	snprintf(name, sizeof name, "downstairs%u", link->user.slot);
	link->tls = tls_open(link->identity, link->fd, name);
	if (!link->tls)
		fail(link, "out of memory");
}

static void go_on_connecting(struct link *link)
{
	int error = link->connect_error, on = 1;
	socklen_t length = sizeof error;
	if (!link->tls) {
		if (!error && getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
			error = errno;
		if (error) {
			fail(link, strerror(error));
			return;
		}
		setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		if (link->identity)
			begin_tls(link);
	}
	if (link->is_closed)
		return;
	int status = link->tls ? tls_handshake(link->tls) : 0;
	if (status == 0)
		finish_connect(link);
	else if (status != -EAGAIN)
		fail(link, tls_fault(link->tls));
}

static void on_timeout(uv_timer_t *timer)
{
	struct link *link = timer->data;
	fail(link, link->tls ? "TLS: no handshake within 10 s" : "no connection within 10 s");
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct link *link = poll->data;
	if (!link->is_connected)
		go_on_connecting(link);
	if (status < 0)
		link->events = 0; /* the socket has an error, which receiving tells, behind what is there; libuv has stopped */
	if (!link->is_closed && link->is_connected && (status < 0 || (events & UV_READABLE)))
		receive(link);
	if (!link->is_closed && link->is_connected && (events & UV_WRITABLE) && link->is_blocked) {
		link->is_blocked = false;
		send_queue(link);
	}
	watch(link);
}

/* Life */

static void on_handle_closed(uv_handle_t *handle)
{
	struct link *link = handle->data;
	if (--link->open_handles > 0)
		return;
	tls_close(link->tls);
	close(link->fd);
	free(link->heads);
	free(link->queue);
	free(link->received);
	free(link);
}

void link_close(struct link *link)
{
	if (link->is_closed)
		return;
	link->is_closed = true;
	uv_poll_stop(&link->poll);
	shutdown(link->fd, SHUT_RDWR);
	uv_close((uv_handle_t *)&link->poll, on_handle_closed);
	uv_close((uv_handle_t *)&link->timer, on_handle_closed);
}

struct link *link_open(uv_loop_t *loop, const struct sockaddr *address, const struct tls_identity *identity,
	const struct link_user *user)
{
	socklen_t length = address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	struct link *link = calloc(1, sizeof *link);
	int fd = link ? socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
	if (fd < 0 || uv_poll_init(loop, &link->poll, fd) < 0) {
		if (fd >= 0)
			close(fd);
		free(link);
		return NULL;
	}
	link->fd = fd;
	link->identity = identity;
	link->user = *user;
	uv_timer_init(loop, &link->timer);
	link->open_handles = 2;
	link->poll.data = link->timer.data = link;
	uv_timer_start(&link->timer, on_timeout, CONNECT_TIMEOUT_MS, 0);
	/* how it ends is seen in go_on_connecting() */
	link->connect_error = connect(fd, address, length) < 0 && errno != EINPROGRESS ? errno : 0;
	watch(link);
	return link;
}
