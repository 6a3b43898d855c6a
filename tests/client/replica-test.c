/* See replica-test.h. */

#include "replica-test.h"

#include <sqlite3.h>

#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* -- the fixture */

void make_base(char *base, size_t size)
{
	const char *tmp = getenv("TMPDIR");
	char *real, path[200];

	(void)snprintf(path, sizeof(path), "%s/replica-test-XXXXXX", tmp == NULL ? "/tmp" : tmp);
	assert_non_null(mkdtemp(path));
	real = realpath(path, NULL);
	assert_non_null(real);
	(void)snprintf(base, size, "%s", real);
	free(real);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
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

struct dovetail *must_open(const char *path, unsigned int flags)
{
	struct dovetail *replica;
	char *error;

	if (dovetail_open(path, flags, &replica, &error) != DOVETAIL_OK)
		fail_msg("open: %s", error);
	return replica;
}

void set_parts(struct dovetail *replica)
{
	const struct dovetail_part parts[] = {
		{ DOVETAIL_SCOPE_MAILBOX, "", "/private/vendor/example" },
		{ DOVETAIL_SCOPE_PERSONAL, NULL, "/private/vendor/example" }
	};

	must(replica, dovetail_set_parts(replica, parts, 2));
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	make_base(f->base, sizeof(f->base));
	(void)snprintf(f->path, sizeof(f->path), "%s/replica", f->base);
	f->replica = must_open(f->path, DOVETAIL_OPEN_CREATE);
	set_parts(f->replica);
	server_init(&f->server, 7);
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	dovetail_close(f->replica);
	server_free(&f->server);
	remove_base(f->base);
	free(f);
	return 0;
}

void reopen(struct fixture *f)
{
	dovetail_close(f->replica);
	f->replica = must_open(f->path, 0);
}

void sql(const struct fixture *f, const char *text)
{
	char *message = NULL;
	sqlite3 *db;

	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", text, message);
	sqlite3_close(db);
}

void must_at(struct dovetail *replica, enum dovetail_status status, const char *file, int line)
{
	if (status != DOVETAIL_OK) {
		print_error("%s: %s\n", dovetail_status_name(status), dovetail_error(replica));
		_assert_int_equal(status, DOVETAIL_OK, file, line);
	}
}

void expect_at(struct dovetail *replica, enum dovetail_status status, enum dovetail_status expected, const char *text,
	       const char *file, int line)
{
	if (status != expected || strstr(dovetail_error(replica), text) == NULL) {
		print_error("%s: %s\n", dovetail_status_name(status), dovetail_error(replica));
		_assert_int_equal(status, expected, file, line);
		_assert_true(0, text, file, line);
	}
}

/* -- short words */

const char *get(struct dovetail *replica, const char *mailbox, const char *name)
{
	enum dovetail_status status;
	struct dovetail_entry entry;

	status = dovetail_get(replica, mailbox, name, &entry);
	if (status == DOVETAIL_NOT_FOUND)
		return "-";
	must(replica, status);
	if (entry.data == NULL)
		return "?";
	assert_int_equal(strlen(entry.data), entry.size);
	return entry.data;
}

unsigned int get_flags(struct dovetail *replica, const char *mailbox, const char *name)
{
	struct dovetail_entry entry;

	must(replica, dovetail_get(replica, mailbox, name, &entry));
	return entry.flags;
}

void put(struct dovetail *replica, const char *mailbox, const char *name, const char *value)
{
	if (value != NULL)
		must(replica, dovetail_set(replica, mailbox, name, value, strlen(value)));
	else
		must(replica, dovetail_unset(replica, mailbox, name));
}

const char *changed(struct fixture *f)
{
	struct dovetail_entry entry;
	enum dovetail_status status;
	size_t size = 0;

	f->text[0] = '\0';
	while ((status = replica_changed_next(f->replica, &entry)) == DOVETAIL_OK) {
		size += snprintf(f->text + size, sizeof(f->text) - size, "%s %s=%s;", entry.mailbox,
				 strncmp(entry.name, BELOW, strlen(BELOW)) == 0 ? entry.name + strlen(BELOW) : entry.name,
				 entry.data != NULL ? (const char *)entry.data : entry.flags != 0 ? "?" : "-");
		assert_true(size < sizeof(f->text));
	}
	assert_int_equal(status, DOVETAIL_NOT_FOUND);
	return f->text;
}

/* -- what goes and comes */

enum dovetail_status queue_next(struct fixture *f, struct replica_set *set)
{
	return replica_queue_next(f->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, set);
}

int64_t next_is(struct fixture *f, const char *name, const char *value, const char *condition)
{
	struct replica_set set;

	must(f->replica, queue_next(f, &set));
	assert_int_equal(set.count, 1);
	assert_string_equal(set.writes[0].name, name);
	if (value == NULL) {
		assert_null(set.writes[0].data);
	} else {
		assert_int_equal(set.writes[0].size, strlen(value));
		assert_memory_equal(set.writes[0].data, value, strlen(value));
	}
	assert_string_equal(set.unchanged_since, condition);
	return set.id;
}

void stage(struct fixture *f, const char *name, const char *value)
{
	must(f->replica, replica_stage(f->replica, "", name, value == NULL ? REPLICA_REMOVED : REPLICA_VALUE, value,
				       value == NULL ? 0 : strlen(value)));
}

void consistent(struct fixture *f, const char *mark, bool reset)
{
	bool was_reset;

	must(f->replica, replica_stage_consistent(f->replica, mark, 0, &was_reset));
	assert_int_equal(was_reset, reset);
}

/* -- the server */

void server_init(struct server *server, uint32_t epoch)
{
	memset(server, 0, sizeof(*server));
	server->epoch = epoch;
	server->modseq = 1;
}

void server_free(struct server *server)
{
	unsigned int i;

	for (i = 0; i < server->count; i++) {
		free(server->entries[i].mailbox);
		free(server->entries[i].name);
		free(server->entries[i].value);
	}
}

struct server_entry *server_find(struct server *server, const char *mailbox, const char *name)
{
	unsigned int i;

	for (i = 0; i < server->count; i++) {
		if (strcmp(server->entries[i].mailbox, mailbox) == 0 && strcmp(server->entries[i].name, name) == 0)
			return &server->entries[i];
	}
	return NULL;
}

static bool entry_change(struct server *server, const char *mailbox, const char *name, const char *value)
{
	struct server_entry *entry = server_find(server, mailbox, name);

	if (entry == NULL) {
		if (value == NULL)
			return false;
		assert_true(server->count < SERVER_ENTRIES);
		entry = &server->entries[server->count++];
		entry->mailbox = strdup(mailbox);
		entry->name = strdup(name);
	}
	if (value == NULL ? entry->value == NULL : entry->value != NULL && strcmp(entry->value, value) == 0)
		return false;
	free(entry->value);
	entry->value = value == NULL ? NULL : strdup(value);
	entry->modseq = server->modseq + 1;
	if (server->committed != NULL)
		server->committed(server->context, mailbox, name, value);
	return true;
}

void server_put(struct server *server, const char *mailbox, const char *name, const char *value)
{
	if (entry_change(server, mailbox, name, value))
		server->modseq++;
}

const char *server_pos(const struct server *server)
{
	static char text[64];

	(void)snprintf(text, sizeof(text), "(%" PRIu32 " %" PRIu64 ")", server->epoch, server->modseq);
	return text;
}

static bool entry_lost(struct server *server, const struct request *request, unsigned int i, uint64_t modseq)
{
	struct server_entry *entry = server_find(server, request->writes[i].mailbox, request->writes[i].name);

	return entry == NULL ? modseq < server->floor : entry->modseq > modseq;
}

enum answer server_apply(struct server *server, const struct request *request)
{
	uint64_t modseq;
	uint32_t epoch;
	unsigned int i;
	bool any = false;

	if (request->condition[0] != '\0') {
		assert_int_equal(sscanf(request->condition, "(%" SCNu32 " %" SCNu64 ")", &epoch, &modseq), 2);
		if (epoch != server->epoch || modseq > server->modseq)
			return ANSWER_RESET;
		for (i = 0; i < request->count; i++) {
			if (entry_lost(server, request, i, modseq))
				return ANSWER_MODIFIED;
		}
	}
	for (i = 0; i < request->count; i++) {
		if (entry_change(server, request->writes[i].mailbox, request->writes[i].name, request->writes[i].value))
			any = true;
	}
	if (any)
		server->modseq++;
	return ANSWER_OK;
}

void request_set(struct request *request, const struct replica_set *set)
{
	unsigned int i;

	memset(request, 0, sizeof(*request));
	request->id = set->id;
	(void)snprintf(request->condition, sizeof(request->condition), "%s", set->unchanged_since);
	assert_true(set->count >= 1 && set->count <= 100);
	request->count = set->count;
	for (i = 0; i < set->count; i++) {
		request->writes[i].mailbox = strdup(set->writes[i].mailbox);
		request->writes[i].name = strdup(set->writes[i].name);
		if (set->writes[i].data != NULL)
			request->writes[i].value = strndup(set->writes[i].data, set->writes[i].size);
	}
}

void request_free(struct request *request)
{
	unsigned int i;

	for (i = 0; i < request->count; i++) {
		free(request->writes[i].mailbox);
		free(request->writes[i].name);
		free(request->writes[i].value);
	}
	memset(request, 0, sizeof(*request));
}

unsigned int server_theirs(struct server *server, const struct request *request, struct replica_theirs *theirs)
{
	struct server_entry *entry;
	unsigned int i, count = 0;
	uint64_t modseq;
	uint32_t epoch;

	assert_int_equal(sscanf(request->condition, "(%" SCNu32 " %" SCNu64 ")", &epoch, &modseq), 2);
	for (i = 0; i < request->count; i++) {
		if (!entry_lost(server, request, i, modseq))
			continue;
		entry = server_find(server, request->writes[i].mailbox, request->writes[i].name);
		memset(&theirs[count], 0, sizeof(theirs[count]));
		theirs[count].mailbox = request->writes[i].mailbox;
		theirs[count].name = request->writes[i].name;
		theirs[count].kind = entry == NULL || entry->value == NULL ? REPLICA_REMOVED : REPLICA_VALUE;
		if (theirs[count].kind == REPLICA_VALUE) {
			theirs[count].data = entry->value;
			theirs[count].size = strlen(entry->value);
		}
		count++;
	}
	return count;
}

/* The entry with the next modseq after this one; of a set, in the order of the table */
static struct server_entry *server_after(struct server *server, uint64_t modseq, const struct server_entry *last)
{
	struct server_entry *found = NULL, *entry;
	unsigned int i;

	for (i = 0; i < server->count; i++) {
		entry = &server->entries[i];
		if ((entry->modseq > modseq || (entry->modseq == modseq && last != NULL && entry > last)) &&
		    (found == NULL || entry->modseq < found->modseq))
			found = entry;
	}
	return found;
}

bool server_stage(struct server *server, struct dovetail *replica, unsigned int partial, unsigned int stop, char mark_r[64])
{
	const char *mark, *partial_mark;
	struct server_entry *entry = NULL;
	uint64_t since = 0, from = 0;
	bool snapshot = true;
	unsigned int sent = 0;
	uint32_t epoch;

	must(replica, replica_get_mark(replica, &mark, &partial_mark));
	if (*partial_mark != '\0')
		mark = partial_mark;
	if (*mark != '\0') {
		assert_int_equal(sscanf(mark, "(%" SCNu32 " %" SCNu64, &epoch, &since), 2);
		snapshot = epoch != server->epoch || since < server->floor || since > server->modseq;
	}
	/* Of a snapshot that was interrupted there is more to come, or it begins anew */
	if (snapshot) {
		since = 0;
		must(replica, replica_stage_snapshot(replica));
	}
	from = since;
	while ((entry = server_after(server, from, entry)) != NULL) {
		from = entry->modseq;
		if (entry->value == NULL && snapshot)
			continue;
		if (stop > 0 && sent == stop)
			return false;
		must(replica, replica_stage(replica, entry->mailbox, entry->name, entry->value == NULL ? REPLICA_REMOVED :
					    REPLICA_VALUE, entry->value, entry->value == NULL ? 0 : strlen(entry->value)));
		/* only between sets */
		if (partial > 0 && ++sent % partial == 0) {
			struct server_entry *next = server_after(server, from, entry);

			if (next != NULL && next->modseq != from) {
				(void)snprintf(mark_r, 64, "(%" PRIu32 " %" PRIu64 " 0f)", server->epoch, from);
				must(replica, replica_stage_partial(replica, mark_r));
			}
		} else if (partial == 0) {
			sent++;
		}
	}
	(void)snprintf(mark_r, 64, "(%" PRIu32 " %" PRIu64 " 0f)", server->epoch, server->modseq);
	return true;
}

void server_catch_up(struct fixture *f)
{
	char mark[64];
	bool reset;

	assert_true(server_stage(&f->server, f->replica, 0, 0, mark));
	must(f->replica, replica_stage_consistent(f->replica, mark, 0, &reset));
}

void server_sync(struct fixture *f, enum dovetail_rule rule, replica_resolve_t *resolve, void *context)
{
	struct replica_theirs theirs[100];
	struct request request;
	struct replica_set set;
	unsigned int rounds;

	for (rounds = 0; rounds == 0 || replica_queue_count(f->replica) > 0; rounds++) {
		assert_true(rounds < 1000);
		server_catch_up(f);
		while (replica_queue_next(f->replica, 0, rule, resolve, context, &set) == DOVETAIL_OK) {
			request_set(&request, &set);
			switch (server_apply(&f->server, &request)) {
			case ANSWER_OK:
				must(f->replica, replica_queue_done(f->replica, set.id, server_pos(&f->server)));
				break;
			case ANSWER_MODIFIED:
				must(f->replica, replica_queue_modified(f->replica, set.id, server_pos(&f->server), theirs,
									server_theirs(&f->server, &request, theirs)));
				break;
			case ANSWER_RESET:
				must(f->replica, replica_queue_again(f->replica, set.id));
				break;
			}
			request_free(&request);
		}
	}
	server_catch_up(f);
}

/* -- chance */

static uint64_t rnd_state;

void rnd_start(void)
{
	const char *seed = getenv("DOVETAIL_SEED");

	rnd_state = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
	print_message("DOVETAIL_SEED=%" PRIu64 "\n", rnd_state);
}

unsigned int rnd(unsigned int below)
{
	/* splitmix64 */
	uint64_t z = (rnd_state += 0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % below;
}
