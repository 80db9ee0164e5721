#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "integrity.h"
#include "link.h"
#include "list.h"

enum { REST_MS = 4000 }; /* without a request; then memory is given back */

struct client {
	uv_loop_t *loop;
	struct client_user user;
	struct sockaddr_storage targets[UPSTAIRS_SLOTS];
	const struct tls_identity *identity;
	bool gathers_writes; /* they have been answered when they are sent */
	struct upstairs *core;
	struct history_file *history;
	const char *history_fault; /* to be reported */
	uint64_t last_request;     /* ms */
	bool has_rested;           /* since then */
	struct integrity *integrity; /* for reads */
	struct sealer *sealer;
	struct link *links[UPSTAIRS_SLOTS];
	bool could_not_connect[UPSTAIRS_SLOTS];
	char reported[UPSTAIRS_SLOTS][100]; /* why it could not be connected; each reason once in a row */
	uv_timer_t timer; /* of the core's deadline */
	uint64_t timer_at, told; /* ms; the latter is what the core knows */
	uv_check_t turn;  /* hands requests to the core, answers to the user, frames to the network */
	uv_idle_t busy;   /* keeps the loop from waiting while there is something to hand over */
	struct client_request *completed, **completed_end;
	struct upstairs_request *ready, **ready_end; /* for the core */
	unsigned sealings;                           /* requests that are not ready yet */
	struct list writes;                          /* what holds memory: struct client_request.link */
	bool has_changed, deactivates, is_closing;
	bool has_taken_over; /* the history of an earlier process */
	enum upstairs_slot_state slots[UPSTAIRS_SLOTS]; /* as the user was told last */
	unsigned open_handles; /* and the sealer */
};

static uint64_t now(const struct client *client)
{
	return uv_now(client->loop);
}

static void on_busy(uv_idle_t *idle)
{
	(void)idle;
}

static void wake(struct client *client)
{
	uv_idle_start(&client->busy, on_busy);
}

/* What the core wants */

static void *environment_allocate(void *context, size_t size)
{
	(void)context;
	return malloc(size);
}

static void environment_release(void *context, void *memory)
{
	(void)context;
	free(memory);
}

/* To be called before anything else is told to the core; it may close links. */
static void tell_time(struct client *client)
{
	upstairs_clock(client->core, uv_hrtime() / 1000);
	if (client->told != now(client)) {
		client->told = now(client);
		upstairs_tick(client->core, client->told);
	}
}

static void on_connected(void *context, unsigned slot, const struct crucible_address *peer)
{
	struct client *client = context;
	tell_time(client);
	if (client->links[slot])
		upstairs_connected(client->core, slot, peer);
	wake(client);
}

static void on_received(void *context, unsigned slot, const struct crucible_message *message)
{
	struct client *client = context;
	tell_time(client);
	if (client->links[slot])
		upstairs_received(client->core, slot, message);
	if (client->reported[slot][0] && upstairs_slot_state(client->core, slot) > UPSTAIRS_SLOT_CONNECTING)
		client->reported[slot][0] = '\0';
	wake(client);
}

static void on_link_closed(void *context, unsigned slot, const char *why)
{
	struct client *client = context;
	client->links[slot] = NULL;
	if (strncmp(client->reported[slot], why, sizeof client->reported[slot] - 1) != 0) {
		snprintf(client->reported[slot], sizeof client->reported[slot], "%s", why);
		client->user.report(client->user.context, slot, why);
	}
	tell_time(client);
	upstairs_disconnected(client->core, slot);
	wake(client);
}

static void environment_connect(void *context, unsigned slot)
{
	struct client *client = context;
	const struct link_user user = {
		.context = client,
		.slot = slot,
		.gathers_writes = client->gathers_writes,
		.connected = on_connected,
		.received = on_received,
		.closed = on_link_closed,
	};
	client->links[slot] = link_open(client->loop, (struct sockaddr *)&client->targets[slot], client->identity, &user);
	client->could_not_connect[slot] = !client->links[slot];
	wake(client);
}

static void environment_disconnect(void *context, unsigned slot)
{
	struct client *client = context;
	if (client->links[slot])
		link_close(client->links[slot]);
	client->links[slot] = NULL;
	client->could_not_connect[slot] = false;
}

static void environment_send(void *context, unsigned slot, const struct crucible_message *message)
{
	struct client *client = context;
	/* a link that cannot take a frame is of no use any more; the core hears of it in the next turn */
	if (client->links[slot] && !link_send(client->links[slot], message)) {
		link_close(client->links[slot]);
		client->links[slot] = NULL;
		client->could_not_connect[slot] = true;
	}
	wake(client);
}

static void environment_store(void *context, const struct upstairs_record *record)
{
	struct client *client = context;
	client->user.store_record(client->user.context, record);
}

static uint64_t block_size_of(const struct client *client)
{
	uint64_t size, count;
	upstairs_geometry(client->core, &size, &count);
	return size;
}

static int environment_take_data(void *context, struct upstairs_request *core, uint64_t first,
	const struct crucible_message *response)
{
	struct client *client = context;
	struct client_request *request = container_of(core, struct client_request, core);
	return integrity_take(client->integrity, response, (char *)request->buffer + first * block_size_of(client));
}

static bool environment_is_zeros(void *context, const struct crucible_read_context *block_context, const void *data)
{
	struct client *client = context;
	return integrity_is_zeros(client->integrity, block_context, data);
}

static int environment_check_block(void *context, const struct crucible_read_context *block_context, const void *data)
{
	const struct client *client = context;
	return integrity_check(client->integrity, block_context, data);
}

static void environment_seal_zeros(void *context, void *data, struct crucible_block_context *block_context)
{
	const struct client *client = context;
	integrity_seal(client->integrity, data, 1, data, block_context);
}

static void free_contexts(struct client_request *request)
{
	if (!request->contexts)
		return;
	list_remove(&request->link);
	free(request->contexts);
	request->contexts = NULL;
}

static void environment_complete(void *context, struct upstairs_request *core, int error)
{
	struct client *client = context;
	struct client_request *request = container_of(core, struct client_request, core);
	free_contexts(request);
	request->error = error;
	request->next = NULL;
	*client->completed_end = request;
	client->completed_end = &request->next;
	wake(client);
}

static void environment_report(void *context, unsigned slot, const char *text)
{
	struct client *client = context;
	client->user.report(client->user.context, slot, text);
}

static void environment_changed(void *context)
{
	struct client *client = context;
	client->has_changed = true;
	wake(client);
}

/* Turns */

static void on_timer(uv_timer_t *timer)
{
	struct client *client = timer->data;
	client->timer_at = UINT64_MAX;
	wake(client); /* that a turn follows is all */
}

static void set_timer(struct client *client)
{
	uint64_t deadline = upstairs_deadline(client->core);
	if (deadline == client->timer_at)
		return;
	client->timer_at = deadline;
	if (deadline == UINT64_MAX)
		uv_timer_stop(&client->timer);
	else
		uv_timer_start(&client->timer, on_timer, deadline > now(client) ? deadline - now(client) : 0, 0);
}

static bool have_slots_changed(struct client *client)
{
	bool changed = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		enum upstairs_slot_state state = upstairs_slot_state(client->core, i);
		changed = changed || client->slots[i] != state;
		client->slots[i] = state;
	}
	return changed;
}

static void tell_user(struct client *client)
{
	if (client->history_fault) {
		char text[100];
		snprintf(text, sizeof text, "the history is given up: %s", client->history_fault);
		client->history_fault = NULL;
		client->user.report(client->user.context, UPSTAIRS_SLOTS, text);
	}
	struct client_request *request = client->completed, *next;
	client->completed = NULL;
	client->completed_end = &client->completed;
	for (; request && !client->is_closing; request = next) {
		next = request->next;
		request->done(request, request->error);
	}
	if (client->user.slots_changed && !client->is_closing && have_slots_changed(client))
		client->user.slots_changed(client->user.context);
	if (client->has_changed && !client->is_closing) {
		client->has_changed = false;
		client->user.changed(client->user.context);
	}
}

static void tell_core(struct client *client)
{
	struct upstairs_request *ready = client->ready;
	tell_time(client);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (client->could_not_connect[i]) {
			client->could_not_connect[i] = false;
			upstairs_disconnected(client->core, i);
		}
	}
	client->ready = NULL;
	client->ready_end = &client->ready;
	if (ready)
		upstairs_submit(client->core, ready);
	if (client->deactivates && client->sealings == 0) {
		client->deactivates = false;
		upstairs_deactivate(client->core);
	}
}

/* Pings see to it that there are turns. What is still needed is asked for again at the next one. */
static void rest(struct client *client)
{
	if (client->told - client->last_request < REST_MS || client->has_rested)
		return;
	struct history *history = upstairs_history(client->core);
	history_file_shrink(client->history, history);
	client->has_rested = history_used(history) == 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (client->links[i])
			link_rest(client->links[i]);
	}
}

/* What users are told may make them submit more, and that goes out in the same turn. */
static void on_turn(uv_check_t *check)
{
	struct client *client = check->data;
	if (!uv_is_active((uv_handle_t *)&client->busy))
		return; /* nothing has happened: the loop turns for others, perhaps as fast as it can */
	tell_user(client);
	if (client->is_closing)
		return;
	tell_core(client);
	if (client->completed) /* at once */
		tell_user(client);
	if (client->is_closing)
		return;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (client->links[i])
			link_flush(client->links[i]);
	}
	rest(client);
	set_timer(client);
	bool is_busy = client->completed || client->has_changed || client->ready;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		is_busy = is_busy || client->could_not_connect[i];
	if (!is_busy)
		uv_idle_stop(&client->busy);
}

/* Requests */

static void make_ready(struct client *client, struct client_request *request, int status)
{
	if (status < 0) {
		environment_complete(client, &request->core, status);
		return;
	}
	client->last_request = now(client);
	client->has_rested = false;
	request->core.next = NULL;
	*client->ready_end = &request->core;
	client->ready_end = &request->core.next;
	wake(client);
}

static void on_sealed(void *context, struct sealing *sealing)
{
	struct client *client = context;
	client->sealings--;
	make_ready(client, container_of(sealing, struct client_request, sealing), sealing->status);
}

/* Makes what is sent of a write. Plain bytes go as they lie in the caller's buffer. False: not yet. */
static bool seal(struct client *client, struct client_request *request, int *status)
{
	bool encrypts = integrity_encrypts(client->integrity);
	size_t contexts = request->core.count * sizeof *request->contexts;
	*status = -ENOMEM;
	request->contexts = malloc(contexts + (encrypts ? request->length : 0));
	if (!request->contexts)
		return true;
	list_append(&client->writes, &request->link);
	request->core.contexts = request->contexts;
	request->core.data = encrypts ? (void *)(request->contexts + request->core.count) : request->buffer;
	request->sealing = (struct sealing){
		.data = request->buffer,
		.count = request->core.count,
		.sealed = (void *)(uintptr_t)request->core.data,
		.contexts = request->contexts,
	};
	if (sealer_seal(client->sealer, &request->sealing)) {
		*status = request->sealing.status;
		return true;
	}
	client->sealings++;
	return false;
}

static int find_blocks(const struct client *client, struct client_request *request)
{
	uint64_t block_size = block_size_of(client);
	bool may_be_longer = request->operation == UPSTAIRS_WRITE_ZEROES;
	if (block_size == 0 || request->offset % block_size || request->length % block_size ||
		(request->length > UPSTAIRS_REQUEST_MAX && !may_be_longer))
		return -EINVAL;
	request->core.start = request->offset / block_size;
	request->core.count = request->length / block_size;
	return 0;
}

void client_submit(struct client *client, struct client_request *request)
{
	int status = 0;
	request->contexts = NULL;
	request->core = (struct upstairs_request){
		.operation = request->operation, .flags = request->flags, .data = request->buffer
	};
	if (request->operation != UPSTAIRS_FLUSH)
		status = find_blocks(client, request);
	if (status == 0 && request->operation == UPSTAIRS_WRITE && !seal(client, request, &status))
		return;
	make_ready(client, request, status);
}

/* The interface */

static void release(struct client *client)
{
	struct client_request *request, *following;
	LIST_FOR_EACH_SAFE(request, following, &client->writes, link)
		free_contexts(request);
	upstairs_close(client->core);
	integrity_close(client->integrity);
	free(client);
}

static struct upstairs *open_core(struct client *client, const struct client_options *options)
{
	const struct upstairs_environment environment = {
		.context = client,
		.allocate = environment_allocate,
		.release = environment_release,
		.connect = environment_connect,
		.disconnect = environment_disconnect,
		.send = environment_send,
		.store_record = environment_store,
		.take_data = environment_take_data,
		.check_block = environment_check_block,
		.is_zeros = environment_is_zeros,
		.seal_zeros = environment_seal_zeros,
		.complete = environment_complete,
		.report = environment_report,
		.changed = environment_changed,
	};
	struct upstairs_options core = {
		.block_size = options->block_size,
		.encrypted = options->key,
		.leave_after = options->leave_after,
		.wait_for_named = options->wait_for_named,
		.flush_interval = options->flush_interval,
		.hedge_after = options->hedge_after,
		.scrub_interval = options->scrub_interval,
		.scrub_rate = options->scrub_rate,
		.ack_on_submit = options->ack_on_submit,
		.min_copies = options->min_copies,
		.recovery_budget = options->recovery_budget,
	};
	struct history history;
	const struct history_memory *memory = history_file_memory(options->history);
	int status = history_open(&history, memory, &options->history_key, &client->history_fault);
	bool is_kept = status == 0 && history.block_size == options->block_size;
	client->has_taken_over = is_kept;
	if (status == 0 || status == -ENOENT)
		client->history_fault = NULL;
	if (status == 0 && !is_kept)
		client->history_fault = "it is of blocks of another size";
	if ((!is_kept && history_create(&history, memory, options->block_size, &options->history_key) < 0) ||
		getrandom(&core.upstairs_id, sizeof core.upstairs_id, 0) != sizeof core.upstairs_id ||
		getrandom(&core.session_id, sizeof core.session_id, 0) != sizeof core.session_id)
		return NULL;
	return upstairs_open(&core, &environment, &history, is_kept);
}

struct client *client_open(uv_loop_t *loop, const struct client_options *options, const struct client_user *user)
{
	struct client *client = calloc(1, sizeof *client);
	if (!client)
		return NULL;
	client->loop = loop;
	client->user = *user;
	client->completed_end = &client->completed;
	client->ready_end = &client->ready;
	client->timer_at = UINT64_MAX;
	list_init(&client->writes);
	client->history = options->history;
	client->identity = options->identity;
	client->gathers_writes = options->ack_on_submit;
	memcpy(client->targets, options->targets, sizeof client->targets);
	client->integrity = integrity_open(options->key, options->block_size);
	client->core = client->integrity ? open_core(client, options) : NULL;
	client->sealer = client->core ? sealer_open(loop, options->key, options->block_size, on_sealed, client) : NULL;
	if (!client->sealer) {
		release(client);
		return NULL;
	}
	uv_timer_init(loop, &client->timer);
	uv_check_init(loop, &client->turn);
	uv_idle_init(loop, &client->busy);
	client->open_handles = 4;
	client->timer.data = client->turn.data = client->busy.data = client;
	uv_check_start(&client->turn, on_turn);
	return client;
}

void client_activate(struct client *client, uint64_t generation, const struct upstairs_record *record)
{
	uv_update_time(client->loop);
	client->told = now(client);
	upstairs_activate(client->core, generation, record, client->told);
	wake(client);
}

void client_record_stored(struct client *client, enum upstairs_stored outcome)
{
	tell_time(client);
	upstairs_record_stored(client->core, outcome);
	wake(client);
}

void client_deactivate(struct client *client)
{
	client->deactivates = true;
	wake(client);
}

static void close_one(void *context)
{
	struct client *client = context;
	if (--client->open_handles > 0)
		return;
	struct client_user user = client->user;
	release(client);
	user.closed(user.context);
}

static void on_handle_closed(uv_handle_t *handle)
{
	close_one(handle->data);
}

void client_close(struct client *client)
{
	client->is_closing = true;
	upstairs_close(client->core); /* and with it the links */
	client->core = NULL;
	sealer_close(client->sealer, close_one);
	uv_close((uv_handle_t *)&client->timer, on_handle_closed);
	uv_close((uv_handle_t *)&client->turn, on_handle_closed);
	uv_close((uv_handle_t *)&client->busy, on_handle_closed);
}

int client_replace(struct client *client, unsigned slot, const struct sockaddr_storage *target)
{
	struct sockaddr_storage old = client->targets[slot];
	client->targets[slot] = *target;
	tell_time(client);
	int status = upstairs_replace(client->core, slot);
	if (status < 0)
		client->targets[slot] = old;
	wake(client);
	return status;
}

int client_retry(struct client *client, unsigned slot)
{
	tell_time(client);
	wake(client);
	return upstairs_retry(client->core, slot);
}

int client_scrub(struct client *client, uint64_t rate)
{
	tell_time(client);
	wake(client);
	return upstairs_scrub(client->core, rate);
}

void client_scrub_stop(struct client *client)
{
	upstairs_scrub_stop(client->core);
}

bool client_is_hole(const struct client *client, uint64_t offset, uint64_t length, uint64_t *alike)
{
	uint64_t block_size = block_size_of(client), blocks;
	bool is_hole = upstairs_is_hole(client->core, offset / block_size, length / block_size, &blocks);
	*alike = blocks * block_size;
	return is_hole;
}

bool client_has_taken_over(const struct client *client)
{
	return client->has_taken_over;
}

const struct upstairs *client_core(const struct client *client)
{
	return client->core;
}
