/* Mending and live repair between two engines (specification 6.3, 6.4, 7.2, T21a). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

/* Answers the fetch as the HTTP port of `source` would: files, data, repair-ready. */
static void answer_fetch(struct rig *rig, struct rig *source)
{
	assert_true(rig->fetch_asked);
	assert_int_equal(downstairs_state(rig->downstairs), DOWNSTAIRS_FETCHING);
	rig->fetch_asked = false;
	size_t size = disk_layout(source->disk)->size;
	uint8_t *image = malloc(size);
	assert_true(downstairs_copy_extent(source->downstairs, rig->fetch_extent, image));
	if (downstairs_repair_ready(source->downstairs, rig->fetch_extent))
		downstairs_fetched(rig->downstairs, image, size, NULL);
	else
		downstairs_fetched(rig->downstairs, NULL, 0, "source is in an incorrect state");
	free(image);
}

static void close_extent(struct peer *peer, uint64_t id, uint32_t extent_id)
{
	send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, id, extent_id, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, id);
}

static void live_repair_copies_an_extent(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *source = rig_running(&good), *target = rig_running(&bad);
	write_blocks(source, 1000, 4, 3, 10);
	flush(source, 1001, 5);
	write_blocks(source, 1002, 5, 1, 99);
	write_blocks(target, 1000, 7, 1, 66); /* what the copy will not have */

	/* in the order that upstream's upstairs sends: the reopen first */
	send_live(source, CRUCIBLE_EXTENT_LIVE_REOPEN, 2003, 1, AFTER(2002));
	send_live(target, CRUCIBLE_EXTENT_LIVE_REOPEN, 2003, 1, AFTER(2002));
	send_live(source, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 2000, 1, NULL);
	send_live(target, CRUCIBLE_EXTENT_LIVE_CLOSE, 2000, 1, NULL);
	const struct crucible_message *message = expect_answer(
		source, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 2000);
	assert_false(message->live_close_ack.dirty);
	assert_int_equal(message->live_close_ack.generation, 1);
	assert_int_equal(message->live_close_ack.flush_number, 2000);
	message = expect_answer(target, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 2000);
	assert_true(message->live_close_ack.dirty);
	assert_int_equal(message->live_close_ack.generation, 0);

	send_job(source, CRUCIBLE_EXTENT_LIVE_NO_OP, 2001, AFTER(2000));
	expect_answer(source, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2001);
	send_live(target, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 1, AFTER(2000));
	assert_int_equal(bad.fetch_extent, 1);
	assert_int_equal(bad.fetch_source.port, 7810);
	/* nobody is answered meanwhile */
	struct peer *other = rig_connect(&bad, 9, 9, 9);
	peer_send(target, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
	here_i_am(other);
	expect_nothing(target);
	expect_nothing(other);
	answer_fetch(&bad, &good);
	expect_answer(target, CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID, 2001);
	expect(target, CRUCIBLE_IMOK);
	expect(other, CRUCIBLE_YES_ITS_ME);

	send_read(target, 3000, 4, 4, AFTER(2003)); /* waits for the reopen */
	send_job(source, CRUCIBLE_EXTENT_LIVE_NO_OP, 2002, AFTER(2001));
	send_job(target, CRUCIBLE_EXTENT_LIVE_NO_OP, 2002, AFTER(2001));
	expect_answer(source, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2002);
	expect_answer(source, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2003);
	expect_answer(target, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2002);
	expect_answer(target, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2003);
	expect_answer(target, CRUCIBLE_READ_RESPONSE, 3000);
	static const int fills[] = { 10, 99, 12, -1 };
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fill_of(target, 4 + i), fills[i]);
	expect_versions(&bad, 1, 1, 2000, false);
	assert_int_equal(disk_unsynced(bad.disk, 1), 0);
	rig_close(&good);
	rig_close(&bad);
}

static void a_never_written_extent_can_be_copied(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *source = rig_running(&good), *target = rig_running(&bad);
	write_blocks(target, 1000, 0, 1, 66);
	close_extent(source, 2000, 0);
	close_extent(target, 2000, 0);
	send_live(target, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 0, NULL);
	answer_fetch(&bad, &good);
	expect_answer(target, CRUCIBLE_EXTENT_LIVE_REPAIR_ACK_ID, 2001);
	send_live(target, CRUCIBLE_EXTENT_LIVE_REOPEN, 2002, 0, NULL);
	expect_answer(target, CRUCIBLE_EXTENT_LIVE_ACK_ID, 2002);
	assert_int_equal(fill_of(target, 0), -1);
	write_blocks(target, 2003, 0, 1, 5);
	assert_int_equal(fill_of(target, 0), 5);
	rig_close(&good);
	rig_close(&bad);
}

static void a_live_repair_that_fails_closes_the_connection(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 7);
	close_extent(peer, 2000, 0);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 0, NULL);
	downstairs_fetched(rig.downstairs, NULL, 0, "connection refused");
	expect_report(peer, 2001, CRUCIBLE_ERROR_REPAIR_REQUEST);
	expect_closed(peer);
	/* a new promotion opens the extent, with what it had */
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), 7);
	rig_close(&rig);
}

static void a_source_whose_extent_is_open_is_refused(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *target = rig_running(&bad);
	close_extent(target, 2000, 0);
	send_live(target, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 0, NULL);
	answer_fetch(&bad, &good);
	expect_report(target, 2001, CRUCIBLE_ERROR_REPAIR_REQUEST);
	expect_closed(target);
	rig_close(&good);
	rig_close(&bad);
}

static void a_read_only_source_is_always_ready(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &(struct downstairs_options){ .read_only = true });
	assert_true(downstairs_repair_ready(rig.downstairs, 0));
	assert_true(downstairs_repair_ready(rig.downstairs, 100));
	rig_close(&rig);
	rig_open(&rig, NULL);
	assert_false(downstairs_repair_ready(rig.downstairs, 0));
	assert_null(rig.died);
	downstairs_repair_ready(rig.downstairs, 100);
	assert_non_null(rig.died);
	rig_close(&rig);
}

static void a_kill_during_the_download_leaves_the_old_extent(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 7);
	close_extent(peer, 2000, 0);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 0, NULL);
	rig_restart(&rig);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), 7);
	assert_false(disk_has_copy(rig.disk, 0));
	rig_close(&rig);
}

static void the_peer_may_leave_during_the_download(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *source = rig_running(&good), *target = rig_running(&bad);
	write_blocks(source, 1000, 0, 1, 3);
	flush(source, 1001, 1);
	close_extent(source, 2000, 0);
	close_extent(target, 2000, 0);
	send_live(target, CRUCIBLE_EXTENT_LIVE_REPAIR, 2001, 0, NULL);
	peer_close(target);
	target = rig_connect(&bad, 1, 1, 1);
	here_i_am(target);
	promote(target);
	answer_fetch(&bad, &good);
	expect(target, CRUCIBLE_YES_ITS_ME);
	expect(target, CRUCIBLE_YOU_ARE_NOW_ACTIVE);
	ask_region(target);
	expect(target, CRUCIBLE_REGION_INFO);
	last_flush(target, 0);
	assert_int_equal(fill_of(target, 0), 3);
	rig_close(&good);
	rig_close(&bad);
}

/* Reconciliation */

static void expect_ack(struct peer *peer, uint64_t repair_id)
{
	assert_int_equal(expect(peer, CRUCIBLE_REPAIR_ACK_ID)->repair_ack.repair_id, repair_id);
}

static void mending_copies_an_extent(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *source = rig_running(&good), *target = rig_running(&bad);
	write_blocks(source, 1000, 0, 4, 10);
	send_mend(source, CRUCIBLE_EXTENT_FLUSH, 0, 0);
	expect_ack(source, 0);
	expect_versions(&good, 0, 60, 50, false);
	send_mend(source, CRUCIBLE_EXTENT_FLUSH, 7, 1); /* clean: not stamped */
	expect_ack(source, 7);
	expect_versions(&good, 1, 0, 0, false);
	send_mend(source, CRUCIBLE_EXTENT_CLOSE, 1, 0);
	send_mend(target, CRUCIBLE_EXTENT_CLOSE, 1, 0);
	expect_ack(source, 1);
	expect_ack(target, 1);
	send_mend(target, CRUCIBLE_EXTENT_REPAIR, 2, 0);
	assert_int_equal(bad.fetch_source.port, 7811);
	expect_nothing(target);
	answer_fetch(&bad, &good);
	expect_ack(target, 2);
	send_mend(source, CRUCIBLE_EXTENT_REOPEN, 3, 0);
	send_mend(target, CRUCIBLE_EXTENT_REOPEN, 3, 0);
	expect_ack(source, 3);
	expect_ack(target, 3);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fill_of(target, i), 10 + (int)i);
	expect_versions(&bad, 0, 60, 50, false);
	rig_close(&good);
	rig_close(&bad);
}

static void expect_extent_error(
	struct peer *peer, uint64_t repair_id, uint32_t extent_id, enum crucible_error_kind kind)
{
	const struct crucible_message *message = expect(peer, CRUCIBLE_EXTENT_ERROR);
	assert_int_equal(message->extent_error.repair_id, repair_id);
	assert_int_equal(message->extent_error.extent_id, extent_id);
	assert_int_equal(message->extent_error.error.kind, kind);
}

static void a_failed_copy_stands_in_the_way_until_the_extent_is_reopened(void **state)
{
	(void)state;
	struct rig good, bad;
	rig_open(&good, NULL);
	rig_open(&bad, NULL);
	struct peer *source = rig_running(&good), *target = rig_running(&bad);
	close_extent(source, 1000, 1);
	send_mend(target, CRUCIBLE_EXTENT_CLOSE, 0, 1);
	expect_ack(target, 0);
	send_mend(target, CRUCIBLE_EXTENT_REPAIR, 1, 1);
	downstairs_fetched(bad.downstairs, NULL, 0, "connection refused");
	expect_extent_error(target, 1, 1, CRUCIBLE_ERROR_REPAIR_REQUEST);
	for (unsigned i = 0; i < 2; i++) {
		send_mend(target, CRUCIBLE_EXTENT_REPAIR, 2, 1);
		expect_extent_error(target, 2, 1, CRUCIBLE_ERROR_IO);
	}
	send_mend(target, CRUCIBLE_EXTENT_REOPEN, 3, 1);
	send_mend(target, CRUCIBLE_EXTENT_CLOSE, 4, 1);
	send_mend(target, CRUCIBLE_EXTENT_REPAIR, 5, 1);
	expect_ack(target, 3);
	expect_ack(target, 4);
	bad.fetch_asked = true;
	answer_fetch(&bad, &good);
	expect_ack(target, 5);
	rig_close(&good);
	rig_close(&bad);
}

static void a_copy_of_the_wrong_size_is_refused(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_mend(peer, CRUCIBLE_EXTENT_CLOSE, 0, 1);
	expect_ack(peer, 0);
	send_mend(peer, CRUCIBLE_EXTENT_REPAIR, 1, 1);
	downstairs_fetched(rig.downstairs, "abc", 3, NULL);
	expect_extent_error(peer, 1, 1, CRUCIBLE_ERROR_REPAIR_FILES_INVALID);
	rig_close(&rig);
}

static void a_failed_sync_is_told_once_and_hollow_then(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 8, 1);
	rig.fail_step = DISK_SYNC;
	rig.fail_count = 2;
	rig.fail_with = -EIO;
	send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 0, 0);
	expect_extent_error(peer, 0, 0, CRUCIBLE_ERROR_IO);
	send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 1, 0);
	expect_ack(peer, 1);
	expect_versions(&rig, 0, 60, 50, false);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE, 2000, 1, NULL);
	expect_report(peer, 2000, CRUCIBLE_ERROR_IO);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 2000);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live_repair_copies_an_extent),
		cmocka_unit_test(a_never_written_extent_can_be_copied),
		cmocka_unit_test(a_live_repair_that_fails_closes_the_connection),
		cmocka_unit_test(a_source_whose_extent_is_open_is_refused),
		cmocka_unit_test(a_read_only_source_is_always_ready),
		cmocka_unit_test(a_kill_during_the_download_leaves_the_old_extent),
		cmocka_unit_test(the_peer_may_leave_during_the_download),
		cmocka_unit_test(mending_copies_an_extent),
		cmocka_unit_test(a_failed_copy_stands_in_the_way_until_the_extent_is_reopened),
		cmocka_unit_test(a_copy_of_the_wrong_size_is_refused),
		cmocka_unit_test(a_failed_sync_is_told_once_and_hollow_then),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
