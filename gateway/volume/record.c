#include "volume/record.h"

#include <errno.h>
#include <string.h>
#include <uuid/uuid.h>

#include "checked-json.h"
#include "cleanup.h"
#include "durable-file.h"

enum { RECORD_VERSION = 1 };
/* Keeps seq + 1 and the next range of generations clear of overflow. */
#define RECORD_NUMBER_MAX (INT64_MAX / 2)

char *record_path(const struct config *config, const char *volume)
{
	char *path;
	return asprintf(&path, "%s/%s.json", config->claim_dir, volume) < 0 ? NULL : path;
}

/* text form */

static bool encode_slot(struct json_object *slots, const struct record_copy *slot)
{
	struct json_object *item = json_object_new_object();
	bool complete = json_add_switch(item, "in_sync", slot->in_sync) &&
		json_add_switch(item, "needs_full_copy", slot->needs_full_copy) &&
		json_add_text(item, "region", slot->region);
	return json_append(slots, item) && complete;
}

static bool encode_copies(struct json_object *record, const struct record_copies *copies)
{
	if (!copies->exists)
		return true;
	struct json_object *object = json_object_new_object();
	struct json_object *slots = json_object_new_array();
	bool complete = json_add_switch(object, "clean", copies->clean) &&
		json_add_number(object, "stamped", copies->stamped);
	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		complete = slots && encode_slot(slots, &copies->slots[i]) && complete;
	complete = json_add(object, "slots", slots) && complete;
	return json_add(record, "copies", object) && complete;
}

static bool decode_slot(struct json_object *item, struct record_copy *slot)
{
	uuid_t id;
	return json_switch(item, "in_sync", &slot->in_sync) &&
		json_switch(item, "needs_full_copy", &slot->needs_full_copy) &&
		json_text(item, "region", slot->region, sizeof slot->region) &&
		(slot->region[0] == '\0' || uuid_parse(slot->region, id) == 0);
}

/* A record without copies is valid: not every backend has them. */
static bool decode_copies(struct json_object *record, struct record_copies *copies)
{
	struct json_object *object, *slots;
	if (!json_object_object_get_ex(record, "copies", &object))
		return true;
	copies->exists = true;
	if (!json_object_is_type(object, json_type_object) || !json_switch(object, "clean", &copies->clean) ||
		!json_number(object, "stamped", &copies->stamped) || copies->stamped > RECORD_NUMBER_MAX ||
		!json_object_object_get_ex(object, "slots", &slots) || !json_object_is_type(slots, json_type_array) ||
		json_object_array_length(slots) != RECORD_SLOTS)
		return false;
	for (unsigned i = 0; i < RECORD_SLOTS; i++) {
		struct json_object *item = json_object_array_get_idx(slots, i);
		if (!json_object_is_type(item, json_type_object) || !decode_slot(item, &copies->slots[i]))
			return false;
	}
	return true;
}

char *record_encode(const struct record *record)
{
	CLEANUP_JSON struct json_object *object = json_object_new_object();
	if (!json_add_number(object, "version", RECORD_VERSION) ||
		!json_add_text(object, "claim_id", record->claim_id) ||
		!json_add_number(object, "seq", record->seq) ||
		!json_add_text(object, "node", record->node) ||
		!json_add_text(object, "boot_id", record->boot_id) ||
		!json_add_number(object, "generation_first", record->generation_first) ||
		!json_add_number(object, "generation_last", record->generation_last) ||
		!json_add_switch(object, "released", record->released) ||
		!encode_copies(object, &record->copies))
		return NULL;
	return checked_json_encode(object);
}

int record_decode(const char *text, size_t length, struct record *record, const char **wrong)
{
	*record = (struct record){ 0 };
	CLEANUP_JSON struct json_object *object = checked_json_decode(text, length);
	uint64_t version;
	*wrong = "cut short or damaged";
	if (!object || !json_number(object, "version", &version))
		return -EBADMSG;
	*wrong = "written by another version of this program";
	if (version != RECORD_VERSION)
		return -EBADMSG;
	*wrong = "a field is missing or has a wrong value";
	if (!json_text(object, "claim_id", record->claim_id, sizeof record->claim_id) ||
		!json_number(object, "seq", &record->seq) ||
		!json_text(object, "node", record->node, sizeof record->node) ||
		!json_text(object, "boot_id", record->boot_id, sizeof record->boot_id) ||
		!json_number(object, "generation_first", &record->generation_first) ||
		!json_number(object, "generation_last", &record->generation_last) ||
		!json_switch(object, "released", &record->released) ||
		!decode_copies(object, &record->copies) ||
		record->claim_id[0] == '\0' || record->node[0] == '\0' ||
		record->generation_first > record->generation_last ||
		record->generation_last > RECORD_NUMBER_MAX || record->seq > RECORD_NUMBER_MAX)
		return -EBADMSG;
	return 0;
}

/* the local store */

int record_load(const struct config *config, const char *volume, struct record *record,
	struct reason *reason)
{
	CLEANUP_FREE char *path = record_path(config, volume);
	CLEANUP_FREE char *text = NULL;
	size_t length;
	if (!path)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume);
	int status = durable_file_read(path, &text, &length, reason);
	if (status < 0)
		return status;
	const char *wrong;
	errno = 0;
	status = record_decode(text, length, record, &wrong);
	if (status < 0 && errno == ENOMEM)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume);
	if (status < 0)
		return reason_set(reason, -EBADMSG,
			"%s: the claim record %s is %s: make sure that no node runs the VM, move the file away, "
			"then run tb4 claim force %s",
			volume, path, wrong, volume);
	return 0;
}

static bool same_claim(const struct record *a, const struct record *b)
{
	return strcmp(a->claim_id, b->claim_id) == 0 && a->seq == b->seq;
}

/* Loads the present record and compares it; the caller holds the lock. 0 if it is the expected one. */
static int compare(const struct config *config, const char *volume, const struct record *expected,
	struct reason *reason)
{
	struct record present;
	int status = record_load(config, volume, &present, reason);
	if (status == -ENOENT ? expected != NULL : status == 0 && !(expected && same_claim(&present, expected)))
		return reason_set(reason, -ESTALE, "%s: the claim has changed hands meanwhile", volume);
	return status == -ENOENT ? 0 : status;
}

static int lock_store(const struct config *config, struct reason *reason)
{
	int status = make_directory(config->claim_dir, reason);
	if (status == 0)
		status = require_local(config->claim_dir, reason);
	if (status < 0)
		return status;
	CLEANUP_FREE char *path = path_join(config->claim_dir, ".lock");
	return path ? lock_file_wait(path, reason) : reason_set(reason, -ENOMEM, "out of memory");
}

int record_swap(const struct config *config, const char *volume, const struct record *expected,
	struct record *fresh, struct reason *reason)
{
	CLEANUP_CLOSE int lock = lock_store(config, reason);
	if (lock < 0)
		return lock;
	int status = compare(config, volume, expected, reason);
	if (status < 0)
		return status;
	fresh->seq = expected ? expected->seq + 1 : 1;
	CLEANUP_FREE char *path = record_path(config, volume);
	CLEANUP_FREE char *text = record_encode(fresh);
	if (!path || !text)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume);
	/* What could not be read again must not take the place of what is there. */
	struct record back;
	const char *wrong;
	errno = 0;
	status = record_decode(text, strlen(text), &back, &wrong);
	if (status < 0 && errno == ENOMEM)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume);
	if (status < 0)
		return reason_set(reason, -EINVAL, "%s: the claim cannot be recorded: %s", volume, wrong);
	status = durable_file_write(path, text, strlen(text), reason);
	return status < 0 ? status : compare(config, volume, fresh, reason);
}

int record_remove(const struct config *config, const char *volume, const struct record *expected,
	struct reason *reason)
{
	CLEANUP_CLOSE int lock = lock_store(config, reason);
	if (lock < 0)
		return lock;
	int status = compare(config, volume, expected, reason);
	CLEANUP_FREE char *path = record_path(config, volume);
	if (status < 0 || !path)
		return status < 0 ? status : reason_set(reason, -ENOMEM, "%s: out of memory", volume);
	return durable_file_remove(path, reason);
}
