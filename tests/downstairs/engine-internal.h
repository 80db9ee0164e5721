/* engine-internal.h: what the files of the engine share; see engine.h. */
#ifndef DOWNSTAIRS_ENGINE_INTERNAL_H
#define DOWNSTAIRS_ENGINE_INTERNAL_H

#include "engine.h"
#include "id-set.h"
#include "list.h"
#include "region.h"

/* How far a connection has got. */
enum phase { PHASE_OPEN, PHASE_CONNECTED, PHASE_PROMOTED, PHASE_REGION_INFO_SENT, PHASE_RUNNING };

/* A message to be acted on, and the frame it points into. */
struct work {
	struct downstairs_connection *connection;
	struct crucible_message message;
	const uint8_t *frame;
	size_t size;
};

/* The same, kept for later with a copy of the frame. */
struct job {
	struct list link;
	struct work work;
	uint8_t frame[];
};

struct downstairs_connection {
	struct downstairs *downstairs;
	struct list link; /* of downstairs->connections or ->gone */
	void *peer;
	bool peer_is_gone; /* no more calls with it */
	bool is_gone;      /* handled: in downstairs->gone */
	enum phase phase;
	struct crucible_session session;
	bool is_registered;
	struct id_set completed;
	/* Jobs that wait, in order of arrival. A walk moves those that still have to wait from
	 * `unchecked` to `pending`, so that it can be interrupted. */
	struct list pending, unchecked;
	bool is_walking;
};

struct downstairs {
	struct disk *disk;
	struct region region;
	struct downstairs_options options;
	enum downstairs_state state;
	bool is_busy; /* an input is being handled */
	struct list connections, gone;
	struct list inbox;   /* struct input */
	struct job *current; /* FETCHING or WEDGED: with it */
	uint8_t *head;       /* of the frame being sent */
	size_t head_size;
	struct crucible_read_context *read_contexts; /* of the read being answered */
	uint8_t *read_data;
	size_t read_contexts_size, read_data_size;
};

/* engine.c */

void downstairs_die(struct downstairs *downstairs, const char *reason);
/* Closes a connection from our side, or forgets one that the peer has closed. */
void connection_drop(struct downstairs_connection *connection);

/* reply.c */

void reply(struct downstairs_connection *connection, const struct crucible_message *message);
void reply_error(struct downstairs_connection *connection, const struct crucible_message *job,
	const struct crucible_error *error);

/* negotiate.c */

/* -1, or the only phase in which a message of this type is legal. */
int negotiation_phase(enum crucible_message_type type);
/* One that is legal now. */
void negotiate(struct downstairs_connection *connection, const struct crucible_message *message);
/* W1: whoever closes unregisters its upstairs id. */
void negotiation_closed(struct downstairs_connection *connection);

/* jobs.c: everything on a running connection. */

void jobs_received(const struct work *work);
/* Walks the queue of waiting jobs, or goes on with that. */
void jobs_walk(struct downstairs_connection *connection);
/* downstairs->current: its extent is there, or is not; it is to be tried again. */
void jobs_fetched(struct downstairs *downstairs, const void *image, size_t size, const char *error);
void jobs_retry(struct downstairs *downstairs);
void jobs_discard(struct downstairs_connection *connection);

/* execute.c: one try of what a message asks for. */

enum execution {
	EXECUTION_DONE,    /* *answer is to be sent */
	EXECUTION_FAILED,  /* downstairs->region.error says how */
	EXECUTION_FETCHES, /* the extent has to be fetched first */
	EXECUTION_STOPPED, /* the process has died or was killed */
};
enum execution execute(struct downstairs *downstairs, const struct crucible_message *message,
	struct crucible_message *answer);
/* The end of one that fetched. */
enum execution execute_fetched(struct downstairs *downstairs,
	const struct crucible_message *message, const void *image, size_t size, const char *error,
	struct crucible_message *answer);

/* upstream-decode.c */

enum decoding { DECODED, DECODING_CLOSES, DECODING_ABORTS };
/* *patched is NULL, or a copy of the frame that the message points into, to be freed. */
enum decoding upstream_decode(
	const void *frame, size_t size, struct crucible_message *message, uint8_t **patched);

#endif
