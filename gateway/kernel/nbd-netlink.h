/* nbd-netlink.h: what is said to the kernel's NBD client, by its generic netlink family "nbd".
 *
 * Blocking; a link belongs to one thread. Needs CAP_SYS_ADMIN. The kernel takes references to sockets that it is given; the
 * caller closes its own.
 */
#ifndef TB4_NBD_NETLINK_H
#define TB4_NBD_NETLINK_H

#include <linux/nbd-netlink.h>
#include <stdbool.h>
#include <stdint.h>

#include "reason.h"

/* What is zero or NULL is left out of the message, and so stays as it is with the kernel. */
struct nbd_setup {
	unsigned number; /* of /dev/nbdN */
	const char *identifier; /* kept by the kernel and compared at each change; shown in sysfs as `backend` */
	uint64_t size; /* bytes; in a RECONFIGURE it freezes the queue until its requests have ended */
	uint64_t block_size; /* the device's logical one */
	uint64_t server_flags; /* transmission flags of the server */
	uint64_t request_timeout; /* seconds until a request is sent again, on another connection */
	uint64_t dead_timeout; /* seconds that requests wait for a connection before they fail */
	const int *sockets; /* after the handshake */
	unsigned socket_count;
};

struct nl_msg;
/* The message for NBD_CMD_CONNECT, RECONFIGURE or DISCONNECT; NULL without memory. nlmsg_free() it. */
struct nl_msg *nbd_message(int family, uint8_t command, const struct nbd_setup *setup);

struct nbd_link;
int nbd_link_open(struct nbd_link **link, struct reason *reason);
void nbd_link_close(struct nbd_link *link);
static inline void cleanup_nbd_link(struct nbd_link **link)
{
	nbd_link_close(*link);
}

/* Sends it and waits for the kernel's answer. -EBUSY to a CONNECT: the device is connected, or open at this moment. */
int nbd_link_send(struct nbd_link *link, uint8_t command, const struct nbd_setup *setup, struct reason *reason);

/* From here on the link only listens for connections that died. */
int nbd_link_listen(struct nbd_link *link, struct reason *reason);
/* To be polled for reading. */
int nbd_link_descriptor(const struct nbd_link *link);
/* Takes what has come. True if a connection of that device died, or if the kernel had to drop messages. */
bool nbd_link_was_cut(struct nbd_link *link, unsigned number);

#endif
