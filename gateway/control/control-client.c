#include "control/control-client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "control/control-server.h"

enum { ANSWER_TIMEOUT_MS = 30000 };

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int connect_to(const char *path, struct reason *reason)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path)
		return reason_set(reason, -ENAMETOOLONG, "%s: too long for a socket", path);
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	/* the queue of a gateway that hangs may be full */
	const struct timeval limit = { .tv_sec = ANSWER_TIMEOUT_MS / 1000 };
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		if (errno == EAGAIN)
			return reason_set(reason, -ETIMEDOUT, "%s: the gateway does not answer: too many wait", path);
		int status = errno == ENOENT || errno == ECONNREFUSED ? -ECONNREFUSED : -errno;
		return reason_set(reason, status, "%s: no gateway answers: %m", path);
	}
	return take_fd(&fd);
}

static int send_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Reads one line, without its end. */
static int receive_line(int fd, char **line, size_t *length)
{
	CLEANUP_FREE char *text = NULL;
	size_t used = 0, size = 0;
	int64_t deadline = now_ms() + ANSWER_TIMEOUT_MS;
	for (;;) {
		if (used == size) {
			size = size ? size * 2 : 16384;
			char *larger = size <= 4 * CONTROL_LINE_MAX ? realloc(text, size) : NULL;
			if (!larger)
				return -ENOMEM;
			text = larger;
		}
		int64_t left = deadline - now_ms();
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		int ready = left > 0 ? poll(&wait, 1, (int)left) : 0;
		if (ready == 0)
			return -ETIMEDOUT;
		ssize_t n = ready < 0 ? -1 : recv(fd, text + used, size - used, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		char *end = memchr(text + used, '\n', (size_t)n);
		used += (size_t)n;
		if (end) {
			*length = (size_t)(end - text);
			*line = take_pointer(&text);
			return 0;
		}
	}
}

static int exchange(int fd, struct json_object *request, char **line, size_t *length)
{
	if (!json_add_number(request, "version", CONTROL_VERSION))
		return -ENOMEM;
	const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
	CLEANUP_FREE char *sent = NULL;
	int n = text ? asprintf(&sent, "%s\n", text) : -1;
	if (n < 0) {
		sent = NULL;
		return -ENOMEM;
	}
	int status = send_all(fd, sent, (size_t)n);
	return status < 0 ? status : receive_line(fd, line, length);
}

int control_call(const char *path, struct json_object *request, struct json_object **out,
	struct reason *reason)
{
	*out = NULL;
	CLEANUP_CLOSE int fd = connect_to(path, reason);
	CLEANUP_FREE char *line = NULL;
	size_t length = 0;
	if (fd < 0)
		return fd;
	int status = exchange(fd, request, &line, &length);
	if (status < 0)
		return reason_set(reason, status, "%s: the gateway does not answer: %s", path,
			strerror(-status));
	CLEANUP_JSON struct json_object *answer = json_parse_object(line, length);
	uint64_t version;
	bool ok;
	if (!answer || !json_number(answer, "version", &version) || version != CONTROL_VERSION ||
		!json_switch(answer, "ok", &ok))
		return reason_set(reason, -EBADMSG, "%s: the gateway's answer makes no sense", path);
	const char *error = json_text_or_null(answer, "error");
	if (!ok)
		status = reason_set(reason, -EPROTO, "%s", error ? error : "the gateway refused");
	*out = json_object_get(answer);
	return status;
}
