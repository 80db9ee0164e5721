/* empty.h: which blocks of a volume are known to have never been written.
 *
 * One bit per block, in chunks of 32768 blocks (128 MiB of 4 KiB blocks). A chunk of which nothing or all is known to
 * be empty takes no memory but its pointer; any other 4 KiB. So 1 TiB of 4 KiB blocks takes 64 KiB, and 32 MiB at
 * the most. What there is no memory for is forgotten, which is always right: a block that is not known to be empty may
 * be anything.
 *
 * Blocks are numbers below the count of the map. All functions take NULL for a map in which nothing is known. Not
 * thread-safe: the core's thread.
 */
#ifndef UPSTAIRS_EMPTY_H
#define UPSTAIRS_EMPTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct upstairs_environment;
struct empty_map;

/* NULL without memory. The environment is used until empty_close(). */
struct empty_map *empty_open(const struct upstairs_environment *environment, uint64_t block_count);
void empty_close(struct empty_map *map);

void empty_add(struct empty_map *map, uint64_t start, uint64_t count);
void empty_remove(struct empty_map *map, uint64_t start, uint64_t count);
/* How many blocks from `start` on are like it, at most `count`, which is not 0; and what it is. */
uint64_t empty_run(const struct empty_map *map, uint64_t start, uint64_t count, bool *is_empty);
/* Bytes that the map takes now. */
size_t empty_memory(const struct empty_map *map);

#endif
