/* faults.c: see faults.h. */
#include "faults.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"

struct rule {
	struct list link;
	enum fault_point point;
	uint32_t name; /* a message's type, or a disk_step */
	uint64_t left; /* 0: every one */
	enum fault_action action;
};

static const char *const points[] = { "received", "answer", "sent", "step" };
static const char *const actions[] = { "", "exit", "close", "drop", "torn" };
static const char *const steps[] = { "versions", "context", "data", "sync", "replace" };

/* The index of a word in a list of `count`; -1 if it is not there. */
static int index_of(const char *word, const char *const *list, int count)
{
	for (int i = 0; i < count; i++) {
		if (strcmp(word, list[i]) == 0)
			return i;
	}
	return -1;
}

static int message_type(const char *name)
{
	for (int type = 0; type < CRUCIBLE_MESSAGE_TYPES; type++) {
		if (strcmp(name, crucible_message_name((enum crucible_message_type)type)) == 0)
			return type;
	}
	return -1;
}

static bool parse_number(const char *word, uint64_t *value)
{
	char *end;
	errno = 0;
	*value = strtoull(word, &end, 10);
	return *word && !*end && errno == 0;
}

static bool parse_switch(const char *word, bool *value)
{
	*value = strcmp(word, "on") == 0;
	return *value || strcmp(word, "off") == 0;
}

static void forget(struct faults *faults)
{
	while (!list_empty(&faults->rules)) {
		struct rule *rule = LIST_FIRST(&faults->rules, struct rule, link);
		list_remove(&rule->link);
		free(rule);
	}
	faults->delay = faults->error_percent = faults->failing_syncs = 0;
	faults->is_silent = faults->is_full = faults->reorders = false;
	faults->http = HTTP_OK;
}

void faults_init(struct faults *faults)
{
	*faults = (struct faults){ 0 };
	list_init(&faults->rules);
}

/* Commands. Each gets the words behind the first one; missing ones are empty. */

static const char *command_on(struct faults *faults, char **words)
{
	int point = index_of(words[0], points, FAULT_POINTS);
	int name = point == POINT_STEP ? index_of(words[1], steps, DISK_STEPS) : message_type(words[1]);
	int action = index_of(words[3], actions, sizeof actions / sizeof *actions);
	uint64_t count = 0;
	if (point < 0)
		return "no such point";
	if (name < 0)
		return "no such message or step";
	if (strcmp(words[2], "every") != 0 && (!parse_number(words[2], &count) || count == 0))
		return "neither a number nor \"every\"";
	if (action <= 0 || (point == POINT_STEP && action != ACTION_EXIT) ||
		(action == ACTION_TORN && point != POINT_ANSWER) ||
		(action == ACTION_DROP && point == POINT_SENT))
		return "no such action there";
	struct rule *rule = zeroed(1, sizeof *rule);
	rule->point = (enum fault_point)point;
	rule->name = (uint32_t)name;
	rule->left = count;
	rule->action = (enum fault_action)action;
	list_append(&faults->rules, &rule->link);
	return NULL;
}

static const char *command_delay(struct faults *faults, char **words)
{
	return parse_number(words[0], &faults->delay) ? NULL : "no number";
}

static const char *command_silence(struct faults *faults, char **words)
{
	return parse_switch(words[0], &faults->is_silent) ? NULL : "neither on nor off";
}

static const char *command_full(struct faults *faults, char **words)
{
	return parse_switch(words[0], &faults->is_full) ? NULL : "neither on nor off";
}

static const char *command_reorder(struct faults *faults, char **words)
{
	faults->reorders = strcmp(words[0], "off") != 0;
	return !faults->reorders || parse_number(words[0], &faults->random_state) ? NULL : "no number";
}

static const char *command_errors(struct faults *faults, char **words)
{
	uint64_t percent;
	if (!parse_number(words[0], &percent) || percent > 99 ||
		!parse_number(words[1], &faults->random_state))
		return "no numbers, or more than 99 percent";
	faults->error_percent = (unsigned)percent;
	return NULL;
}

static const char *command_fail_sync(struct faults *faults, char **words)
{
	uint64_t extent_id, count;
	if (!parse_number(words[0], &extent_id) || !parse_number(words[1], &count))
		return "no numbers";
	faults->failing_extent = (uint32_t)extent_id;
	faults->failing_syncs = (unsigned)count;
	return NULL;
}

static const char *command_http(struct faults *faults, char **words)
{
	static const char *const kinds[] = { "ok", "silence", "cut" };
	int kind = index_of(words[0], kinds, 3);
	if (kind < 0)
		return "no such fault";
	faults->http = (enum http_fault)kind;
	return NULL;
}

static const char *command_forget(struct faults *faults, char **words)
{
	(void)words;
	forget(faults);
	return NULL;
}

static const struct {
	const char *name;
	const char *(*function)(struct faults *, char **words);
} commands[] = {
	{ "on", command_on },
	{ "delay", command_delay },
	{ "silence", command_silence },
	{ "full", command_full },
	{ "reorder", command_reorder },
	{ "errors", command_errors },
	{ "fail-sync", command_fail_sync },
	{ "http", command_http },
	{ "forget", command_forget },
};

const char *faults_command(struct faults *faults, char *line)
{
	enum { WORDS = 6 };
	static char nothing[] = "";
	char *words[WORDS], *rest = line;
	for (unsigned i = 0; i < WORDS; i++) {
		char *word = strtok_r(rest, " \r\n", &rest);
		words[i] = word ? word : nothing;
	}
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(words[0], commands[i].name) == 0)
			return commands[i].function(faults, words + 1);
	}
	return "no such command";
}

/* Happening */

enum fault_action faults_at(struct faults *faults, enum fault_point point, uint32_t name)
{
	struct rule *rule, *following;
	enum fault_action action = ACTION_NONE;
	if (name < CRUCIBLE_MESSAGE_TYPES && point == POINT_RECEIVED)
		faults->received[name]++;
	if (name < CRUCIBLE_MESSAGE_TYPES && point == POINT_SENT)
		faults->sent[name]++;
	LIST_FOR_EACH_SAFE (rule, following, &faults->rules, link) {
		if (rule->point != point || rule->name != name)
			continue;
		if (rule->left == 0) {
			action = rule->action;
		} else if (--rule->left == 0) {
			action = rule->action;
			list_remove(&rule->link);
			free(rule);
		}
	}
	if (action == ACTION_EXIT && point != POINT_SENT)
		kill(getpid(), SIGKILL);
	return action;
}

int faults_on_disk(void *context, enum disk_step step, uint32_t extent_id)
{
	struct faults *faults = context;
	faults_at(faults, POINT_STEP, step);
	if (step == DISK_SYNC && faults->failing_syncs > 0 && extent_id == faults->failing_extent) {
		faults->failing_syncs--;
		return -EIO;
	}
	return faults->is_full && (step == DISK_PUT_CONTEXT || step == DISK_PUT_DATA) ? -ENOSPC : 0;
}

uint64_t faults_random(struct faults *faults)
{
	uint64_t mixed = faults->random_state += UINT64_C(0x9e3779b97f4a7c15);
	mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
	return mixed ^ mixed >> 31;
}

bool faults_fail_job(struct faults *faults, enum crucible_message_type type)
{
	bool is_concerned = type == CRUCIBLE_READ_REQUEST || type == CRUCIBLE_WRITE ||
						type == CRUCIBLE_WRITE_UNWRITTEN || type == CRUCIBLE_FLUSH;
	return is_concerned && faults->error_percent > 0 &&
		   faults_random(faults) % 100 < faults->error_percent;
}
