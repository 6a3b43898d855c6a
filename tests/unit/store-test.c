/* See store-test.h. */

#include "store-test.h"

#include <sqlite3.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>

/* -- the bent system (linked with --wrap) */

int64_t test_now;
uint32_t test_fs_type;
const int32_t *test_fs_id;

time_t __real_time(time_t *t);
time_t __wrap_time(time_t *t);
int __real_fstatfs(int fd, struct statfs *fs);
int __wrap_fstatfs(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs);

time_t __wrap_time(time_t *t)
{
	return test_now != 0 ? (time_t)test_now : __real_time(t);
}

int __wrap_fstatfs(int fd, struct statfs *fs)
{
	int ret = __real_fstatfs(fd, fs);

	if (test_fs_type != 0)
		fs->f_type = test_fs_type;
	if (test_fs_id != NULL)
		memcpy(&fs->f_fsid, test_fs_id, sizeof(fs->f_fsid));
	return ret;
}

/* the same on 64 bit */
int __wrap_fstatfs64(int fd, struct statfs *fs)
{
	return __wrap_fstatfs(fd, fs);
}

/* -- the fixture */

void make_base(char *base, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(base, size, "%s/store-test-XXXXXX",
		       tmp == NULL ? "/tmp" : tmp);
	assert_non_null(mkdtemp(base));
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void remove_base(const char *base)
{
	assert_int_equal(nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void fixture_log(void *context, const char *message)
{
	struct fixture *f = context;

	(void)snprintf(f->log, sizeof(f->log), "%s", message);
	f->log_count++;
}

struct store *must_open(const struct store_settings *set)
{
	struct store_error error;
	struct store *store;

	if (store_open(set, &store, &error) != STORE_OK)
		fail_msg("open: %d %s", error.status, error.message);
	return store;
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	test_now = 0;
	test_fs_type = 0;
	test_fs_id = NULL;
	make_base(f->base, sizeof(f->base));
	(void)snprintf(f->dir, sizeof(f->dir), "%s/store", f->base);
	store_settings_init(&f->set);
	f->set.dir = f->dir;
	f->set.log = fixture_log;
	f->set.log_context = f;
	f->store = must_open(&f->set);
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	store_close(&f->store);
	remove_base(f->base);
	free(f);
	test_now = 0;
	test_fs_type = 0;
	test_fs_id = NULL;
	return 0;
}

void reopen(struct fixture *f)
{
	store_close(&f->store);
	f->store = must_open(&f->set);
}

const char *path_of(const struct fixture *f, const char *name)
{
	static char path[600];

	(void)snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	return path;
}

static sqlite3 *sql_open(const struct fixture *f)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(path_of(f, "store.db"), &db), SQLITE_OK);
	return db;
}

void sql(const struct fixture *f, const char *text)
{
	sqlite3 *db = sql_open(f);
	char *message = NULL;

	if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", text, message);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

int64_t sql_number(const struct fixture *f, const char *text)
{
	sqlite3 *db = sql_open(f);
	sqlite3_stmt *stmt;
	int64_t number;

	assert_int_equal(sqlite3_prepare_v2(db, text, -1, &stmt, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	number = sqlite3_column_int64(stmt, 0);
	(void)sqlite3_finalize(stmt);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return number;
}

/* -- short words */

enum store_status put_if(struct fixture *f, const char *mailbox,
			 const char *name, const char *value,
			 enum store_condition_type type, struct store_pos pos)
{
	const struct store_condition condition = { .type = type, .pos = pos };
	const struct store_change change = {
		mailbox, name, value, value == NULL ? 0 : strlen(value), NULL
	};

	return store_apply(f->store, &change, 1, &condition, &f->pos, NULL,
			   &f->error);
}

enum store_status put(struct fixture *f, const char *mailbox,
		      const char *name, const char *value)
{
	const struct store_pos none = { 0, 0 };

	return put_if(f, mailbox, name, value, STORE_UNCONDITIONAL, none);
}

uint64_t must_put(struct fixture *f, const char *mailbox, const char *name,
		  const char *value)
{
	if (put(f, mailbox, name, value) != STORE_OK)
		fail_msg("put: %d %s", f->error.status, f->error.message);
	return f->pos.modseq;
}

struct got {
	char value[4096];
	uint64_t modseq;
};

static bool get_callback(const struct store_entry *entry, void *context)
{
	struct got *got = context;

	got->modseq = entry->modseq;
	if (entry->removed) {
		assert_null(entry->value);
		assert_int_equal(entry->value_size, 0);
		strcpy(got->value, "-");
	} else {
		assert_non_null(entry->value);
		(void)snprintf(got->value, sizeof(got->value), "%.*s",
			       (int)entry->value_size,
			       (const char *)entry->value);
	}
	return true;
}

const char *get(struct fixture *f, const char *mailbox, const char *name,
		uint64_t *modseq_r)
{
	static struct got got;
	const struct store_key key = { mailbox, name };

	assert_int_equal(store_get(f->store, &key, 1, get_callback, &got,
				   &f->pos, &f->error), STORE_OK);
	if (modseq_r != NULL)
		*modseq_r = got.modseq;
	return got.value;
}

struct store_state get_state(struct fixture *f)
{
	struct store_state state;

	assert_int_equal(store_get_state(f->store, &state, &f->error),
			 STORE_OK);
	return state;
}

void must_check(struct fixture *f)
{
	if (store_check(f->store, &f->error) != STORE_OK)
		fail_msg("check: %s", f->error.message);
}

/* -- reading as text */

static const struct store_scope scope_all = { STORE_SCOPE_SUBTREE, "", '/' };
static const char *const entries_all[] = { "/private", "/shared" };
static const struct store_selection selection_all = {
	&scope_all, 1, entries_all, 2
};
const struct store_filter filter_all = {
	&selection_all, 1, STORE_DEPTH_INFINITY
};

static bool text_callback(const struct store_entry *entry, void *context)
{
	struct fixture *f = context;
	size_t size = strlen(f->text);

	size += snprintf(f->text + size, sizeof(f->text) - size, "%llu %s %s",
			 (unsigned long long)entry->modseq, entry->mailbox,
			 entry->name);
	if (entry->removed) {
		(void)snprintf(f->text + size, sizeof(f->text) - size, " -\n");
	} else {
		(void)snprintf(f->text + size, sizeof(f->text) - size,
			       "=%.*s\n", (int)entry->value_size,
			       (const char *)entry->value);
	}
	return true;
}

const char *read_text(struct fixture *f, struct store_cursor *cursor,
		      const struct store_filter *filter)
{
	const struct store_read req = { filter, UINT64_MAX, false };
	struct store_state state;
	bool more;

	f->text[0] = '\0';
	do {
		if (store_read(f->store, &req, cursor, text_callback, f,
			       &state, &more, &f->error) != STORE_OK) {
			(void)snprintf(f->text, sizeof(f->text), "status %d",
				       f->error.status);
			return f->text;
		}
	} while (more);
	assert_true(cursor->modseq == state.pos.modseq);
	f->pos = state.pos;
	return f->text;
}

const char *snapshot_text(struct fixture *f, const struct store_filter *filter)
{
	struct store_cursor cursor;

	assert_int_equal(store_cursor_snapshot(f->store, &cursor, &f->error),
			 STORE_OK);
	return read_text(f, &cursor, filter);
}

/* -- the workload */

#define WORKLOAD_SLOTS 8
#define WORKLOAD_VALUE_MAX 9000

static unsigned int workload_slot(unsigned int number)
{
	return (number * 2654435761U >> 16) % WORKLOAD_SLOTS;
}

/* Returns the size; 0: the entries are removed. */
static size_t workload_value(unsigned int number, unsigned int slot,
			     char *value)
{
	size_t i, size;

	if (number == 0 || number % 7 == 0)
		return 0;
	size = number * 40503U % WORKLOAD_VALUE_MAX + 16;
	if (number % 3 != 0)
		size = size % 100 + 16;
	(void)snprintf(value, 16, "%08x%04x", number, slot);
	for (i = 13; i < size; i++)
		value[i] = (char)(number * 31 + i);
	return size;
}

enum store_status workload_apply(struct store *store, unsigned int number,
				 struct store_error *error_r)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	char value[WORKLOAD_VALUE_MAX + 32], counter[16], a[32], b[32], m[16];
	unsigned int slot = workload_slot(number);
	size_t size = workload_value(number, slot, value);
	struct store_pos pos;

	(void)snprintf(counter, sizeof(counter), "%u", number);
	(void)snprintf(a, sizeof(a), "/private/a/%u", slot);
	(void)snprintf(b, sizeof(b), "/private/b/%u", slot);
	(void)snprintf(m, sizeof(m), "box%u", slot % 3);
	const struct store_change changes[] = {
		{ "", "/private/n", counter, strlen(counter), NULL },
		{ "", a, size == 0 ? NULL : value, size, NULL },
		{ m, b, size == 0 ? NULL : value, size, NULL },
	};
	return store_apply(store, changes, 3, &always, &pos, NULL, error_r);
}

struct workload_want {
	const char *value;
	size_t size;
	unsigned int number;
};

static bool workload_callback(const struct store_entry *entry, void *context)
{
	const struct workload_want *want = context;

	if (entry->removed != (want->size == 0) ||
	    entry->value_size != want->size ||
	    (want->size > 0 &&
	     memcmp(entry->value, want->value, want->size) != 0)) {
		fail_msg("%s %s is not as after set %u", entry->mailbox,
			 entry->name, want->number);
	}
	return true;
}

static bool workload_counter(const struct store_entry *entry, void *context)
{
	unsigned int *number = context;
	char text[16];

	*number = 0;
	if (!entry->removed) {
		(void)snprintf(text, sizeof(text), "%.*s",
			       (int)entry->value_size,
			       (const char *)entry->value);
		*number = strtoul(text, NULL, 10);
	}
	return true;
}

unsigned int workload_verify(struct store *store)
{
	static const struct store_key counter = { "", "/private/n" };
	char value[WORKLOAD_VALUE_MAX + 32], a[32], b[32], m[16];
	struct workload_want want = { value, 0, 0 };
	struct store_error error;
	struct store_pos pos;
	unsigned int number, slot, last;

	assert_int_equal(store_get(store, &counter, 1, workload_counter,
				   &number, &pos, &error), STORE_OK);
	for (slot = 0; slot < WORKLOAD_SLOTS; slot++) {
		for (last = number; last > 0; last--) {
			if (workload_slot(last) == slot)
				break;
		}
		want.size = workload_value(last, slot, value);
		want.number = last;
		(void)snprintf(a, sizeof(a), "/private/a/%u", slot);
		(void)snprintf(b, sizeof(b), "/private/b/%u", slot);
		(void)snprintf(m, sizeof(m), "box%u", slot % 3);
		const struct store_key keys[] = { { "", a }, { m, b } };

		assert_int_equal(store_get(store, keys, 2, workload_callback,
					   &want, &pos, &error), STORE_OK);
	}
	return number;
}

/* -- random numbers */

static uint32_t rnd_state = 1;

void rnd_seed(uint32_t seed)
{
	rnd_state = seed == 0 ? 1 : seed;
}

void rnd_start(void)
{
	const char *text = getenv("STORE_TEST_SEED");
	unsigned int seed = text == NULL ? (unsigned int)__real_time(NULL) :
		strtoul(text, NULL, 10);

	print_message("seed %u\n", seed);
	rnd_seed(seed);
}

/* xorshift */
uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 17;
	rnd_state ^= rnd_state << 5;
	return rnd_state % below;
}
