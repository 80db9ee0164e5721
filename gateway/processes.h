/* processes.h: who on this host has something open. What cannot be looked into from here is not seen. */
#ifndef TB4_PROCESSES_H
#define TB4_PROCESSES_H

#include <stdbool.h>
#include <stddef.h>

/* Finds a process that has a descriptor for `target`, named as in /proc/PID/fd ("/dev/nbd0", "socket:[12]"):
 * "pid 812 (nginx)". */
bool process_with(const char *target, char *text, size_t size);

#endif
