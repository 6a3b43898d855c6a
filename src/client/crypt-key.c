/* End-to-end encryption: what a passphrase or a key file gives, key files themselves, and the text form of what is sealed.
   Called by the other crypt-*.c; owns nothing. */

#include "crypt-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* base64 of 32 octets, and its NUL */
#define KEY_FILE_TEXT_SIZE sodium_base64_ENCODED_LEN(CRYPT_KEY_SIZE, sodium_base64_VARIANT_ORIGINAL)

static void env_random(void *context, void *buffer, size_t size)
{
	(void)context;
	randombytes_buf(buffer, size);
}

/* The minimum is RFC 9106's second recommendation but for its lanes (libsodium has one); the maximum keeps a server's slot from
   stopping the device. */
static const struct crypt_env env_real = {
	.passes_min = 3, .passes_max = 12, .kib_min = 64 * 1024, .kib_max = 1024 * 1024,
	.passes = 3, .kib = 256 * 1024,
	.random = env_random
};

bool crypt_begin(const struct crypt_env **env, const char **error_r)
{
	/* locks, and does nothing the second time */
	if (sodium_init() < 0) {
		*error_r = "libsodium could not be started";
		return false;
	}
	if (*env == NULL)
		*env = &env_real;
	return true;
}

void crypt_derive(const uint8_t key[CRYPT_KEY_SIZE], const char *purpose, const void *more, size_t more_size, uint8_t *out,
		  size_t n)
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, key, CRYPT_KEY_SIZE, n);
	crypto_generichash_update(&state, (const uint8_t *)purpose, strlen(purpose));
	if (more_size > 0)
		crypto_generichash_update(&state, more, more_size);
	crypto_generichash_final(&state, out, n);
	sodium_memzero(&state, sizeof(state));
}

enum dovetail_status
crypt_kek_derive(const struct dovetail_secret *secret, const uint8_t *octets, const struct crypt_slot *slot,
		 uint8_t kek[CRYPT_KEY_SIZE], const char **error_r)
{
	if (octets != NULL) {
		crypt_derive(octets, "dovetail key file 1", slot->salt, CRYPT_SALT_SIZE, kek, CRYPT_KEY_SIZE);
		return DOVETAIL_OK;
	}
	if (crypto_pwhash(kek, CRYPT_KEY_SIZE, secret->passphrase, secret->passphrase_size, slot->salt,
			  slot->passes, (size_t)slot->kib * 1024, crypto_pwhash_ALG_ARGON2ID13) < 0)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, "not enough memory to derive a key from the passphrase");
	return DOVETAIL_OK;
}

static enum dovetail_status key_file_check(int fd, const char **error_r)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return crypt_fail(error_r, DOVETAIL_SYSTEM, "the key file cannot be read");
	if (!S_ISREG(st.st_mode))
		return crypt_fail(error_r, DOVETAIL_INVALID, "the key file is not a regular file");
	if (st.st_uid != geteuid())
		return crypt_fail(error_r, DOVETAIL_INVALID, "the key file belongs to another user");
	if ((st.st_mode & 077) != 0)
		return crypt_fail(error_r, DOVETAIL_INVALID, "others may use the key file: its mode has to be 0600");
	return DOVETAIL_OK;
}

/* In text there is room for one octet more than a key file may have. */
static enum dovetail_status key_file_read(int fd, char *text, size_t size, uint8_t *octets, const char **error_r)
{
	size_t got = 0, key_size;
	ssize_t ret;

	while (got < size && (ret = read(fd, text + got, size - got)) != 0) {
		if (ret > 0)
			got += ret;
		else if (errno != EINTR)
			return crypt_fail(error_r, DOVETAIL_SYSTEM, "the key file cannot be read");
	}
	while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == '\r' || text[got - 1] == '='))
		got--;
	if (got == size ||
	    sodium_base642bin(octets, CRYPT_KEY_SIZE, text, got, NULL, &key_size, NULL,
			      sodium_base64_VARIANT_ORIGINAL_NO_PADDING) < 0 ||
	    key_size != CRYPT_KEY_SIZE)
		return crypt_fail(error_r, DOVETAIL_INVALID, "the key file does not have 32 octets in base64");
	return DOVETAIL_OK;
}

static enum dovetail_status key_file_load(const char *path, uint8_t **octets_r, const char **error_r)
{
	const size_t size = KEY_FILE_TEXT_SIZE + 4;
	enum dovetail_status status;
	uint8_t *octets;
	char *text;
	/* O_NONBLOCK: a FIFO in its place does not stop us */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0) {
		if (errno == ELOOP)
			return crypt_fail(error_r, DOVETAIL_INVALID, "the key file is a symbolic link");
		return crypt_fail(error_r, DOVETAIL_SYSTEM, errno == ENOENT ? "there is no such key file" :
				  "the key file cannot be opened");
	}
	octets = sodium_malloc(CRYPT_KEY_SIZE);
	text = sodium_malloc(size);
	status = octets == NULL || text == NULL ? crypt_fail(error_r, DOVETAIL_SYSTEM, "out of memory") :
		key_file_check(fd, error_r);
	if (status == DOVETAIL_OK)
		status = key_file_read(fd, text, size, octets, error_r);
	(void)close(fd);
	sodium_free(text);
	if (status != DOVETAIL_OK) {
		sodium_free(octets);
		octets = NULL;
	}
	*octets_r = octets;
	return status;
}

enum dovetail_status crypt_secret_load(const struct dovetail_secret *secret, uint8_t **octets_r, const char **error_r)
{
	*octets_r = NULL;
	if (secret == NULL || (secret->passphrase == NULL) == (secret->key_file == NULL))
		return crypt_fail(error_r, DOVETAIL_INVALID, "a secret is a passphrase or a key file");
	if (secret->key_file != NULL)
		return key_file_load(secret->key_file, octets_r, error_r);
	if (secret->passphrase_size < CRYPT_PASSPHRASE_MIN)
		return crypt_fail(error_r, DOVETAIL_INVALID, "a passphrase has at least 8 octets");
	if (secret->passphrase_size > CRYPT_PASSPHRASE_MAX)
		return crypt_fail(error_r, DOVETAIL_INVALID, "a passphrase has at most 65,536 octets");
	return DOVETAIL_OK;
}

static bool key_file_write(int fd, const char *text, size_t size)
{
	while (size > 0) {
		ssize_t ret = write(fd, text, size);

		if (ret > 0) {
			text += ret;
			size -= ret;
		} else if (ret < 0 && errno != EINTR) {
			return false;
		}
	}
	return fsync(fd) == 0;
}

/* Its place in the directory, too: what it alone opens may be on the server soon. Some directories cannot be read, or not be
   synced. */
static void key_file_dir_sync(const char *path)
{
	const char *name = strrchr(path, '/');
	char *dir = name == NULL ? strdup(".") : strndup(path, name - path + 1);
	int fd = dir == NULL ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		(void)fsync(fd);
		(void)close(fd);
	}
	free(dir);
}

enum dovetail_status dovetail_key_file_create(const char *path, char **error_r)
{
	const struct crypt_env *env = NULL;
	const char *text_error = NULL;
	enum dovetail_status status = DOVETAIL_SYSTEM;
	uint8_t *octets = NULL;
	char *text = NULL;
	int fd = -1;

	if (error_r != NULL)
		*error_r = NULL;
	if (!crypt_begin(&env, &text_error)) {
		;
	} else if ((octets = sodium_malloc(CRYPT_KEY_SIZE)) == NULL || (text = sodium_malloc(KEY_FILE_TEXT_SIZE)) == NULL) {
		text_error = "out of memory";
	} else if ((fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0) {
		text_error = strerror(errno);
		status = errno == EEXIST ? DOVETAIL_INVALID : DOVETAIL_SYSTEM;
	} else {
		env->random(env->context, octets, CRYPT_KEY_SIZE);
		sodium_bin2base64(text, KEY_FILE_TEXT_SIZE, octets, CRYPT_KEY_SIZE, sodium_base64_VARIANT_ORIGINAL);
		/* in the place of its NUL */
		text[KEY_FILE_TEXT_SIZE - 1] = '\n';
		if (key_file_write(fd, text, KEY_FILE_TEXT_SIZE))
			status = DOVETAIL_OK;
		else
			text_error = strerror(errno);
		if (close(fd) < 0 && status == DOVETAIL_OK) {
			status = DOVETAIL_SYSTEM;
			text_error = strerror(errno);
		}
		if (status != DOVETAIL_OK)
			(void)unlink(path);
		else
			key_file_dir_sync(path);
	}
	sodium_free(octets);
	sodium_free(text);
	if (status != DOVETAIL_OK && error_r != NULL && asprintf(error_r, "%s: %s", path, text_error) < 0)
		*error_r = NULL;
	return status;
}

char *crypt_text_encode(const char *prefix, const uint8_t *data, size_t size, size_t *text_size_r)
{
	const size_t prefix_size = strlen(prefix),
		text_size = sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	char *text = malloc(prefix_size + text_size);

	if (text == NULL)
		return NULL;
	memcpy(text, prefix, prefix_size);
	sodium_bin2base64(text + prefix_size, text_size, data, size, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	/* without its NUL */
	*text_size_r = prefix_size + text_size - 1;
	return text;
}

uint8_t *crypt_text_decode(const char *prefix, const void *text, size_t text_size, size_t *size_r, bool *memory_r)
{
	const size_t prefix_size = strlen(prefix);
	const unsigned char *p;
	uint8_t *data;
	size_t i;

	*memory_r = false;
	if (text_size < prefix_size || memcmp(text, prefix, prefix_size) != 0)
		return NULL;
	/* sodium_base642bin() of 1.0.18 takes some octets above 0x7f for letters */
	for (p = text, i = prefix_size; i < text_size; i++) {
		if (p[i] > 0x7f)
			return NULL;
	}
	text_size -= prefix_size;
	data = malloc(text_size / 4 * 3 + 3);
	if (data == NULL) {
		*memory_r = true;
		return NULL;
	}
	if (sodium_base642bin(data, text_size / 4 * 3 + 3, (const char *)text + prefix_size, text_size, NULL, size_r, NULL,
			      sodium_base64_VARIANT_ORIGINAL_NO_PADDING) < 0) {
		free(data);
		return NULL;
	}
	return data;
}
