/* file-internal.h: what file.c (opening, life, making and removing images) and file-requests.c (requests
 * while it is open) share. Private to these two; everything runs on the gateway's loop. */
#ifndef TB4_FILE_INTERNAL_H
#define TB4_FILE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "backend/backend.h"
#include "backend/file-io.h"
#include "list.h"

/* How bytes move: see file.c. */
enum file_mode { FILE_MODE_MEMORY, FILE_MODE_DIRECT, FILE_MODE_BUFFERED };

enum { FILE_APART_MIN = 256 << 10 }; /* memory: while a thread copies, the loop has the next request */

struct file_backend {
	struct backend base;
	uv_loop_t *loop;
	struct file_io *engine;
	const char *volume;
	char *path;
	int fd;
	enum file_mode mode;
	bool read_only;
	bool may_have_holes;
	bool cannot_punch, cannot_zero_range;
	bool flush_lost; /* invariant 2 of file.c */
	uint64_t growing_to;
	struct list running, held; /* invariant 1 of file-requests.c */
	struct file_operation resize;
	uv_timer_t lock_timer;
	unsigned lock_tries;
};

static inline struct file_backend *file_of(struct backend *backend)
{
	return container_of(backend, struct file_backend, base);
}

/* backend_operations.submit */
void file_submit(struct backend *backend, struct backend_request *request);

/* The file has been synced with this result: invariant 2 of file.c. */
void file_note_sync(struct file_backend *file, int64_t result);

#endif
