#include "nbd/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/socket.h>
#include <gnutls/x509.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "durable-file.h"

enum {
	RECORD = 16 << 10,
	NAME_SIZE = 256,
	PSK_MIN = 16, /* bytes of a key */
	PSK_MAX = 64,
	PSK_NAME_MAX = 128,
};

/* Forward secrecy with both kinds of credentials, and no other version to fall back on. */
#define PRIORITY "SECURE128:-VERS-ALL:+VERS-TLS1.3"
#define PSK_PRIORITY PRIORITY ":+ECDHE-PSK:+DHE-PSK"

struct psk {
	char name[PSK_NAME_MAX + 1];
	uint8_t key[PSK_MAX];
	unsigned key_size;
};

struct nbd_credentials {
	unsigned references;
	gnutls_certificate_credentials_t certificate; /* NULL: none */
	gnutls_psk_server_credentials_t psk;          /* NULL: none */
	gnutls_priority_t priority;
	struct psk *keys;
	size_t key_count;
	time_t end;
};

struct nbd_tls {
	gnutls_session_t session;
	struct nbd_credentials *credentials;
	bool is_shaking;    /* the handshake is not finished */
	enum { PSK_NOT_ASKED, PSK_FOUND, PSK_UNKNOWN } psk; /* the name in the PSK file */
	int error;          /* met behind bytes that were given out first */
	size_t unsent;      /* of a record that GnuTLS holds and the socket has not taken */
	gnutls_x509_crt_t peer_certificate; /* NULL: it came by PSK */
	char peer[NAME_SIZE];
	char fault[256];
	uint8_t record[RECORD]; /* small parts, gathered */
};

/* Credentials */

static void close_certificate(gnutls_x509_crt_t *certificate)
{
	if (*certificate)
		gnutls_x509_crt_deinit(*certificate);
}

static int read_pem(const char *name, const char *path, bool is_secret, gnutls_datum_t *pem, struct reason *reason)
{
	char *text = NULL;
	size_t length = 0;
	struct reason why;
	int status = is_secret ? private_file_check(path, &why) : 0;
	if (status == 0)
		status = durable_file_read(path, &text, &length, &why);
	if (status == -ENOENT)
		reason_set(&why, status, "%s: no such file", path);
	if (status < 0)
		return reason_set(reason, status, "[tls] %s = %s", name, why.text);
	*pem = (gnutls_datum_t){ .data = (unsigned char *)text, .size = (unsigned)length };
	return 0;
}

static void free_pem(gnutls_datum_t *pem)
{
	if (pem->data)
		explicit_bzero(pem->data, pem->size);
	free(pem->data);
}

/* `result` is GnuTLS's: a count that should not be 0, or an error. */
static int check_loaded(int result, const char *name, const char *path, struct reason *reason)
{
	if (result > 0)
		return 0;
	return reason_set(reason, -EBADMSG, "[tls] %s = %s: %s", name, path,
		result < 0 ? gnutls_strerror(result) : "nothing of that kind in it");
}

static int load_end(struct nbd_credentials *credentials, const gnutls_datum_t *pem)
{
	CLEANUP(close_certificate) gnutls_x509_crt_t certificate = NULL;
	if (gnutls_x509_crt_init(&certificate) < 0 ||
		gnutls_x509_crt_import(certificate, pem, GNUTLS_X509_FMT_PEM) < 0)
		return -ENOMEM; /* it has just been read without a fault */
	credentials->end = gnutls_x509_crt_get_expiration_time(certificate);
	return 0;
}

static int load_certificates(
	struct nbd_credentials *credentials, const struct nbd_credential_files *files, struct reason *reason)
{
	CLEANUP(free_pem) gnutls_datum_t authority = { 0 }, certificate = { 0 }, key = { 0 }, revoked = { 0 };
	int status = read_pem("authority", files->authority, false, &authority, reason);
	if (status == 0)
		status = read_pem("certificate", files->certificate, false, &certificate, reason);
	if (status == 0)
		status = read_pem("key", files->key, true, &key, reason);
	if (status == 0 && files->revoked)
		status = read_pem("revoked", files->revoked, false, &revoked, reason);
	if (status < 0)
		return status;
	if (gnutls_certificate_allocate_credentials(&credentials->certificate) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	gnutls_certificate_credentials_t into = credentials->certificate;
	int result = gnutls_certificate_set_x509_trust_mem(into, &authority, GNUTLS_X509_FMT_PEM);
	status = check_loaded(result, "authority", files->authority, reason);
	if (status == 0 && files->revoked) {
		result = gnutls_certificate_set_x509_crl_mem(into, &revoked, GNUTLS_X509_FMT_PEM);
		status = check_loaded(result, "revoked", files->revoked, reason);
	}
	if (status < 0)
		return status;
	result = gnutls_certificate_set_x509_key_mem(into, &certificate, &key, GNUTLS_X509_FMT_PEM);
	if (result < 0)
		return reason_set(reason, -EBADMSG, "[tls] certificate = %s, key = %s: %s", files->certificate, files->key,
			gnutls_strerror(result));
	return load_end(credentials, &certificate) < 0 ? reason_set(reason, -ENOMEM, "out of memory") : 0;
}

/* "NAME:HEXKEY". False if it is not. */
static bool parse_psk(const char *line, size_t length, struct psk *psk)
{
	const char *colon = memchr(line, ':', length);
	size_t name_length = colon ? (size_t)(colon - line) : 0;
	if (name_length == 0 || name_length > PSK_NAME_MAX || memchr(line, '\0', length))
		return false;
	memcpy(psk->name, line, name_length);
	psk->name[name_length] = '\0';
	const gnutls_datum_t hex = {
		.data = (unsigned char *)colon + 1,
		.size = (unsigned)(length - name_length - 1),
	};
	size_t size = sizeof psk->key;
	if (hex.size % 2 != 0 || gnutls_hex_decode(&hex, psk->key, &size) < 0 || size < PSK_MIN)
		return false;
	psk->key_size = (unsigned)size;
	return true;
}

static int add_psk(struct nbd_credentials *credentials, const struct psk *psk)
{
	struct psk *keys = reallocarray(credentials->keys, credentials->key_count + 1, sizeof *keys);
	if (!keys)
		return -ENOMEM;
	credentials->keys = keys;
	keys[credentials->key_count++] = *psk;
	return 0;
}

static int parse_keys(struct nbd_credentials *credentials, const char *path, const char *text, struct reason *reason)
{
	unsigned number = 0;
	for (const char *line = text, *next; *line; line = next) {
		size_t length = strcspn(line, "\n");
		next = line + length + (line[length] == '\n');
		number++;
		while (length > 0 && strchr(" \t\r", line[length - 1]))
			length--;
		struct psk psk;
		if (length == 0 || line[0] == '#')
			continue;
		if (!parse_psk(line, length, &psk))
			return reason_set(reason, -EBADMSG, "[tls] psk_file = %s: line %u is not NAME:HEXKEY with a key of %d to "
				"%d bytes: see psktool(1)", path, number, PSK_MIN, PSK_MAX);
		int status = add_psk(credentials, &psk);
		explicit_bzero(&psk, sizeof psk);
		if (status < 0)
			return reason_set(reason, status, "out of memory");
	}
	return credentials->key_count > 0 ? 0 : reason_set(reason, -EBADMSG, "[tls] psk_file = %s: no key in it", path);
}

/* GnuTLS asks for the key of a name. 1: a random one shall take its place, so that the client does not see why it fails. */
static int on_psk_name(gnutls_session_t session, const char *name, gnutls_datum_t *key)
{
	struct nbd_tls *tls = gnutls_session_get_ptr(session);
	const struct nbd_credentials *credentials = tls->credentials;
	for (size_t i = 0; i < credentials->key_count; i++) {
		const struct psk *psk = &credentials->keys[i];
		if (strcmp(psk->name, name) != 0)
			continue;
		key->data = gnutls_malloc(psk->key_size);
		if (!key->data)
			return -1;
		memcpy(key->data, psk->key, psk->key_size);
		key->size = psk->key_size;
		tls->psk = PSK_FOUND;
		return 0;
	}
	tls->psk = PSK_UNKNOWN;
	return 1;
}

static int load_keys(struct nbd_credentials *credentials, const char *path, struct reason *reason)
{
	CLEANUP(free_pem) gnutls_datum_t text = { 0 };
	int status = read_pem("psk_file", path, true, &text, reason);
	if (status == 0)
		status = parse_keys(credentials, path, (const char *)text.data, reason);
	if (status < 0)
		return status;
	if (gnutls_psk_allocate_server_credentials(&credentials->psk) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	gnutls_psk_set_server_credentials_function(credentials->psk, on_psk_name);
	return 0;
}

int nbd_credentials_open(
	const struct nbd_credential_files *files, struct nbd_credentials **out, struct reason *reason)
{
	struct nbd_credentials *credentials = calloc(1, sizeof *credentials);
	if (!credentials)
		return reason_set(reason, -ENOMEM, "out of memory");
	credentials->references = 1;
	credentials->end = -1;
	int status = files->authority ? load_certificates(credentials, files, reason) : 0;
	if (status == 0 && files->psk_file)
		status = load_keys(credentials, files->psk_file, reason);
	if (status == 0) {
		const char *priority = files->psk_file ? PSK_PRIORITY : PRIORITY;
		int result = gnutls_priority_init(&credentials->priority, priority, NULL);
		if (result < 0)
			status = reason_set(reason, -EINVAL, "TLS 1.3: %s", gnutls_strerror(result));
	}
	if (status < 0)
		nbd_credentials_drop(credentials);
	else
		*out = credentials;
	return status;
}

struct nbd_credentials *nbd_credentials_keep(struct nbd_credentials *credentials)
{
	credentials->references++;
	return credentials;
}

void nbd_credentials_drop(struct nbd_credentials *credentials)
{
	if (!credentials || --credentials->references > 0)
		return;
	if (credentials->certificate)
		gnutls_certificate_free_credentials(credentials->certificate);
	if (credentials->psk)
		gnutls_psk_free_server_credentials(credentials->psk);
	if (credentials->priority)
		gnutls_priority_deinit(credentials->priority);
	if (credentials->keys)
		explicit_bzero(credentials->keys, credentials->key_count * sizeof *credentials->keys);
	free(credentials->keys);
	free(credentials);
}

time_t nbd_credentials_end(const struct nbd_credentials *credentials)
{
	return credentials->end;
}

/* Life of a connection */

/* False if GnuTLS could not take all of it. */
static bool prepare(struct nbd_tls *tls, int fd)
{
	const struct nbd_credentials *credentials = tls->credentials;
	gnutls_session_t session = tls->session;
	if (gnutls_priority_set(session, credentials->priority) < 0 ||
		(credentials->certificate &&
			gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials->certificate) < 0) ||
		(credentials->psk && gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials->psk) < 0))
		return false;
	static gnutls_typed_vdata_st purpose = {
		.type = GNUTLS_DT_KEY_PURPOSE_OID,
		.data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT,
	};
	gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
	gnutls_session_set_verify_cert2(session, &purpose, 1, 0);
	gnutls_session_set_ptr(session, tls);
	gnutls_handshake_set_timeout(session, 0); /* the server has a timer */
	gnutls_transport_set_int(session, fd);
	return true;
}

struct nbd_tls *nbd_tls_open(struct nbd_credentials *credentials, int fd)
{
	struct nbd_tls *tls = calloc(1, sizeof *tls);
	if (!tls)
		return NULL;
	tls->credentials = nbd_credentials_keep(credentials);
	tls->is_shaking = true;
	const unsigned flags = GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	if (gnutls_init(&tls->session, flags) < 0)
		tls->session = NULL;
	if (tls->session && prepare(tls, fd))
		return tls;
	nbd_tls_close(tls);
	return NULL;
}

void nbd_tls_close(struct nbd_tls *tls)
{
	if (!tls)
		return;
	if (tls->session && !tls->is_shaking && !tls->fault[0])
		gnutls_bye(tls->session, GNUTLS_SHUT_WR);
	if (tls->session)
		gnutls_deinit(tls->session);
	close_certificate(&tls->peer_certificate);
	nbd_credentials_drop(tls->credentials);
	free(tls);
}

/* Faults */

static const char *name_of_verification(unsigned status)
{
	static const struct {
		unsigned flag;
		const char *text;
	} faults[] = {
		{ GNUTLS_CERT_REVOKED, "its certificate has been revoked" },
		{ GNUTLS_CERT_EXPIRED, "its certificate has expired" },
		{ GNUTLS_CERT_NOT_ACTIVATED, "its certificate is not valid yet" },
		{ GNUTLS_CERT_SIGNER_NOT_FOUND, "its certificate is not signed by our authority" },
		{ GNUTLS_CERT_PURPOSE_MISMATCH, "its certificate is not one for clients" },
		{ GNUTLS_CERT_INSECURE_ALGORITHM, "its certificate is signed by an algorithm that is not safe" },
		{ GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED, "our list of revoked certificates is too old" },
	};
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		if (status & faults[i].flag)
			return faults[i].text;
	}
	return "its certificate is not valid";
}

static const char *name_of_failure(const struct nbd_tls *tls, int error)
{
	switch (error) {
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		return name_of_verification(gnutls_session_get_verify_cert_status(tls->session));
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
	case GNUTLS_E_CERTIFICATE_REQUIRED:
		return "it shows no certificate";
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_NO_CIPHER_SUITES:
		return "it does not speak TLS 1.3, or has no cipher in common with us";
	case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
		if (tls->is_shaking && tls->psk == PSK_FOUND)
			return "its key is not the one that the PSK file has for its name";
		return "it sends what makes no sense";
	case GNUTLS_E_UNEXPECTED_PACKET:
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_RECORD_OVERFLOW:
		return "it sends something else than TLS";
	case GNUTLS_E_DECRYPTION_FAILED: /* OpenSSL says what it dislikes in clear text */
		return tls->is_shaking ? "it does not go on: perhaps our certificate is not for the name or of the authority that "
								 "it expects"
							   : "a record has been damaged";
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return "it is gone before the handshake is finished";
	default:
		return gnutls_strerror(error);
	}
}

static int failed(struct nbd_tls *tls, int error)
{
	bool is_gone = error == GNUTLS_E_PREMATURE_TERMINATION || error == GNUTLS_E_PULL_ERROR ||
		error == GNUTLS_E_PUSH_ERROR; /* of the socket */
	if (error == GNUTLS_E_AGAIN || error == GNUTLS_E_INTERRUPTED)
		return -EAGAIN;
	if (!tls->is_shaking && is_gone)
		return -ECONNRESET;
	if (tls->is_shaking && tls->psk == PSK_UNKNOWN)
		snprintf(tls->fault, sizeof tls->fault, "TLS: the PSK file does not have its name");
	else if (error == GNUTLS_E_FATAL_ALERT_RECEIVED)
		snprintf(tls->fault, sizeof tls->fault, "TLS: ended by the client: %s",
			gnutls_alert_get_name(gnutls_alert_get(tls->session)));
	else
		snprintf(tls->fault, sizeof tls->fault, "TLS: %s", name_of_failure(tls, error));
	size_t length = strlen(tls->fault);
	if (tls->fault[length - 1] == '.') /* some of GnuTLS's end with one */
		tls->fault[length - 1] = '\0';
	if (error != GNUTLS_E_FATAL_ALERT_RECEIVED && !is_gone)
		gnutls_alert_send_appropriate(tls->session, error);
	return -EPROTO;
}

const char *nbd_tls_fault(const struct nbd_tls *tls)
{
	return tls->fault;
}

/* Who the client is */

/* Where one is in the names of a certificate: common names first, then DNS names. */
struct names {
	gnutls_x509_crt_t certificate;
	unsigned common, alternative;
};

/* False behind the last one. A name that is too long or has zero bytes is given as empty. */
static bool next_name(struct names *names, char name[NAME_SIZE])
{
	size_t size = NAME_SIZE;
	int status = gnutls_x509_crt_get_dn_by_oid(
		names->certificate, GNUTLS_OID_X520_COMMON_NAME, (int)names->common, 0, name, &size);
	if (status != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
		names->common++;
	} else {
		size = NAME_SIZE;
		status = gnutls_x509_crt_get_subject_alt_name(names->certificate, names->alternative++, name, &size, NULL);
		if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
			return false;
		if (status != GNUTLS_SAN_DNSNAME)
			size = 0;
	}
	bool is_text = status >= 0 && size < NAME_SIZE && !memchr(name, '\0', size);
	name[is_text ? size : 0] = '\0';
	return true;
}

static bool is_among(const char *name, const char *names)
{
	size_t length = strlen(name);
	for (names += strspn(names, ", \t"); *names; names += strspn(names, ", \t")) {
		size_t n = strcspn(names, ", \t");
		if (n == length && strncasecmp(names, name, n) == 0)
			return true;
		names += n;
	}
	return false;
}

bool nbd_tls_peer_is(const struct nbd_tls *tls, const char *names)
{
	char name[NAME_SIZE];
	if (!tls->peer_certificate)
		return is_among(tls->peer, names);
	struct names names_of_peer = { .certificate = tls->peer_certificate };
	while (next_name(&names_of_peer, name)) {
		if (name[0] && is_among(name, names))
			return true;
	}
	return false;
}

const char *nbd_tls_peer(const struct nbd_tls *tls)
{
	return tls->peer;
}

static int identify(struct nbd_tls *tls)
{
	if (gnutls_auth_get_type(tls->session) == GNUTLS_CRD_PSK) {
		snprintf(tls->peer, sizeof tls->peer, "%s", gnutls_psk_server_get_username(tls->session));
		return 0;
	}
	unsigned count = 0;
	const gnutls_datum_t *chain = gnutls_certificate_get_peers(tls->session, &count);
	if (!chain || count == 0)
		return GNUTLS_E_NO_CERTIFICATE_FOUND;
	int status = gnutls_x509_crt_init(&tls->peer_certificate);
	if (status == 0)
		status = gnutls_x509_crt_import(tls->peer_certificate, &chain[0], GNUTLS_X509_FMT_DER);
	if (status < 0)
		return status;
	char name[NAME_SIZE] = "";
	struct names names = { .certificate = tls->peer_certificate };
	while (!name[0] && next_name(&names, name))
		;
	snprintf(tls->peer, sizeof tls->peer, "%s", name[0] ? name : "?");
	return 0;
}

/* Bytes */

static int shake_hands(struct nbd_tls *tls)
{
	int status;
	do
		status = gnutls_handshake(tls->session);
	while (status == GNUTLS_E_INTERRUPTED);
	if (status == 0)
		status = identify(tls);
	if (status < 0)
		return failed(tls, status);
	tls->is_shaking = false;
	return 0;
}

ssize_t nbd_tls_receive(struct nbd_tls *tls, const struct iovec *places, unsigned count)
{
	ssize_t received = 0, status = tls->is_shaking ? shake_hands(tls) : tls->error;
	if (status < 0)
		return status;
	for (unsigned i = 0; i < count; i++) {
		for (size_t at = 0; at < places[i].iov_len;) {
			ssize_t n = gnutls_record_recv(tls->session, (char *)places[i].iov_base + at, places[i].iov_len - at);
			if (n <= 0) {
				status = n < 0 ? failed(tls, (int)n) : 0;
				if (received > 0 && status != -EAGAIN)
					tls->error = status < 0 ? (int)status : -ECONNRESET;
				return received > 0 ? received : status;
			}
			at += (size_t)n;
			received += n;
		}
	}
	return received;
}

/* What is still to be sent of some parts. */
struct remainder {
	const struct iovec *part, *end;
	size_t skip; /* of the first part */
};

static void advance(struct remainder *remainder, size_t length)
{
	remainder->skip += length;
	while (remainder->part < remainder->end && remainder->skip >= remainder->part->iov_len)
		remainder->skip -= remainder->part++->iov_len;
}

/* The bytes of the next record: where they lie if they lie together, or gathered. */
static const void *next_record(struct nbd_tls *tls, const struct remainder *remainder, size_t *length)
{
	const struct iovec *part = remainder->part;
	size_t most = tls->unsent ? tls->unsent : RECORD, skip = remainder->skip;
	*length = most;
	if (part->iov_len - skip >= most)
		return (const char *)part->iov_base + skip;
	size_t gathered = 0;
	for (; part < remainder->end && gathered < most; part++, skip = 0) {
		size_t n = part->iov_len - skip;
		n = n < most - gathered ? n : most - gathered;
		memcpy(tls->record + gathered, (const char *)part->iov_base + skip, n);
		gathered += n;
	}
	*length = gathered;
	return tls->record;
}

ssize_t nbd_tls_send(struct nbd_tls *tls, const struct iovec *parts, unsigned count)
{
	struct remainder remainder = { .part = parts, .end = parts + count };
	ssize_t sent = 0;
	advance(&remainder, 0); /* over empty parts */
	while (remainder.part < remainder.end) {
		size_t length;
		const void *record = next_record(tls, &remainder, &length);
		ssize_t n;
		do
			n = gnutls_record_send(tls->session, record, length);
		while (n == GNUTLS_E_INTERRUPTED);
		tls->unsent = n == GNUTLS_E_AGAIN ? length : 0;
		if (n < 0)
			return sent > 0 ? sent : failed(tls, (int)n);
		sent += n;
		advance(&remainder, (size_t)n);
	}
	return sent;
}

bool nbd_tls_has_received(const struct nbd_tls *tls)
{
	return tls->error || gnutls_record_check_pending(tls->session) > 0;
}

bool nbd_tls_is_beginning(const struct nbd_tls *tls)
{
	return tls->is_shaking;
}

bool nbd_tls_wants_to_send(const struct nbd_tls *tls)
{
	return tls->is_shaking && gnutls_record_get_direction(tls->session) == 1;
}

/* What it uses */

const char *nbd_tls_version(const struct nbd_tls *tls)
{
	return gnutls_protocol_get_name(gnutls_protocol_get_version(tls->session));
}

const char *nbd_tls_cipher(const struct nbd_tls *tls)
{
	return gnutls_cipher_get_name(gnutls_cipher_get(tls->session));
}

bool nbd_tls_in_kernel(const struct nbd_tls *tls)
{
	return gnutls_transport_is_ktls_enabled(tls->session) == GNUTLS_KTLS_DUPLEX;
}
