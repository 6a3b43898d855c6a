/* What was last in step, and the lists of a run; see mirror-record.h. */

#include "mirror-record.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1

static bool fail(struct mirror_record *record)
{
	snprintf(record->error, sizeof(record->error), "the record of what was in step: %s", sqlite3_errmsg(record->db));
	return false;
}

/* Prepared once; sql is a literal, known by its address. */
static sqlite3_stmt *statement(struct mirror_record *record, const char *sql)
{
	const unsigned int max = sizeof(record->sql) / sizeof(record->sql[0]);
	unsigned int i;

	for (i = 0; i < record->statement_count; i++) {
		if (record->sql[i] == sql)
			return record->statements[i];
	}
	if (i == max ||
	    sqlite3_prepare_v3(record->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &record->statements[i], NULL) != SQLITE_OK)
		return NULL;
	record->sql[i] = sql;
	record->statement_count++;
	return record->statements[i];
}

/* types: t text, i int64_t, b hash, for ?1 ... SQLITE_ROW, SQLITE_DONE, or others: failed. After ROW the caller resets. */
static int step(struct mirror_record *record, sqlite3_stmt **stmt_r, const char *sql, const char *types, ...)
{
	sqlite3_stmt *stmt = statement(record, sql);
	va_list args;
	int i, ret;

	*stmt_r = stmt;
	if (stmt == NULL)
		return SQLITE_ERROR;
	va_start(args, types);
	for (i = 0; types[i] != '\0'; i++) {
		if (types[i] == 't')
			(void)sqlite3_bind_text(stmt, i + 1, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
		else if (types[i] == 'i')
			(void)sqlite3_bind_int64(stmt, i + 1, va_arg(args, int64_t));
		else
			(void)sqlite3_bind_blob(stmt, i + 1, va_arg(args, const void *), MIRROR_HASH_SIZE, SQLITE_TRANSIENT);
	}
	va_end(args);
	ret = sqlite3_step(stmt);
	if (ret != SQLITE_ROW)
		(void)sqlite3_reset(stmt);
	return ret;
}

#define RUN(...) (step(record, &stmt, __VA_ARGS__) == SQLITE_DONE || fail(record))

/* of the first column; *stmt is set by the step() among the arguments */
static bool number(struct mirror_record *record, int ret, sqlite3_stmt **stmt_p, int64_t *number_r)
{
	sqlite3_stmt *stmt = *stmt_p;

	if (ret != SQLITE_ROW)
		return fail(record);
	*number_r = sqlite3_column_type(stmt, 0) == SQLITE_NULL ? -1 : sqlite3_column_int64(stmt, 0);
	(void)sqlite3_reset(stmt);
	return true;
}

static bool run_all(struct mirror_record *record, const char *sql)
{
	return sqlite3_exec(record->db, sql, NULL, NULL, NULL) == SQLITE_OK || fail(record);
}

static bool check_version(struct mirror_record *record)
{
	sqlite3_stmt *stmt;
	int64_t version;

	if (!number(record, step(record, &stmt, "PRAGMA user_version", ""), &stmt, &version))
		return false;
	if (version <= VERSION)
		return true;
	snprintf(record->error, sizeof(record->error), "the record of what was in step is of a newer dovetail");
	return false;
}

bool mirror_record_open(struct mirror_record *record, const char *path)
{
	memset(record, 0, sizeof(*record));
	if (sqlite3_open_v2(path, &record->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, NULL) !=
	    SQLITE_OK)
		return fail(record);
	(void)sqlite3_busy_timeout(record->db, 5000);
	/* FULL: a record that a power cut has made older could take a file that came back since for one that was removed here,
	   and an edit that the library has dropped in a conflict for what others have overwritten */
	return run_all(record, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;"
		       "PRAGMA temp.journal_mode = MEMORY") &&
		check_version(record) &&
		run_all(record,
			"BEGIN IMMEDIATE;"
			"CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);"
			"CREATE TABLE IF NOT EXISTS base(name TEXT PRIMARY KEY, hash BLOB NOT NULL, conflict INTEGER NOT NULL,"
			" dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER);"
			"CREATE TABLE IF NOT EXISTS intent(name TEXT PRIMARY KEY, hash BLOB NOT NULL);"
			"PRAGMA user_version = 1;"
			"COMMIT;"
			"CREATE TEMP TABLE look(name TEXT PRIMARY KEY, due INTEGER NOT NULL) WITHOUT ROWID;"
			"CREATE INDEX temp.look_due ON look(due);"
			"CREATE TEMP TABLE work(name TEXT PRIMARY KEY) WITHOUT ROWID;"
			"CREATE TEMP TABLE seen(name TEXT PRIMARY KEY, what INTEGER NOT NULL) WITHOUT ROWID;"
			"CREATE TEMP TABLE busy(name TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;"
			"CREATE TEMP TABLE sent(name TEXT PRIMARY KEY, how INTEGER NOT NULL) WITHOUT ROWID;"
			"CREATE TEMP TABLE told(text TEXT PRIMARY KEY) WITHOUT ROWID");
}

void mirror_record_close(struct mirror_record *record)
{
	unsigned int i;

	for (i = 0; i < record->statement_count; i++)
		(void)sqlite3_finalize(record->statements[i]);
	(void)sqlite3_close(record->db);
	memset(record, 0, sizeof(*record));
}

bool mirror_record_transaction(struct mirror_record *record, bool begin)
{
	/* one that fails does not stay: what was to be in it is listed again or ends the mirror */
	if (run_all(record, begin ? "BEGIN" : "COMMIT"))
		return true;
	if (!begin && sqlite3_get_autocommit(record->db) == 0)
		(void)sqlite3_exec(record->db, "ROLLBACK", NULL, NULL, NULL);
	return false;
}

bool mirror_record_meta(struct mirror_record *record, const char *key, char *value_r, size_t size)
{
	sqlite3_stmt *stmt;
	int ret = step(record, &stmt, "SELECT value FROM meta WHERE key = ?1", "t", key);

	*value_r = '\0';
	if (ret == SQLITE_ROW) {
		snprintf(value_r, size, "%s", (const char *)sqlite3_column_text(stmt, 0));
		(void)sqlite3_reset(stmt);
	}
	return ret == SQLITE_ROW || ret == SQLITE_DONE || fail(record);
}

static bool set_meta(struct mirror_record *record, const char *key, const char *value)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", "tt", key, value);
}

bool mirror_record_begin_anew(struct mirror_record *record, const char *marker, const char *target)
{
	/* all or nothing: who is killed in between has to find one that it can go on with */
	return run_all(record, "BEGIN IMMEDIATE; DELETE FROM base; DELETE FROM intent; DELETE FROM meta") &&
		set_meta(record, "marker", marker) && set_meta(record, "target", target) && run_all(record, "COMMIT");
}

/* ---- Bases ---- */

bool mirror_record_get(struct mirror_record *record, const char *name, struct mirror_base *base_r)
{
	sqlite3_stmt *stmt;
	int ret;

	memset(base_r, 0, sizeof(*base_r));
	ret = step(record, &stmt, "SELECT hash FROM intent WHERE name = ?1", "t", name);
	if (ret == SQLITE_ROW) {
		base_r->intended = sqlite3_column_bytes(stmt, 0) == MIRROR_HASH_SIZE;
		if (base_r->intended)
			memcpy(base_r->intent, sqlite3_column_blob(stmt, 0), MIRROR_HASH_SIZE);
		(void)sqlite3_reset(stmt);
	}
	ret = step(record, &stmt, "SELECT hash, conflict, dev, ino, size, mtime, ctime FROM base WHERE name = ?1", "t", name);
	if (ret == SQLITE_DONE)
		return true;
	if (ret != SQLITE_ROW)
		return fail(record);
	base_r->known = true;
	base_r->conflict = sqlite3_column_int(stmt, 1) != 0;
	if (sqlite3_column_bytes(stmt, 0) == MIRROR_HASH_SIZE)
		memcpy(base_r->hash, sqlite3_column_blob(stmt, 0), MIRROR_HASH_SIZE);
	else
		base_r->conflict = true;
	base_r->stat.dev = sqlite3_column_int64(stmt, 2);
	base_r->stat.ino = sqlite3_column_int64(stmt, 3);
	base_r->stat.size = sqlite3_column_int64(stmt, 4);
	base_r->stat.mtime = sqlite3_column_int64(stmt, 5);
	base_r->stat.ctime = sqlite3_column_int64(stmt, 6);
	(void)sqlite3_reset(stmt);
	return true;
}

static bool forget_intent(struct mirror_record *record, const char *name)
{
	sqlite3_stmt *stmt;

	return RUN("DELETE FROM intent WHERE name = ?1", "t", name);
}

bool mirror_record_intend(struct mirror_record *record, const char *name, const unsigned char hash[MIRROR_HASH_SIZE])
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR REPLACE INTO intent VALUES(?1, ?2)", "tb", name, hash);
}

bool mirror_record_quick(struct mirror_record *record, bool quick)
{
	return run_all(record, quick ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
}

bool mirror_record_put(struct mirror_record *record, const char *name, const struct mirror_base *base)
{
	sqlite3_stmt *stmt;

	return forget_intent(record, name) &&
		RUN("INSERT OR REPLACE INTO base(name, hash, conflict, dev, ino, size, mtime, ctime)"
		   " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", "tbiiiiii", name, base->hash, (int64_t)base->conflict,
		   (int64_t)base->stat.dev, (int64_t)base->stat.ino, (int64_t)base->stat.size, base->stat.mtime, base->stat.ctime);
}

bool mirror_record_remove(struct mirror_record *record, const char *name)
{
	sqlite3_stmt *stmt;

	return forget_intent(record, name) && RUN("DELETE FROM base WHERE name = ?1", "t", name);
}

bool mirror_record_count(struct mirror_record *record, uint64_t *count_r)
{
	sqlite3_stmt *stmt;

	return number(record, step(record, &stmt, "SELECT count(*) FROM base", ""), &stmt, (int64_t *)count_r);
}

/* ---- Lists ---- */

bool mirror_record_look(struct mirror_record *record, const char *name, int64_t due)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT INTO temp.look VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET due = min(due, excluded.due)", "ti",
		   name, due);
}

bool mirror_record_busy(struct mirror_record *record, const char *name, int64_t now, int64_t *since_r)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR IGNORE INTO temp.busy VALUES(?1, ?2)", "ti", name, now) &&
		number(record, step(record, &stmt, "SELECT since FROM temp.busy WHERE name = ?1", "t", name), &stmt, since_r);
}

bool mirror_record_not_busy(struct mirror_record *record, const char *name)
{
	sqlite3_stmt *stmt;

	return RUN("DELETE FROM temp.busy WHERE name = ?1", "t", name);
}

bool mirror_record_set_sent(struct mirror_record *record, const char *name, enum mirror_sent how)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR REPLACE INTO temp.sent VALUES(?1, ?2)", "ti", name, (int64_t)how);
}

bool mirror_record_sent(struct mirror_record *record, const char *name, enum mirror_sent *how_r)
{
	sqlite3_stmt *stmt;
	int64_t how = 0;

	if (!number(record, step(record, &stmt, "SELECT ifnull((SELECT how FROM temp.sent WHERE name = ?1), 0)", "t", name), &stmt,
		    &how))
		return false;
	*how_r = how;
	return true;
}

bool mirror_record_begin(struct mirror_record *record, int64_t now, uint64_t *count_r, uint64_t *known_r)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR IGNORE INTO temp.work SELECT name FROM temp.look WHERE due <= ?1", "i", now) &&
		RUN("DELETE FROM temp.look WHERE due <= ?1", "i", now) &&
		number(record, step(record, &stmt, "SELECT count(*) FROM temp.work", ""), &stmt, (int64_t *)count_r) &&
		number(record, step(record, &stmt, "SELECT count(*) FROM temp.work JOIN base USING(name)", ""), &stmt,
		       (int64_t *)known_r);
}

bool mirror_record_next(struct mirror_record *record, const char *after, bool first, char name_r[MIRROR_ENTRY_MAX + 1],
			bool *found_r)
{
	sqlite3_stmt *stmt;
	int ret;

	ret = step(record, &stmt, "SELECT name FROM temp.work WHERE name > ?1 OR (?2 AND name = ?1) ORDER BY name LIMIT 1", "ti",
		   after, (int64_t)first);
	*found_r = ret == SQLITE_ROW;
	if (ret == SQLITE_ROW) {
		snprintf(name_r, MIRROR_ENTRY_MAX + 1, "%s", (const char *)sqlite3_column_text(stmt, 0));
		(void)sqlite3_reset(stmt);
	}
	return ret == SQLITE_ROW || ret == SQLITE_DONE || fail(record);
}

bool mirror_record_done(struct mirror_record *record, const char *name)
{
	sqlite3_stmt *stmt;

	return RUN("DELETE FROM temp.work WHERE name = ?1", "t", name);
}

bool mirror_record_put_back(struct mirror_record *record, int64_t due)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT OR IGNORE INTO temp.look SELECT name, ?1 FROM temp.work", "i", due) && RUN("DELETE FROM temp.work", "");
}

bool mirror_record_due(struct mirror_record *record, int64_t *due_r)
{
	sqlite3_stmt *stmt;

	return number(record, step(record, &stmt, "SELECT min(due) FROM temp.look", ""), &stmt, due_r);
}

/* ---- Comparing ---- */

bool mirror_record_unsee(struct mirror_record *record)
{
	return run_all(record, "DELETE FROM temp.seen");
}

bool mirror_record_see(struct mirror_record *record, const char *name, unsigned int what)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT INTO temp.seen VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET what = what | excluded.what", "ti", name,
		   (int64_t)what);
}

bool mirror_record_look_unseen(struct mirror_record *record, unsigned int what, int64_t due)
{
	sqlite3_stmt *stmt;

	return RUN("INSERT INTO temp.look SELECT b.name, ?1 FROM base b LEFT JOIN temp.seen s ON s.name = b.name"
		   " WHERE ifnull(s.what, 0) & ?2 != ?2 ON CONFLICT(name) DO UPDATE SET due = min(due, excluded.due)", "ii", due,
		   (int64_t)what);
}

bool mirror_record_tell(struct mirror_record *record, const char *text)
{
	sqlite3_stmt *stmt;

	/* a list that has failed tells once more, no harm */
	return step(record, &stmt, "INSERT OR IGNORE INTO temp.told VALUES(?1)", "t", text) != SQLITE_DONE ||
		sqlite3_changes(record->db) > 0;
}
