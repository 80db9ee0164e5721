/* metrics.c: `tb4 metrics`. */
#include <stdio.h>

#include "cli/node-gateways.h"
#include "control/metrics-text.h"

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
	metrics_write(stdout, gateways);
	json_object_put(gateways);
	return damaged ? EXIT_BAD_DATA : 0;
}
