/* wire-le.h: little-endian numbers in byte buffers, at any alignment. The caller has checked that
 * they are there. Only for little-endian hosts: numbers are copied as they lie in memory, and whole
 * arrays with one memcpy. */
#ifndef UPSTAIRS_WIRE_LE_H
#define UPSTAIRS_WIRE_LE_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

static_assert(
	__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they lie in memory");

static inline uint32_t get_le32(const void *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof value);
	return value;
}

static inline uint64_t get_le64(const void *at)
{
	uint64_t value;
	memcpy(&value, at, sizeof value);
	return value;
}

static inline void put_le32(void *at, uint32_t value)
{
	memcpy(at, &value, sizeof value);
}

static inline void put_le64(void *at, uint64_t value)
{
	memcpy(at, &value, sizeof value);
}

#endif
