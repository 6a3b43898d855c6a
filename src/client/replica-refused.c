/* Writes that the server has refused for good: kept aside with their value and the reason, until they are forgotten or written
   again. */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>

enum dovetail_status replica_refused_remove(struct dovetail *replica, const char *mailbox, const char *wire)
{
	return replica_run(replica, "forget", "DELETE FROM refused WHERE mailbox = ?1 AND wire = ?2", "tt", mailbox, wire);
}

/* Fills *refused_r from the row, copied into the holder: each() may use the replica. */
static enum dovetail_status refused_show(struct dovetail *replica, sqlite3_stmt *stmt, struct dovetail_refused *refused_r)
{
	const char *const texts[] = {
		(const char *)sqlite3_column_text(stmt, 1),
		(const char *)sqlite3_column_text(stmt, 3),
		(const char *)sqlite3_column_text(stmt, 5)
	};
	const char *wire = (const char *)sqlite3_column_text(stmt, 2), *copies[3];
	struct replica_value value;
	struct replica_coded coded;
	enum dovetail_status status;
	size_t i, size;
	char *p;

	replica_value_column(stmt, 4, 6, &value);
	status = replica_decode(replica, texts[0], wire, &value, false, &coded);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0, size = coded.size + 1; i < 3; i++)
		size += strlen(texts[i]) + 1;
	p = replica_holder_get(&replica->refused, size);
	if (p == NULL)
		return replica_no_memory(replica);
	for (i = 0; i < 3; i++) {
		copies[i] = strcpy(p, texts[i]);
		p += strlen(p) + 1;
	}
	memset(refused_r, 0, sizeof(*refused_r));
	refused_r->entry.mailbox = copies[0];
	refused_r->entry.name = copies[1];
	refused_r->entry.flags = DOVETAIL_ENTRY_REFUSED | coded.flags;
	refused_r->reason = copies[2];
	if (coded.data != NULL) {
		memcpy(p, coded.data, coded.size);
		p[coded.size] = '\0';
		refused_r->entry.data = p;
		refused_r->entry.size = coded.size;
	}
	return DOVETAIL_OK;
}

enum dovetail_status
dovetail_refused_each(struct dovetail *replica, bool (*each)(void *context, const struct dovetail_refused *refused), void *context)
{
	struct dovetail_refused refused;
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	int64_t id = 0;

	for (;;) {
		stmt = replica_query(replica, "SELECT rowid, mailbox, wire, name, kind, reason, value FROM refused"
				     " WHERE rowid > ?1 ORDER BY rowid LIMIT 1", "i", id);
		status = replica_step(replica, stmt, "read");
		if (status != DOVETAIL_OK)
			return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
		id = sqlite3_column_int64(stmt, 0);
		status = refused_show(replica, stmt, &refused);
		(void)sqlite3_reset(stmt);
		if (status != DOVETAIL_OK || !each(context, &refused))
			return status;
	}
}

enum dovetail_status dovetail_refused_forget(struct dovetail *replica, const char *mailbox, const char *_name)
{
	char name[REPLICA_NAME_MAX + 1];
	enum dovetail_status status;
	bool none;

	status = replica_mailbox(replica, mailbox, &mailbox, DOVETAIL_INVALID);
	if (status == DOVETAIL_OK)
		status = replica_name(replica, _name, false, name, DOVETAIL_INVALID);
	if (status == DOVETAIL_OK)
		status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_run(replica, "forget", "DELETE FROM refused WHERE mailbox = ?1 AND name = ?2", "tt", mailbox, name);
	none = status == DOVETAIL_OK && sqlite3_changes(replica->db) == 0;
	status = replica_end(replica, status);
	return status == DOVETAIL_OK && none ?
		replica_fail(replica, DOVETAIL_NOT_FOUND, "no write on %s of mailbox \"%.200s\" was refused", name, mailbox) :
		status;
}
