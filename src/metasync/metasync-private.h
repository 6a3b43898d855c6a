#ifndef METASYNC_PRIVATE_H
#define METASYNC_PRIVATE_H

/* Shared by the files of this folder only. */

#include "lib.h"
#include "time-util.h"
#include "array.h"
#include "guid.h"
#include "hash.h"
#include "mail-storage-private.h"
#include "metasync.h"

/* Below it are Dovecot's own attributes, and the server's entries. */
#define PVT MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT
#define PVT_SERVER MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER

/* An attribute that has changed; see metasync-note.c. */
struct metasync_note {
	/* key: NULL if there is nothing to write down */
	const char *mailbox, *key;
	unsigned int seq;
	bool pvt, removed;
	size_t size;
	time_t time;
};

struct metasync_user {
	union mail_user_module_context module_ctx;
	struct mail_user *user;
	struct event *event;
	struct store_settings set;

	/* NULL until it is used for the first time */
	struct store *store;
	struct timeout *to_upkeep;
	/* the mailboxes have been compared with what the store knows */
	bool mailboxes_healed;
	/* The mails seem to be away: entries stay as they are (metasync-heal.c).
	   And whether the operator was told. */
	bool mailboxes_held, warned_held;
	/* name -> GUID of those that were compared when a command named them */
	HASH_TABLE(char *, uint8_t *) checked_mailboxes;

	/* for dsync, until to_notes fires; no pool: none */
	pool_t notes_pool;
	ARRAY(struct metasync_note) notes;
	struct timeout *to_notes;

	/* the entry that an iteration has just returned; NULL: none */
	const struct metasync_attribute *iterated;

	/* when a warning was logged that a limit comes near */
	time_t warned_entries, warned_bytes;

	/* the error logged last, and when */
	struct store_error logged;
	time_t logged_at;
};

/* The same trouble is logged again after this many seconds. */
#define METASYNC_LOG_INTERVAL_SECS 60

/* An entry of the store that an iteration has read, and the attribute's key below
   its prefix. */
struct metasync_attribute {
	const char *key, *mailbox, *name;
	/* NULL: not taken along */
	const void *value;
	size_t value_size;
};

/* Where the entries of a mailbox are. */
struct metasync_place {
	/* whose store */
	struct metasync_user *muser;
	/* that user's namespace of the mailbox, and its name in the store */
	struct mail_namespace *ns;
	const char *mailbox;
};

enum metasync_lookup {
	METASYNC_LOOKUP_OK,
	METASYNC_LOOKUP_MISSING,
	METASYNC_LOOKUP_NOPERM,
	METASYNC_LOOKUP_FAILED
};

/* NULL if the user has not got the plugin. */
struct metasync_user *metasync_user_get(struct mail_user *user);

/* For the life of mailboxes: the store if it is there, else NULL: none is made
   for a user who has never used it. Returns 0, or -1 with *error_r. */
int metasync_user_existing_store(struct metasync_user *muser,
				 struct store **store_r,
				 struct store_error *error_r);

/* Is this namespace the user's own? */
bool metasync_namespace_is_own(const struct mail_namespace *ns);

/* Opens the mailbox for its GUID. */
enum metasync_lookup
metasync_mailbox_lookup(struct mailbox *box, guid_128_t guid_r);

/* What there is under a name */
struct metasync_found {
	const char *vname;
	guid_128_t guid;
	enum metasync_lookup lookup;
};

/* Lookups so far; all of the user's own mailboxes once they have been listed. */
struct metasync_existing {
	struct mail_user *user;
	pool_t pool;
	HASH_TABLE(const char *, struct metasync_found *) names;
	HASH_TABLE(const uint8_t *, struct metasync_found *) guids;
	bool listed, listed_all;
};

void metasync_existing_init(struct metasync_existing *existing,
			    struct mail_user *user);
void metasync_existing_deinit(struct metasync_existing *existing);
/* Fills in what there is now under found->vname. Creates no mailbox that is to be
   created automatically. */
void metasync_existing_look(struct mail_namespace *ns,
			    struct metasync_found *found);
/* The same, the first time only. Lives as long as existing. */
const struct metasync_found *
metasync_existing_lookup(struct metasync_existing *existing,
			 struct mail_namespace *ns, const char *vname);
/* Looks up all of the user's own mailboxes, the first time only. */
void metasync_existing_list(struct metasync_existing *existing);

/* Compares all mailboxes that the open store knows with those that exist, and
   finds out whether entries must be held. Returns FALSE if it is to be done again:
   the store failed (logged), or the mails went away meanwhile. */
bool metasync_mailboxes_heal(struct metasync_user *muser);
/* The mails were away when it was last looked, and still are. */
bool metasync_mailboxes_are_held(struct metasync_user *muser);
/* The same for who is about to rename or delete a mailbox: looks in any case, at
   INBOX. FALSE if there is no store. */
bool metasync_mailboxes_look(struct metasync_user *muser);
/* The same if the store is open and has not been compared since something hinted
   at a difference (mailboxes_healed). */
void metasync_user_heal(struct metasync_user *muser);

/* Modules' contexts of mailboxes (all that metasync_mailbox_allocated() took)
   and of their transactions. */
extern MODULE_CONTEXT_DEFINE(metasync_storage_module,
			     &mail_storage_module_register);
const struct mailbox_vfuncs *metasync_mailbox_super(struct mailbox *box);
/* A mailbox is found to have this GUID: heals if it is not the one that the store
   knows under its name. Asks the store only once as long as it stays the same.
   guid NULL: there is no such mailbox. */
void metasync_mailbox_check(struct metasync_user *muser, const char *vname,
			    char separator, const uint8_t *guid);
/* Where the mailbox's entries are, of another user's mailbox the /shared ones.
   Lives as long as the mailbox. Returns 1, or 0 if Dovecot keeps them, or -1 if
   it cannot be found out (logged, and told to the mailbox's storage). */
int metasync_mailbox_place(struct mailbox *box, struct metasync_place *place_r);

/* Mailboxes of others; see metasync-owner.c. TRUE if the mailbox has an owner
   whose store may be used. */
bool metasync_owner_has(struct mailbox *box);
/* As metasync_mailbox_place(); place_r->mailbox is on the data stack. */
int metasync_owner_place(struct mailbox *box, struct metasync_place *place_r);
/* The GUID that the mailbox has for its owner. Returns 0, or -1 (logged, and
   told to the mailbox's storage). */
int metasync_owner_guid(struct mailbox *box, const struct metasync_place *place,
			guid_128_t guid_r);
/* Returns TRUE if it is the mail user that Dovecot makes for a shared namespace:
   it has no store, but may lead to the owner's. */
bool metasync_owner_created(struct mail_user *user);

/* Are attributes of this type those of a store? */
bool metasync_attribute_type_is_ours(struct mailbox *box,
				     enum mail_attribute_type type_flags);
/* Returns 1 if the attribute is an entry of a store: *name_r (data stack) of
   place_r->mailbox ("" is the server), 0 if not, -1 on failure (told to the
   storage). A key that ends with '/', or is empty, gives a name that does, too. */
int metasync_attribute_find(struct mailbox *box,
			    enum mail_attribute_type type_flags,
			    const char *key, struct metasync_place *place_r,
			    const char **name_r);
/* Tells the storage, and logs what the operator should know. */
void metasync_attribute_error(struct metasync_user *muser, struct mailbox *box,
			      const struct store_error *error);

/* Dovecot's mailbox attributes; see metasync-attribute.c and metasync-iter.c. */
int metasync_attribute_set(struct mailbox_transaction_context *t,
			   enum mail_attribute_type type_flags,
			   const char *key,
			   const struct mail_attribute_value *value);
int metasync_attribute_get(struct mailbox *box,
			   enum mail_attribute_type type_flags,
			   const char *key,
			   struct mail_attribute_value *value_r);
struct mailbox_attribute_iter *
metasync_attribute_iter_init(struct mailbox *box,
			     enum mail_attribute_type type_flags,
			     const char *prefix);
const char *metasync_attribute_iter_next(struct mailbox_attribute_iter *iter);
int metasync_attribute_iter_deinit(struct mailbox_attribute_iter *iter);
int metasync_transaction_commit(struct mailbox_transaction_context *t,
				struct mail_transaction_commit_changes *changes_r);
void metasync_transaction_rollback(struct mailbox_transaction_context *t);

/* Remembers changes to be written down by metasync_notes_flush(). only_look: to see
   whether their mailboxes are still there. */
void metasync_note(struct metasync_user *muser,
		   const struct store_change *changes, unsigned int count,
		   bool only_look);
void metasync_notes_flush(struct metasync_user *muser);

void metasync_mail_user_created(struct mail_user *user);
void metasync_mailbox_allocated(struct mailbox *box);

#endif
