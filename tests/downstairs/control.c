/* control.c: the socket over which tests tell what shall go wrong; commands are in faults.h. */
#include <stdio.h>
#include <unistd.h>

#include "memory.h"
#include "server.h"

enum { LINE_MAX_SIZE = 4096, BACKLOG = 16 };

struct control {
	struct server *server;
	uv_pipe_t pipe;
	size_t used;
	char line[LINE_MAX_SIZE + 1];
};

struct reply {
	uv_write_t request;
	char text[];
};

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void on_written(uv_write_t *request, int status)
{
	(void)status;
	free(request->data);
}

static void send_reply(struct control *control, const char *text)
{
	struct reply *reply = zeroed(1, sizeof *reply + strlen(text) + 2);
	uv_buf_t buffer = uv_buf_init(reply->text, (unsigned)strlen(text) + 1);
	sprintf(reply->text, "%s\n", text);
	reply->request.data = reply;
	if (uv_write(&reply->request, (uv_stream_t *)&control->pipe, &buffer, 1, on_written) < 0)
		abort();
}

/* Commands that faults.c does not know */

static void put_counts(FILE *out, const char *name, const uint64_t *counts)
{
	const char *comma = "";
	fprintf(out, ", \"%s\": {", name);
	for (int type = 0; type < CRUCIBLE_MESSAGE_TYPES; type++) {
		if (counts[type] == 0)
			continue;
		fprintf(out, "%s\"%s\": %llu", comma,
			crucible_message_name((enum crucible_message_type)type),
			(unsigned long long)counts[type]);
		comma = ", ";
	}
	fputs("}", out);
}

static void send_status(struct control *control)
{
	static const char *const states[] = { "running", "fetching", "wedged", "died", "killed" };
	struct server *server = control->server;
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	fprintf(out, "{\"state\": \"%s\", \"pending\": %zu",
		states[downstairs_state(server->downstairs)], downstairs_pending(server->downstairs));
	put_counts(out, "received", server->faults.received);
	put_counts(out, "sent", server->faults.sent);
	fputs("}", out);
	fclose(out);
	send_reply(control, text);
	free(text);
}

static const char *rot(struct server *server, const char *arguments)
{
	char what[16];
	unsigned long long block;
	if (sscanf(arguments, "%15s %llu", what, &block) != 2 ||
		block >= server->region.extent_size * server->region.extent_count)
		return "neither data nor context of a block";
	if (strcmp(what, "data") == 0)
		disk_damage(server->disk, block, PIECE_DATA);
	else if (strcmp(what, "context") == 0)
		disk_damage(server->disk, block, PIECE_CONTEXTS);
	else
		return "neither data nor context";
	return NULL;
}

static void handle_line(struct control *control, char *line)
{
	struct server *server = control->server;
	const char *wrong;
	char text[128];
	if (strcmp(line, "status") == 0) {
		send_status(control);
		return;
	}
	wrong = strncmp(line, "rot ", 4) == 0 ? rot(server, line + 4)
										  : faults_command(&server->faults, line);
	snprintf(text, sizeof text, "%s%s", wrong ? "error: " : "ok", wrong ? wrong : "");
	send_reply(control, text);
	downstairs_retry(server->downstairs); /* what wedged it may be over */
	clients_wake(server);
	http_wake(server);
}

/* Connections */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct control *control = handle->data;
	(void)suggested;
	*buffer = uv_buf_init(control->line + control->used, (unsigned)(LINE_MAX_SIZE - control->used));
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	struct control *control = stream->data;
	char *end;
	(void)buffer;
	if (count < 0) {
		uv_close((uv_handle_t *)stream, on_closed);
		return;
	}
	control->used += (size_t)count;
	control->line[control->used] = '\0';
	while ((end = strchr(control->line, '\n'))) {
		*end++ = '\0';
		handle_line(control, control->line);
		control->used -= (size_t)(end - control->line);
		memmove(control->line, end, control->used + 1);
	}
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct server *server = listener->data;
	if (status < 0)
		return;
	struct control *control = zeroed(1, sizeof *control);
	control->server = server;
	control->pipe.data = control;
	uv_pipe_init(&server->loop, &control->pipe, 0);
	if (uv_accept(listener, (uv_stream_t *)&control->pipe) < 0)
		uv_close((uv_handle_t *)&control->pipe, on_closed);
	else
		uv_read_start((uv_stream_t *)&control->pipe, on_alloc, on_read);
}

void control_listen(struct server *server, const char *path)
{
	unlink(path); /* of a predecessor that was killed */
	uv_pipe_init(&server->loop, &server->control_listener, 0);
	server->control_listener.data = server;
	int status = uv_pipe_bind(&server->control_listener, path);
	if (status == 0)
		status = uv_listen((uv_stream_t *)&server->control_listener, BACKLOG, on_connection);
	if (status < 0) {
		fprintf(stderr, "%s: %s\n", path, uv_strerror(status));
		exit(1);
	}
}
