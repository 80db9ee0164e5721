/* report.h: what the checks of the doctor found. Any thread, one at a time per report.
 *
 * Every finding says what it is about, why it is one, and what to do next. Memory that runs out while findings are added
 * is remembered: report_is_complete() is false from then on.
 */
#ifndef TB4_REPORT_H
#define TB4_REPORT_H

#include <stdbool.h>
#include <stddef.h>

enum severity {
	SEVERITY_OK, /* a check that found nothing */
	SEVERITY_WARNING, /* it works now, and will not always, or not as well as it could */
	SEVERITY_ERROR, /* something does not work */
};
enum { SEVERITIES = SEVERITY_ERROR + 1 };
extern const char *const severity_names[SEVERITIES];

struct finding {
	const char *id; /* of the check; static */
	enum severity severity;
	char *subject; /* a file, a sled, a volume, a setting of the kernel */
	char *cause;
	char *next; /* a command, mostly; NULL in SEVERITY_OK */
};

/* Zero-initialised; report_free(). */
struct report {
	struct finding *items;
	size_t count;
	size_t counts[SEVERITIES];
	const char *check; /* whose findings these are now; set by doctor.c */
	bool is_incomplete;
};

/* Adds a finding of the check that runs. */
void report_add(struct report *report, enum severity severity, const char *subject, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Says what to do about the one that was added last. */
void report_next(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool report_is_complete(const struct report *report);
void report_free(struct report *report);

#define FOUND_ERROR(report, subject, ...) report_add(report, SEVERITY_ERROR, subject, __VA_ARGS__)
#define FOUND_WARNING(report, subject, ...) report_add(report, SEVERITY_WARNING, subject, __VA_ARGS__)

#endif
