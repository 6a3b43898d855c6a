/* The life of mailboxes: what is renamed or deleted in this process is followed
   in the store at once; and the lookup of mailboxes that commands name. A
   failure of the store never fails what is done to the mailbox: it is logged,
   and healing (metasync-heal.c) mends it later. */

#include "metasync-private.h"
#include "unichar.h"
#include "compat-user.h"
#include "mailbox-list-private.h"

struct metasync_box {
	union mailbox_module_context module_ctx;
	/* all NULL until it is asked for */
	struct metasync_place place;
};

#define METASYNC_CONTEXT(obj) \
	MODULE_CONTEXT_REQUIRE(obj, metasync_storage_module)

struct metasync_storage_module metasync_storage_module =
	MODULE_CONTEXT_INIT(&mail_storage_module_register);

const struct mailbox_vfuncs *metasync_mailbox_super(struct mailbox *box)
{
	struct metasync_box *mbox = METASYNC_CONTEXT(box);

	return &mbox->module_ctx.super;
}

bool metasync_namespace_is_own(const struct mail_namespace *ns)
{
	return ns->type == MAIL_NAMESPACE_TYPE_PRIVATE &&
		ns->owner == ns->user;
}

/* -- what the store knows -------------------------------------------------- */

struct metasync_search {
	const char *vname;
	char separator;
	/* NULL: not of interest */
	const uint8_t *guid;

	/* there are entries of this mailbox or below it */
	bool found_below;
	/* this name is known with another GUID, or the other way round */
	bool differs;
};

static bool
metasync_search_known(const char *name, const uint8_t *guid, void *context)
{
	struct metasync_search *search = context;
	size_t size = strlen(search->vname);
	bool same_name, same_guid;

	same_name = strcmp(name, search->vname) == 0;
	if (same_name ||
	    (strncmp(name, search->vname, size) == 0 &&
	     name[size] == search->separator))
		search->found_below = TRUE;
	if (guid != NULL && search->guid != NULL) {
		same_guid = guid_128_equals(guid, search->guid);
		if (same_name != same_guid)
			search->differs = TRUE;
	} else if (same_name && search->guid == NULL) {
		search->differs = TRUE;
	}
	return TRUE;
}

static int
metasync_search(struct store *store, const char *vname, char separator,
		const uint8_t *guid, struct metasync_search *search_r,
		struct store_error *error_r)
{
	i_zero(search_r);
	search_r->vname = vname;
	search_r->separator = separator;
	search_r->guid = guid;
	return store_list_mailboxes(store, metasync_search_known, search_r,
				    error_r) == STORE_OK ? 0 : -1;
}

/* -- where the entries are -------------------------------------------------- */

/* Dovecot's commands don't resolve aliases. */
static void
metasync_mailbox_own_place(struct mailbox *box, struct metasync_place *place_r)
{
	struct mail_namespace *ns = mailbox_get_namespace(box);

	if (ns->alias_for != NULL)
		ns = ns->alias_for;
	place_r->muser = metasync_user_get(box->storage->user);
	place_r->ns = ns;
	place_r->mailbox = mailbox_list_get_vname(ns->list,
						  mailbox_get_name(box));
}

int metasync_mailbox_place(struct mailbox *box, struct metasync_place *place_r)
{
	struct metasync_box *mbox = METASYNC_CONTEXT(box);
	int ret = 1;

	if (mbox->place.mailbox == NULL) {
		if (metasync_namespace_is_own(box->list->ns))
			metasync_mailbox_own_place(box, place_r);
		else
			ret = metasync_owner_place(box, place_r);
		if (ret <= 0)
			return ret;
		mbox->place = *place_r;
		mbox->place.mailbox = p_strdup(box->pool, place_r->mailbox);
	}
	*place_r = mbox->place;
	return 1;
}

/* -- renaming and deleting ------------------------------------------------- */

/* While the mails are away these are not the mailboxes whose entries the store has:
   nothing is followed then. */

/* Not followed, or not wholly: the next use of the store compares again. */
static void
metasync_mailbox_failed(struct metasync_user *muser,
			const struct store_error *error)
{
	metasync_user_log(muser->user, error);
	muser->mailboxes_healed = FALSE;
}

/* Dovecot has renamed src to dest. What about those below?
   - Usually they have gone along: one change set for all.
   - Maildir++ leaves a child where it is if there is one of that name below the
     new parent. What is known there must not be overwritten.
   - INBOX: RFC 3501 moves its messages and leaves it and those below it. In
     2.3 Maildir++ refuses; dbox renames the directory, so that the mailbox gets
     the new name with its GUID and all below it, and an empty INBOX is created
     afterwards. The entries belong to the mailbox and go with it.
   - Another namespace may have another separator.
   In the last three cases the mailbox is moved alone, and GUIDs tell where the
   others are. */
static void
metasync_mailbox_renamed(const struct metasync_place *src,
			 const struct metasync_place *dest)
{
	struct metasync_user *muser = src->muser;
	char src_sep = mail_namespace_get_sep(src->ns);
	char dest_sep = mail_namespace_get_sep(dest->ns);
	struct metasync_search search;
	struct store_error error;
	struct store_pos pos;
	struct store *store;
	bool all;

	if (metasync_user_existing_store(muser, &store, &error) < 0 ||
	    (store != NULL &&
	     metasync_search(store, dest->mailbox, dest_sep, NULL,
			     &search, &error) < 0)) {
		metasync_mailbox_failed(muser, &error);
		return;
	}
	if (store == NULL)
		return;
	all = !search.found_below && src_sep == dest_sep &&
		strcmp(src->mailbox, "INBOX") != 0;
	if (store_rename_mailbox(store, src->mailbox, dest->mailbox,
				 all ? src_sep : '\0', &pos,
				 &error) != STORE_OK) {
		metasync_mailbox_failed(muser, &error);
		return;
	}
	if (!all)
		muser->mailboxes_healed = metasync_mailboxes_heal(muser);
	hash_table_clear(muser->checked_mailboxes, FALSE);
	/* at once: doveadm may not get back to its I/O loop */
	store_idle(store);
}

static void metasync_mailbox_deleted(const struct metasync_place *place)
{
	struct store_error error;
	struct store_pos pos;
	struct store *store;

	if (metasync_user_existing_store(place->muser, &store, &error) < 0 ||
	    (store != NULL &&
	     store_delete_mailbox(store, place->mailbox, NULL, &pos,
				  &error) != STORE_OK) ||
	    /* the next INBOX is the witness then */
	    (store != NULL && strcmp(place->mailbox, "INBOX") == 0 &&
	     store_set_witness(store, NULL, NULL, 0, &error) != STORE_OK))
		metasync_mailbox_failed(place->muser, &error);
	else if (store != NULL)
		store_idle(store);
}

static int metasync_mailbox_rename(struct mailbox *src, struct mailbox *dest)
{
	const struct mailbox_vfuncs *super = metasync_mailbox_super(src);
	struct metasync_place src_place, dest_place;
	/* another user's is found only while it is there */
	bool found = metasync_mailbox_place(src, &src_place) > 0 &&
		!metasync_mailboxes_look(src_place.muser);

	if (super->rename_box(src, dest) < 0) {
		/* Maildir++ fails in the middle of the children */
		if (found)
			src_place.muser->mailboxes_healed = FALSE;
		return -1;
	}
	if (found) T_BEGIN {
		if (metasync_mailbox_place(dest, &dest_place) > 0)
			metasync_mailbox_renamed(&src_place, &dest_place);
		else
			src_place.muser->mailboxes_healed = FALSE;
	} T_END;
	return 0;
}

static int metasync_mailbox_delete(struct mailbox *box)
{
	const struct mailbox_vfuncs *super = metasync_mailbox_super(box);
	struct metasync_place place;
	bool found = metasync_mailbox_place(box, &place) > 0 &&
		!metasync_mailboxes_look(place.muser);

	if (super->delete_box(box) < 0)
		return -1;
	if (found) T_BEGIN {
		metasync_mailbox_deleted(&place);
	} T_END;
	return 0;
}

void metasync_mailbox_allocated(struct mailbox *box)
{
	struct mailbox_vfuncs *v = box->vlast;
	struct metasync_box *mbox;

	/* Dovecot renames between namespaces only if both are private */
	if (metasync_namespace_is_own(box->list->ns) ?
	    metasync_user_get(box->storage->user) == NULL :
	    !metasync_owner_has(box))
		return;
	mbox = p_new(box->pool, struct metasync_box, 1);
	mbox->module_ctx.super = *v;
	box->vlast = &mbox->module_ctx.super;
	v->rename_box = metasync_mailbox_rename;
	v->delete_box = metasync_mailbox_delete;
	v->attribute_set = metasync_attribute_set;
	v->attribute_get = metasync_attribute_get;
	v->attribute_iter_init = metasync_attribute_iter_init;
	v->attribute_iter_next = metasync_attribute_iter_next;
	v->attribute_iter_deinit = metasync_attribute_iter_deinit;
	v->transaction_commit = metasync_transaction_commit;
	v->transaction_rollback = metasync_transaction_rollback;
	MODULE_CONTEXT_SET(box, metasync_storage_module, mbox);
}

/* -- looking up ------------------------------------------------------------ */

void metasync_mailbox_check(struct metasync_user *muser, const char *vname,
			    char separator, const uint8_t *guid)
{
	uint8_t *checked = hash_table_lookup(muser->checked_mailboxes, vname);
	struct metasync_search search;
	struct store_error error;

	if (muser->store == NULL ||
	    (guid != NULL && checked != NULL && guid_128_equals(checked, guid)))
		return;
	if (metasync_search(muser->store, vname, separator, guid,
			    &search, &error) < 0) {
		metasync_mailbox_failed(muser, &error);
		return;
	}
	if (search.differs && !metasync_mailboxes_are_held(muser)) {
		muser->mailboxes_healed = metasync_mailboxes_heal(muser);
		checked = NULL;
	}
	if (guid == NULL)
		return;
	if (checked == NULL) {
		checked = p_malloc(muser->user->pool, GUID_128_SIZE);
		hash_table_insert(muser->checked_mailboxes,
				  p_strdup(muser->user->pool, vname), checked);
	}
	guid_128_copy(checked, guid);
}

static enum metasync_mailbox
metasync_mailbox_look(struct metasync_user *muser, struct mailbox *box,
		      char separator, uint8_t guid_r[GUID_128_SIZE])
{
	const char *vname = mailbox_get_vname(box);

	switch (metasync_mailbox_lookup(box, guid_r)) {
	case METASYNC_LOOKUP_OK:
		metasync_mailbox_check(muser, vname, separator, guid_r);
		return METASYNC_MAILBOX_EXISTS;
	case METASYNC_LOOKUP_MISSING:
		metasync_mailbox_check(muser, vname, separator, NULL);
		return METASYNC_MAILBOX_MISSING;
	case METASYNC_LOOKUP_NOPERM:
		return METASYNC_MAILBOX_NOPERM;
	case METASYNC_LOOKUP_FAILED:
		break;
	}
	e_error(muser->event, "Mailbox %s cannot be looked up: %s", vname,
		mailbox_get_last_internal_error(box, NULL));
	return METASYNC_MAILBOX_FAILED;
}

enum metasync_mailbox
metasync_mailbox_find(struct mail_user *user, const char *vname, bool look,
		      const char **vname_r, char *separator_r,
		      uint8_t guid_r[GUID_128_SIZE])
{
	struct metasync_user *muser = metasync_user_get(user);
	enum metasync_mailbox ret = METASYNC_MAILBOX_EXISTS;
	struct mail_namespace *ns;
	struct mailbox *box;

	if (*vname == '\0' || !uni_utf8_str_is_valid(vname))
		return METASYNC_MAILBOX_INVALID;
	ns = mail_namespace_find_unalias(user->namespaces, &vname);
	if (!metasync_namespace_is_own(ns))
		return METASYNC_MAILBOX_FOREIGN;
	/* Makes INBOX of inbox. The rights are those of stock METADATA
	   (RFC 5464, 4.1). */
	box = mailbox_alloc(ns->list, vname, MAILBOX_FLAG_ATTRIBUTE_SESSION);
	*vname_r = t_strdup(mailbox_get_vname(box));
	*separator_r = mail_namespace_get_sep(ns);
	if (mailbox_verify_name(box) < 0)
		ret = METASYNC_MAILBOX_INVALID;
	else if (look)
		ret = metasync_mailbox_look(muser, box, *separator_r, guid_r);
	mailbox_free(&box);
	return ret;
}

/* -- telling of changes ---------------------------------------------------- */

bool metasync_mailbox_is_hidden(struct mail_user *user, const char *vname)
{
	const char *acl = compat_user_setting(user, "acl");
	enum mailbox_existence existence;
	struct mail_namespace *ns;
	struct mailbox *box;
	guid_128_t guid;
	bool hidden;

	/* the condition of the acl plugin: no mailbox is opened without need */
	if (acl == NULL || *acl == '\0')
		return FALSE;
	ns = mail_namespace_find(user->namespaces, vname);
	/* first: opening would create one that is to be created automatically */
	box = mailbox_alloc(ns->list, vname, MAILBOX_FLAG_IGNORE_ACLS);
	hidden = mailbox_exists(box, FALSE, &existence) < 0 ||
		existence == MAILBOX_EXISTENCE_SELECT;
	mailbox_free(&box);
	if (!hidden)
		return FALSE;
	box = mailbox_alloc(ns->list, vname, MAILBOX_FLAG_ATTRIBUTE_SESSION);
	hidden = metasync_mailbox_lookup(box, guid) != METASYNC_LOOKUP_OK;
	mailbox_free(&box);
	return hidden;
}

bool metasync_mailbox_is_subscribed(struct mail_user *user, const char *vname)
{
	struct mail_namespace *ns =
		mail_namespace_find(user->namespaces, vname);
	struct mailbox *box;
	bool subscribed;

	/* another session may have changed them */
	if (mailbox_list_iter_subscriptions_refresh(ns->list) < 0)
		return FALSE;
	box = mailbox_alloc(ns->list, vname, 0);
	subscribed = mailbox_is_subscribed(box);
	mailbox_free(&box);
	return subscribed;
}
