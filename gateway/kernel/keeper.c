#include "kernel/keeper.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "cleanup.h"
#include "kernel/io-flusher.h"
#include "kernel/nbd-netlink.h"
#include "log.h"
#include "monotonic.h"

enum {
	CHECK_MS = 10000, /* for what no event tells: that somebody took the device away, or that the volume was resized */
	PAUSE_FIRST_MS = 5, /* before a gateway is tried again, doubled each time */
	PAUSE_MAX_MS = 1000,
	STACK_SIZE = 256 << 10,
	STATUS_MAX = 600,
};

enum kept_state {
	KEPT_STARTING,
	KEPT_CONNECTED,
	KEPT_CUT, /* attached, but connections are dead: requests wait */
	KEPT_FAILED, /* could not be attached; tried again */
	KEPT_ENDED, /* somebody took it away */
};

/* A volume and its thread. The main thread reads `state` and `number`, and the rest only behind pthread_join(). */
struct kept {
	struct attach attach;
	pthread_t thread;
	bool has_thread;
	int stop, changed; /* descriptors: the thread shall end; a state has changed */
	atomic_int state; /* enum kept_state */
	atomic_uint number;
	int error; /* why it failed at first */
	/* the thread's own */
	struct nbd_link *events;
	struct kernel_device device;
	struct timespec volume_file; /* when it was changed last */
	uint64_t wanted_size;
	int64_t cut_since;
	struct reason said; /* what was logged last about not getting on */
};

static void set_state(struct kept *kept, enum kept_state state)
{
	atomic_store(&kept->number, kept->device.number);
	atomic_store(&kept->state, state);
	eventfd_write(kept->changed, 1);
}

/* Says why it does not get on, once for each reason. */
static void complain(struct kept *kept, const struct reason *reason)
{
	if (strcmp(kept->said.text, reason->text) != 0)
		log_warning("%s", reason->text);
	kept->said = *reason;
}

static int attach_first(struct kept *kept, struct reason *reason)
{
	bool was_attached = true;
	const struct volume *volume = kept->attach.volume;
	int status = 0;
	if (device_find(DEVICE_SYSFS, volume->name, &kept->device) &&
		(!kept->attach.exactly || kept->device.number == kept->attach.number))
		set_state(kept, KEPT_CUT); /* of an earlier keeper; which connections are dead nobody knows */
	else
		status = attach_volume(&kept->attach, &kept->device, &was_attached, reason);
	if (status < 0)
		return status;
	kept->wanted_size = kept->device.size;
	log_info("%s: %s as /dev/nbd%u", volume->name, was_attached ? "is attached already" : "attached", kept->device.number);
	return 0;
}

/* Has the volume grown, as its file says? */
static bool has_grown(struct kept *kept)
{
	const struct volume *volume = kept->attach.volume;
	CLEANUP(volume_free) struct volume now = { 0 };
	struct stat info;
	if (stat(volume->path, &info) == 0 && memcmp(&info.st_mtim, &kept->volume_file, sizeof info.st_mtim) != 0 &&
		volume_load(kept->attach.config, volume->name, &now, NULL) == 0) {
		kept->volume_file = info.st_mtim;
		kept->wanted_size = now.size;
	}
	return kept->wanted_size > kept->device.size;
}

/* Returns true when everything is as it should be. */
static bool refresh(struct kept *kept)
{
	struct reason reason;
	int status = attach_refresh(&kept->attach, &kept->device, &reason);
	if (status < 0 && status != -EINTR)
		complain(kept, &reason);
	if (status < 0)
		return false;
	if (atomic_load(&kept->state) == KEPT_CUT && kept->cut_since)
		log_info("%s: /dev/nbd%u is connected again, after %.2f s", kept->attach.volume->name, kept->device.number,
			(double)(now_ms() - kept->cut_since) / 1000);
	kept->said.text[0] = '\0';
	set_state(kept, KEPT_CONNECTED);
	return true;
}

static void notice_cut(struct kept *kept)
{
	if (atomic_load(&kept->state) == KEPT_CUT)
		return;
	kept->cut_since = now_ms();
	log_warning("%s: /dev/nbd%u has lost its connection: requests wait", kept->attach.volume->name, kept->device.number);
	set_state(kept, KEPT_CUT);
}

/* Until it is told to stop, or somebody has taken the device away. */
static void keep(struct kept *kept)
{
	int pause = PAUSE_FIRST_MS;
	for (;;) {
		bool is_cut = atomic_load(&kept->state) == KEPT_CUT;
		struct pollfd polled[] = {
			{ .fd = kept->stop, .events = POLLIN },
			{ .fd = nbd_link_descriptor(kept->events), .events = POLLIN },
		};
		poll(polled, 2, is_cut ? pause : CHECK_MS);
		if (polled[0].revents)
			return;
		if (nbd_link_was_cut(kept->events, kept->device.number))
			notice_cut(kept);
		device_read(DEVICE_SYSFS, kept->device.number, &kept->device);
		if (!device_is_of(&kept->device, kept->attach.volume->name)) {
			log_info("%s: /dev/nbd%u has been taken away", kept->attach.volume->name, kept->device.number);
			set_state(kept, KEPT_ENDED);
			return;
		}
		is_cut = atomic_load(&kept->state) == KEPT_CUT;
		bool is_well = is_cut || has_grown(kept) ? refresh(kept) : true;
		pause = is_well ? PAUSE_FIRST_MS : pause < PAUSE_MAX_MS / 2 ? pause * 2 : PAUSE_MAX_MS;
	}
}

/* Waits for the next try. True: shall end. */
static bool rest(const struct kept *kept)
{
	struct pollfd stop = { .fd = kept->stop, .events = POLLIN };
	return poll(&stop, 1, CHECK_MS) > 0;
}

static void *run(void *context)
{
	struct kept *kept = context;
	struct reason reason;
	int status = nbd_link_open(&kept->events, &reason);
	if (status == 0)
		status = nbd_link_listen(kept->events, &reason);
	bool listens = status == 0;
	if (listens)
		status = attach_first(kept, &reason);
	while (status < 0 && status != -EINTR) {
		complain(kept, &reason);
		if (atomic_load(&kept->state) == KEPT_STARTING) {
			kept->error = status;
			set_state(kept, KEPT_FAILED);
		}
		if (!listens || rest(kept))
			return NULL;
		status = attach_first(kept, &reason);
	}
	if (status == 0) {
		if (atomic_load(&kept->state) != KEPT_CUT)
			set_state(kept, KEPT_CONNECTED);
		keep(kept);
	}
	return NULL;
}

/* The main thread */

static size_t count_state(struct kept *kept, size_t count, enum kept_state state)
{
	size_t found = 0;
	for (size_t i = 0; i < count; i++)
		found += atomic_load(&kept[i].state) == (int)state;
	return found;
}

static void tell_systemd(struct kept *kept, size_t count, const char *before)
{
	static const char *const words[] = {
		[KEPT_STARTING] = "waits for its gateway",
		[KEPT_CONNECTED] = "",
		[KEPT_CUT] = ": requests wait for its gateway",
		[KEPT_FAILED] = "could not be attached",
		[KEPT_ENDED] = "was taken away",
	};
	char text[STATUS_MAX] = "";
	size_t used = 0;
	for (size_t i = 0; i < count && used < sizeof text; i++) {
		int state = atomic_load(&kept[i].state);
		const char *name = kept[i].attach.volume->name;
		if (state == KEPT_CONNECTED || state == KEPT_CUT)
			used += (size_t)snprintf(text + used, sizeof text - used, "%s%s is /dev/nbd%u%s", used ? "; " : "", name,
				atomic_load(&kept[i].number), words[state]);
		else
			used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", used ? "; " : "", name, words[state]);
	}
	sd_notifyf(0, "%sSTATUS=%s", before, text);
}

/* Until a signal, or until nothing is left to be kept. Returns an exit status. */
static int supervise(struct kept *kept, size_t count, int signals, int changed)
{
	uint64_t watchdog_us = 0, changes;
	bool is_ready = false;
	int timeout = sd_watchdog_enabled(0, &watchdog_us) > 0 ? (int)(watchdog_us / 3000) + 1 : -1;
	for (;;) {
		struct pollfd polled[] = { { .fd = signals, .events = POLLIN }, { .fd = changed, .events = POLLIN } };
		poll(polled, 2, timeout);
		if (timeout > 0)
			sd_notify(0, "WATCHDOG=1");
		if (polled[0].revents) {
			sd_notify(0, "STOPPING=1");
			return 0;
		}
		if (!polled[1].revents)
			continue;
		eventfd_read(changed, &changes);
		size_t failed = count_state(kept, count, KEPT_FAILED);
		if (!is_ready && failed == count)
			return exit_status_for(kept[0].error);
		if (count_state(kept, count, KEPT_ENDED) == count)
			return 0;
		bool becomes_ready = !is_ready && count_state(kept, count, KEPT_STARTING) == 0;
		is_ready = is_ready || becomes_ready;
		tell_systemd(kept, count, becomes_ready ? "READY=1\n" : "");
	}
}

static int start_threads(struct kept *kept, const struct attach *attaches, size_t count, int stop, int changed)
{
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, STACK_SIZE);
	int error = 0;
	for (size_t i = 0; i < count && error == 0; i++) {
		kept[i] = (struct kept){ .attach = attaches[i], .stop = stop, .changed = changed };
		kept[i].attach.wake = stop;
		error = pthread_create(&kept[i].thread, &small, run, &kept[i]);
		kept[i].has_thread = error == 0;
	}
	pthread_attr_destroy(&small);
	return error;
}

int keeper_run(struct attach *attaches, size_t count)
{
	CLEANUP_CLOSE int stop = eventfd(0, EFD_CLOEXEC), changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CLEANUP_FREE struct kept *kept = calloc(count, sizeof *kept);
	struct reason reason;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	CLEANUP_CLOSE int signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (!kept || stop < 0 || changed < 0 || signals < 0) {
		log_error("cannot start: %m");
		return EXIT_INTERNAL;
	}
	if (become_io_flusher(&reason) < 0)
		log_warning("%s", reason.text);
	int error = start_threads(kept, attaches, count, stop, changed);
	if (error)
		log_error("cannot start: %s", strerror(error));
	int status = error ? EXIT_INTERNAL : supervise(kept, count, signals, changed);
	eventfd_write(stop, 1);
	for (size_t i = 0; i < count; i++) {
		if (kept[i].has_thread)
			pthread_join(kept[i].thread, NULL);
		nbd_link_close(kept[i].events);
	}
	return status;
}
