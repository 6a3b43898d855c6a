/* What comes from the server. It is collected in memory, then in the table "stage", in short transactions; at its marker it becomes
   the state in one transaction. What the user sees differently then is noted (replica-changed.c). */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct replica_staged {
	/* one piece of memory: mailbox, wire, value */
	char *memory;
	const char *mailbox, *wire;
	struct replica_value value;
};

/* -- staging */

static void buffer_clear(struct dovetail *replica)
{
	size_t i;

	for (i = 0; i < replica->staged_count; i++)
		free(replica->staged[i].memory);
	replica->staged_count = 0;
	replica->staged_bytes = 0;
}

void replica_stage_free(struct dovetail *replica)
{
	buffer_clear(replica);
	free(replica->staged);
	replica->staged = NULL;
	replica->staged_allocated = 0;
}

/* In a transaction. */
static enum dovetail_status drop(struct dovetail *replica)
{
	enum dovetail_status status;

	status = replica_run(replica, "drop", "DELETE FROM stage WHERE id > (SELECT partial_id FROM meta)", "");
	return status != DOVETAIL_OK ? status : replica_run(replica, "drop", "UPDATE meta SET snapshot = 0 WHERE partial = ''", "");
}

/* In a transaction. */
static enum dovetail_status buffer_store(struct dovetail *replica)
{
	enum dovetail_status status = replica->drop_due ? drop(replica) : DOVETAIL_OK;
	size_t i;

	for (i = 0; i < replica->staged_count && status == DOVETAIL_OK; i++) {
		const struct replica_staged *staged = &replica->staged[i];

		/* REPLACE: the newest has the highest id */
		status = replica_run(replica, "stage",
				     "INSERT OR REPLACE INTO stage(mailbox, wire, kind, value) VALUES(?1, ?2, ?3, ?4)",
				     "ttiv", staged->mailbox, staged->wire, (int64_t)staged->value.kind, &staged->value);
	}
	return status;
}

/* After the commit. */
static void buffer_stored(struct dovetail *replica)
{
	replica->drop_due = false;
	buffer_clear(replica);
}

static enum dovetail_status buffer_flush(struct dovetail *replica)
{
	enum dovetail_status status;

	if (replica->staged_count == 0)
		return DOVETAIL_OK;
	status = replica_begin(replica, true);
	if (status == DOVETAIL_OK)
		status = replica_end(replica, buffer_store(replica));
	if (status == DOVETAIL_OK)
		buffer_stored(replica);
	return status;
}

enum dovetail_status
replica_stage(struct dovetail *replica, const char *mailbox, const char *_name, enum replica_kind kind, const void *data,
	      size_t size)
{
	char name[REPLICA_NAME_MAX + 1], *p;
	size_t mailbox_size, name_size, allocated;
	struct replica_staged *staged;
	enum dovetail_status status;

	status = replica_mailbox(replica, mailbox, &mailbox, DOVETAIL_PROTOCOL);
	if (status == DOVETAIL_OK)
		status = replica_name(replica, _name, false, name, DOVETAIL_PROTOCOL);
	if (status != DOVETAIL_OK)
		return status;
	if (kind != REPLICA_VALUE)
		size = 0;
	if (replica->staged_count == replica->staged_allocated) {
		allocated = replica->staged_allocated == 0 ? 16 : replica->staged_allocated * 2;
		staged = realloc(replica->staged, allocated * sizeof(*staged));
		if (staged == NULL)
			return replica_no_memory(replica);
		replica->staged = staged;
		replica->staged_allocated = allocated;
	}
	mailbox_size = strlen(mailbox) + 1;
	name_size = strlen(name) + 1;
	p = malloc(mailbox_size + name_size + size);
	if (p == NULL)
		return replica_no_memory(replica);
	staged = &replica->staged[replica->staged_count++];
	staged->memory = p;
	staged->mailbox = memcpy(p, mailbox, mailbox_size);
	staged->wire = memcpy(p + mailbox_size, name, name_size);
	staged->value.kind = kind;
	staged->value.data = p + mailbox_size + name_size;
	staged->value.size = size;
	if (size > 0)
		memcpy(p + mailbox_size + name_size, data, size);
	replica->staged_bytes += sizeof(*staged) + 32 + mailbox_size + name_size + size;
	return replica->staged_bytes < REPLICA_STAGE_BUFFER ? DOVETAIL_OK : buffer_flush(replica);
}

enum dovetail_status replica_stage_snapshot(struct dovetail *replica)
{
	enum dovetail_status status;

	buffer_clear(replica);
	status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_run(replica, "stage", "DELETE FROM stage", "");
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "stage", "UPDATE meta SET partial = '', partial_id = 0, snapshot = 1", "");
	status = replica_end(replica, status);
	if (status == DOVETAIL_OK)
		replica->drop_due = false;
	return status;
}

enum dovetail_status replica_stage_partial(struct dovetail *replica, const char *mark)
{
	enum dovetail_status status;
	struct replica_position position;

	if (!replica_position_parse(mark, true, &position))
		return replica_fail(replica, DOVETAIL_PROTOCOL, "\"%.100s\" is no mark", mark);
	status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_parts_load(replica);
	if (status == DOVETAIL_OK)
		status = replica_parts_check(replica, true);
	if (status == DOVETAIL_OK)
		status = buffer_store(replica);
	if (status == DOVETAIL_OK) {
		status = replica_run(replica, "stage",
			"UPDATE meta SET partial = ?1, partial_id = (SELECT ifnull(max(id), 0) FROM stage)", "t", mark);
	}
	status = replica_end(replica, status);
	if (status == DOVETAIL_OK)
		buffer_stored(replica);
	return status;
}

enum dovetail_status replica_stage_drop(struct dovetail *replica)
{
	enum dovetail_status status;
	int64_t any;

	buffer_clear(replica);
	replica->drop_due = true;
	/* Most often there is nothing: no need to write */
	status = replica_number(replica, "drop", &any, "SELECT (snapshot = 1 AND partial = '') OR"
		" EXISTS(SELECT 1 FROM stage WHERE id > meta.partial_id) FROM meta WHERE one = 1", "");
	if (status == DOVETAIL_OK && any != 0) {
		status = replica_begin(replica, true);
		if (status == DOVETAIL_OK)
			status = replica_end(replica, drop(replica));
	}
	if (status == DOVETAIL_OK)
		replica->drop_due = false;
	return status;
}

/* -- the marker */

struct swap {
	struct replica_meta before;
	struct replica_position to;
	/* There were no entries: nothing to compare with, and what came needs no list of its own, the ids say it */
	bool fresh;
	int64_t fresh_first, fresh_last;
};

/* Copies what decode() says, since its memory is good for one value only. */
static enum dovetail_status
decode_copy(struct dovetail *replica, const char *mailbox, const char *wire, const struct replica_value *value, void **copy_r,
	    size_t *size_r, unsigned int *flags_r)
{
	struct replica_coded coded;
	enum dovetail_status status;

	*copy_r = NULL;
	status = replica_decode(replica, mailbox, wire, value, false, &coded);
	if (status != DOVETAIL_OK)
		return status;
	*size_r = coded.size;
	*flags_r = coded.flags;
	if (coded.data != NULL) {
		*copy_r = malloc(coded.size + 1);
		if (*copy_r == NULL)
			return replica_no_memory(replica);
		memcpy(*copy_r, coded.data, coded.size);
	}
	return DOVETAIL_OK;
}

/* Sets *same_r if old and the new one, which has just been decoded, are the same for the user though they are not on the wire. */
static enum dovetail_status
decoded_same(struct dovetail *replica, const char *mailbox, const char *wire, const struct replica_value *old,
	     const struct replica_value *new, bool *same_r)
{
	struct replica_coded coded;
	enum dovetail_status status;
	unsigned int flags;
	size_t size;
	void *copy;

	status = decode_copy(replica, mailbox, wire, old, &copy, &size, &flags);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_decode(replica, mailbox, wire, new, false, &coded);
	*same_r = status == DOVETAIL_OK && copy != NULL && coded.data != NULL && size == coded.size && flags == coded.flags &&
		memcmp(copy, coded.data, size) == 0;
	free(copy);
	return status;
}

/* One that was removed, here or by a snapshot. The row is known to have no waiting write or has one that hides this. */
static enum dovetail_status
remove_row(struct dovetail *replica, int64_t id, const char *mailbox, const char *wire, const char *name, bool hidden, bool waiting)
{
	enum dovetail_status status = DOVETAIL_OK;

	if (replica_covered(replica, wire) && replica->codec.removed != NULL)
		status = replica->codec.removed(replica->codec.context, mailbox, wire);
	if (status == DOVETAIL_OK && !waiting && !hidden)
		status = replica_changed(replica, mailbox, name);
	if (status == DOVETAIL_OK && waiting) {
		return replica_run(replica, "apply", "UPDATE entry SET kind = 1, modseq = 0, size = 0, value = NULL WHERE id = ?1",
				   "i", id);
	}
	return status != DOVETAIL_OK ? status : replica_run(replica, "apply", "DELETE FROM entry WHERE id = ?1", "i", id);
}

/* A row of stage over a row of entry (old: at its step), or none (old NULL). */
static enum dovetail_status
apply_value(struct dovetail *replica, const struct swap *swap, const char *mailbox, const char *wire,
	    const struct replica_value *value, sqlite3_stmt *old)
{
	struct replica_value before = { .kind = REPLICA_REMOVED };
	char name[REPLICA_NAME_MAX + 1];
	struct replica_coded coded;
	enum dovetail_status status;
	bool same = false, waiting = false;

	if (old != NULL) {
		replica_value_column(old, 4, 5, &before);
		waiting = sqlite3_column_type(old, 3) != SQLITE_NULL;
	}
	same = replica_value_same(&before, value);
	/* Too large ones cannot be compared: a snapshot names all of them, else it has changed */
	if (value->kind == REPLICA_NOT_HERE && same && !swap->before.snapshot)
		same = false;
	/* The name that the user has given to a removed one, or that was known before */
	strcpy(name, old != NULL ? (const char *)sqlite3_column_text(old, 1) : wire);
	memset(&coded, 0, sizeof(coded));
	if (!same || old == NULL) {
		status = replica_decode(replica, mailbox, wire, value, true, &coded);
		if (status != DOVETAIL_OK)
			return status;
		if (coded.name != NULL && strlen(coded.name) <= REPLICA_NAME_MAX)
			strcpy(name, coded.name);
	} else {
		coded.hidden = sqlite3_column_int(old, 2) != 0;
	}
	if (!same && !waiting && !coded.hidden) {
		bool hardly = false;

		status = DOVETAIL_OK;
		if (before.kind == REPLICA_VALUE && value->kind == REPLICA_VALUE && replica_covered(replica, wire)) {
			bool hidden = coded.hidden;

			status = decoded_same(replica, mailbox, wire, &before, value, &hardly);
			coded.hidden = hidden;
		}
		if (status == DOVETAIL_OK && !hardly && !swap->fresh)
			status = replica_changed(replica, mailbox, name);
		if (status != DOVETAIL_OK)
			return status;
	}
	/* What is the same keeps its row: rewriting 100,000 of them would cost */
	if (same && old != NULL)
		return DOVETAIL_OK;
	return replica_run(replica, "apply",
		"INSERT INTO entry(mailbox, wire, name, hidden, kind, modseq, size, value) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
		" ON CONFLICT(mailbox, wire) DO UPDATE SET name = excluded.name, hidden = excluded.hidden, kind = excluded.kind,"
		" modseq = excluded.modseq, size = excluded.size, value = excluded.value",
		"tttiiiiv", mailbox, wire, name, (int64_t)coded.hidden, (int64_t)value->kind, (int64_t)swap->to.modseq,
		(int64_t)value->size, value);
}

static enum dovetail_status apply_row(struct dovetail *replica, struct swap *swap, sqlite3_stmt *staged)
{
	const char *mailbox = (const char *)sqlite3_column_text(staged, 0), *wire = (const char *)sqlite3_column_text(staged, 1);
	struct replica_value value;
	enum dovetail_status status;
	sqlite3_stmt *old;
	bool found;

	/* Nobody has asked for it; or the parts are others now, since another process has set them */
	if (!replica_parts_cover(replica, mailbox, wire))
		return DOVETAIL_OK;
	replica_value_column(staged, 2, 3, &value);
	if (swap->fresh) {
		if (value.kind == REPLICA_REMOVED)
			return DOVETAIL_OK;
		status = apply_value(replica, swap, mailbox, wire, &value, NULL);
		swap->fresh_last = sqlite3_last_insert_rowid(replica->db);
		if (swap->fresh_first == 0)
			swap->fresh_first = swap->fresh_last;
		return status;
	}
	old = replica_query(replica, "SELECT id, name, hidden, write_id, kind, value, modseq FROM entry"
			    " WHERE mailbox = ?1 AND wire = ?2", "tt", mailbox, wire);
	status = replica_step(replica, old, "apply");
	if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
		return status;
	found = status == DOVETAIL_OK;
	/* Our own write of later than this state, which comes with a later marker */
	if (found && swap->to.epoch == swap->before.epoch && (uint64_t)sqlite3_column_int64(old, 6) > swap->to.modseq) {
		(void)sqlite3_reset(old);
		return DOVETAIL_OK;
	}
	if (value.kind != REPLICA_REMOVED) {
		status = apply_value(replica, swap, mailbox, wire, &value, found ? old : NULL);
	} else {
		status = DOVETAIL_OK;
		if (found && sqlite3_column_int(old, 4) != REPLICA_REMOVED) {
			status = remove_row(replica, sqlite3_column_int64(old, 0), mailbox, wire,
				(const char *)sqlite3_column_text(old, 1), sqlite3_column_int(old, 2) != 0,
				sqlite3_column_type(old, 3) != SQLITE_NULL);
		}
	}
	(void)sqlite3_reset(old);
	return status;
}

static enum dovetail_status apply_staged(struct dovetail *replica, struct swap *swap)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	int64_t any;

	status = replica_number(replica, "apply", &any, "SELECT EXISTS(SELECT 1 FROM entry)", "");
	if (status != DOVETAIL_OK)
		return status;
	swap->fresh = any == 0;
	stmt = replica_query(replica, "SELECT mailbox, wire, kind, value FROM stage ORDER BY id", "");
	while ((status = replica_step(replica, stmt, "apply")) == DOVETAIL_OK) {
		status = apply_row(replica, swap, stmt);
		if (status != DOVETAIL_OK) {
			(void)sqlite3_reset(stmt);
			return status;
		}
	}
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

#define NOT_STAGED \
	" kind <> 1 AND NOT EXISTS(SELECT 1 FROM stage s WHERE s.mailbox = e.mailbox AND s.wire = e.wire AND s.kind <> 1)" \
	" AND modseq <= ?1"

static enum dovetail_status remove_not_staged(struct dovetail *replica, uint64_t newest)
{
	enum dovetail_status status;
	int64_t id = 0;
	sqlite3_stmt *stmt;

	for (;;) {
		stmt = replica_query(replica, "SELECT id, mailbox, wire, name, hidden, write_id FROM entry e WHERE" NOT_STAGED
				     " AND id > ?2 ORDER BY id LIMIT 1", "ii", (int64_t)newest, id);
		status = replica_step(replica, stmt, "apply");
		if (status != DOVETAIL_OK)
			return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
		id = sqlite3_column_int64(stmt, 0);
		status = remove_row(replica, id, (const char *)sqlite3_column_text(stmt, 1),
				    (const char *)sqlite3_column_text(stmt, 2),
			(const char *)sqlite3_column_text(stmt, 3), sqlite3_column_int(stmt, 4) != 0,
			sqlite3_column_type(stmt, 5) != SQLITE_NULL);
		(void)sqlite3_reset(stmt);
		if (status != DOVETAIL_OK)
			return status;
	}
}

static enum dovetail_status swap_snapshot(struct dovetail *replica, const struct swap *swap, uint64_t max_removals)
{
	/* Entries with a later modseq are our own writes, see apply_row() */
	uint64_t newest = swap->to.epoch == swap->before.epoch && swap->to.epoch != 0 ? swap->to.modseq : INT64_MAX;
	enum dovetail_status status;
	int64_t removals;

	if (max_removals > 0) {
		status = replica_number(replica, "count removals", &removals, "SELECT count(*) FROM entry e WHERE" NOT_STAGED, "i",
					(int64_t)newest);
		if (status != DOVETAIL_OK)
			return status;
		if ((uint64_t)removals > max_removals) {
			return replica_fail(replica, DOVETAIL_MASS_REMOVAL,
				"the server's new state would remove %lld entries here, more than %llu", (long long)removals,
				(unsigned long long)max_removals);
		}
	}
	return remove_not_staged(replica, newest);
}

static enum dovetail_status swap_in(struct dovetail *replica, struct swap *swap, const char *mark, uint64_t max_removals,
				    bool *reset_r)
{
	enum dovetail_status status;
	const char *old_mark, *partial;

	status = replica_parts_load(replica);
	if (status == DOVETAIL_OK)
		status = replica_parts_check(replica, *mark != '\0');
	if (status == DOVETAIL_OK)
		status = replica_get_mark(replica, &old_mark, &partial);
	if (status == DOVETAIL_OK)
		status = replica_meta_get(replica, &swap->before);
	if (status != DOVETAIL_OK)
		return status;
	*reset_r = swap->before.snapshot && *old_mark != '\0';
	if (swap->before.snapshot)
		status = swap_snapshot(replica, swap, max_removals);
	/* Positions of another epoch say nothing */
	if (status == DOVETAIL_OK && swap->to.epoch != swap->before.epoch)
		status = replica_run(replica, "apply", "UPDATE entry SET modseq = ?1 WHERE modseq > ?1", "i",
				     (int64_t)swap->to.modseq);
	if (status == DOVETAIL_OK)
		status = apply_staged(replica, swap);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "apply", "DELETE FROM stage", "");
	if (status == DOVETAIL_OK) {
		status = replica_run(replica, "apply",
			"UPDATE meta SET mark = ?1, epoch = ?2, modseq = ?3, synced_at = ?4, partial = '', partial_id = 0,"
			" snapshot = 0, need_state = 0", "tiii", mark, (int64_t)swap->to.epoch, (int64_t)swap->to.modseq,
			(int64_t)time(NULL));
	}
	return status;
}

enum dovetail_status
replica_stage_consistent(struct dovetail *replica, const char *mark, uint64_t max_removals, bool *reset_r)
{
	struct swap swap = { .to = { .epoch = 0 } };
	enum dovetail_status status;

	*reset_r = false;
	if (*mark != '\0' && !replica_position_parse(mark, true, &swap.to))
		return replica_fail(replica, DOVETAIL_PROTOCOL, "\"%.100s\" is no mark", mark);
	if (replica->staged_bytes > REPLICA_STAGE_BUFFER / 2) {
		status = buffer_flush(replica);
		if (status != DOVETAIL_OK)
			return status;
	}
	status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = buffer_store(replica);
	if (status == DOVETAIL_OK)
		status = swap_in(replica, &swap, mark, max_removals, reset_r);
	status = replica_end(replica, status);
	/* On failure it stays staged, in memory */
	if (status != DOVETAIL_OK)
		return status;
	buffer_stored(replica);
	if (swap.fresh_first != 0) {
		replica->fresh_told = swap.fresh_first - 1;
		replica->fresh_last = swap.fresh_last;
	}
	return DOVETAIL_OK;
}
