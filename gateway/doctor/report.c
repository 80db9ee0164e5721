#include "doctor/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const severity_names[SEVERITIES] = { "ok", "warning", "error" };

void report_add(struct report *report, enum severity severity, const char *subject, const char *format, ...)
{
	va_list args;
	struct finding *grown = realloc(report->items, (report->count + 1) * sizeof *grown);
	if (!grown) {
		report->is_incomplete = true;
		return;
	}
	report->items = grown;
	struct finding *finding = &grown[report->count++];
	*finding = (struct finding){ .id = report->check, .severity = severity, .subject = strdup(subject) };
	va_start(args, format);
	if (vasprintf(&finding->cause, format, args) < 0)
		finding->cause = NULL;
	va_end(args);
	report->is_incomplete |= !finding->subject || !finding->cause;
	report->counts[severity]++;
}

void report_next(struct report *report, const char *format, ...)
{
	va_list args;
	if (report->count == 0)
		return; /* for want of memory */
	struct finding *finding = &report->items[report->count - 1];
	va_start(args, format);
	if (vasprintf(&finding->next, format, args) < 0) {
		finding->next = NULL;
		report->is_incomplete = true;
	}
	va_end(args);
}

bool report_is_complete(const struct report *report)
{
	return !report->is_incomplete;
}

void report_free(struct report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		free(report->items[i].subject);
		free(report->items[i].cause);
		free(report->items[i].next);
	}
	free(report->items);
	*report = (struct report){ 0 };
}
