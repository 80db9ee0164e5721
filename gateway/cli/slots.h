/* slots.h: what tb4 status says of the three copies of a Crucible volume. `volume` is one of a gateway's answer. */
#ifndef TB4_SLOTS_H
#define TB4_SLOTS_H

#include "json-fields.h"

struct cli;
struct volume;

/* One line for each slot that is not as it should be; none for volumes of other backends. */
void slots_print(struct json_object *volume);
/* Adds to `degraded`, an array of texts, each of them, and that requests wait. */
void slots_add_degraded(struct json_object *volume, struct json_object *degraded);

/* What the volume's gateway says of its copies now, the object "crucible"; *answer, to be freed, holds it. NULL if it says
 * nothing. */
struct json_object *look_at_crucible(const struct cli *cli, const struct volume *volume, struct json_object **answer);

#endif
