/* Messages on stderr, one line each, and the exit codes of statuses. */

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* octets of a message; longer ones are shown without their middle */
#define MESSAGE_MAX 2000

int cli_exit_of(enum dovetail_status status)
{
	switch (status) {
	case DOVETAIL_OK:
		return CLI_OK;
	case DOVETAIL_NOT_FOUND:
		return CLI_FAILED;
	case DOVETAIL_INVALID:
		return CLI_USAGE;
	case DOVETAIL_NETWORK:
		return CLI_OFFLINE;
	case DOVETAIL_LOGIN:
		return CLI_LOGIN;
	case DOVETAIL_TLS:
		return CLI_TLS;
	case DOVETAIL_LIMIT:
	case DOVETAIL_REFUSED:
		return CLI_REFUSED;
	case DOVETAIL_UNSUPPORTED:
	case DOVETAIL_PROTOCOL:
		return CLI_UNSUPPORTED;
	case DOVETAIL_LOCKED:
	case DOVETAIL_WRONG_KEY:
	case DOVETAIL_DAMAGED:
		return CLI_LOCKED;
	case DOVETAIL_BUSY:
	case DOVETAIL_REPLICA:
		return CLI_CONFIG;
	case DOVETAIL_SYSTEM:
		return CLI_SYSTEM;
	case DOVETAIL_MASS_REMOVAL:
		return CLI_MASS_REMOVAL;
	case DOVETAIL_STOPPED:
		return CLI_FAILED;
	}
	return CLI_FAILED;
}

static void message_print(struct cli *cli, const char *format, va_list args)
{
	char *text;
	int length, left_out = 0;

	cli_progress_end(cli);
	fputs("dovetail: ", stderr);
	length = vasprintf(&text, format, args);
	if (length < 0) {
		fputs("out of memory\n", stderr);
		return;
	}
	/* no line ends either: one error is one line */
	if (length > MESSAGE_MAX) {
		/* what is wrong comes last */
		left_out = length - MESSAGE_MAX / 2;
		cli_put_safe(stderr, text, MESSAGE_MAX / 2, false);
		fputs(" ... ", stderr);
	}
	cli_put_safe(stderr, text + left_out, length - left_out, false);
	putc('\n', stderr);
	free(text);
}

void cli_error(struct cli *cli, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	message_print(cli, format, args);
	va_end(args);
}

void cli_warn(struct cli *cli, const char *format, ...)
{
	va_list args;

	if (cli->quiet)
		return;
	va_start(args, format);
	message_print(cli, format, args);
	va_end(args);
}

int cli_fail(struct cli *cli, enum dovetail_status status, const char *what)
{
	const char *error = dovetail_error(cli->replica);

	if (error[0] == '\0')
		error = dovetail_status_name(status);
	if (what != NULL)
		cli_error(cli, "%s: %s", what, error);
	else
		cli_error(cli, "%s", error);
	return cli_exit_of(status);
}

int cli_fail_errno(struct cli *cli, const char *what)
{
	cli_error(cli, "%s: %s", what, strerror(errno));
	return CLI_SYSTEM;
}

int cli_unreadable(struct cli *cli, const struct dovetail_entry *entry)
{
	const char *name = cli_short_name(cli, entry->name);

	if ((entry->flags & DOVETAIL_ENTRY_LOCKED) != 0) {
		cli_error(cli, "%s: encrypted, and locked; \"dovetail unlock\" opens it", name);
		return CLI_LOCKED;
	}
	if ((entry->flags & DOVETAIL_ENTRY_DAMAGED) != 0) {
		cli_error(cli, "%s: encrypted, and damaged, moved or rolled back", name);
		return CLI_LOCKED;
	}
	cli_error(cli, "%s: larger than max_value of the account: it is on the server only", name);
	return CLI_REFUSED;
}

int cli_fail_memory(struct cli *cli)
{
	cli_error(cli, "out of memory");
	return CLI_SYSTEM;
}
