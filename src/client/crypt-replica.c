/* End-to-end encryption: the public functions (dovetail.h, last part). */

#include "crypt-state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_SIZE 1024

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
		if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '*' || name[i] == '%' ||
		    (name[i] == '/' && (name[i + 1] == '/' || name[i + 1] == '\0')))
			break;
	}
	if (i < size || size > NAME_MAX_SIZE - strlen(CRYPT_RING_ENTRY) || crypt_is_reserved(name, &reserved) ||
	    ((strncmp(name, "/private/", 9) != 0 || size == 9) && (strncmp(name, "/shared/", 8) != 0 || size == 8))) {
		free(name);
		return replica_fail(replica, DOVETAIL_INVALID, "not the name of a subtree that can be encrypted: \"%.200s\"",
				    subtree);
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

/* The ring's entry has to be covered by the replica's parts. */
static enum dovetail_status subtree_is_covered(struct dovetail *replica, const char *name)
{
	struct dovetail_entry entry;
	enum dovetail_status status;
	char *ring_name;

	if (asprintf(&ring_name, "%s" CRYPT_RING_ENTRY, name) < 0)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	status = dovetail_get(replica, "", ring_name, &entry);
	free(ring_name);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

/* As subtree_get(), for changing it: it has to be unlocked, and its ring's entry covered. label: of a secret */
static enum dovetail_status
subtree_get_open(struct dovetail *replica, const char *subtree, const char *label, struct crypt_context **context_r,
		 struct crypt_subtree **subtree_r)
{
	enum dovetail_status status = subtree_get(replica, subtree, context_r, subtree_r);

	if (status == DOVETAIL_OK && ((*subtree_r)->ring == NULL || (*subtree_r)->ring->secrets == NULL))
		status = replica_fail(replica, DOVETAIL_LOCKED, "%s is locked", (*subtree_r)->name);
	if (status == DOVETAIL_OK && label == NULL)
		status = replica_fail(replica, DOVETAIL_INVALID, "a secret needs a label");
	if (status == DOVETAIL_OK && replica_is_readonly(replica))
		status = replica_fail(replica, DOVETAIL_INVALID, "the replica is open for reading only");
	return status == DOVETAIL_OK ? subtree_is_covered(replica, (*subtree_r)->name) : status;
}

/* ---- Beginning ---- */

/* Is nothing that may be written there encrypted already? It may be expected to be, without any keys having come. */
static enum dovetail_status subtree_is_free(struct crypt_context *context, const char *name)
{
	struct crypt_known known;
	enum dovetail_status status = crypt_subtrees_load(context);
	bool pending;
	size_t i, size;
	char *text;

	for (i = 0; i < context->count && status == DOVETAIL_OK; i++) {
		const struct crypt_subtree *other = context->subtrees[i];

		if (!crypt_name_is_below(other->name, name) && !crypt_name_is_below(name, other->name))
			continue;
		status = crypt_known_get(context, other->name, &known);
		if (status == DOVETAIL_OK && (other->ring != NULL || known.seen || strcmp(other->name, name) != 0))
			return replica_fail(context->replica, DOVETAIL_INVALID, "%s is encrypted already", other->name);
	}
	if (status == DOVETAIL_OK)
		status = crypt_ring_shown(context->replica, name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	free(text);
	return text == NULL && !pending ? DOVETAIL_OK :
		replica_fail(context->replica, DOVETAIL_INVALID, "%s is encrypted already", name);
}

/* What is in it can be encrypted with this ring; *used_r: there is something. */
static enum dovetail_status entries_check(struct dovetail *replica, const struct crypt_ring *ring, bool *used_r)
{
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status, name_status = DOVETAIL_OK;
	const char *error;
	char *wire;

	*used_r = false;
	status = dovetail_iter_open(replica, NULL, ring->subtree, false, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while (name_status == DOVETAIL_OK && (status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		*used_r = true;
		if ((entry.flags & DOVETAIL_ENTRY_PENDING) != 0) {
			status = replica_fail(replica, DOVETAIL_BUSY,
					      "%s: writes wait there that are not encrypted: synchronize first", ring->subtree);
			break;
		}
		name_status = crypt_name_to_wire(ring, entry.name, &wire, &error);
		free(wire);
		if (name_status != DOVETAIL_OK)
			status = replica_fail(replica, name_status, "%s: %s", entry.name, error);
	}
	dovetail_iter_close(iter);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

static enum dovetail_status subtree_check(struct dovetail *replica, struct crypt_context *context, const char *name)
{
	struct dovetail_counts counts;
	enum dovetail_status status = subtree_is_free(context, name);

	if (status == DOVETAIL_OK)
		status = subtree_is_covered(replica, name);
	if (status == DOVETAIL_OK)
		status = dovetail_get_counts(replica, &counts);
	if (status == DOVETAIL_OK && counts.synced_at == 0)
		return replica_fail(replica, DOVETAIL_INVALID, "%s: synchronize first, another device may have encrypted it", name);
	return status;
}

/* A ring with its first secret (NULL: without one, for looking only), for what is there. */
static enum dovetail_status
ring_begin(struct dovetail *replica, const char *name, const struct dovetail_secret *secret, bool hide_names,
	   struct crypt_ring **ring_r)
{
	const char *error = NULL;
	enum dovetail_status status = crypt_ring_new(name, hide_names, NULL, ring_r, &error);

	if (status == DOVETAIL_OK && secret != NULL)
		status = crypt_ring_slot_add(*ring_r, "first", secret, NULL, &error);
	if (status != DOVETAIL_OK)
		(void)replica_fail(replica, status, "%s: %s", name, error);
	else
		status = entries_check(replica, *ring_r, &(*ring_r)->converting);
	if (status != DOVETAIL_OK) {
		crypt_ring_free(*ring_r);
		*ring_r = NULL;
	}
	return status;
}

enum dovetail_status
dovetail_encrypt(struct dovetail *replica, const char *subtree, const struct dovetail_secret *secret,
		 const struct dovetail_encrypt_options *options)
{
	struct crypt_context *context = replica_get_codec_context(replica);
	struct crypt_subtree *added;
	struct crypt_ring *ring;
	enum dovetail_status status;
	char *name;

	status = subtree_name(replica, subtree, &name);
	if (status != DOVETAIL_OK)
		return status;
	status = subtree_check(replica, context, name);
	if (status == DOVETAIL_OK)
		status = ring_begin(replica, name, secret, options != NULL && options->hide_names, &ring);
	if (status == DOVETAIL_OK && secret != NULL)
		status = crypt_ring_store(context, name, ring, &added);
	else if (status == DOVETAIL_OK)
		crypt_ring_free(ring);
	free(name);
	return status;
}

enum dovetail_status dovetail_expect_encrypted(struct dovetail *replica, const char *subtree)
{
	struct crypt_context *context = replica_get_codec_context(replica);
	struct crypt_subtree *added;
	enum dovetail_status status;
	char *name;

	if (replica_is_readonly(replica))
		return replica_fail(replica, DOVETAIL_INVALID, "the replica is open for reading only");
	status = subtree_name(replica, subtree, &name);
	if (status != DOVETAIL_OK)
		return status;
	status = crypt_subtree_add(context, name, &added);
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

/* The secret opens the ring that was kept, and not the one that the server shows, text (which is one by its form). Somebody may
   have removed the secret or changed the key; or the server has made it up, or shows an old one. */
static bool ring_is_wrong(const struct crypt_known *known, const struct crypt_ring *kept, const char *text, size_t size)
{
	struct crypt_ring *ring;
	const char *error;
	bool wrong;

	if (crypt_ring_parse(kept->subtree, text, size, NULL, &ring, &error) != DOVETAIL_OK)
		return false;
	wrong = memcmp(ring->subtree_id, kept->subtree_id, CRYPT_SUBTREE_ID_SIZE) != 0 || ring->epoch < kept->epoch;
	if (!wrong && ring->epoch == kept->epoch)
		wrong = crypt_ring_follow(ring, kept, &error) != DOVETAIL_OK || crypt_ring_is_stale(known, ring, text, size);
	crypt_ring_free(ring);
	return wrong;
}

/* The ring that was accepted, if that of the server (text, NULL: none; status: what came of it) is not as it should be. */
static enum dovetail_status
unlock_kept(struct crypt_context *context, struct crypt_subtree *subtree, const struct dovetail_secret *secret,
	    const struct crypt_known *known, const char *text, size_t size, enum dovetail_status status)
{
	struct crypt_ring *ring;
	enum dovetail_status kept;
	size_t kept_size;
	char *kept_text;

	kept = crypt_text_get(context, "ring", subtree->name, &kept_text, &kept_size);
	if (kept != DOVETAIL_OK)
		return kept;
	if (kept_text == NULL) {
		return status == DOVETAIL_WRONG_KEY ? status :
			replica_fail(context->replica, status, "%s: its keys %s", subtree->name, text == NULL ?
				     "have not come from the server" :
				     "on the server are damaged or older than this device has seen");
	}
	kept = ring_open(context->replica, subtree->name, kept_text, kept_size, secret, &ring);
	if (kept == DOVETAIL_OK && status == DOVETAIL_WRONG_KEY && !ring_is_wrong(known, ring, text, size)) {
		crypt_ring_free(ring);
		kept = status;
	} else if (kept == DOVETAIL_OK) {
		if (status == DOVETAIL_WRONG_KEY)
			crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, "", subtree->name, CRYPT_ROLLED_BACK);
		kept = crypt_ring_accept(context, subtree, ring, kept_text, kept_size, false);
	}
	free(kept_text);
	return kept;
}

/* Is the accepted ring at least what the server has (text)? It is, or our own later one that waits; another device may have
   changed the key meanwhile, though. */
static bool kept_is_newer(const char *subtree, const struct crypt_known *known, const char *kept, size_t kept_size,
			  const char *text, size_t size, bool pending)
{
	struct crypt_ring *ours, *theirs;
	uint8_t hash[CRYPT_HASH_SIZE];
	const char *error;
	bool newer = false;

	crypt_text_hash(text, size, hash);
	if (known->seen && memcmp(hash, known->hash, CRYPT_HASH_SIZE) == 0)
		return true;
	if (!pending || crypt_ring_parse(subtree, kept, kept_size, NULL, &ours, &error) != DOVETAIL_OK)
		return false;
	if (crypt_ring_parse(subtree, text, size, NULL, &theirs, &error) == DOVETAIL_OK) {
		newer = memcmp(ours->subtree_id, theirs->subtree_id, CRYPT_SUBTREE_ID_SIZE) == 0 && ours->epoch >= theirs->epoch;
		crypt_ring_free(theirs);
	}
	crypt_ring_free(ours);
	return newer;
}

/* The ring that the server shows, if it is as it should be; else the accepted one, with a notice. */
static enum dovetail_status
unlock_main(struct crypt_context *context, struct crypt_subtree *subtree, const struct dovetail_secret *secret)
{
	struct crypt_ring *ring = NULL;
	struct crypt_known known;
	enum dovetail_status status;
	size_t size = 0, kept_size;
	char *text, *kept = NULL;
	bool pending;

	status = crypt_known_get(context, subtree->name, &known);
	if (status == DOVETAIL_OK)
		status = crypt_ring_shown(context->replica, subtree->name, &text, &size, &pending);
	if (status != DOVETAIL_OK)
		return status;
	if (text != NULL) {
		status = crypt_text_get(context, "ring", subtree->name, &kept, &kept_size);
		if (status != DOVETAIL_OK) {
			free(text);
			return status;
		}
		if (kept != NULL && kept_is_newer(subtree->name, &known, kept, kept_size, text, size, pending)) {
			free(text);
			text = kept;
			size = kept_size;
		} else {
			free(kept);
			kept = NULL;
		}
	}
	status = text == NULL ? DOVETAIL_DAMAGED : ring_open(context->replica, subtree->name, text, size, secret, &ring);
	if (status == DOVETAIL_OK && crypt_ring_is_stale(&known, ring, text, size)) {
		crypt_ring_free(ring);
		status = DOVETAIL_DAMAGED;
		crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, "", subtree->name, CRYPT_ROLLED_BACK);
	} else if (status == DOVETAIL_OK) {
		status = crypt_ring_accept(context, subtree, ring, text, size, kept == NULL);
	}
	if (kept == NULL && (status == DOVETAIL_DAMAGED || status == DOVETAIL_WRONG_KEY))
		status = unlock_kept(context, subtree, secret, &known, text, size, status);
	free(text);
	return status;
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
			return replica_fail(replica, DOVETAIL_LOCKED,
					    "%s: this secret opens what was written here before another device's keys came: "
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
	return status == DOVETAIL_OK ? crypt_step(context, known) : status;
}

/* ---- Secrets ---- */

/* Changes a copy of the ring and stores it. secret: added, or NULL: the one with the label is removed. */
static enum dovetail_status
secret_change(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret)
{
	struct crypt_context *context;
	struct crypt_subtree *known;
	struct crypt_ring *copy;
	const char *error = NULL;
	enum dovetail_status status = subtree_get_open(replica, subtree, label, &context, &known);

	if (status != DOVETAIL_OK)
		return status;
	status = crypt_ring_copy(known->ring, &copy, &error);
	if (status == DOVETAIL_OK) {
		status = secret == NULL ? crypt_ring_slot_remove(copy, label, &error) :
			crypt_ring_slot_add(copy, label, secret, NULL, &error);
		if (status == DOVETAIL_OK)
			return crypt_ring_store(context, known->name, copy, &known);
		crypt_ring_free(copy);
	}
	return replica_fail(replica, status, "%s: %s", known->name, error);
}

enum dovetail_status
dovetail_secret_add(struct dovetail *replica, const char *subtree, const char *label, const struct dovetail_secret *secret)
{
	static const struct dovetail_secret none;

	return secret_change(replica, subtree, label, secret != NULL ? secret : &none);
}

enum dovetail_status dovetail_secret_remove(struct dovetail *replica, const char *subtree, const char *label)
{
	return secret_change(replica, subtree, label, NULL);
}

enum dovetail_status
dovetail_secret_each(struct dovetail *replica, const char *subtree,
		     bool (*each)(void *context, const char *label, const char *kind), void *each_context)
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
		if (!each(each_context, ring->slots[i].label,
			  ring->slots[i].kind == CRYPT_SLOT_PASSPHRASE ? "passphrase" : "key-file"))
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
	enum dovetail_status status = subtree_get_open(replica, subtree, label, &context, &known);
	size_t size;
	char *text;

	if (status == DOVETAIL_OK)
		status = crypt_text_get(context, "lost", known->name, &text, &size);
	if (status != DOVETAIL_OK)
		return status;
	free(text);
	if (text != NULL) {
		return replica_fail(replica, known->lost == NULL ? DOVETAIL_LOCKED : DOVETAIL_BUSY,
				    "%s: writes wait here with keys that came too late: %s first", known->name,
				    known->lost == NULL ? "give their secret" : "synchronize");
	}
	status = crypt_ring_copy(known->ring, &copy, &error);
	if (status == DOVETAIL_OK) {
		status = crypt_ring_rotate(copy, label, secret, NULL, &error);
		if (status == DOVETAIL_OK)
			return crypt_ring_store(context, known->name, copy, &known);
		crypt_ring_free(copy);
	}
	return replica_fail(replica, status, "%s: %s", known->name, error);
}
