/* register-check.h: is what clients saw of a disk possible, sector by sector?
 *
 * Each sector is a register whose writes all have different ids. What was seen of it must be
 * linearizable: there must be one order of all reads and writes, in which every operation lies
 * between its begin and its end, and every read gives the write before it.
 *
 * Method (Gibbons and Korach, "Testing shared memories", for unique values): a write and all reads
 * that returned it form a cluster. f is the earliest end of an operation in it, s the latest begin.
 * The history is impossible exactly if a read returns a value not written before the read's end, or
 * if two clusters a and b have f(a) < s(b) and f(b) < s(a). That is checked whenever a cluster
 * changes, against the clusters that can still matter: one that has been overwritten by a write that
 * had ended before every operation still running began is dropped, as any later read of it would
 * be a fault anyway.
 *
 * A write whose connection was lost has no end. It may have happened before its successor's session
 * began, or never; check_write_lost() is told that moment. So a write that lands later is found.
 *
 * Time is any counter that rises with each event.
 */
#ifndef REGISTER_CHECK_H
#define REGISTER_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct register_check;

/* All sectors hold id 0, which stands for zeros. */
struct register_check *check_new(size_t sectors);
void check_free(struct register_check *check);

/* Each returns NULL, or what is impossible; the text is valid until the next call. */
const char *check_write_begin(struct register_check *check, size_t sector, uint64_t id, uint64_t now);
const char *check_write_end(struct register_check *check, size_t sector, uint64_t id, uint64_t now);
const char *check_write_lost(struct register_check *check, size_t sector, uint64_t id, uint64_t now);
const char *check_read(
	struct register_check *check, size_t sector, uint64_t id, uint64_t begin, uint64_t end);

/* Zeros written while nothing else ran on the sector. If `lost`, nobody knows whether before `end`,
 * when the next session began. */
void check_zeroed(struct register_check *check, size_t sector, bool lost, uint64_t begin, uint64_t end);

/* The begin of the oldest operation that still runs; `now` if there is none. */
void check_set_oldest(struct register_check *check, uint64_t begin);

#endif
