#ifndef LONG_COMMAND_PRIVATE_H
#define LONG_COMMAND_PRIVATE_H

/* Shared by the files of this folder only. See long-command.c for the tour. */

#include "imap-common.h"
#include "imap-long-command.h"

struct imap_arg;
struct imap_parser;
struct imap_sync_context;
struct long_command;
struct long_command_watch;

/* -- long-command-args.c: a command line with its literals ---------------- */

struct long_command_args;

enum long_command_args_result {
	/* wait for more input */
	LONG_COMMAND_ARGS_MORE,
	/* the whole line is here */
	LONG_COMMAND_ARGS_COMPLETE,
	/* the line is not wanted; all of it that the client sends has been
	   read. See long_command_args_get_refusal(). */
	LONG_COMMAND_ARGS_REFUSED
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
/* TRUE: text is a syntax error (for client_send_command_error()), FALSE: text is
   a tagged reply. Lives as long as args. */
bool long_command_args_get_refusal(struct long_command_args *args,
				   const char **text_r);
/* Parses what was read. Returns 0, or -1 with an error (data stack). The
   arguments live until the caller unrefs *parser_r (NULL on error). */
int long_command_args_parse(struct long_command_args *args,
			    struct imap_parser **parser_r,
			    const struct imap_arg **args_r,
			    const char **error_r);

/* -- long-command-watch.c: one inotify watch per path and process --------- */

/* Calls long_command_wake() when path changes or may have changed. */
struct long_command_watch *
long_command_watch_add(struct long_command *cmd, const char *path,
		       unsigned int check_interval_msecs);
void long_command_watch_remove(struct long_command_watch **watch,
			       struct long_command *cmd);

/* -- long-command.c -------------------------------------------------------- */

/* Something happened outside the session's own I/O: marks the command and runs
   it from a timeout in its own user's context. */
void long_command_wake(struct long_command *cmd);

#endif
