/* wire.h: big-endian numbers in byte buffers. The caller has checked that they are there. */
#ifndef TB4_WIRE_H
#define TB4_WIRE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t get_u16(const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof value);
	return be16toh(value);
}

static inline uint32_t get_u32(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof value);
	return be32toh(value);
}

static inline uint64_t get_u64(const uint8_t *at)
{
	uint64_t value;
	memcpy(&value, at, sizeof value);
	return be64toh(value);
}

/* Each put returns the place behind what it wrote. */
static inline uint8_t *put_u16(uint8_t *at, uint16_t value)
{
	value = htobe16(value);
	return (uint8_t *)memcpy(at, &value, sizeof value) + sizeof value;
}

static inline uint8_t *put_u32(uint8_t *at, uint32_t value)
{
	value = htobe32(value);
	return (uint8_t *)memcpy(at, &value, sizeof value) + sizeof value;
}

static inline uint8_t *put_u64(uint8_t *at, uint64_t value)
{
	value = htobe64(value);
	return (uint8_t *)memcpy(at, &value, sizeof value) + sizeof value;
}

static inline uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t length)
{
	return (uint8_t *)memcpy(at, bytes, length) + length;
}

#endif
