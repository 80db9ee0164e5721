/* command-run.c: serves a region until it is killed. */
#include <arpa/inet.h>
#include <err.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "server.h"
#include "store-files.h"

enum { REPAIR_PORT_OFFSET = 4000, SILENCE_LIMIT = 45000, SILENCE_CHECK = 500 };

struct run_options {
	const char *directory, *address, *control;
	const char *authority, *certificate, *key; /* all, or none: no TLS */
	int port, repair_port;
	bool read_only, really_syncs;
	uint64_t silence_limit;
};

static void on_died(void *context, const char *reason)
{
	(void)context;
	fprintf(stderr, "tb4-test-downstairs: upstream would abort: %s\n", reason);
	abort();
}

static bool on_job(void *context, const struct crucible_message *job)
{
	return faults_fail_job(&((struct server *)context)->faults, job->type);
}

static const struct downstairs_callbacks callbacks = {
	.send = client_send,
	.close = client_close,
	.fetch = fetch_extent,
	.died = on_died,
	.test_error = on_job,
};

static void on_tick(uv_timer_t *timer)
{
	clients_drop_silent(timer->data);
}

/* Binds the port; *address is told what it became. */
static void bind_port(struct server *server, uv_tcp_t *tcp, const char *host, int port,
	struct crucible_address *address)
{
	struct sockaddr_storage any = { 0 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&any;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&any;
	*address = (struct crucible_address){ .is_ipv6 = strchr(host, ':'), .port = (uint16_t)port };
	int status = address->is_ipv6 ? uv_ip6_addr(host, port, v6) : uv_ip4_addr(host, port, v4);
	if (status == 0)
		status = uv_tcp_init(&server->loop, tcp);
	if (status == 0)
		status = uv_tcp_bind(tcp, (struct sockaddr *)&any, 0);
	if (status < 0)
		errx(1, "%s:%d: %s", host, port, uv_strerror(status));
	if (address->is_ipv6)
		memcpy(address->octets, &v6->sin6_addr, 16);
	else
		memcpy(address->octets, &v4->sin_addr, 4);
}

static void start_engine(
	struct server *server, const struct run_options *options, struct crucible_address repair)
{
	struct crucible_error error;
	char text[160];
	struct downstairs_options engine_options = {
		.read_only = options->read_only,
		.repair_address = repair,
		.callbacks = &callbacks,
		.context = server,
	};
	server->downstairs = downstairs_start(server->disk, &engine_options, &error);
	if (server->downstairs)
		return;
	if (error.kind != CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT)
		errx(1, "the region cannot be opened");
	crucible_error_text(&error, text, sizeof text);
	errx(1, "%s", text);
}

static void serve(const struct run_options *options)
{
	static struct server server;
	struct crucible_address data, repair;
	signal(SIGPIPE, SIG_IGN);
	faults_init(&server.faults);
	list_init(&server.clients);
	list_init(&server.http_clients);
	uv_loop_init(&server.loop);
	server.read_only = options->read_only;
	server.silence_limit = options->silence_limit;
	if (options->authority)
		server.identity = tls_server_identity_open(options->authority, options->certificate, options->key);
	struct store *store = store_open(
		options->directory, options->read_only, options->really_syncs, &server.region);
	server.disk = disk_open(&server.region, store);
	disk_set_hook(server.disk, faults_on_disk, &server.faults);
	bind_port(&server, &server.listener, options->address, options->port, &data);
	bind_port(&server, &server.http_listener, options->address, options->repair_port, &repair);
	start_engine(&server, options, repair);
	if (options->control)
		control_listen(&server, options->control);
	http_listen(&server);
	clients_listen(&server); /* last: who can connect here finds the others too */
	server.silence_timer.data = &server;
	uv_timer_init(&server.loop, &server.silence_timer);
	uv_timer_start(&server.silence_timer, on_tick, SILENCE_CHECK, SILENCE_CHECK);
	puts("ready");
	fflush(stdout);
	uv_run(&server.loop, UV_RUN_DEFAULT);
}

int command_run(int argc, char **argv)
{
	static const struct option known[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "address", required_argument, NULL, 'a' },
		{ "port", required_argument, NULL, 'p' },
		{ "repair-port", required_argument, NULL, 'r' },
		{ "read-only", no_argument, NULL, 'o' },
		{ "control", required_argument, NULL, 'c' },
		{ "sync", no_argument, NULL, 's' },
		{ "silence-limit", required_argument, NULL, 'l' },
		{ "root-cert-pem", required_argument, NULL, 'A' },
		{ "cert-pem", required_argument, NULL, 'C' },
		{ "key-pem", required_argument, NULL, 'K' },
		{ 0 },
	};
	struct run_options options = { .address = "127.0.0.1", .silence_limit = SILENCE_LIMIT };
	int option;
	while ((option = getopt_long(argc, argv, "d:p:a:", known, NULL)) >= 0) {
		switch (option) {
		case 'd':
			options.directory = optarg;
			break;
		case 'a':
			options.address = optarg;
			break;
		case 'p':
			options.port = atoi(optarg);
			break;
		case 'r':
			options.repair_port = atoi(optarg);
			break;
		case 'o':
			options.read_only = true;
			break;
		case 'c':
			options.control = optarg;
			break;
		case 's':
			options.really_syncs = true;
			break;
		case 'l':
			options.silence_limit = strtoull(optarg, NULL, 10);
			break;
		case 'A':
			options.authority = optarg;
			break;
		case 'C':
			options.certificate = optarg;
			break;
		case 'K':
			options.key = optarg;
			break;
		default:
			return 2;
		}
	}
	if (options.repair_port == 0)
		options.repair_port = options.port + REPAIR_PORT_OFFSET;
	if (!options.directory || options.port < 1 || options.repair_port > UINT16_MAX)
		errx(2, "--dir or --port is missing, or the ports are none");
	if (!options.authority != !options.certificate || !options.authority != !options.key)
		errx(2, "--root-cert-pem, --cert-pem and --key-pem go together");
	serve(&options);
	return 0;
}
