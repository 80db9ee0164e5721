/* cleanup.h: scope cleanup, so that an early return never leaks.
 *
 * CLEANUP_FREE char *text = NULL;     freed when the scope ends
 * CLEANUP_CLOSE int fd = -1;          closed when the scope ends, unless negative
 * take_pointer(&text), take_fd(&fd)   hand the value on and disarm the cleanup
 *
 * All keep errno as it was.
 */
#ifndef TB4_CLEANUP_H
#define TB4_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free(void *pointer)
{
	int saved = errno;
	free(*(void **)pointer);
	errno = saved;
}

static inline void cleanup_close(int *fd)
{
	int saved = errno;
	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void cleanup_fclose(FILE **file)
{
	int saved = errno;
	if (*file)
		fclose(*file);
	errno = saved;
}

static inline void cleanup_closedir(DIR **dir)
{
	int saved = errno;
	if (*dir)
		closedir(*dir);
	errno = saved;
}

#define CLEANUP(function) __attribute__((cleanup(function)))
#define CLEANUP_FREE CLEANUP(cleanup_free)
#define CLEANUP_CLOSE CLEANUP(cleanup_close)
#define CLEANUP_FCLOSE CLEANUP(cleanup_fclose)
#define CLEANUP_CLOSEDIR CLEANUP(cleanup_closedir)

static inline int take_fd(int *fd)
{
	int value = *fd;
	*fd = -1;
	return value;
}

#define take_pointer(pointer)                   \
	({                                          \
		__typeof__(*(pointer)) taken_ = *(pointer); \
		*(pointer) = NULL;                      \
		taken_;                                 \
	})

#endif
