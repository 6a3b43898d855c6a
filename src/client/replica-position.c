/* Positions and marks as the server writes them (docs/protocol.md), and the mark that the replica keeps. Used by replica-*.c and
   sync*.c. */

#include "replica-private.h"

#include <string.h>

/* Digits up to max, without sign, space or zeros before them; not 0. */
static bool parse_number(const char **text, uint64_t max, uint64_t *number_r)
{
	const char *p = *text;
	uint64_t n = 0;

	if (*p == '0')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (n > (max - (*p - '0')) / 10)
			return false;
		n = n * 10 + (*p - '0');
	}
	if (p == *text)
		return false;
	*text = p;
	*number_r = n;
	return true;
}

bool replica_position_parse(const char *text, bool mark, struct replica_position *position_r)
{
	uint64_t epoch;
	size_t digits;

	if (*text++ != '(' || !parse_number(&text, UINT32_MAX, &epoch) || *text++ != ' ' ||
	    !parse_number(&text, INT64_MAX, &position_r->modseq))
		return false;
	position_r->epoch = epoch;
	if (mark) {
		if (*text++ != ' ')
			return false;
		digits = strspn(text, "0123456789abcdefABCDEF");
		if (digits < 1 || digits > 16)
			return false;
		text += digits;
	}
	return text[0] == ')' && text[1] == '\0';
}

enum dovetail_status replica_get_mark(struct dovetail *replica, const char **mark_r, const char **partial_r)
{
	enum dovetail_status status;
	const char *mark, *partial;
	sqlite3_stmt *stmt;
	char *p;

	*mark_r = *partial_r = "";
	stmt = replica_query(replica, "SELECT mark, partial FROM meta WHERE one = 1", "");
	status = replica_step(replica, stmt, "read the mark");
	if (status == DOVETAIL_NOT_FOUND)
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is damaged: the state's row is missing", replica->path);
	if (status != DOVETAIL_OK)
		return status;
	mark = (const char *)sqlite3_column_text(stmt, 0);
	partial = (const char *)sqlite3_column_text(stmt, 1);
	p = replica_holder_get(&replica->mark, strlen(mark) + strlen(partial) + 2);
	if (p != NULL) {
		*mark_r = strcpy(p, mark);
		*partial_r = strcpy(p + strlen(mark) + 1, partial);
	} else {
		status = replica_no_memory(replica);
	}
	(void)sqlite3_reset(stmt);
	return status;
}
