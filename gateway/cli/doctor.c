/* doctor.c: `tb4 doctor`: what keeps gateways from working on this node, or will, and what to do about it. */
#include <errno.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "doctor/doctor.h"

static void append(struct json_object *list, const struct finding *finding)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "id", finding->id);
	json_add_text(object, "severity", severity_names[finding->severity]);
	json_add_text(object, "subject", finding->subject);
	json_add_text(object, "cause", finding->cause);
	if (finding->next)
		json_add_text(object, "next", finding->next);
	json_append(list, object);
}

static int print_report_json(const struct doctor *doctor, const struct report *report, int checks)
{
	struct json_object *object = json_object_new_object(), *list = json_object_new_array();
	if (doctor->vmid)
		json_add_number(object, "vmid", doctor->vmid);
	json_add_text(object, "node", doctor->config.node_name);
	json_add_number(object, "checks", (uint64_t)checks);
	json_add_number(object, "errors", report->counts[SEVERITY_ERROR]);
	json_add_number(object, "warnings", report->counts[SEVERITY_WARNING]);
	for (size_t i = 0; i < report->count; i++)
		append(list, &report->items[i]);
	json_add(object, "findings", list);
	return print_json(object);
}

static void print_count(size_t count, const char *what)
{
	printf("%zu %s%s", count, what, count == 1 ? "" : "s");
}

static int print_report(const struct report *report, int checks)
{
	for (enum severity severity = SEVERITY_ERROR; severity > SEVERITY_OK; severity--) {
		for (size_t i = 0; i < report->count; i++) {
			const struct finding *finding = &report->items[i];
			if (finding->severity == severity)
				printf("%s (%s): %s\n    %s\n    next: %s\n\n", severity_names[severity], finding->id, finding->subject,
					finding->cause, finding->next ? finding->next : "-");
		}
	}
	print_count((size_t)checks, "check");
	printf(": ");
	if (report->counts[SEVERITY_ERROR] + report->counts[SEVERITY_WARNING] == 0) {
		puts("nothing found");
		return 0;
	}
	print_count(report->counts[SEVERITY_ERROR], "error");
	printf(", ");
	print_count(report->counts[SEVERITY_WARNING], "warning");
	puts("");
	return 0;
}

int command_doctor(struct cli *cli)
{
	struct doctor doctor = { .host = host_read(), .config_path = cli->values[OPTION_CONFIG] };
	struct report report = { 0 };
	struct reason reason;
	if (cli->argument_count > 0 && vmid_parse(cli->arguments[0], &doctor.vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM (%d to %d)", cli->arguments[0], VMID_MIN, VMID_MAX);
	int checks = doctor_run(&doctor, &report, &reason), status;
	if (checks < 0)
		status = fail(checks, &reason);
	else if (has_option(cli, OPTION_JSON))
		status = print_report_json(&doctor, &report, checks);
	else
		status = print_report(&report, checks);
	if (status == 0)
		status = report.counts[SEVERITY_ERROR] ? EXIT_BROKEN : report.counts[SEVERITY_WARNING] ? EXIT_DEGRADED : 0;
	report_free(&report);
	doctor_free(&doctor);
	return status;
}
