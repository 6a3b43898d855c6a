/* End-to-end encryption: what is known of a replica's encrypted subtrees, in memory and in the replica's local values:

   crypt/subtrees                 their names, each with a NUL
   crypt/known/<subtree>          struct crypt_known
   crypt/ring/<subtree>           the accepted ring's text: what the server shows is not taken for granted
   crypt/own/<subtree>            hashes of our own rings that went before it, and were not seen on the server
   crypt/lost/<subtree>           our own ring that came after another device's
   crypt/seen/<wire>//<mailbox>   struct crypt_seen

   A context is owned by the replica (its codec's). */

#include "crypt-state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KNOWN_SIZE (CRYPT_DEVICE_SIZE + 8 + 1 + CRYPT_SUBTREE_ID_SIZE + 4 + 8 + CRYPT_HASH_SIZE)
#define SEEN_HEAD_SIZE (8 + CRYPT_DEVICE_SIZE + 8 + 1 + CRYPT_HASH_SIZE)
#define SEEN_DEVICE_SIZE (CRYPT_DEVICE_SIZE + 8)

static enum dovetail_status no_memory(struct crypt_context *context)
{
	return replica_fail(context->replica, DOVETAIL_SYSTEM, "out of memory");
}

/* ---- Memory ---- */

enum dovetail_status crypt_context_new(struct dovetail *replica, struct crypt_context **context_r)
{
	*context_r = calloc(1, sizeof(**context_r));
	if (*context_r == NULL)
		return replica_fail(replica, DOVETAIL_SYSTEM, "out of memory");
	(*context_r)->replica = replica;
	return DOVETAIL_OK;
}

static void told_free(struct crypt_context *context)
{
	size_t i;

	for (i = 0; i < context->told_count; i++) {
		free(context->told[i].mailbox);
		free(context->told[i].entry);
	}
	free(context->told);
	context->told = NULL;
	context->told_count = 0;
}

void crypt_context_free(struct crypt_context *context)
{
	size_t i;

	for (i = 0; i < context->count; i++) {
		crypt_ring_free(context->subtrees[i]->ring);
		crypt_ring_free(context->subtrees[i]->lost);
		free(context->subtrees[i]->name);
		free(context->subtrees[i]);
	}
	free(context->subtrees);
	free(context->list);
	crypt_value_free(&context->value);
	free(context->sealed);
	free(context->wire);
	told_free(context);
	free(context);
}

void crypt_tell(struct crypt_context *context, enum dovetail_notice notice, const char *mailbox, const char *entry,
		const char *text)
{
	struct crypt_told *told;

	/* a server that damages everything need not fill our memory */
	if (context->told_count == 1000)
		return;
	/* not the same for each value of a subtree */
	told = context->told_count == 0 ? NULL : &context->told[context->told_count - 1];
	if (told != NULL && told->text == text && told->entry != NULL && strcmp(told->entry, entry) == 0 && told->mailbox != NULL &&
	    strcmp(told->mailbox, mailbox) == 0)
		return;
	told = realloc(context->told, (context->told_count + 1) * sizeof(*told));
	if (told == NULL)
		return;
	context->told = told;
	told += context->told_count++;
	told->notice = notice;
	told->mailbox = strdup(mailbox);
	told->entry = strdup(entry);
	told->text = text;
}

bool crypt_is_reserved(const char *name, size_t *size_r)
{
	const char *p = name;

	while ((p = strstr(p, "/" CRYPT_RESERVED)) != NULL) {
		*size_r = p - name;
		p += strlen("/" CRYPT_RESERVED);
		if (*p == '\0' || *p == '/')
			return true;
	}
	return false;
}

struct crypt_subtree *crypt_subtree_find(const struct crypt_context *context, const char *name)
{
	size_t i;

	for (i = 0; i < context->count; i++) {
		if (crypt_name_is_below(context->subtrees[i]->name, name))
			return context->subtrees[i];
	}
	return NULL;
}

static enum dovetail_status subtree_new(struct crypt_context *context, const char *name)
{
	struct crypt_subtree **subtrees = realloc(context->subtrees, (context->count + 1) * sizeof(*subtrees)), *subtree;

	if (subtrees == NULL)
		return no_memory(context);
	context->subtrees = subtrees;
	subtree = calloc(1, sizeof(*subtree));
	if (subtree == NULL || (subtree->name = strdup(name)) == NULL) {
		free(subtree);
		return no_memory(context);
	}
	subtree->look = true;
	subtrees[context->count++] = subtree;
	return DOVETAIL_OK;
}

enum dovetail_status crypt_subtrees_load(struct crypt_context *context)
{
	enum dovetail_status status;
	const void *data;
	const char *p;
	size_t size;
	char *list;

	status = replica_local_get(context->replica, "crypt/subtrees", &data, &size);
	if (status != DOVETAIL_OK)
		return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
	if (size == context->list_size && memcmp(data, context->list, size) == 0)
		return DOVETAIL_OK;
	list = malloc(size + 1);
	if (list == NULL)
		return no_memory(context);
	memcpy(list, data, size);
	list[size] = '\0';
	free(context->list);
	context->list = list;
	context->list_size = size;
	for (p = list; p < list + size && status == DOVETAIL_OK; p += strlen(p) + 1) {
		if (crypt_subtree_find(context, p) == NULL) {
			status = subtree_new(context, p);
			if (status == DOVETAIL_OK)
				status = crypt_ring_refresh(context, context->subtrees[context->count - 1]);
		}
	}
	return status;
}

enum dovetail_status crypt_subtree_add(struct crypt_context *context, const char *name, struct crypt_subtree **subtree_r)
{
	enum dovetail_status status = crypt_subtrees_load(context);
	size_t size = context->list_size, name_size = strlen(name) + 1;
	char *list;

	if (status != DOVETAIL_OK)
		return status;
	*subtree_r = crypt_subtree_find(context, name);
	if (*subtree_r != NULL)
		return DOVETAIL_OK;
	list = malloc(size + name_size);
	if (list == NULL)
		return no_memory(context);
	put_octets(put_octets((uint8_t *)list, context->list, size), name, name_size);
	status = replica_local_set(context->replica, "crypt/subtrees", list, size + name_size);
	free(list);
	if (status == DOVETAIL_OK)
		status = crypt_subtrees_load(context);
	if (status == DOVETAIL_OK)
		*subtree_r = crypt_subtree_find(context, name);
	return status;
}

/* ---- Local values ---- */

/* *data_r NULL: there is none */
static enum dovetail_status
local_get(struct crypt_context *context, const char *kind, const char *name, const char *mailbox, const uint8_t **data_r,
	  size_t *size_r)
{
	enum dovetail_status status;
	const void *data = NULL;
	char *key;

	if (asprintf(&key, "crypt/%s/%s%s%s", kind, name, mailbox == NULL ? "" : "//", mailbox == NULL ? "" : mailbox) < 0)
		return no_memory(context);
	status = replica_local_get(context->replica, key, &data, size_r);
	free(key);
	*data_r = status == DOVETAIL_OK ? data : NULL;
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

static enum dovetail_status
local_set(struct crypt_context *context, const char *kind, const char *name, const char *mailbox, const void *data, size_t size)
{
	enum dovetail_status status;
	char *key;

	if (asprintf(&key, "crypt/%s/%s%s%s", kind, name, mailbox == NULL ? "" : "//", mailbox == NULL ? "" : mailbox) < 0)
		return no_memory(context);
	status = replica_local_set(context->replica, key, data, size);
	free(key);
	return status;
}

enum dovetail_status crypt_known_get(struct crypt_context *context, const char *subtree, struct crypt_known *known_r)
{
	const struct crypt_env *env = NULL;
	const uint8_t *p;
	const char *error;
	size_t size;
	enum dovetail_status status = local_get(context, "known", subtree, NULL, &p, &size);

	memset(known_r, 0, sizeof(*known_r));
	if (status != DOVETAIL_OK)
		return status;
	if (p != NULL && size != KNOWN_SIZE)
		return replica_fail(context->replica, DOVETAIL_REPLICA, "what the replica knows of the keys of %s is damaged",
				    subtree);
	if (p == NULL) {
		if (!crypt_begin(&env, &error))
			return replica_fail(context->replica, DOVETAIL_SYSTEM, "%s", error);
		/* kept with the first known_set() */
		env->random(env->context, known_r->device, CRYPT_DEVICE_SIZE);
		return DOVETAIL_OK;
	}
	put_octets(known_r->device, p, CRYPT_DEVICE_SIZE);
	known_r->counter = get_number(p + CRYPT_DEVICE_SIZE, 8);
	p += CRYPT_DEVICE_SIZE + 8;
	known_r->seen = p[0] != 0;
	put_octets(known_r->subtree_id, p + 1, CRYPT_SUBTREE_ID_SIZE);
	p += 1 + CRYPT_SUBTREE_ID_SIZE;
	known_r->epoch = get_number(p, 4);
	known_r->generation = get_number(p + 4, 8);
	put_octets(known_r->hash, p + 12, CRYPT_HASH_SIZE);
	return DOVETAIL_OK;
}

enum dovetail_status crypt_known_set(struct crypt_context *context, const char *subtree, const struct crypt_known *known)
{
	uint8_t data[KNOWN_SIZE], *p;

	p = put_octets(data, known->device, CRYPT_DEVICE_SIZE);
	p = put_number(p, known->counter, 8);
	p = put_number(p, known->seen ? 1 : 0, 1);
	p = put_octets(p, known->subtree_id, CRYPT_SUBTREE_ID_SIZE);
	p = put_number(p, known->epoch, 4);
	p = put_number(p, known->generation, 8);
	put_octets(p, known->hash, CRYPT_HASH_SIZE);
	return local_set(context, "known", subtree, NULL, data, sizeof(data));
}

enum dovetail_status crypt_seen_get(struct crypt_context *context, const char *mailbox, const char *wire, struct crypt_seen *seen_r)
{
	const uint8_t *p;
	size_t size, i;
	enum dovetail_status status = local_get(context, "seen", wire, mailbox, &p, &size);

	memset(seen_r, 0, sizeof(*seen_r));
	if (status != DOVETAIL_OK || p == NULL)
		return status;
	if (size < SEEN_HEAD_SIZE || (size - SEEN_HEAD_SIZE) % SEEN_DEVICE_SIZE != 0 ||
	    (size - SEEN_HEAD_SIZE) / SEEN_DEVICE_SIZE > CRYPT_SEEN_DEVICES)
		return replica_fail(context->replica, DOVETAIL_REPLICA, "what the replica has seen of %s is damaged", wire);
	seen_r->own = get_number(p, 8);
	put_octets(seen_r->last_device, p + 8, CRYPT_DEVICE_SIZE);
	p += 8 + CRYPT_DEVICE_SIZE;
	seen_r->last = get_number(p, 8);
	seen_r->ahead = p[8] != 0;
	put_octets(seen_r->refused, p + 9, CRYPT_HASH_SIZE);
	p += 9 + CRYPT_HASH_SIZE;
	seen_r->count = (size - SEEN_HEAD_SIZE) / SEEN_DEVICE_SIZE;
	for (i = 0; i < seen_r->count; i++, p += SEEN_DEVICE_SIZE) {
		put_octets(seen_r->devices[i].device, p, CRYPT_DEVICE_SIZE);
		seen_r->devices[i].counter = get_number(p + CRYPT_DEVICE_SIZE, 8);
	}
	return DOVETAIL_OK;
}

enum dovetail_status crypt_seen_set(struct crypt_context *context, const char *mailbox, const char *wire,
				    const struct crypt_seen *seen)
{
	uint8_t data[SEEN_HEAD_SIZE + CRYPT_SEEN_DEVICES * SEEN_DEVICE_SIZE], *p;
	size_t i;

	p = put_number(data, seen->own, 8);
	p = put_octets(p, seen->last_device, CRYPT_DEVICE_SIZE);
	p = put_number(p, seen->last, 8);
	p = put_number(p, seen->ahead ? 1 : 0, 1);
	p = put_octets(p, seen->refused, CRYPT_HASH_SIZE);
	for (i = 0; i < seen->count; i++) {
		p = put_octets(p, seen->devices[i].device, CRYPT_DEVICE_SIZE);
		p = put_number(p, seen->devices[i].counter, 8);
	}
	return local_set(context, "seen", wire, mailbox, data, p - data);
}

enum dovetail_status
crypt_text_get(struct crypt_context *context, const char *kind, const char *subtree, char **text_r, size_t *size_r)
{
	const uint8_t *data;
	enum dovetail_status status = local_get(context, kind, subtree, NULL, &data, size_r);

	*text_r = NULL;
	if (status != DOVETAIL_OK || data == NULL)
		return status;
	*text_r = malloc(*size_r + 1);
	if (*text_r == NULL)
		return no_memory(context);
	memcpy(*text_r, data, *size_r);
	return DOVETAIL_OK;
}

enum dovetail_status
crypt_text_set(struct crypt_context *context, const char *kind, const char *subtree, const void *text, size_t size)
{
	return local_set(context, kind, subtree, NULL, text, size);
}
