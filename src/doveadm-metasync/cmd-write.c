/* doveadm metasync set, unset. */

#include "doveadm-metasync.h"
#include "buffer.h"
#include "istream.h"
#include "strnum.h"

struct metasync_write_cmd {
	struct metasync_cmd cmd;

	const char *since;
	struct store_condition condition;
	/* the condition's modseq is of the store's present epoch */
	bool any_epoch;

	bool unset;
	/* NULL: it comes from cmd_input */
	const char *value;
};

/* "0", "MODSEQ" or "EPOCH:MODSEQ" */
static int write_parse_since(struct metasync_write_cmd *cmd)
{
	struct store_condition *condition = &cmd->condition;
	const char *modseq = strchr(cmd->since, ':');
	uint64_t num;

	if (strcmp(cmd->since, "0") == 0) {
		condition->type = STORE_IF_ABSENT;
		return 0;
	}
	condition->type = STORE_IF_UNCHANGED_SINCE;
	if (modseq == NULL) {
		cmd->any_epoch = TRUE;
		modseq = cmd->since;
	} else {
		if (str_to_uint64(t_strdup_until(cmd->since, modseq),
				  &num) < 0 || num == 0 || num > UINT32_MAX)
			return -1;
		condition->pos.epoch = num;
		modseq++;
	}
	if (str_to_uint64(modseq, &num) < 0 || num == 0 || num > INT64_MAX)
		return -1;
	condition->pos.modseq = num;
	return 0;
}

/* A value that is larger than the limit is not read to its end. */
static int
write_read_value(struct metasync_write_cmd *cmd, struct mail_user *user,
		 buffer_t *value)
{
	struct istream *input = cmd->cmd.ctx.cmd_input;
	uint64_t limit = metasync_user_limits(user)->value;
	struct store_error error = { .status = STORE_VALUE_TOO_BIG };
	const unsigned char *data;
	size_t size;

	while (i_stream_read_more(input, &data, &size) > 0) {
		buffer_append(value, data, size);
		i_stream_skip(input, size);
		if (value->used > limit)
			return metasync_cmd_failed(&cmd->cmd, user, &error);
	}
	if (input->stream_errno != 0) {
		i_error("read(%s) failed: %s", i_stream_get_name(input),
			i_stream_get_error(input));
		return metasync_cmd_exit(&cmd->cmd, EX_TEMPFAIL);
	}
	return 0;
}

static int
write_apply(struct metasync_write_cmd *cmd, struct mail_user *user,
	    struct store *store, const struct metasync_cmd_mailbox *mailbox,
	    const void *value, size_t value_size)
{
	struct store_change change;
	struct store_state state;
	struct store_error error;
	struct store_pos pos;

	i_zero(&change);
	change.mailbox = mailbox->name;
	change.mailbox_guid = mailbox->guid;
	change.name = cmd->cmd.entry;
	change.value = value;
	change.value_size = value_size;

	if (cmd->any_epoch) {
		if (store_get_state(store, &state, &error) != STORE_OK)
			return metasync_cmd_failed(&cmd->cmd, user, &error);
		cmd->condition.pos.epoch = state.pos.epoch;
		if (cmd->condition.pos.modseq > state.pos.modseq) {
			/* A typing error, and no proof that the store is an
			   older copy. */
			error.status = STORE_RESET;
			return metasync_cmd_failed(&cmd->cmd, user, &error);
		}
	}
	if (metasync_apply(user, store, &change, 1, &cmd->condition, TRUE,
			   &pos, NULL, &error) != STORE_OK)
		return metasync_cmd_failed(&cmd->cmd, user, &error);
	/* doveadm does not get back to its I/O loop */
	store_idle(store);
	return 0;
}

static int
write_user(struct metasync_write_cmd *cmd, struct mail_user *user,
	   buffer_t *value)
{
	struct metasync_cmd_mailbox mailbox;
	struct store *store;

	if (cmd->unset) {
		if (metasync_cmd_store_if_any(&cmd->cmd, user, &store) < 0)
			return -1;
	} else if (metasync_cmd_store(&cmd->cmd, user, &store) < 0)
		return -1;
	if (metasync_cmd_mailbox(&cmd->cmd, user, &mailbox) < 0)
		return -1;
	if (metasync_entry_is_reserved(mailbox.name, cmd->cmd.entry)) {
		i_error("Dovecot itself has this entry: it cannot be set");
		return metasync_cmd_exit(&cmd->cmd, DOVEADM_EX_NOTPOSSIBLE);
	}
	if (cmd->unset) {
		return store == NULL ? 0 :
			write_apply(cmd, user, store, &mailbox, NULL, 0);
	}
	if (cmd->value != NULL)
		buffer_append(value, cmd->value, strlen(cmd->value));
	else if (write_read_value(cmd, user, value) < 0)
		return -1;
	return write_apply(cmd, user, store, &mailbox, value->data,
			   value->used);
}

static int
cmd_write_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_write_cmd *cmd = (struct metasync_write_cmd *)ctx;
	/* data of an empty buffer is not NULL if it has been allocated */
	buffer_t *value = buffer_create_dynamic(default_pool, 1024);
	int ret;

	ret = write_user(cmd, user, value);
	buffer_free(&value);
	return ret;
}

static void
write_init(struct metasync_write_cmd *cmd, const char *const args[])
{
	cmd->cmd.mailbox = p_strdup(cmd->cmd.ctx.pool, args[0]);
	metasync_cmd_entry_arg(&cmd->cmd, args[1], FALSE);
	if (cmd->since != NULL && write_parse_since(cmd) < 0) {
		i_fatal_status(EX_USAGE, "-c: Must be 0, a modseq, or "
			       "epoch:modseq, not %s", cmd->since);
	}
}

static void
cmd_set_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	struct metasync_write_cmd *cmd = (struct metasync_write_cmd *)ctx;
	unsigned int count = str_array_length(args);
	/* doveadm-server gets the file as its input and not by name */
	bool file = ctx->cmd_input != NULL ||
		ctx->cctx->conn_type != DOVEADM_CONNECTION_TYPE_CLI;

	if (count != 3 && (count != 2 || !file))
		doveadm_mail_help_name("metasync set");
	if (count == 3 && ctx->cmd_input != NULL) {
		i_fatal_status(EX_USAGE,
			       "Give either a value or -f, not both");
	}
	write_init(cmd, args);
	if (count == 3 && strcmp(args[2], "-") != 0)
		cmd->value = p_strdup(ctx->pool, args[2]);
	else
		metasync_cmd_input(&cmd->cmd);
}

static void
cmd_unset_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	struct metasync_write_cmd *cmd = (struct metasync_write_cmd *)ctx;

	if (str_array_length(args) != 2)
		doveadm_mail_help_name("metasync unset");
	cmd->unset = TRUE;
	write_init(cmd, args);
}

static bool cmd_write_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_write_cmd *cmd = (struct metasync_write_cmd *)ctx;

	if (c != 'c')
		return FALSE;
	cmd->since = p_strdup(ctx->pool, optarg);
	return TRUE;
}

static struct doveadm_mail_cmd_context *
write_alloc(void (*init)(struct doveadm_mail_cmd_context *ctx,
			 const char *const args[]))
{
	struct metasync_write_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_write_cmd);
	cmd->cmd.ctx.getopt_args = "c:";
	cmd->cmd.ctx.v.parse_arg = cmd_write_parse_arg;
	cmd->cmd.ctx.v.init = init;
	cmd->cmd.ctx.v.run = cmd_write_run;
	return &cmd->cmd.ctx;
}

static struct doveadm_mail_cmd_context *cmd_set_alloc(void)
{
	return write_alloc(cmd_set_init);
}

static struct doveadm_mail_cmd_context *cmd_unset_alloc(void)
{
	return write_alloc(cmd_unset_init);
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_set = {
	.name = "metasync set",
	.mail_cmd = cmd_set_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-c <unchanged since>] "
		 "<mailbox> <entry> <value>|-|-f <file>",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('c', "unchanged-since", CMD_PARAM_STR, 0)
DOVEADM_CMD_PARAM('f', "file", CMD_PARAM_ISTREAM, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "value", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};

struct doveadm_cmd_ver2 doveadm_metasync_cmd_unset = {
	.name = "metasync unset",
	.mail_cmd = cmd_unset_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-c <unchanged since>] "
		 "<mailbox> <entry>",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('c', "unchanged-since", CMD_PARAM_STR, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};
