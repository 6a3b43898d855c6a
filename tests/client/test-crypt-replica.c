/* Encryption of a replica: two devices and a server that may do as it likes. */

#include "replica-test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypt.h"

#define S "/private/vendor/example/notes"
#define RING S "/.dovetail/ring"

struct device {
	char path[300];
	struct dovetail *replica;
	char notices[4096];
};

struct fixture2 {
	char base[256], key[3][300];
	struct server server;
	struct device a, b;
};

static struct dovetail_secret secret_of(struct fixture2 *f, unsigned int which)
{
	return (struct dovetail_secret){ .key_file = f->key[which] };
}

static int setup(void **state)
{
	struct fixture2 *f = calloc(1, sizeof(*f));
	unsigned int i;

	make_base(f->base, sizeof(f->base));
	server_init(&f->server, 7);
	for (i = 0; i < 3; i++) {
		snprintf(f->key[i], sizeof(f->key[i]), "%s/key%u", f->base, i);
		assert_int_equal(dovetail_key_file_create(f->key[i], NULL), DOVETAIL_OK);
	}
	snprintf(f->a.path, sizeof(f->a.path), "%s/a", f->base);
	snprintf(f->b.path, sizeof(f->b.path), "%s/b", f->base);
	f->a.replica = must_open(f->a.path, DOVETAIL_OPEN_CREATE);
	f->b.replica = must_open(f->b.path, DOVETAIL_OPEN_CREATE);
	set_parts(f->a.replica);
	set_parts(f->b.replica);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture2 *f = *state;

	dovetail_close(f->a.replica);
	dovetail_close(f->b.replica);
	server_free(&f->server);
	remove_base(f->base);
	free(f);
	return 0;
}

static void device_reopen(struct device *device)
{
	dovetail_close(device->replica);
	device->replica = must_open(device->path, 0);
}

static void noticed(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	struct device *device = context;
	size_t size = strlen(device->notices);

	assert_true(*text != '\0');
	snprintf(device->notices + size, sizeof(device->notices) - size, "%s %s%s;", notice == DOVETAIL_NOTICE_ROLLBACK ? "rollback" :
		 "unreadable", mailbox, entry);
}

/* Catches up and steps: what a sync does before it sends. */
static void catch_up(struct fixture2 *f, struct device *device)
{
	struct dovetail_entry entry;
	char mark[64];
	bool reset;

	assert_true(server_stage(&f->server, device->replica, 0, 0, mark));
	must(device->replica, replica_stage_consistent(device->replica, mark, 0, &reset));
	while (replica_changed_next(device->replica, &entry) == DOVETAIL_OK) ;
	must(device->replica, crypt_replica_step(device->replica, noticed, device));
}

/* At most this many sets; how many went. */
static unsigned int send_sets(struct fixture2 *f, struct device *device, unsigned int most)
{
	struct replica_theirs theirs[100];
	struct request request;
	struct replica_set set;
	unsigned int sent = 0;

	while (sent < most && replica_queue_next(device->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set) == DOVETAIL_OK) {
		sent++;
		request_set(&request, &set);
		if (server_apply(&f->server, &request) == ANSWER_OK)
			must(device->replica, replica_queue_done(device->replica, set.id, server_pos(&f->server)));
		else
			must(device->replica, replica_queue_modified(device->replica, set.id, server_pos(&f->server), theirs,
								     server_theirs(&f->server, &request, theirs)));
		request_free(&request);
	}
	return sent;
}

/* Until there is nothing more to send. */
static void device_sync(struct fixture2 *f, struct device *device)
{
	unsigned int rounds = 0;

	do {
		assert_true(rounds++ < 100);
		catch_up(f, device);
	} while (send_sets(f, device, 1000) > 0);
	catch_up(f, device);
}

static const char *notices(struct device *device)
{
	static char text[4096];

	strcpy(text, device->notices);
	device->notices[0] = '\0';
	return text;
}

static void encrypt_at(struct fixture2 *f, struct device *device, bool hide, unsigned int key)
{
	const struct dovetail_encrypt_options options = { .hide_names = hide };
	const struct dovetail_secret secret = secret_of(f, key);

	must(device->replica, dovetail_encrypt(device->replica, S, &secret, &options));
}

static enum dovetail_status unlock(struct fixture2 *f, struct device *device, unsigned int key)
{
	const struct dovetail_secret secret = secret_of(f, key);

	return dovetail_unlock(device->replica, S, &secret);
}

/* a has encrypted, b has the key, both are in step */
static void both(struct fixture2 *f, bool hide)
{
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, hide, 0);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->a), "");
	assert_string_equal(notices(&f->b), "");
}

/* Is the text in a value or a name on the server? */
static bool server_has(struct fixture2 *f, const char *text)
{
	unsigned int i;

	for (i = 0; i < f->server.count; i++) {
		if (f->server.entries[i].value != NULL &&
		    (strstr(f->server.entries[i].value, text) != NULL || strstr(f->server.entries[i].name, text) != NULL))
			return true;
	}
	return false;
}

static char *server_value(struct fixture2 *f, const char *mailbox, const char *name)
{
	struct server_entry *entry = server_find(&f->server, mailbox, name);

	assert_non_null(entry);
	assert_non_null(entry->value);
	return strdup(entry->value);
}

/* All that the user sees: "mailbox name=value;..." */
static const char *all(struct dovetail *replica)
{
	static char text[8192];
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	size_t size = 0;

	text[0] = '\0';
	must(replica, dovetail_iter_open(replica, NULL, NULL, true, &iter));
	while (dovetail_iter_next(iter, &entry) == DOVETAIL_OK)
		size += snprintf(text + size, sizeof(text) - size, "%s%s=%s;", entry.mailbox, entry.name + strlen("/private/vendor/example"),
				 entry.data == NULL ? (entry.flags & DOVETAIL_ENTRY_LOCKED) != 0 ? "LOCKED" : "DAMAGED" : (const char *)entry.data);
	dovetail_iter_close(iter);
	return text;
}

/* -- beginning and reading */

static void begin(struct fixture2 *f, bool hide)
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
	assert_string_equal(all(f->a.replica), "/clear=as it is;/notes/later=a secret;/notes/plan/day=sleep a lot;/notes/todo=buy bread;"
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
	static const char *const bad[] = { "/private", "/private/", "/other/x", "private/x", "/private/a//b", "/private/a*", "/private/a/",
		"/private/a/.dovetail", "/private/a/.dovetail/b", "" };
	struct fixture2 *f = *state;
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
	must(f->a.replica, dovetail_encrypt(f->a.replica, "/PRIVATE/vendor/Example/NOTES", &secret, NULL));
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S, &secret, NULL), DOVETAIL_INVALID, "already");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, S "/x", &secret, NULL), DOVETAIL_INVALID, "already");
	expect(f->a.replica, dovetail_encrypt(f->a.replica, "/private/vendor/example", &secret, NULL), DOVETAIL_INVALID, "already");
	device_sync(f, &f->a);
	assert_false(server_has(f, "waits"));
}

/* Both begin; b is later. What b has written meanwhile is not lost, and was never on the server with b's keys. */
static void test_two_begin(void **state)
{
	struct fixture2 *f = *state;

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

static void no_clear_name(void *context, const char *mailbox, const char *name, const char *value)
{
	(void)context;
	(void)mailbox;
	assert_true(value == NULL || (strstr(name, "early") == NULL && strstr(value, "words") == NULL));
}

/* What another device queued before it knew of the encryption never leaves in clear text. */
static void test_waiting_in_clear_text(void **state)
{
	struct fixture2 *f = *state;
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
	assert_string_equal(all(f->a.replica), "/clear=as it is;/notes/early=clear words;/notes/one=more words;/notes/two=even more words;");
	assert_string_equal(all(f->b.replica), "/clear=as it is;/notes/early=clear words;/notes/one=more words;/notes/two=even more words;");
	assert_int_equal(replica_queue_count(f->b.replica), 0);
}

/* -- what a server does */

static void test_swaps(void **state)
{
	struct fixture2 *f = *state;
	char *x, *y;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	put(f->a.replica, "", S "/y", "why");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	x = server_value(f, "", S "/x");
	y = server_value(f, "", S "/y");
	server_put(&f->server, "", S "/x", y);
	server_put(&f->server, "", S "/y", x);
	device_sync(f, &f->b);
	assert_string_equal(all(f->b.replica), "/notes/x=DAMAGED;/notes/y=DAMAGED;");
	assert_string_equal(notices(&f->b), "unreadable " S "/x;unreadable " S "/y;");
	/* clear text is not taken for a value, either */
	server_put(&f->server, "", S "/x", "pay 1000");
	server_put(&f->server, "", S "/y", y);
	device_sync(f, &f->b);
	assert_string_equal(all(f->b.replica), "/notes/x=DAMAGED;/notes/y=why;");
	assert_string_equal(notices(&f->b), "unreadable " S "/x;");
	/* a new value heals it */
	put(f->b.replica, "", S "/x", "new");
	device_sync(f, &f->b);
	assert_string_equal(get(f->b.replica, "", S "/x"), "new");
	free(x);
	free(y);
}

/* Each device notices that a value is older than what it has seen or written, also after a restart and after a removal. */
static void test_roll_back(void **state)
{
	struct fixture2 *f = *state;
	struct device *devices[] = { &f->a, &f->b };
	char *first, *second, *third;
	unsigned int i;

	both(f, false);
	put(f->a.replica, "", S "/x", "one");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	first = server_value(f, "", S "/x");
	put(f->a.replica, "", S "/x", "two");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	second = server_value(f, "", S "/x");
	put(f->b.replica, "", S "/x", "three");
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	third = server_value(f, "", S "/x");
	for (i = 0; i < 2; i++) {
		device_reopen(devices[i]);
		assert_int_equal(unlock(f, devices[i], 0), DOVETAIL_OK);
		assert_string_equal(get(devices[i]->replica, "", S "/x"), "three");
	}
	server_put(&f->server, "", S "/x", second);
	for (i = 0; i < 2; i++) {
		device_sync(f, devices[i]);
		assert_string_equal(notices(devices[i]), "rollback " S "/x;");
		assert_int_equal(get_flags(devices[i]->replica, "", S "/x"), DOVETAIL_ENTRY_DAMAGED);
	}
	server_put(&f->server, "", S "/x", first);
	for (i = 0; i < 2; i++) {
		device_sync(f, devices[i]);
		assert_string_equal(notices(devices[i]), "rollback " S "/x;");
		device_reopen(devices[i]);
		assert_int_equal(unlock(f, devices[i], 0), DOVETAIL_OK);
		assert_int_equal(get_flags(devices[i]->replica, "", S "/x"), DOVETAIL_ENTRY_DAMAGED);
		notices(devices[i]);
	}
	/* the right one again */
	put(f->a.replica, "", S "/x", "four");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(get(f->b.replica, "", S "/x"), "four");
	assert_string_equal(notices(&f->b), "");
	must(f->a.replica, dovetail_unset(f->a.replica, "", S "/x"));
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	server_put(&f->server, "", S "/x", third);
	for (i = 0; i < 2; i++) {
		device_sync(f, devices[i]);
		assert_string_equal(notices(devices[i]), "rollback " S "/x;");
	}
	free(first);
	free(second);
	free(third);
}

/* What this device has written itself, and nobody else has touched. */
static void test_roll_back_own(void **state)
{
	struct fixture2 *f = *state;
	char *first;

	both(f, false);
	put(f->a.replica, "", S "/x", "one");
	device_sync(f, &f->a);
	first = server_value(f, "", S "/x");
	put(f->a.replica, "", S "/x", "two");
	device_sync(f, &f->a);
	server_put(&f->server, "", S "/x", first);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S "/x;");
	assert_int_equal(get_flags(f->a.replica, "", S "/x"), DOVETAIL_ENTRY_DAMAGED);
	free(first);
}

/* Ordinary life: no false alarm by conflicts, lost answers, and writes on top of writes. */
static void test_no_false_alarm(void **state)
{
	struct fixture2 *f = *state;
	struct request request;
	struct replica_set set;
	char value[32];
	unsigned int i;

	both(f, true);
	for (i = 0; i < 200; i++) {
		struct device *one = rnd(2) == 0 ? &f->a : &f->b;
		char name[64];

		snprintf(name, sizeof(name), S "/%u", rnd(4));
		snprintf(value, sizeof(value), "%u", i);
		switch (rnd(7)) {
		case 0:
			device_sync(f, one);
			break;
		case 1:
			(void)dovetail_unset(one->replica, rnd(2) == 0 ? "" : "Work", name);
			break;
		case 2:
			/* committed, but the answer is lost */
			catch_up(f, one);
			if (replica_queue_next(one->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set) == DOVETAIL_OK) {
				request_set(&request, &set);
				(void)server_apply(&f->server, &request);
				request_free(&request);
				must(one->replica, replica_queue_again(one->replica, set.id));
			}
			break;
		case 3:
			device_reopen(one);
			assert_int_equal(unlock(f, one, 0), DOVETAIL_OK);
			break;
		default:
			put(one->replica, rnd(2) == 0 ? "" : "Work", name, value);
		}
	}
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "");
	assert_string_equal(notices(&f->b), "");
	{
		char *seen = strdup(all(f->a.replica));

		assert_string_equal(all(f->b.replica), seen);
		assert_null(strstr(seen, "DAMAGED"));
		assert_null(strstr(seen, "LOCKED"));
		free(seen);
	}
}

/* The server moves all of a mailbox, as a rename does. */
static void test_rename(void **state)
{
	struct fixture2 *f = *state;
	struct server_entry *entry;
	char *value;

	both(f, true);
	put(f->a.replica, "Old", S "/x", "moves along");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	for (entry = f->server.entries; strcmp(entry->mailbox, "Old") != 0; entry++) ;
	value = strdup(entry->value);
	server_put(&f->server, "New", entry->name, value);
	server_put(&f->server, "Old", entry->name, NULL);
	free(value);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(all(f->a.replica), "New/notes/x=moves along;");
	assert_string_equal(all(f->b.replica), "New/notes/x=moves along;");
	assert_string_equal(notices(&f->a), "");
	assert_string_equal(notices(&f->b), "");
}

static void test_conflict(void **state)
{
	struct fixture2 *f = *state;

	both(f, true);
	put(f->a.replica, "", S "/x", "1\n2\n3\n");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	put(f->a.replica, "", S "/x", "one\n2\n3\n");
	put(f->b.replica, "", S "/x", "1\n2\nthree\n");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(get(f->a.replica, "", S "/x"), "one\n2\nthree\n");
	assert_string_equal(get(f->b.replica, "", S "/x"), "one\n2\nthree\n");
	assert_string_equal(notices(&f->a), "");
	assert_string_equal(notices(&f->b), "");
}

/* -- secrets and rotation */

static bool collect(void *context, const char *label, const char *kind)
{
	strcat(context, label);
	strcat(context, "/");
	strcat(context, kind);
	strcat(context, ";");
	return true;
}

static void test_secrets(void **state)
{
	struct fixture2 *f = *state;
	const struct dovetail_secret second = secret_of(f, 1);
	char text[256] = "", *old;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	expect(f->a.replica, dovetail_secret_remove(f->a.replica, S, "first"), DOVETAIL_INVALID, "last");
	expect(f->a.replica, dovetail_secret_add(f->a.replica, S, "first", &second), DOVETAIL_INVALID, "label");
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "second", &second));
	device_sync(f, &f->a);
	must(f->a.replica, dovetail_secret_each(f->a.replica, S, collect, text));
	assert_string_equal(text, "first/key-file;second/key-file;");
	/* b follows without being asked again */
	device_sync(f, &f->b);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	old = server_value(f, "", RING);
	must(f->b.replica, dovetail_secret_remove(f->b.replica, S, "first"));
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "");
	device_reopen(&f->a);
	assert_int_equal(unlock(f, &f->a, 0), DOVETAIL_WRONG_KEY);
	expect(f->a.replica, dovetail_secret_add(f->a.replica, S, "x", &second), DOVETAIL_LOCKED, "locked");
	assert_int_equal(unlock(f, &f->a, 1), DOVETAIL_OK);

	/* the server shows the set of secrets from before the removal: to one that is unlocked, and to one that is not */
	server_put(&f->server, "", RING, old);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S ";");
	assert_string_equal(get(f->a.replica, "", S "/x"), "ex");
	device_reopen(&f->b);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_WRONG_KEY);
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	catch_up(f, &f->b);
	assert_non_null(strstr(notices(&f->b), "rollback " S ";"));
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	free(old);
}

/* At once: one of the changes is lost, nothing is broken, and both devices go on. */
static void test_secrets_at_once(void **state)
{
	struct fixture2 *f = *state;
	const struct dovetail_secret second = secret_of(f, 1), third = secret_of(f, 2);
	struct dovetail_entry entry;
	char *other;

	both(f, false);
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "second", &second));
	must(f->b.replica, dovetail_secret_add(f->b.replica, S, "third", &third));
	must(f->b.replica, replica_get_raw(f->b.replica, "", RING, &entry));
	other = strdup(entry.data);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	put(f->b.replica, "", S "/x", "ex");
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(get(f->a.replica, "", S "/x"), "ex");
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	assert_int_equal(unlock(f, &f->b, 2), DOVETAIL_WRONG_KEY);
	/* the server shows the one that lost, which has the same number */
	assert_string_equal(notices(&f->a), "");
	server_put(&f->server, "", RING, other);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S ";");
	free(other);
}

/* A rotation with an end of the process after each set that it sends; either device may go on with it. */
static void rotation(struct fixture2 *f, unsigned int crash, bool other)
{
	const struct dovetail_secret second = secret_of(f, 1);
	struct device *device = &f->a;
	char name[64], *old, *seen;
	unsigned int i;

	both(f, crash % 2 == 1);
	for (i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), S "/%02u", i);
		put(f->a.replica, i % 3 == 0 ? "Work" : "", name, "a value");
	}
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	seen = strdup(all(f->a.replica));
	old = server_value(f, "", RING);
	put(f->b.replica, "", S "/waits", "on b");
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "new", &second));
	catch_up(f, &f->a);
	(void)send_sets(f, &f->a, crash);
	if (crash > 0) {
		if (other)
			device = &f->b;
		else
			device_reopen(&f->a);
		catch_up(f, device);
		assert_int_equal(unlock(f, device, 1), DOVETAIL_OK);
	}
	device_sync(f, device);
	device_sync(f, &f->b);
	(void)unlock(f, &f->b, 1);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	must(f->a.replica, dovetail_unset(f->a.replica, "", S "/waits"));
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(all(f->a.replica), seen);
	assert_string_equal(all(f->b.replica), seen);
	notices(&f->a);
	notices(&f->b);
	/* settled: the old key opens nothing, and the old ring does not come back */
	assert_int_equal(unlock(f, &f->a, 0), DOVETAIL_WRONG_KEY);
	server_put(&f->server, "", RING, old);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S ";");
	assert_string_equal(all(f->a.replica), seen);
	free(seen);
	free(old);
}

static void test_rotation(void **state)
{
	rotation(*state, 0, false);
}

static void test_rotation_crash_1(void **state)
{
	rotation(*state, 1, false);
}

static void test_rotation_crash_2(void **state)
{
	rotation(*state, 2, false);
}

static void test_rotation_other_1(void **state)
{
	rotation(*state, 1, true);
}

static void test_rotation_other_2(void **state)
{
	rotation(*state, 2, true);
}

/* A client without keys removes the ring: a device that has it puts it back. */
static void test_ring_removed(void **state)
{
	struct fixture2 *f = *state;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	server_put(&f->server, "", RING, NULL);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "rollback " S ";");
	free(server_value(f, "", RING));
	device_reopen(&f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	device_sync(f, &f->a);
	put(f->a.replica, "", S "/x", "why");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(get(f->b.replica, "", S "/x"), "why");
}

/* A ring that is no ring: nothing is lost, nothing is written in clear text. */
static void test_ring_damaged(void **state)
{
	struct fixture2 *f = *state;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	server_put(&f->server, "", RING, "dtk1:AAAA");
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable " S ";");
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	device_reopen(&f->b);
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/x", "y", 1), DOVETAIL_LOCKED, "locked");
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	/* one that has never seen the right one cannot but say so */
	set_parts(f->a.replica);
	server_put(&f->server, "", "/private/vendor/example/more/.dovetail/ring", "dtk1:AAAA");
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable /private/vendor/example/more;");
	expect(f->b.replica, dovetail_set(f->b.replica, "", "/private/vendor/example/more/x", "y", 1), DOVETAIL_LOCKED, "locked");
}

/* Values are not in the file of a replica in clear text. */
static void test_at_rest(void **state)
{
	static const char *const files[] = { "b", "b-wal" };
	struct fixture2 *f = *state;
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_begin),
		TEST(test_begin_hidden),
		TEST(test_begin_refused),
		TEST(test_two_begin),
		TEST(test_waiting_in_clear_text),
		TEST(test_swaps),
		TEST(test_roll_back),
		TEST(test_roll_back_own),
		TEST(test_no_false_alarm),
		TEST(test_rename),
		TEST(test_conflict),
		TEST(test_secrets),
		TEST(test_secrets_at_once),
		TEST(test_rotation),
		TEST(test_rotation_crash_1),
		TEST(test_rotation_crash_2),
		TEST(test_rotation_other_1),
		TEST(test_rotation_other_2),
		TEST(test_ring_removed),
		TEST(test_ring_damaged),
		TEST(test_at_rest),
	};

	rnd_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
