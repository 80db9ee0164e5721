/* How a downstairs negotiates, and whom it takes for the active upstairs (specification 3.1-3.3).
 */
#include <stdlib.h>
#include <string.h>

#include "downstairs-rig.h"
#include "unit.h"

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

static const struct downstairs_options read_only = { .read_only = true };

static struct crucible_message hello(void)
{
	struct crucible_message message = { .type = CRUCIBLE_HERE_I_AM };
	message.here_i_am.version = 13;
	return message;
}

/* HereIAm */

static void a_peer_of_our_version_is_greeted(void **state)
{
	(void)state;
	struct rig rig;
	struct downstairs_options options = { .repair_address = {
											  .octets = { 127, 0, 0, 1 }, .port = 9 } };
	rig_open(&rig, &options);
	struct peer *peer = rig_connect(&rig, 1, 1, 1);
	here_i_am(peer);
	const struct crucible_message *message = expect(peer, CRUCIBLE_YES_ITS_ME);
	assert_int_equal(message->yes_its_me.version, 13);
	assert_int_equal(message->yes_its_me.repair_address.port, 9);
	assert_int_equal(message->yes_its_me.repair_address.octets[0], 127);
	rig_close(&rig);
}

static void our_version_may_be_an_alternate_one(void **state)
{
	(void)state;
	struct rig rig;
	static const uint32_t alternates[] = { 11, 13 };
	rig_open(&rig, NULL);
	struct crucible_message message = hello();
	message.here_i_am.version = 14;
	message.here_i_am.alternate_versions = (struct crucible_u32s){ alternates, 2 };
	struct peer *peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_int_equal(expect(peer, CRUCIBLE_YES_ITS_ME)->yes_its_me.version, 13);
	rig_close(&rig);
}

static void mismatches_are_found_in_order(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct crucible_message message = hello();
	message.here_i_am.version = 12;
	message.here_i_am.read_only = true;
	message.here_i_am.encrypted = true;
	struct peer *peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_int_equal(expect(peer, CRUCIBLE_VERSION_MISMATCH)->version_mismatch.version, 13);
	expect_closed(peer);

	message.here_i_am.version = 13;
	peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_false(expect(peer, CRUCIBLE_READ_ONLY_MISMATCH)->mode_mismatch.expected);
	expect_closed(peer);

	message.here_i_am.read_only = false;
	peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_false(expect(peer, CRUCIBLE_ENCRYPTED_MISMATCH)->mode_mismatch.expected);
	expect_closed(peer);
	rig_close(&rig);
}

static void mismatches_tell_what_the_downstairs_is(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &read_only);
	struct crucible_message message = hello();
	struct peer *peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_true(expect(peer, CRUCIBLE_READ_ONLY_MISMATCH)->mode_mismatch.expected);
	rig_close(&rig);

	rig_open_encrypted(&rig);
	peer = rig_connect(&rig, 1, 1, 1);
	peer_send(peer, &message);
	assert_true(expect(peer, CRUCIBLE_ENCRYPTED_MISMATCH)->mode_mismatch.expected);
	rig_close(&rig);
}

/* Order */

static struct peer *peer_in(struct rig *rig, unsigned phase)
{
	struct peer *peer = rig_connect(rig, 1, 1, 1);
	if (phase >= 1) {
		here_i_am(peer);
		expect(peer, CRUCIBLE_YES_ITS_ME);
	}
	if (phase >= 2) {
		promote(peer);
		expect(peer, CRUCIBLE_YOU_ARE_NOW_ACTIVE);
	}
	if (phase >= 3) {
		ask_region(peer);
		const struct crucible_message *message = expect(peer, CRUCIBLE_REGION_INFO);
		assert_int_equal(message->region_info.block_size, RIG_BLOCK_SIZE);
		assert_int_equal(message->region_info.extent_size, RIG_EXTENT_SIZE);
		assert_int_equal(message->region_info.extent_count, RIG_EXTENTS);
		assert_int_equal(message->region_info.uuid.bytes[0], 7);
	}
	if (phase >= 4)
		last_flush(peer, 0);
	return peer;
}

static void every_message_out_of_order_closes_without_a_word(void **state)
{
	(void)state;
	for (unsigned phase = 0; phase <= 4; phase++) {
		for (unsigned message = 0; message <= 4; message++) {
			struct rig rig;
			rig_open(&rig, NULL);
			struct peer *peer = peer_in(&rig, phase);
			if (message == 0)
				here_i_am(peer);
			else if (message == 1)
				promote(peer);
			else if (message == 2)
				ask_region(peer);
			else if (message == 3)
				last_flush(peer, 0);
			else
				ask_versions(peer);
			bool is_legal = phase < 3 ? message == phase : phase == 3 && message >= 3;
			if (is_legal) {
				assert_non_null(peer->connection);
				rig_kill(&rig);
			} else {
				expect_closed(peer);
			}
			rig_close(&rig);
		}
	}
}

static void ruok_is_answered_in_every_phase(void **state)
{
	(void)state;
	for (unsigned phase = 0; phase <= 4; phase++) {
		struct rig rig;
		rig_open(&rig, NULL);
		send_ruok(peer_in(&rig, phase));
		rig_close(&rig);
	}
}

static void a_job_before_its_time_is_ignored(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = peer_in(&rig, 3);
	send_write(peer, 1000, 0, 1, 5, NULL);
	send_mend(peer, CRUCIBLE_EXTENT_CLOSE, 0, 0);
	expect_nothing(peer);
	last_flush(peer, 0);
	expect_nothing(peer);
	assert_int_equal(fill_of(peer, 0), -1);
	rig_close(&rig);
}

static void messages_of_a_downstairs_are_ignored_and_close_when_running(void **state)
{
	(void)state;
	for (unsigned phase = 0; phase <= 4; phase++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = peer_in(&rig, phase);
		peer_send(peer, &(struct crucible_message){ .type = CRUCIBLE_IMOK });
		if (phase == 4)
			expect_closed(peer);
		else
			send_ruok(peer);
		rig_close(&rig);
	}
}

static void versions_are_those_of_each_extent(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running_as(&rig, 1, 1, 4);
	write_blocks(peer, 1000, RIG_EXTENT_SIZE, 1, 1);
	flush(peer, 1001, 6);
	write_blocks(peer, 1002, 2 * RIG_EXTENT_SIZE, 1, 1);
	struct peer *next = rig_connect(&rig, 1, 2, 5);
	assert_true(is_promoted(next));
	expect(peer, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	ask_region(next);
	expect(next, CRUCIBLE_REGION_INFO);
	ask_versions(next);
	const struct crucible_message *message = expect(next, CRUCIBLE_EXTENT_VERSIONS);
	static const uint64_t generations[] = { 0, 4, 0 }, flushes[] = { 0, 6, 0 };
	static const bool dirty[] = { false, false, true };
	assert_int_equal(message->extent_versions.generations.count, RIG_EXTENTS);
	assert_int_equal(message->extent_versions.flush_numbers.count, RIG_EXTENTS);
	assert_int_equal(message->extent_versions.dirty.count, RIG_EXTENTS);
	assert_memory_equal(
		message->extent_versions.generations.items, generations, sizeof generations);
	assert_memory_equal(message->extent_versions.flush_numbers.items, flushes, sizeof flushes);
	assert_memory_equal(message->extent_versions.dirty.items, dirty, sizeof dirty);
	rig_close(&rig);
}

/* Promotion */

struct row {
	const char *what;
	uint8_t upstairs, session;
	uint64_t generation;
	bool is_accepted;
};

/* A is 1, 1, 5. */
static const struct row rows[] = {
	{ "lower generation, else the same", 1, 1, 4, false },
	{ "lower generation, other upstairs", 2, 2, 4, false },
	{ "generation 0", 2, 2, 0, false },
	{ "the same", 1, 1, 5, true },
	{ "equal generation, other session", 1, 2, 5, false },
	{ "equal generation, other upstairs, same session", 2, 1, 5, false },
	{ "equal generation, both differ", 2, 2, 5, false },
	{ "higher generation, the same upstairs", 1, 2, 6, true },
	{ "higher generation, other upstairs", 2, 2, 6, true },
};

static void each_row_of_the_promotion_table_holds(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rows); i++) {
		const struct row *row = &rows[i];
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *active = rig_running_as(&rig, 1, 1, 5);
		struct peer *newcomer = rig_connect(&rig, row->upstairs, row->session, row->generation);
		bool is_accepted = is_promoted(newcomer);
		if (is_accepted != row->is_accepted)
			fail_msg("%s", row->what);
		if (is_accepted) {
			const struct crucible_message *message = expect(
				active, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
			assert_memory_equal(&message->session, &newcomer->session, sizeof message->session);
			expect_closed(active);
		} else {
			send_ruok(active);
		}
		rig_close(&rig);
	}
}

static void generation_0_is_accepted_when_nobody_is_registered(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	rig_running_as(&rig, 1, 1, 0);
	rig_close(&rig);
}

static void the_registration_ends_with_its_connection(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	peer_close(rig_running_as(&rig, 1, 1, 5));
	rig_running_as(&rig, 2, 2, 3);
	rig_close(&rig);
}

static void the_registration_is_forgotten_by_a_restart(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	rig_running_as(&rig, 1, 1, 5);
	rig_restart(&rig);
	rig_running_as(&rig, 2, 2, 3);
	rig_close(&rig);
}

static void the_generation_is_that_of_the_promotion(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_connect(&rig, 1, 1, 50);
	here_i_am(peer);
	expect(peer, CRUCIBLE_YES_ITS_ME);
	peer->session.generation = 5;
	promote(peer);
	assert_int_equal(expect(peer, CRUCIBLE_YOU_ARE_NOW_ACTIVE)->session.generation, 5);
	assert_true(is_promoted(rig_connect(&rig, 2, 2, 6)));
	expect(peer, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	rig_close(&rig);
}

static void a_promotion_with_other_ids_is_refused(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;
		rig_open(&rig, NULL);
		struct peer *peer = rig_connect(&rig, 1, 2, 1);
		here_i_am(peer);
		expect(peer, CRUCIBLE_YES_ITS_ME);
		if (i == 0)
			peer->session.upstairs_id.bytes[0] = 9;
		else
			peer->session.session_id.bytes[0] = 9;
		promote(peer);
		assert_int_equal(
			expect(peer, CRUCIBLE_UUID_MISMATCH)->uuid_mismatch.expected_id.bytes[0], 1);
		expect_closed(peer);
		rig_close(&rig);
	}
}

static void jobs_of_the_displaced_are_discarded(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *active = rig_running_as(&rig, 1, 1, 5);
	send_write(active, 1001, 0, 1, 7, AFTER(1000));
	assert_int_equal(downstairs_pending(rig.downstairs), 1);
	struct peer *newcomer = rig_running_as(&rig, 1, 1, 5);
	expect(active, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	assert_int_equal(downstairs_pending(rig.downstairs), 0);
	write_blocks(newcomer, 1000, 1, 1, 8);
	assert_int_equal(fill_of(newcomer, 0), -1);
	rig_close(&rig);
}

/* W1 */

static void a_refused_connection_with_the_same_upstairs_id_unregisters(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *real = rig_running_as(&rig, 1, 1, 10);
	assert_false(is_promoted(rig_connect(&rig, 1, 2, 5)));
	struct peer *second = rig_running_as(&rig, 1, 2, 5);
	write_blocks(real, 1000, 0, 1, 1);
	write_blocks(second, 1000, 0, 1, 2);
	assert_int_equal(fill_of(real, 0), 2);
	/* the real one is not even told when a third displaces the second */
	rig_running_as(&rig, 3, 3, 7);
	expect(second, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	write_blocks(real, 1001, 0, 1, 3);
	rig_close(&rig);
}

static void hello_and_goodbye_unregisters(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *real = rig_running_as(&rig, 1, 1, 10);
	struct peer *probe = rig_connect(&rig, 1, 9, 0);
	here_i_am(probe);
	expect(probe, CRUCIBLE_YES_ITS_ME);
	peer_close(probe);
	rig_running_as(&rig, 4, 4, 3);
	write_blocks(real, 1000, 0, 1, 1);
	rig_close(&rig);
}

static void goodbye_without_hello_unregisters_nobody(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	rig_running_as(&rig, 0, 0, 10);
	peer_close(rig_connect(&rig, 0, 0, 0));
	assert_false(is_promoted(rig_connect(&rig, 4, 4, 3)));
	rig_close(&rig);
}

static void refused_with_another_upstairs_id_stays_refused(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	rig_running_as(&rig, 1, 1, 10);
	for (unsigned i = 0; i < 5; i++)
		assert_false(is_promoted(rig_connect(&rig, 2, 2, 5)));
	rig_close(&rig);
}

static void a_displaced_connection_does_not_unregister_its_successor(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *first = rig_running_as(&rig, 1, 1, 10);
	rig_running_as(&rig, 1, 1, 10);
	expect(first, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	assert_false(is_promoted(rig_connect(&rig, 2, 2, 5)));
	rig_close(&rig);
}

/* Read-only */

static void many_upstairs_read_at_once_but_one_of_each_id(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &read_only);
	struct peer *first = rig_running_as(&rig, 1, 1, 5);
	struct peer *other = rig_running_as(&rig, 2, 2, 1);
	struct peer *again = rig_running_as(&rig, 1, 2, 0);
	expect(first, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	expect_closed(first);
	assert_int_equal(fill_of(other, 0), -1);
	assert_int_equal(fill_of(again, 0), -1);
	rig_close(&rig);
}

static void promotion_opens_closed_extents(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, NULL);
	struct peer *peer = rig_running(&rig);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, 1000, 1, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 1000);
	struct peer *again = rig_running(&rig);
	expect(peer, CRUCIBLE_YOU_ARE_NO_LONGER_ACTIVE);
	assert_int_equal(fill_of(again, RIG_EXTENT_SIZE), -1);
	rig_close(&rig);
}

static void a_closed_extent_of_a_read_only_region_kills_at_the_next_versions(void **state)
{
	(void)state;
	struct rig rig;
	rig_open(&rig, &read_only);
	struct peer *peer = rig_running(&rig);
	send_live(peer, CRUCIBLE_EXTENT_LIVE_CLOSE, 1000, 1, NULL);
	expect_answer(peer, CRUCIBLE_EXTENT_LIVE_CLOSE_ACK, 1000);
	peer = rig_connect(&rig, 3, 3, 1);
	assert_true(is_promoted(peer));
	ask_region(peer);
	expect(peer, CRUCIBLE_REGION_INFO);
	ask_versions(peer);
	assert_non_null(rig.died);
	expect_nothing(peer);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_peer_of_our_version_is_greeted),
		cmocka_unit_test(our_version_may_be_an_alternate_one),
		cmocka_unit_test(mismatches_are_found_in_order),
		cmocka_unit_test(mismatches_tell_what_the_downstairs_is),
		cmocka_unit_test(every_message_out_of_order_closes_without_a_word),
		cmocka_unit_test(ruok_is_answered_in_every_phase),
		cmocka_unit_test(a_job_before_its_time_is_ignored),
		cmocka_unit_test(messages_of_a_downstairs_are_ignored_and_close_when_running),
		cmocka_unit_test(versions_are_those_of_each_extent),
		cmocka_unit_test(each_row_of_the_promotion_table_holds),
		cmocka_unit_test(generation_0_is_accepted_when_nobody_is_registered),
		cmocka_unit_test(the_registration_ends_with_its_connection),
		cmocka_unit_test(the_registration_is_forgotten_by_a_restart),
		cmocka_unit_test(the_generation_is_that_of_the_promotion),
		cmocka_unit_test(a_promotion_with_other_ids_is_refused),
		cmocka_unit_test(jobs_of_the_displaced_are_discarded),
		cmocka_unit_test(a_refused_connection_with_the_same_upstairs_id_unregisters),
		cmocka_unit_test(hello_and_goodbye_unregisters),
		cmocka_unit_test(goodbye_without_hello_unregisters_nobody),
		cmocka_unit_test(refused_with_another_upstairs_id_stays_refused),
		cmocka_unit_test(a_displaced_connection_does_not_unregister_its_successor),
		cmocka_unit_test(many_upstairs_read_at_once_but_one_of_each_id),
		cmocka_unit_test(promotion_opens_closed_extents),
		cmocka_unit_test(a_closed_extent_of_a_read_only_region_kills_at_the_next_versions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
