/* Change sets: conditions, limits and the commit. The way of a write: checked without the
   database, BEGIN IMMEDIATE, condition, rows, limits, COMMIT (the one fsync),
   wake. */

#include "store-private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* -- checks before the transaction */

static enum store_status
change_check(const struct store *store, const struct store_change *change,
	     struct store_error *error_r)
{
	if (change->mailbox == NULL || change->name == NULL)
		return store_fail(error_r, STORE_INVALID, "a name is missing");
	switch (store_name_check(change->name, strlen(change->name),
				 store->set.limits.name, false, false)) {
	case STORE_NAME_OK:
		break;
	case STORE_NAME_INVALID:
		return store_fail(error_r, STORE_INVALID,
				  "an entry name is invalid");
	case STORE_NAME_TOO_LONG:
		return store_fail(error_r, STORE_LIMIT,
				  "an entry name is too long");
	}
	if (change->value != NULL &&
	    change->value_size > store->set.limits.value) {
		return store_fail(error_r, STORE_VALUE_TOO_BIG,
				  "a value is too big");
	}
	return STORE_OK;
}

static int change_cmp(const void *p1, const void *p2)
{
	const struct store_change *const *c1 = p1, *const *c2 = p2;
	int ret;

	ret = strcmp((*c1)->mailbox, (*c2)->mailbox);
	return ret != 0 ? ret : strcmp((*c1)->name, (*c2)->name);
}

static enum store_status
duplicates_check(const struct store_change *changes, size_t count,
		 struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	const struct store_change **sorted;
	size_t i;

	if (count < 2)
		return STORE_OK;
	sorted = calloc(count, sizeof(*sorted));
	if (sorted == NULL)
		return store_fail(error_r, STORE_FAILED, "out of memory");
	for (i = 0; i < count; i++)
		sorted[i] = &changes[i];
	qsort(sorted, count, sizeof(*sorted), change_cmp);
	for (i = 1; i < count && status == STORE_OK; i++) {
		if (change_cmp(&sorted[i - 1], &sorted[i]) == 0) {
			status = store_fail(error_r, STORE_INVALID,
					    "an entry is there twice");
		}
	}
	free(sorted);
	return status;
}

static enum store_status
changes_check(const struct store *store, const struct store_change *changes,
	      size_t count, struct store_error *error_r)
{
	enum store_status status;
	size_t i;

	if (count > store->set.limits.set) {
		return store_fail(error_r, STORE_LIMIT,
				  "too many changes in a set");
	}
	for (i = 0; i < count; i++) {
		status = change_check(store, &changes[i], error_r);
		if (status != STORE_OK)
			return status;
	}
	return duplicates_check(changes, count, error_r);
}

/* -- one entry */

struct row {
	int64_t id;		/* 0: there is none */
	uint64_t modseq, size;
	bool live;
	bool same;		/* has the change's value already */
};

static enum store_status
row_find(struct store *store, const struct store_change *change,
	 struct row *row_r, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;
	int ret;

	memset(row_r, 0, sizeof(*row_r));
	stmt = store_query(store, STORE_STMT_FIND, "tti", change->mailbox,
			   change->name, change->value == NULL ? (int64_t)-1 :
			   (int64_t)change->value_size);
	ret = stmt == NULL ? SQLITE_ERROR : sqlite3_step(stmt);
	if (ret == SQLITE_ROW) {
		row_r->id = sqlite3_column_int64(stmt, 0);
		row_r->modseq = sqlite3_column_int64(stmt, 1);
		row_r->size = sqlite3_column_int64(stmt, 2);
		row_r->live = sqlite3_column_int(stmt, 3) != 0;
		row_r->same = row_r->live && change->value != NULL &&
			row_r->size == change->value_size &&
			(size_t)sqlite3_column_bytes(stmt, 4) ==
				change->value_size &&
			(change->value_size == 0 ||
			 memcmp(sqlite3_column_blob(stmt, 4), change->value,
				change->value_size) == 0);
	} else if (ret != SQLITE_DONE) {
		status = store_sql_error(store, "look up", error_r);
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

static enum store_status
mailbox_count(struct store *store, const char *mailbox, int64_t diff,
	      struct store_error *error_r)
{
	enum store_status status;

	if (mailbox[0] == '\0' || diff == 0)
		return STORE_OK;
	status = store_run(store, error_r, "write", STORE_STMT_MAILBOX_COUNT,
			   "ti", mailbox, diff);
	if (status == STORE_OK && diff < 0) {
		status = store_run(store, error_r, "write",
				   STORE_STMT_MAILBOX_CLEAN, "t", mailbox);
	}
	return status;
}

static enum store_status
row_remove(struct store *store, const struct store_change *change,
	   const struct row *row, uint64_t modseq, struct store_error *error_r)
{
	struct store_meta *meta = &store->meta;

	meta->entries--;
	meta->bytes -= row->size + strlen(change->name);
	meta->tombstones++;
	if (store_run(store, error_r, "write", STORE_STMT_UPDATE, "iiini",
		      (int64_t)modseq, (int64_t)0, (int64_t)time(NULL),
		      row->id) != STORE_OK)
		return error_r->status;
	store_wake_set_add(store, change, row->id);
	return mailbox_count(store, change->mailbox, -1, error_r);
}

static enum store_status
row_set(struct store *store, const struct store_change *change,
	const struct row *row, uint64_t modseq, struct store_error *error_r)
{
	struct store_meta *meta = &store->meta;

	meta->bytes += change->value_size;
	if (row->live) {
		meta->bytes -= row->size;
	} else {
		meta->bytes += strlen(change->name);
		meta->entries++;
	}
	if (row->id == 0) {
		(void)store_run(store, error_r, "write", STORE_STMT_INSERT,
				"ittib", (int64_t)modseq, change->mailbox,
				change->name, (int64_t)change->value_size,
				change->value, change->value_size);
	} else {
		if (!row->live)
			meta->tombstones--;
		(void)store_run(store, error_r, "write", STORE_STMT_UPDATE,
				"iinbi", (int64_t)modseq,
				(int64_t)change->value_size, change->value,
				change->value_size, row->id);
	}
	if (error_r->status != STORE_OK)
		return error_r->status;
	store_wake_set_add(store, change, row->id != 0 ? row->id :
			   sqlite3_last_insert_rowid(store->db));
	return mailbox_count(store, change->mailbox, row->live ? 0 : 1,
			     error_r);
}

/* Sets *changed if there was anything to do. */
static enum store_status
row_apply(struct store *store, const struct store_change *change,
	  uint64_t modseq, bool *changed, struct store_error *error_r)
{
	enum store_status status;
	struct row row;

	status = row_find(store, change, &row, error_r);
	if (status != STORE_OK)
		return status;
	if (change->value == NULL ? !row.live : row.same)
		return STORE_OK;
	*changed = true;
	status = change->value == NULL ?
		row_remove(store, change, &row, modseq, error_r) :
		row_set(store, change, &row, modseq, error_r);
	/* Does nothing if the mailbox has no entries any more */
	if (status == STORE_OK && change->mailbox_guid != NULL &&
	    change->mailbox[0] != '\0') {
		status = store_run(store, error_r, "write",
				   STORE_STMT_MAILBOX_GUID, "tb",
				   change->mailbox, change->mailbox_guid,
				   (size_t)16);
	}
	return status;
}

/* -- the set */

static bool condition_broken(const struct store *store,
			     const struct store_condition *condition,
			     const struct row *row)
{
	if (condition->type == STORE_IF_ABSENT)
		return row->live;
	/* Without a row it may have been removed after pos, and forgotten */
	if (row->id == 0)
		return condition->pos.modseq < store->meta.floor;
	return row->modseq > condition->pos.modseq;
}

/* Has an entry changed that the filter selects? */
static enum store_status
filter_check(struct store *store, const struct store_condition *condition,
	     bool *broken_r, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;
	int ret = SQLITE_ERROR;

	/* A removal that is forgotten may have been of such an entry */
	*broken_r = condition->pos.modseq < store->meta.floor;
	if (*broken_r)
		return STORE_OK;
	stmt = store_query(store, STORE_STMT_READ, "ii", (int64_t)-1,
			   (int64_t)condition->pos.modseq);
	while (stmt != NULL && !*broken_r &&
	       (ret = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *mailbox = (const char *)sqlite3_column_text(stmt, 2);
		const char *name = (const char *)sqlite3_column_text(stmt, 3);

		if (mailbox == NULL || name == NULL) {
			status = store_fail(error_r, STORE_FAILED,
					    "out of memory");
			break;
		}
		*broken_r = store_filter_match(condition->filter, mailbox,
					       name);
	}
	if (ret != SQLITE_ROW && ret != SQLITE_DONE)
		status = store_sql_error(store, "read", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

/* As condition_broken(), for each entry of the set. */
static enum store_status
entries_check(struct store *store, const struct store_change *changes,
	      size_t count, const struct store_condition *condition,
	      bool *lost_r, bool *broken_r, struct store_error *error_r)
{
	enum store_status status;
	struct row row;
	bool broken;
	size_t i;

	*broken_r = false;
	for (i = 0; i < count; i++) {
		status = row_find(store, &changes[i], &row, error_r);
		if (status != STORE_OK)
			return status;
		broken = condition_broken(store, condition, &row);
		if (broken)
			*broken_r = true;
		if (lost_r != NULL)
			lost_r[i] = broken;
	}
	return STORE_OK;
}

static enum store_status
condition_check(struct store *store, const struct store_change *changes,
		size_t count, const struct store_condition *condition,
		bool *lost_r, struct store_error *error_r)
{
	enum store_status status;
	bool broken;

	if (condition->type == STORE_UNCONDITIONAL)
		return STORE_OK;
	if (condition->type != STORE_IF_ABSENT &&
	    (condition->pos.epoch != store->meta.epoch ||
	     condition->pos.modseq == 0 ||
	     condition->pos.modseq > store->meta.modseq)) {
		return store_fail(error_r, STORE_RESET,
			"the condition's position is not of this store");
	}
	if (condition->type == STORE_IF_FILTER_UNCHANGED_SINCE) {
		if (lost_r != NULL)
			memset(lost_r, 0, count * sizeof(*lost_r));
		status = filter_check(store, condition, &broken, error_r);
	} else {
		status = entries_check(store, changes, count, condition,
				       lost_r, &broken, error_r);
	}
	if (status != STORE_OK)
		return status;
	if (broken) {
		return store_fail(error_r, STORE_MODIFIED,
				  "an entry has changed");
	}
	return STORE_OK;
}

/* A set that makes it no worse is fine, also above a limit that was lowered
   later. */
static enum store_status
limits_check(const struct store *store, const struct store_meta *before,
	     struct store_error *error_r)
{
	const struct store_limits *limits = &store->set.limits;
	const struct store_meta *meta = &store->meta;

	if (meta->entries > limits->entries && meta->entries > before->entries)
		return store_fail(error_r, STORE_TOO_MANY, "too many entries");
	if (meta->bytes > limits->bytes && meta->bytes > before->bytes) {
		return store_fail(error_r, STORE_OVER_BYTES,
				  "too many bytes in entries");
	}
	return STORE_OK;
}

/* -- the handle's own change sets */

void store_own_start(struct store *store)
{
	store->own_wanted = true;
}

void store_own_stop(struct store *store)
{
	store->own_wanted = false;
	store->own_count = 0;
}

static void own_add(struct store *store)
{
	size_t size = store->own_size == 0 ? 16 : store->own_size * 2;
	uint64_t *own;

	if (!store->own_wanted)
		return;
	if (store->own_count == store->own_size) {
		own = realloc(store->own, size * sizeof(*own));
		/* Taken for another's: told once too often. */
		if (own == NULL)
			return;
		store->own = own;
		store->own_size = size;
	}
	store->own[store->own_count++] = store->meta.modseq;
}

bool store_is_own(const struct store *store, uint64_t modseq)
{
	size_t i;

	for (i = store->own_count; i > 0; i--) {
		if (store->own[i - 1] <= modseq)
			return store->own[i - 1] == modseq;
	}
	return false;
}

void store_own_forget(struct store *store, uint64_t modseq)
{
	size_t i = 0;

	while (i < store->own_count && store->own[i] <= modseq)
		i++;
	if (i == 0)
		return;
	store->own_count -= i;
	memmove(store->own, store->own + i,
		store->own_count * sizeof(*store->own));
}

/* -- */

enum store_status store_set_finish(struct store *store,
				   enum store_status status, bool changed,
				   const struct store_meta *before,
				   struct store_pos *pos_r,
				   struct store_error *error_r)
{
	if (status == STORE_OK && changed) {
		store->meta.modseq++;
		status = store_commit(store, error_r);
	} else {
		changed = false;
		store_end(store);
	}
	if (status != STORE_OK || !changed)
		store->meta = *before;
	store_get_pos(store, pos_r);
	if (status != STORE_OK || !changed)
		return status;

	own_add(store);
	store_wake(store);
	/* Nobody calls store_idle() */
	if (store->wal_frames - store->wal_checkpointed >=
	    STORE_CHECKPOINT_FRAMES_MAX)
		store_checkpoint(store);
	return STORE_OK;
}

enum store_status store_apply(struct store *store,
			      const struct store_change *changes, size_t count,
			      const struct store_condition *condition,
			      struct store_pos *pos_r, bool *lost_r,
			      struct store_error *error_r)
{
	struct store_meta before;
	enum store_status status;
	bool changed = false;
	size_t i;

	store_start(store, error_r);
	status = changes_check(store, changes, count, error_r);
	if (status == STORE_OK)
		status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	before = store->meta;

	status = condition_check(store, changes, count, condition, lost_r,
				 error_r);
	for (i = 0; i < count && status == STORE_OK; i++) {
		status = row_apply(store, &changes[i], before.modseq + 1,
				   &changed, error_r);
	}
	if (status == STORE_OK)
		status = limits_check(store, &before, error_r);
	status = store_set_finish(store, status, changed, &before, pos_r,
				  error_r);
	if (status == STORE_RESET && condition->pos.epoch == before.epoch &&
	    condition->pos.modseq > before.modseq) {
		return store_epoch_beyond(store, condition->pos.modseq,
					  error_r);
	}
	return status;
}
