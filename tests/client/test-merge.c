/* The built-in merges: laws that hold for any texts, tables of cases, random texts against git merge-file, and what they cost. */

#include "dovetail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <cmocka.h>

struct text {
	const char *data;
	size_t size;
};

static struct text text_of(const char *data)
{
	return (struct text){ data, data == NULL ? 0 : strlen(data) };
}

static char *merge_texts(enum dovetail_rule rule, struct text base, struct text mine, struct text theirs, size_t *size_r,
			 bool *conflict_r)
{
	struct dovetail_conflict conflict = {
		.mailbox = "", .name = "/private/x",
		.base = { base.data, base.size }, .mine = { mine.data, mine.size }, .theirs = { theirs.data, theirs.size }
	};
	void *data;

	assert_int_equal(dovetail_merge(rule, &conflict, &data, size_r, conflict_r), DOVETAIL_OK);
	if (data != NULL)
		assert_int_equal(((char *)data)[*size_r], '\0');
	return data;
}

/* result NULL: removed */
static void check_at(enum dovetail_rule rule, const char *base, const char *mine, const char *theirs, const char *result,
		     bool conflict, const char *file, int line)
{
	bool found;
	size_t size;
	char *data = merge_texts(rule, text_of(base), text_of(mine), text_of(theirs), &size, &found);

	if ((data == NULL) != (result == NULL) || (data != NULL && (size != strlen(result) || strcmp(data, result) != 0))) {
		print_error("\"%s\"\n  is not\n\"%s\"\n", data == NULL ? "(removed)" : data, result == NULL ? "(removed)" : result);
		_fail(file, line);
	}
	_assert_int_equal(found, conflict, file, line);
	free(data);
}
#define lines(base, mine, theirs, result, conflict) \
	check_at(DOVETAIL_RULE_LINES, base, mine, theirs, result, conflict, __FILE__, __LINE__)
#define json(base, mine, theirs, result, conflict) \
	check_at(DOVETAIL_RULE_JSON, base, mine, theirs, result, conflict, __FILE__, __LINE__)

static void test_rules(void **state)
{
	struct dovetail_conflict conflict = { .base = { "b", 1 }, .mine = { "m", 1 }, .theirs = { "t", 1 } };
	bool found;
	size_t size;
	void *data;

	(void)state;
	check_at(DOVETAIL_RULE_SERVER, "b", "m", "t", "t", false, __FILE__, __LINE__);
	check_at(DOVETAIL_RULE_SERVER, "b", "m", NULL, NULL, false, __FILE__, __LINE__);
	check_at(DOVETAIL_RULE_MINE, "b", "m", "t", "m", true, __FILE__, __LINE__);
	check_at(DOVETAIL_RULE_MINE, "b", NULL, "t", NULL, true, __FILE__, __LINE__);
	check_at(DOVETAIL_RULE_MINE, "b", "m", "b", "m", false, __FILE__, __LINE__);
	assert_int_equal(dovetail_merge(DOVETAIL_RULE_VALUE, &conflict, &data, &size, &found), DOVETAIL_INVALID);
	assert_null(data);
	assert_int_equal(dovetail_merge(99, &conflict, &data, &size, &found), DOVETAIL_INVALID);
}

static void test_lines(void **state)
{
	(void)state;
	lines("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n", false);
	lines("a\nb\nc\n", "b\nc\n", "a\nb\n", "b\n", false);
	lines("a\nb\nc\n", "a\nx\nc\n", "a\ny\nc\n", "a\nx\nc\n", true);
	/* only the lines in conflict are mine's */
	lines("1\n2\n3\n4\n5\n", "1\nm\n3\n4\n5\n", "1\nt\n3\n4\nT\n", "1\nm\n3\n4\nT\n", true);
	/* both the same */
	lines("a\nb\nc\n", "a\nx\nc\n", "a\nx\nc\nd\n", "a\nx\nc\nd\n", false);
	/* no LF at the end */
	lines("a\nb\nc", "A\nb\nc", "a\nb\nc\nd", "A\nb\nc\nd", false);
	lines("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc", "A\nb\nc", false);
	lines("a\nb\n", "a\nb", "a\nb\nc\n", "a\nb", true);
	/* CRLF stays */
	lines("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nc\r\nd\r\n", "A\r\nb\r\nc\r\nd\r\n", false);
	/* empty, and nothing */
	lines("", "m\n", "t\n", "m\n", true);
	lines("a\n", "", "a\nb\n", "", true);
	lines("a\n", "a\n", "", "", false);
	lines(NULL, "m\n", "t\n", "m\n", true);
	lines(NULL, "m", NULL, "m", false);
	lines("a\n", NULL, "b\n", NULL, true);
	lines("a\n", "b\n", NULL, "b\n", true);
	lines("a\n", NULL, "a\n", NULL, false);
	lines("a\n", "a\n", NULL, NULL, false);
	lines("a\n", NULL, NULL, NULL, false);
}

static void test_binary(void **state)
{
	bool conflict;
	size_t size;
	char *data;

	(void)state;
	data = merge_texts(DOVETAIL_RULE_LINES, (struct text){ "a\nb\nc\0\n", 8 }, (struct text){ "A\nb\nc\0\n", 8 },
			   (struct text){ "a\nb\nC\0\n", 8 }, &size, &conflict);
	assert_int_equal(size, 8);
	assert_memory_equal(data, "A\nb\nc\0\n", 8);
	assert_true(conflict);
	free(data);
	data = merge_texts(DOVETAIL_RULE_JSON, (struct text){ "{}\0", 3 }, (struct text){ "{\"a\":1}", 7 },
			   (struct text){ "{\"b\":1}", 7 }, &size, &conflict);
	assert_string_equal(data, "{\"a\":1}");
	assert_true(conflict);
	free(data);
}

static void test_json(void **state)
{
	(void)state;
	json("{\"a\":1,\"b\":2}", "{\"a\":9,\"b\":2}", "{\"a\":1,\"b\":8}", "{\"a\":9,\"b\":8}", false);
	json("{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":2}", true);
	/* added by both, removed by each */
	json("{}", "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}", false);
	json("{\"a\":1,\"b\":2,\"c\":3}", "{\"b\":2,\"c\":3}", "{\"a\":1,\"b\":2}", "{\"b\":2}", false);
	json("{\"a\":1,\"b\":2}", "{\"b\":2}", "{\"a\":7,\"b\":2}", "{\"b\":2}", true);
	json("{\"a\":1,\"b\":2}", "{\"a\":7,\"b\":2}", "{\"b\":2,\"c\":3}", "{\"a\":7,\"b\":2,\"c\":3}", true);
	json("{\"a\":1}", "{}", "{\"a\":1,\"b\":1}", "{\"b\":1}", false);
	/* nested */
	json("{\"o\":{\"x\":1,\"y\":1}}", "{\"o\":{\"x\":2,\"y\":1}}", "{\"o\":{\"x\":1,\"y\":2}}", "{\"o\":{\"x\":2,\"y\":2}}",
	     false);
	json("{}", "{\"o\":{\"x\":1}}", "{\"o\":{\"y\":2}}", "{\"o\":{\"x\":1,\"y\":2}}", false);
	json("{\"o\":[1]}", "{\"o\":[1,2]}", "{\"o\":[1,3]}", "{\"o\":[1,2]}", true);
	/* mine's layout, numbers and escapes as they are */
	json("{\n  \"a\": 1.10,\n  \"b\": 1\n}\n", "{\n  \"a\": 1.10,\n  \"b\": 2\n}\n",
	     "{\"a\":1.10,\"b\":1,\"n\":123456789012345678901234567890}",
	     "{\n  \"a\": 1.10,\n  \"b\": 2,\n  \"n\":123456789012345678901234567890\n}\n", false);
	json("{\"n\":9007199254740992}", "{\"n\":9007199254740993,\"a\":1}", "{\"n\":9007199254740992,\"b\":1}",
	     "{\"n\":9007199254740993,\"a\":1,\"b\":1}", false);
	json("{\"\\u0061\":1}", "{\"a\":1,\"b\":\"\\\"}\"}", "{\"\\u0061\":2}", "{\"a\":2,\"b\":\"\\\"}\"}", false);
	json("{\"a\":\"x y\"}", "{\"a\":\"x  y\"}", "{\"a\":\"x y\",\"b\":1}", "{\"a\":\"x  y\",\"b\":1}", false);
	/* not objects, or doubtful ones */
	json("[1]", "[1,2]", "[1,3]", "[1,2]", true);
	json("{}", "{\"a\":1,\"a\":2}", "{\"b\":1}", "{\"a\":1,\"a\":2}", true);
	json("{}", "{\"a\":1}", "{\"b\":1", "{\"a\":1}", true);
	json("", "{\"a\":1}", "{\"b\":1}", "{\"a\":1}", true);
	json(NULL, "{\"a\":1}", "{\"b\":1}", "{\"a\":1}", true);
	json("{}", NULL, "{\"b\":1}", NULL, true);
}

static void test_json_deep(void **state)
{
	const unsigned int depths[] = { 1000, 100000 };
	char *texts[3];
	bool conflict;
	size_t size;
	char *data;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		for (unsigned int j = 0; j < 3; j++) {
			char *p = texts[j] = malloc(depths[i] * 7 + 100);

			for (unsigned int k = 0; k < depths[i]; k++)
				p = stpcpy(p, "{\"o\":");
			p += sprintf(p, "{\"m\":%d,\"t\":%d}", j == 1, j == 2);
			memset(p, '}', depths[i]);
			p[depths[i]] = '\0';
		}
		data = merge_texts(DOVETAIL_RULE_JSON, text_of(texts[0]), text_of(texts[1]), text_of(texts[2]), &size, &conflict);
		/* deeper than Jansson goes: mine */
		assert_int_equal(conflict, i == 1);
		assert_int_equal(strstr(data, "{\"m\":1,\"t\":1}") != NULL, i == 0);
		free(data);
		for (unsigned int j = 0; j < 3; j++)
			free(texts[j]);
	}
}

/* -- random texts */

static uint64_t rnd_state = 1;

static unsigned int rnd(unsigned int below)
{
	rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned int)(rnd_state >> 33) % below;
}

/* Lines of an alphabet, the last one sometimes without its end; edits of it */
static void random_text(char *text, unsigned int lines, unsigned int alphabet)
{
	text[0] = '\0';
	for (unsigned int i = 0; i < lines; i++)
		text += sprintf(text, "%u\n", rnd(alphabet));
	if (lines > 0 && rnd(3) == 0)
		text[-1] = '\0';
}

static void random_edit(const char *from, char *to, unsigned int alphabet)
{
	const char *end;

	for (; *from != '\0'; from = end) {
		end = strchr(from, '\n');
		end = end == NULL ? from + strlen(from) : end + 1;
		switch (rnd(10)) {
		case 0:
			break;
		case 1:
			to += sprintf(to, "%u\n", 1000000 + rnd(alphabet));
			/* fall through */
		default:
			to += sprintf(to, "%.*s", (int)(end - from), from);
			break;
		}
	}
	*to = '\0';
}

static void laws(enum dovetail_rule rule, const char *base, const char *mine, const char *theirs)
{
	check_at(rule, base, mine, base, mine, false, __FILE__, __LINE__);
	check_at(rule, base, base, theirs, theirs, false, __FILE__, __LINE__);
	check_at(rule, base, mine, mine, mine, false, __FILE__, __LINE__);
}

static void test_laws(void **state)
{
	char base[2000], mine[4000], theirs[4000], *one, *other;
	bool conflict, conflict2;
	size_t size;

	(void)state;
	for (unsigned int i = 0; i < 5000; i++) {
		random_text(base, rnd(20), 3 + rnd(30));
		random_edit(base, mine, 100);
		random_edit(base, theirs, 100);
		laws(DOVETAIL_RULE_LINES, base, mine, theirs);
		laws(DOVETAIL_RULE_JSON, base, mine, theirs);
		/* without a conflict it does not matter who is who */
		one = merge_texts(DOVETAIL_RULE_LINES, text_of(base), text_of(mine), text_of(theirs), &size, &conflict);
		other = merge_texts(DOVETAIL_RULE_LINES, text_of(base), text_of(theirs), text_of(mine), &size, &conflict2);
		assert_int_equal(conflict, conflict2);
		if (!conflict)
			assert_string_equal(one, other);
		free(one);
		free(other);
	}
}

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[300];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	assert_int_equal(fclose(file), 0);
}

/* Exit code of git merge-file: 0, or the number of conflicts. */
static int git_merge(const char *dir, char *out, size_t size)
{
	char command[1000];
	size_t got;
	FILE *pipe;

	(void)snprintf(command, sizeof(command), "cd %s && git merge-file -p --diff3 mine base theirs 2>/dev/null", dir);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	got = fread(out, 1, size - 1, pipe);
	out[got] = '\0';
	return WEXITSTATUS(pclose(pipe));
}

/* Lines are all different, so that there is one way to see what was changed. */
static void test_against_git(void **state)
{
	char dir[] = "/tmp/merge-test-XXXXXX", base[4000], mine[8000], theirs[8000], expected[16000], *p, command[100], *data;
	unsigned int clean = 0, lines;
	bool conflict;
	size_t size;

	(void)state;
	if (system("git --version >/dev/null 2>&1") != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	for (unsigned int i = 0; i < 400; i++) {
		lines = 10 + rnd(30);
		p = base;
		for (unsigned int j = 0; j < lines; j++)
			p += sprintf(p, "line %u\n", j);
		random_edit(base, mine, 1000000);
		random_edit(base, theirs, 1000000);
		write_file(dir, "base", base);
		write_file(dir, "mine", mine);
		write_file(dir, "theirs", theirs);
		data = merge_texts(DOVETAIL_RULE_LINES, text_of(base), text_of(mine), text_of(theirs), &size, &conflict);
		if (git_merge(dir, expected, sizeof(expected)) == 0) {
			assert_string_equal(data, expected);
			assert_false(conflict);
			clean++;
		}
		free(data);
	}
	(void)snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	assert_true(clean > 20);
	print_message("%u of 400 without a conflict\n", clean);
}

/* -- what it costs */

static void large(const char *what, char *(*make)(unsigned int kind))
{
	struct timespec from, to;
	struct rusage usage;
	bool conflict;
	char *texts[3];
	size_t size;

	for (unsigned int i = 0; i < 3; i++)
		texts[i] = make(i);
	clock_gettime(CLOCK_MONOTONIC, &from);
	free(merge_texts(DOVETAIL_RULE_LINES, text_of(texts[0]), text_of(texts[1]), text_of(texts[2]), &size, &conflict));
	clock_gettime(CLOCK_MONOTONIC, &to);
	getrusage(RUSAGE_SELF, &usage);
	print_message("%s: %.0f ms, conflict %d, peak of the process %ld KiB\n", what,
		      (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6, conflict, usage.ru_maxrss);
	/* 18 MB for each comparison's steps, a few times the texts */
	assert_true(usage.ru_maxrss < 200 * 1024);
	for (unsigned int i = 0; i < 3; i++)
		free(texts[i]);
}

static char *make_few(unsigned int kind)
{
	char *text = malloc(2000000), *p = text;

	for (unsigned int i = 0; i < 100000; i++) {
		if ((kind == 1 && i % 1000 == 0) || (kind == 2 && i % 1000 == 500))
			p += sprintf(p, "new %u %u\n", kind, i);
		p += sprintf(p, "%u\n", i);
	}
	return text;
}

static char *make_different(unsigned int kind)
{
	char *text = malloc(2000000), *p = text;

	for (unsigned int i = 0; i < 100000; i++)
		p += sprintf(p, "%u %u\n", kind, i);
	return text;
}

/* the same lines in a random order: nothing can be set aside */
static char *make_shuffled(unsigned int kind)
{
	char *text = malloc(2000000), *p = text;

	(void)kind;
	for (unsigned int i = 0; i < 100000; i++)
		p += sprintf(p, "%u\n", rnd(500));
	return text;
}

static char *make_one_line(unsigned int kind)
{
	char *text = malloc(1048577);

	memset(text, 'a' + kind, 1048576);
	text[1048576] = '\0';
	return text;
}

static void test_large(void **state)
{
	(void)state;
	large("100,000 lines, 100 changes each", make_few);
	large("100,000 lines, all different", make_different);
	large("100,000 lines, shuffled", make_shuffled);
	large("one line of 1 MiB", make_one_line);
}

static void test_json_large(void **state)
{
	char *texts[3], *p;
	bool conflict;
	size_t size;
	char *data;

	(void)state;
	for (unsigned int kind = 0; kind < 3; kind++) {
		p = texts[kind] = malloc(4000000);
		*p++ = '{';
		for (unsigned int i = 0; i < 100000; i++)
			p += sprintf(p, "%s\"key%u\":%d", i == 0 ? "" : ",", i, i % 2 == 0 ? kind == 1 : kind == 2);
		strcpy(p, "}");
	}
	data = merge_texts(DOVETAIL_RULE_JSON, text_of(texts[0]), text_of(texts[1]), text_of(texts[2]), &size, &conflict);
	assert_false(conflict);
	assert_null(strstr(data, ":0"));
	free(data);
	for (unsigned int kind = 0; kind < 3; kind++)
		free(texts[kind]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_binary),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_json_deep),
		cmocka_unit_test(test_laws),
		cmocka_unit_test(test_against_git),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_json_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
