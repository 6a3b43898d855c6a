/* Fuzzer of the reader of JSON lines (src/cli/import-line.c): what "dovetail import" reads. Input: lines. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "import-line.h"

/* What the rest of import counts on. */
static void check(const struct import_line *line)
{
	/* readable to their NULs */
	if (line->mailbox == NULL || line->entry == NULL || strlen(line->mailbox) + strlen(line->entry) == SIZE_MAX)
		abort();
	/* readable to its end, with a NUL behind it */
	if (line->data != NULL && ((const char *)line->data)[line->size] != '\0')
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data, *end = text + size, *next;
	struct import_line line;
	char *copy;

	for (; text < end; text = next + 1) {
		next = memchr(text, '\n', end - text);
		if (next == NULL)
			next = end;
		/* memory of its own: reading behind the line is found */
		copy = malloc(next > text ? next - text : 1);
		if (copy == NULL)
			return 0;
		memcpy(copy, text, next - text);
		if (!import_line_is_empty(copy, next - text) && import_line_parse(copy, next - text, &line) == NULL) {
			check(&line);
			import_line_free(&line);
		}
		free(copy);
	}
	return 0;
}
