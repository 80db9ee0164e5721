/* progress.h: one line on a terminal that shows how far long work has come. */
#ifndef TB4_PROGRESS_H
#define TB4_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what;
	uint64_t total; /* bytes or steps; 0: not known */
	uint64_t started, shown; /* ns */
	bool is_visible;
};

/* Shows nothing unless standard error is a terminal, and nothing in the first half second. */
void progress_start(struct progress *progress, const char *what, uint64_t total);
void progress_show(struct progress *progress, uint64_t done);
/* The same for what has no bytes: "creating regions: 1 of 3, 0:12". */
void progress_show_steps(struct progress *progress, uint64_t done);
/* Takes the line away again. */
void progress_end(struct progress *progress);

#endif
