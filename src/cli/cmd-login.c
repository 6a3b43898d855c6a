/* dovetail login: makes an account file. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

struct login {
	struct cli *cli;
	const char *address;
	/* as given, or asked for */
	const char *host, *user, *tls, *password_command, *token_command, *netrc, *mechanism, *proxy, *ca_file, *prefix;
	uint64_t port;
	bool insecure, store_password, no_check, force;
	/* asked for; owned */
	char *asked_host, *asked_user;
};

/* ---- Asking ---- */

static bool can_ask(void)
{
	return isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
}

/* The host and the user by ADDRESS, options and questions. */
static int login_ask(struct login *login)
{
	const char *at = login->address != NULL ? strrchr(login->address, '@') : NULL;
	struct cli *cli = login->cli;
	char preset[256];
	int ret;

	if (login->user == NULL)
		login->user = login->address;
	if (login->user == NULL && !can_ask())
		return cli_usage(cli, "login needs an ADDRESS or --user");
	if (login->user == NULL) {
		ret = cli_prompt(cli, "user name", NULL, &login->asked_user);
		if (ret != CLI_OK)
			return ret;
		login->user = login->asked_user;
		at = strrchr(login->user, '@');
	}
	if (login->host != NULL)
		return CLI_OK;
	if (!can_ask())
		return cli_usage(cli, "login needs --host");
	snprintf(preset, sizeof(preset), "imap.%s", at != NULL ? at + 1 : "");
	ret = cli_prompt(cli, "server", at != NULL ? preset : NULL, &login->asked_host);
	login->host = login->asked_host;
	return ret;
}

/* ---- The file's text ---- */

/* A key of the account file; NULL: none. Returns false if it cannot be in a line. */
static bool put_key(struct login *login, FILE *out, const char *key, const char *value)
{
	if (value == NULL)
		return true;
	if (!cli_is_text(value, strlen(value))) {
		cli_error_option(login->cli, key, "not UTF-8");
		return false;
	}
	if (value[0] == '\0' && strcmp(key, "proxy") != 0) {
		cli_error_option(login->cli, key, "a value is needed");
		return false;
	}
	if (strpbrk(value, "\r\n") != NULL || value[0] == ' ' || value[0] == '\t' ||
	    (value[0] != '\0' && strchr(" \t", value[strlen(value) - 1]) != NULL)) {
		cli_error_option(login->cli, key, "line ends, and blanks at the ends, cannot be in the account file");
		return false;
	}
	fprintf(out, "%s = %s\n", key, value);
	return true;
}

static bool put_path(struct login *login, FILE *out, const char *key, const char *path)
{
	char *full = NULL, *directory;
	bool ret;

	if (path == NULL || path[0] == '\0' || path[0] == '/' || strncmp(path, "~/", 2) == 0)
		return put_key(login, out, key, path);
	directory = getcwd(NULL, 0);
	if (directory == NULL || asprintf(&full, "%s/%s", directory, path) < 0) {
		cli_fail_errno(login->cli, path);
		full = NULL;
	}
	free(directory);
	ret = full != NULL && put_key(login, out, key, full);
	free(full);
	return ret;
}

/* free() (it may have the password: cli_secret_free()). NULL: printed why. */
static char *login_text(struct login *login, const char *password)
{
	char *text = NULL, port[24];
	size_t size;
	bool good;
	FILE *out;

	out = open_memstream(&text, &size);
	if (out == NULL) {
		cli_fail_memory(login->cli);
		return NULL;
	}
	snprintf(port, sizeof(port), "%llu", (unsigned long long)login->port);
	fputs("# An account of dovetail; see dovetail-account(5)\n", out);
	good = put_key(login, out, "host", login->host) && put_key(login, out, "port", login->port != 0 ? port : NULL) &&
		put_key(login, out, "tls", login->tls) && put_key(login, out, "user", login->user) &&
		put_key(login, out, "token_command", login->token_command) &&
		put_key(login, out, "password_command", login->password_command) &&
		put_key(login, out, "password", password) && put_path(login, out, "netrc", login->netrc) &&
		put_key(login, out, "mechanism", login->mechanism) && put_key(login, out, "proxy", login->proxy) &&
		put_path(login, out, "ca_file", login->ca_file) &&
		put_key(login, out, "insecure", login->insecure ? "yes" : NULL) && put_key(login, out, "prefix", login->prefix);
	if (fclose(out) == 0 && good)
		return text;
	cli_secret_free(text);
	return NULL;
}

/* Makes the text the account that cli_open() uses. */
static int login_use(struct login *login, const char *path, const char *text)
{
	struct cli_account *account;
	char *copy = strdup(text);
	int ret = CLI_USAGE;

	if (copy == NULL)
		return cli_fail_memory(login->cli);
	account = cli_account_parse(login->cli, path, copy, true, &ret);
	cli_secret_free(copy);
	if (account == NULL)
		return ret == CLI_CONFIG ? CLI_USAGE : ret;
	return cli_account_use(login->cli, account);
}

/* ---- The command ---- */

static int login_check(struct cli *cli)
{
	struct dovetail_counts counts;
	int ret;

	ret = cli_open(cli);
	if (ret == CLI_OK)
		ret = cli_sync(cli, CLI_TO_SYNC, NULL);
	if (ret != CLI_OK) {
		if (ret < 128)
			cli_error(cli, "no account has been written; --no-check writes one without a look at the server");
		return ret;
	}
	if (dovetail_get_counts(cli->replica, &counts) == DOVETAIL_OK)
		cli_warn(cli, "logged in; entries: %llu", (unsigned long long)counts.entries);
	return CLI_OK;
}

static int login_run(struct login *login, const char *path)
{
	struct cli *cli = login->cli;
	bool has_source = login->token_command != NULL || login->password_command != NULL || login->netrc != NULL;
	struct dovetail_account server;
	char *text;
	int ret;

	ret = login_ask(login);
	if (ret != CLI_OK)
		return ret;
	text = login_text(login, NULL);
	if (text == NULL)
		return CLI_USAGE;
	ret = login_use(login, path, text);
	if (ret == CLI_OK && !has_source && (login->store_password || !login->no_check))
		ret = cli_server(cli, &server);
	if (ret == CLI_OK && !login->no_check)
		ret = login_check(cli);
	if (ret == CLI_OK && login->store_password) {
		cli_secret_free(text);
		text = login_text(login, cli->password);
		ret = text == NULL ? CLI_USAGE : CLI_OK;
	}
	if (ret == CLI_OK)
		ret = cli_account_write(cli, path, text, strlen(text));
	cli_secret_free(text);
	if (ret == CLI_OK)
		cli_warn(cli, has_source || login->store_password ? "account written: %s" :
			 "account written: %s; the password is asked for at each use, see password_command in dovetail-account(5)",
			 path);
	return ret;
}

int cmd_login(struct cli *cli)
{
	struct login login = { .cli = cli };
	const struct cli_option options[] = {
		{ .name = "host", .arg = "HOST", .string = &login.host, .help = "the server" },
		{ .name = "port", .arg = "PORT", .number = &login.port, .min = 1, .help = "if not 993, or 143 with STARTTLS" },
		{ .name = "tls", .arg = "MODE", .string = &login.tls,
		  .help = "imaps, starttls or none; imaps is the default but on port 143" },
		{ .letter = 'u', .name = "user", .arg = "USER", .string = &login.user, .help = "the user name, if not ADDRESS" },
		{ .name = "password-command", .arg = "COMMAND", .string = &login.password_command,
		  .help = "the password is the first line that /bin/sh -c COMMAND prints" },
		{ .name = "token-command", .arg = "COMMAND", .string = &login.token_command,
		  .help = "the same for an OAuth 2.0 access token" },
		{ .name = "netrc", .arg = "FILE", .string = &login.netrc, .help = "the password is in FILE, see netrc(5)" },
		{ .name = "store-password", .flag = &login.store_password,
		  .help = "ask for the password and keep it in the account file" },
		{ .name = "mechanism", .arg = "NAME", .string = &login.mechanism,
		  .help = "a SASL mechanism, if not the best of both sides" },
		{ .name = "proxy", .arg = "URL", .string = &login.proxy, .help = "socks5h://HOST:PORT or http://HOST:PORT" },
		{ .name = "ca-file", .arg = "FILE", .string = &login.ca_file,
		  .help = "trust these certificates (PEM), not the system's" },
		{ .name = "insecure", .flag = &login.insecure, .help = "do not check the certificate; for tests" },
		{ .name = "prefix", .arg = "ENTRY", .string = &login.prefix, .help = "where short names are" },
		{ .name = "no-check", .flag = &login.no_check, .help = "do not look at the server" },
		{ .name = "force", .flag = &login.force, .help = "replace the account file if there is one" },
		{ .name = NULL }
	};
	char *path;
	int ret;

	if (!cli_parse(cli, options, 0, 1, &ret))
		return ret;
	login.address = cli->args[0];
	if ((login.token_command != NULL) + (login.password_command != NULL) + (login.netrc != NULL) + login.store_password > 1)
		return cli_usage(cli, "--token-command, --password-command, --netrc and --store-password exclude each other");
	if (cli->offline && !login.no_check)
		return cli_usage(cli, "login --offline needs --no-check");
	path = cli_account_path(cli, &ret);
	if (path == NULL)
		return ret;
	if (access(path, F_OK) == 0 && !login.force) {
		cli_error(cli, "%s: there is an account already; --force replaces it", path);
		ret = CLI_CONFIG;
	} else {
		ret = login_run(&login, path);
	}
	free(login.asked_host);
	free(login.asked_user);
	free(path);
	return ret;
}
