#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "durable-file.h"
#include "scratch.h"
#include "unit.h"
#include "volume/ownership.h"

enum { VMID = 200, NOW = 1720000000 };

static struct config config;
static struct volume volume, second_volume;
static struct reason reason;
static struct ownership *ownership; /* what the test has open */

static struct volume volume_of(const char *name)
{
	struct volume made = { .host = (char *)"node-a" };
	snprintf(made.name, sizeof made.name, "%s", name);
	volume_name_parse(name, &made.parsed);
	return made;
}

static int setup(void **state)
{
	int status = scratch_setup(state);
	config = scratch_config("node-a");
	volume = volume_of("vm-200-disk-0");
	second_volume = volume_of("vm-200-disk-1");
	ownership = NULL;
	return status;
}

static void finish(void)
{
	ownership_close(ownership);
	ownership = NULL;
}

static int teardown(void **state)
{
	finish();
	return scratch_teardown(state);
}

static const char *role(void)
{
	return in_scratch("run/200/role");
}

static const char *record_file(void)
{
	return in_scratch("claims/vm-200-disk-0.json");
}

/* The next process of the VM: what was open is closed as a crash would, with nothing released. */
static void start(void)
{
	finish();
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), 0);
}

static struct hold hold(void)
{
	struct hold held;
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), 0);
	return held;
}

static struct record present(void)
{
	struct record record;
	assert_int_equal(record_load(&config, volume.name, &record, &reason), 0);
	return record;
}

/* Somebody else takes the volume away. */
static struct record take_away(void)
{
	struct config other = scratch_config("node-b");
	struct record claim;
	assert_int_equal(claim_take(&other, &volume, NOW, true, &claim, &reason), 0);
	return claim;
}

/* fresh */

static void a_first_start_claims_the_volume(void **state)
{
	(void)state;
	start();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_FRESH);
	assert_int_equal(held.generation, NOW);
	assert_int_equal(held.generation, held.claim.generation_first);
	assert_string_equal(held.claim.claim_id, present().claim_id);
	assert_int_equal(ownership_check(ownership, volume.name, &held, &reason), 0);
}

static void the_role_file_names_claim_and_generation_before_anybody_uses_them(void **state)
{
	(void)state;
	start();
	struct hold held = hold();
	char *text = get_bytes_of(role(), NULL), generation[40];
	snprintf(generation, sizeof generation, "%llu", (unsigned long long)held.generation);
	assert_non_null(strstr(text, volume.name));
	assert_non_null(strstr(text, held.claim.claim_id));
	assert_non_null(strstr(text, generation));
	free(text);
}

static void another_host_is_refused_and_leaves_no_role(void **state)
{
	(void)state;
	struct hold held;
	config = scratch_config("node-b");
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EACCES);
	assert_false(exists(role()));
	finish();
	assert_false(exists(in_scratch("run/200")));
}

static void a_damaged_record_is_refused_and_leaves_no_role(void **state)
{
	(void)state;
	struct hold held;
	make_directory(config.claim_dir, &reason);
	put_text_in(record_file(), "damaged");
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, record_file()));
	assert_false(exists(role()));
}

/* resumed */

static void a_start_after_a_crash_resumes_under_the_next_generation(void **state)
{
	(void)state;
	start();
	struct hold first = hold();
	start();
	struct hold second = hold();
	assert_int_equal(second.kind, HOLD_RESUMED);
	assert_string_equal(second.claim.claim_id, first.claim.claim_id);
	assert_int_equal(second.generation, first.generation + 1);
	assert_int_equal(present().seq, first.claim.seq);
}

static void holding_twice_uses_two_generations(void **state)
{
	(void)state;
	start();
	struct hold first = hold(), second = hold();
	assert_int_equal(second.kind, HOLD_RESUMED);
	assert_int_equal(second.generation, first.generation + 1);
}

static void generations_rise_through_two_thousand_crashes(void **state)
{
	(void)state;
	uint64_t last = 0, seq = 0;
	char id[RECORD_ID_SIZE] = "";
	for (unsigned i = 0; i < 2500; i++) {
		start();
		struct hold held = hold();
		struct record record = present();
		assert_int_equal(held.kind, i ? HOLD_RESUMED : HOLD_FRESH);
		assert_true(held.generation > last);
		assert_in_range(held.generation, record.generation_first, record.generation_last);
		assert_string_equal(held.claim.claim_id, record.claim_id);
		if (i > 0)
			assert_string_equal(id, record.claim_id);
		strcpy(id, record.claim_id);
		last = held.generation;
		seq = record.seq;
	}
	assert_int_equal(seq, 3); /* extended twice */
}

static void an_exhausted_range_is_extended_under_the_same_claim(void **state)
{
	(void)state;
	start();
	struct hold first = hold();
	for (unsigned i = 1; i < CLAIM_GENERATIONS; i++)
		hold();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_RESUMED);
	assert_string_equal(held.claim.claim_id, first.claim.claim_id);
	assert_int_equal(held.generation, first.claim.generation_last + 1);
	assert_int_equal(held.claim.seq, first.claim.seq + 1);
	assert_int_equal(present().generation_last, held.claim.generation_last);
}

static int hold_and_die(void *context)
{
	struct hold held;
	(void)context;
	if (ownership_open(&config, VMID, &ownership, &reason) == 0 &&
		ownership_hold(ownership, &volume, NOW, &held, &reason) == 0)
		kill(getpid(), SIGKILL);
	return 0;
}

static void a_process_that_was_killed_is_resumed(void **state)
{
	(void)state;
	assert_int_equal(in_child(hold_and_die, NULL, 60), ENDED_BADLY);
	uint64_t used = present().generation_first;
	start();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_RESUMED);
	assert_int_equal(held.generation, used + 1);
}

static void volumes_of_a_vm_are_held_separately(void **state)
{
	(void)state;
	struct hold other;
	start();
	struct hold first = hold();
	start();
	assert_int_equal(ownership_hold(ownership, &second_volume, NOW, &other, &reason), 0);
	assert_int_equal(other.kind, HOLD_FRESH);
	start();
	assert_int_equal(ownership_hold(ownership, &second_volume, NOW, &other, &reason), 0);
	assert_int_equal(other.kind, HOLD_RESUMED);
	struct hold again = hold();
	assert_int_equal(again.kind, HOLD_RESUMED);
	assert_int_equal(again.generation, first.generation + 1);
}

/* fenced */

static void a_start_after_the_record_has_moved_on_is_fenced(void **state)
{
	(void)state;
	struct hold held;
	start();
	hold();
	char *before = get_bytes_of(role(), NULL);
	struct record theirs = take_away();
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EOWNERDEAD);
	assert_non_null(strstr(reason.text, "fenced"));
	assert_non_null(strstr(reason.text, "node-b"));
	assert_string_equal(present().claim_id, theirs.claim_id);
	assert_int_equal(present().seq, theirs.seq);
	char *after = get_bytes_of(role(), NULL);
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static void a_start_after_the_other_has_released_is_fenced_too(void **state)
{
	(void)state;
	struct hold held;
	start();
	hold();
	struct record theirs = take_away();
	assert_int_equal(claim_release(&config, volume.name, theirs.claim_id, &reason), 0);
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EOWNERDEAD);
}

static void a_start_without_its_record_is_fenced(void **state)
{
	(void)state;
	struct hold held;
	start();
	hold();
	assert_int_equal(unlink(record_file()), 0);
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EOWNERDEAD);
	assert_non_null(strstr(reason.text, "gone"));
	assert_false(exists(record_file()));
}

static void a_start_with_a_damaged_record_is_an_error_and_no_fence(void **state)
{
	(void)state;
	struct hold held;
	start();
	hold();
	put_text_in(record_file(), "damaged");
	start();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, record_file()));
	assert_true(exists(role()));
}

static void a_fence_stays_until_it_is_forgotten(void **state)
{
	(void)state;
	struct hold held;
	start();
	hold();
	take_away();
	for (unsigned i = 0; i < 3; i++) {
		start();
		assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EOWNERDEAD);
	}
	assert_int_equal(ownership_forget(ownership, &reason), 0);
	assert_false(exists(role()));
	start();
	assert_int_equal(hold().kind, HOLD_FRESH);
}

static void a_check_sees_that_the_record_has_changed(void **state)
{
	(void)state;
	start();
	struct hold held = hold();
	assert_int_equal(ownership_check(ownership, volume.name, &held, &reason), 0);
	take_away();
	assert_int_equal(ownership_check(ownership, volume.name, &held, &reason), -EOWNERDEAD);
	assert_int_equal(unlink(record_file()), 0);
	assert_int_equal(ownership_check(ownership, volume.name, &held, &reason), -EOWNERDEAD);
	put_text_in(record_file(), "damaged");
	assert_int_equal(ownership_check(ownership, volume.name, &held, &reason), -EBADMSG);
}

/* An owner that is out of generations finds out before it uses one. */
static void an_exhausted_range_of_a_lost_claim_is_a_fence(void **state)
{
	(void)state;
	struct hold held;
	start();
	for (unsigned i = 0; i < CLAIM_GENERATIONS; i++)
		hold();
	take_away();
	assert_int_equal(ownership_hold(ownership, &volume, NOW, &held, &reason), -EOWNERDEAD);
}

/* releasing */

static void a_release_ends_the_claim_and_the_role(void **state)
{
	(void)state;
	start();
	struct hold held = hold();
	assert_int_equal(ownership_release(ownership, volume.name, &reason), 0);
	assert_true(present().released);
	assert_string_equal(present().claim_id, held.claim.claim_id);
	assert_false(exists(role()));
	start();
	struct hold next = hold();
	assert_int_equal(next.kind, HOLD_FRESH);
	assert_true(next.generation > held.claim.generation_last);
}

static void releasing_twice_is_harmless(void **state)
{
	(void)state;
	start();
	hold();
	assert_int_equal(ownership_release(ownership, volume.name, &reason), 0);
	uint64_t seq = present().seq;
	assert_int_equal(ownership_release(ownership, volume.name, &reason), 0);
	assert_int_equal(ownership_release(ownership, "vm-200-disk-7", &reason), 0);
	assert_int_equal(present().seq, seq);
}

static void releasing_one_volume_keeps_the_role_of_the_other(void **state)
{
	(void)state;
	struct hold other;
	start();
	struct hold first = hold();
	assert_int_equal(ownership_hold(ownership, &second_volume, NOW, &other, &reason), 0);
	assert_int_equal(ownership_release(ownership, second_volume.name, &reason), 0);
	start();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_RESUMED);
	assert_int_equal(held.generation, first.generation + 1);
	assert_int_equal(ownership_hold(ownership, &second_volume, NOW, &other, &reason), 0);
	assert_int_equal(other.kind, HOLD_FRESH);
}

static void a_claim_that_was_released_before_the_crash_is_claimed_anew(void **state)
{
	(void)state;
	start();
	struct hold held = hold();
	assert_int_equal(claim_release(&config, volume.name, held.claim.claim_id, &reason), 0);
	start();
	struct hold next = hold();
	assert_int_equal(next.kind, HOLD_FRESH);
	assert_string_not_equal(next.claim.claim_id, held.claim.claim_id);
	assert_true(next.generation > held.claim.generation_last);
	start();
	assert_int_equal(hold().generation, next.generation + 1);
}

static void a_release_does_not_touch_the_claim_of_a_new_owner(void **state)
{
	(void)state;
	start();
	hold();
	struct record theirs = take_away();
	assert_int_equal(ownership_release(ownership, volume.name, &reason), 0);
	assert_false(present().released);
	assert_int_equal(present().seq, theirs.seq);
}

static void a_release_that_fails_keeps_the_role(void **state)
{
	(void)state;
	start();
	hold();
	put_text_in(record_file(), "damaged");
	assert_int_equal(ownership_release(ownership, volume.name, &reason), -EBADMSG);
	assert_true(exists(role()));
}

static void a_dropped_volume_has_neither_record_nor_role(void **state)
{
	(void)state;
	start();
	hold();
	assert_int_equal(ownership_drop(ownership, volume.name, &reason), 0);
	assert_false(exists(record_file()));
	assert_false(exists(role()));
}

static void a_volume_of_somebody_else_is_not_dropped(void **state)
{
	(void)state;
	start();
	assert_int_equal(ownership_drop(ownership, volume.name, &reason), -EOWNERDEAD);
	hold();
	struct record theirs = take_away();
	assert_int_equal(ownership_drop(ownership, volume.name, &reason), -EOWNERDEAD);
	assert_string_equal(present().claim_id, theirs.claim_id);
}

/* the role file */

#define ROLE(boot, volumes) \
	"{\"version\":1,\"role\":\"owner\",\"boot_id\":\"" boot "\",\"volumes\":[" volumes "]}"
#define OLD_BOOT "00000000-0000-4000-8000-000000000000"

/* Writes the first line of the text as a role file, with the checksum that belongs to it. */
static void put_role(const char *text)
{
	char *checked;
	int length = (int)strcspn(text, "\n");
	unsigned long long sum = XXH64(text, (size_t)length, 0);
	assert_true(asprintf(&checked, "%.*s\nxxh64 %016llx\n", length, text, sum) > 0);
	make_directory(in_scratch("run/200"), NULL);
	put_text_in(role(), checked);
	free(checked);
}

/* The role file as it would be written now, with these entries. */
static char *role_of_this_boot(const char *volumes)
{
	char boot_id[RECORD_ID_SIZE], *text;
	assert_int_equal(claim_boot_id(boot_id), 0);
	assert_true(asprintf(&text, ROLE("%s", "%s"), boot_id, volumes) > 0);
	return text;
}

static void expect_damaged(const char *text)
{
	put_role(text);
	char *before = get_bytes_of(role(), NULL);
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), -EBADMSG);
	assert_null(ownership);
	assert_non_null(strstr(reason.text, role()));
	char *after = get_bytes_of(role(), NULL);
	assert_string_equal(after, before);
	free(before);
	free(after);
}

static void a_damaged_role_file_is_refused_and_left_as_it_is(void **state)
{
	(void)state;
	static const char *const damaged[] = { "", "{", "{}", "null", "[]", "garbage",
		"{\"version\":1}", "{\"version\":1,\"role\":\"owner\",\"volumes\":[]}" };
	for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++)
		expect_damaged(damaged[i]);
}

#define ENTRY(name, id, last) \
	"{\"volume\":\"" name "\",\"claim_id\":\"" id "\",\"last_generation\":" last "}"

static void a_role_file_with_wrong_entries_is_refused_and_left_as_it_is(void **state)
{
	(void)state;
	static const char *const wrong[] = { "1", "{}", "null", "[]", ENTRY("vm-201-disk-0", "x", "1"),
		ENTRY("../x", "x", "1"), ENTRY("", "x", "1"), ENTRY("vm-200-disk-0", "x", "-1"),
		ENTRY("vm-200-disk-0", "x", "\"1\""), ENTRY("vm-200-disk-0", "x", "1.5"),
		ENTRY("vm-200-disk-0", "0123456789012345678901234567890123456789", "1"),
		ENTRY("vm-200-disk-0", "x", "1") "," ENTRY("vm-200-disk-0", "x", "1"),
		"{\"volume\":\"vm-200-disk-0\",\"claim_id\":\"x\"}" };
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		char *text = role_of_this_boot(wrong[i]);
		expect_damaged(text);
		free(text);
	}
}

static void a_role_or_version_that_is_not_known_is_refused(void **state)
{
	(void)state;
	static const char *const from[] = { "\"owner\"", "\"version\":1" };
	static const char *const to[] = { "\"gamer\"", "\"version\":2" };
	for (size_t i = 0; i < 2; i++) {
		char *text = role_of_this_boot("");
		memcpy(strstr(text, from[i]), to[i], strlen(to[i]));
		expect_damaged(text);
		free(text);
	}
}

static void every_truncation_of_a_role_file_is_refused(void **state)
{
	(void)state;
	start();
	hold();
	finish();
	size_t length;
	char *text = get_bytes_of(role(), &length);
	for (size_t cut = 0; cut < length; cut++) {
		put_bytes_in(role(), text, cut);
		assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), -EBADMSG);
		assert_null(ownership);
	}
	put_bytes_in(role(), text, length);
	free(text);
	start();
	assert_int_equal(hold().kind, HOLD_RESUMED);
}

static void a_role_file_of_another_boot_counts_as_gone(void **state)
{
	(void)state;
	put_role(ROLE(OLD_BOOT, ENTRY("vm-200-disk-0", "some-id", "1")));
	start();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_FRESH);
	assert_int_equal(held.generation, NOW);
}

static void a_reboot_leads_to_a_claim_above_the_old_one(void **state)
{
	(void)state;
	start();
	struct hold before = hold();
	char *text = get_bytes_of(role(), NULL);
	memcpy(strstr(text, before.claim.boot_id), OLD_BOOT, RECORD_ID_SIZE - 1);
	finish();
	put_role(text);
	free(text);
	start();
	struct hold held = hold();
	assert_int_equal(held.kind, HOLD_FRESH);
	assert_true(held.generation > before.claim.generation_last);
}

/* The role file and the record disagree, as when claim_dir was put back from a backup. */
static void expect_no_generation_beyond_the_claim(const char *last_used)
{
	char entry[300];
	struct hold held;
	start();
	held = hold();
	snprintf(
		entry, sizeof entry, ENTRY("vm-200-disk-0", "%s", "%s"), held.claim.claim_id, last_used);
	char *text = role_of_this_boot(entry);
	finish();
	put_role(text);
	free(text);
	if (ownership_open(&config, VMID, &ownership, &reason) < 0 ||
		ownership_hold(ownership, &volume, NOW, &held, &reason) < 0)
		return;
	assert_in_range(held.generation, present().generation_first, present().generation_last);
	assert_true(held.generation > strtoull(last_used, NULL, 10));
}

static void a_role_file_ahead_of_its_record_gives_no_generation_beyond_the_claim(void **state)
{
	(void)state;
	expect_no_generation_beyond_the_claim("1720005000");
}

static void an_absurd_number_in_the_role_file_gives_no_generation_beyond_the_claim(void **state)
{
	(void)state;
	expect_no_generation_beyond_the_claim("9223372036854775807");
}

static void a_role_file_behind_its_record_goes_on_inside_the_range(void **state)
{
	(void)state;
	char entry[300];
	start();
	struct hold first = hold();
	snprintf(entry, sizeof entry, ENTRY("vm-200-disk-0", "%s", "5"), first.claim.claim_id);
	char *text = role_of_this_boot(entry);
	finish();
	put_role(text);
	free(text);
	start();
	struct hold held = hold();
	assert_in_range(held.generation, first.claim.generation_first, first.claim.generation_last);
}

static int hold_without_room(void *context)
{
	const struct rlimit limit = { 0, 0 };
	struct hold held;
	(void)context;
	signal(SIGXFSZ, SIG_IGN);
	if (ownership_open(&config, VMID, &ownership, &reason) < 0 ||
		setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 1;
	int status = ownership_hold(ownership, &volume, NOW, &held, &reason);
	ownership_close(ownership);
	return status == -EFBIG ? 0 : 2;
}

static void a_generation_that_cannot_be_noted_is_not_given(void **state)
{
	(void)state;
	start();
	struct hold first = hold();
	finish();
	char *before = get_bytes_of(role(), NULL);
	assert_int_equal(in_child(hold_without_room, NULL, 60), 0);
	char *after = get_bytes_of(role(), NULL);
	assert_string_equal(before, after);
	free(before);
	free(after);
	start();
	assert_int_equal(hold().generation, first.generation + 1);
}

/* More volumes than a role file has room for: the next start must still be able to read it. */
static void a_vm_with_many_volumes_can_be_resumed(void **state)
{
	(void)state;
	enum { MANY = 700 };
	start();
	for (unsigned disk = 0; disk < MANY; disk++) {
		char name[VOLUME_NAME_MAX];
		volume_name_of_disk(VMID, disk, name);
		struct volume one = volume_of(name);
		struct hold held;
		if (ownership_hold(ownership, &one, NOW, &held, &reason) < 0)
			break; /* refused in time is as good */
	}
	finish();
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), 0);
}

/* the lock and the directory */

static void a_second_process_is_refused_with_the_name_of_the_first(void **state)
{
	(void)state;
	struct ownership *second = NULL;
	char pid[32];
	start();
	snprintf(pid, sizeof pid, "pid %d", getpid());
	assert_int_equal(ownership_open(&config, VMID, &second, &reason), -EBUSY);
	assert_null(second);
	assert_non_null(strstr(reason.text, "VM 200"));
	assert_non_null(strstr(reason.text, pid));
	assert_non_null(strstr(reason.text, program_invocation_short_name));
}

static void another_vm_has_its_own_lock(void **state)
{
	(void)state;
	struct ownership *other = NULL;
	start();
	assert_int_equal(ownership_open(&config, 201, &other, &reason), 0);
	ownership_close(other);
}

static void a_refused_start_changes_nothing(void **state)
{
	(void)state;
	struct ownership *second = NULL;
	start();
	hold();
	char *before = get_bytes_of(role(), NULL);
	assert_int_equal(ownership_open(&config, VMID, &second, &reason), -EBUSY);
	char *after = get_bytes_of(role(), NULL);
	assert_string_equal(before, after);
	free(before);
	free(after);
	assert_true(exists(in_scratch("run/200/lock")));
	assert_int_equal(ownership_open(&config, VMID, &second, &reason), -EBUSY);
}

static void the_directory_is_gone_after_an_orderly_end(void **state)
{
	(void)state;
	start();
	assert_string_equal(ownership_directory(ownership), in_scratch("run/200"));
	assert_true(exists(in_scratch("run/200")));
	hold();
	assert_int_equal(ownership_release(ownership, volume.name, &reason), 0);
	finish();
	assert_false(exists(in_scratch("run/200")));
}

static void the_directory_stays_while_there_is_a_role(void **state)
{
	(void)state;
	start();
	hold();
	finish();
	assert_true(exists(role()));
	assert_false(exists(in_scratch("run/200/lock")));
}

static void closing_nothing_is_allowed(void **state)
{
	(void)state;
	ownership_close(NULL);
	assert_false(exists(in_scratch("run")));
}

struct turns {
	unsigned inside, done;
	bool overlapped;
};

static int take_turns(void *context)
{
	struct turns *turns = context;
	for (unsigned i = 0; i < 150;) {
		struct ownership *mine;
		int status = ownership_open(&config, VMID, &mine, &reason);
		if (status == -EBUSY)
			continue;
		if (status < 0) {
			print_error("%s\n", reason.text);
			return 1;
		}
		if (__atomic_fetch_add(&turns->inside, 1, __ATOMIC_SEQ_CST) != 0)
			turns->overlapped = true;
		turns->done++;
		__atomic_fetch_sub(&turns->inside, 1, __ATOMIC_SEQ_CST);
		ownership_close(mine);
		i++;
	}
	return 0;
}

static void processes_that_come_and_go_never_have_it_together(void **state)
{
	(void)state;
	struct turns *turns = shared_memory(sizeof *turns);
	pid_t children[3];
	for (size_t i = 0; i < 3; i++)
		children[i] = start_child(take_turns, turns);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(await_child(children[i], 240), 0);
	assert_false(turns->overlapped);
	assert_int_equal(turns->done, 450);
	assert_false(exists(in_scratch("run/200")));
}

static int open_once(void *context)
{
	(void)context;
	struct ownership *mine;
	return ownership_open(&config, VMID, &mine, &reason) < 0 ? 0 : 1;
}

static void a_run_dir_that_is_a_file_is_an_error(void **state)
{
	(void)state;
	put_text_in(config.run_dir, "x");
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), -ENOTDIR);
	assert_non_null(strstr(reason.text, config.run_dir));
}

static void a_run_dir_that_is_a_link_to_nowhere_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(symlink(in_scratch("nowhere"), config.run_dir), 0);
	assert_int_equal(in_child(open_once, NULL, 10), 0);
}

static void a_role_that_is_a_directory_is_refused(void **state)
{
	(void)state;
	assert_int_equal(make_directory(role(), &reason), 0);
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, role()));
}

static void a_lock_that_is_a_link_is_refused(void **state)
{
	(void)state;
	assert_int_equal(make_directory(in_scratch("run/200"), &reason), 0);
	put_text_in(in_scratch("victim"), "precious");
	assert_int_equal(symlink(in_scratch("victim"), in_scratch("run/200/lock")), 0);
	assert_int_equal(ownership_open(&config, VMID, &ownership, &reason), -ELOOP);
	char *text = get_bytes_of(in_scratch("victim"), NULL);
	assert_string_equal(text, "precious");
	free(text);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_first_start_claims_the_volume),
		test(the_role_file_names_claim_and_generation_before_anybody_uses_them),
		test(another_host_is_refused_and_leaves_no_role),
		test(a_damaged_record_is_refused_and_leaves_no_role),
		test(a_start_after_a_crash_resumes_under_the_next_generation),
		test(holding_twice_uses_two_generations),
		test(generations_rise_through_two_thousand_crashes),
		test(an_exhausted_range_is_extended_under_the_same_claim),
		test(a_process_that_was_killed_is_resumed),
		test(volumes_of_a_vm_are_held_separately),
		test(a_start_after_the_record_has_moved_on_is_fenced),
		test(a_start_after_the_other_has_released_is_fenced_too),
		test(a_start_without_its_record_is_fenced),
		test(a_start_with_a_damaged_record_is_an_error_and_no_fence),
		test(a_fence_stays_until_it_is_forgotten),
		test(a_check_sees_that_the_record_has_changed),
		test(an_exhausted_range_of_a_lost_claim_is_a_fence),
		test(a_release_ends_the_claim_and_the_role),
		test(releasing_twice_is_harmless),
		test(releasing_one_volume_keeps_the_role_of_the_other),
		test(a_claim_that_was_released_before_the_crash_is_claimed_anew),
		test(a_release_does_not_touch_the_claim_of_a_new_owner),
		test(a_release_that_fails_keeps_the_role),
		test(a_dropped_volume_has_neither_record_nor_role),
		test(a_volume_of_somebody_else_is_not_dropped),
		test(a_damaged_role_file_is_refused_and_left_as_it_is),
		test(a_role_file_with_wrong_entries_is_refused_and_left_as_it_is),
		test(a_role_or_version_that_is_not_known_is_refused),
		test(every_truncation_of_a_role_file_is_refused),
		test(a_role_file_of_another_boot_counts_as_gone),
		test(a_reboot_leads_to_a_claim_above_the_old_one),
		test(a_role_file_ahead_of_its_record_gives_no_generation_beyond_the_claim),
		test(an_absurd_number_in_the_role_file_gives_no_generation_beyond_the_claim),
		test(a_role_file_behind_its_record_goes_on_inside_the_range),
		test(a_generation_that_cannot_be_noted_is_not_given),
		test(a_vm_with_many_volumes_can_be_resumed),
		test(a_second_process_is_refused_with_the_name_of_the_first),
		test(another_vm_has_its_own_lock),
		test(a_refused_start_changes_nothing),
		test(the_directory_is_gone_after_an_orderly_end),
		test(the_directory_stays_while_there_is_a_role),
		test(closing_nothing_is_allowed),
		test(processes_that_come_and_go_never_have_it_together),
		test(a_run_dir_that_is_a_file_is_an_error),
		test(a_run_dir_that_is_a_link_to_nowhere_is_an_error),
		test(a_role_that_is_a_directory_is_refused),
		test(a_lock_that_is_a_link_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
