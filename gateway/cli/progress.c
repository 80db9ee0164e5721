#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>
#include <uv.h>

#include "cli/cli.h"

enum { FIRST_NS = 500000000, INTERVAL_NS = 200000000 };

void progress_start(struct progress *progress, const char *what, uint64_t total)
{
	*progress = (struct progress){ .what = what, .total = total, .started = uv_hrtime() };
}

/* "12:34", or hours before it. */
static void format_time(uint64_t seconds, char text[32])
{
	if (seconds >= 3600)
		snprintf(text, 32, "%llu:%02u:%02u", (unsigned long long)seconds / 3600,
			(unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60));
	else
		snprintf(text, 32, "%u:%02u", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
}

/* Is it time for the line? *seconds since the start. */
static bool is_due(struct progress *progress, double *seconds)
{
	uint64_t now = uv_hrtime();
	if (now - progress->started < FIRST_NS || now - progress->shown < INTERVAL_NS || !isatty(2))
		return false;
	progress->shown = now;
	progress->is_visible = true;
	*seconds = (double)(now - progress->started) / 1e9;
	return true;
}

void progress_show(struct progress *progress, uint64_t done)
{
	double seconds;
	if (!is_due(progress, &seconds))
		return;
	uint64_t rate = (uint64_t)((double)done / seconds);
	char done_text[SIZE_TEXT_MAX], total_text[SIZE_TEXT_MAX], rate_text[SIZE_TEXT_MAX], left[32] = "?";
	if (progress->total > 0 && rate > 0)
		format_time((done < progress->total ? progress->total - done : 0) / rate, left);
	if (progress->total > 0)
		fprintf(stderr, "\r\033[K%s: %s of %s (%u %%), %s/s, %s left", progress->what,
			size_for_people(done, done_text), size_for_people(progress->total, total_text),
			(unsigned)(100.0 * (double)done / (double)progress->total),
			size_for_people(rate, rate_text), left);
	else
		fprintf(stderr, "\r\033[K%s: %s, %s/s", progress->what, size_for_people(done, done_text),
			size_for_people(rate, rate_text));
	fflush(stderr);
}

void progress_show_steps(struct progress *progress, uint64_t done)
{
	double seconds;
	char since[32];
	if (!is_due(progress, &seconds))
		return;
	format_time((uint64_t)seconds, since);
	fprintf(stderr, "\r\033[K%s: %llu of %llu, %s", progress->what, (unsigned long long)done,
		(unsigned long long)progress->total, since);
	fflush(stderr);
}

void progress_end(struct progress *progress)
{
	if (progress->is_visible)
		fputs("\r\033[K", stderr);
	progress->is_visible = false;
}
