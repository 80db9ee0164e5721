/* durable-file.h: small files that are either the old or the new one, whatever happens.
 *
 * Used for records, role files and volume files. Blocking; at most DURABLE_FILE_MAX bytes.
 */
#ifndef TB4_DURABLE_FILE_H
#define TB4_DURABLE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "reason.h"

enum { DURABLE_FILE_MAX = 64 << 10, LOCK_WAIT_MS = 10000 };

/* Reads a whole file. *text is malloc'ed, ended by a zero byte that *length does not count.
 * Returns 0, -ENOENT (without a reason) or another errno; -EBADMSG if it is too large or no file. */
int durable_file_read(const char *path, char **text, size_t *length, struct reason *reason);

/* 0 if nobody but its owner may read or write the file. Otherwise the reason says what to do. */
int private_file_check(const char *path, struct reason *reason);

/* Replaces or creates `path`: writes a new file next to it, syncs it, renames it over `path`,
 * syncs the directory. The new file has mode 0600. On failure `path` is as it was, or, if only the
 * last step failed, new but perhaps not durable. The caller's lock keeps other writers out. */
int durable_file_write(
	const char *path, const char *text, size_t length, struct reason *reason);

/* Removes the file and syncs the directory; 0 also if it was not there. */
int durable_file_remove(const char *path, struct reason *reason);

/* Syncs the directory that holds `path`, so that a new name in it lasts. Returns 0 or an errno. */
int sync_parent(const char *path);

/* Makes a directory (mode 0755; what is in it is 0600) and its parents. 0 if it exists. */
int make_directory(const char *path, struct reason *reason);

/* 0 if locks in the directory exclude everybody who can reach it; -EOPNOTSUPP on FUSE, such as the
 * cluster file system of Proxmox, where other nodes would not notice. */
int require_local(const char *directory, struct reason *reason);

/* A lock file held by this process until the descriptor is closed; it excludes other processes and
 * other descriptors alike. The holder may unlink it. lock_file_now() returns -EBUSY, without a reason,
 * if it is held; lock_file_wait() waits up to LOCK_WAIT_MS before it does so with one. */
int lock_file_now(const char *path, struct reason *reason);
int lock_file_wait(const char *path, struct reason *reason);

/* malloc'ed "DIRECTORY/NAME"; NULL without memory. */
char *path_join(const char *directory, const char *name);

#endif
