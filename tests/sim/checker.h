/* checker.h: what guests may see of a volume's blocks, over all gateways.
 *
 * Each block is a register; all values written are different, 0 is what it holds at first. Method as in
 * tests/tools/register-check.h: a write and the reads that returned it form a cluster; f is the earliest end of an
 * operation in it, s the latest begin; two clusters a and b with f(a) < s(b) and f(b) < s(a) are impossible.
 *
 * Beyond that file
 *  1. checker_takeover(): a new gateway serves. Writes of the others that were not acknowledged have happened by now,
 *     or never will.
 *  2. A write is durable when a flush that began after its acknowledgement is acknowledged.
 *  3. With `may_lose` (host loss or forced take-over together with a loss of power) writes that are not durable and
 *     began before the loss of power may be gone at a takeover; each block then holds one of them, or the last durable
 *     value, and stays with what is read first.
 *
 * Times are a counter of events. Each function returns NULL, or what is impossible.
 */
#ifndef SIM_CHECKER_H
#define SIM_CHECKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checker;

struct checker *checker_new(size_t blocks);
void checker_free(struct checker *checker);

void checker_write(struct checker *checker, size_t block, uint64_t id, uint64_t owner, uint64_t now);
const char *checker_written(struct checker *checker, size_t block, uint64_t id, uint64_t now);
const char *checker_read(struct checker *checker, size_t block, uint64_t id, uint64_t begin, uint64_t end);
/* A flush that began at `begin` is acknowledged. */
void checker_flushed(struct checker *checker, uint64_t begin);
void checker_power_lost(struct checker *checker, uint64_t now);
/* From now on the loss of a host alone may lose what was not flushed. */
void checker_allow_loss(struct checker *checker);
void checker_takeover(struct checker *checker, uint64_t owner, bool may_lose, uint64_t now);
/* The begin of the oldest operation that still runs: older ones can be forgotten. */
void checker_set_oldest(struct checker *checker, uint64_t begin);

#endif
