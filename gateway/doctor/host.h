/* host.h: facts of this host, read below a root, so that a test can give another one. Blocking. */
#ifndef TB4_HOST_H
#define TB4_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HOST_TEXT_MAX = 256 };

struct host {
	const char *root; /* "" for the host itself; in front of /proc, /sys, /etc, /run, /usr */
	int64_t now; /* seconds since 1970 */
	bool clock_is_synchronised; /* as the kernel was told */
};

/* This one. */
struct host host_read(void);
/* Is there such a file or directory? */
bool host_has(const struct host *host, const char *path);
/* The first line of a file. False if it cannot be read. */
bool host_text(const struct host *host, const char *path, char text[HOST_TEXT_MAX]);
/* As many numbers as the first line of a file begins with, at most `max`. Returns how many. */
size_t host_numbers(const struct host *host, const char *path, uint64_t *numbers, size_t max);
/* malloc'ed: the path, or the nearest directory above it that exists; NULL without memory. */
char *host_nearest(const char *path);

#endif
