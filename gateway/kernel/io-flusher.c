#include "kernel/io-flusher.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int become_io_flusher(struct reason *reason)
{
	int status = 0;
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		status = reason_set(reason, -errno, "memory: cannot be had without I/O (CAP_SYS_RESOURCE): %m");
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		status = reason_set(reason, -errno, "memory: cannot be locked (LimitMEMLOCK): %m");
	return status;
}
