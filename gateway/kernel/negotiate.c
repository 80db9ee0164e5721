#include "kernel/negotiate.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cleanup.h"
#include "monotonic.h"
#include "nbd/nbd-protocol.h"
#include "nbd/wire.h"

enum {
	REPLY_MAX = NBD_MAX_STRING + 64, /* bytes of one reply: a text, or what we have not asked for */
	REPLIES_MAX = 64,
	BACKLOG_PAUSE_MS = 20,
	EXPORT_INFO_SIZE = 12,
};

/* One handshake under way. */
struct talk {
	const char *path;
	int fd, wake;
	int64_t deadline; /* ms */
	struct reason *reason;
};

static int fail_with(const struct talk *talk, int error)
{
	return reason_set(talk->reason, error, "%s: %s", talk->path, strerror(-error));
}

static int refuse_nonsense(const struct talk *talk, const char *what)
{
	return reason_set(talk->reason, -EBADMSG, "%s: %s", talk->path, what);
}

/* Waits for the socket, or, with no events, for `limit_ms`. Returns 0, -EINTR or -ETIMEDOUT. */
static int wait_for(const struct talk *talk, short events, int limit_ms)
{
	int64_t left = talk->deadline - now_ms();
	struct pollfd polled[] = {
		{ .fd = events ? talk->fd : -1, .events = events },
		{ .fd = talk->wake, .events = POLLIN },
	};
	if (left <= 0)
		return reason_set(talk->reason, -ETIMEDOUT, "%s: the gateway does not answer", talk->path);
	int ready = poll(polled, 2, limit_ms < left ? limit_ms : (int)left);
	if (ready < 0 && errno != EINTR)
		return fail_with(talk, -errno);
	return ready > 0 && polled[1].revents ? reason_set(talk->reason, -EINTR, "interrupted") : 0;
}

static int send_all(const struct talk *talk, const uint8_t *at, size_t length)
{
	while (length > 0) {
		ssize_t n = send(talk->fd, at, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return fail_with(talk, -errno);
		int status = n < 0 ? wait_for(talk, POLLOUT, INT32_MAX) : 0;
		if (status < 0)
			return status;
		at += n < 0 ? 0 : n;
		length -= n < 0 ? 0 : (size_t)n;
	}
	return 0;
}

static int receive_all(const struct talk *talk, uint8_t *at, size_t length)
{
	while (length > 0) {
		ssize_t n = recv(talk->fd, at, length, MSG_DONTWAIT);
		if (n == 0)
			return fail_with(talk, -ECONNRESET);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return fail_with(talk, -errno);
		int status = n < 0 ? wait_for(talk, POLLIN, INT32_MAX) : 0;
		if (status < 0)
			return status;
		at += n < 0 ? 0 : n;
		length -= n < 0 ? 0 : (size_t)n;
	}
	return 0;
}

static int connect_to(const struct talk *talk)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(talk->path) >= sizeof address.sun_path)
		return fail_with(talk, -ENAMETOOLONG);
	strcpy(address.sun_path, talk->path);
	while (connect(talk->fd, (struct sockaddr *)&address, sizeof address) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return reason_set(talk->reason, -ECONNREFUSED, "%s: no gateway answers: %m", talk->path);
		if (errno != EAGAIN && errno != EINTR)
			return fail_with(talk, -errno);
		int status = wait_for(talk, 0, BACKLOG_PAUSE_MS); /* its queue is full */
		if (status < 0)
			return status;
	}
	return 0;
}

/* Greeting, and our flags. */
static int greet(const struct talk *talk)
{
	uint8_t greeting[18], flags[4];
	int status = receive_all(talk, greeting, sizeof greeting);
	if (status < 0)
		return status;
	if (get_u64(greeting) != NBD_MAGIC || get_u64(greeting + 8) != NBD_OPTION_MAGIC ||
		!(get_u16(greeting + 16) & NBD_FLAG_FIXED_NEWSTYLE))
		return refuse_nonsense(talk, "does not speak NBD");
	put_u32(flags, NBD_FLAG_C_FIXED_NEWSTYLE | (get_u16(greeting + 16) & NBD_FLAG_NO_ZEROES));
	return send_all(talk, flags, sizeof flags);
}

static int send_go(const struct talk *talk, const char *export)
{
	uint8_t option[NBD_OPTION_HEADER_SIZE + 6 + 256], *at = option;
	size_t name = strlen(export);
	if (name > 255)
		return fail_with(talk, -ENAMETOOLONG);
	at = put_u64(at, NBD_OPTION_MAGIC);
	at = put_u32(at, NBD_OPT_GO);
	at = put_u32(at, (uint32_t)name + 6);
	at = put_u32(at, (uint32_t)name);
	at = put_bytes(at, export, name);
	at = put_u16(at, 0); /* no information beyond what must come */
	return send_all(talk, option, (size_t)(at - option));
}

/* The sentence that comes with an error, as far as it is text. */
static int refused(const struct talk *talk, const char *export, uint8_t *text, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++) {
		if (text[i] < ' ' || text[i] == 0x7f)
			text[i] = '?';
	}
	return length > 0 ? reason_set(talk->reason, -ECONNREFUSED, "%.*s", (int)length, (const char *)text)
					  : reason_set(talk->reason, -ECONNREFUSED, "%s: the gateway refuses it", export);
}

/* Replies to NBD_OPT_GO until its ACK. */
static int receive_answer(const struct talk *talk, const char *export, struct negotiated *result)
{
	bool is_known = false;
	for (int i = 0; i < REPLIES_MAX; i++) {
		uint8_t header[NBD_OPTION_REPLY_HEADER_SIZE], data[REPLY_MAX];
		int status = receive_all(talk, header, sizeof header);
		if (status < 0)
			return status;
		uint32_t type = get_u32(header + 12), length = get_u32(header + 16);
		if (get_u64(header) != NBD_REPLY_OPTION_MAGIC || get_u32(header + 8) != NBD_OPT_GO || length > sizeof data)
			return refuse_nonsense(talk, "the answer of the server makes no sense");
		status = receive_all(talk, data, length);
		if (status < 0)
			return status;
		if (type == NBD_REP_ACK)
			return is_known ? 0 : refuse_nonsense(talk, "the server does not say how large the export is");
		if (type & NBD_REP_ERR(0))
			return refused(talk, export, data, length);
		if (type == NBD_REP_INFO && length == EXPORT_INFO_SIZE && get_u16(data) == NBD_INFO_EXPORT) {
			result->size = get_u64(data + 2);
			result->flags = get_u16(data + 10);
			is_known = true;
		}
	}
	return refuse_nonsense(talk, "the server does not come to an end");
}

int negotiate(const char *path, const char *export, int wake, unsigned limit_ms, struct negotiated *result,
	struct reason *reason)
{
	*result = (struct negotiated){ .fd = -1 };
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const struct talk talk = { path, fd, wake, now_ms() + limit_ms, reason };
	if (fd < 0)
		return fail_with(&talk, -errno);
	int status = connect_to(&talk);
	if (status == 0)
		status = greet(&talk);
	if (status == 0)
		status = send_go(&talk, export);
	if (status == 0)
		status = receive_answer(&talk, export, result);
	if (status == 0 && (result->size == 0 || result->size > INT64_MAX))
		status = refuse_nonsense(&talk, "the export has no size that a device can have");
	if (status == 0 && fcntl(fd, F_SETFL, 0) < 0)
		status = fail_with(&talk, -errno);
	if (status == 0)
		result->fd = take_fd(&fd);
	return status;
}
