/* Syncing once, for all commands that read or write, and what is told of a sync to a person. */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ms for connecting and for each answer if somebody only wants to read what is here as well */
#define READ_TIMEOUT 5000
/* ms, if the account says nothing */
#define TIMEOUT 30000
/* ms between looks at what another process does */
#define BUSY_INTERVAL 50

struct sync_run {
	struct cli *cli;
	enum cli_purpose purpose;
	/* the server's words were told */
	bool refused;
	bool connecting;
};

/* ---- What is told ---- */

void cli_on_state(struct cli *cli, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	switch (state) {
	case DOVETAIL_STATE_OFFLINE:
		cli_progress_end(cli);
		/* each cause once */
		if (status != DOVETAIL_OK && status != cli->told) {
			cli_warn(cli, "offline, trying again: %s", text);
			cli->told = status;
		}
		break;
	case DOVETAIL_STATE_CONNECTING:
	case DOVETAIL_STATE_SYNCING:
		cli_progress(cli, state == DOVETAIL_STATE_SYNCING ? "syncing" : "connecting", 0, 0);
		break;
	case DOVETAIL_STATE_LIVE:
	case DOVETAIL_STATE_POLLING:
		cli_progress_end(cli);
		if (cli->told != DOVETAIL_OK)
			cli_warn(cli, "online again");
		cli->told = DOVETAIL_OK;
		break;
	case DOVETAIL_STATE_FAILED:
		break;
	}
}

void cli_on_progress(struct cli *cli, uint64_t entries, uint64_t bytes, uint64_t writes_left)
{
	char text[100];
	int length;

	length = snprintf(text, sizeof(text), "syncing: %llu entries, %llu KiB", (unsigned long long)entries,
			  (unsigned long long)bytes / 1024);
	if (writes_left > 0)
		snprintf(text + length, sizeof(text) - length, ", %llu to send", (unsigned long long)writes_left);
	cli_progress(cli, text, 0, 0);
}

void cli_on_notice(struct cli *cli, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	const char *colon = mailbox != NULL && mailbox[0] != '\0' ? ": " : "";

	if (mailbox == NULL)
		mailbox = "";
	switch (notice) {
	case DOVETAIL_NOTICE_FALLBACK:
	case DOVETAIL_NOTICE_RESET:
		cli_warn(cli, "%s", text);
		break;
	case DOVETAIL_NOTICE_REFUSED:
		cli_error(cli, "refused: %s%s%s: %s", mailbox, colon, entry != NULL ? cli_short_name(cli, entry) : "", text);
		break;
	case DOVETAIL_NOTICE_UNREADABLE:
		cli_warn(cli, "%s%s%s: %s", mailbox, colon, entry != NULL ? cli_short_name(cli, entry) : "", text);
		break;
	case DOVETAIL_NOTICE_ROLLBACK:
		cli_error(cli, "%s%s%s: %s", mailbox, colon, entry != NULL ? cli_short_name(cli, entry) : "", text);
		break;
	}
}

static void run_state(void *context, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	struct sync_run *run = context;

	(void)status;
	(void)text;
	run->connecting = state == DOVETAIL_STATE_CONNECTING;
	if (run->connecting)
		cli_progress(run->cli, "connecting", 0, 0);
	else if (state == DOVETAIL_STATE_SYNCING)
		cli_progress(run->cli, "syncing", 0, 0);
}

static void run_progress(void *context, uint64_t entries, uint64_t bytes, uint64_t writes_left)
{
	struct sync_run *run = context;

	if (run->connecting)
		cli_progress(run->cli, "connecting", 0, 0);
	else
		cli_on_progress(run->cli, entries, bytes, writes_left);
}

static void run_conflict(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	static const char *const words[] = {
		"merged by lines", "the server's value is kept", "it is written over", "merged by keys", ""
	};
	struct sync_run *run = context;

	cli_warn(run->cli, "%s has been changed elsewhere, too: %s", cli_short_name(run->cli, conflict->name),
		 words[resolution->rule]);
}

static void run_notice(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	struct sync_run *run = context;

	/* of no interest to who wants to read or write one entry, again and again */
	if (run->purpose != CLI_TO_SYNC && (notice == DOVETAIL_NOTICE_FALLBACK || notice == DOVETAIL_NOTICE_RESET ||
					    notice == DOVETAIL_NOTICE_UNREADABLE))
		return;
	if (notice == DOVETAIL_NOTICE_REFUSED)
		run->refused = true;
	cli_on_notice(run->cli, notice, mailbox, entry, text);
}

/* ---- Doing it ---- */

static bool is_reading(enum cli_purpose purpose)
{
	return purpose == CLI_TO_READ || purpose == CLI_TO_CHANGE;
}

int cli_server(struct cli *cli, struct dovetail_account *server_r)
{
	char *prompt;
	int ret;

	*server_r = cli->account->server;
	if (cli->timeout > 0)
		server_r->timeout = cli->timeout * 1000;
	if (server_r->token_command != NULL || server_r->password_command != NULL || server_r->password != NULL ||
	    server_r->netrc != NULL)
		return CLI_OK;
	if (cli->password == NULL) {
		if (asprintf(&prompt, "password of %s at %s", server_r->user, server_r->host) < 0)
			return cli_fail_memory(cli);
		ret = cli_prompt_secret(cli, prompt, &cli->password);
		free(prompt);
		if (ret != CLI_OK)
			return ret;
	}
	server_r->password = cli->password;
	return CLI_OK;
}

/* Another process syncs. Whether it has done, or will do, what is wanted here. */
static bool busy_is_enough(struct cli *cli, enum cli_purpose purpose)
{
	struct dovetail_counts counts;

	if (dovetail_get_counts(cli->replica, &counts) != DOVETAIL_OK || counts.synced_at == 0)
		return false;
	return is_reading(purpose) || counts.pending == 0;
}

/* Syncs, or waits for who does. */
static enum dovetail_status
run_once(struct sync_run *run, const struct dovetail_account *server, const struct dovetail_sync_options *options)
{
	static const struct dovetail_callbacks callbacks = {
		.conflict = run_conflict, .state = run_state, .progress = run_progress, .notice = run_notice
	};
	struct cli *cli = run->cli;
	struct pollfd signals = { .fd = cli->signal_fd, .events = POLLIN };
	int64_t until = cli_now() + (server->timeout > 0 ? server->timeout : TIMEOUT);
	enum dovetail_status status;

	for (;;) {
		status = dovetail_sync_once(cli->replica, server, options, &callbacks, run, cli->signal_fd);
		if (status != DOVETAIL_BUSY || cli_now() > until)
			return status;
		if (busy_is_enough(cli, run->purpose))
			return DOVETAIL_OK;
		cli_progress(cli, "waiting for another process that syncs", 0, 0);
		if (poll(&signals, 1, BUSY_INTERVAL) > 0)
			return DOVETAIL_STOPPED;
	}
}

/* The exit code after a sync that has failed, with a message. */
static int run_failed(struct sync_run *run, enum dovetail_status status)
{
	struct cli *cli = run->cli;
	struct dovetail_counts counts = { .synced_at = 0 };
	char *error = strdup(dovetail_error(cli->replica));
	const char *text = error != NULL && error[0] != '\0' ? error : dovetail_status_name(status);
	int ret = cli_exit_of(status);

	if (status == DOVETAIL_BUSY)
		ret = CLI_OFFLINE;
	dovetail_get_counts(cli->replica, &counts);
	if (is_reading(run->purpose) && !cli->online && counts.synced_at != 0) {
		if (run->purpose == CLI_TO_READ)
			cli_warn(cli, "not up to date: %s", text);
		ret = CLI_OK;
	} else if (status == DOVETAIL_MASS_REMOVAL) {
		cli_error(cli, "%s; \"dovetail sync --yes\" allows it", text);
	} else if (!is_reading(run->purpose) && counts.pending > 0) {
		cli_error(cli, "queued, not sent: %s", text);
	} else {
		cli_error(cli, "%s", text);
	}
	free(error);
	return ret;
}

int cli_sync(struct cli *cli, enum cli_purpose purpose, const struct dovetail_sync_options *options)
{
	struct sync_run run = { .cli = cli, .purpose = purpose };
	struct dovetail_counts before = { .refused = 0 }, after = { .refused = 0 };
	struct dovetail_account server;
	enum dovetail_status status;
	bool optional;
	int ret;

	if (cli->offline)
		return CLI_OK;
	dovetail_get_counts(cli->replica, &before);
	optional = is_reading(purpose) && !cli->online && before.synced_at != 0;
	ret = cli_server(cli, &server);
	if (ret != CLI_OK)
		return optional && cli->signal == 0 ? CLI_OK : ret;
	if (optional && cli->timeout == 0 && (server.timeout == 0 || server.timeout > READ_TIMEOUT))
		server.timeout = READ_TIMEOUT;
	if (cli_signals_begin(cli) == -1)
		return CLI_SYSTEM;
	status = run_once(&run, &server, options != NULL ? options : &cli->account->sync);
	cli_progress_end(cli);
	cli_signals_end(cli);
	if (cli->signal != 0)
		return 128 + cli->signal;
	if (status != DOVETAIL_OK)
		return run_failed(&run, status);
	dovetail_get_counts(cli->replica, &after);
	if (is_reading(purpose) || after.refused <= before.refused)
		return run.refused && !is_reading(purpose) ? CLI_REFUSED : CLI_OK;
	if (!run.refused)
		cli_error(cli, "refused by the server; see \"dovetail status\"");
	return CLI_REFUSED;
}
