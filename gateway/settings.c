#include "settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checked.h"
#include "cleanup.h"

/* faults */

int faults_add(struct faults *faults, const char *path, unsigned line, const char *format, ...)
{
	struct fault *items = realloc(faults->items, (faults->count + 1) * sizeof *items);
	if (!items)
		return -ENOMEM;
	faults->items = items;
	struct fault *fault = &items[faults->count];
	*fault = (struct fault){ .line = line, .path = strdup(path) };
	va_list args;
	va_start(args, format);
	int n = vasprintf(&fault->text, format, args);
	va_end(args);
	if (n < 0 || !fault->path) {
		free(fault->path);
		if (n >= 0)
			free(fault->text);
		return -ENOMEM;
	}
	faults->count++;
	return -EBADMSG;
}

const char *fault_text(const struct fault *fault, char *text, size_t size)
{
	if (fault->line)
		snprintf(text, size, "%s:%u: %s", fault->path, fault->line, fault->text);
	else
		snprintf(text, size, "%s: %s", fault->path, fault->text);
	return text;
}

int faults_reason(const struct faults *faults, struct reason *reason)
{
	if (faults->count == 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	char first[sizeof reason->text], more[64] = "";
	if (faults->count > 1)
		snprintf(more, sizeof more, " (and %zu more: see tb4 check)", faults->count - 1);
	return reason_set(reason, -EBADMSG, "%.*s%s", (int)(sizeof first - sizeof more),
		fault_text(&faults->items[0], first, sizeof first), more);
}

void faults_free(struct faults *faults)
{
	for (size_t i = 0; i < faults->count; i++) {
		free(faults->items[i].path);
		free(faults->items[i].text);
	}
	free(faults->items);
	*faults = (struct faults){ 0 };
}

/* sizes */

static const char size_units[] = "KMGTPE";

int size_parse(const char *text, uint64_t *bytes)
{
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	char *end;
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	uint64_t factor = 1;
	if (*end) {
		const char *unit = strchr(size_units, toupper((unsigned char)*end));
		if (!unit)
			return -EINVAL;
		factor = UINT64_C(1) << (10 * (unit - size_units + 1));
		end++;
		/* 50G and 50GiB; not 50GB, which would be a power of 1000 to some */
		if (strcasecmp(end, "iB") != 0 && *end)
			return -EINVAL;
	}
	uint64_t value;
	if (!checked_mul(number, factor, &value) || value > INT64_MAX)
		return -ERANGE;
	*bytes = value;
	return 0;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	size_t unit = 0;
	while (bytes > 0 && bytes % 1024 == 0 && unit < sizeof size_units - 1) {
		bytes /= 1024;
		unit++;
	}
	char suffix[2] = { unit ? size_units[unit - 1] : 0, 0 };
	snprintf(text, SIZE_TEXT_MAX, "%llu%s", (unsigned long long)bytes, suffix);
	return text;
}

/* one value */

static void *value_at(void *target, const struct setting *setting)
{
	return (char *)target + setting->offset;
}

static const void *const_value_at(const void *target, const struct setting *setting)
{
	return (const char *)target + setting->offset;
}

static int parse_number(const char *text, uint64_t *number)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno)
		return -EINVAL;
	*number = value;
	return 0;
}

/* Returns NULL, or what is wrong with the value. */
static const char *parse_value(const struct setting *setting, const char *text, void *target,
	char *buffer, size_t buffer_size)
{
	void *value = value_at(target, setting);
	uint64_t number = 0;
	switch (setting->type) {
	case SETTING_PATH:
		if (text[0] != '/')
			return "not an absolute path";
		/* fall through */
	case SETTING_TEXT: {
		if (text[0] == '\0')
			return "empty";
		char *copy = strdup(text);
		if (!copy)
			return "out of memory";
		free(*(char **)value);
		*(char **)value = copy;
		return NULL;
	}
	case SETTING_SIZE:
	case SETTING_SECTORS:
		if (size_parse(text, &number) < 0)
			return "not a size such as 4096, 512M or 50G";
		break;
	case SETTING_NUMBER:
		if (parse_number(text, &number) < 0)
			return "not a number";
		break;
	case SETTING_SWITCH:
		if (strcmp(text, "yes") == 0 || strcmp(text, "no") == 0) {
			*(bool *)value = text[0] == 'y';
			return NULL;
		}
		return "neither yes nor no";
	case SETTING_CHOICE: {
		for (unsigned i = 0; setting->choices[i]; i++) {
			if (strcmp(text, setting->choices[i]) == 0) {
				*(unsigned *)value = i;
				return NULL;
			}
		}
		size_t used = (size_t)snprintf(buffer, buffer_size, "not one of");
		for (unsigned i = 0; setting->choices[i] && used < buffer_size; i++)
			used += (size_t)snprintf(
				buffer + used, buffer_size - used, "%s %s", i ? "," : "", setting->choices[i]);
		return buffer;
	}
	}
	if (number < setting->minimum || (setting->maximum && number > setting->maximum)) {
		char low[SIZE_TEXT_MAX], high[SIZE_TEXT_MAX];
		if (setting->type != SETTING_NUMBER)
			snprintf(buffer, buffer_size, "not between %s and %s",
				size_format(setting->minimum, low), size_format(setting->maximum, high));
		else
			snprintf(buffer, buffer_size, "not between %llu and %llu",
				(unsigned long long)setting->minimum, (unsigned long long)setting->maximum);
		return buffer;
	}
	if (setting->type == SETTING_SECTORS && number % SETTINGS_SECTOR != 0)
		return "not a multiple of 512";
	*(uint64_t *)value = number;
	return NULL;
}

int settings_default(const struct setting *table, size_t count, void *target)
{
	char buffer[160];
	for (size_t i = 0; i < count; i++) {
		if (table[i].fallback &&
			parse_value(&table[i], table[i].fallback, target, buffer, sizeof buffer))
			return -ENOMEM; /* a fallback is always valid, so only memory can be short */
	}
	return 0;
}

void settings_free(const struct setting *table, size_t count, void *target)
{
	for (size_t i = 0; i < count; i++) {
		if (table[i].type == SETTING_TEXT || table[i].type == SETTING_PATH)
			cleanup_free(value_at(target, &table[i]));
	}
}

/* a file */

/* Where the settings of a section go. */
struct part {
	const struct setting *table;
	size_t count;
	void *target;
	unsigned *seen_on; /* line per setting, 0 if not seen */
};

struct reading {
	struct part whole;
	struct part item; /* of the group's item that is being read; target NULL: none */
	const struct setting_group *group; /* or NULL */
	const char *path;
	struct faults *faults;
	FILE *file;
	unsigned line;
	bool line_is_entry; /* the line last read has to reach on_entry() */
	bool in_unknown_section;
	int status;
};

static void add_fault(struct reading *reading, unsigned line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void add_fault(struct reading *reading, unsigned line, const char *format, ...)
{
	char text[400];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	int status = faults_add(reading->faults, reading->path, line, "%s", text);
	if (reading->status != -ENOMEM)
		reading->status = status;
}

static char **item_name(const struct setting_group *group, void *item)
{
	return (char **)((char *)item + group->name_offset);
}

static char **group_items(const struct setting_group *group, void *target)
{
	return (char **)((char *)target + group->items_offset);
}

static size_t *group_count(const struct setting_group *group, void *target)
{
	return (size_t *)((char *)target + group->count_offset);
}

static void require_all(struct reading *reading, const struct part *part, const char *section)
{
	for (size_t i = 0; i < part->count; i++) {
		if (part->table[i].required && !part->seen_on[i])
			add_fault(reading, 0, "[%s] %s is missing", section ? section : part->table[i].section,
				part->table[i].name);
	}
}

static void finish_item(struct reading *reading)
{
	if (!reading->item.target)
		return;
	char section[SETTINGS_LINE_MAX];
	snprintf(section, sizeof section, "%s %s", reading->group->prefix,
		*item_name(reading->group, reading->item.target));
	require_all(reading, &reading->item, section);
	reading->item.target = NULL;
}

/* Takes `text` for the value of a name in this part. False if the part has no such section; *is_done is true
 * if it has the name. */
static bool take_entry(struct reading *reading, const struct part *part, const char *section, const char *name,
	const char *text, bool *is_done)
{
	bool section_known = false;
	for (size_t i = 0; i < part->count && !*is_done; i++) {
		const struct setting *setting = &part->table[i];
		if (strcmp(setting->section, section) != 0)
			continue;
		section_known = true;
		if (strcmp(setting->name, name) != 0)
			continue;
		*is_done = true;
		if (part->seen_on[i]) {
			add_fault(reading, reading->line, "%s is given twice, first on line %u", name, part->seen_on[i]);
			break;
		}
		part->seen_on[i] = reading->line;
		char buffer[160];
		const char *wrong = parse_value(setting, text, part->target, buffer, sizeof buffer);
		if (wrong)
			add_fault(reading, reading->line, "%s = %s: %s", name, text, wrong);
	}
	return section_known;
}

/* Called by inih for each "name = value". It is always the line that read_line() gave last. */
static int on_entry(void *context, const char *section, const char *name, const char *text)
{
	struct reading *reading = context;
	reading->line_is_entry = false;
	bool is_done = false;
	bool section_known = reading->item.target
		? take_entry(reading, &reading->item, reading->group->prefix, name, text, &is_done)
		: take_entry(reading, &reading->whole, section, name, text, &is_done);
	if (section_known && !is_done)
		add_fault(reading, reading->line, "[%s] has no setting %s", section, name);
	else if (!section_known && !reading->in_unknown_section) /* that is a fault already */
		add_fault(reading, reading->line, "%s is in no section", name);
	return 1;
}

/* inih reports only the first bad line of a file; each line that is an entry and never reached
 * on_entry() is one. */
static void finish_line(struct reading *reading)
{
	if (reading->line_is_entry)
		add_fault(reading, reading->line, "neither [section] nor name = value");
	reading->line_is_entry = false;
}

/* Reads one line without its end into `line`. Returns its length, or -1 at the end of the file. */
static int take_line(struct reading *reading, char line[SETTINGS_LINE_MAX + 1], const char **wrong)
{
	int length = 0, c;
	*wrong = NULL;
	for (c = fgetc(reading->file); c != '\n' && c != EOF; c = fgetc(reading->file)) {
		if (c == '\0')
			*wrong = "a zero byte: the file is damaged";
		else if (length == SETTINGS_LINE_MAX)
			*wrong = "line too long";
		else
			line[length++] = (char)c;
	}
	line[length] = '\0';
	if (c == EOF && length == 0 && !*wrong)
		return -1;
	reading->line++;
	return length;
}

/* The name in "PREFIX NAME", or NULL. */
static const char *name_of_item(const struct setting_group *group, const char *section)
{
	size_t length = group ? strlen(group->prefix) : 0;
	return group && strncmp(section, group->prefix, length) == 0 && (section[length] == ' ' || section[length] == '\0')
		? section + length + (section[length] == ' ')
		: NULL;
}

static bool is_item_name(const char *name)
{
	size_t length = strlen(name);
	if (length == 0 || length >= SETTING_GROUP_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	}
	return true;
}

/* Begins a new item. False, with a fault, if it cannot be. */
static bool begin_item(struct reading *reading, const char *name)
{
	const struct setting_group *group = reading->group;
	char **items = group_items(group, reading->whole.target);
	size_t *count = group_count(group, reading->whole.target);
	if (!is_item_name(name)) {
		add_fault(reading, reading->line, "[%s %s]: not a name: 1 to %d letters, digits and . _ -", group->prefix, name,
			SETTING_GROUP_NAME_MAX - 1);
		return false;
	}
	for (size_t i = 0; i < *count; i++) {
		if (strcmp(*item_name(group, *items + i * group->item_size), name) == 0) {
			add_fault(reading, reading->line, "[%s %s] is there twice", group->prefix, name);
			return false;
		}
	}
	char *grown = realloc(*items, (*count + 1) * group->item_size);
	if (!grown) {
		reading->status = -ENOMEM;
		return false;
	}
	*items = grown;
	void *item = grown + *count * group->item_size;
	memset(item, 0, group->item_size);
	(*count)++;
	*item_name(group, item) = strdup(name);
	if (!*item_name(group, item) || settings_default(group->table, group->table_size, item) < 0) {
		reading->status = -ENOMEM;
		return false;
	}
	reading->item.target = item;
	memset(reading->item.seen_on, 0, group->table_size * sizeof *reading->item.seen_on);
	return true;
}

static bool is_known_section(const struct reading *reading, const char *section)
{
	for (size_t i = 0; i < reading->whole.count; i++) {
		if (strcmp(reading->whole.table[i].section, section) == 0)
			return true;
	}
	return false;
}

/* A line that begins with '['. inih would pass over a comment inside and anything behind. */
static void check_section(struct reading *reading, const char *text)
{
	const char *end = strchr(text, ']');
	const char *rest = end ? end + 1 + strspn(end + 1, " \t\r") : "";
	char section[SETTINGS_LINE_MAX + 1];
	finish_item(reading);
	reading->in_unknown_section = true;
	if (!end || (*rest && *rest != ';' && *rest != '#')) {
		add_fault(reading, reading->line, "neither [section] nor name = value");
		return;
	}
	snprintf(section, sizeof section, "%.*s", (int)(end - text) - 1, text + 1);
	const char *name = name_of_item(reading->group, section);
	if (name)
		reading->in_unknown_section = !begin_item(reading, name);
	else if (is_known_section(reading, section))
		reading->in_unknown_section = false;
	else
		add_fault(reading, reading->line, "[%s] is an unknown section", section);
}

/* inih's fgets: the next line, without its leading blanks (inih would take it as a continuation). */
static char *read_line(char *buffer, int size, void *context)
{
	struct reading *reading = context;
	finish_line(reading);
	char line[SETTINGS_LINE_MAX + 1];
	const char *wrong;
	while (take_line(reading, line, &wrong) >= 0) {
		bool has_mark = reading->line == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0;
		const char *text = line + (has_mark ? 3 : 0);
		text += strspn(text, " \t\r\v\f");
		if (strlen(text) + 2 > (size_t)size)
			wrong = "line too long";
		if (wrong) {
			add_fault(reading, reading->line, "%s", wrong);
			continue;
		}
		if (text[0] == '[')
			check_section(reading, text);
		reading->line_is_entry = text[0] && !strchr(";#[", text[0]);
		snprintf(buffer, (size_t)size, "%s\n", text);
		return buffer;
	}
	return NULL;
}

/* A fifo must not be waited for. */
static int open_regular(const char *path, FILE **file)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EBADMSG;
	*file = fdopen(fd, "r");
	if (!*file)
		return -errno;
	take_fd(&fd);
	return 0;
}

int settings_read_with_group(const struct setting *table, size_t count, const struct setting_group *group,
	const char *path, void *target, struct faults *faults)
{
	int status = settings_default(table, count, target);
	if (status < 0)
		return status;
	size_t item_settings = group ? group->table_size : 0;
	CLEANUP_FREE unsigned *seen_on = calloc(count + item_settings, sizeof *seen_on);
	CLEANUP_FCLOSE FILE *file = NULL;
	if (!seen_on)
		return -ENOMEM;
	status = open_regular(path, &file);
	if (status == -EBADMSG)
		return faults_add(faults, path, 0, "not a regular file");
	if (status < 0)
		return status;
	struct reading reading = {
		.whole = { .table = table, .count = count, .target = target, .seen_on = seen_on },
		.item = { .table = group ? group->table : NULL, .count = item_settings, .seen_on = seen_on + count },
		.group = group,
		.path = path,
		.faults = faults,
		.file = file,
	};
	ini_parse_stream(read_line, &reading, on_entry, &reading);
	finish_line(&reading);
	finish_item(&reading);
	if (ferror(file))
		return -EIO;
	require_all(&reading, &reading.whole, NULL);
	return reading.status;
}

int settings_read(const struct setting *table, size_t count, const char *path, void *target,
	struct faults *faults)
{
	return settings_read_with_group(table, count, NULL, path, target, faults);
}

void settings_free_group(const struct setting_group *group, void *target)
{
	char **items = group_items(group, target);
	size_t *count = group_count(group, target);
	for (size_t i = 0; i < *count; i++) {
		void *item = *items + i * group->item_size;
		settings_free(group->table, group->table_size, item);
		cleanup_free(item_name(group, item));
	}
	cleanup_free(items);
	*items = NULL;
	*count = 0;
}

unsigned settings_line_of(const char *path, const char *name)
{
	CLEANUP_FCLOSE FILE *file = fopen(path, "re");
	char line[SETTINGS_LINE_MAX + 2];
	const char *plain = name[0] == '[' ? strchr(name, ' ') + 1 : name;
	size_t length = strlen(plain), section_length = plain > name ? (size_t)(plain - name - 1) : 0;
	bool is_in_section = section_length == 0;
	for (unsigned number = 1; file && fgets(line, sizeof line, file); number++) {
		const char *text = line + strspn(line, " \t");
		if (text[0] == '[' && section_length)
			is_in_section = strncmp(text, name, section_length) == 0;
		if (is_in_section && strncmp(text, plain, length) == 0 && strchr("= \t", text[length]))
			return number;
	}
	return 0;
}

/* True if the text survives being written and read: inih trims blanks and cuts at " ;". */
static bool text_is_writable(const struct setting *setting, const char *text)
{
	size_t length = strlen(text);
	for (size_t i = 0; i < length; i++) {
		if (text[i] == ';' && (i == 0 || isspace((unsigned char)text[i - 1])))
			return false;
	}
	return length > 0 && length + strlen(setting->name) + 4 <= SETTINGS_LINE_MAX &&
		!strpbrk(text, "\r\n") && !isspace((unsigned char)text[0]) &&
		!isspace((unsigned char)text[length - 1]) &&
		(setting->type != SETTING_PATH || text[0] == '/');
}

static bool number_is_writable(const struct setting *setting, uint64_t number)
{
	return number >= setting->minimum && (!setting->maximum || number <= setting->maximum);
}

bool setting_is_equal(const struct setting *setting, const void *a, const void *b)
{
	const void *left = const_value_at(a, setting), *right = const_value_at(b, setting);
	const char *left_text, *right_text;
	switch (setting->type) {
	case SETTING_TEXT:
	case SETTING_PATH:
		left_text = *(char *const *)left;
		right_text = *(char *const *)right;
		return left_text && right_text ? strcmp(left_text, right_text) == 0 : left_text == right_text;
	case SETTING_SIZE:
	case SETTING_SECTORS:
	case SETTING_NUMBER:
		return *(const uint64_t *)left == *(const uint64_t *)right;
	case SETTING_SWITCH:
		return *(const bool *)left == *(const bool *)right;
	case SETTING_CHOICE:
		return *(const unsigned *)left == *(const unsigned *)right;
	}
	return false;
}

int settings_write(const struct setting *table, size_t count, const void *target, FILE *out)
{
	const char *section = "";
	for (size_t i = 0; i < count; i++) {
		const struct setting *setting = &table[i];
		const void *value = const_value_at(target, setting);
		char text[SIZE_TEXT_MAX];
		const char *shown = text;
		switch (setting->type) {
		case SETTING_TEXT:
		case SETTING_PATH:
			shown = *(char *const *)value;
			if (!shown && !setting->required)
				continue;
			if (!shown || !text_is_writable(setting, shown))
				return -EINVAL;
			break;
		case SETTING_SECTORS:
			if (*(const uint64_t *)value % SETTINGS_SECTOR != 0)
				return -EINVAL;
			/* fall through */
		case SETTING_SIZE:
			if (!number_is_writable(setting, *(const uint64_t *)value))
				return -EINVAL;
			size_format(*(const uint64_t *)value, text);
			break;
		case SETTING_NUMBER:
			if (!number_is_writable(setting, *(const uint64_t *)value))
				return -EINVAL;
			snprintf(text, sizeof text, "%llu", *(const unsigned long long *)value);
			break;
		case SETTING_SWITCH:
			shown = *(const bool *)value ? "yes" : "no";
			break;
		case SETTING_CHOICE:
			shown = setting->choices[*(const unsigned *)value];
			break;
		}
		if (setting->fallback && strcmp(setting->fallback, shown) == 0 && !setting->required)
			continue;
		if (strcmp(section, setting->section) != 0) {
			fprintf(out, "%s[%s]\n", section[0] ? "\n" : "", setting->section);
			section = setting->section;
		}
		fprintf(out, "%s = %s\n", setting->name, shown);
	}
	return ferror(out) ? -EIO : 0;
}
