/* File names from entry names, and back: both ways are one-to-one. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "mirror-name.h"

/* NULL: there is none */
static const char *entry_of(const char *path)
{
	static char entry[MIRROR_ENTRY_MAX + 1];

	return mirror_name_entry(path, MIRROR_ENTRY_MAX, entry) ? entry : NULL;
}

static const char *path_of(const char *entry)
{
	static char path[MIRROR_PATH_MAX + 1];

	return mirror_name_path(entry, path) ? path : NULL;
}

static void test_table(void **state)
{
	static const struct { const char *path, *entry; } table[] = {
		{ "notes", "notes" },
		{ "README.md", "^r^e^a^d^m^e.md" },
		{ "sub/Folder/x y", "sub/^folder/x y" },
		{ "100%", "100=25" },
		{ "a*b", "a=2ab" },
		{ "a=b^c", "a=3db=5ec" },
		{ "\xc3\xa4", "=c3=a4" },
		{ "line\nbreak\x7f", "line=0abreak=7f" },
		{ ".bashrc", ".bashrc" },
		{ "...", "..." },
		{ "%=", "" },
		{ "%=.", "." },
		{ "%=..", ".." },
		{ "%=../x", "../x" },
		{ "x/%=..", "x/.." },
		/* not what escape() writes */
		{ "%==zz", "=zz" },
		{ "%==61", "=61" },
		{ "%==2F", NULL },
		{ "%==2f", "=2f" },
		{ "%==00", "=00" },
		{ "%=^", "^" },
		{ "%=x", "=25=3dx" },
		{ "%=%=", "=25=3d=25=3d" },
		{ "%==25=3d=zz", "=25=3d=zz" },
		/* ours, and the library's */
		{ "%=.dovetail", ".dovetail" },
		{ "%==2edovetail", "=2edovetail" },
		{ "x/.dovetail", "x/=2edovetail" },
		{ "x/%=.dovetail", "x/.dovetail" },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].entry == NULL)
			continue;
		assert_string_equal(entry_of(table[i].path), table[i].entry);
		assert_string_equal(path_of(table[i].entry), table[i].path);
	}
	/* a capital cannot be in an entry: an ordinary name */
	assert_string_equal(entry_of("%==2F"), "=25=3d=3d2^f");
	assert_string_equal(path_of("=25=3d=3d2^f"), "%==2F");
}

static void test_none(void **state)
{
	static const char *const paths[] = { "", ".", "..", "a/..", "../a", "/a", "a/", "a//b", ".dovetail",
		".dovetail/tmp", "a/%=/b", "%=/b" };
	static const char *const entries[] = { "/", "a/", "/a", "a//b", "A", "a*", "a%", "\xc3\xa4", "a\nb", "a\x7f" };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		assert_null(entry_of(paths[i]));
	for (i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		assert_null(path_of(entries[i]));
}

static void test_lengths(void **state)
{
	char name[2 * MIRROR_ENTRY_MAX + 1], entry[MIRROR_ENTRY_MAX + 1];

	(void)state;
	memset(name, 'x', sizeof(name));
	name[255] = '\0';
	assert_string_equal(path_of(name), name);
	assert_string_equal(entry_of(name), name);
	memset(name, 'x', 256);
	name[256] = '\0';
	assert_null(path_of(name));
	assert_null(entry_of(name));
	/* with "%=" in front 255 */
	memset(name, 'x', 253);
	memcpy(name, "=zz", 3);
	name[253] = '\0';
	assert_int_equal(strlen(path_of(name)), 255);
	assert_string_equal(entry_of(path_of(name)), name);
	memset(name + 3, 'x', 251);
	name[254] = '\0';
	assert_null(path_of(name));
	/* 255 octets that need three each */
	memset(name, 1, 255);
	name[255] = '\0';
	assert_int_equal(strlen(entry_of(name)), 765);
	assert_false(mirror_name_entry(name, 764, entry));
	assert_true(mirror_name_entry(name, 765, entry));
	/* an entry of just the largest size */
	memset(name, 'x', sizeof(name));
	name[255] = name[511] = name[767] = '/';
	name[1023] = '\0';
	assert_string_equal(entry_of(name), name);
	assert_true(mirror_name_entry(name, 1023, entry));
	assert_false(mirror_name_entry(name, 1022, entry));
}

/* Names of the octets that are of interest, of all lengths. */
static void random_component(char *name, const char *octets, size_t size)
{
	size_t i, length = 1 + rand() % 8;

	for (i = 0; i < length; i++)
		name[i] = octets[rand() % size];
	name[length] = '\0';
}

static void test_one_to_one(void **state)
{
	static const char file_octets[] = "%=^aA2f.\x80", entry_octets[] = "=^a2fd35e.";
	char name[64];
	const char *other;
	unsigned int i, n = 0;

	(void)state;
	srand(1);
	for (i = 0; i < 300000; i++) {
		random_component(name, file_octets, sizeof(file_octets) - 1);
		other = entry_of(name);
		if (other == NULL || *other == '\0')
			continue;
		assert_string_equal(path_of(other), name);
		n++;
	}
	for (i = 0; i < 300000; i++) {
		random_component(name, entry_octets, sizeof(entry_octets) - 1);
		other = path_of(name);
		assert_non_null(other);
		assert_string_equal(entry_of(other), name);
	}
	assert_true(n > 250000);
}

static void test_conflict_names(void **state)
{
	char path[MIRROR_PATH_MAX + 1], name[300];

	(void)state;
	assert_true(mirror_name_conflict("sub/x", "0123", 1, path));
	assert_string_equal(path, "sub/x.conflict-0123");
	assert_true(mirror_name_conflict("x", "0123", 2, path));
	assert_string_equal(path, "x.conflict-0123-2");
	/* cut, but not within a character */
	memset(name, 'x', sizeof(name));
	memcpy(name + 239, "\xe2\x82\xac", 3);
	name[255] = '\0';
	assert_true(mirror_name_conflict(name, "0123", 1, path));
	assert_int_equal(strlen(path), 239 + strlen(".conflict-0123"));
	memset(name, '\x80', 255);
	assert_true(mirror_name_conflict(name, "0123", 1, path));
	assert_true(strlen(path) <= 255 && strlen(path) > 250);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_one_to_one),
		cmocka_unit_test(test_conflict_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
