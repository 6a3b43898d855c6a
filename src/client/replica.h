#ifndef CLIENT_REPLICA_H
#define CLIENT_REPLICA_H

/* What the sync (sync*.c) and the encryption (crypt*.c) need of the replica beside the public functions. The rest is private to
   replica*.c (replica-private.h). All functions put a text into the replica when they fail: dovetail_error().

   How writes go out, in short: catch up to a marker (stage..., consistent), then take sets from queue_next() one after the other
   and tell each one's answer, then catch up again. Conflicts are solved in queue_next(), on a consistent state, before anything is
   sent. */

#include "dovetail.h"

/* Sets the text and returns the status, for all of src/client. */
enum dovetail_status replica_fail(struct dovetail *replica, enum dovetail_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- One handle syncs ---- BUSY if another does; released by end, by closing, or by the death of the process. What a connection
   that was not ended left behind is dropped (as stage_drop()), and the queue waits for a consistent state. */
enum dovetail_status replica_sync_begin(struct dovetail *replica);
void replica_sync_end(struct dovetail *replica);
/* Becomes readable when any handle (this one, too) may have written to the queue or set the parts; -1: no such thing, ask now and
   then. Same fd until end. */
int replica_sync_fd(struct dovetail *replica);
void replica_sync_fd_clear(struct dovetail *replica);

/* "(epoch modseq)", or as a mark "(epoch modseq watch)", and nothing else. false: not that. */
struct replica_position {
	uint32_t epoch;
	uint64_t modseq;
};
bool replica_position_parse(const char *text, bool mark, struct replica_position *position_r);

/* ---- Where we are ---- A mark as on the wire, e.g. "(123 4 0f0f0f0f0f0f0f0f)"; "" if none: begin with stage_snapshot(). The
   partial mark belongs to what has been staged up to a PARTIAL marker; if it is not "", resume from it (SINCE), without
   stage_snapshot(). Valid until the next call of this function. dovetail_set_parts() forgets both. */
enum dovetail_status replica_get_mark(struct dovetail *replica, const char **mark_r, const char **partial_r);

/* As dovetail_get_parts(), for asking the server: what comes from now on is for these. If another handle sets others,
   stage_partial() and consistent() are BUSY, and it has to be asked again: a state without what is newly covered would look
   complete. */
enum dovetail_status
replica_watch_parts(struct dovetail *replica, const struct dovetail_part **parts_r, size_t *count_r);
/* Are they still what the replica covers, and is the mark there? position: the server tells positions. */
enum dovetail_status replica_watch_check(struct dovetail *replica, bool position, bool *same_r);
/* Is the entry in one of the parts? The mailbox the other one, or below it? Names in UTF-8, INBOX and entries as they are kept: in
   one case of letters. */
bool replica_parts_cover(const struct dovetail *replica, const char *mailbox, const char *name);
bool replica_mailbox_is_below(const char *mailbox, const char *parent);

/* Is it a valid entry name? It is made lower-case. */
bool replica_name_normalise(char *name);

/* ---- What comes ---- Staged on disk in bounded memory, seen by nobody until consistent(). */
enum replica_kind { REPLICA_VALUE, REPLICA_REMOVED, REPLICA_NOT_HERE };
/* A full snapshot begins (RESET, or the first sync): entries that it does not bring are gone at its marker. What was staged is
   dropped. */
enum dovetail_status replica_stage_snapshot(struct dovetail *replica);
/* mailbox in UTF-8. PROTOCOL: not a valid name. */
enum dovetail_status
replica_stage(struct dovetail *replica, const char *mailbox, const char *name, enum replica_kind kind, const void *data,
	      size_t size);
/* Keeps what is staged for the next connection, durably. */
enum dovetail_status replica_stage_partial(struct dovetail *replica, const char *mark);
/* The connection is gone: what was staged since the last PARTIAL (or consistent) marker is dropped. */
enum dovetail_status replica_stage_drop(struct dovetail *replica);
/* Swaps in what is staged in one transaction, or MASS_REMOVAL (nothing is done, what is staged stays) if it is a snapshot that
   removes more than max_removals (0: any number) entries. Waiting writes are kept: the values that arrive become "theirs" below
   them. mark "": the server tells no positions (fallback). *reset_r: it was a snapshot over an older state. The entries that the
   user sees differently now are told by replica_changed_next(). */
enum dovetail_status replica_stage_consistent(struct dovetail *replica, const char *mark, uint64_t max_removals, bool *reset_r);
/* What the user sees differently without having written it, each entry once with its newest value (data NULL and no flag: removed);
   by consistent(), and by queue_next() (conflicts that others have won) and queue_refused(): ask after each of these. NOT_FOUND: no
   more. A crash in between tells the rest to nobody. Valid until the next call of this function; reading and writing meanwhile are
   fine. */
enum dovetail_status replica_changed_next(struct dovetail *replica, struct dovetail_entry *entry_r);
/* Nobody wants to be told. */
enum dovetail_status replica_changed_forget(struct dovetail *replica);

/* ---- What goes ---- The queue is a list of change sets in order. A later local change of an entry goes into the set that waits
   with it, if that has this one entry alone and was never given out; else a set of its own follows. */
struct replica_write {
	const char *mailbox, *name;
	/* NULL: remove; else a NUL follows */
	const void *data;
	size_t size;
};
struct replica_set {
	int64_t id;
	const struct replica_write *writes;
	size_t count;
	/* the condition, "(epoch modseq)", or "" (none: the server tells no positions) as on the wire */
	const char *unchanged_since;
};
typedef void replica_resolve_t(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution);
/* after: 0, or the id of a set that was given and is not answered: the next one behind it, to be sent without waiting; never one
   with an entry that a set before it has.
   The next set to send, with values and condition as on the wire. Marks it as in flight, durably: until done(), modified() or
   refused() is told for it, it is given again with the same values and condition (again(), a crash), unless the consistent state
   that must come in between shows that it was committed (then it is done without being sent), or that others have changed its
   entries: then this is a conflict. Conflicts (the server's value is neither the base of mine nor mine) are solved here: by resolve
   (may be NULL; called outside of transactions, may read and write the replica; *resolution comes with rule in it), else by rule.
   Sets whose writes have all been dropped are gone without being given. NOT_FOUND: nothing to send now. If replica_queue_count() is
   not 0 then, a consistent state is needed first (always after sync_begin(), again(), modified() and dovetail_set_parts()), or the
   conflict is in an encrypted subtree that is locked. Valid until the next call of this function. */
enum dovetail_status
replica_queue_next(struct dovetail *replica, int64_t after, enum dovetail_rule rule, replica_resolve_t *resolve, void *context,
		   struct replica_set *set_r);
/* Committed at pos, "(epoch modseq)" ("" for fallback): out of the queue, the values are the server's now. */
enum dovetail_status replica_queue_done(struct dovetail *replica, int64_t id, const char *pos);
/* MODIFIED: theirs[] are the server's values (by METADATA before the NO). If each is what the set writes, that is a lost
   acknowledgement: as done(). Else nothing of the set was written; catch up to a marker, then queue_next() gives it again,
   solved. */
struct replica_theirs {
	const char *mailbox, *name;
	enum replica_kind kind;
	const void *data;
	size_t size;
};
enum dovetail_status
replica_queue_modified(struct dovetail *replica, int64_t id, const char *pos, const struct replica_theirs *theirs, size_t count);
/* Refused for good: kept aside with the reason, the server's values are seen again. */
enum dovetail_status replica_queue_refused(struct dovetail *replica, int64_t id, const char *reason);
/* Not answered (also: connection lost while in flight), or [XMETASET RESET]: given again after the next consistent state. */
enum dovetail_status replica_queue_again(struct dovetail *replica, int64_t id);
/* Encodes anew, where they wait, all writes that the codec says may not be sent as they are; those that are locked stay. */
enum dovetail_status replica_queue_encode_again(struct dovetail *replica);
/* Sets that wait, the one in flight included. */
uint64_t replica_queue_count(struct dovetail *replica);

/* ---- What the server takes ---- as "VALUE 1048576 ENTRIES 10000 ..."; NULL: it does not say. Kept, for dovetail_set(). */
enum dovetail_status replica_limits_set(struct dovetail *replica, const char *text);

/* ---- Small things to keep ---- of crypt and sync: a value by a key ("crypt/..."), durable. In a codec's callback it is part of
   the transaction that runs. *data_r is valid until the next call of this function. data NULL: removes it. */
enum dovetail_status replica_local_get(struct dovetail *replica, const char *key, const void **data_r, size_t *size_r);
enum dovetail_status replica_local_set(struct dovetail *replica, const char *key, const void *data, size_t size);

/* ---- Encryption ---- The replica stores values as they are on the wire, also in the queue (encoded once, when the user writes: so
   a set that is sent again is the same), and decodes them when they are read: what is locked becomes readable without being brought
   again. Names are stored both ways, since readers go in the order of the user's names. */
struct replica_coded {
	/* NUL-terminated; NULL: the same */
	const char *name;
	/* NULL with a flag: why there is no value */
	const void *data;
	size_t size;
	/* DOVETAIL_ENTRY_LOCKED, DOVETAIL_ENTRY_DAMAGED */
	unsigned int flags;
	/* decode: the user does not see this entry at all (keys). In a conflict what is on the server stays: the codec looks at it
	   and writes again. */
	bool hidden;
};
/* Results are the codec's and valid until its next call. Callbacks may call replica_local_*(), replica_get_raw(),
   replica_get_server(), replica_is_pending() and replica_fail(), nothing else. */
struct replica_codec {
	void *context;
	/* Called as each transaction and each iterator begins: what other handles have changed. May be NULL. */
	enum dovetail_status (*refresh)(void *context);
	/* Whether the (user's or wire's) name is in an encrypted subtree; all else passes unchanged. Called for each entry: nothing
	   is read for it. */
	bool (*covers)(void *context, const char *name);
	/* The user has written. data NULL: removes; then only the name counts. LOCKED etc. fail the write. In the write
	   transaction. */
	enum dovetail_status (*encode)(void *context, const char *mailbox, const char *name, const void *data, size_t size,
				       struct replica_coded *coded_r);
	/* What the wire's entry is for the user; data is never NULL. arriving: called once for each new value from the server, in
	   the transaction that makes it visible (for noticing roll-backs). Never fails but for system errors: locked and damaged
	   are flags; name NULL if it cannot be known. */
	enum dovetail_status (*decode)(void *context, const char *mailbox, const char *wire_name, const void *data, size_t size,
				       bool arriving, struct replica_coded *coded_r);
	/* Called in the transaction when a removal arrives, or a snapshot does not have what was there. May be NULL. */
	enum dovetail_status (*removed)(void *context, const char *mailbox, const char *wire_name);
	/* Before a write that was never sent goes out: may it, as it is? false: its set waits, others go. data NULL: a removal. May
	   be NULL. */
	bool (*may_send)(void *context, const char *mailbox, const char *wire_name, const void *data, size_t size);
	/* With dovetail_close(), before the file is closed. May be NULL. */
	void (*free)(void *context);
};
/* Copied; the one before is freed, NULL: only that. Does not call replica_decode_again(). */
void replica_set_codec(struct dovetail *replica, const struct replica_codec *codec);
/* The context of the codec; NULL: none. */
void *replica_get_codec_context(const struct dovetail *replica);
/* The names of all entries at or below the subtree are computed anew: after unlocking, or when keys have arrived. Entries that have
   become readable are told by replica_changed_next() if tell. */
enum dovetail_status replica_decode_again(struct dovetail *replica, const char *subtree, bool tell);
/* The entry as on the wire, by its wire name, with local writes. Valid until the next call of this function. */
enum dovetail_status replica_get_raw(struct dovetail *replica, const char *mailbox, const char *wire_name,
				     struct dovetail_entry *entry_r);
/* The server's value below local writes; *data_r is NULL if there is none. Valid until the next call of this function and the
   one before. */
enum dovetail_status
replica_get_server(struct dovetail *replica, const char *mailbox, const char *wire_name, const void **data_r, size_t *size_r);
bool replica_is_readonly(const struct dovetail *replica);
/* Is there a write on it, or a removal, that waits? false on failure, too. */
bool replica_is_pending(struct dovetail *replica, const char *mailbox, const char *wire_name);
/* dovetail_changes_add() for what is not to be encoded. */
enum dovetail_status
replica_changes_add_raw(struct dovetail_changes *changes, const char *mailbox, const char *wire_name, const void *data,
			size_t size);
/* dovetail_changes_add() that writes also what is there already: encoded anew. If the entry has another wire name now, its old one
   is removed in the same set; it counts as a second entry. */
enum dovetail_status
replica_changes_add_anew(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size);

#endif
