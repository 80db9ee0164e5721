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

static bool fits(const struct budget *budget, const struct share *share, size_t size)
{
	size_t would_have = share->used + size;
	return would_have <= budget->share_limit && would_have <= budget->total - budget->used;
}

bool budget_take(struct budget *budget, struct share *share, size_t size)
{
	if (!fits(budget, share, size)) {
		share->wanted = size;
		if (list_empty(&share->link))
			list_append(&budget->queue, &share->link);
		return false;
	}
	budget_stop_waiting(share);
	budget->used += size;
	share->used += size;
	return true;
}

void budget_give(struct budget *budget, struct share *share, size_t size)
{
	budget->used -= size;
	share->used -= size;
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
			return share;
		}
	}
	return NULL;
}
