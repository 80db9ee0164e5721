/* target.h: where a downstairs listens: HOST:PORT, HOST a name, an IPv4 address or an IPv6 address in brackets. */
#ifndef TB4_TARGET_H
#define TB4_TARGET_H

#include <stdint.h>

enum { TARGET_HOST_MAX = 256 };

/* Takes it apart. Returns 0 or -EINVAL. */
int target_parse(const char *text, char host[TARGET_HOST_MAX], uint16_t *port);

#endif
