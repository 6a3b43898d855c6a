/* End-to-end encryption: a slot of a ring, i.e. the ring key wrapped for one secret (docs/encryption.md, "The ring"). Called by
   crypt-ring.c; owns nothing. */

#include "crypt-private.h"

#include <string.h>

/* ---- As octets ---- */

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

uint8_t *crypt_slot_put(uint8_t *p, const struct crypt_slot *slot)
{
	p = slot_put_begin(p, slot);
	p = put_octets(p, slot->nonce, CRYPT_NONCE_SIZE);
	return put_octets(p, slot->wrapped, CRYPT_WRAPPED_SIZE);
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

const uint8_t *crypt_slot_get(const uint8_t *p, const uint8_t *end, struct crypt_slot *slot)
{
	size_t label_size;

	if (end - p < 2)
		return NULL;
	slot->kind = p[0];
	label_size = p[1];
	if (label_size > CRYPT_LABEL_MAX || (size_t)(end - p) < CRYPT_SLOT_SIZE(label_size))
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

const char *crypt_slot_refused(const struct crypt_slot *slot, const struct crypt_env *env)
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

/* ---- Wrapping ---- */

/* What a slot's wrapped key is bound to; returns its size. */
static size_t slot_bound(const struct crypt_ring *ring, const struct crypt_slot *slot,
			 uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + CRYPT_SLOT_SIZE(CRYPT_LABEL_MAX)])
{
	static const char purpose[] = "dovetail slot 1";
	uint8_t *p = put_octets(bound, purpose, strlen(purpose));

	p = put_octets(p, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	return slot_put_begin(p, slot) - bound;
}

static void slot_wrap(const struct crypt_ring *ring, struct crypt_slot *slot, struct crypt_slot_work *work)
{
	uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + CRYPT_SLOT_SIZE(CRYPT_LABEL_MAX)];
	size_t bound_size;

	crypt_derive(work->kek, "dovetail check 1", NULL, 0, slot->check, CRYPT_CHECK_SIZE);
	crypt_derive(work->kek, "dovetail wrap 1", NULL, 0, work->key, CRYPT_KEY_SIZE);
	put_number(put_octets(work->wrapped, ring->secrets->ring_key, CRYPT_KEY_SIZE), ring->epoch, 4);
	bound_size = slot_bound(ring, slot, bound);
	crypto_aead_xchacha20poly1305_ietf_encrypt(slot->wrapped, NULL, work->wrapped, sizeof(work->wrapped), bound, bound_size,
						   NULL, slot->nonce, work->key);
}

enum dovetail_status
crypt_slot_open(const struct crypt_ring *ring, const struct crypt_slot *slot, const struct dovetail_secret *secret,
		const uint8_t *octets, struct crypt_slot_work *work, struct crypt_secrets *secrets, const char **error_r)
{
	uint8_t bound[16 + CRYPT_SUBTREE_ID_SIZE + CRYPT_SLOT_SIZE(CRYPT_LABEL_MAX)], check[CRYPT_CHECK_SIZE];
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

/* ---- Adding and removing ---- */

enum dovetail_status
crypt_ring_slot_add(struct crypt_ring *ring, const char *label, const struct dovetail_secret *secret, const struct crypt_env *env,
		    const char **error_r)
{
	struct crypt_slot slot = { .kind = CRYPT_SLOT_PASSPHRASE };
	enum dovetail_status status;
	struct crypt_slot_work *work;
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
	status = work == NULL ? crypt_fail(error_r, DOVETAIL_SYSTEM, "out of memory") :
		crypt_kek_derive(secret, octets, &slot, work->kek, error_r);
	if (status == DOVETAIL_OK) {
		slot_wrap(ring, &slot, work);
		ring->slots[ring->slot_count++] = slot;
		crypt_ring_changed(ring);
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
	crypt_ring_changed(ring);
	return DOVETAIL_OK;
}
