/* Watches files for long-running commands.

   One inotify watch for each path and process, shared by all commands that
   wait for it: Dovecot's io_add_notify() gives the same watch descriptor to
   each caller with the same path, calls only one of them, and the first
   removal ends the watch for all (lib/ioloop-notify-inotify.c). Where many
   clients of one user share an imap process (client_limit > 1) that would
   silence them.

   The watch is looked at now and then: the file may be replaced, and no event
   tells that its last link is gone while somebody has it open. Without
   inotify (limits exhausted) the look comes once a second.

   Watches belong to the commands that hold them, the list to this file. */

#include "long-command-private.h"
#include "ioloop.h"
#include "array.h"
#include "llist.h"

#include <fcntl.h>
#include <sys/stat.h>

#define LONG_COMMAND_POLL_MSECS 1000
/* After an event it is looked at this soon. */
#define LONG_COMMAND_VERIFY_MSECS 1000

struct long_command_watch {
	struct long_command_watch *prev, *next;
	char *path;
	ARRAY(struct long_command *) commands;

	struct io *io;
	struct timeout *to;
	unsigned int check_interval_msecs;
	/* the file that io watches; 0 if there is none */
	uint64_t ino;
	uint32_t dev_major, dev_minor;
	/* an event has come since the last look */
	bool verify_soon;
};

static struct long_command_watch *long_command_watches = NULL;
static bool long_command_watch_warned = FALSE;

static void watch_event(struct long_command_watch *watch);
static void watch_check(struct long_command_watch *watch);

/* Only which file it is: one whose times are looked at gets new ones with its
   next write (multigrain timestamps, Linux 6.13), and then the file system has
   more to write at each change. */
static void
watch_get_file(const struct long_command_watch *watch, struct statx *st_r)
{
	if (statx(AT_FDCWD, watch->path, 0, STATX_INO, st_r) < 0)
		i_zero(st_r);
}

static void
watch_check_after(struct long_command_watch *watch, unsigned int msecs)
{
	timeout_remove(&watch->to);
	watch->to = timeout_add(msecs, watch_check, watch);
}

static unsigned int watch_interval(const struct long_command_watch *watch)
{
	return watch->io != NULL ? watch->check_interval_msecs :
		I_MIN(LONG_COMMAND_POLL_MSECS, watch->check_interval_msecs);
}

static void watch_start(struct long_command_watch *watch)
{
	enum io_notify_result result;
	struct statx st;

	io_remove(&watch->io);
	/* this first: if the file is replaced in between, the next check sees
	   another file than this one */
	watch_get_file(watch, &st);
	watch->ino = st.stx_ino;
	watch->dev_major = st.stx_dev_major;
	watch->dev_minor = st.stx_dev_minor;
	result = io_add_notify(watch->path, watch_event, watch, &watch->io);
	if (result == IO_NOTIFY_NOSUPPORT && !long_command_watch_warned) {
		long_command_watch_warned = TRUE;
		i_warning("imap-long-command: No inotify watch for %s: "
			  "checking it once a second instead", watch->path);
	}
}

static void watch_verify(struct long_command_watch *watch)
{
	struct statx st;

	watch_get_file(watch, &st);
	if (watch->io == NULL || st.stx_ino == 0 ||
	    st.stx_ino != watch->ino || st.stx_dev_major != watch->dev_major ||
	    st.stx_dev_minor != watch->dev_minor)
		watch_start(watch);
}

/* The watch outlives each user's session, so its I/O and timeout must be in
   nobody's context. */
static void watch_leave_context(void)
{
	struct ioloop_context *ctx =
		io_loop_get_current_context(current_ioloop);

	if (ctx != NULL)
		io_loop_context_deactivate(ctx);
}

/* The watch may be gone afterwards. */
static void watch_wake_all(struct long_command_watch *watch)
{
	/* of several, one that runs may end others */
	bool run_now = array_count(&watch->commands) == 1;
	struct long_command *cmd;

	array_foreach_elem(&watch->commands, cmd) {
		long_command_wake(cmd, run_now);
		if (run_now)
			break;
	}
}

static void watch_event(struct long_command_watch *watch)
{
	watch_leave_context();
	if (!watch->verify_soon) {
		/* not now: it must not hold up what the event is about */
		watch->verify_soon = TRUE;
		watch_check_after(watch, LONG_COMMAND_VERIFY_MSECS);
	}
	watch_wake_all(watch);
}

static void watch_check(struct long_command_watch *watch)
{
	watch_leave_context();
	watch->verify_soon = FALSE;
	watch_verify(watch);
	watch_check_after(watch, watch_interval(watch));
	watch_wake_all(watch);
}

struct long_command_watch *
long_command_watch_add(struct long_command *cmd, const char *path,
		       unsigned int check_interval_msecs)
{
	struct ioloop_context *ctx =
		io_loop_get_current_context(current_ioloop);
	struct long_command_watch *watch = long_command_watches;

	while (watch != NULL && strcmp(watch->path, path) != 0)
		watch = watch->next;
	if (watch == NULL) {
		watch = i_new(struct long_command_watch, 1);
		watch->path = i_strdup(path);
		watch->check_interval_msecs = check_interval_msecs;
		i_array_init(&watch->commands, 4);
		DLLIST_PREPEND(&long_command_watches, watch);
		watch_leave_context();
		watch_start(watch);
		watch_check_after(watch, watch_interval(watch));
		if (ctx != NULL)
			io_loop_context_activate(ctx);
	}
	array_push_back(&watch->commands, &cmd);
	return watch;
}

void long_command_watch_remove(struct long_command_watch **_watch,
			       struct long_command *cmd)
{
	struct long_command_watch *watch = *_watch;
	struct long_command *const *cmdp;

	*_watch = NULL;
	array_foreach(&watch->commands, cmdp) {
		if (*cmdp == cmd) {
			array_delete(&watch->commands,
				array_foreach_idx(&watch->commands, cmdp), 1);
			break;
		}
	}
	if (array_count(&watch->commands) > 0)
		return;

	DLLIST_REMOVE(&long_command_watches, watch);
	io_remove(&watch->io);
	timeout_remove(&watch->to);
	array_free(&watch->commands);
	i_free(watch->path);
	i_free(watch);
}
