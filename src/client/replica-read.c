/* Reading: one entry, iterators, counts. The user's view of an entry is the last waiting write on it, else the server's value.

   An iterator has a connection of its own, and one statement: one view for its whole life, and writes meanwhile are not in its way.
   Until it is closed, the WAL cannot be taken back into the database. */

#include "replica-private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns of a view, see view_columns() */
#define VIEW \
	"SELECT e.id, e.mailbox, e.wire, e.name, e.hidden, e.modseq, e.write_id," \
	" EXISTS(SELECT 1 FROM refused r WHERE r.mailbox = e.mailbox AND r.wire = e.wire)," \
	" ifnull(w.kind, e.kind), iif(w.kind IS NULL, e.size, w.size), iif(w.kind IS NULL, e.value, w.value)"
#define VIEW_WITHOUT_VALUE \
	"SELECT e.id, e.mailbox, e.wire, e.name, e.hidden, e.modseq, e.write_id," \
	" EXISTS(SELECT 1 FROM refused r WHERE r.mailbox = e.mailbox AND r.wire = e.wire)," \
	" ifnull(w.kind, e.kind), iif(w.kind IS NULL, e.size, w.size), NULL"
#define VIEW_FROM " FROM entry e LEFT JOIN write w ON w.id = e.write_id"
#define VIEW_FROM_ORDERED " FROM entry e INDEXED BY entry_name LEFT JOIN write w ON w.id = e.write_id"

static void view_columns(sqlite3_stmt *stmt, struct replica_view *view_r)
{
	struct replica_value value;

	view_r->id = sqlite3_column_int64(stmt, 0);
	view_r->mailbox = (const char *)sqlite3_column_text(stmt, 1);
	view_r->wire = (const char *)sqlite3_column_text(stmt, 2);
	view_r->name = (const char *)sqlite3_column_text(stmt, 3);
	view_r->hidden = sqlite3_column_int(stmt, 4) != 0;
	view_r->modseq = sqlite3_column_int64(stmt, 5);
	view_r->write_id = sqlite3_column_int64(stmt, 6);
	view_r->refused = sqlite3_column_int(stmt, 7) != 0;
	view_r->size = sqlite3_column_int64(stmt, 9);
	replica_value_column(stmt, 8, 10, &value);
	view_r->kind = value.kind;
	view_r->data = value.data;
}

/* -- one entry */

enum dovetail_status
replica_view(struct dovetail *replica, const char *mailbox, const char *name, bool wire, sqlite3_stmt **stmt_r,
	     struct replica_view *view_r)
{
	enum dovetail_status status;

	/* Two wires with one name (one is being replaced by the other): the one that is there */
	*stmt_r = wire ? replica_query(replica, VIEW VIEW_FROM " WHERE e.mailbox = ?1 AND e.wire = ?2", "tt", mailbox, name) :
		replica_query(replica, VIEW VIEW_FROM " WHERE e.mailbox = ?1 AND e.name = ?2"
			      " ORDER BY e.hidden, ifnull(w.kind, e.kind) = 1, e.id LIMIT 1", "tt", mailbox, name);
	status = replica_step(replica, *stmt_r, "read");
	if (status == DOVETAIL_OK)
		view_columns(*stmt_r, view_r);
	return status;
}

enum dovetail_status
replica_show(struct dovetail *replica, const struct replica_view *view, bool values, bool raw, struct replica_holder *holder,
	     struct dovetail_entry *entry_r)
{
	size_t mailbox_size = strlen(view->mailbox) + 1, name_size;
	struct replica_value value = { .kind = view->kind, .data = view->data, .size = view->size };
	const char *name = raw ? view->wire : view->name;
	struct replica_coded coded;
	enum dovetail_status status;
	char *p;

	if (view->kind == REPLICA_REMOVED || (view->hidden && !raw))
		return DOVETAIL_NOT_FOUND;
	if (raw || (!values && !replica_covered(replica, view->wire))) {
		memset(&coded, 0, sizeof(coded));
		coded.data = value.data;
		coded.size = value.size;
		coded.flags = view->kind == REPLICA_NOT_HERE ? DOVETAIL_ENTRY_NOT_HERE : 0;
	} else {
		status = replica_decode(replica, view->mailbox, view->wire, &value, false, &coded);
		if (status != DOVETAIL_OK)
			return status;
		if (coded.hidden)
			return DOVETAIL_NOT_FOUND;
	}
	if (coded.data == NULL && values)
		coded.size = 0;
	name_size = strlen(name) + 1;
	p = replica_holder_get(holder, mailbox_size + name_size + (values ? coded.size : 0) + 1);
	if (p == NULL)
		return replica_no_memory(replica);
	memset(entry_r, 0, sizeof(*entry_r));
	entry_r->mailbox = memcpy(p, view->mailbox, mailbox_size);
	entry_r->name = memcpy(p + mailbox_size, name, name_size);
	entry_r->size = coded.size;
	entry_r->modseq = view->modseq;
	entry_r->flags = coded.flags | (view->write_id != 0 ? DOVETAIL_ENTRY_PENDING : 0) |
		(view->refused ? DOVETAIL_ENTRY_REFUSED : 0);
	if (values && coded.data != NULL) {
		p += mailbox_size + name_size;
		if (coded.size > 0)
			memcpy(p, coded.data, coded.size);
		p[coded.size] = '\0';
		entry_r->data = p;
	}
	return DOVETAIL_OK;
}

enum dovetail_status
dovetail_get(struct dovetail *replica, const char *mailbox, const char *_name, struct dovetail_entry *entry_r)
{
	char name[REPLICA_NAME_MAX + 1];
	struct replica_view view;
	enum dovetail_status status;
	sqlite3_stmt *stmt;

	status = replica_mailbox(replica, mailbox, &mailbox, DOVETAIL_INVALID);
	if (status == DOVETAIL_OK)
		status = replica_name(replica, _name, false, name, DOVETAIL_INVALID);
	if (status == DOVETAIL_OK)
		status = replica_begin(replica, false);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_parts_load(replica);
	if (status == DOVETAIL_OK && !replica_parts_cover(replica, mailbox, name)) {
		status = replica_fail(replica, DOVETAIL_INVALID, "%s of mailbox \"%.200s\" is not covered by the replica's parts",
				      name, mailbox);
	}
	if (status == DOVETAIL_OK)
		status = replica_view(replica, mailbox, name, false, &stmt, &view);
	if (status == DOVETAIL_OK)
		status = replica_show(replica, &view, true, false, &replica->got, entry_r);
	if (status == DOVETAIL_NOT_FOUND)
		(void)replica_fail(replica, status, "there is no entry %s in mailbox \"%.200s\"", name, mailbox);
	if (status != DOVETAIL_OK) {
		(void)replica_end(replica, status);
		return status;
	}
	return replica_end(replica, status);
}

enum dovetail_status replica_get_raw(struct dovetail *replica, const char *mailbox, const char *wire_name,
				     struct dovetail_entry *entry_r)
{
	enum dovetail_status status;
	struct replica_view view;
	sqlite3_stmt *stmt;

	status = replica_view(replica, mailbox, wire_name, true, &stmt, &view);
	if (status == DOVETAIL_OK)
		status = replica_show(replica, &view, true, true, &replica->got_raw, entry_r);
	if (status == DOVETAIL_NOT_FOUND)
		(void)replica_fail(replica, status, "there is no entry %s in mailbox \"%.200s\"", wire_name, mailbox);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

enum dovetail_status
replica_get_server(struct dovetail *replica, const char *mailbox, const char *wire_name, const void **data_r, size_t *size_r)
{
	struct replica_value value;
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	char *p = NULL;

	*data_r = NULL;
	*size_r = 0;
	stmt = replica_query(replica, "SELECT kind, value FROM entry WHERE mailbox = ?1 AND wire = ?2", "tt", mailbox, wire_name);
	status = replica_step(replica, stmt, "read");
	if (status != DOVETAIL_OK)
		return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
	replica_value_column(stmt, 0, 1, &value);
	if (value.kind == REPLICA_VALUE) {
		p = replica_holder_get(&replica->got_raw, value.size + 1);
		if (p == NULL)
			status = replica_no_memory(replica);
		else if (value.size > 0)
			memcpy(p, value.data, value.size);
		*data_r = p;
		*size_r = value.size;
	}
	(void)sqlite3_reset(stmt);
	return status;
}

/* -- iterators */

struct dovetail_iter {
	struct dovetail *replica;
	/* NULL: all */
	char *mailbox, *name;
	/* the first name behind all that is below name */
	char *name_end, *name_slash;
	bool values;
	/* there was a first row */
	bool started;
	sqlite3 *db;
	sqlite3_stmt *stmt;
	struct replica_holder holder;
	bool ended;
};

static enum dovetail_status
iter_set(struct dovetail_iter *iter, const char *mailbox, const char *_name)
{
	char name[REPLICA_NAME_MAX + 1];
	enum dovetail_status status;

	if (mailbox != NULL) {
		status = replica_mailbox(iter->replica, mailbox, &mailbox, DOVETAIL_INVALID);
		if (status != DOVETAIL_OK)
			return status;
		iter->mailbox = strdup(mailbox);
		if (iter->mailbox == NULL)
			return replica_no_memory(iter->replica);
	}
	if (_name == NULL)
		return DOVETAIL_OK;
	status = replica_name(iter->replica, _name, true, name, DOVETAIL_INVALID);
	if (status != DOVETAIL_OK)
		return status;
	iter->name = strdup(name);
	if (asprintf(&iter->name_slash, "%s/", name) < 0)
		iter->name_slash = NULL;
	/* '0' comes after '/' */
	if (asprintf(&iter->name_end, "%s0", name) < 0)
		iter->name_end = NULL;
	if (iter->name == NULL || iter->name_slash == NULL || iter->name_end == NULL)
		return replica_no_memory(iter->replica);
	return DOVETAIL_OK;
}

enum dovetail_status
dovetail_iter_open(struct dovetail *replica, const char *mailbox, const char *name, bool values, struct dovetail_iter **iter_r)
{
	enum dovetail_status status;
	struct dovetail_iter *iter;

	*iter_r = NULL;
	iter = calloc(1, sizeof(*iter));
	if (iter == NULL)
		return replica_no_memory(replica);
	iter->replica = replica;
	iter->values = values;
	status = iter_set(iter, mailbox, name);
	if (status == DOVETAIL_OK)
		*iter_r = iter;
	else
		dovetail_iter_close(iter);
	return status;
}

#define RANGE " e.name >= ?2 AND e.name < ?3 AND (e.name = ?2 OR e.name >= ?4)"
#define ORDER " ORDER BY e.mailbox, e.name, e.id"

/* Always in the order of the index: nothing is sorted, so nothing is collected. */
static const char *iter_sql(const struct dovetail_iter *iter)
{
	/* encrypted ones have to be decoded to know their size */
	bool value = iter->values || iter->replica->has_codec;

	if (iter->mailbox != NULL && iter->name != NULL) {
		return value ? VIEW VIEW_FROM_ORDERED " WHERE e.mailbox = ?1 AND" RANGE ORDER :
			VIEW_WITHOUT_VALUE VIEW_FROM_ORDERED " WHERE e.mailbox = ?1 AND" RANGE ORDER;
	}
	if (iter->mailbox != NULL) {
		return value ? VIEW VIEW_FROM_ORDERED " WHERE e.mailbox = ?1" ORDER :
			VIEW_WITHOUT_VALUE VIEW_FROM_ORDERED " WHERE e.mailbox = ?1" ORDER;
	}
	if (iter->name != NULL) {
		return value ? VIEW VIEW_FROM_ORDERED " WHERE" RANGE ORDER :
			VIEW_WITHOUT_VALUE VIEW_FROM_ORDERED " WHERE" RANGE ORDER;
	}
	return value ? VIEW VIEW_FROM_ORDERED ORDER : VIEW_WITHOUT_VALUE VIEW_FROM_ORDERED ORDER;
}

static enum dovetail_status iter_start(struct dovetail_iter *iter)
{
	const char *const texts[] = { iter->mailbox, iter->name, iter->name_end, iter->name_slash };
	enum dovetail_status status;
	int i;

	status = replica_connect(iter->replica, true, &iter->db);
	if (status != DOVETAIL_OK)
		return status;
	/* One statement is one view, from its first step to its end */
	if (sqlite3_prepare_v2(iter->db, iter_sql(iter), -1, &iter->stmt, NULL) != SQLITE_OK)
		return replica_db_fail(iter->replica, iter->db, "iterate");
	for (i = 0; i < 4 && i < sqlite3_bind_parameter_count(iter->stmt); i++)
		(void)sqlite3_bind_text(iter->stmt, i + 1, texts[i], -1, SQLITE_STATIC);
	return DOVETAIL_OK;
}

static enum dovetail_status iter_next(struct dovetail_iter *iter, struct dovetail_entry *entry_r)
{
	enum dovetail_status status;
	struct replica_view view;

	do {
		switch (sqlite3_step(iter->stmt)) {
		case SQLITE_ROW:
			break;
		case SQLITE_DONE:
			return DOVETAIL_NOT_FOUND;
		default:
			return replica_db_fail(iter->replica, iter->db, "iterate");
		}
		/* not before the view is there: what is encrypted in it has to be known */
		if (!iter->started) {
			status = replica_codec_refresh(iter->replica);
			if (status != DOVETAIL_OK)
				return status;
			iter->started = true;
		}
		view_columns(iter->stmt, &view);
		status = replica_show(iter->replica, &view, iter->values, false, &iter->holder, entry_r);
	} while (status == DOVETAIL_NOT_FOUND);
	return status;
}

enum dovetail_status dovetail_iter_next(struct dovetail_iter *iter, struct dovetail_entry *entry_r)
{
	enum dovetail_status status = DOVETAIL_OK;

	if (!iter->ended && iter->stmt == NULL)
		status = iter_start(iter);
	if (status == DOVETAIL_OK)
		status = iter->ended ? DOVETAIL_NOT_FOUND : iter_next(iter, entry_r);
	if (status == DOVETAIL_OK)
		return status;
	/* No longer than needed in the way of checkpoints */
	iter->ended = true;
	(void)sqlite3_finalize(iter->stmt);
	(void)sqlite3_close(iter->db);
	iter->stmt = NULL;
	iter->db = NULL;
	return status == DOVETAIL_NOT_FOUND ? replica_fail(iter->replica, status, "no more entries") : status;
}

void dovetail_iter_close(struct dovetail_iter *iter)
{
	if (iter == NULL)
		return;
	(void)sqlite3_finalize(iter->stmt);
	(void)sqlite3_close(iter->db);
	replica_holder_free(&iter->holder);
	free(iter->mailbox);
	free(iter->name);
	free(iter->name_end);
	free(iter->name_slash);
	free(iter);
}

/* -- counts */

enum dovetail_status dovetail_get_counts(struct dovetail *replica, struct dovetail_counts *counts_r)
{
	enum dovetail_status status;
	struct replica_meta meta;
	sqlite3_stmt *stmt;

	memset(counts_r, 0, sizeof(*counts_r));
	status = replica_begin(replica, false);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_meta_get(replica, &meta);
	if (status == DOVETAIL_OK) {
		stmt = replica_query(replica,
			"SELECT count(*), ifnull(sum(length(e.name) + iif(w.kind IS NULL, e.size, w.size)), 0),"
			" (SELECT count(DISTINCT entry_id) FROM write), (SELECT count(*) FROM refused)" VIEW_FROM
			" WHERE ifnull(w.kind, e.kind) <> 1 AND e.hidden = 0", "");
		status = replica_step(replica, stmt, "count");
		if (status == DOVETAIL_OK) {
			counts_r->entries = sqlite3_column_int64(stmt, 0);
			counts_r->bytes = sqlite3_column_int64(stmt, 1);
			counts_r->pending = sqlite3_column_int64(stmt, 2);
			counts_r->refused = sqlite3_column_int64(stmt, 3);
			counts_r->synced_at = meta.synced_at;
			counts_r->epoch = meta.epoch;
			counts_r->modseq = meta.modseq;
		}
	}
	return replica_end(replica, status);
}

/* -- */

enum dovetail_status replica_entry_settle(struct dovetail *replica, int64_t entry_id)
{
	enum dovetail_status status;

	status = replica_run(replica, "settle",
			     "UPDATE entry SET write_id = (SELECT max(id) FROM write WHERE entry_id = ?1) WHERE id = ?1",
			     "i", entry_id);
	if (status == DOVETAIL_OK) {
		status = replica_run(replica, "settle", "DELETE FROM entry WHERE id = ?1 AND kind = 1 AND write_id IS NULL", "i",
				     entry_id);
	}
	return status;
}
