/* fetch.c: an extent from the repair port of another downstairs (crucible-protocol.md 6.4).
 *
 * Three requests, one after another: the extent's files, the image, and whether the source was
 * stable meanwhile. Each has 15 s. HTTP/1.0, so that the end of the connection is the end of the
 * answer.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <strings.h>

#include "memory.h"
#include "server.h"

enum { TIME_LIMIT = 15000, READ_SIZE = 256 << 10, ERROR_SIZE = 160 };

enum step { GET_FILES, GET_DATA, GET_READY };

struct fetch {
	struct server *server;
	struct sockaddr_storage source;
	uint32_t extent_id;
	enum step step;
	uint8_t *image;
	size_t image_size;
};

/* One request. */
struct request {
	struct fetch *fetch;
	uv_tcp_t tcp;
	uv_timer_t timer;
	uv_connect_t connect;
	uv_write_t write;
	unsigned open_handles;
	bool is_done;
	char text[256];
	uint8_t *answer;
	size_t used, size;
};

static void next_step(struct fetch *fetch);

static void finish(struct fetch *fetch, const char *error)
{
	struct server *server = fetch->server;
	downstairs_fetched(server->downstairs, error ? NULL : fetch->image, fetch->image_size, error);
	clients_wake(server);
	http_wake(server);
	free(fetch->image);
	free(fetch);
}

static void fail(struct fetch *fetch, const char *what, const char *why)
{
	static const char *const names[] = { "repair files", "extent data", "repair state" };
	char error[ERROR_SIZE];
	snprintf(error, sizeof error, "Failed to get %s: %s%s", names[fetch->step], what, why);
	finish(fetch, error);
}

/* An answer */

/* The body, if the answer is a good one; else NULL, after fail(). */
static const uint8_t *body_of(struct request *request, size_t *size)
{
	struct fetch *fetch = request->fetch;
	const char *head, *end;
	int status;
	request->answer = grown(request->answer, &request->size, request->used + 1, 1);
	request->answer[request->used] = '\0';
	head = (char *)request->answer;
	end = strstr(head, "\r\n\r\n");
	if (!end || sscanf(head, "HTTP/1.%*d %d", &status) != 1) {
		fail(fetch, "no answer", "");
		return NULL;
	}
	if (status != 200) {
		fail(fetch, "refused", "");
		return NULL;
	}
	*size = request->used - (size_t)(end + 4 - head);
	const char *length = strcasestr(head, "\r\ncontent-length:");
	if (length && length < end && strtoull(length + 17, NULL, 10) != *size) {
		fail(fetch, "the answer was cut short", "");
		return NULL;
	}
	return (const uint8_t *)end + 4;
}

static bool is_text(const uint8_t *body, size_t size, const char *text)
{
	return size == strlen(text) && memcmp(body, text, size) == 0;
}

static void take_answer(struct request *request)
{
	struct fetch *fetch = request->fetch;
	char text[64];
	size_t size;
	const uint8_t *body = body_of(request, &size);
	if (!body)
		return;
	switch (fetch->step) {
	case GET_FILES:
		snprintf(text, sizeof text, "[\"%03X\"]", (unsigned)fetch->extent_id & 0xfff);
		if (!is_text(body, size, text)) {
			fail(fetch, "not the file of this extent", "");
			return;
		}
		break;
	case GET_DATA:
		fetch->image = zeroed(size, 1);
		fetch->image_size = size;
		memcpy(fetch->image, body, size);
		break;
	case GET_READY:
		if (is_text(body, size, "true")) {
			finish(fetch, NULL);
			return;
		}
		snprintf(text, sizeof text, "Extent %u on remote repair server is in incorrect state",
			(unsigned)fetch->extent_id);
		finish(fetch, text);
		return;
	}
	fetch->step++;
	next_step(fetch);
}

/* A request */

static void on_closed(uv_handle_t *handle)
{
	struct request *request = handle->data;
	if (--request->open_handles > 0)
		return;
	free(request->answer);
	free(request);
}

/* `what` is NULL if the answer is complete. */
static void end_request(struct request *request, const char *what, const char *why)
{
	if (request->is_done)
		return;
	request->is_done = true;
	uv_close((uv_handle_t *)&request->tcp, on_closed);
	uv_close((uv_handle_t *)&request->timer, on_closed);
	if (what)
		fail(request->fetch, what, why);
	else
		take_answer(request);
}

static void on_timeout(uv_timer_t *timer)
{
	end_request(timer->data, "no answer in time", "");
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct request *request = handle->data;
	(void)suggested;
	request->answer = grown(request->answer, &request->size, request->used + READ_SIZE, 1);
	*buffer = uv_buf_init(
		(char *)request->answer + request->used, (unsigned)(request->size - request->used));
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	struct request *request = stream->data;
	(void)buffer;
	if (count == UV_EOF)
		end_request(request, NULL, NULL);
	else if (count < 0)
		end_request(request, "connection lost: ", uv_strerror((int)count));
	else
		request->used += (size_t)count;
}

static void on_written(uv_write_t *write, int status)
{
	struct request *request = write->data;
	if (status < 0)
		end_request(request, "connection lost: ", uv_strerror(status));
}

static void on_connected(uv_connect_t *connect, int status)
{
	struct request *request = connect->data;
	if (status < 0) {
		end_request(request, "error sending request: ", uv_strerror(status));
		return;
	}
	uv_buf_t buffer = uv_buf_init(request->text, (unsigned)strlen(request->text));
	request->write.data = request;
	uv_read_start((uv_stream_t *)&request->tcp, on_alloc, on_read);
	if (uv_write(&request->write, (uv_stream_t *)&request->tcp, &buffer, 1, on_written) < 0)
		abort();
}

static void next_step(struct fetch *fetch)
{
	static const char *const paths[] = { "extent/%u/files", "newextent/%u/data",
		"extent/%u/repair-ready" };
	char path[64];
	struct request *request = zeroed(1, sizeof *request);
	uv_loop_t *loop = &fetch->server->loop;
	snprintf(path, sizeof path, paths[fetch->step], (unsigned)fetch->extent_id);
	snprintf(
		request->text, sizeof request->text, "GET /%s HTTP/1.0\r\nhost: downstairs\r\n\r\n", path);
	request->fetch = fetch;
	request->open_handles = 2;
	request->tcp.data = request->timer.data = request->connect.data = request;
	uv_tcp_init(loop, &request->tcp);
	uv_timer_init(loop, &request->timer);
	uv_timer_start(&request->timer, on_timeout, TIME_LIMIT, 0);
	int status = uv_tcp_connect(
		&request->connect, &request->tcp, (const struct sockaddr *)&fetch->source, on_connected);
	if (status < 0)
		end_request(request, "error sending request: ", uv_strerror(status));
}

static void on_start(uv_timer_t *timer)
{
	struct fetch *fetch = timer->data;
	uv_close((uv_handle_t *)timer, (uv_close_cb)free);
	next_step(fetch);
}

void fetch_extent(void *context, const struct crucible_address *source, uint32_t extent_id)
{
	struct server *server = context;
	struct fetch *fetch = zeroed(1, sizeof *fetch);
	fetch->server = server;
	fetch->extent_id = extent_id;
	if (source->is_ipv6) {
		struct sockaddr_in6 *address = (struct sockaddr_in6 *)&fetch->source;
		address->sin6_family = AF_INET6;
		address->sin6_port = htons(source->port);
		memcpy(&address->sin6_addr, source->octets, sizeof address->sin6_addr);
	} else {
		struct sockaddr_in *address = (struct sockaddr_in *)&fetch->source;
		address->sin_family = AF_INET;
		address->sin_port = htons(source->port);
		memcpy(&address->sin_addr, source->octets, sizeof address->sin_addr);
	}
	/* Not at once: an answer must not come before the engine has returned. */
	uv_timer_t *timer = zeroed(1, sizeof *timer);
	timer->data = fetch;
	uv_timer_init(&server->loop, timer);
	uv_timer_start(timer, on_start, 0, 0);
}
