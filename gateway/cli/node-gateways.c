#include "cli/node-gateways.h"

#include <errno.h>

#include "cleanup.h"
#include "control/gateways.h"

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

/* No gateway and no volumes: a gateway that was killed has left its directory behind. */
static bool is_nothing(struct json_object *gateway)
{
	struct json_object *volumes;
	return !json_object_object_get_ex(gateway, "nbd", NULL) &&
		!json_object_object_get_ex(gateway, "reason", NULL) &&
		json_object_object_get_ex(gateway, "volumes", &volumes) &&
		json_object_is_type(volumes, json_type_array) && json_object_array_length(volumes) == 0;
}

/* The VMs to ask about. 0 or -ENOMEM. */
static int find_vmids(const struct cli *cli, const struct volumes *volumes, uint64_t vmid, struct vmids *vmids)
{
	int status = 0;
	for (size_t i = 0; status == 0 && i < volumes->count; i++)
		status = vmids_add(vmids, volumes->items[i].parsed.vmid);
	if (status == 0) /* also VMs whose volume files are gone while their gateway still runs */
		status = vmid ? vmids_add(vmids, vmid) : vmids_add_sockets(vmids, cli->config.run_dir);
	vmids_sort(vmids);
	return status;
}

static int ask_all(const struct cli *cli, const char *command, const struct volumes *volumes, uint64_t vmid,
	struct json_object *list)
{
	CLEANUP(vmids_free) struct vmids vmids = { 0 };
	CLEANUP(gateway_answers_free) struct gateway_answers answers = { 0 };
	int status = find_vmids(cli, volumes, vmid, &vmids);
	if (status == 0)
		status = gateways_ask(cli->config.run_dir, &vmids, command, CONTROL_ANSWER_TIMEOUT_MS, &answers);
	for (size_t i = 0; i < answers.count; i++) {
		struct control_question *question = &answers.items[i];
		struct json_object *gateway = gateway_take_answer(question, vmids.items[i]);
		if (!gateway && question->status == -ECONNREFUSED)
			gateway = without_gateway(volumes, vmids.items[i], "stopped", NULL);
		else if (!gateway)
			gateway = without_gateway(volumes, vmids.items[i], "silent", &question->reason);
		if (vmid == 0 && is_nothing(gateway))
			json_object_put(gateway);
		else
			json_append(list, gateway);
	}
	return status;
}

struct json_object *ask_gateways(
	const struct cli *cli, const char *command, uint64_t vmid, bool *damaged)
{
	struct volumes volumes;
	struct json_object *list = json_object_new_array();
	*damaged = load_volumes(cli, vmid, &volumes) < 0;
	int status = ask_all(cli, command, &volumes, vmid, list);
	volumes_free(&volumes);
	if (status < 0 || json_was_incomplete()) {
		json_object_put(list);
		return NULL;
	}
	return list;
}
