/* Which device a volume gets: what sysfs shows is believed only if it is complete and ours, and in 10,000 shuffled orders of attaching,
 * beside devices of others and with somebody else being faster in between, no volume ever ends up on the device of another. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/device.h"
#include "scratch.h"
#include "unit.h"

enum { DEVICES = 6, VOLUMES = 5, ORDERS = 10000 };

/* The kernel: what it would know of its devices. sysfs shows the same. */
static struct {
	bool is_connected;
	char identifier[DEVICE_IDENTIFIER_MAX];
} kernel[DEVICES];

static const char *attribute(unsigned number, const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "nbd%u/%s", number, name);
	return in_scratch(path);
}

static void make_device(unsigned number)
{
	mkdir(attribute(number, ""), 0755);
	put_text_in(attribute(number, "size"), "131072\n");
	mkdir(attribute(number, "mq"), 0755);
	mkdir(attribute(number, "mq/0"), 0755);
	mkdir(attribute(number, "mq/1"), 0755);
}

/* `identifier` NULL: connected as nbd-client does it, without one. */
static void connect_device(unsigned number, const char *identifier)
{
	char line[DEVICE_IDENTIFIER_MAX + 1];
	kernel[number].is_connected = true;
	snprintf(kernel[number].identifier, sizeof kernel[number].identifier, "%s", identifier ? identifier : "");
	put_text_in(attribute(number, "pid"), "4711\n");
	unlink(attribute(number, "backend"));
	snprintf(line, sizeof line, "%s\n", kernel[number].identifier);
	if (identifier)
		put_text_in(attribute(number, "backend"), line);
}

static void disconnect_device(unsigned number)
{
	kernel[number].is_connected = false;
	unlink(attribute(number, "pid"));
	unlink(attribute(number, "backend"));
}

static void sysfs_is_read_as_it_stands(void **state)
{
	(void)state;
	struct kernel_device device;
	const char *sysfs = in_scratch("");
	device_read(sysfs, 3, &device); /* none there */
	assert_false(device.is_connected);
	make_device(3);
	device_read(sysfs, 3, &device);
	assert_false(device.is_connected);
	connect_device(3, "tb4/vm-203-disk-0");
	device_read(sysfs, 3, &device);
	assert_true(device.is_connected);
	assert_int_equal(device.pid, 4711);
	assert_int_equal(device.size, 64 << 20);
	assert_int_equal(device_queues(sysfs, 3), 2);
	assert_true(device_is_of(&device, "vm-203-disk-0"));
	assert_false(device_is_of(&device, "vm-203-disk-00"));
	assert_false(device_is_of(&device, "vm-203-disk-"));
}

static void an_identifier_that_is_not_ours_to_the_last_byte_is_no_one_s(void **state)
{
	(void)state;
	static const char *const others[] = {
		"", "\n", "vm-200-disk-0\n", "tb4/\n", "tb4/vm-200-disk-0", /* cut off */
		"tb4/vm-200-disk-0 \n", " tb4/vm-200-disk-0\n", "TB4/vm-200-disk-0\n", "tb4/vm-200-disk-01\n", "tb4/vm-200-disk-0\t\n",
		"tb4/vm-200-disk-0000000000000000000000000000000000000000000000000000000000000000000000000000000000000\n",
	};
	struct kernel_device device;
	struct reason reason;
	make_device(0);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		connect_device(0, "");
		put_text_in(attribute(0, "backend"), others[i]);
		assert_false(device_find(in_scratch(""), "vm-200-disk-0", &device));
		assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 0, false, &device, &reason), -EBUSY);
	}
}

static void whose_a_device_is_stands_in_the_refusal(void **state)
{
	(void)state;
	struct kernel_device device;
	struct reason reason;
	make_device(0);
	connect_device(0, "tb4/vm-201-disk-0");
	assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 0, false, &device, &reason), -EBUSY);
	assert_string_equal(reason.text, "vm-200-disk-0: /dev/nbd0 is attached to volume vm-201-disk-0: see --device in tb4(1)");
	connect_device(0, "nbs-disk-7");
	assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 0, false, &device, &reason), -EBUSY);
	assert_string_equal(reason.text,
		"vm-200-disk-0: /dev/nbd0 is connected to something else, nbs-disk-7, by pid 4711: it is left alone");
	connect_device(0, NULL); /* also what Linux before 5.14 shows of ours */
	assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 0, false, &device, &reason), -EBUSY);
	assert_string_equal(reason.text,
		"vm-200-disk-0: /dev/nbd0 is connected to something else, by pid 4711: it is left alone");
	connect_device(0, "tb4/vm-200-disk-0");
	assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 5, true, &device, &reason), -EBUSY);
	assert_string_equal(reason.text, "vm-200-disk-0: is attached already, as /dev/nbd0");
	assert_int_equal(device_choose(in_scratch(""), "vm-200-disk-0", 5, false, &device, &reason), 0);
	assert_int_equal(device.number, 0);
}

static void name_of(unsigned volume, char name[VOLUME_NAME_MAX])
{
	volume_name_of_disk(200 + volume, 0, name);
}

/* Somebody else takes a device, gives one up, or takes over what was another's. */
static void meddle(struct random *random)
{
	char name[VOLUME_NAME_MAX], identifier[DEVICE_IDENTIFIER_MAX];
	unsigned number = (unsigned)random_below(random, DEVICES);
	bool is_attached = false;
	switch (random_below(random, 4)) {
	case 0:
		disconnect_device(number);
		break;
	case 1:
		disconnect_device(number);
		connect_device(number, random_below(random, 2) ? "nbs-disk-7" : NULL);
		break;
	case 2: /* the keeper of another volume, by --device; never twice the same, as they hold a lock */
		name_of((unsigned)random_below(random, VOLUMES), name);
		device_identifier(name, identifier);
		for (unsigned i = 0; i < DEVICES; i++)
			is_attached = is_attached || (kernel[i].is_connected && strcmp(kernel[i].identifier, identifier) == 0);
		if (!kernel[number].is_connected && !is_attached)
			connect_device(number, identifier);
		break;
	default:
		break;
	}
}

/* As attach.c does it, on the kernel above. True if the volume is on a device then. */
static bool attach(unsigned volume, struct random *random)
{
	char name[VOLUME_NAME_MAX], identifier[DEVICE_IDENTIFIER_MAX];
	struct kernel_device device;
	struct reason reason;
	name_of(volume, name);
	device_identifier(name, identifier);
	int status = device_choose(in_scratch(""), name, volume, false, &device, &reason);
	if (status < 0) {
		assert_int_equal(status, -EBUSY);
		assert_true(kernel[volume].is_connected && strcmp(kernel[volume].identifier, identifier) != 0);
		return false;
	}
	/* what is read is true at that moment */
	assert_true(device.is_connected == kernel[device.number].is_connected);
	assert_true(!device.is_connected || strcmp(kernel[device.number].identifier, identifier) == 0);
	assert_true(device.is_connected || device.number == volume);
	if (random_below(random, 4) == 0)
		meddle(random);
	if (device.is_connected) /* RECONFIGURE: the kernel compares */
		return kernel[device.number].is_connected && strcmp(kernel[device.number].identifier, identifier) == 0;
	if (kernel[device.number].is_connected) /* CONNECT: it refuses what is connected */
		return false;
	connect_device(device.number, identifier);
	device_read(in_scratch(""), device.number, &device);
	return device_is_of(&device, name);
}

static void no_order_of_attaching_opens_a_wrong_volume(void **state)
{
	(void)state;
	struct random random = { 9 };
	unsigned attached = 0, refused = 0;
	memset(kernel, 0, sizeof kernel);
	for (unsigned i = 0; i < DEVICES; i++)
		make_device(i);
	for (unsigned order = 0; order < ORDERS; order++) {
		unsigned volumes[VOLUMES];
		for (unsigned i = 0; i < VOLUMES; i++) {
			unsigned at = (unsigned)random_below(&random, i + 1);
			volumes[i] = volumes[at];
			volumes[at] = i;
		}
		meddle(&random);
		for (unsigned i = 0; i < VOLUMES; i++) {
			char name[VOLUME_NAME_MAX];
			struct kernel_device device;
			bool is_attached = attach(volumes[i], &random);
			name_of(volumes[i], name);
			/* whoever opens it by its name gets it, and nothing else */
			if (is_attached) {
				char identifier[DEVICE_IDENTIFIER_MAX];
				assert_true(device_find(in_scratch(""), name, &device));
				assert_string_equal(kernel[device.number].identifier, device_identifier(name, identifier));
			}
			attached += is_attached;
			refused += !is_attached;
		}
		if (order % 4 == 0)
			disconnect_device((unsigned)random_below(&random, DEVICES));
	}
	assert_true(attached > ORDERS && refused > ORDERS / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(sysfs_is_read_as_it_stands),
		scratch_test(an_identifier_that_is_not_ours_to_the_last_byte_is_no_one_s),
		scratch_test(whose_a_device_is_stands_in_the_refusal),
		scratch_test(no_order_of_attaching_opens_a_wrong_volume),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
