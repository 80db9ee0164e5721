/* floor: the smallest NBD server that still moves the bytes.
 *
 * It marks how fast any server can be on a machine: one client at a time, one
 * thread, blocking calls, no checks, no fairness, no shutdown, one export.
 * bench.py compares tb4-gateway against it. It is no part of the product and
 * must never serve anything but a benchmark.
 *
 * usage: floor SOCKET FILE
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd/nbd-protocol.h"
#include "nbd/wire.h"

enum { RX_SIZE = 256 << 10, TX_SIZE = 256 << 10, BIG_SIZE = 32 << 20, HEADER = 28 };

static uint8_t rx[RX_SIZE], tx[TX_SIZE + BIG_SIZE], big[BIG_SIZE];
static int sock, file;
static uint64_t file_size;
static int structured;

static int send_all(const void *data, size_t len)
{
	const uint8_t *p = data;
	while (len > 0) {
		ssize_t n = write(sock, p, len);
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int recv_all(void *data, size_t len)
{
	uint8_t *p = data;
	while (len > 0) {
		ssize_t n = read(sock, p, len);
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int option_reply(uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	uint8_t h[20], *p = put_u64(h, NBD_REPLY_OPTION_MAGIC);
	p = put_u32(p, option);
	p = put_u32(p, type);
	put_u32(p, len);
	return send_all(h, sizeof h) || send_all(data, len) ? -1 : 0;
}

static int handshake(void)
{
	static uint8_t data[1 << 16];
	uint8_t h[18], *p = put_u64(h, NBD_MAGIC);
	p = put_u64(p, NBD_OPTION_MAGIC);
	put_u16(p, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	structured = 0;
	if (send_all(h, sizeof h) || recv_all(data, 4))
		return -1;
	for (;;) {
		uint8_t o[16];
		if (recv_all(o, sizeof o))
			return -1;
		uint32_t option = get_u32(o + 8), len = get_u32(o + 12);
		if (len > sizeof data || recv_all(data, len))
			return -1;
		if (option == NBD_OPT_STRUCTURED_REPLY) {
			structured = 1;
			if (option_reply(option, NBD_REP_ACK, "", 0))
				return -1;
		} else if (option == NBD_OPT_GO) {
			uint8_t info[12], *q = put_u16(info, NBD_INFO_EXPORT);
			q = put_u64(q, file_size);
			put_u16(q, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH);
			if (option_reply(option, NBD_REP_INFO, info, sizeof info))
				return -1;
			return option_reply(option, NBD_REP_ACK, "", 0);
		} else if (option_reply(option, NBD_REP_ERR_UNSUP, "", 0)) {
			return -1;
		}
	}
}

/* Answers a request whose payload, if any, lies at `payload`. Returns the end of the reply in tx. */
static uint8_t *answer(uint8_t *p, const uint8_t *request, const uint8_t *payload)
{
	uint16_t type = get_u16(request + 6);
	uint64_t offset = get_u64(request + 16);
	uint32_t length = get_u32(request + 24);
	ssize_t n = 0;
	if (type == NBD_CMD_READ && structured) {
		p = put_u32(p, NBD_STRUCTURED_REPLY_MAGIC);
		p = put_u16(p, NBD_REPLY_FLAG_DONE);
		p = put_u16(p, NBD_REPLY_TYPE_OFFSET_DATA);
		memcpy(p, request + 8, 8);
		p = put_u32(p + 8, length + 8);
		p = put_u64(p, offset);
	} else {
		p = put_u32(p, NBD_SIMPLE_REPLY_MAGIC);
		p = put_u32(p, 0);
		memcpy(p, request + 8, 8);
		p += 8;
	}
	if (type == NBD_CMD_READ) {
		n = pread(file, p, length, (off_t)offset);
		p += length;
	} else if (type == NBD_CMD_WRITE) {
		n = pwrite(file, payload, length, (off_t)offset);
	} else {
		length = 0;
	}
	if (n != (ssize_t)length && type != NBD_CMD_FLUSH)
		err(1, "I/O");
	return p;
}

static void serve(void)
{
	size_t have = 0;
	for (;;) {
		ssize_t n = read(sock, rx + have, RX_SIZE - have);
		if (n <= 0)
			return;
		have += (size_t)n;
		size_t at = 0;
		uint8_t *p = tx;
		while (have - at >= HEADER) {
			const uint8_t *request = rx + at;
			uint16_t type = get_u16(request + 6);
			uint32_t length = get_u32(request + 24);
			if (type == NBD_CMD_DISC)
				return;
			size_t payload = type == NBD_CMD_WRITE ? length : 0;
			if (type == NBD_CMD_READ && (size_t)(p - tx) + length + 64 > TX_SIZE && p > tx) {
				if (send_all(tx, (size_t)(p - tx)))
					return;
				p = tx;
			}
			if (have - at < HEADER + payload) {
				if (payload < RX_SIZE / 4)
					break;
				size_t part = have - at - HEADER;
				memcpy(big, request + HEADER, part);
				if (recv_all(big + part, payload - part))
					return;
				p = answer(p, request, big);
				have = at = 0;
				break;
			}
			p = answer(p, request, request + HEADER);
			at += HEADER + payload;
		}
		if (p > tx && send_all(tx, (size_t)(p - tx)))
			return;
		have -= at;
		memmove(rx, rx + at, have);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(64, "usage: floor SOCKET FILE");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	if (strlen(argv[1]) >= sizeof addr.sun_path)
		errx(64, "%s: too long", argv[1]);
	strcpy(addr.sun_path, argv[1]);
	struct stat st;
	file = open(argv[2], O_RDWR | O_CLOEXEC);
	if (file < 0 || fstat(file, &st) < 0)
		err(1, "%s", argv[2]);
	file_size = (uint64_t)st.st_size;
	unlink(argv[1]);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(listener, 1) < 0)
		err(1, "%s", argv[1]);
	for (;;) {
		sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (sock < 0)
			err(1, "accept");
		if (handshake() == 0)
			serve();
		close(sock);
	}
}
