/* http.c: the repair port, as far as a repair and a look from outside need it (crucible-protocol.md
 * 8.4).
 *
 *   GET /extent/N/files          ["00A"]
 *   GET /newextent/N/data        the extent's image
 *   GET /extent/N/repair-ready   whether the extent is closed, or the region read-only
 *   GET /region-info             the region's definition
 *   GET /region-mode             whether it is read-only
 *
 * repair-ready has to wait while the engine is busy with a download or wedged: it asks the task
 * that does everything. The others are answered. (A wedged upstream answers them often, not
 * always.)
 */
#include <stdio.h>
#include <strings.h>

#include "memory.h"
#include "region-json.h"
#include "server.h"

enum { REQUEST_MAX = 8192, BACKLOG = 16 };

struct http_client {
	struct server *server;
	struct list link;
	uv_tcp_t tcp;
	size_t used;
	char request[REQUEST_MAX + 1];
};

struct answer {
	uv_write_t request;
	struct http_client *client;
	bool is_last;
	char head[256];
	size_t size;
	uint8_t body[];
};

static void on_closed(uv_handle_t *handle)
{
	struct http_client *client = handle->data;
	list_remove(&client->link);
	free(client);
}

static void hang_up(struct http_client *client)
{
	if (!uv_is_closing((uv_handle_t *)&client->tcp))
		uv_close((uv_handle_t *)&client->tcp, on_closed);
}

/* Answering */

static void on_written(uv_write_t *request, int status)
{
	struct answer *answer = request->data;
	if (status < 0 || answer->is_last)
		hang_up(answer->client);
	free(answer);
}

static struct answer *new_answer(size_t size)
{
	struct answer *answer = zeroed(1, sizeof *answer + size);
	answer->size = size;
	return answer;
}

static struct answer *text_answer(const char *text)
{
	struct answer *answer = new_answer(strlen(text));
	memcpy(answer->body, text, answer->size);
	return answer;
}

static void send_answer(struct http_client *client, unsigned status, const char *type,
	struct answer *answer, bool is_last, size_t cut)
{
	answer->client = client;
	answer->is_last = is_last || cut > 0;
	answer->request.data = answer;
	int head = snprintf(answer->head, sizeof answer->head,
		"HTTP/1.1 %u %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n%s\r\n", status,
		status == 200 ? "OK" : "Bad Request", type, answer->size,
		is_last ? "connection: close\r\n" : "");
	uv_buf_t buffers[] = {
		uv_buf_init(answer->head, (unsigned)head),
		uv_buf_init((char *)answer->body, (unsigned)(answer->size - cut)),
	};
	if (uv_write(&answer->request, (uv_stream_t *)&client->tcp, buffers, 2, on_written) < 0)
		abort();
}

static void send_json(struct http_client *client, const char *json, bool is_last)
{
	send_answer(client, 200, "application/json", text_answer(json), is_last, 0);
}

static void refuse(struct http_client *client, unsigned status, const char *message, bool is_last)
{
	char json[256];
	snprintf(json, sizeof json, "{\"request_id\":\"0\",\"message\":\"%s\"}", message);
	send_answer(client, status, "application/json", text_answer(json), is_last, 0);
}

static void send_image(struct http_client *client, uint32_t extent_id, bool is_last)
{
	struct server *server = client->server;
	struct answer *answer = new_answer(disk_layout(server->disk)->size);
	downstairs_copy_extent(server->downstairs, extent_id, answer->body);
	send_answer(client, 200, "application/octet-stream", answer, is_last,
		server->faults.http == HTTP_CUT ? answer->size / 2 : 0);
}

static void send_files(struct http_client *client, uint32_t extent_id, bool is_last)
{
	char json[32];
	snprintf(json, sizeof json, "[\"%03X\"]", (unsigned)extent_id & 0xfff);
	send_json(client, json, is_last);
}

static void answer_path(struct http_client *client, const char *path, bool is_last)
{
	struct server *server = client->server;
	char what[16] = "";
	unsigned extent_id;
	int end = 0;
	bool is_extent = sscanf(path, "/extent/%u/%15s%n", &extent_id, what, &end) == 2 ||
					 sscanf(path, "/newextent/%u/%15s%n", &extent_id, what, &end) == 2;
	if (is_extent && strcmp(what, "repair-ready") == 0) {
		send_json(client, downstairs_repair_ready(server->downstairs, extent_id) ? "true" : "false",
			is_last);
	} else if (is_extent && extent_id >= server->region.extent_count) {
		refuse(client, 400, "no such extent", is_last);
	} else if (is_extent && strcmp(what, "files") == 0) {
		send_files(client, extent_id, is_last);
	} else if (is_extent && strcmp(what, "data") == 0) {
		send_image(client, extent_id, is_last);
	} else if (strcmp(path, "/region-info") == 0) {
		char *json = region_to_json(&server->region);
		send_json(client, json, is_last);
		free(json);
	} else if (strcmp(path, "/region-mode") == 0) {
		send_json(client, server->read_only ? "true" : "false", is_last);
	} else {
		refuse(client, 404, "not found", is_last);
	}
}

/* Requests */

static void handle_request(struct http_client *client, const char *head)
{
	char path[256];
	int minor;
	if (sscanf(head, "GET %255s HTTP/1.%d", path, &minor) != 2) {
		refuse(client, 400, "bad request", true);
		return;
	}
	answer_path(client, path, minor == 0 || strcasestr(head, "\r\nconnection: close"));
}

static bool has_to_wait(const struct http_client *client)
{
	struct server *server = client->server;
	const char *line_end = strstr(client->request, "\r\n");
	const char *asked = strstr(client->request, "/repair-ready");
	return server->faults.http == HTTP_SILENCE ||
		   (asked && asked < line_end &&
			   downstairs_state(server->downstairs) != DOWNSTAIRS_RUNNING);
}

static void handle_requests(struct http_client *client)
{
	char *end;
	while (!uv_is_closing((uv_handle_t *)&client->tcp) &&
		   (end = strstr(client->request, "\r\n\r\n")) && !has_to_wait(client)) {
		*end = '\0';
		handle_request(client, client->request);
		end += 4;
		client->used -= (size_t)(end - client->request);
		memmove(client->request, end, client->used + 1);
	}
}

void http_wake(struct server *server)
{
	struct http_client *client;
	LIST_FOR_EACH (client, &server->http_clients, link)
		handle_requests(client);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct http_client *client = handle->data;
	(void)suggested;
	*buffer = uv_buf_init(client->request + client->used, (unsigned)(REQUEST_MAX - client->used));
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	struct http_client *client = stream->data;
	(void)buffer;
	if (count < 0) {
		hang_up(client);
		return;
	}
	client->used += (size_t)count;
	client->request[client->used] = '\0';
	handle_requests(client);
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct server *server = listener->data;
	if (status < 0)
		return;
	struct http_client *client = zeroed(1, sizeof *client);
	client->server = server;
	list_append(&server->http_clients, &client->link);
	client->tcp.data = client;
	uv_tcp_init(&server->loop, &client->tcp);
	if (uv_accept(listener, (uv_stream_t *)&client->tcp) < 0)
		hang_up(client);
	else
		uv_read_start((uv_stream_t *)&client->tcp, on_alloc, on_read);
}

void http_listen(struct server *server)
{
	server->http_listener.data = server;
	int status = uv_listen((uv_stream_t *)&server->http_listener, BACKLOG, on_connection);
	if (status < 0) {
		fprintf(stderr, "cannot listen on the repair port: %s\n", uv_strerror(status));
		exit(1);
	}
}
