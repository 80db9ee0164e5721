/* execute.c: what each message does to the region, and its answer (crucible-protocol.md 4.4). */
#include <stdio.h>

#include "engine-internal.h"
#include "memory.h"

/* More than upstream could ever read into memory; it goes on trying until it is killed. */
#define ABSURD_READ (UINT64_C(1) << 36)

static enum outcome read_blocks(struct downstairs *downstairs,
	const struct crucible_message *message, struct crucible_message *answer)
{
	uint64_t count = message->read_request.count;
	uint64_t block_size = disk_region(downstairs->disk)->block_size;
	if (count > ABSURD_READ / block_size) {
		downstairs->region.error = (struct crucible_error){ .kind = CRUCIBLE_ERROR_GENERIC };
		downstairs->region.is_hopeless = true;
		return OUTCOME_FAILED;
	}
	enum outcome outcome = region_check_read(
		&downstairs->region, message->read_request.start, count);
	if (outcome != OUTCOME_DONE)
		return outcome;
	downstairs->read_contexts = grown(downstairs->read_contexts, &downstairs->read_contexts_size,
		count, sizeof *downstairs->read_contexts);
	downstairs->read_data = grown(
		downstairs->read_data, &downstairs->read_data_size, count * block_size, 1);
	region_read(&downstairs->region, message->read_request.start, count, downstairs->read_contexts,
		downstairs->read_data);
	answer->type = CRUCIBLE_READ_RESPONSE;
	answer->read_response.contexts.items = downstairs->read_contexts;
	answer->read_response.contexts.count = count;
	answer->read_response.data =
		(struct crucible_data){ downstairs->read_data, count * block_size };
	return OUTCOME_DONE;
}

static enum outcome write_blocks(struct downstairs *downstairs,
	const struct crucible_message *message, struct crucible_message *answer)
{
	bool only_unwritten = message->type == CRUCIBLE_WRITE_UNWRITTEN;
	answer->type = only_unwritten ? CRUCIBLE_WRITE_UNWRITTEN_ACK : CRUCIBLE_WRITE_ACK;
	return region_write(&downstairs->region, message->write.start, message->write.contexts,
		message->write.data.bytes, only_unwritten);
}

static enum outcome flush(struct downstairs *downstairs, const struct crucible_message *message,
	struct crucible_message *answer)
{
	struct region *region = &downstairs->region;
	answer->type = CRUCIBLE_FLUSH_ACK;
	if (message->flush.has_snapshot && region->read_only) {
		region->error.kind = CRUCIBLE_ERROR_MODIFYING_READ_ONLY_REGION;
		region->is_hopeless = true;
		return OUTCOME_FAILED;
	}
	/* Builds without ZFS take no snapshot, and acknowledge. */
	return region_flush(region, message->flush.generation, message->flush.flush_number,
		message->flush.has_extent_limit ? &message->flush.extent_limit : NULL);
}

static enum outcome close_live(struct downstairs *downstairs,
	const struct crucible_message *message, struct crucible_message *answer)
{
	struct region *region = &downstairs->region;
	bool flushes = message->type == CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE;
	uint32_t extent_id = flushes ? message->live_flush_close.extent_id
								 : message->live_extent.extent_id;
	struct versions versions;
	enum outcome outcome = OUTCOME_DONE;
	if (flushes)
		outcome = region_flush_extent(region, extent_id, message->live_flush_close.generation,
			message->live_flush_close.flush_number);
	if (outcome == OUTCOME_DONE)
		outcome = region_versions(region, extent_id, &versions);
	if (outcome == OUTCOME_DONE)
		outcome = region_close_extent(region, extent_id);
	answer->type = CRUCIBLE_EXTENT_LIVE_CLOSE_ACK;
	if (outcome == OUTCOME_DONE) {
		answer->live_close_ack.generation = versions.generation;
		answer->live_close_ack.flush_number = versions.flush_number;
		answer->live_close_ack.dirty = versions.dirty;
	}
	return outcome;
}

static uint32_t repaired_extent(const struct crucible_message *message)
{
	return message->type == CRUCIBLE_EXTENT_REPAIR ? message->extent_repair.extent_id
												   : message->live_repair.extent_id;
}

static enum outcome run_message(struct downstairs *downstairs,
	const struct crucible_message *message, struct crucible_message *answer)
{
	struct region *region = &downstairs->region;
	switch ((int)message->type) {
	case CRUCIBLE_READ_REQUEST:
		return read_blocks(downstairs, message, answer);
	case CRUCIBLE_WRITE:
	case CRUCIBLE_WRITE_UNWRITTEN:
		return write_blocks(downstairs, message, answer);
	case CRUCIBLE_FLUSH:
		return flush(downstairs, message, answer);
	case CRUCIBLE_BARRIER:
		answer->type = CRUCIBLE_BARRIER_ACK;
		return OUTCOME_DONE;
	case CRUCIBLE_EXTENT_LIVE_CLOSE:
	case CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE:
		return close_live(downstairs, message, answer);
	case CRUCIBLE_EXTENT_LIVE_REOPEN:
		answer->type = CRUCIBLE_EXTENT_LIVE_ACK_ID;
		return region_reopen_extent(region, message->live_extent.extent_id);
	case CRUCIBLE_EXTENT_LIVE_NO_OP:
		answer->type = CRUCIBLE_EXTENT_LIVE_ACK_ID;
		return OUTCOME_DONE;
	case CRUCIBLE_EXTENT_FLUSH:
		return region_flush_extent(region, message->extent_flush.extent_id,
			message->extent_flush.generation, message->extent_flush.flush_number);
	case CRUCIBLE_EXTENT_CLOSE:
		return region_close_extent(region, message->extent.extent_id);
	case CRUCIBLE_EXTENT_REOPEN:
		return region_reopen_extent(region, message->extent.extent_id);
	case CRUCIBLE_EXTENT_LIVE_REPAIR:
	case CRUCIBLE_EXTENT_REPAIR:
	default:
		return region_begin_repair(region, repaired_extent(message));
	}
}

/* Answers of the messages without a job id. */
static void answer_repair(struct downstairs *downstairs, const struct crucible_message *message,
	enum outcome outcome, struct crucible_message *answer)
{
	uint64_t repair_id = message->extent.repair_id; /* the first field in all of them */
	uint32_t extent_id = message->extent.extent_id; /* the second */
	if (outcome == OUTCOME_DONE) {
		answer->type = CRUCIBLE_REPAIR_ACK_ID;
		answer->repair_ack.repair_id = repair_id;
	} else {
		answer->type = CRUCIBLE_EXTENT_ERROR;
		answer->extent_error.repair_id = repair_id;
		answer->extent_error.extent_id = extent_id;
		answer->extent_error.error = downstairs->region.error;
	}
}

static enum execution conclude(struct downstairs *downstairs,
	const struct crucible_message *message, enum outcome outcome, struct crucible_message *answer)
{
	bool has_job_id = message->type > CRUCIBLE_EXTENT_REPAIR;
	switch (outcome) {
	case OUTCOME_PANIC:
		downstairs_die(downstairs, downstairs->region.panic);
		return EXECUTION_STOPPED;
	case OUTCOME_KILLED:
		downstairs->state = DOWNSTAIRS_KILLED;
		return EXECUTION_STOPPED;
	case OUTCOME_FAILED:
		if (has_job_id)
			return EXECUTION_FAILED;
		break;
	case OUTCOME_DONE:
		break;
	}
	if (!has_job_id)
		answer_repair(downstairs, message, outcome, answer);
	return EXECUTION_DONE;
}

enum execution execute(struct downstairs *downstairs, const struct crucible_message *message,
	struct crucible_message *answer)
{
	*answer = (struct crucible_message){ .job = message->job };
	enum outcome outcome = run_message(downstairs, message, answer);
	if (outcome == OUTCOME_DONE &&
		(message->type == CRUCIBLE_EXTENT_LIVE_REPAIR || message->type == CRUCIBLE_EXTENT_REPAIR))
		return EXECUTION_FETCHES;
	return conclude(downstairs, message, outcome, answer);
}

enum execution execute_fetched(struct downstairs *downstairs,
	const struct crucible_message *message, const void *image, size_t size, const char *error,
	struct crucible_message *answer)
{
	struct region *region = &downstairs->region;
	enum outcome outcome;
	*answer = (struct crucible_message){ .type = CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID,
		.job = message->job };
	if (image) {
		outcome = region_finish_repair(region, repaired_extent(message), image, size);
	} else {
		snprintf(region->text, sizeof region->text, "%s", error);
		region->error = (struct crucible_error){
			.kind = CRUCIBLE_ERROR_REPAIR_REQUEST,
			.text = { region->text, strlen(region->text) },
		};
		outcome = OUTCOME_FAILED;
	}
	return conclude(downstairs, message, outcome, answer);
}
