/* dovetail set, dovetail rm: writing entries. They are in the replica and its queue first, then they are sent. */

#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ---- set ---- */

/* The value by the arguments; free(). */
static int set_value(struct cli *cli, const char *file, bool chomp, char **data_r, size_t *size_r)
{
	size_t max = cli_max_value(cli);
	const char *value = cli->arg_count > 1 ? cli->args[1] : NULL;
	int ret = CLI_OK;

	if (value != NULL && strcmp(value, "-") != 0) {
		*size_r = strlen(value);
		if (*size_r > max) {
			cli_error(cli, "the value: more than %zu octets", max);
			return CLI_USAGE;
		}
		*data_r = strdup(value);
		return *data_r != NULL ? CLI_OK : cli_fail_memory(cli);
	}
	ret = cli_read_file(cli, file, max, data_r, size_r);
	if (ret == CLI_OK && chomp && *size_r > 0 && (*data_r)[*size_r - 1] == '\n') {
		--*size_r;
		if (*size_r > 0 && (*data_r)[*size_r - 1] == '\r')
			--*size_r;
	}
	return ret;
}

/* A write into a subtree whose key is not known here waits for it. An exit code. */
static int check_sent(struct cli *cli, const char *name, const char *arg)
{
	struct dovetail_entry entry;
	const unsigned int waits = DOVETAIL_ENTRY_PENDING | DOVETAIL_ENTRY_LOCKED;

	if (cli->offline || dovetail_get(cli->replica, cli_mailbox(cli), name, &entry) != DOVETAIL_OK ||
	    (entry.flags & waits) != waits)
		return CLI_OK;
	cli_error(cli, "queued, not sent: %s is encrypted; \"dovetail unlock\" opens it", arg);
	return CLI_LOCKED;
}

int cmd_set(struct cli *cli)
{
	const char *file = NULL;
	bool chomp = false;
	const struct cli_option options[] = {
		{ .letter = 'f', .name = "file", .arg = "FILE", .string = &file, .help = "the value is what FILE has" },
		{ .letter = 'n', .name = "no-newline", .flag = &chomp, .help = "leave out the last line end of what is read" },
		{ .name = NULL }
	};
	enum dovetail_status status;
	char *name, *data = NULL;
	size_t size;
	int ret;

	if (!cli_parse(cli, options, 1, 2, &ret))
		return ret;
	if (file != NULL && cli->arg_count == 2)
		return cli_usage(cli, "--file and VALUE exclude each other");
	if ((ret = cli_open(cli)) != CLI_OK)
		return ret;
	name = cli_full_name(cli, cli->args[0]);
	if (name == NULL)
		return cli_fail_memory(cli);
	/* the value first: its end may be long in coming */
	ret = set_value(cli, file, chomp, &data, &size);
	if (ret == CLI_OK)
		ret = cli_unlock_synced(cli, name);
	if (ret == CLI_OK) {
		status = dovetail_set(cli->replica, cli_mailbox(cli), name, data, size);
		ret = status != DOVETAIL_OK ? cli_fail(cli, status, cli->args[0]) : cli_sync(cli, CLI_TO_WRITE, NULL);
	}
	if (ret == CLI_OK)
		ret = check_sent(cli, name, cli->args[0]);
	free(data);
	free(name);
	return ret;
}

/* ---- rm ---- */

struct rm_options {
	bool force, recursive, refused;
};

/* The names at and below name: NULL-terminated, free() each and the list. */
static enum dovetail_status rm_collect(struct cli *cli, const char *name, char ***names_r)
{
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	size_t count = 0, room = 0;
	char **names = NULL, **grown;

	*names_r = NULL;
	status = dovetail_iter_open(cli->replica, cli_mailbox(cli), name, false, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		if (count + 1 >= room) {
			room = room == 0 ? 64 : room * 2;
			grown = realloc(names, room * sizeof(*names));
			if (grown == NULL) {
				status = DOVETAIL_SYSTEM;
				break;
			}
			names = grown;
		}
		names[count] = strdup(entry.name);
		if (names[count] == NULL) {
			status = DOVETAIL_SYSTEM;
			break;
		}
		names[++count] = NULL;
	}
	dovetail_iter_close(iter);
	*names_r = names;
	return status == DOVETAIL_NOT_FOUND ? (count > 0 ? DOVETAIL_OK : DOVETAIL_NOT_FOUND) : status;
}

/* Removes the next names as one change set; *names goes behind them. */
static enum dovetail_status rm_set(struct cli *cli, char ***names)
{
	struct dovetail_changes *changes;
	enum dovetail_status status;
	unsigned int i;

	status = dovetail_changes_begin(cli->replica, &changes);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0; i < CLI_SET_MAX && **names != NULL && status == DOVETAIL_OK; i++, ++*names)
		status = dovetail_changes_add(changes, cli_mailbox(cli), **names, NULL, 0);
	if (status == DOVETAIL_OK)
		return dovetail_changes_commit(changes);
	dovetail_changes_abort(changes);
	return status;
}

static enum dovetail_status rm_recursive(struct cli *cli, const char *name)
{
	enum dovetail_status status;
	char **names, **next;

	status = rm_collect(cli, name, &names);
	next = names;
	while (status == DOVETAIL_OK && *next != NULL)
		status = rm_set(cli, &next);
	for (next = names; next != NULL && *next != NULL; next++)
		free(*next);
	free(names);
	return status;
}

static int rm_one(struct cli *cli, const struct rm_options *options, const char *arg)
{
	enum dovetail_status status;
	char *name = cli_full_name(cli, arg);
	int ret;

	if (name == NULL)
		return cli_fail_memory(cli);
	if (!options->refused && (ret = cli_unlock(cli, name, true)) != CLI_OK) {
		free(name);
		return ret;
	}
	if (options->refused)
		status = dovetail_refused_forget(cli->replica, cli_mailbox(cli), name);
	else if (options->recursive)
		status = rm_recursive(cli, name);
	else
		status = dovetail_unset(cli->replica, cli_mailbox(cli), name);
	free(name);
	if (status == DOVETAIL_NOT_FOUND && options->force)
		return CLI_OK;
	if (status == DOVETAIL_NOT_FOUND) {
		cli_error(cli, "%s: there is no such %s", arg, options->refused ? "refused write" : "entry");
		return CLI_FAILED;
	}
	return status == DOVETAIL_OK ? CLI_OK : cli_fail(cli, status, arg);
}

int cmd_rm(struct cli *cli)
{
	struct rm_options rm = { .force = false };
	const struct cli_option options[] = {
		{ .letter = 'r', .name = "recursive", .flag = &rm.recursive, .help = "remove all below NAME, too" },
		{ .letter = 'f', .name = "force", .flag = &rm.force, .help = "what is not there is no error" },
		{ .name = "refused", .flag = &rm.refused,
		  .help = "do not remove the entry: forget the write on it that the server has refused" },
		{ .name = NULL }
	};
	unsigned int i;
	int ret, one;

	if (!cli_parse(cli, options, 1, -1U, &ret))
		return ret;
	if (rm.refused && rm.recursive)
		return cli_usage(cli, "--refused and --recursive exclude each other");
	/* what has come meanwhile can be removed, too */
	ret = rm.refused ? cli_open(cli) : cli_open_fresh(cli, CLI_TO_CHANGE, cli->args[0]);
	if (ret != CLI_OK)
		return ret;
	for (i = 0; i < cli->arg_count; i++) {
		one = rm_one(cli, &rm, cli->args[i]);
		if (one != CLI_OK)
			ret = one;
	}
	if (!rm.refused) {
		one = cli_sync(cli, CLI_TO_WRITE, NULL);
		if (one != CLI_OK)
			ret = one;
	}
	return ret;
}
