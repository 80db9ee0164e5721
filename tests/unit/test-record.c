#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "durable-file.h"
#include "scratch.h"
#include "unit.h"
#include "volume/record.h"

#define VOLUME "vm-200-disk-0"
#define ID "0b0a2d7c-92ab-4ba7-8d6f-6d9d2f0d7a11"
#define OTHER_ID "ffffffff-92ab-4ba7-8d6f-6d9d2f0d7a11"
#define BOOT "3c0ca8fe-5b0e-4c7a-8a0f-9a52a4a6a001"

static struct config config;

static int setup(void **state)
{
	int status = scratch_setup(state);
	config = scratch_config("node-a");
	return status;
}

static struct record new_record(void)
{
	return (struct record){
		.claim_id = ID,
		.seq = 1,
		.node = "node-a",
		.boot_id = BOOT,
		.generation_first = 1700000000,
		.generation_last = 1700000999,
	};
}

static bool same_copies(const struct record_copies *a, const struct record_copies *b)
{
	bool same = a->exists == b->exists && a->clean == b->clean && a->stamped == b->stamped;
	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		same = same && a->slots[i].in_sync == b->slots[i].in_sync &&
			a->slots[i].needs_full_copy == b->slots[i].needs_full_copy &&
			strcmp(a->slots[i].region, b->slots[i].region) == 0;
	return same;
}

static bool same(const struct record *a, const struct record *b)
{
	return strcmp(a->claim_id, b->claim_id) == 0 && a->seq == b->seq &&
		   strcmp(a->node, b->node) == 0 && strcmp(a->boot_id, b->boot_id) == 0 &&
		   a->generation_first == b->generation_first && a->generation_last == b->generation_last &&
		   a->released == b->released && same_copies(&a->copies, &b->copies);
}

static int swap(const struct record *expected, struct record *fresh)
{
	struct reason reason;
	return record_swap(&config, VOLUME, expected, fresh, &reason);
}

/* Stores the first record and returns it. */
static struct record stored(void)
{
	struct record record = new_record();
	assert_int_equal(swap(NULL, &record), 0);
	return record;
}

static const char *file(void)
{
	return in_scratch("claims/" VOLUME ".json");
}

static void expect_stored(const struct record *wanted)
{
	struct record present;
	struct reason reason;
	assert_int_equal(record_load(&config, VOLUME, &present, &reason), 0);
	assert_true(same(&present, wanted));
}

/* text form */

static void a_record_is_decoded_to_the_same(void **state)
{
	(void)state;
	struct record records[] = { new_record(), new_record(), new_record(), new_record(), new_record(),
		new_record() };
	records[1].released = true;
	memset(records[2].node, 'n', RECORD_NODE_SIZE - 1);
	strcpy(records[3].node, "\xc3\xa4 \"\\/\n\t\x01");
	records[3].seq = INT64_MAX / 2;
	records[3].generation_first = 0;
	records[3].generation_last = INT64_MAX / 2;
	records[4].copies = (struct record_copies){ .exists = true, .clean = true };
	records[5].copies = (struct record_copies){
		.exists = true,
		.stamped = INT64_MAX / 2,
		.slots = { { .in_sync = true, .region = ID }, { .needs_full_copy = true, .region = OTHER_ID }, { 0 } },
	};
	for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
		struct record back;
		const char *wrong;
		char *text = record_encode(&records[i]);
		assert_non_null(text);
		assert_int_equal(record_decode(text, strlen(text), &back, &wrong), 0);
		free(text);
		assert_true(same(&back, &records[i]));
	}
}

static void an_encoded_record_is_two_lines(void **state)
{
	(void)state;
	struct record record = new_record();
	char *text = record_encode(&record);
	char *second = strchr(text, '\n') + 1;
	assert_int_equal(text[0], '{');
	assert_int_equal(strncmp(second, "xxh64 ", 6), 0);
	assert_string_equal(second + strlen(second) - 1, "\n");
	assert_ptr_equal(strchr(second, '\n'), second + strlen(second) - 1);
	free(text);
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	struct record record = new_record(), back;
	const char *wrong = NULL;
	char *text = record_encode(&record);
	size_t length = strlen(text);
	for (size_t cut = 0; cut < length; cut++) {
		char *part = malloc(cut ? cut : 1); /* so that a sanitizer sees a read beyond it */
		memcpy(part, text, cut);
		assert_int_equal(record_decode(part, cut, &back, &wrong), -EBADMSG);
		assert_string_equal(wrong, "cut short or damaged");
		free(part);
	}
	free(text);
}

static void every_change_of_a_byte_is_refused(void **state)
{
	(void)state;
	struct record record = new_record(), back;
	const char *wrong = NULL;
	char *text = record_encode(&record);
	size_t length = strlen(text);
	for (size_t at = 0; at < length; at++) {
		char good = text[at];
		for (unsigned byte = 0; byte < 256; byte++) {
			text[at] = (char)byte;
			if (text[at] == good)
				continue;
			if (record_decode(text, length, &back, &wrong) != -EBADMSG)
				fail_msg("byte %zu changed from %02x to %02x is accepted", at, (unsigned char)good,
					byte);
			assert_non_null(wrong);
		}
		text[at] = good;
	}
	assert_int_equal(record_decode(text, length, &back, &wrong), 0);
	free(text);
}

static void every_inserted_or_lost_byte_is_refused(void **state)
{
	(void)state;
	struct record record = new_record(), back;
	const char *wrong;
	char *text = record_encode(&record), changed[1024];
	size_t length = strlen(text);
	for (size_t at = 0; at <= length; at++) {
		static const char inserted[] = { '\n', ' ', '0', '\0', '}' };
		for (size_t i = 0; i < sizeof inserted; i++) {
			memcpy(changed, text, at);
			changed[at] = inserted[i];
			memcpy(changed + at + 1, text + at, length - at);
			assert_int_equal(record_decode(changed, length + 1, &back, &wrong), -EBADMSG);
		}
		if (at == length)
			break;
		memcpy(changed, text, at);
		memcpy(changed + at, text + at + 1, length - at - 1);
		assert_int_equal(record_decode(changed, length - 1, &back, &wrong), -EBADMSG);
	}
	free(text);
}

static void two_records_in_one_file_are_refused(void **state)
{
	(void)state;
	struct record record = new_record(), back;
	const char *wrong;
	char *text = record_encode(&record), *twice;
	assert_true(asprintf(&twice, "%s%s", text, text) > 0);
	assert_int_equal(record_decode(twice, strlen(twice), &back, &wrong), -EBADMSG);
	free(text);
	free(twice);
}

/* A record with a right checksum, whatever the JSON is. */
static int decode_json(const char *json, size_t length, const char **wrong)
{
	char text[2000];
	struct record record;
	memcpy(text, json, length);
	int end = snprintf(
		text + length, sizeof text - length, "\nxxh64 %016" PRIx64 "\n", XXH64(json, length, 0));
	return record_decode(text, length + (size_t)end, &record, wrong);
}

#define FIELD_VERSION "\"version\":1"
#define FIELD_ID "\"claim_id\":\"" ID "\""
#define FIELD_SEQ "\"seq\":1"
#define FIELD_NODE "\"node\":\"node-a\""
#define FIELD_BOOT "\"boot_id\":\"" BOOT "\""
#define FIELD_FIRST "\"generation_first\":1"
#define FIELD_LAST "\"generation_last\":1000"
#define FIELD_RELEASED "\"released\":false"

static void a_right_checksum_does_not_excuse_wrong_fields(void **state)
{
	(void)state;
	static const char *const fields[] = { FIELD_VERSION, FIELD_ID, FIELD_SEQ, FIELD_NODE,
		FIELD_BOOT, FIELD_FIRST, FIELD_LAST, FIELD_RELEASED };
	static const struct {
		size_t field;
		const char *instead;
	} changes[] = {
		{ 0, "\"version\":2" },
		{ 0, "\"version\":0" },
		{ 0, "\"version\":\"1\"" },
		{ 0, "\"version\":1.0" },
		{ 1, "\"claim_id\":\"\"" },
		{ 1, "\"claim_id\":null" },
		{ 1, "\"claim_id\":\"" ID "x\"" },
		{ 1, "\"claim_id\":\"0b0a\\u0000aaaa\"" },
		{ 2, "\"seq\":-1" },
		{ 2, "\"seq\":4611686018427387904" },
		{ 2, "\"seq\":18446744073709551615" },
		{ 2, "\"seq\":99999999999999999999999" },
		{ 2, "\"seq\":\"1\"" },
		{ 2, "\"seq\":true" },
		{ 3, "\"node\":7" },
		{ 4, "\"boot_id\":\"" BOOT BOOT "\"" },
		{ 5, "\"generation_first\":1001" },
		{ 5, "\"generation_first\":-1" },
		{ 6, "\"generation_last\":4611686018427387904" },
		{ 6, "\"generation_last\":0" },
		{ 7, "\"released\":0" },
		{ 7, "\"released\":\"false\"" },
		{ 7, "\"released\":null" },
		{ 0, "\"x\":1" }, /* that is: a field is missing */
		{ 1, "\"x\":1" },
		{ 2, "\"x\":1" },
		{ 3, "\"x\":1" },
		{ 4, "\"x\":1" },
		{ 5, "\"x\":1" },
		{ 6, "\"x\":1" },
		{ 7, "\"x\":1" },
	};
	char json[1000];
	const char *wrong;
	for (size_t i = 0; i <= sizeof changes / sizeof changes[0]; i++) {
		bool is_changed = i < sizeof changes / sizeof changes[0];
		size_t used = 0;
		for (size_t k = 0; k < 8; k++)
			used += (size_t)snprintf(json + used, sizeof json - used, "%c%s", k ? ',' : '{',
				is_changed && changes[i].field == k ? changes[i].instead : fields[k]);
		used += (size_t)snprintf(json + used, sizeof json - used, "}");
		if (decode_json(json, used, &wrong) != (is_changed ? -EBADMSG : 0))
			fail_msg("%s", json);
	}
}

#define SLOT "{\"in_sync\":true,\"needs_full_copy\":false,\"region\":\"" ID "\"}"
#define COPIES(clean, stamped, slots) "{\"clean\":" clean ",\"stamped\":" stamped ",\"slots\":" slots "}"
#define SLOTS "[" SLOT "," SLOT "," SLOT "]"

static void a_right_checksum_does_not_excuse_wrong_copies(void **state)
{
	(void)state;
	static const struct {
		const char *copies;
		int status;
	} cases[] = {
		{ COPIES("true", "0", SLOTS), 0 },
		{ COPIES("false", "1700000000", SLOTS), 0 },
		{ "null", -EBADMSG },
		{ "[]", -EBADMSG },
		{ "{}", -EBADMSG },
		{ COPIES("1", "0", SLOTS), -EBADMSG },
		{ COPIES("true", "-1", SLOTS), -EBADMSG },
		{ COPIES("true", "4611686018427387904", SLOTS), -EBADMSG },
		{ COPIES("true", "0", "null"), -EBADMSG },
		{ COPIES("true", "0", "[]"), -EBADMSG },
		{ COPIES("true", "0", "[" SLOT "," SLOT "]"), -EBADMSG },
		{ COPIES("true", "0", "[" SLOT "," SLOT "," SLOT "," SLOT "]"), -EBADMSG },
		{ COPIES("true", "0", "[" SLOT "," SLOT ",7]"), -EBADMSG },
		{ COPIES("true", "0", "[" SLOT "," SLOT ",{\"in_sync\":true,\"region\":\"\"}]"), -EBADMSG },
		{ COPIES("true", "0", "[" SLOT "," SLOT ",{\"in_sync\":true,\"needs_full_copy\":true,\"region\":\"x\"}]"),
			-EBADMSG },
	};
	char json[1500];
	const char *wrong;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int used = snprintf(json, sizeof json,
			"{" FIELD_VERSION "," FIELD_ID "," FIELD_SEQ "," FIELD_NODE "," FIELD_BOOT "," FIELD_FIRST
			"," FIELD_LAST "," FIELD_RELEASED ",\"copies\":%s}",
			cases[i].copies);
		if (decode_json(json, (size_t)used, &wrong) != cases[i].status)
			fail_msg("%s", json);
	}
}

static void a_right_checksum_does_not_excuse_what_is_no_object(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "null", "[]", "1", "\"x\"", "{", "{}", "{}x", "{} {}",
		"{\"version\":1", "{'version':1}" };
	const char *wrong;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(decode_json(bad[i], strlen(bad[i]), &wrong), -EBADMSG);
	assert_int_equal(decode_json("{}\0", 3, &wrong), -EBADMSG);
}

static void another_version_is_told_apart_from_damage(void **state)
{
	(void)state;
	static const char json[] = "{\"version\":2,\"something\":\"new\"}";
	const char *wrong;
	assert_int_equal(decode_json(json, strlen(json), &wrong), -EBADMSG);
	assert_non_null(strstr(wrong, "another version"));
}

/* the store */

static void a_volume_without_a_record_is_enoent(void **state)
{
	(void)state;
	struct record record;
	struct reason reason;
	assert_int_equal(record_load(&config, VOLUME, &record, &reason), -ENOENT);
}

static void the_first_swap_makes_the_record(void **state)
{
	(void)state;
	struct record record = new_record();
	record.seq = 77;
	assert_int_equal(swap(NULL, &record), 0);
	assert_int_equal(record.seq, 1);
	expect_stored(&record);
}

static void each_swap_raises_seq_by_one(void **state)
{
	(void)state;
	struct record present = stored();
	for (uint64_t seq = 2; seq < 20; seq++) {
		struct record fresh = present;
		fresh.seq = 0;
		assert_int_equal(swap(&present, &fresh), 0);
		assert_int_equal(fresh.seq, seq);
		expect_stored(&fresh);
		present = fresh;
	}
}

static void a_second_first_swap_is_refused(void **state)
{
	(void)state;
	struct record present = stored(), fresh = new_record();
	strcpy(fresh.claim_id, OTHER_ID);
	assert_int_equal(swap(NULL, &fresh), -ESTALE);
	expect_stored(&present);
}

static void a_swap_of_what_is_not_there_is_refused(void **state)
{
	(void)state;
	struct record expected = new_record(), fresh = new_record();
	assert_int_equal(swap(&expected, &fresh), -ESTALE);
	assert_false(exists(file()));
}

static void a_swap_with_another_seq_is_refused(void **state)
{
	(void)state;
	struct record present = stored(), fresh = present;
	for (uint64_t seq = 0; seq < 4; seq++) {
		struct record expected = present;
		expected.seq = seq;
		if (seq == present.seq)
			continue;
		assert_int_equal(swap(&expected, &fresh), -ESTALE);
		expect_stored(&present);
	}
}

static void a_swap_with_another_id_is_refused(void **state)
{
	(void)state;
	struct record present = stored(), expected = present, fresh = present;
	strcpy(expected.claim_id, OTHER_ID);
	assert_int_equal(swap(&expected, &fresh), -ESTALE);
	expect_stored(&present);
}

static void records_of_different_volumes_are_separate(void **state)
{
	(void)state;
	struct record present = stored(), other = new_record();
	struct reason reason;
	strcpy(other.claim_id, OTHER_ID);
	assert_int_equal(record_swap(&config, "vm-200-disk-1", NULL, &other, &reason), 0);
	expect_stored(&present);
}

static void a_record_is_for_root_only(void **state)
{
	(void)state;
	struct stat st;
	stored();
	assert_int_equal(stat(file(), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void only_the_expected_record_is_removed(void **state)
{
	(void)state;
	struct reason reason;
	struct record present = stored(), other = present;
	other.seq++;
	assert_int_equal(record_remove(&config, VOLUME, &other, &reason), -ESTALE);
	other = present;
	strcpy(other.claim_id, OTHER_ID);
	assert_int_equal(record_remove(&config, VOLUME, &other, &reason), -ESTALE);
	expect_stored(&present);
	assert_int_equal(record_remove(&config, VOLUME, &present, &reason), 0);
	assert_false(exists(file()));
	assert_int_equal(record_remove(&config, VOLUME, &present, &reason), -ESTALE);
}

static void a_damaged_record_is_named_and_never_overwritten(void **state)
{
	(void)state;
	static const char *const damages[] = { "", "\n", "garbage", "{}\nxxh64 0000000000000000\n" };
	for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
		struct record expected = new_record(), fresh = new_record(), record;
		struct reason reason;
		make_directory(config.claim_dir, &reason);
		put_text_in(file(), damages[i]);
		assert_int_equal(record_load(&config, VOLUME, &record, &reason), -EBADMSG);
		assert_non_null(strstr(reason.text, file()));
		assert_int_equal(record_swap(&config, VOLUME, NULL, &fresh, &reason), -EBADMSG);
		assert_non_null(strstr(reason.text, file()));
		assert_int_equal(record_swap(&config, VOLUME, &expected, &fresh, &reason), -EBADMSG);
		assert_int_equal(record_remove(&config, VOLUME, &expected, &reason), -EBADMSG);
		char *text = get_bytes_of(file(), NULL);
		assert_string_equal(text, damages[i]);
		free(text);
	}
}

static void a_directory_in_place_of_a_record_is_refused(void **state)
{
	(void)state;
	struct record record;
	struct reason reason;
	assert_int_equal(make_directory(file(), &reason), 0);
	assert_int_equal(record_load(&config, VOLUME, &record, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, file()));
}

/* What would be refused when it is read back must not take the place of what is there. */
static void expect_present_survives(struct record *fresh)
{
	struct record present = stored();
	int status = swap(&present, fresh);
	if (status == 0)
		expect_stored(fresh);
	else
		expect_stored(&present);
}

static void a_node_name_that_is_no_utf_8_does_not_destroy_the_record(void **state)
{
	(void)state;
	struct record fresh = new_record();
	strcpy(fresh.node, "node-\xff");
	expect_present_survives(&fresh);
}

static void a_generation_out_of_bounds_does_not_destroy_the_record(void **state)
{
	(void)state;
	struct record fresh = new_record();
	fresh.generation_last = INT64_MAX / 2 + 1;
	expect_present_survives(&fresh);
}

static void an_empty_claim_id_does_not_destroy_the_record(void **state)
{
	(void)state;
	struct record fresh = new_record();
	fresh.claim_id[0] = '\0';
	expect_present_survives(&fresh);
}

static int swap_without_room(void *context)
{
	struct record *present = context, fresh = *present;
	const struct rlimit limit = { 10, 10 };
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 1;
	return swap(present, &fresh) == -EFBIG ? 0 : 2;
}

static void a_swap_that_cannot_be_written_leaves_the_record(void **state)
{
	(void)state;
	struct record present = stored();
	assert_int_equal(in_child(swap_without_room, &present, 60), 0);
	expect_stored(&present);
	struct record fresh = present;
	assert_int_equal(swap(&present, &fresh), 0);
}

/* races */

enum { ROUNDS = 1000, RACERS = 2 };

struct race {
	unsigned arrived[ROUNDS], next_racer;
	int results[RACERS][ROUNDS];
	bool goes_first; /* there is no record yet */
};

/* All racers reach each round before any of them swaps. */
static int race(void *context)
{
	struct race *race = context;
	unsigned me = __atomic_fetch_add(&race->next_racer, 1, __ATOMIC_SEQ_CST);
	struct reason reason;
	for (unsigned round = 0; round < ROUNDS; round++) {
		char volume[64];
		struct record expected = new_record(), fresh = new_record();
		snprintf(volume, sizeof volume, "vm-200-disk-%u", race->goes_first ? round : 0);
		if (!race->goes_first && record_load(&config, volume, &expected, &reason) < 0)
			return 1;
		fresh.claim_id[0] = (char)('0' + me);
		__atomic_add_fetch(&race->arrived[round], 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&race->arrived[round], __ATOMIC_SEQ_CST) < RACERS)
			usleep(0);
		race->results[me][round] = record_swap(
			&config, volume, race->goes_first ? NULL : &expected, &fresh, &reason);
		/* the next round begins when both are through with this one */
		__atomic_add_fetch(&race->arrived[round], 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&race->arrived[round], __ATOMIC_SEQ_CST) < 2 * RACERS)
			usleep(0);
	}
	return 0;
}

static void run_races(bool goes_first)
{
	struct race *shared = shared_memory(sizeof *shared);
	pid_t children[RACERS];
	shared->goes_first = goes_first;
	for (size_t i = 0; i < RACERS; i++)
		children[i] = start_child(race, shared);
	for (size_t i = 0; i < RACERS; i++)
		assert_int_equal(await_child(children[i], 240), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned winners = 0;
		for (size_t i = 0; i < RACERS; i++) {
			assert_true(shared->results[i][round] == 0 || shared->results[i][round] == -ESTALE);
			winners += shared->results[i][round] == 0;
		}
		assert_int_equal(winners, 1);
	}
}

static void of_two_first_swaps_at_once_one_wins(void **state)
{
	(void)state;
	run_races(true);
}

static void of_two_swaps_at_once_one_wins(void **state)
{
	(void)state;
	stored();
	run_races(false);
	struct record present;
	struct reason reason;
	assert_int_equal(record_load(&config, VOLUME, &present, &reason), 0);
	assert_int_equal(present.seq, 1 + ROUNDS);
}

static int swap_without_end(void *context)
{
	(void)context;
	for (;;) {
		struct record present, fresh;
		struct reason reason;
		if (record_load(&config, VOLUME, &present, &reason) == 0) {
			fresh = present;
			fresh.generation_first = fresh.generation_last = present.seq + 1;
			record_swap(&config, VOLUME, &present, &fresh, &reason);
		}
	}
	return 0;
}

static void a_killed_swap_leaves_a_whole_record_and_no_lock(void **state)
{
	(void)state;
	struct random random = { 5 };
	struct record present = stored();
	present.generation_first = present.generation_last = present.seq + 1;
	assert_int_equal(swap(&present, &present), 0);
	present.generation_first = present.generation_last = present.seq + 1;
	assert_int_equal(swap(&present, &present), 0);
	for (unsigned round = 0; round < 60; round++) {
		struct reason reason;
		struct record before = present;
		pid_t child = start_child(swap_without_end, NULL);
		usleep((useconds_t)random_below(&random, 5000));
		kill(child, SIGKILL);
		await_child(child, 60);
		assert_int_equal(record_load(&config, VOLUME, &present, &reason), 0);
		assert_true(present.seq >= before.seq);
		assert_int_equal(present.generation_last, present.seq);
		struct record fresh = present;
		fresh.generation_first = fresh.generation_last = present.seq + 1;
		assert_int_equal(swap(&present, &fresh), 0);
		present = fresh;
	}
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_is_decoded_to_the_same),
		cmocka_unit_test(an_encoded_record_is_two_lines),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(every_change_of_a_byte_is_refused),
		cmocka_unit_test(every_inserted_or_lost_byte_is_refused),
		cmocka_unit_test(two_records_in_one_file_are_refused),
		cmocka_unit_test(a_right_checksum_does_not_excuse_wrong_fields),
		cmocka_unit_test(a_right_checksum_does_not_excuse_wrong_copies),
		cmocka_unit_test(a_right_checksum_does_not_excuse_what_is_no_object),
		cmocka_unit_test(another_version_is_told_apart_from_damage),
		test(a_volume_without_a_record_is_enoent),
		test(the_first_swap_makes_the_record),
		test(each_swap_raises_seq_by_one),
		test(a_second_first_swap_is_refused),
		test(a_swap_of_what_is_not_there_is_refused),
		test(a_swap_with_another_seq_is_refused),
		test(a_swap_with_another_id_is_refused),
		test(records_of_different_volumes_are_separate),
		test(a_record_is_for_root_only),
		test(only_the_expected_record_is_removed),
		test(a_damaged_record_is_named_and_never_overwritten),
		test(a_directory_in_place_of_a_record_is_refused),
		test(a_node_name_that_is_no_utf_8_does_not_destroy_the_record),
		test(a_generation_out_of_bounds_does_not_destroy_the_record),
		test(an_empty_claim_id_does_not_destroy_the_record),
		test(a_swap_that_cannot_be_written_leaves_the_record),
		test(of_two_first_swaps_at_once_one_wins),
		test(of_two_swaps_at_once_one_wins),
		test(a_killed_swap_leaves_a_whole_record_and_no_lock),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
