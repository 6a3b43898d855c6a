/* Mailboxes that are renamed or deleted: change sets of whole mailboxes, made
   by a few statements each. Callers: the storage plugin, when it sees that
   happen. Limits do not apply. And how mailboxes are recognized: the witness
   and their identities. */

#include "store-private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Adds (sign 1) or takes away (-1) what a mailbox has from the counters. */
static enum store_status
meta_add_mailbox(struct store *store, const char *name, int sign,
		 struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	int64_t rows, tombstones;
	sqlite3_stmt *stmt;

	stmt = store_query(store, STORE_STMT_MAILBOX_SUM, "t", name);
	if (stmt == NULL || sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "count", error_r);
	} else {
		rows = sqlite3_column_int64(stmt, 0);
		tombstones = sqlite3_column_int64(stmt, 1);
		store->meta.entries += sign * (rows - tombstones);
		store->meta.tombstones += sign * tombstones;
		store->meta.bytes += sign * sqlite3_column_int64(stmt, 2);
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

static enum store_status
mailbox_is(struct store *store, const char *name, const uint8_t *guid,
	   bool *is_r, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;
	int ret;

	stmt = store_query(store, STORE_STMT_MAILBOX_IS, "tb", name, guid,
			   (size_t)16);
	ret = stmt == NULL ? SQLITE_ERROR : sqlite3_step(stmt);
	*is_r = ret == SQLITE_ROW;
	if (ret != SQLITE_ROW && ret != SQLITE_DONE)
		status = store_sql_error(store, "look up", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

enum store_status store_delete_mailbox(struct store *store, const char *name,
				       const uint8_t *guid,
				       struct store_pos *pos_r,
				       struct store_error *error_r)
{
	struct store_meta before;
	enum store_status status;
	bool changed = false, is = true;

	store_start(store, error_r);
	if (name[0] == '\0') {
		return store_fail(error_r, STORE_INVALID,
				  "the server is not a mailbox");
	}
	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	before = store->meta;

	if (guid != NULL)
		status = mailbox_is(store, name, guid, &is, error_r);
	if (status != STORE_OK || !is) {
		return store_set_finish(store, status, false, &before, pos_r,
					error_r);
	}
	status = meta_add_mailbox(store, name, -1, error_r);
	changed = store->meta.entries != before.entries;
	if (status == STORE_OK && changed) {
		status = store_run(store, error_r, "write",
				   STORE_STMT_MAILBOX_REMOVE, "iit",
				   (int64_t)before.modseq + 1,
				   (int64_t)time(NULL), name);
	}
	if (status == STORE_OK)
		status = meta_add_mailbox(store, name, 1, error_r);
	if (status == STORE_OK && changed) {
		status = store_run(store, error_r, "write",
				   STORE_STMT_MAILBOX_REMOVE_ROW, "t", name);
	}
	return store_set_finish(store, status, changed, &before, pos_r,
				error_r);
}

/* Moves a mailbox's rows: each keeps its value where it is, only the name and
   the modseq change. What the target had before goes: it is another mailbox
   now. */
static enum store_status
move_mailbox(struct store *store, const char *from, const char *to,
	     struct store_error *error_r)
{
	int64_t modseq = store->meta.modseq + 1, now = time(NULL);
	enum store_status status;

	status = meta_add_mailbox(store, from, -1, error_r);
	if (status == STORE_OK)
		status = meta_add_mailbox(store, to, -1, error_r);
	if (status == STORE_OK)
		status = store_run(store, error_r, "rename",
				   STORE_STMT_MOVE_REMOVE, "iitt", modseq, now,
				   to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "rename",
				   STORE_STMT_MOVE_REPLACE, "tt", to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "rename", STORE_STMT_MOVE,
				   "itt", modseq, to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "rename",
				   STORE_STMT_MOVE_TOMBSTONES, "itit", modseq,
				   from, now, to);
	if (status == STORE_OK)
		status = store_run(store, error_r, "rename",
				   STORE_STMT_MOVE_MAILBOX, "tt", to, from);
	if (status == STORE_OK)
		status = meta_add_mailbox(store, from, 1, error_r);
	if (status == STORE_OK)
		status = meta_add_mailbox(store, to, 1, error_r);
	return status;
}

/* The removals are those of a move where both have the same modseq: what was moved
   is there. */
static enum store_status
merge_mailbox(struct store *store, const char *from, const char *to,
	      struct store_error *error_r)
{
	int64_t modseq = store->meta.modseq + 1, now = time(NULL);
	enum store_status status;

	status = store_run(store, error_r, "merge", STORE_STMT_MERGE_REPLACE,
			   "tt", to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge", STORE_STMT_MERGE,
				   "itt", modseq, to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge",
				   STORE_STMT_MERGE_TOMBSTONES, "itit", modseq,
				   from, now, to);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge",
				   STORE_STMT_MAILBOX_REMOVE, "iit", modseq,
				   now, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge",
				   STORE_STMT_MERGE_COUNT, "tt", to, from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge",
				   STORE_STMT_MAILBOX_REMOVE_ROW, "t", from);
	if (status == STORE_OK)
		status = store_run(store, error_r, "merge",
				   STORE_STMT_MAILBOX_CLEAN, "t", to);
	return status;
}

enum store_status store_merge_mailbox(struct store *store,
				      const char *old_name,
				      const char *new_name,
				      struct store_pos *pos_r,
				      struct store_error *error_r)
{
	struct store_meta before;
	enum store_status status;
	bool changed;

	store_start(store, error_r);
	if (old_name[0] == '\0' || new_name[0] == '\0') {
		return store_fail(error_r, STORE_INVALID,
				  "the server is not a mailbox");
	}
	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	before = store->meta;

	status = meta_add_mailbox(store, old_name, -1, error_r);
	changed = store->meta.entries != before.entries &&
		strcmp(old_name, new_name) != 0;
	if (status == STORE_OK && changed) {
		status = meta_add_mailbox(store, new_name, -1, error_r);
		if (status == STORE_OK)
			status = merge_mailbox(store, old_name, new_name,
					       error_r);
		if (status == STORE_OK)
			status = meta_add_mailbox(store, new_name, 1, error_r);
	}
	if (status == STORE_OK)
		status = meta_add_mailbox(store, old_name, 1, error_r);
	return store_set_finish(store, status, changed, &before, pos_r,
				error_r);
}

struct names {
	char **names;
	size_t count;
};

static void names_free(struct names *names)
{
	size_t i;

	for (i = 0; i < names->count; i++)
		free(names->names[i]);
	free(names->names);
}

static bool names_add(struct names *names, const char *name)
{
	char **new_names;

	new_names = realloc(names->names,
			    (names->count + 1) * sizeof(*new_names));
	if (new_names == NULL)
		return false;
	names->names = new_names;
	new_names[names->count] = strdup(name);
	if (new_names[names->count] == NULL)
		return false;
	names->count++;
	return true;
}

/* The mailbox and those below it, as far as they have entries. */
static enum store_status
names_below(struct store *store, const char *name, char separator,
	    struct names *names, struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	size_t size = strlen(name);
	sqlite3_stmt *stmt;
	char *first, *end;
	int ret = SQLITE_ERROR;

	first = malloc(size + 2);
	end = malloc(size + 2);
	if (first == NULL || end == NULL) {
		free(first);
		free(end);
		return store_fail(error_r, STORE_FAILED, "out of memory");
	}
	memcpy(first, name, size + 1);
	memcpy(end, name, size + 1);
	if (strcmp(name, "INBOX") != 0 && separator != '\0') {
		first[size] = separator;
		end[size] = separator + 1;
		first[size + 1] = end[size + 1] = '\0';
	}
	stmt = store_query(store, STORE_STMT_MAILBOX_BELOW, "ttt", name, first,
			   end);
	while (stmt != NULL && (ret = sqlite3_step(stmt)) == SQLITE_ROW) {
		if (!names_add(names, (const char *)
			       sqlite3_column_text(stmt, 0))) {
			status = store_fail(error_r, STORE_FAILED,
					    "out of memory");
			break;
		}
	}
	if (status == STORE_OK && ret != SQLITE_DONE)
		status = store_sql_error(store, "rename", error_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	free(first);
	free(end);
	return status;
}

static int longest_first_cmp(const void *p1, const void *p2)
{
	size_t size1 = strlen(*(char *const *)p1);
	size_t size2 = strlen(*(char *const *)p2);

	return size1 > size2 ? -1 : size1 < size2;
}

static enum store_status
move_all(struct store *store, const struct names *names, const char *old_name,
	 const char *new_name, struct store_error *error_r)
{
	size_t old_size = strlen(old_name), new_size = strlen(new_name);
	enum store_status status = STORE_OK;
	size_t i, n;
	char *to;

	/* A target may be a source as well ("a" to "a/b"): it must be moved
	   away before it is overwritten. */
	if (names->count > 1) {
		qsort(names->names, names->count, sizeof(*names->names),
		      longest_first_cmp);
	}
	for (i = 0; i < names->count && status == STORE_OK; i++) {
		n = new_size > old_size ? i : names->count - 1 - i;
		to = malloc(new_size + strlen(names->names[n]) + 1);
		if (to == NULL) {
			return store_fail(error_r, STORE_FAILED,
					  "out of memory");
		}
		memcpy(to, new_name, new_size);
		strcpy(to + new_size, names->names[n] + old_size);
		status = move_mailbox(store, names->names[n], to, error_r);
		free(to);
	}
	return status;
}

enum store_status store_rename_mailbox(struct store *store,
				       const char *old_name,
				       const char *new_name, char separator,
				       struct store_pos *pos_r,
				       struct store_error *error_r)
{
	struct names names = { NULL, 0 };
	struct store_meta before;
	enum store_status status;
	bool changed = false;

	store_start(store, error_r);
	if (old_name[0] == '\0' || new_name[0] == '\0') {
		return store_fail(error_r, STORE_INVALID,
				  "the server is not a mailbox");
	}
	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	before = store->meta;

	if (strcmp(old_name, new_name) != 0) {
		status = names_below(store, old_name, separator, &names,
				     error_r);
		changed = names.count > 0;
		if (status == STORE_OK) {
			status = move_all(store, &names, old_name, new_name,
					  error_r);
		}
	}
	names_free(&names);
	return store_set_finish(store, status, changed, &before, pos_r,
				error_r);
}

/* -- the witness */

enum store_status store_get_witness(struct store *store,
				    uint8_t witness_r[16], bool *known_r,
				    struct store_error *error_r)
{
	enum store_status status;
	sqlite3_stmt *stmt;

	*known_r = false;
	store_start(store, error_r);
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	stmt = store_query(store, STORE_STMT_WITNESS_GET, "");
	if (stmt == NULL || sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "read the witness", error_r);
	} else if (sqlite3_column_bytes(stmt, 0) == 16) {
		memcpy(witness_r, sqlite3_column_blob(stmt, 0), 16);
		*known_r = true;
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	store_end(store);
	return status;
}

enum store_status store_set_witness(struct store *store, const uint8_t *witness,
				    const struct store_mailbox *mailboxes,
				    size_t count, struct store_error *error_r)
{
	enum store_status status;
	size_t i;

	store_start(store, error_r);
	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	status = store_run(store, error_r, "write the witness",
			   STORE_STMT_WITNESS_SET, "b", witness, (size_t)16);
	for (i = 0; i < count && status == STORE_OK; i++) {
		status = store_run(store, error_r, "write the witness",
				   STORE_STMT_MAILBOX_GUID, "tb",
				   mailboxes[i].name, mailboxes[i].guid,
				   (size_t)16);
	}
	if (status == STORE_OK)
		return store_commit(store, error_r);
	store_end(store);
	return status;
}
