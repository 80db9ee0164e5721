#include "doctor/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"

struct host host_read(void)
{
	struct timex clock = { 0 };
	return (struct host){
		.root = "",
		.now = time(NULL),
		.clock_is_synchronised = adjtimex(&clock) != TIME_ERROR && !(clock.status & STA_UNSYNC),
	};
}

bool host_has(const struct host *host, const char *path)
{
	CLEANUP_FREE char *full = NULL;
	return asprintf(&full, "%s%s", host->root, path) >= 0 && access(full, F_OK) == 0;
}

bool host_text(const struct host *host, const char *path, char text[HOST_TEXT_MAX])
{
	CLEANUP_FREE char *full = NULL;
	if (asprintf(&full, "%s%s", host->root, path) < 0)
		return false;
	CLEANUP_FCLOSE FILE *file = fopen(full, "re");
	if (!file || !fgets(text, HOST_TEXT_MAX, file))
		return false;
	text[strcspn(text, "\n")] = '\0';
	return true;
}

size_t host_numbers(const struct host *host, const char *path, uint64_t *numbers, size_t max)
{
	char text[HOST_TEXT_MAX], *rest = text, *end;
	size_t count = 0;
	if (!host_text(host, path, text))
		return 0;
	for (; count < max; count++, rest = end) {
		numbers[count] = strtoull(rest, &end, 10);
		if (end == rest)
			break;
	}
	return count;
}

char *host_nearest(const char *path)
{
	char *parent = strdup(path), *slash;
	while (parent && access(parent, F_OK) < 0 && errno == ENOENT && (slash = strrchr(parent, '/')) && parent[1])
		slash[slash == parent] = '\0';
	return parent;
}
