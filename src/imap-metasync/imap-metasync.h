#ifndef IMAP_METASYNC_H
#define IMAP_METASYNC_H

/* XMETASYNC and XMETASET: what the two commands share. The protocol is described
   in docs/protocol.md. */

#include "imap-common.h"
#include "imap-long-command.h"
#include "metasync.h"

struct imap_arg;

/* Entries named in one command, and changes in one set, at most. */
#define IMAP_METASYNC_MAX_ENTRIES 100

extern const struct imap_long_command_def imap_metasync_cmd_xmetasync;
extern const struct imap_long_command_def imap_metasync_cmd_xmetaset;

/* -- metasync-args.c ------------------------------------------------------- */

/* Why arguments were refused: text is a tagged reply, or a syntax error for
   imap_long_command_bad(). Texts are from lc->pool or constants. */
struct imap_metasync_refusal {
	const char *text;
	bool syntax;
	/* too much of something, or a name is too long */
	bool limit;
};

struct imap_metasync_watch {
	struct store_filter filter;
	/* SINCE, and the watch token that came with it */
	bool have_since;
	struct store_pos since;
	uint64_t since_token;
	/* this command's token: a hash of all that decides what is sent */
	uint64_t token;
	bool names, once, have_max_size;
	uint64_t max_size;
};

/* All memory is from lc->pool. Returns 0, or -1 with *refusal_r. */
int imap_metasync_parse_watch(struct imap_long_command *lc,
			      const struct imap_arg *args,
			      struct imap_metasync_watch *watch_r,
			      struct imap_metasync_refusal *refusal_r);

struct imap_metasync_set {
	struct store_condition condition;
	struct store_change *changes;
	size_t count;
};
/* The same. Values point into the arguments. */
int imap_metasync_parse_set(struct imap_long_command *lc,
			    const struct imap_arg *args,
			    struct imap_metasync_set *set_r,
			    struct imap_metasync_refusal *refusal_r);

void imap_metasync_refuse(struct imap_long_command *lc,
			  const struct imap_metasync_refusal *refusal);

/* -- metasync-reply.c ------------------------------------------------------ */

/* Sends METADATA responses; collects small ones. Owned by the command. */
struct imap_metasync_output {
	struct imap_long_command *lc;
	string_t *buf;
	/* the mailbox name converted last */
	string_t *vname, *mailbox;
	/* bytes sent since the caller set it to 0 */
	uoff_t bytes;
};

void imap_metasync_output_init(struct imap_metasync_output *output,
			       struct imap_long_command *lc);
void imap_metasync_output_deinit(struct imap_metasync_output *output);
/* * METADATA with the value (or NIL), or with the name only if it is not to be
   shown. Returns FALSE if it is time to stop. */
bool imap_metasync_output_entry(struct imap_metasync_output *output,
				const struct store_entry *entry);
void imap_metasync_output_line(struct imap_metasync_output *output,
			       const char *line);
/* Hands everything to the framework. Must be called at the end of a callback. */
void imap_metasync_output_flush(struct imap_metasync_output *output);

/* Logs the error if it is one for the operator, and ends the command. */
void imap_metasync_end_error(struct imap_long_command *lc,
			     const struct store_error *error);

/* -- cmd-notify.c ---------------------------------------------------------- */

/* What a NOTIFY has asked for. The mailboxes' names are as the store has them. */
struct imap_metasync_notify {
	/* of this struct and all that it points to */
	pool_t pool;
	/* Without selections: nothing is told. */
	struct store_filter filter;
	/* If subscribed is TRUE, changes that the filter selects are told only
	   of what "always" selects, too, and of mailboxes that are subscribed to
	   at that moment. */
	struct store_filter always;
	bool subscribed;
};

/* Puts ours in the place of Dovecot's NOTIFY, and back. */
void imap_metasync_cmd_notify_init(void);
void imap_metasync_cmd_notify_deinit(void);

/* -- metasync-announce.c --------------------------------------------------- */

/* With depth infinity: all entries. */
extern const char *const imap_metasync_all_entries[2];

void imap_metasync_announce_init(void);
void imap_metasync_announce_deinit(void);
/* For a new client whose user has the plugin. */
void imap_metasync_announce_client(struct client *client);
/* TRUE if that was done; needed for the functions about NOTIFY. */
bool imap_metasync_announce_is_known(struct client *client);

/* From XMETASYNC, after its marker at modseq: names of what has changed up to
   there and is not watched, for clients that are told of changes. store is the
   command's. Returns TRUE if there is more to tell: call it again when there is
   room in the output. */
bool imap_metasync_announce_others(struct client *client, struct store *store,
				   const struct store_filter *watched,
				   uint64_t modseq);
/* From XMETASYNC when it ends: what has changed since. */
void imap_metasync_announce_again(struct client *client);

/* Before NOTIFY with metadata events: changes are of interest from now on (or
   still are). Returns 0, or -1 with *error_r: the store cannot be read. */
int imap_metasync_announce_prepare(struct client *client,
				   struct store_error *error_r);
/* After NOTIFY: from now on just this is told, whether or not the client has done
   or will do ENABLE METADATA. Takes notify over. NULL: NOTIFY has failed, what
   is told stays as it was. */
void imap_metasync_announce_notify(struct client *client,
				   struct imap_metasync_notify *notify);

#endif
