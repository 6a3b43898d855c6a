#ifndef CLIENT_TRANSPORT_H
#define CLIENT_TRANSPORT_H

/* A connection to an IMAP server, logged in, by libcurl: TCP, proxies, TLS, STARTTLS, SASL, the commands that give passwords and tokens. Non-blocking; knows
   nothing of METADATA. Used by sync.c only. */

#include "dovetail.h"

struct transport;

/* The account is copied. *transport_r is idle. epoll_fd: the transport adds and removes its descriptors there, with data.ptr = itself
   or what it owns; the caller calls transport_dispatch() whenever epoll_fd is readable or transport_timeout() is over. */
enum dovetail_status
transport_new(const struct dovetail_account *account, int epoll_fd, struct transport **transport_r, char **error_r);
/* Closes at once. NULL is fine. */
void transport_free(struct transport *transport);

/* Begins to connect and log in. */
void transport_connect(struct transport *transport);
void transport_close(struct transport *transport);

enum transport_event { TRANSPORT_NOTHING, TRANSPORT_CONNECTED, TRANSPORT_READABLE, TRANSPORT_FAILED };
/* Works on what is ready: finishes connecting (CONNECTED, once: logged in), says that recv() has something (READABLE), flushes what send() could not,
   or FAILED: closed, transport_error() and transport_status() (NETWORK, TLS, LOGIN, UNSUPPORTED, SYSTEM) say why. */
enum transport_event transport_dispatch(struct transport *transport);
/* ms, -1: none */
int transport_timeout(const struct transport *transport);

/* Queues octets and sends what the socket takes; never blocks. false: the connection has failed. */
bool transport_send(struct transport *transport, const void *data, size_t size);
/* What is still queued. */
size_t transport_unsent(const struct transport *transport);
/* > 0: octets; 0: nothing now; -1: closed or failed */
ssize_t transport_recv(struct transport *transport, void *buffer, size_t size);

const char *transport_error(const struct transport *transport);
enum dovetail_status transport_status(const struct transport *transport);

#endif
