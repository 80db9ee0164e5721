#include "exporter/exporter.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control/gateways.h"
#include "control/metrics-text.h"
#include "log.h"

enum { CLIENT_MEMORY = 16 << 10 }; /* bytes of a client's request line and headers at most */

struct exporter {
	const char *run_dir;
	struct MHD_Daemon *daemon;
};

static const char landing_page[] =
	"<!DOCTYPE html>\n<title>tb4-exporter</title>\n<h1>tb4-exporter</h1>\n"
	"<p>Figures of the gateways of this node, for Prometheus: <a href=\"/metrics\">/metrics</a>. "
	"See tb4-exporter(8).</p>\n";

/* A scrape */

/* What stands for a gateway that does not answer. NULL without memory. */
static struct json_object *only_number(uint64_t vmid)
{
	CLEANUP_JSON struct json_object *gateway = json_object_new_object();
	return json_add_number(gateway, "vmid", vmid) ? take_pointer(&gateway) : NULL;
}

static struct json_object *take_answers(const struct vmids *vmids, struct gateway_answers *answers)
{
	CLEANUP_JSON struct json_object *list = json_object_new_array();
	for (size_t i = 0; i < answers->count; i++) {
		uint64_t vmid = vmids->items[i];
		struct json_object *gateway = gateway_take_answer(&answers->items[i], vmid);
		if (!json_append(list, gateway ? gateway : only_number(vmid)))
			return NULL;
	}
	return take_pointer(&list);
}

static struct json_object *ask_all(const char *run_dir)
{
	CLEANUP(vmids_free) struct vmids vmids = { 0 };
	CLEANUP(gateway_answers_free) struct gateway_answers answers = { 0 };
	if (vmids_add_sockets(&vmids, run_dir) < 0)
		return NULL;
	vmids_sort(&vmids);
	if (gateways_ask(run_dir, &vmids, "metrics", EXPORTER_TIMEOUT_MS, &answers) < 0)
		return NULL;
	return take_answers(&vmids, &answers);
}

/* malloc'ed, NULL without memory. */
static char *scrape(const char *run_dir, size_t *length)
{
	char *text = NULL;
	CLEANUP_JSON struct json_object *gateways = ask_all(run_dir);
	FILE *out = gateways ? open_memstream(&text, length) : NULL;
	if (!out)
		return NULL;
	metrics_write(out, gateways);
	bool is_whole = !ferror(out);
	if (fclose(out) == 0 && is_whole)
		return text;
	free(text);
	return NULL;
}

/* HTTP */

/* Queues the response, which may be NULL without memory; that drops the client. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
	struct MHD_Response *response)
{
	if (!response)
		return MHD_NO;
	enum MHD_Result result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (result == MHD_YES && status == MHD_HTTP_METHOD_NOT_ALLOWED)
		result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	if (result == MHD_YES)
		result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer_constant(struct MHD_Connection *connection, unsigned status, const char *type,
	const char *text)
{
	return answer(connection, status, type,
		MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT));
}

static enum MHD_Result answer_metrics(const struct exporter *exporter, struct MHD_Connection *connection)
{
	size_t length;
	char *text = scrape(exporter->run_dir, &length);
	if (!text)
		return answer_constant(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain", "out of memory\n");
	struct MHD_Response *response = MHD_create_response_from_buffer(length, text, MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(text);
	return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", response);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *upload, size_t *upload_size, void **state)
{
	static int headers_are_read;
	(void)version;
	(void)upload;
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_constant(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET and HEAD only\n");
	if (!*state) { /* called again when the whole request is there */
		*state = &headers_are_read;
		return MHD_YES;
	}
	if (*upload_size > 0) { /* a body, which means nothing here */
		*upload_size = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/metrics") == 0)
		return answer_metrics(context, connection);
	if (strcmp(url, "/") == 0)
		return answer_constant(connection, MHD_HTTP_OK, "text/html; charset=utf-8", landing_page);
	return answer_constant(connection, MHD_HTTP_NOT_FOUND, "text/plain", "there is only /metrics\n");
}

static void on_complaint(void *context, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void on_complaint(void *context, const char *format, va_list args)
{
	char text[400];
	(void)context;
	vsnprintf(text, sizeof text, format, args);
	text[strcspn(text, "\n")] = '\0';
	log_peer("client: %s", text);
}

/* Life */

int exporter_open(const char *run_dir, int fd, struct exporter **out, struct reason *reason)
{
	struct exporter *exporter = calloc(1, sizeof *exporter);
	*out = exporter;
	if (!exporter) {
		close(fd);
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	exporter->run_dir = run_dir;
	errno = 0;
	exporter->daemon = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
		exporter, MHD_OPTION_EXTERNAL_LOGGER, on_complaint, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)EXPORTER_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)EXPORTER_IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CLIENT_MEMORY, MHD_OPTION_END);
	if (exporter->daemon)
		return 0;
	int status = errno ? -errno : -ENOMEM;
	close(fd);
	free(exporter);
	*out = NULL;
	return reason_set(reason, status, "cannot serve HTTP: %s", strerror(-status));
}

void exporter_close(struct exporter *exporter)
{
	MHD_stop_daemon(exporter->daemon);
	free(exporter);
}
