#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scratch.h"
#include "unit.h"
#include "volume/ports.h"

enum { VOLUMES_MAX = 2100 };

/* The volumes there are; nothing of them is on disk. */
static struct volume items[VOLUMES_MAX];
static struct volumes all = { items, 0 };

static int setup(void **state)
{
	(void)state;
	all.count = 0;
	return 0;
}

static struct volume_name name_of(const char *text)
{
	struct volume_name name;
	assert_int_equal(volume_name_parse(text, &name), 0);
	return name;
}

static struct volume volume_of(const char *text)
{
	struct volume volume = { .parsed = name_of(text) };
	snprintf(volume.name, sizeof volume.name, "%s", text);
	return volume;
}

static struct volume *add(const char *text, uint64_t nbd_port, uint64_t device)
{
	struct volume *volume = &items[all.count++];
	*volume = volume_of(text);
	volume->nbd_port = nbd_port;
	volume->device = device;
	return volume;
}

/* What a new volume of that name gets. */
static struct volume assigned(const char *text)
{
	struct volume fresh = volume_of(text);
	struct reason reason;
	assert_int_equal(ports_assign(&all, &fresh, NULL, &reason), 0);
	return fresh;
}

static unsigned device_of(const struct volume *volume)
{
	unsigned device;
	assert_true(volume_device(volume, &device));
	return device;
}

/* the scheme: design section 4 */

static void downstairs_ports_follow_the_scheme(void **state)
{
	(void)state;
	for (uint64_t vmid = 200; vmid <= 299; vmid++) {
		for (unsigned disk = 0; disk <= 2; disk++) {
			struct volume_name name = { .vmid = vmid, .is_disk = true, .disk = disk };
			uint16_t first;
			assert_true(scheme_downstairs_port(&name, &first));
			assert_int_equal(first, 3900 + (vmid - 200) * 10 + 3 * disk);
		}
	}
}

static void nbd_ports_and_devices_follow_the_scheme(void **state)
{
	(void)state;
	for (uint64_t vmid = 200; vmid <= 299; vmid++) {
		struct volume_name name = { .vmid = vmid, .is_disk = true };
		uint16_t port;
		unsigned device;
		assert_true(scheme_nbd_port(vmid, &port));
		assert_int_equal(port, 10809 + vmid - 200);
		assert_true(scheme_device(&name, &device));
		assert_int_equal(device, vmid - 200);
	}
}

static void other_vms_have_no_scheme(void **state)
{
	(void)state;
	static const uint64_t others[] = { VMID_MIN, 199, 300, 1200, 65736, VMID_MAX };
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		struct volume_name name = { .vmid = others[i], .is_disk = true };
		uint16_t port;
		unsigned device;
		assert_false(scheme_nbd_port(others[i], &port));
		assert_false(scheme_downstairs_port(&name, &port));
		assert_false(scheme_device(&name, &device));
	}
}

static void further_disks_have_no_scheme(void **state)
{
	(void)state;
	struct volume_name fourth = name_of("vm-200-disk-3"), second = name_of("vm-200-disk-1");
	uint16_t port;
	unsigned device;
	assert_false(scheme_downstairs_port(&fourth, &port));
	assert_false(scheme_device(&fourth, &device));
	assert_false(scheme_device(&second, &device));
}

static void what_is_no_disk_has_no_scheme(void **state)
{
	(void)state;
	static const char *const names[] = { "vm-200-cloudinit", "vm-200-state-x", "vm-200-fleece-0" };
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct volume_name name = name_of(names[i]);
		uint16_t port;
		unsigned device;
		assert_false(scheme_downstairs_port(&name, &port));
		assert_false(scheme_device(&name, &device));
	}
}

static void no_port_of_the_scheme_is_given_twice(void **state)
{
	(void)state;
	static bool taken[65536];
	for (uint64_t vmid = 200; vmid <= 299; vmid++) {
		uint16_t port;
		assert_true(scheme_nbd_port(vmid, &port));
		assert_false(taken[port]);
		taken[port] = true;
		for (unsigned disk = 0; disk <= 2; disk++) {
			struct volume_name name = { .vmid = vmid, .is_disk = true, .disk = disk };
			assert_true(scheme_downstairs_port(&name, &port));
			for (unsigned slot = 0; slot < PORT_SLOTS; slot++) {
				assert_false(taken[port + slot]);
				assert_false(taken[port + slot + PORT_REPAIR_OFFSET]);
				taken[port + slot] = taken[port + slot + PORT_REPAIR_OFFSET] = true;
			}
		}
	}
	for (unsigned port = PORT_POOL_FIRST; port <= PORT_POOL_LAST + PORT_REPAIR_OFFSET; port++)
		assert_false(taken[port]);
}

/* downstairs */

/* The ports that a new volume of a backend with downstairs gets. */
static int downstairs_for(const struct volume_name *name, uint16_t *first, struct reason *holder)
{
	struct volume fresh = { .name = "new", .parsed = *name, .backend = VOLUME_BACKEND_FILE + 1 };
	struct reason reason;
	int status = ports_assign(&all, &fresh, holder, &reason);
	*first = volume_downstairs_port(&fresh);
	if (status < 0)
		*holder = reason;
	return status;
}

static void a_free_disk_of_the_scheme_gets_its_ports(void **state)
{
	(void)state;
	struct volume_name name = name_of("vm-217-disk-1");
	struct reason holder = { "x" };
	uint16_t first;
	assert_int_equal(downstairs_for(&name, &first, &holder), 0);
	assert_int_equal(first, 3900 + 170 + 3);
	assert_string_equal(holder.text, "");
}

static void expect_pool_because_of(const char *text, const char *port, const char *who)
{
	struct volume_name name = name_of(text);
	struct reason holder;
	uint16_t first;
	assert_int_equal(downstairs_for(&name, &first, &holder), 0);
	assert_in_range(first, PORT_POOL_FIRST, PORT_POOL_LAST - 2);
	assert_non_null(strstr(holder.text, port));
	assert_non_null(strstr(holder.text, who));
}

static void vm_252_disk_0_meets_nvmet(void **state)
{
	(void)state;
	expect_pool_because_of("vm-252-disk-0", "4420", "nvmet");
}

static void vm_210_disk_2_meets_pveproxy(void **state)
{
	(void)state;
	expect_pool_because_of("vm-210-disk-2", "8006", "pveproxy");
}

static void no_run_of_ports_meets_software_of_the_node(void **state)
{
	(void)state;
	static const uint16_t of_others[] = { 4420, 8006, 8007 };
	unsigned from_pool = 0;
	for (uint64_t vmid = 200; vmid <= 299; vmid++) {
		for (unsigned disk = 0; disk <= 2; disk++) {
			struct volume_name name = { .vmid = vmid, .is_disk = true, .disk = disk };
			struct reason holder;
			uint16_t first;
			assert_int_equal(downstairs_for(&name, &first, &holder), 0);
			for (size_t i = 0; i < 3; i++) {
				unsigned offset = (unsigned)of_others[i] - first;
				assert_false(offset < PORT_SLOTS);
				assert_false(offset - PORT_REPAIR_OFFSET < PORT_SLOTS);
			}
			from_pool += first >= PORT_POOL_FIRST;
			assert_int_equal(holder.text[0] != '\0', first >= PORT_POOL_FIRST);
		}
	}
	assert_in_range(from_pool, 2, 5);
}

static void a_port_of_another_volume_is_avoided_and_its_holder_named(void **state)
{
	(void)state;
	static const uint64_t inside[] = { 3900, 3902, 7900, 7902 };
	for (size_t i = 0; i < 4; i++) {
		char port[8];
		all.count = 0;
		add("vm-300-disk-0", inside[i], 100);
		snprintf(port, sizeof port, "%u", (unsigned)inside[i]);
		expect_pool_because_of("vm-200-disk-0", port, "vm-300-disk-0");
	}
}

static void runs_from_the_pool_step_over_nbd_ports_in_it(void **state)
{
	(void)state;
	struct volume_name name = name_of("vm-400-disk-0");
	struct reason holder;
	uint16_t free_first, first;
	assert_int_equal(downstairs_for(&name, &free_first, &holder), 0);
	assert_string_equal(holder.text, "");
	static const unsigned hits[] = { 0, 2, PORT_REPAIR_OFFSET, PORT_REPAIR_OFFSET + 2 };
	for (size_t i = 0; i < 4; i++) {
		all.count = 0;
		add("vm-300-disk-0", free_first + hits[i], 100);
		assert_int_equal(downstairs_for(&name, &first, &holder), 0);
		assert_int_equal(first, free_first + PORT_SLOTS);
	}
}

static void a_full_pool_has_no_run_left(void **state)
{
	(void)state;
	struct volume_name name = name_of("vm-299-disk-5");
	struct reason holder;
	uint16_t first;
	for (unsigned port = PORT_POOL_FIRST; port <= PORT_POOL_LAST; port += 2) {
		char text[VOLUME_NAME_MAX];
		volume_name_of_disk(1000 + port, 0, text);
		add(text, port, port);
	}
	assert_int_equal(downstairs_for(&name, &first, &holder), -EADDRINUSE);
	assert_non_null(strstr(holder.text, "no free ports"));
}

static void expect_different_runs(const char *one, const char *other)
{
	items[0] = assigned(one);
	all.count = 1;
	items[1] = assigned(other);
	all.count = 2;
	uint16_t first = volume_downstairs_port(&items[0]), second = volume_downstairs_port(&items[1]);
	assert_true(first > 0 && second > 0);
	assert_true(first + PORT_SLOTS <= second || second + PORT_SLOTS <= first);
}

static void two_volumes_of_the_scheme_never_share_downstairs_ports(void **state)
{
	(void)state;
	expect_different_runs("vm-200-disk-0", "vm-200-disk-1");
}

static void two_volumes_of_the_pool_never_share_downstairs_ports(void **state)
{
	(void)state;
	expect_different_runs("vm-300-disk-0", "vm-300-disk-1");
}

static void a_template_and_a_disk_never_share_downstairs_ports(void **state)
{
	(void)state;
	expect_different_runs("vm-200-disk-0", "base-200-disk-0");
}

/* NBD ports and devices of new volumes */

static void a_new_disk_of_the_scheme_records_nothing(void **state)
{
	(void)state;
	struct volume fresh = assigned("vm-205-disk-0");
	assert_int_equal(fresh.nbd_port, 0);
	assert_int_equal(fresh.device, 0);
	assert_int_equal(volume_nbd_port(&fresh), 10814);
	assert_int_equal(device_of(&fresh), 5);
}

static void a_further_disk_gets_a_device_from_100_on(void **state)
{
	(void)state;
	add("vm-200-disk-0", 0, 0);
	struct volume fresh = assigned("vm-200-disk-1");
	assert_int_equal(fresh.device, 100);
	assert_int_equal(volume_nbd_port(&fresh), 10809);
	add("vm-200-disk-1", 0, 100);
	assert_int_equal(assigned("vm-200-disk-2").device, 101);
}

static void a_gap_in_the_devices_is_filled(void **state)
{
	(void)state;
	add("vm-200-disk-1", 0, 100);
	add("vm-200-disk-2", 0, 102);
	assert_int_equal(assigned("vm-201-disk-1").device, 101);
}

static void a_vm_beyond_the_scheme_gets_all_from_the_pool(void **state)
{
	(void)state;
	struct volume fresh = assigned("vm-300-disk-0");
	assert_in_range(fresh.nbd_port, PORT_POOL_FIRST, PORT_POOL_LAST);
	assert_in_range(fresh.device, DEVICE_POOL_FIRST, DEVICE_MAX);
}

static void volumes_of_one_vm_share_its_nbd_port(void **state)
{
	(void)state;
	add("vm-299-disk-0", 0, 0);
	add("vm-300-disk-0", 20000, 100);
	add("vm-301-disk-0", 20001, 101);
	assert_int_equal(assigned("vm-301-disk-1").nbd_port, 20001);
	assert_int_equal(assigned("vm-301-cloudinit").nbd_port, 20001);
	assert_int_equal(assigned("vm-302-disk-0").nbd_port, 20002);
}

/* The file of its first volume may have been written by hand, without a port. */
static void a_vm_whose_first_volume_records_no_port_still_gets_one(void **state)
{
	(void)state;
	add("vm-300-disk-0", 0, 100);
	struct volume fresh = assigned("vm-300-disk-1");
	assert_int_not_equal(volume_nbd_port(&fresh), 0);
}

static void a_scheme_port_that_another_vm_records_is_not_given_again(void **state)
{
	(void)state;
	add("vm-300-disk-0", 10809, 100);
	struct volume fresh = assigned("vm-200-disk-0");
	assert_in_range(fresh.nbd_port, PORT_POOL_FIRST, PORT_POOL_LAST);
	add("vm-200-disk-0", fresh.nbd_port, 0);
	assert_int_equal(assigned("vm-200-disk-1").nbd_port, fresh.nbd_port);
}

static void a_scheme_device_that_another_volume_records_is_not_given_again(void **state)
{
	(void)state;
	add("vm-300-disk-0", 20000, 5);
	assert_int_equal(assigned("vm-205-disk-0").device, 100);
}

static void a_template_does_not_get_the_device_of_the_disk(void **state)
{
	(void)state;
	add("vm-200-disk-0", 0, 0);
	assert_int_equal(assigned("base-200-disk-0").device, 100);
}

static void no_nbd_port_left_is_an_error(void **state)
{
	(void)state;
	for (unsigned port = PORT_POOL_FIRST; port < PORT_POOL_FIRST + 2000; port++) {
		char text[VOLUME_NAME_MAX];
		volume_name_of_disk(1000 + port, 0, text);
		add(text, port, port);
	}
	struct volume fresh = volume_of("vm-300-disk-0");
	struct reason reason;
	assert_int_equal(ports_assign(&all, &fresh, NULL, &reason), -EADDRINUSE);
	assert_non_null(strstr(reason.text, "vm-300-disk-0"));
}

static void volumes_made_one_after_another_never_collide(void **state)
{
	(void)state;
	struct random random = { 4 };
	while (all.count < 400) {
		char text[VOLUME_NAME_MAX];
		bool is_there = false;
		snprintf(text, sizeof text, "%s-%u-disk-%u", random_below(&random, 5) ? "vm" : "base",
			(unsigned)(190 + random_below(&random, 120)), (unsigned)random_below(&random, 5));
		for (size_t i = 0; i < all.count; i++)
			is_there = is_there || strcmp(items[i].name, text) == 0;
		if (is_there)
			continue;
		items[all.count] = assigned(text);
		all.count++;
	}
	for (size_t i = 0; i < all.count; i++) {
		const struct volume *a = &items[i];
		assert_int_not_equal(volume_nbd_port(a), 0);
		for (size_t k = 0; k < i; k++) {
			const struct volume *b = &items[k];
			assert_int_not_equal(device_of(a), device_of(b));
			assert_int_equal(
				volume_nbd_port(a) == volume_nbd_port(b), a->parsed.vmid == b->parsed.vmid);
		}
	}
}

/* who listens */

/* A TCP socket on a free port of `family`'s loopback address; -1 if there is none. */
static int bound_socket(int family, struct sockaddr_storage *address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
	socklen_t length = family == AF_INET ? sizeof *in : sizeof *in6;
	*address = (struct sockaddr_storage){ .ss_family = (sa_family_t)family };
	if (family == AF_INET)
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		in6->sin6_addr = in6addr_loopback;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)address, length) < 0 ||
		getsockname(fd, (struct sockaddr *)address, &length) < 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

static bool someone_listens(const struct sockaddr_storage *address, char *text, size_t size)
{
	return port_listener((const struct sockaddr *)address, text, size);
}

static void expect_me(const struct sockaddr_storage *address)
{
	char text[128], wanted[64], comm[32] = "";
	FILE *file = fopen("/proc/self/comm", "r");
	assert_non_null(fgets(comm, sizeof comm, file));
	fclose(file);
	comm[strcspn(comm, "\n")] = '\0';
	snprintf(wanted, sizeof wanted, "pid %d (%s)", getpid(), comm);
	assert_true(someone_listens(address, text, sizeof text));
	assert_string_equal(text, wanted);
}

static void the_process_that_listens_is_named(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	char text[128];
	int fd = bound_socket(AF_INET, &address);
	assert_true(fd >= 0);
	assert_int_equal(listen(fd, 1), 0);
	expect_me(&address);
	close(fd);
	assert_false(someone_listens(&address, text, sizeof text));
}

static void a_listener_on_ipv6_is_named(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	int fd = bound_socket(AF_INET6, &address);
	if (fd < 0)
		skip();
	assert_int_equal(listen(fd, 1), 0);
	expect_me(&address);
	close(fd);
}

static void a_listener_on_another_address_is_not_meant(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	char text[128];
	int fd = bound_socket(AF_INET, &address);
	assert_int_equal(listen(fd, 1), 0);
	((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	assert_false(someone_listens(&address, text, sizeof text));
	close(fd);
}

static void a_listener_on_all_addresses_is_meant(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	struct sockaddr_in *in = (struct sockaddr_in *)&address;
	int fd = bound_socket(AF_INET, &address);
	close(fd);
	in->sin_addr.s_addr = htonl(INADDR_ANY);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)in, sizeof *in), 0);
	assert_int_equal(listen(fd, 1), 0);
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK + 7);
	expect_me(&address);
	close(fd);
}

static void a_socket_that_does_not_listen_is_no_listener(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	char text[128];
	int fd = bound_socket(AF_INET, &address);
	assert_true(fd >= 0);
	assert_false(someone_listens(&address, text, sizeof text));
	close(fd);
}

static void a_short_buffer_is_not_overrun(void **state)
{
	(void)state;
	struct sockaddr_storage address;
	char text[6];
	int fd = bound_socket(AF_INET, &address);
	assert_int_equal(listen(fd, 1), 0);
	assert_true(someone_listens(&address, text, 5));
	assert_string_equal(text, "pid ");
	close(fd);
}

#define test(function) cmocka_unit_test_setup(function, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(downstairs_ports_follow_the_scheme),
		test(nbd_ports_and_devices_follow_the_scheme),
		test(other_vms_have_no_scheme),
		test(further_disks_have_no_scheme),
		test(what_is_no_disk_has_no_scheme),
		test(no_port_of_the_scheme_is_given_twice),
		test(a_free_disk_of_the_scheme_gets_its_ports),
		test(vm_252_disk_0_meets_nvmet),
		test(vm_210_disk_2_meets_pveproxy),
		test(no_run_of_ports_meets_software_of_the_node),
		test(a_port_of_another_volume_is_avoided_and_its_holder_named),
		test(runs_from_the_pool_step_over_nbd_ports_in_it),
		test(a_full_pool_has_no_run_left),
		test(two_volumes_of_the_scheme_never_share_downstairs_ports),
		test(two_volumes_of_the_pool_never_share_downstairs_ports),
		test(a_template_and_a_disk_never_share_downstairs_ports),
		test(a_new_disk_of_the_scheme_records_nothing),
		test(a_further_disk_gets_a_device_from_100_on),
		test(a_gap_in_the_devices_is_filled),
		test(a_vm_beyond_the_scheme_gets_all_from_the_pool),
		test(volumes_of_one_vm_share_its_nbd_port),
		test(a_vm_whose_first_volume_records_no_port_still_gets_one),
		test(a_scheme_port_that_another_vm_records_is_not_given_again),
		test(a_scheme_device_that_another_volume_records_is_not_given_again),
		test(a_template_does_not_get_the_device_of_the_disk),
		test(no_nbd_port_left_is_an_error),
		test(volumes_made_one_after_another_never_collide),
		test(the_process_that_listens_is_named),
		test(a_listener_on_another_address_is_not_meant),
		test(a_listener_on_all_addresses_is_meant),
		{ "a_listener_on_ipv6_is_named (needs IPv6 on loopback)", a_listener_on_ipv6_is_named,
			setup, NULL, NULL },
		test(a_socket_that_does_not_listen_is_no_listener),
		test(a_short_buffer_is_not_overrun),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
