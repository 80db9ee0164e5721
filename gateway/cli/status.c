#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/node-gateways.h"
#include "cli/slots.h"

enum { WATCH_SECONDS = 2 };

static uint64_t number_of(struct json_object *object, const char *name)
{
	uint64_t number;
	return json_number(object, name, &number) ? number : 0;
}

static void print_volume(struct json_object *gateway, struct json_object *volume)
{
	char size[SIZE_TEXT_MAX], generation[24] = "-";
	bool flush_failed = false;
	if (number_of(volume, "generation"))
		snprintf(generation, sizeof generation, "%llu",
			(unsigned long long)number_of(volume, "generation"));
	json_switch(volume, "flush_failed", &flush_failed);
	printf("%-6llu %-24s %8s  %-8s %-9s %-11s %7llu %9llu%s\n",
		(unsigned long long)number_of(gateway, "vmid"), json_text_or(volume, "name", "?"),
		size_format(number_of(volume, "size"), size), json_text_or(volume, "backend", "?"),
		json_text_or(volume, "state", "?"), generation,
		(unsigned long long)number_of(volume, "connections"),
		(unsigned long long)number_of(volume, "in_flight"), flush_failed ? "  flush failed" : "");
	const char *reason = json_text_or_null(volume, "reason");
	if (reason)
		printf("       %s\n", reason);
	slots_print(volume);
}

static void print_gateway(struct json_object *gateway)
{
	struct json_object *volume;
	for (size_t i = 0; (volume = json_item_or_null(gateway, "volumes", i)); i++)
		print_volume(gateway, volume);
	if (!json_item_or_null(gateway, "volumes", 0))
		printf("%-6llu %-24s %8s  %-8s %-9s\n", (unsigned long long)number_of(gateway, "vmid"), "-",
			"-", "-", json_text_or(gateway, "state", "?"));
	const char *reason = json_text_or_null(gateway, "reason");
	if (reason)
		printf("       %s\n", reason);
}

/* Something that was started does not do what it should. */
static bool is_degraded(struct json_object *gateway)
{
	const char *state = json_text_or(gateway, "state", "");
	if (strcmp(state, "fenced") == 0 || strcmp(state, "silent") == 0)
		return true;
	struct json_object *volume;
	for (size_t i = 0; (volume = json_item_or_null(gateway, "volumes", i)); i++) {
		bool flush_failed = false;
		const char *volume_state = json_text_or(volume, "state", "");
		json_switch(volume, "flush_failed", &flush_failed);
		if (flush_failed || strcmp(volume_state, "failed") == 0 || strcmp(volume_state, "fenced") == 0 ||
			slots_are_degraded(volume))
			return true;
	}
	return false;
}

static int show_once(const struct cli *cli, uint64_t vmid)
{
	bool damaged, degraded = false;
	struct json_object *gateways = ask_gateways(cli, "status", vmid, &damaged);
	if (!gateways)
		return fail_text(EXIT_INTERNAL, "out of memory");
	size_t count = json_object_array_length(gateways);
	for (size_t i = 0; i < count; i++)
		degraded = degraded || is_degraded(json_object_array_get_idx(gateways, i));
	int status = damaged ? EXIT_BAD_DATA : degraded ? EXIT_DEGRADED : 0;
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_number(object, "version", 1);
		json_add_text(object, "node", cli->config.node_name);
		json_add(object, "gateways", gateways);
		int printed = print_json(object);
		return printed ? printed : status;
	}
	printf("%-6s %-24s %8s  %-8s %-9s %-11s %7s %9s\n", "VM", "VOLUME", "SIZE", "BACKEND", "STATE",
		"GENERATION", "CLIENTS", "IN FLIGHT");
	for (size_t i = 0; i < count; i++)
		print_gateway(json_object_array_get_idx(gateways, i));
	json_object_put(gateways);
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
