#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "volume/target.h"

/* Asks the gateway to do it; prints the result, or why not. Returns an exit status. */
static int change_slot(const struct cli *cli, const char *command, const char *target, const char *done)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	CLEANUP_JSON struct json_object *answer = NULL;
	struct reason reason;
	uint64_t refused = 0;
	const char *text = cli->arguments[1];
	uint64_t slot = (uint64_t)(text[0] - '0');
	if (!isdigit((unsigned char)text[0]) || text[1] != '\0' || slot >= VOLUME_TARGETS)
		return fail_text(EXIT_BAD_USAGE, "%s: not a slot: they are 0 to %d, as tb4 status shows them", text,
			VOLUME_TARGETS - 1);
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0 && volume.backend != VOLUME_BACKEND_CRUCIBLE)
		status = reason_set(&reason, -EINVAL, "%s: has no slots: its backend is %s", volume.name,
			volume_backends[volume.backend]);
	if (status == 0) {
		struct json_object *request = new_request(command);
		json_add_text(request, "volume", volume.name);
		json_add_number(request, "slot", slot);
		if (target)
			json_add_text(request, "target", target);
		status = change_by_gateway(cli, volume.parsed.vmid, request, &refused, &answer, &reason);
	}
	if (status == -ECONNREFUSED)
		reason_set(&reason, status, "%s: its gateway does not run: start the VM's gateway first", volume.name);
	if (status < 0) {
		int own = fail(status, &reason);
		return refused ? (int)refused : own;
	}
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "slot", slot);
		json_add_text(object, "target", json_text_or(answer, "target", ""));
		return print_json(object);
	}
	printf("%s: slot %llu, %s, %s: see tb4 status %llu\n", volume.name, (unsigned long long)slot,
		json_text_or(answer, "target", "?"), done, (unsigned long long)volume.parsed.vmid);
	return 0;
}

int command_volume_replace(struct cli *cli)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	const char *target = cli->values[OPTION_TARGET];
	if (cli->target_count != 1)
		return fail_text(EXIT_BAD_USAGE, "volume replace needs one --target HOST:PORT");
	if (target_parse(target, host, &port) < 0)
		return fail_text(EXIT_BAD_USAGE, "--target %s: not HOST:PORT", target);
	return change_slot(cli, "replace", target, "is new and is being copied");
}

int command_volume_retry(struct cli *cli)
{
	return change_slot(cli, "retry", NULL, "is tried again");
}
