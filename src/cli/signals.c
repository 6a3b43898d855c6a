/* SIGINT, SIGTERM and SIGHUP as something that can be waited for; programs that are started without our treatment of
   signals. */

#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli.h"

extern char **environ;

/* Not those that we were started without (nohup, jobs of a script in the background): blocked they would come. */
static void signals_set(sigset_t *set)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action;
	unsigned int i;

	sigemptyset(set);
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
			sigaddset(set, numbers[i]);
	}
}

int cli_signals_begin(struct cli *cli)
{
	sigset_t set;

	signals_set(&set);
	if (cli->signal_fd != -1)
		return cli->signal_fd;
	cli->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (cli->signal_fd == -1)
		cli_fail_errno(cli, "signalfd()");
	else
		sigprocmask(SIG_BLOCK, &set, NULL);
	return cli->signal_fd;
}

int cli_signals_got(struct cli *cli)
{
	struct signalfd_siginfo info;

	if (cli->signal == 0 && cli->signal_fd != -1 && read(cli->signal_fd, &info, sizeof(info)) == sizeof(info))
		cli->signal = info.ssi_signo;
	return cli->signal;
}

void cli_signals_end(struct cli *cli)
{
	struct signalfd_siginfo info;
	sigset_t set;

	if (cli->signal_fd == -1)
		return;
	/* one that came too late to be waited for must not end us now, nor a second one */
	while (read(cli->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (cli->signal == 0)
			cli->signal = info.ssi_signo;
	}
	close(cli->signal_fd);
	cli->signal_fd = -1;
	signals_set(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int cli_spawn(const char *const argv[], char *const env[], int input, int output, pid_t *pid_r)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, pipes;
	int ret;

	sigemptyset(&none);
	sigemptyset(&pipes);
	sigaddset(&pipes, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	if (input != -1)
		posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	if (output != -1)
		posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	/* not all that libcurl opens is closed on exec */
	posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipes);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	ret = posix_spawnp(pid_r, argv[0], &actions, &attr, (char *const *)argv, env != NULL ? env : environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return ret;
}
