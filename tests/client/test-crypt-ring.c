/* Encryption: the ring of keys, its slots, key files, what a server can do to them. */

#include "crypt-test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *error;

/* The later one is the larger. */
static int ring_compare(const struct crypt_ring *a, const struct crypt_ring *b)
{
	if (a->epoch != b->epoch)
		return a->epoch < b->epoch ? -1 : 1;
	return a->generation == b->generation ? 0 : a->generation < b->generation ? -1 : 1;
}

/* As what a hostile server would write: octets changed, checksum right. */
static char *ring_forge(const char *text, size_t size, size_t offset, const void *data, size_t data_size, size_t *size_r)
{
	size_t octets_size;
	bool memory;
	uint8_t *octets = crypt_text_decode(CRYPT_PREFIX_RING, text, size, &octets_size, &memory);
	char *forged;

	assert_non_null(octets);
	assert_true(offset + data_size <= octets_size - 16);
	put_octets(octets + offset, data, data_size);
	crypto_generichash(octets + octets_size - 16, 16, octets, octets_size - 16, NULL, 0);
	forged = crypt_text_encode(CRYPT_PREFIX_RING, octets, octets_size, size_r);
	free(octets);
	return forged;
}

static void test_round(void **state)
{
	struct crypt_ring *ring = test_ring(true), *again;
	size_t size, size2;
	char *text = test_ring_text(ring, &size), *text2;

	(void)state;
	assert_int_equal(test_ring_open(text, size, "passphrase one", &again), DOVETAIL_OK);
	assert_memory_equal(again->subtree_id, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	assert_memory_equal(again->secrets->keys, ring->secrets->keys, sizeof(struct crypt_key));
	assert_memory_equal(again->secrets->names_key, ring->secrets->names_key, CRYPT_KEY_SIZE);
	assert_true(again->hide_names);
	assert_int_equal(again->generation, 1);
	assert_int_equal(again->epoch, 1);
	/* unchanged, it is written as it was */
	text2 = test_ring_text(again, &size2);
	assert_int_equal(size, size2);
	assert_memory_equal(text, text2, size);
	assert_int_equal(ring_compare(ring, again), 0);
	free(text);
	free(text2);
	crypt_ring_free(ring);
	crypt_ring_free(again);
}

static void test_wrong_secrets(void **state)
{
	static const struct { const char *passphrase; enum dovetail_status status; } cases[] = {
		{ "passphrase two", DOVETAIL_WRONG_KEY }, { "passphrase one ", DOVETAIL_WRONG_KEY },
		{ "passphrase on", DOVETAIL_WRONG_KEY }, { "1234567", DOVETAIL_INVALID }, { "", DOVETAIL_INVALID },
	};
	struct dovetail_secret none = { 0 }, both = { .passphrase = "passphrase one", .passphrase_size = 14, .key_file = "x" };
	struct dovetail_secret huge = { .passphrase = "passphrase one", .passphrase_size = CRYPT_PASSPHRASE_MAX + 1 };
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size, i;
	char *text = test_ring_text(ring, &size);

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(test_ring_open(text, size, cases[i].passphrase, &again), cases[i].status);
	assert_int_equal(crypt_ring_parse(SUBTREE, text, size, &test_env, &again, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_unlock(again, &none, &test_env, &error), DOVETAIL_INVALID);
	assert_int_equal(crypt_ring_unlock(again, &both, &test_env, &error), DOVETAIL_INVALID);
	assert_int_equal(crypt_ring_unlock(again, &huge, &test_env, &error), DOVETAIL_INVALID);
	/* locked: nothing can be done with it */
	none = test_passphrase("passphrase two");
	assert_int_equal(crypt_ring_slot_add(again, "x", &none, &test_env, &error), DOVETAIL_LOCKED);
	assert_int_equal(crypt_ring_slot_remove(again, "first", &error), DOVETAIL_LOCKED);
	assert_int_equal(crypt_ring_rotate(again, "x", &none, &test_env, &error), DOVETAIL_LOCKED);
	assert_int_equal(crypt_ring_settle(again, &error), DOVETAIL_LOCKED);
	crypt_ring_free(again);
	free(text);
	crypt_ring_free(ring);
}

/* Damage on the way: each bit of the text. Told as damage, not as a wrong key. */
static void test_bit_flips(void **state)
{
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size, bit;
	char *text = test_ring_text(ring, &size);

	(void)state;
	for (bit = 0; bit < size * 8; bit++) {
		text[bit / 8] ^= 1 << bit % 8;
		assert_int_equal(test_ring_open(text, size, "passphrase one", &again), DOVETAIL_DAMAGED);
		text[bit / 8] ^= 1 << bit % 8;
	}
	for (bit = 0; bit < size; bit++)
		assert_int_equal(test_ring_open(text, bit, "passphrase one", &again), DOVETAIL_DAMAGED);
	free(text);
	crypt_ring_free(ring);
}

/* A server that makes the checksum right: still no octet can be changed. */
static void test_forged(void **state)
{
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size, forged_size, octets_size, i;
	char *text = test_ring_text(ring, &size), *forged;
	enum dovetail_status status;
	bool memory;
	uint8_t *octets = crypt_text_decode(CRYPT_PREFIX_RING, text, size, &octets_size, &memory), octet;

	(void)state;
	for (i = 0; i < octets_size - 16; i++) {
		octet = octets[i] ^ 1;
		forged = ring_forge(text, size, i, &octet, 1, &forged_size);
		status = test_ring_open(forged, forged_size, "passphrase one", &again);
		/* salt and check cannot be told from a wrong passphrase, nor what the server calls a key file */
		assert_true(status == DOVETAIL_DAMAGED || status == DOVETAIL_WRONG_KEY);
		free(forged);
	}
	free(octets);
	free(text);
	crypt_ring_free(ring);
}

static void test_other_subtree(void **state)
{
	const struct dovetail_secret secret = test_passphrase("passphrase one");
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size;
	char *text = test_ring_text(ring, &size);

	(void)state;
	assert_int_equal(crypt_ring_parse("/private/vendor/example/other", text, size, &test_env, &again, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_DAMAGED);
	crypt_ring_free(again);
	free(text);
	crypt_ring_free(ring);
}

/* The limits are the client's. Offsets: head 22, kind, label length, "first". */
static void test_derivation_limits(void **state)
{
	static const struct { uint32_t passes, kib; const char *word; } cases[] = {
		{ 0, 8, "weaker" }, { 1, 7, "weaker" }, { 1, 0, "weaker" }, { 5, 8, "larger" }, { 1, 65, "larger" },
		{ UINT32_MAX, 8, "larger" }, { 1, UINT32_MAX, "larger" },
	};
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size, forged_size, i;
	char *text = test_ring_text(ring, &size), *forged;
	uint8_t limits[8];

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		put_number(put_number(limits, cases[i].passes, 4), cases[i].kib, 4);
		forged = ring_forge(text, size, 22 + 2 + 5, limits, 8, &forged_size);
		assert_int_equal(crypt_ring_parse(SUBTREE, forged, forged_size, &test_env, &again, &error), DOVETAIL_DAMAGED);
		assert_non_null(strstr(error, cases[i].word));
		assert_null(again);
		free(forged);
	}
	/* what the tests use is far too weak for the real ones */
	assert_int_equal(crypt_ring_parse(SUBTREE, text, size, NULL, &again, &error), DOVETAIL_DAMAGED);
	assert_non_null(strstr(error, "weaker"));
	free(text);
	crypt_ring_free(ring);
}

static void test_real_limits(void **state)
{
	const struct crypt_env *env = NULL;

	(void)state;
	assert_true(crypt_begin(&env, &error));
	/* as docs/encryption.md says */
	assert_int_equal(env->passes_min, 3);
	assert_int_equal(env->passes_max, 12);
	assert_int_equal(env->kib_min, 64 * 1024);
	assert_int_equal(env->kib_max, 1024 * 1024);
	assert_int_equal(env->passes, 3);
	assert_int_equal(env->kib, 256 * 1024);
}

static void test_slots(void **state)
{
	static const char *const bad_labels[] = { "", "a\nb", "\x7f", "\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xc2\x85",
						  "first",
		"12345678901234567890123456789012345678901234567890123456789012345" };
	struct crypt_ring *ring = test_ring(false), *again;
	char passphrase[32], label[16], *text;
	struct dovetail_secret secret;
	size_t size, i;

	(void)state;
	assert_int_equal(crypt_ring_slot_remove(ring, "first", &error), DOVETAIL_INVALID);
	secret = test_passphrase("passphrase two");
	for (i = 0; i < sizeof(bad_labels) / sizeof(bad_labels[0]); i++)
		assert_int_equal(crypt_ring_slot_add(ring, bad_labels[i], &secret, &test_env, &error), DOVETAIL_INVALID);
	free(test_ring_text(ring, &size));
	for (i = 1; i < CRYPT_SLOTS_MAX; i++) {
		snprintf(passphrase, sizeof(passphrase), "passphrase %zu", i);
		snprintf(label, sizeof(label), "\xc3\xa4 %zu", i);
		secret = test_passphrase(passphrase);
		assert_int_equal(crypt_ring_slot_add(ring, label, &secret, &test_env, &error), DOVETAIL_OK);
	}
	assert_int_equal(crypt_ring_slot_add(ring, "one more", &secret, &test_env, &error), DOVETAIL_LIMIT);
	text = test_ring_text(ring, &size);
	for (i = 1; i < CRYPT_SLOTS_MAX; i++) {
		snprintf(passphrase, sizeof(passphrase), "passphrase %zu", i);
		assert_int_equal(test_ring_open(text, size, passphrase, &again), DOVETAIL_OK);
		/* several changes, written once */
		assert_int_equal(again->generation, 2);
		crypt_ring_free(again);
	}
	free(text);
	assert_int_equal(crypt_ring_slot_remove(ring, "nobody", &error), DOVETAIL_NOT_FOUND);
	assert_int_equal(crypt_ring_slot_remove(ring, "\xc3\xa4 3", &error), DOVETAIL_OK);
	text = test_ring_text(ring, &size);
	assert_int_equal(test_ring_open(text, size, "passphrase 3", &again), DOVETAIL_WRONG_KEY);
	assert_int_equal(test_ring_open(text, size, "passphrase 4", &again), DOVETAIL_OK);
	assert_int_equal(again->slot_count, CRYPT_SLOTS_MAX - 1);
	crypt_ring_free(again);
	free(text);
	crypt_ring_free(ring);
}

/* A slot of an older ring, put into a newer one in the place of another: the set of slots is bound to the ring. */
static void test_old_slot(void **state)
{
	const struct dovetail_secret two = test_passphrase("passphrase two"), three = test_passphrase("passphrase 333");
	struct crypt_ring *ring = test_ring(false), *again;
	struct crypt_slot slot;
	size_t size;
	char *text;

	(void)state;
	assert_int_equal(crypt_ring_slot_add(ring, "second", &two, &test_env, &error), DOVETAIL_OK);
	free(test_ring_text(ring, &size));
	slot = ring->slots[1];
	assert_int_equal(crypt_ring_slot_remove(ring, "second", &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_slot_add(ring, "third", &three, &test_env, &error), DOVETAIL_OK);
	free(test_ring_text(ring, &size));
	ring->slots[1] = slot;
	text = test_ring_text(ring, &size);
	assert_int_equal(test_ring_open(text, size, "passphrase two", &again), DOVETAIL_DAMAGED);
	assert_int_equal(test_ring_open(text, size, "passphrase one", &again), DOVETAIL_DAMAGED);
	free(text);
	crypt_ring_free(ring);
}

static void test_rotate(void **state)
{
	const struct dovetail_secret two = test_passphrase("passphrase two"), bad = test_passphrase("short");
	struct crypt_ring *ring = test_ring(true), *old, *again;
	struct crypt_key first;
	size_t size, i;
	char *text;

	(void)state;
	free(test_ring_text(ring, &size));
	first = ring->secrets->keys[0];
	assert_int_equal(crypt_ring_copy(ring, &old, &error), DOVETAIL_OK);
	/* fails: nothing has happened */
	assert_int_equal(crypt_ring_rotate(ring, "new", &bad, &test_env, &error), DOVETAIL_INVALID);
	assert_int_equal(ring_compare(old, ring), 0);
	assert_string_equal(ring->slots[0].label, "first");
	assert_int_equal(ring->secrets->count, 1);

	assert_int_equal(crypt_ring_rotate(ring, "new", &two, &test_env, &error), DOVETAIL_OK);
	assert_int_equal(ring_compare(old, ring), -1);
	assert_int_equal(ring_compare(ring, old), 1);
	assert_false(crypt_ring_settled(ring));
	assert_memory_not_equal(ring->secrets->ring_key, old->secrets->ring_key, CRYPT_KEY_SIZE);
	assert_memory_equal(ring->secrets->names_key, old->secrets->names_key, CRYPT_KEY_SIZE);
	assert_memory_equal(&ring->secrets->keys[1], &first, sizeof(first));
	text = test_ring_text(ring, &size);
	assert_int_equal(test_ring_open(text, size, "passphrase one", &again), DOVETAIL_WRONG_KEY);
	assert_int_equal(test_ring_open(text, size, "passphrase two", &again), DOVETAIL_OK);
	assert_int_equal(again->epoch, 2);
	assert_int_equal(again->secrets->readable, 2);
	assert_int_equal(crypt_ring_settle(again, &error), DOVETAIL_OK);
	assert_true(crypt_ring_settled(again));
	assert_int_equal(ring_compare(ring, again), -1);
	crypt_ring_free(again);
	free(text);

	/* old keys are kept up to a limit, and one that is still in use is never dropped */
	for (i = 0; i < CRYPT_KEYS_MAX - 2; i++)
		assert_int_equal(crypt_ring_rotate(ring, "new", &two, &test_env, &error), DOVETAIL_OK);
	assert_int_equal(ring->secrets->readable, CRYPT_KEYS_MAX);
	assert_int_equal(crypt_ring_rotate(ring, "new", &two, &test_env, &error), DOVETAIL_LIMIT);
	assert_int_equal(crypt_ring_settle(ring, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_rotate(ring, "new", &two, &test_env, &error), DOVETAIL_OK);
	assert_int_equal(ring->secrets->count, CRYPT_KEYS_MAX);
	assert_int_equal(ring->secrets->readable, 2);
	text = test_ring_text(ring, &size);
	assert_int_equal(test_ring_open(text, size, "passphrase two", &again), DOVETAIL_OK);
	crypt_ring_free(again);
	free(text);
	crypt_ring_free(old);
	crypt_ring_free(ring);
}

/* Who has had a key makes a ring of a higher epoch with the old slots: the slots say which epoch they are of. */
static void test_epoch_is_bound(void **state)
{
	struct crypt_ring *ring = test_ring(false), *again;
	size_t size;
	char *text;

	(void)state;
	ring->epoch = 7;
	text = test_ring_text(ring, &size);
	assert_int_equal(test_ring_open(text, size, "passphrase one", &again), DOVETAIL_DAMAGED);
	free(text);
	crypt_ring_free(ring);
}

/* ---- Key files ---- */

static char folder[] = "/tmp/dovetail-crypt-XXXXXX";

static void key_file_put(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static unsigned int files_synced, folders_synced;

/* in the place of the system's */
int fsync(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	if (S_ISDIR(st.st_mode))
		folders_synced++;
	else
		files_synced++;
	return syscall(SYS_fsync, fd);
}

static void test_key_file(void **state)
{
	static const char key[] = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
	static const char *const bad[] = { "", "\n", "AAEC\n", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gICA\n",
		"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9\n", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBka GxwdHh8\n",
		"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n" };
	char path[64], other[64], *text = NULL, line[64];
	struct crypt_ring *ring = test_ring(false), *again;
	struct dovetail_secret secret = { .key_file = path };
	size_t size, i;
	struct stat st;
	FILE *file;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/key", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	assert_int_equal(crypt_ring_slot_add(ring, "file", &secret, &test_env, &error), DOVETAIL_SYSTEM);
	files_synced = folders_synced = 0;
	assert_int_equal(dovetail_key_file_create(path, &text), DOVETAIL_OK);
	assert_null(text);
	assert_int_equal(files_synced, 1);
	assert_int_equal(folders_synced, 1);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	file = fopen(path, "r");
	assert_non_null(fgets(line, sizeof(line), file));
	assert_int_equal(strlen(line), 45);
	assert_null(fgets(line, sizeof(line), file));
	fclose(file);
	assert_int_equal(dovetail_key_file_create(path, &text), DOVETAIL_INVALID);
	assert_non_null(text);
	free(text);
	assert_int_equal(dovetail_key_file_create("/nowhere/key", NULL), DOVETAIL_SYSTEM);

	assert_int_equal(crypt_ring_slot_add(ring, "file", &secret, &test_env, &error), DOVETAIL_OK);
	text = test_ring_text(ring, &size);
	assert_int_equal(crypt_ring_parse(SUBTREE, text, size, &test_env, &again, &error), DOVETAIL_OK);
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_OK);
	assert_int_equal(dovetail_key_file_create(other, NULL), DOVETAIL_OK);
	secret.key_file = other;
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_WRONG_KEY);
	/* a failure leaves it unlocked */
	assert_non_null(again->secrets);

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		key_file_put(other, bad[i], 0600);
		assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_INVALID);
	}
	key_file_put(other, key, 0600);
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_WRONG_KEY);
	for (i = 0; i < 3; i++) {
		static const mode_t modes[] = { 0640, 0604, 0620 };

		key_file_put(other, key, modes[i]);
		assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_INVALID);
	}
	unlink(other);
	assert_int_equal(symlink(path, other), 0);
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_INVALID);
	unlink(other);
	assert_int_equal(mkfifo(other, 0600), 0);
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_INVALID);
	unlink(other);
	secret.key_file = folder;
	assert_int_equal(crypt_ring_unlock(again, &secret, &test_env, &error), DOVETAIL_INVALID);
	unlink(path);
	rmdir(folder);
	free(text);
	crypt_ring_free(again);
	crypt_ring_free(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round),
		cmocka_unit_test(test_wrong_secrets),
		cmocka_unit_test(test_bit_flips),
		cmocka_unit_test(test_forged),
		cmocka_unit_test(test_other_subtree),
		cmocka_unit_test(test_derivation_limits),
		cmocka_unit_test(test_real_limits),
		cmocka_unit_test(test_slots),
		cmocka_unit_test(test_old_slot),
		cmocka_unit_test(test_rotate),
		cmocka_unit_test(test_epoch_is_bound),
		cmocka_unit_test(test_key_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
