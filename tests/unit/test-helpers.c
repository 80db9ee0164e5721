/* The headers that everything uses: checked.h, list.h, cleanup.h, nbd/wire.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "checked.h"
#include "cleanup.h"
#include "list.h"
#include "nbd/wire.h"
#include "scratch.h"
#include "unit.h"

/* checked.h */

static void products_do_not_wrap_round(void **state)
{
	(void)state;
	uint64_t value;
	assert_true(checked_mul(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &value));
	assert_int_equal(value, UINT64_MAX - UINT32_MAX);
	assert_false(checked_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &value));
}

static void a_range_is_inside_only_as_a_whole(void **state)
{
	(void)state;
	assert_true(range_inside(0, 0, 0));
	assert_true(range_inside(0, 100, 100));
	assert_true(range_inside(100, 0, 100));
	assert_true(range_inside(99, 1, 100));
	assert_false(range_inside(99, 2, 100));
	assert_false(range_inside(101, 0, 100));
	assert_false(range_inside(UINT64_MAX, 1, 100));
	assert_false(range_inside(1, UINT64_MAX, 100));
	assert_false(range_inside(UINT64_MAX, UINT64_MAX, 100));
	assert_true(range_inside(UINT64_MAX, 0, UINT64_MAX));
}

static void alignment_goes_down_and_up_to_the_unit(void **state)
{
	(void)state;
	assert_true(is_aligned(0, 512));
	assert_true(is_aligned(1024, 512));
	assert_false(is_aligned(1025, 512));
	assert_int_equal(align_down(1023, 512), 512);
	assert_int_equal(align_down(1024, 512), 1024);
	assert_int_equal(align_up(1, 512), 512);
	assert_int_equal(align_up(512, 512), 512);
	assert_int_equal(align_up(0, 512), 0);
	assert_int_equal(align_up(INT64_MAX, 4096), UINT64_C(1) << 63);
}

/* list.h */

struct item {
	int value;
	struct list link;
};

/* The values of a list as a number with that many digits: 1, 2, 3 is 123. */
static int digits(struct list *head)
{
	int number = 0;
	struct item *item;
	LIST_FOR_EACH (item, head, link) {
		number = number * 10 + item->value;
	}
	int backwards = 0, unit = 1;
	for (struct list *link = head->prev; link != head; link = link->prev, unit *= 10)
		backwards += container_of(link, struct item, link)->value * unit;
	assert_int_equal(number, backwards);
	return number;
}

static void elements_stay_in_the_order_in_which_they_came(void **state)
{
	(void)state;
	struct list head;
	struct item items[3];
	list_init(&head);
	assert_true(list_empty(&head));
	assert_int_equal(digits(&head), 0);
	for (int i = 0; i < 3; i++) {
		items[i].value = i + 1;
		list_append(&head, &items[i].link);
	}
	assert_false(list_empty(&head));
	assert_int_equal(digits(&head), 123);
	assert_ptr_equal(LIST_FIRST(&head, struct item, link), &items[0]);
}

static void an_element_may_be_removed_twice(void **state)
{
	(void)state;
	struct list head;
	struct item items[3];
	list_init(&head);
	for (int i = 0; i < 3; i++) {
		items[i].value = i + 1;
		list_append(&head, &items[i].link);
	}
	list_remove(&items[1].link);
	list_remove(&items[1].link);
	assert_true(list_empty(&items[1].link));
	assert_int_equal(digits(&head), 13);
	list_append(&head, &items[1].link);
	assert_int_equal(digits(&head), 132);
}

static void lists_are_joined_in_order(void **state)
{
	(void)state;
	struct list to, from;
	struct item items[4];
	list_init(&to);
	list_init(&from);
	for (int i = 0; i < 4; i++)
		items[i].value = i + 1;
	list_splice(&to, &from);
	assert_true(list_empty(&to));
	list_append(&from, &items[0].link);
	list_append(&from, &items[1].link);
	list_splice(&to, &from);
	assert_int_equal(digits(&to), 12);
	assert_true(list_empty(&from));
	list_append(&from, &items[2].link);
	list_append(&from, &items[3].link);
	list_splice(&to, &from);
	assert_int_equal(digits(&to), 1234);
	list_splice(&to, &from);
	assert_int_equal(digits(&to), 1234);
}

static void elements_may_be_removed_on_the_way(void **state)
{
	(void)state;
	struct list head;
	struct item items[5], *item, *following;
	list_init(&head);
	for (int i = 0; i < 5; i++) {
		items[i].value = i + 1;
		list_append(&head, &items[i].link);
	}
	LIST_FOR_EACH_SAFE (item, following, &head, link) {
		if (item->value % 2)
			list_remove(&item->link);
	}
	assert_int_equal(digits(&head), 24);
}

/* cleanup.h */

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void a_descriptor_is_closed_with_its_scope_and_errno_kept(void **state)
{
	(void)state;
	int number;
	{
		CLEANUP_CLOSE int fd = open("/dev/null", O_RDONLY);
		CLEANUP_CLOSE int none = -1;
		number = fd;
		assert_true(is_open(number));
		errno = EOWNERDEAD;
		(void)none;
	}
	assert_int_equal(errno, EOWNERDEAD);
	assert_false(is_open(number));
}

static void a_descriptor_that_was_handed_on_stays_open(void **state)
{
	(void)state;
	int taken;
	{
		CLEANUP_CLOSE int fd = open("/dev/null", O_RDONLY);
		taken = take_fd(&fd);
		assert_int_equal(fd, -1);
	}
	assert_true(is_open(taken));
	close(taken);
}

static void a_pointer_that_was_handed_on_is_not_freed(void **state)
{
	(void)state;
	char *taken;
	{
		CLEANUP_FREE char *text = strdup("x");
		CLEANUP_FREE char *other = strdup("freed here");
		(void)other;
		taken = take_pointer(&text);
		assert_null(text);
	}
	assert_string_equal(taken, "x");
	free(taken);
}

/* wire.h */

static void numbers_are_big_endian_at_any_address(void **state)
{
	(void)state;
	static const uint8_t wanted[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 'x',
		'y' };
	uint8_t bytes[sizeof wanted] = { 0 };
	uint8_t *at = put_u16(bytes + 1, 0x0102);
	at = put_u32(at, 0x03040506);
	at = put_u64(at, UINT64_C(0x0708090a0b0c0d0e));
	*at++ = 15;
	at = put_bytes(at, "xy", 2);
	assert_ptr_equal(at, bytes + sizeof bytes);
	assert_memory_equal(bytes, wanted, sizeof wanted);
	assert_int_equal(get_u16(bytes + 1), 0x0102);
	assert_int_equal(get_u32(bytes + 3), 0x03040506);
	assert_int_equal(get_u64(bytes + 7), UINT64_C(0x0708090a0b0c0d0e));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_do_not_wrap_round),
		cmocka_unit_test(a_range_is_inside_only_as_a_whole),
		cmocka_unit_test(alignment_goes_down_and_up_to_the_unit),
		cmocka_unit_test(elements_stay_in_the_order_in_which_they_came),
		cmocka_unit_test(an_element_may_be_removed_twice),
		cmocka_unit_test(lists_are_joined_in_order),
		cmocka_unit_test(elements_may_be_removed_on_the_way),
		cmocka_unit_test(a_descriptor_is_closed_with_its_scope_and_errno_kept),
		cmocka_unit_test(a_descriptor_that_was_handed_on_stays_open),
		cmocka_unit_test(a_pointer_that_was_handed_on_is_not_freed),
		cmocka_unit_test(numbers_are_big_endian_at_any_address),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
