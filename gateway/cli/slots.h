/* slots.h: what tb4 status says of the three copies of a Crucible volume. `volume` is one of a gateway's answer. */
#ifndef TB4_SLOTS_H
#define TB4_SLOTS_H

#include "json-fields.h"

/* One line for each slot that is not as it should be; none for volumes of other backends. */
void slots_print(struct json_object *volume);
/* Is one of them so, or do requests wait for copies? */
bool slots_are_degraded(struct json_object *volume);

#endif
