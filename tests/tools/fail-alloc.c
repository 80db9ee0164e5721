/* fail-alloc.c: a library for LD_PRELOAD that makes one allocation of a program fail.
 *
 * Counted are malloc, calloc, realloc, posix_memalign, aligned_alloc, memalign and mmap of anonymous
 * memory, by the program and its libraries, from the library's own start on. The environment says
 *
 *   TB4_FAIL_AT       the number of the first allocation that fails, from 1 on; 0 or absent: none
 *   TB4_FAIL_COUNT    how many fail in a row (1); 0: all from then on
 *   TB4_FAIL_TRIGGER  counting begins only when this file exists
 *   TB4_FAIL_LOG      a line goes there for each that fails: "malloc 120 libc.so.6 libuv.so.1 tb4", what
 *                     failed and the files that the call came through, and one when the process ends:
 *                     "counted 345"
 *
 * Needs glibc, whose own allocator lies behind it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static unsigned long fail_at, fail_count = 1;
static const char *trigger, *log_path;
static atomic_ulong counted;
static atomic_bool has_begun;
static _Thread_local bool is_inside __attribute__((tls_model("initial-exec")));

static unsigned long number_from(const char *name, unsigned long otherwise)
{
	const char *text = getenv(name);
	return text ? strtoul(text, NULL, 10) : otherwise;
}

static void write_log(const char *text)
{
	int fd = log_path ? open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (fd < 0)
		return;
	ssize_t written = write(fd, text, strlen(text));
	(void)written;
	close(fd);
}

__attribute__((constructor)) static void begin(void)
{
	trigger = getenv("TB4_FAIL_TRIGGER");
	log_path = getenv("TB4_FAIL_LOG");
	fail_count = number_from("TB4_FAIL_COUNT", 1);
	fail_at = number_from("TB4_FAIL_AT", 0);
	atomic_store(&has_begun, trigger == NULL);
}

__attribute__((destructor)) static void end(void)
{
	char line[64];
	snprintf(line, sizeof line, "counted %lu\n", atomic_load(&counted));
	is_inside = true;
	write_log(line);
}

enum { FRAMES_MAX = 24, FRAMES_OURS = 2 };

/* Adds the files, without their directories, that the call came through, each once in a row. */
static void add_callers(char *line, size_t size)
{
	void *frames[FRAMES_MAX];
	const char *last = "";
	int count = backtrace(frames, FRAMES_MAX);
	for (int i = FRAMES_OURS; i < count; i++) {
		Dl_info info;
		if (!dladdr(frames[i], &info) || !info.dli_fname)
			continue;
		const char *slash = strrchr(info.dli_fname, '/');
		const char *name = slash ? slash + 1 : info.dli_fname;
		size_t used = strlen(line);
		if (strcmp(name, last) != 0)
			snprintf(line + used, size - used, " %s", name);
		last = name;
	}
}

static bool counts(void)
{
	if (is_inside)
		return false;
	if (atomic_load_explicit(&has_begun, memory_order_relaxed))
		return true;
	int saved = errno;
	bool fires = trigger && syscall(SYS_access, trigger, F_OK) == 0;
	if (fires)
		atomic_store(&has_begun, true);
	errno = saved;
	return fires;
}

/* Counts one allocation. True if it is to fail. */
static __attribute__((noinline)) bool fails(const char *what)
{
	if (!counts())
		return false;
	unsigned long number = atomic_fetch_add(&counted, 1) + 1;
	if (fail_at == 0 || number < fail_at || (fail_count > 0 && number - fail_at >= fail_count))
		return false;
	is_inside = true;
	char line[400];
	snprintf(line, sizeof line, "%s %lu", what, number);
	add_callers(line, sizeof line - 1);
	strcat(line, "\n");
	write_log(line);
	is_inside = false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return fails("malloc") ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails("calloc") ? NULL : __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
	return fails("realloc") ? NULL : __libc_realloc(pointer, size);
}

void *memalign(size_t alignment, size_t size)
{
	return fails("memalign") ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return fails("aligned_alloc") ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
	if (fails("posix_memalign"))
		return ENOMEM;
	*pointer = __libc_memalign(alignment, size);
	return *pointer ? 0 : ENOMEM;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	if ((flags & MAP_ANONYMOUS) && fails("mmap"))
		return MAP_FAILED;
	return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}
