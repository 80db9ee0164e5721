#include "volume/ownership.h"

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "checked-json.h"
#include "cleanup.h"
#include "durable-file.h"

enum { ROLE_VERSION = 1 };

/* One volume in the role file. */
struct entry {
	char volume[VOLUME_NAME_MAX];
	char claim_id[RECORD_ID_SIZE];
	uint64_t last_used; /* generation */
};

struct ownership {
	const struct config *config;
	uint64_t vmid;
	char *directory, *lock_path, *role_path;
	char boot_id[RECORD_ID_SIZE];
	int lock;
	struct entry *entries;
	size_t count;
};

const char *ownership_directory(const struct ownership *ownership)
{
	return ownership->directory;
}

/* the role file */

static struct entry *find_entry(struct ownership *ownership, const char *volume)
{
	for (size_t i = 0; i < ownership->count; i++) {
		if (strcmp(ownership->entries[i].volume, volume) == 0)
			return &ownership->entries[i];
	}
	return NULL;
}

static struct entry *add_entry(struct ownership *ownership, const char *volume)
{
	struct entry *entries =
		realloc(ownership->entries, (ownership->count + 1) * sizeof *entries);
	if (!entries)
		return NULL;
	ownership->entries = entries;
	struct entry *entry = &entries[ownership->count++];
	*entry = (struct entry){ 0 };
	snprintf(entry->volume, sizeof entry->volume, "%s", volume);
	return entry;
}

static void remove_entry(struct ownership *ownership, struct entry *entry)
{
	*entry = ownership->entries[--ownership->count];
}

/* True if the object is a role file and all its entries have been added. */
static bool decode_role(struct ownership *ownership, struct json_object *object)
{
	uint64_t version;
	char role[16];
	struct json_object *volumes;
	if (!json_number(object, "version", &version) || version != ROLE_VERSION ||
		!json_text(object, "role", role, sizeof role) || strcmp(role, "owner") != 0 ||
		!json_object_object_get_ex(object, "volumes", &volumes) ||
		!json_object_is_type(volumes, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(volumes); i++) {
		struct json_object *item = json_object_array_get_idx(volumes, i);
		struct entry entry;
		struct volume_name name;
		if (!json_text(item, "volume", entry.volume, sizeof entry.volume) ||
			!json_text(item, "claim_id", entry.claim_id, sizeof entry.claim_id) ||
			!json_number(item, "last_generation", &entry.last_used) ||
			volume_name_parse(entry.volume, &name) < 0 || name.vmid != ownership->vmid ||
			find_entry(ownership, entry.volume))
			return false;
		struct entry *added = add_entry(ownership, entry.volume);
		if (!added)
			return false;
		*added = entry;
	}
	return true;
}

static int read_role(struct ownership *ownership, struct reason *reason)
{
	CLEANUP_FREE char *text = NULL;
	size_t length;
	int status = durable_file_read(ownership->role_path, &text, &length, reason);
	if (status < 0)
		return status == -ENOENT ? 0 : status;
	errno = 0;
	CLEANUP_JSON struct json_object *object = checked_json_decode(text, length);
	char boot_id[RECORD_ID_SIZE];
	bool valid = object && json_text(object, "boot_id", boot_id, sizeof boot_id);
	if (valid && strcmp(boot_id, ownership->boot_id) != 0)
		return 0; /* RUN_DIR outlived a reboot: it counts as gone */
	valid = valid && decode_role(ownership, object);
	if (!valid && errno == ENOMEM)
		return reason_set(reason, -ENOMEM, "%s: out of memory", ownership->role_path);
	if (!valid)
		return reason_set(reason, -EBADMSG,
			"%s: the role file is damaged: make sure that no other node runs VM %llu, then delete it",
			ownership->role_path, (unsigned long long)ownership->vmid);
	return 0;
}

static bool encode_entry(struct json_object *volumes, const struct entry *entry)
{
	struct json_object *item = json_object_new_object();
	bool complete = json_add_text(item, "volume", entry->volume) &&
		json_add_text(item, "claim_id", entry->claim_id) &&
		json_add_number(item, "last_generation", entry->last_used);
	return json_append(volumes, item) && complete;
}

static bool encode_role(const struct ownership *ownership, struct json_object *object)
{
	struct json_object *volumes = json_object_new_array();
	if (!json_add_number(object, "version", ROLE_VERSION) ||
		!json_add_text(object, "role", "owner") ||
		!json_add_text(object, "boot_id", ownership->boot_id) ||
		!json_add(object, "volumes", json_object_get(volumes))) {
		json_object_put(volumes);
		return false;
	}
	bool complete = true;
	for (size_t i = 0; i < ownership->count; i++)
		complete = encode_entry(volumes, &ownership->entries[i]) && complete;
	json_object_put(volumes);
	return complete;
}

static int write_role(const struct ownership *ownership, struct reason *reason)
{
	if (ownership->count == 0)
		return durable_file_remove(ownership->role_path, reason);
	CLEANUP_JSON struct json_object *object = json_object_new_object();
	CLEANUP_FREE char *text = encode_role(ownership, object) ? checked_json_encode(object) : NULL;
	if (!text)
		return reason_set(reason, -ENOMEM, "out of memory");
	return durable_file_write(ownership->role_path, text, strlen(text), reason);
}

/* the lock */

/* Names the process whose pid stands in the lock file. */
static int refuse_busy(const struct ownership *ownership, struct reason *reason)
{
	CLEANUP_FREE char *text = NULL;
	size_t length;
	const char *holder = "another process";
	if (durable_file_read(ownership->lock_path, &text, &length, NULL) == 0 && length > 0)
		holder = text;
	return reason_set(reason, -EBUSY, "VM %llu: in use by %s on this node: stop that first",
		(unsigned long long)ownership->vmid, holder);
}

static int take_lock(struct ownership *ownership, struct reason *reason)
{
	ownership->lock = lock_file_now(ownership->lock_path, reason);
	if (ownership->lock == -EBUSY)
		return refuse_busy(ownership, reason);
	if (ownership->lock < 0)
		return ownership->lock;
	char holder[128];
	int length = snprintf(holder, sizeof holder, "%s, pid %d", program_invocation_short_name, getpid());
	/* Only for messages; a full file system must not keep us from starting. */
	if (ftruncate(ownership->lock, 0) == 0 && pwrite(ownership->lock, holder, (size_t)length, 0) < 0)
		return 0;
	return 0;
}

static void ownership_free(struct ownership *ownership)
{
	cleanup_close(&ownership->lock);
	free(ownership->directory);
	free(ownership->lock_path);
	free(ownership->role_path);
	free(ownership->entries);
	free(ownership);
}

static int open_directory(struct ownership *ownership, struct reason *reason)
{
	if (asprintf(&ownership->directory, "%s/%llu", ownership->config->run_dir,
			(unsigned long long)ownership->vmid) < 0)
		ownership->directory = NULL;
	if (ownership->directory) {
		ownership->lock_path = path_join(ownership->directory, "lock");
		ownership->role_path = path_join(ownership->directory, "role");
	}
	if (!ownership->lock_path || !ownership->role_path)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (claim_boot_id(ownership->boot_id) < 0)
		return reason_set(reason, -EIO, "cannot read the boot id from /proc");
	int status;
	do { /* the last holder removes the directory when it goes */
		status = make_directory(ownership->directory, reason);
		if (status == 0)
			status = take_lock(ownership, reason);
	} while (status == -ENOENT);
	return status < 0 ? status : read_role(ownership, reason);
}

int ownership_open(const struct config *config, uint64_t vmid, struct ownership **out,
	struct reason *reason)
{
	struct ownership *ownership = calloc(1, sizeof *ownership);
	if (!ownership)
		return reason_set(reason, -ENOMEM, "out of memory");
	ownership->config = config;
	ownership->vmid = vmid;
	ownership->lock = -1;
	int status = open_directory(ownership, reason);
	if (status < 0) {
		ownership_free(ownership);
		return status;
	}
	*out = ownership;
	return 0;
}

void ownership_close(struct ownership *ownership)
{
	if (!ownership)
		return;
	unlink(ownership->lock_path);
	rmdir(ownership->directory); /* fails while a role file or an inherited socket is in it */
	ownership_free(ownership);
}

/* holding volumes */

/* Uses the generation up, durably, before anybody sees it. */
static int use_generation(struct ownership *ownership, struct entry *entry, uint64_t generation,
	struct hold *hold, struct reason *reason)
{
	entry->last_used = generation;
	hold->generation = generation;
	return write_role(ownership, reason);
}

static int hold_fresh(struct ownership *ownership, const struct volume *volume, uint64_t now,
	struct hold *hold, struct reason *reason)
{
	hold->kind = HOLD_FRESH;
	struct reason ignored;
	struct entry *entry = add_entry(ownership, volume->name);
	if (!entry)
		return reason_set(reason, -ENOMEM, "%s: out of memory", volume->name);
	int status = claim_take(ownership->config, volume, now, false, &hold->claim, reason);
	if (status == 0) {
		strcpy(entry->claim_id, hold->claim.claim_id);
		status = use_generation(ownership, entry, hold->claim.generation_first, hold, reason);
	}
	if (status < 0) { /* the outcome may be unknown: nothing of it shall stay, by its id */
		if (hold->claim.claim_id[0])
			claim_release(ownership->config, volume->name, hold->claim.claim_id, &ignored);
		remove_entry(ownership, entry);
	}
	return status;
}

static int hold_resumed(struct ownership *ownership, struct entry *entry, uint64_t now,
	struct hold *hold, struct reason *reason)
{
	hold->kind = HOLD_RESUMED;
	if (entry->last_used > hold->claim.generation_last)
		return reason_set(reason, -EBADMSG,
			"%s: the role file %s is ahead of the claim record (put back from a backup?): make sure that "
			"no other node runs VM %llu, then delete the role file",
			entry->volume, ownership->role_path, (unsigned long long)ownership->vmid);
	if (entry->last_used >= hold->claim.generation_last) {
		int status = claim_extend(ownership->config, entry->volume, now, &hold->claim, reason);
		if (status == -ESTALE) /* somebody was here since claim_load() */
			return -EOWNERDEAD;
		if (status < 0)
			return status;
	}
	uint64_t next = entry->last_used + 1;
	if (next < hold->claim.generation_first)
		next = hold->claim.generation_first;
	return use_generation(ownership, entry, next, hold, reason);
}

int ownership_hold(struct ownership *ownership, const struct volume *volume, uint64_t now,
	struct hold *hold, struct reason *reason)
{
	*hold = (struct hold){ 0 };
	struct entry *entry = find_entry(ownership, volume->name);
	if (!entry)
		return hold_fresh(ownership, volume, now, hold, reason);
	int status = claim_load(ownership->config, volume->name, entry->claim_id, &hold->claim, reason);
	if (status < 0)
		return status;
	if (hold->claim.released) { /* we died between the two steps of a release */
		remove_entry(ownership, entry);
		/* first: if we die behind the new claim, the old entry would fence the next start */
		status = write_role(ownership, reason);
		return status < 0 ? status : hold_fresh(ownership, volume, now, hold, reason);
	}
	return hold_resumed(ownership, entry, now, hold, reason);
}

int ownership_raise(struct ownership *ownership, const char *volume, uint64_t outrun_by, struct hold *hold,
	struct reason *reason)
{
	struct entry *entry = find_entry(ownership, volume);
	if (!entry || hold->kind != HOLD_FRESH || hold->raises == OWNERSHIP_RAISES)
		return -EOWNERDEAD;
	hold->raises++;
	int status = claim_raise(ownership->config, volume, outrun_by, &hold->claim, reason);
	return status < 0 ? status : use_generation(ownership, entry, hold->claim.generation_first, hold, reason);
}

int ownership_check(const struct ownership *ownership, const char *volume, const struct hold *hold,
	struct reason *reason)
{
	struct record record;
	return claim_load(ownership->config, volume, hold->claim.claim_id, &record, reason);
}

int ownership_release(struct ownership *ownership, const char *volume, struct reason *reason)
{
	struct entry *entry = find_entry(ownership, volume);
	if (!entry)
		return 0;
	int status = claim_release(ownership->config, volume, entry->claim_id, reason);
	if (status < 0)
		return status;
	remove_entry(ownership, entry);
	return write_role(ownership, reason);
}

int ownership_drop(struct ownership *ownership, const char *volume, struct reason *reason)
{
	struct entry *entry = find_entry(ownership, volume);
	struct record ours, released;
	if (!entry)
		return reason_set(reason, -EOWNERDEAD, "%s: is not claimed by this process", volume);
	int status = claim_load(ownership->config, volume, entry->claim_id, &ours, reason);
	if (status == 0) /* the record last: what is left by a crash before then claims nothing */
		status = ownership_release(ownership, volume, reason);
	if (status == 0) /* again, as somebody may have taken it by force since */
		status = claim_load(ownership->config, volume, ours.claim_id, &released, reason);
	return status < 0 ? status : record_remove(ownership->config, volume, &released, reason);
}

int ownership_forget(struct ownership *ownership, struct reason *reason)
{
	ownership->count = 0;
	return write_role(ownership, reason);
}
