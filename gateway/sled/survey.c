#include "sled/survey.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "cli/cli.h"

/* "PORT" and who has it, as ss(8) writes it: users:(("nginx",pid=812,fd=6)). */
static int take_port(struct survey *survey, const char *line)
{
	unsigned port, pid;
	char name[32];
	int end = 0;
	if (sscanf(line, "%u%n", &port, &end) != 1 || port == 0 || port > UINT16_MAX)
		return 0;
	struct survey_port *grown = realloc(survey->ports, (survey->port_count + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	survey->ports = grown;
	struct survey_port *taken = &grown[survey->port_count++];
	*taken = (struct survey_port){ .port = (uint16_t)port, .holder = "a process that cannot be seen" };
	if (sscanf(line + end, " users:((\"%31[^\"]\",pid=%u", name, &pid) == 2)
		snprintf(taken->holder, sizeof taken->holder, "pid %u (%s)", pid, name);
	return 0;
}

/* "-" stands for nothing. */
static void take_text(char *text, size_t size, const char *word)
{
	snprintf(text, size, "%s", strcmp(word, "-") == 0 ? "" : word);
}

static int take_region(struct survey *survey, const char *line)
{
	unsigned port;
	char volume[SURVEY_TEXT_MAX], node[SURVEY_TEXT_MAX], state[SURVEY_TEXT_MAX], uuid[37], listens[4];
	uint64_t size, allocated;
	if (sscanf(line, "%u %63s %63s %63s %36s %" SCNu64 " %" SCNu64 " %3s", &port, volume, node, state, uuid, &size,
			&allocated, listens) != 8 ||
		port == 0 || port > UINT16_MAX)
		return 0;
	struct survey_region *grown = realloc(survey->regions, (survey->region_count + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	survey->regions = grown;
	struct survey_region *region = &grown[survey->region_count++];
	*region = (struct survey_region){
		.port = (uint16_t)port,
		.size = size,
		.allocated = allocated,
		.listens = strcmp(listens, "yes") == 0,
	};
	take_text(region->volume, sizeof region->volume, volume);
	take_text(region->node, sizeof region->node, node);
	take_text(region->state, sizeof region->state, state);
	take_text(region->uuid, sizeof region->uuid, uuid);
	return 0;
}

/* One line of what SURVEY in sled.sh prints. Others are passed over. */
static int take_line(struct survey *survey, const char *line)
{
	uint64_t total, free_space;
	char text[SURVEY_TEXT_MAX];
	if (strncmp(line, "region ", 7) == 0)
		return take_region(survey, line + 7);
	if (strncmp(line, "port ", 5) == 0)
		return take_port(survey, line + 5);
	if (sscanf(line, "version %63s", text) == 1)
		take_text(survey->version, sizeof survey->version, text);
	else if (sscanf(line, "messages %" SCNu64, &survey->messages) == 1)
		return 0;
	else if (sscanf(line, "filesystem %63s", text) == 1)
		take_text(survey->filesystem, sizeof survey->filesystem, text);
	else if (sscanf(line, "systemd %63s", text) == 1)
		take_text(survey->systemd, sizeof survey->systemd, text);
	else if (sscanf(line, "clock %" SCNi64, &survey->clock) == 1)
		return 0;
	else if (sscanf(line, "space %" SCNu64 " %" SCNu64, &total, &free_space) == 2) {
		survey->total = total * 1024;
		survey->free = free_space * 1024;
	} else if (sscanf(line, "files %" SCNu64, &survey->files) == 1)
		return 0;
	return 0;
}

/* It was read at some time between: only what is outside is wrong. */
static int64_t clock_ahead(int64_t clock, int64_t asked, int64_t answered)
{
	return clock < asked ? clock - asked : clock > answered ? clock - answered : 0;
}

static int read_survey(struct survey *survey, struct sled_task *task, int64_t asked, int64_t answered)
{
	survey->sled = task->sled;
	survey->error = task->error;
	survey->reason = task->reason;
	survey->clock = asked;
	survey->files = UINT64_MAX; /* "unlimited" is no number */
	if (task->error < 0)
		return 0;
	for (char *rest = task->output, *line; (line = strsep(&rest, "\n"));) {
		if (take_line(survey, line) < 0)
			return -ENOMEM;
	}
	survey->clock_ahead = clock_ahead(survey->clock, asked, answered);
	return 0;
}

int sleds_survey(const struct sled *const *sleds, size_t count, struct survey **surveys, struct reason *reason)
{
	CLEANUP_FREE struct sled_task *tasks = calloc(count + 1, sizeof *tasks);
	*surveys = calloc(count + 1, sizeof **surveys);
	int status = tasks && *surveys ? 0 : -ENOMEM;
	for (size_t i = 0; status == 0 && i < count; i++)
		tasks[i].sled = sleds[i];
	int64_t asked = time(NULL);
	if (status == 0)
		sled_tasks_run(tasks, count, "SURVEY", "asking sleds", SLED_SURVEY_SECONDS, false);
	int64_t answered = time(NULL);
	for (size_t i = 0; status == 0 && i < count; i++) {
		status = tasks[i].error == -EINTR || tasks[i].error == -ENOMEM ? tasks[i].error
																		 : read_survey(&(*surveys)[i], &tasks[i], asked, answered);
	}
	if (tasks)
		sled_tasks_free(tasks, count);
	if (status == 0)
		return 0;
	if (*surveys)
		surveys_free(*surveys, count);
	*surveys = NULL;
	return reason_set(reason, status, status == -EINTR ? "interrupted" : "out of memory");
}

void surveys_free(struct survey *surveys, size_t count)
{
	for (size_t i = 0; i < count && surveys; i++) {
		free(surveys[i].regions);
		free(surveys[i].ports);
	}
	free(surveys);
}

uint64_t survey_room(const struct survey *survey)
{
	uint64_t sizes = 0, promised = 0;
	for (size_t i = 0; i < survey->region_count; i++) {
		const struct survey_region *region = &survey->regions[i];
		sizes += region->size;
		promised += region->size > region->allocated ? region->size - region->allocated : 0;
	}
	if (survey->sled->capacity)
		return survey->sled->capacity > sizes ? survey->sled->capacity - sizes : 0;
	return survey->free > promised ? survey->free - promised : 0;
}

const char *survey_holder(const struct survey *survey, uint16_t port)
{
	for (size_t i = 0; i < survey->port_count; i++) {
		if (survey->ports[i].port == port)
			return survey->ports[i].holder;
	}
	return NULL;
}

bool survey_listens(const struct survey *survey, uint16_t port)
{
	return survey_holder(survey, port);
}

const struct survey_region *survey_region(const struct survey *survey, uint16_t port)
{
	for (size_t i = 0; i < survey->region_count; i++) {
		if (survey->regions[i].port == port)
			return &survey->regions[i];
	}
	return NULL;
}

const char *survey_refuses(const struct survey *survey, uint64_t size, uint64_t extents, char *text, size_t length)
{
	char room[SIZE_TEXT_MAX], wanted[SIZE_TEXT_MAX];
	if (survey->error < 0) {
		snprintf(text, length, "%s", survey->reason.text);
		return text;
	}
	if (strcmp(survey->systemd, "without-unit") == 0)
		snprintf(text, length, "sled %s: crucible-downstairs@.service is not installed", survey->sled->name);
	else if (survey_room(survey) < size)
		snprintf(text, length, "sled %s: full: has room for %s, needs %s", survey->sled->name,
			size_for_people(survey_room(survey), room), size_for_people(size, wanted));
	else if (survey->files < SURVEY_FILES_FOR(extents))
		snprintf(text, length, "sled %s: %" PRIu64 " extents need %" PRIu64 " open files, %" PRIu64 " are allowed",
			survey->sled->name, extents, SURVEY_FILES_FOR(extents), survey->files);
	else
		return NULL;
	return text;
}
