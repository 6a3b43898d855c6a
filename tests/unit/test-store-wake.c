/* The wake file: who is woken, and what readers find in it. */

#include "store-test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

/* As in store-wake.c. */
#define SLOTS 8
#define SLOT_SIZE 512
#define HEADER_SIZE 24

/* -- waking */

/* The position that is told. */
static uint64_t wake_modseq(const struct fixture *f)
{
	int fd = open(store_get_wake_path(f->store), O_RDONLY);
	uint64_t modseq, highest = 0;
	unsigned int i;

	assert_int_not_equal(fd, -1);
	for (i = 0; i < SLOTS; i++) {
		if (pread(fd, &modseq, sizeof(modseq), i * SLOT_SIZE + 8) ==
		    sizeof(modseq) && modseq > highest)
			highest = modseq;
	}
	(void)close(fd);
	return highest;
}

/* The events that have come, or'ed. */
static uint32_t wake_events(int fd)
{
	char buf[4096] __attribute__((aligned(8)));
	const struct inotify_event *event;
	uint32_t mask = 0;
	ssize_t ret;
	char *p;

	while ((ret = read(fd, buf, sizeof(buf))) > 0) {
		for (p = buf; p < buf + ret; p += sizeof(*event) + event->len) {
			event = (const void *)p;
			mask |= event->mask;
		}
	}
	assert_int_equal(errno, EAGAIN);
	return mask;
}

static void test_wake(void **state)
{
	struct fixture *f = *state;
	struct store_pos none = { 0, 0 };
	struct stat st;
	int fd;

	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_int_not_equal(inotify_add_watch(fd,
		store_get_wake_path(f->store),
		IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF), -1);

	must_put(f, "", "/private/a", "1");
	assert_int_equal(wake_events(fd), IN_MODIFY);
	/* nothing changed, nobody is woken */
	must_put(f, "", "/private/a", "1");
	assert_int_equal(put_if(f, "", "/private/a", "2", STORE_IF_ABSENT,
				none), STORE_MODIFIED);
	assert_int_equal(wake_events(fd), 0);
	must_put(f, "", "/private/a", "2");
	assert_int_equal(wake_events(fd), IN_MODIFY);
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	assert_int_equal(wake_events(fd), IN_MODIFY);
	must_put(f, "x", "/private/a", "2");
	(void)wake_events(fd);
	assert_int_equal(store_rename_mailbox(f->store, "x", "y", '/',
					      &f->pos, &f->error), STORE_OK);
	assert_int_equal(wake_events(fd), IN_MODIFY);
	assert_int_equal(store_delete_mailbox(f->store, "y", NULL, &f->pos,
					      &f->error), STORE_OK);
	assert_int_equal(wake_events(fd), IN_MODIFY);
	(void)close(fd);
	assert_int_equal(stat(store_get_wake_path(f->store), &st), 0);
	assert_true(st.st_size <= SLOTS * SLOT_SIZE);
}

static void test_wake_removed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(unlink(store_get_wake_path(f->store)), 0);
	must_put(f, "", "/private/a", "1");
	assert_int_equal(wake_modseq(f), 2);
	assert_int_equal(f->log_count, 1);
	assert_non_null(strstr(f->log, "wake was removed"));
	must_put(f, "", "/private/a", "2");
	assert_int_equal(wake_modseq(f), 3);
	assert_int_equal(f->log_count, 1);
}

/* It still has a link, but nobody who comes now finds it. */
static void test_wake_moved(void **state)
{
	struct fixture *f = *state;
	char old[400];

	(void)snprintf(old, sizeof(old), "%s/elsewhere", f->base);
	assert_int_equal(rename(store_get_wake_path(f->store), old), 0);
	must_put(f, "", "/private/a", "1");
	assert_int_equal(wake_modseq(f), 2);
	assert_int_equal(f->log_count, 1);
	/* another one has got its place */
	assert_int_equal(rename(old, store_get_wake_path(f->store)), 0);
	must_put(f, "", "/private/a", "2");
	assert_int_equal(wake_modseq(f), 3);
	assert_int_equal(f->log_count, 2);
}

/* The commit is done: a wake file that fails must not undo it. */
static void test_wake_fails(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(unlink(store_get_wake_path(f->store)), 0);
	assert_int_equal(symlink("elsewhere", store_get_wake_path(f->store)),
			 0);
	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/a", "2");
	assert_int_equal(f->log_count, 1);
	assert_int_equal(access(path_of(f, "elsewhere"), F_OK), -1);
	assert_int_equal(unlink(store_get_wake_path(f->store)), 0);
	must_put(f, "", "/private/a", "3");
	assert_int_equal(wake_modseq(f), 4);
}

/* -- reading */

/* Changes the database behind the store's back: who still reads the old value has
   it from the wake file. */
static void bend_values(struct fixture *f)
{
	sql(f, "UPDATE entry SET value = x'3f' WHERE removed_at IS NULL");
}

static struct store_cursor cursor_now(struct fixture *f)
{
	struct store_cursor cursor;
	struct store_pos pos = get_state(f).pos;

	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
	return cursor;
}

static int wake_open(const struct fixture *f)
{
	int fd = open(store_get_wake_path(f->store), O_RDWR);

	assert_int_not_equal(fd, -1);
	return fd;
}

static void test_read_from_wake(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor, late;

	must_put(f, "", "/private/a", "0");
	must_put(f, "x", "/private/b", "0");
	cursor = late = cursor_now(f);
	must_put(f, "", "/private/a", "1");
	bend_values(f);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "4  /private/a=1\n");
	assert_int_equal(f->pos.modseq, 4);
	assert_int_equal(f->pos.epoch, get_state(f).pos.epoch);
	/* nothing new */
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
	must_put(f, "x", "/private/b", NULL);
	bend_values(f);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "5 x /private/b -\n");
	must_put(f, "x", "/private/b", "");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "6 x /private/b=\n");
	/* the newest values only */
	must_put(f, "", "/private/a", "2");
	must_put(f, "", "/private/a", "3");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "8  /private/a=3\n");
	assert_string_equal(read_text(f, &late, &filter_all),
			    "6 x /private/b=\n8  /private/a=3\n");
}

/* More than there are slots: what was next is not there any more. */
static void test_read_after_many(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursors[2 * SLOTS + 1];
	char expected[100];
	unsigned int i;

	must_put(f, "", "/private/a", "1");
	for (i = 0; i < 2 * SLOTS; i++) {
		cursors[i] = cursor_now(f);
		must_put(f, "", i % 2 == 0 ? "/private/b" : "/private/c",
			 i % 4 < 2 ? "1" : "2");
	}
	(void)snprintf(expected, sizeof(expected), "%u  /private/b=2\n"
		       "%u  /private/c=2\n", 2 * SLOTS + 1, 2 * SLOTS + 2);
	for (i = 0; i < 2 * SLOTS - 1; i++) {
		assert_string_equal(read_text(f, &cursors[i], &filter_all),
				    expected);
	}
	assert_string_equal(read_text(f, &cursors[i], &filter_all),
			    strchr(expected, '\n') + 1);
	/* the slots hold older ones: nothing new, and one more */
	assert_string_equal(read_text(f, &cursors[0], &filter_all), "");
	must_put(f, "", "/private/a", "2");
	bend_values(f);
	(void)snprintf(expected, sizeof(expected), "%u  /private/a=2\n",
		       2 * SLOTS + 3);
	assert_string_equal(read_text(f, &cursors[0], &filter_all), expected);
}

/* What is not wanted is not shown, and the position moves. */
static void test_read_selected(void **state)
{
	static const struct store_scope scope = {
		STORE_SCOPE_MAILBOX, "x", '/'
	};
	static const char *const entry = "/private/a";
	static const struct store_selection selection = {
		&scope, 1, &entry, 1
	};
	static const struct store_filter filter = {
		&selection, 1, STORE_DEPTH_0
	};
	struct fixture *f = *state;
	struct store_cursor cursor;

	must_put(f, "x", "/private/a", "1");
	cursor = cursor_now(f);
	must_put(f, "x", "/private/b", "1");
	assert_string_equal(read_text(f, &cursor, &filter), "");
	must_put(f, "", "/private/a", "1");
	assert_string_equal(read_text(f, &cursor, &filter), "");
	assert_int_equal(cursor.modseq, 4);
	must_put(f, "x", "/private/a", "2");
	bend_values(f);
	assert_string_equal(read_text(f, &cursor, &filter),
			    "5 x /private/a=2\n");
}

static bool size_callback(const struct store_entry *entry, void *context)
{
	struct fixture *f = context;

	(void)snprintf(f->text, sizeof(f->text), "%zu %s", entry->value_size,
		       entry->value == NULL ? "hidden" : "shown");
	return true;
}

static void test_read_value_sizes(void **state)
{
	struct store_read req = { &filter_all, 3, false };
	struct fixture *f = *state;
	struct store_cursor start, cursor;
	struct store_state st;
	bool more;

	must_put(f, "", "/private/a", "1");
	start = cursor = cursor_now(f);
	must_put(f, "", "/private/a", "1234");
	assert_int_equal(store_read(f->store, &req, &cursor, size_callback, f,
				    &st, &more, &f->error), STORE_OK);
	assert_string_equal(f->text, "4 hidden");
	req.max_value_size = 4;
	cursor = start;
	assert_int_equal(store_read(f->store, &req, &cursor, size_callback, f,
				    &st, &more, &f->error), STORE_OK);
	assert_string_equal(f->text, "4 shown");
	req.without_values = true;
	cursor = start;
	assert_int_equal(store_read(f->store, &req, &cursor, size_callback, f,
				    &st, &more, &f->error), STORE_OK);
	assert_string_equal(f->text, "4 hidden");
}

static void apply(struct fixture *f, const struct store_change *changes,
		  size_t count)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };

	assert_int_equal(store_apply(f->store, changes, count, &always,
				     &f->pos, NULL, &f->error), STORE_OK);
}

static bool stop_callback(const struct store_entry *entry, void *context)
{
	struct fixture *f = context;

	(void)snprintf(f->text, sizeof(f->text), "%s", entry->name);
	return false;
}

/* Stopped in the middle: the database has the rest, nothing comes twice. */
static void test_read_stopped(void **state)
{
	static const struct store_change changes[] = {
		{ "", "/private/a", "2", 1, NULL },
		{ "", "/private/b", "2", 1, NULL },
		{ "", "/private/c", "2", 1, NULL },
	};
	const struct store_read req = { &filter_all, UINT64_MAX, false };
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_state st;
	bool more;

	must_put(f, "", "/private/a", "1");
	cursor = cursor_now(f);
	apply(f, changes, 3);
	assert_int_equal(store_read(f->store, &req, &cursor, stop_callback, f,
				    &st, &more, &f->error), STORE_OK);
	assert_true(more);
	assert_string_equal(f->text, "/private/a");
	must_put(f, "", "/private/d", "3");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "3  /private/b=2\n3  /private/c=2\n"
			    "4  /private/d=3\n");
}

/* What the file does not hold comes from the database, in its order. */
static void test_read_not_in_wake(void **state)
{
	static char large[SLOT_SIZE];
	struct store_change changes[] = {
		{ "", "/private/b", "3", 1, NULL },
		{ "", "/private/a", "3", 1, NULL },
	};
	struct fixture *f = *state;
	struct store_cursor cursor;
	char expected[3 * SLOT_SIZE];

	must_put(f, "", "/private/a", "1");
	must_put(f, "", "/private/b", "1");
	cursor = cursor_now(f);
	memset(large, 'l', sizeof(large) - 1);
	must_put(f, "", "/private/b", large);
	(void)snprintf(expected, sizeof(expected), "4  /private/b=%s\n",
		       large);
	assert_string_equal(read_text(f, &cursor, &filter_all), expected);
	/* rows in another order than the changes */
	apply(f, changes, 2);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "5  /private/a=3\n5  /private/b=3\n");
	/* too many for a slot */
	large[300] = '\0';
	changes[0].value = changes[1].value = large;
	changes[0].value_size = changes[1].value_size = 300;
	changes[0].name = "/private/a";
	changes[1].name = "/private/b";
	apply(f, changes, 2);
	(void)snprintf(expected, sizeof(expected), "6  /private/a=%s\n"
		       "6  /private/b=%s\n", large, large);
	assert_string_equal(read_text(f, &cursor, &filter_all), expected);
	/* other kinds of changes */
	must_put(f, "x", "/private/a", "1");
	assert_int_equal(store_rename_mailbox(f->store, "x", "y", '/',
					      &f->pos, &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "8 y /private/a=1\n8 x /private/a -\n");
	assert_int_equal(store_delete_mailbox(f->store, "y", NULL, &f->pos,
					      &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "9 y /private/a -\n");
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	must_put(f, "", "/private/a", "4");
	assert_string_equal(read_text(f, &cursor, &filter_all), "status 2");
	/* not before the one that came after what the reader finds */
	cursor = cursor_now(f);
	must_put(f, "", "/private/a", "5");
	must_put(f, "", "/private/a", "6");
	assert_int_equal(store_new_epoch(f->store, &f->pos, &f->error),
			 STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all), "status 2");
}

/* A writer has committed and not told yet, when the next one tells. */
static void test_read_out_of_order(void **state)
{
	static const unsigned char none[SLOT_SIZE];
	struct fixture *f = *state;
	unsigned char slot[SLOT_SIZE];
	struct store_cursor cursor, third;
	int fd;

	must_put(f, "", "/private/a", "1");
	third = cursor_now(f);
	must_put(f, "", "/private/a", "2");
	cursor = third;
	must_put(f, "", "/private/b", "2");
	fd = wake_open(f);
	memset(slot, 0, sizeof(slot));
	assert_true(pread(fd, slot, sizeof(slot), 3 * SLOT_SIZE) >
		    HEADER_SIZE);
	assert_int_equal(pwrite(fd, none, sizeof(none), 3 * SLOT_SIZE),
			 sizeof(none));
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "3  /private/a=2\n4  /private/b=2\n");
	assert_int_equal(pwrite(fd, slot, sizeof(slot), 3 * SLOT_SIZE),
			 sizeof(slot));
	assert_string_equal(read_text(f, &cursor, &filter_all), "");
	assert_string_equal(read_text(f, &third, &filter_all),
			    "3  /private/a=2\n4  /private/b=2\n");
	(void)close(fd);
}

/* Takes a slot away, as if its writer had been killed before it could tell. */
static void lose_slot(struct fixture *f, uint64_t modseq)
{
	static const unsigned char none[SLOT_SIZE];
	int fd = wake_open(f);

	assert_int_equal(pwrite(fd, none, sizeof(none),
				modseq % SLOTS * SLOT_SIZE), sizeof(none));
	(void)close(fd);
}

/* A later one has told: what the reader is woken for is all there is. */
static void test_read_killed_writer(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;

	must_put(f, "", "/private/a", "1");
	cursor = cursor_now(f);
	must_put(f, "", "/private/a", "2");
	must_put(f, "", "/private/b", "2");
	lose_slot(f, 4);
	must_put(f, "", "/private/c", "2");
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "3  /private/a=2\n4  /private/b=2\n"
			    "5  /private/c=2\n");
}

/* A position may be that of a catch-up that was broken off: what it has not sent,
   because it changed afterwards, belongs to the first consistent state. */
static void test_read_since_partial(void **state)
{
	struct fixture *f = *state;
	struct store_cursor cursor;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	pos = f->pos;
	must_put(f, "", "/private/b", "1");
	must_put(f, "", "/private/a", "2");
	lose_slot(f, 4);
	assert_int_equal(store_cursor_since(f->store, &pos, &cursor,
					    &f->error), STORE_OK);
	assert_string_equal(read_text(f, &cursor, &filter_all),
			    "3  /private/b=1\n4  /private/a=2\n");
}

/* A writer that was held up after its commit, so long that its slot is a newer
   one's by now: that one must not be forgotten. */
static struct {
	struct fixture *f;	/* NULL: nobody is held up */
	struct store *other;
	struct store_cursor cursor;
} held_up;

ssize_t __real_pwrite(int fd, const void *data, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off_t offset);

static void held_up_others(struct fixture *f, struct store *other)
{
	struct store *store = f->store;
	unsigned int i;
	char value[2];

	held_up.f = NULL;
	f->store = other;
	for (i = 1; i <= SLOTS; i++) {
		(void)snprintf(value, sizeof(value), "%u", i);
		must_put(f, "", i == SLOTS ? "/private/last" :
			 "/private/other", value);
		if (i == SLOTS - 2)
			held_up.cursor = cursor_now(f);
	}
	f->store = store;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t offset)
{
	if (held_up.f != NULL)
		held_up_others(held_up.f, held_up.other);
	return __real_pwrite(fd, data, size, offset);
}

/* the same on 64 bit */
ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off_t offset)
{
	return __wrap_pwrite(fd, data, size, offset);
}

static void test_read_late_writer(void **state)
{
	struct fixture *f = *state;

	held_up.other = must_open(&f->set);
	held_up.f = f;
	must_put(f, "", "/private/late", "1");
	assert_null(held_up.f);
	assert_string_equal(read_text(f, &held_up.cursor, &filter_all),
			    "9  /private/other=7\n10  /private/last=8\n");
	/* and the file is not taken for one of another store */
	held_up.cursor.epoch = get_state(f).pos.epoch;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, held_up.cursor.epoch);
	store_close(&held_up.other);
}

/* Whatever octet is wrong: what is read is true. */
static void test_read_damaged(void **state)
{
	struct fixture *f = *state;
	struct store_cursor start, cursor;
	unsigned char c, wrong;
	unsigned int i;
	int fd;

	must_put(f, "", "/private/a", "1");
	start = cursor_now(f);
	must_put(f, "x", "/private/a", "value");
	fd = wake_open(f);
	for (i = 3 * SLOT_SIZE;
	     pread(fd, &c, sizeof(c), i) == sizeof(c); i++) {
		wrong = c ^ 1;
		assert_int_equal(pwrite(fd, &wrong, sizeof(wrong), i), 1);
		cursor = start;
		assert_string_equal(read_text(f, &cursor, &filter_all),
				    "3 x /private/a=value\n");
		assert_int_equal(pwrite(fd, &c, sizeof(c), i), 1);
	}
	assert_true(i > 3 * SLOT_SIZE + HEADER_SIZE + 16);
	/* cut off */
	for (; i > 3 * SLOT_SIZE; i--) {
		assert_int_equal(ftruncate(fd, i - 1), 0);
		cursor = start;
		assert_string_equal(read_text(f, &cursor, &filter_all),
				    "3 x /private/a=value\n");
	}
	(void)close(fd);
}

static uint64_t hash_of(const unsigned char *data, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325;
	size_t i;

	for (i = 0; i < size; i++)
		hash = (hash ^ data[i]) * 0x100000001b3;
	return hash;
}

/* Sizes that lie, under a hash that fits. */
static void test_read_crafted(void **state)
{
	struct fixture *f = *state;
	struct store_cursor start, cursor;
	unsigned char slot[SLOT_SIZE];
	uint64_t hash;
	unsigned int i;
	ssize_t size;
	int fd;

	must_put(f, "", "/private/a", "1");
	start = cursor_now(f);
	must_put(f, "x", "/private/a", "value");
	fd = wake_open(f);
	size = pread(fd, slot, sizeof(slot), 3 * SLOT_SIZE);
	assert_true(size > HEADER_SIZE + 16);
	/* the entry's three sizes */
	for (i = HEADER_SIZE + 8; i < HEADER_SIZE + 14; i++) {
		slot[i] ^= 0xff;
		hash = hash_of(slot + 8, size - 8);
		memcpy(slot, &hash, sizeof(hash));
		assert_int_equal(pwrite(fd, slot, size, 3 * SLOT_SIZE), size);
		cursor = start;
		assert_string_equal(read_text(f, &cursor, &filter_all),
				    "3 x /private/a=value\n");
		slot[i] ^= 0xff;
	}
	(void)close(fd);
}

/* An older copy in the same file: only the wake file shows it. */
static void test_older_than_wake(void **state)
{
	struct fixture *f = *state;
	struct store_pos pos;

	must_put(f, "", "/private/a", "1");
	store_close(&f->store);
	(void)snprintf(f->text, sizeof(f->text),
		       "cd %s && cp store.db ../copy", f->dir);
	assert_int_equal(system(f->text), 0);
	f->store = must_open(&f->set);
	must_put(f, "", "/private/a", "2");
	pos = f->pos;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
	store_close(&f->store);
	(void)snprintf(f->text, sizeof(f->text),
		       "cd %s && cat ../copy > store.db", f->dir);
	assert_int_equal(system(f->text), 0);
	f->store = must_open(&f->set);
	assert_true(get_state(f).pos.epoch != pos.epoch);
	assert_string_equal(get(f, "", "/private/a", NULL), "1");
	pos = get_state(f).pos;
	reopen(f);
	assert_int_equal(get_state(f).pos.epoch, pos.epoch);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_wake),
		T(test_wake_removed),
		T(test_wake_moved),
		T(test_wake_fails),
		T(test_read_from_wake),
		T(test_read_after_many),
		T(test_read_selected),
		T(test_read_value_sizes),
		T(test_read_stopped),
		T(test_read_not_in_wake),
		T(test_read_out_of_order),
		T(test_read_killed_writer),
		T(test_read_since_partial),
		T(test_read_late_writer),
		T(test_read_damaged),
		T(test_read_crafted),
		T(test_older_than_wake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
