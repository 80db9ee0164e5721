/* codec-layout.c: the tables of crucible-protocol.md sections 1.3 to 1.5. */
#include "codec-layout.h"

#include <assert.h>

#define SAME_TYPE(member, type) __builtin_types_compatible_p(__typeof__(((OWNER *)0)->member), type)
/* The size of the struct is not used; it is there to hold the assertion. */
#define CHECKED_OFFSET(member, type)                                            \
	(offsetof(OWNER, member) + 0 * sizeof(struct {                              \
		static_assert(SAME_TYPE(member, type), "the field is of another type"); \
		char unused;                                                            \
	}))
#define FIELD(kind, count, member, type)          \
	{                                             \
		kind, count, CHECKED_OFFSET(member, type) \
	}

#define U8(member) FIELD(FIELD_U8, 0, member, uint8_t)
#define U32(member) FIELD(FIELD_U32, 0, member, uint32_t)
#define U64(member) FIELD(FIELD_U64, 0, member, uint64_t)
#define BOOL(member) FIELD(FIELD_BOOL, 0, member, bool)
#define UUID(member) FIELD(FIELD_UUID, 0, member, struct crucible_uuid)
#define ADDRESS(member) FIELD(FIELD_ADDRESS, 0, member, struct crucible_address)
#define TEXT(member) FIELD(FIELD_TEXT, 0, member, struct crucible_text)
#define U8S(member) FIELD(FIELD_U8S, 0, member, struct crucible_u8s)
#define U32S(member) FIELD(FIELD_U32S, 0, member, struct crucible_u32s)
#define U64S(member) FIELD(FIELD_U64S, 0, member, struct crucible_u64s)
#define BOOLS(member) FIELD(FIELD_BOOLS, 0, member, struct crucible_bools)
#define BLOCK_CONTEXTS(member) \
	FIELD(FIELD_BLOCK_CONTEXTS, 0, member, struct crucible_block_contexts)
#define READ_CONTEXTS(member) FIELD(FIELD_READ_CONTEXTS, 0, member, struct crucible_read_contexts)
#define ERROR(member) FIELD(FIELD_ERROR, 0, member, struct crucible_error)
#define NEGOTIATION_ERROR(member) \
	FIELD(FIELD_NEGOTIATION_ERROR, 0, member, struct crucible_negotiation_error)
#define DATA(member) FIELD(FIELD_DATA, 0, member, struct crucible_data)
#define OPTION(count, member) FIELD(FIELD_OPTION, count, member, bool)
/* Before the `count` fields of success. */
#define RESULT(count, member) FIELD(FIELD_RESULT, count, member, struct crucible_result)

#define SESSION(member) UUID(member.upstairs_id), UUID(member.session_id), U64(member.generation)
#define JOB UUID(job.upstairs_id), UUID(job.session_id), U64(job.job_id)
#define DEPENDENT_JOB JOB, U64S(dependencies)
#define WRITE DEPENDENT_JOB, U64(write.start), BLOCK_CONTEXTS(write.contexts), DATA(write.data)

#define OWNER struct crucible_message
static const struct layout messages[] = {
	[CRUCIBLE_HERE_I_AM] = { "HereIAm",
		{ U32(here_i_am.version), SESSION(here_i_am.session), BOOL(here_i_am.read_only),
			BOOL(here_i_am.encrypted), U32S(here_i_am.alternate_versions) } },
	[CRUCIBLE_YES_ITS_ME] = { "YesItsMe",
		{ U32(yes_its_me.version), ADDRESS(yes_its_me.repair_address) } },
	[CRUCIBLE_VERSION_MISMATCH] = { "VersionMismatch", { U32(version_mismatch.version) } },
	[CRUCIBLE_READ_ONLY_MISMATCH] = { "ReadOnlyMismatch", { BOOL(mode_mismatch.expected) } },
	[CRUCIBLE_ENCRYPTED_MISMATCH] = { "EncryptedMismatch", { BOOL(mode_mismatch.expected) } },
	[CRUCIBLE_PROMOTE_TO_ACTIVE] = { "PromoteToActive", { SESSION(session) } },
	[CRUCIBLE_YOU_ARE_NOW_ACTIVE] = { "YouAreNowActive", { SESSION(session) } },
	[CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE] = { "YouAreNoLongerActive", { SESSION(session) } },
	[CRUCIBLE_UUID_MISMATCH] = { "UuidMismatch", { UUID(uuid_mismatch.expected_id) } },
	[CRUCIBLE_RUOK] = { .name = "Ruok" },
	[CRUCIBLE_IMOK] = { .name = "Imok" },

	[CRUCIBLE_EXTENT_CLOSE] = { "ExtentClose", { U64(extent.repair_id), U32(extent.extent_id) } },
	[CRUCIBLE_EXTENT_REOPEN] = { "ExtentReopen", { U64(extent.repair_id), U32(extent.extent_id) } },
	[CRUCIBLE_EXTENT_FLUSH] = { "ExtentFlush",
		{ U64(extent_flush.repair_id), U32(extent_flush.extent_id), U8(extent_flush.slot),
			U64(extent_flush.flush_number), U64(extent_flush.generation) } },
	[CRUCIBLE_EXTENT_REPAIR] = { "ExtentRepair",
		{ U64(extent_repair.repair_id), U32(extent_repair.extent_id), U8(extent_repair.source_slot),
			ADDRESS(extent_repair.source_address), U8S(extent_repair.destination_slots) } },
	[CRUCIBLE_REPAIR_ACK_ID] = { "RepairAckId", { U64(repair_ack.repair_id) } },
	[CRUCIBLE_EXTENT_ERROR] = { "ExtentError",
		{ U64(extent_error.repair_id), U32(extent_error.extent_id), ERROR(extent_error.error) } },

	[CRUCIBLE_EXTENT_LIVE_CLOSE] = { "ExtentLiveClose",
		{ DEPENDENT_JOB, U32(live_extent.extent_id) } },
	[CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE] = { "ExtentLiveFlushClose",
		{ DEPENDENT_JOB, U32(live_flush_close.extent_id), U64(live_flush_close.flush_number),
			U64(live_flush_close.generation) } },
	[CRUCIBLE_EXTENT_LIVE_REPAIR] = { "ExtentLiveRepair",
		{ DEPENDENT_JOB, U32(live_repair.extent_id), U8(live_repair.source_slot),
			ADDRESS(live_repair.source_address) } },
	[CRUCIBLE_EXTENT_LIVE_REOPEN] = { "ExtentLiveReopen",
		{ DEPENDENT_JOB, U32(live_extent.extent_id) } },
	[CRUCIBLE_EXTENT_LIVE_NO_OP] = { "ExtentLiveNoOp", { DEPENDENT_JOB } },
	[CRUCIBLE_EXTENT_LIVE_CLOSE_ACK] = { "ExtentLiveCloseAck",
		{ JOB, RESULT(3, live_close_ack.result), U64(live_close_ack.generation),
			U64(live_close_ack.flush_number), BOOL(live_close_ack.dirty) } },
	[CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID] = { "ExtentLiveRepairAckId", { JOB, RESULT(0, ack) } },
	[CRUCIBLE_EXTENT_LIVE_ACK_ID] = { "ExtentLiveAckId", { JOB, RESULT(0, ack) } },

	[CRUCIBLE_REGION_INFO_PLEASE] = { .name = "RegionInfoPlease" },
	[CRUCIBLE_REGION_INFO] = { "RegionInfo",
		{ U64(region_info.block_size), U64(region_info.extent_size), U32(region_info.block_shift),
			U32(region_info.extent_count), UUID(region_info.uuid), BOOL(region_info.encrypted),
			U64(region_info.database_read_version), U64(region_info.database_write_version) } },
	[CRUCIBLE_EXTENT_VERSIONS_PLEASE] = { .name = "ExtentVersionsPlease" },
	[CRUCIBLE_EXTENT_VERSIONS] = { "ExtentVersions",
		{ U64S(extent_versions.generations), U64S(extent_versions.flush_numbers),
			BOOLS(extent_versions.dirty) } },
	[CRUCIBLE_LAST_FLUSH] = { "LastFlush",
		{ OPTION(1, last_flush.has_job_id), U64(last_flush.job_id) } },

	[CRUCIBLE_WRITE] = { "Write", { WRITE } },
	[CRUCIBLE_WRITE_ACK] = { "WriteAck", { JOB, RESULT(0, ack) } },
	[CRUCIBLE_FLUSH] = { "Flush",
		{ DEPENDENT_JOB, U64(flush.flush_number), U64(flush.generation),
			OPTION(1, flush.has_snapshot), TEXT(flush.snapshot_name),
			OPTION(1, flush.has_extent_limit), U32(flush.extent_limit) } },
	[CRUCIBLE_FLUSH_ACK] = { "FlushAck", { JOB, RESULT(0, ack) } },
	[CRUCIBLE_BARRIER] = { "Barrier", { DEPENDENT_JOB } },
	[CRUCIBLE_BARRIER_ACK] = { "BarrierAck", { JOB, RESULT(0, ack) } },
	[CRUCIBLE_READ_REQUEST] = { "ReadRequest",
		{ DEPENDENT_JOB, U64(read_request.start), U64(read_request.count) } },
	[CRUCIBLE_READ_RESPONSE] = { "ReadResponse",
		{ JOB, RESULT(1, read_response.result), READ_CONTEXTS(read_response.contexts),
			DATA(read_response.data) } },
	[CRUCIBLE_WRITE_UNWRITTEN] = { "WriteUnwritten", { WRITE } },
	[CRUCIBLE_WRITE_UNWRITTEN_ACK] = { "WriteUnwrittenAck", { JOB, RESULT(0, ack) } },
	[CRUCIBLE_ERROR_REPORT] = { "ErrorReport", { JOB, ERROR(error_report.error) } },
};
static_assert(sizeof messages / sizeof messages[0] == CRUCIBLE_MESSAGE_TYPES, "one is missing");
#undef OWNER

#define OWNER struct crucible_error
static const struct layout errors[] = {
	[CRUCIBLE_ERROR_GENERIC] = { "unspecified error", { TEXT(text) } },
	[CRUCIBLE_ERROR_IO] = { "I/O error", { TEXT(text) } },
	[CRUCIBLE_ERROR_UNSUPPORTED] = { "not supported", { TEXT(text) } },
	[CRUCIBLE_ERROR_DISCONNECT] = { .name = "disconnected" },
	[CRUCIBLE_ERROR_DATA_LOCK] = { .name = "the data lock failed" },
	[CRUCIBLE_ERROR_RW_LOCK] = { "a reader-writer lock failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_RECV_DISCONNECTED] = { .name = "the receiving channel is closed" },
	[CRUCIBLE_ERROR_SEND] = { "sending failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_OFFSET_UNALIGNED] = { .name = "the offset is not aligned" },
	[CRUCIBLE_ERROR_DATA_LEN_UNALIGNED] = { .name = "the data length is not aligned" },
	[CRUCIBLE_ERROR_BLOCK_SIZE_MISMATCH] = { .name = "the block size differs" },
	[CRUCIBLE_ERROR_INVALID_NUMBER_OF_BLOCKS] = { "invalid number of blocks", { TEXT(text) } },
	[CRUCIBLE_ERROR_OFFSET_INVALID] = { .name = "the offset is invalid" },
	[CRUCIBLE_ERROR_UPSTAIRS_ACTIVATE_IN_PROGRESS] = { .name = "the upstairs is being activated" },
	[CRUCIBLE_ERROR_UPSTAIRS_DEACTIVATING] = { .name = "the upstairs is being deactivated" },
	[CRUCIBLE_ERROR_UPSTAIRS_INACTIVE] = { .name = "the upstairs is not active" },
	[CRUCIBLE_ERROR_UUID_MISMATCH] = { .name = "the UUID differs" },
	[CRUCIBLE_ERROR_ENCRYPTION] = { "encryption failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_DECRYPTION] = { .name = "decryption failed" },
	[CRUCIBLE_ERROR_HASH_MISMATCH] = { .name = "the hash does not fit the block" },
	[CRUCIBLE_ERROR_LBA_RANGE_OVERLAP] = { .name = "block ranges overlap" },
	[CRUCIBLE_ERROR_SUBVOLUME_SIZE_MISMATCH] = { .name = "the sizes of subvolumes differ" },
	[CRUCIBLE_ERROR_SUBVOLUME_TYPE_MISMATCH] = { .name = "the types of subvolumes differ" },
	[CRUCIBLE_ERROR_CANNOT_SERVE_BLOCKS] = { "blocks cannot be served", { TEXT(text) } },
	[CRUCIBLE_ERROR_CANNOT_RECEIVE_BLOCKS] = { "blocks cannot be received", { TEXT(text) } },
	[CRUCIBLE_ERROR_SNAPSHOT_FAILED] = { "the snapshot failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_MODIFYING_READ_ONLY_REGION] = { .name = "the region is read-only" },
	[CRUCIBLE_ERROR_INVALID_EXTENT] = { .name = "no such extent" },
	[CRUCIBLE_ERROR_REPAIR_REQUEST] = { "the repair request failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_REPAIR_FILES_INVALID] = { "the files to repair from are invalid",
		{ TEXT(text) } },
	[CRUCIBLE_ERROR_REPAIR_STREAM] = { "the stream to repair from failed", { TEXT(text) } },
	[CRUCIBLE_ERROR_GENERATION_NUMBER_INVALID] = { .name = "the generation number is invalid" },
	[CRUCIBLE_ERROR_NO_LONGER_ACTIVE] = { .name = "another upstairs has become active" },
	[CRUCIBLE_ERROR_REGION_ASSEMBLE] = { .name = "the regions do not go together" },
	[CRUCIBLE_ERROR_PROPERTY_NOT_AVAILABLE] = { "a property is not available", { TEXT(text) } },
	[CRUCIBLE_ERROR_REPLACE_REQUEST_INVALID] = { "the request to replace is invalid",
		{ TEXT(text) } },
	[CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT] = { "a context slot is missing",
		{ U64(slot.block), U32(slot.extent_id) } },
	[CRUCIBLE_ERROR_BAD_METADATA] = { "bad metadata", { TEXT(text) } },
	[CRUCIBLE_ERROR_BAD_CONTEXT_SLOT] = { "bad context slot", { TEXT(text) } },
	[CRUCIBLE_ERROR_MISSING_BLOCK_CONTEXT] = { .name = "a block context is missing" },
	[CRUCIBLE_ERROR_REGION_INCOMPATIBLE] = { "the region is not compatible", { TEXT(text) } },
	[CRUCIBLE_ERROR_NEGOTIATION] = { "negotiation failed", { NEGOTIATION_ERROR(negotiation) } },
};
static_assert(sizeof errors / sizeof errors[0] == CRUCIBLE_ERROR_KINDS, "one is missing");
#undef OWNER

#define OWNER struct crucible_negotiation_error
static const struct layout negotiation_errors[] = {
	[CRUCIBLE_NEGOTIATION_OUT_OF_ORDER] = { .name = "message out of order" },
	[CRUCIBLE_NEGOTIATION_GENERATION_ZERO] = { .name = "generation 0 is not allowed" },
	[CRUCIBLE_NEGOTIATION_GENERATION_TOO_LOW] = { "generation too low",
		{ U64(generations.requested), U64(generations.actual) } },
	[CRUCIBLE_NEGOTIATION_INCOMPATIBLE_VERSION] = { "incompatible version",
		{ U32(versions.expected), U32(versions.actual) } },
	[CRUCIBLE_NEGOTIATION_ENCRYPTION_MISMATCH] = { "encrypted or not",
		{ BOOL(flags.expected), BOOL(flags.actual) } },
	[CRUCIBLE_NEGOTIATION_READ_ONLY_MISMATCH] = { "read-only or not",
		{ BOOL(flags.expected), BOOL(flags.actual) } },
	[CRUCIBLE_NEGOTIATION_UPSTAIRS_ID_MISMATCH] = { "another upstairs id",
		{ UUID(ids.expected), UUID(ids.actual) } },
	[CRUCIBLE_NEGOTIATION_SESSION_ID_MISMATCH] = { "another session id",
		{ UUID(ids.expected), UUID(ids.actual) } },
};
static_assert(
	sizeof negotiation_errors / sizeof negotiation_errors[0] == CRUCIBLE_NEGOTIATION_ERROR_KINDS,
	"one is missing");
#undef OWNER

const struct layout *crucible_message_layout(uint32_t type)
{
	return type < CRUCIBLE_MESSAGE_TYPES ? &messages[type] : NULL;
}

const struct layout *crucible_error_layout(uint32_t kind)
{
	return kind < CRUCIBLE_ERROR_KINDS ? &errors[kind] : NULL;
}

const struct layout *crucible_negotiation_error_layout(uint32_t kind)
{
	return kind < CRUCIBLE_NEGOTIATION_ERROR_KINDS ? &negotiation_errors[kind] : NULL;
}

const char *crucible_message_name(enum crucible_message_type type)
{
	const struct layout *layout = crucible_message_layout(type);
	return layout ? layout->name : NULL;
}
