#ifndef CLIENT_CRYPT_PRIVATE_H
#define CLIENT_CRYPT_PRIVATE_H

/* What the files crypt-*.c share and nobody else needs. */

#include "crypt.h"

#include <sodium.h>

struct crypt_key {
	uint8_t id[CRYPT_KEY_ID_SIZE];
	uint8_t key[CRYPT_KEY_SIZE];
};

/* In sodium_malloc() memory. */
struct crypt_secrets {
	uint8_t ring_key[CRYPT_KEY_SIZE];
	uint8_t names_key[CRYPT_KEY_SIZE];
	/* newest first; those before readable are accepted from the server */
	unsigned int readable, count;
	struct crypt_key keys[CRYPT_KEYS_MAX];
};

/* env or the real one; false: libsodium does not start */
bool crypt_begin(const struct crypt_env **env, const char **error_r);
/* Sets the text and returns the status. */
static inline enum dovetail_status crypt_fail(const char **error_r, enum dovetail_status status, const char *text)
{
	*error_r = text;
	return status;
}

/* The key that a secret gives with a slot's salt and limits, in kek (in sodium_malloc() memory, as octets is): octets is NULL
   for a passphrase, else what was in the key file. */
enum dovetail_status
crypt_kek_derive(const struct dovetail_secret *secret, const uint8_t *octets, const struct crypt_slot *slot,
		 uint8_t kek[CRYPT_KEY_SIZE], const char **error_r);
/* One of the two is set, and well. *octets_r: the key file's, in sodium_malloc() memory, or NULL for a passphrase. */
enum dovetail_status crypt_secret_load(const struct dovetail_secret *secret, uint8_t **octets_r, const char **error_r);
/* crypt-slot.c. Octets of a slot whose label has this size. */
#define CRYPT_SLOT_SIZE(label_size) \
	(1 + 1 + (label_size) + 4 + 4 + CRYPT_SALT_SIZE + CRYPT_CHECK_SIZE + CRYPT_NONCE_SIZE + CRYPT_WRAPPED_SIZE)
uint8_t *crypt_slot_put(uint8_t *p, const struct crypt_slot *slot);
/* What follows it; NULL: it ends before the slot does, or is none. */
const uint8_t *crypt_slot_get(const uint8_t *p, const uint8_t *end, struct crypt_slot *slot);
/* NULL, or why it cannot be used, before any key is derived: a server must not choose how hard a passphrase is to guess, nor how
   long a device works. */
const char *crypt_slot_refused(const struct crypt_slot *slot, const struct crypt_env *env);
/* kek, wrapping key, then the ring key with its epoch; in sodium_malloc() memory */
struct crypt_slot_work {
	uint8_t kek[CRYPT_KEY_SIZE], key[CRYPT_KEY_SIZE], wrapped[CRYPT_KEY_SIZE + 4];
};
/* The ring key by the secret (octets: of a key file). NOT_FOUND: it is not this slot's. */
enum dovetail_status
crypt_slot_open(const struct crypt_ring *ring, const struct crypt_slot *slot, const struct dovetail_secret *secret,
		const uint8_t *octets, struct crypt_slot_work *work, struct crypt_secrets *secrets, const char **error_r);
/* crypt-ring.c: it is not as it was written any more. */
void crypt_ring_changed(struct crypt_ring *ring);
/* A key of 32 octets, or n octets to compare, for one purpose. */
void crypt_derive(const uint8_t key[CRYPT_KEY_SIZE], const char *purpose, const void *more, size_t more_size, uint8_t *out,
		  size_t n);

/* Text with a prefix. encode: malloc()ed. decode: malloc()ed octets; NULL: not of that form, or out of memory (*memory_r). */
#define CRYPT_PREFIX_RING "dtk1:"
#define CRYPT_PREFIX_VALUE "dt1:"
char *crypt_text_encode(const char *prefix, const uint8_t *data, size_t size, size_t *text_size_r);
uint8_t *crypt_text_decode(const char *prefix, const void *text, size_t text_size, size_t *size_r, bool *memory_r);

static inline uint8_t *put_octets(uint8_t *p, const void *data, size_t size)
{
	if (size > 0)
		__builtin_memcpy(p, data, size);
	return p + size;
}
static inline uint8_t *put_number(uint8_t *p, uint64_t number, unsigned int octets)
{
	while (octets-- > 0)
		*p++ = (uint8_t)(number >> (8 * octets));
	return p;
}
static inline uint64_t get_number(const uint8_t *p, unsigned int octets)
{
	uint64_t number = 0;

	while (octets-- > 0)
		number = number << 8 | *p++;
	return number;
}

#endif
