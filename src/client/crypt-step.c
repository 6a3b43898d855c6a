/* End-to-end encryption: what goes on at each consistent state, i.e. the ring that has to be on the server, writing anew after a
   rotation or at the beginning, and telling what was noticed. */

#include "crypt-state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* writing anew can take two writes of the 100 in a set: the old name is removed */
#define ANEW_MAX 50

/* ---- The ring ---- */

enum dovetail_status
crypt_ring_shown(struct dovetail *replica, const char *subtree, char **text_r, size_t *size_r, bool *pending_r)
{
	enum dovetail_status status;
	const void *data;
	char *name;

	*text_r = NULL;
	if (asprintf(&name, "%s" CRYPT_RING_ENTRY, subtree) < 0)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	*pending_r = replica_is_pending(replica, "", name);
	status = replica_get_server(replica, "", name, &data, size_r);
	free(name);
	if (status != DOVETAIL_OK || data == NULL)
		return status;
	*text_r = malloc(*size_r + 1);
	if (*text_r == NULL)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	memcpy(*text_r, data, *size_r);
	return DOVETAIL_OK;
}

static enum dovetail_status ring_queue(struct dovetail *replica, const char *subtree, const void *text, size_t size)
{
	struct dovetail_changes *changes;
	enum dovetail_status status;
	char *name;

	if (asprintf(&name, "%s" CRYPT_RING_ENTRY, subtree) < 0)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	status = dovetail_changes_begin(replica, &changes);
	if (status == DOVETAIL_OK) {
		status = replica_changes_add_raw(changes, "", name, text, size);
		if (status == DOVETAIL_OK)
			status = dovetail_changes_commit(changes);
		else
			dovetail_changes_abort(changes);
	}
	free(name);
	return status;
}

enum dovetail_status
crypt_ring_store(struct crypt_context *context, const char *name, struct crypt_ring *ring, struct crypt_subtree **subtree_r)
{
	const char *error = NULL;
	enum dovetail_status status;
	void *text;
	size_t size;

	status = crypt_ring_write(ring, NULL, &text, &size, &error);
	if (status != DOVETAIL_OK)
		status = replica_fail(context->replica, status, "%s: %s", name, error);
	/* The keys before the subtree, and both before the queue: after a crash in between there is no subtree without keys, and
	   what did not get into the queue is for step_ring(). */
	*subtree_r = crypt_subtree_find(context, name);
	if (status == DOVETAIL_OK && *subtree_r != NULL)
		status = crypt_ring_note(context, *subtree_r);
	if (status == DOVETAIL_OK)
		status = crypt_text_set(context, "ring", name, text, size);
	if (status == DOVETAIL_OK)
		status = crypt_subtree_add(context, name, subtree_r);
	if (status == DOVETAIL_OK) {
		status = crypt_ring_accept(context, *subtree_r, ring, text, size, false);
		if (status == DOVETAIL_OK)
			(void)ring_queue(context->replica, name, text, size);
	} else {
		crypt_ring_free(ring);
	}
	free(text);
	return status;
}

/* ---- Writing anew ---- */

/* Writes anew all entries that can be read and are not sealed with the current key; *done_r: there was none. */
static enum dovetail_status anew(struct crypt_context *context, const struct crypt_subtree *subtree, bool *done_r)
{
	struct dovetail *replica = context->replica;
	struct dovetail_changes *changes = NULL;
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	unsigned int count = 0;

	*done_r = true;
	status = dovetail_iter_open(replica, NULL, subtree->name, true, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		if (!context->stale || entry.data == NULL)
			continue;
		*done_r = false;
		/* not over and over: it waits for the user */
		if ((entry.flags & DOVETAIL_ENTRY_REFUSED) != 0)
			continue;
		if (changes == NULL)
			status = dovetail_changes_begin(replica, &changes);
		if (status == DOVETAIL_OK)
			status = replica_changes_add_anew(changes, entry.mailbox, entry.name, entry.data, entry.size);
		if (status == DOVETAIL_OK && ++count % ANEW_MAX == 0) {
			status = dovetail_changes_commit(changes);
			changes = NULL;
		}
		if (status != DOVETAIL_OK)
			break;
	}
	dovetail_iter_close(iter);
	if (status == DOVETAIL_NOT_FOUND) {
		status = changes == NULL ? DOVETAIL_OK : dovetail_changes_commit(changes);
		changes = NULL;
	}
	dovetail_changes_abort(changes);
	return status;
}

/* ---- Step ---- */

static bool find_refused(void *context, const struct dovetail_refused *refused)
{
	const char **name = context;

	if (*refused->entry.mailbox != '\0' || strcmp(refused->entry.name, *name) != 0)
		return true;
	*name = NULL;
	return false;
}

/* The accepted ring is not on the server: a client without keys has removed it, or it did not get into the queue. Without it
   nothing could be read by anybody. Not if the server does not take it, nor over one that we do not know. */
static enum dovetail_status
step_ring_again(struct crypt_context *context, const struct crypt_subtree *subtree, const struct crypt_known *known,
		const uint8_t *shown)
{
	enum dovetail_status status;
	const char *find;
	size_t size;
	char *text;

	if (shown != NULL && memcmp(shown, known->hash, CRYPT_HASH_SIZE) != 0)
		return DOVETAIL_OK;
	if (asprintf(&text, "%s" CRYPT_RING_ENTRY, subtree->name) < 0)
		return replica_fail(context->replica, DOVETAIL_SYSTEM, "out of memory");
	find = text;
	status = dovetail_refused_each(context->replica, find_refused, &find);
	free(text);
	if (status != DOVETAIL_OK || find == NULL)
		return status;
	status = crypt_text_get(context, "ring", subtree->name, &text, &size);
	if (status == DOVETAIL_OK && text != NULL)
		status = ring_queue(context->replica, subtree->name, text, size);
	free(text);
	return status;
}

/* Is the accepted ring on the server now? Is it gone? *waits_r: it is not there yet. */
static enum dovetail_status step_ring(struct crypt_context *context, struct crypt_subtree *subtree, bool *waits_r)
{
	uint8_t hash[CRYPT_HASH_SIZE];
	struct crypt_ring *copy;
	struct crypt_known known;
	const char *error = NULL;
	enum dovetail_status status;
	bool pending;
	size_t size;
	char *text;

	*waits_r = true;
	status = crypt_known_get(context, subtree->name, &known);
	if (status == DOVETAIL_OK)
		status = crypt_ring_shown(context->replica, subtree->name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	if (text != NULL)
		crypt_text_hash(text, size, hash);
	if (text == NULL || memcmp(hash, subtree->ring_hash, CRYPT_HASH_SIZE) != 0) {
		if (!pending)
			status = step_ring_again(context, subtree, &known, text == NULL ? NULL : hash);
	} else {
		*waits_r = false;
		if (!crypt_ring_is_confirmed(&known, subtree)) {
			status = crypt_ring_copy(subtree->ring, &copy, &error);
			status = status != DOVETAIL_OK ? replica_fail(context->replica, status, "%s", error) :
				crypt_ring_accept(context, subtree, copy, text, size, true);
		}
	}
	free(text);
	return status;
}

enum dovetail_status crypt_step(struct crypt_context *context, struct crypt_subtree *subtree)
{
	struct crypt_ring *copy;
	const char *error = NULL;
	enum dovetail_status status;
	bool waits, done;

	status = crypt_ring_refresh(context, subtree);
	if (status != DOVETAIL_OK || subtree->ring == NULL || subtree->ring->secrets == NULL)
		return status;
	if (!subtree->look && crypt_ring_settled(subtree->ring))
		return DOVETAIL_OK;
	status = step_ring(context, subtree, &waits);
	if (status == DOVETAIL_OK)
		status = replica_queue_encode_again(context->replica);
	/* not before the keys are there: until then others write in clear text, or with older ones */
	if (status != DOVETAIL_OK || waits)
		return status;
	status = anew(context, subtree, &done);
	if (status != DOVETAIL_OK || !done)
		return status;
	if (subtree->lost == NULL && crypt_ring_settled(subtree->ring)) {
		subtree->look = false;
		return DOVETAIL_OK;
	}
	if (replica_queue_count(context->replica) > 0)
		return DOVETAIL_OK;
	if (subtree->lost != NULL) {
		/* what it was for has been written anew, and sent */
		crypt_ring_free(subtree->lost);
		subtree->lost = NULL;
		return crypt_text_set(context, "lost", subtree->name, NULL, 0);
	}
	status = crypt_ring_copy(subtree->ring, &copy, &error);
	if (status == DOVETAIL_OK)
		status = crypt_ring_settle(copy, &error);
	return status == DOVETAIL_OK ? crypt_ring_store(context, subtree->name, copy, &subtree) :
		replica_fail(context->replica, status, "%s", error);
}

enum dovetail_status crypt_replica_step(struct dovetail *replica, crypt_notice_t *notice, void *notice_context)
{
	struct crypt_context *context = replica_get_codec_context(replica);
	enum dovetail_status status;
	struct crypt_told *told;
	size_t i, count;

	if (context == NULL)
		return DOVETAIL_OK;
	status = crypt_subtrees_load(context);
	for (i = 0; i < context->count && status == DOVETAIL_OK; i++)
		status = crypt_step(context, context->subtrees[i]);
	/* the callback may come back here */
	told = context->told;
	count = context->told_count;
	context->told = NULL;
	context->told_count = 0;
	for (i = 0; i < count; i++) {
		if (notice != NULL && told[i].mailbox != NULL && told[i].entry != NULL)
			notice(notice_context, told[i].notice, told[i].mailbox, told[i].entry, told[i].text);
		free(told[i].mailbox);
		free(told[i].entry);
	}
	free(told);
	return status;
}
