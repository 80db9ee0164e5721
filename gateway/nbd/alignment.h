/* alignment.h: requests that are not made of whole blocks (design section 7.4).
 *
 * For clients that never agreed to block sizes: the kernel's, those that used EXPORT_NAME, and
 * old programs. READ goes through a bounce buffer; WRITE and ZERO read the first and the last block,
 * put the new bytes in and write whole blocks; TRIM leaves partial blocks alone; CACHE and STATUS
 * look at the whole blocks around. export.c sees to it that no other write to the blocks runs
 * meanwhile, and gives the result to the client.
 */
#ifndef TB4_ALIGNMENT_H
#define TB4_ALIGNMENT_H

#include "nbd/export.h"

/* Sets request->first and end; true if the range is made of whole blocks. */
bool alignment_find_blocks(struct export_request *request, uint32_t block_min);
/* Does the request, then calls export_request_done(). */
void alignment_start(struct export_request *request);

#endif
