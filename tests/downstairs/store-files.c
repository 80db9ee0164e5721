/* store-files.c: see store-files.h. */
#include "store-files.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "extent-image.h"
#include "memory.h"
#include "region-json.h"

enum { EXIT_STORE = 1, PATH_SIZE = 4096, JSON_SIZE = 4096 };

struct file_store {
	struct store store;
	uint32_t extent_count;
	uint64_t image_size;
	bool really_syncs;
	uint8_t **images; /* to be read */
	int *descriptors; /* to be written */
};

static uint8_t *file_image(struct store *store, uint32_t extent_id, bool create)
{
	(void)create;
	return ((struct file_store *)store)->images[extent_id];
}

static void file_put(struct store *store, uint32_t extent_id, uint64_t at, const void *bytes, uint64_t size)
{
	const struct file_store *files = (struct file_store *)store;
	if (pwrite(files->descriptors[extent_id], bytes, size, (off_t)at) != (ssize_t)size)
		err(EXIT_STORE, "extent %u", (unsigned)extent_id);
}

static int file_sync(struct store *store, uint32_t extent_id)
{
	struct file_store *files = (struct file_store *)store;
	if (!files->really_syncs)
		return 0;
	return msync(files->images[extent_id], files->image_size, MS_SYNC) < 0 ? -errno : 0;
}

static void file_close(struct store *store)
{
	struct file_store *files = (struct file_store *)store;
	for (uint32_t i = 0; i < files->extent_count; i++) {
		munmap(files->images[i], files->image_size);
		close(files->descriptors[i]);
	}
	free(files->images);
	free(files->descriptors);
	free(files);
}

/* Writes the path; with `make`, its directories are made. */
static void extent_path(char *path, const char *directory, uint32_t extent_id, bool make)
{
	unsigned high = extent_id >> 24, middle = extent_id >> 12 & 0xfff, low = extent_id & 0xfff;
	snprintf(path, PATH_SIZE, "%s/%02X", directory, high);
	if (make && mkdir(path, 0755) < 0 && errno != EEXIST)
		err(EXIT_STORE, "%s", path);
	snprintf(path, PATH_SIZE, "%s/%02X/%03X", directory, high, middle);
	if (make && mkdir(path, 0755) < 0 && errno != EEXIST)
		err(EXIT_STORE, "%s", path);
	snprintf(path, PATH_SIZE, "%s/%02X/%03X/%03X", directory, high, middle, low);
}

static void create_extent(const char *path, const struct image_layout *layout)
{
	uint8_t meta[IMAGE_META_SIZE];
	image_put_versions(meta, &(struct versions){ 0 });
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || ftruncate(fd, (off_t)layout->size) < 0 ||
		pwrite(fd, meta, sizeof meta, (off_t)layout->meta) != sizeof meta)
		err(EXIT_STORE, "%s", path);
	close(fd);
}

void store_create(const char *directory, const struct crucible_region *region)
{
	char path[PATH_SIZE];
	struct image_layout layout = image_layout(region->block_size, region->extent_size);
	if (mkdir(directory, 0755) < 0 && errno != EEXIST)
		err(EXIT_STORE, "%s", directory);
	snprintf(path, sizeof path, "%s/region.json", directory);
	if (access(path, F_OK) == 0)
		errx(EXIT_STORE, "%s: there is a region already", path);
	for (uint32_t i = 0; i < region->extent_count; i++) {
		char extent[PATH_SIZE];
		extent_path(extent, directory, i, true);
		create_extent(extent, &layout);
	}
	char *json = region_to_json(region);
	FILE *file = fopen(path, "wex");
	if (!file || fputs(json, file) < 0 || fclose(file) != 0)
		err(EXIT_STORE, "%s", path);
	free(json);
}

static void read_definition(const char *directory, struct crucible_region *region)
{
	char path[PATH_SIZE], json[JSON_SIZE];
	snprintf(path, sizeof path, "%s/region.json", directory);
	FILE *file = fopen(path, "re");
	if (!file)
		err(EXIT_STORE, "%s", path);
	json[fread(json, 1, sizeof json - 1, file)] = '\0';
	fclose(file);
	const char *wrong = region_from_json(json, region);
	if (wrong)
		errx(EXIT_STORE, "%s: %s", path, wrong);
}

static uint8_t *map_extent(const char *path, const struct image_layout *layout, bool read_only, int *descriptor)
{
	struct stat status;
	int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		err(EXIT_STORE, "%s", path);
	if ((uint64_t)status.st_size != layout->size)
		errx(EXIT_STORE, "%s: not an extent of this region", path);
	uint8_t *image = mmap(
		NULL, layout->size, PROT_READ | (read_only ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);
	if (image == MAP_FAILED)
		err(EXIT_STORE, "%s", path);
	*descriptor = fd;
	if (image_version(image + layout->meta) != IMAGE_VERSION)
		errx(EXIT_STORE, "%s: of an unknown version", path);
	return image;
}

struct store *store_open(
	const char *directory, bool read_only, bool really_syncs, struct crucible_region *region)
{
	read_definition(directory, region);
	struct image_layout layout = image_layout(region->block_size, region->extent_size);
	struct file_store *files = zeroed(1, sizeof *files);
	*files = (struct file_store){
		.store = { .image = file_image, .put = file_put, .sync = file_sync, .close = file_close },
		.extent_count = region->extent_count,
		.image_size = layout.size,
		.really_syncs = really_syncs,
		.images = zeroed(region->extent_count, sizeof *files->images),
		.descriptors = zeroed(region->extent_count, sizeof *files->descriptors),
	};
	for (uint32_t i = 0; i < region->extent_count; i++) {
		char path[PATH_SIZE];
		extent_path(path, directory, i, false);
		files->images[i] = map_extent(path, &layout, read_only, &files->descriptors[i]);
	}
	return &files->store;
}
