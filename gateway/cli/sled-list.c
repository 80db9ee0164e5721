#include <stdio.h>

#include "cleanup.h"
#include "cli/sleds.h"

static struct json_object *to_json(const struct survey *survey)
{
	struct json_object *object = json_object_new_object(), *regions = json_object_new_array();
	json_add_text(object, "name", survey->sled->name);
	json_add_text(object, "address", survey->sled->address);
	json_add_text(object, "directory", survey->sled->directory);
	json_add_switch(object, "reachable", survey->error == 0);
	if (survey->error < 0) {
		json_add_text(object, "error", survey->reason.text);
		json_object_put(regions);
		return object;
	}
	json_add_text(object, "version", survey->version);
	json_add_number(object, "message_version", survey->messages);
	json_add_text(object, "filesystem", survey->filesystem);
	json_add_number(object, "total", survey->total);
	json_add_number(object, "free", survey->free);
	json_add_number(object, "room", survey_room(survey));
	for (size_t i = 0; i < survey->region_count; i++) {
		const struct survey_region *region = &survey->regions[i];
		struct json_object *item = json_object_new_object();
		json_add_number(item, "port", region->port);
		json_add_text(item, "volume", region->volume);
		json_add_text(item, "uuid", region->uuid);
		json_add_number(item, "size", region->size);
		json_add_number(item, "allocated", region->allocated);
		json_add_switch(item, "listens", region->listens);
		json_append(regions, item);
	}
	json_add(object, "regions", regions);
	return object;
}

static void print(const struct survey *survey)
{
	char sizes[SIZE_TEXT_MAX], allocated[SIZE_TEXT_MAX], room[SIZE_TEXT_MAX], unused[SIZE_TEXT_MAX];
	uint64_t all = 0, used = 0;
	if (survey->error < 0) {
		printf("%-12s %-24s %s\n", survey->sled->name, survey->sled->address, survey->reason.text);
		return;
	}
	for (size_t i = 0; i < survey->region_count; i++) {
		all += survey->regions[i].size;
		used += survey->regions[i].allocated;
	}
	printf("%-12s %-24s %7zu %10s %10s %10s %10s %-10s %s\n", survey->sled->name, survey->sled->address,
		survey->region_count, size_for_people(all, sizes), size_for_people(used, allocated),
		size_for_people(survey_room(survey), room), size_for_people(survey->free, unused), survey->filesystem,
		survey->version);
}

int command_sled_list(struct cli *cli)
{
	struct survey *surveys;
	size_t count;
	struct reason reason;
	bool all_answer = true;
	int status = survey_sleds(cli, NULL, &surveys, &count, &reason);
	if (status < 0)
		return fail(status, &reason);
	struct json_object *list = json_object_new_array();
	if (!has_option(cli, OPTION_JSON))
		printf("%-12s %-24s %7s %10s %10s %10s %10s %-10s %s\n", "SLED", "ADDRESS", "REGIONS", "SIZE", "ALLOCATED", "ROOM",
			"FREE", "FILES ON", "VERSION");
	for (size_t i = 0; i < count; i++) {
		all_answer &= surveys[i].error == 0;
		if (has_option(cli, OPTION_JSON))
			json_append(list, to_json(&surveys[i]));
		else
			print(&surveys[i]);
	}
	surveys_free(surveys, count);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add(object, "sleds", list);
		status = print_json(object);
	} else {
		json_object_put(list);
	}
	return status ? status : all_answer ? 0 : EXIT_DEGRADED;
}
