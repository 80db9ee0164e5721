#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/node-gateways.h"
#include "cli/slots.h"

enum { WATCH_SECONDS = 2 };

static void print_volume(struct json_object *gateway, struct json_object *volume)
{
	char size[SIZE_TEXT_MAX], generation[24] = "-";
	bool flush_failed = false;
	if (json_number_or_zero(volume, "generation"))
		snprintf(generation, sizeof generation, "%llu",
			(unsigned long long)json_number_or_zero(volume, "generation"));
	json_switch(volume, "flush_failed", &flush_failed);
	printf("%-6llu %-24s %8s  %-8s %-9s %-11s %7llu %9llu%s\n",
		(unsigned long long)json_number_or_zero(gateway, "vmid"), json_text_or(volume, "name", "?"),
		size_format(json_number_or_zero(volume, "size"), size), json_text_or(volume, "backend", "?"),
		json_text_or(volume, "state", "?"), generation,
		(unsigned long long)json_number_or_zero(volume, "connections"),
		(unsigned long long)json_number_or_zero(volume, "in_flight"), flush_failed ? "  flush failed" : "");
	const char *reason = json_text_or_null(volume, "reason");
	if (reason)
		printf("       %s\n", reason);
	slots_print(volume);
}

static void print_tls_clients(struct json_object *gateway)
{
	struct json_object *server, *client;
	if (!json_object_object_get_ex(gateway, "nbd", &server))
		return;
	for (size_t i = 0; (client = json_item_or_null(server, "tls_clients", i)); i++) {
		bool in_kernel = false;
		json_switch(client, "in_kernel", &in_kernel);
		printf("       client %s: %s, %s%s\n", json_text_or(client, "peer", "?"), json_text_or(client, "volume", "?"),
			json_text_or(client, "version", "?"), in_kernel ? " in the kernel" : "");
	}
}

static void print_gateway(struct json_object *gateway)
{
	struct json_object *volume;
	for (size_t i = 0; (volume = json_item_or_null(gateway, "volumes", i)); i++)
		print_volume(gateway, volume);
	print_tls_clients(gateway);
	if (!json_item_or_null(gateway, "volumes", 0))
		printf("%-6llu %-24s %8s  %-8s %-9s\n", (unsigned long long)json_number_or_zero(gateway, "vmid"), "-",
			"-", "-", json_text_or(gateway, "state", "?"));
	const char *reason = json_text_or_null(gateway, "reason");
	if (reason)
		printf("       %s\n", reason);
}

static void add_degraded_volume(struct json_object *volume, struct json_object *degraded)
{
	const char *name = json_text_or(volume, "name", "?"), *state = json_text_or(volume, "state", "?");
	bool flush_failed = false;
	if (strcmp(state, "leaving") == 0)
		return; /* as it was told to */
	if (strcmp(state, "serving") != 0) {
		json_append_text(degraded, "%s: %s", name, state);
		return;
	}
	json_switch(volume, "flush_failed", &flush_failed);
	if (flush_failed)
		json_append_text(degraded, "%s: flush failed", name);
	slots_add_degraded(volume, degraded);
}

/* What was started, or is asked for, and does not do what it should, as an array of texts. */
static struct json_object *find_degraded(struct json_object *gateways, uint64_t asked)
{
	struct json_object *degraded = json_object_new_array(), *volume;
	for (size_t i = 0; i < json_object_array_length(gateways); i++) {
		struct json_object *gateway = json_object_array_get_idx(gateways, i);
		const char *state = json_text_or(gateway, "state", "?");
		bool is_stopped = strcmp(state, "stopped") == 0, is_silent = strcmp(state, "silent") == 0;
		if (is_stopped && !asked)
			continue; /* nobody says that it should run */
		if (strcmp(state, "serving") != 0)
			json_append_text(degraded, "VM %llu: %s", (unsigned long long)json_number_or_zero(gateway, "vmid"), state);
		for (size_t k = 0; !is_stopped && !is_silent && (volume = json_item_or_null(gateway, "volumes", k)); k++)
			add_degraded_volume(volume, degraded);
	}
	return degraded;
}

static int show_once(const struct cli *cli, uint64_t vmid)
{
	bool damaged;
	CLEANUP_JSON struct json_object *gateways = ask_gateways(cli, "status", vmid, &damaged);
	CLEANUP_JSON struct json_object *degraded = gateways ? find_degraded(gateways, vmid) : NULL;
	if (!degraded || json_was_incomplete())
		return fail_text(EXIT_INTERNAL, "out of memory");
	int status = damaged ? EXIT_BAD_DATA : json_object_array_length(degraded) > 0 ? EXIT_DEGRADED : 0;
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_number(object, "version", 1);
		json_add_text(object, "node", cli->config.node_name);
		json_add(object, "degraded", take_pointer(&degraded));
		json_add(object, "gateways", take_pointer(&gateways));
		int printed = print_json(object);
		return printed ? printed : status;
	}
	printf("%-6s %-24s %8s  %-8s %-9s %-11s %7s %9s\n", "VM", "VOLUME", "SIZE", "BACKEND", "STATE",
		"GENERATION", "CLIENTS", "IN FLIGHT");
	for (size_t i = 0; i < json_object_array_length(gateways); i++)
		print_gateway(json_object_array_get_idx(gateways, i));
	return status;
}

int command_status(struct cli *cli)
{
	uint64_t vmid = 0;
	if (cli->argument_count > 0 && vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM", cli->arguments[0]);
	if (!has_option(cli, OPTION_WATCH))
		return show_once(cli, vmid);
	int status = 0;
	catch_interrupts();
	while (!was_interrupted()) {
		if (isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		status = show_once(cli, vmid);
		if (fflush(stdout) == EOF)
			break;
		struct timespec pause = { .tv_sec = WATCH_SECONDS };
		nanosleep(&pause, NULL);
	}
	return status;
}
