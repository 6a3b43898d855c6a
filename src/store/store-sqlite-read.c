/* Reading: the position, single entries, and the cursor over what a filter
   selects, in the order of modseq. Each call is one short read transaction;
   no row outlives a callback, so memory does not grow with the store. */

#include "store-private.h"

#include <string.h>

/* Rows that one store_read() looks at. */
#define READ_ROWS_MAX 4096
/* Values up to this size come with their row. */
#define READ_INLINE_MAX 512

void store_get_last_state(const struct store *store,
			  struct store_state *state_r)
{
	store_get_pos(store, &state_r->pos);
	state_r->floor = store->meta.floor;
	state_r->entries = store->meta.entries;
	state_r->bytes = store->meta.bytes;
	state_r->tombstones = store->meta.tombstones;
}

enum store_status store_get_state(struct store *store,
				  struct store_state *state_r,
				  struct store_error *error_r)
{
	enum store_status status;

	store_start(store, error_r);
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	store_end(store);
	store_get_last_state(store, state_r);
	return STORE_OK;
}

enum store_status store_list_mailboxes(struct store *store,
	bool (*callback)(const char *name, const uint8_t *guid, void *context),
	void *context, struct store_error *error_r)
{
	enum store_status status;
	sqlite3_stmt *stmt;
	int ret = SQLITE_ERROR;

	store_start(store, error_r);
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	stmt = store_query(store, STORE_STMT_MAILBOX_LIST, "");
	while (stmt != NULL && (ret = sqlite3_step(stmt)) == SQLITE_ROW) {
		const void *guid = sqlite3_column_blob(stmt, 1);

		if (sqlite3_column_bytes(stmt, 1) != 16)
			guid = NULL;
		if (!callback((const char *)sqlite3_column_text(stmt, 0),
			      guid, context))
			break;
	}
	if (ret != SQLITE_DONE && ret != SQLITE_ROW)
		status = store_sql_error(store, "list mailboxes", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	store_end(store);
	return status;
}

/* -- values */

static void value_set(struct store_entry *entry, sqlite3_stmt *stmt,
		      int column)
{
	entry->value = sqlite3_column_blob(stmt, column);
	/* An empty value is a value, but an empty blob is NULL */
	if (entry->value == NULL)
		entry->value = "";
}

/* Calls back with the value of row id, which is not with the row. */
static enum store_status
value_fetch(struct store *store, int64_t id, struct store_entry *entry,
	    store_entry_callback_t *callback, void *context, bool *go_on_r,
	    struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;

	stmt = store_query(store, STORE_STMT_VALUE, "i", id);
	if (stmt == NULL || sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "read a value", error_r);
	} else if ((size_t)sqlite3_column_bytes(stmt, 0) !=
		   entry->value_size) {
		/* Also when there was no memory for it */
		status = sqlite3_errcode(store->db) == SQLITE_NOMEM ?
			store_sql_error(store, "read a value", error_r) :
			store_fail(error_r, STORE_CORRUPT,
				   "%s: a value does not fit its size",
				   store->db_path);
	} else {
		value_set(entry, stmt, 0);
		*go_on_r = callback(entry, context);
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

/* -- single entries */

static enum store_status
get_key(struct store *store, const struct store_key *key,
	store_entry_callback_t *callback, void *context, bool *go_on_r,
	struct store_error *error_r)
{
	struct store_entry entry;
	sqlite3_stmt *stmt;
	int64_t id = 0;
	int ret;

	memset(&entry, 0, sizeof(entry));
	entry.mailbox = key->mailbox;
	entry.name = key->name;
	entry.removed = true;

	stmt = store_query(store, STORE_STMT_FIND, "ttn", key->mailbox,
			   key->name);
	ret = stmt == NULL ? SQLITE_ERROR : sqlite3_step(stmt);
	if (ret == SQLITE_ROW) {
		id = sqlite3_column_int64(stmt, 0);
		entry.modseq = sqlite3_column_int64(stmt, 1);
		entry.value_size = sqlite3_column_int64(stmt, 2);
		entry.removed = sqlite3_column_int(stmt, 3) == 0;
	} else if (ret != SQLITE_DONE) {
		(void)store_sql_error(store, "read", error_r);
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	if (error_r->status != STORE_OK)
		return error_r->status;
	if (!entry.removed) {
		return value_fetch(store, id, &entry, callback, context,
				   go_on_r, error_r);
	}
	*go_on_r = callback(&entry, context);
	return STORE_OK;
}

enum store_status store_get(struct store *store, const struct store_key *keys,
			    size_t count, store_entry_callback_t *callback,
			    void *context, struct store_pos *pos_r,
			    struct store_error *error_r)
{
	enum store_status status;
	bool go_on = true;
	size_t i;

	store_start(store, error_r);
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	store_get_pos(store, pos_r);
	for (i = 0; i < count && go_on && status == STORE_OK; i++) {
		status = get_key(store, &keys[i], callback, context, &go_on,
				 error_r);
	}
	store_end(store);
	return status;
}

/* -- cursors */

enum store_status store_cursor_snapshot(struct store *store,
					struct store_cursor *cursor_r,
					struct store_error *error_r)
{
	struct store_state state;
	enum store_status status;

	status = store_get_state(store, &state, error_r);
	if (status != STORE_OK)
		return status;
	cursor_r->epoch = state.pos.epoch;
	cursor_r->modseq = 0;
	cursor_r->id = 0;
	cursor_r->tombstones_after = state.pos.modseq;
	return STORE_OK;
}

enum store_status store_cursor_since(struct store *store,
				     const struct store_pos *pos,
				     struct store_cursor *cursor_r,
				     struct store_error *error_r)
{
	struct store_state state;
	enum store_status status;

	status = store_get_state(store, &state, error_r);
	if (status != STORE_OK)
		return status;
	if (pos->epoch != state.pos.epoch) {
		return store_fail(error_r, STORE_RESET,
				  "the position is of another epoch");
	}
	if (pos->modseq > state.pos.modseq)
		return store_epoch_beyond(store, pos->modseq, error_r);
	if (pos->modseq == 0 || pos->modseq < state.floor) {
		return store_fail(error_r, STORE_RESET,
				  "the position is below the floor");
	}
	cursor_r->epoch = pos->epoch;
	cursor_r->modseq = pos->modseq;
	/* Not INT64_MAX, an end: where a catch-up was broken off, the state has
	   not been seen as a whole, and the next change set alone does not
	   make it one. */
	cursor_r->id = INT64_MAX - 1;
	cursor_r->tombstones_after = pos->modseq;
	return STORE_OK;
}

/* True if a removal that the cursor has not passed has been forgotten. */
static bool cursor_below_floor(const struct store *store,
			       const struct store_cursor *cursor)
{
	if (store->meta.floor <= cursor->tombstones_after)
		return false;
	return store->meta.floor > cursor->modseq ||
		(store->meta.floor == cursor->modseq &&
		 cursor->id != INT64_MAX);
}

static enum store_status
read_row(struct store *store, const struct store_read *req,
	 const struct store_cursor *cursor, sqlite3_stmt *stmt,
	 store_entry_callback_t *callback, void *context, bool *go_on_r,
	 struct store_error *error_r)
{
	int64_t id = sqlite3_column_int64(stmt, 0);
	struct store_entry entry;

	memset(&entry, 0, sizeof(entry));
	entry.modseq = sqlite3_column_int64(stmt, 1);
	entry.removed = sqlite3_column_int(stmt, 5) == 0;
	if (entry.removed && entry.modseq <= cursor->tombstones_after)
		return STORE_OK;
	entry.mailbox = (const char *)sqlite3_column_text(stmt, 2);
	entry.name = (const char *)sqlite3_column_text(stmt, 3);
	if (entry.mailbox == NULL || entry.name == NULL)
		return store_fail(error_r, STORE_FAILED, "out of memory");
	if (!store_filter_match(req->filter, entry.mailbox, entry.name))
		return STORE_OK;

	entry.value_size = sqlite3_column_int64(stmt, 4);
	if (!entry.removed && !req->without_values &&
	    entry.value_size <= req->max_value_size) {
		if (entry.value_size > READ_INLINE_MAX) {
			return value_fetch(store, id, &entry, callback,
					   context, go_on_r, error_r);
		}
		value_set(&entry, stmt, 6);
	}
	*go_on_r = callback(&entry, context);
	return STORE_OK;
}

/* Goes on with the statement's rows; *rows counts them, *go_on is what the
   callback said last. Returns true if the last one was reached. */
static bool read_rows(struct store *store, const struct store_read *req,
		      struct store_cursor *cursor, sqlite3_stmt *stmt,
		      unsigned int *rows, bool *go_on,
		      store_entry_callback_t *callback, void *context,
		      struct store_error *error_r)
{
	int ret = SQLITE_ERROR;

	while (stmt != NULL && (ret = sqlite3_step(stmt)) == SQLITE_ROW) {
		if (!*go_on || (*rows)++ == READ_ROWS_MAX ||
		    read_row(store, req, cursor, stmt, callback, context,
			     go_on, error_r) != STORE_OK)
			break;
		cursor->modseq = sqlite3_column_int64(stmt, 1);
		cursor->id = sqlite3_column_int64(stmt, 0);
	}
	if (ret != SQLITE_ROW && ret != SQLITE_DONE)
		(void)store_sql_error(store, "read", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return ret == SQLITE_DONE;
}

/* Returns true if the end was reached. */
static bool read_on(struct store *store, const struct store_read *req,
		    struct store_cursor *cursor,
		    store_entry_callback_t *callback, void *context,
		    struct store_error *error_r)
{
	int64_t inline_max = READ_INLINE_MAX;
	unsigned int rows = 0;
	sqlite3_stmt *stmt;
	bool go_on = true;

	if (req->without_values)
		inline_max = -1;
	else if (req->max_value_size < READ_INLINE_MAX)
		inline_max = req->max_value_size;

	/* The rest of the set in which the cursor stopped, then the others */
	if (cursor->id != INT64_MAX) {
		stmt = store_query(store, STORE_STMT_READ_SET, "iii",
				   inline_max, (int64_t)cursor->modseq,
				   cursor->id);
		if (!read_rows(store, req, cursor, stmt, &rows, &go_on,
			       callback, context, error_r))
			return false;
	}
	stmt = store_query(store, STORE_STMT_READ, "ii", inline_max,
			   (int64_t)cursor->modseq);
	return read_rows(store, req, cursor, stmt, &rows, &go_on, callback,
			 context, error_r);
}

enum store_status store_read(struct store *store, const struct store_read *req,
			     struct store_cursor *cursor,
			     store_entry_callback_t *callback, void *context,
			     struct store_state *state_r, bool *more_r,
			     struct store_error *error_r)
{
	enum store_status status;
	bool end;

	store_start(store, error_r);
	if (store_wake_read(store, req, cursor, callback, context, more_r)) {
		store_get_last_state(store, state_r);
		state_r->pos.epoch = cursor->epoch;
		state_r->pos.modseq = cursor->modseq;
		return STORE_OK;
	}
	*more_r = false;
	status = store_begin_unchecked(store, false, error_r);
	if (status != STORE_OK)
		return status;
	store_get_last_state(store, state_r);
	if (cursor->epoch != state_r->pos.epoch) {
		store_end(store);
		return store_fail(error_r, STORE_RESET,
				  "there is a new epoch");
	}
	if (cursor->modseq > state_r->pos.modseq) {
		store_end(store);
		return store_epoch_beyond(store, cursor->modseq, error_r);
	}
	if (cursor_below_floor(store, cursor)) {
		store_end(store);
		return store_fail(error_r, STORE_RESET,
				  "the floor has passed the reader");
	}
	end = cursor->modseq == state_r->pos.modseq &&
		cursor->id == INT64_MAX;
	/* Woken for nothing: the news may be in a file that took this one's
	   place */
	if (end)
		(void)store_check_replaced(store, error_r);
	else
		end = read_on(store, req, cursor, callback, context, error_r);
	store_end(store);
	if (error_r->status != STORE_OK)
		return error_r->status;
	*more_r = !end;
	if (end) {
		cursor->modseq = state_r->pos.modseq;
		cursor->id = INT64_MAX;
	}
	return STORE_OK;
}
