#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "durable-file.h"
#include "scratch.h"
#include "unit.h"
#include "volume/volume.h"

static struct config config;
static struct faults faults;

static int setup(void **state)
{
	int status = scratch_setup(state);
	config = scratch_config("node-a");
	faults = (struct faults){ 0 };
	return status < 0 ? status : mkdir(config.volume_dir, 0700);
}

static int teardown(void **state)
{
	faults_free(&faults);
	return scratch_teardown(state);
}

static const char *volume_file(const char *name)
{
	char path[128];
	snprintf(path, sizeof path, "volumes/%s.conf", name);
	return in_scratch(path);
}

static void put_volume(const char *name, const char *text)
{
	put_text_in(volume_file(name), text);
}

#define GOOD "[volume]\nbackend = file\nsize = 1M\nhost = node-a\n"

/* names */

static void every_kind_of_name_is_taken_apart(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		uint64_t vmid;
		bool is_disk;
		unsigned disk;
	} good[] = {
		{ "vm-200-disk-0", 200, true, 0 },
		{ "vm-200-disk-9", 200, true, 9 },
		{ "vm-200-disk-10", 200, true, 10 },
		{ "vm-200-disk-9999", 200, true, 9999 },
		{ "vm-100-disk-0", 100, true, 0 },
		{ "vm-999999999-disk-1", 999999999, true, 1 },
		{ "base-200-disk-0", 200, true, 0 },
		{ "base-101-disk-3", 101, true, 3 },
		{ "vm-200-cloudinit", 200, false, 0 },
		{ "vm-200-fleece-0", 200, false, 0 },
		{ "vm-200-fleece-12", 200, false, 0 },
		{ "vm-200-state-before", 200, false, 0 },
		{ "vm-200-state-a", 200, false, 0 },
		{ "vm-200-state-Snap_1-x", 200, false, 0 },
		{ "vm-999999999-state-abcdefghijabcdefghijabcdefghijabcdefghij", 999999999, false, 0 },
	};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		struct volume_name parsed;
		if (volume_name_parse(good[i].name, &parsed) != 0)
			fail_msg("%s is refused", good[i].name);
		assert_int_equal(parsed.vmid, good[i].vmid);
		assert_int_equal(parsed.is_disk, good[i].is_disk);
		assert_int_equal(parsed.disk, good[i].disk);
	}
}

static void what_is_no_name_of_a_volume_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "vm", "vm-", "vm-200", "vm-200-", "vm-200-disk",
		"vm-200-disk-", "vm-200-disk-x", "vm-200-disk-0x", "vm-200-disk-00", "vm-200-disk-01",
		"vm-200-disk--1", "vm-200-disk-+1", "vm-200-disk- 1", "vm-200-disk-0 ", " vm-200-disk-0",
		"vm-200-disk-10000", "vm-200-disk-18446744073709551616", "vm-200-disk-0/",
		"vm-200-disk-0/../x", "../vm-200-disk-0", "/vm-200-disk-0", "vm-200-disk-0.raw",
		"vm-200-disk-0\n", "VM-200-disk-0", "vm-200-Disk-0", "vm-99-disk-0", "vm-0-disk-0",
		"vm-1000000000-disk-0", "vm-0200-disk-0", "vm--200-disk-0", "vm-+200-disk-0",
		"vm-0x64-disk-0", "vm-4294967496-disk-0", "vm-18446744073709551816-disk-0",
		"base-200-cloudinit", "base-200-fleece-0", "base-200-state-x", "base-200",
		"vm-200-cloudinit-0", "vm-200-cloudinit0", "vm-200-fleece", "vm-200-fleece-",
		"vm-200-fleece-x", "vm-200-state", "vm-200-state-", "vm-200-state-1a", "vm-200-state-_a",
		"vm-200-state--a", "vm-200-state-a.b", "vm-200-state-a/b", "vm-200-state-\xc3\xa4",
		"vm-200-state-a b", "disk-0", "subvol-200-disk-0",
		"vm-200-state-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct volume_name parsed;
		if (volume_name_parse(bad[i], &parsed) != -EINVAL)
			fail_msg("\"%s\" is taken for a volume", bad[i]);
	}
}

static void the_longest_name_is_one_byte_below_its_buffer(void **state)
{
	(void)state;
	char name[VOLUME_NAME_MAX + 1] = "vm-200-state-";
	struct volume_name parsed;
	memset(name + strlen(name), 'a', VOLUME_NAME_MAX - 1 - strlen(name));
	assert_int_equal(strlen(name), VOLUME_NAME_MAX - 1);
	assert_int_equal(volume_name_parse(name, &parsed), 0);
	strcat(name, "a");
	assert_int_equal(volume_name_parse(name, &parsed), -EINVAL);
}

static void the_name_of_a_disk_is_parsed_to_the_same(void **state)
{
	(void)state;
	static const uint64_t vmids[] = { VMID_MIN, 200, 299, VMID_MAX };
	for (size_t i = 0; i < sizeof vmids / sizeof vmids[0]; i++) {
		for (unsigned disk = 0; disk <= 9999; disk += 101) {
			char name[VOLUME_NAME_MAX];
			struct volume_name parsed;
			volume_name_of_disk(vmids[i], disk, name);
			assert_int_equal(volume_name_parse(name, &parsed), 0);
			assert_int_equal(parsed.vmid, vmids[i]);
			assert_int_equal(parsed.disk, disk);
		}
	}
}

static void numbers_of_vms_are_those_of_proxmox(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "0", "99", "1000000000", "0100", "+200", "-200", " 200",
		"200 ", "2e2", "0xc8", "200x", "4294967496", "18446744073709551816" };
	uint64_t vmid;
	assert_int_equal(vmid_parse("100", &vmid), 0);
	assert_int_equal(vmid, 100);
	assert_int_equal(vmid_parse("999999999", &vmid), 0);
	assert_int_equal(vmid, 999999999);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (vmid_parse(bad[i], &vmid) != -EINVAL)
			fail_msg("\"%s\" is taken for a VM", bad[i]);
	}
}

/* one file */

static int read_volume(const char *name, struct volume *volume)
{
	faults_free(&faults);
	return volume_read(&config, name, volume, &faults);
}

static void a_small_file_is_enough(void **state)
{
	(void)state;
	struct volume volume;
	put_volume("vm-200-disk-1", GOOD);
	assert_int_equal(read_volume("vm-200-disk-1", &volume), 0);
	assert_string_equal(volume.name, "vm-200-disk-1");
	assert_string_equal(volume.path, volume_file("vm-200-disk-1"));
	assert_int_equal(volume.parsed.vmid, 200);
	assert_int_equal(volume.parsed.disk, 1);
	assert_int_equal(volume.backend, VOLUME_BACKEND_FILE);
	assert_int_equal(volume.size, 1 << 20);
	assert_string_equal(volume.host, "node-a");
	assert_null(volume.description);
	assert_false(volume.read_only);
	assert_int_equal(volume.nbd_port, 0);
	assert_int_equal(volume.device, 0);
	assert_string_equal(volume.image, in_scratch("data/vm-200-disk-1.raw"));
	volume_free(&volume);
}

static struct volume new_volume(const char *name, uint64_t size)
{
	struct volume volume = { 0 };
	assert_int_equal(settings_default(volume_table, volume_table_size, &volume), 0);
	volume.size = size;
	volume.host = strdup("node-a");
	snprintf(volume.name, sizeof volume.name, "%s", name);
	assert_int_equal(volume_name_parse(name, &volume.parsed), 0);
	return volume;
}

static void what_is_written_is_read_back(void **state)
{
	(void)state;
	struct reason reason;
	struct volume volume = new_volume("vm-300-disk-2", 528 << 10), back;
	volume.description = strdup("the EFI disk = \"small\" # of \xc3\xa4");
	volume.read_only = true;
	volume.nbd_port = 20000;
	volume.device = 101;
	volume.image = strdup("/some where/image.raw");
	assert_int_equal(volume_write(&config, &volume, &reason), 0);
	assert_string_equal(volume.path, volume_file("vm-300-disk-2"));
	assert_int_equal(read_volume("vm-300-disk-2", &back), 0);
	assert_int_equal(back.size, volume.size);
	assert_string_equal(back.host, volume.host);
	assert_string_equal(back.description, volume.description);
	assert_true(back.read_only);
	assert_int_equal(back.nbd_port, 20000);
	assert_int_equal(back.device, 101);
	assert_string_equal(back.image, volume.image);
	volume_free(&volume);
	volume_free(&back);
}

static void exact_sizes_survive_the_file(void **state)
{
	(void)state;
	static const uint64_t sizes[] = { 512, 1024, 1536, 4 << 20, (50ull << 30) + 512, 540672,
		INT64_MAX / 512 * 512 };
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct reason reason;
		struct volume volume = new_volume("vm-200-disk-0", sizes[i]), back;
		assert_int_equal(volume_write(&config, &volume, &reason), 0);
		assert_int_equal(read_volume("vm-200-disk-0", &back), 0);
		assert_int_equal(back.size, sizes[i]);
		volume_free(&volume);
		volume_free(&back);
	}
}

static void a_value_that_cannot_be_kept_leaves_the_old_file(void **state)
{
	(void)state;
	struct reason reason;
	struct volume volume = new_volume("vm-200-disk-0", 1 << 20);
	put_volume("vm-200-disk-0", GOOD);
	volume.description = strdup("two\nlines");
	assert_int_equal(volume_write(&config, &volume, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, volume_file("vm-200-disk-0")));
	volume_free(&volume);
	char *text = get_bytes_of(volume_file("vm-200-disk-0"), NULL);
	assert_string_equal(text, GOOD);
	free(text);
}

/* A bad size in memory would make a file that nobody can read any more. */
static void a_size_that_would_be_refused_is_not_written(void **state)
{
	(void)state;
	struct reason reason;
	struct volume volume = new_volume("vm-200-disk-0", 0);
	put_volume("vm-200-disk-0", GOOD);
	int status = volume_write(&config, &volume, &reason);
	volume_free(&volume);
	assert_true(status < 0);
}

static void a_forgotten_volume_is_gone(void **state)
{
	(void)state;
	struct reason reason;
	struct volume volume;
	put_volume("vm-200-disk-0", GOOD);
	assert_int_equal(read_volume("vm-200-disk-0", &volume), 0);
	assert_int_equal(volume_forget(&volume, &reason), 0);
	volume_free(&volume);
	assert_int_equal(read_volume("vm-200-disk-0", &volume), -ENOENT);
	assert_int_equal(faults.count, 0);
	volume_free(&volume);
}

static void each_damage_of_a_file_is_a_fault_with_its_place(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		unsigned line;
		const char *part;
	} damaged[] = {
		{ "", 0, "backend is missing" },
		{ "[volume]\nbackend = file\nsize = 1M\n", 0, "host is missing" },
		{ "[volume]\nbackend = file\nhost = node-a\n", 0, "size is missing" },
		{ "[volume]\nbackend = rbd\nsize = 1M\nhost = node-a\n", 2, "not one of file" },
		{ "[volume]\nbackend = file\nsize = 0\nhost = node-a\n", 3, "not between" },
		{ "[volume]\nbackend = file\nsize = 511\nhost = node-a\n", 3, "not between" },
		{ "[volume]\nbackend = file\nsize = 8E\nhost = node-a\n", 3, "not a size" },
		{ "[volume]\nbackend = file\nsize = 50GB\nhost = node-a\n", 3, "not a size" },
		{ "[volume]\nbackend = file\nsize = 1M\nhost =\n", 4, "empty" },
		{ GOOD "size = 2M\n", 5, "given twice" },
		{ GOOD "sise = 2M\n", 5, "no setting sise" },
		{ GOOD "[ports]\nnbd = 65536\n", 6, "not between" },
		{ GOOD "[ports]\nnbd = http\n", 6, "not a number" },
		{ GOOD "[ports]\ndevice = 1048576\n", 6, "not between" },
		{ GOOD "[file]\nimage = disk.raw\n", 6, "not an absolute path" },
		{ GOOD "garbage", 5, "neither" },
	};
	for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
		struct volume volume;
		put_volume("vm-200-disk-0", damaged[i].text);
		int status = read_volume("vm-200-disk-0", &volume);
		volume_free(&volume);
		assert_int_equal(status, -EBADMSG);
		assert_string_equal(faults.items[0].path, volume_file("vm-200-disk-0"));
		assert_int_equal(faults.items[0].line, damaged[i].line);
		assert_non_null(strstr(faults.items[0].text, damaged[i].part));
	}
}

static void a_size_of_no_whole_sectors_is_a_fault_with_its_line(void **state)
{
	(void)state;
	struct volume volume;
	put_volume("vm-200-disk-0", "[volume]\nbackend = file\nsize = 1000\nhost = node-a\n");
	assert_int_equal(read_volume("vm-200-disk-0", &volume), -EBADMSG);
	volume_free(&volume);
	assert_int_equal(faults.count, 1);
	assert_non_null(strstr(faults.items[0].text, "multiple of 512"));
	assert_int_equal(faults.items[0].line, 3);
}

static void a_wrong_size_is_reported_beside_other_faults(void **state)
{
	(void)state;
	struct volume volume;
	put_volume("vm-200-disk-0", "[volume]\nbackend = file\nsize = 1000\nhost = node-a\nx = y\n");
	assert_int_equal(read_volume("vm-200-disk-0", &volume), -EBADMSG);
	volume_free(&volume);
	assert_int_equal(faults.count, 2);
}

static void a_name_that_is_none_is_a_fault_and_no_path(void **state)
{
	(void)state;
	struct volume volume;
	put_text_in(in_scratch("x.conf"), GOOD);
	assert_int_equal(read_volume("../x", &volume), -EBADMSG);
	volume_free(&volume);
	assert_int_equal(faults.count, 1);
	assert_non_null(strstr(faults.items[0].text, "../x"));
}

static void every_cut_of_a_file_is_a_fault_or_a_volume(void **state)
{
	(void)state;
	static const char text[] = GOOD "description = some\n[ports]\nnbd = 20000\ndevice = 100\n";
	unsigned good = 0;
	for (size_t length = 0; length < sizeof text; length++) {
		struct volume volume;
		put_bytes_in(volume_file("vm-200-disk-0"), text, length);
		int status = read_volume("vm-200-disk-0", &volume);
		if (status == 0)
			good++;
		assert_int_equal(status, faults.count ? -EBADMSG : 0);
		volume_free(&volume);
	}
	assert_true(good > 0 && good < sizeof text - 40);
}

/* all files */

static void volumes_come_by_vm_and_number(void **state)
{
	(void)state;
	static const char *const wanted[] = { "base-100-disk-0", "vm-200-cloudinit", "vm-200-disk-2",
		"vm-200-disk-10", "vm-1000-disk-0" };
	static const char *const order[] = { "vm-200-disk-10", "vm-1000-disk-0", "vm-200-disk-2",
		"base-100-disk-0", "vm-200-cloudinit" };
	struct volumes volumes;
	for (size_t i = 0; i < 5; i++)
		put_volume(order[i], GOOD);
	assert_int_equal(volumes_read(&config, 0, &volumes, &faults), 0);
	assert_int_equal(volumes.count, 5);
	for (size_t i = 0; i < 5; i++)
		assert_string_equal(volumes.items[i].name, wanted[i]);
	volumes_free(&volumes);
}

static void one_vm_has_only_its_own_volumes(void **state)
{
	(void)state;
	struct volumes volumes;
	put_volume("vm-200-disk-0", GOOD);
	put_volume("vm-2000-disk-0", GOOD);
	put_volume("base-200-disk-0", GOOD);
	put_volume("vm-201-disk-0", "damaged, but not ours");
	assert_int_equal(volumes_read(&config, 200, &volumes, &faults), 0);
	assert_int_equal(volumes.count, 2);
	assert_string_equal(volumes.items[0].name, "base-200-disk-0");
	assert_string_equal(volumes.items[1].name, "vm-200-disk-0");
	volumes_free(&volumes);
}

static void files_that_are_no_volumes_are_passed_over(void **state)
{
	(void)state;
	static const char *const others[] = { ".lock", "vm-200-disk-0.conf.new", "vm-200-disk-0.conf~",
		"README", ".conf", "vm-200-disk-x.conf", "vm-200-disk-0",
		"vm-200-state-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij.conf" };
	struct volumes volumes;
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		char path[200];
		snprintf(path, sizeof path, "volumes/%s", others[i]);
		put_text_in(in_scratch(path), "nonsense");
	}
	put_volume("vm-200-disk-1", GOOD);
	assert_int_equal(volumes_read(&config, 0, &volumes, &faults), 0);
	assert_int_equal(volumes.count, 1);
	volumes_free(&volumes);
}

static void damaged_volumes_are_reported_and_left_out(void **state)
{
	(void)state;
	struct volumes volumes;
	put_volume("vm-200-disk-0", GOOD);
	put_volume("vm-200-disk-1", GOOD "[volume]\nsize = 2M\nnonsense\n");
	assert_int_equal(mkdir(volume_file("vm-200-disk-2"), 0700), 0);
	put_bytes_in(volume_file("vm-200-disk-3"), "\0\0", 2);
	put_volume("vm-200-disk-4", GOOD);
	assert_int_equal(volumes_read(&config, 200, &volumes, &faults), -EBADMSG);
	assert_int_equal(volumes.count, 2);
	assert_string_equal(volumes.items[0].name, "vm-200-disk-0");
	assert_string_equal(volumes.items[1].name, "vm-200-disk-4");
	for (unsigned disk = 1; disk <= 3; disk++) {
		char name[VOLUME_NAME_MAX];
		bool is_named = false;
		volume_name_of_disk(200, disk, name);
		for (size_t i = 0; i < faults.count; i++)
			is_named = is_named || strcmp(faults.items[i].path, volume_file(name)) == 0;
		assert_true(is_named);
	}
	volumes_free(&volumes);
}

static void a_missing_directory_holds_no_volumes(void **state)
{
	(void)state;
	struct volumes volumes;
	assert_int_equal(rmdir(config.volume_dir), 0);
	assert_int_equal(volumes_read(&config, 0, &volumes, &faults), 0);
	assert_int_equal(volumes.count, 0);
	volumes_free(&volumes);
}

static void a_file_in_place_of_the_directory_is_a_fault(void **state)
{
	(void)state;
	struct volumes volumes;
	assert_int_equal(rmdir(config.volume_dir), 0);
	put_text_in(config.volume_dir, "x");
	assert_int_equal(volumes_read(&config, 0, &volumes, &faults), -EBADMSG);
	assert_int_equal(faults.count, 1);
	assert_string_equal(faults.items[0].path, config.volume_dir);
	volumes_free(&volumes);
}

/* the lock */

static void the_lock_makes_the_directory_and_excludes_others(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(rmdir(config.volume_dir), 0);
	int fd = volumes_lock(&config, &reason);
	assert_true(fd >= 0);
	assert_int_equal(lock_file_now(in_scratch("volumes/.lock"), &reason), -EBUSY);
	close(fd);
	fd = lock_file_now(in_scratch("volumes/.lock"), &reason);
	assert_true(fd >= 0);
	close(fd);
}

struct shared {
	unsigned value, inside;
	bool overlapped;
};

static int count_under_lock(void *context)
{
	struct shared *shared = context;
	struct reason reason;
	for (unsigned i = 0; i < 200; i++) {
		int fd = volumes_lock(&config, &reason);
		if (fd < 0)
			return 1;
		if (__atomic_fetch_add(&shared->inside, 1, __ATOMIC_SEQ_CST) != 0)
			shared->overlapped = true;
		shared->value++;
		__atomic_fetch_sub(&shared->inside, 1, __ATOMIC_SEQ_CST);
		close(fd);
	}
	return 0;
}

static void processes_wait_for_the_lock_in_turn(void **state)
{
	(void)state;
	struct shared *shared = shared_memory(sizeof *shared);
	pid_t children[3];
	for (size_t i = 0; i < 3; i++)
		children[i] = start_child(count_under_lock, shared);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(await_child(children[i], 120), 0);
	assert_false(shared->overlapped);
	assert_int_equal(shared->value, 600);
}

static void a_lock_that_cannot_be_made_is_named(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(mkdir(in_scratch("volumes/.lock"), 0700), 0);
	assert_int_equal(volumes_lock(&config, &reason), -EISDIR);
	assert_non_null(strstr(reason.text, in_scratch("volumes/.lock")));
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_name_is_taken_apart),
		cmocka_unit_test(what_is_no_name_of_a_volume_is_refused),
		cmocka_unit_test(the_longest_name_is_one_byte_below_its_buffer),
		cmocka_unit_test(the_name_of_a_disk_is_parsed_to_the_same),
		cmocka_unit_test(numbers_of_vms_are_those_of_proxmox),
		test(a_small_file_is_enough),
		test(what_is_written_is_read_back),
		test(exact_sizes_survive_the_file),
		test(a_value_that_cannot_be_kept_leaves_the_old_file),
		test(a_size_that_would_be_refused_is_not_written),
		test(a_forgotten_volume_is_gone),
		test(each_damage_of_a_file_is_a_fault_with_its_place),
		test(a_size_of_no_whole_sectors_is_a_fault_with_its_line),
		test(a_wrong_size_is_reported_beside_other_faults),
		test(a_name_that_is_none_is_a_fault_and_no_path),
		test(every_cut_of_a_file_is_a_fault_or_a_volume),
		test(volumes_come_by_vm_and_number),
		test(one_vm_has_only_its_own_volumes),
		test(files_that_are_no_volumes_are_passed_over),
		test(damaged_volumes_are_reported_and_left_out),
		test(a_missing_directory_holds_no_volumes),
		test(a_file_in_place_of_the_directory_is_a_fault),
		test(the_lock_makes_the_directory_and_excludes_others),
		test(processes_wait_for_the_lock_in_turn),
		test(a_lock_that_cannot_be_made_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
