/* One connection by src/client/transport.c, for test_transport.py. Arguments are key=value: the account's members, and
     send=TEXT     sent after the login, with CRLF after it; in order
     bulk=N        then N octets more
     until=TEXT    ends when that has come
     single=1      receives once when it is told that there is something, not until there is nothing
     again=N       N times more, with the same transport; each time "descriptors N" is printed before
     give_up=N     frees the transport N ms after it began, or at once if it is connected by then
     sigchld=1     SIGCHLD is ignored
   It prints "connected", what comes, "failed STATUS: TEXT", and at the end "unsent N". */

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "transport.h"

struct driver {
	struct dovetail_account account;
	const char *sends[32], *until;
	unsigned int send_count;
	size_t bulk;
	bool single;
	unsigned int again, give_up;
	char seen[4096];
	size_t seen_size;
};

static enum dovetail_tls tls_of(const char *word)
{
	if (strcmp(word, "imaps") == 0)
		return DOVETAIL_TLS_IMAPS;
	if (strcmp(word, "starttls") == 0)
		return DOVETAIL_TLS_STARTTLS;
	return strcmp(word, "none") == 0 ? DOVETAIL_TLS_NONE : DOVETAIL_TLS_DEFAULT;
}

static void set(struct driver *driver, char *argument)
{
	struct dovetail_account *account = &driver->account;
	const struct { const char *key, **value; } strings[] = {
		{ "host", &account->host }, { "user", &account->user }, { "token_command", &account->token_command },
		{ "password_command", &account->password_command }, { "password", &account->password },
		{ "netrc", &account->netrc }, { "mechanism", &account->mechanism }, { "proxy", &account->proxy },
		{ "ca_file", &account->ca_file }, { "until", &driver->until },
	};
	char *value = strchr(argument, '=');
	unsigned int i;

	*value++ = '\0';
	for (i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
		if (strcmp(argument, strings[i].key) == 0)
			*strings[i].value = value;
	}
	if (strcmp(argument, "port") == 0)
		account->port = atoi(value);
	else if (strcmp(argument, "tls") == 0)
		account->tls = tls_of(value);
	else if (strcmp(argument, "insecure") == 0)
		account->insecure = *value == '1';
	else if (strcmp(argument, "timeout") == 0)
		account->timeout = atoi(value);
	else if (strcmp(argument, "send") == 0)
		driver->sends[driver->send_count++] = value;
	else if (strcmp(argument, "bulk") == 0)
		driver->bulk = strtoul(value, NULL, 10);
	else if (strcmp(argument, "single") == 0)
		driver->single = *value == '1';
	else if (strcmp(argument, "again") == 0)
		driver->again = atoi(value);
	else if (strcmp(argument, "give_up") == 0)
		driver->give_up = atoi(value);
	else if (strcmp(argument, "sigchld") == 0)
		signal(SIGCHLD, SIG_IGN);
}

static void connected(struct driver *driver, struct transport *transport)
{
	char block[3000];
	unsigned int i;
	size_t left, part;

	printf("connected\n");
	fflush(stdout);
	for (i = 0; i < driver->send_count; i++) {
		if (!transport_send(transport, driver->sends[i], strlen(driver->sends[i])) ||
		    !transport_send(transport, "\r\n", 2))
			return;
	}
	memset(block, 'x', sizeof(block));
	for (left = driver->bulk; left > 0; left -= part) {
		part = left < sizeof(block) ? left : sizeof(block);
		if (!transport_send(transport, block, part))
			return;
	}
}

/* true: the text has come that ends it. */
static bool receive(struct driver *driver, struct transport *transport)
{
	char buffer[777];
	ssize_t n;
	bool more = true;

	while (more && (n = transport_recv(transport, buffer, sizeof(buffer))) > 0) {
		fwrite(buffer, 1, n, stdout);
		fflush(stdout);
		if ((size_t)n > sizeof(driver->seen) - 1 - driver->seen_size)
			driver->seen_size = 0;
		memcpy(driver->seen + driver->seen_size, buffer, n);
		driver->seen_size += n;
		driver->seen[driver->seen_size] = '\0';
		more = !driver->single;
	}
	return driver->until != NULL && strstr(driver->seen, driver->until) != NULL;
}

/* One connection; true: it has been all that was asked for. */
static bool run(struct driver *driver, struct transport *transport, int epoll_fd)
{
	struct pollfd p = { .fd = epoll_fd, .events = POLLIN };

	transport_connect(transport);
	for (;;) {
		if (poll(&p, 1, transport_timeout(transport)) < 0 && errno != EINTR)
			return false;
		switch (transport_dispatch(transport)) {
		case TRANSPORT_CONNECTED:
			connected(driver, transport);
			if (driver->until == NULL)
				return true;
			break;
		case TRANSPORT_READABLE:
			if (receive(driver, transport))
				return true;
			break;
		case TRANSPORT_FAILED:
			printf("failed %s: %s\n", dovetail_status_name(transport_status(transport)), transport_error(transport));
			return true;
		case TRANSPORT_NOTHING:
			break;
		}
	}
}

/* Works for some time only. */
static void run_and_give_up(struct driver *driver, struct transport *transport, int epoll_fd)
{
	struct pollfd p = { .fd = epoll_fd, .events = POLLIN };
	struct timespec now;
	int64_t end = 0, ms;

	transport_connect(transport);
	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
		if (end == 0)
			end = ms + driver->give_up;
		if (ms >= end)
			return;
		(void)poll(&p, 1, 1);
		if (transport_dispatch(transport) == TRANSPORT_CONNECTED) {
			printf("connected\n");
			return;
		}
	}
}

static unsigned int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count;
}

int main(int argc, char *argv[])
{
	struct driver driver = { .until = NULL };
	struct transport *transport;
	int i, epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	enum dovetail_status status;
	unsigned int again;
	bool ok = true;
	char *error;

	for (i = 1; i < argc; i++) {
		if (strchr(argv[i], '=') != NULL)
			set(&driver, argv[i]);
	}
	status = transport_new(&driver.account, epoll_fd, &transport, &error);
	if (status != DOVETAIL_OK) {
		printf("refused %s: %s\n", dovetail_status_name(status), error);
		free(error);
		close(epoll_fd);
		return 0;
	}
	if (driver.give_up > 0) {
		run_and_give_up(&driver, transport, epoll_fd);
	} else {
		for (again = 0; ok && again <= driver.again; again++) {
			if (driver.again > 0)
				printf("descriptors %u\n", count_descriptors());
			driver.seen_size = 0;
			ok = run(&driver, transport, epoll_fd);
			printf("unsent %zu\n", transport_unsent(transport));
			transport_close(transport);
		}
	}
	transport_free(transport);
	close(epoll_fd);
	return ok ? 0 : 1;
}
