/* Stock METADATA on the store: Dovecot's mailbox attributes, which GETMETADATA,
   SETMETADATA, doveadm mailbox metadata and dsync use.

   Dovecot calls the entry /private/x of a mailbox the attribute x of type
   private, and that of the server the attribute
   vendor/vendor.dovecot/pvt/server/x of INBOX. What else is below
   vendor/vendor.dovecot/pvt/ is internal (keys of mail_crypt, Sieve scripts for
   imapsieve ...) and stays where it is.

   What a transaction sets is collected and becomes one change set when the
   transaction is committed, before the mailbox's own changes: a store that
   refuses makes the transaction fail. mail_index_attribute_set() notes the
   names in the mailbox's log, which is how dsync learns of changes. */

#include "metasync-private.h"
#include "array.h"
#include "buffer.h"
#include "ioloop.h"
#include "istream.h"
#include "str.h"

#define PVT MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT
#define PVT_SERVER MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER

/* Iterating takes along values of this size, until it has so much of them. */
#define ITER_VALUE_SIZE 512
#define ITER_VALUES_SIZE (1024*1024)

struct metasync_transaction {
	union mailbox_transaction_module_context module_ctx;
	pool_t pool;
	ARRAY(struct store_change) changes;
};

/* An entry of the store and the attribute's key below the prefix. */
struct metasync_attribute {
	const char *key, *mailbox, *name;
	/* NULL: not taken along */
	const void *value;
	size_t value_size;
};

struct metasync_attribute_iter {
	struct mailbox_attribute_iter iter;
	struct mailbox_attribute_iter *super;
	struct metasync_user *muser;
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

#define METASYNC_TRANSACTION(obj) \
	MODULE_CONTEXT(obj, metasync_storage_module)

/* -- names ----------------------------------------------------------------- */

static const char *metasync_type_prefix(enum mail_attribute_type type_flags)
{
	return (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) ==
		MAIL_ATTRIBUTE_TYPE_PRIVATE ? "/private/" : "/shared/";
}

/* Returns TRUE if the attribute is an entry of the store: of *mailbox_r ("" is
   the server), *name_r. A key that ends with '/', or is empty, gives a name that
   does, too. */
static bool
metasync_attribute_find(struct mailbox *box, enum mail_attribute_type type_flags,
			const char *key, const char **mailbox_r,
			const char **name_r)
{
	char separator;

	if ((type_flags & MAIL_ATTRIBUTE_TYPE_FLAG_VALIDATED) != 0) {
		/* imap_metadata = no */
		return FALSE;
	}
	if (str_begins(key, PVT_SERVER)) {
		key += strlen(PVT_SERVER);
		/* GETMETADATA "" (/private) asks for "server//" */
		if (*key == '/')
			key++;
		if (!box->inbox_user || str_begins(key, PVT))
			return FALSE;
		*mailbox_r = "";
	} else if (str_begins(key, PVT)) {
		return FALSE;
	} else {
		*mailbox_r = metasync_mailbox_name(box, &separator);
	}
	*name_r = t_strconcat(metasync_type_prefix(type_flags), key, NULL);
	return TRUE;
}

bool metasync_entry_is_reserved(const char *mailbox, const char *name)
{
	const char *key = strchr(name + 1, '/') + 1;

	if (*mailbox == '\0' ? (strcmp(name, "/shared/comment") == 0 ||
				strcmp(name, "/shared/admin") == 0) :
	    strcmp(name, "/private/specialuse") == 0)
		return TRUE;
	/* with "/" at its end */
	return str_begins(key, PVT) ||
		strcmp(t_strconcat(key, "/", NULL), PVT) == 0;
}

/* -- errors ---------------------------------------------------------------- */

static enum mail_error metasync_mail_error(enum store_status status)
{
	switch (status) {
	case STORE_VALUE_TOO_BIG:
	case STORE_TOO_MANY:
	case STORE_LIMIT:
		return MAIL_ERROR_LIMIT;
	case STORE_OVER_BYTES:
		return MAIL_ERROR_NOQUOTA;
	case STORE_INVALID:
		return MAIL_ERROR_PARAMS;
	case STORE_CORRUPT:
		return MAIL_ERROR_TEMP;
	default:
		return MAIL_ERROR_UNAVAILABLE;
	}
}

static void
metasync_attribute_error(struct metasync_user *muser, struct mailbox *box,
			 const struct store_error *error)
{
	mail_storage_set_error(box->storage, metasync_mail_error(error->status),
			       metasync_error_text(muser->user, error));
	metasync_user_log(muser->user, error);
}

/* -- setting --------------------------------------------------------------- */

static struct metasync_transaction *
metasync_transaction_get(struct mailbox_transaction_context *t)
{
	struct metasync_transaction *mt = METASYNC_TRANSACTION(t);
	pool_t pool;

	if (mt != NULL)
		return mt;
	pool = pool_alloconly_create("metasync transaction", 1024);
	mt = p_new(pool, struct metasync_transaction, 1);
	mt->pool = pool;
	p_array_init(&mt->changes, pool, 8);
	MODULE_CONTEXT_SET(t, metasync_storage_module, mt);
	return mt;
}

static struct store_change *
metasync_transaction_change(struct metasync_transaction *mt,
			    const char *mailbox, const char *name)
{
	struct store_change *change;

	array_foreach_modifiable(&mt->changes, change) {
		if (strcmp(change->mailbox, mailbox) == 0 &&
		    strcmp(change->name, name) == 0)
			return change;
	}
	change = array_append_space(&mt->changes);
	change->mailbox = p_strdup(mt->pool, mailbox);
	change->name = p_strdup(mt->pool, name);
	return change;
}

/* Reads no more than the limit and one octet: the store then says what is
   wrong. */
static int
metasync_read_value(struct metasync_user *muser, struct mailbox *box,
		    struct metasync_transaction *mt,
		    const struct mail_attribute_value *value,
		    struct store_change *change)
{
	struct istream *input = value->value_stream;
	const unsigned char *data;
	size_t size;
	buffer_t *buf;

	if (input == NULL) {
		change->value = p_strdup(mt->pool, value->value);
		change->value_size = value->value == NULL ? 0 :
			strlen(value->value);
		return 0;
	}
	buf = buffer_create_dynamic(mt->pool, 1024);
	i_stream_seek(input, 0);
	while (buf->used <= muser->set.limits.value &&
	       i_stream_read_more(input, &data, &size) > 0) {
		buffer_append(buf, data, size);
		i_stream_skip(input, size);
	}
	if (input->stream_errno != 0) {
		mailbox_set_critical(box, "read(%s) failed: %s",
				     i_stream_get_name(input),
				     i_stream_get_error(input));
		return -1;
	}
	/* an empty buffer may have no data */
	change->value = buf->used == 0 ? "" : buf->data;
	change->value_size = buf->used;
	return 0;
}

static int
metasync_attribute_set_real(struct metasync_user *muser,
			    struct mailbox_transaction_context *t,
			    enum mail_attribute_type type_flags,
			    const char *key, const char *mailbox,
			    const char *name,
			    const struct mail_attribute_value *value)
{
	bool pvt = (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) ==
		MAIL_ATTRIBUTE_TYPE_PRIVATE;
	time_t ts = value->last_change != 0 ? value->last_change : ioloop_time;
	struct metasync_transaction *mt;
	struct mailbox_metadata metadata;
	struct store_change *change;
	struct store_error error;
	size_t size = strlen(name);
	char *lower = t_malloc_no0(size + 1);

	error.status = STORE_OK;
	switch (store_name_normalize(name, size, muser->set.limits.name, FALSE,
				     lower)) {
	case STORE_NAME_OK:
		break;
	case STORE_NAME_INVALID:
		error.status = STORE_INVALID;
		break;
	case STORE_NAME_TOO_LONG:
		error.status = STORE_LIMIT;
		break;
	}
	if (error.status != STORE_OK) {
		metasync_attribute_error(muser, t->box, &error);
		return -1;
	}
	if (*mailbox != '\0' &&
	    mailbox_get_metadata(t->box, MAILBOX_METADATA_GUID, &metadata) < 0)
		return -1;

	mt = metasync_transaction_get(t);
	change = metasync_transaction_change(mt, mailbox, lower);
	if (*mailbox != '\0') {
		change->mailbox_guid = p_memdup(mt->pool, metadata.guid,
						sizeof(metadata.guid));
	}
	if (metasync_read_value(muser, t->box, mt, value, change) < 0)
		return -1;
	if (change->value != NULL) {
		mail_index_attribute_set(t->itrans, pvt, key, ts,
					 change->value_size);
	} else {
		mail_index_attribute_unset(t->itrans, pvt, key, ts);
	}
	return 0;
}

int metasync_attribute_set(struct mailbox_transaction_context *t,
			   enum mail_attribute_type type_flags,
			   const char *key,
			   const struct mail_attribute_value *value)
{
	struct metasync_user *muser = metasync_user_get(t->box->storage->user);
	const char *mailbox, *name;
	int ret;

	T_BEGIN {
		if (!metasync_attribute_find(t->box, type_flags, key,
					     &mailbox, &name)) {
			ret = metasync_mailbox_super(t->box)->
				attribute_set(t, type_flags, key, value);
		} else {
			ret = metasync_attribute_set_real(muser, t, type_flags,
							  key, mailbox, name,
							  value);
		}
	} T_END;
	return ret;
}

/* One change set; what dsync brings may need several. */
static int
metasync_transaction_apply(struct metasync_user *muser,
			   struct mailbox_transaction_context *t,
			   struct metasync_transaction *mt)
{
	static const struct store_condition always = { STORE_UNCONDITIONAL,
						       { 0, 0 } };
	const struct store_change *changes;
	unsigned int count, size, done;
	struct store_error error;
	struct store_pos pos;
	struct store *store;

	changes = array_get(&mt->changes, &count);
	size = (t->flags & MAILBOX_TRANSACTION_FLAG_SYNC) == 0 ? count :
		I_MIN(count, muser->set.limits.set);
	if (metasync_user_store(muser->user, &store, &error) < 0) {
		metasync_attribute_error(muser, t->box, &error);
		return -1;
	}
	for (done = 0; done < count; done += size) {
		if (metasync_apply(muser->user, store, changes + done,
				   I_MIN(size, count - done), &always, FALSE,
				   &pos, NULL, &error) != STORE_OK) {
			metasync_attribute_error(muser, t->box, &error);
			return -1;
		}
	}
	metasync_user_upkeep(muser->user);
	return 0;
}

int metasync_transaction_commit(struct mailbox_transaction_context *t,
				struct mail_transaction_commit_changes *changes_r)
{
	struct metasync_user *muser = metasync_user_get(t->box->storage->user);
	const struct mailbox_vfuncs *super = metasync_mailbox_super(t->box);
	struct metasync_transaction *mt = METASYNC_TRANSACTION(t);
	int ret;

	if (mt == NULL)
		return super->transaction_commit(t, changes_r);
	ret = metasync_transaction_apply(muser, t, mt);
	pool_unref(&mt->pool);
	if (ret < 0) {
		super->transaction_rollback(t);
		return -1;
	}
	return super->transaction_commit(t, changes_r);
}

void metasync_transaction_rollback(struct mailbox_transaction_context *t)
{
	struct metasync_transaction *mt = METASYNC_TRANSACTION(t);

	if (mt != NULL)
		pool_unref(&mt->pool);
	metasync_mailbox_super(t->box)->transaction_rollback(t);
}

/* -- getting --------------------------------------------------------------- */

/* Dovecot's callers free streams, and leave values to the data stack. */
static void
metasync_value_return(const void *value, size_t size,
		      struct mail_attribute_value *value_r)
{
	if (memchr(value, '\0', size) == NULL)
		value_r->value = t_strndup(value, size);
	else
		value_r->value_stream = i_stream_create_copy_from_data(value,
								       size);
}

static bool
metasync_attribute_got(const struct store_entry *entry, void *context)
{
	struct mail_attribute_value *value_r = context;

	if (!entry->removed) {
		metasync_value_return(entry->value, entry->value_size,
				      value_r);
	}
	return TRUE;
}

static int
metasync_attribute_get_real(struct metasync_user *muser, struct mailbox *box,
			    const char *mailbox, const char *name,
			    struct mail_attribute_value *value_r)
{
	const struct metasync_attribute *at = muser->iterated;
	const struct store_key key = { mailbox, name };
	struct store_error error;
	struct store_pos pos;
	struct store *store;

	if (at != NULL && at->value != NULL && strcmp(at->name, name) == 0 &&
	    strcmp(at->mailbox, mailbox) == 0) {
		metasync_value_return(at->value, at->value_size, value_r);
	} else if (metasync_user_store_if_any(muser->user, &store, &error) < 0 ||
		   (store != NULL &&
		    store_get(store, &key, 1, metasync_attribute_got, value_r,
			      &pos, &error) != STORE_OK)) {
		metasync_attribute_error(muser, box, &error);
		return -1;
	}
	if (value_r->value_stream != NULL &&
	    (value_r->flags & MAIL_ATTRIBUTE_VALUE_FLAG_INT_STREAMS) == 0) {
		i_stream_unref(&value_r->value_stream);
		mail_storage_set_error(box->storage, MAIL_ERROR_PARAMS,
				       "Attribute string value has NULs");
		return -1;
	}
	return value_r->value != NULL || value_r->value_stream != NULL ? 1 : 0;
}

int metasync_attribute_get(struct mailbox *box,
			   enum mail_attribute_type type_flags,
			   const char *key, struct mail_attribute_value *value_r)
{
	struct metasync_user *muser = metasync_user_get(box->storage->user);
	const char *mailbox, *name;

	if (!metasync_attribute_find(box, type_flags, key, &mailbox, &name)) {
		return metasync_mailbox_super(box)->
			attribute_get(box, type_flags, key, value_r);
	}
	return metasync_attribute_get_real(muser, box, mailbox, name, value_r);
}

/* -- iterating ------------------------------------------------------------- */

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
	struct store_error error;
	struct store *store;
	char separator;

	i_zero(&scopes);
	if (!str_begins(iter->prefix, PVT)) {
		scopes[selection.scope_count].type = STORE_SCOPE_MAILBOX;
		scopes[selection.scope_count++].mailbox =
			metasync_mailbox_name(box, &separator);
	}
	if (box->inbox_user && (str_begins(iter->prefix, PVT_SERVER) ||
				str_begins(PVT_SERVER, iter->prefix)))
		scopes[selection.scope_count++].type = STORE_SCOPE_SERVER;
	if (selection.scope_count == 0)
		return;
	if (metasync_user_store_if_any(iter->muser->user, &store, &error) < 0 ||
	    (store != NULL &&
	     metasync_iter_read(iter, store, &filter, &error) < 0)) {
		metasync_attribute_error(iter->muser, box, &error);
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
	iter->muser = metasync_user_get(box->storage->user);
	iter->pool = pool;
	iter->type = type_flags & MAIL_ATTRIBUTE_TYPE_MASK;
	/* GETMETADATA "" (/private) asks for "server//" */
	iter->prefix = p_strdup(pool, strcmp(prefix, PVT_SERVER"/") == 0 ?
				PVT_SERVER : prefix);
	p_array_init(&iter->found, pool, 16);
	/* Dovecot removes the attributes of a mailbox that it deletes; ours go
	   when it is gone (metasync-mailbox.c), and no failure of the store
	   shall keep it from going */
	if ((type_flags & MAIL_ATTRIBUTE_TYPE_FLAG_VALIDATED) == 0 &&
	    !box->deleting) T_BEGIN {
		metasync_iter_fill(iter);
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

const char *metasync_attribute_iter_next(struct mailbox_attribute_iter *_iter)
{
	struct metasync_attribute_iter *iter =
		container_of(_iter, struct metasync_attribute_iter, iter);
	struct mailbox *box = iter->iter.box;
	const char *key, *mailbox, *name;

	iter->muser->iterated = metasync_iter_own(iter);
	if (iter->muser->iterated != NULL)
		return iter->muser->iterated->key;
	/* what is not ours; not what a dictionary still has from before */
	do {
		key = metasync_mailbox_super(box)->
			attribute_iter_next(iter->super);
	} while (key != NULL &&
		 metasync_attribute_find(box, iter->type,
			t_strconcat(iter->prefix, key, NULL), &mailbox, &name));
	return key;
}

int metasync_attribute_iter_deinit(struct mailbox_attribute_iter *_iter)
{
	struct metasync_attribute_iter *iter =
		container_of(_iter, struct metasync_attribute_iter, iter);
	struct mailbox *box = iter->iter.box;
	int ret;

	iter->muser->iterated = NULL;
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
