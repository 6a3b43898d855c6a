#ifndef DOVETAIL_H
#define DOVETAIL_H

/* libdovetail: a mail client's own state, in step between all devices of a user, through their mail account.

   A replica is a file with a copy of that state. Reading needs no network; writing goes into the replica and into
   a queue that survives crashes; syncing sends the queue and brings what others have changed. docs/client.md is the tutorial,
   docs/protocol.md what goes over the wire.

   The data model is that of RFC 5464: the account (mailbox "") and each mailbox have entries, named "/private/..." or
   "/shared/...", with values of any octets. An empty value is a value.

   Strings are NUL-terminated UTF-8. Mailbox names are UTF-8 as the user sees them; "INBOX" in any case of letters is INBOX.
   Entry names are octets 0x20-0x7e without '*', '%'; 'A'-'Z' are the same as 'a'-'z' (kept in lower case); no empty component,
   no '/' at the end; at most 1024 octets. Sizes are octets, times milliseconds unless a name says otherwise.

   Ownership: what you get as a const pointer belongs to the library and lives as its function says; what you get through a
   non-const pointer is yours, and its free function is named there. What you pass in is copied before the function returns, if
   it is needed longer.

   Threads: the library starts none of its own (libcurl may look up a host's name in one) and has no global state. A replica, its
   iterators and its sync are for one thread at a time; two replicas are independent. (curl_global_init() and sodium_init() are
   called once, under a lock, when they are first needed.) After fork() the child must not use what its parent has opened. Several
   processes, or several replicas in one, may open the same file: all may read and write, one at a time syncs, and the one that
   syncs notices what others write.

   Errors: functions that can fail return enum dovetail_status, and dovetail_error() has one line of text on what
   happened. Nothing is half-done when a function fails. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DOVETAIL_VERSION_MAJOR 0
#define DOVETAIL_VERSION_MINOR 1
#define DOVETAIL_VERSION_PATCH 0

/* The version of the library that runs, "0.1.0". Static. */
const char *dovetail_version(void);

enum dovetail_status {
	DOVETAIL_OK = 0,
	/* no such entry, no such key; an iterator has no more */
	DOVETAIL_NOT_FOUND,
	/* an argument breaks a rule of this header */
	DOVETAIL_INVALID,
	/* a limit of the replica or of the server: size, count, bytes */
	DOVETAIL_LIMIT,
	/* another process syncs this replica, or its file was locked for longer than the time-out */
	DOVETAIL_BUSY,
	/* the replica's file: cannot be opened, not ours, damaged, newer than this library, removed or replaced while it was
	   open */
	DOVETAIL_REPLICA,
	/* memory, disk, a failed system call */
	DOVETAIL_SYSTEM,
	/* cannot connect, connection lost, time-out; worth trying again */
	DOVETAIL_NETWORK,
	/* the certificate or the TLS connection is not as it has to be */
	DOVETAIL_TLS,
	/* user name, password or token was refused, or its command failed */
	DOVETAIL_LOGIN,
	/* the server has neither XMETASYNC nor METADATA */
	DOVETAIL_UNSUPPORTED,
	/* the server says what the protocol does not allow, or more than the limits */
	DOVETAIL_PROTOCOL,
	/* the server refused: rights, quota, no such mailbox */
	DOVETAIL_REFUSED,
	/* an encrypted subtree is locked: no key was given */
	DOVETAIL_LOCKED,
	/* the passphrase or key file opens none of the subtree's keys */
	DOVETAIL_WRONG_KEY,
	/* an encrypted value was damaged, or put where it does not belong */
	DOVETAIL_DAMAGED,
	/* a RESET or an emptied server would remove more than the caller allows; see dovetail_sync_options */
	DOVETAIL_MASS_REMOVAL,
	/* the callback asked for the end */
	DOVETAIL_STOPPED
};

/* A word for a status, e.g. "limit". Static. */
const char *dovetail_status_name(enum dovetail_status status);

/* ---- The replica ---- */

struct dovetail;

enum dovetail_open_flags {
	/* make the file (mode 0600) if there is none */
	DOVETAIL_OPEN_CREATE = 1,
	/* no writing at all, for looking */
	DOVETAIL_OPEN_READONLY = 2
};

/* Opens a replica. On failure *replica_r is NULL and *error_r (may be NULL) has the text; free it with free(). The file is not
   opened through a symbolic link and has to be the caller's own. dovetail_close() ends it; NULL is fine. */
enum dovetail_status
dovetail_open(const char *path, unsigned int flags, struct dovetail **replica_r, char **error_r);
void dovetail_close(struct dovetail *replica);
/* The text to the last failure of a function with this replica (or its iterators, change sets, sync). Valid until the next call.
   Never NULL. */
const char *dovetail_error(const struct dovetail *replica);

/* What the replica covers. A part is an entry and all below it, in one scope. A mailbox that does not exist is empty, until it is
   made. */
enum dovetail_scope {
	/* the account ("") or one mailbox, as .mailbox says */
	DOVETAIL_SCOPE_MAILBOX = 0,
	/* all the user's own mailboxes (without the account); .mailbox is NULL */
	DOVETAIL_SCOPE_PERSONAL,
	/* the mailbox and all below it */
	DOVETAIL_SCOPE_SUBTREE
};
struct dovetail_part {
	enum dovetail_scope scope;
	const char *mailbox;
	const char *entry;
};
/* Sets the parts (1 to 100, kept in the replica). What is no longer covered is forgotten, unless writes on it wait: INVALID
   then. Newly covered is brought by the next sync. */
enum dovetail_status
dovetail_set_parts(struct dovetail *replica, const struct dovetail_part *parts, size_t count);
/* *parts_r has *count_r parts and is valid until the next call with this replica. */
enum dovetail_status
dovetail_get_parts(struct dovetail *replica, const struct dovetail_part **parts_r, size_t *count_r);

/* ---- Reading ---- */

enum dovetail_entry_flags {
	/* there is a write on it that the server has not acknowledged */
	DOVETAIL_ENTRY_PENDING = 1,
	/* its last write was refused by the server for good (dovetail_refused_each() says why); the server's value is shown */
	DOVETAIL_ENTRY_REFUSED = 2,
	/* larger than the limit: the value is not in the replica */
	DOVETAIL_ENTRY_NOT_HERE = 4,
	/* encrypted, and no key was given: no value */
	DOVETAIL_ENTRY_LOCKED = 8,
	/* encrypted, and damaged, moved or rolled back: no value */
	DOVETAIL_ENTRY_DAMAGED = 16
};

struct dovetail_entry {
	/* "" is the account */
	const char *mailbox;
	const char *name;
	/* A NUL follows the value, not counted in size. data is NULL if there is no value: removed (only in changes and conflicts),
	   or one of the flags says why. */
	const void *data;
	size_t size;
	unsigned int flags;
	/* a position at which the server had this value: that of the change, or of the snapshot's marker that brought it; 0 if it
	   was never there or the server tells no positions */
	uint64_t modseq;
};

/* The entry as the user sees it: with local writes. *entry_r is valid until the next call with this replica. NOT_FOUND: no such
   entry, or outside of what is covered (INVALID). */
enum dovetail_status
dovetail_get(struct dovetail *replica, const char *mailbox, const char *name, struct dovetail_entry *entry_r);

/* All entries at or below name (NULL: all), in all mailboxes if mailbox is NULL; ordered by mailbox, then name, by octets. One
   consistent view of what was there at the first next(); writes meanwhile are allowed. Memory does not grow with the number of
   entries. */
struct dovetail_iter;
enum dovetail_status
dovetail_iter_open(struct dovetail *replica, const char *mailbox, const char *name, bool values, struct dovetail_iter **iter_r);
/* NOT_FOUND at the end. *entry_r is valid until the next call with this iterator. */
enum dovetail_status dovetail_iter_next(struct dovetail_iter *iter, struct dovetail_entry *entry_r);
void dovetail_iter_close(struct dovetail_iter *iter);

/* ---- Writing ---- */

/* Takes effect in the replica at once, durably, and waits in the queue for the next sync. Setting what is already there changes
   nothing. unset: NOT_FOUND if there is none. LIMIT: a value or name longer than the server takes, or a change set of more entries,
   as far as it has said so in an earlier sync. (What it takes in all, it alone can count: such a write is refused by the next
   sync.) */
enum dovetail_status
dovetail_set(struct dovetail *replica, const char *mailbox, const char *name, const void *data, size_t size);
enum dovetail_status dovetail_unset(struct dovetail *replica, const char *mailbox, const char *name);

/* Several entries (at most 100) as one change set: all or none, here and on the server. add: data NULL unsets. The same
   entry again replaces its change. commit and abort free the change set, whatever they return. */
struct dovetail_changes;
enum dovetail_status dovetail_changes_begin(struct dovetail *replica, struct dovetail_changes **changes_r);
enum dovetail_status
dovetail_changes_add(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size);
/* Only if the entry's value is still what the caller has seen (data NULL: no entry), for read-change-write: BUSY if not, and
   nothing is written. */
enum dovetail_status
dovetail_changes_expect(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size);
/* What commit would return now, with nothing written: names, limits (also of what is encrypted), keys, what is expected. The change
   set stays as it is. What depends on the server alone (rights, quota) is not seen here. */
enum dovetail_status dovetail_changes_check(struct dovetail_changes *changes);
enum dovetail_status dovetail_changes_commit(struct dovetail_changes *changes);
void dovetail_changes_abort(struct dovetail_changes *changes);

/* Writes that wait, and writes that the server has refused for good (a limit, rights, a mailbox that is gone): these are kept
   aside, with the value, until they are forgotten or written again. */
struct dovetail_counts {
	uint64_t entries, bytes, pending, refused;
	/* from the last consistent state: seconds since 1970, 0: never; position on the server */
	int64_t synced_at;
	uint32_t epoch;
	uint64_t modseq;
};
enum dovetail_status dovetail_get_counts(struct dovetail *replica, struct dovetail_counts *counts_r);
struct dovetail_refused {
	/* what was to be written; data NULL: to be removed */
	struct dovetail_entry entry;
	/* the server's words */
	const char *reason;
};
/* Calls each (until it returns false) with what was refused; valid during the call. */
enum dovetail_status
dovetail_refused_each(struct dovetail *replica, bool (*each)(void *context, const struct dovetail_refused *refused), void *context);
enum dovetail_status dovetail_refused_forget(struct dovetail *replica, const char *mailbox, const char *name);

/* ---- Conflicts ---- */

enum dovetail_rule {
	/* three-way on lines; where both have changed the same lines as DOVETAIL_RULE_MINE */
	DOVETAIL_RULE_LINES = 0,
	/* what is on the server stays, mine is dropped */
	DOVETAIL_RULE_SERVER,
	/* mine is written over it */
	DOVETAIL_RULE_MINE,
	/* three-way on the keys of JSON objects, nested ones too; where both have changed the same key, mine. If one of the three
	   is not a JSON object: as DOVETAIL_RULE_MINE */
	DOVETAIL_RULE_JSON,
	/* the callback's .data is written (NULL: removed) */
	DOVETAIL_RULE_VALUE
};
/* Both sides have changed the entry since base. All three have .data NULL if there is (was) no entry; theirs.size is SIZE_MAX then
   if there is one whose value is not here (DOVETAIL_ENTRY_NOT_HERE, or _DAMAGED): nothing can be merged with it, the merging rules
   take mine. Else a NUL follows each. Valid during the callback. */
struct dovetail_conflict {
	const char *mailbox, *name;
	struct { const void *data; size_t size; } base, mine, theirs;
	/* the rule that applies unless the callback says another */
	enum dovetail_rule rule;
};
struct dovetail_resolution {
	enum dovetail_rule rule;
	/* for DOVETAIL_RULE_VALUE; copied after the callback has returned, valid until then */
	const void *data;
	size_t size;
};
/* The built-in merges, for callers' own use. *data_r is to be freed with free(); NULL (and size 0) means removed. conflict_r: true
   if both had changed the same lines or key and mine was taken. */
enum dovetail_status
dovetail_merge(enum dovetail_rule rule, const struct dovetail_conflict *conflict, void **data_r, size_t *size_r, bool *conflict_r);

/* ---- Syncing ---- */

enum dovetail_tls {
	/* imaps on another port than 143, STARTTLS (required) on 143 */
	DOVETAIL_TLS_DEFAULT = 0,
	DOVETAIL_TLS_IMAPS,
	DOVETAIL_TLS_STARTTLS,
	/* no encryption: for loopback and tests */
	DOVETAIL_TLS_NONE
};

/* How to reach the account. All strings may be NULL but host and user. */
struct dovetail_account {
	/* a name, or an address ("::1" without brackets) */
	const char *host;
	/* 0: 993 for imaps, else 143 */
	uint16_t port;
	enum dovetail_tls tls;
	const char *user;
	/* One of the four, in this order. A command is run by /bin/sh -c, without blocking, at each login; its output's first line
	   counts. password is for programs that have it at hand. netrc: a file, see netrc(5). */
	const char *token_command;
	const char *password_command;
	const char *password;
	const char *netrc;
	/* a SASL mechanism ("PLAIN", "XOAUTH2" ...); NULL: the best that both sides have (OAUTHBEARER, then XOAUTH2, with a
	   token) */
	const char *mechanism;
	/* "socks5h://host:port" or "http://host:port"; NULL: as the environment says (curl's rules), "": none */
	const char *proxy;
	/* a file of certificates in PEM to trust instead of the system's */
	const char *ca_file;
	/* true: certificates are not checked. For tests. */
	bool insecure;
	/* for connecting and for each answer; 0: 30 s. A command may take four times as long: it may have to ask the user */
	unsigned int timeout;
};

enum dovetail_state {
	DOVETAIL_STATE_OFFLINE = 0,
	DOVETAIL_STATE_CONNECTING,
	/* logged in, catching up */
	DOVETAIL_STATE_SYNCING,
	/* Up to date, and told at once what changes. Told again with another status than OK: the server does not take writes now,
	   they wait. */
	DOVETAIL_STATE_LIVE,
	/* Up to date, and looking again every poll_interval: the server has no XMETASYNC, only METADATA (RFC 5464). Such servers
	   have no conditions: before a write the server's values are read and compared, but what somebody else writes in the moment
	   between is overwritten. A change set over several mailboxes, or with more names than a line takes (7,000 octets),
	   is not all or nothing there. */
	DOVETAIL_STATE_POLLING,
	/* stopped by an error that does not go away by itself */
	DOVETAIL_STATE_FAILED
};

enum dovetail_notice {
	/* the server has no XMETASYNC; METADATA is polled */
	DOVETAIL_NOTICE_FALLBACK,
	/* the server's history is gone, everything is sent again; local changes are kept */
	DOVETAIL_NOTICE_RESET,
	/* a write was refused for good, see dovetail_refused_each() */
	DOVETAIL_NOTICE_REFUSED,
	/* an encrypted value that cannot be read: locked, wrong key, damaged or moved */
	DOVETAIL_NOTICE_UNREADABLE,
	/* the server shows an older encrypted value, or an older set of keys, than this device has seen, or hides the keys */
	DOVETAIL_NOTICE_ROLLBACK
};

/* All callbacks are called from dovetail_sync_dispatch() (or dovetail_sync_once()) only, and may be NULL. They may read and write
   the replica, but not free the sync nor close the replica. */
struct dovetail_callbacks {
	/* An entry has changed by others (entry->data NULL: removed). Called after all of a consistent state is in the replica,
	   once for each entry with its newest value; entries by own writes are not told. */
	void (*change)(void *context, const struct dovetail_entry *entry);
	/* After the last change() of a consistent state; after own writes, too, when the server has taken them. reset: it was a
	   full snapshot that came in place of what was there. */
	void (*consistent)(void *context, bool reset);
	/* Returns how to solve it by filling in *resolution (rule is set to the default). */
	void (*conflict)(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution);
	/* text: one line on why, or "" */
	void (*state)(void *context, enum dovetail_state state, enum dovetail_status status, const char *text);
	/* While catching up, and each second of dovetail_sync_once(), also while connecting: what has come and been sent in this
	   connection. */
	void (*progress)(void *context, uint64_t entries_received, uint64_t bytes_received, uint64_t writes_left);
	/* mailbox and entry are NULL if it is not about one. */
	void (*notice)(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text);
};

struct dovetail_sync_options {
	/* for entries without a callback's word */
	enum dovetail_rule rule;
	/* against servers without XMETASYNC: ms between looks, 0: 60,000 */
	unsigned int poll_interval;
	/* ms without a sign of life from the server until it is asked for one, 0: 180,000. Unanswered for account.timeout: lost */
	unsigned int keepalive;
	/* values larger than this many octets stay on the server, 0: 16 MiB */
	size_t max_value;
	/* The server may send this many entries and octets (names and values) between two consistent states, and the replica may
	   have as many, 0: 1,000,000 and 1 GiB; more: LIMIT. */
	uint64_t max_entries, max_bytes;
	/* a snapshot after RESET, or of a server that has become empty, that would remove more than this many entries here stops
	   with MASS_REMOVAL and changes nothing; 0: no limit */
	uint64_t max_removals;
	/* reconnect after 1 s, doubled up to this many ms, each with +-20 % at random; 0: 300,000 */
	unsigned int max_backoff;
};

/* Brings replica and server in step once, blocking: sends all that waits, receives a consistent state, and disconnects. stop_fd:
   -1, or a descriptor that ends it (STOPPED) when it becomes readable. No reconnects. Writes that the server refuses for good do
   not fail it, see dovetail_refused_each(); if it does not take one now: REFUSED, and it waits on. BUSY: the replica is being
   synchronized already. options and callbacks may be NULL. */
enum dovetail_status
dovetail_sync_once(struct dovetail *replica, const struct dovetail_account *account,
		   const struct dovetail_sync_options *options, const struct dovetail_callbacks *callbacks, void *context,
		   int stop_fd);

/* Keeps them in step, in the caller's event loop:

	struct pollfd p = { .fd = dovetail_sync_fd(sync), .events = POLLIN };
	for (;;) {
		poll(&p, 1, dovetail_sync_timeout(sync));
		if (dovetail_sync_dispatch(sync) != DOVETAIL_OK) break;
	}

   The first dispatch() connects. It never blocks on the network. The fd stays the same until the sync is freed. new: BUSY if
   another sync has this replica, in this process or another. */
struct dovetail_sync;
enum dovetail_status
dovetail_sync_new(struct dovetail *replica, const struct dovetail_account *account,
		  const struct dovetail_sync_options *options, const struct dovetail_callbacks *callbacks, void *context,
		  struct dovetail_sync **sync_r);
int dovetail_sync_fd(const struct dovetail_sync *sync);
/* ms until dispatch() has to be called though the fd is not readable; -1: never. Ask again after each dispatch() and after each
   write. */
int dovetail_sync_timeout(const struct dovetail_sync *sync);
/* OK: go on, errors that may pass are told by the state callback and tried again. Others: it has ended (DOVETAIL_STATE_FAILED):
   login refused, certificate wrong, not supported, replica broken, mass removal, a limit, a mailbox of the parts that cannot be one
   or may not be read (REFUSED). Calling it again starts anew. */
enum dovetail_status dovetail_sync_dispatch(struct dovetail_sync *sync);
/* Tries now, not when the backoff or the poll interval is over: the network is back, the laptop woke up, the user asks. If
   connected, asks the server for a sign of life. */
void dovetail_sync_hurry(struct dovetail_sync *sync);
enum dovetail_state dovetail_sync_state(const struct dovetail_sync *sync);
/* Disconnects at once. What waits stays in the queue. NULL is fine. */
void dovetail_sync_free(struct dovetail_sync *sync);

/* ---- End-to-end encryption ----

   A subtree of entries (e.g. "/private/vendor/example/notes", in all mailboxes) can be encrypted: its values, and on request its
   names, are unreadable for the server. docs/encryption.md says what is protected, what is not, and the formats. */

struct dovetail_secret {
	/* One of the two. A passphrase (any octets, at least 8). */
	const void *passphrase;
	size_t passphrase_size;
	/* a file of 32 random octets, in base64; made by dovetail_key_file_create() */
	const char *key_file;
};
/* Makes a key file, mode 0600; fails if there is one. */
enum dovetail_status dovetail_key_file_create(const char *path, char **error_r);

struct dovetail_encrypt_options {
	/* names below the subtree are hidden, too */
	bool hide_names;
};
/* Encrypts the subtree from now on (what is in it is written anew, encrypted), with a first secret. INVALID if it, a part of it, or
   what it is part of is encrypted already, or if the parts do not cover it in the account (""), where its keys are. BUSY: writes
   wait in it. Needs a sync that has brought a consistent state, so that two devices do not both begin; if they do, the later one
   gets a notice and needs the other's secret. The secret's label is "first". secret NULL: nothing is done, but the
   errors that have nothing to do with the secret are told: before somebody is asked for one. */
enum dovetail_status
dovetail_encrypt(struct dovetail *replica, const char *subtree, const struct dovetail_secret *secret,
		 const struct dovetail_encrypt_options *options);
/* For callers who know that the subtree is encrypted (from their configuration): nothing is written there in clear text, also while
   its keys have not come from the server, which may be hiding them. Kept in the replica; once is enough. Until dovetail_unlock(),
   all in it is locked. */
enum dovetail_status dovetail_expect_encrypted(struct dovetail *replica, const char *subtree);
/* Gives this open replica the key; for each time it is opened. *secret is not kept. LOCKED-flagged entries become readable.
   NOT_FOUND: not encrypted, as far as the replica knows. LOCKED: the secret opens only writes of this device that wait since
   another device was first to encrypt the subtree. */
enum dovetail_status dovetail_unlock(struct dovetail *replica, const char *subtree, const struct dovetail_secret *secret);
/* A further secret for the subtree (unlocked), with a name for it ("laptop"); removing one; the last cannot be removed. Who has
   removed a secret rotates the key, too, since it was known. */
enum dovetail_status
dovetail_secret_add(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret);
enum dovetail_status dovetail_secret_remove(struct dovetail *replica, const char *subtree, const char *label);
/* kind: "passphrase" or "key-file". LOCKED: the subtree was never unlocked in this replica. */
enum dovetail_status
dovetail_secret_each(struct dovetail *replica, const char *subtree,
		     bool (*each)(void *context, const char *label, const char *kind), void *context);
/* A new data key for all that is written from now on, and all that is there is written anew. Wrapped for the given secrets only:
   others are removed. */
enum dovetail_status
dovetail_rotate_key(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret);

#ifdef __cplusplus
}
#endif

#endif
