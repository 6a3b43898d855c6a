/* dovetail import: sets entries from JSON lines (import-line.h).

   The input is read twice: first every line is looked at, so that a bad one changes nothing; then the entries are
   written, in change sets. What comes from a pipe is kept in a temporary file for that. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "import-line.h"

/* JSON takes up to six octets for one (\u0000), base64 less. */
#define LINE_MAX_OF(value) ((value) * 6 + 65536)
/* A change set ends after so many octets, too. */
#define SET_BYTES (1024 * 1024)

struct import {
	struct cli *cli;
	FILE *file;
	uint64_t size, done;
	size_t value_max;
	unsigned long long number;

	struct dovetail_changes *set;
	/* the names in it, owned */
	struct { char *mailbox, *entry; } names[CLI_SET_MAX];
	unsigned int set_count;
	size_t set_bytes;

	unsigned long long written, removed, same, others;
};

static int import_bad(struct import *import, const char *error)
{
	cli_error(import->cli, "line %llu: %s; nothing has been written", import->number, error);
	return CLI_USAGE;
}

/* Whether the line is one for this account. */
static bool is_ours(const struct import *import, const struct import_line *line)
{
	return line->user == NULL || strcmp(line->user, import->cli->account->server.user) == 0;
}

/* ---- First: looking at all lines ---- */

/* What the library says of it: its name, whether the replica covers it, keys, what the server takes. */
static enum dovetail_status import_try(struct import *import, const struct import_line *line)
{
	struct dovetail_changes *changes;
	enum dovetail_status status;

	status = dovetail_changes_begin(import->cli->replica, &changes);
	if (status == DOVETAIL_OK)
		status = dovetail_changes_add(changes, line->mailbox, line->entry, line->data, line->size);
	if (status == DOVETAIL_OK)
		status = dovetail_changes_check(changes);
	dovetail_changes_abort(changes);
	return status;
}

static int import_check(struct import *import, const struct import_line *line)
{
	enum dovetail_status status;

	if (!is_ours(import, line)) {
		import->others++;
		return CLI_OK;
	}
	if (line->size > import->value_max)
		return import_bad(import, "the value is larger than max_value of the account");
	status = import_try(import, line);
	if (status == DOVETAIL_OK)
		return CLI_OK;
	import_bad(import, dovetail_error(import->cli->replica));
	return cli_exit_of(status);
}

/* ---- Second: writing ---- */

static void set_forget(struct import *import)
{
	for (; import->set_count > 0; import->set_count--) {
		free(import->names[import->set_count - 1].mailbox);
		free(import->names[import->set_count - 1].entry);
	}
	import->set = NULL;
	import->set_bytes = 0;
}

/* Sets before this one are written. */
static int import_failed(struct import *import, enum dovetail_status status)
{
	cli_error(import->cli, "line %llu: %s; lines before it may have been written", import->number,
		  dovetail_error(import->cli->replica));
	return cli_exit_of(status);
}

static int set_commit(struct import *import)
{
	enum dovetail_status status;

	if (import->set == NULL)
		return CLI_OK;
	status = dovetail_changes_commit(import->set);
	set_forget(import);
	return status == DOVETAIL_OK ? CLI_OK : import_failed(import, status);
}

static bool is_same_name(const char *mailbox, const char *entry, const struct import_line *line)
{
	bool inbox = strcasecmp(mailbox, "INBOX") == 0 && strcasecmp(line->mailbox, "INBOX") == 0;

	return strcasecmp(entry, line->entry) == 0 && (inbox || strcmp(mailbox, line->mailbox) == 0);
}

/* Whether the set that is being collected has the entry. */
static bool is_in_set(const struct import *import, const struct import_line *line)
{
	unsigned int i;

	for (i = 0; i < import->set_count; i++) {
		if (is_same_name(import->names[i].mailbox, import->names[i].entry, line))
			return true;
	}
	return false;
}

/* Whether it says what is there already. */
static bool is_same(struct import *import, const struct import_line *line)
{
	struct dovetail_entry entry;
	enum dovetail_status status;

	status = dovetail_get(import->cli->replica, line->mailbox, line->entry, &entry);
	if (status == DOVETAIL_NOT_FOUND)
		return line->data == NULL;
	return status == DOVETAIL_OK && line->data != NULL && entry.data != NULL && entry.size == line->size &&
		memcmp(entry.data, line->data, line->size) == 0;
}

static int import_write(struct import *import, const struct import_line *line)
{
	enum dovetail_status status = DOVETAIL_OK;
	int ret;

	if (!is_ours(import, line))
		return CLI_OK;
	/* of two lines for one entry the later counts */
	if (!is_in_set(import, line) && is_same(import, line)) {
		import->same++;
		return CLI_OK;
	}
	if (import->set_count == CLI_SET_MAX || import->set_bytes + line->size > SET_BYTES) {
		ret = set_commit(import);
		if (ret != CLI_OK)
			return ret;
	}
	if (import->set == NULL)
		status = dovetail_changes_begin(import->cli->replica, &import->set);
	if (status == DOVETAIL_OK)
		status = dovetail_changes_add(import->set, line->mailbox, line->entry, line->data, line->size);
	if (status != DOVETAIL_OK)
		return import_failed(import, status);
	import->names[import->set_count].mailbox = strdup(line->mailbox);
	import->names[import->set_count].entry = strdup(line->entry);
	import->set_count++;
	if (import->names[import->set_count - 1].mailbox == NULL || import->names[import->set_count - 1].entry == NULL)
		return cli_fail_memory(import->cli);
	import->set_bytes += line->size;
	if (line->data != NULL)
		import->written++;
	else
		import->removed++;
	return CLI_OK;
}

/* ---- Reading ---- */

/* Reads a line of at most max octets, without its end, into *text_r (grown as needed). 1, 0 at the end of the file,
   -1: too long. */
static int read_line(struct import *import, char **text, size_t *room, size_t max, size_t *size_r)
{
	char *grown;
	size_t size = 0;
	int c;

	while ((c = getc_unlocked(import->file)) != EOF && c != '\n') {
		if (size == max)
			return -1;
		if (size + 1 >= *room) {
			grown = realloc(*text, *room * 2 + 4096);
			if (grown == NULL)
				return -1;
			*text = grown;
			*room = *room * 2 + 4096;
		}
		(*text)[size++] = c;
	}
	import->done += size + 1;
	*size_r = size;
	return c != EOF || size > 0 ? 1 : 0;
}

/* All lines, each to the function, until it fails. */
static int
import_each(struct import *import, const char *what, int (*each)(struct import *import, const struct import_line *line))
{
	struct import_line line;
	const char *error;
	char *text = NULL;
	size_t room = 0, size;
	int ret = CLI_OK, more;

	rewind(import->file);
	import->number = import->done = 0;
	while (ret == CLI_OK &&
	       (more = read_line(import, &text, &room, LINE_MAX_OF(import->value_max), &size)) != 0) {
		import->number++;
		cli_progress(import->cli, what, import->done, import->size);
		if (more < 0) {
			ret = import_bad(import, "the line is too long");
		} else if (import_line_is_empty(text, size)) {
			continue;
		} else if ((error = import_line_parse(text, size, &line)) != NULL) {
			ret = import_bad(import, error);
		} else {
			ret = each(import, &line);
			import_line_free(&line);
		}
	}
	free(text);
	if (ret == CLI_OK && ferror(import->file) != 0)
		ret = cli_fail_errno(import->cli, "reading");
	return ret;
}

/* A file without a name in TMPDIR, which tmpfile() does not look at. NULL: errno. */
static FILE *temporary_file(void)
{
	const char *directory = getenv("TMPDIR");
	FILE *file = NULL;
	char *path;
	int fd;

	if (asprintf(&path, "%s/dovetail-XXXXXX", directory != NULL && directory[0] != '\0' ? directory : P_tmpdir) < 0)
		return NULL;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd != -1) {
		unlink(path);
		file = fdopen(fd, "w+");
	}
	if (fd != -1 && file == NULL)
		close(fd);
	free(path);
	return file;
}

/* Copies standard input to the file. */
static int spool(struct cli *cli, FILE *file)
{
	char buffer[65536];
	ssize_t ret;

	while ((ret = read(STDIN_FILENO, buffer, sizeof(buffer))) != 0) {
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0) {
			cli_fail_errno(cli, "standard input");
			return CLI_FAILED;
		}
		/* what could not be written is not missed by fflush() */
		if (fwrite(buffer, 1, ret, file) != (size_t)ret)
			return cli_fail_errno(cli, "a temporary file");
	}
	return fflush(file) == 0 ? CLI_OK : cli_fail_errno(cli, "a temporary file");
}

static int import_open(struct import *import)
{
	struct cli *cli = import->cli;
	const char *path = cli->arg_count > 0 ? cli->args[0] : "-";
	struct stat st;
	int ret;

	if (strcmp(path, "-") == 0) {
		if (isatty(STDIN_FILENO) == 1)
			cli_warn(cli, "reading from the terminal; Ctrl-D in an empty line ends it");
		if ((import->file = temporary_file()) == NULL)
			return cli_fail_errno(cli, "a temporary file");
		if ((ret = spool(cli, import->file)) != CLI_OK) {
			fclose(import->file);
			return ret;
		}
	} else if ((import->file = fopen(path, "re")) == NULL) {
		cli_fail_errno(cli, path);
		return CLI_FAILED;
	}
	if (fstat(fileno(import->file), &st) == 0 && S_ISREG(st.st_mode)) {
		import->size = st.st_size;
		return CLI_OK;
	}
	cli_error(cli, "%s: not a regular file; standard input can be a pipe", path);
	fclose(import->file);
	return CLI_FAILED;
}

static int import_run(struct import *import, bool dry_run)
{
	int ret;

	ret = import_each(import, "looking at the lines", import_check);
	if (ret == CLI_OK && !dry_run) {
		ret = import_each(import, "writing", import_write);
		if (ret == CLI_OK)
			ret = set_commit(import);
		/* what a set has collected before an error is not written */
		if (import->set != NULL)
			dovetail_changes_abort(import->set);
		set_forget(import);
	}
	cli_progress_end(import->cli);
	return ret;
}

int cmd_import(struct cli *cli)
{
	bool dry_run = false;
	const struct cli_option options[] = {
		{ .letter = 'n', .name = "dry-run", .flag = &dry_run, .help = "look at the lines only" },
		{ .name = NULL }
	};
	struct import import = { .cli = cli };
	int ret;

	if (!cli_parse(cli, options, 0, 1, &ret))
		return ret;
	if (cli->mailbox != NULL)
		return cli_usage(cli, "import: the lines say the mailbox, not --mailbox");
	if ((ret = cli_account_load(cli)) != CLI_OK || (ret = import_open(&import)) != CLI_OK)
		return ret;
	import.value_max = cli_max_value(cli);
	ret = cli_open_fresh(cli, CLI_TO_CHANGE, NULL);
	if (ret == CLI_OK)
		ret = import_run(&import, dry_run);
	fclose(import.file);
	if (ret != CLI_OK)
		return ret;
	if (dry_run)
		printf("%llu lines are well\n", import.number);
	else
		printf("set: %llu, removed: %llu, the same: %llu, of other users: %llu\n", import.written, import.removed,
		       import.same, import.others);
	return dry_run ? CLI_OK : cli_sync(cli, CLI_TO_WRITE, NULL);
}
