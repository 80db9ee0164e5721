/* downstairs-floor: the least that a client of three downstairs can do: it sends frames that are encoded beforehand and
 * counts the answers. It marks what upstairs-io bench can reach on a machine; see bench-upstairs.py.
 *
 * Blocks of 4 KiB, plain, here and there. A write goes to all three and is done when all have answered; a read goes to
 * the one with the least to do. Nothing is hashed, checked, kept or flushed.
 *
 * usage: downstairs-floor read|write DEPTH SECONDS GENERATION PORT PORT PORT     (on 127.0.0.1)
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "block-hash.h"
#include "codec.h"

enum { BLOCK = 4096, DEPTH_MAX = 64, SLOTS = 3, RECEIVE = 1 << 20 };

struct slot {
	int fd;
	uint64_t sent, answered;
	uint8_t *received;
	size_t there;
};

static struct slot slots[SLOTS];
static struct crucible_session session;
static uint64_t blocks, next_id = 1;
static uint8_t frames[DEPTH_MAX][BLOCK + 256];
static size_t frame_length;
static long start_at; /* where a frame has its number of the block */

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double processor_seconds(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void read_more(struct slot *slot)
{
	ssize_t n = read(slot->fd, slot->received + slot->there, RECEIVE - slot->there);
	if (n <= 0)
		errx(1, "a downstairs has closed the connection");
	slot->there += (size_t)n;
}

/* Negotiation, one message after the other. */
static struct crucible_message converse(struct slot *slot, const struct crucible_message *message)
{
	uint8_t frame[200];
	struct crucible_message answer;
	const char *wrong = "";
	ssize_t length = crucible_encode(message, frame, sizeof frame);
	size_t wanted = 4;
	if (length < 0 || write(slot->fd, frame, (size_t)length) != length)
		err(1, "negotiation");
	slot->there = 0;
	while (crucible_frame_length(slot->received, slot->there, &wanted, &wrong) == -EAGAIN || slot->there < wanted)
		read_more(slot);
	if (crucible_decode(slot->received, wanted, &answer, &wrong) < 0)
		errx(1, "negotiation: %s", wrong);
	slot->there = 0;
	return answer;
}

static void negotiate(struct slot *slot, uint16_t port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int on = 1;
	slot->received = malloc(RECEIVE);
	slot->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (!slot->received || connect(slot->fd, (struct sockaddr *)&address, sizeof address) < 0)
		err(1, "port %u", port);
	setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	struct crucible_message hello = { .type = CRUCIBLE_HERE_I_AM };
	hello.here_i_am.version = CRUCIBLE_PROTOCOL_VERSION;
	hello.here_i_am.session = session;
	converse(slot, &hello);
	struct crucible_message promote = { .type = CRUCIBLE_PROMOTE_TO_ACTIVE, .session = session };
	if (converse(slot, &promote).type != CRUCIBLE_YOU_ARE_NOW_ACTIVE)
		errx(1, "port %u: not promoted", port);
	struct crucible_message region = converse(slot, &(struct crucible_message){ .type = CRUCIBLE_REGION_INFO_PLEASE });
	blocks = region.region_info.extent_size * region.region_info.extent_count;
	converse(slot, &(struct crucible_message){ .type = CRUCIBLE_EXTENT_VERSIONS_PLEASE });
}

static void encode_frames(bool writes, unsigned depth)
{
	static uint8_t data[BLOCK];
	memset(data, 7, sizeof data);
	struct crucible_block_context context = { .hash = block_hash(NULL, data, sizeof data) };
	struct crucible_message message = { .type = writes ? CRUCIBLE_WRITE : CRUCIBLE_READ_REQUEST,
		.job = { .upstairs_id = session.upstairs_id, .session_id = session.session_id } };
	if (writes) {
		message.write.contexts.items = &context;
		message.write.contexts.count = 1;
		message.write.data = (struct crucible_data){ data, sizeof data };
	} else {
		message.read_request.count = 1;
	}
	start_at = 4 + 4 + 24 + 24 + 8 + 8;
	for (unsigned i = 0; i < depth; i++) {
		ssize_t length = crucible_encode(&message, frames[i], sizeof frames[i]);
		if (length < 0)
			errx(1, "encoding");
		frame_length = (size_t)length;
	}
}

static void send_frames(struct slot *slot, const struct iovec *parts, unsigned count)
{
	struct iovec rest[DEPTH_MAX];
	memcpy(rest, parts, count * sizeof *rest);
	for (unsigned at = 0; at < count;) {
		ssize_t n = writev(slot->fd, rest + at, (int)(count - at));
		if (n < 0)
			err(1, "writev");
		for (; at < count && (size_t)n >= rest[at].iov_len; at++)
			n -= (ssize_t)rest[at].iov_len;
		if (at < count) {
			rest[at].iov_base = (char *)rest[at].iov_base + n;
			rest[at].iov_len -= (size_t)n;
		}
	}
	slot->sent += count;
}

static struct iovec next_frame(unsigned index)
{
	static uint64_t random = 1;
	random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	put_le64(frames[index] + 56, next_id++);
	put_le64(frames[index] + start_at, (random >> 20) % blocks);
	return (struct iovec){ frames[index], frame_length };
}

/* `count` requests. */
static void send_requests(bool writes, unsigned count)
{
	struct iovec parts[SLOTS][DEPTH_MAX];
	unsigned counts[SLOTS] = { 0 };
	for (unsigned i = 0; i < count; i++) {
		struct iovec frame = next_frame(i);
		unsigned least = 0;
		for (unsigned k = 0; k < SLOTS; k++) {
			if (writes)
				parts[k][counts[k]++] = frame;
			else if (slots[k].sent + counts[k] - slots[k].answered <
				slots[least].sent + counts[least] - slots[least].answered)
				least = k;
		}
		if (!writes)
			parts[least][counts[least]++] = frame;
	}
	for (unsigned k = 0; k < SLOTS; k++) {
		if (counts[k])
			send_frames(&slots[k], parts[k], counts[k]);
	}
}

static void count_answers(struct slot *slot)
{
	read_more(slot);
	size_t at = 0;
	while (slot->there - at >= 4) {
		size_t length = get_le32(slot->received + at);
		if (slot->there - at < length)
			break;
		at += length;
		slot->answered++;
	}
	memmove(slot->received, slot->received + at, slot->there - at);
	slot->there -= at;
}

static uint64_t done(bool writes)
{
	uint64_t sum = 0, least = UINT64_MAX;
	for (unsigned i = 0; i < SLOTS; i++) {
		sum += slots[i].answered;
		least = slots[i].answered < least ? slots[i].answered : least;
	}
	return writes ? least : sum;
}

int main(int argc, char **argv)
{
	if (argc != 5 + SLOTS || atoi(argv[2]) < 1 || atoi(argv[2]) > DEPTH_MAX)
		errx(64, "usage: downstairs-floor read|write DEPTH SECONDS GENERATION PORT PORT PORT");
	bool writes = strcmp(argv[1], "write") == 0;
	unsigned depth = (unsigned)atoi(argv[2]);
	session.generation = strtoull(argv[4], NULL, 0);
	if (getrandom(&session.upstairs_id, sizeof session.upstairs_id, 0) < 0 ||
		getrandom(&session.session_id, sizeof session.session_id, 0) < 0)
		err(1, "getrandom");
	for (unsigned i = 0; i < SLOTS; i++)
		negotiate(&slots[i], (uint16_t)atoi(argv[5 + i]));
	encode_frames(writes, depth);
	double began = seconds_now(), until = began + atof(argv[3]), used = processor_seconds();
	uint64_t sent = depth;
	send_requests(writes, depth);
	while (seconds_now() < until) {
		struct pollfd polls[SLOTS];
		for (unsigned i = 0; i < SLOTS; i++)
			polls[i] = (struct pollfd){ .fd = slots[i].fd, .events = POLLIN };
		poll(polls, SLOTS, -1);
		for (unsigned i = 0; i < SLOTS; i++) {
			if (polls[i].revents)
				count_answers(&slots[i]);
		}
		unsigned more = (unsigned)(done(writes) + depth - sent);
		if (more > 0)
			send_requests(writes, more);
		sent += more;
	}
	double count = (double)done(writes);
	printf("%.0f requests a second, %.1f us of processor each\n", count / (seconds_now() - began),
		(processor_seconds() - used) / count * 1e6);
	return 0;
}
