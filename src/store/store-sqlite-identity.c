/* Whose file an opened database is: a copy of the original, another user's, or
   what it seems to be. */

#include "store-private.h"

#include <string.h>

enum owner { OWNER_SAME, OWNER_NONE, OWNER_OTHER };

static bool identity_differs(const struct store *store,
			     const struct store_meta *file)
{
	const struct store_meta *meta = &store->meta;

	return meta->inode != file->inode ||
		(meta->birth != file->birth && meta->birth != 0 &&
		 file->birth != 0) ||
		(meta->fsid != file->fsid && meta->fsid != 0 &&
		 file->fsid != 0);
}

/* The wake file shows what this store does not have. Others may write between our
   looking at one and at the other, unless we hold the lock. */
static bool is_older_than_wake(const struct store *store)
{
	return store_wake_highest(store, store->meta.epoch) >
		store->meta.modseq;
}

/* A copy must not go on with the original's epoch: both would give the same
   positions to different changes. */
static enum store_status
check_identity(struct store *store, struct store_error *error_r)
{
	enum store_status status;
	struct store_meta file;

	status = store_dir_identity(store, &file, error_r);
	if (status == STORE_OK)
		status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	store_end(store);
	if (!identity_differs(store, &file) && !is_older_than_wake(store))
		return STORE_OK;

	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	if (!identity_differs(store, &file) && !is_older_than_wake(store)) {
		store_end(store);
		return STORE_OK;
	}
	store->meta.inode = file.inode;
	store->meta.birth = file.birth;
	store->meta.fsid = file.fsid;
	status = store_epoch_draw(store, error_r);
	if (status == STORE_OK)
		status = store_commit(store, error_r);
	else
		store_end(store);
	if (status == STORE_OK) {
		store_wake(store);
		store_log(store, "%s is a copy or was restored: new epoch %u, "
			  "every client starts again", store->db_path,
			  store->meta.epoch);
	}
	return status;
}

/* In a transaction: compares settings.owner with the one that is remembered. */
static enum store_status
owner_compare(struct store *store, enum owner *owner_r,
	      struct store_error *error_r)
{
	enum store_status status = STORE_OK;
	sqlite3_stmt *stmt;
	const char *name;

	*owner_r = OWNER_SAME;
	stmt = store_query(store, STORE_STMT_OWNER_GET, "");
	if (stmt == NULL || sqlite3_step(stmt) != SQLITE_ROW) {
		status = store_sql_error(store, "read the owner", error_r);
	} else if (sqlite3_column_type(stmt, 0) == SQLITE_NULL) {
		*owner_r = OWNER_NONE;
	} else {
		name = (const char *)sqlite3_column_text(stmt, 0);
		if (name == NULL || strcmp(name, store->set.owner) != 0)
			*owner_r = OWNER_OTHER;
		if (*owner_r == OWNER_OTHER && !store->set.take_over) {
			status = store_fail(error_r, STORE_REFUSED,
				"%s belongs to the user %s, not to %s: each "
				"user needs a directory of his own",
				store->db_path, name, store->set.owner);
		}
	}
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	return status;
}

/* In a write transaction: remembers settings.owner; commits. Readers of another
   owner's store know its positions: they start again. */
static enum store_status
owner_set(struct store *store, bool new_epoch, struct store_error *error_r)
{
	enum store_status status;

	status = store_run(store, error_r, "write the owner",
			   STORE_STMT_OWNER_SET, "t", store->set.owner);
	if (status == STORE_OK && new_epoch)
		status = store_epoch_draw(store, error_r);
	if (status == STORE_OK)
		return store_commit(store, error_r);
	store_end(store);
	return status;
}

static enum store_status
check_owner(struct store *store, struct store_error *error_r)
{
	enum store_status status;
	enum owner owner;

	if (store->set.owner == NULL)
		return STORE_OK;
	status = store_begin(store, false, error_r);
	if (status != STORE_OK)
		return status;
	status = owner_compare(store, &owner, error_r);
	store_end(store);
	if (status != STORE_OK || owner == OWNER_SAME)
		return status;

	status = store_begin(store, true, error_r);
	if (status != STORE_OK)
		return status;
	status = owner_compare(store, &owner, error_r);
	if (status != STORE_OK || owner == OWNER_SAME) {
		store_end(store);
		return status;
	}
	status = owner_set(store, owner == OWNER_OTHER, error_r);
	if (status == STORE_OK && owner == OWNER_OTHER) {
		store_wake(store);
		store_log(store, "%s was taken over by %s: new epoch %u, every "
			  "client starts again", store->db_path,
			  store->set.owner, store->meta.epoch);
	}
	return status;
}

enum store_status store_identity_check(struct store *store,
				       struct store_error *error_r)
{
	enum store_status status;

	status = check_owner(store, error_r);
	return status != STORE_OK ? status : check_identity(store, error_r);
}
