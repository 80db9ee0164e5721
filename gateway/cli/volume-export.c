#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/copy.h"

/* A new regular file is written beside `path` and renamed when it is complete. */
struct target {
	const char *path;
	char *partial; /* NULL: written directly (standard output, a device, a pipe) */
	int fd;
};

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
	if (asprintf(&target->partial, "%s.partial", path) < 0) {
		target->partial = NULL;
		return reason_set(reason, -ENOMEM, "out of memory");
	}
	target->fd = open(target->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return target->fd < 0 ? reason_set(reason, -errno, "%s: %m", target->partial) : 0;
}

static int finish_target(struct target *target, int status, struct reason *reason)
{
	cleanup_close(&target->fd);
	if (status == 0 && target->partial && rename(target->partial, target->path) < 0)
		status = reason_set(reason, -errno, "%s: %m", target->path);
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
	int status = offline_open(cli, volume, &offline, reason);
	if (status == -EBUSY) {
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
