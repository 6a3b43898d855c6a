/* Small things that crypt and sync keep in the replica, by a key. */

#include "replica-private.h"

#include <string.h>

enum dovetail_status replica_local_get(struct dovetail *replica, const char *key, const void **data_r, size_t *size_r)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	char *p;

	*data_r = NULL;
	*size_r = 0;
	stmt = replica_query(replica, "SELECT value FROM local WHERE key = ?1", "t", key);
	status = replica_step(replica, stmt, "read");
	if (status == DOVETAIL_NOT_FOUND)
		return replica_fail(replica, status, "nothing is kept as %s", key);
	if (status != DOVETAIL_OK)
		return status;
	*size_r = sqlite3_column_bytes(stmt, 0);
	p = replica_holder_get(&replica->local, *size_r + 1);
	if (p == NULL) {
		status = replica_no_memory(replica);
	} else {
		if (*size_r > 0)
			memcpy(p, sqlite3_column_blob(stmt, 0), *size_r);
		p[*size_r] = '\0';
		*data_r = p;
	}
	(void)sqlite3_reset(stmt);
	return status;
}

enum dovetail_status replica_local_set(struct dovetail *replica, const char *key, const void *data, size_t size)
{
	struct replica_value value = { .kind = REPLICA_VALUE, .data = data, .size = size };

	if (data == NULL)
		return replica_run(replica, "write", "DELETE FROM local WHERE key = ?1", "t", key);
	return replica_run(replica, "write", "INSERT OR REPLACE INTO local(key, value) VALUES(?1, ?2)", "tv", key, &value);
}
