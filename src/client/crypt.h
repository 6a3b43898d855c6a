#ifndef CLIENT_CRYPT_H
#define CLIENT_CRYPT_H

/* End-to-end encryption: keys and the format of encrypted values and names (docs/encryption.md). Pure functions on octets with libsodium; crypt-replica.c ties them to
   the replica. No I/O but key files. Secrets are in sodium_malloc() memory and wiped. */

#include "dovetail.h"

/* The keys of one encrypted subtree: data keys by id, of which one is the current one. Owned by the caller. */
struct crypt_keys;

#endif
