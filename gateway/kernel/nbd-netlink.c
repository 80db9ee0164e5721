#include "kernel/nbd-netlink.h"

#include <errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

struct nbd_link {
	struct nl_sock *socket;
	int family;
	/* while nbd_link_was_cut() reads */
	unsigned number;
	bool was_cut;
};

static void cleanup_message(struct nl_msg **message)
{
	nlmsg_free(*message);
}

/* Messages */

static bool put_sockets(struct nl_msg *message, const int *sockets, unsigned count)
{
	struct nlattr *list = nla_nest_start(message, NBD_ATTR_SOCKETS);
	for (unsigned i = 0; list && i < count; i++) {
		struct nlattr *item = nla_nest_start(message, NBD_SOCK_ITEM);
		if (!item || nla_put_u32(message, NBD_SOCK_FD, (uint32_t)sockets[i]) < 0)
			return false;
		nla_nest_end(message, item);
	}
	if (!list)
		return false;
	nla_nest_end(message, list);
	return true;
}

static bool put_number(struct nl_msg *message, int attribute, uint64_t number)
{
	return number == 0 || nla_put_u64(message, attribute, number) == 0;
}

struct nl_msg *nbd_message(int family, uint8_t command, const struct nbd_setup *setup)
{
	CLEANUP(cleanup_message) struct nl_msg *message = nlmsg_alloc();
	if (!message || !genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command, NBD_GENL_VERSION) ||
		nla_put_u32(message, NBD_ATTR_INDEX, setup->number) < 0 ||
		!put_number(message, NBD_ATTR_SIZE_BYTES, setup->size) ||
		!put_number(message, NBD_ATTR_BLOCK_SIZE_BYTES, setup->block_size) ||
		!put_number(message, NBD_ATTR_SERVER_FLAGS, setup->server_flags) ||
		!put_number(message, NBD_ATTR_TIMEOUT, setup->request_timeout) ||
		!put_number(message, NBD_ATTR_DEAD_CONN_TIMEOUT, setup->dead_timeout) ||
		(setup->identifier && nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, setup->identifier) < 0) ||
		(setup->socket_count > 0 && !put_sockets(message, setup->sockets, setup->socket_count)))
		return NULL;
	return take_pointer(&message);
}

/* The link */

static int open_socket(struct nbd_link *link, struct reason *reason)
{
	link->socket = nl_socket_alloc();
	if (!link->socket)
		return reason_set(reason, -ENOMEM, "out of memory");
	int error = genl_connect(link->socket);
	if (error == 0)
		link->family = error = genl_ctrl_resolve(link->socket, NBD_GENL_FAMILY_NAME);
	if (error == -NLE_OBJ_NOTFOUND)
		return reason_set(reason, -ENODEV, "the kernel has no NBD: modprobe nbd");
	return error < 0 ? reason_set(reason, -EIO, "netlink: %s", nl_geterror(error)) : 0;
}

int nbd_link_open(struct nbd_link **out, struct reason *reason)
{
	CLEANUP(cleanup_nbd_link) struct nbd_link *link = calloc(1, sizeof *link);
	*out = NULL;
	int status = link ? open_socket(link, reason) : reason_set(reason, -ENOMEM, "out of memory");
	if (status == 0)
		*out = take_pointer(&link);
	return status;
}

void nbd_link_close(struct nbd_link *link)
{
	if (link)
		nl_socket_free(link->socket);
	free(link);
}

static int on_acknowledged(struct nl_msg *message, void *status)
{
	(void)message;
	*(int *)status = 0;
	return NL_STOP;
}

static int on_refused(struct sockaddr_nl *from, struct nlmsgerr *refusal, void *status)
{
	(void)from;
	*(int *)status = refusal->error;
	return NL_STOP;
}

/* Waits for the end of the answer; a CONNECT is answered by the device's number before that. */
static int receive_status(struct nl_sock *socket)
{
	int status = 1, error = 0;
	struct nl_cb *callbacks = nl_cb_alloc(NL_CB_DEFAULT);
	if (!callbacks)
		return -ENOMEM;
	nl_cb_set(callbacks, NL_CB_ACK, NL_CB_CUSTOM, on_acknowledged, &status);
	nl_cb_err(callbacks, NL_CB_CUSTOM, on_refused, &status);
	while (status == 1 && (error >= 0 || error == -NLE_INTR))
		error = nl_recvmsgs(socket, callbacks);
	nl_cb_put(callbacks);
	return status == 1 ? -EIO : status;
}

int nbd_link_send(struct nbd_link *link, uint8_t command, const struct nbd_setup *setup, struct reason *reason)
{
	CLEANUP(cleanup_message) struct nl_msg *message = nbd_message(link->family, command, setup);
	if (!message)
		return reason_set(reason, -ENOMEM, "out of memory");
	int error = nl_send_auto(link->socket, message);
	int status = error < 0 ? -EIO : receive_status(link->socket);
	if (status == -EPERM)
		return reason_set(reason, status, "/dev/nbd%u: not permitted: needs CAP_SYS_ADMIN", setup->number);
	return status < 0 ? reason_set(reason, status, "/dev/nbd%u: the kernel says: %s", setup->number, strerror(-status)) : 0;
}

/* Events */

static int on_event(struct nl_msg *message, void *context)
{
	struct nbd_link *link = context;
	struct nlattr *attributes[NBD_ATTR_MAX + 1];
	const struct genlmsghdr *header = nlmsg_data(nlmsg_hdr(message));
	if (genlmsg_parse(nlmsg_hdr(message), 0, attributes, NBD_ATTR_MAX, NULL) == 0 && header->cmd == NBD_CMD_LINK_DEAD &&
		attributes[NBD_ATTR_INDEX] && nla_len(attributes[NBD_ATTR_INDEX]) == sizeof(uint32_t) &&
		nla_get_u32(attributes[NBD_ATTR_INDEX]) == link->number)
		link->was_cut = true;
	return NL_OK;
}

int nbd_link_listen(struct nbd_link *link, struct reason *reason)
{
	int group = genl_ctrl_resolve_grp(link->socket, NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME);
	int error = group < 0 ? group : nl_socket_add_membership(link->socket, group);
	nl_socket_disable_seq_check(link->socket);
	if (error == 0)
		error = nl_socket_modify_cb(link->socket, NL_CB_VALID, NL_CB_CUSTOM, on_event, link);
	if (error == 0)
		error = nl_socket_set_nonblocking(link->socket);
	return error < 0 ? reason_set(reason, -EIO, "netlink: %s", nl_geterror(error)) : 0;
}

int nbd_link_descriptor(const struct nbd_link *link)
{
	return nl_socket_get_fd(link->socket);
}

bool nbd_link_was_cut(struct nbd_link *link, unsigned number)
{
	int error;
	link->number = number;
	link->was_cut = false;
	while ((error = nl_recvmsgs_default(link->socket)) >= 0)
		continue;
	return link->was_cut || error == -NLE_NOMEM; /* ENOBUFS: some were dropped */
}
