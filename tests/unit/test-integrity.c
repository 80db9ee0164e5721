/* test-integrity.c: hashes and encryption of blocks, against the answers of crucible-protocol.md 1.6 and 1.7. */
#include <errno.h>
#include <string.h>

#include "integrity.h"
#include "unit.h"

enum { BLOCK = 512 };
static uint8_t key[INTEGRITY_KEY_SIZE], data[4 * BLOCK], sealed[4 * BLOCK], back[4 * BLOCK];
static struct crucible_block_context contexts[4];
static struct crucible_read_context reads[4];

static int setup(void **state)
{
	(void)state;
	for (unsigned i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)i;
	for (uint8_t i = 0; i < sizeof key; i++)
		key[i] = i;
	return 0;
}

/* The answer of a downstairs that stores what was sealed. */
static struct crucible_message answer(size_t count)
{
	struct crucible_message message = { .type = CRUCIBLE_READ_RESPONSE };
	for (size_t i = 0; i < count; i++) {
		reads[i].kind = contexts[i].is_encrypted ? CRUCIBLE_BLOCK_ENCRYPTED : CRUCIBLE_BLOCK_UNENCRYPTED;
		reads[i].hash = contexts[i].hash;
		reads[i].encryption = contexts[i].encryption;
	}
	message.read_response.contexts.items = reads;
	message.read_response.contexts.count = count;
	message.read_response.data.bytes = sealed;
	message.read_response.data.length = count * BLOCK;
	return message;
}

static void plain_blocks_have_the_known_hashes(void **state)
{
	(void)state;
	struct integrity *integrity = integrity_open(NULL, BLOCK);
	memset(data + BLOCK, 0, BLOCK);
	assert_int_equal(integrity_seal(integrity, data, 2, sealed, contexts), 0);
	assert_true(contexts[0].hash == UINT64_C(0x7b3bfcaac0348ac0));
	assert_true(contexts[1].hash == UINT64_C(0x8bbf7f68e8c3b87c));
	assert_memory_equal(sealed, data, 2 * BLOCK);
	assert_false(contexts[0].is_encrypted);
	integrity_close(integrity);
}

static void what_was_sealed_is_taken_again(void **state)
{
	(void)state;
	for (int encrypts = 0; encrypts < 2; encrypts++) {
		struct integrity *integrity = integrity_open(encrypts ? key : NULL, BLOCK);
		assert_int_equal(integrity_seal(integrity, data, 4, sealed, contexts), 0);
		assert_int_equal(memcmp(sealed, data, sizeof data) != 0, encrypts);
		struct crucible_message message = answer(4);
		memset(back, 0, sizeof back);
		assert_int_equal(integrity_take(integrity, &message, back), 0);
		assert_memory_equal(back, data, sizeof data);
		integrity_close(integrity);
	}
}

static void each_block_has_a_nonce_of_its_own(void **state)
{
	(void)state;
	struct integrity *integrity = integrity_open(key, BLOCK);
	memset(data, 5, sizeof data);
	assert_int_equal(integrity_seal(integrity, data, 4, sealed, contexts), 0);
	for (unsigned i = 1; i < 4; i++) {
		assert_memory_not_equal(&contexts[i].encryption, &contexts[0].encryption, 12);
		assert_memory_not_equal(sealed + i * BLOCK, sealed, BLOCK);
	}
	integrity_close(integrity);
}

static void every_changed_bit_is_noticed(void **state)
{
	(void)state;
	for (int encrypts = 0; encrypts < 2; encrypts++) {
		struct integrity *integrity = integrity_open(encrypts ? key : NULL, BLOCK);
		assert_int_equal(integrity_seal(integrity, data, 1, sealed, contexts), 0);
		struct crucible_message message = answer(1);
		for (unsigned bit = 0; bit < BLOCK * 8; bit++) {
			sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(integrity_take(integrity, &message, back), -EBADMSG);
			sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		reads[0].encryption.tag[3] ^= 1;
		reads[0].hash ^= 1;
		assert_int_equal(integrity_take(integrity, &message, back), -EBADMSG);
		integrity_close(integrity);
	}
}

static void a_context_of_the_wrong_kind_is_refused(void **state)
{
	(void)state;
	struct integrity *plain = integrity_open(NULL, BLOCK), *encrypting = integrity_open(key, BLOCK);
	integrity_seal(plain, data, 1, sealed, contexts);
	struct crucible_message message = answer(1);
	assert_int_equal(integrity_take(encrypting, &message, back), -EBADMSG);
	integrity_seal(encrypting, data, 1, sealed, contexts);
	message = answer(1);
	assert_int_equal(integrity_take(plain, &message, back), -EBADMSG);
	integrity_close(plain);
	integrity_close(encrypting);
}

static void a_block_never_written_is_zeros_or_damaged(void **state)
{
	(void)state;
	for (int encrypts = 0; encrypts < 2; encrypts++) {
		struct integrity *integrity = integrity_open(encrypts ? key : NULL, BLOCK);
		memset(sealed, 0, BLOCK);
		contexts[0] = (struct crucible_block_context){ 0 };
		struct crucible_message message = answer(1);
		reads[0].kind = CRUCIBLE_BLOCK_EMPTY;
		memset(back, 1, BLOCK);
		assert_int_equal(integrity_take(integrity, &message, back), 0);
		assert_memory_equal(back, sealed, BLOCK);
		sealed[BLOCK - 1] = 1;
		assert_int_equal(integrity_take(integrity, &message, back), -EBADMSG);
		integrity_close(integrity);
	}
}

static void another_key_reads_nothing(void **state)
{
	(void)state;
	struct integrity *integrity = integrity_open(key, BLOCK);
	assert_int_equal(integrity_seal(integrity, data, 1, sealed, contexts), 0);
	struct crucible_message message = answer(1);
	integrity_close(integrity);
	key[31] ^= 1;
	integrity = integrity_open(key, BLOCK);
	assert_int_equal(integrity_take(integrity, &message, back), -EBADMSG);
	integrity_close(integrity);
}

#define test(function) cmocka_unit_test_setup(function, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(plain_blocks_have_the_known_hashes),
		test(what_was_sealed_is_taken_again),
		test(each_block_has_a_nonce_of_its_own),
		test(every_changed_bit_is_noticed),
		test(a_context_of_the_wrong_kind_is_refused),
		test(a_block_never_written_is_zeros_or_damaged),
		test(another_key_reads_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
