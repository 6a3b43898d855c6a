/* Statements, errors, transactions and the meta row of the replica's file. Used by the other replica*.c.

   A transaction ends before the function that began it returns; only iterators hold one (replica-read.c), for reading, on a
   connection of their own. */

#include "replica-private.h"

#include <stdarg.h>
#include <string.h>

static enum dovetail_status status_of(int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		return DOVETAIL_BUSY;
	case SQLITE_TOOBIG:
		return DOVETAIL_LIMIT;
	/* ERROR: a table or column is missing, CONSTRAINT: an index does not fit its table; our statements cause neither. */
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
	case SQLITE_CONSTRAINT:
	case SQLITE_MISMATCH:
	case SQLITE_ERROR:
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
		return DOVETAIL_REPLICA;
	default:
		break;
	}
	switch (code) {
	case SQLITE_IOERR_CORRUPTFS:
	case SQLITE_IOERR_DATA:
	case SQLITE_IOERR_SHORT_READ:
		return DOVETAIL_REPLICA;
	}
	return DOVETAIL_SYSTEM;
}

enum dovetail_status replica_db_fail(struct dovetail *replica, sqlite3 *db, const char *what)
{
	int code = sqlite3_extended_errcode(db);
	int sys_errno = sqlite3_system_errno(db);
	enum dovetail_status status = status_of(code);

	if (status == DOVETAIL_BUSY) {
		return replica_fail(replica, status, "%s: %s: held by another process for more than %d ms", replica->path, what,
				    REPLICA_BUSY_TIMEOUT);
	}
	if (status == DOVETAIL_REPLICA && (code & 0xff) != SQLITE_CANTOPEN && (code & 0xff) != SQLITE_READONLY) {
		return replica_fail(replica, status, "%s is damaged: %s: %s (%d)", replica->path, what, sqlite3_errmsg(db),
				    code);
	}
	/* The last system error may be an old one when the cause is not the system. */
	if ((code & 0xff) != SQLITE_IOERR && (code & 0xff) != SQLITE_CANTOPEN)
		sys_errno = 0;
	return replica_fail(replica, status, "%s: %s: %s (%d)%s%s", replica->path, what, sqlite3_errmsg(db), code,
			    sys_errno == 0 ? "" : ": ", sys_errno == 0 ? "" : strerror(sys_errno));
}

enum dovetail_status replica_sql_fail(struct dovetail *replica, const char *what)
{
	return replica_db_fail(replica, replica->db, what);
}

/* -- statements */

static sqlite3_stmt *prepare(struct dovetail *replica, const char *sql)
{
	unsigned int i;

	for (i = 0; i < REPLICA_STATEMENTS && replica->statements[i].sql != NULL; i++) {
		if (replica->statements[i].sql == sql) {
			(void)sqlite3_reset(replica->statements[i].stmt);
			return replica->statements[i].stmt;
		}
	}
	if (i == REPLICA_STATEMENTS ||
	    sqlite3_prepare_v3(replica->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &replica->statements[i].stmt, NULL) != SQLITE_OK)
		return NULL;
	replica->statements[i].sql = sql;
	return replica->statements[i].stmt;
}

static sqlite3_stmt *query(struct dovetail *replica, const char *sql, const char *format, va_list args)
{
	sqlite3_stmt *stmt = prepare(replica, sql);
	const struct replica_value *value;
	int i, ret = SQLITE_OK;

	if (stmt == NULL)
		return NULL;
	for (i = 1; *format != '\0' && ret == SQLITE_OK; i++, format++) {
		switch (*format) {
		case 'i':
			ret = sqlite3_bind_int64(stmt, i, va_arg(args, int64_t));
			break;
		case 't':
			ret = sqlite3_bind_text(stmt, i, va_arg(args, const char *), -1, SQLITE_STATIC);
			break;
		case 'v':
			value = va_arg(args, const struct replica_value *);
			if (value->kind != REPLICA_VALUE)
				ret = sqlite3_bind_null(stmt, i);
			else if (value->size == 0)
				ret = sqlite3_bind_zeroblob(stmt, i, 0);
			else
				ret = sqlite3_bind_blob64(stmt, i, value->data, value->size, SQLITE_STATIC);
			break;
		}
	}
	return ret == SQLITE_OK ? stmt : NULL;
}

sqlite3_stmt *replica_query(struct dovetail *replica, const char *sql, const char *format, ...)
{
	sqlite3_stmt *stmt;
	va_list args;

	va_start(args, format);
	stmt = query(replica, sql, format, args);
	va_end(args);
	return stmt;
}

enum dovetail_status replica_step(struct dovetail *replica, sqlite3_stmt *stmt, const char *what)
{
	enum dovetail_status status;
	int ret;

	if (stmt == NULL)
		return replica_sql_fail(replica, what);
	ret = sqlite3_step(stmt);
	if (ret == SQLITE_ROW)
		return DOVETAIL_OK;
	status = ret == SQLITE_DONE ? DOVETAIL_NOT_FOUND : replica_sql_fail(replica, what);
	(void)sqlite3_reset(stmt);
	return status;
}

enum dovetail_status replica_run(struct dovetail *replica, const char *what, const char *sql, const char *format, ...)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	va_list args;

	va_start(args, format);
	stmt = query(replica, sql, format, args);
	va_end(args);
	status = replica_step(replica, stmt, what);
	if (status == DOVETAIL_OK)
		(void)sqlite3_reset(stmt);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

enum dovetail_status
replica_number(struct dovetail *replica, const char *what, int64_t *number_r, const char *sql, const char *format, ...)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	va_list args;

	va_start(args, format);
	stmt = query(replica, sql, format, args);
	va_end(args);
	status = replica_step(replica, stmt, what);
	if (status == DOVETAIL_OK) {
		*number_r = sqlite3_column_int64(stmt, 0);
		(void)sqlite3_reset(stmt);
	} else if (status == DOVETAIL_NOT_FOUND) {
		status = replica_fail(replica, DOVETAIL_REPLICA, "%s is damaged: %s: a row is missing", replica->path, what);
	}
	return status;
}

void replica_value_column(sqlite3_stmt *stmt, int kind, int value, struct replica_value *value_r)
{
	value_r->kind = sqlite3_column_int(stmt, kind);
	value_r->data = sqlite3_column_blob(stmt, value);
	value_r->size = sqlite3_column_bytes(stmt, value);
	/* SQLite has no pointer for an empty one */
	if (value_r->kind != REPLICA_VALUE)
		value_r->data = NULL;
	else if (value_r->data == NULL)
		value_r->data = "";
}

/* -- transactions */

enum dovetail_status replica_end(struct dovetail *replica, enum dovetail_status status)
{
	unsigned int i;

	/* A statement that still reads would be in the way, and would hold the old state */
	for (i = 0; i < REPLICA_STATEMENTS && replica->statements[i].sql != NULL; i++)
		(void)sqlite3_reset(replica->statements[i].stmt);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "commit", "COMMIT", "");
	if (sqlite3_get_autocommit(replica->db) == 0)
		(void)sqlite3_exec(replica->db, "ROLLBACK", NULL, NULL, NULL);
	return status;
}

enum dovetail_status replica_begin(struct dovetail *replica, bool write)
{
	enum dovetail_status status;
	int moved = 0;

	if (write && (replica->flags & DOVETAIL_OPEN_READONLY) != 0)
		return replica_fail(replica, DOVETAIL_INVALID, "%s is open for reading only", replica->path);
	/* What is written into a file without a name is lost; and the WAL may be another's by now */
	(void)sqlite3_file_control(replica->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
	if (moved != 0)
		return replica_fail(replica, DOVETAIL_REPLICA, "%s was removed or replaced while it was open", replica->path);
	status = write ? replica_run(replica, "begin", "BEGIN IMMEDIATE", "") : replica_run(replica, "begin", "BEGIN", "");
	if (status == DOVETAIL_OK) {
		status = replica_codec_refresh(replica);
		if (status != DOVETAIL_OK)
			(void)replica_end(replica, status);
	}
	return status;
}

enum dovetail_status replica_meta_get(struct dovetail *replica, struct replica_meta *meta_r)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;

	memset(meta_r, 0, sizeof(*meta_r));
	stmt = replica_query(replica, "SELECT epoch, modseq, synced_at, snapshot, need_state, partial_id FROM meta WHERE one = 1",
			     "");
	status = replica_step(replica, stmt, "read the state");
	if (status == DOVETAIL_NOT_FOUND)
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is damaged: the state's row is missing", replica->path);
	if (status != DOVETAIL_OK)
		return status;
	meta_r->epoch = sqlite3_column_int64(stmt, 0);
	meta_r->modseq = sqlite3_column_int64(stmt, 1);
	meta_r->synced_at = sqlite3_column_int64(stmt, 2);
	meta_r->snapshot = sqlite3_column_int(stmt, 3) != 0;
	meta_r->need_state = sqlite3_column_int(stmt, 4) != 0;
	meta_r->partial_id = sqlite3_column_int64(stmt, 5);
	(void)sqlite3_reset(stmt);
	return DOVETAIL_OK;
}
