#include "sled/sled-task.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "cli/progress.h"

enum { OUTPUT_MAX = 4 << 20, COMPLAINT_MAX = 400, WORDS_MAX = 64, TICK_MS = 200, LINGER_MS = 1000 };

static const char script[] =
#include "sled-script.inc"
	;

bool sled_variable(char **text, const char *name, const char *format, ...)
{
	CLEANUP_FREE char *old = take_pointer(text);
	CLEANUP_FREE char *value = NULL;
	size_t length;
	va_list args;
	va_start(args, format);
	int n = vasprintf(&value, format, args);
	va_end(args);
	if (n < 0) {
		value = NULL;
		return false;
	}
	FILE *out = open_memstream(text, &length);
	if (!out)
		return false;
	fprintf(out, "%s%s='", old ? old : "", name);
	for (const char *c = value; *c; c++)
		fputs(*c == '\'' ? "'\\''" : (char[]){ *c, 0 }, out);
	fputs("'\n", out);
	if (fclose(out) == 0)
		return true;
	cleanup_free(text);
	*text = NULL;
	return false;
}

/* One task while it runs. */
struct run {
	struct sled_task *task;
	struct crowd *crowd;
	uv_process_t process;
	uv_pipe_t input, output, complaints;
	uv_write_t write;
	char *text; /* what is written */
	char *command; /* the sled's, cut into words */
	size_t length, room; /* of the task's output */
	char complaint[COMPLAINT_MAX]; /* the end of standard error */
	int64_t exit_status;
	int signal;
	unsigned open; /* handles */
	uint64_t ended_at; /* ms: the process did; 0: it runs */
	bool has_begun, has_timed_out;
};

struct crowd {
	uv_loop_t loop;
	uv_timer_t tick;
	struct progress progress;
	size_t count, ended;
	struct run *runs;
	uint64_t deadline;
	bool ignore_interrupts, was_interrupted;
};

static void on_closed(uv_handle_t *handle)
{
	struct run *run = handle->data;
	if (--run->open > 0)
		return;
	run->crowd->ended++;
	if (run->crowd->ended == run->crowd->count)
		uv_close((uv_handle_t *)&run->crowd->tick, NULL);
}

static void close_once(void *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, on_closed);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signal)
{
	struct run *run = process->data;
	run->exit_status = status;
	run->signal = signal;
	run->ended_at = uv_now(&run->crowd->loop);
	close_once(process);
	close_once(&run->input);
}

static void give_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	static char bytes[64 << 10]; /* emptied by on_output() before the next one */
	(void)handle;
	(void)suggested;
	*buffer = uv_buf_init(bytes, sizeof bytes);
}

static bool keep_output(struct run *run, const char *bytes, size_t length)
{
	struct sled_task *task = run->task;
	if (run->length + length + 1 > OUTPUT_MAX)
		return false;
	if (run->length + length + 1 > run->room) {
		size_t room = 2 * (run->length + length + 1);
		char *grown = realloc(task->output, room);
		if (!grown)
			return false;
		task->output = grown;
		run->room = room;
	}
	memcpy(task->output + run->length, bytes, length);
	run->length += length;
	task->output[run->length] = '\0';
	return true;
}

static void on_output(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
	struct run *run = stream->data;
	if (length < 0 || (length > 0 && !keep_output(run, buffer->base, (size_t)length)))
		close_once(stream);
}

static void on_complaint(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
	struct run *run = stream->data;
	size_t have = strlen(run->complaint);
	if (length < 0) {
		close_once(stream);
		return;
	}
	for (ssize_t i = 0; i < length; i++) {
		char c = buffer->base[i];
		if (have == sizeof run->complaint - 1)
			memmove(run->complaint, run->complaint + 1, have--);
		run->complaint[have++] = c ? c : '?';
		run->complaint[have] = '\0';
	}
}

static void on_written(uv_write_t *write, int status)
{
	struct run *run = write->data;
	(void)status; /* it ended before it had read all: its exit status says why */
	close_once(&run->input);
}

static void on_tick(uv_timer_t *tick)
{
	struct crowd *crowd = tick->data;
	progress_show_steps(&crowd->progress, crowd->ended);
	bool stop = !crowd->ignore_interrupts && was_interrupted();
	bool late = uv_now(&crowd->loop) > crowd->deadline;
	crowd->was_interrupted |= stop;
	for (size_t i = 0; i < crowd->count; i++) {
		struct run *run = &crowd->runs[i];
		/* what it leaves running, as ssh its master, may hold these open */
		bool is_left = run->ended_at && uv_now(&crowd->loop) - run->ended_at >= LINGER_MS;
		if (run->open == 0 || !(stop || late || is_left))
			continue;
		if (run->has_begun && !run->ended_at) {
			run->has_timed_out = late;
			uv_kill(-uv_process_get_pid(&run->process), SIGKILL); /* what it started too */
		}
		close_once(&run->output);
		close_once(&run->complaints);
	}
}

/* The sled's address in figures: downstairs take no names, and its own name may mean another address to itself. */
static int look_up(const struct sled *sled, char text[INET6_ADDRSTRLEN], struct reason *reason)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *addresses;
	int failure = getaddrinfo(sled->address, NULL, &hints, &addresses);
	if (failure)
		return reason_set(reason, -EHOSTUNREACH, "sled %s: %s: %s", sled->name, sled->address, gai_strerror(failure));
	getnameinfo(addresses->ai_addr, addresses->ai_addrlen, text, INET6_ADDRSTRLEN, NULL, 0, NI_NUMERICHOST);
	freeaddrinfo(addresses);
	return 0;
}

/* The text for `sh -s`, which is the run's. */
static bool compose(struct run *run, const char *address, const char *function)
{
	const struct sled *sled = run->task->sled;
	CLEANUP_FREE char *own = NULL;
	return sled_variable(&own, "DIRECTORY", "%s", sled->directory) &&
		sled_variable(&own, "PROGRAM", "%s", sled->program) &&
		sled_variable(&own, "ARGUMENTS", "%s", sled->arguments ? sled->arguments : "") &&
		sled_variable(&own, "ADDRESS", "%s", address) &&
		asprintf(&run->text, "%s%s%s%s\n", own, run->task->variables ? run->task->variables : "", script, function) >= 0;
}

/* The sled's command, cut at blanks, with ours behind it. */
static int split_command(struct run *run, char *words[WORDS_MAX], struct reason *reason)
{
	const struct sled *sled = run->task->sled;
	unsigned count = 0;
	if (sled->command)
		run->command = strdup(sled->command);
	else if (asprintf(&run->command, "ssh -o BatchMode=yes -o ConnectTimeout=10 root@%s", sled->address) < 0)
		run->command = NULL;
	if (!run->command)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (char *rest = run->command, *word; (word = strsep(&rest, " \t"));) {
		if (*word && count == WORDS_MAX - 2)
			return reason_set(reason, -E2BIG, "sled %s: command: too many words", sled->name);
		if (*word)
			words[count++] = word;
	}
	static char ours[] = "sh -s";
	words[count++] = ours;
	words[count] = NULL;
	return 0;
}

static void watch(struct run *run, void *handle)
{
	((uv_handle_t *)handle)->data = run;
	run->open++;
}

static int begin(struct crowd *crowd, struct run *run, const char *function)
{
	char *words[WORDS_MAX];
	struct sled_task *task = run->task;
	char address[INET6_ADDRSTRLEN] = "";
	int status = look_up(task->sled, address, &task->reason);
	if (status == 0)
		status = split_command(run, words, &task->reason);
	if (status < 0)
		return status;
	if (!compose(run, address, function) || !keep_output(run, "", 0))
		return reason_set(&task->reason, -ENOMEM, "out of memory");
	uv_pipe_init(&crowd->loop, &run->input, 0);
	watch(run, &run->input);
	uv_pipe_init(&crowd->loop, &run->output, 0);
	watch(run, &run->output);
	uv_pipe_init(&crowd->loop, &run->complaints, 0);
	watch(run, &run->complaints);
	watch(run, &run->process);
	uv_stdio_container_t stdio[] = {
		{ .flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&run->input },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&run->output },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&run->complaints },
	};
	const uv_process_options_t options = {
		.exit_cb = on_exit_of,
		.file = words[0],
		.args = words,
		.stdio = stdio,
		.stdio_count = 3,
		.flags = UV_PROCESS_DETACHED, /* Ctrl-C is ours to act on */
	};
	status = uv_spawn(&crowd->loop, &run->process, &options);
	run->process.data = run;
	if (status < 0) {
		close_once(&run->process);
		close_once(&run->input);
		close_once(&run->output);
		close_once(&run->complaints);
		return reason_set(&task->reason, status, "sled %s: %s: %s", task->sled->name, words[0], uv_strerror(status));
	}
	run->has_begun = true;
	run->write.data = run;
	uv_buf_t text = uv_buf_init(run->text, (unsigned)strlen(run->text));
	uv_write(&run->write, (uv_stream_t *)&run->input, &text, 1, on_written);
	uv_read_start((uv_stream_t *)&run->output, give_room, on_output);
	uv_read_start((uv_stream_t *)&run->complaints, give_room, on_complaint);
	return 0;
}

/* The last line of what it wrote to standard error. */
static const char *last_line(char *text)
{
	size_t length = strlen(text);
	while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
		text[--length] = '\0';
	const char *line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

static int error_of_status(int64_t status)
{
	switch (status) {
	case EXIT_NO_INPUT:
		return -ENOENT;
	case EXIT_UNAVAILABLE:
	case 255: /* ssh's own */
		return -EHOSTUNREACH;
	case EXIT_CANT_CREATE:
		return -EEXIST;
	case EXIT_TRY_LATER:
		return -EBUSY;
	default:
		return -EIO;
	}
}

static int judge(struct run *run, const struct crowd *crowd, unsigned seconds)
{
	struct sled_task *task = run->task;
	const char *name = task->sled->name, *line = last_line(run->complaint);
	if (!run->has_begun)
		return task->error;
	if (run->signal && crowd->was_interrupted)
		return reason_set(&task->reason, -EINTR, "interrupted");
	if (run->has_timed_out)
		return reason_set(&task->reason, -ETIMEDOUT, "sled %s: no answer within %u s", name, seconds);
	if (run->signal)
		return reason_set(&task->reason, -EIO, "sled %s: its command was ended by signal %d", name, run->signal);
	if (run->exit_status != 0 && line[0])
		return reason_set(&task->reason, error_of_status(run->exit_status), "sled %s: %s", name, line);
	if (run->exit_status != 0)
		return reason_set(&task->reason, error_of_status(run->exit_status), "sled %s: its command ended with %d", name,
			(int)run->exit_status);
	return 0;
}

int sled_tasks_run(struct sled_task *tasks, size_t count, const char *function, const char *what, unsigned seconds,
	bool ignore_interrupts)
{
	/* who begins after a signal is taking back what it has cut short */
	struct crowd crowd = { .count = count, .ignore_interrupts = ignore_interrupts || was_interrupted() };
	CLEANUP_FREE struct run *runs = calloc(count, sizeof *runs);
	if (count == 0)
		return 0;
	if (!runs || uv_loop_init(&crowd.loop) < 0) {
		reason_set(&tasks[0].reason, -ENOMEM, "out of memory");
		return tasks[0].error = -ENOMEM;
	}
	crowd.runs = runs;
	crowd.deadline = uv_now(&crowd.loop) + UINT64_C(1000) * seconds;
	catch_interrupts();
	progress_start(&crowd.progress, what, count);
	uv_timer_init(&crowd.loop, &crowd.tick);
	crowd.tick.data = &crowd;
	uv_timer_start(&crowd.tick, on_tick, TICK_MS, TICK_MS);
	for (size_t i = 0; i < count; i++) {
		cleanup_free(&tasks[i].output);
		tasks[i].output = NULL;
		runs[i].task = &tasks[i];
		runs[i].crowd = &crowd;
		tasks[i].error = begin(&crowd, &runs[i], function);
		if (runs[i].open == 0)
			crowd.ended++;
	}
	if (crowd.ended == count)
		uv_close((uv_handle_t *)&crowd.tick, NULL);
	uv_run(&crowd.loop, UV_RUN_DEFAULT);
	progress_end(&crowd.progress);
	uv_loop_close(&crowd.loop);
	int first = 0;
	for (size_t i = 0; i < count; i++) {
		tasks[i].error = judge(&runs[i], &crowd, seconds);
		free(runs[i].text);
		free(runs[i].command);
		if (first == 0)
			first = tasks[i].error;
	}
	return first;
}

void sled_tasks_free(struct sled_task *tasks, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		cleanup_free(&tasks[i].variables);
		cleanup_free(&tasks[i].output);
		tasks[i].variables = tasks[i].output = NULL;
	}
}
