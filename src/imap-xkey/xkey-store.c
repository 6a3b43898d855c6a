/* The keys in the user's store: a copy of their fingerprints that is kept up to
   date by reading on from a cursor, adding one, and what happens when the store
   cannot be used.

   Whoever can write the store (XMETASET, doveadm ...) can put anything below
   XKEY_DIR. What is no key, or is named by another fingerprint than its own,
   does not exist here. */

#include "imap-xkey.h"
#include "ioloop.h"
#include "time-util.h"

/* Entries read in one transaction, of which each costs a tenth of a
   millisecond. */
#define XKEY_READ_MAX 50
/* How long to wait before the store is tried again. */
#define XKEY_RETRY_MSECS 500
#define XKEY_RETRY_DEFAULT_MSECS (10*1000)

static const struct store_scope xkey_scope = { .type = STORE_SCOPE_SERVER };
static const char *const xkey_entries[] = { XKEY_DIR };
static const struct store_selection xkey_selection = {
	.scopes = &xkey_scope, .scope_count = 1,
	.entries = xkey_entries, .entry_count = 1
};
static const struct store_filter xkey_filter = {
	.selections = &xkey_selection, .selection_count = 1,
	.depth = STORE_DEPTH_1
};
static const struct store_read xkey_read_request = {
	.filter = &xkey_filter,
	/* what is larger is no key */
	.max_value_size = XKEY_MAX_SIZE * 2
};

/* -- the list -------------------------------------------------------------- */

void xkey_keys_init(struct xkey_keys *keys, struct imap_long_command *lc)
{
	keys->lc = lc;
	i_array_init(&keys->keys, 16);
}

static void xkey_free(struct xkey *key)
{
	i_free(key->fpr);
	i_free(key->pem);
}

void xkey_keys_deinit(struct xkey_keys *keys)
{
	struct xkey *key;

	array_foreach_modifiable(&keys->keys, key)
		xkey_free(key);
	array_free(&keys->keys);
	if (keys->store != NULL)
		metasync_user_upkeep(keys->lc->client->user);
}

unsigned int xkey_keys_find(const struct xkey_keys *keys, const char *fpr)
{
	unsigned int low = 0, high, mid;
	const struct xkey *list = array_get(&keys->keys, &high);

	while (low < high) {
		mid = (low + high) / 2;
		if (strcmp(list[mid].fpr, fpr) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Returns NULL if it is not there and add is FALSE. */
static struct xkey *
xkey_keys_get(struct xkey_keys *keys, const char *fpr, bool add)
{
	unsigned int idx = xkey_keys_find(keys, fpr);
	struct xkey *key = NULL;

	if (idx < array_count(&keys->keys)) {
		key = array_idx_modifiable(&keys->keys, idx);
		if (strcmp(key->fpr, fpr) == 0)
			return key;
	}
	if (!add)
		return NULL;
	key = array_insert_space(&keys->keys, idx);
	key->fpr = i_strdup(fpr);
	return key;
}

void xkey_keys_add_told(struct xkey_keys *keys, const char *fpr)
{
	xkey_keys_get(keys, fpr, TRUE)->told = TRUE;
}

bool xkey_keys_clean(struct xkey_keys *keys)
{
	struct xkey *key;
	bool untold = FALSE;
	unsigned int i;

	for (i = array_count(&keys->keys); i > 0; i--) {
		key = array_idx_modifiable(&keys->keys, i - 1);
		if (key->stored != key->told)
			untold = TRUE;
		else if (!key->stored) {
			xkey_free(key);
			array_delete(&keys->keys, i - 1, 1);
		}
	}
	return untold;
}

/* -- trouble --------------------------------------------------------------- */

static bool xkey_error_is_temporary(enum store_status status)
{
	return status == STORE_BUSY || status == STORE_FAILED;
}

/* Tries again in a while, or ends the command. */
static void
xkey_trouble(struct xkey_keys *keys, const struct store_error *error)
{
	struct client *client = keys->lc->client;
	unsigned int msecs = imap_long_command_get_msecs(client,
		"imap_xkey_retry", XKEY_RETRY_DEFAULT_MSECS);

	if (keys->trouble.tv_sec == 0)
		keys->trouble = ioloop_timeval;
	if (xkey_error_is_temporary(error->status) &&
	    timeval_diff_usecs(&ioloop_timeval, &keys->trouble) / 1000 < msecs) {
		e_debug(client->user->event, "%s: %s - trying again",
			keys->lc->def->name, error->message);
		imap_long_command_set_timer(keys->lc, 0, XKEY_RETRY_MSECS);
		return;
	}
	metasync_user_log(client->user, error);
	imap_long_command_end(keys->lc, t_strconcat("NO ",
		metasync_error_text(client->user, error), NULL));
}

void xkey_timer(struct imap_long_command *lc, unsigned int id ATTR_UNUSED)
{
	imap_long_command_more(lc);
}

/* -- reading --------------------------------------------------------------- */

static void
xkey_keys_update(struct xkey_keys *keys, const struct store_entry *entry,
		 const char *fpr)
{
	struct xkey_parsed parsed;
	struct xkey *key;
	bool stored;

	stored = entry->value != NULL &&
		xkey_parse(entry->value, entry->value_size, FALSE, &parsed) &&
		strcmp(parsed.fpr, fpr) == 0;
	key = xkey_keys_get(keys, fpr, stored);
	if (key == NULL)
		return;
	key->stored = stored;
	i_free(key->pem);
	if (stored && keys->want_pem && !key->told)
		key->pem = i_strdup(parsed.pem);
}

static bool xkey_keys_entry(const struct store_entry *entry, void *context)
{
	struct xkey_keys *keys = context;

	T_BEGIN {
		xkey_keys_update(keys, entry, strrchr(entry->name, '/') + 1);
	} T_END;
	return ++keys->parsed < XKEY_READ_MAX;
}

/* From the beginning: whatever was there may have gone. */
static enum store_status
xkey_keys_restart(struct xkey_keys *keys, struct store_error *error_r)
{
	struct xkey *key;

	if (keys->watch) {
		/* before the first read, so that no change falls between */
		imap_long_command_watch_path(keys->lc,
			store_get_wake_path(keys->store));
	}
	array_foreach_modifiable(&keys->keys, key)
		key->stored = FALSE;
	return store_cursor_snapshot(keys->store, &keys->cursor, error_r);
}

enum xkey_read xkey_keys_read(struct xkey_keys *keys)
{
	struct store_error error;
	struct store_state state;
	enum store_status status;
	bool more = TRUE;

	/* a store that was replaced is opened anew, and has another epoch */
	if (metasync_user_store(keys->lc->client->user, &keys->store,
				&error) < 0) {
		xkey_trouble(keys, &error);
		return XKEY_READ_TROUBLE;
	}
	status = keys->cursor.epoch != 0 ? STORE_OK :
		xkey_keys_restart(keys, &error);
	keys->parsed = 0;
	if (status == STORE_OK) {
		status = store_read(keys->store, &xkey_read_request,
				    &keys->cursor, xkey_keys_entry, keys,
				    &state, &more, &error);
	}
	switch (status) {
	case STORE_OK:
		return more ? XKEY_READ_MORE : XKEY_READ_DONE;
	case STORE_RESET:
		keys->cursor.epoch = 0;
		return XKEY_READ_MORE;
	default:
		xkey_trouble(keys, &error);
		return XKEY_READ_TROUBLE;
	}
}

/* -- adding ---------------------------------------------------------------- */

enum store_status
xkey_keys_add(struct xkey_keys *keys, const struct xkey_parsed *key)
{
	const struct store_condition condition = {
		.type = STORE_IF_FILTER_UNCHANGED_SINCE,
		.pos = { keys->cursor.epoch, keys->cursor.modseq },
		.filter = &xkey_filter
	};
	const struct store_change change = {
		.mailbox = "",
		.name = t_strconcat(XKEY_DIR"/", key->fpr, NULL),
		.value = key->pem, .value_size = strlen(key->pem)
	};
	struct store_error error;
	struct store_pos pos;
	enum store_status status;

	status = metasync_apply(keys->lc->client->user, keys->store, &change,
				1, &condition, TRUE, &pos, NULL, &error);
	if (status != STORE_OK && status != STORE_MODIFIED &&
	    status != STORE_RESET)
		xkey_trouble(keys, &error);
	return status;
}
