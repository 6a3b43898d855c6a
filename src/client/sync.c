/* The sync of include/dovetail.h: the object and the caller's event loop. One epoll descriptor for the caller, in which are the
   transport's, the replica's (somebody has written) and a timer; deadlines; states; reconnecting. What is said on the connection is
   in sync-session.c and sync-fallback.c. The sync owns all of these and borrows the replica. */

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "crypt.h"
#include "sync-private.h"

#define BACKOFF_FIRST 1000
/* how often to look for what cannot be sent, or whether others have written if nothing tells it */
#define STUCK_INTERVAL 30000
#define LOOK_INTERVAL 1000
/* a machine that was away for longer has slept */
#define SLEPT_MIN 2000
#define NEVER INT64_MAX

static int64_t clock_ms(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t sync_now(void)
{
	return clock_ms(CLOCK_BOOTTIME);
}

/* ---- Telling ---- */

bool sync_fail(struct dovetail_sync *sync, enum dovetail_status status, bool stays, const char *format, ...)
{
	va_list args;

	if (sync->failure != DOVETAIL_OK)
		return false;
	sync->failure = status == DOVETAIL_OK ? DOVETAIL_NETWORK : status;
	sync->failure_stays = stays;
	va_start(args, format);
	vsnprintf(sync->failure_text, sizeof(sync->failure_text), format, args);
	va_end(args);
	return false;
}

bool sync_replica_ok(struct dovetail_sync *sync, enum dovetail_status status)
{
	if (status == DOVETAIL_OK)
		return true;
	/* others have locked the file for long, or the server has sent a name that is none */
	return sync_fail(sync, status, status != DOVETAIL_BUSY && status != DOVETAIL_PROTOCOL, "%s", dovetail_error(sync->replica));
}

void sync_state(struct dovetail_sync *sync, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	if (sync->state == state && status == DOVETAIL_OK)
		return;
	sync->state = state;
	if (sync->callbacks.state != NULL)
		sync->callbacks.state(sync->context, state, status, text);
}

void sync_notice(struct dovetail_sync *sync, enum dovetail_notice notice, const char *mailbox, const char *entry,
		 const char *text)
{
	if (sync->callbacks.notice != NULL)
		sync->callbacks.notice(sync->context, notice, mailbox, entry, text);
}

static void tell_progress(struct dovetail_sync *sync)
{
	if (!sync->progressed || sync->state != DOVETAIL_STATE_SYNCING)
		return;
	sync->progressed = false;
	if (sync->callbacks.progress != NULL) {
		sync->callbacks.progress(sync->context, sync->received_entries, sync->received_bytes,
					 replica_queue_count(sync->replica));
	}
}

bool sync_tell_changes(struct dovetail_sync *sync)
{
	struct dovetail_entry entry;
	enum dovetail_status status;

	if (sync->callbacks.change == NULL)
		return sync_replica_ok(sync, replica_changed_forget(sync->replica));
	while ((status = replica_changed_next(sync->replica, &entry)) == DOVETAIL_OK)
		sync->callbacks.change(sync->context, &entry);
	return status == DOVETAIL_NOT_FOUND || sync_replica_ok(sync, status);
}

/* What is here is counted only if it may be too much: counting reads everything. */
static bool within_limits(struct dovetail_sync *sync)
{
	struct dovetail_counts counts;

	if (sync->counted && sync->entries_at_most <= sync->options.max_entries && sync->bytes_at_most <= sync->options.max_bytes)
		return true;
	if (!sync_replica_ok(sync, dovetail_get_counts(sync->replica, &counts)))
		return false;
	sync->counted = true;
	sync->entries_at_most = counts.entries;
	sync->bytes_at_most = counts.bytes;
	if (counts.entries > sync->options.max_entries || counts.bytes > sync->options.max_bytes) {
		return sync_fail(sync, DOVETAIL_LIMIT, true, "There are %llu entries of %llu octets; %llu and %llu are allowed",
				 (unsigned long long)counts.entries, (unsigned long long)counts.bytes,
				 (unsigned long long)sync->options.max_entries, (unsigned long long)sync->options.max_bytes);
	}
	return true;
}

static void on_crypt_notice(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	sync_notice(context, notice, mailbox, entry, text);
}

bool sync_apply(struct dovetail_sync *sync, const char *mark)
{
	bool reset;

	tell_progress(sync);
	if (!sync_replica_ok(sync, replica_stage_consistent(sync->replica, mark, sync->options.max_removals, &reset)))
		return false;
	sync->entries_at_most += sync->staged_entries;
	sync->bytes_at_most += sync->staged_bytes;
	sync->staged = sync->stuck = false;
	sync->staged_entries = sync->staged_bytes = sync->partial_entries = sync->partial_bytes = 0;
	/* keys may have come, which make values readable */
	if (!sync_replica_ok(sync, crypt_replica_step(sync->replica, on_crypt_notice, sync)) || !sync_tell_changes(sync))
		return false;
	/* in fallback each look is a snapshot */
	if (sync->callbacks.consistent != NULL)
		sync->callbacks.consistent(sync->context, reset && *mark != '\0');
	return within_limits(sync);
}

/* ---- Time ---- */

/* ms +-20 % */
static int64_t jitter(int64_t ms)
{
	unsigned int n = 0;

	/* without it: not at random, which is better than not at all */
	if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != sizeof(n))
		n = 500;
	return ms * (800 + n % 401) / 1000;
}

static unsigned int next_backoff(const struct dovetail_sync *sync, unsigned int backoff)
{
	unsigned int next = backoff == 0 ? BACKOFF_FIRST : backoff >= UINT_MAX / 2 ? UINT_MAX : backoff * 2;

	return next < sync->options.max_backoff ? next : sync->options.max_backoff;
}

bool sync_may_write(struct dovetail_sync *sync)
{
	return sync->failure == DOVETAIL_OK && replica_queue_count(sync->replica) > 0 && sync_now() >= sync->next_write;
}

bool sync_parts_changed(struct dovetail_sync *sync)
{
	bool same;

	if (!sync->woken)
		return false;
	sync->woken = false;
	return sync_replica_ok(sync, replica_watch_check(sync->replica, sync->phase == SYNC_PHASE_SESSION, &same)) && !same;
}

void sync_write_stuck(struct dovetail_sync *sync)
{
	sync->stuck = true;
	sync->next_write = sync_now() + STUCK_INTERVAL;
}

void sync_write_later(struct dovetail_sync *sync)
{
	const char *text = *sync->later_text != '\0' ? sync->later_text : "others write the same entries all the time";

	if (sync->once) {
		sync_fail(sync, DOVETAIL_REFUSED, true, "The server does not take what is to be written: %s", text);
		return;
	}
	sync->write_backoff = next_backoff(sync, sync->write_backoff);
	sync->next_write = sync_now() + jitter(sync->write_backoff);
	sync_state(sync, sync->state, DOVETAIL_REFUSED, text);
	*sync->later_text = '\0';
}

bool sync_is_settled(struct dovetail_sync *sync)
{
	if (sync->failure != DOVETAIL_OK || !sync->consistent || (replica_queue_count(sync->replica) > 0 && !sync->stuck))
		return false;
	if (sync->phase == SYNC_PHASE_SESSION)
		return sync->idling;
	return sync->phase == SYNC_PHASE_FALLBACK && sync->fallback.step == SYNC_FALLBACK_REST && sync->commands == NULL;
}

static bool is_answer_due(const struct dovetail_sync *sync)
{
	return sync->commands != NULL && !(sync->idling && sync->consistent);
}

/* When dispatch() has to be called. */
static int64_t next_deadline(const struct dovetail_sync *sync)
{
	int64_t deadline = NEVER, now = sync_now();
	int ms;

	switch (sync->phase) {
	case SYNC_PHASE_OFFLINE:
		return sync->next_try;
	case SYNC_PHASE_FAILED:
		return NEVER;
	case SYNC_PHASE_CONNECTING:
		break;
	case SYNC_PHASE_GREETING:
	case SYNC_PHASE_SESSION:
	case SYNC_PHASE_FALLBACK:
		if (is_answer_due(sync))
			deadline = sync->heard + sync->timeout;
		else if (sync->phase == SYNC_PHASE_SESSION)
			deadline = sync->heard + sync->options.keepalive;
		else if (sync->phase == SYNC_PHASE_FALLBACK)
			deadline = sync->next_poll;
		if (!is_answer_due(sync) && replica_queue_count(sync->replica) > 0 && sync->next_write < deadline)
			deadline = sync->next_write;
		if (sync->replica_fd == -1 && now + LOOK_INTERVAL < deadline)
			deadline = now + LOOK_INTERVAL;
		break;
	}
	ms = transport_timeout(sync->transport);
	return ms >= 0 && now + ms < deadline ? now + ms : deadline;
}

int dovetail_sync_timeout(const struct dovetail_sync *sync)
{
	int64_t deadline, left;

	if (sync->hurry || sync->more)
		return 0;
	deadline = next_deadline(sync);
	if (deadline == NEVER)
		return -1;
	left = deadline - sync_now();
	return left < 0 ? 0 : left > INT_MAX ? INT_MAX : left;
}

/* poll() does not count the time that a machine sleeps; this timer does, and wakes the caller when it is back. */
static void set_timer(struct dovetail_sync *sync)
{
	struct itimerspec when;
	int64_t deadline = next_deadline(sync);

	memset(&when, 0, sizeof(when));
	if (deadline != NEVER) {
		/* 0 would be never; dovetail_sync_timeout() says in time what is due now */
		if (deadline <= sync_now())
			return;
		when.it_value.tv_sec = deadline / 1000;
		when.it_value.tv_nsec = deadline % 1000 * 1000000;
	}
	timerfd_settime(sync->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void clear_timer(struct dovetail_sync *sync)
{
	uint64_t expired;

	if (read(sync->timer_fd, &expired, sizeof(expired)) < 0 && errno != EAGAIN)
		sync_fail(sync, DOVETAIL_SYSTEM, true, "timerfd: %m");
}

/* ---- The connection ---- */

static void disconnect(struct dovetail_sync *sync)
{
	struct sync_command *command;

	transport_close(sync->transport);
	for (command = sync->commands; command != NULL; command = command->next) {
		if (command->kind == SYNC_XMETASET || command->kind == SYNC_SETMETADATA)
			sync_replica_ok(sync, replica_queue_again(sync->replica, command->set_id));
	}
	sync_commands_drop(sync);
	sync_receive_end(sync);
	sync_fallback_end(sync);
	/* what came since the last marker is not a state that the server was in */
	if (sync->phase == SYNC_PHASE_SESSION || sync->phase == SYNC_PHASE_FALLBACK)
		sync_replica_ok(sync, replica_stage_drop(sync->replica));
	sync->staged = sync->idling = sync->consistent = sync->more = false;
	sync->unsent = 0;
}

static void connect_begins(struct dovetail_sync *sync)
{
	const struct dovetail_part *parts;
	size_t count;

	if (!sync_replica_ok(sync, dovetail_get_parts(sync->replica, &parts, &count)))
		return;
	if (count == 0) {
		sync_fail(sync, DOVETAIL_INVALID, true, "Nothing is to be synchronized: dovetail_set_parts() was not called");
		return;
	}
	sync->phase = SYNC_PHASE_CONNECTING;
	sync->connected_consistent = sync->mailbox_missing = false;
	sync->lost_rounds = sync->write_backoff = sync->resets = 0;
	sync->next_write = 0;
	sync->literal_plus = sync->literal_minus = sync->has_xmetasync = sync->has_metadata = sync->has_metadata_server =
		sync->has_namespace = false;
	sync_state(sync, DOVETAIL_STATE_CONNECTING, DOVETAIL_OK, "");
	transport_connect(sync->transport);
}

/* What libcurl has left unread of the login comes first, up to the answer to this. */
static void greeting_begins(struct dovetail_sync *sync)
{
	struct sync_writer *writer;

	sync->phase = SYNC_PHASE_GREETING;
	if (!sync_receive_begin(sync))
		return;
	writer = sync_command_begin(sync, SYNC_CAPABILITY, "");
	sync_command_text(writer, " CAPABILITY");
	sync_command_end(sync, writer);
}

static void work_on_connection(struct dovetail_sync *sync)
{
	size_t unsent;

	switch (transport_dispatch(sync->transport)) {
	case TRANSPORT_NOTHING:
	case TRANSPORT_READABLE:
		break;
	case TRANSPORT_CONNECTED:
		greeting_begins(sync);
		break;
	case TRANSPORT_FAILED:
		sync_fail(sync, transport_status(sync->transport),
			  transport_status(sync->transport) != DOVETAIL_NETWORK, "%s", transport_error(sync->transport));
		return;
	}
	if (sync->phase == SYNC_PHASE_CONNECTING || sync->failure != DOVETAIL_OK)
		return;
	sync_receive(sync);
	if (sync->failure != DOVETAIL_OK)
		return;
	/* what the server takes is a sign of life as well */
	unsent = transport_unsent(sync->transport);
	if (unsent < sync->unsent)
		sync->heard = sync_now();
	sync->unsent = unsent;
}

/* What is due on a connection that works. */
static void go_on(struct dovetail_sync *sync)
{
	int64_t now = sync_now();
	bool hurry = sync->hurry;

	/* on its way to the server, or waiting for an answer: that is as much as can be done */
	sync->hurry = false;
	if (sync->failure != DOVETAIL_OK || sync->phase == SYNC_PHASE_CONNECTING)
		return;
	if (is_answer_due(sync)) {
		if (now >= sync->heard + sync->timeout) {
			sync_fail(sync, DOVETAIL_NETWORK, false, "The server has not answered for %lld ms",
				  (long long)(now - sync->heard));
		}
		return;
	}
	if (hurry)
		sync->next_write = 0;
	if (sync->phase == SYNC_PHASE_SESSION)
		sync_session_go(sync, hurry || now >= sync->heard + sync->options.keepalive);
	else if (sync->phase == SYNC_PHASE_FALLBACK)
		sync_fallback_go(sync, hurry);
	if (sync->connected_consistent)
		sync->backoff = 0;
}

/* ---- Dispatch ---- */

static enum dovetail_status connection_ends(struct dovetail_sync *sync)
{
	char text[sizeof(sync->failure_text)];
	enum dovetail_status status;
	bool stays;

	/* while there is a failure, what fails in disconnect() is not noted */
	disconnect(sync);
	status = sync->failure;
	stays = sync->failure_stays || sync->once;
	memcpy(text, sync->failure_text, sizeof(text));
	sync->failure = DOVETAIL_OK;
	sync->hurry = false;
	replica_fail(sync->replica, status, "%s", text);
	if (stays) {
		sync->phase = SYNC_PHASE_FAILED;
		sync_state(sync, DOVETAIL_STATE_FAILED, status, text);
		/* the callback may have used the replica */
		return replica_fail(sync->replica, status, "%s", text);
	}
	sync->phase = SYNC_PHASE_OFFLINE;
	sync->backoff = next_backoff(sync, sync->backoff);
	sync->next_try = sync_now() + jitter(sync->backoff);
	sync_state(sync, DOVETAIL_STATE_OFFLINE, status, text);
	return DOVETAIL_OK;
}

/* A machine that has slept does not wait for what was planned before. */
static void notice_sleep(struct dovetail_sync *sync)
{
	int64_t slept = sync_now() - clock_ms(CLOCK_MONOTONIC);

	if (slept > sync->slept + SLEPT_MIN)
		sync->hurry = true;
	sync->slept = slept;
}

static void notice_writes(struct dovetail_sync *sync)
{
	struct pollfd replica = { .fd = sync->replica_fd, .events = POLLIN };

	if (sync->replica_fd != -1 && poll(&replica, 1, 0) <= 0)
		return;
	replica_sync_fd_clear(sync->replica);
	sync->woken = true;
	if (sync->replica_fd == -1)
		return;
	if (sync->stuck) {
		sync->stuck = false;
		sync->next_write = 0;
	}
}

static enum dovetail_status dispatch(struct dovetail_sync *sync)
{
	clear_timer(sync);
	notice_sleep(sync);
	notice_writes(sync);
	if (sync->phase == SYNC_PHASE_FAILED) {
		sync->phase = SYNC_PHASE_OFFLINE;
		sync->next_try = 0;
	}
	if (sync->phase == SYNC_PHASE_OFFLINE && (sync->hurry || sync_now() >= sync->next_try)) {
		sync->hurry = false;
		connect_begins(sync);
	}
	if (sync->phase == SYNC_PHASE_OFFLINE && sync->failure == DOVETAIL_OK)
		return DOVETAIL_OK;
	if (sync->failure == DOVETAIL_OK)
		work_on_connection(sync);
	go_on(sync);
	tell_progress(sync);
	return sync->failure == DOVETAIL_OK ? DOVETAIL_OK : connection_ends(sync);
}

enum dovetail_status dovetail_sync_dispatch(struct dovetail_sync *sync)
{
	enum dovetail_status status;

	if (sync->dispatching)
		return replica_fail(sync->replica, DOVETAIL_INVALID, "dovetail_sync_dispatch() was called from a callback");
	sync->dispatching = true;
	status = dispatch(sync);
	sync->dispatching = false;
	set_timer(sync);
	return status;
}

void dovetail_sync_hurry(struct dovetail_sync *sync)
{
	sync->hurry = true;
}

enum dovetail_state dovetail_sync_state(const struct dovetail_sync *sync)
{
	return sync->state;
}

int dovetail_sync_fd(const struct dovetail_sync *sync)
{
	return sync->epoll_fd;
}

/* ---- The object ---- */

static void set_options(struct dovetail_sync *sync, const struct dovetail_sync_options *options,
			const struct dovetail_callbacks *callbacks)
{
	struct dovetail_sync_options *o = &sync->options;

	if (options != NULL)
		*o = *options;
	if (callbacks != NULL)
		sync->callbacks = *callbacks;
	if (o->poll_interval == 0)
		o->poll_interval = 60000;
	if (o->keepalive == 0)
		o->keepalive = 180000;
	if (o->max_value == 0)
		o->max_value = 16 * 1024 * 1024;
	if (o->max_entries == 0)
		o->max_entries = 1000000;
	if (o->max_bytes == 0)
		o->max_bytes = 1024 * 1024 * 1024;
	if (o->max_backoff == 0)
		o->max_backoff = 300000;
}

static bool add_fd(struct dovetail_sync *sync, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return fd == -1 || epoll_ctl(sync->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static enum dovetail_status sync_init(struct dovetail_sync *sync, const struct dovetail_account *account)
{
	enum dovetail_status status;
	char *error = NULL;

	sync->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	sync->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
	if (sync->epoll_fd == -1 || sync->timer_fd == -1)
		return replica_fail(sync->replica, DOVETAIL_SYSTEM, "Descriptors for the sync: %m");
	status = replica_sync_begin(sync->replica);
	if (status != DOVETAIL_OK)
		return status;
	sync->begun = true;
	sync->replica_fd = replica_sync_fd(sync->replica);
	if (!add_fd(sync, sync->timer_fd) || !add_fd(sync, sync->replica_fd))
		return replica_fail(sync->replica, DOVETAIL_SYSTEM, "epoll: %m");
	status = transport_new(account, sync->epoll_fd, &sync->transport, &error);
	if (status != DOVETAIL_OK)
		replica_fail(sync->replica, status, "%s", error != NULL ? error : "out of memory");
	free(error);
	return status;
}

enum dovetail_status
dovetail_sync_new(struct dovetail *replica, const struct dovetail_account *account,
		  const struct dovetail_sync_options *options, const struct dovetail_callbacks *callbacks, void *context,
		  struct dovetail_sync **sync_r)
{
	struct dovetail_sync *sync;
	enum dovetail_status status;

	*sync_r = NULL;
	if (options != NULL && (options->rule < DOVETAIL_RULE_LINES || options->rule >= DOVETAIL_RULE_VALUE))
		return replica_fail(replica, DOVETAIL_INVALID, "The rule for conflicts is none that can be a default");
	sync = calloc(1, sizeof(*sync));
	if (sync == NULL)
		return replica_fail(replica, DOVETAIL_SYSTEM, "Out of memory");
	sync->replica = replica;
	sync->context = context;
	sync->epoll_fd = sync->timer_fd = sync->replica_fd = -1;
	sync->timeout = account->timeout == 0 ? 30000 : account->timeout;
	sync->slept = sync_now() - clock_ms(CLOCK_MONOTONIC);
	set_options(sync, options, callbacks);
	status = sync_init(sync, account);
	if (status == DOVETAIL_OK)
		*sync_r = sync;
	else
		dovetail_sync_free(sync);
	return status;
}

void dovetail_sync_free(struct dovetail_sync *sync)
{
	if (sync == NULL)
		return;
	if (sync->transport != NULL)
		disconnect(sync);
	transport_free(sync->transport);
	if (sync->begun)
		replica_sync_end(sync->replica);
	if (sync->timer_fd != -1)
		close(sync->timer_fd);
	if (sync->epoll_fd != -1)
		close(sync->epoll_fd);
	free(sync);
}
