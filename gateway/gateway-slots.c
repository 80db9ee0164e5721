/* gateway-slots.c: what the control socket can ask about the copies of a Crucible volume: `tb4 volume replace`, `tb4
 * volume retry` and `tb4 volume scrub`.
 *
 * A replacement is written to the volume file before the backend hears of it, and put back if that refuses. If the process
 * dies between the two, the next start meets an empty region where the record knows another one: that slot is refused, the
 * others serve, and the same command again completes it.
 */
#include <errno.h>
#include <netdb.h>
#include <string.h>

#include "cleanup.h"
#include "gateway-internal.h"
#include "json-fields.h"
#include "log.h"
#include "volume/target.h"

/* The slot that a request names; false, and the client has been told, if it is none. */
static bool take_slot(struct served_volume *served, struct control_client *client, struct json_object *request)
{
	struct reason reason;
	uint64_t slot;
	int status = 0;
	if (!served->backend->operations->replace)
		status = reason_set(&reason, -EINVAL, "%s: has no slots: its backend is %s", served->volume.name,
			served->backend->operations->name);
	else if (!json_number(request, "slot", &slot) || slot >= VOLUME_TARGETS)
		status = reason_set(&reason, -EINVAL, "%s: a slot is a number from 0 to %d", served->volume.name,
			VOLUME_TARGETS - 1);
	if (status < 0) {
		control_refuse(client, status, &reason);
		return false;
	}
	served->slot = (unsigned)slot;
	return true;
}

static void answer_slot(struct served_volume *served, struct control_client *client)
{
	struct json_object *answer = json_object_new_object();
	json_add_number(answer, "slot", served->slot);
	json_add_text(answer, "target", served->volume.targets[served->slot]);
	control_answer(client, answer);
}

static int look_up_target(struct served_volume *served, struct reason *reason)
{
	char host[TARGET_HOST_MAX], service[8];
	uint16_t port;
	if (target_parse(served->target, host, &port) < 0)
		return reason_set(reason, -EINVAL, "%s: not HOST:PORT", served->target);
	snprintf(service, sizeof service, "%u", port);
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct addrinfo *addresses;
	int failure = getaddrinfo(host, service, &hints, &addresses);
	if (failure)
		return reason_set(reason, -EHOSTUNREACH, "%s: %s", served->target, gai_strerror(failure));
	memcpy(&served->target_address, addresses->ai_addr, addresses->ai_addrlen);
	freeaddrinfo(addresses);
	return 0;
}

/* Into the volume file. */
static int store_target(const struct served_volume *served, const char *target, struct reason *reason)
{
	const struct config *config = served->gateway->config;
	CLEANUP(volume_free) struct volume present = { 0 };
	CLEANUP_CLOSE int lock = volumes_lock(config, reason);
	int status = lock < 0 ? lock : volume_load(config, served->volume.name, &present, reason);
	if (status < 0)
		return status;
	free(present.targets[served->slot]);
	present.targets[served->slot] = strdup(target);
	if (!present.targets[served->slot])
		return reason_set(reason, -ENOMEM, "%s: out of memory", present.name);
	return volume_write(config, &present, reason);
}

/* On a thread, as names are looked up and it waits for the lock on volumes. */
static void do_store(uv_work_t *work)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	served->change_error = look_up_target(served, &served->change_reason);
	if (served->change_error == 0)
		served->change_error = store_target(served, served->target, &served->change_reason);
}

static void refuse_change(struct served_volume *served)
{
	struct control_client *client = served->change_client;
	served->change_client = NULL;
	control_refuse(client, served->change_error, &served->change_reason);
	gateway_change_ended(served);
}

/* The backend has refused: the old target into the volume file again. */
static void do_restore(uv_work_t *work)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	const char *old = served->volume.targets[served->slot];
	struct reason reason;
	if (store_target(served, old, &reason) < 0)
		log_error("%s: its file names %s for slot %u, which is still %s: %s", served->volume.name, served->target,
			served->slot, old, reason.text);
}

static void on_restored(uv_work_t *work, int status)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	(void)status;
	free(take_pointer(&served->target));
	refuse_change(served);
}

static void on_stored(uv_work_t *work, int status)
{
	struct served_volume *served = container_of(work, struct served_volume, change_work);
	bool is_stored = status == 0 && served->change_error == 0;
	if (is_stored)
		served->change_error = served->backend->operations->replace(served->backend, served->slot,
			&served->target_address, &served->change_reason);
	if (is_stored && served->change_error < 0 &&
		uv_queue_work(&served->gateway->loop, &served->change_work, do_restore, on_restored) == 0)
		return;
	CLEANUP_FREE char *target = take_pointer(&served->target);
	if (served->change_error < 0) {
		refuse_change(served);
		return;
	}
	struct control_client *client = served->change_client;
	served->change_client = NULL;
	log_info("%s: slot %u is replaced: %s takes the place of %s", served->volume.name, served->slot, target,
		served->volume.targets[served->slot]);
	free(served->volume.targets[served->slot]);
	served->volume.targets[served->slot] = take_pointer(&target);
	answer_slot(served, client);
	gateway_change_ended(served);
}

void gateway_replace_slot(struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	struct served_volume *served = gateway_find_changeable(gateway, client, request);
	if (!served || !take_slot(served, client, request))
		return;
	char host[TARGET_HOST_MAX];
	uint16_t port;
	struct reason reason;
	const char *target = json_text_or_null(request, "target");
	int status = 0;
	if (!target || target_parse(target, host, &port) < 0)
		status = reason_set(&reason, -EINVAL, "replace needs a target, HOST:PORT");
	for (unsigned i = 0; status == 0 && i < VOLUME_TARGETS; i++) {
		if (i != served->slot && strcmp(target, served->volume.targets[i]) == 0)
			status = reason_set(&reason, -EINVAL, "%s: %s is slot %u already", served->volume.name, target, i);
	}
	if (status == 0) /* before anything is changed: may it be replaced? */
		status = served->backend->operations->replace(served->backend, served->slot, NULL, &reason);
	if (status < 0) {
		control_refuse(client, status, &reason);
		return;
	}
	served->change_client = client;
	served->change_error = -ENOMEM;
	served->change_reason = (struct reason){ "out of memory" };
	served->target = strdup(target); /* before the thread may look at it */
	if (!served->target || uv_queue_work(&gateway->loop, &served->change_work, do_store, on_stored) < 0)
		on_stored(&served->change_work, 0);
}

void gateway_retry_slot(struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	struct served_volume *served = gateway_find_changeable(gateway, client, request);
	struct reason reason;
	if (!served || !take_slot(served, client, request))
		return;
	int status = served->backend->operations->retry(served->backend, served->slot, &reason);
	if (status < 0)
		control_refuse(client, status, &reason);
	else
		answer_slot(served, client);
}

void gateway_scrub(struct gateway *gateway, struct control_client *client, struct json_object *request)
{
	struct served_volume *served = gateway_find_changeable(gateway, client, request);
	struct reason reason;
	uint64_t rate = 0;
	bool stop = false;
	if (!served)
		return;
	json_number(request, "rate", &rate);
	json_switch(request, "stop", &stop);
	int status = served->backend->operations->scrub
		? served->backend->operations->scrub(served->backend, stop, rate, &reason)
		: reason_set(&reason, -EINVAL, "%s: has no copies to compare: its backend is %s", served->volume.name,
			  served->backend->operations->name);
	if (status < 0)
		control_refuse(client, status, &reason);
	else
		control_answer(client, json_object_new_object());
}
