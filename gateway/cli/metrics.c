/* metrics.c: `tb4 metrics`, the text format of Prometheus. One family after the other, as the format
 * demands; each is described in tb4(1). */
#include <inttypes.h>
#include <string.h>

#include "cli/gateways.h"
#include "nbd/stats.h"

/* Calls `print` for each volume of each gateway that runs. */
typedef void (*volume_printer)(struct json_object *volume, const char *labels);

static void for_each_volume(struct json_object *gateways, volume_printer print)
{
	for (size_t i = 0; i < json_object_array_length(gateways); i++) {
		struct json_object *gateway = json_object_array_get_idx(gateways, i), *volumes;
		uint64_t vmid = 0;
		json_number(gateway, "vmid", &vmid);
		if (!json_object_object_get_ex(gateway, "nbd", NULL) ||
			!json_object_object_get_ex(gateway, "volumes", &volumes) ||
			!json_object_is_type(volumes, json_type_array))
			continue; /* not running */
		for (size_t k = 0; k < json_object_array_length(volumes); k++) {
			struct json_object *volume = json_object_array_get_idx(volumes, k);
			const char *name = json_text_or_null(volume, "name");
			struct volume_name parsed;
			char labels[160];
			if (!name || volume_name_parse(name, &parsed) < 0)
				continue; /* nothing that a gateway of ours says; and no quotes get into a label */
			snprintf(labels, sizeof labels, "vmid=\"%" PRIu64 "\",volume=\"%s\"", vmid, name);
			print(volume, labels);
		}
	}
}

static void family(const char *name, const char *type, const char *help)
{
	printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Per command */

/* The commands of a volume by name; NULL if they are not what they should be. */
static struct json_object *commands_of(struct json_object *volume)
{
	struct json_object *commands;
	if (!json_object_object_get_ex(volume, "commands", &commands) ||
		!json_object_is_type(commands, json_type_object))
		return NULL;
	json_object_object_foreach(commands, name, command)
	{
		struct json_object *latency;
		if (name[strspn(name, "abcdefghijklmnopqrstuvwxyz_")] || !json_object_is_type(command, json_type_object) ||
			!json_object_object_get_ex(command, "latency", &latency) ||
			!json_object_is_type(latency, json_type_array) ||
			json_object_array_length(latency) != LATENCY_BUCKETS)
			return NULL;
	}
	return commands;
}

static const char *counter_family, *counter_field;
static double counter_scale;

static void print_counters(struct json_object *volume, const char *labels)
{
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
	{
		uint64_t value = 0;
		json_number(command, counter_field, &value);
		if (counter_scale == 1)
			printf("%s{%s,command=\"%s\"} %" PRIu64 "\n", counter_family, labels, name, value);
		else
			printf("%s{%s,command=\"%s\"} %.9g\n", counter_family, labels, name,
				(double)value * counter_scale);
	}
}

static void print_counter_family(struct json_object *gateways, const char *name, const char *field,
	const char *help)
{
	family(name, "counter", help);
	counter_family = name;
	counter_field = field;
	counter_scale = 1;
	for_each_volume(gateways, print_counters);
}

static void print_histogram(struct json_object *command, const char *labels, const char *name)
{
	struct json_object *latency;
	uint64_t sum = 0, nanoseconds = 0;
	if (!json_object_object_get_ex(command, "latency", &latency))
		return;
	json_number(command, "nanoseconds", &nanoseconds);
	for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
		sum += (uint64_t)json_object_get_int64(json_object_array_get_idx(latency, i));
		if (i + 1 < LATENCY_BUCKETS)
			printf("tb4_request_seconds_bucket{%s,command=\"%s\",le=\"%.9g\"} %" PRIu64 "\n", labels,
				name, (double)stats_bucket_limit(i) / 1e9, sum);
	}
	printf("tb4_request_seconds_bucket{%s,command=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", labels, name, sum);
	printf("tb4_request_seconds_sum{%s,command=\"%s\"} %.9g\n", labels, name, (double)nanoseconds / 1e9);
	printf("tb4_request_seconds_count{%s,command=\"%s\"} %" PRIu64 "\n", labels, name, sum);
}

static void print_latency(struct json_object *volume, const char *labels)
{
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
		print_histogram(command, labels, name);
}

/* Per volume */

static void print_gauge(struct json_object *volume, const char *labels, const char *name, const char *field)
{
	uint64_t value = 0;
	json_number(volume, field, &value);
	printf("%s{%s} %" PRIu64 "\n", name, labels, value);
}

static void print_in_flight(struct json_object *volume, const char *labels)
{
	print_gauge(volume, labels, "tb4_requests_in_flight", "in_flight");
}

static void print_connections(struct json_object *volume, const char *labels)
{
	print_gauge(volume, labels, "tb4_connections", "connections");
}

static void print_size(struct json_object *volume, const char *labels)
{
	print_gauge(volume, labels, "tb4_volume_size_bytes", "size");
}

static void print_state(struct json_object *volume, const char *labels)
{
	static const char *const states[] = { "starting", "serving", "failed", "fenced" };
	const char *state = json_text_or_null(volume, "state");
	for (unsigned i = 0; i < sizeof states / sizeof states[0]; i++)
		printf("tb4_volume_state{%s,state=\"%s\"} %d\n", labels, states[i],
			state && strcmp(state, states[i]) == 0);
}

static void print_flush_failed(struct json_object *volume, const char *labels)
{
	bool failed = false;
	json_switch(volume, "flush_failed", &failed);
	printf("tb4_flush_failed{%s} %d\n", labels, failed);
}

/* Per slot of a Crucible volume */

static struct json_object *crucible_of(struct json_object *volume)
{
	struct json_object *crucible;
	return json_object_object_get_ex(volume, "crucible", &crucible) ? crucible : NULL;
}

static void print_slots(struct json_object *volume, const char *labels, const char *name, const char *field)
{
	struct json_object *crucible = crucible_of(volume), *slot;
	for (size_t i = 0; crucible && (slot = json_item_or_null(crucible, "slots", i)); i++) {
		uint64_t value = 0;
		bool is_on = false;
		if (!json_number(slot, field, &value) && json_switch(slot, field, &is_on))
			value = is_on;
		printf("%s{%s,slot=\"%zu\"} %" PRIu64 "\n", name, labels, i, value);
	}
}

static void print_in_sync(struct json_object *volume, const char *labels)
{
	print_slots(volume, labels, "tb4_slot_in_sync", "in_sync");
}

static void print_damaged(struct json_object *volume, const char *labels)
{
	print_slots(volume, labels, "tb4_slot_damaged_blocks_total", "damaged_blocks");
}

static void print_healed(struct json_object *volume, const char *labels)
{
	print_slots(volume, labels, "tb4_slot_healed_blocks_total", "healed_blocks");
}

static void print_unhealed(struct json_object *volume, const char *labels)
{
	if (crucible_of(volume))
		print_gauge(crucible_of(volume), labels, "tb4_unhealed_blocks_total", "unhealed_blocks");
}

static void print_counted(struct json_object *volume, const char *labels)
{
	if (crucible_of(volume))
		print_gauge(crucible_of(volume), labels, "tb4_copies", "counted");
}

static void print_scrub(struct json_object *volume, const char *labels, const char *name, const char *field)
{
	struct json_object *crucible = crucible_of(volume), *scrub;
	if (crucible && json_object_object_get_ex(crucible, "scrub", &scrub))
		print_gauge(scrub, labels, name, field);
}

static void print_scrub_done(struct json_object *volume, const char *labels)
{
	print_scrub(volume, labels, "tb4_scrub_done_blocks", "done_blocks");
}

static void print_scrub_passes(struct json_object *volume, const char *labels)
{
	print_scrub(volume, labels, "tb4_scrub_passes_total", "passes");
}

static void print_crucible(struct json_object *gateways)
{
	family("tb4_copies", "gauge", "Copies that count: what is acknowledged is on each.");
	for_each_volume(gateways, print_counted);
	family("tb4_slot_in_sync", "gauge", "1 if the volume counts on this copy.");
	for_each_volume(gateways, print_in_sync);
	family("tb4_slot_damaged_blocks_total", "counter", "Blocks of a copy that were not what their hash says.");
	for_each_volume(gateways, print_damaged);
	family("tb4_slot_healed_blocks_total", "counter", "Of these, written again from another copy.");
	for_each_volume(gateways, print_healed);
	family("tb4_unhealed_blocks_total", "counter", "Blocks whose copies left no safe choice.");
	for_each_volume(gateways, print_unhealed);
	family("tb4_scrub_done_blocks", "gauge", "Blocks compared by the scrub that runs.");
	for_each_volume(gateways, print_scrub_done);
	family("tb4_scrub_passes_total", "counter", "Scrubs that have compared all blocks.");
	for_each_volume(gateways, print_scrub_passes);
}

/* Per gateway */

static void print_gateways(struct json_object *gateways)
{
	family("tb4_up", "gauge", "1 if the gateway of the VM runs and answers.");
	for (size_t i = 0; i < json_object_array_length(gateways); i++) {
		struct json_object *gateway = json_object_array_get_idx(gateways, i);
		uint64_t vmid = 0;
		json_number(gateway, "vmid", &vmid);
		printf("tb4_up{vmid=\"%" PRIu64 "\"} %d\n", vmid,
			json_object_object_get_ex(gateway, "nbd", NULL));
	}
	family("tb4_memory_in_use_bytes", "gauge", "Memory of requests in flight.");
	for (size_t i = 0; i < json_object_array_length(gateways); i++) {
		struct json_object *gateway = json_object_array_get_idx(gateways, i), *server;
		uint64_t vmid = 0, used = 0;
		json_number(gateway, "vmid", &vmid);
		if (!json_object_object_get_ex(gateway, "nbd", &server))
			continue;
		json_number(server, "memory_used", &used);
		printf("tb4_memory_in_use_bytes{vmid=\"%" PRIu64 "\"} %" PRIu64 "\n", vmid, used);
	}
}

int command_metrics(struct cli *cli)
{
	uint64_t vmid = 0;
	bool damaged;
	if (cli->argument_count > 0 && vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM", cli->arguments[0]);
	struct json_object *gateways = ask_gateways(cli, "metrics", vmid, &damaged);
	if (!gateways)
		return fail_text(EXIT_INTERNAL, "out of memory");
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_number(object, "version", 1);
		json_add(object, "gateways", gateways);
		int printed = print_json(object);
		return printed ? printed : damaged ? EXIT_BAD_DATA : 0;
	}
	print_gateways(gateways);
	print_counter_family(gateways, "tb4_requests_total", "operations", "Requests answered.");
	print_counter_family(gateways, "tb4_request_bytes_total", "bytes", "Bytes of successful requests.");
	print_counter_family(gateways, "tb4_request_errors_total", "errors", "Requests answered with an error.");
	family("tb4_request_seconds", "histogram", "Time from a request's arrival to its answer.");
	for_each_volume(gateways, print_latency);
	family("tb4_requests_in_flight", "gauge", "Requests being worked on.");
	for_each_volume(gateways, print_in_flight);
	family("tb4_connections", "gauge", "Clients of the volume.");
	for_each_volume(gateways, print_connections);
	family("tb4_volume_size_bytes", "gauge", "Size of the volume.");
	for_each_volume(gateways, print_size);
	family("tb4_volume_state", "gauge", "1 for the state that the volume is in.");
	for_each_volume(gateways, print_state);
	family("tb4_flush_failed", "gauge", "1 after a failed flush until one succeeds.");
	for_each_volume(gateways, print_flush_failed);
	print_crucible(gateways);
	json_object_put(gateways);
	return damaged ? EXIT_BAD_DATA : 0;
}
