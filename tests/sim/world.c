#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

uint64_t random_below(struct world *world, uint64_t limit)
{
	uint64_t z = world->random += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return z % limit;
}

bool chance(struct world *world, unsigned percent)
{
	return random_below(world, 100) < percent;
}

void trace(struct world *world, const char *format, ...)
{
	va_list args;
	if (!world->is_verbose)
		return;
	printf("%7llu %8llu ms  ", (unsigned long long)world->event, (unsigned long long)world->now);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

void violation(struct world *world, const char *format, ...)
{
	va_list args;
	if (world->violation[0])
		return;
	va_start(args, format);
	vsnprintf(world->violation, sizeof world->violation, format, args);
	va_end(args);
	trace(world, "VIOLATION: %s", world->violation);
}

void world_open(struct world *world, uint64_t seed, bool is_verbose)
{
	memset(world, 0, sizeof *world);
	world->seed = seed;
	world->random = seed * UINT64_C(0xd1342543de82ef95) + 1;
	world->is_verbose = is_verbose;
	world->now = 1000;
	world->min_copies = 2;
	world->region = (struct crucible_region){
		.block_size = BLOCK,
		.block_shift = 9,
		.extent_size = 2 + random_below(world, 3),
		.extent_count = (uint32_t)(2 + random_below(world, 2)),
		.database_read_version = 1,
		.database_write_version = 1,
	};
	world->blocks = world->region.extent_size * world->region.extent_count;
	world->area_size = 6000 + random_below(world, 2) * random_below(world, 60000);
	world->allocations_until_failure = -1;
	world->checker = checker_new(world->blocks);
	world->stored.last_generation = 1 + random_below(world, 5);
	for (unsigned i = 0; i < SLEDS; i++)
		sled_open(world, i);
	for (unsigned i = 0; i < HOSTS; i++)
		host_open(world, i);
}

void world_close(struct world *world)
{
	for (unsigned i = 0; i < HOSTS; i++)
		host_close(world, i);
	for (unsigned i = 0; i < SLEDS; i++)
		sled_close(&world->sleds[i]);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (world->connections[i].is_used)
			network_free(&world->connections[i]);
	}
	checker_free(world->checker);
}
