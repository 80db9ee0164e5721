/* command-dump.c: what lies in the directories of regions, compared; and checked against hashes. */
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "region.h"
#include "store-files.h"

enum { REGIONS_MAX = 3 };

struct dumped {
	struct crucible_region definition;
	struct disk *disk;
	struct region region;
};

static void open_dumped(struct dumped *dumped, const char *directory)
{
	struct store *store = store_open(directory, true, false, &dumped->definition);
	dumped->disk = disk_open(&dumped->definition, store);
	if (region_open(&dumped->region, dumped->disk, true) != OUTCOME_DONE) {
		char text[160];
		crucible_error_text(&dumped->region.error, text, sizeof text);
		errx(1, "%s: %s", directory, text);
	}
}

static void close_dumped(struct dumped *dumped)
{
	region_close(&dumped->region);
	disk_free(dumped->disk);
}

static bool all_zero(const uint8_t *data, uint64_t size)
{
	return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Blocks that were never written are equal to zeros without a context. */
static bool same_block(const struct dumped *a, const struct dumped *b, uint64_t block)
{
	struct stored_context left, right;
	const uint8_t *left_data = region_peek(&a->region, block, &left);
	const uint8_t *right_data = region_peek(&b->region, block, &right);
	uint64_t size = a->definition.block_size;
	return left.is_set == right.is_set && left.context.hash == right.context.hash &&
		   memcmp(left_data, right_data, size) == 0;
}

static void print_versions(const struct dumped *dumped, uint32_t extent_id)
{
	struct versions versions = disk_versions(dumped->disk, extent_id);
	printf("  %llu/%llu%s", (unsigned long long)versions.generation,
		(unsigned long long)versions.flush_number, versions.dirty ? " dirty" : "");
}

static bool same_versions(const struct dumped *a, const struct dumped *b, uint32_t extent_id)
{
	struct versions left = disk_versions(a->disk, extent_id);
	struct versions right = disk_versions(b->disk, extent_id);
	return left.generation == right.generation && left.flush_number == right.flush_number &&
		   left.dirty == right.dirty;
}

/* One line for an extent. Returns whether all are equal. */
static bool dump_extent(const struct dumped *all, int count, uint32_t extent_id, bool with_data)
{
	bool is_same = true;
	uint64_t extent_size = all->definition.extent_size;
	printf("extent %u:", (unsigned)extent_id);
	for (int i = 0; i < count; i++) {
		print_versions(&all[i], extent_id);
		is_same = is_same && same_versions(&all[0], &all[i], extent_id);
	}
	if (!is_same)
		printf("  versions differ");
	for (uint64_t block = 0; with_data && block < extent_size; block++) {
		bool is_same_block = true;
		for (int i = 1; i < count; i++)
			is_same_block = is_same_block &&
							same_block(&all[0], &all[i], extent_id * extent_size + block);
		if (!is_same_block)
			printf("  block %llu differs", (unsigned long long)block);
		is_same = is_same && is_same_block;
	}
	puts("");
	return is_same;
}

static bool same_shape(const struct dumped *a, const struct dumped *b)
{
	return a->definition.block_size == b->definition.block_size &&
		   a->definition.extent_size == b->definition.extent_size &&
		   a->definition.extent_count == b->definition.extent_count;
}

/* The directories that are asked for; their number. */
static int parse(int argc, char **argv, const char **directories, bool *with_data)
{
	static const struct option known[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "data", no_argument, NULL, 'a' },
		{ 0 },
	};
	int option, count = 0;
	while ((option = getopt_long(argc, argv, "", known, NULL)) >= 0) {
		if (option == 'd' && count < REGIONS_MAX)
			directories[count++] = optarg;
		else if (option == 'a')
			*with_data = true;
		else
			errx(2, "more than %d directories, or an unknown option", REGIONS_MAX);
	}
	if (count == 0)
		errx(2, "--dir is missing");
	return count;
}

int command_dump(int argc, char **argv)
{
	struct dumped all[REGIONS_MAX];
	const char *directories[REGIONS_MAX];
	bool with_data = false;
	unsigned differing = 0;
	int count = parse(argc, argv, directories, &with_data);
	for (int i = 0; i < count; i++) {
		open_dumped(&all[i], directories[i]);
		if (!same_shape(&all[0], &all[i]))
			errx(1, "%s: a region of another shape", directories[i]);
	}
	for (uint32_t i = 0; i < all->definition.extent_count; i++)
		differing += !dump_extent(all, count, i, with_data);
	printf("%u extents, %u differ\n", (unsigned)all->definition.extent_count, differing);
	for (int i = 0; i < count; i++)
		close_dumped(&all[i]);
	return differing > 0;
}

int command_verify(int argc, char **argv)
{
	struct dumped dumped;
	const char *directories[REGIONS_MAX];
	bool with_data;
	unsigned bad = 0;
	parse(argc, argv, directories, &with_data);
	open_dumped(&dumped, directories[0]);
	uint64_t size = dumped.definition.block_size;
	for (uint64_t block = 0; block < dumped.region.block_count; block++) {
		struct stored_context stored;
		const uint8_t *data = region_peek(&dumped.region, block, &stored);
		bool is_good = stored.is_set
						   ? image_block_hash(&stored.context, data, size) == stored.context.hash
						   : all_zero(data, size);
		if (!is_good)
			fprintf(stderr, "block %llu does not fit its hash\n", (unsigned long long)block);
		bad += !is_good;
	}
	close_dumped(&dumped);
	return bad > 0;
}
