/* "* METADATA" (RFC 5464 section 4.4, and what GETMETADATA is answered with): a mailbox, then entries with values, or names.
   Called by response.c with each octet of it; its state is the parser's. */

#include <string.h>

#include "response-private.h"

/* ---- Strings ---- */

static int value_begin(struct response_parser *parser, enum response_value kind, size_t size)
{
	return HANDLE(parser, entry, parser->buf, kind, size) ? 0 : -1;
}

/* A quoted string or a literal has begun; size: SIZE_MAX if not known. */
static int string_begin(struct response_parser *parser, enum state state, size_t size)
{
	parser->state = state;
	parser->string_size = 0;
	if (parser->part == PART_VALUE)
		return value_begin(parser, RESPONSE_VALUE_DATA, size);
	parser->used = 0;
	/* so that the empty string is one */
	return response_keep(parser, NULL_OCTETS, 0, "a name", parser->limits.name);
}

int response_metadata_add(struct response_parser *parser, const unsigned char *data, size_t size)
{
	size_t room;

	if (parser->part == PART_VALUE) {
		room = parser->limits.value - parser->string_size;
		/* the same is handed on however the octets were cut */
		if (room > 0 && !HANDLE(parser, data, data, size < room ? size : room))
			return -1;
		if (size > room)
			return response_fail_limit(parser, "a value", parser->limits.value);
		parser->string_size += size;
		return 0;
	}
	return response_keep(parser, data, size, "a name", parser->limits.name);
}

/* After the string: what it was decides what comes next. */
static int string_end(struct response_parser *parser)
{
	switch (parser->part) {
	case PART_MAILBOX:
		parser->state = STATE_AFTER_MAILBOX;
		return HANDLE(parser, metadata, parser->buf) ? 0 : -1;
	case PART_ENTRY:
		parser->state = STATE_BETWEEN;
		parser->part = PART_VALUE;
		return 0;
	case PART_VALUE:
		parser->state = STATE_BETWEEN;
		parser->part = PART_ENTRY;
		parser->line = 0;
		return HANDLE(parser, entry_end) ? 0 : -1;
	case PART_NAMED:
		parser->state = STATE_BETWEEN;
		parser->line = 0;
		return value_begin(parser, RESPONSE_VALUE_NOT_SHOWN, 0);
	}
	return response_fail(parser, "");
}

/* An atom that has ended: a name, or NIL. */
static int atom_end(struct response_parser *parser)
{
	if (parser->part != PART_VALUE)
		return string_end(parser);
	if (parser->string_size != 3)
		return response_fail(parser, "a value that is neither a string nor NIL");
	parser->state = STATE_BETWEEN;
	parser->part = PART_ENTRY;
	parser->line = 0;
	return value_begin(parser, RESPONSE_VALUE_NIL, 0);
}

static int atom_add(struct response_parser *parser, unsigned char c)
{
	if (parser->part == PART_VALUE) {
		if (parser->string_size == 3 || (c & 0xdf) != "NIL"[parser->string_size])
			return response_fail(parser, "a value that is neither a string nor NIL");
		parser->string_size++;
		return 0;
	}
	if (c < 0x20 || c == 0x7f || strchr("(){\"\\", c) != NULL)
		return response_fail(parser, "an octet that is not allowed in a name without quotes");
	return response_keep(parser, &c, 1, "a name", parser->limits.name);
}

static int atom_begin(struct response_parser *parser, unsigned char c)
{
	parser->state = STATE_ATOM;
	parser->string_size = 0;
	if (parser->part != PART_VALUE)
		parser->used = 0;
	return atom_add(parser, c);
}

static int string_first(struct response_parser *parser, unsigned char c)
{
	switch (c) {
	case '"':
		return string_begin(parser, STATE_QUOTED, SIZE_MAX);
	case '~':
		if (parser->part == PART_VALUE) {
			parser->state = STATE_TILDE;
			return 0;
		}
		return atom_begin(parser, c);
	case '{':
		parser->state = STATE_SIZE;
		parser->literal = 0;
		parser->digits = 0;
		return 0;
	default:
		return atom_begin(parser, c);
	}
}

static int size_add(struct response_parser *parser, unsigned char c)
{
	if (c == '}' && parser->digits > 0) {
		parser->state = STATE_SIZE_END;
		return 0;
	}
	if (c < '0' || c > '9')
		return response_fail(parser, "a literal's size that is not a number");
	parser->digits = 1;
	if (response_literal_digit(parser, c) < 0)
		return response_fail(parser, "a literal's size that is too large a number");
	return 0;
}

/* The CRLF after a literal's size. */
static int literal_begin(struct response_parser *parser)
{
	size_t limit = parser->part == PART_VALUE ? parser->limits.value : parser->limits.name;

	if (parser->literal > limit)
		return response_fail_limit(parser, parser->part == PART_VALUE ? "a value" : "a name", limit);
	if (string_begin(parser, STATE_LITERAL, parser->literal) < 0)
		return -1;
	return parser->literal > 0 ? 0 : string_end(parser);
}

int response_metadata_literal(struct response_parser *parser, const unsigned char *data, size_t size)
{
	if (parser->part != PART_VALUE &&
	    (memchr(data, '\0', size) != NULL || memchr(data, '\r', size) != NULL || memchr(data, '\n', size) != NULL))
		return response_fail(parser, "a name with NUL, CR or LF");
	if (response_metadata_add(parser, data, size) < 0)
		return -1;
	parser->literal -= size;
	return parser->literal > 0 ? 0 : string_end(parser);
}

/* ---- Between strings ---- */

static int between(struct response_parser *parser, unsigned char c)
{
	if (c == ' ') {
		parser->state = STATE_STRING;
		return 0;
	}
	if (c == ')' && parser->part == PART_ENTRY) {
		parser->state = STATE_CLOSED;
		return 0;
	}
	if (parser->part == PART_VALUE)
		return response_fail(parser, "an entry without a value");
	return response_fail(parser, "no space after a string");
}

static int string_or_end(struct response_parser *parser, unsigned char c)
{
	if (c == ' ')
		return 0;
	if (c == ')' && parser->part == PART_ENTRY) {
		parser->state = STATE_CLOSED;
		return 0;
	}
	return string_first(parser, c);
}

static int after_mailbox(struct response_parser *parser, unsigned char c)
{
	if (c != ' ')
		return response_fail(parser, "no space after a string");
	parser->state = STATE_LIST;
	return 0;
}

/* A list of entries with values, or of names. */
static int list_begin(struct response_parser *parser, unsigned char c)
{
	if (c == ' ')
		return 0;
	parser->line = 0;
	if (c == '(') {
		parser->part = PART_ENTRY;
		parser->state = STATE_STRING;
		return 0;
	}
	parser->part = PART_NAMED;
	return string_first(parser, c);
}

/* ---- Octets ---- */

int response_metadata_octet(struct response_parser *parser, unsigned char c)
{
	switch (parser->state) {
	case STATE_AFTER_MAILBOX:
		return after_mailbox(parser, c);
	case STATE_LIST:
		return list_begin(parser, c);
	case STATE_STRING:
		return string_or_end(parser, c);
	case STATE_BETWEEN:
		return between(parser, c);
	case STATE_ATOM:
		if (c != ' ' && c != ')')
			return atom_add(parser, c);
		return atom_end(parser) < 0 ? -1 : response_metadata_octet(parser, c);
	case STATE_QUOTED:
		if (c == '"')
			return string_end(parser);
		if (c == '\\') {
			parser->state = STATE_ESCAPED;
			return 0;
		}
		return response_metadata_add(parser, &c, 1);
	case STATE_ESCAPED:
		if (c != '"' && c != '\\')
			return response_fail(parser,
					     "a quoted string with a backslash before something else than a quote or a backslash");
		parser->state = STATE_QUOTED;
		return response_metadata_add(parser, &c, 1);
	case STATE_TILDE:
		if (c != '{')
			return response_fail(parser, "a value that is neither a string nor NIL");
		return string_first(parser, c);
	case STATE_SIZE:
		return size_add(parser, c);
	case STATE_SIZE_END:
		return response_fail(parser, "a literal whose size is not followed by CRLF");
	case STATE_CLOSED:
		return c == ' ' ? 0 : response_fail(parser, "something after the list of entries");
	default:
		return response_fail(parser, "");
	}
}

size_t response_metadata_run(const struct response_parser *parser, const unsigned char *data, size_t size)
{
	size_t i = 0;

	if (parser->state == STATE_QUOTED) {
		while (i < size && data[i] != '"' && data[i] != '\\' && data[i] != '\r' && data[i] != '\n' && data[i] != '\0')
			i++;
	}
	return i;
}

int response_metadata_line_end(struct response_parser *parser)
{
	if (parser->state == STATE_SIZE_END)
		return literal_begin(parser);
	/* names only: a name may be what ends the line */
	if (parser->state == STATE_ATOM && parser->part == PART_NAMED && atom_end(parser) < 0)
		return -1;
	if (parser->state != STATE_CLOSED &&
	    !(parser->part == PART_NAMED && (parser->state == STATE_BETWEEN || parser->state == STATE_STRING)))
		return response_fail(parser, "a METADATA response that ends too early");
	if (!HANDLE(parser, metadata_end))
		return -1;
	response_begin(parser);
	return 0;
}
