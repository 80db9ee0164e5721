#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "durable-file.h"
#include "scratch.h"
#include "unit.h"
#include "volume/claim.h"

#define NAME "vm-200-disk-0"

enum { IN_1970 = 5, IN_2024 = 1720000000 };
#define IN_2100 UINT64_C(4102444800)

static struct config config;
static struct volume volume;
static struct reason reason;

static int setup(void **state)
{
	int status = scratch_setup(state);
	config = scratch_config("node-a");
	volume = (struct volume){ .host = (char *)"node-a" };
	snprintf(volume.name, sizeof volume.name, NAME);
	return status;
}

static struct record take(uint64_t now)
{
	struct record claim;
	assert_int_equal(claim_take(&config, &volume, now, false, &claim, &reason), 0);
	return claim;
}

static struct record present(void)
{
	struct record record;
	assert_int_equal(record_load(&config, NAME, &record, &reason), 0);
	return record;
}

static void expect_range(const struct record *claim, uint64_t first)
{
	assert_int_equal(claim->generation_first, first);
	assert_int_equal(claim->generation_last, first + CLAIM_GENERATIONS - 1);
}

/* taking */

static void a_first_claim_is_stored_under_a_new_id(void **state)
{
	(void)state;
	char boot_id[RECORD_ID_SIZE];
	struct record claim = take(IN_2024), stored = present();
	assert_int_equal(claim_boot_id(boot_id), 0);
	assert_int_equal(strlen(claim.claim_id), 36);
	assert_string_equal(claim.node, "node-a");
	assert_string_equal(claim.boot_id, boot_id);
	assert_int_equal(claim.seq, 1);
	assert_false(claim.released);
	expect_range(&claim, IN_2024);
	assert_string_equal(stored.claim_id, claim.claim_id);
	assert_int_equal(stored.seq, claim.seq);
	assert_int_equal(stored.generation_last, claim.generation_last);
}

static void each_claim_has_its_own_id_and_a_higher_seq(void **state)
{
	(void)state;
	struct record first = take(IN_2024), second = take(IN_2024);
	assert_string_not_equal(first.claim_id, second.claim_id);
	assert_int_equal(second.seq, first.seq + 1);
	expect_range(&second, first.generation_last + 1);
}

static void the_boot_id_is_a_uuid_and_stays(void **state)
{
	(void)state;
	char first[RECORD_ID_SIZE], second[RECORD_ID_SIZE];
	assert_int_equal(claim_boot_id(first), 0);
	assert_int_equal(claim_boot_id(second), 0);
	assert_int_equal(strlen(first), 36);
	assert_string_equal(first, second);
}

/* clocks */

static void a_clock_at_0_starts_at_1(void **state)
{
	(void)state;
	struct record claim = take(0);
	expect_range(&claim, 1);
}

static void a_clock_in_1970_is_harmless(void **state)
{
	(void)state;
	struct record claim = take(IN_1970);
	expect_range(&claim, IN_1970);
	claim = take(IN_2024);
	expect_range(&claim, IN_2024);
	claim = take(IN_1970);
	expect_range(&claim, IN_2024 + CLAIM_GENERATIONS);
}

static void a_clock_in_2100_is_harmless(void **state)
{
	(void)state;
	struct record claim = take(IN_2100);
	expect_range(&claim, IN_2100);
	claim = take(IN_2024);
	expect_range(&claim, IN_2100 + CLAIM_GENERATIONS);
	claim = take(IN_2100);
	expect_range(&claim, IN_2100 + 2 * CLAIM_GENERATIONS);
}

static void a_clock_beyond_2_to_the_40_uses_up_no_numbers(void **state)
{
	(void)state;
	static const uint64_t clocks[] = { UINT64_C(1) << 40, INT64_MAX, UINT64_C(1) << 63,
		UINT64_MAX };
	uint64_t next = 1;
	for (size_t i = 0; i < 4; i++) {
		struct record claim = take(clocks[i]);
		expect_range(&claim, next);
		next += CLAIM_GENERATIONS;
	}
	struct record claim = take((UINT64_C(1) << 40) - 1);
	expect_range(&claim, (UINT64_C(1) << 40) - 1);
}

static void generations_of_a_thousand_claims_never_overlap(void **state)
{
	(void)state;
	struct random random = { 6 };
	uint64_t last = 0;
	for (unsigned i = 0; i < 1000; i++) {
		static const uint64_t clocks[] = { 0, IN_1970, IN_2024, IN_2100, INT64_MAX, UINT64_MAX };
		uint64_t now = clocks[random_below(&random, 6)];
		if (random_below(&random, 2))
			now = random_next(&random) >> random_below(&random, 64);
		struct record claim;
		if (random_below(&random, 3) == 0 && i > 0) {
			claim = present();
			assert_int_equal(claim_extend(&config, NAME, now, &claim, &reason), 0);
		} else {
			claim = take(now);
		}
		assert_true(claim.generation_first > last);
		assert_int_equal(claim.generation_last, claim.generation_first + CLAIM_GENERATIONS - 1);
		last = claim.generation_last;
		assert_true(last < UINT64_C(1) << 41);
	}
	assert_int_equal(present().seq, 1000);
}

/* Nobody gets there with a sane store; but what is stored must stay readable. */
static void a_record_at_the_end_of_the_numbers_is_not_destroyed(void **state)
{
	(void)state;
	struct record claim = take(IN_2024), end = claim;
	end.generation_first = INT64_MAX / 2 - 999;
	end.generation_last = INT64_MAX / 2;
	assert_int_equal(record_swap(&config, NAME, &claim, &end, &reason), 0);
	int status = claim_take(&config, &volume, IN_2024, false, &claim, &reason);
	assert_true(status < 0);
	assert_string_equal(present().claim_id, end.claim_id);
}

/* who may */

static void another_host_is_refused_and_told_where_the_volume_belongs(void **state)
{
	(void)state;
	struct record mine = take(IN_2024), claim, record;
	config = scratch_config("node-b");
	assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), -EACCES);
	assert_non_null(strstr(reason.text, NAME));
	assert_non_null(strstr(reason.text, "node-a"));
	assert_non_null(strstr(reason.text, "node-b"));
	assert_non_null(strstr(reason.text, "claimed by node-a"));
	record = present();
	assert_string_equal(record.claim_id, mine.claim_id);
	assert_int_equal(record.seq, mine.seq);
}

static void another_host_is_refused_without_any_record(void **state)
{
	(void)state;
	struct record claim;
	config = scratch_config("node-b");
	assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), -EACCES);
	assert_null(strstr(reason.text, "claimed by"));
	assert_int_equal(record_load(&config, NAME, &claim, &reason), -ENOENT);
}

static void another_host_is_refused_after_a_release_too(void **state)
{
	(void)state;
	struct record mine = take(IN_2024), claim;
	assert_int_equal(claim_release(&config, NAME, mine.claim_id, &reason), 0);
	config = scratch_config("node-b");
	assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), -EACCES);
	assert_null(strstr(reason.text, "claimed by"));
}

static void host_names_are_compared_whole(void **state)
{
	(void)state;
	static const char *const others[] = { "node", "node-a1", "NODE-A", "node-a.example", "" };
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		struct record claim;
		config = scratch_config(others[i]);
		assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), -EACCES);
	}
}

static void force_takes_a_volume_from_another_host(void **state)
{
	(void)state;
	struct record mine = take(IN_2024), claim;
	config = scratch_config("node-b");
	assert_int_equal(claim_take(&config, &volume, IN_1970, true, &claim, &reason), 0);
	assert_string_equal(claim.node, "node-b");
	assert_string_not_equal(claim.claim_id, mine.claim_id);
	expect_range(&claim, mine.generation_last + 1);
	assert_string_equal(present().claim_id, claim.claim_id);
}

static void not_even_force_takes_a_damaged_record(void **state)
{
	(void)state;
	struct record claim;
	take(IN_2024);
	put_text_in(in_scratch("claims/" NAME ".json"), "damaged");
	assert_int_equal(claim_take(&config, &volume, IN_2024, true, &claim, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, in_scratch("claims/" NAME ".json")));
	char *text = get_bytes_of(in_scratch("claims/" NAME ".json"), NULL);
	assert_string_equal(text, "damaged");
	free(text);
}

static void a_node_name_that_fits_no_record_is_refused(void **state)
{
	(void)state;
	char name[RECORD_NODE_SIZE + 1];
	struct record claim;
	memset(name, 'n', RECORD_NODE_SIZE);
	name[RECORD_NODE_SIZE] = '\0';
	volume.host = config.node_name = name;
	assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), -EINVAL);
	name[RECORD_NODE_SIZE - 1] = '\0';
	assert_int_equal(claim_take(&config, &volume, IN_2024, false, &claim, &reason), 0);
}

static void a_node_name_in_latin_1_does_not_lock_the_volume_up(void **state)
{
	(void)state;
	char name[] = "k\xf6ln";
	struct record claim;
	volume.host = config.node_name = name;
	claim_take(&config, &volume, IN_2024, false, &claim, &reason);
	/* refused or stored, but the next start can read what is there */
	volume.host = config.node_name = (char *)"node-a";
	take(IN_2024);
}

/* extending */

static void an_extended_claim_keeps_its_id_and_gets_higher_generations(void **state)
{
	(void)state;
	struct record claim = take(IN_2024), before = claim;
	assert_int_equal(claim_extend(&config, NAME, IN_1970, &claim, &reason), 0);
	assert_string_equal(claim.claim_id, before.claim_id);
	assert_int_equal(claim.seq, before.seq + 1);
	expect_range(&claim, before.generation_last + 1);
	assert_int_equal(present().seq, claim.seq);
	assert_int_equal(claim_extend(&config, NAME, IN_2100, &claim, &reason), 0);
	expect_range(&claim, IN_2100);
}

static void a_superseded_claim_is_not_extended(void **state)
{
	(void)state;
	struct record old = take(IN_2024), kept = old, newer = take(IN_2024);
	assert_int_equal(claim_extend(&config, NAME, IN_2024, &old, &reason), -ESTALE);
	assert_int_equal(old.generation_last, kept.generation_last);
	assert_int_equal(old.seq, kept.seq);
	assert_string_equal(present().claim_id, newer.claim_id);
}

/* releasing */

static void a_release_marks_the_record_and_keeps_its_generations(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	struct record record = present();
	assert_true(record.released);
	assert_string_equal(record.claim_id, claim.claim_id);
	assert_int_equal(record.seq, claim.seq + 1);
	assert_int_equal(record.generation_last, claim.generation_last);
}

/* which copies count */

static const struct record_copies some_copies = {
	.exists = true,
	.clean = true,
	.stamped = IN_2024,
	.slots = { { .in_sync = true, .region = "0b0a2d7c-92ab-4ba7-8d6f-6d9d2f0d7a11" }, { .in_sync = true },
		{ .needs_full_copy = true } },
};

static int store_copies(const struct record *claim)
{
	return claim_store_copies(&config, NAME, claim->claim_id, &some_copies, &reason);
}

static void copies_are_stored_as_often_as_asked_and_change_nothing_else(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	assert_false(present().copies.exists);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(store_copies(&claim), 0);
		struct record record = present();
		assert_string_equal(record.claim_id, claim.claim_id);
		assert_int_equal(record.seq, claim.seq + i);
		assert_int_equal(record.generation_last, claim.generation_last);
		assert_memory_equal(&record.copies, &some_copies, sizeof some_copies);
	}
}

static void copies_pass_from_claim_to_claim(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	assert_int_equal(store_copies(&claim), 0);
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	claim = take(IN_2024);
	assert_memory_equal(&claim.copies, &some_copies, sizeof some_copies);
	assert_int_equal(claim_take(&config, &volume, IN_2024, true, &claim, &reason), 0);
	assert_memory_equal(&claim.copies, &some_copies, sizeof some_copies);
	struct record record = present();
	assert_memory_equal(&record.copies, &some_copies, sizeof some_copies);
}

static void who_lost_the_claim_stores_no_copies(void **state)
{
	(void)state;
	struct record old = take(IN_2024), newer = take(IN_2024);
	assert_int_equal(store_copies(&old), -EOWNERDEAD);
	assert_non_null(strstr(reason.text, "node-a has claimed it"));
	assert_int_equal(claim_release(&config, NAME, newer.claim_id, &reason), 0);
	assert_int_equal(store_copies(&newer), -EOWNERDEAD);
	assert_non_null(strstr(reason.text, "released"));
	assert_false(present().copies.exists);
	struct record last = present();
	assert_int_equal(record_remove(&config, NAME, &last, &reason), 0);
	assert_int_equal(store_copies(&newer), -EOWNERDEAD);
	assert_non_null(strstr(reason.text, "is gone"));
}

static void releasing_again_changes_nothing(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	struct record record = present();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	assert_int_equal(present().seq, record.seq);
}

static void a_claim_of_somebody_else_is_not_released(void **state)
{
	(void)state;
	struct record old = take(IN_2024), newer = take(IN_2024);
	assert_int_equal(claim_release(&config, NAME, old.claim_id, &reason), 0);
	struct record record = present();
	assert_false(record.released);
	assert_int_equal(record.seq, newer.seq);
}

static void releasing_without_a_record_is_no_error(void **state)
{
	(void)state;
	assert_int_equal(claim_release(&config, NAME, "some id", &reason), 0);
	assert_false(exists(in_scratch("claims/" NAME ".json")));
}

static void a_damaged_record_is_not_released(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	put_text_in(in_scratch("claims/" NAME ".json"), "damaged");
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), -EBADMSG);
}

static void a_claim_after_a_release_starts_above(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	struct record next = take(IN_1970);
	expect_range(&next, claim.generation_last + 1);
	assert_false(next.released);
}

/* Extends, as its gateway, a claim that is being released; whoever is refused for seq tries again.
 */
static int extend_often(void *context)
{
	struct record *claim = context;
	for (unsigned i = 0; i < 300; i++) {
		int status = claim_extend(&config, NAME, IN_2024, claim, &reason);
		if (status == -ESTALE && record_load(&config, NAME, claim, &reason) == 0)
			status = 0;
		if (status < 0)
			return 1;
	}
	return 0;
}

static void a_release_goes_through_while_seq_keeps_changing(void **state)
{
	(void)state;
	struct record claim = take(IN_2024);
	pid_t child = start_child(extend_often, &claim);
	assert_int_equal(claim_release(&config, NAME, claim.claim_id, &reason), 0);
	assert_int_equal(await_child(child, 120), 0);
	assert_true(present().released);
}

enum { CLAIMERS = 3, CLAIMS_EACH = 200, CLAIMS = CLAIMERS * CLAIMS_EACH };

struct claimed {
	unsigned next;
	struct range {
		uint64_t first, last;
	} ranges[CLAIMS];
};

static int claim_often(void *context)
{
	struct claimed *claimed = context;
	for (unsigned i = 0; i < CLAIMS_EACH;) {
		struct record claim;
		int status = claim_take(&config, &volume, IN_2024, false, &claim, &reason);
		if (status == -ESTALE) /* somebody was quicker */
			continue;
		if (status < 0)
			return 1;
		struct range *range =
			&claimed->ranges[__atomic_fetch_add(&claimed->next, 1, __ATOMIC_SEQ_CST)];
		*range = (struct range){ claim.generation_first, claim.generation_last };
		i++;
	}
	return 0;
}

static int by_first(const void *left, const void *right)
{
	const struct range *a = left, *b = right;
	return (a->first > b->first) - (a->first < b->first);
}

static void rival_claims_never_share_a_generation(void **state)
{
	(void)state;
	struct claimed *claimed = shared_memory(sizeof *claimed);
	pid_t children[CLAIMERS];
	for (size_t i = 0; i < CLAIMERS; i++)
		children[i] = start_child(claim_often, claimed);
	for (size_t i = 0; i < CLAIMERS; i++)
		assert_int_equal(await_child(children[i], 240), 0);
	qsort(claimed->ranges, CLAIMS, sizeof claimed->ranges[0], by_first);
	for (size_t i = 1; i < CLAIMS; i++)
		assert_true(claimed->ranges[i].first > claimed->ranges[i - 1].last);
	assert_int_equal(present().seq, CLAIMS);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_first_claim_is_stored_under_a_new_id),
		test(each_claim_has_its_own_id_and_a_higher_seq),
		cmocka_unit_test(the_boot_id_is_a_uuid_and_stays),
		test(a_clock_at_0_starts_at_1),
		test(a_clock_in_1970_is_harmless),
		test(a_clock_in_2100_is_harmless),
		test(a_clock_beyond_2_to_the_40_uses_up_no_numbers),
		test(generations_of_a_thousand_claims_never_overlap),
		test(a_record_at_the_end_of_the_numbers_is_not_destroyed),
		test(another_host_is_refused_and_told_where_the_volume_belongs),
		test(another_host_is_refused_without_any_record),
		test(another_host_is_refused_after_a_release_too),
		test(host_names_are_compared_whole),
		test(force_takes_a_volume_from_another_host),
		test(not_even_force_takes_a_damaged_record),
		test(a_node_name_that_fits_no_record_is_refused),
		test(a_node_name_in_latin_1_does_not_lock_the_volume_up),
		test(an_extended_claim_keeps_its_id_and_gets_higher_generations),
		test(a_superseded_claim_is_not_extended),
		test(a_release_marks_the_record_and_keeps_its_generations),
		test(copies_are_stored_as_often_as_asked_and_change_nothing_else),
		test(copies_pass_from_claim_to_claim),
		test(who_lost_the_claim_stores_no_copies),
		test(releasing_again_changes_nothing),
		test(a_claim_of_somebody_else_is_not_released),
		test(releasing_without_a_record_is_no_error),
		test(a_damaged_record_is_not_released),
		test(a_claim_after_a_release_starts_above),
		test(a_release_goes_through_while_seq_keeps_changing),
		test(rival_claims_never_share_a_generation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
