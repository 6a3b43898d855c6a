/* The life of a connection: the command for the secret, then libcurl, then octets. One epoll of its own inside the caller's
   holds whatever descriptors there are at the time. Called by sync.c; owns the account's copy, the child, libcurl's handles and
   the queue. */

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "response.h"
#include "transport-private.h"

/* A user may have to be asked by the command, and a server that shows signs of life need not be ready within one time-out. */
#define PATIENCE 4

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void curl_init(void)
{
	curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int64_t transport_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int transport_watch(struct transport *transport, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	/* a number that is used again may be in there or not */
	if (epoll_ctl(transport->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0)
		return 0;
	return errno == ENOENT ? epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, fd, &event) : -1;
}

enum dovetail_status
transport_new(const struct dovetail_account *account, int epoll_fd, struct transport **transport_r, char **error_r)
{
	struct transport *transport;
	struct epoll_event event = { .events = EPOLLIN };
	enum dovetail_status status;

	*transport_r = NULL;
	*error_r = NULL;
	pthread_once(&curl_once, curl_init);
	if (curl_ready != CURLE_OK) {
		*error_r = strdup("libcurl cannot be initialised");
		return DOVETAIL_SYSTEM;
	}
	transport = calloc(1, sizeof(*transport));
	if (transport == NULL)
		return DOVETAIL_SYSTEM;
	transport->epoll_fd = transport->socket = -1;
	transport->outer_fd = epoll_fd;
	status = account_copy(account, &transport->account, error_r);
	if (status != DOVETAIL_OK) {
		transport_free(transport);
		return status;
	}
	transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	event.data.ptr = transport;
	if (transport->epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, transport->epoll_fd, &event) < 0) {
		if (asprintf(error_r, "epoll: %s", strerror(errno)) < 0)
			*error_r = NULL;
		transport_free(transport);
		return DOVETAIL_SYSTEM;
	}
	*transport_r = transport;
	return DOVETAIL_OK;
}

void transport_free(struct transport *transport)
{
	if (transport == NULL)
		return;
	transport_close(transport);
	if (transport->epoll_fd >= 0) {
		epoll_ctl(transport->outer_fd, EPOLL_CTL_DEL, transport->epoll_fd, NULL);
		close(transport->epoll_fd);
	}
	account_wipe(&transport->account);
	free(transport);
}

void transport_close(struct transport *transport)
{
	secret_command_free(transport->command);
	transport->command = NULL;
	if (transport->socket >= 0) {
		epoll_ctl(transport->epoll_fd, EPOLL_CTL_DEL, transport->socket, NULL);
		transport->socket = -1;
	}
	/* closes without a word: it is libcurl's way with CONNECT_ONLY (else IMAP's LOGOUT, and its answer, would be waited for) */
	if (transport->easy != NULL && transport->multi != NULL)
		curl_multi_remove_handle(transport->multi, transport->easy);
	curl_easy_cleanup(transport->easy);
	curl_multi_cleanup(transport->multi);
	transport->easy = NULL;
	transport->multi = NULL;
	output_free(transport);
	transport->want_write = transport->readable = false;
	transport->failure_pending = false;
	transport->state = TRANSPORT_IDLE;
}

void transport_fail(struct transport *transport, enum dovetail_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(transport->error, sizeof(transport->error), format, args);
	va_end(args);
	response_make_safe(transport->error);
	transport->status = status;
	transport_close(transport);
	transport->state = TRANSPORT_DEAD;
	transport->failure_pending = true;
}

const char *transport_error(const struct transport *transport)
{
	return transport->error;
}

enum dovetail_status transport_status(const struct transport *transport)
{
	return transport->status;
}

/* ---- Connecting ---- */

static void connect_with(struct transport *transport, const char *password, const char *token)
{
	transport->state = TRANSPORT_CONNECTING;
	transport->deadline = transport_now() + transport->account.timeout;
	transport->last_deadline = transport_now() + (int64_t)transport->account.timeout * PATIENCE;
	transport_curl_start(transport, password, token);
}

/* A secret could not be had; error is freed, NULL if memory has run out. */
static void fail_secret(struct transport *transport, char *error)
{
	transport_fail(transport, error == NULL ? DOVETAIL_SYSTEM : DOVETAIL_LOGIN, "%s",
		       error == NULL ? "out of memory" : error);
	free(error);
}

static void start_command(struct transport *transport)
{
	const struct dovetail_account *account = &transport->account;
	bool token = account->token_command != NULL;
	char *error;

	transport->command = secret_command_start(token ? account->token_command : account->password_command,
						  token ? "the token command" : "the password command",
						  transport->epoll_fd, &error);
	if (transport->command == NULL) {
		fail_secret(transport, error);
		return;
	}
	transport->state = TRANSPORT_COMMAND;
	transport->deadline = transport_now() + (int64_t)account->timeout * PATIENCE;
}

void transport_connect(struct transport *transport)
{
	const struct dovetail_account *account = &transport->account;
	char *password, *error;

	transport_close(transport);
	if (account->token_command != NULL || account->password_command != NULL) {
		start_command(transport);
	} else if (account->password != NULL || account->netrc == NULL) {
		connect_with(transport, account->password, NULL);
	} else {
		password = netrc_password(account->netrc, account->host, account->user, &error);
		if (password == NULL) {
			fail_secret(transport, error);
			return;
		}
		connect_with(transport, password, NULL);
		secret_free(password);
	}
}

static void dispatch_command(struct transport *transport)
{
	enum secret_progress progress;
	char *secret, *error;

	progress = secret_command_work(transport->command, &secret, &error);
	if (progress == SECRET_RUNNING) {
		if (transport_now() >= transport->deadline)
			transport_fail(transport, DOVETAIL_LOGIN, "the %s command has not ended within %u s",
				       transport->account.token_command != NULL ? "token" : "password",
				       (transport->account.timeout * PATIENCE + 999) / 1000);
		return;
	}
	secret_command_free(transport->command);
	transport->command = NULL;
	if (progress == SECRET_FAILED) {
		fail_secret(transport, error);
		return;
	}
	if (transport->account.token_command != NULL)
		connect_with(transport, NULL, secret);
	else
		connect_with(transport, secret, NULL);
	secret_free(secret);
}

/* libcurl has connected and logged in. */
static void open_socket(struct transport *transport)
{
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (curl_easy_getinfo(transport->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd == CURL_SOCKET_BAD) {
		transport_fail(transport, DOVETAIL_NETWORK, "the connection was lost after the login");
		return;
	}
	transport->socket = fd;
	if (transport_watch(transport, fd, EPOLLIN) < 0) {
		transport_fail(transport, DOVETAIL_SYSTEM, "epoll: %s", strerror(errno));
		return;
	}
	/* TLS may hold something already */
	transport->readable = true;
	transport->state = TRANSPORT_OPEN;
}

static void curl_work(struct transport *transport, int fd, uint32_t events)
{
	int running, mask = 0;

	if ((events & EPOLLIN) != 0)
		mask |= CURL_CSELECT_IN;
	if ((events & EPOLLOUT) != 0)
		mask |= CURL_CSELECT_OUT;
	if ((events & (EPOLLERR | EPOLLHUP)) != 0)
		mask |= CURL_CSELECT_ERR;
	curl_multi_socket_action(transport->multi, fd, mask, &running);
}

static enum transport_event dispatch_curl(struct transport *transport, const struct epoll_event *events, int count)
{
	CURLMsg *message;
	CURLcode result;
	int i, left;

	for (i = 0; i < count; i++)
		curl_work(transport, events[i].data.fd, events[i].events);
	if (transport->curl_deadline >= 0 && transport_now() >= transport->curl_deadline) {
		transport->curl_deadline = -1;
		curl_work(transport, CURL_SOCKET_TIMEOUT, 0);
	}
	message = curl_multi_info_read(transport->multi, &left);
	if (message != NULL && message->msg == CURLMSG_DONE) {
		result = message->data.result;
		if (result != CURLE_OK)
			transport_curl_fail(transport, result);
		else
			open_socket(transport);
		return transport->state == TRANSPORT_OPEN ? TRANSPORT_CONNECTED : TRANSPORT_NOTHING;
	}
	if (transport->epoll_failed)
		transport_fail(transport, DOVETAIL_SYSTEM, "the connection's descriptors cannot be watched");
	else if (transport_now() >= transport->deadline)
		transport_fail(transport, DOVETAIL_NETWORK, "%s:%u does not answer", transport->account.host,
			       transport->account.port);
	return TRANSPORT_NOTHING;
}

/* ---- Events ---- */

static enum transport_event dispatch_open(struct transport *transport, const struct epoll_event *events, int count)
{
	int i;

	for (i = 0; i < count; i++) {
		if (events[i].data.fd != transport->socket)
			continue;
		if ((events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0)
			transport->readable = true;
		if ((events[i].events & EPOLLOUT) != 0 && !transport_flush(transport))
			return TRANSPORT_NOTHING;
	}
	return transport->readable ? TRANSPORT_READABLE : TRANSPORT_NOTHING;
}

enum transport_event transport_dispatch(struct transport *transport)
{
	struct epoll_event events[16];
	enum transport_event event = TRANSPORT_NOTHING;
	int count;

	count = epoll_wait(transport->epoll_fd, events, sizeof(events) / sizeof(events[0]), 0);
	if (count < 0)
		count = 0;
	switch (transport->state) {
	case TRANSPORT_COMMAND:
		dispatch_command(transport);
		break;
	case TRANSPORT_CONNECTING:
		event = dispatch_curl(transport, events, count);
		break;
	case TRANSPORT_OPEN:
		event = dispatch_open(transport, events, count);
		break;
	case TRANSPORT_IDLE:
	case TRANSPORT_DEAD:
		break;
	}
	if (transport->failure_pending) {
		transport->failure_pending = false;
		return TRANSPORT_FAILED;
	}
	return event;
}

int transport_timeout(const struct transport *transport)
{
	int64_t now = transport_now(), until;

	switch (transport->state) {
	case TRANSPORT_DEAD:
		return transport->failure_pending ? 0 : -1;
	case TRANSPORT_OPEN:
		return transport->readable ? 0 : -1;
	case TRANSPORT_COMMAND:
	case TRANSPORT_CONNECTING:
		until = transport->deadline;
		if (transport->state == TRANSPORT_CONNECTING && transport->curl_deadline >= 0 &&
		    transport->curl_deadline < until)
			until = transport->curl_deadline;
		if (transport->state == TRANSPORT_COMMAND && secret_command_wait(transport->command) >= 0 &&
		    now + secret_command_wait(transport->command) < until)
			until = now + secret_command_wait(transport->command);
		if (until <= now)
			return 0;
		return until - now < INT32_MAX ? (int)(until - now) : INT32_MAX;
	case TRANSPORT_IDLE:
		break;
	}
	return -1;
}
