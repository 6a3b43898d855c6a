/* Opening: what is created, what is refused, damaged files, whose copy it
   is. */

#include "store-test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static enum store_status open_status(struct fixture *f)
{
	enum store_status status;

	store_close(&f->store);
	status = store_open(&f->set, &f->store, &f->error);
	if (status != STORE_OK) {
		assert_null(f->store);
		assert_int_equal(f->error.status, status);
		assert_true(f->error.message[0] != '\0');
	}
	return status;
}

/* Refused with a message that says text. */
static void expect_open(struct fixture *f, enum store_status status,
			const char *text)
{
	if (open_status(f) != status ||
	    strstr(f->error.message, text) == NULL)
		fail_msg("status %d, '%s'", f->error.status,
			 f->error.message);
}

static void write_file(const char *path, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_not_equal(fd, -1);
	assert_int_equal(write(fd, data, size), size);
	(void)close(fd);
}

static int64_t file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? -1 : st.st_size;
}

static void run(const char *command)
{
	assert_int_equal(system(command), 0);
}

/* -- what is created */

static void expect_mode(const char *path, mode_t mode)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
	assert_int_equal(st.st_uid, geteuid());
}

static void test_modes(void **state)
{
	static const mode_t masks[] = { 0, 022, 0177, 0377 };
	struct fixture *f = *state;
	char parent[280];
	mode_t old;
	unsigned int i;

	for (i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		(void)snprintf(parent, sizeof(parent), "%s/p%u", f->base, i);
		(void)snprintf(f->dir, sizeof(f->dir), "%s/x/y", parent);
		old = umask(masks[i]);
		reopen(f);
		(void)umask(old);
		must_put(f, "", "/private/a", "1");
		expect_mode(parent, 0700);
		expect_mode(f->dir, 0700);
		expect_mode(path_of(f, "store.db"), 0600);
		expect_mode(path_of(f, "store.db-wal"), 0600);
		expect_mode(path_of(f, "store.db-shm"), 0600);
		expect_mode(path_of(f, "wake"), 0600);
	}
}

static void test_settings(void **state)
{
	struct fixture *f = *state;

	f->set.dir = "relative/path";
	expect_open(f, STORE_INVALID, "absolute");
	f->set.dir = f->dir;
	f->set.limits.name = 1025;
	expect_open(f, STORE_INVALID, "limits.name");
	f->set.limits.name = 1024;
	reopen(f);
	assert_string_equal(store_get_settings(f->store)->dir, f->dir);
	assert_int_equal(store_get_settings(f->store)->limits.entries, 10000);
	assert_string_equal(store_get_wake_path(f->store),
			    path_of(f, "wake"));
	store_close(&f->store);
	store_close(&f->store);
}

/* -- the directory */

static void test_dir_is_no_dir(void **state)
{
	struct fixture *f = *state;
	char path[400], below[450];

	(void)snprintf(path, sizeof(path), "%s/file", f->base);
	write_file(path, "x", 1);
	f->set.dir = path;
	expect_open(f, STORE_REFUSED, "not a directory");
	(void)snprintf(below, sizeof(below), "%s/store", path);
	f->set.dir = below;
	expect_open(f, STORE_REFUSED, "");
	assert_int_equal(file_size(path), 1);
}

static void test_dir_is_link(void **state)
{
	struct fixture *f = *state;
	char path[400], inside[450];
	uint32_t epoch = get_state(f).pos.epoch;

	(void)snprintf(path, sizeof(path), "%s/link", f->base);
	assert_int_equal(symlink(f->dir, path), 0);
	f->set.dir = path;
	expect_open(f, STORE_REFUSED, "link");
	strcat(path, "/");
	expect_open(f, STORE_REFUSED, "link");
	/* links above are the administrator's */
	(void)snprintf(path, sizeof(path), "%s/home", f->base);
	assert_int_equal(symlink(f->base, path), 0);
	(void)snprintf(inside, sizeof(inside), "%s/store/", path);
	f->set.dir = inside;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	must_put(f, "", "/private/a", "1");
}

static void test_dir_of_others(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(chmod(f->dir, 0770), 0);
	expect_open(f, STORE_REFUSED, "writable by others");
	assert_int_equal(chmod(f->dir, 0707), 0);
	expect_open(f, STORE_REFUSED, "writable by others");
	assert_int_equal(chmod(f->dir, 0700), 0);
	if (geteuid() != 0)
		return;		/* cannot give anything away */
	assert_int_equal(chown(f->dir, 12345, -1), 0);
	expect_open(f, STORE_REFUSED, "belongs to uid 12345");
	assert_int_equal(chown(f->dir, 0, -1), 0);
	assert_int_equal(chown(path_of(f, "store.db"), 12345, -1), 0);
	expect_open(f, STORE_REFUSED, "belongs to uid 12345");
	assert_int_equal(chown(path_of(f, "store.db"), 0, -1), 0);
	assert_int_equal(chown(path_of(f, "wake"), 12345, -1), 0);
	expect_open(f, STORE_REFUSED, "wake");
}

/* Opens in a process that has no rights of root's; returns the status. */
static enum store_status open_unprivileged(struct fixture *f)
{
	int status;
	pid_t pid;

	store_close(&f->store);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 &&
		    (setgid(12345) < 0 || setuid(12345) < 0))
			_exit(100);
		_exit(store_open(&f->set, &f->store, &f->error));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_no_permission(void **state)
{
	struct fixture *f = *state;
	uid_t uid = geteuid() == 0 ? 12345 : geteuid();
	char dir[400];

	/* a parent that may not be written */
	assert_int_equal(chmod(f->base, 0755), 0);
	(void)snprintf(dir, sizeof(dir), "%s/ro/store", f->base);
	f->set.dir = dir;
	(void)snprintf(f->text, sizeof(f->text), "mkdir -m 0555 %s/ro",
		       f->base);
	run(f->text);
	assert_int_equal(open_unprivileged(f), STORE_FAILED);

	/* a directory, then a database, that may only be read */
	f->set.dir = f->dir;
	(void)snprintf(f->text, sizeof(f->text), "chown -R %ld %s",
		       (long)uid, f->dir);
	run(f->text);
	assert_int_equal(open_unprivileged(f), STORE_OK);
	assert_int_equal(chmod(path_of(f, "store.db"), 0400), 0);
	assert_int_equal(open_unprivileged(f), STORE_FAILED);
	assert_int_equal(chmod(path_of(f, "store.db"), 0600), 0);
	assert_int_equal(unlink(path_of(f, "wake")), 0);
	assert_int_equal(chmod(f->dir, 0500), 0);
	assert_int_equal(open_unprivileged(f), STORE_FAILED);
	assert_int_equal(chmod(f->dir, 0000), 0);
	assert_int_equal(open_unprivileged(f), STORE_FAILED);
	assert_int_equal(chmod(f->dir, 0700), 0);
}

static void test_network_file_systems(void **state)
{
	static const struct {
		uint32_t type;
		const char *name;
	} refused[] = {
		{ 0x6969, "NFS" }, { 0x517b, "SMB" }, { 0xff534d42, "CIFS" },
		{ 0xfe534d42, "SMB" }, { 0x5346414f, "AFS" },
		{ 0x6b414653, "AFS" }, { 0x00c36400, "Ceph" },
	};
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		test_fs_type = refused[i].type;
		expect_open(f, STORE_REFUSED, refused[i].name);
		assert_non_null(strstr(f->error.message, "metasync_dir"));
	}
	test_fs_type = 0x65735546;	/* FUSE may be local */
	reopen(f);
}

/* -- its files */

static void test_files_are_links(void **state)
{
	static const char *const names[] = {
		"store.db", "store.db-wal", "store.db-shm",
		"store.db-journal", "wake"
	};
	struct fixture *f = *state;
	char target[400];
	unsigned int i;

	must_put(f, "", "/private/a", "1");
	store_close(&f->store);
	(void)snprintf(target, sizeof(target), "%s/target", f->base);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		(void)snprintf(f->text, sizeof(f->text),
			       "cd %s && if [ -e %s ]; then mv %s ../target;"
			       " else echo other > ../target; fi &&"
			       " ln -s ../target %s", f->dir, names[i],
			       names[i], names[i]);
		run(f->text);
		expect_open(f, STORE_REFUSED, names[i]);
		assert_true(file_size(target) > 0);
		assert_int_equal(unlink(path_of(f, names[i])), 0);
		/* a directory and a FIFO are no better */
		assert_int_equal(mkdir(path_of(f, names[i]), 0700), 0);
		expect_open(f, STORE_REFUSED, names[i]);
		assert_int_equal(rmdir(path_of(f, names[i])), 0);
		assert_int_equal(mkfifo(path_of(f, names[i]), 0600), 0);
		expect_open(f, STORE_REFUSED, names[i]);
		assert_int_equal(unlink(path_of(f, names[i])), 0);
		if (i == 0) {
			(void)snprintf(f->text, sizeof(f->text),
				       "mv %s/../target %s/store.db", f->dir,
				       f->dir);
			run(f->text);
		}
	}
	reopen(f);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
}

static void test_newer_schema(void **state)
{
	struct fixture *f = *state;

	must_put(f, "", "/private/a", "1");
	sql(f, "PRAGMA user_version = 2");
	expect_open(f, STORE_NEWER_SCHEMA, "schema version 2");
	sql(f, "PRAGMA user_version = 0");
	expect_open(f, STORE_CORRUPT, "");
	sql(f, "PRAGMA user_version = 1; PRAGMA application_id = 7");
	expect_open(f, STORE_CORRUPT, "another application");
}

/* Nothing is deleted to recover. */
static void test_damaged_at_rest(void **state)
{
	static char zeros[8192], garbage[8192];
	struct fixture *f = *state;
	int64_t size;

	store_close(&f->store);
	memset(garbage, 'g', sizeof(garbage));
	write_file(path_of(f, "store.db"), zeros, sizeof(zeros));
	expect_open(f, STORE_CORRUPT, "store.db");
	assert_int_equal(file_size(path_of(f, "store.db")), sizeof(zeros));
	write_file(path_of(f, "store.db"), zeros, 1);
	expect_open(f, STORE_CORRUPT, "store.db");
	write_file(path_of(f, "store.db"), garbage, sizeof(garbage));
	expect_open(f, STORE_CORRUPT, "store.db");
	assert_int_equal(file_size(path_of(f, "store.db")), sizeof(garbage));

	assert_int_equal(unlink(path_of(f, "store.db")), 0);
	reopen(f);
	must_put(f, "", "/private/a", "1");
	store_close(&f->store);
	size = file_size(path_of(f, "store.db"));
	assert_int_equal(truncate(path_of(f, "store.db"), size - 4096), 0);
	expect_open(f, STORE_CORRUPT, "store.db");
	assert_int_equal(truncate(path_of(f, "store.db"), 100), 0);
	expect_open(f, STORE_CORRUPT, "store.db");
	assert_int_equal(file_size(path_of(f, "store.db")), 100);
}

static void test_empty_database(void **state)
{
	struct fixture *f = *state;

	/* a beginning that came no further */
	store_close(&f->store);
	write_file(path_of(f, "store.db"), "", 0);
	reopen(f);
	must_put(f, "", "/private/a", "1");
	store_close(&f->store);
	/* but not beside changes */
	write_file(path_of(f, "store.db-wal"), "changes", 7);
	write_file(path_of(f, "store.db"), "", 0);
	expect_open(f, STORE_CORRUPT, "is empty");
	assert_int_equal(unlink(path_of(f, "store.db")), 0);
	expect_open(f, STORE_CORRUPT, "is missing");
	assert_int_equal(file_size(path_of(f, "store.db")), -1);
	assert_int_equal(file_size(path_of(f, "store.db-wal")), 7);
}

static void test_damaged_meta(void **state)
{
	struct fixture *f = *state;

	sql(f, "UPDATE meta SET epoch = 0");
	expect_open(f, STORE_CORRUPT, "position");
	sql(f, "DELETE FROM meta");
	expect_open(f, STORE_CORRUPT, "row is missing");
	sql(f, "DROP TABLE meta");
	expect_open(f, STORE_CORRUPT, "meta");
}

/* -- copies */

static void test_copy(void **state)
{
	struct fixture *f = *state;
	char copy[400];
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	store_close(&f->store);
	(void)snprintf(copy, sizeof(copy), "%s/copy", f->base);
	(void)snprintf(f->text, sizeof(f->text), "cp -pr %s %s", f->dir,
		       copy);
	run(f->text);
	f->set.dir = copy;
	reopen(f);
	assert_int_equal(f->log_count, 1);
	assert_non_null(strstr(f->log, "new epoch"));
	assert_true(get_state(f).pos.epoch != pos.epoch);
	assert_int_equal(get_state(f).pos.modseq, pos.modseq);
	pos = get_state(f).pos;
	/* once */
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
	/* moved is not copied */
	store_close(&f->store);
	(void)snprintf(f->text, sizeof(f->text), "mv %s %s-moved", copy, copy);
	run(f->text);
	strcat(copy, "-moved");
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
	assert_int_equal(f->log_count, 1);
}

static void test_other_file_system(void **state)
{
	static const int32_t ids[3][2] = { { 1, 2 }, { 1, 3 }, { 0, 0 } };
	struct fixture *f = *state;
	uint32_t epoch;

	test_fs_id = ids[0];
	reopen(f);
	epoch = get_state(f).pos.epoch;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	test_fs_id = ids[1];
	reopen(f);
	assert_true(get_state(f).pos.epoch != epoch);
	epoch = get_state(f).pos.epoch;
	/* one without an id: nothing is known */
	test_fs_id = ids[2];
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
}

/* XFS gives the number of its device, which may be another one tomorrow. */
static void test_file_system_id_of_device(void **state)
{
	static const int32_t other[2] = { 1, 2 };
	struct fixture *f = *state;
	unsigned int number[2] = { 0, 0 };
	struct stat st;
	uint32_t epoch;

	assert_int_equal(stat(f->dir, &st), 0);
	/* as in the kernel: new_encode_dev() */
	number[0] = (minor(st.st_dev) & 0xff) | (major(st.st_dev) << 8) |
		((minor(st.st_dev) & ~0xffU) << 12);
	test_fs_id = other;
	reopen(f);
	epoch = get_state(f).pos.epoch;
	test_fs_id = (const int32_t *)number;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
	test_fs_id = other;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, epoch);
}

/* Two users must not see each other's state. */
static void test_owner(void **state)
{
	struct fixture *f = *state;
	struct store_state first;
	struct store_pos pos;

	/* one without an owner is the first one's who comes */
	must_put(f, "", "/private/a", "1");
	first = get_state(f);
	f->set.owner = "ann";
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, first.pos.epoch);
	reopen(f);
	must_put(f, "", "/private/a", "2");
	pos = get_state(f).pos;

	store_close(&f->store);
	f->set.owner = "bob";
	expect_open(f, STORE_REFUSED, "belongs to the user ann, not to bob");
	f->set.take_over = true;
	reopen(f);
	assert_true(get_state(f).pos.epoch != pos.epoch);
	assert_true(get_state(f).pos.modseq == pos.modseq);
	pos = get_state(f).pos;
	/* once is enough */
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
	f->set.take_over = false;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
	store_close(&f->store);
	f->set.owner = "ann";
	expect_open(f, STORE_REFUSED, "belongs to the user bob, not to ann");
	/* who does not say */
	f->set.owner = NULL;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
}

/* With the size of pages goes the time that a commit takes. */
static void test_page_size(void **state)
{
	assert_int_equal(sql_number(*state, "PRAGMA page_size"), 2048);
}

static void test_replaced_in_use(void **state)
{
	struct fixture *f = *state;
	struct store *other;
	struct store_cursor cursor;
	const struct store_read req = { &filter_all, UINT64_MAX, false };
	bool more;
	struct store_error error;
	struct store_state st;

	must_put(f, "", "/private/a", "1");
	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	(void)read_text(f, &cursor, &filter_all);
	assert_false(store_is_replaced(f->store));
	(void)snprintf(f->text, sizeof(f->text),
		       "cd %s && mkdir away && mv store.db* away", f->dir);
	run(f->text);
	assert_true(store_is_replaced(f->store));
	assert_int_equal(put(f, "", "/private/a", "2"), STORE_FAILED);
	assert_non_null(strstr(f->error.message, "replaced"));
	assert_int_equal(store_get_state(f->store, &st, &f->error),
			 STORE_FAILED);
	/* a reader who is woken finds nothing new and learns it then */
	assert_int_equal(store_read(f->store, &req, &cursor, NULL, NULL, &st,
				    &more, &f->error), STORE_FAILED);
	assert_non_null(strstr(f->error.message, "replaced"));
	/* a new one in its place; closing the old one does it no harm */
	other = must_open(&f->set);
	store_close(&f->store);
	f->store = other;
	must_put(f, "", "/private/b", "1");
	reopen(f);
	assert_string_equal(get(f, "", "/private/b", NULL), "1");
	assert_int_equal(store_check(f->store, &error), STORE_OK);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
/* "rm" and "cp" of a backup: the new file often gets the old one's inode. */
static void test_restored_into_the_same_inode(void **state)
{
	static char data[1024 * 1024];
	struct fixture *f = *state;
	struct stat before, after;
	uint32_t epoch;
	ssize_t size;
	int fd;

	must_put(f, "", "/private/a", "1");
	epoch = f->pos.epoch;
	store_close(&f->store);
	fd = open(path_of(f, "store.db"), O_RDONLY);
	size = read(fd, data, sizeof(data));
	assert_true(size > 0 && size < (ssize_t)sizeof(data));
	assert_int_equal(fstat(fd, &before), 0);
	(void)close(fd);
	assert_int_equal(unlink(path_of(f, "store.db")), 0);
	fd = open(path_of(f, "store.db"), O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_int_equal(write(fd, data, size), size);
	assert_int_equal(fstat(fd, &after), 0);
	(void)close(fd);
	if (before.st_ino != after.st_ino)
		print_message("another inode: not what is to be tested\n");

	f->store = must_open(&f->set);
	assert_int_not_equal(get_state(f).pos.epoch, epoch);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_restored_into_the_same_inode),
		T(test_modes),
		T(test_settings),
		T(test_dir_is_no_dir),
		T(test_dir_is_link),
		T(test_dir_of_others),
		T(test_no_permission),
		T(test_network_file_systems),
		T(test_files_are_links),
		T(test_newer_schema),
		T(test_damaged_at_rest),
		T(test_empty_database),
		T(test_damaged_meta),
		T(test_copy),
		T(test_other_file_system),
		T(test_file_system_id_of_device),
		T(test_owner),
		T(test_page_size),
		T(test_replaced_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
