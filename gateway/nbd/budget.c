#include "nbd/budget.h"

void budget_init(struct budget *budget, size_t total, size_t share_limit)
{
	*budget = (struct budget){ .total = total, .share_limit = share_limit };
	list_init(&budget->queue);
}

void share_init(struct share *share)
{
	*share = (struct share){ 0 };
	list_init(&share->link);
}

void budget_reserve(struct budget *budget, size_t shares)
{
	budget->floor = budget->total / 8 / shares;
	budget->reserved = budget->floor * shares;
}

static size_t above_floor(const struct budget *budget, size_t used)
{
	return used > budget->floor ? used - budget->floor : 0;
}

static bool fits(const struct budget *budget, const struct share *share, size_t size)
{
	size_t would_have = share->used + size, above = above_floor(budget, would_have);
	size_t free_above = budget->total - budget->reserved - budget->above_floor;
	return would_have <= budget->share_limit && (above == 0 || above <= free_above);
}

bool budget_take(struct budget *budget, struct share *share, size_t size)
{
	if (!fits(budget, share, size)) {
		share->wanted = size;
		if (list_empty(&share->link)) /* before the first if it was first */
			list_append(share->is_next ? budget->queue.next : &budget->queue, &share->link);
		share->is_next = false;
		return false;
	}
	budget_stop_waiting(share);
	share->is_next = false;
	budget->used += size;
	budget->above_floor -= above_floor(budget, share->used);
	share->used += size;
	budget->above_floor += above_floor(budget, share->used);
	return true;
}

void budget_give(struct budget *budget, struct share *share, size_t size)
{
	budget->used -= size;
	budget->above_floor -= above_floor(budget, share->used);
	share->used -= size;
	budget->above_floor += above_floor(budget, share->used);
}

void budget_stop_waiting(struct share *share)
{
	list_remove(&share->link);
}

struct share *budget_next_ready(struct budget *budget)
{
	struct share *share;
	LIST_FOR_EACH(share, &budget->queue, link)
	{
		if (fits(budget, share, share->wanted)) {
			budget_stop_waiting(share);
			share->is_next = true;
			return share;
		}
	}
	return NULL;
}
