#ifndef CLI_H
#define CLI_H

/* What the commands of dovetail share: options, the account, the replica, syncing once, exit codes, printing,
   progress, prompts. A command is one function in a file cmd-*.c (mirror*.c) and a row of the table in main.c.
   Everything is built on the public header of the library alone. There are no globals: struct cli is the whole state. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "dovetail.h"

/* The exit codes of all commands, documented in dovetail(1). 128 + n: ended by signal n. */
enum cli_exit {
	CLI_OK = 0,
	/* no such entry, or a failure that has no code of its own */
	CLI_FAILED = 1,
	/* wrong arguments, wrong names, wrong input */
	CLI_USAGE = 2,
	/* the server cannot be reached. What was written is queued. */
	CLI_OFFLINE = 3,
	CLI_LOGIN = 4,
	CLI_TLS = 5,
	/* the server refused: rights, quota, a limit, no such mailbox */
	CLI_REFUSED = 6,
	/* the server can neither XMETASYNC nor METADATA, or breaks the protocol */
	CLI_UNSUPPORTED = 7,
	/* encrypted, and locked, the wrong key, or damaged */
	CLI_LOCKED = 8,
	/* the account file or the replica: missing, unusable, in use by another process */
	CLI_CONFIG = 9,
	/* memory, disk, output that cannot be written */
	CLI_SYSTEM = 10,
	/* more entries would be removed than may be without --yes */
	CLI_MASS_REMOVAL = 11
};

struct cli;
struct cli_account;

/* ---- Commands and their options (args.c) ---- */

struct cli_command {
	const char *name;
	/* what follows the options in the usage line: "NAME [VALUE]" */
	const char *args;
	/* one line for `dovetail help` */
	const char *summary;
	/* further lines for `dovetail help COMMAND`, each with its newline; may be NULL */
	const char *details;
	/* Returns an exit code. Begins with cli_parse(). */
	int (*run)(struct cli *cli);
};

/* An option with exactly one of the pointers, which keeps its value if the option is not given. Ends with {0}. */
struct cli_option {
	/* 0: none */
	char letter;
	const char *name;
	/* what the argument is called; NULL for flags */
	const char *arg;
	const char *help;
	bool *flag;
	/* points into argv */
	const char **string;
	/* a number without sign, at least min */
	uint64_t *number;
	uint64_t min;
	/* as string, for options that may be given several times; NULL-terminated and owned by the caller: free() the
	   list */
	const char ***list;
};

/* Parses what follows the command's name: its options (on the caller's stack) and the common ones in any order, then
   leaves the others in cli->args: at least min, at most max. false: *exit_r is to be returned (--help was printed, or
   an error). Options are not abbreviated; "--" ends them. */
bool cli_parse(struct cli *cli, const struct cli_option *options, unsigned int min, unsigned int max, int *exit_r);
/* The same, but what comes after "--" is not part of cli->args: it is in cli->rest (NULL if there was no "--"). */
bool cli_parse_rest(struct cli *cli, const struct cli_option *options, unsigned int min, unsigned int max, int *exit_r);
/* The common options before the command's name; *next_r is what follows them. As cli_parse(). */
bool cli_parse_common(struct cli *cli, char **argv, char ***next_r, int *exit_r);
/* "dovetail: …", and the hint at --help. Returns CLI_USAGE. */
int cli_usage(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct cli {
	const struct cli_command *command;
	/* NULL-terminated: what follows the command's name, before parsing */
	char **argv;
	/* after parsing; NULL-terminated; rest may be NULL */
	char **args;
	unsigned int arg_count;
	char **rest;

	/* the common options; NULL or 0 if not given */
	const char *account_name, *config_path;
	/* NULL: not given, see cli_mailbox() */
	const char *mailbox;
	/* seconds */
	uint64_t timeout;
	bool offline, online, quiet;
	/* --help, --version */
	bool help, version;

	/* after cli_open() */
	struct cli_account *account;
	struct dovetail *replica;

	/* private to progress.c, signals.c, sync.c, replica.c, output.c */
	struct cli_progress *progress;
	int signal_fd, signal;
	enum dovetail_status told;
	char *password;
	bool asked_key;
	/* errno of writing to stdout */
	int output_error;
};

/* ---- The account file (account.c, account-file.c; dovetail-account(5)) ---- */

/* A secret of an encrypted subtree that is given without asking. */
struct cli_key {
	char *subtree;
	/* exactly one */
	char *command, *file;
	/* of the command; cli_secret_free() */
	char *passphrase;
	/* it needs no further try */
	bool used;
};

struct cli_account {
	/* the account file, and the replica; absolute */
	char *path, *replica;
	/* of names without a leading "/": begins with "/", lower case, no "/" at the end */
	char *prefix;
	/* strings are owned here */
	struct dovetail_account server;
	struct dovetail_sync_options sync;
	/* what the replica covers; strings owned here */
	struct dovetail_part *parts;
	unsigned int part_count;
	struct cli_key *keys;
	unsigned int key_count;
};

/* Finds and reads the file of cli->config_path or cli->account_name. An exit code; errors are printed. */
int cli_account_load(struct cli *cli);
/* The path that it would be read from; free(). NULL: printed why, with *exit_r. */
char *cli_account_path(struct cli *cli, int *exit_r);
/* Fills in the defaults and the values that are given in lines of text, which is changed. path is for messages and
   defaults; by_option: a wrong value is told with the option of its key, since there is no such line. Returns NULL and
   an exit code after printing the error. */
struct cli_account *cli_account_parse(struct cli *cli, const char *path, char *text, bool by_option, int *exit_r);
/* What is wrong with the value of an option that is for a key of the account file: "--password-command: ..." */
void cli_error_option(struct cli *cli, const char *key, const char *error);
void cli_account_free(struct cli_account *account);
/* Makes it the one of cli, which owns it then, and finds its replica's place. An exit code. */
int cli_account_use(struct cli *cli, struct cli_account *account);
/* Makes the directories that the file is in (mode 0700). An exit code. */
int cli_make_directories(struct cli *cli, const char *path);
/* Replaces the file (mode 0600) as a whole, or not at all. An exit code. */
int cli_account_write(struct cli *cli, const char *path, const char *text, size_t size);
/* Writes the file anew, without the lines on a secret of the subtree, and with line (NULL: none) at its end. One process at a
   time does so; others wait (for --timeout). An exit code. */
int cli_account_note_key(struct cli *cli, const char *subtree, const char *line);
/* The user's home directory, absolute. Static; NULL: nothing says which. */
const char *cli_home(void);
/* "a b" from "\"a b\" c": the first word of *text, with quotes and backslashes undone in place; moves *text behind it
   and blanks. NULL: no word, or a quote without its end. */
char *cli_word(char **text);

/* ---- Names ---- */

/* The full name of the entry: as it is if it begins with "/", else below the account's prefix. "" is the prefix
   itself. free(). */
char *cli_full_name(const struct cli *cli, const char *name);
/* The other way, for showing: the part after the prefix, or the whole name. Points into name. */
const char *cli_short_name(const struct cli *cli, const char *name);

/* entries of a change set, at most: the library's limit */
#define CLI_SET_MAX 100
/* Larger values are not taken: the account's max_value, or what is the library's limit on what a server sends. */
size_t cli_max_value(const struct cli *cli);
/* The mailbox of the command's entries; "", the account, if --mailbox is not given. */
const char *cli_mailbox(const struct cli *cli);

/* ---- The replica, and syncing (replica.c, sync.c) ---- */

/* Loads the account (if there is none yet), opens its replica (makes it if there is none) and sets what it covers. An
   exit code. */
int cli_open(struct cli *cli);
/* What main() calls at the end. */
void cli_close(struct cli *cli);
/* Gives the replica the keys of the account file whose subtrees have to do with the entry (full name; NULL: all).
   Unless last there will be a sync that may bring keys that the replica does not know yet. If last: for a subtree with the entry in
   it that is encrypted, and for which the account file has no secret, it asks at the terminal if there is one. An exit
   code; not having a secret is none. */
int cli_unlock(struct cli *cli, const char *name, bool last);
/* cli_unlock() to the end, with a sync only if the replica does not know a key that has to do with the entry. An exit code. */
int cli_unlock_synced(struct cli *cli, const char *name);
/* The subtree that the entry (full name) is in, if that is encrypted; free(). NULL: none. */
char *cli_encrypted_subtree(struct cli *cli, const char *name);
/* The account for the library, with the password (asked for now, if need be) and --timeout. An exit code. */
int cli_server(struct cli *cli, struct dovetail_account *server_r);

enum cli_purpose {
	/* the replica is made fresh before it is read: a failure is one line of warning, and no error if there is a
	   local state and not --online */
	CLI_TO_READ,
	/* the same, but the warning is left to the CLI_TO_WRITE that follows */
	CLI_TO_CHANGE,
	/* sends what was written: a failure is an error, the writes stay in the queue */
	CLI_TO_WRITE,
	/* the sync itself is what was asked for */
	CLI_TO_SYNC
};
/* Syncs once, as the purpose and the options (--offline, --online, --timeout) say; another process that syncs this
   replica does the work if there is one. Progress and notices are shown. options: NULL, or others than the account's.
   An exit code. */
int cli_sync(struct cli *cli, enum cli_purpose purpose, const struct dovetail_sync_options *options);
/* cli_open(), cli_unlock(), cli_sync() to read or to change, and cli_unlock() again. name: as given by the user;
   NULL: all. */
int cli_open_fresh(struct cli *cli, enum cli_purpose purpose, const char *name);

/* What a command that has a dovetail_sync of its own calls from its callbacks: one line on stderr for what a person
   should know (offline, back again, fallback, refused writes …), and the progress line. */
void cli_on_state(struct cli *cli, enum dovetail_state state, enum dovetail_status status, const char *text);
void cli_on_progress(struct cli *cli, uint64_t entries, uint64_t bytes, uint64_t writes_left);
void cli_on_notice(struct cli *cli, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text);

/* (signals.c) SIGINT, SIGTERM and SIGHUP (if not ignored) become readable at the descriptor returned, until cli_signals_end(). Only
   for waits of the command's own: elsewhere they end the process, which harms nothing. -1: printed why. */
int cli_signals_begin(struct cli *cli);
/* 0, or the signal that has come */
int cli_signals_got(struct cli *cli);
void cli_signals_end(struct cli *cli);
/* Starts a program (argv[0]: on PATH) with the default mask and dispositions of signals, and with these descriptors
   (-1: ours) as its standard input and output. env: NULL: ours. 0, or an errno value. */
int cli_spawn(const char *const argv[], char *const env[], int input, int output, pid_t *pid_r);

/* ---- Messages and exit codes (message.c) ---- */

int cli_exit_of(enum dovetail_status status);
/* "dovetail: …" and the end of the line; control characters are shown as \xNN. cli_warn() is silent with --quiet. */
void cli_error(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_warn(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints the replica's error, after "what: " if what is not NULL. Returns the exit code of the status. */
int cli_fail(struct cli *cli, enum dovetail_status status, const char *what);
/* Prints what and the text of errno. CLI_SYSTEM. */
int cli_fail_errno(struct cli *cli, const char *what);
/* Prints why the entry has no value. The exit code. */
int cli_unreadable(struct cli *cli, const struct dovetail_entry *entry);
/* Out of memory: CLI_SYSTEM. */
int cli_fail_memory(struct cli *cli);

/* ---- Output (output.c) ---- */

/* A name or value for a terminal: control characters, and what is no UTF-8, as \xNN; newlines and tabs as they are if
   lines. */
void cli_put_safe(FILE *out, const void *data, size_t size, bool lines);
/* A JSON string with quotes; what would do something to a terminal as \uNNNN, octets that are no UTF-8 as \ufffd. */
void cli_put_json(FILE *out, const char *data, size_t size);
/* ,"value":"…" or ,"base64":"…", as in doveadm metasync export */
void cli_put_json_value(FILE *out, const void *data, size_t size);
/* ,"flags":["pending",…] */
void cli_put_json_flags(FILE *out, unsigned int flags);
/* "mailbox":…,"entry":…,"modseq":"…" */
void cli_put_json_entry(FILE *out, const struct dovetail_entry *entry);
/* The value is text for JSON: UTF-8 without NUL. */
bool cli_is_text(const void *data, size_t size);
/* Whether all that was printed so far could be; to be asked after what is long, so that the reason is known. */
bool cli_output_good(struct cli *cli);
/* Flushes stdout. CLI_SYSTEM (printed) if anything was not written, else code. */
int cli_flush(struct cli *cli, int code);

/* ---- Input (input.c) ---- */

/* All of the file (NULL or "-": standard input), at most max octets; *data_r has a NUL behind it; free(). */
int cli_read_file(struct cli *cli, const char *path, size_t max, char **data_r, size_t *size_r);
/* Asks at the terminal (/dev/tty), without echo. CLI_LOGIN if there is no terminal. cli_secret_free(). */
int cli_prompt_secret(struct cli *cli, const char *prompt, char **secret_r);
/* Asks with echo; preset (may be NULL) is taken for an empty line. free(). */
int cli_prompt(struct cli *cli, const char *prompt, const char *preset, char **answer_r);
/* The first line that "/bin/sh -c command" prints. cli_secret_free(). */
int cli_secret_command(struct cli *cli, const char *command, char **secret_r);
/* The first line of a file ("-": standard input). cli_secret_free(). */
int cli_secret_file(struct cli *cli, const char *path, char **secret_r);
void cli_secret_free(char *secret);

/* ---- Progress (progress.c) ---- */

/* A line on stderr if it is a terminal, from the second second on; cleared by cli_progress_end() and by messages.
   total 0: unknown, then text alone; else a bar. Calls may be frequent: it draws at most ten times a second. */
void cli_progress(struct cli *cli, const char *text, uint64_t done, uint64_t total);
void cli_progress_end(struct cli *cli);
/* For who waits while the last text (without a bar) is still true: shows it. ms until it wants to be called again, -1: never. */
int cli_progress_wait(struct cli *cli);
/* ms, of a clock that only goes on */
int64_t cli_now(void);

/* ---- The commands ---- */

int cmd_login(struct cli *cli);
int cmd_get(struct cli *cli);
int cmd_set(struct cli *cli);
int cmd_rm(struct cli *cli);
int cmd_ls(struct cli *cli);
int cmd_watch(struct cli *cli);
int cmd_sync(struct cli *cli);
int cmd_status(struct cli *cli);
int cmd_export(struct cli *cli);
int cmd_import(struct cli *cli);
int cmd_encrypt(struct cli *cli);
int cmd_unlock(struct cli *cli);
int cmd_secret(struct cli *cli);
int cmd_rotate(struct cli *cli);

#endif
