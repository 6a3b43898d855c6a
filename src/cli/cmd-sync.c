/* dovetail sync, dovetail status. */

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"

int cmd_sync(struct cli *cli)
{
	bool yes = false;
	const struct cli_option options[] = {
		{ .letter = 'y', .name = "yes", .flag = &yes,
		  .help = "also if the server's new state removes more than max_removals entries" },
		{ .name = NULL }
	};
	struct dovetail_sync_options sync;
	int ret;

	if (!cli_parse(cli, options, 0, 0, &ret))
		return ret;
	if (cli->offline)
		return cli_usage(cli, "sync cannot be --offline");
	if ((ret = cli_open(cli)) != CLI_OK || (ret = cli_unlock(cli, NULL, false)) != CLI_OK)
		return ret;
	sync = cli->account->sync;
	if (yes)
		sync.max_removals = 0;
	return cli_sync(cli, CLI_TO_SYNC, &sync);
}

/* ---- status ---- */

struct status {
	struct cli *cli;
	bool json;
	const char *comma;
};

static bool print_refused(void *context, const struct dovetail_refused *refused)
{
	struct status *status = context;
	const struct dovetail_entry *entry = &refused->entry;
	const char *name = cli_short_name(status->cli, entry->name);

	if (status->json) {
		fputs(status->comma, stdout);
		putchar('{');
		cli_put_json_entry(stdout, entry);
		fputs(",\"reason\":", stdout);
		cli_put_json(stdout, refused->reason, strlen(refused->reason));
		putchar('}');
		status->comma = ",";
		return true;
	}
	fputs("            ", stdout);
	if (entry->mailbox[0] != '\0') {
		cli_put_safe(stdout, entry->mailbox, strlen(entry->mailbox), false);
		fputs(": ", stdout);
	}
	cli_put_safe(stdout, name, strlen(name), false);
	fputs(": ", stdout);
	cli_put_safe(stdout, refused->reason, strlen(refused->reason), false);
	putchar('\n');
	return true;
}

static void put_json_text(const char *key, const char *value)
{
	printf(",\"%s\":", key);
	cli_put_json(stdout, value, strlen(value));
}

/* How the server keeps this replica in step, as far as the last sync has shown it. */
static const char *status_server(const struct dovetail_counts *counts)
{
	return counts->synced_at == 0 ? "unknown" : counts->epoch != 0 ? "XMETASYNC" : "METADATA";
}

static enum dovetail_status status_json(struct status *status, const struct dovetail_counts *counts)
{
	const struct cli_account *account = status->cli->account;
	enum dovetail_status ret;

	fputs("{\"account\":", stdout);
	cli_put_json(stdout, account->path, strlen(account->path));
	put_json_text("user", account->server.user);
	put_json_text("host", account->server.host);
	put_json_text("replica", account->replica);
	put_json_text("prefix", account->prefix);
	put_json_text("server", status_server(counts));
	printf(",\"synced_at\":\"%lld\",\"epoch\":%u,\"modseq\":\"%llu\"", (long long)counts->synced_at, counts->epoch,
	       (unsigned long long)counts->modseq);
	printf(",\"entries\":\"%llu\",\"bytes\":\"%llu\",\"pending\":\"%llu\"", (unsigned long long)counts->entries,
	       (unsigned long long)counts->bytes, (unsigned long long)counts->pending);
	fputs(",\"refused\":[", stdout);
	ret = dovetail_refused_each(status->cli->replica, print_refused, status);
	fputs("]}\n", stdout);
	return ret;
}

static void put_line(const char *key, const char *value)
{
	printf("%-12s", key);
	cli_put_safe(stdout, value, strlen(value), false);
	putchar('\n');
}

static enum dovetail_status status_text(struct status *status, const struct dovetail_counts *counts)
{
	const struct cli_account *account = status->cli->account;
	time_t synced_at = counts->synced_at;
	char when[64] = "never";
	struct tm tm;

	if (counts->synced_at != 0 && localtime_r(&synced_at, &tm) != NULL)
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S %z", &tm);
	put_line("account", account->path);
	put_line("user", account->server.user);
	put_line("host", account->server.host);
	put_line("replica", account->replica);
	put_line("prefix", account->prefix);
	put_line("server", strcmp(status_server(counts), "METADATA") == 0 ? "METADATA without XMETASYNC: polled" :
		 status_server(counts));
	put_line("in step", when);
	printf("entries     %llu, %llu octets\n", (unsigned long long)counts->entries, (unsigned long long)counts->bytes);
	printf("waiting     %llu\n", (unsigned long long)counts->pending);
	printf("refused     %llu\n", (unsigned long long)counts->refused);
	return dovetail_refused_each(status->cli->replica, print_refused, status);
}

int cmd_status(struct cli *cli)
{
	struct status status = { .cli = cli, .comma = "" };
	const struct cli_option options[] = {
		{ .letter = 'j', .name = "json", .flag = &status.json, .help = "a JSON object" },
		{ .name = NULL }
	};
	struct dovetail_counts counts;
	enum dovetail_status result;
	int ret;

	if (!cli_parse(cli, options, 0, 0, &ret))
		return ret;
	/* only with --online does it ask the server */
	if ((ret = cli_open(cli)) != CLI_OK || (cli->online && (ret = cli_sync(cli, CLI_TO_READ, NULL)) != CLI_OK))
		return ret;
	result = dovetail_get_counts(cli->replica, &counts);
	if (result == DOVETAIL_OK)
		result = status.json ? status_json(&status, &counts) : status_text(&status, &counts);
	return result == DOVETAIL_OK ? CLI_OK : cli_fail(cli, result, NULL);
}
