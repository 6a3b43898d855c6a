/* The replica by its public functions: opening, names, parts, reading, writing, iterators, what was refused. */

#include "replica-test.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "durable.h"

int fdatasync(int fd)
{
	durable_note(fd);
	return syscall(SYS_fdatasync, fd);
}

/* -- opening */

static void open_fails(const char *path, unsigned int flags, enum dovetail_status expected, const char *text)
{
	struct dovetail *replica;
	char *error;

	assert_int_equal(dovetail_open(path, flags, &replica, &error), expected);
	assert_null(replica);
	if (strstr(error, text) == NULL)
		fail_msg("\"%s\" has no \"%s\"", error, text);
	free(error);
	assert_int_equal(dovetail_open(path, flags, &replica, NULL), expected);
}

static void write_file(const char *path, const char *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static void test_open(void **state)
{
	struct fixture *f = *state;
	char path[400], link_path[400];
	struct dovetail *replica;
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	snprintf(path, sizeof(path), "%s-wake", f->path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);

	snprintf(path, sizeof(path), "%s/none", f->base);
	open_fails(path, 0, DOVETAIL_REPLICA, "does not exist");
	open_fails(path, DOVETAIL_OPEN_CREATE | DOVETAIL_OPEN_READONLY, DOVETAIL_REPLICA, "does not exist");
	open_fails(path, 64, DOVETAIL_INVALID, "flags");
	open_fails(NULL, 0, DOVETAIL_INVALID, "path");
	open_fails("", 0, DOVETAIL_INVALID, "path");
	open_fails("/", 0, DOVETAIL_INVALID, "path");
	snprintf(path, sizeof(path), "%s/none/x", f->base);
	open_fails(path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "No such file");
	open_fails(f->base, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "directory");

	snprintf(link_path, sizeof(link_path), "%s/link", f->base);
	assert_int_equal(symlink(f->path, link_path), 0);
	open_fails(link_path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "symbolic link");
	/* a link on the way is fine */
	snprintf(link_path, sizeof(link_path), "%s/dir", f->base);
	assert_int_equal(symlink(f->base, link_path), 0);
	snprintf(path, sizeof(path), "%s/dir/replica", f->base);
	dovetail_close(must_open(path, 0));

	snprintf(path, sizeof(path), "%s/fifo", f->base);
	assert_int_equal(mkfifo(path, 0600), 0);
	open_fails(path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "special");
	snprintf(path, sizeof(path), "%s/relative", f->base);
	assert_int_equal(chdir(f->base), 0);
	replica = must_open("relative", DOVETAIL_OPEN_CREATE);
	assert_int_equal(chdir("/"), 0);
	set_parts(replica);
	put(replica, "", BELOW "a", "1");
	dovetail_close(replica);
	replica = must_open(path, 0);
	assert_string_equal(get(replica, "", BELOW "a"), "1");
	dovetail_close(replica);
	dovetail_close(NULL);
}

/* A power cut takes nothing of what a function has said to be written: a new replica, and each write. */
static void test_durable(void **state)
{
	struct fixture *f = *state;
	struct dovetail *replica;
	char path[400], expected[500];

	snprintf(path, sizeof(path), "%s/durable", f->base);
	*durable = '\0';
	replica = must_open(path, DOVETAIL_OPEN_CREATE);
	/* first what is in it, under another name, then its name */
	snprintf(expected, sizeof(expected), "%s-new-", path);
	assert_true(strncmp(durable, expected, strlen(expected)) == 0);
	snprintf(expected, sizeof(expected), "\n%s\n", f->base);
	assert_true(strncmp(strchr(durable, '\n'), expected, strlen(expected)) == 0);
	set_parts(replica);
	snprintf(expected, sizeof(expected), "%s-wal\n", path);
	*durable = '\0';
	put(replica, "", BELOW "a", "1");
	assert_string_equal(durable, expected);
	*durable = '\0';
	must(replica, dovetail_unset(replica, "", BELOW "a"));
	assert_string_equal(durable, expected);
	dovetail_close(replica);
}

/* Nothing of a file that is not ours is changed, nor anything put beside it. */
static void test_not_ours(void **state)
{
	struct fixture *f = *state;
	const char *const contents[] = { "", "hello", NULL };
	char path[400], beside[600], sqlite[8192], now[8192];
	struct stat st;
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "%s/other", f->base);
	for (unsigned int i = 0; contents[i] != NULL; i++) {
		write_file(path, contents[i], strlen(contents[i]));
		open_fails(path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "is not a replica");
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_size, strlen(contents[i]));
	}
	unlink(path);
	snprintf(beside, sizeof(beside), "sqlite3 %s 'CREATE TABLE t(x); INSERT INTO t VALUES(1)' >/dev/null 2>&1", path);
	if (system(beside) == 0) {
		fd = open(path, O_RDONLY);
		size = read(fd, sqlite, sizeof(sqlite));
		close(fd);
		open_fails(path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "is not a replica");
		fd = open(path, O_RDONLY);
		assert_int_equal(read(fd, now, sizeof(now)), size);
		close(fd);
		assert_memory_equal(sqlite, now, size);
	}
	snprintf(beside, sizeof(beside), "%s-wal", path);
	assert_int_equal(access(beside, F_OK), -1);
	snprintf(beside, sizeof(beside), "%s-wake", path);
	assert_int_equal(access(beside, F_OK), -1);
}

static void test_newer(void **state)
{
	struct fixture *f = *state;

	dovetail_close(f->replica);
	f->replica = NULL;
	sql(f, "PRAGMA user_version = 2; PRAGMA wal_checkpoint(TRUNCATE)");
	open_fails(f->path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "newer version");
}

static void test_other_owner(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	dovetail_close(f->replica);
	f->replica = NULL;
	assert_int_equal(chown(f->path, 12345, 12345), 0);
	open_fails(f->path, 0, DOVETAIL_REPLICA, "belongs to uid 12345");
}

static void test_readonly(void **state)
{
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct dovetail *replica;

	put(f->replica, "", BELOW "a", "1");
	replica = must_open(f->path, DOVETAIL_OPEN_READONLY);
	assert_string_equal(get(replica, "", BELOW "a"), "1");
	expect(replica, dovetail_set(replica, "", BELOW "a", "2", 1), DOVETAIL_INVALID, "reading only");
	expect(replica, dovetail_unset(replica, "", BELOW "a"), DOVETAIL_INVALID, "reading only");
	expect(replica, dovetail_changes_begin(replica, &changes), DOVETAIL_INVALID, "reading only");
	expect(replica, replica_sync_begin(replica), DOVETAIL_INVALID, "reading only");
	expect(replica, dovetail_refused_forget(replica, "", BELOW "a"), DOVETAIL_INVALID, "reading only");
	/* what others write is seen */
	put(f->replica, "", BELOW "a", "2");
	assert_string_equal(get(replica, "", BELOW "a"), "2");
	dovetail_close(replica);
}

/* -- names */

static void test_names(void **state)
{
	struct fixture *f = *state;
	const char *const bad[] = {
		"", "/", "private/x", "/private", "/private/", "/shared", "/other/x", "/privatex/y", "/private//x", "/private/x/",
		"/private/a*", "/private/a%", "/private/a\x7f", "/private/a\n", "/private/\xc3\xa4", NULL
	};
	const char *const bad_mailboxes[] = { "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xc3", "\xe2\x82", NULL };
	char name[1100];

	for (unsigned int i = 0; bad[i] != NULL; i++)
		expect(f->replica, dovetail_set(f->replica, "", bad[i], "x", 1), DOVETAIL_INVALID, "entry name");
	expect(f->replica, dovetail_set(f->replica, "", NULL, "x", 1), DOVETAIL_INVALID, "missing");
	for (unsigned int i = 0; bad_mailboxes[i] != NULL; i++)
		expect(f->replica, dovetail_set(f->replica, bad_mailboxes[i], BELOW "a", "x", 1), DOVETAIL_INVALID, "UTF-8");
	expect(f->replica, dovetail_set(f->replica, NULL, BELOW "a", "x", 1), DOVETAIL_INVALID, "missing");
	memset(name, 'x', sizeof(name));
	memcpy(name, BELOW, strlen(BELOW));
	name[1025] = '\0';
	expect(f->replica, dovetail_set(f->replica, "", name, "x", 1), DOVETAIL_INVALID, "1024");
	name[1024] = '\0';
	put(f->replica, "", name, "x");
	assert_string_equal(get(f->replica, "", name), "x");
	/* case */
	put(f->replica, "inBox", "/Private/VENDOR/example/Key Z~", "v");
	assert_string_equal(get(f->replica, "INBOX", BELOW "key z~"), "v");
	/* not what is covered */
	expect(f->replica, dovetail_set(f->replica, "", "/private/vendor/examples", "x", 1), DOVETAIL_INVALID, "not covered");
	struct dovetail_entry entry;
	expect(f->replica, dovetail_get(f->replica, "", "/private/vendor/examples", &entry), DOVETAIL_INVALID, "not covered");
}

static void test_parts(void **state)
{
	struct fixture *f = *state;
	const struct dovetail_part *got, parts[] = {
		{ DOVETAIL_SCOPE_SUBTREE, "inbox", "/PRIVATE" },
		{ DOVETAIL_SCOPE_MAILBOX, "", "/private/vendor/example" },
		{ DOVETAIL_SCOPE_SUBTREE, "INBOX", "/private" }
	}, bad[] = {
		{ DOVETAIL_SCOPE_MAILBOX, NULL, "/private" },
		{ DOVETAIL_SCOPE_PERSONAL, "Work", "/private" },
		{ DOVETAIL_SCOPE_SUBTREE, "", "/private" },
		{ DOVETAIL_SCOPE_MAILBOX, "", NULL },
		{ 17, "", "/private" }
	};
	const char *mark, *partial;
	size_t count;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(dovetail_set_parts(f->replica, &bad[i], 1), DOVETAIL_INVALID);
	expect(f->replica, dovetail_set_parts(f->replica, parts, 0), DOVETAIL_INVALID, "1 to 100");
	server_put(&f->server, "Work", BELOW "a", "1");
	server_put(&f->server, "", BELOW "a", "1");
	server_catch_up(f);
	assert_string_equal(get(f->replica, "Work", BELOW "a"), "1");
	/* the same again: the mark stays */
	set_parts(f->replica);
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_not_equal(mark, "");
	/* a write waits */
	put(f->replica, "Work", BELOW "b", "1");
	expect(f->replica, dovetail_set_parts(f->replica, parts, 3), DOVETAIL_INVALID, "waits");
	must(f->replica, dovetail_get_parts(f->replica, &got, &count));
	assert_int_equal(got[0].scope, DOVETAIL_SCOPE_MAILBOX);
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_not_equal(mark, "");
	put(f->replica, "Work", BELOW "b", NULL);
	must(f->replica, dovetail_set_parts(f->replica, parts, 3));
	must(f->replica, dovetail_get_parts(f->replica, &got, &count));
	assert_int_equal(count, 2);
	assert_string_equal(got[1].mailbox, "INBOX");
	assert_string_equal(got[1].entry, "/private");
	must(f->replica, replica_get_mark(f->replica, &mark, &partial));
	assert_string_equal(mark, "");
	assert_string_equal(get(f->replica, "", BELOW "a"), "1");
	put(f->replica, "INBOX/x", BELOW "b", "1");
	/* forgotten */
	set_parts(f->replica);
	assert_string_equal(get(f->replica, "Work", BELOW "a"), "-");
}

/* -- values and change sets */

static void test_values(void **state)
{
	struct fixture *f = *state;
	char *large = malloc(5000000);
	struct dovetail_entry entry;
	struct dovetail_counts counts;

	must(f->replica, dovetail_set(f->replica, "", BELOW "empty", "", 0));
	must(f->replica, dovetail_set(f->replica, "", BELOW "empty2", NULL, 0));
	expect(f->replica, dovetail_set(f->replica, "", BELOW "a", NULL, 1), DOVETAIL_INVALID, "missing");
	must(f->replica, dovetail_get(f->replica, "", BELOW "empty", &entry));
	assert_non_null(entry.data);
	assert_int_equal(entry.size, 0);
	assert_int_equal(entry.flags, DOVETAIL_ENTRY_PENDING);
	must(f->replica, dovetail_get(f->replica, "", BELOW "empty2", &entry));
	assert_non_null(entry.data);
	must(f->replica, dovetail_set(f->replica, "", BELOW "nul", "a\0b", 3));
	reopen(f);
	must(f->replica, dovetail_get(f->replica, "", BELOW "nul", &entry));
	assert_int_equal(entry.size, 3);
	assert_memory_equal(entry.data, "a\0b", 4);
	memset(large, 'x', 5000000);
	must(f->replica, dovetail_set(f->replica, "", BELOW "large", large, 5000000));
	must(f->replica, dovetail_get(f->replica, "", BELOW "large", &entry));
	assert_int_equal(entry.size, 5000000);
	assert_memory_equal(entry.data, large, 5000000);
	free(large);
	expect(f->replica, dovetail_set(f->replica, "", BELOW "larger", "x", 2000000000), DOVETAIL_LIMIT, "too large");
	expect(f->replica, dovetail_unset(f->replica, "", BELOW "none"), DOVETAIL_NOT_FOUND, "no entry");
	assert_int_equal(replica_queue_count(f->replica), 4);
	/* the same, and back to the base: nothing waits */
	put(f->replica, "", BELOW "large", "x");
	put(f->replica, "", BELOW "large", "x");
	assert_int_equal(replica_queue_count(f->replica), 4);
	put(f->replica, "", BELOW "large", NULL);
	assert_int_equal(replica_queue_count(f->replica), 3);
	must(f->replica, dovetail_get_counts(f->replica, &counts));
	assert_int_equal(counts.entries, 3);
	assert_int_equal(counts.pending, 3);
	assert_int_equal(counts.bytes, 3 + strlen(BELOW "empty" BELOW "empty2" BELOW "nul"));
	assert_int_equal(counts.synced_at, 0);
	server_sync(f, DOVETAIL_RULE_LINES, NULL, NULL);
	must(f->replica, dovetail_get_counts(f->replica, &counts));
	assert_int_equal(counts.pending, 0);
	assert_true(counts.synced_at > 0);
	assert_int_equal(counts.epoch, 7);
	assert_int_equal(counts.modseq, f->server.modseq);
	assert_int_equal(get_flags(f->replica, "", BELOW "nul"), 0);
}

static void test_change_set(void **state)
{
	struct fixture *f = *state;
	struct dovetail_changes *changes;
	struct replica_set set;
	char name[100];

	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	for (unsigned int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), BELOW "n%u", i);
		must(f->replica, dovetail_changes_add(changes, "", name, "1", 1));
	}
	expect(f->replica, dovetail_changes_add(changes, "", BELOW "more", "1", 1), DOVETAIL_LIMIT, "100");
	/* replaces; and expecting is no entry of the set */
	must(f->replica, dovetail_changes_add(changes, "", BELOW "N7", "2", 1));
	must(f->replica, dovetail_changes_expect(changes, "", BELOW "other", NULL, 0));
	assert_string_equal(get(f->replica, "", BELOW "n7"), "-");
	must(f->replica, dovetail_changes_commit(changes));
	assert_string_equal(get(f->replica, "", BELOW "n7"), "2");
	server_catch_up(f);
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	assert_int_equal(set.count, 100);
	assert_string_equal(set.unchanged_since, "(7 1)");

	/* all or none */
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "n1", "3", 1));
	must(f->replica, dovetail_changes_expect(changes, "", BELOW "n7", "1", 1));
	expect(f->replica, dovetail_changes_commit(changes), DOVETAIL_BUSY, "meanwhile");
	assert_string_equal(get(f->replica, "", BELOW "n1"), "1");
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "n1", "3", 1));
	must(f->replica, dovetail_changes_expect(changes, "", BELOW "n1", "1", 1));
	must(f->replica, dovetail_changes_check(changes));
	assert_string_equal(get(f->replica, "", BELOW "n1"), "1");
	must(f->replica, dovetail_changes_commit(changes));
	assert_string_equal(get(f->replica, "", BELOW "n1"), "3");
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "n1", "4", 1));
	expect(f->replica, dovetail_changes_add(changes, "", "/private/*", "4", 1), DOVETAIL_INVALID, "not allowed");
	dovetail_changes_abort(changes);
	dovetail_changes_abort(NULL);
	assert_string_equal(get(f->replica, "", BELOW "n1"), "3");
	/* nothing at all */
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_commit(changes));
	/* not covered: none of them */
	must(f->replica, dovetail_changes_begin(f->replica, &changes));
	must(f->replica, dovetail_changes_add(changes, "", BELOW "n1", "5", 1));
	must(f->replica, dovetail_changes_add(changes, "", "/shared/x", "5", 1));
	expect(f->replica, dovetail_changes_commit(changes), DOVETAIL_INVALID, "not covered");
	assert_string_equal(get(f->replica, "", BELOW "n1"), "3");
}

/* -- iterators */

static const char *list(struct fixture *f, const char *mailbox, const char *name)
{
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	size_t size = 0;

	f->text[0] = '\0';
	must(f->replica, dovetail_iter_open(f->replica, mailbox, name, true, &iter));
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		size += snprintf(f->text + size, sizeof(f->text) - size, "%s:%s=%s ", entry.mailbox, entry.name + strlen(BELOW),
				 (const char *)entry.data);
	}
	assert_int_equal(status, DOVETAIL_NOT_FOUND);
	assert_int_equal(dovetail_iter_next(iter, &entry), DOVETAIL_NOT_FOUND);
	dovetail_iter_close(iter);
	return f->text;
}

static void test_iter(void **state)
{
	struct fixture *f = *state;
	struct dovetail_entry entry;
	struct dovetail_iter *iter, *bad;

	server_put(&f->server, "", BELOW "a/x", "1");
	server_put(&f->server, "", BELOW "a", "2");
	server_put(&f->server, "", BELOW "a-b", "3");
	server_put(&f->server, "Work", BELOW "a/y", "4");
	server_put(&f->server, "INBOX", BELOW "b", "5");
	server_catch_up(f);
	put(f->replica, "", BELOW "a/z", "6");
	put(f->replica, "", BELOW "a-b", NULL);
	put(f->replica, "Work", BELOW "a/y", "7");
	assert_string_equal(list(f, NULL, NULL), ":a=2 :a/x=1 :a/z=6 INBOX:b=5 Work:a/y=7 ");
	assert_string_equal(list(f, "", NULL), ":a=2 :a/x=1 :a/z=6 ");
	assert_string_equal(list(f, "inbox", NULL), "INBOX:b=5 ");
	assert_string_equal(list(f, NULL, BELOW "A"), ":a=2 :a/x=1 :a/z=6 Work:a/y=7 ");
	assert_string_equal(list(f, "", BELOW "a/x"), ":a/x=1 ");
	assert_string_equal(list(f, "None", BELOW "a"), "");
	assert_string_equal(list(f, "", "/private"), ":a=2 :a/x=1 :a/z=6 ");
	expect(f->replica, dovetail_iter_open(f->replica, "", "/x", true, &bad), DOVETAIL_INVALID, "entry name");
	assert_null(bad);

	/* one view, also of what is being written */
	must(f->replica, dovetail_iter_open(f->replica, NULL, NULL, false, &iter));
	must(f->replica, dovetail_iter_next(iter, &entry));
	assert_string_equal(entry.name, BELOW "a");
	assert_null(entry.data);
	assert_int_equal(entry.size, 1);
	put(f->replica, "", BELOW "a/x", NULL);
	put(f->replica, "", BELOW "a/w", "8");
	server_put(&f->server, "INBOX", BELOW "b", NULL);
	server_catch_up(f);
	must(f->replica, dovetail_iter_next(iter, &entry));
	assert_string_equal(entry.name, BELOW "a/x");
	must(f->replica, dovetail_iter_next(iter, &entry));
	assert_string_equal(entry.name, BELOW "a/z");
	assert_int_equal(entry.flags, DOVETAIL_ENTRY_PENDING);
	must(f->replica, dovetail_iter_next(iter, &entry));
	assert_string_equal(entry.mailbox, "INBOX");
	dovetail_iter_close(iter);
	dovetail_iter_close(NULL);
	assert_string_equal(list(f, NULL, NULL), ":a=2 :a/w=8 :a/z=6 Work:a/y=7 ");
}

/* -- what the server refused */

static bool show_refused(void *context, const struct dovetail_refused *refused)
{
	struct fixture *f = context;

	/* may use the replica */
	(void)get(f->replica, "", BELOW "a");
	snprintf(f->text + strlen(f->text), 1000, "%s=%s: %s;", refused->entry.name + strlen(BELOW),
		 refused->entry.data == NULL ? "-" : (const char *)refused->entry.data, refused->reason);
	return true;
}

static const char *refused(struct fixture *f)
{
	f->text[0] = '\0';
	must(f->replica, dovetail_refused_each(f->replica, show_refused, f));
	return f->text;
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct dovetail_counts counts;
	struct replica_set set;

	server_put(&f->server, "", BELOW "a", "server");
	server_catch_up(f);
	put(f->replica, "", BELOW "a", "mine");
	put(f->replica, "", BELOW "b", "new");
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	must(f->replica, replica_queue_refused(f->replica, set.id, "too large"));
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	must(f->replica, replica_queue_refused(f->replica, set.id, "no rights"));
	expect(f->replica, replica_queue_refused(f->replica, set.id, "no rights"), DOVETAIL_NOT_FOUND, "no change set");
	assert_string_equal(changed(f), " a=server; b=-;");
	reopen(f);
	assert_string_equal(refused(f), "a=mine: too large;b=new: no rights;");
	assert_string_equal(get(f->replica, "", BELOW "a"), "server");
	assert_int_equal(get_flags(f->replica, "", BELOW "a"), DOVETAIL_ENTRY_REFUSED);
	assert_string_equal(get(f->replica, "", BELOW "b"), "-");
	must(f->replica, dovetail_get_counts(f->replica, &counts));
	assert_int_equal(counts.refused, 2);
	/* written again, forgotten */
	put(f->replica, "", BELOW "a", "small");
	assert_string_equal(refused(f), "b=new: no rights;");
	must(f->replica, dovetail_refused_forget(f->replica, "", BELOW "B"));
	expect(f->replica, dovetail_refused_forget(f->replica, "", BELOW "b"), DOVETAIL_NOT_FOUND, "refused");
	assert_string_equal(refused(f), "");

	/* a later write on one that is refused has the server's value as its base */
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set));
	put(f->replica, "", BELOW "a", "smaller");
	must(f->replica, replica_queue_refused(f->replica, set.id, "no"));
	assert_string_equal(refused(f), "");
	assert_string_equal(changed(f), "");
	must(f->replica, replica_queue_next(f->replica, 0, DOVETAIL_RULE_SERVER, NULL, NULL, &set));
	assert_int_equal(set.writes[0].size, 7);
}

/* -- damage */

static void damage(const struct fixture *f, off_t at, size_t size)
{
	char garbage[8192];
	int fd = open(f->path, O_WRONLY);

	for (size_t i = 0; i < sizeof(garbage); i++)
		garbage[i] = (char)(i * 131 + 17);
	assert_int_equal(pwrite(fd, garbage, size, at), size);
	close(fd);
}

static void test_damage(void **state)
{
	struct fixture *f = *state;
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status, opened;
	struct dovetail *replica;
	unsigned int told = 0;
	struct stat st;
	char name[64], value[500], *error;

	memset(value, 'v', sizeof(value));
	for (unsigned int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), BELOW "n%u", i);
		must(f->replica, dovetail_set(f->replica, "", name, value, sizeof(value)));
	}
	dovetail_close(f->replica);
	f->replica = NULL;
	assert_int_equal(stat(f->path, &st), 0);
	/* each page but the first, one after the other: a clear line or all is well, never a crash, nor a value that is not one */
	for (off_t at = 4096; at < st.st_size; at += 4096) {
		damage(f, at, 4096);
		opened = dovetail_open(f->path, 0, &replica, &error);
		if (opened != DOVETAIL_OK) {
			assert_int_equal(opened, DOVETAIL_REPLICA);
			assert_non_null(strstr(error, "damaged"));
			free(error);
			told++;
			continue;
		}
		must(replica, dovetail_iter_open(replica, NULL, NULL, true, &iter));
		while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) ;
		if (status != DOVETAIL_NOT_FOUND) {
			expect(replica, status, DOVETAIL_REPLICA, "damaged");
			told++;
		}
		dovetail_iter_close(iter);
		status = dovetail_set(replica, "", BELOW "new", "1", 1);
		if (status != DOVETAIL_OK)
			expect(replica, status, DOVETAIL_REPLICA, "damaged");
		dovetail_close(replica);
	}
	assert_true(told > 0);
	/* the header */
	damage(f, 0, 100);
	open_fails(f->path, DOVETAIL_OPEN_CREATE, DOVETAIL_REPLICA, "is not a replica");
}

static void test_truncated(void **state)
{
	struct fixture *f = *state;
	struct dovetail *replica;
	enum dovetail_status status;
	char *error;

	dovetail_close(f->replica);
	f->replica = NULL;
	assert_int_equal(truncate(f->path, 4096), 0);
	status = dovetail_open(f->path, 0, &replica, &error);
	assert_int_equal(status, DOVETAIL_REPLICA);
	assert_non_null(strstr(error, "damaged"));
	free(error);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(open), TEST(durable), TEST(not_ours), TEST(newer), TEST(other_owner), TEST(readonly), TEST(names), TEST(parts),
		TEST(values), TEST(change_set), TEST(iter), TEST(refused), TEST(damage), TEST(truncated)
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
