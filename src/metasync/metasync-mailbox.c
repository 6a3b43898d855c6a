/* Keeps the store in step with the user's mailboxes. What is renamed or deleted
   in a process that has the plugin is followed at once; what others did is
   found by comparing names and GUIDs. A failure here never fails what is done
   to the mailbox: the next comparison mends it. */

#include "metasync-private.h"
#include "array.h"
#include "str.h"
#include "unichar.h"
#include "mailbox-list-private.h"

#define METASYNC_CONTEXT(obj) \
	MODULE_CONTEXT_REQUIRE(obj, metasync_storage_module)

static MODULE_CONTEXT_DEFINE_INIT(metasync_storage_module,
				  &mail_storage_module_register);

bool metasync_namespace_is_own(const struct mail_namespace *ns)
{
	return ns->type == MAIL_NAMESPACE_TYPE_PRIVATE &&
		ns->owner == ns->user;
}

/* -- the store's side ------------------------------------------------------ */

static void
metasync_mailbox_renamed(struct metasync_user *muser, const char *old_vname,
			 const char *new_vname, char separator)
{
	struct store *store = metasync_user_existing_store(muser);
	struct store_error error;
	struct store_pos pos;

	if (store == NULL)
		return;
	if (store_rename_mailbox(store, old_vname, new_vname, separator, &pos,
				 &error) != STORE_OK)
		metasync_user_log(muser->user, &error);
	metasync_user_upkeep(muser->user);
}

static void
metasync_mailbox_deleted(struct metasync_user *muser, const char *vname)
{
	struct store *store = metasync_user_existing_store(muser);
	struct store_error error;
	struct store_pos pos;

	if (store == NULL)
		return;
	if (store_delete_mailbox(store, vname, &pos, &error) != STORE_OK)
		metasync_user_log(muser->user, &error);
	metasync_user_upkeep(muser->user);
}

/* -- hooks ----------------------------------------------------------------- */

static int metasync_mailbox_rename(struct mailbox *src, struct mailbox *dest)
{
	union mailbox_module_context *mbox = METASYNC_CONTEXT(src);
	struct metasync_user *muser = metasync_user_get(src->storage->user);

	if (mbox->super.rename_box(src, dest) < 0)
		return -1;
	if (!metasync_namespace_is_own(mailbox_get_namespace(dest)))
		metasync_mailbox_deleted(muser, src->vname);
	else {
		/* children go along; with another separator (the other
		   namespace) they are found by their GUIDs */
		metasync_mailbox_renamed(muser, src->vname, dest->vname,
			mail_namespace_get_sep(mailbox_get_namespace(src)));
	}
	return 0;
}

static int metasync_mailbox_delete(struct mailbox *box)
{
	union mailbox_module_context *mbox = METASYNC_CONTEXT(box);
	struct metasync_user *muser = metasync_user_get(box->storage->user);

	if (mbox->super.delete_box(box) < 0)
		return -1;
	metasync_mailbox_deleted(muser, box->vname);
	return 0;
}

void metasync_mailbox_allocated(struct mailbox *box)
{
	struct mailbox_vfuncs *v = box->vlast;
	union mailbox_module_context *mbox;

	if (metasync_user_get(box->storage->user) == NULL ||
	    !metasync_namespace_is_own(box->list->ns))
		return;
	mbox = p_new(box->pool, union mailbox_module_context, 1);
	mbox->super = *v;
	box->vlast = &mbox->super;
	v->rename_box = metasync_mailbox_rename;
	v->delete_box = metasync_mailbox_delete;
	MODULE_CONTEXT_SET_SELF(box, metasync_storage_module, mbox);
}

/* -- comparing ------------------------------------------------------------- */

enum metasync_lookup {
	METASYNC_LOOKUP_OK,
	METASYNC_LOOKUP_MISSING,
	METASYNC_LOOKUP_NOPERM,
	METASYNC_LOOKUP_FAILED
};

static enum metasync_lookup
metasync_lookup_guid(struct mail_namespace *ns, const char *vname,
		     uint8_t guid_r[GUID_128_SIZE])
{
	struct mailbox *box = mailbox_alloc(ns->list, vname, 0);
	struct mailbox_metadata metadata;
	enum metasync_lookup ret = METASYNC_LOOKUP_OK;

	if (mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0)
		memcpy(guid_r, metadata.guid, GUID_128_SIZE);
	else switch (mailbox_get_last_mail_error(box)) {
	case MAIL_ERROR_NOTFOUND:
	case MAIL_ERROR_NOTPOSSIBLE: /* \Noselect */
		ret = METASYNC_LOOKUP_MISSING;
		break;
	case MAIL_ERROR_PERM:
		ret = METASYNC_LOOKUP_NOPERM;
		break;
	default:
		ret = METASYNC_LOOKUP_FAILED;
		break;
	}
	mailbox_free(&box);
	return ret;
}

/* Searches the user's own mailboxes for the GUID. Returns 1 if found, 0 if not,
   -1 if it cannot be said. */
static int
metasync_find_guid(struct mail_user *user, const uint8_t guid[GUID_128_SIZE],
		   const char **vname_r, char *separator_r)
{
	struct mailbox_list_iterate_context *iter;
	const struct mailbox_info *info;
	uint8_t other[GUID_128_SIZE];
	int ret = 0;

	iter = mailbox_list_iter_init_namespaces(user->namespaces,
		t_strsplit("*", " "), MAIL_NAMESPACE_TYPE_PRIVATE,
		MAILBOX_LIST_ITER_SKIP_ALIASES |
		MAILBOX_LIST_ITER_NO_AUTO_BOXES);
	while (ret == 0 && (info = mailbox_list_iter_next(iter)) != NULL) {
		if ((info->flags & (MAILBOX_NONEXISTENT |
				    MAILBOX_NOSELECT)) != 0 ||
		    !metasync_namespace_is_own(info->ns))
			continue;
		switch (metasync_lookup_guid(info->ns, info->vname, other)) {
		case METASYNC_LOOKUP_OK:
			if (memcmp(guid, other, sizeof(other)) != 0)
				break;
			*vname_r = t_strdup(info->vname);
			*separator_r = mail_namespace_get_sep(info->ns);
			ret = 1;
			break;
		case METASYNC_LOOKUP_FAILED:
			ret = -1;
			break;
		default:
			break;
		}
	}
	if (mailbox_list_iter_deinit(&iter) < 0 && ret == 0)
		ret = -1;
	return ret;
}

/* The store knows entries of vname with old_guid; what exists there is something
   else, or nothing. */
static void
metasync_mailbox_heal(struct metasync_user *muser, const char *vname,
		      const uint8_t *old_guid)
{
	const char *new_vname;
	char separator;
	int ret = 0;

	if (old_guid != NULL) {
		ret = metasync_find_guid(muser->user, old_guid, &new_vname,
					 &separator);
	}
	if (ret < 0) {
		/* look again in the next session */
		return;
	}
	if (ret > 0 && strcmp(new_vname, vname) != 0)
		metasync_mailbox_renamed(muser, vname, new_vname, separator);
	else if (ret == 0)
		metasync_mailbox_deleted(muser, vname);
}

struct metasync_known {
	const char *vname;
	uint8_t guid[GUID_128_SIZE];
	bool have_guid;
};

struct metasync_known_list {
	ARRAY(struct metasync_known) list;
};

static bool
metasync_known_add(const char *vname, const uint8_t *guid, void *context)
{
	struct metasync_known_list *known = context;
	struct metasync_known *elem = array_append_space(&known->list);

	elem->vname = t_strdup(vname);
	if (guid != NULL) {
		memcpy(elem->guid, guid, sizeof(elem->guid));
		elem->have_guid = TRUE;
	}
	return TRUE;
}

/* Returns FALSE if the list has changed: begin again. */
static bool
metasync_known_check(struct metasync_user *muser,
		     const struct metasync_known *known)
{
	struct mail_namespace *ns =
		mail_namespace_find(muser->user->namespaces, known->vname);
	uint8_t guid[GUID_128_SIZE];

	switch (metasync_lookup_guid(ns, known->vname, guid)) {
	case METASYNC_LOOKUP_OK:
		if (!known->have_guid ||
		    memcmp(guid, known->guid, sizeof(guid)) == 0)
			return TRUE;
		break;
	case METASYNC_LOOKUP_MISSING:
		break;
	default:
		return TRUE;
	}
	metasync_mailbox_heal(muser, known->vname,
			      known->have_guid ? known->guid : NULL);
	return FALSE;
}

void metasync_mailboxes_check(struct metasync_user *muser)
{
	struct metasync_known_list known;
	struct store_error error;
	const struct metasync_known *elem;
	unsigned int rounds = 0;
	bool again = TRUE;

	/* a rename takes children along, so the list is read anew after each
	   mending; the bound is for what cannot be mended */
	while (again && rounds++ < 1000) T_BEGIN {
		again = FALSE;
		t_array_init(&known.list, 16);
		if (store_list_mailboxes(muser->store, metasync_known_add,
					 &known, &error) != STORE_OK)
			metasync_user_log(muser->user, &error);
		array_foreach(&known.list, elem) {
			if (!metasync_known_check(muser, elem)) {
				again = TRUE;
				break;
			}
		}
	} T_END;
}

/* -- one mailbox ----------------------------------------------------------- */

/* A command names a mailbox. If it is not the one that had this name when it was
   named before in this session, compare. */
static void
metasync_mailbox_check(struct metasync_user *muser, const char *vname,
		       const uint8_t guid[GUID_128_SIZE])
{
	uint8_t *checked = hash_table_lookup(muser->checked_mailboxes, vname);

	if (muser->store == NULL)
		return;
	if (checked == NULL) {
		checked = p_malloc(muser->user->pool, GUID_128_SIZE);
		hash_table_insert(muser->checked_mailboxes,
				  p_strdup(muser->user->pool, vname), checked);
	} else if (memcmp(checked, guid, GUID_128_SIZE) == 0) {
		return;
	}
	memcpy(checked, guid, GUID_128_SIZE);
	metasync_mailboxes_check(muser);
}

enum metasync_mailbox
metasync_mailbox_find(struct mail_user *user, const char *vname, bool look,
		      const char **vname_r, char *separator_r,
		      uint8_t guid_r[16])
{
	struct metasync_user *muser = metasync_user_get(user);
	struct mail_namespace *ns;
	struct mailbox *box;
	bool valid;

	if (*vname == '\0' || !uni_utf8_str_is_valid(vname))
		return METASYNC_MAILBOX_INVALID;
	if (strcasecmp(vname, "INBOX") == 0)
		vname = "INBOX";
	ns = mail_namespace_find_unalias(user->namespaces, &vname);
	if (!metasync_namespace_is_own(ns))
		return METASYNC_MAILBOX_FOREIGN;
	box = mailbox_alloc(ns->list, vname, 0);
	valid = mailbox_verify_name(box) == 0;
	*vname_r = t_strdup(mailbox_get_vname(box));
	mailbox_free(&box);
	if (!valid)
		return METASYNC_MAILBOX_INVALID;
	*separator_r = mail_namespace_get_sep(ns);
	if (!look)
		return METASYNC_MAILBOX_EXISTS;

	switch (metasync_lookup_guid(ns, *vname_r, guid_r)) {
	case METASYNC_LOOKUP_OK:
		metasync_mailbox_check(muser, *vname_r, guid_r);
		return METASYNC_MAILBOX_EXISTS;
	case METASYNC_LOOKUP_MISSING:
		return METASYNC_MAILBOX_MISSING;
	case METASYNC_LOOKUP_NOPERM:
		return METASYNC_MAILBOX_NOPERM;
	case METASYNC_LOOKUP_FAILED:
		return METASYNC_MAILBOX_FAILED;
	}
	i_unreached();
}
