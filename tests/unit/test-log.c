#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "scratch.h"
#include "unit.h"

/* Standard error is a datagram socket, so that each write(2) is read as one piece. */
static int real_stderr = -1, reader = -1;

static int setup(void **state)
{
	int sockets[2];
	(void)state;
	fflush(stderr);
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return -1;
	real_stderr = dup(STDERR_FILENO);
	reader = sockets[0];
	dup2(sockets[1], STDERR_FILENO);
	close(sockets[1]);
	unsetenv("JOURNAL_STREAM");
	log_open("tb4-gateway[200]", LOG_LEVEL_INFO);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(reader);
	unsetenv("JOURNAL_STREAM");
	return 0;
}

/* The next line that was written; NULL if there is none. */
static const char *next_line(void)
{
	static char line[8192];
	ssize_t n = recv(reader, line, sizeof line - 1, MSG_DONTWAIT);
	if (n < 0)
		return NULL;
	line[n] = '\0';
	assert_int_equal(strlen(line), n);
	return line;
}

static void expect_line(const char *wanted)
{
	const char *line = next_line();
	assert_non_null(line);
	assert_string_equal(line, wanted);
}

static void a_line_begins_with_the_program(void **state)
{
	(void)state;
	log_info("vm-200-disk-0: %s, generation %d", "claimed", 7);
	expect_line("tb4-gateway[200]: vm-200-disk-0: claimed, generation 7\n");
	assert_null(next_line());
}

static void each_line_is_one_write(void **state)
{
	(void)state;
	log_info("one");
	log_warning("two");
	log_error("three");
	expect_line("tb4-gateway[200]: one\n");
	expect_line("tb4-gateway[200]: two\n");
	expect_line("tb4-gateway[200]: three\n");
	assert_null(next_line());
}

static void control_characters_are_escaped(void **state)
{
	(void)state;
	for (unsigned byte = 1; byte < 256; byte++) {
		char wanted[80];
		if (byte < 0x20 || byte == 0x7f)
			snprintf(wanted, sizeof wanted, "tb4-gateway[200]: a\\x%02xb\n", byte);
		else
			snprintf(wanted, sizeof wanted, "tb4-gateway[200]: a%cb\n", (char)byte);
		log_info("a%cb", (char)byte);
		expect_line(wanted);
	}
}

static void a_forged_line_stays_inside_its_own(void **state)
{
	(void)state;
	log_info("export \"%s\"", "x\ntb4-gateway[200]: all is well\r\x1b[2K");
	expect_line("tb4-gateway[200]: export \"x\\x0atb4-gateway[200]: all is well\\x0d\\x1b[2K\"\n");
}

/* U+0080 to U+009F, two bytes in UTF-8: 9b begins an escape sequence on many terminals. */
static void control_characters_of_unicode_are_escaped(void **state)
{
	(void)state;
	log_info("a%sb", "\xc2\x9b"
					 "2J");
	const char *line = next_line();
	assert_non_null(line);
	assert_null(strstr(line, "\xc2\x9b"));
	assert_non_null(strstr(line, "2Jb\n"));
}

static void utf_8_is_printed_as_it_is(void **state)
{
	(void)state;
	log_info("k\xc3\xb6ln \xe2\x82\xac");
	expect_line("tb4-gateway[200]: k\xc3\xb6ln \xe2\x82\xac\n");
}

static void an_endless_text_is_cut_to_one_line(void **state)
{
	(void)state;
	static char text[5000];
	for (int control = 0; control < 2; control++) {
		memset(text, control ? '\x01' : 'x', sizeof text - 1);
		log_info("%s", text);
		const char *line = next_line();
		assert_non_null(line);
		assert_in_range(strlen(line), 900, 1024);
		assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
		assert_null(next_line());
	}
}

static void lines_above_the_level_are_dropped(void **state)
{
	(void)state;
	static const enum log_level levels[] = { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO,
		LOG_LEVEL_DEBUG };
	for (size_t i = 0; i < 4; i++) {
		log_set_level(levels[i]);
		for (size_t k = 0; k < 4; k++) {
			log_line(levels[k], "level %u", levels[k]);
			assert_int_equal(next_line() != NULL, levels[k] <= levels[i]);
		}
	}
}

static void errno_survives_a_line(void **state)
{
	(void)state;
	close(STDERR_FILENO);
	errno = EOWNERDEAD;
	log_info("nobody reads this");
	assert_int_equal(errno, EOWNERDEAD);
}

/* Elsewhere than under systemd; tests/vm has the rest. */
static void an_event_is_a_line_as_any_other(void **state)
{
	(void)state;
	log_set_vmid(200);
	log_event(LOG_LEVEL_INFO, EVENT_SLOT_ACTIVE, "vm-200-disk-0", 1, "slot %d:\n%s", 1, "is active");
	expect_line("tb4-gateway[200]: slot 1:\\x0ais active\n");
	log_event(LOG_LEVEL_ERROR, EVENT_FENCED, NULL, LOG_NO_SLOT, "fenced");
	expect_line("tb4-gateway[200]: fenced\n");
	log_set_level(LOG_LEVEL_WARNING);
	log_event(LOG_LEVEL_INFO, EVENT_SLOT_ACTIVE, "vm-200-disk-0", 1, "is active");
	assert_null(next_line());
}

/* systemd */

static void set_journal_stream(unsigned long inode_offset)
{
	struct stat st;
	char text[80];
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(text, sizeof text, "%lu:%lu", (unsigned long)st.st_dev,
		(unsigned long)st.st_ino + inode_offset);
	setenv("JOURNAL_STREAM", text, 1);
	log_open("tb4", LOG_LEVEL_DEBUG);
}

static void lines_for_the_journal_begin_with_their_priority(void **state)
{
	(void)state;
	set_journal_stream(0);
	log_error("a");
	expect_line("<3>tb4: a\n");
	log_warning("b");
	expect_line("<4>tb4: b\n");
	log_info("c");
	expect_line("<6>tb4: c\n");
	log_debug("d");
	expect_line("<7>tb4: d\n");
}

static void a_redirected_standard_error_gets_no_priorities(void **state)
{
	(void)state;
	static const char *const others[] = { "", "x", "1", "1:", ":1" };
	set_journal_stream(1);
	log_error("a");
	expect_line("tb4: a\n");
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		setenv("JOURNAL_STREAM", others[i], 1);
		log_open("tb4", LOG_LEVEL_INFO);
		log_error("a");
		expect_line("tb4: a\n");
	}
}

/* peers */

static time_t seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

/* A log that is set to errors only has no warnings, whoever causes them. */
static void lines_about_peers_are_warnings(void **state)
{
	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	log_peer("client 1: nonsense");
	assert_null(next_line());
	log_set_level(LOG_LEVEL_WARNING);
	log_peer("client %d: nonsense\n", 2);
	expect_line("tb4-gateway[200]: client 2: nonsense\\x0a\n");
}

static void lines_about_peers_carry_their_priority(void **state)
{
	(void)state;
	set_journal_stream(0);
	log_peer("x");
	expect_line("<4>tb4: x\n");
}

/* Every line that a peer causes is either printed or counted in a later "were left out". */
static void a_flood_of_lines_about_peers_is_limited_and_counted(void **state)
{
	(void)state;
	enum { FLOOD = 2000 };
	unsigned printed = 0, called = 0;
	unsigned long left_out = 0;
	time_t start = seconds_now(), deadline = start + 60;
	while (left_out == 0 && seconds_now() < deadline) {
		unsigned calls = called == 0 ? FLOOD : 1;
		for (unsigned i = 0; i < calls; i++) {
			log_peer("line %u", ++called);
			const char *line;
			while ((line = next_line())) {
				unsigned long count;
				if (sscanf(line, "tb4-gateway[200]: %lu lines about peers were left out", &count) ==
					1)
					left_out += count;
				else
					printed++;
			}
		}
		if (left_out == 0)
			usleep(20000);
	}
	time_t took = seconds_now() - start;
	assert_true(left_out > 0);
	/* the last call was printed, so nothing is left out behind it */
	assert_int_equal(printed + left_out, called);
	assert_true(printed >= 10);
	assert_true(printed <= 20 + (unsigned long)took + 1);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_line_begins_with_the_program),
		test(each_line_is_one_write),
		test(control_characters_are_escaped),
		test(a_forged_line_stays_inside_its_own),
		test(control_characters_of_unicode_are_escaped),
		test(utf_8_is_printed_as_it_is),
		test(an_endless_text_is_cut_to_one_line),
		test(lines_above_the_level_are_dropped),
		test(errno_survives_a_line),
		test(an_event_is_a_line_as_any_other),
		test(lines_for_the_journal_begin_with_their_priority),
		test(a_redirected_standard_error_gets_no_priorities),
		test(lines_about_peers_are_warnings),
		test(lines_about_peers_carry_their_priority),
		test(a_flood_of_lines_about_peers_is_limited_and_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
