/* region-json.c: see region-json.h. */
#include "region-json.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <uuid/uuid.h>

char *region_to_json(const struct crucible_region *region)
{
	char text[UUID_STR_LEN];
	uuid_unparse_lower(region->uuid.bytes, text);
	struct json_object *extent_size = json_object_new_object(), *all = json_object_new_object();
	json_object_object_add(extent_size, "value", json_object_new_uint64(region->extent_size));
	json_object_object_add(extent_size, "shift", json_object_new_uint64(region->block_shift));
	json_object_object_add(all, "block_size", json_object_new_uint64(region->block_size));
	json_object_object_add(all, "extent_size", extent_size);
	json_object_object_add(all, "extent_count", json_object_new_uint64(region->extent_count));
	json_object_object_add(all, "uuid", json_object_new_string(text));
	json_object_object_add(all, "encrypted", json_object_new_boolean(region->encrypted));
	json_object_object_add(
		all, "database_read_version", json_object_new_uint64(region->database_read_version));
	json_object_object_add(
		all, "database_write_version", json_object_new_uint64(region->database_write_version));
	char *json = strdup(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));
	json_object_put(all);
	return json;
}

static uint64_t number(struct json_object *object, const char *key)
{
	return json_object_get_uint64(json_object_object_get(object, key));
}

const char *region_from_json(const char *text, struct crucible_region *region)
{
	struct json_object *all = json_tokener_parse(text);
	const char *wrong = "not JSON";
	if (all) {
		struct json_object *extent_size = json_object_object_get(all, "extent_size");
		const char *uuid = json_object_get_string(json_object_object_get(all, "uuid"));
		*region = (struct crucible_region){
			.block_size = number(all, "block_size"),
			.extent_size = number(extent_size, "value"),
			.block_shift = (uint32_t)number(extent_size, "shift"),
			.extent_count = (uint32_t)number(all, "extent_count"),
			.encrypted = json_object_get_boolean(json_object_object_get(all, "encrypted")),
			.database_read_version = number(all, "database_read_version"),
			.database_write_version = number(all, "database_write_version"),
		};
		wrong = !uuid || uuid_parse(uuid, region->uuid.bytes) < 0 ? "no uuid"
																  : region_check(region);
	}
	json_object_put(all);
	return wrong;
}

const char *region_check(const struct crucible_region *region)
{
	const uint64_t extent_max = UINT64_C(512) << 20;
	if (region->block_size < 512 || region->block_size > 32768 ||
		region->block_size != UINT64_C(1) << (region->block_shift & 63))
		return "the block size is no power of two from 512 to 32768";
	if (region->extent_size < 1 || region->extent_size > extent_max / region->block_size)
		return "an extent has no blocks, or more than 512 MiB";
	if (region->extent_count < 1)
		return "there are no extents";
	return NULL;
}
