/* The version, and words for statuses. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dovetail.h"

static void test_version(void **state)
{
	(void)state;
	assert_string_equal(dovetail_version(), "0.1.0");
}

static void test_status_names(void **state)
{
	int i, j;

	(void)state;
	for (i = DOVETAIL_OK; i <= DOVETAIL_STOPPED; i++) {
		assert_string_not_equal(dovetail_status_name(i), "unknown");
		for (j = DOVETAIL_OK; j < i; j++)
			assert_string_not_equal(dovetail_status_name(i), dovetail_status_name(j));
	}
	assert_string_equal(dovetail_status_name(DOVETAIL_STOPPED + 1), "unknown");
	assert_string_equal(dovetail_status_name(-1), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_status_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
