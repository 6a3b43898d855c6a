/* The SQLite engine's ground floor: statements, errors, waiting, transactions
   and the meta row. Used by the other store-sqlite files only.

   Every call is one or a few short transactions; none outlives the call, so
   that the WAL can be checkpointed whenever nobody writes. */

#include "store-private.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define READ_COLUMNS \
	"id, modseq, mailbox, name, size, removed_at IS NULL," \
	" CASE WHEN size <= ?1 THEN value END"

/* Parameters are numbered so that the text shows the order of binding. */
static const char *const stmt_sql[STORE_STMT_COUNT] = {
	[STORE_STMT_BEGIN] = "BEGIN",
	[STORE_STMT_BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[STORE_STMT_COMMIT] = "COMMIT",
	[STORE_STMT_ROLLBACK] = "ROLLBACK",
	[STORE_STMT_META_GET] =
		"SELECT epoch, epoch_drawn_at, modseq, floor, entries, bytes,"
		" tombstones, last_purge, inode, birth, fsid FROM meta WHERE one = 1",
	[STORE_STMT_META_SET] =
		"UPDATE meta SET epoch = ?1, epoch_drawn_at = ?2,"
		" modseq = ?3, floor = ?4, entries = ?5, bytes = ?6,"
		" tombstones = ?7, last_purge = ?8, inode = ?9, birth = ?10,"
		" fsid = ?11 WHERE one = 1",
	[STORE_STMT_OWNER_GET] = "SELECT owner FROM meta WHERE one = 1",
	[STORE_STMT_OWNER_SET] = "UPDATE meta SET owner = ?1 WHERE one = 1",
	[STORE_STMT_WITNESS_GET] = "SELECT witness FROM meta WHERE one = 1",
	[STORE_STMT_WITNESS_SET] = "UPDATE meta SET witness = ?1 WHERE one = 1",
	/* The value only if it may be equal to the new one. */
	[STORE_STMT_FIND] =
		"SELECT id, modseq, size, removed_at IS NULL,"
		" CASE WHEN size = ?3 THEN value END"
		" FROM entry WHERE mailbox = ?1 AND name = ?2",
	[STORE_STMT_INSERT] =
		"INSERT INTO entry(modseq, mailbox, name, size, value)"
		" VALUES(?1, ?2, ?3, ?4, ?5)",
	[STORE_STMT_UPDATE] =
		"UPDATE entry SET modseq = ?1, size = ?2, removed_at = ?3,"
		" value = ?4 WHERE id = ?5",
	[STORE_STMT_VALUE] = "SELECT value FROM entry WHERE id = ?1",
	/* Small values come with the row, the others are fetched if they are
	   wanted. Two statements: SQLite would not go straight to the row for
	   (modseq, id) > (?, ?), and a set may be large. */
	[STORE_STMT_READ_SET] =
		"SELECT " READ_COLUMNS " FROM entry"
		" WHERE modseq = ?2 AND id > ?3 ORDER BY id",
	[STORE_STMT_READ] =
		"SELECT " READ_COLUMNS " FROM entry"
		" WHERE modseq > ?2 ORDER BY modseq, id",
	[STORE_STMT_MAILBOX_COUNT] =
		"INSERT INTO mailbox(name, entries) VALUES(?1, ?2)"
		" ON CONFLICT(name) DO UPDATE"
		" SET entries = entries + excluded.entries",
	[STORE_STMT_MAILBOX_GUID] =
		"UPDATE mailbox SET guid = ?2"
		" WHERE name = ?1 AND guid IS NOT ?2",
	[STORE_STMT_MAILBOX_IS] =
		"SELECT 1 FROM mailbox WHERE name = ?1 AND guid = ?2",
	[STORE_STMT_MAILBOX_CLEAN] =
		"DELETE FROM mailbox WHERE name = ?1 AND entries = 0",
	[STORE_STMT_MAILBOX_LIST] =
		"SELECT name, guid FROM mailbox WHERE entries > 0"
		" ORDER BY name",
	[STORE_STMT_MAILBOX_BELOW] =
		"SELECT name FROM mailbox WHERE (name = ?1 OR"
		" (name >= ?2 AND name < ?3)) AND entries > 0",
	[STORE_STMT_MAILBOX_SUM] =
		"SELECT count(*), total(removed_at IS NOT NULL),"
		" total(CASE WHEN removed_at IS NULL"
		" THEN size + length(name) END)"
		" FROM entry WHERE mailbox = ?1",
	[STORE_STMT_MAILBOX_REMOVE] =
		"UPDATE entry SET modseq = ?1, size = 0, removed_at = ?2,"
		" value = NULL WHERE mailbox = ?3 AND removed_at IS NULL",
	[STORE_STMT_MAILBOX_REMOVE_ROW] =
		"DELETE FROM mailbox WHERE name = ?1",
	[STORE_STMT_MOVE_REMOVE] =
		"UPDATE entry SET modseq = ?1, size = 0, removed_at = ?2,"
		" value = NULL WHERE mailbox = ?3 AND removed_at IS NULL"
		" AND NOT EXISTS(SELECT 1 FROM entry AS e WHERE e.mailbox = ?4"
		" AND e.name = entry.name AND e.removed_at IS NULL)",
	[STORE_STMT_MOVE_REPLACE] =
		"DELETE FROM entry WHERE mailbox = ?1"
		" AND EXISTS(SELECT 1 FROM entry AS e WHERE e.mailbox = ?2"
		" AND e.name = entry.name AND e.removed_at IS NULL)",
	[STORE_STMT_MOVE] =
		"UPDATE entry SET modseq = ?1, mailbox = ?2"
		" WHERE mailbox = ?3 AND removed_at IS NULL",
	[STORE_STMT_MOVE_TOMBSTONES] =
		"INSERT INTO entry(modseq, mailbox, name, size, removed_at)"
		" SELECT ?1, ?2, name, 0, ?3 FROM entry"
		" WHERE mailbox = ?4 AND removed_at IS NULL",
	[STORE_STMT_MOVE_MAILBOX] =
		"UPDATE OR REPLACE mailbox SET name = ?1 WHERE name = ?2",
	[STORE_STMT_MERGE_REPLACE] =
		"DELETE FROM entry WHERE mailbox = ?1"
		" AND EXISTS(SELECT 1 FROM entry AS e WHERE e.mailbox = ?2"
		" AND e.name = entry.name AND e.removed_at IS NULL"
		" AND e.modseq >= entry.modseq)",
	[STORE_STMT_MERGE] =
		"UPDATE entry SET modseq = ?1, mailbox = ?2"
		" WHERE mailbox = ?3 AND removed_at IS NULL"
		" AND NOT EXISTS(SELECT 1 FROM entry AS e WHERE e.mailbox = ?2"
		" AND e.name = entry.name)",
	[STORE_STMT_MERGE_TOMBSTONES] =
		"INSERT INTO entry(modseq, mailbox, name, size, removed_at)"
		" SELECT ?1, ?2, name, 0, ?3 FROM entry"
		" WHERE mailbox = ?4 AND modseq = ?1",
	[STORE_STMT_MERGE_COUNT] =
		"INSERT INTO mailbox(name, entries, guid)"
		" SELECT ?1, (SELECT count(*) FROM entry"
		" WHERE mailbox = ?1 AND removed_at IS NULL), guid"
		" FROM mailbox WHERE name = ?2"
		" ON CONFLICT(name) DO UPDATE SET entries = excluded.entries",
	[STORE_STMT_PURGE_OLD] =
		"SELECT id, modseq FROM entry WHERE removed_at IS NOT NULL"
		" AND removed_at < ?1 ORDER BY modseq LIMIT ?2",
	[STORE_STMT_PURGE_OLDEST] =
		"SELECT id, modseq FROM entry WHERE removed_at IS NOT NULL"
		" ORDER BY modseq LIMIT ?1",
	[STORE_STMT_DELETE] = "DELETE FROM entry WHERE id = ?1",
};

static int64_t now_msecs(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void store_start(struct store *store, struct store_error *error_r)
{
	store->deadline = now_msecs() + store->set.busy_timeout_msecs;
	error_r->status = STORE_OK;
	error_r->message[0] = '\0';
}

int store_busy_handler(void *context, int tries)
{
	struct store *store = context;
	struct timespec ts = { 0, 0 };
	int64_t left = store->deadline - now_msecs();

	if (left <= 0)
		return 0;
	/* A commit takes about as long as its fsync. Short steps at first, so
	   that many writers in a row lose little; then easier on the CPU. */
	if (tries < 20)
		ts.tv_nsec = 500 * 1000;
	else if (tries < 100 || left < 20)
		ts.tv_nsec = 2 * 1000 * 1000;
	else
		ts.tv_nsec = 20 * 1000 * 1000;
	(void)nanosleep(&ts, NULL);
	return 1;
}

static enum store_status status_of(int code)
{
	switch (code) {
	case SQLITE_CANTOPEN_SYMLINK:
		return STORE_REFUSED;
	case SQLITE_IOERR_CORRUPTFS:
	case SQLITE_IOERR_DATA:
	case SQLITE_IOERR_SHORT_READ:
		return STORE_CORRUPT;
	}
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		return STORE_BUSY;
	/* ERROR: a table or column is missing, CONSTRAINT: an index does not
	   fit its table; our statements cause neither. */
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
	case SQLITE_CONSTRAINT:
	case SQLITE_MISMATCH:
	case SQLITE_ERROR:
		return STORE_CORRUPT;
	default:
		return STORE_FAILED;
	}
}

enum store_status store_sql_error(struct store *store, const char *what,
				  struct store_error *error_r)
{
	int code = sqlite3_extended_errcode(store->db);
	int sys_errno = sqlite3_system_errno(store->db);
	enum store_status status = status_of(code);

	if (status == STORE_BUSY) {
		return store_fail(error_r, status,
			"%s: %s: held by another process for more than %u ms "
			"(metasync_busy_timeout)",
			store->db_path, what, store->set.busy_timeout_msecs);
	}
	if (code == SQLITE_READONLY_DIRECTORY) {
		return store_fail(error_r, status,
				  "%s is not writable for uid %ld",
				  store->dir, (long)geteuid());
	}
	/* The last system error may be an old one when the cause is not the
	   system. */
	if (status == STORE_CORRUPT || sys_errno == 0) {
		return store_fail(error_r, status, "%s: %s: %s (%d)",
				  store->db_path, what,
				  sqlite3_errmsg(store->db), code);
	}
	return store_fail(error_r, status, "%s: %s: %s (%d): %s",
			  store->db_path, what, sqlite3_errmsg(store->db),
			  code, strerror(sys_errno));
}

static sqlite3_stmt *query(struct store *store, enum store_stmt which,
			   const char *format, va_list args)
{
	sqlite3_stmt **stmt = &store->stmts[which];
	const void *data;
	int i, ret = SQLITE_OK;

	if (*stmt != NULL)
		(void)sqlite3_reset(*stmt);
	else if (sqlite3_prepare_v3(store->db, stmt_sql[which], -1,
				    SQLITE_PREPARE_PERSISTENT, stmt,
				    NULL) != SQLITE_OK)
		return NULL;

	for (i = 1; *format != '\0' && ret == SQLITE_OK; i++, format++) {
		switch (*format) {
		case 'i':
			ret = sqlite3_bind_int64(*stmt, i,
						 va_arg(args, int64_t));
			break;
		case 't':
			ret = sqlite3_bind_text(*stmt, i,
						va_arg(args, const char *), -1,
						SQLITE_STATIC);
			break;
		case 'b':
			data = va_arg(args, const void *);
			ret = sqlite3_bind_blob64(*stmt, i, data,
						  va_arg(args, size_t),
						  SQLITE_STATIC);
			break;
		case 'n':
			ret = sqlite3_bind_null(*stmt, i);
			break;
		}
	}
	return ret == SQLITE_OK ? *stmt : NULL;
}

sqlite3_stmt *store_query(struct store *store, enum store_stmt which,
			  const char *format, ...)
{
	sqlite3_stmt *stmt;
	va_list args;

	va_start(args, format);
	stmt = query(store, which, format, args);
	va_end(args);
	return stmt;
}

enum store_status store_run(struct store *store, struct store_error *error_r,
			    const char *what, enum store_stmt which,
			    const char *format, ...)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;
	va_list args;

	va_start(args, format);
	stmt = query(store, which, format, args);
	va_end(args);
	if (stmt == NULL || sqlite3_step(stmt) != SQLITE_DONE)
		status = store_sql_error(store, what, error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

static enum store_status
meta_read(struct store *store, struct store_error *error_r)
{
	struct store_meta *meta = &store->meta;
	sqlite3_stmt *stmt;
	int ret;

	stmt = store_query(store, STORE_STMT_META_GET, "");
	ret = stmt == NULL ? SQLITE_ERROR : sqlite3_step(stmt);
	if (ret == SQLITE_ROW) {
		meta->epoch = (uint32_t)sqlite3_column_int64(stmt, 0);
		meta->epoch_drawn_at = sqlite3_column_int64(stmt, 1);
		meta->modseq = sqlite3_column_int64(stmt, 2);
		meta->floor = sqlite3_column_int64(stmt, 3);
		meta->entries = sqlite3_column_int64(stmt, 4);
		meta->bytes = sqlite3_column_int64(stmt, 5);
		meta->tombstones = sqlite3_column_int64(stmt, 6);
		meta->last_purge = sqlite3_column_int64(stmt, 7);
		meta->inode = sqlite3_column_int64(stmt, 8);
		meta->birth = sqlite3_column_int64(stmt, 9);
		meta->fsid = sqlite3_column_int64(stmt, 10);
		(void)sqlite3_reset(stmt);
		if (meta->epoch == 0 || meta->modseq == 0) {
			return store_fail(error_r, STORE_CORRUPT,
				"%s: there is no position", store->db_path);
		}
		return STORE_OK;
	}
	if (ret == SQLITE_DONE) {
		(void)sqlite3_reset(stmt);
		return store_fail(error_r, STORE_CORRUPT,
				  "%s: the state's row is missing",
				  store->db_path);
	}
	(void)store_sql_error(store, "read the state", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return error_r->status;
}

/* Somebody put another file in the database's place: what we would write or
   read now is a file that nobody else sees. */
bool store_is_replaced(struct store *store)
{
	int moved = 0;

	if (sqlite3_file_control(store->db, "main", SQLITE_FCNTL_HAS_MOVED,
				 &moved) == SQLITE_OK && moved != 0)
		return true;
	store->in_place_at = now_msecs();
	return false;
}

enum store_status
store_check_replaced(struct store *store, struct store_error *error_r)
{
	/* The caller has just asked */
	if (store->in_place_at == now_msecs() || !store_is_replaced(store))
		return STORE_OK;
	return store_fail(error_r, STORE_FAILED,
			  "%s was removed or replaced while it was in use: the "
			  "next command opens what is there now",
			  store->db_path);
}

/* A WAL that grows costs a commit 20 to 40 % more: the file system has to
   write its size as well. So it is made large at once. Must be called in a
   write transaction, when nobody else writes to the WAL. */
static void wal_extend(struct store *store)
{
	sqlite3_int64 size = STORE_WAL_SIZE;
	sqlite3_file *file = NULL;
	int chunk = STORE_WAL_SIZE;

	store->wal_extended = true;
	if (sqlite3_file_control(store->db, "main",
				 SQLITE_FCNTL_JOURNAL_POINTER,
				 &file) != SQLITE_OK ||
	    file == NULL || file->pMethods == NULL)
		return;
	/* No space for it is no reason to fail */
	if (file->pMethods->xFileControl(file, SQLITE_FCNTL_CHUNK_SIZE,
					 &chunk) == SQLITE_OK)
		(void)file->pMethods->xFileControl(file,
						   SQLITE_FCNTL_SIZE_HINT,
						   &size);
}

enum store_status
store_begin_unchecked(struct store *store, bool write,
		      struct store_error *error_r)
{
	enum store_status status;

	status = store_run(store, error_r, "begin", write ?
			   STORE_STMT_BEGIN_WRITE : STORE_STMT_BEGIN, "");
	if (status != STORE_OK)
		return status;
	status = meta_read(store, error_r);
	if (status != STORE_OK) {
		store_end(store);
		return status;
	}
	if (write && !store->wal_extended)
		wal_extend(store);
	if (write)
		store_wake_set_start(store);
	return STORE_OK;
}

enum store_status store_begin(struct store *store, bool write,
			      struct store_error *error_r)
{
	enum store_status status;

	status = store_begin_unchecked(store, write, error_r);
	/* Not before it: it may have waited for others for long */
	if (status == STORE_OK) {
		status = store_check_replaced(store, error_r);
		if (status != STORE_OK)
			store_end(store);
	}
	return status;
}

void store_end(struct store *store)
{
	struct store_error error;

	if (sqlite3_get_autocommit(store->db) == 0)
		(void)store_run(store, &error, "rollback",
				STORE_STMT_ROLLBACK, "");
}

enum store_status store_commit(struct store *store,
			       struct store_error *error_r)
{
	const struct store_meta *meta = &store->meta;
	enum store_status status;

	status = store_run(store, error_r, "write the state",
			   STORE_STMT_META_SET, "iiiiiiiiiii",
			   (int64_t)meta->epoch, meta->epoch_drawn_at,
			   meta->modseq, meta->floor, meta->entries,
			   meta->bytes, meta->tombstones, meta->last_purge,
			   meta->inode, meta->birth, meta->fsid);
	if (status == STORE_OK) {
		status = store_run(store, error_r, "commit",
				   STORE_STMT_COMMIT, "");
	}
	store_end(store);
	return status;
}

void store_get_pos(const struct store *store, struct store_pos *pos_r)
{
	pos_r->epoch = store->meta.epoch;
	pos_r->modseq = store->meta.modseq;
}
