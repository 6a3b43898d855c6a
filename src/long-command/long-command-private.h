#ifndef LONG_COMMAND_PRIVATE_H
#define LONG_COMMAND_PRIVATE_H

/* Shared by the files of this folder only. See long-command.c for the tour. */

#include "imap-common.h"
#include "imap-long-command.h"

struct imap_arg;
struct imap_parser;
struct imap_sync_context;
struct long_command;
struct long_command_args;

/* -- long-command-args.c: a command line with its literals ---------------- */

enum long_command_args_result {
	/* wait for more input */
	LONG_COMMAND_ARGS_MORE,
	/* the whole line is here */
	LONG_COMMAND_ARGS_COMPLETE,
	/* the line is not wanted; all of it that the client sends has been
	   read. See long_command_args_get_refusal(). */
	LONG_COMMAND_ARGS_REFUSED
};

enum long_command_refusal {
	/* the text is a syntax error, for client_send_command_error() */
	LONG_COMMAND_REFUSAL_SYNTAX,
	/* over a limit: the text is a tagged reply */
	LONG_COMMAND_REFUSAL_LITERAL,
	LONG_COMMAND_REFUSAL_TOTAL
};

/* limits and its texts are copied. Free with long_command_args_free(). */
struct long_command_args *
long_command_args_init(const struct imap_long_command_limits *limits,
		       size_t max_line_size, bool literal_minus);
/* Reads a line only to drop it, with the literals that it announces. */
struct long_command_args *long_command_args_init_drop(const char *refusal);
void long_command_args_free(struct long_command_args **args);

/* Consumes what is buffered in input, up to the line's end. Sends "+ OK" to
   output for synchronizing literals. */
enum long_command_args_result
long_command_args_read(struct long_command_args *args, struct istream *input,
		       struct ostream *output);
/* The text lives as long as args. */
enum long_command_refusal
long_command_args_get_refusal(struct long_command_args *args,
			      const char **text_r);
/* Parses what was read. Returns 0, or -1 with an error (data stack). The
   arguments live until the caller unrefs *parser_r (NULL on error). */
int long_command_args_parse(struct long_command_args *args,
			    struct imap_parser **parser_r,
			    const struct imap_arg **args_r,
			    const char **error_r);

/* -- long-command-watch.c: one inotify watch per path and process --------- */

/* Calls long_command_wake() when path changes or may have changed. Removed by
   imap_long_command_watch_remove(). */
struct imap_long_command_watch *
long_command_watch_add(struct long_command *cmd, const char *path);

/* -- long-command.c: the life of a command -------------------------------- */

enum long_command_phase {
	LONG_COMMAND_PHASE_ARGS,	/* the command line is being read */
	LONG_COMMAND_PHASE_RUNNING,	/* start() has been called */
	LONG_COMMAND_PHASE_WRONG_LINE	/* a wrong line is being dropped */
};

struct long_command_settings {
	unsigned int output_timeout_msecs;
	unsigned int input_timeout_msecs;
	unsigned int check_interval_msecs;
};

/* -- long-command-plugin.c */
void long_command_settings_get(struct client *client,
			       struct long_command_settings *set_r);

struct long_command_reg {
	/* whole, also if the author's is shorter */
	struct imap_long_command_def def;
	const struct imap_long_command_def *author_def;
};

struct long_command_timer {
	struct long_command *cmd;
	struct timeout *to;
	bool fired;
};

struct long_command {
	struct imap_long_command lc;
	/* this one and not lc.def, which may be of an older version */
	const struct imap_long_command_def *def;
	struct long_command *prev, *next;
	struct client_command_context *cmd;
	struct long_command_settings set;
	enum long_command_phase phase;

	struct long_command_args *args;
	struct imap_parser *parser;

	struct imap_long_command_watch *watch;
	struct imap_sync_context *sync_ctx;
	struct long_command_timer timers[IMAP_LONG_COMMAND_TIMERS];
	struct timeout *to_run, *to_keepalive, *to_input, *to_output;

	/* what waited in the output at the last look while it was full */
	size_t blocked_size;

	/* the tagged reply; also says that the command is to end */
	const char *end_text;
	bool end_is_bad;

	/* what happened since the last step */
	bool changed:1, mailbox_changed:1, keepalive_due:1, input_full:1;
	bool closed:1, input_timed_out:1, output_timed_out:1;
	/* more() is wanted */
	bool want_more:1;
	/* more() goes on when to_run fires, and not before */
	bool yielding:1;
	/* no more input is for this command */
	bool done:1;
	/* the client's lines are left where they are */
	bool lines_held:1;
	bool mailbox_watched:1;
	/* client->io was replaced / is the one that reads for this command */
	bool io_taken:1, reading:1;
};

/* The first call of a command's func. */
bool long_command_start(struct client_command_context *cmd,
			const struct long_command_reg *reg,
			const struct long_command_settings *set);
/* Another command was executed. */
void long_command_other_executed(struct client_command_context *cmd);

/* Something happened outside the session's own I/O: marks the command and runs
   it in its own user's context, now or from a timeout. Must be the last thing
   in an I/O or timeout callback: with run_now the command may be gone, and
   another user's context be active than before. */
void long_command_wake(struct long_command *cmd, bool run_now);
/* Runs the command from a timeout. */
void long_command_run_later(struct long_command *c);
/* FALSE: the output is full, after having tried to send it. */
bool long_command_has_room(struct long_command *c);
/* Starts the keepalive's interval anew. */
void long_command_add_keepalive(struct long_command *c);

/* Callbacks of what the author asked for. */
void long_command_mailbox_notify(struct mailbox *box, struct long_command *c);
void long_command_timer_timeout(struct long_command_timer *timer);

#endif
