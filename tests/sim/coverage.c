#include "coverage.h"

#include <stdio.h>

uint64_t covered[COVERAGE_COUNT];

void coverage_print(void)
{
#define COVERAGE_TEXT(id, text) text,
	static const char *const texts[] = { COVERAGE(COVERAGE_TEXT) };
	for (unsigned i = 0; i < COVERAGE_COUNT; i++)
		printf("%12llu  %s\n", (unsigned long long)covered[i], texts[i]);
}
