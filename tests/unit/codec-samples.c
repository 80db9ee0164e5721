#include "codec-samples.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

/* What is not named is zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* clang-format off */
#define UPSTAIRS_ID { { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, \
						0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff } }
#define SESSION_ID { { 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08, \
					   0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x00 } }
#define REGION_ID { { 0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, \
					  0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55 } }
#define ENCRYPTION { { 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0 }, \
	{ 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, \
	  0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0, 0xb0 } }
#define SESSION(generation) { UPSTAIRS_ID, SESSION_ID, generation }
#define JOB(id) .job = { UPSTAIRS_ID, SESSION_ID, id }
#define LIST(type, ...) \
	{ (const type[]){ __VA_ARGS__ }, sizeof((const type[]){ __VA_ARGS__ }) / sizeof(type) }
#define AFTER(...) .dependencies = LIST(uint64_t, __VA_ARGS__)
#define TEXT(literal) { literal, sizeof literal - 1 }
#define LOOPBACK { .octets = { 127, 0, 0, 1 }, .port = 7810 }
#define LOOPBACK6 { .is_ipv6 = true, .octets = { [15] = 1 }, .port = 7810 }
#define FAILED(...) { .failed = true, .error = { __VA_ARGS__ } }
#define ZERO_HASH 0x8bbf7f68e8c3b87c

static struct sample messages[] = {
	{ "1 Ruok", { CRUCIBLE_RUOK }, "08000000 09000000" },
	{ "1 Imok", { CRUCIBLE_IMOK }, "08000000 0a000000" },
	{ "1 RegionInfoPlease", { CRUCIBLE_REGION_INFO_PLEASE }, "08000000 19000000" },
	{ "1 ExtentVersionsPlease", { CRUCIBLE_EXTENT_VERSIONS_PLEASE }, "08000000 1b000000" },
	{ "2 HereIAm", { CRUCIBLE_HERE_I_AM, .here_i_am = { .version = 13, .session = SESSION(7) } },
		"4e000000 00000000 0d000000 UU SS 0700000000000000 00 00 0000000000000000" },
	{ "3 YesItsMe", { CRUCIBLE_YES_ITS_ME, .yes_its_me = { 13, LOOPBACK } },
		"16000000 01000000 0d000000 00000000 7f000001 821e" },
	{ "4 PromoteToActive", { CRUCIBLE_PROMOTE_TO_ACTIVE, .session = SESSION(7) },
		"40000000 05000000 UU SS 0700000000000000" },
	{ "5 YouAreNoLongerActive", { CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE, .session = SESSION(8) },
		"40000000 07000000 UU SS 0800000000000000" },
	{ "6 RegionInfo", { CRUCIBLE_REGION_INFO, .region_info = { .block_size = 512, .extent_size = 100,
		.block_shift = 9, .extent_count = 15, .uuid = REGION_ID, .database_read_version = 1,
		.database_write_version = 1 } },
		"49000000 1a000000 0002000000000000 6400000000000000 09000000 0f000000"
		"1000000000000000 11111111222233334444555555555555 00 0100000000000000 0100000000000000" },
	{ "7 ExtentVersions", { CRUCIBLE_EXTENT_VERSIONS, .extent_versions = { LIST(uint64_t, 1, 2),
		LIST(uint64_t, 3, 4), LIST(bool, true, false) } },
		"42000000 1c000000 0200000000000000 0100000000000000 0200000000000000"
		"0200000000000000 0300000000000000 0400000000000000 0200000000000000 01 00" },
	{ "8 LastFlush none", { CRUCIBLE_LAST_FLUSH }, "09000000 1d000000 00" },
	{ "8 LastFlush job 1002", { CRUCIBLE_LAST_FLUSH, .last_flush = { true, 1002 } },
		"11000000 1d000000 01 ea03000000000000" },
	{ "9 ReadRequest", { CRUCIBLE_READ_REQUEST, JOB(1001), AFTER(1000), .read_request = { 5, 2 } },
		"60000000 24000000 UU SS e903000000000000 0100000000000000 e803000000000000"
		"0500000000000000 0200000000000000" },
	{ "10 Write", { CRUCIBLE_WRITE, JOB(1000), .write = { 5,
		LIST(struct crucible_block_context, { .hash = ZERO_HASH }), { (uint8_t[512]){ 0 }, 512 } } },
		"69020000 1e000000 UU SS e803000000000000 0000000000000000 0500000000000000"
		"0100000000000000 7cb8c3e8687fbf8b 00 0002000000000000 512*00" },
	{ "10 Write encrypted", { CRUCIBLE_WRITE, JOB(1000), .write = { 5,
		LIST(struct crucible_block_context, { 0x0102030405060708, true, ENCRYPTION }),
		{ "data", 4 } } },
		"89000000 1e000000 UU SS e803000000000000 0000000000000000 0500000000000000 0100000000000000"
		"0807060504030201 01 12*a0 16*b0 0400000000000000 64617461" },
	{ "11 WriteAck", { CRUCIBLE_WRITE_ACK, JOB(1000) },
		"44000000 1f000000 UU SS e803000000000000 00000000" },
	{ "12 Flush", { CRUCIBLE_FLUSH, JOB(1002), AFTER(1000, 1001),
		.flush = { .flush_number = 1, .generation = 7 } },
		"6a000000 20000000 UU SS ea03000000000000 0200000000000000 e803000000000000 e903000000000000"
		"0100000000000000 0700000000000000 00 00" },
	{ "12 Flush snapshot, limit", { CRUCIBLE_FLUSH, JOB(1002), .flush = { 1, 7, true, TEXT("ab"),
		true, 3 } },
		"68000000 20000000 UU SS ea03000000000000 0000000000000000 0100000000000000 0700000000000000"
		"01 0200000000000000 6162 01 03000000" },
	{ "13 FlushAck failed", { CRUCIBLE_FLUSH_ACK, JOB(1002),
		.ack = FAILED(CRUCIBLE_ERROR_IO, .text = TEXT("x")) },
		"51000000 21000000 UU SS ea03000000000000 01000000 01000000 0100000000000000 78" },
	{ "14 Barrier", { CRUCIBLE_BARRIER, JOB(1004), AFTER(1002) },
		"50000000 22000000 UU SS ec03000000000000 0100000000000000 ea03000000000000" },
	{ "15 ReadResponse", { CRUCIBLE_READ_RESPONSE, JOB(1001), .read_response = {
		.contexts = LIST(struct crucible_read_context, { CRUCIBLE_BLOCK_EMPTY },
			{ CRUCIBLE_BLOCK_UNENCRYPTED, .hash = ZERO_HASH }), .data = { "\0\0\0", 4 } } },
		"68000000 25000000 UU SS e903000000000000 00000000 0200000000000000"
		"00000000 02000000 7cb8c3e8687fbf8b 0400000000000000 00000000" },
	{ "16 ExtentLiveCloseAck", { CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, JOB(1003),
		.live_close_ack = { .generation = 7, .flush_number = 1, .dirty = true } },
		"55000000 16000000 UU SS eb03000000000000 00000000 0700000000000000 0100000000000000 01" },
	{ "17 ErrorReport", { CRUCIBLE_ERROR_REPORT, JOB(1004),
		.error_report.error = { CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT, .slot = { 9, 2 } } },
		"50000000 28000000 UU SS ec03000000000000 24000000 0900000000000000 02000000",
		"a context slot is missing: block 9 of extent 2" },
	{ "18 ExtentFlush", { CRUCIBLE_EXTENT_FLUSH, .extent_flush = { 0, 1, 0, 2, 8 } },
		"25000000 0d000000 0000000000000000 01000000 00 0200000000000000 0800000000000000" },
	{ "19 ExtentRepair", { CRUCIBLE_EXTENT_REPAIR,
		.extent_repair = { 2, 1, 0, LOOPBACK6, LIST(uint8_t, 1, 2) } },
		"35000000 0e000000 0200000000000000 01000000 00 01000000 00000000000000000000000000000001 821e"
		"0200000000000000 01 02" },
	{ "20 ExtentLiveRepair", { CRUCIBLE_EXTENT_LIVE_REPAIR, JOB(1005),
		.live_repair = { 1, 2, LOOPBACK } },
		"57000000 13000000 UU SS ed03000000000000 0000000000000000 01000000 02 00000000 7f000001 821e" },

	/* not in section 2; written from the tables of section 1 */
	{ "HereIAm encrypted", { CRUCIBLE_HERE_I_AM, .here_i_am = { 13, SESSION(UINT64_MAX), false, true,
		LIST(uint32_t, 12, 11) } },
		"56000000 00000000 0d000000 UU SS ffffffffffffffff 00 01 0200000000000000 0c000000 0b000000" },
	{ "YesItsMe IPv6", { CRUCIBLE_YES_ITS_ME, .yes_its_me = { 13, LOOPBACK6 } },
		"22000000 01000000 0d000000 01000000 00000000000000000000000000000001 821e" },
	{ "VersionMismatch", { CRUCIBLE_VERSION_MISMATCH, .version_mismatch = { 12 } },
		"0c000000 02000000 0c000000" },
	{ "ReadOnlyMismatch", { CRUCIBLE_READ_ONLY_MISMATCH, .mode_mismatch = { true } },
		"09000000 03000000 01" },
	{ "EncryptedMismatch", { CRUCIBLE_ENCRYPTED_MISMATCH, .mode_mismatch = { false } },
		"09000000 04000000 00" },
	{ "YouAreNowActive", { CRUCIBLE_YOU_ARE_NOW_ACTIVE, .session = SESSION(7) },
		"40000000 06000000 UU SS 0700000000000000" },
	{ "UuidMismatch", { CRUCIBLE_UUID_MISMATCH, .uuid_mismatch = { REGION_ID } },
		"20000000 08000000 1000000000000000 11111111222233334444555555555555" },
	{ "ExtentClose", { CRUCIBLE_EXTENT_CLOSE, .extent = { 3, 2 } },
		"14000000 0b000000 0300000000000000 02000000" },
	{ "ExtentReopen", { CRUCIBLE_EXTENT_REOPEN, .extent = { 3, 2 } },
		"14000000 0c000000 0300000000000000 02000000" },
	{ "ExtentRepair onto none", { CRUCIBLE_EXTENT_REPAIR, .extent_repair = { 2, 1, 255, LOOPBACK } },
		"27000000 0e000000 0200000000000000 01000000 ff 00000000 7f000001 821e 0000000000000000" },
	{ "RepairAckId", { CRUCIBLE_REPAIR_ACK_ID, .repair_ack = { 3 } },
		"10000000 0f000000 0300000000000000" },
	{ "ExtentError", { CRUCIBLE_EXTENT_ERROR,
		.extent_error = { 3, 2, { CRUCIBLE_ERROR_REPAIR_REQUEST, .text = TEXT("x") } } },
		"21000000 10000000 0300000000000000 02000000 1c000000 0100000000000000 78" },
	{ "ExtentLiveClose", { CRUCIBLE_EXTENT_LIVE_CLOSE, JOB(1003), AFTER(1000), .live_extent = { 1 } },
		"54000000 11000000 UU SS eb03000000000000 0100000000000000 e803000000000000 01000000" },
	{ "ExtentLiveFlushClose", { CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, JOB(1003),
		.live_flush_close = { 1, 5, 7 } },
		"5c000000 12000000 UU SS eb03000000000000 0000000000000000 01000000 0500000000000000"
		"0700000000000000" },
	{ "ExtentLiveRepair IPv6", { CRUCIBLE_EXTENT_LIVE_REPAIR, JOB(1005), AFTER(1000, 1001),
		.live_repair = { 1, 2, LOOPBACK6 } },
		"73000000 13000000 UU SS ed03000000000000 0200000000000000 e803000000000000 e903000000000000"
		"01000000 02 01000000 00000000000000000000000000000001 821e" },
	{ "ExtentLiveReopen", { CRUCIBLE_EXTENT_LIVE_REOPEN, JOB(1006), AFTER(1003, 1004, 1005),
		.live_extent = { 1 } },
		"64000000 14000000 UU SS ee03000000000000 0300000000000000 eb03000000000000 ec03000000000000"
		"ed03000000000000 01000000" },
	{ "ExtentLiveNoOp", { CRUCIBLE_EXTENT_LIVE_NO_OP, JOB(1005), AFTER(1004) },
		"50000000 15000000 UU SS ed03000000000000 0100000000000000 ec03000000000000" },
	{ "ExtentLiveCloseAck failed", { CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, JOB(1003),
		.live_close_ack.result = FAILED(CRUCIBLE_ERROR_INVALID_EXTENT) },
		"48000000 16000000 UU SS eb03000000000000 01000000 1b000000" },
	{ "ExtentLiveRepairAckId", { CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID, JOB(1003) },
		"44000000 17000000 UU SS eb03000000000000 00000000" },
	{ "ExtentLiveRepairAckId failed", { CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID, JOB(1003),
		.ack = FAILED(CRUCIBLE_ERROR_REPAIR_STREAM, .text = TEXT("")) },
		"50000000 17000000 UU SS eb03000000000000 01000000 1e000000 0000000000000000" },
	{ "ExtentLiveAckId", { CRUCIBLE_EXTENT_LIVE_ACK_ID, JOB(1003) },
		"44000000 18000000 UU SS eb03000000000000 00000000" },
	{ "ExtentLiveAckId failed", { CRUCIBLE_EXTENT_LIVE_ACK_ID, JOB(1003),
		.ack = FAILED(CRUCIBLE_ERROR_HASH_MISMATCH) },
		"48000000 18000000 UU SS eb03000000000000 01000000 13000000" },
	{ "RegionInfo encrypted", { CRUCIBLE_REGION_INFO, .region_info = { 4096, 131072, 12, 800,
		REGION_ID, true, 1, 2 } },
		"49000000 1a000000 0010000000000000 0000020000000000 0c000000 20030000"
		"1000000000000000 11111111222233334444555555555555 01 0100000000000000 0200000000000000" },
	{ "ExtentVersions empty", { CRUCIBLE_EXTENT_VERSIONS },
		"20000000 1c000000 0000000000000000 0000000000000000 0000000000000000" },
	{ "Write of nothing", { CRUCIBLE_WRITE, JOB(1000) },
		"60000000 1e000000 UU SS e803000000000000 0000000000000000 0000000000000000"
		"0000000000000000 0000000000000000" },
	{ "WriteAck failed", { CRUCIBLE_WRITE_ACK, JOB(1000),
		.ack = FAILED(CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT, .slot = { 9, 2 }) },
		"54000000 1f000000 UU SS e803000000000000 01000000 24000000 0900000000000000 02000000" },
	{ "FlushAck", { CRUCIBLE_FLUSH_ACK, JOB(1002) },
		"44000000 21000000 UU SS ea03000000000000 00000000" },
	{ "BarrierAck", { CRUCIBLE_BARRIER_ACK, JOB(1004) },
		"44000000 23000000 UU SS ec03000000000000 00000000" },
	{ "BarrierAck failed", { CRUCIBLE_BARRIER_ACK, JOB(1004), .ack = FAILED(CRUCIBLE_ERROR_NEGOTIATION,
		.negotiation = { CRUCIBLE_NEGOTIATION_INCOMPATIBLE_VERSION, .versions = { 13, 12 } }) },
		"54000000 23000000 UU SS ec03000000000000 01000000 29000000 03000000 0d000000 0c000000" },
	{ "ReadResponse of all kinds", { CRUCIBLE_READ_RESPONSE, JOB(1001), .read_response = {
		.contexts = LIST(struct crucible_read_context,
			{ CRUCIBLE_BLOCK_ENCRYPTED, .encryption = ENCRYPTION }, { CRUCIBLE_BLOCK_EMPTY },
			{ CRUCIBLE_BLOCK_UNENCRYPTED, .hash = 0x0102030405060708 }), .data = { "abc", 3 } } },
		"87000000 25000000 UU SS e903000000000000 00000000 0300000000000000 01000000 12*a0 16*b0"
		"00000000 02000000 0807060504030201 0300000000000000 616263" },
	{ "ReadResponse failed", { CRUCIBLE_READ_RESPONSE, JOB(1001),
		.read_response.result = FAILED(CRUCIBLE_ERROR_IO, .text = TEXT("x")) },
		"59000000 25000000 UU SS e903000000000000 01000000 01000000 0100000000000000 78"
		"0000000000000000" },
	{ "WriteUnwritten", { CRUCIBLE_WRITE_UNWRITTEN, JOB(1007), AFTER(1000), .write = { 9,
		LIST(struct crucible_block_context, { .hash = 1 }, { 2, true, ENCRYPTION }), { "ab", 2 } } },
		"98000000 26000000 UU SS ef03000000000000 0100000000000000 e803000000000000 0900000000000000"
		"0200000000000000 0100000000000000 00 0200000000000000 01 12*a0 16*b0 0200000000000000 6162" },
	{ "WriteUnwrittenAck", { CRUCIBLE_WRITE_UNWRITTEN_ACK, JOB(1007) },
		"44000000 27000000 UU SS ef03000000000000 00000000" },
};

/* Each as an error report of job 1. The hex is that of the error alone. */
#define KIND(name, hex, words) { { CRUCIBLE_ERROR_##name }, hex, words }
#define WITH_TEXT(name, hex, words) \
	{ { CRUCIBLE_ERROR_##name, .text = TEXT("why") }, hex " 0300000000000000 776879", words ": why" }
#define NEGOTIATION(name, hex, words, ...) \
	{ { CRUCIBLE_ERROR_NEGOTIATION, .negotiation = { CRUCIBLE_NEGOTIATION_##name, __VA_ARGS__ } }, \
		"29000000 " hex, "negotiation failed: " words }

static const struct {
	struct crucible_error error;
	const char *hex, *words;
} errors[] = {
	WITH_TEXT(GENERIC, "00000000", "unspecified error"),
	WITH_TEXT(IO, "01000000", "I/O error"),
	WITH_TEXT(UNSUPPORTED, "02000000", "not supported"),
	KIND(DISCONNECT, "03000000", "disconnected"),
	KIND(DATA_LOCK, "04000000", "the data lock failed"),
	WITH_TEXT(RW_LOCK, "05000000", "a reader-writer lock failed"),
	KIND(RECV_DISCONNECTED, "06000000", "the receiving channel is closed"),
	WITH_TEXT(SEND, "07000000", "sending failed"),
	KIND(OFFSET_UNALIGNED, "08000000", "the offset is not aligned"),
	KIND(DATA_LEN_UNALIGNED, "09000000", "the data length is not aligned"),
	KIND(BLOCK_SIZE_MISMATCH, "0a000000", "the block size differs"),
	WITH_TEXT(INVALID_NUMBER_OF_BLOCKS, "0b000000", "invalid number of blocks"),
	KIND(OFFSET_INVALID, "0c000000", "the offset is invalid"),
	KIND(UPSTAIRS_ACTIVATE_IN_PROGRESS, "0d000000", "the upstairs is being activated"),
	KIND(UPSTAIRS_DEACTIVATING, "0e000000", "the upstairs is being deactivated"),
	KIND(UPSTAIRS_INACTIVE, "0f000000", "the upstairs is not active"),
	KIND(UUID_MISMATCH, "10000000", "the UUID differs"),
	WITH_TEXT(ENCRYPTION, "11000000", "encryption failed"),
	KIND(DECRYPTION, "12000000", "decryption failed"),
	KIND(HASH_MISMATCH, "13000000", "the hash does not fit the block"),
	KIND(LBA_RANGE_OVERLAP, "14000000", "block ranges overlap"),
	KIND(SUBVOLUME_SIZE_MISMATCH, "15000000", "the sizes of subvolumes differ"),
	KIND(SUBVOLUME_TYPE_MISMATCH, "16000000", "the types of subvolumes differ"),
	WITH_TEXT(CANNOT_SERVE_BLOCKS, "17000000", "blocks cannot be served"),
	WITH_TEXT(CANNOT_RECEIVE_BLOCKS, "18000000", "blocks cannot be received"),
	WITH_TEXT(SNAPSHOT_FAILED, "19000000", "the snapshot failed"),
	KIND(MODIFYING_READ_ONLY_REGION, "1a000000", "the region is read-only"),
	KIND(INVALID_EXTENT, "1b000000", "no such extent"),
	WITH_TEXT(REPAIR_REQUEST, "1c000000", "the repair request failed"),
	WITH_TEXT(REPAIR_FILES_INVALID, "1d000000", "the files to repair from are invalid"),
	WITH_TEXT(REPAIR_STREAM, "1e000000", "the stream to repair from failed"),
	KIND(GENERATION_NUMBER_INVALID, "1f000000", "the generation number is invalid"),
	KIND(NO_LONGER_ACTIVE, "20000000", "another upstairs has become active"),
	KIND(REGION_ASSEMBLE, "21000000", "the regions do not go together"),
	WITH_TEXT(PROPERTY_NOT_AVAILABLE, "22000000", "a property is not available"),
	WITH_TEXT(REPLACE_REQUEST_INVALID, "23000000", "the request to replace is invalid"),
	{ { CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT, .slot = { UINT64_MAX, UINT32_MAX } },
		"24000000 ffffffffffffffff ffffffff",
		"a context slot is missing: block 18446744073709551615 of extent 4294967295" },
	WITH_TEXT(BAD_METADATA, "25000000", "bad metadata"),
	WITH_TEXT(BAD_CONTEXT_SLOT, "26000000", "bad context slot"),
	KIND(MISSING_BLOCK_CONTEXT, "27000000", "a block context is missing"),
	WITH_TEXT(REGION_INCOMPATIBLE, "28000000", "the region is not compatible"),
	NEGOTIATION(OUT_OF_ORDER, "00000000", "message out of order"),
	NEGOTIATION(GENERATION_ZERO, "01000000", "generation 0 is not allowed"),
	NEGOTIATION(GENERATION_TOO_LOW, "02000000 0700000000000000 0900000000000000",
		"generation too low: requested 7, is 9", .generations = { 7, 9 }),
	NEGOTIATION(INCOMPATIBLE_VERSION, "03000000 0d000000 0c000000",
		"incompatible version: expected 13, is 12", .versions = { 13, 12 }),
	NEGOTIATION(ENCRYPTION_MISMATCH, "04000000 01 00",
		"encrypted or not: expected encrypted, is not encrypted", .flags = { true, false }),
	NEGOTIATION(READ_ONLY_MISMATCH, "05000000 00 01",
		"read-only or not: expected not read-only, is read-only", .flags = { false, true }),
	NEGOTIATION(UPSTAIRS_ID_MISMATCH, "06000000 UU SS",
		"another upstairs id: expected 00112233-4455-6677-8899-aabbccddeeff,"
		" is 0f0e0d0c-0b0a-0908-0706-050403020100", .ids = { UPSTAIRS_ID, SESSION_ID }),
	NEGOTIATION(SESSION_ID_MISMATCH, "07000000 SS UU",
		"another session id: expected 0f0e0d0c-0b0a-0908-0706-050403020100,"
		" is 00112233-4455-6677-8899-aabbccddeeff", .ids = { SESSION_ID, UPSTAIRS_ID }),
};
/* clang-format on */

enum {
	MESSAGES = sizeof messages / sizeof messages[0],
	ERRORS = sizeof errors / sizeof errors[0],
};

static unsigned digit(char character)
{
	const char *digits = "0123456789abcdef", *at = strchr(digits, character);
	if (!at || !character)
		abort();
	return (unsigned)(at - digits);
}

uint8_t *bytes_of(const char *hex, size_t *size)
{
	static const char *const upstairs = "1000000000000000 00112233445566778899aabbccddeeff";
	static const char *const session = "1000000000000000 0f0e0d0c0b0a09080706050403020100";
	uint8_t *bytes = malloc(1 << 16);
	*size = 0;
	while (*hex) {
		size_t length, token = strcspn(hex, " "), star = strcspn(hex, "*");
		if (token == 2 && (hex[0] == 'U' || hex[0] == 'S')) {
			uint8_t *id = bytes_of(hex[0] == 'U' ? upstairs : session, &length);
			memcpy(bytes + *size, id, length);
			*size += length;
			free(id);
		} else if (star < token) {
			length = strtoul(hex, NULL, 10);
			memset(bytes + *size, (int)(digit(hex[star + 1]) << 4 | digit(hex[star + 2])), length);
			*size += length;
			token = star + 3;
		} else {
			for (size_t i = 0; i < token; i += 2)
				bytes[(*size)++] = (uint8_t)(digit(hex[i]) << 4 | digit(hex[i + 1]));
		}
		hex += token;
		hex += strspn(hex, " ");
	}
	return realloc(bytes, *size);
}

static struct sample error_sample(size_t i)
{
	static char names[ERRORS][32];
	struct sample sample = {
		.name = names[i],
		.message = { CRUCIBLE_ERROR_REPORT, JOB(1), .error_report.error = errors[i].error },
		.error_text = errors[i].words,
	};
	size_t size;
	snprintf(names[i], sizeof names[i], "error %zu", i);
	uint8_t *error = bytes_of(errors[i].hex, &size);
	sample.frame = bytes_of("00000000 28000000 UU SS 0100000000000000", &sample.size);
	sample.frame = realloc(sample.frame, sample.size + size);
	memcpy(sample.frame + sample.size, error, size);
	sample.size += size;
	sample.frame[0] = (uint8_t)sample.size;
	free(error);
	return sample;
}

const struct sample *samples(size_t *count)
{
	static struct sample all[MESSAGES + ERRORS];
	*count = MESSAGES + ERRORS;
	if (all[0].frame)
		return all;
	for (size_t i = 0; i < MESSAGES; i++) {
		all[i] = messages[i];
		all[i].frame = bytes_of(all[i].hex, &all[i].size);
	}
	for (size_t i = 0; i < ERRORS; i++)
		all[MESSAGES + i] = error_sample(i);
	return all;
}

const struct sample *sample_named(const char *name)
{
	size_t count;
	const struct sample *all = samples(&count);
	for (size_t i = 0; i < count; i++)
		if (strcmp(all[i].name, name) == 0)
			return &all[i];
	fail_msg("no sample %s", name);
	return NULL;
}

/* encoding and decoding */

struct crucible_data *data_of(struct crucible_message *message)
{
	switch (message->type) {
	case CRUCIBLE_WRITE:
	case CRUCIBLE_WRITE_UNWRITTEN:
		return &message->write.data;
	case CRUCIBLE_READ_RESPONSE:
		return &message->read_response.data;
	default:
		return NULL;
	}
}

uint8_t *encoded(const struct crucible_message *message, size_t *size)
{
	size_t head;
	assert_int_equal(crucible_measure(message, &head, size), 0);
	uint8_t *frame = malloc(*size);
	assert_int_equal(crucible_encode(message, frame, *size), (ssize_t)*size);
	return frame;
}

bool is_accepted(const uint8_t *frame, size_t size)
{
	struct crucible_message message;
	const char *wrong = NULL;
	int status = crucible_decode(frame, size, &message, &wrong);
	if (status < 0) {
		assert_int_equal(status, -EBADMSG);
		assert_non_null(wrong);
		return false;
	}
	size_t again_size;
	uint8_t *again = encoded(&message, &again_size);
	assert_int_equal(again_size, size);
	assert_memory_equal(again, frame, size);
	free(again);
	return true;
}

struct crucible_message decoded(const uint8_t *frame, size_t size)
{
	struct crucible_message message;
	const char *wrong = NULL;
	if (crucible_decode(frame, size, &message, &wrong) < 0)
		fail_msg("refused: %s", wrong);
	return message;
}

void for_each_sample(sample_test *test)
{
	size_t count;
	const struct sample *all = samples(&count);
	for (size_t i = 0; i < count; i++)
		test(&all[i]);
}

/* comparison */

#define SAME(member) assert_int_equal(message->member, wanted->member)
#define SAME_ID(member) assert_memory_equal(message->member.bytes, wanted->member.bytes, 16)

static void same_session(
	const struct crucible_session *message, const struct crucible_session *wanted)
{
	SAME_ID(upstairs_id);
	SAME_ID(session_id);
	SAME(generation);
}

static void same_address(
	const struct crucible_address *message, const struct crucible_address *wanted)
{
	SAME(is_ipv6);
	SAME(port);
	assert_memory_equal(message->octets, wanted->octets, wanted->is_ipv6 ? 16 : 4);
}

static void same_u64s(struct crucible_u64s list, struct crucible_u64s wanted)
{
	const uint64_t *numbers = wanted.items;
	assert_int_equal(list.count, wanted.count);
	for (size_t i = 0; i < wanted.count; i++)
		assert_int_equal(crucible_u64_at(list, i), numbers[i]);
}

static void same_u32s(struct crucible_u32s list, struct crucible_u32s wanted)
{
	const uint32_t *numbers = wanted.items;
	assert_int_equal(list.count, wanted.count);
	for (size_t i = 0; i < wanted.count; i++)
		assert_int_equal(crucible_u32_at(list, i), numbers[i]);
}

static void same_bools(struct crucible_bools list, struct crucible_bools wanted)
{
	const bool *flags = wanted.items;
	assert_int_equal(list.count, wanted.count);
	for (size_t i = 0; i < wanted.count; i++)
		assert_int_equal(crucible_bool_at(list, i), flags[i]);
}

static void same_bytes(const void *bytes, size_t length, const void *wanted, size_t wanted_length)
{
	assert_int_equal(length, wanted_length);
	if (length > 0)
		assert_memory_equal(bytes, wanted, length);
}

static void same_encryption(
	const struct crucible_encryption *message, const struct crucible_encryption *wanted)
{
	assert_memory_equal(message->nonce, wanted->nonce, 12);
	assert_memory_equal(message->tag, wanted->tag, 16);
}

static void same_block_contexts(
	struct crucible_block_contexts contexts, const struct crucible_block_contexts *all)
{
	struct crucible_block_context context, *message = &context;
	for (size_t i = 0; i < all->count; i++) {
		const struct crucible_block_context *wanted = &all->items[i];
		assert_true(crucible_next_block_context(&contexts, &context));
		SAME(hash);
		SAME(is_encrypted);
		if (wanted->is_encrypted)
			same_encryption(&message->encryption, &wanted->encryption);
	}
	assert_false(crucible_next_block_context(&contexts, &context));
	assert_int_equal(contexts.packed_size, 0);
}

static void same_read_contexts(
	struct crucible_read_contexts contexts, const struct crucible_read_contexts *all)
{
	struct crucible_read_context context, *message = &context;
	for (size_t i = 0; i < all->count; i++) {
		const struct crucible_read_context *wanted = &all->items[i];
		assert_true(crucible_next_read_context(&contexts, &context));
		SAME(kind);
		if (wanted->kind == CRUCIBLE_BLOCK_ENCRYPTED)
			same_encryption(&message->encryption, &wanted->encryption);
		else if (wanted->kind == CRUCIBLE_BLOCK_UNENCRYPTED)
			SAME(hash);
	}
	assert_false(crucible_next_read_context(&contexts, &context));
	assert_int_equal(contexts.packed_size, 0);
}

static void same_negotiation_error(const struct crucible_negotiation_error *message,
	const struct crucible_negotiation_error *wanted)
{
	SAME(kind);
	switch (wanted->kind) {
	case CRUCIBLE_NEGOTIATION_GENERATION_TOO_LOW:
		SAME(generations.requested);
		SAME(generations.actual);
		break;
	case CRUCIBLE_NEGOTIATION_INCOMPATIBLE_VERSION:
		SAME(versions.expected);
		SAME(versions.actual);
		break;
	case CRUCIBLE_NEGOTIATION_ENCRYPTION_MISMATCH:
	case CRUCIBLE_NEGOTIATION_READ_ONLY_MISMATCH:
		SAME(flags.expected);
		SAME(flags.actual);
		break;
	case CRUCIBLE_NEGOTIATION_UPSTAIRS_ID_MISMATCH:
	case CRUCIBLE_NEGOTIATION_SESSION_ID_MISMATCH:
		SAME_ID(ids.expected);
		SAME_ID(ids.actual);
		break;
	default:
		break;
	}
}

/* Whether a kind has a text is known here by the sample. */
static void same_error(const struct crucible_error *message, const struct crucible_error *wanted)
{
	SAME(kind);
	if (wanted->kind == CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT) {
		SAME(slot.block);
		SAME(slot.extent_id);
	} else if (wanted->kind == CRUCIBLE_ERROR_NEGOTIATION) {
		same_negotiation_error(&message->negotiation, &wanted->negotiation);
	} else {
		same_bytes(
			message->text.bytes, message->text.length, wanted->text.bytes, wanted->text.length);
	}
}

static void same_result(const struct crucible_result *message, const struct crucible_result *wanted)
{
	SAME(failed);
	if (wanted->failed)
		same_error(&message->error, &wanted->error);
}

static void same_region(const struct crucible_region *message, const struct crucible_region *wanted)
{
	SAME(block_size);
	SAME(extent_size);
	SAME(block_shift);
	SAME(extent_count);
	SAME_ID(uuid);
	SAME(encrypted);
	SAME(database_read_version);
	SAME(database_write_version);
}

static void same_data(const struct crucible_data *message, const struct crucible_data *wanted)
{
	same_bytes(message->bytes, message->length, wanted->bytes, wanted->length);
}

void expect_same(const struct crucible_message *message, const struct crucible_message *wanted)
{
	SAME(type);
	SAME_ID(job.upstairs_id);
	SAME_ID(job.session_id);
	SAME(job.job_id);
	same_u64s(message->dependencies, wanted->dependencies);
	switch (wanted->type) {
	case CRUCIBLE_HERE_I_AM:
		SAME(here_i_am.version);
		same_session(&message->here_i_am.session, &wanted->here_i_am.session);
		SAME(here_i_am.read_only);
		SAME(here_i_am.encrypted);
		same_u32s(message->here_i_am.alternate_versions, wanted->here_i_am.alternate_versions);
		break;
	case CRUCIBLE_YES_ITS_ME:
		SAME(yes_its_me.version);
		same_address(&message->yes_its_me.repair_address, &wanted->yes_its_me.repair_address);
		break;
	case CRUCIBLE_VERSION_MISMATCH:
		SAME(version_mismatch.version);
		break;
	case CRUCIBLE_READ_ONLY_MISMATCH:
	case CRUCIBLE_ENCRYPTED_MISMATCH:
		SAME(mode_mismatch.expected);
		break;
	case CRUCIBLE_PROMOTE_TO_ACTIVE:
	case CRUCIBLE_YOU_ARE_NOW_ACTIVE:
	case CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE:
		same_session(&message->session, &wanted->session);
		break;
	case CRUCIBLE_UUID_MISMATCH:
		SAME_ID(uuid_mismatch.expected_id);
		break;
	case CRUCIBLE_EXTENT_CLOSE:
	case CRUCIBLE_EXTENT_REOPEN:
		SAME(extent.repair_id);
		SAME(extent.extent_id);
		break;
	case CRUCIBLE_EXTENT_FLUSH:
		SAME(extent_flush.repair_id);
		SAME(extent_flush.extent_id);
		SAME(extent_flush.slot);
		SAME(extent_flush.flush_number);
		SAME(extent_flush.generation);
		break;
	case CRUCIBLE_EXTENT_REPAIR:
		SAME(extent_repair.repair_id);
		SAME(extent_repair.extent_id);
		SAME(extent_repair.source_slot);
		same_address(&message->extent_repair.source_address, &wanted->extent_repair.source_address);
		same_bytes(message->extent_repair.destination_slots.items,
			message->extent_repair.destination_slots.count,
			wanted->extent_repair.destination_slots.items,
			wanted->extent_repair.destination_slots.count);
		break;
	case CRUCIBLE_REPAIR_ACK_ID:
		SAME(repair_ack.repair_id);
		break;
	case CRUCIBLE_EXTENT_ERROR:
		SAME(extent_error.repair_id);
		SAME(extent_error.extent_id);
		same_error(&message->extent_error.error, &wanted->extent_error.error);
		break;
	case CRUCIBLE_EXTENT_LIVE_CLOSE:
	case CRUCIBLE_EXTENT_LIVE_REOPEN:
		SAME(live_extent.extent_id);
		break;
	case CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE:
		SAME(live_flush_close.extent_id);
		SAME(live_flush_close.flush_number);
		SAME(live_flush_close.generation);
		break;
	case CRUCIBLE_EXTENT_LIVE_REPAIR:
		SAME(live_repair.extent_id);
		SAME(live_repair.source_slot);
		same_address(&message->live_repair.source_address, &wanted->live_repair.source_address);
		break;
	case CRUCIBLE_EXTENT_LIVE_CLOSE_ACK:
		same_result(&message->live_close_ack.result, &wanted->live_close_ack.result);
		SAME(live_close_ack.generation);
		SAME(live_close_ack.flush_number);
		SAME(live_close_ack.dirty);
		break;
	case CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID:
	case CRUCIBLE_EXTENT_LIVE_ACK_ID:
	case CRUCIBLE_WRITE_ACK:
	case CRUCIBLE_FLUSH_ACK:
	case CRUCIBLE_BARRIER_ACK:
	case CRUCIBLE_WRITE_UNWRITTEN_ACK:
		same_result(&message->ack, &wanted->ack);
		break;
	case CRUCIBLE_REGION_INFO:
		same_region(&message->region_info, &wanted->region_info);
		break;
	case CRUCIBLE_EXTENT_VERSIONS:
		same_u64s(message->extent_versions.generations, wanted->extent_versions.generations);
		same_u64s(message->extent_versions.flush_numbers, wanted->extent_versions.flush_numbers);
		same_bools(message->extent_versions.dirty, wanted->extent_versions.dirty);
		break;
	case CRUCIBLE_LAST_FLUSH:
		SAME(last_flush.has_job_id);
		SAME(last_flush.job_id);
		break;
	case CRUCIBLE_WRITE:
	case CRUCIBLE_WRITE_UNWRITTEN:
		SAME(write.start);
		same_block_contexts(message->write.contexts, &wanted->write.contexts);
		same_data(&message->write.data, &wanted->write.data);
		break;
	case CRUCIBLE_FLUSH:
		SAME(flush.flush_number);
		SAME(flush.generation);
		SAME(flush.has_snapshot);
		same_bytes(message->flush.snapshot_name.bytes, message->flush.snapshot_name.length,
			wanted->flush.snapshot_name.bytes, wanted->flush.snapshot_name.length);
		SAME(flush.has_extent_limit);
		SAME(flush.extent_limit);
		break;
	case CRUCIBLE_READ_REQUEST:
		SAME(read_request.start);
		SAME(read_request.count);
		break;
	case CRUCIBLE_READ_RESPONSE:
		same_result(&message->read_response.result, &wanted->read_response.result);
		same_read_contexts(message->read_response.contexts, &wanted->read_response.contexts);
		same_data(&message->read_response.data, &wanted->read_response.data);
		break;
	case CRUCIBLE_ERROR_REPORT:
		same_error(&message->error_report.error, &wanted->error_report.error);
		break;
	case CRUCIBLE_RUOK:
	case CRUCIBLE_IMOK:
	case CRUCIBLE_EXTENT_LIVE_NO_OP:
	case CRUCIBLE_REGION_INFO_PLEASE:
	case CRUCIBLE_EXTENT_VERSIONS_PLEASE:
	case CRUCIBLE_BARRIER:
		break;
	case CRUCIBLE_MESSAGE_TYPES:
		fail_msg("no message");
	}
}
