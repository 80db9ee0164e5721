#include "volume/claim.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <uuid/uuid.h>

#include "cleanup.h"

/* The record of a claim that a process of another boot or host left behind is enough to refuse or
 * allow; how the backend keeps a live owner out is the backend's part. */
int claim_may_take(const struct config *config, const struct volume *volume,
	const struct record *present, struct reason *reason)
{
	if (strcmp(volume->host, config->node_name) == 0)
		return 0;
	const char *owner = present && !present->released ? present->node : NULL;
	return reason_set(reason, -EACCES,
		"%s: belongs to host %s%s%s, this is %s: start it there, or move it here with tb4 claim "
		"force %s",
		volume->name, volume->host, owner ? " and is claimed by " : "", owner ? owner : "",
		config->node_name, volume->name);
}

int claim_boot_id(char boot_id[RECORD_ID_SIZE])
{
	CLEANUP_FCLOSE FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	if (!file || !fgets(boot_id, RECORD_ID_SIZE, file))
		return -EIO;
	boot_id[strcspn(boot_id, "\n")] = '\0';
	return 0;
}

/* Gives the record the next generations: above what `present` (NULL: nothing) was granted. */
static void grant(struct record *record, const struct record *present, uint64_t now)
{
	/* A clock far in the future must not use up the numbers: beyond 2^40 s it counts as wrong. */
	uint64_t first = now > 0 && now < UINT64_C(1) << 40 ? now : 1;
	if (present && present->generation_last >= first)
		first = present->generation_last + 1;
	record->generation_first = first;
	record->generation_last = first + CLAIM_GENERATIONS - 1;
}

static int new_claim(const struct config *config, struct record *claim, struct reason *reason)
{
	*claim = (struct record){ 0 };
	if (strlen(config->node_name) >= sizeof claim->node)
		return reason_set(reason, -EINVAL, "%s: the node's name is too long", config->node_name);
	strcpy(claim->node, config->node_name);
	if (claim_boot_id(claim->boot_id) < 0)
		return reason_set(reason, -EIO, "cannot read the boot id from /proc");
	uuid_t id;
	uuid_generate_random(id);
	uuid_unparse_lower(id, claim->claim_id);
	return 0;
}

int claim_take(const struct config *config, const struct volume *volume, uint64_t now, bool force,
	struct record *claim, struct reason *reason)
{
	struct record record;
	int status = record_load(config, volume->name, &record, reason);
	if (status < 0 && status != -ENOENT)
		return status;
	const struct record *present = status == 0 ? &record : NULL;
	if (!force) {
		status = claim_may_take(config, volume, present, reason);
		if (status < 0)
			return status;
	}
	status = new_claim(config, claim, reason);
	if (status < 0)
		return status;
	grant(claim, present, now);
	if (present)
		claim->copies = present->copies;
	return record_swap(config, volume->name, present, claim, reason);
}

int claim_extend(const struct config *config, const char *volume, uint64_t now,
	struct record *claim, struct reason *reason)
{
	struct record extended = *claim;
	grant(&extended, claim, now);
	int status = record_swap(config, volume, claim, &extended, reason);
	if (status == 0)
		*claim = extended;
	return status;
}

int claim_raise(const struct config *config, const char *volume, uint64_t floor, struct record *claim,
	struct reason *reason)
{
	if (floor > INT64_MAX - CLAIM_GENERATIONS)
		return reason_set(reason, -ERANGE, "%s: generation %llu leaves no room for ours", volume,
			(unsigned long long)floor);
	for (;;) {
		struct record present;
		int status = claim_load(config, volume, claim->claim_id, &present, reason);
		if (status < 0)
			return status;
		struct record raised = present;
		raised.generation_first = (floor > present.generation_last ? floor : present.generation_last) + 1;
		raised.generation_last = raised.generation_first + CLAIM_GENERATIONS - 1;
		status = record_swap(config, volume, &present, &raised, reason);
		if (status == 0)
			*claim = raised;
		if (status != -ESTALE) /* refused for seq alone: read it again */
			return status;
	}
}

int claim_load(const struct config *config, const char *volume, const char *claim_id, struct record *record,
	struct reason *reason)
{
	int status = record_load(config, volume, record, reason);
	if (status == -ENOENT)
		return reason_set(reason, -EOWNERDEAD, "%s: fenced: its claim record is gone", volume);
	if (status == 0 && strcmp(record->claim_id, claim_id) != 0)
		return reason_set(reason, -EOWNERDEAD, "%s: fenced: node %s has claimed it", volume, record->node);
	return status;
}

int claim_store_copies(const struct config *config, const char *volume, const char *claim_id,
	const struct record_copies *copies, struct reason *reason)
{
	for (;;) {
		struct record present;
		int status = claim_load(config, volume, claim_id, &present, reason);
		if (status < 0)
			return status;
		if (present.released)
			return reason_set(reason, -EOWNERDEAD, "%s: fenced: its claim has been released", volume);
		struct record changed = present;
		changed.copies = *copies;
		status = record_swap(config, volume, &present, &changed, reason);
		if (status != -ESTALE) /* refused for seq alone: read it again */
			return status;
	}
}

int claim_release(const struct config *config, const char *volume, const char *claim_id,
	struct reason *reason)
{
	for (;;) {
		struct record present;
		int status = record_load(config, volume, &present, reason);
		if (status < 0)
			return status == -ENOENT ? 0 : status;
		if (strcmp(present.claim_id, claim_id) != 0 || present.released)
			return 0;
		struct record released = present;
		released.released = true;
		status = record_swap(config, volume, &present, &released, reason);
		if (status != -ESTALE) /* refused for seq alone: read it again */
			return status;
	}
}
