/* dovetail: the table of commands, and what comes before and after each. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "mirror.h"

static int cmd_help(struct cli *cli);

static const struct cli_command commands[] = {
	{ "login", "[ADDRESS]", "make an account file, after a look at the server",
	  "ADDRESS is the user name. The server, if not given by --host, is asked for, and so is the user name.\n"
	  "The password comes from --password-command, a netrc file or a prompt; it is never an argument.\n", cmd_login },
	{ "get", "NAME", "print the value of an entry", NULL, cmd_get },
	{ "set", "NAME [VALUE]", "set an entry: to VALUE, to a file, or to what comes from standard input", NULL, cmd_set },
	{ "rm", "NAME...", "remove entries", NULL, cmd_rm },
	{ "ls", "[NAME]", "list entries at and below NAME", NULL, cmd_ls },
	{ "watch", "[NAME] [-- COMMAND [ARG...]]", "show changes as they come, or run a command for each",
	  "The command is run without a shell, for one change after the other. The value is its standard input. Its environment\n"
	  "has DOVETAIL_EVENT (set, removed), DOVETAIL_ENTRY, DOVETAIL_NAME (short), DOVETAIL_MAILBOX, DOVETAIL_MODSEQ and\n"
	  "DOVETAIL_SIZE.\n",
	  cmd_watch },
	{ "mirror", "DIR", "keep a folder in step with the entries, both ways, live",
	  "Files become entries and entries files. See dovetail-mirror(1).\n", cmd_mirror },
	{ "sync", "", "send what waits, and bring what is new", NULL, cmd_sync },
	{ "status", "", "show the account, the replica and what waits", NULL, cmd_status },
	{ "export", "[NAME]", "write entries as JSON lines", NULL, cmd_export },
	{ "import", "[FILE]", "set entries from JSON lines: all that is in FILE or standard input, or nothing if a line is bad",
	  NULL, cmd_import },
	{ "encrypt", "SUBTREE", "encrypt an entry and all below it from now on", NULL, cmd_encrypt },
	{ "unlock", "SUBTREE", "try the secret of an encrypted subtree, and note in the account file where it comes from", NULL,
	  cmd_unlock },
	{ "secret", "list|add|remove SUBTREE [LABEL]", "list, add or remove passphrases and key files", NULL, cmd_secret },
	{ "rotate", "SUBTREE", "replace the key of an encrypted subtree", NULL, cmd_rotate },
	{ "help", "[COMMAND]", "this list, or the help of a command", NULL, cmd_help },
	{ NULL, NULL, NULL, NULL, NULL }
};

static const struct cli_command *command_find(const char *name)
{
	const struct cli_command *command;

	for (command = commands; command->name != NULL; command++) {
		if (strcmp(command->name, name) == 0)
			return command;
	}
	return NULL;
}

static void help_overview(void)
{
	const struct cli_command *command;

	printf("usage: dovetail COMMAND [OPTION...] [ARGUMENT...]\n\n"
	       "Keeps small pieces of state in step between machines, through a mail account.\n\n");
	for (command = commands; command->name != NULL; command++)
		printf("  %-10s %s\n", command->name, command->summary);
	printf("\n\"dovetail help COMMAND\" or \"dovetail COMMAND --help\" tells more. See also dovetail(1).\n");
}

static int command_run(struct cli *cli, const char *name)
{
	cli->command = command_find(name);
	if (cli->command == NULL)
		return cli_usage(cli, "there is no command \"%s\"", name);
	return cli->command->run(cli);
}

static int cmd_help(struct cli *cli)
{
	int ret;

	if (!cli_parse(cli, NULL, 0, 1, &ret))
		return ret;
	if (cli->arg_count == 0) {
		help_overview();
		return CLI_OK;
	}
	cli->help = true;
	return command_run(cli, cli->args[0]);
}

/* Descriptors 0, 1 and 2 exist, so that no file of ours becomes one of them. Those that were closed cannot be used:
   reading from or writing to them fails. */
static bool descriptors_fill(void)
{
	int fd;

	for (fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
			return false;
	}
	return true;
}

static int run(struct cli *cli, char **argv)
{
	int ret;

	if (!cli_parse_common(cli, argv, &argv, &ret))
		return ret;
	if (cli->version) {
		printf("dovetail %s\n", dovetail_version());
		return CLI_OK;
	}
	if (argv[0] == NULL && cli->help) {
		help_overview();
		return CLI_OK;
	}
	if (argv[0] == NULL)
		return cli_usage(cli, "which command?");
	cli->argv = argv + 1;
	return command_run(cli, argv[0]);
}

int main(int argc, char *argv[])
{
	struct cli cli = { .signal_fd = -1 };
	int ret;

	if (!descriptors_fill())
		return CLI_SYSTEM;
	/* a message is one write, also where several programs have one log */
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	/* a reader that has gone is an error of writing, told as such */
	signal(SIGPIPE, SIG_IGN);
	ret = run(&cli, argc > 0 ? argv + 1 : argv);
	ret = cli_flush(&cli, ret);
	cli_close(&cli);
	return ret;
}
