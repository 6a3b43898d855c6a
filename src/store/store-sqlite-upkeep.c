/* What is done beside reading and writing: checkpoints and the purge after a
   reply, new epochs, and the check of everything. */

#include "store-private.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Removals forgotten in one transaction: few enough that a writer who waits
   does not notice. */
#define PURGE_BATCH 500

/* -- epochs */

enum store_status store_epoch_draw(struct store *store,
				   struct store_error *error_r)
{
	uint32_t epoch;

	do {
		if (getrandom(&epoch, sizeof(epoch), 0) !=
		    (ssize_t)sizeof(epoch)) {
			return store_fail(error_r, STORE_FAILED,
					  "getrandom failed");
		}
	} while (epoch == 0 || epoch == store->meta.epoch);
	store->meta.epoch = epoch;
	store->meta.epoch_drawn_at = time(NULL);
	return STORE_OK;
}

static enum store_status
epoch_draw_commit(struct store *store, struct store_error *error_r)
{
	enum store_status status;

	status = store_epoch_draw(store, error_r);
	if (status == STORE_OK)
		status = store_commit(store, error_r);
	else
		store_end(store);
	if (status == STORE_OK)
		store_wake(store);
	return status;
}

static bool epoch_drawn_recently(const struct store *store)
{
	int64_t now = time(NULL);

	return now >= store->meta.epoch_drawn_at &&
		now - store->meta.epoch_drawn_at < STORE_EPOCH_INTERVAL_SECS;
}

enum store_status store_epoch_beyond(struct store *store, uint64_t modseq,
				     struct store_error *error_r)
{
	uint32_t epoch = store->meta.epoch;
	enum store_status status;

	if (!epoch_drawn_recently(store)) {
		status = store_begin(store, true, error_r);
		if (status != STORE_OK)
			return status;
		if (store->meta.epoch != epoch ||
		    modseq <= store->meta.modseq ||
		    epoch_drawn_recently(store)) {
			store_end(store);
		} else {
			status = epoch_draw_commit(store, error_r);
			if (status != STORE_OK)
				return status;
			store_log(store, "%s is older than a client's "
				  "position: new epoch %u, every client starts "
				  "again", store->db_path, store->meta.epoch);
		}
	}
	return store_fail(error_r, STORE_RESET,
			  "the position is beyond the store");
}

enum store_status store_new_epoch(struct store *store, struct store_pos *pos_r,
				  struct store_error *error_r)
{
	enum store_status status;

	store_start(store, error_r);
	status = store_begin(store, true, error_r);
	if (status == STORE_OK)
		status = epoch_draw_commit(store, error_r);
	if (status == STORE_OK) {
		store_log(store, "%s: new epoch %u on request, every client "
			  "starts again", store->db_path, store->meta.epoch);
		store_get_pos(store, pos_r);
	}
	return status;
}

/* -- checkpoints */

void store_checkpoint(struct store *store)
{
	/* Passive: nobody waits for it. If a reader is in the way it copies
	   less, and the next one more; if it fails the next one tells. */
	(void)sqlite3_wal_checkpoint_v2(store->db, "main",
					SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	store->wal_checkpointed = store->wal_frames;
}

/* -- purge */

static uint64_t tombstones_max(const struct store *store)
{
	return store->set.limits.entries > INT64_MAX / 4 ?
		INT64_MAX : store->set.limits.entries * 2;
}

static uint64_t tombstones_excess(const struct store *store)
{
	uint64_t max = tombstones_max(store);

	return store->meta.tombstones > max ? store->meta.tombstones - max : 0;
}

/* Deletes what the statement names. */
static enum store_status
purge_rows(struct store *store, sqlite3_stmt *stmt, uint64_t *count,
	   struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	int64_t ids[PURGE_BATCH];
	unsigned int i, ids_count = 0;
	int ret;

	if (stmt == NULL)
		return store_sql_error(store, "purge", error_r);
	while ((ret = sqlite3_step(stmt)) == SQLITE_ROW) {
		uint64_t modseq = sqlite3_column_int64(stmt, 1);

		ids[ids_count++] = sqlite3_column_int64(stmt, 0);
		if (modseq > store->meta.floor)
			store->meta.floor = modseq;
	}
	if (ret != SQLITE_DONE)
		status = store_sql_error(store, "purge", error_r);
	(void)sqlite3_reset(stmt);
	for (i = 0; i < ids_count && status == STORE_OK; i++) {
		status = store_run(store, error_r, "purge",
				   STORE_STMT_DELETE, "i", ids[i]);
	}
	store->meta.tombstones -= ids_count;
	*count += ids_count;
	return status;
}

/* One transaction: purges up to PURGE_BATCH removals. *more_r: there are
   more. daily: only if nobody else has done it today. */
static enum store_status
purge_batch(struct store *store, int64_t now, bool daily, uint64_t *purged,
	    bool *more_r, struct store_error *error_r)
{
	uint64_t old = 0, oldest = 0, excess;
	enum store_status status;
	sqlite3_stmt *stmt;
	int64_t before;

	*more_r = false;
	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;

	if (!daily || now - store->meta.last_purge >= STORE_PURGE_INTERVAL_SECS ||
	    store->meta.last_purge > now) {
		before = store->set.tombstone_secs > (uint64_t)INT64_MAX ?
			INT64_MIN : now - (int64_t)store->set.tombstone_secs;
		stmt = store_query(store, STORE_STMT_PURGE_OLD, "ii", before,
				   (int64_t)PURGE_BATCH);
		status = purge_rows(store, stmt, &old, error_r);
		if (old < PURGE_BATCH)
			store->meta.last_purge = now;
	}
	excess = tombstones_excess(store);
	if (status == STORE_OK && excess > 0) {
		stmt = store_query(store, STORE_STMT_PURGE_OLDEST, "i",
				   (int64_t)(excess < PURGE_BATCH ?
					     excess : PURGE_BATCH));
		status = purge_rows(store, stmt, &oldest, error_r);
	}
	if (status != STORE_OK) {
		store_end(store);
		return status;
	}
	*more_r = old == PURGE_BATCH || tombstones_excess(store) > 0;
	status = store_commit(store, error_r);
	if (status != STORE_OK)
		return status;
	*purged += old + oldest;
	if (oldest > 0 && !*more_r) {
		store_log(store, "%s: more than %llu removals (twice "
			  "metasync_limit_entries), forgot the oldest; clients "
			  "that were away since then start again",
			  store->db_path,
			  (unsigned long long)tombstones_max(store));
	}
	return STORE_OK;
}

enum store_status store_purge(struct store *store, int64_t now,
			      uint64_t *purged_r, struct store_error *error_r)
{
	enum store_status status;
	bool more;

	*purged_r = 0;
	do {
		store_start(store, error_r);
		status = purge_batch(store, now, false, purged_r, &more,
				     error_r);
		if (store->wal_frames - store->wal_checkpointed >=
		    STORE_CHECKPOINT_FRAMES)
			store_checkpoint(store);
	} while (status == STORE_OK && more);
	return status;
}

void store_idle(struct store *store)
{
	uint64_t max = tombstones_max(store), purged = 0;
	int64_t now = time(NULL), last = store->meta.last_purge;
	struct store_error error;
	bool more;

	if (store->wal_frames - store->wal_checkpointed >=
	    STORE_CHECKPOINT_FRAMES) {
		/* Nobody waits for a checkpoint, so it waits for nobody */
		store->deadline = 0;
		store_checkpoint(store);
	}
	/* By count with some slack: not at each removal. One batch per call,
	   somebody may be typing. */
	if (now < store->purge_not_before ||
	    (now >= last && now - last < STORE_PURGE_INTERVAL_SECS &&
	     store->meta.tombstones <= max + max / 10))
		return;
	store_start(store, &error);
	store->deadline = 0;
	if (purge_batch(store, now, true, &purged, &more,
			&error) != STORE_OK) {
		if (error.status != STORE_BUSY)
			store_log(store, "%s", error.message);
		store->purge_not_before = now + 60 * 60;
	}
}

/* -- check */

static enum store_status
check_integrity(struct store *store, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt = NULL;
	const char *text;

	if (sqlite3_prepare_v2(store->db, "PRAGMA integrity_check(1)", -1,
			       &stmt, NULL) != SQLITE_OK ||
	    sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "check", error_r);
	} else {
		text = (const char *)sqlite3_column_text(stmt, 0);
		/* "*** in database main ***" is a line of its own */
		if (text != NULL && strchr(text, '\n') != NULL)
			text = strchr(text, '\n') + 1;
		if (text == NULL || strcmp(text, "ok") != 0) {
			status = store_fail(error_r, STORE_CORRUPT, "%s: %s",
					    store->db_path,
					    text == NULL ? "?" : text);
		}
	}
	(void)sqlite3_finalize(stmt);
	return status;
}

/* Each is true for a sound store. */
static const struct {
	const char *finding, *sql;
} check_rules[] = {
	{ "the number of entries is wrong",
	  "SELECT entries = (SELECT count(*) FROM entry"
	  " WHERE removed_at IS NULL) FROM meta" },
	{ "the number of bytes is wrong",
	  "SELECT bytes = (SELECT total(size + length(name)) FROM entry"
	  " WHERE removed_at IS NULL) FROM meta" },
	{ "the number of removals is wrong",
	  "SELECT tombstones = (SELECT count(*) FROM entry"
	  " WHERE removed_at IS NOT NULL) FROM meta" },
	{ "an entry is ahead of the position",
	  "SELECT NOT EXISTS(SELECT 1 FROM entry, meta"
	  " WHERE entry.modseq > meta.modseq OR entry.modseq < 2)" },
	{ "the floor is above the position",
	  "SELECT floor <= modseq AND floor >= 0 FROM meta" },
	{ "a value does not fit its size",
	  "SELECT NOT EXISTS(SELECT 1 FROM entry WHERE CASE"
	  " WHEN removed_at IS NULL THEN value IS NULL OR"
	  " size != length(value) ELSE value IS NOT NULL OR size != 0 END)" },
	{ "a mailbox's number of entries is wrong",
	  "SELECT NOT EXISTS(SELECT mailbox, count(*) FROM entry"
	  " WHERE removed_at IS NULL AND mailbox != '' GROUP BY mailbox"
	  " EXCEPT SELECT name, entries FROM mailbox) AND"
	  " NOT EXISTS(SELECT name, entries FROM mailbox EXCEPT"
	  " SELECT mailbox, count(*) FROM entry WHERE removed_at IS NULL"
	  " AND mailbox != '' GROUP BY mailbox)" },
};

static enum store_status
check_rule(struct store *store, const char *finding, const char *sql,
	   struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt = NULL;

	if (sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL) != SQLITE_OK ||
	    sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "check", error_r);
	} else if (sqlite3_column_int(stmt, 0) != 1) {
		status = store_fail(error_r, STORE_CORRUPT, "%s: %s",
				    store->db_path, finding);
	}
	(void)sqlite3_finalize(stmt);
	return status;
}

static enum store_status
check_names(struct store *store, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt = NULL;
	int ret;

	ret = sqlite3_prepare_v2(store->db, "SELECT id, name FROM entry", -1,
				 &stmt, NULL);
	while (ret == SQLITE_OK || ret == SQLITE_ROW) {
		const char *name;

		ret = sqlite3_step(stmt);
		if (ret != SQLITE_ROW)
			break;
		name = (const char *)sqlite3_column_text(stmt, 1);
		if (name != NULL &&
		    store_name_check(name, sqlite3_column_bytes(stmt, 1),
				     STORE_NAME_MAX_SIZE, false,
				     false) == STORE_NAME_OK)
			continue;
		status = store_fail(error_r, STORE_CORRUPT,
				    "%s: row %lld has an invalid name",
				    store->db_path, (long long)
				    sqlite3_column_int64(stmt, 0));
		break;
	}
	if (status == STORE_OK && ret != SQLITE_DONE)
		status = store_sql_error(store, "check", error_r);
	(void)sqlite3_finalize(stmt);
	return status;
}

enum store_status store_check(struct store *store,
			      struct store_error *error_r)
{
	enum store_status status;
	unsigned int i;

	store_start(store, error_r);
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	status = check_integrity(store, error_r);
	for (i = 0; i < sizeof(check_rules) / sizeof(check_rules[0]) &&
	     status == STORE_OK; i++) {
		status = check_rule(store, check_rules[i].finding,
				    check_rules[i].sql, error_r);
	}
	if (status == STORE_OK)
		status = check_names(store, error_r);
	store_end(store);
	return status;
}
