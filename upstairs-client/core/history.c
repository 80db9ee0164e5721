#include "core/history.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

#include "block-hash.h"

#define MAGIC UINT64_C(0x3479726f74736968) /* "history4": changes with everything below */

/* The ring: [tail, head) of `bytes` holds entries, oldest first, or, if it wraps round, [tail, wrap) and
 * [0, head). An entry never wraps. With it, what is known of the slots. */
struct ring {
	uint64_t tail, head, wrap; /* wrap: where the upper part ends; 0: there is none */
	uint64_t newest;           /* position of the newest entry */
	uint64_t next_number, count;
	uint64_t blocks; /* of all entries */
	struct history_slot slots[UPSTAIRS_SLOTS];
};

struct history_area {
	uint64_t magic;
	struct crucible_uuid key;
	uint64_t block_size, capacity;
	/* A process may be killed between any two stores: a change is made in the ring that is not current,
	 * and then becomes it by a single store. */
	struct ring rings[2];
	uint64_t current;
	uint64_t flush_number;
	uint8_t bytes[] __attribute__((aligned(8)));
};

/* An entry as it lies in the ring. */
struct stored {
	uint64_t before; /* position of the entry before */
	struct history_entry entry;
};

static const struct ring *ring_of(const struct history *history)
{
	return &history->area->rings[history->area->current & 1];
}

static struct ring *begin_change(struct history *history)
{
	struct ring *other = &history->area->rings[~history->area->current & 1];
	*other = *ring_of(history);
	return other;
}

static void end_change(struct history *history)
{
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit((_Atomic uint64_t *)&history->area->current, ~history->area->current & 1,
		memory_order_release);
}

static struct stored *at(const struct history *history, uint64_t position)
{
	return (struct stored *)(history->area->bytes + position);
}

static const struct stored *stored_of(const struct history_entry *entry)
{
	return (const struct stored *)((const uint8_t *)entry - offsetof(struct stored, entry));
}

static uint64_t position_of(const struct history *history, const struct history_entry *entry)
{
	return (uint64_t)((const uint8_t *)stored_of(entry) - history->area->bytes);
}

static uint64_t size_of(const struct history *history, uint64_t count)
{
	uint64_t each = sizeof(struct crucible_block_context) + history->area->block_size;
	return (sizeof(struct stored) + count * each + 7) & ~UINT64_C(7);
}

/* Of all but the data, which the contexts cover. */
static uint64_t checksum_of(const struct history_entry *entry)
{
	uint64_t head = XXH64(entry, offsetof(struct history_entry, checksum), 0);
	if (history_is_zeros(entry))
		return head;
	return XXH64(history_contexts(entry), entry->count * sizeof(struct crucible_block_context), head);
}

size_t history_size_min(size_t bytes)
{
	enum { BLOCK_MIN = 512 };
	return sizeof(struct history_area) + sizeof(struct stored) + bytes +
		(bytes / BLOCK_MIN + 1) * sizeof(struct crucible_block_context);
}

int history_create(struct history *history, const struct history_memory *memory, uint64_t block_size,
	const struct crucible_uuid *key)
{
	struct history_area *area = memory->address;
	if (memory->size < sizeof *area + 64 || memory->size > memory->size_max)
		return -EINVAL;
	area->magic = 0; /* until all of it is valid */
	atomic_thread_fence(memory_order_release);
	*area = (struct history_area){
		.key = *key,
		.block_size = block_size,
		.capacity = (memory->size_max - sizeof *area) & ~UINT64_C(7),
		.rings[0].next_number = 1,
	};
	atomic_thread_fence(memory_order_release);
	area->magic = MAGIC;
	*history = (struct history){ .area = area, .memory = *memory, .block_size = block_size };
	return 0;
}

/* How much of the ring is memory. */
static uint64_t usable(const struct history *history)
{
	uint64_t there = (history->memory.size - sizeof *history->area) & ~UINT64_C(7);
	return there < history->area->capacity ? there : history->area->capacity;
}

static bool is_whole(const struct history *history, const struct history_entry *entry)
{
	const struct crucible_block_context *context = history_contexts(entry);
	const uint8_t *block = history_data(entry);
	if (entry->checksum != checksum_of(entry))
		return false;
	if (history_is_zeros(entry))
		return true;
	for (uint64_t i = 0; i < entry->count; i++, context++, block += history->block_size) {
		if (context->hash != block_hash(context->is_encrypted ? &context->encryption : NULL, block, history->block_size))
			return false;
	}
	return true;
}

static bool has_possible_size(const struct history *history, const struct history_entry *entry)
{
	if (history_is_zeros(entry))
		return entry->count <= HISTORY_ZEROS_MAX / history->block_size;
	return entry->count <= usable(history) / history->block_size && entry->size == size_of(history, entry->count);
}

/* Are the entries where the header says, whole, numbered in order, and the oldest where the ring begins? */
static bool entries_are_valid(struct history *history)
{
	const struct ring *ring = ring_of(history);
	uint64_t position = ring->newest, oldest = ring->tail, wrap = 0, limit = usable(history), blocks = 0;
	for (uint64_t i = 1; i <= ring->count; i++) {
		if (position % 8 != 0 || position > limit || limit - position < sizeof(struct stored))
			return false;
		const struct stored *stored = at(history, position);
		const struct history_entry *entry = &stored->entry;
		if (entry->number != ring->next_number - i || entry->count == 0 || !has_possible_size(history, entry) ||
			entry->size > limit - position || entry->start > UINT64_MAX - entry->count || !is_whole(history, entry) ||
			(i == 1 && ring->head != position + entry->size))
			return false;
		if (i > 1 && position > oldest)
			wrap = position + entry->size;
		if (history->reach < entry->start + entry->count)
			history->reach = entry->start + entry->count;
		blocks += entry->count;
		oldest = position;
		position = stored->before;
	}
	return oldest == ring->tail && wrap == ring->wrap && blocks == ring->blocks;
}

/* Could the numbers of the header be those of a history that lies in this memory? */
static bool header_is_valid(const struct history *history)
{
	const struct history_area *area = history->area;
	const struct ring *ring = ring_of(history);
	uint64_t capacity = (history->memory.size_max - sizeof *area) & ~UINT64_C(7);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (ring->slots[i].place > ring->next_number || ring->slots[i].lies > 1)
			return false;
	}
	return area->capacity <= capacity && area->block_size >= 512 && area->block_size <= 65536 &&
		ring->tail <= usable(history) && ring->head <= usable(history) && ring->wrap <= usable(history) &&
		ring->count < ring->next_number && ring->count <= usable(history) / sizeof(struct stored) &&
		(ring->count > 0 || (ring->tail == 0 && ring->head == 0 && ring->wrap == 0));
}

int history_open(struct history *history, const struct history_memory *memory, const struct crucible_uuid *key,
	const char **wrong)
{
	struct history_area *area = memory->address;
	*history = (struct history){ .area = area, .memory = *memory };
	if (memory->size < sizeof *area + 64 || memory->size > memory->size_max || area->magic == 0)
		return -ENOENT;
	*wrong = "it is none of this version";
	if (area->magic != MAGIC)
		return -EBADMSG;
	*wrong = "it belongs to another claim";
	if (memcmp(&area->key, key, sizeof *key) != 0)
		return -EBADMSG;
	*wrong = "its header makes no sense";
	if (!header_is_valid(history))
		return -EBADMSG;
	history->block_size = area->block_size;
	*wrong = "an entry is damaged";
	return entries_are_valid(history) ? 0 : -EBADMSG;
}

size_t history_size_needed(const struct history *history)
{
	const struct ring *ring = ring_of(history);
	return sizeof *history->area + (ring->wrap > ring->head ? ring->wrap : ring->head);
}

void history_shrink(struct history *history, size_t size)
{
	history->memory.size = size;
}

/* Where `size` bytes are free behind the newest entry, among the first `limit`; UINT64_MAX if nowhere. */
static uint64_t find_room(const struct history *history, uint64_t size, uint64_t limit)
{
	const struct ring *ring = ring_of(history);
	if (ring->wrap) /* free is [head, tail) */
		return size <= ring->tail - ring->head ? ring->head : UINT64_MAX;
	if (ring->head <= limit && size <= limit - ring->head) /* 0 if there is no entry */
		return ring->head;
	return size <= ring->tail ? 0 : UINT64_MAX;
}

static struct history_entry *reserve(struct history *history, uint64_t start, uint64_t count, uint64_t size)
{
	uint64_t position = find_room(history, size, usable(history));
	if (position == UINT64_MAX && find_room(history, size, history->area->capacity) != UINT64_MAX) {
		uint64_t end = sizeof *history->area + ring_of(history)->head + size;
		history->memory.size = history->memory.grow(history->memory.context, end);
		position = find_room(history, size, usable(history));
	}
	if (position == UINT64_MAX)
		return NULL;
	struct stored *stored = at(history, position);
	stored->before = ring_of(history)->newest;
	stored->entry = (struct history_entry){ .size = size, .start = start, .count = count };
	return &stored->entry;
}

struct history_entry *history_reserve(struct history *history, uint64_t start, uint64_t count)
{
	return reserve(history, start, count, size_of(history, count));
}

/* Entries of zeros take little room, but a replay must look at each of their blocks. */
static uint64_t blocks_max(const struct history *history)
{
	return 16 * (history->area->capacity / history->area->block_size);
}

struct history_entry *history_reserve_zeros(struct history *history, uint64_t start, uint64_t count)
{
	if (count > blocks_max(history) || ring_of(history)->blocks > blocks_max(history) - count)
		return NULL;
	return reserve(history, start, count, sizeof(struct stored));
}

bool history_is_zeros(const struct history_entry *entry)
{
	return entry->size == sizeof(struct stored);
}

void history_publish(struct history *history, struct history_entry *entry)
{
	struct ring *ring = begin_change(history);
	uint64_t position = position_of(history, entry);
	entry->number = ring->next_number;
	entry->checksum = checksum_of(entry);
	if (ring->count == 0)
		ring->tail = ring->wrap = 0;
	else if (position == 0)
		ring->wrap = ring->head;
	ring->newest = position;
	ring->head = position + entry->size;
	ring->next_number++;
	ring->count++;
	ring->blocks += entry->count;
	end_change(history);
}

struct crucible_block_context *history_contexts(const struct history_entry *entry)
{
	return (struct crucible_block_context *)(uintptr_t)(entry + 1);
}

void *history_data(const struct history_entry *entry)
{
	return history_contexts(entry) + entry->count;
}

uint64_t history_end(const struct history *history)
{
	return ring_of(history)->next_number;
}

uint64_t history_begin(const struct history *history)
{
	return ring_of(history)->next_number - ring_of(history)->count;
}

const struct history_entry *history_newest(const struct history *history)
{
	return ring_of(history)->count ? &at(history, ring_of(history)->newest)->entry : NULL;
}

const struct history_entry *history_before(const struct history *history, const struct history_entry *entry)
{
	if (entry->number <= history_begin(history))
		return NULL;
	return &at(history, stored_of(entry)->before)->entry;
}

void history_trim(struct history *history, uint64_t number)
{
	if (history_begin(history) >= number || ring_of(history)->count == 0)
		return;
	struct ring *ring = begin_change(history);
	while (ring->count > 0 && ring->next_number - ring->count < number) {
		const struct history_entry *oldest = &at(history, ring->tail)->entry;
		ring->tail += oldest->size;
		ring->blocks -= oldest->count;
		ring->count--;
		if (ring->wrap && ring->tail == ring->wrap)
			ring->tail = ring->wrap = 0;
	}
	if (ring->count == 0)
		ring->tail = ring->head = ring->wrap = 0;
	end_change(history);
}

uint64_t history_used(const struct history *history)
{
	const struct ring *ring = ring_of(history);
	return ring->wrap ? ring->wrap - ring->tail + ring->head : ring->head - ring->tail;
}

uint64_t history_capacity(const struct history *history)
{
	return history->area->capacity;
}

bool history_is_half_full(const struct history *history)
{
	return history_used(history) > history->area->capacity / 2 ||
		ring_of(history)->blocks > blocks_max(history) / 2;
}

const struct history_slot *history_slot(const struct history *history, unsigned slot)
{
	return &ring_of(history)->slots[slot];
}

void history_set_slots(struct history *history, const struct history_slot slots[UPSTAIRS_SLOTS])
{
	struct ring *ring = begin_change(history);
	memcpy(ring->slots, slots, sizeof ring->slots);
	end_change(history);
}

void history_set_slot(struct history *history, unsigned slot, const struct history_slot *value)
{
	struct ring *ring = begin_change(history);
	ring->slots[slot] = *value;
	end_change(history);
}

uint64_t history_flush_number(const struct history *history)
{
	return history->area->flush_number;
}

void history_set_flush_number(struct history *history, uint64_t number)
{
	history->area->flush_number = number;
}
