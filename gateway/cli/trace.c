/* trace.c: `tb4 trace`: the last requests of a VM that took long, and where their time went. */
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "cli/cli.h"

enum { LOOK_AGAIN_MS = 500 };

/* "12:30:07.250" */
static void format_time(uint64_t at_ms, char text[16])
{
	time_t seconds = (time_t)(at_ms / 1000);
	struct tm local;
	char clock[10] = "?";
	if (localtime_r(&seconds, &local))
		strftime(clock, sizeof clock, "%H:%M:%S", &local);
	snprintf(text, 16, "%s.%03u", clock, (unsigned)(at_ms % 1000));
}

/* The parts that count, the largest of them as a sentence would say it. */
static void print_parts(struct json_object *one)
{
	static const struct {
		const char *field, *text;
	} parts[] = {
		{ "limited_ms", "held back by a rate limit" },
		{ "received_ms", "receiving the payload" },
		{ "held_ms", "behind other writes to these blocks" },
		{ "backend_ms", "in the backend" },
	};
	const char *separator = "";
	uint64_t slot;
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		uint64_t value = json_number_or_zero(one, parts[i].field);
		if (value == 0)
			continue;
		printf("%s%llu ms %s", separator, (unsigned long long)value, parts[i].text);
		separator = ", ";
	}
	if (json_number(one, "slot", &slot))
		printf(" (slot %llu answered last)", (unsigned long long)slot);
	const char *error = json_text_or(one, "error", "");
	printf("%s%s\n", error[0] ? ": " : "", error);
}

static void print_request(struct json_object *one)
{
	char at[16], length[SIZE_TEXT_MAX];
	format_time(json_number_or_zero(one, "at_ms"), at);
	printf("%s  %-20s %-12s %8s at %-14llu %8.1f ms: ", at, json_text_or(one, "volume", "?"),
		json_text_or(one, "command", "?"), size_format(json_number_or_zero(one, "length"), length),
		(unsigned long long)json_number_or_zero(one, "offset"), (double)json_number_or_zero(one, "total_us") / 1000);
	print_parts(one);
}

/* Those from *from on; that is behind the last of them then. */
static int show_more(const struct cli *cli, uint64_t vmid, uint64_t *from)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct json_object *one;
	struct reason reason;
	struct json_object *request = new_request("trace");
	json_add_number(request, "from", *from);
	int status = ask_gateway(cli, vmid, request, &answer, &reason);
	if (status < 0)
		return fail(status, &reason);
	bool is_first = *from == 1;
	for (size_t i = 0; (one = json_item_or_null(answer, "requests", i)); i++)
		*from = json_number_or_zero(one, "number") + 1;
	if (has_option(cli, OPTION_JSON))
		return print_json(json_object_get(answer));
	for (size_t i = 0; (one = json_item_or_null(answer, "requests", i)); i++)
		print_request(one);
	if (is_first && !json_item_or_null(answer, "requests", 0) && !has_option(cli, OPTION_WATCH))
		printf("VM %llu: no request has taken %llu ms or more\n", (unsigned long long)vmid,
			(unsigned long long)json_number_or_zero(answer, "slow_request_ms"));
	return 0;
}

int command_trace(struct cli *cli)
{
	uint64_t vmid, from = 1;
	if (vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM", cli->arguments[0]);
	int status = show_more(cli, vmid, &from);
	if (!has_option(cli, OPTION_WATCH))
		return status;
	catch_interrupts();
	while (status == 0 && !was_interrupted() && fflush(stdout) != EOF) {
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_AGAIN_MS * 1000000L }, NULL);
		status = show_more(cli, vmid, &from);
	}
	return status;
}
