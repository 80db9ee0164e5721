/* The judge of the history tests: it must accept what a correct disk can do and find what it
 * cannot. */
#include <stdlib.h>
#include <string.h>

#include "../tools/register-check.h"
#include "scratch.h"
#include "unit.h"

static struct register_check *check;

static int setup(void **state)
{
	(void)state;
	check = check_new(4);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_free(check);
	return 0;
}

/* Histories of one sector, told in the order of time. */

static void possible(const char *wrong)
{
	if (wrong)
		fail_msg("possible, but: %s", wrong);
}

static void write_all(uint64_t id, uint64_t begin, uint64_t end)
{
	possible(check_write_begin(check, 0, id, begin));
	possible(check_write_end(check, 0, id, end));
}

static void read_all(uint64_t id, uint64_t begin, uint64_t end)
{
	possible(check_read(check, 0, id, begin, end));
}

static void impossible_read(uint64_t id, uint64_t begin, uint64_t end)
{
	assert_non_null(check_read(check, 0, id, begin, end));
}

/* possible */

static void a_new_disk_reads_as_zeros(void **state)
{
	(void)state;
	read_all(0, 1, 2);
	read_all(0, 3, 4);
}

static void a_read_after_a_write_gives_it(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	read_all(1, 3, 4);
	write_all(2, 5, 6);
	read_all(2, 7, 8);
}

static void a_read_during_a_write_gives_the_old_or_the_new(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	read_all(1, 4, 6);
	read_all(2, 5, 7);
	possible(check_write_end(check, 0, 2, 8));
	read_all(2, 9, 10);
}

static void reads_at_once_may_see_old_and_new_in_any_order(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	read_all(1, 2, 5); /* both reads overlap */
	read_all(0, 3, 6);
	possible(check_write_end(check, 0, 1, 7));
	read_all(1, 8, 9);
}

static void writes_at_once_end_in_any_order(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	check_write_begin(check, 0, 2, 2);
	possible(check_write_end(check, 0, 2, 3));
	possible(check_write_end(check, 0, 1, 4));
	read_all(2, 5, 6);
	read_all(2, 7, 8);
	check_write_begin(check, 0, 3, 9);
	check_write_begin(check, 0, 4, 10);
	possible(check_write_end(check, 0, 3, 11));
	possible(check_write_end(check, 0, 4, 12));
	read_all(4, 13, 14);
}

static void a_write_may_be_seen_long_before_it_ends(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	read_all(1, 2, 3);
	write_all(2, 4, 5);
	read_all(2, 6, 7);
	possible(check_write_end(check, 0, 1, 8));
	read_all(2, 9, 10);
}

static void a_lost_write_may_never_be_seen(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	possible(check_write_lost(check, 0, 2, 4));
	read_all(1, 5, 6);
	read_all(1, 7, 8);
}

static void a_lost_write_may_have_been_done(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	possible(check_write_lost(check, 0, 2, 4));
	read_all(2, 5, 6);
	read_all(2, 7, 8);
	write_all(3, 9, 10);
	read_all(3, 11, 12);
}

static void a_lost_write_may_have_been_overwritten_at_once(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	check_write_begin(check, 0, 2, 2);
	read_all(1, 3, 4);
	possible(check_write_lost(check, 0, 1, 5));
	possible(check_write_end(check, 0, 2, 6));
	read_all(2, 7, 8);
}

static void zeros_may_be_written_and_read_again(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_zeroed(check, 0, false, 3, 4);
	read_all(0, 5, 6);
	write_all(2, 7, 8);
	read_all(2, 9, 10);
	check_zeroed(check, 0, false, 11, 12);
	read_all(0, 13, 14);
}

static void lost_zeros_may_be_there_or_not(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_zeroed(check, 0, true, 3, 4);
	read_all(1, 5, 6);
	write_all(2, 7, 8);
	check_zeroed(check, 0, true, 9, 10);
	read_all(0, 11, 12);
	read_all(0, 13, 14);
}

static void sectors_are_independent(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	for (size_t sector = 1; sector < 4; sector++)
		possible(check_read(check, sector, 0, 3, 4));
	possible(check_write_begin(check, 3, 2, 5));
	possible(check_write_end(check, 3, 2, 6));
	read_all(1, 7, 8);
	possible(check_read(check, 3, 2, 7, 8));
}

/* impossible */

static void a_value_that_was_never_written_is_found(void **state)
{
	(void)state;
	impossible_read(77, 1, 2);
	write_all(1, 3, 4);
	impossible_read(77, 5, 6);
}

static void zeros_after_a_write_are_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	impossible_read(0, 3, 4);
}

static void a_stale_read_after_a_write_has_ended_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	write_all(2, 3, 4);
	impossible_read(1, 5, 6);
}

static void a_stale_read_after_a_newer_value_was_read_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	write_all(2, 3, 4);
	read_all(2, 5, 6);
	impossible_read(1, 7, 8);
}

static void an_inversion_between_two_readers_of_a_running_write_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	read_all(2, 4, 5);
	impossible_read(1, 6, 7);
}

static void a_value_that_comes_back_is_found(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	check_write_begin(check, 0, 2, 2);
	check_write_end(check, 0, 1, 3);
	check_write_end(check, 0, 2, 4);
	read_all(1, 5, 6);
	read_all(1, 7, 8);
	impossible_read(2, 9, 10);
}

static void a_flicker_between_values_is_found(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	check_write_begin(check, 0, 2, 2);
	read_all(1, 3, 4);
	read_all(2, 5, 6);
	impossible_read(1, 7, 8);
}

static void a_read_of_the_future_is_found(void **state)
{
	(void)state;
	impossible_read(1, 1, 2);
	write_all(1, 3, 4);
	/* told late: the read had ended before the write began */
	check_write_begin(check, 0, 2, 7);
	impossible_read(2, 5, 6);
}

static void an_acknowledged_write_that_was_not_done_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	read_all(1, 3, 4);
	write_all(2, 5, 6);
	impossible_read(1, 7, 8);
}

/* The end of the write is what makes the earlier read impossible. */
static void a_write_that_ends_without_having_been_done_is_found_by_its_end(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	check_write_end(check, 0, 2, 5);
	impossible_read(1, 6, 8);
}

static void a_lost_write_that_lands_after_the_new_session_began_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	possible(check_write_lost(check, 0, 2, 4));
	read_all(1, 5, 6);
	impossible_read(2, 7, 8);
}

static void a_lost_write_that_lands_on_a_newer_one_is_found(void **state)
{
	(void)state;
	check_write_begin(check, 0, 1, 1);
	possible(check_write_lost(check, 0, 1, 2));
	write_all(2, 3, 4);
	impossible_read(1, 5, 6);
}

static void a_lost_write_that_goes_away_again_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_write_begin(check, 0, 2, 3);
	possible(check_write_lost(check, 0, 2, 4));
	read_all(2, 5, 6);
	impossible_read(1, 7, 8);
}

static void a_value_from_before_zeros_is_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_zeroed(check, 0, false, 3, 4);
	impossible_read(1, 5, 6);
}

static void lost_zeros_that_go_away_again_are_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_zeroed(check, 0, true, 3, 4);
	read_all(0, 5, 6);
	impossible_read(1, 7, 8);
}

static void lost_zeros_that_land_late_are_found(void **state)
{
	(void)state;
	write_all(1, 1, 2);
	check_zeroed(check, 0, true, 3, 4);
	read_all(1, 5, 6);
	impossible_read(0, 7, 8);
}

static void an_old_value_is_found_although_it_was_pruned(void **state)
{
	(void)state;
	for (uint64_t id = 1; id <= 50; id++) {
		write_all(id, 10 * id, 10 * id + 1);
		check_set_oldest(check, 10 * id + 2);
		read_all(id, 10 * id + 3, 10 * id + 4);
	}
	impossible_read(40, 1000, 1001);
}

static void the_message_names_sector_and_values(void **state)
{
	(void)state;
	write_all(11, 1, 2);
	write_all(22, 3, 4);
	const char *wrong = check_read(check, 0, 11, 5, 6);
	assert_non_null(wrong);
	assert_non_null(strstr(wrong, "sector 0"));
	assert_non_null(strstr(wrong, "11"));
	assert_non_null(strstr(wrong, "22"));
	wrong = check_read(check, 3, 99, 7, 8);
	assert_non_null(strstr(wrong, "sector 3"));
	assert_non_null(strstr(wrong, "99"));
}

/* A disk with many clients, and what it does wrong */

enum mistake {
	MISTAKE_NONE,
	MISTAKE_STALE,     /* a read gives the value before the last one */
	MISTAKE_UNKNOWN,   /* ... a value that nobody wrote */
	MISTAKE_FUTURE,    /* ... the value of the next write, before it begins */
	MISTAKE_DROPPED,   /* an acknowledged write is not done */
	MISTAKE_INVERSION, /* a reader sees a running write, a later one does not */
	MISTAKE_LATE,      /* a lost write is done after its successor's session began */
	MISTAKE_REVERTED,  /* a value that was read goes away again */
	MISTAKE_ZEROS,     /* zeros come from nowhere */
	MISTAKES,
};

enum { SECTORS = 4, CLIENTS = 8 };

struct client {
	enum { IDLE, READING, WRITING, ZEROING } does;
	bool is_done; /* has taken effect */
	size_t sector;
	uint64_t id, begin;
};

struct disk {
	struct random random;
	uint64_t values[SECTORS], now, next_id;
	bool exclusive[SECTORS];
	unsigned users[SECTORS];
	struct client clients[CLIENTS];
	unsigned operations;
	const char *wrong;
};

static void judge(struct disk *disk, const char *wrong)
{
	if (!disk->wrong)
		disk->wrong = wrong;
}

static void tell_oldest(const struct disk *disk)
{
	uint64_t oldest = disk->now + 1;
	for (size_t i = 0; i < CLIENTS; i++) {
		if (disk->clients[i].does != IDLE && disk->clients[i].begin < oldest)
			oldest = disk->clients[i].begin;
	}
	check_set_oldest(check, oldest);
}

static void begin(struct disk *disk, struct client *client)
{
	size_t sector = random_below(&disk->random, SECTORS);
	uint64_t roll = random_below(&disk->random, 100);
	if (disk->exclusive[sector] || (roll >= 97 && disk->users[sector] > 0))
		return;
	*client = (struct client){
		.does = roll < 50   ? READING
				: roll < 97 ? WRITING
							: ZEROING,
		.sector = sector,
		.id = ++disk->next_id,
		.begin = ++disk->now,
	};
	disk->users[sector]++;
	disk->exclusive[sector] = client->does == ZEROING;
	if (client->does == WRITING)
		judge(disk, check_write_begin(check, sector, client->id, client->begin));
}

static void take_effect(struct disk *disk, struct client *client)
{
	client->is_done = true;
	if (client->does == READING)
		client->id = disk->values[client->sector];
	else
		disk->values[client->sector] = client->does == ZEROING ? 0 : client->id;
}

static void let_go(struct disk *disk, struct client *client)
{
	disk->users[client->sector]--;
	disk->exclusive[client->sector] = false;
	client->does = IDLE;
	disk->operations++;
}

static void end(struct disk *disk, struct client *client)
{
	uint64_t now = ++disk->now;
	if (client->does == READING)
		judge(disk, check_read(check, client->sector, client->id, client->begin, now));
	else if (client->does == WRITING)
		judge(disk, check_write_end(check, client->sector, client->id, now));
	else
		check_zeroed(check, client->sector, false, client->begin, now);
	let_go(disk, client);
}

/* The connection is lost; what has not been done by now never is. */
static void lose(struct disk *disk, struct client *client)
{
	uint64_t now = ++disk->now;
	if (client->does == WRITING)
		judge(disk, check_write_lost(check, client->sector, client->id, now));
	else if (client->does == ZEROING)
		check_zeroed(check, client->sector, true, client->begin, now);
	let_go(disk, client);
}

/* One step of a random client. */
static void step(struct disk *disk, bool may_begin)
{
	struct client *client = &disk->clients[random_below(&disk->random, CLIENTS)];
	if (client->does == IDLE) {
		if (may_begin)
			begin(disk, client);
	} else if (random_below(&disk->random, 40) == 0) {
		lose(disk, client);
	} else if (!client->is_done) {
		take_effect(disk, client);
	} else {
		end(disk, client);
	}
	if (random_below(&disk->random, 4) == 0)
		tell_oldest(disk);
}

static bool is_idle(const struct disk *disk)
{
	for (size_t i = 0; i < CLIENTS; i++) {
		if (disk->clients[i].does != IDLE)
			return false;
	}
	return true;
}

static struct disk new_disk(uint64_t seed)
{
	return (struct disk){ .random = { seed } };
}

static void a_correct_disk_is_never_accused(void **state)
{
	(void)state;
	struct disk disk = new_disk(12);
	while (disk.operations < 400000 && !disk.wrong)
		step(&disk, true);
	if (disk.wrong)
		fail_msg("seed 12, operation %u: %s", disk.operations, disk.wrong);
}

/* A whole operation while nobody else takes a step. */
static uint64_t do_write(struct disk *disk, size_t sector, bool is_really_done)
{
	uint64_t id = ++disk->next_id;
	judge(disk, check_write_begin(check, sector, id, ++disk->now));
	if (is_really_done)
		disk->values[sector] = id;
	judge(disk, check_write_end(check, sector, id, ++disk->now));
	return id;
}

static void do_read(struct disk *disk, size_t sector, uint64_t value)
{
	uint64_t now = ++disk->now;
	judge(disk, check_read(check, sector, value, now, ++disk->now));
}

/* Does something wrong on a sector that nobody else uses at the moment. */
static void be_wrong(struct disk *disk, enum mistake mistake, size_t sector)
{
	uint64_t before = do_write(disk, sector, true), id = ++disk->next_id;
	if (random_below(&disk->random, 2))
		do_read(disk, sector, before);
	tell_oldest(disk);
	assert_null(disk->wrong);
	switch (mistake) {
	case MISTAKE_STALE:
		do_write(disk, sector, true);
		do_read(disk, sector, before);
		break;
	case MISTAKE_UNKNOWN:
		do_read(disk, sector, disk->next_id + 1000000);
		break;
	case MISTAKE_FUTURE:
		do_read(disk, sector, disk->next_id + 1);
		do_write(disk, sector, true);
		break;
	case MISTAKE_DROPPED:
		do_write(disk, sector, false);
		do_read(disk, sector, disk->values[sector]);
		break;
	case MISTAKE_INVERSION:
		check_write_begin(check, sector, id, ++disk->now);
		do_read(disk, sector, id);
		do_read(disk, sector, before);
		disk->values[sector] = id;
		check_write_end(check, sector, id, ++disk->now);
		break;
	case MISTAKE_LATE:
		check_write_begin(check, sector, id, ++disk->now);
		check_write_lost(check, sector, id, ++disk->now);
		if (random_below(&disk->random, 2))
			do_read(disk, sector, before);
		else
			do_write(disk, sector, true);
		assert_null(disk->wrong);
		do_read(disk, sector, disk->values[sector] = id);
		break;
	case MISTAKE_REVERTED:
		check_write_begin(check, sector, id, ++disk->now);
		check_write_lost(check, sector, id, ++disk->now);
		do_read(disk, sector, id);
		do_read(disk, sector, before);
		break;
	case MISTAKE_ZEROS:
		do_read(disk, sector, 0);
		break;
	case MISTAKE_NONE:
	case MISTAKES:
		break;
	}
}

/* Runs for a while, does one thing wrong on a sector that is free just then. */
static bool is_found(enum mistake mistake, uint64_t seed)
{
	struct disk disk = new_disk(seed);
	check_free(check);
	check = check_new(SECTORS);
	for (uint64_t n = random_below(&disk.random, 400); n > 0; n--)
		step(&disk, true);
	size_t sector = random_below(&disk.random, SECTORS);
	disk.exclusive[sector] = true; /* nobody begins there any more */
	while (disk.users[sector] > 0 && !is_idle(&disk))
		step(&disk, random_below(&disk.random, 4) > 0);
	if (disk.wrong)
		fail_msg("seed %d: %s", (int)seed, disk.wrong);
	be_wrong(&disk, mistake, sector);
	return disk.wrong;
}

static void every_single_mistake_is_found(void **state)
{
	(void)state;
	for (int mistake = MISTAKE_NONE; mistake < MISTAKES; mistake++) {
		for (uint64_t seed = 1; seed <= 400; seed++) {
			if (is_found((enum mistake)mistake, seed) != (mistake != MISTAKE_NONE))
				fail_msg("mistake %d, seed %d", mistake, (int)seed);
		}
	}
}

/* Small histories, judged also by trying every order */

enum { OPERATIONS_MAX = 10, ACTORS = 4 };

struct operation {
	bool is_write, is_optional; /* optional: lost, or still running in the end */
	uint64_t value, begin, end;
};

struct history {
	struct operation operations[OPERATIONS_MAX];
	size_t count;
	bool tried[1 << OPERATIONS_MAX][OPERATIONS_MAX + 1]; /* done, last write */
};

/* Is there an order of what is not yet done? `value` is what the sector holds, as the last write
 * left it; nothing may come after something that began only after its end. */
static bool has_order(
	struct history *history, unsigned done, size_t last_write, uint64_t latest_begin)
{
	uint64_t value = last_write < history->count ? history->operations[last_write].value : 0;
	bool is_complete = true;
	for (size_t i = 0; i < history->count; i++)
		is_complete = is_complete && (done >> i & 1 || history->operations[i].is_optional);
	if (is_complete)
		return true;
	if (history->tried[done][last_write])
		return false;
	history->tried[done][last_write] = true;
	for (size_t i = 0; i < history->count; i++) {
		const struct operation *next = &history->operations[i];
		if (done >> i & 1 || next->end < latest_begin || (!next->is_write && next->value != value))
			continue;
		uint64_t begin_of_all = next->begin > latest_begin ? next->begin : latest_begin;
		if (has_order(history, done | 1u << i, next->is_write ? i : last_write, begin_of_all))
			return true;
	}
	return false;
}

struct actor {
	enum { RESTS, READS, WRITES, ZEROES } does;
	size_t operation; /* in the history, for writes */
	uint64_t id, begin;
};

/* Makes a random history, possible or not, and tells it to the checker. Returns what that says. */
static const char *random_history(struct random *random, struct history *history)
{
	struct actor actors[ACTORS] = { 0 };
	uint64_t now = 0, next_id = 0, oldest;
	const char *wrong = NULL;
	size_t begun = 0, target = 2 + random_below(random, OPERATIONS_MAX - 1);
	memset(history, 0, sizeof *history);
	check_free(check);
	check = check_new(1);
	for (;;) {
		unsigned busy = 0;
		bool is_zeroing = false;
		for (size_t i = 0; i < ACTORS; i++) {
			busy += actors[i].does != RESTS;
			is_zeroing = is_zeroing || actors[i].does == ZEROES;
		}
		if (begun == target && (busy == 0 || random_below(random, 20) == 0))
			return wrong; /* perhaps with writes that still run */
		struct actor *actor = &actors[random_below(random, ACTORS)];
		const char *said = NULL;
		if (actor->does == RESTS && begun < target && !is_zeroing) {
			uint64_t roll = random_below(random, 20);
			*actor = (struct actor){ .begin = ++now };
			actor->does = roll < 9 ? READS : roll < 18 || busy ? WRITES : ZEROES;
			begun++;
			if (actor->does != READS) {
				actor->id = actor->does == WRITES ? ++next_id : 0;
				actor->operation = history->count++;
				history->operations[actor->operation] = (struct operation){ .is_write = true,
					.is_optional = true,
					.value = actor->id,
					.begin = now,
					.end = UINT64_MAX };
			}
			if (actor->does == WRITES)
				said = check_write_begin(check, 0, actor->id, now);
		} else if (actor->does == READS) {
			/* any value there is; seldom one that is only to come */
			uint64_t value = random_below(random, next_id + 1 + (random_below(random, 30) == 0));
			now++;
			history->operations[history->count++] =
				(struct operation){ .value = value, .begin = actor->begin, .end = now };
			said = check_read(check, 0, value, actor->begin, now);
			actor->does = RESTS;
		} else if (actor->does != RESTS) {
			struct operation *operation = &history->operations[actor->operation];
			bool is_lost = random_below(random, 4) == 0;
			operation->end = ++now;
			operation->is_optional = is_lost;
			if (actor->does == ZEROES)
				check_zeroed(check, 0, is_lost, actor->begin, now);
			else
				said = (is_lost ? check_write_lost : check_write_end)(check, 0, actor->id, now);
			actor->does = RESTS;
		}
		wrong = wrong ? wrong : said;
		oldest = now + 1;
		for (size_t i = 0; i < ACTORS; i++) {
			if (actors[i].does != RESTS && actors[i].begin < oldest)
				oldest = actors[i].begin;
		}
		check_set_oldest(check, oldest);
	}
}

static void print_history(const struct history *history)
{
	for (size_t i = 0; i < history->count; i++) {
		const struct operation *operation = &history->operations[i];
		print_message("# %s %llu: %llu to %lld%s\n", operation->is_write ? "write" : "read",
			(unsigned long long)operation->value, (unsigned long long)operation->begin,
			(long long)operation->end, operation->is_optional ? ", perhaps" : "");
	}
}

static void small_histories_are_judged_as_by_trying_every_order(void **state)
{
	(void)state;
	static struct history history;
	struct random random = { 13 };
	unsigned good = 0, bad = 0;
	for (unsigned round = 0; round < 100000; round++) {
		const char *wrong = random_history(&random, &history);
		bool is_possible = has_order(&history, 0, history.count, 0);
		if (is_possible != (wrong == NULL)) {
			print_history(&history);
			fail_msg("seed 13, round %u: %s, but the checker says: %s", round,
				is_possible ? "possible" : "impossible", wrong ? wrong : "nothing");
		}
		is_possible ? good++ : bad++;
	}
	assert_true(good > 10000 && bad > 10000);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_new_disk_reads_as_zeros),
		test(a_read_after_a_write_gives_it),
		test(a_read_during_a_write_gives_the_old_or_the_new),
		test(reads_at_once_may_see_old_and_new_in_any_order),
		test(writes_at_once_end_in_any_order),
		test(a_write_may_be_seen_long_before_it_ends),
		test(a_lost_write_may_never_be_seen),
		test(a_lost_write_may_have_been_done),
		test(a_lost_write_may_have_been_overwritten_at_once),
		test(zeros_may_be_written_and_read_again),
		test(lost_zeros_may_be_there_or_not),
		test(sectors_are_independent),
		test(a_value_that_was_never_written_is_found),
		test(zeros_after_a_write_are_found),
		test(a_stale_read_after_a_write_has_ended_is_found),
		test(a_stale_read_after_a_newer_value_was_read_is_found),
		test(an_inversion_between_two_readers_of_a_running_write_is_found),
		test(a_value_that_comes_back_is_found),
		test(a_flicker_between_values_is_found),
		test(a_read_of_the_future_is_found),
		test(an_acknowledged_write_that_was_not_done_is_found),
		test(a_write_that_ends_without_having_been_done_is_found_by_its_end),
		test(a_lost_write_that_lands_after_the_new_session_began_is_found),
		test(a_lost_write_that_lands_on_a_newer_one_is_found),
		test(a_lost_write_that_goes_away_again_is_found),
		test(a_value_from_before_zeros_is_found),
		test(lost_zeros_that_go_away_again_are_found),
		test(lost_zeros_that_land_late_are_found),
		test(an_old_value_is_found_although_it_was_pruned),
		test(the_message_names_sector_and_values),
		test(a_correct_disk_is_never_accused),
		test(every_single_mistake_is_found),
		test(small_histories_are_judged_as_by_trying_every_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
