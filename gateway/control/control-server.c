#include "control/control-server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "list.h"
#include "log.h"

struct control_server {
	uv_loop_t *loop;
	uv_pipe_t listener;
	control_handler handler;
	void *context;
	uv_pipe_t refused; /* takes what there is no memory for */
	bool is_refusing;
	struct list clients; /* oldest first */
	unsigned client_count;
	bool is_closing, listener_is_closed;
	void (*closed)(void *context);
	void *closed_context;
};

/* Freed when its two handles are closed and no handler owes it an answer. */
struct control_client {
	struct control_server *server;
	struct list link;
	uv_pipe_t pipe;
	uv_timer_t timer;
	unsigned open_handles;
	bool is_closed, owes_answer, is_answering, ends_after_answer;
	char *line; /* received, not complete */
	size_t used, size;
};

static void maybe_closed(struct control_server *server)
{
	if (!server->is_closing || !server->listener_is_closed || server->is_refusing ||
		server->client_count > 0)
		return;
	void (*closed)(void *) = server->closed;
	void *context = server->closed_context;
	free(server);
	closed(context);
}

static void maybe_free(struct control_client *client)
{
	if (client->open_handles > 0 || client->owes_answer)
		return;
	struct control_server *server = client->server;
	list_remove(&client->link);
	server->client_count--;
	free(client->line);
	free(client);
	maybe_closed(server);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct control_client *client = handle->data;
	client->open_handles--;
	maybe_free(client);
}

static void close_client(struct control_client *client)
{
	if (client->is_closed)
		return;
	client->is_closed = true;
	uv_close((uv_handle_t *)&client->pipe, on_handle_closed);
	uv_close((uv_handle_t *)&client->timer, on_handle_closed);
}

/* Answering */

struct answer_write {
	uv_write_t request;
	struct control_client *client;
	char text[];
};

static void on_timeout(uv_timer_t *timer)
{
	close_client(timer->data);
}

static void next_request(struct control_client *client);

static void on_written(uv_write_t *request, int status)
{
	struct answer_write *write = (struct answer_write *)request;
	struct control_client *client = write->client;
	free(write);
	client->is_answering = false;
	if (client->is_closed)
		return;
	if (status < 0 || client->ends_after_answer)
		close_client(client);
	else
		next_request(client);
}

static void send_text(struct control_client *client, const char *text)
{
	size_t length = strlen(text);
	struct answer_write *write = malloc(sizeof *write + length + 1);
	if (!write) {
		close_client(client);
		return;
	}
	write->client = client;
	memcpy(write->text, text, length);
	write->text[length] = '\n';
	uv_buf_t buffer = uv_buf_init(write->text, (unsigned)length + 1);
	uv_timer_start(&client->timer, on_timeout, CONTROL_TIMEOUT_MS, 0);
	client->is_answering = true;
	if (uv_write(&write->request, (uv_stream_t *)&client->pipe, &buffer, 1, on_written) < 0) {
		free(write);
		client->is_answering = false;
		close_client(client);
	}
}

static void finish_request(struct control_client *client, struct json_object *answer, bool ok)
{
	CLEANUP_JSON struct json_object *owned = answer;
	client->owes_answer = false;
	if (client->is_closed) {
		maybe_free(client);
		return;
	}
	const char *text = json_add_number(owned, "version", CONTROL_VERSION) &&
			json_add_switch(owned, "ok", ok)
		? json_text_of(owned, JSON_C_TO_STRING_PLAIN)
		: NULL;
	if (text)
		send_text(client, text);
	else
		close_client(client);
}

void control_answer(struct control_client *client, struct json_object *answer)
{
	finish_request(client, answer, true);
}

void control_refuse(struct control_client *client, int error, const struct reason *reason)
{
	struct json_object *answer = json_object_new_object();
	json_add_text(answer, "error", reason->text);
	json_add_number(answer, "exit_status", (uint64_t)exit_status_for(error));
	finish_request(client, answer, false);
}

/* Receiving */

/* A line that is no request: one answer, then the end. */
static void refuse_line(struct control_client *client, const char *text)
{
	struct reason reason;
	client->ends_after_answer = true;
	client->owes_answer = true;
	control_refuse(client, reason_set(&reason, -EINVAL, "%s", text), &reason);
}

static void handle_line(struct control_client *client, const char *line, size_t length)
{
	CLEANUP_JSON struct json_object *request = json_parse_object(line, length);
	uint64_t version;
	const char *command = request ? json_text_or_null(request, "command") : NULL;
	if (!request)
		refuse_line(client, "not a JSON object");
	else if (!json_number(request, "version", &version) || version != CONTROL_VERSION)
		refuse_line(client, "version is missing or not 1");
	else if (!command)
		refuse_line(client, "command is missing");
	else {
		client->owes_answer = true;
		client->server->handler(client->server->context, client, command, request);
	}
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer);
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer);

/* Handles the first whole line there is, unless an answer is still on its way. Nothing is read
 * while a request is worked on, so that a client that takes no answers fills no memory. */
static void next_request(struct control_client *client)
{
	char *end = client->used ? memchr(client->line, '\n', client->used) : NULL;
	if (client->owes_answer || client->is_answering || client->is_closed)
		return;
	if (!end && client->used < CONTROL_REQUEST_MAX) {
		uv_read_start((uv_stream_t *)&client->pipe, on_allocate, on_read);
		return;
	}
	uv_read_stop((uv_stream_t *)&client->pipe);
	if (!end) {
		refuse_line(client, "line too long");
		return;
	}
	size_t length = (size_t)(end - client->line);
	CLEANUP_FREE char *line = malloc(length + 1);
	if (!line) {
		close_client(client);
		return;
	}
	memcpy(line, client->line, length);
	line[length] = '\0';
	client->used -= length + 1;
	memmove(client->line, end + 1, client->used);
	uv_timer_stop(&client->timer); /* from here on it is our time */
	handle_line(client, line, length);
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	(void)suggested;
	struct control_client *client = handle->data;
	if (client->used == client->size) {
		size_t size = client->size ? client->size * 2 : 4096;
		char *line = size <= 2 * CONTROL_REQUEST_MAX ? realloc(client->line, size) : NULL;
		if (!line) {
			*buffer = uv_buf_init(NULL, 0);
			return;
		}
		client->line = line;
		client->size = size;
	}
	*buffer = uv_buf_init(client->line + client->used, (unsigned)(client->size - client->used));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
	(void)buffer;
	struct control_client *client = stream->data;
	if (n < 0) {
		close_client(client);
		return;
	}
	client->used += (size_t)n;
	if (n > 0)
		next_request(client);
}

/* Accepting */

static bool peer_is_allowed(uv_pipe_t *pipe)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	uv_os_fd_t fd;
	return uv_fileno((uv_handle_t *)pipe, &fd) == 0 &&
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
		(peer.uid == 0 || peer.uid == geteuid());
}

static void on_connection(uv_stream_t *listener, int status);

static void on_refused_closed(uv_handle_t *handle)
{
	struct control_server *server = handle->data;
	server->is_refusing = false;
	if (server->is_closing)
		maybe_closed(server);
	else
		on_connection((uv_stream_t *)&server->listener, 0); /* libuv may have kept the next one */
}

/* libuv listens no more until what it has accepted is taken over. */
static void refuse_connection(struct control_server *server)
{
	if (server->is_refusing)
		return;
	server->is_refusing = true;
	server->refused.data = server;
	uv_pipe_init(server->loop, &server->refused, 0);
	uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&server->refused);
	uv_close((uv_handle_t *)&server->refused, on_refused_closed);
}

/* Not one that waits for us: it is not to blame, and would stay until it has its answer anyway. */
static void close_oldest(struct control_server *server)
{
	struct control_client *client;
	LIST_FOR_EACH(client, &server->clients, link)
	{
		if (!client->is_closed && !client->owes_answer) {
			close_client(client);
			return;
		}
	}
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct control_server *server = listener->data;
	if (status < 0)
		return;
	struct control_client *client = calloc(1, sizeof *client);
	if (!client) {
		refuse_connection(server);
		return;
	}
	client->server = server;
	client->pipe.data = client->timer.data = client;
	if (uv_pipe_init(server->loop, &client->pipe, 0) < 0) {
		free(client);
		return;
	}
	uv_timer_init(server->loop, &client->timer);
	client->open_handles = 2;
	list_append(&server->clients, &client->link);
	server->client_count++;
	if (uv_accept(listener, (uv_stream_t *)&client->pipe) < 0 || !peer_is_allowed(&client->pipe) ||
		uv_read_start((uv_stream_t *)&client->pipe, on_allocate, on_read) < 0) {
		close_client(client);
		return;
	}
	uv_timer_start(&client->timer, on_timeout, CONTROL_TIMEOUT_MS, 0);
	if (server->client_count > CONTROL_CLIENTS_MAX)
		close_oldest(server);
}

/* Life */

static void on_listener_closed(uv_handle_t *handle)
{
	struct control_server *server = handle->data;
	server->listener_is_closed = true;
	maybe_closed(server);
}

static void on_failed_listener_closed(uv_handle_t *handle)
{
	free(handle->data);
}

int control_server_open(uv_loop_t *loop, const char *path, control_handler handler, void *context,
	struct control_server **out, struct reason *reason)
{
	struct sockaddr_un address;
	if (strlen(path) >= sizeof address.sun_path)
		return reason_set(reason, -ENAMETOOLONG, "%s: too long for a socket: shorten run_dir", path);
	struct control_server *server = calloc(1, sizeof *server);
	if (!server)
		return reason_set(reason, -ENOMEM, "out of memory");
	server->loop = loop;
	server->handler = handler;
	server->context = context;
	list_init(&server->clients);
	int status = uv_pipe_init(loop, &server->listener, 0);
	if (status < 0) {
		free(server);
		return reason_set(reason, status, "%s: %s", path, uv_strerror(status));
	}
	server->listener.data = server;
	unlink(path);
	mode_t mask = umask(0177);
	status = uv_pipe_bind(&server->listener, path);
	umask(mask);
	if (status == 0)
		status = uv_listen((uv_stream_t *)&server->listener, 16, on_connection);
	if (status < 0) {
		uv_close((uv_handle_t *)&server->listener, on_failed_listener_closed);
		return reason_set(reason, status, "%s: %s", path, uv_strerror(status));
	}
	*out = server;
	return 0;
}

void control_server_close(struct control_server *server, void (*closed)(void *context), void *context)
{
	server->is_closing = true;
	server->closed = closed;
	server->closed_context = context;
	struct control_client *client, *following;
	LIST_FOR_EACH_SAFE(client, following, &server->clients, link)
		close_client(client);
	uv_close((uv_handle_t *)&server->listener, on_listener_closed); /* unlinks the socket too */
}
