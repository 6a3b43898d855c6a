/* doveadm metasync list, get. */

#include "doveadm-metasync.h"
#include "array.h"
#include "base64.h"
#include "buffer.h"
#include "str.h"

/* -- list ------------------------------------------------------------------ */

struct metasync_listed {
	const char *mailbox, *name;
	uint64_t modseq, size;
	bool removed;
};

struct metasync_list {
	pool_t pool;
	ARRAY(struct metasync_listed) entries;
};

static bool list_entry(const struct store_entry *entry, void *context)
{
	struct metasync_list *list = context;
	struct metasync_listed *listed = array_append_space(&list->entries);

	listed->mailbox = p_strdup(list->pool, entry->mailbox);
	listed->name = p_strdup(list->pool, entry->name);
	listed->modseq = entry->modseq;
	listed->size = entry->value_size;
	listed->removed = entry->removed;
	return TRUE;
}

static int
listed_cmp(const struct metasync_listed *l1, const struct metasync_listed *l2)
{
	int ret;

	if ((ret = strcmp(l1->mailbox, l2->mailbox)) != 0 ||
	    (ret = strcmp(l1->name, l2->name)) != 0)
		return ret;
	return l1->modseq < l2->modseq ? -1 : (l1->modseq > l2->modseq ? 1 : 0);
}

static void list_print(struct metasync_list *list)
{
	const struct metasync_listed *listed;
	unsigned int i, count;

	array_sort(&list->entries, listed_cmp);
	listed = array_get(&list->entries, &count);
	for (i = 0; i < count; i++) {
		/* what changed while it was read is there more than once */
		if (listed[i].removed ||
		    (i + 1 < count &&
		     strcmp(listed[i].mailbox, listed[i + 1].mailbox) == 0 &&
		     strcmp(listed[i].name, listed[i + 1].name) == 0))
			continue;
		doveadm_print(listed[i].mailbox);
		doveadm_print(listed[i].name);
		doveadm_print_num(listed[i].modseq);
		doveadm_print_num(listed[i].size);
	}
}

static int
cmd_list_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_cmd *cmd = (struct metasync_cmd *)ctx;
	struct metasync_cmd_filter filter;
	struct metasync_list list;
	struct store_read req;
	struct store_cursor cursor;
	struct store_error error;
	struct store *store;
	int ret;

	if (metasync_cmd_store_if_any(cmd, user, &store) < 0 ||
	    metasync_cmd_filter(cmd, user, &filter) < 0)
		return -1;
	if (store == NULL)
		return 0;
	if (store_cursor_snapshot(store, &cursor, &error) != STORE_OK)
		return metasync_cmd_failed(cmd, user, &error);

	i_zero(&req);
	req.filter = &filter.filter;
	req.without_values = TRUE;
	list.pool = pool_alloconly_create("metasync list", 16*1024);
	i_array_init(&list.entries, 128);
	ret = metasync_cmd_read(cmd, user, store, &req, &cursor, list_entry,
				NULL, &list);
	if (ret == 0)
		list_print(&list);
	array_free(&list.entries);
	pool_unref(&list.pool);
	return ret;
}

static void
cmd_list_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	metasync_cmd_selection_args((struct metasync_cmd *)ctx, args,
				    "metasync list");
	doveadm_print_header_simple("mailbox");
	doveadm_print_header_simple("entry");
	metasync_cmd_print_number_header("modseq");
	metasync_cmd_print_number_header("size");
}

static struct doveadm_mail_cmd_context *cmd_list_alloc(void)
{
	struct metasync_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_cmd);
	cmd->ctx.getopt_args = "s";
	cmd->ctx.v.parse_arg = metasync_cmd_parse_subtree;
	cmd->ctx.v.init = cmd_list_init;
	cmd->ctx.v.run = cmd_list_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_TABLE);
	return &cmd->ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_list = {
	.name = "metasync list",
	.mail_cmd = cmd_list_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-s] [<mailbox> [<entry>]]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('s', "subtree", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};

/* -- get ------------------------------------------------------------------- */

struct metasync_get_cmd {
	struct metasync_cmd cmd;
	bool base64;
};

struct metasync_get {
	/* NULL: no such entry */
	buffer_t *value;
};

static bool get_entry(const struct store_entry *entry, void *context)
{
	struct metasync_get *get = context;

	if (!entry->removed) {
		get->value = buffer_create_dynamic(default_pool,
						   entry->value_size + 1);
		buffer_append(get->value, entry->value, entry->value_size);
	}
	return TRUE;
}

static void get_print(const buffer_t *value, bool base64)
{
	string_t *str;

	if (base64) {
		str = str_new(default_pool,
			      MAX_BASE64_ENCODED_SIZE(value->used) + 1);
		base64_encode(value->data, value->used, str);
		doveadm_print(str_c(str));
		str_free(&str);
	} else if (value->used > 0 &&
		   memchr(value->data, '\0', value->used) != NULL) {
		doveadm_print_stream(value->data, value->used);
		doveadm_print_stream("", 0);
	} else {
		/* not all formatters do well with streams */
		str = str_new(default_pool, value->used + 1);
		str_append_data(str, value->data, value->used);
		doveadm_print(str_c(str));
		str_free(&str);
	}
}

static int
cmd_get_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_get_cmd *cmd = (struct metasync_get_cmd *)ctx;
	struct metasync_get get = { NULL };
	struct metasync_cmd_mailbox mailbox;
	struct store_error error;
	struct store_key key;
	struct store_pos pos;
	struct store *store;

	if (metasync_cmd_store_if_any(&cmd->cmd, user, &store) < 0 ||
	    metasync_cmd_mailbox(&cmd->cmd, user, &mailbox) < 0)
		return -1;
	key.mailbox = mailbox.name;
	key.name = cmd->cmd.entry;
	if (store != NULL &&
	    store_get(store, &key, 1, get_entry, &get, &pos,
		      &error) != STORE_OK)
		return metasync_cmd_failed(&cmd->cmd, user, &error);
	if (get.value == NULL) {
		i_error("No such entry");
		return metasync_cmd_exit(&cmd->cmd, DOVEADM_EX_NOTFOUND);
	}
	get_print(get.value, cmd->base64);
	buffer_free(&get.value);
	return 0;
}

static void
cmd_get_init(struct doveadm_mail_cmd_context *ctx, const char *const args[])
{
	struct metasync_get_cmd *cmd = (struct metasync_get_cmd *)ctx;

	if (str_array_length(args) != 2)
		doveadm_mail_help_name("metasync get");
	cmd->cmd.mailbox = p_strdup(ctx->pool, args[0]);
	metasync_cmd_entry_arg(&cmd->cmd, args[1], FALSE);
	doveadm_print_header("value", "value",
			     DOVEADM_PRINT_HEADER_FLAG_HIDE_TITLE);
}

static bool cmd_get_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_get_cmd *cmd = (struct metasync_get_cmd *)ctx;

	if (c != 'b')
		return FALSE;
	cmd->base64 = TRUE;
	return TRUE;
}

static struct doveadm_mail_cmd_context *cmd_get_alloc(void)
{
	struct metasync_get_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_get_cmd);
	cmd->cmd.ctx.getopt_args = "b";
	cmd->cmd.ctx.v.parse_arg = cmd_get_parse_arg;
	cmd->cmd.ctx.v.init = cmd_get_init;
	cmd->cmd.ctx.v.run = cmd_get_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_get = {
	.name = "metasync get",
	.mail_cmd = cmd_get_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-b] <mailbox> <entry>",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('b', "base64", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('\0', "mailbox", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAM('\0', "entry", CMD_PARAM_STR, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};
