/* Writing: change sets of the user go into the view and the queue in one transaction. Values are encoded here, once. */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>

/* What the user asked for. */
struct change {
	char *mailbox, *name;
	/* kind REPLICA_VALUE (data is our own memory) or REPLICA_REMOVED */
	struct replica_value value;
	bool expect, raw, anew;
	/* removing what is not there is NOT_FOUND */
	bool strict;
};

/* A write that is to be done. */
struct effect {
	int64_t entry_id;
	/* the codec's memory is not ours: a copy; NULL: the change's */
	void *memory;
	struct replica_value value;
};

struct dovetail_changes {
	struct dovetail *replica;
	struct change *changes;
	size_t count, allocated, writes;

	/* of commit and check */
	struct effect *effects;
	size_t effects_count;
	struct replica_limits limits;
};

/* -- collecting */

enum dovetail_status dovetail_changes_begin(struct dovetail *replica, struct dovetail_changes **changes_r)
{
	enum dovetail_status status;

	*changes_r = NULL;
	if ((replica->flags & DOVETAIL_OPEN_READONLY) != 0)
		return replica_fail(replica, DOVETAIL_INVALID, "%s is open for reading only", replica->path);
	*changes_r = calloc(1, sizeof(**changes_r));
	if (*changes_r == NULL)
		return replica_no_memory(replica);
	(*changes_r)->replica = replica;
	status = replica_limits_get(replica, &(*changes_r)->limits);
	if (status != DOVETAIL_OK) {
		free(*changes_r);
		*changes_r = NULL;
	}
	return status;
}

static void change_free(struct change *change)
{
	free(change->mailbox);
	free(change->name);
	free((void *)change->value.data);
}

static void effects_free(struct dovetail_changes *changes)
{
	size_t i;

	for (i = 0; i < changes->effects_count; i++)
		free(changes->effects[i].memory);
	free(changes->effects);
	changes->effects = NULL;
	changes->effects_count = 0;
}

void dovetail_changes_abort(struct dovetail_changes *changes)
{
	size_t i;

	if (changes == NULL)
		return;
	for (i = 0; i < changes->count; i++)
		change_free(&changes->changes[i]);
	effects_free(changes);
	free(changes->changes);
	free(changes);
}

static struct change *change_find(struct dovetail_changes *changes, const struct change *change)
{
	size_t i;

	for (i = 0; i < changes->count; i++) {
		if (changes->changes[i].expect == change->expect && changes->changes[i].raw == change->raw &&
		    strcmp(changes->changes[i].name, change->name) == 0 &&
		    strcmp(changes->changes[i].mailbox, change->mailbox) == 0)
			return &changes->changes[i];
	}
	return NULL;
}

static enum dovetail_status change_place(struct dovetail_changes *changes, const struct change *change)
{
	struct change *to = change_find(changes, change);
	size_t allocated;

	if (to != NULL) {
		change_free(to);
		*to = *change;
		return DOVETAIL_OK;
	}
	if (!change->expect && changes->writes == REPLICA_SET_MAX) {
		return replica_fail(changes->replica, DOVETAIL_LIMIT, "a change set has at most %d entries", REPLICA_SET_MAX);
	}
	if (changes->count == changes->allocated) {
		allocated = changes->allocated == 0 ? 4 : changes->allocated * 2;
		to = realloc(changes->changes, allocated * sizeof(*to));
		if (to == NULL)
			return replica_no_memory(changes->replica);
		changes->changes = to;
		changes->allocated = allocated;
	}
	changes->changes[changes->count++] = *change;
	if (!change->expect)
		changes->writes++;
	return DOVETAIL_OK;
}

/* What the server would refuse. What crypt writes (raw, anew) is not held up: all of a subtree is to be encrypted. how: "", or
   "when it is encrypted" */
static enum dovetail_status
change_check(struct dovetail_changes *changes, const struct change *change, const char *wire, size_t size, const char *how)
{
	const struct replica_limits *limits = &changes->limits;

	if (change->raw || change->anew || change->expect || change->value.kind != REPLICA_VALUE)
		return DOVETAIL_OK;
	if (limits->value != 0 && size > limits->value) {
		return replica_fail(changes->replica, DOVETAIL_LIMIT, "the value of %s has %zu octets%s, the server takes %llu",
				    change->name, size, how, (unsigned long long)limits->value);
	}
	if (limits->name != 0 && strlen(wire) > limits->name) {
		return replica_fail(changes->replica, DOVETAIL_LIMIT, "the name %s has %zu octets%s, the server takes %llu",
				    change->name, strlen(wire), how, (unsigned long long)limits->name);
	}
	return DOVETAIL_OK;
}

static enum dovetail_status
change_add(struct dovetail_changes *changes, const char *mailbox, const char *_name, const void *data, size_t size,
	   struct change change)
{
	struct dovetail *replica = changes->replica;
	char name[REPLICA_NAME_MAX + 1];
	enum dovetail_status status;

	status = replica_mailbox(replica, mailbox, &mailbox, DOVETAIL_INVALID);
	if (status == DOVETAIL_OK)
		status = replica_name(replica, _name, false, name, DOVETAIL_INVALID);
	if (status != DOVETAIL_OK)
		return status;
	if (size > (size_t)sqlite3_limit(replica->db, SQLITE_LIMIT_LENGTH, -1) / 2)
		return replica_fail(replica, DOVETAIL_LIMIT, "a value of %zu octets is too large", size);
	change.mailbox = strdup(mailbox);
	change.name = strdup(name);
	change.value.kind = data == NULL ? REPLICA_REMOVED : REPLICA_VALUE;
	if (data != NULL) {
		change.value.size = size;
		change.value.data = malloc(size == 0 ? 1 : size);
		if (change.value.data != NULL && size > 0)
			memcpy((void *)change.value.data, data, size);
	}
	if (change.mailbox == NULL || change.name == NULL || (data != NULL && change.value.data == NULL))
		status = replica_no_memory(replica);
	else
		status = change_check(changes, &change, change.name, size, "");
	if (status == DOVETAIL_OK)
		status = change_place(changes, &change);
	if (status != DOVETAIL_OK)
		change_free(&change);
	return status;
}

enum dovetail_status
dovetail_changes_add(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size)
{
	return change_add(changes, mailbox, name, data, size, (struct change){ .strict = false });
}

enum dovetail_status
dovetail_changes_expect(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size)
{
	return change_add(changes, mailbox, name, data, size, (struct change){ .expect = true });
}

enum dovetail_status
replica_changes_add_raw(struct dovetail_changes *changes, const char *mailbox, const char *wire_name, const void *data, size_t size)
{
	return change_add(changes, mailbox, wire_name, data, size, (struct change){ .raw = true });
}

enum dovetail_status
replica_changes_add_anew(struct dovetail_changes *changes, const char *mailbox, const char *name, const void *data, size_t size)
{
	return change_add(changes, mailbox, name, data, size, (struct change){ .anew = true });
}

/* -- what there is to do */

/* What the user sees of it now. *view_r: of the row, if *row_r. The statement stays open, as the values are in it. */
static enum dovetail_status
change_current(struct dovetail *replica, const struct change *change, sqlite3_stmt **stmt_r, struct replica_view *view_r,
	       bool *row_r, struct replica_coded *coded_r, enum replica_kind *kind_r)
{
	struct replica_value value;
	enum dovetail_status status;

	memset(coded_r, 0, sizeof(*coded_r));
	*kind_r = REPLICA_REMOVED;
	status = replica_view(replica, change->mailbox, change->name, change->raw, stmt_r, view_r);
	*row_r = status == DOVETAIL_OK;
	if (status != DOVETAIL_OK)
		return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
	*kind_r = view_r->kind;
	value.kind = view_r->kind;
	value.data = view_r->data;
	value.size = view_r->size;
	if (!change->raw)
		return replica_decode(replica, change->mailbox, view_r->wire, &value, false, coded_r);
	coded_r->data = value.data;
	coded_r->size = value.size;
	return DOVETAIL_OK;
}

static bool change_is_there(const struct change *change, enum replica_kind kind, const struct replica_coded *coded)
{
	if (change->value.kind == REPLICA_REMOVED)
		return kind == REPLICA_REMOVED;
	return kind == REPLICA_VALUE && coded->data != NULL && coded->size == change->value.size &&
		(coded->size == 0 || memcmp(coded->data, change->value.data, coded->size) == 0);
}

static enum dovetail_status effect_add(struct dovetail_changes *changes, int64_t entry_id, const struct replica_value *value,
				       void *memory)
{
	struct effect *effect;

	if (changes->effects_count == REPLICA_SET_MAX) {
		free(memory);
		return replica_fail(changes->replica, DOVETAIL_LIMIT, "a change set has at most %d entries", REPLICA_SET_MAX);
	}
	effect = &changes->effects[changes->effects_count++];
	effect->entry_id = entry_id;
	effect->value = *value;
	effect->memory = memory;
	return DOVETAIL_OK;
}

/* The row of the wire name, made if there is none; what a removed one was stays known. */
static enum dovetail_status
entry_row(struct dovetail *replica, const char *mailbox, const char *wire, const char *name, bool hidden,
	  const struct replica_value *value, int64_t *id_r)
{
	enum dovetail_status status;

	status = replica_run(replica, "write",
		"INSERT INTO entry(mailbox, wire, name, hidden, kind, modseq, size) VALUES(?1, ?2, ?3, ?4, 1, 0, 0)"
		" ON CONFLICT(mailbox, wire) DO UPDATE SET name = excluded.name, hidden = excluded.hidden WHERE ?5 = 0",
		"tttii", mailbox, wire, name, (int64_t)hidden, (int64_t)value->kind);
	if (status == DOVETAIL_OK) {
		status = replica_number(replica, "write", id_r, "SELECT id FROM entry WHERE mailbox = ?1 AND wire = ?2", "tt",
					mailbox, wire);
	}
	return status;
}

/* Keys and the like, which are written raw, are not to be seen. */
static enum dovetail_status raw_is_hidden(struct dovetail *replica, const struct change *change, bool *hidden_r)
{
	struct replica_coded coded;
	enum dovetail_status status;

	status = replica_decode(replica, change->mailbox, change->name, &change->value, false, &coded);
	*hidden_r = coded.hidden;
	return status;
}

static enum dovetail_status
change_encode(struct dovetail_changes *changes, const struct change *change, const char *old_wire)
{
	struct dovetail *replica = changes->replica;
	struct replica_value value = change->value, removed = { .kind = REPLICA_REMOVED };
	const char *wire = change->name;
	struct replica_coded coded;
	enum dovetail_status status = DOVETAIL_OK;
	bool hidden = false, encoded = !change->raw && replica_covered(replica, change->name);
	void *memory = NULL;
	int64_t id;

	if (encoded) {
		memset(&coded, 0, sizeof(coded));
		status = replica->codec.encode(replica->codec.context, change->mailbox, change->name, change->value.data,
					       change->value.size, &coded);
		if (status != DOVETAIL_OK)
			return status;
		if (coded.name != NULL)
			wire = coded.name;
		value.data = coded.data;
		value.size = coded.size;
	} else if (change->raw && change->value.kind == REPLICA_VALUE) {
		status = raw_is_hidden(replica, change, &hidden);
		if (status != DOVETAIL_OK)
			return status;
	}
	if (encoded)
		status = change_check(changes, change, wire, value.size, " when it is encrypted");
	if (status != DOVETAIL_OK)
		return status;
	/* Removing goes by the name under which it is there */
	if (value.kind == REPLICA_REMOVED && old_wire != NULL)
		wire = old_wire;
	status = entry_row(replica, change->mailbox, wire, change->name, hidden, &value, &id);
	if (status == DOVETAIL_OK && encoded && value.kind == REPLICA_VALUE) {
		memory = malloc(value.size == 0 ? 1 : value.size);
		if (memory == NULL)
			return replica_no_memory(replica);
		if (value.size > 0)
			memcpy(memory, value.data, value.size);
		value.data = memory;
	}
	if (status == DOVETAIL_OK)
		status = effect_add(changes, id, &value, memory);
	if (status == DOVETAIL_OK && old_wire != NULL && strcmp(old_wire, wire) != 0) {
		status = replica_number(replica, "write", &id, "SELECT id FROM entry WHERE mailbox = ?1 AND wire = ?2", "tt",
					change->mailbox, old_wire);
		if (status == DOVETAIL_OK)
			status = effect_add(changes, id, &removed, NULL);
	}
	return status;
}

static enum dovetail_status change_effect(struct dovetail_changes *changes, const struct change *change)
{
	struct dovetail *replica = changes->replica;
	char old_wire[REPLICA_NAME_MAX + 1];
	struct replica_coded coded;
	struct replica_view view;
	enum dovetail_status status;
	enum replica_kind kind;
	sqlite3_stmt *stmt;
	bool row, there;

	if (!replica_parts_cover(replica, change->mailbox, change->name)) {
		return replica_fail(replica, DOVETAIL_INVALID, "%s of mailbox \"%.200s\" is not covered by the replica's parts",
				    change->name, change->mailbox);
	}
	status = change_current(replica, change, &stmt, &view, &row, &coded, &kind);
	there = status == DOVETAIL_OK && change_is_there(change, kind, &coded);
	if (row && strlen(view.wire) < sizeof(old_wire))
		strcpy(old_wire, view.wire);
	else
		row = false;
	if (stmt != NULL)
		(void)sqlite3_reset(stmt);
	if (status != DOVETAIL_OK)
		return status;
	if (change->expect) {
		return there ? DOVETAIL_OK : replica_fail(replica, DOVETAIL_BUSY, "%s of mailbox \"%.200s\" has changed meanwhile",
							  change->name, change->mailbox);
	}
	if (there && change->strict) {
		return replica_fail(replica, DOVETAIL_NOT_FOUND, "there is no entry %s in mailbox \"%.200s\"", change->name,
				    change->mailbox);
	}
	if (there && (!change->anew || change->value.kind == REPLICA_REMOVED))
		return replica_refused_remove(replica, change->mailbox, row ? old_wire : change->name);
	return change_encode(changes, change, row && kind != REPLICA_REMOVED ? old_wire : NULL);
}

/* -- into the queue */

/* The set in which the last writes of exactly these entries wait, never given to the sync; 0: none. */
static enum dovetail_status set_find(struct dovetail_changes *changes, int64_t *set_r)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;
	int64_t set = 0, found;
	sqlite3_stmt *stmt;
	size_t i;

	*set_r = 0;
	for (i = 0; i < changes->effects_count; i++) {
		stmt = replica_query(replica,
			"SELECT w.set_id FROM entry e JOIN write w ON w.id = e.write_id JOIN change_set s ON s.id = w.set_id"
			" WHERE e.id = ?1 AND s.flight = 0"
			" AND (SELECT count(*) FROM write v WHERE v.set_id = s.id) = ?2",
			"ii", changes->effects[i].entry_id, (int64_t)changes->effects_count);
		status = replica_step(replica, stmt, "write");
		if (status != DOVETAIL_OK)
			return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
		found = sqlite3_column_int64(stmt, 0);
		(void)sqlite3_reset(stmt);
		if (i > 0 && found != set)
			return DOVETAIL_OK;
		set = found;
	}
	*set_r = set;
	return DOVETAIL_OK;
}

/* It writes again what was there, and is there still (what others have written meanwhile is for the rule): no need to. */
static enum dovetail_status set_drop_if_idle(struct dovetail_changes *changes, int64_t set)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;
	int64_t left;
	size_t i;

	status = replica_number(replica, "write", &left,
		"SELECT count(*) FROM write w JOIN entry e ON e.id = w.entry_id WHERE w.set_id = ?1"
		" AND NOT (w.kind = w.base_kind AND w.value IS w.base AND w.kind = e.kind AND w.value IS e.value)", "i", set);
	if (status != DOVETAIL_OK || left > 0)
		return status;
	status = replica_run(replica, "write", "DELETE FROM write WHERE set_id = ?1", "i", set);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "write", "DELETE FROM change_set WHERE id = ?1", "i", set);
	for (i = 0; i < changes->effects_count && status == DOVETAIL_OK; i++)
		status = replica_entry_settle(replica, changes->effects[i].entry_id);
	return status;
}

static enum dovetail_status set_merge(struct dovetail_changes *changes, int64_t set)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;
	size_t i;

	status = replica_run(replica, "write", "UPDATE change_set SET version = version + 1 WHERE id = ?1", "i", set);
	for (i = 0; i < changes->effects_count && status == DOVETAIL_OK; i++) {
		const struct effect *effect = &changes->effects[i];

		status = replica_run(replica, "write",
				     "UPDATE write SET kind = ?1, size = ?2, value = ?3 WHERE set_id = ?4 AND entry_id = ?5",
				     "iivii", (int64_t)effect->value.kind, (int64_t)effect->value.size, &effect->value, set,
				     effect->entry_id);
	}
	return status == DOVETAIL_OK ? set_drop_if_idle(changes, set) : status;
}

static enum dovetail_status set_insert(struct dovetail_changes *changes)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;
	int64_t set;
	size_t i;

	status = replica_run(replica, "write", "INSERT INTO change_set(version, flight, condition) VALUES(1, 0, '')", "");
	set = sqlite3_last_insert_rowid(replica->db);
	for (i = 0; i < changes->effects_count && status == DOVETAIL_OK; i++) {
		const struct effect *effect = &changes->effects[i];

		status = replica_run(replica, "write",
			"INSERT INTO write(set_id, entry_id, kind, size, base_kind, base_modseq, value, base)"
			" SELECT ?1, ?2, ?3, ?4, ifnull(w.kind, e.kind), e.modseq, ?5, iif(w.kind IS NULL, e.value, w.value)"
			" FROM entry e LEFT JOIN write w ON w.id = e.write_id WHERE e.id = ?2",
			"iiiiv", set, effect->entry_id, (int64_t)effect->value.kind, (int64_t)effect->value.size, &effect->value);
		if (status == DOVETAIL_OK) {
			status = replica_run(replica, "write", "UPDATE entry SET write_id = ?1 WHERE id = ?2", "ii",
					     (int64_t)sqlite3_last_insert_rowid(replica->db), effect->entry_id);
		}
	}
	return status;
}

static enum dovetail_status effects_store(struct dovetail_changes *changes)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;
	int64_t set;
	size_t i;

	for (i = 0, status = DOVETAIL_OK; i < changes->effects_count && status == DOVETAIL_OK; i++) {
		status = replica_run(replica, "write", "DELETE FROM refused WHERE (mailbox, wire) ="
				     " (SELECT mailbox, wire FROM entry WHERE id = ?1)", "i", changes->effects[i].entry_id);
	}
	if (status == DOVETAIL_OK)
		status = set_find(changes, &set);
	if (status != DOVETAIL_OK)
		return status;
	return set != 0 ? set_merge(changes, set) : set_insert(changes);
}

static enum dovetail_status changes_apply(struct dovetail_changes *changes)
{
	enum dovetail_status status;
	size_t i;

	status = replica_parts_load(changes->replica);
	/* What is expected, before anything changes */
	for (i = 0; i < changes->count && status == DOVETAIL_OK; i++) {
		if (changes->changes[i].expect)
			status = change_effect(changes, &changes->changes[i]);
	}
	for (i = 0; i < changes->count && status == DOVETAIL_OK; i++) {
		if (!changes->changes[i].expect)
			status = change_effect(changes, &changes->changes[i]);
	}
	if (status == DOVETAIL_OK && changes->limits.set != 0 && changes->effects_count > changes->limits.set) {
		status = replica_fail(changes->replica, DOVETAIL_LIMIT, "the change set has %zu entries, the server takes %llu",
				      changes->effects_count, (unsigned long long)changes->limits.set);
	}
	if (status == DOVETAIL_OK && changes->effects_count > 0)
		status = effects_store(changes);
	return status;
}

/* In a transaction that is to be ended with replica_end() if this returns OK; *applied_r: what came of it. */
static enum dovetail_status changes_begin_apply(struct dovetail_changes *changes, enum dovetail_status *applied_r)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status;

	changes->effects = calloc(REPLICA_SET_MAX, sizeof(*changes->effects));
	status = changes->effects == NULL ? replica_no_memory(replica) : replica_begin(replica, true);
	if (status == DOVETAIL_OK)
		*applied_r = changes_apply(changes);
	return status;
}

enum dovetail_status dovetail_changes_check(struct dovetail_changes *changes)
{
	enum dovetail_status status, applied;

	status = changes_begin_apply(changes, &applied);
	if (status == DOVETAIL_OK) {
		/* any failure rolls back */
		(void)replica_end(changes->replica, DOVETAIL_BUSY);
		status = applied;
	}
	effects_free(changes);
	return status;
}

enum dovetail_status dovetail_changes_commit(struct dovetail_changes *changes)
{
	struct dovetail *replica = changes->replica;
	enum dovetail_status status, applied;

	status = changes_begin_apply(changes, &applied);
	if (status == DOVETAIL_OK) {
		status = replica_end(replica, applied);
		if (status == DOVETAIL_OK && changes->effects_count > 0)
			replica_wake(replica);
	}
	dovetail_changes_abort(changes);
	return status;
}

/* -- one entry */

static enum dovetail_status
write_one(struct dovetail *replica, const char *mailbox, const char *name, const void *data, size_t size)
{
	struct dovetail_changes *changes;
	enum dovetail_status status;

	status = dovetail_changes_begin(replica, &changes);
	if (status != DOVETAIL_OK)
		return status;
	status = change_add(changes, mailbox, name, data, size, (struct change){ .strict = data == NULL });
	if (status == DOVETAIL_OK)
		return dovetail_changes_commit(changes);
	dovetail_changes_abort(changes);
	return status;
}

enum dovetail_status
dovetail_set(struct dovetail *replica, const char *mailbox, const char *name, const void *data, size_t size)
{
	if (data == NULL && size != 0)
		return replica_fail(replica, DOVETAIL_INVALID, "the value is missing");
	return write_one(replica, mailbox, name, data == NULL ? "" : data, size);
}

enum dovetail_status dovetail_unset(struct dovetail *replica, const char *mailbox, const char *name)
{
	return write_one(replica, mailbox, name, NULL, 0);
}
