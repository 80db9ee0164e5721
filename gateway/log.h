/* log.h: one line per event on standard error.
 *
 * "tb4-gateway[200]: vm-200-disk-0: reason: hint". Under systemd (JOURNAL_STREAM names our
 * standard error) each line starts with its syslog priority, "<4>". Control characters in the
 * text, which may come from a peer, are printed as \xNN. One write(2) per line.
 *
 * Lines that a peer can cause go through log_peer(), which lets a burst of 20 and then one a
 * second through and says how many it left out, so that nobody can flood the journal. Only the
 * loop's thread may call log_peer().
 *
 * A change of state goes through log_event(). Under systemd that line is sent to the journal itself, with MESSAGE_ID,
 * TB4_VMID, TB4_VOLUME and TB4_SLOT, so that it can be looked for and explained (journalctl -x); otherwise it is a line as
 * any other.
 */
#ifndef TB4_LOG_H
#define TB4_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "log-events.h"

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/* `program` must outlive the process; it is printed before each line. Lines above `level` are dropped. */
void log_open(const char *program, enum log_level level);
void log_set_level(enum log_level level);
/* The VM that this process is for, for log_event(). */
void log_set_vmid(uint64_t vmid);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_peer(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum { LOG_NO_SLOT = -1 };
/* `event` is one of log-events.h; `volume` may be NULL. */
void log_event(enum log_level level, const char *event, const char *volume, int slot, const char *format, ...)
	__attribute__((format(printf, 5, 6)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
