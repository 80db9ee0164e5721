/* test-core-recovery.c: flushes that keep a mend after the loss of the host short (design 6.12). */
#include "core-rig.h"
#include "unit.h"

enum { EXTENT = 4, EXTENTS = 200 };
static struct core_rig rig;

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, EXTENT, EXTENTS, NULL);
	rig.has_clock = true;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	return 0;
}

static uint64_t flushes(void)
{
	return rig.sleds[0].sent[CRUCIBLE_FLUSH];
}

static void under_load_a_flush_goes_out_every_2_s(void **state)
{
	(void)state;
	core_rig_serve(&rig);
	core_rig_pass(&rig, 10000);
	uint64_t before = flushes();
	core_rig_pass(&rig, 60000);
	assert_int_equal(flushes(), before); /* of nothing nothing is flushed */
	core_rig_write(&rig, 1, 1, 1);
	core_rig_pass(&rig, 2000);
	assert_int_equal(flushes(), before + 1);
	for (unsigned i = 0; i < 400; i++) { /* 20 s */
		core_rig_submit(&rig, UPSTAIRS_WRITE, i % 20, 1, 2);
		core_rig_pass(&rig, 50);
	}
	assert_in_range(flushes() - before - 1, 9, 11);
}

static void a_flush_goes_out_when_a_mend_would_take_too_long(void **state)
{
	(void)state;
	rig.options.recovery_budget = 80; /* ms; an extent that is so small counts as 1 */
	rig.options.flush_interval = 1000000;
	core_rig_serve(&rig);
	uint64_t before = flushes();
	struct upstairs_status status;
	for (unsigned i = 0; i < 40; i++)
		core_rig_write(&rig, i * EXTENT, 1, 1);
	assert_int_equal(flushes(), before);
	upstairs_status(rig.core, &status);
	assert_int_equal(status.dirty_extents, 40);
	assert_int_equal(status.recovery_time, 40);
	for (unsigned i = 0; i < 40; i++) /* the same ones again change nothing */
		core_rig_write(&rig, i * EXTENT + 1, 1, 1);
	assert_int_equal(flushes(), before);
	core_rig_write(&rig, 40 * EXTENT, 1, 1);
	assert_int_equal(flushes(), before + 1);
	upstairs_status(rig.core, &status);
	assert_int_equal(status.dirty_extents, 0);
	/* what is dirty on disk, and what the last flush has stamped, is never more than the budget */
	for (unsigned i = 0; i < EXTENTS; i++)
		core_rig_write(&rig, i * EXTENT, 1, 2);
	assert_int_equal(flushes(), before + 1 + EXTENTS / 41);
	for (uint32_t i = 0; i < EXTENTS; i++)
		assert_int_equal(disk_versions(rig.sleds[0].disk, i).dirty, i >= EXTENTS / 41 * 41);
}

static void without_a_budget_only_time_counts(void **state)
{
	(void)state;
	rig.options.flush_interval = 1000000;
	core_rig_serve(&rig);
	uint64_t before = flushes();
	for (unsigned i = 0; i < EXTENTS; i++)
		core_rig_write(&rig, i * EXTENT, 1, 1);
	assert_int_equal(flushes(), before);
}

static void a_write_over_more_extents_than_the_budget_is_done(void **state)
{
	(void)state;
	rig.options.recovery_budget = 10;
	core_rig_serve(&rig);
	uint64_t before = flushes();
	core_rig_write(&rig, 1, 100 * EXTENT, 1);
	assert_int_equal(flushes(), before + 1);
}

static void the_rate_is_that_of_the_extents_copied_last(void **state)
{
	(void)state;
	struct upstairs_status status;
	core_rig_serve(&rig);
	upstairs_status(rig.core, &status);
	assert_int_equal(status.copy_rate, (100 << 20) / 1000 * 1000);
	core_rig_write(&rig, 1, 8, 1);
	core_rig_flush(&rig);
	core_rig_renew_sled(&rig, 2, true);
	core_rig_pass(&rig, 10000);
	assert_int_equal(core_rig_phase(&rig, 2), SLOT_COUNTED);
	upstairs_status(rig.core, &status);
	assert_in_range(status.copy_rate, EXTENT * CORE_BLOCK * 1000, EXTENT * CORE_BLOCK * 1000 + 5000); /* one in 1 ms */
}

static void a_mend_measures_the_rate_too(void **state)
{
	(void)state;
	struct upstairs_status status;
	core_rig_serve(&rig);
	core_rig_write(&rig, 1, 8, 1);
	core_rig_lose_host(&rig);
	core_rig_serve(&rig);
	upstairs_status(rig.core, &status);
	assert_in_range(status.copy_rate, EXTENT * CORE_BLOCK * 1000, EXTENT * CORE_BLOCK * 1000 + 5000);
}

int main(void)
{
#define plain(test) { #test, test, setup, teardown, NULL }
	const struct CMUnitTest tests[] = {
		plain(under_load_a_flush_goes_out_every_2_s),
		plain(a_flush_goes_out_when_a_mend_would_take_too_long),
		plain(without_a_budget_only_time_counts),
		plain(a_write_over_more_extents_than_the_budget_is_done),
		plain(the_rate_is_that_of_the_extents_copied_last),
		plain(a_mend_measures_the_rate_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
