/* The checks of the doctor that read the host, on hosts that are made of files. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "doctor/doctor.h"
#include "scratch.h"
#include "unit.h"

static const int64_t A_DAY_OF_2026 = 1795337855;

static struct sled sled = { .name = "s1", .address = "127.0.0.1" };

static struct doctor doctor_of_scratch(void)
{
	static char root[200];
	snprintf(root, sizeof root, "%s", in_scratch(""));
	return (struct doctor){
		.host = { .root = root, .now = A_DAY_OF_2026, .clock_is_synchronised = true },
		.config = { .sleds = &sled, .sled_count = 1 },
	};
}

static void put(const char *path, const char *text)
{
	char directory[200] = "";
	for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
		snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
		mkdir(in_scratch(directory + 1), 0755);
	}
	put_text_in(in_scratch(path + 1), text);
}

typedef void check_function(const struct doctor *doctor, struct report *report);

/* Runs one; its only finding, if it shall have one, is about `subject` and has `cause` in it, and a next step. */
static void expect(check_function *check, const struct doctor *doctor, enum severity severity, const char *subject,
	const char *cause)
{
	struct report report = { .check = "test" };
	check(doctor, &report);
	assert_int_equal(report.count, severity != SEVERITY_OK);
	if (severity != SEVERITY_OK) {
		const struct finding *finding = &report.items[0];
		assert_int_equal(finding->severity, severity);
		assert_string_equal(finding->id, "test");
		assert_string_equal(finding->subject, subject);
		assert_non_null(strstr(finding->cause, cause));
		assert_true(finding->next && strlen(finding->next) > 5);
		assert_int_equal(report.counts[severity], 1);
	}
	assert_true(report_is_complete(&report));
	report_free(&report);
}

static void test_clock(void **state)
{
	static const struct {
		int64_t now;
		bool is_kept;
		enum severity severity;
		const char *cause;
	} cases[] = {
		{ A_DAY_OF_2026, true, SEVERITY_OK, NULL },
		{ A_DAY_OF_2026, false, SEVERITY_WARNING, "not synchronised" },
		{ 17, true, SEVERITY_ERROR, "says 17 s since 1970" },
		{ 4102444800, true, SEVERITY_ERROR, "is not now" }, /* 2100 */
		{ 4102444799, true, SEVERITY_OK, NULL },
		{ -1, false, SEVERITY_ERROR, "is not now" },
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct doctor doctor = doctor_of_scratch();
		doctor.host.now = cases[i].now;
		doctor.host.clock_is_synchronised = cases[i].is_kept;
		expect(check_clock, &doctor, cases[i].severity, "clock", cases[i].cause);
	}
}

static void test_host_without_anything_is_in_order(void **state)
{
	(void)state;
	struct doctor doctor = doctor_of_scratch();
	expect(check_modules, &doctor, SEVERITY_OK, NULL, NULL);
	expect(check_sysctl, &doctor, SEVERITY_OK, NULL, NULL);
	expect(check_units, &doctor, SEVERITY_OK, NULL, NULL);
}

static void test_nbd_module(void **state)
{
	(void)state;
	struct doctor doctor = doctor_of_scratch();
	put("/sys/module/nbd/parameters/max_part", "16\n");
	expect(check_modules, &doctor, SEVERITY_WARNING, "nbd", "max_part=16");
	put("/sys/module/nbd/parameters/max_part", "0\n");
	expect(check_modules, &doctor, SEVERITY_OK, NULL, NULL);
}

static void test_sysctl(void **state)
{
	static const struct {
		const char *path, *name, *good, *bad, *cause;
		bool for_sleds;
	} cases[] = {
		{ "/proc/sys/kernel/io_uring_disabled", "kernel.io_uring_disabled", "0\n", "2\n", "it is 2", false },
		{ "/proc/sys/net/core/wmem_max", "net.core.wmem_max", "1048576\n", "212992\n", "it is 212992", false },
		{ "/proc/sys/net/ipv4/tcp_rmem", "net.ipv4.tcp_rmem", "4096\t131072\t6291456\n", "4096\t16384\t32768\n",
			"at most 32768 bytes", true },
		{ "/proc/sys/net/ipv4/tcp_wmem", "net.ipv4.tcp_wmem", "4096\t16384\t4194304\n", "4096\t16384\t2097151\n",
			"at most 2097151 bytes", true },
	};
	(void)state;
	struct doctor doctor = doctor_of_scratch();
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		put(cases[i].path, cases[i].bad);
		expect(check_sysctl, &doctor, SEVERITY_WARNING, cases[i].name, cases[i].cause);
		doctor.config.sled_count = 0;
		expect(check_sysctl, &doctor, cases[i].for_sleds ? SEVERITY_OK : SEVERITY_WARNING, cases[i].name, cases[i].cause);
		doctor.config.sled_count = 1;
		put(cases[i].path, "nonsense\n");
		expect(check_sysctl, &doctor, SEVERITY_OK, NULL, NULL);
		put(cases[i].path, cases[i].good);
		expect(check_sysctl, &doctor, SEVERITY_OK, NULL, NULL);
	}
}

static void test_units(void **state)
{
	(void)state;
	struct doctor doctor = doctor_of_scratch();
	put("/run/systemd/system/other.service", "");
	put("/usr/lib/systemd/system/tb4-vm@.service", "");
	expect(check_units, &doctor, SEVERITY_WARNING, "tb4-vm@.socket", "does not have this unit");
	put("/etc/systemd/system/tb4-vm@.socket", "");
	expect(check_units, &doctor, SEVERITY_OK, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(test_clock),
		scratch_test(test_host_without_anything_is_in_order),
		scratch_test(test_nbd_module),
		scratch_test(test_sysctl),
		scratch_test(test_units),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
