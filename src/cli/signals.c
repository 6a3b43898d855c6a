/* SIGINT, SIGTERM and SIGHUP as something that can be waited for. */

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli.h"

static void signals_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
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
	sigset_t set;

	if (cli->signal_fd == -1)
		return;
	/* one that came too late to be waited for must not end us now */
	cli_signals_got(cli);
	close(cli->signal_fd);
	cli->signal_fd = -1;
	signals_set(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void cli_signals_child(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_DFL);
	signals_set(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}
