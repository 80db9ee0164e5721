#include "control/gateways.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "cleanup.h"
#include "volume/volume.h"

int vmids_add(struct vmids *vmids, uint64_t vmid)
{
	for (size_t i = 0; i < vmids->count; i++) {
		if (vmids->items[i] == vmid)
			return 0;
	}
	uint64_t *items = realloc(vmids->items, (vmids->count + 1) * sizeof *items);
	if (!items)
		return -ENOMEM;
	vmids->items = items;
	items[vmids->count++] = vmid;
	return 0;
}

static char *socket_path(const char *run_dir, uint64_t vmid)
{
	char *path;
	return asprintf(&path, "%s/%" PRIu64 "/control.sock", run_dir, vmid) < 0 ? NULL : path;
}

int vmids_add_sockets(struct vmids *vmids, const char *run_dir)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(run_dir);
	const struct dirent *entry;
	int status = 0;
	while (status == 0 && dir && (entry = readdir(dir))) {
		uint64_t vmid;
		if (vmid_parse(entry->d_name, &vmid) < 0)
			continue;
		CLEANUP_FREE char *path = socket_path(run_dir, vmid);
		if (!path)
			status = -ENOMEM;
		else if (access(path, F_OK) == 0)
			status = vmids_add(vmids, vmid);
	}
	return status;
}

static int by_number(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
	return a < b ? -1 : a > b;
}

void vmids_sort(struct vmids *vmids)
{
	if (vmids->count > 1)
		qsort(vmids->items, vmids->count, sizeof *vmids->items, by_number);
}

void vmids_free(struct vmids *vmids)
{
	free(vmids->items);
	*vmids = (struct vmids){ 0 };
}

static int ask(struct gateway_answers *answers, char **paths, const char *run_dir, const struct vmids *vmids,
	const char *command, int timeout_ms)
{
	CLEANUP_JSON struct json_object *request = json_object_new_object();
	if (!json_add_text(request, "command", command))
		return -ENOMEM;
	for (size_t i = 0; i < vmids->count; i++) {
		answers->items[i].path = paths[i] = socket_path(run_dir, vmids->items[i]);
		if (!paths[i])
			return -ENOMEM;
	}
	int status = control_ask_all(answers->items, vmids->count, request, timeout_ms);
	answers->count = status < 0 ? 0 : vmids->count;
	return status;
}

int gateways_ask(const char *run_dir, const struct vmids *vmids, const char *command, int timeout_ms,
	struct gateway_answers *answers)
{
	*answers = (struct gateway_answers){ .items = calloc(vmids->count + 1, sizeof *answers->items) };
	char **paths = calloc(vmids->count + 1, sizeof *paths);
	int status = answers->items && paths ? ask(answers, paths, run_dir, vmids, command, timeout_ms) : -ENOMEM;
	for (size_t i = 0; paths && i < vmids->count; i++) {
		free(paths[i]);
		if (answers->items)
			answers->items[i].path = NULL;
	}
	free(paths);
	return status;
}

struct json_object *gateway_take_answer(struct control_question *question, uint64_t vmid)
{
	if (question->status != 0)
		return NULL;
	struct json_object *answer = question->answer;
	question->answer = NULL;
	json_object_object_del(answer, "ok");
	json_object_object_del(answer, "version");
	json_add_number(answer, "vmid", vmid);
	return answer;
}

void gateway_answers_free(struct gateway_answers *answers)
{
	for (size_t i = 0; i < answers->count; i++)
		json_object_put(answers->items[i].answer);
	free(answers->items);
	*answers = (struct gateway_answers){ 0 };
}
