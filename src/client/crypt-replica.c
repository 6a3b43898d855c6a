/* End-to-end encryption: the public functions (dovetail.h, last part), and what goes on at each consistent state: writing anew after a rotation or at the
   beginning, and telling what was noticed. */

#include "crypt-state.h"

#include <stdlib.h>
#include <string.h>

#define NAME_MAX_SIZE 1024
/* writing anew can take two writes of the 100 in a set: the old name is removed */
#define ANEW_MAX 50

enum dovetail_status crypt_replica_open(struct dovetail *replica)
{
	struct crypt_context *context;
	enum dovetail_status status = crypt_context_new(replica, &context);

	if (status != DOVETAIL_OK)
		return status;
	status = crypt_subtrees_load(context);
	if (status != DOVETAIL_OK) {
		crypt_context_free(context);
		return status;
	}
	crypt_codec_set(context);
	return DOVETAIL_OK;
}

/* ---- Names of subtrees ---- */

/* In lower case; malloc()ed. */
static enum dovetail_status subtree_name(struct dovetail *replica, const char *subtree, char **name_r)
{
	size_t i, size, reserved;
	char *name;

	*name_r = NULL;
	if (subtree == NULL || (name = strdup(subtree)) == NULL)
		return replica_fail(replica, subtree == NULL ? DOVETAIL_INVALID : DOVETAIL_SYSTEM, "no name of a subtree");
	size = strlen(name);
	for (i = 0; i < size; i++) {
		if (name[i] >= 'A' && name[i] <= 'Z')
			name[i] += 'a' - 'A';
		if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '*' || name[i] == '%' || (name[i] == '/' && (name[i + 1] == '/' || name[i + 1] == '\0')))
			break;
	}
	if (i < size || size > NAME_MAX_SIZE - strlen(CRYPT_RING_ENTRY) || crypt_is_reserved(name, &reserved) ||
	    ((strncmp(name, "/private/", 9) != 0 || size == 9) && (strncmp(name, "/shared/", 8) != 0 || size == 8))) {
		free(name);
		return replica_fail(replica, DOVETAIL_INVALID, "not the name of a subtree that can be encrypted: \"%.200s\"", subtree);
	}
	*name_r = name;
	return DOVETAIL_OK;
}

/* The known subtree; *context_r. INVALID, NOT_FOUND */
static enum dovetail_status
subtree_get(struct dovetail *replica, const char *subtree, struct crypt_context **context_r, struct crypt_subtree **subtree_r)
{
	struct crypt_context *context = *context_r = replica_get_codec_context(replica);
	enum dovetail_status status;
	char *name;

	status = subtree_name(replica, subtree, &name);
	if (status != DOVETAIL_OK)
		return status;
	status = crypt_subtrees_load(context);
	*subtree_r = status == DOVETAIL_OK ? crypt_subtree_find(context, name) : NULL;
	if (status == DOVETAIL_OK && (*subtree_r == NULL || strcmp((*subtree_r)->name, name) != 0))
		status = replica_fail(replica, DOVETAIL_NOT_FOUND, "%s is not encrypted, as far as this replica knows", name);
	free(name);
	return status == DOVETAIL_OK ? crypt_ring_refresh(context, *subtree_r) : status;
}

/* As subtree_get(), and it has to be unlocked. */
static enum dovetail_status
subtree_get_open(struct dovetail *replica, const char *subtree, struct crypt_context **context_r, struct crypt_subtree **subtree_r)
{
	enum dovetail_status status = subtree_get(replica, subtree, context_r, subtree_r);

	if (status == DOVETAIL_OK && ((*subtree_r)->ring == NULL || (*subtree_r)->ring->secrets == NULL))
		status = replica_fail(replica, DOVETAIL_LOCKED, "%s is locked", (*subtree_r)->name);
	return status;
}

/* The ring that the replica shows, our own change of it included; malloc()ed. NULL: none. */
static enum dovetail_status
ring_shown(struct dovetail *replica, const char *subtree, char **text_r, size_t *size_r, bool *pending_r)
{
	struct dovetail_entry entry;
	enum dovetail_status status;
	char *name;

	*text_r = NULL;
	*pending_r = false;
	if (asprintf(&name, "%s" CRYPT_RING_ENTRY, subtree) < 0)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	status = replica_get_raw(replica, "", name, &entry);
	free(name);
	if (status == DOVETAIL_NOT_FOUND || status == DOVETAIL_INVALID)
		return DOVETAIL_OK;
	if (status != DOVETAIL_OK)
		return status;
	*pending_r = (entry.flags & DOVETAIL_ENTRY_PENDING) != 0;
	if (entry.data == NULL)
		return DOVETAIL_OK;
	*text_r = malloc(entry.size + 1);
	if (*text_r == NULL)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	memcpy(*text_r, entry.data, entry.size);
	*size_r = entry.size;
	return DOVETAIL_OK;
}

/* ---- Writing the ring ---- */

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

/* The changed ring (taken over) goes into the queue, and is the accepted one. */
static enum dovetail_status ring_store(struct crypt_context *context, struct crypt_subtree *subtree, struct crypt_ring *ring)
{
	const char *error = NULL;
	enum dovetail_status status;
	void *text;
	size_t size;

	status = crypt_ring_write(ring, NULL, &text, &size, &error);
	if (status != DOVETAIL_OK)
		status = replica_fail(context->replica, status, "%s: %s", subtree->name, error);
	else
		status = ring_queue(context->replica, subtree->name, text, size);
	if (status == DOVETAIL_OK)
		status = crypt_ring_accept(context, subtree, ring, text, size, false);
	else
		crypt_ring_free(ring);
	free(text);
	return status;
}

/* ---- Writing anew ---- */

/* All entries that can be read and are not sealed with the current key; *done_r: there was none. */
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

/* Is our own ring on the server now? Is it gone? */
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
		status = ring_shown(context->replica, subtree->name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	if (text != NULL && !pending) {
		crypt_text_hash(text, size, hash);
		*waits_r = memcmp(hash, subtree->ring_hash, CRYPT_HASH_SIZE) != 0;
		if (!*waits_r && known.unconfirmed) {
			status = crypt_ring_copy(subtree->ring, &copy, &error);
			status = status != DOVETAIL_OK ? replica_fail(context->replica, status, "%s", error) :
				crypt_ring_accept(context, subtree, copy, text, size, true);
		}
	} else if (text == NULL && !pending) {
		/* a client without keys has removed it, or a crash kept it from the queue: without it, nothing could be read by anybody */
		status = crypt_text_get(context, "ring", subtree->name, &text, &size);
		if (status == DOVETAIL_OK && text != NULL)
			status = ring_queue(context->replica, subtree->name, text, size);
	}
	free(text);
	return status;
}

static enum dovetail_status step_subtree(struct crypt_context *context, struct crypt_subtree *subtree)
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
	if (status == DOVETAIL_OK)
		status = anew(context, subtree, &done);
	if (status != DOVETAIL_OK || waits || !done)
		return status;
	if (crypt_ring_settled(subtree->ring)) {
		subtree->look = false;
		if (subtree->lost != NULL) {
			/* what it was for has been written anew */
			crypt_ring_free(subtree->lost);
			subtree->lost = NULL;
			status = crypt_text_set(context, "lost", subtree->name, NULL, 0);
		}
		return status;
	}
	if (replica_queue_count(context->replica) > 0)
		return DOVETAIL_OK;
	status = crypt_ring_copy(subtree->ring, &copy, &error);
	if (status == DOVETAIL_OK)
		status = crypt_ring_settle(copy, &error);
	return status == DOVETAIL_OK ? ring_store(context, subtree, copy) : replica_fail(context->replica, status, "%s", error);
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
		status = step_subtree(context, context->subtrees[i]);
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

/* ---- Beginning ---- */

/* May encryption begin here? *busy_r: something is in it. */
static enum dovetail_status subtree_check(struct dovetail *replica, struct crypt_context *context, const char *name, bool *used_r)
{
	struct dovetail_counts counts;
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	size_t i, size;
	bool pending;
	char *text;

	*used_r = false;
	status = crypt_subtrees_load(context);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0; i < context->count; i++) {
		if (crypt_name_is_below(context->subtrees[i]->name, name) || crypt_name_is_below(name, context->subtrees[i]->name))
			return replica_fail(replica, DOVETAIL_INVALID, "%s is encrypted already", context->subtrees[i]->name);
	}
	status = dovetail_get_counts(replica, &counts);
	if (status != DOVETAIL_OK)
		return status;
	if (counts.synced_at == 0)
		return replica_fail(replica, DOVETAIL_INVALID, "%s: synchronize first, another device may have encrypted it", name);
	status = ring_shown(replica, name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	free(text);
	if (text != NULL)
		return replica_fail(replica, DOVETAIL_INVALID, "%s is encrypted already", name);
	status = dovetail_iter_open(replica, NULL, name, false, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK && (entry.flags & DOVETAIL_ENTRY_PENDING) == 0)
		*used_r = true;
	dovetail_iter_close(iter);
	if (status == DOVETAIL_OK)
		return replica_fail(replica, DOVETAIL_BUSY, "%s: writes wait there that are not encrypted: synchronize first", name);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

enum dovetail_status
dovetail_encrypt(struct dovetail *replica, const char *subtree, const struct dovetail_secret *secret,
		 const struct dovetail_encrypt_options *options)
{
	struct crypt_context *context = replica_get_codec_context(replica);
	struct crypt_subtree *added;
	struct crypt_ring *ring = NULL;
	const char *error = NULL;
	enum dovetail_status status;
	bool used, done;
	void *text = NULL;
	size_t size;
	char *name;

	status = subtree_name(replica, subtree, &name);
	if (status != DOVETAIL_OK)
		return status;
	status = subtree_check(replica, context, name, &used);
	if (status != DOVETAIL_OK) {
		free(name);
		return status;
	}
	status = crypt_ring_new(name, options != NULL && options->hide_names, NULL, &ring, &error);
	if (status == DOVETAIL_OK) {
		ring->converting = used;
		status = crypt_ring_slot_add(ring, "first", secret, NULL, &error);
	}
	if (status == DOVETAIL_OK)
		status = crypt_ring_write(ring, NULL, &text, &size, &error);
	if (status != DOVETAIL_OK)
		status = replica_fail(replica, status, "%s: %s", name, error);
	else
		status = ring_queue(replica, name, text, size);
	if (status == DOVETAIL_OK)
		status = crypt_subtree_add(context, name, &added);
	if (status == DOVETAIL_OK) {
		status = crypt_ring_accept(context, added, ring, text, size, false);
		ring = NULL;
	}
	if (status == DOVETAIL_OK && used)
		status = anew(context, added, &done);
	crypt_ring_free(ring);
	free(text);
	free(name);
	return status;
}

/* ---- Unlocking ---- */

static enum dovetail_status
ring_open(struct dovetail *replica, const char *subtree, const char *text, size_t size, const struct dovetail_secret *secret,
	  struct crypt_ring **ring_r)
{
	const char *error = NULL;
	enum dovetail_status status = crypt_ring_parse(subtree, text, size, NULL, ring_r, &error);

	if (status == DOVETAIL_OK)
		status = crypt_ring_unlock(*ring_r, secret, NULL, &error);
	if (status == DOVETAIL_OK)
		return status;
	crypt_ring_free(*ring_r);
	*ring_r = NULL;
	return replica_fail(replica, status, "%s: %s", subtree, error);
}

/* The ring that the server shows, if it is as it should be; else the accepted one, with a notice. */
static enum dovetail_status
unlock_main(struct crypt_context *context, struct crypt_subtree *subtree, const struct dovetail_secret *secret)
{
	struct dovetail *replica = context->replica;
	struct crypt_ring *ring = NULL;
	struct crypt_known known;
	enum dovetail_status status, kept;
	bool pending;
	size_t size;
	char *text;

	status = crypt_known_get(context, subtree->name, &known);
	if (status == DOVETAIL_OK)
		status = ring_shown(replica, subtree->name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	status = text == NULL ? DOVETAIL_DAMAGED : ring_open(replica, subtree->name, text, size, secret, &ring);
	if (status == DOVETAIL_OK && crypt_ring_is_stale(&known, ring, text, size)) {
		crypt_ring_free(ring);
		status = DOVETAIL_DAMAGED;
		crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, "", subtree->name,
			   "the server shows an older or another set of keys than this device has seen");
	} else if (status == DOVETAIL_OK) {
		status = crypt_ring_accept(context, subtree, ring, text, size, !pending);
	}
	free(text);
	if (status != DOVETAIL_DAMAGED)
		return status;
	kept = crypt_text_get(context, "ring", subtree->name, &text, &size);
	if (kept == DOVETAIL_OK && text != NULL) {
		status = ring_open(replica, subtree->name, text, size, secret, &ring);
		if (status == DOVETAIL_OK)
			status = crypt_ring_accept(context, subtree, ring, text, size, !known.unconfirmed);
		free(text);
	} else if (kept == DOVETAIL_OK) {
		return replica_fail(replica, status, "%s: its keys on the server are damaged or older than this device has seen", subtree->name);
	}
	return kept != DOVETAIL_OK ? kept : status;
}

static enum dovetail_status
unlock_lost(struct crypt_context *context, struct crypt_subtree *subtree, const struct dovetail_secret *secret)
{
	struct crypt_ring *ring;
	enum dovetail_status status;
	size_t size;
	char *text;

	if (subtree->lost != NULL && subtree->lost->secrets != NULL)
		return DOVETAIL_WRONG_KEY;
	status = crypt_text_get(context, "lost", subtree->name, &text, &size);
	if (status == DOVETAIL_OK && text == NULL)
		return DOVETAIL_WRONG_KEY;
	if (status == DOVETAIL_OK)
		status = ring_open(context->replica, subtree->name, text, size, secret, &ring);
	free(text);
	if (status == DOVETAIL_OK) {
		crypt_ring_free(subtree->lost);
		subtree->lost = ring;
	}
	return status;
}

enum dovetail_status dovetail_unlock(struct dovetail *replica, const char *subtree, const struct dovetail_secret *secret)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	enum dovetail_status status, lost;

	status = subtree_get(replica, subtree, &context, &known);
	if (status != DOVETAIL_OK)
		return status;
	status = unlock_main(context, known, secret);
	if (status == DOVETAIL_OK || status == DOVETAIL_WRONG_KEY) {
		/* the secret may be for what waits here, or for both */
		lost = unlock_lost(context, known, secret);
		if (status == DOVETAIL_WRONG_KEY && lost == DOVETAIL_OK) {
			return replica_fail(replica, DOVETAIL_LOCKED, "%s: this secret opens what was written here before another device's keys came: "
					    "give a secret that opens those, too", known->name);
		}
		if (status == DOVETAIL_WRONG_KEY)
			return replica_fail(replica, status, "%s: no key of the subtree is for this secret", known->name);
	}
	if (status != DOVETAIL_OK)
		return status;
	if (replica_is_readonly(replica))
		return DOVETAIL_OK;
	context->catching_up = true;
	status = replica_decode_again(replica, known->name, true);
	context->catching_up = false;
	known->look = true;
	/* what has waited for a key can go at once */
	return status == DOVETAIL_OK ? step_subtree(context, known) : status;
}

/* ---- Secrets ---- */

enum dovetail_status
dovetail_secret_add(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	struct crypt_ring *copy;
	const char *error = NULL;
	enum dovetail_status status = subtree_get_open(replica, subtree, &context, &known);

	if (status != DOVETAIL_OK)
		return status;
	if (label == NULL)
		return replica_fail(replica, DOVETAIL_INVALID, "a secret needs a label");
	status = crypt_ring_copy(known->ring, &copy, &error);
	if (status == DOVETAIL_OK) {
		status = crypt_ring_slot_add(copy, label, secret, NULL, &error);
		if (status == DOVETAIL_OK)
			return ring_store(context, known, copy);
		crypt_ring_free(copy);
	}
	return replica_fail(replica, status, "%s: %s", known->name, error);
}

enum dovetail_status dovetail_secret_remove(struct dovetail *replica, const char *subtree, const char *label)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	struct crypt_ring *copy;
	const char *error = NULL;
	enum dovetail_status status = subtree_get_open(replica, subtree, &context, &known);

	if (status != DOVETAIL_OK)
		return status;
	if (label == NULL)
		return replica_fail(replica, DOVETAIL_INVALID, "a secret needs a label");
	status = crypt_ring_copy(known->ring, &copy, &error);
	if (status == DOVETAIL_OK) {
		status = crypt_ring_slot_remove(copy, label, &error);
		if (status == DOVETAIL_OK)
			return ring_store(context, known, copy);
		crypt_ring_free(copy);
	}
	return replica_fail(replica, status, "%s: %s", known->name, error);
}

enum dovetail_status
dovetail_secret_each(struct dovetail *replica, const char *subtree, bool (*each)(void *context, const char *label, const char *kind), void *each_context)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	struct crypt_ring *ring;
	const char *error = NULL;
	enum dovetail_status status = subtree_get(replica, subtree, &context, &known);
	unsigned int i;

	if (status != DOVETAIL_OK)
		return status;
	if (known->ring == NULL)
		return replica_fail(replica, DOVETAIL_LOCKED, "%s was never unlocked here", known->name);
	/* the callback may change it */
	status = crypt_ring_copy(known->ring, &ring, &error);
	if (status != DOVETAIL_OK)
		return replica_fail(replica, status, "%s", error);
	for (i = 0; i < ring->slot_count; i++) {
		if (!each(each_context, ring->slots[i].label, ring->slots[i].kind == CRYPT_SLOT_PASSPHRASE ? "passphrase" : "key-file"))
			break;
	}
	crypt_ring_free(ring);
	return DOVETAIL_OK;
}

enum dovetail_status
dovetail_rotate_key(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	struct crypt_ring *copy;
	const char *error = NULL;
	enum dovetail_status status = subtree_get_open(replica, subtree, &context, &known);
	bool done;

	if (status != DOVETAIL_OK)
		return status;
	if (label == NULL)
		return replica_fail(replica, DOVETAIL_INVALID, "a secret needs a label");
	status = crypt_ring_copy(known->ring, &copy, &error);
	if (status == DOVETAIL_OK)
		status = crypt_ring_rotate(copy, label, secret, NULL, &error);
	if (status != DOVETAIL_OK) {
		crypt_ring_free(copy);
		return replica_fail(replica, status, "%s: %s", known->name, error);
	}
	status = ring_store(context, known, copy);
	return status == DOVETAIL_OK ? anew(context, known, &done) : status;
}
