/* copy.h: bytes between a file and an open volume, several requests at a time, holes left out. */
#ifndef TB4_COPY_H
#define TB4_COPY_H

#include "cli/image-source.h"
#include "cli/offline.h"

struct copy_job {
	struct offline *offline;
	struct image_source *source; /* import */
	int fd;               /* export: written from its beginning; may be a pipe */
	const char *path;     /* of source or fd, for messages */
	uint64_t source_size; /* for progress; 0: not known (a pipe) */
	uint64_t size;        /* of the volume */
	bool is_blank;        /* import: the volume reads as zeros everywhere */
	bool is_fresh;        /* export: fd is a new, empty file, which may get holes */
};

/* Fills the volume from the source; zeros behind the end of the file. Returns 0, -EINTR after a signal,
 * -EFBIG if the file holds more than the volume, or another errno. Flushes. */
int copy_in(struct copy_job *job, struct reason *reason);
/* Writes the volume to fd: a regular file gets holes where the volume has zeros. */
int copy_out(struct copy_job *job, struct reason *reason);
/* Does the volume read as zeros everywhere? 1, 0 or an errno. Reads what its backend does not know to be zeros. */
int copy_is_blank(struct offline *offline, struct reason *reason);
/* Makes the whole volume zeros again. */
int copy_blank(struct offline *offline, struct reason *reason);

#endif
