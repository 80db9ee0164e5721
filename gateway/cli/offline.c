#include "cli/offline.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "log.h"

int refuse_if_owned(const struct cli *cli, const char *volume, struct reason *reason)
{
	struct record record;
	int status = record_load(&cli->config, volume, &record, reason);
	if (status == -ENOENT)
		return 0;
	if (status < 0)
		return status;
	if (record.released)
		return 0;
	if (strcmp(record.node, cli->config.node_name) == 0)
		return reason_set(reason, -EBUSY,
			"%s: still claimed by a gateway of this node that did not stop in order: start it again, or "
			"run tb4 claim release %s",
			volume, volume);
	return reason_set(reason, -EBUSY, "%s: owned by node %s: stop the VM there first", volume, record.node);
}

int refuse_if_running(const struct cli *cli, uint64_t vmid, struct reason *reason)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct reason ignored;
	uint64_t pid = 0;
	if (ask_gateway(cli, vmid, new_request("status"), &answer, &ignored) == -ECONNREFUSED)
		return 0;
	json_number(answer, "pid", &pid);
	return reason_set(reason, -EBUSY, "VM %llu: in use by its gateway, pid %llu on this node: stop that first",
		(unsigned long long)vmid, (unsigned long long)pid);
}

int offline_check(const struct cli *cli, const struct volume *volume, struct reason *reason)
{
	struct record record;
	struct reason ignored;
	int status = refuse_if_running(cli, volume->parsed.vmid, reason);
	if (status == 0)
		status = refuse_if_owned(cli, volume->name, reason);
	if (status < 0)
		return status;
	bool has_record = record_load(&cli->config, volume->name, &record, &ignored) == 0;
	return claim_may_take(&cli->config, volume, has_record ? &record : NULL, reason);
}

static void on_step(void *context, enum backend_step step, int error, const struct reason *reason)
{
	(void)step;
	struct offline *offline = context;
	offline->step_is_done = true;
	offline->step_error = error;
	if (error && reason)
		offline->step_reason = *reason;
}

static void on_copies_stored(struct copies_store *store, int error, const struct reason *reason)
{
	struct offline *offline = container_of(store, struct offline, copies);
	(void)reason; /* the backend fails then, or asks again */
	if (offline->backend && !offline->is_closing)
		offline->backend->operations->copies_stored(offline->backend, error);
}

static void on_store_copies(void *context, const struct record_copies *copies)
{
	struct offline *offline = context;
	copies_store_begin(&offline->loop, &offline->copies, copies);
}

static void on_stalled(void *context, bool is_stalled)
{
	struct offline *offline = context;
	if (is_stalled)
		log_warning("%s: waits: too few of its copies are there", offline->volume->name);
}

static void on_fenced(void *context, const struct reason *reason)
{
	on_step(context, BACKEND_ACTIVATED, -EOWNERDEAD, reason);
}

/* Waits for the step that was just begun. */
static int wait_for_step(struct offline *offline, struct reason *reason)
{
	while (!offline->step_is_done && uv_run(&offline->loop, UV_RUN_ONCE))
		;
	offline->step_is_done = false;
	if (offline->step_error)
		*reason = offline->step_reason;
	return offline->step_error;
}

static int claim_and_activate(struct offline *offline, struct reason *reason)
{
	const struct backend_events events = {
		.context = offline,
		.step = on_step,
		.fenced = on_fenced,
		.store_copies = on_store_copies,
		.stalled = on_stalled,
	};
	offline->copies = (struct copies_store){
		.config = &offline->cli->config,
		.volume = offline->volume->name,
		.claim_id = offline->hold.claim.claim_id,
		.done = on_copies_stored,
	};
	int status = refuse_if_owned(offline->cli, offline->volume->name, reason);
	if (status == 0)
		status = backend_for(offline->volume)
					 ->open(&offline->loop, &offline->cli->config, offline->volume, &events,
						 &offline->backend, reason);
	if (status == 0)
		status = wait_for_step(offline, reason);
	if (status == 0)
		status = ownership_hold(offline->ownership, offline->volume, (uint64_t)time(NULL),
			&offline->hold, reason);
	if (status < 0)
		return status;
	offline->is_held = true;
	do {
		const struct backend_activation activation = {
			.generation = offline->hold.generation,
			.claim_id = offline->hold.claim.claim_id,
			.copies = &offline->hold.claim.copies,
		};
		offline->backend->operations->activate(offline->backend, &activation);
		status = wait_for_step(offline, reason);
	} while (status == -ESTALE && !offline->copies.is_busy &&
		ownership_raise(offline->ownership, offline->volume->name, offline->backend->outrun_by, &offline->hold, reason) == 0);
	if (status == -ESTALE)
		status = -EOWNERDEAD;
	offline->is_active = status == 0;
	return status;
}

int offline_open(const struct cli *cli, const struct volume *volume, struct ownership *ownership,
	struct offline *offline, struct reason *reason)
{
	*offline = (struct offline){ .cli = cli, .volume = volume, .ownership = ownership };
	struct reason ignored;
	int status = uv_loop_init(&offline->loop);
	if (status < 0)
		return reason_set(reason, status, "%s", uv_strerror(status));
	offline->owns_ownership = !ownership;
	if (!ownership)
		status = ownership_open(&cli->config, volume->parsed.vmid, &offline->ownership, reason);
	if (status == 0)
		status = claim_and_activate(offline, reason);
	if (status < 0)
		offline_close(offline, &ignored);
	return status;
}

int offline_resize(struct offline *offline, uint64_t size, struct reason *reason)
{
	offline->backend->operations->resize(offline->backend, size);
	return wait_for_step(offline, reason);
}

int offline_close(struct offline *offline, struct reason *reason)
{
	int status = 0, released = 0;
	struct reason ignored;
	if (offline->is_active) {
		offline->backend->operations->deactivate(offline->backend);
		status = wait_for_step(offline, reason);
	}
	if (offline->backend) {
		offline->is_closing = true;
		offline->backend->operations->close(offline->backend);
		wait_for_step(offline, &ignored);
	}
	if (offline->is_held)
		released = ownership_release(offline->ownership, offline->volume->name,
			status ? &ignored : reason);
	if (offline->owns_ownership)
		ownership_close(offline->ownership);
	uv_run(&offline->loop, UV_RUN_DEFAULT); /* closing handles */
	uv_loop_close(&offline->loop);
	return status ? status : released;
}
