#include "cli/place.h"

#include <stdio.h>

const char *place_text(const struct volume *volume, char text[PLACE_TEXT_MAX])
{
	if (volume->backend == VOLUME_BACKEND_CRUCIBLE)
		snprintf(text, PLACE_TEXT_MAX, "%s, %s, %s%s", volume->targets[0], volume->targets[1],
			volume->targets[2], volume->key_file ? ", encrypted" : "");
	else
		snprintf(text, PLACE_TEXT_MAX, "%s", volume->image);
	return text;
}

void place_add(struct json_object *object, const struct volume *volume)
{
	if (volume->backend != VOLUME_BACKEND_CRUCIBLE) {
		json_add_text(object, "image", volume->image);
		return;
	}
	struct json_object *targets = json_object_new_array();
	for (unsigned i = 0; i < VOLUME_TARGETS; i++)
		json_append(targets, json_object_new_string(volume->targets[i]));
	json_add(object, "targets", targets);
	json_add_switch(object, "encrypted", volume->key_file);
}
