/* zeroes.c: WRITE_ZEROES.
 *
 *  1. A request of any length becomes parts, a few at a time; each is a job. It is answered when all of them are.
 *  2. What is known to be empty stays so, unless the request asks for no holes: the part is a job that does nothing. It
 *     is acknowledged as a write is, since whoever has been superseded must not acknowledge anything.
 *  3. The rest is written. In plain regions all zeros are the same: one shared buffer with contexts that are made once,
 *     and an entry of the history without bytes. In encrypted ones each block is sealed by itself, as any write is.
 *  4. A part must not touch a block that is being healed: jobs_may_write().
 */
#include <errno.h>
#include <string.h>

#include "core/core-internal.h"

enum { PARTS_MAX = 8 }; /* of one request under way */

/* Not const, so that it is no part of the program's file: nobody writes to it. */
static uint8_t zeros[UPSTAIRS_REQUEST_MAX];

static uint64_t part_max(const struct upstairs *upstairs)
{
	return UPSTAIRS_REQUEST_MAX / upstairs->region.block_size;
}

bool zeroes_prepare(struct upstairs *upstairs)
{
	uint64_t count = part_max(upstairs);
	if (upstairs->zero_contexts)
		return true;
	if (upstairs->options.encrypted)
		return false; /* there are no entries of zeros: the shared ones must stay zeros */
	upstairs->zero_contexts = core_allocate(upstairs, count * sizeof *upstairs->zero_contexts);
	if (!upstairs->zero_contexts)
		return false;
	upstairs->environment.seal_zeros(upstairs->environment.context, zeros, &upstairs->zero_contexts[0]);
	for (uint64_t i = 1; i < count; i++)
		upstairs->zero_contexts[i] = upstairs->zero_contexts[0];
	return true;
}

void zeroes_describe(const struct upstairs *upstairs, uint64_t count, struct crucible_message *message)
{
	message->write.contexts.items = upstairs->zero_contexts;
	message->write.contexts.count = count;
	message->write.data.bytes = zeros;
	message->write.data.length = count * upstairs->region.block_size;
}

/* Of blocks that are not to be holes, or may be something else. NULL if there is no room now. */
static struct history_entry *make_entry(struct upstairs *upstairs, uint64_t start, uint64_t count)
{
	if (!upstairs->options.encrypted)
		return history_reserve_zeros(&upstairs->history, start, count);
	struct history_entry *entry = history_reserve(&upstairs->history, start, count);
	if (!entry)
		return NULL;
	uint8_t *data = history_data(entry);
	memset(data, 0, count * upstairs->region.block_size);
	for (uint64_t i = 0; i < count; i++, data += upstairs->region.block_size)
		upstairs->environment.seal_zeros(upstairs->environment.context, data, &history_contexts(entry)[i]);
	return entry;
}

/* -EAGAIN: not now. */
static int write_part(struct upstairs *upstairs, struct upstairs_request *request, uint64_t count)
{
	if (!jobs_may_write(upstairs, request->at, count))
		return -EAGAIN;
	struct history_entry *entry = make_entry(upstairs, request->at, count);
	if (!entry && jobs_make_room(upstairs))
		entry = make_entry(upstairs, request->at, count);
	if (!entry)
		return -EAGAIN;
	return jobs_write(upstairs, entry, request) ? 0 : -ENOMEM;
}

static int send_part(struct upstairs *upstairs, struct upstairs_request *request)
{
	bool is_empty = false;
	uint64_t count = request->start + request->count - request->at;
	if (!(request->flags & UPSTAIRS_NO_HOLE))
		count = empty_run(upstairs->empty, request->at, count, &is_empty);
	if (!is_empty && count > part_max(upstairs))
		count = part_max(upstairs);
	request->parts++; /* before its job can be answered */
	int status = !is_empty ? write_part(upstairs, request, count)
		: jobs_no_op(upstairs, request) ? 0
										: -ENOMEM;
	if (status == 0)
		request->at += count;
	else
		request->parts--;
	return status;
}

static bool is_all_sent(const struct upstairs_request *request)
{
	return request->error || request->at == request->start + request->count;
}

static void send_parts(struct upstairs *upstairs, struct upstairs_request *request)
{
	while (!is_all_sent(request) && request->parts < PARTS_MAX) {
		int status = send_part(upstairs, request);
		if (status == -EAGAIN)
			return;
		if (status < 0)
			request->error = status;
	}
}

static bool is_over(const struct upstairs_request *request)
{
	return request->parts == 0 && is_all_sent(request);
}

static bool is_fast(const struct upstairs *upstairs, const struct upstairs_request *request)
{
	bool is_empty;
	return !(request->flags & UPSTAIRS_NO_HOLE) &&
		empty_run(upstairs->empty, request->start, request->count, &is_empty) == request->count && is_empty;
}

int zeroes_start(struct upstairs *upstairs, struct upstairs_request *request)
{
	if ((request->flags & UPSTAIRS_FAST_ZERO) && !is_fast(upstairs, request))
		return -EOPNOTSUPP; /* each byte would go over the network as those of any write do */
	request->at = request->start;
	request->parts = 0;
	request->error = 0;
	send_parts(upstairs, request);
	if (is_over(request))
		return request->error; /* nothing has been sent */
	list_append(&upstairs->zeroing, &request->link);
	return 0;
}

void zeroes_go_on(struct upstairs *upstairs)
{
	struct upstairs_request *request, *following;
	bool has_ended = false;
	if (!jobs_are_answered(upstairs))
		return;
	LIST_FOR_EACH_SAFE(request, following, &upstairs->zeroing, link)
	{
		send_parts(upstairs, request);
		if (!is_over(request))
			continue;
		has_ended = true;
		list_remove(&request->link);
		upstairs->environment.complete(upstairs->environment.context, request, request->error);
	}
	if (has_ended && upstairs->state == UPSTAIRS_DEACTIVATING)
		core_advance(upstairs); /* may have waited for it */
}

void zeroes_answered(struct upstairs_request *request, int error)
{
	request->parts--;
	if (error)
		request->error = error;
}

void zeroes_fail_all(struct upstairs *upstairs, int error)
{
	while (!list_empty(&upstairs->zeroing)) {
		struct upstairs_request *request = LIST_FIRST(&upstairs->zeroing, struct upstairs_request, link);
		list_remove(&request->link);
		upstairs->environment.complete(upstairs->environment.context, request, error);
	}
}
