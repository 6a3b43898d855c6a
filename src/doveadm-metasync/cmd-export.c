/* doveadm metasync export: one JSON object a line, in the order of modseq.

   {"mailbox":"Work","entry":"/private/x","modseq":7,"value":"text"}
   "base64" instead of "value" if the value is not UTF-8 or has NULs;
   "removed":true for a removed entry; "user" first if there may be several.

   The lines are the output, whatever the number of users: a column with the
   user's name, as other commands have it, would be in the way of what reads
   JSON. So doveadm's own column for it, which cannot be avoided, is the one
   that the line goes into. */

#include "doveadm-metasync.h"
#include "base64.h"
#include "json-parser.h"
#include "str.h"
#include "unichar.h"

/* Collected in one read transaction. */
#define EXPORT_READ_SIZE (256*1024)

struct metasync_export_cmd {
	struct metasync_cmd cmd;
	bool removed;
};

struct metasync_export {
	/* NULL: not told */
	const char *username;
	/* lines that each end with a NUL */
	string_t *lines;
};

static void
export_string(string_t *str, const char *key, const char *value, size_t size)
{
	str_printfa(str, "\"%s\":\"", key);
	json_append_escaped_data(str, (const unsigned char *)value, size);
	str_append(str, "\",");
}

static void
export_value(string_t *str, const unsigned char *value, size_t size)
{
	if ((size > 0 && memchr(value, '\0', size) != NULL) ||
	    !uni_utf8_data_is_valid(value, size)) {
		str_append(str, "\"base64\":\"");
		base64_encode(value, size, str);
		str_append_c(str, '"');
	} else {
		str_append(str, "\"value\":\"");
		json_append_escaped_data(str, value, size);
		str_append_c(str, '"');
	}
}

static bool export_entry(const struct store_entry *entry, void *context)
{
	struct metasync_export *export = context;
	string_t *str = export->lines;

	str_append_c(str, '{');
	if (export->username != NULL) {
		export_string(str, "user", export->username,
			      strlen(export->username));
	}
	export_string(str, "mailbox", entry->mailbox, strlen(entry->mailbox));
	export_string(str, "entry", entry->name, strlen(entry->name));
	str_printfa(str, "\"modseq\":%"PRIu64",", entry->modseq);
	if (entry->removed)
		str_append(str, "\"removed\":true");
	else
		export_value(str, entry->value, entry->value_size);
	str_append_c(str, '}');
	str_append_c(str, '\0');
	return str_len(str) < EXPORT_READ_SIZE;
}

static void export_flush(void *context)
{
	struct metasync_export *export = context;
	const char *line = str_c(export->lines);
	const char *end = line + str_len(export->lines);

	for (; line != end; line += strlen(line) + 1)
		doveadm_print(line);
	str_truncate(export->lines, 0);
}

static int
export_user(struct metasync_export_cmd *cmd, struct mail_user *user,
	    struct store *store, const struct store_filter *filter)
{
	struct metasync_export export;
	struct store_cursor cursor;
	struct store_state state;
	struct store_error error;
	struct store_read req;
	int ret;

	if (store_cursor_snapshot(store, &cursor, &error) != STORE_OK ||
	    store_get_state(store, &state, &error) != STORE_OK)
		return metasync_cmd_failed(&cmd->cmd, user, &error);
	if (cmd->removed) {
		/* all that are remembered */
		cursor.tombstones_after = state.floor;
	}
	i_zero(&req);
	req.filter = filter;
	req.max_value_size = UINT64_MAX;

	export.username = cmd->cmd.ctx.iterate_single_user &&
		!cmd->cmd.ctx.add_username_header ? NULL : user->username;
	export.lines = str_new(default_pool, EXPORT_READ_SIZE);
	/* A removal meanwhile comes as such, also if it is not asked for: the
	   entry may have been written already. */
	ret = metasync_cmd_read(&cmd->cmd, user, store, &req, &cursor,
				export_entry, export_flush, &export);
	str_free(&export.lines);
	return ret;
}

static int
cmd_export_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_export_cmd *cmd = (struct metasync_export_cmd *)ctx;
	struct metasync_cmd_filter filter;
	struct store *store;

	if (metasync_cmd_store_if_any(&cmd->cmd, user, &store) < 0 ||
	    metasync_cmd_filter(&cmd->cmd, user, &filter) < 0)
		return -1;
	if (store == NULL)
		return 0;
	return export_user(cmd, user, store, &filter.filter);
}

static void
cmd_export_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	metasync_cmd_selection_args((struct metasync_cmd *)ctx, args,
				    "metasync export");
	switch (ctx->cctx->conn_type) {
	case DOVEADM_CONNECTION_TYPE_CLI:
		if (doveadm_print_is_initialized()) {
			i_fatal_status(EX_USAGE, "metasync export has a format "
				       "of its own: -f cannot be used");
		}
		doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
		doveadm_print_header("username", "",
				     DOVEADM_PRINT_HEADER_FLAG_HIDE_TITLE);
		break;
	case DOVEADM_CONNECTION_TYPE_TCP:
		doveadm_print_header_simple("line");
		doveadm_print_unstick_headers();
		break;
	case DOVEADM_CONNECTION_TYPE_HTTP:
		doveadm_print_header_simple("line");
		break;
	}
}

static bool cmd_export_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_export_cmd *cmd = (struct metasync_export_cmd *)ctx;

	if (c != 'r')
		return metasync_cmd_parse_subtree(ctx, c);
	cmd->removed = TRUE;
	return TRUE;
}

static struct doveadm_mail_cmd_context *cmd_export_alloc(void)
{
	struct metasync_export_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_export_cmd);
	cmd->cmd.ctx.getopt_args = "rs";
	cmd->cmd.ctx.v.parse_arg = cmd_export_parse_arg;
	cmd->cmd.ctx.v.init = cmd_export_init;
	cmd->cmd.ctx.v.run = cmd_export_run;
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_export = {
	.name = "metasync export",
	.mail_cmd = cmd_export_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-r] [-s] "
		 "[<mailbox> [<entry>]]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('r', "removed", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('s', "subtree", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};
