/* Random operations against a server in memory: local writes and sets, writes of others, catch-ups with PARTIAL and breaks, sets
   that are lost, whose answer is lost, or that arrive late, MODIFIED, RESET, purges, refusals, crashes. What must hold:

   - What the user writes is read back; at each marker, an entry without a waiting write is what the server has, and what is told as
   changed is
     exactly what looks different.
   - No line is lost: some entries are text to which both sides add lines of their own, merged by a callback that keeps both sides'
   lines. At rest
     each line that anybody has added is there.
   - Nothing is sent twice: a value of the user's is committed once, unless an answer was lost.
   - At rest both sides are the same. */

#include "replica-test.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 4000
#define TEXTS 4
#define NAMES 8
#define LINES_MAX 20000

struct line {
	unsigned int entry;
	char text[16];
	/* refused by the server: it may be missing */
	bool excused;
};

struct model {
	struct fixture *f;
	struct line *lines;
	unsigned int line_count;
	/* a request that arrives late */
	struct request late;
	bool have_late;
	bool doubtful;
	/* values of free entries, each unique; how often they were committed */
	unsigned int values, committed[LINES_MAX];
	bool uncertain[LINES_MAX];
	unsigned int sent, modified, resets, partials, conflicts, refused, lost;
};

static const char *entry_mailbox(unsigned int i)
{
	return i % 2 == 0 ? "" : "Work/\xc3\xa4";
}

static const char *entry_name(unsigned int i)
{
	static char name[8][64];

	(void)snprintf(name[i], sizeof(name[i]), BELOW "%c%u", i < TEXTS ? 't' : 'f', i);
	return name[i];
}

/* "v17", of the user */
static int value_number(const char *value)
{
	return value != NULL && value[0] == 'v' ? atoi(value + 1) : -1;
}

static void committed(void *context, const char *mailbox, const char *name, const char *value)
{
	struct model *m = context;
	int number = value_number(value);

	(void)mailbox;
	(void)name;
	if (number >= 0)
		m->committed[number]++;
}

static void add_line(struct model *m, unsigned int entry, char *text_r, size_t size)
{
	assert_true(m->line_count < LINES_MAX);
	m->lines[m->line_count].entry = entry;
	(void)snprintf(m->lines[m->line_count].text, sizeof(m->lines[0].text), "l%u\n", m->line_count);
	(void)snprintf(text_r, size, "%s", m->lines[m->line_count].text);
	m->line_count++;
}

static bool has_line(const char *text, const char *line)
{
	const char *found = text == NULL ? NULL : strstr(text, line);

	return found != NULL && (found == text || found[-1] == '\n');
}

/* Both sides' lines. Free entries: mine. */
static void resolve(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	static char text[400000];
	struct model *m = context;
	const char *p = conflict->mine.data, *end;
	char line[16];

	m->conflicts++;
	/* the callback may use the replica */
	if (rnd(4) == 0)
		(void)get(m->f->replica, "", BELOW "t0");
	if (conflict->name[strlen(BELOW)] != 't') {
		resolution->rule = rnd(2) == 0 ? DOVETAIL_RULE_MINE : DOVETAIL_RULE_SERVER;
		return;
	}
	text[0] = '\0';
	if (conflict->theirs.data != NULL)
		strcpy(text, conflict->theirs.data);
	for (; p != NULL && *p != '\0'; p = end) {
		end = strchr(p, '\n') + 1;
		(void)snprintf(line, sizeof(line), "%.*s", (int)(end - p), p);
		if (!has_line(text, line))
			strcat(text, line);
	}
	resolution->rule = DOVETAIL_RULE_VALUE;
	resolution->data = text;
	resolution->size = strlen(text);
}

/* -- what both sides do */

static void text_append(const char *old, const char *line, char *text_r, size_t size)
{
	/* in front or behind */
	if (rnd(2) == 0)
		(void)snprintf(text_r, size, "%s%s", old, line);
	else
		(void)snprintf(text_r, size, "%s%s", line, old);
}

static void local_write(struct model *m)
{
	static char texts[NAMES][200000];
	const char *values[NAMES] = { NULL };
	struct dovetail_changes *changes;
	unsigned int i, count = rnd(3) == 0 ? 1 + rnd(3) : 1, n;
	bool picked[NAMES] = { false };
	char line[16];

	must(m->f->replica, dovetail_changes_begin(m->f->replica, &changes));
	for (n = 0; n < count; n++) {
		i = rnd(NAMES);
		if (picked[i])
			continue;
		picked[i] = true;
		values[i] = get(m->f->replica, entry_mailbox(i), entry_name(i));
		if (i < TEXTS) {
			add_line(m, i, line, sizeof(line));
			text_append(strcmp(values[i], "-") == 0 ? "" : values[i], line, texts[i], sizeof(texts[i]));
			values[i] = texts[i];
		} else if (rnd(4) == 0) {
			values[i] = NULL;
		} else {
			(void)snprintf(texts[i], sizeof(texts[i]), "v%u", m->values++);
			values[i] = texts[i];
		}
		must(m->f->replica, dovetail_changes_add(changes, entry_mailbox(i), entry_name(i), values[i],
							 values[i] == NULL ? 0 : strlen(values[i])));
	}
	must(m->f->replica, dovetail_changes_commit(changes));
	for (i = 0; i < NAMES; i++) {
		if (picked[i])
			assert_string_equal(get(m->f->replica, entry_mailbox(i), entry_name(i)), values[i] == NULL ? "-" :
					    values[i]);
	}
}

static void other_write(struct model *m)
{
	static char text[400000];
	unsigned int i = rnd(NAMES);
	struct server_entry *entry = server_find(&m->f->server, entry_mailbox(i), entry_name(i));
	char line[16], value[16];

	if (i < TEXTS) {
		add_line(m, i, line, sizeof(line));
		text_append(entry == NULL || entry->value == NULL ? "" : entry->value, line, text, sizeof(text));
		server_put(&m->f->server, entry_mailbox(i), entry_name(i), text);
	} else {
		(void)snprintf(value, sizeof(value), "o%u", rnd(1000000));
		server_put(&m->f->server, entry_mailbox(i), entry_name(i), rnd(4) == 0 ? NULL : value);
	}
}

/* A backup was restored, so to speak: the values stay */
static void new_epoch(struct model *m)
{
	m->f->server.epoch += 1 + rnd(5);
	m->f->server.modseq = 1 + rnd(m->f->server.modseq + 20);
	m->f->server.floor = 0;
	for (unsigned int i = 0; i < m->f->server.count; i++)
		m->f->server.entries[i].modseq = 1 + rnd(m->f->server.modseq);
	m->resets++;
}

static void purge(struct model *m)
{
	/* not the removed ones' rows: what is below the floor gives RESET */
	m->f->server.floor = m->f->server.modseq - rnd(m->f->server.modseq / 4 + 1);
}

/* -- catching up */

static void view_copy(struct model *m, char **views)
{
	for (unsigned int i = 0; i < NAMES; i++)
		views[i] = strdup(get(m->f->replica, entry_mailbox(i), entry_name(i)));
}

/* Told is what looks different, with its value. */
static void check_changed(struct model *m, char **before)
{
	struct dovetail_entry entry;
	bool told[NAMES] = { false };
	unsigned int i;

	while (replica_changed_next(m->f->replica, &entry) == DOVETAIL_OK) {
		for (i = 0; i < NAMES - 1 && strcmp(entry.name, entry_name(i)) != 0; i++) ;
		assert_string_equal(entry.name, entry_name(i));
		assert_false(told[i]);
		told[i] = true;
		assert_string_equal(entry.data == NULL ? "-" : entry.data, get(m->f->replica, entry_mailbox(i), entry_name(i)));
	}
	for (i = 0; i < NAMES; i++) {
		if (told[i] != (strcmp(before[i], get(m->f->replica, entry_mailbox(i), entry_name(i))) != 0))
			fail_msg("%s: told %d, \"%s\" before, now \"%s\"", entry_name(i), told[i], before[i],
				 get(m->f->replica, entry_mailbox(i), entry_name(i)));
		free(before[i]);
	}
}

static void check_marker(struct model *m)
{
	struct server_entry *entry;
	struct dovetail_entry shown;
	unsigned int i;

	for (i = 0; i < NAMES; i++) {
		entry = server_find(&m->f->server, entry_mailbox(i), entry_name(i));
		if (dovetail_get(m->f->replica, entry_mailbox(i), entry_name(i), &shown) != DOVETAIL_OK)
			assert_true(entry == NULL || entry->value == NULL || replica_queue_count(m->f->replica) > 0);
		else if ((shown.flags & DOVETAIL_ENTRY_PENDING) == 0) {
			assert_true(entry != NULL && entry->value != NULL);
			assert_string_equal(shown.data, entry->value);
		}
	}
}

static bool catch_up(struct model *m)
{
	char mark[64], *before[NAMES];
	bool reset;

	if (!server_stage(&m->f->server, m->f->replica, rnd(3) == 0 ? 1 + rnd(3) : 0, rnd(4) == 0 ? 1 + rnd(6) : 0, mark)) {
		m->partials++;
		/* the connection is lost, or the process has ended */
		if (rnd(3) == 0) {
			reopen(m->f);
			must(m->f->replica, replica_sync_begin(m->f->replica));
		} else {
			must(m->f->replica, replica_stage_drop(m->f->replica));
		}
		return false;
	}
	view_copy(m, before);
	must(m->f->replica, replica_stage_consistent(m->f->replica, mark, 0, &reset));
	check_marker(m);
	check_changed(m, before);
	return true;
}

/* -- sending */

static void excuse(struct model *m, const struct request *request)
{
	unsigned int i, j, k;

	for (i = 0; i < request->count; i++) {
		for (j = 0; j < TEXTS; j++) {
			if (strcmp(entry_name(j), request->writes[i].name) != 0)
				continue;
			for (k = 0; k < m->line_count; k++) {
				if (m->lines[k].entry == j && has_line(request->writes[i].value, m->lines[k].text))
					m->lines[k].excused = true;
			}
		}
	}
}

/* It may be committed once more */
static void doubt(struct model *m, const struct request *request)
{
	for (unsigned int i = 0; i < request->count; i++) {
		int number = value_number(request->writes[i].value);

		if (number >= 0)
			m->uncertain[number] = true;
	}
}

/* false: the connection is gone */
static bool send_set(struct model *m, struct request *request)
{
	struct replica_theirs theirs[100];
	unsigned int chance = rnd(20);

	m->sent++;
	if (chance == 0 && m->late.count == 0) {
		/* it waits in a socket's buffer somewhere */
		doubt(m, request);
		m->late = *request;
		memset(request, 0, sizeof(*request));
		must(m->f->replica, replica_queue_again(m->f->replica, m->late.id));
		m->lost++;
		return false;
	}
	if (chance == 1) {
		must(m->f->replica, replica_queue_refused(m->f->replica, request->id, "no"));
		excuse(m, request);
		m->refused++;
		return true;
	}
	switch (server_apply(&m->f->server, request)) {
	case ANSWER_OK:
		if (chance == 2 || chance == 3) {
			doubt(m, request);
			m->lost++;
			if (chance == 2) {
				must(m->f->replica, replica_queue_again(m->f->replica, request->id));
			} else {
				reopen(m->f);
				must(m->f->replica, replica_sync_begin(m->f->replica));
			}
			return false;
		}
		must(m->f->replica, replica_queue_done(m->f->replica, request->id, server_pos(&m->f->server)));
		break;
	case ANSWER_MODIFIED:
		m->modified++;
		must(m->f->replica, replica_queue_modified(m->f->replica, request->id, server_pos(&m->f->server), theirs,
							   server_theirs(&m->f->server, request, theirs)));
		break;
	case ANSWER_RESET:
		must(m->f->replica, replica_queue_again(m->f->replica, request->id));
		break;
	}
	return true;
}

static void send_some(struct model *m, unsigned int max)
{
	struct replica_set set;
	struct request request;
	char *before[NAMES];
	bool alive = true;

	while (max-- > 0 && alive) {
		view_copy(m, before);
		if (replica_queue_next(m->f->replica, 0, DOVETAIL_RULE_LINES, resolve, m, &set) != DOVETAIL_OK) {
			check_changed(m, before);
			return;
		}
		request_set(&request, &set);
		check_changed(m, before);
		/* the user goes on writing, others too */
		if (rnd(3) == 0)
			local_write(m);
		if (rnd(4) == 0)
			other_write(m);
		view_copy(m, before);
		alive = send_set(m, &request);
		request_free(&request);
		check_changed(m, before);
	}
}

static void late_arrives(struct model *m)
{
	if (m->late.count > 0)
		(void)server_apply(&m->f->server, &m->late);
	request_free(&m->late);
}

/* -- at rest */

static void check_rest(struct model *m)
{
	struct server_entry *entry;
	unsigned int i, missing = 0;

	late_arrives(m);
	server_sync(m->f, DOVETAIL_RULE_LINES, resolve, m);
	(void)changed(m->f);
	for (i = 0; i < NAMES; i++) {
		entry = server_find(&m->f->server, entry_mailbox(i), entry_name(i));
		assert_string_equal(get(m->f->replica, entry_mailbox(i), entry_name(i)),
				    entry == NULL || entry->value == NULL ? "-" : entry->value);
	}
	for (i = 0; i < m->line_count; i++) {
		if (m->lines[i].excused)
			continue;
		entry = server_find(&m->f->server, entry_mailbox(m->lines[i].entry), entry_name(m->lines[i].entry));
		if (entry == NULL || !has_line(entry->value, m->lines[i].text)) {
			print_error("line %s of %s is lost\n", m->lines[i].text, entry_name(m->lines[i].entry));
			missing++;
		}
	}
	assert_int_equal(missing, 0);
	for (i = 0; i < m->values; i++)
		assert_true(m->committed[i] <= 1 || m->uncertain[i]);
}

static void test_model(void **state)
{
	struct model *m = calloc(1, sizeof(*m));
	struct fixture *f = *state;
	unsigned int step;

	rnd_start();
	m->f = f;
	m->lines = calloc(LINES_MAX, sizeof(*m->lines));
	f->server.committed = committed;
	f->server.context = m;
	must(f->replica, replica_sync_begin(f->replica));
	for (step = 0; step < STEPS; step++) {
		switch (rnd(16)) {
		case 0: case 1: case 2: case 3:
			local_write(m);
			break;
		case 4: case 5: case 6:
			other_write(m);
			break;
		case 7: case 8: case 9: case 10:
			(void)catch_up(m);
			break;
		case 11: case 12: case 13:
			send_some(m, 1 + rnd(5));
			break;
		case 14:
			late_arrives(m);
			break;
		case 15:
			switch (rnd(12)) {
			case 0:
				new_epoch(m);
				break;
			case 1:
				purge(m);
				break;
			case 2:
				reopen(f);
				must(f->replica, replica_sync_begin(f->replica));
				break;
			case 3:
				check_rest(m);
				break;
			}
			break;
		}
	}
	check_rest(m);
	print_message("%u sets given out, %u MODIFIED, %u lost answers or sets, %u new epochs, %u broken catch-ups, %u conflicts,"
		      " %u refused\n", m->sent, m->modified, m->lost, m->resets, m->partials, m->conflicts, m->refused);
	free(m->lines);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_model, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
