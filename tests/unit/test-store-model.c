/* Random histories against a model that is too simple to be wrong: a table of
   what each entry is and when it changed. After each step the positions, the
   statuses and the losers must be the model's; a reader's view must be the
   model's whenever the store says that it is consistent, at any speed, with any
   filter, through resets, purges, new epochs and reopening. Two handles on the
   store take turns. */

#include "store-test.h"

#include <string.h>
#include <time.h>

#define STEPS 60000
#define READERS 4

static const char *const boxes[] = { "", "INBOX", "a", "a/b", "ab" };
static const char *const names[] = {
	"/private/x", "/private/x/y", "/private/xy", "/shared/z"
};
#define BOXES (sizeof(boxes) / sizeof(boxes[0]))
#define NAMES (sizeof(names) / sizeof(names[0]))

/* What the readers watch, and, by hand, which cells that is. */
static const struct store_scope scope_a = { STORE_SCOPE_MAILBOX, "a", '/' };
static const struct store_scope scope_below_a = {
	STORE_SCOPE_SUBTREE, "a", '/'
};
static const struct store_scope scope_personal = {
	STORE_SCOPE_PERSONAL, NULL, '/'
};
static const struct store_scope scope_server = {
	STORE_SCOPE_SERVER, NULL, '/'
};
static const char *const entry_x = "/private/x", *const entry_private =
	"/private", *const entry_shared = "/shared";
static const struct store_selection select_a = { &scope_a, 1, &entry_x, 1 };
static const struct store_selection select_below_a = {
	&scope_below_a, 1, &entry_private, 1
};
static const struct store_selection select_two[] = {
	{ &scope_personal, 1, &entry_x, 1 },
	{ &scope_server, 1, &entry_shared, 1 },
};
static const struct store_filter filter_a = { &select_a, 1, STORE_DEPTH_0 };
static const struct store_filter filter_below_a = {
	&select_below_a, 1, STORE_DEPTH_INFINITY
};
static const struct store_filter filter_two = { select_two, 2, STORE_DEPTH_1 };

static const struct watch {
	const struct store_filter *filter;
	bool sees[BOXES][NAMES];
} watches[READERS] = {
	{ &filter_all, { { 1, 1, 1, 1 }, { 1, 1, 1, 1 }, { 1, 1, 1, 1 },
			 { 1, 1, 1, 1 }, { 1, 1, 1, 1 } } },
	{ &filter_a, { { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 1, 0, 0, 0 },
		       { 0, 0, 0, 0 }, { 0, 0, 0, 0 } } },
	{ &filter_below_a, { { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 1, 1, 1, 0 },
			     { 1, 1, 1, 0 }, { 0, 0, 0, 0 } } },
	{ &filter_two, { { 0, 0, 0, 1 }, { 1, 1, 0, 0 }, { 1, 1, 0, 0 },
			 { 1, 1, 0, 0 }, { 1, 1, 0, 0 } } },
};

struct cell {
	bool row, live;
	unsigned int value;
	uint64_t modseq;
};

struct model {
	struct cell cells[BOXES][NAMES];
	uint64_t modseq, floor;
	uint32_t epoch;
};

struct view {
	bool live[BOXES][NAMES];
	unsigned int value[BOXES][NAMES];
};

struct reader {
	const struct watch *watch;
	struct store_cursor cursor;
	struct view view;
	unsigned int left;	/* entries until it stops */
	struct store_pos mark;	/* of its last consistent state */
	unsigned int consistent;
};

static void locate(const char *mailbox, const char *name, size_t *box_r,
		   size_t *name_r)
{
	for (*box_r = 0; strcmp(boxes[*box_r], mailbox) != 0; (*box_r)++)
		assert_true(*box_r + 1 < BOXES);
	for (*name_r = 0; strcmp(names[*name_r], name) != 0; (*name_r)++)
		assert_true(*name_r + 1 < NAMES);
}

/* -- change sets ----------------------------------------------------------- */

static bool model_is_lost(const struct model *m, const struct cell *cell,
			  const struct store_condition *condition)
{
	switch (condition->type) {
	case STORE_UNCONDITIONAL:
		return false;
	case STORE_IF_ABSENT:
		return cell->live;
	case STORE_IF_UNCHANGED_SINCE:
		return cell->row ? cell->modseq > condition->pos.modseq :
			condition->pos.modseq < m->floor;
	case STORE_IF_FILTER_UNCHANGED_SINCE:
		/* not about single entries */
		return false;
	}
	return false;
}

/* Returns what a condition on a filter is about, else NULL. */
static const struct watch *
random_condition(const struct model *m, struct store_condition *condition)
{
	const struct watch *watch = NULL;

	memset(condition, 0, sizeof(*condition));
	condition->type = rnd(4);
	if (condition->type == STORE_IF_FILTER_UNCHANGED_SINCE) {
		watch = &watches[rnd(READERS)];
		condition->filter = watch->filter;
	}
	condition->pos.epoch = rnd(30) == 0 ? m->epoch + 1 : m->epoch;
	/* mostly recent; never beyond the store, which would be a new epoch */
	condition->pos.modseq = m->modseq - rnd(m->modseq < 12 ? m->modseq : 12);
	return watch;
}

static bool model_has_changed(const struct model *m, const struct watch *watch,
			      uint64_t modseq)
{
	size_t i;

	for (i = 0; i < BOXES * NAMES; i++) {
		const struct cell *cell = &m->cells[i / NAMES][i % NAMES];

		if (watch->sees[i / NAMES][i % NAMES] && cell->row &&
		    cell->modseq > modseq)
			return true;
	}
	return modseq < m->floor;
}

static void step_apply(struct fixture *f, struct model *m)
{
	struct store_change changes[4];
	struct cell *cells[4];
	unsigned int values[4];
	bool lost[4], expect_lost[4], any_lost = false, changed = false;
	struct store_condition condition;
	const struct watch *watch;
	enum store_status expected = STORE_OK;
	struct store_pos pos;
	size_t count = 1 + rnd(4), i, first = rnd(BOXES * NAMES);

	watch = random_condition(m, &condition);
	memset(changes, 0, sizeof(changes));
	for (i = 0; i < count; i++) {
		/* all different: 7 has no factor in common with their number */
		size_t at = (first + i * 7) % (BOXES * NAMES);

		cells[i] = &m->cells[at / NAMES][at % NAMES];
		values[i] = rnd(3);
		changes[i].mailbox = boxes[at / NAMES];
		changes[i].name = names[at % NAMES];
		if (rnd(3) != 0) {
			changes[i].value = &values[i];
			changes[i].value_size = sizeof(values[i]);
		}
		expect_lost[i] = model_is_lost(m, cells[i], &condition);
		any_lost = any_lost || expect_lost[i];
	}
	if ((condition.type == STORE_IF_UNCHANGED_SINCE || watch != NULL) &&
	    condition.pos.epoch != m->epoch)
		expected = STORE_RESET;
	else if (any_lost || (watch != NULL &&
		 model_has_changed(m, watch, condition.pos.modseq)))
		expected = STORE_MODIFIED;

	assert_int_equal(store_apply(f->store, changes, count, &condition,
				     &pos, lost, &f->error), expected);
	if (expected == STORE_MODIFIED)
		assert_memory_equal(lost, expect_lost, count * sizeof(*lost));
	if (expected == STORE_OK) {
		for (i = 0; i < count; i++) {
			bool live = changes[i].value != NULL;

			if (live == cells[i]->live &&
			    (!live || values[i] == cells[i]->value))
				continue;
			changed = true;
			cells[i]->row = true;
			cells[i]->live = live;
			cells[i]->value = values[i];
			cells[i]->modseq = m->modseq + 1;
		}
		if (changed)
			m->modseq++;
		assert_int_equal(pos.modseq, m->modseq);
		assert_int_equal(pos.epoch, m->epoch);
	}
}

/* -- mailboxes ------------------------------------------------------------- */

static void model_remove(struct model *m, size_t box, bool *changed)
{
	size_t i;

	for (i = 0; i < NAMES; i++) {
		if (!m->cells[box][i].live)
			continue;
		m->cells[box][i].live = false;
		m->cells[box][i].modseq = m->modseq + 1;
		*changed = true;
	}
}

static void step_delete(struct fixture *f, struct model *m)
{
	size_t box = 1 + rnd(BOXES - 1);
	bool changed = false;
	struct store_pos pos;

	model_remove(m, box, &changed);
	m->modseq += changed;
	assert_int_equal(store_delete_mailbox(f->store, boxes[box], NULL, &pos,
					      &f->error), STORE_OK);
	assert_int_equal(pos.modseq, m->modseq);
}

/* "ab" to "INBOX" and back: mailboxes without children here. What the target
   had and the source has not is removed. */
static void step_rename(struct fixture *f, struct model *m)
{
	size_t from = rnd(2) == 0 ? 1 : 4, to = 5 - from, i;
	bool changed = false;
	struct store_pos pos;

	for (i = 0; i < NAMES; i++)
		changed = changed || m->cells[from][i].live;
	if (changed) {
		for (i = 0; i < NAMES; i++) {
			struct cell *source = &m->cells[from][i];
			struct cell *target = &m->cells[to][i];

			if (!source->live && !target->live)
				continue;
			target->row = true;
			target->modseq = m->modseq + 1;
			target->value = source->value;
			target->live = source->live;
			if (source->live) {
				source->live = false;
				source->modseq = m->modseq + 1;
			}
		}
	}
	m->modseq += changed;
	assert_int_equal(store_rename_mailbox(f->store, boxes[from], boxes[to],
					      '/', &pos, &f->error), STORE_OK);
	assert_int_equal(pos.modseq, m->modseq);
}

/* The same two as one mailbox with two names. */
static void step_merge(struct fixture *f, struct model *m)
{
	size_t from = rnd(2) == 0 ? 1 : 4, to = 5 - from, i;
	bool changed = false;
	struct store_pos pos;

	for (i = 0; i < NAMES; i++) {
		struct cell *source = &m->cells[from][i];
		struct cell *target = &m->cells[to][i];

		if (!source->live)
			continue;
		changed = true;
		if (!target->row || source->modseq >= target->modseq) {
			*target = *source;
			target->modseq = m->modseq + 1;
		}
		source->live = false;
		source->modseq = m->modseq + 1;
	}
	m->modseq += changed;
	assert_int_equal(store_merge_mailbox(f->store, boxes[from], boxes[to],
					     &pos, &f->error), STORE_OK);
	assert_int_equal(pos.modseq, m->modseq);
}

static void step_purge(struct fixture *f, struct model *m)
{
	uint64_t purged, expected = 0;
	size_t i;

	/* all removals are old enough then */
	for (i = 0; i < BOXES * NAMES; i++) {
		struct cell *cell = &m->cells[i / NAMES][i % NAMES];

		if (!cell->row || cell->live)
			continue;
		cell->row = false;
		expected++;
		if (cell->modseq > m->floor)
			m->floor = cell->modseq;
	}
	assert_int_equal(store_purge(f->store, time(NULL) + 2 *
				     (int64_t)f->set.tombstone_secs, &purged,
				     &f->error), STORE_OK);
	assert_int_equal(purged, expected);
	assert_int_equal(get_state(f).floor, m->floor);
}

static void step_epoch(struct fixture *f, struct model *m)
{
	struct store_pos pos;

	assert_int_equal(store_new_epoch(f->store, &pos, &f->error), STORE_OK);
	assert_int_not_equal(pos.epoch, m->epoch);
	assert_int_equal(pos.modseq, m->modseq);
	m->epoch = pos.epoch;
}

/* -- readers --------------------------------------------------------------- */

static bool reader_entry(const struct store_entry *entry, void *context)
{
	struct reader *r = context;
	size_t box, name;

	locate(entry->mailbox, entry->name, &box, &name);
	assert_true(r->watch->sees[box][name]);
	r->view.live[box][name] = !entry->removed;
	if (!entry->removed) {
		assert_int_equal(entry->value_size, sizeof(unsigned int));
		memcpy(&r->view.value[box][name], entry->value,
		       entry->value_size);
	}
	return r->left-- > 1;
}

static void reader_snapshot(struct fixture *f, struct reader *r)
{
	memset(&r->view, 0, sizeof(r->view));
	assert_int_equal(store_cursor_snapshot(f->store, &r->cursor,
					       &f->error), STORE_OK);
}

static void step_read(struct fixture *f, const struct model *m,
		      struct reader *r)
{
	const struct store_read req = {
		.filter = r->watch->filter, .max_value_size = UINT64_MAX
	};
	struct store_state state;
	bool more;
	size_t i;

	r->left = 1 + rnd(5);
	switch (store_read(f->store, &req, &r->cursor, reader_entry, r, &state,
			   &more, &f->error)) {
	case STORE_OK:
		break;
	case STORE_RESET:
		/* only if it has to be; in the midst of the floor's modseq a
		   removal may have been next */
		assert_true(r->cursor.epoch != m->epoch ||
			    r->cursor.modseq <= m->floor);
		reader_snapshot(f, r);
		return;
	default:
		fail_msg("%s", f->error.message);
	}
	if (more)
		return;
	for (i = 0; i < BOXES * NAMES; i++) {
		const struct cell *cell = &m->cells[i / NAMES][i % NAMES];

		if (!r->watch->sees[i / NAMES][i % NAMES])
			continue;
		assert_int_equal(r->view.live[i / NAMES][i % NAMES],
				 cell->live);
		if (cell->live) {
			assert_int_equal(r->view.value[i / NAMES][i % NAMES],
					 cell->value);
		}
	}
	assert_int_equal(state.pos.modseq, m->modseq);
	r->mark = state.pos;
	r->consistent++;
}

/* It was away and comes back with its bookmark. Its view is the one of then
   only if it was consistent just now. */
static void step_resume(struct fixture *f, const struct model *m,
			struct reader *r)
{
	enum store_status status;

	if (r->mark.epoch == 0 || r->cursor.modseq != r->mark.modseq ||
	    r->cursor.epoch != r->mark.epoch)
		return;
	status = store_cursor_since(f->store, &r->mark, &r->cursor, &f->error);
	assert_int_equal(status, r->mark.epoch != m->epoch ||
			 r->mark.modseq < m->floor ? STORE_RESET : STORE_OK);
	if (status == STORE_RESET)
		reader_snapshot(f, r);
}

static void test_model(void **state)
{
	struct fixture *f = *state;
	struct reader readers[READERS];
	struct store *other;
	struct model m;
	unsigned int i;

	rnd_start();
	memset(&m, 0, sizeof(m));
	memset(readers, 0, sizeof(readers));
	m.modseq = 1;
	m.epoch = get_state(f).pos.epoch;
	for (i = 0; i < READERS; i++) {
		readers[i].watch = &watches[i];
		reader_snapshot(f, &readers[i]);
	}
	other = must_open(&f->set);

	for (i = 0; i < STEPS; i++) {
		struct reader *r = &readers[rnd(READERS)];
		struct store *swap = f->store;

		if (rnd(3) == 0) {
			f->store = other;
			other = swap;
		}
		switch (rnd(40)) {
		case 0: step_delete(f, &m); break;
		case 1: step_rename(f, &m); break;
		case 2: if (rnd(4) == 0) step_purge(f, &m); break;
		case 3: if (rnd(10) == 0) step_epoch(f, &m); break;
		case 4: if (rnd(10) == 0) reopen(f); break;
		case 5: step_resume(f, &m, r); break;
		case 6: store_idle(f->store); break;
		case 7: step_merge(f, &m); break;
		default:
			if (rnd(3) == 0)
				step_apply(f, &m);
			else
				step_read(f, &m, r);
		}
	}
	must_check(f);
	store_close(&other);
	for (i = 0; i < READERS; i++)
		assert_true(readers[i].consistent > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_model, fixture_setup,
						fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
