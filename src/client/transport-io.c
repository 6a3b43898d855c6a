/* Octets over an open connection: curl_easy_send() and curl_easy_recv() with a queue of what could not be sent yet. Called by
   the sync and by transport_dispatch(); owns the queue. */

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "transport-private.h"

void output_free(struct transport *transport)
{
	struct output_block *block;

	while ((block = transport->output) != NULL) {
		transport->output = block->next;
		free(block);
	}
	transport->output_last = NULL;
	transport->unsent = 0;
}

static bool set_want_write(struct transport *transport, bool want)
{
	if (transport->want_write == want)
		return true;
	if (transport_watch(transport, transport->socket, EPOLLIN | (want ? EPOLLOUT : 0)) < 0) {
		transport_fail(transport, DOVETAIL_SYSTEM, "the connection's descriptor cannot be watched");
		return false;
	}
	transport->want_write = want;
	return true;
}

bool transport_flush(struct transport *transport)
{
	struct output_block *block;
	CURLcode result;
	size_t sent;

	while ((block = transport->output) != NULL) {
		sent = 0;
		result = curl_easy_send(transport->easy, block->data + block->sent, block->used - block->sent, &sent);
		if (result == CURLE_AGAIN || (result == CURLE_OK && sent == 0))
			break;
		if (result != CURLE_OK) {
			transport_curl_fail(transport, result);
			return false;
		}
		block->sent += sent;
		transport->unsent -= sent;
		if (block->sent < block->used)
			continue;
		transport->output = block->next;
		if (transport->output == NULL)
			transport->output_last = NULL;
		free(block);
	}
	return set_want_write(transport, transport->output != NULL);
}

/* Room at the end of the queue. NULL: out of memory. */
static struct output_block *output_room(struct transport *transport)
{
	struct output_block *last = transport->output_last, *block;

	if (last != NULL && last->used < sizeof(last->data))
		return last;
	block = malloc(sizeof(*block));
	if (block == NULL)
		return NULL;
	block->next = NULL;
	block->used = block->sent = 0;
	if (last == NULL)
		transport->output = block;
	else
		last->next = block;
	transport->output_last = block;
	return block;
}

bool transport_send(struct transport *transport, const void *data, size_t size)
{
	const unsigned char *octets = data;
	struct output_block *block;
	size_t part;

	if (transport->state != TRANSPORT_OPEN)
		return false;
	while (size > 0) {
		block = output_room(transport);
		if (block == NULL) {
			transport_fail(transport, DOVETAIL_SYSTEM, "out of memory");
			return false;
		}
		part = sizeof(block->data) - block->used < size ? sizeof(block->data) - block->used : size;
		memcpy(block->data + block->used, octets, part);
		block->used += part;
		transport->unsent += part;
		octets += part;
		size -= part;
	}
	/* what waits for EPOLLOUT goes when it comes */
	return transport->want_write || transport_flush(transport);
}

size_t transport_unsent(const struct transport *transport)
{
	return transport->unsent;
}

ssize_t transport_recv(struct transport *transport, void *buffer, size_t size)
{
	CURLcode result;
	size_t n = 0;

	if (transport->state != TRANSPORT_OPEN)
		return -1;
	if (size == 0)
		return 0;
	result = curl_easy_recv(transport->easy, buffer, size, &n);
	if (result == CURLE_AGAIN) {
		transport->readable = false;
		return 0;
	}
	if (result != CURLE_OK) {
		transport_curl_fail(transport, result);
		return -1;
	}
	if (n == 0) {
		transport_fail(transport, DOVETAIL_NETWORK, "the server has closed the connection");
		return -1;
	}
	/* TLS may hold more, which the descriptor does not show */
	transport->readable = true;
	return n;
}
