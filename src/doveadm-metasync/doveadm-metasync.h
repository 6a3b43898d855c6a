#ifndef DOVEADM_METASYNC_H
#define DOVEADM_METASYNC_H

/* Shared by the files of this folder only: what the commands have in common.

   A command's context begins with struct metasync_cmd. Functions that return
   int return 0, or -1 when the error has been told (i_error()) and the exit
   code is set, unless they say something else. Neither values nor names of
   entries are told: doveadm-server writes errors to the log. (cmd-import-dict.c
   tells names where there is no log.) */

#include "lib.h"
#include "guid.h"
#include "doveadm-mail.h"
#include "doveadm-print.h"
#include "metasync.h"

struct istream;

struct metasync_cmd {
	struct doveadm_mail_cmd_context ctx;

	/* As given; NULL: all of them. "" is the server. */
	const char *mailbox;
	/* As store_name_normalize() returns it; NULL: all of them. */
	const char *entry;
	/* The mailboxes below it, too */
	bool subtree;
};

/* A mailbox as the store names it. */
struct metasync_cmd_mailbox {
	const char *name;
	char separator;
	/* NULL: the server */
	const uint8_t *guid;
	guid_128_t guid_buf;
};

/* What mailbox, entry and subtree select. Don't copy it: it points into itself. */
struct metasync_cmd_filter {
	struct store_filter filter;
	struct store_selection selection;
	struct store_scope scope;
	struct metasync_cmd_mailbox mailbox;
	const char *entries[2];
};

/* -- arguments: called from init(), end the process if they are wrong */

/* Takes [MAILBOX [ENTRY]]. */
void metasync_cmd_selection_args(struct metasync_cmd *cmd,
				 const char *const args[], const char *name);
/* Takes an entry's name. filter: "/private" and "/shared", too. */
void metasync_cmd_entry_arg(struct metasync_cmd *cmd, const char *arg,
			    bool filter);
/* Parses "-s". */
bool metasync_cmd_parse_subtree(struct doveadm_mail_cmd_context *ctx, int c);
/* Sets ctx->cmd_input to the file that was given, or to standard input; several
   users can read it from its start. */
void metasync_cmd_input(struct metasync_cmd *cmd);

/* -- for one user: called from run() */

/* Keeps the first exit code; EX_TEMPFAIL overrides others. Returns -1. */
int metasync_cmd_exit(struct metasync_cmd *cmd, int code);
/* Tells a store's error. Returns -1. */
int metasync_cmd_failed(struct metasync_cmd *cmd, struct mail_user *user,
			const struct store_error *error);
/* Which words and exit code go with a store's error (data stack), to be told now:
   it is counted. */
const char *metasync_cmd_error(struct mail_user *user,
			       const struct store_error *error, int *code_r);

/* The user's store; made if there is none. */
int metasync_cmd_store(struct metasync_cmd *cmd, struct mail_user *user,
		       struct store **store_r);
/* *store_r is NULL if the user has none. */
int metasync_cmd_store_if_any(struct metasync_cmd *cmd, struct mail_user *user,
			      struct store **store_r);

/* Finds a mailbox. Returns NULL if it was found; else the error's words, and the
   exit code for it (data stack). */
const char *metasync_cmd_mailbox_find(struct mail_user *user, const char *vname,
				      struct metasync_cmd_mailbox *mailbox_r,
				      int *code_r);
int metasync_cmd_mailbox(struct metasync_cmd *cmd, struct mail_user *user,
			 struct metasync_cmd_mailbox *mailbox_r);
int metasync_cmd_filter(struct metasync_cmd *cmd, struct mail_user *user,
			struct metasync_cmd_filter *filter_r);

/* Reads from the cursor to the end. entry_callback is called inside the store's
   read transaction and must not wait for output; flush_callback (may be NULL)
   is called outside of it, after each part and at the end. */
int metasync_cmd_read(struct metasync_cmd *cmd, struct mail_user *user,
		      struct store *store, const struct store_read *req,
		      struct store_cursor *cursor,
		      store_entry_callback_t *entry_callback,
		      void (*flush_callback)(void *context), void *context);

/* -- writing */

/* NULL if the store takes an entry of this name: *name_r is what it is called there
   (data stack); else the error's words. */
const char *metasync_cmd_name(struct mail_user *user, const char *entry,
			      const char **name_r);

/* What became of changes. */
struct metasync_cmd_written {
	uint64_t set, removed;
	/* the same already */
	uint64_t unchanged;
	/* the store has something else */
	uint64_t kept;
};
/* Writes a set of changes, but for those that are there already. keep: what the
   store has, or remembers to have removed, stays as it is. Adds to *written if
   all went well. */
enum store_status
metasync_cmd_write_set(struct mail_user *user, struct store *store,
		       const struct store_change *changes, unsigned int count,
		       bool keep, struct metasync_cmd_written *written,
		       struct store_error *error_r);

/* Number columns, right justified. */
void metasync_cmd_print_number_header(const char *key);

extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_list;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_get;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_set;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_unset;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_watch;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_export;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_import;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_status;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_check;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_purge;
extern struct doveadm_cmd_ver2 doveadm_metasync_cmd_new_epoch;

#endif
