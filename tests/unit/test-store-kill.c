/* A writer is killed with SIGKILL at random moments, again and again, on one
   store: no set that it has acknowledged is lost, none is half there, and the
   store is sound. */

#include "store-test.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILLS 300

/* Acknowledges each set by its number. Runs until it is killed. */
static void writer(const struct store_settings *set, unsigned int number,
		   int fd)
{
	struct store_error error;
	struct store *store;

	if (store_open(set, &store, &error) != STORE_OK)
		_exit(1);
	for (;;) {
		number++;
		if (workload_apply(store, number, &error) != STORE_OK)
			_exit(2);
		if (write(fd, &number, sizeof(number)) != sizeof(number))
			_exit(3);
		/* checkpoints are killed, too */
		store_idle(store);
	}
}

/* Some acknowledgements, then a moment inside the next set. */
static unsigned int kill_at_random(pid_t pid, int fd, unsigned int number)
{
	struct timespec moment = { 0, rnd(400) * 1000 };
	unsigned int acks = rnd(8), i;
	int status;

	for (i = 0; i < acks; i++) {
		assert_int_equal(read(fd, &number, sizeof(number)),
				 sizeof(number));
	}
	nanosleep(&moment, NULL);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	/* what it had acknowledged when it died */
	while (read(fd, &number, sizeof(number)) == sizeof(number)) ;
	return number;
}

static void test_kill(void **state)
{
	struct fixture *f = *state;
	unsigned int number = 0, acknowledged, i, between = 0;
	int fds[2];
	pid_t pid;

	rnd_start();
	for (i = 0; i < KILLS; i++) {
		store_close(&f->store);
		assert_int_equal(pipe(fds), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			close(fds[0]);
			writer(&f->set, number, fds[1]);
		}
		close(fds[1]);
		acknowledged = kill_at_random(pid, fds[0], number);
		close(fds[0]);

		f->store = must_open(&f->set);
		must_check(f);
		number = workload_verify(f->store);
		assert_true(number == acknowledged ||
			    number == acknowledged + 1);
		if (number > acknowledged)
			between++;
	}
	print_message("%u sets; %u of %u kills were between commit and "
		      "acknowledgement\n", number, between, KILLS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kill, fixture_setup,
						fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
