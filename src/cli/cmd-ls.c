/* dovetail ls: names of entries. */

#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct ls_options {
	bool details, json, all_mailboxes, everything;
};

static void put_flags(unsigned int flags)
{
	putchar((flags & DOVETAIL_ENTRY_PENDING) != 0 ? 'P' : '-');
	putchar((flags & DOVETAIL_ENTRY_REFUSED) != 0 ? 'R' : '-');
	putchar((flags & DOVETAIL_ENTRY_NOT_HERE) != 0 ? 'N' :
		(flags & DOVETAIL_ENTRY_LOCKED) != 0 ? 'L' :
		(flags & DOVETAIL_ENTRY_DAMAGED) != 0 ? 'D' : '-');
}

static void put_entry(struct cli *cli, const struct ls_options *ls, const struct dovetail_entry *entry)
{
	const char *name = ls->everything ? entry->name : cli_short_name(cli, entry->name);

	if (ls->json) {
		putchar('{');
		cli_put_json_entry(stdout, entry);
		printf(",\"size\":\"%zu\"", entry->size);
		cli_put_json_flags(stdout, entry->flags);
		fputs("}\n", stdout);
		return;
	}
	if (ls->details) {
		put_flags(entry->flags);
		printf(" %8llu %9zu  ", (unsigned long long)entry->modseq, entry->size);
	}
	if (ls->all_mailboxes) {
		cli_put_safe(stdout, entry->mailbox, strlen(entry->mailbox), false);
		putchar('\t');
	}
	cli_put_safe(stdout, name, strlen(name), false);
	putchar('\n');
}

int cmd_ls(struct cli *cli)
{
	struct ls_options ls = { .details = false };
	const struct cli_option options[] = {
		{ .letter = 'l', .name = "long", .flag = &ls.details, .help = "with flags, modseq and size" },
		{ .letter = 'j', .name = "json", .flag = &ls.json, .help = "a JSON object for each entry" },
		{ .letter = 'A', .name = "all-mailboxes", .flag = &ls.all_mailboxes, .help = "of the account and all mailboxes" },
		{ .letter = 'e', .name = "everything", .flag = &ls.everything,
		  .help = "all names, not only those below the prefix" },
		{ .name = NULL }
	};
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	bool any = false;
	char *name = NULL;
	int ret;

	if (!cli_parse(cli, options, 0, 1, &ret))
		return ret;
	if (ls.everything && cli->arg_count > 0)
		return cli_usage(cli, "--everything and NAME exclude each other");
	if (ls.all_mailboxes && cli->mailbox != NULL)
		return cli_usage(cli, "--all-mailboxes and --mailbox exclude each other");
	if ((ret = cli_open_fresh(cli, CLI_TO_READ, cli->arg_count > 0 ? cli->args[0] : ls.everything ? NULL : "")) != CLI_OK)
		return ret;
	if (!ls.everything && (name = cli_full_name(cli, cli->arg_count > 0 ? cli->args[0] : "")) == NULL)
		return cli_fail_memory(cli);
	status = dovetail_iter_open(cli->replica, ls.all_mailboxes ? NULL : cli_mailbox(cli), name, false, &iter);
	free(name);
	if (status != DOVETAIL_OK)
		return cli_fail(cli, status, cli->arg_count > 0 ? cli->args[0] : NULL);
	while (cli_output_good(cli) && (status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		put_entry(cli, &ls, &entry);
		any = true;
	}
	if (status != DOVETAIL_NOT_FOUND && status != DOVETAIL_OK)
		ret = cli_fail(cli, status, NULL);
	dovetail_iter_close(iter);
	if (ret == CLI_OK && !any && cli->arg_count > 0) {
		cli_error(cli, "%s: there is no entry at or below it", cli->args[0]);
		ret = CLI_FAILED;
	}
	return ret;
}
