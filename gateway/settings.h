/* settings.h: typed settings of an ini file, described by one table.
 *
 * tb4.conf and the volume files are such tables. The table alone says which names exist, their
 * type, bounds and default; parser, writer, `tb4 check` and the test of the manual pages use it.
 *
 * Reading is strict: an unknown section or name, a value out of bounds, a name given twice, a line
 * that is no "name = value", and a missing required name are faults. All faults of a file are
 * collected with their line, so that one run of `tb4 check` shows everything.
 * The syntax is that of inih; a line has at most SETTINGS_LINE_MAX bytes.
 */
#ifndef TB4_SETTINGS_H
#define TB4_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "reason.h"

enum { SETTINGS_LINE_MAX = 196, SETTINGS_SECTOR = 512 };

enum setting_type {
	SETTING_TEXT,   /* char *, may be absent (NULL) */
	SETTING_PATH,   /* char *, must be absolute */
	SETTING_SIZE,   /* uint64_t bytes: 4096, 512M, 50G (powers of 1024) */
	SETTING_SECTORS, /* the same, a multiple of SETTINGS_SECTOR */
	SETTING_NUMBER, /* uint64_t */
	SETTING_SWITCH, /* bool: yes or no */
	SETTING_CHOICE, /* unsigned: index into `choices` */
};

struct setting {
	const char *section, *name;
	enum setting_type type;
	size_t offset;           /* of the value in the target structure */
	const char *fallback;    /* parsed as if given; NULL: left zero */
	uint64_t minimum, maximum; /* SIZE, SECTORS and NUMBER; maximum 0 means no bound */
	const char *const *choices; /* CHOICE: ended by NULL */
	bool required;
	const char *help;
};

/* Sections "[PREFIX NAME]", any number of them: each is an item of an array. Names are letters, digits and "._-". */
struct setting_group {
	const char *prefix;
	const struct setting *table; /* `section` is PREFIX in all */
	size_t table_size;
	size_t item_size, name_offset; /* of an item, and of its char *name in it */
	size_t items_offset, count_offset; /* of the array, malloc'ed, and of its size_t count in the target */
};
enum { SETTING_GROUP_NAME_MAX = 41 };

/* Collected faults of one or more files. Zero-initialised; free with faults_free(). */
struct faults {
	struct fault {
		char *path;
		unsigned line; /* 0: the file as a whole */
		char *text;
	} *items;
	size_t count;
};

int faults_add(struct faults *faults, const char *path, unsigned line, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* "PATH:LINE: text", or "PATH: text" for a fault of the whole file; cut to `size`. */
const char *fault_text(const struct fault *fault, char *text, size_t size);
/* The text of the first fault, and how many follow. Returns -EBADMSG. */
int faults_reason(const struct faults *faults, struct reason *reason);
void faults_free(struct faults *faults);

/* Fills `target` from the file. Returns 0, -ENOENT, another errno of reading, or -EBADMSG with at
 * least one fault added. Strings in `target` are owned by it: settings_free(). On failure `target`
 * still holds defaults and whatever was valid, and must be freed too. */
int settings_read(const struct setting *table, size_t count, const char *path, void *target,
	struct faults *faults);
/* The same with a group besides; settings_free_group() frees its items. */
int settings_read_with_group(const struct setting *table, size_t count, const struct setting_group *group,
	const char *path, void *target, struct faults *faults);
void settings_free_group(const struct setting_group *group, void *target);
/* As above from defaults only. */
int settings_default(const struct setting *table, size_t count, void *target);
void settings_free(const struct setting *table, size_t count, void *target);
/* The line of "name = ..." in a file that has been read, for faults that are found later; 0 if it is not
 * there, so that its default holds. A name that several sections have is given as "[section] name". */
unsigned settings_line_of(const char *path, const char *name);

/* Do two targets have the same value? */
bool setting_is_equal(const struct setting *setting, const void *a, const void *b);

/* Prints `target` in the syntax that settings_read() takes; absent text and defaults are left out.
 * Returns 0 or -EINVAL if a value cannot be written so that it is read back the same. */
int settings_write(const struct setting *table, size_t count, const void *target, FILE *out);

/* Bytes as people write them: "50G", "512M", "4096", "1T". Returns 0, -EINVAL or -ERANGE (>= 2^63). */
int size_parse(const char *text, uint64_t *bytes);
enum { SIZE_TEXT_MAX = 32 };
/* The shortest exact form: "50G", "1536M", "4097". */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
