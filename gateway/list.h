/* list.h: an intrusive, doubly linked list. An empty list is a head that points at itself.
 *
 * No allocation, no ownership: the element embeds a struct list and lives in at most one list
 * per such member. list_remove() leaves the member empty, so removing twice is harmless.
 */
#ifndef TB4_LIST_H
#define TB4_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *list)
{
	list->next = list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
	return list->next == list;
}

static inline void list_append(struct list *head, struct list *element)
{
	element->prev = head->prev;
	element->next = head;
	head->prev->next = element;
	head->prev = element;
}

static inline void list_remove(struct list *element)
{
	element->prev->next = element->next;
	element->next->prev = element->prev;
	list_init(element);
}

/* Moves all elements of `from` to the end of `to`. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

#define LIST_FIRST(head, type, member) container_of((head)->next, type, member)

#define LIST_FOR_EACH(item, head, member)                                                 \
	for (item = container_of((head)->next, __typeof__(*item), member); &item->member != (head); \
		item = container_of(item->member.next, __typeof__(*item), member))

/* As LIST_FOR_EACH, but `item` may be removed from the list in the body. */
#define LIST_FOR_EACH_SAFE(item, following, head, member)                 \
	for (item = container_of((head)->next, __typeof__(*item), member),    \
		following = container_of(item->member.next, __typeof__(*item), member); \
		&item->member != (head);                                          \
		item = following, following = container_of(item->member.next, __typeof__(*item), member))

#endif
