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

/* Compares all mailboxes that the open store knows with those that exist. Returns
   FALSE if the store failed (logged). */
bool metasync_mailboxes_heal(struct metasync_user *muser);
/* The same if the store is open and has not been compared since something hinted
   at a difference (mailboxes_healed). */
void metasync_user_heal(struct metasync_user *muser);

/* Modules' contexts of mailboxes (all that metasync_mailbox_allocated() took)
   and of their transactions. */
extern MODULE_CONTEXT_DEFINE(metasync_storage_module,
			     &mail_storage_module_register);
const struct mailbox_vfuncs *metasync_mailbox_super(struct mailbox *box);
/* The mailbox's name in the store, for the user's own (data stack). */
const char *metasync_mailbox_name(struct mailbox *box, char *separator_r);

/* Dovecot's mailbox attributes; see metasync-attribute.c. */
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
