#include "log.h"

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

enum { LINE_SIZE = 1024, FIELD_SIZE = 160, PEER_BURST = 20 };

static const char journal_socket[] = "/run/systemd/journal/socket";

static const char *log_program = "tb4";
static enum log_level log_limit = LOG_LEVEL_INFO;
static bool log_to_journal;
static bool has_journal; /* and it takes fields */
static uint64_t log_vmid;

static unsigned long peer_tokens = PEER_BURST;
static time_t peer_refilled;
static unsigned long peer_left_out;

/* systemd sets JOURNAL_STREAM=DEVICE:INODE; it holds only while standard error is still that one. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
		fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_open(const char *program, enum log_level level)
{
	log_program = program;
	log_limit = level;
	log_to_journal = stderr_is_journal();
	has_journal = log_to_journal && access(journal_socket, W_OK) == 0; /* sendv() would say nothing if it is not there */
}

void log_set_vmid(uint64_t vmid)
{
	log_vmid = vmid;
}

void log_set_level(enum log_level level)
{
	log_limit = level;
}

/* Copies `text` to `out`, control characters as \xNN. Returns the length; always leaves room for "\n". */
static size_t copy_printable(char *out, size_t size, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;
	for (const unsigned char *p = (const unsigned char *)text; *p && n + 5 < size; p++) {
		bool is_c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0; /* U+0080 to U+009F */
		if (*p >= 0x20 && *p != 0x7f && !is_c1) {
			out[n++] = (char)*p;
			continue;
		}
		out[n++] = '\\';
		out[n++] = 'x';
		out[n++] = hex[*p >> 4];
		out[n++] = hex[*p & 15];
	}
	return n;
}

static void log_text(enum log_level level, const char *text)
{
	char line[LINE_SIZE];
	int prefix = log_to_journal ? snprintf(line, sizeof line, "<%d>%s: ", level, log_program)
								: snprintf(line, sizeof line, "%s: ", log_program);
	if (prefix < 0 || (size_t)prefix > sizeof line / 2)
		prefix = 0;
	size_t n = (size_t)prefix;
	n += copy_printable(line + n, sizeof line - n, text);
	line[n++] = '\n';
	int saved = errno;
	ssize_t written = write(STDERR_FILENO, line, n);
	(void)written; /* there is nobody left to tell */
	errno = saved;
}

void log_line(enum log_level level, const char *format, ...)
{
	if (level > log_limit)
		return;
	char text[LINE_SIZE];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	log_text(level, text);
}

struct fields {
	char texts[6][FIELD_SIZE];
	struct iovec items[7];
	int count;
};

static void add_field(struct fields *fields, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_field(struct fields *fields, const char *format, ...)
{
	char *text = fields->texts[fields->count];
	va_list args;
	va_start(args, format);
	vsnprintf(text, FIELD_SIZE, format, args);
	va_end(args);
	fields->items[fields->count++] = (struct iovec){ .iov_base = text, .iov_len = strlen(text) };
}

/* False: it was not taken. */
static bool send_to_journal(enum log_level level, const char *event, const char *volume, int slot, const char *text)
{
	char message[LINE_SIZE];
	struct fields fields = { .count = 0 };
	int prefix = snprintf(message, sizeof message, "MESSAGE=%s: ", log_program);
	if (!has_journal || prefix < 0 || (size_t)prefix > sizeof message / 2)
		return false;
	add_field(&fields, "MESSAGE_ID=%s", event);
	add_field(&fields, "PRIORITY=%d", level);
	if (log_vmid)
		add_field(&fields, "TB4_VMID=%llu", (unsigned long long)log_vmid);
	if (volume)
		add_field(&fields, "TB4_VOLUME=%s", volume);
	if (slot != LOG_NO_SLOT)
		add_field(&fields, "TB4_SLOT=%d", slot);
	size_t length = (size_t)prefix;
	length += copy_printable(message + length, sizeof message - length, text);
	fields.items[fields.count++] = (struct iovec){ .iov_base = message, .iov_len = length };
	int saved = errno;
	int status = sd_journal_sendv(fields.items, fields.count);
	errno = saved;
	return status == 0;
}

void log_event(enum log_level level, const char *event, const char *volume, int slot, const char *format, ...)
{
	if (level > log_limit)
		return;
	char text[LINE_SIZE];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (!send_to_journal(level, event, volume, slot, text))
		log_text(level, text);
}

void log_peer(const char *format, ...)
{
	struct timespec now;
	if (log_limit < LOG_LEVEL_WARNING)
		return;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec > peer_refilled) {
		peer_tokens += (unsigned long)(now.tv_sec - peer_refilled);
		if (peer_tokens > PEER_BURST)
			peer_tokens = PEER_BURST;
		peer_refilled = now.tv_sec;
	}
	if (peer_tokens == 0) {
		peer_left_out++;
		return;
	}
	peer_tokens--;
	if (peer_left_out > 0)
		log_line(LOG_LEVEL_WARNING, "%lu lines about peers were left out", peer_left_out);
	peer_left_out = 0;
	char text[LINE_SIZE];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	log_text(LOG_LEVEL_WARNING, text);
}
