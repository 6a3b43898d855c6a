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
   names in the mailbox's log, which is how dsync learns of changes.

   Of a mailbox that another user shares, the attributes of type shared are in
   that user's store (metasync-owner.c). Those of type private stay with Dovecot:
   they are the accessing user's, whose store knows no lasting name for a mailbox
   that others rename, delete and take back. */

#include "metasync-private.h"
#include "array.h"
#include "buffer.h"
#include "ioloop.h"
#include "istream.h"

struct metasync_transaction {
	union mailbox_transaction_module_context module_ctx;
	pool_t pool;
	struct metasync_place place;
	/* of the mailbox; NULL until it is needed */
	const uint8_t *guid;
	ARRAY(struct store_change) changes;
};

#define METASYNC_TRANSACTION(obj) \
	MODULE_CONTEXT(obj, metasync_storage_module)

/* -- names ----------------------------------------------------------------- */

bool metasync_attribute_entry(bool pvt, const char *key, bool *server_r,
			      const char **name_r)
{
	*server_r = str_begins(key, PVT_SERVER);
	if (*server_r) {
		key += strlen(PVT_SERVER);
		/* GETMETADATA "" (/private) asks for "server//" */
		if (*key == '/')
			key++;
	}
	if (str_begins(key, PVT))
		return FALSE;
	*name_r = t_strconcat(pvt ? "/private/" : "/shared/", key, NULL);
	return TRUE;
}

bool metasync_attribute_type_is_ours(struct mailbox *box,
				     enum mail_attribute_type type_flags)
{
	if ((type_flags & MAIL_ATTRIBUTE_TYPE_FLAG_VALIDATED) != 0) {
		/* imap_metadata = no */
		return FALSE;
	}
	return (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) ==
		MAIL_ATTRIBUTE_TYPE_SHARED ||
		metasync_namespace_is_own(mailbox_get_namespace(box));
}

int metasync_attribute_find(struct mailbox *box,
			    enum mail_attribute_type type_flags,
			    const char *key, struct metasync_place *place_r,
			    const char **name_r)
{
	bool pvt = (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) ==
		MAIL_ATTRIBUTE_TYPE_PRIVATE;
	bool server;
	int ret;

	if (!metasync_attribute_type_is_ours(box, type_flags) ||
	    !metasync_attribute_entry(pvt, key, &server, name_r) ||
	    (server && !box->inbox_user))
		return 0;
	ret = metasync_mailbox_place(box, place_r);
	if (ret > 0 && server)
		place_r->mailbox = "";
	return ret;
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

void metasync_attribute_error(struct metasync_user *muser, struct mailbox *box,
			      const struct store_error *error)
{
	mail_storage_set_error(box->storage, metasync_mail_error(error->status),
			       metasync_error_text(muser->user, error));
	metasync_user_log(muser->user, error);
}

/* -- setting --------------------------------------------------------------- */

static struct metasync_transaction *
metasync_transaction_get(struct mailbox_transaction_context *t,
			 const struct metasync_place *place)
{
	struct metasync_transaction *mt = METASYNC_TRANSACTION(t);
	pool_t pool;

	if (mt != NULL)
		return mt;
	pool = pool_alloconly_create("metasync transaction", 1024);
	mt = p_new(pool, struct metasync_transaction, 1);
	mt->pool = pool;
	mt->place = *place;
	p_array_init(&mt->changes, pool, 8);
	MODULE_CONTEXT_SET(t, metasync_storage_module, mt);
	return mt;
}

static int
metasync_transaction_get_guid(struct mailbox_transaction_context *t,
			      struct metasync_transaction *mt)
{
	struct mailbox_metadata metadata;

	if (mt->guid != NULL)
		return 0;
	if (metasync_namespace_is_own(mailbox_get_namespace(t->box)) ?
	    mailbox_get_metadata(t->box, MAILBOX_METADATA_GUID, &metadata) < 0 :
	    metasync_owner_guid(t->box, &mt->place, metadata.guid) < 0)
		return -1;
	mt->guid = p_memdup(mt->pool, metadata.guid, sizeof(metadata.guid));
	return 0;
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

/* In lower case, as the store wants it (data stack); NULL if it is not valid. */
static const char *
metasync_attribute_normalize(struct metasync_user *muser, struct mailbox *box,
			     const char *name)
{
	size_t size = strlen(name);
	char *lower = t_malloc_no0(size + 1);
	struct store_error error;

	error.status = STORE_OK;
	switch (store_name_normalize(name, size, muser->set.limits.name, FALSE,
				     lower)) {
	case STORE_NAME_OK:
		return lower;
	case STORE_NAME_INVALID:
		error.status = STORE_INVALID;
		break;
	case STORE_NAME_TOO_LONG:
		error.status = STORE_LIMIT;
		break;
	}
	metasync_attribute_error(muser, box, &error);
	return NULL;
}

/* For dsync. What is set in others' mailboxes is noted when it has been written,
   since their log may not be this mailbox's. */
static void
metasync_attribute_note(struct mailbox_transaction_context *t,
			enum mail_attribute_type type_flags, const char *key,
			const struct mail_attribute_value *value,
			const struct store_change *change)
{
	bool pvt = (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) ==
		MAIL_ATTRIBUTE_TYPE_PRIVATE;
	time_t ts = value->last_change != 0 ? value->last_change : ioloop_time;

	if (!metasync_namespace_is_own(mailbox_get_namespace(t->box)))
		return;
	if (change->value != NULL) {
		mail_index_attribute_set(t->itrans, pvt, key, ts,
					 change->value_size);
	} else {
		mail_index_attribute_unset(t->itrans, pvt, key, ts);
	}
}

static int
metasync_attribute_set_real(struct mailbox_transaction_context *t,
			    enum mail_attribute_type type_flags,
			    const char *key,
			    const struct metasync_place *place,
			    const char *name,
			    const struct mail_attribute_value *value)
{
	struct metasync_transaction *mt;
	struct store_change *change;

	name = metasync_attribute_normalize(place->muser, t->box, name);
	if (name == NULL)
		return -1;
	mt = metasync_transaction_get(t, place);
	if (*place->mailbox != '\0' &&
	    metasync_transaction_get_guid(t, mt) < 0)
		return -1;
	change = metasync_transaction_change(mt, place->mailbox, name);
	if (*place->mailbox != '\0')
		change->mailbox_guid = mt->guid;
	if (metasync_read_value(place->muser, t->box, mt, value, change) < 0)
		return -1;
	metasync_attribute_note(t, type_flags, key, value, change);
	return 0;
}

int metasync_attribute_set(struct mailbox_transaction_context *t,
			   enum mail_attribute_type type_flags,
			   const char *key,
			   const struct mail_attribute_value *value)
{
	struct metasync_place place;
	const char *name;
	int ret;

	T_BEGIN {
		ret = metasync_attribute_find(t->box, type_flags, key, &place,
					      &name);
		if (ret == 0) {
			ret = metasync_mailbox_super(t->box)->
				attribute_set(t, type_flags, key, value);
		} else if (ret > 0) {
			ret = metasync_attribute_set_real(t, type_flags, key,
							  &place, name, value);
		}
	} T_END;
	return ret;
}

/* Is it still the mailbox whose entries the store has? */
static void metasync_transaction_check(const struct metasync_transaction *mt)
{
	const struct metasync_place *place = &mt->place;
	const struct store_change *change;

	array_foreach(&mt->changes, change) {
		if (change->mailbox_guid != NULL) {
			metasync_mailbox_check(place->muser, change->mailbox,
					       mail_namespace_get_sep(place->ns),
					       change->mailbox_guid);
			break;
		}
	}
}

/* One change set; what dsync brings may need several. */
static int
metasync_transaction_apply(struct mailbox_transaction_context *t,
			   struct metasync_transaction *mt)
{
	static const struct store_condition always = { .type = STORE_UNCONDITIONAL };
	bool own = metasync_namespace_is_own(mailbox_get_namespace(t->box));
	struct metasync_user *muser = mt->place.muser;
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
	metasync_transaction_check(mt);
	for (done = 0; done < count; done += size) {
		if (metasync_apply(muser->user, store, changes + done,
				   I_MIN(size, count - done), &always,
				   !own, &pos, NULL, &error) != STORE_OK) {
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
	const struct mailbox_vfuncs *super = metasync_mailbox_super(t->box);
	struct metasync_transaction *mt = METASYNC_TRANSACTION(t);
	int ret;

	if (mt == NULL)
		return super->transaction_commit(t, changes_r);
	ret = metasync_transaction_apply(t, mt);
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
metasync_attribute_get_real(struct mailbox *box,
			    const struct metasync_place *place,
			    const char *name,
			    struct mail_attribute_value *value_r)
{
	struct metasync_user *muser = place->muser;
	const struct metasync_attribute *at = muser->iterated;
	const struct store_key key = { place->mailbox, name };
	struct store_error error;
	struct store_pos pos;
	struct store *store;

	if (at != NULL && at->value != NULL && strcmp(at->name, name) == 0 &&
	    strcmp(at->mailbox, place->mailbox) == 0) {
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
	struct metasync_place place;
	const char *name;
	int ret;

	ret = metasync_attribute_find(box, type_flags, key, &place, &name);
	if (ret < 0)
		return -1;
	if (ret == 0) {
		return metasync_mailbox_super(box)->
			attribute_get(box, type_flags, key, value_r);
	}
	return metasync_attribute_get_real(box, &place, name, value_r);
}
