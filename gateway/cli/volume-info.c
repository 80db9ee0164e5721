#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "cli/place.h"
#include "sled/regions.h"
#include "volume/ports.h"
#include "volume/record.h"

/* "released", "claimed by node X", "never claimed", or what is wrong with the record. */
static void describe_claim(const struct cli *cli, const struct volume *volume, char *text, size_t size)
{
	struct record record;
	struct reason reason;
	int status = record_load(&cli->config, volume->name, &record, &reason);
	if (status == -ENOENT)
		snprintf(text, size, "never claimed");
	else if (status < 0)
		snprintf(text, size, "%s", reason.text);
	else if (record.released)
		snprintf(text, size, "released by %s", record.node);
	else
		snprintf(text, size, "claimed by %s", record.node);
}

/* The sleds that its slots are on, "-" at a host that tb4.conf does not know. False: none is known. */
static bool find_sleds(const struct cli *cli, const struct volume *volume, const char *names[VOLUME_TARGETS])
{
	struct region_place places[VOLUME_TARGETS] = { 0 };
	bool any = false;
	if (volume->backend == VOLUME_BACKEND_CRUCIBLE)
		regions_of(&cli->config, volume, places);
	for (unsigned i = 0; i < VOLUME_TARGETS; i++) {
		names[i] = places[i].sled ? places[i].sled->name : "-";
		any = any || places[i].sled;
	}
	return any;
}

int command_volume_info(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	struct stat st;
	unsigned device = 0;
	char claim[512], size[SIZE_TEXT_MAX], people[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX] = "?", place[PLACE_TEXT_MAX];
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status < 0)
		return fail(status, &reason);
	describe_claim(cli, &volume, claim, sizeof claim);
	bool is_file = volume.backend == VOLUME_BACKEND_FILE;
	bool has_image = is_file && stat(volume.image, &st) == 0;
	bool has_device = volume_device(&volume, &device);
	const char *sleds[VOLUME_TARGETS];
	bool has_sleds = find_sleds(cli, &volume, sleds);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "vmid", volume.parsed.vmid);
		json_add_number(object, "size", volume.size);
		json_add_text(object, "backend", volume_backends[volume.backend]);
		json_add_text(object, "host", volume.host);
		if (volume.description)
			json_add_text(object, "description", volume.description);
		json_add_switch(object, "read_only", volume.read_only);
		json_add_text(object, "claim", claim);
		json_add_text(object, "file", volume.path);
		place_add(object, &volume);
		struct json_object *names = has_sleds ? json_object_new_array() : NULL;
		for (unsigned i = 0; has_sleds && i < VOLUME_TARGETS; i++)
			json_append(names, json_object_new_string(sleds[i]));
		if (has_sleds)
			json_add(object, "sleds", names);
		if (has_image)
			json_add_number(object, "allocated", (uint64_t)st.st_blocks * 512);
		json_add_number(object, "nbd_port", volume_nbd_port(&volume));
		if (has_device)
			json_add_number(object, "device", device);
		return print_json(object);
	}
	if (has_image)
		size_for_people((uint64_t)st.st_blocks * 512, used);
	printf("volume       %s\n", volume.name);
	if (volume.description)
		printf("description  %s\n", volume.description);
	printf("size         %s (%s, %llu bytes)\n", size_format(volume.size, size),
		size_for_people(volume.size, people), (unsigned long long)volume.size);
	printf("backend      %s%s\n", volume_backends[volume.backend],
		volume.read_only ? ", read-only" : "");
	printf("%s%s%s%s%s\n", is_file ? "image        " : "downstairs   ", place_text(&volume, place),
		has_image ? ", " : is_file ? " (missing)" : "", has_image ? used : "", has_image ? " allocated" : "");
	if (has_sleds)
		printf("sleds        %s, %s, %s\n", sleds[0], sleds[1], sleds[2]);
	printf("host         %s\n", volume.host);
	printf("claim        %s\n", claim);
	printf("nbd port     %u\n", volume_nbd_port(&volume));
	if (has_device)
		printf("device       /dev/nbd%u\n", device);
	printf("defined in   %s\n", volume.path);
	return 0;
}
