/* volume-scrub.c: `tb4 volume scrub`: all copies of a Crucible volume compared while it is served. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/slots.h"

enum { LOOK_MS = 200 };

struct counts {
	bool is_running;
	uint64_t done, all, passes, differing, unhealed, block_size;
};

static int look(const struct cli *cli, const struct volume *volume, struct counts *counts, struct reason *reason)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct json_object *crucible = look_at_crucible(cli, volume, &answer), *scrub;
	if (crucible && json_object_object_get_ex(crucible, "scrub", &scrub) &&
		json_switch(scrub, "running", &counts->is_running) && json_number(scrub, "done_blocks", &counts->done) &&
		json_number(scrub, "all_blocks", &counts->all) && json_number(scrub, "passes", &counts->passes) &&
		json_number(scrub, "differing_blocks", &counts->differing) &&
		json_number(crucible, "unhealed_blocks", &counts->unhealed) &&
		json_number(crucible, "block_size", &counts->block_size))
		return 0;
	return reason_set(reason, -ECONNREFUSED, "%s: its gateway does not answer: start the VM's gateway first", volume->name);
}

static int ask(const struct cli *cli, const struct volume *volume, uint64_t rate, int *exit_status,
	struct reason *reason)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct json_object *request = new_request("scrub");
	if (!request || !json_add_text(request, "volume", volume->name) || !json_add_number(request, "rate", rate) ||
		!json_add_switch(request, "stop", has_option(cli, OPTION_STOP))) {
		json_object_put(request);
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	return change_while_served(cli, volume, request, exit_status, &answer, reason);
}

/* Until the pass has come to its end; interrupted, it goes on. */
static int wait_for_end(const struct cli *cli, const struct volume *volume, const struct counts *before,
	struct counts *now, struct reason *reason)
{
	struct progress progress;
	int status = 0;
	catch_interrupts();
	progress_start(&progress, volume->name, volume->size);
	while (status == 0 && !was_interrupted()) {
		status = look(cli, volume, now, reason);
		if (status == 0 && now->passes > before->passes)
			break;
		if (status == 0 && !now->is_running)
			status = reason_set(reason, -EINTR, "%s: the scrub was stopped", volume->name);
		progress.total = now->all * now->block_size;
		progress_show(&progress, now->done * now->block_size);
		usleep(LOOK_MS * 1000);
	}
	progress_end(&progress);
	if (status == 0 && now->passes == before->passes)
		return reason_set(reason, -EINTR, "%s: the scrub goes on: see tb4 status %llu, or stop it with --stop",
			volume->name, (unsigned long long)volume->parsed.vmid);
	return status;
}

static int print_counts(const struct cli *cli, const struct volume *volume, const struct counts *before,
	const struct counts *now)
{
	uint64_t differing = now->differing - before->differing, unhealed = now->unhealed - before->unhealed;
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume->name);
		json_add_number(object, "differing_blocks", differing);
		json_add_number(object, "unhealed_blocks", unhealed);
		int status = print_json(object);
		return status ? status : unhealed ? EXIT_DEGRADED : 0;
	}
	if (differing == 0)
		printf("%s: all copies are equal\n", volume->name);
	else
		printf("%s: %llu blocks were not right on all copies, %llu of them could not be healed%s\n", volume->name,
			(unsigned long long)differing, (unsigned long long)unhealed,
			unhealed ? ": its gateway's log names them" : "");
	return unhealed ? EXIT_DEGRADED : 0;
}

static int scrub(const struct cli *cli, struct volume *volume, struct counts *before, struct counts *now,
	int *exit_status, struct reason *reason)
{
	uint64_t rate = 0;
	const char *text = cli->values[OPTION_RATE];
	bool waits = !has_option(cli, OPTION_STOP) && !has_option(cli, OPTION_BACKGROUND);
	if (text && (size_parse(text, &rate) < 0 || rate == 0))
		return reason_set(reason, -EINVAL, "--rate %s: not a number of bytes a second such as 50M", text);
	int status = find_crucible_volume(cli, cli->arguments[0], "copies to compare", volume, reason);
	if (status == 0)
		status = look(cli, volume, before, reason);
	if (status == 0)
		status = ask(cli, volume, rate, exit_status, reason);
	return status == 0 && waits ? wait_for_end(cli, volume, before, now, reason) : status;
}

int command_volume_scrub(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct counts before = { 0 }, now = { 0 };
	struct reason reason;
	int exit_status = 0;
	int status = scrub(cli, &volume, &before, &now, &exit_status, &reason);
	if (status < 0)
		return fail_change(exit_status, status, &reason);
	if (!has_option(cli, OPTION_STOP) && !has_option(cli, OPTION_BACKGROUND))
		return print_counts(cli, &volume, &before, &now);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		return print_json(object);
	}
	printf("%s: the scrub %s\n", volume.name, has_option(cli, OPTION_STOP) ? "is stopped" : "has begun: see tb4 status");
	return 0;
}
