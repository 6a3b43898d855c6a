/* Compares the mailboxes that the store knows with those that exist, and mends
   the store: entries follow a mailbox (it is known by its GUID) to the name that
   it has now, and go if there is no such mailbox any more. That is how renames
   and deletions by processes without the plugin are noticed. Called at a
   session's first use of the store, and when a command names a mailbox that is
   not the one that the store knows.

   Each mailbox is moved alone, by its own GUID: that a parent has another name
   says nothing sure about its children. */

#include "metasync-private.h"
#include "array.h"
#include "mailbox-list-iter.h"

/* How often a mailbox must not be found */
#define HEAL_SCANS 3

/* A mailbox of which the store has entries */
struct metasync_known {
	const char *vname;
	guid_128_t guid;
	bool have_guid;
};

/* What there is under a name */
struct metasync_found {
	const char *vname;
	guid_128_t guid;
	enum metasync_lookup lookup;
};

enum heal_action {
	HEAL_NOTHING,
	HEAL_DELETE,
	HEAL_MOVE,
	/* the mailbox has entries under both names */
	HEAL_MERGE,
	/* the target has entries of yet another mailbox */
	HEAL_BLOCKED
};

/* Lookups so far; all of the user's own mailboxes once they have been listed. */
struct metasync_existing {
	struct mail_user *user;
	pool_t pool;
	HASH_TABLE(const char *, struct metasync_found *) names;
	HASH_TABLE(const uint8_t *, struct metasync_found *) guids;
	bool listed, listed_all;
};

struct metasync_heal {
	struct metasync_user *muser;
	struct store *store;
	struct metasync_existing existing;

	/* As of the last look; freed at the next. */
	pool_t known_pool;
	ARRAY(struct metasync_known) known;
	HASH_TABLE(const char *, const struct metasync_known *) known_names;

	/* Names whose mailbox was in no scan so far, and the first scan that
	   said so. A mailbox that is being renamed can be missed by one, so its
	   entries are removed only if so many in a row say the same. */
	HASH_TABLE(char *, void *) suspects;
	pool_t suspects_pool;
	unsigned int scan;
	bool look_again;

	unsigned int moved, deleted;
};

/* -- what exists ----------------------------------------------------------- */

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

static void
existing_init(struct metasync_existing *existing, struct mail_user *user)
{
	i_zero(existing);
	existing->user = user;
	existing->pool = pool_alloconly_create("metasync existing", 4096);
	hash_table_create(&existing->names, default_pool, 0, str_hash, strcmp);
	hash_table_create(&existing->guids, default_pool, 0, guid_128_hash,
			  guid_128_cmp);
}

static void existing_deinit(struct metasync_existing *existing)
{
	hash_table_destroy(&existing->guids);
	hash_table_destroy(&existing->names);
	pool_unref(&existing->pool);
}

/* Rights don't matter here: a mailbox that may not be seen has not gone. */
static struct metasync_found *
existing_lookup_add(struct metasync_existing *existing,
		    struct mail_namespace *ns, const char *vname)
{
	struct metasync_found *found =
		p_new(existing->pool, struct metasync_found, 1);
	enum mailbox_existence existence;
	const uint8_t *guid = found->guid;
	struct mailbox *box;

	found->vname = p_strdup(existing->pool, vname);
	hash_table_insert(existing->names, found->vname, found);

	box = mailbox_alloc(ns->list, vname, MAILBOX_FLAG_IGNORE_ACLS);
	/* opening would create a mailbox that is to be created automatically */
	if (mailbox_exists(box, FALSE, &existence) < 0)
		found->lookup = METASYNC_LOOKUP_FAILED;
	else if (existence != MAILBOX_EXISTENCE_SELECT)
		found->lookup = METASYNC_LOOKUP_MISSING;
	else {
		/* Maildir++ says of one with children that it exists */
		found->lookup = metasync_mailbox_lookup(box, found->guid);
		if (found->lookup == METASYNC_LOOKUP_NOPERM)
			found->lookup = METASYNC_LOOKUP_FAILED;
	}
	if (found->lookup == METASYNC_LOOKUP_OK &&
	    hash_table_lookup(existing->guids, guid) == NULL)
		hash_table_insert(existing->guids, guid, found);
	mailbox_free(&box);
	return found;
}

static struct metasync_found *
existing_lookup(struct metasync_existing *existing, struct mail_namespace *ns,
		const char *vname)
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
		    existing_lookup(existing, ns, info->vname)->lookup ==
		    METASYNC_LOOKUP_FAILED)
			existing->listed_all = FALSE;
	} T_END;
	if (mailbox_list_iter_deinit(&iter) < 0)
		existing->listed_all = FALSE;
}

static void existing_list(struct metasync_existing *existing)
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

	existing_init(&existing, user);
	existing_list(&existing);
	iter = hash_table_iterate_init(existing.guids);
	while (hash_table_iterate(iter, existing.guids, &guid, &found))
		callback(found->vname, guid, context);
	hash_table_iterate_deinit(&iter);
	all = existing.listed_all;
	existing_deinit(&existing);
	return all;
}

/* The mailbox with this GUID under any name, or NULL. *sure_r is FALSE if it may
   exist nevertheless. */
static const struct metasync_found *
heal_find_guid(struct metasync_heal *heal, const guid_128_t guid, bool *sure_r)
{
	existing_list(&heal->existing);
	*sure_r = heal->existing.listed_all;
	return hash_table_lookup(heal->existing.guids, guid);
}

/* -- what the store knows -------------------------------------------------- */

static bool
heal_known_add(const char *vname, const uint8_t *guid, void *context)
{
	struct metasync_heal *heal = context;
	struct metasync_known *known = array_append_space(&heal->known);

	known->vname = p_strdup(heal->known_pool, vname);
	if (guid != NULL) {
		guid_128_copy(known->guid, guid);
		known->have_guid = TRUE;
	}
	return TRUE;
}

static int heal_read_known(struct metasync_heal *heal)
{
	const struct metasync_known *known;
	struct store_error error;

	array_clear(&heal->known);
	hash_table_clear(heal->known_names, FALSE);
	p_clear(heal->known_pool);
	if (store_list_mailboxes(heal->store, heal_known_add, heal,
				 &error) != STORE_OK) {
		metasync_user_log(heal->muser->user, &error);
		return -1;
	}
	array_foreach(&heal->known, known)
		hash_table_insert(heal->known_names, known->vname, known);
	return 0;
}

/* -- mending --------------------------------------------------------------- */

static enum heal_action
heal_decide(struct metasync_heal *heal, const struct metasync_known *known,
	    const char **target_r)
{
	struct mail_namespace *ns =
		mail_namespace_find(heal->muser->user->namespaces,
				    known->vname);
	const struct metasync_known *other;
	const struct metasync_found *found;
	bool sure;

	if (!metasync_namespace_is_own(ns)) {
		/* the configuration has changed */
		return HEAL_NOTHING;
	}
	found = existing_lookup(&heal->existing, ns, known->vname);
	switch (found->lookup) {
	case METASYNC_LOOKUP_OK:
		if (!known->have_guid ||
		    guid_128_equals(known->guid, found->guid))
			return HEAL_NOTHING;
		break;
	case METASYNC_LOOKUP_MISSING:
		if (!known->have_guid)
			return HEAL_DELETE;
		break;
	default:
		return HEAL_NOTHING;
	}

	found = heal_find_guid(heal, known->guid, &sure);
	if (found == NULL)
		return sure ? HEAL_DELETE : HEAL_NOTHING;
	*target_r = found->vname;
	other = hash_table_lookup(heal->known_names, found->vname);
	if (other == NULL || !other->have_guid)
		return HEAL_MOVE;
	/* It can have been written under its new name before it was mended. */
	return guid_128_equals(other->guid, known->guid) ?
		HEAL_MERGE : HEAL_BLOCKED;
}

static int
heal_move(struct metasync_heal *heal, const char *vname, const char *target)
{
	struct store_error error;
	struct store_pos pos;

	if (store_rename_mailbox(heal->store, vname, target, '\0', &pos,
				 &error) != STORE_OK) {
		metasync_user_log(heal->muser->user, &error);
		return -1;
	}
	heal->moved++;
	return 0;
}

static int
heal_merge(struct metasync_heal *heal, const char *vname, const char *target)
{
	struct store_error error;
	struct store_pos pos;

	if (store_merge_mailbox(heal->store, vname, target, &pos,
				&error) != STORE_OK) {
		metasync_user_log(heal->muser->user, &error);
		return -1;
	}
	heal->moved++;
	return 0;
}

static bool heal_is_confirmed(struct metasync_heal *heal, const char *vname)
{
	void *value = hash_table_lookup(heal->suspects, vname);

	if (value != NULL && heal->scan - POINTER_CAST_TO(value, unsigned int) >=
			     HEAL_SCANS - 1)
		return TRUE;
	if (value == NULL) {
		hash_table_insert(heal->suspects,
				  p_strdup(heal->suspects_pool, vname),
				  POINTER_CAST(heal->scan));
	}
	heal->look_again = TRUE;
	return FALSE;
}

static void heal_scan_again(struct metasync_heal *heal)
{
	struct mail_user *user = heal->muser->user;

	existing_deinit(&heal->existing);
	existing_init(&heal->existing, user);
	heal->scan++;
	heal->look_again = FALSE;
}

static int
heal_delete(struct metasync_heal *heal, const struct metasync_known *known)
{
	struct store_error error;
	struct store_pos pos;

	if (store_delete_mailbox(heal->store, known->vname,
				 known->have_guid ? known->guid : NULL,
				 &pos, &error) != STORE_OK) {
		metasync_user_log(heal->muser->user, &error);
		return -1;
	}
	heal->deleted++;
	return 0;
}

/* Mends one mailbox. Returns 1 if there may be more to do, 0 if not, -1 if the
   store failed. */
static int heal_step(struct metasync_heal *heal)
{
	const struct metasync_known *known;
	const char *target = NULL, *blocked = NULL;

	/* Read anew each time: other processes mend, too. */
	if (heal_read_known(heal) < 0)
		return -1;
	array_foreach(&heal->known, known) {
		switch (heal_decide(heal, known, &target)) {
		case HEAL_NOTHING:
			break;
		case HEAL_DELETE:
			if (!heal_is_confirmed(heal, known->vname))
				break;
			return heal_delete(heal, known) < 0 ? -1 : 1;
		case HEAL_MOVE:
			return heal_move(heal, known->vname, target) < 0 ?
				-1 : 1;
		case HEAL_MERGE:
			return heal_merge(heal, known->vname, target) < 0 ?
				-1 : 1;
		case HEAL_BLOCKED:
			blocked = target;
			break;
		}
	}
	if (heal->look_again) {
		heal_scan_again(heal);
		return 1;
	}
	if (blocked == NULL)
		return 0;
	/* Names went round (a to b, b to a): one steps aside, under a name
	   that leads it home even if we get no further. */
	known = hash_table_lookup(heal->known_names, blocked);
	return heal_move(heal, known->vname,
			 guid_128_to_string(known->guid)) < 0 ? -1 : 1;
}

bool metasync_mailboxes_heal(struct metasync_user *muser)
{
	struct metasync_heal heal;
	unsigned int steps = 0;
	int ret;

	i_zero(&heal);
	heal.muser = muser;
	heal.store = muser->store;
	existing_init(&heal.existing, muser->user);
	heal.scan = 1;
	heal.suspects_pool = pool_alloconly_create("metasync suspects", 256);
	hash_table_create(&heal.suspects, default_pool, 0, str_hash, strcmp);
	heal.known_pool = pool_alloconly_create("metasync known", 1024);
	i_array_init(&heal.known, 16);
	hash_table_create(&heal.known_names, default_pool, 0, str_hash, strcmp);

	/* a mailbox is moved twice at most, then looked for; others may add some
	   meanwhile */
	do T_BEGIN {
		ret = heal_step(&heal);
	} T_END;
	while (ret > 0 && steps++ < 100 + (2 + HEAL_SCANS) * array_count(&heal.known));

	if (heal.moved > 0 || heal.deleted > 0) {
		e_info(muser->event, "Mailboxes were renamed or deleted "
		       "without the plugin: moved the entries of %u, removed "
		       "those of %u",
		       heal.moved, heal.deleted);
		store_idle(heal.store);
	}
	/* another name may have been right before, and be so again */
	hash_table_clear(muser->checked_mailboxes, FALSE);
	hash_table_destroy(&heal.suspects);
	pool_unref(&heal.suspects_pool);
	hash_table_destroy(&heal.known_names);
	array_free(&heal.known);
	pool_unref(&heal.known_pool);
	existing_deinit(&heal.existing);
	return ret >= 0;
}
