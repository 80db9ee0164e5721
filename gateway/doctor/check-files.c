/* check-files.c: permissions of what decides or is secret, and room for what is written. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "cleanup.h"
#include "doctor/doctor.h"
#include "durable-file.h"

enum { SCARCE_PERCENT = 5, FULL = 1 << 20 };

/* Who can write it decides what root does: commands of sleds, images, whose a volume is. */
static void judge_writers(const char *path, struct report *report)
{
	struct stat st;
	if (stat(path, &st) < 0) {
		if (errno != ENOENT) {
			FOUND_WARNING(report, path, "cannot be looked at: %s", strerror(errno));
			report_next(report, "run tb4 doctor as root");
		}
		return; /* not there: made when it is needed, or a fault of the configuration */
	}
	if (st.st_mode & (S_IWGRP | S_IWOTH)) {
		FOUND_ERROR(report, path, "%s may write it (mode %04o)", st.st_mode & S_IWOTH ? "everybody" : "its group",
			st.st_mode & 07777);
		report_next(report, "chmod go-w %s", path);
	}
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		FOUND_ERROR(report, path, "belongs to user %u, who may change it", st.st_uid);
		report_next(report, "chown root %s", path);
	}
}

static void judge_secret(const char *path, struct report *report)
{
	struct stat st;
	if (stat(path, &st) < 0) {
		FOUND_ERROR(report, path, "the key cannot be read: %s", strerror(errno));
		report_next(report, errno == ENOENT ? "bring the file back from where its copy is kept" : "run tb4 doctor as root");
		return;
	}
	if (st.st_mode & (S_IRWXG | S_IRWXO)) {
		FOUND_ERROR(report, path, "a key, and others than its owner may use the file (mode %04o)", st.st_mode & 07777);
		report_next(report, "chmod 600 %s", path);
	}
}

void check_permissions(const struct doctor *doctor, struct report *report)
{
	const struct config *config = &doctor->config;
	const char *const places[] = { doctor->config_path ? doctor->config_path : CONFIG_DEFAULT_PATH, config->run_dir,
		config->volume_dir, config->claim_dir, config->data_dir };
	if (geteuid() != 0) {
		FOUND_WARNING(report, "tb4 doctor", "is not run as root: what only root may read counts as missing here");
		report_next(report, "sudo tb4 doctor");
	}
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (places[i])
			judge_writers(places[i], report);
	}
	if (config->tls_key)
		judge_secret(config->tls_key, report);
	for (size_t i = 0; i < doctor->volumes.count; i++) {
		const struct volume *volume = &doctor->volumes.items[i];
		if (!doctor_wants(doctor, volume))
			continue;
		judge_writers(volume->path, report);
		if (volume->key_file && strcmp(volume->host, config->node_name) == 0)
			judge_secret(volume->key_file, report);
	}
}

static void judge_room(const char *path, const char *what, struct report *report)
{
	struct statvfs filesystem;
	CLEANUP_FREE char *there = host_nearest(path);
	if (!there || statvfs(there, &filesystem) < 0)
		return;
	uint64_t free_bytes = (uint64_t)filesystem.f_bavail * filesystem.f_frsize;
	uint64_t bytes = (uint64_t)filesystem.f_blocks * filesystem.f_frsize;
	bool lacks_files = filesystem.f_files > 0 && filesystem.f_ffree == 0;
	char room[SIZE_TEXT_MAX];
	if (free_bytes < FULL || lacks_files) {
		FOUND_ERROR(report, path, "its file system is full%s: %s", lacks_files ? " (no more files fit)" : "", what);
	} else if (free_bytes / SCARCE_PERCENT < bytes / 100) {
		FOUND_WARNING(report, path, "its file system is nearly full, %s are free: when it is full, %s",
			size_format(free_bytes >> 20 << 20, room), what);
	} else {
		return;
	}
	report_next(report, "df -h %s; find what fills it with du -x", path);
}

void check_space(const struct doctor *doctor, struct report *report)
{
	const struct config *config = &doctor->config;
	if (config->run_dir)
		judge_room(config->run_dir, "gateways cannot start", report);
	if (config->claim_dir)
		judge_room(config->claim_dir, "no volume can be claimed, and no copy that fails left behind", report);
	if (config->volume_dir)
		judge_room(config->volume_dir, "no volume can be made or changed", report);
	if (config->data_dir)
		judge_room(config->data_dir, "images cannot grow", report);
}
