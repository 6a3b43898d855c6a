/* What goes to the server: the sets of the queue in order, each with its condition. replica.h says how they are given out and
   answered.

   The condition of a set is the position at which the values that it was made on were the server's: that of the last marker, or
   that of one's own last set on these entries. If a set would need both, it waits for the next marker, which knows better. */

#include "replica-private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t replica_queue_count(struct dovetail *replica)
{
	int64_t count;

	return replica_number(replica, "read the queue", &count, "SELECT count(*) FROM change_set", "") == DOVETAIL_OK ? count : 0;
}

bool replica_is_pending(struct dovetail *replica, const char *mailbox, const char *wire_name)
{
	int64_t pending;

	return replica_number(replica, "read the queue", &pending,
			      "SELECT EXISTS(SELECT 1 FROM entry WHERE mailbox = ?1 AND wire = ?2"
			      " AND write_id IS NOT NULL)", "tt", mailbox, wire_name) == DOVETAIL_OK && pending != 0;
}

/* -- the next set */

/* Given again as it is, "" or a position in condition_r; false: only after the next marker. */
static bool set_condition(const struct replica_set_memory *set, const struct replica_meta *meta, char *condition_r, size_t size)
{
	uint64_t modseq = meta->modseq;
	struct replica_position old;
	size_t i, left = 0;

	if (meta->epoch == 0) {
		*condition_r = '\0';
		return true;
	}
	if (set->flight == 1 && replica_position_parse(set->condition, false, &old) && old.epoch == meta->epoch) {
		for (i = 0; i < set->count && !set->items[i].rebased; i++) ;
		if (i == set->count) {
			(void)snprintf(condition_r, size, "%s", set->condition);
			return true;
		}
	}
	for (i = 0; i < set->count; i++) {
		const struct replica_item *item = &set->items[i];
		uint64_t known = item->modseq > meta->modseq ? item->modseq : meta->modseq;

		if (item->dropped)
			continue;
		if (left++ > 0 && known != modseq)
			return false;
		modseq = known;
	}
	(void)snprintf(condition_r, size, "(%lu %llu)", (unsigned long)meta->epoch, (unsigned long long)modseq);
	return true;
}

static enum dovetail_status item_store(struct dovetail *replica, const struct replica_item *item)
{
	enum dovetail_status status;
	/* Does the user see it differently? What was dropped because it is there already does not count. */
	bool seen = item->last && (item->changed || (item->dropped && !replica_value_same(&item->mine, &item->theirs)));

	if (item->dropped) {
		status = replica_run(replica, "solve", "DELETE FROM write WHERE id = ?1", "i", item->id);
		if (status == DOVETAIL_OK)
			status = replica_entry_settle(replica, item->entry_id);
	} else {
		status = replica_run(replica, "solve",
			"UPDATE write SET kind = ?1, size = ?2, base_kind = ?3, base_modseq = ?4, value = ?5, base = ?6"
			" WHERE id = ?7",
			"iiiivvi", (int64_t)item->mine.kind, (int64_t)item->mine.size, (int64_t)item->theirs.kind,
			(int64_t)item->modseq, &item->mine, &item->theirs, item->id);
	}
	if (status == DOVETAIL_OK && seen)
		status = replica_changed(replica, item->mailbox, item->name);
	return status;
}

/* In a transaction. *left_r: writes that are to be sent */
static enum dovetail_status
set_store(struct dovetail *replica, struct replica_set_memory *set, const char *condition, size_t *left_r)
{
	enum dovetail_status status = DOVETAIL_OK;
	size_t i;

	*left_r = 0;
	for (i = 0; i < set->count && status == DOVETAIL_OK; i++) {
		if (set->items[i].rebased)
			status = item_store(replica, &set->items[i]);
		if (!set->items[i].dropped)
			(*left_r)++;
	}
	if (status != DOVETAIL_OK)
		return status;
	if (*left_r == 0)
		return replica_run(replica, "solve", "DELETE FROM change_set WHERE id = ?1", "i", set->id);
	return replica_run(replica, "send", "UPDATE change_set SET version = version + 1, flight = 1, condition = ?1 WHERE id = ?2",
			   "ti", condition, set->id);
}

/* The user, in the callback or another process, may have changed it meanwhile; *same_r. */
static enum dovetail_status set_is_same(struct dovetail *replica, const struct replica_set_memory *set,
					const struct replica_meta *meta, bool *same_r)
{
	struct replica_meta now;
	enum dovetail_status status;
	int64_t same;
	size_t i;

	status = replica_meta_get(replica, &now);
	if (status == DOVETAIL_OK) {
		status = replica_number(replica, "read the queue", &same,
					"SELECT EXISTS(SELECT 1 FROM change_set WHERE id = ?1 AND version = ?2)",
					"ii", set->id, set->version);
	}
	if (status != DOVETAIL_OK)
		return status;
	*same_r = same != 0 && now.epoch == meta->epoch && now.modseq == meta->modseq && now.need_state == meta->need_state;
	/* The last write of an entry may be another one now */
	for (i = 0; i < set->count && *same_r && status == DOVETAIL_OK; i++) {
		int64_t last;

		status = replica_number(replica, "read the queue", &last,
					"SELECT EXISTS(SELECT 1 FROM entry WHERE id = ?1 AND write_id = ?2)", "ii",
					set->items[i].entry_id, set->items[i].id);
		set->items[i].last = last != 0;
	}
	return status;
}

static void set_show(struct replica_set_memory *set, struct replica_set *set_r)
{
	size_t i;

	memset(set_r, 0, sizeof(*set_r));
	set_r->id = set->id;
	set_r->writes = set->writes;
	set_r->unchanged_since = set->condition;
	for (i = 0; i < set->count; i++) {
		const struct replica_item *item = &set->items[i];

		if (item->dropped)
			continue;
		set->writes[set_r->count++] = (struct replica_write){
			.mailbox = item->mailbox,
			.name = item->wire,
			.data = item->mine.data,
			.size = item->mine.kind == REPLICA_VALUE ? item->mine.size : 0
		};
	}
}

/* What was queued before its subtree was encrypted, for instance, has to wait until it was encoded anew. */
static bool set_may_go(const struct dovetail *replica, const struct replica_set_memory *set)
{
	size_t i;

	if (!replica->has_codec || replica->codec.may_send == NULL)
		return true;
	for (i = 0; i < set->count; i++) {
		const struct replica_item *item = &set->items[i];

		if (!item->dropped && replica_covered(replica, item->wire) &&
		    !replica->codec.may_send(replica->codec.context, item->mailbox, item->wire, item->mine.data, item->mine.size))
			return false;
	}
	return true;
}

/* It was given out, the connection was lost, and now it may not go as it is: it has to be encoded anew, and its answer is not
   waited for. Should it have arrived after all, that is a conflict. */
static enum dovetail_status set_no_flight(struct dovetail *replica, int64_t id)
{
	enum dovetail_status status;

	status = replica_run(replica, "send", "UPDATE change_set SET version = version + 1, flight = 2 WHERE id = ?1", "i", id);
	return status == DOVETAIL_OK ? replica_queue_encode_again(replica) : status;
}

enum next { NEXT_GIVE, NEXT_GONE, NEXT_AGAIN, NEXT_SKIP, NEXT_WAIT };

/* Solves the set, outside of a transaction, and stores what came of it. */
static enum dovetail_status
set_prepare(struct dovetail *replica, struct replica_set_memory *set, const struct replica_meta *meta, enum dovetail_rule rule,
	    replica_resolve_t *resolve, void *context, enum next *next_r)
{
	enum dovetail_status status;
	char condition[64];
	bool changed, same;
	size_t left;

	status = replica_solve(replica, set, rule, resolve, context, &changed);
	if (status == DOVETAIL_OK && !set_may_go(replica, set)) {
		*next_r = set->flight == 1 ? NEXT_AGAIN : NEXT_SKIP;
		return set->flight == 1 ? set_no_flight(replica, set->id) : DOVETAIL_OK;
	}
	if (status == DOVETAIL_LOCKED) {
		*next_r = NEXT_SKIP;
		return DOVETAIL_OK;
	}
	if (status != DOVETAIL_OK)
		return status;
	*next_r = NEXT_WAIT;
	if (!set_condition(set, meta, condition, sizeof(condition)))
		return DOVETAIL_OK;
	if (set->flight == 0 || strcmp(set->condition, condition) != 0) {
		status = replica_set_encode_again(replica, set, &changed);
		if (status == DOVETAIL_LOCKED && set->flight != 0) {
			*next_r = NEXT_SKIP;
			return DOVETAIL_OK;
		}
		if (status != DOVETAIL_OK && status != DOVETAIL_LOCKED)
			return status;
	}
	*next_r = NEXT_GIVE;
	if (!changed && set->flight == 1 && strcmp(set->condition, condition) == 0)
		return DOVETAIL_OK;

	status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = set_is_same(replica, set, meta, &same);
	if (status == DOVETAIL_OK && same) {
		status = set_store(replica, set, condition, &left);
		*next_r = left == 0 ? NEXT_GONE : NEXT_GIVE;
	} else {
		*next_r = NEXT_AGAIN;
	}
	status = replica_end(replica, status);
	if (status == DOVETAIL_OK && *next_r == NEXT_GIVE) {
		free(set->condition);
		set->condition = strdup(condition);
		if (set->condition == NULL)
			return replica_no_memory(replica);
	}
	return status;
}

/* The first set after the one with this id that has no entry in common with sets before it (which were skipped). */
static enum dovetail_status
set_candidate(struct dovetail *replica, int64_t after, struct replica_meta *meta_r, struct replica_set_memory **set_r)
{
	enum dovetail_status status;
	sqlite3_stmt *stmt;
	int64_t id;

	*set_r = NULL;
	status = replica_begin(replica, false);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_meta_get(replica, meta_r);
	if (status == DOVETAIL_OK && meta_r->need_state)
		status = DOVETAIL_NOT_FOUND;
	if (status == DOVETAIL_OK) {
		stmt = replica_query(replica, "SELECT id FROM change_set s WHERE id > ?1 AND NOT EXISTS(SELECT 1 FROM write w"
			" JOIN write v ON v.entry_id = w.entry_id AND v.set_id < w.set_id WHERE w.set_id = s.id)"
			" ORDER BY id LIMIT 1", "i", after);
		status = replica_step(replica, stmt, "read the queue");
		if (status == DOVETAIL_OK) {
			id = sqlite3_column_int64(stmt, 0);
			(void)sqlite3_reset(stmt);
			status = replica_set_load(replica, id, set_r);
		}
	}
	if (status != DOVETAIL_OK) {
		(void)replica_end(replica, status);
		return status;
	}
	return replica_end(replica, status);
}

enum dovetail_status
replica_queue_next(struct dovetail *replica, int64_t after, enum dovetail_rule rule, replica_resolve_t *resolve, void *context,
		   struct replica_set *set_r)
{
	struct replica_set_memory *set;
	struct replica_meta meta;
	enum dovetail_status status;
	enum next next = NEXT_WAIT;

	for (;;) {
		status = set_candidate(replica, after, &meta, &set);
		if (status == DOVETAIL_NOT_FOUND)
			return replica_fail(replica, status, "no change set can be sent now");
		if (status != DOVETAIL_OK)
			return status;
		status = set_prepare(replica, set, &meta, rule, resolve, context, &next);
		if (status == DOVETAIL_OK && next == NEXT_GIVE)
			break;
		if (next == NEXT_SKIP)
			after = set->id;
		replica_set_free(set);
		if (status != DOVETAIL_OK)
			return status;
		if (next == NEXT_WAIT)
			return replica_fail(replica, DOVETAIL_NOT_FOUND, "the next change set waits for a consistent state");
	}
	replica_set_free(replica->set);
	replica->set = set;
	set_show(set, set_r);
	return DOVETAIL_OK;
}

/* -- its answer */

/* Its values are the server's now. */
static enum dovetail_status
set_done(struct dovetail *replica, const struct replica_set_memory *set, const struct replica_position *position)
{
	uint64_t modseq = position->modseq;
	enum dovetail_status status;
	struct replica_meta meta;
	size_t i;

	status = replica_meta_get(replica, &meta);
	/* A history that we do not know: a state of it is needed */
	if (status == DOVETAIL_OK && position->epoch != meta.epoch) {
		modseq = 0;
		status = replica_run(replica, "acknowledge", "UPDATE meta SET need_state = 1", "");
	}
	for (i = 0; i < set->count && status == DOVETAIL_OK; i++) {
		const struct replica_item *item = &set->items[i];

		status = replica_run(replica, "acknowledge",
			"UPDATE entry SET kind = ?1, modseq = max(modseq, ?2), size = ?3, value = ?4 WHERE id = ?5", "iiivi",
			(int64_t)item->mine.kind, (int64_t)modseq, (int64_t)item->mine.size, &item->mine, item->entry_id);
		if (status == DOVETAIL_OK)
			status = replica_run(replica, "acknowledge", "DELETE FROM write WHERE id = ?1", "i", item->id);
		if (status == DOVETAIL_OK)
			status = replica_entry_settle(replica, item->entry_id);
	}
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "acknowledge", "DELETE FROM change_set WHERE id = ?1", "i", set->id);
	return status;
}

/* Begins a transaction and loads the set. On failure there is none. */
static enum dovetail_status set_begin(struct dovetail *replica, int64_t id, struct replica_set_memory **set_r)
{
	enum dovetail_status status;

	*set_r = NULL;
	status = replica_begin(replica, true);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_set_load(replica, id, set_r);
	if (status != DOVETAIL_OK)
		(void)replica_end(replica, status);
	return status;
}

static enum dovetail_status set_end(struct dovetail *replica, struct replica_set_memory *set, enum dovetail_status status)
{
	replica_set_free(set);
	return replica_end(replica, status);
}

static enum dovetail_status position_get(struct dovetail *replica, const char *pos, struct replica_position *position_r)
{
	memset(position_r, 0, sizeof(*position_r));
	if (*pos != '\0' && !replica_position_parse(pos, false, position_r))
		return replica_fail(replica, DOVETAIL_PROTOCOL, "\"%.100s\" is no position", pos);
	return DOVETAIL_OK;
}

enum dovetail_status replica_queue_done(struct dovetail *replica, int64_t id, const char *pos)
{
	struct replica_set_memory *set;
	enum dovetail_status status;
	struct replica_position position;

	status = position_get(replica, pos, &position);
	if (status == DOVETAIL_OK)
		status = set_begin(replica, id, &set);
	if (status != DOVETAIL_OK)
		return status;
	return set_end(replica, set, set_done(replica, set, &position));
}

/* What the server has for this write, by what it has shown. */
static bool item_is_there(const struct replica_item *item, const struct replica_theirs *theirs, size_t count)
{
	struct replica_value value;
	char name[REPLICA_NAME_MAX + 1];
	size_t i;

	for (i = 0; i < count; i++) {
		for (size_t j = 0; j < sizeof(name); j++) {
			char c = theirs[i].name[j];

			name[j] = c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
			if (c == '\0')
				break;
		}
		name[sizeof(name) - 1] = '\0';
		if (strcmp(name, item->wire) == 0 && strcmp(theirs[i].mailbox, item->mailbox) == 0)
			break;
	}
	if (i == count)
		return replica_value_same(&item->mine, &item->base) && item->mine.kind != REPLICA_NOT_HERE;
	value.kind = theirs[i].kind;
	value.data = theirs[i].data;
	value.size = theirs[i].size;
	return theirs[i].kind != REPLICA_NOT_HERE && replica_value_same(&value, &item->mine);
}

enum dovetail_status
replica_queue_modified(struct dovetail *replica, int64_t id, const char *pos, const struct replica_theirs *theirs, size_t count)
{
	struct replica_set_memory *set;
	enum dovetail_status status;
	struct replica_position position;
	size_t i;

	status = position_get(replica, pos, &position);
	if (status == DOVETAIL_OK)
		status = set_begin(replica, id, &set);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0; i < set->count && item_is_there(&set->items[i], theirs, count); i++) ;
	if (i == set->count)
		return set_end(replica, set, set_done(replica, set, &position));
	status = replica_run(replica, "send", "UPDATE change_set SET version = version + 1, flight = 2 WHERE id = ?1", "i", id);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "send", "UPDATE meta SET need_state = 1", "");
	return set_end(replica, set, status);
}

static enum dovetail_status item_refuse(struct dovetail *replica, const struct replica_item *item, const char *reason)
{
	enum dovetail_status status;
	int64_t next;

	/* A later write was made on this one: its base is now what this one's was */
	status = replica_number(replica, "refuse", &next, "SELECT ifnull(min(id), 0) FROM write WHERE entry_id = ?1 AND id > ?2",
				"ii", item->entry_id, item->id);
	if (status != DOVETAIL_OK)
		return status;
	if (next != 0) {
		status = replica_run(replica, "refuse", "UPDATE write SET base_kind = ?1, base = ?2, base_modseq = ?3"
				     " WHERE id = ?4 AND base_kind = ?5 AND base IS ?6", "iviiiv", (int64_t)item->base.kind,
				     &item->base, (int64_t)item->base_modseq, next, (int64_t)item->mine.kind, &item->mine);
	} else {
		status = replica_run(replica, "refuse", "INSERT OR REPLACE INTO refused(mailbox, wire, name, kind, reason, value)"
				     " VALUES(?1, ?2, ?3, ?4, ?5, ?6)", "tttitv", item->mailbox, item->wire, item->name,
				     (int64_t)item->mine.kind, reason, &item->mine);
		if (status == DOVETAIL_OK && !replica_value_same(&item->mine, &item->theirs))
			status = replica_changed(replica, item->mailbox, item->name);
	}
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "refuse", "DELETE FROM write WHERE id = ?1", "i", item->id);
	if (status == DOVETAIL_OK)
		status = replica_entry_settle(replica, item->entry_id);
	return status;
}

enum dovetail_status replica_queue_refused(struct dovetail *replica, int64_t id, const char *reason)
{
	struct replica_set_memory *set;
	enum dovetail_status status;
	size_t i;

	status = set_begin(replica, id, &set);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0; i < set->count && status == DOVETAIL_OK; i++)
		status = item_refuse(replica, &set->items[i], reason);
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "refuse", "DELETE FROM change_set WHERE id = ?1", "i", id);
	return set_end(replica, set, status);
}

enum dovetail_status replica_queue_again(struct dovetail *replica, int64_t id)
{
	return replica_run(replica, "send", "UPDATE meta SET need_state = 1"
			   " WHERE need_state = 0 AND EXISTS(SELECT 1 FROM change_set WHERE id = ?1)", "i", id);
}
