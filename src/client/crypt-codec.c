/* End-to-end encryption: the codec of a replica (replica.h), i.e. what the user's names and values are on the wire and back, and
   what is noticed when values arrive. The context is crypt-state.h's; the replica owns it through the codec. */

#include "crypt-state.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static enum dovetail_status codec_refresh(void *context)
{
	return crypt_subtrees_load(context);
}

static bool codec_covers(void *context, const char *name)
{
	size_t size;

	return crypt_subtree_find(context, name) != NULL || crypt_is_reserved(name, &size);
}

static void codec_free(void *context)
{
	crypt_context_free(context);
}

/* ---- Writing ---- */

static uint64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec <= 0 ? 0 : (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void seen_add(struct crypt_seen *seen, const uint8_t *device, uint64_t counter)
{
	size_t i, oldest = 0;

	for (i = 0; i < seen->count; i++) {
		if (memcmp(seen->devices[i].device, device, CRYPT_DEVICE_SIZE) == 0)
			break;
		if (seen->devices[i].counter < seen->devices[oldest].counter)
			oldest = i;
	}
	if (i == CRYPT_SEEN_DEVICES)
		i = oldest;
	else if (i == seen->count)
		seen->count++;
	put_octets(seen->devices[i].device, device, CRYPT_DEVICE_SIZE);
	seen->devices[i].counter = counter;
}

/* Is the value on the server one of ours, and nothing waits yet? *counter_r: older ones of ours are old, also while a later one
   waits. (What we have written last may have been refused: it says nothing.) */
static bool own_is_there(struct crypt_context *context, const struct crypt_ring *ring, const struct crypt_known *known,
			 const char *mailbox, const char *wire, uint64_t *counter_r)
{
	struct dovetail_entry entry;
	struct crypt_value value;
	const char *error;
	bool own;

	if (replica_get_raw(context->replica, mailbox, wire, &entry) != DOVETAIL_OK || entry.data == NULL ||
	    (entry.flags & DOVETAIL_ENTRY_PENDING) != 0 ||
	    crypt_value_open(ring, wire, entry.data, entry.size, CRYPT_ACCEPT_LIVE, &value, &error) != DOVETAIL_OK)
		return false;
	own = memcmp(value.device, known->device, CRYPT_DEVICE_SIZE) == 0;
	*counter_r = value.counter;
	crypt_value_free(&value);
	return own;
}

/* The next counter is drawn, and kept in the transaction that queues what has it. */
static enum dovetail_status
counter_draw(struct crypt_context *context, const struct crypt_ring *ring, const char *mailbox, const char *wire,
	     struct crypt_known *known_r)
{
	struct crypt_seen seen;
	enum dovetail_status status = crypt_known_get(context, ring->subtree, known_r);
	uint64_t now = now_ms(), there;

	if (status != DOVETAIL_OK)
		return status;
	known_r->counter = now > known_r->counter ? now : known_r->counter + 1;
	status = crypt_known_set(context, ring->subtree, known_r);
	if (status == DOVETAIL_OK)
		status = crypt_seen_get(context, mailbox, wire, &seen);
	if (status == DOVETAIL_OK) {
		if (own_is_there(context, ring, known_r, mailbox, wire, &there))
			seen_add(&seen, known_r->device, there - 1);
		seen.own = known_r->counter;
		seen.ahead = true;
		status = crypt_seen_set(context, mailbox, wire, &seen);
	}
	return status;
}

static enum dovetail_status
codec_encode(void *_context, const char *mailbox, const char *name, const void *data, size_t size, struct replica_coded *coded_r)
{
	struct crypt_context *context = _context;
	struct crypt_value value = { .name = name, .data = data, .size = size };
	struct crypt_subtree *subtree;
	struct crypt_known known;
	enum dovetail_status status;
	const char *error = "";
	size_t reserved;

	memset(coded_r, 0, sizeof(*coded_r));
	if (crypt_is_reserved(name, &reserved))
		return replica_fail(context->replica, DOVETAIL_INVALID, "%s: names below " CRYPT_RESERVED " are reserved for keys",
				    name);
	subtree = crypt_subtree_find(context, name);
	status = crypt_ring_refresh(context, subtree);
	if (status != DOVETAIL_OK)
		return status;
	if (subtree->ring == NULL || subtree->ring->secrets == NULL)
		return replica_fail(context->replica, DOVETAIL_LOCKED, "%s is encrypted, and locked", subtree->name);
	free(context->wire);
	status = crypt_name_to_wire(subtree->ring, name, &context->wire, &error);
	if (status != DOVETAIL_OK)
		return replica_fail(context->replica, status, "%s: %s", name, error);
	coded_r->name = context->wire;
	status = counter_draw(context, subtree->ring, mailbox, context->wire, &known);
	if (status != DOVETAIL_OK || data == NULL)
		return status;
	put_octets(value.device, known.device, CRYPT_DEVICE_SIZE);
	value.counter = known.counter;
	free(context->sealed);
	status = crypt_value_seal(subtree->ring, context->wire, &value, NULL, &context->sealed, &coded_r->size, &error);
	if (status != DOVETAIL_OK)
		return replica_fail(context->replica, status, "%s: %s", name, error);
	coded_r->data = context->sealed;
	return DOVETAIL_OK;
}

/* ---- What was seen ---- */

/* Is the value one that this device has to refuse: older than what it has seen or written there? */
static bool
seen_is_older(struct crypt_context *context, const char *mailbox, const char *wire, const struct crypt_seen *seen,
	      const struct crypt_known *known, const struct crypt_value *value)
{
	bool own = memcmp(value->device, known->device, CRYPT_DEVICE_SIZE) == 0;
	size_t i;

	/* what we have written over it may still wait, or its answer was lost */
	if (value->counter == seen->last && memcmp(value->device, seen->last_device, CRYPT_DEVICE_SIZE) == 0)
		return seen->ahead && !context->catching_up && !replica_is_pending(context->replica, mailbox, wire);
	for (i = 0; i < seen->count; i++) {
		if (memcmp(seen->devices[i].device, value->device, CRYPT_DEVICE_SIZE) == 0 &&
		    value->counter <= seen->devices[i].counter)
			return true;
	}
	/* catching up: what we have written later may have been refused, and this is what is there still */
	return own && value->counter < seen->own && !context->catching_up && !replica_is_pending(context->replica, mailbox, wire);
}

/* A value that can be read has arrived. *refused_r: it is older than what was seen. */
static enum dovetail_status
seen_arrive(struct crypt_context *context, const struct crypt_subtree *subtree, const char *mailbox, const char *wire,
	    const struct crypt_value *value, const uint8_t hash[CRYPT_HASH_SIZE], bool *refused_r)
{
	struct crypt_known known;
	struct crypt_seen seen;
	enum dovetail_status status;

	status = crypt_known_get(context, subtree->name, &known);
	if (status == DOVETAIL_OK)
		status = crypt_seen_get(context, mailbox, wire, &seen);
	if (status != DOVETAIL_OK)
		return status;
	*refused_r = seen_is_older(context, mailbox, wire, &seen, &known, value);
	if (*refused_r && memcmp(seen.refused, hash, CRYPT_HASH_SIZE) == 0)
		return DOVETAIL_OK;
	if (*refused_r) {
		crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, mailbox, value->name,
			   "the server shows an older value than this device has seen");
		put_octets(seen.refused, hash, CRYPT_HASH_SIZE);
	} else {
		memset(seen.refused, 0, CRYPT_HASH_SIZE);
		put_octets(seen.last_device, value->device, CRYPT_DEVICE_SIZE);
		seen.last = value->counter;
		seen.ahead = false;
		/* somebody has written over what we had written */
		if (seen.own != 0 && memcmp(value->device, known.device, CRYPT_DEVICE_SIZE) != 0 &&
		    !replica_is_pending(context->replica, mailbox, wire))
			seen_add(&seen, known.device, seen.own);
		seen_add(&seen, value->device, value->counter);
	}
	return crypt_seen_set(context, mailbox, wire, &seen);
}

static enum dovetail_status codec_removed(void *_context, const char *mailbox, const char *wire)
{
	struct crypt_context *context = _context;
	const struct crypt_subtree *subtree = crypt_subtree_find(context, wire);
	struct crypt_known known;
	struct crypt_seen seen;
	enum dovetail_status status;
	size_t size;

	if (crypt_is_reserved(wire, &size)) {
		if (subtree != NULL && *mailbox == '\0' && strcmp(wire + size, CRYPT_RING_ENTRY) == 0) {
			crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, mailbox, subtree->name,
				   "the keys of the encrypted subtree are gone from the server");
			((struct crypt_subtree *)subtree)->look = true;
		}
		return DOVETAIL_OK;
	}
	status = crypt_known_get(context, subtree->name, &known);
	if (status == DOVETAIL_OK)
		status = crypt_seen_get(context, mailbox, wire, &seen);
	if (status != DOVETAIL_OK || (seen.own == 0 && seen.last == 0))
		return status;
	/* from now on, what was there is old; but not what we are about to write */
	if (seen.own != 0 && !replica_is_pending(context->replica, mailbox, wire))
		seen_add(&seen, known.device, seen.own);
	seen.last = 0;
	return crypt_seen_set(context, mailbox, wire, &seen);
}

/* ---- Reading ---- */

static void flag(struct crypt_context *context, struct replica_coded *coded, unsigned int which, bool arriving, const char *mailbox,
		 const char *wire, const char *text)
{
	coded->flags = which;
	if (arriving)
		crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, mailbox, wire, text);
}

/* Own writes that wait may be as nothing is accepted from the server any more: plain, with a retired key, with the keys that
   lost. */
static enum dovetail_status
open_pending(struct crypt_context *context, const struct crypt_subtree *subtree, const char *wire, const void *data, size_t size)
{
	enum dovetail_status status = DOVETAIL_LOCKED;
	const char *error;

	if (subtree->ring != NULL)
		status = crypt_value_open(subtree->ring, wire, data, size, CRYPT_ACCEPT_RETIRED, &context->value, &error);
	if (status != DOVETAIL_OK && status != DOVETAIL_SYSTEM && subtree->lost != NULL)
		status = crypt_value_open(subtree->lost, wire, data, size, CRYPT_ACCEPT_RETIRED, &context->value, &error);
	return status;
}

/* Is there a value at the wire name that is encrypted already? A write of our own that waits says nothing of what is on the
   server. */
static enum dovetail_status sealed_was_seen(struct crypt_context *context, const char *mailbox, const char *wire, bool *seen_r)
{
	struct dovetail_entry entry;
	struct crypt_seen seen;
	enum dovetail_status status = crypt_seen_get(context, mailbox, wire, &seen);

	*seen_r = status == DOVETAIL_OK && seen.last != 0;
	if (status != DOVETAIL_OK || *seen_r)
		return status;
	status = replica_get_raw(context->replica, mailbox, wire, &entry);
	*seen_r = status == DOVETAIL_OK && entry.data != NULL && (entry.flags & DOVETAIL_ENTRY_PENDING) == 0 &&
		crypt_value_is_sealed(entry.data, entry.size);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

/* A value that is not encrypted, while the subtree is being converted: to be written anew, but it does not come back once it
   was. */
static enum dovetail_status
plain_decode(struct crypt_context *context, const struct crypt_subtree *subtree, const char *mailbox, const char *wire,
	     const void *data, size_t size, bool arriving, struct replica_coded *coded_r)
{
	uint8_t hash[CRYPT_HASH_SIZE];
	struct crypt_seen seen;
	enum dovetail_status status;
	const char *error;
	bool refused = false;
	char *hidden;

	/* a name that is too long to be hidden */
	status = crypt_name_to_wire(subtree->ring, wire, &hidden, &error);
	if (status != DOVETAIL_OK && status != DOVETAIL_SYSTEM) {
		flag(context, coded_r, DOVETAIL_ENTRY_DAMAGED, arriving, mailbox, wire, error);
		return DOVETAIL_OK;
	}
	crypt_text_hash(data, size, hash);
	if (status == DOVETAIL_OK)
		status = crypt_seen_get(context, mailbox, wire, &seen);
	if (status == DOVETAIL_OK && arriving) {
		status = sealed_was_seen(context, mailbox, hidden, &refused);
		if (status == DOVETAIL_OK && refused) {
			put_octets(seen.refused, hash, CRYPT_HASH_SIZE);
			status = crypt_seen_set(context, mailbox, wire, &seen);
			crypt_tell(context, DOVETAIL_NOTICE_ROLLBACK, mailbox, wire,
				   "the server shows a value from before the encryption");
		}
	} else if (status == DOVETAIL_OK) {
		refused = memcmp(seen.refused, hash, CRYPT_HASH_SIZE) == 0;
	}
	free(hidden);
	if (status != DOVETAIL_OK)
		return status;
	context->stale = !refused;
	coded_r->flags = refused ? DOVETAIL_ENTRY_DAMAGED : 0;
	coded_r->data = refused ? NULL : data;
	coded_r->size = refused ? 0 : size;
	return DOVETAIL_OK;
}

static enum dovetail_status
value_decode(struct crypt_context *context, const struct crypt_subtree *subtree, const char *mailbox, const char *wire,
	     const void *data, size_t size, bool arriving, struct replica_coded *coded_r)
{
	bool locked = subtree->ring == NULL || subtree->ring->secrets == NULL, refused = false;
	uint8_t hash[CRYPT_HASH_SIZE];
	struct crypt_seen seen;
	enum dovetail_status status = DOVETAIL_LOCKED;
	const char *error = "the subtree is locked";

	if (!locked)
		status = crypt_value_open(subtree->ring, wire, data, size, CRYPT_ACCEPT_LIVE, &context->value, &error);
	context->stale = status == DOVETAIL_OK && !context->value.current;
	if (status != DOVETAIL_OK && status != DOVETAIL_SYSTEM && !arriving &&
	    replica_is_pending(context->replica, mailbox, wire)) {
		status = open_pending(context, subtree, wire, data, size);
		context->stale = true;
		/* queued before the subtree was encrypted */
		if (status == DOVETAIL_DAMAGED && !crypt_value_is_sealed(data, size)) {
			coded_r->data = data;
			coded_r->size = size;
			return DOVETAIL_OK;
		}
		arriving = false;
		if (status == DOVETAIL_OK)
			goto opened;
	}
	if (status == DOVETAIL_SYSTEM)
		return replica_fail(context->replica, status, "%s: %s", wire, error);
	if (status == DOVETAIL_DAMAGED && subtree->ring->converting && !crypt_value_is_sealed(data, size))
		return plain_decode(context, subtree, mailbox, wire, data, size, arriving, coded_r);
	if (status != DOVETAIL_OK) {
		flag(context, coded_r, status == DOVETAIL_LOCKED ? DOVETAIL_ENTRY_LOCKED : DOVETAIL_ENTRY_DAMAGED,
		     arriving && status != DOVETAIL_LOCKED, mailbox, wire, error);
		/* told once: a locked subtree by its keys, others by the first value */
		if (arriving && !locked && status == DOVETAIL_LOCKED)
			crypt_tell(context, DOVETAIL_NOTICE_UNREADABLE, "", subtree->name, error);
		context->stale = false;
		return DOVETAIL_OK;
	}
	crypt_text_hash(data, size, hash);
	if (arriving) {
		status = seen_arrive(context, subtree, mailbox, wire, &context->value, hash, &refused);
	} else {
		status = crypt_seen_get(context, mailbox, wire, &seen);
		refused = status == DOVETAIL_OK && memcmp(hash, seen.refused, CRYPT_HASH_SIZE) == 0;
	}
	if (status != DOVETAIL_OK)
		return status;
opened:
	coded_r->name = context->value.name;
	if (refused) {
		coded_r->flags = DOVETAIL_ENTRY_DAMAGED;
		context->stale = false;
		return DOVETAIL_OK;
	}
	coded_r->data = context->value.data;
	coded_r->size = context->value.size;
	return DOVETAIL_OK;
}

static enum dovetail_status
codec_decode(void *_context, const char *mailbox, const char *wire, const void *data, size_t size, bool arriving,
	     struct replica_coded *coded_r)
{
	struct crypt_context *context = _context;
	struct crypt_subtree *subtree;
	enum dovetail_status status;
	size_t reserved;
	char *name;

	memset(coded_r, 0, sizeof(*coded_r));
	crypt_value_free(&context->value);
	context->stale = false;
	if (crypt_is_reserved(wire, &reserved)) {
		coded_r->hidden = true;
		if (!arriving || *mailbox != '\0' || strcmp(wire + reserved, CRYPT_RING_ENTRY) != 0)
			return DOVETAIL_OK;
		name = strndup(wire, reserved);
		if (name == NULL)
			return replica_fail(context->replica, DOVETAIL_SYSTEM, "out of memory");
		status = crypt_ring_arrive(context, name, data, size);
		free(name);
		return status;
	}
	subtree = crypt_subtree_find(context, wire);
	if (context->catching_up && !arriving)
		arriving = !replica_is_pending(context->replica, mailbox, wire);
	return value_decode(context, subtree, mailbox, wire, data, size, arriving, coded_r);
}

/* ---- Sending ---- */

/* The server's ring, as far as we know, beside the one that was accepted. */
enum shown { SHOWN_SAME, SHOWN_NEWER, SHOWN_OTHER };

static enum shown ring_shown(struct crypt_context *context, const struct crypt_subtree *subtree)
{
	uint8_t hash[CRYPT_HASH_SIZE];
	enum shown shown = SHOWN_OTHER;
	struct crypt_ring *ring;
	enum dovetail_status status;
	const char *error;
	bool pending;
	size_t size;
	char *text;

	status = crypt_ring_shown(context->replica, subtree->name, &text, &size, &pending);
	if (status != DOVETAIL_OK || text == NULL)
		return SHOWN_OTHER;
	crypt_text_hash(text, size, hash);
	if (memcmp(hash, subtree->ring_hash, CRYPT_HASH_SIZE) == 0) {
		shown = SHOWN_SAME;
	} else if (crypt_ring_parse(subtree->name, text, size, NULL, &ring, &error) == DOVETAIL_OK) {
		if (memcmp(ring->subtree_id, subtree->ring->subtree_id, CRYPT_SUBTREE_ID_SIZE) == 0 &&
		    ring->epoch > subtree->ring->epoch)
			shown = SHOWN_NEWER;
		crypt_ring_free(ring);
	}
	free(text);
	return shown;
}

/* What is sealed was sealed for the ring that was accepted last, so it may go as long as that is the server's. */
static bool may_send_locked(struct crypt_context *context, const struct crypt_subtree *subtree, const void *data, size_t size)
{
	size_t lost_size;
	char *text;

	if (!crypt_value_is_sealed(data, size) || subtree->ring == NULL ||
	    crypt_text_get(context, "lost", subtree->name, &text, &lost_size) != DOVETAIL_OK)
		return false;
	free(text);
	return text == NULL && ring_shown(context, subtree) == SHOWN_SAME;
}

static bool codec_may_send(void *_context, const char *mailbox, const char *wire, const void *data, size_t size)
{
	struct crypt_context *context = _context;
	struct crypt_subtree *subtree;
	struct crypt_known known;
	struct crypt_value value;
	enum dovetail_status status;
	enum shown shown;
	const char *error;
	size_t reserved;

	(void)mailbox;
	if (data == NULL || crypt_is_reserved(wire, &reserved))
		return true;
	subtree = crypt_subtree_find(context, wire);
	if (subtree->ring == NULL || subtree->ring->secrets == NULL)
		return may_send_locked(context, subtree, data, size);
	status = crypt_value_open(subtree->ring, wire, data, size, CRYPT_ACCEPT_LIVE, &value, &error);
	crypt_value_free(&value);
	if (status != DOVETAIL_OK) {
		subtree->look = true;
		return false;
	}
	/* With keys that are not published yet, it could be that nobody ever can read it; nor with some that others have
	   replaced: another process may have seen that. */
	shown = ring_shown(context, subtree);
	return shown == SHOWN_SAME || (shown == SHOWN_OTHER && crypt_known_get(context, subtree->name, &known) == DOVETAIL_OK &&
				       crypt_ring_is_published(&known, subtree));
}

void crypt_codec_set(struct crypt_context *context)
{
	const struct replica_codec codec = {
		.context = context,
		.refresh = codec_refresh,
		.covers = codec_covers,
		.encode = codec_encode,
		.decode = codec_decode,
		.removed = codec_removed,
		.may_send = codec_may_send,
		.free = codec_free
	};

	replica_set_codec(context->replica, &codec);
}
