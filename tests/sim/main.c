/* tb4-sim: the upstairs core in a simulated world (design section 9).
 *
 *   tb4-sim --seeds FROM COUNT [--verbose]   runs COUNT seeds; prints what was covered
 *   tb4-sim --seed N [--verbose]             runs one seed, with --verbose a line per event
 *
 *   tb4-sim --trace NAME [--verbose]         runs a trace: a letter of design section 6, or another one
 *   tb4-sim --traces                         prints their names
 *
 * Exit status 1 and the command that replays it at the first violation.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

static volatile uint64_t current;

__attribute__((unused)) static void crash(int number)
{
	printf("violation: signal %d\nreplay with: tb4-sim --seed %llu --verbose\n", number, (unsigned long long)current);
	fflush(stdout);
	_Exit(1);
}

static bool run(uint64_t seed, bool is_verbose)
{
	static struct world world;
	current = seed;
	world_open(&world, seed, is_verbose);
	schedule_run(&world);
	bool is_good = !world.violation[0];
	if (!is_good)
		printf("violation: %s\nreplay with: tb4-sim --seed %llu --verbose\n", world.violation,
			(unsigned long long)seed);
	world_close(&world);
	return is_good;
}

static int usage(void)
{
	fprintf(stderr, "usage: tb4-sim --seeds FROM COUNT [--verbose]\n       tb4-sim --seed N [--verbose]\n"
					"       tb4-sim --trace NAME [--verbose]\n       tb4-sim --traces\n");
	return 64;
}

int main(int argc, char **argv)
{
	uint64_t from = 0, count = 0;
	bool is_verbose = false, goes_on = false, has_table = true;
	uint64_t violations = 0;
	const char *trace_name = NULL;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--seeds") == 0 && i + 2 < argc) {
			from = strtoull(argv[++i], NULL, 10);
			count = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
			from = strtoull(argv[++i], NULL, 10);
			count = 1;
			has_table = false;
		} else if (strcmp(argv[i], "--trace") == 0 && i + 1 < argc) {
			trace_name = argv[++i];
		} else if (strcmp(argv[i], "--traces") == 0) {
			traces_list();
			return 0;
		} else if (strcmp(argv[i], "--verbose") == 0) {
			is_verbose = true;
		} else if (strcmp(argv[i], "--keep-going") == 0) {
			goes_on = true;
		} else {
			return usage();
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (trace_name)
		return traces_run(trace_name, is_verbose);
	if (count == 0)
		return usage();
#ifndef __SANITIZE_ADDRESS__
	signal(SIGSEGV, crash);
	signal(SIGABRT, crash);
#endif
	for (uint64_t i = 0; i < count; i++) {
		if (run(from + i, is_verbose))
			continue;
		violations++;
		if (!goes_on)
			break;
	}
	if (has_table)
		coverage_print();
	printf("%llu seeds, %llu violations\n", (unsigned long long)count, (unsigned long long)violations);
	return violations > 0;
}
