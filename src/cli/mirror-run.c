/* The life of a mirror: one pass, or live until a signal. What the library's callbacks tell, and what inotify tells, is only
   listed (mirror_record_look()); mirror_work() does the work between two waits. */

#include "mirror.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* ms that a file has to be left in peace: what an editor does in several steps is seen as one */
#define SETTLE 50
/* ms from a change among folders to the comparison that it asks for */
#define SCAN_DELAY 100
/* ms between comparisons if inotify does not work, and if it does (for what it cannot tell) */
#define SCAN_POLL 2000
#define SCAN_HEAL (60 * 60 * 1000)
/* Passes of --once until it is given up: somebody changes things all the time */
#define PASSES 20
#define PASS_WAIT 300
/* and if nothing is left but what the system does not allow */
#define PASSES_STUCK 3

enum { FD_SIGNAL, FD_SYNC, FD_WATCH, FD_OUTPUT, FD_COUNT };

/* ---- What inotify tells ---- */

static void look_file(struct mirror *mirror, const char *path)
{
	char name[MIRROR_ENTRY_MAX + 1];

	if (mirror_is_ignored(mirror, path))
		return;
	if (!mirror_name_entry(path, MIRROR_ENTRY_MAX - 1 - strlen(mirror->prefix), name))
		mirror_tell(mirror, path, "the entry's name would be too long; left alone");
	else if (!mirror_record_look(&mirror->record, name, mirror_now() + SETTLE))
		mirror->failed = mirror_fail_record(mirror);
}

static void on_file(void *context, const char *path)
{
	look_file(context, path);
}

static void on_rescan(void *context)
{
	struct mirror *mirror = context;

	if (mirror->scan_at == 0 || mirror->scan_at > mirror_now() + SCAN_DELAY)
		mirror->scan_at = mirror_now() + SCAN_DELAY;
}

static void on_root(void *context)
{
	struct mirror *mirror = context;

	if (!mirror_dir_is_there(&mirror->dir))
		mirror->root_gone = true;
}

/* ---- What the library tells ---- */

static void look_entry(struct mirror *mirror, const char *mailbox, const char *entry)
{
	const char *name = mirror_short(mirror, mailbox, entry);

	if (name != NULL && !mirror_record_look(&mirror->record, name, mirror_now()))
		mirror->failed = mirror_fail_record(mirror);
}

static void on_change(void *context, const struct dovetail_entry *entry)
{
	look_entry(context, entry->mailbox, entry->name);
}

static void on_consistent(void *context, bool reset)
{
	struct mirror *mirror = context;

	if (!mirror->synced || reset)
		mirror->compare = mirror->strict = true;
	if (!mirror->synced)
		mirror->scan_at = mirror_now();
	mirror->synced = true;
}

/* The server's value keeps the name. What was written here is in the file still, or in an edit on top of it: that it is no
   version of what is on the server is all that has to be noted, and then it becomes a conflicting version like any other
   (mirror-step.c). If that cannot be noted (the disk is full) this is the end, before the library drops what was written. */
static void on_conflict(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	struct mirror *mirror = context;
	struct mirror_base base = { .known = true, .conflict = true };
	const char *name = mirror_short(mirror, conflict->mailbox, conflict->name);

	/* a change is worth more than a removal; a size without data: a value that is too large to be here */
	if (conflict->theirs.data == NULL && conflict->theirs.size == 0) {
		resolution->rule = DOVETAIL_RULE_MINE;
		return;
	}
	resolution->rule = DOVETAIL_RULE_SERVER;
	if (name == NULL)
		return;
	if ((conflict->mine.data != NULL && !mirror_record_put(&mirror->record, name, &base)) ||
	    !mirror_record_look(&mirror->record, name, mirror_now()))
		exit(mirror_fail_record(mirror));
}

static void on_state(void *context, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	static const char *const names[] = { "offline", "connecting", "syncing", "live", "polling", "failed" };
	struct mirror *mirror = context;

	if (mirror->sync != NULL)
		cli_on_state(mirror->cli, state, status, text);
	if (mirror->json)
		printf("{\"event\":\"state\",\"state\":\"%s\"}\n", names[state]);
}

static void on_progress(void *context, uint64_t entries, uint64_t bytes, uint64_t writes_left)
{
	struct mirror *mirror = context;

	cli_on_progress(mirror->cli, entries, bytes, writes_left);
}

static void on_notice(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	struct mirror *mirror = context;
	const char *name = entry != NULL && mailbox != NULL ? mirror_short(mirror, mailbox, entry) : NULL;
	enum mirror_sent sent = MIRROR_SENT_NOT;

	/* what was refused with others is tried by itself, and told if it is refused then */
	if (notice == DOVETAIL_NOTICE_REFUSED && name != NULL && !mirror_record_sent(&mirror->record, name, &sent))
		mirror->failed = mirror_fail_record(mirror);
	if (notice != DOVETAIL_NOTICE_REFUSED || sent != MIRROR_SENT_WITH_OTHERS)
		cli_on_notice(mirror->cli, notice, mailbox, entry, text);
	if (name != NULL)
		look_entry(mirror, mailbox, entry);
}

static const struct dovetail_callbacks callbacks = {
	.change = on_change, .consistent = on_consistent, .conflict = on_conflict, .state = on_state,
	.progress = on_progress, .notice = on_notice
};

/* ---- Work ---- */

/* All that can be done now. An exit code. */
static int work(struct mirror *mirror)
{
	int ret = CLI_OK;

	if (mirror->failed != CLI_OK || !mirror->synced)
		return mirror->failed;
	/* the keys may have come with the first state */
	if (mirror->compare)
		ret = cli_unlock(mirror->cli, mirror->prefix, true);
	if (ret == CLI_OK && mirror->scan_at != 0 && mirror->scan_at <= mirror_now()) {
		ret = mirror_scan_files(mirror);
		mirror->scanned_at = mirror_now();
	}
	if (ret == CLI_OK && mirror->compare)
		ret = mirror_scan_entries(mirror);
	if (ret == CLI_OK && !mirror->root_gone)
		ret = mirror_work(mirror);
	if (ret == CLI_OK && mirror->root_gone) {
		cli_error(mirror->cli, "%s: the folder has gone", mirror->dir.path);
		ret = CLI_FAILED;
	}
	return cli_flush(mirror->cli, ret);
}

/* ---- Once ---- */

static int sync_once(struct mirror *mirror, const struct dovetail_account *server)
{
	struct dovetail_sync_options options = mirror->sync_options;
	enum dovetail_status status;

	if (mirror->yes)
		options.max_removals = 0;
	status = dovetail_sync_once(mirror->cli->replica, server, &options, &callbacks, mirror, mirror->cli->signal_fd);
	cli_progress_end(mirror->cli);
	if (cli_signals_got(mirror->cli) != 0)
		return 128 + mirror->cli->signal;
	if (status == DOVETAIL_MASS_REMOVAL) {
		cli_error(mirror->cli, "%s; --yes allows it", dovetail_error(mirror->cli->replica));
		return CLI_MASS_REMOVAL;
	}
	return status == DOVETAIL_OK ? CLI_OK : cli_fail(mirror->cli, status, NULL);
}

/* *left_r: something is still to be done or sent. */
static int once_left(struct mirror *mirror, unsigned int pass, bool *left_r)
{
	struct dovetail_counts counts;
	enum dovetail_status status;

	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status != DOVETAIL_OK)
		return cli_fail(mirror->cli, status, NULL);
	*left_r = counts.pending > 0 || mirror->failures > mirror->stuck || (mirror->stuck > 0 && pass < PASSES_STUCK);
	return CLI_OK;
}

static int once_end(struct mirror *mirror)
{
	struct dovetail_counts counts;
	enum dovetail_status status;

	if (mirror->failures > 0) {
		cli_error(mirror->cli, "%llu files could not be brought in step", (unsigned long long)mirror->failures);
		return CLI_FAILED;
	}
	if (mirror->unreadable > 0) {
		cli_error(mirror->cli, "%llu folders could not be read", (unsigned long long)mirror->unreadable);
		return CLI_FAILED;
	}
	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status != DOVETAIL_OK)
		return cli_fail(mirror->cli, status, NULL);
	if (counts.pending > 0) {
		cli_error(mirror->cli, "%llu changes could not be sent", (unsigned long long)counts.pending);
		return CLI_FAILED;
	}
	return counts.refused > 0 || mirror->limited ? CLI_REFUSED : CLI_OK;
}

int mirror_run_once(struct mirror *mirror)
{
	struct pollfd signals = { .fd = cli_signals_begin(mirror->cli), .events = POLLIN };
	struct dovetail_account server;
	unsigned int pass;
	bool left = true;
	int ret;

	if (signals.fd == -1)
		return CLI_SYSTEM;
	ret = cli_server(mirror->cli, &server);
	for (pass = 0; pass < PASSES && ret == CLI_OK && left; pass++) {
		/* somebody writes a file, most often */
		if (pass > 1 && poll(&signals, 1, PASS_WAIT) > 0 && cli_signals_got(mirror->cli) != 0) {
			ret = 128 + mirror->cli->signal;
			break;
		}
		ret = sync_once(mirror, &server);
		mirror->failures = mirror->stuck = 0;
		mirror->limited = false;
		mirror->compare = true;
		mirror->scan_at = mirror_now();
		if (ret == CLI_OK)
			ret = work(mirror);
		/* what was refused before is tried once more */
		if (ret == CLI_OK && pass == 0)
			ret = work(mirror);
		if (ret == CLI_OK && cli_signals_got(mirror->cli) != 0)
			ret = 128 + mirror->cli->signal;
		if (ret == CLI_OK)
			ret = once_left(mirror, pass + 1, &left);
	}
	cli_signals_end(mirror->cli);
	mirror_trash_prune(&mirror->dir, mirror->trash_days, mirror->trash_bytes);
	return ret == CLI_OK ? once_end(mirror) : ret;
}

/* ---- Live ---- */

static int dispatch(struct mirror *mirror)
{
	enum dovetail_status status = dovetail_sync_dispatch(mirror->sync);

	if (status == DOVETAIL_MASS_REMOVAL) {
		cli_error(mirror->cli, "%s; --yes allows it", dovetail_error(mirror->cli->replica));
		return CLI_MASS_REMOVAL;
	}
	return status == DOVETAIL_OK ? CLI_OK : cli_fail(mirror->cli, status, NULL);
}

static void earlier(int *timeout, int64_t at, int64_t now)
{
	int64_t left = at > now ? at - now : 0;

	if (*timeout < 0 || left < *timeout)
		*timeout = left;
}

static int wait_timeout(struct mirror *mirror, int *timeout_r)
{
	int64_t now = mirror_now(), due;

	*timeout_r = dovetail_sync_timeout(mirror->sync);
	if (!mirror->synced)
		return CLI_OK;
	if (mirror->scan_at != 0)
		earlier(timeout_r, mirror->scan_at, now);
	if (!mirror_record_due(&mirror->record, &due))
		return mirror_fail_record(mirror);
	if (due >= 0)
		earlier(timeout_r, due, now);
	return CLI_OK;
}

/* When the next comparison is due without anybody asking for it. */
static void plan_scan(struct mirror *mirror)
{
	const char *error = mirror->watch != NULL ? mirror_watch_error(mirror->watch) : "out of memory";
	int64_t at = mirror->scanned_at + (error != NULL ? SCAN_POLL : SCAN_HEAL);

	if (error != NULL)
		mirror_tell(mirror, mirror->dir.path, "changes are looked for every %d seconds: %s", SCAN_POLL / 1000, error);
	if (mirror->scan_at == 0 || mirror->scan_at > at)
		mirror->scan_at = at;
}

static int wait_once(struct mirror *mirror, bool *end_r)
{
	struct pollfd fds[FD_COUNT] = {
		[FD_SIGNAL] = { .fd = mirror->cli->signal_fd, .events = POLLIN },
		[FD_SYNC] = { .fd = dovetail_sync_fd(mirror->sync), .events = POLLIN },
		[FD_WATCH] = { .fd = mirror->watch != NULL ? mirror_watch_fd(mirror->watch) : -1, .events = POLLIN },
		/* a reader that has gone is an error */
		[FD_OUTPUT] = { .fd = mirror->json || mirror->verbose ? 1 : -1, .events = 0 },
	};
	int timeout, ret;

	ret = wait_timeout(mirror, &timeout);
	if (ret != CLI_OK)
		return ret;
	if (poll(fds, FD_COUNT, timeout) < 0 && errno != EINTR)
		return cli_fail_errno(mirror->cli, "poll()");
	if (fds[FD_SIGNAL].revents != 0 && cli_signals_got(mirror->cli) != 0) {
		*end_r = true;
		return CLI_OK;
	}
	if ((fds[FD_OUTPUT].revents & POLLERR) != 0) {
		cli_error(mirror->cli, "cannot write to standard output: %s", strerror(EPIPE));
		return CLI_SYSTEM;
	}
	if (fds[FD_WATCH].revents != 0)
		mirror_watch_read(mirror->watch);
	return dispatch(mirror);
}

static int live(struct mirror *mirror)
{
	bool end = false;
	int ret = CLI_OK;

	while (ret == CLI_OK && !end) {
		ret = work(mirror);
		if (cli_signals_got(mirror->cli) != 0)
			break;
		/* once in a while, with the comparison */
		if (ret == CLI_OK && mirror->scanned_at > mirror->pruned_at) {
			if (mirror->pruned_at == 0 || mirror->scanned_at > mirror->pruned_at + SCAN_HEAL) {
				mirror_trash_prune(&mirror->dir, mirror->trash_days, mirror->trash_bytes);
				mirror->pruned_at = mirror->scanned_at;
			}
		}
		if (mirror->synced)
			plan_scan(mirror);
		if (ret == CLI_OK)
			ret = dispatch(mirror);
		if (ret == CLI_OK)
			ret = wait_once(mirror, &end);
	}
	return ret;
}

int mirror_run_live(struct mirror *mirror)
{
	static const struct mirror_watch_events events = { .file = on_file, .rescan = on_rescan, .root = on_root };
	struct dovetail_account server;
	enum dovetail_status status;
	int ret;

	/* what --yes allows is done now, and not for all time */
	if (mirror->yes && (ret = mirror_run_once(mirror)) != CLI_OK && ret != CLI_FAILED && ret != CLI_REFUSED)
		return ret;
	mirror->yes = false;
	mirror->compare = mirror->strict = true;
	mirror->scan_at = mirror_now();
	mirror->watch = mirror_watch_new(&events, mirror);
	if (cli_signals_begin(mirror->cli) == -1)
		return CLI_SYSTEM;
	ret = cli_server(mirror->cli, &server);
	if (ret == CLI_OK) {
		status = dovetail_sync_new(mirror->cli->replica, &server, &mirror->sync_options, &callbacks, mirror, &mirror->sync);
		ret = status == DOVETAIL_OK ? live(mirror) : cli_fail(mirror->cli, status, NULL);
	}
	cli_progress_end(mirror->cli);
	dovetail_sync_free(mirror->sync);
	mirror->sync = NULL;
	mirror_watch_free(mirror->watch);
	mirror->watch = NULL;
	cli_signals_end(mirror->cli);
	return ret;
}
