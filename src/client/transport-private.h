#ifndef CLIENT_TRANSPORT_PRIVATE_H
#define CLIENT_TRANSPORT_PRIVATE_H

/* The transport's insides: transport.c (life, events), transport-io.c (send and receive), transport-curl.c (options and errors
   of libcurl), transport-account.c (the account's copy, checked), transport-secret.c (commands that give secrets),
   transport-netrc.c. */

#include <curl/curl.h>

#include "transport.h"

/* ---- transport-account.c ---- */

/* Copies and checks; defaults for tls, port and timeout are filled in. On failure *account_r is empty and *error_r has the text. */
enum dovetail_status
account_copy(const struct dovetail_account *account, struct dovetail_account *account_r, char **error_r);
/* Frees what is in it, and wipes it. */
void account_wipe(struct dovetail_account *account);
/* Wipes and frees a secret. NULL is fine. */
void secret_free(char *secret);

/* ---- transport-secret.c ---- */

/* A command that prints a secret. */
struct secret_command;
enum secret_progress { SECRET_RUNNING, SECRET_DONE, SECRET_FAILED };
/* Starts "/bin/sh -c command" with nothing on its standard input, the caller's standard error, and no other descriptors; its own
   are put into epoll_fd with data.fd. what names it in errors ("password command"). NULL: *error_r has the text, to be freed, or
   NULL if memory has run out. */
struct secret_command *secret_command_start(const char *command, const char *what, int epoll_fd, char **error_r);
/* Reads and looks without blocking. DONE: *secret_r is the first line, without its end, to be freed with secret_free(). FAILED:
   *error_r as above. */
enum secret_progress secret_command_work(struct secret_command *command, char **secret_r, char **error_r);
/* ms until secret_command_work() has to be called without an event; -1: never. */
int secret_command_wait(const struct secret_command *command);
/* Kills the command if it still runs, and takes its exit status. NULL is fine. */
void secret_command_free(struct secret_command *command);

/* ---- transport-netrc.c ---- */

/* The password for the user on the host, as in netrc(5): the first entry of that machine whose login is the user or not given,
   else of "default". On failure NULL, and *error_r as above. Free it with secret_free(). */
char *netrc_password(const char *path, const char *host, const char *user, char **error_r);

/* ---- transport-io.c ---- */

/* What has to be sent: blocks that do not move, since OpenSSL wants to see the same memory again after EAGAIN. */
struct output_block {
	struct output_block *next;
	size_t used, sent;
	unsigned char data[16 * 1024];
};
/* Sends what the socket takes, and asks for EPOLLOUT if there is more. */
bool transport_flush(struct transport *transport);
void output_free(struct transport *transport);

/* ---- transport.c ---- */

enum transport_state { TRANSPORT_IDLE, TRANSPORT_COMMAND, TRANSPORT_CONNECTING, TRANSPORT_OPEN, TRANSPORT_DEAD };

struct transport {
	struct dovetail_account account;
	/* what transport_dispatch() looks at; inside the caller's */
	int epoll_fd, outer_fd;
	enum transport_state state;
	/* CLOCK_MONOTONIC in ms: until when the command, or the next answer of the server, has to be there, and all of
	   connecting */
	int64_t deadline, last_deadline;

	struct secret_command *command;
	CURLM *multi;
	CURL *easy;
	/* when curl wants to be called, -1: not */
	int64_t curl_deadline;
	char curl_error[CURL_ERROR_SIZE];
	/* the last answer of the server while connecting that was a refusal, without "NO", "BAD" or "BYE"; "" if none */
	char refusal[256];
	/* AUTHENTICATE was sent */
	bool login_tried;
	/* libcurl has looked for room in epoll_fd, and failed */
	bool epoll_failed;

	/* open: */
	int socket;
	struct output_block *output, *output_last;
	size_t unsent;
	/* asked for EPOLLOUT; recv() has not returned 0 since there was something */
	bool want_write, readable;

	/* TRANSPORT_DEAD: dispatch() has not said so yet */
	bool failure_pending;
	enum dovetail_status status;
	char error[CURL_ERROR_SIZE + 384];
};

int64_t transport_now(void);
/* Closes, and keeps the text. */
void transport_fail(struct transport *transport, enum dovetail_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Puts the descriptor into epoll_fd, or changes what is waited for. */
int transport_watch(struct transport *transport, int fd, uint32_t events);

/* ---- transport-curl.c ---- */

/* Makes multi and easy and starts; password or token: one of them, or neither. Fails by transport_fail(). */
void transport_curl_start(struct transport *transport, const char *password, const char *token);
/* What libcurl's result means, by transport_fail(). */
void transport_curl_fail(struct transport *transport, CURLcode result);

#endif
