/* fuzz-config: tb4.conf, a volume file, a claim record or a size, as the first byte says. What is read
 * from a valid file and written must be read the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"
#include "volume/record.h"
#include "volume/volume.h"

static int read_settings(const struct setting *table, size_t count, const struct setting_group *group,
	const uint8_t *data, size_t size, void *target)
{
	char path[32];
	struct faults faults = { 0 };
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int status = settings_read_with_group(table, count, group, path, target, &faults);
	if ((status != 0) != (faults.count > 0))
		abort();
	faults_free(&faults);
	close(fd);
	return status;
}

static void fuzz_settings(const struct setting *table, size_t count, const struct setting_group *group,
	size_t target_size, const uint8_t *data, size_t size)
{
	void *first = calloc(1, target_size), *second = calloc(1, target_size);
	char *text[2] = { NULL, NULL };
	size_t length[2];
	FILE *out = open_memstream(&text[0], &length[0]);
	if (read_settings(table, count, group, data, size, first) == 0 &&
		settings_write(table, count, first, out) == 0) {
		fflush(out);
		FILE *again = open_memstream(&text[1], &length[1]);
		if (read_settings(table, count, group, (const uint8_t *)text[0], length[0], second) != 0 ||
			settings_write(table, count, second, again) != 0)
			abort();
		fclose(again);
		if (length[0] != length[1] || memcmp(text[0], text[1], length[0]) != 0)
			abort();
	}
	fclose(out);
	settings_free(table, count, first);
	settings_free(table, count, second);
	if (group)
		settings_free_group(group, first);
	free(first);
	free(second);
	free(text[0]);
	free(text[1]);
}

static void fuzz_record(const uint8_t *data, size_t size)
{
	struct record record, again;
	const char *wrong;
	if (record_decode((const char *)data, size, &record, &wrong) < 0)
		return;
	char *text = record_encode(&record);
	if (!text || record_decode(text, strlen(text), &again, &wrong) < 0 ||
		memcmp(&record, &again, sizeof record) != 0)
		abort();
	free(text);
}

static void fuzz_text(const uint8_t *data, size_t size)
{
	char text[256], formatted[SIZE_TEXT_MAX];
	uint64_t bytes, again;
	struct volume_name name;
	if (size >= sizeof text)
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	if (size_parse(text, &bytes) == 0 &&
		(size_parse(size_format(bytes, formatted), &again) < 0 || again != bytes))
		abort();
	volume_name_parse(text, &name);
	vmid_parse(text, &bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	switch (data[0] % 4) {
	case 0:
		fuzz_settings(config_table, config_table_size, &config_sleds, sizeof(struct config), data + 1, size - 1);
		break;
	case 1:
		fuzz_settings(volume_table, volume_table_size, NULL, sizeof(struct volume), data + 1, size - 1);
		break;
	case 2:
		fuzz_record(data + 1, size - 1);
		break;
	case 3:
		fuzz_text(data + 1, size - 1);
		break;
	}
	return 0;
}
