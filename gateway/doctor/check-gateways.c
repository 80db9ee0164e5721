/* check-gateways.c: what runs below run_dir, what dead gateways left there, and the ports they want. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cleanup.h"
#include "control/control-client.h"
#include "doctor/doctor.h"
#include "durable-file.h"
#include "listen.h"
#include "volume/ports.h"

/* The answer of the VM's gateway. Returns 0 or what control_call() does. */
static int ask(const struct doctor *doctor, uint64_t vmid, struct json_object **status, struct reason *reason)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_JSON struct json_object *request = json_object_new_object();
	*status = NULL;
	if (!json_add_text(request, "command", "status") ||
		asprintf(&path, "%s/%" PRIu64 "/control.sock", doctor->config.run_dir, vmid) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	return control_call(path, request, status, reason);
}

static void judge_volume(struct json_object *volume, uint64_t vmid, struct report *report)
{
	const char *name = json_text_or(volume, "name", "?"), *state = json_text_or(volume, "state", "?");
	const char *reason = json_text_or(volume, "reason", "no reason given");
	bool flush_failed = false;
	if (strcmp(state, "failed") == 0) {
		FOUND_ERROR(report, name, "is not served: %s", reason);
		report_next(report, "mend that, then systemctl restart tb4-vm@%" PRIu64, vmid);
	} else if (json_switch(volume, "flush_failed", &flush_failed) && flush_failed) {
		FOUND_ERROR(report, name, "a flush has failed: what the VM wrote since the last good one may not be on the medium");
		report_next(report, "tb4 status %" PRIu64, vmid);
	}
}

static void judge_running(struct json_object *status, uint64_t vmid, const char *directory, struct report *report)
{
	struct json_object *volume;
	if (strcmp(json_text_or(status, "state", ""), "fenced") == 0) {
		FOUND_ERROR(report, directory, "the gateway is fenced: another one has its volumes");
		report_next(report, "stop the VM here, then systemctl stop tb4-vm@%" PRIu64, vmid);
		return;
	}
	for (size_t i = 0; (volume = json_item_or_null(status, "volumes", i)); i++)
		judge_volume(volume, vmid, report);
}

/* A socket file, and nobody behind it. */
static bool is_dead_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path || access(path, F_OK) < 0)
		return false;
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno == ECONNREFUSED;
}

static void judge_remains(uint64_t vmid, const char *directory, struct report *report)
{
	CLEANUP_FREE char *role = path_join(directory, "role");
	CLEANUP_FREE char *nbd = path_join(directory, "nbd.sock");
	if (!role || !nbd)
		return;
	if (access(role, F_OK) == 0) {
		FOUND_WARNING(report, role, "left by a gateway that did not stop in order: its claim still stands");
		report_next(report, "systemctl start tb4-vm@%" PRIu64 " goes on under it; tb4 claim release VOLUME gives it up", vmid);
	} else if (is_dead_socket(nbd)) {
		FOUND_WARNING(report, nbd, "a socket that nobody listens at");
		report_next(report, "systemctl start tb4-vm@%" PRIu64 ", or rm -r %s", vmid, directory);
	}
}

static void judge_vm(const struct doctor *doctor, uint64_t vmid, const char *directory, struct report *report)
{
	struct reason reason;
	struct json_object *answer;
	int error = ask(doctor, vmid, &answer, &reason);
	CLEANUP_JSON struct json_object *status = answer;
	if (error == -ECONNREFUSED) {
		judge_remains(vmid, directory, report);
	} else if (error < 0) {
		FOUND_ERROR(report, directory, "%s", reason.text);
		report_next(report, error == -EACCES ? "run tb4 doctor as root" : "journalctl -u tb4-vm@%" PRIu64, vmid);
	} else {
		judge_running(status, vmid, directory, report);
	}
}

void check_gateways(const struct doctor *doctor, struct report *report)
{
	CLEANUP_CLOSEDIR DIR *dir = doctor->config.run_dir ? opendir(doctor->config.run_dir) : NULL;
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		uint64_t vmid;
		CLEANUP_FREE char *directory = path_join(doctor->config.run_dir, entry->d_name);
		if (directory && vmid_parse(entry->d_name, &vmid) == 0 && (doctor->vmid == 0 || doctor->vmid == vmid))
			judge_vm(doctor, vmid, directory, report);
	}
}

/* Ports */

static bool is_gateway_of(const struct doctor *doctor, uint64_t vmid, const char *holder)
{
	struct json_object *answer;
	uint64_t pid, holding;
	ask(doctor, vmid, &answer, NULL);
	CLEANUP_JSON struct json_object *status = answer;
	return status && json_number(status, "pid", &pid) && sscanf(holder, "pid %" SCNu64, &holding) == 1 && pid == holding;
}

/* The first volume of each VM stands for its port. */
static bool is_first_of_vm(const struct volumes *volumes, size_t i)
{
	return i == 0 || volumes->items[i - 1].parsed.vmid != volumes->items[i].parsed.vmid;
}

void check_ports(const struct doctor *doctor, struct report *report)
{
	const char *address = doctor->config.listen;
	for (size_t i = 0; address && i < doctor->volumes.count; i++) {
		const struct volume *volume = &doctor->volumes.items[i];
		uint64_t vmid = volume->parsed.vmid;
		uint16_t port = volume_nbd_port(volume);
		char holder[128], subject[64];
		if (!doctor_wants(doctor, volume) || !is_first_of_vm(&doctor->volumes, i) ||
			strcmp(volume->host, doctor->config.node_name) != 0 || !listen_holder(address, port, holder, sizeof holder) ||
			is_gateway_of(doctor, vmid, holder))
			continue;
		snprintf(subject, sizeof subject, "port %u", port);
		FOUND_ERROR(report, subject, "%s has it: VM %" PRIu64 " cannot be offered over TCP", holder, vmid);
		report_next(report, "end that program, or write nbd = PORT below [ports] into %s", volume->path);
	}
}
