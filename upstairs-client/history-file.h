/* history-file.h: a file that a history (core/history.h) lies in, so that it outlives the process: on tmpfs, as it need
 * not outlive the host. Implements design section 6.4.
 *
 * The file is as long as the history has needed since it was shrunk, and all of it is allocated: a full file system
 * makes writes wait for flushes, and never kills the process. It is locked while it is open.
 *
 * The loop's thread only. Sizes in bytes. Errors are negative errno.
 */
#ifndef UPSTAIRS_HISTORY_FILE_H
#define UPSTAIRS_HISTORY_FILE_H

#include "core/history.h"

struct history_file;

/* Opens or makes the file at `path`, of up to `size_max`; NULL: one without a name, for histories that die with the
 * process. -EBUSY: another process has it open. -EINVAL: it is no regular file, or size_max is too small. */
int history_file_open(const char *path, size_t size_max, struct history_file **file);
void history_file_close(struct history_file *file);
/* Valid until it is closed. */
const struct history_memory *history_file_memory(const struct history_file *file);
/* Gives back what the history does not need; to be called when it rests. */
void history_file_shrink(struct history_file *file, struct history *history);

#endif
