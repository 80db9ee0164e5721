/* cert.h: where certificates lie: what cert.c, which makes them, and cert-list.c, which shows them, share. */
#ifndef TB4_CERT_H
#define TB4_CERT_H

#include "cli/cli.h"

struct cert_places {
	const char *nodes;     /* has a directory for each node */
	const char *directory; /* of the authority */
	char *authority, *authority_key;
};

/* Free in any case. */
int cert_find_places(const struct cli *cli, struct cert_places *places, struct reason *reason);
void cert_places_free(struct cert_places *places);
/* As durable_file_read(), with a reason also for a file that is not there. */
int cert_read_file(const char *path, char **text, struct reason *reason);

#endif
