#ifndef CLIENT_REPLICA_H
#define CLIENT_REPLICA_H

/* What the sync (sync*.c) and the encryption (crypt*.c) need of the replica beside the public functions. The rest is private to replica*.c
   (replica-private.h). All functions put a text into the replica when they fail: dovetail_error(). */

#include "dovetail.h"

/* Sets the text and returns the status, for all of src/client. */
enum dovetail_status replica_fail(struct dovetail *replica, enum dovetail_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- One process syncs ---- BUSY if another does; released by end, or by the death of the process. */
enum dovetail_status replica_sync_begin(struct dovetail *replica);
void replica_sync_end(struct dovetail *replica);
/* Becomes readable when another process (or handle) may have written to the queue; -1: no such thing, ask now and then. */
int replica_sync_fd(struct dovetail *replica);
void replica_sync_fd_clear(struct dovetail *replica);

/* ---- Where we are ---- A mark or position as on the wire, e.g. "(123 4 0f0f0f0f0f0f0f0f)"; "" if none. The partial mark belongs to what has been staged up to a PARTIAL
   marker, and is "" when nothing is staged. Valid until the next call. */
enum dovetail_status replica_get_mark(struct dovetail *replica, const char **mark_r, const char **partial_r);

/* ---- What comes ---- Staged on disk in bounded memory, seen by nobody until consistent(). */
enum replica_kind { REPLICA_VALUE, REPLICA_REMOVED, REPLICA_NOT_HERE };
/* A full snapshot begins (RESET, or the first sync): entries that it does not bring are gone at its marker. What was staged is dropped. */
enum dovetail_status replica_stage_snapshot(struct dovetail *replica);
/* mailbox in UTF-8 */
enum dovetail_status
replica_stage(struct dovetail *replica, const char *mailbox, const char *name, enum replica_kind kind, const void *data, size_t size);
/* Keeps what is staged for the next connection, durably. */
enum dovetail_status replica_stage_partial(struct dovetail *replica, const char *mark);
/* The connection is gone: what was staged since the last PARTIAL (or consistent) marker is dropped. */
enum dovetail_status replica_stage_drop(struct dovetail *replica);
/* Swaps in what is staged in one transaction, or MASS_REMOVAL (nothing is done, what is staged stays) if it is a snapshot that removes more than
   max_removals (0: any number) entries. Waiting writes are kept: the values that arrive become the new "theirs" below them. What has changed for the user
   is then read by replica_changed_next(): only entries that the user sees differently, newest values. *reset_r: it was a snapshot over an older state. */
enum dovetail_status replica_stage_consistent(struct dovetail *replica, const char *mark, uint64_t max_removals, bool *reset_r);
/* NOT_FOUND at the end; a crash in between tells the rest to nobody. Valid until the next call. */
enum dovetail_status replica_changed_next(struct dovetail *replica, struct dovetail_entry *entry_r);

/* ---- What goes ---- The queue is a list of change sets in order; the first one that is not in flight is next. Later local changes on entries of a set that is not in flight
   are merged into it only if the set has that one entry alone, else a set of its own follows. */
struct replica_write {
	const char *mailbox, *name;
	/* NULL: remove */
	const void *data;
	size_t size;
};
struct replica_set {
	int64_t id;
	const struct replica_write *writes;
	size_t count;
	/* the condition, "0" or "(epoch modseq)" or "" (none: fallback servers, or a rule that says mine) as on the wire */
	const char *unchanged_since;
};
/* NOT_FOUND: nothing waits. Marks it as in flight, durably: after a crash it is given again with the same condition and values. Valid until the next call. */
enum dovetail_status replica_queue_next(struct dovetail *replica, struct replica_set *set_r);
/* Committed at pos ("" for fallback): out of the queue, the values are the server's now. */
enum dovetail_status replica_queue_done(struct dovetail *replica, int64_t id, const char *pos);
/* Lost: theirs[] are the server's values (by METADATA before the NO), pos the base for a retry. Entries whose server value is what the set writes count as won (a lost
   acknowledgement). The rest is solved by resolve (public rules; callback's word); what is to be written stays in the queue with the new base. */
struct replica_theirs {
	const char *mailbox, *name;
	enum replica_kind kind;
	const void *data;
	size_t size;
};
typedef void replica_resolve_t(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution);
enum dovetail_status
replica_queue_modified(struct dovetail *replica, int64_t id, const char *pos, const struct replica_theirs *theirs, size_t count,
		       enum dovetail_rule rule, replica_resolve_t *resolve, void *context);
/* Refused for good: kept aside with the reason, the server's values are seen again. */
enum dovetail_status replica_queue_refused(struct dovetail *replica, int64_t id, const char *reason);
/* Not answered, or told to sync first (RESET): given again later. After a snapshot the base of each waiting write is the snapshot's position, and writes on
   entries whose server value has changed meanwhile are solved as conflicts at the next queue_next (which is why it takes the resolver). */
enum dovetail_status replica_queue_again(struct dovetail *replica, int64_t id);
uint64_t replica_queue_count(struct dovetail *replica);

#endif
