#include "control/control-client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "control/control-server.h"
#include "monotonic.h"

enum { QUEUE_RETRY_MS = 20, FIRST_SIZE = 16384 };

/* A connection on its way: connects, sends the request, receives one line. */
struct call {
	struct control_question *question;
	int fd; /* -1: not connected */
	bool is_over;
	const char *unsent;
	size_t unsent_length;
	char *text; /* received so far */
	size_t used, size;
};

static void end(struct call *call, int status)
{
	call->question->status = status;
	call->is_over = true;
	cleanup_close(&call->fd);
	call->fd = -1;
}

static void end_silent(struct call *call, int status, const char *why)
{
	end(call, reason_set(&call->question->reason, status, "%s: the gateway does not answer: %s", call->question->path, why));
}

/* The queue of a gateway that hangs may be full: then the call stays without a connection, and this is tried again. */
static void try_connect(struct call *call)
{
	struct control_question *question = call->question;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(question->path) >= sizeof address.sun_path) {
		end(call, reason_set(&question->reason, -ENAMETOOLONG, "%s: too long for a socket", question->path));
		return;
	}
	strcpy(address.sun_path, question->path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		end(call, reason_set(&question->reason, -errno, "%s: %m", question->path));
		return;
	}
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
		call->fd = take_fd(&fd);
		return;
	}
	if (errno == EAGAIN)
		return;
	int status = errno == ENOENT || errno == ECONNREFUSED ? -ECONNREFUSED : -errno;
	end(call, reason_set(&question->reason, status, "%s: no gateway answers: %m", question->path));
}

static void take_answer(struct call *call, size_t length)
{
	struct control_question *question = call->question;
	CLEANUP_JSON struct json_object *answer = json_parse_object(call->text, length);
	uint64_t version;
	bool ok;
	if (!answer || !json_number(answer, "version", &version) || version != CONTROL_VERSION ||
		!json_switch(answer, "ok", &ok)) {
		end(call, reason_set(&question->reason, -EBADMSG, "%s: the gateway's answer makes no sense", question->path));
		return;
	}
	const char *error = json_text_or_null(answer, "error");
	question->answer = json_object_get(answer);
	end(call, ok ? 0 : reason_set(&question->reason, -EPROTO, "%s", error ? error : "the gateway refused"));
}

static void receive(struct call *call)
{
	if (call->used == call->size) {
		size_t size = call->size ? call->size * 2 : FIRST_SIZE;
		char *larger = size <= 4 * CONTROL_LINE_MAX ? realloc(call->text, size) : NULL;
		if (!larger) {
			end_silent(call, -ENOMEM, strerror(ENOMEM));
			return;
		}
		call->text = larger;
		call->size = size;
	}
	ssize_t n = recv(call->fd, call->text + call->used, call->size - call->used, 0);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		int status = n < 0 ? -errno : -ECONNRESET;
		end_silent(call, status, strerror(-status));
		return;
	}
	char *line_end = memchr(call->text + call->used, '\n', (size_t)n);
	call->used += (size_t)n;
	if (line_end)
		take_answer(call, (size_t)(line_end - call->text));
}

static void send_more(struct call *call)
{
	ssize_t n = send(call->fd, call->unsent, call->unsent_length, MSG_NOSIGNAL);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n < 0) {
		end_silent(call, -errno, strerror(errno));
		return;
	}
	call->unsent += n;
	call->unsent_length -= (size_t)n;
}

static void go_on(struct call *call)
{
	if (call->unsent_length > 0)
		send_more(call);
	else
		receive(call);
}

/* Goes on with all that can. Returns whether one is not over. */
static bool take_turn(struct call *calls, struct pollfd *polls, size_t count, int64_t left)
{
	bool any = false, is_queued = false;
	for (size_t i = 0; i < count; i++) {
		struct call *call = &calls[i];
		if (!call->is_over && call->fd < 0)
			try_connect(call);
		any = any || !call->is_over;
		is_queued = is_queued || (!call->is_over && call->fd < 0);
		polls[i] = (struct pollfd){ .fd = call->fd, .events = call->unsent_length > 0 ? POLLOUT : POLLIN };
	}
	if (!any)
		return false;
	poll(polls, (nfds_t)count, is_queued && left > QUEUE_RETRY_MS ? QUEUE_RETRY_MS : (int)left);
	for (size_t i = 0; i < count; i++) {
		if (polls[i].fd >= 0 && polls[i].revents)
			go_on(&calls[i]);
	}
	return true;
}

static void ask_all(struct call *calls, struct pollfd *polls, size_t count, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms, left = timeout_ms;
	while (left > 0 && take_turn(calls, polls, count, left))
		left = deadline - now_ms();
	for (size_t i = 0; i < count; i++) {
		struct call *call = &calls[i];
		if (!call->is_over)
			end_silent(call, -ETIMEDOUT, call->fd < 0 ? "too many wait" : strerror(ETIMEDOUT));
		free(call->text);
	}
}

int control_ask_all(struct control_question *questions, size_t count, struct json_object *request, int timeout_ms)
{
	CLEANUP_FREE char *line = NULL;
	const char *text =
		json_add_number(request, "version", CONTROL_VERSION) ? json_text_of(request, JSON_C_TO_STRING_PLAIN) : NULL;
	int length = text ? asprintf(&line, "%s\n", text) : -1;
	CLEANUP_FREE struct call *calls = calloc(count + 1, sizeof *calls);
	CLEANUP_FREE struct pollfd *polls = calloc(count + 1, sizeof *polls);
	if (length < 0 || !calls || !polls) {
		if (length < 0)
			line = NULL;
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		questions[i].answer = NULL;
		calls[i] = (struct call){ .question = &questions[i], .fd = -1, .unsent = line, .unsent_length = (size_t)length };
	}
	ask_all(calls, polls, count, timeout_ms);
	return 0;
}

int control_call(const char *path, struct json_object *request, struct json_object **answer,
	struct reason *reason)
{
	struct control_question question = { .path = path };
	int status = control_ask_all(&question, 1, request, CONTROL_ANSWER_TIMEOUT_MS);
	*answer = question.answer;
	if (status < 0)
		return reason_set(reason, status, "%s: out of memory", path);
	if (reason)
		*reason = question.reason;
	return question.status;
}
