/* gateway-internal.h: what gateway.c, gateway-control.c, gateway-notify.c, gateway-reload.c,
 * gateway-slots.c and gateway-volumes.c share. */
#ifndef TB4_GATEWAY_INTERNAL_H
#define TB4_GATEWAY_INTERNAL_H

#include <uv.h>

#include "backend/backend.h"
#include "control/control-server.h"
#include "gateway.h"
#include "nbd/server.h"
#include "volume/copies-store.h"
#include "volume/ownership.h"
#include "volume/volume.h"

enum gateway_state { GATEWAY_STARTING, GATEWAY_SERVING, GATEWAY_FENCED, GATEWAY_STOPPING };
extern const char *const gateway_state_names[];

/* One volume and everything that serves it. */
struct served_volume {
	struct list link; /* gateway.served */
	struct gateway *gateway;
	struct volume volume;
	struct nbd_export *export;
	struct backend *backend; /* from open to BACKEND_CLOSED */
	struct hold hold;
	struct copies_store copies; /* of a backend that has some */
	bool is_held;     /* hold is valid and not released */
	bool is_resolved; /* served, failed or fenced: no longer starting */
	bool is_active;   /* the backend is */
	bool is_closing;
	bool is_retiring; /* taken out of service, at a stop or because it leaves */
	uint64_t leave_by; /* loop time in ms when its last clients are dropped; 0: it does not leave */
	bool is_stalled; /* requests wait for copies */
	int error;        /* why it failed */
	/* a change by the control socket, from its beginning to its answer */
	struct control_client *change_client;
	uv_work_t change_work;
	int change_error;
	struct reason change_reason;
	uint64_t resized_to;
	/* replace */
	unsigned slot;
	char *target;
	struct sockaddr_storage target_address;
};

struct gateway {
	const struct config *config;
	uint64_t vmid;
	bool stdio;
	uv_loop_t loop;
	enum gateway_state state;
	bool was_fenced;  /* when it was told to stop */
	bool is_drained;  /* stopping: no request of a client is in flight any more */
	uint64_t started; /* loop time, ms */

	struct list served; /* served_volume.link, by name when it was started */
	size_t served_count;
	uint16_t nbd_port; /* over TCP; 0: none */
	bool is_secured;   /* TCP clients use TLS */
	struct limits limits; /* of all volumes together */
	struct reload *reload; /* while one is under way: gateway-reload.c */
	struct ownership *ownership;
	struct nbd_server *server;
	struct control_server *control;
	char *socket_path, *control_path;
	bool owns_socket; /* bound by us, not inherited */

	uv_signal_t sigterm, sigint, sighup;
	uv_fs_event_t records; /* somebody changes claim_dir */
	uv_timer_t starting; /* runs while volumes are not resolved */
	uv_timer_t watchdog; /* of systemd */
	uv_timer_t leaving; /* runs while volumes leave */
	int exit_status;
};

/* gateway-notify.c */
void notify_start(struct gateway *gateway);
void notify_ready(const struct gateway *gateway);
void notify_stalled(struct served_volume *served, bool is_stalled);
void notify_fenced(const struct reason *reason);
void notify_stopping(void);

/* gateway.c: all I/O of the VM ends, for somebody else owns one of its volumes. */
void gateway_fence(struct gateway *gateway, const struct reason *reason);
/* A volume is served, or has failed for good. */
void gateway_volume_resolved(struct gateway *gateway);
/* A backend is gone; at a stop the last one ends it. */
void gateway_close_if_last(struct gateway *gateway);
/* A reload is over; a stop may have waited for it. */
void gateway_reload_ended(struct gateway *gateway);

/* gateway-reload.c: what may change while it is served. */
void gateway_limit_volume(struct served_volume *served);
int gateway_read_limits(struct gateway *gateway, struct reason *reason);
/* Applies what volume files say now. */
void gateway_begin_reload(struct gateway *gateway, struct control_client *client, struct json_object *request);

/* gateway-control.c: answers one request of the control socket. */
void gateway_handle_control(
	void *context, struct control_client *client, const char *command, struct json_object *request);
/* The backend has answered a resize that the control socket asked for. */
void gateway_resize_done(struct served_volume *served, int error, const struct reason *reason);
/* The volume of that name that is served; NULL if none is. */
struct served_volume *gateway_find_volume(struct gateway *gateway, const char *name);
/* The volume that a request names, if it is served and nothing about it is being changed. Otherwise NULL, and the client
 * has been told. */
struct served_volume *gateway_find_changeable(struct gateway *gateway, struct control_client *client,
	struct json_object *request);
/* gateway-slots.c: requests about one slot of a Crucible volume. */
void gateway_scrub(struct gateway *gateway, struct control_client *client, struct json_object *request);
void gateway_replace_slot(struct gateway *gateway, struct control_client *client, struct json_object *request);
void gateway_retry_slot(struct gateway *gateway, struct control_client *client, struct json_object *request);

/* gateway-volumes.c */

/* Makes an export of a volume, which is moved; served_start() opens and claims it. */
int served_add(struct gateway *gateway, struct volume *volume, struct served_volume **served, struct reason *reason);
void served_start(struct served_volume *served);
/* No client has requests any more: takes the volume out of service. */
void served_retire(struct served_volume *served);
/* Lets go of what holds the bytes, now or when the change that is under way has ended. */
void served_close(struct served_volume *served);
/* Takes a volume, which is moved, into service; it then starts by itself. */
int gateway_add_volume(struct gateway *gateway, struct volume *volume, struct reason *reason);
/* The volume's clients are dropped when their requests are answered, its claim is released, and it is forgotten. It must not
 * be being changed, and be resolved. */
void gateway_remove_volume(struct served_volume *served);
/* The same at once, of one that has failed and has no backend. */
void gateway_forget_volume(struct served_volume *served);
/* The change has been answered; a stop may have waited for it. */
void gateway_change_ended(struct served_volume *served);

#endif
