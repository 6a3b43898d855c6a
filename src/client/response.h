#ifndef CLIENT_RESPONSE_H
#define CLIENT_RESPONSE_H

/* Parser of what an IMAP server sends to a client of Dovetail: octets in, in pieces of any size, callbacks out. It trusts
   nothing, knows no connection, allocates no more than its limits, and streams literals. Used by sync-*.c, the fuzzer and unit
   tests.

   The grammar is that of RFC 3501 and RFC 9051 (responses), RFC 5464 section 4.4 (METADATA; a response with all entries of a
   mailbox, as stock servers answer GETMETADATA, may be of any length), RFC 3516 (literal8). It is strict where a mistake could
   shift what is a value and what is a response: lines end in CRLF, no CR, LF or NUL elsewhere but in literals, numbers of
   literals fit in 63 bits. It is lenient where nothing depends on it: more than one space in METADATA, a NUL in a literal that
   is not a literal8, 8-bit octets. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Octets; 0 means the default. */
struct response_limits {
	/* One response without its literals, of METADATA one entry without name and value; default 64 KiB */
	size_t line;
	/* what a value (literal or quoted) may have; default as dovetail_sync_options.max_value */
	size_t value;
	/* names of mailboxes and entries; default 8 KiB */
	size_t name;
};

enum response_cond { RESPONSE_OK, RESPONSE_NO, RESPONSE_BAD, RESPONSE_BYE, RESPONSE_PREAUTH };

struct response_status {
	enum response_cond cond;
	/* The response code (RFC 3501 7.1): its atom in upper case and what follows it, "" if none: "XMETASYNC", "(123 4 0f...)" */
	const char *code, *code_args;
	/* All three are UTF-8 made safe: each octet of a control character or of what is not UTF-8 is a "?" */
	const char *text;
};

enum response_value { RESPONSE_VALUE_DATA, RESPONSE_VALUE_NIL,
	/* the entry is named only: it exists, but is not shown */
	RESPONSE_VALUE_NOT_SHOWN };

enum response_namespace { RESPONSE_NAMESPACE_PERSONAL, RESPONSE_NAMESPACE_OTHERS, RESPONSE_NAMESPACE_SHARED };

/* Strings live until the callback returns. Any callback returning false stops the parser for good (response_error() is
   unchanged). A callback that is NULL is not called. A callback must not feed or free its parser. */
struct response_handler {
	bool (*tagged)(void *context, const char *tag, const struct response_status *status);
	/* "* OK", "* NO", "* BAD", "* BYE", "* PREAUTH" */
	bool (*status)(void *context, const struct response_status *status);
	/* "+ text"; made safe as a status' text */
	bool (*continuation)(void *context, const char *text);
	/* from "* CAPABILITY" and from a CAPABILITY response code (before its status): once for each list, with its atoms
	   separated by single spaces, upper case */
	bool (*capability)(void *context, const char *list);
	/* "* METADATA": metadata() once with the mailbox (as on the wire, unquoted), then for each entry entry(), for
	   RESPONSE_VALUE_DATA data() zero or more times with its octets in order and entry_end(); metadata_end() after the
	   response's CRLF. size: of the value, if known before (literal), else SIZE_MAX (quoted); 0 without a value. Mailbox and
	   entry have no NUL, CR nor LF; nothing else is promised of them: they may be empty, or not be valid names. */
	bool (*metadata)(void *context, const char *mailbox);
	bool (*entry)(void *context, const char *name, enum response_value kind, size_t size);
	bool (*data)(void *context, const void *data, size_t size);
	bool (*entry_end)(void *context);
	bool (*metadata_end)(void *context);
	/* "* LIST": flags separated by spaces, the mailbox as on the wire, unquoted; made safe as a status' text. If NULL, it is
	   an other(). */
	bool (*list)(void *context, const char *flags, const char *mailbox);
	/* "* NAMESPACE" (RFC 2342): once for each namespace, with its prefix as the mailbox above. If NULL, it is an other(). */
	bool (*name_space)(void *context, enum response_namespace kind, const char *prefix);
	/* any other untagged response, at its end: its first atom (or the second, after a number), upper case. Its literals are
	   skipped. */
	bool (*other)(void *context, const char *keyword);
};

struct response_parser;
/* limits (NULL: defaults) and handler are copied. NULL if out of memory. */
struct response_parser *
response_parser_new(const struct response_limits *limits, const struct response_handler *handler, void *context);
/* NULL is fine. */
void response_parser_free(struct response_parser *parser);
/* 0: all was taken, -1: the server broke the grammar or a limit (response_error() says how; response_is_limit()), memory has run
   out (response_is_memory()), or a callback returned false. After -1 the parser takes nothing any more. The callbacks do not
   depend on how the octets are cut into pieces, but for the pieces of data(). */
int response_parser_feed(struct response_parser *parser, const void *data, size_t size);
/* One line, without words of the server; "" if there was no error. */
const char *response_error(const struct response_parser *parser);
bool response_is_limit(const struct response_parser *parser);
bool response_is_memory(const struct response_parser *parser);

/* Makes words of a server fit for a terminal, in place: UTF-8, each octet of a control character or of what is not UTF-8 a "?". */
void response_make_safe(char *text);

#endif
