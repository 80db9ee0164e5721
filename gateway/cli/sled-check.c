/* sled-check.c: `tb4 sled check`: everything on sleds that is wrong, or that could be better, without touching a region:
 * by their command and by HTTP. */
#include <stdlib.h>

#include "cli/sleds.h"
#include "doctor/judge-sleds.h"

static void append(struct json_object *list, const struct finding *finding)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "about", finding->subject);
	json_add_text(object, "severity", finding->severity == SEVERITY_ERROR ? "fault" : "advice");
	json_add_text(object, "text", finding->cause);
	json_add_text(object, "next", finding->next);
	json_append(list, object);
}

static int print(const struct cli *cli, const struct report *report, size_t count)
{
	struct json_object *list = has_option(cli, OPTION_JSON) ? json_object_new_array() : NULL;
	/* faults first */
	for (enum severity severity = SEVERITY_ERROR; severity > SEVERITY_OK; severity--) {
		for (size_t i = 0; i < report->count; i++) {
			const struct finding *finding = &report->items[i];
			if (finding->severity != severity)
				continue;
			if (list)
				append(list, finding);
			else
				printf("%s%s: %s\n", severity == SEVERITY_ERROR ? "" : "advice: ", finding->subject, finding->cause);
		}
	}
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_number(object, "sleds", count);
		json_add(object, "findings", list);
		return print_json(object);
	}
	if (report->counts[SEVERITY_ERROR] == 0)
		printf("no faults: %zu sled%s\n", count, count == 1 ? "" : "s");
	return 0;
}

int command_sled_check(struct cli *cli)
{
	struct survey *surveys;
	struct volumes volumes;
	struct report report = { 0 };
	struct reason reason;
	size_t count;
	const char *name = cli->argument_count > 0 ? cli->arguments[0] : NULL;
	int status = survey_sleds(cli, name, &surveys, &count, &reason);
	if (status < 0)
		return fail(status, &reason);
	load_volumes(cli, 0, &volumes); /* damaged ones are said there */
	const struct sled_case subject = {
		.config = &cli->config,
		.volumes = &volumes,
		.surveys = surveys,
		.count = count,
		.only = name ? config_sled(&cli->config, name) : NULL,
	};
	judge_sleds(&subject, &report);
	status = report_is_complete(&report) ? print(cli, &report, count) : fail_text(EXIT_INTERNAL, "out of memory");
	bool has_faults = report.counts[SEVERITY_ERROR] > 0;
	surveys_free(surveys, count);
	volumes_free(&volumes);
	report_free(&report);
	return status ? status : has_faults ? EXIT_DEGRADED : 0;
}
