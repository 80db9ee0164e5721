/* seal: what hashing, encryption and decryption cost (integrity.h), and what it costs to hand a piece of work to a
 * thread of libuv's pool and get it back. The limits in sealer.c are set by it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "integrity.h"

enum { BLOCK = 4096, LENGTH = 1 << 20, BLOCKS = LENGTH / BLOCK, ROUNDS = 300 };

static uint8_t plain[LENGTH], sealed[LENGTH], opened[LENGTH];
static struct crucible_block_context contexts[BLOCKS];
static struct crucible_read_context read_contexts[BLOCKS];

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double median(double *values)
{
	qsort(values, ROUNDS, sizeof *values, compare);
	return values[ROUNDS / 2];
}

static void show(const char *what, double *microseconds)
{
	double each = median(microseconds) / BLOCKS;
	printf("%-28s %6.2f us for 4 KiB, %5.0f MB/s\n", what, each, BLOCK / each);
}

static void measure(const void *key, const char *const names[2])
{
	static double sealing[ROUNDS], opening[ROUNDS];
	struct integrity *integrity = integrity_open(key, BLOCK);
	if (!integrity)
		exit(1);
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t began = uv_hrtime();
		integrity_seal(integrity, plain, BLOCKS, key ? sealed : plain, contexts);
		uint64_t done = uv_hrtime();
		for (unsigned i = 0; i < BLOCKS; i++)
			read_contexts[i] = (struct crucible_read_context){
				.kind = key ? CRUCIBLE_BLOCK_ENCRYPTED : CRUCIBLE_BLOCK_UNENCRYPTED,
				.hash = contexts[i].hash,
				.encryption = contexts[i].encryption,
			};
		struct crucible_message response = { .type = CRUCIBLE_READ_RESPONSE };
		response.read_response.contexts.items = read_contexts;
		response.read_response.contexts.count = BLOCKS;
		response.read_response.data = (struct crucible_data){ key ? sealed : plain, LENGTH };
		uint64_t again = uv_hrtime();
		if (integrity_take(integrity, &response, opened) < 0)
			exit(1);
		sealing[round] = (double)(done - began) / 1e3;
		opening[round] = (double)(uv_hrtime() - again) / 1e3;
	}
	show(names[0], sealing);
	show(names[1], opening);
	integrity_close(integrity);
}

static double processor_microseconds(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
		(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void work(uv_work_t *work)
{
	(void)work;
}

static void on_worked(uv_work_t *work, int status)
{
	(void)work;
	(void)status;
}

int main(void)
{
	static const char *const plain_names[] = { "hash (XXH64)", "check and copy" };
	static const char *const encrypted_names[] = { "encrypt (GCM-SIV) and hash", "decrypt" };
	static double handing[ROUNDS];
	uint8_t key[INTEGRITY_KEY_SIZE] = { 1 };
	uv_loop_t loop;
	memset(plain, 7, sizeof plain);
	measure(NULL, plain_names);
	measure(key, encrypted_names);
	uv_loop_init(&loop);
	double before = 0;
	for (unsigned round = 0; round < ROUNDS; round++) {
		uv_work_t item;
		if (round == 1) /* the threads have begun */
			before = processor_microseconds();
		uint64_t began = uv_hrtime();
		uv_queue_work(&loop, &item, work, on_worked);
		uv_run(&loop, UV_RUN_DEFAULT);
		handing[round] = (double)(uv_hrtime() - began) / 1e3;
	}
	double used = (processor_microseconds() - before) / (ROUNDS - 1);
	printf("%-28s %6.2f us, %.2f us of processor\n", "to a thread and back", median(handing), used);
	return 0;
}
