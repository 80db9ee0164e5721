/* survey.h: what sleds say of themselves, and where a new region fits best. Blocking; tb4 only. */
#ifndef TB4_SURVEY_H
#define TB4_SURVEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sled/sled-task.h"
#include "volume/volume.h"

enum { SURVEY_TEXT_MAX = 64 };

/* Open files of a downstairs, as sled.sh allows them. */
#define SURVEY_FILES_FOR(extents) (4 * (extents) + 64)

/* A region in the sled's directory. */
struct survey_region {
	uint16_t port;
	char volume[VOLUME_NAME_MAX]; /* "" if no tb4 made it */
	char node[SURVEY_TEXT_MAX], state[SURVEY_TEXT_MAX], uuid[37];
	uint64_t size, allocated; /* bytes */
	bool listens;
};

struct survey {
	const struct sled *sled;
	int error; /* 0, or why the rest is empty */
	struct reason reason;
	char version[SURVEY_TEXT_MAX], filesystem[SURVEY_TEXT_MAX], systemd[SURVEY_TEXT_MAX]; /* yes, no, without-unit */
	uint64_t messages; /* version of the protocol */
	int64_t clock; /* seconds since 1970 */
	int64_t clock_ahead; /* seconds before ours at least; 0: no difference could be told */
	uint64_t total, free; /* bytes of the file system */
	uint64_t files; /* open files that a downstairs may have; UINT64_MAX: any number */
	struct survey_region *regions;
	size_t region_count;
	struct survey_port {
		uint16_t port;
		char holder[SURVEY_TEXT_MAX]; /* "pid 812 (nginx)" */
	} *ports; /* TCP ports that somebody listens at */
	size_t port_count;
};

/* Asks sleds, all at once. *surveys is malloc'ed, in their order: surveys_free(). Returns 0 also if sleds do not answer;
 * -EINTR, -ENOMEM otherwise. */
int sleds_survey(const struct sled *const *sleds, size_t count, struct survey **surveys, struct reason *reason);
void surveys_free(struct survey *surveys, size_t count);

/* Bytes that new regions may have: what the capacity leaves, or what is free and not promised to the regions there are. */
uint64_t survey_room(const struct survey *survey);
bool survey_listens(const struct survey *survey, uint16_t port);
/* Who listens there: "pid 812 (nginx)". NULL if nobody does. */
const char *survey_holder(const struct survey *survey, uint16_t port);
/* The region at a port, or NULL. */
const struct survey_region *survey_region(const struct survey *survey, uint16_t port);
/* NULL, or why a region of so many bytes and extents cannot be there. */
const char *survey_refuses(const struct survey *survey, uint64_t size, uint64_t extents, char *text, size_t length);

#endif
