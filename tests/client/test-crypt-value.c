/* Encryption: sealed values and hidden names. */

#include "crypt-test.h"

static const char *error;

static struct crypt_value value_of(const char *name, const void *data, size_t size)
{
	return (struct crypt_value){ .device = "deviceAB", .counter = 1234567890123, .name = name,
		.data = data, .size = size };
}

static char *seal(const struct crypt_ring *ring, const struct crypt_value *value, char **wire_r, size_t *size_r)
{
	void *data;

	assert_int_equal(crypt_name_to_wire(ring, value->name, wire_r, &error), DOVETAIL_OK);
	assert_int_equal(crypt_value_seal(ring, *wire_r, value, &test_env, &data, size_r, &error), DOVETAIL_OK);
	return data;
}

static enum dovetail_status
open_status(const struct crypt_ring *ring, const char *wire, const void *data, size_t size, enum crypt_accept accept)
{
	struct crypt_value value;
	enum dovetail_status status;

	error = NULL;
	status = crypt_value_open(ring, wire, data, size, accept, &value, &error);
	if (status != DOVETAIL_OK) {
		assert_non_null(error);
		assert_null(value.buffer);
		assert_null(value.data);
	}
	crypt_value_free(&value);
	return status;
}

/* Random names and values, hidden and not: come back as they were, of the size that was foretold, and different each time. */
static void test_round(void **state)
{
	static const char letters[] = "abz019./-_ ~";
	char name[200], *wire, *wire2, *text, *text2, *data;
	size_t size, size2, data_size, i, j, length;
	struct crypt_value value, got;
	struct crypt_ring *ring = NULL;

	(void)state;
	for (i = 0; i < 600; i++) {
		if (i % 300 == 0)
			ring = test_ring(i != 0);
		strcpy(name, SUBTREE "/n");
		length = randombytes_uniform(100);
		for (j = strlen(name); length-- > 0; j++) {
			name[j] = letters[randombytes_uniform(sizeof(letters) - 1)];
			if (name[j] == '/' && name[j - 1] == '/')
				name[j] = 'x';
		}
		name[j] = '\0';
		if (name[j - 1] == '/')
			name[j - 1] = 'y';
		if (i % 7 == 0)
			strcpy(name, SUBTREE);
		data_size = i % 5 == 0 ? 0 : randombytes_uniform(i % 50 == 0 ? 200000 : 600);
		data = malloc(data_size + 1);
		randombytes_buf(data, data_size);
		value = value_of(name, data, data_size);
		text = seal(ring, &value, &wire, &size);
		text2 = seal(ring, &value, &wire2, &size2);
		assert_string_equal(wire, wire2);
		assert_int_equal(size, size2);
		assert_memory_not_equal(text, text2, size);
		assert_int_equal(size, crypt_sealed_size(strcmp(name, SUBTREE) == 0 ? 0 : strlen(name) - strlen(SUBTREE) - 1,
							 data_size));
		assert_null(memchr(text, '\0', size));
		assert_true(crypt_value_is_sealed(text, size));
		assert_int_equal(crypt_value_open(ring, wire, text, size, CRYPT_ACCEPT_LIVE, &got, &error), DOVETAIL_OK);
		assert_string_equal(got.name, name);
		assert_true(got.current);
		assert_int_equal(got.counter, 1234567890123);
		assert_memory_equal(got.device, "deviceAB", 8);
		assert_int_equal(got.size, data_size);
		assert_memory_equal(got.data, data, data_size);
		assert_int_equal(((const char *)got.data)[data_size], '\0');
		crypt_value_free(&got);
		free(wire);
		free(wire2);
		free(text);
		free(text2);
		free(data);
		if (i % 300 == 299)
			crypt_ring_free(ring);
	}
}

static void test_bit_flips(void **state)
{
	struct crypt_ring *ring = test_ring(false);
	struct crypt_value value = value_of(SUBTREE "/a", "secret", 6);
	size_t size, bit;
	char *wire, *text = seal(ring, &value, &wire, &size);
	enum dovetail_status status;

	(void)state;
	assert_int_equal(open_status(ring, wire, text, size, CRYPT_ACCEPT_LIVE), DOVETAIL_OK);
	for (bit = 0; bit < size * 8; bit++) {
		text[bit / 8] ^= 1 << bit % 8;
		status = open_status(ring, wire, text, size, CRYPT_ACCEPT_LIVE);
		/* the key's id: that key is not known */
		assert_true(status == DOVETAIL_DAMAGED || (status == DOVETAIL_LOCKED && bit / 8 >= 4 && bit / 8 < 4 + 12));
		text[bit / 8] ^= 1 << bit % 8;
	}
	for (bit = 0; bit < size; bit++)
		assert_int_equal(open_status(ring, wire, text, bit, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
	assert_int_equal(open_status(ring, wire, "clear text", 10, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
	free(wire);
	free(text);
	crypt_ring_free(ring);
}

static void test_swaps(void **state)
{
	struct crypt_value a = value_of(SUBTREE "/a", "secret a", 8), b = value_of(SUBTREE "/b", "secret b", 8),
		root = value_of(SUBTREE, "r", 1);
	size_t a_size, b_size, root_size, i;
	char *a_wire, *b_wire, *root_wire, *a_text, *b_text, *root_text;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct crypt_ring *ring = test_ring(i == 1), *other = test_ring(i == 1);

		a_text = seal(ring, &a, &a_wire, &a_size);
		b_text = seal(ring, &b, &b_wire, &b_size);
		root_text = seal(ring, &root, &root_wire, &root_size);
		assert_int_equal(open_status(ring, a_wire, b_text, b_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		assert_int_equal(open_status(ring, b_wire, a_text, a_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		assert_int_equal(open_status(ring, root_wire, a_text, a_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		assert_int_equal(open_status(ring, a_wire, root_text, root_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		/* another subtree's; also if it had the same key */
		assert_int_equal(open_status(other, a_wire, a_text, a_size, CRYPT_ACCEPT_LIVE), DOVETAIL_LOCKED);
		*other->secrets = *ring->secrets;
		assert_int_equal(open_status(other, a_wire, a_text, a_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		free(a_text);
		free(b_text);
		free(root_text);
		free(a_wire);
		free(b_wire);
		free(root_wire);
		crypt_ring_free(ring);
		crypt_ring_free(other);
	}
}

/* A later version's. */
static void test_kind(void **state)
{
	struct crypt_ring *ring = test_ring(false);
	struct crypt_value value = value_of(SUBTREE "/a", "secret", 6);
	size_t size, octets_size, forged_size;
	char *wire, *text = seal(ring, &value, &wire, &size), *forged;
	bool memory;
	uint8_t *octets = crypt_text_decode(CRYPT_PREFIX_VALUE, text, size, &octets_size, &memory);

	(void)state;
	octets[0] = 2;
	forged = crypt_text_encode(CRYPT_PREFIX_VALUE, octets, octets_size, &forged_size);
	assert_int_equal(open_status(ring, wire, forged, forged_size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
	free(forged);
	free(octets);
	free(text);
	free(wire);
	crypt_ring_free(ring);
}

static void test_keys(void **state)
{
	const struct dovetail_secret two = test_passphrase("passphrase two");
	struct crypt_ring *ring = test_ring(false), *old;
	struct crypt_value value = value_of(SUBTREE "/a", "secret", 6), got;
	size_t size, new_size;
	char *wire, *wire2, *text = seal(ring, &value, &wire, &size), *new_text;

	(void)state;
	assert_int_equal(crypt_ring_copy(ring, &old, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_rotate(ring, "two", &two, &test_env, &error), DOVETAIL_OK);
	assert_int_equal(crypt_value_open(ring, wire, text, size, CRYPT_ACCEPT_LIVE, &got, &error), DOVETAIL_OK);
	assert_false(got.current);
	crypt_value_free(&got);
	new_text = seal(ring, &value, &wire2, &new_size);
	assert_int_equal(open_status(ring, wire, new_text, new_size, CRYPT_ACCEPT_LIVE), DOVETAIL_OK);
	assert_int_equal(open_status(old, wire, new_text, new_size, CRYPT_ACCEPT_LIVE), DOVETAIL_LOCKED);
	assert_int_equal(crypt_ring_settle(ring, &error), DOVETAIL_OK);
	assert_int_equal(open_status(ring, wire, text, size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
	assert_int_equal(open_status(ring, wire, text, size, CRYPT_ACCEPT_RETIRED), DOVETAIL_OK);
	assert_int_equal(open_status(ring, wire, new_text, new_size, CRYPT_ACCEPT_LIVE), DOVETAIL_OK);
	free(text);
	free(new_text);
	free(wire);
	free(wire2);
	crypt_ring_free(old);
	crypt_ring_free(ring);
}

static void test_sizes(void **state)
{
	size_t size, sealed, last = 0, steps = 0;

	(void)state;
	for (size = 0; size < 100000; size++) {
		sealed = crypt_sealed_size(10, size);
		assert_true(sealed >= last);
		steps += sealed != last;
		/* base64, 49 octets, at most 12 % */
		assert_true(sealed <= 4 + (49 + (size < 222 ? 256 : (size + 32) * 9 / 8)) * 4 / 3 + 2);
		last = sealed;
	}
	assert_true(steps < 160);
	assert_int_equal(crypt_sealed_size(0, 0), crypt_sealed_size(10, 200));
	assert_int_equal(crypt_sealed_size(0, SIZE_MAX), SIZE_MAX);
	assert_int_equal(crypt_sealed_size(0, UINT32_MAX), SIZE_MAX);
	assert_int_equal(crypt_sealed_size(1025, 0), SIZE_MAX);
}

static void test_names(void **state)
{
	static const char *const reserved[] = { SUBTREE "/.dovetail", SUBTREE "/.dovetail/ring", SUBTREE "/.dovetail/x/y" };
	struct crypt_ring *plain = test_ring(false), *hidden = test_ring(true), *locked;
	char *a, *b, *c, *d, name[1100];
	size_t i;

	(void)state;
	assert_int_equal(crypt_name_to_wire(plain, SUBTREE "/a/b", &a, &error), DOVETAIL_OK);
	assert_string_equal(a, SUBTREE "/a/b");
	free(a);
	for (i = 0; i < 3; i++) {
		assert_int_equal(crypt_name_to_wire(plain, reserved[i], &a, &error), DOVETAIL_INVALID);
		assert_int_equal(crypt_name_to_wire(hidden, reserved[i], &a, &error), DOVETAIL_INVALID);
		assert_true(crypt_name_is_reserved(SUBTREE, reserved[i]));
	}
	assert_false(crypt_name_is_reserved(SUBTREE, SUBTREE "/.dovetails"));
	assert_false(crypt_name_is_reserved(SUBTREE, SUBTREE "/a/.dovetail"));
	assert_false(crypt_name_is_reserved(SUBTREE, SUBTREE));
	assert_true(crypt_name_is_below(SUBTREE, SUBTREE));
	assert_true(crypt_name_is_below(SUBTREE, SUBTREE "/a"));
	assert_false(crypt_name_is_below(SUBTREE, SUBTREE "a/b"));
	assert_false(crypt_name_is_below(SUBTREE, "/private/vendor/example"));

	/* the structure stays: b's is below a's, and the same component in another folder is another one */
	assert_int_equal(crypt_name_to_wire(hidden, SUBTREE "/a", &a, &error), DOVETAIL_OK);
	assert_int_equal(crypt_name_to_wire(hidden, SUBTREE "/a/b", &b, &error), DOVETAIL_OK);
	assert_int_equal(crypt_name_to_wire(hidden, SUBTREE "/b", &c, &error), DOVETAIL_OK);
	assert_int_equal(strlen(a), strlen(SUBTREE) + 27);
	assert_int_equal(strlen(b), strlen(SUBTREE) + 54);
	assert_true(crypt_name_is_below(a, b));
	assert_string_not_equal(strrchr(b, '/'), strrchr(c, '/'));
	assert_int_equal(strspn(a + strlen(SUBTREE) + 1, "abcdefghijklmnopqrstuvwxyz234567"), 26);
	assert_int_equal(crypt_name_to_wire(hidden, SUBTREE, &d, &error), DOVETAIL_OK);
	assert_string_equal(d, SUBTREE);
	free(a);
	free(b);
	free(c);
	free(d);

	/* as many components as fit 1,024 octets */
	strcpy(name, SUBTREE);
	for (i = 0; i < (1024 - strlen(SUBTREE)) / 27; i++)
		strcat(name, "/x");
	assert_int_equal(crypt_name_to_wire(hidden, name, &a, &error), DOVETAIL_OK);
	free(a);
	strcat(name, "/x");
	assert_int_equal(crypt_name_to_wire(hidden, name, &a, &error), DOVETAIL_LIMIT);

	assert_int_equal(crypt_ring_copy(hidden, &locked, &error), DOVETAIL_OK);
	sodium_free(locked->secrets);
	locked->secrets = NULL;
	assert_int_equal(crypt_name_to_wire(locked, SUBTREE "/a", &a, &error), DOVETAIL_LOCKED);
	assert_int_equal(open_status(locked, SUBTREE "/a", "x", 1, CRYPT_ACCEPT_LIVE), DOVETAIL_LOCKED);
	crypt_ring_free(locked);
	crypt_ring_free(plain);
	crypt_ring_free(hidden);
}

/* With a key, but not by the rules: a name that is none, or another entry's. */
static void test_names_inside(void **state)
{
	static const char *const names[] = { SUBTREE "/b", SUBTREE "/A", SUBTREE "/a//b", SUBTREE "/a*", SUBTREE "/a/",
					     SUBTREE "/.dovetail/ring",
		SUBTREE "/\x01", SUBTREE };
	struct crypt_ring *ring = test_ring(true);
	struct crypt_value value;
	char *wire;
	void *data;
	size_t size, i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(crypt_name_to_wire(ring, SUBTREE "/a", &wire, &error), DOVETAIL_OK);
		value = value_of(names[i], "x", 1);
		assert_int_equal(crypt_value_seal(ring, wire, &value, &test_env, &data, &size, &error), DOVETAIL_OK);
		assert_int_equal(open_status(ring, wire, data, size, CRYPT_ACCEPT_LIVE), DOVETAIL_DAMAGED);
		free(wire);
		free(data);
	}
	crypt_ring_free(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round),
		cmocka_unit_test(test_bit_flips),
		cmocka_unit_test(test_swaps),
		cmocka_unit_test(test_kind),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_names_inside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
