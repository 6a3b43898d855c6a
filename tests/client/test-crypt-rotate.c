/* Encryption of a replica: secrets and new keys. */

#include "crypt-devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	struct devices *f = *state;
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
	struct devices *f = *state;
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
static void rotation(struct devices *f, unsigned int crash, bool other)
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

/* Both rotate; b is later. Nothing is ever sealed on the server for keys that are not there, and what b has written is not lost. */
static void rotations_at_once(struct devices *f, bool late, bool reopen)
{
	const struct dovetail_secret second = secret_of(f, 1), third = secret_of(f, 2);
	char name[64];
	unsigned int i;

	both(f, false);
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), S "/%u", i);
		put(f->a.replica, "", name, "value");
	}
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "a", &second));
	must(f->b.replica, dovetail_rotate_key(f->b.replica, S, "b", &third));
	put(f->b.replica, "", S "/new", "from b");
	if (late)
		send_late(f, &f->b, &f->a);
	else
		device_sync(f, &f->a);
	device_sync(f, &f->b);
	/* not for each value */
	assert_string_equal(notices(&f->b), "unreadable " S ";unreadable " S ";");
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/x", "x", 1), DOVETAIL_LOCKED, "locked");
	if (reopen) {
		device_reopen(&f->b);
		device_sync(f, &f->b);
		expect(f->b.replica, unlock(f, &f->b, 2), DOVETAIL_LOCKED, "too");
	}
	expect(f->b.replica, unlock(f, &f->b, 0), DOVETAIL_WRONG_KEY, "secret");
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/0=value;/notes/1=value;/notes/2=value;");
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/0=value;/notes/1=value;/notes/2=value;/notes/new=from b;");
	assert_string_equal(all(f->b.replica), "/notes/0=value;/notes/1=value;/notes/2=value;/notes/new=from b;");
	assert_string_equal(notices(&f->a), "");
	assert_int_equal(replica_queue_count(f->b.replica), 0);
}

static void test_rotations_at_once(void **state)
{
	rotations_at_once(*state, false, false);
}

static void test_rotations_at_once_late(void **state)
{
	rotations_at_once(*state, true, false);
}

static void test_rotations_at_once_reopen(void **state)
{
	rotations_at_once(*state, false, true);
}

/* a gives a further secret, b rotates at the same time, and is later: the old key stays, and its secrets. */
static void test_rotation_and_secret(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1), third = secret_of(f, 2);

	both(f, true);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "second", &second));
	must(f->b.replica, dovetail_rotate_key(f->b.replica, S, "b", &third));
	put(f->b.replica, "", S "/y", "why");
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable " S ";");
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(all(f->a.replica), "/notes/x=ex;/notes/y=why;");
	assert_string_equal(all(f->b.replica), "/notes/x=ex;/notes/y=why;");
	assert_string_equal(notices(&f->a), "");
	/* and it can be done again */
	must(f->b.replica, dovetail_rotate_key(f->b.replica, S, "b", &third));
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_int_equal(unlock(f, &f->a, 2), DOVETAIL_OK);
	assert_string_equal(all(f->a.replica), "/notes/x=ex;/notes/y=why;");
}

/* The server makes up a ring of a later number: it is told, nothing is sent, and when the right one is back all goes on. */
static void test_ring_made_up(void **state)
{
	struct devices *f = *state;
	char *right, *wrong;
	const char *error;
	struct crypt_ring *ring;
	const struct dovetail_secret third = secret_of(f, 2);
	void *text;
	size_t size;

	both(f, false);
	put(f->b.replica, "", S "/x", "ex");
	right = server_value(f, "", RING);
	assert_int_equal(crypt_ring_parse(S, right, strlen(right), NULL, &ring, &error), DOVETAIL_OK);
	{
		struct crypt_ring *made;

		assert_int_equal(crypt_ring_new(S, false, NULL, &made, &error), DOVETAIL_OK);
		memcpy(made->subtree_id, ring->subtree_id, CRYPT_SUBTREE_ID_SIZE);
		made->epoch = 9;
		assert_int_equal(crypt_ring_slot_add(made, "first", &third, NULL, &error), DOVETAIL_OK);
		assert_int_equal(crypt_ring_write(made, NULL, &text, &size, &error), DOVETAIL_OK);
		crypt_ring_free(made);
		crypt_ring_free(ring);
	}
	wrong = strndup(text, size);
	free(text);
	server_put(&f->server, "", RING, wrong);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->b), "unreadable " S ";");
	assert_null(server_find(&f->server, "", S "/x"));
	expect(f->b.replica, dovetail_set(f->b.replica, "", S "/y", "y", 1), DOVETAIL_LOCKED, "locked");
	expect(f->b.replica, unlock(f, &f->b, 0), DOVETAIL_WRONG_KEY, "secret");
	server_put(&f->server, "", RING, right);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_WRONG_KEY);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	device_sync(f, &f->a);
	assert_string_equal(get(f->a.replica, "", S "/x"), "ex");
	free(right);
	free(wrong);
}

/* What stands where the ring has to be while a rotation waits keeps it waiting, no more. */
static void test_rotation_waits(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1);
	char *right;

	both(f, false);
	put(f->a.replica, "", S "/x", "ex");
	device_sync(f, &f->a);
	right = server_value(f, "", RING);
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "new", &second));
	server_put(&f->server, "", RING, "dtk1:AAAA");
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "unreadable " S ";");
	server_put(&f->server, "", RING, right);
	device_sync(f, &f->a);
	assert_string_equal(notices(&f->a), "");
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_WRONG_KEY);
	assert_int_equal(unlock(f, &f->b, 1), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
	free(right);
}

/* A secret was added, the answer was lost, and another one is added: both stay. */
static void test_secret_answer_lost(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1), third = secret_of(f, 2);
	struct request request;
	struct replica_set set;
	char text[256] = "";

	both(f, false);
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "second", &second));
	catch_up(f, &f->a);
	must(f->a.replica, replica_queue_next(f->a.replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	request_set(&request, &set);
	assert_int_equal(server_apply(&f->server, &request), ANSWER_OK);
	request_free(&request);
	must(f->a.replica, replica_queue_again(f->a.replica, set.id));
	must(f->a.replica, dovetail_secret_add(f->a.replica, S, "third", &third));
	device_sync(f, &f->a);
	must(f->a.replica, dovetail_secret_each(f->a.replica, S, collect, text));
	assert_string_equal(text, "first/key-file;second/key-file;third/key-file;");
	assert_string_equal(notices(&f->a), "");
}

/* Two rotations, of which the first has arrived: its secret does not bring it back over the second, nor lose what was written with that. */
static void test_rotated_twice(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1), third = secret_of(f, 2);

	both(f, false);
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "second", &second));
	catch_up(f, &f->a);
	assert_int_equal(send_sets(f, &f->a, 1), 1);
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "third", &third));
	put(f->a.replica, "", S "/x", "ex");
	assert_int_equal(unlock(f, &f->a, 1), DOVETAIL_WRONG_KEY);
	device_reopen(&f->a);
	assert_int_equal(unlock(f, &f->a, 1), DOVETAIL_WRONG_KEY);
	assert_int_equal(unlock(f, &f->a, 2), DOVETAIL_OK);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 2), DOVETAIL_OK);
	assert_string_equal(get(f->b.replica, "", S "/x"), "ex");
}

/* Another handle of the replica has the old key still, after the new one has come by the first. */
static void test_rotation_and_two_handles(void **state)
{
	struct devices *f = *state;
	const struct dovetail_secret second = secret_of(f, 1);
	struct device other = { .notices = "" };

	both(f, false);
	strcpy(other.path, f->b.path);
	other.replica = must_open(other.path, 0);
	assert_int_equal(unlock(f, &other, 0), DOVETAIL_OK);
	must(f->a.replica, dovetail_rotate_key(f->a.replica, S, "second", &second));
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	put(other.replica, "", S "/x", "ex");
	device_sync(f, &other);
	assert_null(server_find(&f->server, "", S "/x"));
	assert_int_equal(unlock(f, &other, 1), DOVETAIL_OK);
	device_sync(f, &other);
	device_sync(f, &f->a);
	assert_string_equal(get(f->a.replica, "", S "/x"), "ex");
	dovetail_close(other.replica);
}

/* The next set goes out, and its answer is lost; perhaps it did not arrive. */
static void lose_answer(struct devices *f, struct device *device)
{
	struct request request;
	struct replica_set set;

	catch_up(f, device);
	if (replica_queue_next(device->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set) != DOVETAIL_OK)
		return;
	request_set(&request, &set);
	if (rnd(2) == 0)
		(void)server_apply(&f->server, &request);
	request_free(&request);
	must(device->replica, replica_queue_again(device->replica, set.id));
}

static void unlock_any(struct devices *f, struct device *device)
{
	unsigned int key;

	for (key = 0; key < 3; key++)
		(void)unlock(f, device, key);
}

/* Secrets and keys change on both devices at any time, with crashes and lost answers: what was written is there at the end, can
   be read by both, and no device has accused the server. */
static void test_anything(void **state)
{
	struct devices *f = *state;
	struct device *devices[] = { &f->a, &f->b }, *one;
	bool written[30] = { false };
	char name[64], value[64], label[16], *seen;
	unsigned int i, count = 0;

	both(f, rnd(2) == 0);
	for (i = 0; i < 150; i++) {
		const struct dovetail_secret secret = secret_of(f, rnd(3));

		one = devices[rnd(2)];
		snprintf(label, sizeof(label), "%u", i);
		switch (rnd(9)) {
		case 0:
			device_sync(f, one);
			break;
		case 1:
			lose_answer(f, one);
			break;
		case 2:
			device_reopen(one);
			unlock_any(f, one);
			break;
		case 3:
			if (rnd(3) == 0)
				(void)dovetail_rotate_key(one->replica, S, label, &secret);
			break;
		case 4:
			(void)dovetail_secret_add(one->replica, S, label, &secret);
			break;
		case 5:
			unlock_any(f, one);
			break;
		case 6:
			catch_up(f, one);
			(void)send_sets(f, one, rnd(3));
			break;
		default:
			if (count == 30)
				break;
			snprintf(name, sizeof(name), S "/%u", count);
			snprintf(value, sizeof(value), "value %u", count);
			written[count++] = dovetail_set(one->replica, "", name, value, strlen(value)) == DOVETAIL_OK;
		}
	}
	for (i = 0; i < 12; i++) {
		device_sync(f, devices[i % 2]);
		unlock_any(f, devices[i % 2]);
	}
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	seen = strdup(all(f->a.replica));
	assert_string_equal(all(f->b.replica), seen);
	assert_null(strstr(seen, "DAMAGED"));
	assert_null(strstr(seen, "LOCKED"));
	for (i = 0; i < count; i++) {
		snprintf(value, sizeof(value), "=value %u;", i);
		assert_true(!written[i] || strstr(seen, value) != NULL);
	}
	for (i = 0; i < 2; i++) {
		assert_int_equal(replica_queue_count(devices[i]->replica), 0);
		assert_null(strstr(notices(devices[i]), "rollback"));
	}
	free(seen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_secrets),
		TEST(test_secrets_at_once),
		TEST(test_rotation),
		TEST(test_rotation_crash_1),
		TEST(test_rotation_crash_2),
		TEST(test_rotation_other_1),
		TEST(test_rotation_other_2),
		TEST(test_rotations_at_once),
		TEST(test_rotations_at_once_late),
		TEST(test_rotations_at_once_reopen),
		TEST(test_rotation_and_secret),
		TEST(test_ring_made_up),
		TEST(test_rotation_waits),
		TEST(test_secret_answer_lost),
		TEST(test_rotated_twice),
		TEST(test_rotation_and_two_handles),
		TEST(test_anything),
	};

	rnd_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
