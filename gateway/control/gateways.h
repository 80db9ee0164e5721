/* gateways.h: the gateways of this node, found by their control sockets below run_dir, and one question to all of them at
 * once. For `tb4 status`, `tb4 metrics` and tb4-exporter.
 *
 * Errors are negative errno.
 */
#ifndef TB4_GATEWAYS_H
#define TB4_GATEWAYS_H

#include "control/control-client.h"

/* Numbers of VMs, each once. Zero-initialised; free with vmids_free(). */
struct vmids {
	uint64_t *items;
	size_t count;
};

/* 0 or -ENOMEM. */
int vmids_add(struct vmids *vmids, uint64_t vmid);
/* Those with a control socket below `run_dir`: their gateway runs, or was killed. No directory: none. */
int vmids_add_sockets(struct vmids *vmids, const char *run_dir);
void vmids_sort(struct vmids *vmids);
void vmids_free(struct vmids *vmids);

/* What became of the question, in the order of the VMs: see struct control_question. */
struct gateway_answers {
	struct control_question *items;
	size_t count;
};

/* Asks `command` of the gateways of these VMs and waits `timeout_ms` at most. 0, or -ENOMEM with no answers. Free with
 * gateway_answers_free() in any case. */
int gateways_ask(const char *run_dir, const struct vmids *vmids, const char *command, int timeout_ms,
	struct gateway_answers *answers);
/* The object that a gateway answered, which is the caller's from now on, without what belongs to the protocol, and with
 * the VM that was asked. NULL if it did not answer as it should. */
struct json_object *gateway_take_answer(struct control_question *question, uint64_t vmid);
void gateway_answers_free(struct gateway_answers *answers);

#endif
