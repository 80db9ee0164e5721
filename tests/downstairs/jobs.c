/* jobs.c: the order in which a running connection's messages are acted on (crucible-protocol.md
 * 4.1 to 4.3).
 *
 * 1. A job runs when it arrives if its dependencies are in the connection's completed set, else it
 *    waits behind all that wait.
 * 2. After a job that ran on arrival or had wrong ids, a message for reconciliation, or a Ruok,
 *    those that wait are looked at once, front to back. A job that another one behind it makes
 *    ready waits for the next such event (trap T14a).
 * 3. A flush and a barrier leave only their own id in the set.
 * 4. What fails is tried again at once, without end, as the process does nothing else meanwhile:
 *    if it does not help, the downstairs is wedged (trap T1). Only a live repair that fails closes
 *    the connection, and messages for reconciliation just say so.
 */
#include "engine-internal.h"
#include "memory.h"

/* Tries until a fault of the disk is taken for a lasting one. */
enum { TRIES_MAX = 8 };

bool downstairs_is_job(enum crucible_message_type type)
{
	return (type >= CRUCIBLE_EXTENT_LIVE_CLOSE && type <= CRUCIBLE_EXTENT_LIVE_NO_OP) ||
		   type == CRUCIBLE_WRITE || type == CRUCIBLE_WRITE_UNWRITTEN || type == CRUCIBLE_FLUSH ||
		   type == CRUCIBLE_BARRIER || type == CRUCIBLE_READ_REQUEST;
}

/* What a read-only downstairs does not even look at. */
static bool is_refused_when_read_only(enum crucible_message_type type)
{
	switch ((int)type) {
	case CRUCIBLE_WRITE:
	case CRUCIBLE_WRITE_UNWRITTEN:
	case CRUCIBLE_EXTENT_CLOSE:
	case CRUCIBLE_EXTENT_LIVE_FLUSH_CLOSE:
	case CRUCIBLE_EXTENT_LIVE_REPAIR:
	case CRUCIBLE_EXTENT_LIVE_REOPEN:
	case CRUCIBLE_EXTENT_LIVE_NO_OP:
		return true;
	default:
		return false;
	}
}

/* Keeping */

static struct job *keep(const struct work *work)
{
	const char *wrong;
	struct job *job = zeroed(1, sizeof *job + work->size);
	list_init(&job->link);
	memcpy(job->frame, work->frame, work->size);
	job->work =
		(struct work){ .connection = work->connection, .frame = job->frame, .size = work->size };
	if (crucible_decode(job->frame, work->size, &job->work.message, &wrong) < 0)
		abort();
	return job;
}

static void free_list(struct list *list)
{
	struct job *job, *following;
	LIST_FOR_EACH_SAFE (job, following, list, link) {
		list_remove(&job->link);
		free(job);
	}
}

void jobs_discard(struct downstairs_connection *connection)
{
	free_list(&connection->unchecked);
	free_list(&connection->pending);
}

/* The process can do nothing else until this one is over. */
static void park(const struct work *work, struct job *job, enum downstairs_state state)
{
	struct downstairs *downstairs = work->connection->downstairs;
	downstairs->state = state;
	downstairs->current = job ? job : keep(work);
}

/* Running */

static bool is_ready(const struct work *work)
{
	const struct id_set *completed = &work->connection->completed;
	struct crucible_u64s dependencies = work->message.dependencies;
	for (size_t i = 0; i < dependencies.count; i++) {
		if (!id_set_has(completed, crucible_u64_at(dependencies, i)))
			return false;
	}
	return true;
}

static void complete(const struct work *work)
{
	struct downstairs_connection *connection = work->connection;
	uint64_t id = work->message.job.job_id;
	if (id == UINT64_MAX) {
		downstairs_die(connection->downstairs, "job id beyond the last");
		return;
	}
	if (work->message.type == CRUCIBLE_FLUSH || work->message.type == CRUCIBLE_BARRIER)
		id_set_clear(&connection->completed);
	id_set_add(&connection->completed, id);
}

static void finish(const struct work *work, const struct crucible_message *answer)
{
	if (downstairs_is_job(work->message.type))
		complete(work);
	if (work->connection->downstairs->state == DOWNSTAIRS_RUNNING)
		reply(work->connection, answer);
}

static bool fails_by_chance(const struct work *work)
{
	struct downstairs *downstairs = work->connection->downstairs;
	static const char text[] = "test error";
	if (!downstairs_is_job(work->message.type) || !downstairs->options.callbacks->test_error ||
		!downstairs->options.callbacks->test_error(downstairs->options.context, &work->message))
		return false;
	downstairs->region.is_hopeless = false;
	downstairs->region.error = (struct crucible_error){ .kind = CRUCIBLE_ERROR_GENERIC,
		.text = { text, sizeof text - 1 } };
	reply_error(work->connection, &work->message, &downstairs->region.error);
	return true;
}

/* Returns whether it shall be tried again. */
static bool failed(const struct work *work, struct job *job, unsigned tries)
{
	struct downstairs *downstairs = work->connection->downstairs;
	struct crucible_error *error = &downstairs->region.error;
	unsigned reports = downstairs->region.is_hopeless ? downstairs->options.wedge_reports : 1;
	if (work->message.type == CRUCIBLE_EXTENT_LIVE_REPAIR) {
		reply_error(work->connection, &work->message, error);
		connection_drop(work->connection);
		return false;
	}
	for (unsigned i = 0; i < reports; i++)
		reply_error(work->connection, &work->message, error);
	if (!downstairs->region.is_hopeless && tries < TRIES_MAX)
		return true;
	park(work, job, DOWNSTAIRS_WEDGED);
	return false;
}

static void start_fetch(const struct work *work, struct job *job)
{
	struct downstairs *downstairs = work->connection->downstairs;
	const struct crucible_message *message = &work->message;
	struct crucible_address source = message->live_repair.source_address;
	uint32_t extent_id = message->live_repair.extent_id;
	if (message->type == CRUCIBLE_EXTENT_REPAIR) {
		source = message->extent_repair.source_address;
		extent_id = message->extent_repair.extent_id;
	}
	park(work, job, DOWNSTAIRS_FETCHING);
	downstairs->options.callbacks->fetch(downstairs->options.context, &source, extent_id);
}

/* Does it, if it can be done now. `job` is what keeps the work, or NULL. */
static void try_until_done(const struct work *work, struct job *job)
{
	struct downstairs *downstairs = work->connection->downstairs;
	struct crucible_message answer;
	for (unsigned tries = 1;; tries++) {
		while (fails_by_chance(work)) {
		}
		switch (execute(downstairs, &work->message, &answer)) {
		case EXECUTION_DONE:
			finish(work, &answer);
			return;
		case EXECUTION_FETCHES:
			start_fetch(work, job);
			return;
		case EXECUTION_STOPPED:
			return;
		case EXECUTION_FAILED:
			if (!failed(work, job, tries))
				return;
		}
	}
}

/* The job is done with, unless it is parked. Returns whether the connection can go on. */
static bool run(const struct work *work, struct job *job)
{
	struct downstairs_connection *connection = work->connection;
	try_until_done(work, job);
	if (connection->downstairs->current != job)
		free(job);
	return connection->downstairs->state == DOWNSTAIRS_RUNNING && !connection->is_gone;
}

void jobs_walk(struct downstairs_connection *connection)
{
	if (!connection->is_walking)
		list_splice(&connection->unchecked, &connection->pending);
	connection->is_walking = true;
	while (!list_empty(&connection->unchecked)) {
		struct job *job = LIST_FIRST(&connection->unchecked, struct job, link);
		list_remove(&job->link);
		if (!is_ready(&job->work))
			list_append(&connection->pending, &job->link);
		else if (!run(&job->work, job))
			return;
	}
	connection->is_walking = false;
}

/* What was parked is over. */
static void go_on(struct job *job)
{
	struct downstairs_connection *connection = job->work.connection;
	struct downstairs *downstairs = connection->downstairs;
	free(job);
	if (downstairs->state == DOWNSTAIRS_RUNNING && !connection->is_gone)
		jobs_walk(connection);
}

static struct job *unpark(struct downstairs *downstairs)
{
	struct job *job = downstairs->current;
	downstairs->current = NULL;
	downstairs->state = DOWNSTAIRS_RUNNING;
	return job;
}

void jobs_retry(struct downstairs *downstairs)
{
	struct job *job = unpark(downstairs);
	struct downstairs_connection *connection = job->work.connection;
	if (run(&job->work, job))
		jobs_walk(connection);
}

void jobs_fetched(struct downstairs *downstairs, const void *image, size_t size, const char *error)
{
	struct job *job = unpark(downstairs);
	struct crucible_message answer;
	switch (execute_fetched(downstairs, &job->work.message, image, size, error, &answer)) {
	case EXECUTION_DONE:
		finish(&job->work, &answer);
		break;
	case EXECUTION_FAILED:
		failed(&job->work, job, 1);
		break;
	case EXECUTION_FETCHES:
	case EXECUTION_STOPPED:
		break;
	}
	go_on(job);
}

/* Receiving */

static bool check_session(const struct work *work)
{
	const struct crucible_session *session = &work->connection->session;
	const struct crucible_job *job = &work->message.job;
	struct crucible_message answer = { .type = CRUCIBLE_UUID_MISMATCH };
	if (memcmp(&job->upstairs_id, &session->upstairs_id, sizeof job->upstairs_id) != 0)
		answer.uuid_mismatch.expected_id = session->upstairs_id;
	else if (memcmp(&job->session_id, &session->session_id, sizeof job->session_id) != 0)
		answer.uuid_mismatch.expected_id = session->session_id;
	else
		return true;
	reply(work->connection, &answer);
	return false;
}

static bool has_good_form(const struct work *work)
{
	const struct crucible_message *message = &work->message;
	uint64_t block_size = disk_region(work->connection->downstairs->disk)->block_size;
	if (message->type != CRUCIBLE_WRITE && message->type != CRUCIBLE_WRITE_UNWRITTEN)
		return true;
	return message->write.data.length % block_size == 0 &&
		   message->write.data.length / block_size == message->write.contexts.count;
}

void jobs_received(const struct work *work)
{
	struct downstairs_connection *connection = work->connection;
	enum crucible_message_type type = work->message.type;
	if (downstairs_is_job(type) && !check_session(work)) {
		jobs_walk(connection);
		return;
	}
	if ((connection->downstairs->options.read_only && is_refused_when_read_only(type)) ||
		!has_good_form(work)) {
		connection_drop(connection);
		return;
	}
	if (downstairs_is_job(type) && !is_ready(work)) {
		list_append(&connection->pending, &keep(work)->link);
		return;
	}
	if (run(work, NULL))
		jobs_walk(connection);
}
