/* users.h: a list of users as in "allow_users = libvirt-qemu, 1000". */
#ifndef TB4_USERS_H
#define TB4_USERS_H

#include <stddef.h>
#include <sys/types.h>

#include "reason.h"

/* Names and numbers, separated by commas or blanks; NULL is an empty list. *users is malloc'ed. */
int users_parse(const char *text, uid_t **users, size_t *count, struct reason *reason);

#endif
