#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "unit.h"

enum { PATHS = 16, MAPPINGS = 8 };

static char directory[64];
static struct {
	void *address;
	size_t size;
} mappings[MAPPINGS];

int scratch_setup(void **state)
{
	(void)state;
	const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(directory, sizeof directory, "%s/tb4-unit-XXXXXX", base);
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)st;
	(void)kind;
	(void)where;
	return remove(path);
}

int scratch_teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < MAPPINGS; i++) {
		if (mappings[i].address)
			munmap(mappings[i].address, mappings[i].size);
		mappings[i].address = NULL;
	}
	return nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *in_scratch(const char *name)
{
	static char paths[PATHS][512];
	static size_t next;
	char *path = paths[next++ % PATHS];
	snprintf(path, sizeof paths[0], "%s%s%s", directory, name[0] ? "/" : "", name);
	return path;
}

struct config scratch_config(const char *node)
{
	static char run[128], volumes[128], claims[128], data[128], names[4][300];
	static size_t next;
	char *name = names[next++ % 4];
	snprintf(run, sizeof run, "%s/run", directory);
	snprintf(volumes, sizeof volumes, "%s/volumes", directory);
	snprintf(claims, sizeof claims, "%s/claims", directory);
	snprintf(data, sizeof data, "%s/data", directory);
	snprintf(name, sizeof names[0], "%s", node);
	return (struct config){
		.run_dir = run,
		.volume_dir = volumes,
		.claim_dir = claims,
		.data_dir = data,
		.node_name = name,
	};
}

/* files */

void put_bytes_in(const char *path, const void *bytes, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, bytes, length) != (ssize_t)length)
		fail_msg("%s: %s", path, strerror(errno));
	close(fd);
}

void put_text_in(const char *path, const char *text)
{
	put_bytes_in(path, text, strlen(text));
}

char *get_bytes_of(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	char *bytes = malloc((size_t)st.st_size + 1);
	if (!bytes || read(fd, bytes, (size_t)st.st_size) != st.st_size)
		fail_msg("%s: cannot be read", path);
	close(fd);
	bytes[st.st_size] = '\0';
	if (length)
		*length = (size_t)st.st_size;
	return bytes;
}

bool exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

/* processes */

pid_t start_child(int (*body)(void *context), void *context)
{
	fflush(NULL);
	pid_t child = fork();
	if (child < 0)
		fail_msg("fork: %s", strerror(errno));
	if (child == 0)
		_exit(body(context));
	return child;
}

int await_child(pid_t child, unsigned seconds)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	time_t deadline = now.tv_sec + seconds;
	int status;
	bool is_late = false;
	while (waitpid(child, &status, WNOHANG) == 0) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (!is_late && now.tv_sec > deadline) {
			kill(child, SIGKILL);
			is_late = true;
		}
		nanosleep(&nap, NULL);
	}
	if (is_late)
		return ENDED_NOT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : ENDED_BADLY;
}

int in_child(int (*body)(void *context), void *context, unsigned seconds)
{
	return await_child(start_child(body, context), seconds);
}

void *shared_memory(size_t size)
{
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < MAPPINGS && address != MAP_FAILED; i++) {
		if (!mappings[i].address) {
			mappings[i].address = address;
			mappings[i].size = size;
			return address;
		}
	}
	fail_msg("no shared memory");
	return NULL;
}

/* random numbers: splitmix64 */

uint64_t random_next(struct random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t random_below(struct random *random, uint64_t limit)
{
	return random_next(random) % limit;
}
