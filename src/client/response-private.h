#ifndef CLIENT_RESPONSE_PRIVATE_H
#define CLIENT_RESPONSE_PRIVATE_H

/* The parser's insides: response.c (octets to lines), response-metadata.c (METADATA's strings), response-status.c (lines that
   are read as a whole). */

#include <sys/types.h>

#include "response.h"

enum state {
	/* what begins a line: a tag, "*" or "+" */
	STATE_TAG,
	STATE_KEYWORD,
	/* the rest of the line is kept, for response_line() */
	STATE_LINE,
	STATE_SKIP,
	STATE_SKIP_LITERAL,
	/* of the line that is kept: LIST's mailbox */
	STATE_LIST_LITERAL,
	/* METADATA: the first octet of a string */
	STATE_STRING,
	STATE_ATOM,
	STATE_QUOTED,
	STATE_ESCAPED,
	STATE_TILDE,
	STATE_SIZE,
	STATE_SIZE_END,
	STATE_LITERAL,
	STATE_AFTER_MAILBOX,
	STATE_LIST,
	STATE_BETWEEN,
	STATE_CLOSED
};

enum part { PART_MAILBOX, PART_ENTRY, PART_VALUE, PART_NAMED };

enum line_kind { LINE_TAGGED, LINE_STATUS, LINE_CONTINUATION, LINE_CAPABILITY, LINE_LIST, LINE_NAMESPACE };

enum brace { BRACE_NONE, BRACE_OPEN, BRACE_SIZE, BRACE_CLOSED, BRACE_TOO_LARGE, BRACE_CLOSED_TOO_LARGE };

struct response_parser {
	struct response_limits limits;
	struct response_handler handler;
	void *context;
	char error[128];
	bool ended, is_limit, is_memory;

	enum state state;
	/* the last octet was a CR */
	bool cr;
	/* octets outside of strings: of this response, of METADATA since the last entry */
	size_t line;
	/* the tag, keyword, line or name that is being read, and a NUL */
	char *buf;
	size_t used, alloc;

	/* STATE_KEYWORD: a number came before */
	bool number;
	enum line_kind kind;
	enum response_cond cond;

	/* which string of a METADATA response, and how many octets of a value have come */
	enum part part;
	size_t string_size;
	/* a literal's size, then what is left of it */
	uint64_t literal;
	bool digits;
	/* STATE_SKIP: what the line ends with so far */
	enum brace brace;
};

#define NULL_OCTETS ((const unsigned char *)"")

/* true: go on */
#define HANDLE(parser, callback, ...) \
	((parser)->handler.callback == NULL || (parser)->handler.callback((parser)->context, ##__VA_ARGS__))

/* -1, with a text for response_error() */
int response_fail(struct response_parser *parser, const char *text);
int response_fail_limit(struct response_parser *parser, const char *what, uint64_t limit);
/* Into the buffer, which has room for a NUL always. 0 or -1. */
int response_keep(struct response_parser *parser, const unsigned char *data, size_t size, const char *what, size_t limit);
/* One more digit of a literal's size: -1 if the number does not fit in 63 bits. */
int response_literal_digit(struct response_parser *parser, unsigned char c);
/* The next octet begins a response. */
void response_begin(struct response_parser *parser);

/* response-metadata.c: one octet of the line, not CR, LF nor NUL; octets of a literal; the line's end. 0 or -1. */
int response_metadata_octet(struct response_parser *parser, unsigned char c);
int response_metadata_literal(struct response_parser *parser, const unsigned char *data, size_t size);
int response_metadata_line_end(struct response_parser *parser);
/* How many of the next octets only have to be added to the string; adding them. */
size_t response_metadata_run(const struct response_parser *parser, const unsigned char *data, size_t size);
int response_metadata_add(struct response_parser *parser, const unsigned char *data, size_t size);

/* response-status.c */
/* ASCII letters to upper case, in place. */
void response_upper(char *text);
/* Whether the word (in upper case) is a status. */
bool response_cond(const char *word, enum response_cond *cond_r);
/* The line in the buffer, of the parser's kind, to its callback; changes the buffer. 0, or -1: grammar or callback. */
int response_line(struct response_parser *parser);

#endif
