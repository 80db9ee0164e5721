#include "tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD = 16 << 10, NAME_SIZE = 64 };

struct tls_identity {
	gnutls_certificate_credentials_t credentials;
};

struct tls {
	gnutls_session_t session;
	char name[NAME_SIZE]; /* of the peer; GnuTLS keeps no copy */
	/* One record that GnuTLS could not send as a whole. */
	uint8_t record[RECORD];
	size_t record_length;
	char fault[300];
};

struct tls_identity *tls_identity_open(const char *authority, const char *certificate, const char *key, char *why,
	size_t why_size)
{
	gnutls_certificate_credentials_t credentials;
	if (gnutls_certificate_allocate_credentials(&credentials) < 0) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	int count = gnutls_certificate_set_x509_trust_file(credentials, authority, GNUTLS_X509_FMT_PEM);
	int status = gnutls_certificate_set_x509_key_file(credentials, certificate, key, GNUTLS_X509_FMT_PEM);
	struct tls_identity *identity = count > 0 && status >= 0 ? malloc(sizeof *identity) : NULL;
	if (!identity) {
		if (count <= 0)
			snprintf(why, why_size, "%s: %s", authority, count < 0 ? gnutls_strerror(count) : "no certificate in it");
		else
			snprintf(why, why_size, "%s, %s: %s", certificate, key, status < 0 ? gnutls_strerror(status) : "out of memory");
		gnutls_certificate_free_credentials(credentials);
		return NULL;
	}
	identity->credentials = credentials;
	return identity;
}

void tls_identity_close(struct tls_identity *identity)
{
	if (!identity)
		return;
	gnutls_certificate_free_credentials(identity->credentials);
	free(identity);
}

struct tls *tls_open(const struct tls_identity *identity, int fd, const char *name)
{
	struct tls *tls = calloc(1, sizeof *tls);
	if (!tls)
		return NULL;
	snprintf(tls->name, sizeof tls->name, "%s", name);
	if (gnutls_init(&tls->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) {
		free(tls);
		return NULL;
	}
	if (gnutls_set_default_priority_append(tls->session, "-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2", NULL, 0) < 0 ||
		gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE, identity->credentials) < 0 ||
		gnutls_server_name_set(tls->session, GNUTLS_NAME_DNS, tls->name, strlen(tls->name)) < 0) {
		tls_close(tls);
		return NULL;
	}
	gnutls_session_set_verify_cert(tls->session, tls->name, 0);
	gnutls_handshake_set_timeout(tls->session, 0); /* the caller has a timer */
	gnutls_transport_set_int(tls->session, fd);
	return tls;
}

void tls_close(struct tls *tls)
{
	if (!tls)
		return;
	gnutls_deinit(tls->session);
	free(tls);
}

/* Why the peer's certificate is not accepted. */
static void describe_verification(struct tls *tls)
{
	gnutls_datum_t text = { 0 };
	unsigned status = gnutls_session_get_verify_cert_status(tls->session);
	if (status & GNUTLS_CERT_UNEXPECTED_OWNER) {
		snprintf(tls->fault, sizeof tls->fault, "TLS: its certificate is not for %s", tls->name);
		return;
	}
	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
		return;
	snprintf(tls->fault, sizeof tls->fault, "TLS: %s", (const char *)text.data);
	for (size_t end = strlen(tls->fault); end > 0 && (tls->fault[end - 1] == ' ' || tls->fault[end - 1] == '.'); end--)
		tls->fault[end - 1] = '\0';
	gnutls_free(text.data);
}

static int failed(struct tls *tls, int error)
{
	if (error == GNUTLS_E_AGAIN || error == GNUTLS_E_INTERRUPTED)
		return -EAGAIN;
	if (error == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
		describe_verification(tls);
	else if (error == GNUTLS_E_FATAL_ALERT_RECEIVED)
		snprintf(tls->fault, sizeof tls->fault, "TLS: the downstairs ends it: %s",
			gnutls_alert_get_name(gnutls_alert_get(tls->session)));
	else if (error == GNUTLS_E_PREMATURE_TERMINATION)
		snprintf(tls->fault, sizeof tls->fault, "closed by the downstairs");
	else if (error == GNUTLS_E_UNEXPECTED_PACKET_LENGTH || error == GNUTLS_E_UNSUPPORTED_VERSION_PACKET)
		snprintf(tls->fault, sizeof tls->fault, "TLS: the downstairs does not speak it");
	else
		snprintf(tls->fault, sizeof tls->fault, "TLS: %s", gnutls_strerror(error));
	return -EPROTO;
}

int tls_handshake(struct tls *tls)
{
	for (;;) {
		int status = gnutls_handshake(tls->session);
		if (status == 0)
			return 0;
		if (status == GNUTLS_E_AGAIN || gnutls_error_is_fatal(status))
			return failed(tls, status);
	}
}

/* Of what is in the record. Returns 0 when all of it has been sent. */
static int send_record(struct tls *tls, const void *data)
{
	ssize_t n;
	do
		n = gnutls_record_send(tls->session, data, data ? tls->record_length : 0);
	while (n == GNUTLS_E_INTERRUPTED);
	if (n < 0)
		return failed(tls, (int)n);
	tls->record_length = 0; /* a record is sent as a whole or not */
	return 0;
}

ssize_t tls_send(struct tls *tls, const struct iovec *parts, unsigned count)
{
	size_t taken = 0, skip = 0;
	int status = tls->record_length ? send_record(tls, NULL) : 0; /* goes on with what is kept */
	while (status == 0 && count > 0) {
		while (count > 0 && tls->record_length < RECORD) {
			size_t length = parts->iov_len - skip;
			if (length > RECORD - tls->record_length)
				length = RECORD - tls->record_length;
			memcpy(tls->record + tls->record_length, (const uint8_t *)parts->iov_base + skip, length);
			tls->record_length += length;
			taken += length;
			skip += length;
			if (skip == parts->iov_len) {
				parts++;
				count--;
				skip = 0;
			}
		}
		status = send_record(tls, tls->record);
	}
	return taken > 0 || status == 0 ? (ssize_t)taken : status;
}

bool tls_has_to_send(const struct tls *tls)
{
	return tls->record_length > 0;
}

bool tls_wants_to_send(const struct tls *tls)
{
	return gnutls_record_get_direction(tls->session) == 1;
}

ssize_t tls_receive(struct tls *tls, void *buffer, size_t size)
{
	for (;;) {
		ssize_t n = gnutls_record_recv(tls->session, buffer, size);
		if (n >= 0)
			return n;
		if (n == GNUTLS_E_AGAIN || gnutls_error_is_fatal((int)n))
			return failed(tls, (int)n);
		if (n == GNUTLS_E_REHANDSHAKE)
			return failed(tls, (int)n);
	}
}

bool tls_has_received(const struct tls *tls)
{
	return gnutls_record_check_pending(tls->session) > 0;
}

const char *tls_fault(const struct tls *tls)
{
	return tls->fault;
}
