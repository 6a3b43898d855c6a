/* A process that writes, stages and acknowledges is killed with SIGKILL at random moments, again and again, on one replica: no
   write that it was told is there is lost, no set is half there, a state is whole, and the file is sound. And a disk that is full;
   a file that is removed. */

#include "replica-test.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILLS 200
#define ENTRIES 10

/* Set n: ENTRIES entries of the user's with the value n; the server's state n: as many others with n, marked (7 n). */
static void write_set(struct dovetail *replica, unsigned int n)
{
	struct dovetail_changes *changes;
	char name[64], value[2000];

	(void)snprintf(value, sizeof(value), "%u %0*u", n, 1 + (int)(n % 1500), 0);
	if (dovetail_changes_begin(replica, &changes) != DOVETAIL_OK)
		_exit(2);
	for (unsigned int i = 0; i < ENTRIES; i++) {
		(void)snprintf(name, sizeof(name), BELOW "mine/%u", i);
		if (dovetail_changes_add(changes, "", name, value, strlen(value)) != DOVETAIL_OK)
			_exit(3);
	}
	if (dovetail_changes_commit(changes) != DOVETAIL_OK)
		_exit(4);
}

static void bring_state(struct dovetail *replica, unsigned int n)
{
	char name[64], value[20], mark[64];
	bool reset;

	(void)snprintf(value, sizeof(value), "%u", n);
	if (n % 3 == 0 && replica_stage_snapshot(replica) != DOVETAIL_OK)
		_exit(5);
	for (unsigned int i = 0; i < ENTRIES; i++) {
		(void)snprintf(name, sizeof(name), BELOW "theirs/%u", i);
		if (replica_stage(replica, "", name, REPLICA_VALUE, value, strlen(value)) != DOVETAIL_OK)
			_exit(6);
		(void)snprintf(mark, sizeof(mark), "(7 %u 0f)", n);
		if (i == 5 && replica_stage_partial(replica, mark) != DOVETAIL_OK)
			_exit(7);
	}
	(void)snprintf(mark, sizeof(mark), "(7 %u 0f)", n);
	if (replica_stage_consistent(replica, mark, 0, &reset) != DOVETAIL_OK)
		_exit(8);
}

/* Sends, and knows that it is there. */
static void acknowledge(struct dovetail *replica, unsigned int n)
{
	enum dovetail_status status;
	struct replica_set set;
	char pos[64];

	status = replica_queue_next(replica, 0, DOVETAIL_RULE_MINE, NULL, NULL, &set);
	if (status == DOVETAIL_NOT_FOUND)
		return;
	(void)snprintf(pos, sizeof(pos), "(7 %u)", n);
	if (status != DOVETAIL_OK || set.count != ENTRIES || replica_queue_done(replica, set.id, pos) != DOVETAIL_OK)
		_exit(9);
}

static void worker(const char *path, unsigned int number, int fd)
{
	struct dovetail *replica;

	if (dovetail_open(path, 0, &replica, NULL) != DOVETAIL_OK || replica_sync_begin(replica) != DOVETAIL_OK)
		_exit(1);
	for (;;) {
		number++;
		write_set(replica, number);
		bring_state(replica, number);
		acknowledge(replica, number);
		if (write(fd, &number, sizeof(number)) != sizeof(number))
			_exit(10);
	}
}

static void check_sound(const char *path)
{
	sqlite3_stmt *stmt;
	sqlite3 *db;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	assert_string_equal(sqlite3_column_text(stmt, 0), "ok");
	sqlite3_finalize(stmt);
	/* no loose ends */
	assert_int_equal(sqlite3_prepare_v2(db, "SELECT (SELECT count(*) FROM write WHERE set_id NOT IN (SELECT id FROM change_set)"
		" OR entry_id NOT IN (SELECT id FROM entry)) + (SELECT count(*) FROM entry WHERE write_id > 0 AND write_id NOT IN"
		" (SELECT id FROM write))"
		" + (SELECT count(*) FROM change_set WHERE id NOT IN (SELECT set_id FROM write))", -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(stmt, 0), 0);
	sqlite3_finalize(stmt);
	sqlite3_close(db);
}

/* All entries of the kind have one number, which is returned. */
static unsigned int number_of(struct dovetail *replica, const char *kind)
{
	unsigned int number = 0;
	char name[64];

	for (unsigned int i = 0; i < ENTRIES; i++) {
		(void)snprintf(name, sizeof(name), BELOW "%s/%u", kind, i);
		if (i == 0)
			number = atoi(get(replica, "", name));
		else
			assert_int_equal(atoi(get(replica, "", name)), number);
	}
	return number;
}

static void test_kill(void **state)
{
	unsigned int number = 0, acknowledged = 0, mine, theirs, between = 0;
	struct fixture *f = *state;
	int fds[2], status;
	pid_t pid;

	rnd_start();
	for (unsigned int i = 0; i < KILLS; i++) {
		struct timespec moment = { 0, rnd(4000) * 1000 };

		dovetail_close(f->replica);
		assert_int_equal(pipe(fds), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			close(fds[0]);
			worker(f->path, number, fds[1]);
		}
		close(fds[1]);
		for (unsigned int acks = rnd(4); acks > 0; acks--) {
			assert_int_equal(read(fds[0], &number, sizeof(number)), sizeof(number));
			acknowledged = number;
		}
		nanosleep(&moment, NULL);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		while (read(fds[0], &number, sizeof(number)) == sizeof(number))
			acknowledged = number;
		close(fds[0]);

		f->replica = must_open(f->path, 0);
		check_sound(f->path);
		mine = number_of(f->replica, "mine");
		theirs = number_of(f->replica, "theirs");
		assert_true(mine == number || mine == number + 1);
		assert_true(theirs >= acknowledged && theirs <= mine);
		if (mine > number)
			between++;
		/* the sets that were not acknowledged are there, and nothing else */
		assert_true(replica_queue_count(f->replica) <= 2);
		if (theirs != mine)
			assert_true(replica_queue_count(f->replica) >= 1);
		number = mine;
	}
	print_message("%u rounds; %u of %u kills were in one\n", number, between, KILLS);
}

/* -- a file that is removed */

/* A process was killed, somebody has removed the replica, but not its WAL: the new one is a new one. */
static void test_removed(void **state)
{
	struct fixture *f = *state;
	struct dovetail_counts counts;
	char value[3000], name[64], wal[320];
	int status;
	pid_t pid;

	memset(value, 'v', sizeof(value));
	dovetail_close(f->replica);
	f->replica = NULL;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		f->replica = must_open(f->path, 0);
		for (unsigned int i = 0; i < 50; i++) {
			(void)snprintf(name, sizeof(name), BELOW "n%u", i);
			must(f->replica, dovetail_set(f->replica, "", name, value, sizeof(value)));
		}
		(void)kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(unlink(f->path), 0);
	(void)snprintf(wal, sizeof(wal), "%s-wal", f->path);
	assert_int_equal(access(wal, F_OK), 0);
	f->replica = must_open(f->path, DOVETAIL_OPEN_CREATE);
	must(f->replica, dovetail_get_counts(f->replica, &counts));
	assert_int_equal(counts.entries, 0);
	assert_int_equal(replica_queue_count(f->replica), 0);
	set_parts(f->replica);
	put(f->replica, "", BELOW "new", "1");
	reopen(f);
	assert_string_equal(get(f->replica, "", BELOW "new"), "1");
	check_sound(f->path);
}

/* Nothing is written into a file that nobody will find again, nor past the one that is in its place. */
static void test_removed_while_open(void **state)
{
	struct fixture *f = *state;
	struct dovetail *replica;

	put(f->replica, "", BELOW "a", "1");
	assert_int_equal(unlink(f->path), 0);
	expect(f->replica, dovetail_set(f->replica, "", BELOW "a", "2", 1), DOVETAIL_REPLICA,
	       "was removed or replaced while it was open");
	replica = must_open(f->path, DOVETAIL_OPEN_CREATE);
	set_parts(replica);
	put(replica, "", BELOW "b", "3");
	expect(f->replica, dovetail_unset(f->replica, "", BELOW "a"), DOVETAIL_REPLICA,
	       "was removed or replaced while it was open");
	dovetail_close(f->replica);
	f->replica = replica;
	assert_string_equal(get(replica, "", BELOW "a"), "-");
	reopen(f);
	assert_string_equal(get(f->replica, "", BELOW "b"), "3");
	check_sound(f->path);
}

/* -- a full disk */

/* Writes until it is full: the last failure is clear, what was written before is there, and it goes on when there is room. */
static void fill(struct dovetail *replica, const char *filler)
{
	char *value = malloc(100000), name[64], remove_filler[400];
	enum dovetail_status status = DOVETAIL_OK;
	unsigned int n;
	bool reset;

	memset(value, 'v', 100000);
	for (n = 0; n < 1000 && status == DOVETAIL_OK; n++) {
		(void)snprintf(name, sizeof(name), BELOW "n%u", n);
		status = dovetail_set(replica, "", name, value, 100000);
	}
	assert_int_equal(status, DOVETAIL_SYSTEM);
	n--;
	print_message("full after %u writes: %s\n", n, dovetail_error(replica));
	assert_true(n > 0);
	assert_int_equal(replica_queue_count(replica), n);
	for (unsigned int i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), BELOW "n%u", i);
		assert_int_equal(strlen(get(replica, "", name)), 100000);
	}
	(void)snprintf(name, sizeof(name), BELOW "n%u", n);
	assert_string_equal(get(replica, "", name), "-");
	/* a state that does not fit */
	must(replica, replica_sync_begin(replica));
	status = DOVETAIL_OK;
	for (unsigned int i = 0; i < 100 && status == DOVETAIL_OK; i++) {
		(void)snprintf(name, sizeof(name), BELOW "s%u", i);
		status = replica_stage(replica, "", name, REPLICA_VALUE, value, 100000);
	}
	assert_int_equal(status, DOVETAIL_SYSTEM);
	assert_int_equal(replica_stage_consistent(replica, "(7 1 0f)", 0, &reset), DOVETAIL_SYSTEM);
	assert_string_equal(get(replica, "", BELOW "s0"), "-");
	must(replica, replica_stage_drop(replica));
	/* there is room */
	(void)snprintf(remove_filler, sizeof(remove_filler), "%s", filler);
	assert_int_equal(unlink(remove_filler), 0);
	(void)snprintf(name, sizeof(name), BELOW "n%u", n);
	must(replica, dovetail_set(replica, "", name, value, 100000));
	free(value);
}

static void test_full_disk(void **state)
{
	char dir[300], path[320], filler[320], block[65536];
	struct fixture *f = *state;
	struct dovetail *replica;
	FILE *file;

	(void)snprintf(dir, sizeof(dir), "%s/small", f->base);
	assert_int_equal(mkdir(dir, 0700), 0);
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=8m") < 0)
		skip();
	(void)snprintf(path, sizeof(path), "%s/replica", dir);
	(void)snprintf(filler, sizeof(filler), "%s/filler", dir);
	memset(block, 0, sizeof(block));
	file = fopen(filler, "w");
	for (unsigned int i = 0; i < 40; i++)
		assert_int_equal(fwrite(block, sizeof(block), 1, file), 1);
	fclose(file);
	replica = must_open(path, DOVETAIL_OPEN_CREATE);
	set_parts(replica);
	fill(replica, filler);
	dovetail_close(replica);
	check_sound(path);
	assert_int_equal(umount(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kill, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_removed, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_removed_while_open, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_full_disk, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
