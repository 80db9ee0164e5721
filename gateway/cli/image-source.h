/* image-source.h: where an import's bytes come from: a raw file, a device, a pipe, or a qcow2 image.
 *
 * A qcow2 image is read through a qemu-nbd of its own, which ends with image_source_close(). One that names other files,
 * as backing files or for its data, is refused: an image from elsewhere must not bring files of this host with it.
 * Blocking.
 */
#ifndef TB4_IMAGE_SOURCE_H
#define TB4_IMAGE_SOURCE_H

#include <stdint.h>
#include <sys/types.h>

#include "reason.h"

struct nbd_handle;

struct image_source {
	int fd;                 /* -1: it is read through nbd */
	struct nbd_handle *nbd; /* NULL: it is read from fd */
	const char *path;       /* the caller's, or constant */
	uint64_t size;          /* bytes; 0: a pipe, not known before its end */
	uint64_t at;            /* the next byte */
};

/* "-" is standard input. image_source_close() in any case. */
int image_source_open(const char *path, struct image_source *source, struct reason *reason);
void image_source_close(struct image_source *source);
/* Reads until `size` bytes are there or the end has come. Returns how many, or an errno; -EINTR after a signal. */
ssize_t image_source_read(struct image_source *source, uint8_t *buffer, size_t size);
/* Goes on to the next data, as far as that is known: to a multiple of `unit`. Returns where it is then. */
uint64_t image_source_skip(struct image_source *source, uint64_t unit);

#endif
