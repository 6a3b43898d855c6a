/* What the user sees differently by what others did, until it is told: noted in the table "changed", which is this connection's
   own. Used by replica-stage.c and replica-queue.c, which note, and by the sync, which tells. */

#include "replica-private.h"

#include <string.h>

enum dovetail_status replica_changed(struct dovetail *replica, const char *mailbox, const char *name)
{
	enum dovetail_status status;
	int64_t fresh;

	/* It will be told in any case */
	if (replica->fresh_told < replica->fresh_last) {
		status = replica_number(replica, "note a change", &fresh, "SELECT EXISTS(SELECT 1 FROM entry"
			" WHERE mailbox = ?1 AND name = ?2 AND hidden = 0 AND id > ?3 AND id <= ?4)", "ttii", mailbox, name,
			replica->fresh_told, replica->fresh_last);
		if (status != DOVETAIL_OK || fresh != 0)
			return status;
	}
	/* REPLACE: one that was told already, and has changed again, is told again */
	return replica_run(replica, "note a change", "INSERT OR REPLACE INTO temp.changed(mailbox, name) VALUES(?1, ?2)", "tt",
			   mailbox, name);
}

/* As seen now; removed if it is not there. */
static enum dovetail_status
changed_show(struct dovetail *replica, const char *mailbox, const char *name, struct dovetail_entry *entry_r)
{
	struct replica_view view;
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	char *p;

	status = replica_view(replica, mailbox, name, false, &stmt, &view);
	if (status == DOVETAIL_OK)
		status = replica_show(replica, &view, true, false, &replica->changed, entry_r);
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	if (status != DOVETAIL_NOT_FOUND)
		return status;
	p = replica_holder_get(&replica->changed, strlen(mailbox) + strlen(name) + 2);
	if (p == NULL)
		return replica_no_memory(replica);
	memset(entry_r, 0, sizeof(*entry_r));
	entry_r->mailbox = strcpy(p, mailbox);
	entry_r->name = strcpy(p + strlen(mailbox) + 1, name);
	return DOVETAIL_OK;
}

enum dovetail_status replica_changed_forget(struct dovetail *replica)
{
	enum dovetail_status status = replica_run(replica, "read changes", "DELETE FROM temp.changed", "");

	if (status != DOVETAIL_OK)
		return status;
	replica->changed_id = 0;
	replica->fresh_told = replica->fresh_last;
	return DOVETAIL_OK;
}

/* The next one of the query, told by its id: *id_r. */
static enum dovetail_status
changed_step(struct dovetail *replica, sqlite3_stmt *stmt, struct dovetail_entry *entry_r, int64_t *id_r)
{
	enum dovetail_status status = replica_step(replica, stmt, "read changes");
	int64_t id;

	if (status != DOVETAIL_OK)
		return status;
	id = sqlite3_column_int64(stmt, 0);
	status = changed_show(replica, (const char *)sqlite3_column_text(stmt, 1), (const char *)sqlite3_column_text(stmt, 2),
			      entry_r);
	if (status == DOVETAIL_OK)
		*id_r = id;
	return status;
}

/* In a transaction. */
static enum dovetail_status changed_find(struct dovetail *replica, struct dovetail_entry *entry_r)
{
	enum dovetail_status status;

	if (replica->fresh_told < replica->fresh_last) {
		status = changed_step(replica, replica_query(replica,
							     "SELECT id, mailbox, name FROM entry WHERE id > ?1 AND id <= ?2"
				      " AND hidden = 0 ORDER BY id LIMIT 1", "ii", replica->fresh_told, replica->fresh_last),
				      entry_r, &replica->fresh_told);
		if (status != DOVETAIL_NOT_FOUND)
			return status;
		replica->fresh_told = replica->fresh_last;
	}
	status = changed_step(replica, replica_query(replica,
						     "SELECT id, mailbox, name FROM temp.changed WHERE id > ?1 ORDER BY id LIMIT 1",
			      "i", replica->changed_id), entry_r, &replica->changed_id);
	if (status != DOVETAIL_NOT_FOUND)
		return status;
	/* All at once is cheaper than one by one */
	if (replica->changed_id == 0)
		return DOVETAIL_NOT_FOUND;
	status = replica_changed_forget(replica);
	return status == DOVETAIL_OK ? DOVETAIL_NOT_FOUND : status;
}

enum dovetail_status replica_changed_next(struct dovetail *replica, struct dovetail_entry *entry_r)
{
	enum dovetail_status status;
	bool found;

	status = replica_begin(replica, false);
	if (status != DOVETAIL_OK)
		return status;
	status = changed_find(replica, entry_r);
	found = status != DOVETAIL_NOT_FOUND;
	status = replica_end(replica, found ? status : DOVETAIL_OK);
	return status != DOVETAIL_OK || found ? status : replica_fail(replica, DOVETAIL_NOT_FOUND, "no more changes");
}
