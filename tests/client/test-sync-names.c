/* Mailbox names in modified UTF-7, entry names, positions: what the server may send, and what it may not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sync-private.h"

static void test_both_ways(void **state)
{
	/* RFC 3501 5.1.3, and what Dovecot writes */
	static const char *const names[][2] = {
		{ "", "" }, { "INBOX", "INBOX" }, { "Work/Sub", "Work/Sub" }, { "A & B", "A &- B" }, { "&", "&-" },
		{ "&&", "&-&-" }, { "Entwürfe", "Entw&APw-rfe" }, { "~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-" },
		{ "é", "&AOk-" }, { "éé", "&AOkA6Q-" }, { "ééé", "&AOkA6QDp-" }, { "\xf0\x9f\x98\x80", "&2D3eAA-" },
		{ "a\xf0\x9f\x98\x80" "b\xc2\x80", "a&2D3eAA-b&AIA-" }, { "\x01", "&AAE-" }, { "\t\x7f", "&AAkAfw-" },
		{ "\xef\xbf\xbf", "&,,8-" }, { "\"\\", "\"\\" },
	};
	unsigned int i;
	char *wire, *name;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		wire = sync_mailbox_encode(names[i][0]);
		assert_non_null(wire);
		assert_string_equal(wire, names[i][1]);
		name = sync_mailbox_decode(wire);
		assert_non_null(name);
		assert_string_equal(name, names[i][0]);
		free(wire);
		free(name);
	}
	name = sync_mailbox_decode("inBox");
	assert_string_equal(name, "INBOX");
	free(name);
}

/* A name of random characters of all lengths in UTF-8. */
static void random_name(char *name)
{
	static const unsigned int ranges[][2] = {
		{ 1, 0x7f }, { 0x20, 0x7e }, { '&', '-' }, { 0x80, 0x7ff }, { 0x800, 0xd7ff }, { 0xe000, 0xffff },
		{ 0x10000, 0x10ffff }
	};
	unsigned int i, count = rand() % 20, r, c;

	for (i = 0; i < count; i++) {
		r = rand() % 7;
		c = ranges[r][0] + rand() % (ranges[r][1] - ranges[r][0] + 1);
		if (c < 0x80) {
			*name++ = c;
		} else if (c < 0x800) {
			name += sprintf(name, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
		} else if (c < 0x10000) {
			name += sprintf(name, "%c%c%c", 0xe0 | c >> 12, 0x80 | (c >> 6 & 0x3f), 0x80 | (c & 0x3f));
		} else {
			name += sprintf(name, "%c%c%c%c", 0xf0 | c >> 18, 0x80 | (c >> 12 & 0x3f), 0x80 | (c >> 6 & 0x3f),
					0x80 | (c & 0x3f));
		}
	}
	*name = '\0';
}

static void test_random(void **state)
{
	char name[200], *wire, *back;
	unsigned int i;

	(void)state;
	srand(1);
	for (i = 0; i < 100000; i++) {
		random_name(name);
		wire = sync_mailbox_encode(name);
		assert_non_null(wire);
		assert_int_equal(strspn(wire,
			" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"),
				 strlen(wire));
		back = sync_mailbox_decode(wire);
		assert_non_null(back);
		assert_string_equal(back, name);
		free(wire);
		free(back);
	}
}

static void test_not_valid(void **state)
{
	static const char *const wires[] = {
		"&", "a&", "&AOk", "&AO-", "&A-", "&AOkA-", "&====-", "&AOk.-", "\xc3\xa9", "a\x01", "&2D0-", "&3gA-", "&2D3YPQ-",
		"&AAA-", "&AGE-", "&AOl-",
	};
	static const char *const names[] = { "\xff", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82",
		"\xf8\x88\x80\x80\x80" };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(wires) / sizeof(wires[0]); i++)
		assert_null(sync_mailbox_decode(wires[i]));
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_null(sync_mailbox_encode(names[i]));
}

static void test_entries(void **state)
{
	static const char *const good[] = { "/private/a", "/SHARED/A/b c" };
	static const char *const bad[] = { "", "/private", "/private/", "/other/a", "private/a", "/private//a", "/private/a/",
		"/private/a*", "/private/%", "/private/\x7f", "/private/\xc3\xa9", "/private/a\tb" };
	char name[1100];
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		strcpy(name, good[i]);
		assert_true(replica_name_normalise(name));
	}
	assert_string_equal(name, "/shared/a/b c");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		strcpy(name, bad[i]);
		assert_false(replica_name_normalise(name));
	}
	memset(name, 'a', sizeof(name));
	memcpy(name, "/private/", 9);
	name[1024] = '\0';
	assert_true(replica_name_normalise(name));
	name[1024] = 'a';
	name[1025] = '\0';
	assert_false(replica_name_normalise(name));
}

static void test_positions(void **state)
{
	static const char *const bad[] = { "", "(", "()", "(1 2", "1 2)", "(1  2)", "(1 2) ", "( 1 2)", "(0 1)", "(4294967296 1)",
		"(-1 2)", "(1 -2)",
		"(1 9223372036854775808)", "(18446744073709551617 1)", "(1 99999999999999999999999)", "(1 2 a)", "(a 2)", "(1 0)",
		"(01 2)", "(1 02)" };
	static const char *const bad_marks[] = { "", "(1 2)", "(1 2 )", "(1 2 g)", "(1 2 00000000000000000)", "(1 2 a) ", "(1 2 a",
		"(1 2 a b)" };
	struct replica_position position;
	unsigned int i;

	(void)state;
	assert_true(replica_position_parse("(4294967295 9223372036854775807)", false, &position));
	assert_true(position.epoch == UINT32_MAX && position.modseq == INT64_MAX);
	assert_true(replica_position_parse("(1 2 0123456789abcdEF)", true, &position));
	assert_true(position.epoch == 1 && position.modseq == 2);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(replica_position_parse(bad[i], false, &position));
	for (i = 0; i < sizeof(bad_marks) / sizeof(bad_marks[0]); i++)
		assert_false(replica_position_parse(bad_marks[i], true, &position));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_not_valid),
		cmocka_unit_test(test_entries),
		cmocka_unit_test(test_positions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
