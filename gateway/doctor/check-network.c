/* check-network.c: the way to each sled: its interface, and whether packets of that interface's full size arrive.
 *
 * A datagram that may not be fragmented goes to a port where nobody listens; the host there answers it with an error. If it
 * answers a small one and not a full-size one, something on the way drops those, and TCP would send them for ever. A host
 * that answers neither (a firewall) cannot be judged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "doctor/doctor.h"

enum {
	PROBE_PORT = 9, /* discard */
	PROBE_TRIES = 3,
	PROBE_WAIT_MS = 1100, /* hosts send at least one such error a second, and a few at once */
	ETHERNET_MTU = 1500,
	HEADERS_V4 = 28, /* of a UDP packet */
	HEADERS_V6 = 48,
	PACKET_MAX = 65535, /* loopback has an MTU above it */
	DATAGRAM_MAX = 65507,
};

/* One sled's. */
struct route {
	const struct sled *sled;
	char subject[SETTING_GROUP_NAME_MAX + 8];
	int fd, family; /* a connected UDP socket; fd -1: not to be looked at */
	char interface[IF_NAMESIZE];
	uint64_t mtu; /* of the interface; 0: not known */
	bool small_arrives, full_arrives;
};

static int path_mtu(const struct route *route)
{
	int mtu = 0;
	socklen_t length = sizeof mtu;
	bool v6 = route->family == AF_INET6;
	return getsockopt(route->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU, &mtu, &length) == 0 ? mtu : 0;
}

static bool is_same_address(const struct sockaddr *one, const struct sockaddr *other)
{
	if (!one || one->sa_family != other->sa_family)
		return false;
	return one->sa_family == AF_INET
		? ((const struct sockaddr_in *)one)->sin_addr.s_addr == ((const struct sockaddr_in *)other)->sin_addr.s_addr
		: IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)one)->sin6_addr, &((const struct sockaddr_in6 *)other)->sin6_addr);
}

/* The interface that has our address on this route. */
static void find_interface(struct route *route)
{
	struct sockaddr_storage ours = { 0 };
	socklen_t length = sizeof ours;
	struct ifaddrs *all = NULL;
	struct ifreq request = { 0 };
	if (getsockname(route->fd, (struct sockaddr *)&ours, &length) < 0 || getifaddrs(&all) < 0)
		return;
	for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
		if (is_same_address(one->ifa_addr, (struct sockaddr *)&ours))
			snprintf(route->interface, sizeof route->interface, "%s", one->ifa_name);
	}
	freeifaddrs(all);
	memcpy(request.ifr_name, route->interface, sizeof route->interface);
	if (route->interface[0] && ioctl(route->fd, SIOCGIFMTU, &request) == 0)
		route->mtu = (uint64_t)request.ifr_mtu;
}

static int open_route(const struct addrinfo *address, struct route *route)
{
	CLEANUP_CLOSE int fd = socket(address->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool v6 = address->ai_family == AF_INET6;
	int whole = v6 ? IPV6_PMTUDISC_DO : IP_PMTUDISC_DO, room = 1 << 18;
	if (fd < 0 ||
		setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &whole, sizeof whole) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) < 0 ||
		connect(fd, address->ai_addr, address->ai_addrlen) < 0)
		return -errno;
	route->family = address->ai_family;
	route->fd = take_fd(&fd);
	return 0;
}

static void begin(struct route *route, struct report *report)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_DGRAM };
	struct addrinfo *address = NULL;
	char port[8];
	snprintf(port, sizeof port, "%d", PROBE_PORT);
	route->fd = -1;
	snprintf(route->subject, sizeof route->subject, "sled %s", route->sled->name);
	int error = getaddrinfo(route->sled->address, port, &hints, &address);
	if (error) {
		FOUND_ERROR(report, route->subject, "%s: not known here: %s", route->sled->address, gai_strerror(error));
		report_next(report, "getent hosts %s; write it into /etc/hosts, or its number into tb4.conf", route->sled->address);
		return;
	}
	int status = open_route(address, route);
	freeaddrinfo(address);
	if (status == 0) {
		find_interface(route);
		return;
	}
	FOUND_ERROR(report, route->subject, "no way to %s: %s", route->sled->address, strerror(-status));
	report_next(report, "ip route get %s", route->sled->address);
}

/* Probing */

static bool is_waiting(const struct route *route, bool full)
{
	return route->fd >= 0 && !(full ? route->full_arrives : route->small_arrives) && (!full || route->small_arrives);
}

static void send_probe(const struct route *route, bool full)
{
	static const char zeros[DATAGRAM_MAX];
	int size = full ? path_mtu(route) - (route->family == AF_INET6 ? HEADERS_V6 : HEADERS_V4) : 1;
	if (size > DATAGRAM_MAX)
		size = DATAGRAM_MAX;
	if (size > 0)
		(void)!send(route->fd, zeros, (size_t)size, 0); /* what went wrong before may be told here: there is a next try */
}

/* Waits for answers to what was sent, or for the time to be over. */
static void collect(struct route *routes, struct pollfd *polls, size_t count, bool full)
{
	size_t open = 0;
	for (size_t i = 0; i < count; i++) {
		bool waits = is_waiting(&routes[i], full);
		polls[i] = (struct pollfd){ .fd = waits ? routes[i].fd : -1, .events = POLLIN };
		open += waits;
	}
	while (open > 0 && poll(polls, count, PROBE_WAIT_MS) > 0) {
		for (size_t i = 0; i < count; i++) {
			char byte;
			if (polls[i].fd < 0 || !polls[i].revents)
				continue;
			bool answered = recv(polls[i].fd, &byte, 1, 0) >= 0 || errno == ECONNREFUSED;
			if (!answered)
				continue; /* a route that has become smaller */
			*(full ? &routes[i].full_arrives : &routes[i].small_arrives) = true;
			polls[i].fd = -1;
			open--;
		}
	}
}

static void probe(struct route *routes, struct pollfd *polls, size_t count, bool full)
{
	for (unsigned try = 0; try < PROBE_TRIES; try++) {
		for (size_t i = 0; i < count; i++) {
			if (is_waiting(&routes[i], full))
				send_probe(&routes[i], full);
		}
		collect(routes, polls, count, full);
	}
}

/* Judging */

static void judge_path(const struct route *route, struct report *report)
{
	int mtu = path_mtu(route);
	if (mtu > 0 && mtu < PACKET_MAX && (uint64_t)mtu < route->mtu) {
		FOUND_WARNING(report, route->subject, "packets to it have at most %d bytes, and %s has an MTU of %" PRIu64, mtu,
			route->interface, route->mtu);
		report_next(report, "ip route get %s; give all interfaces on the way the same MTU", route->sled->address);
	} else if (route->small_arrives && !route->full_arrives) {
		FOUND_ERROR(report, route->subject, "packets of %d bytes, the MTU of %s, do not arrive there, small ones do: transfers "
											"will hang", mtu, route->interface);
		report_next(report, "ping -M do -s %d %s; give %s and the interface there the same MTU", mtu - HEADERS_V4,
			route->sled->address, route->interface);
	}
}

static void judge_together(const struct doctor *doctor, const struct route *routes, size_t count, struct report *report)
{
	const struct route *widest = NULL;
	uint64_t probing;
	for (size_t i = 0; i < count; i++) {
		bool is_loopback = strcmp(routes[i].interface, "lo") == 0;
		if (routes[i].mtu > 0 && !is_loopback && (!widest || routes[i].mtu > widest->mtu))
			widest = &routes[i];
	}
	for (size_t i = 0; widest && i < count; i++) {
		if (routes[i].mtu == 0 || routes[i].mtu >= widest->mtu)
			continue;
		FOUND_WARNING(report, routes[i].subject, "is reached over %s with an MTU of %" PRIu64 ", %s over %s with %" PRIu64,
			routes[i].interface, routes[i].mtu, widest->subject, widest->interface, widest->mtu);
		report_next(report, "ip link set %s mtu %" PRIu64 ", there too", routes[i].interface, widest->mtu);
	}
	if (widest && widest->mtu > ETHERNET_MTU &&
		host_numbers(&doctor->host, "/proc/sys/net/ipv4/tcp_mtu_probing", &probing, 1) == 1 && probing == 0) {
		FOUND_WARNING(report, "net.ipv4.tcp_mtu_probing", "it is 0, and %s has an MTU of %" PRIu64 ": a connection whose large "
														  "packets are dropped on the way hangs instead of sending smaller ones",
			widest->interface, widest->mtu);
		report_next(report, "sysctl -w net.ipv4.tcp_mtu_probing=1, and the same in /etc/sysctl.d/tb4.conf");
	}
}

void check_network(const struct doctor *doctor, struct report *report)
{
	const size_t count = doctor->survey_count;
	CLEANUP_FREE struct route *routes = calloc(count + 1, sizeof *routes);
	CLEANUP_FREE struct pollfd *polls = calloc(count + 1, sizeof *polls);
	if (!routes || !polls) {
		report->is_incomplete = true;
		return;
	}
	for (size_t i = 0; i < count; i++) {
		routes[i].sled = doctor->surveys[i].sled;
		begin(&routes[i], report);
	}
	probe(routes, polls, count, false);
	probe(routes, polls, count, true);
	for (size_t i = 0; i < count; i++) {
		if (routes[i].fd >= 0)
			judge_path(&routes[i], report);
	}
	judge_together(doctor, routes, count, report);
	for (size_t i = 0; i < count; i++)
		cleanup_close(&routes[i].fd);
}
