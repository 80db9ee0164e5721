/* test-core-memory.c: a volume that has done very many jobs takes no more memory than one that has done a few. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "core-rig.h"
#include "unit.h"

/* With sanitizers malloc cannot be asked, and everything is slow. */
#ifdef __SANITIZE_ADDRESS__
enum { JOBS = 50000, ASKS_MALLOC = 0 };
#else
enum { JOBS = 1000000, ASKS_MALLOC = 1 };
#endif
enum { EXTENT = 64, EXTENTS = 4, DEPTH = 16, FLUSH_EVERY = 1000, LONGEST = 4 };

static struct core_rig rig;
static struct rig_request requests[DEPTH]; /* used again and again */

static int setup(void **state)
{
	(void)state;
	core_rig_open(&rig, EXTENT, EXTENTS, NULL);
	rig.has_clock = true;
	core_rig_serve(&rig);
	for (unsigned i = 0; i < DEPTH; i++) {
		requests[i].data = malloc(LONGEST * CORE_BLOCK);
		requests[i].contexts = malloc(LONGEST * sizeof *requests[i].contexts);
		memset(requests[i].data, (int)i, LONGEST * CORE_BLOCK);
		integrity_seal(rig.integrity, requests[i].data, LONGEST, requests[i].data, requests[i].contexts);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	core_rig_close(&rig);
	for (unsigned i = 0; i < DEPTH; i++) {
		free(requests[i].data);
		free(requests[i].contexts);
	}
	return 0;
}

static uint64_t dice(void)
{
	static uint64_t state = 1;
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return state >> 33;
}

/* Reads and writes over each other, as many as `jobs`, and flushes between. */
static void load(unsigned jobs)
{
	for (unsigned done = 0; done < jobs; done += DEPTH) {
		for (unsigned i = 0; i < DEPTH; i++) {
			struct rig_request *request = &requests[i];
			uint64_t count = 1 + dice() % LONGEST;
			bool flushes = (done + i) % FLUSH_EVERY == 0;
			request->is_done = false;
			request->core = (struct upstairs_request){
				.operation = flushes ? UPSTAIRS_FLUSH : dice() % 2 ? UPSTAIRS_READ : UPSTAIRS_WRITE,
				.start = dice() % (EXTENT * EXTENTS - LONGEST),
				.count = flushes ? 0 : count,
				.data = request->data,
				.contexts = request->contexts,
			};
			/* what was read is written later: its contexts are those of these bytes */
			if (request->core.operation == UPSTAIRS_WRITE)
				integrity_seal(rig.integrity, request->data, LONGEST, request->data, request->contexts);
			upstairs_submit(rig.core, &request->core);
		}
		core_rig_run(&rig);
		for (unsigned i = 0; i < DEPTH; i++)
			assert_true(requests[i].is_done && requests[i].error == 0);
		rig.now++;
	}
	core_rig_flush(&rig);
	core_rig_pass(&rig, 10);
}

static void many_jobs_leave_nothing(void **state)
{
	(void)state;
	load(20000);
	unsigned allocations = rig.allocations;
	size_t bytes = mallinfo2().uordblks, history = history_used(upstairs_history(rig.core));
	load(JOBS);
	assert_int_equal(rig.allocations, allocations);
	assert_int_equal(history_used(upstairs_history(rig.core)), history);
	/* beside what the rig keeps of each flush, and room that the engines have grown once */
	if (ASKS_MALLOC)
		assert_in_range(mallinfo2().uordblks, 0, bytes + (64 << 10));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(many_jobs_leave_nothing, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
