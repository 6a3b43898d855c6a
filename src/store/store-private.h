#ifndef STORE_PRIVATE_H
#define STORE_PRIVATE_H

/* What the store's files share: the handle, the statements, transactions.
   Only src/store includes this.

   store.c                 settings, errors, names, filters
   store-dir.c             the directory and its files: safety, identity
   store-wake.c            the wake file
   store-sqlite.c          statements, errors, transactions, the meta row
   store-sqlite-open.c     opening, schema, closing
   store-sqlite-identity.c whose file it is: copies, owners
   store-sqlite-apply.c    change sets
   store-sqlite-mailbox.c  renames, deletions and identities of mailboxes
   store-sqlite-read.c     reading
   store-sqlite-upkeep.c   checkpoints, purge, epochs, check */

#include "store.h"

#include <sqlite3.h>

#define STORE_NAME_MAX_SIZE 1024
/* Frames in the WAL after which store_idle() makes a checkpoint, and those
   after which the writer makes it at once because nobody calls store_idle(). */
#define STORE_CHECKPOINT_FRAMES 400
#define STORE_CHECKPOINT_FRAMES_MAX 2000
/* The WAL's size from the start; room for about 500 frames. */
#define STORE_WAL_SIZE (1024 * 1024)
/* An epoch is drawn at most this often on a client's word. */
#define STORE_EPOCH_INTERVAL_SECS 60
#define STORE_PURGE_INTERVAL_SECS (24 * 60 * 60)

#define STORE_WAKE_NAME "wake"
/* Room for a change set in the wake file: half a kB with what is before it. */
#define STORE_WAKE_DATA_SIZE 488

/* The meta row as of the last transaction. */
struct store_meta {
	uint32_t epoch;
	int64_t epoch_drawn_at;	/* Unix seconds; 0: with the database */
	uint64_t modseq, floor;
	uint64_t entries, bytes, tombstones;
	int64_t last_purge;	/* Unix seconds */
	/* The file that the epoch belongs to. birth: when it was made, in Unix
	   nanoseconds, since the number of an inode is soon used again. birth
	   and fsid are 0 where the file system has none. */
	uint64_t inode, birth, fsid;
};

enum store_stmt {
	STORE_STMT_BEGIN,
	STORE_STMT_BEGIN_WRITE,
	STORE_STMT_COMMIT,
	STORE_STMT_ROLLBACK,
	STORE_STMT_META_GET,
	STORE_STMT_META_SET,
	STORE_STMT_OWNER_GET,
	STORE_STMT_OWNER_SET,
	STORE_STMT_WITNESS_GET,
	STORE_STMT_WITNESS_SET,
	STORE_STMT_FIND,
	STORE_STMT_INSERT,
	STORE_STMT_UPDATE,
	STORE_STMT_VALUE,
	STORE_STMT_READ_SET,
	STORE_STMT_READ,
	STORE_STMT_MAILBOX_COUNT,
	STORE_STMT_MAILBOX_GUID,
	STORE_STMT_MAILBOX_IS,
	STORE_STMT_MAILBOX_CLEAN,
	STORE_STMT_MAILBOX_LIST,
	STORE_STMT_MAILBOX_BELOW,
	STORE_STMT_MAILBOX_SUM,
	STORE_STMT_MAILBOX_REMOVE,
	STORE_STMT_MAILBOX_REMOVE_ROW,
	STORE_STMT_MOVE_REMOVE,
	STORE_STMT_MOVE_REPLACE,
	STORE_STMT_MOVE,
	STORE_STMT_MOVE_TOMBSTONES,
	STORE_STMT_MOVE_MAILBOX,
	STORE_STMT_MERGE_REPLACE,
	STORE_STMT_MERGE,
	STORE_STMT_MERGE_TOMBSTONES,
	STORE_STMT_MERGE_COUNT,
	STORE_STMT_PURGE_OLD,
	STORE_STMT_PURGE_OLDEST,
	STORE_STMT_DELETE,
	STORE_STMT_COUNT
};

/* What the running change set changes, for the wake file. */
struct store_wake_set {
	size_t size;
	int64_t last_id;
	/* does not fit */
	bool full;
	unsigned char data[STORE_WAKE_DATA_SIZE];
};

struct store {
	struct store_settings set;
	/* Real path of the directory and of the files in it. */
	char *dir, *db_path, *wake_path;
	int dir_fd, wake_fd;
	uint64_t wake_inode;
	bool wake_failed;
	struct store_wake_set wake_set;

	sqlite3 *db;
	sqlite3_stmt *stmts[STORE_STMT_COUNT];
	struct store_meta meta;
	/* End of the running call's patience, CLOCK_MONOTONIC milliseconds. */
	int64_t deadline;
	/* When the file was last seen in its place, on the same clock. */
	int64_t in_place_at;

	/* Our own change sets, in order; see store_own_start(). */
	uint64_t *own;
	size_t own_count, own_size;
	bool own_wanted;

	/* Frames in the WAL after our last commit, and at our last
	   checkpoint. */
	unsigned int wal_frames, wal_checkpointed;
	bool wal_extended;
	/* After a failure the purge rests until then (Unix seconds). */
	int64_t purge_not_before;
};

/* -- store.c */
/* Fills error and returns status. */
enum store_status store_fail(struct store_error *error,
			     enum store_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* STORE_FAILED with what errno says of the path, and which uid was not let in. */
enum store_status store_fail_errno(struct store_error *error, const char *path,
				   const char *what);
void store_log(struct store *store, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* As store_name_normalize(), without changing case; upper case is invalid
   unless any_case. */
enum store_name store_name_check(const char *name, size_t size,
				 uint64_t max_size, bool filter,
				 bool any_case);

/* -- store-dir.c */
/* Opens the directory, creating it if missing: sets dir, dir_fd and the
   paths. */
enum store_status store_dir_open(struct store *store,
				 struct store_error *error_r);
/* Checks the files that are there and creates the database file if missing,
   empty. */
enum store_status store_dir_files(struct store *store,
				  struct store_error *error_r);
/* Sets the database file's inode, birth and fsid in *meta. */
enum store_status store_dir_identity(struct store *store,
				     struct store_meta *meta,
				     struct store_error *error_r);

/* -- store-wake.c */
enum store_status store_wake_open(struct store *store,
				  struct store_error *error_r);
/* What the write transaction that begins changes is told with store_wake(); one
   that adds nothing is read from the database. Rows with ids that do not
   ascend are, too. */
void store_wake_set_start(struct store *store);
void store_wake_set_add(struct store *store, const struct store_change *change,
			int64_t id);
/* Tells the waiting sessions. Never fails the caller: the commit is done. */
void store_wake(struct store *store);
/* The highest modseq of this epoch that the file shows; 0: none. */
uint64_t store_wake_highest(const struct store *store, uint32_t epoch);
/* store_read() for a cursor at an end, if exactly one change set came since and is
   in the file: returns true then. */
bool store_wake_read(struct store *store, const struct store_read *req,
		     struct store_cursor *cursor,
		     store_entry_callback_t *callback, void *context,
		     bool *more_r);

/* -- store-sqlite.c */
/* Maps the database's last error. what: "commit", "read" ... */
enum store_status store_sql_error(struct store *store, const char *what,
				  struct store_error *error_r);
/* Every public function calls this first: starts the clock for waiting. */
void store_start(struct store *store, struct store_error *error_r);
int store_busy_handler(void *context, int tries);
/* The statement, prepared on first use, reset, with parameters bound by
   format: i int64_t, t const char *, b const void * and size_t (NULL: NULL),
   n NULL. NULL on failure. Text and blobs must live until the statement is
   used no more. */
sqlite3_stmt *store_query(struct store *store, enum store_stmt which,
			  const char *format, ...);
/* store_query() for a statement without result: runs it. */
enum store_status store_run(struct store *store, struct store_error *error_r,
			    const char *what, enum store_stmt which,
			    const char *format, ...);
/* STORE_FAILED if the file is not in its place. One look in a millisecond is
   enough. */
enum store_status store_check_replaced(struct store *store,
				       struct store_error *error_r);
/* Begins a transaction and reads the meta row. On failure there is none. */
enum store_status store_begin(struct store *store, bool write,
			      struct store_error *error_r);
/* The same without store_check_replaced(). */
enum store_status store_begin_unchecked(struct store *store, bool write,
					struct store_error *error_r);
/* Writes the meta row and commits. On failure everything is rolled back. */
enum store_status store_commit(struct store *store,
			       struct store_error *error_r);
/* Ends a transaction without writing; safe in any state. */
void store_end(struct store *store);
void store_get_pos(const struct store *store, struct store_pos *pos_r);

/* -- store-sqlite-identity.c */
/* A copy gets a new epoch, another owner's store is refused or taken over. */
enum store_status store_identity_check(struct store *store,
				       struct store_error *error_r);

/* -- store-sqlite-apply.c */
/* Ends a change set's write transaction: with STORE_OK and changed, commits
   it as the next modseq and wakes; else rolls back, and meta to before. */
enum store_status store_set_finish(struct store *store,
				   enum store_status status, bool changed,
				   const struct store_meta *before,
				   struct store_pos *pos_r,
				   struct store_error *error_r);

/* -- store-sqlite-upkeep.c */
/* In a write transaction: draws a new epoch; the caller commits and wakes. */
enum store_status store_epoch_draw(struct store *store,
				   struct store_error *error_r);
/* A client has shown a position of this epoch beyond the store. Outside of a
   transaction. Returns STORE_RESET if all went well. */
enum store_status store_epoch_beyond(struct store *store, uint64_t modseq,
				     struct store_error *error_r);
void store_checkpoint(struct store *store);

#endif
