/* What comes from the server, until its marker and at it, and what it says that it takes, one rule at a time; the model
   (test-replica-model.c) mixes them. */

#include "replica-test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void test_staging(void **state)
{
	struct fixture *f = *state;
	const char *mark, *partial;
	bool reset;

	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "a", "1");
	stage(f, BELOW "b", "1");
	assert_string_equal(get(f->replica, "", BELOW "a"), "-");
	consistent(f, "(7 1 ab)", false);
	assert_string_equal(changed(f), " a=1; b=1;");
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_equal(mark, "(7 1 ab)");
	assert_string_equal(partial, "");
	/* dropped, but what a PARTIAL covers */
	stage(f, BELOW "a", "2");
	must(f->replica, replica_stage_partial(f->replica, "(7 2 ab)"));
	stage(f, BELOW "b", "2");
	must(f->replica, replica_stage_drop(f->replica));
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_equal(mark, "(7 1 ab)");
	assert_string_equal(partial, "(7 2 ab)");
	assert_string_equal(get(f->replica, "", BELOW "a"), "1");
	reopen(f);
	must(f->replica, replica_sync_begin(f->replica));
	stage(f, BELOW "c", "2");
	consistent(f, "(7 3 ab)", false);
	assert_string_equal(changed(f), " a=2; c=2;");
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_equal(mark, "(7 3 ab)");
	assert_string_equal(partial, "");
	/* removed, set back, several times in one state */
	stage(f, BELOW "a", "3");
	stage(f, BELOW "a", "2");
	stage(f, BELOW "c", NULL);
	stage(f, BELOW "d", "1");
	stage(f, BELOW "d", NULL);
	consistent(f, "(7 4 ab)", false);
	assert_string_equal(changed(f), " c=-;");
	/* what nobody has asked for */
	stage(f, BELOW "e", "1");
	stage(f, "/private/vendor/other", "1");
	consistent(f, "(7 5 ab)", false);
	assert_string_equal(changed(f), " e=1;");
	/* what the protocol does not have */
	assert_int_equal(replica_stage_consistent(f->replica, "(0 4 ab)", 0, &reset), DOVETAIL_PROTOCOL);
	assert_int_equal(replica_stage_consistent(f->replica, "(7 99999999999999999999 ab)", 0, &reset), DOVETAIL_PROTOCOL);
	assert_int_equal(replica_stage_consistent(f->replica, "(4294967296 1 ab)", 0, &reset), DOVETAIL_PROTOCOL);
	assert_int_equal(replica_stage_partial(f->replica, ""), DOVETAIL_PROTOCOL);
	assert_int_equal(replica_stage(f->replica, "", "/x", REPLICA_VALUE, "", 0), DOVETAIL_PROTOCOL);
	assert_int_equal(replica_stage(f->replica, "\xff", BELOW "x", REPLICA_VALUE, "", 0), DOVETAIL_PROTOCOL);
}

static void limit_files(bool on)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = on ? 0 : limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* The connection is lost while the disk is full: what the next one brings is not taken for the rest of the snapshot. */
static void test_drop_fails(void **state)
{
	struct fixture *f = *state;
	enum dovetail_status status;
	bool reset;

	must(f->replica, replica_sync_begin(f->replica));
	must(f->replica, replica_stage_snapshot(f->replica));
	must(f->replica, replica_stage(f->replica, "", BELOW "a", REPLICA_VALUE, "1", 1));
	consistent(f, "(7 1 ab)", false);
	must(f->replica, replica_stage_snapshot(f->replica));
	(void)signal(SIGXFSZ, SIG_IGN);
	limit_files(true);
	status = replica_stage_drop(f->replica);
	limit_files(false);
	assert_int_equal(status, DOVETAIL_SYSTEM);
	must(f->replica, replica_stage(f->replica, "", BELOW "b", REPLICA_VALUE, "2", 1));
	must(f->replica, replica_stage_consistent(f->replica, "(7 2 ab)", 0, &reset));
	assert_false(reset);
	assert_string_equal(get(f->replica, "", BELOW "a"), "1");
	assert_string_equal(get(f->replica, "", BELOW "b"), "2");
}

/* More than is kept in memory: it is in the file, and is dropped from there, also after a crash. */
static void test_staged_large(void **state)
{
	struct fixture *f = *state;
	char *large = malloc(200001), name[64];
	bool reset;

	memset(large, 'x', 200000);
	large[200000] = '\0';
	server_put(&f->server, "", BELOW "a", "1");
	server_catch_up(f);
	(void)changed(f);
	for (unsigned int round = 0; round < 2; round++) {
		stage(f, BELOW "kept", "1");
		must(f->replica, replica_stage_partial(f->replica, "(7 3 0f)"));
		for (unsigned int i = 0; i < 5; i++) {
			(void)snprintf(name, sizeof(name), BELOW "large%u", i);
			stage(f, name, large);
		}
		if (round == 0) {
			must(f->replica, replica_stage_drop(f->replica));
		} else {
			reopen(f);
			must(f->replica, replica_sync_begin(f->replica));
		}
		must(f->replica, replica_stage_consistent(f->replica, "(7 4 0f)", 0, &reset));
		assert_string_equal(changed(f), round == 0 ? " kept=1;" : "");
		assert_string_equal(get(f->replica, "", BELOW "large0"), "-");
	}
	free(large);
}

static void test_snapshot(void **state)
{
	struct fixture *f = *state;
	const char *mark, *partial;
	bool reset;

	server_put(&f->server, "", BELOW "a", "1");
	server_put(&f->server, "", BELOW "b", "1");
	server_put(&f->server, "", BELOW "c", "1");
	server_catch_up(f);
	(void)changed(f);
	put(f->replica, "", BELOW "c", "mine");
	put(f->replica, "", BELOW "d", "mine");
	/* begun, and broken */
	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "x", "1");
	must(f->replica, replica_stage_drop(f->replica));
	consistent(f, "(7 4 0f)", false);
	assert_string_equal(changed(f), "");
	/* in its place after all; a PARTIAL in it survives */
	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "a", "1");
	must(f->replica, replica_stage_partial(f->replica, "(9 1 0f)"));
	reopen(f);
	must(f->replica, replica_sync_begin(f->replica));
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_equal(partial, "(9 1 0f)");
	stage(f, BELOW "e", "2");
	/* too much of it: nothing is done, what is staged stays */
	assert_int_equal(replica_stage_consistent(f->replica, "(9 2 0f)", 1, &reset), DOVETAIL_MASS_REMOVAL);
	assert_string_equal(get(f->replica, "", BELOW "b"), "1");
	assert_string_equal(changed(f), "");
	must(f->replica, replica_stage_consistent(f->replica, "(9 2 0f)", 2, &reset));
	assert_true(reset);
	assert_string_equal(changed(f), " b=-; e=2;");
	assert_string_equal(get(f->replica, "", BELOW "c"), "mine");
	/* others have removed what I have changed: mine; d is new here as it was there */
	assert_true(next_is(f, BELOW "c", "mine", "(9 2)") > 0);
}

/* A state that is older than an own write that was acknowledged: on two connections. */
static void test_older_state(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	server_put(&f->server, "", BELOW "a", "1");
	server_catch_up(f);
	(void)changed(f);
	put(f->replica, "", BELOW "a", "2");
	put(f->replica, "", BELOW "b", "2");
	id = next_is(f, BELOW "a", "2", "(7 2)");
	must(f->replica, replica_queue_done(f->replica, id, "(7 3)"));
	id = next_is(f, BELOW "b", "2", "(7 2)");
	must(f->replica, replica_queue_done(f->replica, id, "(7 4)"));
	stage(f, BELOW "a", "1");
	consistent(f, "(7 2 0f)", false);
	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "a", "1");
	consistent(f, "(7 2 0f)", true);
	assert_string_equal(get(f->replica, "", BELOW "a"), "2");
	assert_string_equal(get(f->replica, "", BELOW "b"), "2");
	assert_string_equal(changed(f), "");
}

static void test_not_here(void **state)
{
	struct fixture *f = *state;
	struct dovetail_entry entry;
	struct replica_set set;

	must(f->replica, replica_stage_snapshot(f->replica));
	must(f->replica, replica_stage(f->replica, "", BELOW "a", REPLICA_NOT_HERE, NULL, 0));
	consistent(f, "(7 1 0f)", false);
	assert_string_equal(changed(f), " a=?;");
	must(f->replica, dovetail_get(f->replica, "", BELOW "a", &entry));
	assert_null(entry.data);
	assert_int_equal(entry.flags, DOVETAIL_ENTRY_NOT_HERE);
	/* a snapshot names it again: no news; a change does */
	must(f->replica, replica_stage_snapshot(f->replica));
	must(f->replica, replica_stage(f->replica, "", BELOW "a", REPLICA_NOT_HERE, NULL, 0));
	consistent(f, "(7 2 0f)", true);
	assert_string_equal(changed(f), "");
	/* mine on it, and it has changed: there is nothing to merge with */
	put(f->replica, "", BELOW "a", "small");
	(void)next_is(f, BELOW "a", "small", "(7 2)");
	must(f->replica, replica_stage(f->replica, "", BELOW "a", REPLICA_NOT_HERE, NULL, 0));
	consistent(f, "(7 3 0f)", false);
	(void)next_is(f, BELOW "a", "small", "(7 3)");
	must(f->replica, replica_stage(f->replica, "", BELOW "a", REPLICA_NOT_HERE, NULL, 0));
	consistent(f, "(7 4 0f)", false);
	assert_int_equal(replica_queue_next(f->replica, 0, DOVETAIL_RULE_SERVER, NULL, NULL, &set), DOVETAIL_NOT_FOUND);
	assert_int_equal(replica_queue_count(f->replica), 0);
	assert_string_equal(changed(f), " a=?;");
}

/* What the server takes, as it says; what it does not say, or says in a way that is none, is no limit. */
static void test_limits(void **state)
{
	static const char *const none[] = { "", "VALUE", "VALUE x", "VALUE 0", "VALUE 99999999999999999999", "VALUE -1", "VALUE 3x",
		"XVALUE 3", "NAME VALUE 3x", "SET 1 VALUES 3" };
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	char longer[200];

	put(f->replica, "", BELOW "a", "1234");
	must(f->replica, replica_limits_set(f->replica, "VALUE 3 ENTRIES 1 BYTES 1 NAME 100 SET 1"));
	expect(f->replica, dovetail_set(f->replica, "", BELOW "b", "1234", 4), DOVETAIL_LIMIT,
	       BELOW "b has 4 octets, the server takes 3");
	reopen(f);
	expect(f->replica, dovetail_set(f->replica, "", BELOW "b", "1234", 4), DOVETAIL_LIMIT,
	       BELOW "b has 4 octets, the server takes 3");
	put(f->replica, "", BELOW "b", "123");
	must(f->replica, dovetail_unset(f->replica, "", BELOW "a"));
	(void)snprintf(longer, sizeof(longer), BELOW "%0*d", 101 - (int)strlen(BELOW), 0);
	expect(f->replica, dovetail_set(f->replica, "", longer, "1", 1), DOVETAIL_LIMIT, " has 101 octets, the server takes 100");
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "a", "1", 1));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "b", "1", 1));
	expect(f->replica, dovetail_changes_check(changes), DOVETAIL_LIMIT, "the change set has 2 entries, the server takes 1");
	expect(f->replica, dovetail_changes_commit(changes), DOVETAIL_LIMIT, "the change set has 2 entries, the server takes 1");
	assert_string_equal(get(f->replica, "", BELOW "a"), "-");
	for (unsigned int i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		must(f->replica, replica_limits_set(f->replica, none[i]));
		put(f->replica, "", BELOW "c", i % 2 == 0 ? "even" : "odd");
	}
	must(f->replica, replica_limits_set(f->replica, "VALUE 3"));
	must(f->replica, replica_limits_set(f->replica, NULL));
	put(f->replica, "", BELOW "c", "1234");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(staging), TEST(drop_fails), TEST(staged_large), TEST(snapshot), TEST(older_state), TEST(not_here), TEST(limits)
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
