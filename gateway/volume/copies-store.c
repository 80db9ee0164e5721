#include "volume/copies-store.h"

#include "list.h"

static void store(uv_work_t *work)
{
	struct copies_store *store = container_of(work, struct copies_store, work);
	store->error =
		claim_store_copies(store->config, store->volume, store->claim_id, &store->copies, &store->reason);
}

static void on_stored(uv_work_t *work, int status)
{
	struct copies_store *store = container_of(work, struct copies_store, work);
	(void)status; /* never cancelled */
	store->is_busy = false;
	store->done(store, store->error, &store->reason);
}

void copies_store_begin(uv_loop_t *loop, struct copies_store *copies_store, const struct record_copies *copies)
{
	copies_store->copies = *copies;
	copies_store->is_busy = true;
	uv_queue_work(loop, &copies_store->work, store, on_stored); /* fails only without a callback */
}
