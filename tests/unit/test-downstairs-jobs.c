/* In which order a downstairs does jobs, and what becomes of failures (specification 4.1-4.5). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

/* Dependencies */

static void jobs_run_in_order_of_dependency(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_write(peer, 1001, 0, 1, 2, AFTER(1000));
	expect_nothing(peer);
	send_write(peer, 1000, 0, 1, 1, NULL);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1001);
	assert_int_equal(fill_of(peer, 0), 2);
	rig_close(&rig);
}

static void a_chain_sent_in_reverse_moves_one_step_per_event(void **state)
{
	(void)state;
	enum { LENGTH = 20 };
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	for (uint64_t id = 1000 + LENGTH - 1; id > 1000; id--)
		send_read(peer, id, 0, 1, AFTER(id - 1));
	expect_nothing(peer);
	send_read(peer, 1000, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	for (uint64_t id = 1002; id < 1000 + LENGTH; id++) {
		expect_nothing(peer);
		peer_send(peer, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
		expect(peer, CRUCIBLE_IMOK);
		expect_answer(peer, CRUCIBLE_READ_RESPONSE, id);
	}
	assert_int_equal(downstairs_pending(rig.downstairs), 0);
	rig_close(&rig);
}

static void a_job_that_has_to_wait_is_no_event(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1002, 0, 1, AFTER(1001));
	send_read(peer, 1001, 0, 1, AFTER(1000));
	send_read(peer, 1000, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	send_read(peer, 1010, 0, 1, AFTER(2000));
	expect_nothing(peer);
	/* one that runs is, and so is a message for reconciliation */
	send_read(peer, 1011, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1011);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1002);
	rig_close(&rig);
}

static void reconciliation_is_an_event(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1002, 0, 1, AFTER(1001));
	send_read(peer, 1001, 0, 1, AFTER(1000));
	send_read(peer, 1000, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	send_mend(peer, CRUCIBLE_EXTENT_FLUSH, 0, 0);
	expect(peer, CRUCIBLE_REPAIR_ACK_ID);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1002);
	rig_close(&rig);
}

static void what_is_unknown_is_waited_for(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1000, 0, 1, AFTER(1000)); /* itself */
	send_read(peer, 1001, 0, 1, AFTER(5));    /* smaller does not count */
	send_read(peer, 1002, 0, 1, AFTER(77777));
	send_ruok(peer);
	send_read(peer, 1003, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1003);
	assert_int_equal(downstairs_pending(rig.downstairs), 3);
	rig_close(&rig);
}

static void a_flush_and_a_barrier_clear_the_set(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = rig_running(&rig);
		write_blocks(peer, 1000, 0, 1, 1);
		if (i == 0)
			flush(peer, 1001, 1);
		else {
			send_job(peer, CRUCIBLE_BARRIER, 1001, AFTER(1000));
			expect_answer(peer, CRUCIBLE_BARRIER_ACK, 1001);
		}
		send_read(peer, 1002, 0, 1, AFTER(1000));
		send_read(peer, 1003, 0, 1, AFTER(1001));
		expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1003);
		send_ruok(peer);
		assert_int_equal(downstairs_pending(rig.downstairs), 1);
		rig_close(&rig);
	}
}

static void the_set_begins_with_the_last_flush(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_connect(&rig, 1, 1, 1);
	assert_true(is_promoted(peer));
	ask_region(peer);
	expect(peer, CRUCIBLE_REGION_INFO);
	last_flush(peer, 1234);
	send_read(peer, 1235, 0, 1, AFTER(1234));
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1235);
	rig_close(&rig);
}

static void completed_jobs_are_those_of_one_connection(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 1);
	peer_close(peer);
	peer = rig_running(&rig);
	send_read(peer, 1001, 0, 1, AFTER(1000));
	send_ruok(peer);
	rig_close(&rig);
}

static void the_set_takes_ids_in_any_order(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	static const uint64_t order[] = { 1000, 1004, 1002, 0, 1003, 1, 1001, 900, 1006, 899, 1005 };
	for (unsigned i = 0; i < sizeof order / sizeof *order; i++) {
		write_blocks(peer, order[i], 0, 1, 1);
		for (unsigned k = 0; k <= i; k++) {
			struct crucible_message message = job(peer, CRUCIBLE_READ_REQUEST, 5000, NULL);
			message.dependencies = (struct crucible_u64s){ order, k + 1 };
			message.read_request.count = 1;
			peer_send(peer, &message);
			expect_answer(peer, CRUCIBLE_READ_RESPONSE, 5000);
		}
	}
	static const uint64_t others[] = { 898, 901, 999, 1007, 2, 4999, 5001 };
	for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
		send_read(peer, 6000, 0, 1, AFTER(others[i]));
	expect_nothing(peer);
	rig_close(&rig);
}

static void the_same_id_twice_runs_twice(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 1);
	write_blocks(peer, 1000, 0, 1, 2);
	assert_int_equal(fill_of(peer, 0), 2);
	rig_close(&rig);
}

static void a_wrong_id_is_told_and_the_connection_stays(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running_as(&rig, 1, 2, 1);
	struct crucible_message message = job(peer, CRUCIBLE_EXTENT_LIVE_NO_OP, 1000, NULL);
	message.job.upstairs_id.bytes[0] = 9;
	message.job.session_id.bytes[0] = 9;
	peer_send(peer, &message);
	assert_int_equal(expect(peer, CRUCIBLE_UUID_MISMATCH)->uuid_mismatch.expected_id.bytes[0], 1);
	message = job(peer, CRUCIBLE_EXTENT_LIVE_NO_OP, 1000, NULL);
	message.job.session_id.bytes[0] = 9;
	peer_send(peer, &message);
	assert_int_equal(expect(peer, CRUCIBLE_UUID_MISMATCH)->uuid_mismatch.expected_id.bytes[0], 2);
	send_job(peer, CRUCIBLE_EXTENT_LIVE_NO_OP, 1001, AFTER(1000));
	expect_nothing(peer);
	send_job(peer, CRUCIBLE_EXTENT_LIVE_NO_OP, 1002, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_ACK_ID, 1002);
	rig_close(&rig);
}

static void a_wrong_id_is_an_event(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1002, 0, 1, AFTER(1001));
	send_read(peer, 1001, 0, 1, AFTER(1000));
	send_read(peer, 1000, 0, 1, NULL);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	struct crucible_message message = job(peer, CRUCIBLE_BARRIER, 1003, NULL);
	message.job.session_id.bytes[0] = 9;
	peer_send(peer, &message);
	expect(peer, CRUCIBLE_UUID_MISMATCH);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1002);
	rig_close(&rig);
}

static void what_was_received_before_the_end_is_done(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_write(peer, 1000, 0, 1, 4, NULL);
	send_write(peer, 1001, 1, 1, 5, AFTER(999)); /* waits, and is lost */
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	peer_close(peer);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), 4);
	assert_int_equal(fill_of(peer, 1), -1);
	rig_close(&rig);
}

/* Reads and writes */

static void never_written_blocks_are_empty_zeros(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 1, 1, 0); /* zeros, but written */
	assert_int_equal(fill_of(peer, 0), -1);
	assert_int_equal(fill_of(peer, 1), 0);
	assert_null(disk_image(rig.disk, 1));
	rig_close(&rig);
}

static void a_job_may_span_extents(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 2, 8, 10);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(fill_of(peer, i), i < 2 || i >= 10 ? -1 : 8 + (int)i);
	send_read(peer, 1001, 0, 12, NULL);
	const struct crucible_message *message = expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	assert_int_equal(message->read_response.contexts.count, 12);
	const uint8_t *data = message->read_response.data.bytes;
	assert_int_equal(data[(size_t)9 * RIG_BLOCK_SIZE], 17);
	for (unsigned i = 0; i < RIG_EXTENTS; i++)
		expect_versions(&rig, i, 0, 0, true);
	rig_close(&rig);
}

static void reads_of_no_blocks_are_done_anywhere_and_writes_make_an_extent_dirty(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1000, UINT64_MAX, 0, NULL);
	const struct crucible_message *message = expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	assert_int_equal(message->read_response.data.length, 0);
	write_blocks(peer, 1001, 5, 0, 0);
	send_write_unwritten(peer, 1002, 8, 0, 0, NULL);
	expect_answer(peer, CRUCIBLE_WRITE_UNWRITTEN_ACK, 1002);
	for (unsigned i = 0; i < RIG_EXTENTS; i++)
		expect_versions(&rig, i, 0, 0, i == 1);
	rig_close(&rig);
}

static void a_block_far_beyond_the_end_may_be_one_of_the_region(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	uint64_t far = (UINT64_C(1) << 32) * RIG_EXTENT_SIZE;
	write_blocks(peer, 1000, far + 5, 1, 9);
	assert_int_equal(fill_of(peer, 5), 9);
	assert_int_equal(fill_of(peer, 2 * far + 5), 9);
	rig_close(&rig);
}

static void a_write_that_ends_the_process_is_done_up_to_there(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_write(peer, 1000, 10, 4, 1, NULL);
	assert_non_null(rig.died);
	rig_restart(&rig);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 11), 2);
	rig_close(&rig);
}

static void write_unwritten_skips_each_block_that_has_been_written(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 1, 1, 100);
	send_write_unwritten(peer, 1001, 0, 6, 1, AFTER(1000));
	expect_answer(peer, CRUCIBLE_WRITE_UNWRITTEN_ACK, 1001);
	static const int fills[] = { 1, 100, 3, 4, 5, 6 };
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(fill_of(peer, i), fills[i]);
	rig_close(&rig);
}

static void encrypted_blocks_come_back_with_nonce_and_tag(void **state)
{
	(void)state;
	struct rig rig;
	rig_open_encrypted(&rig);
	struct peer *peer = rig_running(&rig);
	write_blocks(peer, 1000, 0, 1, 42);
	flush(peer, 1001, 1);
	rig_restart(&rig);
	peer = rig_running(&rig);
	send_read(peer, 1000, 0, 2, NULL);
	const struct crucible_message *message = expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1000);
	struct crucible_read_contexts contexts = message->read_response.contexts;
	struct crucible_read_context context;
	assert_true(crucible_next_read_context(&contexts, &context));
	assert_int_equal(context.kind, CRUCIBLE_BLOCK_ENCRYPTED);
	assert_int_equal(context.encryption.nonce[0], 42);
	assert_int_equal(context.encryption.tag[0], 0xaa);
	assert_true(crucible_next_read_context(&contexts, &context));
	assert_int_equal(context.kind, CRUCIBLE_BLOCK_EMPTY);
	rig_close(&rig);
}

/* Failures */

static void an_error_is_reported_and_the_job_done_all_the_same(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	rig.test_errors = 3;
	send_write(peer, 1000, 0, 1, 5, NULL);
	for (unsigned i = 0; i < 3; i++) {
		const struct crucible_message *message = expect(peer, CRUCIBLE_ERROR_REPORT);
		assert_int_equal(message->error_report.error.kind, CRUCIBLE_ERROR_GENERIC);
		assert_int_equal(message->error_report.error.text.length, 10);
		assert_memory_equal(message->error_report.error.text.bytes, "test error", 10);
	}
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	assert_int_equal(fill_of(peer, 0), 5);
	rig_close(&rig);
}

static struct crucible_message bad_hash(struct peer *peer)
{
	static const uint8_t data[RIG_BLOCK_SIZE];
	static const struct crucible_block_context context = { .hash = 1 };
	struct crucible_message message = job(peer, CRUCIBLE_WRITE, 1000, NULL);
	message.write.contexts.items = &context;
	message.write.contexts.count = 1;
	message.write.data = (struct crucible_data){ data, sizeof data };
	return message;
}

static void a_bad_hash_wedges_until_the_kill(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	struct crucible_message message = bad_hash(peer);
	peer_send(peer, &message);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	peer_send(peer, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
	expect_nothing(peer);
	/* closing does not help, nor does a new connection */
	peer_close(peer);
	struct peer *other = rig_connect(&rig, 2, 2, 2);
	here_i_am(other);
	expect_nothing(other);
	downstairs_retry(rig.downstairs);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	rig_restart(&rig);
	peer = rig_running(&rig);
	assert_int_equal(fill_of(peer, 0), -1);
	rig_close(&rig);
}

static void a_wedge_may_let_some_reports_out(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &(struct downstairs_options){ .wedge_reports = 2 });
	struct peer *peer = rig_running(&rig);
	struct crucible_message message = bad_hash(peer);
	peer_send(peer, &message);
	expect_report(peer, 1000, CRUCIBLE_ERROR_HASH_MISMATCH);
	expect_report(peer, 1000, CRUCIBLE_ERROR_HASH_MISMATCH);
	expect_nothing(peer);
	rig_close(&rig);
}

static void a_full_disk_wedges_until_there_is_room(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig), *other = rig_connect(&rig, 2, 2, 1);
	rig.fail_step = DISK_PUT_DATA;
	rig.fail_with = -ENOSPC;
	rig.fail_count = 10000;
	send_write(peer, 1000, 0, 1, 5, NULL);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	send_read(peer, 1001, 0, 1, AFTER(1000));
	peer_send(other, &(struct crucible_message){ .type = CRUCIBLE_RUOK });
	expect_nothing(other);
	rig.fail_count = 0;
	downstairs_retry(rig.downstairs);
	for (unsigned i = 0; i < 8; i++)
		expect_report(peer, 1000, CRUCIBLE_ERROR_IO);
	expect_answer(peer, CRUCIBLE_WRITE_ACK, 1000);
	expect_answer(peer, CRUCIBLE_READ_RESPONSE, 1001);
	expect(other, CRUCIBLE_IMOK);
	assert_int_equal(fill_of(peer, 0), 5);
	rig_close(&rig);
}

static void an_absurd_read_is_never_answered(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_read(peer, 1000, 0, UINT64_MAX, NULL);
	assert_int_equal(downstairs_state(rig.downstairs), DOWNSTAIRS_WEDGED);
	rig_close(&rig);
}

/* Killed in the middle */

static void a_write_can_be_cut_short_at_every_step(void **state)
{
	(void)state;
	for (unsigned step = DISK_PUT_VERSIONS; step <= DISK_SYNC; step++) {
		for (unsigned at = 0; at < 12; at++) {
			struct rig rig;
			rig_open(&rig, NULL);
			struct peer *peer = rig_running(&rig);
			write_blocks(peer, 1000, 0, 8, 1);
			flush(peer, 1001, 1);
			write_blocks(peer, 1002, 4, 1, 50);
			rig.fail_step = step;
			rig.fail_at = at;
			rig.fail_count = 1;
			rig.fail_with = -ECANCELED;
			send_write(peer, 1003, 0, 8, 101, NULL);
			bool is_killed = downstairs_state(rig.downstairs) == DOWNSTAIRS_KILLED;
			if (is_killed)
				expect_nothing(peer);
			rig_restart(&rig);
			peer = rig_running(&rig);
			for (unsigned block = 0; block < 8; block++) {
				int fill = fill_of(peer, block), old = block == 4 ? 50 : 1 + (int)block;
				if (fill != 101 + (int)block)
					assert_true(is_killed && fill == old);
			}
			rig_close(&rig);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jobs_run_in_order_of_dependency),
		cmocka_unit_test(a_chain_sent_in_reverse_moves_one_step_per_event),
		cmocka_unit_test(a_job_that_has_to_wait_is_no_event),
		cmocka_unit_test(reconciliation_is_an_event),
		cmocka_unit_test(what_is_unknown_is_waited_for),
		cmocka_unit_test(a_flush_and_a_barrier_clear_the_set),
		cmocka_unit_test(the_set_begins_with_the_last_flush),
		cmocka_unit_test(completed_jobs_are_those_of_one_connection),
		cmocka_unit_test(the_set_takes_ids_in_any_order),
		cmocka_unit_test(the_same_id_twice_runs_twice),
		cmocka_unit_test(a_wrong_id_is_told_and_the_connection_stays),
		cmocka_unit_test(a_wrong_id_is_an_event),
		cmocka_unit_test(what_was_received_before_the_end_is_done),
		cmocka_unit_test(never_written_blocks_are_empty_zeros),
		cmocka_unit_test(a_job_may_span_extents),
		cmocka_unit_test(reads_of_no_blocks_are_done_anywhere_and_writes_make_an_extent_dirty),
		cmocka_unit_test(a_block_far_beyond_the_end_may_be_one_of_the_region),
		cmocka_unit_test(a_write_that_ends_the_process_is_done_up_to_there),
		cmocka_unit_test(write_unwritten_skips_each_block_that_has_been_written),
		cmocka_unit_test(encrypted_blocks_come_back_with_nonce_and_tag),
		cmocka_unit_test(an_error_is_reported_and_the_job_done_all_the_same),
		cmocka_unit_test(a_bad_hash_wedges_until_the_kill),
		cmocka_unit_test(a_wedge_may_let_some_reports_out),
		cmocka_unit_test(a_full_disk_wedges_until_there_is_room),
		cmocka_unit_test(an_absurd_read_is_never_answered),
		cmocka_unit_test(a_write_can_be_cut_short_at_every_step),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
