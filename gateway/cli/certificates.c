#include "cli/certificates.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

enum {
	DAY = 24 * 60 * 60,
	CLOCK_SKEW = 60 * 60, /* certificates begin so many seconds ago: not all clocks of a cluster agree */
	SERIAL_SIZE = 16,
	KEY_ID_SIZE = 20,
};

void pem_free(char **pem)
{
	if (*pem)
		explicit_bzero(*pem, strlen(*pem));
	free(*pem);
}

static void close_key(gnutls_x509_privkey_t *key)
{
	if (*key)
		gnutls_x509_privkey_deinit(*key);
}

static void close_certificate(gnutls_x509_crt_t *certificate)
{
	if (*certificate)
		gnutls_x509_crt_deinit(*certificate);
}

/* `what` failed with an error of GnuTLS. */
static int failed(const char *what, int error, struct reason *reason)
{
	int status = error == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EBADMSG;
	return reason_set(reason, status, "%s: %s", what, gnutls_strerror(error));
}

static gnutls_datum_t datum_of(const char *text)
{
	return (gnutls_datum_t){ .data = (unsigned char *)text, .size = (unsigned)strlen(text) };
}

static int load_key(const char *pem, gnutls_x509_privkey_t *key)
{
	const gnutls_datum_t text = datum_of(pem);
	int error = gnutls_x509_privkey_init(key);
	if (error < 0)
		*key = NULL;
	return error < 0 ? error : gnutls_x509_privkey_import(*key, &text, GNUTLS_X509_FMT_PEM);
}

static int load_certificate(const char *pem, gnutls_x509_crt_t *certificate)
{
	const gnutls_datum_t text = datum_of(pem);
	int error = gnutls_x509_crt_init(certificate);
	if (error < 0)
		*certificate = NULL;
	return error < 0 ? error : gnutls_x509_crt_import(*certificate, &text, GNUTLS_X509_FMT_PEM);
}

/* Takes what GnuTLS has made. */
static char *text_of(gnutls_datum_t *made)
{
	char *text = strndup((const char *)made->data, made->size);
	explicit_bzero(made->data, made->size);
	gnutls_free(made->data);
	return text;
}

int certificate_make_key(char **pem, struct reason *reason)
{
	CLEANUP(close_key) gnutls_x509_privkey_t key = NULL;
	gnutls_datum_t made;
	int error = gnutls_x509_privkey_init(&key);
	if (error < 0)
		key = NULL;
	if (error == 0)
		error = gnutls_x509_privkey_generate(
			key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (error == 0)
		error = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &made);
	if (error < 0)
		return failed("a new key", error, reason);
	*pem = text_of(&made);
	return *pem ? 0 : reason_set(reason, -ENOMEM, "out of memory");
}

/* What both kinds of certificates have: a serial number, a name, a time and a key. */
static int begin(gnutls_x509_crt_t *certificate, const char *name, time_t end, gnutls_x509_privkey_t key)
{
	uint8_t serial[SERIAL_SIZE], id[KEY_ID_SIZE];
	size_t id_size = sizeof id;
	int error = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof serial);
	serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and without leading zeros */
	if (error == 0)
		error = gnutls_x509_crt_init(certificate);
	if (error < 0) {
		*certificate = NULL;
		return error;
	}
	gnutls_x509_crt_t it = *certificate;
	if ((error = gnutls_x509_crt_set_version(it, 3)) < 0 ||
		(error = gnutls_x509_crt_set_serial(it, serial, sizeof serial)) < 0 ||
		(error = gnutls_x509_crt_set_dn_by_oid(
			 it, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)strlen(name))) < 0 ||
		(error = gnutls_x509_crt_set_activation_time(it, time(NULL) - CLOCK_SKEW)) < 0 ||
		(error = gnutls_x509_crt_set_expiration_time(it, end)) < 0 ||
		(error = gnutls_x509_crt_set_key(it, key)) < 0 ||
		(error = gnutls_x509_crt_get_key_id(it, GNUTLS_KEYID_USE_SHA1, id, &id_size)) < 0)
		return error;
	return gnutls_x509_crt_set_subject_key_id(it, id, id_size);
}

static int finish(gnutls_x509_crt_t certificate, gnutls_x509_crt_t issuer, gnutls_x509_privkey_t key, char **pem)
{
	gnutls_datum_t made;
	int error = gnutls_x509_crt_sign2(certificate, issuer, key, GNUTLS_DIG_SHA256, 0);
	if (error == 0)
		error = gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &made);
	if (error < 0)
		return error;
	*pem = text_of(&made);
	return *pem ? 0 : GNUTLS_E_MEMORY_ERROR;
}

int certificate_make_authority(
	const char *name, unsigned days, const char *key_pem, char **pem, struct reason *reason)
{
	CLEANUP(close_key) gnutls_x509_privkey_t key = NULL;
	CLEANUP(close_certificate) gnutls_x509_crt_t certificate = NULL;
	int error;
	if ((error = load_key(key_pem, &key)) < 0 ||
		(error = begin(&certificate, name, time(NULL) + (time_t)days * DAY, key)) < 0 ||
		(error = gnutls_x509_crt_set_basic_constraints(certificate, 1, 0)) < 0 ||
		(error = gnutls_x509_crt_set_key_usage(certificate, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN)) < 0 ||
		(error = finish(certificate, certificate, key, pem)) < 0)
		return failed("the certificate of the authority", error, reason);
	return 0;
}

/* Adds one name or address. */
static int add_name(gnutls_x509_crt_t certificate, const char *name)
{
	uint8_t address[sizeof(struct in6_addr)];
	unsigned size = 0;
	if (inet_pton(AF_INET, name, address) == 1)
		size = sizeof(struct in_addr);
	else if (inet_pton(AF_INET6, name, address) == 1)
		size = sizeof(struct in6_addr);
	return size > 0
		? gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_IPADDRESS, address, size, GNUTLS_FSAN_APPEND)
		: gnutls_x509_crt_set_subject_alt_name(
			  certificate, GNUTLS_SAN_DNSNAME, name, (unsigned)strlen(name), GNUTLS_FSAN_APPEND);
}

static int add_names(gnutls_x509_crt_t certificate, const struct certificate_order *order)
{
	int error = add_name(certificate, order->name); /* once: of a certificate that is made again it is among the others */
	CLEANUP_FREE char *addresses = strdup(order->addresses ? order->addresses : "");
	if (!addresses)
		return GNUTLS_E_MEMORY_ERROR;
	char *rest = addresses;
	for (char *name; error == 0 && (name = strsep(&rest, ", "));)
		error = name[0] && strcmp(name, order->name) != 0 ? add_name(certificate, name) : 0;
	return error;
}

/* Whatever the date. */
static bool is_signed_by(gnutls_x509_crt_t certificate, const char *pem)
{
	CLEANUP(close_certificate) gnutls_x509_crt_t authority = NULL;
	unsigned faults;
	return load_certificate(pem, &authority) == 0 &&
		gnutls_x509_crt_verify(certificate, &authority, 1, GNUTLS_VERIFY_DISABLE_TIME_CHECKS, &faults) == 0 &&
		faults == 0;
}

int certificate_sign(const struct certificate_order *order, const char *key_pem, const char *authority_pem,
	const char *authority_key_pem, char **pem, struct reason *reason)
{
	CLEANUP(close_key) gnutls_x509_privkey_t key = NULL, authority_key = NULL;
	CLEANUP(close_certificate) gnutls_x509_crt_t certificate = NULL, authority = NULL, made = NULL;
	uint8_t id[KEY_ID_SIZE];
	size_t id_size = sizeof id;
	int error = load_certificate(authority_pem, &authority);
	if (error == 0)
		error = load_key(authority_key_pem, &authority_key);
	if (error < 0)
		return failed("the authority", error, reason);
	time_t end = time(NULL) + (time_t)order->days * DAY, last = gnutls_x509_crt_get_expiration_time(authority);
	if (last <= time(NULL))
		return reason_set(reason, -EBADMSG, "the certificate of the authority has expired: make another authority");
	if ((error = load_key(key_pem, &key)) < 0 ||
		(error = begin(&certificate, order->name, end < last ? end : last, key)) < 0 ||
		(error = add_names(certificate, order)) < 0 ||
		(error = gnutls_x509_crt_set_basic_constraints(certificate, 0, -1)) < 0 ||
		(error = gnutls_x509_crt_set_key_usage(certificate, GNUTLS_KEY_DIGITAL_SIGNATURE)) < 0 ||
		(error = gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_SERVER, 0)) < 0 ||
		(error = gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_CLIENT, 0)) < 0 ||
		(error = gnutls_x509_crt_get_subject_key_id(authority, id, &id_size, NULL)) < 0 ||
		(error = gnutls_x509_crt_set_authority_key_id(certificate, id, id_size)) < 0 ||
		(error = finish(certificate, authority, authority_key, pem)) < 0)
		return failed("the certificate", error, reason);
	if (load_certificate(*pem, &made) == 0 && is_signed_by(made, authority_pem))
		return 0;
	cleanup_free(pem);
	*pem = NULL;
	return reason_set(reason, -EBADMSG, "the authority's key is not that of its certificate");
}

/* Facts */

static void read_common_name(gnutls_x509_crt_t certificate, bool of_issuer, char *name, size_t size)
{
	int error = of_issuer
		? gnutls_x509_crt_get_issuer_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size)
		: gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size);
	if (error < 0)
		strcpy(name, "?");
}

/* One name or address as text; empty if it is of another kind. Returns false behind the last one. */
static bool read_name(gnutls_x509_crt_t certificate, unsigned index, char *name, size_t size)
{
	uint8_t bytes[256];
	size_t length = sizeof bytes - 1;
	int kind = gnutls_x509_crt_get_subject_alt_name(certificate, index, bytes, &length, NULL);
	name[0] = '\0';
	if (kind == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return false;
	if (kind == GNUTLS_SAN_DNSNAME)
		snprintf(name, size, "%.*s", (int)length, (const char *)bytes);
	else if (kind == GNUTLS_SAN_IPADDRESS && length == sizeof(struct in_addr))
		inet_ntop(AF_INET, bytes, name, (socklen_t)size);
	else if (kind == GNUTLS_SAN_IPADDRESS && length == sizeof(struct in6_addr))
		inet_ntop(AF_INET6, bytes, name, (socklen_t)size);
	return true;
}

static void read_names(gnutls_x509_crt_t certificate, char *names, size_t size)
{
	char name[256];
	size_t used = 0;
	names[0] = '\0';
	for (unsigned i = 0; read_name(certificate, i, name, sizeof name) && used < size; i++) {
		if (name[0])
			used += (size_t)snprintf(names + used, size - used, "%s%s", used ? ", " : "", name);
	}
}

int certificate_read(const char *pem, const char *authority, struct certificate_facts *facts, struct reason *reason)
{
	CLEANUP(close_certificate) gnutls_x509_crt_t certificate = NULL;
	uint8_t hash[32];
	size_t size = sizeof hash;
	unsigned critical;
	int error = load_certificate(pem, &certificate);
	if (error == 0)
		error = gnutls_x509_crt_get_fingerprint(certificate, GNUTLS_DIG_SHA256, hash, &size);
	if (error < 0)
		return failed("not a certificate", error, reason);
	*facts = (struct certificate_facts){
		.begin = gnutls_x509_crt_get_activation_time(certificate),
		.end = gnutls_x509_crt_get_expiration_time(certificate),
		.is_authority = gnutls_x509_crt_get_ca_status(certificate, &critical) > 0,
		.is_signed = authority && is_signed_by(certificate, authority),
	};
	read_common_name(certificate, false, facts->name, sizeof facts->name);
	read_common_name(certificate, true, facts->issuer, sizeof facts->issuer);
	read_names(certificate, facts->names, sizeof facts->names);
	for (size_t i = 0; i < size; i++)
		snprintf(facts->fingerprint + 2 * i, 3, "%02x", hash[i]);
	return 0;
}
