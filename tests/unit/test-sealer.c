/* test-sealer.c: what threads seal is what the loop would have sealed, and the end waits for them. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "integrity.h"
#include "sealer.h"
#include "unit.h"

enum { BLOCK = 4096, BLOCKS = UPSTAIRS_REQUEST_MAX / BLOCK, REQUESTS = 24 };

static const uint8_t key[INTEGRITY_KEY_SIZE] = { 3, 1, 4 };
static uv_loop_t loop;
static struct sealer *sealer;
static struct sealing sealings[REQUESTS];
static unsigned done, closed;

static void on_done(void *context, struct sealing *sealing)
{
	assert_ptr_equal(context, &loop);
	assert_true(sealing >= sealings && sealing < sealings + REQUESTS);
	assert_int_equal(sealing->status, 0);
	done++;
}

static void on_closed(void *context)
{
	assert_ptr_equal(context, &loop);
	closed++;
}

static int setup(void **state)
{
	(void)state;
	done = closed = 0;
	uv_loop_init(&loop);
	for (unsigned i = 0; i < REQUESTS; i++) {
		uint8_t *data = malloc(UPSTAIRS_REQUEST_MAX);
		memset(data, (int)i + 1, UPSTAIRS_REQUEST_MAX);
		sealings[i] = (struct sealing){
			.data = data,
			.count = BLOCKS - i % 5 * 50,
			.sealed = malloc(UPSTAIRS_REQUEST_MAX),
			.contexts = calloc(BLOCKS, sizeof(struct crucible_block_context)),
		};
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < REQUESTS; i++) {
		free((void *)(uintptr_t)sealings[i].data);
		free(sealings[i].sealed);
		free(sealings[i].contexts);
	}
	return uv_loop_close(&loop);
}

/* By what reads it. */
static void assert_opens(const struct sealing *sealing)
{
	static struct crucible_read_context contexts[BLOCKS];
	static uint8_t plain[UPSTAIRS_REQUEST_MAX];
	struct integrity *integrity = integrity_open(key, BLOCK);
	struct crucible_message response = { .type = CRUCIBLE_READ_RESPONSE };
	for (uint64_t i = 0; i < sealing->count; i++)
		contexts[i] = (struct crucible_read_context){
			.kind = CRUCIBLE_BLOCK_ENCRYPTED, .encryption = sealing->contexts[i].encryption
		};
	response.read_response.contexts.items = contexts;
	response.read_response.contexts.count = sealing->count;
	response.read_response.data = (struct crucible_data){ sealing->sealed, sealing->count * BLOCK };
	assert_int_equal(integrity_take(integrity, &response, plain), 0);
	assert_memory_equal(plain, sealing->data, sealing->count * BLOCK);
	integrity_close(integrity);
}

static void large_requests_are_sealed_by_threads(void **state)
{
	(void)state;
	sealer = sealer_open(&loop, key, BLOCK, on_done, &loop);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_false(sealer_seal(sealer, &sealings[i]));
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(done, REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_opens(&sealings[i]);
	sealer_close(sealer, on_closed);
	assert_int_equal(closed, 1);
}

static void small_requests_are_sealed_at_once(void **state)
{
	(void)state;
	sealer = sealer_open(&loop, key, BLOCK, on_done, &loop);
	sealings[0].count = 4;
	assert_true(sealer_seal(sealer, &sealings[0]));
	assert_opens(&sealings[0]);
	sealer_close(sealer, on_closed);
	assert_int_equal(done, 0);
}

static void plain_requests_need_no_thread(void **state)
{
	(void)state;
	sealer = sealer_open(&loop, NULL, BLOCK, on_done, &loop);
	assert_true(sealer_seal(sealer, &sealings[0]));
	assert_memory_equal(sealings[0].sealed, sealings[0].data, sealings[0].count * BLOCK);
	sealer_close(sealer, on_closed);
	assert_int_equal(closed, 1);
}

/* The requests are the caller's again when it is closed, and not before. */
static void end_waits_for_threads(void **state)
{
	(void)state;
	sealer = sealer_open(&loop, key, BLOCK, on_done, &loop);
	for (unsigned i = 0; i < REQUESTS; i++)
		sealer_seal(sealer, &sealings[i]);
	sealer_close(sealer, on_closed);
	assert_int_equal(closed, 0);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(closed, 1);
	assert_int_equal(done, 0);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(large_requests_are_sealed_by_threads),
		test(small_requests_are_sealed_at_once),
		test(plain_requests_need_no_thread),
		test(end_waits_for_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
