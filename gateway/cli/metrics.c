/* metrics.c: `tb4 metrics`, the text format of Prometheus. One family after the other, as the format
 * demands; each is described in tb4(1). */
#include <inttypes.h>
#include <string.h>

#include "cli/gateways.h"
#include "nbd/stats.h"

/* Calls `print` for each volume of each gateway that runs. */
typedef void (*volume_printer)(struct json_object *volume, const char *labels, const void *context);

static void for_each_volume(struct json_object *gateways, volume_printer print, const void *context)
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
			print(volume, labels, context);
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

/* A counter that each command has. */
struct counter {
	const char *name, *field, *help;
};

static const struct counter counters[] = {
	{ "tb4_requests_total", "operations", "Requests answered." },
	{ "tb4_request_bytes_total", "bytes", "Bytes of successful requests." },
	{ "tb4_request_errors_total", "errors", "Requests answered with an error." },
};

static void print_counter(struct json_object *volume, const char *labels, const void *context)
{
	const struct counter *counter = context;
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
	{
		uint64_t value = 0;
		json_number(command, counter->field, &value);
		printf("%s{%s,command=\"%s\"} %" PRIu64 "\n", counter->name, labels, name, value);
	}
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

static void print_latency(struct json_object *volume, const char *labels, const void *context)
{
	(void)context;
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
		print_histogram(command, labels, name);
}

/* Per volume */

static void print_state(struct json_object *volume, const char *labels, const void *context)
{
	static const char *const states[] = { "starting", "serving", "failed", "fenced", "leaving" };
	const char *state = json_text_or_null(volume, "state");
	(void)context;
	for (unsigned i = 0; i < sizeof states / sizeof states[0]; i++)
		printf("tb4_volume_state{%s,state=\"%s\"} %d\n", labels, states[i],
			state && strcmp(state, states[i]) == 0);
}

/* One number that a volume has, or its Crucible backend, the scrub of that, or each of its slots. */
struct figure {
	const char *name, *type, *field, *help;
	enum { OF_VOLUME, OF_CRUCIBLE, OF_SCRUB, OF_SLOTS } where;
};

/* clang-format off */
static const struct figure figures[] = {
	{ "tb4_requests_in_flight", "gauge", "in_flight", "Requests being worked on.", OF_VOLUME },
	{ "tb4_connections", "gauge", "connections", "Clients of the volume.", OF_VOLUME },
	{ "tb4_volume_size_bytes", "gauge", "size", "Size of the volume.", OF_VOLUME },
	{ "tb4_limited_total", "counter", "limited", "Times that a client had to wait for a rate limit.", OF_VOLUME },
	{ "tb4_flush_failed", "gauge", "flush_failed", "1 after a failed flush until one succeeds.", OF_VOLUME },
	{ "tb4_copies", "gauge", "counted", "Copies that count: what is acknowledged is on each.", OF_CRUCIBLE },
	{ "tb4_slot_in_sync", "gauge", "in_sync", "1 if the volume counts on this copy.", OF_SLOTS },
	{ "tb4_slot_damaged_blocks_total", "counter", "damaged_blocks", "Blocks of a copy that were not what their hash says.",
		OF_SLOTS },
	{ "tb4_slot_healed_blocks_total", "counter", "healed_blocks", "Of these, written again from another copy.", OF_SLOTS },
	{ "tb4_unhealed_blocks_total", "counter", "unhealed_blocks", "Blocks whose copies left no safe choice.", OF_CRUCIBLE },
	{ "tb4_scrub_done_blocks", "gauge", "done_blocks", "Blocks compared by the scrub that runs.", OF_SCRUB },
	{ "tb4_scrub_passes_total", "counter", "passes", "Scrubs that have compared all blocks.", OF_SCRUB },
};
/* clang-format on */

/* A number, or a switch as 1 or 0. */
static uint64_t value_of(struct json_object *object, const char *field)
{
	uint64_t value = 0;
	bool is_on = false;
	if (!json_number(object, field, &value) && json_switch(object, field, &is_on))
		value = is_on;
	return value;
}

static void print_figure(struct json_object *volume, const char *labels, const void *context)
{
	const struct figure *figure = context;
	struct json_object *object = volume, *slot;
	if ((figure->where != OF_VOLUME && !json_object_object_get_ex(volume, "crucible", &object)) ||
		(figure->where == OF_SCRUB && !json_object_object_get_ex(object, "scrub", &object)))
		return;
	if (figure->where != OF_SLOTS)
		printf("%s{%s} %" PRIu64 "\n", figure->name, labels, value_of(object, figure->field));
	for (size_t i = 0; figure->where == OF_SLOTS && (slot = json_item_or_null(object, "slots", i)); i++)
		printf("%s{%s,slot=\"%zu\"} %" PRIu64 "\n", figure->name, labels, i, value_of(slot, figure->field));
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
	for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
		family(counters[i].name, "counter", counters[i].help);
		for_each_volume(gateways, print_counter, &counters[i]);
	}
	family("tb4_request_seconds", "histogram", "Time from a request's arrival to its answer.");
	for_each_volume(gateways, print_latency, NULL);
	family("tb4_volume_state", "gauge", "1 for the state that the volume is in.");
	for_each_volume(gateways, print_state, NULL);
	for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
		family(figures[i].name, figures[i].type, figures[i].help);
		for_each_volume(gateways, print_figure, &figures[i]);
	}
	json_object_put(gateways);
	return damaged ? EXIT_BAD_DATA : 0;
}
