#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "integrity.h"
#include "link.h"
#include "list.h"

struct client {
	uv_loop_t *loop;
	struct client_user user;
	struct sockaddr_storage targets[UPSTAIRS_SLOTS];
	struct upstairs *core;
	struct integrity *integrity;
	struct link *links[UPSTAIRS_SLOTS];
	bool could_not_connect[UPSTAIRS_SLOTS];
	uv_timer_t timer; /* of the core's deadline */
	uv_check_t turn;  /* hands over what was completed, and sets the timer */
	uv_idle_t busy;   /* keeps the loop from waiting while there is something to hand over */
	struct client_request *completed, **completed_end;
	bool has_changed, is_closing;
	unsigned open_handles;
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

static void on_connected(void *context, unsigned slot, const struct crucible_address *peer)
{
	struct client *client = context;
	upstairs_tick(client->core, now(client));
	upstairs_connected(client->core, slot, peer);
	wake(client);
}

static void on_received(void *context, unsigned slot, const struct crucible_message *message)
{
	struct client *client = context;
	upstairs_received(client->core, slot, message);
	wake(client);
}

static void on_link_closed(void *context, unsigned slot, const char *why)
{
	struct client *client = context;
	client->links[slot] = NULL;
	client->user.report(client->user.context, slot, why);
	upstairs_tick(client->core, now(client));
	upstairs_disconnected(client->core, slot);
	wake(client);
}

static void environment_connect(void *context, unsigned slot)
{
	struct client *client = context;
	const struct link_user user = {
		.context = client,
		.slot = slot,
		.connected = on_connected,
		.received = on_received,
		.closed = on_link_closed,
	};
	client->links[slot] = link_open(client->loop, (struct sockaddr *)&client->targets[slot], &user);
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

static int environment_take_data(void *context, struct upstairs_request *core, const struct crucible_message *response)
{
	struct client *client = context;
	struct client_request *request = container_of(core, struct client_request, core);
	return integrity_take(client->integrity, response, request->buffer);
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

static void environment_complete(void *context, struct upstairs_request *core, int error)
{
	struct client *client = context;
	struct client_request *request = container_of(core, struct client_request, core);
	free(request->contexts);
	request->contexts = NULL;
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
	upstairs_tick(client->core, now(client));
	wake(client);
}

static void on_turn(uv_check_t *check)
{
	struct client *client = check->data;
	uv_idle_stop(&client->busy);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (client->could_not_connect[i]) {
			client->could_not_connect[i] = false;
			upstairs_disconnected(client->core, i);
		}
	}
	while (client->completed && !client->is_closing) {
		struct client_request *request = client->completed;
		client->completed = request->next;
		if (!client->completed)
			client->completed_end = &client->completed;
		request->done(request, request->error);
	}
	if (client->has_changed && !client->is_closing) {
		client->has_changed = false;
		client->user.changed(client->user.context);
	}
	if (client->is_closing)
		return;
	uint64_t deadline = upstairs_deadline(client->core);
	if (deadline == UINT64_MAX)
		uv_timer_stop(&client->timer);
	else
		uv_timer_start(&client->timer, on_timer, deadline > now(client) ? deadline - now(client) : 0, 0);
}

/* The interface */

struct client *client_open(uv_loop_t *loop, const struct client_options *options, const struct client_user *user)
{
	const struct upstairs_environment environment = {
		.allocate = environment_allocate,
		.release = environment_release,
		.connect = environment_connect,
		.disconnect = environment_disconnect,
		.send = environment_send,
		.store_record = environment_store,
		.take_data = environment_take_data,
		.check_block = environment_check_block,
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
	};
	struct history history;
	const char *wrong;
	struct client *client = calloc(1, sizeof *client);
	struct integrity *integrity = integrity_open(options->key, options->block_size);
	bool is_kept = history_open(&history, options->history, options->history_size, &options->history_key, &wrong) == 0;
	if (!client || !integrity ||
		(!is_kept &&
			history_create(&history, options->history, options->history_size, options->block_size, &options->history_key) < 0) ||
		getrandom(&core.upstairs_id, sizeof core.upstairs_id, 0) != sizeof core.upstairs_id ||
		getrandom(&core.session_id, sizeof core.session_id, 0) != sizeof core.session_id) {
		integrity_close(integrity);
		free(client);
		return NULL;
	}
	struct upstairs_environment own = environment;
	own.context = client;
	client->core = upstairs_open(&core, &own, &history, is_kept);
	if (!client->core) {
		integrity_close(integrity);
		free(client);
		return NULL;
	}
	client->integrity = integrity;
	client->loop = loop;
	client->user = *user;
	client->completed_end = &client->completed;
	memcpy(client->targets, options->targets, sizeof client->targets);
	uv_timer_init(loop, &client->timer);
	uv_check_init(loop, &client->turn);
	uv_idle_init(loop, &client->busy);
	client->open_handles = 3;
	client->timer.data = client->turn.data = client->busy.data = client;
	uv_check_start(&client->turn, on_turn);
	return client;
}

void client_activate(struct client *client, uint64_t generation, const struct upstairs_record *record)
{
	uv_update_time(client->loop);
	upstairs_activate(client->core, generation, record, now(client));
	wake(client);
}

/* What is sent of a write. Plain bytes go as they lie in the caller's buffer. */
static int seal(struct client *client, struct client_request *request)
{
	bool encrypts = integrity_encrypts(client->integrity);
	size_t count = request->core.count, contexts = count * sizeof *request->contexts;
	if (request->length > UPSTAIRS_REQUEST_MAX)
		return -EINVAL;
	request->contexts = malloc(contexts + (encrypts ? request->length : 0));
	if (!request->contexts)
		return -ENOMEM;
	void *sealed = encrypts ? (void *)(request->contexts + count) : request->buffer;
	request->core.contexts = request->contexts;
	request->core.data = sealed;
	return integrity_seal(client->integrity, request->buffer, count, sealed, request->contexts);
}

void client_submit(struct client *client, struct client_request *request)
{
	uint64_t block_size = block_size_of(client);
	request->contexts = NULL;
	request->core = (struct upstairs_request){ .operation = request->operation, .data = request->buffer };
	if (request->operation != UPSTAIRS_FLUSH) {
		if (block_size == 0 || request->offset % block_size || request->length % block_size) {
			environment_complete(client, &request->core, -EINVAL);
			return;
		}
		request->core.start = request->offset / block_size;
		request->core.count = request->length / block_size;
	}
	if (request->operation == UPSTAIRS_WRITE) {
		int status = seal(client, request);
		if (status < 0) {
			environment_complete(client, &request->core, status);
			return;
		}
	}
	upstairs_submit(client->core, &request->core);
	wake(client);
}

void client_record_stored(struct client *client, enum upstairs_stored outcome)
{
	upstairs_record_stored(client->core, outcome);
	wake(client);
}

void client_deactivate(struct client *client)
{
	upstairs_deactivate(client->core);
	wake(client);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct client *client = handle->data;
	if (--client->open_handles > 0)
		return;
	struct client_user user = client->user;
	integrity_close(client->integrity);
	free(client);
	user.closed(user.context);
}

void client_close(struct client *client)
{
	client->is_closing = true;
	upstairs_close(client->core);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (client->links[i])
			link_close(client->links[i]);
		client->links[i] = NULL;
	}
	client->core = NULL;
	uv_close((uv_handle_t *)&client->timer, on_handle_closed);
	uv_close((uv_handle_t *)&client->turn, on_handle_closed);
	uv_close((uv_handle_t *)&client->busy, on_handle_closed);
}

const struct upstairs *client_core(const struct client *client)
{
	return client->core;
}
