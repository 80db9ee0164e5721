/* What is said to the kernel: every message byte by byte as its policy takes it, and nothing that was not asked for. */
#include <linux/genetlink.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <string.h>

#include "kernel/nbd-netlink.h"
#include "unit.h"

enum { FAMILY = 0x1c };

/* The attributes of a message, each at most once. */
struct parsed {
	uint8_t command, version;
	const struct nlattr *attributes[NBD_ATTR_MAX + 1];
	struct nl_msg *message;
};

static struct parsed parse(uint8_t command, const struct nbd_setup *setup)
{
	struct parsed parsed = { .message = nbd_message(FAMILY, command, setup) };
	assert_non_null(parsed.message);
	const struct nlmsghdr *header = nlmsg_hdr(parsed.message);
	assert_int_equal(header->nlmsg_type, FAMILY);
	const struct genlmsghdr *generic = nlmsg_data(header);
	parsed.command = generic->cmd;
	parsed.version = generic->version;
	int left = genlmsg_attrlen(generic, 0);
	for (const struct nlattr *at = genlmsg_attrdata(generic, 0); nla_ok(at, left); at = nla_next(at, &left)) {
		assert_in_range(nla_type(at), 1, NBD_ATTR_MAX);
		assert_null(parsed.attributes[nla_type(at)]);
		parsed.attributes[nla_type(at)] = at;
	}
	assert_int_equal(left, 0);
	return parsed;
}

static unsigned count(const struct parsed *parsed)
{
	unsigned number = 0;
	for (unsigned i = 0; i <= NBD_ATTR_MAX; i++)
		number += parsed->attributes[i] != NULL;
	return number;
}

static uint64_t number_of(const struct parsed *parsed, int attribute)
{
	const struct nlattr *at = parsed->attributes[attribute];
	assert_non_null(at);
	assert_int_equal(nla_len(at), sizeof(uint64_t));
	return nla_get_u64(at);
}

/* SOCKETS { ITEM { FD } ITEM { FD } ... } */
static void assert_sockets(const struct parsed *parsed, const int *sockets, unsigned expected)
{
	const struct nlattr *list = parsed->attributes[NBD_ATTR_SOCKETS], *item;
	unsigned found = 0;
	int left;
	assert_non_null(list);
	nla_for_each_nested(item, list, left) {
		assert_int_equal(nla_type(item), NBD_SOCK_ITEM);
		const struct nlattr *fd = nla_data(item);
		assert_int_equal(nla_type(fd), NBD_SOCK_FD);
		assert_int_equal(nla_total_size(nla_len(fd)), nla_len(item));
		assert_true(found < expected);
		assert_int_equal(nla_get_u32(fd), sockets[found++]);
	}
	assert_int_equal(found, expected);
}

static void connect_says_everything(void **state)
{
	(void)state;
	const int sockets[] = { 7, 8, 1000 };
	const struct nbd_setup setup = {
		.number = 99,
		.identifier = "tb4/vm-299-disk-0",
		.size = UINT64_C(3) << 40,
		.block_size = 512,
		.server_flags = 0x1ed,
		.request_timeout = 10,
		.dead_timeout = 86400,
		.sockets = sockets,
		.socket_count = 3,
	};
	struct parsed parsed = parse(NBD_CMD_CONNECT, &setup);
	assert_int_equal(parsed.command, NBD_CMD_CONNECT);
	assert_int_equal(parsed.version, NBD_GENL_VERSION);
	assert_int_equal(count(&parsed), 8);
	assert_int_equal(nla_get_u32(parsed.attributes[NBD_ATTR_INDEX]), 99);
	assert_int_equal(number_of(&parsed, NBD_ATTR_SIZE_BYTES), UINT64_C(3) << 40);
	assert_int_equal(number_of(&parsed, NBD_ATTR_BLOCK_SIZE_BYTES), 512);
	assert_int_equal(number_of(&parsed, NBD_ATTR_SERVER_FLAGS), 0x1ed);
	assert_int_equal(number_of(&parsed, NBD_ATTR_TIMEOUT), 10);
	assert_int_equal(number_of(&parsed, NBD_ATTR_DEAD_CONN_TIMEOUT), 86400);
	assert_string_equal(nla_data(parsed.attributes[NBD_ATTR_BACKEND_IDENTIFIER]), "tb4/vm-299-disk-0");
	assert_sockets(&parsed, sockets, 3);
	nlmsg_free(parsed.message);
}

static void fresh_sockets_come_without_a_size_and_a_size_without_sockets(void **state)
{
	(void)state;
	const int sockets[] = { 5 };
	struct nbd_setup setup = { .number = 0, .identifier = "tb4/vm-200-disk-0", .sockets = sockets, .socket_count = 1 };
	struct parsed parsed = parse(NBD_CMD_RECONFIGURE, &setup);
	assert_int_equal(count(&parsed), 3);
	assert_int_equal(nla_get_u32(parsed.attributes[NBD_ATTR_INDEX]), 0);
	assert_non_null(parsed.attributes[NBD_ATTR_BACKEND_IDENTIFIER]);
	assert_sockets(&parsed, sockets, 1);
	nlmsg_free(parsed.message);
	setup.socket_count = 0;
	setup.size = 4096;
	parsed = parse(NBD_CMD_RECONFIGURE, &setup);
	assert_int_equal(count(&parsed), 3);
	assert_int_equal(number_of(&parsed, NBD_ATTR_SIZE_BYTES), 4096);
	assert_non_null(parsed.attributes[NBD_ATTR_BACKEND_IDENTIFIER]);
	nlmsg_free(parsed.message);
}

static void disconnect_names_the_device_and_nothing_else(void **state)
{
	(void)state;
	const struct nbd_setup setup = { .number = 1048575 };
	struct parsed parsed = parse(NBD_CMD_DISCONNECT, &setup);
	assert_int_equal(count(&parsed), 1);
	assert_int_equal(nla_get_u32(parsed.attributes[NBD_ATTR_INDEX]), 1048575);
	nlmsg_free(parsed.message);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connect_says_everything),
		cmocka_unit_test(fresh_sockets_come_without_a_size_and_a_size_without_sockets),
		cmocka_unit_test(disconnect_names_the_device_and_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
