/* Reading: single entries, snapshots, what came after a position, and when a
   reader has to start again. */

#include "store-test.h"

#include <stdio.h>
#include <string.h>

/* -- store_get() */

static bool keys_callback(const struct store_entry *entry, void *context)
{
	struct fixture *f = context;
	size_t size = strlen(f->text);

	(void)snprintf(f->text + size, sizeof(f->text) - size,
		       "%s %s %llu %s\n", entry->mailbox, entry->name,
		       (unsigned long long)entry->modseq,
		       entry->removed ? "-" : "+");
	return strcmp(entry->name, "/private/stop") != 0;
}

static void test_get(void **state)
{
	static const struct store_key keys[] = {
		{ "x", "/private/a" },
		{ "", "/private/none" },
		{ "", "/private/gone" },
		{ "", "/private/a" },
		{ "", "/private/stop" },
		{ "x", "/private/a" },
	};
	struct fixture *f = *state;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/gone", "1");
	must_put(f, "", "/private/gone", NULL);
	must_put(f, "x", "/private/a", "1");
	assert_int_equal(store_get(f->store, keys, 6, keys_callback, f, &pos,
				   &f->error), STORE_OK);
	assert_int_equal(pos.modseq, 5);
	assert_string_equal(f->text,
			    "x /private/a 5 +\n"
			    " /private/none 0 -\n"
			    " /private/gone 4 -\n"
			    " /private/a 2 +\n"
			    " /private/stop 0 -\n");
}

/* -- cursors */

static void test_snapshot_and_after(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/b", NULL);
	must_put(f, "x", "/shared/c", "1");
	must_put(f, "", "/private/a", "2");
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	/* what was removed before is not of interest, nor old values */
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "5 x /shared/c=1\n6  /private/a=2\n");
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
	must_put(f, "", "/private/a", NULL);
	must_put(f, "", "/private/b", "3");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "7  /private/a -\n8  /private/b=3\n");
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
}

static void test_since(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/a", NULL);
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "3  /private/b=1\n4  /private/a -\n");
	assert_int_equal(store_cursor_since(f->store, &f->pos, &cursor,
					    &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
}

static bool stop_after(const struct store_entry *entry, void *context)
{
	unsigned int *left = context;

	(void)entry;
	return --*left > 0;
}

/* What is removed while a snapshot is on its way is told; the end is
   consistent. */
static void test_change_within_snapshot(void **state)
{
	const struct store_read req = { &filter_all, UINT64_MAX, false };
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_state st;
	unsigned int left = 2;
	bool more;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/c", "1");
	must_put(f, "", "/private/d", "1");
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_true(more);
	must_put(f, "", "/private/a", NULL);
	must_put(f, "", "/private/c", "2");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "5  /private/d=1\n"
			    "6  /private/a -\n"
			    "7  /private/c=2\n");
}

/* A stop in the middle of a set, and at its last entry. */
static void test_stop_within_set(void **state)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	const struct store_read req = { &filter_all, UINT64_MAX, false };
	const struct store_change changes[] = {
		{ "", "/private/a", "1", 1, NULL },
		{ "", "/private/b", "1", 1, NULL },
		{ "", "/private/c", "1", 1, NULL },
	};
	struct fixture *f = *state;
	struct store_cursor start, cursor;
	struct store_state st;
	unsigned int left;
	bool more;

	assert_int_equal(store_cursor_snapshot(f->store, &start, &f->error),
			 STORE_OK);
	assert_int_equal(store_apply(f->store, changes, 3, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	must_put(f, "", "/private/d", "1");

	cursor = start;
	left = 1;
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_int_equal(cursor.modseq, 2);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "2  /private/b=1\n2  /private/c=1\n"
			    "3  /private/d=1\n");
	cursor = start;
	left = 3;
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_true(more);
	left = 1;
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_int_equal(left, 0);
	assert_string_equal(read_text(f, &cursor, &filter_all), "");

	/* the callback is not called again after it said stop, also when the
	   cursor's set ends there */
	cursor = start;
	left = 2;
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	left = 1;
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_int_equal(left, 0);
	assert_true(more);
	assert_int_equal(cursor.modseq, 2);
}

static bool count_callback(const struct store_entry *entry, void *context)
{
	unsigned int *count = context;

	(void)entry;
	(*count)++;
	return true;
}

/* One call looks at some thousands of rows only, whatever is selected. */
static void test_rows_bounded(void **state)
{
	static const struct store_scope scope = {
		STORE_SCOPE_MAILBOX, "none", '/'
	};
	static const char *const entry = "/private";
	const struct store_selection selection = { &scope, 1, &entry, 1 };
	const struct store_filter none = {
		&selection, 1, STORE_DEPTH_INFINITY
	};
	struct store_read req = { &none, UINT64_MAX, false };
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_state st;
	unsigned int count = 0, calls = 0;
	bool more;

	sql(f, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1"
	    " FROM n WHERE i < 10000) INSERT INTO entry(modseq, mailbox, name,"
	    " size, value) SELECT 2, '', '/private/' || i, 1, x'31' FROM n;"
	    "UPDATE meta SET modseq = 2, entries = 10000,"
	    " bytes = (SELECT sum(size + length(name)) FROM entry)");
	must_check(f);
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	do {
		assert_int_equal(store_read(f->store, &req, &cursor,
					    count_callback, &count, &st, &more,
					    &f->error), STORE_OK);
		calls++;
	} while (more);
	assert_int_equal(count, 0);
	assert_in_range(calls, 2, 20);
	/* and all are found once */
	req.filter = &filter_all;
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	do {
		assert_int_equal(store_read(f->store, &req, &cursor,
					    count_callback, &count, &st, &more,
					    &f->error), STORE_OK);
	} while (more);
	assert_int_equal(count, 10000);
}

/* -- values */

struct seen {
	size_t size;
	bool has_value;
};

static bool seen_callback(const struct store_entry *entry, void *context)
{
	struct seen *seen = context;

	seen->size = entry->value_size;
	seen->has_value = entry->value != NULL;
	return true;
}

static struct seen read_one(struct fixture *f, uint64_t max, bool without)
{
	const struct store_read req = { &filter_all, max, without };
	struct store_cursor cursor;
	struct store_state st;
	struct seen seen = { SIZE_MAX, false };
	bool more;

	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	assert_int_equal(store_read(f->store, &req, &cursor, seen_callback,
				    &seen, &st, &more, &f->error), STORE_OK);
	assert_false(more);
	return seen;
}

static void test_value_sizes(void **state)
{
	static const unsigned int sizes[] = {
		0, 1, 100, 511, 512, 513, 3000
	};
	struct fixture *f = *state;
	struct seen seen;
	char value[3001];
	unsigned int i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		memset(value, 'v', sizes[i]);
		value[sizes[i]] = '\0';
		must_put(f, "", "/private/a", value);
		seen = read_one(f, UINT64_MAX, false);
		assert_int_equal(seen.size, sizes[i]);
		assert_true(seen.has_value);
		assert_true(read_one(f, sizes[i], false).has_value);
		if (sizes[i] > 0) {
			seen = read_one(f, sizes[i] - 1, false);
			assert_int_equal(seen.size, sizes[i]);
			assert_false(seen.has_value);
		}
		seen = read_one(f, UINT64_MAX, true);
		assert_int_equal(seen.size, sizes[i]);
		assert_false(seen.has_value);
		assert_string_equal(get(f, "", "/private/a", NULL), value);
	}
}

static void test_filter(void **state)
{
	static const struct store_scope scopes[] = {
		{ STORE_SCOPE_SUBTREE, "x", '/' },
		{ STORE_SCOPE_SERVER, NULL, '/' },
	};
	static const char *const entries[] = { "/private/v" };
	static const struct store_selection selection = {
		scopes, 2, entries, 1
	};
	static const struct store_filter filter = {
		&selection, 1, STORE_DEPTH_1
	};
	struct fixture *f = *state;

	must_put(f, "", "/private/v", "1");
	must_put(f, "", "/private/v/a", "2");
	must_put(f, "", "/private/v/a/b", "3");
	must_put(f, "x/y", "/private/v/a", "4");
	must_put(f, "xy", "/private/v/a", "5");
	assert_string_equal(snapshot_text(f, &filter),
			    "2  /private/v=1\n"
			    "3  /private/v/a=2\n"
			    "5 x/y /private/v/a=4\n");
	assert_int_equal(f->pos.modseq, 6);
}

/* -- when the history is gone */

static void purge_all(struct fixture *f)
{
	uint64_t purged;

	assert_int_equal(store_purge(f->store, 4000000000, &purged,
				     &f->error), STORE_OK);
}

static void test_since_reset(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_pos pos, before;

	must_put(f, "", "/private/a", "1");
	before = f->pos;
	must_put(f, "", "/private/a", NULL);
	must_put(f, "", "/private/b", "1");
	purge_all(f);
	assert_int_equal(store_cursor_since(f->store, &before, &cursor,
					    &f->error), STORE_RESET);
	/* who has seen the removal at the floor has lost nothing */
	before.modseq = get_state(f).floor;
	assert_int_equal(before.modseq, 3);
	assert_int_equal(store_cursor_since(f->store, &before, &cursor,
					    &f->error), STORE_OK);
	pos = f->pos;
	pos.epoch ^= 1;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	pos.epoch = 0;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	pos = f->pos;
	pos.modseq = 0;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	assert_int_equal(get_state(f).pos.epoch, f->pos.epoch);
	assert_int_equal(f->log_count, 0);
}

static void test_beyond_draws_epoch(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_pos pos;
	uint32_t epoch;

	test_now = 1000000000;
	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	pos.modseq++;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	epoch = get_state(f).pos.epoch;
	assert_true(epoch != pos.epoch && epoch != 0);
	assert_int_equal(get_state(f).pos.modseq, 2);
	assert_int_equal(f->log_count, 1);
	/* the same client again: another epoch by now */
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	/* at most once a minute */
	pos.epoch = epoch;
	pos.modseq = UINT64_MAX;
	test_now += 59;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	test_now += 1;
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_RESET);
	assert_true(get_state(f).pos.epoch != epoch);
	assert_int_equal(f->log_count, 2);
	reopen(f);
	assert_true(get_state(f).pos.epoch != epoch);
}

static void test_read_reset(void **state)
{
	struct store_cursor cursor, fresh;
	struct fixture *f = *state;
	unsigned int i;

	must_put(f, "", "/private/a", "1");
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "2  /private/a=1\n");
	/* a removal is forgotten before this reader has seen it, and so much has
	   happened since that the wake file does not show it any more */
	must_put(f, "", "/private/a", NULL);
	for (i = 0; i < 8; i++)
		must_put(f, "", "/private/b", i % 2 == 0 ? "2" : "1");
	purge_all(f);
	fresh = cursor;
	assert_string_equal(read_text(f, &fresh, &filter_all), "status 2");
	/* one for whom it is not of interest */
	assert_string_equal(snapshot_text(f, &filter_all),
			    "11  /private/b=1\n");
	/* one who is past it */
	assert_int_equal(store_cursor_since(f->store, &f->pos, &fresh,
					    &f->error), STORE_OK);
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	assert_string_equal(read_text(f, &fresh, &filter_all), "status 2");
	assert_string_equal(snapshot_text(f, &filter_all),
			    "11  /private/b=1\n");
}

/* The floor lies within the set in which the reader stopped: what it has not
   read of it may have been forgotten. */
static void test_read_reset_within_set(void **state)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	const struct store_read req = { &filter_all, UINT64_MAX, false };
	const struct store_change changes[] = {
		{ "", "/private/a", "2", 1, NULL },
		{ "", "/private/b", NULL, 0, NULL },
	};
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_state st;
	unsigned int left = 1;
	bool more;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	assert_int_equal(store_cursor_since(f->store, &f->pos, &cursor,
					    &f->error), STORE_OK);
	assert_int_equal(store_apply(f->store, changes, 2, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(store_read(f->store, &req, &cursor, stop_after, &left,
				    &st, &more, &f->error), STORE_OK);
	assert_true(more);
	purge_all(f);
	assert_string_equal(read_text(f, &cursor, &filter_all), "status 2");
}

/* Behind the store's back an older copy takes its place, in the same file. */
static void test_read_beyond(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;
	uint32_t epoch;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/a", "2");
	assert_int_equal(store_cursor_since(f->store, &f->pos, &cursor,
					    &f->error), STORE_OK);
	epoch = cursor.epoch;
	sql(f, "UPDATE meta SET modseq = 2");
	assert_string_equal(read_text(f, &cursor, &filter_all), "status 2");
	assert_true(get_state(f).pos.epoch != epoch);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_get),
		T(test_snapshot_and_after),
		T(test_since),
		T(test_change_within_snapshot),
		T(test_stop_within_set),
		T(test_rows_bounded),
		T(test_value_sizes),
		T(test_filter),
		T(test_since_reset),
		T(test_beyond_draws_epoch),
		T(test_read_reset),
		T(test_read_reset_within_set),
		T(test_read_beyond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
