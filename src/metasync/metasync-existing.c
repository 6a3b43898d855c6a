/* Which mailboxes exist: lookups by name and by GUID, each mailbox opened once.
   Callers: healing (metasync-heal.c), and whoever lists a user's own mailboxes. */

#include "metasync-private.h"
#include "mailbox-list-iter.h"

#include <sys/stat.h>

enum metasync_lookup
metasync_mailbox_lookup(struct mailbox *box, guid_128_t guid_r)
{
	struct mailbox_metadata metadata;

	mail_storage_clear_error(mailbox_get_storage(box));
	/* Opened first: of a closed mailbox Dovecot tells what the index of the
	   mailbox list has, without looking at its rights, and for a moment
	   also if another mailbox has got the name. */
	if (mailbox_open(box) == 0 &&
	    mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0) {
		guid_128_copy(guid_r, metadata.guid);
		return METASYNC_LOOKUP_OK;
	}
	switch (mailbox_get_last_mail_error(box)) {
	case MAIL_ERROR_NOTFOUND:
	case MAIL_ERROR_NOTPOSSIBLE: /* \Noselect */
		return METASYNC_LOOKUP_MISSING;
	case MAIL_ERROR_PERM:
	case MAIL_ERROR_NONE: /* acl-mailbox.c:577 says no without a word */
		return METASYNC_LOOKUP_NOPERM;
	default:
		return METASYNC_LOOKUP_FAILED;
	}
}

void metasync_existing_init(struct metasync_existing *existing,
			    struct mail_user *user)
{
	i_zero(existing);
	existing->user = user;
	existing->pool = pool_alloconly_create("metasync existing", 4096);
	hash_table_create(&existing->names, default_pool, 0, str_hash, strcmp);
	hash_table_create(&existing->guids, default_pool, 0, guid_128_hash,
			  guid_128_cmp);
}

void metasync_existing_deinit(struct metasync_existing *existing)
{
	hash_table_destroy(&existing->guids);
	hash_table_destroy(&existing->names);
	pool_unref(&existing->pool);
}

/* The index of the mailbox list, which mailbox_exists() asks, does not hear that all
   mails have gone; and opening would create an INBOX that is not there. */
static bool existing_has_files(struct mailbox *box)
{
	const char *path;
	struct stat st;
	int ret;

	ret = mailbox_get_path_to(box, MAILBOX_LIST_PATH_TYPE_MAILBOX, &path);
	if (ret < 0)
		return mailbox_get_last_mail_error(box) != MAIL_ERROR_NOTFOUND;
	if (ret == 0)
		return TRUE;
	/* of an empty directory Dovecot makes a maildir, too */
	if (strcmp(box->storage->name, "maildir") == 0)
		path = t_strconcat(path, "/cur", NULL);
	return stat(path, &st) == 0 || !ENOTFOUND(errno);
}

/* Rights don't matter here: a mailbox that may not be seen has not gone. */
void metasync_existing_look(struct mail_namespace *ns,
			    struct metasync_found *found)
{
	enum mailbox_existence existence;
	struct mailbox *box;

	box = mailbox_alloc(ns->list, found->vname, MAILBOX_FLAG_IGNORE_ACLS);
	/* opening would create a mailbox that is to be created automatically */
	if (mailbox_exists(box, FALSE, &existence) < 0)
		found->lookup = METASYNC_LOOKUP_FAILED;
	else if (existence != MAILBOX_EXISTENCE_SELECT ||
		 !existing_has_files(box))
		found->lookup = METASYNC_LOOKUP_MISSING;
	else {
		/* Maildir++ says of one with children that it exists */
		found->lookup = metasync_mailbox_lookup(box, found->guid);
		if (found->lookup == METASYNC_LOOKUP_NOPERM)
			found->lookup = METASYNC_LOOKUP_FAILED;
	}
	mailbox_free(&box);
}

static struct metasync_found *
existing_lookup_add(struct metasync_existing *existing,
		    struct mail_namespace *ns, const char *vname)
{
	struct metasync_found *found =
		p_new(existing->pool, struct metasync_found, 1);
	const uint8_t *guid = found->guid;

	found->vname = p_strdup(existing->pool, vname);
	hash_table_insert(existing->names, found->vname, found);
	metasync_existing_look(ns, found);
	if (found->lookup == METASYNC_LOOKUP_OK &&
	    hash_table_lookup(existing->guids, guid) == NULL)
		hash_table_insert(existing->guids, guid, found);
	return found;
}

const struct metasync_found *
metasync_existing_lookup(struct metasync_existing *existing,
			 struct mail_namespace *ns, const char *vname)
{
	struct metasync_found *found =
		hash_table_lookup(existing->names, vname);

	return found != NULL ? found :
		existing_lookup_add(existing, ns, vname);
}

static void
existing_list_namespace(struct metasync_existing *existing,
			struct mail_namespace *ns)
{
	const char *const patterns[] = {
		"INBOX", t_strconcat(ns->prefix, "*", NULL), NULL
	};
	struct mailbox_list_iterate_context *iter;
	const struct mailbox_info *info;

	/* RAW_LIST: without ACLs */
	iter = mailbox_list_iter_init_multiple(ns->list, patterns,
					       MAILBOX_LIST_ITER_RAW_LIST |
					       MAILBOX_LIST_ITER_NO_AUTO_BOXES);
	while ((info = mailbox_list_iter_next(iter)) != NULL) T_BEGIN {
		if ((info->flags & (MAILBOX_NONEXISTENT |
				    MAILBOX_NOSELECT)) == 0 &&
		    metasync_existing_lookup(existing, ns, info->vname)->lookup ==
		    METASYNC_LOOKUP_FAILED)
			existing->listed_all = FALSE;
	} T_END;
	if (mailbox_list_iter_deinit(&iter) < 0)
		existing->listed_all = FALSE;
}

void metasync_existing_list(struct metasync_existing *existing)
{
	struct mail_namespace *ns = existing->user->namespaces;

	if (existing->listed)
		return;
	existing->listed = existing->listed_all = TRUE;
	for (; ns != NULL; ns = ns->next) {
		if (metasync_namespace_is_own(ns) && ns->alias_for == NULL)
			existing_list_namespace(existing, ns);
	}
}

bool metasync_mailboxes_list(struct mail_user *user,
			     void (*callback)(const char *vname,
					      const uint8_t *guid,
					      void *context),
			     void *context)
{
	struct metasync_existing existing;
	struct hash_iterate_context *iter;
	struct metasync_found *found;
	const uint8_t *guid;
	bool all;

	metasync_existing_init(&existing, user);
	metasync_existing_list(&existing);
	iter = hash_table_iterate_init(existing.guids);
	while (hash_table_iterate(iter, existing.guids, &guid, &found))
		callback(found->vname, guid, context);
	hash_table_iterate_deinit(&iter);
	all = existing.listed_all;
	metasync_existing_deinit(&existing);
	return all;
}
