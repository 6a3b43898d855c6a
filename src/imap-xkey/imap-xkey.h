#ifndef IMAP_XKEY_H
#define IMAP_XKEY_H

/* XKEYSYNC and XKEYADD: the public keys of a user's devices. What the two commands
   share. The protocol is described in docs/xkey.md. */

#include "imap-common.h"
#include "imap-long-command.h"
#include "metasync.h"

/* Largest key, as it is received. */
#define XKEY_MAX_SIZE 1024
/* A fingerprint: SHA-256 in hexadecimal. */
#define XKEY_FPR_SIZE 64
/* Keys are the server's entries below it: XKEY_DIR/<fingerprint>. */
#define XKEY_DIR "/private/vendor/dovetail/xkey"

extern const struct imap_long_command_def imap_xkey_cmd_xkeysync;
extern const struct imap_long_command_def imap_xkey_cmd_xkeyadd;

/* -- xkey-key.c ------------------------------------------------------------ */

struct xkey_parsed {
	/* data stack */
	const char *fpr, *pem;
};
/* Looks for the first public key in a text of size bytes. TRUE if it is an RSA key;
   *key_r has its fingerprint and how it is stored. check: and if libcrypto finds
   nothing wrong with its numbers, which takes milliseconds. */
bool xkey_parse(const void *text, size_t size, bool check,
		struct xkey_parsed *key_r);

/* -- xkey-store.c ---------------------------------------------------------- */

struct xkey {
	char *fpr;
	/* of a key that is stored and was not told, in xkey_keys.want_pem; else
	   NULL */
	char *pem;
	/* as of the last read */
	bool stored;
	/* the client knows it; for XKEYSYNC */
	bool told;
};

/* The user's keys, in the order of their fingerprints. Owned by the command. */
struct xkey_keys {
	struct imap_long_command *lc;
	ARRAY(struct xkey) keys;
	/* The store at the last read, and what was read of it */
	struct store *store;
	struct store_cursor cursor;
	/* Wakes the command when something changes */
	bool watch;
	bool want_pem;

	/* for one read */
	unsigned int parsed;
	/* since when the store cannot be used; 0: it can */
	struct timeval trouble;
};

enum xkey_read {
	/* keys are those of the position cursor.epoch, cursor.modseq */
	XKEY_READ_DONE,
	/* there is more to read: call again */
	XKEY_READ_MORE,
	/* the store is in trouble: more() is called in a while, or the command
	   has been ended */
	XKEY_READ_TROUBLE
};

void xkey_keys_init(struct xkey_keys *keys, struct imap_long_command *lc);
void xkey_keys_deinit(struct xkey_keys *keys);
/* Reads what has changed since the last call. */
enum xkey_read xkey_keys_read(struct xkey_keys *keys);
/* The first key that is not before fpr: its index. */
unsigned int xkey_keys_find(const struct xkey_keys *keys, const char *fpr);
/* The client knows this key. */
void xkey_keys_add_told(struct xkey_keys *keys, const char *fpr);
/* Forgets keys that are neither stored nor known to the client. Returns TRUE if
   there are keys of which the client does not know what has become. */
bool xkey_keys_clean(struct xkey_keys *keys);
/* Commits a key to the store of the last read, if no key has changed since.
   Returns STORE_OK, STORE_MODIFIED or STORE_RESET (read again), or
   another status, which has been handled like a read's trouble. */
enum store_status
xkey_keys_add(struct xkey_keys *keys, const struct xkey_parsed *key);

/* What both commands do when their timer fires: try again. */
void xkey_timer(struct imap_long_command *lc, unsigned int id);

#endif
