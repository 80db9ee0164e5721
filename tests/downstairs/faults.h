/* faults.h: what shall go wrong in tb4-test-downstairs, as told over its control socket.
 *
 * One command per line, answered by "ok", "error: WHY", or one line of JSON:
 *
 *   on POINT NAME N ACTION   When the Nth of these comes from now on, or each one if N is "every":
 *       received MESSAGE     a message has come in and is not handled yet
 *       answer MESSAGE       a message is about to be sent; what it answers has been done
 *       sent MESSAGE         a message has been sent
 *       step STEP            a step on the disk: versions, context, data, sync, replace
 *                            is about to be done
 *     these are the actions:
 *       exit                 kill -9 of itself (the only one at a step)
 *       close                the connection is closed
 *       drop                 the message is ignored, or not sent
 *       torn                 half of the message is sent, and the connection closed (only "answer")
 *   delay MS                 everything is sent so much later
 *   silence on|off           nothing is sent at all
 *   reorder SEED|off         jobs that come together are done in any order that their dependencies
 *                            allow
 *   errors PERCENT SEED      so many tries of reads, writes and flushes fail with "test error"
 *   fail-sync EXTENT N       the next N syncs of the extent fail
 *   full on|off              writes fail with ENOSPC: the process wedges until "off"
 *   rot data|context BLOCK   flips a bit of the block on disk, behind the downstairs' back
 *   http silence|cut|ok      the repair port never answers, or closes in the middle of an extent
 *   forget                   all of the above that is still to come
 *   status                   {"state": ..., "pending": ..., "received": {...}, "sent": {...}, ...}
 *
 * To pause the process, stop it: SIGSTOP and SIGCONT.
 */
#ifndef DOWNSTAIRS_FAULTS_H
#define DOWNSTAIRS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "disk.h"
#include "list.h"

enum fault_point { POINT_RECEIVED, POINT_ANSWER, POINT_SENT, POINT_STEP, FAULT_POINTS };
enum fault_action { ACTION_NONE, ACTION_EXIT, ACTION_CLOSE, ACTION_DROP, ACTION_TORN };
enum http_fault { HTTP_OK, HTTP_SILENCE, HTTP_CUT };

struct faults {
	struct list rules;
	uint64_t delay; /* ms */
	bool is_silent, is_full, reorders;
	unsigned error_percent;
	uint64_t random_state;
	uint32_t failing_extent;
	unsigned failing_syncs;
	enum http_fault http;
	uint64_t received[CRUCIBLE_MESSAGE_TYPES], sent[CRUCIBLE_MESSAGE_TYPES];
};

void faults_init(struct faults *faults);
/* Understands a command other than "rot" and "status". NULL, or what is wrong with it. */
const char *faults_command(struct faults *faults, char *line);
/* Counts what happens, and says what shall be done about it. An exit is done here, but for that at
 * POINT_SENT, which is for the caller to do when it is. */
enum fault_action faults_at(struct faults *faults, enum fault_point point, uint32_t name);
/* A disk_hook; the context is the faults. */
int faults_on_disk(void *context, enum disk_step step, uint32_t extent_id);
/* Whether a try of a job is to fail. */
bool faults_fail_job(struct faults *faults, enum crucible_message_type type);
uint64_t faults_random(struct faults *faults);

#endif
