/* dovetail_sync_once(): the loop that the caller of a live sync has, for callers that have none. It ends with the first consistent
   state with which nothing is left to be sent, or with the first error. */

#include <errno.h>
#include <poll.h>

#include "sync-private.h"

/* ms between two calls of progress(), at most */
#define PROGRESS_INTERVAL 1000

/* Waits for what comes next. false: poll() has failed. */
static bool wait(struct dovetail_sync *sync, struct pollfd fds[2])
{
	int timeout = dovetail_sync_timeout(sync), ret;

	ret = poll(fds, 2, timeout < 0 || timeout > PROGRESS_INTERVAL ? PROGRESS_INTERVAL : timeout);
	if (ret == 0 && sync->callbacks.progress != NULL) {
		sync->callbacks.progress(sync->context, sync->received_entries, sync->received_bytes,
					 replica_queue_count(sync->replica));
	}
	return ret >= 0 || errno == EINTR;
}

static enum dovetail_status once(struct dovetail_sync *sync, int stop_fd)
{
	struct pollfd fds[2] = {
		{ .fd = dovetail_sync_fd(sync), .events = POLLIN },
		{ .fd = stop_fd, .events = POLLIN },
	};
	enum dovetail_status status;

	for (;;) {
		status = dovetail_sync_dispatch(sync);
		if (status != DOVETAIL_OK || sync_is_settled(sync))
			return status;
		if (!wait(sync, fds))
			return replica_fail(sync->replica, DOVETAIL_SYSTEM, "poll: %m");
		if (fds[1].revents != 0)
			return replica_fail(sync->replica, DOVETAIL_STOPPED, "Stopped");
	}
}

enum dovetail_status
dovetail_sync_once(struct dovetail *replica, const struct dovetail_account *account,
		   const struct dovetail_sync_options *options, const struct dovetail_callbacks *callbacks, void *context,
		   int stop_fd)
{
	struct dovetail_sync *sync;
	enum dovetail_status status;

	status = dovetail_sync_new(replica, account, options, callbacks, context, &sync);
	if (status != DOVETAIL_OK)
		return status;
	sync->once = true;
	status = once(sync, stop_fd);
	if (status == DOVETAIL_OK)
		sync_goodbye(sync);
	dovetail_sync_free(sync);
	return status;
}
