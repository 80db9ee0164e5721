/* codec.h: turns frames of the Crucible protocol, message version 13, into structs and back.
 *
 * Implements crucible-protocol.md section 1. Both directions know all messages, so the same code
 * serves the upstairs and a downstairs made for tests.
 *
 * 1. Pure: no I/O, no clock, no state, no allocation. Any thread may call anything here.
 * 2. What was decoded points into the frame: texts, lists, contexts and data are valid as long as
 *    the frame is, and lie in it at any alignment. To encode, the same members point at memory of
 *    the caller, which may be a plain array or a decoded frame; nothing is kept after the call.
 * 3. Strict: a frame is accepted only if encoding what came out gives exactly its bytes.
 * 4. A count or length is compared with what is left of the frame before it is used.
 * 5. Form only. Whether the numbers make sense is for the caller to check, who knows the region:
 *    block ranges, lists of equal length, one context per block, a job id that kills a downstairs,
 *    a repair address of 0.0.0.0 (which is to be taken as the peer's), a read whose answer would be
 *    longer than a frame may be.
 *
 * Lengths and sizes are in bytes; `start` and `count` of a read and `start` of a write, and
 * extent_size, are in blocks of the region. Numbers are in host order.
 * Functions that can fail return a negative errno. Decoding fails with -EBADMSG and sets *wrong to
 * a constant text ("bool is neither 0 nor 1"); the connection is then of no use any more.
 */
#ifndef UPSTAIRS_CODEC_H
#define UPSTAIRS_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire-le.h"

enum {
	CRUCIBLE_PROTOCOL_VERSION = 13,
	CRUCIBLE_FRAME_MIN = 8, /* the frame's own length and the type, 4 bytes each */
	CRUCIBLE_FRAME_MAX = 100 << 20,
};

/* The number is what stands in the frame. 41, "unknown", is neither sent nor accepted. */
enum crucible_message_type {
	CRUCIBLE_HERE_I_AM = 0,
	CRUCIBLE_YES_ITS_ME,
	CRUCIBLE_VERSION_MISMATCH,
	CRUCIBLE_READ_ONLY_MISMATCH,
	CRUCIBLE_ENCRYPTED_MISMATCH,
	CRUCIBLE_PROMOTE_TO_ACTIVE,
	CRUCIBLE_YOU_ARE_NOW_ACTIVE,
	CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE,
	CRUCIBLE_UUID_MISMATCH,
	CRUCIBLE_RUOK,
	CRUCIBLE_IMOK,
	CRUCIBLE_EXTENT_CLOSE,
	CRUCIBLE_EXTENT_REOPEN,
	CRUCIBLE_EXTENT_FLUSH,
	CRUCIBLE_EXTENT_REPAIR,
	CRUCIBLE_REPAIR_ACK_ID,
	CRUCIBLE_EXTENT_ERROR,
	CRUCIBLE_EXTENT_LIVE_CLOSE,
	CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE,
	CRUCIBLE_EXTENT_LIVE_REPAIR,
	CRUCIBLE_EXTENT_LIVE_REOPEN,
	CRUCIBLE_EXTENT_LIVE_NO_OP,
	CRUCIBLE_EXTENT_LIVE_CLOSE_ACK,
	CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID,
	CRUCIBLE_EXTENT_LIVE_ACK_ID,
	CRUCIBLE_REGION_INFO_PLEASE,
	CRUCIBLE_REGION_INFO,
	CRUCIBLE_EXTENT_VERSIONS_PLEASE,
	CRUCIBLE_EXTENT_VERSIONS,
	CRUCIBLE_LAST_FLUSH,
	CRUCIBLE_WRITE,
	CRUCIBLE_WRITE_ACK,
	CRUCIBLE_FLUSH,
	CRUCIBLE_FLUSH_ACK,
	CRUCIBLE_BARRIER,
	CRUCIBLE_BARRIER_ACK,
	CRUCIBLE_READ_REQUEST,
	CRUCIBLE_READ_RESPONSE,
	CRUCIBLE_WRITE_UNWRITTEN,
	CRUCIBLE_WRITE_UNWRITTEN_ACK,
	CRUCIBLE_ERROR_REPORT,
	CRUCIBLE_MESSAGE_TYPES, /* how many there are */
};

enum crucible_error_kind {
	CRUCIBLE_ERROR_GENERIC = 0,
	CRUCIBLE_ERROR_IO,
	CRUCIBLE_ERROR_UNSUPPORTED,
	CRUCIBLE_ERROR_DISCONNECT,
	CRUCIBLE_ERROR_DATA_LOCK,
	CRUCIBLE_ERROR_RW_LOCK,
	CRUCIBLE_ERROR_RECV_DISCONNECTED,
	CRUCIBLE_ERROR_SEND,
	CRUCIBLE_ERROR_OFFSET_UNALIGNED,
	CRUCIBLE_ERROR_DATA_LEN_UNALIGNED,
	CRUCIBLE_ERROR_BLOCK_SIZE_MISMATCH,
	CRUCIBLE_ERROR_INVALID_NUMBER_OF_BLOCKS,
	CRUCIBLE_ERROR_OFFSET_INVALID,
	CRUCIBLE_ERROR_UPSTAIRS_ACTIVATE_IN_PROGRESS,
	CRUCIBLE_ERROR_UPSTAIRS_DEACTIVATING,
	CRUCIBLE_ERROR_UPSTAIRS_INACTIVE,
	CRUCIBLE_ERROR_UUID_MISMATCH,
	CRUCIBLE_ERROR_ENCRYPTION,
	CRUCIBLE_ERROR_DECRYPTION,
	CRUCIBLE_ERROR_HASH_MISMATCH,
	CRUCIBLE_ERROR_LBA_RANGE_OVERLAP,
	CRUCIBLE_ERROR_SUBVOLUME_SIZE_MISMATCH,
	CRUCIBLE_ERROR_SUBVOLUME_TYPE_MISMATCH,
	CRUCIBLE_ERROR_CANNOT_SERVE_BLOCKS,
	CRUCIBLE_ERROR_CANNOT_RECEIVE_BLOCKS,
	CRUCIBLE_ERROR_SNAPSHOT_FAILED,
	CRUCIBLE_ERROR_MODIFYING_READ_ONLY_REGION,
	CRUCIBLE_ERROR_INVALID_EXTENT,
	CRUCIBLE_ERROR_REPAIR_REQUEST,
	CRUCIBLE_ERROR_REPAIR_FILES_INVALID,
	CRUCIBLE_ERROR_REPAIR_STREAM,
	CRUCIBLE_ERROR_GENERATION_NUMBER_INVALID,
	CRUCIBLE_ERROR_NO_LONGER_ACTIVE,
	CRUCIBLE_ERROR_REGION_ASSEMBLE,
	CRUCIBLE_ERROR_PROPERTY_NOT_AVAILABLE,
	CRUCIBLE_ERROR_REPLACE_REQUEST_INVALID,
	CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT,
	CRUCIBLE_ERROR_BAD_METADATA,
	CRUCIBLE_ERROR_BAD_CONTEXT_SLOT,
	CRUCIBLE_ERROR_MISSING_BLOCK_CONTEXT,
	CRUCIBLE_ERROR_REGION_INCOMPATIBLE,
	CRUCIBLE_ERROR_NEGOTIATION,
	CRUCIBLE_ERROR_KINDS, /* how many there are */
};

enum crucible_negotiation_error_kind {
	CRUCIBLE_NEGOTIATION_OUT_OF_ORDER = 0,
	CRUCIBLE_NEGOTIATION_GENERATION_ZERO,
	CRUCIBLE_NEGOTIATION_GENERATION_TOO_LOW,
	CRUCIBLE_NEGOTIATION_INCOMPATIBLE_VERSION,
	CRUCIBLE_NEGOTIATION_ENCRYPTION_MISMATCH,
	CRUCIBLE_NEGOTIATION_READ_ONLY_MISMATCH,
	CRUCIBLE_NEGOTIATION_UPSTAIRS_ID_MISMATCH,
	CRUCIBLE_NEGOTIATION_SESSION_ID_MISMATCH,
	CRUCIBLE_NEGOTIATION_ERROR_KINDS, /* how many there are */
};

/* The bytes in the order of the text form, as in a uuid_t of libuuid. */
struct crucible_uuid {
	uint8_t bytes[16];
};

struct crucible_address {
	bool is_ipv6;
	uint8_t octets[16]; /* the first 4 of them if not IPv6 */
	uint16_t port;
};

/* Bytes of unknown encoding, not ended by a zero byte. */
struct crucible_text {
	const char *bytes;
	size_t length;
};

/* Lists. `items` is a plain array to encode (uint64_t, uint32_t, uint8_t, bool); read what was
 * decoded by the functions below, since it is not aligned. */
struct crucible_u64s {
	const void *items;
	size_t count;
};

struct crucible_u32s {
	const void *items;
	size_t count;
};

struct crucible_u8s {
	const uint8_t *items;
	size_t count;
};

struct crucible_bools {
	const void *items;
	size_t count;
};

/* The caller has compared `index` with the count. */
static inline uint64_t crucible_u64_at(struct crucible_u64s list, size_t index)
{
	return get_le64((const uint8_t *)list.items + index * 8);
}

static inline uint32_t crucible_u32_at(struct crucible_u32s list, size_t index)
{
	return get_le32((const uint8_t *)list.items + index * 4);
}

static inline bool crucible_bool_at(struct crucible_bools list, size_t index)
{
	return ((const uint8_t *)list.items)[index];
}

/* AES-256-GCM-SIV of one block. */
struct crucible_encryption {
	uint8_t nonce[12], tag[16];
};

/* What is written with a block. */
struct crucible_block_context {
	uint64_t hash;
	bool is_encrypted;
	struct crucible_encryption encryption; /* if is_encrypted */
};

enum crucible_read_context_kind {
	CRUCIBLE_BLOCK_EMPTY = 0, /* never written */
	CRUCIBLE_BLOCK_ENCRYPTED,
	CRUCIBLE_BLOCK_UNENCRYPTED,
};

/* What is read with a block. */
struct crucible_read_context {
	enum crucible_read_context_kind kind;
	uint64_t hash;                         /* if unencrypted */
	struct crucible_encryption encryption; /* if encrypted */
};

/* One context per block. To encode from structs, set `items` and `count`. What was decoded stays
 * packed: `items` is NULL, `packed` are `packed_size` bytes of the frame, and may be encoded again;
 * read them by the functions below. Contexts differ in size, so they have an order but no index. */
struct crucible_block_contexts {
	const struct crucible_block_context *items;
	size_t count;
	const uint8_t *packed;
	size_t packed_size;
};

struct crucible_read_contexts {
	const struct crucible_read_context *items;
	size_t count;
	const uint8_t *packed;
	size_t packed_size;
};

/* Takes the first context off *contexts, in either form. False if there is none. Usual is:
 *     struct crucible_read_contexts rest = message.read_response.contexts;
 *     while (crucible_next_read_context(&rest, &context)) ... */
bool crucible_next_block_context(
	struct crucible_block_contexts *contexts, struct crucible_block_context *context);
bool crucible_next_read_context(
	struct crucible_read_contexts *contexts, struct crucible_read_context *context);

/* The bytes of the blocks; they are the end of the frame. */
struct crucible_data {
	const void *bytes;
	size_t length;
};

struct crucible_negotiation_error {
	enum crucible_negotiation_error_kind kind;
	union {
		struct {
			uint64_t requested, actual;
		} generations; /* generation too low */
		struct {
			uint32_t expected, actual;
		} versions; /* incompatible version */
		struct {
			bool expected, actual;
		} flags; /* encryption or read-only mismatch */
		struct {
			struct crucible_uuid expected, actual;
		} ids; /* upstairs or session id mismatch */
	};
};

struct crucible_error {
	enum crucible_error_kind kind;
	union {
		struct crucible_text text; /* of the kinds that have one, see codec-layout.c */
		struct {
			uint64_t block;
			uint32_t extent_id;
		} slot; /* missing context slot */
		struct crucible_negotiation_error negotiation;
	};
};

struct crucible_result {
	bool failed;
	struct crucible_error error; /* if failed */
};

/* Writes one line about the error: printable ASCII (anything else is replaced), ended by a zero
 * byte, cut short with "..." if `size` is too small. 160 bytes hold all but long texts of a peer.
 */
void crucible_error_text(const struct crucible_error *error, char *buffer, size_t size);

struct crucible_region {
	uint64_t block_size;
	uint64_t extent_size; /* blocks */
	uint32_t block_shift; /* log2 of block_size, says the peer */
	uint32_t extent_count;
	struct crucible_uuid uuid;
	bool encrypted;
	uint64_t database_read_version, database_write_version;
};

/* Who is active, or wants to be. */
struct crucible_session {
	struct crucible_uuid upstairs_id, session_id;
	uint64_t generation;
};

/* What every job and every answer to one begins with. */
struct crucible_job {
	struct crucible_uuid upstairs_id, session_id;
	uint64_t job_id;
};

struct crucible_message {
	enum crucible_message_type type;
	struct crucible_job job;           /* types 17 to 24 and 30 to 40 */
	struct crucible_u64s dependencies; /* the jobs to do before this one, by id: types 17 to 21,
										* 30, 32, 34, 36, 38 */
	union {
		struct {
			uint32_t version;
			struct crucible_session session;
			bool read_only, encrypted;
			struct crucible_u32s alternate_versions;
		} here_i_am;
		struct {
			uint32_t version;
			struct crucible_address repair_address;
		} yes_its_me;
		struct {
			uint32_t version; /* the one that the downstairs speaks */
		} version_mismatch;
		struct {
			bool expected; /* what the downstairs is */
		} mode_mismatch;   /* read-only mismatch, encrypted mismatch */
		/* promote to active, you are now active; you are no longer active: who is instead */
		struct crucible_session session;
		struct {
			struct crucible_uuid expected_id;
		} uuid_mismatch;

		struct {
			uint64_t repair_id;
			uint32_t extent_id;
		} extent; /* extent close, extent reopen */
		struct {
			uint64_t repair_id;
			uint32_t extent_id;
			uint8_t slot;
			uint64_t flush_number, generation;
		} extent_flush;
		struct {
			uint64_t repair_id;
			uint32_t extent_id;
			uint8_t source_slot;
			struct crucible_address source_address;
			struct crucible_u8s destination_slots;
		} extent_repair;
		struct {
			uint64_t repair_id;
		} repair_ack;
		struct {
			uint64_t repair_id;
			uint32_t extent_id;
			struct crucible_error error;
		} extent_error;

		struct {
			uint32_t extent_id;
		} live_extent; /* extent live close, extent live reopen */
		struct {
			uint32_t extent_id;
			uint64_t flush_number, generation;
		} live_flush_close;
		struct {
			uint32_t extent_id;
			uint8_t source_slot;
			struct crucible_address source_address;
		} live_repair;
		struct {
			struct crucible_result result;
			uint64_t generation, flush_number; /* unless failed, these three */
			bool dirty;
		} live_close_ack;
		/* of a live repair, live reopen, live no-op, write, flush, barrier */
		struct crucible_result ack;

		struct crucible_region region_info;
		struct {
			struct crucible_u64s generations, flush_numbers;
			struct crucible_bools dirty; /* each by extent id */
		} extent_versions;
		struct {
			bool has_job_id;
			uint64_t job_id; /* a job's, not a flush number */
		} last_flush;

		struct {
			uint64_t start;
			struct crucible_block_contexts contexts;
			struct crucible_data data;
		} write; /* write, write unwritten */
		struct {
			uint64_t flush_number, generation;
			bool has_snapshot;
			struct crucible_text snapshot_name;
			bool has_extent_limit;
			uint32_t extent_limit; /* inclusive */
		} flush;
		struct {
			uint64_t start, count;
		} read_request;
		struct {
			struct crucible_result result;
			struct crucible_read_contexts contexts; /* unless failed */
			struct crucible_data data;
		} read_response;
		struct {
			struct crucible_error error;
		} error_report;
	};
};

/* The message's name in the protocol, for logs; NULL if there is no such type. */
const char *crucible_message_name(enum crucible_message_type type);

/* Receiving. `bytes` begins where a frame begins; `received` of them are there, of this frame and
 * perhaps of later ones. */

/* How long the frame is. Returns 0; -EAGAIN if that is not known before *length bytes have been
 * received; -EBADMSG if no frame has that length. */
int crucible_frame_length(const void *bytes, size_t received, size_t *length, const char **wrong);

/* Decodes all of a message but its data. Returns 0 and in *head how many bytes that took: the whole
 * frame unless it is a write or a read response, whose data (data.length bytes; data.bytes is NULL)
 * are what follows. Returns -EAGAIN if *head bytes have to be received first, which is more than
 * there are; if it is called only then, it is called some dozen times for one frame, a hundred at
 * the worst, in whatever pieces that comes. -EBADMSG comes as early as the bytes allow. */
int crucible_decode_head(const void *bytes, size_t received, struct crucible_message *message,
	size_t *head, const char **wrong);

/* Decodes a frame that is complete, and nothing behind it. Returns 0 or -EBADMSG. */
int crucible_decode(
	const void *frame, size_t size, struct crucible_message *message, const char **wrong);

/* Sending. Returned is -EMSGSIZE if the frame would be longer than the protocol allows, or than the
 * buffer; -EINVAL if the type, or the kind of an error or a context, is none of the protocol. */

/* The exact size of a frame, and how much of it is there before the data (of a write or a read
 * response; else that is all). data.bytes is not looked at. */
int crucible_measure(const struct crucible_message *message, size_t *head, size_t *frame);

/* Writes a frame without its data, which are to follow; its length counts them. data.bytes is not
 * looked at. Returns how many bytes were written, or a negative errno; then the buffer's contents
 * are of no use. */
ssize_t crucible_encode_head(const struct crucible_message *message, void *buffer, size_t size);

/* The same with the data. */
ssize_t crucible_encode(const struct crucible_message *message, void *buffer, size_t size);

#endif
