/* What the replica covers: dovetail_set_parts() and the question whether an entry is in it. The parts are kept sorted, without
   doubles, so that the same parts in another order are no change. */

#include "replica-private.h"

#include <stdlib.h>
#include <string.h>

static void parts_free(struct dovetail_part *parts, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++) {
		free((char *)parts[i].mailbox);
		free((char *)parts[i].entry);
	}
	free(parts);
}

void replica_parts_free(struct dovetail *replica)
{
	parts_free(replica->parts, replica->parts_count);
	replica->parts = NULL;
	replica->parts_count = 0;
}

void replica_watched_free(struct dovetail *replica)
{
	parts_free(replica->watched, replica->watched_count);
	replica->watched = NULL;
	replica->watched_count = 0;
}

static int part_compare(const void *_a, const void *_b)
{
	const struct dovetail_part *a = _a, *b = _b;
	int ret = (int)a->scope - (int)b->scope;

	if (ret == 0)
		ret = strcmp(a->mailbox == NULL ? "" : a->mailbox, b->mailbox == NULL ? "" : b->mailbox);
	return ret != 0 ? ret : strcmp(a->entry, b->entry);
}

static enum dovetail_status
part_copy(struct dovetail *replica, const struct dovetail_part *part, struct dovetail_part *part_r)
{
	char name[REPLICA_NAME_MAX + 1];
	const char *mailbox = NULL;
	enum dovetail_status status;

	memset(part_r, 0, sizeof(*part_r));
	if (part->scope != DOVETAIL_SCOPE_MAILBOX && part->scope != DOVETAIL_SCOPE_PERSONAL &&
	    part->scope != DOVETAIL_SCOPE_SUBTREE)
		return replica_fail(replica, DOVETAIL_INVALID, "a part has an unknown scope");
	if (part->scope == DOVETAIL_SCOPE_PERSONAL && part->mailbox != NULL && *part->mailbox != '\0')
		return replica_fail(replica, DOVETAIL_INVALID, "a part of all mailboxes names one");
	if (part->scope != DOVETAIL_SCOPE_PERSONAL) {
		status = replica_mailbox(replica, part->mailbox, &mailbox, DOVETAIL_INVALID);
		if (status != DOVETAIL_OK)
			return status;
		if (part->scope == DOVETAIL_SCOPE_SUBTREE && *mailbox == '\0')
			return replica_fail(replica, DOVETAIL_INVALID, "a part of a mailbox and all below it names none");
	}
	status = replica_name(replica, part->entry, true, name, DOVETAIL_INVALID);
	if (status != DOVETAIL_OK)
		return status;
	part_r->scope = part->scope;
	part_r->entry = strdup(name);
	if (mailbox != NULL)
		part_r->mailbox = strdup(mailbox);
	if (part_r->entry == NULL || (mailbox != NULL && part_r->mailbox == NULL))
		return replica_no_memory(replica);
	return DOVETAIL_OK;
}

/* Sorted, without doubles. *parts_r is the caller's also on failure. */
static enum dovetail_status
parts_copy(struct dovetail *replica, const struct dovetail_part *parts, size_t count, struct dovetail_part **parts_r,
	   size_t *count_r)
{
	enum dovetail_status status = DOVETAIL_OK;
	size_t i, to;

	*count_r = 0;
	*parts_r = calloc(count, sizeof(**parts_r));
	if (*parts_r == NULL)
		return replica_no_memory(replica);
	for (i = 0; i < count && status == DOVETAIL_OK; i++)
		status = part_copy(replica, &parts[i], &(*parts_r)[(*count_r)++]);
	if (status != DOVETAIL_OK)
		return status;
	qsort(*parts_r, *count_r, sizeof(**parts_r), part_compare);
	for (i = to = 1; i < *count_r; i++) {
		if (part_compare(&(*parts_r)[to - 1], &(*parts_r)[i]) != 0) {
			(*parts_r)[to++] = (*parts_r)[i];
		} else {
			free((char *)(*parts_r)[i].mailbox);
			free((char *)(*parts_r)[i].entry);
		}
	}
	*count_r = to;
	return DOVETAIL_OK;
}

enum dovetail_status replica_parts_load(struct dovetail *replica)
{
	enum dovetail_status status;
	struct dovetail_part *part;
	sqlite3_stmt *stmt;

	replica_parts_free(replica);
	replica->parts = calloc(REPLICA_PARTS_MAX, sizeof(*replica->parts));
	if (replica->parts == NULL)
		return replica_no_memory(replica);
	stmt = replica_query(replica, "SELECT scope, mailbox, entry FROM part ORDER BY scope, mailbox, entry", "");
	while ((status = replica_step(replica, stmt, "read the parts")) == DOVETAIL_OK &&
	       replica->parts_count < REPLICA_PARTS_MAX) {
		part = &replica->parts[replica->parts_count++];
		part->scope = sqlite3_column_int(stmt, 0);
		if (part->scope != DOVETAIL_SCOPE_PERSONAL)
			part->mailbox = strdup((const char *)sqlite3_column_text(stmt, 1));
		part->entry = strdup((const char *)sqlite3_column_text(stmt, 2));
		if (part->entry == NULL || (part->scope != DOVETAIL_SCOPE_PERSONAL && part->mailbox == NULL)) {
			(void)sqlite3_reset(stmt);
			replica_parts_free(replica);
			return replica_no_memory(replica);
		}
	}
	if (status == DOVETAIL_OK)
		(void)sqlite3_reset(stmt);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

/* The server's hierarchy separator is not known here: '/' or '.', most often, but it can be any punctuation. */
bool replica_mailbox_is_below(const char *mailbox, const char *parent)
{
	size_t size = strlen(parent);

	return strncmp(mailbox, parent, size) == 0 &&
		(mailbox[size] == '\0' || strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", mailbox[size]) != NULL);
}

bool replica_parts_cover(const struct dovetail *replica, const char *mailbox, const char *name)
{
	const struct dovetail_part *part;
	size_t i, size;

	for (i = 0; i < replica->parts_count; i++) {
		part = &replica->parts[i];
		size = strlen(part->entry);
		if (strncmp(name, part->entry, size) != 0 || (name[size] != '\0' && name[size] != '/'))
			continue;
		if (part->scope == DOVETAIL_SCOPE_MAILBOX ? strcmp(mailbox, part->mailbox) == 0 :
		    part->scope == DOVETAIL_SCOPE_PERSONAL ? *mailbox != '\0' : replica_mailbox_is_below(mailbox, part->mailbox))
			return true;
	}
	return false;
}

/* Entries that are no longer covered; INVALID if writes wait on one. */
static enum dovetail_status forget_uncovered(struct dovetail *replica)
{
	enum dovetail_status status;
	int64_t id = 0;
	sqlite3_stmt *stmt;

	for (;;) {
		stmt = replica_query(replica, "SELECT id, mailbox, wire, write_id FROM entry WHERE id > ?1 ORDER BY id LIMIT 1",
				     "i", id);
		status = replica_step(replica, stmt, "forget entries");
		if (status != DOVETAIL_OK)
			return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
		id = sqlite3_column_int64(stmt, 0);
		if (replica_parts_cover(replica, (const char *)sqlite3_column_text(stmt, 1),
					(const char *)sqlite3_column_text(stmt, 2))) {
			(void)sqlite3_reset(stmt);
			continue;
		}
		if (sqlite3_column_type(stmt, 3) != SQLITE_NULL) {
			status = replica_fail(replica, DOVETAIL_INVALID,
					      "a write waits on %s in mailbox \"%s\", which would no longer be covered",
				(const char *)sqlite3_column_text(stmt, 2), (const char *)sqlite3_column_text(stmt, 1));
			(void)sqlite3_reset(stmt);
			return status;
		}
		(void)sqlite3_reset(stmt);
		status = replica_run(replica, "forget entries", "DELETE FROM entry WHERE id = ?1", "i", id);
		if (status != DOVETAIL_OK)
			return status;
	}
}

/* with those that were loaded */
static bool parts_same(const struct dovetail *replica, const struct dovetail_part *parts, size_t count)
{
	size_t i;

	if (count != replica->parts_count)
		return false;
	for (i = 0; i < count; i++) {
		if (part_compare(&parts[i], &replica->parts[i]) != 0)
			return false;
	}
	return true;
}

static enum dovetail_status parts_store(struct dovetail *replica)
{
	enum dovetail_status status;
	size_t i;

	status = replica_run(replica, "set the parts", "DELETE FROM part", "");
	for (i = 0; i < replica->parts_count && status == DOVETAIL_OK; i++) {
		const struct dovetail_part *part = &replica->parts[i];

		status = replica_run(replica, "set the parts", "INSERT INTO part VALUES(?1, ?2, ?3)", "itt", (int64_t)part->scope,
				     part->mailbox == NULL ? "" : part->mailbox, part->entry);
	}
	/* A mark is for one set of parts */
	if (status == DOVETAIL_OK)
		status = replica_run(replica, "set the parts", "DELETE FROM stage", "");
	if (status == DOVETAIL_OK) {
		status = replica_run(replica, "set the parts",
			"UPDATE meta SET mark = '', epoch = 0, modseq = 0, partial = '', partial_id = 0, snapshot = 0,"
			" need_state = 1", "");
	}
	return status == DOVETAIL_OK ? forget_uncovered(replica) : status;
}

enum dovetail_status dovetail_set_parts(struct dovetail *replica, const struct dovetail_part *parts, size_t count)
{
	struct dovetail_part *copy = NULL;
	enum dovetail_status status;
	size_t copy_count;
	bool changed;

	if (parts == NULL || count < 1 || count > REPLICA_PARTS_MAX)
		return replica_fail(replica, DOVETAIL_INVALID, "1 to %d parts are possible", REPLICA_PARTS_MAX);
	status = parts_copy(replica, parts, count, &copy, &copy_count);
	if (status == DOVETAIL_OK)
		status = replica_begin(replica, true);
	if (status != DOVETAIL_OK) {
		parts_free(copy, copy == NULL ? 0 : copy_count);
		return status;
	}
	status = replica_parts_load(replica);
	if (status == DOVETAIL_OK && !parts_same(replica, copy, copy_count)) {
		replica_parts_free(replica);
		replica->parts = copy;
		replica->parts_count = copy_count;
		copy = NULL;
		status = parts_store(replica);
	}
	changed = copy == NULL;
	parts_free(copy, copy == NULL ? 0 : copy_count);
	status = replica_end(replica, status);
	if (status == DOVETAIL_OK && changed)
		replica_wake(replica);
	return status;
}

enum dovetail_status
dovetail_get_parts(struct dovetail *replica, const struct dovetail_part **parts_r, size_t *count_r)
{
	enum dovetail_status status;

	*parts_r = NULL;
	*count_r = 0;
	status = replica_parts_load(replica);
	if (status != DOVETAIL_OK)
		return status;
	*parts_r = replica->parts;
	*count_r = replica->parts_count;
	return DOVETAIL_OK;
}

enum dovetail_status
replica_watch_parts(struct dovetail *replica, const struct dovetail_part **parts_r, size_t *count_r)
{
	enum dovetail_status status = dovetail_get_parts(replica, parts_r, count_r);

	replica_watched_free(replica);
	return status != DOVETAIL_OK ? status :
		parts_copy(replica, *parts_r, *count_r, &replica->watched, &replica->watched_count);
}

/* position: of a server that tells positions */
static enum dovetail_status parts_are_watched(struct dovetail *replica, bool position, bool *same_r)
{
	const char *mark, *partial;
	struct replica_meta meta;
	enum dovetail_status status;

	*same_r = true;
	if (replica->watched == NULL)
		return DOVETAIL_OK;
	status = replica_meta_get(replica, &meta);
	if (status == DOVETAIL_OK)
		status = replica_get_mark(replica, &mark, &partial);
	if (status != DOVETAIL_OK)
		return status;
	/* changes, but since when? The mark is gone with the parts, though these may be the same again. */
	*same_r = parts_same(replica, replica->watched, replica->watched_count) && !(position && *mark == '\0' && !meta.snapshot);
	return DOVETAIL_OK;
}

enum dovetail_status replica_parts_check(struct dovetail *replica, bool position)
{
	enum dovetail_status status;
	bool same;

	status = parts_are_watched(replica, position, &same);
	return status != DOVETAIL_OK || same ? status :
		replica_fail(replica, DOVETAIL_BUSY, "what the replica covers has been changed meanwhile");
}

enum dovetail_status replica_watch_check(struct dovetail *replica, bool position, bool *same_r)
{
	enum dovetail_status status;

	*same_r = false;
	status = replica_begin(replica, false);
	if (status != DOVETAIL_OK)
		return status;
	status = replica_parts_load(replica);
	if (status == DOVETAIL_OK)
		status = parts_are_watched(replica, position, same_r);
	return replica_end(replica, status);
}
