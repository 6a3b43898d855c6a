/* A set of the queue in memory, and what is to become of its writes on the present state: sent, dropped, or merged with what others
   wrote. Used by replica-queue.c.

   A write is compared on the wire first: most often the server's value is its base still, and nothing need be decoded. */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>

/* -- a set in memory */

void replica_set_free(struct replica_set_memory *set)
{
	size_t i;

	if (set == NULL)
		return;
	for (i = 0; i < set->count; i++) {
		struct replica_item *item = &set->items[i];

		free(item->mailbox);
		free(item->wire);
		free(item->name);
		free((void *)item->mine.data);
		free((void *)item->base.data);
		free((void *)item->theirs.data);
	}
	free(set->items);
	free(set->writes);
	free(set->condition);
	free(set);
}

/* Into our own memory; false: out of memory */
static bool value_copy(sqlite3_stmt *stmt, int kind, int column, struct replica_value *value_r)
{
	struct replica_value value;

	replica_value_column(stmt, kind, column, &value);
	*value_r = value;
	if (value.kind != REPLICA_VALUE)
		return true;
	value_r->data = malloc(value.size + 1);
	if (value_r->data == NULL)
		return false;
	memcpy((void *)value_r->data, value.data, value.size);
	((char *)value_r->data)[value.size] = '\0';
	return true;
}

static bool item_load(sqlite3_stmt *stmt, struct replica_item *item)
{
	item->id = sqlite3_column_int64(stmt, 0);
	item->entry_id = sqlite3_column_int64(stmt, 1);
	item->last = sqlite3_column_int64(stmt, 2) == item->id;
	item->mailbox = strdup((const char *)sqlite3_column_text(stmt, 3));
	item->wire = strdup((const char *)sqlite3_column_text(stmt, 4));
	item->name = strdup((const char *)sqlite3_column_text(stmt, 5));
	item->base_modseq = sqlite3_column_int64(stmt, 6);
	item->modseq = sqlite3_column_int64(stmt, 7);
	item->hidden = sqlite3_column_int(stmt, 14) != 0;
	/* all three, so that each pointer is ours */
	return value_copy(stmt, 8, 9, &item->mine) & value_copy(stmt, 10, 11, &item->base) &
		value_copy(stmt, 12, 13, &item->theirs) && item->mailbox != NULL && item->wire != NULL && item->name != NULL;
}

static enum dovetail_status items_load(struct dovetail *replica, struct replica_set_memory *set)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;

	stmt = replica_query(replica,
		"SELECT w.id, e.id, e.write_id, e.mailbox, e.wire, e.name, w.base_modseq, e.modseq,"
		" w.kind, w.value, w.base_kind, w.base, e.kind, e.value, e.hidden"
		" FROM write w JOIN entry e ON e.id = w.entry_id WHERE w.set_id = ?1 ORDER BY w.id", "i", set->id);
	while ((status = replica_step(replica, stmt, "read the queue")) == DOVETAIL_OK) {
		if (set->count == REPLICA_SET_MAX || !item_load(stmt, &set->items[set->count++])) {
			(void)sqlite3_reset(stmt);
			return replica_no_memory(replica);
		}
	}
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

enum dovetail_status replica_set_load(struct dovetail *replica, int64_t id, struct replica_set_memory **set_r)
{
	struct replica_set_memory *set;
	enum dovetail_status status;
	sqlite3_stmt *stmt;

	*set_r = NULL;
	stmt = replica_query(replica, "SELECT version, flight, condition FROM change_set WHERE id = ?1", "i", id);
	status = replica_step(replica, stmt, "read the queue");
	if (status == DOVETAIL_NOT_FOUND)
		return replica_fail(replica, status, "there is no change set %lld in the queue", (long long)id);
	if (status != DOVETAIL_OK)
		return status;
	set = calloc(1, sizeof(*set));
	if (set != NULL) {
		set->id = id;
		set->version = sqlite3_column_int64(stmt, 0);
		set->flight = sqlite3_column_int(stmt, 1);
		set->condition = strdup((const char *)sqlite3_column_text(stmt, 2));
		set->items = calloc(REPLICA_SET_MAX, sizeof(*set->items));
		set->writes = calloc(REPLICA_SET_MAX, sizeof(*set->writes));
	}
	(void)sqlite3_reset(stmt);
	if (set == NULL || set->condition == NULL || set->items == NULL || set->writes == NULL)
		status = replica_no_memory(replica);
	else
		status = items_load(replica, set);
	if (status != DOVETAIL_OK)
		replica_set_free(set);
	else
		*set_r = set;
	return status;
}

/* -- solving */

/* What the user knows of a value; unknown: damaged, or too large to be here. */
struct plain {
	void *data;
	size_t size;
	bool unknown;
};

static enum dovetail_status plain_get(struct dovetail *replica, const struct replica_item *item, const struct replica_value *value,
				      struct plain *plain_r)
{
	struct replica_coded coded;
	enum dovetail_status status;

	memset(plain_r, 0, sizeof(*plain_r));
	status = replica_decode(replica, item->mailbox, item->wire, value, false, &coded);
	if (status != DOVETAIL_OK)
		return status;
	if ((coded.flags & DOVETAIL_ENTRY_LOCKED) != 0)
		return DOVETAIL_LOCKED;
	plain_r->unknown = value->kind != REPLICA_REMOVED && coded.data == NULL;
	if (coded.data == NULL)
		return DOVETAIL_OK;
	plain_r->data = malloc(coded.size + 1);
	if (plain_r->data == NULL)
		return replica_no_memory(replica);
	memcpy(plain_r->data, coded.data, coded.size);
	((char *)plain_r->data)[coded.size] = '\0';
	plain_r->size = coded.size;
	return DOVETAIL_OK;
}

static bool plain_same(const struct plain *a, const struct plain *b)
{
	if (a->unknown || b->unknown)
		return false;
	if (a->data == NULL || b->data == NULL)
		return a->data == b->data;
	return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* The result (data NULL: removed) in its form for the wire becomes mine. */
static enum dovetail_status
item_set(struct dovetail *replica, struct replica_item *item, const void *data, size_t size)
{
	struct replica_value value = { .kind = data == NULL ? REPLICA_REMOVED : REPLICA_VALUE, .data = data, .size = size };
	struct replica_coded coded;
	enum dovetail_status status;
	void *memory = NULL;

	if (data != NULL && replica_covered(replica, item->name)) {
		memset(&coded, 0, sizeof(coded));
		status = replica->codec.encode(replica->codec.context, item->mailbox, item->name, data, size, &coded);
		if (status != DOVETAIL_OK)
			return status;
		value.data = coded.data;
		value.size = coded.size;
	}
	if (value.kind == REPLICA_VALUE) {
		memory = malloc(value.size + 1);
		if (memory == NULL)
			return replica_no_memory(replica);
		if (value.size > 0)
			memcpy(memory, value.data, value.size);
		((char *)memory)[value.size] = '\0';
		value.data = memory;
	}
	free((void *)item->mine.data);
	item->mine = value;
	item->changed = true;
	return DOVETAIL_OK;
}

static enum dovetail_status
apply_rule(struct dovetail *replica, struct replica_item *item, const struct dovetail_conflict *conflict,
	   const struct dovetail_resolution *resolution, const struct plain *theirs)
{
	struct plain result = { .data = NULL };
	enum dovetail_rule rule = resolution->rule;
	enum dovetail_status status;
	bool both;

	/* Nothing can be merged with what is not known */
	if (theirs->unknown && (rule == DOVETAIL_RULE_LINES || rule == DOVETAIL_RULE_JSON))
		rule = DOVETAIL_RULE_MINE;
	switch (rule) {
	case DOVETAIL_RULE_SERVER:
		item->dropped = true;
		return DOVETAIL_OK;
	case DOVETAIL_RULE_MINE:
		return DOVETAIL_OK;
	case DOVETAIL_RULE_VALUE:
		result.data = (void *)resolution->data;
		result.size = resolution->data == NULL ? 0 : resolution->size;
		break;
	case DOVETAIL_RULE_LINES:
	case DOVETAIL_RULE_JSON:
		status = dovetail_merge(rule, conflict, &result.data, &result.size, &both);
		if (status != DOVETAIL_OK)
			return replica_fail(replica, status, "merge: %s", dovetail_status_name(status));
		break;
	default:
		return replica_fail(replica, DOVETAIL_INVALID, "conflict: unknown rule %d", (int)rule);
	}
	status = DOVETAIL_OK;
	if (plain_same(&result, theirs))
		item->dropped = true;
	else if ((result.data == NULL) != (conflict->mine.data == NULL) || result.size != conflict->mine.size ||
		 (result.size > 0 && memcmp(result.data, conflict->mine.data, result.size) != 0))
		status = item_set(replica, item, result.data, result.size);
	if (rule != DOVETAIL_RULE_VALUE)
		free(result.data);
	return status;
}

static enum dovetail_status
item_conflict(struct dovetail *replica, struct replica_item *item, enum dovetail_rule rule, replica_resolve_t *resolve,
	      void *context, const struct plain *base, const struct plain *mine, const struct plain *theirs)
{
	struct dovetail_conflict conflict = {
		.mailbox = item->mailbox,
		.name = item->name,
		.base = { base->data, base->size },
		.mine = { mine->data, mine->size },
		.theirs = { theirs->data, theirs->unknown ? SIZE_MAX : theirs->size },
		.rule = rule
	};
	struct dovetail_resolution resolution = { .rule = rule };

	if (resolve != NULL)
		resolve(context, &conflict, &resolution);
	return apply_rule(replica, item, &conflict, &resolution, theirs);
}

static enum dovetail_status
item_solve(struct dovetail *replica, struct replica_item *item, enum dovetail_rule rule, replica_resolve_t *resolve, void *context)
{
	struct plain base, mine, theirs;
	enum dovetail_status status;

	item->rebased = true;
	/* Keys: what is there stays; the codec looks at it and writes again */
	if (item->hidden) {
		item->dropped = true;
		return DOVETAIL_OK;
	}
	memset(&base, 0, sizeof(base));
	memset(&mine, 0, sizeof(mine));
	memset(&theirs, 0, sizeof(theirs));
	status = plain_get(replica, item, &item->theirs, &theirs);
	if (status == DOVETAIL_OK)
		status = plain_get(replica, item, &item->mine, &mine);
	if (status == DOVETAIL_OK)
		status = plain_get(replica, item, &item->base, &base);
	if (status == DOVETAIL_OK) {
		if (plain_same(&mine, &theirs))
			item->dropped = true;
		/* Only written in another way: no conflict */
		else if (!plain_same(&base, &theirs))
			status = item_conflict(replica, item, rule, resolve, context, &base, &mine, &theirs);
	}
	free(base.data);
	free(mine.data);
	free(theirs.data);
	return status;
}

enum dovetail_status
replica_solve(struct dovetail *replica, struct replica_set_memory *set, enum dovetail_rule rule, replica_resolve_t *resolve,
	      void *context, bool *changed_r)
{
	enum dovetail_status status = DOVETAIL_OK;
	size_t i;

	*changed_r = false;
	for (i = 0; i < set->count && status == DOVETAIL_OK; i++) {
		struct replica_item *item = &set->items[i];

		/* Somebody (or this set itself, unacknowledged) has written the same */
		if (item->theirs.kind != REPLICA_NOT_HERE && replica_value_same(&item->mine, &item->theirs))
			item->dropped = item->rebased = true;
		else if (!replica_value_same(&item->base, &item->theirs) ||
			 (item->theirs.kind == REPLICA_NOT_HERE && item->base_modseq != item->modseq))
			status = item_solve(replica, item, rule, resolve, context);
		if (item->rebased)
			*changed_r = true;
	}
	return status;
}

enum dovetail_status replica_set_encode_again(struct dovetail *replica, struct replica_set_memory *set, bool *changed_r)
{
	enum dovetail_status status = DOVETAIL_OK;
	struct plain mine;
	size_t i;

	for (i = 0; i < set->count && status == DOVETAIL_OK; i++) {
		struct replica_item *item = &set->items[i];
		bool changed = item->changed;

		if (item->dropped || item->mine.kind != REPLICA_VALUE || !replica_covered(replica, item->wire))
			continue;
		memset(&mine, 0, sizeof(mine));
		status = plain_get(replica, item, &item->mine, &mine);
		if (status == DOVETAIL_OK && mine.data != NULL)
			status = item_set(replica, item, mine.data, mine.size);
		if (status == DOVETAIL_OK && mine.data != NULL)
			item->rebased = *changed_r = true;
		/* the user sees the same */
		item->changed = changed;
		free(mine.data);
	}
	return status;
}
