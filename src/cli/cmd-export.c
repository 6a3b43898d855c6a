/* dovetail export: JSON lines, as doveadm metasync export has them. */

#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cmd_export(struct cli *cli)
{
	bool skip = false;
	const struct cli_option options[] = {
		{ .name = "skip-unreadable", .flag = &skip, .help = "leave out values that are not here or cannot be decrypted" },
		{ .name = NULL }
	};
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	char *name = NULL;
	int ret;

	if (!cli_parse(cli, options, 0, 1, &ret) ||
	    (ret = cli_open_fresh(cli, CLI_TO_READ, cli->arg_count > 0 ? cli->args[0] : NULL)) != CLI_OK)
		return ret;
	if (cli->arg_count > 0 && (name = cli_full_name(cli, cli->args[0])) == NULL)
		return cli_fail_memory(cli);
	/* without --mailbox all of them: it is the copy of everything */
	status = dovetail_iter_open(cli->replica, cli->mailbox, name, true, &iter);
	free(name);
	if (status != DOVETAIL_OK)
		return cli_fail(cli, status, cli->arg_count > 0 ? cli->args[0] : NULL);
	while (cli_output_good(cli) && (status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		if (entry.data == NULL) {
			/* the others are written nevertheless */
			if (!skip)
				ret = cli_unreadable(cli, &entry);
			continue;
		}
		putchar('{');
		cli_put_json_entry(stdout, &entry);
		cli_put_json_value(stdout, entry.data, entry.size);
		fputs("}\n", stdout);
	}
	if (status != DOVETAIL_NOT_FOUND && status != DOVETAIL_OK)
		ret = cli_fail(cli, status, NULL);
	dovetail_iter_close(iter);
	return ret;
}
