/* certificates.h: the certificates of a small authority of one's own, as PEM text. Files are the caller's business.
 *
 * Keys are ECDSA on P-256, which everything that speaks TLS 1.3 has. Texts that are given out are malloc'ed; those with
 * a key in them go by pem_free(), which wipes them. Blocking for milliseconds. Errors are negative errno with a reason.
 */
#ifndef TB4_CERTIFICATES_H
#define TB4_CERTIFICATES_H

#include <stdbool.h>
#include <time.h>

#include "reason.h"

enum { CERTIFICATE_NAME_MAX = 64 };

/* Wipes and frees *pem, which may be NULL. For CLEANUP(). */
void pem_free(char **pem);

int certificate_make_key(char **key, struct reason *reason);
/* One that signs others, for `name`, with its own key. */
int certificate_make_authority(const char *name, unsigned days, const char *key, char **certificate, struct reason *reason);

struct certificate_order {
	const char *name;      /* common name and DNS name */
	const char *addresses; /* further names and IP addresses, separated by commas; NULL: none */
	unsigned days;         /* but never longer than the authority's own */
};
/* One for a server and a client, signed by the authority. */
int certificate_sign(const struct certificate_order *order, const char *key, const char *authority,
	const char *authority_key, char **certificate, struct reason *reason);

struct certificate_facts {
	char name[256];  /* common name */
	char issuer[256];
	char names[1024]; /* DNS names and addresses, separated by ", ", cut short if they are many */
	char fingerprint[2 * 32 + 1]; /* SHA-256, in hexadecimal */
	time_t begin, end;
	bool is_authority;
	bool is_signed; /* by the authority that it was compared with, whatever the date */
};
/* `authority` may be NULL. */
int certificate_read(const char *certificate, const char *authority, struct certificate_facts *facts, struct reason *reason);

#endif
