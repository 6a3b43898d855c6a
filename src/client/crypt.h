#ifndef CLIENT_CRYPT_H
#define CLIENT_CRYPT_H

/* End-to-end encryption: keys and the formats of encrypted values and names (docs/encryption.md has them to the octet). Pure
   functions on octets with libsodium; no I/O but key files. crypt-replica.c ties them to the replica.

   Secrets are in sodium_malloc() memory and wiped. Texts of errors are static, and have nothing secret in them. */

#include "dovetail.h"

#define CRYPT_SUBTREE_ID_SIZE 16
#define CRYPT_DEVICE_SIZE 8
#define CRYPT_KEY_ID_SIZE 8
#define CRYPT_KEY_SIZE 32
#define CRYPT_SALT_SIZE 16
#define CRYPT_CHECK_SIZE 16
#define CRYPT_NONCE_SIZE 24
/* ring key and epoch, and the tag */
#define CRYPT_WRAPPED_SIZE (CRYPT_KEY_SIZE + 4 + 16)
#define CRYPT_LABEL_MAX 64
#define CRYPT_SLOTS_MAX 16
#define CRYPT_KEYS_MAX 64
#define CRYPT_PASSPHRASE_MIN 8
#define CRYPT_PASSPHRASE_MAX 65536
/* below a subtree; the ring is in the account's "<subtree>/.dovetail/ring" */
#define CRYPT_RESERVED ".dovetail"
#define CRYPT_RING_ENTRY "/" CRYPT_RESERVED "/ring"

/* What is pinned, and where random octets come from. NULL in its place: the real limits and randombytes_buf(). Only tests give
   another. */
struct crypt_env {
	/* passes and KiB of memory of Argon2id: what a slot may ask for, and what new slots have */
	uint32_t passes_min, passes_max, kib_min, kib_max, passes, kib;
	void (*random)(void *context, void *buffer, size_t size);
	void *context;
};

/* ---- The ring: what opens a subtree ---- */

enum crypt_slot_kind { CRYPT_SLOT_PASSPHRASE = 1, CRYPT_SLOT_KEY_FILE = 2 };
struct crypt_slot {
	enum crypt_slot_kind kind;
	char label[CRYPT_LABEL_MAX + 1];
	uint32_t passes, kib;
	uint8_t salt[CRYPT_SALT_SIZE], check[CRYPT_CHECK_SIZE], nonce[CRYPT_NONCE_SIZE], wrapped[CRYPT_WRAPPED_SIZE];
};

struct crypt_secrets;
struct crypt_ring {
	char *subtree;
	uint8_t subtree_id[CRYPT_SUBTREE_ID_SIZE];
	bool hide_names;
	/* values that are not encrypted are still accepted, and written anew */
	bool converting;
	/* grows with each new ring key (rotation), and with each change. generation is 0 until unlocked */
	uint32_t epoch;
	uint64_t generation;
	unsigned int slot_count;
	struct crypt_slot slots[CRYPT_SLOTS_MAX];
	/* NULL: locked */
	struct crypt_secrets *secrets;
	/* what secrets are sealed in; NULL once a function below has changed the ring */
	void *body;
	size_t body_size;
};

/* A new subtree with one data key and no slot. All below: *error_r is set to a static text on failure, and *ring is as before. */
enum dovetail_status
crypt_ring_new(const char *subtree, bool hide_names, const struct crypt_env *env, struct crypt_ring **ring_r, const char **error_r);
void crypt_ring_free(struct crypt_ring *ring);
enum dovetail_status crypt_ring_copy(const struct crypt_ring *ring, struct crypt_ring **copy_r, const char **error_r);
/* From the ring entry's value: locked. DAMAGED: not a ring, damaged on the way, or a slot that asks for less or more key
   derivation than is allowed. */
enum dovetail_status
crypt_ring_parse(const char *subtree, const void *data, size_t size, const struct crypt_env *env, struct crypt_ring **ring_r,
		 const char **error_r);
/* To the ring entry's value (text, freed with free()). Needs to be unlocked, with at least one slot. */
enum dovetail_status
crypt_ring_write(struct crypt_ring *ring, const struct crypt_env *env, void **data_r, size_t *size_r, const char **error_r);
/* WRONG_KEY: no slot is for this secret. DAMAGED: a slot is, but it or the ring was changed. */
enum dovetail_status
crypt_ring_unlock(struct crypt_ring *ring, const struct dovetail_secret *secret, const struct crypt_env *env, const char **error_r);
/* INVALID: bad label, bad secret; LIMIT: too many slots. */
enum dovetail_status
crypt_ring_slot_add(struct crypt_ring *ring, const char *label, const struct dovetail_secret *secret, const struct crypt_env *env,
		    const char **error_r);
/* NOT_FOUND; INVALID: it is the last. */
enum dovetail_status crypt_ring_slot_remove(struct crypt_ring *ring, const char *label, const char **error_r);
/* New ring key, new data key, one slot. The old data keys can be read until crypt_ring_settle(). */
enum dovetail_status
crypt_ring_rotate(struct crypt_ring *ring, const char *label, const struct dovetail_secret *secret, const struct crypt_env *env,
		  const char **error_r);
/* All has been written anew: values with old keys, or none, are refused from now on. */
enum dovetail_status crypt_ring_settle(struct crypt_ring *ring, const char **error_r);
/* Nothing is to be written anew. */
bool crypt_ring_settled(const struct crypt_ring *ring);
/* Opens a locked ring with the ring key of another one of the same epoch: DAMAGED if it was not made by somebody who has that. */
enum dovetail_status crypt_ring_follow(struct crypt_ring *ring, const struct crypt_ring *known, const char **error_r);

/* ---- Names ---- */

/* name is below the ring's subtree (or it itself), valid and in lower case. The name on the server: itself, or hidden. INVALID:
   reserved; LIMIT: too long. *wire_r is freed with free(). */
enum dovetail_status
crypt_name_to_wire(const struct crypt_ring *ring, const char *name, char **wire_r, const char **error_r);
/* At or below "<subtree>/.dovetail". */
bool crypt_name_is_reserved(const char *subtree, const char *name);
/* name is subtree, or below it */
bool crypt_name_is_below(const char *subtree, const char *name);

/* ---- Values ---- */

struct crypt_value {
	/* sealed with the key that is current: nothing to be written anew */
	bool current;
	uint8_t device[CRYPT_DEVICE_SIZE];
	uint64_t counter;
	/* the entry's whole name, NUL-terminated */
	const char *name;
	/* a NUL follows */
	const void *data;
	size_t size;
	/* owns the above */
	void *buffer;
	size_t buffer_size;
};
void crypt_value_free(struct crypt_value *value);
/* The size on the server of a value of this size, with the name's part below the subtree; SIZE_MAX: too large. */
size_t crypt_sealed_size(size_t relative_name_size, size_t size);
/* value: device, counter, name, data. wire: its name on the server. *data_r is text, freed with free(). */
enum dovetail_status
crypt_value_seal(const struct crypt_ring *ring, const char *wire, const struct crypt_value *value, const struct crypt_env *env,
		 void **data_r, size_t *size_r, const char **error_r);
enum crypt_accept {
	/* what the server sends */
	CRYPT_ACCEPT_LIVE,
	/* own writes that have waited: keys that are no longer in use, too */
	CRYPT_ACCEPT_RETIRED
};
/* LOCKED: sealed with a key that the ring does not have. DAMAGED: all else. */
enum dovetail_status
crypt_value_open(const struct crypt_ring *ring, const char *wire, const void *data, size_t size, enum crypt_accept accept,
		 struct crypt_value *value_r, const char **error_r);
/* Without a key: has it the form of a sealed value? */
bool crypt_value_is_sealed(const void *data, size_t size);

/* ---- The tie to the replica (crypt-codec.c, crypt-replica.c) ---- */

/* dovetail_open() calls it once the file is open: sets the codec (replica.h). */
enum dovetail_status crypt_replica_open(struct dovetail *replica);
/* The sync calls it after each consistent state, before it takes sets from the queue: goes on with what is to be written anew
   (rotation, conversion, writes that have waited), and tells what has been noticed since the last call. Cheap if there is
   nothing to do. notice may be NULL. */
typedef void crypt_notice_t(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text);
enum dovetail_status crypt_replica_step(struct dovetail *replica, crypt_notice_t *notice, void *context);

#endif
