#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "listen.h"
#include "scratch.h"
#include "unit.h"

static struct reason reason;

/* addresses */

static void loopback_addresses_may_be_used_without_tls(void **state)
{
	(void)state;
	static const char *const good[] = { "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1",
		"0:0:0:0:0:0:0:1" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		if (listen_check_address(good[i], false, &reason) != 0)
			fail_msg("%s is refused", good[i]);
	}
}

static void addresses_beyond_loopback_need_tls(void **state)
{
	(void)state;
	static const char *const beyond[] = { "0.0.0.0", "10.0.0.1", "192.168.1.1", "126.255.255.255",
		"128.0.0.1", "255.255.255.255", "::", "::2", "fe80::1", "2001:db8::1", "::ffff:10.0.0.1",
		"::ffff:0.0.0.0" };
	for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
		assert_int_equal(listen_check_address(beyond[i], false, &reason), -ENOTUNIQ);
		assert_non_null(strstr(reason.text, beyond[i]));
		assert_non_null(strstr(reason.text, "TLS"));
		assert_int_equal(listen_tcp(beyond[i], 0, false, &reason), -ENOTUNIQ);
		assert_int_equal(listen_check_address(beyond[i], true, &reason), 0);
	}
}

static void what_is_no_numeric_address_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "localhost", "127.1", "127.0.0.1:10809", "[::1]",
		"127.0.0.256", "127.0.0.1 ", "*", "::1%lo", "0x7f000001", "2130706433" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		for (int has_tls = 0; has_tls < 2; has_tls++) {
			assert_int_equal(listen_check_address(bad[i], has_tls, &reason), -ENOTUNIQ);
			assert_non_null(strstr(reason.text, "not a numeric address"));
		}
	}
}

static void http_may_listen_anywhere_at_a_numeric_address(void **state)
{
	(void)state;
	static const char *const good[] = { "127.0.0.1:9199", "0.0.0.0:1", "10.1.2.3:65535", "[::1]:9199", "[::]:9199" };
	static const char *const bad[] = { "", "9199", ":9199", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
		"127.0.0.1:-1", "127.0.0.1:9199x", "localhost:9199", "::1:9199", "[::1]", "[127.0.0.1:9199", "[fe80::1%lo]:9199" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		if (listen_check_http(good[i], &reason) != 0)
			fail_msg("%s is refused", good[i]);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(listen_check_http(bad[i], &reason), -ENOTUNIQ);
		assert_int_equal(listen_http(bad[i], &reason), -ENOTUNIQ);
		assert_non_null(strstr(reason.text, "not ADDRESS:PORT"));
	}
}

/* TCP */

static uint16_t port_of(int fd)
{
	struct sockaddr_in address;
	socklen_t length = sizeof address;
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	return ntohs(address.sin_port);
}

static void a_tcp_listener_takes_clients_on_its_address(void **state)
{
	(void)state;
	int fd = listen_tcp("127.0.0.1", 0, false, &reason);
	assert_true(fd >= 0);
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port_of(fd)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof address), 0);
	close(client);
	close(fd);
}

static void a_taken_port_is_reported_with_its_holder(void **state)
{
	(void)state;
	char pid[40];
	int fd = listen_tcp("127.0.0.1", 0, false, &reason);
	assert_true(fd >= 0);
	snprintf(pid, sizeof pid, "pid %d", getpid());
	assert_int_equal(listen_tcp("127.0.0.1", port_of(fd), false, &reason), -EADDRINUSE);
	assert_non_null(strstr(reason.text, pid));
	close(fd);
}

/* Somebody else may listen on the same port of another address. */
static void the_holder_of_a_taken_port_is_the_one_on_that_address(void **state)
{
	(void)state;
	int sockets[2], status = -1;
	int held = listen_tcp("127.0.0.1", 0, false, &reason);
	uint16_t port = port_of(held);
	assert_int_equal(pipe(sockets), 0);
	pid_t child = fork();
	if (child == 0) { /* another process, on another address */
		close(held);
		int fd = listen_tcp("127.0.0.9", port, false, NULL);
		dprintf(sockets[1], "%c", fd >= 0 ? 'y' : 'n');
		for (;;)
			pause();
	}
	char ready = 'n', mine[40], theirs[40];
	assert_int_equal(read(sockets[0], &ready, 1), 1);
	snprintf(mine, sizeof mine, "pid %d (", getpid());
	snprintf(theirs, sizeof theirs, "pid %d (", child);
	if (ready == 'y')
		status = listen_tcp("127.0.0.1", port, false, &reason);
	struct reason first = reason;
	if (ready == 'y')
		listen_tcp("127.0.0.9", port, false, &reason);
	kill(child, SIGKILL);
	await_child(child, 60);
	close(sockets[0]);
	close(sockets[1]);
	close(held);
	assert_int_equal(ready, 'y');
	assert_int_equal(status, -EADDRINUSE);
	assert_non_null(strstr(first.text, mine));
	assert_non_null(strstr(reason.text, theirs));
}

/* unix sockets */

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int status = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
	close(fd);
	return status;
}

static mode_t mode_of(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	return st.st_mode & 07777;
}

static void a_unix_listener_takes_clients(void **state)
{
	(void)state;
	const char *path = in_scratch("socket");
	int fd = listen_unix(path, 0600, &reason);
	assert_true(fd >= 0);
	assert_int_equal(connect_to(path), 0);
	close(fd);
}

static void a_socket_has_exactly_its_mode_whatever_the_umask(void **state)
{
	(void)state;
	static const mode_t masks[] = { 0, 022, 077, 0777 }, modes[] = { 0600, 0666 };
	for (size_t i = 0; i < 4; i++) {
		for (size_t k = 0; k < 2; k++) {
			const char *path = in_scratch("socket");
			mode_t before = umask(masks[i]);
			int fd = listen_unix(path, modes[k], &reason);
			mode_t after = umask(before);
			assert_true(fd >= 0);
			close(fd);
			assert_int_equal(mode_of(path), modes[k]);
			assert_int_equal(after, masks[i]);
		}
	}
}

static void what_a_crash_left_at_the_path_is_replaced(void **state)
{
	(void)state;
	const char *path = in_scratch("socket");
	int fd = listen_unix(path, 0600, &reason);
	close(fd);
	assert_int_equal(connect_to(path), -ECONNREFUSED);
	fd = listen_unix(path, 0600, &reason);
	assert_true(fd >= 0);
	assert_int_equal(connect_to(path), 0);
	close(fd);
}

static void a_path_that_fits_no_socket_is_refused(void **state)
{
	(void)state;
	char name[200] = "";
	while (strlen(in_scratch(name)) < 107)
		strcat(name, "x");
	int fd = listen_unix(in_scratch(name), 0600, &reason);
	assert_true(fd >= 0);
	close(fd);
	strcat(name, "x");
	assert_int_equal(listen_unix(in_scratch(name), 0600, &reason), -ENAMETOOLONG);
	assert_non_null(strstr(reason.text, "run_dir"));
	assert_false(exists(in_scratch(name)));
}

static void a_missing_directory_is_named(void **state)
{
	(void)state;
	const char *path = in_scratch("none/socket");
	assert_int_equal(listen_unix(path, 0600, &reason), -ENOENT);
	assert_non_null(strstr(reason.text, path));
}

static void a_listener_is_known_by_its_path(void **state)
{
	(void)state;
	const char *path = in_scratch("socket");
	int fd = listen_unix(path, 0600, &reason), tcp = listen_tcp("127.0.0.1", 0, false, &reason);
	assert_true(listens_at(fd, path));
	assert_false(listens_at(fd, in_scratch("socke")));
	assert_false(listens_at(fd, in_scratch("socket2")));
	assert_false(listens_at(fd, ""));
	assert_false(listens_at(tcp, path));
	assert_false(listens_at(-1, path));
	close(fd);
	close(tcp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loopback_addresses_may_be_used_without_tls),
		cmocka_unit_test(addresses_beyond_loopback_need_tls),
		cmocka_unit_test(what_is_no_numeric_address_is_refused),
		cmocka_unit_test(http_may_listen_anywhere_at_a_numeric_address),
		cmocka_unit_test(a_tcp_listener_takes_clients_on_its_address),
		cmocka_unit_test(a_taken_port_is_reported_with_its_holder),
		cmocka_unit_test(the_holder_of_a_taken_port_is_the_one_on_that_address),
		scratch_test(a_unix_listener_takes_clients),
		scratch_test(a_socket_has_exactly_its_mode_whatever_the_umask),
		scratch_test(what_a_crash_left_at_the_path_is_replaced),
		scratch_test(a_path_that_fits_no_socket_is_refused),
		scratch_test(a_missing_directory_is_named),
		scratch_test(a_listener_is_known_by_its_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
