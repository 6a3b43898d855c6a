/* Which handle syncs, and how it learns that others have written. Both by a small file beside the replica, PATH-wake: the handle
   that syncs has a flock() on it, and who has put something into the queue, or has set other parts, writes to it, which inotify
   tells. */

#include "replica-private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum dovetail_status replica_wake_open(struct dovetail *replica)
{
	struct stat st;
	int fd;

	/* O_NONBLOCK: a FIFO must not hold us up */
	fd = open(replica->wake_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (fd == -1) {
		return replica_fail(replica, errno == ELOOP || errno == EISDIR || errno == EACCES ? DOVETAIL_REPLICA :
				    DOVETAIL_SYSTEM, "%s: open: %s", replica->wake_path, strerror(errno));
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
		(void)close(fd);
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is not a regular file of the caller", replica->wake_path);
	}
	if (replica->wake_fd != -1)
		(void)close(replica->wake_fd);
	replica->wake_fd = fd;
	return DOVETAIL_OK;
}

/* Somebody may have removed it: the one that is there counts, for all. */
static enum dovetail_status wake_check(struct dovetail *replica)
{
	struct stat ours, theirs;

	if (fstat(replica->wake_fd, &ours) == 0 && lstat(replica->wake_path, &theirs) == 0 && ours.st_dev == theirs.st_dev &&
	    ours.st_ino == theirs.st_ino)
		return DOVETAIL_OK;
	return replica_wake_open(replica);
}

void replica_wake(struct dovetail *replica)
{
	/* The commit is done, so this never fails it. While we sync, our own file has the lock and is kept. */
	if (!replica->syncing && wake_check(replica) != DOVETAIL_OK)
		return;
	(void)!pwrite(replica->wake_fd, "w", 1, 0);
}

static void watch(struct dovetail *replica)
{
	char path[64];

	replica->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (replica->inotify_fd == -1)
		return;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", replica->wake_fd);
	if (inotify_add_watch(replica->inotify_fd, path, IN_MODIFY) == -1) {
		(void)close(replica->inotify_fd);
		replica->inotify_fd = -1;
	}
}

enum dovetail_status replica_sync_begin(struct dovetail *replica)
{
	enum dovetail_status status;

	if ((replica->flags & DOVETAIL_OPEN_READONLY) != 0)
		return replica_fail(replica, DOVETAIL_INVALID, "%s is open for reading only", replica->path);
	if (replica->syncing)
		return replica_fail(replica, DOVETAIL_BUSY, "%s: is being synchronized by this handle", replica->path);
	status = wake_check(replica);
	if (status != DOVETAIL_OK)
		return status;
	if (flock(replica->wake_fd, LOCK_EX | LOCK_NB) < 0) {
		return errno == EWOULDBLOCK ?
			replica_fail(replica, DOVETAIL_BUSY, "%s: another process synchronizes this replica", replica->path) :
			replica_fail(replica, DOVETAIL_SYSTEM, "%s: lock: %s", replica->wake_path, strerror(errno));
	}
	replica->syncing = true;
	status = replica_stage_drop(replica);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "begin", "UPDATE meta SET need_state = 1 WHERE need_state = 0", "");
	if (status != DOVETAIL_OK) {
		replica_sync_end(replica);
		return status;
	}
	watch(replica);
	return DOVETAIL_OK;
}

void replica_sync_end(struct dovetail *replica)
{
	if (!replica->syncing)
		return;
	replica->syncing = false;
	if (replica->inotify_fd != -1)
		(void)close(replica->inotify_fd);
	replica->inotify_fd = -1;
	(void)flock(replica->wake_fd, LOCK_UN);
}

int replica_sync_fd(struct dovetail *replica)
{
	return replica->inotify_fd;
}

void replica_sync_fd_clear(struct dovetail *replica)
{
	char events[sizeof(struct inotify_event) + NAME_MAX + 1];

	while (replica->inotify_fd != -1 && read(replica->inotify_fd, events, sizeof(events)) > 0) ;
}
