#include "core/history.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC UINT64_C(0x3279726f74736968) /* "history2" */

/* The ring: [tail, head) of `bytes` holds entries, oldest first, or, if it wraps round, [tail, wrap) and
 * [0, head). An entry never wraps. With it, what is known of the slots. */
struct ring {
	uint64_t tail, head, wrap; /* wrap: where the upper part ends; 0: there is none */
	uint64_t newest;           /* position of the newest entry */
	uint64_t next_number, count;
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

static uint64_t checksum_of(const struct history_entry *entry)
{
	uint64_t head = XXH64(entry, offsetof(struct history_entry, checksum), 0);
	return XXH64(entry + 1, entry->size - sizeof(struct stored), head);
}

int history_create(struct history *history, void *memory, size_t size, uint64_t block_size,
	const struct crucible_uuid *key)
{
	struct history_area *area = memory;
	if (size < sizeof *area + 64)
		return -EINVAL;
	area->magic = 0; /* until all of it is valid */
	atomic_thread_fence(memory_order_release);
	*area = (struct history_area){
		.key = *key,
		.block_size = block_size,
		.capacity = (size - sizeof *area) & ~UINT64_C(7),
		.rings[0].next_number = 1,
	};
	atomic_thread_fence(memory_order_release);
	area->magic = MAGIC;
	history->area = area;
	history->block_size = block_size;
	return 0;
}

static bool is_position(const struct history_area *area, uint64_t position)
{
	return position % 8 == 0 && position <= area->capacity - sizeof(struct stored);
}

/* Are the entries where the header says, whole, numbered in order, and the oldest where the ring begins? */
static bool entries_are_valid(const struct history *history)
{
	const struct history_area *area = history->area;
	const struct ring *ring = ring_of(history);
	uint64_t position = ring->newest, oldest = ring->tail, wrap = 0;
	for (uint64_t i = 1; i <= ring->count; i++) {
		if (!is_position(area, position))
			return false;
		const struct stored *stored = at(history, position);
		const struct history_entry *entry = &stored->entry;
		if (entry->number != ring->next_number - i || entry->count > area->capacity / area->block_size ||
			entry->size != size_of(history, entry->count) || entry->size > area->capacity - position ||
			entry->checksum != checksum_of(entry) || (i == 1 && ring->head != position + entry->size))
			return false;
		if (i > 1 && position > oldest)
			wrap = position + entry->size;
		oldest = position;
		position = stored->before;
	}
	return oldest == ring->tail && wrap == ring->wrap;
}

int history_open(struct history *history, void *memory, size_t size, const struct crucible_uuid *key,
	const char **wrong)
{
	struct history_area *area = memory;
	history->area = area;
	if (size < sizeof *area + 64 || area->magic != MAGIC || memcmp(&area->key, key, sizeof *key) != 0)
		return -ENOENT;
	*wrong = "its header makes no sense";
	if (area->capacity != ((size - sizeof *area) & ~UINT64_C(7)) || area->block_size < 512 ||
		area->block_size > 65536)
		return -EBADMSG;
	const struct ring *ring = ring_of(history);
	if (ring->tail > area->capacity || ring->head > area->capacity || ring->wrap > area->capacity ||
		ring->count >= ring->next_number || ring->count > area->capacity / sizeof(struct stored))
		return -EBADMSG;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		if (ring->slots[i].place > ring->next_number || ring->slots[i].lies > 1)
			return -EBADMSG;
	}
	history->block_size = area->block_size;
	*wrong = "an entry is damaged";
	return entries_are_valid(history) ? 0 : -EBADMSG;
}

/* Where `size` bytes are free behind the newest entry; capacity if nowhere. */
static uint64_t find_room(const struct history *history, uint64_t size)
{
	const struct ring *ring = ring_of(history);
	uint64_t capacity = history->area->capacity;
	if (ring->count == 0)
		return size <= capacity ? 0 : capacity;
	if (ring->wrap) /* free is [head, tail) */
		return size <= ring->tail - ring->head ? ring->head : capacity;
	if (size <= capacity - ring->head)
		return ring->head;
	return size <= ring->tail ? 0 : capacity;
}

struct history_entry *history_reserve(struct history *history, uint64_t start, uint64_t count)
{
	uint64_t size = size_of(history, count), position = find_room(history, size);
	if (position == history->area->capacity)
		return NULL;
	struct stored *stored = at(history, position);
	stored->before = ring_of(history)->newest;
	stored->entry = (struct history_entry){ .size = size, .start = start, .count = count };
	return &stored->entry;
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
		ring->tail += at(history, ring->tail)->entry.size;
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
