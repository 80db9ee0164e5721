/* crucible.c: the Crucible backend: a volume on three downstairs, through libupstairs (upstairs-client/client.h).
 *
 * Here: addresses, the history's file, the claim's record on its way to the gateway and back, and requests cut into
 * pieces that the library takes. What counts as written, and when, is the library's part (design section 6).
 *
 * Invariants
 *  1. A request is completed when all its pieces are, with the error of the first that failed.
 *  2. Nothing is submitted before the volume served for the first time: until then its size is not certain.
 *  3. While copies are missing requests wait; they fail only once the volume is fenced or refused.
 *  4. The history lies in RUN_DIR/VMID/history-NAME from open to an orderly release, also over kill -9; its key is
 *     the claim's id, so that no other claim takes it over.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "backend/backend-list.h"
#include "backend/crucible-journal.h"
#include "backend/crucible-status.h"
#include "checked.h"
#include "cleanup.h"
#include "durable-file.h"
#include "client.h"
#include "integrity.h"
#include "log.h"
#include "volume/record.h"
#include "volume/target.h"
#include "volume/volume.h"

enum {
	SLOTS = RECORD_SLOTS,
	HISTORY_SIZE = 64 << 20,
	LEAVE_AFTER_MS = 3000,
	WAIT_FOR_NAMED_MS = 3000,
	FLUSH_INTERVAL_MS = 2000,
	HEDGE_AFTER_MS = 20,
	RECOVERY_BUDGET_MS = 30000,
	DAY_MS = 86400000,
	SPARE_PIECES_MAX = 256,
};
_Static_assert((int)SLOTS == UPSTAIRS_SLOTS && (int)SLOTS == VOLUME_TARGETS, "slots of record, library and volume");

struct crucible_backend {
	struct backend base;
	uv_loop_t *loop;
	const struct config *config;
	const struct volume *volume;
	struct sockaddr_storage targets[SLOTS];
	uv_getaddrinfo_t lookup;
	unsigned looked_up; /* targets whose addresses are known */
	char *history_path;
	struct history_file *history;
	uint8_t key[INTEGRITY_KEY_SIZE];
	struct tls_identity *identity; /* NULL: no TLS */
	struct client *client; /* from activation on */
	bool has_served, is_fenced, is_deactivating, is_closing, is_released;
	bool is_outrun; /* the client is being closed, as it met a generation that is not below ours */
	struct reason outrun_reason;
	struct upstairs_record record;
	struct crucible_journal journal;
	struct piece *spare;
	unsigned spare_count;
};

/* A part of a request that the library takes at once. */
struct piece {
	struct client_request request;
	struct backend_request *whole;
	struct piece *next; /* spare */
};

/* The backend's part of a request, in its scratch. */
struct work {
	struct crucible_backend *crucible;
	uint64_t pieces; /* not done yet, and one while more are made */
	int error;
};
_Static_assert(sizeof(struct work) <= sizeof((struct backend_request *)0)->scratch, "scratch");

static struct crucible_backend *crucible_of(struct backend *backend)
{
	return container_of(backend, struct crucible_backend, base);
}

static void finish_step(struct crucible_backend *crucible, enum backend_step step, int error,
	const struct reason *reason)
{
	crucible->base.events.step(crucible->base.events.context, step, error, reason);
}

/* Requests */

static struct work *work_of(struct backend_request *request)
{
	return (struct work *)request->scratch;
}

static struct piece *new_piece(struct crucible_backend *crucible)
{
	struct piece *piece = crucible->spare;
	if (!piece)
		return malloc(sizeof *piece);
	crucible->spare = piece->next;
	crucible->spare_count--;
	return piece;
}

static void free_piece(struct crucible_backend *crucible, struct piece *piece)
{
	if (crucible->spare_count == SPARE_PIECES_MAX) {
		free(piece);
		return;
	}
	piece->next = crucible->spare;
	crucible->spare = piece;
	crucible->spare_count++;
}

/* Splits the request's range into holes and the rest, as far as there is room. Returns how far it came. */
static uint64_t find_extents(const struct crucible_backend *crucible, struct backend_request *request)
{
	uint64_t at = 0;
	request->extents_count = 0;
	while (at < request->length && request->extents_count < request->extents_max) {
		uint64_t length;
		bool hole = client_is_hole(crucible->client, request->offset + at, request->length - at, &length);
		request->extents[request->extents_count++] =
			(struct backend_extent){ .length = length, .hole = hole, .zero = hole };
		at += length;
	}
	return at;
}

/* A read has been done, and what is a hole now was read as zeros. */
static void tell_holes(const struct crucible_backend *crucible, struct backend_request *request)
{
	uint64_t end = find_extents(crucible, request);
	bool has_holes = request->extents_count > 1 || (request->extents_count == 1 && request->extents[0].hole);
	if (!has_holes)
		request->extents_count = 0;
	else if (end < request->length) /* no room for more: the rest counts as data */
		request->extents[request->extents_count - 1] = (struct backend_extent){
			.length = request->length - end + request->extents[request->extents_count - 1].length,
		};
}

static void end_piece(struct backend_request *whole, int error)
{
	struct work *work = work_of(whole);
	if (error && !work->error)
		work->error = error;
	if (--work->pieces > 0)
		return;
	if (whole->operation == BACKEND_READ && (whole->flags & BACKEND_HOLES_WELCOME) && !work->error)
		tell_holes(work->crucible, whole);
	whole->done(whole, work->error);
}

static void on_piece_done(struct client_request *request, int error)
{
	struct piece *piece = container_of(request, struct piece, request);
	struct backend_request *whole = piece->whole;
	whole->answered_by = request->core.answered_by;
	free_piece(work_of(whole)->crucible, piece);
	end_piece(whole, error);
}

static unsigned flags_of(const struct backend_request *request)
{
	if (request->operation != BACKEND_ZERO)
		return 0;
	return (request->flags & BACKEND_NO_HOLE ? UPSTAIRS_NO_HOLE : 0) |
		(request->flags & BACKEND_FAST_ZERO ? UPSTAIRS_FAST_ZERO : 0);
}

static void submit_piece(struct crucible_backend *crucible, struct backend_request *whole,
	enum upstairs_operation operation, uint64_t at, uint64_t length)
{
	struct piece *piece = new_piece(crucible);
	work_of(whole)->pieces++;
	if (!piece) {
		end_piece(whole, -ENOMEM);
		return;
	}
	piece->whole = whole;
	piece->request = (struct client_request){
		.operation = operation,
		.flags = flags_of(whole),
		.offset = whole->offset + at,
		.length = length,
		.buffer = (uint8_t *)whole->buffer + at,
		.done = on_piece_done,
	};
	client_submit(crucible->client, &piece->request);
}

static void submit_pieces(struct crucible_backend *crucible, struct backend_request *whole,
	enum upstairs_operation operation)
{
	for (uint64_t at = 0; at < whole->length;) {
		uint64_t length = whole->length - at;
		if (length > UPSTAIRS_REQUEST_MAX)
			length = UPSTAIRS_REQUEST_MAX;
		submit_piece(crucible, whole, operation, at, length);
		at += length;
	}
}

static void crucible_submit(struct backend *backend, struct backend_request *request)
{
	struct crucible_backend *crucible = crucible_of(backend);
	struct work *work = work_of(request);
	*work = (struct work){ .crucible = crucible, .pieces = 1 };
	if (crucible->is_fenced)
		work->error = -EIO;
	else if (request->operation == BACKEND_READ)
		submit_pieces(crucible, request, UPSTAIRS_READ);
	else if (request->operation == BACKEND_WRITE)
		submit_pieces(crucible, request, UPSTAIRS_WRITE);
	else if (request->operation == BACKEND_ZERO)
		submit_piece(crucible, request, UPSTAIRS_WRITE_ZEROES, 0, request->length);
	else if (request->operation == BACKEND_FLUSH)
		submit_piece(crucible, request, UPSTAIRS_FLUSH, 0, 0);
	else if (request->operation == BACKEND_STATUS)
		find_extents(crucible, request);
	else
		work->error = -EOPNOTSUPP; /* none that the geometry offers */
	end_piece(request, 0);
}

/* The record */

static void parse_region(const char *text, struct crucible_uuid *id)
{
	uuid_t parsed;
	if (text[0] && uuid_parse(text, parsed) == 0)
		memcpy(id->bytes, parsed, sizeof id->bytes);
}

static struct upstairs_record record_from(const struct record_copies *copies)
{
	struct upstairs_record record = {
		.exists = copies->exists,
		.released = copies->clean,
		.stamped = copies->stamped,
	};
	for (unsigned i = 0; i < SLOTS; i++) {
		record.in_sync[i] = copies->slots[i].in_sync;
		record.full_copy[i] = copies->slots[i].needs_full_copy;
		parse_region(copies->slots[i].region, &record.regions[i]);
	}
	return record;
}

static struct record_copies copies_from(const struct upstairs_record *record)
{
	static const struct crucible_uuid unknown;
	struct record_copies copies = {
		.exists = true,
		.clean = record->released,
		.stamped = record->stamped,
	};
	for (unsigned i = 0; i < SLOTS; i++) {
		copies.slots[i].in_sync = record->in_sync[i];
		copies.slots[i].needs_full_copy = record->full_copy[i];
		if (memcmp(&record->regions[i], &unknown, sizeof unknown) != 0)
			uuid_unparse_lower(record->regions[i].bytes, copies.slots[i].region);
	}
	return copies;
}

static void on_store_record(void *context, const struct upstairs_record *record)
{
	struct crucible_backend *crucible = context;
	const struct record_copies copies = copies_from(record);
	crucible->base.events.store_copies(crucible->base.events.context, &copies);
}

static void crucible_copies_stored(struct backend *backend, int error)
{
	struct crucible_backend *crucible = crucible_of(backend);
	if (crucible->client && !crucible->is_closing && !crucible->is_outrun)
		client_record_stored(crucible->client,
			error == 0 ? UPSTAIRS_STORED : error == -EOWNERDEAD ? UPSTAIRS_SUPERSEDED : UPSTAIRS_UNKNOWN);
}

/* What the library tells */

static void on_report(void *context, unsigned slot, const char *text)
{
	struct crucible_backend *crucible = context;
	if (slot >= SLOTS)
		log_warning("%s: %s", crucible->volume->name, text);
	else
		log_warning("%s: slot %u, %s: %s", crucible->volume->name, slot, crucible->volume->targets[slot], text);
}

/* The regions must hold what the volume file promises. */
static int check_geometry(const struct crucible_backend *crucible, struct reason *reason)
{
	uint64_t block_size, blocks, size;
	upstairs_geometry(client_core(crucible->client), &block_size, &blocks);
	if (block_size != crucible->volume->block_size)
		return reason_set(reason, -EBADMSG, "%s: its regions have blocks of %llu bytes, not %llu as in %s",
			crucible->volume->name, (unsigned long long)block_size,
			(unsigned long long)crucible->volume->block_size, crucible->volume->path);
	if (__builtin_mul_overflow(block_size, blocks, &size) || size < crucible->volume->size)
		return reason_set(reason, -EBADMSG,
			"%s: its regions have %llu blocks of %llu bytes, fewer than the %llu bytes of the volume: correct size in %s",
			crucible->volume->name, (unsigned long long)blocks, (unsigned long long)block_size,
			(unsigned long long)crucible->volume->size, crucible->volume->path);
	return 0;
}

static void on_serving(struct crucible_backend *crucible)
{
	struct reason reason;
	if (crucible->has_served)
		return;
	int status = check_geometry(crucible, &reason);
	crucible->has_served = true;
	finish_step(crucible, BACKEND_ACTIVATED, status, &reason);
}

/* Another one had a generation that is not below ours, and nothing was served yet: whoever claimed decides whether to try
 * again above it. */
static bool has_met_newer(struct crucible_backend *crucible)
{
	struct upstairs_status status;
	if (crucible->has_served || crucible->is_deactivating)
		return false;
	upstairs_status(client_core(crucible->client), &status);
	crucible->base.outrun_by = status.outrun_by;
	return status.outrun_by != 0;
}

static void begin_again(struct crucible_backend *crucible)
{
	crucible->is_outrun = true;
	reason_set(&crucible->outrun_reason, -ESTALE, "%s: fenced: %s", crucible->volume->name,
		upstairs_reason(client_core(crucible->client)));
	client_close(crucible->client); /* end_close() comes */
}

/* Neither comes back: the start that goes on from here is another process's. */
static void on_lost(struct crucible_backend *crucible, bool is_fenced)
{
	struct reason reason;
	if (crucible->is_fenced || crucible->is_outrun)
		return;
	if (is_fenced && has_met_newer(crucible)) {
		begin_again(crucible);
		return;
	}
	crucible->is_fenced = true;
	reason_set(&reason, is_fenced ? -EOWNERDEAD : -EIO, "%s: %s%s", crucible->volume->name,
		is_fenced ? "fenced: " : "", upstairs_reason(client_core(crucible->client)));
	if (is_fenced)
		crucible->base.events.fenced(crucible->base.events.context, &reason);
	else
		log_error("%s", reason.text);
	if (crucible->is_deactivating)
		finish_step(crucible, BACKEND_DEACTIVATED, -EIO, &reason);
	else if (!crucible->has_served)
		finish_step(crucible, BACKEND_ACTIVATED, is_fenced ? -EOWNERDEAD : -EIO, &reason);
	crucible->has_served = true;
}

/* At the end of it all they are disconnected on purpose. */
static void on_slots_changed(void *context)
{
	struct crucible_backend *crucible = context;
	enum upstairs_state state = upstairs_state(client_core(crucible->client));
	if (state == UPSTAIRS_ACTIVATING || state == UPSTAIRS_SERVING || state == UPSTAIRS_PAUSED)
		crucible_journal_note(&crucible->journal, crucible->volume, client_core(crucible->client));
}

static void on_changed(void *context)
{
	struct crucible_backend *crucible = context;
	switch (upstairs_state(client_core(crucible->client))) {
	case UPSTAIRS_SERVING:
		on_slots_changed(crucible); /* one that it does without may have stayed as it was */
		crucible->base.events.stalled(crucible->base.events.context, false);
		on_serving(crucible);
		break;
	case UPSTAIRS_PAUSED:
		crucible->base.events.stalled(crucible->base.events.context, true);
		break;
	case UPSTAIRS_REFUSED:
		on_lost(crucible, false);
		break;
	case UPSTAIRS_FENCED:
		on_lost(crucible, true);
		break;
	case UPSTAIRS_RELEASED:
		if (crucible->is_deactivating && !crucible->is_released) {
			crucible->is_released = true;
			unlink(crucible->history_path);
			finish_step(crucible, BACKEND_DEACTIVATED, 0, NULL);
		}
		break;
	default:
		break;
	}
}

/* Life */

static void free_crucible(struct crucible_backend *crucible)
{
	while (crucible->spare) {
		struct piece *piece = crucible->spare;
		crucible->spare = piece->next;
		free(piece);
	}
	if (crucible->history)
		history_file_close(crucible->history);
	tls_identity_close(crucible->identity);
	free(crucible->history_path);
	explicit_bzero(crucible->key, sizeof crucible->key);
	free(crucible);
}

static void end_close(void *context)
{
	struct crucible_backend *crucible = context;
	struct backend_events events = crucible->base.events;
	if (crucible->is_outrun && !crucible->is_closing) {
		crucible->is_outrun = false;
		crucible->client = NULL;
		finish_step(crucible, BACKEND_ACTIVATED, -ESTALE, &crucible->outrun_reason);
		return;
	}
	free_crucible(crucible);
	events.step(events.context, BACKEND_CLOSED, 0, NULL);
}

static void crucible_close(struct backend *backend)
{
	struct crucible_backend *crucible = crucible_of(backend);
	crucible->is_closing = true;
	if (crucible->is_outrun)
		return; /* it is being closed already */
	if (crucible->client)
		client_close(crucible->client);
	else if (crucible->looked_up == SLOTS)
		end_close(crucible);
	else
		uv_cancel((uv_req_t *)&crucible->lookup); /* on_address() comes in any case */
}

static int open_history(struct crucible_backend *crucible, struct reason *reason)
{
	int status = history_file_open(crucible->history_path, HISTORY_SIZE, &crucible->history);
	return status < 0 ? reason_set(reason, status, "%s: %s: %s", crucible->volume->name, crucible->history_path,
							status == -EBUSY ? "another process has it open" : strerror(-status))
					  : 0;
}

static int look_up_next(struct crucible_backend *crucible, struct reason *reason);

static void end_open(struct crucible_backend *crucible, int error, const struct reason *reason)
{
	crucible->looked_up = SLOTS; /* none is under way */
	finish_step(crucible, BACKEND_OPENED, error, reason);
}

static void on_address(uv_getaddrinfo_t *lookup, int status, struct addrinfo *addresses)
{
	struct crucible_backend *crucible = container_of(lookup, struct crucible_backend, lookup);
	struct reason reason;
	if (crucible->is_closing) {
		uv_freeaddrinfo(addresses);
		end_close(crucible);
		return;
	}
	if (status < 0)
		status = reason_set(&reason, -EHOSTUNREACH, "%s: target_%u: %s: %s", crucible->volume->name,
			crucible->looked_up, crucible->volume->targets[crucible->looked_up], uv_strerror(status));
	else
		memcpy(&crucible->targets[crucible->looked_up++], addresses->ai_addr, addresses->ai_addrlen);
	uv_freeaddrinfo(addresses);
	if (status == 0)
		status = look_up_next(crucible, &reason);
	if (status < 0 || crucible->looked_up == SLOTS)
		end_open(crucible, status, &reason);
}

/* Returns 0 if the next one is being looked up, or if there is none. */
static int look_up_next(struct crucible_backend *crucible, struct reason *reason)
{
	if (crucible->looked_up == SLOTS)
		return 0;
	const char *target = crucible->volume->targets[crucible->looked_up];
	char host[TARGET_HOST_MAX];
	uint16_t port;
	if (target_parse(target, host, &port) < 0)
		return reason_set(reason, -EINVAL, "%s: target_%u: %s: not HOST:PORT", crucible->volume->name,
			crucible->looked_up, target);
	char service[8];
	snprintf(service, sizeof service, "%u", port);
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	int status = uv_getaddrinfo(crucible->loop, &crucible->lookup, on_address, host, service, &hints);
	return status < 0 ? reason_set(reason, status, "%s: %s: %s", crucible->volume->name, target,
							uv_strerror(status))
					  : 0;
}

static int read_key(struct crucible_backend *crucible, struct reason *reason)
{
	const char *path = crucible->volume->key_file;
	if (!path)
		return 0;
	struct reason why;
	int status = private_file_check(path, &why);
	if (status < 0)
		return reason_set(reason, status, "%s: key_file %s", crucible->volume->name, why.text);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: key_file %s: %m", crucible->volume->name, path);
	if (st.st_size != INTEGRITY_KEY_SIZE ||
		read(fd, crucible->key, INTEGRITY_KEY_SIZE) != INTEGRITY_KEY_SIZE)
		return reason_set(reason, -EBADMSG, "%s: key_file %s: not a key of %d bytes", crucible->volume->name, path,
			INTEGRITY_KEY_SIZE);
	return 0;
}

static int read_identity(struct crucible_backend *crucible, const struct config *config, struct reason *reason)
{
	char why[300];
	if (!config->tls_authority)
		return 0;
	crucible->identity = tls_identity_open(config->tls_authority, config->tls_certificate, config->tls_key, why,
		sizeof why);
	return crucible->identity ? 0 : reason_set(reason, -EBADMSG, "%s: TLS: %s", crucible->volume->name, why);
}

static int prepare(struct crucible_backend *crucible, const struct config *config, struct reason *reason)
{
	const struct volume *volume = crucible->volume;
	if (asprintf(&crucible->history_path, "%s/%llu/history-%s", config->run_dir,
			(unsigned long long)volume->parsed.vmid, volume->name) < 0) {
		crucible->history_path = NULL;
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	}
	int status = read_key(crucible, reason);
	if (status == 0)
		status = read_identity(crucible, config, reason);
	if (status == 0)
		status = open_history(crucible, reason);
	if (status == 0)
		status = look_up_next(crucible, reason);
	return status;
}

static int crucible_open(uv_loop_t *loop, const struct config *config, const struct volume *volume,
	const struct backend_events *events, struct backend **out, struct reason *reason)
{
	struct crucible_backend *crucible = calloc(1, sizeof *crucible);
	if (!crucible)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	crucible->base = (struct backend){
		.operations = &crucible_backend_operations,
		.events = *events,
		.geometry = {
			.size = volume->size,
			.block_min = (uint32_t)volume->block_size,
			.block_preferred = 64 << 10,
			.zero = true,
			.fast_zero = true,
			.status = true,
			.holes = true,
		},
	};
	crucible->loop = loop;
	crucible->config = config;
	crucible->volume = volume;
	int status = prepare(crucible, config, reason);
	if (status < 0) {
		free_crucible(crucible);
		return status;
	}
	*out = &crucible->base;
	return 0;
}

static void crucible_activate(struct backend *backend, const struct backend_activation *activation)
{
	struct crucible_backend *crucible = crucible_of(backend);
	struct reason reason;
	struct client_options options = {
		.block_size = crucible->volume->block_size,
		.key = crucible->volume->key_file ? crucible->key : NULL,
		.leave_after = LEAVE_AFTER_MS,
		.wait_for_named = WAIT_FOR_NAMED_MS,
		.flush_interval = FLUSH_INTERVAL_MS,
		.hedge_after = HEDGE_AFTER_MS,
		.recovery_budget = RECOVERY_BUDGET_MS,
		.scrub_interval = crucible->config->scrub_every * DAY_MS,
		.scrub_rate = crucible->config->scrub_rate,
		.ack_on_submit = crucible->volume->write_ack == VOLUME_WRITE_ACK_SUBMIT,
		.min_copies = (unsigned)crucible->volume->min_copies,
		.history = crucible->history,
		.identity = crucible->identity,
	};
	const struct client_user user = {
		.context = crucible,
		.store_record = on_store_record,
		.report = on_report,
		.changed = on_changed,
		.slots_changed = on_slots_changed,
		.closed = end_close,
	};
	if (options.ack_on_submit)
		log_warning("%s: write_ack = submit: loss of this host loses writes that were not flushed", crucible->volume->name);
	if (options.min_copies == 1)
		log_warning("%s: min_copies = 1: while a single copy is there, loss of it loses what was written meanwhile",
			crucible->volume->name);
	memcpy(options.targets, crucible->targets, sizeof options.targets);
	parse_region(activation->claim_id, &options.history_key);
	crucible->client = client_open(crucible->loop, &options, &user);
	if (!crucible->client) {
		reason_set(&reason, -ENOMEM, "%s: out of memory", crucible->volume->name);
		finish_step(crucible, BACKEND_ACTIVATED, -ENOMEM, &reason);
		return;
	}
	if (client_has_taken_over(crucible->client))
		log_event(LOG_LEVEL_INFO, EVENT_HISTORY_RESUMED, crucible->volume->name, LOG_NO_SLOT,
			"%s: goes on from the history of its last gateway", crucible->volume->name);
	const struct upstairs_record record = record_from(activation->copies);
	client_activate(crucible->client, activation->generation, &record);
}

static void crucible_resize(struct backend *backend, uint64_t size)
{
	struct crucible_backend *crucible = crucible_of(backend);
	uint64_t block_size, blocks;
	struct reason reason;
	int status = 0;
	upstairs_geometry(client_core(crucible->client), &block_size, &blocks);
	if (size < backend->geometry.size || !is_aligned(size, block_size))
		status = reason_set(&reason, -EINVAL, "%s: the new size must be larger and a multiple of %llu",
			crucible->volume->name, (unsigned long long)block_size);
	else if (size / block_size > blocks)
		status = reason_set(&reason, -ENOSPC,
			"%s: its regions hold %llu bytes and cannot grow: move it to a larger volume with qm disk move",
			crucible->volume->name, (unsigned long long)(block_size * blocks));
	else
		backend->geometry.size = size;
	finish_step(crucible, BACKEND_RESIZED, status, &reason);
}

static int crucible_replace(struct backend *backend, unsigned slot, const struct sockaddr_storage *address,
	struct reason *reason)
{
	struct crucible_backend *crucible = crucible_of(backend);
	bool may = address ? client_replace(crucible->client, slot, address) == 0
					   : upstairs_may_replace(client_core(crucible->client), slot);
	return may ? 0
			   : reason_set(reason, -EBUSY,
					 "%s: slot %u cannot be replaced now: both other slots must be active: see tb4 status",
					 crucible->volume->name, slot);
}

static int crucible_retry(struct backend *backend, unsigned slot, struct reason *reason)
{
	struct crucible_backend *crucible = crucible_of(backend);
	return client_retry(crucible->client, slot) < 0
		? reason_set(reason, -EBUSY, "%s: slot %u has not failed: it is tried again by itself", crucible->volume->name,
			  slot)
		: 0;
}

static void crucible_deactivate(struct backend *backend)
{
	struct crucible_backend *crucible = crucible_of(backend);
	crucible->is_deactivating = true;
	client_deactivate(crucible->client);
}

static int crucible_scrub(struct backend *backend, bool stop, uint64_t rate, struct reason *reason)
{
	struct crucible_backend *crucible = crucible_of(backend);
	if (stop) {
		client_scrub_stop(crucible->client);
		return 0;
	}
	int status = client_scrub(crucible->client, rate);
	return status < 0 ? reason_set(reason, status, "%s: cannot be scrubbed now: %s", crucible->volume->name,
							status == -ENOMEM ? "out of memory" : "it does not serve")
					  : 0;
}

static void crucible_status(struct backend *backend, struct json_object *object)
{
	struct crucible_backend *crucible = crucible_of(backend);
	struct upstairs_status status = { .state = UPSTAIRS_IDLE };
	if (crucible->client && !crucible->is_outrun)
		upstairs_status(client_core(crucible->client), &status);
	crucible_status_add(&status, crucible->volume, object);
}

/* Regions are made and removed on their sleds, by tb4 (sled/regions.h): here they are taken as they are. */
static int crucible_create(const struct config *config, const struct volume *volume, struct reason *reason)
{
	(void)config;
	return is_aligned(volume->size, volume->block_size)
		? 0
		: reason_set(reason, -EINVAL, "%s: the size must be a multiple of the block size, %llu", volume->name,
			  (unsigned long long)volume->block_size);
}

static int crucible_destroy(const struct config *config, const struct volume *volume, struct reason *reason)
{
	(void)config;
	(void)volume;
	(void)reason;
	return 0;
}

const struct backend_operations crucible_backend_operations = {
	.name = "crucible",
	.open = crucible_open,
	.activate = crucible_activate,
	.submit = crucible_submit,
	.resize = crucible_resize,
	.replace = crucible_replace,
	.retry = crucible_retry,
	.scrub = crucible_scrub,
	.copies_stored = crucible_copies_stored,
	.deactivate = crucible_deactivate,
	.close = crucible_close,
	.status = crucible_status,
	.create = crucible_create,
	.destroy = crucible_destroy,
};
