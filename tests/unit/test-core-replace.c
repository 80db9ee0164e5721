/* test-core-replace.c: another region takes a slot's place (upstairs_replace()). */
#include <errno.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 16, EXTENTS = 8, BLOCKS = EXTENT * EXTENTS };
static struct core_rig rig;
static const struct crucible_uuid unknown;

static int setup(void **state)
{
	core_rig_open(&rig, EXTENT, EXTENTS, *state);
	core_rig_serve(&rig);
	for (uint64_t block = 0; block < BLOCKS; block += 3)
		core_rig_write(&rig, block, 1, (uint8_t)(block + 1));
	core_rig_flush(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static void expect_all(void)
{
	for (uint64_t block = 0; block < BLOCKS; block++) {
		core_rig_expect(&rig, block, 1, block % 3 ? 0 : (uint8_t)(block + 1));
		assert_true(core_rig_are_equal(&rig, block));
	}
}

static bool is_known(unsigned index)
{
	return memcmp(&rig.record.regions[index], &unknown, sizeof unknown) != 0;
}

static enum upstairs_trouble trouble_of(unsigned index)
{
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	return status.slots[index].trouble;
}

static void the_new_region_gets_everything_and_counts(void **state)
{
	(void)state;
	rig.holds_record = true;
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_ABSENT); /* not before the record has forgotten the old one */
	assert_true(rig.storing.in_sync[0] && !rig.storing.in_sync[1] && rig.storing.in_sync[2]);
	assert_memory_equal(&rig.storing.regions[1], &unknown, sizeof unknown);
	rig.holds_record = false;
	struct rig_request *write = core_rig_submit(&rig, UPSTAIRS_WRITE, 0, 1, 1);
	core_rig_pass(&rig, 10000);
	assert_true(write->is_done);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	assert_true(rig.record.in_sync[1]);
	assert_memory_equal(&rig.record.regions[1], &rig.sleds[1].region.uuid, sizeof unknown);
	expect_all();
	assert_int_equal(trouble_of(1), UPSTAIRS_TROUBLE_NONE);
	/* alone with either of the others it is a copy */
	core_rig_stop_sled(&rig, 0);
	core_rig_pass(&rig, 5000);
	for (uint64_t block = 0; block < BLOCKS; block++)
		core_rig_expect(&rig, block, 1, block % 3 ? 0 : (uint8_t)(block + 1));
}

static void a_slot_that_is_gone_for_good_can_be_replaced(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 2);
	core_rig_pass(&rig, 5000);
	core_rig_renew_sled(&rig, 2, false);
	core_rig_pass(&rig, 5000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_FAILED);
	assert_int_equal(trouble_of(2), UPSTAIRS_TROUBLE_WRONG_REGION);
	assert_int_equal(upstairs_replace(rig.core, 2), 0);
	core_rig_pass(&rig, 5000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
	expect_all();
}

static void not_while_another_copy_is_missing(void **state)
{
	(void)state;
	core_rig_stop_sled(&rig, 0);
	core_rig_pass(&rig, 100);
	assert_int_equal(upstairs_replace(rig.core, 1), -EBUSY);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	assert_int_equal(upstairs_replace(rig.core, 0), 0); /* the one that is missing may be */
	core_rig_stop_sled(&rig, 1);
	core_rig_pass(&rig, 100);
	assert_int_equal(upstairs_replace(rig.core, 0), -EBUSY);
}

static void a_region_that_is_not_empty_is_left_alone(void **state)
{
	(void)state;
	/* it has belonged to somebody with a generation above ours */
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	disk_put_versions(rig.sleds[1].disk, 3, &(struct versions){ .generation = 900, .flush_number = 7 });
	core_rig_pass(&rig, 10000);
	assert_int_equal(upstairs_state(rig.core), UPSTAIRS_SERVING);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_FAILED);
	assert_int_equal(trouble_of(1), UPSTAIRS_TROUBLE_NOT_EMPTY);
	assert_int_equal(disk_versions(rig.sleds[1].disk, 3).generation, 900);
	assert_false(is_known(1));
	/* whatever is stored later, the record does not take it for the slot's */
	core_rig_release(&rig);
	assert_false(is_known(1));
	core_rig_serve(&rig);
	assert_int_equal(trouble_of(1), UPSTAIRS_TROUBLE_NOT_EMPTY);
	assert_false(is_known(1));
	/* another one, and it is told so */
	core_rig_renew_sled(&rig, 1, false);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_FAILED);
	assert_int_equal(upstairs_retry(rig.core, 1), 0);
	assert_int_equal(upstairs_retry(rig.core, 1), -EBUSY);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	expect_all();
}

static void the_region_of_another_slot_is_refused(void **state)
{
	(void)state;
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	rig.sleds[1].region.uuid = rig.sleds[0].region.uuid;
	core_rig_renew_sled(&rig, 1, true);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_FAILED);
	assert_int_equal(trouble_of(1), UPSTAIRS_TROUBLE_WRONG_REGION);
}

static void a_store_while_it_is_looked_at_does_not_record_it(void **state)
{
	(void)state;
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_run(&rig);
	core_rig_renew_sled(&rig, 1, false);
	disk_put_versions(rig.sleds[1].disk, 3, &(struct versions){ .generation = 1, .flush_number = 7 });
	while (core_rig_phase(&rig, 1) != SLOT_VERSIONS) {
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 10);
	}
	/* something else changes in the record just now, which two counted slots allow */
	struct upstairs_record record = rig.core->record;
	core_store(rig.core, &record);
	core_rig_pass(&rig, 5000);
	assert_false(is_known(1));
	assert_int_equal(trouble_of(1), UPSTAIRS_TROUBLE_NOT_EMPTY);
}

/* The core's process is killed after so many events of a replacement. */
static void kill_after(unsigned events, bool keeps_history)
{
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	for (unsigned i = 0; i < events; i++) {
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 50);
	}
	if (keeps_history)
		core_rig_kill_core(&rig);
	else
		core_rig_lose_host(&rig);
	core_rig_serve(&rig);
	core_rig_pass(&rig, 20000);
	if (core_rig_phase(&rig, 1) == SLOT_FAILED) {
		/* the record was not changed yet: it still asks for the old region */
		assert_true(is_known(1) && rig.record.in_sync[0] && rig.record.in_sync[2]);
		assert_int_equal(upstairs_replace(rig.core, 1), 0);
		core_rig_pass(&rig, 20000);
	}
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	expect_all();
}

static void a_kill_at_any_event_leaves_two_copies_and_a_way_on(void **state)
{
	for (unsigned events = 0; events < 160; events += 3) {
		kill_after(events, events % 2);
		teardown(state);
		setup(state);
	}
}

static void it_may_be_asked_for_again_and_of_a_slot_that_is_being_copied(void **state)
{
	(void)state;
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	for (unsigned i = 0; i < 10000 && core_rig_phase(&rig, 1) != SLOT_REPAIR; i++) {
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 1);
	}
	struct upstairs_status status;
	upstairs_status(rig.core, &status);
	assert_int_equal(status.slots[1].state, UPSTAIRS_SLOT_REPAIR);
	assert_int_equal(status.slots[1].to_repair, EXTENTS);
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	core_rig_pass(&rig, 20000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	expect_all();
}

static void writes_meanwhile_are_on_all_three(void **state)
{
	(void)state;
	assert_int_equal(upstairs_replace(rig.core, 1), 0);
	core_rig_renew_sled(&rig, 1, false);
	for (unsigned i = 0; i < 4000; i++) {
		if (i % 7 == 0) {
			uint64_t block = (i * 31) % (BLOCKS / 3) * 3;
			core_rig_submit(&rig, UPSTAIRS_WRITE, block, 1, (uint8_t)(block + 1));
		}
		if (!core_rig_step(&rig))
			core_rig_tick(&rig, 5);
	}
	core_rig_pass(&rig, 5000);
	assert_int_equal(core_rig_phase(&rig, 1), SLOT_COUNTED);
	expect_all();
}

int main(void)
{
	static uint8_t key[INTEGRITY_KEY_SIZE] = { 1, 2, 3 };
#define plain(test) { #test, test, setup, teardown, NULL }
	const struct CMUnitTest tests[] = {
		plain(the_new_region_gets_everything_and_counts),
		{ "the_new_region_gets_everything_and_counts_encrypted", the_new_region_gets_everything_and_counts, setup,
			teardown, key },
		plain(a_slot_that_is_gone_for_good_can_be_replaced),
		plain(not_while_another_copy_is_missing),
		plain(a_region_that_is_not_empty_is_left_alone),
		plain(a_store_while_it_is_looked_at_does_not_record_it),
		plain(the_region_of_another_slot_is_refused),
		plain(a_kill_at_any_event_leaves_two_copies_and_a_way_on),
		plain(it_may_be_asked_for_again_and_of_a_slot_that_is_being_copied),
		plain(writes_meanwhile_are_on_all_three),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
