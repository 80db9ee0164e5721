/* reply.c: sending messages to a peer. */
#include <errno.h>

#include "engine-internal.h"
#include "memory.h"

static const struct crucible_data *data_of(const struct crucible_message *message)
{
	static const struct crucible_data none;
	return message->type == CRUCIBLE_READ_RESPONSE ? &message->read_response.data : &none;
}

void reply(struct downstairs_connection *connection, const struct crucible_message *message)
{
	struct downstairs *downstairs = connection->downstairs;
	size_t head, frame;
	if (connection->peer_is_gone)
		return;
	if (crucible_measure(message, &head, &frame) == -EMSGSIZE) {
		connection_drop(connection);
		return;
	}
	downstairs->head = grown(downstairs->head, &downstairs->head_size, head, 1);
	if (crucible_encode_head(message, downstairs->head, head) < 0)
		abort();
	const struct crucible_data *data = data_of(message);
	downstairs->options.callbacks->send(downstairs->options.context, connection->peer,
		downstairs->head, head, data->bytes, data->length);
}

void reply_error(struct downstairs_connection *connection, const struct crucible_message *job,
	const struct crucible_error *error)
{
	struct crucible_message message = { .type = CRUCIBLE_ERROR_REPORT, .job = job->job };
	message.error_report.error = *error;
	reply(connection, &message);
}
