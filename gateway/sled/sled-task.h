/* sled-task.h: running sled.sh on several sleds at once.
 *
 * A sled is reached by the words of its `command`; the script goes to the standard input of `sh -s` there, so that
 * no shell on the way has to understand quotes of ours. Blocking; only tb4 calls this, never a gateway.
 */
#ifndef TB4_SLED_TASK_H
#define TB4_SLED_TASK_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "reason.h"

enum { SLED_SURVEY_SECONDS = 30, SLED_CHANGE_SECONDS = 600 };

struct sled_task {
	const struct sled *sled;
	char *variables; /* "NAME='value'\n...", malloc'ed; NULL: none beside those of the sled */
	/* afterwards */
	int error; /* 0, or a negative errno and its reason, which begins with "sled NAME: " */
	struct reason reason;
	char *output; /* malloc'ed; NULL if it could not be run */
};

/* Runs `function` of sled.sh for each task, all at the same time, and waits for all. Shows `what` with how many are
 * done on a terminal. SIGINT and SIGTERM end those that run, with -EINTR, unless they shall be ignored: for undoing.
 * Returns the first error, as the task has it. */
int sled_tasks_run(struct sled_task *tasks, size_t count, const char *function, const char *what, unsigned seconds,
	bool ignore_interrupts);
void sled_tasks_free(struct sled_task *tasks, size_t count);

/* Appends "NAME='value'\n", quoted for a shell, to malloc'ed text, which may begin as NULL. False without memory; the
 * text is then freed. */
bool sled_variable(char **text, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
