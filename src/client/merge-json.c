/* Three-way merge on the members of JSON objects (RFC 8259), nested ones too. Jansson says whether all three are objects without
   double keys; what is merged is their text, so that numbers, escapes and layout stay as they were written. Mine's members stay in
   their order, what theirs has added comes behind them. Used by merge.c.

   Values are the same if their text without white space is. */

#include "merge.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct member {
	/* without quotes and escapes */
	char *key;
	size_t key_size;
	/* from the comma or brace before it to its key; the key to its value */
	struct merge_text space, head, value;
};

struct object {
	struct member *members, **sorted;
	size_t count;
	/* before the closing brace */
	struct merge_text space;
};

static void object_free(struct object *object)
{
	size_t i;

	for (i = 0; i < object->count; i++)
		free(object->members[i].key);
	free(object->members);
	free(object->sorted);
}

/* -- text that is known to be valid */

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')
		p++;
	return p;
}

static const char *skip_string(const char *p)
{
	for (p++; *p != '"'; p++) {
		if (*p == '\\')
			p++;
	}
	return p + 1;
}

static const char *skip_value(const char *p)
{
	size_t depth = 0;

	if (*p == '"')
		return skip_string(p);
	if (*p != '{' && *p != '[')
		return p + strcspn(p, ",]} \t\r\n");
	do {
		if (*p == '"') {
			p = skip_string(p);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']')
			depth--;
		p++;
	} while (depth > 0);
	return p;
}

static bool key_get(struct member *member, const char *start, const char *end)
{
	json_t *key;

	if (memchr(start, '\\', end - start) == NULL) {
		member->key_size = end - start - 2;
		member->key = strndup(start + 1, member->key_size);
		return member->key != NULL;
	}
	key = json_loadb(start, end - start, JSON_DECODE_ANY, NULL);
	if (key == NULL)
		return false;
	member->key_size = json_string_length(key);
	member->key = strdup(json_string_value(key));
	json_decref(key);
	return member->key != NULL;
}

static int key_compare(const struct member *a, const struct member *b)
{
	size_t size = a->key_size < b->key_size ? a->key_size : b->key_size;
	int ret = memcmp(a->key, b->key, size);

	return ret != 0 ? ret : a->key_size < b->key_size ? -1 : a->key_size > b->key_size;
}

static int sorted_compare(const void *a, const void *b)
{
	return key_compare(*(struct member *const *)a, *(struct member *const *)b);
}

static struct member *member_new(struct object *object, size_t *allocated)
{
	size_t count = *allocated == 0 ? 8 : *allocated * 2;
	struct member *members;

	if (object->count == *allocated) {
		members = realloc(object->members, count * sizeof(*members));
		if (members == NULL)
			return NULL;
		object->members = members;
		*allocated = count;
	}
	members = &object->members[object->count++];
	memset(members, 0, sizeof(*members));
	return members;
}

/* p is at the opening brace. false: out of memory; what is in *object_r is to be freed in any case. */
static bool object_parse(const char *p, struct object *object_r)
{
	const char *start = ++p, *key, *key_end;
	struct member *member;
	size_t allocated = 0, i;

	memset(object_r, 0, sizeof(*object_r));
	p = skip_space(p);
	while (*p != '}') {
		member = member_new(object_r, &allocated);
		if (member == NULL)
			return false;
		member->space = (struct merge_text){ start, p - start };
		key = p;
		key_end = skip_string(p);
		if (!key_get(member, key, key_end))
			return false;
		/* over the colon */
		p = skip_space(skip_space(key_end) + 1);
		member->head = (struct merge_text){ key, p - key };
		member->value.data = p;
		p = skip_value(p);
		member->value.size = p - member->value.data;
		start = p;
		p = skip_space(p);
		if (*p == ',') {
			start = ++p;
			p = skip_space(p);
		}
	}
	object_r->space = (struct merge_text){ start, p - start };
	object_r->sorted = calloc(object_r->count + 1, sizeof(*object_r->sorted));
	if (object_r->sorted == NULL)
		return false;
	for (i = 0; i < object_r->count; i++)
		object_r->sorted[i] = &object_r->members[i];
	if (object_r->count > 0)
		qsort(object_r->sorted, object_r->count, sizeof(*object_r->sorted), sorted_compare);
	return true;
}

static const struct member *object_find(const struct object *object, const struct member *key)
{
	struct member *const *found;

	if (object->count == 0)
		return NULL;
	found = bsearch(&key, object->sorted, object->count, sizeof(*object->sorted), sorted_compare);
	return found == NULL ? NULL : *found;
}

/* Both NULL is the same, too. */
static bool value_same(const struct member *a, const struct member *b)
{
	const char *p, *p_end, *q, *q_end;
	bool string = false;

	if (a == NULL || b == NULL)
		return a == b;
	p = a->value.data;
	q = b->value.data;
	p_end = p + a->value.size;
	q_end = q + b->value.size;
	for (;;) {
		if (!string) {
			p = skip_space(p);
			q = skip_space(q);
		}
		if (p >= p_end || q >= q_end)
			return p >= p_end && q >= q_end;
		if (*p != *q)
			return false;
		if (string && *p == '\\') {
			if (p[1] != q[1])
				return false;
			p++;
			q++;
		} else if (*p == '"') {
			string = !string;
		}
		p++;
		q++;
	}
}

static bool is_object(const struct member *member)
{
	return member != NULL && member->value.data[0] == '{';
}

/* -- merging */

struct state {
	struct merge_buffer out;
	bool conflict, no_memory;
};

static void merge_objects(struct state *state, const char *base, const char *mine, const char *theirs);

static void
member_add(struct state *state, const struct member *member, const struct merge_text *space, bool *first)
{
	merge_buffer_add(&state->out, ",", *first ? 0 : 1);
	*first = false;
	merge_buffer_add(&state->out, space->data, space->size);
	merge_buffer_add(&state->out, member->head.data, member->head.size);
}

/* One that mine has. */
static void
merge_member(struct state *state, const struct member *base, const struct member *mine, const struct member *theirs, bool *first)
{
	const struct member *from = mine;

	if (!value_same(mine, theirs) && !value_same(base, theirs)) {
		if (value_same(base, mine)) {
			from = theirs;
		} else if (is_object(mine) && is_object(theirs)) {
			member_add(state, mine, &mine->space, first);
			merge_objects(state, is_object(base) ? base->value.data : "{}", mine->value.data, theirs->value.data);
			return;
		} else {
			state->conflict = true;
		}
	}
	if (from == NULL)
		return;
	member_add(state, mine, &mine->space, first);
	merge_buffer_add(&state->out, from->value.data, from->value.size);
}

static void merge_members(struct state *state, const struct object *base, const struct object *mine, const struct object *theirs)
{
	bool first = true;
	size_t i;

	for (i = 0; i < mine->count; i++) {
		const struct member *member = &mine->members[i];

		merge_member(state, object_find(base, member), member, object_find(theirs, member), &first);
	}
	for (i = 0; i < theirs->count; i++) {
		const struct member *member = &theirs->members[i], *before = object_find(base, member);

		if (object_find(mine, member) != NULL)
			continue;
		if (before == NULL) {
			member_add(state, member, mine->count > 0 ? &mine->members[0].space : &member->space, &first);
			merge_buffer_add(&state->out, member->value.data, member->value.size);
		} else if (!value_same(before, member)) {
			state->conflict = true;
		}
	}
	merge_buffer_add(&state->out, mine->space.data, mine->space.size);
}

static void merge_objects(struct state *state, const char *base, const char *mine, const char *theirs)
{
	struct object objects[3];

	memset(objects, 0, sizeof(objects));
	merge_buffer_add(&state->out, "{", 1);
	if (!object_parse(base, &objects[0]) || !object_parse(mine, &objects[1]) || !object_parse(theirs, &objects[2]))
		state->no_memory = true;
	else
		merge_members(state, &objects[0], &objects[1], &objects[2]);
	merge_buffer_add(&state->out, "}", 1);
	object_free(&objects[0]);
	object_free(&objects[1]);
	object_free(&objects[2]);
}

/* A copy with a NUL behind it; NULL: not an object, or out of memory. INT_AS_REAL: a number of any size is fine, nobody looks at
   it. */
static char *text_check(const struct merge_text *text)
{
	json_t *json = json_loadb(text->data, text->size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
	bool object = json != NULL && json_is_object(json);

	json_decref(json);
	return object ? strndup(text->data, text->size) : NULL;
}

enum merge_result
merge_json(const struct merge_text *base, const struct merge_text *mine, const struct merge_text *theirs, struct merge_text *out_r,
	   bool *conflict_r)
{
	char *texts[] = { text_check(base), text_check(mine), text_check(theirs) };
	struct state state = { .conflict = false };
	enum merge_result result = MERGE_IMPOSSIBLE;
	const char *start;
	unsigned int i;

	if (texts[0] != NULL && texts[1] != NULL && texts[2] != NULL) {
		start = skip_space(texts[1]);
		merge_buffer_add(&state.out, texts[1], start - texts[1]);
		merge_objects(&state, skip_space(texts[0]), start, skip_space(texts[2]));
		start = skip_value(start);
		merge_buffer_add(&state.out, start, strlen(start));
		out_r->data = merge_buffer_end(&state.out);
		out_r->size = state.out.size;
		*conflict_r = state.conflict;
		result = MERGE_DONE;
		if (state.no_memory || out_r->data == NULL) {
			free((char *)out_r->data);
			result = MERGE_NO_MEMORY;
		}
	}
	for (i = 0; i < 3; i++)
		free(texts[i]);
	return result;
}
