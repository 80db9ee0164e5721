/* test-core-status.c: what the status says of each thing that can be wrong with a downstairs, and that it says what to do;
 * and that requests go on as long as two copies are there. */
#include <errno.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 4 };
static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, EXTENT, EXTENTS, NULL);
	core_rig_serve(&rig);
	core_rig_write(&rig, 1, 8, 5);
	core_rig_flush(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static const struct upstairs_slot_status *status_of(unsigned index)
{
	static struct upstairs_status status;
	upstairs_status(rig.core, &status);
	return &status.slots[index];
}

static void expect_trouble(unsigned index, enum upstairs_trouble trouble, const char *error)
{
	const struct upstairs_slot_status *status = status_of(index);
	assert_string_equal(upstairs_trouble_name(status->trouble), upstairs_trouble_name(trouble));
	if (error)
		assert_string_equal(status->error, error);
	assert_true(trouble == UPSTAIRS_TROUBLE_NONE || strlen(upstairs_advice(status->trouble)) > 20);
}

static void expect_service(void)
{
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	core_rig_write(&rig, 1, 8, 6);
	core_rig_expect(&rig, 1, 8, 6);
}

/* Gone are trouble and the slot's absence, and the copy is good. */
static void expect_whole(unsigned index)
{
	core_rig_pass(&rig, 20000);
	assert_int_equal(status_of(index)->state, UPSTAIRS_SLOT_ACTIVE);
	assert_true(status_of(index)->is_in_sync);
	expect_trouble(index, UPSTAIRS_TROUBLE_NONE, NULL);
	for (uint64_t block = 0; block < EXTENT * EXTENTS; block++)
		assert_true(core_rig_are_equal(&rig, block));
}

static void all_is_well(void **state)
{
	(void)state;
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		const struct upstairs_slot_status *status = status_of(i);
		expect_trouble(i, UPSTAIRS_TROUBLE_NONE, "");
		assert_int_equal(status->state, UPSTAIRS_SLOT_ACTIVE);
		assert_true(status->is_in_sync);
		assert_int_equal(status->behind, 0);
		assert_int_equal(status->to_repair, 0);
		assert_int_equal(status->left, 0);
	}
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	assert_int_equal(status.state, UPSTAIRS_SERVING);
	assert_int_equal(status.counted, 3);
	assert_int_equal(status.generation, rig.generation);
}

static void a_downstairs_that_is_not_there(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 1);
	core_rig_pass(&rig, 5000);
	expect_trouble(1, UPSTAIRS_TROUBLE_UNREACHABLE, "no connection");
	assert_int_equal(status_of(1)->state, UPSTAIRS_SLOT_ABSENT);
	assert_false(status_of(1)->is_in_sync);
	assert_int_equal(status_of(1)->left, 1);
	expect_service();
	core_rig_start_sled(&rig, 1);
	expect_whole(1);
}

static void a_downstairs_that_was_restarted(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 1);
	core_rig_start_sled(&rig, 1);
	core_rig_run(&rig);
	expect_trouble(1, UPSTAIRS_TROUBLE_LOST, "the connection was lost");
	expect_service();
	expect_whole(1);
	assert_int_equal(status_of(1)->left, 1);
	assert_string_equal(status_of(1)->error, "the connection was lost"); /* stays to be seen */
}

static void a_downstairs_that_spins_on_an_error(void **state)
{
	(void)state;
	/* nothing that it is sent is answered any more, and new connections are only accepted */
	rig.sleds[1].holds_up = rig.sleds[1].holds_down = true;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 1, 8, 6);
	core_rig_pass(&rig, 1500);
	expect_trouble(1, UPSTAIRS_TROUBLE_SLOW, NULL);
	assert_in_range(status_of(1)->behind_for, 1000, 2000);
	assert_int_equal(status_of(1)->behind, 1);
	core_rig_pass(&rig, 3000);
	assert_true(write->is_done);
	expect_trouble(1, UPSTAIRS_TROUBLE_SLOW, "does not answer, and the others have");
	core_rig_pass(&rig, 6000);
	expect_trouble(1, UPSTAIRS_TROUBLE_MUTE, NULL);
	core_rig_pass(&rig, 50000);
	expect_trouble(1, UPSTAIRS_TROUBLE_MUTE, "silent for 45 s");
	expect_service();
	rig.sleds[1].holds_up = rig.sleds[1].holds_down = false;
	core_rig_stop_sled(&rig, 1);
	core_rig_start_sled(&rig, 1);
	expect_whole(1);
}

static void a_downstairs_that_is_slow(void **state)
{
	(void)state;
	rig.sleds[1].holds_down = true;
	core_rig_submit(&rig, UPSTAIRS_WRITE, 1, 8, 6);
	core_rig_pass(&rig, 1200);
	expect_trouble(1, UPSTAIRS_TROUBLE_SLOW, NULL);
	assert_int_equal(status_of(1)->state, UPSTAIRS_SLOT_ACTIVE);
	rig.sleds[1].holds_down = false;
	core_rig_run(&rig);
	expect_trouble(1, UPSTAIRS_TROUBLE_NONE, NULL); /* it was in time */
	expect_service();
	expect_whole(1);
	assert_int_equal(status_of(1)->left, 0);
}

static void a_downstairs_that_is_silent(void **state)
{
	(void)state;
	rig.sleds[1].holds_up = rig.sleds[1].holds_down = true;
	core_rig_pass(&rig, 46000); /* there is nothing to do but to answer pings */
	expect_trouble(1, UPSTAIRS_TROUBLE_SILENT, "silent for 45 s");
	expect_service();
	rig.sleds[1].holds_up = rig.sleds[1].holds_down = false;
	expect_whole(1);
}

/* Writes of the sled fail so, as long as `count` says. */
static void fail_writes(unsigned index, int error, unsigned count)
{
	rig.sleds[index].fail_step = DISK_PUT_DATA;
	rig.sleds[index].fail_with = error;
	rig.sleds[index].fail_count = count;
}

static void a_downstairs_that_is_full(void **state)
{
	(void)state;
	fail_writes(1, -ENOSPC, 1000000);
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 1, 8, 6);
	core_rig_pass(&rig, 4000);
	assert_true(write->is_done);
	expect_trouble(1, UPSTAIRS_TROUBLE_FULL, NULL);
	assert_non_null(strstr(status_of(1)->error, "No space left"));
	expect_service();
	core_rig_stop_sled(&rig, 1);
	fail_writes(1, 0, 0);
	core_rig_start_sled(&rig, 1);
	expect_whole(1);
}

static void a_downstairs_whose_disk_fails(void **state)
{
	(void)state;
	rig.sleds[1].fail_step = DISK_SYNC;
	rig.sleds[1].fail_with = -EIO;
	rig.sleds[1].fail_count = 1;
	core_rig_write(&rig, 40, 1, 6);
	core_rig_submit(&rig, UPSTAIRS_FLUSH, 0, 0, 0);
	core_rig_run(&rig);
	expect_trouble(1, UPSTAIRS_TROUBLE_ERRORS, NULL);
	expect_whole(1);
}

static void a_region_that_was_wiped(void **state)
{
	(void)state;
	core_rig_renew_sled(&rig, 1, true);
	while (core_rig_phase(&rig, 1) != SLOT_REPAIR)
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 10);
	expect_trouble(1, UPSTAIRS_TROUBLE_WIPED, "is older than it was when we left it: it is no copy any more");
	const struct upstairs_slot_status *status = status_of(1);
	assert_int_equal(status->state, UPSTAIRS_SLOT_REPAIR);
	assert_int_equal(status->to_repair, EXTENTS);
	assert_int_equal(status->repaired, 0);
	while (status_of(1)->repaired < 2)
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 1);
		else
			core_rig_tick(&rig, 3);
	assert_in_range(status_of(1)->repair_rate, 1, EXTENT * CORE_BLOCK * 1000);
	assert_in_range(status_of(1)->repair_left, 1, 10);
	expect_whole(1);
	expect_service();
}

static void a_region_that_was_rolled_back(void **state)
{
	(void)state;
	core_rig_release(&rig);
	core_rig_serve(&rig);
	core_rig_stop_sled(&rig, 1);
	struct versions old = { .generation = 1, .flush_number = 1 };
	for (uint32_t i = 0; i < EXTENTS; i++)
		disk_put_versions(rig.sleds[1].disk, i, &old);
	core_rig_start_sled(&rig, 1);
	while (core_rig_phase(&rig, 1) != SLOT_REPAIR)
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 10);
	expect_trouble(1, UPSTAIRS_TROUBLE_ROLLED_BACK, "is older than it was when we left it: it is no copy any more");
	expect_whole(1);
	expect_service();
}

static void regions_that_are_all_older_than_the_claim(void **state)
{
	(void)state;
	core_rig_release(&rig);
	core_rig_lose_host(&rig);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++)
		core_rig_renew_sled(&rig, i, true);
	core_rig_start(&rig);
	while (upstairs_state(rig.core) == UPSTAIRS_ACTIVATING) {
		for (unsigned i = 0; i < UPSTAIRS_SLOTS && core_rig_phase(&rig, i) == SLOT_PRESENT; i++)
			expect_trouble(i, UPSTAIRS_TROUBLE_WIPED, "is older than the record says that it is");
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 100);
	}
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_REFUSED);
	assert_non_null(strstr(upstairs_reason(rig.core), "older than the claim"));
	expect_trouble(1, UPSTAIRS_TROUBLE_WIPED, NULL);
}

static void a_region_that_is_another_one(void **state)
{
	(void)state;
	struct crucible_uuid right = rig.sleds[1].region.uuid;
	struct disk *disk = rig.sleds[1].disk;
	rig.sleds[1].disk = NULL;
	core_rig_renew_sled(&rig, 1, false);
	core_rig_pass(&rig, 5000);
	expect_trouble(1, UPSTAIRS_TROUBLE_WRONG_REGION, "another region than the one that belongs to this slot");
	assert_int_equal(status_of(1)->state, UPSTAIRS_SLOT_FAILED);
	expect_service();
	/* put right, and tried again */
	core_rig_stop_sled(&rig, 1);
	disk_free(rig.sleds[1].disk);
	rig.sleds[1].disk = disk;
	rig.sleds[1].region.uuid = right;
	core_rig_start_sled(&rig, 1);
	assert_int_equal(upstairs_retry(rig.core, 1), 0);
	expect_whole(1);
}

static void a_downstairs_that_runs_read_only(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 1);
	rig.sleds[1].is_read_only = true;
	core_rig_start_sled(&rig, 1);
	core_rig_pass(&rig, 5000);
	expect_trouble(1, UPSTAIRS_TROUBLE_MISFIT, "runs read-only");
	expect_service();
}

static void a_region_of_another_size(void **state)
{
	(void)state;
	rig.sleds[1].region.extent_count++;
	core_rig_renew_sled(&rig, 1, true);
	core_rig_pass(&rig, 5000);
	expect_trouble(1, UPSTAIRS_TROUBLE_MISFIT, "its geometry is not that of the volume");
	expect_service();
}

static void another_client_that_keeps_us_out(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 1);
	core_rig_start_sled(&rig, 1);
	core_rig_intrude(&rig, 1, rig.generation);
	core_rig_pass(&rig, 5000);
	expect_trouble(1, UPSTAIRS_TROUBLE_DISPLACED, NULL);
	expect_service();
}

static void a_downstairs_that_answers_nonsense(void **state)
{
	(void)state;
	struct crucible_message message = { .type = CRUCIBLE_WRITE_ACK, .job = core_job(rig.core, 1, 4711) };
	upstairs_received(rig.core, 1, &message);
	expect_trouble(1, UPSTAIRS_TROUBLE_ANSWERS, "answers a job that it was not sent");
	expect_service();
	expect_whole(1);
}

static void every_trouble_has_a_name_and_advice(void **state)
{
	(void)state;
	for (unsigned i = UPSTAIRS_TROUBLE_NONE + 1; i <= UPSTAIRS_TROUBLE_MEMORY; i++) {
		assert_true(strlen(upstairs_trouble_name((enum upstairs_trouble)i)) > 2);
		assert_true(strlen(upstairs_advice((enum upstairs_trouble)i)) > 20);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(
				upstairs_trouble_name((enum upstairs_trouble)i), upstairs_trouble_name((enum upstairs_trouble)k));
	}
}

int main(void)
{
#define plain(test) { #test, test, setup, teardown, NULL }
	const struct CMUnitTest tests[] = {
		plain(all_is_well),
		plain(a_downstairs_that_is_not_there),
		plain(a_downstairs_that_was_restarted),
		plain(a_downstairs_that_spins_on_an_error),
		plain(a_downstairs_that_is_slow),
		plain(a_downstairs_that_is_silent),
		plain(a_downstairs_that_is_full),
		plain(a_downstairs_whose_disk_fails),
		plain(a_region_that_was_wiped),
		plain(a_region_that_was_rolled_back),
		plain(regions_that_are_all_older_than_the_claim),
		plain(a_region_that_is_another_one),
		plain(a_downstairs_that_runs_read_only),
		plain(a_region_of_another_size),
		plain(another_client_that_keeps_us_out),
		plain(a_downstairs_that_answers_nonsense),
		plain(every_trouble_has_a_name_and_advice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
