/* Encryption of a replica: beginning, reading, and what waits. */

#include "crypt-devices.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void begin(struct devices *f, bool hide)
{
	struct dovetail_entry entry;
	char *seen;

	put(f->a.replica, "", S "/todo", "buy milk");
	put(f->a.replica, "", S "/plan/day", "sleep a lot");
	put(f->a.replica, "Work", S "/todo", "nothing");
	put(f->a.replica, "", "/private/vendor/example/clear", "as it is");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_true(server_has(f, "buy milk"));
	encrypt_at(f, &f->a, hide, 0);
	put(f->a.replica, "", S "/todo", "buy bread");
	put(f->a.replica, "", S "/later", "a secret");
	assert_string_equal(all(f->a.replica),
			    "/clear=as it is;/notes/later=a secret;/notes/plan/day=sleep a lot;/notes/todo=buy bread;"
			    "Work/notes/todo=nothing;");
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "");
	assert_int_equal(replica_queue_count(f->a.replica), 0);
	assert_false(server_has(f, "buy "));
	assert_false(server_has(f, "sleep a lot"));
	assert_false(server_has(f, "a secret"));
	assert_true(server_has(f, "as it is"));
	assert_int_equal(server_has(f, "todo"), !hide);
	assert_int_equal(server_has(f, "day"), !hide);
	/* the server has values and the ring */
	free(server_value(f, "", RING));

	/* b: locked, nothing is written in clear text */
	device_sync(f, &f->b);
	assert_non_null(strstr(all(f->b.replica), "=LOCKED;"));
	assert_null(strstr(all(f->b.replica), "buy"));
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/todo", "x", 1), DOVETAIL_LOCKED, "locked");
	expect(f->b.replica, unlock(f, &f->b, 1), DOVETAIL_WRONG_KEY, "secret");
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	seen = strdup(all(f->a.replica));
	assert_string_equal(all(f->b.replica), seen);
	free(seen);
	put(f->b.replica, "", S "/todo", "buy cheese");
	must(f->b.replica, dovetail_unset(f->b.replica, "", S "/later"));
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(get(f->a.replica, "", S "/todo"), "buy cheese");
	assert_string_equal(get(f->a.replica, "", S "/later"), "-");
	assert_string_equal(notices(&f->b), "");

	/* keys are not seen, nor written by hand */
	assert_int_equal(dovetail_get(f->a.replica, "", RING, &entry), DOVETAIL_NOT_FOUND);
	expect(f->a.replica, dovetail_set(f->a.replica, "", RING, "x", 1), DOVETAIL_INVALID, "reserved");
	/* each time it is opened */
	device_reopen(&f->b);
	assert_int_equal(dovetail_get(f->b.replica, "", S "/todo", &entry), DOVETAIL_OK);
	assert_int_equal(entry.flags, DOVETAIL_ENTRY_LOCKED);
	assert_null(entry.data);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/todo"), "buy cheese");
}

static void test_begin(void **state)
{
	begin(*state, false);
}

static void test_begin_hidden(void **state)
{
	begin(*state, true);
}

static void test_begin_refused(void **state)
{
	static const char *const bad[] = { "/private", "/private/", "/other/x", "private/x", "/private/a//b", "/private/a*",
					   "/private/a/",
		"/private/a/.dovetail", "/private/a/.dovetail/b", "" };
	struct devices *f = *state;
	const struct dovetail_secret secret = secret_of(f, 0), none = { 0 };
	unsigned int i;

	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, NULL), DOVETAIL_INVALID, "synchronize first");
	device_sync(f, &f->a);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect(f->a.replica, dovetail_encrypt(f->a.replica, bad[i], &secret, NULL), DOVETAIL_INVALID, "subtree");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, NULL, &secret, NULL), DOVETAIL_INVALID, "subtree");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, "/private/other", &secret, NULL), DOVETAIL_INVALID, "covered");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &none, NULL), DOVETAIL_INVALID, "secret");
	expect(f->a.replica, dovetail_unlock(f->a.replica, S, &secret), DOVETAIL_NOT_FOUND, "not encrypted");
	put(f->a.replica, "", S "/x", "waits");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, NULL), DOVETAIL_BUSY, "synchronize first");
	device_sync(f, &f->a);
	/* nothing of that has left anything behind */
	assert_string_equal(get(f->a.replica, "", S "/x"), "waits");
	must(f->a.replica, dovetail_encrypt(f->a.replica, S, NULL, NULL));
	must(f->a.replica, dovetail_encrypt(f->a.replica, "/PRIVATE/vendor/Example/NOTES", &secret, NULL));
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, NULL, NULL), DOVETAIL_INVALID, "already");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, NULL), DOVETAIL_INVALID, "already");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S "/x", &secret, NULL), DOVETAIL_INVALID, "already");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, "/private/vendor/example", &secret, NULL), DOVETAIL_INVALID, "already");
	device_sync(f, &f->a);
	assert_false(server_has(f, "waits"));
}

/* Both begin; b is later. What b has written meanwhile is not lost, and was never on the server with b's keys. */
static void test_two_begin(void **state)
{
	struct devices *f = *state;

	device_sync(f, &f->a);
	device_sync(f, &f->b);
	encrypt_at(f, &f->a, false, 0);
	encrypt_at(f, &f->b, false, 1);
	put(f->a.replica, "", S "/a", "from a");
	put(f->b.replica, "", S "/b", "from b");
	put(f->b.replica, "", S "/c", "from b, too");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable " S ";");
	assert_null(server_find(&f->server, "", S "/b"));
	/* a crash, and b's own key first: it says what else is needed */
	device_reopen(&f->b);
	device_sync(f, &f->b);
	expect(f->b.replica, unlock(f, &f->b, 1), DOVETAIL_LOCKED, "too");
	expect(f->b.replica, unlock(f, &f->b, 2), DOVETAIL_WRONG_KEY, "secret");
	assert_null(server_find(&f->server, "", S "/b"));
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/a=from a;/notes/b=from b;/notes/c=from b, too;");
	assert_string_equal(all(f->b.replica), "/notes/a=from a;/notes/b=from b;/notes/c=from b, too;");
	assert_int_equal(unlock(f, &f->a, 1), DOVETAIL_WRONG_KEY);
	assert_string_equal(notices(&f->a), "");
}

/* As above, but b has sent its ring already, without waiting for the answer: what is sealed for it has not gone along. */
static void test_two_begin_late(void **state)
{
	struct devices *f = *state;

	device_sync(f, &f->a);
	device_sync(f, &f->b);
	encrypt_at(f, &f->a, false, 0);
	encrypt_at(f, &f->b, false, 1);
	put(f->b.replica, "", S "/b", "from b");
	send_late(f, &f->b, &f->a);
	assert_null(server_find(&f->server, "", S "/b"));
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable " S ";");
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/b=from b;");
	assert_string_equal(all(f->b.replica), "/notes/b=from b;");
}

/* The end of the process between the keys and the subtree: it did not begin. Between the subtree and the queue: it goes on. */
static void test_begin_crash(void **state)
{
	struct devices *f = *state;
	struct fixture file = { .replica = NULL };

	device_sync(f, &f->a);
	encrypt_at(f, &f->a, false, 1);
	strcpy(file.path, f->a.path);
	sql(&file, "DELETE FROM write; DELETE FROM change_set; DELETE FROM entry; DELETE FROM local WHERE key = 'crypt/subtrees'");
	device_reopen(&f->a);
	expect(f->a.replica, unlock(f, &f->a, 1), DOVETAIL_NOT_FOUND, "not encrypted");
	encrypt_at(f, &f->a, false, 0);
	sql(&file, "DELETE FROM write; DELETE FROM change_set; DELETE FROM entry");
	device_reopen(&f->a);
	expect(f->a.replica, dovetail_set(f->a.replica, "", S "/x", "x", 1), DOVETAIL_LOCKED, "locked");
	assert_int_equal(unlock(f, &f->a, 0), DOVETAIL_OK);
	put(f->a.replica, "", S "/x", "secret");
	device_sync(f, &f->a);
	assert_false(server_has(f, "secret"));
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "secret");
}

static void no_clear_name(void *context, const char *mailbox, const char *name, const char *value)
{
	(void)context;
	(void)mailbox;
	assert_true(value == NULL || (strstr(name, "early") == NULL && strstr(value, "words") == NULL));
}

/* What another device queued before it knew of the encryption never leaves in clear text. */
static void test_waiting_in_clear_text(void **state)
{
	struct devices *f = *state;
	struct dovetail_changes *changes;

	device_sync(f, &f->b);
	put(f->b.replica, "", S "/early", "clear words");
	must(f->b.replica, dovetail_changes_begin(f->b.replica, &changes));
	must(f->b.replica, dovetail_changes_add(changes, "", S "/one", "more words", 10));
	must(f->b.replica, dovetail_changes_add(changes, "", S "/two", "even more words", 15));
	must(f->b.replica, dovetail_changes_commit(changes));
	put(f->b.replica, "", "/private/vendor/example/clear", "as it is");
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, true, 0);
	/* not for a moment */
	f->server.committed = no_clear_name;
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_false(server_has(f, "words"));
	assert_true(server_has(f, "as it is"));
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	assert_false(server_has(f, "words"));
	assert_false(server_has(f, "early"));
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica),
			    "/clear=as it is;/notes/early=clear words;/notes/one=more words;/notes/two=even more words;");
	assert_string_equal(all(f->b.replica),
			    "/clear=as it is;/notes/early=clear words;/notes/one=more words;/notes/two=even more words;");
	assert_int_equal(replica_queue_count(f->b.replica), 0);
}

/* As above, for what was on its way when the connection was lost, and did not get there. */
static void lost_in_flight(struct devices *f, bool hide)
{
	struct replica_set set;

	device_sync(f, &f->b);
	put(f->b.replica, "", S "/early", "clear words");
	catch_up(f, &f->b);
	must(f->b.replica, replica_queue_next(f->b.replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	must(f->b.replica, replica_queue_again(f->b.replica, set.id));
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, hide, 0);
	device_sync(f, &f->a);
	f->server.committed = hide ? no_clear_name : NULL;
	device_sync(f, &f->b);
	assert_false(server_has(f, "words"));
	assert_int_equal(replica_queue_count(f->b.replica), 1);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	assert_int_equal(replica_queue_count(f->b.replica), 0);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/early=clear words;");
	assert_string_equal(all(f->b.replica), "/notes/early=clear words;");
	assert_string_equal(notices(&f->a), "");
}

static void test_lost_in_flight(void **state)
{
	lost_in_flight(*state, false);
}

static void test_lost_in_flight_hidden(void **state)
{
	lost_in_flight(*state, true);
}

/* The keys have not come, but the user knows that they are to. */
static void test_expected(void **state)
{
	struct devices *f = *state;

	must(f->b.replica, dovetail_expect_encrypted(f->b.replica, S));
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/x", "x", 1), DOVETAIL_LOCKED, "locked");
	device_sync(f, &f->b);
	device_reopen(&f->b);
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/x", "x", 1), DOVETAIL_LOCKED, "locked");
	expect(f->b.replica, unlock(f, &f->b, 0), DOVETAIL_DAMAGED, "not come");
	put(f->b.replica, "", "/private/vendor/example/clear", "as it is");
	expect(f->b.replica, dovetail_expect_encrypted(f->b.replica, "/private/"), DOVETAIL_INVALID, "subtree");
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, false, 0);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	/* nobody has begun yet */
	must(f->b.replica, dovetail_expect_encrypted(f->b.replica, "/private/vendor/example/other"));
	{
		const struct dovetail_secret secret = secret_of(f, 1);

		must(f->b.replica, dovetail_encrypt(f->b.replica, "/private/vendor/example/other", &secret, NULL));
	}
}

/* -- what is in it already */

/* A name that cannot be hidden: it does not begin, and nothing is left behind. */
static void test_too_deep(void **state)
{
	const struct dovetail_encrypt_options options = { .hide_names = true };
	struct devices *f = *state;
	const struct dovetail_secret secret = secret_of(f, 0);
	char name[256] = S;
	unsigned int i;

	for (i = 0; i < 37; i++)
		strcat(name, "/x");
	put(f->a.replica, "", name, "deep");
	device_sync(f, &f->a);
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, &options), DOVETAIL_LIMIT, "too many components");
	assert_string_equal(get(f->a.replica, "", name), "deep");
	put(f->a.replica, "", S "/y", "why");
	device_sync(f, &f->a);
	assert_true(server_has(f, "why"));
	must(f->a.replica, dovetail_unset(f->a.replica, "", name));
	device_sync(f, &f->a);

	/* nor does one that comes meanwhile keep it from its end */
	must(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, &options));
	server_put(&f->server, "", name, "deep");
	device_sync(f, &f->a);
	strcat(name, ";");
	assert_string_equal(strstr(notices(&f->a), "/private"), name);
	assert_false(server_has(f, "why"));
}

/* The server does not take it: it is not sent over and over, and nothing goes that could not be read without it. */
static void test_refused(void **state)
{
	struct devices *f = *state;
	struct replica_set set;
	unsigned int i;

	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, false, 0);
	for (i = 0; i < 3; i++) {
		catch_up(f, &f->a);
		assert_int_equal(replica_queue_next(f->a.replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set), i == 0 ? DOVETAIL_OK :
				 DOVETAIL_NOT_FOUND);
		if (i == 0) {
			assert_string_equal(set.writes[0].name, RING);
			must(f->a.replica, replica_queue_refused(f->a.replica, set.id, "too large"));
		}
	}
	must(f->a.replica, dovetail_refused_forget(f->a.replica, "", RING));
	/* now the ring, but not the value */
	catch_up(f, &f->a);
	assert_int_equal(send_sets(f, &f->a, 1), 1);
	free(server_value(f, "", RING));
	for (i = 0; i < 3; i++) {
		catch_up(f, &f->a);
		assert_int_equal(replica_queue_next(f->a.replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set), i == 0 ? DOVETAIL_OK :
				 DOVETAIL_NOT_FOUND);
		if (i == 0)
			must(f->a.replica, replica_queue_refused(f->a.replica, set.id, "too large"));
	}
	assert_string_equal(get(f->a.replica, "", S "/x"), "ex");
	must(f->a.replica, dovetail_refused_forget(f->a.replica, "", S "/x"));
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(all(f->b.replica), "/notes/x=ex;");
	assert_string_equal(notices(&f->a), "");
}

/* While it is being converted, what is encrypted already does not come back in clear text; late words of others are taken. */
static void converting(struct devices *f, bool hide)
{
	char name[64];
	unsigned int i;

	for (i = 0; i < 25; i++) {
		snprintf(name, sizeof(name), S "/%02u", i);
		put(f->a.replica, i % 2 == 0 ? "" : "Work", name, "old");
	}
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, hide, 0);
	put(f->a.replica, "", S "/00", "new");
	catch_up(f, &f->a);
	assert_int_equal(send_sets(f, &f->a, 1), 1);
	server_put(&f->server, "", S "/02", "late");
	catch_up(f, &f->a);
	assert_true(send_sets(f, &f->a, 10) > 0);
	/* as long as this one is to be written anew, there is no end */
	server_put(&f->server, "", S "/77", "other");
	catch_up(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/00"), "new");
	assert_string_equal(get(f->b.replica, "", S "/02"), "late");
	server_put(&f->server, "", S "/00", "old");
	catch_up(f, &f->b);
	assert_string_equal(notices(&f->b), "rollback " S "/00;");
	assert_string_equal(get(f->b.replica, "", S "/77"), "other");
	catch_up(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S "/00;");
	device_reopen(&f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_null(strstr(all(f->b.replica), "00=old"));
	/* also while a write waits */
	put(f->b.replica, "", S "/00", "newer");
	server_put(&f->server, "", S "/00", "older");
	notices(&f->b);
	catch_up(f, &f->b);
	assert_string_equal(notices(&f->b), "rollback " S "/00;");
	device_sync(f, &f->b);
	assert_null(strstr(all(f->b.replica), "00=old"));
	device_sync(f, &f->a);
	assert_null(strstr(all(f->a.replica), "00=old"));
	assert_string_equal(get(f->a.replica, "", S "/77"), "other");
}

static void test_converting(void **state)
{
	converting(*state, false);
}

static void test_converting_hidden(void **state)
{
	converting(*state, true);
}

/* Values are not in the file of a replica in clear text. */
static void test_at_rest(void **state)
{
	static const char *const files[] = { "b", "b-wal" };
	struct devices *f = *state;
	char path[300], *data;
	unsigned int i;
	ssize_t size;
	int fd;

	both(f, true);
	put(f->a.replica, "", S "/x", "an unlikely word");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	put(f->b.replica, "", S "/y", "an unlikely word");
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->base, files[i]);
		fd = open(path, O_RDONLY);
		assert_true(fd >= 0);
		data = malloc(8 << 20);
		size = read(fd, data, 8 << 20);
		assert_true(size >= 0);
		assert_null(memmem(data, size, "unlikely", 8));
		free(data);
		close(fd);
	}
	assert_string_equal(get(f->b.replica, "", S "/y"), "an unlikely word");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_begin),
		TEST(test_begin_hidden),
		TEST(test_begin_refused),
		TEST(test_two_begin),
		TEST(test_two_begin_late),
		TEST(test_begin_crash),
		TEST(test_waiting_in_clear_text),
		TEST(test_lost_in_flight),
		TEST(test_lost_in_flight_hidden),
		TEST(test_expected),
		TEST(test_too_deep),
		TEST(test_refused),
		TEST(test_converting),
		TEST(test_converting_hidden),
		TEST(test_at_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
