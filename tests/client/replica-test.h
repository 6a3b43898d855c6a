#ifndef REPLICA_TEST_H
#define REPLICA_TEST_H

/* What the replica's tests share: a replica in a directory of its own that is removed at the end, short words for reading and
   writing, and a server in memory that knows the protocol's rules (docs/protocol.md) and takes the place of the sync: replica_*()
   is all it talks to. */

#include "replica.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define BELOW "/private/vendor/example/"
#define SERVER_ENTRIES 64

struct server_entry {
	char *mailbox, *name;
	/* NULL: removed */
	char *value;
	uint64_t modseq;
};

struct server {
	uint32_t epoch;
	uint64_t modseq, floor;
	struct server_entry entries[SERVER_ENTRIES];
	unsigned int count;
	/* removals and values that were committed, for tests that ask */
	void (*committed)(void *context, const char *mailbox, const char *name, const char *value);
	void *context;
};

/* A set as it goes over the wire, kept by a test that sends it late */
struct request {
	int64_t id;
	char condition[64];
	unsigned int count;
	struct {
		char *mailbox, *name, *value;
	} writes[100];
};

enum answer { ANSWER_OK, ANSWER_MODIFIED, ANSWER_RESET };

struct fixture {
	char base[256];		/* mkdtemp() */
	char path[300];		/* the replica's */
	struct dovetail *replica;
	struct server server;
	char text[65536];
};

/* For cmocka: an open replica that covers BELOW of all, in *state. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
void make_base(char *base, size_t size);
void remove_base(const char *base);
struct dovetail *must_open(const char *path, unsigned int flags);
void set_parts(struct dovetail *replica);
void reopen(struct fixture *f);
/* Runs SQL on the file behind the replica's back. */
void sql(const struct fixture *f, const char *text);

/* OK, or the test fails with the replica's text */
void must_at(struct dovetail *replica, enum dovetail_status status, const char *file, int line);
#define must(replica, status) must_at(replica, status, __FILE__, __LINE__)
void expect_at(struct dovetail *replica, enum dovetail_status status, enum dovetail_status expected, const char *text,
	       const char *file, int line);
/* It fails so, and the text has this in it */
#define expect(replica, status, expected, text) expect_at(replica, status, expected, text, __FILE__, __LINE__)

/* The value, "-" if there is none; lives until the next call. */
const char *get(struct dovetail *replica, const char *mailbox, const char *name);
unsigned int get_flags(struct dovetail *replica, const char *mailbox, const char *name);
void put(struct dovetail *replica, const char *mailbox, const char *name, const char *value);
/* What replica_changed_next() tells: "mailbox name=value;..."; "-" for removed. Lives until the next call. */
const char *changed(struct fixture *f);

/* -- what goes and comes */
enum dovetail_status queue_next(struct fixture *f, struct replica_set *set);
/* The next set is this one write (NULL: a removal) under this condition; its id. */
int64_t next_is(struct fixture *f, const char *name, const char *value, const char *condition);
/* Of the account; NULL: removed. */
void stage(struct fixture *f, const char *name, const char *value);
void consistent(struct fixture *f, const char *mark, bool reset);

/* -- the server */
void server_init(struct server *server, uint32_t epoch);
void server_free(struct server *server);
struct server_entry *server_find(struct server *server, const char *mailbox, const char *name);
/* One change set of another client. */
void server_put(struct server *server, const char *mailbox, const char *name, const char *value);
/* "(epoch modseq)"; lives until the next call */
const char *server_pos(const struct server *server);
/* A set of the replica's, applied under its condition. */
enum answer server_apply(struct server *server, const struct request *request);
/* Copies it. */
void request_set(struct request *request, const struct replica_set *set);
void request_free(struct request *request);
/* The values of the entries of the request, as MODIFIED shows them: those changed after its condition. */
unsigned int server_theirs(struct server *server, const struct request *request, struct replica_theirs *theirs);
/* Stages what the mark asks for, in order of modseq, with a PARTIAL after each `partial` entries (0: none); stops after `stop`
   entries (0: all) and then returns false. mark_r: of the end. */
bool server_stage(struct server *server, struct dovetail *replica, unsigned int partial, unsigned int stop, char mark_r[64]);
/* All of it and its marker. */
void server_catch_up(struct fixture *f);
/* Catches up and sends until nothing waits. */
void server_sync(struct fixture *f, enum dovetail_rule rule, replica_resolve_t *resolve, void *context);

/* -- chance: the same for the same DOVETAIL_SEED, which is printed */
void rnd_start(void);
unsigned int rnd(unsigned int below);

#endif
