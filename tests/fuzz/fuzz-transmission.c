/* fuzz-transmission: a correct handshake, of which the first byte chooses the kind, then any bytes.
 *
 * Bits of the first byte: 0-1 simple, structured, extended; 2 with base:allocation; 3 agrees to block
 * sizes; 4 by EXPORT_NAME instead of GO. */
#include <string.h>

#include "nbd/nbd-protocol.h"
#include "nbd/wire.h"
#include "session.h"

static const char name[] = "vm-200-disk-0";
static const char context[] = "base:allocation";

static uint8_t *put_option(uint8_t *at, uint32_t option, const uint8_t *data, size_t length)
{
	at = put_u64(at, NBD_OPTION_MAGIC);
	at = put_u32(at, option);
	at = put_u32(at, (uint32_t)length);
	return put_bytes(at, data, length);
}

static uint8_t *put_string(uint8_t *at, const char *text)
{
	return put_bytes(put_u32(at, (uint32_t)strlen(text)), text, strlen(text));
}

static size_t make_handshake(uint8_t kind, uint8_t *bytes)
{
	uint8_t data[128], *end, *at = put_u32(bytes, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	if ((kind & 3) == 1)
		at = put_option(at, NBD_OPT_STRUCTURED_REPLY, data, 0);
	if ((kind & 3) >= 2)
		at = put_option(at, NBD_OPT_EXTENDED_HEADERS, data, 0);
	if (kind & 4) {
		end = put_string(put_u32(put_string(data, name), 1), context);
		at = put_option(at, NBD_OPT_SET_META_CONTEXT, data, (size_t)(end - data));
	}
	if (kind & 16) {
		at = put_option(at, NBD_OPT_EXPORT_NAME, (const uint8_t *)name, strlen(name));
	} else {
		end = put_u16(put_string(data, name), kind & 8 ? 1 : 0);
		if (kind & 8)
			end = put_u16(end, NBD_INFO_BLOCK_SIZE);
		at = put_option(at, NBD_OPT_GO, data, (size_t)(end - data));
	}
	return (size_t)(at - bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t handshake[512];
	if (size < 1)
		return 0;
	const struct session_piece pieces[] = {
		{ handshake, make_handshake(data[0], handshake) },
		{ data + 1, size - 1 },
	};
	session_run(pieces, 2, false);
	return 0;
}
