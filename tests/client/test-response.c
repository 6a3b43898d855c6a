/* The parser of responses: what is understood, what is refused, and that it does not matter how the octets are cut. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "response-log.h"

#define TEN "0123456789"
#define TEN_SPACES "          "
#define TEN_ZEROS "0000000000"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static const struct response_limits small = { .line = 100, .value = 30, .name = 20 };

/* Parses in pieces: next() gives the size of the next one. Returns the log, to be freed. */
static char *parse(const struct response_limits *limits, const char *data, size_t size, unsigned int stop_at,
		   size_t (*next)(void *context), void *context)
{
	struct response_log log = { .stop_at = stop_at };
	struct response_parser *parser = response_parser_new(limits, &response_log_handler, &log);
	size_t done = 0, part;
	char *piece;
	int ret = 0;

	assert_non_null(parser);
	log_octets(&log, "", 0);
	while (done < size && ret == 0) {
		part = next(context);
		if (part > size - done)
			part = size - done;
		/* a copy of its own, so that reading beyond it is found */
		piece = malloc(part == 0 ? 1 : part);
		assert_non_null(piece);
		memcpy(piece, data + done, part);
		ret = response_parser_feed(parser, piece, part);
		free(piece);
		done += part;
	}
	if (ret < 0)
		assert_int_equal(response_parser_feed(parser, "* OK\r\n", 6), -1);
	response_log_end(&log, parser, ret);
	assert_false(log.broken);
	response_parser_free(parser);
	return log.text;
}

static size_t next_fixed(void *context)
{
	return *(size_t *)context;
}

/* The first piece, then all. */
static size_t next_cut(void *context)
{
	size_t *first = context, size = *first;

	*first = SIZE_MAX;
	return size;
}

static size_t next_random(void *context)
{
	uint32_t *seed = context;

	*seed = *seed * 1664525 + 1013904223;
	/* empty ones, too */
	return (*seed >> 16) % 8;
}

/* All ways of cutting that are worth it give the expected log. */
static void check_n(const struct response_limits *limits, const char *data, size_t size, unsigned int stop_at, const char *expected)
{
	size_t piece, cut, first;
	uint32_t seed;
	char *log;

	for (piece = 1; piece <= 3; piece++) {
		log = parse(limits, data, size, stop_at, next_fixed, &piece);
		assert_string_equal(log, expected);
		free(log);
	}
	for (cut = 0; cut <= size; cut++) {
		first = cut;
		log = parse(limits, data, size, stop_at, next_cut, &first);
		assert_string_equal(log, expected);
		free(log);
	}
	for (cut = 0; cut < 20; cut++) {
		seed = cut;
		log = parse(limits, data, size, stop_at, next_random, &seed);
		assert_string_equal(log, expected);
		free(log);
	}
}

static void check(const char *data, const char *expected)
{
	check_n(NULL, data, strlen(data), 0, expected);
}

static void check_small(const char *data, const char *expected)
{
	check_n(&small, data, strlen(data), 0, expected);
}

static void test_status(void **state)
{
	(void)state;
	check("* OK [XMETASYNC (3155928541 12 e763d7b23ff54e8d)] Consistent.\r\n",
	      "OK|XMETASYNC|(3155928541 12 e763d7b23ff54e8d)|Consistent.\n");
	check("a1 NO [XMETASET MODIFIED (1 14)] Changed by others.\r\n",
	      "tagged|a1|NO\n |XMETASET|MODIFIED (1 14)|Changed by others.\n");
	check("* bye\r\n", "BYE|||\n");
	check("a ok\r\n", "tagged|a|OK\n |||\n");
	check("a BAD \r\n", "tagged|a|BAD\n |||\n");
	check("* PREAUTH hello\r\n", "PREAUTH|||hello\n");
	check("* NO [alert] x]y [z\r\n", "NO|ALERT||x]y [z\n");
	check("* OK [UIDNEXT 4]\r\n", "OK|UIDNEXT|4|\n");
	/* what looks like a code */
	check("* OK [no end\r\n", "OK|||[no end\n");
	check("* OK [] x\r\n", "OK|||[] x\n");
	check("* OK [ a] x\r\n", "OK|||[ a] x\n");
	check("a BYE x\r\n", "error|a tagged response that is not OK, NO or BAD\n");
	check("a PREAUTH x\r\n", "error|a tagged response that is not OK, NO or BAD\n");
	check("a 5\r\n", "error|a tagged response that is not OK, NO or BAD\n");
	check("a \r\n", "error|a tagged response that is not OK, NO or BAD\n");
}

static void test_text_is_safe(void **state)
{
	(void)state;
	check("* OK [X \x1b] a\x1b[31m\x7f\xc2\x9b gr\xc3\xbc\xc3\x9f\x65 \xff \xc3\r\n",
	      "OK|X|?|a?[31m??? gr\xc3\xbc\xc3\x9f\x65 ? ?\n");
	/* overlong, half of a pair, beyond Unicode, cut off, turning the text round */
	check("+ \xc0\x80 \xe0\x80\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xf0\x9f\x98 \xe2\x80\xae \xf0\x9f\x98\x80\r\n",
	      "+|?? ??? ??? ???? ??? ??? \xf0\x9f\x98\x80\n");
}

static void test_continuation(void **state)
{
	(void)state;
	check("+ idling\r\n", "+|idling\n");
	check("+ \r\n+\r\n", "+|\n+|\n");
	check("+x\r\n", "error|a line that is no response\n");
}

static void test_capability(void **state)
{
	(void)state;
	check("* CAPABILITY IMAP4rev1  metadata \r\n", "capability|IMAP4REV1 METADATA\n");
	check("* capability\r\n", "capability|\n");
	check("a OK [CAPABILITY IMAP4rev1 XMETASYNC] Logged in\r\n",
	      "capability|IMAP4REV1 XMETASYNC\ntagged|a|OK\n |CAPABILITY|IMAP4rev1 XMETASYNC|Logged in\n");
	check("* OK [CAPABILITY] x\r\n", "capability|\nOK|CAPABILITY||x\n");
}

static void test_metadata(void **state)
{
	(void)state;
	check("* METADATA \"\" (/private/a \"da\\\"r\\\\k\")\r\n",
	      "metadata|\nentry|/private/a|quoted\ndata|da\"r\\k\nend\nmetadata end\n");
	check("* METADATA \"Work\" (/private/a NIL \"/private/b c\" nil)\r\n",
	      "metadata|Work\nentry|/private/a|NIL\nentry|/private/b c|NIL\nmetadata end\n");
	check("* Metadata INBOX (/a {5}\r\na\r\n)b /b \"\" /c {0}\r\n /d ~{2}\r\n\r\n)\r\n",
	      "metadata|INBOX\nentry|/a|5\ndata|a\r\n)b\nend\nentry|/b|quoted\nend\nentry|/c|0\nend\n"
	      "entry|/d|2\ndata|\r\n\nend\nmetadata end\n");
	/* names by literal, as stock servers may */
	check("* METADATA {4}\r\nA\"\\B ({2}\r\n/x {1}\r\ny)\r\n",
	      "metadata|A\"\\B\nentry|/x|1\ndata|y\nend\nmetadata end\n");
	check("* METADATA {0}\r\n ()\r\n", "metadata|\nmetadata end\n");
	/* spaces where they do no harm, a tilde and NIL as names, leading zeros */
	check("* METADATA ~a  (  NIL  NIL  ) \r\n", "metadata|~a\nentry|NIL|NIL\nmetadata end\n");
	check("* METADATA a (/a {0000000000000000000000001}\r\nx)\r\n", "metadata|a\nentry|/a|1\ndata|x\nend\nmetadata end\n");
	/* what is not an atom's octet */
	check("* METADATA a (/a x)\r\n", "metadata|a\nerror|a value that is neither a string nor NIL\n");
	check("* METADATA a (/a NILL)\r\n", "metadata|a\nerror|a value that is neither a string nor NIL\n");
	check("* METADATA a (/a NI)\r\n", "metadata|a\nerror|a value that is neither a string nor NIL\n");
	check("* METADATA a (/a ~\"x\")\r\n", "metadata|a\nerror|a value that is neither a string nor NIL\n");
	check("* METADATA a ((/a NIL))\r\n", "metadata|a\nerror|an octet that is not allowed in a name without quotes\n");
}

static void test_metadata_names(void **state)
{
	(void)state;
	check("* METADATA \"\" /private/a\r\n", "metadata|\nentry|/private/a|not shown\nmetadata end\n");
	check("* METADATA \"\" /a \"/b c\" {2}\r\n/d\r\n",
	      "metadata|\nentry|/a|not shown\nentry|/b c|not shown\nentry|/d|not shown\nmetadata end\n");
	check("* METADATA \"\" \"/a\" \r\n", "metadata|\nentry|/a|not shown\nmetadata end\n");
	check("* METADATA \"\" /a)\r\n", "metadata|\nentry|/a|not shown\nerror|no space after a string\n");
}

static void test_metadata_cut_short(void **state)
{
	const char *early[] = { "*metadata", "* METADATA", "* METADATA ", "* METADATA \"\"", "* METADATA a", "* METADATA \"\" ",
				"* METADATA \"\" (", "* METADATA \"\" (/a", "* METADATA \"\" (/a ", "* METADATA \"\" (/a N",
				"* METADATA \"\" (/a NIL", "* METADATA \"\" (/a \"x\"", "* METADATA \"\" (/a \"x",
				"* METADATA \"\" (/a \"x\\", "* METADATA \"\" (/a {", "* METADATA \"\" (/a {5",
				"* METADATA \"\" (/a ~" };
	size_t all = SIZE_MAX;
	char line[64], *log;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		snprintf(line, sizeof(line), "%s\r\n* OK\r\n", early[i]);
		log = parse(NULL, line, strlen(line), 0, next_fixed, &all);
		assert_non_null(strstr(log, "error|"));
		assert_null(strstr(log, "OK|"));
		assert_null(strstr(log, "metadata end"));
		free(log);
	}
	check("* METADATA \"\" (/a)\r\n", "metadata|\nerror|an entry without a value\n");
	check("* METADATA \"\" (/a NIL)x\r\n", "metadata|\nentry|/a|NIL\nerror|something after the list of entries\n");
	check("* METADATA \"\" (/a \"x\"y", "metadata|\nentry|/a|quoted\ndata|x\nend\nerror|no space after a string\n");
	check("* METADATA \"\"(/a", "metadata|\nerror|no space after a string\n");
	check("* METADATA \"\" (/a \"\\x\")",
	      "metadata|\nentry|/a|quoted\n"
	      "error|a quoted string with a backslash before something else than a quote or a backslash\n");
}

static void test_other(void **state)
{
	(void)state;
	check("* 5 exists\r\n* FLAGS (\\Seen)\r\n", "other|EXISTS\nother|FLAGS\n");
	check("* 1 FETCH (BODY[] {7}\r\n* OK\r\nx FLAGS () X ~{2}\r\n\r\n)\r\n+ x\r\n", "other|FETCH\n+|x\n");
	/* not METADATA nor a status after a number */
	check("* 5 METADATA x\r\n* 5 OK x\r\n", "other|METADATA\nother|OK\n");
	/* no literals */
	check("* X {a}\r\n* X {}\r\n* X {-5}\r\n* X {5\r\n* X {5}x\r\n* X {{5}}\r\n* X {5+}\r\n",
	      "other|X\nother|X\nother|X\nother|X\nother|X\nother|X\nother|X\n");
	check("* X ((((((((\r\n", "other|X\n");
	check("* 5\r\n", "error|an untagged response without a keyword\n");
	check("* 5 \r\n", "error|an untagged response without a keyword\n");
	check("* \r\n", "error|an untagged response without a keyword\n");
	check("* (x)\r\n", "error|an untagged response without a keyword\n");
	check("*\r\n", "error|a line that is no response\n");
	check("\r\n", "error|a line that is no response\n");
	check(" x\r\n", "error|a response that does not begin with a tag\n");
	check("\xff x\r\n", "error|a response that does not begin with a tag\n");
}

static bool note_other(void *context, const char *keyword)
{
	snprintf(context, 32, "%s", keyword);
	return true;
}

static void test_list(void **state)
{
	static const char *const broken[] = { "", "x", "(", "()", "() ", "()\"/\" x", "() /", "() \"/", "() \"/\"", "() \"/\"x",
					      "() NIL", "() NILx y", "() \"/\" \"x", "() \"/\" \"x\\" };
	static const struct response_handler without = { .other = note_other };
	struct response_parser *parser;
	char keyword[32] = "", line[64];
	unsigned int i;

	(void)state;
	check("* LIST (\\HasNoChildren \\Sent) \"/\" Sent\r\n* list () nil INBOX\r\n",
	      "list|\\HasNoChildren \\Sent|Sent\nlist||INBOX\n");
	check("* LIST () \"\\\\\" \"a \\\"b\\\\\"\r\n* LIST () \".\" \"\"\r\n", "list||a \"b\\\nlist||\n");
	/* what RFC 5258 puts behind the name */
	check("* LIST () \"/\" \"x\" (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n* LIST () \"/\" x (y)\r\n", "list||x\nlist||x\n");
	/* names by literal: what is in one does not end it, nor begin another */
	check("* LIST (\\Noselect) \"/\" {6}\r\na\"\\{3}\r\n* LIST () \"/\" {0}\r\n (x)\r\n+ y\r\n",
	      "list|\\Noselect|a\"\\{3}\nlist||\n+|y\n");
	check("* LIST () \"/\" {3}\r\na\nb\r\n", "error|a mailbox name with an octet that no name may have\n");
	check("* LIST () \"/\" {10000}\r\n", "limit|a name of more than 8192 octets\n");
	check("* LIST () \"/\" {18446744073709551617}\r\n", "limit|a name of more than 8192 octets\n");
	check_small("* LIST () \"/\" {21}\r\n", "limit|a name of more than 20 octets\n");
	check_small("* LIST () \"/\" \"" HUNDRED "\"\r\n", "limit|a response of more than 100 octets\n");
	check("* LIST () \"/\" \"a\x1b[2J\"\r\n", "list||a?[2J\n");
	for (i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		snprintf(line, sizeof(line), "* LIST %s\r\n", broken[i]);
		check(line, "error|a LIST response that is none\n");
	}
	/* nobody asks for them */
	parser = response_parser_new(NULL, &without, keyword);
	assert_int_equal(response_parser_feed(parser, "* LIST () \"/\" {0}\r\n\r\n", 21), 0);
	assert_string_equal(keyword, "LIST");
	response_parser_free(parser);
}

static void test_namespaces(void **state)
{
	static const char *const broken[] = {
		"", "NIL", "NIL NIL", "NIL NIL NIL ", "NIL NIL NIL NIL", "() NIL NIL", "((\"\" \"/\") NIL NIL",
		"((\"\" \"/\")) NIL NIL)", "(\"\" \"/\") NIL NIL", "((x \"/\")) NIL NIL", "((\"x)) NIL NIL", "((\"x\" \"/) NIL NIL"
	};
	char line[64];
	unsigned int i;

	(void)state;
	check("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n", "namespace|personal|\n");
	check("* namespace ((\"INBOX.\" \".\")(\"a\\\\b\" NIL)) ((\"~\" \"/\")) nil\r\n",
	      "namespace|personal|INBOX.\nnamespace|personal|a\\b\nnamespace|others|~\n");
	/* RFC 2342's extensions; a parenthesis in a string is none */
	check("* NAMESPACE NIL NIL ((\"#s/\" \"/\" \"X-P\" (\"a)\" \"b\") \"Y\" (\"c\"))(\"t\" \")\"))\r\n",
	      "namespace|shared|#s/\nnamespace|shared|t\n");
	for (i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		snprintf(line, sizeof(line), "* NAMESPACE %s\r\n", broken[i]);
		check(line, strncmp(broken[i], "((\"\"", 4) == 0 ?
		      "namespace|personal|\nerror|a NAMESPACE response that is none\n" :
		      "error|a NAMESPACE response that is none\n");
	}
}

static void test_line_ends(void **state)
{
	(void)state;
	check("* OK a\nb\r\n", "error|LF without CR\n");
	check("* OK a\rb\r\n", "error|CR without LF\n");
	check("* OK a\r\r\n", "error|CR without LF\n");
	check("* X a\n", "error|LF without CR\n");
	check("* METADATA \"\" (/a \"x\ny\")\r\n", "metadata|\nentry|/a|quoted\ndata|x\nerror|LF without CR\n");
	check("* METADATA \"\" (/a \"x\r\")\r\n", "metadata|\nentry|/a|quoted\ndata|x\nerror|CR without LF\n");
	check("* METADATA \"\" (/a {1}\nx)\r\n", "metadata|\nerror|LF without CR\n");
	check("* METADATA \"\" (/a {1}x)\r\n", "metadata|\nerror|a literal whose size is not followed by CRLF\n");
	check("* METADATA \"\" (/a {1}\r\nx\r\n)\r\n",
	      "metadata|\nentry|/a|1\ndata|x\nend\nerror|a METADATA response that ends too early\n");
	/* not there yet */
	check("* OK done\r\n* OK not", "OK|||done\n");
	check("* METADATA \"\" (/a {5}\r\nxy", "metadata|\nentry|/a|5\ndata|xy\nmore\n");
}

#define CHECK_N(data, expected) check_n(NULL, data, sizeof(data) - 1, 0, expected)

static void test_nul(void **state)
{
	(void)state;
	CHECK_N("* OK a\0b\r\n", "error|NUL outside of a literal\n");
	CHECK_N("* METADATA \"a\0b\" ()\r\n", "error|NUL outside of a literal\n");
	CHECK_N("* METADATA {3}\r\na\0b ()\r\n", "error|a name with NUL, CR or LF\n");
	CHECK_N("* METADATA {3}\r\na\rb ()\r\n", "error|a name with NUL, CR or LF\n");
	CHECK_N("* METADATA a ({3}\r\n/\nb NIL)\r\n", "metadata|a\nerror|a name with NUL, CR or LF\n");
	/* the log is a C string; the promise of the size is checked */
	CHECK_N("* METADATA a (/a ~{3}\r\nx\0y)\r\n", "metadata|a\nentry|/a|3\ndata|x");
	CHECK_N("* X {3}\r\n\0\0\0\r\n", "other|X\n");
}

static void test_numbers(void **state)
{
	const char *too_large[] = { "9223372036854775808", "18446744073709551615", "18446744073709551616",
				    "99999999999999999999999999999999999999", "340282366920938463463374607431768211457" };
	char line[128];
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(too_large) / sizeof(too_large[0]); i++) {
		snprintf(line, sizeof(line), "* X {%s}\r\nxxx", too_large[i]);
		check(line, "error|a literal's size that is too large a number\n");
		snprintf(line, sizeof(line), "* METADATA a (/a {%s}\r\nxxx", too_large[i]);
		check(line, "metadata|a\nerror|a literal's size that is too large a number\n");
	}
	check("* X {9223372036854775807}\r\nxxx", "");
	check("* METADATA a (/a {9223372036854775807}\r\nx", "metadata|a\nlimit|a value of more than 16777216 octets\n");
	check("* METADATA a (/a {99999999999}\r\nx", "metadata|a\nlimit|a value of more than 16777216 octets\n");
	check("* METADATA a (/a {-1}\r\nx", "metadata|a\nerror|a literal's size that is not a number\n");
	check("* METADATA a (/a {}\r\nx", "metadata|a\nerror|a literal's size that is not a number\n");
	check("* METADATA a (/a {1+}\r\nx", "metadata|a\nerror|a literal's size that is not a number\n");
	check("* METADATA a (/a { 1}\r\nx", "metadata|a\nerror|a literal's size that is not a number\n");
}

static void test_limits(void **state)
{
	(void)state;
	check_small("* OK " HUNDRED "\r\n", "limit|a response of more than 100 octets\n");
	check_small(HUNDRED HUNDRED, "limit|a response of more than 100 octets\n");
	check_small("* X " HUNDRED "\r\n", "limit|a response of more than 100 octets\n");
	check_small("* X {200}\r\n" HUNDRED HUNDRED "\r\n* OK\r\n", "other|X\nOK|||\n");
	check_small("* METADATA " TEN TEN " ()\r\n", "metadata|" TEN TEN "\nmetadata end\n");
	check_small("* METADATA " TEN TEN "x ()\r\n", "limit|a name of more than 20 octets\n");
	check_small("* METADATA \"" TEN TEN "x\" ()\r\n", "limit|a name of more than 20 octets\n");
	check_small("* METADATA {21}\r\n", "limit|a name of more than 20 octets\n");
	check_small("* METADATA a (" TEN TEN "x NIL)\r\n", "metadata|a\nlimit|a name of more than 20 octets\n");
	check_small("* METADATA a (/a {30}\r\n" TEN TEN TEN ")\r\n",
		    "metadata|a\nentry|/a|30\ndata|" TEN TEN TEN "\nend\nmetadata end\n");
	check_small("* METADATA a (/a {31}\r\n", "metadata|a\nlimit|a value of more than 30 octets\n");
	check_small("* METADATA a (/a \"" TEN TEN TEN "\")\r\n",
		    "metadata|a\nentry|/a|quoted\ndata|" TEN TEN TEN "\nend\nmetadata end\n");
	check_small("* METADATA a (/a \"" HUNDRED "\")\r\n",
		    "metadata|a\nentry|/a|quoted\ndata|" TEN TEN TEN "\nlimit|a value of more than 30 octets\n");
	/* many entries in one response, as stock servers answer GETMETADATA */
	check_small("* METADATA a (/a \"" TEN TEN "\" /b \"" TEN TEN "\" /c \"" TEN TEN "\" /d \"" TEN TEN "\""
		    " /e \"" TEN TEN "\" /f NIL)\r\n",
		    "metadata|a\nentry|/a|quoted\ndata|" TEN TEN "\nend\nentry|/b|quoted\ndata|" TEN TEN "\nend\n"
		    "entry|/c|quoted\ndata|" TEN TEN "\nend\nentry|/d|quoted\ndata|" TEN TEN "\nend\n"
		    "entry|/e|quoted\ndata|" TEN TEN "\nend\nentry|/f|NIL\nmetadata end\n");
	/* but not endless spaces, nor digits */
	check_small("* METADATA a ( " TEN_SPACES TEN_SPACES TEN_SPACES TEN_SPACES TEN_SPACES
		    TEN_SPACES TEN_SPACES TEN_SPACES TEN_SPACES TEN_SPACES,
		    "metadata|a\nlimit|a response of more than 100 octets\n");
	check_small("* METADATA a (/a {" TEN_ZEROS TEN_ZEROS TEN_ZEROS TEN_ZEROS TEN_ZEROS
		    TEN_ZEROS TEN_ZEROS TEN_ZEROS TEN_ZEROS TEN_ZEROS,
		    "metadata|a\nlimit|a response of more than 100 octets\n");
}

/* A callback's false ends it, with no error of the parser's own. */
static void test_stop(void **state)
{
	const char *data = "* METADATA a (/a \"b\" /c NIL)\r\n+ x\r\n* X\r\n* CAPABILITY X\r\na OK\r\n* NO\r\n";
	size_t all = SIZE_MAX, lines = 0, length;
	unsigned int i;
	char *whole = parse(NULL, data, strlen(data), 0, next_fixed, &all), *log;

	(void)state;
	for (i = 1; i <= 10; i++) {
		log = parse(NULL, data, strlen(data), i, next_fixed, &all);
		length = strlen(log);
		assert_true(length > strlen("error|\n") && strcmp(log + length - strlen("error|\n"), "error|\n") == 0);
		assert_memory_equal(log, whole, length - strlen("error|\n"));
		assert_true(length > lines);
		lines = length;
		check_n(NULL, data, strlen(data), i, log);
		free(log);
	}
	assert_null(strstr(whole, "error"));
	free(whole);
}

/* Handlers that are not there, and the memory for a value is not the value's size. */
static void test_big_value(void **state)
{
	static const struct response_handler none;
	struct response_limits limits = { .value = SIZE_MAX };
	struct response_parser *parser = response_parser_new(&limits, &none, NULL);
	static char block[65536];
	const char *begin = "* OK\r\n* CAPABILITY X\r\n+ x\r\n* METADATA a (/a {1073741824}\r\n",
		*end = " /b \"x\" /c NIL)\r\n* X\r\na OK\r\n";
	unsigned int i;

	(void)state;
	assert_int_equal(response_parser_feed(parser, begin, strlen(begin)), 0);
	for (i = 0; i < 1073741824 / sizeof(block); i++)
		assert_int_equal(response_parser_feed(parser, block, sizeof(block)), 0);
	assert_int_equal(response_parser_feed(parser, end, strlen(end)), 0);
	assert_int_equal(response_parser_feed(parser, "x\n", 2), -1);
	assert_false(response_is_limit(parser));
	response_parser_free(parser);
	response_parser_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_text_is_safe),
		cmocka_unit_test(test_continuation),
		cmocka_unit_test(test_capability),
		cmocka_unit_test(test_metadata),
		cmocka_unit_test(test_metadata_names),
		cmocka_unit_test(test_metadata_cut_short),
		cmocka_unit_test(test_other),
		cmocka_unit_test(test_list), cmocka_unit_test(test_namespaces),
		cmocka_unit_test(test_line_ends),
		cmocka_unit_test(test_nul),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_big_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
