#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "volume/ports.h"
#include "volume/target.h"

enum { BACKLOG = 128 };

int listen_unix(const char *path, mode_t mode, struct reason *reason)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path)
		return reason_set(reason, -ENAMETOOLONG, "%s: too long for a socket: shorten run_dir", path);
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	unlink(path);
	mode_t mask = umask(0777 & ~mode);
	int status = bind(fd, (struct sockaddr *)&address, sizeof address);
	umask(mask);
	if (status < 0 || listen(fd, BACKLOG) < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	return take_fd(&fd);
}

/* Fills in the socket address; false if the text is none. */
static bool parse_address(const char *text, uint16_t port, struct sockaddr_storage *address,
	socklen_t *length, bool *is_loopback)
{
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
	*address = (struct sockaddr_storage){ 0 };
	if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		*length = sizeof *in;
		*is_loopback = ntohl(in->sin_addr.s_addr) >> 24 == 127;
		return true;
	}
	if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		*length = sizeof *in6;
		*is_loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
		return true;
	}
	return false;
}

int listen_check_address(const char *text, bool has_tls, struct reason *reason)
{
	struct sockaddr_storage address;
	socklen_t length;
	bool is_loopback;
	if (!parse_address(text, 0, &address, &length, &is_loopback))
		return reason_set(reason, -ENOTUNIQ, "listen = %s: not a numeric address", text);
	if (!is_loopback && !has_tls)
		return reason_set(reason, -ENOTUNIQ,
			"listen = %s: beyond loopback NBD needs TLS: give [tls] in tb4.conf, see tb4 cert in tb4(1)", text);
	return 0;
}

int listen_check_socket(int fd, bool has_tls, struct reason *reason)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof address;
	char text[INET6_ADDRSTRLEN] = "";
	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return 0; /* no socket: nbd_server_listen() says so */
	if (address.ss_family == AF_INET)
		inet_ntop(AF_INET, &((struct sockaddr_in *)&address)->sin_addr, text, sizeof text);
	else if (address.ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&address)->sin6_addr, text, sizeof text);
	return text[0] ? listen_check_address(text, has_tls, reason) : 0;
}

/* `text` has been checked to be an address. */
static int bind_tcp(const char *text, uint16_t port, struct reason *reason)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = 0;
	bool is_loopback;
	int on = 1;
	parse_address(text, port, &address, &length, &is_loopback);
	CLEANUP_CLOSE int fd =
		socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return reason_set(reason, -errno, "listen = %s: %m", text);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, BACKLOG) == 0)
		return take_fd(&fd);
	int status = -errno;
	char holder[128];
	if (status == -EADDRINUSE && port_listener((struct sockaddr *)&address, holder, sizeof holder))
		return reason_set(reason, status, "port %u on %s is taken by %s", port, text, holder);
	return reason_set(reason, status, "port %u on %s: %s", port, text, strerror(-status));
}

int listen_tcp(const char *text, uint16_t port, bool has_tls, struct reason *reason)
{
	int status = listen_check_address(text, has_tls, reason);
	return status < 0 ? status : bind_tcp(text, port, reason);
}

static int parse_http(const char *text, char host[TARGET_HOST_MAX], uint16_t *port, struct reason *reason)
{
	struct sockaddr_storage address;
	socklen_t length;
	bool is_loopback;
	if (target_parse(text, host, port) < 0 || !parse_address(host, *port, &address, &length, &is_loopback))
		return reason_set(reason, -ENOTUNIQ, "listen = %s: not ADDRESS:PORT with a numeric address", text);
	return 0;
}

int listen_check_http(const char *text, struct reason *reason)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	return parse_http(text, host, &port, reason);
}

int listen_http(const char *text, struct reason *reason)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	int status = parse_http(text, host, &port, reason);
	return status < 0 ? status : bind_tcp(host, port, reason);
}

bool listen_holder(const char *text, uint16_t port, char *holder, size_t size)
{
	struct sockaddr_storage address;
	socklen_t length;
	bool is_loopback;
	return parse_address(text, port, &address, &length, &is_loopback) &&
		port_listener((struct sockaddr *)&address, holder, size);
}

bool listens_by_tcp(int fd)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof address;
	return getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
		(address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

bool listens_at(int fd, const char *path)
{
	struct sockaddr_un address = { 0 };
	socklen_t length = sizeof address;
	return getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
		address.sun_family == AF_UNIX && strncmp(address.sun_path, path, sizeof address.sun_path) == 0;
}
