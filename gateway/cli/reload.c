/* reload.c: `tb4 reload`: a gateway that runs reads the volume files of its VM again. Waits until what is new is served and
 * what is gone has left. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "cli/progress.h"

enum { LOOK_AGAIN_MS = 50 };

static const char *text_at(struct json_object *answer, const char *field, size_t index)
{
	struct json_object *item = json_item_or_null(answer, field, index);
	return item && json_object_is_type(item, json_type_string) ? json_object_get_string(item) : NULL;
}

/* How many volumes have not come to where they go. */
static unsigned count_under_way(struct json_object *answer, struct json_object *status)
{
	const char *name;
	unsigned count = 0;
	for (size_t i = 0; (name = text_at(answer, "added", i)); i++) {
		struct json_object *one = volume_in_status(status, name);
		count += one && strcmp(json_text_or(one, "state", ""), "starting") == 0;
	}
	for (size_t i = 0; (name = text_at(answer, "removed", i)); i++)
		count += volume_in_status(status, name) != NULL;
	return count;
}

/* *status is that of the gateway at the end. */
static int await(const struct cli *cli, uint64_t vmid, struct json_object *answer, struct json_object **status,
	struct reason *reason)
{
	struct progress progress;
	unsigned left, most = 0;
	progress_start(&progress, "volumes that start or leave", 0);
	do {
		json_object_put(take_pointer(status));
		int asked = ask_gateway(cli, vmid, new_request("status"), status, reason);
		if (asked < 0)
			return asked;
		left = count_under_way(answer, *status);
		most = left > most ? left : most;
		progress.total = most;
		progress_show_steps(&progress, most - left);
		if (left > 0)
			nanosleep(&(struct timespec){ .tv_nsec = LOOK_AGAIN_MS * 1000000L }, NULL);
	} while (left > 0 && !was_interrupted());
	progress_end(&progress);
	return left == 0 ? 0 : reason_set(reason, -EINTR, "VM %llu: interrupted: its gateway goes on: see tb4 status %llu",
						   (unsigned long long)vmid, (unsigned long long)vmid);
}

static void print_names(struct json_object *answer, const char *field, bool is_dry, const char *would, const char *done)
{
	const char *name;
	for (size_t i = 0; (name = text_at(answer, field, i)); i++)
		printf("%s: %s\n", name, is_dry ? would : done);
}

static void print_later(struct json_object *answer)
{
	struct json_object *one;
	for (size_t i = 0; (one = json_item_or_null(answer, "need_restart", i)); i++)
		printf("%s: %s holds from the next start of the gateway on\n", json_text_or(one, "volume", "?"),
			json_text_or(one, "setting", "?"));
}

static bool is_empty(struct json_object *answer)
{
	static const char *const fields[] = { "added", "removed", "changed", "need_restart", "faults" };
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		if (json_item_or_null(answer, fields[i], 0))
			return false;
	}
	return true;
}

/* What went wrong, on standard error. Returns an exit status. */
static int report_failures(struct json_object *answer, struct json_object *status)
{
	const char *text;
	int result = 0;
	for (size_t i = 0; (text = text_at(answer, "added", i)); i++) {
		struct json_object *one = status ? volume_in_status(status, text) : NULL;
		if (one && strcmp(json_text_or(one, "state", ""), "failed") == 0)
			result = fail_text(EXIT_DEGRADED, "%s", json_text_or(one, "reason", text));
	}
	for (size_t i = 0; (text = text_at(answer, "faults", i)); i++)
		result = fail_text(EXIT_BAD_CONFIG, "%s", text);
	return result;
}

int command_reload(struct cli *cli)
{
	CLEANUP_JSON struct json_object *answer = NULL, *status = NULL;
	struct reason reason;
	uint64_t vmid;
	int refused = 0;
	bool is_dry = has_option(cli, OPTION_DRY_RUN);
	if (vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM", cli->arguments[0]);
	struct json_object *request = new_request("reload");
	json_add_switch(request, "dry_run", is_dry);
	int error = change_by_gateway(cli, vmid, request, &refused, &answer, &reason);
	catch_interrupts();
	if (error == 0 && !is_dry)
		error = await(cli, vmid, answer, &status, &reason);
	if (error < 0)
		return fail_change(refused, error, &reason);
	if (has_option(cli, OPTION_JSON)) {
		json_add_switch(answer, "dry_run", is_dry);
		int printed = print_json(json_object_get(answer));
		return printed ? printed : report_failures(answer, status);
	}
	if (is_empty(answer))
		printf("VM %llu: nothing has changed\n", (unsigned long long)vmid);
	print_names(answer, "added", is_dry, "would be served", "is new");
	print_names(answer, "removed", is_dry, "would be taken out of service", "is no longer served");
	print_names(answer, "changed", is_dry, "would be changed", "is changed");
	print_later(answer);
	return report_failures(answer, status);
}
