/* gateway-volumes.c: the life of each volume that a gateway serves: opened, claimed, activated, served; and, at a stop or when its
 * file is gone, deactivated, released, closed. Volumes start and fail independently; what one of them learns about the VM as a
 * whole goes to gateway.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "gateway-internal.h"
#include "log.h"

enum { LEAVING_CHECK_MS = 20 };

void served_close(struct served_volume *served)
{
	if (!served->backend || served->is_closing || served->change_client)
		return; /* gateway_change_ended() comes back to the last of these */
	served->is_closing = true;
	served->backend->operations->close(served->backend);
}

/* Starting */

static void resolve(struct served_volume *served, int error, const struct reason *reason)
{
	if (served->is_resolved)
		return;
	served->is_resolved = true;
	served->error = error;
	if (error) {
		log_event(LOG_LEVEL_ERROR, EVENT_VOLUME_FAILED, served->volume.name, LOG_NO_SLOT, "%s", reason->text);
		nbd_export_fail(served->export, reason);
		served_close(served);
	} else {
		nbd_export_serve(served->export, served->backend);
		log_event(LOG_LEVEL_INFO, EVENT_VOLUME_SERVING, served->volume.name, LOG_NO_SLOT, "%s: is served",
			served->volume.name);
	}
	gateway_volume_resolved(served->gateway);
}

/* Its volume is another's, which fences the whole VM, or cannot be claimed. */
static void cannot_hold(struct served_volume *served, int error, const struct reason *reason)
{
	if (error == -EOWNERDEAD) {
		gateway_fence(served->gateway, reason);
		gateway_volume_resolved(served->gateway);
	} else {
		resolve(served, error, reason);
	}
}

static void activate(struct served_volume *served)
{
	const struct backend_activation activation = {
		.generation = served->hold.generation,
		.claim_id = served->hold.claim.claim_id,
		.copies = &served->hold.claim.copies,
	};
	log_event(LOG_LEVEL_INFO, EVENT_VOLUME_STARTING, served->volume.name, LOG_NO_SLOT, "%s: starting", served->volume.name);
	served->backend->operations->activate(served->backend, &activation);
}

/* The backend is open, so nobody else on this host has the volume: claims it. */
static void claim_and_activate(struct served_volume *served)
{
	struct gateway *gateway = served->gateway;
	struct reason reason;
	int status = ownership_hold(gateway->ownership, &served->volume, (uint64_t)time(NULL),
		&served->hold, &reason);
	if (status < 0) {
		cannot_hold(served, status, &reason);
		return;
	}
	served->is_held = true;
	log_event(LOG_LEVEL_INFO, EVENT_CLAIM_TAKEN, served->volume.name, LOG_NO_SLOT, "%s: %s, generation %llu",
		served->volume.name,
		served->hold.kind == HOLD_RESUMED ? "claim resumed" : "claimed",
		(unsigned long long)served->hold.generation);
	activate(served);
}

/* The backend has met a generation that is not below ours. */
static void raise_and_activate(struct served_volume *served, const struct reason *met)
{
	struct gateway *gateway = served->gateway;
	struct reason reason = *met;
	int status = served->copies.is_busy /* its answer must not reach the next activation */
		? -EOWNERDEAD
		: ownership_raise(gateway->ownership, served->volume.name, served->backend->outrun_by, &served->hold, &reason);
	if (status < 0) {
		cannot_hold(served, status, &reason);
		return;
	}
	log_event(LOG_LEVEL_WARNING, EVENT_CLAIM_TAKEN, served->volume.name, LOG_NO_SLOT,
		"%s: generation %llu was there before: claimed above it, generation %llu", served->volume.name,
		(unsigned long long)served->backend->outrun_by, (unsigned long long)served->hold.generation);
	activate(served);
}

static void on_backend_gone(struct served_volume *served);
static void on_deactivated(struct served_volume *served, int error, const struct reason *reason);

/* One that was added while others are served starts like those that were there first. */
static bool takes_volumes(const struct gateway *gateway)
{
	return gateway->state == GATEWAY_STARTING || gateway->state == GATEWAY_SERVING;
}

static void on_step(void *context, enum backend_step step, int error, const struct reason *reason)
{
	struct served_volume *served = context;
	switch (step) {
	case BACKEND_OPENED:
		if (error)
			resolve(served, error, reason);
		else if (takes_volumes(served->gateway))
			claim_and_activate(served);
		else
			served_close(served);
		break;
	case BACKEND_ACTIVATED:
		served->is_active = error == 0;
		if (error == -ESTALE && takes_volumes(served->gateway))
			raise_and_activate(served, reason);
		else
			resolve(served, error, reason);
		break;
	case BACKEND_RESIZED:
		gateway_resize_done(served, error, reason);
		break;
	case BACKEND_DEACTIVATED:
		on_deactivated(served, error, reason);
		break;
	case BACKEND_CLOSED:
		on_backend_gone(served);
		break;
	}
}

static void on_backend_fenced(void *context, const struct reason *reason)
{
	gateway_fence(((struct served_volume *)context)->gateway, reason);
}

static void on_backend_stalled(void *context, bool is_stalled)
{
	notify_stalled(context, is_stalled);
}

static void on_copies_stored(struct copies_store *store, int error, const struct reason *reason)
{
	struct served_volume *served = container_of(store, struct served_volume, copies);
	if (error == -EOWNERDEAD)
		gateway_fence(served->gateway, reason);
	else if (error)
		log_error("%s", reason->text);
	if (served->backend && !served->is_closing)
		served->backend->operations->copies_stored(served->backend, error);
}

static void on_store_copies(void *context, const struct record_copies *copies)
{
	struct served_volume *served = context;
	copies_store_begin(&served->gateway->loop, &served->copies, copies);
}

void served_start(struct served_volume *served)
{
	struct reason reason;
	const struct backend_events events = {
		.context = served,
		.step = on_step,
		.fenced = on_backend_fenced,
		.store_copies = on_store_copies,
		.stalled = on_backend_stalled,
	};
	served->copies = (struct copies_store){
		.config = served->gateway->config,
		.volume = served->volume.name,
		.claim_id = served->hold.claim.claim_id,
		.done = on_copies_stored,
	};
	int status = backend_for(&served->volume)->open(&served->gateway->loop, served->gateway->config,
		&served->volume, &events, &served->backend, &reason);
	if (status < 0)
		resolve(served, status, &reason);
}

/* Leaving service */

void gateway_forget_volume(struct served_volume *served)
{
	list_remove(&served->link);
	served->gateway->served_count--;
	if (served->export)
		nbd_export_remove(served->export);
	volume_free(&served->volume);
	free(served);
}

static void on_backend_gone(struct served_volume *served)
{
	served->backend = NULL;
	served->export->backend = NULL;
	if (served->gateway->state == GATEWAY_STOPPING) {
		gateway_close_if_last(served->gateway);
	} else if (served->export->state == EXPORT_LEAVING) {
		log_info("%s: no longer served", served->volume.name);
		gateway_forget_volume(served);
	}
}

static void release(struct served_volume *served)
{
	struct gateway *gateway = served->gateway;
	struct reason reason;
	if (!served->is_held || gateway->was_fenced)
		return;
	if (ownership_release(gateway->ownership, served->volume.name, &reason) < 0) {
		log_error("%s: the claim is kept", reason.text);
		gateway->exit_status = EXIT_IO;
	} else {
		log_event(LOG_LEVEL_INFO, EVENT_CLAIM_RELEASED, served->volume.name, LOG_NO_SLOT, "%s: claim released",
			served->volume.name);
	}
	served->is_held = false;
}

static void on_deactivated(struct served_volume *served, int error, const struct reason *reason)
{
	served->is_active = false;
	if (error) {
		log_error("%s: the claim is kept", reason->text);
		served->gateway->exit_status = EXIT_IO;
	} else {
		release(served);
	}
	served_close(served);
}

void served_retire(struct served_volume *served)
{
	if (served->change_client || served->is_retiring)
		return; /* gateway_change_ended() comes back here, or it is under way */
	served->is_retiring = true;
	if (served->backend && served->is_active && !served->gateway->was_fenced) {
		served->backend->operations->deactivate(served->backend);
		return;
	}
	release(served);
	served_close(served);
}

void gateway_change_ended(struct served_volume *served)
{
	if (served->gateway->is_drained)
		served_retire(served);
	else if (served->export->state == EXPORT_FENCED && served->export->in_flight_count == 0)
		served_close(served);
}

/* Leaving: the file of a volume is gone, and nobody has a use for it here any more */

static void go_on_leaving(struct served_volume *served)
{
	if (uv_now(&served->gateway->loop) >= served->leave_by)
		nbd_export_drop_clients(served->export); /* that do not take their last replies */
	if (!nbd_export_has_left(served->export))
		return;
	bool has_backend = served->backend;
	served_retire(served);
	if (!has_backend) /* it had failed */
		on_backend_gone(served);
}

static void on_leaving(uv_timer_t *timer)
{
	struct gateway *gateway = timer->data;
	struct served_volume *served, *following;
	bool any = false;
	LIST_FOR_EACH_SAFE(served, following, &gateway->served, link)
	{
		if (!served->leave_by || served->is_retiring || !takes_volumes(gateway))
			continue;
		any = true;
		go_on_leaving(served);
	}
	if (!any)
		uv_timer_stop(timer);
}

void gateway_remove_volume(struct served_volume *served)
{
	struct gateway *gateway = served->gateway;
	log_info("%s: its file is gone: it is taken out of service", served->volume.name);
	served->leave_by = uv_now(&gateway->loop) + gateway->config->stop_timeout * 1000;
	uv_timer_start(&gateway->leaving, on_leaving, LEAVING_CHECK_MS, LEAVING_CHECK_MS);
	nbd_export_leave(served->export);
}

/* Coming */

int served_add(struct gateway *gateway, struct volume *volume, struct served_volume **out, struct reason *reason)
{
	struct served_volume *served = calloc(1, sizeof *served);
	if (!served)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	bool is_first_disk = volume->parsed.is_disk && volume->parsed.disk == 0 && !volume->parsed.is_base;
	served->gateway = gateway;
	served->export = nbd_export_add(gateway->server, volume->name, volume->description, is_first_disk,
		volume->read_only, volume->size);
	if (!served->export || !nbd_export_restrict(served->export, volume->tls_names)) {
		if (served->export)
			nbd_export_remove(served->export);
		free(served);
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	}
	served->volume = *volume;
	*volume = (struct volume){ 0 };
	gateway_limit_volume(served);
	list_append(&gateway->served, &served->link);
	gateway->served_count++;
	*out = served;
	return 0;
}

int gateway_add_volume(struct gateway *gateway, struct volume *volume, struct reason *reason)
{
	struct served_volume *served;
	int status = served_add(gateway, volume, &served, reason);
	if (status == 0)
		served_start(served);
	return status;
}
