/* Frames that are damaged, and frames of which only a part is there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec-samples.h"
#include "unit.h"

#define HUGE_COUNT (UINT64_C(1) << 61)

static void expect_refused(const uint8_t *frame, size_t size, const char *why)
{
	struct crucible_message message;
	const char *wrong = NULL;
	assert_int_equal(crucible_decode(frame, size, &message, &wrong), -EBADMSG);
	assert_string_equal(wrong, why);
}

static void expect_refused_hex(const char *hex, const char *why)
{
	size_t size;
	uint8_t *frame = bytes_of(hex, &size);
	expect_refused(frame, size, why);
	free(frame);
}

/* A copy of a sample's frame in which the byte or number at `at` is another one. */
static uint8_t *changed_frame(const char *name, size_t at, const void *bytes, size_t length)
{
	const struct sample *sample = sample_named(name);
	uint8_t *frame = malloc(sample->size);
	assert_true(at + length <= sample->size);
	memcpy(frame, sample->frame, sample->size);
	memcpy(frame + at, bytes, length);
	return frame;
}

static void expect_byte_refused(const char *name, size_t at, uint8_t byte, const char *why)
{
	uint8_t *frame = changed_frame(name, at, &byte, 1);
	expect_refused(frame, sample_named(name)->size, why);
	free(frame);
}

static void expect_number_refused(const char *name, size_t at, uint64_t number, const char *why)
{
	uint8_t *frame = changed_frame(name, at, &number, sizeof number);
	expect_refused(frame, sample_named(name)->size, why);
	free(frame);
}

/* for all samples */

static void no_part_is_accepted(const struct sample *sample)
{
	for (size_t size = 0; size < sample->size; size++) {
		uint8_t *part = malloc(size ? size : 1);
		memcpy(part, sample->frame, size);
		expect_refused(part, size, "frame is not as long as it says");
		/* the same with a length that fits */
		if (size >= 4) {
			put_le32(part, (uint32_t)size);
			assert_false(is_accepted(part, size));
		}
		free(part);
	}
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	for_each_sample(no_part_is_accepted);
}

static void nothing_behind_it_is_accepted(const struct sample *sample)
{
	uint8_t *frame = calloc(1, sample->size + 4);
	memcpy(frame, sample->frame, sample->size);
	expect_refused(frame, sample->size + 4, "frame is not as long as it says");
	put_le32(frame, (uint32_t)sample->size + 4);
	struct crucible_message message = sample->message;
	expect_refused(frame, sample->size + 4,
		data_of(&message) ? "data length is not the rest of the frame"
						  : "frame is longer than its message");
	free(frame);
}

static void bytes_behind_a_message_are_refused(void **state)
{
	(void)state;
	for_each_sample(nothing_behind_it_is_accepted);
}

static void any_byte_is_changed(const struct sample *sample)
{
	uint8_t *frame = malloc(sample->size);
	memcpy(frame, sample->frame, sample->size);
	for (size_t at = 0; at < sample->size; at++) {
		for (unsigned change = 1; change < 256; change++) {
			frame[at] = (uint8_t)(sample->frame[at] ^ change);
			bool accepted = is_accepted(frame, sample->size);
			if (at < 4)
				assert_false(accepted);
		}
		frame[at] = sample->frame[at];
	}
	free(frame);
}

static void what_is_accepted_after_a_change_is_encoded_to_the_same(void **state)
{
	(void)state;
	for_each_sample(any_byte_is_changed);
}

static void any_eight_bytes_are_a_huge_count(const struct sample *sample)
{
	static const uint64_t numbers[] = { UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 63,
		(UINT64_C(1) << 63) - 1, (UINT64_C(1) << 62) + 1, HUGE_COUNT - 1, HUGE_COUNT,
		HUGE_COUNT + 1, (UINT64_C(1) << 60) + 2, UINT64_MAX / 9 + 1, UINT64_MAX / 4 + 1,
		(UINT64_C(1) << 32) + 1, UINT32_MAX, CRUCIBLE_FRAME_MAX / 8, 0 };
	uint8_t *frame = malloc(sample->size);
	for (size_t at = 4; at + 8 <= sample->size; at++)
		for (size_t i = 0; i < COUNT_OF(numbers); i++) {
			memcpy(frame, sample->frame, sample->size);
			put_le64(frame + at, numbers[i]);
			is_accepted(frame, sample->size);
		}
	free(frame);
}

static void huge_numbers_anywhere_do_no_harm(void **state)
{
	(void)state;
	for_each_sample(any_eight_bytes_are_a_huge_count);
}

/* Of a frame less than `wanted` bytes are there: never enough. */
static void less_is_not_enough(const struct sample *sample, size_t received, size_t wanted)
{
	for (size_t less = received + 1; less < wanted; less++) {
		struct crucible_message message;
		const char *wrong;
		size_t hint;
		assert_int_equal(
			crucible_decode_head(sample->frame, less, &message, &hint, &wrong), -EAGAIN);
		assert_true(hint > less);
	}
}

/* Receives a frame in the pieces that are asked for. */
static void a_sample_is_received(const struct sample *sample)
{
	struct crucible_message message;
	const char *wrong;
	size_t received = 0, wanted, head, frame;
	unsigned tries = 0;
	assert_int_equal(crucible_measure(&sample->message, &head, &frame), 0);
	for (;; received = wanted) {
		uint8_t *part = malloc(received ? received : 1);
		memcpy(part, sample->frame, received);
		int status = crucible_decode_head(part, received, &message, &wanted, &wrong);
		assert_true(++tries < 20);
		if (status == 0 && data_of(&message)) {
			assert_null(data_of(&message)->bytes);
			data_of(&message)->bytes = sample->frame + head;
		}
		if (status == 0)
			expect_same(&message, &sample->message);
		free(part);
		if (status == 0)
			break;
		assert_int_equal(status, -EAGAIN);
		assert_true(wanted > received && wanted <= head);
		less_is_not_enough(sample, received, wanted);
	}
	assert_int_equal(received, head);
	assert_int_equal(wanted, head);
}

static void a_head_is_decoded_from_a_prefix(void **state)
{
	(void)state;
	for_each_sample(a_sample_is_received);
}

static void more_than_a_head_does_not_matter(const struct sample *sample)
{
	struct crucible_message message;
	const char *wrong;
	size_t head, frame, taken;
	assert_int_equal(crucible_measure(&sample->message, &head, &frame), 0);
	uint8_t *bytes = malloc(sample->size + 3);
	memcpy(bytes, sample->frame, sample->size);
	memset(bytes + sample->size, 0xff, 3);
	for (size_t received = head; received <= sample->size + 3; received++) {
		assert_int_equal(crucible_decode_head(bytes, received, &message, &taken, &wrong), 0);
		assert_int_equal(taken, head);
	}
	free(bytes);
}

static void a_head_is_decoded_with_the_next_frame_behind_it(void **state)
{
	(void)state;
	for_each_sample(more_than_a_head_does_not_matter);
}

/* frames */

static int length_of(uint32_t value, size_t received, size_t *length, const char **wrong)
{
	uint8_t *bytes = malloc(received ? received : 1);
	uint8_t all[8] = { 0 };
	put_le32(all, value);
	memcpy(bytes, all, received);
	int status = crucible_frame_length(bytes, received, length, wrong);
	free(bytes);
	return status;
}

static void a_frame_has_8_bytes_to_100_mib(void **state)
{
	(void)state;
	const char *wrong;
	size_t length;
	for (uint32_t value = 0; value < 8; value++) {
		assert_int_equal(length_of(value, 4, &length, &wrong), -EBADMSG);
		assert_string_equal(wrong, "frame is shorter than any message");
	}
	static const uint32_t good[] = { 8, 9, 104857599, 104857600 };
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		assert_int_equal(length_of(good[i], 4 + i, &length, &wrong), 0);
		assert_int_equal(length, good[i]);
	}
	static const uint32_t bad[] = { 104857601, 0x7fffffff, 0x80000000, UINT32_MAX };
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		assert_int_equal(length_of(bad[i], 8, &length, &wrong), -EBADMSG);
		assert_string_equal(wrong, "frame is longer than 100 MiB");
	}
}

static void a_length_needs_four_bytes(void **state)
{
	(void)state;
	const char *wrong;
	size_t length;
	for (size_t received = 0; received < 4; received++) {
		assert_int_equal(length_of(8, received, &length, &wrong), -EAGAIN);
		assert_int_equal(length, 4);
	}
}

static void a_bad_frame_is_refused_as_soon_as_it_shows(void **state)
{
	(void)state;
	static const struct {
		const char *hex, *wrong;
	} beginnings[] = {
		{ "07000000", "frame is shorter than any message" },
		{ "01004006", "frame is longer than 100 MiB" },
		{ "00004006 29000000", "message is of no known type" },
		{ "00004006 1f000000 1100000000000000 16*00", "UUID is not of 16 bytes" },
		{ "00004006 09000000", "frame is longer than its message" },
		{ "60000000 24000000 UU SS e903000000000000 0500000000000000",
			"count or length is larger than the rest of the frame" },
		{ "68000000 25000000 UU SS e903000000000000 00000000 0200000000000000 03000000 00000000",
			"context of a block is of no known kind" },
		{ "67000000 25000000 UU SS e903000000000000 00000000 0300000000000000 02000000 8*00"
		  " 02000000 8*00",
			"field is longer than the rest of the frame" },
		{ "68000000 25000000 UU SS e903000000000000 00000000 0200000000000000 00000000 02000000"
		  " 8*00 0500000000000000",
			"data length is not the rest of the frame" },
	};
	for (size_t i = 0; i < COUNT_OF(beginnings); i++) {
		struct crucible_message message;
		const char *wrong;
		size_t size, head;
		uint8_t *bytes = bytes_of(beginnings[i].hex, &size);
		assert_int_equal(crucible_decode_head(bytes, size, &message, &head, &wrong), -EBADMSG);
		assert_string_equal(wrong, beginnings[i].wrong);
		free(bytes);
	}
}

/* A read response with so many contexts, all of the same kind. */
static uint8_t *response(size_t count, enum crucible_read_context_kind kind, size_t *size)
{
	struct crucible_read_context *contexts = calloc(count, sizeof *contexts);
	for (size_t i = 0; i < count; i++)
		contexts[i].kind = kind;
	struct crucible_message message = { CRUCIBLE_READ_RESPONSE,
		.read_response.contexts = { .items = contexts, .count = count } };
	uint8_t *frame = encoded(&message, size);
	free(contexts);
	return frame;
}

static void a_response_that_trickles_in_is_not_decoded_too_often(void **state)
{
	(void)state;
	size_t size;
	uint8_t *frame = response(1 << 20, CRUCIBLE_BLOCK_ENCRYPTED, &size);
	size_t received = 0;
	for (unsigned tries = 1;; tries++) {
		struct crucible_message message;
		const char *wrong;
		size_t head;
		int status = crucible_decode_head(frame, received, &message, &head, &wrong);
		assert_true(tries < 120);
		if (status == 0)
			break;
		assert_int_equal(status, -EAGAIN);
		received = head;
	}
	assert_int_equal(received, size);
	free(frame);
}

/* what is refused */

static void unknown_messages_are_refused(void **state)
{
	(void)state;
	expect_refused_hex("08000000 29000000", "message is of no known type");
	expect_refused_hex("08000000 ffffffff", "message is of no known type");
	expect_refused_hex("08000000 00010000", "message is of no known type");
	/* 41 as it would be sent: a number and bytes */
	expect_refused_hex(
		"16000000 29000000 07000000 0200000000000000 0000", "message is of no known type");
}

static void unknown_kinds_are_refused(void **state)
{
	(void)state;
	expect_byte_refused("17 ErrorReport", 64, 42, "error is of no known kind");
	expect_byte_refused("17 ErrorReport", 67, 1, "error is of no known kind");
	expect_byte_refused("BarrierAck failed", 72, 8, "negotiation error is of no known kind");
	expect_byte_refused("15 ReadResponse", 76, 3, "context of a block is of no known kind");
	expect_byte_refused("15 ReadResponse", 77, 1, "context of a block is of no known kind");
	expect_byte_refused("11 WriteAck", 64, 2, "result is neither success nor error");
	expect_byte_refused("15 ReadResponse", 67, 1, "result is neither success nor error");
	expect_byte_refused("3 YesItsMe", 12, 2, "address is neither IPv4 nor IPv6");
}

static void flags_are_0_or_1(void **state)
{
	(void)state;
	static const uint8_t bad[] = { 2, 0x80, 0xff };
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		expect_byte_refused("2 HereIAm", 68, bad[i], "bool is neither 0 nor 1");
		expect_byte_refused("2 HereIAm", 69, bad[i], "bool is neither 0 nor 1");
		expect_byte_refused("7 ExtentVersions", 65, bad[i], "bool is neither 0 nor 1");
		expect_byte_refused("16 ExtentLiveCloseAck", 84, bad[i], "bool is neither 0 nor 1");
		expect_byte_refused("8 LastFlush none", 8, bad[i], "option is neither 0 nor 1");
		expect_byte_refused("12 Flush", 104, bad[i], "option is neither 0 nor 1");
		expect_byte_refused("12 Flush", 105, bad[i], "option is neither 0 nor 1");
		expect_byte_refused("10 Write", 96, bad[i], "context of a block is of no known kind");
	}
}

static void a_uuid_has_16_bytes(void **state)
{
	(void)state;
	expect_byte_refused("4 PromoteToActive", 8, 15, "UUID is not of 16 bytes");
	expect_byte_refused("4 PromoteToActive", 8, 17, "UUID is not of 16 bytes");
	expect_byte_refused("4 PromoteToActive", 15, 1, "UUID is not of 16 bytes");
	expect_byte_refused("9 ReadRequest", 32, 0, "UUID is not of 16 bytes");
}

static void counts_larger_than_the_frame_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		size_t at;
		uint64_t most; /* that the rest of the frame has room for */
	} counts[] = {
		{ "2 HereIAm", 70, 0 },
		{ "7 ExtentVersions", 8, 6 },
		{ "7 ExtentVersions", 56, 2 },
		{ "9 ReadRequest", 64, 3 },
		{ "10 Write", 80, 58 },
		{ "13 FlushAck failed", 72, 1 },
		{ "15 ReadResponse", 68, 7 },
		{ "19 ExtentRepair", 43, 2 },
	};
	const char *why = "count or length is larger than the rest of the frame";
	for (size_t i = 0; i < COUNT_OF(counts); i++) {
		expect_number_refused(counts[i].name, counts[i].at, counts[i].most + 1, why);
		for (unsigned bit = 32; bit < 64; bit++) {
			expect_number_refused(counts[i].name, counts[i].at, UINT64_C(1) << bit, why);
			expect_number_refused(counts[i].name, counts[i].at, (UINT64_C(1) << bit) + 1, why);
		}
		expect_number_refused(counts[i].name, counts[i].at, UINT64_MAX, why);
	}
}

static void data_are_exactly_the_rest_of_the_frame(void **state)
{
	(void)state;
	static const uint64_t bad[] = { 0, 511, 513, HUGE_COUNT, UINT64_MAX };
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		expect_number_refused("10 Write", 97, bad[i], "data length is not the rest of the frame");
	expect_number_refused("ReadResponse failed", 81, 1, "data length is not the rest of the frame");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(bytes_behind_a_message_are_refused),
		cmocka_unit_test(what_is_accepted_after_a_change_is_encoded_to_the_same),
		cmocka_unit_test(huge_numbers_anywhere_do_no_harm),
		cmocka_unit_test(a_head_is_decoded_from_a_prefix),
		cmocka_unit_test(a_head_is_decoded_with_the_next_frame_behind_it),
		cmocka_unit_test(a_frame_has_8_bytes_to_100_mib),
		cmocka_unit_test(a_length_needs_four_bytes),
		cmocka_unit_test(a_bad_frame_is_refused_as_soon_as_it_shows),
		cmocka_unit_test(a_response_that_trickles_in_is_not_decoded_too_often),
		cmocka_unit_test(unknown_messages_are_refused),
		cmocka_unit_test(unknown_kinds_are_refused),
		cmocka_unit_test(flags_are_0_or_1),
		cmocka_unit_test(a_uuid_has_16_bytes),
		cmocka_unit_test(counts_larger_than_the_frame_are_refused),
		cmocka_unit_test(data_are_exactly_the_rest_of_the_frame),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
