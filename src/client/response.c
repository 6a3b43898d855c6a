/* Octets from a server to callbacks (response.h): a state machine that takes one octet at a time, or a run of them where they
   are only counted or handed on, so that it does not matter how they were cut. It owns one buffer, for the name or the line that
   is being read. What it cannot use is skipped with its literals. METADATA is response-metadata.c's, the text of status
   responses response-status.c's. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "response-private.h"

int response_fail(struct response_parser *parser, const char *text)
{
	snprintf(parser->error, sizeof(parser->error), "%s", text);
	return -1;
}

int response_fail_limit(struct response_parser *parser, const char *what, uint64_t limit)
{
	snprintf(parser->error, sizeof(parser->error), "%s of more than %llu octets", what, (unsigned long long)limit);
	parser->is_limit = true;
	return -1;
}

struct response_parser *
response_parser_new(const struct response_limits *limits, const struct response_handler *handler, void *context)
{
	struct response_parser *parser = calloc(1, sizeof(*parser));

	if (parser == NULL)
		return NULL;
	if (limits != NULL)
		parser->limits = *limits;
	if (parser->limits.line == 0)
		parser->limits.line = 64 * 1024;
	if (parser->limits.value == 0)
		parser->limits.value = 16 * 1024 * 1024;
	if (parser->limits.name == 0)
		parser->limits.name = 8 * 1024;
	parser->handler = *handler;
	parser->context = context;
	return parser;
}

void response_parser_free(struct response_parser *parser)
{
	if (parser == NULL)
		return;
	free(parser->buf);
	free(parser);
}

const char *response_error(const struct response_parser *parser)
{
	return parser->error;
}

bool response_is_limit(const struct response_parser *parser)
{
	return parser->is_limit;
}

bool response_is_memory(const struct response_parser *parser)
{
	return parser->is_memory;
}

int response_keep(struct response_parser *parser, const unsigned char *data, size_t size, const char *what, size_t limit)
{
	size_t alloc = parser->alloc == 0 ? 256 : parser->alloc;
	char *buf;

	if (size > limit - parser->used)
		return response_fail_limit(parser, what, limit);
	while (alloc <= parser->used + size)
		alloc *= 2;
	if (alloc != parser->alloc) {
		buf = realloc(parser->buf, alloc);
		if (buf == NULL) {
			parser->is_memory = true;
			return response_fail(parser, "out of memory");
		}
		parser->buf = buf;
		parser->alloc = alloc;
	}
	memcpy(parser->buf + parser->used, data, size);
	parser->used += size;
	parser->buf[parser->used] = '\0';
	return 0;
}

int response_literal_digit(struct response_parser *parser, unsigned char c)
{
	unsigned int digit = c - '0';

	if (parser->literal > ((uint64_t)INT64_MAX - digit) / 10)
		return -1;
	parser->literal = parser->literal * 10 + digit;
	return 0;
}

static int keep_line(struct response_parser *parser, const unsigned char *data, size_t size)
{
	return response_keep(parser, data, size, "a response", parser->limits.line);
}

void response_begin(struct response_parser *parser)
{
	parser->state = STATE_TAG;
	parser->used = parser->line = 0;
	parser->number = false;
	parser->brace = BRACE_NONE;
}

/* ---- The line ---- */

/* Follows "{n}" at the end of what is skipped. A line that ends so, and is no literal's, cannot be told from one that is. */
static void skip_add(struct response_parser *parser, unsigned char c)
{
	if (c == '{') {
		parser->brace = BRACE_OPEN;
		parser->literal = 0;
	} else if (c >= '0' && c <= '9' && (parser->brace == BRACE_OPEN || parser->brace == BRACE_SIZE)) {
		parser->brace = BRACE_SIZE;
		if (response_literal_digit(parser, c) < 0)
			parser->brace = BRACE_TOO_LARGE;
	} else if (c >= '0' && c <= '9' && parser->brace == BRACE_TOO_LARGE) {
		;
	} else if (c == '}' && parser->brace == BRACE_SIZE) {
		parser->brace = BRACE_CLOSED;
	} else if (c == '}' && parser->brace == BRACE_TOO_LARGE) {
		parser->brace = BRACE_CLOSED_TOO_LARGE;
	} else {
		parser->brace = BRACE_NONE;
	}
}

static int skip_line_end(struct response_parser *parser)
{
	if (parser->brace == BRACE_CLOSED_TOO_LARGE)
		return response_fail(parser, "a literal's size that is too large a number");
	if (parser->brace == BRACE_CLOSED) {
		parser->brace = BRACE_NONE;
		if (parser->literal > 0)
			parser->state = STATE_SKIP_LITERAL;
		return 0;
	}
	if (!HANDLE(parser, other, parser->buf))
		return -1;
	response_begin(parser);
	return 0;
}

/* What follows in the line is kept, and what came is not. */
static int line_begin(struct response_parser *parser, enum line_kind kind)
{
	parser->state = STATE_LINE;
	parser->kind = kind;
	parser->used = 0;
	return keep_line(parser, NULL_OCTETS, 0);
}

static int tag_add(struct response_parser *parser, unsigned char c)
{
	if (c != ' ') {
		if (c < 0x21 || c > 0x7e)
			return response_fail(parser, "a response that does not begin with a tag");
		return keep_line(parser, &c, 1);
	}
	if (parser->used == 0)
		return response_fail(parser, "a response that does not begin with a tag");
	if (strcmp(parser->buf, "*") == 0) {
		parser->state = STATE_KEYWORD;
		parser->used = 0;
		return 0;
	}
	if (strcmp(parser->buf, "+") == 0)
		return line_begin(parser, LINE_CONTINUATION);
	parser->state = STATE_LINE;
	parser->kind = LINE_TAGGED;
	return keep_line(parser, &c, 1);
}

static bool is_number(const char *text)
{
	return text[0] != '\0' && text[strspn(text, "0123456789")] == '\0';
}

/* The keyword has ended, by a space or the end of the line. */
static int keyword_end(struct response_parser *parser, bool line_end)
{
	if (parser->used == 0)
		return response_fail(parser, "an untagged response without a keyword");
	if (!parser->number && is_number(parser->buf)) {
		if (line_end)
			return response_fail(parser, "an untagged response without a keyword");
		parser->number = true;
		parser->used = 0;
		return 0;
	}
	response_upper(parser->buf);
	if (!parser->number && response_cond(parser->buf, &parser->cond))
		return line_begin(parser, LINE_STATUS);
	if (!parser->number && strcmp(parser->buf, "CAPABILITY") == 0)
		return line_begin(parser, LINE_CAPABILITY);
	if (!parser->number && strcmp(parser->buf, "LIST") == 0 && parser->handler.list != NULL)
		return line_begin(parser, LINE_LIST);
	if (!parser->number && strcmp(parser->buf, "NAMESPACE") == 0 && parser->handler.name_space != NULL)
		return line_begin(parser, LINE_NAMESPACE);
	if (!parser->number && strcmp(parser->buf, "METADATA") == 0) {
		parser->state = STATE_STRING;
		parser->part = PART_MAILBOX;
	} else {
		parser->state = STATE_SKIP;
	}
	return 0;
}

static int keyword_add(struct response_parser *parser, unsigned char c)
{
	if (c == ' ')
		return keyword_end(parser, false);
	if (c < 0x21 || c > 0x7e || strchr("(){\"\\%*", c) != NULL)
		return response_fail(parser, "an untagged response without a keyword");
	return keep_line(parser, &c, 1);
}

/* The mailbox of a LIST response is announced as a literal: it is kept as a quoted string in its place. 1: so it is. */
static int list_literal_begin(struct response_parser *parser)
{
	char *brace = strrchr(parser->buf, '{');
	size_t digits = brace == NULL ? 0 : strspn(brace + 1, "0123456789");

	if (digits == 0 || strcmp(brace + 1 + digits, "}") != 0)
		return 0;
	parser->literal = digits > 9 ? UINT64_MAX : strtoull(brace + 1, NULL, 10);
	if (parser->literal > parser->limits.name)
		return response_fail_limit(parser, "a name", parser->limits.name);
	parser->used = brace - parser->buf;
	if (keep_line(parser, (const unsigned char *)"\"", 1) < 0)
		return -1;
	if (parser->literal > 0)
		parser->state = STATE_LIST_LITERAL;
	else if (keep_line(parser, (const unsigned char *)"\"", 1) < 0)
		return -1;
	return 1;
}

static int list_literal_add(struct response_parser *parser, unsigned char c)
{
	if (c == '\0' || c == '\r' || c == '\n')
		return response_fail(parser, "a mailbox name with an octet that no name may have");
	if ((c == '"' || c == '\\') && keep_line(parser, (const unsigned char *)"\\", 1) < 0)
		return -1;
	if (keep_line(parser, &c, 1) < 0)
		return -1;
	if (--parser->literal > 0)
		return 0;
	parser->state = STATE_LINE;
	return keep_line(parser, (const unsigned char *)"\"", 1);
}

static int line_done(struct response_parser *parser)
{
	int literal = parser->kind == LINE_LIST ? list_literal_begin(parser) : 0;

	if (literal != 0)
		return literal < 0 ? -1 : 0;
	if (response_line(parser) < 0)
		return -1;
	response_begin(parser);
	return 0;
}

static int line_end(struct response_parser *parser)
{
	switch (parser->state) {
	case STATE_TAG:
		if (parser->used != 1 || parser->buf[0] != '+')
			return response_fail(parser, "a line that is no response");
		return line_begin(parser, LINE_CONTINUATION) < 0 ? -1 : line_done(parser);
	case STATE_KEYWORD:
		if (keyword_end(parser, true) < 0)
			return -1;
		return line_end(parser);
	case STATE_LINE:
		return line_done(parser);
	case STATE_SKIP:
		return skip_line_end(parser);
	default:
		return response_metadata_line_end(parser);
	}
}

/* One octet of a line, not CR, LF nor NUL. */
static int line_octet(struct response_parser *parser, unsigned char c)
{
	switch (parser->state) {
	case STATE_TAG:
		return tag_add(parser, c);
	case STATE_KEYWORD:
		return keyword_add(parser, c);
	case STATE_LINE:
		return keep_line(parser, &c, 1);
	case STATE_SKIP:
		skip_add(parser, c);
		return 0;
	default:
		return response_metadata_octet(parser, c);
	}
}

static int line_add(struct response_parser *parser, unsigned char c)
{
	if (parser->cr) {
		parser->cr = false;
		return c == '\n' ? line_end(parser) : response_fail(parser, "CR without LF");
	}
	switch (c) {
	case '\r':
		parser->cr = true;
		return 0;
	case '\n':
		return response_fail(parser, "LF without CR");
	case '\0':
		return response_fail(parser, "NUL outside of a literal");
	}
	/* strings have limits of their own */
	if (parser->state != STATE_ATOM && parser->state != STATE_QUOTED && parser->state != STATE_ESCAPED &&
	    ++parser->line > parser->limits.line)
		return response_fail_limit(parser, "a response", parser->limits.line);
	return line_octet(parser, c);
}

/* Takes at least one octet. Returns how many, or -1. */
static ssize_t feed_some(struct response_parser *parser, const unsigned char *data, size_t size)
{
	size_t run;

	if (parser->state == STATE_LITERAL || parser->state == STATE_SKIP_LITERAL) {
		run = size < parser->literal ? size : parser->literal;
		if (parser->state == STATE_LITERAL)
			return response_metadata_literal(parser, data, run) < 0 ? -1 : (ssize_t)run;
		parser->literal -= run;
		if (parser->literal == 0)
			parser->state = STATE_SKIP;
		return run;
	}
	if (parser->state == STATE_LIST_LITERAL)
		return list_literal_add(parser, data[0]) < 0 ? -1 : 1;
	run = parser->cr ? 0 : response_metadata_run(parser, data, size);
	if (run > 0)
		return response_metadata_add(parser, data, run) < 0 ? -1 : (ssize_t)run;
	return line_add(parser, data[0]) < 0 ? -1 : 1;
}

int response_parser_feed(struct response_parser *parser, const void *data, size_t size)
{
	const unsigned char *octets = data;
	ssize_t taken;

	while (size > 0 && !parser->ended) {
		taken = feed_some(parser, octets, size);
		if (taken < 0) {
			parser->ended = true;
			break;
		}
		octets += taken;
		size -= taken;
	}
	return parser->ended ? -1 : 0;
}
