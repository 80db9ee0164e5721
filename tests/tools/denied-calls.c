/* denied-calls.c: tries every system call and capability that a gateway's unit denies, and says how each ended.
 *
 * It is run in place of the gateway by the test of the unit, which gives denied calls an errno of their own: that a call fails
 * for want of a privilege proves nothing about the filter. One line for each: the name, and the name of its errno.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *name, long result)
{
	printf("%s %s\n", name, result >= 0 ? "done" : strerrorname_np(errno));
}

/* Arguments are such that nothing happens where it is allowed. */
static void try_calls(void)
{
	static const struct {
		const char *name;
		long number;
	} calls[] = {
		{ "acct", SYS_acct },
		{ "add_key", SYS_add_key },
		{ "bpf", SYS_bpf },
		{ "chroot", SYS_chroot },
		{ "clock_adjtime", SYS_clock_adjtime },
		{ "clock_settime", SYS_clock_settime },
		{ "delete_module", SYS_delete_module },
		{ "fanotify_init", SYS_fanotify_init },
		{ "finit_module", SYS_finit_module },
		{ "init_module", SYS_init_module },
		{ "kexec_load", SYS_kexec_load },
		{ "mbind", SYS_mbind },
		{ "mount", SYS_mount },
		{ "move_mount", SYS_move_mount },
		{ "open_by_handle_at", SYS_open_by_handle_at },
		{ "perf_event_open", SYS_perf_event_open },
		{ "pidfd_getfd", SYS_pidfd_getfd },
		{ "pivot_root", SYS_pivot_root },
		{ "process_vm_readv", SYS_process_vm_readv },
		{ "process_vm_writev", SYS_process_vm_writev },
		{ "ptrace", SYS_ptrace },
		{ "quotactl", SYS_quotactl },
		{ "reboot", SYS_reboot },
		{ "request_key", SYS_request_key },
		{ "setgroups", SYS_setgroups },
		{ "sethostname", SYS_sethostname },
		{ "setns", SYS_setns },
		{ "setpriority", SYS_setpriority },
		{ "settimeofday", SYS_settimeofday },
		{ "setuid", SYS_setuid },
		{ "swapoff", SYS_swapoff },
		{ "swapon", SYS_swapon },
		{ "syslog", SYS_syslog },
		{ "umount2", SYS_umount2 },
		{ "unshare", SYS_unshare },
		{ "userfaultfd", SYS_userfaultfd },
		{ "vhangup", SYS_vhangup },
#ifdef __x86_64__
		{ "ioperm", SYS_ioperm },
		{ "iopl", SYS_iopl },
		{ "modify_ldt", SYS_modify_ldt },
#endif
	};
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
		say(calls[i].name, syscall(calls[i].number, -1, NULL, -1, NULL, -1, -1));
}

static void try_families(void)
{
	static const struct {
		const char *name;
		int family, type;
	} families[] = {
		{ "unix", AF_UNIX, SOCK_STREAM },
		{ "inet", AF_INET, SOCK_STREAM },
		{ "inet6", AF_INET6, SOCK_STREAM },
		{ "packet", AF_PACKET, SOCK_RAW },
		{ "netlink", AF_NETLINK, SOCK_RAW },
		{ "vsock", AF_VSOCK, SOCK_STREAM },
	};
	for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
		say(families[i].name, socket(families[i].family, families[i].type | SOCK_CLOEXEC, 0));
}

static void try_files(void)
{
	static const char *const written[] = { "/etc/denied", "/usr/denied", "/var/denied", "/proc/sys/kernel/hostname",
		"/sys/kernel/mm/ksm/run", "/sys/fs/cgroup/cgroup.procs", "/dev/denied", "/var/lib/tb4/denied", "/run/tb4/denied" };
	for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
		char name[80];
		snprintf(name, sizeof name, "write:%s", written[i]);
		say(name, open(written[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	}
	say("read:/dev/kmsg", open("/dev/kmsg", O_RDONLY | O_CLOEXEC));
	say("read:/root", open("/root", O_RDONLY | O_CLOEXEC));
}

/* Code that is written at run time, other users, other rights. */
static void try_others(void)
{
	say("write-and-execute", (intptr_t)mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("make-executable", mprotect(page, 4096, PROT_READ | PROT_EXEC));
	say("set-user-id-file", fchmodat(AT_FDCWD, "/run/tb4/denied", S_ISUID | 0700, 0));
	struct sched_param real_time = { .sched_priority = 1 };
	say("real-time", sched_setscheduler(0, SCHED_FIFO, &real_time));
}

int main(void)
{
	try_calls();
	try_families();
	try_files();
	try_others();
	return 0;
}
