/* Compares the mailboxes that the store knows with those that exist, and mends
   the store: entries follow a mailbox (it is known by its GUID) to the name that
   it has now, and go if there is no such mailbox any more. That is how renames
   and deletions by processes without the plugin are noticed. Called at a
   session's first use of the store, and when a command names a mailbox that is
   not the one that the store knows.

   Each mailbox is moved alone, by its own GUID: that a parent has another name
   says nothing sure about its children.

   Mails may be away for a moment (not mounted) while the store is there, and then
   all mailboxes look deleted. So the store has a witness: the GUID of the mailbox
   that was INBOX. Only if that is there is anything else removed or moved. If it
   is not, but every mailbox that the store knows is there under its name, all
   GUIDs were made anew: the store takes them over. Otherwise the entries are held:
   they stay as they are until the mails are back, or an operator says that they
   won't be. */

#include "metasync-private.h"
#include "array.h"

/* How often a mailbox must not be found */
#define HEAL_SCANS 3

/* A mailbox of which the store has entries */
struct metasync_known {
	const char *vname;
	guid_128_t guid;
	bool have_guid;
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

struct metasync_heal {
	struct metasync_user *muser;
	struct store *store;
	struct metasync_existing existing;

	/* As of the last look; freed at the next. */
	pool_t known_pool;
	ARRAY(struct metasync_known) known;
	HASH_TABLE(const char *, const struct metasync_known *) known_names;

	/* what was INBOX at the last heal, and what is INBOX now */
	guid_128_t witness;
	bool have_witness;
	struct metasync_found inbox;
	/* an operator says that what is not there won't come back */
	bool gone;

	/* Mailboxes that are there, but get another GUID in the store; those of
	   which there is nothing */
	ARRAY(struct store_mailbox) adopted;
	unsigned int missing;

	/* Names whose mailbox was in no scan so far, and the first scan that
	   said so. A mailbox that is being renamed can be missed by one, so its
	   entries are removed only if so many in a row say the same. */
	HASH_TABLE(char *, void *) suspects;
	pool_t suspects_pool;
	unsigned int scan;
	bool look_again;

	unsigned int moved, deleted;
	/* INBOX became another one meanwhile: to be done again */
	bool changed;
	struct store_error error;
};

/* -- what exists ----------------------------------------------------------- */

/* The mailbox with this GUID under any name, or NULL. *sure_r is FALSE if it may
   exist nevertheless. */
static const struct metasync_found *
heal_find_guid(struct metasync_heal *heal, const guid_128_t guid, bool *sure_r)
{
	metasync_existing_list(&heal->existing);
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

	array_clear(&heal->known);
	hash_table_clear(heal->known_names, FALSE);
	p_clear(heal->known_pool);
	if (store_list_mailboxes(heal->store, heal_known_add, heal,
				 &heal->error) != STORE_OK)
		return -1;
	array_foreach(&heal->known, known)
		hash_table_insert(heal->known_names, known->vname, known);
	return 0;
}

/* -- the witness ----------------------------------------------------------- */

static void heal_look_inbox(struct mail_user *user,
			    struct metasync_found *found_r)
{
	struct mail_namespace *ns =
		mail_namespace_find(user->namespaces, "INBOX");

	i_zero(found_r);
	found_r->vname = "INBOX";
	found_r->lookup = METASYNC_LOOKUP_MISSING;
	if (metasync_namespace_is_own(ns))
		metasync_existing_look(ns, found_r);
}

static bool found_has_guid(const struct metasync_found *found,
			   const guid_128_t guid)
{
	return found->lookup == METASYNC_LOOKUP_OK &&
		guid_128_equals(found->guid, guid);
}

/* Are the mails here? An INBOX that was renamed says so, too. */
static bool heal_is_trusted(struct metasync_heal *heal)
{
	bool sure;

	return !heal->have_witness ||
		found_has_guid(&heal->inbox, heal->witness) ||
		heal_find_guid(heal, heal->witness, &sure) != NULL;
}

/* Finds the mailboxes of which the store has no GUID; if the mails are in doubt
   (!trusted), also those of which it has one that there is not any more. */
static void heal_find_adopted(struct metasync_heal *heal, bool trusted)
{
	const struct metasync_known *known;
	const struct metasync_found *found;
	struct store_mailbox *adopted;
	struct mail_namespace *ns;
	bool sure;

	array_foreach(&heal->known, known) {
		ns = mail_namespace_find(heal->muser->user->namespaces,
					 known->vname);
		if (!metasync_namespace_is_own(ns))
			continue;
		if (known->have_guid &&
		    (trusted ||
		     heal_find_guid(heal, known->guid, &sure) != NULL))
			continue;
		found = metasync_existing_lookup(&heal->existing, ns, known->vname);
		if (found->lookup != METASYNC_LOOKUP_OK) {
			heal->missing++;
			continue;
		}
		adopted = array_append_space(&heal->adopted);
		adopted->name = known->vname;
		adopted->guid = found->guid;
	}
}

static void heal_held(struct metasync_heal *heal)
{
	unsigned int others = heal->missing + array_count(&heal->adopted);
	struct metasync_user *muser = heal->muser;

	muser->mailboxes_held = TRUE;
	if (others == 0 || muser->warned_held)
		return;
	muser->warned_held = TRUE;
	e_warning(muser->event, "INBOX %s, and %u of %u mailboxes with entries "
		  "are missing or are other ones, too: are the mails away? No "
		  "entries are removed until they are back; if they are gone "
		  "for good: doveadm metasync purge -m -u %s",
		  heal->inbox.lookup == METASYNC_LOOKUP_OK ?
		  "is another one than before" :
		  heal->inbox.lookup == METASYNC_LOOKUP_MISSING ?
		  "is missing" : "cannot be opened",
		  others, array_count(&heal->known), muser->user->username);
}

/* Remembers the present INBOX, and the GUIDs that are new. */
static int heal_adopt(struct metasync_heal *heal, bool trusted)
{
	const uint8_t *witness = NULL;
	unsigned int count = array_count(&heal->adopted);

	if (heal->inbox.lookup == METASYNC_LOOKUP_OK)
		witness = heal->inbox.guid;
	else if (heal->have_witness && trusted)
		witness = heal->witness;
	if (count == 0 && (witness == NULL ? !heal->have_witness :
			   heal->have_witness &&
			   guid_128_equals(witness, heal->witness)))
		return 0;
	if (store_set_witness(heal->store, witness,
			      count == 0 ? NULL : array_front(&heal->adopted),
			      count, &heal->error) != STORE_OK)
		return -1;
	if (!trusted && !heal->gone) {
		e_info(heal->muser->event, "INBOX is another one than before, "
		       "and all mailboxes are there by their names: took over "
		       "the new GUIDs of %u", count);
	}
	return 0;
}

/* Returns 1 if the store may be mended, 0 if the entries are held, -1 on
   failure. */
static int heal_check_witness(struct metasync_heal *heal)
{
	bool trusted;

	heal_look_inbox(heal->muser->user, &heal->inbox);
	if (heal_read_known(heal) < 0 ||
	    store_get_witness(heal->store, heal->witness, &heal->have_witness,
			      &heal->error) != STORE_OK)
		return -1;
	if (heal->gone && heal->inbox.lookup == METASYNC_LOOKUP_FAILED) {
		heal->error.status = STORE_FAILED;
		i_strocpy(heal->error.message, "INBOX cannot be opened, so "
			  "nothing can be said of other mailboxes",
			  sizeof(heal->error.message));
		return -1;
	}
	trusted = heal_is_trusted(heal);
	heal_find_adopted(heal, trusted);
	if (!trusted && !heal->gone &&
	    (heal->inbox.lookup != METASYNC_LOOKUP_OK || heal->missing > 0)) {
		heal_held(heal);
		return 0;
	}
	heal->muser->mailboxes_held = FALSE;
	return heal_adopt(heal, trusted) < 0 ? -1 : 1;
}

/* The mails may have gone away since INBOX was looked at. */
static bool heal_is_changed(struct metasync_heal *heal)
{
	struct metasync_found now;

	heal_look_inbox(heal->muser->user, &now);
	if (now.lookup != heal->inbox.lookup ||
	    !guid_128_equals(now.guid, heal->inbox.guid))
		heal->changed = TRUE;
	return heal->changed;
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
	found = metasync_existing_lookup(&heal->existing, ns, known->vname);
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

/* These three return as heal_step(). */
static int
heal_move(struct metasync_heal *heal, const char *vname, const char *target)
{
	struct store_pos pos;

	if (heal_is_changed(heal))
		return 0;
	if (store_rename_mailbox(heal->store, vname, target, '\0', &pos,
				 &heal->error) != STORE_OK)
		return -1;
	heal->moved++;
	return 1;
}

static int
heal_merge(struct metasync_heal *heal, const char *vname, const char *target)
{
	struct store_pos pos;

	if (heal_is_changed(heal))
		return 0;
	if (store_merge_mailbox(heal->store, vname, target, &pos,
				&heal->error) != STORE_OK)
		return -1;
	heal->moved++;
	return 1;
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
	metasync_existing_deinit(&heal->existing);
	metasync_existing_init(&heal->existing, heal->muser->user);
	heal->scan++;
	heal->look_again = FALSE;
}

static int
heal_delete(struct metasync_heal *heal, const struct metasync_known *known)
{
	struct store_pos pos;

	if (heal_is_changed(heal))
		return 0;
	if (store_delete_mailbox(heal->store, known->vname,
				 known->have_guid ? known->guid : NULL,
				 &pos, &heal->error) != STORE_OK)
		return -1;
	heal->deleted++;
	return 1;
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
			return heal_delete(heal, known);
		case HEAL_MOVE:
			return heal_move(heal, known->vname, target);
		case HEAL_MERGE:
			return heal_merge(heal, known->vname, target);
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
	return heal_move(heal, known->vname, guid_128_to_string(known->guid));
}

static void heal_init(struct metasync_heal *heal, struct metasync_user *muser)
{
	i_zero(heal);
	heal->muser = muser;
	heal->store = muser->store;
	metasync_existing_init(&heal->existing, muser->user);
	heal->scan = 1;
	heal->suspects_pool = pool_alloconly_create("metasync suspects", 256);
	hash_table_create(&heal->suspects, default_pool, 0, str_hash, strcmp);
	heal->known_pool = pool_alloconly_create("metasync known", 1024);
	i_array_init(&heal->known, 16);
	i_array_init(&heal->adopted, 4);
	hash_table_create(&heal->known_names, default_pool, 0, str_hash,
			  strcmp);
}

static void heal_deinit(struct metasync_heal *heal)
{
	hash_table_destroy(&heal->suspects);
	pool_unref(&heal->suspects_pool);
	hash_table_destroy(&heal->known_names);
	array_free(&heal->adopted);
	array_free(&heal->known);
	pool_unref(&heal->known_pool);
	metasync_existing_deinit(&heal->existing);
}

/* Returns 0, or -1 with heal->error. */
static int heal_run(struct metasync_heal *heal)
{
	unsigned int steps = 0;
	int ret;

	T_BEGIN {
		ret = heal_check_witness(heal);
	} T_END;
	/* a mailbox is moved twice at most, then looked for; others may add some
	   meanwhile */
	while (ret > 0 && steps++ < 100 + (2 + HEAL_SCANS) *
				    array_count(&heal->known)) T_BEGIN {
		ret = heal_step(heal);
	} T_END;

	if (heal->moved > 0 || heal->deleted > 0) {
		e_info(heal->muser->event, "Mailboxes were renamed or deleted "
		       "without the plugin: moved the entries of %u, removed "
		       "those of %u",
		       heal->moved, heal->deleted);
		store_idle(heal->store);
	}
	/* another name may have been right before, and be so again */
	hash_table_clear(heal->muser->checked_mailboxes, FALSE);
	return ret < 0 ? -1 : 0;
}

bool metasync_mailboxes_heal(struct metasync_user *muser)
{
	struct metasync_heal heal;
	bool ret = TRUE;

	heal_init(&heal, muser);
	if (heal_run(&heal) < 0) {
		metasync_user_log(muser->user, &heal.error);
		ret = FALSE;
	}
	if (heal.changed)
		ret = FALSE;
	heal_deinit(&heal);
	return ret;
}

int metasync_mailboxes_purge(struct mail_user *user, unsigned int *removed_r,
			     struct store_error *error_r)
{
	struct metasync_user *muser = metasync_user_get(user);
	struct metasync_heal heal;
	struct store *store;
	int ret;

	*removed_r = 0;
	if (metasync_user_existing_store(muser, &store, error_r) < 0)
		return -1;
	if (store == NULL)
		return 0;
	heal_init(&heal, muser);
	heal.gone = TRUE;
	ret = heal_run(&heal);
	*error_r = heal.error;
	*removed_r = heal.deleted;
	muser->mailboxes_healed = ret == 0 && !heal.changed;
	heal_deinit(&heal);
	return ret;
}

/* -- while entries are held ------------------------------------------------ */

/* Looks now. A store that fails says nothing. */
static bool metasync_witness_is_missing(struct metasync_user *muser)
{
	struct metasync_found inbox;
	struct store_error error;
	guid_128_t witness;
	bool have_witness;

	if (store_get_witness(muser->store, witness, &have_witness,
			      &error) != STORE_OK || !have_witness)
		return FALSE;
	heal_look_inbox(muser->user, &inbox);
	return !found_has_guid(&inbox, witness);
}

bool metasync_mailboxes_are_held(struct metasync_user *muser)
{
	if (muser->mailboxes_held && !metasync_witness_is_missing(muser)) {
		/* they are back */
		muser->mailboxes_held = FALSE;
		muser->mailboxes_healed = FALSE;
	}
	return muser->mailboxes_held;
}

bool metasync_mailboxes_look(struct metasync_user *muser)
{
	struct store_error error;
	struct store *store;

	/* an error is told when it is used */
	if (metasync_user_existing_store(muser, &store, &error) < 0 ||
	    store == NULL)
		return FALSE;
	if (metasync_witness_is_missing(muser)) {
		muser->mailboxes_healed = metasync_mailboxes_heal(muser);
		return muser->mailboxes_held;
	}
	return metasync_mailboxes_are_held(muser);
}
