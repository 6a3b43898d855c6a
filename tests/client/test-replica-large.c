/* Memory does not grow with the number of entries: a snapshot staged and swapped in, told, iterated, brought again and replaced, in
   a process of its own for each size. */

#include "replica-test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VALUE_SIZE 500

static double now_msecs(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static void snapshot(struct dovetail *replica, unsigned int entries, unsigned int version)
{
	char name[100], value[VALUE_SIZE + 1], mark[64];
	unsigned int told = 0;
	struct dovetail_entry entry;
	double from = now_msecs(), staged, swapped;
	bool reset;

	must(replica, replica_stage_snapshot(replica));
	for (unsigned int i = 0; i < entries; i++) {
		(void)snprintf(name, sizeof(name), BELOW "folder/%u/entry", i);
		(void)snprintf(value, sizeof(value), "%0*u", VALUE_SIZE, version);
		must(replica, replica_stage(replica, i % 2 == 0 ? "" : "Work", name, REPLICA_VALUE, value, VALUE_SIZE));
		(void)snprintf(mark, sizeof(mark), "(%u %u 0f)", version, i + 1);
		if (i % 2000 == 1999)
			must(replica, replica_stage_partial(replica, mark));
	}
	staged = now_msecs();
	must(replica, replica_stage_consistent(replica, mark, 0, &reset));
	swapped = now_msecs();
	while (replica_changed_next(replica, &entry) == DOVETAIL_OK)
		told++;
	assert_int_equal(told, entries);
	fprintf(stderr, "%u entries: staged in %.0f ms, swapped in in %.0f ms, told in %.0f ms\n", entries, staged - from,
		swapped - staged, now_msecs() - swapped);
}

/* KiB */
static long peak(struct fixture *f, unsigned int entries)
{
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	unsigned int count = 0;
	struct rusage usage;
	int status, fds[2];
	char path[320];
	pid_t pid;
	long size;

	(void)snprintf(path, sizeof(path), "%s/large%u", f->base, entries);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		struct dovetail *replica = must_open(path, DOVETAIL_OPEN_CREATE);

		set_parts(replica);
		snapshot(replica, entries, 1);
		snapshot(replica, entries, 2);
		must(replica, dovetail_iter_open(replica, NULL, NULL, true, &iter));
		while (dovetail_iter_next(iter, &entry) == DOVETAIL_OK)
			count++;
		assert_int_equal(count, entries);
		dovetail_iter_close(iter);
		dovetail_close(replica);
		getrusage(RUSAGE_SELF, &usage);
		(void)!write(fds[1], &usage.ru_maxrss, sizeof(long));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], &size, sizeof(size)), sizeof(size));
	close(fds[0]);
	close(fds[1]);
	return size;
}

static void test_memory(void **state)
{
	struct fixture *f = *state;
	long small = peak(f, 10000), large = peak(f, 100000);

	print_message("peak with 10,000 entries %ld KiB, with 100,000 %ld KiB\n", small, large);
	assert_true(large < 2 * small + 8 * 1024);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_memory, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
