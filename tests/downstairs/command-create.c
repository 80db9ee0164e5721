/* command-create.c: makes the directory of a fresh region. */
#include <err.h>
#include <getopt.h>
#include <stdlib.h>
#include <uuid/uuid.h>

#include "commands.h"
#include "region-json.h"
#include "store-files.h"

int command_create(int argc, char **argv)
{
	static const struct option known[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "block-size", required_argument, NULL, 'b' },
		{ "extent-size", required_argument, NULL, 's' },
		{ "extent-count", required_argument, NULL, 'c' },
		{ "uuid", required_argument, NULL, 'u' },
		{ "encrypted", no_argument, NULL, 'e' },
		{ 0 },
	};
	struct crucible_region region = {
		.block_size = 4096,
		.extent_size = 100,
		.extent_count = 15,
		.database_read_version = 1,
		.database_write_version = 1,
	};
	const char *directory = NULL;
	int option;
	uuid_generate(region.uuid.bytes);
	while ((option = getopt_long(argc, argv, "d:u:", known, NULL)) >= 0) {
		switch (option) {
		case 'd':
			directory = optarg;
			break;
		case 'b':
			region.block_size = strtoull(optarg, NULL, 10);
			break;
		case 's':
			region.extent_size = strtoull(optarg, NULL, 10);
			break;
		case 'c':
			region.extent_count = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'u':
			if (uuid_parse(optarg, region.uuid.bytes) < 0)
				errx(2, "%s: no UUID", optarg);
			break;
		case 'e':
			region.encrypted = true;
			break;
		default:
			return 2;
		}
	}
	while (region.block_shift < 63 && UINT64_C(1) << region.block_shift < region.block_size)
		region.block_shift++;
	const char *wrong = directory ? region_check(&region) : "--dir is missing";
	if (wrong)
		errx(2, "%s", wrong);
	store_create(directory, &region);
	return 0;
}
