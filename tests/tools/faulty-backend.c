/* faulty-backend.c: the file backend with faults, for tests.
 *
 * Linked into tests/tools/faulty-gateway in place of backend.c: every volume's backend is the real file
 * backend behind this one. TB4_FAULTS names a file of rules, one per line, which is read again
 * whenever it changes:
 *
 *   OPERATION delay MIN MAX     handed to the file backend only after MIN to MAX ms
 *   OPERATION late MIN MAX      done at once, completed after MIN to MAX ms
 *   OPERATION error ERRNO N     every Nth fails (1: all) and is not done
 *   OPERATION hang              held until the rule is gone
 *
 * and lies, told by one in N requests, which a checker of histories has to find:
 *
 *   write drop N       completed, never done           write early MIN MAX   completed at once, done later
 *   write shift N      done one sector further         write torn N          only the first half is done
 *   write repeat MIN MAX  done, and done again later   write corrupt N       one byte is changed
 *   zero drop N        completed, never done           read stale N          what was there before
 *   read misplace N    from one sector further         read zero N           zeros
 *   read corrupt N     one byte is changed
 *
 * OPERATION is read, write, flush, trim, zero, cache or status. TB4_BLOCK_MIN sets the smallest
 * request that the backend admits to, so that read-modify-write can be tested on any file system.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/backend-list.h"
#include "volume/volume.h"

enum { RULES_MAX = 32, POLL_MS = 10, SHIFT = 512, SHADOW_SIZE = 16 << 20 };

static const char *const operation_names[] = {
	[BACKEND_READ] = "read", [BACKEND_WRITE] = "write", [BACKEND_FLUSH] = "flush",
	[BACKEND_TRIM] = "trim", [BACKEND_ZERO] = "zero", [BACKEND_CACHE] = "cache",
	[BACKEND_STATUS] = "status",
};

struct rule {
	enum backend_operation operation;
	char action[16];
	char error_name[16];
	unsigned low, high; /* ms, or N in low */
	unsigned count;
};

/* Around one request. The caller's request is completed when `inner` is, or as the rule says. */
struct faulty_request {
	struct backend_request inner;
	struct backend_request *outer; /* NULL: completed already */
	struct faulty *faulty;
	uv_timer_t timer;
	struct rule rule;
	int error;
	void *copy; /* of the payload, which may outlive the caller's */
};

struct faulty {
	struct backend base;
	struct backend *file;
	uv_loop_t *loop;
	struct rule rules[RULES_MAX];
	unsigned rule_count;
	struct timespec rules_time;
	off_t rules_size;
	uint64_t random;
	/* the first SHADOW_SIZE bytes as they are, and before the last write to each of them */
	uint8_t *shadow, *stale;
};

static uint64_t random_next(struct faulty *faulty)
{
	faulty->random ^= faulty->random << 13;
	faulty->random ^= faulty->random >> 7;
	faulty->random ^= faulty->random << 17;
	return faulty->random;
}

/* Rules */

static void parse_rule(struct faulty *faulty, const char *line)
{
	char operation[16];
	struct rule rule = { 0 };
	int n = sscanf(line, "%15s %15s", operation, rule.action);
	if (n < 2 || faulty->rule_count == RULES_MAX)
		return;
	if (strcmp(rule.action, "error") == 0)
		sscanf(line, "%*s %*s %15s %u", rule.error_name, &rule.low);
	else
		sscanf(line, "%*s %*s %u %u", &rule.low, &rule.high);
	for (unsigned i = 0; i < sizeof operation_names / sizeof operation_names[0]; i++) {
		if (strcmp(operation, operation_names[i]) == 0) {
			rule.operation = i;
			faulty->rules[faulty->rule_count++] = rule;
		}
	}
}

static void read_rules(struct faulty *faulty)
{
	const char *path = getenv("TB4_FAULTS");
	struct stat st;
	char line[100];
	if (!path || stat(path, &st) < 0) {
		faulty->rule_count = 0;
		faulty->rules_size = -1;
		return;
	}
	if (st.st_mtim.tv_sec == faulty->rules_time.tv_sec &&
		st.st_mtim.tv_nsec == faulty->rules_time.tv_nsec && st.st_size == faulty->rules_size)
		return;
	faulty->rules_time = st.st_mtim;
	faulty->rules_size = st.st_size;
	faulty->rule_count = 0;
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file))
		parse_rule(faulty, line);
	if (file)
		fclose(file);
}

static const struct rule *find_rule(struct faulty *faulty, const struct backend_request *request)
{
	read_rules(faulty);
	for (unsigned i = 0; i < faulty->rule_count; i++) {
		struct rule *rule = &faulty->rules[i];
		if (rule->operation != request->operation)
			continue;
		bool always = rule->high > 0 || strcmp(rule->action, "hang") == 0;
		if (strcmp(rule->action, "error") == 0 ? ++rule->count % rule->low == 0
											   : always || random_next(faulty) % rule->low == 0)
			return rule;
	}
	return NULL;
}

static int error_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} known[] = { { "EIO", EIO }, { "ENOSPC", ENOSPC }, { "ENOMEM", ENOMEM }, { "EPERM", EPERM },
		{ "ESHUTDOWN", ESHUTDOWN }, { "ETIMEDOUT", ETIMEDOUT } };
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (strcmp(known[i].name, name) == 0)
			return -known[i].number;
	}
	return -EIO;
}

/* Requests */

static bool is(const struct faulty_request *request, const char *action)
{
	return strcmp(request->rule.action, action) == 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct faulty_request *request = handle->data;
	free(request->copy);
	free(request);
}

static void complete(struct faulty_request *request, int error)
{
	struct backend_request *outer = request->outer;
	request->outer = NULL;
	if (!outer)
		return;
	outer->extents_count = request->inner.extents_count;
	outer->done(outer, error);
}

static void end(struct faulty_request *request)
{
	uv_close((uv_handle_t *)&request->timer, on_timer_closed);
}

static uint64_t time_within(struct faulty_request *request)
{
	unsigned low = request->rule.low, high = request->rule.high;
	return low + random_next(request->faulty) % (high > low ? high - low + 1 : 1);
}

static void on_late(uv_timer_t *timer)
{
	struct faulty_request *request = timer->data;
	complete(request, request->error);
	end(request);
}

static void on_repeat(uv_timer_t *timer);

/* Changes what a READ gave. */
static void lie_about_read(struct faulty_request *request)
{
	struct backend_request *io = &request->inner;
	if (is(request, "zero"))
		memset(io->buffer, 0, io->length);
	else if (is(request, "corrupt"))
		((uint8_t *)io->buffer)[random_next(request->faulty) % io->length] ^= 1;
	else if (is(request, "stale") && io->offset + io->length <= SHADOW_SIZE)
		memcpy(io->buffer, request->faulty->stale + io->offset, io->length);
}

static void on_inner_done(struct backend_request *inner, int error)
{
	struct faulty_request *request = container_of(inner, struct faulty_request, inner);
	request->error = error;
	if (inner->operation == BACKEND_READ && error == 0)
		lie_about_read(request);
	if (is(request, "late")) {
		uv_timer_start(&request->timer, on_late, time_within(request), 0);
		return;
	}
	bool repeats = is(request, "repeat") && request->outer;
	complete(request, error);
	if (repeats) {
		uv_timer_start(&request->timer, on_repeat, time_within(request), 0);
		return;
	}
	end(request);
}

static void pass_on(struct faulty_request *request)
{
	request->inner.done = on_inner_done;
	request->faulty->file->operations->submit(request->faulty->file, &request->inner);
}

static void on_repeat(uv_timer_t *timer)
{
	pass_on(timer->data);
}

static void on_delay(uv_timer_t *timer)
{
	pass_on(timer->data);
}

static void on_hang(uv_timer_t *timer)
{
	struct faulty_request *request = timer->data;
	const struct rule *rule = find_rule(request->faulty, &request->inner);
	if (rule && strcmp(rule->action, "hang") == 0)
		return;
	uv_timer_stop(timer);
	pass_on(request);
}

/* The caller's buffer may be gone before the write is done. */
static void copy_payload(struct faulty_request *request)
{
	struct backend_request *io = &request->inner;
	if (posix_memalign(&request->copy, BACKEND_BUFFER_ALIGNMENT, io->length) != 0)
		abort();
	memcpy(request->copy, io->buffer, io->length);
	io->buffer = request->copy;
	io->flags &= ~(unsigned)BACKEND_BORROWED;
}

static void keep_shadow(struct faulty *faulty, const struct backend_request *io)
{
	if (io->offset + io->length > SHADOW_SIZE)
		return;
	memcpy(faulty->stale + io->offset, faulty->shadow + io->offset, io->length);
	if (io->operation == BACKEND_WRITE)
		memcpy(faulty->shadow + io->offset, io->buffer, io->length);
	else
		memset(faulty->shadow + io->offset, 0, io->length);
}

/* Any action but error, hang, delay and late. */
static void begin_lie(struct faulty_request *request)
{
	struct backend_request *io = &request->inner;
	if (is(request, "drop") || is(request, "early"))
		complete(request, 0);
	if (is(request, "drop")) {
		end(request);
		return;
	}
	if (is(request, "early")) {
		uv_timer_start(&request->timer, on_delay, time_within(request), 0);
		return;
	}
	if (is(request, "torn") && io->length >= 2 * SHIFT)
		io->length = io->length / 2 / SHIFT * SHIFT;
	if ((is(request, "shift") || is(request, "misplace")) &&
		io->offset + io->length + SHIFT <= request->faulty->base.geometry.size)
		io->offset += SHIFT;
	if (is(request, "corrupt") && io->operation == BACKEND_WRITE)
		((uint8_t *)io->buffer)[random_next(request->faulty) % io->length] ^= 1;
	pass_on(request);
}

static void faulty_submit(struct backend *backend, struct backend_request *outer)
{
	struct faulty *faulty = container_of(backend, struct faulty, base);
	const struct rule *rule = find_rule(faulty, outer);
	if (rule && strcmp(rule->action, "error") == 0) {
		outer->done(outer, error_number(rule->error_name));
		return;
	}
	struct faulty_request *request = calloc(1, sizeof *request);
	if (!request)
		abort();
	request->inner = *outer;
	request->outer = outer;
	request->faulty = faulty;
	request->rule = rule ? *rule : (struct rule){ 0 };
	uv_timer_init(faulty->loop, &request->timer);
	request->timer.data = request;
	if (outer->operation == BACKEND_WRITE || outer->operation == BACKEND_ZERO)
		keep_shadow(faulty, outer);
	if (outer->operation == BACKEND_WRITE)
		copy_payload(request);
	if (!rule || is(request, "late"))
		pass_on(request);
	else if (is(request, "delay"))
		uv_timer_start(&request->timer, on_delay, time_within(request), 0);
	else if (is(request, "hang"))
		uv_timer_start(&request->timer, on_hang, POLL_MS, POLL_MS);
	else
		begin_lie(request);
}

/* Everything else goes straight through. */

static void on_file_step(void *context, enum backend_step step, int error, const struct reason *reason)
{
	struct faulty *faulty = context;
	struct backend_events events = faulty->base.events;
	const char *block_min = getenv("TB4_BLOCK_MIN");
	if (step == BACKEND_OPENED || step == BACKEND_RESIZED) {
		faulty->base.geometry = faulty->file->geometry;
		faulty->base.geometry.borrow_max = 0;
		if (block_min)
			faulty->base.geometry.block_min = (uint32_t)atoi(block_min);
	}
	if (step == BACKEND_CLOSED) {
		free(faulty->shadow);
		free(faulty->stale);
		free(faulty);
	}
	events.step(events.context, step, error, reason);
}

static void on_file_fenced(void *context, const struct reason *reason)
{
	struct faulty *faulty = context;
	faulty->base.events.fenced(faulty->base.events.context, reason);
}

static const struct backend_operations faulty_operations;

static int faulty_open(uv_loop_t *loop, const struct config *config, const struct volume *volume,
	const struct backend_events *events, struct backend **out, struct reason *reason)
{
	struct faulty *faulty = calloc(1, sizeof *faulty);
	const char *seed = getenv("TB4_SEED");
	if (!faulty)
		return -ENOMEM;
	faulty->base.operations = &faulty_operations;
	faulty->base.events = *events;
	faulty->loop = loop;
	faulty->random = (seed ? strtoull(seed, NULL, 10) : 1) * 2 + 1;
	faulty->rules_size = -1;
	faulty->shadow = calloc(1, SHADOW_SIZE);
	faulty->stale = calloc(1, SHADOW_SIZE);
	*out = &faulty->base; /* the file backend may call back before its open() returns */
	const struct backend_events own = {
		.context = faulty,
		.step = on_file_step,
		.fenced = on_file_fenced,
	};
	int status =
		file_backend_operations.open(loop, config, volume, &own, &faulty->file, reason);
	if (status < 0) {
		*out = NULL;
		free(faulty->shadow);
		free(faulty->stale);
		free(faulty);
	}
	return status;
}

static struct backend *file_of(struct backend *backend)
{
	return container_of(backend, struct faulty, base)->file;
}

static void faulty_activate(struct backend *backend, const struct backend_activation *activation)
{
	file_backend_operations.activate(file_of(backend), activation);
}

static void faulty_resize(struct backend *backend, uint64_t size)
{
	file_backend_operations.resize(file_of(backend), size);
}

static void faulty_deactivate(struct backend *backend)
{
	file_backend_operations.deactivate(file_of(backend));
}

static void faulty_close(struct backend *backend)
{
	file_backend_operations.close(file_of(backend));
}

static void faulty_status(struct backend *backend, struct json_object *object)
{
	file_backend_operations.status(file_of(backend), object);
}

static const struct backend_operations faulty_operations = {
	.name = "file",
	.open = faulty_open,
	.activate = faulty_activate,
	.submit = faulty_submit,
	.resize = faulty_resize,
	.deactivate = faulty_deactivate,
	.close = faulty_close,
	.status = faulty_status,
};

const struct backend_operations *backend_for(const struct volume *volume)
{
	(void)volume;
	return &faulty_operations;
}
