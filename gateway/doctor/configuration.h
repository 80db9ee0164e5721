/* configuration.h: every fault of tb4.conf, volume files and claim records, found without starting anything. */
#ifndef TB4_CONFIGURATION_H
#define TB4_CONFIGURATION_H

#include "config.h"
#include "volume/volume.h"

/* Reads tb4.conf (NULL: the default one) into *config, which is to be freed in any case, and all volume files and records.
 * *volumes gets those that are readable, and is to be freed, too. Returns 0 also if there are faults, or -ENOMEM. */
int configuration_check(const char *path, struct config *config, struct faults *faults, struct volumes *volumes);

#endif
