#ifndef IMAP_LONG_COMMAND_H
#define IMAP_LONG_COMMAND_H

/* Long-running IMAP commands for Dovecot, IDLE-like, without the riddles.

   A command author fills in struct imap_long_command_def, registers it from the
   plugin's init function, and works in callbacks. The framework owns
   everything that makes such commands hard: client->io, corks, locks,
   client_command_free(), client_destroy(), client_disconnect() and
   client_continue_pending_input() are never touched by the author.

   The rules of ownership:
   1. The framework owns the struct imap_long_command. It lives from before
      start() until finish() has returned.
   2. finish() is called exactly once for each command whose start() was called,
      whatever happens: an end of its own, DONE, a wrong line, a lost connection,
      a kick, the server's stop. Free in it what you allocated; nothing is called after it.
   3. lc->context is the author's; lc->pool may be used for what lives as long
      as the command and does not grow.
   4. Arguments given to start() live as long as the command (in lc->pool).
   5. Lines given to line() live until it returns.
   6. imap_long_command_end() does not return the command's death to you: lc is
      valid until your callback returns, and finish() comes after it.
   7. Timers, watches and the selected mailbox's watch are removed by the
      framework before finish().
   8. All callbacks run corked, in the user's context, inside a data stack frame;
      none is called while another one runs, nor while another command of
      the session is in the middle of its output.
   9. Callbacks must not block, nor run other IMAP commands, nor write to
      lc->client->output themselves.

   A plugin goes on working with later minor versions of the framework, without
   being compiled again: structs grow at their end only, enums too, and
   functions stay. What that needs is in docs/framework.md; what is declared
   here must not be changed in any other way. */

#include "imap-common.h"
#include "imap-arg.h"

/* Semantic version of this interface, not of the project. This is the only
   place that has it. */
#define IMAP_LONG_COMMAND_VERSION_MAJOR 1
#define IMAP_LONG_COMMAND_VERSION_MINOR 0
#define IMAP_LONG_COMMAND_VERSION_PATCH 0

/* A framework that has not got the function does not keep the plugin from being
   loaded, which would end each login; the plugin is refused when it registers
   its commands. */
#define IMAP_LONG_COMMAND_API __attribute__((weak))

struct imap_long_command;
struct imap_long_command_watch;

enum imap_long_command_why {
	/* imap_long_command_end() or imap_long_command_bad(): the tagged reply
	   is sent after finish() */
	IMAP_LONG_COMMAND_ENDED,
	/* the client sent something else than DONE; it gets a tagged BAD
	   (def->wrong_line_text) */
	IMAP_LONG_COMMAND_WRONG_LINE,
	/* the connection is closed or being closed, the server stops or the
	   command was cancelled: nothing can be sent */
	IMAP_LONG_COMMAND_CANCELLED
	/* later versions may have more */
};

/* How much a command line may hold. Texts are the tagged replies without the
   tag, e.g. "NO [LIMIT] Too much." */
struct imap_long_command_limits {
	/* A literal larger than this many bytes gets literal_text. Default:
	   imap_max_line_length. */
	size_t literal;
	const char *literal_text;
	/* All arguments together; more gets total_text. Default: 16 MiB. */
	size_t total;
	const char *total_text;
};

/* What a command is. Later versions add members at the end; zero is what an older
   plugin means by them. */
struct imap_long_command_def {
	/* Upper case, e.g. "XCLOCK" */
	const char *name;
	/* TRUE: the command waits until other commands of the session that use
	   the selected mailbox have ended, as IDLE does. Needed for
	   imap_long_command_watch_mailbox(), and for commands that may send
	   more than 32 kB: while their output is blocked they hold it, and
	   Dovecot's core asserts that no SEARCH ends beside them. */
	bool uses_mailbox;
	/* TRUE: what the tagged replies say is not given to Dovecot's events, but
	   for OK, NO or BAD. */
	bool private_reply;
	/* The tagged reply to a line that is not understood, without the tag.
	   NULL: "BAD Expected DONE." */
	const char *wrong_line_text;

	/* -- callbacks; all but start() may be NULL */

	/* Before the arguments are read (no start() yet; lc->context is NULL):
	   change the defaults in *limits. Texts may be from the data stack. NULL:
	   the defaults are good. */
	void (*limits)(struct imap_long_command *lc,
		       struct imap_long_command_limits *limits);
	/* Instead of start(): a literal (else all arguments together) was over
	   the limits. The command ends with the limit's text, unless it is
	   ended here. NULL: nobody counts it. */
	void (*over_limits)(struct imap_long_command *lc, bool literal);
	/* All arguments have been read, literals of any size included (NULs are
	   possible in literal8 and literals: use the length). Ends in
	   IMAP_ARG_EOL. A short command ends itself here. */
	void (*start)(struct imap_long_command *lc,
		      const struct imap_arg *args);
	/* DONE was received (any case of letters). End now, or send what has to
	   be sent first and end then; no more input is read. NULL: ends at once
	   with "OK <name> completed." */
	void (*done)(struct imap_long_command *lc);
	/* A line that is not DONE, without its CRLF. Return FALSE if it is not
	   understood: the command ends with def->wrong_line_text. NULL: none
	   is. */
	bool (*line)(struct imap_long_command *lc, const char *line);
	/* The watched path changed, or may have changed. */
	void (*change)(struct imap_long_command *lc);
	void (*timer)(struct imap_long_command *lc, unsigned int id);
	/* There is room in the output and you have asked for this by
	   imap_long_command_more(). Send until imap_long_command_send() returns
	   FALSE or there is nothing left; return TRUE to be called again. */
	bool (*more)(struct imap_long_command *lc);
	/* It is time for a sign of life and nothing waits in the output. Send
	   something; if nothing was sent "* OK Still here" is. NULL: that. */
	void (*keepalive)(struct imap_long_command *lc);
	/* The end. See rule 2. Nothing may be sent. */
	void (*finish)(struct imap_long_command *lc,
		       enum imap_long_command_why why);
};

/* A running command. Later versions add members at the end. */
struct imap_long_command {
	/* For reading: user, namespaces, settings, the selected mailbox,
	   enabled features. */
	struct client *client;
	/* As it was registered. */
	const struct imap_long_command_def *def;
	pool_t pool;
	/* The author's. */
	void *context;
};

/* From the plugin's init function, for each of its commands. def must stay valid
   up to imap_long_command_unregister(). The plugin must name
   "imap_long_command" in its dependencies, and have a file name that sorts
   behind lib05_. FALSE: it was refused, and the log says why: the framework
   is older than this header, or has another major version, or there is a
   command of this name (Dovecot's own count), or def has no name or no start().
   Its clients get BAD then, as for any unknown command. */
#define imap_long_command_register(def) \
	imap_long_command_register_for(def, IMAP_LONG_COMMAND_VERSION_MAJOR, \
				       IMAP_LONG_COMMAND_VERSION_MINOR, \
				       sizeof(struct imap_long_command_def))
/* What the macro calls. Stays as it is in all major versions. */
bool imap_long_command_register_for(const struct imap_long_command_def *def,
				    unsigned int major, unsigned int minor,
				    size_t def_size);
/* From the plugin's deinit function. Nothing happens if it was refused. */
IMAP_LONG_COMMAND_API
void imap_long_command_unregister(const struct imap_long_command_def *def);

/* Sends size bytes: whole responses with their CRLF. One response may be sent in
   several calls from one callback. Returns FALSE if the output is full: what
   was given is still sent, but stop, and go on in more(). */
IMAP_LONG_COMMAND_API
bool imap_long_command_send(struct imap_long_command *lc,
			    const void *data, size_t size);
/* The same for a text line; CRLF is added. */
IMAP_LONG_COMMAND_API
bool imap_long_command_send_line(struct imap_long_command *lc,
				 const char *line);

/* Calls more() when there is room, after this callback has returned. */
IMAP_LONG_COMMAND_API
void imap_long_command_more(struct imap_long_command *lc);

/* The client sends nothing to this command: what follows its line are its next
   commands. For commands that are not ended by DONE; call it in start(). */
IMAP_LONG_COMMAND_API
void imap_long_command_no_input(struct imap_long_command *lc);

/* TRUE: the client's lines (DONE is one) are not looked at until it is FALSE
   again. For commands that must not be interrupted in what they send; call it in
   start(), more() ... A client that closes the connection is noticed later. */
IMAP_LONG_COMMAND_API
void imap_long_command_hold_lines(struct imap_long_command *lc, bool hold);

/* A setting of the client's user (plugin {} or a userdb field) that is a time, in
   milliseconds; the default if it is not set, or wrong, which is logged. */
IMAP_LONG_COMMAND_API
unsigned int imap_long_command_get_msecs(struct client *client,
					 const char *key,
					 unsigned int default_msecs);

/* Ends the command with a tagged reply, e.g. "OK Clock stopped.". The first
   call counts. */
IMAP_LONG_COMMAND_API
void imap_long_command_end(struct imap_long_command *lc, const char *text);
/* Ends the command with "BAD Error in IMAP command <name>: <error>" and counts
   as a client's mistake (Dovecot disconnects after 20 in a row). */
IMAP_LONG_COMMAND_API
void imap_long_command_bad(struct imap_long_command *lc, const char *error);

/* Calls timer(id) once after msecs milliseconds. id: 0 ..
   IMAP_LONG_COMMAND_TIMERS-1. Setting it again moves it. */
#define IMAP_LONG_COMMAND_TIMERS 4
IMAP_LONG_COMMAND_API
void imap_long_command_set_timer(struct imap_long_command *lc,
				 unsigned int id, unsigned int msecs);
IMAP_LONG_COMMAND_API
void imap_long_command_stop_timer(struct imap_long_command *lc,
				  unsigned int id);

/* Calls change() when the file changes: by inotify, and by a slow check (plugin
   setting imap_long_command_check_interval, default 30 s) in case an event was
   lost or the file replaced. If inotify is exhausted, change() comes once a
   second. One path per command; path is copied. Check for changes yourself once
   after this call. */
IMAP_LONG_COMMAND_API
void imap_long_command_watch_path(struct imap_long_command *lc,
				  const char *path);
/* The same for others than commands: callback(context) is called in client's
   context, outside of any command, at any time between I/O; what it may write
   then is its own business. Remove it before client is gone; in the callback,
   too. */
typedef void imap_long_command_watch_callback_t(void *context);
IMAP_LONG_COMMAND_API
struct imap_long_command_watch *
imap_long_command_watch_add(struct client *client, const char *path,
			    imap_long_command_watch_callback_t *callback,
			    void *context);
#define imap_long_command_watch_add(client, path, callback, context) \
	imap_long_command_watch_add(client, path - \
		CALLBACK_TYPECHECK(callback, void (*)(typeof(context))), \
		(imap_long_command_watch_callback_t *)callback, context)
/* Sets *watch to NULL. NULL is fine. */
IMAP_LONG_COMMAND_API
void imap_long_command_watch_remove(struct imap_long_command_watch **watch);
/* Reports changes of the selected mailbox (if any) to the client, exactly as
   IDLE does. Needs def->uses_mailbox. */
IMAP_LONG_COMMAND_API
void imap_long_command_watch_mailbox(struct imap_long_command *lc);
/* Starts signs of life, by Dovecot's own imap_idle_notify_interval. */
IMAP_LONG_COMMAND_API
void imap_long_command_keepalive(struct imap_long_command *lc);

#endif
