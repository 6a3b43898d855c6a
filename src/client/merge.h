#ifndef CLIENT_MERGE_H
#define CLIENT_MERGE_H

/* The built-in three-way merges behind dovetail_merge(). Only merge*.c include this. */

#include "dovetail.h"

struct merge_text {
	const char *data;
	size_t size;
};

enum merge_result {
	/* *out_r is to be freed with free() */
	MERGE_DONE,
	/* not what this merge is for, or too much work for it */
	MERGE_IMPOSSIBLE,
	MERGE_NO_MEMORY
};

/* All of them exist. *conflict_r as of dovetail_merge(). out has a NUL behind it that is not counted. */
enum merge_result
merge_lines(const struct merge_text *base, const struct merge_text *mine, const struct merge_text *theirs, struct merge_text *out_r,
	    bool *conflict_r);
enum merge_result
merge_json(const struct merge_text *base, const struct merge_text *mine, const struct merge_text *theirs, struct merge_text *out_r,
	   bool *conflict_r);

/* Memory that grows; all 0 is empty. After failed has been set, nothing is added. */
struct merge_buffer {
	char *data;
	size_t size, allocated;
	bool failed;
};
void merge_buffer_add(struct merge_buffer *buffer, const char *data, size_t size);
/* The text, with a NUL behind it; NULL: out of memory. */
char *merge_buffer_end(struct merge_buffer *buffer);

#endif
