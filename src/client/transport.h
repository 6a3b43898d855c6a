#ifndef CLIENT_TRANSPORT_H
#define CLIENT_TRANSPORT_H

/* A connection to an IMAP server, logged in, by libcurl: TCP, proxies, TLS, STARTTLS, SASL, the commands that give passwords and
   tokens. Non-blocking; knows nothing of METADATA. Used by sync.c only.

   Process-wide: curl_global_init() is called once, under pthread_once(), by the first transport_new(), and never undone. Nothing
   else is shared. libcurl resolves names in a thread that it starts and ends itself. Secrets of ours are wiped when they are not
   needed any more; libcurl keeps copies of user name and password in its own memory until transport_close(), and does not wipe
   them. */

#include "dovetail.h"

struct transport;

/* The account is copied, and checked: INVALID. *transport_r is idle. epoll_fd: the caller's; the transport puts one descriptor
   there, with data.ptr = *transport_r, and takes it out when it is freed. The caller calls transport_dispatch() whenever that is
   readable or transport_timeout() is over. *error_r (not NULL) is to be freed. */
enum dovetail_status
transport_new(const struct dovetail_account *account, int epoll_fd, struct transport **transport_r, char **error_r);
/* Closes at once. NULL is fine. */
void transport_free(struct transport *transport);

/* Begins to connect and log in; an old connection is closed. */
void transport_connect(struct transport *transport);
/* At once, without a word to the server and without waiting for anything. Nothing is reported after it. */
void transport_close(struct transport *transport);

enum transport_event { TRANSPORT_NOTHING, TRANSPORT_CONNECTED, TRANSPORT_READABLE, TRANSPORT_FAILED };
/* Works on what is ready: finishes connecting (CONNECTED, once: logged in), says that recv() may have something (READABLE, until
   recv() has returned 0), flushes what send() could not, or FAILED, once: closed, transport_error() and transport_status()
   (NETWORK, TLS, LOGIN, UNSUPPORTED, SYSTEM) say why. What the server has sent before or with its answer to the login is lost,
   capabilities too: ask for them. */
enum transport_event transport_dispatch(struct transport *transport);
/* ms, -1: none */
int transport_timeout(const struct transport *transport);

/* Queues octets and sends what the socket takes; never blocks. false: the connection has failed (transport_error()); dispatch()
   says so, too. */
bool transport_send(struct transport *transport, const void *data, size_t size);
/* What is still queued. */
size_t transport_unsent(const struct transport *transport);
/* > 0: octets; 0: nothing now; -1: closed or failed (transport_error()); dispatch() says so, too. */
ssize_t transport_recv(struct transport *transport, void *buffer, size_t size);

/* One line without secrets, "" before the first failure. Valid until the next failure. */
const char *transport_error(const struct transport *transport);
enum dovetail_status transport_status(const struct transport *transport);

#endif
