/* End-to-end encryption: values and names as they are on the server (docs/encryption.md, "Values" and "Hidden names"). Called by
   crypt-replica.c and tests; owns nothing. */

#include "crypt-private.h"

#include <stdlib.h>
#include <string.h>

#define NAME_MAX_SIZE 1024
#define HEAD_SIZE (1 + CRYPT_KEY_ID_SIZE + CRYPT_NONCE_SIZE)
#define PLAIN_HEAD_SIZE (CRYPT_DEVICE_SIZE + 8 + 2)
#define TAG_SIZE crypto_aead_xchacha20poly1305_ietf_ABYTES
/* others are for later */
#define KIND_VALUE 1
#define PADDED_MIN 256
#define HIDDEN_OCTETS 16
#define HIDDEN_SIZE 26
/* a value's length has 4 octets, and there is the rest */
#define VALUE_MAX ((size_t)UINT32_MAX - 64 * 1024)

static const char out_of_memory[] = "out of memory";

/* ---- Names ---- */

bool crypt_name_is_below(const char *subtree, const char *name)
{
	const size_t size = strlen(subtree);

	return strncmp(name, subtree, size) == 0 && (name[size] == '\0' || name[size] == '/');
}

bool crypt_name_is_reserved(const char *subtree, const char *name)
{
	const size_t size = strlen(subtree);

	return crypt_name_is_below(subtree, name) && name[size] == '/' && crypt_name_is_below(CRYPT_RESERVED, name + size + 1);
}

/* the part below the subtree, "" for the subtree's own entry */
static const char *name_relative(const struct crypt_ring *ring, const char *name)
{
	const size_t size = strlen(ring->subtree);

	return name[size] == '\0' ? "" : name + size + 1;
}

static void base32_put(char *out, const uint8_t octets[HIDDEN_OCTETS])
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
	unsigned int bits = 0, value = 0, i;

	for (i = 0; i < HIDDEN_OCTETS; i++) {
		value = (value << 8 | octets[i]) & 0xfff;
		for (bits += 8; bits >= 5; bits -= 5)
			*out++ = digits[value >> (bits - 5) & 31];
	}
	*out = digits[value << (5 - bits) & 31];
}

enum dovetail_status
crypt_name_to_wire(const struct crypt_ring *ring, const char *name, char **wire_r, const char **error_r)
{
	const char *relative, *end;
	uint8_t hash[HIDDEN_OCTETS];
	size_t size, components = 1;
	char *wire, *p;

	*wire_r = NULL;
	if (crypt_name_is_reserved(ring->subtree, name))
		return crypt_fail(error_r, DOVETAIL_INVALID, "this name is reserved for the keys of the encrypted subtree");
	relative = name_relative(ring, name);
	if (!ring->hide_names || *relative == '\0') {
		*wire_r = strdup(name);
		return *wire_r != NULL ? DOVETAIL_OK : crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	}
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked, and its names are hidden");
	for (p = strchr(relative, '/'); p != NULL; p = strchr(p + 1, '/'))
		components++;
	size = strlen(ring->subtree) + components * (1 + HIDDEN_SIZE);
	if (size > NAME_MAX_SIZE)
		return crypt_fail(error_r, DOVETAIL_LIMIT, "the hidden name has too many components");
	wire = malloc(size + 1);
	if (wire == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	p = (char *)put_octets((uint8_t *)wire, ring->subtree, strlen(ring->subtree));
	for (end = relative; end != NULL; end = *end == '\0' ? NULL : end + 1) {
		end = strchrnul(end, '/');
		crypt_derive(ring->secrets->names_key, "dovetail name 1", relative, end - relative, hash, HIDDEN_OCTETS);
		*p++ = '/';
		base32_put(p, hash);
		p += HIDDEN_SIZE;
	}
	*p = '\0';
	*wire_r = wire;
	return DOVETAIL_OK;
}

/* ---- Sizes ---- */

/* Padme (Nikitin et al., "Reducing metadata leakage", PETS 2019): at most 12 % more, and the size's low bits are hidden */
static size_t padded_size(size_t size)
{
	unsigned int e, s;
	size_t mask;

	if (size <= PADDED_MIN)
		return PADDED_MIN;
	e = 63 - __builtin_clzll(size);
	s = 32 - __builtin_clz(e);
	mask = ((size_t)1 << (e - s)) - 1;
	return (size + mask) & ~mask;
}

size_t crypt_sealed_size(size_t relative_name_size, size_t size)
{
	if (size > VALUE_MAX || relative_name_size > NAME_MAX_SIZE)
		return SIZE_MAX;
	size = HEAD_SIZE + padded_size(PLAIN_HEAD_SIZE + relative_name_size + 4 + size) + TAG_SIZE;
	return strlen(CRYPT_PREFIX_VALUE) + sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL_NO_PADDING) - 1;
}

/* ---- Values ---- */

void crypt_value_free(struct crypt_value *value)
{
	if (value->buffer != NULL)
		sodium_memzero(value->buffer, value->buffer_size);
	free(value->buffer);
	memset(value, 0, sizeof(*value));
}

/* What a value is bound to; malloc()ed. head: kind and key id. */
static uint8_t *value_bound(const struct crypt_ring *ring, const uint8_t *head, const char *wire, size_t *size_r)
{
	static const char purpose[] = "dovetail value 1";
	uint8_t *bound = malloc(sizeof(purpose) + CRYPT_SUBTREE_ID_SIZE + HEAD_SIZE + strlen(wire)), *p;

	if (bound == NULL)
		return NULL;
	p = put_octets(bound, purpose, strlen(purpose));
	p = put_octets(p, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	p = put_octets(p, head, 1 + CRYPT_KEY_ID_SIZE);
	p = put_octets(p, wire, strlen(wire));
	*size_r = p - bound;
	return bound;
}

enum dovetail_status
crypt_value_seal(const struct crypt_ring *ring, const char *wire, const struct crypt_value *value, const struct crypt_env *env,
		 void **data_r, size_t *size_r, const char **error_r)
{
	const char *relative = name_relative(ring, value->name);
	const size_t name_size = strlen(relative);
	size_t plain_size, bound_size;
	uint8_t *octets, *bound, *p;

	*data_r = NULL;
	if (!crypt_begin(&env, error_r))
		return DOVETAIL_SYSTEM;
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	if (value->size > VALUE_MAX || name_size > NAME_MAX_SIZE)
		return crypt_fail(error_r, DOVETAIL_LIMIT, "the value is too large");
	plain_size = padded_size(PLAIN_HEAD_SIZE + name_size + 4 + value->size);
	octets = calloc(1, HEAD_SIZE + plain_size + TAG_SIZE);
	if (octets == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	p = put_number(octets, KIND_VALUE, 1);
	p = put_octets(p, ring->secrets->keys[0].id, CRYPT_KEY_ID_SIZE);
	env->random(env->context, p, CRYPT_NONCE_SIZE);
	p += CRYPT_NONCE_SIZE;
	p = put_octets(p, value->device, CRYPT_DEVICE_SIZE);
	p = put_number(p, value->counter, 8);
	p = put_number(p, name_size, 2);
	p = put_octets(p, relative, name_size);
	p = put_number(p, value->size, 4);
	put_octets(p, value->data, value->size);
	bound = value_bound(ring, octets, wire, &bound_size);
	if (bound == NULL) {
		sodium_memzero(octets, HEAD_SIZE + plain_size);
		free(octets);
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	}
	/* in place */
	crypto_aead_xchacha20poly1305_ietf_encrypt(octets + HEAD_SIZE, NULL, octets + HEAD_SIZE, plain_size, bound, bound_size,
						   NULL, octets + 1 + CRYPT_KEY_ID_SIZE, ring->secrets->keys[0].key);
	*data_r = crypt_text_encode(CRYPT_PREFIX_VALUE, octets, HEAD_SIZE + plain_size + TAG_SIZE, size_r);
	free(bound);
	free(octets);
	return *data_r != NULL ? DOVETAIL_OK : crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
}

bool crypt_value_is_sealed(const void *data, size_t size)
{
	return size >= crypt_sealed_size(0, 0) && memcmp(data, CRYPT_PREFIX_VALUE, strlen(CRYPT_PREFIX_VALUE)) == 0;
}

/* A writer with the key may have put anything there: it has to be a name that the user could have written. */
static bool name_is_valid(const char *name, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++) {
		if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '*' || name[i] == '%' || (name[i] >= 'A' && name[i] <= 'Z') ||
		    (name[i] == '/' && (i == 0 || i + 1 == size || name[i - 1] == '/')))
			return false;
	}
	return size <= NAME_MAX_SIZE;
}

/* From the opened octets to *value_r, whose buffer gets the name and the data, each with a NUL. */
static enum dovetail_status
plain_get(const struct crypt_ring *ring, const char *wire, const uint8_t *plain, size_t plain_size, struct crypt_value *value_r,
	  const char **error_r)
{
	static const char damaged[] = "an encrypted value has a content that this version does not know";
	const size_t subtree_size = strlen(ring->subtree);
	size_t name_size = get_number(plain + CRYPT_DEVICE_SIZE + 8, 2), data_size;
	const uint8_t *name = plain + PLAIN_HEAD_SIZE;
	enum dovetail_status status;
	char *buffer, *again, *p;

	if (PLAIN_HEAD_SIZE + name_size + 4 > plain_size || !name_is_valid((const char *)name, name_size))
		return crypt_fail(error_r, DOVETAIL_DAMAGED, damaged);
	data_size = get_number(name + name_size, 4);
	if (data_size > plain_size - PLAIN_HEAD_SIZE - name_size - 4)
		return crypt_fail(error_r, DOVETAIL_DAMAGED, damaged);
	put_octets(value_r->device, plain, CRYPT_DEVICE_SIZE);
	value_r->counter = get_number(plain + CRYPT_DEVICE_SIZE, 8);
	value_r->size = data_size;
	value_r->buffer_size = subtree_size + 1 + name_size + 1 + data_size + 1;
	value_r->buffer = buffer = malloc(value_r->buffer_size);
	if (buffer == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	p = (char *)put_octets((uint8_t *)buffer, ring->subtree, subtree_size);
	if (name_size > 0)
		*p++ = '/';
	p = (char *)put_octets((uint8_t *)p, name, name_size);
	*p++ = '\0';
	value_r->name = buffer;
	value_r->data = p;
	p = (char *)put_octets((uint8_t *)p, name + name_size + 4, data_size);
	*p = '\0';

	status = crypt_name_to_wire(ring, buffer, &again, error_r);
	if (status == DOVETAIL_OK && strcmp(again, wire) != 0)
		status = DOVETAIL_DAMAGED;
	free(again);
	if (status != DOVETAIL_OK && status != DOVETAIL_SYSTEM)
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "an encrypted value is for another entry");
	return status;
}

static const struct crypt_key *
value_key(const struct crypt_ring *ring, const uint8_t *id, enum crypt_accept accept, bool *current_r,
	  enum dovetail_status *status_r, const char **error_r)
{
	const struct crypt_secrets *secrets = ring->secrets;
	unsigned int i;

	for (i = 0; i < secrets->count; i++) {
		if (memcmp(secrets->keys[i].id, id, CRYPT_KEY_ID_SIZE) != 0)
			continue;
		if (i >= secrets->readable && accept == CRYPT_ACCEPT_LIVE) {
			*status_r = crypt_fail(error_r, DOVETAIL_DAMAGED, "an encrypted value has a key that is no longer in use");
			return NULL;
		}
		*current_r = i == 0;
		return &secrets->keys[i];
	}
	*status_r = crypt_fail(error_r, DOVETAIL_LOCKED, "there are encrypted values with a key that this device does not have");
	return NULL;
}

static enum dovetail_status
octets_open(const struct crypt_ring *ring, const char *wire, uint8_t *octets, size_t size, enum crypt_accept accept,
	    struct crypt_value *value_r, const char **error_r)
{
	const struct crypt_key *key;
	enum dovetail_status status;
	size_t bound_size, plain_size;
	uint8_t *bound, *plain = octets + HEAD_SIZE;

	if (size < HEAD_SIZE + PADDED_MIN + TAG_SIZE || octets[0] != KIND_VALUE)
		return crypt_fail(error_r, DOVETAIL_DAMAGED, "an encrypted value is cut off, or from a newer version");
	plain_size = size - HEAD_SIZE - TAG_SIZE;
	key = value_key(ring, octets + 1, accept, &value_r->current, &status, error_r);
	if (key == NULL)
		return status;
	bound = value_bound(ring, octets, wire, &bound_size);
	if (bound == NULL)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, plain, plain_size + TAG_SIZE, bound, bound_size,
						       octets + 1 + CRYPT_KEY_ID_SIZE, key->key) < 0)
		status = crypt_fail(error_r, DOVETAIL_DAMAGED, "an encrypted value was changed, or moved to another entry");
	else
		status = plain_get(ring, wire, plain, plain_size, value_r, error_r);
	free(bound);
	return status;
}

enum dovetail_status
crypt_value_open(const struct crypt_ring *ring, const char *wire, const void *data, size_t size, enum crypt_accept accept,
		 struct crypt_value *value_r, const char **error_r)
{
	enum dovetail_status status;
	size_t octets_size;
	uint8_t *octets;
	bool memory;

	memset(value_r, 0, sizeof(*value_r));
	if (ring->secrets == NULL)
		return crypt_fail(error_r, DOVETAIL_LOCKED, "the subtree is locked");
	octets = crypt_text_decode(CRYPT_PREFIX_VALUE, data, size, &octets_size, &memory);
	if (octets == NULL)
		return memory ? crypt_fail(error_r, DOVETAIL_SYSTEM, out_of_memory) :
			crypt_fail(error_r, DOVETAIL_DAMAGED, "a value in an encrypted subtree is not encrypted, or damaged");
	status = octets_open(ring, wire, octets, octets_size, accept, value_r, error_r);
	sodium_memzero(octets, octets_size);
	free(octets);
	if (status != DOVETAIL_OK)
		crypt_value_free(value_r);
	return status;
}
