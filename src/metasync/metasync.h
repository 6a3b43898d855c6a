#ifndef METASYNC_H
#define METASYNC_H

/* The storage plugin: opens one store per mail user on first use, keeps it in
   step with the user's mailboxes, and does its upkeep. Callers: the IMAP
   commands (XMETASYNC, XMETASET) and doveadm metasync.

   Ownership: the store belongs to the mail user; it is opened by the first
   metasync_user_store() and closed when the user is freed. */

#include "store.h"

struct mail_user;
struct mail_namespace;

/* TRUE if the user has the plugin (a user may have it disabled by userdb
   fields); all other functions may only be called then. */
bool metasync_user_is_enabled(struct mail_user *user);

/* The user's store, opened if needed; the first call of a session also compares
   the mailboxes that the store knows with those that exist (renames and
   deletions by processes without the plugin). A failure to open it is the
   caller's to log (metasync_user_log()) and is tried again at the next call.
   Returns 0, or -1 with *error_r. */
int metasync_user_store(struct mail_user *user, struct store **store_r,
			struct store_error *error_r);
/* The same for a reader who makes no store for a user who has never used one:
   *store_r is NULL then. */
int metasync_user_store_if_any(struct mail_user *user, struct store **store_r,
			       struct store_error *error_r);
/* If the store that will be opened is another user's, it is this one's from now
   on (store_settings.take_over). */
void metasync_user_take_over(struct mail_user *user);
/* The limits for this user; known even if the store cannot be opened. */
const struct store_limits *metasync_user_limits(struct mail_user *user);

/* Call after writes and when sessions end a long read: the upkeep (store_idle())
   runs from a timeout, after the reply has gone out. */
void metasync_user_upkeep(struct mail_user *user);

/* store_apply(), for all writers in Dovecot's processes: with events of what was
   committed or lost (see docs/operating.md), a warning before a limit is reached, and, if note is TRUE,
   notes for dsync, a moment later, of which attributes have changed (Dovecot's
   own transactions of attributes have made theirs). changes are not kept. */
enum store_status
metasync_apply(struct mail_user *user, struct store *store,
	       const struct store_change *changes, unsigned int count,
	       const struct store_condition *condition, bool note,
	       struct store_pos *pos_r, bool *lost_r,
	       struct store_error *error_r);

/* What an IMAP client is told of a store error (other than MODIFIED and RESET):
   "[CODE] Text." (data stack). */
const char *metasync_error_text(struct mail_user *user,
				const struct store_error *error);

/* Counts a store error that is told to whoever asked: the events
   metasync_limit_reached and metasync_failed (see docs/operating.md). */
void metasync_user_count(struct mail_user *user, enum store_status status);

/* Counts a store error, and logs it for the operator, the same one again after a
   minute at the earliest. What a client has caused (limits, names) is not
   logged. */
void metasync_user_log(struct mail_user *user,
		       const struct store_error *error);
/* What an operator is told of a store error: what happened, and what can be done
   about it (data stack). */
const char *metasync_error_log_text(const struct store_error *error);

/* TRUE for entries that the store does not hold: Dovecot computes them, or they
   are its own. mailbox and name as the store has them. */
bool metasync_entry_is_reserved(const char *mailbox, const char *name);
/* Which entry Dovecot's attribute key of a mailbox stands for: the server's
   (*server_r; if the mailbox is INBOX) or the mailbox's. *name_r is as the key is
   written (data stack). FALSE if it is internal to Dovecot. */
bool metasync_attribute_entry(bool pvt, const char *key, bool *server_r,
			      const char **name_r);

enum metasync_mailbox {
	/* The user's own and existing mailbox; the GUID is filled in. */
	METASYNC_MAILBOX_EXISTS,
	/* A valid name in the user's own namespaces, no such mailbox. */
	METASYNC_MAILBOX_MISSING,
	/* Not a valid mailbox name, or in no namespace. */
	METASYNC_MAILBOX_INVALID,
	/* In a namespace of other users or shared: for stock METADATA only. */
	METASYNC_MAILBOX_FOREIGN,
	/* ACLs: exists, but without the rights that stock METADATA asks for,
	   "l" and one of "rswip" (RFC 5464 section 4.1). */
	METASYNC_MAILBOX_NOPERM,
	/* Could not be found out (temporary); logged. */
	METASYNC_MAILBOX_FAILED
};

/* Calls back for each of the user's own mailboxes, whatever the rights, with its
   name in the store and its GUID (both until the callback returns). Returns
   FALSE if some could not be looked up. */
bool metasync_mailboxes_list(struct mail_user *user,
			     void (*callback)(const char *vname,
					      const uint8_t *guid,
					      void *context),
			     void *context);

/* An operator says that the mailboxes which are not there are gone for good: removes
   their entries, *removed_r is of how many, and takes those that are there for the
   right ones. Does nothing if there is no store. Returns 0, or -1 with *error_r. */
int metasync_mailboxes_purge(struct mail_user *user, unsigned int *removed_r,
			     struct store_error *error_r);

/* Looks a mailbox up. vname: UTF-8 ("inbox" in any case is INBOX). *vname_r is
   the name to use with the store (data stack). If look is FALSE, only the name
   and its namespace are checked (EXISTS then means: valid) and guid_r is not
   touched; else the mailbox is opened and, if a mailbox of this GUID was known
   under another name or this name under another GUID, the store is healed
   first (if it is open). */
enum metasync_mailbox
metasync_mailbox_find(struct mail_user *user, const char *vname, bool look,
		      const char **vname_r, char *separator_r,
		      uint8_t guid_r[16]);


/* For telling of changes. vname as the store has it. TRUE if the mailbox exists,
   but ACLs do not let the user read its metadata (see METASYNC_MAILBOX_NOPERM). */
bool metasync_mailbox_is_hidden(struct mail_user *user, const char *vname);
/* TRUE if the user is subscribed to the name now, whether it exists or not. */
bool metasync_mailbox_is_subscribed(struct mail_user *user, const char *vname);

#endif
