#ifndef STORE_H
#define STORE_H

/* One user's state: mailboxes' and the account's entries (the data model of
   RFC 5464), ordered by modification sequence, durable, conflict-checked.

   Plain C, no Dovecot. Callers: the metasync storage plugin (which opens one
   store per mail user) and the commands above it. Nothing above this header
   may know which engine holds the data.

   Strings are NUL-terminated. A mailbox is named by its UTF-8 name as Dovecot's
   users see it (namespace prefix included, "INBOX" in upper case); "" means
   the server, i.e. the account. An entry name is lower case and starts with
   "/private/" or "/shared/". Sizes are in bytes, times in milliseconds unless
   the name says seconds. Not thread-safe: a store belongs to one thread; any
   number of processes may have the same directory open.

   Ownership: store_open() allocates a store, the caller owns it and ends it
   with store_close(). Everything that a callback is given lives only until
   the callback returns. Everything that is passed in is the caller's and is
   not kept after the call. Nothing else is handed out. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_filter;

enum store_status {
	STORE_OK = 0,
	/* The condition does not hold; nothing was written. */
	STORE_MODIFIED,
	/* The position given is not one of this store's history (other epoch,
	   below the floor, beyond the store): forget what is known. */
	STORE_RESET,
	/* A value is larger than limits.value. */
	STORE_VALUE_TOO_BIG,
	/* More live entries than limits.entries. */
	STORE_TOO_MANY,
	/* More bytes (values and names) than limits.bytes. */
	STORE_OVER_BYTES,
	/* More changes in a set than limits.set, or a name is too long. */
	STORE_LIMIT,
	/* The request breaks a rule of this header (invalid name, the same
	   entry twice ...): a caller's mistake. */
	STORE_INVALID,
	/* Another process holds the store for longer than busy_timeout. */
	STORE_BUSY,
	/* The data are damaged. Nothing is deleted to recover. */
	STORE_CORRUPT,
	/* Written by a newer version of this library. */
	STORE_NEWER_SCHEMA,
	/* The directory or a file in it cannot be used for safety: not the
	   user's own, a link, not a regular file, on a network file system. Or
	   the store has another owner. */
	STORE_REFUSED,
	/* The operating system failed (no space, no permission, I/O error). */
	STORE_FAILED
};

/* What went wrong. message is one line for the log: it names files and system
   errors, never entries' names or values. */
struct store_error {
	enum store_status status;
	char message[512];
};

/* A position in the history. epoch is never 0; modseq starts at 1 and grows by
   one with each committed change set. */
struct store_pos {
	uint32_t epoch;
	uint64_t modseq;
};

struct store_limits {
	uint64_t value;		/* largest value */
	uint64_t entries;	/* live entries of the user */
	uint64_t bytes;		/* values and entry names of live entries */
	uint64_t name;		/* longest entry name, at most 1024 */
	uint64_t set;		/* changes in one set */
};

struct store_settings {
	/* Absolute path. Missing parts are created with mode 0700. */
	const char *dir;
	/* Whose store it is: remembered in it when it is made, and refused under
	   another name, so that two users with one directory do not see each
	   other's state. NULL: whoever comes. Not kept after store_open(). */
	const char *owner;
	/* If it is another's, it is owner's from now on, with a new epoch. */
	bool take_over;
	struct store_limits limits;
	/* How long a call may wait for another process. Default: 5000. */
	unsigned int busy_timeout_msecs;
	/* How long removals are remembered. Default: 90 days. */
	uint64_t tombstone_secs;
	/* For what an operator should know (a new epoch, a missing wake file,
	   a purge by count). NULL: nobody is told. */
	void (*log)(void *context, const char *message);
	void *log_context;
};

/* Sets the defaults: value 1 MiB, entries 10,000, bytes 16 MiB, name 1024,
   set 100, busy_timeout_msecs 5000, tombstone_secs 90 days. */
void store_settings_init(struct store_settings *set);

/* Opens the store, creating what is missing. Returns STORE_OK and the store,
   or another status and NULL, with error_r filled. */
enum store_status store_open(const struct store_settings *set,
			     struct store **store_r,
			     struct store_error *error_r);
/* Sets *store to NULL. NULL is fine. */
void store_close(struct store **store);

/* The settings with which the store was opened; live as long as it does. */
const struct store_settings *store_get_settings(const struct store *store);
/* The wake file's path: a few bytes in it are overwritten after each commit and
   before store_apply() returns. Watch it (inotify) and on an event read the
   store; what is in the file is the store's own business. The path may be
   replaced by a new file; verify it now and then. */
const char *store_get_wake_path(const struct store *store);

/* TRUE if the files are not those any more that were opened: somebody has moved
   the store away or put another one in its place. Writing fails then, and so
   does store_read() when there is nothing new; close it and open it again. */
bool store_is_replaced(struct store *store);

struct store_state {
	struct store_pos pos;
	/* The highest modseq of any purged removal: a reader who knows less
	   may have lost something. */
	uint64_t floor;
	/* Live entries, their bytes (names and values), remembered removals. */
	uint64_t entries, bytes, tombstones;
};
enum store_status store_get_state(struct store *store,
				  struct store_state *state_r,
				  struct store_error *error_r);

/* As of this handle's last transaction, without asking again. */
void store_get_last_state(const struct store *store,
			  struct store_state *state_r);

/* -- names --------------------------------------------------------------- */

enum store_name {
	STORE_NAME_OK = 0,
	STORE_NAME_INVALID,
	STORE_NAME_TOO_LONG	/* valid but for its length */
};
/* Checks an entry name of size bytes and writes it in lower case and
   NUL-terminated to dest (size + 1 bytes; may be name itself). Valid:
   0x20-0x7E without '*' and '%', below /private/ or /shared/, no empty
   component, no trailing '/'. filter: "/private" and "/shared" themselves are
   valid too. (RFC 5464 section 5, restricted.) */
enum store_name store_name_normalize(const char *name, size_t size,
				     uint64_t max_size, bool filter,
				     char *dest);

/* -- writing ------------------------------------------------------------- */

struct store_change {
	const char *mailbox;
	/* As store_name_normalize() returns it. */
	const char *name;
	/* NULL removes the entry; an empty value is a value. */
	const void *value;
	size_t value_size;
	/* Identity of the mailbox that the name stands for at this moment (16
	   bytes), remembered to notice renames and deletions by others; NULL
	   for the server or if not known. */
	const uint8_t *mailbox_guid;
};

enum store_condition_type {
	STORE_UNCONDITIONAL = 0,
	/* No live entry may exist. */
	STORE_IF_ABSENT,
	/* The entry, live or removed, must not have changed after pos. */
	STORE_IF_UNCHANGED_SINCE,
	/* No entry that filter selects, live or removed, may have changed after
	   pos, whether it is in the set or not: for rules about entries that are
	   together, such as their number. */
	STORE_IF_FILTER_UNCHANGED_SINCE
};
struct store_condition {
	enum store_condition_type type;
	struct store_pos pos;
	const struct store_filter *filter;
};

/* Commits a change set, or nothing. The set's entries share one modseq. What
   is already there byte for byte is not a change; if nothing changes, nothing
   is written, nobody is woken and *pos_r is the current position. The
   condition is checked for every entry named (or for what its filter selects),
   inside the same transaction.
   Durable when it returns STORE_OK, and the wake file has been written.

   *pos_r is the commit's position; with STORE_MODIFIED the position at which
   the condition was checked.
   lost_r: NULL, or count booleans; with STORE_MODIFIED those that broke the
   condition are true (none if it is about a filter). */
enum store_status store_apply(struct store *store,
			      const struct store_change *changes, size_t count,
			      const struct store_condition *condition,
			      struct store_pos *pos_r, bool *lost_r,
			      struct store_error *error_r);

/* For callers that tell others' changes only: remembers from now on which change
   sets this handle has committed. */
void store_own_start(struct store *store);
void store_own_stop(struct store *store);
/* TRUE if the change set was this handle's. */
bool store_is_own(const struct store *store, uint64_t modseq);
/* Sets up to modseq are not asked about any more. */
void store_own_forget(struct store *store, uint64_t modseq);

/* The mailbox is now called new_name, and so are those below it (separator:
   the hierarchy separator; '\0': the mailbox moves alone): one change set that
   removes the entries under the old names and sets them under the new ones.
   Children of "INBOX" stay.
   What existed under a new name that gets entries is replaced as a whole.
   Nothing changes if no entry exists under the old names. Limits do not apply.
   *pos_r as in store_apply(). */
enum store_status store_rename_mailbox(struct store *store,
				       const char *old_name,
				       const char *new_name, char separator,
				       struct store_pos *pos_r,
				       struct store_error *error_r);
/* Both names are the same mailbox, which some have seen under its old name and
   some under the new one: one change set that moves its entries to new_name
   alone. Of an entry that was set or removed under both, the later change
   stays. Nothing changes if no entry exists under old_name. */
enum store_status store_merge_mailbox(struct store *store,
				      const char *old_name,
				      const char *new_name,
				      struct store_pos *pos_r,
				      struct store_error *error_r);
/* Removes all entries of a mailbox (not of its children) in one change set. guid:
   only if this is the identity last seen with them; NULL: in any case. */
enum store_status store_delete_mailbox(struct store *store, const char *name,
				       const uint8_t *guid,
				       struct store_pos *pos_r,
				       struct store_error *error_r);

/* Mailboxes (not "") that have live entries, with the identity last seen with
   them (NULL if none). For comparing with what exists. The callback must not
   call the store; it returns false to stop. */
enum store_status store_list_mailboxes(struct store *store,
	bool (*callback)(const char *name, const uint8_t *guid, void *context),
	void *context, struct store_error *error_r);

/* A mailbox and its identity (16 bytes). */
struct store_mailbox {
	const char *name;
	const uint8_t *guid;
};
/* The witness: 16 bytes that the caller keeps with the store, the identity of
   something of which it wants to know later whether it is still the same. The
   store itself makes nothing of it. *known_r is false if there is none. */
enum store_status store_get_witness(struct store *store,
				    uint8_t witness_r[16], bool *known_r,
				    struct store_error *error_r);
/* Remembers it (NULL: forgets it), and in the same transaction the identities
   of mailboxes that have entries; others are left out. No change set: nobody is
   woken. */
enum store_status store_set_witness(struct store *store, const uint8_t *witness,
				    const struct store_mailbox *mailboxes,
				    size_t count, struct store_error *error_r);

/* -- reading ------------------------------------------------------------- */

struct store_entry {
	const char *mailbox, *name;
	uint64_t modseq;
	bool removed;
	/* The value's size; value is NULL if removed, or if the value is not
	   wanted or larger than wanted (struct store_read). */
	size_t value_size;
	const void *value;
};
/* Returns false to stop after this entry. Must not call the store. */
typedef bool store_entry_callback_t(const struct store_entry *entry,
				    void *context);

struct store_key {
	const char *mailbox, *name;
};
/* What is there now for each key, in order (also for those that do not exist:
   removed = true, modseq 0 unless the removal is remembered), in one read
   transaction at *pos_r. */
enum store_status store_get(struct store *store, const struct store_key *keys,
			    size_t count, store_entry_callback_t *callback,
			    void *context, struct store_pos *pos_r,
			    struct store_error *error_r);

enum store_scope_type {
	STORE_SCOPE_MAILBOX,	/* this mailbox; "" is the server */
	STORE_SCOPE_SERVER,	/* the server */
	STORE_SCOPE_PERSONAL,	/* all mailboxes, not the server */
	STORE_SCOPE_SUBTREE	/* this mailbox and all below it; of "" that is
				   everything, the server too */
};
struct store_scope {
	enum store_scope_type type;
	const char *mailbox;	/* MAILBOX, SUBTREE */
	char separator;		/* SUBTREE: hierarchy separator */
};
enum store_depth {
	STORE_DEPTH_0,		/* the entry itself */
	STORE_DEPTH_1,		/* and one component more */
	STORE_DEPTH_INFINITY	/* and all below it */
};
/* Scopes and entries that belong together. */
struct store_selection {
	const struct store_scope *scopes;
	size_t scope_count;
	const char *const *entries;
	size_t entry_count;
};
struct store_filter {
	const struct store_selection *selections;
	size_t selection_count;
	enum store_depth depth;
};
bool store_filter_match(const struct store_filter *filter,
			const char *mailbox, const char *name);

/* Where a reader is. The caller owns it and may copy it. */
struct store_cursor {
	uint32_t epoch;
	/* All changes up to (modseq, id) have been seen. */
	uint64_t modseq;
	int64_t id;
	/* Removals up to here are not of interest. */
	uint64_t tombstones_after;
};
/* A cursor for a snapshot that starts now. */
enum store_status store_cursor_snapshot(struct store *store,
					struct store_cursor *cursor_r,
					struct store_error *error_r);
/* A cursor for what came after pos. STORE_RESET if this store's history has
   no such position. A position of this epoch beyond the store proves that the
   store is an older copy: a new epoch is drawn, at most once a minute. */
enum store_status store_cursor_since(struct store *store,
				     const struct store_pos *pos,
				     struct store_cursor *cursor_r,
				     struct store_error *error_r);

struct store_read {
	const struct store_filter *filter;
	/* Values up to this size are read; 0 and empty values: see
	   without_values. */
	uint64_t max_value_size;
	/* Values are not read at all. */
	bool without_values;
};
/* Reads on from the cursor in one short read transaction, in the order of
   modseq. Calls back for each entry that the filter selects, until the
   callback returns false, or some thousands of rows have been looked at, or
   the end.
   *more_r: there may be more, call again. If it is false, no selected change
   up to state_r->pos is unread: a consistent state. The cursor moves behind
   what was read, at the end to state_r->pos. The other figures of *state_r may
   be older.
   STORE_RESET: the history is gone (new epoch, floor passed the cursor); start
   a new snapshot. */
enum store_status store_read(struct store *store, const struct store_read *req,
			     struct store_cursor *cursor,
			     store_entry_callback_t *callback, void *context,
			     struct store_state *state_r, bool *more_r,
			     struct store_error *error_r);

/* -- upkeep -------------------------------------------------------------- */

/* Work that is better done after the reply than before it: checkpoints, and
   the purge about once a day. Cheap when nothing is due. */
void store_idle(struct store *store);
/* Forgets removals before now - tombstone_secs, and the oldest ones above twice
   limits.entries; raises the floor. now: Unix time in seconds. */
enum store_status store_purge(struct store *store, int64_t now,
			      uint64_t *purged_r, struct store_error *error_r);
/* Draws a new epoch, durably: every reader starts again. For restores. */
enum store_status store_new_epoch(struct store *store, struct store_pos *pos_r,
				  struct store_error *error_r);
/* Looks at everything: the engine's own check, counters, order, names.
   STORE_CORRUPT with the first finding as message. */
enum store_status store_check(struct store *store,
			      struct store_error *error_r);

#endif
