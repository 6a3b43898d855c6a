/* End-to-end encryption: which ring of a subtree this device holds to. What the server shows is not taken for granted: a ring is
   accepted if it was opened and is newer than what was seen, and it is kept. Called by the other crypt-*.c. */

#include "crypt-state.h"

#include <stdlib.h>
#include <string.h>

void crypt_text_hash(const void *text, size_t size, uint8_t hash[CRYPT_HASH_SIZE])
{
	crypto_generichash(hash, CRYPT_HASH_SIZE, text, size, NULL, 0);
}

bool crypt_ring_is_confirmed(const struct crypt_known *known, const struct crypt_subtree *subtree)
{
	return known->seen && subtree->ring != NULL && memcmp(known->hash, subtree->ring_hash, CRYPT_HASH_SIZE) == 0;
}

bool crypt_ring_is_published(const struct crypt_known *known, const struct crypt_subtree *subtree)
{
	return known->seen && subtree->ring != NULL && known->epoch == subtree->ring->epoch;
}

bool crypt_ring_is_stale(const struct crypt_known *known, const struct crypt_ring *ring, const void *text, size_t size)
{
	uint8_t hash[CRYPT_HASH_SIZE];

	if (!known->seen)
		return false;
	if (memcmp(known->subtree_id, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE) != 0 || ring->epoch < known->epoch ||
	    (ring->epoch == known->epoch && ring->generation < known->generation))
		return true;
	if (ring->epoch > known->epoch || ring->generation > known->generation)
		return false;
	crypt_text_hash(text, size, hash);
	return memcmp(hash, known->hash, CRYPT_HASH_SIZE) != 0;
}

static enum dovetail_status
ring_confirm(struct crypt_context *context, const struct crypt_subtree *subtree, const struct crypt_ring *ring, const void *text,
	     size_t size)
{
	struct crypt_known known;
	enum dovetail_status status = crypt_known_get(context, subtree->name, &known);

	if (status != DOVETAIL_OK)
		return status;
	known.seen = true;
	put_octets(known.subtree_id, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	known.epoch = ring->epoch;
	known.generation = ring->generation;
	crypt_text_hash(text, size, known.hash);
	return crypt_known_set(context, subtree->name, &known);
}

enum dovetail_status crypt_ring_note(struct crypt_context *context, const struct crypt_subtree *subtree)
{
	struct crypt_known known;
	enum dovetail_status status = crypt_known_get(context, subtree->name, &known);
	char *own, *more;
	size_t size = 0;

	if (status != DOVETAIL_OK || subtree->ring == NULL || crypt_ring_is_confirmed(&known, subtree))
		return status;
	status = crypt_text_get(context, "own", subtree->name, &own, &size);
	if (status != DOVETAIL_OK)
		return status;
	if (own == NULL)
		size = 0;
	more = realloc(own, size + CRYPT_HASH_SIZE);
	if (more == NULL) {
		free(own);
		return replica_fail(context->replica, DOVETAIL_SYSTEM, "out of memory");
	}
	memcpy(more + size, subtree->ring_hash, CRYPT_HASH_SIZE);
	status = crypt_text_set(context, "own", subtree->name, more, size + CRYPT_HASH_SIZE);
	free(more);
	return status;
}

static bool own_find(struct crypt_context *context, const struct crypt_subtree *subtree, const uint8_t *hash)
{
	bool found = false;
	size_t i, size;
	char *own;

	if (crypt_text_get(context, "own", subtree->name, &own, &size) != DOVETAIL_OK || own == NULL)
		return false;
	for (i = 0; i + CRYPT_HASH_SIZE <= size && !found; i += CRYPT_HASH_SIZE)
		found = memcmp(own + i, hash, CRYPT_HASH_SIZE) == 0;
	free(own);
	return found;
}

enum dovetail_status
crypt_ring_accept(struct crypt_context *context, struct crypt_subtree *subtree, struct crypt_ring *ring, const void *text,
		  size_t size, bool confirmed)
{
	enum dovetail_status status = DOVETAIL_OK;

	if (!replica_is_readonly(context->replica)) {
		/* in this order: a crash in between leaves one that has still to be confirmed */
		status = crypt_text_set(context, "ring", subtree->name, text, size);
		if (status == DOVETAIL_OK && confirmed)
			status = ring_confirm(context, subtree, ring, text, size);
		if (status == DOVETAIL_OK && confirmed)
			status = crypt_text_set(context, "own", subtree->name, NULL, 0);
	}
	if (status != DOVETAIL_OK) {
		crypt_ring_free(ring);
		return status;
	}
	crypt_ring_free(subtree->ring);
	subtree->ring = ring;
	crypt_text_hash(text, size, subtree->ring_hash);
	subtree->look = true;
	return DOVETAIL_OK;
}

enum dovetail_status crypt_ring_refresh(struct crypt_context *context, struct crypt_subtree *subtree)
{
	uint8_t hash[CRYPT_HASH_SIZE];
	struct crypt_ring *ring;
	enum dovetail_status status;
	const char *error;
	size_t size;
	char *text;

	status = crypt_text_get(context, "ring", subtree->name, &text, &size);
	if (status != DOVETAIL_OK || text == NULL)
		return status;
	crypt_text_hash(text, size, hash);
	if (subtree->ring == NULL || memcmp(hash, subtree->ring_hash, CRYPT_HASH_SIZE) != 0) {
		status = crypt_ring_parse(subtree->name, text, size, NULL, &ring, &error);
		if (status != DOVETAIL_OK) {
			status = replica_fail(context->replica, status == DOVETAIL_SYSTEM ? status : DOVETAIL_REPLICA,
					      "the keys of %s that the replica has kept: %s", subtree->name, error);
		} else {
			/* if it has another epoch, it stays locked */
			if (subtree->ring != NULL && subtree->ring->secrets != NULL)
				(void)crypt_ring_follow(ring, subtree->ring, &error);
			crypt_ring_free(subtree->ring);
			subtree->ring = ring;
			memcpy(subtree->ring_hash, hash, CRYPT_HASH_SIZE);
			subtree->look = true;
		}
	}
	free(text);
	return status;
}

/* ---- Rings that arrive ---- */

static void ring_lock(struct crypt_ring *ring)
{
	/* wipes it */
	sodium_free(ring->secrets);
	ring->secrets = NULL;
}

/* Our own new ring never was the server's, since another device was first: it is good for what waits here only. */
static enum dovetail_status ring_lose(struct crypt_context *context, struct crypt_subtree *subtree, const struct crypt_known *known)
{
	enum dovetail_status status;
	size_t size;
	char *text;

	status = crypt_text_get(context, "ring", subtree->name, &text, &size);
	if (status == DOVETAIL_OK && text != NULL)
		status = crypt_text_set(context, "lost", subtree->name, text, size);
	free(text);
	if (status == DOVETAIL_OK)
		status = crypt_text_set(context, "ring", subtree->name, NULL, 0);
	if (status == DOVETAIL_OK)
		status = crypt_text_set(context, "own", subtree->name, NULL, 0);
	if (status != DOVETAIL_OK)
		return status;
	crypt_ring_free(subtree->lost);
	subtree->lost = subtree->ring;
	subtree->ring = NULL;
	crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", subtree->name, known->seen ?
		   "another device has changed the key of this subtree at the same time: give a secret that opens it" :
		   "another device has begun to encrypt this subtree at the same time: give its secret");
	return DOVETAIL_OK;
}

/* Made with the ring key that we have? Then it is the accepted one, if it is not older; *taken_r: nothing is left to be decided
   on. */
static enum dovetail_status
ring_follow(struct crypt_context *context, struct crypt_subtree *subtree, const struct crypt_known *known, struct crypt_ring *ring,
	    const void *data, size_t size, bool *taken_r)
{
	enum dovetail_status status = DOVETAIL_OK;
	uint8_t hash[CRYPT_HASH_SIZE];
	const char *error = NULL;

	if (crypt_ring_follow(ring, subtree->ring, &error) != DOVETAIL_OK) {
		*taken_r = crypt_ring_is_published(known, subtree);
		if (*taken_r)
			crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", subtree->name, error);
	} else if (crypt_ring_is_stale(known, ring, data, size)) {
		*taken_r = true;
		crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, "", subtree->name, CRYPT_ROLLED_BACK);
	} else {
		*taken_r = true;
		crypt_text_hash(data, size, hash);
		if (!own_find(context, subtree, hash))
			return crypt_ring_accept(context, subtree, ring, data, size, true);
		/* our own, and a later one of ours follows it */
		status = ring_confirm(context, subtree, ring, data, size);
	}
	if (*taken_r)
		crypt_ring_free(ring);
	return status;
}

/* Takes a ring over if what is known allows it; else says why, and keeps the one that was accepted. */
static enum dovetail_status
ring_judge(struct crypt_context *context, struct crypt_subtree *subtree, const struct crypt_known *known, struct crypt_ring *ring,
	   const void *data, size_t size)
{
	enum dovetail_status status = DOVETAIL_OK;
	uint8_t hash[CRYPT_HASH_SIZE];
	bool taken = false;

	crypt_text_hash(data, size, hash);
	if ((known->seen && memcmp(known->hash, hash, CRYPT_HASH_SIZE) == 0) ||
	    (subtree->ring != NULL && memcmp(subtree->ring_hash, hash, CRYPT_HASH_SIZE) == 0) ||
	    (subtree->ring != NULL && subtree->ring->epoch > ring->epoch && own_find(context, subtree, hash))) {
		/* nothing new; our own later one follows */
		;
	} else if (known->seen && (memcmp(known->subtree_id, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE) != 0 ||
				   ring->epoch < known->epoch)) {
		crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, "", subtree->name, CRYPT_ROLLED_BACK);
	} else if (subtree->ring != NULL) {
		if (subtree->ring->secrets != NULL && ring->epoch == subtree->ring->epoch)
			status = ring_follow(context, subtree, known, ring, data, size, &taken);
		if (taken)
			return status;
		if (!crypt_ring_is_published(known, subtree)) {
			status = ring_lose(context, subtree, known);
		} else if (subtree->ring->secrets != NULL) {
			crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", subtree->name,
				   "the key of the encrypted subtree was changed by another device: give a secret that opens it");
			ring_lock(subtree->ring);
		}
	}
	/* without a key here it is judged when it is unlocked */
	crypt_ring_free(ring);
	return status;
}

enum dovetail_status crypt_ring_arrive(struct crypt_context *context, const char *name, const void *data, size_t size)
{
	struct crypt_subtree *subtree;
	struct crypt_known known;
	struct crypt_ring *ring;
	enum dovetail_status status;
	const char *error = NULL;

	status = crypt_subtree_add(context, name, &subtree);
	if (status == DOVETAIL_OK)
		status = crypt_ring_refresh(context, subtree);
	if (status == DOVETAIL_OK)
		status = crypt_known_get(context, subtree->name, &known);
	if (status != DOVETAIL_OK)
		return status;
	subtree->look = true;
	if (strcmp(subtree->name, name) != 0) {
		crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", name, "there are keys inside of another encrypted subtree");
		return DOVETAIL_OK;
	}
	status = crypt_ring_parse(name, data, size, NULL, &ring, &error);
	if (status == DOVETAIL_SYSTEM)
		return replica_fail(context->replica, status, "%s", error);
	if (status != DOVETAIL_OK) {
		crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", name, error);
		return DOVETAIL_OK;
	}
	return ring_judge(context, subtree, &known, ring, data, size);
}
