/* doveadm metasync watch: one line for each change, as it comes. */

#include "doveadm-metasync.h"
#include "array.h"
#include "ioloop.h"
#include "lib-signals.h"
#include "ostream.h"
#include "strnum.h"

#include <sysexits.h>

/* The wake file may have been replaced, and a writer may have been killed before
   it could wake anybody. */
#define WATCH_CHECK_MSECS (5*1000)
/* Without inotify. */
#define WATCH_POLL_MSECS 1000
/* Collected in one read transaction. */
#define WATCH_READ_MAX 1000

struct metasync_change {
	const char *mailbox, *name;
	uint64_t modseq, size;
	bool removed;
};

struct metasync_watch_cmd {
	struct metasync_cmd cmd;
	/* 0: without end */
	uint64_t count;

	struct mail_user *user;
	struct metasync_cmd_filter filter;
	struct store_cursor cursor;
	pool_t pool;
	ARRAY(struct metasync_change) changes;

	struct ioloop *ioloop;
	struct io *io;
	struct timeout *to;
	bool warned;
	int ret;
};

static void watch_end(struct metasync_watch_cmd *cmd, int ret)
{
	cmd->ret = ret;
	io_loop_stop(cmd->ioloop);
}

/* -- changes --------------------------------------------------------------- */

static bool watch_entry(const struct store_entry *entry, void *context)
{
	struct metasync_watch_cmd *cmd = context;
	struct metasync_change *change = array_append_space(&cmd->changes);

	change->mailbox = p_strdup(cmd->pool, entry->mailbox);
	change->name = p_strdup(cmd->pool, entry->name);
	change->modseq = entry->modseq;
	change->size = entry->value_size;
	change->removed = entry->removed;
	return array_count(&cmd->changes) < WATCH_READ_MAX;
}

/* Returns FALSE if it was the last one. */
static bool
watch_print(struct metasync_watch_cmd *cmd, const struct metasync_change *change)
{
	doveadm_print_num(change->modseq);
	doveadm_print(change->mailbox);
	doveadm_print(change->name);
	doveadm_print(change->removed ? "removed" : "set");
	doveadm_print_num(change->size);
	return cmd->count == 0 || --cmd->count > 0;
}

/* Returns FALSE if there is nobody to write for any more. */
static bool watch_flush(struct metasync_watch_cmd *cmd)
{
	const struct metasync_change *change;
	bool more = TRUE;

	array_foreach(&cmd->changes, change) {
		more = watch_print(cmd, change);
		if (!more)
			break;
	}
	array_clear(&cmd->changes);
	p_clear(cmd->pool);
	/* Not doveadm_print_flush(): with it JSON ends. */
	o_stream_uncork(doveadm_print_ostream);
	o_stream_cork(doveadm_print_ostream);
	return more && !doveadm_print_ostream->closed &&
		doveadm_print_ostream->stream_errno == 0;
}

static int watch_start(struct metasync_watch_cmd *cmd, struct store *store)
{
	struct store_state state;
	struct store_error error;

	if (store_get_state(store, &state, &error) != STORE_OK ||
	    store_cursor_since(store, &state.pos, &cmd->cursor,
			       &error) != STORE_OK)
		return metasync_cmd_failed(&cmd->cmd, cmd->user, &error);
	return 0;
}

/* Reads on. Returns 1 to go on, 0 at the end, -1 on an error. */
static int watch_read(struct metasync_watch_cmd *cmd)
{
	struct store_error error;
	struct store_state state;
	struct store_read req;
	struct store *store;
	bool more = TRUE;

	/* opens it again if it was replaced */
	if (metasync_cmd_store(&cmd->cmd, cmd->user, &store) < 0)
		return -1;
	i_zero(&req);
	req.filter = &cmd->filter.filter;
	req.without_values = TRUE;
	while (more) {
		switch (store_read(store, &req, &cmd->cursor, watch_entry, cmd,
				   &state, &more, &error)) {
		case STORE_OK:
			break;
		case STORE_RESET:
			i_warning("metasync: The store got a new epoch: what "
				  "changed before it may be missing");
			if (watch_start(cmd, store) < 0)
				return -1;
			break;
		case STORE_BUSY:
			/* at the next look */
			return 1;
		default:
			return metasync_cmd_failed(&cmd->cmd, cmd->user,
						   &error);
		}
		if (!watch_flush(cmd))
			return 0;
	}
	return 1;
}

/* -- waiting --------------------------------------------------------------- */

static void watch_event(struct metasync_watch_cmd *cmd)
{
	int ret;

	T_BEGIN {
		ret = watch_read(cmd);
	} T_END;
	if (ret <= 0)
		watch_end(cmd, ret);
}

static void watch_look(struct metasync_watch_cmd *cmd)
{
	enum io_notify_result result;
	struct store_error error;
	struct store *store;

	/* first this, then reading: nothing is lost in between */
	io_remove(&cmd->io);
	timeout_remove(&cmd->to);
	if (metasync_user_store(cmd->user, &store, &error) == 0) {
		result = io_add_notify(store_get_wake_path(store), watch_event,
				       cmd, &cmd->io);
		if (result == IO_NOTIFY_NOSUPPORT && !cmd->warned) {
			cmd->warned = TRUE;
			i_warning("metasync: No inotify watch: looking once a "
				  "second instead (see "
				  "fs.inotify.max_user_instances and "
				  "max_user_watches)");
		}
	}
	cmd->to = timeout_add(cmd->io == NULL ? WATCH_POLL_MSECS :
			      WATCH_CHECK_MSECS, watch_look, cmd);
	watch_event(cmd);
}

static void watch_signal(const siginfo_t *si ATTR_UNUSED, void *context)
{
	struct metasync_watch_cmd *cmd = context;

	watch_end(cmd, 0);
}

static void watch_loop(struct metasync_watch_cmd *cmd)
{
	const enum libsig_flags flags =
		LIBSIG_FLAGS_SAFE | LIBSIG_FLAG_IOLOOP_AUTOMOVE;

	cmd->ioloop = io_loop_create();
	/* doveadm's own handlers only note the signal, and would let the loop
	   sleep on */
	lib_signals_set_handler(SIGINT, flags, watch_signal, cmd);
	lib_signals_set_handler(SIGTERM, flags, watch_signal, cmd);
	cmd->to = timeout_add_short(0, watch_look, cmd);
	if (!doveadm_is_killed())
		io_loop_run(cmd->ioloop);
	io_remove(&cmd->io);
	timeout_remove(&cmd->to);
	lib_signals_unset_handler(SIGINT, watch_signal, cmd);
	lib_signals_unset_handler(SIGTERM, watch_signal, cmd);
	io_loop_destroy(&cmd->ioloop);
}

static int
cmd_watch_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_watch_cmd *cmd = (struct metasync_watch_cmd *)ctx;
	struct store *store;

	if (metasync_cmd_store(&cmd->cmd, user, &store) < 0 ||
	    metasync_cmd_filter(&cmd->cmd, user, &cmd->filter) < 0)
		return -1;
	cmd->user = user;
	if (watch_start(cmd, store) < 0)
		return -1;
	cmd->pool = pool_alloconly_create("metasync watch", 1024);
	i_array_init(&cmd->changes, 16);
	watch_loop(cmd);
	array_free(&cmd->changes);
	pool_unref(&cmd->pool);
	return cmd->ret;
}

static void
cmd_watch_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	metasync_cmd_selection_args((struct metasync_cmd *)ctx, args,
				    "metasync watch");
	if (!ctx->iterate_single_user) {
		i_fatal_status(EX_USAGE,
			       "metasync watch works for one user only");
	}
	metasync_cmd_print_number_header("modseq");
	doveadm_print_header_simple("mailbox");
	doveadm_print_header_simple("entry");
	doveadm_print_header_simple("change");
	metasync_cmd_print_number_header("size");
}

static bool cmd_watch_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_watch_cmd *cmd = (struct metasync_watch_cmd *)ctx;

	if (c != 'n')
		return metasync_cmd_parse_subtree(ctx, c);
	if (str_to_uint64(optarg, &cmd->count) < 0 || cmd->count == 0) {
		i_fatal_status(EX_USAGE, "-n: Must be a number above 0, "
			       "not %s", optarg);
	}
	return TRUE;
}

static struct doveadm_mail_cmd_context *cmd_watch_alloc(void)
{
	struct metasync_watch_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_watch_cmd);
	cmd->cmd.ctx.getopt_args = "n:s";
	cmd->cmd.ctx.v.parse_arg = cmd_watch_parse_arg;
	cmd->cmd.ctx.v.init = cmd_watch_init;
	cmd->cmd.ctx.v.run = cmd_watch_run;
	/* a table would wait for more lines */
	doveadm_print_init(DOVEADM_PRINT_TYPE_TAB);
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_watch = {
	.name = "metasync watch",
	.mail_cmd = cmd_watch_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-n <count>] [-s] "
		 "[<mailbox> [<entry>]]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('n', "count", CMD_PARAM_STR, 0)
DOVEADM_CMD_PARAM('s', "subtree", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};
