#include "durable-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "cleanup.h"

enum { LOCK_PAUSE_MS = 5 };

char *path_join(const char *directory, const char *name)
{
	char *path;
	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

int durable_file_read(const char *path, char **text, size_t *length, struct reason *reason)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? -ENOENT : reason_set(reason, -errno, "%s: %m", path);
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: not a regular file", path);
	CLEANUP_FREE char *buffer = malloc(DURABLE_FILE_MAX + 1);
	if (!buffer)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	size_t used = 0;
	for (;;) {
		ssize_t n = read(fd, buffer + used, DURABLE_FILE_MAX + 1 - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return reason_set(reason, -errno, "%s: %m", path);
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > DURABLE_FILE_MAX)
			return reason_set(reason, -EBADMSG, "%s: larger than %d bytes", path, DURABLE_FILE_MAX);
	}
	buffer[used] = '\0';
	*length = used;
	*text = take_pointer(&buffer);
	return 0;
}

int private_file_check(const char *path, struct reason *reason)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return reason_set(reason, -EACCES, "%s: others may read it: chmod 600 %s", path, path);
	return 0;
}

static int write_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, text, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Opens the directory that holds `path`. */
static int open_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *parent =
		slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	if (!parent)
		return -ENOMEM;
	int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int sync_parent(const char *path)
{
	CLEANUP_CLOSE int fd = open_parent(path);
	if (fd < 0)
		return fd;
	return fsync(fd) < 0 ? -errno : 0;
}

int durable_file_write(
	const char *path, const char *text, size_t length, struct reason *reason)
{
	CLEANUP_FREE char *fresh = NULL;
	if (length > DURABLE_FILE_MAX)
		return reason_set(reason, -EFBIG, "%s: would be larger than %d bytes", path, DURABLE_FILE_MAX);
	if (asprintf(&fresh, "%s.new", path) < 0) {
		fresh = NULL;
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	}
	/* O_TRUNC: a crash may have left one, and the caller's lock keeps everybody else out. */
	CLEANUP_CLOSE int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: %m", fresh);
	int status = fchmod(fd, 0600) < 0 ? -errno : write_all(fd, text, length);
	if (status == 0 && fsync(fd) < 0)
		status = -errno;
	if (status == 0 && rename(fresh, path) < 0)
		status = -errno;
	if (status < 0) {
		unlink(fresh);
		return reason_set(reason, status, "%s: cannot write: %s", path, strerror(-status));
	}
	status = sync_parent(path);
	if (status < 0)
		return reason_set(reason, status, "%s: cannot sync its directory: %s", path, strerror(-status));
	return 0;
}

int durable_file_remove(const char *path, struct reason *reason)
{
	if (unlink(path) < 0)
		return errno == ENOENT ? 0 : reason_set(reason, -errno, "%s: %m", path);
	int status = sync_parent(path);
	if (status < 0)
		return reason_set(reason, status, "%s: cannot sync its directory: %s", path, strerror(-status));
	return 0;
}

int make_directory(const char *path, struct reason *reason)
{
	struct stat st;
	if (stat(path, &st) == 0)
		return S_ISDIR(st.st_mode) ? 0 : reason_set(reason, -ENOTDIR, "%s: not a directory", path);
	const char *slash = strrchr(path, '/');
	if (slash && slash != path) {
		CLEANUP_FREE char *parent = strndup(path, (size_t)(slash - path));
		if (!parent)
			return reason_set(reason, -ENOMEM, "%s: out of memory", path);
		int status = make_directory(parent, reason);
		if (status < 0)
			return status;
	}
	for (;;) {
		if (mkdir(path, 0755) == 0)
			return 0;
		if (errno != EEXIST)
			return reason_set(reason, -errno, "%s: %m", path);
		bool is_there = stat(path, &st) == 0;
		if (is_there && S_ISDIR(st.st_mode))
			return 0;
		if (is_there || errno != ENOENT || (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)))
			return reason_set(reason, -ENOTDIR, "%s: not a directory", path);
		/* somebody made it and another one has removed it */
	}
}

int require_local(const char *directory, struct reason *reason)
{
	struct statfs fs;
	if (statfs(directory, &fs) < 0)
		return reason_set(reason, -errno, "%s: %m", directory);
	if (fs.f_type == FUSE_SUPER_MAGIC)
		return reason_set(reason, -EOPNOTSUPP,
			"%s: is on FUSE, where a lock excludes nobody on other nodes: this version needs a local "
			"directory for volume_dir and claim_dir",
			directory);
	return 0;
}

/* Opens and locks the file. The last holder may have unlinked it while we waited: -ESTALE. */
static int try_lock_file(const char *path, struct reason *reason)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: %m", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : reason_set(reason, -errno, "%s: %m", path);
	struct stat held, named;
	if (fstat(fd, &held) < 0 || stat(path, &named) < 0)
		return errno == ENOENT ? -ESTALE : reason_set(reason, -errno, "%s: %m", path);
	if (held.st_dev != named.st_dev || held.st_ino != named.st_ino)
		return -ESTALE;
	return take_fd(&fd);
}

int lock_file_now(const char *path, struct reason *reason)
{
	int fd;
	do {
		fd = try_lock_file(path, reason);
	} while (fd == -ESTALE);
	return fd;
}

int lock_file_wait(const char *path, struct reason *reason)
{
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };
	int fd = lock_file_now(path, reason);
	for (unsigned waited = 0; fd == -EBUSY && waited < LOCK_WAIT_MS; waited += LOCK_PAUSE_MS) {
		nanosleep(&pause, NULL);
		fd = lock_file_now(path, reason);
	}
	if (fd == -EBUSY)
		return reason_set(reason, fd, "%s: has been locked by another program for %d s", path,
			LOCK_WAIT_MS / 1000);
	return fd;
}
