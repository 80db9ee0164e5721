/* gateway-reload.c: `tb4 reload` and `tb4 limit`: the gateway reads the volume files of its VM again and does what they say
 * now, without touching what they do not change.
 *
 *  a new file             its volume is claimed and served
 *  a file that is gone    the volume's clients are dropped when they have been answered, and its claim is released
 *  [limits], description, tls_names  hold from now on, for clients that come
 *  certificates and keys of TLS      are read again; clients that are there keep theirs
 *  a volume that failed   is tried again
 *  anything else          is named in the answer: it holds from the next start on
 *
 * Files are read on a thread. One that is damaged changes nothing, and is named in the answer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "gateway-internal.h"
#include "json-fields.h"
#include "log.h"
#include "volume/vm.h"

struct reload {
	uv_work_t work;
	struct gateway *gateway;
	struct control_client *client;
	bool is_dry, only_limits;
	/* what the thread has read */
	struct volumes volumes;
	struct vm vm;
	struct nbd_credentials *credentials; /* NULL: there is no TLS, or they cannot be used */
	struct faults faults;
	int error;
	/* names, for the answer; of `later` with a setting each */
	struct json_object *added, *removed, *changed, *later;
};

/* Limits */

static struct rate_limit rate_of(const struct limits *limits)
{
	return (struct rate_limit){
		.requests = limits->iops,
		.bytes = limits->bytes_per_second,
		.burst = limits->burst * RATE_SECOND,
	};
}

void gateway_limit_volume(struct served_volume *served)
{
	const struct rate_limit rate = rate_of(&served->volume.limits);
	nbd_export_limit(served->export, &rate);
}

static void limit_vm(struct gateway *gateway, const struct limits *limits)
{
	const struct rate_limit rate = rate_of(limits);
	gateway->limits = *limits;
	nbd_server_limit(gateway->server, &rate);
}

int gateway_read_limits(struct gateway *gateway, struct reason *reason)
{
	CLEANUP(vm_free) struct vm vm = { 0 };
	int status = vm_load(gateway->config, gateway->vmid, &vm, reason);
	if (status == 0)
		limit_vm(gateway, &vm.limits);
	return status;
}

/* What has changed */

static bool is_equal(const struct limits *a, const struct limits *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

/* Takes effect at once. */
static bool is_live(const struct setting *setting)
{
	return strcmp(setting->section, "limits") == 0 || strcmp(setting->name, "description") == 0 ||
		strcmp(setting->name, "tls_names") == 0;
}

static void name_later(const struct reload *reload, const struct volume *volume, const struct setting *setting)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "volume", volume->name);
	json_add_text(object, "setting", setting->name);
	json_append(reload->later, object);
}

/* Moves a text to what is served if the export could take it. */
static void apply_text(struct served_volume *served, bool (*apply)(struct nbd_export *export, const char *text), char **to,
	char **from)
{
	if (!apply(served->export, *from))
		return;
	free(*to);
	*to = take_pointer(from);
}

static void change_volume(const struct reload *reload, struct served_volume *served, struct volume *fresh)
{
	bool is_changed = false;
	for (size_t i = 0; i < volume_table_size; i++) {
		const struct setting *setting = &volume_table[i];
		if (setting_is_equal(setting, &served->volume, fresh))
			continue;
		if (is_live(setting))
			is_changed = true;
		else if (!reload->only_limits)
			name_later(reload, fresh, setting);
	}
	if (!is_changed)
		return;
	json_append(reload->changed, json_object_new_string(fresh->name));
	if (reload->is_dry)
		return;
	served->volume.limits = fresh->limits;
	gateway_limit_volume(served);
	if (reload->only_limits)
		return;
	apply_text(served, nbd_export_describe, &served->volume.description, &fresh->description);
	apply_text(served, nbd_export_restrict, &served->volume.tls_names, &fresh->tls_names);
}

static void add_volume(const struct reload *reload, struct volume *fresh)
{
	struct reason reason;
	json_append(reload->added, json_object_new_string(fresh->name));
	if (!reload->is_dry && gateway_add_volume(reload->gateway, fresh, &reason) < 0)
		log_error("%s", reason.text);
}

static bool has_failed(const struct served_volume *served)
{
	return served->export->state == EXPORT_FAILED && !served->backend && !served->change_client;
}

static void compare_volume(const struct reload *reload, struct volume *fresh)
{
	struct served_volume *served = gateway_find_volume(reload->gateway, fresh->name);
	if (served && !(has_failed(served) && !reload->only_limits)) {
		change_volume(reload, served, fresh);
		return;
	}
	if (reload->only_limits)
		return;
	if (served && !reload->is_dry)
		gateway_forget_volume(served);
	add_volume(reload, fresh);
}

static bool is_among(const struct volumes *volumes, const char *name)
{
	for (size_t i = 0; i < volumes->count; i++) {
		if (strcmp(volumes->items[i].name, name) == 0)
			return true;
	}
	return false;
}

/* Its file is there and cannot be read. */
static bool is_damaged(const struct faults *faults, const struct volume *volume)
{
	for (size_t i = 0; i < faults->count; i++) {
		if (strcmp(faults->items[i].path, volume->path) == 0)
			return true;
	}
	return false;
}

/* While it starts, or is being changed, it stays: the next reload finds it again. */
static bool may_leave(const struct served_volume *served)
{
	return served->is_resolved && !served->change_client && !served->is_closing && !served->leave_by;
}

static void remove_absent(const struct reload *reload)
{
	struct served_volume *served, *following;
	LIST_FOR_EACH_SAFE(served, following, &reload->gateway->served, link)
	{
		const struct volume *volume = &served->volume;
		if (is_among(&reload->volumes, volume->name) || is_damaged(&reload->faults, volume) || !may_leave(served))
			continue;
		json_append(reload->removed, json_object_new_string(volume->name));
		if (!reload->is_dry)
			gateway_remove_volume(served);
	}
}

static void compare_vm(const struct reload *reload)
{
	char name[32];
	if (!reload->vm.path || is_equal(&reload->vm.limits, &reload->gateway->limits))
		return;
	snprintf(name, sizeof name, "vm-%llu", (unsigned long long)reload->gateway->vmid);
	json_append(reload->changed, json_object_new_string(name));
	if (!reload->is_dry)
		limit_vm(reload->gateway, &reload->vm.limits);
}

/* A gateway without a TCP socket has no use for them. */
static void change_credentials(struct reload *reload)
{
	if (!reload->credentials)
		return;
	json_append(reload->changed, json_object_new_string("[tls]"));
	if (!reload->is_dry)
		nbd_server_secure(reload->gateway->server, take_pointer(&reload->credentials));
}

/* The answer */

static struct json_object *list_faults(const struct faults *faults)
{
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; i < faults->count; i++) {
		char text[512];
		fault_text(&faults->items[i], text, sizeof text);
		log_error("reload: %s", text);
		json_append(list, json_object_new_string(text));
	}
	return list;
}

static void answer(struct reload *reload)
{
	struct json_object *object = json_object_new_object();
	json_add(object, "added", take_pointer(&reload->added));
	json_add(object, "removed", take_pointer(&reload->removed));
	json_add(object, "changed", take_pointer(&reload->changed));
	json_add(object, "need_restart", take_pointer(&reload->later));
	json_add(object, "faults", list_faults(&reload->faults));
	control_answer(reload->client, object);
}

static void free_reload(struct reload *reload)
{
	json_object_put(reload->added);
	json_object_put(reload->removed);
	json_object_put(reload->changed);
	json_object_put(reload->later);
	volumes_free(&reload->volumes);
	vm_free(&reload->vm);
	nbd_credentials_drop(reload->credentials);
	faults_free(&reload->faults);
	free(reload);
}

static void do_read(uv_work_t *work)
{
	struct reload *reload = container_of(work, struct reload, work);
	const struct gateway *gateway = reload->gateway;
	reload->error = volumes_read(gateway->config, gateway->vmid, &reload->volumes, &reload->faults);
	int status = vm_read(gateway->config, gateway->vmid, &reload->vm, &reload->faults);
	if (status < 0)
		vm_free(&reload->vm); /* its limits stay */
	if (reload->error == -EBADMSG)
		reload->error = 0;
	struct reason reason;
	if (gateway->is_secured && !reload->only_limits &&
		nbd_credentials_open(&gateway->config->tls, &reload->credentials, &reason) < 0)
		faults_add(&reload->faults, "tb4.conf", 0, "%s", reason.text);
}

static void on_read(uv_work_t *work, int status)
{
	struct reload *reload = container_of(work, struct reload, work);
	struct gateway *gateway = reload->gateway;
	struct reason reason;
	int error = status < 0 ? status : reload->error;
	if (gateway->state != GATEWAY_SERVING)
		error = reason_set(&reason, -EBUSY, "VM %llu: its gateway is %s", (unsigned long long)gateway->vmid,
			gateway_state_names[gateway->state]);
	else if (error < 0 && reload->faults.count > 0)
		faults_reason(&reload->faults, &reason);
	else if (error < 0)
		reason_set(&reason, error, "%s: %s", gateway->config->volume_dir, strerror(-error));
	else if (reload->volumes.count == 0 && !reload->only_limits)
		error = reason_set(&reason, -ENOENT,
			"VM %llu: no volume files in %s: nothing is changed: stop the gateway if that is meant",
			(unsigned long long)gateway->vmid, gateway->config->volume_dir);
	gateway->reload = NULL;
	if (error < 0) {
		control_refuse(reload->client, error, &reason);
	} else {
		compare_vm(reload);
		change_credentials(reload);
		if (!reload->only_limits)
			remove_absent(reload);
		for (size_t i = 0; i < reload->volumes.count; i++)
			compare_volume(reload, &reload->volumes.items[i]);
		answer(reload);
	}
	free_reload(reload);
	gateway_reload_ended(gateway);
}

void gateway_begin_reload(struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	struct reason reason;
	struct reload *reload = calloc(1, sizeof *reload);
	int status = reload ? 0 : reason_set(&reason, -ENOMEM, "out of memory");
	if (status == 0 && gateway->reload)
		status = reason_set(&reason, -EBUSY, "VM %llu: is being reloaded already", (unsigned long long)gateway->vmid);
	if (status == 0) {
		reload->gateway = gateway;
		reload->client = client;
		json_switch(request, "dry_run", &reload->is_dry);
		json_switch(request, "only_limits", &reload->only_limits);
		reload->added = json_object_new_array();
		reload->removed = json_object_new_array();
		reload->changed = json_object_new_array();
		reload->later = json_object_new_array();
		if (uv_queue_work(&gateway->loop, &reload->work, do_read, on_read) < 0)
			status = reason_set(&reason, -ENOMEM, "out of memory");
	}
	if (status == 0) {
		gateway->reload = reload;
		return;
	}
	if (reload)
		free_reload(reload);
	control_refuse(client, status, &reason);
}
