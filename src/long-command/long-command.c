/* The life of a long-running command. See imap-long-command.h for the author's
   side.

   There is one function that Dovecot's core knows: long_command_step(), the
   command's func. And there is one way in which the command runs by itself:
   long_command_run(), which does around the step what core does in
   client_input() and client_output(): cork, execute, free or keep, uncork,
   continue pending input. Every I/O callback and timeout only notes what
   happened and ends in long_command_run(); afterwards neither the command nor
   the client may be touched.

   At the end of a step the command is in one of these states:
   - waiting: WAIT_INPUT, input_lock is ours, client->io is ours.
   - blocked: WAIT_OUTPUT, output_cmd_lock is ours, input_lock is free,
     client->io only looks for a lost connection. (WAIT_OUTPUT together with
     input_lock would make client_handle_input() run us in a loop; stock
     client_input() would panic if the client sent more than its input
     buffer holds.)
   - aside: another command of the session is in the middle of its output and
     has output_cmd_lock: nothing is read or written until it is done. The
     hook after each command's execution (long-command-plugin.c) brings us back.
   - finished: the step returned TRUE and whoever called it frees the command. */

#include "long-command-private.h"
#include "ioloop.h"
#include "istream.h"
#include "ostream.h"
#include "llist.h"
#include "master-service.h"
#include "mail-storage-service.h"
#include "imap-commands.h"
#include "imap-keepalive.h"
#include "imap-parser.h"
#include "imap-sync.h"

#include <poll.h>

/* The output is full when this many bytes wait in it. */
#define LONG_COMMAND_OUTPUT_FULL_SIZE (32*1024)
/* After this many calls of more() the other clients of the process get a turn. */
#define LONG_COMMAND_MORE_MAX 16
#define LONG_COMMAND_MAX_ARGS_SIZE (16*1024*1024)

static struct long_command *long_commands = NULL;

/* -- running by itself ---------------------------------------------------- */

static void long_command_run(struct long_command *c)
{
	struct client_command_context *cmd = c->cmd;
	struct client *client = cmd->client;
	struct ostream *output = client->output;
	bool corked = o_stream_is_corked(output);

	o_stream_ref(output);
	if (!corked)
		o_stream_cork(output);
	if (command_exec(cmd))
		client_command_free(&cmd);
	else
		(void)client_handle_unfinished_cmd(cmd);
	if (!corked)
		o_stream_uncork(output);
	o_stream_unref(&output);
	client_continue_pending_input(client);
}

static void long_command_run_timeout(struct long_command *c)
{
	timeout_remove(&c->to_run);
	c->yielding = FALSE;
	long_command_run(c);
}

void long_command_run_later(struct long_command *c)
{
	if (c->to_run == NULL)
		c->to_run = timeout_add_short(0, long_command_run_timeout, c);
}

/* The caller may be in another user's context, or in none. Afterwards the ioloop
   leaves whichever is active; the caller's may be gone. */
static void long_command_activate_user(struct long_command *c)
{
	struct ioloop_context *ctx =
		io_loop_get_current_context(current_ioloop);

	if (ctx != NULL)
		io_loop_context_deactivate(ctx);
	mail_storage_service_io_activate_user(c->lc.client->service_user);
}

void long_command_wake(struct long_command *c, bool run_now)
{
	c->changed = TRUE;
	if (c->to_run != NULL || c->lc.client->output_cmd_lock == c->cmd) {
		/* will run anyway, the latter when there is room again */
		return;
	}
	long_command_activate_user(c);
	if (run_now)
		long_command_run(c);
	else
		long_command_run_later(c);
}

static bool long_command_is_aside(struct long_command *c)
{
	return c->lc.client->output_cmd_lock != NULL &&
		c->lc.client->output_cmd_lock != c->cmd;
}

static void long_command_input(struct long_command *c)
{
	struct client *client = c->lc.client;

	if (!long_command_is_aside(c)) {
		client->last_input = ioloop_time;
		timeout_reset(client->to_idle);
		if (c->to_input != NULL)
			timeout_reset(c->to_input);
		switch (i_stream_read(client->input)) {
		case -1:
			c->closed = TRUE;
			break;
		case -2:
			c->input_full = TRUE;
			break;
		}
	}
	long_command_run(c);
}

static void long_command_hangup(struct long_command *c)
{
	struct pollfd fd = { .fd = c->lc.client->fd_in };

	/* core may have made the I/O pending for its own reasons */
	if (poll(&fd, 1, 0) > 0 &&
	    (fd.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0)
		c->closed = TRUE;
	long_command_run(c);
}

void long_command_mailbox_notify(struct mailbox *box ATTR_UNUSED,
				 struct long_command *c)
{
	c->mailbox_changed = TRUE;
	/* Dovecot's inotify watches are all called in the context of whoever
	   added the first one */
	long_command_activate_user(c);
	long_command_run(c);
}

static void long_command_keepalive_timeout(struct long_command *c)
{
	c->keepalive_due = TRUE;
	long_command_run(c);
}

static void long_command_input_timeout(struct long_command *c)
{
	c->input_timed_out = TRUE;
	long_command_run(c);
}

static void long_command_output_timeout(struct long_command *c)
{
	c->output_timed_out = TRUE;
	long_command_run(c);
}

void long_command_timer_timeout(struct long_command_timer *timer)
{
	timeout_remove(&timer->to);
	timer->fired = TRUE;
	long_command_run(timer->cmd);
}

/* -- the end -------------------------------------------------------------- */

static void long_command_detach(struct long_command *c)
{
	struct client *client = c->lc.client;
	unsigned int i;

	DLLIST_REMOVE(&long_commands, c);
	for (i = 0; i < N_ELEMENTS(c->timers); i++)
		timeout_remove(&c->timers[i].to);
	timeout_remove(&c->to_run);
	timeout_remove(&c->to_keepalive);
	timeout_remove(&c->to_input);
	timeout_remove(&c->to_output);
	imap_long_command_watch_remove(&c->watch);
	if (c->sync_ctx != NULL) {
		/* only if the connection is lost */
		(void)imap_sync_deinit(c->sync_ctx, c->cmd);
		c->sync_ctx = NULL;
	}
	if (c->mailbox_watched && client->mailbox != NULL)
		mailbox_notify_changes_stop(client->mailbox);
	if (c->io_taken) {
		/* core adds its own when it needs it */
		io_remove(&client->io);
	}
	if (client->output_cmd_lock == c->cmd)
		client->output_cmd_lock = NULL;
	c->cmd->context = NULL;
	if (c->input_full) {
		/* for whoever reads next */
		i_stream_set_input_pending(client->input, TRUE);
	}
}

static void long_command_send_reply(struct long_command *c)
{
	struct client_command_context *cmd = c->cmd;

	if (c->end_is_bad)
		client_send_command_error(cmd, c->end_text);
	else
		client_send_tagline(cmd, c->end_text);
	if (c->def->private_reply && cmd->tagline_reply != NULL) {
		/* for the event of the command's end */
		cmd->tagline_reply = p_strdup(cmd->pool,
			t_strcut(cmd->tagline_reply, ' '));
	}
}

/* Always followed by returning TRUE from the step, which frees the command. */
static void
long_command_finish(struct long_command *c, enum imap_long_command_why why)
{
	bool started = c->phase != LONG_COMMAND_PHASE_ARGS;

	long_command_detach(c);
	if (started && c->def->finish != NULL)
		c->def->finish(&c->lc, why);
	if (c->end_text != NULL)
		long_command_send_reply(c);
	if (c->args != NULL)
		long_command_args_free(&c->args);
	if (c->parser != NULL)
		imap_parser_unref(&c->parser);
	pool_unref(&c->lc.pool);
}

/* Returns the step's result. */
static bool long_command_disconnect(struct long_command *c, const char *reason)
{
	/* this only marks the client; it is destroyed by the next
	   client_continue_pending_input() or from a timeout */
	client_disconnect(c->lc.client, reason);
	if (long_command_is_aside(c)) {
		/* a command cannot be freed now */
		return FALSE;
	}
	c->end_text = NULL;
	long_command_finish(c, IMAP_LONG_COMMAND_CANCELLED);
	return TRUE;
}

/* -- the states at the end of a step -------------------------------------- */

/* Core arms this when any command's output blocks and removes it only when no
   command is left: a waiting command that was blocked once would be
   disconnected after five quiet minutes. */
static void long_command_stop_core_output_timeout(struct client *client)
{
	const struct client_command_context *cmd = client->command_queue;

	for (; cmd != NULL; cmd = cmd->next) {
		if (cmd->state == CLIENT_COMMAND_STATE_WAIT_OUTPUT)
			return;
	}
	timeout_remove(&client->to_idle_output);
}

static void long_command_watch_hangup(struct long_command *c)
{
	struct client *client = c->lc.client;

	io_remove(&client->io);
	client->io = io_add(client->fd_in, IO_ERROR, long_command_hangup, c);
	c->io_taken = TRUE;
	c->reading = FALSE;
}

static void long_command_watch_input(struct long_command *c)
{
	struct client *client = c->lc.client;

	if (c->reading && client->io != NULL)
		return;
	io_remove(&client->io);
	client->io = io_add_istream(client->input, long_command_input, c);
	c->io_taken = TRUE;
	c->reading = TRUE;
}

/* What is behind a full buffer may be here already, decompressed: no event will
   tell of it. Not before there is room for it, or the ioloop would call us for
   ever. */
static void long_command_read_on(struct long_command *c)
{
	struct istream *input = c->lc.client->input;

	if (c->input_full && i_stream_get_data_size(input) <
	    i_stream_get_max_buffer_size(input)) {
		c->input_full = FALSE;
		i_stream_set_input_pending(input, TRUE);
	}
}

static bool long_command_wait(struct long_command *c)
{
	struct client *client = c->lc.client;

	c->cmd->state = CLIENT_COMMAND_STATE_WAIT_INPUT;
	client->input_lock = c->cmd;
	long_command_stop_core_output_timeout(client);
	timeout_remove(&c->to_output);
	if (c->to_input == NULL &&
	    (c->to_keepalive == NULL ||
	     c->phase == LONG_COMMAND_PHASE_WRONG_LINE)) {
		/* also for a wrong line, which may never end */
		c->to_input = timeout_add(c->set.input_timeout_msecs,
					  long_command_input_timeout, c);
	}
	if (c->done || c->lines_held) {
		/* what follows is the next command, or waits */
		long_command_watch_hangup(c);
	} else {
		long_command_watch_input(c);
		long_command_read_on(c);
	}
	return FALSE;
}

static bool long_command_block(struct long_command *c)
{
	struct client *client = c->lc.client;
	size_t size;

	c->cmd->state = CLIENT_COMMAND_STATE_WAIT_OUTPUT;
	if (client->input_lock == c->cmd)
		client->input_lock = NULL;
	client->output_cmd_lock = c->cmd;
	o_stream_set_flush_pending(client->output, TRUE);
	long_command_watch_hangup(c);
	timeout_remove(&c->to_input);

	size = o_stream_get_buffer_used_size(client->output);
	if (c->to_output == NULL) {
		c->to_output = timeout_add(c->set.output_timeout_msecs,
					   long_command_output_timeout, c);
	} else if (size < c->blocked_size) {
		timeout_reset(c->to_output);
	}
	c->blocked_size = size;
	return FALSE;
}

static bool long_command_stand_aside(struct long_command *c)
{
	struct client *client = c->lc.client;

	c->cmd->state = CLIENT_COMMAND_STATE_WAIT_INPUT;
	client->input_lock = c->cmd;
	long_command_watch_hangup(c);
	/* its reader may need longer than that */
	timeout_remove(&c->to_input);
	return FALSE;
}

bool long_command_has_room(struct long_command *c)
{
	struct ostream *output = c->lc.client->output;

	if (o_stream_get_buffer_used_size(output) <
	    LONG_COMMAND_OUTPUT_FULL_SIZE)
		return TRUE;
	return o_stream_flush(output) >= 0 &&
		o_stream_get_buffer_used_size(output) <
		LONG_COMMAND_OUTPUT_FULL_SIZE;
}

/* -- one step ------------------------------------------------------------- */

static void long_command_args_refused(struct long_command *c)
{
	const struct imap_long_command_def *def = c->def;
	enum long_command_refusal refusal;
	const char *text;

	refusal = long_command_args_get_refusal(c->args, &text);
	if (refusal == LONG_COMMAND_REFUSAL_SYNTAX) {
		imap_long_command_bad(&c->lc, text);
		return;
	}
	if (def->over_limits != NULL) {
		def->over_limits(&c->lc,
			       refusal == LONG_COMMAND_REFUSAL_LITERAL);
	}
	imap_long_command_end(&c->lc, text);
}

/* Returns TRUE if arguments were read and start() was called. */
static bool long_command_read_args(struct long_command *c)
{
	struct client *client = c->lc.client;
	const struct imap_arg *args;
	const char *error;

	switch (long_command_args_read(c->args, client->input,
				       client->output)) {
	case LONG_COMMAND_ARGS_MORE:
		return FALSE;
	case LONG_COMMAND_ARGS_REFUSED:
		client->input_skip_line = FALSE;
		long_command_args_refused(c);
		return FALSE;
	case LONG_COMMAND_ARGS_COMPLETE:
		break;
	}
	client->input_skip_line = FALSE;
	if (long_command_args_parse(c->args, &c->parser, &args, &error) < 0) {
		imap_long_command_bad(&c->lc, error);
		return FALSE;
	}
	long_command_args_free(&c->args);
	timeout_remove(&c->to_input);

	c->phase = LONG_COMMAND_PHASE_RUNNING;
	c->def->start(&c->lc, args);
	return TRUE;
}

static void long_command_drop_line(struct long_command *c)
{
	struct client *client = c->lc.client;
	const char *text;

	if (c->args == NULL) {
		text = c->def->wrong_line_text;
		c->args = long_command_args_init_drop(
			text != NULL ? text : "BAD Expected DONE.");
		c->phase = LONG_COMMAND_PHASE_WRONG_LINE;
	}
	if (long_command_args_read(c->args, client->input, client->output) ==
	    LONG_COMMAND_ARGS_MORE)
		return;
	(void)long_command_args_get_refusal(c->args, &text);
	c->end_text = p_strdup(c->lc.pool, text);
}

/* Returns FALSE if the output is full: short lines may ask for much. */
static bool long_command_handle_lines(struct long_command *c)
{
	struct client *client = c->lc.client;
	const struct imap_long_command_def *def = c->def;
	const unsigned char *data, *lf;
	const char *line;
	size_t size, len;

	while (!c->done && !c->lines_held && c->end_text == NULL) {
		if (!long_command_has_room(c))
			return FALSE;
		data = i_stream_get_data(client->input, &size);
		lf = memchr(data, '\n', size);
		if (lf == NULL) {
			if (size >= i_stream_get_max_buffer_size(client->input))
				long_command_drop_line(c);
			return TRUE;
		}
		len = lf - data;
		if (len > 0 && data[len-1] == '\r')
			len--;
		line = t_strndup(data, len);
		if (len == 4 && strcasecmp(line, "DONE") == 0) {
			i_stream_skip(client->input, lf - data + 1);
			c->done = TRUE;
			if (def->done != NULL)
				def->done(&c->lc);
			else
				imap_long_command_end(&c->lc, t_strdup_printf(
					"OK %s completed.", c->def->name));
		} else if (def->line != NULL && strlen(line) == len &&
			   def->line(&c->lc, line)) {
			i_stream_skip(client->input, lf - data + 1);
		} else {
			long_command_drop_line(c);
			return TRUE;
		}
	}
	return TRUE;
}

/* Returns FALSE if the output is full. */
static bool long_command_sync_mailbox(struct long_command *c)
{
	struct client *client = c->lc.client;

	for (;;) {
		if (c->sync_ctx == NULL) {
			if (!c->mailbox_changed || client->disconnected)
				return TRUE;
			c->mailbox_changed = FALSE;
			c->sync_ctx = imap_sync_init(client, client->mailbox,
						     0, 0);
		}
		if (imap_sync_more(c->sync_ctx) == 0)
			return FALSE;
		if (imap_sync_deinit(c->sync_ctx, c->cmd) < 0) {
			client_send_untagged_storage_error(client,
				mailbox_get_storage(client->mailbox));
			mailbox_notify_changes_stop(client->mailbox);
			c->mailbox_watched = FALSE;
			c->mailbox_changed = FALSE;
		}
		c->sync_ctx = NULL;
	}
}

void long_command_add_keepalive(struct long_command *c)
{
	struct client *client = c->lc.client;
	unsigned int interval = client->set->imap_idle_notify_interval;

	timeout_remove(&c->to_keepalive);
	if (interval == 0)
		return;
	/* as in IDLE: waiting is not being idle. Here, and not when the sign of
	   life is sent: a command that always has something else to tell needs
	   none. But when Dovecot has stopped, this timer is the one that ends
	   the session (main.c, imap_die()). */
	if (!master_service_is_master_stopped(master_service))
		timeout_reset(client->to_idle);
	interval = imap_keepalive_interval_msecs(client->user->username,
						 client->user->conn.remote_ip,
						 interval);
	c->to_keepalive = timeout_add(interval,
				      long_command_keepalive_timeout, c);
}

static void long_command_send_keepalive(struct long_command *c)
{
	struct client *client = c->lc.client;
	uoff_t offset = client->output->offset;

	c->keepalive_due = FALSE;
	if (o_stream_get_buffer_used_size(client->output) == 0) {
		if (c->def->keepalive != NULL)
			c->def->keepalive(&c->lc);
		if (client->output->offset == offset && c->end_text == NULL)
			imap_long_command_send_line(&c->lc, "* OK Still here");
	}
	long_command_add_keepalive(c);
}

static void long_command_dispatch(struct long_command *c)
{
	const struct imap_long_command_def *def = c->def;
	unsigned int i;

	if (c->changed) {
		c->changed = FALSE;
		if (def->change != NULL)
			def->change(&c->lc);
	}
	for (i = 0; i < N_ELEMENTS(c->timers) && c->end_text == NULL; i++) {
		if (c->timers[i].fired) {
			c->timers[i].fired = FALSE;
			if (def->timer != NULL)
				def->timer(&c->lc, i);
		}
	}
	if (c->keepalive_due && c->end_text == NULL)
		long_command_send_keepalive(c);
}

/* Returns FALSE if the output is full. */
static bool long_command_work(struct long_command *c)
{
	unsigned int calls = 0;

	for (;;) {
		if (!long_command_sync_mailbox(c))
			return FALSE;
		if (c->lc.client->disconnected)
			return TRUE;
		if (!long_command_handle_lines(c))
			return FALSE;
		if (c->phase != LONG_COMMAND_PHASE_RUNNING ||
		    c->end_text != NULL)
			return TRUE;
		long_command_dispatch(c);
		if (c->end_text != NULL)
			return TRUE;
		if (!long_command_has_room(c))
			return FALSE;
		if (!c->want_more)
			return TRUE;
		if (calls++ == LONG_COMMAND_MORE_MAX) {
			c->yielding = TRUE;
			long_command_run_later(c);
			return TRUE;
		}
		T_BEGIN {
			c->want_more = c->def->more(&c->lc);
		} T_END;
		if (c->end_text != NULL)
			return TRUE;
	}
}

/* Returns TRUE if the command can go on, FALSE if *finished_r is the step's
   result. */
static bool long_command_step_begin(struct long_command *c, bool *finished_r)
{
	struct client *client = c->lc.client;

	*finished_r = FALSE;
	if (c->closed || client->output->closed || client->disconnected ||
	    client->output->stream_errno != 0) {
		*finished_r = long_command_disconnect(c, NULL);
		return FALSE;
	}
	if (c->input_timed_out) {
		client_send_line(client, "* BYE Disconnected for inactivity.");
		*finished_r = long_command_disconnect(c,
						      "Inactivity");
		return FALSE;
	}
	if (c->output_timed_out) {
		*finished_r = long_command_disconnect(c,
			"Client has not read server output");
		return FALSE;
	}
	if (long_command_is_aside(c)) {
		(void)long_command_stand_aside(c);
		return FALSE;
	}
	if (client->output_cmd_lock == c->cmd) {
		if (!long_command_has_room(c)) {
			(void)long_command_block(c);
			return FALSE;
		}
		/* it has been read: the next time-out starts from here */
		timeout_remove(&c->to_output);
		client->output_cmd_lock = NULL;
		i_assert(client->input_lock == NULL);
		client->input_lock = c->cmd;
	}
	if (c->yielding) {
		(void)long_command_wait(c);
		return FALSE;
	}
	return TRUE;
}

static bool long_command_step_inside(struct long_command *c)
{
	struct client *client = c->lc.client;
	uoff_t offset = client->output->offset;
	bool room = TRUE, finished;

	if (!long_command_step_begin(c, &finished))
		return finished;

	if (c->phase == LONG_COMMAND_PHASE_WRONG_LINE)
		long_command_drop_line(c);
	else if (c->phase == LONG_COMMAND_PHASE_RUNNING ||
		 long_command_read_args(c)) {
		if (c->end_text == NULL)
			room = long_command_work(c);
	}

	if (client->disconnected || client->output->closed ||
	    client->output->stream_errno != 0)
		return long_command_disconnect(c, NULL);
	if (c->sync_ctx != NULL) {
		/* a mailbox change is half told: finish it first */
		return long_command_block(c);
	}
	if (c->end_text != NULL) {
		long_command_finish(c,
			c->phase == LONG_COMMAND_PHASE_WRONG_LINE ?
			IMAP_LONG_COMMAND_WRONG_LINE :
			IMAP_LONG_COMMAND_ENDED);
		return TRUE;
	}
	if (c->to_keepalive != NULL && client->output->offset != offset)
		long_command_add_keepalive(c);
	return room ? long_command_wait(c) : long_command_block(c);
}

static bool long_command_step(struct client_command_context *cmd)
{
	struct long_command *c = cmd->context;
	pool_t pool = c->lc.pool;
	bool finished;

	pool_ref(pool);
	T_BEGIN {
		if (cmd->cancel) {
			c->end_text = NULL;
			long_command_finish(c, IMAP_LONG_COMMAND_CANCELLED);
			finished = TRUE;
		} else {
			finished = long_command_step_inside(c);
		}
	} T_END;
	pool_unref(&pool);
	return finished;
}

/* -- the beginning -------------------------------------------------------- */

static void long_command_init_args(struct long_command *c)
{
	const struct client *client = c->lc.client;
	struct imap_long_command_limits limits = {
		.literal = client->set->imap_max_line_length,
		.literal_text = "NO [LIMIT] Literal is too large.",
		.total = LONG_COMMAND_MAX_ARGS_SIZE,
		.total_text = "NO [LIMIT] Command is too large."
	};

	if (c->def->limits != NULL)
		c->def->limits(&c->lc, &limits);
	c->args = long_command_args_init(&limits,
					 client->set->imap_max_line_length,
					 client->set->imap_literal_minus);
}

bool long_command_start(struct client_command_context *cmd,
			const struct long_command_reg *reg,
			const struct long_command_settings *set)
{
	struct long_command *c;
	pool_t pool;
	unsigned int i;

	pool = pool_alloconly_create("imap long command", 1024);
	c = p_new(pool, struct long_command, 1);
	c->lc.pool = pool;
	c->lc.client = cmd->client;
	c->lc.def = reg->author_def;
	c->def = &reg->def;
	c->cmd = cmd;
	c->set = *set;
	c->phase = LONG_COMMAND_PHASE_ARGS;
	for (i = 0; i < N_ELEMENTS(c->timers); i++)
		c->timers[i].cmd = c;
	DLLIST_PREPEND(&long_commands, c);
	cmd->context = c;
	cmd->func = long_command_step;
	long_command_init_args(c);
	return long_command_step(cmd);
}

/* It may have released the output, or have let core put its own I/O in the place
   of ours. */
void long_command_other_executed(struct client_command_context *cmd)
{
	struct long_command *c;

	for (c = long_commands; c != NULL; c = c->next) {
		if (c->lc.client == cmd->client && c->cmd != cmd &&
		    !cmd->client->disconnected) {
			c->reading = FALSE;
			long_command_run_later(c);
		}
	}
}
