#ifndef STORE_TEST_H
#define STORE_TEST_H

/* What the store's tests share: a store in a directory of its own that is
   removed at the end, short words for setting and reading, a clock and a
   file system that a test may bend, and a workload whose state is known from
   its number alone (for crashes). */

#include "store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define SECS_PER_DAY (24 * 60 * 60)

/* What time() says to the store; 0: the true time. Set to 0 by setup. */
extern int64_t test_now;
/* What fstatfs() says; 0 and NULL: the truth. */
extern uint32_t test_fs_type;
extern const int32_t *test_fs_id;

struct fixture {
	char base[256];		/* mkdtemp() */
	char dir[300];		/* the store's */
	struct store_settings set;
	struct store *store;
	struct store_error error;
	struct store_pos pos;	/* of the last call that gives one */
	char log[2048];		/* the last message */
	unsigned int log_count;
	char text[65536];	/* of the last read_text() */
};

/* For cmocka: an open store in *state. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Also for tests that have no fixture. */
void make_base(char *base, size_t size);
void remove_base(const char *base);

/* Opens a store that must open. */
struct store *must_open(const struct store_settings *set);
void reopen(struct fixture *f);
/* The path of a file in the store's directory; lives until the next call. */
const char *path_of(const struct fixture *f, const char *name);
/* Runs SQL on the database behind the store's back. */
void sql(const struct fixture *f, const char *text);
int64_t sql_number(const struct fixture *f, const char *text);

/* Sets one entry, value NULL removes. */
enum store_status put(struct fixture *f, const char *mailbox,
		      const char *name, const char *value);
enum store_status put_if(struct fixture *f, const char *mailbox,
			 const char *name, const char *value,
			 enum store_condition_type type, struct store_pos pos);
/* put() that must succeed; returns the modseq. */
uint64_t must_put(struct fixture *f, const char *mailbox, const char *name,
		  const char *value);
/* The value, "-" for removed, "" ... Modseq in *modseq_r unless NULL. Lives
   until the next call. */
const char *get(struct fixture *f, const char *mailbox, const char *name,
		uint64_t *modseq_r);
struct store_state get_state(struct fixture *f);
void must_check(struct fixture *f);

/* All that a filter can see. */
extern const struct store_filter filter_all;
/* Reads to the end: "modseq mailbox name=value\n", removed ones
   "modseq mailbox name -\n". The status if it isn't STORE_OK. */
const char *read_text(struct fixture *f, struct store_cursor *cursor,
		      const struct store_filter *filter);
const char *snapshot_text(struct fixture *f, const struct store_filter *filter);

/* -- the workload: set number 1, 2, 3 ... each of several entries that belong
   together */
enum store_status workload_apply(struct store *store, unsigned int number,
				 struct store_error *error_r);
/* The number of the last set in the store; fails unless exactly the sets up
   to it are there, whole. */
unsigned int workload_verify(struct store *store);

/* Random numbers. rnd_start() takes its seed from the clock and prints it, or
   from the environment (STORE_TEST_SEED) to repeat a run. */
uint32_t rnd(uint32_t below);
void rnd_seed(uint32_t seed);
void rnd_start(void);

#endif
