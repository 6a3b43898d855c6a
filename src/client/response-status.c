/* Lines without literals: status responses with their codes (RFC 3501 7.1, RFC 9051 7.1), continuations, capabilities. Called by
   response.c with the whole line in the parser's buffer. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "response-private.h"

void response_upper(char *text)
{
	for (; *text != '\0'; text++) {
		if (*text >= 'a' && *text <= 'z')
			*text -= 'a' - 'A';
	}
}

bool response_cond(const char *word, enum response_cond *cond_r)
{
	static const char *const words[] = {
		[RESPONSE_OK] = "OK", [RESPONSE_NO] = "NO", [RESPONSE_BAD] = "BAD", [RESPONSE_BYE] = "BYE",
		[RESPONSE_PREAUTH] = "PREAUTH",
	};
	unsigned int i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(word, words[i]) == 0) {
			*cond_r = i;
			return true;
		}
	}
	return false;
}

/* Length of the UTF-8 character at p, 0 if there is none. The line ends in a NUL, which is no continuation. */
static size_t utf8_length(const unsigned char *p)
{
	unsigned int code;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] < 0xe0)
		return (p[1] & 0xc0) == 0x80 ? 2 : 0;
	if ((p[0] & 0xf0) == 0xe0 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80) {
		code = (p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
		/* neither overlong nor half of a UTF-16 pair */
		return code >= 0x800 && (code < 0xd800 || code > 0xdfff) ? 3 : 0;
	}
	if (p[0] >= 0xf0 && p[0] <= 0xf4 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80 && (p[3] & 0xc0) == 0x80) {
		code = (p[0] & 0x07) << 18 | (p[1] & 0x3f) << 12;
		return code >= 0x10000 && code <= 0x10ffff ? 4 : 0;
	}
	return 0;
}

/* C0, DEL, C1; and what turns the direction of a text on a terminal, U+202A-202E and U+2066-2069. */
static bool is_control(const unsigned char *p, size_t length)
{
	if (length == 1)
		return p[0] < 0x20 || p[0] == 0x7f;
	if (length == 2)
		return p[0] == 0xc2 && p[1] < 0xa0;
	return length == 3 && p[0] == 0xe2 &&
		((p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae) || (p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9));
}

void response_make_safe(char *text)
{
	unsigned char *p = (unsigned char *)text;
	size_t length;

	while (*p != '\0') {
		length = utf8_length(p);
		if (length == 0) {
			*p++ = '?';
			continue;
		}
		if (is_control(p, length))
			memset(p, '?', length);
		p += length;
	}
}

/* "a  b " -> "A B" */
static bool handle_capability(struct response_parser *parser, char *list)
{
	char *to = list, *from;

	response_upper(list);
	for (from = list; *from != '\0'; from++) {
		if (*from != ' ' || (to > list && to[-1] != ' '))
			*to++ = *from;
	}
	if (to > list && to[-1] == ' ')
		to--;
	*to = '\0';
	return HANDLE(parser, capability, list);
}

/* resp-text: ["[" code [SP args] "]" SP] text. What looks like a code and is none is text. */
static int parse_text(struct response_parser *parser, char *line, struct response_status *status_r)
{
	char *end, *args, *list;

	status_r->code = status_r->code_args = "";
	status_r->text = line;
	if (line[0] != '[' || (end = strchr(line, ']')) == NULL)
		return 0;
	args = line + strcspn(line, " ]");
	if (args == line + 1)
		return 0;
	status_r->text = end[1] == ' ' ? end + 2 : end + 1;
	*end = '\0';
	if (args != end)
		*args++ = '\0';
	response_upper(line + 1);
	status_r->code = line + 1;
	status_r->code_args = args;
	if (strcmp(status_r->code, "CAPABILITY") != 0 || parser->handler.capability == NULL)
		return 0;
	list = strdup(args);
	if (list == NULL) {
		parser->is_memory = true;
		snprintf(parser->error, sizeof(parser->error), "out of memory");
		return -1;
	}
	status_r->code_args = args;
	if (!handle_capability(parser, list)) {
		free(list);
		return -1;
	}
	free(list);
	return 0;
}

/* The line is "tag cond text". */
static int handle_tagged(struct response_parser *parser)
{
	struct response_status status;
	char *tag = parser->buf, *word, *text;

	word = strchr(tag, ' ');
	*word++ = '\0';
	text = word + strcspn(word, " ");
	if (*text != '\0')
		*text++ = '\0';
	response_upper(word);
	if (!response_cond(word, &status.cond) || status.cond == RESPONSE_BYE || status.cond == RESPONSE_PREAUTH) {
		snprintf(parser->error, sizeof(parser->error), "a tagged response that is not OK, NO or BAD");
		return -1;
	}
	if (parse_text(parser, text, &status) < 0)
		return -1;
	return HANDLE(parser, tagged, tag, &status) ? 0 : -1;
}

/* A quoted string at *text, unescaped in place; NULL: there is none. *text is behind it then. */
static char *quoted(char **text)
{
	char *from = *text, *to, *start;

	if (*from++ != '"')
		return NULL;
	for (start = to = from; *from != '"'; from++) {
		if (*from == '\\')
			from++;
		if (*from == '\0')
			return NULL;
		*to++ = *from;
	}
	*text = from + 1;
	*to = '\0';
	return start;
}

/* "(flags) separator mailbox" (RFC 3501 7.2.2); what RFC 5258 puts behind it is not looked at. */
static int handle_list(struct response_parser *parser, char *line)
{
	char *flags = line + 1, *end = strchr(line, ')'), *mailbox;

	if (line[0] != '(' || end == NULL || end[1] != ' ')
		goto broken;
	*end = '\0';
	line = end + 2;
	if (strncasecmp(line, "NIL", 3) == 0)
		line += 3;
	else if (quoted(&line) == NULL)
		goto broken;
	if (*line++ != ' ')
		goto broken;
	if (*line == '"') {
		mailbox = quoted(&line);
		if (mailbox == NULL)
			goto broken;
	} else {
		mailbox = line;
		line[strcspn(line, " ")] = '\0';
	}
	return HANDLE(parser, list, flags, mailbox) ? 0 : -1;
broken:
	snprintf(parser->error, sizeof(parser->error), "a LIST response that is none");
	return -1;
}

/* What is behind a prefix, up to and with its ")": the separator, and what extensions put there. */
static bool skip_namespace(char **line)
{
	unsigned int depth = 1;

	while (depth > 0) {
		if (**line == '\0')
			return false;
		if (**line == '"') {
			if (quoted(line) == NULL)
				return false;
			continue;
		}
		depth += **line == '(';
		depth -= **line == ')';
		++*line;
	}
	return true;
}

/* "((prefix separator)...)" or NIL, three times (RFC 2342 section 6). A prefix in a literal is not taken: nobody has seen one. */
static int handle_namespaces(struct response_parser *parser, char *line)
{
	unsigned int kind;
	char *prefix;

	for (kind = RESPONSE_NAMESPACE_PERSONAL; kind <= RESPONSE_NAMESPACE_SHARED; kind++) {
		if (kind > RESPONSE_NAMESPACE_PERSONAL && *line++ != ' ')
			goto broken;
		if (strncasecmp(line, "NIL", 3) == 0) {
			line += 3;
			continue;
		}
		if (*line++ != '(' || *line != '(')
			goto broken;
		while (*line == '(') {
			line++;
			prefix = quoted(&line);
			if (prefix == NULL || !skip_namespace(&line))
				goto broken;
			if (!HANDLE(parser, name_space, kind, prefix))
				return -1;
		}
		if (*line++ != ')')
			goto broken;
	}
	if (*line == '\0')
		return 0;
broken:
	snprintf(parser->error, sizeof(parser->error), "a NAMESPACE response that is none");
	return -1;
}

int response_line(struct response_parser *parser)
{
	struct response_status status;

	response_make_safe(parser->buf);
	switch (parser->kind) {
	case LINE_TAGGED:
		return handle_tagged(parser);
	case LINE_STATUS:
		status.cond = parser->cond;
		if (parse_text(parser, parser->buf, &status) < 0)
			return -1;
		return HANDLE(parser, status, &status) ? 0 : -1;
	case LINE_CONTINUATION:
		return HANDLE(parser, continuation, parser->buf) ? 0 : -1;
	case LINE_CAPABILITY:
		return handle_capability(parser, parser->buf) ? 0 : -1;
	case LINE_LIST:
		return handle_list(parser, parser->buf);
	case LINE_NAMESPACE:
		return handle_namespaces(parser, parser->buf);
	}
	return -1;
}
