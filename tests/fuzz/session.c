#include "session.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "memory-backend.h"
#include "nbd/server-internal.h"

static uv_loop_t loop;
static struct nbd_server *server;

uv_loop_t *session_loop(void)
{
	session_server();
	return &loop;
}

/* One key that nobody has. */
static struct nbd_credentials *make_credentials(void)
{
	char path[] = "/tmp/tb4-fuzz-XXXXXX";
	static const char line[] = "fuzz:000102030405060708090a0b0c0d0e0f\n";
	struct nbd_credentials *credentials;
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, line, sizeof line - 1) != sizeof line - 1 ||
		nbd_credentials_open(&(struct nbd_credential_files){ .psk_file = path }, &credentials, NULL) < 0)
		abort();
	close(fd);
	unlink(path);
	return credentials;
}

struct nbd_server *session_server(void)
{
	static const struct nbd_limits limits = {
		.memory = 64 << 20,
		.connection_memory = 32 << 20,
		.max_handshakes = 4,
		.max_connections = 4,
		.handshake_timeout = 10000,
		.stall_timeout = 10000,
		.list_exports = true,
	};
	if (server)
		return server;
	log_open("fuzz", LOG_LEVEL_ERROR - 1);
	signal(SIGPIPE, SIG_IGN); /* as the gateway does */
	if (uv_loop_init(&loop) < 0 || nbd_server_open(&loop, &limits, &server, NULL) < 0)
		abort();
	nbd_server_secure(server, make_credentials());
	struct nbd_export *export =
		nbd_export_add(server, "vm-200-disk-0", "for the fuzzer", true, false, MEMORY_SIZE);
	nbd_export_serve(export, memory_backend());
	return server;
}

static bool is_gone;

static void on_ended(void *context)
{
	(void)context;
	is_gone = true;
}

static void discard_answers(int fd)
{
	static uint8_t answers[1 << 16];
	while (recv(fd, answers, sizeof answers, MSG_DONTWAIT) > 0)
		;
}

/* Lets the server go on until it has nothing to do. */
static void settle(int fd)
{
	for (unsigned quiet = 0; quiet < 3 && !is_gone; quiet++) {
		if (uv_run(&loop, UV_RUN_NOWAIT) == 0)
			break;
		discard_answers(fd);
	}
}

void session_run(const struct session_piece *pieces, size_t count, bool needs_tls)
{
	int fds[2];
	struct nbd_connection *connection;
	session_server();
	is_gone = false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0 ||
		connection_open(server, fds[0], fds[0], "fuzzer", needs_tls, &connection) < 0)
		abort();
	connection->ended = on_ended;
	for (size_t i = 0; i < count && !is_gone; i++) {
		size_t sent = 0;
		while (sent < pieces[i].length && !is_gone) {
			ssize_t n = send(fds[1], pieces[i].bytes + sent, pieces[i].length - sent, MSG_NOSIGNAL);
			sent += n > 0 ? (size_t)n : 0;
			settle(fds[1]);
			if (n <= 0)
				break;
		}
	}
	settle(fds[1]);
	if (needs_tls && !is_gone && server->connection_count > 0)
		abort();
	close(fds[1]);
	while (!is_gone)
		uv_run(&loop, UV_RUN_NOWAIT);
}
