#ifndef CRYPT_DEVICES_H
#define CRYPT_DEVICES_H

/* What the tests of a replica's encryption share: two devices of one user, with their replicas, and a server that may do as it
   likes. */

#include "replica-test.h"
#include "crypt.h"

#define S "/private/vendor/example/notes"
#define RING S "/.dovetail/ring"

struct device {
	char path[300];
	struct dovetail *replica;
	/* what it was told: "rollback mailbox+entry;unreadable ...;" */
	char notices[4096];
};

struct devices {
	char base[256], key[3][300];
	struct server server;
	struct device a, b;
};

/* For cmocka: two empty replicas and three key files, in *state. */
int devices_setup(void **state);
int devices_teardown(void **state);
#define TEST(name) cmocka_unit_test_setup_teardown(name, devices_setup, devices_teardown)

struct dovetail_secret secret_of(struct devices *f, unsigned int which);
void device_reopen(struct device *device);
/* Catches up and steps: what a sync does before it sends. */
void catch_up(struct devices *f, struct device *device);
/* At most this many sets; how many went. */
unsigned int send_sets(struct devices *f, struct device *device, unsigned int most);
/* Gives out all that can be sent without waiting for answers, then another device syncs, then the server takes what was sent. */
void send_late(struct devices *f, struct device *device, struct device *first);
/* Until there is nothing more to send. */
void device_sync(struct devices *f, struct device *device);
/* What it was told since the last time; lives until the next call. */
const char *notices(struct device *device);
void encrypt_at(struct devices *f, struct device *device, bool hide, unsigned int key);
enum dovetail_status unlock(struct devices *f, struct device *device, unsigned int key);
/* a has encrypted, b has the key, both are in step */
void both(struct devices *f, bool hide);
/* Is the text in a value or a name on the server? */
bool server_has(struct devices *f, const char *text);
/* A copy of what is there. */
char *server_value(struct devices *f, const char *mailbox, const char *name);
/* All that the user sees: "mailbox name=value;..."; lives until the next call. */
const char *all(struct dovetail *replica);

#endif
