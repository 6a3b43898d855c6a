/* What the server has said it takes, kept so that a write which it would refuse fails where it is made, offline too. Numbers of
   entries and of octets in all are not kept: they are about more than the replica covers, and the server alone can count. */

#include "replica-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY "sync/limits"
/* what is kept; more is no server's */
#define TEXT_MAX 512

/* The number behind the word in "VALUE 1048576 ENTRIES 10000 ..."; 0: none, or none that could be exceeded. */
static uint64_t limit_find(const char *text, const char *word)
{
	size_t size = strlen(word);
	unsigned long long number;
	char *end;

	while (*text != '\0') {
		const char *next = text + strcspn(text, " ");

		next += strspn(next, " ");
		if (strncmp(text, word, size) == 0 && text[size] == ' ' && *next >= '0' && *next <= '9') {
			errno = 0;
			number = strtoull(next, &end, 10);
			return errno != 0 || (*end != ' ' && *end != '\0') ? 0 : number;
		}
		text = next;
	}
	return 0;
}

enum dovetail_status replica_limits_get(struct dovetail *replica, struct replica_limits *limits_r)
{
	enum dovetail_status status;
	const void *text;
	size_t size;

	memset(limits_r, 0, sizeof(*limits_r));
	status = replica_local_get(replica, KEY, &text, &size);
	if (status != DOVETAIL_OK)
		return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
	limits_r->value = limit_find(text, "VALUE");
	limits_r->name = limit_find(text, "NAME");
	limits_r->set = limit_find(text, "SET");
	return DOVETAIL_OK;
}

enum dovetail_status replica_limits_set(struct dovetail *replica, const char *text)
{
	size_t size = text == NULL ? 0 : strlen(text), known_size;
	enum dovetail_status status;
	const void *known;

	if (size > TEXT_MAX)
		return DOVETAIL_OK;
	status = replica_local_get(replica, KEY, &known, &known_size);
	if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
		return status;
	/* Each connection says it: most often there is nothing to write */
	if (known == NULL ? text == NULL : text != NULL && known_size == size && memcmp(known, text, size) == 0)
		return DOVETAIL_OK;
	status = replica_begin(replica, true);
	return status != DOVETAIL_OK ? status : replica_end(replica, replica_local_set(replica, KEY, text, size));
}
