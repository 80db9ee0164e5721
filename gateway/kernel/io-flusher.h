/* io-flusher.h: a process that the kernel's own writes wait for.
 *
 * When memory is short the kernel writes pages out, perhaps to a device that this process serves or keeps. Memory that the process
 * needs for that must not wait for those very writes, and its own pages must not have to be read first.
 */
#ifndef TB4_IO_FLUSHER_H
#define TB4_IO_FLUSHER_H

#include "reason.h"

/* For this process and the threads that it starts later. Pages are locked once they have been used, and so what is not
 * needed takes no memory. Needs CAP_SYS_RESOURCE, and RLIMIT_MEMLOCK. Returns 0 or an errno; what is permitted of it is done in
 * any case. */
int become_io_flusher(struct reason *reason);

#endif
