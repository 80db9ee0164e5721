#include "kernel/io-flusher.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int become_io_flusher(struct reason *reason)
{
	int status = 0;
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		status = reason_set(reason, -errno, "memory: cannot be had without I/O (CAP_SYS_RESOURCE): %m");
	/* what there is now, programs and libraries, is read in; of what comes, only pages that are used: stacks are mostly not */
	if (mlockall(MCL_CURRENT) < 0 || mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		status = reason_set(reason, -errno, "memory: cannot be locked (LimitMEMLOCK): %m");
	return status;
}
