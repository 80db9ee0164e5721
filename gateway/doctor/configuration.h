/* configuration.h: every fault of tb4.conf, volume files and claim records, found without starting anything. */
#ifndef TB4_CONFIGURATION_H
#define TB4_CONFIGURATION_H

#include "config.h"

/* Reads tb4.conf (NULL: the default one) into *config, which is to be freed in any case, and all volume files and records.
 * *count gets how many volumes are readable. Returns 0 also if there are faults, or -ENOMEM. */
int configuration_check(const char *path, struct config *config, struct faults *faults, size_t *count);

#endif
