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
	CONNECT_TIMEOUT_MS = 10000,
	READS_PER_TURN = 8,
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
	uv_prepare_t prepare; /* sends what the turn has queued */
	uv_timer_t timer;     /* of the connect */
	unsigned open_handles;
	int fd, events;
	bool is_connected, is_closed, is_blocked;

	uint8_t *heads;
	size_t heads_used, heads_room;
	struct outgoing *queue;
	size_t queue_at, queue_end, queue_room;
	size_t sent_of_first; /* bytes of queue[queue_at] */

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
	int events = !link->is_connected || link->is_blocked ? UV_READABLE | UV_WRITABLE : UV_READABLE;
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

bool link_send(struct link *link, const struct crucible_message *message)
{
	size_t head, frame;
	if (link->is_closed || crucible_measure(message, &head, &frame) < 0)
		return false;
	if (!grow((void **)&link->heads, &link->heads_room, link->heads_used + head, 1) ||
		!grow((void **)&link->queue, &link->queue_room, link->queue_end + 1, sizeof *link->queue))
		return false;
	if (crucible_encode_head(message, link->heads + link->heads_used, head) < 0)
		return false;
	link->queue[link->queue_end++] = (struct outgoing){
		.head_at = link->heads_used,
		.head_length = head,
		.data = head < frame ? message->write.data.bytes : NULL,
		.data_length = frame - head,
	};
	link->heads_used += head;
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

static void send_queue(struct link *link)
{
	struct iovec parts[SEND_PARTS];
	while (link->queue_at < link->queue_end) {
		unsigned count = collect(link, parts);
		ssize_t n = writev(link->fd, parts, (int)count);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			link->is_blocked = errno == EAGAIN;
			if (!link->is_blocked)
				fail(link, strerror(errno));
			break;
		}
		link->is_blocked = false;
		drop_sent(link, (size_t)n);
	}
	watch(link);
}

static void on_prepare(uv_prepare_t *prepare)
{
	struct link *link = prepare->data;
	if (link->is_connected && !link->is_blocked && link->queue_at < link->queue_end)
		send_queue(link);
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

static void receive(struct link *link)
{
	size_t frame = 0;
	for (unsigned i = 0; i < READS_PER_TURN && !link->is_closed; i++) {
		if (!make_room(link, frame)) {
			fail(link, "out of memory");
			return;
		}
		size_t room = link->received_room - link->received_end;
		ssize_t n = read(link->fd, link->received + link->received_end, room);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			fail(link, n == 0 ? "closed by the downstairs" : strerror(errno));
			return;
		}
		link->received_end += (size_t)n;
		frame = take_frames(link);
		if ((size_t)n < room)
			return;
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
	int error = 0, on = 1;
	struct sockaddr_storage peer = { 0 };
	socklen_t error_length = sizeof error, peer_length = sizeof peer;
	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &error_length) < 0)
		error = errno;
	if (error == 0 && getpeername(link->fd, (struct sockaddr *)&peer, &peer_length) < 0)
		error = errno;
	if (error) {
		fail(link, strerror(error));
		return;
	}
	setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	uv_timer_stop(&link->timer);
	link->is_connected = true;
	struct crucible_address address = to_address((struct sockaddr *)&peer);
	link->user.connected(link->user.context, link->user.slot, &address);
}

static void on_timeout(uv_timer_t *timer)
{
	fail(timer->data, "no connection within 10 s");
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct link *link = poll->data;
	if (!link->is_connected)
		finish_connect(link);
	else if (status < 0)
		fail(link, uv_strerror(status));
	if (!link->is_closed && link->is_connected && (events & UV_READABLE))
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
	uv_close((uv_handle_t *)&link->prepare, on_handle_closed);
	uv_close((uv_handle_t *)&link->timer, on_handle_closed);
}

struct link *link_open(uv_loop_t *loop, const struct sockaddr *address, const struct link_user *user)
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
	link->user = *user;
	uv_prepare_init(loop, &link->prepare);
	uv_timer_init(loop, &link->timer);
	link->open_handles = 3;
	link->poll.data = link->prepare.data = link->timer.data = link;
	uv_prepare_start(&link->prepare, on_prepare);
	uv_timer_start(&link->timer, on_timeout, CONNECT_TIMEOUT_MS, 0);
	connect(fd, address, length); /* how it ends is seen in finish_connect() */
	watch(link);
	return link;
}
