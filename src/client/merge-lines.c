/* Three-way merge on lines, as diff3 does it: base is compared with mine and with theirs; between lines that all three have, what
   only one side has changed is taken from that side, and what both have changed (differently) is a conflict and taken from mine. A
   line includes its end (LF, also after CR); the last one may have none. Used by merge.c.

   The comparison is that of Myers, "An O(ND) Difference Algorithm and Its Variations", after lines at both ends that are the same
   and lines that the other side does not have were set aside. Its work grows with the square of the differences, so these are
   bounded. */

#include "merge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Differences beyond which no merge is tried: memory is 2 * n^2 octets */
#define DIFFERENCES_MAX 3000

struct line {
	const char *data;
	size_t size;
	/* the same for lines with the same octets */
	int32_t id;
};

struct file {
	struct line *lines;
	int32_t count;
};

/* -- lines */

static bool file_split(const struct merge_text *text, struct file *file_r)
{
	const char *p = text->data, *end = p + text->size, *next;
	size_t count = 0;

	memset(file_r, 0, sizeof(*file_r));
	for (; p < end; p = next, count++) {
		next = memchr(p, '\n', end - p);
		next = next == NULL ? end : next + 1;
	}
	/* For 32 bits, and sums of two */
	if (count > INT32_MAX / 4)
		return false;
	file_r->lines = calloc(count + 1, sizeof(*file_r->lines));
	if (file_r->lines == NULL)
		return false;
	for (p = text->data; p < end; p = next) {
		next = memchr(p, '\n', end - p);
		next = next == NULL ? end : next + 1;
		file_r->lines[file_r->count].data = p;
		file_r->lines[file_r->count++].size = next - p;
	}
	return true;
}

static uint64_t line_hash(const struct line *line)
{
	uint64_t hash = 0xcbf29ce484222325;
	size_t i;

	for (i = 0; i < line->size; i++)
		hash = (hash ^ (unsigned char)line->data[i]) * 0x100000001b3;
	return hash ^ hash >> 29;
}

static bool files_number(struct file *files, unsigned int count, int32_t *ids_r)
{
	size_t total = 0, size = 16, at;
	const struct line **table;
	unsigned int i;
	int32_t j;

	for (i = 0; i < count; i++)
		total += files[i].count;
	while (size < total * 2)
		size *= 2;
	table = calloc(size, sizeof(*table));
	if (table == NULL)
		return false;
	*ids_r = 0;
	for (i = 0; i < count; i++) {
		for (j = 0; j < files[i].count; j++) {
			struct line *line = &files[i].lines[j];

			for (at = line_hash(line) & (size - 1); table[at] != NULL; at = (at + 1) & (size - 1)) {
				if (table[at]->size == line->size && memcmp(table[at]->data, line->data, line->size) == 0)
					break;
			}
			line->id = table[at] == NULL ? (*ids_r)++ : table[at]->id;
			table[at] = line;
		}
	}
	free(table);
	return true;
}

/* -- two files */

/* The lines that count: a[] and b[] are ids, a_at[] and b_at[] where they are in their file. */
struct compare {
	int32_t *a, *b, *a_at, *b_at;
	int32_t a_count, b_count;
};

static void compare_free(struct compare *compare)
{
	free(compare->a);
	free(compare->b);
	free(compare->a_at);
	free(compare->b_at);
}

/* Without what is the same at both ends, and without lines that only one side has. */
static enum merge_result
compare_start(const struct file *a, const struct file *b, int32_t ids, int32_t prefix, int32_t suffix, struct compare *compare_r)
{
	int32_t a_end = a->count - suffix, b_end = b->count - suffix, i;
	unsigned char *where;

	memset(compare_r, 0, sizeof(*compare_r));
	where = calloc(ids + 1, 1);
	compare_r->a = calloc(a->count + 1, sizeof(int32_t));
	compare_r->b = calloc(b->count + 1, sizeof(int32_t));
	compare_r->a_at = calloc(a->count + 1, sizeof(int32_t));
	compare_r->b_at = calloc(b->count + 1, sizeof(int32_t));
	if (where == NULL || compare_r->a == NULL || compare_r->b == NULL || compare_r->a_at == NULL || compare_r->b_at == NULL) {
		free(where);
		compare_free(compare_r);
		return MERGE_NO_MEMORY;
	}
	for (i = prefix; i < a_end; i++)
		where[a->lines[i].id] |= 1;
	for (i = prefix; i < b_end; i++)
		where[b->lines[i].id] |= 2;
	for (i = prefix; i < a_end; i++) {
		if (where[a->lines[i].id] == 3) {
			compare_r->a_at[compare_r->a_count] = i;
			compare_r->a[compare_r->a_count++] = a->lines[i].id;
		}
	}
	for (i = prefix; i < b_end; i++) {
		if (where[b->lines[i].id] == 3) {
			compare_r->b_at[compare_r->b_count] = i;
			compare_r->b[compare_r->b_count++] = b->lines[i].id;
		}
	}
	free(where);
	return MERGE_DONE;
}

/* One step: from the furthest ends of d - 1 differences (v, by diagonal -(d-1) ... d-1 in steps of 2) to those of d. true: the end
   is reached. */
static bool myers_step(const struct compare *c, int32_t d, const int32_t *before, int32_t *v)
{
	int32_t k, x, y, i;

	for (k = -d, i = 0; k <= d; k += 2, i++) {
		/* before[i - 1] is diagonal k - 1, before[i] is k + 1 */
		if (d == 0)
			x = 0;
		else if (i == 0 || (i != d && before[i - 1] < before[i]))
			x = before[i];
		else
			x = before[i - 1] + 1;
		y = x - k;
		while (x < c->a_count && y >= 0 && y < c->b_count && c->a[x] == c->b[y]) {
			x++;
			y++;
		}
		v[i] = x;
		if (x >= c->a_count && y >= c->b_count)
			return true;
	}
	return false;
}

/* Follows the steps back, noting pairs. */
static void myers_back(const struct compare *c, int32_t *const *steps, int32_t d, int32_t *match)
{
	int32_t x = c->a_count, y = c->b_count, k, i, from_x, from_y;
	bool down = false;

	for (; d >= 0; d--) {
		k = x - y;
		i = (k + d) / 2;
		if (d == 0) {
			from_x = 0;
			from_y = 0;
		} else {
			down = i == 0 || (i != d && steps[d - 1][i - 1] < steps[d - 1][i]);
			from_x = down ? steps[d - 1][i] : steps[d - 1][i - 1] + 1;
			from_y = from_x - k;
		}
		while (x > from_x && y > from_y) {
			x--;
			y--;
			match[c->a_at[x]] = c->b_at[y];
		}
		if (d > 0) {
			if (down)
				y--;
			else
				x--;
		}
	}
}

static enum merge_result myers(const struct compare *c, int32_t *match)
{
	int32_t *steps[DIFFERENCES_MAX + 1], d;
	enum merge_result result = MERGE_IMPOSSIBLE;

	for (d = 0; d <= DIFFERENCES_MAX; d++) {
		steps[d] = malloc((d + 1) * sizeof(int32_t));
		if (steps[d] == NULL) {
			result = MERGE_NO_MEMORY;
			break;
		}
		if (myers_step(c, d, d == 0 ? NULL : steps[d - 1], steps[d])) {
			myers_back(c, steps, d, match);
			result = MERGE_DONE;
			d++;
			break;
		}
	}
	while (d-- > 0)
		free(steps[d]);
	return result;
}

/* match_r[i]: the line of b that is line i of a, or -1. */
static enum merge_result compare_files(const struct file *a, const struct file *b, int32_t ids, int32_t *match_r)
{
	int32_t shorter = a->count < b->count ? a->count : b->count, prefix, suffix, i;
	struct compare compare;
	enum merge_result result;

	for (prefix = 0; prefix < shorter && a->lines[prefix].id == b->lines[prefix].id; prefix++) ;
	for (suffix = 0; suffix < shorter - prefix &&
	     a->lines[a->count - 1 - suffix].id == b->lines[b->count - 1 - suffix].id; suffix++) ;
	for (i = 0; i < a->count; i++)
		match_r[i] = i < prefix ? i : i >= a->count - suffix ? b->count - (a->count - i) : -1;
	result = compare_start(a, b, ids, prefix, suffix, &compare);
	if (result != MERGE_DONE)
		return result;
	result = myers(&compare, match_r);
	compare_free(&compare);
	return result;
}

/* -- three files */

struct range {
	const struct file *file;
	int32_t from, to;
};

static bool range_same(const struct range *a, const struct range *b)
{
	int32_t i;

	if (a->to - a->from != b->to - b->from)
		return false;
	for (i = 0; i < a->to - a->from; i++) {
		if (a->file->lines[a->from + i].id != b->file->lines[b->from + i].id)
			return false;
	}
	return true;
}

static void range_add(struct merge_buffer *out, const struct range *range)
{
	if (range->from < range->to) {
		const struct line *first = &range->file->lines[range->from], *last = &range->file->lines[range->to - 1];

		merge_buffer_add(out, first->data, last->data + last->size - first->data);
	}
}

static void merge_files(const struct file *files, const int32_t *mine_at, const int32_t *theirs_at, struct merge_buffer *out,
			bool *conflict)
{
	struct range base = { &files[0], 0, 0 }, mine = { &files[1], 0, 0 }, theirs = { &files[2], 0, 0 };
	int32_t i;

	for (i = 0; i <= files[0].count; i++) {
		/* up to the next line that all have, or the end */
		if (i < files[0].count && (mine_at[i] < 0 || theirs_at[i] < 0))
			continue;
		base.to = i;
		mine.to = i < files[0].count ? mine_at[i] : files[1].count;
		theirs.to = i < files[0].count ? theirs_at[i] : files[2].count;
		if (range_same(&base, &mine)) {
			range_add(out, &theirs);
		} else {
			range_add(out, &mine);
			if (!range_same(&base, &theirs) && !range_same(&mine, &theirs))
				*conflict = true;
		}
		if (i < files[0].count)
			merge_buffer_add(out, files[0].lines[i].data, files[0].lines[i].size);
		base.from = base.to + 1;
		mine.from = mine.to + 1;
		theirs.from = theirs.to + 1;
	}
}

enum merge_result
merge_lines(const struct merge_text *base, const struct merge_text *mine, const struct merge_text *theirs, struct merge_text *out_r,
	    bool *conflict_r)
{
	const struct merge_text *texts[] = { base, mine, theirs };
	struct merge_buffer out = { .data = NULL };
	int32_t *mine_at = NULL, *theirs_at = NULL, ids;
	enum merge_result result = MERGE_NO_MEMORY;
	struct file files[3];
	unsigned int i;

	memset(files, 0, sizeof(files));
	/* Not text */
	for (i = 0; i < 3; i++) {
		if (memchr(texts[i]->data, '\0', texts[i]->size) != NULL)
			return MERGE_IMPOSSIBLE;
	}
	if (file_split(base, &files[0]) && file_split(mine, &files[1]) && file_split(theirs, &files[2]) &&
	    files_number(files, 3, &ids)) {
		mine_at = calloc(files[0].count + 1, sizeof(*mine_at));
		theirs_at = calloc(files[0].count + 1, sizeof(*theirs_at));
		if (mine_at != NULL && theirs_at != NULL)
			result = compare_files(&files[0], &files[1], ids, mine_at);
		if (result == MERGE_DONE)
			result = compare_files(&files[0], &files[2], ids, theirs_at);
	}
	if (result == MERGE_DONE) {
		*conflict_r = false;
		merge_files(files, mine_at, theirs_at, &out, conflict_r);
		out_r->data = merge_buffer_end(&out);
		out_r->size = out.size;
		if (out_r->data == NULL)
			result = MERGE_NO_MEMORY;
	}
	for (i = 0; i < 3; i++)
		free(files[i].lines);
	free(mine_at);
	free(theirs_at);
	return result;
}
