/* Encryption of a replica: what a server can do to it, and ordinary life, in which nobody raises an alarm. */

#include "crypt-devices.h"
#include "crypt-private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_swaps(void **state)
{
	struct devices *f = *state;
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
	struct devices *f = *state;
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
	struct devices *f = *state;
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

/* The same while a later write of our own waits: it is not merged with the old value. */
static void test_roll_back_own_waiting(void **state)
{
	struct devices *f = *state;
	char *first;

	both(f, false);
	put(f->a.replica, "", S "/x", "1\n");
	device_sync(f, &f->a);
	first = server_value(f, "", S "/x");
	put(f->a.replica, "", S "/x", "1\n2\n");
	device_sync(f, &f->a);
	put(f->a.replica, "", S "/x", "0\n1\n2\n");
	server_put(&f->server, "", S "/x", first);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "rollback " S "/x;");
	assert_string_equal(get(f->a.replica, "", S "/x"), "0\n1\n2\n");
	device_sync(f, &f->b);
	assert_string_equal(get(f->b.replica, "", S "/x"), "0\n1\n2\n");
	free(first);
}

/* One octet of the slot's salt and the checksum are changed: a device that has the right ring uses that, and says so. Rings that
   are older, or without the secret, from before it was there, do not keep it out, either. */
static void test_slot_changed(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1);
	struct crypt_ring *ring;
	const char *error;
	char *old, *changed;
	size_t size;
	void *text;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	old = server_value(f, "", RING);
	assert_int_equal(crypt_ring_parse(S, old, strlen(old), NULL, &ring, &error), DOVETAIL_OK);
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "second", &second));
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	assert_string_equal(notices(&f->b), "");
	server_put(&f->server, "", RING, old);
	device_reopen(&f->b);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	catch_up(f, &f->b);
	assert_string_equal(notices(&f->b), "rollback " S ";");
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	ring->slots[0].salt[0] ^= 1;
	/* its body is as it was, so it can be written without a key */
	ring->secrets = sodium_malloc(sizeof(*ring->secrets));
	ring->secrets->count = 1;
	assert_int_equal(crypt_ring_write(ring, NULL, &text, &size, &error), DOVETAIL_OK);
	changed = strndup(text, size);
	server_put(&f->server, "", RING, changed);
	device_reopen(&f->b);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 2), DOVETAIL_WRONG_KEY);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	catch_up(f, &f->b);
	assert_string_equal(notices(&f->b), "rollback " S ";");
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	crypt_ring_free(ring);
	free(changed);
	free(text);
	free(old);
}

/* Ordinary life: no false alarm by conflicts, lost answers, and writes on top of writes. */
static void test_no_false_alarm(void **state)
{
	struct devices *f = *state;
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

/* What the server has refused was never there: the value from before it is no roll-back, whatever was tried. */
static void test_refused_is_not_seen(void **state)
{
	struct devices *f = *state;
	struct replica_set set;
	unsigned int i;
	char text[16];

	both(f, false);
	put(f->a.replica, "", S "/x", "taken");
	device_sync(f, &f->a);
	for (i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), "refused %u", i);
		put(f->a.replica, "", S "/x", text);
		catch_up(f, &f->a);
		must(f->a.replica, replica_queue_next(f->a.replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
		must(f->a.replica, replica_queue_refused(f->a.replica, set.id, "too large"));
		device_reopen(&f->a);
		assert_int_equal(unlock(f, &f->a, 0), DOVETAIL_OK);
		device_sync(f, &f->a);
		assert_string_equal(get(f->a.replica, "", S "/x"), "taken");
	}
	assert_string_equal(notices(&f->a), "");
}

/* The server moves all of a mailbox, as a rename does. */
static void test_rename(void **state)
{
	struct devices *f = *state;
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
	struct devices *f = *state;

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

/* A client without keys removes the ring: a device that has it puts it back. */
static void test_ring_removed(void **state)
{
	struct devices *f = *state;

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
	struct devices *f = *state;

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_swaps),
		TEST(test_roll_back),
		TEST(test_roll_back_own),
		TEST(test_roll_back_own_waiting),
		TEST(test_slot_changed),
		TEST(test_ring_removed),
		TEST(test_ring_damaged),
		TEST(test_no_false_alarm),
		TEST(test_refused_is_not_seen),
		TEST(test_rename),
		TEST(test_conflict),
	};

	rnd_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
