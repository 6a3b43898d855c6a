#ifndef CLIENT_SYNC_PRIVATE_H
#define CLIENT_SYNC_PRIVATE_H

/* The sync from the inside:

	sync.c           the object, its descriptors and deadlines, dispatch, states, reconnecting
	sync-command.c   commands on their way: tags, literals, waiting for "+"
	sync-receive.c   what the parser hears: values put together, limits; who is spoken to
	sync-session.c   XMETASYNC and XMETASET
	sync-fallback.c  GETMETADATA and SETMETADATA
	sync-names.c     mailbox names
	sync-once.c      the blocking loop

   All errors of a connection go through sync_fail(), which notes what and why; sync.c looks at it after each piece of work. */

#include <limits.h>

#include "replica.h"
#include "response.h"
#include "transport.h"

/* ---- Names (sync-names.c) ---- */

/* UTF-8 to modified UTF-7 and back (RFC 3501 section 5.1.3). NULL: not valid, or no memory (errno ENOMEM). Free with free(). */
char *sync_mailbox_encode(const char *name);
char *sync_mailbox_decode(const char *wire);

/* ---- Commands (sync-command.c) ---- */

enum sync_command_kind {
	SYNC_CAPABILITY, SYNC_XMETASYNC, SYNC_XMETASET,
	/* fallback */
	SYNC_NAMESPACE, SYNC_LIST, SYNC_LOOK, SYNC_COMPARE, SYNC_SETMETADATA
};

/* An entry of a write that is under way, and what the server has there. Owns its strings. */
struct sync_theirs {
	char *mailbox, *name;
	bool told;
	enum replica_kind kind;
	char *data;
	size_t size;
	/* of what is written */
	size_t mine_size;
};

struct sync_command {
	struct sync_command *next;
	enum sync_command_kind kind;
	char tag[12];
	/* what is to be sent; freed when it has been. sent: how much of it */
	char *data;
	size_t size, sent;
	/* where the server has to say "+" before more is sent: the ends of literals' announcements */
	size_t *stops;
	unsigned int stop_count, stop;
	/* XMETASET, SETMETADATA, COMPARE: the set in the queue, and its entries */
	int64_t set_id;
	struct sync_theirs *theirs;
	size_t theirs_count;
};

struct dovetail_sync;
struct sync_writer;
/* Builds a command. Errors (no memory) show at the end. prefix: what goes before the tag ("DONE\r\n", or ""). */
struct sync_writer *
sync_command_begin(struct dovetail_sync *sync, enum sync_command_kind kind, const char *prefix);
void sync_command_text(struct sync_writer *writer, const char *text);
/* quoted, or a literal if it is long */
void sync_command_name(struct sync_writer *writer, const char *name);
/* in UTF-8 */
void sync_command_mailbox(struct sync_writer *writer, const char *mailbox);
/* data NULL: NIL */
void sync_command_value(struct sync_writer *writer, const void *data, size_t size);
/* Remembers the entries of a set, for what the server tells of them. */
void sync_command_set(struct sync_writer *writer, const struct replica_set *set);
/* Queues it, sends what can be sent. NULL: sync_fail() was called. */
struct sync_command *sync_command_end(struct dovetail_sync *sync, struct sync_writer *writer);
/* Sends on, as far as the server lets us. */
void sync_commands_flush(struct dovetail_sync *sync);
/* "+" has come: false if nobody waits for it */
bool sync_commands_continue(struct dovetail_sync *sync);
/* The oldest is done with. */
void sync_commands_pop(struct dovetail_sync *sync);
void sync_commands_drop(struct dovetail_sync *sync);

/* ---- The object (sync.c) ---- */

enum sync_phase {
	/* no connection; next_try says when there will be one */
	SYNC_PHASE_OFFLINE,
	SYNC_PHASE_CONNECTING,
	/* CAPABILITY is under way; all that comes before its answer is not looked at */
	SYNC_PHASE_GREETING,
	SYNC_PHASE_SESSION,
	SYNC_PHASE_FALLBACK,
	/* ended by an error that stays */
	SYNC_PHASE_FAILED
};

/* What fallback does now. */
enum sync_fallback_step {
	SYNC_FALLBACK_REST, SYNC_FALLBACK_LISTING, SYNC_FALLBACK_LOOKING, SYNC_FALLBACK_COMPARING, SYNC_FALLBACK_WRITING
};

/* A namespace of mailboxes; the prefix is in UTF-8, owned. */
struct sync_namespace {
	char *prefix;
	bool personal;
};

struct sync_fallback {
	enum sync_fallback_step step;
	/* from NAMESPACE, in this look */
	struct sync_namespace *namespaces;
	size_t namespace_count;
	/* from LIST, in UTF-8; owned */
	char **mailboxes;
	size_t mailbox_count, mailbox_alloc, mailbox_bytes;
	/* the next pair to look at */
	size_t part, mailbox;
	/* answers that are to come, but for LIST's */
	unsigned int waiting;
	/* the notice was given */
	bool told;
};

struct dovetail_sync {
	struct dovetail *replica;
	struct dovetail_sync_options options;
	struct dovetail_callbacks callbacks;
	void *context;
	int64_t timeout;
	/* ends with the first error, whatever it is (sync-once.c) */
	bool once;

	int epoll_fd, timer_fd, replica_fd;
	/* replica_sync_begin() */
	bool begun;
	struct transport *transport;
	struct response_parser *parser;

	enum sync_phase phase;
	enum dovetail_state state;
	bool dispatching;

	/* the error that ends this connection; for good: no reconnect */
	enum dovetail_status failure;
	bool failure_stays;
	char failure_text[512];

	/* Deadlines and times, ms of CLOCK_BOOTTIME: what was due while the machine slept is due. */
	int64_t next_try, heard, next_poll, next_write;
	/* BOOTTIME - MONOTONIC at the last look: grows when the machine has slept */
	int64_t slept;
	unsigned int backoff, write_backoff;
	bool hurry, more;
	/* others may have set other parts */
	bool woken;
	size_t unsent;

	/* This connection. */
	bool literal_plus, literal_minus, has_xmetasync, has_metadata, has_metadata_server, has_namespace;
	unsigned int tag;
	/* all that is not answered, oldest first; sending: the first that is not sent in full; waiting: for "+" */
	struct sync_command *commands, *commands_tail, *sending;
	bool waiting;
	/* XMETASYNC waits for changes ("+ idling"), and DONE has not been sent */
	bool idling;
	/* a consistent state has come since the last XMETASYNC was sent; in this connection */
	bool consistent, connected_consistent;
	/* something was staged since the last marker */
	bool staged;
	/* the XMETASYNC that was sent last begins a snapshot; a mailbox of the parts does not exist, so that one was refused */
	bool snapshot, mailbox_missing;
	/* [XMETASYNC RESET] since the last marker */
	unsigned int resets;
	/* rounds of writes of which none was accepted; what this round had; the server's word */
	unsigned int lost_rounds;
	bool round_won, round_lost, stuck;
	char later_text[256];
	struct replica_position position;

	/* the value that comes */
	char *mailbox, *name;
	bool wanted;
	enum replica_kind kind;
	char *value;
	size_t value_size, value_alloc;
	/* Since the last marker, for the limits; up to the last PARTIAL one: what is staged for good. In this connection, for
	   progress(). */
	uint64_t staged_entries, staged_bytes, partial_entries, partial_bytes;
	/* what the replica has, at most, since it was counted */
	bool counted;
	uint64_t entries_at_most, bytes_at_most;
	uint64_t received_entries, received_bytes;
	bool progressed;

	struct sync_fallback fallback;
};

/* Ms of CLOCK_BOOTTIME. */
int64_t sync_now(void);
/* Notes the first error of this connection; stays: reconnecting does not help. Returns false, for callers that end with it. */
bool sync_fail(struct dovetail_sync *sync, enum dovetail_status status, bool stays, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* After a function of the replica: true if it was OK, else it has failed, with the replica's text. A lock that others hold
   passes. */
bool sync_replica_ok(struct dovetail_sync *sync, enum dovetail_status status);
void sync_state(struct dovetail_sync *sync, enum dovetail_state state, enum dovetail_status status, const char *text);
void sync_notice(struct dovetail_sync *sync, enum dovetail_notice notice, const char *mailbox, const char *entry,
		 const char *text);
/* What is staged becomes the state: callbacks. mark "" in fallback. */
bool sync_apply(struct dovetail_sync *sync, const char *mark);
/* The change callback, for what the user sees differently by now. */
bool sync_tell_changes(struct dovetail_sync *sync);
/* Something is to be sent, and it is time for it. */
bool sync_may_write(struct dovetail_sync *sync);
/* Writes have to wait, longer each time; later_text says why. */
void sync_write_later(struct dovetail_sync *sync);
/* Once after each waking: has the replica other parts than the server was asked for? Then it is to be asked again. */
bool sync_parts_changed(struct dovetail_sync *sync);
/* There are writes that cannot be sent now, and nothing that comes from the server changes that. */
void sync_write_stuck(struct dovetail_sync *sync);
/* Nothing is under way, and nothing waits. */
bool sync_is_settled(struct dovetail_sync *sync);

/* ---- Receiving (sync-receive.c) ---- */

bool sync_receive_begin(struct dovetail_sync *sync);
void sync_receive_end(struct dovetail_sync *sync);
/* Reads and handles what has come, at most a bounded amount (sync->more: there may be more). */
void sync_receive(struct dovetail_sync *sync);

enum sync_answer {
	SYNC_ANSWER_OK,
	/* worth trying again */
	SYNC_ANSWER_LATER,
	/* it will be the same the next time */
	SYNC_ANSWER_REFUSED
};
enum sync_answer sync_answer(const struct response_status *status);

/* ---- Sessions ---- A tagged answer to the oldest command, which is freed afterwards. */

void sync_session_begin(struct dovetail_sync *sync);
/* after each piece of work: sends writes, a sign of life */
void sync_session_go(struct dovetail_sync *sync, bool probe);
bool sync_session_status(struct dovetail_sync *sync, const struct response_status *status);
bool sync_session_tagged(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status);
bool sync_session_entry(struct dovetail_sync *sync);
/* Ends a connection on which nothing is under way. */
void sync_goodbye(struct dovetail_sync *sync);
/* The entry that has come, if the command's set has it. */
bool sync_theirs_entry(struct dovetail_sync *sync, struct sync_command *command);
enum dovetail_status sync_queue_next(struct dovetail_sync *sync, int64_t after, struct replica_set *set_r);
/* The server will not take the command's set. */
bool sync_set_refused(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status);

void sync_fallback_begin(struct dovetail_sync *sync);
void sync_fallback_go(struct dovetail_sync *sync, bool look);
bool sync_fallback_tagged(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status);
bool sync_fallback_entry(struct dovetail_sync *sync, struct sync_command *command);
bool sync_fallback_namespace(struct dovetail_sync *sync, bool personal, const char *prefix);
bool sync_fallback_list(struct dovetail_sync *sync, const char *flags, const char *mailbox);
void sync_fallback_end(struct dovetail_sync *sync);

#endif
