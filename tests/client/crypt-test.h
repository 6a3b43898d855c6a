#ifndef CRYPT_TEST_H
#define CRYPT_TEST_H

/* What the tests of the encryption share: key derivation that costs nothing, and octets that are the same in each run. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "crypt-private.h"

#define SUBTREE "/private/vendor/example/notes"

/* 0, 1, 2 ... 255, 0 ... over all calls; context: uint8_t, the next one */
static inline void test_random(void *context, void *buffer, size_t size)
{
	uint8_t *next = context, *p = buffer;

	while (size-- > 0)
		*p++ = (*next)++;
}

static inline void test_random_real(void *context, void *buffer, size_t size)
{
	(void)context;
	randombytes_buf(buffer, size);
}

static const struct crypt_env test_env = {
	.passes_min = 1, .passes_max = 4, .kib_min = 8, .kib_max = 64, .passes = 1, .kib = 8, .random = test_random_real
};

static inline struct dovetail_secret test_passphrase(const char *text)
{
	return (struct dovetail_secret){ .passphrase = text, .passphrase_size = strlen(text) };
}

/* An unlocked ring with the slot "first" for "passphrase one". */
static inline struct crypt_ring *test_ring(bool hide_names)
{
	const struct dovetail_secret secret = test_passphrase("passphrase one");
	struct crypt_ring *ring;
	const char *error = NULL;

	assert_int_equal(crypt_ring_new(SUBTREE, hide_names, &test_env, &ring, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_slot_add(ring, "first", &secret, &test_env, &error), DOVETAIL_OK);
	return ring;
}

static inline char *test_ring_text(struct crypt_ring *ring, size_t *size_r)
{
	const char *error = NULL;
	void *data;

	assert_int_equal(crypt_ring_write(ring, &test_env, &data, size_r, &error), DOVETAIL_OK);
	return data;
}

/* Parses and unlocks; *ring_r is NULL unless OK. */
static inline enum dovetail_status
test_ring_open(const void *text, size_t size, const char *passphrase, struct crypt_ring **ring_r)
{
	const struct dovetail_secret secret = test_passphrase(passphrase);
	const char *error = NULL;
	enum dovetail_status status = crypt_ring_parse(SUBTREE, text, size, &test_env, ring_r, &error);

	if (status == DOVETAIL_OK)
		status = crypt_ring_unlock(*ring_r, &secret, &test_env, &error);
	if (status != DOVETAIL_OK) {
		assert_non_null(error);
		crypt_ring_free(*ring_r);
		*ring_r = NULL;
	}
	return status;
}

#endif
