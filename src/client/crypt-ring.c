/* End-to-end encryption: the ring of a subtree, i.e. its keys and the slots that open it (docs/encryption.md, "The ring"). Called by
   crypt-replica.c and tests; a ring is its caller's. */

#include "crypt-private.h"

#include <stdlib.h>
#include <string.h>

#define HEAD_SIZE (CRYPT_SUBTREE_ID_SIZE + 1 + 4 + 1)
#define SLOT_SIZE(label_size) (1 + 1 + (label_size) + 4 + 4 + CRYPT_SALT_SIZE + CRYPT_CHECK_SIZE + CRYPT_NONCE_SIZE + CRYPT_WRAPPED_SIZE)
#define BODY_SIZE(keys) (8 + CRYPT_KEY_SIZE + 1 + 1 + (keys) * sizeof(struct crypt_key))
#define CHECKSUM_SIZE 16
#define TAG_SIZE crypto_aead_xchacha20poly1305_ietf_ABYTES
/* far more than the largest ring */
#define RING_TEXT_MAX (64 * 1024)

enum { FLAG_HIDE_NAMES = 1, FLAG_CONVERTING = 2 };

static const char out_of_memory[] = "out of memory";

static void ring_changed(struct crypt_ring *ring)
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
	ring_changed(ring);
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

/* up to and including check: what its wrapped key is bound to */
static uint8_t *slot_put_begin(uint8_t *p, const struct crypt_slot *slot)
{
	const size_t label_size = strlen(slot->label);

	p = put_number(p, slot->kind, 1);
	p = put_number(p, label_size, 1);
	p = put_octets(p, slot->label, label_size);
	p = put_number(p, slot->passes, 4);
	p = put_number(p, slot->kib, 4);
	p = put_octets(p, slot->salt, CRYPT_SALT_SIZE);
	return put_octets(p, slot->check, CRYPT_CHECK_SIZE);
}

static size_t public_size(const struct crypt_ring *ring)
{
	size_t i, size = HEAD_SIZE;

	for (i = 0; i < ring->slot_count; i++)
		size += SLOT_SIZE(strlen(ring->slots[i].label));
	return size;
}

static uint8_t *public_put(uint8_t *p, const struct crypt_ring *ring)
{
	unsigned int i;

	p = put_octets(p, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	p = put_number(p, (ring->hide_names ? FLAG_HIDE_NAMES : 0) | (ring->converting ? FLAG_CONVERTING : 0), 1);
	p = put_number(p, ring->epoch, 4);
	p = put_number(p, ring->slot_count, 1);
	for (i = 0; i < ring->slot_count; i++) {
		p = slot_put_begin(p, &ring->slots[i]);
		p = put_octets(p, ring->slots[i].nonce, CRYPT_NONCE_SIZE);
		p = put_octets(p, ring->slots[i].wrapped, CRYPT_WRAPPED_SIZE);
	}
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

static bool label_is_valid(const char *label)
{
	const unsigned char *p = (const unsigned char *)label;
	unsigned int more;

	if (*p == '\0' || strlen(label) > CRYPT_LABEL_MAX)
		return false;
	while (*p != '\0') {
		if (*p < 0x20 || *p == 0x7f)
			return false;
		more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : *p >= 0xf0 && *p < 0xf5 ? 3 : 4;
		/* no overlong forms, surrogates, C1 controls, nor what is beyond Unicode */
		if (more == 4 || (*p == 0xc2 && p[1] < 0xa0) || (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
		    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
			return false;
		for (p++; more > 0; more--) {
			if ((*p++ & 0xc0) != 0x80)
				return false;
		}
	}
	return true;
}

/* NULL: it ends before the slot does, or is none */
static const uint8_t *slot_get(const uint8_t *p, const uint8_t *end, struct crypt_slot *slot)
{
	size_t label_size;

	if (end - p < 2)
		return NULL;
	slot->kind = p[0];
	label_size = p[1];
	if (label_size > CRYPT_LABEL_MAX || (size_t)(end - p) < SLOT_SIZE(label_size))
		return NULL;
	p += 2;
	put_octets((uint8_t *)slot->label, p, label_size);
	slot->label[label_size] = '\0';
	if (strlen(slot->label) != label_size || !label_is_valid(slot->label))
		return NULL;
	p += label_size;
	slot->passes = get_number(p, 4);
	slot->kib = get_number(p + 4, 4);
	p += 8;
	put_octets(slot->salt, p, CRYPT_SALT_SIZE);
	p += CRYPT_SALT_SIZE;
	put_octets(slot->check, p, CRYPT_CHECK_SIZE);
	p += CRYPT_CHECK_SIZE;
	put_octets(slot->nonce, p, CRYPT_NONCE_SIZE);
	p += CRYPT_NONCE_SIZE;
	put_octets(slot->wrapped, p, CRYPT_WRAPPED_SIZE);
	return p + CRYPT_WRAPPED_SIZE;
}

/* Before any key is derived: a server must not choose how hard a passphrase is to guess, nor how long a device works. */
static const char *slot_refused(const struct crypt_slot *slot, const struct crypt_env *env)
{
	if (slot->kind == CRYPT_SLOT_KEY_FILE)
		return slot->passes == 0 && slot->kib == 0 ? NULL : "the ring of keys is damaged";
	if (slot->kind != CRYPT_SLOT_PASSPHRASE)
		return "the ring of keys has a kind of secret that this version does not know";
	if (slot->passes < env->passes_min || slot->kib < env->kib_min)
		return "the ring of keys asks for a key derivation that is weaker than this client allows";
	if (slot->passes > env->passes_max || slot->kib > env->kib_max)
		return "the ring of keys asks for a key derivation that is larger than this client allows";
	return NULL;
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
		p = slot_get(p, end, &ring->slots[i]);
		if (p == NULL)
			return damaged;
		text = slot_refused(&ring->slots[i], env);
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
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "there is no ring of keys where one has to be, or it is from a newer version");
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

/* ---- Slots ---- */

/* What a slot's wrapped key is bound to; returns its size. */
static size_t slot_bound(const struct crypt_ring *ring, const struct crypt_slot *slot, uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + SLOT_SIZE(CRYPT_LABEL_MAX)])
{
	static const char purpose[] = "dovetail slot 1";
	uint8_t *p = put_octets(bound, purpose, strlen(purpose));

	p = put_octets(p, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	return slot_put_begin(p, slot) - bound;
}

/* work: kek, wrapping key, then the ring key with its epoch; in sodium_malloc() memory */
struct slot_work {
	uint8_t kek[CRYPT_KEY_SIZE], key[CRYPT_KEY_SIZE], wrapped[CRYPT_KEY_SIZE + 4];
};

static void slot_wrap(const struct crypt_ring *ring, struct crypt_slot *slot, struct slot_work *work)
{
	uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + SLOT_SIZE(CRYPT_LABEL_MAX)];
	size_t bound_size;

	crypt_derive(work->kek, "dovetail check 1", NULL, 0, slot->check, CRYPT_CHECK_SIZE);
	crypt_derive(work->kek, "dovetail wrap 1", NULL, 0, work->key, CRYPT_KEY_SIZE);
	put_number(put_octets(work->wrapped, ring->secrets->ring_key, CRYPT_KEY_SIZE), ring->epoch, 4);
	bound_size = slot_bound(ring, slot, bound);
	crypto_aead_xchacha20poly1305_ietf_encrypt(slot->wrapped, NULL, work->wrapped, sizeof(work->wrapped), bound, bound_size,
						   NULL, slot->nonce, work->key);
}

enum dovetail_status
crypt_ring_slot_add(struct crypt_ring *ring, const char *label, const struct dovetail_secret *secret, const struct crypt_env *env,
		    const char **error_r)
{
	struct crypt_slot slot = { .kind = CRYPT_SLOT_PASSPHRASE };
	enum dovetail_status status;
	struct slot_work *work;
	uint8_t *octets;
	unsigned int i;

	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	if (!label_is_valid(label))
		return crypt_fail(error_r, DOVETAIL_INVALID, "a label has 1 to 64 octets of UTF-8, no control characters");
	for (i = 0; i < ring->slot_count; i++) {
		if (strcmp(ring->slots[i].label, label) == 0)
			return crypt_fail(error_r, DOVETAIL_INVALID, "there is a secret of this label already");
	}
	if (ring->slot_count == CRYPT_SLOTS_MAX)
		return crypt_fail(error_r, DOVETAIL_LIMIT, "a subtree has at most 16 secrets");
	status = crypt_secret_load(secret, &octets, error_r);
	if (status != DOVETAIL_OK)
		return status;
	strcpy(slot.label, label);
	if (octets != NULL) {
		slot.kind = CRYPT_SLOT_KEY_FILE;
	} else {
		slot.passes = env->passes;
		slot.kib = env->kib;
	}
	env->random(env->context, slot.salt, CRYPT_SALT_SIZE);
	env->random(env->context, slot.nonce, CRYPT_NONCE_SIZE);
	work = sodium_malloc(sizeof(*work));
	status = work == NULL ? crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory) :
		crypt_kek_derive(secret, octets, &slot, work->kek, error_r);
	if (status == DOVETAIL_OK) {
		slot_wrap(ring, &slot, work);
		ring->slots[ring->slot_count++] = slot;
		ring_changed(ring);
	}
	sodium_free(work);
	sodium_free(octets);
	return status;
}

enum dovetail_status crypt_ring_slot_remove(struct crypt_ring *ring, const char *label, const char **error_r)
{
	unsigned int i;

	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	for (i = 0; i < ring->slot_count && strcmp(ring->slots[i].label, label) != 0; i++) ;
	if (i == ring->slot_count)
		return crypt_fail(error_r, DOVETAIL_NOT_FOUND, "there is no secret of this label");
	if (ring->slot_count == 1)
		return crypt_fail(error_r, DOVETAIL_INVALID, "the last secret of a subtree cannot be removed");
	ring->slot_count--;
	memmove(&ring->slots[i], &ring->slots[i + 1], (ring->slot_count - i) * sizeof(ring->slots[0]));
	ring_changed(ring);
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
		crypto_aead_xchacha20poly1305_ietf_encrypt(body + CRYPT_NONCE_SIZE, NULL, plain, plain_size, bound, bound_size, NULL,
							   body, secrets->ring_key);
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
	if (secrets->count == 0 || secrets->count > CRYPT_KEYS_MAX || secrets->readable == 0 || secrets->readable > secrets->count ||
	    size != BODY_SIZE(secrets->count) || ring->generation == 0)
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
	else if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, body + CRYPT_NONCE_SIZE, plain_size + TAG_SIZE, bound,
							    bound_size, body, secrets->ring_key) < 0 ||
		 !body_get(ring, secrets, plain, plain_size))
		status = crypt_fail(error_r, DOVETAIL_DAMAGED, "the ring of keys was changed by somebody without a key");
	sodium_free(plain);
	free(bound);
	return status;
}

/* NOT_FOUND: it is not this slot's. */
static enum dovetail_status
slot_open(const struct crypt_ring *ring, const struct crypt_slot *slot, const struct dovetail_secret *secret, const uint8_t *octets,
	  struct slot_work *work, struct crypt_secrets *secrets, const char **error_r)
{
	uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + SLOT_SIZE(CRYPT_LABEL_MAX)], check[CRYPT_CHECK_SIZE];
	enum dovetail_status status = crypt_kek_derive(secret, octets, slot, work->kek, error_r);

	if (status != DOVETAIL_OK)
		return status;
	crypt_derive(work->kek, "dovetail check 1", NULL, 0, check, CRYPT_CHECK_SIZE);
	if (sodium_memcmp(check, slot->check, CRYPT_CHECK_SIZE) != 0)
		return DOVETAIL_NOT_FOUND;
	crypt_derive(work->kek, "dovetail wrap 1", NULL, 0, work->key, CRYPT_KEY_SIZE);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(work->wrapped, NULL, NULL, slot->wrapped, CRYPT_WRAPPED_SIZE, bound,
						       slot_bound(ring, slot, bound), slot->nonce, work->key) < 0)
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "the secret's slot in the ring of keys was changed");
	if (get_number(work->wrapped + CRYPT_KEY_SIZE, 4) != ring->epoch)
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "the ring of keys and its slots are of different times");
	put_octets(secrets->ring_key, work->wrapped, CRYPT_KEY_SIZE);
	return DOVETAIL_OK;
}

enum dovetail_status
crypt_ring_unlock(struct crypt_ring *ring, const struct dovetail_secret *secret, const struct crypt_env *env, const char **error_r)
{
	struct crypt_secrets *secrets = NULL;
	struct slot_work *work = NULL;
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
			status = slot_open(ring, &ring->slots[i], secret, octets, work, secrets, error_r);
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
	ring_changed(ring);
	return DOVETAIL_OK;
}

bool crypt_ring_settled(const struct crypt_ring *ring)
{
	return !ring->converting && (ring->secrets == NULL || ring->secrets->readable == 1);
}

int crypt_ring_compare(const struct crypt_ring *a, const struct crypt_ring *b)
{
	if (a->epoch != b->epoch)
		return a->epoch < b->epoch ? -1 : 1;
	return a->generation == b->generation ? 0 : a->generation < b->generation ? -1 : 1;
}
