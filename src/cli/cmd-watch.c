/* dovetail watch: shows changes as they come, or runs a command for each, until a signal. */

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "watch.h"

/* ms until it is tried to sync again while another process does, and between looks if inotify cannot be used */
#define BUSY_RETRY 2000
#define LOOK_INTERVAL 1000
/* ms after the last event of the replica's files. SQLite makes a commit visible in shared memory, which causes no
   event, after it has written it to the log, which does: a look between the two sees nothing. */
#define SETTLE_FIRST 50
#define SETTLE_LAST 1000

enum { FD_SIGNAL, FD_SYNC, FD_FILES, FD_CHILD, FD_OUTPUT, FD_COUNT };

struct watch {
	struct cli *cli;
	struct watch_view *view;
	struct watch_exec exec;
	struct dovetail_account server;
	/* NULL: --offline, or another process syncs */
	struct dovetail_sync *sync;
	/* -1: cannot be used */
	int files_fd;
	/* standard output, see output_write() */
	FILE *out;
	int out_error;
	bool json, all_mailboxes, all;
	uint64_t count, told;
	/* a look is due */
	bool dirty;
	/* when to try to sync (ms, monotonic), if another process did the last time; 0: it did not */
	int64_t retry_at;
	/* when to look again after an event of the files; 0: no need */
	int64_t settle_at;
	bool settle_last;
	/* an exit code, of what has failed within a callback */
	int failed;
};

/* ---- Output ---- */

/* For fopencookie(). Who reads it may not go on reading: that must not keep a signal from being heard. */
static ssize_t output_write(void *context, const char *data, size_t size)
{
	struct watch *watch = context;
	struct pollfd fds[2] = { { .fd = STDOUT_FILENO, .events = POLLOUT }, { .fd = watch->cli->signal_fd, .events = POLLIN } };
	size_t done = 0;
	ssize_t ret;

	while (done < size && watch->cli->signal == 0) {
		ret = poll(fds, 2, -1);
		if (ret >= 0 && fds[1].revents != 0)
			break;
		/* so much is written without waiting */
		if (ret >= 0)
			ret = write(STDOUT_FILENO, data + done, size - done < PIPE_BUF ? size - done : PIPE_BUF);
		if (ret < 0 && errno != EINTR) {
			watch->out_error = errno;
			return 0;
		}
		done += ret > 0 ? ret : 0;
	}
	return done;
}

/* An exit code. What a signal has cut short is no failure. */
static int output_flush(struct watch *watch)
{
	fflush(watch->out);
	if (watch->out_error == 0)
		return CLI_OK;
	cli_error(watch->cli, "cannot write to standard output: %s", strerror(watch->out_error));
	return CLI_SYSTEM;
}

/* ---- Showing ---- */

static void show_json(const struct watch *watch, const struct watch_event *event, const struct dovetail_entry *entry)
{
	struct dovetail_entry gone = { .mailbox = event->mailbox, .name = event->name };

	fprintf(watch->out, "{\"event\":\"%s\",", entry != NULL ? "set" : "removed");
	cli_put_json_entry(watch->out, entry != NULL ? entry : &gone);
	if (entry != NULL) {
		fprintf(watch->out, ",\"size\":\"%zu\"", entry->size);
		cli_put_json_flags(watch->out, entry->flags);
		if (entry->data != NULL)
			cli_put_json_value(watch->out, entry->data, entry->size);
	}
	fputs("}\n", watch->out);
}

/* The value's first line, as far as it fits. */
static void show_value(const struct watch *watch, const struct dovetail_entry *entry)
{
	const char *data = entry->data, *end;
	size_t length = entry->size;

	if (data == NULL) {
		fputs((entry->flags & DOVETAIL_ENTRY_NOT_HERE) != 0 ? "(large)" : "(encrypted)", watch->out);
		return;
	}
	end = memchr(data, '\n', length);
	if (end != NULL)
		length = end - data;
	if (length > 60) {
		length = 60;
		/* not within a character */
		while (length > 56 && (data[length] & 0xc0) == 0x80)
			length--;
	}
	cli_put_safe(watch->out, data, length, false);
	if (length < entry->size && !(end == data + length && length + 1 == entry->size))
		fputs(" ...", watch->out);
}

static void show_text(const struct watch *watch, const struct watch_event *event, const struct dovetail_entry *entry)
{
	const char *name = cli_short_name(watch->cli, event->name);

	if (watch->all_mailboxes) {
		cli_put_safe(watch->out, event->mailbox, strlen(event->mailbox), false);
		putc('\t', watch->out);
	}
	cli_put_safe(watch->out, name, strlen(name), false);
	if (entry == NULL) {
		fputs(" removed\n", watch->out);
		return;
	}
	fputs(" = ", watch->out);
	show_value(watch, entry);
	putc('\n', watch->out);
}

static void tell(struct watch *watch, const struct watch_event *event)
{
	struct dovetail_entry entry;
	enum dovetail_status status = DOVETAIL_NOT_FOUND;

	if (!event->removed) {
		status = dovetail_get(watch->cli->replica, event->mailbox, event->name, &entry);
		/* removed meanwhile: the next look tells it */
		if (status != DOVETAIL_OK)
			return;
	}
	watch->told++;
	if (watch->exec.argv == NULL) {
		if (watch->json)
			show_json(watch, event, status == DOVETAIL_OK ? &entry : NULL);
		else
			show_text(watch, event, status == DOVETAIL_OK ? &entry : NULL);
	} else if (status == DOVETAIL_OK && entry.data == NULL) {
		cli_unreadable(watch->cli, &entry);
	} else {
		watch_exec_start(watch->cli, &watch->exec, event, status == DOVETAIL_OK ? &entry : NULL);
	}
}

static bool is_done(const struct watch *watch)
{
	return watch->count != 0 && watch->told >= watch->count;
}

/* All that can be told now. An exit code. */
static int tell_all(struct watch *watch)
{
	const struct watch_event *event;
	int ret;

	while (watch->exec.pid_fd == -1 && !is_done(watch) && ferror(watch->out) == 0) {
		event = watch_view_next(watch->view);
		if (event != NULL) {
			tell(watch, event);
			continue;
		}
		if (!watch->dirty)
			break;
		watch->dirty = false;
		ret = watch_view_look(watch->view, watch->all);
		if (ret != CLI_OK)
			return ret;
	}
	return output_flush(watch);
}

/* ---- Syncing ---- */

static void show_state(struct watch *watch, const char *state)
{
	if (watch->json && watch->exec.argv == NULL)
		fprintf(watch->out, "{\"event\":\"state\",\"state\":\"%s\"}\n", state);
}

static void on_state(void *context, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	static const char *const names[] = { "offline", "connecting", "syncing", "live", "polling", "failed" };
	struct watch *watch = context;

	/* told as "busy" */
	if (status == DOVETAIL_BUSY)
		return;
	cli_on_state(watch->cli, state, status, text);
	if (state == DOVETAIL_STATE_LIVE || state == DOVETAIL_STATE_POLLING) {
		/* what has come before this state is told before it */
		watch->dirty = true;
		watch->failed = tell_all(watch);
	}
	show_state(watch, names[state]);
}

static void on_consistent(void *context, bool reset)
{
	struct watch *watch = context;

	(void)reset;
	watch->dirty = true;
}

static void on_progress(void *context, uint64_t entries, uint64_t bytes, uint64_t writes_left)
{
	struct watch *watch = context;

	cli_on_progress(watch->cli, entries, bytes, writes_left);
}

static void on_notice(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	struct watch *watch = context;

	cli_on_notice(watch->cli, notice, mailbox, entry, text);
}

static enum dovetail_status sync_try(struct watch *watch)
{
	static const struct dovetail_callbacks callbacks = {
		.state = on_state, .consistent = on_consistent, .progress = on_progress, .notice = on_notice
	};
	struct cli *cli = watch->cli;
	enum dovetail_status status = DOVETAIL_OK;

	if (watch->sync == NULL)
		status = dovetail_sync_new(cli->replica, &watch->server, &cli->account->sync, &callbacks, watch, &watch->sync);
	return status == DOVETAIL_OK ? dovetail_sync_dispatch(watch->sync) : status;
}

static int sync_dispatch(struct watch *watch)
{
	enum dovetail_status status;

	if (watch->cli->offline || watch->retry_at > cli_now())
		return CLI_OK;
	status = sync_try(watch);
	if (watch->failed != CLI_OK)
		return watch->failed;
	if (status == DOVETAIL_OK) {
		watch->retry_at = 0;
		return CLI_OK;
	}
	if (status != DOVETAIL_BUSY)
		return cli_fail(watch->cli, status, NULL);
	/* Another process does it, and what it brings is seen in the file. When it ends this one goes on. */
	if (watch->retry_at == 0)
		show_state(watch, "busy");
	watch->retry_at = cli_now() + BUSY_RETRY;
	dovetail_sync_free(watch->sync);
	watch->sync = NULL;
	return CLI_OK;
}

/* ---- Waiting ---- */

static void files_watch(struct watch *watch)
{
	char *directory = strdup(watch->cli->account->replica);

	watch->files_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (watch->files_fd == -1 || directory == NULL) {
		free(directory);
		return;
	}
	*strrchr(directory, '/') = '\0';
	if (inotify_add_watch(watch->files_fd, directory, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
		close(watch->files_fd);
		watch->files_fd = -1;
	}
	free(directory);
}

static void files_read(struct watch *watch)
{
	const char *base = strrchr(watch->cli->account->replica, '/') + 1;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const struct inotify_event *event;
	ssize_t size, at;

	while ((size = read(watch->files_fd, buffer, sizeof(buffer))) > 0) {
		for (at = 0; at < size; at += sizeof(*event) + event->len) {
			event = (const struct inotify_event *)(buffer + at);
			if (event->len > 0 && strncmp(event->name, base, strlen(base)) != 0)
				continue;
			watch->dirty = true;
			watch->settle_at = cli_now() + SETTLE_FIRST;
			watch->settle_last = false;
		}
	}
}

static int sooner(int timeout, int64_t left)
{
	if (left < 0)
		left = 0;
	return timeout < 0 || timeout > left ? (int)left : timeout;
}

static int wait_timeout(const struct watch *watch)
{
	int timeout = cli_progress_wait(watch->cli);
	int64_t now = cli_now();

	if (watch->sync != NULL && dovetail_sync_timeout(watch->sync) >= 0)
		timeout = sooner(timeout, dovetail_sync_timeout(watch->sync));
	else if (watch->retry_at != 0)
		timeout = sooner(timeout, watch->retry_at - now);
	if (watch->settle_at != 0)
		timeout = sooner(timeout, watch->settle_at - now);
	return watch->files_fd == -1 ? sooner(timeout, LOOK_INTERVAL) : timeout;
}

static void settle(struct watch *watch)
{
	if (watch->settle_at == 0 || watch->settle_at > cli_now())
		return;
	watch->dirty = true;
	watch->settle_at = watch->settle_last ? 0 : cli_now() + SETTLE_LAST;
	watch->settle_last = true;
}

/* Waits, and works on what has come. An exit code; *end_r: it is over. */
static int wait_once(struct watch *watch, bool *end_r)
{
	struct pollfd fds[FD_COUNT] = {
		[FD_SIGNAL] = { .fd = watch->cli->signal_fd, .events = POLLIN },
		[FD_SYNC] = { .fd = watch->sync != NULL ? dovetail_sync_fd(watch->sync) : -1, .events = POLLIN },
		[FD_FILES] = { .fd = watch->files_fd, .events = POLLIN },
		[FD_CHILD] = { .fd = watch->exec.pid_fd, .events = POLLIN },
		/* a reader that has gone is an error */
		[FD_OUTPUT] = { .fd = watch->exec.argv == NULL ? STDOUT_FILENO : -1, .events = 0 },
	};

	if (poll(fds, FD_COUNT, wait_timeout(watch)) < 0 && errno != EINTR)
		return cli_fail_errno(watch->cli, "poll()");
	if (fds[FD_SIGNAL].revents != 0 && cli_signals_got(watch->cli) != 0) {
		*end_r = true;
		return CLI_OK;
	}
	if ((fds[FD_OUTPUT].revents & POLLERR) != 0) {
		watch->out_error = EPIPE;
		return output_flush(watch);
	}
	if (fds[FD_CHILD].revents != 0)
		watch_exec_end(watch->cli, &watch->exec);
	if (fds[FD_FILES].revents != 0)
		files_read(watch);
	if (watch->files_fd == -1)
		watch->dirty = true;
	settle(watch);
	return sync_dispatch(watch);
}

static int watch_run(struct watch *watch)
{
	bool end = false;
	int ret;

	/* asks for the password, if need be */
	if (!watch->cli->offline && (ret = cli_server(watch->cli, &watch->server)) != CLI_OK)
		return ret;
	files_watch(watch);
	if (cli_signals_begin(watch->cli) == -1)
		return CLI_SYSTEM;
	if ((watch->out = fopencookie(watch, "w", (cookie_io_functions_t){ .write = output_write })) == NULL)
		return cli_fail_memory(watch->cli);
	/* what is here already is no change */
	watch->dirty = true;
	ret = tell_all(watch);
	if (ret == CLI_OK)
		ret = sync_dispatch(watch);
	while (ret == CLI_OK && !end) {
		ret = tell_all(watch);
		if (ret == CLI_OK && is_done(watch) && watch->exec.pid_fd == -1)
			break;
		if (ret == CLI_OK)
			ret = wait_once(watch, &end);
	}
	cli_progress_end(watch->cli);
	watch_exec_stop(watch->cli, &watch->exec);
	dovetail_sync_free(watch->sync);
	fclose(watch->out);
	if (watch->files_fd != -1)
		close(watch->files_fd);
	cli_signals_end(watch->cli);
	return ret;
}

int cmd_watch(struct cli *cli)
{
	struct watch watch = { .cli = cli, .exec = { .pid_fd = -1 }, .files_fd = -1 };
	const char *exec = NULL;
	const struct cli_option options[] = {
		{ .letter = 'j', .name = "json", .flag = &watch.json, .help = "a JSON object for each change" },
		{ .letter = 'x', .name = "exec", .arg = "COMMAND", .string = &exec,
		  .help = "run COMMAND for each change; it is split at blanks outside of \"\"" },
		{ .letter = 'A', .name = "all-mailboxes", .flag = &watch.all_mailboxes,
		  .help = "of the account and all mailboxes" },
		{ .name = "all", .flag = &watch.all, .help = "begin with all that is there" },
		{ .letter = 'c', .name = "count", .arg = "NUMBER", .number = &watch.count, .min = 1,
		  .help = "end after so many changes" },
		{ .name = NULL }
	};
	char *name = NULL, *words = NULL, **split = NULL;
	int ret;

	if (!cli_parse_rest(cli, options, 0, 1, &ret))
		return ret;
	if (watch.all_mailboxes && cli->mailbox != NULL)
		return cli_usage(cli, "--all-mailboxes and --mailbox exclude each other");
	if (exec != NULL && cli->rest != NULL)
		return cli_usage(cli, "--exec and a command after -- exclude each other");
	if (cli->rest != NULL && cli->rest[0] == NULL)
		return cli_usage(cli, "a command is needed after --");
	watch.exec.argv = cli->rest;
	if (exec != NULL) {
		words = strdup(exec);
		ret = words == NULL ? cli_fail_memory(cli) : watch_exec_split(cli, words, &split);
		watch.exec.argv = split;
	}
	if (ret == CLI_OK && watch.exec.argv != NULL)
		ret = watch_exec_find(cli, watch.exec.argv[0]);
	if (ret == CLI_OK)
		ret = cli_open(cli);
	if (ret == CLI_OK && (name = cli_full_name(cli, cli->arg_count > 0 ? cli->args[0] : "")) == NULL)
		ret = cli_fail_memory(cli);
	if (ret == CLI_OK)
		ret = cli_unlock_synced(cli, name);
	if (ret == CLI_OK) {
		watch.view = watch_view_new(cli, watch.all_mailboxes ? NULL : cli_mailbox(cli), name);
		ret = watch.view == NULL ? cli_fail_memory(cli) : watch_run(&watch);
	}
	watch_view_free(watch.view);
	free(name);
	free(split);
	free(words);
	return ret;
}
