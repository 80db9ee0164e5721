#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec-samples.h"
#include "unit.h"

/* once for each sample */

static void a_sample_is_encoded_to_its_bytes(void **state)
{
	const struct sample *sample = *state;
	size_t size;
	uint8_t *frame = encoded(&sample->message, &size);
	assert_int_equal(size, sample->size);
	assert_memory_equal(frame, sample->frame, size);
	free(frame);
}

static void a_sample_is_decoded_to_its_values(void **state)
{
	const struct sample *sample = *state;
	struct crucible_message message = decoded(sample->frame, sample->size);
	expect_same(&message, &sample->message);
	assert_true(is_accepted(sample->frame, sample->size));
}

/* for all samples */

static void every_type_and_kind_has_a_sample(void **state)
{
	(void)state;
	size_t count;
	bool types[CRUCIBLE_MESSAGE_TYPES] = { 0 }, kinds[CRUCIBLE_ERROR_KINDS] = { 0 },
		 reasons[CRUCIBLE_NEGOTIATION_ERROR_KINDS] = { 0 };
	const struct sample *all = samples(&count);
	for (size_t i = 0; i < count; i++) {
		const struct crucible_message *message = &all[i].message;
		types[message->type] = true;
		if (message->type != CRUCIBLE_ERROR_REPORT)
			continue;
		kinds[message->error_report.error.kind] = true;
		if (message->error_report.error.kind == CRUCIBLE_ERROR_NEGOTIATION)
			reasons[message->error_report.error.negotiation.kind] = true;
	}
	for (size_t i = 0; i < COUNT_OF(types); i++)
		assert_true(types[i]);
	for (size_t i = 0; i < COUNT_OF(kinds); i++)
		assert_true(kinds[i]);
	for (size_t i = 0; i < COUNT_OF(reasons); i++)
		assert_true(reasons[i]);
}

static void the_name_is_that_of_the_sample(const struct sample *sample)
{
	const char *name = sample->name;
	name += strspn(name, "0123456789 ");
	if (strncmp(name, "error ", 6) == 0)
		name = "ErrorReport";
	size_t length = strcspn(name, " ");
	assert_int_equal(strlen(crucible_message_name(sample->message.type)), length);
	assert_memory_equal(crucible_message_name(sample->message.type), name, length);
}

static void messages_have_their_names(void **state)
{
	(void)state;
	for_each_sample(the_name_is_that_of_the_sample);
	assert_null(crucible_message_name(CRUCIBLE_MESSAGE_TYPES));
	assert_null(crucible_message_name((enum crucible_message_type) - 1));
}

static void head_and_data_are_encoded_apart(const struct sample *sample)
{
	struct crucible_message message = sample->message;
	size_t head, frame, length = 0;
	if (data_of(&message)) {
		length = data_of(&message)->length;
		data_of(&message)->bytes = NULL;
	}
	assert_int_equal(crucible_measure(&message, &head, &frame), 0);
	assert_int_equal(frame, sample->size);
	assert_int_equal(frame - head, length);
	uint8_t *bytes = malloc(head);
	assert_int_equal(crucible_encode_head(&message, bytes, head), (ssize_t)head);
	assert_memory_equal(bytes, sample->frame, head);
	free(bytes);
}

static void data_may_follow_the_head(void **state)
{
	(void)state;
	for_each_sample(head_and_data_are_encoded_apart);
}

static void every_smaller_buffer_is_refused(const struct sample *sample)
{
	size_t head, frame;
	assert_int_equal(crucible_measure(&sample->message, &head, &frame), 0);
	for (size_t size = 0; size < frame; size++) {
		uint8_t *buffer = malloc(size ? size : 1);
		assert_int_equal(crucible_encode(&sample->message, buffer, size), -EMSGSIZE);
		assert_int_equal(crucible_encode_head(&sample->message, buffer, size),
			size < head ? -EMSGSIZE : (ssize_t)head);
		free(buffer);
	}
}

static void a_buffer_too_small_is_not_overrun(void **state)
{
	(void)state;
	for_each_sample(every_smaller_buffer_is_refused);
}

static void a_frame_is_read_at_any_alignment(const struct sample *sample)
{
	uint8_t *memory = malloc(sample->size + 8);
	for (size_t shift = 0; shift < 8; shift++) {
		memcpy(memory + shift, sample->frame, sample->size);
		struct crucible_message message = decoded(memory + shift, sample->size);
		expect_same(&message, &sample->message);
		assert_true(is_accepted(memory + shift, sample->size));
	}
	free(memory);
}

static void frames_need_no_alignment(void **state)
{
	(void)state;
	for_each_sample(a_frame_is_read_at_any_alignment);
}

/* what is not encoded */

/* Neither measured nor encoded. */
static void expect_not_encoded(const struct crucible_message *message, int error)
{
	static uint8_t buffer[4096];
	size_t head, frame;
	assert_int_equal(crucible_measure(message, &head, &frame), error);
	assert_int_equal(crucible_encode_head(message, buffer, sizeof buffer), error);
	assert_int_equal(crucible_encode(message, buffer, sizeof buffer), error);
}

static void what_the_protocol_lacks_is_not_encoded(void **state)
{
	(void)state;
	struct crucible_message message = { .type = CRUCIBLE_MESSAGE_TYPES };
	expect_not_encoded(&message, -EINVAL);
	message.type = (enum crucible_message_type) - 1;
	expect_not_encoded(&message, -EINVAL);
	message = (struct crucible_message){ CRUCIBLE_ERROR_REPORT,
		.error_report.error.kind = CRUCIBLE_ERROR_KINDS };
	expect_not_encoded(&message, -EINVAL);
	message.error_report.error.kind = CRUCIBLE_ERROR_NEGOTIATION;
	message.error_report.error.negotiation.kind = CRUCIBLE_NEGOTIATION_ERROR_KINDS;
	expect_not_encoded(&message, -EINVAL);
	struct crucible_read_context context = { .kind = (enum crucible_read_context_kind)3 };
	message = (struct crucible_message){ CRUCIBLE_READ_RESPONSE,
		.read_response.contexts = { .items = &context, .count = 1 } };
	expect_not_encoded(&message, -EINVAL);
}

static void counts_whose_size_overflows_are_not_encoded(void **state)
{
	(void)state;
	static const size_t counts[] = { (size_t)1 << 61, ((size_t)1 << 61) + 1, (size_t)1 << 62,
		SIZE_MAX, SIZE_MAX - 7, CRUCIBLE_FRAME_MAX };
	uint8_t item = 0;
	for (size_t i = 0; i < COUNT_OF(counts); i++) {
		struct crucible_message message = { CRUCIBLE_BARRIER,
			.dependencies = { &item, counts[i] } };
		expect_not_encoded(&message, -EMSGSIZE);
		message = (struct crucible_message){ CRUCIBLE_HERE_I_AM,
			.here_i_am.alternate_versions = { &item, counts[i] } };
		expect_not_encoded(&message, -EMSGSIZE);
		message = (struct crucible_message){ CRUCIBLE_FLUSH,
			.flush = { .has_snapshot = true, .snapshot_name = { "", counts[i] } } };
		expect_not_encoded(&message, -EMSGSIZE);
		message = (struct crucible_message){ CRUCIBLE_WRITE, .write.data = { &item, counts[i] } };
		expect_not_encoded(&message, -EMSGSIZE);
	}
}

static void a_frame_of_100_mib_is_the_largest(void **state)
{
	(void)state;
	size_t head, frame;
	uint8_t buffer[96];
	struct crucible_message message = { CRUCIBLE_WRITE, .write.data.length = 104857600 - 96 };
	assert_int_equal(crucible_measure(&message, &head, &frame), 0);
	assert_int_equal(head, 96);
	assert_int_equal(frame, 104857600);
	assert_int_equal(crucible_encode_head(&message, buffer, sizeof buffer), 96);
	assert_int_equal(get_le32(buffer), 104857600);
	message.write.data.length++;
	assert_int_equal(crucible_measure(&message, &head, &frame), -EMSGSIZE);
	assert_int_equal(crucible_encode_head(&message, buffer, sizeof buffer), -EMSGSIZE);

	uint64_t *jobs = calloc(104857600 / 8, sizeof *jobs);
	message = (struct crucible_message){ CRUCIBLE_BARRIER,
		.dependencies = { jobs, (104857600 - 72) / 8 } };
	assert_int_equal(crucible_measure(&message, &head, &frame), 0);
	assert_int_equal(frame, 104857600);
	message.dependencies.count++;
	assert_int_equal(crucible_measure(&message, &head, &frame), -EMSGSIZE);
	/* nor does a larger buffer help */
	uint8_t *large = malloc(104857600 + 1000);
	assert_int_equal(crucible_encode(&message, large, 104857600 + 1000), -EMSGSIZE);
	message.dependencies.count--;
	assert_int_equal(crucible_encode(&message, large, 104857600 + 1000), 104857600);
	struct crucible_message back = decoded(large, 104857600);
	assert_int_equal(back.dependencies.count, (104857600 - 72) / 8);
	free(large);
	free(jobs);
}

/* Section 4.9: the most blocks of a write with one dependency. */
static void writes_have_room_for_as_many_blocks_as_specified(void **state)
{
	(void)state;
	static const struct {
		size_t block_size, blocks;
		bool is_encrypted;
	} largest[] = { { 512, 190997, true }, { 512, 201261, false }, { 4096, 25370, true },
		{ 4096, 25543, false } };
	uint64_t job = 1;
	struct crucible_block_context *contexts = calloc(300000, sizeof *contexts);
	for (size_t i = 0; i < COUNT_OF(largest); i++) {
		size_t head, frame, blocks = largest[i].blocks;
		for (size_t k = 0; k < 300000; k++)
			contexts[k].is_encrypted = largest[i].is_encrypted;
		struct crucible_message message = { CRUCIBLE_WRITE, .dependencies = { &job, 1 },
			.write = { 0, { .items = contexts, .count = blocks },
				{ NULL, blocks * largest[i].block_size } } };
		assert_int_equal(crucible_measure(&message, &head, &frame), 0);
		message.write.contexts.count++;
		message.write.data.length += largest[i].block_size;
		assert_int_equal(crucible_measure(&message, &head, &frame), -EMSGSIZE);
	}
	free(contexts);
}

/* lists and contexts */

static void contexts_are_taken_in_order_from_either_form(void **state)
{
	(void)state;
	const struct sample *sample = sample_named("ReadResponse of all kinds");
	struct crucible_message message = decoded(sample->frame, sample->size);
	struct crucible_read_contexts forms[] = { sample->message.read_response.contexts,
		message.read_response.contexts };
	for (size_t i = 0; i < COUNT_OF(forms); i++) {
		static const enum crucible_read_context_kind kinds[] = { CRUCIBLE_BLOCK_ENCRYPTED,
			CRUCIBLE_BLOCK_EMPTY, CRUCIBLE_BLOCK_UNENCRYPTED };
		struct crucible_read_context context;
		for (size_t k = 0; k < COUNT_OF(kinds); k++) {
			assert_int_equal(forms[i].count, COUNT_OF(kinds) - k);
			assert_true(crucible_next_read_context(&forms[i], &context));
			assert_int_equal(context.kind, kinds[k]);
		}
		assert_int_equal(context.hash, 0x0102030405060708);
		assert_false(crucible_next_read_context(&forms[i], &context));
	}
}

static void contexts_of_writes_are_too(void **state)
{
	(void)state;
	const struct sample *sample = sample_named("WriteUnwritten");
	struct crucible_message message = decoded(sample->frame, sample->size);
	struct crucible_block_contexts forms[] = { sample->message.write.contexts,
		message.write.contexts };
	for (size_t i = 0; i < COUNT_OF(forms); i++) {
		struct crucible_block_context context;
		for (size_t k = 1; k <= 2; k++) {
			assert_true(crucible_next_block_context(&forms[i], &context));
			assert_int_equal(context.hash, k);
			assert_int_equal(context.is_encrypted, k == 2);
		}
		assert_int_equal(context.encryption.tag[15], 0xb0);
		assert_false(crucible_next_block_context(&forms[i], &context));
	}
}

static void a_rest_of_contexts_can_be_encoded(void **state)
{
	(void)state;
	const struct sample *sample = sample_named("WriteUnwritten");
	struct crucible_message message = decoded(sample->frame, sample->size);
	struct crucible_block_context first, second;
	assert_true(crucible_next_block_context(&message.write.contexts, &first));
	assert_int_equal(message.write.contexts.count, 1);
	size_t size;
	uint8_t *frame = encoded(&message, &size);
	assert_int_equal(size, sample->size - 9);
	struct crucible_message shorter = decoded(frame, size);
	assert_true(crucible_next_block_context(&shorter.write.contexts, &second));
	assert_int_equal(first.hash, 1);
	assert_false(first.is_encrypted);
	assert_int_equal(second.hash, 2);
	assert_true(second.is_encrypted);
	free(frame);
}

static void what_was_decoded_lies_in_the_frame(void **state)
{
	(void)state;
	const struct sample *sample = sample_named("10 Write encrypted");
	struct crucible_message message = decoded(sample->frame, sample->size);
	assert_ptr_equal(message.write.data.bytes, sample->frame + sample->size - 4);
	assert_ptr_equal(message.write.contexts.packed, sample->frame + 88);
	assert_int_equal(message.write.contexts.packed_size, 37);
	sample = sample_named("12 Flush");
	message = decoded(sample->frame, sample->size);
	assert_ptr_equal(message.dependencies.items, sample->frame + 72);
}

/* the text of errors */

static void an_error_is_told_as_specified(const struct sample *sample)
{
	char text[160];
	if (!sample->error_text)
		return;
	struct crucible_message message = decoded(sample->frame, sample->size);
	crucible_error_text(&message.error_report.error, text, sizeof text);
	assert_string_equal(text, sample->error_text);
}

static void errors_have_their_text(void **state)
{
	(void)state;
	for_each_sample(an_error_is_told_as_specified);
}

static void an_error_is_cut_to_any_size(const struct sample *sample)
{
	if (!sample->error_text)
		return;
	for (size_t size = 0; size < 160; size++) {
		size_t whole = strlen(sample->error_text);
		char *text = malloc(size ? size : 1);
		crucible_error_text(&sample->message.error_report.error, text, size);
		if (size > whole) {
			assert_string_equal(text, sample->error_text);
		} else if (size > 0) {
			assert_int_equal(strlen(text), size - 1);
			size_t dots = size - 1 < 3 ? size - 1 : 3;
			assert_memory_equal(text + size - 1 - dots, "...", dots);
			assert_memory_equal(text, sample->error_text, size - 1 - dots);
		}
		free(text);
	}
}

static void the_text_of_errors_is_cut_to_the_buffer(void **state)
{
	(void)state;
	for_each_sample(an_error_is_cut_to_any_size);
}

static void what_is_not_printable_is_replaced(void **state)
{
	(void)state;
	char bytes[256], text[512];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)i;
	struct crucible_error error = { CRUCIBLE_ERROR_IO, .text = { bytes, sizeof bytes } };
	crucible_error_text(&error, text, sizeof text);
	assert_int_equal(strlen(text), strlen("I/O error: ") + sizeof bytes);
	for (size_t i = 0; i < sizeof bytes; i++) {
		char printed = text[strlen("I/O error: ") + i];
		bool is_space = i == '\n' || i == '\t' || i == '\r';
		assert_int_equal(printed, i >= 32 && i < 127 ? (char)i : is_space ? ' ' : '?');
	}
}

static void a_long_text_is_not_read_beyond_the_buffer(void **state)
{
	(void)state;
	char text[32];
	size_t length = 100 << 20;
	char *bytes = malloc(length);
	memset(bytes, 'x', length);
	struct crucible_error error = { CRUCIBLE_ERROR_GENERIC, .text = { bytes, length } };
	crucible_error_text(&error, text, sizeof text);
	assert_string_equal(text, "unspecified error: xxxxxxxxx...");
	free(bytes);
}

static void an_empty_text_is_not_announced(void **state)
{
	(void)state;
	char text[64];
	struct crucible_error error = { CRUCIBLE_ERROR_IO, .text = { "", 0 } };
	crucible_error_text(&error, text, sizeof text);
	assert_string_equal(text, "I/O error");
}

static void unknown_errors_are_told_as_such(void **state)
{
	(void)state;
	char text[64];
	struct crucible_error error = { .kind = CRUCIBLE_ERROR_KINDS };
	crucible_error_text(&error, text, sizeof text);
	assert_string_equal(text, "unknown error");
	error.kind = CRUCIBLE_ERROR_NEGOTIATION;
	error.negotiation.kind = CRUCIBLE_NEGOTIATION_ERROR_KINDS;
	crucible_error_text(&error, text, sizeof text);
	assert_string_equal(text, "negotiation failed: unknown reason");
}

/* A test of its own for both directions of each sample. */
static struct CMUnitTest sample_test_of(
	const struct sample *sample, const char *what, CMUnitTestFunction function)
{
	char *name;
	if (asprintf(&name, "%s: %s", sample->name, what) < 0)
		abort();
	return (struct CMUnitTest){ name, function, NULL, NULL, (void *)sample };
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(every_type_and_kind_has_a_sample),
		cmocka_unit_test(messages_have_their_names),
		cmocka_unit_test(data_may_follow_the_head),
		cmocka_unit_test(a_buffer_too_small_is_not_overrun),
		cmocka_unit_test(frames_need_no_alignment),
		cmocka_unit_test(what_the_protocol_lacks_is_not_encoded),
		cmocka_unit_test(counts_whose_size_overflows_are_not_encoded),
		cmocka_unit_test(a_frame_of_100_mib_is_the_largest),
		cmocka_unit_test(writes_have_room_for_as_many_blocks_as_specified),
		cmocka_unit_test(contexts_are_taken_in_order_from_either_form),
		cmocka_unit_test(contexts_of_writes_are_too),
		cmocka_unit_test(a_rest_of_contexts_can_be_encoded),
		cmocka_unit_test(what_was_decoded_lies_in_the_frame),
		cmocka_unit_test(errors_have_their_text),
		cmocka_unit_test(the_text_of_errors_is_cut_to_the_buffer),
		cmocka_unit_test(what_is_not_printable_is_replaced),
		cmocka_unit_test(a_long_text_is_not_read_beyond_the_buffer),
		cmocka_unit_test(an_empty_text_is_not_announced),
		cmocka_unit_test(unknown_errors_are_told_as_such),
	};
	size_t count;
	const struct sample *all = samples(&count);
	static struct CMUnitTest tests[512];
	assert_true(2 * count + COUNT_OF(others) <= COUNT_OF(tests));
	for (size_t i = 0; i < count; i++) {
		tests[2 * i] = sample_test_of(&all[i], "encoded", a_sample_is_encoded_to_its_bytes);
		tests[2 * i + 1] = sample_test_of(&all[i], "decoded", a_sample_is_decoded_to_its_values);
	}
	memcpy(tests + 2 * count, others, sizeof others);
	return _cmocka_run_group_tests("codec", tests, 2 * count + COUNT_OF(others), NULL, NULL);
}
