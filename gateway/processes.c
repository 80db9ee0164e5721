#include "processes.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"

static bool has_open(const char *pid, const char *target)
{
	char path[300], found[300];
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	CLEANUP_CLOSEDIR DIR *dir = opendir(path);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, found, sizeof found - 1);
		if (n < 0)
			continue;
		found[n] = '\0';
		if (strcmp(found, target) == 0)
			return true;
	}
	return false;
}

bool process_with(const char *target, char *text, size_t size)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir("/proc");
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]) || !has_open(entry->d_name, target))
			continue;
		char path[300], command[64] = "?";
		snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
		CLEANUP_FCLOSE FILE *comm = fopen(path, "re");
		if (comm && fgets(command, sizeof command, comm))
			command[strcspn(command, "\n")] = '\0';
		snprintf(text, size, "pid %s (%s)", entry->d_name, command);
		return true;
	}
	return false;
}
