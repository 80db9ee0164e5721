/* upstairs-io: a volume on three downstairs from the command line, by the public header of libupstairs only.
 *
 * usage: upstairs-io --target HOST:PORT (three times) --generation N --record FILE [--key FILE] [--history FILE]
 *                    [--root-cert-pem FILE --cert-pem FILE --key-pem FILE]
 *                    [--leave-after MS] [--wait-for-named MS] [--flush-interval MS] COMMAND...
 *   read OFFSET LENGTH          to standard output
 *   write OFFSET                from standard input, at most UPSTAIRS_REQUEST_MAX bytes, then a flush
 *   flush
 *   fill SEED BYTES             pseudo-random bytes from the beginning on, eight requests at a time, then a flush
 *   verify SEED BYTES           the same bytes are read and compared
 *   bench read|write DEPTH SECONDS LENGTH [sequential]
 *   check FILE SEED DEPTH SECONDS
 *                               writes, reads and flushes that overlap; then every block is read. FILE says what
 *                               each may hold (block-check.h), over all runs. SIGTERM ends the load early
 *   idle SECONDS                does nothing, as a client that has nothing to do
 *   zero OFFSET LENGTH [no-hole] [fast]
 *   map                         what is known to be a hole: lines of offset, length, "hole" or "data"
 *   status                      a line for each slot, and one for what to do about it if something is wrong
 *   wait                        until all three slots are active
 *   replace SLOT HOST:PORT      a new region for the slot
 * Several commands are divided by "then".
 * The record lies in FILE and is made by the first start. With --history a start after kill -9 goes on where the killed
 * process was, under the same claim; any other start makes a new claim, and so every older history void. Exit status 0 if
 * everything was done and was right, 1 if something failed, 3 if `check` read what it must not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block-check.h"
#include "client.h"
#include "integrity.h"
#include "list.h"

enum { DEPTH_MAX = 256, HISTORY_SIZE = 64 << 20, STATUS_WRONG = 3 };

struct slot_of_work {
	struct client_request request;
	struct io *io;
	uint64_t started;
	struct block_check_read seen; /* of a read of `check` */
};

struct io {
	uv_loop_t loop;
	struct client *client;
	const char *record_path, *history_path;
	struct upstairs_record record;
	struct crucible_uuid claim;
	uv_timer_t stored, checks;
	char **words; /* of this command; behind them "then", and those of the next ones, or nothing */
	int word_count, rest_count, status;
	bool has_begun, is_ending, is_stored;
	/* the work */
	struct slot_of_work slots[DEPTH_MAX];
	unsigned depth, in_flight;
	enum upstairs_operation operation;
	uint64_t next, end, length, until, done, seed, nanoseconds;
	uint64_t started; /* ns */
	uint64_t bench_seconds, bench_done, bench_nanoseconds, bench_used; /* the last three: what was before it */
	bool is_random, verifies, flushes;
	/* `check` */
	struct block_check *check;
	uv_signal_t asked_to_stop;
	bool reads_back;
	uint64_t block_size, counts[3]; /* by operation */
};

/* The record, a line of text */

static void print_id(FILE *file, const struct crucible_uuid *id)
{
	fputc(' ', file);
	for (unsigned i = 0; i < sizeof id->bytes; i++)
		fprintf(file, "%02x", id->bytes[i]);
}

static void parse_id(const char *text, struct crucible_uuid *id)
{
	for (size_t i = 0; i < sizeof id->bytes; i++)
		sscanf(text + 2 * i, "%2hhx", &id->bytes[i]);
}

static void load_record(struct io *io)
{
	FILE *file = fopen(io->record_path, "r");
	struct upstairs_record *record = &io->record;
	int released, in_sync[3], full_copy[3];
	char ids[4][33];
	if (!file)
		return;
	if (fscanf(file, "%d %" SCNu64 " %d %d %d %32s %32s %32s %d %d %d %32s", &released, &record->stamped, &in_sync[0],
			&in_sync[1], &in_sync[2], ids[0], ids[1], ids[2], &full_copy[0], &full_copy[1], &full_copy[2], ids[3]) == 12) {
		record->exists = true;
		record->released = released;
		for (unsigned i = 0; i < 3; i++) {
			record->in_sync[i] = in_sync[i];
			record->full_copy[i] = full_copy[i];
			parse_id(ids[i], &record->regions[i]);
		}
		parse_id(ids[3], &io->claim);
	}
	fclose(file);
}

static bool write_record(const struct io *io, const struct upstairs_record *record)
{
	char path[4096];
	snprintf(path, sizeof path, "%s.new", io->record_path);
	FILE *file = fopen(path, "w");
	if (!file)
		return false;
	fprintf(file, "%d %" PRIu64 " %d %d %d", record->released, record->stamped, record->in_sync[0],
		record->in_sync[1], record->in_sync[2]);
	for (unsigned i = 0; i < 3; i++)
		print_id(file, &record->regions[i]);
	fprintf(file, " %d %d %d", record->full_copy[0], record->full_copy[1], record->full_copy[2]);
	print_id(file, &io->claim);
	fputc('\n', file);
	bool written = fflush(file) == 0 && fsync(fileno(file)) == 0;
	return fclose(file) == 0 && written && rename(path, io->record_path) == 0;
}

static void on_stored(uv_timer_t *timer)
{
	struct io *io = timer->data;
	client_record_stored(io->client, io->is_stored ? UPSTAIRS_STORED : UPSTAIRS_UNKNOWN);
}

static void store_record(void *context, const struct upstairs_record *record)
{
	struct io *io = context;
	io->is_stored = write_record(io, record);
	if (!io->is_stored)
		fprintf(stderr, "upstairs-io: %s: cannot be written\n", io->record_path);
	uv_timer_start(&io->stored, on_stored, 0, 0);
}

/* Under which claim this start is. Whether a history that is there is intact is for the library to say. */
static bool claim(struct io *io)
{
	struct stat status;
	if (io->record.exists && io->history_path && stat(io->history_path, &status) == 0 && status.st_size > 0)
		return true;
	return getrandom(&io->claim, sizeof io->claim, 0) == sizeof io->claim &&
		(!io->record.exists || write_record(io, &io->record));
}

/* The work */

static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

static void pattern(uint64_t seed, uint64_t offset, uint8_t *bytes, uint64_t length)
{
	for (uint64_t i = 0; i + 8 <= length; i += 8) {
		uint64_t value = mix(seed * UINT64_C(0x9e3779b97f4a7c15) + offset + i);
		memcpy(bytes + i, &value, 8);
	}
}

/* Of this process, in nanoseconds. */
static uint64_t processor_time(void)
{
	struct timespec time;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

static void show_bench(struct io *io)
{
	double done = (double)(io->done - io->bench_done);
	if (done > 0)
		printf("%.0f requests a second, %.1f us each, %.1f us of processor each\n", done / (double)io->bench_seconds,
			(double)(io->nanoseconds - io->bench_nanoseconds) / 1e3 / done,
			(double)(processor_time() - io->bench_used) / 1e3 / done);
	io->bench_seconds = 0;
}

static void begin(struct io *io);

/* The next command becomes the present one. False if there is none. */
static bool next_command(struct io *io)
{
	io->words += io->word_count;
	if (io->rest_count > 0 && strcmp(io->words[0], "then") == 0) {
		io->words++;
		io->rest_count--;
	}
	io->word_count = 0;
	while (io->rest_count > 0 && strcmp(io->words[io->word_count], "then") != 0) {
		io->word_count++;
		io->rest_count--;
	}
	return io->word_count > 0;
}

/* The command is done. */
static void end(struct io *io)
{
	if (io->is_ending)
		return;
	if (io->bench_seconds)
		show_bench(io);
	if (!io->status && next_command(io)) {
		begin(io);
		return;
	}
	io->is_ending = true;
	client_deactivate(io->client);
}

static void next(struct slot_of_work *slot);
static void take_checked(struct slot_of_work *slot);

static void on_done(struct client_request *request, int error)
{
	struct slot_of_work *slot = container_of(request, struct slot_of_work, request);
	struct io *io = slot->io;
	io->in_flight--;
	io->done++;
	io->nanoseconds += uv_hrtime() - slot->started;
	if (error) {
		fprintf(stderr, "upstairs-io: at %" PRIu64 ": %s\n", request->offset, strerror(-error));
		if (!io->status)
			io->status = 1;
	}
	if (io->verifies && !error) {
		uint8_t *wanted = malloc(request->length);
		pattern(io->seed, request->offset, wanted, request->length);
		if (memcmp(wanted, request->buffer, request->length) != 0) {
			fprintf(stderr, "upstairs-io: at %" PRIu64 ": not what was written\n", request->offset);
			io->status = 1;
		}
		free(wanted);
	}
	if (io->check && !error)
		take_checked(slot);
	if (request->operation == UPSTAIRS_READ && !io->verifies && !io->check && io->until == 0 && !error)
		fwrite(request->buffer, 1, request->length, stdout);
	next(slot);
}

static void submit(struct slot_of_work *slot, enum upstairs_operation operation, uint64_t offset, uint64_t length)
{
	slot->request.operation = operation;
	slot->request.offset = offset;
	slot->request.length = length;
	slot->request.done = on_done;
	slot->started = uv_hrtime();
	slot->io->in_flight++;
	client_submit(slot->io->client, &slot->request);
}

/* A request of `check` has been done. */
static void take_checked(struct slot_of_work *slot)
{
	const struct client_request *request = &slot->request;
	struct io *io = slot->io;
	uint64_t start = request->offset / io->block_size, count = request->length / io->block_size;
	io->counts[request->operation]++;
	if (request->operation == UPSTAIRS_WRITE)
		block_check_written(io->check, start, count);
	else if (request->operation == UPSTAIRS_READ &&
		block_check_end_read(io->check, start, count, request->buffer, &slot->seen) > 0)
		io->status = STATUS_WRONG;
}

static void submit_checked(struct slot_of_work *slot, bool writes, uint64_t start, uint64_t count)
{
	struct io *io = slot->io;
	/* a block that is being written is read instead */
	writes = writes && block_check_write(io->check, start, count, slot->request.buffer);
	if (!writes)
		block_check_begin_read(io->check, start, count, &slot->seen);
	submit(slot, writes ? UPSTAIRS_WRITE : UPSTAIRS_READ, start * io->block_size, count * io->block_size);
}

/* Half writes and half reads, mostly short, a quarter of them among few blocks, and some flushes. */
static void submit_any(struct slot_of_work *slot)
{
	enum { FEW_BLOCKS = 64, SHORT = 16 };
	struct io *io = slot->io;
	uint64_t dice = mix(io->seed * UINT64_C(0x9e3779b97f4a7c15) + io->next++), blocks = io->end / io->block_size;
	uint64_t start = (dice >> 32) % (dice % 4 == 0 && blocks > FEW_BLOCKS ? FEW_BLOCKS : blocks);
	uint64_t count = 1 + (dice >> 16) % ((dice >> 8) % 32 == 0 ? BLOCK_CHECK_MAX : SHORT);
	if (count > blocks - start)
		count = blocks - start;
	if ((dice >> 24) % 64 == 0)
		submit(slot, UPSTAIRS_FLUSH, 0, 0);
	else
		submit_checked(slot, (dice >> 13) % 2, start, count);
}

static void next_checked(struct slot_of_work *slot)
{
	struct io *io = slot->io;
	if (io->status == 0 && uv_hrtime() < io->until) {
		submit_any(slot);
	} else if (io->status == 0 && io->reads_back && io->next < io->end) {
		uint64_t start = io->next / io->block_size, count = (io->end - io->next) / io->block_size;
		if (count > BLOCK_CHECK_MAX)
			count = BLOCK_CHECK_MAX;
		io->next += count * io->block_size;
		submit_checked(slot, false, start, count);
	} else if (io->in_flight == 0 && io->status == 0 && !io->reads_back) {
		io->reads_back = true;
		io->next = 0;
		io->until = 0;
		submit(slot, UPSTAIRS_FLUSH, 0, 0);
	} else if (io->in_flight == 0) {
		end(io);
	}
}

static void next(struct slot_of_work *slot)
{
	struct io *io = slot->io;
	if (io->check) {
		next_checked(slot);
		return;
	}
	bool is_over = io->status || (io->until ? uv_hrtime() >= io->until : io->next >= io->end);
	if (!is_over) {
		uint64_t offset = io->until ? io->next % io->end : io->next;
		if (io->is_random)
			offset = mix(io->seed + io->next) % (io->end / io->length) * io->length;
		io->next += io->is_random ? 1 : io->length;
		uint64_t length = offset + io->length > io->end ? io->end - offset : io->length;
		if (io->operation == UPSTAIRS_WRITE && io->until == 0 && io->seed)
			pattern(io->seed, offset, slot->request.buffer, length);
		submit(slot, io->operation, offset, length);
	} else if (io->in_flight == 0 && io->flushes && !io->status) {
		io->flushes = false;
		submit(slot, UPSTAIRS_FLUSH, 0, 0);
	} else if (io->in_flight == 0) {
		end(io);
	}
}

static struct slot_of_work *prepare(struct io *io, unsigned depth)
{
	io->depth = depth;
	for (unsigned i = 0; i < depth; i++) {
		io->slots[i].io = io;
		if (!io->slots[i].request.buffer)
			io->slots[i].request.buffer = aligned_alloc(4096, UPSTAIRS_REQUEST_MAX);
		memset(io->slots[i].request.buffer, 7, UPSTAIRS_REQUEST_MAX);
	}
	return io->slots;
}

static void run(struct io *io, unsigned depth)
{
	prepare(io, depth);
	io->in_flight++; /* so that none of them ends it while others have not begun */
	for (unsigned i = 0; i < depth; i++)
		next(&io->slots[i]);
	io->in_flight--;
	if (io->in_flight == 0)
		next(&io->slots[0]);
}

static uint64_t number(const struct io *io, int word)
{
	return word < io->word_count ? strtoull(io->words[word], NULL, 0) : 0;
}

static void begin_write(struct io *io)
{
	io->operation = UPSTAIRS_WRITE;
	io->flushes = true;
	io->seed = 0; /* the bytes are there */
	struct slot_of_work *slot = prepare(io, 1);
	io->next = number(io, 1);
	io->length = fread(slot->request.buffer, 1, UPSTAIRS_REQUEST_MAX, stdin);
	io->end = io->next + io->length;
	next(slot);
}

static void on_asked_to_stop(uv_signal_t *signal, int number)
{
	struct io *io = signal->data;
	(void)number;
	io->until = 0;
}

static void begin_check(struct io *io, uint64_t block_size, uint64_t block_count)
{
	unsigned depth = (unsigned)number(io, 3);
	io->block_size = block_size;
	io->seed = number(io, 2);
	io->end = block_size * block_count;
	io->until = uv_hrtime() + (uint64_t)(strtod(io->words[4], NULL) * 1e9);
	io->check = block_check_open(io->words[1], block_size, block_count);
	if (!io->check) {
		fprintf(stderr, "upstairs-io: %s: does not fit this volume, or cannot be made\n", io->words[1]);
		io->status = 1;
		end(io);
		return;
	}
	uv_signal_start(&io->asked_to_stop, on_asked_to_stop, SIGTERM);
	run(io, depth);
}

static void on_idle(uv_timer_t *timer)
{
	end(timer->data);
}

static bool parse_target(char *text, struct sockaddr_storage *address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	char *colon = strrchr(text, ':');
	if (!colon)
		return false;
	*colon = '\0';
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)atoi(colon + 1));
	return inet_pton(AF_INET, text, &in->sin_addr) == 1;
}

static void begin_zero(struct io *io)
{
	struct slot_of_work *slot = prepare(io, 1);
	slot->request.flags = 0;
	for (int i = 3; i < io->word_count; i++)
		slot->request.flags |= strcmp(io->words[i], "fast") == 0 ? UPSTAIRS_FAST_ZERO : UPSTAIRS_NO_HOLE;
	io->end = 0;
	submit(slot, UPSTAIRS_WRITE_ZEROES, number(io, 1), number(io, 2));
}

static void begin_replace(struct io *io)
{
	struct sockaddr_storage target = { 0 };
	int status = io->word_count == 3 && number(io, 1) < UPSTAIRS_SLOTS && parse_target(io->words[2], &target)
		? client_replace(io->client, (unsigned)number(io, 1), &target)
		: -EINVAL;
	if (status < 0) {
		fprintf(stderr, "upstairs-io: cannot replace: %s\n", strerror(-status));
		io->status = 1;
	}
	end(io);
}

static void show_slot(unsigned index, const struct upstairs_slot_status *slot)
{
	static const char *const states[] = { "absent", "connecting", "waiting", "mending", "replay", "repair", "active",
		"failed" };
	printf("slot %u: %s%s, generation %" PRIu64 ", %" PRIu64 " behind for %" PRIu64 " ms, left %" PRIu64
		   " times, %" PRIu64 " blocks damaged and %" PRIu64 " healed",
		index, states[slot->state], slot->is_in_sync ? ", in sync" : "", slot->generation, slot->behind,
		slot->behind_for, slot->left, slot->damaged, slot->healed);
	if (slot->to_repair)
		printf(", %" PRIu64 " of %" PRIu64 " extents copied, %" PRIu64 " bytes a second, %" PRIu64 " s left",
			slot->repaired, slot->to_repair, slot->repair_rate, slot->repair_left);
	printf("%s%s\n", slot->error[0] ? ", last error: " : "", slot->error);
	if (slot->trouble)
		printf("slot %u: %s: %s\n", index, upstairs_trouble_name(slot->trouble), upstairs_advice(slot->trouble));
}

static void show(const struct io *io)
{
	struct upstairs_status status;
	upstairs_status(client_core(io->client), &status);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		show_slot(i, &status.slots[i]);
	printf("%" PRIu64 " reads sent twice, %" PRIu64 " extents dirty, mended in %" PRIu64 " ms\n", status.hedged_reads,
		status.dirty_extents, status.recovery_time);
	fflush(stdout);
}

static void on_check(uv_timer_t *timer)
{
	struct io *io = timer->data;
	bool all = true;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		all = all && upstairs_slot_state(client_core(io->client), i) == UPSTAIRS_SLOT_ACTIVE;
	if (all) {
		uv_timer_stop(timer);
		end(io);
	}
}

static void show_map(const struct io *io, uint64_t end)
{
	for (uint64_t at = 0, alike; at < end; at += alike) {
		bool is_hole = client_is_hole(io->client, at, end - at, &alike);
		printf("%" PRIu64 " %" PRIu64 " %s\n", at, alike, is_hole ? "hole" : "data");
	}
}

static void begin(struct io *io)
{
	const char *what = io->words[0];
	uint64_t block_size, block_count;
	upstairs_geometry(client_core(io->client), &block_size, &block_count);
	io->length = 64 << 10;
	io->seed = number(io, 1);
	io->end = number(io, 2);
	io->next = io->until = 0;
	io->is_random = io->verifies = io->flushes = false;
	if (strcmp(what, "fill") == 0) {
		io->operation = UPSTAIRS_WRITE;
		io->flushes = true;
		run(io, 8);
	} else if (strcmp(what, "verify") == 0) {
		io->operation = UPSTAIRS_READ;
		io->verifies = true;
		run(io, 8);
	} else if (strcmp(what, "read") == 0) {
		io->operation = UPSTAIRS_READ;
		io->next = number(io, 1);
		io->end = io->next + number(io, 2);
		run(io, 1);
	} else if (strcmp(what, "bench") == 0) {
		io->operation = strcmp(io->words[1], "read") == 0 ? UPSTAIRS_READ : UPSTAIRS_WRITE;
		io->length = number(io, 4);
		io->end = block_size * block_count / io->length * io->length;
		io->is_random = io->word_count < 6;
		io->seed = uv_hrtime();
		io->bench_seconds = number(io, 3);
		io->bench_done = io->done;
		io->bench_nanoseconds = io->nanoseconds;
		io->bench_used = processor_time();
		io->until = uv_hrtime() + number(io, 3) * UINT64_C(1000000000);
		run(io, (unsigned)number(io, 2));
	} else if (strcmp(what, "write") == 0) {
		begin_write(io);
	} else if (strcmp(what, "check") == 0) {
		begin_check(io, block_size, block_count);
	} else if (strcmp(what, "idle") == 0) {
		io->until = uv_hrtime() + number(io, 1) * UINT64_C(1000000000);
		uv_timer_start(&io->checks, on_idle, number(io, 1) * 1000, 0);
	} else if (strcmp(what, "wait") == 0) {
		uv_timer_start(&io->checks, on_check, 0, 20);
	} else if (strcmp(what, "zero") == 0) {
		begin_zero(io);
	} else if (strcmp(what, "replace") == 0) {
		begin_replace(io);
	} else if (strcmp(what, "status") == 0) {
		show(io);
		end(io);
	} else if (strcmp(what, "map") == 0) {
		show_map(io, block_size * block_count);
		end(io);
	} else if (strcmp(what, "flush") == 0) {
		io->flushes = true;
		io->end = 0;
		run(io, 1);
	} else {
		end(io);
	}
}

static void on_closed(void *context)
{
	struct io *io = context;
	uv_close((uv_handle_t *)&io->stored, NULL);
	uv_close((uv_handle_t *)&io->checks, NULL);
	uv_close((uv_handle_t *)&io->asked_to_stop, NULL);
}

static void changed(void *context)
{
	struct io *io = context;
	const struct upstairs *core = client_core(io->client);
	switch (upstairs_state(core)) {
	case UPSTAIRS_PAUSED:
		fprintf(stderr, "upstairs-io: paused\n");
		break;
	case UPSTAIRS_SERVING:
		if (!io->has_begun) {
			io->has_begun = true;
			fprintf(stderr, "upstairs-io: active after %.1f ms\n", (double)(uv_hrtime() - io->started) / 1e6);
			begin(io); /* whoever reads the next line may send a signal */
		}
		fprintf(stderr, "upstairs-io: serving\n");
		break;
	case UPSTAIRS_REFUSED:
	case UPSTAIRS_FENCED:
		if (!io->status)
			io->status = 1;
		/* fall through */
	case UPSTAIRS_RELEASED:
		if (io->history_path && upstairs_state(core) == UPSTAIRS_RELEASED)
			unlink(io->history_path);
		client_close(io->client);
		break;
	default:
		break;
	}
}

static void report(void *context, unsigned slot, const char *text)
{
	(void)context;
	if (slot < UPSTAIRS_SLOTS)
		fprintf(stderr, "upstairs-io: slot %u: %s\n", slot, text);
	else
		fprintf(stderr, "upstairs-io: %s\n", text);
}

/* 32 bytes, as they are. */
static bool read_key(const char *path, uint8_t key[INTEGRITY_KEY_SIZE])
{
	FILE *file = fopen(path, "rb");
	bool has_key = file && fread(key, 1, INTEGRITY_KEY_SIZE, file) == INTEGRITY_KEY_SIZE;
	if (file)
		fclose(file);
	return has_key;
}

int main(int argc, char **argv)
{
	uint8_t key[INTEGRITY_KEY_SIZE];
	static const struct option table[] = {
		{ "target", required_argument, NULL, 't' },
		{ "generation", required_argument, NULL, 'g' },
		{ "record", required_argument, NULL, 'r' },
		{ "key", required_argument, NULL, 'k' },
		{ "history", required_argument, NULL, 'h' },
		{ "root-cert-pem", required_argument, NULL, 'A' },
		{ "cert-pem", required_argument, NULL, 'C' },
		{ "key-pem", required_argument, NULL, 'K' },
		{ "leave-after", required_argument, NULL, 'l' },
		{ "wait-for-named", required_argument, NULL, 'w' },
		{ "flush-interval", required_argument, NULL, 'f' },
		{ 0 },
	};
	static struct io io;
	struct client_options options = {
		.block_size = 4096,
		.leave_after = 3000,
		.wait_for_named = 3000,
		.flush_interval = 2000,
		.hedge_after = 20,
		.recovery_budget = 30000,
	};
	const char *authority = NULL, *certificate = NULL, *certificate_key = NULL;
	uint64_t generation = 0;
	unsigned targets = 0;
	for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
		if (option == 't' && targets < UPSTAIRS_SLOTS && parse_target(optarg, &options.targets[targets]))
			targets++;
		else if (option == 'g')
			generation = strtoull(optarg, NULL, 0);
		else if (option == 'k' && read_key(optarg, key))
			options.key = key;
		else if (option == 'r')
			io.record_path = optarg;
		else if (option == 'h')
			io.history_path = optarg;
		else if (option == 'A')
			authority = optarg;
		else if (option == 'C')
			certificate = optarg;
		else if (option == 'K')
			certificate_key = optarg;
		else if (option == 'l')
			options.leave_after = strtoull(optarg, NULL, 0);
		else if (option == 'w')
			options.wait_for_named = strtoull(optarg, NULL, 0);
		else if (option == 'f')
			options.flush_interval = strtoull(optarg, NULL, 0);
		else
			return 64;
	}
	bool wants_tls = authority || certificate || certificate_key;
	if (targets != UPSTAIRS_SLOTS || (wants_tls && !(authority && certificate && certificate_key)) || !generation ||
		!io.record_path || optind >= argc) {
		fprintf(stderr, "usage: upstairs-io --target HOST:PORT (three times) --generation N --record FILE COMMAND...\n");
		return 64;
	}
	io.words = argv + optind;
	io.rest_count = argc - optind;
	next_command(&io);
	struct tls_identity *identity = NULL;
	char why[300];
	if (wants_tls) {
		identity = tls_identity_open(authority, certificate, certificate_key, why, sizeof why);
		if (!identity) {
			fprintf(stderr, "upstairs-io: %s\n", why);
			return 78;
		}
		options.identity = identity;
	}
	load_record(&io);
	if (!claim(&io)) {
		fprintf(stderr, "upstairs-io: %s: cannot be written\n", io.record_path);
		return 70;
	}
	int status = history_file_open(io.history_path, HISTORY_SIZE, &options.history);
	if (status < 0) {
		fprintf(stderr, "upstairs-io: %s: %s\n", io.history_path ? io.history_path : "history",
			status == -EBUSY ? "another process has it" : strerror(-status));
		return 70;
	}
	options.history_key = io.claim;
	const struct client_user user = {
		.context = &io,
		.store_record = store_record,
		.report = report,
		.changed = changed,
		.closed = on_closed,
	};
	uv_loop_init(&io.loop);
	uv_timer_init(&io.loop, &io.stored);
	uv_timer_init(&io.loop, &io.checks);
	uv_signal_init(&io.loop, &io.asked_to_stop);
	io.stored.data = io.checks.data = io.asked_to_stop.data = &io;
	io.started = uv_hrtime();
	io.client = client_open(&io.loop, &options, &user);
	if (!io.client)
		return 70;
	client_activate(io.client, generation, &io.record);
	uv_run(&io.loop, UV_RUN_DEFAULT);
	uv_loop_close(&io.loop);
	history_file_close(options.history);
	tls_identity_close(identity);
	block_check_close(io.check);
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		free(io.slots[i].request.buffer);
	double seconds = (double)(uv_hrtime() - io.started) / 1e9;
	if (io.check)
		printf("%" PRIu64 " writes, %" PRIu64 " reads, %" PRIu64 " flushes\n", io.counts[UPSTAIRS_WRITE],
			io.counts[UPSTAIRS_READ], io.counts[UPSTAIRS_FLUSH]);
	fprintf(stderr, "upstairs-io: %s, %" PRIu64 " requests in %.2f s\n", io.status ? "failed" : "done", io.done, seconds);
	return io.status;
}
