/* A command that prints a password or token, run beside all else: its output and its end are events in the transport's epoll.
   The child is known by its pid and a pidfd; no signal is handled or waited for. It stays in the caller's process group, so that
   a command can ask the user on the terminal (/dev/tty); so it is killed by pid, with its children. Called by transport.c; owns
   the child, its descriptors and what it has printed. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport-private.h"

/* The first line at most, and all that it may print: tokens can be long, but a command that prints without end is wrong. */
#define MAX_LINE (64 * 1024)
#define MAX_OUTPUT (1024 * 1024)

extern char **environ;

struct secret_command {
	const char *what;
	int epoll_fd;
	pid_t pid;
	int pidfd, output_fd;
	/* the first line so far, and all octets seen */
	char *line;
	size_t used, total;
	bool line_done;
};

static void set_error(char **error_r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void set_error(char **error_r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (vasprintf(error_r, format, args) < 0)
		*error_r = NULL;
	va_end(args);
}

static int spawn(const char *command, int output_fd, pid_t *pid_r)
{
	const char *const argv[] = { "sh", "-c", command, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, defaults;
	int error;

	sigemptyset(&none);
	/* what a caller ignores or blocks is not the command's concern */
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	sigaddset(&defaults, SIGCHLD);
	sigaddset(&defaults, SIGINT);
	sigaddset(&defaults, SIGTERM);
	if ((error = posix_spawn_file_actions_init(&actions)) != 0)
		return error;
	if ((error = posix_spawnattr_init(&attr)) != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return error;
	}
	if ((error = posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO)) == 0 &&
	    (error = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) == 0 &&
	    (error = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1)) == 0 &&
	    (error = posix_spawnattr_setsigmask(&attr, &none)) == 0 &&
	    (error = posix_spawnattr_setsigdefault(&attr, &defaults)) == 0 &&
	    (error = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)) == 0)
		error = posix_spawn(pid_r, "/bin/sh", &actions, &attr, (char *const *)argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return error;
}

static int watch(const struct secret_command *command, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(command->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* A pipe that is not one of the three standard descriptors, even if the caller has closed these. */
static int high_pipe(int fds[2])
{
	int low[2], i;

	if (pipe2(low, O_CLOEXEC) < 0)
		return -1;
	for (i = 0; i < 2; i++)
		fds[i] = fcntl(low[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(low[0]);
	close(low[1]);
	if (fds[0] >= 0 && fds[1] >= 0)
		return 0;
	for (i = 0; i < 2; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return -1;
}

struct secret_command *secret_command_start(const char *command, const char *what, int epoll_fd, char **error_r)
{
	struct secret_command *secret = calloc(1, sizeof(*secret));
	int fds[2], error;

	*error_r = NULL;
	if (secret == NULL)
		return NULL;
	secret->what = what;
	secret->epoll_fd = epoll_fd;
	secret->pid = secret->pidfd = secret->output_fd = -1;
	secret->line = malloc(MAX_LINE + 1);
	if (secret->line == NULL) {
		free(secret);
		return NULL;
	}
	if (high_pipe(fds) < 0) {
		set_error(error_r, "%s: pipe: %s", what, strerror(errno));
		secret_command_free(secret);
		return NULL;
	}
	secret->output_fd = fds[0];
	error = spawn(command, fds[1], &secret->pid);
	close(fds[1]);
	if (error != 0) {
		secret->pid = -1;
		set_error(error_r, "%s: /bin/sh cannot be started: %s", what, strerror(error));
		secret_command_free(secret);
		return NULL;
	}
	/* tells when it has ended; without one (an old kernel, one that is gone already) secret_command_wait() asks now and then */
	secret->pidfd = pidfd_open(secret->pid, 0);
	if (fcntl(secret->output_fd, F_SETFL, O_NONBLOCK) < 0 || (secret->pidfd >= 0 && watch(secret, secret->pidfd) < 0) ||
	    watch(secret, secret->output_fd) < 0) {
		set_error(error_r, "%s: cannot be watched: %s", what, strerror(errno));
		secret_command_free(secret);
		return NULL;
	}
	return secret;
}

static void close_output(struct secret_command *command)
{
	if (command->output_fd >= 0)
		close(command->output_fd);
	command->output_fd = -1;
}

/* false: too much. */
static bool take_output(struct secret_command *command, const char *data, size_t size)
{
	const char *end = memchr(data, '\n', size);
	size_t part = end == NULL ? size : (size_t)(end - data);

	command->total += size;
	if (!command->line_done) {
		if (part > MAX_LINE - command->used)
			return false;
		memcpy(command->line + command->used, data, part);
		command->used += part;
		command->line_done = end != NULL;
	}
	return command->total <= MAX_OUTPUT;
}

/* Reads what is there. false: too much. */
static bool read_output(struct secret_command *command)
{
	char buffer[4096];
	bool ok = true;
	ssize_t n = 0;

	while (ok && command->output_fd >= 0) {
		n = read(command->output_fd, buffer, sizeof(buffer));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n > 0)
			ok = take_output(command, buffer, n);
		else
			close_output(command);
	}
	explicit_bzero(buffer, sizeof(buffer));
	return ok;
}

/* The line is complete: DONE if it is one that can be a secret. */
static enum secret_progress finish(struct secret_command *command, char **secret_r, char **error_r)
{
	while (command->used > 0 && command->line[command->used - 1] == '\r')
		command->used--;
	command->line[command->used] = '\0';
	if (command->used == 0) {
		set_error(error_r, "%s: its output has no first line", command->what);
		return SECRET_FAILED;
	}
	if (strlen(command->line) != command->used || strchr(command->line, '\r') != NULL) {
		set_error(error_r, "%s: its output's first line is not text", command->what);
		return SECRET_FAILED;
	}
	*secret_r = strdup(command->line);
	return *secret_r == NULL ? SECRET_FAILED : SECRET_DONE;
}

enum secret_progress secret_command_work(struct secret_command *command, char **secret_r, char **error_r)
{
	siginfo_t info = { .si_pid = 0 };
	bool ended, lost;

	*secret_r = *error_r = NULL;
	/* first whether it has ended, then what is left of its output: nothing comes after that, but from children of its own,
	   which do not count */
	ended = waitid(P_PID, command->pid, &info, WEXITED | WNOHANG) == 0;
	/* somebody else in this process waits for all children, or SIGCHLD is ignored: it has ended, but nobody knows how */
	lost = !ended && errno == ECHILD;
	ended = ended && info.si_pid != 0;
	if (!read_output(command)) {
		set_error(error_r, "%s: it prints more than a secret", command->what);
		return SECRET_FAILED;
	}
	if (!ended && !lost)
		return SECRET_RUNNING;
	command->pid = -1;
	if (ended && (info.si_code != CLD_EXITED || info.si_status != 0)) {
		set_error(error_r, info.si_code == CLD_EXITED ? "%s: it failed with exit code %d" : "%s: it was ended by signal %d",
			  command->what, info.si_status);
		return SECRET_FAILED;
	}
	return finish(command, secret_r, error_r);
}

/* Kills the children of a stopped process, which cannot take their exit status: their pids stay theirs. */
static void kill_children(pid_t pid, unsigned int depth)
{
	char path[64];
	FILE *file;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	file = fopen(path, "re");
	if (file == NULL)
		return;
	while (fscanf(file, "%d", &child) == 1) {
		(void)kill(child, SIGSTOP);
		if (depth > 0)
			kill_children(child, depth - 1);
		(void)kill(child, SIGKILL);
	}
	fclose(file);
}

int secret_command_wait(const struct secret_command *command)
{
	return command->pidfd >= 0 ? -1 : 20;
}

void secret_command_free(struct secret_command *command)
{
	siginfo_t info;

	if (command == NULL)
		return;
	/* the shell, and what it runs; unless others have taken its exit status, and the pid may be somebody else's */
	if (command->pid > 0 && waitid(P_PID, command->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
		(void)kill(command->pid, SIGSTOP);
		kill_children(command->pid, 16);
		(void)kill(command->pid, SIGKILL);
		while (waitid(P_PID, command->pid, &info, WEXITED) < 0 && errno == EINTR)
			;
	}
	if (command->pidfd >= 0)
		close(command->pidfd);
	close_output(command);
	explicit_bzero(command->line, MAX_LINE + 1);
	free(command->line);
	free(command);
}
