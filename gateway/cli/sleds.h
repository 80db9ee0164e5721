/* sleds.h: what the commands that look at sleds have in common. */
#ifndef TB4_SLEDS_H
#define TB4_SLEDS_H

#include "cli/cli.h"
#include "sled/survey.h"

/* Surveys of all sleds of tb4.conf, or of the one that is named (NULL: all); *count of them. -ENOENT if there is none.
 * surveys_free() in any case. */
int survey_sleds(const struct cli *cli, const char *name, struct survey **surveys, size_t *count, struct reason *reason);

#endif
