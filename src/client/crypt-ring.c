/* End-to-end encryption: the ring of a subtree, i.e. its keys and the slots that open it (docs/encryption.md, "The ring").
   Called by crypt-replica.c and tests; a ring is its caller's. */

#include "crypt-private.h"

#include <stdlib.h>
#include <string.h>

#define HEAD_SIZE (CRYPT_SUBTREE_ID_SIZE + 1 + 4 + 1)
#define BODY_SIZE(keys) (8 + CRYPT_KEY_SIZE + 1 + 1 + (keys) * sizeof(struct crypt_key))
#define CHECKSUM_SIZE 16
#define TAG_SIZE crypto_aead_xchacha20poly1305_ietf_ABYTES
/* far more than the largest ring */
#define RING_TEXT_MAX (64 * 1024)

enum { FLAG_HIDE_NAMES = 1, FLAG_CONVERTING = 2 };

static const char out_of_memory[] = "out of memory";

void crypt_ring_changed(struct crypt_ring *ring)
{
	/* several changes before it is written are one */
	if (ring->body != NULL || ring->generation == 0)
		ring->generation++;
	free(ring->body);
	ring->body = NULL;
	ring->body_size = 0;
}

static void key_new(struct crypt_key *key, const struct crypt_env *env)
{
	env->random(env->context, key->id, sizeof(key->id));
	env->random(env->context, key->key, sizeof(key->key));
}

enum dovetail_status
crypt_ring_new(const char *subtree, bool hide_names, const struct crypt_env *env, struct crypt_ring **ring_r, const char **error_r)
{
	struct crypt_ring *ring;

	*ring_r = NULL;
	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	ring = calloc(1, sizeof(*ring));
	if (ring == NULL || (ring->subtree = strdup(subtree)) == NULL ||
	    (ring->secrets = sodium_malloc(sizeof(*ring->secrets))) == NULL) {
		crypt_ring_free(ring);
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	}
	memset(ring->secrets, 0, sizeof(*ring->secrets));
	ring->hide_names = hide_names;
	ring->epoch = 1;
	env->random(env->context, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	env->random(env->context, ring->secrets->ring_key, CRYPT_KEY_SIZE);
	env->random(env->context, ring->secrets->names_key, CRYPT_KEY_SIZE);
	key_new(&ring->secrets->keys[0], env);
	ring->secrets->count = ring->secrets->readable = 1;
	crypt_ring_changed(ring);
	*ring_r = ring;
	return DOVETAIL_OK;
}

void crypt_ring_free(struct crypt_ring *ring)
{
	if (ring == NULL)
		return;
	/* wipes it */
	sodium_free(ring->secrets);
	free(ring->body);
	free(ring->subtree);
	free(ring);
}

enum dovetail_status crypt_ring_copy(const struct crypt_ring *ring, struct crypt_ring **copy_r, const char **error_r)
{
	struct crypt_ring *copy = malloc(sizeof(*copy));

	*copy_r = NULL;
	if (copy == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	*copy = *ring;
	copy->subtree = strdup(ring->subtree);
	copy->body = NULL;
	copy->secrets = NULL;
	if (copy->subtree == NULL ||
	    (ring->body != NULL && (copy->body = malloc(ring->body_size)) == NULL) ||
	    (ring->secrets != NULL && (copy->secrets = sodium_malloc(sizeof(*copy->secrets))) == NULL)) {
		crypt_ring_free(copy);
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	}
	if (ring->body != NULL)
		memcpy(copy->body, ring->body, ring->body_size);
	if (ring->secrets != NULL)
		*copy->secrets = *ring->secrets;
	*copy_r = copy;
	return DOVETAIL_OK;
}

/* ---- The public part: head and slots ---- */

static size_t public_size(const struct crypt_ring *ring)
{
	size_t i, size = HEAD_SIZE;

	for (i = 0; i < ring->slot_count; i++)
		size += CRYPT_SLOT_SIZE(strlen(ring->slots[i].label));
	return size;
}

static uint8_t *public_put(uint8_t *p, const struct crypt_ring *ring)
{
	unsigned int i;

	p = put_octets(p, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	p = put_number(p, (ring->hide_names ? FLAG_HIDE_NAMES : 0) | (ring->converting ? FLAG_CONVERTING : 0), 1);
	p = put_number(p, ring->epoch, 4);
	p = put_number(p, ring->slot_count, 1);
	for (i = 0; i < ring->slot_count; i++)
		p = crypt_slot_put(p, &ring->slots[i]);
	return p;
}

/* What the body is bound to; malloc()ed. */
static uint8_t *body_bound(const struct crypt_ring *ring, size_t *size_r)
{
	static const char purpose[] = "dovetail ring 1";
	const size_t subtree_size = strlen(ring->subtree);
	uint8_t *bound = malloc(sizeof(purpose) + 2 + subtree_size + public_size(ring)), *p;

	if (bound == NULL)
		return NULL;
	p = put_octets(bound, purpose, strlen(purpose));
	p = put_number(p, subtree_size, 2);
	p = put_octets(p, ring->subtree, subtree_size);
	p = public_put(p, ring);
	*size_r = p - bound;
	return bound;
}

static const char *public_get(struct crypt_ring *ring, const uint8_t *data, size_t size, const struct crypt_env *env)
{
	static const char damaged[] = "the ring of keys is damaged";
	const uint8_t *p = data, *end = data + size;
	const char *text;
	unsigned int i, flags;

	put_octets(ring->subtree_id, p, CRYPT_SUBTREE_ID_SIZE);
	p += CRYPT_SUBTREE_ID_SIZE;
	flags = *p++;
	ring->hide_names = (flags & FLAG_HIDE_NAMES) != 0;
	ring->converting = (flags & FLAG_CONVERTING) != 0;
	ring->epoch = get_number(p, 4);
	ring->slot_count = p[4];
	p += 5;
	if ((flags & ~(FLAG_HIDE_NAMES | FLAG_CONVERTING)) != 0 || ring->epoch == 0 ||
	    ring->slot_count == 0 || ring->slot_count > CRYPT_SLOTS_MAX)
		return damaged;
	for (i = 0; i < ring->slot_count; i++) {
		p = crypt_slot_get(p, end, &ring->slots[i]);
		if (p == NULL)
			return damaged;
		text = crypt_slot_refused(&ring->slots[i], env);
		if (text != NULL)
			return text;
	}
	ring->body_size = end - p;
	if (ring->body_size < CRYPT_NONCE_SIZE + BODY_SIZE(1) + TAG_SIZE ||
	    ring->body_size > CRYPT_NONCE_SIZE + BODY_SIZE(CRYPT_KEYS_MAX) + TAG_SIZE)
		return damaged;
	ring->body = malloc(ring->body_size);
	if (ring->body == NULL)
		return out_of_memory;
	memcpy(ring->body, p, ring->body_size);
	return NULL;
}

enum dovetail_status
crypt_ring_parse(const char *subtree, const void *data, size_t size, const struct crypt_env *env, struct crypt_ring **ring_r,
		 const char **error_r)
{
	uint8_t *octets, checksum[CHECKSUM_SIZE];
	size_t octets_size;
	struct crypt_ring *ring;
	bool memory;

	*ring_r = NULL;
	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	octets = size > RING_TEXT_MAX ? NULL : crypt_text_decode(CRYPT_PREFIX_RING, data, size, &octets_size, &memory);
	if (octets == NULL && size <= RING_TEXT_MAX && memory)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	if (octets == NULL)
		return crypt_fail(error_r, DOVETAIL_DAMAGED,
				  "there is no ring of keys where one has to be, or it is from a newer version");
	if (octets_size < HEAD_SIZE + CHECKSUM_SIZE) {
		free(octets);
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "the ring of keys is cut off");
	}
	octets_size -= CHECKSUM_SIZE;
	crypto_generichash(checksum, CHECKSUM_SIZE, octets, octets_size, NULL, 0);
	if (sodium_memcmp(checksum, octets + octets_size, CHECKSUM_SIZE) != 0) {
		free(octets);
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "the ring of keys is damaged: its checksum is wrong");
	}
	ring = calloc(1, sizeof(*ring));
	if (ring == NULL || (ring->subtree = strdup(subtree)) == NULL)
		*error_r = out_of_memory;
	else
		*error_r = public_get(ring, octets, octets_size, env);
	free(octets);
	if (*error_r != NULL) {
		crypt_ring_free(ring);
		return *error_r == out_of_memory ? DOVETAIL_SYSTEM : DOVETAIL_DAMAGED;
	}
	*ring_r = ring;
	return DOVETAIL_OK;
}

/* ---- The body ---- */

enum dovetail_status
crypt_ring_write(struct crypt_ring *ring, const struct crypt_env *env, void **data_r, size_t *size_r, const char **error_r)
{
	const struct crypt_secrets *secrets = ring->secrets;
	uint8_t *plain = NULL, *bound = NULL, *body = NULL, *octets = NULL, *p;
	size_t plain_size, bound_size, size;
	enum dovetail_status status = DOVETAIL_SYSTEM;
	unsigned int i;

	*data_r = NULL;
	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	if (secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	if (ring->slot_count == 0)
		return crypt_fail(error_r, DOVETAIL_INVALID, "a subtree needs a secret");
	*error_r = out_of_memory;
	plain_size = BODY_SIZE(secrets->count);
	if (ring->body == NULL) {
		plain = sodium_malloc(plain_size);
		bound = body_bound(ring, &bound_size);
		body = malloc(CRYPT_NONCE_SIZE + plain_size + TAG_SIZE);
		if (plain == NULL || bound == NULL || body == NULL)
			goto end;
		p = put_number(plain, ring->generation, 8);
		p = put_octets(p, secrets->names_key, CRYPT_KEY_SIZE);
		p = put_number(p, secrets->readable, 1);
		p = put_number(p, secrets->count, 1);
		for (i = 0; i < secrets->count; i++) {
			p = put_octets(p, secrets->keys[i].id, CRYPT_KEY_ID_SIZE);
			p = put_octets(p, secrets->keys[i].key, CRYPT_KEY_SIZE);
		}
		env->random(env->context, body, CRYPT_NONCE_SIZE);
		crypto_aead_xchacha20poly1305_ietf_encrypt(body + CRYPT_NONCE_SIZE, NULL, plain, plain_size, bound, bound_size,
							   NULL, body, secrets->ring_key);
		ring->body = body;
		ring->body_size = CRYPT_NONCE_SIZE + plain_size + TAG_SIZE;
		body = NULL;
	}
	size = public_size(ring) + ring->body_size;
	octets = malloc(size + CHECKSUM_SIZE);
	if (octets == NULL)
		goto end;
	put_octets(public_put(octets, ring), ring->body, ring->body_size);
	crypto_generichash(octets + size, CHECKSUM_SIZE, octets, size, NULL, 0);
	*data_r = crypt_text_encode(CRYPT_PREFIX_RING, octets, size + CHECKSUM_SIZE, size_r);
	if (*data_r != NULL)
		status = DOVETAIL_OK;
end:
	sodium_free(plain);
	free(bound);
	free(body);
	free(octets);
	return status;
}

static bool body_get(struct crypt_ring *ring, struct crypt_secrets *secrets, const uint8_t *plain, size_t size)
{
	const uint8_t *p = plain;
	unsigned int i;

	if (size < BODY_SIZE(1))
		return false;
	ring->generation = get_number(p, 8);
	put_octets(secrets->names_key, p + 8, CRYPT_KEY_SIZE);
	p += 8 + CRYPT_KEY_SIZE;
	secrets->readable = p[0];
	secrets->count = p[1];
	p += 2;
	if (secrets->count == 0 || secrets->count > CRYPT_KEYS_MAX || secrets->readable == 0 ||
	    secrets->readable > secrets->count || size != BODY_SIZE(secrets->count) || ring->generation == 0)
		return false;
	for (i = 0; i < secrets->count; i++) {
		put_octets(secrets->keys[i].id, p, CRYPT_KEY_ID_SIZE);
		put_octets(secrets->keys[i].key, p + CRYPT_KEY_ID_SIZE, CRYPT_KEY_SIZE);
		p += sizeof(struct crypt_key);
	}
	return true;
}

static enum dovetail_status body_open(struct crypt_ring *ring, struct crypt_secrets *secrets, const char **error_r)
{
	const size_t plain_size = ring->body_size - CRYPT_NONCE_SIZE - TAG_SIZE;
	uint8_t *body = ring->body, *plain = sodium_malloc(plain_size), *bound;
	enum dovetail_status status = DOVETAIL_OK;
	size_t bound_size;

	bound = body_bound(ring, &bound_size);
	if (plain == NULL || bound == NULL)
		status = crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	else if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, body + CRYPT_NONCE_SIZE, plain_size + TAG_SIZE,
							    bound, bound_size, body, secrets->ring_key) < 0 ||
		 !body_get(ring, secrets, plain, plain_size))
		status = crypt_fail(error_r, DOVETAIL_DAMAGED, "the ring of keys was changed by somebody without a key");
	sodium_free(plain);
	free(bound);
	return status;
}

enum dovetail_status
crypt_ring_unlock(struct crypt_ring *ring, const struct dovetail_secret *secret, const struct crypt_env *env, const char **error_r)
{
	struct crypt_secrets *secrets = NULL;
	struct crypt_slot_work *work = NULL;
	enum dovetail_status status;
	uint8_t *octets;
	unsigned int i;

	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	status = crypt_secret_load(secret, &octets, error_r);
	if (status != DOVETAIL_OK)
		return status;
	secrets = sodium_malloc(sizeof(*secrets));
	work = sodium_malloc(sizeof(*work));
	if (secrets == NULL || work == NULL)
		status = crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	else
		status = crypt_fail(error_r, DOVETAIL_NOT_FOUND, "no key of the subtree is for this secret");
	for (i = 0; i < ring->slot_count && status == DOVETAIL_NOT_FOUND; i++) {
		if ((ring->slots[i].kind == CRYPT_SLOT_KEY_FILE) == (octets != NULL))
			status = crypt_slot_open(ring, &ring->slots[i], secret, octets, work, secrets, error_r);
	}
	if (status == DOVETAIL_OK)
		status = body_open(ring, secrets, error_r);
	else if (status == DOVETAIL_NOT_FOUND)
		status = DOVETAIL_WRONG_KEY;
	if (status == DOVETAIL_OK) {
		sodium_free(ring->secrets);
		ring->secrets = secrets;
		secrets = NULL;
	}
	sodium_free(secrets);
	sodium_free(work);
	sodium_free(octets);
	return status;
}

enum dovetail_status crypt_ring_follow(struct crypt_ring *ring, const struct crypt_ring *known, const char **error_r)
{
	struct crypt_secrets *secrets;
	enum dovetail_status status;

	if (known->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	secrets = sodium_malloc(sizeof(*secrets));
	if (secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	put_octets(secrets->ring_key, known->secrets->ring_key, CRYPT_KEY_SIZE);
	status = body_open(ring, secrets, error_r);
	if (status == DOVETAIL_OK) {
		sodium_free(ring->secrets);
		ring->secrets = secrets;
	} else {
		sodium_free(secrets);
	}
	return status;
}

enum dovetail_status
crypt_ring_rotate(struct crypt_ring *ring, const char *label, const struct dovetail_secret *secret, const struct crypt_env *env,
		  const char **error_r)
{
	struct crypt_ring *copy, old;
	struct crypt_secrets *secrets;
	enum dovetail_status status;

	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	if (ring->epoch == UINT32_MAX || ring->secrets->readable == CRYPT_KEYS_MAX)
		return crypt_fail(error_r, DOVETAIL_LIMIT, "too many rotations that have not been finished");
	status = crypt_ring_copy(ring, &copy, error_r);
	if (status != DOVETAIL_OK)
		return status;
	secrets = copy->secrets;
	copy->epoch++;
	copy->slot_count = 0;
	env->random(env->context, secrets->ring_key, CRYPT_KEY_SIZE);
	if (secrets->count == CRYPT_KEYS_MAX)
		secrets->count--;
	memmove(&secrets->keys[1], &secrets->keys[0], secrets->count * sizeof(secrets->keys[0]));
	key_new(&secrets->keys[0], env);
	secrets->count++;
	secrets->readable++;
	status = crypt_ring_slot_add(copy, label, secret, env, error_r);
	if (status == DOVETAIL_OK) {
		old = *ring;
		*ring = *copy;
		*copy = old;
	}
	crypt_ring_free(copy);
	return status;
}

enum dovetail_status crypt_ring_settle(struct crypt_ring *ring, const char **error_r)
{
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	if (crypt_ring_settled(ring))
		return DOVETAIL_OK;
	ring->converting = false;
	ring->secrets->readable = 1;
	crypt_ring_changed(ring);
	return DOVETAIL_OK;
}

bool crypt_ring_settled(const struct crypt_ring *ring)
{
	return !ring->converting && (ring->secrets == NULL || ring->secrets->readable == 1);
}
