#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_SIZE = 1024, PEER_BURST = 20 };

static const char *log_program = "tb4";
static enum log_level log_limit = LOG_LEVEL_INFO;
static bool log_to_journal;

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
