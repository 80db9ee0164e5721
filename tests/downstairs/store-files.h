/* store-files.h: extents in files, at the places that upstream has for them: DIR/00/000/00A is
 * extent 10, and DIR/region.json says what the region is.
 *
 * The files are mapped: what is written is in the page cache, and so outlives the process. A file
 * system that is really full ends the process (SIGBUS); tests ask for ENOSPC by a fault instead.
 */
#ifndef DOWNSTAIRS_STORE_FILES_H
#define DOWNSTAIRS_STORE_FILES_H

#include "codec.h"
#include "store.h"

/* Each ends the program with a message if it fails. */
void store_create(const char *directory, const struct crucible_region *region);
/* `really_syncs`: a sync of an extent reaches the medium, and costs its time. */
struct store *store_open(
	const char *directory, bool read_only, bool really_syncs, struct crucible_region *region);

#endif
