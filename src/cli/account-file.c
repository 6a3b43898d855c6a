/* Where the account file and the replica are; reading and writing the account file. */

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define ACCOUNT_FILE_MAX (256 * 1024)
/* how long another process that writes the account file is waited for, unless --timeout says */
#define LOCK_SECONDS 10

const char *cli_home(void)
{
	const char *home = getenv("HOME");
	const struct passwd *me;

	if (home == NULL || home[0] != '/') {
		me = getpwuid(getuid());
		home = me != NULL ? me->pw_dir : NULL;
	}
	return home != NULL && home[0] == '/' ? home : NULL;
}

/* $variable/dovetail if it is absolute (the XDG base directory specification), else ~/preset/dovetail. free(); NULL:
   printed why. */
static char *xdg_directory(struct cli *cli, const char *variable, const char *preset, int *exit_r)
{
	const char *base = getenv(variable), *home = cli_home();
	char *path;
	int ret;

	if (base != NULL && base[0] == '/') {
		ret = asprintf(&path, "%s/dovetail", base);
	} else {
		if (home == NULL) {
			cli_error(cli, "neither HOME nor %s says where files are", variable);
			*exit_r = CLI_CONFIG;
			return NULL;
		}
		ret = asprintf(&path, "%s/%s/dovetail", home, preset);
	}
	if (ret >= 0)
		return path;
	*exit_r = cli_fail_memory(cli);
	return NULL;
}

/* The account's name, or NULL after an error. */
static const char *account_name(struct cli *cli, int *exit_r)
{
	const char *name = cli->account_name, *p;

	if (name == NULL)
		name = getenv("DOVETAIL_ACCOUNT");
	if (name == NULL || (cli->account_name == NULL && name[0] == '\0'))
		return "default";
	for (p = name; (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
	     (*p != '\0' && strchr("._@+-", *p) != NULL); p++)
		;
	if (*p == '\0' && p > name && p - name <= 200 && name[0] != '.' && name[0] != '-')
		return name;
	cli_error(cli, "\"%s\" is no name for an account: letters, digits and ._@+- are", name);
	*exit_r = CLI_USAGE;
	return NULL;
}

char *cli_account_path(struct cli *cli, int *exit_r)
{
	char *directory, *path;
	const char *name;
	int ret;

	if (cli->config_path != NULL && cli->account_name != NULL) {
		*exit_r = cli_usage(cli, "--account and --config exclude each other");
		return NULL;
	}
	if (cli->config_path != NULL) {
		path = strdup(cli->config_path);
	} else {
		if ((name = account_name(cli, exit_r)) == NULL ||
		    (directory = xdg_directory(cli, "XDG_CONFIG_HOME", ".config", exit_r)) == NULL)
			return NULL;
		ret = asprintf(&path, "%s/%s.conf", directory, name);
		free(directory);
		if (ret < 0)
			path = NULL;
	}
	if (path == NULL)
		*exit_r = cli_fail_memory(cli);
	return path;
}

/* ---- Reading ---- */

/* The value of the line if it is of the key; else NULL. */
static const char *value_of(const char *line, const char *key)
{
	size_t size = strlen(key);

	line += strspn(line, " \t\r");
	if (strncmp(line, key, size) != 0)
		return NULL;
	line += size;
	line += strspn(line, " \t");
	return *line == '=' ? line + 1 : NULL;
}

/* scheme://user:password@host */
static bool is_url_with_password(const char *value)
{
	const char *colon, *host, *end = value + strcspn(value, "\n");

	value += strspn(value, " \t");
	if ((colon = memmem(value, end - value, "://", 3)) != NULL)
		value = colon + 3;
	host = memrchr(value, '@', end - value);
	return host != NULL && memchr(value, ':', host - value) != NULL;
}

static bool has_password(const char *text)
{
	const char *line, *value;

	for (line = text; line != NULL; line = strchr(line, '\n')) {
		line += *line == '\n';
		value = value_of(line, "proxy");
		if (value_of(line, "password") != NULL || (value != NULL && is_url_with_password(value)))
			return true;
	}
	return false;
}

/* Commands in it are run, so nobody else may have written it; a password may be in it. NULL or what is wrong. */
static const char *file_check(const struct stat *st, const char *text)
{
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "the file belongs to another user";
	if ((st->st_mode & 022) != 0)
		return "other users may write to the file; chmod 600";
	if ((st->st_mode & 077) != 0 && has_password(text))
		return "other users may read the file, and there is a password in it; chmod 600";
	return NULL;
}

/* The file's text, free(), with its errors printed. */
static int file_read(struct cli *cli, const char *path, char **text_r)
{
	const char *error = NULL, *name;
	struct stat st;
	size_t size;
	FILE *file;
	int fd;

	*text_r = NULL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd == -1 && errno == ENOENT && cli->config_path == NULL) {
		name = strrchr(path, '/') + 1;
		cli_error(cli, "there is no account %.*s (%s); \"dovetail login\" makes one",
			  (int)strlen(name) - 5, name, path);
		return CLI_CONFIG;
	}
	file = fd != -1 && fstat(fd, &st) == 0 ? fdopen(fd, "r") : NULL;
	if (file == NULL) {
		cli_fail_errno(cli, path);
		if (fd != -1)
			close(fd);
		return CLI_CONFIG;
	}
	if (!S_ISREG(st.st_mode))
		error = "not a regular file";
	else if (st.st_size > ACCOUNT_FILE_MAX)
		error = "the file is too large";
	else if ((*text_r = calloc(1, ACCOUNT_FILE_MAX + 1)) == NULL)
		error = "out of memory";
	if (error == NULL) {
		size = fread(*text_r, 1, ACCOUNT_FILE_MAX, file);
		if (ferror(file) != 0)
			error = "cannot be read";
		else if (!cli_is_text(*text_r, size))
			error = "not UTF-8";
		else
			error = file_check(&st, *text_r);
	}
	fclose(file);
	if (error == NULL)
		return CLI_OK;
	cli_error(cli, "%s: %s", path, error);
	cli_secret_free(*text_r);
	*text_r = NULL;
	return CLI_CONFIG;
}

/* ---- The replica's place ---- */

/* The port of the account, if it is not one of the protocol's own. */
static unsigned int other_port(const struct dovetail_account *server)
{
	return server->port == 143 || server->port == 993 ? 0 : server->port;
}

/* user@host, or user@host:port if it is an unusual one, as one component of a path */
static char *replica_file_name(const struct cli_account *account)
{
	const char *parts[] = { account->server.user, "@", account->server.host };
	size_t size;
	FILE *out;
	char *name;
	const char *p;
	int i;

	out = open_memstream(&name, &size);
	if (out == NULL)
		return NULL;
	for (i = 0; i < 3; i++) {
		for (p = parts[i]; *p != '\0'; p++) {
			if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
			    strchr("@_+-", *p) != NULL || (*p == '.' && p > parts[i]))
				putc(*p, out);
			else
				fprintf(out, "%%%02x", (unsigned char)*p);
		}
	}
	if (other_port(&account->server) != 0)
		fprintf(out, ":%u", other_port(&account->server));
	fputs(".db", out);
	if (fclose(out) == 0 && size <= 200)
		return name;
	free(name);
	return NULL;
}

/* Another user or server is another replica: what waits in one must not go to the other. */
static int replica_place(struct cli *cli, struct cli_account *account)
{
	char *directory = NULL, *base, *name;
	int ret = CLI_OK, len;
	size_t length;

	if (account->replica != NULL) {
		if (account->replica[0] == '/')
			return CLI_OK;
		cli_error(cli, "%s: replica: an absolute path is needed", account->path);
		return CLI_CONFIG;
	}
	name = replica_file_name(account);
	if (name == NULL) {
		cli_error(cli, "%s: the names are too long", account->path);
		return CLI_CONFIG;
	}
	length = strlen(account->path);
	if (length > 5 && strcmp(account->path + length - 5, ".conf") == 0)
		length -= 5;
	if (cli->config_path != NULL) {
		/* beside it: its name is not the only one of its kind */
		len = asprintf(&account->replica, "%.*s.replica/%s", (int)length, account->path, name);
	} else {
		directory = xdg_directory(cli, "XDG_STATE_HOME", ".local/state", &ret);
		base = strrchr(account->path, '/') + 1;
		len = directory == NULL ? 0 :
			asprintf(&account->replica, "%s/%.*s/%s", directory, (int)(account->path + length - base), base, name);
	}
	if (len < 0) {
		account->replica = NULL;
		ret = cli_fail_memory(cli);
	}
	free(directory);
	free(name);
	return ret;
}

int cli_account_use(struct cli *cli, struct cli_account *account)
{
	cli_account_free(cli->account);
	cli->account = account;
	return replica_place(cli, account);
}

int cli_account_load(struct cli *cli)
{
	struct cli_account *account;
	char *path, *text;
	int ret;

	path = cli_account_path(cli, &ret);
	if (path == NULL)
		return ret;
	ret = file_read(cli, path, &text);
	if (ret == CLI_OK) {
		account = cli_account_parse(cli, path, text, false, &ret);
		if (account != NULL)
			ret = cli_account_use(cli, account);
	}
	/* strsep() has put NULs in it, but passwords are in lines of their own */
	if (text != NULL)
		explicit_bzero(text, ACCOUNT_FILE_MAX);
	free(text);
	free(path);
	return ret;
}

/* ---- Writing ---- */

int cli_make_directories(struct cli *cli, const char *path)
{
	char *copy = strdup(path), *slash;

	if (copy == NULL)
		return cli_fail_memory(cli);
	for (slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST) {
			cli_fail_errno(cli, copy);
			free(copy);
			return CLI_CONFIG;
		}
		*slash = '/';
	}
	free(copy);
	return CLI_OK;
}

static bool write_all(int fd, const char *text, size_t size)
{
	ssize_t ret;

	for (; size > 0; text += ret, size -= ret) {
		ret = write(fd, text, size);
		if (ret < 0 && errno != EINTR)
			return false;
		if (ret < 0)
			ret = 0;
	}
	return fsync(fd) == 0;
}

/* After a rename() in the file's directory; what cannot be done about it is no error. */
static void sync_directory(const char *path)
{
	char *directory = strdup(path), *slash = directory != NULL ? strrchr(directory, '/') : NULL;
	int fd;

	if (slash != NULL)
		slash[slash == directory ? 1 : 0] = '\0';
	fd = open(slash != NULL ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd != -1) {
		(void)fsync(fd);
		close(fd);
	}
	free(directory);
}

int cli_account_write(struct cli *cli, const char *path, const char *text, size_t size)
{
	/* through symbolic links, which people use for their configuration */
	char *real = realpath(path, NULL), *temp = NULL;
	const char *to = real != NULL ? real : path;
	int fd, ret;

	ret = cli_make_directories(cli, to);
	if (ret == CLI_OK && asprintf(&temp, "%s.XXXXXX", to) < 0) {
		temp = NULL;
		ret = cli_fail_memory(cli);
	}
	if (ret == CLI_OK) {
		/* mode 0600 */
		fd = mkostemp(temp, O_CLOEXEC);
		if (fd == -1 || !write_all(fd, text, size) || rename(temp, to) < 0) {
			cli_fail_errno(cli, to);
			ret = CLI_CONFIG;
			if (fd != -1)
				unlink(temp);
		} else {
			sync_directory(to);
		}
		if (fd != -1)
			close(fd);
	}
	free(temp);
	free(real);
	return ret;
}

/* Whether it is a line on a secret of the subtree. */
static bool is_key_of(const char *line, size_t length, const char *subtree)
{
	char *copy = strndup(line, length), *p = copy, *word;
	bool ret = false;

	if (copy == NULL)
		return false;
	p += strspn(p, " \t");
	length = strcspn(p, " \t=");
	if ((length == 18 && memcmp(p, "passphrase_command", 18) == 0) || (length == 8 && memcmp(p, "key_file", 8) == 0)) {
		p += length;
		p += strspn(p, " \t=");
		word = cli_word(&p);
		ret = word != NULL && strcasecmp(word, subtree) == 0;
	}
	free(copy);
	return ret;
}

static int note_key(struct cli *cli, const char *subtree, const char *line)
{
	const char *path = cli->account->path, *p, *end;
	char *text, *changed = NULL;
	size_t size = 0;
	FILE *out;
	int ret;

	ret = file_read(cli, path, &text);
	if (ret != CLI_OK)
		return ret;
	out = open_memstream(&changed, &size);
	if (out == NULL) {
		cli_secret_free(text);
		return cli_fail_memory(cli);
	}
	for (p = text; *p != '\0'; p = *end == '\0' ? end : end + 1) {
		end = strchrnul(p, '\n');
		if (!is_key_of(p, end - p, subtree))
			fprintf(out, "%.*s\n", (int)(end - p), p);
	}
	if (line != NULL)
		fprintf(out, "%s\n", line);
	ret = fclose(out) == 0 ? cli_account_write(cli, path, changed, size) : cli_fail_memory(cli);
	cli_secret_free(changed);
	cli_secret_free(text);
	return ret;
}

/* The one that reads the account file to write it anew. The lock is on a file of its own, since the account file is replaced. The
   descriptor, or -1 after an error. */
static int account_lock(struct cli *cli, const char *path)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	int64_t end = cli_now() + (cli->timeout != 0 ? (int64_t)cli->timeout : LOCK_SECONDS) * 1000;
	char *real = realpath(path, NULL), *name = NULL;
	int fd = -1;

	if (real == NULL) {
		cli_fail_errno(cli, path);
	} else if (asprintf(&name, "%s.lock", real) < 0) {
		name = NULL;
		cli_fail_memory(cli);
	} else if ((fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600)) == -1) {
		cli_fail_errno(cli, name);
	} else {
		while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EINTR || (errno == EWOULDBLOCK && cli_now() < end)) {
				(void)nanosleep(&pause, NULL);
				continue;
			}
			if (errno == EWOULDBLOCK)
				cli_error(cli, "%s: another process is writing it and does not come to an end (%s)", path, name);
			else
				cli_fail_errno(cli, name);
			close(fd);
			fd = -1;
			break;
		}
	}
	free(name);
	free(real);
	return fd;
}

int cli_account_note_key(struct cli *cli, const char *subtree, const char *line)
{
	int fd = account_lock(cli, cli->account->path), ret;

	if (fd == -1)
		return CLI_CONFIG;
	ret = note_key(cli, subtree, line);
	close(fd);
	return ret;
}
