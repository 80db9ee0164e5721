/* check-host.c: clock, kernel and systemd of this host. */
#include <inttypes.h>
#include <string.h>

#include "doctor/doctor.h"

/* Limits, each with what it is for. */
enum {
	SEND_BUFFER = 1 << 20, /* nbd/server.c wants it for the unix socket, and may have wmem_max */
	STREAM_BUFFER = 2 << 20, /* 1 ms at 20 Gbit/s is 2.5 MB in flight */
};
static const int64_t EPOCH_2024 = 1704067200, EPOCH_2100 = 4102444800;

void check_clock(const struct doctor *doctor, struct report *report)
{
	if (doctor->host.now < EPOCH_2024 || doctor->host.now >= EPOCH_2100) {
		FOUND_ERROR(report, "clock", "it says %" PRId64 " s since 1970, which is not now: certificates count as invalid, and "
									 "records and logs tell nothing", doctor->host.now);
		report_next(report, "timedatectl set-ntp true");
	} else if (!doctor->host.clock_is_synchronised) {
		FOUND_WARNING(report, "clock", "nobody keeps it right: the kernel counts it as not synchronised");
		report_next(report, "chronyc tracking, or timedatectl timesync-status");
	}
}

void check_modules(const struct doctor *doctor, struct report *report)
{
	const struct host *host = &doctor->host;
	uint64_t max_part;
	if (!host_has(host, "/sys/module/nbd"))
		return; /* loaded when a device is wanted */
	if (host_numbers(host, "/sys/module/nbd/parameters/max_part", &max_part, 1) == 1 && max_part > 0) {
		FOUND_WARNING(report, "nbd", "loaded with max_part=%" PRIu64 ": the kernel looks for partitions on the disks of guests",
			max_part);
		report_next(report, "modprobe -r nbd; modprobe nbd, which takes nbds_max=100 max_part=0 from modprobe.d");
	}
}

static void judge_ring(const struct host *host, struct report *report)
{
	uint64_t disabled;
	if (host_numbers(host, "/proc/sys/kernel/io_uring_disabled", &disabled, 1) == 0 || disabled == 0)
		return; /* older kernels always have it */
	FOUND_WARNING(report, "kernel.io_uring_disabled", "it is %" PRIu64 ": the file backend uses threads, which cost more",
		disabled);
	report_next(report, "sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d/tb4.conf");
}

/* The third number, the most that the kernel gives to one connection. */
static void judge_stream(const struct host *host, const char *name, const char *path, struct report *report)
{
	uint64_t sizes[3];
	if (host_numbers(host, path, sizes, 3) < 3 || sizes[2] >= STREAM_BUFFER)
		return;
	FOUND_WARNING(report, name, "at most %" PRIu64 " bytes under way on a connection to a sled: too few for a fast network",
		sizes[2]);
	report_next(report, "sysctl -w %s=\"%" PRIu64 " %" PRIu64 " 6291456\", and the same in /etc/sysctl.d/tb4.conf", name,
		sizes[0], sizes[1]);
}

void check_sysctl(const struct doctor *doctor, struct report *report)
{
	const struct host *host = &doctor->host;
	uint64_t most;
	judge_ring(host, report);
	if (host_numbers(host, "/proc/sys/net/core/wmem_max", &most, 1) == 1 && most < SEND_BUFFER) {
		FOUND_WARNING(report, "net.core.wmem_max", "it is %" PRIu64 ": a gateway without privileges sends a reply of 1 MiB in "
												   "pieces, and waits for its client between them", most);
		report_next(report, "sysctl -w net.core.wmem_max=%d, and the same in /etc/sysctl.d/tb4.conf", SEND_BUFFER);
	}
	if (doctor->config.sled_count > 0) {
		judge_stream(host, "net.ipv4.tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem", report);
		judge_stream(host, "net.ipv4.tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem", report);
	}
}

static bool has_unit(const struct host *host, const char *name)
{
	static const char *const places[] = { "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
		"/usr/lib/systemd/system", "/lib/systemd/system" };
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		char path[HOST_TEXT_MAX];
		snprintf(path, sizeof path, "%s/%s", places[i], name);
		if (host_has(host, path))
			return true;
	}
	return false;
}

void check_units(const struct doctor *doctor, struct report *report)
{
	static const char *const names[] = { "tb4-vm@.service", "tb4-vm@.socket" };
	if (!host_has(&doctor->host, "/run/systemd/system"))
		return; /* something else starts gateways here */
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (has_unit(&doctor->host, names[i]))
			continue;
		FOUND_WARNING(report, names[i], "systemd does not have this unit: nothing starts a gateway again that has died");
		report_next(report, "apt install --reinstall tb4-gateway");
	}
}
