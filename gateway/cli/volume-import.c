#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "cleanup.h"
#include "cli/copy.h"
#include "cli/create.h"

/* Where the bytes come from. */
struct source {
	int fd;
	const char *path;
	uint64_t size; /* 0: a pipe, not known before its end */
};

static int open_source(const char *path, struct source *source, struct reason *reason)
{
	struct stat st;
	bool is_stdin = strcmp(path, "-") == 0;
	source->path = is_stdin ? "standard input" : path;
	source->size = 0;
	source->fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
	if (source->fd < 0 || fstat(source->fd, &st) < 0)
		return reason_set(reason, -errno, "%s: %m", source->path);
	if (S_ISDIR(st.st_mode))
		return reason_set(reason, -EISDIR, "%s: a directory", source->path);
	/* a file that somebody has read from before is taken for a pipe: it goes on from there */
	bool has_begun = is_stdin && lseek(source->fd, 0, SEEK_CUR) > 0;
	if (has_begun)
		return 0;
	if (S_ISREG(st.st_mode))
		source->size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(source->fd, BLKGETSIZE64, &source->size) < 0)
		return reason_set(reason, -errno, "%s: %m", source->path);
	if ((S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) && source->size == 0)
		return reason_set(reason, -EINVAL, "%s: empty", source->path);
	posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	return 0;
}

static int choose_size(const struct cli *cli, const struct source *source, uint64_t *size,
	struct reason *reason)
{
	const char *text = cli->values[OPTION_SIZE];
	if (text)
		return size_parse(text, size) < 0
			? reason_set(reason, -EINVAL, "--size %s: not a size such as 50G", text)
			: 0;
	if (source->size == 0)
		return reason_set(reason, -EINVAL,
			"the size of %s is not known beforehand: give it with --size", source->path);
	*size = align_up(source->size, VOLUME_SECTOR);
	return 0;
}

/* Finds the volume, or makes it; *is_new says which. A new one is made under the VM's lock, which *ownership
 * then holds: until it is filled, or gone again, no gateway may begin to serve it. */
static int find_or_create(const struct cli *cli, const struct source *source, struct volume *volume,
	bool *is_new, struct ownership **ownership, struct reason *reason)
{
	uint64_t size;
	char name[VOLUME_NAME_MAX];
	struct volume_name parsed;
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	int status = find_volume(cli, cli->arguments[0], volume, reason);
	*is_new = status == -ENOENT;
	if (!*is_new)
		return status == 0 && has_option(cli, OPTION_SIZE)
			? reason_set(reason, -EEXIST, "%s: exists already; --size is for new ones", volume->name)
			: status;
	volume_free(volume);
	status = choose_size(cli, source, &size, reason);
	if (status == 0)
		status = name_volume(cli, cli->arguments[0], name, reason);
	if (status == 0 && !dry_run && volume_name_parse(name, &parsed) == 0)
		status = ownership_open(&cli->config, parsed.vmid, ownership, reason);
	return status < 0 ? status : create_volume(cli, name, size, dry_run, volume, reason);
}

/* Copies into the open volume. A volume that was blank before is blank again after a failure. */
static int fill(const struct cli *cli, const struct source *source, struct offline *offline, bool is_new,
	struct reason *reason)
{
	const struct volume *volume = offline->volume;
	struct reason ignored;
	int blank = is_new ? 1 : copy_is_blank(offline, reason);
	if (blank < 0)
		return blank;
	if (!blank && !has_option(cli, OPTION_OVERWRITE))
		return reason_set(reason, -EEXIST,
			"%s: holds data: --overwrite replaces them, which cannot be undone", volume->name);
	struct copy_job job = {
		.offline = offline,
		.fd = source->fd,
		.path = source->path,
		.source_size = source->size,
		.size = volume->size,
		.is_blank = blank,
	};
	int status = copy_in(&job, reason);
	if (status < 0 && blank && !is_new)
		copy_blank(offline, &ignored);
	return status;
}

static int open_and_fill(const struct cli *cli, const struct source *source, struct volume *volume,
	bool is_new, struct ownership *ownership, struct reason *reason)
{
	struct offline offline;
	struct reason later;
	int status = 0;
	if (source->size > volume->size)
		status = reason_set(reason, -EFBIG, "%s: larger than %s", source->path, volume->name);
	if (status == 0 && volume->read_only)
		status = reason_set(reason, -EPERM, "%s: is read-only: see read_only in %s", volume->name, volume->path);
	if (status == 0 && has_option(cli, OPTION_DRY_RUN))
		return offline_check(cli, volume, reason);
	if (status == 0)
		status = offline_open(cli, volume, ownership, &offline, reason);
	if (status < 0)
		return status;
	status = fill(cli, source, &offline, is_new, reason);
	int closed = offline_close(&offline, &later);
	if (status == 0 && closed < 0)
		*reason = later;
	return status < 0 ? status : closed;
}

static void undo_create(const struct cli *cli, const struct volume *volume)
{
	struct record record;
	struct reason ignored;
	if (record_load(&cli->config, volume->name, &record, &ignored) == 0 && record.released)
		record_remove(&cli->config, volume->name, &record, &ignored);
	destroy_volume(cli, volume, &ignored);
}

static int import(const struct cli *cli, const struct source *source, struct volume *volume,
	struct reason *reason)
{
	bool is_new;
	struct ownership *ownership = NULL;
	int status = find_or_create(cli, source, volume, &is_new, &ownership, reason);
	if (status == 0) {
		status = open_and_fill(cli, source, volume, is_new, ownership, reason);
		if (status < 0 && is_new && !has_option(cli, OPTION_DRY_RUN))
			undo_create(cli, volume);
	}
	ownership_close(ownership);
	return status;
}

int command_volume_import(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct source source;
	struct reason reason;
	char size[SIZE_TEXT_MAX];
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	catch_interrupts();
	int status = open_source(cli->arguments[1], &source, &reason);
	if (status == 0)
		status = import(cli, &source, &volume, &reason);
	cleanup_close(&source.fd);
	if (status < 0)
		return fail(status, &reason);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", volume.name);
		json_add_number(object, "size", volume.size);
		json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s %s (%s) from %s\n", dry_run ? "would fill" : "filled", volume.name,
		size_format(volume.size, size), source.path);
	return 0;
}
