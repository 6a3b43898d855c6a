/* Entry names and filters: the rules of store.h that need no store. */

#include "store-test.h"

#include <string.h>

static enum store_name check(const char *name, bool filter)
{
	char dest[2048];

	return store_name_normalize(name, strlen(name), 1024, filter, dest);
}

static void test_good_names(void **state)
{
	char dest[64] = "/Private/Vendor/X/A~!#$&'()+,-.:;<=>?@[]^_`{|}";

	(void)state;
	assert_int_equal(check("/private/a", false), STORE_NAME_OK);
	assert_int_equal(check("/shared/comment", false), STORE_NAME_OK);
	assert_int_equal(check("/private/a b\"\\", false), STORE_NAME_OK);
	/* in place, in lower case */
	assert_int_equal(store_name_normalize(dest, strlen(dest), 1024, false,
					      dest), STORE_NAME_OK);
	assert_string_equal(dest,
			    "/private/vendor/x/a~!#$&'()+,-.:;<=>?@[]^_`{|}");
}

static void test_bad_names(void **state)
{
	static const char *const names[] = {
		"", "/", "a", "private/a", "/privat/a", "/privatea",
		"/sharedx/a", "/private/", "/private//a", "/private/a/",
		"/private/a//b", "//private/a", "/shared/", "/private/a*",
		"/private/%", "/private/a\x1f", "/private/a\x7f",
		"/private/\xc3\xa4", "/private/\t", " /private/a", "/other/a"
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (check(names[i], false) != STORE_NAME_INVALID ||
		    check(names[i], true) != STORE_NAME_INVALID)
			fail_msg("'%s' passed", names[i]);
	}
	/* a NUL within the size */
	char dest[32];
	assert_int_equal(store_name_normalize("/private/a\0b", 12, 1024, false,
					      dest), STORE_NAME_INVALID);
}

static void test_filter_roots(void **state)
{
	(void)state;
	assert_int_equal(check("/private", true), STORE_NAME_OK);
	assert_int_equal(check("/SHARED", true), STORE_NAME_OK);
	assert_int_equal(check("/private", false), STORE_NAME_INVALID);
	assert_int_equal(check("/shared", false), STORE_NAME_INVALID);
	assert_int_equal(check("/private/a", true), STORE_NAME_OK);
}

static void test_name_size(void **state)
{
	char name[1100], dest[1100];

	(void)state;
	memset(name, 'a', sizeof(name));
	memcpy(name, "/private/", 9);
	assert_int_equal(store_name_normalize(name, 1024, 1024, false, dest),
			 STORE_NAME_OK);
	assert_int_equal(strlen(dest), 1024);
	assert_int_equal(store_name_normalize(name, 1025, 1024, false, dest),
			 STORE_NAME_TOO_LONG);
	assert_int_equal(store_name_normalize(name, 20, 19, false, dest),
			 STORE_NAME_TOO_LONG);
	/* invalid comes first */
	name[500] = '*';
	assert_int_equal(store_name_normalize(name, 1025, 1024, false, dest),
			 STORE_NAME_INVALID);
}

static bool match(enum store_scope_type type, const char *scope_mailbox,
		  const char *entry, enum store_depth depth,
		  const char *mailbox, const char *name)
{
	const struct store_scope scope = { type, scope_mailbox, '/' };
	const struct store_selection selection = { &scope, 1, &entry, 1 };
	const struct store_filter filter = { &selection, 1, depth };

	return store_filter_match(&filter, mailbox, name);
}

static void test_scopes(void **state)
{
	const char *e = "/private/a";

	(void)state;
	assert_true(match(STORE_SCOPE_MAILBOX, "x", e, 0, "x", e));
	assert_false(match(STORE_SCOPE_MAILBOX, "x", e, 0, "X", e));
	assert_false(match(STORE_SCOPE_MAILBOX, "x", e, 0, "x/y", e));
	assert_false(match(STORE_SCOPE_MAILBOX, "x", e, 0, "", e));
	assert_true(match(STORE_SCOPE_MAILBOX, "", e, 0, "", e));
	assert_true(match(STORE_SCOPE_SERVER, NULL, e, 0, "", e));
	assert_false(match(STORE_SCOPE_SERVER, NULL, e, 0, "x", e));
	assert_true(match(STORE_SCOPE_PERSONAL, NULL, e, 0, "x", e));
	assert_false(match(STORE_SCOPE_PERSONAL, NULL, e, 0, "", e));
	assert_true(match(STORE_SCOPE_SUBTREE, "x", e, 0, "x", e));
	assert_true(match(STORE_SCOPE_SUBTREE, "x", e, 0, "x/y/z", e));
	assert_false(match(STORE_SCOPE_SUBTREE, "x", e, 0, "xy", e));
	assert_false(match(STORE_SCOPE_SUBTREE, "x", e, 0, "x.y", e));
	assert_false(match(STORE_SCOPE_SUBTREE, "x/y", e, 0, "x", e));
	assert_true(match(STORE_SCOPE_SUBTREE, "", e, 0, "x/y", e));
	assert_true(match(STORE_SCOPE_SUBTREE, "", e, 0, "", e));
}

static void test_depths(void **state)
{
	static const struct {
		const char *entry, *name;
		bool match[3];
	} cases[] = {
		{ "/private/a", "/private/a", { true, true, true } },
		{ "/private/a", "/private/a/b", { false, true, true } },
		{ "/private/a", "/private/a/b/c", { false, false, true } },
		/* whole components */
		{ "/private/a", "/private/ab", { false, false, false } },
		{ "/private/a", "/private/ab/c", { false, false, false } },
		{ "/private/a/b", "/private/a", { false, false, false } },
		{ "/private", "/private/a", { false, true, true } },
		{ "/private", "/private/a/b", { false, false, true } },
		{ "/private", "/shared/a", { false, false, false } },
	};
	unsigned int i, depth;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (depth = 0; depth < 3; depth++) {
			if (match(STORE_SCOPE_SERVER, NULL, cases[i].entry,
				  depth, "", cases[i].name) !=
			    cases[i].match[depth])
				fail_msg("%s, %s, depth %u", cases[i].entry,
					 cases[i].name, depth);
		}
	}
}

static void test_selections(void **state)
{
	static const struct store_scope scopes[] = {
		{ STORE_SCOPE_MAILBOX, "x", '/' },
		{ STORE_SCOPE_MAILBOX, "y", '/' },
	};
	static const char *const entries[] = { "/private/a", "/private/b" };
	static const struct store_selection selections[] = {
		{ &scopes[0], 1, entries, 2 },
		{ &scopes[1], 1, &entries[1], 1 },
	};
	static const struct store_filter filter = {
		selections, 2, STORE_DEPTH_0
	};
	static const struct store_filter none = { NULL, 0, STORE_DEPTH_0 };

	(void)state;
	assert_true(store_filter_match(&filter, "x", "/private/a"));
	assert_true(store_filter_match(&filter, "x", "/private/b"));
	assert_true(store_filter_match(&filter, "y", "/private/b"));
	/* a scope and an entry of different selections don't meet */
	assert_false(store_filter_match(&filter, "y", "/private/a"));
	assert_false(store_filter_match(&filter, "z", "/private/a"));
	assert_false(store_filter_match(&none, "x", "/private/a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_names),
		cmocka_unit_test(test_bad_names),
		cmocka_unit_test(test_filter_roots),
		cmocka_unit_test(test_name_size),
		cmocka_unit_test(test_scopes),
		cmocka_unit_test(test_depths),
		cmocka_unit_test(test_selections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
