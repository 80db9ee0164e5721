/* check.c: `tb4 check`: everything that would keep gateways from starting, found without starting. */
#include "cli/cli.h"
#include "doctor/configuration.h"

static struct json_object *to_json(const struct faults *faults, size_t volumes)
{
	struct json_object *object = json_object_new_object(), *list = json_object_new_array();
	for (size_t i = 0; i < faults->count; i++) {
		struct json_object *fault = json_object_new_object();
		json_add_text(fault, "file", faults->items[i].path);
		if (faults->items[i].line)
			json_add_number(fault, "line", faults->items[i].line);
		json_add_text(fault, "text", faults->items[i].text);
		json_append(list, fault);
	}
	json_add_number(object, "volumes", volumes);
	json_add(object, "faults", list);
	return object;
}

static void print(const struct faults *faults)
{
	for (size_t i = 0; i < faults->count; i++) {
		char text[512];
		puts(fault_text(&faults->items[i], text, sizeof text));
	}
}

int command_check(struct cli *cli)
{
	struct faults faults = { 0 };
	struct volumes volumes;
	int status = configuration_check(cli->values[OPTION_CONFIG], &cli->config, &faults, &volumes);
	int printed = 0;
	if (has_option(cli, OPTION_JSON))
		printed = print_json(to_json(&faults, volumes.count));
	else if (faults.count > 0)
		print(&faults);
	else if (status == 0)
		printf("no faults: %zu volumes in %s\n", volumes.count, cli->config.volume_dir);
	bool has_faults = faults.count > 0;
	faults_free(&faults);
	volumes_free(&volumes);
	config_free(&cli->config);
	if (status < 0)
		return fail_text(EXIT_INTERNAL, "out of memory");
	return has_faults ? EXIT_BAD_CONFIG : printed;
}
