/* What protocol/test_tls.py cannot see from outside: credentials that are replaced while connections are there. */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd/tls.h"
#include "scratch.h"
#include "unit.h"

enum { KEY_SIZE = 16 };

static struct nbd_credentials *credentials_with(uint8_t byte)
{
	struct nbd_credentials *credentials;
	struct reason reason;
	char line[64] = "guest:", *path = (char *)in_scratch("psk");
	for (unsigned i = 0; i < KEY_SIZE; i++)
		snprintf(line + strlen(line), 3, "%02x", byte);
	put_text_in(path, line);
	chmod(path, 0600);
	const struct nbd_credential_files files = { .psk_file = path };
	assert_int_equal(nbd_credentials_open(&files, &credentials, &reason), 0);
	return credentials;
}

/* The client's side. */
struct client {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t credentials;
};

static void open_client(struct client *client, int fd, uint8_t byte)
{
	uint8_t bytes[KEY_SIZE];
	memset(bytes, byte, sizeof bytes);
	const gnutls_datum_t key = { .data = bytes, .size = sizeof bytes };
	assert_int_equal(gnutls_psk_allocate_client_credentials(&client->credentials), 0);
	assert_int_equal(
		gnutls_psk_set_client_credentials(client->credentials, "guest", &key, GNUTLS_PSK_KEY_RAW), 0);
	assert_int_equal(gnutls_init(&client->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
	assert_int_equal(gnutls_priority_set_direct(client->session, "NORMAL:+ECDHE-PSK:+DHE-PSK", NULL), 0);
	assert_int_equal(gnutls_credentials_set(client->session, GNUTLS_CRD_PSK, client->credentials), 0);
	gnutls_transport_set_int(client->session, fd);
}

static void close_client(struct client *client)
{
	gnutls_deinit(client->session);
	gnutls_psk_free_client_credentials(client->credentials);
}

/* Goes on until both sides have said what they have to. The server's last status. */
static ssize_t shake_hands(struct nbd_tls *tls, struct client *client)
{
	ssize_t status = -EAGAIN;
	char byte;
	const struct iovec place = { .iov_base = &byte, .iov_len = 1 };
	int is_done = GNUTLS_E_AGAIN;
	for (unsigned i = 0; i < 20 && status == -EAGAIN; i++) {
		if (is_done == GNUTLS_E_AGAIN)
			is_done = gnutls_handshake(client->session);
		if (is_done == 0)
			gnutls_record_send(client->session, "!", 1);
		status = nbd_tls_receive(tls, &place, 1);
	}
	return status;
}

static void make_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
}

static void connections_keep_the_credentials_that_they_began_with(void **state)
{
	(void)state;
	int fds[2];
	make_pair(fds);
	struct nbd_credentials *old = credentials_with(1), *new = credentials_with(2);
	struct nbd_tls *tls = nbd_tls_open(old, fds[0]);
	nbd_credentials_drop(old); /* as a server does that gets new ones */
	struct client client;
	open_client(&client, fds[1], 1);
	assert_int_equal(shake_hands(tls, &client), 1);
	assert_string_equal(nbd_tls_peer(tls), "guest");
	assert_string_equal(nbd_tls_version(tls), "TLS1.3");
	nbd_tls_close(tls);
	close_client(&client);

	tls = nbd_tls_open(new, fds[0]);
	open_client(&client, fds[1], 1);
	assert_int_equal(shake_hands(tls, &client), -EPROTO);
	assert_non_null(strstr(nbd_tls_fault(tls), "its key is not the one"));
	nbd_tls_close(tls);
	close_client(&client);
	nbd_credentials_drop(new);
	close(fds[0]);
	close(fds[1]);
}

static void a_name_is_matched_as_a_whole(void **state)
{
	(void)state;
	int fds[2];
	make_pair(fds);
	struct nbd_credentials *credentials = credentials_with(3);
	struct nbd_tls *tls = nbd_tls_open(credentials, fds[0]);
	struct client client;
	open_client(&client, fds[1], 3);
	assert_int_equal(shake_hands(tls, &client), 1);
	static const char *const good[] = { "guest", "GUEST", "a,guest", "guest,a", " , guest ,", "a guest b" };
	static const char *const bad[] = { "", ",", "guests", "gues", "a,guest.", "guest.example" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_true(nbd_tls_peer_is(tls, good[i]));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_false(nbd_tls_peer_is(tls, bad[i]));
	nbd_tls_close(tls);
	close_client(&client);
	nbd_credentials_drop(credentials);
	close(fds[0]);
	close(fds[1]);
}

/* The client takes little at a time, so that the socket refuses records, and what is sent is cut anywhere. */
static void what_the_socket_refuses_is_sent_later_and_once(void **state)
{
	(void)state;
	enum { LENGTH = 3 << 20, HEADERS = 100, HEADER = 20 };
	int fds[2], small = 4096;
	make_pair(fds);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	struct nbd_credentials *credentials = credentials_with(4);
	struct nbd_tls *tls = nbd_tls_open(credentials, fds[0]);
	struct client client;
	open_client(&client, fds[1], 4);
	assert_int_equal(shake_hands(tls, &client), 1);

	uint8_t *sent = test_malloc(LENGTH), *got = test_malloc(LENGTH);
	struct random random = { 5 };
	for (size_t i = 0; i < LENGTH; i++)
		sent[i] = (uint8_t)random_next(&random);
	size_t out = 0, in = 0;
	unsigned refused = 0;
	while (in < LENGTH) {
		struct iovec parts[HEADERS + 1];
		unsigned count = 0;
		size_t at = out;
		for (; count < HEADERS && at + HEADER < LENGTH; at += HEADER)
			parts[count++] = (struct iovec){ .iov_base = sent + at, .iov_len = HEADER };
		parts[count++] = (struct iovec){ .iov_base = sent + at, .iov_len = LENGTH - at };
		ssize_t n = out < LENGTH ? nbd_tls_send(tls, parts, count) : 0;
		refused += n == -EAGAIN;
		assert_true(n >= 0 || n == -EAGAIN);
		out += n > 0 ? (size_t)n : 0;
		ssize_t m = gnutls_record_recv(client.session, got + in, 1 + random_below(&random, 30000));
		assert_true(m > 0 || m == GNUTLS_E_AGAIN);
		in += m > 0 ? (size_t)m : 0;
	}
	assert_true(refused > 10);
	assert_memory_equal(sent, got, LENGTH);
	test_free(sent);
	test_free(got);
	nbd_tls_close(tls);
	close_client(&client);
	nbd_credentials_drop(credentials);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(connections_keep_the_credentials_that_they_began_with),
		scratch_test(a_name_is_matched_as_a_whole),
		scratch_test(what_the_socket_refuses_is_sent_later_and_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
