/* nbd-history: loads an NBD export and checks that everything seen could have happened.
 *
 * Several connections of one process read, write, flush and zero random ranges at the same time, of
 * mixed sizes down to one sector. Each written sector carries the id of its write, and
 * register-check.h decides after each read whether its result is possible. The connections
 * survive faults: when one breaks, because somebody killed the server, or because --cut tells this
 * program to break it, it is made anew and the load goes on. What was in flight on it may have
 * happened before the new session began, or not at all; later is a violation.
 *
 * usage: nbd-history [OPTION...] SOCKET EXPORT
 *   --connections N   (4)          --depth N     in flight per connection (8)
 *   --region BYTES    used at the beginning of the export (16M); is zeroed first
 *   --max BYTES       largest request (64K)      --align BYTES (512)
 *   --operations N    stop after so many (0: no limit)
 *   --seconds S       stop after so long (0: no limit)
 *   --cut N           break a random connection after each N operations on average (0: never)
 *   --seed N          (from the clock; printed)
 *   --no-block-size   do not ask the server for block sizes, and send what fits --align
 *   --no-zero         without WRITE_ZEROES
 *   --reconnect S     give up when no connection can be made for so long (30)
 *   --stop-file PATH  stop when the file exists
 *   --wait            when the region is zeroed, print "ready" and wait for a line on standard input
 *
 * Prints one line of figures. Exit status: 0 all possible, 1 violation, 2 anything else.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <libnbd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "register-check.h"

enum { SECTOR = 512, WORDS = SECTOR / 8, CONNECTIONS_MAX = 64, VIOLATIONS_SHOWN = 5 };

enum kind { READ, WRITE, ZERO, FLUSH };

struct connection;

struct operation {
	struct connection *connection;
	enum kind kind;
	uint64_t id, begin, offset, length;
	uint8_t *buffer;
	bool is_running, is_done;
	int error;
};

struct connection {
	struct nbd_handle *nbd;
	struct operation *operations; /* depth */
	bool is_broken;
	unsigned busy;
};

static struct {
	const char *socket, *export, *stop_file;
	unsigned connections, depth;
	uint64_t region, max, align, operations, cut, seed;
	double seconds, reconnect;
	bool no_block_size, no_zero, wait;
} options = {
	.connections = 4, .depth = 8, .region = 16 << 20, .max = 64 << 10, .align = SECTOR, .reconnect = 30,
};

static struct register_check *check;
static struct connection connections[CONNECTIONS_MAX];
static uint32_t *users;  /* per sector: operations in flight that touch it */
static bool *exclusive;  /* per sector: a ZERO is in flight */
static uint64_t now_counter = 1, next_id = 1, random_state;
static uint64_t count_reads, count_writes, count_zeros, count_flushes, count_errors, count_reconnects,
	count_lost, count_violations;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void violation(const char *text)
{
	if (!text)
		return;
	if (count_violations++ < VIOLATIONS_SHOWN)
		fprintf(stderr, "nbd-history: VIOLATION: %s\n", text);
}

/* Sector contents */

static uint64_t stamp_word(uint64_t id, uint64_t sector, unsigned word)
{
	return word == 0 ? id : (id + word) * UINT64_C(0x9e3779b97f4a7c15) ^ sector;
}

static void stamp(uint8_t *bytes, uint64_t id, uint64_t sector)
{
	uint64_t words[WORDS];
	for (unsigned i = 0; i < WORDS; i++)
		words[i] = stamp_word(id, sector, i);
	memcpy(bytes, words, sizeof words);
}

/* The id that a sector carries. False if it is neither a stamp of this sector nor zeros. */
static bool read_stamp(const uint8_t *bytes, uint64_t sector, uint64_t *id)
{
	uint64_t words[WORDS];
	memcpy(words, bytes, sizeof words);
	*id = words[0];
	for (unsigned i = 1; i < WORDS; i++) {
		if (words[i] != (*id ? stamp_word(*id, sector, i) : 0))
			return false;
	}
	return true;
}

/* Ends of operations */

static void for_each_sector(const struct operation *operation,
	const char *(*function)(struct register_check *, size_t, uint64_t, uint64_t))
{
	for (uint64_t at = operation->offset; at < operation->offset + operation->length; at += SECTOR)
		violation(function(check, at / SECTOR, operation->id, now_counter));
}

static void check_read_operation(const struct operation *operation)
{
	for (uint64_t at = 0; at < operation->length; at += SECTOR) {
		uint64_t sector = (operation->offset + at) / SECTOR, id;
		char text[120];
		if (read_stamp(operation->buffer + at, sector, &id)) {
			violation(check_read(check, sector, id, operation->begin, now_counter));
		} else {
			snprintf(text, sizeof text, "sector %llu: neither zeros nor a whole write of ours (id %llx?)",
				(unsigned long long)sector, (unsigned long long)id);
			violation(text);
		}
	}
}

static void check_zero_operation(const struct operation *operation, bool lost)
{
	for (uint64_t at = operation->offset; at < operation->offset + operation->length; at += SECTOR)
		check_zeroed(check, at / SECTOR, lost, operation->begin, now_counter);
}

static void let_go(struct operation *operation)
{
	for (uint64_t at = operation->offset; at < operation->offset + operation->length; at += SECTOR) {
		users[at / SECTOR]--;
		exclusive[at / SECTOR] = false;
	}
	operation->is_running = false;
	operation->connection->busy--;
}

static void finish(struct operation *operation)
{
	now_counter++;
	if (operation->error)
		count_errors++;
	switch (operation->kind) {
	case READ:
		count_reads++;
		if (!operation->error)
			check_read_operation(operation);
		break;
	case WRITE:
		count_writes++;
		for_each_sector(operation, operation->error ? check_write_lost : check_write_end);
		break;
	case ZERO:
		count_zeros++;
		check_zero_operation(operation, operation->error);
		break;
	case FLUSH:
		count_flushes++;
		break;
	}
	let_go(operation);
}

/* The connection is gone and its successor begins now. */
static void lose(struct operation *operation)
{
	now_counter++;
	count_lost++;
	if (operation->kind == WRITE)
		for_each_sector(operation, check_write_lost);
	if (operation->kind == ZERO)
		check_zero_operation(operation, true);
	let_go(operation);
}

static int on_completion(void *context, int *error)
{
	struct operation *operation = context;
	operation->is_done = true;
	operation->error = *error;
	return 1;
}

/* Beginning operations */

static bool is_free(uint64_t offset, uint64_t length, bool wants_all)
{
	for (uint64_t at = offset; at < offset + length; at += SECTOR) {
		if (exclusive[at / SECTOR] || (wants_all && users[at / SECTOR] > 0))
			return false;
	}
	return true;
}

static void choose_range(struct operation *operation)
{
	uint64_t units = options.max / options.align, length;
	/* half of the requests are small, the others of any size */
	length = random_next() % 2 ? 1 + random_next() % 8 : 1 + random_next() % units;
	if (length > units)
		length = units;
	operation->length = length * options.align;
	operation->offset =
		random_next() % ((options.region - operation->length) / options.align + 1) * options.align;
}

static int submit(struct operation *operation)
{
	struct nbd_handle *nbd = operation->connection->nbd;
	nbd_completion_callback done = { .callback = on_completion, .user_data = operation };
	uint32_t fua = random_next() % 16 == 0 ? LIBNBD_CMD_FLAG_FUA : 0;
	int64_t cookie = -1;
	switch (operation->kind) {
	case READ:
		cookie = nbd_aio_pread(nbd, operation->buffer, operation->length, operation->offset, done, 0);
		break;
	case WRITE:
		for (uint64_t at = 0; at < operation->length; at += SECTOR)
			stamp(operation->buffer + at, operation->id, (operation->offset + at) / SECTOR);
		cookie = nbd_aio_pwrite(nbd, operation->buffer, operation->length, operation->offset, done, fua);
		break;
	case ZERO:
		cookie = nbd_aio_zero(nbd, operation->length, operation->offset, done,
			fua | (random_next() % 2 ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
		break;
	case FLUSH:
		cookie = nbd_aio_flush(nbd, done, 0);
		break;
	}
	return cookie < 0 ? -1 : 0;
}

static void begin(struct operation *operation)
{
	uint64_t roll = random_next() % 100;
	operation->kind = roll < 48 ? READ : roll < 95 ? WRITE : roll < 98 ? ZERO : FLUSH;
	if (operation->kind == ZERO && options.no_zero)
		operation->kind = WRITE;
	choose_range(operation);
	if (operation->kind == FLUSH)
		operation->offset = operation->length = 0;
	if (!is_free(operation->offset, operation->length, operation->kind == ZERO))
		return;
	operation->id = next_id++;
	operation->begin = ++now_counter;
	operation->is_done = false;
	operation->error = 0;
	operation->is_running = true;
	operation->connection->busy++;
	for (uint64_t at = operation->offset; at < operation->offset + operation->length; at += SECTOR) {
		users[at / SECTOR]++;
		exclusive[at / SECTOR] = operation->kind == ZERO;
	}
	if (operation->kind == WRITE)
		for_each_sector(operation, check_write_begin);
	if (submit(operation) < 0)
		operation->connection->is_broken = true;
}

/* Connections */

static void connect_one(struct connection *connection)
{
	double deadline = seconds_now() + options.reconnect;
	for (;;) {
		connection->nbd = nbd_create();
		if (!connection->nbd)
			errx(2, "%s", nbd_get_error());
		nbd_set_export_name(connection->nbd, options.export);
		nbd_set_strict_mode(connection->nbd, 0);
		if (options.no_block_size)
			nbd_set_request_block_size(connection->nbd, false);
		if (nbd_connect_unix(connection->nbd, options.socket) == 0)
			break;
		if (seconds_now() > deadline)
			errx(2, "cannot connect: %s", nbd_get_error());
		nbd_close(connection->nbd);
		usleep(2000);
	}
	connection->is_broken = false;
}

static void reconnect(struct connection *connection)
{
	nbd_close(connection->nbd); /* its callbacks do not come any more */
	connect_one(connection);
	count_reconnects++;
	for (unsigned i = 0; i < options.depth; i++) {
		struct operation *operation = &connection->operations[i];
		if (operation->is_running)
			lose(operation);
	}
}

static bool has_ended(const struct connection *connection)
{
	return nbd_aio_is_dead(connection->nbd) || nbd_aio_is_closed(connection->nbd);
}

static void collect(struct connection *connection)
{
	for (unsigned i = 0; i < options.depth; i++) {
		struct operation *operation = &connection->operations[i];
		if (!operation->is_running || !operation->is_done)
			continue;
		/* a broken connection ends its operations with an error of libnbd's own */
		if (operation->error && has_ended(connection))
			continue;
		finish(operation);
	}
}

static void notify(struct connection *connection, int events)
{
	unsigned direction = nbd_aio_get_direction(connection->nbd);
	if ((events & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
		nbd_aio_notify_read(connection->nbd);
	else if ((events & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
		nbd_aio_notify_write(connection->nbd);
	else if (events & (POLLHUP | POLLERR))
		connection->is_broken = true;
}

static void turn(void)
{
	struct pollfd fds[CONNECTIONS_MAX];
	for (unsigned i = 0; i < options.connections; i++) {
		unsigned direction = nbd_aio_get_direction(connections[i].nbd);
		fds[i] = (struct pollfd){
			.fd = nbd_aio_get_fd(connections[i].nbd),
			.events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) ? POLLIN : 0) |
				((direction & LIBNBD_AIO_DIRECTION_WRITE) ? POLLOUT : 0)),
		};
	}
	poll(fds, options.connections, 1000);
	for (unsigned i = 0; i < options.connections; i++) {
		if (!connections[i].is_broken && fds[i].revents)
			notify(&connections[i], fds[i].revents);
		collect(&connections[i]);
		if (connections[i].is_broken || has_ended(&connections[i]))
			reconnect(&connections[i]);
	}
	uint64_t oldest = now_counter + 1;
	for (unsigned i = 0; i < options.connections; i++) {
		for (unsigned k = 0; k < options.depth; k++) {
			const struct operation *operation = &connections[i].operations[k];
			if (operation->is_running && operation->begin < oldest)
				oldest = operation->begin;
		}
	}
	check_set_oldest(check, oldest);
}

static uint64_t done_count(void)
{
	return count_reads + count_writes + count_zeros + count_flushes;
}

static bool is_enough(double started)
{
	static unsigned calls;
	if (count_violations > 0 || (options.operations && done_count() >= options.operations))
		return true;
	if (++calls % 64 != 0)
		return false;
	return (options.seconds > 0 && seconds_now() - started >= options.seconds) ||
		(options.stop_file && access(options.stop_file, F_OK) == 0);
}

static void load(void)
{
	double started = seconds_now();
	while (!is_enough(started)) {
		for (unsigned i = 0; i < options.connections; i++) {
			struct connection *connection = &connections[i];
			for (unsigned k = 0; k < options.depth && !connection->is_broken; k++) {
				if (!connection->operations[k].is_running)
					begin(&connection->operations[k]);
			}
		}
		turn();
		if (options.cut && random_next() % options.cut < options.connections)
			connections[random_next() % options.connections].is_broken = true;
	}
	bool is_busy = true;
	while (is_busy) {
		turn();
		is_busy = false;
		for (unsigned i = 0; i < options.connections; i++)
			is_busy = is_busy || connections[i].busy > 0;
	}
}

/* Reads everything once more when nothing else runs. */
static void verify(void)
{
	static uint8_t buffer[1 << 20];
	for (uint64_t at = 0; at < options.region; at += sizeof buffer) {
		struct operation read = { .kind = READ, .offset = at, .buffer = buffer, .begin = ++now_counter };
		read.length = options.region - at < sizeof buffer ? options.region - at : sizeof buffer;
		while (nbd_pread(connections[0].nbd, buffer, read.length, at, 0) < 0)
			reconnect(&connections[0]);
		now_counter++;
		check_read_operation(&read);
	}
}

static void zero_region(void)
{
	static const uint8_t zeros[1 << 20];
	for (uint64_t at = 0; at < options.region; at += sizeof zeros) {
		uint64_t left = options.region - at;
		if (nbd_pwrite(connections[0].nbd, zeros, left < sizeof zeros ? left : sizeof zeros, at, 0) < 0)
			errx(2, "%s", nbd_get_error());
	}
}

/* Start */

static uint64_t parse_bytes(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);
	if (*end == 'K')
		value <<= 10;
	else if (*end == 'M')
		value <<= 20;
	else if (*end == 'G')
		value <<= 30;
	return value;
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "connections", required_argument, NULL, 'c' },
		{ "depth", required_argument, NULL, 'd' },
		{ "region", required_argument, NULL, 'r' },
		{ "max", required_argument, NULL, 'm' },
		{ "align", required_argument, NULL, 'a' },
		{ "operations", required_argument, NULL, 'o' },
		{ "seconds", required_argument, NULL, 's' },
		{ "cut", required_argument, NULL, 'k' },
		{ "seed", required_argument, NULL, 'S' },
		{ "no-block-size", no_argument, NULL, 'B' },
		{ "no-zero", no_argument, NULL, 'Z' },
		{ "reconnect", required_argument, NULL, 'R' },
		{ "stop-file", required_argument, NULL, 'f' },
		{ "wait", no_argument, NULL, 'w' },
		{ 0 },
	};
	options.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'c': options.connections = (unsigned)atoi(optarg); break;
		case 'd': options.depth = (unsigned)atoi(optarg); break;
		case 'r': options.region = parse_bytes(optarg); break;
		case 'm': options.max = parse_bytes(optarg); break;
		case 'a': options.align = parse_bytes(optarg); break;
		case 'o': options.operations = strtoull(optarg, NULL, 10); break;
		case 's': options.seconds = atof(optarg); break;
		case 'k': options.cut = strtoull(optarg, NULL, 10); break;
		case 'S': options.seed = strtoull(optarg, NULL, 10); break;
		case 'B': options.no_block_size = true; break;
		case 'Z': options.no_zero = true; break;
		case 'R': options.reconnect = atof(optarg); break;
		case 'f': options.stop_file = optarg; break;
		case 'w': options.wait = true; break;
		default: exit(2);
		}
	}
	if (optind + 2 != argc || options.connections < 1 || options.connections > CONNECTIONS_MAX ||
		options.max < options.align || options.region < options.max || options.align % SECTOR != 0)
		errx(2, "usage: nbd-history [OPTION...] SOCKET EXPORT, see the head of its source");
	options.socket = argv[optind];
	options.export = argv[optind + 1];
	random_state = options.seed * 2 + 1;
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	size_t sectors = options.region / SECTOR;
	check = check_new(sectors);
	users = calloc(sectors, sizeof *users);
	exclusive = calloc(sectors, sizeof *exclusive);
	for (unsigned i = 0; i < options.connections; i++) {
		connections[i].operations = calloc(options.depth, sizeof *connections[i].operations);
		for (unsigned k = 0; k < options.depth; k++) {
			connections[i].operations[k].connection = &connections[i];
			connections[i].operations[k].buffer = malloc(options.max);
		}
		connect_one(&connections[i]);
	}
	zero_region();
	if (options.wait) {
		puts("ready");
		fflush(stdout);
		getchar();
	}
	load();
	verify();
	printf("%llu operations (%llu reads, %llu writes, %llu zeroes, %llu flushes), %llu errors, "
		   "%llu reconnects, %llu lost, %llu violations, seed %llu\n",
		(unsigned long long)done_count(), (unsigned long long)count_reads,
		(unsigned long long)count_writes, (unsigned long long)count_zeros,
		(unsigned long long)count_flushes, (unsigned long long)count_errors,
		(unsigned long long)count_reconnects, (unsigned long long)count_lost,
		(unsigned long long)count_violations, (unsigned long long)options.seed);
	return count_violations > 0;
}
