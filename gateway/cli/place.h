/* place.h: where a volume's bytes lie, for people and as JSON. */
#ifndef TB4_PLACE_H
#define TB4_PLACE_H

#include "json-fields.h"
#include "volume/volume.h"

enum { PLACE_TEXT_MAX = 1024 };

/* The image, or the three targets. */
const char *place_text(const struct volume *volume, char text[PLACE_TEXT_MAX]);
/* Adds "image", or "targets" and "encrypted". */
void place_add(struct json_object *object, const struct volume *volume);

#endif
