/* The account file: lines of "key = value" (dovetail-account(5)). Read here; found, checked and written in
   account-file.c. */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define DEFAULT_PREFIX "/private/vendor/dovetail/user"
#define DEFAULT_MAX_REMOVALS 100

enum key_type { KEY_STRING, KEY_PATH, KEY_PORT, KEY_TLS, KEY_YESNO, KEY_SECONDS, KEY_COUNT, KEY_SIZE, KEY_MAX_VALUE, KEY_RULE,
	KEY_PREFIX, KEY_COVERS, KEY_PASSPHRASE, KEY_KEY_FILE };

static const struct key {
	const char *name;
	enum key_type type;
	size_t offset;
} keys[] = {
#define KEY(name, type, member) { name, type, offsetof(struct cli_account, member) }
	KEY("host", KEY_STRING, server.host),
	KEY("port", KEY_PORT, server.port),
	KEY("tls", KEY_TLS, server.tls),
	KEY("user", KEY_STRING, server.user),
	KEY("token_command", KEY_STRING, server.token_command),
	KEY("password_command", KEY_STRING, server.password_command),
	KEY("password", KEY_STRING, server.password),
	KEY("netrc", KEY_PATH, server.netrc),
	KEY("mechanism", KEY_STRING, server.mechanism),
	KEY("proxy", KEY_STRING, server.proxy),
	KEY("ca_file", KEY_PATH, server.ca_file),
	KEY("insecure", KEY_YESNO, server.insecure),
	KEY("timeout", KEY_SECONDS, server.timeout),
	KEY("replica", KEY_PATH, replica),
	KEY("prefix", KEY_PREFIX, prefix),
	KEY("covers", KEY_COVERS, parts),
	KEY("conflict", KEY_RULE, sync.rule),
	KEY("poll_interval", KEY_SECONDS, sync.poll_interval),
	KEY("keepalive", KEY_SECONDS, sync.keepalive),
	KEY("max_backoff", KEY_SECONDS, sync.max_backoff),
	KEY("max_value", KEY_MAX_VALUE, sync.max_value),
	KEY("max_entries", KEY_COUNT, sync.max_entries),
	KEY("max_bytes", KEY_SIZE, sync.max_bytes),
	KEY("max_removals", KEY_COUNT, sync.max_removals),
	KEY("passphrase_command", KEY_PASSPHRASE, keys),
	KEY("key_file", KEY_KEY_FILE, keys),
};
#define KEYS_COUNT (sizeof(keys) / sizeof(keys[0]))

static bool key_repeats(const struct key *key)
{
	return key->type == KEY_COVERS || key->type == KEY_PASSPHRASE || key->type == KEY_KEY_FILE;
}

/* ---- Words, numbers, names ---- */

char *cli_word(char **text)
{
	char *p = *text, *to, *word;
	bool quoted = false;

	p += strspn(p, " \t");
	if (*p == '\0')
		return NULL;
	for (word = to = p; *p != '\0' && (quoted || (*p != ' ' && *p != '\t')); p++) {
		if (*p == '"')
			quoted = !quoted;
		else if (*p == '\\' && quoted && p[1] != '\0')
			*to++ = *++p;
		else
			*to++ = *p;
	}
	if (quoted)
		return NULL;
	if (*p != '\0')
		p++;
	*to = '\0';
	*text = p + strspn(p, " \t");
	return word;
}

/* "16M": with a factor of 1024 for each step if units */
static const char *parse_number(const char *value, bool units, uint64_t max, uint64_t *number_r)
{
	static const char letters[] = "KMGT";
	unsigned long long number;
	const char *letter;
	char *end;
	int i;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || errno != 0)
		return "a number is needed";
	if (units && *end != '\0' && (letter = strchr(letters, *end & ~0x20)) != NULL && *letter != '\0') {
		for (i = letter - letters; i >= 0; i--) {
			if (number > UINT64_MAX / 1024)
				return "the number is too large";
			number *= 1024;
		}
		end++;
	}
	if (*end != '\0')
		return units ? "a number is needed, as 500000, 64K, 16M or 1G" : "a number is needed";
	if (number > max)
		return "the number is too large";
	*number_r = number;
	return NULL;
}

static void lower(char *text)
{
	for (; *text != '\0'; text++) {
		if (*text >= 'A' && *text <= 'Z')
			*text += 'a' - 'A';
	}
}

/* As the library has it; for a clear error at the line and not later. */
static const char *check_entry(const char *name, bool below)
{
	const char *p;

	if (strncmp(name, "/private", 8) != 0 && strncmp(name, "/shared", 7) != 0)
		return "an entry begins with /private or /shared";
	for (p = name; *p != '\0'; p++) {
		if (*p < 0x20 || *p > 0x7e || *p == '*' || *p == '%')
			return "an entry has visible ASCII characters only, without * and %";
		if (*p == '/' && (p[1] == '/' || p[1] == '\0'))
			return "an entry has no empty part";
	}
	p = name + (name[1] == 'p' ? 8 : 7);
	if (*p != '\0' && *p != '/')
		return "an entry begins with /private or /shared";
	if (below && *p == '\0')
		return "a name below /private or /shared is needed";
	if (strlen(name) > 1024)
		return "the entry is too long";
	return NULL;
}

/* ---- Values. All return NULL or what is wrong. ---- */

static const char out_of_memory[] = "out of memory";

static const char *set_string(char **to, char *copy)
{
	if (copy == NULL)
		return out_of_memory;
	free(*to);
	*to = copy;
	return NULL;
}

/* with ~/ replaced */
static const char *set_path(char **to, const char *value)
{
	const char *home = cli_home();
	char *path;

	if (strncmp(value, "~/", 2) != 0)
		return set_string(to, strdup(value));
	if (home == NULL)
		return "~/ has no meaning, since HOME is not set";
	return set_string(to, asprintf(&path, "%s%s", home, value + 1) < 0 ? NULL : path);
}

static const char *set_word(const char *value, const char *const *words, unsigned int *index_r)
{
	static const char *const error[] = {
		"default, imaps, starttls or none is needed", "lines, server, mine or json is needed"
	};
	unsigned int i;

	for (i = 0; words[i] != NULL; i++) {
		if (strcmp(words[i], value) == 0) {
			*index_r = i;
			return NULL;
		}
	}
	return error[words[0][0] == 'l'];
}

static const char *set_covers(struct cli_account *account, char *value)
{
	char *words[3] = { NULL, NULL, NULL };
	struct dovetail_part *parts, part = { .scope = DOVETAIL_SCOPE_MAILBOX, .mailbox = NULL };
	const char *error, *mailbox = NULL, *entry;
	unsigned int i;

	for (i = 0; i < 3 && value[0] != '\0'; i++) {
		if ((words[i] = cli_word(&value)) == NULL)
			return "a quote has no end";
	}
	entry = words[1];
	if (words[0] != NULL && strcmp(words[0], "account") == 0) {
		mailbox = "";
	} else if (words[0] != NULL && strcmp(words[0], "mailboxes") == 0) {
		part.scope = DOVETAIL_SCOPE_PERSONAL;
	} else if (words[0] != NULL && (strcmp(words[0], "mailbox") == 0 || strcmp(words[0], "subtree") == 0)) {
		part.scope = words[0][0] == 's' ? DOVETAIL_SCOPE_SUBTREE : DOVETAIL_SCOPE_MAILBOX;
		mailbox = words[1];
		entry = words[2];
		i--;
	} else {
		return "needed is: account ENTRY, mailboxes ENTRY, mailbox NAME ENTRY or subtree NAME ENTRY";
	}
	if (i != 2 || entry == NULL || value[0] != '\0')
		return "the scope and one entry are needed; names with blanks are in \"\"";
	lower((char *)entry);
	if ((error = check_entry(entry, false)) != NULL)
		return error;
	if (account->part_count == 100)
		return "100 parts are enough";
	parts = realloc(account->parts, (account->part_count + 1) * sizeof(*parts));
	if (parts == NULL)
		return out_of_memory;
	account->parts = parts;
	part.entry = strdup(entry);
	part.mailbox = mailbox != NULL ? strdup(mailbox) : NULL;
	parts[account->part_count++] = part;
	return part.entry == NULL || (mailbox != NULL && part.mailbox == NULL) ? out_of_memory : NULL;
}

static const char *set_key(struct cli_account *account, char *value, bool file)
{
	struct cli_key *keys;
	const char *error;
	char *subtree = cli_word(&value);

	if (subtree == NULL || value[0] == '\0')
		return file ? "a subtree and a file are needed" : "a subtree and a command are needed";
	lower(subtree);
	if ((error = check_entry(subtree, true)) != NULL)
		return error;
	keys = realloc(account->keys, (account->key_count + 1) * sizeof(*keys));
	if (keys == NULL)
		return out_of_memory;
	account->keys = keys;
	keys += account->key_count++;
	memset(keys, 0, sizeof(*keys));
	if ((error = set_string(&keys->subtree, strdup(subtree))) != NULL)
		return error;
	return file ? set_path(&keys->file, value) : set_string(&keys->command, strdup(value));
}

static const char *set_value(struct cli_account *account, const struct key *key, char *value)
{
	static const char *const tls[] = { "default", "imaps", "starttls", "none", NULL };
	static const char *const rules[] = { "lines", "server", "mine", "json", NULL };
	void *to = (char *)account + key->offset;
	const char *error = NULL;
	uint64_t number = 0;

	/* an empty proxy means: none */
	if (value[0] == '\0' && strcmp(key->name, "proxy") != 0)
		return "a value is needed";
	switch (key->type) {
	case KEY_STRING:
		return set_string(to, strdup(value));
	case KEY_PATH:
		return set_path(to, value);
	case KEY_PORT:
		if ((error = parse_number(value, false, 65535, &number)) == NULL)
			*(uint16_t *)to = number;
		return error == NULL && number == 0 ? "a number is needed" : error;
	case KEY_TLS:
		return set_word(value, tls, to);
	case KEY_RULE:
		return set_word(value, rules, to);
	case KEY_YESNO:
		*(bool *)to = strcmp(value, "yes") == 0;
		return *(bool *)to || strcmp(value, "no") == 0 ? NULL : "yes or no is needed";
	case KEY_SECONDS:
		if ((error = parse_number(value, false, 24 * 60 * 60, &number)) == NULL)
			*(unsigned int *)to = number * 1000;
		return error == NULL && number == 0 ? "at least 1 second is needed" : error;
	case KEY_COUNT:
	case KEY_SIZE:
		return parse_number(value, key->type == KEY_SIZE, INT64_MAX, to);
	case KEY_MAX_VALUE:
		if ((error = parse_number(value, true, 1 << 30, &number)) == NULL)
			*(size_t *)to = number;
		return error;
	case KEY_PREFIX:
		lower(value);
		error = check_entry(value, true);
		return error != NULL ? error : set_string(to, strdup(value));
	case KEY_COVERS:
		return set_covers(account, value);
	case KEY_PASSPHRASE:
	case KEY_KEY_FILE:
		return set_key(account, value, key->type == KEY_KEY_FILE);
	}
	return NULL;
}

/* ---- The file's text ---- */

/* seen: bits of keys, changed. NULL or what is wrong; *key_r: with the value of this key, or NULL. */
static const char *parse_line(struct cli_account *account, char *line, uint64_t *seen, const char **key_r)
{
	char *value, *end;
	unsigned int i;

	*key_r = NULL;
	line += strspn(line, " \t");
	if (*line == '\0' || *line == '#')
		return NULL;
	value = strchr(line, '=');
	if (value == NULL)
		return "\"key = value\" is needed";
	for (end = value; end > line && (end[-1] == ' ' || end[-1] == '\t'); end--)
		;
	*end = '\0';
	value++;
	value += strspn(value, " \t");
	for (end = value + strlen(value); end > value && strchr(" \t\r", end[-1]) != NULL; end--)
		;
	*end = '\0';
	for (i = 0; i < KEYS_COUNT && strcmp(keys[i].name, line) != 0; i++)
		;
	if (i == KEYS_COUNT)
		return "there is no such key";
	if ((*seen & (uint64_t)1 << i) != 0 && !key_repeats(&keys[i]))
		return "the key is there twice";
	*seen |= (uint64_t)1 << i;
	*key_r = keys[i].name;
	return set_value(account, &keys[i], value);
}

static const char *account_defaults(struct cli_account *account)
{
	static const char *const covers[] = { "account /private", "account /shared", "mailboxes /private", "mailboxes /shared" };
	const char *error = NULL;
	char line[64];
	unsigned int i;

	if (account->server.host == NULL)
		return "the key host is missing";
	if (account->server.user == NULL)
		return "the key user is missing";
	if (account->prefix == NULL)
		error = set_string(&account->prefix, strdup(DEFAULT_PREFIX));
	for (i = 0; account->part_count < i + 1 && i < 4 && error == NULL; i++) {
		snprintf(line, sizeof(line), "%s", covers[i]);
		error = set_covers(account, line);
	}
	return error;
}

void cli_error_option(struct cli *cli, const char *key, const char *error)
{
	char option[32], *p;

	snprintf(option, sizeof(option), "%s", key);
	for (p = option; (p = strchr(p, '_')) != NULL; p++)
		*p = '-';
	cli_error(cli, "--%s: %s", option, error);
}

struct cli_account *cli_account_parse(struct cli *cli, const char *path, char *text, bool by_option, int *exit_r)
{
	struct cli_account *account = calloc(1, sizeof(*account));
	const char *error = NULL, *key = NULL;
	unsigned int number = 0;
	uint64_t seen = 0;
	char *line;

	if (account == NULL) {
		*exit_r = cli_fail_memory(cli);
		return NULL;
	}
	account->sync.max_removals = DEFAULT_MAX_REMOVALS;
	while (error == NULL && (line = strsep(&text, "\n")) != NULL) {
		number++;
		error = parse_line(account, line, &seen, &key);
	}
	if (error != NULL && by_option && key != NULL) {
		cli_error_option(cli, key, error);
	} else if (error != NULL) {
		/* without the line's text: it may be a password */
		cli_error(cli, "%s: line %u: %s", path, number, error);
	} else if ((error = account_defaults(account)) != NULL) {
		cli_error(cli, "%s: %s", path, error);
	} else {
		account->path = strdup(path);
		if (account->path != NULL)
			return account;
		error = out_of_memory;
		cli_fail_memory(cli);
	}
	*exit_r = error == out_of_memory ? CLI_SYSTEM : CLI_CONFIG;
	cli_account_free(account);
	return NULL;
}

void cli_account_free(struct cli_account *account)
{
	unsigned int i;

	if (account == NULL)
		return;
	for (i = 0; i < KEYS_COUNT; i++) {
		if (keys[i].type == KEY_STRING || keys[i].type == KEY_PATH || keys[i].type == KEY_PREFIX)
			cli_secret_free(*(char **)((char *)account + keys[i].offset));
	}
	for (i = 0; i < account->part_count; i++) {
		free((char *)account->parts[i].mailbox);
		free((char *)account->parts[i].entry);
	}
	for (i = 0; i < account->key_count; i++) {
		free(account->keys[i].subtree);
		free(account->keys[i].command);
		free(account->keys[i].file);
		cli_secret_free(account->keys[i].passphrase);
	}
	free(account->parts);
	free(account->keys);
	free(account->path);
	free(account);
}
