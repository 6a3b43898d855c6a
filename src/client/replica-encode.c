/* Writes that wait and may not be sent as they are (the codec's may_send()), because they were queued before their subtree was
   encrypted or with keys that are no longer in use: they are encoded anew where they are, in their sets, with their bases. */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>

/* A write in memory. */
struct waiting {
	int64_t id, set_id, entry_id;
	char *mailbox, *wire, *name;
	void *data;
	size_t size;
	/* the server's value of the entry */
	enum replica_kind kind;
};

static void waiting_free(struct waiting *waiting)
{
	free(waiting->mailbox);
	free(waiting->wire);
	free(waiting->name);
	free(waiting->data);
}

/* The first one after id, of a set that is not in flight. */
static enum dovetail_status waiting_next(struct dovetail *replica, int64_t id, struct waiting *waiting_r)
{
	struct replica_value value;
	enum dovetail_status status;
	sqlite3_stmt *stmt;

	memset(waiting_r, 0, sizeof(*waiting_r));
	stmt = replica_query(replica,
		"SELECT w.id, w.set_id, e.id, e.mailbox, e.wire, e.name, w.kind, w.value, e.kind FROM write w"
		" JOIN entry e ON e.id = w.entry_id"
		" JOIN change_set s ON s.id = w.set_id WHERE w.id > ?1 AND s.flight <> 1 AND w.kind = ?2 ORDER BY w.id LIMIT 1",
		"ii", id, (int64_t)REPLICA_VALUE);
	status = replica_step(replica, stmt, "read the queue");
	if (status != DOVETAIL_OK)
		return status;
	waiting_r->id = sqlite3_column_int64(stmt, 0);
	waiting_r->set_id = sqlite3_column_int64(stmt, 1);
	waiting_r->entry_id = sqlite3_column_int64(stmt, 2);
	waiting_r->mailbox = strdup((const char *)sqlite3_column_text(stmt, 3));
	waiting_r->wire = strdup((const char *)sqlite3_column_text(stmt, 4));
	waiting_r->name = strdup((const char *)sqlite3_column_text(stmt, 5));
	replica_value_column(stmt, 6, 7, &value);
	waiting_r->kind = sqlite3_column_int(stmt, 8);
	waiting_r->size = value.size;
	waiting_r->data = malloc(value.size + 1);
	if (waiting_r->data != NULL && value.size > 0)
		memcpy(waiting_r->data, value.data, value.size);
	(void)sqlite3_reset(stmt);
	if (waiting_r->mailbox != NULL && waiting_r->wire != NULL && waiting_r->name != NULL && waiting_r->data != NULL)
		return DOVETAIL_OK;
	waiting_free(waiting_r);
	return replica_no_memory(replica);
}

/* The write is on the entry of another wire name from now on; the old one is removed in the same set, if the server has it. */
static enum dovetail_status waiting_move(struct dovetail *replica, const struct waiting *waiting, const char *wire)
{
	enum dovetail_status status;
	int64_t id;

	status = replica_run(replica, "encode", "INSERT INTO entry(mailbox, wire, name, hidden, kind, modseq, size)"
			     " VALUES(?1, ?2, ?3, 0, ?4, 0, 0) ON CONFLICT(mailbox, wire) DO UPDATE SET name = excluded.name",
			     "ttti", waiting->mailbox, wire, waiting->name, (int64_t)REPLICA_REMOVED);
	if (status == DOVETAIL_OK)
		status = replica_number(replica, "encode", &id, "SELECT id FROM entry WHERE mailbox = ?1 AND wire = ?2", "tt",
					waiting->mailbox, wire);
	if (status == DOVETAIL_OK && waiting->kind != REPLICA_REMOVED) {
		status = replica_run(replica, "encode",
				     "INSERT INTO write(set_id, entry_id, kind, size, base_kind, base_modseq, value, base)"
				     " SELECT set_id, entry_id, ?1, 0, base_kind, base_modseq, NULL, base FROM write WHERE id = ?2",
				     "ii", (int64_t)REPLICA_REMOVED, waiting->id);
	}
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "encode", "UPDATE write SET entry_id = ?1 WHERE id = ?2", "ii", id, waiting->id);
	if (status == DOVETAIL_OK)
		status = replica_entry_settle(replica, waiting->entry_id);
	return status == DOVETAIL_OK ? replica_entry_settle(replica, id) : status;
}

static enum dovetail_status waiting_encode(struct dovetail *replica, const struct waiting *waiting)
{
	const struct replica_value value = { .kind = REPLICA_VALUE, .data = waiting->data, .size = waiting->size };
	struct replica_coded coded;
	struct replica_value sealed = { .kind = REPLICA_VALUE };
	enum dovetail_status status;
	size_t size;
	void *plain;

	status = replica_decode(replica, waiting->mailbox, waiting->wire, &value, false, &coded);
	/* locked: later */
	if (status != DOVETAIL_OK || coded.data == NULL)
		return status;
	size = coded.size;
	plain = malloc(size + 1);
	if (plain == NULL)
		return replica_no_memory(replica);
	if (size > 0)
		memcpy(plain, coded.data, size);
	memset(&coded, 0, sizeof(coded));
	status = replica->codec.encode(replica->codec.context, waiting->mailbox, waiting->name, plain, size, &coded);
	free(plain);
	if (status == DOVETAIL_LOCKED)
		return DOVETAIL_OK;
	if (status != DOVETAIL_OK)
		return status;
	sealed.data = coded.data;
	sealed.size = coded.size;
	status = replica_run(replica, "encode", "UPDATE write SET size = ?1, value = ?2 WHERE id = ?3", "ivi", (int64_t)sealed.size,
			     &sealed, waiting->id);
	if (status == DOVETAIL_OK && coded.name != NULL && strcmp(coded.name, waiting->wire) != 0)
		status = waiting_move(replica, waiting, coded.name);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "encode", "UPDATE change_set SET version = version + 1 WHERE id = ?1", "i",
				     waiting->set_id);
	return status;
}

static enum dovetail_status encode_all(struct dovetail *replica)
{
	struct waiting waiting;
	enum dovetail_status status;
	int64_t id = 0;

	while ((status = waiting_next(replica, id, &waiting)) == DOVETAIL_OK) {
		id = waiting.id;
		if (replica_covered(replica, waiting.wire) &&
		    !replica->codec.may_send(replica->codec.context, waiting.mailbox, waiting.wire, waiting.data, waiting.size))
			status = waiting_encode(replica, &waiting);
		waiting_free(&waiting);
		if (status != DOVETAIL_OK)
			return status;
	}
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

enum dovetail_status replica_queue_encode_again(struct dovetail *replica)
{
	enum dovetail_status status;

	if (!replica->has_codec || replica->codec.may_send == NULL)
		return DOVETAIL_OK;
	status = replica_begin(replica, true);
	return status != DOVETAIL_OK ? status : replica_end(replica, encode_all(replica));
}
