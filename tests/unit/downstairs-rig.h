/* downstairs-rig.h: an engine with a disk in memory, and upstairs that talk to it by hand.
 *
 * Peers collect what the engine sends; tests take it with expect(). Whatever is not expected stays,
 * and fails the test in rig_close() or expect_nothing().
 */
#ifndef DOWNSTAIRS_RIG_H
#define DOWNSTAIRS_RIG_H

#include "engine.h"

enum { RIG_BLOCK_SIZE = 512, RIG_EXTENT_SIZE = 4, RIG_EXTENTS = 3 };

struct peer {
	struct rig *rig;
	struct peer *next;
	struct downstairs_connection *connection; /* NULL: closed */
	struct crucible_session session;
	struct received *first, *last;
};

struct rig {
	struct disk *disk;
	struct downstairs *downstairs; /* NULL: killed */
	struct downstairs_options options;
	struct peer *peers;
	const char *died; /* why, or NULL */
	bool fetch_asked;
	struct crucible_address fetch_source;
	uint32_t fetch_extent;
	unsigned test_errors; /* so many tries of jobs will fail */

	/* The hook: fails, or kills, at the (fail_at + 1)th step of fail_step, fail_count times. */
	enum disk_step fail_step;
	unsigned fail_at, fail_count, steps[DISK_STEPS];
	int fail_with;
};

/* options: of a fresh region in memory; NULL for a read-write one. */
void rig_open(struct rig *rig, const struct downstairs_options *options);
void rig_open_encrypted(struct rig *rig);
void rig_close(struct rig *rig);
/* kill -9. Peers are gone. */
void rig_kill(struct rig *rig);
/* False if it refuses. */
bool rig_try_start(struct rig *rig, struct crucible_error *error);
void rig_start(struct rig *rig);
void rig_restart(struct rig *rig);

/* `upstairs` and `session` become the ids. */
struct peer *rig_connect(struct rig *rig, uint8_t upstairs, uint8_t session, uint64_t generation);
void peer_close(struct peer *peer);
void peer_send(struct peer *peer, const struct crucible_message *message);
void peer_send_bytes(struct peer *peer, const void *frame, size_t size);

/* Takes the next frame, of this type; valid until the next call for the peer. */
const struct crucible_message *expect(struct peer *peer, enum crucible_message_type type);
/* The next one is the answer without failure to this job. */
const struct crucible_message *expect_answer(
	struct peer *peer, enum crucible_message_type type, uint64_t job_id);
void expect_report(struct peer *peer, uint64_t job_id, enum crucible_error_kind kind);
void expect_nothing(struct peer *peer);
void expect_closed(struct peer *peer);

/* Negotiation, by step. The last two leave it running. */
void here_i_am(struct peer *peer);
void promote(struct peer *peer);
bool is_promoted(struct peer *peer); /* HereIAm and PromoteToActive; false: closed without a word */
void ask_region(struct peer *peer);
void ask_versions(struct peer *peer);
void last_flush(struct peer *peer, uint64_t job_id);
/* A connected, running peer with upstairs id 1, session 1 and generation 1. */
struct peer *rig_running(struct rig *rig);
struct peer *rig_running_as(
	struct rig *rig, uint8_t upstairs, uint8_t session, uint64_t generation);

/* Jobs. Dependencies: a list that ends with 0. */
#define AFTER(...) ((const uint64_t[]){ __VA_ARGS__ __VA_OPT__(, ) 0 })
struct crucible_message job(
	struct peer *peer, enum crucible_message_type type, uint64_t id, const uint64_t *after);
/* Blocks full of `fill`, `fill` + 1, ... */
void send_write(struct peer *peer, uint64_t id, uint64_t start, unsigned count, uint8_t fill,
	const uint64_t *after);
void send_write_unwritten(struct peer *peer, uint64_t id, uint64_t start, unsigned count,
	uint8_t fill, const uint64_t *after);
void send_read(
	struct peer *peer, uint64_t id, uint64_t start, uint64_t count, const uint64_t *after);
void send_flush(struct peer *peer, uint64_t id, uint64_t flush_number, const uint64_t *after);
void send_limited_flush(struct peer *peer, uint64_t id, uint64_t flush_number, uint32_t limit);
void send_job(
	struct peer *peer, enum crucible_message_type type, uint64_t id, const uint64_t *after);
void send_ruok(struct peer *peer);
/* Of an extent. */
void send_live(struct peer *peer, enum crucible_message_type type, uint64_t id, uint32_t extent_id,
	const uint64_t *after);
void send_mend(
	struct peer *peer, enum crucible_message_type type, uint64_t repair_id, uint32_t extent_id);

/* The same with the answers that show that all went well. */
void write_blocks(struct peer *peer, uint64_t id, uint64_t start, unsigned count, uint8_t fill);
void flush(struct peer *peer, uint64_t id, uint64_t flush_number);
/* Reads a block: its fill; -1: never written and zeros. */
int fill_of(struct peer *peer, uint64_t block);
void expect_versions(
	struct rig *rig, uint32_t extent_id, uint64_t generation, uint64_t flush_number, bool dirty);

#endif
