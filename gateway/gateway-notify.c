/* gateway-notify.c: what systemd is told (sd_notify(3)): when the gateway is ready, that a start takes longer, that the loop
 * still turns if a watchdog asks for it, and in STATUS what an administrator should see first. */
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "gateway-internal.h"
#include "log.h"

enum { EXTEND_EVERY_MS = 5000, EXTEND_BY_US = 20000000, STATUS_MAX = 600 };

/* Names of volumes that still start, or that wait for copies. Returns how many. */
static unsigned list_volumes(const struct gateway *gateway, bool starting, char text[STATUS_MAX])
{
	unsigned count = 0;
	size_t used = 0;
	text[0] = '\0';
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
	{
		if (!(starting ? !served->is_resolved : served->is_stalled))
			continue;
		if (used < STATUS_MAX)
			used += (size_t)snprintf(text + used, STATUS_MAX - used, "%s%s", count ? ", " : "", served->volume.name);
		count++;
	}
	return count;
}

/* A mend may take longer than systemd waits for a start. */
static void on_timer(uv_timer_t *timer)
{
	char names[STATUS_MAX];
	if (list_volumes(timer->data, true, names) == 0)
		uv_timer_stop(timer);
	else
		sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%d\nSTATUS=Starting: %s", EXTEND_BY_US, names);
}

static void on_watchdog(uv_timer_t *timer)
{
	(void)timer;
	sd_notify(0, "WATCHDOG=1");
}

void notify_start(struct gateway *gateway)
{
	uv_timer_init(&gateway->loop, &gateway->starting);
	gateway->starting.data = gateway;
	uv_timer_start(&gateway->starting, on_timer, EXTEND_EVERY_MS, EXTEND_EVERY_MS);
	uv_timer_init(&gateway->loop, &gateway->watchdog);
	uint64_t limit_us;
	if (sd_watchdog_enabled(0, &limit_us) > 0)
		uv_timer_start(&gateway->watchdog, on_watchdog, 0, limit_us / 3000 + 1);
}

static void notify_state(const struct gateway *gateway, const char *before)
{
	char stalled[STATUS_MAX];
	unsigned serving = 0, waiting = list_volumes(gateway, false, stalled);
	const struct served_volume *served;
	LIST_FOR_EACH(served, &gateway->served, link)
		serving += served->export->state == EXPORT_SERVING;
	sd_notifyf(0, "%sSTATUS=%s %u of %zu volumes%s%s", before, gateway->state == GATEWAY_FENCED ? "Fenced," : "Serving",
		serving, gateway->served_count, waiting ? "; requests wait for copies of " : "", stalled);
}

void notify_ready(const struct gateway *gateway)
{
	notify_state(gateway, "READY=1\n");
}

void notify_stalled(struct served_volume *served, bool is_stalled)
{
	if (served->is_stalled == is_stalled)
		return;
	served->is_stalled = is_stalled;
	if (is_stalled)
		log_event(LOG_LEVEL_WARNING, EVENT_VOLUME_PAUSED, served->volume.name, LOG_NO_SLOT,
			"%s: requests wait: too few of its copies are there", served->volume.name);
	else
		log_event(LOG_LEVEL_INFO, EVENT_VOLUME_SERVING, served->volume.name, LOG_NO_SLOT, "%s: goes on",
			served->volume.name);
	if (served->gateway->state == GATEWAY_SERVING)
		notify_state(served->gateway, "");
}

void notify_fenced(const struct reason *reason)
{
	sd_notifyf(0, "STATUS=Fenced: %s", reason->text);
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1\nSTATUS=Stopping");
}
