/* dovetail get: the value of one entry. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static void print_value(const struct dovetail_entry *entry, bool raw)
{
	const char *data = entry->data;

	if (raw || isatty(STDOUT_FILENO) != 1) {
		fwrite(data, 1, entry->size, stdout);
		return;
	}
	cli_put_safe(stdout, data, entry->size, true);
	if (entry->size > 0 && data[entry->size - 1] != '\n')
		putchar('\n');
}

int cmd_get(struct cli *cli)
{
	bool raw = false, json = false;
	const struct cli_option options[] = {
		{ .letter = 'r', .name = "raw", .flag = &raw, .help = "print the octets as they are on a terminal, too" },
		{ .letter = 'j', .name = "json", .flag = &json, .help = "print a JSON object" },
		{ .name = NULL }
	};
	struct dovetail_entry entry;
	enum dovetail_status status;
	char *name;
	int ret;

	if (!cli_parse(cli, options, 1, 1, &ret) || (ret = cli_open_fresh(cli, CLI_TO_READ, cli->args[0])) != CLI_OK)
		return ret;
	name = cli_full_name(cli, cli->args[0]);
	if (name == NULL)
		return cli_fail_memory(cli);
	status = dovetail_get(cli->replica, cli_mailbox(cli), name, &entry);
	free(name);
	if (status == DOVETAIL_NOT_FOUND) {
		cli_error(cli, "%s: there is no such entry", cli->args[0]);
		return CLI_FAILED;
	}
	if (status != DOVETAIL_OK)
		return cli_fail(cli, status, cli->args[0]);
	if (entry.data == NULL)
		return cli_unreadable(cli, &entry);
	if (json) {
		putchar('{');
		cli_put_json_entry(stdout, &entry);
		cli_put_json_flags(stdout, entry.flags);
		cli_put_json_value(stdout, entry.data, entry.size);
		fputs("}\n", stdout);
	} else {
		print_value(&entry, raw);
	}
	cli_output_good(cli);
	return CLI_OK;
}
