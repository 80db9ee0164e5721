/* fuzz-control: any bytes on the control socket of a gateway with one volume. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway-internal.h"
#include "memory-backend.h"
#include "session.h"

static char directory[] = "/tmp/tb4-fuzz.XXXXXX", path[64];
static struct gateway gateway;
static struct config config = { .volume_dir = directory };
static struct served_volume served;

static void remove_socket(void)
{
	unlink(path);
	rmdir(directory);
}

static void on_step(void *context, enum backend_step step, int error, const struct reason *reason)
{
	(void)context;
	if (step == BACKEND_RESIZED)
		gateway_resize_done(&served, error, reason);
}

static void start(void)
{
	if (!mkdtemp(directory))
		abort();
	snprintf(path, sizeof path, "%s/control.sock", directory);
	atexit(remove_socket);
	gateway.server = session_server();
	gateway.vmid = 200;
	gateway.state = GATEWAY_SERVING;
	gateway.socket_path = path;
	gateway.config = &config;
	if (uv_loop_init(&gateway.loop) < 0) /* for what is done on threads */
		abort();
	list_init(&gateway.served);
	list_append(&gateway.served, &served.link);
	gateway.served_count = 1;
	served.gateway = &gateway;
	strcpy(served.volume.name, "vm-200-disk-1");
	volume_name_parse(served.volume.name, &served.volume.parsed);
	served.export = nbd_export_add(gateway.server, served.volume.name, NULL, false, false, MEMORY_SIZE);
	served.backend = memory_backend();
	served.backend->events.step = on_step;
	served.is_active = true;
	nbd_export_serve(served.export, served.backend);
	if (control_server_open(session_loop(), path, gateway_handle_control, &gateway, &gateway.control,
			NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t answers[1 << 16];
	if (!gateway.control)
		start();
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		abort();
	size_t sent = 0;
	for (unsigned turn = 0; turn < 20; turn++) {
		ssize_t n = sent < size ? send(fd, data + sent, size - sent, MSG_NOSIGNAL) : 0;
		sent += n > 0 ? (size_t)n : 0;
		uv_run(session_loop(), UV_RUN_NOWAIT);
		uv_run(&gateway.loop, UV_RUN_DEFAULT);
		ssize_t got = recv(fd, answers, sizeof answers, 0);
		if (n <= 0 && got <= 0 && turn > 2)
			break;
	}
	close(fd);
	uv_run(session_loop(), UV_RUN_NOWAIT);
	uv_run(session_loop(), UV_RUN_NOWAIT);
	return 0;
}
