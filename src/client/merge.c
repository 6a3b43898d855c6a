/* dovetail_merge(): the cases that need no merge, and which merge does the rest. Used by replica-conflict.c and by callers of the
   library. */

#include "merge.h"

#include <stdlib.h>
#include <string.h>

/* -- memory */

void merge_buffer_add(struct merge_buffer *buffer, const char *data, size_t size)
{
	size_t allocated = buffer->allocated;
	char *to;

	if (buffer->failed || size == 0)
		return;
	while (allocated - buffer->size < size + 1)
		allocated = allocated == 0 ? 256 : allocated * 2;
	if (allocated > buffer->allocated) {
		to = realloc(buffer->data, allocated);
		if (to == NULL) {
			buffer->failed = true;
			return;
		}
		buffer->data = to;
		buffer->allocated = allocated;
	}
	memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
}

char *merge_buffer_end(struct merge_buffer *buffer)
{
	if (!buffer->failed && buffer->data == NULL)
		buffer->data = malloc(1);
	if (buffer->failed || buffer->data == NULL) {
		free(buffer->data);
		return NULL;
	}
	buffer->data[buffer->size] = '\0';
	return buffer->data;
}

/* -- */

static bool same(const struct merge_text *a, const struct merge_text *b)
{
	if (a->data == NULL || b->data == NULL)
		return a->data == b->data;
	return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static enum dovetail_status take(const struct merge_text *text, void **data_r, size_t *size_r)
{
	char *data;

	*data_r = NULL;
	*size_r = 0;
	if (text->data == NULL)
		return DOVETAIL_OK;
	data = malloc(text->size + 1);
	if (data == NULL)
		return DOVETAIL_SYSTEM;
	if (text->size > 0)
		memcpy(data, text->data, text->size);
	data[text->size] = '\0';
	*data_r = data;
	*size_r = text->size;
	return DOVETAIL_OK;
}

enum dovetail_status
dovetail_merge(enum dovetail_rule rule, const struct dovetail_conflict *conflict, void **data_r, size_t *size_r, bool *conflict_r)
{
	const struct merge_text base = { conflict->base.data, conflict->base.size };
	const struct merge_text mine = { conflict->mine.data, conflict->mine.size };
	const struct merge_text theirs = { conflict->theirs.data, conflict->theirs.size };
	struct merge_text out;
	enum merge_result result;

	*data_r = NULL;
	*size_r = 0;
	*conflict_r = false;
	if (rule == DOVETAIL_RULE_SERVER)
		return take(&theirs, data_r, size_r);
	if (rule != DOVETAIL_RULE_LINES && rule != DOVETAIL_RULE_JSON && rule != DOVETAIL_RULE_MINE)
		return DOVETAIL_INVALID;
	if (rule != DOVETAIL_RULE_MINE && same(&base, &mine))
		return take(&theirs, data_r, size_r);
	if (same(&base, &theirs) || same(&mine, &theirs))
		return take(&mine, data_r, size_r);
	/* Both have changed it */
	*conflict_r = true;
	if (rule == DOVETAIL_RULE_MINE || base.data == NULL || mine.data == NULL || theirs.data == NULL)
		return take(&mine, data_r, size_r);
	result = rule == DOVETAIL_RULE_LINES ? merge_lines(&base, &mine, &theirs, &out, conflict_r) :
		merge_json(&base, &mine, &theirs, &out, conflict_r);
	switch (result) {
	case MERGE_DONE:
		*data_r = (void *)out.data;
		*size_r = out.size;
		return DOVETAIL_OK;
	case MERGE_IMPOSSIBLE:
		*conflict_r = true;
		return take(&mine, data_r, size_r);
	case MERGE_NO_MEMORY:
		break;
	}
	return DOVETAIL_SYSTEM;
}
