/* Mailboxes that are renamed and deleted, and the list of those that have
   entries. */

#include "store-test.h"

#include <stdio.h>
#include <string.h>

static void must_rename(struct fixture *f, const char *from, const char *to)
{
	if (store_rename_mailbox(f->store, from, to, '/', &f->pos,
				 &f->error) != STORE_OK)
		fail_msg("rename: %s", f->error.message);
	must_check(f);
}

static void must_delete(struct fixture *f, const char *name)
{
	if (store_delete_mailbox(f->store, name, NULL, &f->pos,
				 &f->error) != STORE_OK)
		fail_msg("delete: %s", f->error.message);
	must_check(f);
}

/* All that came after pos. */
static const char *since(struct fixture *f, struct store_pos pos)
{
	struct store_cursor cursor;

	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_OK);
	return read_text(f, &cursor, &filter_all);
}

static void test_rename(void **state)
{
	struct fixture *f = *state;
	struct store_pos before;

	must_put(f, "old", "/private/a", "1");
	must_put(f, "old", "/private/b", "2");
	must_put(f, "old", "/private/c", "3");
	must_put(f, "old", "/private/c", NULL);
	before = f->pos;
	must_rename(f, "old", "new");
	assert_int_equal(f->pos.modseq, before.modseq + 1);
	assert_string_equal(since(f, before),
			    "6 new /private/a=1\n"
			    "6 new /private/b=2\n"
			    "6 old /private/a -\n"
			    "6 old /private/b -\n");
	assert_int_equal(get_state(f).entries, 2);
	assert_int_equal(get_state(f).tombstones, 3);
	/* nothing is left there, nothing happens */
	must_rename(f, "old", "other");
	must_rename(f, "new", "new");
	must_rename(f, "none", "other");
	assert_int_equal(f->pos.modseq, before.modseq + 1);
	/* and back, over the removals */
	must_rename(f, "new", "old");
	assert_string_equal(snapshot_text(f, &filter_all),
			    "7 old /private/a=1\n7 old /private/b=2\n");
}

static void test_rename_children(void **state)
{
	struct fixture *f = *state;

	must_put(f, "a/b", "/private/x", "1");
	must_put(f, "a/b/c", "/private/x", "2");
	must_put(f, "a", "/private/x", "3");
	must_put(f, "ab", "/private/x", "4");
	must_put(f, "a.b", "/private/x", "5");
	must_put(f, "A/b", "/private/x", "6");
	must_put(f, "a0", "/private/x", "7");
	must_put(f, "", "/private/x", "8");
	must_rename(f, "a", "n/m");
	assert_string_equal(get(f, "n/m", "/private/x", NULL), "3");
	assert_string_equal(get(f, "n/m/b", "/private/x", NULL), "1");
	assert_string_equal(get(f, "n/m/b/c", "/private/x", NULL), "2");
	assert_string_equal(get(f, "ab", "/private/x", NULL), "4");
	assert_string_equal(get(f, "a.b", "/private/x", NULL), "5");
	assert_string_equal(get(f, "A/b", "/private/x", NULL), "6");
	assert_string_equal(get(f, "a0", "/private/x", NULL), "7");
	assert_string_equal(get(f, "", "/private/x", NULL), "8");
	/* children alone */
	must_put(f, "n/m", "/private/x", NULL);
	must_rename(f, "n/m", "k");
	assert_string_equal(get(f, "k/b/c", "/private/x", NULL), "2");
	assert_string_equal(get(f, "k", "/private/x", NULL), "-");
}

static void test_rename_inbox(void **state)
{
	struct fixture *f = *state;

	must_put(f, "INBOX", "/private/x", "1");
	must_put(f, "INBOX/a", "/private/x", "2");
	must_rename(f, "INBOX", "old");
	assert_string_equal(get(f, "old", "/private/x", NULL), "1");
	assert_string_equal(get(f, "INBOX", "/private/x", NULL), "-");
	assert_string_equal(get(f, "INBOX/a", "/private/x", NULL), "2");
	assert_string_equal(get(f, "old/a", "/private/x", NULL), "-");
}

static void test_rename_wildcards(void **state)
{
	struct fixture *f = *state;

	must_put(f, "a%_b", "/private/x", "1");
	must_put(f, "a%_b/c", "/private/x", "2");
	must_put(f, "aXYb/c", "/private/x", "3");
	must_put(f, "A%_B/c", "/private/x", "4");
	must_rename(f, "a%_b", "'\"n");
	assert_string_equal(get(f, "'\"n", "/private/x", NULL), "1");
	assert_string_equal(get(f, "'\"n/c", "/private/x", NULL), "2");
	assert_string_equal(get(f, "aXYb/c", "/private/x", NULL), "3");
	assert_string_equal(get(f, "A%_B/c", "/private/x", NULL), "4");
}

/* What the new name had belongs to another mailbox that is gone. */
static void test_rename_replaces(void **state)
{
	struct fixture *f = *state;
	struct store_pos before;

	must_put(f, "old", "/private/a", "1");
	must_put(f, "old", "/private/b", "2");
	must_put(f, "new", "/private/b", "3");
	must_put(f, "new", "/private/c", "4");
	must_put(f, "new", "/private/d", "5");
	must_put(f, "new", "/private/d", NULL);
	must_put(f, "new/x", "/private/a", "6");
	before = f->pos;
	must_rename(f, "old", "new");
	assert_string_equal(since(f, before),
			    "9 new /private/a=1\n"
			    "9 new /private/b=2\n"
			    "9 new /private/c -\n"
			    "9 old /private/a -\n"
			    "9 old /private/b -\n");
	assert_int_equal(get_state(f).entries, 3);
	assert_int_equal(get_state(f).tombstones, 4);
}

static void must_merge(struct fixture *f, const char *from, const char *to)
{
	if (store_merge_mailbox(f->store, from, to, &f->pos,
				&f->error) != STORE_OK)
		fail_msg("merge: %s", f->error.message);
	must_check(f);
}

/* One mailbox under two names: of each entry the later change stays. */
static void test_merge(void **state)
{
	struct fixture *f = *state;
	struct store_pos before;

	must_put(f, "old", "/private/a", "moves");
	must_put(f, "old", "/private/b", "earlier");
	must_put(f, "new", "/private/b", "later");
	must_put(f, "new", "/private/c", "earlier");
	must_put(f, "old", "/private/c", "later");
	must_put(f, "new", "/private/d", "stays");
	must_put(f, "old", "/private/e", "earlier");
	must_put(f, "new", "/private/e", "removed");
	must_put(f, "new", "/private/e", NULL);
	must_put(f, "new", "/private/f", "removed");
	must_put(f, "new", "/private/f", NULL);
	must_put(f, "old", "/private/f", "later");
	must_put(f, "old", "/private/g", "removed");
	must_put(f, "old", "/private/g", NULL);
	before = f->pos;
	must_merge(f, "old", "new");
	assert_int_equal(f->pos.modseq, before.modseq + 1);
	assert_string_equal(since(f, before),
			    "16 new /private/a=moves\n"
			    "16 old /private/b -\n"
			    "16 new /private/c=later\n"
			    "16 old /private/e -\n"
			    "16 new /private/f=later\n"
			    "16 old /private/a -\n"
			    "16 old /private/c -\n"
			    "16 old /private/f -\n");
	assert_string_equal(get(f, "new", "/private/b", NULL), "later");
	assert_string_equal(get(f, "new", "/private/d", NULL), "stays");
	assert_int_equal(get_state(f).entries, 5);
	/* nothing is left there, nothing happens */
	must_merge(f, "old", "new");
	must_merge(f, "new", "new");
	must_merge(f, "none", "new");
	assert_int_equal(f->pos.modseq, before.modseq + 1);
	assert_int_equal(store_merge_mailbox(f->store, "", "new", &f->pos,
					     &f->error), STORE_INVALID);
	assert_int_equal(store_merge_mailbox(f->store, "new", "", &f->pos,
					     &f->error), STORE_INVALID);
}

/* What was moved wins over the removals that the move has left. */
static void test_merge_after_move(void **state)
{
	struct fixture *f = *state;

	must_put(f, "a", "/private/x", "1");
	must_rename(f, "a", "b");
	must_put(f, "a", "/private/y", "2");
	must_merge(f, "b", "a");
	assert_string_equal(get(f, "a", "/private/x", NULL), "1");
	assert_string_equal(get(f, "a", "/private/y", NULL), "2");
	assert_int_equal(get_state(f).entries, 2);
}

/* A target that is a source too. */
static void test_rename_into_itself(void **state)
{
	struct fixture *f = *state;

	must_put(f, "a", "/private/x", "1");
	must_put(f, "a/b", "/private/x", "2");
	must_put(f, "a/b/b", "/private/x", "3");
	must_rename(f, "a", "a/b");
	assert_string_equal(snapshot_text(f, &filter_all),
			    "5 a/b /private/x=1\n"
			    "5 a/b/b /private/x=2\n"
			    "5 a/b/b/b /private/x=3\n");
	must_rename(f, "a/b", "a");
	assert_string_equal(get(f, "a", "/private/x", NULL), "1");
	assert_string_equal(get(f, "a/b", "/private/x", NULL), "2");
	assert_string_equal(get(f, "a/b/b", "/private/x", NULL), "3");
	assert_string_equal(get(f, "a/b/b/b", "/private/x", NULL), "-");
}

static void test_rename_keeps_large_values(void **state)
{
	struct fixture *f = *state;
	char value[4000];

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	must_put(f, "old", "/private/a", value);
	must_rename(f, "old", "new");
	assert_string_equal(get(f, "new", "/private/a", NULL), value);
}

static void test_rename_limits(void **state)
{
	struct fixture *f = *state;

	must_put(f, "old", "/private/a", "1");
	f->set.limits.entries = 0;
	f->set.limits.bytes = 0;
	f->set.limits.set = 0;
	reopen(f);
	must_rename(f, "old", "new");
	must_delete(f, "new");
	assert_int_equal(store_rename_mailbox(f->store, "", "x", '/', &f->pos,
					      &f->error), STORE_INVALID);
	assert_int_equal(store_rename_mailbox(f->store, "x", "", '/', &f->pos,
					      &f->error), STORE_INVALID);
}

static void test_delete(void **state)
{
	struct fixture *f = *state;
	struct store_pos before;

	must_put(f, "a", "/private/x", "1");
	must_put(f, "a", "/private/y", "2");
	must_put(f, "a/b", "/private/x", "3");
	must_put(f, "", "/private/x", "4");
	before = f->pos;
	must_delete(f, "a");
	assert_string_equal(since(f, before),
			    "6 a /private/x -\n6 a /private/y -\n");
	assert_int_equal(get_state(f).entries, 2);
	assert_int_equal(get_state(f).tombstones, 2);
	must_delete(f, "a");
	must_delete(f, "none");
	assert_int_equal(f->pos.modseq, 6);
	assert_int_equal(store_delete_mailbox(f->store, "", NULL, &f->pos,
					      &f->error), STORE_INVALID);
	/* a mailbox that is created again inherits nothing */
	must_put(f, "a", "/private/x", "5");
	assert_string_equal(get(f, "a", "/private/y", NULL), "-");
	must_check(f);
}

/* Who has seen one mailbox go does not remove the entries of another one that has
   got its name meanwhile. */
static void test_delete_by_guid(void **state)
{
	static const uint8_t one[16] = "one", two[16] = "two";
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	const struct store_change change = {
		"a", "/private/x", "1", 1, one
	};
	struct fixture *f = *state;

	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	assert_int_equal(store_delete_mailbox(f->store, "a", two, &f->pos,
					      &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 2);
	assert_string_equal(get(f, "a", "/private/x", NULL), "1");
	assert_int_equal(store_delete_mailbox(f->store, "a", one, &f->pos,
					      &f->error), STORE_OK);
	assert_int_equal(f->pos.modseq, 3);
	assert_string_equal(get(f, "a", "/private/x", NULL), "-");
	must_check(f);
}

/* -- the list */

static bool list_callback(const char *name, const uint8_t *guid, void *context)
{
	struct fixture *f = context;
	size_t size = strlen(f->text);

	(void)snprintf(f->text + size, sizeof(f->text) - size, "%s %.16s\n",
		       name, guid == NULL ? "-" : (const char *)guid);
	return strcmp(name, "stop") != 0;
}

static const char *list(struct fixture *f)
{
	f->text[0] = '\0';
	assert_int_equal(store_list_mailboxes(f->store, list_callback, f,
					      &f->error), STORE_OK);
	return f->text;
}

static void put_guid(struct fixture *f, const char *mailbox, const char *name,
		     const char *value, const char *guid)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	const struct store_change change = {
		mailbox, name, value, value == NULL ? 0 : strlen(value),
		(const uint8_t *)guid
	};

	assert_int_equal(store_apply(f->store, &change, 1, &always, &f->pos,
				     NULL, &f->error), STORE_OK);
	must_check(f);
}

static void test_list(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(list(f), "");
	put_guid(f, "", "/private/a", "1", "guid-of-the-serv");
	put_guid(f, "x", "/private/a", "1", "guid-of-mailbox1");
	put_guid(f, "y", "/private/a", "1", NULL);
	assert_string_equal(list(f), "x guid-of-mailbox1\ny -\n");
	/* the last one seen; not knowing it forgets nothing */
	put_guid(f, "x", "/private/b", "1", "guid-of-mailbox2");
	put_guid(f, "y", "/private/b", "1", "guid-of-mailbox3");
	put_guid(f, "x", "/private/b", "2", NULL);
	assert_string_equal(list(f), "x guid-of-mailbox2\n"
			    "y guid-of-mailbox3\n");
	/* a removal that leaves others behind */
	put_guid(f, "x", "/private/b", NULL, "guid-of-mailbox4");
	assert_string_equal(list(f), "x guid-of-mailbox4\n"
			    "y guid-of-mailbox3\n");
	put_guid(f, "x", "/private/a", NULL, "guid-of-mailbox4");
	assert_string_equal(list(f), "y guid-of-mailbox3\n");
	/* forgotten with the last entry */
	put_guid(f, "x", "/private/a", "1", NULL);
	assert_string_equal(list(f), "x -\ny guid-of-mailbox3\n");
	must_rename(f, "y", "x");
	assert_string_equal(list(f), "x guid-of-mailbox3\n");
	must_delete(f, "x");
	assert_string_equal(list(f), "");
}

static void test_list_stops(void **state)
{
	struct fixture *f = *state;

	must_put(f, "a", "/private/a", "1");
	must_put(f, "stop", "/private/a", "1");
	must_put(f, "t", "/private/a", "1");
	assert_string_equal(list(f), "a -\nstop -\n");
}

/* -- the witness */

static const char *witness(struct fixture *f)
{
	uint8_t guid[16];
	bool known;

	assert_int_equal(store_get_witness(f->store, guid, &known, &f->error),
			 STORE_OK);
	if (!known)
		return "-";
	(void)snprintf(f->text, sizeof(f->text), "%.16s", (const char *)guid);
	return f->text;
}

static void set_witness(struct fixture *f, const char *guid,
			const struct store_mailbox *mailboxes, size_t count)
{
	assert_int_equal(store_set_witness(f->store, (const uint8_t *)guid,
					   mailboxes, count, &f->error),
			 STORE_OK);
	must_check(f);
}

static void test_witness(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(witness(f), "-");
	set_witness(f, "guid-of-mailbox1", NULL, 0);
	reopen(f);
	assert_string_equal(witness(f), "guid-of-mailbox1");
	must_put(f, "a", "/private/x", "1");
	assert_string_equal(witness(f), "guid-of-mailbox1");
	set_witness(f, "guid-of-mailbox2", NULL, 0);
	assert_string_equal(witness(f), "guid-of-mailbox2");
	set_witness(f, NULL, NULL, 0);
	assert_string_equal(witness(f), "-");
}

static void test_witness_with_mailboxes(void **state)
{
	static const struct store_mailbox mailboxes[] = {
		{ "a", (const uint8_t *)"guid-of-mailbox3" },
		{ "none", (const uint8_t *)"guid-of-mailbox4" },
		{ "b", (const uint8_t *)"guid-of-mailbox5" },
	};
	struct fixture *f = *state;
	struct store_pos before;

	put_guid(f, "a", "/private/x", "1", "guid-of-mailbox1");
	put_guid(f, "b", "/private/x", "1", NULL);
	put_guid(f, "c", "/private/x", "1", "guid-of-mailbox2");
	before = f->pos;
	set_witness(f, "guid-of-mailbox9", mailboxes, 3);
	assert_string_equal(list(f), "a guid-of-mailbox3\nb guid-of-mailbox5\n"
			    "c guid-of-mailbox2\n");
	assert_string_equal(witness(f), "guid-of-mailbox9");
	/* no change */
	assert_string_equal(since(f, before), "");
	assert_int_equal(get_state(f).pos.modseq, before.modseq);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_rename),
		T(test_rename_children),
		T(test_rename_inbox),
		T(test_rename_wildcards),
		T(test_rename_replaces),
		T(test_rename_into_itself),
		T(test_merge),
		T(test_merge_after_move),
		T(test_rename_keeps_large_values),
		T(test_rename_limits),
		T(test_delete_by_guid),
		T(test_delete),
		T(test_list),
		T(test_list_stops),
		T(test_witness),
		T(test_witness_with_mailboxes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
