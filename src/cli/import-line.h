#ifndef IMPORT_LINE_H
#define IMPORT_LINE_H

/* A line of what "dovetail export" and "doveadm metasync export" write: a JSON object. Nothing in it is trusted. Used
   by cmd-import.c and the fuzzer (tests/fuzz/fuzz-import.c). */

#include <stdbool.h>
#include <stddef.h>

struct import_line {
	/* NULL: the line does not say */
	const char *user;
	const char *mailbox, *entry;
	/* NULL: removed. A NUL follows. */
	const void *data;
	size_t size;
	/* owns the above */
	void *json;
	char *decoded;
};

/* size octets without the line end. NULL: *line is filled in, for import_line_free(); else what is wrong, and nothing
   is to be freed. The names are UTF-8; the library says whether there can be such. */
const char *import_line_parse(const char *text, size_t size, struct import_line *line);
void import_line_free(struct import_line *line);
/* Only blanks. */
bool import_line_is_empty(const char *text, size_t size);

#endif
