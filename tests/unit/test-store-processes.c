/* Several processes that open one store at the same moment, and that write to
   it at the same time. */

#include "store-test.h"

#include <sqlite3.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void fork_all(struct fixture *f, unsigned int count,
		     void (*child)(struct fixture *f, unsigned int number,
				   int fd), int fds[2])
{
	unsigned int i, failed = 0;
	int go[2], status;
	char c;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(pipe(go), 0);
	for (i = 0; i < count; i++) {
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			/* all start together */
			(void)close(go[1]);
			if (read(go[0], &c, 1) != 0)
				_exit(99);
			child(f, i, fds[1]);
			_exit(0);
		}
	}
	(void)close(go[0]);
	(void)close(go[1]);
	for (i = 0; i < count; i++) {
		assert_true(wait(&status) > 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			failed++;
	}
	(void)close(fds[1]);
	assert_int_equal(failed, 0);
}

static void child_open(struct fixture *f, unsigned int number, int fd)
{
	struct store_state st;

	(void)number;
	if (store_open(&f->set, &f->store, &f->error) != STORE_OK ||
	    store_get_state(f->store, &st, &f->error) != STORE_OK) {
		(void)fprintf(stderr, "%s\n", f->error.message);
		_exit(1);
	}
	if (write(fd, &st.pos.epoch, sizeof(st.pos.epoch)) !=
	    sizeof(st.pos.epoch))
		_exit(2);
	store_close(&f->store);
}

/* One draws the epoch, the others see it: when a store is new, and when it is
   a copy. */
static void test_opened_at_once(void **state)
{
	struct fixture *f = *state;
	uint32_t epoch, first;
	unsigned int i, round;
	char dir[400];
	int fds[2];

	store_close(&f->store);
	for (round = 0; round < 20; round++) {
		if (round % 2 == 0) {
			(void)snprintf(dir, sizeof(dir), "%s/new-%u", f->base,
				       round);
			f->set.dir = dir;
		} else {
			(void)snprintf(f->text, sizeof(f->text),
				       "cp -r %s %s-copy", dir, dir);
			assert_int_equal(system(f->text), 0);
			strcat(dir, "-copy");
		}
		fork_all(f, 6, child_open, fds);
		for (i = 0; i < 6; i++) {
			assert_int_equal(read(fds[0], &epoch, sizeof(epoch)),
					 sizeof(epoch));
			if (i == 0)
				first = epoch;
			assert_int_equal(epoch, first);
		}
		(void)close(fds[0]);
	}
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, first);
}

/* -- created by another process while this one looks at what is there */

static int other_go, other_done;

static int trace(unsigned int type, void *context, void *stmt, void *sql)
{
	char c = 0;

	(void)type;
	(void)context;
	(void)stmt;
	if (other_go != -1 && strstr(sql, "user_version") != NULL) {
		/* let it, and wait until it is done or has given up */
		(void)close(other_go);
		other_go = -1;
		(void)!read(other_done, &c, 1);
	}
	return 0;
}

static int trace_connection(sqlite3 *db, char **error_r,
			    const struct sqlite3_api_routines *api)
{
	(void)error_r;
	(void)api;
	return sqlite3_trace_v2(db, SQLITE_TRACE_STMT, trace, NULL);
}

static void test_created_meanwhile(void **state)
{
	struct fixture *f = *state;
	int go[2], done[2], status;
	char dir[400], c;
	pid_t pid;

	store_close(&f->store);
	(void)snprintf(dir, sizeof(dir), "%s/new", f->base);
	f->set.dir = dir;
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(done), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(go[1]);
		f->set.busy_timeout_msecs = 30;
		(void)!read(go[0], &c, 1);
		_exit(store_open(&f->set, &f->store, &f->error));
	}
	(void)close(go[0]);
	(void)close(done[1]);
	other_go = go[1];
	other_done = done[0];
	assert_int_equal(sqlite3_auto_extension(
		(void (*)(void))trace_connection), SQLITE_OK);
	f->store = must_open(&f->set);
	sqlite3_reset_auto_extension();
	/* it has been there */
	assert_int_equal(other_go, -1);
	(void)close(done[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	must_put(f, "", "/private/a", "1");
	reopen(f);
	must_check(f);
}

/* -- moved away while a writer waits for its turn */

/* Until the process sleeps between two tries to get the lock. */
static void await_sleep(pid_t pid)
{
	char path[64], wchan[64] = "";
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/%ld/wchan", (long)pid);
	while (strstr(wchan, "nanosleep") == NULL) {
		file = fopen(path, "r");
		assert_non_null(file);
		wchan[fread(wchan, 1, sizeof(wchan) - 1, file)] = '\0';
		(void)fclose(file);
	}
}

static void test_moved_while_waiting(void **state)
{
	struct fixture *f = *state;
	char moved[400];
	sqlite3 *db;
	int status;
	pid_t pid;

	must_put(f, "", "/private/a", "1");
	store_close(&f->store);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		/* not before the lock is held */
		raise(SIGSTOP);
		f->store = must_open(&f->set);
		_exit(put(f, "", "/private/a", "2"));
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_int_equal(sqlite3_open(path_of(f, "store.db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL),
			 SQLITE_OK);
	assert_int_equal(kill(pid, SIGCONT), 0);
	await_sleep(pid);
	(void)snprintf(moved, sizeof(moved), "%s/moved", f->base);
	assert_int_equal(rename(f->dir, moved), 0);
	assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	/* nobody would ever see it */
	assert_int_equal(WEXITSTATUS(status), STORE_FAILED);
	f->store = must_open(&f->set);
}

/* -- written to by many at the same time */

#define WRITERS 4
#define WRITES 100

static void child_write(struct fixture *f, unsigned int number, int fd)
{
	char value[16], name[32];
	unsigned int i;

	(void)fd;
	(void)snprintf(name, sizeof(name), "/private/%u", number);
	if (store_open(&f->set, &f->store, &f->error) != STORE_OK)
		_exit(1);
	for (i = 1; i <= WRITES; i++) {
		(void)snprintf(value, sizeof(value), "%u", i);
		if (put(f, "", name, value) != STORE_OK) {
			(void)fprintf(stderr, "%s\n", f->error.message);
			_exit(2);
		}
		store_idle(f->store);
	}
	store_close(&f->store);
}

static void test_many_writers(void **state)
{
	struct fixture *f = *state;
	char name[32];
	unsigned int i;
	int fds[2];

	store_close(&f->store);
	fork_all(f, WRITERS, child_write, fds);
	(void)close(fds[0]);
	reopen(f);
	assert_int_equal(get_state(f).pos.modseq, 1 + WRITERS * WRITES);
	for (i = 0; i < WRITERS; i++) {
		(void)snprintf(name, sizeof(name), "/private/%u", i);
		assert_string_equal(get(f, "", name, NULL), "100");
	}
	must_check(f);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_opened_at_once),
		T(test_created_meanwhile),
		T(test_moved_while_waiting),
		T(test_many_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
