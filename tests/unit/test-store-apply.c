/* Change sets: positions, conditions, limits, what is not a
   change. */

#include "store-test.h"

#include <stdio.h>
#include <string.h>

static const struct store_condition always = { .type = STORE_UNCONDITIONAL };

static void test_positions(void **state)
{
	struct fixture *f = *state;
	uint32_t epoch = get_state(f).pos.epoch;
	uint64_t modseq;

	assert_true(epoch != 0);
	assert_int_equal(get_state(f).pos.modseq, 1);
	assert_int_equal(must_put(f, "", "/private/a", "1"), 2);
	assert_int_equal(must_put(f, "INBOX", "/private/a", "2"), 3);
	assert_int_equal(f->pos.epoch, epoch);
	assert_string_equal(get(f, "", "/private/a", &modseq), "1");
	assert_int_equal(modseq, 2);
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	assert_int_equal(get_state(f).pos.modseq, 3);
	assert_string_equal(get(f, "INBOX", "/private/a", &modseq), "2");
	assert_int_equal(modseq, 3);
}

static void test_set_shares_modseq(void **state)
{
	struct fixture *f = *state;
	const struct store_change changes[] = {
		{ "", "/private/a", "1", 1, NULL },
		{ "x", "/private/a", "", 0, NULL },
		{ "x", "/private/b", "a\0b", 3, NULL },
	};

	assert_int_equal(store_apply(f->store, changes, 3, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 2);
	assert_string_equal(snapshot_text(f, &filter_all),
			    "2  /private/a=1\n"
			    "2 x /private/a=\n"
			    "2 x /private/b=a\n");
	assert_int_equal(get_state(f).entries, 3);
	assert_int_equal(get_state(f).bytes, 4 + 30);
	must_check(f);
}

static void test_counters(void **state)
{
	struct fixture *f = *state;

	must_put(f, "", "/private/a", "12345");
	assert_int_equal(get_state(f).bytes, 15);
	must_put(f, "", "/private/a", "1");
	assert_int_equal(get_state(f).bytes, 11);
	assert_int_equal(get_state(f).entries, 1);
	must_put(f, "", "/private/a", NULL);
	assert_int_equal(get_state(f).bytes, 0);
	assert_int_equal(get_state(f).entries, 0);
	assert_int_equal(get_state(f).tombstones, 1);
	must_put(f, "", "/private/a", "");
	assert_int_equal(get_state(f).bytes, 10);
	assert_int_equal(get_state(f).tombstones, 0);
	must_check(f);
}

static void test_no_change(void **state)
{
	struct fixture *f = *state;

	must_put(f, "", "/private/a", "1");
	assert_int_equal(must_put(f, "", "/private/a", "1"), 2);
	/* of the same size */
	assert_int_equal(must_put(f, "", "/private/a", "2"), 3);
	/* removing what does not exist */
	assert_int_equal(must_put(f, "", "/private/b", NULL), 3);
	assert_int_equal(must_put(f, "", "/private/a", NULL), 4);
	assert_int_equal(must_put(f, "", "/private/a", NULL), 4);
	/* empty is not removed, removed is not empty */
	assert_int_equal(must_put(f, "", "/private/a", ""), 5);
	assert_int_equal(must_put(f, "", "/private/a", ""), 5);
	assert_int_equal(must_put(f, "", "/private/a", NULL), 6);
	assert_int_equal(store_apply(f->store, NULL, 0, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 6);
}

static void test_part_of_a_set_unchanged(void **state)
{
	struct fixture *f = *state;
	const struct store_change changes[] = {
		{ "", "/private/a", "1", 1, NULL },
		{ "", "/private/b", "2", 1, NULL },
	};

	must_put(f, "", "/private/a", "1");
	assert_int_equal(store_apply(f->store, changes, 2, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_string_equal(snapshot_text(f, &filter_all),
			    "2  /private/a=1\n3  /private/b=2\n");
}

static void test_invalid_requests(void **state)
{
	struct fixture *f = *state;
	const struct store_change twice[] = {
		{ "x", "/private/a", "1", 1, NULL },
		{ "x", "/private/b", "2", 1, NULL },
		{ "x", "/private/a", NULL, 0, NULL },
	};
	struct store_change same_name[] = {
		{ "x", "/private/a", "1", 1, NULL },
		{ "y", "/private/a", "2", 1, NULL },
	};

	assert_int_equal(put(f, "", "/private/A", "1"), STORE_INVALID);
	assert_int_equal(put(f, "", "/private", "1"), STORE_INVALID);
	assert_int_equal(put(f, "", "/private/a*", "1"), STORE_INVALID);
	assert_int_equal(put(f, NULL, "/private/a", "1"), STORE_INVALID);
	assert_int_equal(store_apply(f->store, twice, 3, &always, &f->pos,
				     NULL, &f->error), STORE_INVALID);
	assert_int_equal(get_state(f).pos.modseq, 1);
	assert_int_equal(store_apply(f->store, same_name, 2, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
}

/* -- conditions */

static void test_if_absent(void **state)
{
	const struct store_pos none = { 0, 0 };
	struct fixture *f = *state;

	assert_int_equal(put_if(f, "", "/private/a", "1", STORE_IF_ABSENT,
				none), STORE_OK);
	assert_int_equal(put_if(f, "", "/private/a", "2", STORE_IF_ABSENT,
				none), STORE_MODIFIED);
	assert_int_equal(f->pos.modseq, 2);
	/* also if it would not be a change */
	assert_int_equal(put_if(f, "", "/private/a", "1", STORE_IF_ABSENT,
				none), STORE_MODIFIED);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
	must_put(f, "", "/private/a", NULL);
	assert_int_equal(put_if(f, "", "/private/a", "3", STORE_IF_ABSENT,
				none), STORE_OK);
}

static void test_if_unchanged(void **state)
{
	struct fixture *f = *state;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	must_put(f, "", "/private/b", "1");
	/* others do not matter */
	assert_int_equal(put_if(f, "", "/private/a", "2",
				STORE_IF_UNCHANGED_SINCE, pos), STORE_OK);
	assert_int_equal(put_if(f, "", "/private/a", "3",
				STORE_IF_UNCHANGED_SINCE, pos),
			 STORE_MODIFIED);
	assert_int_equal(f->pos.modseq, 4);
	/* the position given is a good base for a retry */
	assert_int_equal(put_if(f, "", "/private/a", "3",
				STORE_IF_UNCHANGED_SINCE, f->pos), STORE_OK);
	/* a removal is a change */
	pos = f->pos;
	must_put(f, "", "/private/a", NULL);
	assert_int_equal(put_if(f, "", "/private/a", "4",
				STORE_IF_UNCHANGED_SINCE, pos),
			 STORE_MODIFIED);
	assert_int_equal(put_if(f, "", "/private/a", "4",
				STORE_IF_UNCHANGED_SINCE, f->pos), STORE_OK);
	/* what never existed has not changed */
	pos.modseq = 1;
	assert_int_equal(put_if(f, "", "/private/c", "1",
				STORE_IF_UNCHANGED_SINCE, pos), STORE_OK);
}

static void test_condition_all_or_nothing(void **state)
{
	const struct store_change changes[] = {
		{ "", "/private/a", "9", 1, NULL },
		{ "x", "/private/b", "9", 1, NULL },
		{ "x", "/private/c", "9", 1, NULL },
		{ "y", "/private/d", NULL, 0, NULL },
	};
	struct store_condition condition = {
		.type = STORE_IF_UNCHANGED_SINCE
	};
	struct fixture *f = *state;
	bool lost[4] = { true, true, true, true };

	must_put(f, "", "/private/a", "1");
	condition.pos = f->pos;
	must_put(f, "x", "/private/b", "1");
	must_put(f, "y", "/private/d", "1");
	assert_int_equal(store_apply(f->store, changes, 4, &condition,
				     &f->pos, lost, &f->error),
			 STORE_MODIFIED);
	assert_int_equal(f->pos.modseq, 4);
	assert_false(lost[0]);
	assert_true(lost[1]);
	assert_false(lost[2]);
	assert_true(lost[3]);
	assert_string_equal(snapshot_text(f, &filter_all),
			    "2  /private/a=1\n"
			    "3 x /private/b=1\n"
			    "4 y /private/d=1\n");
}

static void test_condition_of_another_history(void **state)
{
	struct fixture *f = *state;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	pos.epoch++;
	assert_int_equal(put_if(f, "", "/private/a", "2",
				STORE_IF_UNCHANGED_SINCE, pos), STORE_RESET);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch - 1);
	pos = f->pos;
	pos.modseq = 0;
	assert_int_equal(put_if(f, "", "/private/a", "2",
				STORE_IF_UNCHANGED_SINCE, pos), STORE_RESET);
	/* beyond the store: this is an older copy */
	pos.modseq = 3;
	assert_int_equal(put_if(f, "", "/private/a", "2",
				STORE_IF_UNCHANGED_SINCE, pos), STORE_RESET);
	assert_true(get_state(f).pos.epoch != pos.epoch);
	assert_int_equal(f->log_count, 1);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
}

static void test_condition_below_floor(void **state)
{
	struct fixture *f = *state;
	struct store_pos before;
	uint64_t purged;

	must_put(f, "", "/private/a", "1");
	before = f->pos;
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/b", NULL);
	test_now = 2000000000;
	assert_int_equal(store_purge(f->store, test_now, &purged, &f->error),
			 STORE_OK);
	assert_int_equal(purged, 1);
	assert_int_equal(get_state(f).floor, 4);
	/* no row: it may have changed after it */
	assert_int_equal(put_if(f, "", "/private/b", "2",
				STORE_IF_UNCHANGED_SINCE, before),
			 STORE_MODIFIED);
	/* a row knows */
	assert_int_equal(put_if(f, "", "/private/a", "2",
				STORE_IF_UNCHANGED_SINCE, before), STORE_OK);
	before.modseq = 4;
	assert_int_equal(put_if(f, "", "/private/b", "2",
				STORE_IF_UNCHANGED_SINCE, before), STORE_OK);
}

/* -- a condition on what a filter selects */

static const struct store_scope server = { .type = STORE_SCOPE_SERVER };
static const char *const below[] = { "/private/k" };
static const struct store_selection selected = {
	.scopes = &server, .scope_count = 1, .entries = below, .entry_count = 1
};
static const struct store_filter filter = {
	.selections = &selected, .selection_count = 1, .depth = STORE_DEPTH_1
};

static enum store_status
put_if_filter(struct fixture *f, const char *name, struct store_pos pos)
{
	const struct store_condition condition = {
		.type = STORE_IF_FILTER_UNCHANGED_SINCE, .pos = pos,
		.filter = &filter
	};
	const struct store_change change = {
		.mailbox = "", .name = name, .value = "v", .value_size = 1
	};
	bool lost = true;
	enum store_status status;

	status = store_apply(f->store, &change, 1, &condition, &f->pos, &lost,
			     &f->error);
	assert_true(status != STORE_MODIFIED || !lost);
	return status;
}

static void test_if_filter_unchanged(void **state)
{
	struct fixture *f = *state;
	struct store_pos pos;

	pos = get_state(f).pos;
	/* what it does not select: another mailbox, too deep, a neighbour */
	must_put(f, "x", "/private/k/1", "1");
	must_put(f, "", "/private/k/1/2", "1");
	must_put(f, "", "/private/kk", "1");
	must_put(f, "", "/private/l", "1");
	assert_int_equal(put_if_filter(f, "/private/k/a", pos), STORE_OK);
	/* its own set was such a change: the entry is not in the next set */
	assert_int_equal(put_if_filter(f, "/private/k/b", pos),
			 STORE_MODIFIED);
	assert_int_equal(f->pos.modseq, 6);
	assert_string_equal(get(f, "", "/private/k/b", NULL), "-");
	assert_int_equal(put_if_filter(f, "/private/k/b", f->pos), STORE_OK);
	/* a removal is a change */
	pos = f->pos;
	must_put(f, "", "/private/k/a", NULL);
	assert_int_equal(put_if_filter(f, "/private/k/c", pos),
			 STORE_MODIFIED);
	/* the entry of the set itself need not be selected */
	assert_int_equal(put_if_filter(f, "/private/other", pos),
			 STORE_MODIFIED);
	assert_int_equal(put_if_filter(f, "/private/other", f->pos),
			 STORE_OK);
	must_check(f);
}

static void test_if_filter_unchanged_forgotten(void **state)
{
	struct fixture *f = *state;
	struct store_pos before, pos;
	uint64_t purged;

	before = get_state(f).pos;
	must_put(f, "", "/private/l", "1");
	must_put(f, "", "/private/l", NULL);
	test_now = 2000000000;
	assert_int_equal(store_purge(f->store, test_now, &purged, &f->error),
			 STORE_OK);
	/* nobody knows whether it was selected */
	assert_int_equal(put_if_filter(f, "/private/k/a", before),
			 STORE_MODIFIED);
	assert_int_equal(put_if_filter(f, "/private/k/a", f->pos), STORE_OK);

	pos = f->pos;
	pos.epoch++;
	assert_int_equal(put_if_filter(f, "/private/k/b", pos), STORE_RESET);
	pos = f->pos;
	pos.modseq++;
	assert_int_equal(put_if_filter(f, "/private/k/b", pos), STORE_RESET);
	assert_true(get_state(f).pos.epoch != pos.epoch);
}

/* -- limits */

static void test_limit_value(void **state)
{
	struct fixture *f = *state;

	f->set.limits.value = 4;
	reopen(f);
	assert_int_equal(put(f, "", "/private/a", "1234"), STORE_OK);
	assert_int_equal(put(f, "", "/private/a", "12345"),
			 STORE_VALUE_TOO_BIG);
	f->set.limits.value = 0;
	reopen(f);
	assert_int_equal(put(f, "", "/private/a", ""), STORE_OK);
	assert_int_equal(put(f, "", "/private/a", NULL), STORE_OK);
	assert_int_equal(put(f, "", "/private/a", "1"), STORE_VALUE_TOO_BIG);
}

static void test_limit_names_and_set(void **state)
{
	const struct store_change changes[] = {
		{ "", "/private/a", "1", 1, NULL },
		{ "", "/private/b", "1", 1, NULL },
		{ "", "/private/c", "1", 1, NULL },
	};
	struct fixture *f = *state;

	f->set.limits.name = 12;
	f->set.limits.set = 2;
	reopen(f);
	assert_int_equal(put(f, "", "/private/abc", "1"), STORE_OK);
	assert_int_equal(put(f, "", "/private/abcd", "1"), STORE_LIMIT);
	assert_int_equal(store_apply(f->store, changes, 3, &always, &f->pos,
				     NULL, &f->error), STORE_LIMIT);
	assert_int_equal(store_apply(f->store, changes, 2, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
}

static void test_limit_entries(void **state)
{
	const struct store_change exchange[] = {
		{ "", "/private/c", "1", 1, NULL },
		{ "", "/private/a", NULL, 0, NULL },
	};
	struct fixture *f = *state;

	f->set.limits.entries = 2;
	reopen(f);
	must_put(f, "", "/private/a", "1");
	must_put(f, "x", "/private/b", "1");
	assert_int_equal(put(f, "", "/private/c", "1"), STORE_TOO_MANY);
	assert_int_equal(f->pos.modseq, 3);
	assert_int_equal(get_state(f).entries, 2);
	assert_string_equal(get(f, "", "/private/c", NULL), "-");
	/* it is the set that counts, and replacing is no new entry */
	must_put(f, "", "/private/a", "2");
	assert_int_equal(store_apply(f->store, exchange, 2, &always, &f->pos,
				     NULL, &f->error), STORE_OK);

	/* above a limit that was lowered: what makes it no worse is fine */
	f->set.limits.entries = 1;
	reopen(f);
	assert_int_equal(put(f, "", "/private/a", "1"), STORE_TOO_MANY);
	must_put(f, "", "/private/c", "2");
	must_put(f, "", "/private/c", NULL);
	must_check(f);
}

static void test_limit_bytes(void **state)
{
	struct fixture *f = *state;

	f->set.limits.bytes = 25;
	reopen(f);
	must_put(f, "", "/private/a", "12345");
	must_put(f, "", "/private/b", "");
	assert_int_equal(put(f, "", "/private/b", "1"), STORE_OVER_BYTES);
	assert_int_equal(put(f, "", "/private/c", ""), STORE_OVER_BYTES);
	assert_string_equal(get(f, "", "/private/b", NULL), "");
	f->set.limits.bytes = 20;
	reopen(f);
	must_put(f, "", "/private/a", "54321");
	must_put(f, "", "/private/a", "4321");
	assert_int_equal(put(f, "", "/private/a", "54321"), STORE_OVER_BYTES);
	must_put(f, "", "/private/b", NULL);
	must_put(f, "", "/private/a", "54321");
	must_check(f);
}

static void test_big_value(void **state)
{
	static char value[1024 * 1024 + 1];
	struct store_change change = {
		"", "/private/a", value, sizeof(value) - 1, NULL
	};
	struct fixture *f = *state;

	memset(value, 'v', sizeof(value));
	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 2);
	value[sizeof(value) - 2] = 'w';
	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 3);
	change.value_size++;
	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_VALUE_TOO_BIG);
	must_put(f, "", "/private/a", NULL);
	must_check(f);
}

static bool same_value(const struct store_entry *entry, void *context)
{
	const struct store_change *change = context;

	assert_int_equal(entry->value_size, change->value_size);
	assert_memory_equal(entry->value, change->value, change->value_size);
	return true;
}

/* More than the page cache holds: pages go to the WAL in the middle of the
   transaction, come back from it, are changed and go there again. */
static void test_set_larger_than_the_cache(void **state)
{
	enum { COUNT = 100, ROUNDS = 3, SIZE = 30000, ALL = 5000 };
	struct fixture *f = *state;
	struct store_change changes[COUNT];
	static char names[COUNT][32], values[COUNT][SIZE];
	unsigned int round, i;

	sql(f, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
	    " WHERE i < 5000) INSERT INTO entry(modseq, mailbox, name, size,"
	    " value) SELECT 2, '', '/private/' || i, 1, x'31' FROM n;"
	    "UPDATE meta SET modseq = 2, entries = 5000,"
	    " bytes = (SELECT sum(size + length(name)) FROM entry)");
	for (round = 0; round < ROUNDS; round++) {
		memset(changes, 0, sizeof(changes));
		for (i = 0; i < COUNT; i++) {
			(void)snprintf(names[i], sizeof(names[i]),
				       "/private/%u", i * 7919 % ALL + 1);
			memset(values[i], 'a' + (round + i) % 26, SIZE);
			changes[i].mailbox = "";
			changes[i].name = names[i];
			changes[i].value = values[i];
			changes[i].value_size = SIZE;
		}
		assert_int_equal(store_apply(f->store, changes, COUNT, &always,
					     &f->pos, NULL, &f->error),
				 STORE_OK);
		must_check(f);
		for (i = 0; i < COUNT; i++) {
			const struct store_key key = { "", names[i] };

			assert_int_equal(store_get(f->store, &key, 1,
						   same_value, &changes[i],
						   &f->pos, &f->error),
					 STORE_OK);
		}
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_positions),
		T(test_set_shares_modseq),
		T(test_counters),
		T(test_no_change),
		T(test_part_of_a_set_unchanged),
		T(test_invalid_requests),
		T(test_if_absent),
		T(test_if_unchanged),
		T(test_condition_all_or_nothing),
		T(test_condition_of_another_history),
		T(test_condition_below_floor),
		T(test_if_filter_unchanged),
		T(test_if_filter_unchanged_forgotten),
		T(test_limit_value),
		T(test_limit_names_and_set),
		T(test_limit_entries),
		T(test_limit_bytes),
		T(test_big_value),
		T(test_set_larger_than_the_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
