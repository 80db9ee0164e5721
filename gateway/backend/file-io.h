/* file-io.h: file operations that must not block the loop, batched.
 *
 * One engine per process. It uses io_uring; where the kernel or its administrator does not allow
 * that, the threads of libuv. Operations handed over during one turn of the loop reach the kernel
 * together, before the loop waits. Everything here runs on the loop's thread, except a CALL.
 */
#ifndef TB4_FILE_IO_H
#define TB4_FILE_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

#include "list.h"
#include "reason.h"

struct file_io;

enum file_operation_kind { FILE_READ, FILE_WRITE, FILE_SYNC, FILE_ALLOCATE, FILE_CALL };

struct file_operation {
	enum file_operation_kind kind;
	int fd;
	uint64_t offset, length; /* READ, WRITE, ALLOCATE */
	void *buffer;            /* READ, WRITE */
	int flags;               /* WRITE: RWF_*; ALLOCATE: FALLOC_FL_* */
	bool apart;              /* on a thread of the kernel from the start: it would not wait but copy for long */
	/* CALL: runs on another thread; what it returns is the result. */
	int64_t (*call)(struct file_operation *operation);
	/* `result` is a count of bytes, 0, or a negative errno; READ and WRITE are done in full or
	 * fail, but a READ stops at the end of the file. May submit again. */
	void (*done)(struct file_operation *operation, int64_t result);
	/* the engine's */
	uint64_t finished;
	int64_t result;
	struct file_io *engine;
	struct list link;
};

int file_io_open(uv_loop_t *loop, struct file_io **engine, struct reason *reason);
/* No operation may be in flight. The engine's handles are closed when the loop runs next. */
void file_io_close(struct file_io *engine);
void file_io_submit(struct file_io *engine, struct file_operation *operation);
/* "io_uring" or "threads". */
const char *file_io_kind(const struct file_io *engine);

#endif
