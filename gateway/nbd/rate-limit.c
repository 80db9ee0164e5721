/* rate-limit.c: clients that wait for the rate limit of their export, or of the VM.
 *
 * Limits apply to whole requests before they are taken: what is not taken stays in the socket, so that the client waits, and
 * no memory of ours. Those that wait are woken together, and those that must wait again go to the end: in turn.
 */
#include "nbd/rate-limit.h"

#include "nbd/server-internal.h"

static void wake_limited(struct nbd_server *server)
{
	struct nbd_connection *connection, *following;
	LIST_FOR_EACH_SAFE(connection, following, &server->limited, limit_link)
	{
		list_remove(&connection->limit_link);
		server_wake(connection);
	}
}

void server_limits_changed(struct nbd_server *server)
{
	const struct nbd_export *export;
	server->has_limits = rate_limit_is_set(&server->limit);
	LIST_FOR_EACH(export, &server->exports, link)
		server->has_limits = server->has_limits || rate_limit_is_set(&export->limit);
	wake_limited(server);
}

static void on_limit_timer(uv_timer_t *timer)
{
	wake_limited(timer->data);
}

void nbd_server_limit(struct nbd_server *server, const struct rate_limit *limit)
{
	server->limit = *limit;
	server_limits_changed(server);
}

bool server_limit_allows(struct nbd_connection *connection, uint64_t now)
{
	struct nbd_server *server = connection->server;
	struct nbd_export *export = connection->export;
	uint64_t of_export = rate_limit_wait(&export->limit, now), of_all = rate_limit_wait(&server->limit, now);
	uint64_t wait = of_export > of_all ? of_export : of_all;
	if (wait == 0)
		return true;
	uint64_t until = uv_now(server->loop) + wait / 1000000 + 1;
	if (list_empty(&server->limited) || until < server->limited_until) {
		server->limited_until = until;
		uv_timer_start(&server->limit_timer, on_limit_timer, until - uv_now(server->loop), 0);
	}
	if (!connection->limited_since)
		connection->limited_since = now;
	list_append(&server->limited, &connection->limit_link);
	export->stats.limited++;
	return false;
}

void server_limit_take(struct nbd_connection *connection, uint64_t now, uint64_t bytes)
{
	rate_limit_take(&connection->export->limit, now, bytes);
	rate_limit_take(&connection->server->limit, now, bytes);
}
