/* Iterating over a mailbox's attributes: first those of the store, read at once,
   then those that Dovecot keeps. Dovecot's callers ask for each value by itself,
   so small ones are taken along. */

#include "metasync-private.h"
#include "array.h"

/* Values of this size are taken along, until there is so much of them. */
#define ITER_VALUE_SIZE 512
#define ITER_VALUES_SIZE (1024*1024)

struct metasync_attribute_iter {
	struct mailbox_attribute_iter iter;
	struct mailbox_attribute_iter *super;
	/* muser is NULL if nothing of it is in a store */
	struct metasync_place place;
	pool_t pool;
	const char *prefix;
	enum mail_attribute_type type;

	ARRAY(struct metasync_attribute) found;
	unsigned int next;
	size_t values_size;

	/* NULL: none */
	const char *error_text;
	enum mail_error error;
};

static bool
metasync_iter_found(const struct store_entry *entry, void *context)
{
	struct metasync_attribute_iter *iter = context;
	const char *key = strchr(entry->name + 1, '/') + 1;
	struct metasync_attribute *at;

	if (entry->removed)
		return TRUE;
	if (*entry->mailbox == '\0')
		key = t_strconcat(PVT_SERVER, key, NULL);
	if (!str_begins(key, iter->prefix))
		return TRUE;
	at = array_append_space(&iter->found);
	at->key = p_strdup(iter->pool, key + strlen(iter->prefix));
	at->mailbox = p_strdup(iter->pool, entry->mailbox);
	at->name = p_strdup(iter->pool, entry->name);
	if (entry->value != NULL &&
	    iter->values_size + entry->value_size <= ITER_VALUES_SIZE) {
		iter->values_size += entry->value_size;
		at->value = entry->value_size == 0 ? "" :
			p_memdup(iter->pool, entry->value, entry->value_size);
		at->value_size = entry->value_size;
	}
	return TRUE;
}

static int
metasync_iter_read(struct metasync_attribute_iter *iter, struct store *store,
		   const struct store_filter *filter,
		   struct store_error *error_r)
{
	const struct store_read req = {
		.filter = filter,
		.max_value_size = ITER_VALUE_SIZE
	};
	struct store_cursor cursor;
	struct store_state state;
	enum store_status status;
	bool more = TRUE;

	status = store_cursor_snapshot(store, &cursor, error_r);
	while (status == STORE_OK && more) {
		status = store_read(store, &req, &cursor, metasync_iter_found,
				    iter, &state, &more, error_r);
	}
	return status == STORE_OK ? 0 : -1;
}

/* The storage's error is ours. It is remembered, for Dovecot's iteration and the
   values that are asked for may leave another one. */
static void metasync_iter_failed(struct metasync_attribute_iter *iter)
{
	iter->error_text = p_strdup(iter->pool,
		mail_storage_get_last_error(iter->iter.box->storage,
					    &iter->error));
}

static void metasync_iter_fill(struct metasync_attribute_iter *iter)
{
	struct mailbox *box = iter->iter.box;
	const char *entry = iter->type == MAIL_ATTRIBUTE_TYPE_PRIVATE ?
		"/private" : "/shared";
	struct store_scope scopes[2];
	struct store_selection selection = {
		.scopes = scopes,
		.entries = &entry,
		.entry_count = 1
	};
	const struct store_filter filter = {
		.selections = &selection,
		.selection_count = 1,
		.depth = STORE_DEPTH_INFINITY
	};
	struct metasync_user *muser = iter->place.muser;
	struct store_error error;
	struct store *store;

	i_zero(&scopes);
	if (!str_begins(iter->prefix, PVT)) {
		scopes[selection.scope_count].type = STORE_SCOPE_MAILBOX;
		scopes[selection.scope_count++].mailbox =
			iter->place.mailbox;
	}
	if (box->inbox_user && (str_begins(iter->prefix, PVT_SERVER) ||
				str_begins(PVT_SERVER, iter->prefix)))
		scopes[selection.scope_count++].type = STORE_SCOPE_SERVER;
	if (selection.scope_count == 0)
		return;
	if (metasync_user_store_if_any(muser->user, &store, &error) < 0 ||
	    (store != NULL &&
	     metasync_iter_read(iter, store, &filter, &error) < 0)) {
		metasync_attribute_error(muser, box, &error);
		metasync_iter_failed(iter);
	}
}

struct mailbox_attribute_iter *
metasync_attribute_iter_init(struct mailbox *box,
			     enum mail_attribute_type type_flags,
			     const char *prefix)
{
	const struct mailbox_vfuncs *super = metasync_mailbox_super(box);
	struct metasync_attribute_iter *iter;
	pool_t pool;

	pool = pool_alloconly_create("metasync attribute iter", 1024);
	iter = p_new(pool, struct metasync_attribute_iter, 1);
	iter->iter.box = box;
	iter->pool = pool;
	iter->type = type_flags & MAIL_ATTRIBUTE_TYPE_MASK;
	/* GETMETADATA "" (/private) asks for "server//" */
	iter->prefix = p_strdup(pool, strcmp(prefix, PVT_SERVER"/") == 0 ?
				PVT_SERVER : prefix);
	p_array_init(&iter->found, pool, 16);
	/* Dovecot removes the attributes of a mailbox that it deletes; ours go
	   when it is gone (metasync-mailbox.c), and no failure of the store
	   shall keep it from going */
	if (metasync_attribute_type_is_ours(box, type_flags) &&
	    !box->deleting) T_BEGIN {
		switch (metasync_mailbox_place(box, &iter->place)) {
		case -1:
			metasync_iter_failed(iter);
			break;
		case 1:
			metasync_iter_fill(iter);
			break;
		}
	} T_END;
	iter->super = super->attribute_iter_init(box, type_flags, prefix);
	return &iter->iter;
}

static struct metasync_attribute *
metasync_iter_own(struct metasync_attribute_iter *iter)
{
	if (iter->next == array_count(&iter->found))
		return NULL;
	return array_idx_modifiable(&iter->found, iter->next++);
}

/* What is not ours; not what a dictionary still has from before. */
static const char *metasync_iter_stock(struct metasync_attribute_iter *iter)
{
	struct mailbox *box = iter->iter.box;
	struct metasync_place place;
	const char *key, *name;

	do {
		key = metasync_mailbox_super(box)->
			attribute_iter_next(iter->super);
	} while (key != NULL &&
		 metasync_attribute_find(box, iter->type,
			t_strconcat(iter->prefix, key, NULL), &place,
			&name) != 0);
	return key;
}

const char *metasync_attribute_iter_next(struct mailbox_attribute_iter *_iter)
{
	struct metasync_attribute_iter *iter =
		container_of(_iter, struct metasync_attribute_iter, iter);
	struct metasync_attribute *at;

	if (iter->place.muser == NULL)
		return metasync_iter_stock(iter);
	at = metasync_iter_own(iter);
	iter->place.muser->iterated = at;
	return at != NULL ? at->key : metasync_iter_stock(iter);
}

int metasync_attribute_iter_deinit(struct mailbox_attribute_iter *_iter)
{
	struct metasync_attribute_iter *iter =
		container_of(_iter, struct metasync_attribute_iter, iter);
	struct mailbox *box = iter->iter.box;
	int ret;

	if (iter->place.muser != NULL)
		iter->place.muser->iterated = NULL;
	ret = metasync_mailbox_super(box)->attribute_iter_deinit(iter->super);
	if (iter->error_text != NULL) {
		/* cmd-getmetadata.c:293 does not survive NOTPOSSIBLE, which is
		   what Dovecot's iteration leaves without a dictionary */
		mail_storage_set_error(box->storage, iter->error,
				       iter->error_text);
		ret = -1;
	}
	pool_unref(&iter->pool);
	return ret;
}
