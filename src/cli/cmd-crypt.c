/* dovetail encrypt, unlock, secret, rotate: end-to-end encryption of a subtree. Passphrases come from a command, a
   file or a prompt, never from the arguments. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* Where a secret comes from: at most one. */
struct secret_options {
	const char *command, *file, *key_file;
	bool create;
};
#define SECRET_OPTIONS(s) \
	{ .name = "passphrase-command", .arg = "COMMAND", .string = &(s).command, \
	  .help = "the passphrase is the first line that /bin/sh -c COMMAND prints" }, \
	{ .name = "passphrase-file", .arg = "FILE", .string = &(s).file, .help = "... or that FILE has (-: standard input)" }, \
	{ .name = "key-file", .arg = "FILE", .string = &(s).key_file, .help = "a key file in place of a passphrase" }
#define CREATE_OPTION(s) { .name = "create-key-file", .flag = &(s).create, .help = "make the file of --key-file first" }

static bool secret_options_check(struct cli *cli, const struct secret_options *options, int *exit_r)
{
	if ((options->command != NULL) + (options->file != NULL) + (options->key_file != NULL) > 1)
		*exit_r = cli_usage(cli, "--passphrase-command, --passphrase-file and --key-file exclude each other");
	else if (options->create && options->key_file == NULL)
		*exit_r = cli_usage(cli, "--create-key-file needs --key-file");
	else
		return true;
	return false;
}

/* A new passphrase is asked for twice. */
static int secret_prompt(struct cli *cli, const char *subtree, bool is_new, char **passphrase_r)
{
	char *prompt, *again = NULL;
	int ret;

	if (asprintf(&prompt, is_new ? "new passphrase for %s" : "passphrase of %s", subtree) < 0)
		return cli_fail_memory(cli);
	ret = cli_prompt_secret(cli, prompt, passphrase_r);
	free(prompt);
	if (ret == CLI_OK && is_new)
		ret = cli_prompt_secret(cli, "once more", &again);
	if (ret == CLI_OK && is_new && strcmp(*passphrase_r, again) != 0) {
		cli_error(cli, "the two are not the same");
		ret = CLI_USAGE;
	}
	cli_secret_free(again);
	return ret;
}

/* The secret by the options; *passphrase_r is its memory, cli_secret_free() in any case. */
static int
secret_get(struct cli *cli, const struct secret_options *options, const char *subtree, bool is_new,
	   struct dovetail_secret *secret_r, char **passphrase_r)
{
	char *error;
	int ret;

	memset(secret_r, 0, sizeof(*secret_r));
	*passphrase_r = NULL;
	if (options->key_file != NULL) {
		if (options->create && dovetail_key_file_create(options->key_file, &error) != DOVETAIL_OK) {
			cli_error(cli, "%s", error != NULL ? error : options->key_file);
			free(error);
			return CLI_FAILED;
		}
		secret_r->key_file = options->key_file;
		return CLI_OK;
	}
	if (options->command != NULL)
		ret = cli_secret_command(cli, options->command, passphrase_r);
	else if (options->file != NULL)
		ret = cli_secret_file(cli, options->file, passphrase_r);
	else
		ret = secret_prompt(cli, subtree, is_new, passphrase_r);
	if (ret == CLI_LOGIN)
		ret = CLI_LOCKED;
	if (ret == CLI_OK) {
		secret_r->passphrase = *passphrase_r;
		secret_r->passphrase_size = strlen(*passphrase_r);
	}
	return ret;
}

/* The secret could not be used: a key file that was made for it would be in the way the next time. Returns the exit code. */
static int secret_unused(struct cli *cli, enum dovetail_status status, const struct secret_options *options)
{
	int ret = cli_fail(cli, status, NULL);

	if (options->create)
		unlink(options->key_file);
	return ret;
}

/* ---- The account file ---- */

static void quote(FILE *out, const char *text)
{
	putc('"', out);
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			putc('\\', out);
		putc(*text, out);
	}
	putc('"', out);
}

static bool is_line(const char *text)
{
	return text[0] != '\0' && strpbrk(text, "\r\n") == NULL && cli_is_text(text, strlen(text));
}

/* Whether note_secret() can note where it comes from. */
static bool can_note(struct cli *cli, const struct secret_options *options, int *exit_r)
{
	const char *where = options->command != NULL ? options->command : options->key_file;

	if (where == NULL || is_line(where))
		return true;
	*exit_r = cli_usage(cli, "%s cannot be noted in the account file: it is empty, not UTF-8, or more than a line",
			    options->command != NULL ? "the command" : "the path");
	return false;
}

/* Notes where the secret comes from, in place of what was noted for the subtree; for a person or standard input that
   is nothing, so nothing is noted, and what was is kept unless it cannot be right any more (stale). */
static int note_secret(struct cli *cli, const struct secret_options *options, const char *subtree, bool stale)
{
	const char *where = options->command != NULL ? options->command : options->key_file;
	char *line = NULL, *path = NULL;
	size_t size;
	FILE *out;
	int ret;

	if (where == NULL)
		return stale ? cli_account_note_key(cli, subtree, NULL) : CLI_OK;
	if (options->key_file != NULL && (path = realpath(options->key_file, NULL)) == NULL)
		return cli_fail_errno(cli, options->key_file);
	if (path != NULL && !is_line(path)) {
		cli_error(cli, "the path of the key file cannot be noted in the account file");
		free(path);
		return CLI_CONFIG;
	}
	out = open_memstream(&line, &size);
	if (out == NULL) {
		free(path);
		return cli_fail_memory(cli);
	}
	fputs(options->command != NULL ? "passphrase_command = " : "key_file = ", out);
	quote(out, subtree);
	fprintf(out, " %s", path != NULL ? path : where);
	ret = fclose(out) == 0 ? cli_account_note_key(cli, subtree, line) : cli_fail_memory(cli);
	free(line);
	free(path);
	return ret;
}

/* After the subtree got a new key here: from now on another secret is needed, whenever the server gets to know of it. */
static int
note_and_send(struct cli *cli, enum dovetail_status status, const struct secret_options *options, const char *subtree, bool stale)
{
	int note, ret;

	if (status != DOVETAIL_OK)
		return secret_unused(cli, status, options);
	note = note_secret(cli, options, subtree, stale);
	ret = cli_sync(cli, CLI_TO_WRITE, NULL);
	return ret != CLI_OK ? ret : note;
}

/* ---- The commands ---- */

/* Fresh, without any key. */
static int open_locked(struct cli *cli, enum cli_purpose purpose)
{
	int ret = cli_open(cli);

	return ret == CLI_OK ? cli_sync(cli, purpose, NULL) : ret;
}

int cmd_encrypt(struct cli *cli)
{
	struct secret_options from = { .command = NULL };
	struct dovetail_encrypt_options encrypt = { .hide_names = false };
	const struct cli_option options[] = {
		SECRET_OPTIONS(from),
		CREATE_OPTION(from),
		{ .name = "hide-names", .flag = &encrypt.hide_names, .help = "the names below SUBTREE are hidden, too" },
		{ .name = NULL }
	};
	struct dovetail_secret secret;
	enum dovetail_status status;
	char *subtree, *passphrase;
	int ret;

	if (!cli_parse(cli, options, 1, 1, &ret) || !secret_options_check(cli, &from, &ret) || !can_note(cli, &from, &ret))
		return ret;
	if (cli->offline)
		return cli_usage(cli, "encrypt cannot be --offline: another device may have begun already");
	cli->online = true;
	if ((ret = open_locked(cli, CLI_TO_CHANGE)) != CLI_OK)
		return ret;
	subtree = cli_full_name(cli, cli->args[0]);
	if (subtree == NULL)
		return cli_fail_memory(cli);
	/* nobody is asked for a secret that cannot be used */
	passphrase = NULL;
	status = dovetail_encrypt(cli->replica, subtree, NULL, &encrypt);
	ret = status == DOVETAIL_OK ? secret_get(cli, &from, subtree, true, &secret, &passphrase) : cli_fail(cli, status, NULL);
	if (ret == CLI_OK) {
		status = dovetail_encrypt(cli->replica, subtree, &secret, &encrypt);
		ret = note_and_send(cli, status, &from, subtree, false);
	}
	cli_secret_free(passphrase);
	free(subtree);
	return ret;
}

int cmd_unlock(struct cli *cli)
{
	struct secret_options from = { .command = NULL };
	const struct cli_option options[] = {
		SECRET_OPTIONS(from),
		{ .name = NULL }
	};
	struct dovetail_secret secret;
	enum dovetail_status status;
	char *subtree, *passphrase;
	int ret;

	if (!cli_parse(cli, options, 1, 1, &ret) || !secret_options_check(cli, &from, &ret) || !can_note(cli, &from, &ret) ||
	    (ret = open_locked(cli, CLI_TO_READ)) != CLI_OK)
		return ret;
	subtree = cli_full_name(cli, cli->args[0]);
	if (subtree == NULL)
		return cli_fail_memory(cli);
	ret = secret_get(cli, &from, subtree, false, &secret, &passphrase);
	if (ret == CLI_OK) {
		status = dovetail_unlock(cli->replica, subtree, &secret);
		ret = status == DOVETAIL_OK ? note_secret(cli, &from, subtree, false) : cli_fail(cli, status, NULL);
	}
	cli_secret_free(passphrase);
	free(subtree);
	return ret;
}

static bool print_secret(void *context, const char *label, const char *kind)
{
	(void)context;
	cli_put_safe(stdout, kind, strlen(kind), false);
	putchar('\t');
	cli_put_safe(stdout, label, strlen(label), false);
	putchar('\n');
	return true;
}

static int secret_run(struct cli *cli, const struct secret_options *from, const char *subtree)
{
	const char *what = cli->args[0], *label = cli->args[2];
	struct dovetail_secret secret;
	enum dovetail_status status;
	char *passphrase;
	int ret;

	if (strcmp(what, "list") == 0) {
		status = dovetail_secret_each(cli->replica, subtree, print_secret, NULL);
		return status == DOVETAIL_OK ? CLI_OK : cli_fail(cli, status, NULL);
	}
	if (strcmp(what, "remove") == 0) {
		status = dovetail_secret_remove(cli->replica, subtree, label);
		return status == DOVETAIL_OK ? cli_sync(cli, CLI_TO_WRITE, NULL) : cli_fail(cli, status, NULL);
	}
	ret = secret_get(cli, from, subtree, true, &secret, &passphrase);
	if (ret == CLI_OK) {
		status = dovetail_secret_add(cli->replica, subtree, label, &secret);
		ret = status == DOVETAIL_OK ? cli_sync(cli, CLI_TO_WRITE, NULL) : secret_unused(cli, status, from);
	}
	cli_secret_free(passphrase);
	return ret;
}

int cmd_secret(struct cli *cli)
{
	struct secret_options from = { .command = NULL };
	const struct cli_option options[] = {
		SECRET_OPTIONS(from),
		CREATE_OPTION(from),
		{ .name = NULL }
	};
	char *subtree;
	bool list, add;
	int ret;

	if (!cli_parse(cli, options, 2, 3, &ret) || !secret_options_check(cli, &from, &ret))
		return ret;
	list = strcmp(cli->args[0], "list") == 0;
	add = strcmp(cli->args[0], "add") == 0;
	if (!list && !add && strcmp(cli->args[0], "remove") != 0)
		return cli_usage(cli, "secret: list, add or remove, not \"%s\"", cli->args[0]);
	if (list != (cli->arg_count == 2))
		return cli_usage(cli, list ? "secret list: which \"%s\"?" : "secret %s needs a LABEL", cli->args[list ? 2 : 0]);
	if (!add && (from.command != NULL || from.file != NULL || from.key_file != NULL))
		return cli_usage(cli, "only secret add takes a secret");
	/* listing needs no key */
	if (list)
		ret = open_locked(cli, CLI_TO_READ);
	else
		ret = cli_open_fresh(cli, CLI_TO_CHANGE, cli->args[1]);
	if (ret != CLI_OK)
		return ret;
	subtree = cli_full_name(cli, cli->args[1]);
	if (subtree == NULL)
		return cli_fail_memory(cli);
	ret = secret_run(cli, &from, subtree);
	free(subtree);
	return ret;
}

int cmd_rotate(struct cli *cli)
{
	struct secret_options from = { .command = NULL };
	const char *label = "main";
	const struct cli_option options[] = {
		SECRET_OPTIONS(from),
		CREATE_OPTION(from),
		{ .name = "label", .arg = "LABEL", .string = &label, .help = "the secret's name, if not \"main\"" },
		{ .name = NULL }
	};
	struct dovetail_secret secret;
	enum dovetail_status status;
	char *subtree, *passphrase;
	int ret;

	if (!cli_parse(cli, options, 1, 1, &ret) || !secret_options_check(cli, &from, &ret) || !can_note(cli, &from, &ret) ||
	    (ret = cli_open_fresh(cli, CLI_TO_CHANGE, cli->args[0])) != CLI_OK)
		return ret;
	subtree = cli_full_name(cli, cli->args[0]);
	if (subtree == NULL)
		return cli_fail_memory(cli);
	ret = secret_get(cli, &from, subtree, true, &secret, &passphrase);
	if (ret == CLI_OK) {
		status = dovetail_rotate_key(cli->replica, subtree, label, &secret);
		ret = note_and_send(cli, status, &from, subtree, true);
	}
	cli_secret_free(passphrase);
	free(subtree);
	return ret;
}
