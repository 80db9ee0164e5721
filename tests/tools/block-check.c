#include "block-check.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* In the file. */
struct state {
	uint64_t block_size, block_count, last_version;
	struct {
		uint64_t oldest, newest; /* versions that the block may hold */
	} blocks[];
};

struct block_check {
	struct state *state;
	size_t size;
	bool *is_written; /* by block: a write is under way */
	uint32_t *writes; /* by block: begun by this process */
};

static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

/* The first word is the version, so that what is found can be named. */
static uint64_t word_of(uint64_t block, uint64_t version, uint64_t index)
{
	if (version == 0 || index == 0)
		return version;
	return mix(version * UINT64_C(0x9e3779b97f4a7c15) + block) + index * UINT64_C(0xd1342543de82ef95);
}

static void make_block(uint64_t block, uint64_t version, uint8_t *bytes, uint64_t size)
{
	for (uint64_t i = 0; i < size / 8; i++) {
		uint64_t word = word_of(block, version, i);
		memcpy(bytes + 8 * i, &word, 8);
	}
}

static bool is_block(uint64_t block, uint64_t version, const uint8_t *bytes, uint64_t size)
{
	for (uint64_t i = 0; i < size / 8; i++) {
		uint64_t word = word_of(block, version, i);
		if (memcmp(bytes + 8 * i, &word, 8) != 0)
			return false;
	}
	return true;
}

static struct state *map(const char *path, size_t size, bool *is_new)
{
	struct stat stat;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return NULL;
	bool fits = fstat(fd, &stat) == 0 && (stat.st_size == 0 || stat.st_size == (off_t)size);
	*is_new = fits && stat.st_size == 0;
	void *memory = MAP_FAILED;
	if (fits && (!*is_new || ftruncate(fd, (off_t)size) == 0))
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return memory == MAP_FAILED ? NULL : memory;
}

struct block_check *block_check_open(const char *path, uint64_t block_size, uint64_t block_count)
{
	struct block_check *check = calloc(1, sizeof *check);
	bool is_new = false;
	if (!check)
		return NULL;
	check->size = sizeof *check->state + block_count * sizeof check->state->blocks[0];
	check->is_written = calloc(block_count, sizeof *check->is_written);
	check->writes = calloc(block_count, sizeof *check->writes);
	if (check->is_written && check->writes)
		check->state = map(path, check->size, &is_new);
	if (check->state && is_new) {
		check->state->block_size = block_size;
		check->state->block_count = block_count;
	}
	if (check->state && check->state->block_size == block_size && check->state->block_count == block_count)
		return check;
	block_check_close(check);
	return NULL;
}

void block_check_close(struct block_check *check)
{
	if (!check)
		return;
	if (check->state)
		munmap(check->state, check->size);
	free(check->is_written);
	free(check->writes);
	free(check);
}

bool block_check_write(struct block_check *check, uint64_t start, uint64_t count, void *buffer)
{
	uint64_t size = check->state->block_size;
	for (uint64_t i = start; i < start + count; i++) {
		if (check->is_written[i])
			return false;
	}
	uint64_t version = ++check->state->last_version;
	for (uint64_t i = 0; i < count; i++) {
		check->is_written[start + i] = true;
		check->writes[start + i]++;
		check->state->blocks[start + i].newest = version;
		make_block(start + i, version, (uint8_t *)buffer + i * size, size);
	}
	return true;
}

void block_check_written(struct block_check *check, uint64_t start, uint64_t count)
{
	for (uint64_t i = start; i < start + count; i++) {
		check->is_written[i] = false;
		check->state->blocks[i].oldest = check->state->blocks[i].newest;
	}
}

void block_check_begin_read(
	const struct block_check *check, uint64_t start, uint64_t count, struct block_check_read *read)
{
	for (uint64_t i = 0; i < count; i++) {
		read->oldest[i] = check->state->blocks[start + i].oldest;
		read->writes[i] = check->writes[start + i];
		read->is_quiet[i] = !check->is_written[start + i];
	}
}

/* What is wrong with it; NULL if nothing is. */
static const char *fault_of(const struct block_check *check, uint64_t block, uint64_t oldest, const uint8_t *bytes)
{
	uint64_t version;
	memcpy(&version, bytes, sizeof version);
	if (!is_block(block, version, bytes, check->state->block_size))
		return "not what any write was";
	if (version < oldest)
		return "older than what was acknowledged or seen";
	return version > check->state->blocks[block].newest ? "what was settled as never written" : NULL;
}

unsigned block_check_end_read(struct block_check *check, uint64_t start, uint64_t count, const void *buffer,
	const struct block_check_read *read)
{
	unsigned wrong = 0;
	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *bytes = (const uint8_t *)buffer + i * check->state->block_size;
		uint64_t block = start + i, version;
		const char *fault = fault_of(check, block, read->oldest[i], bytes);
		memcpy(&version, bytes, sizeof version);
		if (fault) {
			fprintf(stderr, "block %" PRIu64 " holds version %" PRIu64 ", may hold %" PRIu64 " to %" PRIu64 ": %s\n",
				block, version, read->oldest[i], check->state->blocks[block].newest, fault);
			wrong++;
			continue;
		}
		if (version > check->state->blocks[block].oldest)
			check->state->blocks[block].oldest = version;
		if (read->is_quiet[i] && check->writes[block] == read->writes[i])
			check->state->blocks[block].newest = version; /* nothing was under way that could come yet */
	}
	return wrong;
}
