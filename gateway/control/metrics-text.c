#include "control/metrics-text.h"

#include <inttypes.h>
#include <string.h>

#include "nbd/stats.h"
#include "volume/volume.h"

/* Calls `print` for each volume of each gateway that runs. */
typedef void (*volume_printer)(FILE *out, struct json_object *volume, const char *labels, const void *context);

static void for_each_volume(FILE *out, struct json_object *gateways, volume_printer print, const void *context)
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
			print(out, volume, labels, context);
		}
	}
}

static void family(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
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

static void print_counter(FILE *out, struct json_object *volume, const char *labels, const void *context)
{
	const struct counter *counter = context;
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
	{
		uint64_t value = 0;
		json_number(command, counter->field, &value);
		fprintf(out, "%s{%s,command=\"%s\"} %" PRIu64 "\n", counter->name, labels, name, value);
	}
}

static void print_histogram(FILE *out, struct json_object *command, const char *labels, const char *name)
{
	struct json_object *latency;
	uint64_t sum = 0, nanoseconds = 0;
	if (!json_object_object_get_ex(command, "latency", &latency))
		return;
	json_number(command, "nanoseconds", &nanoseconds);
	for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
		sum += (uint64_t)json_object_get_int64(json_object_array_get_idx(latency, i));
		if (i + 1 < LATENCY_BUCKETS)
			fprintf(out, "tb4_request_seconds_bucket{%s,command=\"%s\",le=\"%.9g\"} %" PRIu64 "\n", labels,
				name, (double)stats_bucket_limit(i) / 1e9, sum);
	}
	fprintf(out, "tb4_request_seconds_bucket{%s,command=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", labels, name, sum);
	fprintf(out, "tb4_request_seconds_sum{%s,command=\"%s\"} %.9g\n", labels, name, (double)nanoseconds / 1e9);
	fprintf(out, "tb4_request_seconds_count{%s,command=\"%s\"} %" PRIu64 "\n", labels, name, sum);
}

static void print_latency(FILE *out, struct json_object *volume, const char *labels, const void *context)
{
	(void)context;
	struct json_object *commands = commands_of(volume);
	if (!commands)
		return;
	json_object_object_foreach(commands, name, command)
		print_histogram(out, command, labels, name);
}

/* Per volume */

static void print_states(FILE *out, const char *name, const char *labels, const char *const *states,
	const char *state)
{
	for (; *states; states++)
		fprintf(out, "%s{%s,state=\"%s\"} %d\n", name, labels, *states, state && strcmp(state, *states) == 0);
}

static void print_volume_state(FILE *out, struct json_object *volume, const char *labels, const void *context)
{
	static const char *const states[] = { "starting", "serving", "failed", "fenced", "leaving", NULL };
	(void)context;
	print_states(out, "tb4_volume_state", labels, states, json_text_or_null(volume, "state"));
}

static void print_slot_states(FILE *out, struct json_object *volume, const char *labels, const void *context)
{
	static const char *const states[] = { "absent", "connecting", "replay", "repair", "active", "failed", NULL };
	struct json_object *crucible, *slot;
	char of_slot[200];
	(void)context;
	if (!json_object_object_get_ex(volume, "crucible", &crucible))
		return;
	for (size_t i = 0; (slot = json_item_or_null(crucible, "slots", i)); i++) {
		snprintf(of_slot, sizeof of_slot, "%s,slot=\"%zu\"", labels, i);
		print_states(out, "tb4_slot_state", of_slot, states, json_text_or_null(slot, "state"));
	}
}

/* One number that a volume has, or its Crucible backend, the scrub of that, or each of its slots. */
struct figure {
	const char *name, *type, *field, *help;
	enum { OF_VOLUME, OF_CRUCIBLE, OF_SCRUB, OF_SLOTS } where;
	unsigned divisor; /* of the field: 1000 if that is milliseconds; 0: none */
};

/* clang-format off */
static const struct figure figures[] = {
	{ "tb4_requests_in_flight", "gauge", "in_flight", "Requests being worked on.", OF_VOLUME, 0 },
	{ "tb4_connections", "gauge", "connections", "Clients of the volume.", OF_VOLUME, 0 },
	{ "tb4_volume_size_bytes", "gauge", "size", "Size of the volume.", OF_VOLUME, 0 },
	{ "tb4_limited_total", "counter", "limited", "Times that a client had to wait for a rate limit.", OF_VOLUME, 0 },
	{ "tb4_flush_failed", "gauge", "flush_failed", "1 after a failed flush until one succeeds.", OF_VOLUME, 0 },
	{ "tb4_copies", "gauge", "counted", "Copies that count: what is acknowledged is on each.", OF_CRUCIBLE, 0 },
	{ "tb4_volume_paused", "gauge", "paused", "1 while requests wait for copies.", OF_CRUCIBLE, 0 },
	{ "tb4_record_wait_seconds", "gauge", "record_waits_ms", "Time that a change of the claim record waits to be stored.",
		OF_CRUCIBLE, 1000 },
	{ "tb4_slot_in_sync", "gauge", "in_sync", "1 if the volume counts on this copy.", OF_SLOTS, 0 },
	{ "tb4_slot_behind_seconds", "gauge", "behind_ms", "Age of the oldest request that the copy has not answered.", OF_SLOTS,
		1000 },
	{ "tb4_slot_repaired_extents", "gauge", "repaired_extents", "Extents copied by the repair that runs.", OF_SLOTS, 0 },
	{ "tb4_slot_extents_to_repair", "gauge", "extents_to_repair", "Extents that this repair has to copy, or 0.", OF_SLOTS, 0 },
	{ "tb4_slot_damaged_blocks_total", "counter", "damaged_blocks", "Blocks of a copy that were not what their hash says.",
		OF_SLOTS, 0 },
	{ "tb4_slot_healed_blocks_total", "counter", "healed_blocks", "Of these, written again from another copy.", OF_SLOTS, 0 },
	{ "tb4_unhealed_blocks_total", "counter", "unhealed_blocks", "Blocks whose copies left no safe choice.", OF_CRUCIBLE, 0 },
	{ "tb4_scrub_running", "gauge", "running", "1 while a scrub runs.", OF_SCRUB, 0 },
	{ "tb4_scrub_done_blocks", "gauge", "done_blocks", "Blocks compared by the scrub that runs.", OF_SCRUB, 0 },
	{ "tb4_scrub_all_blocks", "gauge", "all_blocks", "Blocks that this scrub has to compare, or 0.", OF_SCRUB, 0 },
	{ "tb4_scrub_passes_total", "counter", "passes", "Scrubs that have compared all blocks.", OF_SCRUB, 0 },
	{ "tb4_scrub_differing_blocks_total", "counter", "differing_blocks", "Blocks that a scrub found not right on all copies.",
		OF_SCRUB, 0 },
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

static void print_value(FILE *out, const struct figure *figure, const char *labels, struct json_object *object)
{
	uint64_t value = value_of(object, figure->field);
	if (figure->divisor)
		fprintf(out, "%s{%s} %.9g\n", figure->name, labels, (double)value / figure->divisor);
	else
		fprintf(out, "%s{%s} %" PRIu64 "\n", figure->name, labels, value);
}

static void print_figure(FILE *out, struct json_object *volume, const char *labels, const void *context)
{
	const struct figure *figure = context;
	struct json_object *object = volume, *slot;
	if ((figure->where != OF_VOLUME && !json_object_object_get_ex(volume, "crucible", &object)) ||
		(figure->where == OF_SCRUB && !json_object_object_get_ex(object, "scrub", &object)))
		return;
	if (figure->where != OF_SLOTS)
		print_value(out, figure, labels, object);
	for (size_t i = 0; figure->where == OF_SLOTS && (slot = json_item_or_null(object, "slots", i)); i++) {
		char of_slot[200];
		snprintf(of_slot, sizeof of_slot, "%s,slot=\"%zu\"", labels, i);
		print_value(out, figure, of_slot, slot);
	}
}

/* Per gateway */

static bool is_up(struct json_object *gateway)
{
	return json_object_object_get_ex(gateway, "nbd", NULL);
}

static uint64_t vmid_of(struct json_object *gateway)
{
	uint64_t vmid = 0;
	json_number(gateway, "vmid", &vmid);
	return vmid;
}

static void print_up(FILE *out, struct json_object *gateway)
{
	fprintf(out, "tb4_up{vmid=\"%" PRIu64 "\"} %d\n", vmid_of(gateway), is_up(gateway));
}

static void print_uptime(FILE *out, struct json_object *gateway)
{
	fprintf(out, "tb4_uptime_seconds{vmid=\"%" PRIu64 "\"} %" PRIu64 "\n", vmid_of(gateway),
		value_of(gateway, "uptime_seconds"));
}

static void print_memory(FILE *out, struct json_object *gateway)
{
	struct json_object *server;
	if (json_object_object_get_ex(gateway, "nbd", &server))
		fprintf(out, "tb4_memory_in_use_bytes{vmid=\"%" PRIu64 "\"} %" PRIu64 "\n", vmid_of(gateway),
			value_of(server, "memory_used"));
}

static void write_gateways(FILE *out, struct json_object *gateways)
{
	size_t count = json_object_array_length(gateways), up = 0;
	family(out, "tb4_up", "gauge", "1 if the gateway of the VM runs and answers.");
	for (size_t i = 0; i < count; i++) {
		print_up(out, json_object_array_get_idx(gateways, i));
		up += is_up(json_object_array_get_idx(gateways, i));
	}
	family(out, "tb4_gateways", "gauge", "Gateways of this node that run and answer.");
	fprintf(out, "tb4_gateways %zu\n", up);
	family(out, "tb4_uptime_seconds", "gauge", "Time since the gateway was started.");
	for (size_t i = 0; i < count; i++) {
		if (is_up(json_object_array_get_idx(gateways, i)))
			print_uptime(out, json_object_array_get_idx(gateways, i));
	}
	family(out, "tb4_memory_in_use_bytes", "gauge", "Memory of requests in flight.");
	for (size_t i = 0; i < count; i++)
		print_memory(out, json_object_array_get_idx(gateways, i));
}

void metrics_write(FILE *out, struct json_object *gateways)
{
	write_gateways(out, gateways);
	for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
		family(out, counters[i].name, "counter", counters[i].help);
		for_each_volume(out, gateways, print_counter, &counters[i]);
	}
	family(out, "tb4_request_seconds", "histogram", "Time from a request's arrival to its answer.");
	for_each_volume(out, gateways, print_latency, NULL);
	family(out, "tb4_volume_state", "gauge", "1 for the state that the volume is in.");
	for_each_volume(out, gateways, print_volume_state, NULL);
	family(out, "tb4_slot_state", "gauge", "1 for the state that the copy is in.");
	for_each_volume(out, gateways, print_slot_states, NULL);
	for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
		family(out, figures[i].name, figures[i].type, figures[i].help);
		for_each_volume(out, gateways, print_figure, &figures[i]);
	}
}
