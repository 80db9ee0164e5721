#include "backend/crucible-journal.h"

#include <stdbool.h>

#include "core/core.h"
#include "log.h"

/* The states that make a difference to an operator. */
enum standing { STANDING_UNKNOWN, STANDING_ABSENT, STANDING_REPLAY, STANDING_REPAIR, STANDING_ACTIVE, STANDING_FAILED };

static const struct {
	enum log_level level;
	const char *event, *text;
} standings[] = {
	[STANDING_ABSENT] = { LOG_LEVEL_WARNING, EVENT_SLOT_ABSENT, "is absent" },
	[STANDING_REPLAY] = { LOG_LEVEL_INFO, EVENT_SLOT_REPLAY, "gets what it missed" },
	[STANDING_REPAIR] = { LOG_LEVEL_INFO, EVENT_SLOT_REPAIR, "is copied from the others" },
	[STANDING_ACTIVE] = { LOG_LEVEL_INFO, EVENT_SLOT_ACTIVE, "is active" },
	[STANDING_FAILED] = { LOG_LEVEL_ERROR, EVENT_SLOT_FAILED, "has failed" },
};

static enum standing standing_of(enum upstairs_slot_state state)
{
	switch (state) {
	case UPSTAIRS_SLOT_REPLAY:
		return STANDING_REPLAY;
	case UPSTAIRS_SLOT_MENDING:
	case UPSTAIRS_SLOT_REPAIR:
		return STANDING_REPAIR;
	case UPSTAIRS_SLOT_ACTIVE:
		return STANDING_ACTIVE;
	case UPSTAIRS_SLOT_FAILED:
		return STANDING_FAILED;
	case UPSTAIRS_SLOT_ABSENT:
	case UPSTAIRS_SLOT_CONNECTING:
	case UPSTAIRS_SLOT_WAITING:
		break;
	}
	return STANDING_ABSENT;
}

static void say(const struct volume *volume, unsigned index, enum standing standing,
	const struct upstairs_slot_status *slot)
{
	bool is_wrong = standing == STANDING_ABSENT || standing == STANDING_FAILED;
	const char *error = is_wrong ? slot->error : "", *advice = is_wrong ? upstairs_advice(slot->trouble) : "";
	log_event(standings[standing].level, standings[standing].event, volume->name, (int)index, "%s: slot %u, %s: %s%s%s%s%s",
		volume->name, index, volume->targets[index], standings[standing].text, error[0] ? ": " : "", error,
		advice[0] ? ": " : "", advice);
}

void crucible_journal_note(struct crucible_journal *journal, const struct volume *volume, const struct upstairs *upstairs)
{
	struct upstairs_status status;
	upstairs_status(upstairs, &status);
	for (unsigned i = 0; i < UPSTAIRS_SLOTS; i++) {
		enum standing standing = standing_of(status.slots[i].state);
		bool is_awaited = journal->said[i] == STANDING_UNKNOWN && standing == STANDING_ABSENT &&
			status.state == UPSTAIRS_ACTIVATING;
		if (journal->said[i] == standing || is_awaited)
			continue;
		journal->said[i] = standing;
		say(volume, i, standing, &status.slots[i]);
	}
}
