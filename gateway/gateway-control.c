/* gateway-control.c: what the control socket can ask of a gateway. The objects made here are what
 * `tb4 status --json` and `tb4 metrics` are made of; tb4(1) documents them. */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "gateway-internal.h"
#include "json-fields.h"
#include "log.h"
#include "nbd/nbd-protocol.h"
#include "version.h"
#include "volume/ports.h"

static bool add_claim(struct json_object *object, const struct served_volume *served)
{
	if (!served->is_held)
		return true;
	return json_add_text(object, "claim_id", served->hold.claim.claim_id) &&
		json_add_text(object, "node", served->hold.claim.node) &&
		json_add_number(object, "generation", served->hold.generation);
}

static bool add_limits(struct json_object *object, const struct served_volume *served)
{
	const struct limits *limits = &served->volume.limits;
	return json_add_number(object, "limit_iops", limits->iops) &&
		json_add_number(object, "limit_bytes_per_second", limits->bytes_per_second) &&
		json_add_number(object, "limited", served->export->stats.limited);
}

static bool describe_volume(struct json_object *object, const struct served_volume *served)
{
	const struct nbd_export *export = served->export;
	const struct volume *volume = &served->volume;
	bool has_reason = export->state == EXPORT_FAILED || export->state == EXPORT_FENCED;
	unsigned device;
	char device_path[32];
	if (volume_device(volume, &device)) {
		snprintf(device_path, sizeof device_path, "/dev/nbd%u", device);
		if (!json_add_text(object, "device", device_path))
			return false;
	}
	bool complete = json_add_text(object, "name", volume->name) &&
		json_add_text(object, "backend", volume_backends[volume->backend]) &&
		json_add_text(object, "state", export_state_names[export->state]) &&
		(!has_reason || json_add_text(object, "reason", export->reason.text)) &&
		json_add_number(object, "size", export->geometry.size) &&
		json_add_switch(object, "read_only", export->read_only) &&
		json_add_switch(object, "flush_failed", export->flush_failed) &&
		json_add_number(object, "connections", export->connection_count) &&
		json_add_number(object, "in_flight", export->in_flight_count) &&
		json_add_number(object, "awaited_writes", export->awaited) && add_limits(object, served) &&
		add_claim(object, served);
	struct json_object *details = json_object_new_object();
	if (served->backend && served->is_active && details)
		served->backend->operations->status(served->backend, details);
	return json_add(object, volume_backends[volume->backend], details) && complete;
}

static struct json_object *make_volumes(const struct gateway *gateway,
	bool (*fill)(struct json_object *object, const struct served_volume *served))
{
	struct json_object *volumes = json_object_new_array();
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		struct json_object *object = json_object_new_object();
		if (!object || !fill(object, served)) {
			json_object_put(object);
			json_object_put(volumes);
			return NULL;
		}
		if (!json_append(volumes, object))
			return NULL;
	}
	return volumes;
}

enum { TLS_CLIENTS_SHOWN = 256 }; /* an answer has a limit */

static void add_tls_client(void *context, const struct nbd_client_status *client)
{
	struct json_object *clients = context;
	if (!client->tls || json_object_array_length(clients) == TLS_CLIENTS_SHOWN)
		return;
	struct json_object *object = json_object_new_object();
	if (json_add_text(object, "peer", client->peer) &&
		json_add_text(object, "volume", client->export->name) &&
		json_add_text(object, "version", nbd_tls_version(client->tls)) &&
		json_add_text(object, "cipher", nbd_tls_cipher(client->tls)) &&
		json_add_switch(object, "in_kernel", nbd_tls_in_kernel(client->tls)))
		json_append(clients, object);
	else
		json_object_put(object);
}

static struct json_object *make_tls_clients(const struct gateway *gateway)
{
	struct json_object *clients = json_object_new_array();
	if (clients)
		nbd_server_each_client(gateway->server, add_tls_client, clients);
	return clients;
}

static struct json_object *make_server(const struct gateway *gateway)
{
	struct nbd_server_status status;
	nbd_server_status(gateway->server, &status);
	struct json_object *object = json_object_new_object();
	if (json_add_text(object, "socket", gateway->socket_path) &&
		json_add_number(object, "connections", status.connections) &&
		json_add_number(object, "handshakes", status.handshakes) &&
		json_add_number(object, "accepted", status.accepted) &&
		json_add_number(object, "refused", status.refused) &&
		json_add_number(object, "memory_used", status.memory_used) &&
		json_add_number(object, "memory", status.memory) &&
		json_add(object, "tls_clients", make_tls_clients(gateway)))
		return object;
	json_object_put(object);
	return NULL;
}

static struct json_object *make_report(const struct gateway *gateway,
	bool (*fill)(struct json_object *object, const struct served_volume *served))
{
	struct json_object *object = json_object_new_object();
	if (json_add_number(object, "vmid", gateway->vmid) &&
		json_add_number(object, "pid", (uint64_t)getpid()) &&
		json_add_text(object, "program", TB4_VERSION) &&
		json_add_text(object, "state", gateway_state_names[gateway->state]) &&
		json_add_number(
			object, "uptime_seconds", (uv_now(&gateway->loop) - gateway->started) / 1000) &&
		json_add_number(object, "limit_iops", gateway->limits.iops) &&
		json_add_number(object, "limit_bytes_per_second", gateway->limits.bytes_per_second) &&
		json_add(object, "nbd", make_server(gateway)) &&
		json_add(object, "volumes", make_volumes(gateway, fill)))
		return object;
	json_object_put(object);
	return NULL;
}

/* metrics: the counters of an export */

static const char *const command_names[STATS_COMMANDS] = {
	[NBD_CMD_READ] = "read",
	[NBD_CMD_WRITE] = "write",
	[NBD_CMD_FLUSH] = "flush",
	[NBD_CMD_TRIM] = "trim",
	[NBD_CMD_WRITE_ZEROES] = "write_zeroes",
	[NBD_CMD_CACHE] = "cache",
	[NBD_CMD_BLOCK_STATUS] = "block_status",
};

static struct json_object *make_command(const struct command_stats *stats)
{
	struct json_object *object = json_object_new_object();
	struct json_object *latency = json_object_new_array();
	bool complete = latency;
	for (unsigned i = 0; i < LATENCY_BUCKETS && complete; i++)
		complete = json_append(latency, json_object_new_int64((int64_t)stats->latency[i]));
	if (complete && json_add_number(object, "operations", stats->operations) &&
		json_add_number(object, "bytes", stats->bytes) &&
		json_add_number(object, "errors", stats->errors) &&
		json_add_number(object, "nanoseconds", stats->nanoseconds) &&
		json_add(object, "latency", latency))
		return object;
	if (!complete)
		json_object_put(latency);
	json_object_put(object);
	return NULL;
}

static bool describe_counters(struct json_object *object, const struct served_volume *served)
{
	const struct nbd_export *export = served->export;
	struct json_object *commands = json_object_new_object();
	for (unsigned i = 0; i < STATS_COMMANDS; i++) {
		if (command_names[i] && !json_add(commands, command_names[i], make_command(&export->stats.commands[i]))) {
			json_object_put(commands);
			return false;
		}
	}
	return json_add(object, "commands", commands) && describe_volume(object, served);
}

/* trace */

static struct json_object *make_entry(const struct trace_entry *entry)
{
	const char *command = entry->type < STATS_COMMANDS ? command_names[entry->type] : NULL;
	struct json_object *object = json_object_new_object();
	if (json_add_number(object, "number", entry->number) && json_add_number(object, "at_ms", entry->at) &&
		json_add_text(object, "volume", entry->volume) && json_add_text(object, "command", command ? command : "?") &&
		json_add_number(object, "offset", entry->offset) && json_add_number(object, "length", entry->length) &&
		json_add_text(object, "error", entry->error ? strerror(-entry->error) : "") &&
		json_add_number(object, "total_us", entry->total) && json_add_number(object, "limited_ms", entry->limited) &&
		json_add_number(object, "received_ms", entry->received) && json_add_number(object, "held_ms", entry->held) &&
		json_add_number(object, "backend_ms", entry->backend) &&
		(!entry->answered_by || json_add_number(object, "slot", entry->answered_by - 1)))
		return object;
	json_object_put(object);
	return NULL;
}

static void answer_trace(struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	const struct trace *trace = nbd_server_trace(gateway->server);
	const struct trace_entry *entry;
	uint64_t from = 1;
	json_number(request, "from", &from);
	struct json_object *answer = json_object_new_object(), *entries = json_object_new_array();
	for (; (entry = trace_from(trace, from)); from = entry->number + 1)
		json_append(entries, make_entry(entry));
	json_add_number(answer, "slow_request_ms", gateway->config->slow_request);
	json_add(answer, "requests", entries);
	control_answer(client, json_was_incomplete() ? (json_object_put(answer), NULL) : answer);
}

/* resize */

struct served_volume *gateway_find_volume(struct gateway *gateway, const char *name)
{
	struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		if (strcmp(served->volume.name, name) == 0)
			return served;
	}
	return NULL;
}

struct served_volume *gateway_find_changeable(struct gateway *gateway, struct control_client *client,
	struct json_object *request)
{
	struct reason reason;
	const char *name = json_text_or_null(request, "volume");
	struct served_volume *served = name ? gateway_find_volume(gateway, name) : NULL;
	int status = 0;
	if (!name)
		status = reason_set(&reason, -EINVAL, "the name of a volume is missing");
	else if (!served)
		status = reason_set(&reason, -EBUSY,
			"%.64s: not among the volumes that the running gateway of VM %llu serves: tb4 reload %llu makes it look again",
			name, (unsigned long long)gateway->vmid, (unsigned long long)gateway->vmid);
	else if (served->export->state != EXPORT_SERVING || gateway->state != GATEWAY_SERVING)
		status = reason_set(&reason, -EBUSY, "%s: is not being served now", served->volume.name);
	else if (served->change_client)
		status = reason_set(&reason, -EBUSY, "%s: is being changed already", served->volume.name);
	if (status < 0)
		control_refuse(client, status, &reason);
	return status < 0 ? NULL : served;
}

static void start_resize(
	struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	struct reason reason;
	uint64_t size;
	if (!json_number(request, "size", &size) || size % VOLUME_SECTOR != 0) {
		control_refuse(client,
			reason_set(&reason, -EINVAL, "resize needs a volume and a size in bytes, a multiple of %d",
				VOLUME_SECTOR),
			&reason);
		return;
	}
	struct served_volume *served = gateway_find_changeable(gateway, client, request);
	if (!served)
		return;
	served->change_client = client;
	served->backend->operations->resize(served->backend, size);
}

/* On a thread, as it waits for the lock on volumes. The bytes are there: the volume file says so before
 * anybody may use them. It is read again, since others may have changed other things in it. */
static void store_size(uv_work_t *work)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	const struct config *config = served->gateway->config;
	struct reason *reason = &served->change_reason;
	CLEANUP(volume_free) struct volume present = { 0 };
	CLEANUP_CLOSE int lock = volumes_lock(config, reason);
	int status = lock < 0 ? lock : volume_load(config, served->volume.name, &present, reason);
	if (status == 0 && present.size < served->resized_to) {
		present.size = served->resized_to;
		status = volume_write(config, &present, reason);
	}
	served->change_error = status;
}

static void on_size_stored(uv_work_t *work, int status)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	struct control_client *client = served->change_client;
	served->change_client = NULL;
	if (status < 0 || served->change_error < 0) {
		control_refuse(client, status < 0 ? status : served->change_error, &served->change_reason);
	} else {
		served->volume.size = served->resized_to;
		if (served->export->state == EXPORT_SERVING)
			nbd_export_resized(served->export);
		log_info("%s: grown to %llu bytes", served->volume.name,
			(unsigned long long)served->resized_to);
		struct json_object *answer = json_object_new_object();
		json_add_number(answer, "size", served->resized_to);
		control_answer(client, answer);
	}
	gateway_change_ended(served);
}

void gateway_resize_done(struct served_volume *served, int error, const struct reason *reason)
{
	struct gateway *gateway = served->gateway;
	struct control_client *client = served->change_client;
	if (error == 0) {
		served->resized_to = served->backend->geometry.size;
		served->change_reason = (struct reason){ "out of memory" };
		error = uv_queue_work(&gateway->loop, &served->change_work, store_size, on_size_stored);
		if (error == 0)
			return;
		reason = &served->change_reason;
	}
	served->change_client = NULL;
	control_refuse(client, error, reason);
	gateway_change_ended(served);
}

void gateway_handle_control(
	void *context, struct control_client *client, const char *command, struct json_object *request)
{
	struct gateway *gateway = context;
	struct reason reason;
	if (strcmp(command, "status") == 0)
		control_answer(client, make_report(gateway, describe_volume));
	else if (strcmp(command, "metrics") == 0)
		control_answer(client, make_report(gateway, describe_counters));
	else if (strcmp(command, "trace") == 0)
		answer_trace(gateway, client, request);
	else if (strcmp(command, "resize") == 0)
		start_resize(gateway, client, request);
	else if (strcmp(command, "reload") == 0)
		gateway_begin_reload(gateway, client, request);
	else if (strcmp(command, "scrub") == 0)
		gateway_scrub(gateway, client, request);
	else if (strcmp(command, "replace") == 0)
		gateway_replace_slot(gateway, client, request);
	else if (strcmp(command, "retry") == 0)
		gateway_retry_slot(gateway, client, request);
	else
		control_refuse(
			client, reason_set(&reason, -EINVAL, "unknown command %.64s", command), &reason);
}
