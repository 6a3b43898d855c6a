#ifndef CLIENT_CRYPT_STATE_H
#define CLIENT_CRYPT_STATE_H

/* What the encryption knows of one replica: its subtrees and their rings in memory, and what is kept in the replica's local
   values. Shared by crypt-state.c, crypt-accept.c, crypt-codec.c, crypt-step.c and crypt-replica.c. */

#include "crypt-private.h"
#include "replica.h"

#define CRYPT_HASH_SIZE 16

/* One encrypted subtree, in memory. */
struct crypt_subtree {
	char *name;
	/* The accepted one, locked or not; NULL: none yet. ring_hash: of its text */
	struct crypt_ring *ring;
	uint8_t ring_hash[CRYPT_HASH_SIZE];
	/* Our own that came too late: opens writes that wait. NULL: none */
	struct crypt_ring *lost;
	/* there may be something to be written anew */
	bool look;
};

struct crypt_told {
	enum dovetail_notice notice;
	char *mailbox, *entry;
	/* static */
	const char *text;
};

/* The codec's context. */
struct crypt_context {
	struct dovetail *replica;
	struct crypt_subtree **subtrees;
	size_t count;
	/* as in the replica: names, each with a NUL */
	char *list;
	size_t list_size;

	/* results of the last encode() or decode() */
	struct crypt_value value;
	void *sealed;
	char *wire;
	/* of the last decode(): readable, but to be written anew */
	bool stale;
	/* what decode() is told counts as if it arrived: it came while the subtree was locked */
	bool catching_up;

	/* waits for crypt_replica_step() */
	struct crypt_told *told;
	size_t told_count;
};

/* Kept for each subtree. */
struct crypt_known {
	uint8_t device[CRYPT_DEVICE_SIZE];
	/* the last one that was used */
	uint64_t counter;
	/* a ring was accepted that was the server's: the newest one */
	bool seen;
	uint8_t subtree_id[CRYPT_SUBTREE_ID_SIZE];
	uint32_t epoch;
	uint64_t generation;
	uint8_t hash[CRYPT_HASH_SIZE];
};

/* Kept for each entry: what was seen of it. */
#define CRYPT_SEEN_DEVICES 64
struct crypt_seen {
	/* our own last counter for it; also of removals */
	uint64_t own;
	/* the value that was accepted last; counter 0: none */
	uint8_t last_device[CRYPT_DEVICE_SIZE];
	uint64_t last;
	/* we have written since then */
	bool ahead;
	/* hash of the value there that was refused; all 0: none */
	uint8_t refused[CRYPT_HASH_SIZE];
	size_t count;
	struct {
		uint8_t device[CRYPT_DEVICE_SIZE];
		uint64_t counter;
	} devices[CRYPT_SEEN_DEVICES];
};

enum dovetail_status crypt_context_new(struct dovetail *replica, struct crypt_context **context_r);
void crypt_context_free(struct crypt_context *context);
/* Subtrees that another handle has added. */
enum dovetail_status crypt_subtrees_load(struct crypt_context *context);
enum dovetail_status crypt_subtree_add(struct crypt_context *context, const char *name, struct crypt_subtree **subtree_r);
/* NULL: none */
struct crypt_subtree *crypt_subtree_find(const struct crypt_context *context, const char *name);
/* "<subtree>/.dovetail..." of any subtree, known or not; *size_r: of the subtree's name */
bool crypt_is_reserved(const char *name, size_t *size_r);

enum dovetail_status crypt_known_get(struct crypt_context *context, const char *subtree, struct crypt_known *known_r);
enum dovetail_status crypt_known_set(struct crypt_context *context, const char *subtree, const struct crypt_known *known);
enum dovetail_status crypt_seen_get(struct crypt_context *context, const char *mailbox, const char *wire,
				    struct crypt_seen *seen_r);
enum dovetail_status crypt_seen_set(struct crypt_context *context, const char *mailbox, const char *wire,
				    const struct crypt_seen *seen);

/* kind: "ring" (the accepted one's text), "lost", "own" (hashes). *text_r is malloc()ed, NULL: none. */
enum dovetail_status
crypt_text_get(struct crypt_context *context, const char *kind, const char *subtree, char **text_r, size_t *size_r);
enum dovetail_status
crypt_text_set(struct crypt_context *context, const char *kind, const char *subtree, const void *text, size_t size);

/* crypt-accept.c */
void crypt_text_hash(const void *text, size_t size, uint8_t hash[CRYPT_HASH_SIZE]);
/* The ring (unlocked; taken over) with its text is the accepted one now, in memory and in the replica. confirmed: it is the
   server's, too. */
enum dovetail_status
crypt_ring_accept(struct crypt_context *context, struct crypt_subtree *subtree, struct crypt_ring *ring, const void *text,
		  size_t size, bool confirmed);
/* Before our own ring takes the place of the accepted one: that is remembered until one is confirmed. It may be on the server
   without our knowing, since answers can be lost. */
enum dovetail_status crypt_ring_note(struct crypt_context *context, const struct crypt_subtree *subtree);
/* Was the accepted ring seen on the server? Was one with its keys? Until then, nothing is sent that is sealed with them: another
   device may be first with others. */
bool crypt_ring_is_confirmed(const struct crypt_known *known, const struct crypt_subtree *subtree);
bool crypt_ring_is_published(const struct crypt_known *known, const struct crypt_subtree *subtree);
/* Is this (unlocked) ring, with this text, older than what was seen, or another one? */
bool crypt_ring_is_stale(const struct crypt_known *known, const struct crypt_ring *ring, const void *text, size_t size);
/* Another handle may have changed the accepted ring. */
enum dovetail_status crypt_ring_refresh(struct crypt_context *context, struct crypt_subtree *subtree);
/* The server shows this as the ring of the subtree. */
enum dovetail_status crypt_ring_arrive(struct crypt_context *context, const char *name, const void *data, size_t size);
/* crypt-step.c: the ring that the server has, as far as we know; malloc()ed. NULL: none. *pending_r: a write of our own waits. */
enum dovetail_status
crypt_ring_shown(struct dovetail *replica, const char *subtree, char **text_r, size_t *size_r, bool *pending_r);
/* The new or changed ring (taken over) is the accepted one of the subtree (made if it is new), and goes into the queue. */
enum dovetail_status
crypt_ring_store(struct crypt_context *context, const char *name, struct crypt_ring *ring, struct crypt_subtree **subtree_r);
/* What is to be done for the subtree at a consistent state. */
enum dovetail_status crypt_step(struct crypt_context *context, struct crypt_subtree *subtree);

#define CRYPT_ROLLED_BACK "the server shows an older or another set of keys than this device has seen"
/* Remembers what is to be told; text is static. */
void crypt_tell(struct crypt_context *context, enum dovetail_notice notice, const char *mailbox, const char *entry,
		const char *text);

/* crypt-codec.c */
void crypt_codec_set(struct crypt_context *context);

#endif
