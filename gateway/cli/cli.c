#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include "cleanup.h"
#include "control/control-client.h"
#include "log.h"

enum { DISK_MAX = 9999 };

int fail(int error, const struct reason *reason)
{
	log_error("%s", reason->text);
	return exit_status_for(error);
}

int fail_change(int refused, int error, const struct reason *reason)
{
	int own = fail(error, reason);
	return refused ? refused : own;
}

int fail_text(int status, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	log_error("%s", text);
	return status;
}

int number_option(const struct cli *cli, enum option_id option, uint64_t minimum, uint64_t maximum, uint64_t *number,
	struct reason *reason)
{
	const char *text = cli->values[option];
	char *end;
	if (!text)
		return 0;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || value < minimum || value > maximum)
		return reason_set(reason, -EINVAL, "%s %s: not a number from %llu to %llu", option_infos[option].name, text,
			(unsigned long long)minimum, (unsigned long long)maximum);
	*number = value;
	return 0;
}

int print_json(struct json_object *object)
{
	CLEANUP_JSON struct json_object *owned = object;
	const char *text = json_was_incomplete()
		? NULL
		: json_text_of(owned, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
				  JSON_C_TO_STRING_NOSLASHESCAPE);
	if (!text)
		return fail_text(EXIT_INTERNAL, "out of memory");
	puts(text);
	return 0;
}

/* Volumes */

int name_volume(const struct cli *cli, const char *argument, char name[VOLUME_NAME_MAX],
	struct reason *reason)
{
	uint64_t vmid, disk = 0;
	struct volume_name parsed;
	if (vmid_parse(argument, &vmid) < 0) {
		if (volume_name_parse(argument, &parsed) < 0)
			return reason_set(reason, -EINVAL,
				"%s: neither the name of a volume, such as vm-200-disk-0, nor a VMID", argument);
		if (has_option(cli, OPTION_DISK))
			return reason_set(reason, -EINVAL, "--disk goes with a VMID, not with a name");
		snprintf(name, VOLUME_NAME_MAX, "%s", argument);
		return 0;
	}
	int status = number_option(cli, OPTION_DISK, 0, DISK_MAX, &disk, reason);
	if (status == 0)
		volume_name_of_disk(vmid, (unsigned)disk, name);
	return status;
}

int find_volume(
	const struct cli *cli, const char *argument, struct volume *volume, struct reason *reason)
{
	char name[VOLUME_NAME_MAX];
	*volume = (struct volume){ 0 };
	int status = name_volume(cli, argument, name, reason);
	return status < 0 ? status : volume_load(&cli->config, name, volume, reason);
}

int find_crucible_volume(const struct cli *cli, const char *argument, const char *lacking, struct volume *volume,
	struct reason *reason)
{
	int status = find_volume(cli, argument, volume, reason);
	if (status == 0 && volume->backend != VOLUME_BACKEND_CRUCIBLE)
		status = reason_set(reason, -EINVAL, "%s: has no %s: its backend is %s", volume->name, lacking,
			volume_backends[volume->backend]);
	return status;
}

int load_volumes(const struct cli *cli, uint64_t vmid, struct volumes *volumes)
{
	char text[512];
	struct faults faults = { 0 };
	int status = volumes_read(&cli->config, vmid, volumes, &faults);
	for (size_t i = 0; i < faults.count; i++)
		log_error("%s", fault_text(&faults.items[i], text, sizeof text));
	if (status < 0 && faults.count == 0)
		log_error("%s: %s", cli->config.volume_dir, strerror(-status));
	faults_free(&faults);
	return status;
}

/* Gateways */

struct json_object *new_request(const char *command)
{
	struct json_object *request = json_object_new_object();
	if (json_add_text(request, "command", command))
		return request;
	json_object_put(request);
	return NULL;
}

int ask_gateway(const struct cli *cli, uint64_t vmid, struct json_object *request,
	struct json_object **answer, struct reason *reason)
{
	CLEANUP_JSON struct json_object *owned = request;
	CLEANUP_FREE char *path = NULL;
	if (!owned || asprintf(&path, "%s/%llu/control.sock", cli->config.run_dir,
					  (unsigned long long)vmid) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	return control_call(path, owned, answer, reason);
}

int change_by_gateway(const struct cli *cli, uint64_t vmid, struct json_object *request, int *exit_status,
	struct json_object **answer, struct reason *reason)
{
	uint64_t given;
	int status = ask_gateway(cli, vmid, request, answer, reason);
	if (status == -EPROTO)
		*exit_status = json_number(*answer, "exit_status", &given) && given <= 255 ? (int)given : EXIT_INTERNAL;
	return status;
}

int change_while_served(const struct cli *cli, const struct volume *volume, struct json_object *request,
	int *exit_status, struct json_object **answer, struct reason *reason)
{
	int status = change_by_gateway(cli, volume->parsed.vmid, request, exit_status, answer, reason);
	return status == -ECONNREFUSED
		? reason_set(reason, status, "%s: its gateway does not run: start the VM's gateway first", volume->name)
		: status;
}

/* Text */

struct json_object *volume_in_status(struct json_object *status, const char *name)
{
	struct json_object *one;
	for (size_t i = 0; (one = json_item_or_null(status, "volumes", i)); i++) {
		if (strcmp(json_text_or(one, "name", ""), name) == 0)
			return one;
	}
	return NULL;
}

const char *size_for_people(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned unit = 0;
	while (value >= 1024 && unit < 6) {
		value /= 1024;
		unit++;
	}
	bool is_whole = value == (double)(uint64_t)value;
	snprintf(text, SIZE_TEXT_MAX, is_whole || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return text;
}

/* Signals */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
	interrupted = signal;
}

void catch_interrupts(void)
{
	struct sigaction action = { .sa_handler = on_interrupt }; /* no SA_RESTART: reads shall end */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool was_interrupted(void)
{
	return interrupted;
}
