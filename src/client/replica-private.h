#ifndef CLIENT_REPLICA_PRIVATE_H
#define CLIENT_REPLICA_PRIVATE_H

/* What the replica's files share. Only replica*.c include this.

   replica.c          errors, names, copies that are handed out, the codec
   replica-sql.c      statements, errors of SQLite, transactions, the meta row
   replica-open.c     opening, the schema, closing
   replica-sync.c     who syncs; the wake file
   replica-position.c positions, the mark
   replica-parts.c    what is covered
   replica-read.c     get, iterators, counts
   replica-write.c    change sets of the user
   replica-refused.c  what the server refused
   replica-stage.c    what comes from the server
   replica-changed.c  what of it is to be told
   replica-queue.c    what goes to the server
   replica-decode.c   names of encrypted entries, computed anew
   replica-encode.c   what waits, encoded anew
   replica-limits.c   what the server takes
   replica-local.c    small things to keep
   replica-conflict.c a set of the queue against the server's values

   The tables (replica-open.c has the columns): "entry" has the server's value of each entry and, in write_id, the last waiting
   write on it; "write" and "change_set" are the queue; "stage" is what has come since the last marker. Values are as on the wire
   everywhere. */

#include "replica.h"

#include <sqlite3.h>

#define REPLICA_NAME_MAX 1024
#define REPLICA_MAILBOX_MAX 4096
#define REPLICA_SET_MAX 100
#define REPLICA_PARTS_MAX 100
#define REPLICA_BUSY_TIMEOUT 5000
#define REPLICA_STATEMENTS 96
/* What is staged is written to the file when it has this many octets */
#define REPLICA_STAGE_BUFFER (256 * 1024)

/* Memory for what is handed out; empty: all 0. */
struct replica_holder {
	char *data;
	size_t size;
};

struct replica_meta {
	/* 0: the server tells no positions, or there is no mark */
	uint32_t epoch;
	uint64_t modseq;
	int64_t synced_at;
	/* what is staged is a snapshot */
	bool snapshot;
	/* nothing is sent before the next consistent state */
	bool need_state;
	/* the highest stage.id that the partial mark covers */
	int64_t partial_id;
};

struct replica_staged;

struct dovetail {
	char *path, *wake_path;
	unsigned int flags;
	sqlite3 *db;
	struct {
		const char *sql;
		sqlite3_stmt *stmt;
	} statements[REPLICA_STATEMENTS];
	char error[1024];

	struct replica_codec codec;
	bool has_codec;

	/* the wake file; locked while we sync */
	int wake_fd, inotify_fd;
	bool syncing;

	/* staged, not yet in the file */
	struct replica_staged *staged;
	size_t staged_count, staged_allocated, staged_bytes;
	/* what is in the file since the last PARTIAL marker is to go before anything is added: replica_stage_drop() has failed */
	bool drop_due;

	/* as of the last parts_load() */
	struct dovetail_part *parts;
	size_t parts_count;
	/* what the server was asked for last; NULL: replica_watch_parts() was not called */
	struct dovetail_part *watched;
	size_t watched_count;
	struct replica_set_memory *set;

	/* temp.changed.id of the last one that was told */
	int64_t changed_id;
	/* Before these: entries with ids above fresh_told, up to fresh_last, came into an empty replica, and are not in
	   temp.changed */
	int64_t fresh_told, fresh_last;

	struct replica_holder got, got_raw, changed, mark, local, refused;
};

/* One row of the user's view. Pointers are SQLite's, or the replica_holder's. */
struct replica_view {
	int64_t id, write_id;
	const char *mailbox, *wire, *name;
	bool hidden, refused;
	enum replica_kind kind;
	uint64_t modseq;
	const void *data;
	size_t size;
};

/* A value or its absence. */
struct replica_value {
	enum replica_kind kind;
	const void *data;
	size_t size;
};

/* -- replica.c */
enum dovetail_status replica_no_memory(struct dovetail *replica);
/* At least size octets; NULL: out of memory. What was in it is gone. */
char *replica_holder_get(struct replica_holder *holder, size_t size);
void replica_holder_free(struct replica_holder *holder);
/* Checks and copies in the form that is kept: name in lower case (needs REPLICA_NAME_MAX + 1), INBOX. part: "/private" and
   "/shared" are allowed, too. status: what to fail with. */
enum dovetail_status
replica_name(struct dovetail *replica, const char *name, bool part, char *name_r, enum dovetail_status status);
/* *mailbox_r is mailbox itself or "INBOX" */
enum dovetail_status
replica_mailbox(struct dovetail *replica, const char *mailbox, const char **mailbox_r, enum dovetail_status status);
bool replica_value_same(const struct replica_value *a, const struct replica_value *b);
/* Before replica_covered() and replica_decode(); replica_begin() does it. */
enum dovetail_status replica_codec_refresh(struct dovetail *replica);
bool replica_covered(const struct dovetail *replica, const char *name);
/* The user's form of a value: what the codec says, or itself. Valid until the codec's next call. */
enum dovetail_status
replica_decode(struct dovetail *replica, const char *mailbox, const char *wire, const struct replica_value *value, bool arriving,
	       struct replica_coded *coded_r);

/* -- replica-sql.c */
/* Says what SQLite says. */
enum dovetail_status replica_sql_fail(struct dovetail *replica, const char *what);
enum dovetail_status replica_db_fail(struct dovetail *replica, sqlite3 *db, const char *what);
/* The statement, prepared on first use, reset, with parameters bound: i int64_t, t text, v const struct replica_value * (NULL if it
   has no data). sql must be a literal: it is known by its address. NULL on failure. Text and blobs must live until it is used no
   more. */
sqlite3_stmt *replica_query(struct dovetail *replica, const char *sql, const char *format, ...);
/* Runs a statement without result. */
enum dovetail_status replica_run(struct dovetail *replica, const char *what, const char *sql, const char *format, ...);
/* Steps: OK with a row, NOT_FOUND (without a text) at the end; then and on failure it is reset. stmt may be NULL: failure. */
enum dovetail_status replica_step(struct dovetail *replica, sqlite3_stmt *stmt, const char *what);
/* One number; fails if there is no row. */
enum dovetail_status
replica_number(struct dovetail *replica, const char *what, int64_t *number_r, const char *sql, const char *format, ...);
/* write: BEGIN IMMEDIATE, INVALID if opened for reading only. */
enum dovetail_status replica_begin(struct dovetail *replica, bool write);
/* Commits if status is OK, else rolls back; returns what came of it. */
enum dovetail_status replica_end(struct dovetail *replica, enum dovetail_status status);
enum dovetail_status replica_meta_get(struct dovetail *replica, struct replica_meta *meta_r);
void replica_value_column(sqlite3_stmt *stmt, int kind, int value, struct replica_value *value_r);

/* -- replica-open.c */
/* A connection to the file; replica->db, and one for each iterator. */
enum dovetail_status replica_connect(struct dovetail *replica, bool readonly, sqlite3 **db_r);

/* -- replica-sync.c */
enum dovetail_status replica_wake_open(struct dovetail *replica);
/* Tells the handle that syncs that there is something in the queue, or that there are other parts. */
void replica_wake(struct dovetail *replica);

/* -- replica-parts.c */
enum dovetail_status replica_parts_load(struct dovetail *replica);
void replica_parts_free(struct dovetail *replica);
void replica_watched_free(struct dovetail *replica);
/* After replica_parts_load(): BUSY if what has come, up to a marker that tells a position or not, is for other parts. */
enum dovetail_status replica_parts_check(struct dovetail *replica, bool position);

/* -- replica-read.c */
/* One row by the user's or the wire's name. NOT_FOUND: none, without a text. */
enum dovetail_status
replica_view(struct dovetail *replica, const char *mailbox, const char *name, bool wire, sqlite3_stmt **stmt_r,
	     struct replica_view *view_r);
/* Fills *entry_r for the user (raw: as on the wire) with copies in holder. NOT_FOUND if the entry is hidden or removed. */
enum dovetail_status
replica_show(struct dovetail *replica, const struct replica_view *view, bool values, bool raw, struct replica_holder *holder,
	     struct dovetail_entry *entry_r);
/* After writes on it have gone: the last one that is left, and the row goes if there is nothing left in it. */
enum dovetail_status replica_entry_settle(struct dovetail *replica, int64_t entry_id);

/* -- replica-stage.c */
void replica_stage_free(struct dovetail *replica);

/* -- replica-changed.c */
/* The user sees it differently. */
enum dovetail_status replica_changed(struct dovetail *replica, const char *mailbox, const char *name);

/* -- replica-limits.c */
/* Octets of a value and of a name, entries of a set; 0: not known. */
struct replica_limits {
	uint64_t value, name, set;
};
enum dovetail_status replica_limits_get(struct dovetail *replica, struct replica_limits *limits_r);

/* -- replica-refused.c */
enum dovetail_status replica_refused_remove(struct dovetail *replica, const char *mailbox, const char *wire);

/* -- replica-queue.c, replica-conflict.c */
/* A set of the queue in memory. */
struct replica_item {
	int64_t id, entry_id;
	/* the last write on its entry: what the user sees */
	bool last, hidden;
	char *mailbox, *wire, *name;
	struct replica_value mine, base, theirs;
	uint64_t base_modseq, modseq;
	/* replica_solve(): gone; has a new value; theirs is the new base */
	bool dropped, changed, rebased;
};
struct replica_set_memory {
	int64_t id, version;
	int flight;
	char *condition;
	struct replica_item *items;
	size_t count;
	struct replica_write *writes;
};
void replica_set_free(struct replica_set_memory *set);
enum dovetail_status replica_set_load(struct dovetail *replica, int64_t id, struct replica_set_memory **set_r);
/* Decides on each write of the set; nothing is written. LOCKED (without a text): it cannot be solved without a key. *changed_r:
   there is something to be written to the file. */
enum dovetail_status
replica_solve(struct dovetail *replica, struct replica_set_memory *set, enum dovetail_rule rule, replica_resolve_t *resolve,
	      void *context, bool *changed_r);
/* A set that is given out, for the first time or again on a newer state. Encrypted values are encoded anew, so that they are
   numbered in the order in which they go out: one that has been on the server meanwhile, and comes again, would look like an old
   one to others. LOCKED (without a text). */
enum dovetail_status replica_set_encode_again(struct dovetail *replica, struct replica_set_memory *set, bool *changed_r);

#endif
