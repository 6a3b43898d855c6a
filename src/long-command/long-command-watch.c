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
#include "mail-storage-service.h"

#include <fcntl.h>
#include <sys/stat.h>

#define LONG_COMMAND_POLL_MSECS 1000
/* After an event it is looked at this soon. */
#define LONG_COMMAND_VERIFY_MSECS 1000

/* A file, and who waits for it. */
struct long_command_path {
	struct long_command_path *prev, *next;
	char *path;
	ARRAY(struct imap_long_command_watch *) watches;

	struct io *io;
	struct timeout *to;
	unsigned int check_interval_msecs;
	/* the file that io watches; 0 if there is none */
	uint64_t ino;
	uint32_t dev_major, dev_minor;
	/* an event has come since the last look */
	bool verify_soon;
};

struct imap_long_command_watch {
	struct long_command_path *path;
	/* a command, or else somebody with a callback */
	struct long_command *cmd;
	struct client *client;
	imap_long_command_watch_callback_t *callback;
	void *context;
};

static struct long_command_path *long_command_paths = NULL;
static bool long_command_watch_warned = FALSE;

static void watch_event(struct long_command_path *path);
static void watch_check(struct long_command_path *path);

/* Only which file it is: one whose times are looked at gets new ones with its
   next write (multigrain timestamps, Linux 6.13), and then the file system has
   more to write at each change. */
static void
watch_get_file(const struct long_command_path *path, struct statx *st_r)
{
	if (statx(AT_FDCWD, path->path, 0, STATX_INO, st_r) < 0)
		i_zero(st_r);
}

static void
watch_check_after(struct long_command_path *path, unsigned int msecs)
{
	timeout_remove(&path->to);
	path->to = timeout_add(msecs, watch_check, path);
}

static unsigned int watch_interval(const struct long_command_path *path)
{
	return path->io != NULL ? path->check_interval_msecs :
		I_MIN(LONG_COMMAND_POLL_MSECS, path->check_interval_msecs);
}

static void watch_start(struct long_command_path *path)
{
	enum io_notify_result result;
	struct statx st;

	io_remove(&path->io);
	/* this first: if the file is replaced in between, the next check sees
	   another file than this one */
	watch_get_file(path, &st);
	path->ino = st.stx_ino;
	path->dev_major = st.stx_dev_major;
	path->dev_minor = st.stx_dev_minor;
	result = io_add_notify(path->path, watch_event, path, &path->io);
	if (result == IO_NOTIFY_NOSUPPORT && !long_command_watch_warned) {
		long_command_watch_warned = TRUE;
		i_warning("imap-long-command: No inotify watch for %s: "
			  "checking it once a second instead (see "
			  "fs.inotify.max_user_instances and "
			  "max_user_watches)", path->path);
	}
}

static void watch_verify(struct long_command_path *path)
{
	struct statx st;

	watch_get_file(path, &st);
	if (path->io == NULL || st.stx_ino == 0 ||
	    st.stx_ino != path->ino || st.stx_dev_major != path->dev_major ||
	    st.stx_dev_minor != path->dev_minor)
		watch_start(path);
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

static void watch_wake(struct imap_long_command_watch *watch, bool only)
{
	if (watch->cmd != NULL) {
		/* of several, one that runs now may end others */
		long_command_wake(watch->cmd, only);
	} else {
		watch_leave_context();
		mail_storage_service_io_activate_user(
			watch->client->service_user);
		watch->callback(watch->context);
	}
}

/* The path may be gone afterwards. From the end, since a callback may remove
   its own watch. */
static void watch_wake_all(struct long_command_path *path)
{
	unsigned int i = array_count(&path->watches);
	bool only = i == 1;

	for (; i > 0; i--)
		watch_wake(array_idx_elem(&path->watches, i - 1), only);
}

static void watch_event(struct long_command_path *path)
{
	watch_leave_context();
	if (!path->verify_soon) {
		/* not now: it must not hold up what the event is about */
		path->verify_soon = TRUE;
		watch_check_after(path, LONG_COMMAND_VERIFY_MSECS);
	}
	watch_wake_all(path);
}

static void watch_check(struct long_command_path *path)
{
	watch_leave_context();
	path->verify_soon = FALSE;
	watch_verify(path);
	watch_check_after(path, watch_interval(path));
	watch_wake_all(path);
}

static struct long_command_path *
watch_get_path(const char *name, unsigned int check_interval_msecs)
{
	struct ioloop_context *ctx =
		io_loop_get_current_context(current_ioloop);
	struct long_command_path *path = long_command_paths;

	while (path != NULL && strcmp(path->path, name) != 0)
		path = path->next;
	if (path != NULL)
		return path;

	path = i_new(struct long_command_path, 1);
	path->path = i_strdup(name);
	path->check_interval_msecs = check_interval_msecs;
	i_array_init(&path->watches, 4);
	DLLIST_PREPEND(&long_command_paths, path);
	watch_leave_context();
	watch_start(path);
	watch_check_after(path, watch_interval(path));
	if (ctx != NULL)
		io_loop_context_activate(ctx);
	return path;
}

static struct imap_long_command_watch *
watch_add(const char *path, unsigned int check_interval_msecs)
{
	struct imap_long_command_watch *watch;

	watch = i_new(struct imap_long_command_watch, 1);
	watch->path = watch_get_path(path, check_interval_msecs);
	array_push_back(&watch->path->watches, &watch);
	return watch;
}

struct imap_long_command_watch *
long_command_watch_add(struct long_command *cmd, const char *path)
{
	struct imap_long_command_watch *watch =
		watch_add(path, cmd->set.check_interval_msecs);

	watch->cmd = cmd;
	return watch;
}

#undef imap_long_command_watch_add
struct imap_long_command_watch *
imap_long_command_watch_add(struct client *client, const char *path,
			    imap_long_command_watch_callback_t *callback,
			    void *context)
{
	struct imap_long_command_watch *watch;
	struct long_command_settings set;

	long_command_settings_get(client, &set);
	watch = watch_add(path, set.check_interval_msecs);
	watch->client = client;
	watch->callback = callback;
	watch->context = context;
	return watch;
}

void imap_long_command_watch_remove(struct imap_long_command_watch **_watch)
{
	struct imap_long_command_watch *watch = *_watch;
	struct imap_long_command_watch *const *watchp;
	struct long_command_path *path;

	if (watch == NULL)
		return;
	*_watch = NULL;
	path = watch->path;
	array_foreach(&path->watches, watchp) {
		if (*watchp == watch) {
			array_delete(&path->watches,
				array_foreach_idx(&path->watches, watchp), 1);
			break;
		}
	}
	i_free(watch);
	if (array_count(&path->watches) > 0)
		return;

	DLLIST_REMOVE(&long_command_paths, path);
	io_remove(&path->io);
	timeout_remove(&path->to);
	array_free(&path->watches);
	i_free(path->path);
	i_free(path);
}
