#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/copy.h"
#include "durable-file.h"

/* A new regular file has no name before it is complete: a crash leaves nothing, and nobody else's file
 * is touched. Where the file system cannot do that, it is written under a name of its own. */
struct target {
	const char *path;
	char *partial; /* the name, if it has one; NULL: none yet, or written directly */
	bool is_fresh; /* a new file, to be linked to `path` */
	bool replaces; /* an existing one, with --force */
	int fd;
};

static int open_fresh(const char *path, struct target *target, struct reason *reason)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *directory =
		slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	if (!directory || asprintf(&target->partial, "%s.XXXXXX", path) < 0) {
		target->partial = NULL;
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	target->is_fresh = true;
	target->fd = open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (target->fd >= 0) {
		free(take_pointer(&target->partial));
		return 0;
	}
	if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)
		target->fd = mkostemp(target->partial, O_CLOEXEC);
	if (target->fd < 0) {
		/* a name with a file where a directory should be is no place that exists */
		int status = reason_set(reason, errno == ENOTDIR ? -ENOENT : -errno, "%s: %m", path);
		free(take_pointer(&target->partial));
		return status;
	}
	return 0;
}

static int open_target(
	const struct cli *cli, const char *path, struct target *target, struct reason *reason)
{
	struct stat st;
	*target = (struct target){ .path = path, .fd = -1 };
	if (strcmp(path, "-") == 0) {
		target->path = "standard output";
		if (isatty(STDOUT_FILENO))
			return reason_set(reason, -EINVAL, "not written to a terminal");
		target->fd = dup(STDOUT_FILENO);
		return target->fd < 0 ? reason_set(reason, -errno, "%s: %m", target->path) : 0;
	}
	bool exists = stat(path, &st) == 0;
	if (exists && S_ISREG(st.st_mode) && !has_option(cli, OPTION_FORCE))
		return reason_set(reason, -EEXIST, "%s: exists already: --force replaces it", path);
	if (exists && !S_ISREG(st.st_mode)) {
		target->fd = open(path, O_WRONLY | O_CLOEXEC);
		return target->fd < 0 ? reason_set(reason, -errno, "%s: %m", path) : 0;
	}
	target->replaces = exists;
	return open_fresh(path, target, reason);
}

/* Gives the file its name. Without --force it fails if somebody else has made one meanwhile. */
static int name_target(struct target *target, struct reason *reason)
{
	char link[40];
	snprintf(link, sizeof link, "/proc/self/fd/%d", target->fd);
	if (!target->partial && !target->replaces &&
		linkat(AT_FDCWD, link, AT_FDCWD, target->path, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	if (!target->partial && target->replaces) {
		/* a name that nobody has, as only rename() replaces */
		if (asprintf(&target->partial, "%s.%d", target->path, getpid()) < 0) {
			target->partial = NULL;
			return reason_set(reason, -ENOMEM, "out of memory");
		}
		if (linkat(AT_FDCWD, link, AT_FDCWD, target->partial, AT_SYMLINK_FOLLOW) < 0) {
			int status = reason_set(reason, -errno, "%s: %m", target->partial);
			free(take_pointer(&target->partial));
			return status;
		}
	}
	if (target->partial && renameat2(AT_FDCWD, target->partial, AT_FDCWD, target->path,
							   target->replaces ? 0 : RENAME_NOREPLACE) == 0)
		return 0;
	return reason_set(reason, -errno, "%s: %m", target->path);
}

static int finish_target(struct target *target, int status, struct reason *reason)
{
	if (status == 0 && target->is_fresh) {
		status = name_target(target, reason);
		/* other errors: not every file system can do this, or lets us */
		if (status == 0 && sync_parent(target->path) == -EIO)
			status = reason_set(reason, -EIO, "%s: cannot sync its directory", target->path);
	}
	cleanup_close(&target->fd);
	if (status < 0 && target->partial)
		unlink(target->partial);
	free(target->partial);
	return status;
}

static int export(const struct cli *cli, const struct volume *volume, struct target *target,
	struct reason *reason)
{
	struct offline offline;
	struct reason later;
	int status = offline_open(cli, volume, NULL, &offline, reason);
	if (status == -EBUSY && refuse_if_running(cli, volume->parsed.vmid, &later) < 0) {
		struct reason busy = *reason;
		return reason_set(reason, status,
			"%.300s; while the VM runs, copy with: nbdcopy 'nbd+unix:///%s?socket=%s/%llu/nbd.sock' FILE",
			busy.text, volume->name, cli->config.run_dir, (unsigned long long)volume->parsed.vmid);
	}
	if (status < 0)
		return status;
	struct copy_job job = {
		.offline = &offline,
		.fd = target->fd,
		.path = target->path,
		.source_size = volume->size,
		.size = volume->size,
		.is_fresh = target->is_fresh,
	};
	status = copy_out(&job, reason);
	int closed = offline_close(&offline, &later);
	if (status == 0 && closed < 0)
		*reason = later;
	return status < 0 ? status : closed;
}

int command_volume_export(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct target target;
	struct reason reason;
	char size[SIZE_TEXT_MAX];
	catch_interrupts();
	int status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0) {
		status = open_target(cli, cli->arguments[1], &target, &reason);
		if (status == 0)
			status = export(cli, &volume, &target, &reason);
		status = finish_target(&target, status, &reason);
	}
	if (status < 0)
		return fail(status, &reason);
	if (strcmp(cli->arguments[1], "-") == 0)
		return 0; /* standard output holds the bytes */
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "size", volume.size);
		json_add_text(object, "file", target.path);
		return print_json(object);
	}
	printf("copied %s (%s) to %s\n", volume.name, size_format(volume.size, size), target.path);
	return 0;
}
