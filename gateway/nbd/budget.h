/* budget.h: who may have how much memory in flight (design section 7.2).
 *
 * One budget per process, one share per connection. A share may grow to what is still free, or to
 * its limit if that is less: with k connections that want small amounts without end, each ends at
 * 1/(k+1) of the budget and as much stays free for newcomers, without anybody having been given a
 * quota. So a connection that holds memory for ever, because its client takes no replies, does not
 * stop the others. A few that hold requests of 32 MiB could, so an eighth of the whole is set apart
 * by budget_reserve(): from it each share may always have its floor, enough for small requests.
 * Shares that were refused wait in a queue and are tried in its order whenever something is given.
 *
 * Pure bookkeeping, no allocation.
 */
#ifndef TB4_BUDGET_H
#define TB4_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

#include "list.h"

struct budget {
	size_t total, used, share_limit;
	size_t floor;       /* what each share may have whatever the others do */
	size_t reserved;    /* all floors together */
	size_t above_floor; /* what the shares use beyond their floors */
	struct list queue;  /* shares that wait */
};

struct share {
	size_t used, wanted;
	bool is_next; /* was told to try again: goes to the front of the queue if it has to wait on */
	struct list link;
};

void budget_init(struct budget *budget, size_t total, size_t share_limit);
/* Sets an eighth apart for the floors of at most `shares` shares. Before the first is used. */
void budget_reserve(struct budget *budget, size_t shares);
void share_init(struct share *share);

/* Takes `size` bytes, at most share_limit, or queues the share and returns false. */
bool budget_take(struct budget *budget, struct share *share, size_t size);
void budget_give(struct budget *budget, struct share *share, size_t size);
/* Leaves the queue. */
void budget_stop_waiting(struct share *share);
/* Takes the first share out of the queue whose wish can be met now; NULL if there is none. Its
 * owner then calls budget_take() again. */
struct share *budget_next_ready(struct budget *budget);

#endif
