#include "reason.h"

#include <errno.h>
#include <stdio.h>

int reason_set(struct reason *reason, int error, const char *format, ...)
{
	if (reason) {
		va_list args;
		va_start(args, format);
		vsnprintf(reason->text, sizeof reason->text, format, args);
		va_end(args);
	}
	return error;
}

int exit_status_for(int error)
{
	switch (-error) {
	case 0:
		return 0;
	case EINVAL:
	case E2BIG:
		return EXIT_BAD_USAGE;
	case EBADMSG:
	case ENOTDIR:
	case ELOOP:
		return EXIT_BAD_DATA;
	case ENOENT:
	case ENODEV:
	case EISDIR:
		return EXIT_NO_INPUT;
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ETIMEDOUT:
	case EOPNOTSUPP:
		return EXIT_UNAVAILABLE;
	case EEXIST:
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
	case EROFS:
	case EADDRINUSE:
		return EXIT_CANT_CREATE;
	case EIO:
	case EPIPE:
		return EXIT_IO;
	case EBUSY:
	case EAGAIN:
	case ESTALE:
		return EXIT_TRY_LATER;
	case EACCES:
	case EPERM:
		return EXIT_NO_PERMISSION;
	case ENAMETOOLONG:
	case ENOTUNIQ: /* a configuration that contradicts itself */
		return EXIT_BAD_CONFIG;
	case EOWNERDEAD:
		return EXIT_FENCED;
	case EINTR:
		return EXIT_INTERRUPTED;
	default:
		return EXIT_INTERNAL;
	}
}
