/* The queue and conflicts, one rule at a time; the model (test-replica-model.c) mixes them. Also what encryption needs, with a
   codec that anybody can read. */

#include "replica-test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void none_next(struct fixture *f, unsigned int left)
{
	struct replica_set set;

	assert_int_equal(queue_next(f, &set), DOVETAIL_NOT_FOUND);
	assert_int_equal(replica_queue_count(f->replica), left);
}

static void test_first(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	put(f->replica, "", BELOW "a", "1");
	/* nothing before there is a state */
	none_next(f, 1);
	server_put(&f->server, "", BELOW "b", "x");
	server_catch_up(f);
	id = next_is(f, BELOW "a", "1", "(7 2)");
	server_put(&f->server, "", BELOW "a", "1");
	must(f->replica, replica_queue_done(f->replica, id, "(7 3)"));
	none_next(f, 0);
	assert_int_equal(get_flags(f->replica, "", BELOW "a"), 0);
	expect(f->replica, replica_queue_done(f->replica, id, "(7 3)"), DOVETAIL_NOT_FOUND, "no change set");
	/* what comes back is no news */
	assert_string_equal(changed(f), " b=x;");
	server_catch_up(f);
	assert_string_equal(changed(f), "");
}

static void test_later_writes(void **state)
{
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct replica_set set;
	int64_t id;

	server_catch_up(f);
	put(f->replica, "", BELOW "a", "1");
	put(f->replica, "", BELOW "a", "2");
	assert_int_equal(replica_queue_count(f->replica), 1);
	id = next_is(f, BELOW "a", "2", "(7 1)");
	/* while it is in flight */
	put(f->replica, "", BELOW "a", "3");
	put(f->replica, "", BELOW "a", "4");
	assert_int_equal(replica_queue_count(f->replica), 2);
	assert_int_equal(next_is(f, BELOW "a", "2", "(7 1)"), id);
	must(f->replica, replica_queue_done(f->replica, id, "(7 2)"));
	assert_string_equal(get(f->replica, "", BELOW "a"), "4");
	/* based on what was acknowledged */
	id = next_is(f, BELOW "a", "4", "(7 2)");
	must(f->replica, replica_queue_done(f->replica, id, "(7 3)"));

	/* a set with others stays as it is; the same entries again go into it */
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "b", "1", 1));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "c", "1", 1));
	must(f->replica, dovetail_changes_commit(changes));
	put(f->replica, "", BELOW "b", "2");
	assert_int_equal(replica_queue_count(f->replica), 2);
	put(f->replica, "", BELOW "d", "1");
	must(f->replica, queue_next(f, &set));
	assert_int_equal(set.count, 2);
	assert_memory_equal(set.writes[0].data, "1", 1);
	id = set.id;
	/* behind it: not b, which is in it */
	must(f->replica, replica_queue_next(f->replica, id, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	assert_string_equal(set.writes[0].name, BELOW "d");
	must(f->replica, replica_queue_done(f->replica, id, "(7 4)"));
	must(f->replica, replica_queue_done(f->replica, set.id, "(7 5)"));
	(void)next_is(f, BELOW "b", "2", "(7 4)");
}

static void test_two_bases(void **state)
{
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct replica_set set;
	int64_t id;

	server_catch_up(f);
	put(f->replica, "", BELOW "a", "1");
	id = next_is(f, BELOW "a", "1", "(7 1)");
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "a", "2", 1));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "b", "1", 1));
	must(f->replica, dovetail_changes_commit(changes));
	server_put(&f->server, "", BELOW "other", "x");
	server_put(&f->server, "", BELOW "a", "1");
	must(f->replica, replica_queue_done(f->replica, id, "(7 3)"));
	/* a is known at 3, b at 1: no condition is right for both */
	none_next(f, 1);
	server_catch_up(f);
	must(f->replica, queue_next(f, &set));
	assert_int_equal(set.count, 2);
	assert_string_equal(set.unchanged_since, "(7 3)");
}

static void test_lost_answer(void **state)
{
	struct replica_theirs theirs = { "", BELOW "a", REPLICA_VALUE, "1", 1 };
	struct fixture *f = *state;
	int64_t id;

	server_catch_up(f);
	/* told by MODIFIED */
	put(f->replica, "", BELOW "a", "1");
	id = next_is(f, BELOW "a", "1", "(7 1)");
	reopen(f);
	assert_int_equal(next_is(f, BELOW "a", "1", "(7 1)"), id);
	must(f->replica, replica_queue_modified(f->replica, id, "(7 2)", &theirs, 1));
	none_next(f, 0);
	/* told by the state */
	server_put(&f->server, "", BELOW "a", "1");
	put(f->replica, "", BELOW "a", "2");
	id = next_is(f, BELOW "a", "2", "(7 2)");
	server_put(&f->server, "", BELOW "a", "2");
	must(f->replica, replica_queue_again(f->replica, id));
	none_next(f, 1);
	server_catch_up(f);
	assert_string_equal(changed(f), "");
	none_next(f, 0);
	assert_string_equal(get(f->replica, "", BELOW "a"), "2");
	/* never committed: the same again, with the same condition, though the state is newer */
	put(f->replica, "", BELOW "a", "3");
	id = next_is(f, BELOW "a", "3", "(7 3)");
	must(f->replica, replica_queue_again(f->replica, id));
	server_put(&f->server, "", BELOW "b", "x");
	server_catch_up(f);
	assert_int_equal(next_is(f, BELOW "a", "3", "(7 3)"), id);
	/* another history: a new one */
	must(f->replica, replica_queue_again(f->replica, id));
	f->server.epoch = 9;
	server_catch_up(f);
	assert_int_equal(next_is(f, BELOW "a", "3", "(9 4)"), id);
}

struct rule_test {
	enum dovetail_rule rule;
	const char *data;
	unsigned int calls;
	const char *base, *mine, *theirs;
	struct fixture *write;
};

static void rule_resolve(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	struct rule_test *test = context;

	test->calls++;
	assert_string_equal(conflict->mailbox, "");
	assert_string_equal(conflict->name, BELOW "a");
	assert_int_equal(conflict->rule, DOVETAIL_RULE_LINES);
	assert_int_equal(resolution->rule, DOVETAIL_RULE_LINES);
	assert_string_equal(conflict->base.data == NULL ? "-" : conflict->base.data, test->base);
	assert_string_equal(conflict->mine.data == NULL ? "-" : conflict->mine.data, test->mine);
	assert_string_equal(conflict->theirs.data == NULL ? "-" : conflict->theirs.data, test->theirs);
	resolution->rule = test->rule;
	resolution->data = test->data;
	resolution->size = test->data == NULL ? 0 : strlen(test->data);
	if (test->write != NULL && test->calls == 1) {
		put(test->write->replica, "", BELOW "a", "meanwhile");
		test->mine = "meanwhile";
	}
}

/* base, then mine and theirs; what is sent (NULL: nothing), what the user is told, what is seen. "-": no entry. */
static void conflict_case(struct fixture *f, struct rule_test *test, const char *sent, const char *told, const char *seen)
{
	struct replica_set set;
	enum dovetail_status status;

	server_put(&f->server, "", BELOW "a", strcmp(test->base, "-") == 0 ? NULL : test->base);
	server_sync(f, DOVETAIL_RULE_SERVER, NULL, NULL);
	(void)changed(f);
	put(f->replica, "", BELOW "a", strcmp(test->mine, "-") == 0 ? NULL : test->mine);
	server_put(&f->server, "", BELOW "a", strcmp(test->theirs, "-") == 0 ? NULL : test->theirs);
	server_catch_up(f);
	assert_string_equal(changed(f), "");
	test->calls = 0;
	status = replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, rule_resolve, test, &set);
	if (sent == NULL) {
		assert_int_equal(status, DOVETAIL_NOT_FOUND);
		assert_int_equal(replica_queue_count(f->replica), 0);
	} else {
		must(f->replica, status);
		assert_int_equal(set.count, 1);
		assert_string_equal(set.writes[0].data == NULL ? "-" : set.writes[0].data, sent);
		assert_string_equal(set.unchanged_since, server_pos(&f->server));
	}
	assert_string_equal(changed(f), told);
	assert_string_equal(get(f->replica, "", BELOW "a"), seen);
	if (sent != NULL) {
		/* in flight: not solved again */
		test->calls = 0;
		must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, rule_resolve, test, &set));
		assert_int_equal(test->calls, 0);
		server_put(&f->server, "", BELOW "a", strcmp(sent, "-") == 0 ? NULL : sent);
		must(f->replica, replica_queue_done(f->replica, set.id, server_pos(&f->server)));
	}
	assert_string_equal(get(f->replica, "", BELOW "a"), seen);
	server_sync(f, DOVETAIL_RULE_SERVER, NULL, NULL);
}

static void test_rules(void **state)
{
	struct fixture *f = *state;

	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_SERVER, NULL, 0, "b", "m", "t", NULL }, NULL, " a=t;", "t");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_SERVER, NULL, 0, "b", "m", "-", NULL }, NULL, " a=-;", "-");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_MINE, NULL, 0, "b", "m", "t", NULL }, "m", "", "m");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_MINE, NULL, 0, "b", "-", "t", NULL }, "-", "", "-");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_MINE, NULL, 0, "-", "m", "t", NULL }, "m", "", "m");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_VALUE, "v", 0, "b", "m", "t", NULL }, "v", " a=v;", "v");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_VALUE, "t", 0, "b", "m", "t", NULL }, NULL, " a=t;", "t");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_VALUE, NULL, 0, "b", "m", "t", NULL }, "-", " a=-;", "-");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_LINES, NULL, 0, "1\n2\n3\n", "m\n2\n3\n", "1\n2\nt\n", NULL },
		      "m\n2\nt\n", " a=m\n2\nt\n;", "m\n2\nt\n");
	conflict_case(f, &(struct rule_test){ DOVETAIL_RULE_JSON, NULL, 0, "{}", "{\"m\":1}", "{\"t\":1}", NULL },
		      "{\"m\":1,\"t\":1}", " a={\"m\":1,\"t\":1};", "{\"m\":1,\"t\":1}");
}

static void test_no_conflict(void **state)
{
	struct fixture *f = *state;
	struct rule_test test = { .rule = DOVETAIL_RULE_SERVER };

	/* both the same: gone, not asked */
	server_catch_up(f);
	put(f->replica, "", BELOW "a", "same");
	server_put(&f->server, "", BELOW "a", "same");
	server_catch_up(f);
	none_next(f, 0);
	assert_int_equal(test.calls, 0);
	assert_string_equal(changed(f), "");
	assert_int_equal(get_flags(f->replica, "", BELOW "a"), 0);
}

/* The callback writes to the entry that it is asked about: asked again. */
static void test_write_in_callback(void **state)
{
	struct fixture *f = *state;
	struct rule_test test = { .rule = DOVETAIL_RULE_MINE, .base = "b", .mine = "m", .theirs = "t", .write = f };
	struct replica_set set;

	server_put(&f->server, "", BELOW "a", "b");
	server_catch_up(f);
	put(f->replica, "", BELOW "a", "m");
	server_put(&f->server, "", BELOW "a", "t");
	server_catch_up(f);
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, rule_resolve, &test, &set));
	assert_int_equal(test.calls, 2);
	assert_memory_equal(set.writes[0].data, "meanwhile", 9);
	assert_int_equal(replica_queue_count(f->replica), 1);
}

/* A later write on top of one that is merged: their lines are in it. */
static void test_chain(void **state)
{
	struct fixture *f = *state;
	struct dovetail_changes *changes;

	server_put(&f->server, "", BELOW "a", "1\n2\n3\n4\n5\n");
	server_catch_up(f);
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "a", "m\n2\n3\n4\n5\n", 10));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "b", "1", 1));
	must(f->replica, dovetail_changes_commit(changes));
	put(f->replica, "", BELOW "a", "m\n2\nM\n4\n5\n");
	server_put(&f->server, "", BELOW "a", "1\n2\n3\n4\nt\n");
	server_sync(f, DOVETAIL_RULE_LINES, NULL, NULL);
	assert_string_equal(server_find(&f->server, "", BELOW "a")->value, "m\n2\nM\n4\nt\n");
	assert_string_equal(get(f->replica, "", BELOW "a"), "m\n2\nM\n4\nt\n");
}

static void test_modified(void **state)
{
	struct fixture *f = *state;
	struct replica_theirs theirs = { "", BELOW "A", REPLICA_VALUE, "t", 1 };
	int64_t id;

	server_catch_up(f);
	put(f->replica, "", BELOW "a", "m");
	id = next_is(f, BELOW "a", "m", "(7 1)");
	server_put(&f->server, "", BELOW "a", "t");
	expect(f->replica, replica_queue_modified(f->replica, id, "garbage", &theirs, 1), DOVETAIL_PROTOCOL, "no position");
	must(f->replica, replica_queue_modified(f->replica, id, "(7 2)", &theirs, 1));
	/* not before a state */
	none_next(f, 1);
	assert_string_equal(get(f->replica, "", BELOW "a"), "m");
	server_catch_up(f);
	assert_int_equal(next_is(f, BELOW "a", "m", "(7 2)"), id);
	/* a write that is known not to be there is no lost answer; names in any case of letters are the same */
	theirs.data = "m";
	must(f->replica, replica_queue_modified(f->replica, id, "(7 3)", &theirs, 1));
	none_next(f, 0);
}

/* Others have changed it and set it back: no conflict, but the old condition would fail for ever. */
static void test_modified_and_back(void **state)
{
	struct replica_theirs theirs = { "", BELOW "a", REPLICA_VALUE, "b", 1 };
	struct fixture *f = *state;
	int64_t id;

	server_put(&f->server, "", BELOW "a", "b");
	server_catch_up(f);
	put(f->replica, "", BELOW "a", "m");
	id = next_is(f, BELOW "a", "m", "(7 2)");
	server_put(&f->server, "", BELOW "a", "x");
	server_put(&f->server, "", BELOW "a", "b");
	must(f->replica, replica_queue_modified(f->replica, id, "(7 4)", &theirs, 1));
	server_catch_up(f);
	assert_int_equal(next_is(f, BELOW "a", "m", "(7 4)"), id);
}

/* A new connection knows nothing of what has become of the set in flight. */
static void test_begin(void **state)
{
	struct fixture *f = *state;

	server_catch_up(f);
	put(f->replica, "", BELOW "a", "m");
	(void)next_is(f, BELOW "a", "m", "(7 1)");
	must(f->replica, replica_sync_begin(f->replica));
	none_next(f, 1);
	server_catch_up(f);
	(void)next_is(f, BELOW "a", "m", "(7 1)");
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

/* A server without positions */
static void test_fallback(void **state)
{
	struct fixture *f = *state;
	struct replica_set set;
	int64_t id;

	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "a", "1");
	consistent(f, "", false);
	put(f->replica, "", BELOW "a", "2");
	id = next_is(f, BELOW "a", "2", "");
	must(f->replica, replica_queue_done(f->replica, id, ""));
	assert_int_equal(get_flags(f->replica, "", BELOW "a"), 0);
	put(f->replica, "", BELOW "a", "3");
	must(f->replica, replica_stage_snapshot(f->replica));
	stage(f, BELOW "a", "theirs");
	consistent(f, "", false);
	assert_int_equal(replica_queue_next(f->replica, 0, DOVETAIL_RULE_SERVER, NULL, NULL, &set), DOVETAIL_NOT_FOUND);
	assert_string_equal(get(f->replica, "", BELOW "a"), "theirs");
}

/* -- a codec: values backwards behind "#", names in BELOW "s" with "x" behind; ".keys" is hidden */

struct codec {
	bool locked;
	char name[200];
	char value[200];
	unsigned int arrived, removed;
};

static bool codec_covers(void *context, const char *name)
{
	(void)context;
	return strncmp(name, BELOW "s/", strlen(BELOW "s/")) == 0;
}

static void backwards(const char *data, size_t size, char *to)
{
	for (size_t i = 0; i < size; i++)
		to[i] = data[size - 1 - i];
}

static enum dovetail_status codec_encode(void *context, const char *mailbox, const char *name, const void *data, size_t size,
					 struct replica_coded *coded_r)
{
	struct codec *codec = context;

	(void)mailbox;
	if (codec->locked)
		return DOVETAIL_LOCKED;
	(void)snprintf(codec->name, sizeof(codec->name), "%sx", name);
	coded_r->name = codec->name;
	if (data == NULL)
		return DOVETAIL_OK;
	codec->value[0] = '#';
	backwards(data, size, codec->value + 1);
	coded_r->data = codec->value;
	coded_r->size = size + 1;
	return DOVETAIL_OK;
}

static enum dovetail_status codec_decode(void *context, const char *mailbox, const char *wire_name, const void *data, size_t size,
					 bool arriving, struct replica_coded *coded_r)
{
	struct codec *codec = context;

	(void)mailbox;
	if (arriving)
		codec->arrived++;
	if (strcmp(wire_name, BELOW "s/.keys") == 0) {
		coded_r->hidden = true;
		coded_r->data = data;
		coded_r->size = size;
	} else if (codec->locked) {
		coded_r->flags = DOVETAIL_ENTRY_LOCKED;
	} else if (size == 0 || *(const char *)data != '#') {
		coded_r->flags = DOVETAIL_ENTRY_DAMAGED;
	} else {
		(void)snprintf(codec->name, sizeof(codec->name), "%s", wire_name);
		codec->name[strlen(codec->name) - 1] = '\0';
		backwards((const char *)data + 1, size - 1, codec->value);
		coded_r->name = codec->name;
		coded_r->data = codec->value;
		coded_r->size = size - 1;
	}
	return DOVETAIL_OK;
}

static enum dovetail_status codec_removed(void *context, const char *mailbox, const char *wire_name)
{
	struct codec *codec = context;

	(void)mailbox;
	(void)wire_name;
	codec->removed++;
	return DOVETAIL_OK;
}

static void set_codec(struct fixture *f, struct codec *codec)
{
	const struct replica_codec table = {
		.context = codec, .covers = codec_covers, .encode = codec_encode, .decode = codec_decode, .removed = codec_removed
	};

	replica_set_codec(f->replica, &table);
	assert_ptr_equal(replica_get_codec_context(f->replica), codec);
}

static void test_codec(void **state)
{
	struct codec codec = { .locked = true };
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct dovetail_entry entry;
	struct replica_set set;
	const void *data;
	size_t size;

	set_codec(f, &codec);
	server_put(&f->server, "", BELOW "s/ax", "#cba");
	server_put(&f->server, "", BELOW "s/.keys", "k");
	server_put(&f->server, "", BELOW "s/bx", "broken");
	server_catch_up(f);
	assert_int_equal(codec.arrived, 3);
	assert_string_equal(changed(f), " s/ax=?; s/bx=?;");
	assert_int_equal(get_flags(f->replica, "", BELOW "s/ax"), DOVETAIL_ENTRY_LOCKED);
	expect(f->replica, dovetail_set(f->replica, "", BELOW "s/c", "x", 1), DOVETAIL_LOCKED, "");
	/* unlocked: nothing is brought again */
	codec.locked = false;
	must(f->replica, replica_decode_again(f->replica, BELOW "s", true));
	assert_non_null(strstr(changed(f), " s/a=abc;"));
	assert_string_equal(get(f->replica, "", BELOW "s/a"), "abc");
	assert_string_equal(get(f->replica, "", BELOW "s/ax"), "-");
	assert_int_equal(get_flags(f->replica, "", BELOW "s/bx"), DOVETAIL_ENTRY_DAMAGED);
	assert_string_equal(get(f->replica, "", BELOW "s/.keys"), "-");
	must(f->replica, replica_get_raw(f->replica, "", BELOW "s/.keys", &entry));
	assert_string_equal(entry.data, "k");
	/* encoded once, sent so, readable meanwhile */
	put(f->replica, "", BELOW "s/a", "12");
	assert_string_equal(get(f->replica, "", BELOW "s/a"), "12");
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	assert_string_equal(set.writes[0].name, BELOW "s/ax");
	assert_int_equal(set.writes[0].size, 3);
	assert_memory_equal(set.writes[0].data, "#21", 3);
	must(f->replica, replica_queue_done(f->replica, set.id, "(7 5)"));
	server_put(&f->server, "", BELOW "s/ax", "#21");
	server_catch_up(f);
	assert_string_equal(changed(f), "");
	/* merged in the clear */
	put(f->replica, "", BELOW "s/a", "12\nm\n");
	server_put(&f->server, "", BELOW "s/ax", "#21\n0");
	server_catch_up(f);
	codec.locked = true;
	assert_int_equal(replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set), DOVETAIL_NOT_FOUND);
	codec.locked = false;
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_MINE, NULL, NULL, &set));
	must(f->replica, replica_queue_done(f->replica, set.id, "(7 7)"));
	/* keys: what is there stays */
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, replica_changes_add_raw(changes, "", BELOW "s/.keys", "mine", 4));
	must(f->replica, dovetail_changes_commit(changes));
	server_put(&f->server, "", BELOW "s/.keys", "theirs");
	server_catch_up(f);
	none_next(f, 0);
	must(f->replica, replica_get_raw(f->replica, "", BELOW "s/.keys", &entry));
	assert_string_equal(entry.data, "theirs");
	/* removed */
	(void)changed(f);
	server_put(&f->server, "", BELOW "s/bx", NULL);
	server_put(&f->server, "", BELOW "s/.keys", NULL);
	server_catch_up(f);
	assert_int_equal(codec.removed, 2);
	assert_string_equal(changed(f), " s/bx=-;");
	/* small things */
	assert_int_equal(replica_local_get(f->replica, "crypt/x", &data, &size), DOVETAIL_NOT_FOUND);
	must(f->replica, replica_local_set(f->replica, "crypt/x", "a\0b", 3));
	reopen(f);
	must(f->replica, replica_local_get(f->replica, "crypt/x", &data, &size));
	assert_int_equal(size, 3);
	must(f->replica, replica_local_set(f->replica, "crypt/x", NULL, 0));
	assert_int_equal(replica_local_get(f->replica, "crypt/x", &data, &size), DOVETAIL_NOT_FOUND);
}

/* What was in the clear is encrypted: under its new name, the old one is removed, in one set. */
static void test_codec_anew(void **state)
{
	struct codec codec = { .locked = false };
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct replica_set set;

	server_put(&f->server, "", BELOW "s/a", "abc");
	server_catch_up(f);
	set_codec(f, &codec);
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, replica_changes_add_anew(changes, "", BELOW "s/a", "abc", 3));
	must(f->replica, dovetail_changes_commit(changes));
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	assert_int_equal(set.count, 2);
	assert_string_equal(set.writes[0].name, BELOW "s/ax");
	assert_string_equal(set.writes[1].name, BELOW "s/a");
	assert_null(set.writes[1].data);
	assert_string_equal(get(f->replica, "", BELOW "s/a"), "abc");
	must(f->replica, replica_queue_done(f->replica, set.id, "(7 3)"));
	assert_string_equal(get(f->replica, "", BELOW "s/a"), "abc");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(first), TEST(later_writes), TEST(two_bases), TEST(lost_answer), TEST(rules), TEST(no_conflict),
		TEST(write_in_callback), TEST(chain), TEST(modified), TEST(modified_and_back), TEST(begin), TEST(limits),
		TEST(fallback), TEST(codec), TEST(codec_anew)
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
