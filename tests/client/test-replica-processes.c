/* Several processes, and several handles of one, on the same file: all read and write, one syncs and is woken by the others. */

#include "replica-test.h"

#include <poll.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WRITERS 4
#define WRITES 200

static void test_one_syncs(void **state)
{
	struct fixture *f = *state;
	struct dovetail *other = must_open(f->path, 0);
	int fds[2], status;
	pid_t pid;
	char c;

	must(f->replica, replica_sync_begin(f->replica));
	expect(f->replica, replica_sync_begin(f->replica), DOVETAIL_BUSY, "this handle");
	expect(other, replica_sync_begin(other), DOVETAIL_BUSY, "another process");
	replica_sync_end(f->replica);
	replica_sync_end(f->replica);
	must(other, replica_sync_begin(other));
	dovetail_close(other);
	/* and the death of a process */
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		other = must_open(f->path, 0);
		if (replica_sync_begin(other) != DOVETAIL_OK)
			_exit(1);
		(void)!write(fds[1], "x", 1);
		pause();
		_exit(2);
	}
	assert_int_equal(read(fds[0], &c, 1), 1);
	expect(f->replica, replica_sync_begin(f->replica), DOVETAIL_BUSY, "another process");
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	must(f->replica, replica_sync_begin(f->replica));
	close(fds[0]);
	close(fds[1]);
}

static bool is_readable(int fd, int timeout)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout) == 1;
}

static void test_wake(void **state)
{
	struct fixture *f = *state;
	struct dovetail *other;
	struct replica_set set;
	int status, fd;
	pid_t pid;

	server_catch_up(f);
	must(f->replica, replica_sync_begin(f->replica));
	server_catch_up(f);
	fd = replica_sync_fd(f->replica);
	assert_true(fd >= 0);
	assert_false(is_readable(fd, 0));
	pid = fork();
	if (pid == 0) {
		/* handles are not carried over a fork */
		if (dovetail_open(f->path, 0, &other, NULL) != DOVETAIL_OK ||
		    dovetail_set(other, "", BELOW "a", "from another", 12) != DOVETAIL_OK)
			_exit(1);
		dovetail_close(other);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(is_readable(fd, 5000));
	replica_sync_fd_clear(f->replica);
	assert_false(is_readable(fd, 0));
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	assert_memory_equal(set.writes[0].data, "from another", 12);
	/* what changes nothing wakes nobody */
	other = must_open(f->path, 0);
	put(other, "", BELOW "a", "from another");
	assert_false(is_readable(fd, 0));
	put(other, "", BELOW "b", "x");
	assert_true(is_readable(fd, 5000));
	dovetail_close(other);
	replica_sync_end(f->replica);
	assert_int_equal(replica_sync_fd(f->replica), -1);
}

/* Adds one to the counter, by read-change-write; other entries, too. */
static void writer(const char *path, unsigned int self)
{
	struct dovetail_changes *changes;
	struct dovetail *replica;
	enum dovetail_status status;
	char value[20], name[64];
	const char *old;

	if (dovetail_open(path, 0, &replica, NULL) != DOVETAIL_OK)
		_exit(1);
	for (unsigned int i = 0; i < WRITES; i++) {
		do {
			old = get(replica, "", BELOW "counter");
			(void)snprintf(value, sizeof(value), "%d", atoi(old) + 1);
			if (dovetail_changes_begin(replica, &changes) != DOVETAIL_OK ||
			    dovetail_changes_expect(changes, "", BELOW "counter", old, strlen(old)) != DOVETAIL_OK ||
			    dovetail_changes_add(changes, "", BELOW "counter", value, strlen(value)) != DOVETAIL_OK)
				_exit(2);
			(void)snprintf(name, sizeof(name), BELOW "w%u/%u", self, i);
			if (dovetail_changes_add(changes, "", name, value, strlen(value)) != DOVETAIL_OK)
				_exit(3);
			status = dovetail_changes_commit(changes);
		} while (status == DOVETAIL_BUSY);
		if (status != DOVETAIL_OK)
			_exit(4);
	}
	dovetail_close(replica);
	_exit(0);
}

static void test_writers(void **state)
{
	struct fixture *f = *state;
	struct dovetail_iter *iter;
	struct dovetail_entry entry;
	unsigned int count = 0, rounds = 0;
	pid_t pids[WRITERS];
	int status, left = WRITERS;
	char expected[20];

	put(f->replica, "", BELOW "counter", "0");
	for (unsigned int i = 0; i < WRITERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			writer(f->path, i);
	}
	/* while they write: each view is whole */
	while (left > 0) {
		count = 0;
		must(f->replica, dovetail_iter_open(f->replica, NULL, NULL, true, &iter));
		must(f->replica, dovetail_iter_next(iter, &entry));
		assert_string_equal(entry.name, BELOW "counter");
		(void)snprintf(expected, sizeof(expected), "%s", (const char *)entry.data);
		while (dovetail_iter_next(iter, &entry) == DOVETAIL_OK)
			count++;
		assert_int_equal(count, atoi(expected));
		dovetail_iter_close(iter);
		rounds++;
		for (unsigned int i = 0; i < WRITERS; i++) {
			if (pids[i] != 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
				assert_int_equal(status, 0);
				pids[i] = 0;
				left--;
			}
		}
	}
	(void)snprintf(expected, sizeof(expected), "%u", WRITERS * WRITES);
	assert_string_equal(get(f->replica, "", BELOW "counter"), expected);
	print_message("%u views while they wrote\n", rounds);
}

/* Held by somebody for longer than the time-out: BUSY, and nothing written */
static void test_busy(void **state)
{
	struct fixture *f = *state;
	sqlite3 *db;

	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	expect(f->replica, dovetail_set(f->replica, "", BELOW "a", "1", 1), DOVETAIL_BUSY, "5000 ms");
	assert_string_equal(get(f->replica, "", BELOW "a"), "-");
	assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	put(f->replica, "", BELOW "a", "1");
}

/* Two make a new one at the same time: it is one. */
static void test_create(void **state)
{
	struct fixture *f = *state;
	struct dovetail *replica;
	char path[320], name[64];
	int status, fds[2];
	pid_t pids[2];

	for (unsigned int i = 0; i < 30; i++) {
		(void)snprintf(path, sizeof(path), "%s/new%u", f->base, i);
		assert_int_equal(pipe(fds), 0);
		for (unsigned int j = 0; j < 2; j++) {
			pids[j] = fork();
			if (pids[j] != 0)
				continue;
			close(fds[1]);
			(void)!read(fds[0], name, 1);
			replica = must_open(path, DOVETAIL_OPEN_CREATE);
			set_parts(replica);
			(void)snprintf(name, sizeof(name), BELOW "%u", j);
			put(replica, "", name, "1");
			dovetail_close(replica);
			_exit(0);
		}
		close(fds[0]);
		close(fds[1]);
		for (unsigned int j = 0; j < 2; j++) {
			assert_int_equal(waitpid(pids[j], &status, 0), pids[j]);
			assert_int_equal(status, 0);
		}
		replica = must_open(path, 0);
		assert_string_equal(get(replica, "", BELOW "0"), "1");
		assert_string_equal(get(replica, "", BELOW "1"), "1");
		dovetail_close(replica);
	}
}

/* Another handle covers more while this one syncs. What the server has there is not known by the next marker: a write on it must
   not go out as if. */
static void test_parts_changed(void **state)
{
	const struct dovetail_part before = { .mailbox = "", .entry = "/private/vendor/example" };
	const struct dovetail_part after[] = { before, { .mailbox = "", .entry = "/private/vendor/other" } };
	const struct dovetail_part *parts;
	struct fixture *f = *state;
	struct dovetail *other = must_open(f->path, 0);
	struct replica_set set;
	size_t count;
	bool reset;

	must(other, dovetail_set_parts(other, &before, 1));
	must(f->replica, replica_sync_begin(f->replica));
	must(f->replica, replica_watch_parts(f->replica, &parts, &count));
	must(f->replica, replica_stage_snapshot(f->replica));
	must(f->replica, replica_stage_consistent(f->replica, "(7 10 0f)", 0, &reset));

	must(other, dovetail_set_parts(other, after, 2));
	must(other, dovetail_set(other, "", "/private/vendor/other/a", "mine", 4));
	/* the marker of what is watched still */
	expect(f->replica, replica_stage_consistent(f->replica, "(7 11 0f)", 0, &reset), DOVETAIL_BUSY, "covers");
	expect(f->replica, replica_stage_partial(f->replica, "(7 11 0f)"), DOVETAIL_BUSY, "covers");
	assert_int_equal(replica_queue_next(f->replica, 0, DOVETAIL_RULE_SERVER, NULL, NULL, &set), DOVETAIL_NOT_FOUND);
	/* asked anew, but without a snapshot: a marker of what was asked before */
	must(f->replica, replica_watch_parts(f->replica, &parts, &count));
	assert_int_equal(count, 2);
	expect(f->replica, replica_stage_consistent(f->replica, "(7 11 0f)", 0, &reset), DOVETAIL_BUSY, "covers");

	must(f->replica, replica_stage_snapshot(f->replica));
	must(f->replica, replica_stage(f->replica, "", "/private/vendor/other/a", REPLICA_VALUE, "theirs", 6));
	must(f->replica, replica_stage_consistent(f->replica, "(7 11 0e)", 0, &reset));
	assert_int_equal(replica_queue_next(f->replica, 0, DOVETAIL_RULE_SERVER, NULL, NULL, &set), DOVETAIL_NOT_FOUND);
	assert_string_equal(get(other, "", "/private/vendor/other/a"), "theirs");
	dovetail_close(other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = { TEST(one_syncs), TEST(wake), TEST(writers), TEST(busy), TEST(create),
		TEST(parts_changed) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
