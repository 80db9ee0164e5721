/* history.h: the writes since the last flush that every slot has, in memory that outlives the process.
 *
 * Implements design section 6.4. The area is given by the caller: a shared mapping of a file on tmpfs in
 * the product, plain memory in the simulator. It is a ring of entries, oldest first, each with the bytes
 * and contexts of one write in the order in which they were submitted.
 *
 * 1. An entry counts from the moment history_publish() has set its number; no frame of it may be sent
 *    before. What is killed in the middle of an append leaves nothing.
 * 2. Positions are entry numbers: they rise by one with each entry, never repeat, and a slot's place is the
 *    number of the first entry that it may lack.
 * 3. Entries below the lowest place of the slots that are kept are dropped by history_trim(); the memory of
 *    an entry stays where it is until then.
 * 4. The checksum of an entry covers its numbers and contexts, and these the data: history_open() refuses an area in
 *    which one is wrong. So a hash that would wedge a downstairs (trap T1) is not replayed either.
 * 5. Memory is used from its beginning on, and no more of it than the entries at a time have needed; so it may be of a
 *    file that grows, see struct history_memory.
 *
 * No I/O, no allocation. Not thread-safe: the core's thread. Sizes in bytes.
 */
#ifndef UPSTAIRS_HISTORY_H
#define UPSTAIRS_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec.h"

enum {
	UPSTAIRS_SLOTS = 3,
	HISTORY_ZEROS_MAX = 1 << 20, /* bytes that one entry of zeros stands for, at most */
};

/* One write. Its contexts and data lie behind it, in this order, or nothing if it is of zeros. */
struct history_entry {
	uint64_t number; /* 0: not published */
	uint64_t size;   /* of all of it, a multiple of 8 */
	uint64_t start, count; /* blocks */
	uint64_t checksum;
};

/* What is known of a slot, kept beside the entries. */
struct history_slot {
	uint64_t place;      /* entry number; 0: none, only a repair brings it back */
	uint64_t must_show;  /* generation that its region shows at least */
	uint64_t lies;       /* 1: it reported an error in a flush, and all of it has to be copied */
};

/* Where a history lies: `size_max` bytes of address space, aligned to 8, of which `size` are memory by now. */
struct history_memory {
	void *address;
	size_t size, size_max;
	/* Makes at least the first `size` bytes memory and returns how many are. Not called if size == size_max. */
	size_t (*grow)(void *context, size_t size);
	void *context;
};

struct history {
	struct history_area *area;
	struct history_memory memory;
	uint64_t block_size;
	uint64_t reach; /* blocks: no entry that history_open() has found goes beyond */
};

/* What a history needs from the beginning to be of use, for blocks of any size: room for one write of `bytes`. */
size_t history_size_min(size_t bytes);
/* Makes an empty history for one claim (`key`: any bytes that change when the record does). Returns 0 or -EINVAL if
 * the memory is too small. */
int history_create(struct history *history, const struct history_memory *memory, uint64_t block_size,
	const struct crucible_uuid *key);
/* Takes over what an earlier process left. Returns 0; -ENOENT if there is none, or only zeros; -EBADMSG if it is not
 * one for `key` and this version, or damaged, with *wrong a constant text. */
int history_open(struct history *history, const struct history_memory *memory, const struct crucible_uuid *key,
	const char **wrong);
/* How much of the memory it needs to keep as it is now: the rest may be taken away, by history_shrink(). */
size_t history_size_needed(const struct history *history);
/* The memory is `size` bytes from now on, at least what is needed. */
void history_shrink(struct history *history, size_t size);

/* Room for a write of `count` blocks; NULL if there is none before a trim. */
struct history_entry *history_reserve(struct history *history, uint64_t start, uint64_t count);
/* The same for a write of zeros to a region that is not encrypted, whose contexts and data need not be kept. */
struct history_entry *history_reserve_zeros(struct history *history, uint64_t start, uint64_t count);
bool history_is_zeros(const struct history_entry *entry);
/* The entry is complete: gives it the next number. Only the one reserved last, once. */
void history_publish(struct history *history, struct history_entry *entry);

/* Of one that is not of zeros. */
struct crucible_block_context *history_contexts(const struct history_entry *entry);
void *history_data(const struct history_entry *entry);

/* The number that the next entry gets. */
uint64_t history_end(const struct history *history);
/* The number of the oldest entry there is; history_end() if there is none. */
uint64_t history_begin(const struct history *history);
/* Walks: the newest, the one before, ... NULL behind the oldest; and the other way round. */
const struct history_entry *history_newest(const struct history *history);
const struct history_entry *history_before(const struct history *history, const struct history_entry *entry);
/* Drops the entries below `number`. */
void history_trim(struct history *history, uint64_t number);
/* Bytes in use, and in all. */
uint64_t history_used(const struct history *history);
uint64_t history_capacity(const struct history *history);
/* It is time to make room: of bytes, or of blocks, of which entries of zeros hold more than they take bytes. */
bool history_is_half_full(const struct history *history);

const struct history_slot *history_slot(const struct history *history, unsigned slot);
/* Of all slots by one store: a process that is killed in it leaves what was there or what is. */
void history_set_slots(struct history *history, const struct history_slot slots[UPSTAIRS_SLOTS]);
void history_set_slot(struct history *history, unsigned slot, const struct history_slot *value);
/* A counter that no process repeats: flush numbers that were ever sent. */
uint64_t history_flush_number(const struct history *history);
void history_set_flush_number(struct history *history, uint64_t number);

#endif
