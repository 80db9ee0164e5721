#include "gateway-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "durable-file.h"
#include "listen.h"
#include "log.h"
#include "users.h"
#include "volume/ports.h"

const char *const gateway_state_names[] = {
	[GATEWAY_STARTING] = "starting",
	[GATEWAY_SERVING] = "serving",
	[GATEWAY_FENCED] = "fenced",
	[GATEWAY_STOPPING] = "stopping",
};

static void stop(struct gateway *gateway);

/* Fencing */

/* The last request of a fenced export has ended: lets go of what holds the bytes. */
static void on_fenced_drained(void *context)
{
	served_close(context);
}

void gateway_fence(struct gateway *gateway, const struct reason *reason)
{
	if (gateway->state == GATEWAY_FENCED || gateway->state == GATEWAY_STOPPING)
		return;
	log_event(LOG_LEVEL_ERROR, EVENT_FENCED, NULL, LOG_NO_SLOT, "%s: all I/O of VM %llu is refused from now on", reason->text,
		(unsigned long long)gateway->vmid);
	gateway->state = GATEWAY_FENCED;
	notify_fenced(reason);
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		served->is_resolved = true;
		if (served->export->state == EXPORT_FAILED)
			continue;
		served->export->drained = on_fenced_drained;
		served->export->drained_context = served;
		nbd_export_fence(served->export, reason);
		if (served->export->in_flight_count == 0)
			served_close(served);
	}
}

static void on_record_changed(uv_fs_event_t *event, const char *file, int events, int status)
{
	(void)file;
	(void)events;
	(void)status;
	struct gateway *gateway = event->data;
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		struct reason reason;
		int checked = served->is_held
			? ownership_check(gateway->ownership, served->volume.name, &served->hold, &reason)
			: 0;
		if (checked == -EOWNERDEAD)
			gateway_fence(gateway, &reason);
		else if (checked < 0)
			log_warning("%s", reason.text);
	}
}

/* What volumes tell */

void gateway_volume_resolved(struct gateway *gateway)
{
	unsigned serving = 0;
	int first_error = 0;
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		if (!served->is_resolved)
			return;
		serving += served->export->state == EXPORT_SERVING;
		if (first_error == 0)
			first_error = served->error;
	}
	if (gateway->state == GATEWAY_STARTING && serving == 0) {
		gateway->exit_status = exit_status_for(first_error);
		stop(gateway);
		return;
	}
	if (gateway->state == GATEWAY_STARTING)
		gateway->state = GATEWAY_SERVING;
	log_info("serving %u of %zu volumes on %s", serving, gateway->served_count,
		gateway->socket_path);
	notify_ready(gateway);
}

/* Stopping: drain -> deactivate -> release -> close backends -> close the rest */

static void on_closed(void *context)
{
	(void)context; /* the loop ends when all is closed */
}

static void close_rest(struct gateway *gateway)
{
	uv_handle_t *const handles[] = {
		(uv_handle_t *)&gateway->sigterm,
		(uv_handle_t *)&gateway->sigint,
		(uv_handle_t *)&gateway->sighup,
		(uv_handle_t *)&gateway->records,
		(uv_handle_t *)&gateway->starting,
		(uv_handle_t *)&gateway->watchdog,
		(uv_handle_t *)&gateway->leaving,
	};
	for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
		uv_close(handles[i], NULL);
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
		nbd_export_remove(take_pointer(&served->export));
	nbd_server_close(gateway->server, on_closed, NULL);
	control_server_close(gateway->control, on_closed, NULL);
}

void gateway_close_if_last(struct gateway *gateway)
{
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		if (served->backend)
			return;
	}
	if (gateway->is_drained && !gateway->reload) /* gateway_reload_ended() comes back */
		close_rest(gateway);
}

void gateway_reload_ended(struct gateway *gateway)
{
	if (gateway->state == GATEWAY_STOPPING)
		gateway_close_if_last(gateway);
}

static void on_drained(void *context, int error)
{
	struct gateway *gateway = context;
	if (error == -ETIMEDOUT) {
		/* Requests are still in the backends' hands, which so cannot be closed. The claims stay; the
		 * next start resumes them. */
		gateway->exit_status = EXIT_IO;
		uv_stop(&gateway->loop);
		return;
	}
	gateway->is_drained = true;
	bool any = false;
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		any = any || served->backend;
		served_retire(served);
	}
	if (!any)
		gateway_close_if_last(gateway);
}

static void stop(struct gateway *gateway)
{
	if (gateway->state == GATEWAY_STOPPING)
		return;
	gateway->was_fenced = gateway->state == GATEWAY_FENCED;
	gateway->state = GATEWAY_STOPPING;
	notify_stopping();
	nbd_server_drain(gateway->server, gateway->config->stop_timeout * 1000, on_drained, gateway);
}

static void on_signal(uv_signal_t *signal, int number)
{
	struct gateway *gateway = signal->data;
	log_info("stopping: signal %d", number);
	stop(gateway);
}

static void on_stdio_client_gone(void *context)
{
	stop(context);
}

/* Starting */

/* Before a TCP socket is listened on; a gateway that has none does without its certificate. */
static int secure(struct gateway *gateway, struct reason *reason)
{
	const struct config *config = gateway->config;
	struct nbd_credentials *credentials;
	if (!config_has_tls(config))
		return 0;
	int status = nbd_credentials_open(&config->tls, &credentials, reason);
	if (status < 0)
		return status;
	time_t end = nbd_credentials_end(credentials);
	if (end != -1 && end < time(NULL))
		log_warning("[tls] certificate = %s: has expired: clients will not come", config->tls.certificate);
	nbd_server_secure(gateway->server, credentials);
	gateway->is_secured = true;
	return 0;
}

/* Sockets of systemd come first; the VM's own unix socket is made unless it is among them. */
static int listen_inherited(struct gateway *gateway, bool *has_own, struct reason *reason)
{
	int count = sd_listen_fds(1);
	for (int i = 0; i < count; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		*has_own = *has_own || listens_at(fd, gateway->socket_path);
		int flags = fcntl(fd, F_GETFL);
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
			return reason_set(reason, -errno, "inherited descriptor %d: %m", fd);
		int status = listen_check_socket(fd, config_has_tls(gateway->config), reason);
		if (status == 0 && listens_by_tcp(fd))
			status = secure(gateway, reason);
		if (status == 0)
			status = nbd_server_listen(gateway->server, fd, reason);
		if (status < 0)
			return status;
	}
	return count < 0 ? reason_set(reason, count, "LISTEN_FDS: %s", strerror(-count)) : 0;
}

static int listen_own(struct gateway *gateway, struct reason *reason)
{
	mode_t mode = gateway->config->allow_users ? 0666 : 0600; /* SO_PEERCRED decides */
	int fd = listen_unix(gateway->socket_path, mode, reason);
	if (fd < 0)
		return fd;
	gateway->owns_socket = true;
	return nbd_server_listen(gateway->server, fd, reason);
}

static int listen_everywhere(struct gateway *gateway, struct reason *reason)
{
	bool has_own = false;
	int status = listen_inherited(gateway, &has_own, reason);
	if (status == 0 && !has_own && !gateway->stdio)
		status = listen_own(gateway, reason);
	if (status < 0 || !gateway->config->listen)
		return status;
	status = secure(gateway, reason);
	if (status < 0)
		return status;
	int fd = listen_tcp(gateway->config->listen, gateway->nbd_port, config_has_tls(gateway->config), reason);
	return fd < 0 ? fd : nbd_server_listen(gateway->server, fd, reason);
}

static int serve_stdio(struct gateway *gateway, struct reason *reason)
{
	struct stat in, out;
	int in_fd = STDIN_FILENO, out_fd = STDOUT_FILENO;
	if (fstat(in_fd, &in) < 0 || fstat(out_fd, &out) < 0)
		return reason_set(reason, -errno, "standard input and output: %m");
	/* One socket for both is watched as one, which shows when the client hangs up. */
	if (S_ISSOCK(in.st_mode) && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
		out_fd = in_fd;
	for (int fd = in_fd; fd <= out_fd; fd++) {
		int flags = fcntl(fd, F_GETFL);
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
			return reason_set(reason, -errno, "standard input and output: %m");
	}
	return nbd_server_serve(
		gateway->server, in_fd, out_fd, on_stdio_client_gone, gateway, reason);
}

static int open_server(struct gateway *gateway, struct reason *reason)
{
	const struct config *config = gateway->config;
	CLEANUP_FREE uid_t *users = NULL;
	struct nbd_limits limits = {
		.memory = config->memory,
		.connection_memory = config->connection_memory,
		.max_handshakes = (unsigned)config->max_handshakes,
		.max_connections = (unsigned)config->max_connections,
		.handshake_timeout = config->handshake_timeout * 1000,
		.stall_timeout = config->stall_timeout * 1000,
		.busy_poll = config->busy_poll * 1000,
		.slow_request = config->slow_request * 1000000,
		.list_exports = config->list_exports,
	};
	int status = users_parse(config->allow_users, &users, &limits.allowed_user_count, reason);
	if (status < 0)
		return status;
	limits.allowed_users = users;
	return nbd_server_open(&gateway->loop, &limits, &gateway->server, reason);
}

/* Those that a start finds. The unix socket has all of them, TCP has one port for all: that of the first. */
static int add_exports(struct gateway *gateway, struct volumes *volumes, struct reason *reason)
{
	struct served_volume *served;
	int status = 0;
	gateway->nbd_port = volume_nbd_port(&volumes->items[0]);
	for (size_t i = 0; status == 0 && i < volumes->count; i++)
		status = served_add(gateway, &volumes->items[i], &served, reason);
	return status;
}

static void start_signals(struct gateway *gateway)
{
	uv_signal_init(&gateway->loop, &gateway->sigterm);
	uv_signal_init(&gateway->loop, &gateway->sigint);
	uv_signal_init(&gateway->loop, &gateway->sighup);
	gateway->sigterm.data = gateway->sigint.data = gateway->sighup.data = gateway;
	uv_signal_start(&gateway->sigterm, on_signal, SIGTERM);
	uv_signal_start(&gateway->sigint, on_signal, SIGINT);
	uv_signal_start(&gateway->sighup, on_signal, SIGHUP);
}

/* From before the claims on, so that no change is missed. */
static int watch_records(struct gateway *gateway, struct reason *reason)
{
	const char *claim_dir = gateway->config->claim_dir;
	uv_fs_event_init(&gateway->loop, &gateway->records);
	gateway->records.data = gateway;
	int status = make_directory(claim_dir, reason);
	if (status < 0)
		return status;
	status = uv_fs_event_start(&gateway->records, on_record_changed, claim_dir, 0);
	return status < 0 ? reason_set(reason, status, "%s: cannot watch: %s", claim_dir,
							uv_strerror(status))
					  : 0;
}

static int read_volumes(const struct gateway *gateway, struct volumes *volumes, struct reason *reason)
{
	struct faults faults = { 0 };
	int status = volumes_read(gateway->config, gateway->vmid, volumes, &faults);
	for (size_t i = 0; volumes->count > 0 && i < faults.count; i++) {
		char text[512];
		log_error("%s: this volume is not served", fault_text(&faults.items[i], text, sizeof text));
	}
	if (volumes->count > 0)
		status = 0;
	else if (status < 0)
		status = faults_reason(&faults, reason);
	else
		status = reason_set(reason, -ENOENT,
			"VM %llu: no volumes in %s: make one with tb4 volume create %llu SIZE",
			(unsigned long long)gateway->vmid, gateway->config->volume_dir,
			(unsigned long long)gateway->vmid);
	faults_free(&faults);
	return status;
}

static int open_paths(struct gateway *gateway, struct reason *reason)
{
	const char *directory = ownership_directory(gateway->ownership);
	gateway->socket_path = path_join(directory, "nbd.sock");
	gateway->control_path = path_join(directory, "control.sock");
	return gateway->socket_path && gateway->control_path ? 0
														  : reason_set(reason, -ENOMEM, "out of memory");
}

/* Everything that can fail before the first volume is touched. */
static int start(struct gateway *gateway, struct reason *reason)
{
	struct volumes volumes = { 0 };
	int status = ownership_open(gateway->config, gateway->vmid, &gateway->ownership, reason);
	if (status == 0) /* behind the lock: from here on nobody else changes them */
		status = read_volumes(gateway, &volumes, reason);
	if (status == 0)
		status = open_paths(gateway, reason);
	if (status == 0)
		status = open_server(gateway, reason);
	if (status == 0)
		status = add_exports(gateway, &volumes, reason);
	volumes_free(&volumes);
	if (status == 0)
		status = gateway_read_limits(gateway, reason);
	if (status == 0)
		status = watch_records(gateway, reason);
	if (status == 0)
		status = control_server_open(&gateway->loop, gateway->control_path, gateway_handle_control,
			gateway, &gateway->control, reason);
	if (status == 0)
		status = listen_everywhere(gateway, reason);
	if (status == 0 && gateway->stdio)
		status = serve_stdio(gateway, reason);
	return status;
}

/* Takes back what start() has opened before it failed. */
static void undo_start(struct gateway *gateway)
{
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
		nbd_export_remove(take_pointer(&served->export));
	if (gateway->server)
		nbd_server_close(gateway->server, on_closed, NULL);
	if (gateway->control)
		control_server_close(gateway->control, on_closed, NULL);
	if (gateway->records.loop)
		uv_close((uv_handle_t *)&gateway->records, NULL);
	uv_run(&gateway->loop, UV_RUN_DEFAULT);
	uv_loop_close(&gateway->loop);
}

static void free_gateway(struct gateway *gateway)
{
	if (gateway->owns_socket)
		unlink(gateway->socket_path);
	ownership_close(gateway->ownership);
	while (!list_empty(&gateway->served))
		gateway_forget_volume(LIST_FIRST(&gateway->served, struct served_volume, link));
	free(gateway->socket_path);
	free(gateway->control_path);
}

int gateway_run(const struct gateway_options *options)
{
	struct gateway gateway = {
		.config = options->config,
		.vmid = options->vmid,
		.stdio = options->stdio,
	};
	struct reason reason;
	list_init(&gateway.served);
	int status = uv_loop_init(&gateway.loop);
	if (status < 0) {
		log_error("cannot start: %s", uv_strerror(status));
		return EXIT_INTERNAL;
	}
	signal(SIGPIPE, SIG_IGN); /* before the first client, who may be gone already */
	signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error like any other */
	gateway.started = uv_now(&gateway.loop);
	status = start(&gateway, &reason);
	if (status < 0) {
		log_error("%s", reason.text);
		undo_start(&gateway);
		free_gateway(&gateway);
		return exit_status_for(status);
	}
	start_signals(&gateway);
	notify_start(&gateway);
	uv_timer_init(&gateway.loop, &gateway.leaving);
	gateway.leaving.data = &gateway;
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway.served, link)
		served_start(served);
	uv_run(&gateway.loop, UV_RUN_DEFAULT);
	if (uv_loop_close(&gateway.loop) < 0)
		_exit(gateway.exit_status); /* requests are left, and they need what they use until the end */
	if (gateway.was_fenced && ownership_forget(gateway.ownership, &reason) < 0)
		log_error("%s", reason.text);
	free_gateway(&gateway);
	return gateway.exit_status;
}
