/* What time does to a store: purge and floor, checkpoints, new epochs; what
   the check finds; and trouble while it is in use: another process that holds
   it, a full disk, damage. */

#include "store-test.h"

#include <sqlite3.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START 1700000000

static uint64_t purge(struct fixture *f, int64_t now)
{
	uint64_t purged;

	if (store_purge(f->store, now, &purged, &f->error) != STORE_OK)
		fail_msg("purge: %s", f->error.message);
	must_check(f);
	return purged;
}

/* -- purge */

static void test_purge_by_age(void **state)
{
	struct fixture *f = *state;

	test_now = START;
	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/c", "1");
	must_put(f, "", "/private/a", NULL);
	test_now += SECS_PER_DAY;
	must_put(f, "", "/private/b", NULL);
	/* not yet, and then one by one */
	assert_int_equal(purge(f, START + 90 * SECS_PER_DAY), 0);
	assert_int_equal(get_state(f).floor, 0);
	assert_int_equal(purge(f, START + 90 * SECS_PER_DAY + 1), 1);
	assert_int_equal(get_state(f).floor, 5);
	assert_int_equal(get_state(f).tombstones, 1);
	assert_int_equal(purge(f, START + 100 * SECS_PER_DAY), 1);
	assert_int_equal(get_state(f).floor, 6);
	assert_int_equal(get_state(f).tombstones, 0);
	assert_int_equal(get_state(f).entries, 1);
	assert_int_equal(purge(f, START + 200 * SECS_PER_DAY), 0);
	/* a purge is no change */
	assert_int_equal(get_state(f).pos.modseq, 6);
	assert_string_equal(get(f, "", "/private/c", NULL), "1");
}

/* A clock that went back: the removals are forgotten by their own times, and
   the floor is the highest of them. */
static void test_purge_after_clock_change(void **state)
{
	struct fixture *f = *state;

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	test_now = START;
	must_put(f, "", "/private/a", NULL);
	test_now = START - 10 * SECS_PER_DAY;
	must_put(f, "", "/private/b", NULL);
	assert_int_equal(purge(f, START + 85 * SECS_PER_DAY), 1);
	assert_int_equal(get_state(f).floor, 5);
	assert_string_equal(get(f, "", "/private/a", NULL), "-");
}

static void make_removals(struct fixture *f, unsigned int count)
{
	char name[32];
	unsigned int i;

	for (i = 0; i < count; i++) {
		(void)snprintf(name, sizeof(name), "/private/%u",
			       (unsigned int)f->pos.modseq);
		must_put(f, "", name, "1");
		must_put(f, "", name, NULL);
	}
}

static void test_purge_by_count(void **state)
{
	struct fixture *f = *state;

	f->set.limits.entries = 5;
	reopen(f);
	make_removals(f, 10);
	assert_int_equal(purge(f, START), 0);
	make_removals(f, 3);
	assert_int_equal(purge(f, START), 3);
	assert_int_equal(get_state(f).tombstones, 10);
	/* the oldest: the first three were removed by commits 3, 5, 7 */
	assert_int_equal(get_state(f).floor, 7);
	assert_non_null(strstr(f->log, "forgot the oldest"));
	/* no limit */
	f->set.limits.entries = UINT64_MAX;
	reopen(f);
	assert_int_equal(purge(f, START), 0);
}

/* More than fit in one transaction. */
static void test_purge_many(void **state)
{
	struct fixture *f = *state;

	sql(f, "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1"
	    " FROM n WHERE i < 2001) INSERT INTO entry(modseq, mailbox, name,"
	    " size, removed_at) SELECT i, '', '/private/' || i, 0, 1000 FROM n;"
	    "UPDATE meta SET modseq = 2002, tombstones = 2000");
	must_check(f);
	assert_int_equal(purge(f, START), 2000);
	assert_int_equal(get_state(f).floor, 2001);
	assert_int_equal(get_state(f).tombstones, 0);
	assert_int_equal(sql_number(f, "SELECT count(*) FROM entry"), 0);
}

static void test_idle_purges_once_a_day(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	test_now = START;
	sql(f, "UPDATE meta SET last_purge = 1700000000");
	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/a", NULL);
	test_now = START + SECS_PER_DAY - 1;
	store_idle(f->store);
	assert_int_equal(sql_number(f, "SELECT last_purge FROM meta"), START);
	test_now++;
	store_idle(f->store);
	assert_int_equal(sql_number(f, "SELECT last_purge FROM meta"),
			 test_now);
	assert_int_equal(get_state(f).tombstones, 1);
	test_now = START + 91 * SECS_PER_DAY;
	store_idle(f->store);
	assert_int_equal(get_state(f).tombstones, 0);
	assert_int_equal(get_state(f).floor, 3);
	/* a clock that was wrong does not stop it for years */
	sql(f, "UPDATE meta SET last_purge = 3000000000");
	(void)get_state(f);
	store_idle(f->store);
	assert_int_equal(sql_number(f, "SELECT last_purge FROM meta"),
			 test_now);
	/* by count, with some slack, whenever it is */
	f->set.limits.entries = 10;
	reopen(f);
	for (i = 0; i < 60; i++) {
		make_removals(f, 1);
		store_idle(f->store);
		assert_in_range(get_state(f).tombstones, 0, 23);
	}
	must_check(f);
}

/* -- checkpoints */

static int64_t wal_size(const struct fixture *f)
{
	struct stat st;

	return stat(path_of(f, "store.db-wal"), &st) < 0 ? 0 : st.st_size;
}

static void test_wal_stays_small(void **state)
{
	struct fixture *f = *state;
	struct store *reader;
	char value[32];
	unsigned int i;

	/* somebody else has it open, as always */
	reader = must_open(&f->set);
	for (i = 0; i < 2000; i++) {
		(void)snprintf(value, sizeof(value), "%u", i);
		must_put(f, "", "/private/a", value);
		store_idle(f->store);
	}
	assert_in_range(wal_size(f), 0, 2 * 1024 * 1024);
	/* also if nobody calls store_idle() */
	for (i = 0; i < 4000; i++) {
		(void)snprintf(value, sizeof(value), "%u", i);
		must_put(f, "", "/private/a", value);
	}
	assert_in_range(wal_size(f), 0, 12 * 1024 * 1024);
	store_close(&reader);
	store_close(&f->store);
	assert_int_equal(wal_size(f), 0);
	f->store = must_open(&f->set);
}

/* -- epochs */

static void test_new_epoch(void **state)
{
	struct fixture *f = *state;
	uint32_t epoch = get_state(f).pos.epoch;
	struct store *other = must_open(&f->set);
	struct store_state st;

	must_put(f, "", "/private/a", "1");
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	assert_true(f->pos.epoch != epoch && f->pos.epoch != 0);
	assert_int_equal(f->pos.modseq, 2);
	assert_int_equal(store_get_state(other, &st, &f->error), STORE_OK);
	assert_int_equal(st.pos.epoch, f->pos.epoch);
	store_close(&other);
	epoch = f->pos.epoch;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
	/* no limit for who asks for it */
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	assert_true(f->pos.epoch != epoch);
}

/* -- check */

static void test_check_finds(void **state)
{
	static const struct {
		const char *sql, *finding;
	} cases[] = {
		{ "UPDATE meta SET entries = entries + 1", "entries" },
		{ "UPDATE meta SET bytes = bytes - 1", "bytes" },
		{ "UPDATE meta SET tombstones = 0", "removals" },
		{ "UPDATE entry SET modseq = 99 WHERE id = 1",
		  "ahead of the position" },
		{ "UPDATE entry SET modseq = 1 WHERE id = 1",
		  "ahead of the position" },
		{ "UPDATE meta SET floor = 99", "floor" },
		{ "UPDATE entry SET value = x'3132' WHERE id = 1", "size" },
		{ "UPDATE entry SET value = NULL WHERE id = 1", "size" },
		{ "UPDATE entry SET value = x'31' WHERE id = 3", "size" },
		{ "UPDATE mailbox SET entries = 2", "mailbox" },
		{ "DELETE FROM mailbox", "mailbox" },
		{ "INSERT INTO mailbox VALUES('y', 0, NULL)", "mailbox" },
		{ "UPDATE entry SET name = '/private/A' WHERE id = 1",
		  "invalid name" },
		{ "UPDATE entry SET name = '/otherx/aa' WHERE id = 1",
		  "invalid name" },
		{ "PRAGMA writable_schema = 1; UPDATE sqlite_schema"
		  " SET sql = 'CREATE INDEX entry_modseq ON entry(size)'"
		  " WHERE name = 'entry_modseq'", "index" },
	};
	struct fixture *f = *state;
	unsigned int i;

	must_put(f, "", "/private/a", "1");
	must_put(f, "x", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/b", NULL);
	must_check(f);
	store_close(&f->store);
	(void)snprintf(f->text, sizeof(f->text),
		       "cp %s/store.db %s/good.db", f->dir, f->base);
	assert_int_equal(system(f->text), 0);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		(void)snprintf(f->text, sizeof(f->text),
			       "cat %s/good.db > %s/store.db", f->base,
			       f->dir);
		assert_int_equal(system(f->text), 0);
		sql(f, cases[i].sql);
		f->store = must_open(&f->set);
		if (store_check(f->store, &f->error) != STORE_CORRUPT ||
		    strstr(f->error.message, cases[i].finding) == NULL ||
		    strchr(f->error.message, '\n') != NULL)
			fail_msg("%s: %d '%s'", cases[i].sql, f->error.status,
				 f->error.message);
		store_close(&f->store);
	}
	(void)snprintf(f->text, sizeof(f->text),
		       "cat %s/good.db > %s/store.db", f->base, f->dir);
	assert_int_equal(system(f->text), 0);
	f->store = must_open(&f->set);
	must_check(f);
}

/* -- trouble */

/* Another process that holds the store for writing until release() */
struct holder {
	pid_t pid;
	int fd;
};

static void hold(struct fixture *f, struct holder *holder)
{
	int ready[2], go[2];
	sqlite3 *db;
	char c = 0;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	holder->pid = fork();
	assert_true(holder->pid >= 0);
	if (holder->pid == 0) {
		(void)close(go[1]);
		if (sqlite3_open(path_of(f, "store.db"), &db) != SQLITE_OK ||
		    sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL,
				 NULL) != SQLITE_OK ||
		    write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 0)
			_exit(1);
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
		_exit(0);
	}
	(void)close(go[0]);
	(void)close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	(void)close(ready[0]);
	holder->fd = go[1];
}

static void release(struct holder *holder, bool wait_for_it)
{
	int status;

	(void)close(holder->fd);
	if (wait_for_it)
		assert_int_equal(waitpid(holder->pid, &status, 0),
				 holder->pid);
}

static void test_busy(void **state)
{
	struct fixture *f = *state;
	struct holder holder;
	uint64_t purged;
	int status;

	f->set.busy_timeout_msecs = 30;
	reopen(f);
	must_put(f, "x", "/private/a", "1");
	hold(f, &holder);
	assert_int_equal(put(f, "", "/private/a", "2"), STORE_BUSY);
	assert_non_null(strstr(f->error.message, "30 ms"));
	assert_int_equal(store_purge(f->store, START, &purged, &f->error),
			 STORE_BUSY);
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_BUSY);
	assert_int_equal(store_rename_mailbox(f->store, "x", "y", '/',
					      &f->pos, &f->error), STORE_BUSY);
	store_idle(f->store);
	/* who reads is not held up, nor who opens */
	assert_string_equal(get(f, "x", "/private/a", NULL), "1");
	assert_string_equal(snapshot_text(f, &filter_all),
			    "2 x /private/a=1\n");
	reopen(f);
	release(&holder, true);
	assert_int_equal(must_put(f, "x", "/private/a", "2"), 3);

	/* one who lets it go in time is waited for */
	f->set.busy_timeout_msecs = 60000;
	reopen(f);
	hold(f, &holder);
	release(&holder, false);
	assert_int_equal(must_put(f, "x", "/private/a", "3"), 4);
	assert_int_equal(waitpid(holder.pid, &status, 0), holder.pid);
}

static enum store_status put_size(struct fixture *f, const char *name,
				  size_t size)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	static char value[1024 * 1024];
	const struct store_change change = { "", name, value, size, NULL };

	return store_apply(f->store, &change, 1, &always, &f->pos, NULL,
			   &f->error);
}

/* A write that the system refuses in the middle. */
static void test_file_size_limit(void **state)
{
	struct rlimit limit, old;
	struct fixture *f = *state;

	must_put(f, "", "/private/a", "1");
	assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = 1200 * 1024;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(put_size(f, "/private/b", 1024 * 1024), STORE_OK);
	assert_int_equal(put_size(f, "/private/c", 1024 * 1024), STORE_FAILED);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
	assert_int_equal(get_state(f).pos.modseq, 3);
	assert_int_equal(get_state(f).entries, 2);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(put_size(f, "/private/c", 1024 * 1024), STORE_OK);
	assert_int_equal(f->pos.modseq, 4);
	reopen(f);
	must_check(f);
	assert_int_equal(get_state(f).entries, 3);
}

/* In a process with a small file system of its own. Exits 0 if all is well,
   77 if there can be none. */
static void full_disk_child(struct fixture *f)
{
	char mount_point[400], name[32];
	unsigned int i, entries;
	int fd;

	(void)snprintf(mount_point, sizeof(mount_point), "%s/small", f->base);
	if (unshare(CLONE_NEWNS) < 0 ||
	    mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
	    mkdir(mount_point, 0700) < 0 ||
	    mount("tmpfs", mount_point, "tmpfs", 0,
		  "size=8m,mode=0700") < 0)
		_exit(77);
	(void)snprintf(f->dir, sizeof(f->dir), "%s/small/store", f->base);
	f->store = must_open(&f->set);
	fd = open(path_of(f, "../ballast"), O_WRONLY | O_CREAT, 0600);
	if (fd == -1 || posix_fallocate(fd, 0, 3 * 1024 * 1024) != 0)
		_exit(1);
	(void)close(fd);

	for (i = 0; ; i++) {
		(void)snprintf(name, sizeof(name), "/private/%u", i);
		if (put_size(f, name, 100000) != STORE_OK)
			break;
		store_idle(f->store);
	}
	if (f->error.status != STORE_FAILED ||
	    strstr(f->error.message, "full") == NULL)
		_exit(2);
	entries = get_state(f).entries;
	if (entries != i || entries == 0)
		_exit(3);
	must_check(f);
	if (unlink(path_of(f, "../ballast")) < 0 ||
	    put_size(f, name, 100000) != STORE_OK)
		_exit(4);
	must_check(f);
	reopen(f);
	if (get_state(f).entries != i + 1)
		_exit(5);
	store_close(&f->store);
	_exit(0);
}

static void test_full_disk(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

	store_close(&f->store);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		full_disk_child(f);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("no right to mount a small file system: "
			      "not tested\n");
	} else {
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

/* Damage that shows only when it is met. Nothing is deleted. */
static void test_damaged_in_use(void **state)
{
	static const struct store_read req = { &filter_all, 0, false };
	static const struct store_key key = { "", "/private/7" };
	struct store_cursor cursor;
	struct fixture *f = *state;
	struct store_state st;
	char page[4096], name[32];
	struct stat before, after;
	unsigned int i;
	bool more;
	int fd;

	for (i = 0; i < 300; i++) {
		(void)snprintf(name, sizeof(name), "/private/%u", i);
		must_put(f, "", name, "some value");
	}
	store_close(&f->store);
	assert_int_equal(stat(path_of(f, "store.db"), &before), 0);
	fd = open(path_of(f, "store.db"), O_WRONLY);
	memset(page, 0xee, sizeof(page));
	for (i = 2; i < before.st_size / sizeof(page); i++) {
		assert_int_equal(pwrite(fd, page, sizeof(page),
					i * sizeof(page)), sizeof(page));
	}
	(void)close(fd);

	f->store = must_open(&f->set);
	assert_int_equal(put(f, "", "/private/7", "x"), STORE_CORRUPT);
	assert_int_equal(put(f, "", "/private/new", "x"), STORE_CORRUPT);
	assert_int_equal(store_get(f->store, &key, 1, NULL, NULL, &f->pos,
				   &f->error), STORE_CORRUPT);
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	assert_int_equal(store_read(f->store, &req, &cursor, NULL, NULL, &st,
				    &more, &f->error), STORE_CORRUPT);
	assert_int_equal(store_check(f->store, &f->error), STORE_CORRUPT);
	assert_non_null(strstr(f->error.message, "store.db"));
	assert_int_equal(get_state(f).pos.modseq, 301);
	store_close(&f->store);
	assert_int_equal(stat(path_of(f, "store.db"), &after), 0);
	assert_int_equal(after.st_size, before.st_size);
	assert_int_equal(after.st_ino, before.st_ino);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_purge_by_age),
		T(test_purge_after_clock_change),
		T(test_purge_by_count),
		T(test_purge_many),
		T(test_idle_purges_once_a_day),
		T(test_wal_stays_small),
		T(test_new_epoch),
		T(test_check_finds),
		T(test_busy),
		T(test_file_size_limit),
		T(test_full_disk),
		T(test_damaged_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
