#include "tls-server.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>

#include "memory.h"

struct tls_server_identity {
	gnutls_certificate_credentials_t credentials;
};

struct tls_server {
	gnutls_session_t session;
	bool is_up;
	uint8_t *in, *out;
	size_t in_size, in_at, in_used, out_size, out_used;
};

struct tls_server_identity *tls_server_identity_open(const char *authority, const char *certificate, const char *key)
{
	struct tls_server_identity *identity = zeroed(1, sizeof *identity);
	if (gnutls_certificate_allocate_credentials(&identity->credentials) < 0 ||
		gnutls_certificate_set_x509_trust_file(identity->credentials, authority, GNUTLS_X509_FMT_PEM) < 1 ||
		gnutls_certificate_set_x509_key_file(identity->credentials, certificate, key, GNUTLS_X509_FMT_PEM) < 0) {
		fprintf(stderr, "%s, %s, %s: no certificates and key\n", authority, certificate, key);
		exit(1);
	}
	return identity;
}

static ssize_t pull(gnutls_transport_ptr_t context, void *buffer, size_t size)
{
	struct tls_server *tls = context;
	size_t there = tls->in_used - tls->in_at;
	if (there == 0) {
		gnutls_transport_set_errno(tls->session, EAGAIN);
		return -1;
	}
	if (size > there)
		size = there;
	memcpy(buffer, tls->in + tls->in_at, size);
	tls->in_at += size;
	return (ssize_t)size;
}

static ssize_t push(gnutls_transport_ptr_t context, const void *bytes, size_t size)
{
	struct tls_server *tls = context;
	tls->out = grown(tls->out, &tls->out_size, tls->out_used + size, 1);
	memcpy(tls->out + tls->out_used, bytes, size);
	tls->out_used += size;
	return (ssize_t)size;
}

static int pull_timeout(gnutls_transport_ptr_t context, unsigned ms)
{
	const struct tls_server *tls = context;
	(void)ms;
	return tls->in_used > tls->in_at;
}

struct tls_server *tls_server_new(const struct tls_server_identity *identity)
{
	struct tls_server *tls = zeroed(1, sizeof *tls);
	if (gnutls_init(&tls->session, GNUTLS_SERVER | GNUTLS_NONBLOCK) < 0 || gnutls_set_default_priority(tls->session) < 0 ||
		gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE, identity->credentials) < 0)
		abort();
	gnutls_certificate_server_set_request(tls->session, GNUTLS_CERT_REQUIRE);
	gnutls_session_set_verify_cert(tls->session, NULL, 0);
	gnutls_transport_set_ptr(tls->session, tls);
	gnutls_transport_set_pull_function(tls->session, pull);
	gnutls_transport_set_pull_timeout_function(tls->session, pull_timeout);
	gnutls_transport_set_push_function(tls->session, push);
	return tls;
}

void tls_server_free(struct tls_server *tls)
{
	if (!tls)
		return;
	gnutls_deinit(tls->session);
	free(tls->in);
	free(tls->out);
	free(tls);
}

void tls_server_feed(struct tls_server *tls, const void *bytes, size_t size)
{
	if (tls->in_at == tls->in_used)
		tls->in_at = tls->in_used = 0;
	tls->in = grown(tls->in, &tls->in_size, tls->in_used + size, 1);
	memcpy(tls->in + tls->in_used, bytes, size);
	tls->in_used += size;
}

ssize_t tls_server_take(struct tls_server *tls, void *buffer, size_t size)
{
	while (!tls->is_up) {
		int status = gnutls_handshake(tls->session);
		if (status == GNUTLS_E_AGAIN)
			return 0;
		if (status < 0 && gnutls_error_is_fatal(status)) {
			gnutls_alert_send_appropriate(tls->session, status);
			return -1;
		}
		tls->is_up = status == 0;
	}
	ssize_t n = gnutls_record_recv(tls->session, buffer, size);
	if (n == GNUTLS_E_AGAIN)
		return 0;
	return n > 0 ? n : -1;
}

void tls_server_seal(struct tls_server *tls, const void *bytes, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = gnutls_record_send(tls->session, (const uint8_t *)bytes + at, size - at);
		if (n < 0)
			return; /* the peer is about to see the end */
		at += (size_t)n;
	}
}

const uint8_t *tls_server_output(struct tls_server *tls, size_t *size)
{
	*size = tls->out_used;
	tls->out_used = 0;
	return tls->out;
}
