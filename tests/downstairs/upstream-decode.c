/* upstream-decode.c: a frame as upstream's decoder takes it (crucible-protocol.md 1.1).
 *
 * That is what codec.h says, with three differences. A frame shorter than its own length word, and
 * data longer than what follows that word, abort the process. Bytes behind a message are ignored.
 * The data of a write are the last bytes of the frame, wherever its head ends.
 */
#include <assert.h>

#include "engine-internal.h"
#include "memory.h"

static bool has_data(uint32_t type)
{
	return type == CRUCIBLE_WRITE || type == CRUCIBLE_WRITE_UNWRITTEN ||
		   type == CRUCIBLE_READ_RESPONSE;
}

/* A message is no prefix of another one. So the length at which the frame is accepted, if cut there
 * and with no data, is where the message, or its head, ends. 0: nowhere. */
static size_t find_end(const uint8_t *frame, size_t size, uint8_t *scratch)
{
	struct crucible_message message;
	const char *wrong;
	size_t length_at = has_data(get_le32(frame + 4)) ? sizeof(uint64_t) : 0;
	for (size_t end = CRUCIBLE_FRAME_MIN + length_at; end <= size; end++) {
		memcpy(scratch, frame, end);
		put_le32(scratch, (uint32_t)end);
		if (length_at)
			put_le64(scratch + end - length_at, 0);
		if (crucible_decode(scratch, end, &message, &wrong) == 0)
			return end;
	}
	return 0;
}

/* Strict decoding has failed. `patched` has room for the frame. */
static enum decoding decode_odd(
	const uint8_t *frame, size_t size, struct crucible_message *message, uint8_t *patched)
{
	const char *wrong;
	size_t end = find_end(frame, size, patched);
	if (end == 0)
		return DECODING_CLOSES;
	memcpy(patched, frame, end);
	if (has_data(get_le32(frame + 4))) {
		uint64_t length = get_le64(frame + end - sizeof length);
		if (length > size - sizeof(uint32_t))
			return DECODING_ABORTS;
		if (length > size - end)
			return DECODING_CLOSES;
		memcpy(patched + end, frame + size - length, length);
		end += length;
	}
	put_le32(patched, (uint32_t)end);
	return crucible_decode(patched, end, message, &wrong) == 0 ? DECODED : DECODING_CLOSES;
}

enum decoding upstream_decode(
	const void *frame, size_t size, struct crucible_message *message, uint8_t **patched)
{
	enum { ODD_MAX = 1 << 16 }; /* the search is quadratic */
	const char *wrong;
	*patched = NULL;
	assert(
		size < sizeof(uint32_t) || get_le32(frame) == size || get_le32(frame) < sizeof(uint32_t));
	if (size < sizeof(uint32_t) || get_le32(frame) < sizeof(uint32_t))
		return DECODING_ABORTS;
	if (crucible_decode(frame, size, message, &wrong) == 0)
		return DECODED;
	if (size < CRUCIBLE_FRAME_MIN || size > ODD_MAX)
		return DECODING_CLOSES;
	*patched = zeroed(size, 1);
	return decode_odd(frame, size, message, *patched);
}
