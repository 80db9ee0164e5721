#include "cli/gateways.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

struct vmids {
	uint64_t *items;
	size_t count;
	bool is_incomplete; /* for want of memory */
};

static void add_vmid(struct vmids *vmids, uint64_t vmid)
{
	for (size_t i = 0; i < vmids->count; i++) {
		if (vmids->items[i] == vmid)
			return;
	}
	uint64_t *items = realloc(vmids->items, (vmids->count + 1) * sizeof *items);
	if (!items) {
		vmids->is_incomplete = true;
		return;
	}
	vmids->items = items;
	items[vmids->count++] = vmid;
}

/* VMs whose volume files are gone while their gateway still runs. */
static void add_running(const struct cli *cli, struct vmids *vmids)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(cli->config.run_dir);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		uint64_t vmid;
		CLEANUP_FREE char *path = NULL;
		if (vmid_parse(entry->d_name, &vmid) < 0 ||
			asprintf(&path, "%s/%s/control.sock", cli->config.run_dir, entry->d_name) < 0)
			continue;
		if (access(path, F_OK) == 0)
			add_vmid(vmids, vmid);
	}
}

static int by_number(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
	return a < b ? -1 : a > b;
}

static struct json_object *stopped_volume(const struct volume *volume)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "name", volume->name);
	json_add_text(object, "backend", volume_backends[volume->backend]);
	json_add_text(object, "state", "stopped");
	json_add_number(object, "size", volume->size);
	return object;
}

/* What is known of a VM without its gateway. */
static struct json_object *without_gateway(const struct volumes *volumes, uint64_t vmid,
	const char *state, const struct reason *reason)
{
	struct json_object *object = json_object_new_object(), *list = json_object_new_array();
	json_add_number(object, "vmid", vmid);
	json_add_text(object, "state", state);
	if (reason)
		json_add_text(object, "reason", reason->text);
	for (size_t i = 0; i < volumes->count; i++) {
		if (volumes->items[i].parsed.vmid == vmid)
			json_append(list, stopped_volume(&volumes->items[i]));
	}
	json_add(object, "volumes", list);
	return object;
}

static struct json_object *ask(const struct cli *cli, const char *command, const struct volumes *volumes,
	uint64_t vmid)
{
	struct json_object *answer = NULL;
	struct reason reason;
	int status = ask_gateway(cli, vmid, new_request(command), &answer, &reason);
	if (status == 0) {
		json_object_object_del(answer, "ok");
		json_object_object_del(answer, "version");
		return answer;
	}
	json_object_put(answer);
	return status == -ECONNREFUSED ? without_gateway(volumes, vmid, "stopped", NULL)
								   : without_gateway(volumes, vmid, "silent", &reason);
}

/* No gateway and no volumes: a gateway that was killed has left its directory behind. */
static bool is_nothing(struct json_object *gateway)
{
	struct json_object *volumes;
	return !json_object_object_get_ex(gateway, "nbd", NULL) &&
		!json_object_object_get_ex(gateway, "reason", NULL) &&
		json_object_object_get_ex(gateway, "volumes", &volumes) &&
		json_object_is_type(volumes, json_type_array) && json_object_array_length(volumes) == 0;
}

struct json_object *ask_gateways(
	const struct cli *cli, const char *command, uint64_t vmid, bool *damaged)
{
	struct volumes volumes;
	struct vmids vmids = { 0 };
	struct json_object *list = json_object_new_array();
	*damaged = load_volumes(cli, vmid, &volumes) < 0;
	for (size_t i = 0; i < volumes.count; i++)
		add_vmid(&vmids, volumes.items[i].parsed.vmid);
	if (vmid)
		add_vmid(&vmids, vmid);
	else
		add_running(cli, &vmids);
	if (vmids.count > 1)
		qsort(vmids.items, vmids.count, sizeof *vmids.items, by_number);
	for (size_t i = 0; i < vmids.count; i++) {
		struct json_object *gateway = ask(cli, command, &volumes, vmids.items[i]);
		if (vmid == 0 && is_nothing(gateway))
			json_object_put(gateway);
		else
			json_append(list, gateway);
	}
	free(vmids.items);
	volumes_free(&volumes);
	if (vmids.is_incomplete || json_was_incomplete()) {
		json_object_put(list);
		return NULL;
	}
	return list;
}
