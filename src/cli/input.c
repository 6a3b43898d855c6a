/* What comes in: files, standard input, questions at the terminal, secrets from commands and files. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cli.h"

/* with its NUL; a token of OAuth has some KiB */
#define SECRET_MAX 65536

/* Reads up to max octets until the end. Returns 0, or -1 with errno: EFBIG if there are more. */
static int read_all(int fd, size_t max, char **data_r, size_t *size_r)
{
	char *data = NULL, *grown;
	size_t size = 0, room = 0;
	ssize_t ret;

	for (;;) {
		if (size + 1 >= room) {
			room = room == 0 ? 16384 : room * 2;
			grown = realloc(data, room);
			if (grown == NULL)
				break;
			data = grown;
		}
		ret = read(fd, data + size, room - size - 1);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0)
			break;
		if (ret == 0) {
			data[size] = '\0';
			*data_r = data;
			*size_r = size;
			return 0;
		}
		size += ret;
		if (size > max) {
			errno = EFBIG;
			break;
		}
	}
	free(data);
	return -1;
}

int cli_read_file(struct cli *cli, const char *path, size_t max, char **data_r, size_t *size_r)
{
	bool file = path != NULL && strcmp(path, "-") != 0;
	const char *name = file ? path : "standard input";
	int ret, fd = STDIN_FILENO;

	*data_r = NULL;
	*size_r = 0;
	if (file) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd == -1) {
			cli_fail_errno(cli, name);
			return CLI_FAILED;
		}
	} else if (isatty(fd) == 1) {
		cli_warn(cli, "reading from the terminal; Ctrl-D in an empty line ends it");
	}
	ret = read_all(fd, max, data_r, size_r);
	if (ret < 0 && errno == EFBIG) {
		cli_error(cli, "%s: more than %zu octets", name, max);
		ret = CLI_USAGE;
	} else if (ret < 0) {
		cli_fail_errno(cli, name);
		ret = CLI_FAILED;
	}
	if (file)
		close(fd);
	return ret;
}

/* ---- At the terminal ---- */

/* Reads a line, without its end. Returns false at the end of input, after an error or a signal (errno EINTR). */
static bool tty_line(struct cli *cli, int fd, char *line, size_t room)
{
	struct pollfd fds[2] = { { .fd = fd, .events = POLLIN }, { .fd = cli->signal_fd, .events = POLLIN } };
	size_t length = 0;
	ssize_t ret;
	char c;

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return false;
		if (cli_signals_got(cli) != 0) {
			errno = EINTR;
			return false;
		}
		if (fds[0].revents == 0)
			continue;
		ret = read(fd, &c, 1);
		if (ret <= 0) {
			errno = ret == 0 ? ENODATA : errno;
			return false;
		}
		if (c == '\n' || c == '\r')
			break;
		if (length + 1 == room) {
			errno = EMSGSIZE;
			return false;
		}
		line[length++] = c;
	}
	line[length] = '\0';
	return true;
}

/* Asks, with echo or without. An exit code; the line is in line. */
static int tty_ask(struct cli *cli, const char *prompt, bool echo, char *line, size_t room)
{
	struct termios before, silent;
	int fd, ret = CLI_OK;
	bool set = false;

	fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (fd == -1) {
		cli_error(cli, "there is no terminal to ask for: %s", prompt);
		return CLI_LOGIN;
	}
	cli_progress_end(cli);
	if (cli_signals_begin(cli) == -1) {
		close(fd);
		return CLI_SYSTEM;
	}
	if (!echo && tcgetattr(fd, &before) == 0) {
		silent = before;
		silent.c_lflag &= ~(ECHO | ECHOE | ECHOK | ECHONL);
		silent.c_lflag |= ICANON;
		/* who goes on after Ctrl-Z would type with echo */
		silent.c_cc[VSUSP] = _POSIX_VDISABLE;
		set = tcsetattr(fd, TCSAFLUSH, &silent) == 0;
	}
	if (!echo && !set) {
		cli_error(cli, "the terminal cannot be made silent to ask for: %s", prompt);
		ret = CLI_LOGIN;
	} else {
		dprintf(fd, "%s: ", prompt);
		if (!tty_line(cli, fd, line, room)) {
			if (cli->signal == 0)
				cli_error(cli, "no answer to: %s", prompt);
			ret = cli->signal != 0 ? 128 + cli->signal : CLI_LOGIN;
		}
	}
	if (set) {
		tcsetattr(fd, TCSAFLUSH, &before);
		/* the line end that was not shown */
		dprintf(fd, "\n");
	}
	cli_signals_end(cli);
	close(fd);
	return ret;
}

int cli_prompt_secret(struct cli *cli, const char *prompt, char **secret_r)
{
	char line[4096];
	int ret;

	*secret_r = NULL;
	ret = tty_ask(cli, prompt, false, line, sizeof(line));
	if (ret == CLI_OK && (*secret_r = strdup(line)) == NULL)
		ret = cli_fail_memory(cli);
	explicit_bzero(line, sizeof(line));
	return ret;
}

int cli_prompt(struct cli *cli, const char *prompt, const char *preset, char **answer_r)
{
	char line[4096], text[512];
	int ret;

	*answer_r = NULL;
	snprintf(text, sizeof(text), preset != NULL ? "%s [%s]" : "%s", prompt, preset);
	ret = tty_ask(cli, text, true, line, sizeof(line));
	if (ret != CLI_OK)
		return ret;
	*answer_r = strdup(line[0] == '\0' && preset != NULL ? preset : line);
	return *answer_r != NULL ? CLI_OK : cli_fail_memory(cli);
}

/* ---- Secrets ---- */

void cli_secret_free(char *secret)
{
	if (secret != NULL)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

/* The first line of what fd has, as a secret. what is for messages. */
static int secret_read(struct cli *cli, int fd, const char *what, char **secret_r)
{
	char buffer[SECRET_MAX];
	size_t length = 0;
	ssize_t ret;
	char *end;

	do {
		ret = read(fd, buffer + length, sizeof(buffer) - 1 - length);
		if (ret > 0)
			length += ret;
	} while ((ret > 0 && length < sizeof(buffer) - 1) || (ret < 0 && errno == EINTR));
	buffer[length] = '\0';
	end = buffer + strcspn(buffer, "\n");
	if (end > buffer && end[-1] == '\r')
		end--;
	*end = '\0';
	if (ret < 0)
		cli_fail_errno(cli, what);
	else if (length == sizeof(buffer) - 1 && strlen(buffer) == length)
		cli_error(cli, "%s: the line is too long", what);
	else if (buffer[0] == '\0')
		cli_error(cli, "%s: no secret in the first line", what);
	else if ((*secret_r = strdup(buffer)) == NULL)
		cli_fail_memory(cli);
	explicit_bzero(buffer, sizeof(buffer));
	return *secret_r != NULL ? CLI_OK : CLI_LOGIN;
}

int cli_secret_file(struct cli *cli, const char *path, char **secret_r)
{
	int fd, ret;

	*secret_r = NULL;
	if (strcmp(path, "-") == 0)
		return secret_read(cli, STDIN_FILENO, "standard input", secret_r);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1) {
		cli_fail_errno(cli, path);
		return CLI_LOGIN;
	}
	ret = secret_read(cli, fd, path, secret_r);
	close(fd);
	return ret;
}

int cli_secret_command(struct cli *cli, const char *command, char **secret_r)
{
	const char *argv[] = { "/bin/sh", "-c", command, NULL };
	int fds[2], status, ret;
	pid_t pid;

	*secret_r = NULL;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return cli_fail_errno(cli, "pipe()");
	ret = cli_spawn(argv, NULL, -1, fds[1], &pid);
	close(fds[1]);
	if (ret != 0) {
		close(fds[0]);
		errno = ret;
		return cli_fail_errno(cli, "/bin/sh");
	}
	ret = secret_read(cli, fds[0], command, secret_r);
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (ret == CLI_OK && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
		cli_error(cli, "%s: the command failed", command);
		ret = CLI_LOGIN;
	}
	if (ret != CLI_OK) {
		cli_secret_free(*secret_r);
		*secret_r = NULL;
	}
	return ret;
}
