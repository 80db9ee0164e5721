#include "history-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/core.h"

enum { STEP = 1 << 20 };

struct history_file {
	int fd;
	size_t size_min;
	struct history_memory memory;
};

static size_t round_up(size_t size, size_t step)
{
	return (size + step - 1) / step * step;
}

/* Makes the file at least `end` long, and all of it from `begin` on is there. */
static int allocate(const struct history_file *file, size_t begin, size_t end)
{
	int error;
	do
		error = posix_fallocate(file->fd, (off_t)begin, (off_t)(end - begin));
	while (error == EINTR);
	return -error;
}

static size_t grow(void *context, size_t size)
{
	struct history_file *file = context;
	size = round_up(size, STEP);
	if (size > file->memory.size_max)
		size = file->memory.size_max;
	if (size > file->memory.size && allocate(file, file->memory.size, size) == 0)
		file->memory.size = size;
	return file->memory.size;
}

static int open_locked(const char *path)
{
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)
				  : memfd_create("history", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	int error = errno == EWOULDBLOCK ? EBUSY : errno;
	close(fd);
	return -error;
}

/* What is there stays; what is beyond the limit was not ours. */
static int map(struct history_file *file, size_t size_max)
{
	struct stat status;
	if (fstat(file->fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode) || size_max < file->size_min)
		return -EINVAL;
	size_t size = (size_t)status.st_size < size_max ? (size_t)status.st_size : size_max;
	size = round_up(size < file->size_min ? file->size_min : size, 8);
	int error = allocate(file, 0, size);
	if (error < 0)
		return error;
	void *address = mmap(NULL, size_max, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
	if (address == MAP_FAILED)
		return -errno;
	file->memory = (struct history_memory){
		.address = address, .size = size, .size_max = size_max, .grow = grow, .context = file
	};
	return 0;
}

int history_file_open(const char *path, size_t size_max, struct history_file **file)
{
	int fd = open_locked(path);
	if (fd < 0)
		return fd;
	struct history_file *made = calloc(1, sizeof *made);
	if (!made) {
		close(fd);
		return -ENOMEM;
	}
	made->fd = fd;
	made->size_min = round_up(history_size_min(UPSTAIRS_REQUEST_MAX), 4096);
	int error = map(made, size_max);
	if (error < 0) {
		close(fd);
		free(made);
		return error;
	}
	*file = made;
	return 0;
}

void history_file_close(struct history_file *file)
{
	munmap(file->memory.address, file->memory.size_max);
	close(file->fd);
	free(file);
}

const struct history_memory *history_file_memory(const struct history_file *file)
{
	return &file->memory;
}

void history_file_shrink(struct history_file *file, struct history *history)
{
	size_t needed = round_up(history_size_needed(history), STEP);
	if (needed < file->size_min)
		needed = file->size_min;
	if (needed >= file->memory.size || ftruncate(file->fd, (off_t)needed) < 0)
		return;
	file->memory.size = needed;
	history_shrink(history, needed);
}
