/* The ground floor of the replica: its last error, the rules for names, memory for what is handed out, the codec of encrypted
   values. Used by all replica*.c. */

#include "replica-private.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* -- errors */

enum dovetail_status replica_fail(struct dovetail *replica, enum dovetail_status status, const char *format, ...)
{
	char text[sizeof(replica->error)];
	va_list args;

	/* The last text may be among the arguments */
	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	memcpy(replica->error, text, sizeof(text));
	return status;
}

enum dovetail_status replica_no_memory(struct dovetail *replica)
{
	return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
}

const char *dovetail_error(const struct dovetail *replica)
{
	return replica->error;
}

/* -- memory */

char *replica_holder_get(struct replica_holder *holder, size_t size)
{
	/* A large value is not kept for small ones */
	const size_t small = 64 * 1024;

	if (size > holder->size || (holder->size > small && size <= small)) {
		free(holder->data);
		holder->size = size < 256 ? 256 : size;
		holder->data = malloc(holder->size);
		if (holder->data == NULL)
			holder->size = 0;
	}
	return holder->data;
}

void replica_holder_free(struct replica_holder *holder)
{
	free(holder->data);
	memset(holder, 0, sizeof(*holder));
}

/* -- names */

static const char *name_problem(const char *name, bool part)
{
	size_t i, prefix;

	if (strncasecmp(name, "/private", 8) == 0)
		prefix = 8;
	else if (strncasecmp(name, "/shared", 7) == 0)
		prefix = 7;
	else
		return "does not begin with /private/ or /shared/";
	if (name[prefix] == '\0' ? !part : name[prefix] != '/')
		return "does not begin with /private/ or /shared/";
	for (i = 0; name[i] != '\0'; i++) {
		if (i == REPLICA_NAME_MAX)
			return "is longer than 1024 octets";
		if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '*' || name[i] == '%')
			return "has a character that is not allowed";
		if (name[i] == '/' && (name[i + 1] == '/' || name[i + 1] == '\0'))
			return "has an empty component";
	}
	return NULL;
}

/* Not by the locale */
static void name_lower(char *name)
{
	for (; *name != '\0'; name++) {
		if (*name >= 'A' && *name <= 'Z')
			*name += 'a' - 'A';
	}
}

bool replica_name_normalise(char *name)
{
	if (name_problem(name, false) != NULL)
		return false;
	name_lower(name);
	return true;
}

enum dovetail_status
replica_name(struct dovetail *replica, const char *name, bool part, char *name_r, enum dovetail_status status)
{
	const char *problem = name == NULL ? "is missing" : name_problem(name, part);

	if (problem != NULL)
		return replica_fail(replica, status, "entry name \"%.200s\" %s", name == NULL ? "" : name, problem);
	strcpy(name_r, name);
	name_lower(name_r);
	return DOVETAIL_OK;
}

/* The number of octets of the UTF-8 character, RFC 3629: no overlong forms, surrogates, nor anything above U+10FFFF; 0: none */
static unsigned int utf8_size(const unsigned char *p)
{
	unsigned char low = 0x80, high = 0xbf;
	unsigned int i, size;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		size = 2;
	else if ((p[0] & 0xf0) == 0xe0)
		size = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		size = 4;
	else
		return 0;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	if (p[1] < low || p[1] > high)
		return 0;
	for (i = 2; i < size; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return size;
}

enum dovetail_status
replica_mailbox(struct dovetail *replica, const char *mailbox, const char **mailbox_r, enum dovetail_status status)
{
	const unsigned char *p = (const unsigned char *)mailbox;
	unsigned int size;

	if (mailbox == NULL)
		return replica_fail(replica, status, "the mailbox is missing");
	for (; *p != '\0'; p += size) {
		size = utf8_size(p);
		if (size == 0)
			return replica_fail(replica, status, "the mailbox's name is not UTF-8");
	}
	if ((const char *)p - mailbox > REPLICA_MAILBOX_MAX)
		return replica_fail(replica, status, "the mailbox's name is longer than %d octets", REPLICA_MAILBOX_MAX);
	*mailbox_r = strcasecmp(mailbox, "INBOX") == 0 ? "INBOX" : mailbox;
	return DOVETAIL_OK;
}

/* -- values */

bool replica_value_same(const struct replica_value *a, const struct replica_value *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind != REPLICA_VALUE)
		return true;
	return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

bool replica_is_readonly(const struct dovetail *replica)
{
	return (replica->flags & DOVETAIL_OPEN_READONLY) != 0;
}

/* -- the codec */

void replica_set_codec(struct dovetail *replica, const struct replica_codec *codec)
{
	if (replica->has_codec && replica->codec.free != NULL && (codec == NULL || codec->context != replica->codec.context))
		replica->codec.free(replica->codec.context);
	replica->has_codec = codec != NULL;
	if (codec != NULL)
		replica->codec = *codec;
}

void *replica_get_codec_context(const struct dovetail *replica)
{
	return replica->has_codec ? replica->codec.context : NULL;
}

enum dovetail_status replica_codec_refresh(struct dovetail *replica)
{
	if (!replica->has_codec || replica->codec.refresh == NULL)
		return DOVETAIL_OK;
	return replica->codec.refresh(replica->codec.context);
}

bool replica_covered(const struct dovetail *replica, const char *name)
{
	return replica->has_codec && replica->codec.covers(replica->codec.context, name);
}

enum dovetail_status
replica_decode(struct dovetail *replica, const char *mailbox, const char *wire, const struct replica_value *value, bool arriving,
	       struct replica_coded *coded_r)
{
	memset(coded_r, 0, sizeof(*coded_r));
	if (value->kind == REPLICA_VALUE && replica_covered(replica, wire)) {
		return replica->codec.decode(replica->codec.context, mailbox, wire, value->data, value->size, arriving,
					     coded_r);
	}
	if (value->kind == REPLICA_NOT_HERE)
		coded_r->flags = DOVETAIL_ENTRY_NOT_HERE;
	coded_r->data = value->data;
	coded_r->size = value->size;
	return DOVETAIL_OK;
}
