/* scratch.h: a directory of its own for each test, files in it, and processes beside it.
 *
 * The directory lies on tmpfs where there is one, so that syncing costs nothing. Tests that use it
 * are made with scratch_test(). Children must not use cmocka's assertions: what fails in one is
 * told by its return value.
 */
#ifndef TB4_SCRATCH_H
#define TB4_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"

#define scratch_test(function) \
	cmocka_unit_test_setup_teardown(function, scratch_setup, scratch_teardown)

int scratch_setup(void **state);
int scratch_teardown(void **state);

/* The path of a name in the directory ("" for the directory itself); valid for 15 more calls. */
const char *in_scratch(const char *name);

/* A configuration whose directories are run, volumes, claims and data in the directory. Its strings
 * are not to be freed. */
struct config scratch_config(const char *node);

void put_bytes_in(const char *path, const void *bytes, size_t length);
void put_text_in(const char *path, const char *text);
/* malloc'ed contents, ended by a zero byte that *length (which may be NULL) does not count; NULL if
 * there is no such file. */
char *get_bytes_of(const char *path, size_t *length);
bool exists(const char *path);

/* Runs `body` in a child. Returns what it returned (0 to 125); ENDED_BADLY after a signal or a
 * sanitizer's report; ENDED_NOT if it still ran after `seconds` and was killed. */
enum { ENDED_BADLY = 126, ENDED_NOT = 127 };
int in_child(int (*body)(void *context), void *context, unsigned seconds);
/* The same in two steps. */
pid_t start_child(int (*body)(void *context), void *context);
int await_child(pid_t child, unsigned seconds);

/* Memory that children share with us; zeroed. Given back by scratch_teardown(). */
void *shared_memory(size_t size);

/* A generator that gives the same numbers each time. */
struct random {
	uint64_t state; /* the seed */
};
uint64_t random_next(struct random *random);
/* 0 to limit - 1 */
uint64_t random_below(struct random *random, uint64_t limit);

#endif
