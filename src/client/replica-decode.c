/* The users' names of encrypted entries, computed anew when keys have come: readers go in the order of these names, so they are
   kept. */

#include "replica-private.h"

#include <string.h>

static enum dovetail_status decode_row(struct dovetail *replica, sqlite3_stmt *stmt, bool tell)
{
	const char *mailbox = (const char *)sqlite3_column_text(stmt, 1), *wire = (const char *)sqlite3_column_text(stmt, 2);
	const char *old = (const char *)sqlite3_column_text(stmt, 3);
	char name[REPLICA_NAME_MAX + 1];
	struct replica_coded coded;
	struct replica_value value;
	enum dovetail_status status;
	bool hidden;

	replica_value_column(stmt, 5, 6, &value);
	status = replica_decode(replica, mailbox, wire, &value, false, &coded);
	if (status != DOVETAIL_OK || value.kind != REPLICA_VALUE)
		return status;
	hidden = coded.hidden;
	strcpy(name, coded.name != NULL && strlen(coded.name) <= REPLICA_NAME_MAX ? coded.name : old);
	if (tell && !hidden && (coded.flags & DOVETAIL_ENTRY_LOCKED) == 0) {
		status = replica_changed(replica, mailbox, name);
		if (status == DOVETAIL_OK && strcmp(name, old) != 0)
			status = replica_changed(replica, mailbox, old);
	}
	if (status == DOVETAIL_OK && (strcmp(name, old) != 0 || hidden != (sqlite3_column_int(stmt, 4) != 0))) {
		status = replica_run(replica, "rename", "UPDATE entry SET name = ?1, hidden = ?2 WHERE id = ?3", "tii", name,
				     (int64_t)hidden, (int64_t)sqlite3_column_int64(stmt, 0));
	}
	return status;
}

static enum dovetail_status decode_rows(struct dovetail *replica, const char *subtree, bool tell)
{
	enum dovetail_status status;
	size_t size = strlen(subtree);
	int64_t id = 0;
	sqlite3_stmt *stmt;
	const char *wire;

	for (;;) {
		stmt = replica_query(replica, "SELECT e.id, e.mailbox, e.wire, e.name, e.hidden, ifnull(w.kind, e.kind),"
			" iif(w.kind IS NULL, e.value, w.value) FROM entry e LEFT JOIN write w ON w.id = e.write_id"
			" WHERE e.id > ?1 ORDER BY e.id LIMIT 1", "i", id);
		status = replica_step(replica, stmt, "rename");
		if (status != DOVETAIL_OK)
			return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
		id = sqlite3_column_int64(stmt, 0);
		wire = (const char *)sqlite3_column_text(stmt, 2);
		if (strncmp(wire, subtree, size) == 0 && (wire[size] == '\0' || wire[size] == '/'))
			status = decode_row(replica, stmt, tell);
		(void)sqlite3_reset(stmt);
		if (status != DOVETAIL_OK)
			return status;
	}
}

enum dovetail_status replica_decode_again(struct dovetail *replica, const char *subtree, bool tell)
{
	enum dovetail_status status;

	status = replica_begin(replica, true);
	return status != DOVETAIL_OK ? status : replica_end(replica, decode_rows(replica, subtree, tell));
}
