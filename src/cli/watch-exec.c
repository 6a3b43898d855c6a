/* The commands that dovetail watch runs, without a shell, one at a time; see watch.h. */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "watch.h"

#define OWN_VARIABLES 6
/* ms between SIGTERM and SIGKILL */
#define STOP_AFTER 5000

extern char **environ;

int watch_exec_split(struct cli *cli, char *text, char ***argv_r)
{
	/* each word has a character and a blank, at least */
	char **argv = calloc(strlen(text) / 2 + 2, sizeof(*argv)), *word;
	size_t count = 0;

	if (argv == NULL)
		return cli_fail_memory(cli);
	text += strspn(text, " \t");
	while (*text != '\0' && (word = cli_word(&text)) != NULL)
		argv[count++] = word;
	if (*text == '\0' && count > 0) {
		*argv_r = argv;
		return CLI_OK;
	}
	free(argv);
	return cli_usage(cli, count > 0 || *text != '\0' ? "--exec: a quote has no end" : "--exec: a command is needed");
}

/* Whether it is a file that may be run; errno says why not. */
static bool is_program(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return false;
	if (S_ISREG(st.st_mode))
		return access(path, X_OK) == 0;
	errno = EACCES;
	return false;
}

int watch_exec_find(struct cli *cli, const char *program)
{
	const char *path = getenv("PATH"), *end;
	char *file;
	bool found;

	if (strchr(program, '/') != NULL) {
		if (is_program(program))
			return CLI_OK;
		cli_fail_errno(cli, program);
		return CLI_USAGE;
	}
	if (path == NULL)
		path = "/bin:/usr/bin";
	for (;; path = end + 1) {
		end = strchrnul(path, ':');
		if (asprintf(&file, "%.*s/%s", (int)(end - path), end == path ? "." : path, program) < 0)
			return cli_fail_memory(cli);
		found = is_program(file);
		free(file);
		if (found)
			return CLI_OK;
		if (*end == '\0')
			break;
	}
	cli_error(cli, "%s: there is no such command", program);
	return CLI_USAGE;
}

/* ---- What the command gets ---- */

/* The environment with our variables in front; the first OWN_VARIABLES and the list are to be freed. */
static char **make_environment(const struct cli *cli, const struct watch_event *event, const struct dovetail_entry *entry)
{
	uint64_t modseq = entry != NULL && (entry->flags & DOVETAIL_ENTRY_PENDING) == 0 ? entry->modseq : 0;
	size_t count = 0, used = OWN_VARIABLES, i;
	char **env;
	bool good;

	while (environ[count] != NULL)
		count++;
	env = calloc(count + OWN_VARIABLES + 1, sizeof(*env));
	if (env == NULL)
		return NULL;
	good = asprintf(&env[0], "DOVETAIL_EVENT=%s", entry == NULL ? "removed" : "set") >= 0 &&
		asprintf(&env[1], "DOVETAIL_MAILBOX=%s", event->mailbox) >= 0 &&
		asprintf(&env[2], "DOVETAIL_ENTRY=%s", event->name) >= 0 &&
		asprintf(&env[3], "DOVETAIL_NAME=%s", cli_short_name(cli, event->name)) >= 0 &&
		asprintf(&env[4], "DOVETAIL_MODSEQ=%llu", (unsigned long long)modseq) >= 0 &&
		asprintf(&env[5], "DOVETAIL_SIZE=%zu", entry != NULL ? entry->size : 0) >= 0;
	for (i = 0; i < count; i++) {
		/* what was there under these names is of another command */
		if (strncmp(environ[i], "DOVETAIL_", 9) != 0 || strncmp(environ[i], "DOVETAIL_ACCOUNT=", 17) == 0)
			env[used++] = environ[i];
	}
	if (good)
		return env;
	for (i = 0; i < OWN_VARIABLES && env[i] != NULL; i++)
		free(env[i]);
	free(env);
	return NULL;
}

/* A file in memory with the value, at its beginning: the command reads when it likes, or not at all. */
static int make_input(const struct dovetail_entry *entry)
{
	const char *data = entry != NULL ? entry->data : "";
	size_t left = entry != NULL ? entry->size : 0;
	ssize_t ret;
	int fd;

	fd = memfd_create("value", MFD_CLOEXEC);
	while (fd != -1 && left > 0) {
		ret = write(fd, data, left);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0) {
			close(fd);
			return -1;
		}
		data += ret;
		left -= ret;
	}
	if (fd != -1)
		lseek(fd, 0, SEEK_SET);
	return fd;
}

/* ---- Running ---- */

void watch_exec_start(struct cli *cli, struct watch_exec *exec, const struct watch_event *event,
		      const struct dovetail_entry *entry)
{
	char **env = make_environment(cli, event, entry);
	int input = make_input(entry), ret = ENOMEM;
	unsigned int i;

	if (env != NULL && input != -1)
		ret = cli_spawn((const char *const *)exec->argv, env, input, -1, &exec->pid);
	if (ret == 0) {
		exec->pid_fd = syscall(SYS_pidfd_open, exec->pid, 0);
		if (exec->pid_fd == -1) {
			/* an old kernel: it is waited for here */
			watch_exec_end(cli, exec);
		}
	} else {
		cli_error(cli, "%s: cannot be run: %s", exec->argv[0], strerror(ret));
	}
	if (input != -1)
		close(input);
	for (i = 0; env != NULL && i < OWN_VARIABLES; i++)
		free(env[i]);
	free(env);
}

void watch_exec_end(struct cli *cli, struct watch_exec *exec)
{
	int status;

	while (waitpid(exec->pid, &status, 0) < 0) {
		if (errno != EINTR) {
			status = 0;
			break;
		}
	}
	if (WIFSIGNALED(status))
		cli_error(cli, "%s: ended by signal %d", exec->argv[0], WTERMSIG(status));
	else if (WEXITSTATUS(status) != 0)
		cli_error(cli, "%s: exit code %d", exec->argv[0], WEXITSTATUS(status));
	if (exec->pid_fd != -1)
		close(exec->pid_fd);
	exec->pid_fd = -1;
}

void watch_exec_stop(struct cli *cli, struct watch_exec *exec)
{
	struct pollfd fds[2] = { { .fd = exec->pid_fd, .events = POLLIN }, { .fd = cli->signal_fd, .events = POLLIN } };

	if (exec->pid_fd == -1)
		return;
	kill(exec->pid, SIGTERM);
	/* until a second signal, too: there is somebody who does not want to wait */
	poll(fds, 2, STOP_AFTER);
	if (fds[0].revents == 0)
		kill(exec->pid, SIGKILL);
	watch_exec_end(cli, exec);
}
