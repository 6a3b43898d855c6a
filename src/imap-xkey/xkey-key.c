/* What a key is: parsing and checking by libcrypto. The one file that knows it. */

#include "imap-xkey.h"
#include "buffer.h"
#include "hex-binary.h"
#include "sha2.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

/* A text is 7 bit, and has no private key anywhere: a client that sends one by
   mistake is not to be told that all is well. */
static bool xkey_text_is_valid(const char *text, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++) {
		if (text[i] == '\0' || (unsigned char)text[i] >= 0x80)
			return FALSE;
	}
	return strstr(text, "PRIVATE KEY-----") == NULL;
}

/* Returns the DER of the text's first public key (OPENSSL_free()), or NULL. */
static unsigned char *xkey_pem_decode(const char *text, long *size_r)
{
	BIO *bio = BIO_new_mem_buf(text, -1);
	char *name, *header;
	unsigned char *der = NULL;
	bool found = FALSE;

	while (bio != NULL && !found &&
	       PEM_read_bio(bio, &name, &header, &der, size_r) == 1) {
		found = strcmp(name, PEM_STRING_PUBLIC) == 0 && *header == '\0';
		OPENSSL_free(name);
		OPENSSL_free(header);
		if (!found) {
			OPENSSL_free(der);
			der = NULL;
		}
	}
	BIO_free(bio);
	return der;
}

/* A key that is written in another way than the one of DER would have another
   fingerprint, and other devices might not understand it. */
static bool xkey_is_der(const X509_PUBKEY *public, const EVP_PKEY *pkey)
{
	unsigned char *der = NULL, *expected = NULL;
	int size = i2d_X509_PUBKEY(public, &der);
	bool ret;

	ret = size > 0 && i2d_PUBKEY(pkey, &expected) == size &&
		memcmp(der, expected, size) == 0;
	OPENSSL_free(der);
	OPENSSL_free(expected);
	return ret;
}

static bool xkey_is_usable(const X509_PUBKEY *public, bool check)
{
	EVP_PKEY *pkey = X509_PUBKEY_get0(public);
	EVP_PKEY_CTX *ctx;
	bool ret;

	if (pkey == NULL || EVP_PKEY_is_a(pkey, "RSA") != 1 ||
	    !xkey_is_der(public, pkey))
		return FALSE;
	if (!check)
		return TRUE;
	ctx = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);
	ret = ctx != NULL && EVP_PKEY_public_check(ctx) == 1;
	EVP_PKEY_CTX_free(ctx);
	return ret;
}

/* Of the BIT STRING's content, which for RSA is the RSAPublicKey of PKCS#1. */
static const char *xkey_fingerprint(const X509_PUBKEY *public)
{
	unsigned char digest[SHA256_RESULTLEN];
	const unsigned char *data;
	int size;

	if (X509_PUBKEY_get0_param(NULL, &data, &size, NULL, public) != 1)
		return NULL;
	sha256_get_digest(data, size, digest);
	return binary_to_hex(digest, sizeof(digest));
}

static const char *xkey_pem_encode(const X509_PUBKEY *public)
{
	BIO *bio = BIO_new(BIO_s_mem());
	const char *pem = NULL;
	char *data;
	long size;

	if (bio != NULL && PEM_write_bio_X509_PUBKEY(bio, public) == 1) {
		size = BIO_get_mem_data(bio, &data);
		pem = t_strndup(data, size);
	}
	BIO_free(bio);
	return pem;
}

static X509_PUBKEY *xkey_decode(const char *text)
{
	X509_PUBKEY *public = NULL;
	const unsigned char *p;
	unsigned char *der;
	long size;

	der = xkey_pem_decode(text, &size);
	if (der == NULL)
		return NULL;
	p = der;
	public = d2i_X509_PUBKEY(NULL, &p, size);
	if (public != NULL && p != der + size) {
		/* something follows it */
		X509_PUBKEY_free(public);
		public = NULL;
	}
	OPENSSL_free(der);
	return public;
}

bool xkey_parse(const void *data, size_t size, bool check,
		struct xkey_parsed *key_r)
{
	const char *text = t_strndup(data, size);
	X509_PUBKEY *public = NULL;
	bool ret = FALSE;

	i_zero(key_r);
	if (!xkey_text_is_valid(text, size))
		return FALSE;
	public = xkey_decode(text);
	if (public != NULL && xkey_is_usable(public, check)) {
		key_r->fpr = xkey_fingerprint(public);
		key_r->pem = xkey_pem_encode(public);
		ret = key_r->fpr != NULL && key_r->pem != NULL;
	}
	X509_PUBKEY_free(public);
	/* why it is not one interests nobody */
	ERR_clear_error();
	return ret;
}
