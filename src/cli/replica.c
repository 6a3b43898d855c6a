/* Opening the account's replica, its keys, and the names of entries. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* ---- Names ---- */

char *cli_full_name(const struct cli *cli, const char *name)
{
	char *full;

	if (name[0] == '/')
		return strdup(name);
	if (name[0] == '\0')
		return strdup(cli->account->prefix);
	return asprintf(&full, "%s/%s", cli->account->prefix, name) < 0 ? NULL : full;
}

const char *cli_short_name(const struct cli *cli, const char *name)
{
	size_t length = strlen(cli->account->prefix);

	if (strncmp(name, cli->account->prefix, length) == 0 && name[length] == '/' && name[length + 1] != '\0')
		return name + length + 1;
	return name;
}

size_t cli_max_value(const struct cli *cli)
{
	return cli->account->sync.max_value != 0 ? cli->account->sync.max_value : 16 * 1024 * 1024;
}

const char *cli_mailbox(const struct cli *cli)
{
	return cli->mailbox != NULL ? cli->mailbox : "";
}

/* Whether name is the subtree, or below it, in any case of letters. */
static bool is_in(const char *name, const char *subtree)
{
	size_t length = strlen(subtree);

	return strncasecmp(name, subtree, length) == 0 && (name[length] == '\0' || name[length] == '/');
}

/* ---- Opening ---- */

static bool part_equal(const struct dovetail_part *a, const struct dovetail_part *b)
{
	return a->scope == b->scope && strcmp(a->entry, b->entry) == 0 && (a->mailbox == NULL) == (b->mailbox == NULL) &&
		(a->mailbox == NULL || strcmp(a->mailbox, b->mailbox) == 0);
}

/* Sets what it covers if the account file says something new. */
static int open_parts(struct cli *cli)
{
	const struct cli_account *account = cli->account;
	const struct dovetail_part *parts;
	enum dovetail_status status;
	size_t i, count;

	status = dovetail_get_parts(cli->replica, &parts, &count);
	if (status != DOVETAIL_OK)
		return cli_fail(cli, status, account->replica);
	for (i = 0; i < count && count == account->part_count && part_equal(&parts[i], &account->parts[i]); i++)
		;
	if (i == count && count == account->part_count)
		return CLI_OK;
	status = dovetail_set_parts(cli->replica, account->parts, account->part_count);
	if (status == DOVETAIL_OK)
		return CLI_OK;
	cli_error(cli, "%s: covers: %s", account->path, dovetail_error(cli->replica));
	return status == DOVETAIL_INVALID ? CLI_CONFIG : cli_exit_of(status);
}

int cli_open(struct cli *cli)
{
	enum dovetail_status status;
	char *error;
	int ret;

	if (cli->account == NULL && (ret = cli_account_load(cli)) != CLI_OK)
		return ret;
	ret = cli_make_directories(cli, cli->account->replica);
	if (ret != CLI_OK)
		return ret;
	status = dovetail_open(cli->account->replica, DOVETAIL_OPEN_CREATE, &cli->replica, &error);
	if (status != DOVETAIL_OK) {
		cli_error(cli, "%s", error != NULL ? error : dovetail_status_name(status));
		free(error);
		return cli_exit_of(status);
	}
	return open_parts(cli);
}

int cli_open_fresh(struct cli *cli, enum cli_purpose purpose, const char *name)
{
	int ret = cli_open(cli);
	char *full = NULL;

	if (ret == CLI_OK && name != NULL && (full = cli_full_name(cli, name)) == NULL)
		ret = cli_fail_memory(cli);
	if (ret == CLI_OK)
		ret = cli_unlock(cli, full, false);
	if (ret == CLI_OK)
		ret = cli_sync(cli, purpose, NULL);
	if (ret == CLI_OK)
		ret = cli_unlock(cli, full, true);
	free(full);
	return ret;
}

void cli_close(struct cli *cli)
{
	cli_progress_end(cli);
	dovetail_close(cli->replica);
	cli->replica = NULL;
	cli_account_free(cli->account);
	cli->account = NULL;
	cli_secret_free(cli->password);
	cli->password = NULL;
}

/* ---- Keys ---- */

static bool has_secret(void *context, const char *label, const char *kind)
{
	(void)label;
	(void)kind;
	*(bool *)context = true;
	return false;
}

static bool is_encrypted(struct cli *cli, const char *subtree)
{
	enum dovetail_status status;
	bool found = false;

	status = dovetail_secret_each(cli->replica, subtree, has_secret, &found);
	/* LOCKED: it is, and this replica was never unlocked */
	return status == DOVETAIL_LOCKED || (status == DOVETAIL_OK && found);
}

char *cli_encrypted_subtree(struct cli *cli, const char *name)
{
	char *subtree = strdup(name), *slash;

	/* the entry itself, and what it is in */
	while (subtree != NULL && !is_encrypted(cli, subtree)) {
		slash = strrchr(subtree, '/');
		if (slash == NULL || slash == subtree) {
			free(subtree);
			return NULL;
		}
		*slash = '\0';
	}
	return subtree;
}

/* The secret of the key; a command is run once. An exit code. */
static int key_secret(struct cli *cli, struct cli_key *key, struct dovetail_secret *secret_r)
{
	int ret = CLI_OK;

	memset(secret_r, 0, sizeof(*secret_r));
	secret_r->key_file = key->file;
	if (key->file != NULL && access(key->file, R_OK) < 0) {
		cli_fail_errno(cli, key->file);
		return CLI_LOCKED;
	}
	if (key->file != NULL)
		return CLI_OK;
	if (key->passphrase == NULL)
		ret = cli_secret_command(cli, key->command, &key->passphrase);
	if (ret != CLI_OK)
		return CLI_LOCKED;
	secret_r->passphrase = key->passphrase;
	secret_r->passphrase_size = strlen(key->passphrase);
	return CLI_OK;
}

/* needed: without the key nothing can be done; else its failure is told only. last: no sync will bring the subtree's keys. */
static int unlock_key(struct cli *cli, struct cli_key *key, bool needed, bool last)
{
	struct dovetail_secret secret;
	enum dovetail_status status;
	int ret;

	/* whatever the server shows, or does not: nothing is written there in clear text */
	status = dovetail_expect_encrypted(cli->replica, key->subtree);
	if (status == DOVETAIL_OK) {
		ret = key_secret(cli, key, &secret);
		if (ret != CLI_OK) {
			/* once */
			key->used = true;
			return needed ? ret : CLI_OK;
		}
		status = dovetail_unlock(cli->replica, key->subtree, &secret);
		/* the keys have not come, or are not as they should be */
		if ((status == DOVETAIL_LOCKED || status == DOVETAIL_DAMAGED) && !last)
			return CLI_OK;
	}
	key->used = true;
	ret = cli_exit_of(status);
	if (status == DOVETAIL_WRONG_KEY)
		cli_error(cli, "%s; \"dovetail unlock\" notes another one", dovetail_error(cli->replica));
	else if (status != DOVETAIL_OK)
		ret = cli_fail(cli, status, NULL);
	return needed ? ret : CLI_OK;
}

/* The entry is in an encrypted subtree without a secret in the account file. */
static int unlock_asking(struct cli *cli, const char *name)
{
	struct dovetail_secret secret = { .key_file = NULL };
	enum dovetail_status status = DOVETAIL_OK;
	char *subtree = cli_encrypted_subtree(cli, name), *passphrase, *prompt;
	unsigned int i;
	int ret = CLI_OK;

	if (subtree == NULL)
		return CLI_OK;
	for (i = 0; i < cli->account->key_count; i++) {
		if (strcasecmp(cli->account->keys[i].subtree, subtree) == 0)
			goto out;
	}
	if (cli->asked_key || isatty(STDERR_FILENO) != 1)
		goto out;
	cli->asked_key = true;
	if (asprintf(&prompt, "passphrase of %s", subtree) < 0) {
		ret = cli_fail_memory(cli);
		goto out;
	}
	ret = cli_prompt_secret(cli, prompt, &passphrase);
	free(prompt);
	if (ret == CLI_OK) {
		secret.passphrase = passphrase;
		secret.passphrase_size = strlen(passphrase);
		status = dovetail_unlock(cli->replica, subtree, &secret);
		cli_secret_free(passphrase);
	}
	if (status != DOVETAIL_OK)
		ret = cli_fail(cli, status, NULL);
out:
	free(subtree);
	return ret;
}

/* Whether the entry (NULL: any) is in the key's subtree, or has it below it. */
static bool concerns(const struct cli_key *key, const char *name)
{
	return name == NULL || is_in(name, key->subtree) || is_in(key->subtree, name);
}

int cli_unlock(struct cli *cli, const char *name, bool last)
{
	struct cli_key *keys = cli->account->keys;
	unsigned int i;
	int ret;

	for (i = 0; i < cli->account->key_count; i++) {
		if (keys[i].used || !concerns(&keys[i], name))
			continue;
		ret = unlock_key(cli, &keys[i], name != NULL && is_in(name, keys[i].subtree), last);
		if (ret != CLI_OK)
			return ret;
	}
	return last && name != NULL ? unlock_asking(cli, name) : CLI_OK;
}

int cli_unlock_synced(struct cli *cli, const char *name)
{
	const struct cli_key *keys = cli->account->keys;
	unsigned int i;
	int ret;

	ret = cli_unlock(cli, name, false);
	for (i = 0; i < cli->account->key_count && (keys[i].used || !concerns(&keys[i], name)); i++)
		;
	if (ret == CLI_OK && i < cli->account->key_count)
		ret = cli_sync(cli, CLI_TO_CHANGE, NULL);
	return ret == CLI_OK ? cli_unlock(cli, name, true) : ret;
}
