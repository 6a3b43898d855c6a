/* Opens and closes a store on SQLite: settings of the connection, the schema
   and its version. Owns struct store. */

#include "store-private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* "DvTl" */
#define APPLICATION_ID 0x4476546c
#define SCHEMA_VERSION 1
#define STRINGIFY2(x) #x
#define STRINGIFY(x) STRINGIFY2(x)

/* entry: one row per entry that exists or is remembered as removed; value is
   the last column, since what stands behind a long one is slow to reach.
   size: the value's, 0 if removed. removed_at: Unix seconds, NULL if it
   exists. expires: reserved.
   The index on (modseq) ends, as each index, with the row's id: it is the
   order in which readers go. The index of removals costs a set of what exists
   nothing.
   mailbox: how many entries exist, and the identity last seen. */
static const char schema_sql[] =
"CREATE TABLE meta("
"	one INTEGER PRIMARY KEY CHECK(one = 1),"
"	epoch INTEGER NOT NULL,"
"	epoch_drawn_at INTEGER NOT NULL,"
"	modseq INTEGER NOT NULL,"
"	floor INTEGER NOT NULL,"
"	entries INTEGER NOT NULL,"
"	bytes INTEGER NOT NULL,"
"	tombstones INTEGER NOT NULL,"
"	last_purge INTEGER NOT NULL,"
"	inode INTEGER NOT NULL,"
"	birth INTEGER NOT NULL,"
"	fsid INTEGER NOT NULL,"
"	owner TEXT,"
"	witness BLOB);"
"CREATE TABLE entry("
"	id INTEGER PRIMARY KEY,"
"	modseq INTEGER NOT NULL,"
"	mailbox TEXT NOT NULL,"
"	name TEXT NOT NULL,"
"	size INTEGER NOT NULL,"
"	expires INTEGER,"
"	removed_at INTEGER,"
"	value BLOB,"
"	UNIQUE(mailbox, name));"
"CREATE INDEX entry_modseq ON entry(modseq);"
"CREATE INDEX entry_removed ON entry(modseq, removed_at)"
"	WHERE removed_at IS NOT NULL;"
"CREATE TABLE mailbox("
"	name TEXT PRIMARY KEY,"
"	entries INTEGER NOT NULL,"
"	guid BLOB) WITHOUT ROWID;"
"PRAGMA application_id = " STRINGIFY(APPLICATION_ID) ";"
"PRAGMA user_version = " STRINGIFY(SCHEMA_VERSION) ";";

/* Before the first page is written, and with it the size of all pages: a commit
   writes whole pages, three for a small entry. */
static const char page_size_sql[] = "PRAGMA page_size = 2048;";
/* No wal_autocheckpoint here: it would take the place of our wal_hook().
   secure_delete: what the user removed shall not stay in the file. */
static const char connection_sql[] =
"PRAGMA synchronous = FULL;"
"PRAGMA cache_size = -512;"
"PRAGMA temp_store = MEMORY;"
"PRAGMA secure_delete = ON;";

static enum store_status
exec(struct store *store, const char *sql, const char *what,
     struct store_error *error_r)
{
	if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return store_sql_error(store, what, error_r);
	return STORE_OK;
}

static enum store_status
get_number(struct store *store, const char *sql, int64_t *number_r,
	   struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt = NULL;

	if (sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL) != SQLITE_OK ||
	    sqlite3_step(stmt) != SQLITE_ROW)
		status = store_sql_error(store, "open", error_r);
	else
		*number_r = sqlite3_column_int64(stmt, 0);
	(void)sqlite3_finalize(stmt);
	return status;
}

/* *new_r: a valid database without anything in it. In a transaction: somebody
   may be creating it right now. */
static enum store_status
check_version(struct store *store, bool *new_r, struct store_error *error_r)
{
	int64_t application_id, version, tables;
	enum store_status status;

	*new_r = false;
	status = get_number(store, "PRAGMA application_id", &application_id,
			    error_r);
	if (status == STORE_OK) {
		status = get_number(store, "PRAGMA user_version", &version,
				    error_r);
	}
	if (status == STORE_OK) {
		status = get_number(store, "SELECT count(*) FROM sqlite_schema",
				    &tables, error_r);
	}
	if (status != STORE_OK)
		return status;

	if (application_id == 0 && version == 0 && tables == 0) {
		*new_r = true;
		return STORE_OK;
	}
	if (application_id != APPLICATION_ID) {
		return store_fail(error_r, STORE_CORRUPT,
			"%s is the database of another application",
			store->db_path);
	}
	if (version > SCHEMA_VERSION) {
		return store_fail(error_r, STORE_NEWER_SCHEMA,
			"%s has schema version %lld, written by a newer "
			"version of Dovetail; this one knows up to %d",
			store->db_path,
			(long long)version, SCHEMA_VERSION);
	}
	if (version < 1) {
		return store_fail(error_r, STORE_CORRUPT,
			"%s has no schema version", store->db_path);
	}
	return STORE_OK;
}

/* The switch to WAL wants the database for itself and doesn't ask the busy
   handler in every case. */
static enum store_status
set_wal(struct store *store, struct store_error *error_r)
{
	sqlite3_stmt *stmt;
	bool wal = false;
	int ret, tries = 0;

	do {
		stmt = NULL;
		ret = sqlite3_prepare_v2(store->db,
					 "PRAGMA journal_mode = WAL", -1,
					 &stmt, NULL);
		if (ret == SQLITE_OK)
			ret = sqlite3_step(stmt);
		if (ret == SQLITE_ROW) {
			wal = strcmp((const char *)sqlite3_column_text(stmt, 0),
				     "wal") == 0;
		} else {
			(void)store_sql_error(store, "use WAL", error_r);
		}
		(void)sqlite3_finalize(stmt);
	} while ((ret & 0xff) == SQLITE_BUSY &&
		 store_busy_handler(store, tries++) != 0);

	if (ret != SQLITE_ROW)
		return error_r->status;
	if (!wal) {
		return store_fail(error_r, STORE_FAILED,
				  "%s: WAL cannot be used on this file system",
				  store->db_path);
	}
	error_r->status = STORE_OK;
	return STORE_OK;
}

static enum store_status
create_schema(struct store *store, struct store_error *error_r)
{
	enum store_status status;
	bool new;

	status = exec(store, "BEGIN IMMEDIATE", "create", error_r);
	if (status != STORE_OK)
		return status;
	/* Somebody else may have been faster */
	status = check_version(store, &new, error_r);
	if (status == STORE_OK && new) {
		status = exec(store, schema_sql, "create", error_r);
		if (status == STORE_OK) {
			status = exec(store,
				"INSERT INTO meta VALUES"
				"(1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL)",
				"create", error_r);
		}
		memset(&store->meta, 0, sizeof(store->meta));
		store->meta.modseq = 1;
		store->meta.last_purge = time(NULL);
		if (status == STORE_OK) {
			status = store_dir_identity(store, &store->meta,
						    error_r);
		}
		if (status == STORE_OK)
			status = store_epoch_draw(store, error_r);
		/* Not on a client's word */
		store->meta.epoch_drawn_at = 0;
		if (status == STORE_OK)
			return store_commit(store, error_r);
	}
	store_end(store);
	return status;
}

static int wal_hook(void *context, sqlite3 *db, const char *name, int frames)
{
	struct store *store = context;

	(void)db;
	(void)name;
	/* It begins again once all of it is in the database */
	if ((unsigned int)frames < store->wal_frames)
		store->wal_checkpointed = 0;
	store->wal_frames = frames;
	return SQLITE_OK;
}

static enum store_status
open_db(struct store *store, struct store_error *error_r)
{
	enum store_status status;
	bool new;

	if (sqlite3_open_v2(store->db_path, &store->db, SQLITE_OPEN_READWRITE |
			    SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX,
			    NULL) != SQLITE_OK)
		return store_sql_error(store, "open", error_r);
	(void)sqlite3_extended_result_codes(store->db, 1);
	(void)sqlite3_busy_handler(store->db, store_busy_handler, store);
	(void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	(void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0,
				NULL);
	/* In place of SQLite's own, which makes checkpoints: store_idle() does
	   that, after the reply */
	(void)sqlite3_wal_hook(store->db, wal_hook, store);
	if (sqlite3_db_readonly(store->db, "main") == 1) {
		return store_fail(error_r, STORE_FAILED,
				  "%s is not writable for uid %ld",
				  store->db_path, (long)geteuid());
	}

	status = exec(store, "BEGIN", "open", error_r);
	if (status == STORE_OK)
		status = check_version(store, &new, error_r);
	store_end(store);
	if (status == STORE_OK)
		status = exec(store, page_size_sql, "open", error_r);
	if (status == STORE_OK)
		status = set_wal(store, error_r);
	if (status == STORE_OK)
		status = exec(store, connection_sql, "open", error_r);
	if (status == STORE_OK && new)
		status = create_schema(store, error_r);
	return status;
}

static enum store_status
settings_check(const struct store_settings *set, struct store_error *error_r)
{
	if (set->dir == NULL || set->dir[0] != '/') {
		return store_fail(error_r, STORE_INVALID,
				  "the directory is not an absolute path");
	}
	if (set->limits.name > STORE_NAME_MAX_SIZE) {
		return store_fail(error_r, STORE_INVALID,
				  "limits.name is above %d",
				  STORE_NAME_MAX_SIZE);
	}
	return STORE_OK;
}

enum store_status store_open(const struct store_settings *set,
			     struct store **store_r,
			     struct store_error *error_r)
{
	enum store_status status;
	struct store *store;

	*store_r = NULL;
	status = settings_check(set, error_r);
	if (status != STORE_OK)
		return status;
	store = calloc(1, sizeof(*store));
	if (store == NULL)
		return store_fail(error_r, STORE_FAILED, "out of memory");
	store->set = *set;
	store->dir_fd = store->wake_fd = -1;
	store_start(store, error_r);

	status = store_dir_open(store, error_r);
	if (status == STORE_OK)
		status = store_dir_files(store, error_r);
	if (status == STORE_OK)
		status = store_wake_open(store, error_r);
	if (status == STORE_OK)
		status = open_db(store, error_r);
	if (status == STORE_OK)
		status = store_identity_check(store, error_r);
	store->set.owner = NULL;
	/* From now on the settings show our own copy */
	store->set.dir = store->dir;
	if (status == STORE_OK)
		*store_r = store;
	else
		store_close(&store);
	return status;
}

void store_close(struct store **_store)
{
	struct store *store = *_store;
	unsigned int i;

	if (store == NULL)
		return;
	*_store = NULL;
	for (i = 0; i < STORE_STMT_COUNT; i++)
		(void)sqlite3_finalize(store->stmts[i]);
	(void)sqlite3_close(store->db);
	if (store->wake_fd != -1)
		(void)close(store->wake_fd);
	if (store->dir_fd != -1)
		(void)close(store->dir_fd);
	free(store->own);
	free(store->wake_path);
	free(store->db_path);
	free(store->dir);
	free(store);
}

const struct store_settings *store_get_settings(const struct store *store)
{
	return &store->set;
}

const char *store_get_wake_path(const struct store *store)
{
	return store->wake_path;
}
