/* reason.h: one sentence that goes with an error.
 *
 * Inside the program an error is a negative errno; a function whose failure a person has to
 * understand also takes a struct reason and fills it at the place of the cause, as
 * "what it is about: what is wrong: what to do". Nobody above adds to it or prints it twice;
 * the outermost layer prints it, once, behind the program's name.
 */
#ifndef TB4_REASON_H
#define TB4_REASON_H

#include <stdarg.h>

struct reason {
	char text[512]; /* cut short, never overrun */
};

/* Fills *reason (which may be NULL) and returns `error`, a negative errno. */
int reason_set(struct reason *reason, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The sysexits-like exit status for a negative errno: see "EXIT STATUS" in tb4(1). 0 for 0. */
int exit_status_for(int error);

/* The same list by name, for what is known at the edge only. */
enum exit_status {
	EXIT_DEGRADED = 1,     /* something runs, but not as it should */
	EXIT_BROKEN = 2,       /* doctor: something does not work */
	EXIT_BAD_USAGE = 64,   /* the command line is wrong */
	EXIT_BAD_DATA = 65,    /* a file is damaged or not what it should be */
	EXIT_NO_INPUT = 66,    /* no such volume, file or VM */
	EXIT_UNAVAILABLE = 69, /* no gateway answers, or a backend does not */
	EXIT_INTERNAL = 70,    /* out of memory, or a fault of ours */
	EXIT_CANT_CREATE = 73, /* exists already, or there is no room */
	EXIT_IO = 74,          /* reading or writing failed */
	EXIT_TRY_LATER = 75,   /* owned or locked by somebody else now */
	EXIT_NO_PERMISSION = 77,
	EXIT_BAD_CONFIG = 78, /* tb4.conf or a volume file has faults */
	EXIT_FENCED = 90,     /* superseded; must not be restarted by itself */
	EXIT_INTERRUPTED = 130,
};

#endif
