#include "core-rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

enum { AREA = 4 << 20, REPAIR_PORT = 7810 };

struct rig_frame {
	struct rig_frame *next;
	size_t size;
	uint8_t bytes[];
};

/* Queues */

static void empty(struct rig_queue *queue)
{
	for (struct rig_frame *frame = queue->first, *next; queue->end && frame; frame = next) {
		next = frame->next;
		free(frame);
	}
	queue->first = NULL;
	queue->end = &queue->first;
}

static struct rig_frame *push(struct rig_queue *queue, size_t size)
{
	struct rig_frame *frame = malloc(sizeof *frame + size);
	assert_non_null(frame);
	frame->next = NULL;
	frame->size = size;
	*queue->end = frame;
	queue->end = &frame->next;
	return frame;
}

static struct rig_frame *pop(struct rig_queue *queue)
{
	struct rig_frame *frame = queue->first;
	queue->first = frame->next;
	if (!queue->first)
		queue->end = &queue->first;
	return frame;
}

/* The downstairs' side */

static void server_sends(void *context, void *peer, const void *head, size_t head_size, const void *data,
	size_t data_size)
{
	struct rig_sled *sled = context;
	if (!sled->is_open || peer != sled)
		return;
	struct rig_frame *frame = push(&sled->down, head_size + data_size);
	memcpy(frame->bytes, head, head_size);
	if (data_size)
		memcpy(frame->bytes + head_size, data, data_size);
}

static void server_closes(void *context, void *peer)
{
	struct rig_sled *sled = context;
	assert_ptr_equal(peer, sled);
	sled->server = NULL;
	empty(&sled->up);
}

static void server_fetches(void *context, const struct crucible_address *source, uint32_t extent_id)
{
	struct rig_sled *sled = context;
	assert_false(sled->is_fetching);
	sled->is_fetching = true;
	sled->source = source->octets[3] - 1u;
	sled->extent = extent_id;
	assert_true(sled->source < UPSTAIRS_SLOTS && sled->source != sled->index);
}

static void server_died(void *context, const char *reason)
{
	(void)context;
	fail_msg("a request kills the downstairs: %s", reason);
}

static const struct downstairs_callbacks callbacks = {
	.send = server_sends,
	.close = server_closes,
	.fetch = server_fetches,
	.died = server_died,
};

static int on_step(void *context, enum disk_step step, uint32_t extent_id)
{
	struct rig_sled *sled = context;
	(void)extent_id;
	if (sled->fail_count == 0 || step != sled->fail_step)
		return 0;
	sled->fail_count--;
	return sled->fail_with;
}

static void new_disk(struct rig_sled *sled)
{
	disk_free(sled->disk);
	sled->disk = disk_new(&sled->region);
	disk_set_hook(sled->disk, on_step, sled);
}

static void fetch(struct rig_sled *sled)
{
	struct rig_sled *source = &sled->rig->sleds[sled->source];
	size_t size = disk_layout(sled->disk)->size;
	uint8_t *image = malloc(size);
	assert_non_null(image);
	sled->is_fetching = false;
	if (source->downstairs && downstairs_copy_extent(source->downstairs, sled->extent, image) &&
		downstairs_repair_ready(source->downstairs, sled->extent))
		downstairs_fetched(sled->downstairs, image, size, NULL);
	else
		downstairs_fetched(sled->downstairs, NULL, 0, "no answer");
	free(image);
}

void core_rig_start_sled(struct core_rig *rig, unsigned index)
{
	struct rig_sled *sled = &rig->sleds[index];
	struct crucible_error error;
	struct downstairs_options options = {
		.read_only = sled->is_read_only,
		.repair_address = { .octets = { 10, 0, 0, (uint8_t)(index + 1) }, .port = (uint16_t)(REPAIR_PORT + index) },
		.wedge_reports = 1,
		.callbacks = &callbacks,
		.context = sled,
	};
	if (!sled->disk)
		new_disk(sled);
	sled->downstairs = downstairs_start(sled->disk, &options, &error);
	assert_non_null(sled->downstairs);
}

void core_rig_stop_sled(struct core_rig *rig, unsigned index)
{
	struct rig_sled *sled = &rig->sleds[index];
	if (!sled->downstairs)
		return;
	downstairs_kill(sled->downstairs);
	sled->downstairs = NULL;
	sled->server = NULL;
	sled->is_fetching = false;
	empty(&sled->up);
	empty(&sled->down);
}

void core_rig_renew_sled(struct core_rig *rig, unsigned index, bool same_uuid)
{
	struct rig_sled *sled = &rig->sleds[index];
	core_rig_stop_sled(rig, index);
	if (!same_uuid)
		sled->region.uuid.bytes[0]++;
	new_disk(sled);
	core_rig_start_sled(rig, index);
}

void core_rig_intrude(struct core_rig *rig, unsigned index, uint64_t generation)
{
	struct rig_sled *sled = &rig->sleds[index];
	struct crucible_message message = { .type = CRUCIBLE_HERE_I_AM };
	struct crucible_session session = { .upstairs_id = { { 99 } }, .session_id = { { 98 } }, .generation = generation };
	struct downstairs_connection *server = downstairs_connected(sled->downstairs, &sled->intruder);
	uint8_t frame[256];
	message.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
	message.here_i_am.session = session;
	message.here_i_am.encrypted = sled->region.encrypted;
	downstairs_received(server, frame, (size_t)crucible_encode(&message, frame, sizeof frame));
	message = (struct crucible_message){ .type = CRUCIBLE_PROMOTE_TO_ACTIVE, .session = session };
	downstairs_received(server, frame, (size_t)crucible_encode(&message, frame, sizeof frame));
}

/* What the core wants */

static void *allocate(void *context, size_t size)
{
	struct core_rig *rig = context;
	if (rig->allocations_until_failure > 0 && --rig->allocations_until_failure == 0)
		return NULL;
	void *memory = malloc(size);
	assert_non_null(memory);
	rig->allocations++;
	return memory;
}

static void release(void *context, void *memory)
{
	struct core_rig *rig = context;
	rig->allocations--;
	free(memory);
}

static void start_connect(void *context, unsigned slot)
{
	struct core_rig *rig = context;
	struct rig_sled *sled = &rig->sleds[slot];
	assert_false(sled->is_connecting || sled->is_open);
	sled->is_connecting = true;
	sled->connects++;
}

static void end_connection(struct rig_sled *sled)
{
	if (sled->server)
		downstairs_closed(sled->server);
	sled->server = NULL;
	sled->is_open = sled->is_connecting = false;
	empty(&sled->up);
	empty(&sled->down);
}

static void disconnect(void *context, unsigned slot)
{
	struct core_rig *rig = context;
	end_connection(&rig->sleds[slot]);
}

static void send_message(void *context, unsigned slot, const struct crucible_message *message)
{
	struct core_rig *rig = context;
	struct rig_sled *sled = &rig->sleds[slot];
	size_t head, size;
	assert_true(sled->is_open);
	assert_int_equal(crucible_measure(message, &head, &size), 0);
	sled->sent[message->type]++;
	sled->holds_up = sled->holds_up || (sled->hangs_at_write && message->type == CRUCIBLE_WRITE);
	struct rig_frame *frame = push(&sled->up, size);
	assert_int_equal(crucible_encode(message, frame->bytes, size), size);
}

static void store_record(void *context, const struct upstairs_record *record)
{
	struct core_rig *rig = context;
	rig->storing = *record;
	rig->is_storing = true;
}

static int take_data(void *context, struct upstairs_request *core, uint64_t first,
	const struct crucible_message *response)
{
	struct core_rig *rig = context;
	return integrity_take(rig->integrity, response, ((struct rig_request *)core)->data + first * CORE_BLOCK);
}

static bool is_zeros(void *context, const struct crucible_read_context *block_context, const void *data)
{
	struct core_rig *rig = context;
	return integrity_is_zeros(rig->integrity, block_context, data);
}

static int check_block(void *context, const struct crucible_read_context *block_context, const void *data)
{
	struct core_rig *rig = context;
	return integrity_check(rig->integrity, block_context, data);
}

static void seal_zeros(void *context, void *data, struct crucible_block_context *block_context)
{
	struct core_rig *rig = context;
	assert_int_equal(integrity_seal(rig->integrity, data, 1, data, block_context), 0);
}

static void complete(void *context, struct upstairs_request *core, int error)
{
	struct rig_request *request = (struct rig_request *)core;
	(void)context;
	assert_false(request->is_done);
	request->is_done = true;
	request->error = error;
}

static void report(void *context, unsigned slot, const char *text)
{
	struct core_rig *rig = context;
	snprintf(rig->reports[slot], sizeof rig->reports[slot], "%s", text);
}

static void changed(void *context)
{
	(void)context;
}

/* Time and events */

static void tell_time(struct core_rig *rig)
{
	if (rig->has_clock)
		upstairs_clock(rig->core, rig->now * 1000);
	upstairs_tick(rig->core, rig->now);
}

static bool connect_sled(struct rig_sled *sled)
{
	struct crucible_address peer = { .octets = { 10, 0, 0, (uint8_t)(sled->index + 1) }, .port = 3810 };
	if (!sled->is_connecting || !sled->rig->core)
		return false;
	sled->is_connecting = false;
	if (!sled->downstairs) {
		upstairs_disconnected(sled->rig->core, sled->index);
		return true;
	}
	sled->is_open = true;
	sled->server = downstairs_connected(sled->downstairs, sled);
	upstairs_connected(sled->rig->core, sled->index, &peer);
	return true;
}

static bool deliver_up(struct rig_sled *sled)
{
	if (sled->holds_up || !sled->server || !sled->up.first)
		return false;
	struct rig_frame *frame = pop(&sled->up);
	downstairs_received(sled->server, frame->bytes, frame->size);
	free(frame);
	return true;
}

static bool deliver_down(struct rig_sled *sled)
{
	struct crucible_message message;
	const char *wrong;
	if (sled->holds_down || !sled->is_open)
		return false;
	if (sled->down.first) {
		struct rig_frame *frame = pop(&sled->down);
		assert_int_equal(crucible_decode(frame->bytes, frame->size, &message, &wrong), 0);
		upstairs_received(sled->rig->core, sled->index, &message);
		free(frame);
		return true;
	}
	if (sled->server)
		return false;
	sled->is_open = false;
	upstairs_disconnected(sled->rig->core, sled->index);
	return true;
}

static bool answer_store(struct core_rig *rig)
{
	if (!rig->is_storing || rig->holds_record)
		return false;
	rig->is_storing = false;
	rig->record = rig->storing;
	upstairs_record_stored(rig->core, UPSTAIRS_STORED);
	return true;
}

bool core_rig_step(struct core_rig *rig)
{
	bool moved = false;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS && rig->core; i++) {
		struct rig_sled *sled = &rig->sleds[i];
		moved = connect_sled(sled) || moved;
		moved = deliver_up(sled) || moved;
		if (sled->is_fetching) {
			fetch(sled);
			moved = true;
		}
		moved = deliver_down(sled) || moved;
	}
	return (rig->core && answer_store(rig)) || moved;
}

void core_rig_run(struct core_rig *rig)
{
	for (unsigned i = 0; i < 1000000; i++) {
		if (!core_rig_step(rig))
			return;
	}
	fail_msg("it never comes to rest");
}

void core_rig_pass(struct core_rig *rig, uint64_t ms)
{
	uint64_t until = rig->now + ms;
	core_rig_run(rig);
	while (rig->now < until) {
		uint64_t deadline = upstairs_deadline(rig->core);
		rig->now = deadline < until ? deadline : until;
		tell_time(rig);
		core_rig_run(rig);
	}
}

void core_rig_tick(struct core_rig *rig, uint64_t ms)
{
	rig->now += ms;
	tell_time(rig);
}

/* Life */

void core_rig_open(struct core_rig *rig, uint64_t extent_size, uint32_t extent_count, const void *key)
{
	*rig = (struct core_rig){
		.now = 1000,
		.options = {
			.block_size = CORE_BLOCK,
			.encrypted = key,
			.leave_after = 3000,
			.wait_for_named = 3000,
			.flush_interval = 2000,
			.hedge_after = 20,
		},
	};
	rig->integrity = integrity_open(key, CORE_BLOCK);
	rig->area = aligned_alloc(8, AREA);
	assert_true(rig->integrity && rig->area);
	memset(rig->area, 0, AREA);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		struct rig_sled *sled = &rig->sleds[i];
		*sled = (struct rig_sled){ .rig = rig, .index = i };
		sled->region = (struct crucible_region){
			.block_size = CORE_BLOCK,
			.block_shift = 9,
			.extent_size = extent_size,
			.extent_count = extent_count,
			.encrypted = key,
			.uuid = { { 0, (uint8_t)(i + 1) } },
			.database_read_version = 1,
			.database_write_version = 1,
		};
		empty(&sled->up);
		empty(&sled->down);
		core_rig_start_sled(rig, i);
	}
}

void core_rig_close(struct core_rig *rig)
{
	core_rig_kill_core(rig);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		core_rig_stop_sled(rig, i);
		disk_free(rig->sleds[i].disk);
	}
	while (rig->requests) {
		struct rig_request *request = rig->requests;
		rig->requests = request->next;
		free(request->data);
		free(request->contexts);
		free(request);
	}
	integrity_close(rig->integrity);
	free(rig->area);
}

void core_rig_start(struct core_rig *rig)
{
	const struct upstairs_environment environment = {
		.context = rig,
		.allocate = allocate,
		.release = release,
		.connect = start_connect,
		.disconnect = disconnect,
		.send = send_message,
		.store_record = store_record,
		.take_data = take_data,
		.check_block = check_block,
		.is_zeros = is_zeros,
		.seal_zeros = seal_zeros,
		.complete = complete,
		.report = report,
		.changed = changed,
	};
	static const struct crucible_uuid key = { { 7 } };
	const char *wrong;
	const struct history_memory memory = { .address = rig->area, .size = AREA, .size_max = AREA };
	bool is_kept = history_open(&rig->history, &memory, &key, &wrong) == 0;
	if (!is_kept)
		assert_int_equal(history_create(&rig->history, &memory, CORE_BLOCK, &key), 0);
	rig->generation++;
	rig->options.upstairs_id.bytes[0] = (uint8_t)rig->generation;
	rig->options.session_id.bytes[0] = (uint8_t)rig->generation;
	rig->core = upstairs_open(&rig->options, &environment, &rig->history, is_kept);
	assert_non_null(rig->core);
	upstairs_activate(rig->core, rig->generation, &rig->record, rig->now);
	tell_time(rig);
}

void core_rig_serve(struct core_rig *rig)
{
	core_rig_start(rig);
	core_rig_pass(rig, 4000);
	assert_int_equal(upstairs_state(rig->core), UPSTAIRS_SERVING);
}

void core_rig_kill_core(struct core_rig *rig)
{
	if (!rig->core)
		return;
	upstairs_close(rig->core);
	rig->core = NULL;
	rig->is_storing = false;
	assert_int_equal(rig->allocations, 0);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		end_connection(&rig->sleds[i]);
}

void core_rig_lose_host(struct core_rig *rig)
{
	core_rig_kill_core(rig);
	memset(rig->area, 0, 4096); /* the header of the history */
}

void core_rig_release(struct core_rig *rig)
{
	upstairs_deactivate(rig->core);
	core_rig_pass(rig, 1000);
	assert_int_equal(upstairs_state(rig->core), UPSTAIRS_RELEASED);
	core_rig_kill_core(rig);
}

/* Requests */

static struct rig_request *new_request(struct core_rig *rig, enum upstairs_operation operation, uint64_t start,
	uint64_t count)
{
	struct rig_request *request = calloc(1, sizeof *request);
	assert_non_null(request);
	request->next = rig->requests;
	rig->requests = request;
	request->core = (struct upstairs_request){ .operation = operation, .start = start, .count = count };
	return request;
}

struct rig_request *core_rig_submit(struct core_rig *rig, enum upstairs_operation operation, uint64_t start,
	uint64_t count, uint8_t fill)
{
	struct rig_request *request = new_request(rig, operation, start, count);
	request->data = malloc(count * CORE_BLOCK + 1);
	assert_non_null(request->data);
	memset(request->data, fill, count * CORE_BLOCK + 1);
	if (operation == UPSTAIRS_WRITE) {
		request->contexts = malloc(count * sizeof *request->contexts);
		assert_non_null(request->contexts);
		assert_int_equal(
			integrity_seal(rig->integrity, request->data, count, request->data, request->contexts), 0);
	}
	request->core.data = request->data;
	request->core.contexts = request->contexts;
	upstairs_submit(rig->core, &request->core);
	return request;
}

struct rig_request *core_rig_zero(struct core_rig *rig, uint64_t start, uint64_t count, unsigned flags)
{
	struct rig_request *request = new_request(rig, UPSTAIRS_WRITE_ZEROES, start, count);
	request->core.flags = flags;
	upstairs_submit(rig->core, &request->core);
	return request;
}

static void expect_done(struct core_rig *rig, const struct rig_request *request)
{
	core_rig_run(rig);
	assert_true(request->is_done);
	assert_int_equal(request->error, 0);
}

void core_rig_write(struct core_rig *rig, uint64_t start, uint64_t count, uint8_t fill)
{
	expect_done(rig, core_rig_submit(rig, UPSTAIRS_WRITE, start, count, fill));
}

void core_rig_flush(struct core_rig *rig)
{
	expect_done(rig, core_rig_submit(rig, UPSTAIRS_FLUSH, 0, 0, 0));
}

void core_rig_expect(struct core_rig *rig, uint64_t start, uint64_t count, uint8_t fill)
{
	const struct rig_request *request = core_rig_submit(rig, UPSTAIRS_READ, start, count, (uint8_t)~fill);
	expect_done(rig, request);
	for (uint64_t i = 0; i < count * CORE_BLOCK; i++)
		assert_int_equal(request->data[i], fill);
}

/* Looking */

enum slot_phase core_rig_phase(const struct core_rig *rig, unsigned index)
{
	return rig->core->slots[index].phase;
}

uint64_t core_rig_sent(const struct core_rig *rig, enum crucible_message_type type)
{
	uint64_t count = 0;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		count += rig->sleds[i].sent[type];
	return count;
}

/* The block and the context that fits it, or any that is set; NULL: never written. */
static const uint8_t *block_of(const struct rig_sled *sled, uint64_t block, struct stored_context *context)
{
	const struct image_layout *layout = disk_layout(sled->disk);
	const uint8_t *image = disk_image(sled->disk, (uint32_t)(block / layout->blocks));
	block %= layout->blocks;
	*context = (struct stored_context){ .is_set = false };
	if (!image)
		return NULL;
	const uint8_t *data = image + image_data_at(layout, block);
	for (unsigned i = 0; i < IMAGE_SLOTS; i++) {
		struct stored_context stored;
		image_get_slot(image + image_slot_at(layout, block, i), &stored);
		bool fits = stored.is_set && stored.data_hash == image_data_hash(data, CORE_BLOCK);
		if (stored.is_set && (fits || !context->is_set))
			*context = stored;
	}
	return context->is_set ? data : NULL;
}

bool core_rig_is_written(const struct core_rig *rig, unsigned index, uint64_t block)
{
	struct stored_context context;
	return block_of(&rig->sleds[index], block, &context);
}

bool core_rig_are_equal(const struct core_rig *rig, uint64_t block)
{
	struct stored_context first_context, context;
	const uint8_t *first = block_of(&rig->sleds[0], block, &first_context);
	for (unsigned i = 1; i < UPSTAIRS_SLOTS; i++) {
		const uint8_t *data = block_of(&rig->sleds[i], block, &context);
		if (!data != !first)
			return false;
		if (data && (memcmp(data, first, CORE_BLOCK) != 0 || context.context.hash != first_context.context.hash))
			return false;
	}
	return true;
}

bool core_rig_is_hole(const struct core_rig *rig, uint64_t block)
{
	uint64_t alike;
	return upstairs_is_hole(rig->core, block, 1, &alike);
}

void core_rig_replace_block(struct core_rig *rig, unsigned index, uint64_t block, uint8_t fill)
{
	uint8_t data[CORE_BLOCK];
	struct stored_context stored = { .is_set = true };
	memset(data, fill, sizeof data);
	assert_int_equal(integrity_seal(rig->integrity, data, 1, data, &stored.context), 0);
	stored.data_hash = image_data_hash(data, CORE_BLOCK);
	for (unsigned slot = 0; slot < IMAGE_SLOTS; slot++)
		disk_put_slot(rig->sleds[index].disk, 0, block, slot, &stored);
	disk_put_data(rig->sleds[index].disk, 0, block, data);
}
