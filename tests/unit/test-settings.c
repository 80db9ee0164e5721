#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "scratch.h"
#include "settings.h"
#include "unit.h"

enum { CHOICE_LOW, CHOICE_HIGH };
static const char *const choices[] = { "low", "high", NULL };

struct target {
	char *must, *text, *path, *preset;
	uint64_t size, number;
	bool on;
	unsigned choice;
};

#define AT(member) offsetof(struct target, member)
static const struct setting table[] = {
	{ "one", "must", SETTING_TEXT, AT(must), NULL, 0, 0, NULL, true, "" },
	{ "one", "text", SETTING_TEXT, AT(text), NULL, 0, 0, NULL, false, "" },
	{ "one", "path", SETTING_PATH, AT(path), NULL, 0, 0, NULL, false, "" },
	{ "one", "preset", SETTING_PATH, AT(preset), "/preset", 0, 0, NULL, false, "" },
	{ "two", "size", SETTING_SIZE, AT(size), "64K", 4096, 1 << 20, NULL, false, "" },
	{ "two", "number", SETTING_NUMBER, AT(number), "7", 1, 100, NULL, false, "" },
	{ "two", "on", SETTING_SWITCH, AT(on), "yes", 0, 0, NULL, false, "" },
	{ "two", "choice", SETTING_CHOICE, AT(choice), "high", 0, 0, choices, false, "" },
};
enum { COUNT = sizeof table / sizeof table[0] };

static struct target got;
static struct faults faults;

static int setup(void **state)
{
	got = (struct target){ 0 };
	faults = (struct faults){ 0 };
	return scratch_setup(state);
}

static void forget(void)
{
	settings_free(table, COUNT, &got);
	faults_free(&faults);
	got = (struct target){ 0 };
}

static int teardown(void **state)
{
	forget();
	return scratch_teardown(state);
}

static int read_bytes(const void *bytes, size_t length)
{
	const char *path = in_scratch("file.conf");
	forget();
	put_bytes_in(path, bytes, length);
	return settings_read(table, COUNT, path, &got, &faults);
}

static int read_text(const char *text)
{
	return read_bytes(text, strlen(text));
}

static void print_faults(void)
{
	for (size_t i = 0; i < faults.count; i++)
		print_message(
			"# %s:%u: %s\n", faults.items[i].path, faults.items[i].line, faults.items[i].text);
}

/* The text has exactly one fault, on that line, which says that. */
static void expect_one_fault(const char *text, unsigned line, const char *part)
{
	int status = read_text(text);
	if (status != -EBADMSG || faults.count != 1 || faults.items[0].line != line ||
		!strstr(faults.items[0].text, part)) {
		print_faults();
		fail_msg("status %d, %zu faults; wanted one on line %u with \"%s\" in: %s", status,
			faults.count, line, part, text);
	}
	assert_string_equal(faults.items[0].path, in_scratch("file.conf"));
}

static void expect_no_fault(const char *text)
{
	int status = read_text(text);
	if (status != 0 || faults.count != 0) {
		print_faults();
		fail_msg("status %d, %zu faults in: %s", status, faults.count, text);
	}
}

/* what is read */

static void values_of_every_type_are_read(void **state)
{
	(void)state;
	expect_no_fault("[one]\nmust = x\ntext = some words = and; more # here\npath = /a b\n"
					"[two]\nsize = 1M\nnumber = 100\non = no\nchoice = low\n");
	assert_string_equal(got.must, "x");
	assert_string_equal(got.text, "some words = and; more # here");
	assert_string_equal(got.path, "/a b");
	assert_string_equal(got.preset, "/preset");
	assert_int_equal(got.size, 1 << 20);
	assert_int_equal(got.number, 100);
	assert_false(got.on);
	assert_int_equal(got.choice, CHOICE_LOW);
}

static void what_is_left_out_gets_its_default(void **state)
{
	(void)state;
	expect_no_fault("[one]\nmust = x\n");
	assert_null(got.text);
	assert_null(got.path);
	assert_string_equal(got.preset, "/preset");
	assert_int_equal(got.size, 64 << 10);
	assert_int_equal(got.number, 7);
	assert_true(got.on);
	assert_int_equal(got.choice, CHOICE_HIGH);
}

static void defaults_alone_need_no_file(void **state)
{
	(void)state;
	assert_int_equal(settings_default(table, COUNT, &got), 0);
	assert_null(got.must);
	assert_string_equal(got.preset, "/preset");
	assert_int_equal(got.choice, CHOICE_HIGH);
}

static void comments_and_blank_lines_are_skipped(void **state)
{
	(void)state;
	expect_no_fault("# must = 1\n\n; must = 2\n \t\n[one]\n  # must = 3\nmust = x ; not this\n");
	assert_string_equal(got.must, "x");
}

static void indented_lines_stand_for_themselves(void **state)
{
	(void)state;
	expect_no_fault("[one]\nmust = x\n\ttext = y\n  path = /z\n");
	assert_string_equal(got.must, "x");
	assert_string_equal(got.text, "y");
	assert_string_equal(got.path, "/z");
}

static void a_section_may_be_given_in_parts(void **state)
{
	(void)state;
	expect_no_fault("[two]\nnumber = 3\n[one]\nmust = x\n[two]\non = no\n");
	assert_int_equal(got.number, 3);
	assert_false(got.on);
}

static void lines_may_end_with_cr_lf(void **state)
{
	(void)state;
	expect_no_fault("[one]\r\nmust = x y\r\n\r\n[two]\r\nnumber = 5\r\n");
	assert_string_equal(got.must, "x y");
	assert_int_equal(got.number, 5);
}

static void a_byte_order_mark_is_skipped(void **state)
{
	(void)state;
	expect_no_fault("\xef\xbb\xbf[one]\nmust = x\n");
	assert_string_equal(got.must, "x");
}

static void the_last_line_needs_no_newline(void **state)
{
	(void)state;
	expect_no_fault("[one]\nmust = x");
	assert_string_equal(got.must, "x");
}

static void a_line_of_full_length_is_read_whole(void **state)
{
	(void)state;
	char line[SETTINGS_LINE_MAX + 1], text[SETTINGS_LINE_MAX + 40];
	memset(line, 'v', SETTINGS_LINE_MAX);
	line[SETTINGS_LINE_MAX] = '\0';
	memcpy(line, "must = ", 7);
	snprintf(text, sizeof text, "[one]\n%s\ntext = after\n", line);
	expect_no_fault(text);
	assert_string_equal(got.must, line + 7);
	assert_string_equal(got.text, "after");
}

/* faults */

static void each_kind_of_fault_names_its_line(void **state)
{
	(void)state;
	static const struct {
		const char *line, *part;
	} wrong[] = {
		{ "must = y", "must is given twice, first on line 2" },
		{ "number = 1", "[one] has no setting number" },
		{ "Text = x", "[one] has no setting Text" },
		{ "text = ", "empty" },
		{ "text", "neither [section] nor name = value" },
		{ "[one", "neither [section] nor name = value" },
		{ "path = relative/path", "not an absolute path" },
		{ "path = ~/x", "not an absolute path" },
		{ "= x", "[one] has no setting" },
		{ "text x", "neither [section] nor name = value" },
		{ "[two]\nsize = 4095", "not between 4K and 1M" },
		{ "[two]\nsize = 1025K", "not between 4K and 1M" },
		{ "[two]\nsize = -1", "not a size" },
		{ "[two]\nsize = 1.5M", "not a size" },
		{ "[two]\nsize = 16E", "not a size" },
		{ "[two]\nnumber = 0", "not between 1 and 100" },
		{ "[two]\nnumber = 101", "not between 1 and 100" },
		{ "[two]\nnumber = 1 0", "not a number" },
		{ "[two]\nnumber = 0x10", "not a number" },
		{ "[two]\nnumber = +5", "not a number" },
		{ "[two]\nnumber = -5", "not a number" },
		{ "[two]\nnumber = 18446744073709551617", "not a number" },
		{ "[two]\nnumber = five", "not a number" },
		{ "[two]\non = true", "neither yes nor no" },
		{ "[two]\non = Yes", "neither yes nor no" },
		{ "[two]\non = 1", "neither yes nor no" },
		{ "[two]\nchoice = medium", "not one of low, high" },
		{ "[two]\nchoice = Low", "not one of low, high" },
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		char text[200];
		snprintf(text, sizeof text, "[one]\nmust = x\n%s\n", wrong[i].line);
		expect_one_fault(text, strchr(wrong[i].line, '\n') ? 4 : 3, wrong[i].part);
	}
}

static void a_name_before_any_section_is_a_fault(void **state)
{
	(void)state;
	expect_one_fault("number = 5\n[one]\nmust = x\n", 1, "number is in no section");
}

static void an_unknown_section_is_named(void **state)
{
	(void)state;
	static const char *const sections[] = { "[three]", "[ONE]", "[ two ]", "[]", "[one.two]" };
	for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
		char text[100];
		snprintf(text, sizeof text, "[one]\nmust = x\n%s\ntext = x\n", sections[i]);
		assert_int_equal(read_text(text), -EBADMSG);
		assert_in_range(faults.items[0].line, 3, 4);
		assert_non_null(strstr(faults.items[0].text, strcmp(sections[i], "[]") ? sections[i] : ""));
		assert_null(got.text);
	}
}

static void an_unknown_section_without_names_is_a_fault(void **state)
{
	(void)state;
	expect_one_fault("[one]\nmust = x\n[thrree]\n", 3, "[thrree]");
}

static void text_behind_a_section_name_is_a_fault(void **state)
{
	(void)state;
	expect_one_fault("[one]\nmust = x\n[two] on = no\n", 3, "");
}

/* inih takes " ;" inside the brackets for a comment and goes on in the section before. */
static void a_section_name_that_is_cut_by_a_comment_is_a_fault(void **state)
{
	(void)state;
	expect_one_fault("[one]\nmust = x\n[two ;]\n", 3, "");
}

static void a_name_given_twice_is_found_across_parts_of_a_section(void **state)
{
	(void)state;
	expect_one_fault(
		"[one]\nmust = x\n[two]\n[one]\nmust = x\n", 5, "must is given twice, first on line 2");
}

static void the_first_of_two_equal_names_counts(void **state)
{
	(void)state;
	expect_one_fault("[one]\nmust = first\nmust = second\n", 3, "given twice");
	assert_string_equal(got.must, "first");
}

static void a_missing_name_is_a_fault_of_the_whole_file(void **state)
{
	(void)state;
	expect_one_fault("", 0, "[one] must is missing");
	expect_one_fault("[two]\nnumber = 5\n", 0, "[one] must is missing");
}

static void a_wrong_value_is_not_also_reported_as_missing(void **state)
{
	(void)state;
	expect_one_fault("[one]\nmust =\n", 2, "empty");
}

static void all_faults_of_a_file_are_found_in_one_run(void **state)
{
	(void)state;
	static const struct {
		unsigned line;
		const char *part;
	} wanted[] = {
		{ 1, "no section" },
		{ 3, "neither [section] nor name = value" },
		{ 4, "not an absolute path" },
		{ 5, "neither [section] nor name = value" },
		{ 8, "not between" },
		{ 9, "given twice, first on line 8" },
		{ 10, "neither yes nor no" },
		{ 12, "[two] has no setting a" },
		{ 13, "neither [section] nor name = value" },
		{ 0, "[one] must is missing" },
	};
	assert_int_equal(read_text("text = x\n[one]\nnonsense\npath = x\nnonsense again\n\n[two]\n"
							   "number = 0\nnumber = 5\non = maybe\n# three\na = 1\nb\n"),
		-EBADMSG);
	print_faults();
	assert_int_equal(faults.count, sizeof wanted / sizeof wanted[0]);
	for (size_t i = 0; i < faults.count; i++) {
		assert_int_equal(faults.items[i].line, wanted[i].line);
		assert_non_null(strstr(faults.items[i].text, wanted[i].part));
	}
}

static void faults_of_several_files_are_kept_apart(void **state)
{
	(void)state;
	const char *first = in_scratch("first"), *second = in_scratch("second");
	struct target other = { 0 };
	put_text_in(first, "[one]\nmust = \n");
	put_text_in(second, "bad\n");
	assert_int_equal(settings_read(table, COUNT, first, &got, &faults), -EBADMSG);
	assert_int_equal(settings_read(table, COUNT, second, &other, &faults), -EBADMSG);
	settings_free(table, COUNT, &other);
	assert_int_equal(faults.count, 3);
	assert_string_equal(faults.items[0].path, first);
	assert_string_equal(faults.items[1].path, second);
	assert_string_equal(faults.items[2].path, second);
}

static void valid_values_beside_a_fault_are_kept(void **state)
{
	(void)state;
	assert_int_equal(read_text("[one]\nmust = x\n[two]\nnumber = 0\nsize = 8K\n"), -EBADMSG);
	assert_string_equal(got.must, "x");
	assert_int_equal(got.number, 7);
	assert_int_equal(got.size, 8192);
}

static void a_line_that_is_too_long_is_one_fault_and_the_next_is_read(void **state)
{
	(void)state;
	static const size_t lengths[] = { SETTINGS_LINE_MAX + 1, SETTINGS_LINE_MAX + 2, 500, 100000 };
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		size_t length = lengths[i];
		char *text = malloc(length + 100);
		int start = sprintf(text, "[one]\ntext = ");
		memset(text + start, 'v', length - 7);
		strcpy(text + start + length - 7, "\nmust = x\nnonsense\n");
		assert_int_equal(read_text(text), -EBADMSG);
		free(text);
		assert_int_equal(faults.count, 2);
		assert_int_equal(faults.items[0].line, 2);
		assert_string_equal(faults.items[0].text, "line too long");
		assert_int_equal(faults.items[1].line, 4);
		assert_string_equal(got.must, "x");
		assert_null(got.text);
	}
}

static void an_overlong_comment_is_a_fault_too(void **state)
{
	(void)state;
	char text[400] = "[one]\nmust = x\n#";
	memset(text + strlen(text), '#', 300);
	expect_one_fault(text, 3, "line too long");
}

static void a_zero_byte_is_a_fault_of_its_line(void **state)
{
	(void)state;
	static const char text[] = "[one]\nmust = x\ntext = a\0b\nnonsense\n";
	assert_int_equal(read_bytes(text, sizeof text - 1), -EBADMSG);
	assert_int_equal(faults.count, 2);
	assert_int_equal(faults.items[0].line, 3);
	assert_non_null(strstr(faults.items[0].text, "zero byte"));
	assert_int_equal(faults.items[1].line, 4);
	assert_null(got.text);
}

static void a_file_of_zeros_is_damaged(void **state)
{
	(void)state;
	static const char zeros[4096];
	assert_int_equal(read_bytes(zeros, sizeof zeros), -EBADMSG);
	assert_int_equal(faults.items[0].line, 1);
	assert_non_null(strstr(faults.items[0].text, "zero byte"));
}

static void a_value_that_is_shown_is_cut_not_overrun(void **state)
{
	(void)state;
	char text[SETTINGS_LINE_MAX + 40] = "[one]\nmust = x\npath = ";
	memset(text + strlen(text), 'p', SETTINGS_LINE_MAX - 7);
	expect_one_fault(text, 3, "not an absolute path");
}

/* whatever is no readable file */

static void a_missing_file_is_told_apart_from_a_faulty_one(void **state)
{
	(void)state;
	assert_int_equal(settings_read(table, COUNT, in_scratch("none"), &got, &faults), -ENOENT);
	assert_int_equal(faults.count, 0);
	assert_string_equal(got.preset, "/preset");
}

static void a_directory_is_refused_as_one(void **state)
{
	(void)state;
	assert_int_equal(settings_read(table, COUNT, in_scratch(""), &got, &faults), -EISDIR);
}

static int read_a_fifo(void *path)
{
	int status = settings_read(table, COUNT, path, &got, &faults);
	forget();
	return status < 0 ? 0 : 1;
}

static void a_fifo_is_refused_and_not_waited_for(void **state)
{
	(void)state;
	const char *path = in_scratch("fifo");
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(in_child(read_a_fifo, (void *)path, 10), 0);
}

/* writing */

/* Writes *values to a file and reads it into `got`. Returns settings_write()'s result. */
static int write_and_read(const struct target *values, int *read_status)
{
	const char *path = in_scratch("written.conf");
	FILE *file = fopen(path, "w");
	int status = settings_write(table, COUNT, values, file);
	fclose(file);
	forget();
	*read_status = status < 0 ? status : settings_read(table, COUNT, path, &got, &faults);
	return status;
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same(const struct target *a, const struct target *b)
{
	return same_text(a->must, b->must) && same_text(a->text, b->text) &&
		   same_text(a->path, b->path) && same_text(a->preset, b->preset) && a->size == b->size &&
		   a->number == b->number && a->on == b->on && a->choice == b->choice;
}

static struct target good_values(void)
{
	return (struct target){
		.must = "x",
		.preset = "/preset",
		.size = 64 << 10,
		.number = 7,
		.on = true,
		.choice = CHOICE_HIGH,
	};
}

static void what_is_written_is_read_back_the_same(void **state)
{
	(void)state;
	struct target values = {
		.must = "a word",
		.text = "= [x] # \xc3\xa4 \"quoted\" \\ : \x01",
		.path = "/some where/else",
		.preset = "/other",
		.size = 12288,
		.number = 100,
		.on = false,
		.choice = CHOICE_LOW,
	};
	int read_status;
	assert_int_equal(write_and_read(&values, &read_status), 0);
	assert_int_equal(read_status, 0);
	assert_true(same(&values, &got));
}

static void random_values_are_written_and_read_back_or_refused(void **state)
{
	(void)state;
	static const char letters[] = "ab  \t;#=:[]\"\\\n\r\v\f\x01\x7f\xc3\xa4\xef\xbb\xbf/";
	struct random random = { 1 };
	unsigned written = 0;
	for (unsigned round = 0; round < 5000; round++) {
		char text[12] = "";
		struct target values = good_values();
		for (size_t i = 0, n = random_below(&random, sizeof text); i < n; i++)
			text[i] = letters[random_below(&random, sizeof letters - 1)];
		values.text = text[0] ? text : NULL;
		values.number = 1 + random_below(&random, 100);
		values.size = 4096 + random_below(&random, (1 << 20) - 4095);
		int read_status, status = write_and_read(&values, &read_status);
		assert_true(status == 0 || (status == -EINVAL && text[0]));
		if (status == 0) {
			if (read_status != 0 || !same(&values, &got))
				fail_msg("seed 1, round %u: written, but read back otherwise: %s", round, text);
			written++;
		}
	}
	assert_true(written > 1000);
}

static void defaults_are_not_written(void **state)
{
	(void)state;
	struct target values = good_values();
	int read_status;
	assert_int_equal(write_and_read(&values, &read_status), 0);
	char *text = get_bytes_of(in_scratch("written.conf"), NULL);
	assert_string_equal(text, "[one]\nmust = x\n");
	free(text);
	assert_true(same(&values, &got));
}

static void the_longest_text_is_written_whole_and_a_longer_one_refused(void **state)
{
	(void)state;
	char text[SETTINGS_LINE_MAX + 2];
	unsigned longest = 0;
	int read_status;
	for (unsigned length = 150; length < sizeof text; length++) {
		struct target values = good_values();
		memset(text, 't', length);
		text[length] = '\0';
		values.text = text;
		int status = write_and_read(&values, &read_status);
		assert_true(status == 0 || status == -EINVAL);
		if (status == 0) {
			assert_int_equal(read_status, 0);
			assert_true(same(&values, &got));
			longest = length;
		}
	}
	assert_in_range(longest, SETTINGS_LINE_MAX - 10, SETTINGS_LINE_MAX - 7);
}

static void expect_unwritable(const struct target *values)
{
	int read_status;
	if (write_and_read(values, &read_status) == -EINVAL)
		return;
	print_faults();
	fail_msg("written; reading it back gave %d", read_status);
}

static void text_that_would_be_read_otherwise_is_refused(void **state)
{
	(void)state;
	static char *const wrong[] = { "", " x", "x ", "\tx", "x\t", "a\nb", "a\rb",
		"a\n[two]\nnumber = 5", "a ; b", "a\t;b", ";", "x\v", "\fx" };
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct target values = good_values();
		values.text = wrong[i];
		expect_unwritable(&values);
	}
}

static void a_semicolon_inside_a_word_is_written(void **state)
{
	(void)state;
	expect_no_fault("[one]\nmust = a;b\n");
	struct target values = got;
	got = (struct target){ 0 };
	int read_status, status = write_and_read(&values, &read_status);
	settings_free(table, COUNT, &values);
	assert_int_equal(status, 0);
	assert_string_equal(got.must, "a;b");
}

static void a_relative_path_is_not_written(void **state)
{
	(void)state;
	struct target values = good_values();
	values.path = "relative";
	expect_unwritable(&values);
}

static void a_number_out_of_bounds_is_not_written(void **state)
{
	(void)state;
	struct target values = good_values();
	values.number = 101;
	expect_unwritable(&values);
}

static void a_size_out_of_bounds_is_not_written(void **state)
{
	(void)state;
	struct target values = good_values();
	values.size = 0;
	expect_unwritable(&values);
}

static void an_absent_required_text_is_not_written(void **state)
{
	(void)state;
	struct target values = good_values();
	values.must = NULL;
	expect_unwritable(&values);
}

static void a_full_device_is_an_error_of_writing(void **state)
{
	(void)state;
	struct target values = good_values();
	FILE *full = fopen("/dev/full", "w");
	assert_non_null(full);
	setvbuf(full, NULL, _IONBF, 0);
	int status = settings_write(table, COUNT, &values, full);
	fclose(full);
	assert_int_equal(status, -EIO);
}

/* faults as one line */

static void one_fault_is_told_with_its_place(void **state)
{
	(void)state;
	struct reason reason;
	assert_int_equal(faults_add(&faults, "/etc/x", 12, "bad %s", "thing"), -EBADMSG);
	assert_int_equal(faults_reason(&faults, &reason), -EBADMSG);
	assert_string_equal(reason.text, "/etc/x:12: bad thing");
}

static void further_faults_are_counted(void **state)
{
	(void)state;
	struct reason reason;
	faults_add(&faults, "/etc/x", 0, "bad");
	faults_add(&faults, "/etc/x", 3, "worse");
	faults_add(&faults, "/etc/x", 4, "worst");
	faults_reason(&faults, &reason);
	assert_string_equal(reason.text, "/etc/x: bad (and 2 more: see tb4 check)");
}

static void garbled_files_end_in_faults_or_in_values_that_are_kept(void **state)
{
	(void)state;
	static const char valid[] = "# comment\n[one]\nmust = x\ntext = some text\npath = /a/b\n"
								"[two]\nsize = 64K\nnumber = 12\non = no\nchoice = low\n";
	struct random random = { 2 };
	unsigned kept = 0;
	for (unsigned round = 0; round < 10000; round++) {
		char text[sizeof valid];
		memcpy(text, valid, sizeof valid);
		size_t length = sizeof valid - 1;
		for (uint64_t n = 1 + random_below(&random, 4); n > 0; n--)
			text[random_below(&random, length)] = (char)random_next(&random);
		if (random_below(&random, 4) == 0)
			length = random_below(&random, length);
		int status = read_bytes(text, length);
		assert_int_equal(status, faults.count ? -EBADMSG : 0);
		for (size_t i = 0; i < faults.count; i++)
			assert_in_range(faults.items[i].line, 0, length + 1);
		if (status < 0)
			continue;
		struct target values = got;
		got = (struct target){ 0 };
		int read_status, written = write_and_read(&values, &read_status);
		bool is_same = read_status == 0 && same(&values, &got);
		settings_free(table, COUNT, &values);
		if (written == 0 && !is_same)
			fail_msg("seed 2, round %u: read, but written and read again it is another", round);
		kept += is_same;
	}
	assert_true(kept > 100);
}

/* groups */

struct item {
	char *name, *must;
	uint64_t number;
};

struct whole {
	char *text;
	struct item *items;
	size_t count;
};

static const struct setting item_table[] = {
	{ "thing", "must", SETTING_TEXT, offsetof(struct item, must), NULL, 0, 0, NULL, true, "" },
	{ "thing", "number", SETTING_NUMBER, offsetof(struct item, number), "7", 1, 100, NULL, false, "" },
};
static const struct setting whole_table[] = {
	{ "one", "text", SETTING_TEXT, offsetof(struct whole, text), NULL, 0, 0, NULL, false, "" },
};
static const struct setting_group things = {
	.prefix = "thing",
	.table = item_table,
	.table_size = 2,
	.item_size = sizeof(struct item),
	.name_offset = offsetof(struct item, name),
	.items_offset = offsetof(struct whole, items),
	.count_offset = offsetof(struct whole, count),
};

/* Reads the text, and says with `is_good` whether it had no faults. */
static struct whole read_group(const char *text, bool is_good)
{
	struct whole whole = { 0 };
	const char *path = in_scratch("group.conf");
	put_bytes_in(path, text, strlen(text));
	faults_free(&faults);
	int status = settings_read_with_group(whole_table, 1, &things, path, &whole, &faults);
	assert_int_equal(status, is_good ? 0 : -EBADMSG);
	return whole;
}

static void free_group(struct whole *whole)
{
	settings_free(whole_table, 1, whole);
	settings_free_group(&things, whole);
	assert_null(whole->items);
	assert_int_equal(whole->count, 0);
}

static void each_section_of_a_group_is_an_item(void **state)
{
	(void)state;
	struct whole whole = read_group("[thing a]\nmust = x\n[one]\ntext = t\n[thing b-2]\nnumber = 9\nmust = y\n", true);
	assert_int_equal(whole.count, 2);
	assert_string_equal(whole.items[0].name, "a");
	assert_string_equal(whole.items[0].must, "x");
	assert_int_equal(whole.items[0].number, 7);
	assert_string_equal(whole.items[1].name, "b-2");
	assert_int_equal(whole.items[1].number, 9);
	assert_string_equal(whole.text, "t");
	free_group(&whole);
}

static void a_setting_of_an_item_may_be_given_once_in_each(void **state)
{
	(void)state;
	struct whole whole = read_group("[thing a]\nmust = x\n[thing b]\nmust = y\nmust = z\n", false);
	assert_int_equal(faults.count, 1);
	assert_int_equal(faults.items[0].line, 5);
	free_group(&whole);
}

static void faults_of_items_name_them(void **state)
{
	(void)state;
	static const struct {
		const char *text, *fault;
		unsigned line;
	} cases[] = {
		{ "[thing a]\n", "[thing a] must is missing", 0 },
		{ "[thing a]\n[thing b]\nmust = x\n", "[thing a] must is missing", 0 },
		{ "[thing a]\nmust = x\nother = y\n", "[thing a] has no setting other", 3 },
		{ "[thing a]\nmust = x\n[thing a]\nmust = y\n", "[thing a] is there twice", 3 },
		{ "[thing]\nmust = x\n", "[thing ]: not a name", 1 },
		{ "[thing .a]\nmust = x\n", "[thing .a]: not a name", 1 },
		{ "[thing a b]\n", "[thing a b]: not a name", 1 },
		{ "[thing 0123456789012345678901234567890123456789x]\n", "not a name", 1 },
		{ "[things a]\n", "[things a] is an unknown section", 1 },
		{ "[one]\nmust = x\n", "[one] has no setting must", 2 },
		{ "[thing a]\nmust = x\nnumber = 0\n", "number = 0: not between 1 and 100", 3 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct whole whole = read_group(cases[i].text, false);
		assert_int_equal(faults.count, 1);
		assert_int_equal(faults.items[0].line, cases[i].line);
		assert_non_null(strstr(faults.items[0].text, cases[i].fault));
		free_group(&whole);
	}
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(values_of_every_type_are_read),
		test(what_is_left_out_gets_its_default),
		test(defaults_alone_need_no_file),
		test(comments_and_blank_lines_are_skipped),
		test(indented_lines_stand_for_themselves),
		test(a_section_may_be_given_in_parts),
		test(lines_may_end_with_cr_lf),
		test(a_byte_order_mark_is_skipped),
		test(the_last_line_needs_no_newline),
		test(a_line_of_full_length_is_read_whole),
		test(each_kind_of_fault_names_its_line),
		test(a_name_before_any_section_is_a_fault),
		test(an_unknown_section_is_named),
		test(an_unknown_section_without_names_is_a_fault),
		test(text_behind_a_section_name_is_a_fault),
		test(a_section_name_that_is_cut_by_a_comment_is_a_fault),
		test(a_name_given_twice_is_found_across_parts_of_a_section),
		test(the_first_of_two_equal_names_counts),
		test(a_missing_name_is_a_fault_of_the_whole_file),
		test(a_wrong_value_is_not_also_reported_as_missing),
		test(all_faults_of_a_file_are_found_in_one_run),
		test(faults_of_several_files_are_kept_apart),
		test(valid_values_beside_a_fault_are_kept),
		test(a_line_that_is_too_long_is_one_fault_and_the_next_is_read),
		test(an_overlong_comment_is_a_fault_too),
		test(a_zero_byte_is_a_fault_of_its_line),
		test(a_file_of_zeros_is_damaged),
		test(a_value_that_is_shown_is_cut_not_overrun),
		test(a_missing_file_is_told_apart_from_a_faulty_one),
		test(a_directory_is_refused_as_one),
		test(a_fifo_is_refused_and_not_waited_for),
		test(what_is_written_is_read_back_the_same),
		test(random_values_are_written_and_read_back_or_refused),
		test(defaults_are_not_written),
		test(the_longest_text_is_written_whole_and_a_longer_one_refused),
		test(text_that_would_be_read_otherwise_is_refused),
		test(a_semicolon_inside_a_word_is_written),
		test(a_relative_path_is_not_written),
		test(a_number_out_of_bounds_is_not_written),
		test(a_size_out_of_bounds_is_not_written),
		test(an_absent_required_text_is_not_written),
		test(a_full_device_is_an_error_of_writing),
		test(one_fault_is_told_with_its_place),
		test(further_faults_are_counted),
		test(garbled_files_end_in_faults_or_in_values_that_are_kept),
		test(each_section_of_a_group_is_an_item),
		test(a_setting_of_an_item_may_be_given_once_in_each),
		test(faults_of_items_name_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
